"""What the variables of a Keras layer are called.

Keras 3 stores them by number below the layer's ``vars``. Their order is that in which the layer creates them, which
with their shapes says what each is (``keras/src/layers``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from checkpoint_doctor.layers import Kind, count_blocks

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
_KINDS = (Kind.LSTM, Kind.GRU, Kind.RNN)


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


def find_cell(shapes: Mapping[str, Shape]) -> Kind | None:
    """Return the kind of recurrent layer that a layer's variables are a cell of; ``None`` for any other layer.

    The kernels have their gates side by side in columns, of which there are as many as units for each gate.
    """
    kernel, recurrent = shapes.get("kernel", ()), shapes.get("recurrent_kernel", ())
    if len(kernel) != 2 or len(recurrent) != 2 or kernel[1] != recurrent[1]:
        return None
    hidden, columns = recurrent
    return next((kind for kind in _KINDS if hidden and count_blocks(kind) * hidden == columns), None)


def describe_role(module: str, variable: str, shapes: Mapping[str, Shape]) -> str:
    """Return the name that a variable's layer is inferred from.

    Args:
        module: the name of the layer.
        variable: the variable's own name.
        shapes: the shapes of all variables of the layer.
    """
    if find_cell(shapes) is not None:
        columns = shapes["kernel"][1]
        roles = {"kernel": "kernel_ih", "recurrent_kernel": "kernel_hh"}
        # With ``reset_after``, the bias has a second row for the hidden state.
        if shapes.get("bias") in ((columns,), (2, columns)):
            roles["bias"] = "bias_ih"
        return f"{module}.{roles.get(variable, variable)}"
    if "recurrent_kernel" in shapes:  # a convolutional cell, whose kernels are judged each for itself
        part = "recurrent" if variable == "recurrent_kernel" else "input"
        return f"{module}.{part}.{ROLES.get(variable.removeprefix('recurrent_'), variable)}"
    return f"{module}.{ROLES.get(variable, variable)}"
