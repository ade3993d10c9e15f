"""checkpoint_doctor: finds out what is wrong with a trained network from its checkpoint.

This module is the front door: every name in ``__all__`` may be imported from here and stays where it is. Nothing is
imported before somebody asks for it, so ``import checkpoint_doctor`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from checkpoint_doctor.acts.compare import compare
    from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix
    from checkpoint_doctor.acts.log import examine_logs
    from checkpoint_doctor.acts.scan import open_checkpoint, scan, scan_each
    from checkpoint_doctor.checkpoint import (
        Checkpoint,
        Checksum,
        Content,
        Flaw,
        Layer,
        LayerSignal,
        Metric,
        Missing,
        Moments,
        Optimizer,
        ParameterGroup,
        Part,
        Patch,
        PickledName,
        Series,
        Skipped,
        Tensor,
        TensorSeries,
        TrainingLog,
    )
    from checkpoint_doctor.checkpoint.metric_meanings import Meaning
    from checkpoint_doctor.checkpoint.training_log import LogBuilder
    from checkpoint_doctor.config.file import load_config
    from checkpoint_doctor.config.settings import Config
    from checkpoint_doctor.errors import (
        DoctorError,
        NotACheckpoint,
        NothingToExamine,
        RepairFailed,
        UnreadableCheckpoint,
        UsageError,
    )
    from checkpoint_doctor.layers import Kind
    from checkpoint_doctor.plugins.catalogue import Catalogue, Plugin, discover
    from checkpoint_doctor.plugins.cause import Cause, Claim, Symptoms, cause
    from checkpoint_doctor.plugins.log_opening import read_log
    from checkpoint_doctor.plugins.protocols import (
        Engine,
        FolderLoader,
        Loader,
        LogReader,
        LogReporter,
        LostTask,
        Reporter,
        SeriesReporter,
        Workers,
    )
    from checkpoint_doctor.plugins.rule import Rule, rule
    from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
    from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
    from checkpoint_doctor.results.json import to_json
    from checkpoint_doctor.results.log_report import LogReport
    from checkpoint_doctor.results.report import Examination, Page, Report, TensorRecord, Verdict
    from checkpoint_doctor.results.series_report import SeriesReport
    from checkpoint_doctor.sources import Folder, Source, Unsearched
    from checkpoint_doctor.statistics.curves import Curve
    from checkpoint_doctor.statistics.moments import MomentStatistics
    from checkpoint_doctor.statistics.tensors import TensorStatistics
    from checkpoint_doctor.statistics.values import InMemory, Values

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "Cause",
    "Certainty",
    "Checkpoint",
    "Checksum",
    "Claim",
    "Config",
    "Content",
    "Curve",
    "Diagnosis",
    "DoctorError",
    "Engine",
    "EntryWriter",
    "Examination",
    "Finding",
    "FixOptions",
    "FixResult",
    "Flaw",
    "Folder",
    "FolderLoader",
    "InMemory",
    "Kind",
    "Layer",
    "LayerSignal",
    "Loader",
    "LogBuilder",
    "LogReader",
    "LogReport",
    "LogReporter",
    "LostTask",
    "Meaning",
    "Metric",
    "Missing",
    "MomentStatistics",
    "Moments",
    "NotACheckpoint",
    "NothingToExamine",
    "Optimizer",
    "Outcome",
    "Page",
    "ParameterGroup",
    "Part",
    "Patch",
    "PickledName",
    "Plugin",
    "Prognosis",
    "Repair",
    "RepairFailed",
    "Report",
    "Reporter",
    "Rule",
    "Safety",
    "Series",
    "SeriesReport",
    "SeriesReporter",
    "Severity",
    "Skipped",
    "Source",
    "StreamReporter",
    "Symptoms",
    "Tensor",
    "TensorRecord",
    "TensorSeries",
    "TensorStatistics",
    "TrainingLog",
    "UnreadableCheckpoint",
    "Unsearched",
    "UsageError",
    "Values",
    "Verdict",
    "Workers",
    "__version__",
    "cause",
    "compare",
    "discover",
    "examine_logs",
    "fix",
    "load_config",
    "open_checkpoint",
    "read_log",
    "rule",
    "scan",
    "scan_each",
    "to_json",
]

_HOMES = {
    "acts.compare": ("compare",),
    "acts.fix": ("FixOptions", "FixResult", "Outcome", "fix"),
    "acts.log": ("examine_logs",),
    "acts.scan": ("open_checkpoint", "scan", "scan_each"),
    "config.file": ("load_config",),
    "config.settings": ("Config",),
    "errors": (
        "DoctorError",
        "NotACheckpoint",
        "NothingToExamine",
        "RepairFailed",
        "UnreadableCheckpoint",
        "UsageError",
    ),
    "layers": ("Kind",),
    "plugins.catalogue": ("Catalogue", "Plugin", "discover"),
    "plugins.cause": ("Cause", "Claim", "Symptoms", "cause"),
    "plugins.protocols": (
        "Engine",
        "EntryWriter",
        "FolderLoader",
        "Loader",
        "LogReader",
        "LogReporter",
        "LostTask",
        "Reporter",
        "SeriesReporter",
        "StreamReporter",
        "Workers",
    ),
    "plugins.rule": ("Rule", "rule"),
    "results.diagnosis": ("Certainty", "Diagnosis", "Prognosis"),
    "results.findings": ("Finding", "Repair", "Safety", "Severity"),
    "results.json": ("to_json",),
    "results.report": ("Examination", "Page", "Report", "TensorRecord", "Verdict"),
    "results.log_report": ("LogReport",),
    "results.series_report": ("SeriesReport",),
    "checkpoint.metric_meanings": ("Meaning",),
    "checkpoint.training_log": ("LogBuilder",),
    "statistics.curves": ("Curve",),
    "plugins.log_opening": ("read_log",),
    "sources": ("Folder", "Source", "Unsearched"),
    "statistics.moments": ("MomentStatistics",),
    "statistics.tensors": ("TensorStatistics",),
    "statistics.values": ("InMemory", "Values"),
}
"""Module to the public names that live in it; whatever is not here is a noun of ``checkpoint``."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = next((module for module, names in _HOMES.items() if name in names), "checkpoint")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
