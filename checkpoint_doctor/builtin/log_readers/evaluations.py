"""Reads ``evaluations.npz``, in which SB3's ``EvalCallback`` keeps the episodes of each evaluation."""

from __future__ import annotations

import zipfile

import numpy as np

from checkpoint_doctor.builtin.log_readers._blocks import OnRead
from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source

LARGEST = 1 << 28
"""Bytes of all arrays unpacked; a thousand evaluations of ten episodes have 200 KB."""

MEANS = {"results": "eval/mean_reward", "ep_lengths": "eval/mean_ep_length", "successes": "eval/success_rate"}
"""Arrays of one row for each evaluation to the names under which SB3 logs their means."""


class EvaluationsReader:
    """Reads the archive of evaluations; arrays of objects are pickles and are never unpickled."""

    name = "evaluations"
    patterns = ("evaluations.npz",)

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``."""
        try:
            if source.read(0, min(4, source.size)) != b"PK\x03\x04":
                return False
            with zipfile.ZipFile(source.name) as archive:
                return {"timesteps.npy", "results.npy"} <= set(archive.namelist())
        except (UnreadableCheckpoint, OSError, zipfile.BadZipFile, ValueError):
            return False

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``."""
        builder.kind, builder.step_name = "sb3 evaluations", "timesteps"
        try:
            with zipfile.ZipFile(source.name) as archive:
                size = sum(each.file_size for each in archive.infolist())
            if size > LARGEST:
                raise UnreadableCheckpoint(f"{source.name} unpacks to {size:,} bytes, too many for evaluations", "")
            with np.load(source.name, allow_pickle=False) as arrays:
                steps = np.asarray(arrays["timesteps"], dtype=np.float64).reshape(-1)
                columns = {
                    MEANS[key]: np.asarray(arrays[key], dtype=np.float64).reshape(len(steps), -1).mean(axis=1)
                    for key in MEANS
                    if key in arrays.files and len(steps)
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, MemoryError) as error:
            raise UnreadableCheckpoint(
                f"{source.name} is damaged, or no file of evaluations: {error}", "let EvalCallback write it again"
            ) from None
        values = np.column_stack(list(columns.values())) if columns else np.empty((0, 0))
        builder.add_rows(list(columns), values, np.ones(values.shape, dtype=bool), steps)
        if on_read:
            on_read(source.size)


reader = EvaluationsReader()
