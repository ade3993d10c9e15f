"""What happens while a folder is watched: checkpoints that come, files that go, and a run that stands still."""

from __future__ import annotations

from msgspec import Struct

from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.identity import FindingKey, identify, identify_diagnosis
from checkpoint_doctor.results.report import Alert, Examination, Report
from checkpoint_doctor.sources import Unsearched


class Arrival(Struct, frozen=True):
    """A checkpoint that was written, and examined when it was whole."""

    examination: Examination
    report: Report
    """The report on this checkpoint, which says whether it fails; what began with it in its run is in the remarks."""
    new: tuple[Alert, ...]
    """Diagnoses and findings that the checkpoint of the same network before it does not have, and what began in the
    run since: zeros that grow, gradients that vanish, a layer that is frozen."""
    gone: tuple[Alert, ...]
    """Those that the one before it has, and it has not."""
    follows: str | None
    """The path of the checkpoint before it; ``None`` for the first of its network."""


class Loss(Struct, frozen=True):
    """A file that was deleted before it could be examined, or the folder itself."""

    path: str


class Stall(Struct, frozen=True):
    """Nothing new came for too long."""

    seconds: float


Event = Arrival | Loss | Stall | Unsearched
"""What a watch yields; ``Unsearched`` for what should be searched and cannot be."""


def list_by_key(examination: Examination | None) -> dict[FindingKey, Alert]:
    """Return the diagnoses and findings that a checkpoint is judged by, by what makes them the same in another one."""
    alerts = examination.alerts if examination is not None else ()
    return {identify_diagnosis(each) if isinstance(each, Diagnosis) else identify(each): each for each in alerts}
