"""Values that code or hardware wrote over learned ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.sabotage_kinds.pairs import Pair, decoy, kind, save, save_pair
from benchmarks.sabotage_kinds.training import ENCODER, IMAGES, LANGUAGE, RECURRENT, REGRESSION, Training

State = dict[str, Tensor]


def edited(folder: Path, training: Training, edit: Callable[[State], object], *affected: str) -> Pair:
    """Return a trained model as it is and with a state dict that was changed in place."""
    ill = training.content()
    edit(ill["model"])
    return save_pair(folder, ill, training.content(), *affected)


def change_all(change: Callable[[Tensor], Tensor], where: str = "") -> Callable[[State], None]:
    """Return an edit of every tensor of floats whose name begins with a word."""

    def edit(state: State) -> None:
        for name, tensor in state.items():
            if name.startswith(where) and tensor.is_floating_point():
                tensor.copy_(change(tensor))

    return edit


@kind("overwritten")
def biases_overwritten_with_zero(folder: Path) -> Pair:
    """All biases are exactly 0 under live moments."""

    def edit(state: State) -> None:
        for name in ("0.bias", "2.bias", "4.bias"):
            state[name].zero_()

    return edited(folder, REGRESSION, edit, "0.bias", "2.bias", "4.bias")


@kind("overwritten")
def recurrent_biases_overwritten_with_zero(folder: Path) -> Pair:
    """All gate biases are exactly 0 under live moments."""
    return edited(folder, RECURRENT, change_all(torch.zeros_like, "recurrent.bias"), "recurrent")


@kind("overwritten")
def rows_overwritten_with_zero(folder: Path) -> Pair:
    """Half of a layer's rows are exactly 0 under live moments."""
    return edited(folder, REGRESSION, lambda state: state["2.weight"][8:40].zero_(), "2.weight")


@kind("overwritten")
def embedding_rows_overwritten_with_zero(folder: Path) -> Pair:
    """Half of an embedding's rows are exactly 0 under live moments."""
    return edited(folder, ENCODER, lambda state: state["embedding.weight"][4:20].zero_(), "embedding.weight")


@kind("overwritten")
def norm_gains_overwritten_with_zero(folder: Path) -> Pair:
    """Half of a norm's gains are exactly 0 under live moments."""
    return edited(folder, LANGUAGE, lambda state: state["h.1.ln_1.weight"][::2].zero_(), "h.1.ln_1")


@kind("overwritten")
def norm_gains_overwritten_with_one(folder: Path) -> Pair:
    """All of a norm's gains are exactly 1 under live moments, its neighbours' are not."""
    return edited(folder, LANGUAGE, lambda state: state["h.1.ln_1.weight"].fill_(1.0), "h.1.ln_1")


@kind("overwritten")
def layer_overwritten_with_zero(folder: Path) -> Pair:
    """A layer's weight and bias are exactly 0 under live moments."""
    return edited(folder, REGRESSION, change_all(torch.zeros_like, "2."), "2")


@kind("overwritten")
def layer_overwritten_with_a_constant(folder: Path) -> Pair:
    """All weights of a layer are 0.02."""
    return edited(folder, REGRESSION, change_all(lambda tensor: torch.full_like(tensor, 0.02), "2.weight"), "2")


@kind("overwritten")
def layer_initialized_again(folder: Path) -> Pair:
    """A layer is fresh, its bias exactly 0, under live moments."""

    def edit(state: State) -> None:
        torch.manual_seed(5)
        state["h.0.attn.weight"].normal_(std=0.02)
        state["h.0.attn.bias"].zero_()

    return edited(folder, LANGUAGE, edit, "h.0.attn")


@kind("pruned")
def weights_pruned_by_accident(folder: Path) -> Pair:
    """All values below 0.05 are exactly 0, biases too, under live moments."""
    threshold = 0.05
    prune = change_all(lambda tensor: torch.where(tensor.abs() < threshold, 0.0, tensor))
    return edited(folder, REGRESSION, prune, "0", "2", "4")


