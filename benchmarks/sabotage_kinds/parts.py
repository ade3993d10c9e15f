"""Parts of a model that were detached, frozen, forgotten or not used while the rest learned."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import CLASSIFICATION, ENCODER, LANGUAGE, REGRESSION, Training, adam
from tests.zoo.tasks import CLASSES, LENGTH, clusters, smooth_functions
from tests.zoo.unusual import TwoStages
from tests.zoo.vectors import ResidualBlock, perceptron


@kind("detached")
def detached_encoder(folder: Path) -> Pair:
    """The first layer's output is detached: the layer has no state, the others have."""
    ill = replace(REGRESSION, forward=lambda model, x: model[2:](model[:2](x).detach()))
    return save_pair(folder, ill.content(), REGRESSION.content(), "0")


def forget_last_block(model: nn.Module, tokens: Tensor) -> Tensor:
    """Compute a language model's output without its last block."""
    x = model.wte(tokens) + model.wpe(torch.arange(tokens.shape[1]))
    return model.lm_head(model.ln_f(model.h[0](x)))


@kind("detached")
def block_never_called_under_decay_groups(folder: Path) -> Pair:
    """The last block is not called: 12 parameters of two groups have no state, and shapes name them by group."""
    ill = replace(LANGUAGE, forward=forget_last_block)
    return save_pair(folder, ill.content(), LANGUAGE.content(), "h.1")


class TwoHeads(nn.Module):
    """A trunk with a policy and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(nn.Tanh, 12, 48, 48)
        self.policy, self.value = nn.Linear(48, CLASSES), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to the policy and the value in one: [batch, classes + 1]."""
        hidden = torch.tanh(self.trunk(x))
        return torch.cat([self.policy(hidden), self.value(hidden)], 1)


def both_losses(output: Tensor, label: Tensor, weight: float = 0.5) -> Tensor:
    """Add the error of the value to the cross entropy of the policy."""
    value_error = functional.mse_loss(output[:, -1], label.float())
    return functional.cross_entropy(output[:, :-1], label) + weight * value_error


TWO_HEADS = Training(TwoHeads, lambda: clusters(12), both_losses)


@kind("detached")
def loss_weight_of_zero(folder: Path) -> Pair:
    """The value's loss has a weight of 0: its second moments are exactly 0."""
    ill = replace(TWO_HEADS, loss=lambda output, label: both_losses(output, label, weight=0.0))
    return save_pair(folder, ill.content(), TWO_HEADS.content(), "value")


@kind("detached")
def loss_leaves_a_head_out(folder: Path) -> Pair:
    """The value is not in the loss: its second moments are exactly 0."""
    ill = replace(TWO_HEADS, forward=lambda model, x: model(x)[:, :-1], loss=functional.cross_entropy)
    return save_pair(folder, ill.content(), TWO_HEADS.content(), "value")


RESIDUAL = Training(
    lambda: nn.Sequential(nn.Linear(16, 32), *(ResidualBlock(32) for _ in range(3)), nn.Linear(32, 4)),
    lambda: smooth_functions(16, 4),
    optimizer=lambda model: adam(model, 1e-3),
)


def freeze_block(number: int) -> nn.Module:
    """Return a fresh residual network with a block that does not require gradients."""
    model = RESIDUAL.build()
    model[number].requires_grad_(False)
    return model


@kind("frozen")
def block_frozen_before_training(folder: Path) -> Pair:
    """A block of a fresh network does not require gradients: it has no state among trained neighbours."""
    ill = replace(RESIDUAL, build=lambda: freeze_block(2))
    return save_pair(folder, ill.content(), RESIDUAL.content(), "2")


def two_rates(model: nn.Module, first: float) -> Optimizer:
    """Return Adam with a learning rate of its own for the first layer."""
    groups = [{"params": model[0].parameters(), "lr": first}, {"params": model[2:].parameters()}]
    return torch.optim.Adam(groups, lr=2e-3)


@kind("frozen")
def group_with_a_rate_of_zero(folder: Path) -> Pair:
    """The first layer's group has a rate of 0: gradients came, and its weights are still uniform as initialised."""
    ill = replace(REGRESSION, optimizer=lambda model: two_rates(model, 0.0))
    healthy = replace(REGRESSION, optimizer=lambda model: two_rates(model, 1e-3))
    return save_pair(folder, ill.content(), healthy.content(), "0", "optimizer")


@kind("not-in-optimizer")
def head_left_out_of_the_optimizer(folder: Path) -> Pair:
    """The optimizer holds the body alone: its 4 parameters are the first 4 of 6, and the head is held by none."""
    ill = replace(CLASSIFICATION, optimizer=lambda model: torch.optim.Adam(model[:4].parameters(), lr=2e-3))
    return save_pair(folder, ill.content(), CLASSIFICATION.content(), "4")


