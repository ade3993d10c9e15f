"""Writes pickles and zips of PyTorch opcode by opcode, so that they can say what no library would write."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from math import prod

import numpy as np

PROTOCOL = b"\x80\x02"
LEGACY_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\r\x00\x00\x00little_endian\x88u."
)
"""The magic number, the protocol and the system information of a legacy file."""


def text(value: str) -> bytes:
    """Return the code of a string."""
    content = value.encode("utf-8", "surrogatepass")
    return b"X" + len(content).to_bytes(4, "little") + content


def number(value: int) -> bytes:
    """Return the code of an integer."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + len(content).to_bytes(4, "little") + content


def content_of(value: bytes) -> bytes:
    """Return the code of a byte string."""
    return b"B" + len(value).to_bytes(4, "little") + value


def named(module: str, name: str) -> bytes:
    """Return the code of a global."""
    return f"c{module}\n{name}\n".encode()


def row(*items: bytes) -> bytes:
    """Return the code of a tuple."""
    return b"(" + b"".join(items) + b"t"


def listed(items: Iterable[bytes]) -> bytes:
    """Return the code of a list."""
    return b"(" + b"".join(items) + b"l"


def mapping(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the code of a dictionary."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Return the code of a call."""
    return function + row(*arguments) + b"R"


def put(place: int) -> bytes:
    """Return the code that stores the topmost value in the memo."""
    return b"r" + place.to_bytes(4, "little")


def get(place: int) -> bytes:
    """Return the code that pushes a value from the memo."""
    return b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")


def storage(key: str, count: int, kind: str = "FloatStorage", rest: bytes = b"") -> bytes:
    """Return the code of a storage by its persistent id; ``rest`` is what legacy files have behind it."""
    return row(text("storage"), named("torch", kind), text(key), text("cpu"), number(count), rest) + b"Q"


def tensor(stored: bytes, shape: Iterable[int], strides: Iterable[int], offset: int = 0) -> bytes:
    """Return the code of a tensor."""
    sizes, steps = row(*map(number, shape)), row(*map(number, strides))
    hooks = call(named("collections", "OrderedDict"))
    return call(named("torch._utils", "_rebuild_tensor_v2"), stored, number(offset), sizes, steps, b"\x89", hooks)


def vector(key: str, count: int) -> bytes:
    """Return the code of a vector with a storage of its own."""
    return tensor(storage(key, count), (count,), (1,))


def pickled(code: bytes) -> bytes:
    """Return a whole pickle."""
    return PROTOCOL + code + b"."


def torch_zip(
    code: bytes, storages: Mapping[str, bytes] | None = None, method: int = zipfile.ZIP_STORED, folder: str = "archive"
) -> bytes:
    """Return a file of ``torch.save`` with a pickle and storages."""
    members = {f"{folder}/data.pkl": pickled(code), f"{folder}/version": b"3\n"}
    members |= {f"{folder}/data/{key}": content for key, content in (storages or {}).items()}
    return zipped(members, method)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def encode(value: object, storages: dict[str, bytes]) -> bytes:
    """Return the code of plain values, collections and arrays; the bytes of the arrays are added to the storages.

    Raises:
        TypeError: there is no code for a value.
    """
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, int):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return mapping((encode(key, storages), encode(each, storages)) for key, each in value.items())
    if isinstance(value, list | tuple):
        items = [encode(each, storages) for each in value]
        return listed(items) if isinstance(value, list) else row(*items)
    if isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value)
        key = str(len(storages))
        storages[key] = value.tobytes()
        strides = [prod(value.shape[axis + 1 :]) for axis in range(value.ndim)]
        return tensor(storage(key, value.size, STORAGES[value.dtype.name]), value.shape, strides)
    raise TypeError(f"no code for {type(value).__name__}")


STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
"""The class of the storage of each element type."""
