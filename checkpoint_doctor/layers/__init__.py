"""From names and shapes to layers: which tensors work together, as what, and in which order.

Everything here is a reading of names and shapes alone. Where they do not tell, the answer is the cautious one: a
tensor nobody can place is a ``PARAMETER`` of its own, a layer whose reader is not certain has no ``following``, and a
layer that might have a reader is no output.
"""

from __future__ import annotations

from checkpoint_doctor.layers.components import component_of, is_target, online_name
from checkpoint_doctor.layers.grouping import group
from checkpoint_doctor.layers.outlines import Kind, Outline, Shapes
from checkpoint_doctor.layers.outputs import find_outputs
from checkpoint_doctor.layers.sequence import connect

__all__ = ["Kind", "Outline", "Shapes", "infer_layers", "is_target", "online_name"]


def infer_layers(shapes: Shapes) -> tuple[Outline, ...]:
    """Group tensors, given as name to (shape, dtype) in file order, into layers in file order.

    Every tensor belongs to exactly one layer, roles are unique within a layer and layer names within the result.
    """
    drafts = group(shapes)
    connect(drafts)
    component_of(drafts)
    find_outputs(drafts)
    return tuple(
        Outline(
            name=draft.name,
            kind=draft.kind,
            parts=draft.parts,
            component=draft.component,
            is_output=draft.is_output,
            previous=draft.previous.name if draft.previous else None,
            following=draft.followers[0].name if draft.followers else None,
            followers=tuple(follower.name for follower in draft.followers),
            transposed=draft.transposed,
        )
        for draft in drafts
    )
