"""Settings of a run in a JSON or YAML file beside its checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

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


def read_settings_beside(source: Source) -> dict[str, float]:
    """Return the numbers among the known settings in the first such file beside a checkpoint; empty where none is."""
    if not os.path.isfile(source.name):  # a part of another file has no neighbours
        return {}
    folder, name = os.path.split(source.name)
    for stem in (name.rpartition(".")[0], *STEMS):
        for ending in ENDINGS:
            path = os.path.join(folder, stem + ending)
            if is_file(path):
                found = dict(_numbers(_read(path)))
                if found:
                    return found
    return {}


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
    """Return what a YAML file holds, ``None`` where PyYAML is not installed or the file asks for Python objects."""
    try:
        import yaml
    except ImportError:
        return None
    if b"&" in content:  # an alias can stand for itself a million times over
        return None
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError:
        return None


def _numbers(value: Any, depth: int = 2) -> Iterator[tuple[str, float]]:
    if not isinstance(value, Mapping) or not depth:
        return
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _numbers(each, depth - 1)
        elif name in KNOWN and isinstance(each, (int, float)) and not isinstance(each, bool) and abs(each) < 1e300:
            yield name, each
