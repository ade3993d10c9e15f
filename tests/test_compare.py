"""Comparing checkpoints: the order, what belongs together, bad input, and what is said of a real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import ROOT

from checkpoint_doctor import compare, scan, to_json
from checkpoint_doctor.errors import NothingToExamine, UsageError
from checkpoint_doctor.results.series_report import SeriesRecord, SeriesReport, TensorRow
from tests.command import run_command

SCHEMA = json.loads((ROOT / "docs" / "compare.schema.json").read_text())


def ckdoc(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_command("compare", *arguments, environment=environment)


def state(position: float, *, width: int = 6, seed: int = 0, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A network that moves a little from position to position."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"0.weight": (8, width), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
    initial = {name: torch.randn(shape, generator=generator) / 3 for name, shape in draw.items()}
    moves = {name: torch.randn(shape, generator=generator) / 100 for name, shape in draw.items()}
    return {name: initial[name] + position * moves[name] for name in draw} | more


def save(path: Path, position: float, *, step: int | None = None, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state(position, **more) if step is None else {"model": state(position, **more), "step": step}, path)
    return path


def run(folder: Path, steps: list[int], name: str = "step_{}.pt", **more: Any) -> list[Path]:
    return [save(folder / name.format(step), place + 1, step=step, **more) for place, step in enumerate(steps)]


def only(report: SeriesReport) -> SeriesRecord:
    [record] = report.series
    return record


def row(record: SeriesRecord, name: str) -> TensorRow:
    [found] = [each for each in record.tensors if each.name == name]
    return found


def names(record: SeriesRecord) -> list[str]:
    return [Path(point.path).name for point in record.points]


class TestOrder:
    def test_the_step_inside_decides(self, tmp_path: Path) -> None:
        for position, name in enumerate(["c", "a", "d", "b"]):
            save(tmp_path / f"{name}.pt", position, step=100 * position)
        record = only(compare(tmp_path))
        assert (record.ordered_by, names(record)) == ("step", ["c.pt", "a.pt", "d.pt", "b.pt"])

    def test_numbers_in_names_are_numbers(self, tmp_path: Path) -> None:
        for number in (9, 10, 100):
            save(tmp_path / f"model_{number}.pt", number)
        record = only(compare(tmp_path))
        assert (record.ordered_by, names(record)) == ("name", ["model_9.pt", "model_10.pt", "model_100.pt"])

    def test_a_counter_that_they_share_decides_where_there_is_no_step(self, tmp_path: Path) -> None:
        for epoch, name in ((2, "a"), (0, "b"), (1, "c")):
            torch.save({"model": state(epoch), "epoch": epoch}, tmp_path / f"{name}.pt")
        record = only(compare(tmp_path))
        assert (record.ordered_by, names(record)) == ("epoch", ["b.pt", "c.pt", "a.pt"])

    def test_updates_decide_where_a_resume_counted_steps_anew(self, tmp_path: Path) -> None:
        network = torch.nn.Linear(4, 2)
        optimizer = torch.optim.Adam(network.parameters())
        for number, step in enumerate([100, 200, 300, 50, 150, 250]):
            network(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
            saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, tmp_path / f"save_{number}.pt")
        record = only(compare(tmp_path))
        assert (record.ordered_by, names(record)) == ("updates", [f"save_{number}.pt" for number in range(6)])
        assert "run backwards" in " ".join(record.remarks)

    def test_steps_that_run_backwards_are_said(self, tmp_path: Path) -> None:
        for number, step in enumerate([100, 200, 300, 250, 350]):
            save(tmp_path / f"save_{number}.pt", number, step=step)
        record = only(compare(tmp_path))
        assert [point.step for point in record.points] == [100, 200, 250, 300, 350]
        assert "save_3.pt is at step 250" in " ".join(record.remarks)

    def test_two_named_files_stay_in_their_order(self, tmp_path: Path) -> None:
        late, early = save(tmp_path / "late.pt", 9, step=900), save(tmp_path / "early.pt", 1, step=100)
        record = only(compare([late, early]))
        assert (record.ordered_by, names(record)) == ("command line", ["late.pt", "early.pt"])
        assert "run backwards" in " ".join(record.remarks)

    def test_folders_that_are_checkpoints_are_one_point_each(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        for step in (500, 1000, 1500):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            save_file(state(step / 500), folder / "model.safetensors")
            (folder / "config.json").write_text('{"model_type": "bert"}')
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        record = only(compare(tmp_path))
        assert (record.ordered_by, [point.step for point in record.points]) == ("step", [500, 1000, 1500])


class TestWhatBelongsTogether:
    def test_another_architecture_is_left_out_by_name(self, tmp_path: Path) -> None:
        run(tmp_path, [1, 2, 3])
        save(tmp_path / "other.pt", 1, step=9, width=7)
        report = compare(tmp_path)
        assert len(only(report).points) == 3
        [left] = report.left_out
        assert left.what.endswith("other.pt")
        assert "0.weight has the shape 8×7, and theirs 8×6" in left.why
        assert report.is_complete

    def test_unrelated_models_are_series_of_their_own(self, tmp_path: Path) -> None:
        run(tmp_path / "a", [1, 2, 3])
        run(tmp_path / "b", [1, 2], width=9)
        assert [len(record.points) for record in compare(tmp_path).series] == [3, 2]

    def test_runs_of_one_model_in_several_folders_are_not_mixed(self, tmp_path: Path) -> None:
        run(tmp_path / "seed_0", [1, 2, 3])
        run(tmp_path / "seed_1", [1, 2, 3], seed=1)
        assert [len(record.points) for record in compare(tmp_path).series] == [3, 3]

    def test_checkpoints_with_a_folder_each_are_one_run(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            save(tmp_path / f"epoch_{step}" / "model.pt", step, step=step)
        assert len(only(compare(tmp_path)).points) == 3

    def test_models_of_one_architecture_that_share_nothing_else_are_no_trend(self, tmp_path: Path) -> None:
        for seed in range(5):
            save(tmp_path / f"agent_{seed}.pt", 1, step=seed, seed=seed)
        record = only(compare(tmp_path))
        assert record.findings == ()
        assert "different runs" in " ".join(record.remarks)

    def test_agents_with_a_folder_each_are_no_run(self, tmp_path: Path) -> None:
        for name in ("ppo", "a2c", "trpo"):
            save(tmp_path / name / "model.pt", 1)
        with pytest.raises(NothingToExamine, match="only checkpoint in its folder"):
            compare(tmp_path)

    def test_a_copy_of_a_checkpoint_is_left_out(self, tmp_path: Path) -> None:
        run(tmp_path, [1, 2, 3])
        shutil.copy(tmp_path / "step_2.pt", tmp_path / "best_model.pt")
        os.link(tmp_path / "step_3.pt", tmp_path / "last.pt")
        report = compare(tmp_path)
        assert len(only(report).points) == 3
        assert sorted(each.why.partition(" /")[0] for each in report.left_out) == [
            "it holds the same values as",
            "it is the same file as",
        ]

    def test_what_cannot_be_read_is_named_and_the_rest_compared(self, tmp_path: Path) -> None:
        paths = run(tmp_path, [1, 2, 3, 4])
        paths[1].write_bytes(paths[1].read_bytes()[:900])
        report = compare(tmp_path)
        assert [point.step for point in only(report).points] == [1, 3, 4]
        [unreadable] = report.unreadable
        assert unreadable.path == str(paths[1])
        assert not report.is_complete

    def test_one_checkpoint_is_not_enough(self, tmp_path: Path) -> None:
        [path] = run(tmp_path, [1])
        with pytest.raises(NothingToExamine, match="comparing takes two"):
            compare(path)
        with pytest.raises(NothingToExamine, match="named twice"):
            compare([path, path])

    def test_models_that_share_nothing_are_not_compared(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one.pt", tmp_path / "other.pt"
        torch.save({"a.weight": torch.randn(3, 3)}, one)
        torch.save({"b.weight": torch.randn(3, 3)}, other)
        with pytest.raises(NothingToExamine, match="none of its tensors has the name of one of theirs"):
            compare([one, other])

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        [path] = run(tmp_path, [1])
        report = compare([path, tmp_path / "missing.pt"])
        assert report.series == ()
        assert [each.path for each in report.unreadable] == [str(tmp_path / "missing.pt")]
        assert not report.is_complete

    def test_an_address_that_nothing_reads_is_refused(self) -> None:
        with pytest.raises(UsageError, match="no library that is installed reads foo://"):
            compare("foo://bucket/run")


class TestADifference:
    def test_it_says_what_changed(self, tmp_path: Path) -> None:
        base = state(1.0)
        tuned = {**base, "2.weight": base["2.weight"] * 1.5, "head.weight": torch.randn(2, 3)}
        del tuned["2.bias"]
        before, after = tmp_path / "base.pt", tmp_path / "tuned.pt"
        torch.save({"model": base, "config": {"gamma": 0.99}}, before)
        torch.save({"model": tuned, "config": {"gamma": 0.95}}, after)
        record = only(compare([before, after]))
        assert row(record, "2.weight").change == (None, pytest.approx(0.5))
        assert row(record, "0.weight").still_fraction == (None, 1.0)
        assert record.appeared == ("head.weight",)
        assert record.vanished == ("2.bias",)
        assert [(each.name, each.values) for each in record.settings] == [("gamma", (0.99, 0.95))]

    def test_the_terminal_shows_it(self, tmp_path: Path) -> None:
        before, after = save(tmp_path / "a.pt", 1.0), save(tmp_path / "b.pt", 2.0)
        result = ckdoc(before, after)
        assert result.returncode == 0, result.stderr
        assert "DIFFERENCE" in result.stdout
        assert "relative change" in result.stdout

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "int32"])
    def test_every_type_is_compared(self, tmp_path: Path, dtype: str) -> None:
        values = torch.arange(1, 41).reshape(4, 10).to(getattr(torch, dtype))
        torch.save({"0.weight": values, "0.bias": torch.ones(4)}, tmp_path / "a.pt")
        torch.save({"0.weight": 2 * values, "0.bias": torch.ones(4)}, tmp_path / "b.pt")
        record = only(compare([tmp_path / "a.pt", tmp_path / "b.pt"]))
        assert row(record, "0.weight").change[1] == pytest.approx(1.0)
        assert row(record, "0.bias").still_fraction[1] == 1.0

    def test_what_is_not_finite_does_not_hide_the_change(self, tmp_path: Path) -> None:
        values = torch.full((4, 10), 2.0)
        broken = 1.5 * values
        broken[0, 0] = torch.nan
        torch.save({"0.weight": values}, tmp_path / "a.pt")
        torch.save({"0.weight": broken}, tmp_path / "b.pt")
        record = only(compare([tmp_path / "a.pt", tmp_path / "b.pt"]))
        assert row(record, "0.weight").change[1] == pytest.approx(0.5, rel=0.02)
        assert row(record, "0.weight").nonfinite == (0.0, 1.0)


class TestReports:
    def test_reports_stand_in_for_their_checkpoints(self, tmp_path: Path) -> None:
        run(tmp_path, [1, 2, 3, 4])
        (tmp_path / "run.json").write_text(json.dumps(to_json(scan([tmp_path / f"step_{step}.pt" for step in (1, 2)]))))
        report = compare([tmp_path / "run.json", tmp_path / "step_3.pt", tmp_path / "step_4.pt"])
        record = only(report)
        assert [point.step for point in record.points] == [1, 2, 3, 4]
        assert all(value is not None for value in row(record, "0.weight").norm)
        assert [value is None for value in row(record, "0.weight").change] == [True, True, True, False]
        assert "reports" in " ".join(record.remarks)

    def test_a_checkpoint_counts_more_than_its_report(self, tmp_path: Path) -> None:
        paths = run(tmp_path, [1, 2, 3])
        (tmp_path / "run.json").write_text(json.dumps(to_json(scan(paths[:2]))))
        report = compare([tmp_path / "run.json", *paths])
        record = only(report)
        assert [point.step for point in record.points] == [1, 2, 3]
        assert all(value is not None for value in row(record, "0.weight").change[1:])
        assert len(report.left_out) == 2

    def test_a_monitor_may_give_all_its_points_one_path(self, tmp_path: Path) -> None:
        document = to_json(scan(run(tmp_path, [1, 2, 3, 4, 5])))
        for number, each in enumerate(document["checkpoints"]):
            each["path"] = "training"
            for tensor in each["tensors"]:
                if tensor["name"] == "0.bias" and number >= 3:
                    tensor["zeros"] = 8
        (tmp_path / "monitor.json").write_text(json.dumps(document))
        record = only(compare(tmp_path / "monitor.json"))
        [finding] = [each for each in record.counted if each.code == "TRD001"]
        assert (finding.evidence["onset_step"], record.onset_of(finding)) == (4, 3)

    def test_absurd_numbers_in_a_report_crash_nothing(self, tmp_path: Path) -> None:
        document = to_json(scan(run(tmp_path, [1, 2, 3, 4])))
        for number, each in enumerate(document["checkpoints"]):
            each["path"], each["step"] = f"live {number}", number * 10**400
            each["tensors"][0] |= {"zeros": 10**400, "nonfinite": 10**400, "norm": 10**400, "updates": 10**400}
        (tmp_path / "absurd.json").write_text(json.dumps(document))
        report = compare(tmp_path / "absurd.json")
        assert len(only(report).points) == 4
        assert report.is_complete

    def test_what_is_no_report_is_named(self, tmp_path: Path) -> None:
        run(tmp_path, [1, 2])
        (tmp_path / "bad.json").write_text("{")
        report = compare([tmp_path / "bad.json", *tmp_path.glob("*.pt")])
        assert len(only(report).points) == 2
        assert [each.path for each in report.unreadable] == [str(tmp_path / "bad.json")]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight checkpoints whose second layer stands still from step 500 on, and whose bias is zeroed."""
    folder = tmp_path_factory.mktemp("frozen")
    for place, step in enumerate(range(100, 900, 100)):
        tensors = state(place)
        if place >= 4:
            tensors["2.weight"] = state(3)["2.weight"]
            tensors["0.bias"] = torch.zeros(8)
        torch.save({"model": tensors, "step": step}, folder / f"step_{step}.pt")
    return folder


