"""The kinds of ill models, one file for each subject. Each kind is a function that trains or writes what it describes."""

from benchmarks.sabotage_kinds import (
    agents,
    initialization,
    inputs,
    no_gradient,
    norms,
    optimization,
    parts,
    precision,
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
    "initialization",
    "inputs",
    "no_gradient",
    "norms",
    "optimization",
    "parts",
    "precision",
    "rows",
    "saving",
    "values",
]
