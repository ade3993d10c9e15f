"""The same small networks, each trained by another optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.healthy_models import matrix_optimizers, momentum_optimizers, vector_optimizers
from benchmarks.healthy_models.collection import healthy
from benchmarks.healthy_models.residuals import fixup_network
from tests.zoo.saving import lightning, several_optimizers, training_state
from tests.zoo.sequences import LanguageModel
from tests.zoo.tasks import chains, cross_entropy, gratings, smooth_functions, squared_error
from tests.zoo.training import Run, before_training, fit, update
from tests.zoo.vectors import ResidualBlock, perceptron

MakeOptimizer = Callable[[nn.Module], Optimizer]

SINGLE: dict[str, MakeOptimizer] = {
    "adam_amsgrad": lambda model: torch.optim.Adam(model.parameters(), lr=2e-3, amsgrad=True),
    "adamax": lambda model: torch.optim.Adamax(model.parameters(), lr=4e-3),
    "radam": lambda model: torch.optim.RAdam(model.parameters(), lr=4e-3),
    "adadelta": lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0),
    "asgd": lambda model: torch.optim.ASGD(model.parameters(), lr=0.1),
    "rprop": lambda model: torch.optim.Rprop(model.parameters(), lr=1e-3, step_sizes=(1e-6, 1e-2)),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=2e-2),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=2e-2),
    "rmsprop_centered": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9, centered=True),
    "plain_sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "lion": lambda model: vector_optimizers.Lion(model.parameters(), lr=1e-3),
    "prodigy": lambda model: vector_optimizers.Prodigy(model.parameters()),
    "schedule_free": lambda model: vector_optimizers.ScheduleFree(model.parameters(), lr=5e-3),
    "novograd": lambda model: vector_optimizers.Novograd(model.parameters(), lr=2e-3),
    "adam_mini": lambda model: vector_optimizers.AdamMini(model.parameters(), lr=3e-3),
    "sm3": lambda model: vector_optimizers.Sm3(model.parameters(), lr=5e-2),
    "amos": lambda model: vector_optimizers.Amos(model.parameters(), lr=2e-3),
    "spam": lambda model: vector_optimizers.Spam(model.parameters(), lr=3e-3),
    "ga_lore": lambda model: matrix_optimizers.GaLore(model.parameters(), lr=4e-3),
    "apollo": lambda model: matrix_optimizers.Apollo(model.parameters(), lr=3e-3),
    "shampoo": lambda model: matrix_optimizers.Shampoo(model.parameters(), lr=0.1),
    "soap": lambda model: matrix_optimizers.Soap(model.parameters(), lr=3e-3),
    "lamb": lambda model: momentum_optimizers.Lamb(model.parameters(), lr=1e-2),
    "lars": lambda model: momentum_optimizers.Lars(model.parameters(), lr=0.3),
    "ada_belief": lambda model: momentum_optimizers.AdaBelief(model.parameters(), lr=2e-3),
    "adan": lambda model: momentum_optimizers.Adan(model.parameters(), lr=2e-3),
    "ad_ema_mix": lambda model: momentum_optimizers.AdEmaMix(model.parameters(), lr=1e-3),
    "sophia": lambda model: momentum_optimizers.Sophia(model.parameters(), lr=1e-3),
    "came": lambda model: momentum_optimizers.Came(model.parameters(), lr=1e-3),
    "quantized_adam": lambda model: momentum_optimizers.QuantizedAdam(model.parameters(), lr=2e-3),
    "lookahead": lambda model: momentum_optimizers.Lookahead(model.parameters(), lr=4e-3),
}


def residual_network() -> nn.Sequential:
    """Return a network with linear layers, norms, and one layer that begins at zero."""
    network = nn.Sequential(nn.Linear(16, 32), ResidualBlock(32), ResidualBlock(32), nn.LayerNorm(32), nn.Linear(32, 4))
    nn.init.zeros_(network[2].down.weight)
    nn.init.zeros_(network[2].down.bias)
    return network


def add(name: str, make: MakeOptimizer) -> None:
    """Take a network that an optimizer trains into the bench."""

    def train() -> Run:
        model = residual_network()
        return fit(model, make(model), squared_error(model, smooth_functions(16, 4)), steps=300)

    train.__name__ = f"trained_by_{name}"
    healthy(lightning if name in {"adafactor", "lion"} else training_state)(train)


for name, make in SINGLE.items():
    add(name, make)


@healthy()
def trained_by_flat_adam() -> Run:
    model = residual_network()
    optimizer = vector_optimizers.FlatAdam.over(model, lr=3e-3)
    loss, losses = squared_error(model, smooth_functions(16, 4)), []
    for _ in range(300):
        value = loss()
        optimizer.zero_grad(set_to_none=False)
        for parameter in model.parameters():
            parameter.grad.zero_()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return Run(model, (optimizer,), losses)


def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the matrices of the hidden layers, and all other parameters."""
    hidden = [each for name, each in model.named_parameters() if each.ndim == 2 and "wte" not in name]
    return hidden, [each for each in model.parameters() if not any(each is other for other in hidden)]


