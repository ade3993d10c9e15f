"""Value-based and offline agents in tiny worlds: noisy layers, dueling streams, mixers, sequences of decisions."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import several_optimizers
from tests.zoo.tasks import BATCH, LENGTH
from tests.zoo.training import Run, before_training, fit, update
from tests.zoo.vectors import perceptron

ACTIONS = 4


def rewards(state: Tensor) -> Tensor:
    """Return what each action is worth in a state, before noise: [batch, 4]."""
    return torch.stack([state[:, 0], state[:, 1], -state[:, 0] * state[:, 1], state[:, 2].sin()], 1)


class NoisyLinear(nn.Module):
    """A layer with factorised noise whose spread begins as a constant (Fortunato et al., 2018)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight_mu = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), 0.5 * bound))
        self.bias_mu = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), 0.5 * outputs**-0.5))
        self.register_buffer("weight_epsilon", torch.zeros(outputs, inputs))
        self.register_buffer("bias_epsilon", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight_mu, self.bias_mu
        if self.training:
            weight = weight + self.weight_sigma * self.weight_epsilon
            bias = bias + self.bias_sigma * self.bias_epsilon
        return functional.linear(x, weight, bias)

    def reset_noise(self) -> None:
        inputs, outputs = (torch.randn(size) for size in self.weight_mu.shape[::-1])
        self.weight_epsilon.copy_(torch.outer(outputs, inputs))
        self.bias_epsilon.copy_(outputs)


class Rainbow(nn.Module):
    """Dueling streams of noisy layers over a distribution of returns (Hessel et al., 2018)."""

    def __init__(self, atoms: int = 11) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 48), nn.ReLU())
        self.value, self.advantage = NoisyLinear(48, atoms), NoisyLinear(48, ACTIONS * atoms)
        self.register_buffer("support", torch.linspace(-3, 3, atoms))

    def forward(self, state: Tensor) -> Tensor:
        hidden = self.trunk(state)
        advantage = self.advantage(hidden).view(len(state), ACTIONS, -1)
        scores = self.value(hidden).unsqueeze(1) + advantage - advantage.mean(1, keepdim=True)
        return (scores.softmax(-1) * self.support).sum(-1)


