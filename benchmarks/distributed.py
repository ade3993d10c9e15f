"""Times a distributed checkpoint against the same tensors in safetensors: ``python -m benchmarks.distributed FOLDER``.

Two ranks write the shards with PyTorch. They are made in the folder where they are missing; ``--megabytes`` says how
large. The scans take turns, so that a busy machine slows all of them, and the medians are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path
from statistics import median

from benchmarks.speed import Cost, measure

RANKS = 2
SHAPE = (2048, 4096)
"""A float32 matrix of this shape is 32 MiB."""


def main() -> None:
    """Make the files where they are missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    folders = {name: options.folder / name for name in ("safetensors", "torch", "distributed")}
    if not folders["distributed"].exists():
        # In a process of its own: a child's peak memory counts from the memory of its parent.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(folders, options.megabytes))
        maker.start()
        maker.join()
    scan = [sys.executable, "-m", "checkpoint_doctor", "scan", "-q"]
    costs: dict[str, list[Cost]] = {name: [] for name in folders}
    for _ in range(options.runs):
        for name, path in folders.items():
            costs[name].append(measure([*scan, str(path)]))
    against = _medians(costs["safetensors"])
    for name, taken in costs.items():
        columns = zip(_medians(taken), against, ("s", "s of processor time", "MiB"), strict=True)
        print(f"{name:12}", "  ".join(f"{value:7.2f} {unit} ×{value / other:.2f}" for value, other, unit in columns))
        assert all(cost.code == 0 for cost in taken), f"{name} is not healthy"


def _medians(costs: list[Cost]) -> tuple[float, float, float]:
    return median(each.wall for each in costs), median(each.cpu for each in costs), median(each.peak for each in costs)


def make(folders: dict[str, Path], megabytes: int) -> None:
    """Write random matrices in all three formats, the same values in each."""
    import torch
    from safetensors.torch import save_file

    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    count = max(1, megabytes // 32)
    torch.manual_seed(0)
    state = {f"layers.{index}.weight": 0.02 * torch.randn(SHAPE) for index in range(count)}
    save_file(state, folders["safetensors"] / "model.safetensors")
    torch.save(state, folders["torch"] / "model.pt")
    torch.multiprocessing.spawn(save_shard, (str(folders["distributed"]), str(folders["torch"] / "model.pt")), RANKS)


def save_shard(rank: int, folder: str, model: str) -> None:
    """Write one rank's rows of every matrix."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    rows = slice(rank * SHAPE[0] // RANKS, (rank + 1) * SHAPE[0] // RANKS)
    state = {
        name: DTensor.from_local(whole[rows].clone(), mesh, [Shard(0)])
        for name, whole in torch.load(model, mmap=True).items()
    }
    dcp.save(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
