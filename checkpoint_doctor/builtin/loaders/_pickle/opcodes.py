"""What each pickle opcode does, for protocols 0 to 5 (CPython's ``pickletools`` documents them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.cursor import EndOfPickle
from checkpoint_doctor.builtin.loaders._pickle.objects import Buildable, Global
from checkpoint_doctor.builtin.loaders._pickle.state import LONGEST_INTEGER, LONGEST_TEXT, MARK, MachineState
from checkpoint_doctor.sources.budget import COPIED

HIGHEST_PROTOCOL = 5

STOP = ord(".")


def _check_protocol(state: MachineState) -> None:
    if (version := state.cursor.byte()) > HIGHEST_PROTOCOL:
        raise state.damaged(f"protocol {version} is unknown")


def _skip_frame(state: MachineState) -> None:
    # A frame's length only helps readers to buffer.
    state.cursor.take(8)


def _pop(state: MachineState) -> None:
    # As in CPython, POP may also remove a mark.
    state.stack.pop()


def _pop_mark(state: MachineState) -> None:
    state.pop_to_mark()


def _push_decimal_integer(state: MachineState) -> None:
    text = state.cursor.line()
    if text in (b"00", b"01"):  # Python 2's False and True
        state.stack.append(text == b"01")
    else:
        _push_decimal(state, text)


def _push_decimal(state: MachineState, text: bytes) -> None:
    if len(text) > LONGEST_INTEGER:
        raise state.damaged("an integer is longer than any checkpoint needs")
    state.stack.append(int(text.removesuffix(b"L")))


def _push_quoted_string(state: MachineState) -> None:
    quoted = state.cursor.line()
    if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    import codecs

    state.push_python_2_string(codecs.escape_decode(quoted[1:-1])[0])


def _push_escaped_text(state: MachineState) -> None:
    text = state.cursor.line()
    try:
        state.stack.append(text.decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        error = state.damaged("a string ends inside an escape")
        raise EndOfPickle(error.message, error.hint) from None


def _push_sized_string(state: MachineState) -> None:
    size = state.read_number(4)
    if size > LONGEST_TEXT:
        state.refuse(f"a string of {size:,} bytes")
    state.push_python_2_string(state.cursor.take(size))


def _push_tuple(state: MachineState, count: int) -> None:
    items = tuple(state.stack[-count:])
    if len(items) < count or any(item is MARK for item in items):
        raise IndexError("too few values")
    del state.stack[-count:]
    state.push_container(items)


def _push_dictionary(state: MachineState) -> None:
    flat = state.pop_to_mark()
    entries: dict[Any, Any] = {}
    state.set_items(entries, flat)
    state.push_container(entries)


def _set_item(state: MachineState) -> None:
    value, key = state.pop(), state.pop()
    state.set_items(state.top(), [key, value])


def _set_items(state: MachineState) -> None:
    flat = state.pop_to_mark()
    state.set_items(state.top(), flat)


def _append(state: MachineState) -> None:
    value = state.pop()
    state.extend(state.top(), (value,))


def _extend(state: MachineState) -> None:
    items = state.pop_to_mark()
    state.extend(state.top(), items)


def _read_global(state: MachineState) -> Any:
    module = state.cursor.line().decode("utf-8")
    return state.find(module, state.cursor.line().decode("utf-8"))


def _push_global(state: MachineState) -> None:
    state.stack.append(_read_global(state))


def _push_stack_global(state: MachineState) -> None:
    name, module = state.pop(), state.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a global's name is not text")
    state.stack.append(state.find(module, name))


def _reduce(state: MachineState) -> None:
    arguments, callee = state.pop(), state.pop()
    state.stack.append(state.call(callee, arguments))


def _build_with_keywords(state: MachineState) -> None:
    keywords, arguments, callee = state.pop(), state.pop(), state.pop()
    if not isinstance(keywords, dict) or not all(isinstance(key, str) for key in keywords):
        raise TypeError("keywords are not a dictionary of names")
    state.stack.append(state.call(callee, arguments, keywords))


def _build_instance(state: MachineState) -> None:
    found = _read_global(state)
    state.stack.append(state.call(found, tuple(state.pop_to_mark())))


def _build_object(state: MachineState) -> None:
    callee, *arguments = state.pop_to_mark()
    state.stack.append(state.call(callee, tuple(arguments)))


def _set_state(state: MachineState) -> None:
    attributes = state.pop()
    target = state.top()
    if isinstance(target, Buildable):
        if isinstance(attributes, tuple):  # old arrays copy the text that their bytes were written as
            state.budget.spend(COPIED, sum(len(each) for each in attributes if isinstance(each, str)))
        target.build(attributes)
    elif not isinstance(target, dict | list | set | tuple | Global):
        raise TypeError("it takes no state")


Action = Callable[[MachineState], None]

ACTIONS: dict[int, Action] = {
    ord("("): lambda s: s.push_container(MARK),
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): lambda s: s.stack.append(s.top()),
    ord("F"): lambda s: s.stack.append(float(s.cursor.line())),
    ord("I"): _push_decimal_integer,
    ord("L"): lambda s: _push_decimal(s, s.cursor.line()),
    ord("J"): lambda s: s.push_integer(4),
    ord("K"): lambda s: s.stack.append(s.cursor.byte()),
    ord("M"): lambda s: s.stack.append(s.read_number(2)),
    ord("G"): MachineState.push_float,
    ord("N"): lambda s: s.stack.append(None),
    ord("P"): lambda s: s.refuse("a persistent name of protocol 0"),
    ord("Q"): lambda s: s.push_persistent(s.pop()),
    ord("R"): _reduce,
    ord("S"): _push_quoted_string,
    ord("T"): _push_sized_string,
    ord("U"): lambda s: s.push_python_2_string(s.cursor.take(s.cursor.byte())),
    ord("V"): _push_escaped_text,
    ord("X"): lambda s: s.stack.append(s.read_text(s.cursor.number(4))),
    ord("a"): _append,
    ord("b"): _set_state,
    ord("c"): _push_global,
    ord("d"): _push_dictionary,
    ord("e"): _extend,
    ord("g"): lambda s: s.stack.append(s.memo[int(s.cursor.line()[:20])]),
    ord("h"): lambda s: s.stack.append(s.memo[s.cursor.byte()]),
    ord("i"): _build_instance,
    ord("j"): lambda s: s.stack.append(s.memo[s.cursor.number(4)]),
    ord("l"): lambda s: s.push_container(s.pop_to_mark()),
    ord("o"): _build_object,
    ord("p"): lambda s: s.memoize(int(s.cursor.line()[:20])),
    ord("q"): lambda s: s.memoize(s.cursor.byte()),
    ord("r"): lambda s: s.memoize(s.cursor.number(4)),
    ord("s"): _set_item,
    ord("t"): lambda s: s.push_container(tuple(s.pop_to_mark())),
    ord("u"): _set_items,
    ord("]"): lambda s: s.push_container([]),
    ord("}"): lambda s: s.push_container({}),
    ord(")"): lambda s: s.stack.append(()),
    0x80: _check_protocol,
    0x81: _reduce,  # NEWOBJ skips the constructor, which makes no difference to a stand-in
    0x82: lambda s: s.refuse("the extension registry"),
    0x83: lambda s: s.refuse("the extension registry"),
    0x84: lambda s: s.refuse("the extension registry"),
    0x85: lambda s: _push_tuple(s, 1),
    0x86: lambda s: _push_tuple(s, 2),
    0x87: lambda s: _push_tuple(s, 3),
    0x88: lambda s: s.stack.append(True),
    0x89: lambda s: s.stack.append(False),
    0x8A: lambda s: s.push_integer(s.cursor.byte()),
    0x8B: lambda s: s.push_integer(s.read_number(4)),
    ord("B"): lambda s: s.push_bytes(s.read_number(4)),
    ord("C"): lambda s: s.push_bytes(s.cursor.byte()),
    0x8C: lambda s: s.stack.append(s.read_text(s.cursor.byte())),
    0x8D: lambda s: s.stack.append(s.read_text(s.read_number(8))),
    0x8E: lambda s: s.push_bytes(s.read_number(8)),
    0x8F: lambda s: s.push_container(set(), 8),
    0x90: _extend,
    0x91: lambda s: s.push_frozen_set(s.pop_to_mark()),
    0x92: _build_with_keywords,
    0x93: _push_stack_global,
    0x94: lambda s: s.memoize(len(s.memo)),
    0x95: _skip_frame,
    0x96: lambda s: s.push_bytes(s.read_number(8)),
    0x97: lambda s: s.refuse("buffers outside itself"),
    0x98: lambda s: s.refuse("buffers outside itself"),
}
"""Opcode to what it does; STOP is left to the machine."""
