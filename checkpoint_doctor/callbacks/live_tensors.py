"""Live tensors of PyTorch as the tensors that rules see: views of the same memory on the CPU, copies from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Skipped, Tensor
from checkpoint_doctor.statistics.values import InMemory

_NARROW = {torch.bfloat16: "bfloat16"} | {
    getattr(torch, name): name
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
}
"""Types that NumPy has through ml_dtypes only."""

_INTEGERS = {1: torch.uint8, 2: torch.int16}
"""Types of the same size, which NumPy has, by their bytes."""


class LiveValues(Struct, frozen=True, eq=False, dict=True):
    """``Values`` of a tensor of PyTorch. On the CPU they are its memory, which is never written to."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy (or ml_dtypes) type of one element."""
        return self._array.dtype

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``. The blocks cannot be written to."""
        return InMemory(self._array).blocks(elements)

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return self._array.copy()

    @cached_property
    def _array(self) -> NDArray:
        array = as_array(self.tensor)
        # A reader that works in place must fail, and not train the model.
        array.flags.writeable = False
        return array


def as_array(tensor: torch.Tensor) -> NDArray:
    """Return a tensor's values as an array: its own memory where that is on the CPU, otherwise a copy."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    narrow = _NARROW.get(plain.dtype)
    if narrow is None:
        array: NDArray = plain.numpy()
        return array
    import ml_dtypes

    return plain.view(_INTEGERS[plain.element_size()]).numpy().view(getattr(ml_dtypes, narrow))


def present(name: str, tensor: torch.Tensor, *, is_buffer: bool = False) -> Tensor | Skipped:
    """Return a live tensor as rules see it, or why it cannot be looked at."""
    if tensor.is_meta:
        return Skipped(name, "it is on the meta device, which holds no values")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return Skipped(
            name, f"it is a {'quantized' if tensor.is_quantized else 'sparse'} tensor, which is not examined"
        )
    storage = tensor.untyped_storage()
    start = int(tensor.storage_offset()) * tensor.element_size()
    return Tensor(
        name=name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        values=LiveValues(tensor),
        storage=f"{tensor.device}:{storage.data_ptr()}" if tensor.numel() else "",
        storage_range=(start, start + tensor.numel() * tensor.element_size()),
        is_buffer=is_buffer,
    )


def gather(tensor: Any) -> torch.Tensor:
    """Return the whole of a tensor that is spread over processes (a DTensor); any other tensor as it is.

    All processes that hold a part of it must call this at the same time.
    """
    if is_sharded(tensor):
        with torch.no_grad():
            whole: torch.Tensor = tensor.full_tensor()
        return whole
    kept: torch.Tensor = tensor
    return kept


def is_sharded(tensor: Any) -> bool:
    """True for a DTensor, as ``fully_shard`` (FSDP2) and tensor parallelism make them."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")
