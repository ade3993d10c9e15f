"""Models of a distribution: variational autoencoder, adversarial networks, normalising flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.saving import lightning, safetensors, several_optimizers
from tests.zoo.tasks import BATCH, SIDE, blobs
from tests.zoo.training import Run, fit, healthy, update


class VariationalAutoencoder(nn.Module):
    def __init__(self, latent: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, SIDE * SIDE))

    def loss(self, images: Tensor) -> Tensor:
        hidden = self.encoder(images)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        error = functional.mse_loss(self.decoder(latent), images.flatten(1), reduction="none").sum(1)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (error + 0.1 * divergence).mean()


@healthy(lightning, suffix=".ckpt")
def variational_autoencoder() -> Run:
    model, batches = VariationalAutoencoder(), blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, optimizer, lambda: model.loss(batches()[0]), steps=400)


class AdversarialPair(nn.Module):
    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(latent, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
        self.discriminator = nn.Sequential(
            *(nn.Linear(2, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1))
        )


@healthy(several_optimizers("generator_optimizer", "discriminator_optimizer"))
def adversarial_networks() -> Run:
    """Its loss is how far the means and covariances of real and generated points are apart."""
    model = AdversarialPair()
    generator, discriminator = model.generator, model.discriminator
    for_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for_discriminator = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    mixing = torch.tensor([[1.0, 0.6], [0.0, 0.5]])

    def real(points: int = BATCH) -> Tensor:
        return torch.randn(points, 2) @ mixing + torch.tensor([2.0, -1.0])

    def generated(points: int = BATCH) -> Tensor:
        return generator(torch.randn(points, 8))

    def discriminator_loss() -> Tensor:
        return (
            functional.softplus(-discriminator(real())).mean()
            + functional.softplus(discriminator(generated().detach())).mean()
        )

    def distance() -> float:
        ours, theirs = generated(1000), real(1000)
        return ((ours.mean(0) - theirs.mean(0)).norm() + (ours.T.cov() - theirs.T.cov()).norm()).item()

    losses = []
    for _ in range(400):
        update(discriminator, for_discriminator, discriminator_loss)
        update(generator, for_generator, lambda: functional.softplus(-discriminator(generated())).mean())
        with torch.no_grad():
            losses.append(distance())
    return Run(model, (for_generator, for_discriminator), losses)


class Coupling(nn.Module):
    """Scales and shifts one half of a vector by what the other half says (Dinh et al., 2017)."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.scale = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2), nn.Tanh())
        self.shift = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * self.mask
        scale, shift = self.scale(kept) * (1 - self.mask), self.shift(kept) * (1 - self.mask)
        return x * scale.exp() + shift, scale.sum(1)


class NormalizingFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(torch.tensor([k % 2, 1.0 - k % 2])) for k in range(6))

    def negative_log_likelihood(self, x: Tensor) -> Tensor:
        log_volume = torch.zeros(len(x))
        for coupling in self.couplings:
            x, stretched = coupling(x)
            log_volume = log_volume + stretched
        return (0.5 * (x**2).sum(1) + 1.8379 - log_volume).mean()


@healthy(safetensors, suffix=".safetensors")
def normalizing_flow() -> Run:
    model = NormalizingFlow()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss() -> Tensor:
        across = 2 * torch.randn(2 * BATCH)
        up = across**2 / 2 + 0.3 * torch.randn(2 * BATCH)
        return model.negative_log_likelihood(torch.stack([across, up], 1))

    return fit(model, optimizer, loss, steps=300)
