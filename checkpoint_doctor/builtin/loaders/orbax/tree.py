"""The ``_METADATA`` of an Orbax checkpoint: which arrays there are, by the keys of the tree that was saved."""

from __future__ import annotations

from typing import Any, NoReturn

from msgspec import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder, Source, read_json
from checkpoint_doctor.sources.budget import TENSORS
from checkpoint_doctor.text import shown

METADATA = "_METADATA"
DATABASE = "manifest.ocdbt"
"""The index of an OCDBT database, in which Orbax keeps all arrays by default."""
DEEPEST = 64
"""Keys of one array."""
ARRAYS = ("jax.Array", "np.ndarray", "scalar")
"""Types of values that are stored as arrays."""


class Entry(Struct, frozen=True):
    """An array of the tree."""

    path: tuple[str, ...]
    is_array: bool
    """False for texts and other values."""

    @property
    def key(self) -> str:
        """The name under which it is stored."""
        return ".".join(self.path)


class Tree(Struct, frozen=True):
    """What the metadata of one item say."""

    folder: Folder
    entries: tuple[Entry, ...]
    is_zarr3: bool
    is_database: bool


def read_tree(folder: Folder) -> Tree:
    """Read the metadata of an item.

    Raises:
        UnreadableCheckpoint: they are damaged.
    """
    import json

    source = folder.open(METADATA)
    try:
        fields = json.loads(read_json(source))
    except (ValueError, RecursionError):
        _refuse(source, "they are not valid JSON")
    tree = fields.get("tree_metadata") if isinstance(fields, dict) else None
    if not isinstance(tree, dict):
        _refuse(source, "they have no tree_metadata")
    source.budget.spend(TENSORS, len(tree))
    entries = tuple(_read_entry(source, each) for each in tree.values() if not _is_empty(each))
    return Tree(folder, entries, fields.get("use_zarr3") is True, DATABASE in folder.files)


def _is_empty(field: Any) -> bool:
    """Tell whether an entry is an empty dictionary or ``None``, of which nothing is stored."""
    value = field.get("value_metadata") if isinstance(field, dict) else None
    return isinstance(value, dict) and value.get("value_type") in ("Dict", "List", "Tuple", "NamedTuple", "None")


def _read_entry(source: Source, field: Any) -> Entry:
    keys = field.get("key_metadata") if isinstance(field, dict) else None
    value = field.get("value_metadata") if isinstance(field, dict) else None
    if not isinstance(keys, list) or not isinstance(value, dict) or not 0 < len(keys) <= DEEPEST:
        _refuse(source, "an entry has no keys or no type")
    path = tuple(each.get("key") if isinstance(each, dict) else None for each in keys)
    names = tuple(each for each in path if isinstance(each, str))
    if len(names) < len(path):
        _refuse(source, "a key is not text")
    if any(name in ("", ".", "..") or set(name) & set("/\\\0") for name in names):
        _refuse(source, f"the key {shown('/'.join(names))!r} is not a name in its own folder")
    return Entry(names, value.get("value_type") in ARRAYS)


def _refuse(source: Source, what: str) -> NoReturn:
    raise UnreadableCheckpoint(
        f"the metadata in {source.name} are damaged: {what}", "copy the folder again, or take an earlier checkpoint"
    )
