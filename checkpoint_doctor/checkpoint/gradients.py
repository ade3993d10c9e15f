"""What a running training loop shows of its gradients. Only the callbacks know it; in a file there is none."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from checkpoint_doctor.checkpoint.tensors import Tensor


class Spoiled(Struct, frozen=True):
    """The entries of one gradient that were not finite."""

    nan: int
    infinite: int
    count: int
    """Entries of the gradient."""


class NonfiniteGradient(Struct, frozen=True):
    """A step whose gradients were not all finite."""

    step: int
    """The optimizer's step, counted from 1 since the monitor was attached."""
    tensors: Mapping[str, Spoiled]
    """Parameter to its spoiled entries, before clipping, in the model's order; parameters without any are left out."""
    parameters: int
    """How many parameters had a gradient."""
    prevented: bool
    """True where the optimizer's step was kept from writing them into the weights."""


class GradientSpike(Struct, frozen=True):
    """A step whose gradient was far larger than those before it."""

    step: int
    norm: float
    usual: float
    """Geometric mean of the norms of the steps before."""
    sigmas: float
    """How many standard deviations of their logarithm it is above it."""


class Gradients(Struct, frozen=True, eq=False):
    """The gradients of what one optimizer holds, as they were before clipping."""

    optimizer: str
    """The optimizer's name in the checkpoint."""
    steps: int
    """Steps with a gradient that were watched so far."""
    silent_steps: int = 0
    """The latest steps in a row in which every gradient was exactly zero."""
    norm: float | None = None
    """Norm of all gradients of the latest step."""
    largest_norm: float | None = None
    """The largest norm since the check before this one."""
    nonfinite: tuple[NonfiniteGradient, ...] = ()
    """The first steps since the check before this one whose gradients were not finite."""
    nonfinite_steps: int = 0
    """How many such steps there were."""
    spikes: tuple[GradientSpike, ...] = ()
    """The steps since the check before this one that stood out."""
    latest: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameter to its gradient of the latest step where it is still there, after clipping."""
    clip_factor: float = 1.0
    """By what clipping multiplied the gradients in ``latest``."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Parameter to the number of the latest steps in which it had no gradient (``None``), though it had one in every
    step before, 100 at least."""
    zeroed: Mapping[str, int] = field(default_factory=dict)
    """Parameter to the number of the latest steps in which its gradient was exactly zero wherever it was looked at,
    though it was not in any step before, 100 at least."""
    frozen: frozenset[str] = frozenset()
    """Parameters whose ``requires_grad`` was switched off after the monitor was attached, and that have had no gradient
    since. In the training of a GAN it is switched off and on, and the gradients are there."""
    awakened_inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Layer to the inputs that were always zero up to the check before this one, and are not any more."""
