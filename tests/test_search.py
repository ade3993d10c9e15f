"""A search through a folder: which files it looks at, and what it passes over."""

from __future__ import annotations

import errno
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from checkpoint_doctor.acts.fix import Outcome, fix, result_name
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.acts.watch import watch
from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.cli.scanning import verdict
from checkpoint_doctor.config.file import load_config
from checkpoint_doctor.errors import NotACheckpoint, NothingToExamine, UnreadableCheckpoint, UsageError
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.json import to_json
from checkpoint_doctor.results.json_reading import from_json
from checkpoint_doctor.results.report import Page, Report, Verdict
from checkpoint_doctor.sources import FileSource, Folder
from checkpoint_doctor.sources.search import Criteria, find_candidates


def save_model(path: Path) -> bytes:
    torch.manual_seed(0)
    torch.save({"state_dict": torch.nn.Linear(8, 4).state_dict()}, path)
    return path.read_bytes()


def save_tar(path: Path, *members: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def found_in(folder: Path) -> list[str]:
    report = scan([folder])
    assert all(each.verdict is Verdict.HEALTHY for each in report.checkpoints)
    return [Path(each.path).name for each in report.checkpoints]


@pytest.mark.parametrize(
    "name", ["checkpoint.pth.tar", "model_best.tar", "MODEL.PT", "last.Ckpt", "ppo.cleanrl_model", "a.PTH.TAR"]
)
def test_a_checkpoint_is_found_by_the_endings_that_training_code_uses(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / name)
    assert found_in(tmp_path) == [name]


def test_shards_with_an_index_are_examined_once_in_any_case(tmp_path: Path) -> None:
    weight = {"fc.weight": np.random.default_rng(0).normal(0, 0.1, (4, 8)).astype(np.float32)}
    save_file(weight, tmp_path / "A.SAFETENSORS")
    assert found_in(tmp_path) == ["A.SAFETENSORS"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"fc.weight": "A.SAFETENSORS"}}')
    assert found_in(tmp_path) == ["model.safetensors.index.json"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_is_named_and_passed_over_also_where_it_ends_with_a_checkpoint(
    format: int, tmp_path: Path, fixtures: Path
) -> None:
    model = save_model(tmp_path / "model.pth.tar")
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"), format=format)
    save_tar(tmp_path / "runs.tar", ("notes.txt", b"run 1"), ("model.pth", model), format=format)
    save_tar(tmp_path / "agent.tar", ("a.zip", (fixtures / "case_1_healthy.zip").read_bytes()), format=format)
    save_tar(tmp_path / "old.pth.tar", ("storages", b""), ("tensors", b""), ("pickle", b""), format=format)
    assert found_in(tmp_path) == ["model.pth.tar"]
    for name, words in {
        "images.tar": "is a tar archive", "runs.tar": "is a tar archive", "agent.tar": "is a tar archive",
        "old.pth.tar": "the tar archive that PyTorch wrote before version 0.1.10",
    }.items():  # fmt: skip
        with pytest.raises(NotACheckpoint, match=words):
            open_checkpoint(tmp_path / name)
        (named,) = scan([tmp_path / name]).checkpoints
        assert named.verdict is Verdict.UNREADABLE


def test_a_folder_of_tar_archives_alone_has_nothing_to_examine(tmp_path: Path) -> None:
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"))
    with pytest.raises(NothingToExamine):
        scan([tmp_path])


def test_an_exported_program_is_found_by_a_search(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(program, tmp_path / "program.pt2")
    assert found_in(tmp_path) == ["program.pt2"]


@pytest.mark.parametrize(
    ("name", "repaired"),
    [
        ("model.pth.tar", "model_FIXED.pth.tar"),
        ("MODEL.PTH.TAR", "MODEL_FIXED.PTH.TAR"),
        ("best.PT", "best_FIXED.PT"),
        ("best.tar", "best_FIXED.tar"),
        ("best.other", "best_FIXED.other"),
        ("best", "best_FIXED"),
        (".pt", ".pt_FIXED"),
    ],
)
def test_a_copy_keeps_the_whole_ending(name: str, repaired: str) -> None:
    assert result_name(name, loader.suffixes) == repaired


def test_a_search_says_how_many_files_it_passed_over_and_what_they_are(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt")
    save_tar(tmp_path / "images.tar", ("cat.jpg", b"\xff\xd8\xff"))
    torch.save({"last_epoch": 3, "_step_count": 4}, tmp_path / "scheduler.pt")
    report = scan([tmp_path])
    assert {Path(each.what).name: each.why for each in report.passed_over} == {
        "images.tar": "is a tar archive",
        "scheduler.pt": "contains no tensors: a dictionary with last_epoch, _step_count",
    }
    assert report.summary_line.endswith("2 other files passed over")
    assert from_json(to_json(report)).passed_over == report.passed_over


@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_needs_no_list(kind: type[str | Path], tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt")
    path = kind(tmp_path / "model.pt")
    assert [each.path for each in scan(path).checkpoints] == [str(path)]
    assert [each.path for each in fix(path)] == [str(path)]


def test_without_the_library_the_address_of_a_remote_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match="read with the library obstore, which is not installed") as caught:
        scan("s3://a-bucket-of-this-test/model.pt")
    assert "checkpoint-doctor[remote]" in caught.value.hint


def test_a_remote_file_is_not_repaired_where_it_is() -> None:
    with pytest.raises(UsageError, match="is not on this machine"):
        fix("https://host/model.pt")


def test_a_remote_folder_is_not_watched() -> None:
    with pytest.raises(UsageError, match="only folders of this machine are watched"):
        watch("s3://bucket/run")


def model_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(8, 4).state_dict(), buffer)
    return buffer.getvalue()


class TestContent:
    @pytest.mark.parametrize("name", ["mario_1_1", "best_policy.model", "weights.dat", "epoch=3.custom", ".last"])
    def test_a_checkpoint_is_found_under_any_name(self, name: str, tmp_path: Path, fixtures: Path) -> None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / name).write_bytes(model_bytes())
        (tmp_path / "sb3").mkdir()
        (tmp_path / "sb3" / name).write_bytes((fixtures / "case_1_healthy.zip").read_bytes())
        (tmp_path / "safetensors").mkdir()
        weight = np.random.default_rng(0).normal(0, 0.1, (4, 8)).astype(np.float32)
        save_file({"fc.weight": weight}, tmp_path / "safetensors" / name)
        assert found_in(tmp_path) == [name, name, name]

    def test_a_truncated_checkpoint_under_any_name_is_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "last").write_bytes(model_bytes()[:-100])
        (found,) = scan([tmp_path]).checkpoints
        assert found.verdict is Verdict.UNREADABLE

    def test_data_that_begins_as_a_pickle_by_chance_is_passed_over(self, tmp_path: Path) -> None:
        save_model(tmp_path / "model.pt")
        (tmp_path / "volume.raw").write_bytes(b"\x80\x04\x98" + np.random.default_rng(0).bytes(5000))
        report = scan([tmp_path])
        assert [Path(each.path).name for each in report.checkpoints] == ["model.pt"]
        assert [each.why for each in report.unsearched] == ["of an unknown format"]
        (tmp_path / "volume.raw").rename(tmp_path / "volume.pt")
        assert len(scan([tmp_path]).checkpoints) == 2

    def test_all_other_files_are_counted_by_their_ending_and_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(tmp_path / "model.pt")
        for number in range(50):
            (tmp_path / f"{number}.JPG").write_bytes(b"\xff\xd8\xff\xe0" + bytes(1 << 20))
        (tmp_path / "README").write_text("csome text that begins as a pickle of protocol 0 may\n" * 2000)
        (tmp_path / "train.py").write_text("import torch\n")
        read = 0
        wrapped = FileSource.read_into

        def count(source: FileSource, offset: int, buffer: memoryview) -> None:
            nonlocal read
            read += len(buffer) if not source.name.endswith(".pt") else 0
            wrapped(source, offset, buffer)

        monkeypatch.setattr(FileSource, "read_into", count)
        report = scan([tmp_path])
        assert dict(report.unrecognized) == {".jpg": 50, "": 1, ".py": 1}
        assert report.summary_line.endswith("52 other files passed over")
        assert read < 50 * 20_000
        assert from_json(to_json(report)).unrecognized == report.unrecognized
        verbose, brief = (render(report, verbose=verbose) for verbose in (True, False))
        assert "52 files that begin unlike any checkpoint: 50 .jpg, 1 without an ending, 1 .py" in verbose
        assert "passed over" not in brief

    def test_data_in_a_format_of_its_own_is_passed_over_under_an_ending_that_everybody_uses(
        self, tmp_path: Path
    ) -> None:
        save_model(tmp_path / "pytorch_model.bin")
        (tmp_path / "tokens.bin").write_bytes(np.arange(50_000, 60_000, dtype=np.uint16).tobytes())
        report = scan([tmp_path])
        assert [Path(each.path).name for each in report.checkpoints] == ["pytorch_model.bin"]
        assert [Path(each.path).name for each in report.unsearched] == ["tokens.bin"]
        assert all("tokens.bin: of an unknown format" in render(report, name) for name in ("terminal", "markdown"))
        (named,) = scan([tmp_path / "tokens.bin"]).checkpoints
        assert named.verdict is Verdict.UNREADABLE

    @pytest.mark.parametrize(
        "content",
        [b"", bytes(99), b"version https://git-lfs.github.com/spec/v1\noid a\nsize 3\n"],
        ids=["empty", "zeros", "pointer"],
    )
    def test_what_is_in_the_place_of_a_checkpoint_is_unreadable_where_the_name_promises_one(
        self, content: bytes, tmp_path: Path
    ) -> None:
        save_model(tmp_path / "model.pt")
        expected = ["a.pth.tar", "b.zip", "c.ckpt", "d.safetensors", "pytorch_model-1-of-2.bin", "pytorch_model.bin"]
        other = ["a.tar", "b.pkl", "c.p", "rollout.npz", "train.bin"]
        for name in (*expected, *other):
            (tmp_path / name).write_bytes(content)
        report = scan([tmp_path])
        assert [Path(each.path).name for each in report.checkpoints if each.is_unreadable] == expected
        assert [Path(each.path).name for each in report.unsearched] == other

    def test_a_blob_of_a_cache_is_examined_under_the_name_that_links_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "0f3a").write_bytes(model_bytes())
        (tmp_path / "snapshots").mkdir()
        (tmp_path / "snapshots" / "model.pt").symlink_to(tmp_path / "blobs" / "0f3a")
        assert found_in(tmp_path) == ["model.pt"]
        assert found_in(tmp_path / "blobs") == ["0f3a"]


