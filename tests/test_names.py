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
        ([f"b.{number}.w" for number in (*range(10, 20, 2), *range(100, 200, 2))], ["b.{10,12,…,18,100,102,…,198}.w"]),
        ([f"b.{number}.w" for number in (1, 5, 6, 9, 17, 22, 30, 41)], ["b.{1,5,6,9,17 … and 3 more}.w"]),
        ([f"b.{number}.w" for number in (0, 1, 2, 5, 6, 7, 9, 11, 13, 15, 20)], ["b.{0–2,5–7,9,11,…,15,20}.w"]),
        (["b.01.w", "b.1.w"], ["b.01.w", "b.1.w"]),
        ([f"b.{'9' * 5000}.w", f"b.{'8' * 5000}.w"], [f"b.{'9' * 5000}.w", f"b.{'8' * 5000}.w"]),
    ],
)
def test_names_that_differ_in_a_number_are_one(names: list[str], folded: list[str]) -> None:
    assert [pattern for pattern, _ in fold_names(names)] == folded
    assert sum(count for _, count in fold_names(names)) == len(names)


def unfold(numbers: str) -> list[int]:
    """Return the numbers that a pattern stands for."""
    items = numbers.split(",")
    found: list[int] = []
    for position, item in enumerate(items):
        first, _, last = item.partition("–")
        if item == "…":
            found += range(found[-1], int(items[position + 1]), found[-1] - found[-2])[1:]
        else:
            found += range(int(first), int(last or first) + 1)
    return found


@given(st.lists(NAMES, unique=True) | st.sets(st.integers(0, 60)).map(lambda each: [f"b.{n}.w" for n in each]))
def test_folding_stands_for_exactly_the_names(names: list[str]) -> None:
    left = set(names)
    for pattern, count in fold_names(names):
        inside = re.search(r"\{([^ ]*)( … and (\d+) more)?\}", pattern)
        numbers = unfold(inside[1]) if inside else []
        spelled = [pattern.replace(inside[0], str(number)) for number in numbers] if inside else [pattern]
        assert len(spelled) + int((inside and inside[3]) or 0) == count
        assert left.issuperset(spelled)
        if not (inside and inside[3]):
            left -= set(spelled)
    assert not left or any("more}" in pattern for pattern, _ in fold_names(names))


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("model.layers.11.self_attn.q_proj", 40, "model.layers.11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 27, "…layers.11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 22, "…11.self_attn.q_proj"),
        ("model.layers.11.self_attn.q_proj", 14, "…11.…q_proj"),
        ("features_extractor.extractors.image.cnn", 20, "…image.cnn"),
        ("entry_quality_head.1", 18, "…quality_head.1"),
        ("entry_quality_head.1.weight", 15, "…head.1.weight"),
        ("a_name_without_any_part", 10, "…any_part"),
    ],
)
def test_a_layers_number_is_never_cut_away(name: str, width: int, short: str) -> None:
    assert shorten_name(name, width) == short


@given(NAMES, st.integers(1, 40))
def test_a_short_name_fits(name: str, width: int) -> None:
    assert cell_len(shorten_name(name, width)) <= width
