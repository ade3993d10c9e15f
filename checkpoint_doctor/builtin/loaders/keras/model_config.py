"""The configuration that Keras stores with a model: the order of its layers, which are frozen, and its optimizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

Path = tuple[str, ...]

LAYERS = "layers"
"""The group of the layers of a Sequential or functional model."""
_DEEPEST = 32
"""Models inside one another."""
_FIRST = re.compile(r"(.)([A-Z][a-z]+)")
_SECOND = re.compile(r"([a-z])([A-Z])")


class ModelConfig(Struct):
    """What a model's configuration says, as far as it is stored."""

    ranks: dict[Path, int] = field(default_factory=dict)
    """The groups of the layers in the file to their places among the layers beside them."""
    frozen: set[Path] = field(default_factory=set)
    """The groups of the layers that are not trained."""
    optimizer: str = ""
    """The optimizer's class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The optimizer's options, by Keras's names."""

    def place_of(self, path: Path) -> tuple[int, ...]:
        """Return the places of a layer, and of the models that it is inside of, among the layers beside them."""
        above = (path[:depth] for depth in range(1, len(path) + 1))
        return tuple(self.ranks[each] for each in above if each in self.ranks)

    def is_frozen(self, path: Path) -> bool:
        """Tell whether a layer is not trained, or one that it is inside of."""
        return any(path[:depth] in self.frozen for depth in range(len(path) + 1))


def read_config(model: str, training: str = "") -> ModelConfig:
    """Return what the two texts say; nothing for a text that is no configuration of Keras.

    Args:
        model: ``config.json``, or the attribute ``model_config``.
        training: the attribute ``training_config``; ``config.json`` holds it under ``compile_config``.
    """
    found = ModelConfig()
    whole = _parse(model)
    _read_layers(whole, (), found, _DEEPEST)
    compiled = _parse(training) or _fields(whole, "compile_config")
    optimizer = _fields(compiled, "optimizer_config") or _fields(compiled, "optimizer")
    while isinstance(inner := _fields(optimizer, "config").get("inner_optimizer"), dict):
        optimizer = inner
    name = optimizer.get("class_name")
    found.optimizer = name.rpartition(">")[2] if isinstance(name, str) else ""
    found.options = _fields(optimizer, "config")
    return found


def _parse(text: str) -> dict[str, Any]:
    try:
        whole = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return whole if isinstance(whole, dict) else {}


def _fields(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _read_layers(layer: Mapping[str, Any], path: Path, found: ModelConfig, depth: int) -> None:
    """Record a layer, and the layers inside of it."""
    config = _fields(layer, "config")
    if config.get("trainable") is False:
        found.frozen.add(path)
    inside = config.get(LAYERS)
    if depth and isinstance(inside, list):
        taken: dict[str, int] = {}
        for rank, each in enumerate(inside):
            name = each.get("class_name") if isinstance(each, dict) else None
            if not isinstance(name, str):
                continue
            group = name_group(name)
            number = taken[group] = taken.get(group, -1) + 1
            below = (*path, LAYERS, f"{group}_{number}" if number else group)
            found.ranks[below] = rank
            _read_layers(each, below, found, depth - 1)
    # Bidirectional, TimeDistributed and other wrappers.
    for name in ("layer", "backward_layer"):
        if depth and (inner := _fields(config, name)):
            group = "forward_layer" if "backward_layer" in config and name == "layer" else name
            _read_layers(inner, (*path, group), found, depth - 1)


def name_group(name: str) -> str:
    """Return the name of the group that Keras stores a layer of a class in (``keras.src.utils.naming``)."""
    plain = re.sub(r"\W+", "", name)
    return _SECOND.sub(r"\1_\2", _FIRST.sub(r"\1_\2", plain)).lower()
