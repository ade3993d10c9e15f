"""Layers below one module that are named in the order in which they read each other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from checkpoint_doctor.layers.links import PAIRS, is_spatial, link
from checkpoint_doctor.layers.names import numbered, words
from checkpoint_doctor.layers.outlines import MATRICES, NORMS, RECURRENT, Draft, Kind

_NUMBERED_STEMS = re.compile(
    r"_*(conv(2d|1d|3d)?|cnn|fc|fcl?|lin|linear|dense|layer|hidden|affine|l|h|ff|mlp)(_?layer)?_?"
)
_LAST = ("final", "out", "output", "last")
_BESIDE = frozenset(
    {"shortcut", "skip", "residual", "res", "identity", "downsample", "down", "proj", "projection", "gate"}
)
_SEPARABLE = ("conv_pw", "conv_dw", "conv_pwl")


def connect_numbered(children: list[Draft], flow: list[Draft], order: dict[Draft, int], beside_attention: bool) -> None:
    """Link ``conv1, bn1, conv2, bn2`` and ``fc1, fc2, fc_out`` in the order of their numbers."""
    stems: dict[str, dict[int, Draft]] = defaultdict(dict)
    norms: dict[int, Draft] = {}
    for child in children:
        parts = numbered(child.label)
        if parts is None:
            continue
        stem, number = parts
        if child.kind in NORMS:
            norms.setdefault(number, child)
        elif child.kind in MATRICES and _NUMBERED_STEMS.fullmatch(stem):
            stems[stem].setdefault(number, child)
    for stem, members in stems.items():
        for number, child in members.items():
            norm = None if beside_attention else norms.get(number)
            after = members.get(number + 1)
            if norm is not None and norm.previous is None and not norm.followers:
                if order[norm] > order[child]:
                    link(child, norm)
                elif _is_clear(norm, child, stem, flow, order):
                    # Norm before convolution: a pre-activation block.
                    link(norm, child)
                    coming = norms.get(number + 1)
                    after = coming if coming is not None and order[coming] > order[child] else after
            reader = child.followers[0] if child.followers else child
            if after is not None and _is_clear(reader, after, stem, flow, order):
                link(reader, after)
        last = members[max(members)]
        for child in children:
            if child.label.removeprefix(stem).lstrip("_") in _LAST and child.label.startswith(stem):
                reader = last.followers[0] if last.followers else last
                if _is_clear(reader, child, stem, flow, order):
                    link(reader, child)


def _is_clear(first: Draft, second: Draft, stem: str, flow: list[Draft], order: dict[Draft, int]) -> bool:
    """Tell whether only siblings of the same numbering stand between two layers: no GRU, no attention, no block."""
    low, high = sorted((order[first], order[second]))
    if high - low > 64:
        return False
    return all(
        between.parent == first.parent and (between.kind in NORMS or (numbered(between.label) or ("",))[0] == stem)
        for between in flow[low + 1 : high]
    )


def connect_pairs(children: list[Draft]) -> None:
    """Link the halves of feed-forward blocks."""
    labels = {child.label: child for child in children}
    for first, second in PAIRS:
        if first in labels and second in labels:
            link(labels[first], labels[second])


def connect_neighbours(children: list[Draft], order: dict[Draft, int]) -> None:
    """Link a convolution with the batch norm right behind it, and the last convolution with the first linear layer."""
    for first, second, is_ambiguous in _neighbours(children, order):
        if first.followers or second.previous is not None:
            continue
        labels = first.label, second.label
        is_norm_pair = first.kind in MATRICES and (
            second.kind is Kind.BATCH_NORM
            or (second.kind in NORMS and labels in (("conv", "norm"), ("linear", "norm")))
        )
        is_separable = first.kind is Kind.BATCH_NORM and first.previous is not None and labels[1] in _SEPARABLE
        is_flattened = (
            second.kind is Kind.LINEAR
            and is_spatial(first)
            and _NUMBERED_STEMS.fullmatch(_stem(second.label)) is not None
        )
        if (is_norm_pair and not is_ambiguous) or is_separable or is_flattened:
            link(first, second)


def _stem(label: str) -> str:
    parts = numbered(label)
    return parts[0] if parts else label


def _neighbours(children: list[Draft], order: dict[Draft, int]) -> Iterator[tuple[Draft, Draft, bool]]:
    """Yield siblings with nothing between them, and whether they are amid two layers followed by two norms."""
    for place, (first, second) in enumerate(pairwise(children)):
        if order[second] == order[first] + 1 and _BESIDE.isdisjoint(words(second.label)):
            before = children[place - 1] if place else None
            after = children[place + 2] if place + 2 < len(children) else None
            yield (
                first,
                second,
                (
                    before is not None
                    and after is not None
                    and before.kind in MATRICES
                    and not before.followers
                    and after.kind in NORMS
                ),
            )


def connect_stacked(children: list[Draft]) -> None:
    """Link the stacked layers of a one-directional recurrent module."""
    layers = {child.label: child for child in children if child.kind in RECURRENT}
    for label, child in layers.items():
        stem_and_number = numbered(label)
        if stem_and_number is not None and stem_and_number[0] == "l" and f"{label}_reverse" not in layers:
            following = layers.get(f"l{stem_and_number[1] + 1}")
            if following is not None:
                link(child, following)
