"""Runs a single rule, and checks its declaration and its findings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from checkpoint_doctor.checkpoint import Checkpoint, Series
from checkpoint_doctor.plugins.explanation import explain_rule
from checkpoint_doctor.plugins.rule import SECTIONS, Rule, is_plain_option
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.identity import identify
from checkpoint_doctor.testing.declarations import find_invalid_values, judge_docstring


def findings_of(rule: Rule, checkpoint: Checkpoint | Series, **options: Any) -> list[Finding]:
    """Run a rule on a checkpoint or a series, with these options instead of its defaults, and return its findings.

    Raises:
        AssertionError: the rule has no such option, or a finding is invalid: it names or repairs a tensor or layer that
            the checkpoint does not have, it is worse than the rule's ``worst``, its evidence is not plain JSON, or it
            has the same identity as another one.
    """
    unknown = sorted(options.keys() - rule.options.keys())
    assert not unknown, f"{rule.code} has no option {unknown[0]!r}; it has {', '.join(rule.options) or 'none'}"
    findings = list(rule.examine(checkpoint, options))
    problems = [problem for finding in findings for problem in _judge_finding(finding, rule, checkpoint)]
    problems += _judge_identities(findings)
    assert not problems, f"{rule.code} {rule.name}: {'; '.join(problems)}"
    return findings


def check_rule(rule: Rule) -> None:
    """Check a rule's declaration, from which its documentation and its configuration are derived.

    Its docstring must begin with one sentence about what it finds (at most 120 characters, ending in a full stop),
    followed by the sections *Why it matters*, *When it is normal*, *What to do* and *References*, in this order. Its
    options must be keyword-only, with plain defaults (a number, a string, a boolean, a tuple of these). Its first
    argument must be its subject, and the only other positional argument the checkpoint. A section *Options* before the
    references says what each option means (``name: what it is``); a warning names those that it leaves out.

    Raises:
        AssertionError: the declaration is invalid; the message lists everything that is missing or wrong.
    """
    problems = list(_judge_declaration(rule))
    assert not problems, f"{rule.code} {rule.name}: {'; '.join(problems)}"
    undescribed = [name for name in rule.options if not rule.option_descriptions.get(name)]
    if undescribed:
        warnings.warn(
            f"{rule.code} {rule.name}: the docstring does not say what the option {undescribed[0]} means; add "
            f"'{undescribed[0]}: …' to a section 'Options:' before 'References:'",
            stacklevel=2,
        )


def _judge_declaration(rule: Rule) -> Iterator[str]:
    import inspect

    yield from judge_docstring(rule.summary, rule.sections, SECTIONS)
    parameters = list(inspect.signature(rule.check).parameters.values())
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        yield "it takes *args or **kwargs; name its options"
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if not 1 <= len(positional) <= 2:
        yield f"it takes {len(positional)} positional arguments; only its subject and the checkpoint are allowed"
    for name, default in rule.options.items():
        if not is_plain_option(default):
            yield f"the default of option {name} is not a value that a configuration file can have"
    if unknown := sorted(rule.option_descriptions.keys() - rule.options.keys()):
        yield f"the docstring describes the option {unknown[0]!r}, which the rule does not have"
    if rule.code not in explain_rule(rule):
        yield "its explanation does not contain its code"


def _judge_finding(finding: Finding, rule: Rule, checkpoint: Checkpoint | Series) -> Iterator[str]:
    if (finding.code, finding.name) != (rule.code, rule.name):
        yield f"a finding has the code {finding.code} {finding.name}: build it with {rule.check.__name__}.finding(…)"
    if not finding.message.strip() or "\n" in finding.message:
        yield f"the message {finding.message!r} is not one line of text"
    if finding.severity > (rule.worst or rule.severity):
        yield f"a finding has the severity {finding.severity.label}: declare worst=Severity.{finding.severity.name}"
    if finding.tensor is not None and finding.tensor not in checkpoint.by_name:
        yield f"a finding is about the tensor {finding.tensor!r}, which the checkpoint does not have"
    for place in find_invalid_values(finding.evidence, "evidence"):
        yield f"{place} is not a plain JSON value"
    if isinstance(checkpoint, Series):
        if finding.evidence.get("onset_path") not in {point.path for point in checkpoint.points}:
            yield "a finding does not say at which checkpoint it began: add series.place(position) to its evidence"
        if finding.repairs:
            yield "a finding about a series carries repairs"
        return
    if finding.layer is not None and finding.layer not in checkpoint.layer_by_name:
        yield f"a finding is about the layer {finding.layer!r}, which the checkpoint does not have"
    moments = (
        tensor.name
        for optimizer in checkpoint.optimizers
        for held in optimizer.parameters
        for tensor in held.state.values()
    )
    known = {*checkpoint.by_name, *moments} if finding.repairs else set()
    unknown = [each.tensor for each in finding.repairs if each.tensor not in known]
    if unknown:
        yield f"a repair is for the tensor {unknown[0]!r}, which the checkpoint does not have"
    if finding.repairs and rule.fix is None:
        yield "a finding carries repairs, but the rule is declared without fix="


def _judge_identities(findings: Sequence[Finding]) -> Iterator[str]:
    from collections import Counter

    for key, count in Counter(map(identify, findings)).items():
        if count > 1:
            yield f"{count} findings are identical to a baseline ({key}): declare part= with evidence that differs"
