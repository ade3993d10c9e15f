"""checkpoint_doctor: finds out what is wrong with a trained network from its checkpoint.

This module is the front door: every name in ``__all__`` may be imported from here and stays where it is. Nothing is
imported before somebody asks for it, so ``import checkpoint_doctor`` costs next to nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoint_doctor.anatomy import Kind
    from checkpoint_doctor.config import Config
    from checkpoint_doctor.config_file import load_config
    from checkpoint_doctor.errors import (
        DoctorError,
        NotACheckpoint,
        NothingToExamine,
        RepairFailed,
        UnreadableCheckpoint,
        UsageError,
    )
    from checkpoint_doctor.findings import Finding, Repair, Safety, Severity
    from checkpoint_doctor.fix import Operation, Orders, Outcome, fix
    from checkpoint_doctor.model import (
        Checkpoint,
        Flaw,
        Layer,
        Moments,
        Optimizer,
        ParameterGroup,
        Patch,
        PickledName,
        Skipped,
        Tensor,
    )
    from checkpoint_doctor.plugins import Catalogue, Loader, Plugin, Reporter, discover
    from checkpoint_doctor.report import Examination, Page, Report, TensorRecord, Verdict
    from checkpoint_doctor.rule import Rule, rule
    from checkpoint_doctor.scan import open_checkpoint, scan
    from checkpoint_doctor.source import Source
    from checkpoint_doctor.values import InMemory, Values
    from checkpoint_doctor.vitals import Vitals
    from checkpoint_doctor.wire import to_json

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "Checkpoint",
    "Config",
    "DoctorError",
    "Examination",
    "Finding",
    "Flaw",
    "InMemory",
    "Kind",
    "Layer",
    "Loader",
    "Moments",
    "NotACheckpoint",
    "NothingToExamine",
    "Operation",
    "Optimizer",
    "Orders",
    "Outcome",
    "Page",
    "ParameterGroup",
    "Patch",
    "PickledName",
    "Plugin",
    "Repair",
    "RepairFailed",
    "Report",
    "Reporter",
    "Rule",
    "Safety",
    "Severity",
    "Skipped",
    "Source",
    "Tensor",
    "TensorRecord",
    "UnreadableCheckpoint",
    "UsageError",
    "Values",
    "Verdict",
    "Vitals",
    "__version__",
    "discover",
    "fix",
    "load_config",
    "open_checkpoint",
    "rule",
    "scan",
    "to_json",
]

_HOMES = {
    "anatomy": ("Kind",),
    "config": ("Config",),
    "config_file": ("load_config",),
    "errors": (
        "DoctorError",
        "NotACheckpoint",
        "NothingToExamine",
        "RepairFailed",
        "UnreadableCheckpoint",
        "UsageError",
    ),
    "findings": ("Finding", "Repair", "Safety", "Severity"),
    "fix": ("Operation", "Orders", "Outcome", "fix"),
    "plugins": ("Catalogue", "Loader", "Plugin", "Reporter", "discover"),
    "report": ("Examination", "Page", "Report", "TensorRecord", "Verdict"),
    "rule": ("Rule", "rule"),
    "scan": ("open_checkpoint", "scan"),
    "source": ("Source",),
    "values": ("InMemory", "Values"),
    "vitals": ("Vitals",),
    "wire": ("to_json",),
}
"""Module to the public names that live in it; whatever is not here is a noun of ``model``."""


class _FrontDoor(ModuleType):
    """A package in which ``scan``, ``fix`` and ``rule`` stay functions, whichever module was imported first.

    Python binds a submodule to its package once it is loaded, and ``scan`` is the name of both.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = next((module for module, names in _HOMES.items() if name in names), "model")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
