"""The sabotage bench: models that were trained with a fault or saved with one, each beside its healthy twin.

A kind is seen where the ill file has a finding of warning level or above that its twin does not have, or has at a lower
level, and that names something affected or is about the whole checkpoint and of a rule that fits the cause. It is
diagnosed right where the first diagnosis names its cause. A twin or a decoy is alarmed where
it has an error or more than one warning.

Run as ``python -m benchmarks.sabotage [--only PATTERN] [--keep FOLDER] [--json FILE]``; prints what was said of every
kind, and exits with 1 where less than 95 % are seen, less than 90 % are diagnosed right, or more than 2 % wrong. One
core, under ten minutes, the same figures every time.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.sabotage_kinds import DECOYS, KINDS, Kind
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination

REQUIRED = 0.95
"""The share of kinds that must be seen."""

REQUIRED_RIGHT, ALLOWED_WRONG = 0.9, 0.02
"""The shares of kinds that must be diagnosed right, and that may be diagnosed wrong."""

LEAVE_THE_SAME_FILE: Mapping[str, frozenset[str]] = {
    "never-started": frozenset({"no-gradient"}),
    "no-gradient": frozenset({"never-started"}),
    "detached": frozenset({"frozen"}),
    "frozen": frozenset({"detached"}),
    "not-in-optimizer": frozenset({"detached"}),
    "optimizer-reset": frozenset({"detached", "frozen"}),
    "partial-load": frozenset({"overwritten"}),
    "dead-relu": frozenset({"no-gradient"}),
    "saturated": frozenset({"learning-rate-too-high", "no-gradient"}),
}
"""Causes that nobody can tell from another one by the file.

