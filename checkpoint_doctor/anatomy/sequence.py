"""Which layer reads which layer's output.

A link is made only where names and shapes agree: neighbours in a ``Sequential``, numbered siblings, the known pairs of
transformer blocks, the policies of Stable-Baselines3. Whoever follows a link may act on columns, so a missing link is
better than a wrong one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from checkpoint_doctor.anatomy.names import index_of, numbered, words
from checkpoint_doctor.anatomy.outlines import NORMS, RECURRENT, Draft, Kind
from checkpoint_doctor.anatomy.policies import connect_policies

MATRICES = frozenset({Kind.LINEAR, Kind.CONV})

_PARALLEL = frozenset(
    {
        *("head", "heads", "expert", "experts", "branch", "branches", "towers", "streams", "members", "nets", "models"),
        *("critic", "critics", "actors", "ensemble", "ensembles", "outputs", "classifiers", "predictors"),
        *("encoders", "decoders", "embeds", "embeddings", "lins", "projs", "projections"),
    }
)
"""Words of module lists whose members stand side by side, so that equal sizes prove nothing."""
_NUMBERED_STEMS = re.compile(
    r"_*(conv(2d|1d|3d)?|cnn|fc|fcl?|lin|linear|dense|layer|hidden|affine|l|h|ff|mlp)(_?layer)?_?"
)
_LAST = ("final", "out", "output", "last")
_BESIDE = frozenset(
    {"shortcut", "skip", "residual", "res", "identity", "downsample", "down", "proj", "projection", "gate"}
)
_SEPARABLE = ("conv_pw", "conv_dw", "conv_pwl")
_PAIRS = (
    ("up_proj", "down_proj"),
    ("gate_proj", "down_proj"),
    ("gate_up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("w1", "w2"),
    ("w3", "w2"),
    ("wi", "wo"),
    ("wi_0", "wo"),
    ("wi_1", "wo"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc_in", "fc_out"),
)
"""Siblings of transformers' feed-forward blocks (transformers: llama, mixtral, gpt2, t5, gpt_neox, gptj)."""


def connect(drafts: Sequence[Draft]) -> None:
    """Link every draft with the ones that surely read its output."""
    _connect_sequentials(drafts)
    flow = [draft for draft in drafts if draft.outputs and draft.kind is not Kind.LORA]
    order = {draft: place for place, draft in enumerate(flow)}
    siblings: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
    for draft in flow:
        siblings[draft.parent].append(draft)
    with_attention = {_before_attention(draft.path) for draft in flow}
    for parent, children in siblings.items():
        if len(children) > 1:
            _connect_numbered(children, flow, order, parent in with_attention)
            _connect_pairs(children)
            _connect_neighbours(children, order)
            _connect_stacked(children)
    for first, second in pairwise(flow):
        if first.path[-2:] == ("intermediate", "dense") and second.path == (*first.path[:-2], "output", "dense"):
            link(first, second)
    connect_policies(flow, link)


