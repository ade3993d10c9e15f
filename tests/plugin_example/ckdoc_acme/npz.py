"""NumPy's ``.npz``: a zip of ``.npy`` members. Arrays of objects are pickles; they are named and never opened."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

from checkpoint_doctor import Checkpoint, InMemory, RepairFailed, Skipped, Source, Tensor, UnreadableCheckpoint

LARGEST = 1 << 30
"""Bytes that all arrays may unpack to; a small file can claim any size."""


class NpzLoader:
    """Opens ``.npz`` files whole: their members may be compressed, so there is nothing to stream."""

    name = "npz"
    suffixes = (".npz",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``: a zip that holds ``.npy`` members and nothing else."""
        try:
            names = self._archive(source).namelist() if source.read(0, 2) == b"PK" else []
        except (UnreadableCheckpoint, zipfile.BadZipFile, ValueError, NotImplementedError):
            return False
        return bool(names) and all(name.endswith(".npy") for name in names)

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``."""
        tensors, skipped = [], []
        try:
            archive = self._archive(source)
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > LARGEST:
                raise UnreadableCheckpoint(f"{source.name} unpacks to {claimed:,} bytes", f"{LARGEST:,} are the limit")
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                try:
                    array = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
                except (ValueError, EOFError, MemoryError) as error:
                    skipped.append(Skipped(f"array {name}", str(error).partition("\n")[0]))
                    continue
                if array.dtype.kind not in "biufc":
                    skipped.append(Skipped(f"array {name}", f"elements of type {array.dtype} are no numbers"))
                    continue
                tensors.append(Tensor(name, array.shape, array.dtype.name, InMemory(array)))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UnreadableCheckpoint(f"{source.name} is damaged: {error}", "copy or download it again") from None
        return Checkpoint(source.name, self.name, tuple(tensors), skipped=tuple(skipped), is_patchable=False)

    def patch(self, checkpoint, changes):
        """See ``Loader.patch``."""
        raise RepairFailed(f"{checkpoint.path} is a compressed archive, which cannot be patched in place")

    def _archive(self, source: Source) -> zipfile.ZipFile:
        if source.size > LARGEST:
            raise UnreadableCheckpoint(f"{source.name} has {source.size:,} bytes", f"{LARGEST:,} are the limit")
        return zipfile.ZipFile(io.BytesIO(source.read(0, source.size)))


loader = NpzLoader()