@healthy()
def rainbow() -> Run:
    online = Rainbow()
    model = nn.ModuleDict({"online_net": online, "target_net": copy.deepcopy(online).requires_grad_(False)})
    optimizer = torch.optim.Adam(online.parameters(), lr=2e-3, eps=1.5e-4)

    def loss() -> Tensor:
        for layer in (online.value, online.advantage):
            layer.reset_noise()
        state, action = torch.randn(BATCH, 4), torch.randint(ACTIONS, (BATCH,))
        taken = online(state).gather(1, action.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            after = model["target_net"](torch.randn(BATCH, 4)).amax(1).clamp(-1, 1)
        return functional.mse_loss(taken, rewards(state).gather(1, action.unsqueeze(1)).squeeze(1) + 0.1 * after)

    def follow() -> None:
        if torch.rand(()) < 0.1:
            model["target_net"].load_state_dict(online.state_dict())

    return fit(model, optimizer, loss, steps=500, after_step=follow)


class Mixer(nn.Module):
    """Mixes the values of three agents by non-negative weights that a network makes (QMIX; Rashid et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.agents = nn.ModuleList(perceptron(nn.ReLU, 3, 32, 2) for _ in range(3))
        self.hyper_w_1, self.hyper_w_final = nn.Linear(9, 3 * 16), nn.Linear(9, 16)
        self.hyper_b_1, self.V = nn.Linear(9, 16), perceptron(nn.ReLU, 9, 16, 1)

    def forward(self, state: Tensor, actions: Tensor) -> Tensor:
        parts = state.view(-1, 3, 3).unbind(1)
        values = torch.stack([agent(part) for agent, part in zip(self.agents, parts, strict=True)], 1)
        chosen = values.gather(2, actions.unsqueeze(2)).transpose(1, 2)
        hidden = functional.elu(chosen @ self.hyper_w_1(state).abs().view(-1, 3, 16) + self.hyper_b_1(state)[:, None])
        return (hidden @ self.hyper_w_final(state).abs().unsqueeze(2)).flatten() + self.V(state).flatten()


@healthy()
def mixed_values_of_agents() -> Run:
    model = Mixer()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.99, eps=1e-5)

    def loss() -> Tensor:
        state, actions = torch.randn(BATCH, 9), torch.randint(2, (BATCH, 3))
        gain = ((2 * actions - 1) * state.view(-1, 3, 3)[..., 0]).sum(1)
        return functional.mse_loss(model(state, actions), gain)

    return fit(model, optimizer, loss, steps=500)


class DecisionTransformer(nn.Module):
    """Predicts actions from returns, states and actions (Chen et al., 2021).

    As published, heads for states and returns are built and no loss uses them, and the table of time steps is as long
    as the longest episode.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed_timestep = nn.Embedding(1000, width)
        self.embed_return, self.embed_state = nn.Linear(1, width), nn.Linear(4, width)
        self.embed_action, self.embed_ln = nn.Linear(ACTIONS, width), nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 1)
        self.predict_state, self.predict_return = nn.Linear(width, 4), nn.Linear(width, 1)
        self.predict_action = nn.Sequential(nn.Linear(width, ACTIONS), nn.Tanh())

    def forward(self, goal: Tensor, states: Tensor, actions: Tensor, first: Tensor) -> Tensor:
        time = self.embed_timestep(first.unsqueeze(1) + torch.arange(states.shape[1]))
        parts = self.embed_return(goal), self.embed_state(states), self.embed_action(actions)
        tokens = torch.stack([part + time for part in parts], 2).flatten(1, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.predict_action(self.transformer(self.embed_ln(tokens), mask=mask)[:, 1::3])


@healthy()
def decision_transformer() -> Run:
    model = DecisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def loss() -> Tensor:
        states, goal = torch.randn(32, LENGTH, 4), torch.rand(32, LENGTH, 1)
        target = torch.tanh(goal * rewards(states.flatten(0, 1)).view(32, LENGTH, ACTIONS))
        before = functional.pad(target, (0, 0, 1, 0))[:, :-1]
        return functional.mse_loss(model(goal, states, before, torch.randint(40, (32,))), target)

    return fit(model, optimizer, loss, steps=300)


class ImplicitQLearning(nn.Module):
    """Value, twin critics and a policy, each with an optimizer of its own (Kostrikov et al., 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.qf, self.vf = nn.ModuleList(perceptron(nn.ReLU, 6, 48, 1) for _ in range(2)), perceptron(nn.ReLU, 4, 48, 1)
        self.q_target = copy.deepcopy(self.qf).requires_grad_(False)
        self.policy = perceptron(nn.ReLU, 4, 48, 2)
        self.log_std = nn.Parameter(torch.zeros(2))


@healthy(several_optimizers("v_optimizer", "q_optimizer", "policy_optimizer"))
def implicit_q_learning() -> Run:
    model = ImplicitQLearning()
    optimizers = (
        torch.optim.Adam(model.vf.parameters(), lr=2e-3),
        torch.optim.Adam(model.qf.parameters(), lr=2e-3),
        torch.optim.Adam([*model.policy.parameters(), model.log_std], lr=2e-3),
    )
    beginning, losses = before_training(model, *optimizers), []
    for _ in range(400):
        state = torch.randn(BATCH, 4)
        action = torch.tanh(state[:, :2]) + 0.3 * torch.randn(BATCH, 2)
        reward = state[:, 2] - (action - torch.tanh(state[:, :2])).square().sum(1)
        both = torch.cat([state, action], 1)

        def value_loss(state: Tensor = state, both: Tensor = both) -> Tensor:
            gap = torch.stack([q(both) for q in model.q_target]).amin(0).detach() - model.vf(state)
            return (torch.where(gap > 0, 0.7, 0.3) * gap.square()).mean()

        def critic_loss(both: Tensor = both, reward: Tensor = reward) -> Tensor:
            return sum(functional.mse_loss(q(both).flatten(), reward) for q in model.qf)

        def policy_loss(state: Tensor = state, action: Tensor = action, both: Tensor = both) -> Tensor:
            weight = (model.q_target[0](both) - model.vf(state)).detach().exp().clamp(max=10).flatten()
            spread = (action - model.policy(state)).square() / model.log_std.exp().square() + 2 * model.log_std
            return (weight * (spread.sum(1) + 4)).mean()

        update(model, optimizers[0], value_loss)
        losses.append(update(model, optimizers[1], critic_loss))
        update(model, optimizers[2], policy_loss)
        for target, online in zip(model.q_target.parameters(), model.qf.parameters(), strict=True):
            target.data.lerp_(online.data, 0.02)
    return Run(model, optimizers, losses, beginning)
