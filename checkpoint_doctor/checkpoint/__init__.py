"""The classes of an opened checkpoint (tensors, layers, optimizers, what a loader found in the file) and of a series.

All of them are frozen structs of msgspec, which are declared in a fiftieth of the time that dataclasses take: a small
scan declares two hundred. Loaders build them; findings about them are in ``results``. May import ``statistics``,
``layers``, ``sources`` and what they may import.
"""

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.contents import Checksum, Content, Flaw, Missing, Part, Patch, PickledName, Skipped
from checkpoint_doctor.checkpoint.facts import found_once
from checkpoint_doctor.checkpoint.gradients import Gradients, GradientSpike, NonfiniteGradient, Spoiled
from checkpoint_doctor.checkpoint.layers import Layer
from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer, ParameterGroup
from checkpoint_doctor.checkpoint.series import Point, Series, TensorSeries
from checkpoint_doctor.checkpoint.signals import LayerSignal
from checkpoint_doctor.checkpoint.tensors import Tensor
from checkpoint_doctor.checkpoint.training_log import Metric, TrainingLog

__all__ = [
    "Checkpoint",
    "Checksum",
    "Content",
    "Flaw",
    "GradientSpike",
    "Gradients",
    "Layer",
    "LayerSignal",
    "Metric",
    "Missing",
    "Moments",
    "NonfiniteGradient",
    "Optimizer",
    "ParameterGroup",
    "Part",
    "Patch",
    "PickledName",
    "Point",
    "Series",
    "Skipped",
    "Spoiled",
    "Tensor",
    "TensorSeries",
    "TrainingLog",
    "found_once",
]
