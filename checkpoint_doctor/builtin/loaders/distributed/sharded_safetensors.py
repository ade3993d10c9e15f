"""Distributed checkpoints in safetensors files: each rank's file says in its header where its chunks belong.

``HuggingFaceStorageWriter(save_distributed=True)`` writes them, without any file for all ranks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk
from checkpoint_doctor.builtin.loaders.distributed.metadata import Metadata, Piece, StoredTensor, merge_metadata
from checkpoint_doctor.builtin.loaders.distributed.names import SHARD
from checkpoint_doctor.builtin.loaders.safetensors import header
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder, Source
from checkpoint_doctor.text import shown

PLACES = "DCP_SHARDING_INFO"
"""Key of the header's metadata under which the offsets of its chunks are."""


def read_shards(folder: Folder, names: Collection[str]) -> Metadata:
    """Return the metadata that the headers of all ranks make together.

    The shape of a tensor is what its chunks span, since no header has it.

    Raises:
        UnreadableCheckpoint: a file is damaged, lacks its offsets, or the files of some ranks are missing.
    """
    numbers = {int(found[1]) for name in names if (found := SHARD.fullmatch(name))}
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - numbers) if max(numbers, default=0) < 1 << 20 else [0]
    if missing:
        raise UnreadableCheckpoint(
            f"{folder.path} is an incomplete save: the files of shard {missing[0]:05} are missing",
            "copy them into the folder, or take an earlier checkpoint",
        )
    metadata = merge_metadata((folder.locate(name), _read_shard(folder.open(name), name)) for name in names)
    for key, entry in metadata.entries.items():
        if entry is not None:
            ends = [
                [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
                for chunk in entry.chunks
            ]
            metadata.entries[key] = StoredTensor(entry.dtype, tuple(map(max, zip(*ends, strict=True))), entry.chunks)
    return metadata


def _read_shard(source: Source, name: str) -> Metadata:
    """Read one file. Its tensors have no shape yet, only their number of axes."""
    entries, described, _ = header.read_header(source)
    places = _read_places(source, described)
    metadata = Metadata()
    for entry in entries:
        offsets = places.get(entry.name)
        if not _are_offsets(offsets, len(entry.shape)):
            raise UnreadableCheckpoint(
                f"{source.name} is damaged: its header does not say where {shown(entry.name)} begins", "save it anew"
            )
        chunk = Chunk(tuple(offsets), entry.shape)
        metadata.entries[entry.name] = StoredTensor(entry.dtype or entry.code, (0,) * len(entry.shape), (chunk,))
        metadata.pieces[entry.name, chunk.offsets] = Piece(name, 0, source.size)
    return metadata


def _read_places(source: Source, described: Mapping[str, str]) -> dict[str, Any]:
    try:
        places = json.loads(described[PLACES])
        return {key: place["saved_offsets"] for key, place in places.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise UnreadableCheckpoint(
            f"{source.name} has no readable {PLACES} in its header", "scan the file by itself, or save it anew"
        ) from None


def _are_offsets(value: Any, axes: int) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) == axes
        and all(type(each) is int and 0 <= each < 1 << 59 for each in value)
    )
