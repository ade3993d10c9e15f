"""From the nearest ``ckdoc.toml`` or ``[tool.ckdoc]``, and the command line, to a ``Config``."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from checkpoint_doctor.config.reader import Names, Reader, refuse
from checkpoint_doctor.config.settings import COMMAND_LINE, FAIL_ON, Config, Section
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule

FILE_NAME = "ckdoc.toml"
PYPROJECT = "pyproject.toml"


def load_config(
    rules: Sequence[Rule],
    *,
    causes: Sequence[Cause] = (),
    file: str | None = None,
    start: str = ".",
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: str | None = None,
    preview: bool | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
) -> Config:
    """Read the configuration that holds in a folder, with what the command line says on top.

    Without ``file`` the nearest ``ckdoc.toml`` or ``pyproject.toml`` with a section ``[tool.ckdoc]`` counts, from
    ``start`` upward. ``select`` and ``ignore`` name rules by code, by the beginning of a code or by name; ``ignore``
    names causes too. ``exclude`` adds to the file's patterns, ``include`` replaces them. ``preview`` says whether the
    findings of rules and causes in preview count.

    Raises:
        UsageError: the file cannot be read, was found and is not to be trusted, or something in it or on the command
            line does not exist.
    """
    path = file or _find_trusted(start)
    names = Names(rules, causes)
    sections = read_config_file(path, names) if path else ()
    if fail_on is not None and fail_on not in FAIL_ON:
        raise refuse("--fail-on", "severity", fail_on, FAIL_ON)
    overrides = Section(
        origin=COMMAND_LINE,
        select=tuple(names.read_selector(each, "--select") for each in select) or None,
        deselect=tuple(names.read_ignored(each, "--ignore") for each in ignore),
        fail_on=fail_on,
        preview=preview,
        exclude=tuple(exclude),
        include=tuple(include) or None,
    )
    return Config((*sections, overrides))


def find_config_file(start: str = ".") -> str | None:
    """Return the nearest configuration file from a folder upward, ``None`` where there is none."""
    folder = os.path.abspath(start)
    while True:
        own, shared = os.path.join(folder, FILE_NAME), os.path.join(folder, PYPROJECT)
        if os.path.isfile(own):
            return own
        if os.path.isfile(shared) and _has_section(shared):
            return shared
        if folder == (folder := os.path.dirname(folder)):
            return None


def _find_trusted(start: str) -> str | None:
    """Return the nearest configuration file, which can silence a gate, if nobody else can have put it there.

    Raises:
        UsageError: it belongs to another user, or anybody may write to it or to its folder.
    """
    path = find_config_file(start)
    if path is None or not hasattr(os, "geteuid"):
        return path
    # A link says nothing about who put it there, and neither does the file that it leads to.
    status, folder = os.stat(path), os.stat(os.path.dirname(path))
    if {status.st_uid, os.lstat(path).st_uid} - {0, os.geteuid()}:
        why = "belongs to another user"
    elif (status.st_mode | folder.st_mode) & stat.S_IWOTH:
        why = "lies where anybody may write"
    else:
        return path
    raise UsageError(
        f"the configuration {_show_path(path)} {why}, so it is not trusted",
        f"name it with --config if it is yours; --config {os.devnull} goes without one",
    )


def read_config_file(path: str, names: Names) -> tuple[Section, ...]:
    """Read the sections of a configuration file and check them against the rules and causes that are installed.

    Raises:
        UsageError: it cannot be read, is no TOML, or holds something that does not exist.
    """
    shown = _show_path(path)
    table = _parse(path, shown)
    prefix = ""
    if os.path.basename(path) == PYPROJECT:
        table = _section_of(table)
        prefix = "tool.ckdoc."
        if table is None:
            raise UsageError(f"{shown} has no section [tool.ckdoc]", f"add one, or name a {FILE_NAME}")
    return Reader(shown, os.path.dirname(os.path.abspath(path)), prefix, names).read_file(table)


def _show_path(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _has_section(path: str) -> bool:
    """True for a pyproject.toml that is about us; one that never names us is not even parsed."""
    try:
        with open(path, "rb") as file:
            if b"ckdoc" not in file.read():
                return False
    except OSError:
        return False
    return _section_of(_parse(path, _show_path(path))) is not None


def _section_of(table: Mapping[str, Any]) -> Any:
    tool = table.get("tool")
    return tool.get("ckdoc") if isinstance(tool, dict) else None


def _parse(path: str, shown: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration {shown}: {(error.strerror or str(error)).lower()}", "check --config"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown} is not valid TOML: {error}", "correct the file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not UTF-8 text: byte {error.start} cannot be read", "save it as UTF-8") from None
    except ValueError as error:  # an integer of more than 4,300 digits
        raise UsageError(f"{shown} holds a value that cannot be read: {error}", "correct the file") from None
    except RecursionError:
        raise UsageError(f"{shown} is nested too deeply", "correct the file") from None
