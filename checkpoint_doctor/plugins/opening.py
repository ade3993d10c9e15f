"""Opening a checkpoint with the loader that recognizes its content."""

from __future__ import annotations

import os
from dataclasses import replace

from checkpoint_doctor.checkpoint import Checkpoint, Skipped
from checkpoint_doctor.errors import DoctorError, NotACheckpoint, UnreadableCheckpoint, UsageError
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.sources import FileSource, Source


def open_checkpoint(path: str | os.PathLike[str], catalogue: Catalogue | None = None) -> Checkpoint:
    """Open a checkpoint with the loader that recognizes its content. Nothing in it is executed.

    Raises:
        UnreadableCheckpoint: the file cannot be opened; the message says what it is and what to do.
    """
    source = FileSource(os.fspath(path))
    unable: list[Skipped] = []
    for loader in (catalogue or discover_working()).loaders:
        try:
            recognized = loader.recognizes(source)
        except Exception as error:  # a loader with a bug must not keep the others from reading the file
            why = f"could not say whether it reads the file: {_name(error)}"
            unable.append(Skipped(f"the loader {loader.name}", why))
            continue
        if recognized:
            opened = _open(loader, source)
            opened = replace(opened, path=os.fspath(path), skipped=(*opened.skipped, *unable))
            return opened.with_shared_statistics()
    raise NotACheckpoint(f"{path} is of no format that an installed loader recognizes", "see `ckdoc plugins`")


def _open(loader: Loader, source: Source) -> Checkpoint:
    try:
        return loader.open(source)
    except DoctorError:
        raise
    except Exception as error:
        raise UnreadableCheckpoint(
            f"the loader {loader.name} failed on {source.name} with {_name(error)}",
            "this is a bug in the loader and not in the file: please report it; `ckdoc plugins` names its package",
        ) from error


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def discover_working() -> Catalogue:
    """Return the installed plugins. Raises as ``refuse_broken_parts``."""
    catalogue = discover()
    refuse_broken_parts(catalogue)
    return catalogue


def refuse_broken_parts(catalogue: Catalogue) -> None:
    """Make sure that every part of ckdoc itself works. Broken plugins of other packages are left to be reported.

    Raises:
        UsageError: a part of ckdoc itself is broken, so that a clean run would prove nothing.
    """
    for plugin in catalogue.broken:
        if plugin.is_ours:
            raise UsageError(f"ckdoc's own {plugin.name} is broken: {plugin.problem}", "install checkpoint-doctor anew")
