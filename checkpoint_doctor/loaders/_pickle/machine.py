"""A pickle machine that builds data and runs nothing.

It follows the opcodes of protocols 0 to 5 (CPython's ``pickletools`` documents each). Names that describe data come
from a closed table; every other name becomes a ``Global``, and whatever the pickle would have built with it an
``Inert`` object that records arguments and state. No name is ever imported and no method of a foreign object called.

Work and memory are bounded by the bytes that were read: an object costs at least one opcode, and copies, deep keys and
nested archives are paid for from a ``Budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from typing import Any

from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.loaders._pickle.cursor import DAMAGED, Cursor
from checkpoint_doctor.loaders._pickle.objects import (
    CALL,
    NOTHING,
    Budget,
    Buildable,
    Global,
    Inert,
    StoredBytes,
    StoredFloat,
    as_key,
)

LONGEST_TEXT = 256 << 20
LONGEST_INTEGER = 1024
"""Bytes of the largest integer: random generators store some of 128 bits."""
SETTINGS = frozenset({"lr", "initial_lr", "weight_decay", "eps", "momentum"})
"""Keys of an optimizer's options whose numbers remember their place, so that they can be replaced."""

MARK = object()
"""Stands on the stack where a collection begins."""

SPELLERS = frozenset({"builtins.getattr", "__builtin__.getattr", "dill._dill._load_type", "dill.dill._load_type"})
"""Functions by which pickles write what other protocols write as a name."""

LONGEST_SPELLED_NAME = 1000
"""Characters of a name that is put together from parts."""

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}


