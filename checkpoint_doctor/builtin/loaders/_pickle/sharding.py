"""Stand-ins for PyTorch's tensors that several processes share, ``DTensor`` and ``ShardedTensor``.

A file that one process wrote has its own part of such a tensor only. Where that is all of it, it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor, dimensions
from checkpoint_doctor.builtin.loaders._storage.chunked_values import Chunk, ChunkedValues, PlacedChunk, describe_gaps
from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type
from checkpoint_doctor.checkpoint import Skipped, Tensor

_DTENSOR = ("torch.distributed.tensor", "torch.distributed._tensor")
_SHARDED = "torch.distributed._shard"
DESCRIPTIONS = {
    **{(f"{module}{part}", "DTensor"): "DTensor" for module in _DTENSOR for part in ("", "._api", ".api")},
    **{
        (f"{module}.{part}", name): name
        for module in _DTENSOR
        for part in ("_dtensor_spec", "placement_types")
        for name in ("DTensorSpec", "TensorMeta", "ShardOrderEntry")
    },
    **{
        (f"{module}.placement_types", name): name
        for module in _DTENSOR
        for name in ("Shard", "_StridedShard", "Replicate", "Partial", "_Partial")
    },
    **{
        (module, "DeviceMesh"): "DeviceMesh"
        for module in ("torch.distributed.device_mesh", f"{_DTENSOR[1]}.device_mesh")
    },
    **{("torch.distributed._mesh_layout", name): name for name in ("_MeshLayout", "_FlatLayout")},
    (f"{_SHARDED}.sharded_tensor.api", "ShardedTensor.ProcessGroupState"): "ProcessGroupState",
    (f"{_SHARDED}.sharded_tensor.shard", "Shard"): "Shard",
    (f"{_SHARDED}.sharded_tensor.metadata", "ShardedTensorMetadata"): "ShardedTensorMetadata",
    (f"{_SHARDED}.sharded_tensor.metadata", "TensorProperties"): "TensorProperties",
    (f"{_SHARDED}.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"): "MEM_FORMAT_ENCODING",
    (f"{_SHARDED}.metadata", "ShardMetadata"): "ShardMetadata",
    (f"{_SHARDED}.sharding_spec.api", "EnumerableShardingSpec"): "EnumerableShardingSpec",
    (f"{_SHARDED}.sharding_spec.chunk_sharding_spec", "ChunkShardingSpec"): "ChunkShardingSpec",
    ("torch.distributed.remote_device", "_remote_device"): "_remote_device",
}
"""Classes that describe how processes share a tensor, in PyTorch 2.0 to 2.13, and the kind of record for each."""


class Record(Struct, eq=False):
    """An object of a class that only describes something: its kind, and the state that the pickle sets."""

    kind: str
    state: Any = None

    def build(self, state: Any) -> None:
        """Set the state."""
        self.state = state

    def get(self, name: str) -> Any:
        """Return an attribute, ``None`` where there is none."""
        return attributes_in(self.state).get(name)


def attributes_in(state: Any) -> Mapping[str, Any]:
    """Return the attributes in the state of an object, whether its class has ``__slots__`` or not."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


def make_record(kind: str, *arguments: Any, **keywords: Any) -> Record:
    """Stand in for a class that only describes something."""
    return Record(kind)


class AssembledTensor(PickledTensor, eq=False):
    """A tensor in several chunks, each of which is a tensor that is stored by itself."""

    chunks: tuple[tuple[Chunk, PickledTensor], ...] = ()

    def as_tensor(self, name: str, is_buffer: bool = False) -> Tensor | Skipped:
        """Return the tensor with a name, or why it cannot be examined. Raises as ``PickledTensor.as_tensor``."""
        if self.problem:
            return Skipped(name, self.problem)
        placed = []
        for chunk, part in self.chunks:
            checked = part.as_tensor(name)
            if isinstance(checked, Skipped):
                return checked
            placed.append(PlacedChunk(chunk, checked.values))
        if len(placed) == 1 and placed[0].chunk.sizes == self.shape:
            return self.chunks[0][1].as_tensor(name, is_buffer)
        values = ChunkedValues(self.shape, numpy_type(self.dtype), placed)
        return Tensor(name, self.shape, self.dtype, values, is_buffer=is_buffer)


class PickledShardedTensor(AssembledTensor):
    """Stands in for ``ShardedTensor``, whose state is its local shards and what describes the whole."""

    def build(self, state: object) -> None:
        """Set the state ``(local shards, metadata, …)``.

        Raises:
            TypeError: it has another form.
            ValueError: a shape is negative or too large.
        """
        if not isinstance(state, tuple) or len(state) < 2 or not isinstance(state[1], Record):
            raise TypeError("the state of a sharded tensor has an unknown form")
        self.shape = dimensions(state[1].get("size"))
        chunks = []
        for shard in state[0] if isinstance(state[0], list | tuple) else ():
            part = shard.get("tensor") if isinstance(shard, Record) else None
            place = shard.get("metadata") if isinstance(shard, Record) else None
            if not isinstance(part, PickledTensor) or not isinstance(place, Record):
                raise TypeError("a shard has an unknown form")
            chunks.append((Chunk(dimensions(place.get("shard_offsets")), part.shape), part))
            self.dtype = part.dtype
        self.chunks = tuple(chunks)
        gaps = describe_gaps(self.shape, [chunk for chunk, _ in chunks])
        differ = any(part.dtype != self.dtype for _, part in chunks)
        self.problem = _describe_part(gaps) if gaps else "its shards differ in their element type" if differ else ""


def rebuild_shared(kind: str, whole: PickledTensor, state: Any) -> PickledTensor:
    """Return a ``DTensor`` or ``ShardedTensor`` with the values that its process held, where these are all of it.

    Raises:
        TypeError: its state has an unknown form.
        ValueError: a shape is negative or too large.
    """
    if kind == "ShardedTensor":
        shards = PickledShardedTensor()
        shards.build(state)
        return shards
    attributes = attributes_in(state)
    local = attributes.get("_local_tensor")
    if kind != "DTensor" or not isinstance(local, PickledTensor):
        return whole
    if local.shape == whole.shape and local.dtype == whole.dtype and not _is_partial(attributes.get("_spec")):
        return local
    shapes = f"{list(local.shape)} of its shape {list(whole.shape)}"
    return PickledTensor(dtype=whole.dtype, shape=whole.shape, problem=_describe_part(f"the file has {shapes}"))


def _is_partial(spec: Any) -> bool:
    """Return whether each process holds a summand."""
    placements = spec.get("placements") if isinstance(spec, Record) else ()
    return any(isinstance(each, Record) and "Partial" in each.kind for each in placements or ())


def _describe_part(what: str) -> str:
    return f"it is shared by several processes, and this file has the part of one of them: {what}"


STAND_INS = {
    **{name: partial(make_record, kind) for name, kind in DESCRIPTIONS.items()},
    (f"{_SHARDED}.sharded_tensor.api", "ShardedTensor"): lambda *_: PickledShardedTensor(),
}
"""``(module, name)`` to a stand-in."""
