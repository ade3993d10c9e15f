"""Opening a checkpoint with the loader that recognizes its content."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Skipped
from checkpoint_doctor.errors import DoctorError, NotACheckpoint, UnknownFormat, UnreadableCheckpoint, UsageError
from checkpoint_doctor.plugins.catalogue import LAST_LOADER, Catalogue, discover
from checkpoint_doctor.plugins.protocols import FolderLoader, Loader
from checkpoint_doctor.sources import Folder, Source, is_folder, let_go_of_files, open_source
from checkpoint_doctor.sources.address import show_uri
from checkpoint_doctor.sources.traces import note_folder
from checkpoint_doctor.text import describe_error


def open_checkpoint(
    path: str | os.PathLike[str], catalogue: Catalogue | None = None, *, is_read_whole: bool = False
) -> Checkpoint:
    """Open a checkpoint, a file or a folder, with the loader that recognizes its content. Nothing in it is executed.

    Args:
        path: its path or its address.
        catalogue: the plugins to use, by default all that are installed.
        is_read_whole: True where all of its values will be read, so that a remote file is fetched with one request.

    Raises:
        UnreadableCheckpoint: it cannot be opened; the message says what it is and what to do.
    """
    catalogue = catalogue or discover_working()
    if is_read_whole:
        let_go_of_files(path)
    if is_folder(path):
        note_folder(os.fspath(path))
        return _open_folder(Folder.read(path, is_read_whole=is_read_whole), catalogue)
    source = open_source(path, is_read_whole=is_read_whole)
    unable: list[Skipped] = []
    for loader in catalogue.loaders:
        try:
            recognized = loader.recognizes(source)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a loader with a bug must not keep the others from reading the file
            why = f"could not say whether it reads the file: {describe_error(error)}"
            unable.append(Skipped(f"the loader {loader.name}", why, is_crash=True))
            continue
        if recognized:
            try:
                opened = _open(loader, source)
            except (NotACheckpoint, UnknownFormat) as error:
                if unable:  # it may be one, of a kind that only the loader with the bug knows
                    words = f"{error.message}, and {unable[0].what} {unable[0].why}"
                    raise UnreadableCheckpoint(words, "`ckdoc plugins` names the package of the loader") from None
                raise
            opened = replace(opened, path=show_uri(os.fspath(path)), skipped=(*opened.skipped, *unable))
            return opened.with_shared_statistics()
    raise NotACheckpoint(f"{source.name} is of no format that an installed loader recognizes", "see `ckdoc plugins`")


BEGINNING = 512
"""Bytes of a file that tell text from all else."""

MEDIA = (
    b"\x89PNG", b"\xff\xd8\xff\xdb", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xee", b"GIF8", b"RIFF",
    b"OggS", b"fLaC", b"ID3\x03", b"ID3\x04", b"\x1aE\xdf\xa3", b"%PDF", b"wOFF", b"wOF2",
)  # fmt: skip
"""First bytes of images, sounds, films, documents and fonts, of which a folder may have very many. No loader needs to
look at these; zips are told by their end, which would be a second place to read in each."""

_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r\f"


def recognize_content(path: str, catalogue: Catalogue) -> bool:
    """Return whether the first bytes of a file are those of a checkpoint, whatever its name is.

    Text is none: a pickle of protocol 0, which is text, is only looked for under the endings of pickles.

    Raises:
        UnreadableCheckpoint: it cannot be opened.
    """
    source = open_source(path)
    beginning = source.read(0, min(source.size, BEGINNING))
    if beginning.startswith(MEDIA) or not beginning.translate(None, _TEXT):
        return False
    return any(_recognizes(loader, source) for loader in catalogue.loaders if loader.name != LAST_LOADER)


def _recognizes(loader: Loader, source: Source) -> bool:
    try:
        return loader.recognizes(source)
    except KeyboardInterrupt:
        raise
    except BaseException:  # it may be one that only this loader knows: opening it tells about the bug
        return True


def claim_folder(folder: Folder, catalogue: Catalogue) -> Collection[str]:
    """Return the names of the files and folders in a folder that a loader claims as one checkpoint; mostly none.

    Raises:
        UnreadableCheckpoint: a loader failed at it.
    """
    return next((claimed for _, claimed in _claims(folder, catalogue)), ())


def _claims(folder: Folder, catalogue: Catalogue) -> Iterator[tuple[FolderLoader, Collection[str]]]:
    for loader in catalogue.loaders:
        if isinstance(loader, FolderLoader):
            try:
                claimed = loader.claim_folder(folder)
            except UnreadableCheckpoint:  # what it looked into is damaged, and is examined as the file that it is
                continue
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise _blame(loader, folder.path, error) from error
            if claimed:
                yield loader, claimed


def _open_folder(folder: Folder, catalogue: Catalogue) -> Checkpoint:
    for loader, _ in _claims(folder, catalogue):
        with _blaming(loader, folder.path):
            opened = _only_checkpoint(loader.open_folder(folder))
        return replace(opened, path=show_uri(folder.path)).with_shared_statistics()
    raise NotACheckpoint(
        f"{folder.path} is a folder, and its files are not one checkpoint", "scan the folder, or name a file in it"
    )


def _open(loader: Loader, source: Source) -> Checkpoint:
    with _blaming(loader, source.name):
        return _only_checkpoint(loader.open(source))


def _only_checkpoint(opened: object) -> Checkpoint:
    if not isinstance(opened, Checkpoint):
        raise TypeError(f"it returned {type(opened).__name__}, and not a checkpoint")
    return opened


@contextmanager
def _blaming(loader: object, path: str) -> Iterator[None]:
    """Raise what a loader should not raise as an error that names the loader."""
    try:
        yield
    except (DoctorError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _blame(loader, path, error) from error


def _blame(loader: object, path: str, error: BaseException) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(
        f"the loader {getattr(loader, 'name', '')} failed on {path} with {describe_error(error)}",
        "this is a bug in the loader and not in the file: please report it; `ckdoc plugins` names its package",
    )


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
