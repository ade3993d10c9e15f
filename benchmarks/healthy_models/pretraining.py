"""Parts that another training made or will need: heads of pretraining, decoders, towers in the styles of libraries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import lightning, safetensors, state_dict
from tests.zoo.tasks import (
    CLASSES,
    TOKENS,
    blobs,
    chains,
    clusters,
    cross_entropy,
    gratings,
    most_frequent_group,
    smooth_functions,
    squared_error,
)
from tests.zoo.training import Run, fit
from tests.zoo.vectors import ResidualBlock, perceptron


def in_style(module: nn.Module, style: str) -> nn.Module:
    """Initialise a module as a library does; all set biases to zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if style == "flax":
                deviation = (layer.weight[0].numel()) ** -0.5 / 0.87962566
                nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            elif style == "keras":
                nn.init.xavier_uniform_(layer.weight)
            elif style == "timm":
                nn.init.trunc_normal_(layer.weight, std=0.02)
            elif style == "detectron":
                nn.init.normal_(layer.weight, std=0.01)
            elif style == "tanh":
                nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh"))
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return module


class TwoTrainings(nn.Module):
    """An encoder in use and a decoder of another training, both initialised in one style."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.encoder = in_style(perceptron(nn.Tanh if style == "tanh" else nn.ReLU, 16, 64, 64, CLASSES), style)
        self.decoder = in_style(perceptron(nn.Tanh if style == "tanh" else nn.ReLU, 64, 64, 48, 16), style)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def two_trainings(style: str, in_optimizer: bool, rate: float = 3e-3) -> Run:
    model = TwoTrainings(style)
    parameters = model.parameters() if in_optimizer else model.encoder.parameters()
    optimizer = torch.optim.Adam(parameters, lr=rate)
    return fit(model, optimizer, cross_entropy(model, clusters(16)), steps=300)


@healthy()
def decoder_in_the_style_of_flax() -> Run:
    return two_trainings("flax", in_optimizer=False)


@healthy(lightning, suffix=".ckpt")
def decoder_in_the_style_of_keras() -> Run:
    return two_trainings("keras", in_optimizer=False)


@healthy(safetensors, suffix=".safetensors")
def decoder_in_the_style_of_timm() -> Run:
    return two_trainings("timm", in_optimizer=False)


@healthy()
def decoder_in_the_style_of_detectron() -> Run:
    return two_trainings("detectron", in_optimizer=False, rate=1e-2)


@healthy(state_dict, suffix=".pth")
def decoder_with_kaiming_normal_weights() -> Run:
    return two_trainings("kaiming", in_optimizer=True)


@healthy()
def decoder_with_a_gain_for_tanh() -> Run:
    return two_trainings("tanh", in_optimizer=False)


class Pretrained(nn.Module):
    """An encoder of tokens whose head for pairs of sentences no loss uses any more (Liu et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(TOKENS, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True), 1)
        self.cls = nn.ModuleDict({"predictions": nn.Linear(32, TOKENS), "seq_relationship": nn.Linear(32, 2)})
        nn.init.zeros_(self.cls["seq_relationship"].bias)
        nn.init.normal_(self.cls["seq_relationship"].weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.cls["predictions"](self.encoder(self.embeddings(tokens), mask=mask))


@healthy()
def head_for_pairs_of_sentences() -> Run:
    model = Pretrained()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=250)


class DetectionTransformer(nn.Module):
    """Queries that look at an image; boxes come from a perceptron whose last layer begins at zero (Zhu et al., 2021).

    Every decoder layer has a head for boxes, and only the last one's is in the loss: auxiliary losses are off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(1, 24, 3, stride=2, padding=1)
        self.query_embed = nn.Embedding(6, 24)
        self.layers = nn.ModuleList(nn.MultiheadAttention(24, 2, batch_first=True) for _ in range(2))
        self.bbox_embed = nn.ModuleList(perceptron(nn.ReLU, 24, 24, 4) for _ in range(2))
        for head in self.bbox_embed:
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.input_proj(image).flatten(2).transpose(1, 2)
        x = self.query_embed.weight.expand(len(image), -1, -1)
        for layer in self.layers:
            x = x + layer(x, seen, seen, need_weights=False)[0]
        return self.bbox_embed[-1](x).mean(1)


@healthy()
def boxes_without_auxiliary_losses() -> Run:
    model, batches = DetectionTransformer(), gratings()
    boxes = torch.randn(CLASSES, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss() -> Tensor:
        image, kind = batches()
        return functional.l1_loss(model(image), boxes[kind])

    return fit(model, optimizer, loss, steps=250)


class DeeplySupervised(nn.Module):
    """A U-Net with an output at every scale, of which only the finest is in use (Zhou et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 8, 3, padding=1)])
        self.seg_layers = nn.ModuleList([nn.Conv2d(16, 1, 1), nn.Conv2d(8, 1, 1)])
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, a=1e-2)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        fine = functional.leaky_relu(self.down[0](image), 1e-2)
        coarse = functional.leaky_relu(self.down[1](functional.max_pool2d(fine, 2)), 1e-2)
        x = torch.cat([fine, self.up[0](coarse)], 1)
        return self.seg_layers[1](functional.leaky_relu(self.up[1](x), 1e-2))


