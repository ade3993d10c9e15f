"""The pickle machine: data comes out, nothing is run, and lies cost neither memory nor time."""

from __future__ import annotations

import copy
import pickle
import pickletools
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.machine import Machine
from checkpoint_doctor.builtin.loaders._pickle.names import TABLE
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert, StoredBytes
from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.sources.budget import OBJECTS, Allowance


def load(content: bytes) -> Any:
    return machine_of(content)[1]


def machine_of(content: bytes) -> tuple[Machine, Any]:
    source = MemorySource("x.pkl", content)
    machine = Machine(TABLE, None, source.budget)
    return machine, machine.load(Cursor(source))


def refused(content: bytes) -> str:
    with pytest.raises(UnreadableCheckpoint) as caught:
        load(content)
    assert "\n" not in caught.value.message
    return caught.value.message


def load_or_refuse(content: bytes) -> None:
    with suppress(UnreadableCheckpoint):
        load(content)


def plain(value: Any) -> Any:
    """Undo what the machine leaves in the file."""
    if isinstance(value, StoredBytes):
        return value.read()
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


KEYS = st.one_of(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.binary(max_size=80))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=300),
    st.complex_numbers(allow_nan=False),
    st.frozensets(st.integers(0, 99), max_size=3),
)
DATA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(KEYS, inner, max_size=4)
    ),
)