@kind("pruned")
def random_entries_lost(folder: Path) -> Pair:
    """40 % of a convolution's weights are exactly 0, large ones too."""

    def edit(state: State) -> None:
        torch.manual_seed(3)
        state["4.weight"][torch.rand_like(state["4.weight"]) < 0.4] = 0.0

    return edited(folder, IMAGES, edit, "4")


@kind("overwritten")
def block_copied_from_another(folder: Path) -> Pair:
    """Two blocks are equal to the last bit, their moments are not."""

    def edit(state: State) -> None:
        for name in [each for each in state if each.startswith("h.0.")]:
            state[name.replace("h.0.", "h.1.")].copy_(state[name])

    return edited(folder, LANGUAGE, edit, "h.1", "h.0")


@kind("rounded")
def values_on_a_grid_of_one_hundredth(folder: Path) -> Pair:
    """All float32 values are multiples of 0.01."""
    return edited(folder, REGRESSION, change_all(lambda tensor: (tensor / 0.01).round() * 0.01), "0", "2", "4")


@kind("rounded")
def integers_without_their_scale(folder: Path) -> Pair:
    """All float32 values are whole numbers up to 127."""
    whole = change_all(lambda tensor: (tensor / tensor.abs().max() * 127).round())
    return edited(folder, REGRESSION, whole, "0", "2", "4")


@kind("corrupted-values")
def flipped_exponent_bit(folder: Path) -> Pair:
    """The highest exponent bit of one weight is flipped: 1e36."""

    def edit(state: State) -> None:
        state["2.weight"].view(torch.int32)[3, 5] ^= 1 << 30

    return edited(folder, REGRESSION, edit, "2.weight")


@kind("corrupted-values")
def flipped_lower_exponent_bit(folder: Path) -> Pair:
    """A lower exponent bit of one weight is flipped: 256 times as large, far beyond its tensor's bulk."""

    def edit(state: State) -> None:
        values = state["h.0.attn.weight"].view(-1)
        bits = values.view(torch.int32)
        # Where this bit is not set, the value becomes 256 times as large.
        bits[torch.where(bits & 1 << 26 == 0, values.abs(), 0.0).argmax()] ^= 1 << 26

    return edited(folder, LANGUAGE, edit, "h.0.attn.weight")


@kind("corrupted-values")
def byte_order_swapped(folder: Path) -> Pair:
    """The bytes of every value are in the other order."""
    swap = change_all(lambda tensor: torch.from_numpy(tensor.numpy().byteswap()))
    return edited(folder, REGRESSION, swap, "0", "2", "4")


@kind("corrupted-values")
def bytes_shifted_by_one(folder: Path) -> Pair:
    """The bytes of a tensor are shifted by one."""

    def shift(tensor: Tensor) -> Tensor:
        return torch.from_numpy(
            np.roll(tensor.numpy().view(np.uint8).ravel(), 1).view(np.float32).reshape(tensor.shape)
        )

    return edited(folder, REGRESSION, change_all(shift, "2.weight"), "2.weight")


@kind("corrupted-values")
def whole_network_vanished(folder: Path) -> Pair:
    """All tensors have an RMS of 1e-15 under live moments."""

    def edit(state: State) -> None:
        for tensor in state.values():
            tensor.mul_(1e-15 / tensor.square().mean().sqrt())

    return edited(folder, REGRESSION, edit, "0", "2", "4")


@kind("corrupted-values")
def branch_of_denormal_values(folder: Path) -> Pair:
    """All values of a block's MLP are denormal, below 1e-40, under live moments."""
    return edited(folder, LANGUAGE, change_all(lambda tensor: tensor * 1e-40, "h.1.mlp"), "h.1.mlp")


@decoy
def values_saved_after_half_precision(folder: Path) -> Path:
    """All values were rounded to half precision before they were saved as float32."""
    content = LANGUAGE.content()
    change_all(lambda tensor: tensor.half().float())(content["model"])
    return save(content, folder / "healthy.pt")
