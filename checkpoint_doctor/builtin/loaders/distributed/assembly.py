"""Puts the chunks of a distributed checkpoint together: whole tensors, in the nesting in which they were saved."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.sharding import AssembledTensor
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk, describe_gaps
from checkpoint_doctor.builtin.loaders.distributed.metadata import Metadata, StoredTensor
from checkpoint_doctor.builtin.loaders.distributed.pieces import Pieces
from checkpoint_doctor.errors import UnreadableCheckpoint

MOST_CHUNKS = 1 << 16
"""Chunks of one tensor: about as many as there are ranks."""


def assemble(metadata: Metadata, pieces: Pieces) -> dict[str, Any]:
    """Return every entry of the metadata by its key: tensors as ``PickledTensor``, and the other objects.

    A tensor that cannot be put together is there with its ``problem``. An object that cannot be read is left out.
    """
    found: dict[str, Any] = {}
    for key, entry in metadata.entries.items():
        if entry is not None:
            found[key] = _assemble_tensor(key, entry, metadata, pieces)
            continue
        piece = metadata.pieces.get((key, None))
        if piece is not None:
            try:
                found[key] = pieces.read(key, piece)
            except UnreadableCheckpoint as error:
                found[key] = Unread(error.message)
    return found


class Unread(Struct, frozen=True):
    """An object that is no tensor and cannot be read."""

    why: str


def _assemble_tensor(key: str, entry: StoredTensor, metadata: Metadata, pieces: Pieces) -> PickledTensor:
    chunks = [chunk for chunk in entry.chunks if 0 not in chunk.sizes] or list(entry.chunks[:1])
    if len(chunks) > MOST_CHUNKS:
        return _missing(entry, f"it has {len(chunks):,} chunks; more than {MOST_CHUNKS:,} are not put together")
    gaps = describe_gaps(entry.shape, chunks)
    if gaps:
        return _missing(entry, f"it is incomplete: {gaps}")
    parts = []
    for chunk in chunks:
        piece = metadata.pieces.get((key, chunk.offsets))
        if piece is None:
            return _missing(entry, f"no file is recorded for its chunk at {list(chunk.offsets)}")
        try:
            part = pieces.read(key, piece)
        except UnreadableCheckpoint as error:
            return _missing(entry, error.message)
        wrong = _compare(part, entry, chunk)
        if wrong:
            return _missing(entry, f"{piece.file}, byte {piece.offset:,}, {wrong}")
        parts.append((chunk, part))
    if len(parts) == 1 and parts[0][0].sizes == entry.shape:
        only: PickledTensor = parts[0][1]
        return only
    return AssembledTensor(dtype=entry.dtype, shape=entry.shape, chunks=tuple(parts), problem="")


def _compare(part: Any, entry: StoredTensor, chunk: Chunk) -> str:
    """Return how a piece differs from what the metadata says of it; empty where it does not."""
    if not isinstance(part, PickledTensor):
        return f"contains {type(part).__name__} in place of a tensor"
    if part.problem:
        return f"cannot be read: {part.problem}"
    if part.shape != chunk.sizes:
        return f"contains a tensor of shape {list(part.shape)}, but {list(chunk.sizes)} is expected"
    if part.dtype != entry.dtype:
        return f"contains {part.dtype}, but {entry.dtype} is expected"
    return ""


def _missing(entry: StoredTensor, problem: str) -> PickledTensor:
    return PickledTensor(dtype=entry.dtype, shape=entry.shape, problem=problem)