An optimizer without state was not stepped, or had no gradient. A part without state is frozen or detached, or its state
was lost, or the optimizer holds the part that was there before. Initial values under trained moments were not loaded,
or were written by code. Where gradients stopped in all layers at once, an output is dead or saturated, or the loss is
constant; and units saturate because of something upstream.
"""

RULES_OF_CAUSE: Mapping[str, frozenset[str]] = {
    cause: frozenset(codes.split())
    for cause, codes in {
        "no-gradient": "OPT006 RES005",
        "never-started": "OPT006 RES002",
        "detached": "OPT001 OPT006",
        "frozen": "OPT001 OPT009",
        "not-in-optimizer": "OPT001 OPT002",
        "unused-part": "OPT001 NET007",
        "unused-rows": "NET006 NET007",
        "masked": "NET007",
        "unused-recurrence": "RNN004",
        "unscaled-inputs": "INP001",
        "constant-inputs": "INP001 NET006",
        "nonfinite-data": "VAL001 NRM003",
        "nonfinite-gradient": "VAL001",
        "reward-scale": "VAL002 OPT008",
        "symmetric-units": "NET004",
        "zero-deadlock": "ZER001 NET003",
        "too-wide-init": "NET001",
        "dead-relu": "NET001",
        "saturated": "NET001",
        "exploded": "VAL002 OPT008",
        "learning-rate-too-high": "HYP001 OPT008 VAL002",
        "learning-rate-too-low": "HYP001 OPT008 OPT009",
        "schedule": "OPT003 OPT009 RES001",
        "clip-too-small": "OPT004 OPT005 OPT009",
        "epsilon-too-large": "OPT005",
        "weight-decay-too-strong": "HYP006 VAL006",
        "optimizer-settings": "HYP005 OPT005",
        "poisoned-moments": "OPT007 VAL001",
        "low-precision": "NRM004 OPT009 RES005 VAL004",
        "overwritten": "ZER003 ZER004 VAL005",
        "pruned": "ZER002",
        "partial-load": "RES002",
        "optimizer-reset": "RES002",
        "optimizer-of-another-model": "OPT002",
        "average-not-updated": "RES004",
        "target-not-synced": "POL003",
        "twin-critics-identical": "POL004",
        "norm-statistics": "NRM003",
        "exploration-collapsed": "POL001",
        "entropy-coefficient": "POL002",
        "settings-out-of-range": "HYP003",
        "saved-wrong-object": "RES007 RES002",
        "rounded": "VAL007",
        "corrupted-values": "VAL001 VAL002 VAL003 FIL001",
    }.items()
}
"""The rules that may speak of the whole checkpoint for a cause; they need not name what is affected."""


@dataclass(frozen=True)
class Outcome:
    """What was said about one kind, or about one decoy."""

    name: str
    cause: str
    seen: str
    """``seen``, ``note only`` or ``missed``; empty for a decoy."""
    affected: tuple[str, ...]
    fact: str = ""
    """What was done, and what in the file tells."""
    named: tuple[str, ...] = ()
    """The findings that count, in words."""
    others: tuple[str, ...] = ()
    """The other new findings about the ill file."""
    alarms: tuple[str, ...] = ()
    """Errors and warnings about the healthy file, where there are too many."""
    diagnoses: tuple[str, ...] = ()
    """The causes of the diagnoses of the ill file, the first one first."""
    error: str | None = None
    """Why one of the files could not be examined."""
    seconds: float = field(default=0.0, compare=False)

    @property
    def diagnosis(self) -> str:
        """``right``, ``wrong``, or ``unknown`` where there is no diagnosis."""
        if not self.diagnoses:
            return "unknown"
        accepted = {self.cause} | LEAVE_THE_SAME_FILE.get(self.cause, frozenset())
        return "right" if self.diagnoses[0] in accepted else "wrong"


def examine(path: Path, catalogue: Catalogue) -> Examination:
    """Examine a file."""
    (examination,) = scan([path], catalogue=catalogue, jobs=1).checkpoints
    return examination


def names(finding: Finding, affected: Sequence[str]) -> bool:
    """Say whether a finding names something affected: by its tensor, its layer, or in its evidence."""
    subjects = {finding.tensor or finding.layer or ""}
    for value in finding.evidence.values():
        parts = value if isinstance(value, list) else [value]
        subjects.update(each for each in parts if isinstance(each, str))
    subjects |= {subject.partition("/")[2] for subject in subjects}
    return any(
        subject == name or subject.startswith((f"{name}.", f"{name}/")) or name.startswith(f"{subject}.")
        for subject in subjects - {""}
        for name in affected
    )


def counts(finding: Finding, kind: Kind, affected: Sequence[str]) -> bool:
    """Say whether a finding is about what the kind did to the file."""
    is_about_all = finding.subject is None and finding.code in RULES_OF_CAUSE[kind.cause]
    return not finding.is_about_ckdoc and (is_about_all or names(finding, affected))


def new_findings(ill: Sequence[Finding], healthy: Sequence[Finding]) -> list[Finding]:
    """Return what is said about the ill file alone, or in a more severe way than about its twin."""
    known: dict[tuple[str, str | None], Severity] = {}
    for each in healthy:
        key = each.code, each.subject
        known[key] = max(each.severity, known.get(key, each.severity))
    return [each for each in ill if each.severity > known.get((each.code, each.subject), 0)]


def alarms(healthy: Sequence[Finding]) -> tuple[str, ...]:
    """Return the errors and warnings about a healthy file where it has an error or more than one warning."""
    loud = [each for each in healthy if each.severity >= Severity.WARNING]
    too_many = len(loud) > 1 or any(each.severity is Severity.ERROR for each in loud)
    return tuple(map(in_words, loud)) if too_many else ()


def in_words(finding: Finding) -> str:
    """Return a finding as one line."""
    return f"{finding.code} {finding.severity.label} {finding.subject or '(checkpoint)'}: {finding.message}"


def run_kind(kind: Kind, folder: Path, catalogue: Catalogue) -> Outcome:
    """Make a kind's files in a folder of their own and return what is said about them."""
    began = time.monotonic()
    home = folder / kind.name
    home.mkdir(parents=True, exist_ok=True)
    pair = kind.make(home)
    ill, healthy = examine(pair.ill, catalogue), examine(pair.healthy, catalogue)
    if healthy.error:
        raise RuntimeError(f"the healthy twin of {kind.name} could not be read: {healthy.error}")
    new = new_findings(list(ill.counted), list(healthy.counted))
    named = [each for each in new if counts(each, kind, pair.affected)]
    loud = any(each.severity >= Severity.WARNING for each in named)
    return Outcome(
        name=kind.name,
        cause=kind.cause,
        seen="seen" if loud else "note only" if named else "missed",
        affected=pair.affected,
        fact=kind.fact,
        named=tuple(map(in_words, named)),
        others=tuple(in_words(each) for each in new if each not in named),
        alarms=alarms(list(healthy.counted)),
        diagnoses=tuple(each.cause for each in ill.diagnoses),
        error=ill.error,
        seconds=time.monotonic() - began,
    )