def render(report: Report, name: str = "terminal", *, verbose: bool = False) -> str:
    catalogue = discover()
    return " ".join(catalogue.reporters[name].render(report, catalogue.rules, Page(width=400, verbose=verbose)).split())


REPORTERS = sorted(set(discover().reporters) - {"parquet"})
NAMING = set(REPORTERS) - {"statistics"}
"""The reporters that name files; the other one counts."""


class TestFoldersThatAreNotSearched:
    def test_hidden_folders_and_links_are_named_in_every_report(self, tmp_path: Path, fixtures: Path) -> None:
        save_model(tmp_path / "model.pt")
        (tmp_path / ".old").mkdir()
        save_model(tmp_path / ".old" / "model.pt")
        (tmp_path / "loop").symlink_to(tmp_path)
        (tmp_path / "other").symlink_to(fixtures)
        report = scan([tmp_path])
        whys = {Path(each.path).name: each.why for each in report.unsearched}
        assert whys == {
            ".old": "hidden", "loop": "a link to a folder that is searched", "other": "a link to another folder",
        }  # fmt: skip
        assert report.is_complete
        assert "3 left out" in report.summary_line
        for name in REPORTERS:
            assert (".old" if name in NAMING else "1 note not searched (hidden)") in render(report, name), name
        assert from_json(to_json(report)).unsearched == report.unsearched

    def test_loops_of_links_end(self, tmp_path: Path) -> None:
        save_model(tmp_path / "model.pt")
        for name in "abcdef":
            (tmp_path / name).symlink_to(tmp_path)
        assert found_in(tmp_path) == ["model.pt"]
        assert [Path(each.path).name for each in scan([f"{tmp_path}/**/*.pt"]).checkpoints] == ["model.pt"]

    @pytest.fixture
    def locked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of whose two folders one cannot be listed."""
        save_model(tmp_path / "model.pt")
        (tmp_path / "locked").mkdir()
        listing = os.scandir

        def refuse(path: Any = ".") -> Any:
            if str(path).endswith("locked"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return listing(path)

        monkeypatch.setattr(os, "scandir", refuse)
        return tmp_path

    def test_one_that_cannot_be_listed_makes_the_run_incomplete_in_every_report(self, locked: Path) -> None:
        report = scan([locked])
        assert not report.is_complete
        assert verdict(report) == 2
        assert "1 folder or pattern could not be searched" in report.summary_line
        for name in REPORTERS:
            assert "locked" in render(report, name) or name not in NAMING, name
            assert "permission denied" in render(report, name), name

    def test_a_folder_with_nothing_else_is_incomplete_too(self, locked: Path) -> None:
        (locked / "model.pt").unlink()
        report = scan([locked])
        assert (report.checkpoints, verdict(report)) == ((), 2)
        (failed,) = fix([locked])
        assert failed.outcome is Outcome.FAILED
        assert "cannot be searched" in (failed.error or "")


class TestPatterns:
    @pytest.fixture
    def models(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("a.pt", "data/b.pt", "data/raw/c.pt", "old/d.pt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            save_model(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("text", "left", "out"),
        [
            ('exclude = "data"', ["a.pt", "d.pt"], ["data"]),
            ('exclude = ["data/**", "d.*"]', ["a.pt"], ["b.pt", "d.pt", "raw"]),
            ('include = "data/**"', ["b.pt", "c.pt"], []),
            ('include = "data/**"\nexclude = "raw"', ["b.pt"], ["raw"]),
        ],
    )
    def test_a_search_leaves_out_what_the_configuration_says_and_says_so(
        self, models: Path, text: str, left: list[str], out: list[str]
    ) -> None:
        Path("ckdoc.toml").write_text(text)
        report = scan(["."], config=load_config(discover().rules))
        assert [Path(each.path).name for each in report.checkpoints] == left
        assert sorted(Path(each.path).name for each in report.unsearched) == out
        assert all(each.why == "excluded by ckdoc.toml" for each in report.unsearched)

    def test_the_command_line_excludes_more_and_includes_others(self, models: Path) -> None:
        Path("ckdoc.toml").write_text('exclude = "raw"\ninclude = "data"')
        config = load_config(discover().rules, exclude=["data"], include=["**"])
        report = scan(["."], config=config)
        assert [Path(each.path).name for each in report.checkpoints] == ["a.pt", "d.pt"]
        assert {each.why for each in report.unsearched} == {"excluded by command line"}

    def test_what_is_named_is_examined_all_the_same(self, models: Path) -> None:
        config = load_config(discover().rules, exclude=["*.pt"])
        assert len(scan(["data/b.pt"], config=config).checkpoints) == 1
        with pytest.raises(NothingToExamine) as nothing:
            scan(["data"], config=config)
        assert nothing.value.hint.endswith("2 files and folders not searched")

    def test_the_options_of_the_command_line_reach_the_search(
        self, models: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for command in ("scan", "fix"):
            result = CliRunner().invoke(app, [command, "--exclude", "data", "--include", "*.pt", "."])
            assert result.exit_code == 0, result.output
            assert "2 checkpoints" in result.output
            assert "b.pt" not in result.output
        assert CliRunner().invoke(app, ["scan", "--include", "*.zip", "."]).exit_code != 0


def test_numbers_in_names_are_sorted_as_numbers(tmp_path: Path) -> None:
    for step in (100, 9, 10):
        (tmp_path / f"step_{step}").mkdir()
        for epoch in (2, 11, 1):
            save_model(tmp_path / f"step_{step}" / f"epoch{epoch}.pt")
    expected = [f"step_{step}/epoch{epoch}.pt" for step in (9, 10, 100) for epoch in (1, 2, 11)]
    for uri in (tmp_path, tmp_path / "*", tmp_path / "**" / "*.pt"):
        paths = [Path(each.path).relative_to(tmp_path).as_posix() for each in scan([uri]).checkpoints]
        assert paths == expected


def test_a_folder_without_a_checkpoint_does_not_keep_the_others_from_examination(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pt").write_bytes(b"x")
    named = [str(tmp_path / name) for name in ("a.pt", "empty", "*.none")]
    found = find_candidates(named, Criteria())
    assert [each.path for each in found.candidates] == named[:1]
    assert {(each.path, each.why, each.on_purpose) for each in found.unsearched} == {
        (named[1], "there is no file in it", False),
        (named[2], "nothing matches it", False),
    }
    assert not found.is_complete
    with pytest.raises(NothingToExamine, match="empty holds no checkpoint"):
        find_candidates(named[1:], Criteria())


def test_an_empty_folder_beside_one_that_cannot_be_searched_is_an_incomplete_search(tmp_path: Path) -> None:
    def claim(folder: Folder) -> tuple[str, ...]:
        if folder.path.endswith("locked"):
            raise UnreadableCheckpoint("permission denied")
        return ()

    for name in ("locked", "empty"):
        (tmp_path / name).mkdir()
    found = find_candidates([str(tmp_path / "locked"), str(tmp_path / "empty")], Criteria(claim=claim))
    assert not found.candidates
    assert not found.is_complete
    assert [os.path.basename(each.path) for each in found.unsearched] == ["locked", "empty"]
