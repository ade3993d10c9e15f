"""Watches the gradients of one optimizer at every step, before they reach the weights. It changes none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, log, sqrt
from typing import Any

import numpy as np
import torch

from checkpoint_doctor.callbacks.live_checkpoint import parameters_of
from checkpoint_doctor.callbacks.live_tensors import gather, is_sharded, present
from checkpoint_doctor.callbacks.norm_window import NormWindow
from checkpoint_doctor.checkpoint import Gradients, NonfiniteGradient, Spoiled, Tensor

MOST_EVENTS = 8
"""Steps with gradients that are not finite, or spikes, that are kept between two checks; the others are counted."""


_PLAIN = (torch.float32, torch.float64)

FEWEST_REGULAR = 100
"""Steps with a gradient of each parameter after which it is noticed that one has none any more."""

BETWEEN_LOOKS = 10
"""Steps from one to the next at which it is looked for gradients that are exactly zero, so that it costs nothing."""


class GradientWatch:
    """The gradients of what one optimizer holds.

    On the CPU every step is judged before the optimizer makes it. On other devices nothing waits for the device: the
    norms stay there, and are read when they are there already, or at the next check.
    """

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name, self.optimizer = name, optimizer
        self.steps = 0
        self.silent_steps = 0
        self.norm: float | None = None
        self.clip_factor = 1.0
        self.window = NormWindow()
        self._largest: float | None = None
        self._nonfinite: list[NonfiniteGradient] = []
        self._nonfinite_steps = 0
        self._goes_on = False
        self._parameters: list[torch.Tensor] = []
        self._known: set[int] = set()
        self._before_clipping: tuple[int, float | torch.Tensor, float] | None = None
        self._spoiled: dict[int, Spoiled] | None = None
        self._present = 0
        """How many parameters had a gradient at the latest step."""
        self._missing: dict[int, int] = {}
        """``id()`` of a parameter to the first step without its gradient."""
        self._irregular: set[int] = set()
        """``id()`` of parameters that had no gradient at some step and then had one."""
        self._zeros: dict[int, int] = {}
        """``id()`` of a parameter to the first step that was looked at since when its gradient is exactly zero."""
        self._trainable = {id(each) for each in parameters_of(optimizer) if each.requires_grad}
        self._waiting: list[tuple[int, torch.Tensor]] = []
        """Norms that are still on their device, with their steps."""
        self._waiting_zeros: list[tuple[int, list[int], torch.Tensor]] = []
        """Which gradients are exactly zero, still on their device, with their steps and the parameters' ``id()``."""
        self._find_parameters()

    def before_clipping(
        self, parameters: Sequence[torch.Tensor], max_norm: float | None, norm: torch.Tensor | None
    ) -> None:
        """See ``clipping.Listener``."""
        with_gradient = [each for each in parameters if each.grad is not None]
        held = [each for each in with_gradient if id(each) in self._known]
        if not held:
            return
        every = len(with_gradient)
        is_whole = every == len(held)
        total: float | torch.Tensor
        if norm is not None and is_whole:
            total = norm
        else:
            total = self._measure([each.grad for each in held if each.grad is not None])
        factor = 1.0
        if _is_at_hand(total):
            total = float(total)
            if not isfinite(total):
                self._spoiled = _count_spoiled(held)
            whole = total if is_whole else float("nan") if norm is None else float(norm)
            if max_norm is not None and isfinite(whole):
                factor = min(1.0, max_norm / (whole + 1e-6))
        self._before_clipping = len(held), total, factor

    def before_step(self) -> bool:
        """Look at the gradients that the optimizer is about to use; return whether they are known to be spoiled."""
        clipped, self._before_clipping = self._before_clipping, None
        spoiled, self._spoiled = self._spoiled, None
        grads = [each.grad for each in self._parameters if each.grad is not None]
        if not grads or self._is_skipped_by_scaler():
            return False
        self.steps += 1
        if len(grads) != self._present:
            self._notice_missing(len(grads))
        if self.steps % BETWEEN_LOOKS == 0:
            self._look_for_zeros()
        total: float | torch.Tensor
        if clipped is not None and clipped[0] == len(grads):
            _, total, self.clip_factor = clipped
        else:
            total, self.clip_factor = self._measure(grads), 1.0
        if not _is_at_hand(total):
            assert isinstance(total, torch.Tensor)
            self._waiting.append((self.steps, total.to("cpu", non_blocking=True)))
            return False
        return self._judge(self.steps, float(total), spoiled)

    def _notice_missing(self, present: int) -> None:
        self._present = present
        for parameter in self._parameters:
            key = id(parameter)
            if parameter.grad is None:
                self._missing.setdefault(key, self.steps)
            elif key in self._missing:
                del self._missing[key]
                self._irregular.add(key)

    def _look_for_zeros(self) -> None:
        """Find the gradients that are exactly zero in every entry, as ``zero_grad(set_to_none=False)`` leaves them."""
        held = [
            each
            for each in self._parameters
            if each.grad is not None and each.grad.layout is torch.strided and each.numel() and not is_sharded(each)
        ]
        if not held:
            return
        keys, grads = [id(each) for each in held], [each.grad.detach() for each in held if each.grad is not None]
        if self._is_plain:  # NumPy ends at the first entry that is not zero
            self._remember_zeros(self.steps, keys, [not each.numpy().any() for each in grads])
            return
        largest = torch._foreach_norm(grads, float("inf"))
        are_zero = torch.stack([each.to(largest[0].device, torch.float32) for each in largest]) == 0
        if are_zero.device.type == "cpu":
            self._remember_zeros(self.steps, keys, are_zero.tolist())
        else:
            self._waiting_zeros.append((self.steps, keys, are_zero.to("cpu", non_blocking=True)))

    def _remember_zeros(self, step: int, keys: Sequence[int], are_zero: Sequence[bool]) -> None:
        for key, is_zero in zip(keys, are_zero, strict=True):
            if is_zero:
                self._zeros.setdefault(key, step)
            elif self._zeros.pop(key, None) is not None:
                self._irregular.add(key)

    def _judge(self, step: int, total: float, spoiled: Mapping[int, Spoiled] | None = None) -> bool:
        if isfinite(total):
            self.norm = total
            self._largest = total if self._largest is None else max(total, self._largest)
            self.silent_steps = self.silent_steps + 1 if total == 0.0 else 0
            if total > 0.0:
                self.window.add(step, log(total))
            return False
        held = [each for each in self._parameters if each.grad is not None]
        counted = _count_spoiled(held) if spoiled is None else spoiled
        if not counted and not any(is_sharded(each.grad) for each in held):
            # The squares of finite gradients overflowed.
            self.norm = self._largest = inf
            return False
        self._nonfinite_steps += 1
        if len(self._nonfinite) < MOST_EVENTS:
            by_position = {str(self._position(key)): each for key, each in counted.items()}
            self._nonfinite.append(NonfiniteGradient(step, by_position, len(held), prevented=False))
        return True

    @property
    def is_first_event(self) -> bool:
        """True at the first of several steps whose gradients were not finite, with no check between that had none."""
        return self._nonfinite_steps == 1 and not self._goes_on

    def prevent_step(self) -> None:
        """Keep the optimizer's next step from changing anything: a parameter without gradient is passed over."""
        for parameter in self._parameters:
            parameter.grad = None
        if self._nonfinite and self._nonfinite[-1].step == self.steps:
            last = self._nonfinite[-1]
            self._nonfinite[-1] = NonfiniteGradient(last.step, last.tensors, last.parameters, prevented=True)

    def read_waiting(self) -> bool:
        """Judge the norms that came from another device since the last call; return whether one was not finite."""
        waiting, self._waiting = self._waiting, []
        if (waiting or self._waiting_zeros) and torch.cuda.is_available():
            torch.cuda.synchronize()
        for looked_at, keys, are_zero in self._waiting_zeros:
            self._remember_zeros(looked_at, keys, are_zero.tolist())
        self._waiting_zeros = []
        judged = [self._judge(step, float(norm)) for step, norm in waiting]
        return any(judged)

    def describe(self, names: Mapping[int, str], awakened: Mapping[str, tuple[int, ...]]) -> Gradients:
        """Return what was seen since the last call of ``begin_anew``.

        Args:
            names: ``id()`` of each parameter to its name.
            awakened: layer to the inputs that were always zero before.
        """
        self._find_parameters()
        name_of = {str(index): names.get(id(each), str(index)) for index, each in enumerate(self._parameters)}
        latest = {}
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                shown = present(name_of[str(index)], gather(parameter.grad))
                if isinstance(shown, Tensor):
                    latest[shown.name] = shown
        zeroed = self._since(self._zeros, names)
        return Gradients(
            optimizer=self.name,
            steps=self.steps,
            silent_steps=self.silent_steps,
            norm=self.norm,
            largest_norm=self._largest,
            nonfinite=tuple(
                NonfiniteGradient(
                    each.step, {name_of[key]: found for key, found in each.tensors.items()}, each.parameters,
                    each.prevented,
                )
                for each in self._nonfinite
            ),
            nonfinite_steps=self._nonfinite_steps,
            spikes=tuple(self.window.spikes),
            latest=latest,
            clip_factor=self.clip_factor,
            stopped=self._since(self._missing, names),
            zeroed=zeroed,
            frozen=frozenset(
                names[id(each)]
                for each in self._parameters
                if id(each) in names
                and id(each) in self._trainable
                and not each.requires_grad
                and (id(each) in self._missing or zeroed.get(names[id(each)], 0) >= FEWEST_REGULAR)
            ),
            awakened_inputs=awakened,
        )  # fmt: skip

    def _since(self, first: Mapping[int, int], names: Mapping[int, str]) -> dict[str, int]:
        """Return the parameters that had a gradient in every step up to a first one without, by name, and the steps."""
        return {
            names[id(each)]: self.steps - first[id(each)] + 1
            for each in self._parameters
            if id(each) in names and id(each) not in self._irregular and first.get(id(each), 0) > FEWEST_REGULAR
        }

    def begin_anew(self) -> None:
        """Forget the events up to a check that told of them."""
        self._goes_on = bool(self._nonfinite_steps)
        self._nonfinite, self._nonfinite_steps, self._largest = [], 0, self.norm
        self.window.spikes.clear()

    def _find_parameters(self) -> None:
        self._parameters = parameters_of(self.optimizer)
        self._known = {id(each) for each in self._parameters}
        self._is_plain = all(
            each.device.type == "cpu" and each.dtype in _PLAIN and not is_sharded(each) for each in self._parameters
        )

    def _measure(self, grads: Sequence[torch.Tensor]) -> float | torch.Tensor:
        if self._is_plain:
            try:
                return _norm_on_cpu(grads)
            except (TypeError, RuntimeError):  # a sparse gradient
                pass
        return _norm_of(grads)

    def _position(self, key: int) -> int:
        return next(index for index, each in enumerate(self._parameters) if id(each) == key)

    def _is_skipped_by_scaler(self) -> bool:
        """True where a ``GradScaler`` passes its scale into the step, which then skips what overflowed by itself."""
        found: Any = getattr(self.optimizer, "found_inf", None)
        return found is not None and float(found) != 0.0


