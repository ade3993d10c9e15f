"""The ``.metadata`` of a distributed checkpoint: which tensors there are, and which file has which chunk of them.

It is a pickle of a ``torch.distributed.checkpoint.metadata.Metadata``. PyTorch reads it with ``pickle.load``, which
runs whatever it names; here its classes become records of their state, and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from typing import Any, NoReturn

from msgspec import Struct, field
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.machine import Machine
from checkpoint_doctor.builtin.loaders._pickle.names import TABLE
from checkpoint_doctor.builtin.loaders._pickle.objects import Global
from checkpoint_doctor.builtin.loaders._pickle.sharding import Record, make_record
from checkpoint_doctor.builtin.loaders._pickle.state import PYTHON_2_MODULES
from checkpoint_doctor.builtin.loaders._pickle.tensors import MOST_AXES
from checkpoint_doctor.builtin.loaders._pickle.torch_rebuilders import ElementType
from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk, Shape
from checkpoint_doctor.builtin.loaders.distributed.names import MODULES
from checkpoint_doctor.checkpoint import PickledName
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import shown

LARGEST_PIECE = 1 << 62
DEEPEST_PATH = 64

_RECORDS = (
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "MetadataIndex",
    "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
CLASSES = {
    **{(f"{package}.metadata", name): name for package in MODULES for name in _RECORDS},
    **{(f"{package}.filesystem", "_StorageInfo"): "_StorageInfo" for package in MODULES},
    **{(module, name): "Path" for module in ("pathlib", "pathlib._local") for name in _PATHS},
}
"""The classes of which the pickle consists, besides those of ``sharding.DESCRIPTIONS``, in PyTorch 1.13 to 2.13."""


class StoredTensor(Struct, frozen=True):
    """A tensor of the checkpoint: its element type, its shape, and its chunks."""

    dtype: str
    shape: Shape
    chunks: tuple[Chunk, ...]


class Piece(Struct, frozen=True):
    """Where a chunk, or an object that is no tensor, was saved."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...] = ()
    """What was done to the bytes when they were written, such as a compression."""


