"""Running statistics of batch norms: whether the layer ever ran."""

from __future__ import annotations

from checkpoint_doctor.checkpoint import Layer


def never_ran(layer: Layer) -> bool:
    """True where the running statistics are the initial ones and no batch was counted."""
    mean, variance = layer.tensors.get("running_mean"), layer.tensors.get("running_var")
    if mean is None or variance is None or mean.statistics.absmax != 0:
        return False
    counter = layer.tensors.get("num_batches_tracked")
    is_initial = variance.statistics.minimum == variance.statistics.maximum == 1
    return is_initial and (counter is None or counter.statistics.absmax == 0)
