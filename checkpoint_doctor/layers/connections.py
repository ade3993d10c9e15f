"""Which layer reads which layer's output.

Two layers are linked only where names and shapes agree: neighbours in a ``Sequential``, numbered siblings, the known
pairs of transformer blocks, the policies of Stable-Baselines3. Repairs write columns of the layer behind a link, so a
missing link is better than a wrong one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from checkpoint_doctor.layers.kinds import Kind
from checkpoint_doctor.layers.links import link
from checkpoint_doctor.layers.outlines import Draft
from checkpoint_doctor.layers.policies import connect_policies
from checkpoint_doctor.layers.sequentials import connect_sequentials
from checkpoint_doctor.layers.siblings import connect_neighbours, connect_numbered, connect_pairs, connect_stacked


def connect(drafts: Sequence[Draft]) -> None:
    """Link every draft with the drafts that are certain to read its output."""
    connect_sequentials(drafts)
    flow = [draft for draft in drafts if draft.outputs and draft.kind is not Kind.LORA]
    order = {draft: place for place, draft in enumerate(flow)}
    siblings: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
    for draft in flow:
        siblings[draft.parent].append(draft)
    with_attention = {_attention_block(draft.path) for draft in flow}
    for parent, children in siblings.items():
        if len(children) > 1:
            connect_numbered(children, flow, order, parent in with_attention)
            connect_pairs(children)
            connect_neighbours(children, order)
            connect_stacked(children)
    for first, second in pairwise(flow):
        if first.path[-2:] == ("intermediate", "dense") and second.path == (*first.path[:-2], "output", "dense"):
            link(first, second)
    connect_policies(flow)


def _attention_block(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the path of the block whose attention a layer is part of, ``None`` for other layers."""
    for place, element in enumerate(path):
        if "attn" in element or "attention" in element:
            return path[:place]
    return None
