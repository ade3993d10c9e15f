"""Checkpoints on a server: the verdicts of the disk, few bytes, and a sentence for everything that goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

pytest.importorskip("obstore")

from checkpoint_doctor import scan, to_json
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.errors import UnreadableCheckpoint, UsageError
from checkpoint_doctor.sources.address import conceal_secrets, is_address
from checkpoint_doctor.sources.opening import open_source
from checkpoint_doctor.sources.remote import stores
from checkpoint_doctor.sources.remote.streams import Streams
from tests.range_server import RangeServer, serve


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server of a folder; what fails is asked for again without a pause."""
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    stores.open_store.cache_clear()
    with serve(tmp_path) as running:
        yield running


def report_on(uri: str) -> Any:
    """Return the report on a checkpoint as JSON, without its path."""
    [entry] = to_json(scan(uri))["checkpoints"]
    return {name: value for name, value in entry.items() if name not in ("path", "files")}


@pytest.mark.parametrize("name", ["case_1_head_v6.zip", "case_3_dead_inputs.pt", "case_5_zero_head.pt"])
def test_the_report_is_that_of_the_same_file_on_the_disk(
    name: str, server: RangeServer, tmp_path: Path, fixtures: Path
) -> None:
    (tmp_path / name).symlink_to(fixtures / name)
    assert report_on(f"{server.address}/{name}") == report_on(str(fixtures / name))


def test_headers_are_read_without_the_rest_of_the_file(server: RangeServer, tmp_path: Path) -> None:
    save_file(
        {f"{number}.weight": np.zeros((512, 1024), np.float32) for number in range(16)}, tmp_path / "m.safetensors"
    )
    size = (tmp_path / "m.safetensors").stat().st_size
    source = open_source(f"{server.address}/m.safetensors")
    length = int.from_bytes(source.read(0, 8), "little")
    source.read(8, length)
    assert server.sent < size / 100


def test_bytes_at_any_place_are_those_of_the_file(server: RangeServer, tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 9_000_000, np.uint8).tobytes()
    (tmp_path / "data.bin").write_bytes(content)
    source = open_source(f"{server.address}/data.bin")
    generator = np.random.default_rng(1)
    for _ in range(60):
        offset = int(generator.integers(0, len(content)))
        length = int(min(generator.choice([1, 100, 70_000, 3_000_000, 6_000_000]), len(content) - offset))
        assert source.read(offset, length) == content[offset : offset + length]
    for back, length in ((22, 22), (100, 50), (65_600, 65_600), (65_000, 7)):  # the end, which is fetched at once
        source = open_source(f"{server.address}/data.bin")
        assert source.read(len(content) - back, length) == content[len(content) - back :][:length]
    at = 0
    while at < len(content):  # a run of small reads
        length = min(200_000, len(content) - at)
        assert source.read(at, length) == content[at : at + length]
        at += length


def test_tensors_are_measured_in_one_request_from_front_to_back(server: RangeServer, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.permutation(np.arange(200, 1400, 60))
    weights = {f"{at:02}.weight": generator.standard_normal((count, 1024)) for at, count in enumerate(rows)}
    save_file({name: each.astype(np.float32) for name, each in weights.items()}, tmp_path / "m.safetensors")
    size = (tmp_path / "m.safetensors").stat().st_size
    assert not scan(f"{server.address}/m.safetensors").failed
    assert server.requests < 12
    assert server.sent < 1.25 * size, "a rule may look at a few small tensors once more"


class BreakingStore:
    """A store whose answers break off after three pieces; each piece is smaller than a chunk."""

    def __init__(self, content: bytes, pieces: int = 3) -> None:
        self.content, self.pieces, self.answers = content, pieces, 0

    def stream(self, entry: stores.Entry, start: int) -> Iterator[bytes]:
        self.answers += 1
        for number in range(self.pieces):
            at = start + number * 1_000_000
            if at >= len(self.content):
                return
            yield self.content[at : at + 1_000_000]
        raise ConnectionError("connection closed")


def read_through(store: BreakingStore) -> bytes:
    entry = stores.Entry("data.bin", len(store.content), "")
    buffer = bytearray(len(store.content))
    Streams(cast("stores.Store", store), entry, "data.bin").read_into(0, memoryview(buffer))
    return bytes(buffer)


def test_a_stream_goes_on_where_its_answer_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    store = BreakingStore(np.random.default_rng(0).integers(0, 256, 9_500_000, np.uint8).tobytes())
    assert read_through(store) == store.content
    assert store.answers == 4


def test_a_stream_that_brings_nothing_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    store = BreakingStore(bytes(9_500_000), pieces=0)
    with pytest.raises(UnreadableCheckpoint, match="breaks off"):
        read_through(store)
    assert store.answers == stores.ATTEMPTS


def test_a_connection_that_breaks_off_is_taken_up_again(server: RangeServer, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((1024, 4096)).astype(np.float32)
    save_file({"a.weight": values, "b.weight": values * 2}, tmp_path / "m.safetensors")
    expected = report_on(str(tmp_path / "m.safetensors"))
    server.behaviour = "flaky"
    for _ in range(3):
        assert report_on(f"{server.address}/m.safetensors") == expected


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("no-ranges", "does not answer ranges"),
        ("denied", "access is denied (403)"),
        ("cut", "breaks off"),
        ("replaced", "replaced while it was read"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_never_a_verdict(
    behaviour: str, words: str, server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRIES", 1)
    save_file({"a.weight": np.ones((64, 64), np.float32)}, tmp_path / "m.safetensors")
    server.behaviour = behaviour
    result = CliRunner().invoke(app, ["scan", f"{server.address}/m.safetensors"])
    assert result.exit_code == 2
    assert "UNREADABLE" in result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_file_that_is_not_there_and_a_scheme_that_nothing_reads_are_named(server: RangeServer) -> None:
    missing = CliRunner().invoke(app, ["scan", f"{server.address}/none.pt"])
    assert (missing.exit_code, "there is no such file (404)" in missing.output) == (2, True)
    with pytest.raises(UsageError, match="no library that is installed reads foo://"):
        scan("foo://bucket/none.pt")


def test_other_schemes_are_read_through_fsspec(fixtures: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name in ("case_1_head_v6.zip", "case_1_healthy.zip"):
        memory.pipe_file(f"/bucket/run/{name}", (fixtures / name).read_bytes())
    memory.pipe_file("/bucket/run/notes.txt", b"none")
    memory.pipe_file("/bucket/run/.hidden/case.zip", b"none")
    expected = report_on(str(fixtures / "case_1_head_v6.zip"))
    assert report_on("memory://bucket/run/case_1_head_v6.zip") == expected
    searched = scan("memory://bucket/run")
    assert [each.path.rpartition("/")[2] for each in searched.checkpoints] == [
        "case_1_head_v6.zip",
        "case_1_healthy.zip",
    ]
    assert [each.path for each in scan("memory://bucket/r*/*_healthy.zip").checkpoints] == [
        "memory://bucket/run/case_1_healthy.zip"
    ]


def test_passwords_and_signatures_are_not_shown() -> None:
    shown = conceal_secrets("https://user:word@host/run/model.pt?X-Amz-Signature=abc")
    assert shown == "https://…@host/run/model.pt?…"
    assert is_address("s3://bucket/model.pt")
    assert not is_address("model.pt")
    assert not is_address("C:/model.pt")
