"""The networks that ``benchmarks.signal`` trains: kinds of layers, optimizers, inputs, and what may mislead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.reach import World, train
from benchmarks.signal_recording import Recorder, Truth
from tests.zoo.sequences import LanguageModel, LastStep, TransformerEncoder
from tests.zoo.tasks import (
    CLASSES,
    Batches,
    chains,
    clusters,
    gratings,
    most_frequent_group,
    moving_averages,
    smooth_functions,
)
from tests.zoo.vectors import perceptron

Change = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
CROSS_ENTROPY: Loss = functional.cross_entropy


def unchanged(x: Tensor) -> Tensor:
    """Leave the inputs as the task draws them."""
    return x


def adam(parameters: Iterator[nn.Parameter]) -> Optimizer:
    """Return Adam with its usual settings."""
    return torch.optim.Adam(parameters, lr=2e-3)


@dataclass(frozen=True)
class Network:
    """A network, what it is fed and how it is trained."""

    family: str
    name: str
    build: Callable[[], nn.Module]
    batches: Callable[[], Batches]
    change: Change = unchanged
    """What is done to the inputs after their targets were computed."""
    loss: Loss = functional.mse_loss
    optimizer: Callable[..., Optimizer] = adam
    steps: int = 600
    batch: int | None = None
    """Examples of a batch, where it is not the task's own number."""
    is_fixed: bool = False
    """True where every update sees the same batch."""
    largest_norm: float | None = None
    is_known_to_mislead: bool = False
    """True where the file has no trace of what misleads the profile; such networks are shown apart."""

    def train(self, path: Path) -> dict[str, Truth]:
        """Train it, save it with its optimizer, and return what was recorded of each module."""
        torch.manual_seed(0)
        model, batches = self.build(), self.batches()
        optimizer = self.optimizer(model.parameters())
        recorder = Recorder(model, [optimizer])
        fixed = batches()
        for _ in range(self.steps):
            x, y = fixed if self.is_fixed else batches()
            x, y = x[: self.batch], y[: self.batch]
            optimizer.zero_grad()
            output = model(self.change(x))
            if y.dtype == torch.long:
                output, y = output.flatten(0, -2), y.flatten()
            self.loss(output, y).backward()
            if self.largest_norm:
                nn.utils.clip_grad_norm_(model.parameters(), self.largest_norm)
            optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": self.steps}, path)
        return recorder.truths


@dataclass(frozen=True)
class Agent:
    """An agent of Stable-Baselines3 in a small world."""

    name: str
    algorithm: type[BaseAlgorithm]
    world: World
    settings: dict[str, Any] = field(default_factory=dict)
    family: str = "agents"
    is_known_to_mislead: bool = False

    def train(self, path: Path) -> dict[str, Truth]:
        """Train it, save it, and return what was recorded of each module of its policy."""
        recorders: list[Recorder] = []

        def record(model: BaseAlgorithm) -> None:
            parts = [model.policy, getattr(model.policy, "actor", None), getattr(model.policy, "critic", None)]
            optimizers = [part.optimizer for part in parts if getattr(part, "optimizer", None) is not None]
            recorders.append(Recorder(model.policy, optimizers))

        train(self.algorithm, self.world, before=record, **self.settings).save(path)
        return recorders[0].truths


def scaled(factor: float, offset: float = 0.0) -> Change:
    """Multiply all inputs by a factor and add an offset."""
    return lambda x: factor * x + offset


def mixed(x: Tensor) -> Tensor:
    """Give the features three units: ×1, ×100 and ×0.01."""
    return x * torch.tensor([1.0, 100.0, 0.01]).repeat(x.shape[-1])[: x.shape[-1]]


def sparse(x: Tensor) -> Tensor:
    """Leave one value in ten."""
    return torch.where(x > 1.28, x, torch.zeros_like(x))


def pixels(x: Tensor) -> Tensor:
    """Turn waves into pixels from 0 to 255."""
    return (128.0 + 64.0 * x).clamp(0, 255)


