"""Parts of a model whose turn has not come: heads, stages, towers and offsets."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.images import ResNet
from tests.zoo.saving import lightning, state_dict
from tests.zoo.tasks import BATCH, CLASSES, SIDE, blobs, clusters, cross_entropy, gratings, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


def zero(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SeveralTasks(nn.Module):
    """A trunk with four heads, of which a schedule has reached one or two."""

    def __init__(self, zero_heads: bool, hidden_heads: bool = False) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList(
            perceptron(nn.ReLU, 64, 32, CLASSES) if hidden_heads else nn.Linear(64, CLASSES) for _ in range(4)
        )
        if zero_heads:
            for head in self.heads:
                zero(head[-1] if hidden_heads else head)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](self.trunk(x))


def first_of_several(model: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=250)


@healthy()
def heads_that_wait() -> Run:
    model = SeveralTasks(zero_heads=False)
    return first_of_several(model, torch.optim.Adam(model.parameters(), lr=1e-3))


@healthy()
def zero_heads_that_wait_adamw() -> Run:
    model = SeveralTasks(zero_heads=True)
    return first_of_several(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


@healthy()
def zero_heads_that_wait_sgd() -> Run:
    model = SeveralTasks(zero_heads=True)
    return first_of_several(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


@healthy()
def zero_heads_that_wait_adagrad() -> Run:
    model = SeveralTasks(zero_heads=True)
    return first_of_several(model, torch.optim.Adagrad(model.parameters(), lr=0.02))


@healthy(lightning, suffix=".ckpt")
def hidden_heads_that_wait() -> Run:
    model = SeveralTasks(zero_heads=True, hidden_heads=True)
    return first_of_several(model, torch.optim.Adam(model.parameters(), lr=1e-3))


@healthy()
def heads_outside_the_optimizer() -> Run:
    """The optimizer was built for the first task alone."""
    model = SeveralTasks(zero_heads=True)
    trained = [*model.trunk.parameters(), *model.heads[0].parameters()]
    return first_of_several(model, torch.optim.Adam(trained, lr=1e-3))


class Growing(nn.Module):
    """Residual stages that are switched on one after the other; two of four have been so far."""

    def __init__(self, last_layers_zero: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 48)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48)) for _ in range(4)
        )
        if last_layers_zero:
            for stage in self.stages:
                zero(stage[-1])
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages[:2]:
            x = x + stage(x)
        return self.head(x)


@healthy()
def stages_that_wait() -> Run:
    model = Growing(last_layers_zero=False)
    return first_of_several(model, torch.optim.Adam(model.parameters(), lr=1e-3))


@healthy()
def zero_stages_that_wait() -> Run:
    model = Growing(last_layers_zero=True)
    return first_of_several(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


class GrowingCnn(nn.Module):
    """Convolutional stages with batch norms; the second stage is for larger images, which come later."""

    def __init__(self, zero_gains: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        if zero_gains:
            nn.init.zeros_(self.second[1].weight)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.first(image).mean((2, 3)))


@healthy()
def batch_norm_of_a_later_stage() -> Run:
    model = GrowingCnn(zero_gains=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


@healthy()
def zero_gain_of_a_later_stage() -> Run:
    model = GrowingCnn(zero_gains=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


class DeformableConvolution(nn.Module):
    """Samples where an offset says, which begins at zero (Dai et al., 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_offset = zero(nn.Conv2d(width, 2, 3, padding=1))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, moves: bool) -> Tensor:
        if moves:
            places = functional.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)
            x = functional.grid_sample(x, places + self.conv_offset(x).permute(0, 2, 3, 1), align_corners=False)
        return self.conv(x)


class DeformableCnn(nn.Module):
    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.moves = moves
        self.stem, self.deformable = nn.Conv2d(1, 12, 3, padding=1), DeformableConvolution(12)
        self.output = nn.Conv2d(12, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(torch.relu(self.deformable(torch.relu(self.stem(image)), self.moves)))


@healthy()
def offsets_in_use() -> Run:
    model = DeformableCnn(moves=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, blobs()), steps=200)


@healthy()
def offsets_that_wait() -> Run:
    """The first epochs run without offsets."""
    model = DeformableCnn(moves=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, blobs()), steps=200)


@healthy()
def frozen_backbone_in_the_optimizer() -> Run:
    """All parameters were passed to the optimizer, and the backbone never gets a gradient."""
    model = ResNet()
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), cross_entropy(model, gratings(3)), steps=60)
    model.requires_grad_(False).eval()
    model.fc = nn.Linear(16, CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return fit(model, optimizer, cross_entropy(model, gratings(3, noise=0.8)), steps=150)


class TwoTowers(nn.Module):
    """Images and captions; at first the text tower is locked (Zhai et al., 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = perceptron(nn.GELU, SIDE**2, 64, 16), nn.Embedding(CLASSES, 16).requires_grad_(False)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor) -> Tensor:
        seen = functional.normalize(self.image(image.flatten(1)), dim=1)
        return self.logit_scale.exp() * seen @ functional.normalize(self.text.weight, dim=1).T


@healthy()
def locked_text_tower() -> Run:
    model = TwoTowers()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=250)


@healthy(state_dict, suffix=".pth")
def class_never_seen() -> Run:
    """A head with a hundred rows, as pretrained nets have it; the data have four classes."""
    model = perceptron(nn.ReLU, 16, 64, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=300)


class Detector(nn.Module):
    """A head for boxes that only images with objects train; no image so far has had one of the rare kind."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(nn.ReLU, 16, 64, 64)
        self.kinds = nn.ModuleList(zero(nn.Linear(64, 4)) for _ in range(6))

    def loss(self, x: Tensor, kind: Tensor, box: Tensor) -> Tensor:
        hidden = torch.relu(self.trunk(x))
        parts = [
            (head(hidden[kind == number]) - box[kind == number]).square().mean()
            for number, head in enumerate(self.kinds)
            if (kind == number).any()
        ]
        return torch.stack(parts).mean()


@healthy()
def rare_kinds_of_boxes() -> Run:
    model, (boxes, maps) = Detector(), (torch.randn(4, 4), torch.randn(16, 4) / 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = clusters(16)

    def loss() -> Tensor:
        x, kind = batches()
        return model.loss(x, kind, boxes[kind] + x @ maps + 0.05 * torch.randn(BATCH, 4))

    return fit(model, optimizer, loss, steps=400)


@healthy()
def branch_copied_for_later() -> Run:
    """A second trunk is a copy of the first one, made to be trained in the next stage."""
    model = nn.ModuleDict({"trunk": perceptron(nn.ReLU, 16, 64, 64), "head": nn.Linear(64, CLASSES)})
    model["next_trunk"] = copy.deepcopy(model["trunk"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def forward(x: Tensor) -> Tensor:
        return model["head"](torch.relu(model["trunk"](x)))

    return fit(model, optimizer, cross_entropy(forward, clusters(16)), steps=250)
