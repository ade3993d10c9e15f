"""Weights that are zero on purpose: pruned by size, by pattern, by penalty, or sparse from the start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, state_dict
from tests.zoo.tasks import CLASSES, clusters, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron

Mask = Callable[[Tensor], Tensor]


def smallest(share: float) -> Mask:
    """Keep all but the smallest weights."""
    return lambda weight: weight.abs() > weight.abs().flatten().quantile(share)


def two_of_four(weight: Tensor) -> Tensor:
    """Keep the two largest of every four weights in a row."""
    fours = weight.abs().view(-1, 4)
    return torch.zeros_like(fours).scatter(1, fours.topk(2).indices, 1.0).view_as(weight).bool()


def trained_on_after_pruning(places: tuple[int, ...], mask: Mask, new_optimizer: bool) -> Run:
    """Prune the layers at some places halfway, and train on with the same optimizer or a new one."""
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = squared_error(model, smooth_functions(16, 4))
    before = fit(model, optimizer, loss, steps=250)
    kept = {place: mask(model[place].weight.detach()) for place in places}

    @torch.no_grad()
    def keep_pruned() -> None:
        for place, kept_weights in kept.items():
            model[place].weight.mul_(kept_weights)

    keep_pruned()
    if new_optimizer:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    after = fit(model, optimizer, loss, steps=250, after_step=keep_pruned)
    beginning = after.beginning if new_optimizer else None
    return Run(model, after.optimizers, before.losses + after.losses, beginning)


@healthy()
def pruned_by_magnitude() -> Run:
    return trained_on_after_pruning((0, 2, 4), smallest(0.7), False)


@healthy()
def one_layer_pruned_by_half() -> Run:
    return trained_on_after_pruning((2,), smallest(0.5), False)


@healthy()
def one_layer_pruned_a_little() -> Run:
    return trained_on_after_pruning((2,), smallest(0.2), True)


@healthy()
def two_of_four_sparse() -> Run:
    return trained_on_after_pruning((0, 2), two_of_four, True)


@healthy(lightning, suffix=".ckpt")
def two_of_four_sparse_in_one_layer() -> Run:
    return trained_on_after_pruning((2,), two_of_four, False)


@healthy()
def pruned_with_masks_in_the_file() -> Run:
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    loss = squared_error(model, smooth_functions(16, 4))
    before = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), loss, steps=250)
    prune.l1_unstructured(model[2], "weight", amount=0.6)
    losses = []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(200):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return Run(model, (optimizer,), before.losses + losses)


@healthy(state_dict, suffix=".pth")
def units_pruned() -> Run:
    """Whole units are gone: their rows, their biases and the next layer's columns."""
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    run = fit(
        model, torch.optim.Adam(model.parameters(), lr=2e-3), squared_error(model, smooth_functions(16, 4)), steps=400
    )
    with torch.no_grad():
        strength = model[0].weight.norm(dim=1) * model[2].weight.norm(dim=0)
        gone = strength.argsort()[:30]
        model[0].weight[gone] = 0.0
        model[0].bias[gone] = 0.0
        model[2].weight[:, gone] = 0.0
    return Run(model, (), run.losses)


@healthy()
def rigged_lottery() -> Run:
    """RigL: a tenth of the connections, of which the weakest are replaced now and then (Evci et al., 2020)."""
    model = perceptron(nn.ReLU, 16, 128, 128, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = squared_error(model, smooth_functions(16, 4))
    weights = [model[0].weight, model[2].weight]
    masks = [torch.rand_like(each) < 0.2 for each in weights]
    updates = 0

    @torch.no_grad()
    def reconnect() -> None:
        nonlocal updates
        updates += 1
        for weight, mask in zip(weights, masks, strict=True):
            if updates % 50 == 0 and updates < 300:
                count = int(mask.sum()) // 5
                weakest = torch.where(mask, weight.abs(), torch.inf).flatten().argsort()[:count]
                strongest = torch.where(mask, -1.0, weight.grad.abs()).flatten().argsort(descending=True)[:count]
                mask.view(-1)[weakest] = False
                mask.view(-1)[strongest] = True
            weight.mul_(mask)

    reconnect()
    return fit(model, optimizer, loss, steps=500, after_step=reconnect)


@healthy()
def proximal_penalty() -> Run:
    """A penalty on the first layer's weights whose step sets small ones to exactly zero."""
    model = perceptron(nn.ReLU, 40, 64, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    @torch.no_grad()
    def shrink() -> None:
        model[0].weight.copy_(nn.functional.softshrink(model[0].weight, 0.0008))

    return fit(model, optimizer, cross_entropy(model, clusters(40, spread=1.5)), steps=300, after_step=shrink)


@healthy()
def big_pruned_classifier() -> Run:
    """Only the large first linear layer of a CNN was pruned, as it holds most of the weights."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 96), nn.ReLU()),
        nn.Linear(96, CLASSES),
    )
    loss = cross_entropy(model, gratings())
    before = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), loss, steps=100)
    kept = smallest(0.9)(model[3].weight.detach())

    @torch.no_grad()
    def keep_pruned() -> None:
        model[3].weight.mul_(kept)

    keep_pruned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    after = fit(model, optimizer, loss, steps=100, after_step=keep_pruned)
    return Run(model, after.optimizers, before.losses + after.losses)


class NeighboursOnly(nn.Module):
    """A layer whose connections are fixed by a graph: everything else is masked out in every forward pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / 4)
        self.bias = nn.Parameter(torch.zeros(width))
        distance = (torch.arange(width)[:, None] - torch.arange(width)).abs()
        self.register_buffer("adjacency", (distance < width // 8).float())
        with torch.no_grad():
            self.weight.mul_(self.adjacency)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.adjacency, self.bias)


@healthy()
def masked_connections() -> Run:
    """As in MADE: the mask is a buffer, and what it hides is zero and never gets a gradient."""
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), NeighboursOnly(64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)
