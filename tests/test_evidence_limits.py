"""Evidence that a file holds only in part, and the counts from which it tells something."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import updates_without_gradient
from checkpoint_doctor.builtin.analyzers._evidence.gradient_activity import unit_activity
from checkpoint_doctor.builtin.analyzers._evidence.inactivity_causes import find_inactivity_causes
from checkpoint_doctor.builtin.analyzers._evidence.replaced_moments import find_replaced
from checkpoint_doctor.builtin.analyzers._evidence.running_statistics import never_ran
from checkpoint_doctor.builtin.analyzers._zeros.by_design import is_padded_head
from checkpoint_doctor.builtin.analyzers._zeros.causes import Cause, ZeroEvidence
from checkpoint_doctor.builtin.analyzers._zeros.sparsity import are_pruned_units
from checkpoint_doctor.builtin.analyzers.files._executable_names import describes_settings
from checkpoint_doctor.builtin.analyzers.layers.unused_rows import unused_rows
from checkpoint_doctor.builtin.analyzers.optimizer._dispensable_parts import TrainedNetwork
from checkpoint_doctor.builtin.analyzers.optimizer.second_moments import gradient_scale
from checkpoint_doctor.builtin.analyzers.optimizer.step_sizes import nothing_moved
from checkpoint_doctor.checkpoint import Checkpoint, Content, Optimizer, Part, PickledName
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of


def adam(*states: dict[str, Any], step: int = 1000) -> Checkpoint:
    tensors = {f"{number}.weight": np.ones((6, 4)) for number in range(len(states))}
    return build_checkpoint(
        tensors,
        optimizer={
            name: {"step": step, **{key: np.broadcast_to(each, (6, 4)) for key, each in state.items()}} if state else {}
            for name, state in zip(tensors, states, strict=True)
        },
    )


def optimizer_of(checkpoint: Checkpoint) -> Optimizer:
    (optimizer,) = checkpoint.optimizers
    return optimizer


SILENT, LIVE = {"exp_avg": 1e-9, "exp_avg_sq": 1.0}, {"exp_avg": 0.1, "exp_avg_sq": 1.0}
LONGER = {"exp_avg": 1e-12, "exp_avg_sq": 1.0}


@pytest.mark.parametrize(
    ("states", "step", "updates"),
    [
        ([SILENT], 1000, 197),
        ([SILENT, {}], 1000, 197),
        ([{}, SILENT, LONGER], 1000, 197),
        ([LONGER], 1000, 263),
        ([SILENT], 150, 150),
        ([SILENT, LIVE], 1000, None),
        ([{}], 1000, None),
        ([{"exp_avg": 0.0, "exp_avg_sq": 0.0}], 1000, None),
        ([{"exp_avg": np.nan, "exp_avg_sq": 1.0}], 1000, None),
        ([{"exp_avg": 1e-9, "exp_avg_sq": np.inf}], 1000, None),
        ([{"exp_avg": 1e-9}], 1000, None),
    ],
)
def test_for_how_long_no_gradient_came(states: list[dict[str, Any]], step: int, updates: int | None) -> None:
    assert updates_without_gradient(optimizer_of(adam(*states, step=step))) == updates


def rows(*values: float) -> NDArray:
    """Second moments whose rows hold one number each; a negative one stands for a row of different numbers."""
    spread = np.abs(np.asarray(values, np.float64))[:, np.newaxis] * np.ones((1, 4))
    spread[np.asarray(values) < 0] *= [1.0, 1.1, 1.2, 1.3]
    return spread


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.0, rows(1, -1, -1, 1, -1, -1), [0, 3]),
        (rows(0, 1, 0, 1, 0, 0), rows(1, 1, -1, -1, 1, -1), [0, 4]),
        (0.0, rows(1.01e-30, 0.99e-30, -1, -1, -1, -1), [0]),
        (0.0, rows(0, 0, -1, -1, -1, -1), []),
    ],
)
def test_rows_that_a_repair_replaced(first: Any, second: NDArray, expected: list[int]) -> None:
    optimizer = optimizer_of(adam({"exp_avg": first, "exp_avg_sq": second}))
    replaced = find_replaced(optimizer.parameters[0], optimizer, along_rows=True)
    assert replaced is not None
    assert np.flatnonzero(replaced).tolist() == expected


def test_columns_that_a_repair_replaced() -> None:
    second = rows(-1, -1, -1, -1, -1, -1)
    second = second * np.arange(1, 7)[:, np.newaxis]
    second[:, 2] = 5.0
    optimizer = optimizer_of(adam({"exp_avg": 0.0, "exp_avg_sq": second}))
    replaced = find_replaced(optimizer.parameters[0], optimizer, along_rows=False)
    assert replaced is not None
    assert np.flatnonzero(replaced).tolist() == [2]


@pytest.mark.parametrize(("row", "expected"), [([1.0, 1.0], True), ([1.0, 2.0], False)])
def test_a_row_of_two_entries_must_hold_one_number(row: list[float], expected: bool) -> None:
    state = {"step": 9, "exp_avg": np.zeros((3, 2)), "exp_avg_sq": np.array([row, [3.0, 4.0], [5.0, 6.0]])}
    optimizer = optimizer_of(build_checkpoint({"0.weight": np.ones((3, 2))}, optimizer={"0.weight": state}))
    replaced = find_replaced(optimizer.parameters[0], optimizer, along_rows=True)
    assert replaced is not None
    assert replaced.tolist() == [expected, False, False]


def test_lines_of_one_entry_must_agree() -> None:
    second = np.array([[1.0], [2.0], [1.0], [3.0]])
    state = {"step": 9, "exp_avg": np.zeros((4, 1)), "exp_avg_sq": second}
    optimizer = optimizer_of(build_checkpoint({"0.weight": np.ones((4, 1))}, optimizer={"0.weight": state}))
    replaced = find_replaced(optimizer.parameters[0], optimizer, along_rows=True)
    assert replaced is not None
    assert replaced.tolist() == [True, False, True, False]


def test_without_a_second_moment_of_rows_nothing_was_replaced() -> None:
    states: list[dict[str, Any]] = [{}, {"exp_avg": np.ones((6, 4))}, {"exp_avg_sq": np.ones(4), "exp_avg": np.ones(4)}]
    for state in states:
        shape = next(iter(state.values())).shape if state else (6, 4)
        given = {"step": 9, **state} if state else {}
        optimizer = optimizer_of(build_checkpoint({"0.weight": np.ones(shape)}, optimizer={"0.weight": given}))
        assert find_replaced(optimizer.parameters[0], optimizer, along_rows=True) is None


@pytest.mark.parametrize(
    ("count", "zero", "expected"),
    [
        (16, [15], True),
        (16, [9, 10, 11, 12, 13, 14, 15], True),
        (16, [8, 9, 10, 11, 12, 13, 14, 15], True),
        (24, [16, 17, 18, 19, 20, 21, 22, 23], False),  # 16 would do
        (16, [14], False),
        (17, [16], False),
        (16, [], False),
    ],
)
def test_rows_that_fill_a_head_up(count: int, zero: list[int], expected: bool) -> None:
    head = np.ones((count, 5))
    head[zero] = 0
    checkpoint = build_checkpoint({"0.weight": np.ones((5, 4)), "1.weight": head})
    first, last = checkpoint.layers
    assert is_padded_head(last, last.tensors["weight"], zero) is expected
    assert is_padded_head(first, first.tensors["weight"], [4]) is False


@pytest.mark.parametrize(("outputs", "speaks"), [(1, False), (2, True)])
def test_a_head_of_one_output_has_no_unused_ones(outputs: int, speaks: bool) -> None:
    tensors = {"0.weight": np.ones((5, 4)), "0.bias": np.ones(5), "1.weight": np.ones((outputs, 5))}
    state = {name: {"step": 300, "exp_avg": each, "exp_avg_sq": each} for name, each in tensors.items()}
    second = np.ones((outputs, 5))
    second[-1] = 0 if outputs > 1 else 1
    state["1.weight"] = {"step": 300, "exp_avg": second, "exp_avg_sq": second}
    found = [each for rule in (unused_rows,) for each in findings_of(rule, build_checkpoint(tensors, optimizer=state))]
    assert bool(found) == speaks


@pytest.mark.parametrize(("extra", "speaks"), [(1e12, True), (np.inf, False)])
def test_infinite_second_moments_say_nothing_of_the_size_of_gradients(extra: float, speaks: bool) -> None:
    tensors = {"0.weight": np.ones((4, 4)), "0.bias": np.ones(4), "1.weight": np.ones((4, 4))}
    sizes = {"0.weight": 1e12, "0.bias": 1e12, "1.weight": extra}
    state = {
        name: {"step": 1000, "exp_avg": np.full(each.shape, 1e6), "exp_avg_sq": np.full(each.shape, sizes[name])}
        for name, each in tensors.items()
    }
    assert bool(findings_of(gradient_scale, build_checkpoint(tensors, optimizer=state))) == speaks


@pytest.mark.parametrize(
    ("fields", "counted"), [({}, None), ({"step": 300}, 300), ({"step": 300, "updates": 200}, 200)]
)
def test_updates_of_the_file_count_where_the_optimizer_has_none(fields: dict[str, int], counted: int | None) -> None:
    roles = {"weight": 1.0, "bias": 0.0, "running_mean": 0.1, "running_var": 0.5}
    tensors = {f"norm.{role}": np.full(8, value) for role, value in roles.items()}
    state = {name: {"exp_avg": np.ones(8), "exp_avg_sq": np.ones(8)} for name in ("norm.weight", "norm.bias")}
    options = {"lr": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
    checkpoint = replace(build_checkpoint(tensors, optimizer=state, optimizer_options=options), **fields)
    found = findings_of(nothing_moved, checkpoint, least_updates=1)
    assert all(each.severity is Severity.ERROR for each in found)
    assert [each.evidence["updates"] for each in found] == ([counted] if counted else [])


# What trained layers do without


def shaped(*layers: tuple[str, int, int]) -> Checkpoint:
    """Linear layers by name, inputs and outputs."""
    tensors: dict[str, NDArray] = {}
    for name, inputs, outputs in layers:
        tensors |= {f"{name}.weight": np.ones((outputs, inputs)), f"{name}.bias": np.ones(outputs)}
    return build_checkpoint(tensors)


TRUNK, HEAD = ("trunk", 6, 8), ("head", 8, 3)
TWIN = "a part of the same shapes was trained in its place, and its turn may come later"
OUTPUT = "another output was trained, and its turn may come later"


@pytest.mark.parametrize(
    ("layers", "part", "reason"),
    [
        ([TRUNK, HEAD, ("other", 8, 5)], ["other"], OUTPUT),
        ([TRUNK, HEAD, ("other", 7, 5)], ["other"], ""),  # reads nothing that was trained
        ([TRUNK, ("other", 8, 8), HEAD], ["other"], ""),  # the head may read it
        ([TRUNK, HEAD, ("next", 6, 8)], ["next"], TWIN),
        ([TRUNK, HEAD, ("next", 6, 9)], ["next"], ""),
        ([TRUNK, ("next", 6, 8), HEAD], ["next"], ""),  # the head may read it
        ([TRUNK, HEAD, ("next", 6, 8), ("end", 8, 4)], ["next", "end"], ""),
        ([TRUNK, HEAD, ("next", 6, 8), ("end", 8, 3)], ["next", "end"], TWIN),
        ([("same", 6, 6), ("head", 6, 3), ("next", 6, 6)], ["next"], OUTPUT),
    ],
)
def test_parts_that_trained_layers_do_without(layers: list[tuple[str, int, int]], part: list[str], reason: str) -> None:
    checkpoint = shaped(*layers)
    trained = {layer for layer in checkpoint.layers if layer.name not in part}
    network = TrainedNetwork(checkpoint, trained)
    assert network.explain_dispensable([checkpoint.layer_by_name[name] for name in part]) == reason


@pytest.mark.parametrize(("blocks", "last", "expected"), [(3, 2, True), (3, 1, False), (2, 1, True), (1, 0, False)])
def test_the_part_of_the_last_block_that_nothing_reads(blocks: int, last: int, expected: bool) -> None:
    layers = [(f"blocks.{number}.{part}", 8, 8) for number in range(blocks) for part in ("main", "skip")]
    checkpoint = shaped(*layers, ("head", 8, 3))
    part = checkpoint.layer_by_name[f"blocks.{last}.skip"]
    network = TrainedNetwork(checkpoint, {layer for layer in checkpoint.layers if layer is not part})
    assert ("of the blocks before" in network.explain_dispensable([part])) == expected


# Statistics that never ran, files of settings, units that were pruned


@pytest.mark.parametrize(
    ("mean", "variance", "batches", "expected"),
    [
        (0.0, 1.0, 0, True),
        (0.0, 1.0, None, True),
        (0.0, 1.0, 1, False),
        (0.1, 1.0, 0, False),
        (0.0, [1.0, 0.9], 0, False),
        (0.0, [1.0, 1.1], 0, False),
        (0.0, 0.5, 0, False),
        (0.0, None, 0, False),
        (None, 1.0, 0, False),
    ],
)
def test_statistics_of_a_norm_that_never_ran(mean: Any, variance: Any, batches: int | None, expected: bool) -> None:
    given = {"weight": 1.0, "bias": 0.0, "running_mean": mean, "running_var": variance}
    tensors: dict[str, NDArray] = {
        f"norm.{role}": np.resize(value, 4) for role, value in given.items() if value is not None
    }
    if batches is not None:
        tensors["norm.num_batches_tracked"] = np.array(batches)
    assert never_ran(build_checkpoint(tensors).layers[0]) is expected


@pytest.mark.parametrize(
    ("member", "content", "expected"),
    [
        ("training_args.bin", Content.SETTINGS, True),
        ("training_args.bin", Content.STATE_DICT, False),
        ("other.bin", Content.SETTINGS, False),
    ],
)
def test_files_of_settings_are_told_by_their_content(member: str, content: Content, expected: bool) -> None:
    parts = [Part("training_args", content, file="training_args.bin")]
    checkpoint = build_checkpoint({"0.weight": np.ones((2, 2))}, parts=parts)
    name = PickledName("my_project", "Settings", member)
    assert describes_settings(name, checkpoint) is expected


@pytest.mark.parametrize(
    ("rows", "bias", "cause", "expected"),
    [
        ([1, 3, 5, 9], 0.5, Cause.UNKNOWN, True),
        ([1, 3, 9], 0.5, Cause.UNKNOWN, False),
        ([3, 4, 5, 6], 0.5, Cause.UNKNOWN, False),
        ([3, 4, 5, 7], 0.5, Cause.UNKNOWN, True),
        ([1, 3, 5, 9], 0.0, Cause.UNKNOWN, False),
        ([1, 3, 5, 9], None, Cause.UNKNOWN, False),
        ([1, 3, 5, 9], 0.5, Cause.OVERWRITTEN, False),
    ],
)
def test_units_that_look_pruned(rows: list[int], bias: float | None, cause: Cause, expected: bool) -> None:
    tensors = {"0.weight": np.ones((12, 4))} | ({} if bias is None else {"0.bias": np.full(12, bias)})
    layer = build_checkpoint(tensors).layers[0]
    assert are_pruned_units(layer, rows, ZeroEvidence(cause, None, "")) is expected


@pytest.mark.parametrize(
    ("first", "second", "is_known"),
    [
        (np.zeros((2, 4)), np.full((2, 4), 1e-4), False),  # a repair wrote them
        (np.array([[0.0] * 4, [1e-3] * 4]), np.full((2, 4), 1e-4), True),  # one row is trained again
        (np.full((2, 4), 1e-3), np.full((2, 4), 1e-4), True),
    ],
)
def test_moments_that_a_repair_wrote_tell_nothing_of_what_is_read(first: NDArray, second: NDArray, is_known: bool):
    tensors = {"net.0.weight": np.ones((4, 3)), "net.2.weight": np.ones((2, 4))}
    state = {
        "net.0.weight": {"step": 1000, "exp_avg": np.full((4, 3), 1e-3), "exp_avg_sq": np.full((4, 3), 1e-4)},
        "net.2.weight": {"step": 1000, "exp_avg": first, "exp_avg_sq": second},
    }
    checkpoint = build_checkpoint(tensors, optimizer=state)
    layer = checkpoint.layer_by_name["net.0"]
    activity = unit_activity(layer, checkpoint, 1e-4)
    assert activity is not None
    assert (find_inactivity_causes(layer, activity, checkpoint, 1e-4) is not None) is is_known
