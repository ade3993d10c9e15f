"""What goes wrong around a checkpoint, said in one sentence with a hint."""

from __future__ import annotations


class DoctorError(Exception):
    """A problem that ends the work on one input or on the whole run.

    The message is one sentence for a person; the hint says what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreadableCheckpoint(DoctorError):
    """The bytes are not a checkpoint we can open: damaged, foreign, or refused by the system."""


class NotACheckpoint(UnreadableCheckpoint):
    """A sound file of another kind: an error when it was named, no news when a search came across it."""


class UsageError(DoctorError):
    """The command line or the configuration asks for something that does not exist."""


class NothingToExamine(DoctorError):
    """No checkpoint was found where one was asked for."""


class RepairFailed(DoctorError):
    """A repaired copy could not be written, or did not pass its own proof."""
