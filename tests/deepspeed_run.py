"""Trains a small network with DeepSpeed on the CPU in several processes, and saves it: ``STAGE RANKS FOLDER``.

Beside the checkpoint it leaves ``weights.pt``, which DeepSpeed's own ``zero_to_fp32`` puts together, and with
``ds_to_universal`` a folder ``universal`` with every parameter's moments.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

os.environ.update(DS_ACCELERATOR="cpu", DS_BUILD_OPS="0", OMP_NUM_THREADS="1")

import torch
from torch import multiprocessing, nn


def train(rank: int, ranks: int, stage: int, folder: str, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    import deepspeed

    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.BatchNorm1d(33), nn.ReLU(), nn.Linear(33, 3))
    matrices, vectors = [[each for each in model.parameters() if (each.ndim > 1) is wide] for wide in (True, False)]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 100)
    settings = {
        "train_micro_batch_size_per_gpu": 16,
        "zero_optimization": {"stage": stage, **({"stage3_param_persistence_threshold": 0} if stage == 3 else {})},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=settings)
    torch.manual_seed(rank)
    for _ in range(40):
        x = torch.randn(16, 7)
        engine.backward(nn.functional.cross_entropy(engine(x), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()))
        engine.step()
    engine.save_checkpoint(folder)


def convert(folder: str) -> None:
    from deepspeed.checkpoint import ds_to_universal
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights = get_fp32_state_dict_from_zero_checkpoint(folder)
    torch.save({name: each.detach().clone() for name, each in weights.items()}, f"{folder}/../weights.pt")
    arguments = SimpleNamespace(
        input_folder=f"{folder}/global_step40",
        output_folder=f"{folder}/../universal",
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    ds_to_universal.main(arguments)


if __name__ == "__main__":
    stage, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    multiprocessing.spawn(train, (ranks, stage, folder, 29500 + os.getpid() % 1000), nprocs=ranks)
    convert(folder)
