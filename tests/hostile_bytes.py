"""Bytes that no writer wrote: a loader reads them or refuses them in one sentence."""

from __future__ import annotations

import random
from collections.abc import Iterator

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.sources import MemorySource


def read_or_refuse(loader: Loader, content: bytes) -> Checkpoint | None:
    """Open a file and read every value of it; return ``None`` where it is of another format, or refused."""
    source = MemorySource("file", content)
    if not loader.recognizes(source):
        return None
    try:
        checkpoint = loader.open(source)
        assert all(tensor.statistics.count == tensor.size for tensor in checkpoint.tensors)
    except DoctorError as refusal:
        error = refusal
    else:
        return checkpoint
    assert "\n" not in error.message
    assert 0 < len(error.message) < 2000
    return None


def damaged(content: bytes, seed: int) -> bytes:
    """Return the bytes with a few of them changed, removed, repeated, or the end cut off."""
    chance, changed = random.Random(seed), bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(changed) or 1)
        match chance.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                width = chance.choice([1, 2, 4, 8])
                changed[place : place + width] = chance.choice([0, 1, 2**7, 2**31, 2**62, 2**64 - 1]).to_bytes(
                    8, chance.choice(["little", "big"])
                )[:width]
            case 2:
                del changed[place : place + chance.choice([1, 4, 40])]
            case 3:
                changed[place:place] = changed[place : place + 30] * chance.choice([1, 20])
            case 4:
                del changed[max(place, 1) :]
    return bytes(changed)


def many_damaged(content: bytes, count: int = 300) -> Iterator[bytes]:
    """Yield damaged forms of a sound file, the same ones in every run."""
    return (damaged(content, seed) for seed in range(count))
