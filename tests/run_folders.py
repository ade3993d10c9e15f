"""Folders as transformers and accelerate write them, around small networks that were really trained."""

from __future__ import annotations

import json
import random
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

STEPS = 40


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        return scores.softmax(-1) @ self.value(x)


class Output(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self, self.output = SelfAttention(width), Output(width, width)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = Output(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.attention.output
        x = inner.LayerNorm(x + inner.dense(self.attention.self(x)))
        return self.output.LayerNorm(x + self.output.dense(self.intermediate["dense"](x).relu()))


class Classifier(nn.Module):
    """A BERT of two layers, with the names and the order of transformers' ``BertForSequenceClassification``."""

    def __init__(self, width: int = 16, words: int = 24) -> None:
        super().__init__()
        self.bert = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {"word_embeddings": nn.Embedding(words, width), "LayerNorm": nn.LayerNorm(width)}
                ),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(Layer(width) for _ in range(2))}),
            }
        )
        self.classifier = nn.Linear(width, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        embeddings = self.bert["embeddings"]
        x = embeddings["LayerNorm"](embeddings["word_embeddings"](words))
        for layer in self.bert["encoder"]["layer"]:
            x = layer(x)
        return self.classifier(x[:, 0])


def train(steps: int = STEPS) -> tuple[Classifier, torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Train as ``Trainer`` does: decay for matrices, none for biases and norms, a rate that falls linearly to 0."""
    torch.manual_seed(0)
    model = Classifier()
    decayed = [name for name, _ in model.named_parameters() if "bias" not in name and "Norm" not in name]
    groups = [
        {"params": [each for name, each in model.named_parameters() if name in decayed], "weight_decay": 0.01},
        {"params": [each for name, each in model.named_parameters() if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / (2 * STEPS)))
    for _ in range(steps):
        words = torch.randint(0, 24, (32, 6))
        loss = nn.functional.cross_entropy(model(words), words[:, 0] % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule


def names_by_position(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the true name of each of an optimizer's parameters."""
    names = {id(each): name for name, each in model.named_parameters()}
    return [names[id(each)] for group in optimizer.param_groups for each in group["params"]]


CONFIG = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "transformers_version": "4.57.1"}


def save_trainer(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: object, *, safe: bool = True
) -> Path:
    """Write a ``checkpoint-40`` of transformers' ``Trainer``."""
    folder.mkdir(parents=True)
    save_weights(folder, model.state_dict(), safe=safe)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(schedule.state_dict(), folder / "scheduler.pt")  # type: ignore[attr-defined]
    generators = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(generators, folder / "rng_state.pth")
    log = [{"step": 10, "loss": 1.0, "learning_rate": 1e-3}]
    state = {"global_step": STEPS, "max_steps": 2 * STEPS, "epoch": 1.25, "log_history": log, "best_metric": None}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "tokenizer.json").write_text("{}")
    with pickled_as("transformers.training_args", "TrainingArguments") as arguments:
        arguments.__dict__.update(learning_rate=3e-3, weight_decay=0.01, output_dir="out", _n_gpu=0)
        torch.save(arguments, folder / "training_args.bin")
    return folder


def save_weights(folder: Path, state: dict[str, torch.Tensor], *, safe: bool, stem: str = "") -> Path:
    """Write the weights of ``save_pretrained``, in one file."""
    path = folder / ((stem or "model") + ".safetensors" if safe else (stem or "pytorch_model") + ".bin")
    if safe:
        save_file({name: each.contiguous() for name, each in state.items()}, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)
    return path


def save_shards(folder: Path, state: dict[str, torch.Tensor], *, safe: bool, shards: int = 3) -> Path:
    """Write the weights of ``save_pretrained`` in shards with their index, and return the index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    names = list(state)
    size = -(-len(names) // shards)
    weight_map = {}
    for number in range(shards):
        shard = f"{stem}-{number + 1:05d}-of-{shards:05d}"
        part = {name: state[name] for name in names[number * size : (number + 1) * size]}
        save_weights(folder, part, safe=safe, stem=shard)
        weight_map |= dict.fromkeys(part, f"{shard}.{ending}")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2, sort_keys=True))
    return index


@contextmanager
def pickled_as(module: str, name: str) -> Iterator[object]:
    """Yield an object of a class that pickles under another module's name, which is gone afterwards."""
    parts = module.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    before = {each: sys.modules.get(each) for each in names}
    kind = type(name, (), {"__module__": module})
    try:
        for each in names:
            sys.modules[each] = types.ModuleType(each)
        setattr(sys.modules[module], name, kind)
        yield kind()
    finally:
        for each, known in before.items():
            del sys.modules[each]
            if known is not None:
                sys.modules[each] = known


def save_accelerate(folder: Path, models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> Path:
    """Write what ``Accelerator.save_state`` does."""
    folder.mkdir(parents=True)
    for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        suffix = f"_{number}" if number else ""
        save_weights(folder, model.state_dict(), safe=True, stem=f"model{suffix}")
        torch.save(optimizer.state_dict(), folder / f"optimizer{suffix}.bin")
    states = {"step": 40, "random_state": random.getstate(), "numpy_random_seed": np.random.get_state()}
    torch.save(states, folder / "random_states_0.pkl")
    return folder
