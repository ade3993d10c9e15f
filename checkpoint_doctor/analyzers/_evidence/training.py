"""What was ever trained: how many updates a tensor saw, and whether a gradient reached it in any of them."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor


def layer_was_trained(layer: Layer, checkpoint: Checkpoint) -> bool | None:
    """Say whether a gradient ever reached a layer's weights; ``None`` where the file does not tell.

    Biases are not asked: the question is put when they are the ones in doubt. A layer without weights (a bare
    parameter, a norm) is judged by all it has.
    """
    weights = [tensor for role, tensor in layer.tensors.items() if "weight" in role and not tensor.is_buffer]
    return rows_were_trained(weights or list(layer.tensors.values()), checkpoint, slice(None))


def rows_were_trained(tensors: Sequence[Tensor], checkpoint: Checkpoint, rows: slice | NDArray) -> bool | None:
    """Say whether a gradient ever reached these rows of any of the tensors; ``None`` where the file does not tell."""
    verdicts = [was_trained(tensor, checkpoint, rows) for tensor in tensors]
    if any(verdicts):
        return True
    return None if not verdicts or None in verdicts else False


def was_trained(tensor: Tensor, checkpoint: Checkpoint, rows: slice | NDArray = slice(None)) -> bool | None:
    """Say whether a gradient ever reached a tensor (or some of its rows); ``None`` where the file does not tell."""
    if checkpoint.is_untrained:
        return False
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or not moments.state:
        twin = checkpoint.by_name.get(checkpoint.online_tensors.get(tensor.name, ""))
        if twin is not None:
            return was_trained(twin, checkpoint, rows)
    if moments is None:
        return None
    optimizer = checkpoint.optimizer_of[tensor.name]
    if not moments.state:
        return False if was_left_out(moments, optimizer, checkpoint) else None
    statistics, record = moments.statistics, moments.second or moments.first
    if statistics is None or record is None:
        return None
    largest = statistics.row_second if moments.second is not None else statistics.row_first
    level = untouched_level(moments, optimizer, of_root=True)
    if largest is None or level is None or not largest[rows].size:
        return None
    return bool((largest[rows] > level).any())


def untouched_level(moments: Moments, optimizer: Optimizer, *, of_root: bool = False) -> float | None:
    """Return the value that an entry of the record has where no gradient ever came, with room for rounding.

    0.0 for Adam, RMSprop and momentum. Adamax adds ε to every gradient's magnitude, so its norm never falls below ε;
    Adagrad may start above zero (``initial_accumulator_value``); ``RMSpropTFLike`` starts at 1.0 and decays as
    α**step (stable_baselines3.common.sb2_compat). ``None`` where what is left of that start may still cover gradients.
    ``of_root`` asks for the square root, as ``MomentStatistics`` keeps it.
    """
    group = optimizer.group_of(moments.index)
    options = group.options if group else {}
    if "exp_inf" in moments.state:
        return float(options.get("eps") or 0.0) * 1.001
    level: float | None = 0.0
    if "sum" in moments.state:
        level = float(options.get("initial_accumulator_value") or 0.0) * (1.0 + 1e-6)
    elif "square_avg" in moments.state and "foreach" not in options:
        level = _start_at_one(moments, float(options.get("alpha") or 0.0))
    return level**0.5 if of_root and level else level


def was_left_out(moments: Moments, optimizer: Optimizer, checkpoint: Checkpoint) -> bool:
    """Say whether a parameter without state was never stepped, though its neighbours were.

    TRPO's policy is moved without the optimizer, and a copy in a target network follows its twin: neither was left out.
    """
    if not any(each.state for each in optimizer.parameters):
        return False
    if checkpoint.algorithm != "TRPO":
        return True
    return "value" in (moments.tensor or "") or "vf_" in (moments.tensor or "")


def _start_at_one(moments: Moments, alpha: float) -> float | None:
    """Return what is left of a start at 1.0; 0.0 where a row is below it, so that the start was zero.

    torch.optim.RMSprop, which starts at zero, has ``foreach`` among its settings since 1.12; for older files the
    numbers must tell. As long as 1e-12 or more is left, float32 loses the squares of small gradients in it.
    """
    step, rows = moments.step or 0, moments.statistics.row_second if moments.statistics else None
    left = alpha**step
    # Below float32's smallest normal number what is left no longer shrinks as it should, and tells nothing.
    if rows is None or not rows.size or not step or left < 1e-37 or float(rows.min()) < 0.999 * left**0.5:
        return 0.0
    return None if left > 1e-12 else left * (1.0 + 1.2e-7 * step)
