"""Optimizers whose state has other shapes than the parameters: preconditioners and low-rank moments, shortened.

The names in their states are those of the published packages.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.healthy_models.vector_optimizers import Stepped

RANK = 4
"""Directions that the moments of a low-rank optimizer have."""


def adam_step(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Update the moments in a state by a gradient, and return the direction that Adam goes in."""
    if "exp_avg" not in state:
        state.update(exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
    state["step"] = state.get("step", 0) + 1
    state["exp_avg"].lerp_(gradient, 0.1)
    state["exp_avg_sq"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    correction = math.sqrt(1 - 0.999 ** state["step"]) / (1 - 0.9 ** state["step"])
    return correction * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)


class GaLoreProjector:
    """The directions in which the gradients of a matrix are largest."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ortho_matrix: Tensor | None = None

    def project(self, gradient: Tensor, is_due: bool) -> Tensor:
        if self.ortho_matrix is None or is_due:
            self.ortho_matrix = torch.linalg.svd(gradient, full_matrices=False).U[:, : self.rank].clone()
        return self.ortho_matrix.T @ gradient

    def project_back(self, low_rank: Tensor) -> Tensor:
        assert self.ortho_matrix is not None
        return self.ortho_matrix @ low_rank


class GaLore(Stepped):
    """Adam in the leading directions of every matrix's gradient (Zhao et al., 2024)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if parameter.ndim != 2:
            parameter.sub_(adam_step(gradient, state), alpha=group["lr"])
            return
        projector = state.setdefault("projector", GaLoreProjector(RANK))
        low_rank = projector.project(gradient, state.get("step", 0) % 50 == 0)
        parameter.sub_(projector.project_back(adam_step(low_rank, state)), alpha=group["lr"])


class Apollo(Stepped):
    """Scales the columns of a gradient by what Adam does to a random projection of it (Zhu et al., 2024)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if parameter.ndim != 2:
            parameter.sub_(adam_step(gradient, state), alpha=group["lr"])
            return
        generator = torch.Generator().manual_seed(state.setdefault("seed", parameter.numel()))
        projection = torch.randn(RANK, len(parameter), generator=generator) / math.sqrt(RANK)
        low_rank = projection @ gradient
        scale = adam_step(low_rank, state).norm(dim=0) / (low_rank.norm(dim=0) + 1e-8)
        parameter.sub_(gradient * scale, alpha=group["lr"])


def inverse_root(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=1e-8) ** power) @ vectors.T


class Shampoo(Stepped):
    """Preconditions every axis of a gradient (Gupta et al., 2018)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = 0
            state["momentum_buffer"] = gradient.clone()
            for axis, size in enumerate(parameter.shape):
                state[f"precond_{axis}"] = 1e-4 * torch.eye(size)
                state[f"inv_precond_{axis}"] = torch.zeros(size, size)
        state["momentum_buffer"].lerp_(gradient, 0.1)
        direction = state["momentum_buffer"]
        for axis, size in enumerate(parameter.shape):
            rows = gradient.transpose(0, axis).reshape(size, -1)
            state[f"precond_{axis}"].add_(rows @ rows.T)
            if state["step"] % 20 == 0:
                state[f"inv_precond_{axis}"].copy_(inverse_root(state[f"precond_{axis}"], -0.5 / parameter.ndim))
            direction = torch.tensordot(direction, state[f"inv_precond_{axis}"], dims=[[0], [0]])
        state["step"] += 1
        parameter.sub_(direction, alpha=group["lr"])


class Soap(Stepped):
    """Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al., 2024). Its first step makes the basis only."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if parameter.ndim != 2:
            parameter.sub_(adam_step(gradient, state), alpha=group["lr"])
            return
        products = [gradient @ gradient.T, gradient.T @ gradient]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
            state.update(GG=[0.05 * each for each in products], precondition_frequency=10, shampoo_beta=0.95)
            state["Q"] = [torch.linalg.eigh(each).eigenvectors for each in state["GG"]]
            return
        left, right = state["Q"]
        step = adam_step(left.T @ gradient @ right, state)
        parameter.sub_(left @ step @ right.T, alpha=group["lr"])
        for average, product in zip(state["GG"], products, strict=True):
            average.lerp_(product, 0.05)
        if state["step"] % state["precondition_frequency"] == 0:
            state["Q"] = [torch.linalg.eigh(each).eigenvectors for each in state["GG"]]


class MuonWithAuxiliaryAdam(Stepped):
    """Orthogonal steps for the matrices of some groups, Adam for the rest (Jordan et al., 2024)."""

    def advance(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not group["use_muon"]:
            parameter.sub_(adam_step(gradient, state), alpha=group["lr"])
            return
        momentum = state.setdefault("momentum_buffer", torch.zeros_like(parameter)).lerp_(gradient, 0.05)
        left, _, right = torch.linalg.svd(gradient.lerp(momentum, 0.95), full_matrices=False)
        parameter.sub_(left @ right, alpha=group["lr"] * max(1, len(parameter) / parameter.shape[1]) ** 0.5)
