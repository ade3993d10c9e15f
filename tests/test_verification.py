"""The proof of a copy: what must not pass it, and what it takes over from the original."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from checkpoint_doctor.checkpoint import Patch
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.repair.changes import Plan
from checkpoint_doctor.repair.verification import carry_over, compare_bytes, compare_findings
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination, Verdict
from checkpoint_doctor.scan import open_checkpoint

CATALOGUE = discover()
OLD = bytes(range(100))
PATCHES = [Patch(40, OLD[40:50], b"0123456789"), Patch(10, OLD[10:12], b"ab")]
NEW = OLD[:10] + b"ab" + OLD[12:40] + b"0123456789" + OLD[50:]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original"
    path.write_bytes(OLD)
    return path


def copy_of(original: Path, content: bytes) -> Path:
    path = original.with_name("copy")
    path.write_bytes(content)
    return path


def test_the_announced_bytes_pass(original: Path) -> None:
    compare_bytes(original, copy_of(original, NEW), PATCHES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=some.integers(0, len(NEW) - 1), flip=some.integers(1, 255))
def test_any_other_byte_does_not(place: int, flip: int, original: Path) -> None:
    other = bytearray(NEW)
    other[place] ^= flip
    with pytest.raises(RepairFailed, match="differs from it beyond what was announced"):
        compare_bytes(original, copy_of(original, bytes(other)), PATCHES)


@pytest.mark.parametrize("content", [NEW[:-1], b"", NEW + b"\0"], ids=["shorter", "empty", "longer"])
def test_another_length_does_not(content: bytes, original: Path) -> None:
    with pytest.raises(RepairFailed, match=r"differs from it|longer than it"):
        compare_bytes(original, copy_of(original, content), PATCHES)


def test_checksums_of_what_no_patch_touches_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({f"{number}.weight": torch.randn(512, 512) for number in range(3)}, path)
    before, after = open_checkpoint(path, CATALOGUE), open_checkpoint(path, CATALOGUE)
    assert before.damage == ()
    places = [each.place for each in before.checksums]
    assert None not in places
    second = places[1]
    assert second is not None
    patch = Patch(second.stop - 1, b"a", b"b")
    carry_over(before, after, Plan(), [Patch(second.stop, b"a", b"b"), patch, Patch(second.start - 1, b"a", b"b")])
    taken = ["flaw" in vars(each) for each in after.checksums]
    assert taken == [True, False, *[True] * (len(places) - 2)]


def found(*findings: Finding) -> Examination:
    return Examination("model.pt", "torch", Verdict.ILL, findings=findings)


def finding(code: str, tensor: str, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(code, code.lower(), severity, "it is ill", tensor=tensor, layer=tensor.partition(".")[0])


ZEROS, COPIES = finding("ZER003", "0.bias"), finding("NET004", "0.weight")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param([ZEROS], [], "", id="all cured"),
        pytest.param([ZEROS], [ZEROS], "ZER003 is still found in 0.bias", id="not cured"),
        pytest.param([ZEROS], [COPIES], "new illness, NET004 in 0.weight", id="another tensor became ill"),
        pytest.param([ZEROS, COPIES], [COPIES], "", id="one stays"),
        pytest.param([ZEROS, finding("VAL005", "0.weight")], [COPIES], "", id="another word about what stays ill"),
        pytest.param(
            [ZEROS, finding("VAL005", "0.weight")],
            [finding("NET004", "0.weight", Severity.ERROR)],
            "new illness, NET004",
            id="what stays ill became worse",
        ),
        pytest.param([ZEROS], [finding("NET001", "2.weight")], "", id="what could not be judged before"),
        pytest.param([ZEROS], [finding("NET004", "0.weight", Severity.NOTE)], "", id="a note"),
    ],
)
def test_what_is_found_in_a_copy(before: list[Finding], after: list[Finding], words: str) -> None:
    plan = Plan(cured=(ZEROS,))
    again = Plan(cured=tuple(each for each in after if each is ZEROS))
    if not words:
        compare_findings(found(*before), found(*after), plan, again, {"2"})
        return
    with pytest.raises(RepairFailed, match=words):
        compare_findings(found(*before), found(*after), plan, again, {"2"})
