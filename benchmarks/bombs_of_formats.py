"""Bombs in GGUF, ONNX, HDF5, msgpack, NumPy's archives, logs and earlier results; see ``benchmarks.bomb_files``."""

# ruff: noqa: D103 - the names of the functions say what they make
from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.bomb_files import DEFLATED, bomb
from benchmarks.pickle_code import zipped

FLOATS, INTEGERS = 1, 7
"""Types of ONNX: float32 and int64."""


# GGUF: counts, texts with their lengths, arrays of texts and of arrays.


def _text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _gguf(tensors: int, settings: int, content: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, settings) + content


@bomb("gguf", refused=True)
def vocabulary_of_96_megabytes() -> bytes:
    count = 12_000_000
    return _gguf(0, 1, _text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count))


@bomb("gguf", refused=True)
def arrays_of_empty_arrays() -> bytes:
    return _gguf(0, 1, _text(b"a") + struct.pack("<IIQ", 9, 9, 1_600_000) + bytes(12) * 1_600_000)


@bomb("gguf", refused=True)
def settings_without_names() -> bytes:
    return _gguf(0, 90_000, (_text(b"") + struct.pack("<IB", 0, 1)) * 90_000)


@bomb("gguf", refused=True)
def entries_of_empty_tensors() -> bytes:
    return _gguf(60_000, 0, b"".join(_text(b"%x" % at) + struct.pack("<IQIQ", 1, 0, 0, 0) for at in range(60_000)))


@bomb("gguf", refused=True)
def entries_that_overlap() -> bytes:
    entries = (_text(b"w%x" % at) + struct.pack("<IQIQ", 1, 200_000, 0, 0) for at in range(4_000))
    return _gguf(4_000, 0, b"".join(entries) + bytes(64 + 800_000))


# ONNX: messages of Protocol Buffers.


def _number(value: int) -> bytes:
    code = b""
    while value > 0x7F:
        code, value = code + bytes([value & 0x7F | 0x80]), value >> 7
    return code + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _value(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value)


def _initializer(name: bytes, shape: Iterable[int], content: bytes = b"", type: int = FLOATS) -> bytes:
    sizes = b"".join(_value(1, size) for size in shape)
    return _field(5, sizes + _value(2, type) + _field(8, name) + content)


WEIGHT = _initializer(b"w", (2, 2), _field(9, bytes(16)))


def _onnx(graph: bytes, rest: bytes = b"") -> bytes:
    return _value(1, 8) + _field(2, b"pytorch") + _field(8, b"\x0a\x00\x10\x0d") + _field(7, graph) + rest


@bomb("onnx", refused=False)
def graphs_within_graphs() -> bytes:
    graph = b""
    for _ in range(3_000):
        graph = _field(1, _field(4, b"If") + _field(5, _field(1, b"then") + _field(6, graph)))
    return _onnx(WEIGHT + graph)


@bomb("onnx", refused=True)
def empty_initializers() -> bytes:
    return _onnx(b"".join(_initializer(b"%x" % at, (0,)) for at in range(60_000)))


@bomb("onnx", refused=False)
def a_chain_of_nodes_in_reverse() -> bytes:
    nodes = (
        _field(1, _field(1, b"w%d" % at) + _field(2, b"w%d" % (at + 1)) + _field(4, b"Identity"))
        for at in range(30_000)
    )
    return _onnx(WEIGHT + b"".join(reversed(list(nodes))))


@bomb("onnx", refused=False)
def nodes_with_many_inputs() -> bytes:
    return _onnx(WEIGHT + _field(1, _field(1, b"w") * 300 + _field(2, b"w") + _field(4, b"Add")) * 1_000)


@bomb("onnx", refused=True)
def numbers_one_by_one() -> bytes:
    """Every number of ``float_data`` (4) is a field of four bytes (5) of its own."""
    return _onnx(_initializer(b"w", (1_000_000,), (_number(4 << 3 | 5) + bytes(4)) * 1_000_000))


@bomb("onnx", refused=False)
def packed_numbers() -> bytes:
    return _onnx(_initializer(b"w", (1_000_000,), _field(7, b"\1" * 1_000_000), INTEGERS))


@bomb("onnx", refused=True)
def a_shape_of_many_axes() -> bytes:
    return _onnx(_initializer(b"w", [1] * 200_000, _field(9, bytes(4))))


# Flax's msgpack.


def _map_of(count: int) -> bytes:
    return b"\xdf" + struct.pack(">I", count)


def _array(content: bytes) -> bytes:
    return b"\xc9" + struct.pack(">I", len(content)) + b"\1" + content


@bomb("msgpack", refused=True)
def maps_within_maps() -> bytes:
    return b"\x81\xa1a" * 400_000 + b"\xc0"


@bomb("msgpack", refused=True)
def arrays_of_nothing() -> bytes:
    return b"\x81\xa1a\xdd" + struct.pack(">I", 3_000_000) + b"\xc0" * 3_000_000


