"""Optimizers that PyTorch lacks and whose state is one or more vectors for each parameter, shortened to the essential.

The names in their states are those of the published packages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Stepped(Optimizer):
    """An optimizer that treats one parameter after the other."""

    def __init__(self, params: Iterable[Tensor], lr: float, **defaults: Any) -> None:
        super().__init__(params, {"lr": lr, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            self.begin(group)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.advance(parameter, parameter.grad, self.state[parameter], group)

    def begin(self, group: dict[str, Any]) -> None:
        """Do what comes before the parameters of a group."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def with_gradient(self) -> Iterator[tuple[Tensor, Tensor]]:
        for group in self.param_groups:
            yield from ((each, each.grad) for each in group["params"] if each.grad is not None)


class Lion(Stepped):
    """The sign of an interpolated momentum (Chen et al., 2023)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        average = state.setdefault("exp_avg", torch.zeros_like(parameter))
        parameter.mul_(1 - group["lr"] * 0.01).sub_(group["lr"] * average.lerp(gradient, 0.1).sign())
        average.lerp_(gradient, 0.01)


class Prodigy(Stepped):
    """Adam that estimates its learning rate from how far it has come (Mishchenko and Defazio, 2023)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0) -> None:
        super().__init__(params, lr, betas=(0.9, 0.999), d=1e-6, d0=1e-6, d_max=1e-6, d_numerator=0.0, k=0)

    def begin(self, group: dict[str, Any]) -> None:
        d, beta = group["d"], group["betas"][1]
        group["d_numerator"] *= math.sqrt(beta)
        distance = 0.0
        for parameter, gradient in self.with_gradient():
            state = self.state[parameter]
            if not state:
                state.update(step=0, s=torch.zeros_like(parameter), p0=parameter.clone())
                state.update(exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
            group["d_numerator"] += d / group["d0"] * d * float((gradient * (state["p0"] - parameter)).sum())
            state["s"].mul_(math.sqrt(beta)).add_(gradient, alpha=d / group["d0"] * d)
            state["exp_avg"].mul_(0.9).add_(gradient, alpha=d * 0.1)
            state["exp_avg_sq"].mul_(beta).addcmul_(gradient, gradient, value=d * d * (1 - beta))
            distance += float(state["s"].abs().sum())
        if distance > 0:
            group["d_max"] = max(group["d_max"], group["d_numerator"] / distance)
            group["d"] = max(d, group["d_max"])
        group["k"] += 1

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] += 1
        correction = math.sqrt(1 - 0.999 ** group["k"]) / (1 - 0.9 ** group["k"])
        denominator = state["exp_avg_sq"].sqrt().add_(group["d"] * 1e-8)
        parameter.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] * group["d"] * correction)


class ScheduleFree(Stepped):
    """AdamW that averages its iterates instead of lowering its rate (Defazio et al., 2024)."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr, betas=(0.9, 0.999), k=0, train_mode=True, weight_sum=0.0, lr_max=-1.0)

    def begin(self, group: dict[str, Any]) -> None:
        group["k"] += 1
        group["lr_max"] = max(group["lr"], group["lr_max"])
        group["weight_sum"] += group["lr_max"] ** 2

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(z=parameter.clone(), exp_avg_sq=torch.zeros_like(parameter))
        share = group["lr_max"] ** 2 / group["weight_sum"]
        state["exp_avg_sq"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        denominator = (state["exp_avg_sq"] / (1 - 0.999 ** group["k"])).sqrt_().add_(1e-8)
        step = gradient / denominator
        parameter.lerp_(state["z"], share).add_(step, alpha=group["lr"] * (0.9 * (1 - share) - 1))
        state["z"].sub_(step, alpha=group["lr"])


class Novograd(Stepped):
    """Momentum of gradients scaled by one second moment for each layer (Ginsburg et al., 2019)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        square = gradient.square().sum()
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=square.clone())
        state["step"] += 1
        state["exp_avg_sq"].lerp_(square, 0.02)
        state["exp_avg"].mul_(0.95).add_(gradient / (state["exp_avg_sq"].sqrt() + 1e-8))
        parameter.sub_(state["exp_avg"], alpha=group["lr"])


