"""More optimizers that PyTorch lacks, with the names of their published states, shortened to the essential."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.healthy_models.vector_optimizers import Stepped

State = dict[str, Any]


def average(state: State, key: str, value: Tensor, share: float) -> Tensor:
    """Move a running average that begins at zero towards a value, and return it."""
    return state.setdefault(key, torch.zeros_like(value)).lerp_(value, share)


class Lamb(Stepped):
    """Adam whose step has the size of the layer's weights (You et al., 2020)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", 0) + 1
        first = average(state, "exp_avg", gradient, 0.1)
        step = first / (average(state, "exp_avg_sq", gradient.square(), 0.001).sqrt() + 1e-6)
        ratio = float(parameter.norm().clamp(0, 10)) / float(step.norm() + 1e-12)
        parameter.sub_(group["lr"] * (ratio or 1.0) * step)


class Lars(Stepped):
    """Momentum whose step has the size of the layer's weights (You et al., 2017)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        ratio = 1.0
        if parameter.ndim > 1 and float(parameter.norm()) > 0:
            ratio = 0.02 * float(parameter.norm()) / float(gradient.norm() + 1e-12)
        momentum = state.setdefault("mu", torch.zeros_like(parameter)).mul_(0.9).add_(ratio * gradient)
        parameter.sub_(group["lr"] * momentum)


class AdaBelief(Stepped):
    """Adam that divides by how far gradients are from their average (Zhuang et al., 2020)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", 0) + 1
        first = average(state, "exp_avg", gradient, 0.1)
        variance = average(state, "exp_avg_var", (gradient - first).square(), 0.001).add_(1e-16)
        correction = (1 - 0.999 ** state["step"]) ** 0.5 / (1 - 0.9 ** state["step"])
        parameter.addcdiv_(first, variance.sqrt() + 1e-8, value=-group["lr"] * correction)


class Adan(Stepped):
    """Adam with an average of how gradients change (Xie et al., 2022)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        change = gradient - state.get("neg_pre_grad", -gradient).neg()
        first, difference = average(state, "exp_avg", gradient, 0.02), average(state, "exp_avg_diff", change, 0.08)
        second = average(state, "exp_avg_sq", (gradient + 0.92 * change).square(), 0.01)
        state["neg_pre_grad"] = -gradient.clone()
        parameter.addcdiv_(first + 0.92 * difference, second.sqrt() + 1e-8, value=-group["lr"])


class AdEmaMix(Stepped):
    """Adam with a second, much slower first moment (Pagliardini et al., 2024)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", 0) + 1
        fast, slow = average(state, "exp_avg_fast", gradient, 0.1), average(state, "exp_avg_slow", gradient, 0.001)
        second = average(state, "exp_avg_sq", gradient.square(), 0.001) / (1 - 0.999 ** state["step"])
        parameter.addcdiv_(fast / (1 - 0.9 ** state["step"]) + 5 * slow, second.sqrt() + 1e-8, value=-group["lr"])


class Sophia(Stepped):
    """Momentum over a clipped estimate of the curvature, which is made every ten steps (Liu et al., 2023)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", torch.tensor(0.0)) + 1
        first = average(state, "exp_avg", gradient, 0.035)
        state.setdefault("hessian", torch.zeros_like(parameter))
        if int(state["step"]) % 10 == 1:
            average(state, "hessian", gradient.square(), 0.01)
        parameter.sub_(group["lr"] * (first.abs() / (6 * state["hessian"] + 1e-15)).clamp(max=1) * first.sign())


class Came(Stepped):
    """Factored second moments and a factored confidence in the step (Luo et al., 2023)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", 0) + 1
        step = gradient * self.inverse_root(state, "exp_avg_sq", gradient.square() + 1e-30)
        step = step / (step.square().mean().sqrt()).clamp(min=1.0)
        first = average(state, "exp_avg", step, 0.1)
        residual = (step - first).square() + 1e-16
        if parameter.ndim > 1:
            first = first * self.inverse_root(state, "exp_avg_res", residual)
        parameter.sub_(group["lr"] * first)

    def inverse_root(self, state: State, key: str, square: Tensor) -> Tensor:
        if square.ndim < 2:
            return average(state, key, square, 0.001).rsqrt()
        flat = square.flatten(1)
        rows = average(state, f"{key}_row", flat.mean(1), 0.001)
        columns = average(state, f"{key}_col", flat.mean(0), 0.001)
        return (torch.outer(rows / rows.mean(), columns)).rsqrt().view_as(square)


class QuantizedAdam(Stepped):
    """Adam with moments of eight bits in blocks, as bitsandbytes saves them (Dettmers et al., 2022)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        if not state:
            codes = torch.zeros(parameter.shape, dtype=torch.uint8)
            state.update(step=0, state1=codes + 128, state2=codes.clone())
            state.update(qmap1=torch.linspace(-1, 1, 256), qmap2=torch.linspace(0, 1, 256).square())
            state.update(absmax1=torch.zeros(1), absmax2=torch.zeros(1))
        state["step"] += 1
        first = (state["qmap1"][state["state1"].long()] * state["absmax1"]).lerp_(gradient, 0.1)
        second = (state["qmap2"][state["state2"].long()] * state["absmax2"]).lerp_(gradient.square(), 0.01)
        parameter.addcdiv_(first, second.sqrt() + 0.01 * second.amax().sqrt() + 1e-8, value=-group["lr"])
        for number, value in (("1", first), ("2", second)):
            state[f"absmax{number}"] = value.abs().amax().view(1)
            places = torch.bucketize(value / state[f"absmax{number}"].clamp(min=1e-30), state[f"qmap{number}"])
            state[f"state{number}"] = places.clamp(max=255).to(torch.uint8)


class Lookahead(Stepped):
    """Adam whose weights return half of the way every five steps (Zhang et al., 2019)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: State, group: State) -> None:
        state["step"] = state.get("step", 0) + 1
        slow = state.setdefault("slow_buffer", parameter.clone())
        first = average(state, "exp_avg", gradient, 0.1)
        second = average(state, "exp_avg_sq", gradient.square(), 0.001)
        correction = (1 - 0.999 ** state["step"]) ** 0.5 / (1 - 0.9 ** state["step"])
        parameter.addcdiv_(first, second.sqrt() + 1e-8, value=-group["lr"] * correction)
        if state["step"] % 5 == 0:
            parameter.copy_(slow.lerp_(parameter, 0.5))
