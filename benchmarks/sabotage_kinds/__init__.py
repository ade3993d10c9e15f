"""The kinds of ill models, one file for each subject. Each kind is a function that trains or writes what it says."""

from benchmarks.sabotage_kinds import (
    agents,
    copies,
    initialization,
    inputs,
    learning_rates,
    no_gradient,
    norms,
    optimization,
    parts,
    precision,
    resuming,
    rows,
    saving,
    values,
)
from benchmarks.sabotage_kinds.pairs import DECOYS, KINDS, Decoy, Kind, Pair

__all__ = [
    "DECOYS",
    "KINDS",
    "Decoy",
    "Kind",
    "Pair",
    "agents",
    "copies",
    "initialization",
    "inputs",
    "learning_rates",
    "no_gradient",
    "norms",
    "optimization",
    "parts",
    "precision",
    "resuming",
    "rows",
    "saving",
    "values",
]