def with_norm(norm: type[nn.Module], before: bool) -> nn.Sequential:
    """Return a perceptron with norms before or behind its linear layers."""
    sizes = ((16, 64), (64, 64))
    layers: list[nn.Module] = []
    for inputs, outputs in sizes:
        linear = nn.Linear(inputs, outputs)
        layers += [norm(inputs), linear, nn.ReLU()] if before else [linear, norm(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def convolutions(norm: Callable[[int], nn.Module] | None = None, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return two convolutions and a linear head for images of 12 by 12 pixels."""
    first, second = nn.Conv2d(1, 8, 3, stride=stride), nn.Conv2d(8, 16, 3, groups=groups)
    norms = [norm(8)] if norm else [], [norm(16)] if norm else []
    return nn.Sequential(
        *(first, *norms[0], nn.ReLU(), second, *norms[1], nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    )


class NormalizedByHand(nn.Module):
    """A perceptron that subtracts the batch's mean and divides by its deviation, without a module for it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 16] to [batch, 4], in the given precision."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not torch.float32):
            for layer in (self.fc1, self.fc2):
                x = layer(x)
                x = torch.relu((x - x.mean(0)) / (x.std(0) + 1e-5))
            return self.fc3(x).float()


class InHalfPrecision(nn.Module):
    """A perceptron with tanh whose products are computed in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 16] to [batch, 4]."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


class Pooled(nn.Module):
    """Weighs the places of a sequence by a softmax over scores, which ignores a shift of all scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(6, 32), nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, 6] to [batch, 3]."""
        hidden = torch.tanh(self.embed(sequence))
        return self.head((torch.softmax(self.score(hidden), 1) * hidden).sum(1))


class Compared(nn.Module):
    """The difference of what one perceptron makes of two inputs, to which its last bias does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = relu()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 16] to [batch, 4]."""
        return self.net(x) - self.net(x.flip(0))


class Attention(nn.Module):
    """Blocks of attention with projections of their own, and a feed-forward part; the mean of all places is read."""

    def __init__(self, inputs: int, norm_first: bool = True, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(AttentionBlock(width, heads, norm_first) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, inputs] to [batch, 3]."""
        x = self.embed(sequence)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward part, each with a shortcut."""

    def __init__(self, width: int, heads: int, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.norm_first = heads, norm_first
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, time, width] to the same shape."""
        if self.norm_first:
            x = x + self.attend(self.norm1(x))
            return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention makes of each place."""
        split = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class FirstOfBoth(nn.Module):
    """A bidirectional GRU whose outputs are averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(6, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, 6] to [batch, 3]."""
        return self.head(self.recurrent(sequence)[0].mean(1))


def tanh() -> nn.Module:
    """Return a perceptron with tanh."""
    return perceptron(nn.Tanh, 16, 64, 64, 4)


def relu() -> nn.Module:
    """Return a perceptron with ReLU."""
    return perceptron(nn.ReLU, 16, 64, 64, 4)


def functions() -> Batches:
    """Return the regression of smooth functions."""
    return smooth_functions(16, 4)


def averages() -> Batches:
    """Return the regression of moving averages."""
    return moving_averages(6, 3)


def recurrent(kind: type[nn.RNNBase]) -> Callable[[], nn.Module]:
    """Return the builder of a recurrent network."""
    return lambda: LastStep(kind(6, 32, batch_first=True), 3)


ADAMW = partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.1)
RMSPROP = partial(torch.optim.RMSprop, lr=1e-3)


def networks() -> Iterator[Network | Agent]:
    """Yield every network, in the order of the table."""
    mlp = partial(Network, "MLP", batches=functions)
    yield mlp("tanh", tanh)
    yield mlp("tanh, inputs with mean 5", tanh, change=scaled(1.0, 5.0))
    yield mlp("tanh, features ×1, ×100, ×0.01", tanh, change=mixed)
    yield mlp("tanh, inputs ×64,000", tanh, change=scaled(64_000.0))
    yield mlp("tanh, inputs near 64,000", tanh, change=scaled(6_400.0, 64_000.0))
    yield mlp("ReLU", relu)
    yield mlp("ReLU, inputs ×64,000", relu, change=scaled(64_000.0))
    yield mlp("ReLU, inputs ×0.001", relu, change=scaled(0.001))
    yield mlp("ReLU, sparse inputs", relu, change=sparse)
    yield mlp("ReLU, classes", relu, batches=lambda: clusters(16), loss=CROSS_ENTROPY)
    yield mlp("one output", lambda: perceptron(nn.ReLU, 16, 64, 64, 1), batches=lambda: smooth_functions(16, 1))
    yield mlp("ReLU, AdamW 0.1", relu, optimizer=ADAMW)
    yield mlp("tanh, RMSprop", tanh, optimizer=RMSPROP)
    yield mlp("ReLU, RMSprop, inputs ×1,000", relu, optimizer=RMSPROP, change=scaled(1000.0))
    yield mlp("tanh, NAdam", tanh, optimizer=partial(torch.optim.NAdam, lr=2e-3))
    yield mlp("tanh, AMSGrad", tanh, optimizer=partial(torch.optim.Adam, lr=2e-3, amsgrad=True))
    yield mlp("tanh, clipped at 0.1", tanh, largest_norm=0.1)
    odd = partial(Network, "may mislead", batches=functions)
    yield odd("ReLU, L2 0.1", relu, optimizer=partial(torch.optim.Adam, lr=2e-3, weight_decay=0.1))
    yield odd("ReLU, L2 0.001", relu, optimizer=partial(torch.optim.Adam, lr=2e-3, weight_decay=0.001))
    yield odd("RMSprop, L2 0.1", relu, optimizer=partial(RMSPROP, weight_decay=0.1))
    yield odd("batches of 4", relu, batch=4)
    yield odd("batches of 1", tanh, batch=1)
    yield odd("always the same batch", relu, is_fixed=True)
    yield odd("always the same batch, tanh, 3,000 updates", tanh, is_fixed=True, steps=3000)
    yield odd("3,000 updates", relu, steps=3000)
    yield odd("20 updates", relu, steps=20)
    yield odd("60 updates", tanh, steps=60)
    yield odd("learning rate 0.05", tanh, optimizer=partial(torch.optim.Adam, lr=0.05))
    yield odd("batch norm in front", lambda: with_norm(nn.BatchNorm1d, True), change=scaled(1000.0))
    yield odd("batch norm behind", lambda: with_norm(nn.BatchNorm1d, False), change=scaled(1000.0))
    yield odd("layer norm in front", lambda: with_norm(nn.LayerNorm, True), change=scaled(1000.0))
    yield odd("layer norm behind", lambda: with_norm(nn.LayerNorm, False))
    yield odd("layer norm behind, inputs ×1,000", lambda: with_norm(nn.LayerNorm, False), change=scaled(1000.0))
    yield odd("dropout", lambda: nn.Sequential(*relu()[:2], nn.Dropout(0.5), *relu()[2:]))
    yield odd("bfloat16", InHalfPrecision)
    yield odd("softmax over scores", Pooled, batches=averages)
    yield odd("differences of outputs", Compared)
    yield odd("normalised by hand", lambda: NormalizedByHand(torch.float32))
    yield odd("normalised by hand, bfloat16", lambda: NormalizedByHand(torch.bfloat16), is_known_to_mislead=True)
    cnn = partial(Network, "CNN", batches=gratings, loss=CROSS_ENTROPY, steps=300)
    yield cnn("inputs about ±1", convolutions)
    yield cnn("pixels 0–1", convolutions, change=lambda x: pixels(x) / 255)
    yield cnn("pixels 0–255", convolutions, change=pixels)
    yield cnn("batch norm", lambda: convolutions(nn.BatchNorm2d))
    yield cnn("group norm", lambda: convolutions(lambda width: nn.GroupNorm(2, width)))
    yield cnn("instance norm", lambda: convolutions(partial(nn.InstanceNorm2d, affine=True)))
    yield cnn("instance norm without parameters", lambda: convolutions(nn.InstanceNorm2d))
    yield cnn("stride 2, RMSprop", lambda: convolutions(stride=2), optimizer=RMSPROP)
    yield cnn("grouped, batches of 8", lambda: convolutions(groups=8), batch=8)
    sequence = partial(Network, "recurrent", batches=averages, steps=400)
    yield sequence("LSTM", recurrent(nn.LSTM))
    yield sequence("LSTM, inputs ×1,000", recurrent(nn.LSTM), change=scaled(1000.0))
    yield sequence("LSTM, inputs with mean 5", recurrent(nn.LSTM), change=scaled(1.0, 5.0))
    yield sequence("LSTM, RMSprop", recurrent(nn.LSTM), optimizer=RMSPROP)
    yield sequence("GRU", recurrent(nn.GRU))
    yield sequence("GRU, inputs ×1,000", recurrent(nn.GRU), change=scaled(1000.0))
    yield sequence("RNN", recurrent(nn.RNN))
    yield sequence("bidirectional GRU", FirstOfBoth)
    former = partial(Network, "transformer", steps=300)
    yield former("encoder, tokens", TransformerEncoder, batches=most_frequent_group, loss=CROSS_ENTROPY)
    yield former("language model, AdamW 0.1", LanguageModel, batches=chains, loss=CROSS_ENTROPY, optimizer=ADAMW)
    yield former("norms first", lambda: Attention(6), batches=averages)
    yield former("norms first, inputs ×300", lambda: Attention(6), batches=averages, change=scaled(300.0))
    yield former("norms last, AdamW 0.1", lambda: Attention(6, False), batches=averages, optimizer=ADAMW)
    raw = {"scale": 3_000.0, "offset": 64_000.0}
    yield Agent("PPO", PPO, World(discrete=True))
    yield Agent("PPO, continuous", PPO, World())
    yield Agent("PPO, ReLU", PPO, World(), {"policy": {"activation_fn": nn.ReLU}})
    yield Agent("PPO, prices", PPO, World(discrete=True, **raw))
    yield Agent("PPO, observations ×100", PPO, World(scale=100.0))
    yield Agent("A2C (RMSprop)", A2C, World(discrete=True))
    yield Agent("A2C, prices", A2C, World(discrete=True, **raw))
    yield Agent("DQN", DQN, World(discrete=True))
    yield Agent("DQN, prices", DQN, World(discrete=True, **raw))
    yield Agent("SAC", SAC, World())
    yield Agent("SAC, observations ×1,000", SAC, World(scale=1000.0))
    yield Agent("TD3", TD3, World())
    yield Agent("TD3, prices", TD3, World(scale=1e4, offset=1e5))
    yield Agent("TD3, observations ×100", TD3, World(scale=100.0))
