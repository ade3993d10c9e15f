"""Programs that ``torch.export.save`` wrote (``.pt2``): their state dicts. The programs themselves are not read.

Since PyTorch 2.9, each storage is a member of its own, and a JSON file says which tensors are in it. Before, the state
dict was a file of ``torch.save`` inside the archive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.tensors import Memory, PickledStorage, PickledTensor, view
from checkpoint_doctor.builtin.loaders._zip.archive import ZipArchive
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.checkpoint import Flaw
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import read_json
from checkpoint_doctor.text import shown

WEIGHTS = re.compile(r"(?P<root>(?:.*/)?)data/weights/(?P<model>[^/]+)_weights_config\.json")
SAVED_WEIGHTS = re.compile(r"(?:.*/)?(?:data/weights/(?P<model>[^/]+)\.pt|serialized_state_dict\.(?:pt|json))")
"""State dicts as PyTorch 2.8, and 2.1 to 2.7, stored them."""
PROGRAM = re.compile(r"(?:.*/)?(?:models/[^/]+\.json|serialized_exported_program\.json)")

ELEMENT_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""``ScalarType`` in ``torch/_export/serde/schema.py``."""
STRIDED = 7
"""``Layout.Strided`` in the same file."""


def is_exported(names: Collection[str]) -> bool:
    """Return whether an archive's members are those of an exported program."""
    return any(map(PROGRAM.fullmatch, names)) and any(
        WEIGHTS.fullmatch(name) or SAVED_WEIGHTS.fullmatch(name) for name in names
    )


def read_exported(archive: ZipArchive, load: Callable[[Member], Any], flaws: list[Flaw]) -> dict[str, Any]:
    """Return the state dict of an exported program; those of several programs under their names.

    Args:
        archive: the file.
        load: reads a file of ``torch.save`` in a member, and returns its object.
        flaws: what is found is appended here.

    Raises:
        UnreadableCheckpoint: the list of its weights is damaged.
    """
    models: dict[str, Any] = {}
    for name, member in archive.members.items():
        if found := WEIGHTS.fullmatch(name):
            models[found["model"]] = _read_weights(archive, found["root"], member, load, flaws)
        elif found := SAVED_WEIGHTS.fullmatch(name):
            models[found["model"] or "model"] = load(member)
    return next(iter(models.values())) if len(models) == 1 else models


def _read_weights(
    archive: ZipArchive, root: str, member: Member, load: Callable[[Member], Any], flaws: list[Flaw]
) -> dict[str, Any]:
    memories: dict[str, Memory] = {}
    weights = {}
    for key, entry in _read_config(member).items():
        path = f"{root}data/weights/{entry.get('path_name')}"
        stored = archive.members.get(path)
        if stored is None:
            flaws.append(Flaw(f"the bytes of {shown(key)} are missing from the archive", path))
            weights[key] = PickledTensor(problem=f"{shown(path)} is not in the archive")
        elif entry.get("use_pickle"):
            weights[key] = load(stored)
        else:
            memory = memories.setdefault(path, _remember(path, stored))
            weights[key] = _read_tensor(key, entry.get("tensor_meta"), memory, member)
    return weights


def _remember(path: str, stored: Member) -> Memory:
    return Memory(path, stored.size, lambda: stored.source)


def _read_config(member: Member) -> dict[str, Mapping[str, Any]]:
    try:
        config = json.loads(read_json(member.source))["config"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(member, "is not a JSON object with a config") from None
    if not isinstance(config, dict) or not all(isinstance(entry, dict) for entry in config.values()):
        raise _damaged(member, "does not map names to weights")
    return config


def _read_tensor(key: str, described: Any, memory: Memory, member: Member) -> PickledTensor:
    if not isinstance(described, dict):
        raise _damaged(member, f"does not describe {shown(key)}")
    code = described.get("dtype")
    dtype = ELEMENT_TYPES.get(code) if isinstance(code, int) else None
    if dtype is None:
        return PickledTensor(problem=f"its element type has the number {shown(code)}, which is not known")
    if described.get("layout", STRIDED) != STRIDED:
        return PickledTensor(dtype=dtype, problem="it is a sparse tensor, which is not examined")
    storage = PickledStorage(memory, dtype, 0, memory.size)
    try:
        offset, shape, strides = (described[each] for each in ("storage_offset", "sizes", "strides"))
        return view(storage, offset["as_int"], _numbers(shape), _numbers(strides))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(member, f"has no shape for {shown(key)} ({error})") from None


def _numbers(given: Any) -> list[int]:
    return [each["as_int"] for each in given]


def _damaged(member: Member, what: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"{member.archive.name}/{member.name} {what}", "export the program again")
