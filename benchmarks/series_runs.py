"""Trains runs for real, healthy ones and ones with a fault from one checkpoint on, and saves their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from torch import Tensor, nn

POINTS = 12
UPDATES = 100
"""Updates between two checkpoints."""
INPUTS, WAKING = 20, 4
"""Inputs of the networks, and how many of them wake up late in one of the faults."""
PLAIN = ("mlp", "layer norm", "gru")
AGENTS = ("ppo", "dqn")
KINDS = (
    "frozen layer", "rate x300", "rate 0", "growing weights", "killed units", "biases reset", "layer drawn anew",
    "waking inputs", "one nan",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A fault that is put into a run."""

    kind: str
    onset: int
    """Position of the first checkpoint that shows it."""
    layer: str = ""
    """The layer it is in; empty for all of them."""


class GRUNet(nn.Module):
    """A GRU whose last hidden state a linear layer reads."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(INPUTS, 32, batch_first=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [batch, time, inputs] to [batch, outputs]."""
        hidden, _ = self.rnn(inputs)
        return self.head(hidden[:, -1])


def _network(name: str, outputs: int) -> nn.Module:
    if name == "gru":
        return GRUNet(outputs)
    norm = (lambda size: [nn.LayerNorm(size)]) if name == "layer norm" else lambda size: []
    return nn.Sequential(
        nn.Linear(INPUTS, 64), *norm(64), nn.ReLU(), nn.Linear(64, 48), *norm(48), nn.ReLU(), nn.Linear(48, outputs)
    )


