"""What ``scan`` returns for small files, and what ``ckdoc scan`` makes of a report: exit code, formats, lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file
from typer.testing import CliRunner

from checkpoint_doctor.acts.scan import Scan, examine, measure_checkpoint, run_rules, scan
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Skipped, Tensor
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.config.settings import Config, Section
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UsageError
from checkpoint_doctor.examination import examining, measuring
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.baseline import read_baseline, write_baseline
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import RULE_CRASHED, Examination, Page, Report, Verdict
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import mlp

CATALOGUE = discover()
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
MODULE = sys.modules[scan.__module__]


def stored(path: Path, **changes: Any) -> Path:
    save_file(mlp(**changes), path)
    return path


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return stored(tmp_path / "model.safetensors")


def no_checkpoint(folder: Path) -> Path:
    path = folder / "picture.pt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return path


def test_the_plugins_that_are_given_are_used(healthy: Path) -> None:
    one = replace(CATALOGUE)
    assert Scan([healthy], catalogue=one).catalogue is one
    assert Scan([healthy]).catalogue.rules


def test_files_that_are_no_checkpoints_count_where_they_are_named(healthy: Path) -> None:
    other = no_checkpoint(healthy.parent)
    verdicts = {
        skip: [each.verdict for each in scan([healthy, other], catalogue=CATALOGUE, skip_foreign=skip).checkpoints]
        for skip in (False, True)
    }
    assert verdicts == {False: [Verdict.HEALTHY, Verdict.UNREADABLE], True: [Verdict.HEALTHY]}
    report = scan([healthy.parent], catalogue=CATALOGUE)
    assert [each.path for each in report.checkpoints] == [str(healthy)]
    assert (report.rules, report.fail_on) == (sum(rule.examines_checkpoints for rule in CATALOGUE.rules), ERROR)


def test_nothing_to_examine_is_an_error_unless_other_files_are_skipped(tmp_path: Path) -> None:
    other = no_checkpoint(tmp_path)
    with pytest.raises(NothingToExamine, match="there is no checkpoint among 1 file"):
        scan([tmp_path], catalogue=CATALOGUE)
    assert scan([tmp_path], catalogue=CATALOGUE, skip_foreign=True).checkpoints == ()
    assert scan([other], catalogue=CATALOGUE, skip_foreign=True).checkpoints == ()


def test_progress_is_told_before_and_within_each_file(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int, int, int]] = []

    def take(each: Any) -> None:
        seen.append((Path(each.path).name, each.number, each.of, each.measured, each.total))

    other = stored(healthy.with_name("other.safetensors"))
    scan([healthy, other], catalogue=CATALOGUE, on_progress=take, jobs=2)
    assert seen == [("model.safetensors", 1, 2, 0, 0), ("other.safetensors", 2, 2, 0, 0)]
    seen.clear()
    monkeypatch.setattr(measuring, "SMALL_CHECKPOINT", 0)
    scan([healthy], catalogue=CATALOGUE, on_progress=take, jobs=2)
    size = sum(array.size for array in mlp().values())
    assert seen[0] == ("model.safetensors", 1, 1, 0, 0)
    assert [each[3] for each in seen[1:]] == np.cumsum(sorted((a.size for a in mlp().values()), reverse=True)).tolist()
    assert {each[4] for each in seen[1:]} == {size}


def test_nobody_has_to_listen_to_the_threads(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SMALL_CHECKPOINT", 0)
    (examination,) = scan([healthy], catalogue=CATALOGUE, jobs=2).checkpoints
    assert examination.verdict is Verdict.HEALTHY


@pytest.mark.parametrize(("jobs", "small", "threads"), [(2, 0, True), (1, 0, False), (2, 1 << 20, False)])
def test_threads_measure_large_checkpoints(
    jobs: int, small: int, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SMALL_CHECKPOINT", small)
    state = {"step": 9, "exp_avg": np.ones(12), "exp_avg_sq": np.ones(12)}
    checkpoint = build_checkpoint(mlp(), optimizer={"net.0.bias": state})
    seen: list[tuple[int, int]] = []
    measure_checkpoint(checkpoint, jobs, lambda done, total: seen.append((done, total)))
    size = sum(array.size for array in mlp().values()) + 24
    assert bool(seen) is threads
    assert not seen or seen[-1] == (size, size)
    assert all("statistics" in vars(each) for each in checkpoint.tensors)
    assert "statistics" in vars(checkpoint.optimizers[0].parameters[0])


def test_a_checkpoint_as_small_as_the_limit_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(array.size for array in mlp().values())
    for limit, count in ((size, 6), (size + 1, 0)):
        monkeypatch.setattr(measuring, "SMALL_CHECKPOINT", limit)
        seen: list[int] = []
        measure_checkpoint(build_checkpoint(mlp()), 2, lambda done, total, seen=seen: seen.append(done))
        assert len(seen) == count


@rule("TOY001", "says-so", WARNING, on=Tensor)
def says_so(tensor: Tensor) -> Iterator[Finding]:
    """A tensor is there.

    Why it matters:
        It does not.

    When it is normal:
        Always.

    What to do:
        Nothing.

    References:
        None.
    """
    if tensor.name == "net.0.bias":
        yield says_so.finding("it is there", tensor)
        yield says_so.finding("an error", tensor, severity=ERROR)


@rule("TOY002", "crashes", NOTE, on=Checkpoint)
def crashes(checkpoint: Checkpoint) -> Iterator[Finding]:
    """It crashes.

    Why it matters:
        It does not.

    When it is normal:
        Always.

    What to do:
        Nothing.

    References:
        None.
    """
    raise ValueError("no")
    yield


def examined(*rules: Any, **section: Any) -> Examination:
    catalogue = replace(CATALOGUE, rules=rules)
    return run_rules(build_checkpoint(mlp()), catalogue, Config((Section("file", **section),)).for_path("memory"))


def test_findings_come_worst_first_with_their_layer() -> None:
    found = examined(says_so)
    assert [(each.severity, each.layer, each.tensor) for each in found.findings] == [
        (ERROR, "net.0", "net.0.bias"), (WARNING, "net.0", "net.0.bias")
    ]  # fmt: skip
    assert (found.verdict, found.layers, len(found.tensors)) == (Verdict.ILL, 3, 6)


def test_a_rule_that_is_not_selected_does_not_run() -> None:
    assert examined(crashes, deselect=("TOY002",)).findings == ()
    assert [each.code for each in examined(says_so, crashes, select=("TOY002",)).findings] == [RULE_CRASHED]


def test_a_crash_does_not_stop_the_other_rules() -> None:
    found = examined(crashes, says_so)
    assert {each.code for each in found.findings} == {RULE_CRASHED, "TOY001"}
    assert found.verdict is Verdict.ILL
    assert examined(crashes).verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, None),
        ({"metadata": {"content": "holds a data set"}}, "model.pt holds a data set"),
        ({"tensors": ()}, "model.pt holds no tensor to examine"),
        (
            {"tensors": (), "skipped": (Skipped("weights", "it is encrypted"),)},
            "model.pt holds no tensor to examine (it is encrypted)",
        ),
        ({"tensors": (), "metadata": {"content": "holds a data set"}}, "model.pt holds a data set"),
        ({"tensors": (), "flaws": (Flaw("the checksum is wrong"),)}, None),
        ({"metadata": {"content": "holds a data set"}, "flaws": (Flaw("the checksum is wrong"),)}, None),
    ],
)
def test_a_file_without_a_model_is_named_unless_it_is_ill(
    fields: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = replace(build_checkpoint(mlp(), path="model.pt"), **fields)
    monkeypatch.setattr(examining, "open_checkpoint", lambda *_, **__: checkpoint)
    if words is None:
        found = examine("model.pt", CATALOGUE, Config().for_path("model.pt"))
        assert found.verdict is (Verdict.ILL if "flaws" in fields else Verdict.HEALTHY)
        return
    with pytest.raises(NotACheckpoint) as refusal:
        examine("model.pt", CATALOGUE, Config().for_path("model.pt"))
    assert refusal.value.message == words


def test_histograms_are_counted_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: np.where(np.arange(each.size).reshape(each.shape) == 0, np.nan, each)
               for name, each in mlp().items()}  # fmt: skip
    monkeypatch.setattr(examining, "open_checkpoint", lambda *_, **__: build_checkpoint(weights, path="model.pt"))
    settings = Config().for_path("model.pt")
    counted = {
        asked: any(each.histogram is not None for each in examine("model.pt", CATALOGUE, settings, **options).tensors)
        for asked, options in (("not", {}), ("yes", {"histograms": True}))
    }
    assert counted == {"not": False, "yes": True}


@pytest.mark.parametrize(("cores", "threads"), [(4, True), (1, False), (None, False)])
def test_by_default_there_is_a_thread_for_each_core(
    cores: int | None, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SMALL_CHECKPOINT", 0)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    seen: list[int] = []
    measure_checkpoint(build_checkpoint(mlp()), on_measured=lambda done, total: seen.append(done))
    assert bool(seen) is threads


@rule("TOY003", "names-others", WARNING, on=Checkpoint)
def names_others(checkpoint: Checkpoint) -> Iterator[Finding]:
    """It names what it likes.

    Why it matters:
        It does not.

    When it is normal:
        Always.

    What to do:
        Nothing.

    References:
        None.
    """
    own = names_others.finding("a whole file")
    yield own
    yield replace(own, message="a moment", tensor="optimizer/0/exp_avg")
    yield replace(own, message="a layer of its own", tensor="net.0.bias", layer="somewhere")


def test_only_a_tensor_of_the_model_gets_its_layer() -> None:
    found = {each.message: (each.tensor, each.layer) for each in examined(names_others).findings}
    assert found == {
        "a whole file": (None, None),
        "a moment": ("optimizer/0/exp_avg", None),
        "a layer of its own": ("net.0.bias", "somewhere"),
    }


def test_learned_values_are_counted_without_buffers_statistics_and_second_names() -> None:
    weights = mlp() | {
        "bn.weight": np.ones(8), "bn.bias": np.ones(8), "bn.running_mean": np.ones(8), "bn.running_var": np.ones(8),
        "bn.num_batches_tracked": np.array(3), "mask": np.ones(4),
    }  # fmt: skip
    found = run_rules(build_checkpoint(weights), CATALOGUE, Config().for_path("memory"))
    learned = sum(array.size for array in mlp().values()) + 16
    assert found.parameters == learned
    tied = tuple(replace(each, tied_to="x") if each.name == "net.0.bias" else each for each in found.tensors)
    assert replace(found, tensors=tied).parameters == learned - 12


def test_a_page_has_eighty_columns_without_colour() -> None:
    assert Page() == Page(width=80, color=False, verbose=False)
    assert WELL.layers == 0


def test_a_baseline_says_its_version_and_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    text = write_baseline(Report((SICK,), rules=3), str(path))
    assert json.loads(text)["baseline_version"] == 1
    with pytest.raises(UsageError) as refusal:
        read_baseline(str(path))
    assert refusal.value.message == f"cannot read the baseline {path}: no such file or directory"


def test_errors_fail_a_run_by_default() -> None:
    assert Report((SICK,), rules=3).failed
    assert not Report((WARNED,), rules=3).failed


# The command line


def finding(severity: Severity, code: str = "ZER003") -> Finding:
    return Finding(code, "zero-bias", severity, "all zero", "net.2.bias", "net.2")


WELL = Examination("model.pt", "torch", Verdict.HEALTHY)
WARNED = replace(WELL, findings=(finding(WARNING),))
SICK = replace(WELL, verdict=Verdict.ILL, findings=(finding(ERROR),))
BAD = Examination("bad.pt", None, Verdict.UNREADABLE, error="no")
CRASHED = replace(WELL, verdict=Verdict.INCOMPLETE, findings=(finding(ERROR, RULE_CRASHED),))


def standing_in(report: Report, given: list[Any] | None = None) -> Any:
    """A scan that comes to a report at once."""

    class Done:
        def __init__(self, uris: Any, **settings: Any) -> None:
            if given is not None:
                given.append((uris, settings))

        def examine_all(self, on_progress: Any) -> Iterator[Examination]:
            return iter(report.checkpoints)

        def conclude(self, checkpoints: tuple[Examination, ...], counted: Any) -> Report:
            return replace(report, checkpoints=checkpoints, counted=counted)

    return Done


def invoked(
    monkeypatch: pytest.MonkeyPatch, *checkpoints: Examination, arguments: Sequence[str] = (), fail_on: Any = ERROR
) -> Any:
    report = Report(checkpoints, rules=3, fail_on=fail_on)
    monkeypatch.setattr(MODULE, "Scan", standing_in(report))
    return CliRunner().invoke(app, ["scan", "model.pt", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


@pytest.mark.parametrize(
    ("checkpoints", "fail_on", "code"),
    [
        ([WELL], ERROR, 0),
        ([WARNED], ERROR, 0),
        ([WARNED], WARNING, 1),
        ([SICK], ERROR, 1),
        ([SICK], None, 0),
        ([BAD], ERROR, 2),
        ([SICK, BAD], ERROR, 2),
        ([BAD, SICK], None, 2),
        ([CRASHED], ERROR, 2),
        ([SICK, CRASHED], ERROR, 2),
        ([WELL, SICK], ERROR, 1),
    ],
)
def test_the_exit_code_is_that_of_the_report(
    checkpoints: list[Examination], fail_on: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoked(monkeypatch, *checkpoints, fail_on=fail_on).exit_code == code


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"jobs": None, "skip_foreign": False}),
        (("--jobs", "3"), {"jobs": 3, "skip_foreign": False}),
        (("--skip-foreign",), {"jobs": None, "skip_foreign": True}),
    ],
)
def test_the_command_line_sets_what_is_scanned(
    arguments: tuple[str, ...], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(MODULE, "Scan", standing_in(Report((WELL,), rules=3), given))
    assert CliRunner().invoke(app, ["scan", "model.pt", *arguments]).exit_code == 0
    [(uris, settings)] = given
    assert uris == ["model.pt"]
    assert {name: settings[name] for name in expected} == expected


def test_the_summary_is_the_last_line_unless_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoked(monkeypatch, SICK).stdout.splitlines()[-1] == "0 tensors, 3 rules, 1 finding"
    assert "0 tensors, 3 rules" not in invoked(monkeypatch, SICK, arguments=["--quiet"]).output


def test_all_layers_are_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = replace(WELL, findings=(replace(finding(WARNING), ignored="by design"),))
    assert "by design" not in invoked(monkeypatch, hidden).stdout
    assert "by design" in invoked(monkeypatch, hidden, arguments=["--verbose"]).stdout


def test_reports_go_to_files_beside_standard_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, other = tmp_path / "a.json", tmp_path / "b.xml"
    told = invoked(monkeypatch, SICK, arguments=["--report", f"json={one}", "--report", f"junit={other}"])
    assert "ZER003" in told.stdout
    assert json.loads(one.read_text())["checkpoints"][0]["verdict"] == "ill"
    assert other.read_text().startswith("<?xml")
    told = invoked(monkeypatch, SICK, arguments=["--format", "json", "--output", str(one)])
    assert told.stdout == ""


@pytest.mark.parametrize("text", ["json", "=a.json", "json=", "nothing=a.json"])
def test_a_report_needs_a_format_and_a_file(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = invoked(monkeypatch, SICK, arguments=["--report", text])
    assert isinstance(told.exception, UsageError)


def test_a_terminals_width_is_used_only_for_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Words of one letter fill every second column, so one of the two fills the last one.
    messages = [start + "a " * 200 for start in ("a ", "bb ")]
    long = replace(SICK, findings=tuple(replace(finding(ERROR), message=each) for each in messages))
    lines = invoked(monkeypatch, long).stdout.split("\n")
    assert max(map(len, lines)) == 100
    path = tmp_path / "report.txt"
    invoked(monkeypatch, long, arguments=["--output", str(path)])
    lines = path.read_text().split("\n")
    assert max(map(len, lines)) == 80
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = Report((SICK,), rules=3)
    monkeypatch.setattr(MODULE, "Scan", standing_in(report))
    coloured = CliRunner().invoke(app, ["scan", "model.pt"], color=True)
    assert "\x1b[" in coloured.stdout
    CliRunner().invoke(app, ["scan", "model.pt", "--output", str(path)], color=True)
    assert "\x1b[" not in path.read_text()


@pytest.mark.parametrize(("save", "promised"), [(np.savez, {"safe"}), (np.savez_compressed, {None})])
def test_no_repair_is_promised_for_a_file_that_cannot_be_changed(
    save: Callable[..., None], promised: set[str | None], tmp_path: Path
) -> None:
    tensors = mlp()
    for name in tensors:
        if name.endswith("bias"):
            tensors[name] = np.zeros_like(tensors[name])
    save(tmp_path / "model.npz", **tensors)
    report = scan([tmp_path / "model.npz"], catalogue=CATALOGUE)
    (examination,) = report.checkpoints
    zeros = [each for each in examination.findings if each.code == "ZER003"]
    assert {each.fix and each.fix.value for each in zeros} == promised
    words = CATALOGUE.reporters["terminal"].render(report, CATALOGUE.rules, Page())
    assert ("`ckdoc fix` cannot change a file of this kind" in words) is (promised == {None})
