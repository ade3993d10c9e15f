"""The errors that users see: one sentence with a hint."""

from __future__ import annotations


class DoctorError(Exception):
    """A problem that ends the work on one input or on the whole run.

    The message is one sentence; the hint says what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnreadableCheckpoint(DoctorError):
    """The file cannot be opened: damaged, of another kind, or refused by the system."""


class NotACheckpoint(UnreadableCheckpoint):
    """An intact file of another kind: an error when it was named, skipped when a search came across it."""


class UnknownFormat(UnreadableCheckpoint):
    """Nothing in the file says what it is: a checkpoint that was damaged or never written, or data of another kind.

    ``what`` says in a few words what there is in its place.
    """

    def __init__(self, message: str, hint: str = "", what: str = "of an unknown format") -> None:
        super().__init__(message, hint)
        self.what = what


class UsageError(DoctorError):
    """The command line or the configuration names something that does not exist, or cannot be done."""


class NothingToExamine(DoctorError):
    """There is no checkpoint to examine."""


class RepairFailed(DoctorError):
    """A repaired copy could not be written, or did not pass its verification."""
