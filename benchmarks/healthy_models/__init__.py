"""Healthy models for the bench alone: the zoo of the tests holds a reduced selection of their kinds.

Every file here holds the models of one subject, each as a function that trains it, as in ``tests/zoo``.
"""

from benchmarks.healthy_models import (
    adapters,
    agents,
    averages,
    choices,
    conditioning,
    embeddings,
    experts,
    fine_tuning,
    gating,
    generative,
    magnitudes,
    normalization,
    optimizers,
    quantization,
    recurrent,
    residuals,
    scenes,
    sciences,
    self_supervised,
    sparsity,
    staged,
    state_spaces,
    value_learning,
)
from benchmarks.healthy_models.collection import MODELS

__all__ = [
    "MODELS",
    "adapters",
    "agents",
    "averages",
    "choices",
    "conditioning",
    "embeddings",
    "experts",
    "fine_tuning",
    "gating",
    "generative",
    "magnitudes",
    "normalization",
    "optimizers",
    "quantization",
    "recurrent",
    "residuals",
    "scenes",
    "sciences",
    "self_supervised",
    "sparsity",
    "staged",
    "state_spaces",
    "value_learning",
]
