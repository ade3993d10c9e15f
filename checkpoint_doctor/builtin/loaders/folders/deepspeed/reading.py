"""Reads the files of all ranks of a DeepSpeed checkpoint, and says which are missing or damaged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from checkpoint_doctor.builtin.loaders._optimizers.state import is_optimizer
from checkpoint_doctor.builtin.loaders.folders.deepspeed.files import PIECE, ModelRank, group_by_rank
from checkpoint_doctor.builtin.loaders.folders.deepspeed.stitching import (
    Stitched,
    count_partitions,
    stitch,
    without_partitions,
)
from checkpoint_doctor.builtin.loaders.folders.rank_files import SLICED, Ranks, read_files
from checkpoint_doctor.checkpoint import Content, Flaw, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.text import quantity


def read_ranks(folder: Folder, contents: Mapping[str, Content]) -> Ranks:
    """Read DeepSpeed's files in a folder.

    Raises:
        UnreadableCheckpoint: no file of model states can be read.
    """
    return _Reading(folder, contents).finish()


class _Reading:
    def __init__(self, folder: Folder, contents: Mapping[str, Content]) -> None:
        self.folder = folder
        self.found = read_files(folder, contents)
        self.read = self.found.read
        self.ranks = group_by_rank(contents)

    def finish(self) -> Ranks:
        root = self.found.root
        several = len(self.ranks) > 1
        for rank in self.ranks:
            found = self._stitch(rank)
            if found is not None:
                branch = {"module": dict(found.module), **({"optimizer": found.optimizer} if found.optimizer else {})}
                root.update({f"mp_rank_{rank.number:02}": branch} if several else branch)
        for name, content in self.read.items():
            leaf = name.rpartition("/")[2]
            if PIECE.fullmatch(leaf):
                root[re.sub("[-_]model_states.pt$", "", leaf)] = content
        if not root:
            raise self._describe_unreadable()
        if several:
            held = quantity(len(self.ranks), "model-parallel rank")
            self.found.skipped.append(Skipped(f"the whole tensors of {held}", SLICED))
        self._add_progress()
        return self.found

    def _stitch(self, rank: ModelRank) -> Stitched | None:
        """Put together what one model-parallel rank has; ``None`` where no file of its model can be read."""
        models = {number: self.read[name] for number, name in sorted(rank.models.items()) if name in self.read}
        partitions = {
            number: partition
            for number, name in sorted(rank.optimizers.items())
            if isinstance(partition := self.read.get(name, {}).get("optimizer_state_dict"), Mapping)
        }
        if not models:
            return None
        first = next(iter(models.values()))
        if not rank.optimizers:
            return self._without_zero(first, rank)
        recorded = first.get("dp_world_size")
        ranks = max((count_partitions(each) for each in partitions.values()), default=0)
        if not ranks:
            ranks = recorded if isinstance(recorded, int) and 0 < recorded < 1 << 20 else max(rank.optimizers) + 1
        needed = [partitions, models] if rank.is_divided else [partitions]
        files = [rank.optimizers, rank.models] if rank.is_divided else [rank.optimizers]
        lost = [number for number in range(ranks) if not all(number in each for each in needed)]
        absent = [number for number in lost if not all(number in each for each in files)]
        if absent:
            self.found.flaws.append(Flaw(_describe_absent(absent, ranks), f"mp_rank_{rank.number:02}"))
        if lost:
            why = f"rank {lost[0]} of {ranks:,} {'is missing' if lost[0] in absent else 'cannot be read'}"
            self.found.skipped.append(Skipped("the optimizer", f"{why}, and each rank holds a part of every moment"))
            return without_partitions(first, rank.is_divided, why)
        found = stitch(list(models.values()), [partitions[number] for number in range(ranks)])
        if found.problem:
            self.found.skipped.append(Skipped("the partitions of the optimizer", found.problem))
        return found

    def _without_zero(self, model: Mapping[str, Any], rank: ModelRank) -> Stitched:
        """Return a model whose optimizer is in the same file, or whose partitions were all left out."""
        optimizer = model.get("optimizer")
        inner = optimizer.get("optimizer_state_dict") if isinstance(optimizer, Mapping) else None
        state = inner if is_optimizer(inner) else optimizer
        found = without_partitions(model, is_divided=False, why="")
        if is_optimizer(state) and isinstance(state, Mapping):
            return Stitched(found.module, state)
        if model.get("param_shapes"):
            why = "the files of its partitions (…_optim_states.pt) are missing"
            self.found.flaws.append(Flaw(why, f"mp_rank_{rank.number:02}"))
            return without_partitions(model, rank.is_divided, why)
        return found

    def _add_progress(self) -> None:
        """Add what every rank records of the run, as the first has it."""
        root = self.found.root
        models = [self.read[name] for rank in self.ranks for name in rank.models.values() if name in self.read]
        first = models[0] if models else {}
        steps = first.get("global_steps")
        if isinstance(steps, int) and not isinstance(steps, bool):
            root["global_step"] = steps
        for key in ("lr_scheduler", "ds_config"):
            if isinstance(first.get(key), Mapping):
                root["config" if key == "ds_config" else key] = first[key]
        partition = next(
            (self.read[name] for rank in self.ranks for name in rank.optimizers.values() if name in self.read), {}
        ).get("optimizer_state_dict")
        if isinstance(partition, Mapping) and "loss_scaler" in partition:
            root["loss_scaler"] = partition["loss_scaler"]
        version = first.get("ds_version")
        if isinstance(version, str):
            self.found.versions["deepspeed"] = version[:80]
        world = first.get("mp_world_size")
        is_pipeline = any(PIECE.fullmatch(name.rpartition("/")[2]) for name in self.read)
        if isinstance(world, int) and 1 < world < 1 << 16 and not is_pipeline:
            absent = sorted(set(range(world)) - {rank.number for rank in self.ranks})
            if absent:
                message = f"model-parallel rank {absent[0]} of {world:,} is missing"
                self.found.flaws.append(Flaw(message, f"mp_rank_{absent[0]:02}"))

    def _describe_unreadable(self) -> UnreadableCheckpoint:
        if self.found.problems:
            return self.found.problems[0]
        return UnreadableCheckpoint(
            f"{self.folder.path} has the optimizer of a DeepSpeed checkpoint, but no file of its model states",
            "copy mp_rank_00_model_states.pt into it: without it nobody knows which bytes belong to which tensor",
        )


def _describe_absent(absent: list[int], ranks: int) -> str:
    others = f" and {quantity(len(absent) - 1, 'other')}" if absent[1:] else ""
    return (
        f"the files of rank {absent[0]}{others}, of {ranks:,} ranks, are missing: DeepSpeed cannot resume from the rest"
    )
