"""Patching stays small beside a large file, and a damaged file is patched rightly or refused, never half."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patched_files import applied, by_name, find_patches
from torch_files import saved

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, MemorySource

torch = pytest.importorskip("torch")

MEGABYTE = 1 << 20


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_changed_entry_in_a_large_file_takes_little_memory(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "large.pt"
    torch.save({"weight": torch.zeros(12 * MEGABYTE)}, path, _use_new_zipfile_serialization=is_zip)
    checkpoint = loader.open(FileSource(path))
    wanted = np.zeros(12 * MEGABYTE, np.float32)
    wanted[7] = wanted[-1] = 1.0
    changes = by_name({"weight": wanted})(checkpoint)
    tracemalloc.start()
    ((_, patches),) = loader.patch(checkpoint, changes).items()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * MEGABYTE  # the tensor alone takes 48
    assert sum(len(patch.new) for patch in patches) == (16 if is_zip else 8)


def test_changes_all_over_a_tensor_are_few_patches() -> None:
    wanted = np.zeros(400_000, np.float32)
    wanted[::40] = 1.0
    content = saved({"weight": torch.zeros(400_000)}, _use_new_zipfile_serialization=False)
    patches = find_patches(loader, content, by_name({"weight": wanted}))
    assert len(patches) < 10
    found = torch.load(io.BytesIO(applied(content, patches)), weights_only=True)
    assert np.array_equal(found["weight"].numpy(), wanted)


def small() -> dict:
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


FILES = [saved(small()), saved(small(), _use_new_zipfile_serialization=False)]


def everything(checkpoint: Checkpoint) -> dict:
    held = [state for each in checkpoint.optimizers for moments in each.parameters for state in moments.state.values()]
    options = [
        each for optimizer in checkpoint.optimizers for group in optimizer.groups for each in group.settings.values()
    ]
    return {each.name: each for each in (*checkpoint.tensors, *held, *options) if each.is_floating}


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_file_with_flipped_bytes_is_patched_rightly_or_refused(
    content: bytes, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(content)
    for place, value in flips:
        damaged[int(place * (len(damaged) - 1))] = value
    source = MemorySource("model", bytes(damaged))
    if not loader.recognizes(source):
        return
    try:
        checkpoint = loader.open(source)
        tensors = everything(checkpoint)
        patches = loader.patch(checkpoint, {each: np.full(each.shape, 0.5) for each in tensors.values()})
        before = checkpoint.damage
    except (RepairFailed, UnreadableCheckpoint):  # any other exception is a defect
        return
    again = loader.open(MemorySource("model", applied(bytes(damaged), patches.get(source, ()))))
    assert len(again.damage) <= len(before)
    found = everything(again)
    assert all((found[name].values.read() == 0.5).all() for name in tensors)


def test_two_sizes_of_a_stored_member_are_refused() -> None:
    content = bytearray(saved({"weight": torch.zeros(8)}))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        place = content.index(b"archive/data/0", archive.start_dir) - 46
    content[place + 25] = 1  # the size, 256 bytes more than the compressed size
    with pytest.raises(RepairFailed, match="declares two sizes for archive/data/0"):
        find_patches(loader, bytes(content), by_name({"weight": np.ones(8)}))
