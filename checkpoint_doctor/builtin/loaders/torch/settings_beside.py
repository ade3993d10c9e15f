"""Settings of a run in a JSON or YAML file beside its checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Mapping
from typing import Any

from msgspec import Struct

from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.checkpoint.reviewed_settings import OTHER_NAMES, SETTINGS
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, Source
from checkpoint_doctor.sources.traces import is_file

LARGEST = 1 << 16
"""Bytes of such a file that is read; settings have a few hundred."""

STEMS = ("hparams", "hyperparameters", "hyperparams", "args", "training_args")
"""Names under which programs keep the settings of a run beside its checkpoints; those of the checkpoint come first."""

ENDINGS = (".json", ".yaml", ".yml")

KNOWN = frozenset((*SETTINGS, *OTHER_NAMES, "max_steps", "total_steps"))
"""Settings that something is known about; whatever else stands in such a file is left alone."""


class SettingsBeside(Struct, frozen=True):
    """What stands in a file beside a checkpoint."""

    numbers: dict[str, float] = {}
    """The known settings that are numbers."""
    skipped: tuple[Skipped, ...] = ()
    """Known settings whose value is not read, because it is no plain data."""


def read_settings_beside(source: Source, known: Container[str] = ()) -> SettingsBeside:
    """Return the settings in the first such file beside a checkpoint, without those that are known already."""
    if not os.path.isfile(source.name):  # a part of another file has no neighbours
        return SettingsBeside()
    folder, name = os.path.split(source.name)
    for stem in (name.rpartition(".")[0], *STEMS):
        for ending in ENDINGS:
            path = os.path.join(folder, stem + ending)
            if is_file(path):
                found = {key: value for key, value in _settings(_read(path), set()) if key not in known}
                numbers = {key: value for key, value in found.items() if not isinstance(value, str)}
                skipped = tuple(
                    Skipped(f"setting {key}", f"{stem}{ending} holds it as {value}, and nothing is built from a file")
                    for key, value in found.items()
                    if isinstance(value, str)
                )
                if found:
                    return SettingsBeside(numbers, skipped)
    return SettingsBeside()


def _read(path: str) -> Any:
    try:
        file = FileSource(path)
        if file.size > LARGEST:
            return None
        content = file.read(0, file.size)
    except UnreadableCheckpoint:
        return None
    try:
        return json.loads(content) if path.endswith(".json") else _read_yaml(content)
    except (ValueError, RecursionError):
        return None


def _read_yaml(content: bytes) -> Any:
    """Return what a YAML file holds as plain data, ``None`` where PyYAML is not installed.

    Raises:
        ValueError: it is no YAML.
        RecursionError: it is nested too deeply.
    """
    try:
        from checkpoint_doctor.builtin.loaders.torch.plain_yaml import read_plain
    except ImportError:
        return None
    return read_plain(content)


def _settings(value: Any, seen: set[int], depth: int = 2) -> Iterator[tuple[str, float | str]]:
    """Yield the known settings in mappings: numbers, and the tags of values that are not read."""
    if not isinstance(value, Mapping) or not depth or id(value) in seen:
        return
    seen.add(id(value))
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _settings(each, seen, depth - 1)
        elif name not in KNOWN:
            continue
        elif isinstance(each, (int, float)) and not isinstance(each, bool) and abs(each) < 1e300:
            yield name, each
        elif isinstance(tag := getattr(each, "tag", None), str):
            yield name, f"!!{tag}"
