"""The groups and data sets of an HDF5 file. h5py reads the structure; most numbers are read from the file directly.

Nothing outside the file is touched: links to other files, data sets whose numbers are in other files, and virtual ones
are left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.converted_values import stored_values
from checkpoint_doctor.builtin.loaders._storage.dtypes import EXTENDED, NATIVE, numpy_type
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import INFLATED, OBJECTS, TENSORS
from checkpoint_doctor.statistics.values import Values
from checkpoint_doctor.text import shown

DEEPEST = 32
"""Groups inside one another."""
INSTALL = "pip install 'checkpoint-doctor[keras]'"

_NAME_OF = {np.dtype(code).str.lstrip("<>|="): name for name, code in reversed(NATIVE.items()) if code != "?"}
_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError, ArithmeticError)
"""What h5py raises for damaged files."""


class DataSet(Struct, frozen=True):
    """A data set of numbers."""

    path: tuple[str, ...]
    """The names of its groups, and its own."""
    shape: tuple[int, ...]
    dtype: str
    """PyTorch's name for the type."""
    values: Values
    problem: str = ""
    """Why its values cannot be read; empty where they can."""


class Contents(Struct, frozen=True):
    """What an HDF5 file holds."""

    datasets: tuple[DataSet, ...]
    attributes: dict[tuple[str, ...], dict[str, str]]
    """The texts among the attributes of each group; those of a list of names are joined by line feeds."""


class Missing(UnreadableCheckpoint):
    """h5py is not installed."""


def read_contents(source: Source, accepts: Callable[[set[str]], bool]) -> Contents | None:
    """Read the structure of an HDF5 file; numbers stay in the file.

    Args:
        source: the file.
        accepts: is given the names of the attributes, groups and data sets at the root of the file, and says whether
            the rest is of interest. ``None`` is returned where it is not.

    Raises:
        Missing: h5py is not installed.
        UnreadableCheckpoint: the file is damaged.
    """
    try:
        import h5py
    except ImportError:
        raise Missing(
            f"{source.name} is a Keras model in HDF5, and the library h5py that reads it is not installed", INSTALL
        ) from None
    with _naming_damage(source):
        file = h5py.File(_File(source), "r")
        if not accepts({*file.attrs, *file}):
            return None
        walk = _Walk(h5py, source)
        walk.visit(file, ())
        return Contents(tuple(walk.datasets), walk.attributes)
    raise AssertionError("unreachable")


@contextmanager
def _naming_damage(source: Source) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableCheckpoint(
            f"{source.name} is a damaged HDF5 file: {why}", "copy or download it again, or take an earlier checkpoint"
        ) from None


class _Walk:
    """Collects the data sets of a file, group by group, in the order of their names."""

    def __init__(self, h5py: Any, source: Source) -> None:
        self.h5py = h5py
        self.source = source
        self.datasets: list[DataSet] = []
        self.attributes: dict[tuple[str, ...], dict[str, str]] = {}

    def visit(self, group: Any, path: tuple[str, ...]) -> None:
        self.attributes[path] = self._texts(group)
        for name in sorted(group, key=_natural):
            self.source.budget.spend(OBJECTS, 10)  # h5py keeps several for each
            if len(path) > DEEPEST:
                raise ValueError("its groups are nested too deeply")
            if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
                continue
            item = group[name]
            if isinstance(item, self.h5py.Group):
                self.visit(item, (*path, name))
            elif isinstance(item, self.h5py.Dataset) and (found := self._read(item, (*path, name))) is not None:
                self.datasets.append(found)

    def _texts(self, group: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in group.attrs:
            if len(found) >= 100:
                break
            try:
                value = group.attrs[name]
            except _ERRORS:
                continue
            if isinstance(value, bytes | str):
                found[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            elif name.endswith("_names") and isinstance(value, np.ndarray):
                self.source.budget.spend(OBJECTS, int(value.size))
                found[name] = "\n".join(
                    each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in value.flat
                )
        return found

    def _read(self, item: Any, path: tuple[str, ...]) -> DataSet | None:
        """Return a data set of numbers, ``None`` for any other."""
        if item.shape is None:
            return None
        dtype = "bfloat16" if self._texts(item).get("dtype") == "bfloat16" else _NAME_OF.get(item.dtype.str[1:], "")
        if item.dtype == bool:
            dtype = "bool"
        shape = tuple(int(size) for size in item.shape)
        if not dtype or (dtype in EXTENDED and item.dtype.itemsize != 2):
            return None
        self.source.budget.spend(TENSORS, 1)
        size, stored = int(item.size) * item.dtype.itemsize, int(item.id.get_storage_size())
        problem = ""
        if item.external or item.is_virtual:
            problem = "its values are in another file"
        elif size and not stored:
            problem = "its values were never written"
        elif size > stored + self.source.budget.left(INFLATED):
            problem = f"it would grow from {stored:,} to {size:,} bytes: it may be a decompression bomb"
        offset = item.id.get_offset()
        if problem or (offset is not None and item.chunks is None and not item.compression):
            start = int(offset or 0)
            if not problem and start + size > self.source.size:
                raise ValueError(f"data set {shown('/'.join(path))} ends at byte {start + size:,}, beyond the file")
            is_big = item.dtype.byteorder == ">"
            return DataSet(
                path, shape, dtype, stored_values(self.source, start, dtype, shape, is_big_endian=is_big), problem
            )
        self.source.budget.spend(INFLATED, max(0, size - stored))
        return DataSet(path, shape, dtype, PackedValues(self.source, item, numpy_type(dtype), shape))


class PackedValues:
    """The values of a data set that is stored in chunks, mostly compressed; h5py reads it as a whole."""

    def __init__(self, source: Source, item: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self._source = source
        self._item = item
        self.dtype = dtype
        self.shape = shape

    def blocks(self, elements: int) -> Iterator[NDArray]:
        """See ``Values.blocks``."""
        flat = self.read().reshape(-1)
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]

    def read(self) -> NDArray:
        """See ``Values.read``."""
        with _naming_damage(self._source):
            content: NDArray = np.asarray(self._item[()])
            if self.dtype.name in EXTENDED:
                return np.ascontiguousarray(content).view(self.dtype).reshape(self.shape)
            return np.ascontiguousarray(content, self.dtype).reshape(self.shape)
        raise AssertionError("unreachable")


class _File(io.RawIOBase):
    """A source as h5py reads files."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        window = memoryview(buffer).cast("B")
        count = max(0, min(len(window), self._source.size - self._at))
        self._source.read_into(self._at, window[:count])
        self._at += count
        return count


def _natural(name: str) -> tuple[int, int, str]:
    """Sort ``2`` before ``10``: the variables of a layer are numbered."""
    return (0, int(name), "") if name.isascii() and name.isdigit() and len(name) < 9 else (1, 0, name)