class Saboteur:
    """Puts a fault into a run: before and after each update, and at each save."""

    def __init__(self, fault: Fault | None, modules: dict[str, nn.Module], seed: int) -> None:
        self.fault, self.modules, self.seed = fault, modules, seed
        self.point = 0
        """The checkpoint that comes next."""
        self._done = False

    @property
    def acts(self) -> bool:
        """True from the fault's onset on."""
        return self.fault is not None and self.point >= self.fault.onset

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Act before and after every step of an optimizer."""
        optimizer.register_step_pre_hook(lambda *arguments: self.before(optimizer))
        optimizer.register_step_post_hook(lambda *arguments: self.after())

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Put faults of the learning rate in."""
        if self.acts and self.fault.kind.startswith("rate"):
            for group in optimizer.param_groups:
                base = group.setdefault("ckdoc_base", group["lr"])
                group["lr"] = 300 * base if self.fault.kind == "rate x300" else 0.0

    def after(self) -> None:
        """Put faults of the weights in."""
        if not self.acts:
            return
        layer = self.modules.get(self.fault.layer)
        weight = next((p for name, p in layer.named_parameters() if "weight" in name), None) if layer else None
        with torch.no_grad():
            if self.fault.kind == "growing weights":
                weight.mul_(1.01)
            if self._done:
                return
            self._done = True
            if self.fault.kind == "frozen layer":
                for parameter in layer.parameters():
                    parameter.requires_grad_(False)
                    parameter.grad = None
            elif self.fault.kind == "killed units":
                half = slice(0, len(layer.bias) // 2)
                if self.seed % 2:
                    layer.bias[half] = -50.0
                else:
                    weight[half] = 0.0
                    layer.bias[half] = 0.0
            elif self.fault.kind == "layer drawn anew":
                layer.reset_parameters()
            elif self.fault.kind == "one nan":
                weight[0, 0] = torch.nan

    def at_save(self) -> None:
        """Put faults of saving in."""
        if self.acts and self.fault.kind == "biases reset":
            with torch.no_grad():
                for module in self.modules.values():
                    for name, parameter in module.named_parameters(recurse=False):
                        if "bias" in name:
                            parameter.zero_()


def train_plain(name: str, folder: Path, fault: Fault | None, seed: int = 0) -> None:
    """Train a network in plain PyTorch; the seed also chooses the optimizer, the schedule and the task."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = 4
    network, teacher = _network(name, outputs), _network("mlp", outputs)
    modules = {key: module for key, module in network.named_modules() if key}
    optimizer = (
        torch.optim.Adam(network.parameters(), lr=1e-3),
        torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05),
        torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9),
    )[seed % 3]
    total = POINTS * UPDATES
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        (lambda step: 1.0) if seed % 4 < 2 else lambda step: 0.5 * (1 + np.cos(np.pi * min(step / total, 1.0))),
    )
    saboteur = Saboteur(fault, modules, seed)
    is_scheduled = not (fault and fault.kind.startswith("rate"))
    saboteur.attach(optimizer)
    for point in range(POINTS):
        saboteur.point = point
        for _ in range(UPDATES):
            inputs = torch.randn(64, 6, INPUTS) if name == "gru" else torch.randn(64, INPUTS)
            if fault and fault.kind == "waking inputs":
                inputs[..., -WAKING:] *= 3.0 if saboteur.acts else 0.0
            with torch.no_grad():
                targets = teacher(inputs.mean(dim=1) * 2 if name == "gru" else inputs) + 0.1 * torch.randn(64, outputs)
            predicted = network(inputs)
            if seed % 2:
                loss = nn.functional.cross_entropy(predicted, targets.argmax(dim=1))
            else:
                loss = nn.functional.mse_loss(predicted, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if is_scheduled:
                scheduler.step()
        saboteur.at_save()
        step = (point + 1) * UPDATES
        saved = {"model": network.state_dict(), "step": step}
        if seed % 5 != 4:
            saved["optimizer"] = optimizer.state_dict()
        torch.save(saved, folder / f"step_{step}.pt")


class Padded(gymnasium.ObservationWrapper):
    """Inputs that carry nothing until they wake up."""

    def __init__(self, env: gymnasium.Env, is_awake: Callable[[], bool] | None) -> None:
        super().__init__(env)
        self._is_awake = is_awake
        low, high = env.observation_space.low, env.observation_space.high
        if is_awake is not None:
            low, high = np.concatenate([low, np.full(2, -9.0)]), np.concatenate([high, np.full(2, 9.0)])
        self.observation_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the observation with two more numbers where inputs can wake up."""
        if self._is_awake is None:
            return observation
        extra = np.random.normal(size=2) * 3.0 if self._is_awake() else np.zeros(2)
        return np.concatenate([observation, extra]).astype(np.float32)


def train_agent(name: str, folder: Path, fault: Fault | None, seed: int = 0, points: int = POINTS) -> None:
    """Train an agent of Stable-Baselines3."""
    folder.mkdir(parents=True, exist_ok=True)
    saboteur = Saboteur(fault, {}, seed)
    is_awake = (lambda: saboteur.acts) if fault and fault.kind == "waking inputs" else None
    env = Padded(gymnasium.make("CartPole-v1"), is_awake)
    if name == "ppo":
        model = PPO("MlpPolicy", env, n_steps=256, batch_size=64, n_epochs=4, seed=seed, device="cpu")
        modules, every = model.policy, 1024
    else:
        model = DQN(
            "MlpPolicy", env, learning_starts=500, learning_rate=6e-4, target_update_interval=500, buffer_size=20_000,
            policy_kwargs={"net_arch": [64, 64]}, train_freq=4, gradient_steps=2, seed=seed, device="cpu",
        )  # fmt: skip
        modules, every = model.q_net, 1000
    saboteur.modules = {
        key: module for key, module in modules.named_modules() if list(module.named_parameters(recurse=False))
    }
    saboteur.attach(model.policy.optimizer)
    for point in range(points):
        saboteur.point = point
        model.learn(every, reset_num_timesteps=False)
        saboteur.at_save()
        model.save(folder / f"rl_model_{model.num_timesteps}_steps.zip")


LAYERS = {"mlp": "2", "layer norm": "3", "gru": "rnn", "ppo": "mlp_extractor.policy_net.2", "dqn": "q_net.2"}
FIRST = {"mlp": "0", "layer norm": "0", "gru": "rnn", "ppo": "mlp_extractor.policy_net.0", "dqn": "q_net.0"}


def make_fault(kind: str, name: str, seed: int) -> Fault | None:
    """Return a fault for a network, ``None`` where its kind does not fit; the seed moves the onset."""
    onset = 5 + seed % 4
    if kind == "killed units" and name == "gru":
        return None
    if kind in ("rate x300", "rate 0", "biases reset"):
        return Fault(kind, onset)
    return Fault(kind, onset, FIRST[name] if kind == "waking inputs" else LAYERS[name])


def train(name: str, folder: Path, fault: Fault | None, seed: int) -> Path:
    """Train a run of either sort and return its folder."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    if name in AGENTS:
        train_agent(name, folder, fault, seed)
    else:
        train_plain(name, folder, fault, seed)
    return folder
