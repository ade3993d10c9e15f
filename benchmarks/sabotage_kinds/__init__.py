"""The kinds of ill models, one file for each subject. Each kind is a function that trains or writes what it describes."""

from benchmarks.sabotage_kinds import no_gradient
from benchmarks.sabotage_kinds.pairs import DECOYS, KINDS, Decoy, Kind, Pair

__all__ = ["DECOYS", "KINDS", "Decoy", "Kind", "Pair", "no_gradient"]