def run(pattern: str, folder: Path) -> Iterator[Outcome]:
    """Yield what is said about each kind and decoy whose name, subject or cause matches a pattern."""
    catalogue = discover()
    for kind in KINDS.values():
        is_chosen = any(fnmatch.fnmatch(word, pattern) for word in (kind.name, kind.subject, kind.cause))
        if is_chosen and not kind.not_visible:
            yield run_kind(kind, folder, catalogue)
    for decoy in DECOYS.values():
        if any(fnmatch.fnmatch(word, pattern) for word in (decoy.name, "decoys")):
            home = folder / decoy.name
            home.mkdir(parents=True, exist_ok=True)
            examination = examine(decoy.make(home), catalogue)
            yield Outcome(decoy.name, "", "", (), alarms=alarms(list(examination.counted)), error=examination.error)


def print_outcome(outcome: Outcome, width: int = 160) -> None:
    """Print one kind or decoy with its findings, each on one line."""
    print(
        f"{outcome.seen or ('alarmed' if outcome.alarms else 'quiet'):<10} {outcome.name} ({outcome.cause or 'decoy'})"
    )
    lines = [("  the fault: ", outcome.fact)] if outcome.seen in ("note only", "missed") else []
    lines += [("  ", each) for each in outcome.named] + [("  other: ", each) for each in outcome.others]
    lines += [("  healthy: ", each) for each in outcome.alarms]
    lines += [("  unreadable: ", outcome.error)] if outcome.error else []
    for prefix, text in lines:
        line = f"{prefix}{text}"
        print(line if len(line) <= width else f"{line[: width - 1]}…")


def print_diagnoses(kinds: Sequence[Outcome]) -> bool:
    """Print how many kinds were diagnosed right, and which others as what; return whether that is enough."""
    count = Counter(each.diagnosis for each in kinds)
    right, wrong = (count[each] / len(kinds) if kinds else 1.0 - (each == "wrong") for each in ("right", "wrong"))
    print(f"diagnosed right: {count['right']} ({right:.1%}), wrong: {count['wrong']} ({wrong:.1%}), ", end="")
    print(f"cause not known: {count['unknown']}")
    for each in kinds:
        if each.diagnosis != "right":
            print(f"  {each.diagnosis}: {each.name} ({each.cause}) as {', '.join(each.diagnoses) or 'nothing'}")
    return right >= REQUIRED_RIGHT and wrong <= ALLOWED_WRONG


def print_totals(outcomes: Sequence[Outcome]) -> bool:
    """Print how many kinds were seen and diagnosed, and what was not; return whether that is enough."""
    kinds = [each for each in outcomes if each.seen]
    count = Counter(each.seen for each in kinds)
    share = count["seen"] / len(kinds) if kinds else 1.0
    print(f"\n{len(kinds)} kinds: {count['seen']} seen ({share:.1%}), {count['note only']} as a note only, ", end="")
    print(f"{count['missed']} missed")
    for seen in ("note only", "missed"):
        print(f"{seen}: {', '.join(each.name for each in kinds if each.seen == seen) or 'none'}")
    twins = [each.name for each in kinds if each.alarms]
    decoys = [each.name for each in outcomes if not each.seen]
    alarmed = [each.name for each in outcomes if not each.seen and each.alarms]
    hidden = [f"{each.name} ({each.not_visible})" for each in KINDS.values() if each.not_visible]
    print(f"not visible in the file, and not counted: {', '.join(hidden) or 'none'}")
    print(f"healthy twins with alarms: {len(twins)} of {len(kinds)}: {', '.join(twins) or 'none'}")
    print(f"decoys with alarms: {len(alarmed)} of {len(decoys)}: {', '.join(alarmed) or 'none'}")
    return print_diagnoses(kinds) and share >= REQUIRED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 where enough is seen."""
    parser = argparse.ArgumentParser(description="models trained or saved with a fault: what is seen, what is missed")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names, subjects or causes of kinds to run")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files of every kind in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes as JSON")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        for outcome in run(options.only, options.keep or Path(temporary)):
            print_outcome(outcome)
            outcomes.append(outcome)
    if not outcomes:
        parser.error(f"no kind matches {options.only!r}")
    is_enough = print_totals(outcomes)
    print(f"{sum(each.seconds for each in outcomes):.0f} seconds")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1) + "\n", encoding="utf-8")
    return int(not is_enough)


if __name__ == "__main__":
    sys.exit(main())