class TestTheCommand:
    def test_json_is_as_its_schema_says(self, frozen: Path) -> None:
        result = ckdoc(frozen, "--format", "json")
        document = json.loads(result.stdout)
        jsonschema.Draft202012Validator(SCHEMA).validate(document)
        [series] = document["series"]
        found = {(each["code"], each["tensor"]): each["evidence"] for each in series["findings"]}
        assert found["TRD003", "2.weight"]["onset_step"] == 500
        assert found["TRD001", "0.bias"]["onset_path"] == str(frozen / "step_500.pt")
        assert document["failed"]
        assert result.returncode == 1

    def test_the_terminal_marks_the_onset(self, frozen: Path) -> None:
        text = ckdoc(frozen, COLUMNS="120").stdout
        assert "TRD003 frozen-tensor · 2.weight" in text
        assert "zeros: 0%, 0%, 0%, 0%, ▶100%, 100%, 100%, 100%" in text
        assert "▁▁▁▁│████" in text

    @pytest.mark.parametrize("width", [30, 40, 80, 200])
    def test_no_line_is_wider_than_the_terminal(self, frozen: Path, width: int) -> None:
        from checkpoint_doctor.builtin.reporters.terminal import reporter
        from checkpoint_doctor.results.report import Page

        report = compare(frozen)
        for page in (Page(width=width), Page(width=width, tensors=("2.*",)), Page(width=width, verbose=True)):
            lines = reporter.render_series(report, (), page).splitlines()
            assert max(map(len, lines)) <= width

    def test_a_pattern_zooms(self, frozen: Path) -> None:
        text = ckdoc(frozen, "--tensor", "2.*").stdout
        assert "▶ 500" in text
        assert "no tensor matches nothing" in ckdoc(frozen, "--tensor", "nothing").stdout

    def test_an_output_without_block_characters_has_plain_ones(self, frozen: Path) -> None:
        command = [sys.executable, "-m", "checkpoint_doctor", "compare", str(frozen)]
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        text = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stdout
        assert ">100%" in text
        assert "\\u2581" not in text

    def test_formats_that_show_no_series_are_refused(self, frozen: Path) -> None:
        result = ckdoc(frozen, "--format", "sarif")
        assert result.returncode == 2
        assert "does not show series" in result.stderr
        assert "terminal" in result.stderr

    def test_markdown_has_findings_and_tensors(self, frozen: Path) -> None:
        text = ckdoc(frozen, "--format", "markdown").stdout
        assert "warning **TRD003** frozen-tensor · `2.weight`, since step 500: " in text
        assert "| 0.bias | ▁▁▁▁████ 100% |" in text

    def test_exit_codes(self, frozen: Path, tmp_path: Path) -> None:
        paths = run(tmp_path, [1, 2, 3])
        assert ckdoc(*paths).returncode == 0
        assert ckdoc(frozen, "--fail-on", "never").returncode == 0
        assert ckdoc(paths[0]).returncode == 3
        (tmp_path / "step_4.pt").write_bytes(paths[0].read_bytes()[:900])
        damaged = ckdoc(tmp_path)
        assert damaged.returncode == 2
        assert "unreadable" in damaged.stdout
        assert ckdoc(frozen, "--ignore", "TRD,ZER,NET").returncode == 0

    def test_an_output_never_replaces_a_checkpoint(self, frozen: Path, tmp_path: Path) -> None:
        assert ckdoc(frozen, "-f", "json", "-o", tmp_path / "out.json").returncode == 1
        assert json.loads((tmp_path / "out.json").read_text())["series"]
        assert ckdoc(frozen, "-f", "json", "-o", frozen / "step_100.pt").returncode == 2

    def test_names_from_files_stay_text(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            evil = {"\x1b[31m::error::.weight": torch.randn(3, 3)}
            torch.save({"model": evil, "step": step}, tmp_path / f"step_{step}.pt")
        result = ckdoc(tmp_path)
        assert "\x1b" not in result.stdout
        assert "::error::" not in result.stdout


def test_memory_does_not_grow_with_the_checkpoints(tmp_path: Path) -> None:
    """Tensors of 4 MB each: forty checkpoints may cost a megabyte more than four, and not 36 times 4."""
    import tracemalloc

    generator = np.random.default_rng(0)
    weights = generator.normal(size=(1000, 1000)).astype(np.float32)
    for step in range(12):
        torch.save({"0.weight": torch.from_numpy(weights * (1 + step / 100))}, tmp_path / f"step_{step:02}.pt")
    peaks = []
    for count in (3, 12):
        tracemalloc.start()
        compare([tmp_path / f"step_{step:02}.pt" for step in range(count)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2 << 20