def _is_at_hand(norm: float | torch.Tensor) -> bool:
    return not isinstance(norm, torch.Tensor) or norm.device.type == "cpu"


def _norm_of(grads: Sequence[torch.Tensor]) -> float | torch.Tensor:
    """Return the Euclidean norm of all gradients together: a number, or a tensor on the device that they are on.

    Gradients that are spread over processes (FSDP2) are summed over all of them, so that all judge alike.
    """
    sharded = is_sharded(grads[0])
    local: list[torch.Tensor] = [_local(each) for each in grads]
    dense = [each if each.layout is torch.strided else each.coalesce().values() for each in local]
    norms = torch._foreach_norm([each.detach() if each.requires_grad else each for each in dense])
    first = norms[0]
    total: torch.Tensor = torch.linalg.vector_norm(
        torch.stack([each.to(first.device, torch.float32) for each in norms])
    )
    if sharded:
        total = total.square()
        torch.distributed.all_reduce(total)
        total = total.sqrt()
    return total


def _norm_on_cpu(grads: Sequence[torch.Tensor]) -> float:
    """Return the norm of gradients on the CPU. NumPy does it for small layers in half the time of PyTorch."""
    total = 0.0
    with np.errstate(all="ignore"):
        for each in grads:
            flat = (each.detach() if each.requires_grad else each).numpy().ravel()
            total += float(flat.dot(flat))
    return sqrt(total) if total == total else total


def _local(tensor: Any) -> torch.Tensor:
    """Return the part of a tensor that this process holds."""
    held: torch.Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return held


def _count_spoiled(parameters: Sequence[torch.Tensor]) -> dict[int, Spoiled]:
    """Return how many entries of each gradient are not finite; of sharded ones those of this process."""
    counted = {}
    for parameter in parameters:
        local = _local(parameter.grad)
        nan, infinite = int(torch.isnan(local).sum()), int(torch.isinf(local).sum())
        if nan or infinite:
            counted[id(parameter)] = Spoiled(nan, infinite, local.numel())
    return counted
