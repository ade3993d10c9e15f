"""Applies a loader's patches to files in memory, for the tests of what loaders change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.sources import MemorySource

Changes = Mapping[Tensor, NDArray]


def applied(content: bytes, patches: Sequence[Patch]) -> bytes:
    """Return the patched bytes, the patches having kept what is promised of them."""
    result, reached = bytearray(content), 0
    for patch in patches:
        assert patch.offset >= reached
        assert len(patch.old) == len(patch.new)
        assert patch.old != patch.new
        assert patch.reason
        reached = patch.offset + len(patch.old)
        assert content[patch.offset : reached] == patch.old
        result[patch.offset : reached] = patch.new
    return bytes(result)


def find_patches(loader: Loader, content: bytes, choose: Callable[[Checkpoint], Changes]) -> Sequence[Patch]:
    """Return the patches of a file for the changes that are chosen when it is open."""
    source = MemorySource("model", content)
    checkpoint = loader.open(source)
    patches = loader.patch(checkpoint, choose(checkpoint))
    assert set(patches) <= {source}
    assert all(patches.values()), "a file without patches is left out"
    return patches.get(source, ())


def patched(loader: Loader, content: bytes, choose: Callable[[Checkpoint], Changes]) -> bytes:
    """Return the file as its patches make it."""
    return applied(content, find_patches(loader, content, choose))


def refusal(loader: Loader, content: bytes, choose: Callable[[Checkpoint], Changes]) -> RepairFailed:
    """Return what the loader says when it refuses."""
    with pytest.raises(RepairFailed) as caught:
        find_patches(loader, content, choose)
    assert "\n" not in caught.value.message
    return caught.value


def by_name(values: Mapping[str, NDArray | float]) -> Callable[[Checkpoint], Changes]:
    """Return a choice of changes by the tensors' names."""
    return lambda checkpoint: {checkpoint.by_name[name]: np.asarray(array) for name, array in values.items()}
