"""Monitored trainings on two processes, with DDP and FSDP: ``python -m tests.monitored_processes FOLDER STEP``.

Each process writes what it saw as JSON, into a folder for each. A gradient becomes NaN at the step.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from checkpoint_doctor.callbacks.torch import Monitor


def build(how: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    if how == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def resume(path: Path) -> bool:
    """Load what was kept into a new model that is spread in the same way, and return whether it is the same."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    state, given = torch.load(path), torch.load(path)  # what is given is written to
    model, optimizer = build("fsdp")
    set_state_dict(
        model, optimizer, model_state_dict=given["model"], optim_state_dict=given["optimizer"],
        options=StateDictOptions(full_state_dict=True),
    )  # fmt: skip
    same = []
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        kept = state["optimizer"]["state"][name]
        pairs = [(parameter, state["model"][name]), *((moments[key], kept[key]) for key in ("exp_avg", "exp_avg_sq"))]
        same += [torch.equal(each.full_tensor(), whole) for each, whole in pairs]  # type: ignore[operator]
        same.append(int(moments["step"]) == state["step"])
    return all(same) and len(same) == 24


def train(how: str, folder: Path, spoiled_at: int) -> None:
    """Train with DDP (``ddp``) or FSDP (``fsdp``)."""
    rank = dist.get_rank()
    torch.manual_seed(0)
    model, optimizer = build(how)
    stream = io.StringIO()
    monitor = Monitor(
        model, optimizer, check_every=20, on_error="stop", stream=stream, series=folder / f"series-{rank}.json",
        save_healthy=folder / "healthy.pt", repair=True,
    )  # fmt: skip
    torch.manual_seed(rank)
    for step in range(1, 61):
        batch = torch.randn(16, 8)
        loss = (model(batch) - batch[:, :2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if step == spoiled_at and rank == 1:
            grad = next(iter(model.parameters())).grad
            assert grad is not None
            local = grad.to_local() if hasattr(grad, "to_local") else grad  # type: ignore[attr-defined]
            local[3, 3] = float("nan")
        if how == "ddp" and step == spoiled_at and rank == 0:
            # After the all-reduce of DDP, every process has the same gradients.
            next(iter(model.parameters())).grad[3, 3] = float("nan")  # type: ignore[index]
        optimizer.step()
        if monitor.should_stop:
            break
    monitor.close()
    weights = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in model.parameters()]
    seen = {
        "step": step,
        "finite": all(bool(torch.isfinite(each).all()) for each in weights),
        "checks": len(monitor.report.checkpoints),
        "told": stream.getvalue(),
        "news": [each.alert.title for each in monitor.news],
        "shapes": [each.shape for each in monitor.report.checkpoints[0].tensors] if rank == 0 else [],
    }
    if how == "fsdp":
        seen["resumed"] = resume(folder / "healthy.pt")
    (folder / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo")
    for name in ("ddp", "fsdp"):
        train(name, Path(sys.argv[1]) / name, int(sys.argv[2]))
    dist.destroy_process_group()
