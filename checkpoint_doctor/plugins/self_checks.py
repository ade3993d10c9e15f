"""The rules about ckdoc itself: a rule that crashed, an ignore that nothing needs any more, a plugin that is broken.

They are declared as rules, so that they are listed, explained, selected and configured like all others. But they are
not run on checkpoints: the code that notices the problem builds the finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule, rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import describe_error


@rule("CKD001", "rule-crashed", Severity.WARNING, on=Checkpoint, part=("rule",))
def rule_crashed(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A rule raised an exception, so this checkpoint was not examined for what the rule looks for.

    Why it matters:
        The other rules ran and their findings stand, but nobody looked for the illness that the crashed rule finds. So
        the verdict is ``incomplete`` where nothing else makes the checkpoint ill, and the exit code is 2.

    When it is normal:
        Never. The rule has a bug, or it meets a kind of checkpoint that its author did not think of.

    What to do:
        Report it to the package that the finding names, with the exception. Until it is fixed, switch the rule off:
        ``severity.CODE = "off"`` in the configuration, or ``--ignore CODE``. This finding itself cannot be hidden.

    References:
        docs/plugins.md of this project says what a rule may do.
    """
    return iter(())


@rule("CKD002", "unused-ignore", Severity.NOTE, on=Checkpoint, part=("file", "key", "path", "code", "subject"))
def unused_ignore(checkpoint: Checkpoint) -> Iterator[Finding]:
    """An ignore in the configuration, or an entry of the baseline, matched nothing in this run.

    Why it matters:
        An exception that nothing needs any more hides the next illness of its kind, which nobody decided to accept.

    When it is normal:
        While a team moves to a new series of checkpoints and keeps the old entries for the next comparison. Entries for
        files that were not part of the run, or for rules that were not run, are not reported. A path is reported where
        it leads into a folder that was searched, or to a place that does not exist: it may be mistyped.

    What to do:
        Remove the entry or correct its path, or write the baseline anew with ``--write-baseline``.

    References:
        docs/ci.md of this project, on exceptions with a reason and on baselines.
    """
    return iter(())


@rule("CKD003", "plugin-left-out", Severity.WARNING, on=Checkpoint, part=("package", "group", "entry"))
def plugin_left_out(checkpoint: Checkpoint) -> Iterator[Finding]:
    """An installed loader, rule or cause is broken, so this run did not look with it.

    Why it matters:
        What was installed to guard a pipeline does not guard it. The rest ran and its findings stand, but the exit code
        is 2, since nobody looked for what the broken part finds, or read the files that it reads.

    When it is normal:
        Never.

    What to do:
        Update or uninstall the package that the finding names; ``ckdoc plugins`` lists all that is installed. This
        finding itself cannot be hidden.

    References:
        docs/plugins.md of this project says what a plugin must have.
    """
    return iter(())


RULES: tuple[Rule, ...] = (rule_crashed, unused_ignore, plugin_left_out)
"""The rules of ckdoc itself, which need no entry point."""


def report_crash(crashed: Rule | Cause, error: BaseException) -> Finding:
    """Build the finding about a rule or a cause that raised an exception on a checkpoint."""
    what = f"rule {crashed.code} ({crashed.name})" if isinstance(crashed, Rule) else f"cause {crashed.name}"
    return rule_crashed.finding(
        f"{what} of the package {crashed.package} crashed with {describe_error(error)}",
        evidence={
            "rule": crashed.code if isinstance(crashed, Rule) else crashed.name,
            "package": crashed.package,
            "exception": type(error).__name__,
        },
    )


def report_failure(message: str, what: str) -> Finding:
    """Build the finding about another part of a plugin that failed at a checkpoint which the others examined."""
    return rule_crashed.finding(message, evidence={"rule": what})


def report_unused(entry: str, file: str, evidence: Mapping[str, Any], step: str = "and can be removed") -> Finding:
    """Build the finding about an ignore or a baseline entry of a file that nothing needed, and the step to take."""
    return unused_ignore.finding(f"{file}: {entry} matched nothing {step}", evidence={"file": file, **evidence})


def report_left_out(group: str, entry: str, package: str, problem: str) -> Finding:
    """Build the finding about a plugin that cannot be used."""
    noun = group.rpartition(".")[2].removesuffix("s")
    return plugin_left_out.finding(
        f"the {noun} {entry} of the package {package} is left out: {problem}",
        evidence={"package": package, "group": group, "entry": entry},
        advice=f"Update or uninstall {package}.",
    )
