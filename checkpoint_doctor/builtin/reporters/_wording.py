"""Formats numbers, evidence and findings as text, the same in every format that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from checkpoint_doctor.builtin.reporters._names import fold_names
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.diagnosis import Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.report import IN_BASELINE, Alert, Examination, Report
from checkpoint_doctor.text import printable, quantity

LISTED = 6
"""How many items of a long list are shown; the others are counted."""

BRIEF = 160
"""Characters of evidence in a brief text."""

_FORMATS = {"sb3": "SB3", "torch": "PyTorch", "folders": ""}
"""A folder of ranks is described by its layout alone."""

_FIXES = {
    Safety.SAFE: ("safe", "`ckdoc fix`"),
    Safety.ON_REQUEST: ("on request", "`ckdoc fix --recycle`"),
    Safety.UNSAFE: ("unsafe", "`ckdoc fix --unsafe` (the old values are lost)"),
}


def one_line(text: str) -> str:
    """Return a message as one printable line: line breaks between its words become spaces."""
    return printable(" ".join(text.split()))


def percentage(share: float | None) -> str:
    """Format a share from 0 to 1 so that ``0%`` and ``100%`` mean exactly none and exactly all; ``–`` for ``None``."""
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{share:.0%}"
    return "<0.1%" if share < 0.001 else f"{min(share, 0.999):.1%}"


def figure(value: float | int | None) -> str:
    """Format a float with three significant digits and an integer with all digits; ``–`` for ``None``."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}".replace("nan", "NaN").replace("inf", "infinity")


def shape_in_words(shape: Sequence[int]) -> str:
    """Format a shape as ``3×256``, or as ``scalar`` for a single number."""
    return "×".join(str(length) for length in shape) or "scalar"


def subject_of(alert: Alert) -> str:
    """Return what a diagnosis or a finding is about, a tensor or a layer; ``""`` for the whole checkpoint."""
    return before_colon(alert.subject or "")


def before_colon(name: str) -> str:
    """Return a name as it may stand before a colon: two colons would begin a command in a log."""
    name = printable(name)
    return f"{name[:-1]}\\x3a" if name.endswith(":") else name


def headline(alert: Alert) -> str:
    """Return the message of a diagnosis or a finding, after the name of what it is about."""
    subject = subject_of(alert)
    return f"{subject}: {one_line(alert.message)}" if subject else one_line(alert.message)


def explained_in_words(diagnosis: Diagnosis, examination: Examination) -> str:
    """Say how many findings a diagnosis explains, and of which rules: ``3 findings: NET001 × 2, ZER003``."""
    counts = Counter(examination.findings[position].title for position in diagnosis.explains)
    rules = (f"{title} × {count:,}" if count > 1 else title for title, count in counts.items())
    return f"{quantity(len(diagnosis.explains), 'finding')}: {', '.join(rules)}"


def join_sentences(*sentences: str) -> str:
    """Join the sentences that are not empty, with a full stop between them where there is none."""
    given = [sentence for sentence in sentences if sentence]
    ended = [sentence if sentence.endswith((".", "!", "?", ":")) else f"{sentence}." for sentence in given[:-1]]
    return " ".join([*ended, *given[-1:]])


_REFUSED = "`ckdoc fix` cannot change a file of this kind"


def particulars(alert: Alert, examination: Examination | None = None, *, brief: bool = False) -> list[tuple[str, str]]:
    """Return the evidence, the advice and the outlook for a repair of a diagnosis or a finding, each with its label.

    A diagnosis is given with its examination, which holds what it explains.
    """
    words = {
        "evidence": evidence_in_words(alert.evidence, BRIEF if brief else None),
        "advice": one_line(alert.advice),
    }
    if isinstance(alert, Diagnosis):
        words |= {"write": one_line(alert.remedy), "fix": prognosis_in_words(alert, examination)}
    else:
        words |= {"fix": fix_in_words(alert)}
    return [(label, each) for label, each in words.items() if each]


