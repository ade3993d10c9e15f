"""Layer inference: which tensors form a layer, of which kind, and which layer reads which.

Only names and shapes are used. Where they leave a doubt, the result is the cautious one: a tensor that belongs to no
known layer is a ``PARAMETER`` of its own, a layer whose reader is not certain has no ``following``, and a layer that
might have a reader is no output.
"""

from __future__ import annotations

from checkpoint_doctor.layers.components import assign_components, is_target, online_name
from checkpoint_doctor.layers.connections import connect
from checkpoint_doctor.layers.gates import (
    FLAX_GATES,
    GATES,
    KERAS_GATES,
    ONNX_GATES,
    SIGMOID_GATES,
    count_blocks,
    gate_slices,
)
from checkpoint_doctor.layers.grouping import group
from checkpoint_doctor.layers.kinds import (
    DENSE,
    FEEDFORWARD,
    LEARNED_MATRICES,
    NORMS,
    PROJECTIONS,
    RECURRENT,
    WITH_UNITS,
    Kind,
)
from checkpoint_doctor.layers.names import is_kernel
from checkpoint_doctor.layers.outlines import Outline, Shapes, is_convolution
from checkpoint_doctor.layers.outputs import find_outputs

__all__ = [
    "DENSE",
    "FEEDFORWARD",
    "FLAX_GATES",
    "GATES",
    "KERAS_GATES",
    "LEARNED_MATRICES",
    "NORMS",
    "ONNX_GATES",
    "PROJECTIONS",
    "RECURRENT",
    "SIGMOID_GATES",
    "WITH_UNITS",
    "Kind",
    "Outline",
    "Shapes",
    "count_blocks",
    "gate_slices",
    "infer_layers",
    "is_convolution",
    "is_kernel",
    "is_target",
    "online_name",
]


def infer_layers(shapes: Shapes) -> tuple[Outline, ...]:
    """Group tensors, given as name to (shape, dtype) in file order, into layers in file order.

    Every tensor belongs to exactly one layer, roles are unique within a layer and layer names within the result.
    """
    drafts = group(shapes)
    connect(drafts)
    assign_components(drafts)
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
