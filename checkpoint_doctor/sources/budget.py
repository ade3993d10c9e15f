"""The budget of a file: how much work and memory it may ask for, in proportion to its size.

A file of a few kilobytes can ask for gigabytes: through references, compression, views that repeat their bytes, keys
that collide. Whoever does such work spends it from the budget first, so that no file costs out of all proportion. Every
part of a file, however deeply nested, spends from the budget of the file on the disk.
"""

from __future__ import annotations

from msgspec import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint

DO_NOT_LOAD = "do not load this file; if you trust it, save it again from the program that wrote it"


class Allowance(Struct, frozen=True, eq=False):
    """How much of one thing every file may ask for, and how much more for each of its bytes."""

    things: str
    """What is counted, in the plural."""
    free: int
    per_byte: float
    hint: str = DO_NOT_LOAD

    def of(self, size: int) -> int:
        """Return how much a file of a size in bytes may ask for."""
        return self.free + int(self.per_byte * size)


OBJECTS = Allowance(
    "Python objects", 1_000_000, 1 / 3, "save the model's tensors without the replay buffer or data set beside them"
)
"""Containers, objects and memo entries of about 100 bytes. A tensor in a pickle takes 15 in at least 130 bytes, a chunk
in the metadata of a distributed checkpoint 90 in 300."""
PICKLED = Allowance("bytes of pickles", 1 << 20, 2)
"""Fewer than the file's bytes, but for compressed pickles and those inside others. A million instructions take about
half a second."""
COPIED = Allowance("bytes that its pickles copy", 1 << 20, 8)
"""Texts and collections that one value is made of another from, and keys that are hashed."""
INFLATED = Allowance(
    "bytes of inflated members",
    32 << 20,
    10,
    "if you trust the file, unpack it and zip it again without compression (zip -0)",
)
"""Trained weights shrink by a tenth, zeros by a factor of 1,000."""
REPEATED = Allowance("bytes that views and members repeat", 16 << 20, 4)
"""Bytes that are read beyond those that are there, because views are expanded or overlap, or members do."""
TENSORS = Allowance("tensors", 5_000, 1 / 100)
"""Each takes about a tenth of a millisecond to measure and to judge, and at least 130 bytes in any format."""
JSON = Allowance("bytes of JSON", 32 << 20, 1 / 8)
"""Each takes up to five bytes of memory. The header and the index of a model of 100,000 tensors have about 10 MB."""
SETTINGS = Allowance("characters of settings", 1 << 20, 1)
"""As a report shows them; settings of published files have a few thousand."""


class Budget:
    """What a file may still ask for."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        """The file's name in messages."""
        self.size = size
        """Bytes of the file."""
        self._left: dict[Allowance, int] = {}

    def left(self, allowance: Allowance) -> int:
        """Return how much is left of an allowance."""
        return self._left.get(allowance, allowance.of(self.size))

    def spend(self, allowance: Allowance, amount: int) -> None:
        """Subtract what is about to be done from an allowance.

        Raises:
            UnreadableCheckpoint: it is more than the file may ask for.
        """
        left = self._left.get(allowance)
        self._left[allowance] = left = (allowance.of(self.size) if left is None else left) - amount
        if left < 0:
            raise UnreadableCheckpoint(
                f"{self.name} asks for more than {allowance.of(self.size):,} {allowance.things}, too many for a file "
                f"of {self.size:,} bytes: it may be a decompression bomb",
                allowance.hint,
            )
