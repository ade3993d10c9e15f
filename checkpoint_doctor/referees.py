"""What the libraries that a checkpoint comes from read in it: referees for a repaired copy, where they are installed.

They are imported by name when they are asked and never needed otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.repair_plan import Treatment
from checkpoint_doctor.safe_copy import REPORT_IT

LARGEST_MEMBER = 1 << 27
"""Bytes of a member of a zip that torch is asked to read; it would have to hold a larger one in memory as a whole."""


def ask_referees(format: str, copies: Sequence[tuple[Path, Path]], treatments: Sequence[Treatment]) -> tuple[str, ...]:
    """Let the format's own library read the copies and compare the repaired tensors; return the names of who was asked.

    ``copies`` are pairs of an original and its copy: one, or the shards that were changed.

    A library that refuses the original as well (for classes that are not installed, say) is not asked.

    Raises:
        RepairFailed: a library cannot read the copy, or reads other values.
    """
    if format == "safetensors":
        return _ask_safetensors([copy for _, copy in copies], treatments)
    ((original, copy),) = copies
    if format in ("torch", "sb3") and importlib.util.find_spec("torch") is not None:
        read = _read_members if format == "sb3" else _read_file
        return _ask_torch(read, original, copy, treatments)
    return ()


def _ask_safetensors(copies: Sequence[Path], treatments: Sequence[Treatment]) -> tuple[str, ...]:
    safetensors = importlib.import_module("safetensors")
    # NumPy has no bfloat16 and no float8; torch has, but is only worth its start-up where they occur.
    native = all(each.new.dtype.kind in "fiubc" for each in treatments)
    if not native and importlib.util.find_spec("torch") is None:
        return ()
    waiting = {each.tensor.name: each for each in treatments}
    try:
        for copy in copies:
            with safetensors.safe_open(str(copy), framework="np" if native else "pt") as file:
                for name in waiting.keys() & set(file.keys()):
                    value, treatment = file.get_tensor(name), waiting.pop(name)
                    if _bits(value if native else _as_array(value)) != _bits(treatment.new):
                        raise _disagreement("safetensors", treatment)
    except RepairFailed:
        raise
    except Exception as error:
        raise _refusal("safetensors", error) from None
    for treatment in waiting.values():
        raise _disagreement("safetensors", treatment)
    return (f"safetensors {safetensors.__version__}",)


_Reader = Callable[[Any, Path], Mapping[str, Any]]


def _ask_torch(read: _Reader, original: Path, copy: Path, treatments: Sequence[Treatment]) -> tuple[str, ...]:
    torch = importlib.import_module("torch")
    try:
        content = read(torch, copy)
    except Exception as error:
        try:
            read(torch, original)
        except Exception:
            return ()
        raise _refusal("torch", error) from None
    if not content:
        return ()
    found: dict[tuple[str, tuple[int, ...]], list[Any]] = {}
    for key, tensor in _tensors(torch, content):
        found.setdefault((key, tuple(tensor.shape)), []).append(tensor)
    for treatment in treatments:
        key = treatment.tensor.name.rpartition("/")[2]
        candidates = found.get((key, treatment.tensor.shape), [])
        # A state dict's key names one tensor; an optimizer's ``exp_avg`` many, of which one must be the repaired one.
        if candidates and not any(_bits(_as_array(each)) == _bits(treatment.new) for each in candidates):
            raise _disagreement("torch", treatment)
    return (f"torch {torch.__version__}",)


def _read_file(torch: Any, path: Path) -> Mapping[str, Any]:
    import zipfile

    return {"": torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))}


def _read_members(torch: Any, path: Path) -> Mapping[str, Any]:
    import io
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return {
            member.filename: torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
            for member in archive.infolist()
            if member.filename.endswith(".pth") and member.file_size <= LARGEST_MEMBER
        }


def _tensors(torch: Any, content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every tensor in nested containers with the key that it stands under."""
    waiting, seen = [(key, content)], set()
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inside = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(str(name), each) for name, each in inside]


def _as_array(tensor: Any) -> NDArray:
    """Return a tensor's bits, whatever its type: bfloat16 and float8 as whole numbers."""
    tensor = tensor.detach().contiguous()
    torch = importlib.import_module("torch")
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    array: NDArray = (tensor.view(integer) if integer is not None and not tensor.is_complex() else tensor).numpy()
    return array


def _bits(array: NDArray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _disagreement(library: str, treatment: Treatment) -> RepairFailed:
    return RepairFailed(
        f"this is a fault in ckdoc: {library} reads other values for {treatment.tensor.name}; nothing was written",
        REPORT_IT,
    )


def _refusal(library: str, error: Exception) -> RepairFailed:
    first = str(error).strip().partition("\n")[0][:200]
    return RepairFailed(
        f"this is a fault in ckdoc: {library} does not read the copy ({type(error).__name__}: {first}); "
        "nothing was written",
        REPORT_IT,
    )
