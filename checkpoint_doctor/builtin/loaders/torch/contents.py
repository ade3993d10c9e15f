"""Names what a file holds that is not a model: recorded data, random states, other libraries' objects, an optimizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.checkpoint import Optimizer, PickledName, Tensor
from checkpoint_doctor.text import quantity, shown

LIBRARIES = {
    "joblib.numpy_pickle": "a joblib file",
    "sklearn.externals.joblib.numpy_pickle": "a joblib file",
    "sklearn": "a pickle of scikit-learn objects",
    "networkx": "a pickle of NetworkX graphs",
    "pandas": "a pickle of pandas tables",
    "scipy": "a pickle of SciPy objects",
    "xgboost": "a pickle of XGBoost models",
    "lightgbm": "a pickle of LightGBM models",
}
"""Modules whose objects contain arrays but no network, and what a file of them is."""

LIBRARIES_OF_TENSORS = frozenset({"torch", "jax", "jaxlib", "flax", "tensorflow", "keras", "ray"})
"""Packages of neural networks: a pickle that names none of them holds arrays of NumPy alone."""

OBJECTS = {
    "stable_baselines3.common.vec_env.vec_normalize.": "the statistics of an environment (VecNormalize)",
    "stable_baselines3.common.running_mean_std.": "the statistics of an environment (RunningMeanStd)",
    "stable_baselines3.common.buffers.": "a replay buffer of Stable-Baselines3",
    "stable_baselines3.her.": "a replay buffer of Stable-Baselines3",
}
"""Classes of objects that are saved beside a model, and what a file of one is."""

RECORDED = re.compile(
    r"(all_|expert_|next_|new_|old_|last_|train_|test_|val_)*(obs|observations?|states?|acts?|actions?|rews?|rewards?|"
    r"returns?|dones?|terminals?|terminated|truncated|timeouts?|infos?|trajector(y|ies)|transitions?|episodes?|masks?|"
    r"log_?probs?|labels?|targets?|images?|samples?|features?|data|x|y|train|test|val)(_?(train|test|val|data|set))?",
    re.I,
)
"""Keys under which transitions and data sets are recorded."""

PARAMETER = re.compile(
    r"(.*[._/ -])?(weights?|bias(es)?|kernel|gamma|beta|theta|embeddings?|w\d*|b\d*|running_(mean|var))"
    r"([._-]?\d+)?(:\d+)?",
    re.I | re.S,
)
"""Names that libraries and people give to a network's parameters, at the end of a path."""

MODEL = re.compile(
    r"(.*[._/ -])?(model|policy|net|network|actor|critic|encoder|decoder|params|parameters|weights)([._/ -].*)?",
    re.I | re.S,
)
"""Paths through what is called a model."""

RANDOM_STATES = {("uint8", 5056), ("uint8", 16), ("uint8", 816), ("uint32", 624)}
"""Element type and length of the states of random generators: PyTorch's on the CPU and on a GPU (now and before 1.12),
and NumPy's Mersenne Twister."""


def name_other_content(
    root: Any,
    tensors: Sequence[Tensor],
    optimizers: Sequence[Optimizer],
    names: Sequence[PickledName],
    *,
    is_pickle: bool,
) -> str:
    """Return what a file that holds no model is, as the rest of a sentence; empty where it may hold one.

    ``is_pickle`` tells a file that ``pickle`` wrote from one of ``torch.save``.
    """
    if optimizers:
        if tensors:
            return ""
        held = quantity(sum(len(optimizer.parameters) for optimizer in optimizers), "parameter")
        kinds = sorted({optimizer.kind for optimizer in optimizers if optimizer.kind})
        return f"is the state of an optimizer ({', '.join([*kinds, held])}) without its model"
    if not tensors:
        modules = [name.module for name in names]
        for library, what in LIBRARIES.items():
            if any(module == library or module.startswith(f"{library}.") for module in modules):
                return f"is {what}"
        return f"contains no tensors: {_describe(root)}" if all(name.known for name in names) else ""
    if isinstance(root, Inert):
        for module, what in OBJECTS.items():
            if root.type_name.startswith(module):
                return f"is {what}"
    if all((each.dtype, each.size) in RANDOM_STATES and len(each.shape) == 1 for each in tensors):
        return "is the state of random generators"
    if all(_is_recorded(each.name) for each in tensors):
        return f"is recorded data ({', '.join(shown(each.name) for each in tensors[:3])}…)"
    is_numpy = is_pickle and not any(name.module.partition(".")[0] in LIBRARIES_OF_TENSORS for name in names)
    is_integer = len(tensors) > 1 and all(each.dtype.startswith(("int", "uint", "bool")) for each in tensors)
    if (is_numpy or is_integer) and not _resembles_model(root, tensors):
        found = ", ".join(shown(each.name) for each in tensors[:3])
        return f"is data: arrays whose names ({found}) are those of no model"
    return ""


def _resembles_model(root: Any, tensors: Sequence[Tensor]) -> bool:
    """Return whether arrays are a model's, as their names, or a chain of at least two layers, show."""
    paths = [each.name[-200:] for each in tensors]
    keys = [key for key in root if isinstance(key, str)] if isinstance(root, dict) else []
    if any(map(PARAMETER.fullmatch, paths)) or any(MODEL.fullmatch(each[-200:]) for each in (*keys, *paths)):
        return True
    leaves = {path.rpartition("/")[2] for path in paths}
    return {"W", "b"} <= {leaf[:1] for leaf in leaves if len(leaf) < 5} or _is_chain([each.shape for each in tensors])


def _is_chain(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether arrays are kernels and biases in turns, and most kernels read what the one before them gives.

    A kernel has its outputs first, as in PyTorch, or last, as in Keras. Where a network branches or flattens an image,
    the sizes do not follow each other.
    """
    kernels, biases = shapes[::2], shapes[1::2]
    if len(kernels) < 2 or len(kernels) != len(biases) or not all(len(each) > 1 for each in kernels):
        return False
    inputs = [
        {kernel[inside] for inside, outside in ((1, 0), (-2, -1)) if (kernel[outside],) == bias}
        for kernel, bias in zip(kernels, biases, strict=True)
    ]
    follow = sum(bias[0] in read for bias, read in zip(biases, inputs[1:], strict=False) if bias)
    return all(inputs) and follow >= (len(kernels) - 1) / 2


def _is_recorded(name: str) -> bool:
    words = [part for part in name.split("/") if not part.isdigit()]
    return bool(words) and RECORDED.fullmatch(words[-1][:200]) is not None


def _describe(root: Any) -> str:
    if isinstance(root, dict):
        keys = ", ".join(shown(key) for key in list(root)[:5] if isinstance(key, str | int))
        return f"a dictionary with {keys}" if keys else "an empty dictionary"
    return f"its content is of type {type(root).__name__}"
