"""Agents of reinforcement learning in tiny worlds, with target networks and several optimizers."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.saving import several_optimizers, training_state
from tests.zoo.tasks import BATCH
from tests.zoo.training import Run, fit, healthy, update
from tests.zoo.vectors import perceptron

DISCOUNT = 0.9


class QLearner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_net = perceptron(nn.ReLU, 2, 48, 48, 3)
        self.q_net_target = copy.deepcopy(self.q_net).requires_grad_(False)


@healthy(training_state)
def q_learning() -> Run:
    """A cart on a rail is pushed left, right or not at all, and should stand still in the middle."""
    model, updates = QLearner(), itertools.count(1)
    optimizer = torch.optim.Adam(model.q_net.parameters(), lr=1e-3)

    def loss() -> Tensor:
        state, action = torch.rand(BATCH, 2) * 2 - 1, torch.randint(3, (BATCH, 1))
        speed = (0.9 * state[:, 1:] + 0.2 * (action - 1)).clamp(-1, 1)
        following = torch.cat([(state[:, :1] + 0.3 * speed).clamp(-1, 1), speed], 1)
        reward = 1 - following.square().sum(1, keepdim=True) + 0.1 * torch.randn(BATCH, 1)
        with torch.no_grad():
            target = reward + DISCOUNT * model.q_net_target(following).max(1, keepdim=True).values
        return functional.smooth_l1_loss(model.q_net(state).gather(1, action), target)

    def copy_to_target() -> None:
        if next(updates) % 25 == 0:
            model.q_net_target.load_state_dict(model.q_net.state_dict())

    return fit(model, optimizer, loss, steps=600, largest_norm=10.0, after_step=copy_to_target)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((2,), -0.5))
        self.actor = perceptron(nn.Tanh, 4, 48, 48, 2)
        self.critic = perceptron(nn.Tanh, 4, 48, 48, 1)
        for part, gain in ((self.actor, 0.01), (self.critic, 1.0)):
            for layer in part[::2]:
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
            nn.init.orthogonal_(part[-1].weight, gain)


@healthy(training_state)
def actor_critic() -> Run:
    """A hand should go where a target is seen. Its loss is how far from there the most likely action is."""
    model = ActorCritic()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    directions = torch.randn(4, 2) / 2

    def update_from_actions() -> float:
        state = torch.randn(4 * BATCH, 4)
        goal = torch.sin(state @ directions)
        policy = torch.distributions.Normal(model.actor(state), model.log_std.exp())
        action = policy.sample()
        reward = -(action - goal).square().sum(1)
        value = model.critic(state).squeeze(1)
        advantage = reward - value.detach()
        advantage = (advantage - advantage.mean()) / advantage.std()
        gain = (policy.log_prob(action).sum(1) * advantage).mean()
        loss = -gain + 0.5 * functional.mse_loss(value, reward) - 0.001 * policy.entropy().sum(1).mean()
        update(model, optimizer, lambda: loss, 0.5)
        return functional.mse_loss(policy.mean, goal).item()

    return Run(model, (optimizer,), [update_from_actions() for _ in range(500)])


class TwinCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qf0, self.qf1 = perceptron(nn.ReLU, 4, 48, 48, 1), perceptron(nn.ReLU, 4, 48, 48, 1)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([state, action], 1)
        return self.qf0(both), self.qf1(both)


class TwinDelayed(nn.Module):
    """Actor, two critics, and the slow average of each (Fujimoto et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(*perceptron(nn.ReLU, 3, 48, 48, 1), nn.Tanh())
        self.critic = TwinCritic()
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            for target, parameter in zip(slow.parameters(), fast.parameters(), strict=True):
                target.lerp_(parameter, 0.02)


@healthy(several_optimizers("actor_optimizer", "critic_optimizer"))
def twin_delayed() -> Run:
    """A drifting point should be kept at zero. Its loss is that of the critics."""
    model = TwinDelayed()
    for_actor = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    for_critic = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    drift = 0.9 * torch.linalg.qr(torch.randn(3, 3)).Q
    push = torch.tensor([[0.5, 0.3, -0.3]])

    def critic_loss(state: Tensor) -> Tensor:
        action = torch.rand(len(state), 1) * 2 - 1
        following = state @ drift + action * push
        reward = 1 - following.square().sum(1, keepdim=True)
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            best = (model.actor_target(following) + noise).clamp(-1, 1)
            target = reward + DISCOUNT * torch.minimum(*model.critic_target(following, best))
        return sum(functional.mse_loss(value, target) for value in model.critic(state, action))

    losses = []
    for number in range(600):
        state = torch.randn(BATCH, 3)
        losses.append(update(model.critic, for_critic, lambda state=state: critic_loss(state)))
        if number % 2:
            update(model.actor, for_actor, lambda state=state: -model.critic(state, model.actor(state))[0].mean())
            model.follow()
    return Run(model, (for_actor, for_critic), losses)
