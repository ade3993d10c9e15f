"""Writes the files of ``benchmarks.bombs``: ``python -m benchmarks.bomb_files FOLDER [NAME …]``.

Each is a few bytes to a few megabytes that ask for far more work or memory. A line is printed for each: its name, and
``refused`` where it must end with exit code 2, ``read`` where it is read.
"""

# ruff: noqa: D103 - the names of the functions say what they make
from __future__ import annotations

import base64
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pickle_code import (
    LEGACY_HEAD,
    PROTOCOL,
    call,
    content_of,
    get,
    listed,
    mapping,
    named,
    number,
    pickled,
    put,
    row,
    storage,
    tensor,
    text,
    torch_zip,
    vector,
    zipped,
)

DEFLATED = zipfile.ZIP_DEFLATED
DICTIONARY = named("collections", "OrderedDict")


@dataclass(frozen=True)
class Bomb:
    """A file that costs more than it has bytes."""

    name: str
    """Its file name."""
    make: Callable[[], bytes]
    is_refused: bool


BOMBS: dict[str, Bomb] = {}


def bomb(suffix: str, *, refused: bool) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a function that makes a file with a suffix."""

    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        name = f"{make.__name__}.{suffix}"
        BOMBS[name] = Bomb(name, make, refused)
        return make

    return register


def doubled(first: bytes, join: Callable[[bytes, bytes], bytes], levels: int, start: int = 0) -> bytes:
    """Return the code of a value that contains two of the one before, again and again."""
    code = first + put(start)
    for level in range(levels):
        code += join(get(start + level), get(start + level)) + put(start + level + 1)
    return code


def _wide(levels: int, width: int) -> bytes:
    """Return the code of a list of ``width`` lists of ``width`` lists …; it leaves the lists on the stack."""
    code = listed([number(0)] * width) + put(0)
    for level in range(levels - 1):
        code += listed([get(level)] * width) + put(level + 1)
    return code


# What the pickle machine builds.


@bomb("pkl", refused=True)
def storage_of_nested_lists() -> bytes:
    """2.5 KB that make a gigabyte of numbers."""
    return pickled(_wide(4, 160) + call(named("torch", "FloatStorage"), get(3)))


@bomb("pkl", refused=True)
def storages_of_one_list() -> bytes:
    numbers = listed([number(0)] * 50_000) + put(0)
    return pickled(numbers + listed([call(named("torch", "FloatStorage"), get(0))] * 5_000))


@bomb("pt", refused=True)
def deflated_opcodes() -> bytes:
    """123 KB that are 125 million instructions."""
    return torch_zip(b"N0" * 62_500_000 + b"N", method=DEFLATED)


@bomb("pt", refused=True)
def deflated_lists() -> bytes:
    return torch_zip(b"(" + b"]" * 100_000_000 + b"l", method=DEFLATED)


@bomb("pt", refused=True)
def deflated_integers() -> bytes:
    return torch_zip(listed([b"M\xff\xff" * 20_000_000]), method=DEFLATED)


@bomb("pt", refused=True)
def deflated_text() -> bytes:
    return torch_zip(text("a" * 100_000_000 + "\U0001f600"), method=DEFLATED)


@bomb("pt", refused=True)
def deflated_long_integers() -> bytes:
    return torch_zip(listed([number((1 << 8000) - 1)] * 40_000), method=DEFLATED)


@bomb("pt", refused=True)
def deflated_memo() -> bytes:
    return torch_zip(b"N" + b"".join(put(at) for at in range(1_000_000)), method=DEFLATED)


@bomb("pt", refused=True)
def deflated_keys() -> bytes:
    pairs = b"".join(b"J" + at.to_bytes(4, "little") + b"N" for at in range(800_000))
    return torch_zip(b"}(" + pairs + b"u", method=DEFLATED)


@bomb("pkl", refused=True)
def many_sets() -> bytes:
    return pickled(b"(" + b"\x8f" * 1_000_000 + b"l")


@bomb("pkl", refused=True)
def lists_in_lists() -> bytes:
    """A list nested a million times; whoever walks or frees it recurses."""
    return pickled(b"]" * 1_000_000 + b"a" * 999_999)


@bomb("pkl", refused=True)
def tuples_in_tuples() -> bytes:
    return pickled(b"N" + b"\x85" * 1_000_000)


@bomb("pkl", refused=False)
def lists_in_lists_within_the_budget() -> bytes:
    pairs = [(text("weight"), vector("0", 4)), (text("nested"), b"]" * 100_000 + b"a" * 99_999)]
    return torch_zip(mapping(pairs), {"0": bytes(16)})


@bomb("pkl", refused=True)
def calls_of_calls() -> bytes:
    return pickled(named("a", "b") + b")R" * 400_000)


@bomb("pkl", refused=True)
def calls_of_one_class() -> bytes:
    return pickled(b"(" + named("a", "b") + put(0) + b"h\x00)R" * 300_000 + b"l")


@bomb("pkl", refused=True)
def globals_without_end() -> bytes:
    return pickled(b"(" + b"".join(f"ca\n{at:x}\n".encode() for at in range(400_000)) + b"l")


@bomb("pkl", refused=True)
def copies_of_a_dictionary() -> bytes:
    pairs = mapping((number(at), b"N") for at in range(20_000))
    return pickled(pairs + put(0) + listed([call(DICTIONARY, get(0))] * 20_000))


@bomb("pkl", refused=True)
def copies_of_a_text() -> bytes:
    encode = call(named("_codecs", "encode"), get(0), text("latin1"))
    return pickled(text("a" * 500_000) + put(0) + listed([encode] * 20_000))


@bomb("pkl", refused=True)
def doubled_tuples() -> bytes:
    join = lambda one, other: call(named("builtins", "tuple"), listed([one, other]))  # noqa: E731
    return pickled(doubled(row(b"N"), join, 200) + put(250) + b"}" + get(250) + b"Ns")


# Keys.


def _equal_hashes(count: int, width: int = 17) -> list[bytes]:
    """Return tuples of −1 and −2, which have the same hash in CPython, and so have the tuples."""
    return [row(*(get(at >> bit & 1) for bit in range(width))) for at in range(count)]


ONES = b"J\xff\xff\xff\xff" + put(0) + b"J\xfe\xff\xff\xff" + put(1)


@bomb("pkl", refused=True)
def colliding_keys() -> bytes:
    """Half a megabyte that took 16 seconds."""
    return pickled(ONES + mapping((key, b"N") for key in _equal_hashes(16_000)))


@bomb("pkl", refused=True)
def colliding_keys_one_by_one() -> bytes:
    return pickled(ONES + b"}" + b"".join(key + b"Ns" for key in _equal_hashes(16_000)))


@bomb("pkl", refused=True)
def colliding_members_of_a_set() -> bytes:
    return b"\x80\x04" + ONES + b"\x8f(" + b"".join(_equal_hashes(16_000)) + b"\x90."


@bomb("pkl", refused=True)
def colliding_members_of_a_frozen_set() -> bytes:
    return b"\x80\x04" + ONES + b"(" + b"".join(_equal_hashes(16_000)) + b"\x91."


@bomb("pkl", refused=True)
def colliding_pairs() -> bytes:
    return pickled(ONES + call(DICTIONARY, listed(row(key, b"N") for key in _equal_hashes(16_000))))


@bomb("pkl", refused=True)
def colliding_list_as_a_set() -> bytes:
    return pickled(ONES + call(named("builtins", "set"), listed(_equal_hashes(16_000))))


@bomb("pkl", refused=True)
def bytes_as_keys() -> bytes:
    return pickled(content_of(bytes(1_000_000)) + put(0) + b"}" + (get(0) + b"Ns") * 100_000)


@bomb("pkl", refused=True)
def wide_tuples_as_keys() -> bytes:
    return pickled(row(*[number(7)] * 250) + put(0) + b"}(" + (get(0) + b"N") * 300_000 + b"u")


# Archives within archives.


@bomb("pkl", refused=True)
def one_file_loaded_again_and_again() -> bytes:
    inner = torch_zip(listed([b"N"] * 50_000))
    load = named("torch.storage", "_load_from_bytes")
    return pickled(content_of(inner) + put(0) + listed([call(load, get(0))] * 5_000))


@bomb("pkl", refused=True)
def files_in_files() -> bytes:
    content = torch_zip(vector("0", 1), {"0": bytes(4)})
    for _ in range(12):
        content = pickled(call(named("torch.storage", "_load_from_bytes"), content_of(content)))
    return content


@bomb("zip", refused=True)
def deflated_in_deflated() -> bytes:
    policy = torch_zip(mapping([(text("a"), vector("0", 60_000_000))]), {"0": bytes(240_000_000)}, DEFLATED)
    return zipped({"data": b"{}", "policy.pth": policy, "_stable_baselines3_version": b"2.0"}, DEFLATED)


@bomb("zip", refused=True)
def deflated_members_of_an_agent() -> bytes:
    part = torch_zip(mapping([(text("a"), vector("0", 10_000_000))]), {"0": bytes(40_000_000)}, DEFLATED)
    others = {f"part{at}.pth": part for at in range(40)}
    return zipped({"data": b"{}", "policy.pth": part, "_stable_baselines3_version": b"2.0", **others})


@bomb("pt", refused=True)
def deflated_zeros() -> bytes:
    pairs = [(text(f"w{at}"), vector(str(at), 10_000_000)) for at in range(20)]
    return torch_zip(mapping(pairs), {str(at): bytes(40_000_000) for at in range(20)}, DEFLATED)


@bomb("pt", refused=False)
def deflated_zeros_within_the_budget() -> bytes:
    pairs = [(text("weight"), tensor(storage("0", 6_000_000), (2_000, 3_000), (3_000, 1)))]
    return torch_zip(mapping(pairs), {"0": bytes(24_000_000)}, DEFLATED)


# Archives that contradict themselves.


def _overlapping(content: bytes, size: int, method: int, count: int) -> bytes:
    """Return an archive whose members, but for the pickle, all have the same bytes."""
    pairs = [(text(f"w{at}"), vector(f"{at:05}", size // 4)) for at in range(count)]
    head = torch_zip(mapping(pairs))
    start = head.rfind(b"PK\x01\x02", 0, head.rfind(b"PK\x01\x02"))
    body, directory = head[:start], head[start : head.rfind(b"PK\x05\x06")]
    name = b"archive/data/00000"
    crc = zlib.crc32(bytes(size))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 33, crc, len(content), size, len(name), 0) + name
    entries = b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 33, crc, len(content), size, len(name), 0, 0, 0, 0, 0,
            len(body),
        )
        + b"archive/data/%05d" % at
        for at in range(count)
    )  # fmt: skip
    everything = body + local + content
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count + 2, count + 2, len(directory + entries), len(everything), 0)
    return everything + directory + entries + end


@bomb("pt", refused=True)
def overlapping_members() -> bytes:
    return _overlapping(bytes(1_000_000), 1_000_000, 0, 3_000)


@bomb("pt", refused=True)
def overlapping_deflated_members() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return _overlapping(packer.compress(bytes(1_000_000)) + packer.flush(), 1_000_000, 8, 3_000)


@bomb("pt", refused=False)
def many_empty_members() -> bytes:
    pairs = [(text("weight"), vector("0", 4))]
    return torch_zip(mapping(pairs), {"0": bytes(16), **{f"x{at}": b"" for at in range(12_000)}})


@bomb("pt", refused=True)
def many_ends() -> bytes:
    """Many records that may be the end of the archive."""
    whole = torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)})
    return whole + (b"PK\5\6" + bytes(17)) * 3_000


@bomb("pt", refused=True)
def truncated_with_many_members() -> bytes:
    whole = torch_zip(b"N", {f"x{at}": b"" for at in range(30_000)})
    return whole[: whole.find(b"PK\1\2")]


# Tensors.


def _views(views: list[bytes], count: int) -> bytes:
    pairs = [(text("weight"), vector("own", 4)), *((text(f"w{at}"), view) for at, view in enumerate(views))]
    code = storage("0", count) + put(0) + b"0"
    return torch_zip(code + mapping(pairs), {"0": bytes(4 * count), "own": bytes(16)})


@bomb("pt", refused=False)
def expanded_tensors() -> bytes:
    """37 KB whose tensors have four billion entries."""
    return _views([tensor(get(0), (16_000_000 - at, 1), (0, 1)) for at in range(250)], 1)


@bomb("pt", refused=False)
def one_expanded_tensor() -> bytes:
    return _views([tensor(get(0), (1 << 30, 1 << 20), (0, 0))], 1)


@bomb("pt", refused=False)
def overlapping_views() -> bytes:
    return _views([tensor(get(0), (200_000,), (1,), at) for at in range(2_000)], 202_000)


@bomb("pt", refused=False)
def views_with_gaps() -> bytes:
    return _views([tensor(get(0), (2, 3), (990_000, 1), at) for at in range(2_000)], 1_000_000)


@bomb("pt", refused=False)
def transposed_views() -> bytes:
    return _views([tensor(get(0), (1_000, 200), (1, 1_000), at) for at in range(2_000)], 202_000)


@bomb("pt", refused=True)
def names_of_one_tensor() -> bytes:
    code = tensor(storage("0", 4), (2, 2), (2, 1)) + put(1) + b"0"
    return torch_zip(code + mapping((text(f"w{at}"), get(1)) for at in range(60_000)), {"0": bytes(16)})


@bomb("pt", refused=True)
def empty_tensors() -> bytes:
    hooks = call(DICTIONARY) + put(9) + b"0" + storage("0", 0) + put(0) + b"0" + row(b"K\0") + put(1) + b"0"
    rebuild = named("torch._utils", "_rebuild_tensor_v2") + put(2) + b"0" + row(b"K\1") + put(3) + b"0"
    one = get(2) + b"(" + get(0) + b"K\0" + get(1) + get(3) + b"\x89" + get(9) + b"tR"
    return torch_zip(hooks + rebuild + mapping((text(f"w{at}"), one) for at in range(60_000)), {"0": b""})


@bomb("pt", refused=False)
def endless_rows_without_columns() -> bytes:
    sizes = [(1 << 40, 0), (0, 1 << 40), (1 << 30, 0, 7), (0,) * 60]
    return _views([tensor(get(0), size, (1,) * len(size)) for size in sizes] + [vector("0", 1)], 1)


def _training(
    moments: bytes, count: int, shape: tuple[int, ...], storages: dict[str, bytes], code: bytes = b""
) -> bytes:
    """Return a model and its Adam, whose parameters all have the same code for their moments."""
    strides = tuple(shape[at + 1] if at + 1 < len(shape) else 1 for at in range(len(shape)))
    size = strides[0] * shape[0]
    model = mapping((text(f"w{at}"), tensor(get(0), shape, strides, at * size)) for at in range(count))
    state = mapping((number(at), moments) for at in range(count))
    group = mapping([(text("params"), listed(map(number, range(count)))), (text("lr"), number(1))])
    optimizer = mapping([(text("state"), state), (text("param_groups"), listed([group]))])
    code = storage("0", count * size) + put(0) + b"0" + code
    return torch_zip(code + mapping([(text("model"), model), (text("optimizer"), optimizer)]), storages)


@bomb("pt", refused=False)
def shared_moments() -> bytes:
    """Every parameter has the same moments, which are measured with each."""
    count, size = 2_000, 500
    state = [(text("step"), number(9)), (text("exp_avg"), get(1)), (text("exp_avg_sq"), get(1))]
    code = tensor(storage("1", size), (20, 25), (25, 1)) + put(1) + b"0" + mapping(state) + put(2) + b"0"
    return _training(get(2), count, (20, 25), {"0": bytes(4 * count * size), "1": bytes(4 * size)}, code)


@bomb("pt", refused=False)
def shared_large_moments() -> bytes:
    count = 1_500
    state = [(text("step"), number(9)), (text("exp_avg"), get(1)), (text("exp_avg_sq"), get(1))]
    code = tensor(storage("1", 300_000), (300_000,), (1,)) + put(1) + b"0" + mapping(state) + put(2) + b"0"
    return _training(get(2), count, (1,), {"0": bytes(4 * count), "1": bytes(1_200_000)}, code)


@bomb("pt", refused=False)
def expanded_moments() -> bytes:
    view = tensor(get(3), (3_000, 3_000), (0, 0))
    state = mapping([(text("exp_avg"), view), (text("exp_avg_sq"), view)])
    code = storage("1", 1) + put(3) + b"0"
    return _training(state, 300, (1,), {"0": bytes(1200), "1": bytes(4)}, code)


@bomb("pt", refused=False)
def endless_empty_moments() -> bytes:
    view = tensor(get(3), (1 << 40, 0), (1, 1))
    code = storage("1", 1) + put(3) + b"0"
    return _training(mapping([(text("exp_avg_sq"), view)]), 20, (1,), {"0": bytes(80), "1": bytes(4)}, code)


@bomb("pkl", refused=True)
def arrays_of_one_text() -> bytes:
    kind = call(named("numpy", "dtype"), text("u1")) + put(1) + b"0" + row(number(100_000)) + put(2) + b"0"
    build = call(named("numpy.core.multiarray", "_reconstruct"), b"N", b"N", b"N")
    one = build + row(b"K\1", get(2), get(1), b"\x89", get(0)) + b"b"
    return pickled(text("a" * 100_000) + put(0) + b"0" + kind + listed([one] * 10_000))


# What stands beside the tensors.


@bomb("pt", refused=True)
def settings_within_settings() -> bytes:
    """Mappings of 250 mappings of 250 mappings, all the same one."""
    code = mapping((text(f"k{at}"), number(at)) for at in range(250)) + put(0) + b"0"
    for level in range(2):
        code += mapping((text(f"k{at}"), get(level)) for at in range(250)) + put(level + 1) + b"0"
    pairs = [(text("weight"), vector("0", 4)), (text("hyper_parameters"), mapping([(text("a"), get(2))]))]
    return torch_zip(code + mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=True)
def settings_of_one_long_text() -> bytes:
    code = text("a" * 500_000) + put(0) + b"0"
    settings = mapping((text(f"k{at}"), get(0)) for at in range(900))
    pairs = [(text("weight"), vector("0", 4)), (text("hyper_parameters"), settings)]
    return torch_zip(code + mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=False)
def settings_of_long_integers() -> bytes:
    code = number(10**1200) + put(0) + b"0"
    settings = mapping((text(f"k{at}"), get(0)) for at in range(500))
    pairs = [(text("weight"), vector("0", 4)), (text("hyper_parameters"), settings), (text("epoch"), get(0))]
    return torch_zip(code + mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=True)
def optimizers_of_one_list() -> bytes:
    group = mapping([(text("params"), listed(number(at) for at in range(1_000)))])
    code = listed([group] * 20) + put(0) + b"0"
    one = mapping([(text("state"), b"}"), (text("param_groups"), get(0))])
    pairs = [(text("weight"), vector("0", 4)), *((text(f"optimizer{at}"), one) for at in range(2_000))]
    return torch_zip(code + mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=True)
def groups_of_one_list() -> bytes:
    code = listed(number(at) for at in range(20_000)) + put(0) + b"0"
    group = mapping([(text("params"), get(0)), (text("lr"), number(1))])
    optimizer = mapping([(text("state"), b"}"), (text("param_groups"), listed([group] * 2_000))])
    return torch_zip(
        code + mapping([(text("weight"), vector("0", 4)), (text("optimizer"), optimizer)]), {"0": bytes(16)}
    )


@bomb("pt", refused=False)
def dictionaries_named_like_optimizers() -> bytes:
    code = mapping((number(at), b"N") for at in range(50_000)) + put(0) + b"0"
    pairs = [(text("weight"), vector("0", 4)), *((text(f"optimizer_{at}"), get(0)) for at in range(20_000))]
    return torch_zip(code + mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=True)
def modules_within_modules() -> bytes:
    """Every module has the one before twice: two to the thirtieth state dicts."""

    def module(parameters: bytes, children: bytes) -> bytes:
        parts = [(text("_parameters"), parameters), (text("_buffers"), b"}"), (text("_modules"), children)]
        return named("user", "Net") + b")\x81" + mapping(parts) + b"b"

    code = module(mapping([(text("weight"), vector("0", 4))]), b"}") + put(0)
    for level in range(30):
        code += module(b"}", mapping([(text("a"), get(level)), (text("b"), get(level))])) + put(level + 1)
    return torch_zip(code, {"0": bytes(16)})


@bomb("pt", refused=False)
def modules_with_long_names() -> bytes:
    """A name of a megabyte in front of every parameter."""
    parameters = mapping((text(f"w{at}"), vector("0", 4)) for at in range(2_000))
    inner = [(text("_parameters"), parameters), (text("_buffers"), b"}"), (text("_modules"), b"}")]
    code = named("user", "Net") + b")\x81" + mapping(inner) + b"b" + put(0) + b"0"
    own = mapping([(text("weight"), vector("0", 4))])
    children = mapping([(text("a" * 1_000_000), get(0))])
    outer = [(text("_parameters"), own), (text("_buffers"), b"}"), (text("_modules"), children)]
    return torch_zip(code + named("user", "Net") + b")\x81" + mapping(outer) + b"b", {"0": bytes(16)})


@bomb("pt", refused=True)
def dictionaries_within_dictionaries() -> bytes:
    join = lambda one, other: mapping([(text("a"), one), (text("b"), other)])  # noqa: E731
    return torch_zip(doubled(mapping([(text("weight"), vector("0", 4))]), join, 40), {"0": bytes(16)})


@bomb("pt", refused=False)
def names_for_expressions() -> bytes:
    """Names that an expression may try to read in very many ways."""
    words = ["mean_" * 380, "actor_" * 300, "a" * 1900, "1" * 1900, "_" * 1900, "head_" * 380 + "x", "q" * 1900]
    words += [".".join(["0"] * 900), ".".join(["weights_predictor"] * 100), "Aa" * 900, "lora_A" * 300, "fc1_" * 400]
    pairs = [(text(f"{word}.{role}"), vector("0", 4)) for word in words for role in ("weight", "bias")]
    return torch_zip(mapping(pairs), {"0": bytes(16)})


@bomb("pt", refused=False)
def a_tensor_without_a_name() -> bytes:
    moments = mapping([(text("exp_avg"), vector("1", 1)), (text("exp_avg_sq"), vector("1", 1))])
    group = mapping([(text("params"), listed([number(0), number(1)])), (text("lr"), number(1))])
    state = mapping([(number(0), moments), (number(1), moments)])
    optimizer = mapping([(text("state"), state), (text("param_groups"), listed([group]))])
    model = mapping([(text(""), vector("0", 1)), (text("a"), vector("2", 1))])
    return torch_zip(
        mapping([(text("model"), model), (text("optimizer"), optimizer)]),
        {"0": bytes(4), "1": bytes(4), "2": b"\0\0\x80?"},
    )


@bomb("zip", refused=False)
def nested_settings_of_an_agent() -> bytes:
    """Settings nested 700 times, which are in the report."""
    policy = torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)})
    data = '{"a": ' + "[" * 700 + "1" + "]" * 700 + ', "b": ' + '{"c":' * 700 + "1" + "}" * 700 + "}"
    return zipped({"data": data.encode(), "policy.pth": policy, "_stable_baselines3_version": b"2.0"})


@bomb("zip", refused=True)
def deflated_settings_of_an_agent() -> bytes:
    policy = torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)})
    data = b'{"a": [' + b"[]," * 5_000_000 + b"1]}"
    return zipped({"data": data, "policy.pth": policy, "_stable_baselines3_version": b"2.0"}, DEFLATED)


@bomb("zip", refused=False)
def pickles_in_the_settings_of_an_agent() -> bytes:
    policy = torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)})
    code = base64.b64encode(pickled(b"N0" * 1_000_000 + b"N")).decode()
    data = json.dumps({f"k{at}": {":type:": "x", ":serialized:": code} for at in range(4)}).encode()
    return zipped({"data": data, "policy.pth": policy, "_stable_baselines3_version": b"2.0"}, DEFLATED)


# Headers and lists in JSON.


def _safetensors(header: bytes, content: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + content


@bomb("safetensors", refused=True)
def header_of_99_megabytes() -> bytes:
    return _safetensors(b'{"__metadata__":{"a":"' + b"x" * 99_000_000 + b'"}}')


@bomb("safetensors", refused=True)
def header_of_empty_objects() -> bytes:
    return _safetensors(b"{" + b",".join(b'"%x":{}' % at for at in range(400_000)) + b"}")


@bomb("safetensors", refused=True)
def header_of_empty_tensors() -> bytes:
    entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return _safetensors(b"{" + b",".join(entry % at for at in range(100_000)) + b"}")


@bomb("safetensors", refused=True)
def header_of_lists() -> bytes:
    return _safetensors(b'{"a":[' + b"[]," * 2_500_000 + b"1]}")


@bomb("safetensors", refused=True)
def header_of_nested_lists() -> bytes:
    return _safetensors(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")


@bomb("safetensors", refused=True)
def header_of_long_numbers() -> bytes:
    return _safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 4_000_000 + b'],"data_offsets":[0,4]}}', bytes(4))


@bomb("safetensors.index.json", refused=True)
def index_of_99_megabytes() -> bytes:
    return b'{"weight_map":{"a":"' + b"x" * 99_000_000 + b'"}}'


@bomb("safetensors.index.json", refused=True)
def index_of_many_objects() -> bytes:
    return b'{"metadata":{},"weight_map":{' + b",".join(b'"%x":{}' % at for at in range(400_000)) + b"}}"


# Legacy files.


@bomb("pt", refused=True)
def legacy_storage_listed_again_and_again() -> bytes:
    code = mapping([(text("weight"), tensor(storage("0", 4, rest=b"N"), (4,), (1,)))])
    keys = listed([text("0")] * 100_000)
    return LEGACY_HEAD + pickled(code) + pickled(keys) + (struct.pack("<Q", 4) + bytes(16)) * 1_000


@bomb("pt", refused=True)
def legacy_storages_that_are_missing() -> bytes:
    code = mapping((text(f"w{at}"), tensor(storage(str(at), 4, rest=b"N"), (4,), (1,))) for at in range(3_000))
    return LEGACY_HEAD + pickled(code) + pickled(listed([]))


@bomb("pkl", refused=True)
def text_of_a_line() -> bytes:
    return PROTOCOL + b"(" + (b"V" + b"\\U0001f600" * 1_000 + b"\n") * 300 + b"l" + b"0" + b"V" + b"a" * 20_000_000


@bomb("pkl", refused=False)
def a_long_list_of_numbers() -> bytes:
    """No bomb: a log of half a million numbers beside a small model passes."""
    pairs = [(text("log"), listed([struct.pack(">cd", b"G", 0.5)] * 500_000)), (text("weight"), vector("0", 4))]
    return torch_zip(mapping(pairs), {"0": bytes(16)})


def make(folder: Path, names: list[str]) -> None:
    """Write the bombs of these names (all without any) and list them. ``model.pt`` is none: a result is about it."""
    (folder / "model.pt").write_bytes(torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)}))
    for name, each in BOMBS.items():
        if not names or any(wanted in name for wanted in names):
            (folder / name).write_bytes(each.make())
            print(name, "refused" if each.is_refused else "read")


if __name__ == "__main__":
    # Modules that are run have another name than those that are imported, so this one is imported too.
    from benchmarks import bomb_files, bombs_of_formats  # noqa: F401

    bomb_files.make(Path(sys.argv[1]), sys.argv[2:])
