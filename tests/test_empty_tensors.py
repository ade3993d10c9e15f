"""Which empty weights are placeholders, and which are what the model has."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers.files.containers import empty_tensor
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint, findings_of

FULL = {"0.weight": (32, 8), "0.bias": (32,)}


@pytest.mark.parametrize(
    ("shapes", "about"),
    [
        (FULL, []),
        ({**FULL, "side.weight": (32, 0), "side.bias": (32,)}, []),
        ({**FULL, "side.weight": (0, 32), "side.bias": (0,)}, []),
        ({"side.weight": (0, 32), "side.bias": (0,)}, []),
        ({**FULL, "2.weight": (0,), "2.bias": (4,)}, ["2.weight"]),
        ({**FULL, "2.weight": (0,), "2.bias": (0,)}, ["2.bias", "2.weight"]),
        ({"0.weight": (0,), "0.bias": (0,), "2.weight": (0,), "2.bias": (0,)}, [None]),
    ],
)
def test_only_placeholders_are_reported_and_once_where_nothing_else_is_there(
    shapes: dict[str, tuple[int, ...]], about: list[str | None]
) -> None:
    random = np.random.default_rng(0)
    checkpoint = build_checkpoint(
        {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    )
    found = findings_of(empty_tensor, checkpoint)
    assert sorted((each.tensor for each in found), key=str) == about
    if about == [None]:
        assert "none of its 4 weights has elements" in found[0].message
        assert "zero_to_fp32" in found[0].advice


UNUSED = {"first.weight": (64,), "first.bias": (0,)}
"""A layer of e3nn: its weight is one vector, and the bias that it does without has no elements."""


@pytest.mark.parametrize(
    ("shapes", "errors"),
    [
        (UNUSED, []),
        ({**UNUSED, "0.mul.weight": (0,), "1.mul.weight": (0,)}, []),
        ({**UNUSED, "0.mul.weight": (0,), "1.mul.weight": (16,)}, ["0.mul.weight"]),
        ({**UNUSED, "head.weight": (0,), "head.bias": (4,)}, ["head.weight"]),
        ({**UNUSED, "head.weight": (0,), "head.bias": (0,)}, []),
        ({"first.weight": (64,), "0.mul.weight": (0,), "1.mul.weight": (0,)}, ["0.mul.weight", "1.mul.weight"]),
        ({"first.weight": (64,), "first.output_mask": (8,), "0.mul.weight": (0,)}, []),
        ({"first.weight": (64,), "0.mul.output_mask": (8,), "0.mul.weight": (0,)}, ["0.mul.weight"]),
    ],
)
def test_parameters_that_layers_do_without_are_a_note_unless_others_show_that_they_are_missing(
    shapes: dict[str, tuple[int, ...]], errors: list[str]
) -> None:
    checkpoint = build_checkpoint({name: np.full(shape, 0.3, np.float32) for name, shape in shapes.items()})
    found = findings_of(empty_tensor, checkpoint)
    assert sorted(each.tensor for each in found if each.severity is Severity.ERROR) == errors
    assert {each.tensor for each in found} == {name for name, shape in shapes.items() if shape == (0,)}
