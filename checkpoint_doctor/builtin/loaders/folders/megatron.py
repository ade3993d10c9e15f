"""Reads the folders of Megatron-LM: a folder for each model-parallel rank in that of the iteration.

``iter_0001000/mp_rank_00/model_optim_rng.pt``, and ``mp_rank_00_001`` with the rank in the pipeline behind that in the
tensors. Every rank has its slice of the tensors, or its layers; what is whole on a rank is judged as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from checkpoint_doctor.builtin.loaders._optimizers.state import is_optimizer, number_in
from checkpoint_doctor.builtin.loaders._pickle.modules import attributes_of
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders.folders.rank_files import SLICED, Ranks, read_files
from checkpoint_doctor.checkpoint import Content, Flaw, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.text import quantity

RANK = re.compile(r"mp_rank_(\d{2,5})(?:_(\d{3,5}))?(?:_(\d{3,5}))?")
"""A rank in the tensors, in the pipeline and among the experts."""
FILES = {
    "model_optim_rng.pt": Content.WEIGHTS,
    "model_rng.pt": Content.WEIGHTS,
    "distrib_optim.pt": Content.OPTIMIZER,
    "optim.pt": Content.OPTIMIZER,
}
DEEPEST = 64
MODEL = re.compile(r"model\d*")


def find_ranks(folder: Folder) -> dict[str, Content]:
    """Return the files of the ranks in a folder by their paths; empty where Megatron-LM wrote none."""
    found: dict[str, Content] = {}
    for name in sorted(filter(RANK.fullmatch, folder.folders)):
        try:
            files = folder.enter(name).files
        except UnreadableCheckpoint:
            continue
        found |= {f"{name}/{file}": content for file, content in FILES.items() if file in files}
    return found if Content.WEIGHTS in found.values() else {}


def is_of_rank(name: str) -> bool:
    """Return whether a path is that of a file of a rank."""
    folder, _, file = name.rpartition("/")
    return file in FILES and RANK.fullmatch(folder) is not None


def read_ranks(folder: Folder, contents: Mapping[str, Content]) -> Ranks:
    """Read the files of all ranks.

    Raises:
        UnreadableCheckpoint: no file with a model can be read.
    """
    found = read_files(folder, contents)
    ranks = sorted(filter(RANK.fullmatch, folder.folders))
    branches = {rank: branch for rank in ranks if (branch := _read_rank(rank, found))}
    if not branches:
        raise (
            found.problems[0]
            if found.problems
            else UnreadableCheckpoint(f"the files of {folder.path} contain no model", "name the folder of an iteration")
        )
    first = next(content for name, content in found.read.items() if "model" in name)
    settings = attributes_of(first.get("args"))
    found.root.update(branches if len(ranks) > 1 else next(iter(branches.values())))
    found.root.update({key: first[key] for key in ("iteration", "args") if key in first})
    for rank in sorted({*ranks, *_expected(settings)}):
        if not any(name.startswith(f"{rank}/") and contents[name] is Content.WEIGHTS for name in contents):
            message = f"the files of {rank} are missing, of {quantity(len({*ranks, *_expected(settings)}), 'rank')}"
            found.flaws.append(Flaw(f"{message}: Megatron-LM cannot resume from the rest", rank))
    if len({match[1] for name in ranks if (match := RANK.fullmatch(name))}) > 1:
        found.skipped.append(Skipped(f"the whole tensors of {quantity(len(branches), 'rank')}", SLICED))
    return found


def _read_rank(rank: str, found: Ranks) -> dict[str, Any]:
    """Return what a rank has of the model and of the optimizer; empty where it has no model that can be read."""
    branch: dict[str, Any] = {}
    for file in FILES:
        content = found.read.get(f"{rank}/{file}")
        if content is None:
            continue
        for key, value in content.items():
            if isinstance(key, str) and MODEL.fullmatch(key) and isinstance(value, Mapping):
                branch[key] = dict(_flatten(value, set()))
        wrapper = content if file == "distrib_optim.pt" else content.get("optimizer")
        if not isinstance(wrapper, Mapping):
            continue
        state = wrapper if is_optimizer(wrapper) else wrapper.get("optimizer")
        scaler = wrapper.get("grad_scaler")
        if isinstance(scaler, Mapping) and "scale" in scaler:
            branch["grad_scaler"] = {key: number_in(value) for key, value in scaler.items()}
        if isinstance(state, Mapping) and is_optimizer(state) and _has_state(state):
            branch["optimizer"] = state
        elif file == "distrib_optim.pt":
            why = "the flat buffers of the distributed optimizer are not put together"
            found.skipped.append(Skipped(f"{rank}/{file}", why))
    return branch if any(MODEL.fullmatch(key) for key in branch) else {}


def _has_state(state: Mapping[str, Any]) -> bool:
    """Return whether there are moments; the distributed optimizer has them in a file of its own."""
    return any(isinstance(each, Mapping) for each in state["state"].values())


def _flatten(tree: Mapping[Any, Any], seen: set[int], prefix: str = "") -> Iterator[tuple[str, PickledTensor]]:
    """Yield the tensors of a model under names with dots: state dicts are nested in each other, module by module."""
    seen.add(id(tree))
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, PickledTensor):
            yield name, value
        elif isinstance(value, Mapping) and id(value) not in seen and name.count(".") < DEEPEST:
            yield from _flatten(value, seen, f"{name}.")


def _expected(settings: Mapping[str, Any]) -> set[str]:
    """Return the folders that there should be, as far as the settings of the run tell; experts are not counted."""
    keys = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size")
    sizes = [value if isinstance(value := settings.get(key), int) and 0 < value < 1024 else 1 for key in keys]
    tensors, stages, experts = sizes
    if experts > 1:
        return set()
    if stages == 1:
        return {f"mp_rank_{rank:02}" for rank in range(tensors)}
    return {f"mp_rank_{rank:02}_{stage:03}" for rank, stage in product(range(tensors), range(stages))}
