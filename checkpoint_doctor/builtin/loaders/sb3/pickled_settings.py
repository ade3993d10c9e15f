"""The pickles in the settings of Stable-Baselines3: schedules, spaces, classes and single numbers.

They are read by the pickle machine with an empty table, so every global in them stays a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.machine import Machine
from checkpoint_doctor.builtin.loaders._pickle.objects import Global, Inert, StoredBytes
from checkpoint_doctor.checkpoint import PickledName
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.sources.budget import Budget

LARGEST_SETTINGS = 1 << 20
"""Bytes for which the settings have a budget, whatever the size of the file; published ones have 10 to 60 KB."""
LARGEST_STRUCTURE = 10_000
"""Objects that are searched for the numbers of one schedule; the largest published one has about 50."""


class Pickled(Struct, frozen=True, eq=False):
    """The contents of one pickle among the settings."""

    root: Any
    calls: list[Inert]
    """Every call that it would make, in order."""
    names: tuple[PickledName, ...]
    problem: str
    """Why it could not be read to its end, empty where it could."""

    @property
    def holds_code(self) -> bool:
        """True where a function or class is stored by value, as the bytecode of one Python version."""
        return any(name.module.partition(".")[0] in ("cloudpickle", "dill") for name in self.names)

    def numbers(self) -> list[float]:
        """Return the distinct floating-point numbers in it, in order."""
        found = dict.fromkeys(each for each in self._leaves() if isinstance(each, float))
        return list(found)

    def mentions(self, text: str) -> bool:
        """Return whether one of its strings contains a text."""
        return any(text in each for each in self._leaves() if isinstance(each, str))

    def _leaves(self) -> Iterator[Any]:
        seen: set[int] = set()
        left = LARGEST_STRUCTURE
        for call in self.calls:
            open_: list[Iterator[Any]] = [iter((call.arguments, call.keywords, call.state, call.items, call.entries))]
            while open_:
                for each in open_[-1]:
                    left -= 1
                    if left < 0:
                        return
                    if isinstance(each, dict | list | tuple):
                        if id(each) not in seen:
                            seen.add(id(each))
                            open_.append(iter(each.values() if isinstance(each, dict) else each))
                            break
                    elif not isinstance(each, Inert):  # every Inert is one of the calls
                        yield each
                else:
                    open_.pop()


class PickleReader:
    """Reads the pickles of one member. They have a budget of their own, since the tensors do not depend on them."""

    def __init__(self, member: str) -> None:
        self._member = member
        self._budget = Budget(f"the member {member}", LARGEST_SETTINGS)

    def read(self, encoded: str) -> Pickled:
        """Read a pickle that is encoded as base64; what is wrong with it is in ``problem``."""
        import binascii

        try:
            content = binascii.a2b_base64(encoded)
        except ValueError as error:  # also raised for text beyond ASCII
            return Pickled(None, [], (), f"it is not valid base64: {error}")
        cursor = Cursor(MemorySource("the pickle", content, self._budget))
        machine = _CallRecorder({}, None, self._budget)
        root, problem = None, ""
        try:
            root = machine.load(cursor)
        except UnreadableCheckpoint as error:
            problem = error.message
        names = tuple(PickledName(each.module, each.name, self._member, each.called) for each in machine.names.values())
        return Pickled(root, machine.calls, names, problem)


class _CallRecorder(Machine):
    """Also records calls whose results the pickle discards, as cloudpickle's when it fills in closures."""

    def __init__(self, table: Mapping[tuple[str, str], Any], persistent: None, budget: Budget) -> None:
        super().__init__(table, persistent, budget)
        self.calls: list[Inert] = []

    def call(self, callee: Any, arguments: Any, keywords: Mapping[str, Any] | None = None) -> Any:
        made = super().call(callee, arguments, keywords)
        if isinstance(made, Inert):
            self.calls.append(made)
        return made


def describe_schedule(pickled: Pickled, text: str, kind: str) -> dict[str, Any]:
    """Describe a schedule: how it is stored, its class or function, and the value it has or starts from.

    Args:
        pickled: the schedule's pickle.
        text: the schedule's text in the settings, such as ``ConstantSchedule(val=0.2)``.
        kind: the schedule's type in the settings.
    """
    described: dict[str, Any] = {
        "stored_as": "code" if pickled.holds_code else "object",
        "class": kind.rpartition(".")[2],
    }
    schedule = _innermost(pickled.root)
    if schedule is not None:
        described["class"] = schedule.type_name.rpartition(".")[2]
        described.update(_plain_numbers(schedule.attributes))
    elif text and "<" not in text:
        described["text"] = text
    if pickled.mentions("constant_fn"):
        described["class"] = "constant"
    elif pickled.mentions("get_linear_fn") or pickled.mentions("linear_schedule"):
        described["class"] = "linear"
    numbers = pickled.numbers()
    if schedule is not None and "val" in described:
        described["value"] = described.pop("val")
    elif schedule is not None and "start" in described:
        described["value"] = described["start"]
    elif pickled.mentions("get_linear_fn") and len(numbers) == 3:
        # The cells of the closure are in the order of their names.
        described["end"], described["end_fraction"], described["value"] = numbers
    elif len(numbers) == 1:
        described["value"] = numbers[0]
    elif numbers:
        described["numbers"] = numbers[:8]
    return described


def _innermost(root: Any) -> Inert | None:
    """Return the schedule inside SB3's ``FloatSchedule`` wrappers (2.7 and later), ``None`` for functions."""
    for _ in range(8):
        if not isinstance(root, Inert) or not root.type_name.endswith("Schedule"):
            return None
        inner = root.attributes.get("value_schedule")
        if inner is None:
            return root
        root = inner
    return None


def _plain_numbers(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if isinstance(value, int | float)}


def read_number(root: Any) -> float | int | None:
    """Return a pickled NumPy scalar's value, ``None`` for anything else."""
    if not isinstance(root, Inert) or not root.type_name.endswith(".multiarray.scalar") or len(root.arguments) != 2:
        return None
    dtype, content = root.arguments
    if not isinstance(dtype, Inert) or not dtype.arguments:
        return None
    import numpy as np

    if isinstance(content, Inert) and content.type_name == "_codecs.encode" and content.arguments:
        text = content.arguments[0]
        content = text.encode("latin1", "replace") if isinstance(text, str) else None
    if isinstance(content, str):
        content = content.encode("latin1", "replace")
    if isinstance(content, StoredBytes):
        content = content.read()
    code = dtype.arguments[0]
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        return None
    if not isinstance(content, bytes) or len(content) != np.dtype(code).itemsize:
        return None
    order = ">" if isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",) else "<"
    return np.frombuffer(content, order + code)[0].item()  # type: ignore[no-any-return]


def read_name(root: Any) -> str | None:
    """Return the qualified name of a pickled class or function, ``None`` for anything else."""
    return root.qualified if isinstance(root, Global) else None