@given(DATA, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_plain_data_comes_out_as_python_reads_it(value: Any, protocol: int) -> None:
    assert plain(load(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(6))
def test_the_collections_of_the_standard_library_become_plain_ones(protocol: int) -> None:
    value = [OrderedDict(a=1), defaultdict(list, {"a": 1}), Counter("aab"), deque([1, 2]), {3}, bytearray(b"xy")]
    found = plain(load(pickle.dumps(value, protocol)))
    assert found == [{"a": 1}, {"a": 1}, {"a": 2, "b": 1}, [1, 2], {3}, b"xy"]


def test_shared_and_recursive_structures_keep_their_shape() -> None:
    shared: list[Any] = [1]
    loop: list[Any] = [shared, shared]
    loop.append(loop)
    found = load(pickle.dumps(loop))
    assert found[0] is found[1]
    assert found[2] is found


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_method_is_recorded_by_its_whole_name(protocol: int) -> None:
    machine, found = machine_of(pickle.dumps([OrderedDict.fromkeys, Counter.total], protocol))
    assert [each.qualified for each in found[:1]] == ["collections.OrderedDict.fromkeys"]
    assert found[1].qualified == "collections.Counter.total"
    assert not any(name == "getattr" for _, name in machine.names)


@pytest.mark.parametrize(("kind", "is_spelled"), [("set", True), ("CodeType", False), ("getattr", False)])
def test_dills_names_of_plain_types_are_read_as_such(kind: str, is_spelled: bool) -> None:
    text = b"X" + len(kind).to_bytes(4, "little") + kind.encode()
    machine, _ = machine_of(b"\x80\x02cdill._dill\n_load_type\n" + text + b"\x85R.")
    assert (("builtins", kind) in machine.names) == is_spelled
    assert (("dill._dill", "_load_type") in machine.names) != is_spelled


def test_the_method_of_an_object_is_recorded_under_its_class_and_keeps_the_object() -> None:
    bound = (
        b"\x80\x02c__builtin__\ngetattr\ncmodels\nNet\n)\x81}X\x01\x00\x00\x00wK\x07sbX\x07\x00\x00\x00forward\x86R."
    )
    machine, found = machine_of(bound)
    assert found.type_name == "models.Net.forward"
    assert found.arguments[0].attributes == {"w": 7}
    assert set(machine.names) == {("models", "Net"), ("models", "Net.forward")}


@pytest.mark.parametrize("arguments", [b"(X\x01\x00\x00\x00aX\x05\x00\x00\x00upper", b"(cmodels\nNet\nK\x01"])
def test_getattr_for_anything_else_stays_recorded_as_called(arguments: bytes) -> None:
    spelled = b"\x80\x02c__builtin__\ngetattr\nq\x00(cmodels\nNet\nX\x03\x00\x00\x00runtR0"
    machine, _ = machine_of(spelled + b"h\x00" + arguments + b"tR.")
    assert machine.names["__builtin__", "getattr"].called


def test_unknown_objects_are_described_and_not_made() -> None:
    class Thing:
        def __reduce__(self) -> Any:
            return print, ("not printed",), {"size": 3}, iter(["item"]), iter([("key", "value")])

    machine, found = machine_of(pickle.dumps(Thing()))
    assert isinstance(found, Inert)
    assert found.type_name == "builtins.print"
    assert found.arguments == ("not printed",)
    assert found.attributes == {"size": 3}
    assert found.items == ["item"]
    assert found.entries == {"key": "value"}
    [name] = machine.names.values()
    assert name.called


def test_long_byte_strings_stay_in_the_file() -> None:
    found = load(pickle.dumps(b"x" * 5000))
    assert isinstance(found, StoredBytes)
    assert found.read() == b"x" * 5000


@given(st.binary(max_size=200), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_a_sentence(content: bytes, protocol: int) -> None:
    for start in (b"", b"\x80" + bytes([protocol])):
        load_or_refuse(start + content)


OPCODES = st.sampled_from([code.code.encode("latin1") for code in pickletools.opcodes])


@given(
    st.lists(st.one_of(OPCODES, st.binary(max_size=5), st.just(b"ctorch._utils\n_rebuild_tensor_v2\n")), max_size=60)
)
@settings(max_examples=500, deadline=None)
def test_any_sequence_of_instructions_gives_a_value_or_a_sentence(pieces: list[bytes]) -> None:
    load_or_refuse(b"".join(pieces) + b".")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (b"\x80\x02]q\x00", "truncated"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\xff.", "not a pickle opcode"),
        (b"Pname\n.", "persistent name"),
        (b"\x80\x02\x82\x01.", "extension registry"),
        (b"\x80\x05\x97.", "buffers outside"),
        (b"K\x01Q.", "data outside itself"),
        (b"\x8b\xff\xff\xff\x7f.", "integer of 2,147,483,647 bytes"),
        (b"\x8d" + b"\xff" * 8 + b".", "truncated"),
        (b"\x8e" + b"\xff" * 8 + b".", "truncated"),
        (b"X\xff\xff\xff\xff.", "truncated"),
        (b"j\x00\x00\x00\x80.", "does not fit"),
        (b"}]K\x01s.", "does not fit"),
        (b"K\x01)R.", "not callable"),
        (b"I" + b"9" * 2000 + b"\n.", "longer than any"),
        (b"e.", "does not fit"),
        (b".", "does not fit"),
        (b"(.", "does not fit"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "does not fit"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))Nt" + b"R.", "not a storage"),
    ],
)
def test_damage_is_named(content: bytes, words: str) -> None:
    assert words in refused(content)


def bomb_of_copies() -> bytes:
    # One list of a hundred thousand entries, copied a hundred thousand times.
    content = b"]q\x00(" + b"N" * 100_000 + b"e0cbuiltins\nlist\nq\x010"
    return b"(" + content + b"h\x01h\x00\x85R" * 100_000 + b"l."


def bomb_of_sharing() -> bytes:
    # Sixty levels, each holding the one below twice: 2**60 ways to the bottom.
    content = b"}X\x01\x00\x00\x00wNsq\x01"
    for _ in range(60):
        content += b"0}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01uq\x01"
    return b"\x80\x02" + content + b"."


def bomb_of_hashing() -> bytes:
    return b"})q\x01" + b"0h\x01h\x01\x86q\x01" * 60 + b"0}h\x01Ns."


def bomb_of_nesting() -> bytes:
    return b"]" * 400_000 + b"a" * 399_999 + b"."


def bomb_of_calls() -> bytes:
    return b"cx\ny\n" + b")R" * 600_000 + b"."


def bomb_of_objects() -> bytes:
    return b"(" + b"\x8f" * 1_500_000 + b"l."


def bomb_of_collisions() -> bytes:
    keys = b"".join(pickle.dumps((2**61 - 1) * number, 2)[2:-1] for number in range(20_000))
    return b"(" + keys + b"\x91."


def bomb_of_names() -> bytes:
    # A tensor below three thousand wrappers, each with a name of 50,000 letters.
    key = b"X" + (50_000).to_bytes(4, "little") + b"k" * 50_000 + b"q\x00"
    return b"\x80\x02" + key + b"0" + b"}h\x00" * 3000 + one_weight() + b"s" * 3000 + b"."


def one_weight() -> bytes:
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4\x85RI00\nU\x04\x00\x00\x80\x3ftb"
    )


def bomb_of_shared_weights() -> bytes:
    # The levels of ``bomb_of_sharing`` above one array, so that every way down ends at a tensor.
    content = b"}X\x01\x00\x00\x00w" + one_weight() + b"sq\x01"
    for _ in range(60):
        content += b"0}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01uq\x01"
    return b"\x80\x02" + content + b"."


