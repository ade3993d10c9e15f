"""Tables of embeddings: tied, padded, with rows that no token ever asks for, and read as linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import several_optimizers, state_dict
from tests.zoo.sequences import LanguageModel
from tests.zoo.tasks import BATCH, CLASSES, LENGTH, TOKENS, chains, cross_entropy, most_frequent_group, squared_error
from tests.zoo.training import Run, fit
from tests.zoo.vectors import perceptron

VOCABULARY = 400


def zipf(count: int, length: int = LENGTH) -> Tensor:
    """Draw tokens as often as words are used: most of the vocabulary is hardly ever drawn."""
    weights = 1.0 / torch.arange(1, VOCABULARY + 1) ** 1.6
    return torch.multinomial(weights, count * length, replacement=True).view(count, length)


class BagOfTokens(nn.Module):
    def __init__(self, rows: int = VOCABULARY, width: int = 16, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width, **options)
        self.layers = perceptron(nn.ReLU, width, 48, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.embedding(tokens).mean(1))


def topics() -> tuple[Tensor, Tensor]:
    """Say which of four kinds of tokens, told apart by their number's remainder, a sequence has most of."""
    tokens = zipf(BATCH)
    return tokens, functional.one_hot(tokens % CLASSES, CLASSES).sum(1).argmax(1)


@healthy()
def zipf_tokens() -> Run:
    model = BagOfTokens()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, cross_entropy(model, topics), steps=200)


@healthy(several_optimizers("sparse_optimizer", "dense_optimizer"))
def zipf_tokens_sparse_adam() -> Run:
    """Sparse gradients touch the rows of a batch alone."""
    model = BagOfTokens(sparse=True)
    sparse = torch.optim.SparseAdam(model.embedding.parameters(), lr=1e-2)
    dense = torch.optim.Adam(model.layers.parameters(), lr=5e-3)
    loss, losses = cross_entropy(model, topics), []
    for _ in range(250):
        value = loss()
        model.zero_grad()
        value.backward()
        sparse.step()
        dense.step()
        losses.append(value.item())
    return Run(model, (sparse, dense), losses)


@healthy()
def zipf_tokens_adagrad() -> Run:
    model = BagOfTokens()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    return fit(model, optimizer, cross_entropy(model, topics), steps=250)


@healthy()
def padded_vocabulary() -> Run:
    """Rows were added until their number is a multiple of 64; no token asks for them, and they are zero."""
    model = LanguageModel()
    model.wte = nn.Embedding(64, 32)
    nn.init.normal_(model.wte.weight, std=0.02)
    with torch.no_grad():
        model.wte.weight[TOKENS:] = 0.0
    model.lm_head = nn.Linear(32, 64, bias=False)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.02)[TOKENS:] = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = chains()

    def loss() -> Tensor:
        tokens, following = batches()
        return functional.cross_entropy(model(tokens)[..., :TOKENS].flatten(0, 1), following.flatten())

    return fit(model, optimizer, loss, steps=250, largest_norm=1.0)


@healthy()
def tied_with_output_bias() -> Run:
    """As in BERT: the output layer is the embedding, with a bias of its own."""
    model = LanguageModel()
    model.lm_head = nn.Linear(32, TOKENS)
    nn.init.zeros_(model.lm_head.bias)
    model.lm_head.weight = model.wte.weight
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=200, largest_norm=1.0)


@healthy()
def padding_token() -> Run:
    model = BagOfTokens(TOKENS + 1, padding_idx=TOKENS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batches = most_frequent_group()

    def padded() -> tuple[Tensor, Tensor]:
        tokens, label = batches()
        return torch.where(torch.arange(LENGTH) >= torch.randint(8, LENGTH + 1, (BATCH, 1)), TOKENS, tokens), label

    return fit(model, optimizer, cross_entropy(model, padded), steps=250)


@healthy(state_dict, suffix=".pth")
def frozen_word_vectors() -> Run:
    """Word vectors from elsewhere, with zeros for padding and for unknown words."""
    model = BagOfTokens(TOKENS)
    batches = most_frequent_group()
    fit(model, torch.optim.Adam(model.parameters(), lr=5e-3), cross_entropy(model, batches), steps=100)
    vectors = torch.cat([torch.zeros(2, 16), model.embedding.weight.detach()])
    model.embedding, model.layers = nn.Embedding.from_pretrained(vectors), perceptron(nn.ReLU, 16, 48, CLASSES)
    optimizer = torch.optim.Adam(model.layers.parameters(), lr=5e-3)

    def words() -> tuple[Tensor, Tensor]:
        tokens, label = batches()
        return tokens + 2, label

    return fit(model, optimizer, cross_entropy(model, words), steps=200)


class SkipGram(nn.Module):
    """Two tables, of which the second begins at zero as in word2vec."""

    def __init__(self) -> None:
        super().__init__()
        self.center, self.context = nn.Embedding(TOKENS, 12), nn.Embedding(TOKENS, 12)
        nn.init.uniform_(self.center.weight, -0.5 / 12, 0.5 / 12)
        nn.init.zeros_(self.context.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.center(tokens) @ self.context.weight.T


@healthy()
def skip_gram() -> Run:
    model = SkipGram()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=300)


class WindowAttention(nn.Module):
    """Attention with a table of biases for relative positions that begins at zero."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        # Twice as many positions as the sequences have: the farther ones are never read.
        self.relative_position_bias_table = nn.Parameter(torch.zeros(4 * LENGTH - 1, heads))
        places = torch.arange(LENGTH)
        self.register_buffer("relative_position_index", places[:, None] - places[None, :] + 2 * LENGTH - 1)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        shape = (*tokens.shape, 3, self.heads, -1)
        query, key, value = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        mask = torch.ones(LENGTH, LENGTH).triu(1).bool()
        attended = functional.scaled_dot_product_attention(query, key, value, bias.masked_fill(mask, -1e9))
        return self.head(self.norm(x + self.proj(attended.transpose(1, 2).flatten(2))))


@healthy()
def relative_positions() -> Run:
    model = WindowAttention()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=250)


@healthy()
def action_value_table() -> Run:
    """A table of values, kept as an embedding; some states are never reached."""
    model = nn.Embedding(60, 4)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    values = torch.randn(60, 4)

    def visits() -> tuple[Tensor, Tensor]:
        state = torch.randint(45, (BATCH,))
        return state, values[state] + 0.1 * torch.randn(BATCH, 4)

    return fit(model, optimizer, squared_error(model, visits), steps=300)


class FactorsAsLinear(nn.Module):
    """Users and items as linear layers over one-hot vectors; some users have rated nothing."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users = nn.Linear(users, 8, bias=False)
        self.items = nn.Linear(items, 8, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        return (self.users.weight.T[user] * self.items.weight.T[item]).sum(1)


@healthy()
def factors_as_linear_layers() -> Run:
    users, items = 80, 50
    model = FactorsAsLinear(users, items)
    nn.init.normal_(model.users.weight, std=0.3)
    nn.init.normal_(model.items.weight, std=0.3)
    with torch.no_grad():
        model.users.weight[:, 60:] = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    tastes, traits = torch.randn(users, 3), torch.randn(items, 3)

    def ratings() -> tuple[Tensor, Tensor]:
        user, item = torch.randint(60, (256,)), torch.randint(items, (256,))
        return torch.stack([user, item], 1), (tastes[user] * traits[item]).sum(1) + 0.1 * torch.randn(256)

    return fit(model, optimizer, squared_error(model, ratings), steps=300)