def train_together(model: nn.Module, optimizers: tuple[Optimizer, ...], loss: Callable[[], Tensor], steps: int) -> Run:
    beginning, losses = before_training(model, *optimizers), []
    for _ in range(steps):
        value = loss()
        model.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(value.item())
    return Run(model, optimizers, losses, beginning)


@healthy(several_optimizers("muon", "adamw"))
def trained_by_muon_and_adamw() -> Run:
    model = LanguageModel()
    hidden, others = split(model)
    optimizers = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0), torch.optim.AdamW(others, lr=3e-3)
    return train_together(model, optimizers, cross_entropy(model, chains()), steps=150)


@healthy(several_optimizers("muon", "adamw"))
def trained_by_muon_and_adamw_from_zero_layers() -> Run:
    """As in the speed runs of small language models: the projections of every block begin at zero."""
    model = LanguageModel()
    for block in model.h:
        nn.init.zeros_(block.proj.weight)
        nn.init.zeros_(block.mlp[-1].weight)
    hidden, others = split(model)
    optimizers = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.0), torch.optim.AdamW(others, lr=3e-3)
    return train_together(model, optimizers, cross_entropy(model, chains()), steps=150)


@healthy()
def trained_by_muon_with_auxiliary_adam() -> Run:
    model = residual_network()
    hidden, others = split(model)
    groups = [{"params": hidden, "use_muon": True, "lr": 5e-3}, {"params": others, "use_muon": False}]
    optimizer = matrix_optimizers.MuonWithAuxiliaryAdam(groups, lr=3e-3)
    return fit(model, optimizer, squared_error(model, smooth_functions(16, 4)), steps=200)


@healthy(several_optimizers("backbone_optimizer", "head_optimizer"))
def trained_by_one_optimizer_for_each_part() -> Run:
    model = nn.ModuleDict({"backbone": perceptron(nn.ReLU, 16, 64, 64), "head": nn.Linear(64, 4)})
    optimizers = (
        torch.optim.SGD(model["backbone"].parameters(), lr=0.05, momentum=0.9),
        torch.optim.Adam(model["head"].parameters(), lr=3e-3),
    )
    loss = squared_error(lambda x: model["head"](torch.relu(model["backbone"](x))), smooth_functions(16, 4))
    return train_together(model, optimizers, loss, steps=400)


@healthy()
def trained_by_lbfgs() -> Run:
    """Its state is one for all parameters, flat, with the directions of the last steps."""
    model, (x, y) = perceptron(nn.Tanh, 16, 32, 4), smooth_functions(16, 4)()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, history_size=8)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(model(x), y)
        value.backward()
        return value

    beginning = before_training(model, optimizer)
    return Run(model, (optimizer,), [optimizer.step(closure).item() for _ in range(60)], beginning)


@healthy()
def adam_over_a_fixup_network_in_groups() -> Run:
    """Biases and scales have a group with a smaller rate, as the paper has it."""
    model = fixup_network()
    small = [each for name, each in model.named_parameters() if "bias" in name or "scale" in name]
    large = [each for name, each in model.named_parameters() if "bias" not in name and "scale" not in name]
    optimizer = torch.optim.Adam([{"params": large}, {"params": small, "lr": 5e-4}], lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, gratings()), steps=150)


@healthy(several_optimizers("optimizer", "center_optimizer"))
def center_loss_with_its_own_optimizer() -> Run:
    """The centres are learned by a second optimizer, and are no part of the model."""
    model, batches = perceptron(nn.ReLU, 16, 64, 8), smooth_functions(16, 8)
    centers = nn.ParameterDict({"centers": torch.zeros(8)})
    for_model = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for_centers = torch.optim.SGD(centers.parameters(), lr=0.1)

    def loss() -> Tensor:
        x, y = batches()
        return (model(x) + centers["centers"] - y - 1).square().mean()

    losses = []
    for _ in range(400):
        losses.append(update(model, for_model, loss))
        for_centers.step()
        for_centers.zero_grad()
    return Run(model, (for_model, for_centers), losses)


@healthy()
def loss_weights_in_the_optimizer() -> Run:
    """The uncertainties of two tasks are learned with the model, and come last in the optimizer."""
    model, batches = perceptron(nn.ReLU, 16, 64, 64, 4), smooth_functions(16, 4)
    weights = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([{"params": model.parameters()}, {"params": [weights], "lr": 1e-2}], lr=2e-3)

    def loss() -> Tensor:
        x, y = batches()
        errors = torch.stack([(model(x) - y)[:, :2].square().mean(), (model(x) - y)[:, 2:].square().mean()])
        # The sum may become negative, and losses are compared by their ratio.
        return (weights.neg().exp() * errors + weights).sum() + 8

    return fit(model, optimizer, loss, steps=400)
