"""The files and addresses that a pattern of the shell matches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from checkpoint_doctor.sources.patterns import ANY_FOLDERS, compile_pattern
from checkpoint_doctor.text import natural_key


def match_glob(pattern: str, on_failure: Callable[[OSError], None]) -> list[str]:
    """Return the paths that a pattern of the shell matches, sorted; ``**`` follows no links, so that it always ends.

    ``on_failure`` is called for each folder in which something may match and that cannot be listed.
    """
    import glob

    base, crosses, rest = _split_at_any_folders(pattern)
    _note_unlisted(base, on_failure)
    if not crosses:
        return sorted(glob.glob(pattern), key=natural_key)
    compiled = compile_pattern(rest)
    found = []
    for start in glob.glob(base) if base else [os.curdir]:
        for path, names in _walk_visible(start, on_failure):
            if len(names) in compiled.match_beginnings(names):
                found.append(path if base else os.path.join(*names))
    return sorted(found, key=natural_key)


def _note_unlisted(pattern: str, on_failure: Callable[[OSError], None]) -> None:
    """Look into each folder that ``glob`` has to look into for a pattern: it passes over those that it cannot."""
    import glob

    names = pattern.split(os.sep)
    for position, name in enumerate(names):
        above = os.sep.join(names[:position]) or (os.sep if position else os.curdir)
        if not (glob.has_magic(name) or glob.has_magic(above)):
            continue
        for folder in filter(os.path.isdir, glob.glob(above)):
            try:
                if glob.has_magic(name):
                    os.scandir(folder).close()
                else:
                    os.stat(os.path.join(folder, name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                on_failure(error)


def match_addresses(pattern: str) -> list[str]:
    """Return the addresses of what a pattern matches in a store, sorted; those of folders end with ``/``."""
    from checkpoint_doctor.sources.remote.listing import walk_addresses

    names = pattern.split("/")
    fixed = next(at for at, name in enumerate(names) if any(letter in name for letter in "*["))
    base, compiled = "/".join(names[:fixed]), compile_pattern("/".join(names[fixed:]))
    deepest = None if ANY_FOLDERS in names else len(names) - fixed
    walked = walk_addresses(base, deepest)
    return sorted((uri for uri, within in walked if len(within) in compiled.match_beginnings(within)), key=natural_key)


def _split_at_any_folders(pattern: str) -> tuple[str, bool, str]:
    """Split a pattern before its first ``**``."""
    names = pattern.split(os.sep)
    if ANY_FOLDERS not in names:
        return pattern, False, ""
    position = names.index(ANY_FOLDERS)
    return os.sep.join(names[:position]) or (os.sep if position else ""), True, "/".join(names[position:])


def _walk_visible(start: str, on_failure: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of everything in a folder that is not hidden, and its names from the folder on."""
    for folder, folders, files in os.walk(start, onerror=on_failure):
        folders[:] = [
            name for name in folders if not (name.startswith(".") or os.path.islink(os.path.join(folder, name)))
        ]
        within = os.path.relpath(folder, start)
        above = [] if within == os.curdir else within.split(os.sep)
        for name in (*folders, *files):
            if not name.startswith("."):
                yield os.path.join(folder, name), [*above, name]