def prognosis_in_words(diagnosis: Diagnosis, examination: Examination | None) -> str:
    """Say what ``ckdoc fix`` would do about a diagnosis: cure it, relieve it, or nothing that lasts."""
    findings = [examination.findings[position] for position in diagnosis.explains] if examination else []
    if diagnosis.prognosis is Prognosis.POINTLESS:
        is_refused = any(map(_is_refused, findings))
        return _REFUSED if is_refused else "`ckdoc fix` cannot help: the cause lies in the code or the data"
    needed = max((each.fix for each in findings if each.fix), key=list(_FIXES).index, default=Safety.SAFE)
    _, command = _FIXES[needed]
    if diagnosis.prognosis is Prognosis.CURED:
        return f"{command} cures it"
    return f"{command} relieves it, but the cause remains"


def skipped_in_words(skipped: Skipped) -> str:
    """Return a sentence about what could not be looked at, and why."""
    return f"{printable(skipped.what)} could not be looked at, because {one_line(skipped.why)}"


def unsearched_in_words(report: Report, *, all_names: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield sentences about what a search did not look at, one for each reason, and whether it was on purpose."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for each in report.unsearched:
        groups.setdefault((each.on_purpose, each.why), []).append(printable(each.path))
    for (on_purpose, why), paths in sorted(groups.items()):
        names = list_names(paths, len(paths) if all_names else LISTED)
        yield f"{names}{'' if on_purpose else ' cannot be searched'}: {one_line(why)}", on_purpose


def list_names(names: Sequence[str], most: int = LISTED) -> str:
    """List names with commas, at most so many of them."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def unrecognized_in_words(report: Report) -> str:
    """Return how many files no loader recognizes by their first bytes, with their most frequent endings."""
    counts = Counter(report.unrecognized)
    endings = [f"{count:,} {printable(ending) or 'without an ending'}" for ending, count in counts.most_common()]
    verb = "begins" if counts.total() == 1 else "begin"
    return f"{quantity(counts.total(), 'file')} that {verb} unlike any checkpoint: {list_names(endings)}"


def hidden_by(alert: Alert) -> str:
    """Return what hides an alert."""
    return "hidden by the baseline" if alert.ignored == IN_BASELINE else "hidden by config"


def verdict_of(report: Report) -> str:
    """Return the result of a run: ``passed``, ``failed``, ``incomplete`` (see ``is_complete``), or the last two."""
    words = [word for word, holds in (("failed", report.failed), ("incomplete", not report.is_complete)) if holds]
    return " and ".join(words) or "passed"


def tally(alerts: Iterable[Alert]) -> str:
    """Count diagnoses and findings by severity, worst first: ``2 errors, 1 note``."""
    counts = Counter(alert.severity for alert in alerts)
    return ", ".join(quantity(counts[each], each.label) for each in sorted(Severity, reverse=True) if counts[each])


def describe(examination: Examination) -> str:
    """Describe a checkpoint: ``SB3 SAC, 990,000 steps, 32 tensors, 349,962 parameters``."""
    if examination.is_unreadable:
        return "could not be read"
    format = _FORMATS.get(examination.format or "", examination.format)
    origin = " ".join(part for part in (examination.layout, format, examination.algorithm) if part)
    parts = [
        origin,
        "" if examination.step is None else quantity(examination.step, "step"),
        *(
            [examination.content.removeprefix("is ")]
            if examination.content
            else [quantity(len(examination.tensors), "tensor"), quantity(examination.parameters, "parameter")]
        ),
    ]
    return printable(", ".join(part for part in parts if part))


def parts_in_words(examination: Examination) -> str:
    """List the files of a folder by what they are: ``weights (model.safetensors), optimizer (optimizer.pt)``."""
    files: dict[str, list[str]] = {}
    for part in examination.parts:
        files.setdefault(part.content.word, []).append(printable(part.file))
    return ", ".join(
        f"{word} ({', '.join(names[:2])}{f' and {len(names) - 2:,} more' if len(names) > 2 else ''})"
        for word, names in files.items()
    )


def resumption_in_words(examination: Examination) -> str:
    """Say from where a run resumes, and name the findings that speak against it; empty where there is no run."""
    resumption = examination.resumption
    if resumption is None:
        return ""
    titles = ", ".join(dict.fromkeys(examination.findings[position].title for position in resumption.problems))
    word = "but see" if resumption.goes_on(examination.findings) else "not as it was"
    return f"{resumption.describe()}; {word}: {titles}" if titles else resumption.describe()


def evidence_in_words(evidence: Mapping[str, Any], length: int | None = None) -> str:
    """Format a finding's evidence on one line, without empty and unknown values; long lists are shortened.

    With a length, items that would exceed it are replaced by ``…``, except the first.
    """
    words = ""
    for key, value in evidence.items():
        if value is None or value in ([], {}, ()):
            continue
        item = one_line(f"{key.replace('_', ' ')} {_value_in_words(key, value)}")
        if words and length is not None and len(words) + len(item) > length:
            return f"{words}; …"
        words = f"{words}; {item}" if words else item
    return words


def _value_in_words(key: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, (int, float)):
        is_share = key.endswith(("fraction", "share")) and 0 <= value <= 1
        return percentage(value) if is_share else figure(value)
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name} {_value_in_words(str(name), each)}' for name, each in value.items())})"
    if isinstance(value, (list, tuple)):
        return _list_in_words(key, value)
    return str(value)


def names_in_words(names: Iterable[str], listed: int = LISTED) -> str:
    """List names short, as plain text: ``a.{0–3}.bias, b … and 2 more``; those that differ in one number are one."""
    folded = fold_names(names)
    rest = sum(count for _, count in folded[listed:])
    return printable(", ".join(name for name, _ in folded[:listed])) + (f" … and {rest:,} more" if rest else "")


def _list_in_words(key: str, values: Sequence[Any]) -> str:
    if values and all(isinstance(each, str) for each in values):
        return names_in_words(values)
    runs = _find_runs(values)
    if len(runs) > LISTED and all(type(each) in (int, float) for each in values) and not _are_indices(values):
        low, high = _value_in_words(key, min(values)), _value_in_words(key, max(values))
        return f"{low} to {high} ({len(values):,} values)"
    named = [
        f"{_value_in_words(key, run[0])}–{_value_in_words(key, run[-1])}"
        if len(run) > 2
        else ", ".join(_value_in_words(key, each) for each in run)
        for run in runs[:LISTED]
    ]
    rest = sum(len(run) for run in runs[LISTED:])
    return (", ".join(named) or "none") + (f" … and {rest:,} more" if rest else "")


def _are_indices(values: Sequence[Any]) -> bool:
    return all(type(each) is int for each in values) and all(a < b for a, b in pairwise(values))


def _find_runs(values: Sequence[Any]) -> list[list[Any]]:
    """Split indices into runs of consecutive ones; other values are runs of one."""
    if not _are_indices(values):
        return [[value] for value in values]
    runs: list[list[Any]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _is_refused(finding: Finding) -> bool:
    """True where there is a repair, and the file that it is for cannot be changed."""
    return bool(finding.repairs) and finding.fix is None


def fix_in_words(finding: Finding) -> str:
    """Describe what ``ckdoc fix`` would do about a finding: ``safe (`ckdoc fix`): uniform(-0.01, 0.01)``."""
    if _is_refused(finding):
        return _REFUSED
    if finding.fix is None:
        return ""
    word, command = _FIXES[finding.fix]
    changes = list(dict.fromkeys(repair.init_rule for repair in finding.repairs if repair.safety is finding.fix))
    rest = f" and {len(changes) - 2} more" if len(changes) > 2 else ""
    return one_line(f"{word} ({command})" + (f": {'; '.join(changes[:2])}{rest}" if changes else ""))
