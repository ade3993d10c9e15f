"""How reports write the names of tensors short."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from checkpoint_doctor.builtin.reporters._names import fold_names, shorten_name

PART = st.one_of(st.sampled_from(["layers", "attn", "weight", "norm"]), st.integers(0, 30).map(str))
NAMES = st.lists(PART, min_size=1, max_size=6).map(".".join)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([], []),
        (["a.weight"], ["a.weight"]),
        (["layers.3.bias"], ["layers.3.bias"]),
        (["layers.0.bias", "layers.1.bias"], ["layers.{0,1}.bias"]),
        ([f"layers.{number}.bias" for number in range(12)], ["layers.{0–11}.bias"]),
        ([f"layers.{number}.norm.weight" for number in range(0, 300, 2)], ["layers.{0,2,…,298}.norm.weight"]),
        (["head.bias", "b.9.w", "b.10.w", "b.2.w"], ["head.bias", "b.{2,9,10}.w"]),
        (["encoder.0.layers.4.w", "encoder.0.layers.5.w"], ["encoder.0.layers.{4,5}.w"]),
        (["b.0.w", "b.0.v", "b.1.w"], ["b.{0,1}.w", "b.0.v"]),
        ([f"b.{number}.w" for number in (0, 1, 2, 3, 8)], ["b.{0–3,8}.w"]),
        (["b.01.w", "b.1.w"], ["b.01.w", "b.1.w"]),
        ([f"b.{'9' * 5000}.w", f"b.{'8' * 5000}.w"], [f"b.{'9' * 5000}.w", f"b.{'8' * 5000}.w"]),
    ],
)
def test_names_that_differ_in_a_number_are_one(names: list[str], folded: list[str]) -> None:
    assert [pattern for pattern, _ in fold_names(names)] == folded
    assert sum(count for _, count in fold_names(names)) == len(names)


@given(st.lists(NAMES, unique=True))
def test_folding_stands_for_exactly_the_names(names: list[str]) -> None:
    patterns = [pattern for pattern, _ in fold_names(names)]
    if any("…" in each for each in patterns):
        return
    unfolded: list[str] = []
    for pattern in patterns:
        inside = re.search(r"\{(.*)\}", pattern)
        numbers = inside[1].split(",") if inside else [""]
        for item in numbers:
            first, _, last = item.partition("–")
            spelled = range(int(first), int(last or first) + 1) if first else [""]
            unfolded += [pattern.replace(inside[0], str(number)) if inside else pattern for number in spelled]
    assert sorted(unfolded) == sorted(names)


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("model.layers.11.self_attn.q_proj", 40, "model.layers.11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 27, "…layers.11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 22, "…11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 14, "…11.…q_proj"),
        ("features_extractor.extractors.image.cnn", 20, "…image.cnn"),
        ("a_name_without_any_part", 10, "…_any_part"),
    ],
)
def test_a_layers_number_is_never_cut_away(name: str, width: int, short: str) -> None:
    assert shorten_name(name, width) == short


@given(NAMES, st.integers(1, 40))
def test_a_short_name_fits(name: str, width: int) -> None:
    assert cell_len(shorten_name(name, width)) <= width
