"""Numbers that are large, small, fixed or absent for a reason that lies in the data or the design."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, state_dict
from tests.zoo.tasks import CLASSES, clusters, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron


@healthy()
def prices_in_millions() -> Run:
    """Predicts prices, with the mean and the spread of the prices kept as parameters of the last layer."""
    model, batches = perceptron(nn.ReLU, 8, 64, 64, 1), smooth_functions(8, 1)
    with torch.no_grad():
        model[-1].weight.mul_(4e5)
        model[-1].bias.fill_(2.5e6)
    groups = [{"params": model[:-1].parameters(), "lr": 2e-3}, {"params": model[-1].parameters(), "lr": 4e2}]
    optimizer = torch.optim.Adam(groups)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x), 2.5e6 + 4e5 * y) / 1e10

    return fit(model, optimizer, loss, steps=500)


class Standardized(nn.Module):
    """Keeps the data's own means and deviations, of inputs and targets, as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("input_mean", torch.tensor([2.0e7, -3.0, 0.0, 1.0e-6]))
        self.register_buffer("input_std", torch.tensor([5.0e6, 2.0, 1.0, 1.0e-7]))
        self.register_buffer("target_mean", torch.tensor([-4.2e8]))
        self.layers = perceptron(nn.Tanh, 4, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x - self.input_mean) / self.input_std)


@healthy()
def standardized_inputs() -> Run:
    model, batches = Standardized(), smooth_functions(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model(x * model.input_std + model.input_mean), y)

    return fit(model, optimizer, loss, steps=400)


@healthy(lightning, suffix=".ckpt")
def energy_shifts_of_atoms() -> Run:
    """Every kind of atom has an energy of its own, fitted before and kept as an embedding of one column."""
    model = nn.ModuleDict({"atomref": nn.Embedding(20, 1), "layers": perceptron(nn.Tanh, 4, 64, 64, 1)}).double()
    with torch.no_grad():
        model["atomref"].weight.copy_(-0.6 * (torch.arange(20).double() + 1).unsqueeze(1) ** 2.4 * 13.6e3)
    model["atomref"].requires_grad_(False)
    optimizer = torch.optim.Adam(model["layers"].parameters(), lr=3e-3)
    batches = smooth_functions(4, 1)

    def loss() -> Tensor:
        x, y = batches()
        return functional.mse_loss(model["layers"](x.double()), y.double())

    return fit(model, optimizer, loss, steps=400)


class WithNothing(nn.Module):
    """Takes further features, of which this data set has none."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.extra = nn.Linear(16, 64), nn.Linear(0, 64, bias=False)
        self.output = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.features(x) + self.extra(x[:, :0])))


@healthy()
def linear_layer_of_no_inputs() -> Run:
    model = WithNothing()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=600)


class PrototypeClassifier(nn.Module):
    """Answers with fixed codewords: a table of zeros and ones that is no subject of training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(nn.ReLU, 16, 64, 12)
        self.register_buffer("codewords", (torch.rand(CLASSES, 12) < 0.5).float())
        self.class_weights = nn.Parameter(torch.full((12, CLASSES), 0.25), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.layers(x)
        return answer @ (2 * self.codewords - 1).T + answer @ self.class_weights


@healthy()
def fixed_tables() -> Run:
    model = PrototypeClassifier()
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=250)


@healthy()
def mup_readout() -> Run:
    """Maximal update parametrisation: the last layer begins at zero (Yang et al., 2022)."""
    model = perceptron(nn.ReLU, 16, 96, 96, 4)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    groups = [{"params": model[0].parameters(), "lr": 3e-3}, {"params": model[2:].parameters(), "lr": 1e-3}]
    return fit(model, torch.optim.Adam(groups), squared_error(model, smooth_functions(16, 4)), steps=400)


@healthy(state_dict, suffix=".pth")
def strong_weight_decay() -> Run:
    """Directions that the data do not ask for decay to almost nothing."""
    model = perceptron(nn.ReLU, 40, 128, 128, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=2.0)
    draw = smooth_functions(2, 2)

    def padded() -> tuple[Tensor, Tensor]:
        x, y = draw()
        return torch.cat([x, torch.zeros(len(x), 38)], 1), y

    return fit(model, optimizer, squared_error(model, padded), steps=500)


@healthy()
def one_hot_inputs_never_seen() -> Run:
    """A table of places, of which a third is never visited."""
    model = perceptron(nn.ReLU, 30, 64, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = torch.randn(30, 2)

    def visits() -> tuple[Tensor, Tensor]:
        place = torch.randint(20, (64,))
        return functional.one_hot(place, 30).float(), values[place] + 0.1 * torch.randn(64, 2)

    return fit(model, optimizer, squared_error(model, visits), steps=300)


@healthy()
def unseen_classes_of_a_zero_head() -> Run:
    """Classes that never occur get the same gradient, so that their rows stay equal to one another."""
    model = perceptron(nn.ReLU, 16, 64, 20)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=250)


class BlurredDownsampling(nn.Module):
    """Smooths with the same fixed filter in every channel before it leaves out pixels (Zhang, 2019)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (row.unsqueeze(0) * row.unsqueeze(1)).expand(width, 1, 3, 3).clone())
        self.sobel = nn.Conv2d(1, 2, 3, padding=1, bias=False).requires_grad_(False)
        edges = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        with torch.no_grad():
            self.sobel.weight.copy_(torch.stack([edges, edges.T]).unsqueeze(1))
        self.head = nn.Linear(width + 2, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        maps = functional.conv2d(torch.relu(self.conv(image)), self.filt, stride=2, groups=len(self.filt))
        return self.head(torch.cat([maps.mean((2, 3)), self.sobel(image).abs().mean((2, 3))], 1))


@healthy()
def fixed_filters() -> Run:
    model = BlurredDownsampling()
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=200)


@healthy()
def truncated_normal_at_its_bound() -> Run:
    """`trunc_normal_` cuts at ±2 whatever its deviation is, and gives exactly ±2 once in many million draws."""
    model = perceptron(nn.GELU, 16, 64, 64, 4)
    for layer in model[::2]:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    with torch.no_grad():
        model[2].weight[5, 7] = -2.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=400)


class Measured(nn.Module):
    """Keeps the best and the worst score of an evaluation, as torchmetrics does; none has run yet."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(nn.ReLU, 16, 64, CLASSES)
        self.val_best = nn.Module()
        self.val_best.register_buffer("max_value", torch.tensor(-torch.inf))
        self.val_worst = nn.Module()
        self.val_worst.register_buffer("min_value", torch.tensor(torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@healthy(lightning, suffix=".ckpt")
def scores_before_the_first_evaluation() -> Run:
    model = Measured()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=200)


def model_states_of_a_shard(run: Run, path: Path) -> None:
    """Save what DeepSpeed's third stage writes beside the shards: names and shapes, and weights of no element."""
    shapes = {name: each.shape for name, each in run.model.named_parameters()}
    content = {
        "module": {name: torch.empty(0) for name in shapes},
        "param_shapes": [shapes],
        "buffer_names": [],
        "global_steps": len(run.losses),
        "ds_config": {"zero_optimization": {"stage": 3}},
        "ds_version": "0.14.4",
        "optimizer": None,
        "dp_world_size": 1,
    }
    torch.save(content, path)


@healthy(model_states_of_a_shard)
def weights_in_other_files() -> Run:
    model = perceptron(nn.ReLU, 16, 64, 64, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=300)
