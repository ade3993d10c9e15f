"""The state of a pickle while it is read: its stack, its memo, its globals, and the operations on them.

``opcodes`` maps every pickle opcode to one of these operations, ``machine`` runs them one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from struct import Struct
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.collections import Spending
from checkpoint_doctor.builtin.loaders._pickle.cursor import DAMAGED, Cursor
from checkpoint_doctor.builtin.loaders._pickle.keys import Hashes, is_salted, read_key, read_keys
from checkpoint_doctor.builtin.loaders._pickle.objects import (
    CALL_COST,
    NO_ENTRIES,
    Global,
    Inert,
    StoredBytes,
    StoredFloat,
)
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources.budget import OBJECTS, Budget

LONGEST_TEXT = 256 << 20
"""Bytes of the longest string."""
LONGEST_INTEGER = 1024
"""Bytes of the largest integer; random generators store some of 128 bits."""
SETTINGS = frozenset({"lr", "initial_lr", "weight_decay", "eps", "momentum"})
"""Keys of an optimizer's options whose numbers keep their offset in the file, so that they can be patched."""

CHARGED_TOGETHER = 1000
"""Objects after which they are subtracted from the budget."""

MARK = object()
"""The stack entry that the MARK opcode pushes."""

NAME_FUNCTIONS = frozenset({"builtins.getattr", "__builtin__.getattr", "dill._dill._load_type", "dill.dill._load_type"})
"""Functions that a pickle calls to look up a class or method which later protocols store as one global."""

GLOBAL_COST = 64
"""How many objects of the budget a global counts as: it is looked up, judged and reported."""

LONGEST_NAME = 1000
"""Characters of a global's name that is joined from parts."""

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}
"""Python 2's module names to those of Python 3."""

FLOAT = Struct(">d")


