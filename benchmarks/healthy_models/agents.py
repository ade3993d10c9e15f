"""Agents in tiny worlds: fixed random networks, cloned policies, world models, small last layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.agents import ActorCritic, TwinDelayed
from tests.zoo.saving import several_optimizers, state_dict
from tests.zoo.tasks import BATCH, squared_error
from tests.zoo.training import Run, before_training, fit, update
from tests.zoo.unusual import RandomDistillation


def demonstrations() -> tuple[Tensor, Tensor]:
    state = torch.randn(BATCH, 4)
    return state, torch.sin(state[:, :2] + 0.5 * state[:, 2:]) + 0.05 * torch.randn(BATCH, 2)


def cloned(parameters_of_both: bool) -> Run:
    """Clone a behaviour; the value network is made with the policy and comes to its turn later."""
    model = ActorCritic()
    trained = model.parameters() if parameters_of_both else [model.log_std, *model.actor.parameters()]
    optimizer = torch.optim.Adam(trained, lr=2e-3)

    def loss() -> Tensor:
        state, action = demonstrations()
        return functional.mse_loss(model.actor(state), action) + 0.01 * (model.log_std + 1).square().sum()

    return fit(model, optimizer, loss, steps=400)


@healthy()
def cloned_policy() -> Run:
    return cloned(parameters_of_both=True)


@healthy()
def cloned_policy_value_net_outside() -> Run:
    return cloned(parameters_of_both=False)


@healthy()
def distillation_with_target_in_the_optimizer() -> Run:
    """The optimizer was given all parameters, also those of the fixed random network."""
    model = RandomDistillation()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        state = torch.randn(BATCH, 8)
        return functional.mse_loss(model.predictor(state), model.target(state))

    return fit(model, optimizer, loss, steps=400)


class RandomFeatures(nn.Module):
    """A fixed random layer, and a linear one that is learned (Rahimi and Recht, 2007)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(4, 200)
        nn.init.normal_(self.features.weight)
        nn.init.zeros_(self.features.bias)
        self.features.requires_grad_(False)
        self.value = nn.Linear(200, 2)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, state: Tensor) -> Tensor:
        return self.value(torch.relu(self.features(state)))


@healthy()
def random_features() -> Run:
    model = RandomFeatures()
    optimizer = torch.optim.Adam(model.value.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, demonstrations), steps=300)


class SymlogTwoHot(nn.Module):
    """DreamerV3's head: a distribution over exponentially spaced bins, whose last layer begins at zero."""

    def __init__(self, bins: int = 41) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 48), nn.RMSNorm(48), nn.SiLU(), nn.Linear(48, bins))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("bins", torch.linspace(-20, 20, bins))

    def loss(self, hidden: Tensor, value: Tensor) -> Tensor:
        place = (value.sign() * (value.abs() + 1).log() + 20) / (self.bins[1] - self.bins[0])
        low = place.floor().long().clamp(0, len(self.bins) - 2)
        share = (place - low).unsqueeze(1)
        target = torch.zeros(len(value), len(self.bins))
        target.scatter_(1, low.unsqueeze(1), 1 - share).scatter_(1, low.unsqueeze(1) + 1, share)
        return functional.cross_entropy(self.layers(hidden), target)


class WorldModel(nn.Module):
    """A recurrent state with a discrete latent, heads for reward and value, and a slow value (Hafner et al., 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 32), nn.RMSNorm(32), nn.SiLU())
        self.cell = nn.GRUCell(32, 24)
        self.posterior, self.decoder = nn.Linear(24 + 32, 16), nn.Linear(24 + 16, 4)
        self.mix = nn.Linear(24 + 16, 24)
        self.reward, self.value = SymlogTwoHot(), SymlogTwoHot()
        self.slow_value = copy.deepcopy(self.value).requires_grad_(False)

    def loss(self) -> Tensor:
        position = torch.randn(BATCH, 4)
        hidden, total = torch.zeros(BATCH, 24), torch.zeros(())
        for _ in range(4):
            position = 0.9 * position.roll(1, 1) + 0.1 * torch.randn(BATCH, 4)
            embedded = self.encoder(position)
            hidden = self.cell(embedded, hidden)
            logits = self.posterior(torch.cat([hidden, embedded], 1)).view(BATCH, 4, 4)
            latent = torch.cat([hidden, functional.gumbel_softmax(logits).flatten(1)], 1)
            reward, features = 50 * position[:, 0], torch.tanh(self.mix(latent))
            total = total + functional.mse_loss(self.decoder(latent), position)
            total = total + self.reward.loss(features, reward) / 4 + self.value.loss(features, 3 * reward) / 4
        return total


@healthy()
def world_model() -> Run:
    model = WorldModel()
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3, eps=1e-8)

    @torch.no_grad()
    def follow() -> None:
        for slow, fast in zip(model.slow_value.parameters(), model.value.parameters(), strict=True):
            slow.lerp_(fast, 0.02)

    return fit(model, optimizer, model.loss, steps=150, largest_norm=10.0, after_step=follow)


@healthy(several_optimizers("actor_optimizer", "critic_optimizer"))
def small_last_layers() -> Run:
    """DDPG's last layers begin within ±0.003; the actor waits while the critics learn first."""
    model = TwinDelayed()
    for last in (model.actor[-2], model.critic.qf0[-1], model.critic.qf1[-1]):
        nn.init.uniform_(last.weight, -3e-3, 3e-3)
        nn.init.uniform_(last.bias, -3e-3, 3e-3)
    model.actor_target, model.critic_target = copy.deepcopy(model.actor), copy.deepcopy(model.critic)
    model.actor_target.requires_grad_(False)
    model.critic_target.requires_grad_(False)
    for_actor = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    for_critic = torch.optim.Adam(model.critic.parameters(), lr=1e-3)

    def loss() -> Tensor:
        state, action = torch.randn(BATCH, 3), torch.rand(BATCH, 1) * 2 - 1
        reward = 1 - (state[:, :1] - action).square() + 0.1 * torch.randn(BATCH, 1)
        return sum(functional.mse_loss(value, reward) for value in model.critic(state, action))

    beginning = before_training(model, for_actor, for_critic)
    losses = [update(model.critic, for_critic, loss) for _ in range(400)]
    return Run(model, (for_actor, for_critic), losses, beginning)


@healthy(state_dict, suffix=".pth")
def evolved_policy() -> Run:
    """A linear policy that random search found, from zero and without any gradient (Mania et al., 2018)."""
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    model.bias.requires_grad_(False)
    goal = torch.randn(4, 2)

    def cost(weight: Tensor) -> float:
        state = torch.randn(BATCH, 4)
        return (state @ weight.T - state @ goal).square().mean().item()

    losses = []
    with torch.no_grad():
        for _ in range(200):
            direction = torch.randn(2, 4)
            gain = cost(model.weight - 0.1 * direction) - cost(model.weight + 0.1 * direction)
            model.weight.add_(direction, alpha=0.1 * gain)
            losses.append(cost(model.weight))
    return Run(model, (), losses)