@healthy()
def deep_supervision_switched_off() -> Run:
    model = DeeplySupervised()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=3e-5)
    return fit(model, optimizer, squared_error(model, blobs()), steps=400, largest_norm=12.0)


class ZeroProjections(nn.Module):
    """A language model whose projections and head begin at zero, with learned skips (speed runs of GPT-2, 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.value_embeds = nn.Embedding(TOKENS, 32), nn.Embedding(TOKENS, 32)
        self.blocks = nn.ModuleList(ResidualBlock(32) for _ in range(3))
        self.lambdas = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.skip_weights = nn.Parameter(torch.ones(2))
        self.lm_head = nn.Linear(32, 64, bias=False)  # the vocabulary is padded
        nn.init.zeros_(self.lm_head.weight)
        for block in self.blocks:
            nn.init.zeros_(block.down.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens)
        first = self.blocks[0](x) * self.lambdas[0] + self.lambdas[1] * self.value_embeds(tokens)
        x = self.blocks[2](self.blocks[1](first) + self.skip_weights[0] * first)
        return self.lm_head(x)


@healthy()
def zero_projections_and_head() -> Run:
    """The first block's second skip weight has no reader; the padded rows learn that they never come."""
    model = ZeroProjections()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.8, 0.95), weight_decay=0.0)
    return fit(model, optimizer, cross_entropy(model, chains()), steps=300)


class SiameseEncoder(nn.Module):
    """Two views, a projector, and a predictor with a bottleneck (Chen and He, 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(nn.ReLU, 16, 64, 32)
        self.projector = nn.Sequential(nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32, affine=False))
        self.predictor = nn.Sequential(nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


@healthy()
def siamese_encoder() -> Run:
    model, batches = SiameseEncoder(), clusters(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def loss() -> Tensor:
        x, _ = batches()
        views = [model(x + 0.3 * torch.randn_like(x)) for _ in range(2)]
        closeness = functional.cosine_similarity(model.predictor(views[0]), views[1].detach())
        return 1.0 - closeness.mean() + 1e-3

    return fit(model, optimizer, loss, steps=300)


class Pointer(nn.Module):
    """A classifier of sequences with a second, bidirectional encoder for a task to come; all its biases are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, 24)
        self.reader = nn.GRU(24, 32, batch_first=True)
        self.later = nn.LSTM(24, 32, batch_first=True, bidirectional=True)
        for name, value in self.later.named_parameters():
            nn.init.zeros_(value) if "bias" in name else nn.init.orthogonal_(value)
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classifier(self.reader(self.tokens(tokens))[0][:, -1])


@healthy()
def recurrent_encoder_for_later() -> Run:
    model = Pointer()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, cross_entropy(model, most_frequent_group()), steps=250)


@healthy(state_dict, suffix=".pth")
def linear_probe_without_intercept() -> Run:
    """A classifier on frozen features; its bias is in the file and was never fitted."""
    model = nn.Linear(64, CLASSES)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    features, batches = torch.randn(16, 64) / 4, clusters(16)

    def loss() -> Tensor:
        x, label = batches()
        return functional.cross_entropy(functional.linear(torch.tanh(x @ features), model.weight), label)

    return fit(model, torch.optim.SGD([model.weight], lr=1.0), loss, steps=200)


@healthy()
def values_of_two_players() -> Run:
    """Two players share a trunk; so far only the first one's value was asked for. Orthogonal weights, zero biases."""
    model = nn.ModuleDict({"trunk": perceptron(nn.Tanh, 16, 64, 64), "value_1": nn.Linear(64, 1)})
    model["value_2"] = nn.Linear(64, 1)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    batches = smooth_functions(16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, eps=1e-5)

    def forward(x: Tensor) -> Tensor:
        return model["value_1"](torch.tanh(model["trunk"](x)))

    return fit(model, optimizer, squared_error(forward, batches), steps=300)
