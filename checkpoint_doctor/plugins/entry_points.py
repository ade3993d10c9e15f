"""The entry points of the installed packages, found without the cost of ``importlib.metadata``.

Importing that module and asking it takes 35 ms, a sixth of what a scan may cost; listing the folders of the path and
reading what they declare takes one. Whatever is not a plain folder is still left to it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from msgspec import Struct

_VALUE = re.compile(r"(?P<module>\w+(\.\w+)*)\s*(:\s*(?P<attribute>\w+(\.\w+)*))?\s*(\[.*\])?")
_METADATA = re.compile(r"(?P<name>[^-]+)(-(?P<version>[^-]+)(-.*)?)?\.(dist-info|egg-info)", re.IGNORECASE)


class EntryPoint(Struct, frozen=True):
    """A name that an installed package gives to one of its objects."""

    group: str
    """Such as ``checkpoint_doctor.analyzers``."""
    name: str
    """The name in the group: of a loader or a reporter its own."""
    value: str
    """What it names: ``package.module`` or ``package.module:attribute``."""
    distribution: str
    """The installed package that it comes from, as ``pip`` calls it."""
    version: str
    """The version of that package."""

    def load(self) -> object:
        """Import the module and return what the value names: the module itself or something in it.

        Raises:
            ValueError: the value is no object reference.
            Exception: whatever the import raises.
        """
        match = _VALUE.fullmatch(self.value)
        if match is None:
            raise ValueError(f"{self.value!r} is not of the form package.module:attribute")
        module = importlib.import_module(match["module"])
        return reduce(getattr, (match["attribute"] or "").split(".") if match["attribute"] else (), module)


def find_entry_points(prefix: str, path: Sequence[str] | None = None) -> list[EntryPoint]:
    """Return the entry points of all groups that start with a prefix.

    ``path`` is where to look, ``sys.path`` where none is given. Of a package installed twice the first on the path
    counts, as it does for imports.
    """
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for folder in sys.path if path is None else path:
        for distribution, version, text in _declarations(folder or ".", prefix, seen):
            found += _parse(text, prefix, distribution, version)
    return found


def _declarations(folder: str, prefix: str, seen: set[str]) -> Iterator[tuple[str, str, str]]:
    """Name, version and ``entry_points.txt`` of the distributions in a folder that mention the prefix."""
    try:
        names = sorted(os.listdir(folder))
    except NotADirectoryError:
        yield from _declarations_in_archive(folder, seen)
        return
    except OSError:
        return
    for name in names:
        match = _METADATA.fullmatch(name)
        if match is None or name.startswith("~"):  # pip renames what it is about to delete
            continue
        distribution = _normalize(match["name"])
        if distribution in seen:
            continue
        seen.add(distribution)
        try:
            with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                content = file.read()
        except OSError:
            continue
        if prefix.encode() in content:
            version = match["version"] or _read_version(os.path.join(folder, name))
            yield distribution, version, content.decode("utf-8", "replace")


def _declarations_in_archive(archive: str, seen: set[str]) -> Iterator[tuple[str, str, str]]:
    import importlib.metadata

    for each in importlib.metadata.distributions(path=[archive]):
        distribution = _normalize(each.name)
        if distribution not in seen:
            seen.add(distribution)
            yield distribution, each.version, each.read_text("entry_points.txt") or ""


def _parse(text: str, prefix: str, distribution: str, version: str) -> Iterator[EntryPoint]:
    group = ""
    for line in _without_comments(text):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif group.startswith(prefix):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.strip(), distribution, version)


def _without_comments(text: str) -> Iterable[str]:
    return (line for line in map(str.strip, text.splitlines()) if line and not line.startswith(("#", ";")))


def _normalize(name: str) -> str:
    """The canonical form of a package's name, in which ``Foo_Bar`` and ``foo-bar`` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read_version(folder: str) -> str:
    """An ``.egg-info`` folder of a source tree does not carry the version in its name."""
    try:
        with open(os.path.join(folder, "PKG-INFO"), encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("Version:")), "")
    except OSError:
        return ""
