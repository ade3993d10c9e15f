"""Recurrent networks beside PyTorch's plain use: directions, peepholes, two biases, one step, fixed reservoirs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, state_dict
from tests.zoo.sequences import LastStep
from tests.zoo.tasks import (
    CLASSES,
    LENGTH,
    TOKENS,
    cross_entropy,
    most_frequent_group,
    moving_averages,
    squared_error,
)
from tests.zoo.training import Run, fit


def averages(model: nn.Module, steps: int = 200, lr: float = 3e-3) -> Run:
    """Train to average a sequence."""
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=lr)
    return fit(model, optimizer, squared_error(model, moving_averages(6, 3)), steps)


class BothAtLastStep(nn.Module):
    """Reads both directions at the last time step, where the backward one has seen that step alone."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(2 * recurrent.hidden_size, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.recurrent(sequence)[0][:, -1])


@healthy()
def bidirectional_gru_at_last_step() -> Run:
    return averages(BothAtLastStep(nn.GRU(6, 24, batch_first=True, bidirectional=True)))


@healthy()
def bidirectional_rnn_at_last_step() -> Run:
    return averages(BothAtLastStep(nn.RNN(6, 24, batch_first=True, bidirectional=True)))


@healthy(lightning, suffix=".ckpt")
def two_layers_bidirectional_at_last_step() -> Run:
    return averages(BothAtLastStep(nn.LSTM(6, 20, 2, batch_first=True, bidirectional=True)))


@healthy()
def projected_lstm() -> Run:
    model = LastStep(nn.LSTM(6, 32, batch_first=True, proj_size=12), 3)
    model.head = nn.Linear(12, 3)
    return averages(model)


@healthy()
def forget_bias_of_one() -> Run:
    model = LastStep(nn.LSTM(6, 32, batch_first=True), 3)
    for name, bias in model.recurrent.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(bias)
    with torch.no_grad():
        model.recurrent.bias_ih_l0[32:64] = 1.0
    return averages(model)


@healthy()
def chrono_initialized() -> Run:
    """Forget biases of up to log(T), and input biases of the opposite sign (Tallec and Ollivier, 2018)."""
    model = LastStep(nn.LSTM(6, 32, batch_first=True), 3)
    with torch.no_grad():
        model.recurrent.bias_hh_l0.zero_()
        model.recurrent.bias_ih_l0[32:64] = torch.empty(32).uniform_(1, 200).log()
        model.recurrent.bias_ih_l0[:32] = -model.recurrent.bias_ih_l0[32:64]
    return averages(model, steps=300)


@healthy(state_dict, suffix=".pth")
def lstm_converted_from_keras() -> Run:
    """Keras has one bias; the conversion puts it into `bias_ih` and leaves `bias_hh` at zero."""
    run = averages(LastStep(nn.LSTM(6, 32, batch_first=True), 3))
    recurrent = run.model.recurrent
    with torch.no_grad():
        recurrent.bias_ih_l0 += recurrent.bias_hh_l0
        recurrent.bias_hh_l0.zero_()
    return Run(run.model, (), run.losses)


@healthy(state_dict, suffix=".pth")
def gru_converted_from_keras() -> Run:
    """Keras' first form of the GRU has one bias too, in which the two of the candidate are one."""
    model = LastStep(nn.GRU(6, 32, batch_first=True), 3)
    model.recurrent.bias_hh_l0.requires_grad_(False).zero_()
    return Run(model, (), averages(model).losses)


@healthy()
def lstm_with_one_bias_trained() -> Run:
    """The second of the redundant biases is frozen at zero."""
    model = LastStep(nn.LSTM(6, 32, batch_first=True), 3)
    model.recurrent.bias_hh_l0.requires_grad_(False).zero_()
    return averages(model)


@healthy()
def gru_of_one_step() -> Run:
    """Used for one step from a zero state, so that nothing reaches the recurrent weights."""
    model = LastStep(nn.GRU(6, 32, batch_first=True), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    draw = moving_averages(6, 3)
    directions = torch.randn(6, 3) / 2

    def one_step() -> tuple[Tensor, Tensor]:
        last = draw()[0][:, -1:]
        return last, torch.tanh(last[:, 0] @ directions)

    return fit(model, optimizer, squared_error(model, one_step), steps=300)


class Peephole(nn.Module):
    """An LSTM cell whose gates look at the cell state (Gers and Schmidhuber, 2000); the peepholes begin at zero."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, inputs).uniform_(-1, 1) / math.sqrt(width))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width).uniform_(-1, 1) / math.sqrt(width))
        self.bias = nn.Parameter(torch.cat([torch.zeros(width), torch.ones(width), torch.zeros(2 * width)]))
        self.weight_ci, self.weight_cf, self.weight_co = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.head = nn.Linear(width, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        hidden = cell = torch.zeros(len(sequence), len(self.weight_ci))
        for x in sequence.unbind(1):
            i, f, g, o = (x @ self.weight_ih.T + hidden @ self.weight_hh.T + self.bias).chunk(4, 1)
            i, f = torch.sigmoid(i + self.weight_ci * cell), torch.sigmoid(f + self.weight_cf * cell)
            cell = f * cell + i * torch.tanh(g)
            hidden = torch.sigmoid(o + self.weight_co * cell) * torch.tanh(cell)
        return self.head(hidden)


@healthy()
def peephole_lstm() -> Run:
    return averages(Peephole(6, 24))


class MinimalLstmCell(nn.Module):
    """PyTorch's cells, unrolled by hand, with layer normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 16)
        self.cell, self.norm, self.second = nn.LSTMCell(16, 24), nn.LayerNorm(24), nn.GRUCell(24, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = cell = last = torch.zeros(len(tokens), 24)
        for x in self.embedding(tokens).unbind(1):
            hidden, cell = self.cell(x, (hidden, cell))
            last = self.second(self.norm(hidden), last)
        return self.head(last)


@healthy()
def unrolled_cells() -> Run:
    model = MinimalLstmCell()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, most_frequent_group()), steps=150)


class EchoState(nn.Module):
    """A sparse random reservoir that is never trained, and a linear layer that reads it (Jaeger, 2001)."""

    def __init__(self, width: int = 120) -> None:
        super().__init__()
        self.register_buffer("w_in", torch.empty(width, 6).uniform_(-0.5, 0.5))
        reservoir = torch.randn(width, width) * (torch.rand(width, width) < 0.1)
        self.register_buffer("w", 0.9 * reservoir / torch.linalg.eigvals(reservoir).abs().max())
        self.readout = nn.Linear(width, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        state = torch.zeros(len(sequence), len(self.w))
        for x in sequence.unbind(1):
            state = torch.tanh(x @ self.w_in.T + state @ self.w.T)
        return self.readout(state)


@healthy()
def echo_state_reservoir() -> Run:
    return averages(EchoState(), lr=1e-2)


class EncoderDecoder(nn.Module):
    """The encoder's last state starts the decoder, whose own outputs come last to first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(6, 32, batch_first=True)
        self.start = nn.Parameter(torch.zeros(6))
        self.decoder = nn.GRU(6, 32, batch_first=True)
        self.output = nn.Linear(32, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        _, state = self.encoder(sequence)
        asked = self.start.expand(len(sequence), LENGTH // 4, -1)
        return self.output(self.decoder(asked, state)[0][:, -1])


@healthy()
def encoder_decoder_with_constant_input() -> Run:
    return averages(EncoderDecoder(), steps=300)
