"""Makes torch files in memory and opens them, for the tests of the torch loader."""

from __future__ import annotations

import io

import numpy as np
import pytest

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource

torch = pytest.importorskip("torch")
nn = torch.nn

CONTAINERS = {"zip": True, "legacy": False}


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Checkpoint:
    source = MemorySource("model.pt", content)
    assert loader.recognizes(source)
    return loader.open(source)


def refused(content: bytes) -> UnreadableCheckpoint:
    with pytest.raises(UnreadableCheckpoint) as caught:
        loader.open(MemorySource("model.pt", content))
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def names(checkpoint: Checkpoint) -> list[str]:
    return [tensor.name for tensor in checkpoint.tensors]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))


def comparable(tensor: torch.Tensor) -> np.ndarray:
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.dtype.is_complex:
        return tensor.to(torch.complex128).resolve_conj().resolve_neg().numpy()
    if tensor.dtype.is_floating_point:
        return tensor.to(torch.float64).resolve_neg().numpy()
    return tensor.numpy()


def assert_equal(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    assert names(checkpoint) == list(expected)
    for tensor in checkpoint.tensors:
        wanted = expected[tensor.name].detach()
        assert f"torch.{tensor.dtype}" == str(wanted.dtype)
        assert tensor.shape == tuple(wanted.shape)
        values = comparable(wanted)
        assert np.array_equal(tensor.array.astype(values.dtype), values, equal_nan=values.dtype.kind in "fc")
        streamed = [block.copy() for block in tensor.values.blocks(5)]
        flat = np.concatenate(streamed) if streamed else np.empty(0)
        assert np.array_equal(flat.astype(values.dtype), values.reshape(-1), equal_nan=values.dtype.kind in "fc")