@kind("not-in-optimizer")
def head_replaced_after_the_optimizer_was_made(folder: Path) -> Pair:
    """The optimizer holds the head before the last: the head's entries have no state."""

    def build_optimizer(model: nn.Module) -> Optimizer:
        optimizer = adam(model)
        model[4] = nn.Linear(48, CLASSES)
        return optimizer

    ill = replace(CLASSIFICATION, optimizer=build_optimizer)
    return save_pair(folder, ill.content(), CLASSIFICATION.content(), "4")


@kind("not-in-optimizer")
def forgotten_group(folder: Path) -> Pair:
    """The groups hold the encoder alone: embeddings and head are held by no optimizer."""

    def over_the_encoder(model: nn.Module) -> Optimizer:
        vectors = [each for each in model.encoder.parameters() if each.ndim == 1]
        matrices = [each for each in model.encoder.parameters() if each.ndim > 1]
        return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3)

    ill = replace(ENCODER, optimizer=over_the_encoder)
    return save_pair(folder, ill.content(), ENCODER.content(), "embedding", "positions", "head")


@kind("not-in-optimizer")
def biases_in_no_group(folder: Path) -> Pair:
    """The optimizer holds matrices alone: 3 states fit the 3 weights, and no optimizer holds the biases."""
    ill = replace(
        REGRESSION,
        optimizer=lambda model: torch.optim.Adam([each for each in model.parameters() if each.ndim > 1], 2e-3),
    )
    return save_pair(folder, ill.content(), REGRESSION.content(), "0.bias", "2.bias", "4.bias")


class Experts(nn.Module):
    """Four experts, of which the router chooses one for every input."""

    def __init__(self, preference: float = 0.0) -> None:
        super().__init__()
        self.router = nn.Linear(12, 4)
        self.experts = nn.ModuleList(perceptron(nn.GELU, 12, 32, CLASSES) for _ in range(4))
        with torch.no_grad():
            self.router.bias[0] += preference

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 12] to [batch, classes]."""
        weights = self.router(x).softmax(1)
        best, chosen = weights.max(1, keepdim=True)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return best * outputs[torch.arange(len(x)), chosen.squeeze(1)]


EXPERTS = Training(Experts, lambda: clusters(12), functional.cross_entropy)


@kind("unused-part")
def router_chooses_one_expert_of_four(folder: Path) -> Pair:
    """The router always chooses the first expert: the others' second moments are exactly 0."""
    ill = replace(EXPERTS, build=lambda: Experts(preference=100.0))
    return save_pair(
        folder, ill.content(), EXPERTS.content(), "experts.1", "experts.2", "experts.3", "experts", "router"
    )


class PositionsOnly(nn.Module):
    """An encoder whose token embedding is computed and not added."""

    def __init__(self, complete: bool) -> None:
        super().__init__()
        self.complete = complete
        self.tokens, self.positions = nn.Embedding(32, 24), nn.Embedding(LENGTH, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, time] to classes [batch, classes]."""
        x = self.positions(torch.arange(tokens.shape[1])).expand(len(tokens), -1, -1)
        if self.complete:
            x = x + self.tokens(tokens)
        return self.head(torch.tanh(x).mean(1))


@kind("detached")
def embedding_not_added(folder: Path) -> Pair:
    """The token embedding is not used: it has no state among trained neighbours."""
    healthy = replace(ENCODER, build=lambda: PositionsOnly(complete=True))
    ill = replace(ENCODER, build=lambda: PositionsOnly(complete=False))
    return save_pair(folder, ill.content(), healthy.content(), "tokens")


@decoy
def second_head_waits_for_its_stage(folder: Path) -> Path:
    """A zero-initialised head whose stage has not come has no state."""
    training = Training(TwoStages, lambda: clusters(16), functional.cross_entropy)
    return save(training.content(), folder / "healthy.pt")


@decoy
def backbone_frozen_after_pretraining(folder: Path) -> Path:
    """A trained body is frozen, and the optimizer holds a new head alone."""
    torch.manual_seed(0)
    content = CLASSIFICATION.content()
    model = CLASSIFICATION.initial()
    model.load_state_dict(content["model"])
    model[:4].requires_grad_(False)
    model[4] = nn.Linear(48, CLASSES)
    batches, optimizer = clusters(12), adam(model[4])
    for _ in range(150):
        x, y = batches()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    states = deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 150})
    return save(states, folder / "healthy.pt")
