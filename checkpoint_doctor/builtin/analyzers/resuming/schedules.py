"""Learning rate schedules beside the optimizer: their rate, their position and their length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import count_updates
from checkpoint_doctor.checkpoint import Checkpoint, Content, Optimizer, Part
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_FEWEST_UPDATES = 50
"""Updates below which a schedule's position is not compared: it may be counted in epochs."""

UNCERTAIN = "position in epochs or begun anew"

_CYCLES = 3
"""Times that a cosine schedule must have passed its own length before that is no plan any more."""


@rule("RES001", "schedule-mismatch", Severity.WARNING, on=Checkpoint, part=("scheduler", "cause"))
def schedule_mismatch(checkpoint: Checkpoint, *, collapsed: float = 1e-6) -> Iterator[Finding]:
    """A learning rate schedule does not fit the run: its rate, its position or its length.

    Why it matters:
        A run that is resumed takes its learning rate from the schedule. One that was begun anew, or that belongs to
        another run, continues with a rate that nobody chose. One that is stepped per batch, though its length was
        meant in epochs, ends after a few batches, and nothing is learned from then on.

    When it is normal:
        A schedule that is stepped once per epoch, or some times in each. The file's epoch counter shows it, or its
        length, which is far below the number of updates. A schedule that has ended as planned. None of these is
        reported. Of a schedule without a length, a position that divides no counter of the file is a note, and so is a
        schedule that has made no step: the file may have been saved within an epoch. So is a cosine that passes its
        length, which makes it go up again.

    What to do:
        Rate and position: save and load the scheduler and the optimizer together, the scheduler after the optimizer.
        Length: step the schedule once per epoch, or give its length in updates.

    Options:
        collapsed: The share of the initial learning rate that is left where the schedule has brought it to nothing;
            schedules that are planned end at 0 or at a thousandth.

    References:
        ``torch.optim.lr_scheduler``: ``_last_lr`` is the rate that the schedule gave to each parameter group, and
        ``last_epoch`` counts calls of ``step``, whatever its name says. Lightning issues 12812 and 4655, pytorch
        issue 60265 and YOLOX issue 1318 are about schedules that were lost or stepped at the wrong time.
    """
    for part, optimizer in _pairs(checkpoint):
        found = (
            _compare_rates(part, optimizer, checkpoint)
            or _describe_length(part, optimizer, collapsed)
            or _compare_position(part, optimizer, checkpoint)
        )
        if found:
            cause, message, advice = found
            yield schedule_mismatch.finding(
                f"{part.name} {message}",
                severity=Severity.NOTE if cause in (UNCERTAIN, "beyond its length") else None,
                evidence={
                    "cause": cause,
                    "scheduler": part.name,
                    "optimizer": optimizer.name,
                    "position": _position(part),
                    "updates": count_updates(optimizer),
                },
                advice=advice,
            )


def _pairs(checkpoint: Checkpoint) -> Iterator[tuple[Part, Optimizer]]:
    """Yield each scheduler with its optimizer, where only one is possible: a single one, or as many of both."""
    schedulers = [part for part in checkpoint.parts if part.content is Content.SCHEDULER and "opt" not in part.name]
    optimizers = [each for each in checkpoint.optimizers if each.groups]
    if len(optimizers) == 1:
        yield from ((part, optimizers[0]) for part in schedulers)
    elif len(optimizers) == len(schedulers):
        yield from zip(schedulers, optimizers, strict=True)


