"""What comes in: features that were not scaled, features without a signal, values that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.sabotage_kinds.pairs import Content, Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import ENCODER, IMAGES, RECURRENT, REGRESSION, TANH, Training
from tests.zoo.tasks import Batches
from tests.zoo.unusual import LastStepOfBoth


def transformed(training: Training, change: Callable[[Tensor], Tensor]) -> Training:
    """Return the same training on inputs that were changed after their targets were computed."""

    def batches() -> Batches:
        draw = training.batches()

        def draw_transformed() -> tuple[Tensor, Tensor]:
            x, y = draw()
            return change(x), y

        return draw_transformed

    return replace(training, batches=batches)


def scale_feature(x: Tensor, number: int = 5, factor: float = 5000.0) -> Tensor:
    """Give one feature another unit."""
    factors = torch.ones(x.shape[-1])
    factors[number] = factor
    return x * factors


def silence(x: Tensor, features: int) -> Tensor:
    """Set the first features to zero."""
    return torch.cat([torch.zeros_like(x[..., :features]), x[..., features:]], -1)


@kind("unscaled-inputs")
def one_raw_feature(folder: Path) -> Pair:
    """One feature is 5,000 times as large: its column's √v is 5,000 times the others'."""
    ill = transformed(REGRESSION, scale_feature)
    return save_pair(folder, ill.content(), REGRESSION.content(), "0")


@kind("unscaled-inputs")
def one_raw_feature_before_tanh(folder: Path) -> Pair:
    """One feature is 5,000 times as large before tanh: its column's √v stands out, or the units are saturated."""
    return save_pair(folder, transformed(TANH, scale_feature).content(), TANH.content(), "0")


@kind("unscaled-inputs")
def all_inputs_raw(folder: Path) -> Pair:
    """All inputs are near 64,000: √v of the first weight is 64,000 times √v of its bias."""
    ill = transformed(REGRESSION, lambda x: 64_000.0 * (1.0 + 0.1 * x))
    return save_pair(folder, ill.content(), REGRESSION.content(), "0")


@kind("unscaled-inputs")
def all_inputs_raw_before_tanh(folder: Path) -> Pair:
    """All inputs are near 64,000 before tanh: √v of the weight is 64,000 times its bias's, or 0 by saturation."""
    ill = transformed(TANH, lambda x: 64_000.0 * (1.0 + 0.1 * x))
    return save_pair(folder, ill.content(), TANH.content(), "0")


@kind("unscaled-inputs")
def pixels_up_to_255(folder: Path) -> Pair:
    """Pixels are not divided by 255: √v of the first convolution is about 140 times √v of its bias."""
    training = replace(
        IMAGES, build=lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4))
    )
    ill = transformed(training, lambda x: (128.0 + 64.0 * x).clamp(0, 255))
    return save_pair(folder, ill.content(), training.content(), "0")


@kind("unscaled-inputs")
def raw_sequences(folder: Path) -> Pair:
    """Features of a sequence have an RMS of 3,000: √v of ``weight_ih`` is that much larger than √v of its bias."""
    ill = transformed(RECURRENT, lambda x: 3000.0 * x)
    return save_pair(folder, ill.content(), RECURRENT.content(), "recurrent")


@kind("constant-inputs")
def half_of_the_features_are_zero(folder: Path) -> Pair:
    """Eight of sixteen features are always 0: their columns' second moments are exactly 0."""
    ill = transformed(REGRESSION, lambda x: silence(x, 8))
    return save_pair(folder, ill.content(), REGRESSION.content(), "0")


@kind("constant-inputs")
def all_inputs_are_zero(folder: Path) -> Pair:
    """All inputs are 0: the first weight's second moment is exactly 0, its bias's is not."""
    ill = transformed(TANH, torch.zeros_like)
    return save_pair(folder, ill.content(), TANH.content(), "0")


@kind("constant-inputs")
def black_images(folder: Path) -> Pair:
    """All images are black: every weight's second moment is exactly 0, the last bias alone learns."""
    ill = transformed(IMAGES, torch.zeros_like)
    return save_pair(folder, ill.content(), IMAGES.content(), "0", "1")


