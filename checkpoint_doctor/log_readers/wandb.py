"""Names the offline runs of Weights & Biases, which only its own library reads, and says how to turn one into a log."""

from __future__ import annotations

from checkpoint_doctor.checkpoint.training_log import LogBuilder
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.log_readers._blocks import OnRead
from checkpoint_doctor.sources import Source

SIGNATURE = b":W&B"


class WandbReader:
    """Refuses ``run-….wandb`` files with what to do instead."""

    name = "wandb"
    patterns = ("*.wandb",)

    def recognizes(self, source: Source) -> bool:
        """See ``LogReader.recognizes``."""
        try:
            return source.read(0, min(4, source.size)) == SIGNATURE
        except UnreadableCheckpoint:
            return False

    def read(self, source: Source, builder: LogBuilder, on_read: OnRead | None) -> None:
        """See ``LogReader.read``.

        Raises:
            UnreadableCheckpoint: always.
        """
        raise UnreadableCheckpoint(
            f"{source.name} is an offline run of Weights & Biases, in a format of its own that is not read",
            "upload it with `wandb sync` and save its history as CSV, or log to a CSV file besides",
        )


reader = WandbReader()
