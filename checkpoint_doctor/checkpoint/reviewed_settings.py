"""The settings of a run beside the ranges that are known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from math import isfinite
from typing import Any

from msgspec import Struct

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.facts import found_once
from checkpoint_doctor.checkpoint.optimizer_steps import effective_step, implied_gradient_norm
from checkpoint_doctor.checkpoint.setting_ranges import Evidence, Range, find_ranges
from checkpoint_doctor.text import quantity

WITHOUT_CLIPPING = frozenset({"SAC", "TQC", "TD3", "DDPG", "CrossQ", "TRPO"})
"""Algorithms of Stable-Baselines3 whose constructor has no ``max_grad_norm`` and whose ``train`` does not clip."""

SETTINGS = (
    "learning_rate", "gamma", "batch_size", "n_steps", "n_epochs", "gae_lambda", "clip_range", "ent_coef", "vf_coef",
    "max_grad_norm", "tau", "buffer_size", "learning_starts", "target_update_interval", "policy_delay", "target_kl",
    "delta_std", "warmup_steps", "warmup_ratio", "ema",
)  # fmt: skip
"""Settings of a run that ranges are known of, in the order in which they are shown."""

OTHER_NAMES = {"lr": "learning_rate", "clip": "max_grad_norm", "grad_clip": "max_grad_norm", "ema_decay": "ema",
               "num_warmup_steps": "warmup_steps", "gradient_clip_val": "max_grad_norm"}  # fmt: skip
"""Names that programs give to these settings."""


class Verdict(StrEnum):
    """Where a value lies."""

    DEFAULT = "the default"
    USUAL = "as tuned"
    OWN = "within your own range"
    UNTUNED = "outside the tuned range"
    LOW = "unusually low"
    HIGH = "unusually high"
    PUBLISHED = "as published"
    UNPUBLISHED = "not as published"
    UNKNOWN = "no range is known"
    ABSENT = "no such setting"
    FIGURE = "read from the file"


class ReviewedSetting(Struct, frozen=True):
    """A setting, its value, and what is known about it."""

    name: str
    value: float | None
    """``None`` where the algorithm has no such setting."""
    verdict: Verdict
    range: Range | None = None
    """The range that the verdict is by."""
    remark: str = ""
    """In the place of a source: what the value is."""

    @property
    def source(self) -> str:
        """Where the range comes from and what kind of evidence it is, or what the value is."""
        return self.remark or (f"{self.range.kind.value}: {self.range.source}" if self.range else "")


@found_once
def review_settings(checkpoint: Checkpoint) -> tuple[ReviewedSetting, ...]:
    """Return the settings that the file holds and something is known about, the run's first, then the optimizers'."""
    return (*_review_run(checkpoint), *_review_episodes(checkpoint), *_review_optimizers(checkpoint))


def value_of(settings: Mapping[str, Any], name: str) -> float | None:
    """Return a setting that is a number, or the number that its schedule has or begins with."""
    names = (name, *(other for other, meant in OTHER_NAMES.items() if meant == name))
    for each in names:
        value = settings.get(each)
        if isinstance(value, Mapping):
            value = value.get("value")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    return None


def judge(value: float, ranges: Iterable[Range]) -> tuple[Verdict, Range | None]:
    """Return where a value lies among the ranges of its setting, and the range that says so.

    The user's own range decides alone. A value that was a default or tuned is usual. Outside of these it is untuned
    while a search looks there, and unusual beyond.
    """
    ranges = tuple(ranges)
    by_kind = {kind: [each for each in ranges if each.kind is kind] for kind in Evidence}
    for each in by_kind[Evidence.OWN]:
        return (Verdict.OWN if each.holds(value) else _beyond(value, each)), each
    for kind, verdict in ((Evidence.DEFAULT, Verdict.DEFAULT), (Evidence.TUNED, Verdict.USUAL)):
        holding = next((each for each in by_kind[kind] if each.holds(value)), None)
        if holding is not None:
            return verdict, holding
    tuned, searched = (next(iter(by_kind[kind]), None) for kind in (Evidence.TUNED, Evidence.SEARCHED))
    if searched is not None:
        shown = tuned or searched
        low, high = min(shown.low, searched.low), max(shown.high, searched.high)
        if not (low <= value <= high or searched.holds(value)):
            return _beyond(value, shown), shown
        return (Verdict.UNTUNED if tuned is not None else Verdict.USUAL), shown
    if tuned is not None:
        return Verdict.UNTUNED, tuned
    for kind in (Evidence.LITERATURE, Evidence.OPINION):
        for each in by_kind[kind]:
            return (Verdict.PUBLISHED if each.holds(value) else Verdict.UNPUBLISHED), each
    return Verdict.UNKNOWN, next(iter(by_kind[Evidence.DEFAULT]), None)


def _beyond(value: float, known: Range) -> Verdict:
    return Verdict.HIGH if value > known.high else Verdict.LOW


def _review_run(checkpoint: Checkpoint) -> Iterator[ReviewedSetting]:
    algorithm = checkpoint.algorithm or ""
    is_agent = checkpoint.format == "sb3" and bool(algorithm)
    for name in SETTINGS:
        value = value_of(checkpoint.hyperparameters, name)
        if name == "max_grad_norm" and is_agent and algorithm in WITHOUT_CLIPPING:
            remark = f"{algorithm} of Stable-Baselines3 does not clip gradients"
            yield ReviewedSetting(name, None, Verdict.ABSENT, remark=remark)
        elif value is not None:
            ranges = find_ranges((algorithm,) if is_agent else (), name, checkpoint.ranges)
            if not is_agent:
                ranges = tuple(each for each in ranges if each.kind is not Evidence.SEARCHED)
            verdict, known = judge(value, ranges)
            yield ReviewedSetting(name, value, verdict, known)


def _review_episodes(checkpoint: Checkpoint) -> Iterator[ReviewedSetting]:
    """Yield what the file says of the last episodes: the agent's vital sign."""
    count = checkpoint.metadata.get("recent_episodes", "")
    for name in ("mean_episode_reward", "mean_episode_length"):
        value = checkpoint.metadata.get(name)
        if value is not None and count:
            remark = f"of the last {count} episodes in training"
            yield ReviewedSetting(name.replace("_", " "), float(value), Verdict.FIGURE, remark=remark)


