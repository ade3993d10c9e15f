"""Records what flows through a network while it is trained: the truth that the signal profile is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
OBSERVED = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, *RECURRENT)
"""Modules whose inputs are recorded. PyTorch's attention does not call its ``out_proj``, so that one is never seen."""


@dataclass
class RunningSquares:
    """A running mean of squares, with the optimizer's own decay: recent updates count as they do in its moments."""

    decay: float
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    weight: float = 0.0

    def add(self, squares: Tensor) -> None:
        """Add the mean squares of one update."""
        self.mean = self.decay * self.mean + (1.0 - self.decay) * squares
        self.weight = self.decay * self.weight + (1.0 - self.decay)

    @property
    def rms(self) -> Tensor:
        """The root of the mean, corrected for its start at zero."""
        return (self.mean / max(self.weight, 1e-300)).sqrt()


@dataclass
class Truth:
    """What was recorded of one module."""

    inputs: RunningSquares
    """Of each input feature."""
    hidden: RunningSquares
    """Of the hidden state that a recurrent module reads."""
    gradient: RunningSquares
    """Of the gradient of its bias: that of the batch's loss with respect to its output."""

    @property
    def input_rms(self) -> float:
        """Over all features."""
        return sqrt(float(self.inputs.rms.square().mean()))


class Recorder:
    """Hooks into modules and their optimizers; ``truths`` has what was seen, by the modules' names."""

    def __init__(self, model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
        self.truths: dict[str, Truth] = {}
        self._waiting: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
        self._modules: Mapping[str, nn.Module] = {
            name: module for name, module in model.named_modules() if isinstance(module, OBSERVED)
        }
        for name, module in self._modules.items():
            module.register_forward_hook(self._note(name))
        for optimizer in optimizers:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            names = [name for name, module in self._modules.items() if id(_weight_of(module)) in held]
            optimizer.register_step_pre_hook(self._fold(names, _decay_of(optimizer)))

    def _note(self, name: str):
        def note(module: nn.Module, arguments: tuple, output: object) -> None:
            if not torch.is_grad_enabled():
                return
            x = arguments[0].detach()
            channels = x.transpose(0, 1) if isinstance(module, nn.Conv2d) else x.movedim(-1, 0)
            hidden = _hidden_squares(output[0].detach()) if isinstance(module, RECURRENT) else None
            squares = channels.flatten(1).double().square().mean(dim=1)
            self._waiting.setdefault(name, []).append((squares, hidden))

        return note

    def _fold(self, names: list[str], decay: float):
        def fold(optimizer: Optimizer, arguments: tuple, options: dict) -> None:
            for name in names:
                seen = self._waiting.pop(name, [])
                bias = _bias_of(self._modules[name])
                if not seen or _weight_of(self._modules[name]).grad is None:
                    continue
                truth = self.truths.setdefault(name, Truth(*(RunningSquares(decay) for _ in range(3))))
                truth.inputs.add(torch.stack([squares for squares, _ in seen]).mean(dim=0))
                if seen[0][1] is not None:
                    truth.hidden.add(torch.stack([hidden for _, hidden in seen]).mean())
                if bias is not None and bias.grad is not None:
                    truth.gradient.add(bias.grad.double().square().mean())

        return fold


def _hidden_squares(output: Tensor) -> Tensor:
    """Return the mean square of the states before each step, of [batch, time, hidden]; the first one is zero."""
    return output[:, :-1].double().square().sum() / output.numel()


def _weight_of(module: nn.Module) -> Tensor:
    if isinstance(module, RECURRENT):
        return module.weight_ih_l0
    return module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight


def _bias_of(module: nn.Module) -> Tensor | None:
    if isinstance(module, RECURRENT):
        return module.bias_ih_l0
    return module.in_proj_bias if isinstance(module, nn.MultiheadAttention) else module.bias


def _decay_of(optimizer: Optimizer) -> float:
    options = optimizer.param_groups[0]
    return options["betas"][1] if "betas" in options else options["alpha"]
