"""The healthy bench: models that are well, saved in the usual ways. ckdoc must not call one of them ill.

The models are those of ``tests/zoo`` and ``benchmarks/healthy_models``: each is trained on synthetic data until its
loss has clearly fallen. Each is saved as its authors would, with and without optimizers, before the first update, and
converted to half precision and safetensors. Every error, every repair that ``fix`` plans and every warning is a false
alarm.

Run as ``python -m benchmarks.healthy [--only PATTERN] [--keep FOLDER] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.faults import alarms
from benchmarks.healthy_models import MODELS
from benchmarks.healthy_models.variants import FRESH, make_variants
from checkpoint_doctor import FixOptions, Outcome, Severity, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from tests.zoo import ZOO, HealthyModel
from tests.zoo.training import NotTrained

MOST_WARNED = 0.05
"""The share of trained files that may have a warning: the aim that the rules are calibrated to."""


@dataclass(frozen=True)
class Alarm:
    """A finding of warning level or above about a healthy model."""

    model: str
    variant: str
    code: str
    severity: str
    tensor: str
    message: str

    def __str__(self) -> str:
        return f"{self.model} {self.variant} {self.code} {self.severity} {self.tensor}: {self.message}"


@dataclass(frozen=True)
class Verdict:
    """What ckdoc says about one file."""

    model: str
    variant: str
    alarms: tuple[Alarm, ...]
    changed: tuple[str, ...]
    """The tensors that ``fix`` would change."""
    failure: str = ""
    """Why the file could not be read, or the repair not be planned."""

    @property
    def is_trained(self) -> bool:
        """False for a model before its first update."""
        return self.variant != FRESH

    def codes(self, severity: Severity) -> set[str]:
        """Return the rules that raised an alarm of this severity."""
        return {each.code for each in self.alarms if each.severity == severity.label}


@dataclass(frozen=True)
class Bench:
    """All verdicts, and the models that learned too little to prove anything."""

    verdicts: tuple[Verdict, ...] = ()
    not_trained: tuple[str, ...] = ()

    @property
    def with_errors(self) -> list[Verdict]:
        """The files that are called ill."""
        return [each for each in self.verdicts if each.codes(Severity.ERROR)]

    @property
    def changed(self) -> list[Verdict]:
        """The files that ``fix`` would change."""
        return [each for each in self.verdicts if each.changed]

    @property
    def failed(self) -> list[Verdict]:
        """The files that could not be read, or whose repair could not be planned."""
        return [each for each in self.verdicts if each.failure]

    @property
    def trained(self) -> list[Verdict]:
        """The files of trained models."""
        return [each for each in self.verdicts if each.is_trained]

    @property
    def warned(self) -> list[Verdict]:
        """The files of trained models with a warning."""
        return [each for each in self.trained if each.codes(Severity.WARNING)]

    @property
    def share_warned(self) -> float:
        """The share of the trained models' files that have a warning."""
        return len(self.warned) / max(len(self.trained), 1)

    @property
    def passes(self) -> bool:
        """True where nothing healthy is called ill or would be changed, and few files have a warning."""
        wrong = self.with_errors or self.changed or self.failed or self.not_trained
        return not wrong and self.share_warned <= MOST_WARNED


def judge(path: Path, catalogue: Catalogue) -> Verdict:
    """Examine one file, named ``<model>/<variant>.<suffix>``, and plan its repair."""
    model, variant = path.parent.name, path.name if path.suffix == ".safetensors" else path.stem
    (result,) = fix([path], FixOptions(dry_run=True), catalogue=catalogue, jobs=1)
    examination = result.examination
    if examination is None:
        (examination,) = scan([path], catalogue=catalogue, jobs=1).checkpoints
    found = tuple(
        Alarm(model, variant, each.code, each.severity.label, each.tensor or each.layer or "", each.message)
        for each in alarms(examination)
    )
    changed = tuple(each.tensor for each in result.summary.changes)
    failure = result.error if result.outcome is Outcome.FAILED else examination.error
    return Verdict(model, variant, found, changed, failure or "")


def run(models: Sequence[HealthyModel], folder: Path) -> Bench:
    """Train the models, write their files into the folder and judge each file."""
    bench, catalogue = Bench(), discover()
    for number, model in enumerate(models, 1):
        print(f"[{number}/{len(models)}] {model.name}", file=sys.stderr)
        try:
            verdicts = [judge(path, catalogue) for path in make_variants(model, folder)]
        except NotTrained as error:
            bench = replace(bench, not_trained=(*bench.not_trained, str(error)))
        else:
            bench = replace(bench, verdicts=(*bench.verdicts, *verdicts))
    return bench


def summary(bench: Bench) -> str:
    """Return the figures, with the rules that are behind them."""
    models = {each.model for each in bench.verdicts}
    return "\n".join(
        [
            f"models: {len(models)}, files: {len(bench.verdicts)}, of trained models: {len(bench.trained)}",
            f"files with errors: {len(bench.with_errors)}{_by_rule(bench.with_errors, Severity.ERROR)}",
            f"trained files with warnings: {len(bench.warned)} ({bench.share_warned:.1%})"
            f"{_by_rule(bench.warned, Severity.WARNING)}",
            f"files that fix would change: {len(bench.changed)}",
            f"files that could not be judged: {len(bench.failed)}",
            f"models that did not learn: {len(bench.not_trained)}",
        ]
    )


def _by_rule(verdicts: Sequence[Verdict], severity: Severity) -> str:
    counts = Counter(code for each in verdicts for code in each.codes(severity))
    return "".join(f"\n  {code} {count}" for code, count in sorted(counts.items()))


def false_alarms(bench: Bench) -> Iterator[str]:
    """Yield a line for everything that is wrong."""
    for verdict in bench.verdicts:
        yield from map(str, verdict.alarms)
        if verdict.changed:
            yield f"{verdict.model} {verdict.variant} fix would change {', '.join(verdict.changed)}"
        if verdict.failure:
            yield f"{verdict.model} {verdict.variant} could not be judged: {verdict.failure}"
    yield from bench.not_trained


def as_json(bench: Bench) -> dict[str, Any]:
    """Return all verdicts and figures as plain JSON values."""
    return {
        "files": len(bench.verdicts),
        "files_with_errors": len(bench.with_errors),
        "share_of_trained_files_with_warnings": bench.share_warned,
        "files_that_fix_would_change": len(bench.changed),
        "passes": bench.passes,
        "verdicts": [asdict(each) for each in bench.verdicts],
        "not_trained": list(bench.not_trained),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 where every healthy model is found healthy."""
    parser = argparse.ArgumentParser(description="healthy models that must not be called ill")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="the models to judge, such as 'lora_*'")
    parser.add_argument(
        "--keep", metavar="FOLDER", type=Path, help="keep the files; models whose files are there are not trained again"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all verdicts to this file")
    options = parser.parse_args(arguments)
    models = [model for name, model in {**ZOO, **MODELS}.items() if fnmatch(name, options.only)]
    if not models:
        parser.error(f"no model is called {options.only}")
    with tempfile.TemporaryDirectory() as temporary:
        bench = run(models, options.keep or Path(temporary))
    print(*false_alarms(bench), summary(bench), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(as_json(bench), indent=1) + "\n")
    return 0 if bench.passes else 1


if __name__ == "__main__":
    sys.exit(main())
