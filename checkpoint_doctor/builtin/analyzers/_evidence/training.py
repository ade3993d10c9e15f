"""Which tensors were trained: whether the optimizer ever recorded a gradient for them."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Moments, Optimizer, Tensor


def layer_was_trained(layer: Layer, checkpoint: Checkpoint) -> bool | None:
    """Tell whether a layer's weights ever received a gradient; ``None`` where the file does not tell.

    Biases are left out, since this is used to explain theirs. For a layer without weights, all its tensors count.
    """
    weights = [tensor for role, tensor in layer.tensors.items() if "weight" in role and not tensor.is_buffer]
    return rows_were_trained(weights or list(layer.tensors.values()), checkpoint, slice(None))


def rows_were_trained(
    tensors: Sequence[Tensor], checkpoint: Checkpoint, rows: slice | NDArray, *, of_columns: bool = False
) -> bool | None:
    """Tell whether these rows of any of the tensors ever received a gradient; ``None`` where the file does not tell.

    With ``of_columns``, these columns.
    """
    answers = [was_trained(tensor, checkpoint, rows, of_columns=of_columns) for tensor in tensors]
    if any(answers):
        return True
    return None if not answers or None in answers else False


def was_trained(
    tensor: Tensor, checkpoint: Checkpoint, rows: slice | NDArray = slice(None), *, of_columns: bool = False
) -> bool | None:
    """Tell whether a tensor (or some of its rows) ever received a gradient; ``None`` where the file does not tell.

    With ``of_columns``, some of its columns.
    """
    if checkpoint.is_untrained:
        return False
    moments = checkpoint.moments.get(tensor.name)
    if moments is None or not moments.state:
        online = checkpoint.find_tensor(checkpoint.online_tensors.get(tensor.name))
        if online is not None:
            return was_trained(online, checkpoint, rows, of_columns=of_columns)
    if moments is None:
        return None
    optimizer = checkpoint.optimizer_of[tensor.name]
    if not moments.state:
        return False if was_left_out(moments, optimizer, checkpoint) else None
    statistics, record = moments.statistics, moments.second or moments.first
    if statistics is None or record is None:
        return None
    if of_columns:
        largest = statistics.column_second if moments.second is not None else statistics.column_first
    else:
        largest = statistics.row_second if moments.second is not None else statistics.row_first
    level = untouched_level(moments, optimizer, of_root=True)
    if largest is None or level is None or not largest[rows].size:
        return None
    return bool((largest[rows] > level).any())


def untouched_level(moments: Moments, optimizer: Optimizer, *, of_root: bool = False) -> float | None:
    """Return the largest value of a second moment's entry (or a momentum's) that never received a gradient.

    0.0 for Adam, RMSprop and momentum. Adamax adds ε to every gradient's magnitude, so its norm never falls below ε;
    Adagrad may start above zero (``initial_accumulator_value``); ``RMSpropTFLike`` starts at 1.0 and decays as
    α**step (stable_baselines3.common.sb2_compat). The value includes rounding errors. ``None`` where the rest of the
    initial 1.0 may still hide gradients. With ``of_root``, its square root, which ``MomentStatistics`` keeps.
    """
    group = optimizer.group_of(moments.index)
    options = group.options if group else {}
    if "exp_inf" in moments.state:
        return max(0.0, group.number("eps")) * 1.001 if group else 0.0
    level: float | None = 0.0
    if "sum" in moments.state:
        level = max(0.0, group.number("initial_accumulator_value")) * (1.0 + 1e-6) if group else 0.0
    elif "square_avg" in moments.state and "foreach" not in options:
        level = _start_at_one(moments, group.number("alpha") if group else 0.0)
    return level**0.5 if of_root and level else level


def was_left_out(moments: Moments, optimizer: Optimizer, checkpoint: Checkpoint) -> bool:
    """Tell whether a parameter without state was never updated while others of its optimizer were.

    False for TRPO's policy, which is updated without the optimizer. Callers handle target networks.
    """
    if not any(each.state for each in optimizer.parameters):
        return False
    if checkpoint.algorithm != "TRPO":
        return True
    return "value" in (moments.tensor or "") or "vf_" in (moments.tensor or "")


def _start_at_one(moments: Moments, alpha: float) -> float | None:
    """Return what remains of a second moment that started at 1.0; 0.0 where it started at zero: a row is below that.

    torch.optim.RMSprop, which starts at zero, has ``foreach`` among its settings since 1.12; in older files, only the
    values show the start. While 1e-12 or more remains, float32 loses the squares of small gradients in it.
    """
    step, rows = moments.step or 0, moments.statistics.row_second if moments.statistics else None
    remaining = alpha**step if 0.0 <= alpha <= 1.0 else 0.0
    # Below float32's smallest normal number, the remainder no longer decays by α.
    if rows is None or not rows.size or not step or remaining < 1e-37 or float(rows.min()) < 0.999 * remaining**0.5:
        return 0.0
    return None if remaining > 1e-12 else remaining * (1.0 + 1.2e-7 * step)