def _review_optimizers(checkpoint: Checkpoint) -> Iterator[ReviewedSetting]:
    is_agent = checkpoint.format == "sb3"
    for optimizer in checkpoint.optimizers:
        kinds = (optimizer.kind or "",)
        for number, group in enumerate(optimizer.groups):
            place = f"{optimizer.name}[{number}]" if len(optimizer.groups) > 1 else optimizer.name
            values: dict[str, Any] = {name: group.options.get(name) for name in ("lr", "weight_decay", "eps")}
            betas = group.options.get("betas")
            if isinstance(betas, (list, tuple)) and len(betas) == 2:
                values |= {"beta1": betas[0], "beta2": betas[1]}
            size = _parameters_of(checkpoint, optimizer.name, group.indices)
            if size:
                yield ReviewedSetting(f"{place} parameters", size, Verdict.FIGURE, remark="trained by this group")
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
                    if is_agent and name == "lr":
                        yield ReviewedSetting(
                            f"{place} {name}", float(value), Verdict.FIGURE, remark="the rate at save"
                        )
                        continue
                    verdict, known = judge(float(value), find_ranges(kinds, name, checkpoint.ranges))
                    yield ReviewedSetting(f"{place} {name}", float(value), verdict, known)
        norm, step = implied_gradient_norm(optimizer), effective_step(optimizer)
        if norm is not None:
            remark = "root mean square over the last updates, from the second moments, after clipping"
            yield ReviewedSetting(f"{optimizer.name} gradient norm", norm, Verdict.FIGURE, remark=remark)
        if step is not None:
            rate = max((group.learning_rate for group in optimizer.groups if "lr" in group.options), default=1.0)
            remark = f"RMS of |m̂| / (√v̂ + ε), {step:.2g}, times the rate: how far a weight moves in an update"
            yield ReviewedSetting(f"{optimizer.name} effective step", rate * step, Verdict.FIGURE, remark=remark)
    trained, frozen = count_trained(checkpoint)
    if trained and frozen:
        share = frozen / (trained + frozen)
        yield ReviewedSetting("trained parameters", trained, Verdict.FIGURE, remark=f"{1 - share:.0%} of the model")
        remark = f"{share:.0%} of the model, held by no optimizer"
        yield ReviewedSetting("frozen parameters", frozen, Verdict.FIGURE, remark=remark)


def _parameters_of(checkpoint: Checkpoint, optimizer: str, indices: tuple[int, ...]) -> int:
    held = next(each for each in checkpoint.optimizers if each.name == optimizer)
    names = {held.parameters[index].tensor for index in indices if index < len(held.parameters)}
    return sum(tensor.size for tensor in checkpoint.distinct_tensors if tensor.name in names)


def frozen_tensors(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the parameters that no optimizer holds, or one with a rate of zero, with their sizes.

    Copies (target networks, averages), buffers and statistics are no parameters, and nothing is frozen in a file whose
    optimizers are not matched with its tensors.
    """
    if not checkpoint.optimizers or any(each.unmatched or each.mismatch for each in checkpoint.optimizers):
        return {}
    frozen = {}
    for tensor in checkpoint.distinct_tensors:
        layer = checkpoint.layer_of[tensor.name]
        if not tensor.is_floating or tensor.name in checkpoint.online_tensors or layer.kind == "buffer":
            continue
        if tensor.name.endswith(("running_mean", "running_var")) or ".pth/" in tensor.name:
            continue
        if tensor.name not in checkpoint.moments:
            frozen[tensor.name] = tensor.size
    return frozen


@found_once
def count_trained(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return how many parameters an optimizer holds, and how many none holds."""
    frozen = sum(frozen_tensors(checkpoint).values())
    trained = sum(tensor.size for tensor in checkpoint.distinct_tensors if tensor.name in checkpoint.moments)
    return trained, frozen


def describe_share(trained: int, frozen: int) -> str:
    """Return both numbers in words: ``82,000,000 parameters are trained and 86,000,000 frozen (51 %)``."""
    return f"{quantity(trained, 'parameter')} are trained and {frozen:,} frozen ({frozen / (trained + frozen):.0%})"
