"""Distributed checkpoints as PyTorch writes them: by one process, and by two that share every tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def make_model() -> nn.Sequential:
    """Return a small network whose sizes two ranks cannot share evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 33), nn.ReLU(), nn.LayerNorm(33), nn.Linear(33, 5), nn.BatchNorm1d(5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Take a few steps."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()


def make_states() -> dict[str, dict[str, Any]]:
    """Return what is commonly saved, by how it is put together."""
    model = make_model()
    groups = [{"params": model[0].parameters(), "lr": 1e-3}, {"params": [*model[2:].parameters()], "lr": 2e-3}]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    train(model, optimizer)
    weights, named = get_state_dict(model, optimizer)
    flat = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))[1]
    return {
        "bare": {**model.state_dict()},
        "by position": {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(), "step": 3,
        },
        "by name": {"model": weights, "optim": named, "epoch": 7},
        "flattened": {"model": weights, "optimizer": flat},
    }  # fmt: skip


class Tied(nn.Module):
    """A language model whose output layer is its embedding, with a copy that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(30, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 30)
        self.head.weight = self.embedding.weight
        self.target_body = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(words)))


def make_tied_states() -> dict[str, dict[str, Any]]:
    """Return the states of a trained model with a tied tensor, by the form of its optimizer's."""
    model = Tied()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.arange(30)).square().mean().backward()
        optimizer.step()
    model.target_body.load_state_dict(model.body.state_dict())
    weights, named = get_state_dict(model, optimizer, options=StateDictOptions(ignore_frozen_params=False))
    return {
        "by name": {"model": weights, "optim": named},
        "by position": {"model": model.state_dict(), "optim": optimizer.state_dict()},
    }


def save(state: dict[str, Any], folder: Path, **options: Any) -> Path:
    """Save a state with one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True, **options)
    return folder


def load_with_torch(folder: Path, scratch: Path) -> dict[str, Any]:
    """Return the state as PyTorch puts it together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, scratch)
    loaded: dict[str, Any] = torch.load(scratch, weights_only=False)
    return loaded


def sharded(whole: torch.Tensor, rows: slice, rank: int) -> Any:
    """Return a ``ShardedTensor`` of which this process has some rows."""
    from torch.distributed._shard import sharded_tensor

    own = whole[rows].clone()
    shard = sharded_tensor.Shard.from_tensor_and_offsets(own, [rows.start, 0], rank)
    return sharded_tensor.init_from_local_shards([shard], *whole.shape)


@contextmanager
def one_process_group() -> Iterator[Any]:
    """Make this process the only member of a group, and yield its mesh."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def _run_rank(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # A file for the processes to meet at, since a port that is free now may be taken when they start.
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meeting", 2), rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = make_model()
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer)
    weights, named = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": named, "step": 3}, checkpoint_id=f"{folder}/fsdp")
    torch.save({"model": model.state_dict(), "optim": optimizer.state_dict()}, f"{folder}/rank{rank}.pt")
    whole = {
        "rows.weight": (torch.randn(9, 7), Shard(0)),
        "columns.weight": (torch.randn(6, 11), Shard(1)),
        "columns_half.weight": (torch.randn(6, 11).bfloat16(), Shard(1)),
        "middle.weight": (torch.randn(3, 5, 4), Shard(1)),
        "one_row.weight": (torch.randn(1, 6), Shard(0)),
        "same.weight": (torch.randn(4, 4), Replicate()),
        "transposed.weight": (torch.randn(5, 9).t(), Shard(1)),
        "single.bias": (torch.tensor(2.5), Replicate()),
    }
    state = {name: distribute_tensor(tensor, mesh, [placement]) for name, (tensor, placement) in whole.items()}
    dcp.save(state, checkpoint_id=f"{folder}/placements")
    torch.save(state, f"{folder}/placements{rank}.pt")
    rows = slice(0, 5) if rank == 0 else slice(5, 9)
    torch.save({"rows.weight": sharded(whole["rows.weight"][0], rows, rank)}, f"{folder}/sharded{rank}.pt")
    dcp.save({"rows.weight": sharded(whole["rows.weight"][0], rows, rank)}, checkpoint_id=f"{folder}/sharded")
    writer = dcp.HuggingFaceStorageWriter(f"{folder}/safetensors", save_distributed=True)
    dcp.save({name: state[name] for name in list(whole)[:4]}, storage_writer=writer)
    dist.barrier()
    dist.destroy_process_group()


def save_with_two_ranks(folder: Path) -> Path:
    """Write ``fsdp`` and ``placements``, each by two processes, and what each of them saved for itself."""
    torch.multiprocessing.spawn(_run_rank, args=(str(folder),), nprocs=2)
    return folder
