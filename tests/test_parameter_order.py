"""The order of a model's parameters where the file sorted them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from checkpoint_doctor.builtin.loaders._optimizers.matching import match_in_any_order
from checkpoint_doctor.builtin.loaders._optimizers.parameter_order import MOST_ORDERS, possible_orders
from checkpoint_doctor.checkpoint import Tensor
from checkpoint_doctor.statistics.values import InMemory

Shape = tuple[int, ...]


def tensors(shapes: Mapping[str, Shape]) -> list[Tensor]:
    values = {name: np.zeros(shape, np.float32) for name, shape in sorted(shapes.items())}
    return [Tensor(name, each.shape, "float32", InMemory(each)) for name, each in values.items()]


def orders(names: Sequence[str], architecture: str = "") -> list[list[str]]:
    found = possible_orders({"": tensors(dict.fromkeys(names, (1,)))}, architecture)
    return [[tensor.name for tensor in each[""]] for each in found]


def test_newer_versions_may_have_another_order() -> None:
    words, positions, kinds = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
    norm, output = "embeddings.LayerNorm.weight", ["output.dense.weight", "output.LayerNorm.weight"]
    assert orders([words, positions, kinds, norm, *output], "roberta") == [
        [words, positions, kinds, norm, *output],
        [words, kinds, norm, positions, *output],
    ]
    assert len(orders([words, positions, kinds, norm, *output], "bert")) == 1


@pytest.mark.parametrize(
    ("names", "architecture"),
    [
        (["0.weight", "0.bias", "2.weight", "2.bias", "10.weight", "10.bias"], ""),
        (["h.scale", "h.0.weight", "h.1.weight"], ""),
        (["rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"], ""),
        (["l.q_proj.weight", "l.k_proj.weight", "l.v_proj.weight", "l.o_proj.weight"], "llama"),
        (["l.k_proj.weight", "l.v_proj.weight", "l.q_proj.weight", "l.out_proj.weight"], "opt"),
        (["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight"], "gpt2"),
        (["bert.pooler.dense.weight", "classifier.weight"], "bert"),
    ],
)
def test_a_known_order_is_the_only_one(names: list[str], architecture: str) -> None:
    assert orders(names, architecture) == [names]


def test_modules_of_unknown_order_may_come_in_any_and_in_the_same_in_every_block() -> None:
    found = orders(["h.0.a.weight", "h.0.b.weight", "h.1.a.weight", "h.1.b.weight"])
    assert found == [
        ["h.0.a.weight", "h.0.b.weight", "h.1.a.weight", "h.1.b.weight"],
        ["h.0.b.weight", "h.0.a.weight", "h.1.b.weight", "h.1.a.weight"],
    ]


def test_what_a_known_architecture_does_not_know_may_come_anywhere() -> None:
    found = orders(["bert.embeddings.weight", "my_head.weight", "classifier.weight"], "bert")
    assert sorted(names.index("my_head.weight") for names in found) == [0, 1, 2]
    assert all(names.index("bert.embeddings.weight") < names.index("classifier.weight") for names in found)


def test_too_many_orders_are_none() -> None:
    names = [f"{letter}.weight" for letter in "abcdefg"]
    assert len(orders(names[:6])) == MOST_ORDERS
    assert orders(names) == []


def names_of(shapes: Mapping[str, Shape], slots: Sequence[Shape | None]) -> list[str | None]:
    models = {"": tensors(shapes)}
    found = match_in_any_order([slots], possible_orders(models, "") or [models], "optimizer")
    assert (None in found.names) == bool(found.unmatched)
    return list(found.names)


def test_shapes_that_leave_one_order_give_all_names() -> None:
    shapes = {"b.weight": (3, 2), "a.weight": (2, 3), "c.weight": (4, 4)}
    assert names_of(shapes, [(3, 2), (2, 3), (4, 4)]) == ["b.weight", "a.weight", "c.weight"]


def test_two_modules_of_one_shape_get_no_name() -> None:
    shapes = {"a.weight": (2, 2), "b.weight": (2, 2), "c.weight": (3, 3)}
    assert names_of(shapes, [(2, 2), (2, 2), (3, 3)]) == [None, None, "c.weight"]


def test_blocks_are_named_by_their_numbers_where_the_rest_is_not_known() -> None:
    others = {f"{letter}.weight": (1, number + 5) for number, letter in enumerate("abcdefg")}
    shapes = {
        "h.2.up.weight": (3, 2),
        "h.10.up.weight": (3, 2),
        "h.2.q.weight": (2, 2),
        "h.2.k.weight": (2, 2),
        **others,
    }
    slots: list[Shape | None] = [(3, 2), (2, 2), (2, 2), (3, 2), *others.values()]
    assert names_of(shapes, slots) == ["h.2.up.weight", None, None, "h.10.up.weight", *others]


def test_an_optimizer_of_other_shapes_gets_no_names() -> None:
    models = {"": tensors({"a.weight": (2, 2), "b.weight": (3, 3)})}
    found = match_in_any_order([[(2, 2), (7, 7)]], possible_orders(models, ""), "optimizer")
    assert found.names == (None, None)
    assert found.unmatched
