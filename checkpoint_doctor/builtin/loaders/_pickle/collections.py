"""Stand-ins for Python's built-in collections, numbers and object builders in a pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.keys import read_keys
from checkpoint_doctor.builtin.loaders._pickle.objects import Global, StoredBytes
from checkpoint_doctor.sources.budget import Budget


class Spending(Struct, frozen=True):
    """A stand-in whose first argument is the file's budget."""

    make: Callable[..., Any]


def make_dictionary(budget: Budget, *arguments: Any, **entries: Any) -> dict[Any, Any]:
    """Stand in for ``OrderedDict``, ``dict`` and ``Counter``."""
    if len(arguments) > 1:
        raise TypeError("too many arguments")
    given = arguments[0] if arguments else {}
    if isinstance(given, dict):
        return {**given, **entries}
    if not isinstance(given, list | tuple):
        raise TypeError("not a mapping or a list of pairs")
    pairs = [(key, value) for key, value in given]
    keys = read_keys((key for key, _ in pairs), budget)
    return {**{key: value for key, (_, value) in zip(keys, pairs, strict=True)}, **entries}


def make_default_dictionary(budget: Budget, factory: Any = None, *arguments: Any) -> dict[Any, Any]:
    """Stand in for ``defaultdict``; the factory is never called."""
    return make_dictionary(budget, *arguments)


def make_set(budget: Budget, items: Any = ()) -> set[Any]:
    """Stand in for ``set`` and ``frozenset``."""
    return set(read_keys(_items(items), budget))


def make_list(items: Any = ()) -> list[Any]:
    """Stand in for ``list`` and ``deque``."""
    return list(_items(items))


def make_tuple(items: Any = ()) -> tuple[Any, ...]:
    """Stand in for ``tuple`` and ``torch.Size``."""
    return tuple(_items(items))


def make_bytes(content: Any = b"", encoding: Any = "latin1", *_: Any) -> bytes:
    """Stand in for ``bytes``, ``bytearray`` and ``_codecs.encode`` (how Python 3 writes bytes in old protocols)."""
    if isinstance(content, str) and encoding in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        return content.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "strict")
    if isinstance(content, StoredBytes):
        return content.read()
    if isinstance(content, list | tuple):
        return bytes(content)
    if isinstance(content, bytes):
        return content
    raise TypeError("not bytes")


def make_number(value: Any = 0) -> Any:
    """Stand in for ``int``, ``float`` and ``bool`` of numbers."""
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return value


def make_complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    """Stand in for ``complex``."""
    return complex(real, imaginary)


def make_slice(*bounds: Any) -> tuple[Any, ...]:
    """Stand in for ``slice`` and ``range``, which never contain tensors."""
    return bounds


def make_object(kind: Any, *arguments: Any) -> Any:
    """Stand in for ``copyreg.__newobj__``, with which old protocols build instances."""
    if not isinstance(kind, Global):
        raise TypeError("not a class")
    return kind.call(arguments)


def reconstruct_object(kind: Any, base: Any = None, state: Any = None) -> Any:
    """Stand in for ``copyreg._reconstructor``: an instance of a class, with the state of its built-in base class."""
    if not isinstance(kind, Global):
        raise TypeError("not a class")
    return kind.call(() if state is None else (state,))


def _items(items: Any) -> Any:
    if not isinstance(items, list | tuple | set | frozenset | dict):
        raise TypeError("not a collection")
    return items
