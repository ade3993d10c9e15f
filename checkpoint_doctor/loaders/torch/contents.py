"""Names what a file holds that is not a model: recorded data, random states, other libraries' objects, an optimizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from checkpoint_doctor.checkpoint import Optimizer, PickledName, Tensor
from checkpoint_doctor.loaders._pickle.objects import Inert
from checkpoint_doctor.text import quantity, shown

LIBRARIES = {
    "joblib.numpy_pickle": "a joblib file",
    "sklearn": "a pickle of scikit-learn objects",
    "networkx": "a pickle of NetworkX graphs",
    "pandas": "a pickle of pandas tables",
    "scipy": "a pickle of SciPy objects",
    "xgboost": "a pickle of XGBoost models",
    "lightgbm": "a pickle of LightGBM models",
}
"""Modules whose objects contain arrays but no network, and what a file of them is."""

OBJECTS = {
    "stable_baselines3.common.vec_env.vec_normalize.": "the statistics of an environment (VecNormalize)",
    "stable_baselines3.common.running_mean_std.": "the statistics of an environment (RunningMeanStd)",
    "stable_baselines3.common.buffers.": "a replay buffer of Stable-Baselines3",
    "stable_baselines3.her.": "a replay buffer of Stable-Baselines3",
}
"""Classes of objects that are saved beside a model, and what a file of one is."""

RECORDED = re.compile(
    r"(all_|expert_|next_|new_|old_|last_|train_|test_|val_)*(obs|observations?|acts?|actions?|rews?|rewards?|returns?|"
    r"dones?|terminals?|terminated|truncated|timeouts?|infos?|trajector(y|ies)|transitions?|episodes?|masks?|log_?probs?|"
    r"labels?|targets?|images?|x|y)(_?(train|test|val))?",
    re.I,
)
"""Keys under which transitions and data sets are recorded."""

RANDOM_STATES = {("uint8", 5056), ("uint8", 16), ("uint8", 816), ("uint32", 624)}
"""Element type and length of the states of random generators: PyTorch's on the CPU and on a GPU (now and before 1.12),
and NumPy's Mersenne Twister."""


def name_other_content(
    root: Any, tensors: Sequence[Tensor], optimizers: Sequence[Optimizer], names: Sequence[PickledName]
) -> str:
    """Return what a file that holds no model is, as the rest of a sentence; empty where it may hold one."""
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
    return ""


def _is_recorded(name: str) -> bool:
    words = [part for part in name.split("/") if not part.isdigit()]
    return bool(words) and RECORDED.fullmatch(words[-1][:200]) is not None


def _describe(root: Any) -> str:
    if isinstance(root, dict):
        keys = ", ".join(shown(key) for key in list(root)[:5] if isinstance(key, str | int))
        return f"a dictionary with {keys}" if keys else "an empty dictionary"
    return f"its content is of type {type(root).__name__}"
