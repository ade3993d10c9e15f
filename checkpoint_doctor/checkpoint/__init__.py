"""The nouns: what a checkpoint is made of. May import ``statistics``, ``layers`` and what lies below them.

Everything here is frozen. A ``Checkpoint`` is what a loader makes of a file: lazy tensors, the optimizers' state and
the settings. What rules say about it lives in ``results``.
"""

from checkpoint_doctor.checkpoint.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.contents import Checksum, Flaw, Patch, PickledName, Skipped
from checkpoint_doctor.checkpoint.layers import Layer
from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer, ParameterGroup
from checkpoint_doctor.checkpoint.tensors import Tensor

__all__ = [
    "Checkpoint",
    "Checksum",
    "Flaw",
    "Layer",
    "Moments",
    "Optimizer",
    "ParameterGroup",
    "Patch",
    "PickledName",
    "Skipped",
    "Tensor",
]
