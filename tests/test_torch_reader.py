"""What the process with torch answers about a file: the sums of the tensors under each key, or why it refuses."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from checkpoint_doctor.repair import torch_reader

TENSORS = {
    "single": torch.linspace(-1, 1, 6).reshape(2, 3),
    "double": torch.linspace(-1, 1, 5, dtype=torch.float64),
    "half": torch.linspace(-1, 1, 5, dtype=torch.float16),
    "brain": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
    "eight": torch.linspace(-1, 1, 5).to(torch.float8_e4m3fn),
    "whole": torch.arange(5),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "truth": torch.tensor([True, False, True]),
    "complex": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64),
    "wide": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128),
}


def sum_of(tensor: torch.Tensor) -> str:
    content = bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())
    return hashlib.sha256(content).hexdigest()


def asked(path: Path, format: str, *wanted: tuple[str, list[int]]) -> Any:
    return torch_reader._look(torch, str(path), format, list(wanted))


def test_every_type_has_the_sum_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(TENSORS, path)
    wanted = [(name, list(tensor.shape)) for name, tensor in TENSORS.items()]
    assert asked(path, "torch", *wanted) == [[sum_of(tensor)] for tensor in TENSORS.values()]


def test_a_key_stands_for_all_tensors_of_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    one, other = torch.ones(3), torch.zeros(3)
    shared = {"exp_avg": one}
    torch.save({"state": {0: shared, 1: {"exp_avg": other}, 2: {"exp_avg": torch.ones(4)}}, "again": [shared]}, path)
    (found, none, longer) = asked(path, "torch", ("exp_avg", [3]), ("exp_avg", [5]), ("exp_avg", [4]))
    assert sorted(found) == sorted([sum_of(one), sum_of(other)])
    assert (none, longer) == ([], [sum_of(torch.ones(4))])


def test_views_have_the_sum_of_their_own_entries(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"turned": whole.T}, path)
    assert asked(path, "torch", ("turned", [4, 3])) == [[sum_of(whole.T)]]


def zipped(path: Path, **members: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            buffer = io.BytesIO()
            torch.save(content, buffer)
            archive.writestr(f"{name}.pth", buffer.getvalue())
        archive.writestr("data", "{}")
    return path


def test_members_of_an_agent_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.linspace(0, 1, 4)
    path = zipped(tmp_path / "a.zip", policy={"weight": weight}, other={"bias": weight + 1})
    assert asked(path, "sb3", ("weight", [4]), ("bias", [4])) == [[sum_of(weight)], [sum_of(weight + 1)]]
    assert asked(zipped(tmp_path / "b.zip"), "sb3", ("weight", [4])) is None
    with zipfile.ZipFile(path) as archive:
        largest = max(each.file_size for each in archive.infolist())
    monkeypatch.setattr(torch_reader, "LARGEST_MEMBER", largest)
    assert asked(path, "sb3", ("weight", [4])) is not None
    monkeypatch.setattr(torch_reader, "LARGEST_MEMBER", largest - 1)
    assert asked(path, "sb3", ("weight", [4])) is None


def test_only_the_wanted_tensors_of_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(3)}, path)
    assert asked(path, "safetensors", ("a", [3]), ("c", [3])) == [[sum_of(torch.ones(3))], []]
    assert asked(path, "safetensors", ("c", [3])) is None


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        asked(tmp_path / "a.pt", "torch", ("a", [1]))
    with pytest.raises(Exception, match=r"[Ww]eights"):
        asked(zipped(tmp_path / "a.zip", policy={"a": Harmful()}), "sb3", ("a", [1]))
