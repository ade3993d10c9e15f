"""Checkpoints on a server: the verdicts of the disk, few bytes, and a sentence for everything that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

pytest.importorskip("obstore")

from benchmarks import remote_faults
from checkpoint_doctor import scan, to_json
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.errors import UnreadableCheckpoint, UsageError
from checkpoint_doctor.examination.measuring import measure_checkpoint
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.sources.address import conceal_secrets, is_address
from checkpoint_doctor.sources.opening import open_source
from checkpoint_doctor.sources.remote import stores
from checkpoint_doctor.sources.remote.streams import SMALL, Streams
from checkpoint_doctor.sources.remote.windows import LARGEST
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
    assert size > SMALL
    assert not scan(f"{server.address}/m.safetensors").failed
    assert (server.requests, server.sizes_asked, server.sent) == (2, 1, size)


def write_training_state(path: Path, layers: int, width: int) -> int:
    """Write weights with Adam's moments in ``.pt``, and return the bytes of the file."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        model(torch.randn(32, width)).square().mean().backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path.stat().st_size


def test_a_training_state_is_fetched_once(server: RangeServer, tmp_path: Path) -> None:
    size = write_training_state(tmp_path / "large.pt", layers=8, width=610)
    assert size > SMALL
    assert report_on(f"{server.address}/large.pt") == report_on(str(tmp_path / "large.pt"))
    assert size <= server.sent <= 1.02 * size
    assert server.sizes_asked == 1


def test_a_small_file_is_one_request(server: RangeServer, tmp_path: Path) -> None:
    size = write_training_state(tmp_path / "small.pt", layers=3, width=128)
    assert size < SMALL
    assert report_on(f"{server.address}/small.pt") == report_on(str(tmp_path / "small.pt"))
    assert (server.requests, server.sizes_asked, server.sent) == (2, 1, size)


