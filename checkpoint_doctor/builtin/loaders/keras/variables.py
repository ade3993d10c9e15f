"""What the variables of a Keras layer are called.

Keras 3 stores them by number below the layer's ``vars``. Their order is that in which the layer creates them, which
with their shapes says what each is (``keras/src/layers``).
"""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
NOT_TRAINED = ("moving_mean", "moving_variance", "mean", "variance", "count")
"""Variables that no gradient reaches."""
ROLES = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "scale": "weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
}
"""Keras's names to those by which layers are inferred. Kernels are stored inputs first."""
_CELL = ("lstm", "gru", "rnn", "cell")


def name_variables(key: str, shapes: Sequence[Shape]) -> list[str]:
    """Return the names of a layer's variables, their numbers where the shapes do not tell.

    Args:
        key: the layer's group, which begins with the layer's class or is named after an attribute of the model, and
            its own name after a slash, where that is stored.
        shapes: the variables' shapes in their order.
    """
    numbers = [str(place) for place in range(len(shapes))]
    are_vectors = bool(shapes) and all(len(shape) == 1 and shape == shapes[0] for shape in shapes)
    if "normalization" in key.split("/"):
        return ["mean", "variance", "count"][: len(shapes)]
    if are_vectors and len(shapes) == 4:
        return list(NORM)
    if are_vectors and len(shapes) == 2:
        return list(NORM[2:] if "batch_normalization" in key else NORM[:2])
    if are_vectors and len(shapes) == 1:
        return ["scale"] if "norm" in key else numbers
    if not shapes or len(shapes[0]) < 2:
        return numbers
    if len(shapes) == 1:
        return ["embeddings"] if "embed" in key else ["kernel"]
    if "separable" in key:
        return ["depthwise_kernel", "pointwise_kernel", "bias"][: len(shapes)]
    if len(shapes) in (2, 3) and _is_recurrent(key, shapes):
        return ["kernel", "recurrent_kernel", "bias"][: len(shapes)]
    return ["kernel", "bias"] if len(shapes) == 2 and len(shapes[1]) < len(shapes[0]) else numbers


def _is_recurrent(key: str, shapes: Sequence[Shape]) -> bool:
    kernel, recurrent = shapes[:2]
    return (
        len(kernel) == len(recurrent) >= 2
        and kernel[-1] == recurrent[-1]
        and (len(shapes) == 3 or any(word in key for word in _CELL))
    )


def describe_role(module: str, variable: str, is_recurrent: bool) -> str:
    """Return the name that a variable's layer is inferred from.

    The kernels of a recurrent cell have their gates side by side in columns. The rules about gates read them together;
    for all others each is a layer of its own.
    """
    if is_recurrent:
        part = "recurrent" if variable == "recurrent_kernel" else "input"
        return f"{module}.{part}.{ROLES.get(variable.removeprefix('recurrent_'), variable)}"
    return f"{module}.{ROLES.get(variable, variable)}"