class AdamMini(Stepped):
    """Adam with one second moment for each row (Zhang et al., 2024)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        square = gradient.square()
        square = square.flatten(1).mean(1) if square.ndim > 1 else square.mean()
        if not state:
            state.update(step=0, m=torch.zeros_like(parameter), vmean=torch.zeros_like(square))
        state["step"] += 1
        state["m"].lerp_(gradient, 0.1)
        state["vmean"].lerp_(square, 0.001)
        size = (state["vmean"] / (1 - 0.999 ** state["step"])).sqrt().add_(1e-8)
        size = size.view(-1, *[1] * (parameter.ndim - 1)) if parameter.ndim > 1 else size
        parameter.sub_(state["m"] / size / (1 - 0.9 ** state["step"]), alpha=group["lr"])


class Sm3(Stepped):
    """Keeps the largest squares along every axis instead of for every entry (Anil et al., 2019)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, momentum_buffer=torch.zeros_like(parameter))
            for axis, size in enumerate(parameter.shape):
                shape = [size if other == axis else 1 for other in range(parameter.ndim)]
                state[f"accumulator_{axis}"] = torch.zeros(shape)
        state["step"] += 1
        bound = state["accumulator_0"]
        for axis in range(1, parameter.ndim):
            bound = torch.minimum(bound, state[f"accumulator_{axis}"])
        square = bound + gradient.square()
        for axis in range(parameter.ndim):
            others = [other for other in range(parameter.ndim) if other != axis]
            state[f"accumulator_{axis}"] = square.amax(others, keepdim=True) if others else square
        state["momentum_buffer"].lerp_(gradient / (square.sqrt() + 1e-8), 0.1)
        parameter.sub_(state["momentum_buffer"], alpha=group["lr"])


class Amos(Stepped):
    """Second moments and decays of a reduced shape (Tian and Parikh, 2022)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        reduced = gradient.square().mean(0, keepdim=True) if gradient.ndim > 1 else gradient.square().mean(0, True)
        if not state:
            state.update(step=0, exp_avg_sq=torch.zeros_like(reduced), decay=torch.zeros_like(reduced))
        state["step"] += 1
        state["exp_avg_sq"].lerp_(reduced, 0.01)
        size = (state["exp_avg_sq"] / (1 - 0.99 ** state["step"])).clamp(min=1e-18)
        slowed = 1 / (1 + 0.5 * state["decay"])
        state["decay"].add_(group["lr"] * slowed**2)
        parameter.sub_(group["lr"] * slowed * gradient / size.sqrt())


class Spam(Stepped):
    """Adam on a random part of every matrix, which is drawn anew now and then (Huang et al., 2025).

    The moments have the shape of that part alone.
    """

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if state.get("step", 0) % 50 == 0:
            mask = torch.rand_like(parameter) < 0.5 if parameter.ndim > 1 else torch.ones_like(parameter).bool()
            state.update(step=0, mask=mask, exp_avg=torch.zeros_like(parameter[mask]))
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
        state["step"] += 1
        part = gradient[state["mask"]]
        state["exp_avg"].lerp_(part, 0.1)
        state["exp_avg_sq"].mul_(0.999).addcmul_(part, part, value=0.001)
        correction = math.sqrt(1 - 0.999 ** state["step"]) / (1 - 0.9 ** state["step"])
        parameter[state["mask"]] -= group["lr"] * correction * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)


class FlatAdam:
    """Holds all parameters as one vector, of which the model's parameters are views, as sharding wrappers do."""

    @staticmethod
    def over(model: nn.Module, lr: float) -> torch.optim.Adam:
        vector = nn.Parameter(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        vector.grad, start = torch.zeros_like(vector), 0
        for parameter in model.parameters():
            end = start + parameter.numel()
            parameter.data = vector.data[start:end].view_as(parameter)
            parameter.grad = vector.grad[start:end].view_as(parameter)
            start = end
        return torch.optim.Adam([vector], lr=lr)
