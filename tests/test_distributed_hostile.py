"""Distributed checkpoints from strangers: nothing in them runs, and none takes more memory than its bytes justify."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed_saves import make_states, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from checkpoint_doctor import open_checkpoint, scan
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import DoctorError, UnreadableCheckpoint

MOST_MEMORY = 64 << 20
"""Bytes that a hostile checkpoint of a few kilobytes may take."""


@contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def open_or_refuse(folder: Path) -> Checkpoint | None:
    """Open a checkpoint; return ``None`` where it is refused in one sentence, and not because of a bug."""
    try:
        return open_checkpoint(folder)
    except DoctorError as refusal:
        error = refusal
    assert "\n" not in error.message
    assert "bug in the loader" not in error.hint
    return None


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_states()["by name"], tmp_path_factory.mktemp("saves") / "intact")


def write(folder: Path, shape: tuple[int, ...], chunks: list[Any], places: dict[Any, Any], paths: Any = None) -> Path:
    """Write the metadata of one tensor, whatever sense it makes."""
    listed = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks]
    entry = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(shape), listed)
    metadata = Metadata({"weight": entry}, paths, {MetadataIndex("weight", at): info for at, info in places.items()})
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


@pytest.mark.parametrize("place", ["storage_meta", "planner_data", "storage_data", "mcore_data"])
def test_code_in_the_metadata_is_reported_and_not_run(intact: Path, tmp_path: Path, place: str) -> None:
    metadata: Metadata = pickle.loads((intact / ".metadata").read_bytes())
    canary = tmp_path / "canary"
    if place in ("planner_data", "storage_data"):
        getattr(metadata, place)["attack"] = Attack(canary)
    else:
        setattr(metadata, place, Attack(canary))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    (tmp_path / "__0_0.distcp").write_bytes((intact / "__0_0.distcp").read_bytes())
    (examination,) = scan([tmp_path]).checkpoints
    assert not canary.exists()
    if place == "storage_data":
        assert "an entry of an unknown kind" in (examination.error or "")
    else:
        assert [finding.code for finding in examination.findings] == ["FIL002"]
        assert examination.findings[0].evidence["members"] == [".metadata"]
    pickle.loads((tmp_path / ".metadata").read_bytes())
    assert canary.exists()  # the attack is a real one


def test_code_in_a_piece_is_reported_and_not_run(tmp_path: Path) -> None:
    folder = save({"weight": torch.ones(3, 4), "extra": Attack(tmp_path / "canary")}, tmp_path / "save")
    (examination,) = scan([folder]).checkpoints
    assert not (tmp_path / "canary").exists()
    assert [finding.evidence["members"] for finding in examination.findings if finding.code == "FIL002"] == [
        ["__0_0.distcp"]
    ]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b.distcp", "C:\\x", "", "a\0b"])
def test_files_outside_of_the_folder_are_not_opened(tmp_path: Path, name: str) -> None:
    write(tmp_path, (2,), [((0,), (2,))], {(0,): _StorageInfo(name, 0, 10)})
    for path in (tmp_path, tmp_path / ".metadata"):
        with pytest.raises(UnreadableCheckpoint, match="nothing of"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((1 << 40, 1 << 10), [((0, 0), (1 << 40, 1 << 10))]),
        ((1 << 58,), [((0,), (1 << 58,))]),
        ((1 << 61, 8), [((0, 0), (1 << 61, 8))]),
        ((8,) * 65, [((0,) * 65, (8,) * 65)]),
        ((2,), [((0,), (1,))] * 3),
        ((2,), [((1 << 61,), (2,))]),
        ((2, 2), [((0,), (2,)), ((1,), (1,))]),
        ((0, 1 << 60), [((0, 0), (0, 1 << 60))]),
        ((), [((), ()), ((), ())]),
    ],
)
def test_shapes_that_no_file_can_hold_are_refused(intact: Path, tmp_path: Path, shape: Any, chunks: Any) -> None:
    (tmp_path / "__0_0.distcp").write_bytes((intact / "__0_0.distcp").read_bytes())
    places = {at: _StorageInfo("__0_0.distcp", 0, 2089) for at, _ in chunks}
    with bounded_memory(), pytest.raises(UnreadableCheckpoint):
        open_checkpoint(write(tmp_path, shape, chunks, places))


def test_pieces_in_the_same_bytes_are_not_read_again_and_again(intact: Path, tmp_path: Path) -> None:
    content = (intact / "__0_0.distcp").read_bytes()
    (tmp_path / "__0_0.distcp").write_bytes(content)
    rows = [((row,), (1,)) for row in range(5_000)]
    places = {at: _StorageInfo("__0_0.distcp", index % 2000, len(content) - 2000) for index, (at, _) in enumerate(rows)}
    with pytest.raises(UnreadableCheckpoint):
        open_checkpoint(write(tmp_path, (5_000,), rows, places))


@pytest.mark.parametrize(
    "paths",
    [
        {"weight": ("a", 1 << 40)},
        {"weight": (0,) * 10_000},
        {"weight": ("a",), "other": ("a", "b")},
        {"weight": (-1,)},
        {"weight": ()},
        {"weight": (("a",),)},
        ["weight"],
        {"weight": "weight"},
    ],
)
def test_paths_that_lead_nowhere_lose_no_tensor(tmp_path: Path, paths: Any) -> None:
    folder = save({"weight": torch.arange(6.0)}, tmp_path / "save")
    metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = paths
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with bounded_memory():
        (tensor,) = open_checkpoint(folder).tensors
    np.testing.assert_array_equal(tensor.array, np.arange(6, dtype=np.float32))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_metadata_is_refused_in_one_sentence(intact: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((intact / ".metadata").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "repeat", "cut"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del content[at : at + data.draw(st.integers(1, 40))]
        elif kind == "repeat":
            content[at:at] = content[at : at + data.draw(st.integers(1, 200))]
        else:
            del content[max(at, 1) :]
        content = content or bytearray(b"\x80")
    (tmp_path / ".metadata").write_bytes(content)
    (tmp_path / "__0_0.distcp").write_bytes((intact / "__0_0.distcp").read_bytes())
    checkpoint = open_or_refuse(tmp_path)
    for tensor in checkpoint.tensors if checkpoint else ():
        assert sum(block.size for block in tensor.values.blocks(64)) == tensor.size


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_pieces_are_refused_in_one_sentence(intact: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((intact / "__0_0.distcp").read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / ".metadata").write_bytes((intact / ".metadata").read_bytes())
    (tmp_path / "__0_0.distcp").write_bytes(content)
    checkpoint = open_or_refuse(tmp_path)
    for tensor in checkpoint.tensors if checkpoint else ():
        assert tensor.array.size == tensor.size