def test_shards_are_streamed_one_after_the_other(server: RangeServer, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shards = {f"{at:02}.safetensors": [f"{at:02}.{part}.weight" for part in range(3)] for at in range(12)}
    for shard, names in shards.items():
        weights = {name: generator.standard_normal((600, 1024), np.float32) for name in names}
        save_file(weights, tmp_path / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    checkpoint = open_checkpoint(f"{server.address}/model.safetensors.index.json", is_read_whole=True)
    assert server.sizes_asked == 13
    assert server.sent < 0.2 * size, "no more than one shard is streamed before its turn has come"
    measure_checkpoint(checkpoint)
    assert server.sent < 1.03 * size
    assert server.requests - server.sizes_asked <= 3 * 13


def test_headers_alone_are_fetched_where_no_rule_asks_for_values(server: RangeServer, tmp_path: Path) -> None:
    weights = {f"{at:02}.weight": np.full((1024, 1024), 0.5 + at, np.float32) for at in range(10)}
    save_file(weights, tmp_path / "m.safetensors")
    size = (tmp_path / "m.safetensors").stat().st_size
    result = CliRunner().invoke(app, ["scan", "--select", "FIL", f"{server.address}/m.safetensors"])
    assert (result.exit_code, "values not read" in result.output) == (0, True)
    assert server.sent < size / 100
    assert server.requests == 2


def test_a_header_of_any_length_is_one_request(server: RangeServer, tmp_path: Path) -> None:
    weights = {f"block.{at}.weight": np.full((4, 4), 1.0 + at, np.float32) for at in range(70_000)}
    save_file(weights, tmp_path / "m.safetensors")
    size = (tmp_path / "m.safetensors").stat().st_size
    source = open_source(f"{server.address}/m.safetensors")
    length = int.from_bytes(source.read(0, 8), "little")
    source.read(8, length)
    assert LARGEST < length < size
    assert server.requests == 3
    assert server.sent < length + 200_000


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
        ("missing", "there is no such file (404)"),
        ("refused-range", "416"),
        ("error-500", "the server fails (5xx)"),
        ("error-503", "the server fails (5xx)"),
        ("cut", "breaks off"),
        ("reset", "nothing answers at this address"),
        ("reset-in-body", "breaks off"),
        ("short", "answers other bytes than it was asked for"),
        ("stall", "does not answer in time"),
        ("silent", "does not answer in time"),
        ("redirect", "redirects without end"),
        ("replaced", "replaced while it was read"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_never_a_verdict(
    behaviour: str, words: str, server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRIES", 1)
    monkeypatch.setattr(stores, "SILENCE_TIMEOUT", timedelta(seconds=0.2))
    save_file({"a.weight": np.ones((64, 64), np.float32)}, tmp_path / "m.safetensors")
    server.behaviour = behaviour
    result = CliRunner().invoke(app, ["scan", f"{server.address}/m.safetensors"])
    assert result.exit_code == 2
    assert "UNREADABLE" in result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_no_verdict_is_wrong_for_faults_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE", "SILENCE_TIMEOUT", "RETRIED_FOR"):
        monkeypatch.setattr(stores, name, getattr(stores, name))  # and back, as they are
    remote_faults.hurry()
    with serve(tmp_path) as server:
        server.delay = 0.02
        outcomes = remote_faults.run_scans(server, tmp_path, remote_faults.write_files(tmp_path), 40, rate=0.05, seed=5)
    assert outcomes["right"] + outcomes["refused"] == 40
    assert outcomes["right"] > 10
    assert outcomes["refused"] > 0


def test_a_file_that_changes_is_noticed_without_an_etag(server: RangeServer, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((64, 64), np.float32)}, tmp_path / "m.safetensors")
    save_file({"a.weight": np.full((64, 64), np.nan, np.float32)}, tmp_path / "m.safetensors.new")
    server.has_versions = False
    behaviours = iter(["", "replaced"])
    server.draw = lambda: next(behaviours, "")
    [entry] = scan(f"{server.address}/m.safetensors").checkpoints
    assert (entry.verdict.value, "replaced while it was read" in (entry.error or "")) == ("unreadable", True)


def test_a_second_scan_sees_what_the_file_is_then(server: RangeServer, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((64, 64), np.float32)}, tmp_path / "m.safetensors")
    save_file({"a.weight": np.full((64, 64), np.nan, np.float32)}, tmp_path / "m.safetensors.new")
    assert report_on(f"{server.address}/m.safetensors")["verdict"] == "healthy"
    server.is_replaced = True
    assert report_on(f"{server.address}/m.safetensors")["verdict"] == "ill"


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


def test_folders_globs_and_series_of_a_store(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    weights = {f"{at}.weight": np.random.default_rng(at).standard_normal((32, 32), np.float32) / 6 for at in range(4)}
    for step in (100, 200, 300):
        shards = {"a.safetensors": ("0.weight", "1.weight"), "b.safetensors": ("2.weight", "3.weight")}
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for shard, names in shards.items():
            save_file({name: weights[name] * (1 + step / 1000) for name in names}, folder / shard)
        index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for file in folder.iterdir():
            memory.pipe_file(f"/bucket/series/{folder.name}/{file.name}", file.read_bytes())

    def paths(uri: str, *options: str) -> list[str]:
        result = CliRunner().invoke(app, ["scan", "--format", "json", *options, uri])
        assert result.exit_code == 0, result.output
        return [each["path"].partition("series/")[2] for each in json.loads(result.stdout)["checkpoints"]]

    indices = [f"checkpoint-{step}/model.safetensors.index.json" for step in (100, 200, 300)]
    assert paths("memory://bucket/series") == indices
    assert paths("memory://bucket/series/checkpoint-[12]00") == indices[:2]
    assert paths("memory://bucket/series/*/model.*.json") == indices
    assert paths("memory://bucket/series/**/model.*.json") == indices
    assert paths("memory://bucket/series", "--exclude", "checkpoint-200") == [indices[0], indices[2]]
    compared = CliRunner().invoke(app, ["compare", "memory://bucket/series"])
    assert (compared.exit_code, "memory://bucket/series" in compared.output) == (0, True)
    assert "1 series, 3 checkpoints" in compared.output


@pytest.mark.parametrize("command", [["fix"], ["watch", "--once"]])
def test_what_writes_or_waits_needs_a_path_of_this_machine(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "s3://bucket/run.pt"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.message.startswith("s3://bucket/run.pt is not on this machine")


def test_one_store_that_does_not_answer_does_not_keep_the_others_from_being_examined(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRIES", 0)
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    stores.open_store.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WORD")
    result = CliRunner().invoke(app, ["scan", "s3://bucket/model.pt", str(fixtures / "case_1_healthy.zip")])
    assert result.exit_code == 2
    assert "cannot read s3://bucket/model.pt: nothing answers at this address" in " ".join(result.output.split())
    assert "1 unreadable" in result.output
    assert not any(secret in result.output for secret in ("KEY", "WORD"))


def test_secrets_of_an_address_are_nowhere_in_a_report(server: RangeServer, tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((64, 64), np.float32)}, tmp_path / "m.safetensors")
    for name in ("m.safetensors", "none.safetensors"):
        uri = f"{server.address}/{name}?signature=5e1fa8".replace("://", "://user:word@")
        for form in ("terminal", "json", "sarif", "junit", "html", "markdown", "github", "concise"):
            result = CliRunner().invoke(app, ["scan", "--format", form, uri])
            assert result.exit_code in (0, 2)
            assert "5e1fa8" not in result.output
            assert "user:word" not in result.output


def test_passwords_and_signatures_are_not_shown() -> None:
    shown = conceal_secrets("https://user:word@host/run/model.pt?X-Amz-Signature=abc")
    assert shown == "https://…@host/run/model.pt?…"
    assert is_address("s3://bucket/model.pt")
    assert not is_address("model.pt")
    assert not is_address("C:/model.pt")
