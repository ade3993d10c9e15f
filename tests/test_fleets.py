"""Many checkpoints in one run: results that come line by line, and that a later run goes on from."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import referencing
from safetensors.numpy import save_file

from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from tests.command import run_command
from tests.conftest import ROOT
from tests.range_server import serve

COMMAND = [sys.executable, "-m", "checkpoint_doctor", "scan"]
LONG_AGO = 1_700_000_000_123_456_789
OPENED = """
import os, sys
from checkpoint_doctor.cli import main

def follow(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith("run"):
        with open("opened.txt", "a") as opened:
            opened.write(f"{arguments[0]}\\n")

sys.addaudithook(follow)
main()
"""


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the folder ``run``: eleven healthy checkpoints, one ill, one that cannot be read."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    for number in range(11):
        write(run / f"step_{number}.safetensors", number)
    shutil.copy(fixtures / "case_5_zero_head.pt", run / "ill.pt")
    (run / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for file in run.iterdir():
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
    return tmp_path


def write(file: Path, seed: int, modified: int | None = LONG_AGO) -> None:
    drawn = np.random.default_rng(seed).normal(size=(16, 8)) / 4
    save_file({"a.weight": drawn.astype(np.float32), "a.bias": drawn[:, 0].astype(np.float32)}, file)
    if modified:
        os.utime(file, ns=(modified, modified))


def ckdoc(*arguments: str, code: int | None = 2) -> subprocess.CompletedProcess[str]:
    done = run_command("scan", *arguments)
    assert code is None or done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def opened(*arguments: str) -> list[str]:
    """Run a scan, and return which files of ``run`` it opened."""
    Path("opened.txt").unlink(missing_ok=True)
    subprocess.run([sys.executable, "-c", OPENED, "scan", *arguments], capture_output=True, timeout=120, check=False)
    log = Path("opened.txt")
    return sorted(set(log.read_text().split())) if log.exists() else []


def test_each_line_is_the_entry_of_the_json_report_and_the_last_one_sums_up(folder: Path) -> None:
    *entries, last = lines(ckdoc("run", "-f", "jsonl").stdout)
    report = json.loads(ckdoc("run", "-f", "json").stdout)
    assert entries == report["checkpoints"]
    assert {name: last[name] for name in report if name != "checkpoints"} == {
        name: value for name, value in report.items() if name != "checkpoints"
    }
    assert (last["examined"], last["complete"], last["failed"]) == (13, False, True)
    assert last["verdicts"] == {"healthy": 11, "ill": 1, "unreadable": 1}
    assert [(each["path"], each["verdict"]) for each in last["worst"]] == [
        ("run/bad.safetensors", "unreadable"),
        ("run/ill.pt", "ill"),
    ]
    assert last["summary"] == ckdoc("run", "-f", "json").stderr.strip()


def test_every_line_obeys_the_published_schema(folder: Path) -> None:
    report, line = (json.loads((ROOT / "docs" / f"{name}.schema.json").read_text()) for name in ("report", "jsonl"))
    resources = [(each["$id"], referencing.Resource.from_contents(each)) for each in (report, line)]
    validator = jsonschema.Draft202012Validator(line, registry=referencing.Registry().with_resources(resources))
    written = lines(ckdoc("run", "-f", "jsonl").stdout)
    for each in written:
        validator.validate(each)
    for broken in ({**written[-1], "worst": None}, {**written[0], "verdict": "fine"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


def test_lines_come_as_checkpoints_are_examined_and_a_closed_pipe_ends_the_run(folder: Path) -> None:
    with subprocess.Popen([*COMMAND, "run", "-f", "jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["path"] == "run/bad.safetensors"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_a_closed_pipe_does_not_end_a_run_that_writes_files_too(folder: Path) -> None:
    command = [*COMMAND, "run", "-f", "jsonl", "--report", "html=page.html", "--report", "jsonl=r.jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
    assert Path("page.html").read_text().startswith("<!doctype html>")
    assert len(lines(Path("r.jsonl").read_text())) == 14


def test_a_file_is_written_whole_or_not_at_all(folder: Path) -> None:
    ckdoc("run", "-f", "jsonl", "-o", "out.jsonl")
    assert len(lines(Path("out.jsonl").read_text())) == 14
    before = Path("out.jsonl").read_text()
    ckdoc("missing*.pt", "-f", "jsonl", "-o", "out.jsonl", code=3)
    assert Path("out.jsonl").read_text() == before
    ckdoc("run", "-f", "jsonl", "-o", "run/ill.pt")
    assert sorted(os.listdir(folder)) == ["out.jsonl", "run"]


def test_streamed_reports_say_the_same_as_those_that_are_rendered(folder: Path) -> None:
    baseline = (
        '[[ignore]]\ncode = "ZER"\nreason = "known"\n[[ignore]]\ncode = "POL"\nreason = "old"\npath = "nowhere/*"\n'
    )
    Path("ckdoc.toml").write_text(baseline)
    ckdoc("run", "--write-baseline", "known.json", "-f", "json")
    for options in ((), ("--baseline", "known.json"), ("--ignore", "OPT", "--fail-on", "note")):
        streamed = lines(ckdoc("run", "-f", "jsonl", *options, code=None).stdout)
        rendered = ckdoc("run", "-f", "json", "--report", "statistics=held.txt", *options, code=None)
        report = json.loads(rendered.stdout)
        assert streamed[:-1] == report.pop("checkpoints")
        assert {name: streamed[-1][name] for name in report} == report
        assert streamed[-1]["summary"] == rendered.stderr.strip()
        assert ckdoc("run", "-f", "statistics", "-q", *options, code=None).stdout == Path("held.txt").read_text()


class TestParquet:
    @pytest.fixture(autouse=True)
    def parquet(self) -> Any:
        return pytest.importorskip("pyarrow.parquet")

    def test_a_table_has_a_row_for_each_checkpoint_with_its_findings_and_tensors(self, folder: Path) -> None:
        import pyarrow.parquet

        ckdoc("run", "-f", "jsonl", "--report", "parquet=r.parquet")
        *entries, last = lines(ckdoc("run", "-f", "jsonl").stdout)
        table = pyarrow.parquet.read_table("r.parquet").to_pylist()
        assert [row["path"] for row in table] == [each["path"] for each in entries]
        for row, entry in zip(table, entries, strict=True):
            assert row["verdict"] == entry["verdict"]
            assert row["tensors"] == entry["tensors"]
            assert [each["code"] for each in row["findings"]] == [each["code"] for each in entry["findings"]]
            assert [json.loads(each["evidence"]) for each in row["findings"]] == [
                each["evidence"] for each in entry["findings"]
            ]
        [ill] = [row for row in table if row["verdict"] == "ill"]
        assert (ill["errors"], ill["causes"], ill["codes"]) == (1, ["detached"], ["NET003", "OPT001"])
        run = pyarrow.parquet.read_metadata("r.parquet").metadata[b"checkpoint_doctor.run"]
        assert json.loads(run) == last

    def test_rows_are_written_as_they_come_in_bounded_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import io

        import pyarrow.parquet

        from checkpoint_doctor.builtin.reporters import parquet
        from checkpoint_doctor.testing.reporters import build_reports

        monkeypatch.setattr(parquet, "ROWS", 3)
        report, stream = build_reports()["several checkpoints"], io.BytesIO()
        writer = parquet.reporter.open_stream(stream, (), Page())
        sizes = [(writer.add(each), stream.tell())[1] for each in report.checkpoints * 2]
        writer.finish(report)
        assert sizes[2] > sizes[1] == sizes[0]
        assert sizes[5] > sizes[4] == sizes[3]
        assert pyarrow.parquet.read_metadata(stream).num_row_groups == 3

    def test_what_has_no_room_in_a_column_is_left_out(self) -> None:
        import io

        import pyarrow.parquet

        from checkpoint_doctor.builtin.reporters import parquet

        stream = io.BytesIO()
        odd = Examination("lone \udc80.pt", "torch", Verdict.HEALTHY, step=2**70, hyperparameters={"n": 2**80})
        writer = parquet.reporter.open_stream(stream, (), Page())
        writer.add(odd)
        writer.finish(Report((odd,), 1))
        [row] = pyarrow.parquet.read_table(stream).to_pylist()
        assert (row["path"], row["step"]) == ("lone \\udc80.pt", None)
        assert json.loads(row["hyperparameters"]) == {"n": 2**80}

    def test_it_goes_to_a_file_and_needs_its_library(self, folder: Path) -> None:
        assert "-o report.parquet" in ckdoc("run", "-f", "parquet").stderr
        without = "import sys; sys.modules['pyarrow'] = None; from checkpoint_doctor.cli import main; main()"
        command = [sys.executable, "-c", without, "scan", "run", "-f", "parquet", "-o", "r.parquet"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 2
        assert "checkpoint-doctor[parquet]" in told.stderr
        assert sorted(os.listdir()) == ["run"]


def test_a_page_about_very_many_shows_the_worst_and_ends_with_why_they_are(folder: Path) -> None:
    for number in range(30):
        save_file({"a.weight": np.full((2, 2), np.nan, np.float32)}, f"run/ill_{number}.safetensors")
    page = ckdoc("run").stdout
    assert page.count("ILL · run/ill") == 19  # of 32 that need attention the worst 20
    assert "12 more, less severe" in page
    *_, closing = page.rstrip().splitlines()
    assert "the worst\n" in page
    assert closing.startswith("43 checkpoints (1 unreadable, 31 ill, 11 healthy)")
    assert ckdoc("run", "-v").stdout.count("ILL · run/ill") == 31
    *worst_lines, closing = ckdoc("run", "-f", "jsonl").stderr.splitlines()
    assert len(worst_lines) == 10
    assert worst_lines[0].startswith("ill run/ill")
    assert "nonfinite-gradient (likely)" in worst_lines[0]
    assert worst_lines[-1].startswith("unreadable run/bad.safetensors: ")
    assert ckdoc("run", "-f", "jsonl", "-q").stderr == ""


class TestResuming:
    def test_what_is_unchanged_is_not_opened_and_its_entry_is_the_same(self, folder: Path) -> None:
        ckdoc("run", "-f", "jsonl", "-o", "first.jsonl")
        first = lines(Path("first.jsonl").read_text())
        assert len([each for each in opened("run", "-f", "jsonl") if each.startswith("run/")]) == 13
        again = ("run", "-f", "jsonl", "--resume-from", "first.jsonl")
        assert opened(*again) == ["run/bad.safetensors"]
        second = lines(ckdoc(*again).stdout)
        assert second[:-1] == first[:-1]
        assert second[-1]["carried_over"] == 12
        assert "12 carried over" in second[-1]["summary"]

    def test_what_is_changed_or_new_is_read(self, folder: Path, fixtures: Path) -> None:
        shutil.copy2(fixtures / "case_3_healthy.pt", "run/beside.pt")
        ckdoc("run", "-f", "jsonl", "-o", "r.jsonl")
        write(Path("run/step_3.safetensors"), 99, LONG_AGO)  # the same size and time: only the time's digits tell
        os.utime("run/step_3.safetensors", ns=(LONG_AGO, LONG_AGO + 1))
        with open("run/step_4.safetensors", "ab") as file:
            file.write(b"\0")
        os.utime("run/step_4.safetensors", ns=(LONG_AGO, LONG_AGO))
        write(Path("run/new.safetensors"), 5)
        os.unlink("run/step_5.safetensors")
        Path("run/args.json").write_text('{"learning_rate": 0.5}')  # the settings beside a file of PyTorch
        again = ("run", "-f", "jsonl", "--resume-from", "r.jsonl", "-o", "r.jsonl")
        read = opened(*again)
        changed = ["bad", "new", "step_3", "step_4"]
        assert [each for each in read if each.endswith("tensors")] == [f"run/{name}.safetensors" for name in changed]
        assert [each for each in read if each.endswith(".pt")] == ["run/beside.pt"]
        assert lines(Path("r.jsonl").read_text())[:-1] == lines(ckdoc("run", "-f", "jsonl").stdout)[:-1]

    @pytest.mark.parametrize(
        ("options", "carried"),
        [
            ((), 12),
            (("--fail-on", "note"), 12),
            (("--baseline", "known.json"), 12),
            (("--ignore", "OPT"), 0),
            (("--select", "ZER"), 0),
            (("--preview",), 0),
            (("--settings",), 0),
            (("--report", "html=page.html"), 11),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_another_question_is_asked_anew(self, folder: Path, options: tuple[str, ...], carried: int) -> None:
        ckdoc("run", "-f", "jsonl", "-o", "r.jsonl")
        ckdoc("run", "-q", "--write-baseline", "known.json")
        fresh = lines(ckdoc("run", "-f", "jsonl", *options, code=None).stdout)
        resumed = lines(ckdoc("run", "-f", "jsonl", *options, "--resume-from", "r.jsonl", code=None).stdout)
        assert resumed[-1]["carried_over"] == carried
        assert resumed[:-1] == fresh[:-1]
        assert {**resumed[-1], "carried_over": 0, "summary": ""} == {**fresh[-1], "summary": ""}

    def test_findings_of_a_baseline_that_is_no_longer_given_count_again(self, folder: Path) -> None:
        ckdoc("run", "-q", "--write-baseline", "known.json")
        hidden = ckdoc("run/ill.pt", "-f", "jsonl", "-o", "r.jsonl", "--baseline", "known.json", code=0)
        assert "hidden by the baseline" in hidden.stderr
        counted = lines(ckdoc("run/ill.pt", "-f", "jsonl", "--resume-from", "r.jsonl", code=1).stdout)
        assert counted[-1]["carried_over"] == 1
        assert counted[:-1] == lines(ckdoc("run/ill.pt", "-f", "jsonl", code=1).stdout)[:-1]

    def test_a_json_report_will_do_and_other_reports_can_be_made_of_it(self, folder: Path) -> None:
        ckdoc("run", "-f", "json", "-o", "r.json")
        assert opened("run", "--resume-from", "r.json", "-f", "concise") == ["run/bad.safetensors"]
        resumed = ckdoc("run", "-q", "--resume-from", "r.json", "-f", "concise").stdout
        assert resumed == ckdoc("run", "-q", "-f", "concise").stdout

    def test_a_killed_run_is_gone_on_with(self, folder: Path) -> None:
        for number in range(11, 60):
            write(folder / "run" / f"step_{number}.safetensors", number)
        with (
            open("r.jsonl", "wb") as stream,
            subprocess.Popen([*COMMAND, "run", "-f", "jsonl"], stdout=stream) as killed,
        ):
            wait_for(lambda: Path("r.jsonl").read_bytes().count(b"\n") > 5)
            killed.kill()
        whole = Path("r.jsonl").read_bytes().rpartition(b"\n")[0]
        done = whole.count(b"\n") + 1
        assert 5 < done < 62
        Path("r.jsonl").write_bytes(whole + b'\n{"path": "run/step_4')
        resumed = ckdoc("run", "-f", "jsonl", "--resume-from", "r.jsonl", "-o", "r.jsonl")
        assert "the last line of r.jsonl is cut off" in resumed.stderr
        entries = lines(Path("r.jsonl").read_text())
        assert entries[-1]["carried_over"] == done - 1
        assert entries[:-1] == lines(ckdoc("run", "-f", "jsonl").stdout)[:-1]

    @pytest.mark.parametrize("went_before", [False, True])
    def test_a_stopped_run_leaves_what_it_has_done(self, folder: Path, went_before: bool) -> None:
        for number in range(11, 80):
            write(folder / "run" / f"step_{number}.safetensors", number)
        arguments = ["run", "-f", "jsonl", "-o", "r.jsonl"]
        if went_before:
            ckdoc("run/step_7?.safetensors", "-f", "jsonl", "-o", "r.jsonl", code=0)
            arguments += ["--resume-from", "r.jsonl"]
        with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as stopped:
            wait_for(lambda: any(file.stat().st_size > 8192 for file in folder.glob(".r.jsonl*")))
            stopped.send_signal(signal.SIGTERM)
            assert stopped.stderr
            said = stopped.stderr.read()
        assert stopped.returncode == 143
        assert "go on with --resume-from r.jsonl" in said
        done = [each["path"] for each in lines(Path("r.jsonl").read_text())]
        assert 1 < len(done) < 82
        assert len(set(done)) == len(done)
        assert ("run/step_79.safetensors" in done) is went_before
        assert list(folder.glob(".r.jsonl*")) == []
        assert ckdoc(*arguments, *(() if went_before else ("--resume-from", "r.jsonl")))
        last = lines(Path("r.jsonl").read_text())[-1]
        assert last["examined"] == 82
        assert last["carried_over"] == len(done) - ("run/bad.safetensors" in done)

    def test_a_stopped_run_leaves_another_file_of_that_name_alone(self, folder: Path) -> None:
        for number in range(11, 80):
            write(folder / "run" / f"step_{number}.safetensors", number)
        Path("r.jsonl").write_text("my notes\n")
        with subprocess.Popen([*COMMAND, "run", "-f", "jsonl", "-o", "r.jsonl"], stderr=subprocess.PIPE) as stopped:
            wait_for(lambda: any(file.stat().st_size > 8192 for file in folder.glob(".r.jsonl*")))
            stopped.terminate()
        assert stopped.returncode == 143
        assert Path("r.jsonl").read_text() == "my notes\n"
        assert list(folder.glob(".r.jsonl*")) == []

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "cannot read r.jsonl"),
            (b"# notes\n", "holds no results of an earlier run"),
            (b"[1, 2]", "holds no results of an earlier run"),
            (b'{"path": "a.pt"}\nnonsense\n{"path": "b.pt"}\n', "line 2 is not what --format jsonl writes"),
            (b"\xff\xfe\0\0", "holds no results of an earlier run"),
        ],
    )
    def test_a_file_that_is_no_result_is_refused(self, folder: Path, content: bytes | None, words: str) -> None:
        if content is not None:
            Path("r.jsonl").write_bytes(content)
        assert words in ckdoc("run", "-f", "jsonl", "--resume-from", "r.jsonl").stderr

    def test_entries_that_were_tampered_with_are_not_believed(self, folder: Path) -> None:
        first = lines(ckdoc("run", "-f", "jsonl").stdout)
        for spoilt in ({"provenance": None}, {"provenance": {"asked_with": 3}}, {"tensors": 5}, {"findings": [{}]}):
            Path("r.jsonl").write_text("".join(json.dumps({**each, **spoilt}) + "\n" for each in first[:-1]))
            again = lines(ckdoc("run", "-f", "jsonl", "--resume-from", "r.jsonl").stdout)
            assert again == first

    def test_nothing_but_results_replaces_what_it_goes_on_from(self, folder: Path) -> None:
        ckdoc("run", "-f", "jsonl", "-o", "r.jsonl")
        before = Path("r.jsonl").read_bytes()
        told = ckdoc("run", "-f", "html", "-o", "r.jsonl", "--resume-from", "r.jsonl")
        assert "r.jsonl is an input of this run" in told.stderr
        assert Path("r.jsonl").read_bytes() == before
        first = ckdoc("run", "-f", "jsonl", "-o", "n.jsonl", "--resume-from", "n.jsonl")
        assert "carried over" not in first.stderr

    def test_a_file_that_was_just_written_is_read_again(self, folder: Path) -> None:
        write(Path("run/young.safetensors"), 1, modified=time.time_ns() + 3_000_000_000)
        ckdoc("run/young.safetensors", "-f", "jsonl", "-o", "r.jsonl", code=0)
        again = ckdoc("run/young.safetensors", "-f", "jsonl", "--resume-from", "r.jsonl", code=0)
        assert lines(again.stdout)[-1]["carried_over"] == 0

    @pytest.mark.parametrize("has_versions", [True, False])
    def test_remote_files_hold_by_their_version_and_are_not_fetched(self, folder: Path, has_versions: bool) -> None:
        pytest.importorskip("obstore")
        with serve(folder) as server:
            server.has_versions = has_versions
            uri = f"{server.address}/run/step_1.safetensors"
            [first, _] = lines(ckdoc(uri, "-f", "jsonl", "-o", "r.jsonl", code=0) and Path("r.jsonl").read_text())
            assert [*first["provenance"]["files"]] == [uri]
            sent = server.sent
            again = (uri, "-f", "jsonl", "--resume-from", "r.jsonl")
            [entry, last] = lines(ckdoc(*again, code=0).stdout)
            assert entry == first
            assert (last["carried_over"], server.sent == sent) == (int(has_versions), has_versions)
            write(folder / "run" / "step_1.safetensors.new", 7)
            with open(folder / "run" / "step_1.safetensors.new", "ab") as file:
                file.write(b"\0")
            server.is_replaced = True
            assert lines(ckdoc(*again, code=None).stdout)[-1]["carried_over"] == 0

    def test_a_folder_that_is_one_checkpoint_holds_as_a_whole(self, folder: Path) -> None:
        model = folder / "model"
        model.mkdir()
        write(model / "model.safetensors", 1)
        (model / "config.json").write_text('{"model_type": "gpt2", "architectures": ["X"]}')
        os.utime(model / "config.json", ns=(LONG_AGO, LONG_AGO))
        [entry, _] = lines(ckdoc("model", "-f", "jsonl", "-o", "r.jsonl", code=0) and Path("r.jsonl").read_text())
        assert entry["layout"]
        again = ("model", "-f", "jsonl", "--resume-from", "r.jsonl")
        assert lines(ckdoc(*again, code=0).stdout)[-1]["carried_over"] == 1
        (model / "notes.txt").write_text("new")
        assert lines(ckdoc(*again, code=0).stdout)[-1]["carried_over"] == 0


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_table_that_does_not_come_to_its_end_is_dropped_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    from checkpoint_doctor.builtin.reporters import parquet

    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with open(tmp_path / "report.parquet", "wb") as stream:
        writer = parquet.reporter.open_stream(stream, (), Page())
    del writer
    gc.collect()
    assert not said
