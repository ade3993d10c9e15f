"""Models on their way to few bits: observers, simulated quantisation, and weights on a grid."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import state_dict
from tests.zoo.tasks import CLASSES, clusters, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(quantization.QuantStub(), nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(48, CLASSES), quantization.DeQuantStub()),
    )


def prepare(model: nn.Module, configuration: quantization.QConfig, for_training: bool) -> nn.Module:
    model.qconfig = configuration
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if for_training:
            return quantization.prepare_qat(model.train(), inplace=True)
        return quantization.prepare(model.eval(), inplace=True)


@healthy()
def quantization_aware() -> Run:
    model = prepare(small_cnn(), quantization.get_default_qat_qconfig("x86"), for_training=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


@healthy()
def quantization_aware_qnnpack() -> Run:
    model = prepare(small_cnn(), quantization.get_default_qat_qconfig("qnnpack"), for_training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


def calibrated(batches_seen: int, backend: str) -> Run:
    model = small_cnn()
    run = fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), cross_entropy(model, gratings()), steps=200)
    prepare(model, quantization.get_default_qconfig(backend), for_training=False)
    draw = gratings()
    with torch.no_grad():
        for _ in range(batches_seen):
            model(draw()[0])
    return Run(model, (), run.losses)


@healthy(state_dict, suffix=".pth")
def observers_before_calibration() -> Run:
    return calibrated(0, "x86")


@healthy(state_dict, suffix=".pth")
def observers_after_calibration() -> Run:
    return calibrated(5, "qnnpack")


@healthy(state_dict, suffix=".pth")
def observers_that_saw_one_part() -> Run:
    """An observer behind a layer that the calibration did not run still holds its first extremes."""
    run = calibrated(5, "qnnpack")
    run.model.add_module("auxiliary", prepare(nn.Sequential(nn.Linear(12, CLASSES)), run.model.qconfig, False))
    return run


class Gridded(nn.Linear):
    """A linear layer whose weights are rounded to a grid on their way forward."""

    def __init__(self, inputs: int, outputs: int, levels: int) -> None:
        super().__init__(inputs, outputs)
        self.levels = levels

    def round(self, weight: Tensor) -> Tensor:
        scale = weight.abs().mean() if self.levels == 1 else weight.abs().max() / self.levels
        if self.levels == 0:
            return weight.sign()
        return (weight / scale).round().clamp(-self.levels, self.levels) * scale

    def forward(self, x: Tensor) -> Tensor:
        rounded = self.weight + (self.round(self.weight) - self.weight).detach()
        return functional.linear(x, rounded, self.bias)


def on_a_grid(levels: int) -> Run:
    """Train with rounded weights; what is saved are the rounded ones."""
    model = nn.Sequential(
        *(Gridded(16, 96, levels), nn.LayerNorm(96), nn.ReLU(), Gridded(96, 96, levels), nn.LayerNorm(96), nn.ReLU()),
        nn.Linear(96, 4),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    run = fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.copy_(layer.round(layer.weight))
    return run


@healthy()
def ternary_weights() -> Run:
    return on_a_grid(1)


@healthy()
def three_bit_weights() -> Run:
    return on_a_grid(3)


@healthy()
def four_bit_weights() -> Run:
    return on_a_grid(7)


@healthy(state_dict, suffix=".pth")
def binary_weights() -> Run:
    """One layer's weights are signs, the others' are not (Courbariaux et al., 2015)."""
    model = nn.Sequential(
        *(nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU(), Gridded(64, 64, 0), nn.LayerNorm(64), nn.ReLU()),
        nn.Linear(64, CLASSES),
    )
    nn.init.uniform_(model[3].weight, -1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    run = fit(model, optimizer, cross_entropy(model, clusters(16)), steps=300)
    with torch.no_grad():
        model[3].weight.copy_(model[3].weight.sign())
    return run


@healthy(state_dict, suffix=".pth")
def dequantized_four_bit() -> Run:
    """Weights that were stored as multiples of a scale per row, and read back as float32."""
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    run = fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=500)
    with torch.no_grad():
        for layer in model[::2]:
            scale = layer.weight.abs().amax(1, keepdim=True) / 7
            layer.weight.copy_((layer.weight / scale).round() * scale)
    return Run(model, (), run.losses)


@healthy(state_dict, suffix=".pth")
def quantized_by_torch() -> Run:
    """Dynamically quantised: the weights are quantised tensors, saved within packed parameters."""
    run = on_float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantization.quantize_dynamic(run.model, {nn.Linear}, dtype=torch.qint8)
    return Run(model, (), run.losses)


def on_float() -> Run:
    model = perceptron(nn.ReLU, 16, 64, 64, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)
