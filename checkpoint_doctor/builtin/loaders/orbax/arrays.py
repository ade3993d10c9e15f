"""The arrays of an Orbax checkpoint, which tensorstore reads: zarr, in files of their own or in an OCDBT database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type
from checkpoint_doctor.builtin.loaders._trees.leaves import NUMBERS, Leaf
from checkpoint_doctor.builtin.loaders.orbax.tree import Entry, Tree
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.text import shown

LARGEST_CHUNK = 2 << 30
"""Bytes that one chunk of an array may have in memory."""
SLAB = 1 << 22
"""Elements that are read at a time, unless a row has more."""
INSTALL = "pip install 'checkpoint-doctor[orbax]'"
_ERRORS = (ValueError, OSError, RuntimeError, LookupError, TypeError, NotImplementedError, MemoryError)
"""What tensorstore raises."""


def read_leaves(tree: Tree, prefix: tuple[str, ...]) -> Iterator[Leaf]:
    """Yield the arrays of an item, with keys before their own.

    Raises:
        UnreadableCheckpoint: tensorstore is not installed.
    """
    try:
        import tensorstore
    except ImportError:
        raise UnreadableCheckpoint(
            f"{tree.folder.path} is a checkpoint of Orbax, and the library tensorstore that reads it is not installed",
            INSTALL,
        ) from None
    arrays = [each for each in tree.entries if each.is_array]
    opened = [tensorstore.open(_describe(each, tree), open=True, read=True) for each in arrays]
    for entry, future in zip(arrays, opened, strict=True):
        path = (*prefix, *entry.path)
        try:
            store = future.result()
        except _ERRORS as error:
            yield Leaf(path, (), "", None, _explain(error))
            continue
        yield _as_leaf(path, store)
    for entry in tree.entries:
        if not entry.is_array:
            yield Leaf((*prefix, *entry.path), (), "", None, "it is not an array")


def _describe(entry: Entry, tree: Tree) -> dict[str, Any]:
    """Return the specification of an array for tensorstore.

    A chunk that is missing is an error, and not zeros.
    """
    base = f"{os.path.abspath(tree.folder.path)}/"
    store: dict[str, Any] = {"driver": "file", "path": f"{base}{entry.key}/"}
    if tree.is_database:
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": base}, "path": f"{entry.key}/"}
    return {"driver": "zarr3" if tree.is_zarr3 else "zarr", "kvstore": store, "fill_missing_data_reads": False}


def _as_leaf(path: tuple[str, ...], store: Any) -> Leaf:
    dtype, shape = str(store.dtype.name), tuple(int(size) for size in store.shape)
    if dtype not in NUMBERS:
        return Leaf(path, shape, dtype, None, f"elements of type {shown(dtype)} are not numbers that are read")
    chunk = prod(store.chunk_layout.read_chunk.shape or ()) * numpy_type(dtype).itemsize
    if chunk > LARGEST_CHUNK:
        return Leaf(
            path, shape, dtype, None, f"its chunks of {chunk:,} bytes are larger than the {LARGEST_CHUNK:,} read"
        )
    return Leaf(path, shape, dtype, _StoreValues("/".join(path), store, shape, numpy_type(dtype)))


class _StoreValues(Struct, frozen=True):
    """The values of an array that tensorstore reads, some rows at a time."""

    name: str
    store: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        rest = np.empty(0, self.dtype)
        for slab in self._slabs():
            flat = np.concatenate([rest, slab.reshape(-1)]) if rest.size else slab.reshape(-1)
            whole = flat.size - flat.size % elements
            for start in range(0, whole, elements):
                yield flat[start : start + elements]
            rest = flat[whole:]
        if rest.size:
            yield rest

    def _slabs(self) -> Iterator[NDArray]:
        if not self.shape or 0 in self.shape:
            yield self.read()
            return
        rows = max(1, SLAB // prod(self.shape[1:]))
        # Whole chunks, so that none is read twice.
        chunk = self.store.chunk_layout.read_chunk.shape[0] or 1
        rows = max(chunk, rows - rows % chunk)
        for start in range(0, self.shape[0], rows):
            yield self._read(self.store[start : min(start + rows, self.shape[0])])

    def read(self) -> NDArray:
        """See ``Values.read``."""
        return self._read(self.store)

    def _read(self, part: Any) -> NDArray:
        try:
            return np.array(part.read().result(), self.dtype, copy=True, order="C")
        except _ERRORS as error:
            raise UnreadableCheckpoint(
                f"the array {shown(self.name)} cannot be read: {_explain(error)}",
                "copy the folder again, or take an earlier checkpoint",
            ) from None


def _explain(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"tensorstore says {shown(text.partition(' [')[0])!r}" if text else type(error).__name__