@bomb("msgpack", refused=True)
def arrays_without_elements() -> bytes:
    one = _array(b"\x93\x91\x00\xa7float32\xc4\x00")
    return _map_of(40_000) + b"".join(b"\xa6%06d" % at + one for at in range(40_000))


@bomb("msgpack", refused=True)
def an_array_of_many_axes() -> bytes:
    return b"\x81\xa1a" + _array(
        b"\x93\xdd" + struct.pack(">I", 200_000) + b"\1" * 200_000 + b"\xa7float32\xc4\4" + bytes(4)
    )


# NumPy's archives.


def _npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + content


@bomb("npz", refused=True)
def long_headers_of_arrays() -> bytes:
    """0.7 MB whose headers say the same again and again, which takes a parser of Python long."""
    header = "{'descr':'<f4','fortran_order':False," + "'shape':(1,)," * 740 + "}"
    return zipped({f"layer{at}.weight.npy": _npy(header, bytes(4)) for at in range(3_000)}, DEFLATED)


@bomb("npz", refused=True)
def nested_headers_of_arrays() -> bytes:
    header = _npy("(" * 4_990 + ")" * 4_990)
    return zipped({f"layer{at}.weight.npy": header for at in range(300)}, DEFLATED)


@bomb("npz", refused=True)
def deflated_arrays() -> bytes:
    array = _npy("{'descr':'<f4','fortran_order':False,'shape':(50000000,)}", bytes(200_000_000))
    return zipped({f"layer{at}.weight.npy": array for at in range(2)}, DEFLATED)


# HDF5.


def _keras(fill: Callable[[Any], None]) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "3.0"
        fill(file)
    return buffer.getvalue()


def _draw(rows: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(size=(rows, rows)).astype("<f4")


@bomb("weights.h5", refused=True)
def many_names_of_one_data_set() -> bytes:
    def fill(file: Any) -> None:
        first = file.create_dataset("layers/d0/vars/0", data=_draw(512))
        for at in range(1, 2_000):
            file[f"layers/d{at}/vars/0"] = first

    return _keras(fill)


@bomb("weights.h5", refused=True)
def many_names_of_one_packed_data_set() -> bytes:
    def fill(file: Any) -> None:
        first = file.create_dataset("layers/d0/vars/0", data=_draw(512), chunks=(512, 512), compression="gzip")
        for at in range(1, 2_000):
            file[f"layers/d{at}/vars/0"] = first

    return _keras(fill)


@bomb("weights.h5", refused=True)
def groups_that_have_each_other_twice() -> bytes:
    def fill(file: Any) -> None:
        inner = file.create_group("layers/d")
        inner["vars/0"] = _draw(4)
        for at in range(25):
            outer = file.create_group(f"layers/g{at}")
            outer["x"] = outer["y"] = inner
            inner = outer

    return _keras(fill)


@bomb("weights.h5", refused=True)
def chunks_of_one_element() -> bytes:
    def fill(file: Any) -> None:
        file.create_dataset("layers/d/vars/0", (300_000,), "<f4", chunks=(1,))[:20_000] = 1

    return _keras(fill)


@bomb("weights.h5", refused=True)
def chunks_of_zeros() -> bytes:
    def fill(file: Any) -> None:
        for at in range(3):
            shape = (8_000, 8_000)
            file.create_dataset(f"layers/d{at}/vars/0", shape, "<f4", chunks=shape, compression="gzip")[:] = 0

    return _keras(fill)


# Training logs.


@bomb("csv", refused=True)
def a_table_of_many_columns() -> bytes:
    lines = [",".join(f"c{at}" for at in range(60_000)), *[",".join(["1"] * 60_000)] * 6]
    return "\n".join(lines).encode()


@bomb("jsonl", refused=False)
def records_of_other_keys() -> bytes:
    records = ({"step": step} | {f"k{step}_{at}": 1 for at in range(20)} for step in range(3_000))
    return b"\n".join(json.dumps(each).encode() for each in records)


@bomb("jsonl", refused=False)
def records_within_records() -> bytes:
    return b'{"step":1,"loss":2}\n' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b'\n{"step":2,"loss":2}\n'


@bomb("json", refused=False)
def history_of_other_keys() -> bytes:
    """A ``trainer_state.json`` of a megabyte whose every record has a key of its own."""
    records = b",".join(b'{"step":%d,"k%d":1}' % (at, at) for at in range(40_000))
    return b'{"global_step":1,"log_history":[' + records + b"]}"


# Results of an earlier run.


@bomb("result.jsonl", refused=True)
def results_within_results() -> bytes:
    return b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"


@bomb("result.jsonl", refused=False)
def a_result_of_empty_lists() -> bytes:
    return b'{"kind":"checkpoint","path":"model.pt","a":[' + b"[]," * 1_000_000 + b"1]}\n"


@bomb("result.json", refused=False)
def results_of_nothing() -> bytes:
    return b'{"schema_version":1,"checkpoints":[' + b"{}," * 500_000 + b"{}]}"
