"""What the libraries that a format comes from read in a repaired copy, where they are installed.

Of these only safetensors is imported into this process, since its reader is as small as its format. torch runs in a
process of its own, which starts when the first copy is begun and serves the whole run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair.changes import Change, Purpose
from checkpoint_doctor.repair.safe_copy import bug

_START = "import sys; sys.path[:] = sys.argv[1:]; from checkpoint_doctor.repair.torch_reader import serve; serve()"
"""What the other process runs: it imports modules from where this one does, and from no other folder."""


class CrossCheck:
    """The libraries that can read repaired copies; as a context manager it ends their processes."""

    def __init__(self) -> None:
        self._torch: _Torch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._torch is not None:
            self._torch.stop()

    def start(self, format: str, changes: Sequence[Change]) -> None:
        """Start the library that will read a copy, without waiting for it."""
        if _is_for_torch(format, changes) and self._torch is None and importlib.util.find_spec("torch") is not None:
            with contextlib.suppress(OSError):  # where no process can be started, nothing is compared
                self._torch = _Torch()

    def compare_files(self, copies: Mapping[Path, Path], changes: Sequence[Change]) -> tuple[str, ...]:
        """Do what ``compare`` does for the files of a folder, each with the library of its own format.

        In a folder with several models, a tensor has the name of its file without ending before its own.
        """
        weights = [each for each in changes if each.purpose in (Purpose.REPAIR, Purpose.TARGET)]
        others = {original: copy for original, copy in copies.items() if original.suffix != ".safetensors"}
        readers = self.compare("torch", others, changes) if others else ()
        models: dict[str, dict[Path, Path]] = {}
        for original in copies.keys() - others.keys():
            prefix = f"{original.stem}/"
            has_prefix = any(each.tensor.name.startswith(prefix) for each in weights)
            models.setdefault(prefix if has_prefix else "", {})[original] = copies[original]
        for prefix, files in models.items():
            own = (each for each in weights if each.tensor.name.startswith(prefix))
            bare = [
                replace(each, tensor=replace(each.tensor, name=each.tensor.name.removeprefix(prefix))) for each in own
            ]
            readers += self.compare("safetensors", files, bare)
        return tuple(dict.fromkeys(readers))

    def compare(self, format: str, copies: Mapping[Path, Path], changes: Sequence[Change]) -> tuple[str, ...]:
        """Compare the repaired tensors with what the format's own library reads; return the libraries that were used.

        ``copies`` are the originals and their copies: one, or the shards that were changed.

        A library that refuses the original as well (for classes that are not installed, say) is not used.

        Raises:
            RepairFailed: a library cannot read the copy, or reads other values.
        """
        self.start(format, changes)
        if _is_for_torch(format, changes):
            return self._torch.compare(format, copies, changes) if self._torch is not None else ()
        return _compare_safetensors(copies, changes) if format == "safetensors" else ()


def _is_for_torch(format: str, changes: Sequence[Change]) -> bool:
    # NumPy has no bfloat16 and no float8, which safetensors' own reader would need.
    return format in ("torch", "sb3") or (
        format == "safetensors" and any(each.new.dtype.kind not in "fiubc" for each in changes)
    )


def _compare_safetensors(copies: Mapping[Path, Path], changes: Sequence[Change]) -> tuple[str, ...]:
    safetensors = importlib.import_module("safetensors")
    waiting = {each.tensor.name: each for each in changes}
    for original, copy in copies.items():
        try:
            with safetensors.safe_open(str(copy), framework="np") as file:
                found = {name: _digest(file.get_tensor(name)) for name in waiting.keys() & set(file.keys())}
        except Exception as error:
            try:
                safetensors.safe_open(str(original), framework="np")
            except Exception:
                return ()
            raise _refusal("safetensors", f"{type(error).__name__}: {error}") from None
        for name, digest in found.items():
            change = waiting.pop(name)
            if digest != _digest(change.new):
                raise _disagreement("safetensors", change)
    for change in waiting.values():
        raise _disagreement("safetensors", change)
    return (f"safetensors {safetensors.__version__}",)


class _Torch:
    """The process that ``torch_reader`` runs in."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
        )

    def stop(self) -> None:
        """End the process; it has no state that could be lost."""
        self._process.kill()
        self._process.communicate()

    def compare(self, format: str, copies: Mapping[Path, Path], changes: Sequence[Change]) -> tuple[str, ...]:
        """Make sure that torch finds every repaired tensor's new values in the copies; see ``CrossCheck.compare``."""
        if self._version is None:
            self._version = self._read_answer().get("version")
            if self._version is None:  # installed, and yet it cannot be imported
                return ()
        wanted = [(_key(format, each), list(each.tensor.shape)) for each in changes]
        found: list[list[str]] = [[] for _ in changes]
        for original, copy in copies.items():
            answer = self._ask(copy, format, wanted)
            if "error" in answer:
                if "error" in self._ask(original, format, []):
                    return ()
                raise _refusal("torch", answer["error"])
            if answer["found"] is not None:
                found = [known + more for known, more in zip(found, answer["found"], strict=True)]
            elif format != "safetensors":
                return ()
        for change, digests in zip(changes, found, strict=True):
            # A state dict's key names one tensor; an optimizer's ``exp_avg`` many, one of which must be this one.
            is_missing = not digests and format == "safetensors"
            if is_missing or (digests and _digest(change.new) not in digests):
                raise _disagreement("torch", change)
        return (f"torch {self._version}",)

    def _ask(self, path: Path, format: str, wanted: Sequence[tuple[str, list[int]]]) -> Mapping[str, Any]:
        if self._process.poll() is not None:  # it did not survive the question before
            self.stop()
            self._process = self._start()
            self._read_answer()
        question = {"path": str(path.absolute()), "format": format, "wanted": wanted}
        with contextlib.suppress(BrokenPipeError):  # it is gone, as its answer will say
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._read_answer()

    def _read_answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: Mapping[str, Any] = json.loads(line)
            return answer
        return {"error": f"its process ended with {self._process.wait()}"}


def _key(format: str, change: Change) -> str:
    name = change.tensor.name
    return name if format == "safetensors" else name.rpartition("/")[2]


def _digest(array: NDArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _disagreement(library: str, change: Change) -> RepairFailed:
    return bug(f"{library} reads other values for {change.tensor.name}")


def _refusal(library: str, why: str) -> RepairFailed:
    return bug(f"{library} does not read the copy ({why})")
