"""Repairs a model while it is trained, by the init rules of ``ckdoc fix``, where its illness is proven."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from checkpoint_doctor.callbacks.live_checkpoint import LiveModel
from checkpoint_doctor.callbacks.live_tensors import is_sharded
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.repair.changes import Change
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.report import Examination


class LiveRepair:
    """Writes planned values into live parameters and moments, at most once per tensor and cool-down."""

    def __init__(self, live: LiveModel, cooldown: int) -> None:
        self._live, self._cooldown = live, cooldown
        self._repaired: dict[str, int] = {}
        """Tensor to the check at which it was repaired last."""

    def apply(self, checkpoint: Checkpoint, examination: Examination, check: int) -> Iterator[str]:
        """Repair what is proven to be ill, and yield a line for each tensor that was changed."""
        proven = list(_find_proven(examination))
        tensors = {**self._live.tensors(), **dict(self._live.states())}
        for change in plan_repairs(checkpoint, proven, seed=check).changes if proven else ():
            name = change.tensor.name
            last = self._repaired.get(name)
            # The moments of a repaired tensor change along with it.
            if last is not None and check - last < self._cooldown and check != last:
                continue
            if name in tensors and not is_sharded(tensors[name]):
                self._repaired[name] = check
                _write(tensors[name], change)
                rules = ", ".join(change.rules)
                yield f"repaired {name}: {change.entries:,} entries set to {change.init_rule} ({rules})"


def _find_proven(examination: Examination) -> Iterator[Finding]:
    """Yield the findings whose cause is proven and cured by a repair."""
    for diagnosis in examination.diagnoses:
        if diagnosis.counts and diagnosis.certainty is Certainty.PROVEN and diagnosis.prognosis is Prognosis.CURED:
            yield from (examination.findings[place] for place in diagnosis.explains)


def _write(tensor: torch.Tensor, change: Change) -> None:
    wide = torch.from_numpy(change.new.astype("float64" if change.new.dtype.kind != "c" else "complex128"))
    with torch.no_grad():
        tensor.copy_(wide.reshape(tensor.shape))
