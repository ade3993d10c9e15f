"""Whether an optimizer in a file of its own is that of another model than the weights beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from checkpoint_doctor.builtin.loaders._optimizers.state import LIKE_PARAMETER
from checkpoint_doctor.checkpoint import Moments, Optimizer, Tensor

Shape = tuple[int, ...]


def describe_other_model(optimizer: Optimizer, tensors: Sequence[Tensor]) -> str:
    """Return how the state shows that it belongs to another model; empty where it may be this one's.

    Most of the states must have shapes that no tensor is left for, with layers among them: a matrix, and a vector of as
    many rows behind it. Optimizers with low-rank, sparse, flat or reduced state keep vectors as they are, or no layers.
    """
    shapes = [shape for moments in optimizer.parameters if (shape := _shape_of(moments)) is not None]
    odd = list(_without_a_tensor(shapes, tensors))
    vectors = {tensor.size for tensor in tensors if len(tensor.shape) == 1}
    layers = [one for one, other in pairwise(odd) if len(one) > 1 and other == one[:1] and other[0] not in vectors]
    if 2 * len(odd) <= len(shapes) or not layers:
        return ""
    example = f"{list(layers[0])} and {list(layers[0][:1])}"
    return f"{len(odd):,} of its {len(shapes):,} states have shapes that the model does not have, such as {example}"


def _shape_of(moments: Moments) -> Shape | None:
    return next((moments.state[key].shape for key in LIKE_PARAMETER if key in moments.state), None)


def _without_a_tensor(shapes: Sequence[Shape], tensors: Sequence[Tensor]) -> Iterator[Shape]:
    """Yield the shapes for which no tensor is left, in their order."""
    left = Counter(tensor.shape for tensor in tensors)
    for shape in shapes:
        left[shape] -= 1
        if left[shape] < 0:
            yield shape
