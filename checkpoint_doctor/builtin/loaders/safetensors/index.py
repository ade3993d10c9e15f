"""Rewrites the index of a sharded model with other file names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')


def rename_shards(text: str, renamed: Mapping[str, str]) -> str:
    """Return an index whose tensors are in renamed shards.

    Indentation, order and everything outside ``weight_map`` do not change. An index whose text cannot be edited in
    place (duplicate keys) is written anew.

    Args:
        text: a valid index.
        renamed: old file name to new one.
    """
    expected = json.loads(text)
    expected["weight_map"] = {name: renamed.get(shard, shard) for name, shard in expected["weight_map"].items()}
    pieces: list[str] = []
    position = 0
    for token in _find_shards(text):
        shard = json.loads(token.group())
        if shard in renamed:
            pieces += [text[position : token.start()], json.dumps(renamed[shard])]
            position = token.end()
    rewritten = "".join([*pieces, text[position:]])
    return rewritten if _parses_to(rewritten, expected) else json.dumps(expected, indent=2) + "\n"


def _find_shards(text: str) -> Iterator[re.Match[str]]:
    """Yield the JSON tokens that are values directly in the ``weight_map`` of the outermost object."""
    path: list[str] = []
    key, is_value = "", False
    for token in TOKEN.finditer(text):
        word = token.group()
        if word in ("{", "["):
            path.append(key)
            key, is_value = "", False
        elif word in ("}", "]"):
            path.pop()
            is_value = False
        elif word == ":":
            is_value = True
        elif word == ",":
            is_value = False
        elif not is_value:
            key = json.loads(word)
        elif path == ["", "weight_map"]:
            yield token


def _parses_to(text: str, expected: Any) -> bool:
    try:
        return bool(json.loads(text) == expected)
    except ValueError:
        return False
