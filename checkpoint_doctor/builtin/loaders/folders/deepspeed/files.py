"""The names of DeepSpeed's files, and which rank wrote which of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Content

MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,6})_)?mp_rank_(\d{2,6})_model_states\.pt")
"""The model as one model-parallel rank has it; of ZeRO 3 as one rank of all has it."""
OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{2,6})_optim_states\.pt")
"""A rank's partition of the optimizer, and of the weights in float32."""
PIECE = re.compile(r"layer_\d+-model_\d+-model_states\.pt|layer_\d+_expert_\d+_mp_rank_\d+_model_states\.pt")
"""A layer of a pipeline, or an expert."""
EXPERTS = re.compile(r"(?:bf16_|fp16_)?expp_rank_\d+_mp_rank_\d+_optim_states\.pt")
"""The optimizer of experts."""
FOLDER = re.compile(r"global_step\d+|pytorch_model(_\d+)?")
"""The folders in which DeepSpeed, and accelerate through it, save a checkpoint."""


class ModelRank(Struct):
    """The files of one model-parallel rank, by the data-parallel rank that wrote them."""

    number: int
    models: dict[int, str] = field(default_factory=dict)
    optimizers: dict[int, str] = field(default_factory=dict)
    is_divided: bool = False
    """True where each data-parallel rank has a part of every weight (ZeRO 3)."""


def find_files(names: Collection[str]) -> dict[str, Content]:
    """Return what is what among the files of a folder; empty where DeepSpeed wrote none of them."""
    found = {name: content for name in names if (content := content_of(name)) is not None}
    return {name: found[name] for name in sorted(found, key=natural)}


def natural(name: str) -> list[tuple[int, str]]:
    """Sort ``rank_2`` before ``rank_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def content_of(name: str) -> Content | None:
    """Return what a file is, ``None`` where DeepSpeed did not write it; ``name`` may be a path."""
    name = name.rpartition("/")[2]
    if MODEL.fullmatch(name) or PIECE.fullmatch(name):
        return Content.WEIGHTS
    return Content.OPTIMIZER if OPTIMIZER.fullmatch(name) or EXPERTS.fullmatch(name) else None


def group_by_rank(names: Iterable[str]) -> list[ModelRank]:
    """Return the files of every model-parallel rank."""
    ranks: dict[int, ModelRank] = {}
    for name in names:
        leaf = name.rpartition("/")[2]
        if found := MODEL.fullmatch(leaf):
            rank = _rank(ranks, found[2])
            rank.models[int(found[1] or 0)] = name
            rank.is_divided |= found[1] is not None
        elif found := OPTIMIZER.fullmatch(leaf):
            _rank(ranks, found[2]).optimizers[int(found[1])] = name
    return [ranks[number] for number in sorted(ranks)]


def _rank(ranks: dict[int, ModelRank], number: str) -> ModelRank:
    return ranks.setdefault(int(number), ModelRank(int(number)))
