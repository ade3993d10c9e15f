"""A rule explained, derived from its declaration: for ``ckdoc explain`` and for the pages under ``docs/rules``."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_doctor.model import Safety
from checkpoint_doctor.rule import SECTIONS, Rule

FAMILIES = {
    "FIL": "the file",
    "VAL": "values",
    "ZER": "zeros and bias collapse",
    "NRM": "normalisation layers",
    "RNN": "recurrent gates",
    "NET": "weights as a network",
    "OPT": "optimizer state",
    "HYP": "hyperparameters",
    "POL": "the reinforcement learning policy",
    "TRD": "a series of checkpoints",
    "LOG": "training logs",
    "CKD": "ckdoc itself",
}
"""What the three letters of a code stand for."""

_FIXES = {
    Safety.SAFE: "`ckdoc fix` repairs it",
    Safety.ON_REQUEST: "`ckdoc fix --recycle` repairs it",
    Safety.UNSAFE: "`ckdoc fix --unsafe` repairs it, and the old values are lost",
}


def explain_rule(rule: Rule) -> str:
    """Return a rule's explanation as Markdown: identity, sections, options with their defaults."""
    lines = [
        f"# {rule.code} {rule.name}",
        "",
        rule.summary,
        "",
        f"**Severity** {rule.severity.label} · **Family** {FAMILIES.get(rule.family, rule.family)} · "
        f"**Repair** {_FIXES[rule.fix] if rule.fix else 'none'} · **Package** {rule.package}",
    ]
    for heading in SECTIONS:
        if heading in rule.sections:
            lines += ["", f"## {heading}", "", rule.sections[heading]]
    if rule.options:
        lines += ["", "## Options", "", "| option | default |", "|---|---|"]
        lines += [f"| `{name}` | `{default}` |" for name, default in rule.options.items()]
        lines += ["", "```toml", f"[tool.ckdoc.options.{rule.code}]"]
        lines += [f"{name} = {_as_toml(default)}" for name, default in rule.options.items()]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def explain_index(rules: Iterable[Rule]) -> str:
    """Return the catalogue as one Markdown page that links to the page of each rule."""
    lines = ["# Rules", "", "What ckdoc looks for. `ckdoc explain CODE` prints the same pages."]
    family = ""
    for rule in sorted(rules, key=lambda each: (list(FAMILIES).index(each.family), each.code)):
        if rule.family != family:
            family = rule.family
            lines += [
                "",
                f"## {family}: {FAMILIES[family]}",
                "",
                "| code | name | severity | finds |",
                "|---|---|---|---|",
            ]
        lines.append(f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.severity.label} | {rule.summary} |")
    return "\n".join(lines) + "\n"


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_as_toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
