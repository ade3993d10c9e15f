"""Adapters on a frozen model, as peft names them: fresh, trained, and one of several in use."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import state_dict
from tests.zoo.tasks import smooth_functions, squared_error
from tests.zoo.training import Run, before_training, fit
from tests.zoo.vectors import perceptron

ROTATED = 0.3
"""How far the inputs of the new task are from those of the old one."""


class Adapter(nn.Module):
    """The low-rank product that peft puts beside a layer, under the names of adapters."""

    def __init__(self, base_layer: nn.Linear, names: tuple[str, ...], rank: int = 4, magnitude: bool = False) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        inputs, outputs = base_layer.in_features, base_layer.out_features
        self.lora_A = nn.ModuleDict({name: nn.Linear(inputs, rank, bias=False) for name in names})
        self.lora_B = nn.ModuleDict({name: nn.Linear(rank, outputs, bias=False) for name in names})
        for each in self.lora_B.values():
            nn.init.zeros_(each.weight)
        if magnitude:
            norms = base_layer.weight.norm(dim=1)
            self.lora_magnitude_vector = nn.ParameterDict({name: norms.clone() for name in names})
        self.active = names[0]

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.lora_A[self.active], self.lora_B[self.active]
        if not hasattr(self, "lora_magnitude_vector"):
            return self.base_layer(x) + 2.0 * up(down(x))
        # DoRA: the direction is that of the sum, the magnitude of every row is a parameter (Liu et al., 2024).
        weight = self.base_layer.weight + 2.0 * up.weight @ down.weight
        scale = self.lora_magnitude_vector[self.active] / weight.norm(dim=1).detach()
        return functional.linear(x, scale.unsqueeze(1) * weight, self.base_layer.bias)


def pretrained() -> tuple[nn.Sequential, object]:
    model, batches = perceptron(nn.GELU, 16, 64, 64, 4), smooth_functions(16, 4)
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), squared_error(model, batches), steps=300)
    return model, batches


def adapt(model: nn.Module, batches, steps: int = 300, lr: float = 5e-3) -> Run:
    """Train what is not frozen for the old task, seen through rotated inputs."""
    rotation = torch.linalg.qr(torch.eye(16) + ROTATED * torch.randn(16, 16)).Q
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=lr)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x @ rotation), y)

    return fit(model, optimizer, loss, steps)


def adapted(names: tuple[str, ...], places: tuple[int, ...] = (0, 2, 4), magnitude: bool = False) -> Run:
    model, batches = pretrained()
    for place in places:
        model[place] = Adapter(model[place], names, magnitude=magnitude)
    model.requires_grad_(False)
    for place in places:
        adapter = model[place]
        for part in (adapter.lora_A, adapter.lora_B, *([adapter.lora_magnitude_vector] if magnitude else [])):
            part.requires_grad_(True)
    return adapt(model, batches)


@healthy()
def lora_named_as_in_peft() -> Run:
    return adapted(("default",))


@healthy()
def lora_of_which_one_is_in_use() -> Run:
    return adapted(("first", "second"))


@healthy()
def dora() -> Run:
    return adapted(("default",), magnitude=True)


def adapter_alone(run: Run, path: Path) -> None:
    """Save the adapter's tensors alone, as peft does."""
    state = {f"base_model.model.{name}": value for name, value in run.model.state_dict().items() if "lora_" in name}
    torch.save({name.replace(".default", ""): value for name, value in state.items()}, path)


@healthy(adapter_alone, suffix=".bin")
def lora_saved_alone() -> Run:
    return adapted(("default",))


class Bottleneck(nn.Module):
    """A small bottleneck behind a frozen layer, whose upward projection begins at zero (Houlsby et al., 2019)."""

    def __init__(self, layer: nn.Linear, size: int = 6) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.adapter_down, self.adapter_up = nn.Linear(layer.out_features, size), nn.Linear(size, layer.out_features)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        return hidden + self.adapter_up(functional.gelu(self.adapter_down(hidden)))


@healthy()
def bottleneck_adapters() -> Run:
    model, batches = pretrained()
    for place in (0, 2, 4):
        model[place] = Bottleneck(model[place], size=16)
    return adapt(model, batches, steps=500)


class Rotated(nn.Module):
    """Turns the inputs of a frozen layer by an orthogonal matrix that begins as none (Qiu et al., 2023)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.oft_r = nn.Parameter(torch.zeros(layer.in_features, layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        skewed, identity = (self.oft_r - self.oft_r.T) / 2, torch.eye(len(self.oft_r))
        return self.layer(x @ torch.linalg.solve(identity + skewed, identity - skewed))


@healthy()
def orthogonal_fine_tuning() -> Run:
    model, batches = pretrained()
    model[0], model[2] = Rotated(model[0]), Rotated(model[2])
    model[4].requires_grad_(False)
    return adapt(model, batches, lr=3e-3)


@healthy(state_dict, suffix=".pth")
def bias_fine_tuning() -> Run:
    """Only biases and the last layer are trained (Zaken et al., 2022)."""
    model, batches = pretrained()
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return adapt(model, batches, steps=500)


@healthy(state_dict, suffix=".pth")
def lora_merged() -> Run:
    """The products were added to the weights, and a new adapter is about to be trained on top."""
    trained = adapted(("default",))
    for place in (0, 2, 4):
        adapter = trained.model[place]
        with torch.no_grad():
            product = adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight
            adapter.base_layer.weight += 2.0 * product
        trained.model[place] = Adapter(adapter.base_layer, ("default",))
    parameters = [each for each in trained.model.parameters() if each.requires_grad]
    beginning = before_training(trained.model, torch.optim.AdamW(parameters, lr=1e-3))
    return Run(trained.model, (), trained.losses, beginning)
