"""A process of its own that reads files with torch.

torch takes a second to start and runs machine code on bytes from untrusted files. Here it starts while the copy is
being made, and a crash ends this process alone. Requests and responses are lines of JSON.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_MEMBER = 1 << 27
"""Bytes of a member of a zip up to which torch is asked to read the file: it has to hold each in memory as a whole."""


def serve() -> None:
    """Say which version this is, then answer questions about files until nobody asks any more.

    The first line out is ``{"version": …}``, or ``{"error": …}`` where torch cannot be imported. A question is
    ``{"path", "format", "wanted": [[key, shape], …]}``. Its answer is ``{"found": [[SHA-256, …], …]}``: for each
    wanted key and shape the sums of all tensors that stand under it; ``{"found": null}`` where nothing of the file is
    for torch to read, and ``{"error": …}`` where it refuses.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        _say(answers, {"error": _describe(error)})
        return
    _say(answers, {"version": torch.__version__})
    for line in sys.stdin:
        try:
            found: Any = {"found": _look(torch, **json.loads(line))}
        except Exception as error:
            found = {"error": _describe(error)}
        _say(answers, found)


def _say(answers: Any, what: Mapping[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _look(torch: Any, path: str, format: str, wanted: list[tuple[str, list[int]]]) -> list[list[str]] | None:
    if format == "safetensors":
        content = _read_safetensors(path, {key for key, _ in wanted})
    else:
        content = _read_members(torch, path) if format == "sb3" else _read_file(torch, path)
    if not content:
        return None
    found: dict[tuple[str, tuple[int, ...]], list[Any]] = {}
    for key, tensor in _tensors(torch, content):
        found.setdefault((key, tuple(tensor.shape)), []).append(tensor)
    return [[_digest(torch, each) for each in found.get((key, tuple(shape)), [])] for key, shape in wanted]


def _read_file(torch: Any, path: str) -> Mapping[str, Any]:
    return {"": torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))}


def _read_members(torch: Any, path: str) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if each.filename.endswith(".pth")]
        if any(each.file_size > LARGEST_MEMBER for each in members):
            return {}
        return {
            each.filename: torch.load(io.BytesIO(archive.read(each)), map_location="cpu", weights_only=True)
            for each in members
        }


def _read_safetensors(path: str, names: set[str]) -> Mapping[str, Any]:
    with importlib.import_module("safetensors").safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names & set(file.keys())}


def _tensors(torch: Any, content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every tensor in nested containers with the key that it stands under."""
    waiting, seen = [("", content)], set()
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inside = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(str(name), each) for name, each in inside]


def _digest(torch: Any, tensor: Any) -> str:
    """Return the SHA-256 of a tensor's bits, whatever its type: bfloat16 and float8 as whole numbers."""
    tensor = tensor.detach().contiguous()
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    array = (tensor.view(integer) if integer is not None and not tensor.is_complex() else tensor).numpy()
    return hashlib.sha256(array.tobytes()).hexdigest()