@kind("constant-inputs")
def all_inputs_are_one_constant(folder: Path) -> Pair:
    """All inputs are 0.7: every column of the first weight has the same moments, 0.7 times its bias's."""
    ill = transformed(TANH, lambda x: torch.full_like(x, 0.7))
    return save_pair(folder, ill.content(), TANH.content(), "0")


@kind("constant-inputs")
def only_padding_tokens(folder: Path) -> Pair:
    """All tokens are 0: 31 of 32 rows of the embedding have a second moment of 0."""
    ill = transformed(ENCODER, torch.zeros_like)
    return save_pair(folder, ill.content(), ENCODER.content(), "embedding")


@kind("nonfinite-data")
def one_infinite_image(folder: Path) -> Pair:
    """One pixel was infinite and its update skipped: statistics are NaN, weights and moments are finite."""
    ill = IMAGES.content()
    ill["model"] = after_an_infinite_image(ill["model"])
    return save_pair(folder, ill, IMAGES.content(), "1", "5")


def after_an_infinite_image(state: Content) -> Content:
    """Return a CNN's state after a batch with an infinite pixel, whose loss was NaN and whose update was skipped."""
    model = IMAGES.initial()
    model.load_state_dict(state)
    images = torch.zeros(8, 1, 12, 12)
    images[3, 0, 4, 4] = torch.inf
    assert functional.cross_entropy(model(images), torch.zeros(8, dtype=torch.long)).isnan()
    return model.state_dict()


@kind("nonfinite-data")
def nan_in_the_data(folder: Path) -> Pair:
    """The last batch was NaN and not learned from: statistics are NaN, weights and moments are finite."""

    def poison(model: nn.Module, optimizer: Optimizer, number: int) -> None:
        if number == IMAGES.steps - 1:
            with torch.no_grad():
                model(torch.full((4, 1, 12, 12), torch.nan))

    return save_pair(folder, replace(IMAGES, after_step=poison).content(), IMAGES.content(), "1", "5")


@kind("unused-recurrence")
def sequences_of_length_one(folder: Path) -> Pair:
    """Sequences have one step: the second moment of the whole ``weight_hh`` is 0."""
    ill = transformed(RECURRENT, lambda x: x[:, -1:])
    return save_pair(folder, ill.content(), RECURRENT.content(), "recurrent")


@kind("unused-recurrence")
def state_reset_at_every_step(folder: Path) -> Pair:
    """The hidden state is lost at every step: the second moment of the whole ``weight_hh`` is 0."""
    gru = replace(RECURRENT, build=lambda: GruCell())
    ill = replace(RECURRENT, build=lambda: GruCell(reset=True))
    return save_pair(folder, ill.content(), gru.content(), "cell")


class GruCell(nn.Module):
    """Reads a sequence with a cell whose state can be lost at every step."""

    def __init__(self, reset: bool = False) -> None:
        super().__init__()
        self.reset, self.cell, self.head = reset, nn.GRUCell(6, 32), nn.Linear(32, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map [batch, time, 6] to [batch, 3]."""
        hidden = torch.zeros(len(sequence), 32)
        for x in sequence.unbind(1):
            hidden = self.cell(x, torch.zeros_like(hidden) if self.reset else hidden)
        return self.head(hidden)


@decoy
def bidirectional_and_read_at_its_last_step(folder: Path) -> Path:
    """The backward direction makes one step from a zero state, since the last output is read."""
    return save(replace(RECURRENT, build=LastStepOfBoth).content(), folder / "healthy.pt")


@decoy
def one_feature_larger_than_the_others(folder: Path) -> Path:
    """One feature is five times as large as the others."""
    return save(transformed(REGRESSION, lambda x: scale_feature(x, factor=5.0)).content(), folder / "healthy.pt")


@decoy
def one_feature_that_is_always_zero(folder: Path) -> Path:
    """One of sixteen features is always 0."""
    return save(transformed(REGRESSION, lambda x: silence(x, 1)).content(), folder / "healthy.pt")
