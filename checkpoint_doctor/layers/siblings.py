"""Links between layers below one module, whose names give their order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

from checkpoint_doctor.layers.kinds import FEEDFORWARD, NORMS, RECURRENT, Kind
from checkpoint_doctor.layers.links import PAIRS, feeds, is_spatial, link
from checkpoint_doctor.layers.names import numbered, words
from checkpoint_doctor.layers.outlines import Draft

_NUMBERED_STEMS = re.compile(
    r"_*(conv(2d|1d|3d)?|cnn|fc|fcl?|lin|linear|dense|layer|hidden|affine|l|h|ff|mlp)(_?layer)?_?"
)
_LAST = ("final", "out", "output", "last")
_SHORTCUTS = frozenset(
    {"shortcut", "skip", "residual", "res", "identity", "downsample", "down", "proj", "projection", "gate"}
)
_FARTHEST = 64
"""Layers that may be between two siblings that are linked; bounds the time for wide modules."""

_SEPARABLE = ("conv_pw", "conv_dw", "conv_pwl")


def connect_numbered(children: list[Draft], flow: list[Draft], order: dict[Draft, int], beside_attention: bool) -> None:
    """Link ``conv1, bn1, conv2, bn2`` and ``fc1, fc2, fc_out`` in the order of their numbers."""
    stems: dict[str, dict[int, Draft]] = defaultdict(dict)
    norms: dict[int, Draft] = {}
    for child in children:
        stem, number = numbered(child.label) or ("", 0)
        if not stem:
            continue
        if child.kind in NORMS:
            norms.setdefault(number, child)
        elif (child.kind in FEEDFORWARD or child.is_convolution) and _NUMBERED_STEMS.fullmatch(stem):
            stems[stem].setdefault(number, child)
    for stem, members in stems.items():
        numbering = _Numbering(stem, members, {} if beside_attention else norms, flow, order)
        numbering.connect()
        numbering.connect_last(children)


class _Numbering(Struct, frozen=True):
    """Siblings whose labels are one stem with numbers, such as ``conv1, conv2``."""

    stem: str
    members: dict[int, Draft]
    norms: dict[int, Draft]
    """Norms that may belong to the member of the same number."""
    flow: list[Draft]
    order: dict[Draft, int]
    """Position of every draft in ``flow``."""

    def connect(self) -> None:
        """Link every member with its norm and with the next member."""
        for number, member in self.members.items():
            following = self.members.get(number + 1)
            norm = self.norms.get(number)
            if norm is not None and norm.previous is None and not norm.followers:
                if self.order[norm] > self.order[member]:
                    link(member, norm)
                elif self._are_uninterrupted(norm, member) and not feeds(norm, member):
                    link(member, norm)  # the file has its tensors in the order of their names
                elif self._are_uninterrupted(norm, member):
                    # Norm before convolution: a pre-activation block.
                    link(norm, member)
                    next_norm = self.norms.get(number + 1)
                    if next_norm is not None and self.order[next_norm] > self.order[member]:
                        following = next_norm
            self._link_reader(member, following)

    def connect_last(self, children: list[Draft]) -> None:
        """Link the member of the highest number with ``fc_out`` and the like."""
        last = self.members[max(self.members)]
        for child in children:
            if child.label.startswith(self.stem) and child.label.removeprefix(self.stem).lstrip("_") in _LAST:
                self._link_reader(last, child)

    def _link_reader(self, member: Draft, following: Draft | None) -> None:
        """Link a member, or the norm behind it, with the layer that follows."""
        end = member.followers[0] if member.followers else member
        if following is not None and self._are_uninterrupted(end, following):
            link(end, following)

    def _are_uninterrupted(self, first: Draft, second: Draft) -> bool:
        """Tell whether only siblings of the same stem, and norms, are between two layers: no GRU, no attention."""
        low, high = sorted((self.order[first], self.order[second]))
        if high - low > _FARTHEST:
            return False
        return all(
            between.parent == first.parent
            and (between.kind in NORMS or (numbered(between.label) or ("",))[0] == self.stem)
            for between in self.flow[low + 1 : high]
        )


def connect_pairs(children: list[Draft]) -> None:
    """Link the two layers of a feed-forward block."""
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
        is_norm_pair = (first.kind in FEEDFORWARD or first.is_convolution) and (
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
    """Yield adjacent siblings, and whether they are the inner two of layer, layer, norm, norm."""
    for place, (first, second) in enumerate(pairwise(children)):
        if order[second] == order[first] + 1 and _SHORTCUTS.isdisjoint(words(second.label)):
            before = children[place - 1] if place else None
            after = children[place + 2] if place + 2 < len(children) else None
            yield (
                first,
                second,
                (
                    before is not None
                    and after is not None
                    and (before.kind in FEEDFORWARD or before.is_convolution)
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
