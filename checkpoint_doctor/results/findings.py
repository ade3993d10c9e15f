"""What a rule reports: the finding, its severity, its evidence, and the repairs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.text import printable

if TYPE_CHECKING:
    from numpy.random import Generator


class Severity(IntEnum):
    """How bad a finding is. Ordered, so that severities can be compared."""

    NOTE = 1
    """Worth knowing; it may be on purpose."""
    WARNING = 2
    """Probably wrong; a person should look."""
    ERROR = 3
    """Wrong: the checkpoint is ill."""

    @property
    def label(self) -> str:
        """The lower-case word that reports and configuration use."""
        return self.name.lower()


class Safety(Enum):
    """When a repair may be applied."""

    SAFE = "safe"
    """By ``ckdoc fix`` alone: a documented init rule, and nothing learned is lost."""
    ON_REQUEST = "on-request"
    """With ``--recycle``: the function stays the same, and it only matters where training goes on."""
    UNSAFE = "unsafe"
    """With ``--unsafe``: the old values are lost, and cannot be recovered."""


class Repair(Struct, frozen=True, eq=False):
    """A documented init rule for one tensor."""

    tensor: str
    """Name of the tensor to repair."""
    init_rule: str
    """The init rule in words, such as ``uniform(-0.01, 0.01)``."""
    renew: Callable[[NDArray, Generator], NDArray]
    """Old values to new ones: same shape; float32 or wider, rounded to the tensor's type by the writer."""
    safety: Safety = Safety.SAFE
    """When it may be applied."""

    @property
    def described(self) -> Repair:
        """The same in words: it can be pickled, keeps no array alive, and its ``renew`` raises ``RepairFailed``."""
        return replace(self, renew=refuse_renewal)


def refuse_renewal(values: NDArray, generator: Generator) -> NDArray:
    """Stand for the ``renew`` of a repair that is only described.

    Raises:
        RepairFailed: always.
    """
    raise RepairFailed("a finished examination only describes its repairs", "`fix` makes them")


class Identity(Struct, frozen=True):
    """What a rule declares about its findings, as names of their evidence."""

    part: tuple[str, ...] = ()
    """Evidence that tells two findings about one subject apart, such as ``gate`` or ``moment``."""
    worse: tuple[str, ...] = ()
    """Evidence that is worse when it is more: a larger number, a longer list, a name that the list did not have."""
    group_by: tuple[str, ...] | None = None
    """Evidence that several findings must share to be shown as one; ``None`` where each is shown by itself."""


class Finding(Struct, frozen=True):
    """What a rule found. Built with ``Rule.finding``, so that no analyzer repeats its code and name."""

    code: str
    """The rule's code, such as ``ZER003``."""
    name: str
    """The rule's name, such as ``zero-bias``."""
    severity: Severity
    """How bad it is."""
    message: str
    """What was found, in one line."""
    tensor: str | None = None
    """The tensor that it is about; ``None`` where it is about a layer or the whole checkpoint."""
    layer: str | None = None
    """The layer that it is about; in a report also that of the tensor."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values; indices in it are complete."""
    repairs: tuple[Repair, ...] = ()
    """What ``ckdoc fix`` would change."""
    fix: Safety | None = None
    """When ``ckdoc fix`` may repair it; ``None`` where there is no repair."""
    advice: str = ""
    """What to change in the training code or the data."""
    ignored: str | None = None
    """The reason given for hiding it, ``None`` where it counts."""
    preview: bool = False
    """True where its rule is in preview: it is shown, and decides nothing."""
    identity: Identity = Identity()
    """What its rule declares about sameness, growth and grouping."""

    @property
    def counts(self) -> bool:
        """True where it is neither hidden nor in preview."""
        return self.ignored is None and not self.preview

    @property
    def is_about_ckdoc(self) -> bool:
        """True for what ckdoc says about itself and not about the checkpoint: family ``CKD``."""
        return self.code.startswith("CKD")

    @property
    def title(self) -> str:
        """What reports call it: code and name."""
        return printable(f"{self.code} {self.name}")

    @property
    def subject(self) -> str | None:
        """The name of the tensor or layer that it is about; ``None`` where that is the whole checkpoint."""
        return self.tensor or self.layer


def by_severity(finding: Finding) -> tuple[int, str]:
    """Return the sort key of findings: the worst first, then by code."""
    return -finding.severity, finding.code