def bomb_of_shared_numbers() -> bytes:
    # A list of a hundred thousand numbers beside a weight, and ten thousand lists that each refer to it ten times.
    content = b"](" + b"K\x07" * 100_000 + b"eq\x010(" + (b"(" + b"h\x01" * 10 + b"l") * 10_000 + b"l"
    return b"\x80\x02}(X\x01\x00\x00\x00w" + one_weight() + b"X\x01\x00\x00\x00n" + content + b"u."


def bomb_of_cycles() -> bytes:
    # A hundred lists, each of which contains all of them, and so itself.
    count = 100
    content = b"".join(b"]q" + bytes([number]) + b"0" for number in range(count))
    links = b"".join(b"h" + bytes([number]) for number in range(count))
    content += b"".join(b"h" + bytes([number]) + b"(" + links + b"e0" for number in range(count))
    return b"\x80\x02" + content + b"h\x00."


BOMBS = [
    bomb_of_shared_weights,
    bomb_of_shared_numbers,
    bomb_of_cycles,
    bomb_of_copies,
    bomb_of_sharing,
    bomb_of_hashing,
    bomb_of_nesting,
    bomb_of_calls,
    bomb_of_objects,
    bomb_of_collisions,
    bomb_of_names,
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bombs_cost_little_time(bomb: Any) -> None:
    source = MemorySource("bomb.pkl", bomb())
    start = time.process_time()
    with suppress(UnreadableCheckpoint):
        assert len(loader.open(source).tensors) <= 1
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "bomb",
    [bomb_of_copies, bomb_of_sharing, bomb_of_shared_weights, bomb_of_cycles, bomb_of_hashing],
    ids=lambda bomb: bomb.__name__,
)
def test_small_bombs_cost_little_memory(bomb: Any) -> None:
    source = MemorySource("bomb.pkl", bomb())
    tracemalloc.start()
    with suppress(UnreadableCheckpoint):
        loader.open(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20


@pytest.mark.parametrize("bomb", [bomb_of_shared_weights, bomb_of_cycles], ids=lambda bomb: bomb.__name__)
def test_what_multiplies_tensors_or_itself_is_refused(bomb: Any) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"the same parts too often|no tensors"):
        loader.open(MemorySource("bomb.pkl", bomb()))


WEIGHT = np.arange(3, dtype=np.float32)


def beside_a_weight(value: Any, protocol: int = 2) -> MemorySource:
    return MemorySource("run.pt", pickle.dumps({"state_dict": {"fc.weight": WEIGHT}, "log": value}, protocol))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda count: [number / 7 for number in range(count)],
        lambda count: [number % 2 == 0 for number in range(count)],
        lambda count: list(range(count)),
        lambda count: [f"reward {number}" for number in range(count)],
        lambda count: [[number, [number / 3]] for number in range(count // 3)],
        lambda count: {f"step {number}": {"loss": number / 7} for number in range(count // 3)},
        lambda count: [np.float64(number) for number in range(count)],
        lambda count: [()] * count,
        lambda count: {"names": [["a", "b", "c"] * 20] * (count // 20)},
    ],
    ids=["floats", "bools", "ints", "texts", "lists", "dictionaries", "scalars", "empty tuples", "shared lists"],
)
def test_logs_beside_the_weights_are_never_a_bomb(make: Any, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tenth of what is free for every file, and a tenth of the values that would use it up.
    monkeypatch.setattr(Allowance, "of", lambda self, size: self.free // 10 + int(self.per_byte * size))
    opened = loader.open(beside_a_weight(make(12_000), protocol))
    assert [tensor.name for tensor in opened.tensors] == ["fc.weight"]


NUMBERS = st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none() | st.text(max_size=5)
PATTERNS = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(PATTERNS, st.sampled_from([0, 2, 4, 5]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_any_plain_values_open_however_many(pattern: Any, protocol: int, is_shared: bool) -> None:
    many = [pattern if is_shared else copy.deepcopy(pattern) for _ in range(10_000)]
    assert [tensor.name for tensor in loader.open(beside_a_weight(many, protocol)).tensors] == ["fc.weight"]


@pytest.mark.parametrize(("protocol", "most"), [(2, 12), (4, 6)])
def test_a_scalar_costs_less_of_the_budget_than_an_object(protocol: int, most: int) -> None:
    machine, _ = machine_of(pickle.dumps([np.float64(number) for number in range(1000)], protocol))
    spent = OBJECTS.of(machine.budget.size) - machine.budget.left(OBJECTS)
    assert spent < 1000 * most + 200
