"""The verification of a copy: what must not pass it, and which figures of the original it reuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from msgspec.structs import replace

from checkpoint_doctor.acts.scan import open_checkpoint
from checkpoint_doctor.checkpoint import Checkpoint, Checksum, Patch
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.repair.changes import Change, Plan, Purpose
from checkpoint_doctor.repair.side_effects import SideEffects, declare_side_effects
from checkpoint_doctor.repair.verification import check_simulation, compare_bytes, compare_findings, reuse_statistics
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint

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


def test_checksums_of_what_no_patch_touches_are_reused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({f"{number}.weight": torch.randn(512, 512) for number in range(3)}, path)
    before, after = open_checkpoint(path, CATALOGUE), open_checkpoint(path, CATALOGUE)
    assert before.damage == ()
    places = [each.place for each in before.checksums]
    assert None not in places
    second = places[1]
    assert second is not None
    patches = [
        Patch(second.stop, b"a", b"b"), Patch(second.stop - 1, b"a", b"b"), Patch(second.start - 1, b"a", b"b")
    ]  # fmt: skip
    reused = [each.same_as is not None for each in reuse_statistics(before, after, Plan(), patches).checksums]
    assert reused == [True, False, *[True] * (len(places) - 2)]


def test_a_changed_tensor_is_measured_anew_and_the_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({f"{number}.weight": torch.randn(16, 16) for number in range(3)}, path)
    before, after = open_checkpoint(path, CATALOGUE), open_checkpoint(path, CATALOGUE)
    changed = before.tensors[1]
    change = Change(changed, Purpose.REPAIR, ("ZER001",), "0", changed.array * 0, np.ones(changed.shape, bool))
    reused = reuse_statistics(before, after, Plan((change,)), [])
    assert [each.same_as is not None for each in reused.tensors] == [True, False, True]
    assert reused.tensors[0].statistics is before.tensors[0].statistics


def finding(code: str, tensor: str, severity: Severity = Severity.WARNING, cause: str | None = None) -> Finding:
    evidence = {} if cause is None else {"cause": cause}
    return Finding(code, code.lower(), severity, "it is ill", tensor, tensor.partition(".")[0], evidence)


ZEROS, COPIES = finding("ZER003", "0.bias", cause="never trained"), finding("NET004", "0.weight")


@pytest.fixture
def checkpoint() -> Checkpoint:
    """Return a network in which one layer has a NaN, so that its neighbours could not be judged."""
    tensors = {
        f"{number}.{part}": np.ones(shape, np.float32)
        for number in (0, 1, 2)
        for part, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    tensors["2.weight"][0, 0] = np.nan
    return build_checkpoint(tensors)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param([ZEROS], [], "", id="all fixed"),
        pytest.param([ZEROS], [COPIES], "new illness, NET004 in 0.weight", id="another tensor became ill"),
        pytest.param([ZEROS, COPIES], [COPIES], "", id="one stays"),
        pytest.param([ZEROS, finding("VAL005", "0.weight")], [COPIES], "", id="another rule on what stays ill"),
        pytest.param(
            [ZEROS, finding("VAL005", "0.weight")],
            [finding("NET004", "0.weight", Severity.ERROR)],
            "new illness, NET004",
            id="what stays ill became worse",
        ),
        pytest.param([ZEROS], [finding("NET001", "2.weight")], "", id="what could not be judged before"),
        pytest.param([ZEROS], [finding("OPT001", "0.bias", cause="never trained")], "", id="what remains true"),
        pytest.param([ZEROS], [finding("OPT001", "0.bias", cause="overwritten")], "new illness", id="another cause"),
        pytest.param([ZEROS], [finding("NET004", "0.weight", Severity.NOTE)], "", id="a note"),
    ],
)
def test_what_a_plan_may_bring_to_light(
    before: list[Finding], after: list[Finding], words: str, checkpoint: Checkpoint
) -> None:
    allowed = declare_side_effects(checkpoint, before, Plan(fixed=(ZEROS,)))
    if not words:
        check_simulation(after, Plan(), allowed)
        return
    with pytest.raises(RepairFailed, match=words):
        check_simulation(after, Plan(), allowed)


def test_a_plan_that_leaves_something_to_fix_is_a_bug() -> None:
    with pytest.raises(RepairFailed, match=r"ZER003 is still found in 0\.bias"):
        check_simulation([ZEROS], Plan(fixed=(ZEROS,)), SideEffects())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param([ZEROS, COPIES], "", id="the same"),
        pytest.param([COPIES, ZEROS], "", id="in another order"),
        pytest.param([ZEROS], "lacks a finding that was expected, NET004 0.weight", id="one missing"),
        pytest.param([ZEROS, COPIES, COPIES], "not expected, NET004 in 0.weight", id="one more of the same"),
        pytest.param([ZEROS, finding("NET004", "0.weight", Severity.NOTE)], "not expected", id="another severity"),
        pytest.param([ZEROS, finding("NET004", "1.weight")], "not expected", id="another tensor"),
    ],
)
def test_a_copy_has_exactly_the_findings_of_the_simulation(found: list[Finding], words: str) -> None:
    if not words:
        compare_findings([ZEROS, COPIES], found)
        return
    with pytest.raises(RepairFailed, match=words):
        compare_findings([ZEROS, COPIES], found)


def test_moments_are_reused_where_none_of_them_changes() -> None:
    weights = {f"{number}.weight": np.ones((4, 4), np.float32) for number in range(3)}
    state = {name: {"step": 9, "exp_avg": np.ones((4, 4)), "exp_avg_sq": np.ones((4, 4))} for name in weights}
    before, after = (build_checkpoint(weights, optimizer=state | {"2.weight": {}}) for _ in range(2))
    moment = before.moments["1.weight"].state["exp_avg"]
    change = Change(moment, Purpose.MOMENT, (), "0", moment.array * 0, np.ones(moment.shape, bool))
    (optimizer,) = reuse_statistics(before, after, Plan((change,)), []).optimizers
    same = [each.same_as for each in optimizer.parameters]
    assert same == [before.moments["0.weight"], None, None]
    fewer = build_checkpoint(weights, optimizer={"0.weight": state["0.weight"]})
    (optimizer,) = reuse_statistics(fewer, after, Plan(), []).optimizers
    assert [each.same_as is not None for each in optimizer.parameters] == [True, False, False]


def checksum(start: int | None, stop: int = 0, recorded: int = 1) -> Checksum:
    place = None if start is None else range(start, stop)
    return Checksum(8, lambda: None, place, recorded)


@pytest.mark.parametrize(
    ("new", "patches", "reused"),
    [
        ([checksum(10, 20)], [], [True]),
        ([checksum(10, 20, recorded=2)], [], [False]),
        ([checksum(11, 20)], [], [False]),
        ([checksum(None)], [], [False]),
        ([checksum(10, 20), checksum(30, 40)], [], [True, False]),
        ([checksum(10, 20)], [Patch(20, b"ab", b"cd")], [True]),
        ([checksum(10, 20)], [Patch(19, b"ab", b"cd")], [False]),
        ([checksum(10, 20)], [Patch(8, b"ab", b"cd")], [True]),
        ([checksum(10, 20)], [Patch(9, b"ab", b"cd")], [False]),
        ([checksum(10, 20)], [Patch(50, b"a", b"b"), Patch(12, b"a", b"b"), Patch(2, b"a", b"b")], [False]),
        ([checksum(10, 20)], [Patch(50, b"a", b"b"), Patch(2, b"a", b"b")], [True]),
    ],
)
def test_checksums_are_reused_where_they_are_of_the_same_bytes(
    new: list[Checksum], patches: list[Patch], reused: list[bool]
) -> None:
    weights = {"0.weight": np.ones((4, 4))}
    before = replace(build_checkpoint(weights), checksums=(checksum(None if new[0].place is None else 10, 20),))
    after = replace(build_checkpoint(weights), checksums=tuple(new))
    found = reuse_statistics(before, after, Plan(), patches).checksums
    assert [each.same_as is not None for each in found] == reused