class Machine:
    """Follows one pickle. Several pickles of one file share the budget and the record of names."""

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
        """Every global that was asked for, constants of the table included."""
        self.duplicate_keys = 0
        """How often a key was set again in the same dictionary."""
        self.opcodes = 0
        """Instructions followed."""

    def load(self, cursor: Cursor) -> Any:
        """Follow one pickle from the cursor on and return what it describes; the cursor stands behind it afterwards.

        Raises:
            UnreadableCheckpoint: truncated, damaged, or asking for what a checkpoint never holds.
        """
        self._cursor = cursor
        self._title = cursor.source.name
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        opcode = -1
        try:
            while True:
                opcode = cursor.byte()
                self.opcodes += 1
                if opcode == 0x2E:  # STOP
                    return self._pop()
                action = ACTIONS.get(opcode)
                if action is None:
                    raise self._damaged(f"byte {opcode:#04x} is no pickle instruction")
                action(self)
        except UnreadableCheckpoint:
            raise
        except RecursionError:
            raise self._damaged("its structure is nested too deeply") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, UnicodeError) as error:
            raise self._damaged(
                f"instruction {opcode:#04x} does not fit what stands before it ({_brief(error)})"
            ) from None
        except MemoryError:
            raise self._damaged("it asks for more memory than there is") from None

    # What the instructions have in common.

    def _damaged(self, what: str) -> UnreadableCheckpoint:
        return UnreadableCheckpoint(
            f"{self._title} is not a readable pickle: {what}, before byte {self._cursor.position:,}", DAMAGED
        )

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is MARK:
            raise ValueError("a collection is missing")
        return value

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is MARK:
            raise ValueError("a collection is missing")
        return value

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _number(self, size: int) -> int:
        return int.from_bytes(self._cursor.take(size), "little")

    def _container(self, value: Any, weight: int = 1) -> None:
        self.budget.build(self._title, weight)
        self._stack.append(value)

    def _text(self, size: int, errors: str = "surrogatepass") -> str:
        if size > LONGEST_TEXT:
            self._cursor.skip(size)  # says so where the file is shorter
            raise self._damaged(f"a text of {size:,} bytes is longer than any checkpoint needs")
        return self._cursor.take(size).decode("utf-8", errors)

    def _bytes(self, size: int) -> None:
        start = self._cursor.skip(size)
        self._container(StoredBytes(self._cursor.source, start, size))

    def _python_2_string(self, content: bytes) -> None:
        # PyTorch reads them as UTF-8; what is not text (an array's numbers) stays bytes.
        try:
            self._stack.append(content.decode("utf-8"))
        except UnicodeDecodeError:
            self._stack.append(content)

    def _float(self) -> None:
        start = self._cursor.position
        number = FLOAT.unpack(self._cursor.take(8))[0]
        if self._stack and self._is_setting(self._stack[-1]):
            self._container(StoredFloat(number, self._cursor.source, start))
        else:
            self._stack.append(number)

    def _is_setting(self, key: Any) -> bool:
        return type(key) is str and key in SETTINGS

    def _integer(self, size: int) -> None:
        if size > LONGEST_INTEGER:
            raise self._damaged(f"an integer of {size:,} bytes is longer than any checkpoint needs")
        self._stack.append(int.from_bytes(self._cursor.take(size), "little", signed=True))

    def _find(self, module: str, name: str) -> Any:
        key = (module, name)
        known = self._table.get((PYTHON_2_MODULES.get(module, module), name))
        if (found := self.names.get(key)) is None:
            self.budget.build(self._title, 4)
            found = self.names[key] = Global(module, name, known if callable(known) else None, self.budget)
        return found if known is None or callable(known) else known

    def _call(self, callee: Any, arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        if not isinstance(arguments, tuple):
            raise TypeError("arguments are no tuple")
        if isinstance(callee, Global):
            if callee.qualified in SPELLERS:
                spelled = self._spell(callee, arguments)
                if spelled is not None:
                    self.names.pop((callee.module, callee.name), None)
                    return spelled
                self.names[callee.module, callee.name] = callee
            return callee.call(arguments, keywords)
        if isinstance(callee, Inert):
            self.budget.build(self._title, CALL)
            return Inert(callee, arguments, keywords or NOTHING)
        raise TypeError("not callable")

    def _spell(self, callee: Global, arguments: tuple[Any, ...]) -> Any:
        """Read a call as the name that it spells, ``None`` where it spells none.

        Before protocol 4, pickle writes ``Class.method`` as ``getattr(Class, "method")`` (``save_global``), and dill
        writes ``set`` as ``_load_type("set")``. The whole name is recorded in their place. Of an object, the method is
        recorded under the object's class.
        """
        if callee.name == "_load_type":
            is_plain = len(arguments) == 1 and type(arguments[0]) is str and ("builtins", arguments[0]) in self._table
            return self._find("builtins", arguments[0]) if is_plain else None
        if len(arguments) != 2 or not isinstance(arguments[1], str):
            return None
        owner, attribute = arguments
        named = owner.callee if isinstance(owner, Inert) else owner
        if not isinstance(named, Global) or len(named.name) + len(attribute) > LONGEST_SPELLED_NAME:
            return None
        found = self._find(named.module, f"{named.name}.{attribute}")
        if not isinstance(found, Global):
            return None
        if named is owner:
            return found
        self.budget.build(self._title, CALL)
        return Inert(found, (owner,))

    def _set_items(self, target: Any, flat: list[Any]) -> None:
        if len(flat) % 2:
            raise ValueError("a key without a value")
        if isinstance(target, Inert):
            target.entries = entries = dict(target.entries) if target.entries is NOTHING else target.entries
        else:
            entries = target
        if not isinstance(entries, dict):
            raise TypeError("not a dictionary")
        for at in range(0, len(flat), 2):
            key = as_key(flat[at])
            if key in entries:
                self.duplicate_keys += 1
            entries[key] = flat[at + 1]

    def _append(self, target: Any, items: Iterable[Any]) -> None:
        if isinstance(target, Inert):
            target.items = entries = target.items or []
        else:
            entries = target
        if isinstance(entries, list):
            entries.extend(items)
        elif isinstance(entries, set):
            entries.update(map(as_key, items))
        else:
            raise TypeError("not a list")

    def _remember(self, index: int) -> None:
        self.budget.build(self._title, 1)
        self._memo[index] = self._top()

    def _refuse(self, what: str) -> None:
        raise self._damaged(f"it uses {what}, which checkpoints never need")

    def _persist(self, identity: Any) -> None:
        if self._persistent is None:
            raise self._damaged("it refers to data outside itself")
        self._stack.append(self._persistent(identity))

    # The instructions that need more than one expression.

    def _drop_to_mark(self) -> None:
        self._pop_to_mark()

    def _frame(self) -> None:
        # A hint for buffering.
        self._cursor.take(8)

    def _protocol(self) -> None:
        if (version := self._cursor.byte()) > 5:
            raise self._damaged(f"protocol {version} is unknown")

    def _old_integer(self) -> None:
        text = self._cursor.line()
        if text in (b"00", b"01"):
            self._stack.append(text == b"01")
            return
        self._old_long(text)

    def _old_long(self, text: bytes) -> None:
        if len(text) > LONGEST_INTEGER:
            raise self._damaged("an integer is longer than any checkpoint needs")
        self._stack.append(int(text.removesuffix(b"L")))

    def _old_string(self) -> None:
        quoted = self._cursor.line()
        if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[:1] not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        import codecs

        self._python_2_string(codecs.escape_decode(quoted[1:-1])[0])

    def _dictionary(self) -> None:
        flat = self._pop_to_mark()
        entries: dict[Any, Any] = {}
        self._set_items(entries, flat)
        self._container(entries)

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count or any(item is MARK for item in items):
            raise IndexError("too few values")
        del self._stack[-count:]
        self._container(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items(self._top(), [key, value])

    def _set_marked_items(self) -> None:
        flat = self._pop_to_mark()
        self._set_items(self._top(), flat)

    def _append_one(self) -> None:
        value = self._pop()
        self._append(self._top(), (value,))

    def _append_marked(self) -> None:
        items = self._pop_to_mark()
        self._append(self._top(), items)

    def _pop_one(self) -> None:
        # As in CPython, POP may also remove a mark.
        self._stack.pop()

    def _old_global(self) -> None:
        module = self._cursor.line().decode("utf-8")
        self._stack.append(self._find(module, self._cursor.line().decode("utf-8")))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a global's name is no text")
        self._stack.append(self._find(module, name))

    def _reduce(self) -> None:
        arguments, callee = self._pop(), self._pop()
        self._stack.append(self._call(callee, arguments))

    def _new_with_keywords(self) -> None:
        keywords, arguments, callee = self._pop(), self._pop(), self._pop()
        if not isinstance(keywords, dict) or not all(isinstance(key, str) for key in keywords):
            raise TypeError("keywords are no dictionary of names")
        self._stack.append(self._call(callee, arguments, keywords))

    def _instance(self) -> None:
        module = self._cursor.line().decode("utf-8")
        found = self._find(module, self._cursor.line().decode("utf-8"))
        self._stack.append(self._call(found, tuple(self._pop_to_mark())))

    def _object(self) -> None:
        callee, *arguments = self._pop_to_mark()
        self._stack.append(self._call(callee, tuple(arguments)))

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, dict | list | set | tuple | Global):
            raise TypeError("it takes no state")


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:120] or type(error).__name__


