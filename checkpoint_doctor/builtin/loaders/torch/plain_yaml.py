"""Reads YAML as plain data: a value with a tag of Python is taken as the mapping or list that it is. Nothing is built.

Programs that dump their settings with PyYAML leave tags such as ``!!python/object/apply:collections.OrderedDict``. Its
safe loader refuses the whole file for one of them. Here only the tree of nodes is made and read.
"""

from __future__ import annotations

from typing import Any

import yaml
from msgspec import Struct

PYTHON = "tag:yaml.org,2002:python/"
ORDERED = f"{PYTHON}object/apply:collections.OrderedDict"
"""A call whose only argument is a list of pairs."""
MAPPINGS = frozenset({"tag:yaml.org,2002:map", f"{PYTHON}dict", f"{PYTHON}object:argparse.Namespace"})
LISTS = frozenset({"tag:yaml.org,2002:seq", "tag:yaml.org,2002:omap", f"{PYTHON}list", f"{PYTHON}tuple"})
NUMBERS = frozenset(
    {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float", f"{PYTHON}int", f"{PYTHON}long", f"{PYTHON}float"}
)
TEXTS = frozenset({"tag:yaml.org,2002:str", f"{PYTHON}str", f"{PYTHON}unicode"})
OTHERS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "timestamp", "binary", "merge", "value"))


class Unread(Struct, frozen=True):
    """A value whose tag asks for something that is not built."""

    tag: str


def read_plain(content: bytes) -> Any:
    """Return what a YAML document holds: mappings, lists, texts, numbers, ``None`` for other scalars, and ``Unread``.

    A value that is referred to several times is one object.

    Raises:
        ValueError: it is no YAML.
        RecursionError: it is nested too deeply, or contains itself.
    """
    try:
        return _read(yaml.compose(content, yaml.SafeLoader), {})
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _read(node: Any, known: dict[int, Any]) -> Any:
    if id(node) not in known:
        known[id(node)] = _read_new(node, known)
    return known[id(node)]


def _read_new(node: Any, known: dict[int, Any]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag in MAPPINGS:
        return {_name(key): _read(value, known) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode) and node.tag == ORDERED and len(node.value) == 1:
        pairs = node.value[0].value
        if isinstance(pairs, list) and all(map(_is_pair, pairs)):
            return {_name(each.value[0]): _read(each.value[1], known) for each in pairs}
    if isinstance(node, yaml.SequenceNode) and node.tag in LISTS:
        return [_read(each, known) for each in node.value]
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS or (node.tag in TEXTS and node.style is None):
            return _read_number(node.value)
        if node.tag in TEXTS:
            return node.value
        if node.tag in OTHERS:
            return None
    return None if node is None else Unread(node.tag.removeprefix("tag:yaml.org,2002:"))


def _is_pair(node: Any) -> bool:
    return isinstance(node, yaml.SequenceNode) and len(node.value) == 2


def _name(key: Any) -> str:
    return key.value if isinstance(key, yaml.ScalarNode) else ""


def _read_number(text: str) -> float | str:
    """Return the number that a plain scalar spells, also as ``1e-4``, which YAML 1.1 takes for text."""
    try:
        return float(text)
    except ValueError:
        return text
