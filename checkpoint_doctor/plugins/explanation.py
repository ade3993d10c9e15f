"""A rule or a cause explained, derived from its declaration: for ``ckdoc explain`` and for the pages of the docs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from functools import cache

from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import SECTIONS, Rule
from checkpoint_doctor.results.diagnosis import Prognosis
from checkpoint_doctor.results.findings import Safety

FAMILIES = {
    "FIL": "the file",
    "GRD": "gradients of a running training loop",
    "VAL": "values",
    "ZER": "zeros and bias collapse",
    "NRM": "normalisation layers",
    "RNN": "recurrent gates",
    "NET": "weights as a network",
    "INP": "the model's inputs",
    "OPT": "optimizer state",
    "RES": "what a run needs to go on",
    "HYP": "hyperparameters",
    "POL": "the reinforcement learning policy",
    "TRD": "a series of checkpoints",
    "LOG": "training logs",
    "CKD": "ckdoc itself",
}
"""What the three letters of a code stand for."""

_PREVIEW = " · **in preview**: shown, and counted only with `--preview`"

_OPTIONS = "The defaults, as `ckdoc.toml` takes them. In `pyproject.toml` the table begins with `tool.ckdoc.`"

_FIXES = {
    Safety.SAFE: "`ckdoc fix` repairs it",
    Safety.ON_REQUEST: "`ckdoc fix --recycle` repairs it",
    Safety.UNSAFE: "`ckdoc fix --unsafe` repairs it, and the old values are lost",
}


@cache
def find_docs() -> str | None:
    """Return the address of the docs without a slash at its end, if the installed package names one."""
    from importlib.metadata import metadata

    urls = dict(entry.split(", ", 1) for entry in metadata("checkpoint-doctor").get_all("Project-URL") or ())
    return urls["Documentation"].rstrip("/") if "Documentation" in urls else None


def name_family(rule: Rule) -> str:
    """Return what the three letters of a rule's code stand for; the letters themselves for a plugin's family."""
    return FAMILIES.get(rule.family, rule.family)


def describe_repair(rule: Rule) -> str:
    """Return in Markdown whether ``ckdoc fix`` can repair what a rule finds, and with which option."""
    return _FIXES[rule.fix] if rule.fix else "none"


def describe_severity(rule: Rule) -> str:
    """Return a rule's severity, and how far its findings can rise: ``note, up to error``."""
    return rule.severity.label + (f", up to {rule.worst.label}" if rule.worst else "")


def explain_rule(rule: Rule) -> str:
    """Return a rule's explanation as Markdown: identity, sections, options with their defaults."""
    lines = [
        f"# {rule.code} {rule.name}",
        "",
        rule.summary,
        "",
        f"**Severity** {describe_severity(rule)}{_PREVIEW if rule.preview else ''} · **Family** {name_family(rule)} · "
        f"**Repair** {describe_repair(rule)} · **Package** {rule.package}",
    ]
    for heading in SECTIONS:
        if heading in rule.sections:
            lines += ["", f"## {heading}", "", rule.sections[heading]]
    if rule.options:
        lines += ["", "## Options", "", _OPTIONS, "", "```toml", f"[options.{rule.code}]", *_list_options(rule), "```"]
    return "\n".join(lines) + "\n"


def _list_options(rule: Rule) -> Iterator[str]:
    for name, default in rule.options.items():
        yield from textwrap.wrap(
            rule.option_descriptions.get(name, ""), width=118, initial_indent="# ", subsequent_indent="# "
        )
        yield f"{_spell(name)} = {_as_toml(default)}"


def explain_index(rules: Iterable[Rule]) -> str:
    """Return the catalogue as one Markdown page that links to the page of each rule."""
    rules = sorted(rules, key=lambda each: each.code)
    lines = ["# Rules", "", "What ckdoc looks for. `ckdoc explain CODE` prints the same pages."]
    for family in dict.fromkeys([*FAMILIES, *(rule.family for rule in rules)]):
        members = [rule for rule in rules if rule.family == family]
        if members:
            lines += ["", f"## {family}: {name_family(members[0])}", ""]
            lines += ["| code | name | severity | finds |", "|---|---|---|---|"]
        lines += [
            f"| [{each.code}]({each.code}.md) | {each.name} | {describe_severity(each)} | {each.summary} |"
            for each in members
        ]
    return "\n".join(lines) + "\n"


PROGNOSES = {
    Prognosis.CURED: "`ckdoc fix` cures it",
    Prognosis.RELIEVED: "`ckdoc fix` relieves it; the cause remains in code or data",
    Prognosis.POINTLESS: "`ckdoc fix` cannot help; the cause is in code or data",
}
"""What ``ckdoc fix`` can do about a cause, in Markdown."""


def explain_cause(cause: Cause) -> str:
    """Return a cause's explanation as Markdown: what it is, how it is known, what else it could be, what to do."""
    lines = [
        f"# {cause.name}",
        "",
        cause.summary,
        "",
        f"**Repair** {PROGNOSES[cause.prognosis]} · **Package** {cause.package}{_PREVIEW if cause.preview else ''}",
    ]
    for heading, body in cause.sections.items():
        lines += ["", f"## {heading}", "", body]
    return "\n".join(lines) + "\n"


def explain_causes(causes: Iterable[Cause]) -> str:
    """Return all causes as one Markdown page that links to the page of each."""
    lines = ["# Causes", "", "What ckdoc can diagnose. `ckdoc explain CAUSE` prints the same pages.", ""]
    lines += ["| cause | is | repair |", "|---|---|---|"]
    lines += [
        f"| [{each.name}]({each.name}.md) | {each.summary} | {each.prognosis.value} |"
        for each in sorted(causes, key=lambda each: each.name)
    ]
    return "\n".join(lines) + "\n"


def _spell(option: str) -> str:
    return option.replace("_", "-")


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_as_toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
