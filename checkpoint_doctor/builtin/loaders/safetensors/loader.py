"""The loader of safetensors files: single ones, and the shards of an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type
from checkpoint_doctor.builtin.loaders._storage.stored_values import StoredValues
from checkpoint_doctor.builtin.loaders.safetensors import header
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Patch, Skipped, Tensor
from checkpoint_doctor.errors import RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.sources import Source, open_source, read_json
from checkpoint_doctor.text import quantity

MOST_SHARDS = 1000
"""Every shard stays open while its tensors may be read; the largest published models have about 200."""


class SafetensorsLoader(Struct, frozen=True):
    """Opens ``*.safetensors`` and ``*.safetensors.index.json``."""

    name: str = "safetensors"
    suffixes: tuple[str, ...] = (".safetensors", ".safetensors.index.json")

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            return header.begins_like_header(source) or _begins_like_index(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``. Tensors come in the order of their bytes, shard after shard."""
        if not header.begins_like_header(source):
            return _open_index(source)
        content = _open_shard(source)
        return Checkpoint(
            path=source.name,
            format=self.name,
            tensors=tuple(content.tensors),
            metadata=content.metadata,
            flaws=tuple(content.flaws),
            skipped=tuple(content.skipped),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)

    def reindex(self, checkpoint: Checkpoint, renamed: Mapping[str, str]) -> bytes:
        """See ``Reindexer.reindex``."""
        from checkpoint_doctor.builtin.loaders.safetensors.index import rename_shards

        source = open_source(checkpoint.path)
        if header.begins_like_header(source):
            raise RepairFailed(f"{checkpoint.path} is a single file, which has no index")
        weight_map, _ = read_index(source)
        if unknown := sorted(set(renamed).difference(weight_map.values())):
            raise RepairFailed(f"{checkpoint.path} lists no shard {unknown[0]}")
        return rename_shards(source.read(0, source.size).decode("utf-8"), renamed).encode("utf-8")


class _Shard(Struct, eq=False):
    """The contents of one shard, or of several."""

    names: set[str]
    """The names of all its tensors, including those whose dtype is not read."""
    tensors: list[Tensor]
    metadata: Mapping[str, str]
    flaws: list[Flaw]
    skipped: list[Skipped]


def _open_shard(source: Source) -> _Shard:
    entries, metadata, start = header.read_header(source)
    flaws: list[Flaw] = []
    header.check_layout(source, entries, start, flaws)
    tensors, skipped = [], []
    for entry in entries:
        if entry.dtype is None:
            skipped.append(Skipped(f"tensor {entry.name}", f"elements of type {entry.code} are not read"))
            continue
        tensors.append(
            Tensor(
                name=entry.name,
                shape=entry.shape,
                dtype=entry.dtype,
                values=StoredValues(source, start + entry.begin, numpy_type(entry.dtype), entry.shape),
            )
        )
    return _Shard({entry.name for entry in entries}, tensors, metadata, flaws, skipped)


def _begins_like_index(source: Source) -> bool:
    if not source.read(0, min(64, source.size)).lstrip().startswith(b"{"):
        return False
    return b'"weight_map"' in source.read(0, min(1 << 16, source.size))


def _open_index(source: Source) -> Checkpoint:
    weight_map, metadata = read_index(source)
    names_by_shard: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        names_by_shard.setdefault(shard, set()).add(name)
    if len(names_by_shard) > MOST_SHARDS:
        raise UnreadableCheckpoint(
            f"{source.name} lists {len(names_by_shard):,} shards; more than {MOST_SHARDS:,} are not opened",
            "scan the shards one by one",
        )
    merged = _Shard(set(), [], metadata, [], [])
    problems: list[UnreadableCheckpoint] = []
    for shard, names in sorted(names_by_shard.items()):
        content = _open_sibling(source, shard)
        if isinstance(content, UnreadableCheckpoint):
            problems.append(content)
            merged.flaws.append(
                Flaw(f"{content.message}; its {quantity(len(names), 'tensor')} cannot be examined", shard)
            )
        else:
            _merge(merged, shard, names, content)
    if problems and not merged.tensors:
        raise problems[0]
    return Checkpoint(
        path=source.name,
        format="safetensors",
        tensors=tuple(merged.tensors),
        metadata=merged.metadata,
        flaws=tuple(merged.flaws),
        skipped=tuple(merged.skipped),
    )


def _merge(merged: _Shard, shard: str, names: set[str], content: _Shard) -> None:
    """Add the tensors of a shard that the index lists there, and note where shard and index contradict each other."""
    merged.metadata = {**content.metadata, **merged.metadata}
    merged.flaws += [Flaw(flaw.message, flaw.member or shard, flaw.expected, flaw.found) for flaw in content.flaws]
    merged.skipped += content.skipped
    for tensor in content.tensors:
        if tensor.name in names:
            merged.tensors.append(tensor)
        else:
            merged.skipped.append(Skipped(f"tensor {tensor.name} in {shard}", "the index does not list it there"))
    merged.flaws += [
        Flaw(f"the index lists {name} in {shard}, which does not contain it", name)
        for name in sorted(names - content.names)
    ]


def _open_sibling(source: Source, shard: str) -> _Shard | UnreadableCheckpoint:
    try:
        sibling = source.sibling(shard)
        if not header.begins_like_header(sibling):
            return UnreadableCheckpoint(
                f"shard {shard} is not a safetensors file", "scan the shards of other formats one by one"
            )
        return _open_shard(sibling)
    except UnreadableCheckpoint as error:
        return error


def read_index(source: Source) -> tuple[Mapping[str, str], dict[str, str]]:
    """Return the file name of each tensor's shard, and the metadata of an index.

    Raises:
        UnreadableCheckpoint: it is not an index, or names no tensor.
    """
    index = header.parse_json(source, read_json(source), "the index")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UnreadableCheckpoint(
            f"the weight_map of {source.name} does not map tensor names to file names", "write the index again"
        )
    if not weight_map:
        raise UnreadableCheckpoint(f"{source.name} is an index without tensors", "write the index again")
    metadata = index.get("metadata")
    return weight_map, {key: str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}


loader = SafetensorsLoader()