FLOAT = Struct(">d")

Action = Callable[[Machine], None]

ACTIONS: dict[int, Action] = {
    ord("("): lambda m: m._container(MARK),
    ord("0"): Machine._pop_one,
    ord("1"): lambda m: m._drop_to_mark(),
    ord("2"): lambda m: m._stack.append(m._top()),
    ord("F"): lambda m: m._stack.append(float(m._cursor.line())),
    ord("I"): Machine._old_integer,
    ord("L"): lambda m: m._old_long(m._cursor.line()),
    ord("J"): lambda m: m._integer(4),
    ord("K"): lambda m: m._stack.append(m._cursor.byte()),
    ord("M"): lambda m: m._stack.append(m._number(2)),
    ord("G"): Machine._float,
    ord("N"): lambda m: m._stack.append(None),
    ord("P"): lambda m: m._refuse("a persistent name of protocol 0"),
    ord("Q"): lambda m: m._persist(m._pop()),
    ord("R"): Machine._reduce,
    ord("S"): Machine._old_string,
    ord("T"): lambda m: m._python_2_string(m._cursor.take(_bounded(m, m._number(4)))),
    ord("U"): lambda m: m._python_2_string(m._cursor.take(m._cursor.byte())),
    ord("V"): lambda m: m._stack.append(m._cursor.line().decode("raw-unicode-escape")),
    ord("X"): lambda m: m._stack.append(m._text(m._number(4))),
    ord("a"): Machine._append_one,
    ord("b"): Machine._build,
    ord("c"): Machine._old_global,
    ord("d"): Machine._dictionary,
    ord("e"): Machine._append_marked,
    ord("g"): lambda m: m._stack.append(m._memo[int(m._cursor.line()[:20])]),
    ord("h"): lambda m: m._stack.append(m._memo[m._cursor.byte()]),
    ord("i"): Machine._instance,
    ord("j"): lambda m: m._stack.append(m._memo[m._number(4)]),
    ord("l"): lambda m: m._container(m._pop_to_mark()),
    ord("o"): Machine._object,
    ord("p"): lambda m: m._remember(int(m._cursor.line()[:20])),
    ord("q"): lambda m: m._remember(m._cursor.byte()),
    ord("r"): lambda m: m._remember(m._number(4)),
    ord("s"): Machine._set_item,
    ord("t"): lambda m: m._container(tuple(m._pop_to_mark())),
    ord("u"): Machine._set_marked_items,
    ord("]"): lambda m: m._container([]),
    ord("}"): lambda m: m._container({}),
    ord(")"): lambda m: m._stack.append(()),
    0x80: Machine._protocol,
    0x81: Machine._reduce,  # NEWOBJ: to build an object without its constructor is the same to us
    0x82: lambda m: m._refuse("the extension registry"),
    0x83: lambda m: m._refuse("the extension registry"),
    0x84: lambda m: m._refuse("the extension registry"),
    0x85: lambda m: m._tuple_of(1),
    0x86: lambda m: m._tuple_of(2),
    0x87: lambda m: m._tuple_of(3),
    0x88: lambda m: m._stack.append(True),
    0x89: lambda m: m._stack.append(False),
    0x8A: lambda m: m._integer(m._cursor.byte()),
    0x8B: lambda m: m._integer(m._number(4)),
    ord("B"): lambda m: m._bytes(m._number(4)),
    ord("C"): lambda m: m._bytes(m._cursor.byte()),
    0x8C: lambda m: m._stack.append(m._text(m._cursor.byte())),
    0x8D: lambda m: m._stack.append(m._text(m._number(8))),
    0x8E: lambda m: m._bytes(m._number(8)),
    0x8F: lambda m: m._container(set(), 8),
    0x90: Machine._append_marked,
    0x91: lambda m: m._container(frozenset(map(as_key, m._pop_to_mark())), 4),
    0x92: Machine._new_with_keywords,
    0x93: Machine._stack_global,
    0x94: lambda m: m._remember(len(m._memo)),
    0x95: lambda m: m._frame(),
    0x96: lambda m: m._bytes(m._number(8)),
    0x97: lambda m: m._refuse("buffers outside itself"),
    0x98: lambda m: m._refuse("buffers outside itself"),
}
"""What each opcode does."""


def _bounded(machine: Machine, size: int) -> int:
    if size > LONGEST_TEXT:
        machine._refuse(f"a string of {size:,} bytes")
    return size
