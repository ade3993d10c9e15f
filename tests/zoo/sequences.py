"""Models of sequences and graphs: recurrent networks, transformers, graph convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.saving import lightning, training_state
from tests.zoo.tasks import (
    CLASSES,
    LENGTH,
    TOKENS,
    chains,
    cross_entropy,
    most_frequent_group,
    moving_averages,
    squared_error,
)
from tests.zoo.training import Run, fit, healthy


class LastStep(nn.Module):
    """Reads what a recurrent network has made of a sequence when it has seen all of it."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, outputs)

    def forward(self, sequence: Tensor) -> Tensor:
        hidden, _ = self.recurrent(sequence)
        return self.head(hidden[:, -1])


@healthy(lightning, suffix=".ckpt")
def lstm() -> Run:
    model = LastStep(nn.LSTM(6, 32, num_layers=2, batch_first=True), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, squared_error(model, moving_averages(6, 3)), steps=200)


@healthy(training_state)
def elman_rnn() -> Run:
    model = LastStep(nn.RNN(6, 32, batch_first=True), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return fit(model, optimizer, squared_error(model, moving_averages(6, 3)), steps=300, largest_norm=1.0)


class BidirectionalGru(nn.Module):
    """Reads the last state of either direction, each of which has seen the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 16)
        self.gru = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        _, last = self.gru(self.embedding(tokens))
        return self.head(torch.cat([last[0], last[1]], 1))


@healthy(training_state)
def bidirectional_gru() -> Run:
    model = BidirectionalGru()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    return fit(model, optimizer, cross_entropy(model, most_frequent_group()), steps=200)


class TransformerEncoder(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.positions = nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.encoder(embedded).mean(1))


@healthy(training_state)
def transformer_encoder() -> Run:
    model = TransformerEncoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return fit(model, optimizer, cross_entropy(model, most_frequent_group()), steps=200)


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.attn(self.ln_1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.ln_2(x))


class LanguageModel(nn.Module):
    """A decoder whose output layer is its token embedding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.wte = nn.Embedding(TOKENS, width)
        self.wpe = nn.Embedding(LENGTH, width)
        self.h = nn.ModuleList(DecoderBlock(width) for _ in range(2))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


@healthy(training_state)
def language_model() -> Run:
    model = LanguageModel()
    decayed = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    return fit(model, optimizer, cross_entropy(model, chains()), steps=250, largest_norm=1.0)


class GraphConvolution(nn.Module):
    """One layer of Kipf and Welling's network: mixes the neighbours' features, then maps them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(before, after)))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class GraphNetwork(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv1 = GraphConvolution(inputs, 16)
        self.conv2 = GraphConvolution(16, CLASSES)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        hidden = functional.dropout(torch.relu(self.conv1(x, adjacency)), 0.5, self.training)
        return self.conv2(hidden, adjacency)


@healthy(training_state)
def graph_convolutions() -> Run:
    nodes = 160
    community = torch.arange(nodes) % CLASSES
    chance = torch.where(community.unsqueeze(0) == community.unsqueeze(1), 0.12, 0.02)
    edges = torch.bernoulli(chance).triu(1)
    adjacency = edges + edges.T + torch.eye(nodes)
    degree = adjacency.sum(1).rsqrt()
    adjacency = degree.unsqueeze(1) * adjacency * degree
    features = torch.randn(CLASSES, 12)[community] + 1.5 * torch.randn(nodes, 12)
    labelled = torch.arange(80)
    model = GraphNetwork(12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    return fit(
        model,
        optimizer,
        lambda: functional.cross_entropy(model(features, adjacency)[labelled], community[labelled]),
        steps=200,
    )
