"""Folders as DeepSpeed and Megatron-LM write them: what each of several ranks has of a run.

The layout of DeepSpeed is that of version 0.19, whose own folders ``test_folders_of_libraries.py`` reads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from run_folders import pickled_as
from torch import nn

STEPS = 40


class Twin(nn.Module):
    """A network with a batch norm, a frozen layer and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(7, 9)
        self.body = nn.Sequential(nn.Linear(9, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Linear(33, 9), nn.Tanh())
        self.head = nn.Linear(9, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(x)))


def train() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """Train with two groups and a rate that falls; the first layer is frozen."""
    torch.manual_seed(0)
    model = Twin()
    model.embedding.requires_grad_(False)
    held = [each for each in model.parameters() if each.requires_grad]
    matrices, vectors = [each for each in held if each.ndim > 1], [each for each in held if each.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 100)
    for _ in range(STEPS):
        x = torch.randn(32, 7)
        loss = (model(x) - x.roll(1, 1).abs()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval(), optimizer, schedule


def save_deepspeed(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, *, stage: int, ranks: int = 2,
    mappings: bool = True, prefix: str = "",
) -> Path:  # fmt: skip
    """Write ``global_step40`` of a run with ZeRO in float32."""
    folder.mkdir(parents=True)
    names = {id(each): name for name, each in model.named_parameters()}
    groups = [[(names[id(each)], each) for each in group["params"]] for group in optimizer.param_groups]
    frozen = OrderedDict((name, each.detach()) for name, each in model.named_parameters() if not each.requires_grad)
    common = {
        "buffer_names": [name for name, _ in model.named_buffers()],
        "optimizer": optimizer.state_dict() if stage == 0 else None,
        "param_shapes": [OrderedDict((name, each.shape) for name, each in group) for group in groups]
        if stage
        else None,
        "frozen_param_shapes": OrderedDict((name, each.shape) for name, each in frozen.items()) if stage else None,
        "shared_params": {},
        "lr_scheduler": schedule.state_dict(),
        "skipped_steps": 0,
        "global_steps": STEPS,
        "dp_world_size": ranks,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.19.8",
    }
    state = model.state_dict()
    for rank in range(ranks if stage == 3 else 1):
        content = {**common, "module": OrderedDict(state), "frozen_param_fragments": frozen if stage else None}
        if stage == 3:
            for name in dict(model.named_parameters()):
                content["module"][name] = torch.zeros(0)
            content["frozen_param_fragments"] = OrderedDict(
                (name, cut(each, ranks)[rank]) for name, each in frozen.items()
            )
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        torch.save(content, folder / name)
    for rank in range(ranks if stage else 0):
        partition = flatten(groups, optimizer, stage, rank, ranks)
        with (
            pickled_as("deepspeed.runtime.fp16.loss_scaler", "LossScaler") as scaler,
            pickled_as("deepspeed.utils.tensor_fragment", "fragment_address") as address,
        ):
            scaler.__dict__.update(cur_scale=1.0, dynamic=False)
            partition["loss_scaler"] = scaler
            if mappings and stage < 3:
                partition["param_slice_mappings"] = [slices(group, rank, ranks, type(address)) for group in groups]
            content = {"optimizer_state_dict": partition, "ds_config": {}, "ds_version": "0.19.8"}
            torch.save(content, folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder.parent / "latest").write_text(folder.name)
    return folder


def cut(tensor: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    """Return the parts of a tensor that ZeRO 3 leaves on each rank; what fills the last is never initialized."""
    size = math.ceil(tensor.numel() / ranks)
    flat = torch.full((size * ranks,), math.nan)
    flat[: tensor.numel()] = tensor.detach().reshape(-1)
    return [each.clone() for each in flat.split(size)]


Group = list[tuple[str, torch.Tensor]]
"""Names and parameters."""


def flatten(groups: list[Group], optimizer: torch.optim.Optimizer, stage: int, rank: int, ranks: int) -> dict[str, Any]:
    """Return the ``optimizer_state_dict`` of one rank."""

    def of_rank(group: Group, entry: str) -> torch.Tensor:
        values = [each if entry == "weight" else optimizer.state[each][entry] for _, each in group]
        if stage == 3:
            return torch.cat([cut(each, ranks)[rank] for each in values])
        flat = torch.cat([each.detach().reshape(-1) for each in values])
        padded = torch.full((part_of(group, ranks) * ranks,), math.nan)
        padded[: flat.numel()] = flat
        return padded.chunk(ranks)[rank].clone()

    weights = [of_rank(group, "weight") for group in groups]
    state = {
        number: {"step": torch.tensor(float(STEPS)), **{key: of_rank(group, key) for key in ("exp_avg", "exp_avg_sq")}}
        for number, group in enumerate(groups)
    }
    options = [{**group, "params": [number]} for number, group in enumerate(optimizer.param_groups)]
    inner = {"state": state, "param_groups": options}
    if stage == 3:
        return {"zero_stage": 3, "partition_count": ranks, "optimizer_state_dict": inner, "fp32_flat_groups": weights}
    lean = [each[: count_held(group, rank, ranks)] for group, each in zip(groups, weights, strict=True)]
    return {
        "zero_stage": stage,
        "partition_count": [ranks] * len(groups),
        "base_optimizer_state": inner,
        "single_partition_of_fp32_groups": lean,
    }


def part_of(group: Group, ranks: int) -> int:
    """Return how many elements each rank has of a group, padding among them."""
    return 2 * math.ceil(sum(each.numel() for _, each in group) / (2 * ranks))


def count_held(group: Group, rank: int, ranks: int) -> int:
    """Return how many elements of a rank's part are no padding."""
    total, size = sum(each.numel() for _, each in group), part_of(group, ranks)
    return max(0, min(size, total - rank * size))


def slices(group: Group, rank: int, ranks: int, address: type) -> OrderedDict[str, Any]:
    """Return where the parameters of a group are in a rank's part of it."""
    found: OrderedDict[str, Any] = OrderedDict()
    size, begin = part_of(group, ranks), 0
    for name, each in group:
        first, last = max(begin, rank * size), min(begin + each.numel(), (rank + 1) * size)
        if first < last:
            found[name] = address()
            found[name].__dict__.update(numel=last - first, start=first - rank * size)
        begin += each.numel()
    return found


def save_megatron(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, tensors: int = 1, stages: int = 1
) -> Path:
    """Write ``iter_0000040`` of Megatron-LM: matrices are cut along their rows, modules are dealt to the stages."""
    names = {id(each): name for name, each in model.named_parameters()}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict()))
    for rank in range(tensors):
        for stage in range(stages):
            mine = modules[stage::stages]

            def part(each: torch.Tensor, rank: int = rank) -> torch.Tensor:
                whole = each.ndim < 2 or each.shape[0] < tensors
                return each.detach().clone() if whole else each.detach().chunk(tensors)[rank].clone()

            tree: dict[str, Any] = {}
            for name, each in model.state_dict().items():
                if name.rpartition(".")[0] in mine:
                    place = tree
                    for key in name.split(".")[:-1]:
                        place = place.setdefault(key, OrderedDict())
                    place[name.rpartition(".")[2]] = part(each)
            state, groups, count = {}, [], 0
            for group in optimizer.param_groups:
                held = [each for each in group["params"] if names[id(each)].rpartition(".")[0] in mine]
                for position, each in enumerate(held, count):
                    state[position] = {
                        "step": optimizer.state[each]["step"],
                        **{key: part(optimizer.state[each][key]) for key in ("exp_avg", "exp_avg_sq")},
                    }
                groups.append({**group, "params": list(range(count, count + len(held)))})
                count += len(held)
            with pickled_as("argparse", "Namespace") as settings:
                settings.__dict__.update(
                    tensor_model_parallel_size=tensors, pipeline_model_parallel_size=stages, lr=3e-3, data_path=["a"]
                )
                content = {
                    "args": settings,
                    "checkpoint_version": 3.0,
                    "iteration": STEPS,
                    "model": tree,
                    "optimizer": {
                        "optimizer": {"state": state, "param_groups": groups},
                        "grad_scaler": {"scale": torch.tensor([65536.0]), "growth_tracker": 4, "hysteresis_tracker": 2},
                        "fp32_from_fp16_params": [],
                    },
                    "opt_param_scheduler": {"max_lr": 3e-3, "num_steps": STEPS * 32, "lr_decay_steps": 9000},
                    "rng_state": [{"random_rng_state": 1}],
                }
                name = f"mp_rank_{rank:02}" + (f"_{stage:03}" if stages > 1 else "")
                (folder / name).mkdir(parents=True)
                torch.save(content, folder / name / "model_optim_rng.pt")
    (folder.parent / "latest_checkpointed_iteration.txt").write_text(str(STEPS))
    return folder