def _before_attention(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the path of the block whose attention a layer is part of, ``None`` for other layers."""
    for place, element in enumerate(path):
        if "attn" in element or "attention" in element:
            return path[:place]
    return None


def link(first: Draft, second: Draft) -> bool:
    """Let the second draft read the first one's output if sizes allow and it reads nobody else's."""
    if second in first.followers:
        return True
    if not feeds(first, second) or (second.previous is not None and not _may_join(first, second)):
        return False
    first.followers.append(second)
    second.previous = second.previous or first
    return True


def _may_join(first: Draft, second: Draft) -> bool:
    """Tell whether two layers are multiplied before the second reads them, as in gated feed-forward blocks."""
    return second.previous is not None and (first.label, second.label) in _PAIRS and first.parent == second.parent


def feeds(first: Draft, second: Draft) -> bool:
    """Tell whether sizes allow the second layer to read the first one's output.

    A linear layer may read a flattened convolution: its inputs are then a multiple of the channels.
    """
    given, read = first.outputs, second.inputs
    if not given or not read or first.kind in (Kind.EMBEDDING, Kind.ATTENTION) or second.kind is Kind.ATTENTION:
        return False
    if second.kind in NORMS:
        return first.kind not in NORMS and given == read
    if second.kind is Kind.CONV:
        grouped = given % read == 0 and (second.outputs or 0) % (given // read) == 0
        return first.kind is not Kind.LINEAR and first.kind not in RECURRENT and (given == read or grouped)
    return given == read or (second.kind is Kind.LINEAR and is_spatial(first) and read % given == 0)


def is_spatial(draft: Draft) -> bool:
    """Tell whether a layer gives channels over space, to be flattened before a linear layer reads them."""
    if draft.kind in NORMS and draft.previous is not None:
        return draft.previous.kind is Kind.CONV
    return draft.kind is Kind.CONV


def _connect_sequentials(drafts: Sequence[Draft]) -> None:
    run: list[Draft] = []
    for draft in drafts:
        if run and _is_elementwise(draft, run[-1]):
            continue
        if run and _continues(run, draft):
            run.append(draft)
            continue
        _connect_run(run)
        run = [draft] if draft.outputs and index_of(draft.label) is not None else []
    _connect_run(run)


def _is_elementwise(draft: Draft, before: Draft) -> bool:
    """Tell whether a draft changes nothing in a sequence: PReLU's slopes, a buffer."""
    if draft.kind is Kind.BUFFER:
        return True
    slopes = draft.kind is Kind.PARAMETER and draft.parts.keys() == {"weight"} and len(draft.shapes["weight"]) <= 1
    return slopes and draft.parent == before.parent


def _continues(run: list[Draft], draft: Draft) -> bool:
    before = run[-1]
    first, second = index_of(before.label), index_of(draft.label)
    if before.parent != draft.parent or first is None or second is None or second <= first:
        return False
    if feeds(before, draft):
        return True
    # Without a bias, only the neighbours tell that a convolution is stored inputs first, as in DCGAN's generator.
    if (
        before.kind is Kind.CONV
        and draft.kind is Kind.BATCH_NORM
        and before.inputs == draft.inputs
        and not before.transposed
    ):
        if "bias" in before.shapes or (len(run) > 1 and run[-2].outputs != before.outputs):
            return False
        before.transpose()
        return True
    if draft.kind is Kind.CONV and any(each.transposed for each in run) and draft.outputs == before.outputs:
        if "bias" in draft.shapes and draft.shapes["bias"][0] != draft.inputs:
            return False
        draft.transpose()
        return True
    return False


def _connect_run(run: list[Draft]) -> None:
    """Link a run of numbered neighbours whose sizes fit, unless they might stand side by side.

    Numbers without gaps may be a list of parallel layers. Then a change of size or of kind along the run is the proof
    that they follow each other, and equal square layers without any such proof stay apart.
    """
    if len(run) < 2:
        return
    is_parallel = not _PARALLEL.isdisjoint(words(run[0].parent[-1])) if run[0].parent else False

    def is_sure(first: Draft, second: Draft) -> bool:
        if (index_of(second.label) or 0) - (index_of(first.label) or 0) > 1 or first.kind is not second.kind:
            return True
        return not is_parallel and not first.inputs == first.outputs == second.inputs == second.outputs

    def may_skip(first: Draft, second: Draft) -> bool:
        """Tell whether a shortcut may lead around the second layer, as in lists of residual convolutions."""
        is_list = (index_of(second.label) or 0) - (index_of(first.label) or 0) == 1 and first.kind is second.kind
        return is_list and second.kind is Kind.CONV and second.inputs == second.outputs

    proven = any(is_sure(first, second) for first, second in pairwise(run))
    for first, second in pairwise(run):
        if (is_sure(first, second) or (proven and not is_parallel)) and not may_skip(first, second):
            link(first, second)


def _connect_numbered(
    children: list[Draft], flow: list[Draft], order: dict[Draft, int], beside_attention: bool
) -> None:
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


def _connect_pairs(children: list[Draft]) -> None:
    labels = {child.label: child for child in children}
    for first, second in _PAIRS:
        if first in labels and second in labels:
            link(labels[first], labels[second])


def _connect_neighbours(children: list[Draft], order: dict[Draft, int]) -> None:
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


def _connect_stacked(children: list[Draft]) -> None:
    """Link the stacked layers of a one-directional recurrent module."""
    layers = {child.label: child for child in children if child.kind in RECURRENT}
    for label, child in layers.items():
        stem_and_number = numbered(label)
        if stem_and_number is not None and stem_and_number[0] == "l" and f"{label}_reverse" not in layers:
            following = layers.get(f"l{stem_and_number[1] + 1}")
            if following is not None:
                link(child, following)
