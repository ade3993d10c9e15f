"""Whole pickled modules and TorchScript archives: their tensors under the keys of ``module.state_dict()``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.objects import Global, Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders._zip.member import Member

DEEPEST_MODULE = 100
LONGEST_PREFIX = 2000
"""Characters of the path of a module; deeper ones are left out."""
LONGEST_CODE = 4 << 20
"""Bytes of one TorchScript source file that are searched for declarations of parameters and buffers."""
SCRIPT_MODULE = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n)*)", re.M)
DECLARED = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]$", re.M)


class Entry(Struct, frozen=True):
    """A key of a state dict and its tensor."""

    key: str
    tensor: PickledTensor
    is_buffer: bool = False


def is_module(value: object) -> bool:
    """Return whether an object has the attributes of a ``torch.nn.Module``."""
    if not isinstance(value, Inert):
        return False
    parts = value.attributes
    return isinstance(parts.get("_parameters"), dict) and isinstance(parts.get("_modules"), dict)


def is_script_module(value: object) -> bool:
    """Return whether an object's class was compiled by TorchScript."""
    return isinstance(value, Inert) and _script_class(value).startswith("__torch__.")


def entries_of(module: Inert, prefix: str = "", inside: tuple[int, ...] = ()) -> Iterator[Entry]:
    """Yield a module's tensors in the order and under the keys of ``module.state_dict()``."""
    if id(module) in inside or len(inside) > DEEPEST_MODULE or len(prefix) > LONGEST_PREFIX:
        return
    parts = module.attributes
    for key, value in parts["_parameters"].items():
        if isinstance(value, PickledTensor):
            yield Entry(f"{prefix}{key}", value)
    buffers = parts.get("_buffers")
    excluded = parts.get("_non_persistent_buffers_set")
    excluded = excluded if isinstance(excluded, set | frozenset | list | tuple) else ()
    for key, value in buffers.items() if isinstance(buffers, dict) else ():
        if isinstance(value, PickledTensor) and key not in excluded:
            yield Entry(f"{prefix}{key}", value, True)
    for key, child in parts["_modules"].items():
        if is_module(child):
            yield from entries_of(child, f"{prefix}{key}.", (*inside, id(module)))


class ScriptDeclarations:
    """The attributes of TorchScript classes that the archive's ``code`` files declare as parameters or buffers."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self._files: dict[str, Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {}

    def entries_of(self, module: Inert, prefix: str = "", inside: tuple[int, ...] = ()) -> Iterator[Entry]:
        """Yield a compiled module's tensors under the keys of its ``state_dict()``."""
        if id(module) in inside or len(inside) > DEEPEST_MODULE or len(prefix) > LONGEST_PREFIX:
            return
        parameters, buffers = self._declared(_script_class(module))
        attributes = module.attributes
        for names, is_buffer in ((parameters, False), (buffers, True)):
            for key, value in attributes.items():
                if isinstance(value, PickledTensor) and key in names:
                    yield Entry(f"{prefix}{key}", value, is_buffer)
        for key, child in attributes.items():
            if is_script_module(child):
                yield from self.entries_of(child, f"{prefix}{key}.", (*inside, id(module)))

    def _declared(self, qualified: str) -> tuple[frozenset[str], frozenset[str]]:
        module, _, name = qualified.rpartition(".")
        path = f"code/{module.replace('.', '/')}.py"
        if path not in self._files:
            self._files[path] = self._read(path)
        return self._files[path].get(name, (frozenset(), frozenset()))

    def _read(self, path: str) -> Mapping[str, tuple[frozenset[str], frozenset[str]]]:
        member = self._members.get(path)
        if member is None:
            return {}
        source = member.source
        text = source.read(0, min(source.size, LONGEST_CODE)).decode("utf-8", "replace")
        found = {}
        for name, body in SCRIPT_MODULE.findall(text):
            lists = {kind: frozenset(re.findall(r'"([^"]+)"', names)) for kind, names in DECLARED.findall(body)}
            found[name] = (lists.get("parameters", frozenset()), lists.get("buffers", frozenset()))
        return found


def _script_class(value: Inert) -> str:
    return value.callee.qualified if isinstance(value.callee, Global) else ""


def attributes_of(value: Any) -> Mapping[str, Any]:
    """Return an inert object's attributes, empty for anything else."""
    return value.attributes if isinstance(value, Inert) else {}