class Metadata(Struct):
    """The contents of a distributed checkpoint."""

    entries: dict[str, StoredTensor | None] = field(default_factory=dict)
    """Key to the tensor; ``None`` for an object that is no tensor."""
    pieces: dict[tuple[str, Shape | None], Piece] = field(default_factory=dict)
    """Key and offsets of a chunk (``None`` for an object) to where it was saved."""
    paths: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Key to the keys and positions that lead to it in the object that was saved; empty where it was not nested."""
    version: str = ""
    opcodes: int = 0
    pickled_names: tuple[PickledName, ...] = ()


def merge_metadata(parts: Iterable[tuple[str, Metadata]]) -> Metadata:
    """Put together what each rank wrote of its own chunks; every part comes with the name of its file.

    Raises:
        UnreadableCheckpoint: two parts disagree on the shape or element type of a tensor.
    """
    merged = Metadata()
    chunks: dict[str, dict[Chunk, None]] = {}
    for file, part in parts:
        for key, entry in part.entries.items():
            known = merged.entries.setdefault(key, entry)
            if (known is None) != (entry is None) or (
                known is not None and entry is not None and (known.dtype, known.shape) != (entry.dtype, entry.shape)
            ):
                raise UnreadableCheckpoint(
                    f"{file} does not belong to the files beside it: they disagree on the shape of {shown(key)}",
                    "keep the files of one save in each folder",
                )
            if entry is not None:
                chunks.setdefault(key, {}).update(dict.fromkeys(entry.chunks))
        for index, piece in part.pieces.items():
            merged.pieces.setdefault(index, piece)
        merged.paths.update(part.paths)
        merged.opcodes += part.opcodes
        merged.pickled_names += part.pickled_names
    for key, entry in merged.entries.items():
        if entry is not None:
            merged.entries[key] = replace(entry, chunks=tuple(chunks[key]))
    return merged


def read_metadata(source: Source, member: str = ".metadata") -> Metadata:
    """Read a ``.metadata`` without executing anything in it.

    ``member`` is the name under which the names in its pickle are reported.

    Raises:
        UnreadableCheckpoint: it is truncated, damaged, too large, or contradicts itself.
    """
    table = {**TABLE, **{name: partial(make_record, kind) for name, kind in CLASSES.items()}}
    names: dict[tuple[str, str], Global] = {}
    machine = Machine(table, None, source.budget, names)
    cursor = Cursor(source)
    root = machine.load(cursor)
    if not isinstance(root, Record) or root.kind != "Metadata":
        raise UnreadableCheckpoint(
            f"{source.name} is a pickle, but not of a distributed checkpoint's metadata", "name the folder of the save"
        )
    reading = _Reading(source)
    return Metadata(
        entries=dict(reading.entries(root.get("state_dict_metadata"))),
        pieces=dict(reading.pieces(root.get("storage_data"))),
        paths=dict(_read_paths(root.get("planner_data"))),
        version=str(root.get("version") or "")[:40],
        opcodes=machine.opcodes,
        pickled_names=tuple(
            PickledName(module, name, member, found.called, (PYTHON_2_MODULES.get(module, module), name) in table)
            for (module, name), found in names.items()
        ),
    )


class _Reading(Struct, frozen=True):
    """Turns the records of one file into nouns."""

    source: Source

    def entries(self, given: Any) -> Iterator[tuple[str, StoredTensor | None]]:
        for key, record in self._items(given, "the list of its tensors"):
            if not isinstance(key, str) or not isinstance(record, Record):
                self._refuse("the list of its tensors has an entry of an unknown kind")
            yield key, self._read_tensor(key, record) if record.kind == "TensorStorageMetadata" else None

    def pieces(self, given: Any) -> Iterator[tuple[tuple[str, Shape | None], Piece]]:
        for index, info in self._items(given, "the list of its pieces"):
            if not isinstance(index, Record) or not isinstance(info, Record) or not isinstance(index.get("fqn"), str):
                self._refuse("the list of its pieces has an entry of an unknown kind")
            key, at = index.get("fqn"), index.get("offset")
            file, transforms = info.get("relative_path"), info.get("transform_descriptors") or ()
            offset, length = info.get("offset"), info.get("length")
            if (
                not isinstance(file, str)
                or not _are_counts((offset, length))
                or not isinstance(transforms, list | tuple)
            ):
                self._refuse(f"the place of a piece of {shown(key)} is not a file and a range of bytes")
            place = None if at is None else self._read_shape(key, at)
            yield (key, place), Piece(file, offset, length, tuple(str(each)[:80] for each in transforms[:8]))

    def _read_tensor(self, key: str, record: Record) -> StoredTensor:
        properties = record.get("properties")
        state = properties.state if isinstance(properties, Record) else None
        if isinstance(state, dict):
            state = (state.get("dtype"),)
        if not isinstance(state, tuple) or not state or not isinstance(state[0], ElementType):
            self._refuse(f"tensor {shown(key)} has no element type")
        shape = self._read_shape(key, record.get("size"))
        chunks = record.get("chunks")
        if not isinstance(chunks, list | tuple) or not all(isinstance(each, Record) for each in chunks):
            self._refuse(f"tensor {shown(key)} has no list of chunks")
        return StoredTensor(
            state[0].name,
            shape,
            tuple(
                Chunk(self._read_shape(key, each.get("offsets")), self._read_shape(key, each.get("sizes")))
                for each in chunks
            ),
        )

    def _read_shape(self, key: str, given: Any) -> Shape:
        if not isinstance(given, list | tuple) or len(given) > MOST_AXES or not _are_counts(given):
            self._refuse(f"a shape of tensor {shown(key)} is not a list of sizes")
        if prod(max(size, 1) for size in given) >= LARGEST_PIECE:
            self._refuse(f"a shape of tensor {shown(key)} is larger than any memory")
        return tuple(int(size) for size in given)

    def _items(self, given: Any, what: str) -> Iterable[tuple[Any, Any]]:
        if not isinstance(given, dict):
            self._refuse(f"{what} is missing")
        return given.items()

    def _refuse(self, what: str) -> NoReturn:
        raise UnreadableCheckpoint(f"{self.source.name} is damaged: {what}", "copy the folder again, or save it anew")


def _read_paths(given: Any) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Yield the paths of the default planner; other planners store other things, which are of no use here."""
    for key, path in given.items() if isinstance(given, Mapping) else ():
        is_path = isinstance(path, tuple | list) and 0 < len(path) <= DEEPEST_PATH
        if isinstance(key, str) and is_path and all(type(step) in (str, int) for step in path):
            yield key, tuple(path)


def _are_counts(values: Iterable[Any]) -> bool:
    return all(type(each) is int and 0 <= each < LARGEST_PIECE for each in values)
