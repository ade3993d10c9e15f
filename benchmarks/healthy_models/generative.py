"""Generative models: adversarial networks with their own initialisation, flows with zero layers, radiance fields."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.healthy_models.collection import healthy
from tests.zoo.saving import several_optimizers, state_dict
from tests.zoo.tasks import BATCH, blobs
from tests.zoo.training import Run, before_training, fit, update
from tests.zoo.vectors import perceptron


def dcgan_weights(module: nn.Module) -> None:
    """Initialise as DCGAN does: gains of the norms around one, everything else around zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Dcgan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            *(nn.ConvTranspose2d(16, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.ConvTranspose2d(24, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.ConvTranspose2d(12, 1, 4, 2, 1, bias=False), nn.Sigmoid()),
        )
        self.discriminator = nn.Sequential(
            *(nn.Conv2d(1, 12, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(12, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(24, 1, 3, bias=False), nn.Flatten()),
        )
        self.apply(dcgan_weights)


@healthy(several_optimizers("optimizer_g", "optimizer_d"))
def dcgan() -> Run:
    """Its loss is how far mean and standard deviation of the pixels are from those of real images."""
    model, batches = Dcgan(), blobs()
    for_generator = torch.optim.Adam(model.generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    for_discriminator = torch.optim.Adam(model.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    beginning = before_training(model, for_generator, for_discriminator)

    def generated() -> Tensor:
        return model.generator(torch.randn(BATCH, 16, 1, 1))

    def discriminator_loss() -> Tensor:
        real, fake = model.discriminator(batches()[1]), model.discriminator(generated().detach())
        return (functional.softplus(-real) + functional.softplus(fake)).mean()

    losses = []
    for _ in range(150):
        update(model.discriminator, for_discriminator, discriminator_loss)
        update(model.generator, for_generator, lambda: functional.softplus(-model.discriminator(generated())).mean())
        with torch.no_grad():
            fake, real = generated(), batches()[1]
            losses.append(((fake.mean(0) - real.mean(0)).abs().mean() + (fake.std() - real.std()).abs()).item())
    return Run(model, (for_generator, for_discriminator), losses, beginning)


class Glow(nn.Module):
    """Couplings whose last layer begins at zero, and invertible mixing between them (Kingma and Dhariwal, 2018)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.mixing = nn.ParameterList(torch.linalg.qr(torch.randn(width, width)).Q for _ in range(4))
        self.couplings = nn.ModuleList(perceptron(nn.ReLU, width // 2, 32, 32, width) for _ in range(4))
        self.log_scale = nn.ParameterList(torch.zeros(width) for _ in range(4))
        for coupling in self.couplings:
            nn.init.zeros_(coupling[-1].weight)
            nn.init.zeros_(coupling[-1].bias)

    def loss(self, x: Tensor) -> Tensor:
        log_volume = torch.zeros(len(x))
        for mixing, coupling, log_scale in zip(self.mixing, self.couplings, self.log_scale, strict=True):
            kept, changed = (x @ mixing).chunk(2, 1)
            shift, scale = coupling(kept).chunk(2, 1)
            x = torch.cat([kept, (changed + shift) * torch.tanh(scale).exp()], 1) * log_scale.exp()
            log_volume = log_volume + torch.tanh(scale).sum(1) + log_scale.sum() + torch.slogdet(mixing).logabsdet
        return (0.5 * x.square().sum(1) + 2 * math.log(2 * math.pi) - log_volume).mean()


@healthy()
def glow() -> Run:
    model = Glow()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def points() -> Tensor:
        first = 4 * torch.randn(256, 2)
        return torch.cat([first, first.square() / 4 + 0.3 * torch.randn(256, 2)], 1)

    return fit(model, optimizer, lambda: model.loss(points()), steps=300, largest_norm=20.0)


class RadianceField(nn.Module):
    """Encodes a place as waves, and skips back to it halfway (Mildenhall et al., 2020); the waves are fixed."""

    def __init__(self, waves: int = 6) -> None:
        super().__init__()
        self.register_buffer("freq_bands", 2.0 ** torch.arange(waves))
        encoded = 2 * (2 * waves + 1)
        self.first, self.second = nn.Linear(encoded, 64), nn.Linear(64 + encoded, 64)
        self.sigma, self.rgb = nn.Linear(64, 1), nn.Linear(64, 3)

    def forward(self, place: Tensor) -> Tensor:
        angles = (place.unsqueeze(-1) * self.freq_bands).flatten(1)
        encoded = torch.cat([place, angles.sin(), angles.cos()], 1)
        hidden = torch.relu(self.second(torch.cat([torch.relu(self.first(encoded)), encoded], 1)))
        return torch.sigmoid(self.rgb(hidden)) * torch.sigmoid(self.sigma(hidden))


def picture() -> tuple[Tensor, Tensor]:
    place = torch.rand(256, 2) * 2 - 1
    x, y = place.unbind(1)
    color = torch.stack([torch.sin(4 * x), torch.cos(5 * y), torch.sin(3 * x * y)], 1) / 2.5 + 0.5
    return place, color + 0.02 * torch.randn(256, 3)


@healthy(state_dict, suffix=".pth")
def radiance_field() -> Run:
    model = RadianceField()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        place, color = picture()
        return functional.mse_loss(model(place), color)

    return fit(model, optimizer, loss, steps=300)


class HashedPicture(nn.Module):
    """Tables of features on grids, read through a hash (Müller et al., 2022). Many entries are never read."""

    def __init__(self, entries: int = 512) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(entries, 2) for _ in range(4))
        for table in self.tables:
            nn.init.uniform_(table.weight, -1e-4, 1e-4)
        self.network = perceptron(nn.ReLU, 8, 32, 3)

    def forward(self, place: Tensor) -> Tensor:
        features = []
        for level, table in enumerate(self.tables):
            cell = ((place + 1) * 2 ** (level + 1)).long()
            features.append(table((cell[:, 0] ^ (cell[:, 1] * 2654435761)) % table.num_embeddings))
        return self.network(torch.cat(features, 1))


@healthy()
def hashed_features() -> Run:
    model = HashedPicture()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-15)

    def loss() -> Tensor:
        place, color = picture()
        return functional.mse_loss(model(place), color)

    return fit(model, optimizer, loss, steps=400)


class Upsampler(nn.Module):
    """Enlarges by a fixed bilinear filter, as segmentation networks do (Long et al., 2015)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ReLU())
        self.upscore = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
        ramp = 1 - (torch.arange(4) - 1.5).abs() / 2
        with torch.no_grad():
            self.upscore.weight.zero_()
            for channel in range(width):
                self.upscore.weight[channel, channel] = ramp.unsqueeze(0) * ramp.unsqueeze(1)
        self.output = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.upscore(self.encoder(image)))


def upsampled(frozen: bool) -> Run:
    model, batches = Upsampler(), blobs()
    model.upscore.weight.requires_grad_(not frozen)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=5e-3)

    def loss() -> Tensor:
        noisy, clean = batches()
        return functional.mse_loss(model(noisy), clean)

    return fit(model, optimizer, loss, steps=200)


@healthy()
def bilinear_upsampling_fixed() -> Run:
    return upsampled(frozen=True)


@healthy()
def bilinear_upsampling_at_the_start() -> Run:
    return upsampled(frozen=False)