class MachineState:
    """The stack, memo and globals of one pickle. Several pickles of one file share the budget and the globals."""

    def __init__(
        self,
        table: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
        budget: Budget,
        names: dict[tuple[str, str], Global] | None = None,
    ) -> None:
        self._table = table
        self._persistent = persistent
        self.budget = budget
        self.names: dict[tuple[str, str], Global] = {} if names is None else names
        """Every global in the pickle, including the constants of the table."""
        self.duplicate_keys = 0
        """How often a key was set again in the same dictionary."""
        self.opcodes = 0
        """Number of opcodes run."""
        self._uncharged = 0

    def start(self, cursor: Cursor) -> None:
        """Begin to read a pickle with an empty stack and memo."""
        self.cursor = cursor
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._hashes = Hashes()
        self._title = cursor.source.name

    def damaged(self, what: str) -> UnreadableCheckpoint:
        """Return the error for a pickle that cannot be read."""
        return UnreadableCheckpoint(
            f"{self._title} is not a readable pickle: {what}, before byte {self.cursor.position:,}", DAMAGED
        )

    def refuse(self, feature: str) -> None:
        """Raise the error for a feature of the pickle format that checkpoints do not use."""
        raise self.damaged(f"it uses {feature}, which checkpoints never need")

    def push_container(self, value: Any, cost: int = 1) -> None:
        """Push a new object and count it."""
        self.count(cost)
        self.stack.append(value)

    def count(self, objects: int) -> None:
        """Count objects, which are subtracted from the budget together."""
        self._uncharged += objects
        if self._uncharged > CHARGED_TOGETHER:
            self.charge()

    def charge(self) -> None:
        """Subtract the objects that were counted from the budget."""
        objects, self._uncharged = self._uncharged, 0
        self.budget.spend(OBJECTS, objects)

    def pop(self) -> Any:
        """Remove and return the topmost value."""
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a value is missing above the mark")
        return value

    def top(self) -> Any:
        """Return the topmost value."""
        value = self.stack[-1]
        if value is MARK:
            raise ValueError("a value is missing above the mark")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Remove and return the values above the topmost mark, and remove the mark."""
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def read_number(self, size: int) -> int:
        """Read an unsigned integer."""
        return self.cursor.number(size)

    def read_text(self, size: int) -> str:
        """Read a UTF-8 string."""
        if size > LONGEST_TEXT:
            self.cursor.skip(size)  # raises where the file ends before
            raise self.damaged(f"a text of {size:,} bytes is longer than any checkpoint needs")
        return self.cursor.take(size).decode("utf-8", "surrogatepass")

    def push_integer(self, size: int) -> None:
        """Read and push a signed integer."""
        if size > LONGEST_INTEGER:
            raise self.damaged(f"an integer of {size:,} bytes is longer than any checkpoint needs")
        self.stack.append(int.from_bytes(self.cursor.take(size), "little", signed=True))

    def push_bytes(self, size: int) -> None:
        """Push a byte string by its offset, without reading it."""
        start = self.cursor.skip(size)
        self.push_container(StoredBytes(self.cursor.source, start, size))

    def push_float(self) -> None:
        """Read and push a float; the value of an optimizer's option keeps its offset."""
        start = self.cursor.position
        number = FLOAT.unpack(self.cursor.take(8))[0]
        key = self.stack[-1] if self.stack else None
        if type(key) is str and key in SETTINGS:
            self.push_container(StoredFloat(number, self.cursor.source, start))
        else:
            self.stack.append(number)

    def push_python_2_string(self, content: bytes) -> None:
        """Push a Python 2 string as text where it is valid UTF-8, as PyTorch does, else (array data) as bytes."""
        try:
            self.stack.append(content.decode("utf-8"))
        except UnicodeDecodeError:
            self.stack.append(content)

    def memoize(self, index: int) -> None:
        """Store the topmost value in the memo."""
        value = self.stack[-1]
        if value is MARK:
            raise ValueError("a value is missing above the mark")
        self.memo[index] = value
        self._uncharged += 1
        if self._uncharged > CHARGED_TOGETHER:
            self.charge()

    def push_persistent(self, identity: Any) -> None:
        """Push the object that a persistent id refers to."""
        if self._persistent is None:
            raise self.damaged("it refers to data outside itself")
        self.stack.append(self._persistent(identity))

    def set_items(self, target: Any, flat: list[Any]) -> None:
        """Add keys and values, which alternate in the list, to a dictionary."""
        if len(flat) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, Inert):
            target.entries = entries = dict(target.entries) if target.entries is NO_ENTRIES else target.entries
        else:
            entries = target
        if not isinstance(entries, dict):
            raise TypeError("not a dictionary")
        for at in range(0, len(flat), 2):
            key = flat[at]
            if type(key) is not str:
                key = self._read_key(key, entries)
            if key in entries:
                self.duplicate_keys += 1
            entries[key] = flat[at + 1]

    def extend(self, target: Any, items: Iterable[Any]) -> None:
        """Add values to a list or a set."""
        if isinstance(target, Inert):
            target.items = entries = target.items or []
        else:
            entries = target
        if isinstance(entries, list):
            entries.extend(items)
        elif isinstance(entries, set):
            entries.update(self._read_key(item, entries) for item in items)
        else:
            raise TypeError("not a list")

    def push_frozen_set(self, items: list[Any]) -> None:
        """Push an immutable set."""
        self.push_container(frozenset(read_keys(items, self.budget)), 4)

    def _read_key(self, value: Any, collection: dict[Any, Any] | set[Any]) -> Any:
        key = read_key(value, self.budget)
        if not is_salted(key):
            self._hashes.admit(collection, key)
        return key

    def find(self, module: str, name: str) -> Any:
        """Return what a global stands for: the table's constant, or a ``Global``. Nothing is imported."""
        key = (module, name)
        known = self._table.get((PYTHON_2_MODULES.get(module, module), name))
        if isinstance(known, Spending):
            known = partial(known.make, self.budget)
        if (found := self.names.get(key)) is None:
            self.budget.spend(OBJECTS, GLOBAL_COST)
            found = self.names[key] = Global(module, name, known if callable(known) else None, self.budget)
        return found if known is None or callable(known) else known

    def call(self, callee: Any, arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        """Return what stands for the result of a call: built by the table's stand-in, or an ``Inert`` object."""
        if not isinstance(arguments, tuple):
            raise TypeError("arguments are not a tuple")
        if isinstance(callee, Global):
            if callee.qualified in NAME_FUNCTIONS:
                found = self._find_by_call(callee, arguments)
                if found is not None:
                    self.names.pop((callee.module, callee.name), None)
                    return found
                self.names[callee.module, callee.name] = callee
            return callee.call(arguments, keywords)
        if isinstance(callee, Inert):
            self.budget.spend(OBJECTS, CALL_COST)
            return Inert(callee, arguments, keywords or NO_ENTRIES)
        raise TypeError("not callable")

    def _find_by_call(self, callee: Global, arguments: tuple[Any, ...]) -> Any:
        """Return the global that a call of one of ``NAME_FUNCTIONS`` looks up, ``None`` where it looks up none.

        Before protocol 4, pickle writes ``Class.method`` as ``getattr(Class, "method")`` (``save_global``), and dill
        writes ``set`` as ``_load_type("set")``. The global with the whole name is recorded in their place. A method of
        an object is recorded under the object's class.
        """
        if callee.name == "_load_type":
            is_plain = len(arguments) == 1 and type(arguments[0]) is str and ("builtins", arguments[0]) in self._table
            return self.find("builtins", arguments[0]) if is_plain else None
        if len(arguments) != 2 or not isinstance(arguments[1], str):
            return None
        owner, attribute = arguments
        named = owner.callee if isinstance(owner, Inert) else owner
        if not isinstance(named, Global) or len(named.name) + len(attribute) > LONGEST_NAME:
            return None
        found = self.find(named.module, f"{named.name}.{attribute}")
        if not isinstance(found, Global):
            return None
        if named is owner:
            return found
        self.budget.spend(OBJECTS, CALL_COST)
        return Inert(found, (owner,))
