import json
from dataclasses import dataclass
from math import prod

import numpy as np

from checkpoint_doctor import Checkpoint, Patch, Source, Tensor, UnreadableCheckpoint

MAGIC = b"ACME"  # followed by the length of a JSON header {name: shape} in four bytes, the header, and float32 numbers
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Stored:
    """Values that stay in the file until they are asked for."""

    source: Source
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype = FLOAT

    def blocks(self, elements):
        for start in range(0, prod(self.shape), elements):
            count = min(elements, prod(self.shape) - start)
            yield np.frombuffer(self.source.read(self.offset + 4 * start, 4 * count), self.dtype)

    def read(self):
        content = self.source.read(self.offset, 4 * prod(self.shape))
        return np.frombuffer(content, self.dtype).reshape(self.shape).copy()


class AcmeLoader:
    name = "acme"
    suffixes = (".acme",)

    def recognizes(self, source):
        return source.size >= 8 and source.read(0, 4) == MAGIC

    def open(self, source):
        length = int.from_bytes(source.read(4, 4), "little")
        try:
            shapes = {str(name): tuple(map(int, shape)) for name, shape in json.loads(source.read(8, length)).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UnreadableCheckpoint(f"{source.name} is damaged: its header is not valid", "copy it again") from None
        tensors, offset = [], 8 + length
        for name, shape in shapes.items():
            tensors.append(Tensor(name, shape, "float32", Stored(source, offset, shape)))
            offset += 4 * prod(shape)
        if offset != source.size or any(size < 0 for shape in shapes.values() for size in shape):
            raise UnreadableCheckpoint(f"{source.name} has {source.size:,} bytes, not {offset:,}", "copy it again")
        return Checkpoint(source.name, self.name, tuple(tensors))

    def patch(self, checkpoint, changes):
        patches = {}
        for tensor, wanted in changes.items():
            stored, new = tensor.values, wanted.astype("<f4").tobytes()
            patch = Patch(stored.offset, stored.source.read(stored.offset, len(new)), new, tensor.name)
            patches.setdefault(stored.source, []).append(patch)
        return {source: sorted(each, key=lambda patch: patch.offset) for source, each in patches.items()}


loader = AcmeLoader()
