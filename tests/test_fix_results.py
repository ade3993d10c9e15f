"""What ``fix`` returns for small files, and what ``ckdoc fix`` prints of results and exits with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix, result_name
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.config.settings import Config, Section
from checkpoint_doctor.errors import NothingToExamine, UsageError
from checkpoint_doctor.layers.init_rules import fill
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.repair.changes import Purpose, Unfixed, Upstream
from checkpoint_doctor.repair.record import ChangeRecord, Figures, Summary
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.results.report import RULE_CRASHED, Examination, Verdict
from tests.test_rule_findings import draw, mlp, zeroed

pytestmark = pytest.mark.usefixtures("one_torch")

CATALOGUE = discover()
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
ILL = mlp(net__2__bias=np.zeros(8, np.float32))
CUT = mlp(net__2__weight=zeroed(draw(8, 12), 3))


def stored(path: Path, weights: Mapping[str, NDArray] = ILL) -> Path:
    save_file(dict(weights), path)
    return path


def fixed(*paths: Path, **options: Any) -> list[FixResult]:
    return fix(list(paths), FixOptions(**options), catalogue=CATALOGUE)


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    return stored(tmp_path / "model.safetensors")


# What comes of a file


def test_an_ill_file_gets_a_verified_copy(ill: Path) -> None:
    (result,) = fixed(ill)
    assert (result.outcome, result.error) == (Outcome.FIXED, None)
    assert result.output == str(ill.with_name("model_FIXED.safetensors"))
    assert result.examination is not None
    assert [each.code for each in result.examination.findings] == ["ZER003"]
    assert result.remaining == ()
    assert [each.tensor for each in result.summary.changes] == ["net.2.bias"]
    assert load_file(result.output)["net.2.bias"].all()
    assert result.record["outcome"] == "fixed"
    assert result.record["options"] == {"seed": 0, "recycle": False, "unsafe": False, "notes": False}
    assert result.record["proof"]["patches"] == 1
    record = Path(f"{result.output}.ckdoc.json")
    assert json.loads(record.read_text()) == result.record
    assert record.stat().st_mode & 0o777 == ill.stat().st_mode & 0o777
    assert result.record["proof"]["read_by"][0].startswith("safetensors ")


def test_a_healthy_file_gets_none(tmp_path: Path) -> None:
    (result,) = fixed(stored(tmp_path / "model.safetensors", mlp()))
    assert (result.outcome, result.output, result.remaining) == (Outcome.NOTHING, None, ())
    assert result.record["outcome"] == "nothing to fix"
    assert list(tmp_path.iterdir()) == [tmp_path / "model.safetensors"]


def test_what_cannot_be_repaired_remains(tmp_path: Path) -> None:
    (result,) = fixed(stored(tmp_path / "model.safetensors", CUT))
    assert result.outcome is Outcome.NOTHING
    assert [each.code for each in result.remaining] == ["NET002"]
    assert [each.code for each in result.summary.unfixed] == ["NET002"]


def test_a_dry_run_says_what_would_be(ill: Path) -> None:
    (result,) = fixed(ill, dry_run=True)
    assert (result.outcome, result.remaining) == (Outcome.PLANNED, ())
    assert result.output == str(ill.with_name("model_FIXED.safetensors"))
    assert result.record["outcome"] == "planned"
    assert list(ill.parent.iterdir()) == [ill]


def test_a_file_that_cannot_be_read_is_a_result_of_its_own(ill: Path) -> None:
    bad = ill.with_name("bad.safetensors")
    bad.write_bytes((1 << 40).to_bytes(8, "little") + b'{"a":1}')
    failed, well = fixed(bad, ill)
    assert (failed.outcome, well.outcome) == (Outcome.FAILED, Outcome.FIXED)
    assert (failed.record["error"], failed.record["hint"]) == (failed.error, failed.hint)
    assert failed.error


def test_files_that_are_no_checkpoints_fail_where_they_are_named_and_are_passed_over_elsewhere(ill: Path) -> None:
    other = ill.with_name("picture.pt")
    other.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    assert [each.outcome for each in fixed(ill.parent, dry_run=True)] == [Outcome.PLANNED]
    assert [each.outcome for each in fixed(other)] == [Outcome.FAILED]
    ill.unlink()
    with pytest.raises(NothingToExamine, match="there is no checkpoint among 1 file"):
        fixed(ill.parent)


def test_an_output_is_a_name_or_a_folder(ill: Path, tmp_path: Path) -> None:
    (result,) = fixed(ill, output=str(tmp_path / "well.safetensors"))
    assert result.output == str(tmp_path / "well.safetensors")
    folder = tmp_path / "results"
    folder.mkdir()
    (result,) = fixed(ill, output=str(folder))
    assert result.output == str(folder / "model_FIXED.safetensors")
    other = stored(tmp_path / "other.safetensors")
    assert [each.outcome for each in fixed(ill, other, output=str(folder), force=True)] == [Outcome.FIXED] * 2
    with pytest.raises(UsageError, match="2 checkpoints cannot all become"):
        fixed(ill, other, output=str(tmp_path / "one.safetensors"))


def test_two_results_of_one_name_are_not_written_over_each_other(ill: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "results"):
        (tmp_path / name).mkdir()
    inputs = [stored(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    one, other = fixed(*inputs, output=str(tmp_path / "results"))
    assert (one.outcome, other.outcome) == (Outcome.FIXED, Outcome.FAILED)
    assert "would both be" in (other.error or "")


def test_a_result_that_exists_is_kept_unless_forced(ill: Path) -> None:
    assert [each.outcome for each in (*fixed(ill), *fixed(ill), *fixed(ill, force=True))] == [
        Outcome.FIXED, Outcome.FAILED, Outcome.FIXED
    ]  # fmt: skip


def test_a_format_that_no_loader_patches_is_refused(ill: Path) -> None:
    class Renamed:
        def __init__(self, loader: Any) -> None:
            self.loader, self.name = loader, f"other {loader.name}"

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loader, name)

    loaders: Any = tuple(map(Renamed, CATALOGUE.loaders))
    (result,) = fix([ill], catalogue=replace(CATALOGUE, loaders=loaders))
    assert result.outcome is Outcome.FAILED
    assert "no loader of that name" in (result.error or "")


def test_progress_is_told(ill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoint_doctor.examination.measuring.SMALL_CHECKPOINT", 0)
    seen: list[tuple[str, int, int]] = []
    other = stored(ill.with_name("other.safetensors"))
    fix(
        [ill, other], FixOptions(dry_run=True), catalogue=CATALOGUE, jobs=2,
        on_progress=lambda each: seen.append((Path(each.path).name, each.number, each.of)),
    )  # fmt: skip
    assert list(dict.fromkeys(seen)) == [("model.safetensors", 1, 2), ("other.safetensors", 2, 2)]


@rule("TOY001", "count-up", WARNING, on=Tensor, fix=Safety.SAFE, part=("value",))
def count_up(tensor: Tensor) -> Iterator[Finding]:
    """A number below seven is followed by the next one.

    Why it matters:
        It does not.

    When it is normal:
        Always.

    What to do:
        Nothing.

    References:
        None.
    """
    value = float(tensor.array.flat[0])
    if tensor.name == "count" and value < 7:
        repair = Repair("count", f"becomes {value + 1:g}", fill(value + 1))
        yield count_up.finding(f"it is {value:g}", tensor, evidence={"value": value}, repairs=[repair])


@pytest.mark.parametrize(
    ("start", "outcome"), [(7, Outcome.NOTHING), (6, Outcome.PLANNED), (3, Outcome.PLANNED), (2, Outcome.FAILED)]
)
def test_what_repairs_reveal_is_repaired_for_four_rounds(start: int, outcome: Outcome, tmp_path: Path) -> None:
    path = stored(tmp_path / "model.safetensors", {"count": np.full(3, start, np.float32)})
    (result,) = fix([path], FixOptions(dry_run=True), catalogue=replace(CATALOGUE, rules=(count_up,)))
    assert result.outcome is outcome, result.error
    assert ("still found" in (result.error or "")) is (outcome is Outcome.FAILED)


# Options


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, {Safety.SAFE}),
        ({"recycle": True}, {Safety.SAFE, Safety.ON_REQUEST}),
        ({"unsafe": True}, {Safety.SAFE, Safety.UNSAFE}),
        ({"unsafe": True, "recycle": True}, set(Safety)),
    ],
)
def test_options_allow_repairs(options: dict[str, bool], allowed: set[Safety]) -> None:
    assert FixOptions(**options).allowed == allowed


@pytest.mark.parametrize("notes", [False, True])
def test_notes_are_fixed_where_they_are_asked_for(notes: bool, ill: Path) -> None:
    config = Config((Section("file", severities={"ZER003": NOTE}),))
    (result,) = fix([ill], FixOptions(notes=notes, dry_run=True), catalogue=CATALOGUE, config=config)
    assert result.outcome is (Outcome.PLANNED if notes else Outcome.NOTHING)
    assert result.record["options"]["notes"] is notes


def left(severity: Severity, ignored: str | None = None) -> Finding:
    return Finding("ZER003", "zero-bias", severity, "all zero", "net.2.bias", ignored=ignored)


@pytest.mark.parametrize(
    ("remaining", "fail_on", "ill"),
    [
        ((left(ERROR),), ERROR, True),
        ((left(WARNING),), ERROR, False),
        ((left(WARNING),), WARNING, True),
        ((left(ERROR),), NOTE, True),
        ((left(ERROR, "known"),), ERROR, False),
        ((left(NOTE), left(ERROR)), ERROR, True),
        ((left(ERROR),), None, False),
        ((), NOTE, False),
    ],
)
def test_what_remains_fails_a_run_from_a_severity_on(
    remaining: tuple[Finding, ...], fail_on: Severity | None, ill: bool
) -> None:
    assert FixResult("a", Outcome.FIXED, remaining=remaining).leaves_illness(fail_on) is ill


@pytest.mark.parametrize(
    ("name", "suffixes", "expected"),
    [
        ("model.zip", (".zip",), "model_FIXED.zip"),
        ("model.ZIP", (".zip",), "model_FIXED.ZIP"),
        ("m.safetensors.index.json", (".safetensors", ".safetensors.index.json"), "m_FIXED.safetensors.index.json"),
        ("m.safetensors.index.json", (".json", ".safetensors.index.json"), "m_FIXED.safetensors.index.json"),
        ("m.th", (".pt",), "m_FIXED.th"),
        (".zip", (".zip",), ".zip_FIXED"),
        ("model", (".zip",), "model_FIXED"),
        ("a.zip", (".zip",), "a_FIXED.zip"),
    ],
)
def test_a_result_is_called_after_its_input(name: str, suffixes: tuple[str, ...], expected: str) -> None:
    assert result_name(name, suffixes) == expected


# What is printed

BEFORE = Figures(-1.25, 2.0, 0.5, 0.25, 4, 0)
AFTER = Figures(0.5, 0.5, 0.5, 0.0, 0, 0)
NEVER = Figures(None, None, None, None, 0, 3)


def change(tensor: str = "net.2.bias", purpose: Purpose = Purpose.REPAIR, **fields: Any) -> ChangeRecord:
    known: dict[str, Any] = {
        "of": "", "rules": ("ZER003",), "init_rule": "0", "illness": "all zero", "entries": 4, "size": 8,
        "ranges": ((0, 4),), "tied": (), "before": BEFORE, "after": AFTER,
    }  # fmt: skip
    return ChangeRecord(tensor, purpose, **known | fields)


def unfixed(**fields: Any) -> Unfixed:
    known = {"subject": "net.4", "message": "it is NaN", "why": "it needs --unsafe", "advice": "Look."}
    return Unfixed("VAL001", "nonfinite-values", ERROR, **known | fields)


def invoked(
    monkeypatch: pytest.MonkeyPatch, *results: FixResult, width: int = 80, arguments: tuple[str, ...] = ()
) -> Any:
    monkeypatch.setattr(sys.modules[fix.__module__], "fix", lambda *_, **__: list(results))
    return CliRunner().invoke(app, ["fix", "model.pt", *arguments], env={"COLUMNS": str(width)})


FIXED = FixResult("model.pt", Outcome.FIXED, summary=Summary((change(),)), output="model_FIXED.pt")
CRASHED = Examination("model.pt", "torch", Verdict.INCOMPLETE, findings=(Finding(RULE_CRASHED, "x", ERROR, "no"),))
HEALTHY = Examination("model.pt", "torch", Verdict.HEALTHY)


@pytest.mark.parametrize(
    ("results", "arguments", "code"),
    [
        ([FIXED], (), 0),
        ([FIXED, replace(FIXED, outcome=Outcome.FAILED, error="no")], (), 2),
        ([replace(FIXED, examination=CRASHED)], (), 2),
        ([replace(FIXED, examination=HEALTHY)], (), 0),
        ([replace(FIXED, remaining=(left(ERROR),))], (), 1),
        ([replace(FIXED, remaining=(left(WARNING),))], (), 0),
        ([replace(FIXED, remaining=(left(WARNING),))], ("--fail-on", "warning"), 1),
        ([replace(FIXED, remaining=(left(ERROR),))], ("--fail-on", "never"), 0),
        ([FIXED, replace(FIXED, remaining=(left(ERROR),))], (), 1),
        ([replace(FIXED, remaining=(left(ERROR),), error="no", outcome=Outcome.FAILED)], (), 2),
    ],
)
def test_the_worst_result_decides_the_exit_code(
    results: list[FixResult], arguments: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoked(monkeypatch, *results, arguments=arguments).exit_code == code


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            FIXED,
            [
                "FIXED · model.pt", "", "  net.2.bias  ZER003", "      4 of 8: 0",
                "      [-1.25 to 2, 4 zero] → [0.5]", "",
                "  written and verified: model_FIXED.pt", "  record: model_FIXED.pt.ckdoc.json",
            ],
        ),
        (
            replace(FIXED, outcome=Outcome.PLANNED, summary=Summary((change(entries=8, before=NEVER, of="a.bias"),))),
            [
                "PLAN · model.pt", "", "  net.2.bias (as a.bias)  ZER003", "      all 8: 0",
                "      [not a finite number, 3 not finite] → [0.5]", "",
                "  nothing was written; without --dry-run the result would be model_FIXED.pt",
            ],
        ),
        (
            FixResult("model.pt", Outcome.NOTHING, summary=Summary(unfixed=(unfixed(),))),
            [
                "NOTHING TO FIX · model.pt", "",
                "  – not fixed: VAL001 nonfinite-values in net.4, because it needs --unsafe", "    it is NaN",
                "    advice: Look.", "",
                "  none of its findings can be fixed with these options, so nothing was written",
            ],
        ),
        (
            FixResult(
                "model.pt",
                Outcome.NOTHING,
                summary=Summary(unfixed=tuple(replace(unfixed(), subject=f"net.{n}") for n in range(6))),
            ),
            [
                "NOTHING TO FIX · model.pt", "",
                "  – not fixed: VAL001 nonfinite-values in net.0, because it needs --unsafe", "    it is NaN",
                "    the same holds for net.1, net.2, net.3 and 2 more", "    advice: Look.", "",
                "  none of its findings can be fixed with these options, so nothing was written",
            ],
        ),
        (
            FixResult("model.pt", Outcome.NOTHING),
            ["NOTHING TO FIX · model.pt", "", "  nothing needs a repair, so nothing was written"],
        ),
        (
            FixResult("model.pt", Outcome.FAILED, error="no", hint="try"),
            ["FAILED · model.pt", "  no", "  hint: try"],
        ),
        (FixResult("model.pt", Outcome.FAILED, error="no"), ["FAILED · model.pt", "  no"]),
    ],
    ids=["fixed", "planned", "unfixed", "unfixed alike", "nothing", "failed", "failed without a hint"],
)  # fmt: skip
def test_a_result_is_told(result: FixResult, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoked(monkeypatch, result, arguments=("--quiet",)).stdout.rstrip("\n").split("\n") == lines


def test_the_options_of_a_fix_allow_nothing_unless_it_is_said() -> None:
    assert FixOptions() == FixOptions(
        recycle=False, unsafe=False, seed=0, notes=False, force=False, dry_run=False, output=""
    )


@pytest.mark.parametrize(
    ("prognosis", "after", "lasts"),
    [
        (Prognosis.POINTLESS, None, True),
        (Prognosis.CURED, None, False),
        (Prognosis.CURED, {}, True),
        (Prognosis.CURED, {"cause": "another-cause"}, False),
        (Prognosis.CURED, {"severity": NOTE}, False),
        (Prognosis.CURED, {"preview": True}, False),
    ],
)
def test_which_causes_last(prognosis: Prognosis, after: dict[str, Any] | None, lasts: bool) -> None:
    cause = Diagnosis("zeroed-biases", Certainty.PROVEN, WARNING, "it was zeroed", (), prognosis=prognosis)
    found = () if after is None else (replace(cause, **after),)
    examined = Examination("model.pt", "torch", Verdict.HEALTHY, diagnoses=found)
    assert bool(replace(FIXED, treated=(cause,), after=examined).lasting) is lasts
    assert bool(replace(FIXED, treated=(cause,), after=None).lasting) is (prognosis is not Prognosis.CURED)


def test_a_path_that_is_longer_than_the_page_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/runs/" + "a-long-name" * 12 + "_FIXED.pt"
    told = invoked(monkeypatch, replace(FIXED, output=path), arguments=("--quiet",)).stdout.split("\n")
    assert f"  {path}" in told
    assert f"  {path}.ckdoc.json" in told


def test_moments_are_counted_and_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [change(f"exp_avg/{n}", Purpose.MOMENT, entries=1000 + n) for n in range(2)]
    told = invoked(monkeypatch, replace(FIXED, summary=Summary((change(), *moments))))
    assert "also 2,001 entries in 2 of the optimizer's moments" in told.stdout
    assert "exp_avg/" not in told.stdout
    assert "moments" not in invoked(monkeypatch, FIXED).stdout
    alone = invoked(monkeypatch, replace(FIXED, summary=Summary(tuple(moments)))).stdout
    assert alone.startswith("FIXED · model.pt\n\n  also 2,001 entries")


@pytest.mark.parametrize(
    ("count", "words"), [(1, "in a while"), (3, "in a, b, c while"), (4, "in a, b, c and 1 more while")]
)
def test_advice_that_several_share_is_told_once(count: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = tuple(Upstream(name, "Look.") for name in "abcd"[:count])
    told = invoked(monkeypatch, replace(FIXED, summary=Summary((change(),), upstream=upstream)))
    assert told.stdout.count("does not last") == 1
    assert f"  ! does not last {words} the cause remains. Look." in told.stdout


def test_a_wide_page_has_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (change(), change("a.much.longer.name", init_rule="uniform(-0.01, 0.01)", rules=("NRM001", "ZER003")))
    wide = invoked(monkeypatch, replace(FIXED, summary=Summary(rows)), width=120).stdout.split("\n")
    assert wide[2:4] == [
        "  net.2.bias          ZER003         0                     4 of 8  [-1.25 to 2, 4 zero] → [0.5]",
        "  a.much.longer.name  NRM001 ZER003  uniform(-0.01, 0.01)  4 of 8  [-1.25 to 2, 4 zero] → [0.5]",
    ]
    assert wide[4] == ""
    narrow = invoked(monkeypatch, replace(FIXED, summary=Summary(rows)), width=119).stdout
    assert "  net.2.bias  ZER003\n      4 of 8: 0\n" in narrow
    large = change("n" * 70, rules=("ZER003",) * 3, init_rule="u" * 50, entries=123_456_789, size=987_654_321)
    long = invoked(monkeypatch, replace(FIXED, summary=Summary((large, change()))), width=200).stdout
    assert f"  {'net.2.bias':60}  {'ZER003':16}  {'0':44}  {'4 of 8':18}  [" in long


def test_the_run_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = FixResult("other.pt", Outcome.NOTHING)
    told = invoked(monkeypatch, FIXED, replace(FIXED, summary=Summary((change(), change()))), nothing)
    assert told.stdout.splitlines()[-1] == "3 checkpoints: 2 fixed, 1 nothing to fix; 3 tensors changed"
    assert invoked(monkeypatch, nothing).stdout.splitlines()[-1] == "1 checkpoint: 1 nothing to fix; 0 tensors changed"
    assert "0 tensors changed" not in invoked(monkeypatch, nothing, arguments=("--quiet",)).output


@pytest.mark.parametrize(
    ("arguments", "options", "jobs"),
    [
        ((), FixOptions(), None),
        (("--dry-run",), FixOptions(dry_run=True), None),
        (("--recycle",), FixOptions(recycle=True), None),
        (("--unsafe",), FixOptions(unsafe=True), None),
        (("--force",), FixOptions(force=True), None),
        (("--seed", "3"), FixOptions(seed=3), None),
        (("--select", "ZER003"), FixOptions(notes=True), None),
        (("--output", "well.pt"), FixOptions(output="well.pt"), None),
        (("--jobs", "3"), FixOptions(), 3),
    ],
)
def test_the_command_line_sets_the_options(
    arguments: tuple[str, ...], options: FixOptions, jobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    def take(uris: Any, options: FixOptions, **settings: Any) -> list[FixResult]:
        given.append((uris, options, settings["jobs"]))
        return [FIXED]

    monkeypatch.setattr(sys.modules[fix.__module__], "fix", take)
    assert CliRunner().invoke(app, ["fix", "model.pt", *arguments]).exit_code == 0
    assert given == [(["model.pt"], options, jobs)]


def test_a_run_may_print_json(monkeypatch: pytest.MonkeyPatch) -> None:
    told = invoked(monkeypatch, replace(FIXED, record={"path": "model.pt"}), arguments=("--format", "json"))
    document = json.loads(told.stdout)
    assert document["operations"] == [{"path": "model.pt"}]
    assert document["schema_version"] == 1
