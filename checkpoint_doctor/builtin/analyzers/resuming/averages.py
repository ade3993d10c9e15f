"""Averaged copies of a model: moving averages, momentum encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.initial_copies import is_still_initial, name_of_average
from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.checkpoint import Checkpoint, Content, Tensor
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import shown

_COUNTERS = ("n_averaged", "num_updates", "updates", "optimization_step", "step")
_FEWEST_UPDATES = 20


@rule("RES004", "stale-average", Severity.WARNING, on=Checkpoint, part=("average",))
def stale_average(checkpoint: Checkpoint) -> Iterator[Finding]:
    """An averaged copy of the model does not follow it: it is still the initial model, or the same to the last bit.

    Why it matters:
        Averages are what is evaluated and published. One that was never updated is an untrained network; one that is
        identical to the model is no average. A momentum encoder that stands still gives targets of a random network.

    When it is normal:
        Averages begin late in some recipes: while a counter in the file says that none was made, a copy that equals
        the model is a note. After exactly one update, the average is the model.

    What to do:
        Check that the update of the average is called after each step of the optimizer, on the model that is trained,
        and with a decay between 0 and 1. ``torch.optim.swa_utils.AveragedModel`` counts in ``n_averaged``.

    References:
        Polyak and Juditsky 1992; Izmailov et al. 1803.05407; He et al. 1911.05722 (momentum encoder). Still initial:
        gains exactly 1 and biases exactly 0 where the model's are not, or every entry within PyTorch's initial interval
        where the model's have left it, so far that even a decay of 0.999 would have taken some along.
    """
    for average, names in _copies(checkpoint).items():
        pairs = [(checkpoint.by_name[one], checkpoint.by_name[other]) for one, other in names.items()]
        updates = _updates_of([online for _, online in pairs], checkpoint)
        if updates < _FEWEST_UPDATES or not any(was_trained(online, checkpoint) for _, online in pairs):
            continue
        made = _count_averages(average, checkpoint)
        if all(_is_equal(*pair) for pair in pairs):
            if made == 1:
                continue
            state, severity = "is identical to the model", Severity.NOTE if made == 0 else None
        elif is_still_initial(pairs, checkpoint, updates):
            state, severity = "is still the initial model", None
        else:
            continue
        counted = f", and counts {made:,} updates" if made is not None else ""
        yield stale_average.finding(
            f"{shown(average)} {state} after {updates:,} updates of the model{counted}",
            severity=severity,
            evidence={"average": average, "tensors": list(names), "updates": updates, "averaged": made},
            advice="Check that the average is updated after each step, with a decay between 0 and 1.",
        )


def _copies(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """Return the tensors of each average or momentum encoder, with those that they follow, by its name."""
    found: dict[str, dict[str, str]] = {}
    for copy, online in checkpoint.online_tensors.items():
        average = name_of_average(copy)
        if average:
            found.setdefault(average, {})[copy] = online
    found |= {average: names for average, names in _in_order(checkpoint).items() if average not in found}
    return {average: learned for average, names in found.items() if (learned := _learned(names, checkpoint))}


def _in_order(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """Return averages that are lists of tensors, in the order of the model's parameters (torch-ema, diffusers)."""
    lists: dict[str, list[Tensor]] = {}
    for tensor in checkpoint.tensors:
        if tensor.name.rpartition("/")[2].isdigit() and name_of_average(tensor.name):
            lists.setdefault(name_of_average(tensor.name), []).append(tensor)
    held = [
        checkpoint.by_name[each.tensor]
        for optimizer in checkpoint.optimizers
        for each in optimizer.parameters
        if each.tensor is not None and each.tensor in checkpoint.by_name
    ]
    return {
        average: {one.name: other.name for one, other in zip(tensors, held, strict=True)}
        for average, tensors in lists.items()
        if [one.shape for one in tensors] == [other.shape for other in held]
    }


def _learned(names: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, str]:
    """Keep what is no second name of the same bytes, and no buffer; empty without a matrix."""
    kept = {
        copy: online
        for copy, online in names.items()
        if checkpoint.by_name[copy].is_floating
        and checkpoint.by_name[copy].size
        and not checkpoint.by_name[copy].is_tied_to(checkpoint.by_name[online])
        and "running_" not in copy
    }
    return kept if any(len(checkpoint.by_name[copy].shape) > 1 for copy in kept) else {}


def _updates_of(tensors: Sequence[Tensor], checkpoint: Checkpoint) -> int:
    return max((checkpoint.updates_of(each.name) or 0 for each in tensors), default=0)


def _count_averages(average: str, checkpoint: Checkpoint) -> int | None:
    """Return how many updates of an average the file counts, in its own state dict or around it."""
    for part in checkpoint.parts:
        if part.content is Content.STATE_DICT and (part.name == average or part.name.startswith(f"{average}/")):
            for key in _COUNTERS:
                if isinstance(part.values.get(key), int):
                    return int(part.values[key])
    tensor = checkpoint.by_name.get(f"{average}/n_averaged") or checkpoint.by_name.get(f"{average}.n_averaged")
    return int(tensor.array.reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.statistics.norm != other.statistics.norm or one.statistics.nonfinite:
        return False
    return bool(np.array_equal(one.array, other.array))