def _compare_rates(part: Part, optimizer: Optimizer, checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """Compare the rates that a schedule has set with those of the optimizer, unless several set them in turn."""
    rates = part.values.get("_last_lr")
    several = sum(each.content is Content.SCHEDULER for each in checkpoint.parts) > len(checkpoint.optimizers)
    if several or not isinstance(rates, list) or len(rates) != len(optimizer.groups):
        return None
    for given, group in zip(rates, optimizer.groups, strict=True):
        rate = group.learning_rate
        if isinstance(given, float) and "lr" in group.options and not isclose(given, rate, rel_tol=1e-3, abs_tol=1e-15):
            return (
                "rates differ",
                f"has set a learning rate of {given:.3g}, but {optimizer.name} has {rate:.3g}",
                "One of them comes from another run or was reset: load both, the optimizer first.",
            )
    return None


def _describe_length(part: Part, optimizer: Optimizer, collapsed: float) -> tuple[str, str, str] | None:
    """Say whether a schedule ended long ago, passed its own length again and again, or lowered the rate to nothing."""
    position, values = _position(part), part.values
    rate = max((group.learning_rate for group in optimizer.groups), default=0.0)
    initial = _initial_rate(part, optimizer)
    length, period = _whole(values, "total_iters"), _whole(values, "T_max")
    advice = "Step the schedule once per epoch, or give its length in updates."
    if length and position >= 2 * length and initial and abs(rate) <= collapsed * initial:
        message = f"ended at step {length:,} of {position:,}: the learning rate has been {rate:.3g} since then"
        return "ended early", message, advice
    if period and position >= _CYCLES * period and position >= (count_updates(optimizer) or position):
        message = f"was made for {period:,} steps and has made {position:,}: the rate rises and falls again and again"
        return "beyond its length", message, advice
    is_decay = "gamma" in values and "T_max" not in values
    if is_decay and initial and 0 < rate <= collapsed * initial:
        message = f"has lowered the learning rate to {rate:.2g} in {position:,} steps, from {initial:.3g}"
        return "rate collapsed", message, advice
    factor, least = values.get("factor"), values.get("eps")
    if "num_bad_epochs" in values and isinstance(factor, float) and isinstance(least, float):
        floors = values.get("min_lrs")
        is_bounded = isinstance(floors, list) and any(isinstance(each, float) and each >= rate > 0 for each in floors)
        if not is_bounded and rate > 0 and rate * (1 - factor) <= least:
            message = f"has lowered the learning rate to {rate:.2g} in {position:,} steps, as far as it can"
            return "rate collapsed", message, "Check that the metric given to it is one that changes, and its patience."
    return None


def _compare_position(part: Part, optimizer: Optimizer, checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """Compare a schedule's position with all that the file counts, unless it may be stepped less often than that."""
    updates, position = count_updates(optimizer) or 0, _position(part)
    if updates < _FEWEST_UPDATES or position < 0 or "num_bad_epochs" in part.values:
        return None
    counts = {updates, checkpoint.updates or updates, *checkpoint.counters.values()}
    epochs = checkpoint.counters.get("epoch")
    if any(abs(position - count) <= 1 for count in counts):
        return None
    if epochs is not None and 2 * position >= epochs:
        return None  # stepped once per epoch at least, and perhaps more often than the file tells
    length = max(_whole(part.values, key) for key in ("T_max", "total_iters", "total_steps"))
    if epochs is None:
        if any(position and each and not (each % position and position % each) for each in counts):
            return None
        if length and 2 * length <= max(counts):
            return None  # its length is not one of updates
    counted = f"{optimizer.name} counts {updates:,} updates" if epochs is None else f"the file counts {epochs:,} epochs"
    # A schedule that is stepped once per epoch was not stepped yet in a file that was saved within the first one.
    is_certain = epochs is not None or (position > 0 and length > 0) or 2 * position > max(counts)
    return (
        "position" if is_certain else UNCERTAIN,
        f"has made {position:,} steps, while {counted}",
        "It was begun anew, or belongs to another run: load the scheduler's state when resuming.",
    )


def _position(part: Part) -> int:
    position = part.values.get("last_epoch")
    return position if isinstance(position, int) else -1


def _initial_rate(part: Part, optimizer: Optimizer) -> float:
    """Return the largest rate that the schedule began with; 0.0 where it is not known."""
    given = part.values.get("base_lrs")
    rates = list(given) if isinstance(given, list) else [group.options.get("initial_lr") for group in optimizer.groups]
    return max((float(each) for each in rates if isinstance(each, (int, float))), default=0.0)


def _whole(values: Mapping[str, object], key: str) -> int:
    value = values.get(key)
    return int(value) if isinstance(value, (int, float)) and value == value and abs(value) < 1e15 else 0
