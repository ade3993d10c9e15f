"""A patched zip is as whole as it was: every recorded CRC is that of the bytes, on every level; nothing else moved."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patched_files import by_name, find_patches, patched, refusal
from sb3_models import MODELS, live_optimizers
from stable_baselines3.common.base_class import BaseAlgorithm
from torch_files import saved

from checkpoint_doctor.builtin.loaders._zip.patched_crc import checksum_after
from checkpoint_doctor.builtin.loaders.sb3.loader import loader as sb3_loader
from checkpoint_doctor.builtin.loaders.torch.loader import loader as torch_loader
from checkpoint_doctor.checkpoint import Checkpoint, Flaw, Patch
from checkpoint_doctor.sources import MemorySource

torch_library = pytest.importorskip("torch")


def state() -> dict[str, torch_library.Tensor]:
    return {"weight": torch_library.arange(3000.0), "bias": torch_library.zeros(5)}


NEW = {"weight": np.arange(3000.0)[::-1], "bias": np.full(5, 0.25)}


class Unseekable(io.RawIOBase):
    """A stream that a zip can only be written to from front to back, so that sizes and CRCs follow the bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:
        self.content += content
        return len(content)


def zipped(content: bytes, *, comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as original, zipfile.ZipFile(buffer, "w", method) as again:
        again.comment = comment
        for name in original.namelist():
            again.writestr(name, original.read(name))
    return buffer.getvalue()


def streamed(content: bytes, *, is_64_bit: bool = False, is_signed: bool = True) -> bytes:
    """Write a zip again with data descriptors, as ``zip -`` and Java do; their signature is optional."""
    stream = Unseekable()
    with zipfile.ZipFile(io.BytesIO(content)) as original, zipfile.ZipFile(stream, "w") as again:
        for name in original.namelist():
            with again.open(name, "w", force_zip64=is_64_bit) as member:
                member.write(original.read(name))
    return bytes(stream.content) if is_signed else without_signatures(bytes(stream.content))


def without_signatures(content: bytes) -> bytes:
    """Take the four bytes before every data descriptor out and correct all offsets."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        directory = archive.start_dir
    places = [each.header_offset + 30 + len(each.filename) + each.file_size for each in entries]
    places = [content.index(b"PK\x07\x08" + struct.pack("<I", each.CRC), at) for each, at in zip(entries, places)]  # noqa: B905
    result, reached = bytearray(), 0
    for place in places:
        result += content[reached:place]
        reached = place + 4
    result += content[reached:]
    at = directory - 4 * len(places)
    for number, _ in enumerate(entries):
        offset = struct.unpack_from("<I", result, at + 42)[0]
        struct.pack_into("<I", result, at + 42, offset - 4 * number)
        at += 46 + sum(struct.unpack_from("<3H", result, at + 28))
    struct.pack_into("<I", result, at + 16, directory - 4 * len(places))
    return bytes(result)


SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "as PyTorch writes it": lambda content: content,
    "plain": zipped,
    "comment": lambda content: zipped(content, comment=b"trained on a Tuesday"),
    "descriptors": streamed,
    "zip64 descriptors": lambda content: streamed(content, is_64_bit=True),
    "bare descriptors": lambda content: streamed(content, is_signed=False),
    "bytes before it": lambda content: b"#!/usr/bin/env python\n" + zipped(content),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_of_archive_stays_whole(shape: str) -> None:
    content = SHAPES[shape](saved(state()))
    result = patched(torch_loader, content, by_name(NEW))
    with zipfile.ZipFile(io.BytesIO(result)) as archive, zipfile.ZipFile(io.BytesIO(content)) as before:
        assert archive.testzip() is None
        assert archive.comment == before.comment
        assert archive.namelist() == before.namelist()
        assert np.frombuffer(archive.read("archive/data/0"), np.float32).tolist() == NEW["weight"].tolist()
        assert np.frombuffer(archive.read("archive/data/1"), np.float32).tolist() == NEW["bias"].tolist()
        assert archive.read("archive/data.pkl") == before.read("archive/data.pkl")
    assert damage(result) == damage(content)


def damage(content: bytes) -> tuple[Flaw, ...]:
    return torch_loader.open(MemorySource("model", content)).damage


def test_only_entries_and_checksums_change() -> None:
    content = saved(state())
    patches = find_patches(torch_loader, content, by_name({"bias": np.array([0, 0, 1.0, 0, 0])}))
    assert [(len(each.new), each.reason) for each in patches] == [
        (4, "values of bias"),
        (4, "CRC-32 of archive/data/1"),
        (4, "CRC-32 of archive/data/1"),
    ]


def test_a_compressed_member_is_refused_by_name() -> None:
    error = refusal(torch_loader, zipped(saved(state()), method=zipfile.ZIP_DEFLATED), by_name(NEW))
    assert error.message == "weight cannot be changed in place: model/archive/data/0 is compressed"
    assert "save the model again" in error.hint


def test_a_damaged_member_is_refused_and_a_whole_one_beside_it_is_not() -> None:
    content = bytearray(saved(state()))
    place = content.index(np.arange(100.0, 110.0).astype(np.float32).tobytes())
    content[place] ^= 1
    error = refusal(torch_loader, bytes(content), by_name({"weight": NEW["weight"]}))
    assert "damaged" in error.message
    assert "archive/data/0" in error.message
    result = patched(torch_loader, bytes(content), by_name({"bias": NEW["bias"]}))
    assert zipfile.ZipFile(io.BytesIO(result)).testzip() == "archive/data/0"


@pytest.mark.parametrize("field", [14, 16])
def test_records_that_contradict_each_other_are_refused(field: int) -> None:
    content = bytearray(zipped(saved(state())))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        weight = archive.getinfo("archive/data/0")
    place = weight.header_offset if field == 14 else content.index(b"PK\x01\x02", archive.start_dir)
    while field == 16 and content[place + 46 : place + 60] != b"archive/data/0":
        place = content.index(b"PK\x01\x02", place + 4)
    content[place + field] ^= 1
    assert "damaged" in refusal(torch_loader, bytes(content), by_name({"weight": NEW["weight"]})).message


def test_an_archive_without_checksums_gets_none() -> None:
    torch_library.serialization.set_crc32_options(False)
    try:
        content = saved(state())
    finally:
        torch_library.serialization.set_crc32_options(True)
    result = patched(torch_loader, content, by_name(NEW))
    found = torch_library.load(io.BytesIO(result), weights_only=True)
    assert found["weight"].tolist() == NEW["weight"].tolist()


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_checksum_follows_its_patches(content: bytes, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=8)))
    patches, result = [], bytearray(content)
    for start, end in zip(places[::2], places[1::2], strict=False):
        new = data.draw(st.binary(min_size=end - start, max_size=end - start))
        patches.append(Patch(1000 + start, content[start:end], new))
        result[start:end] = new
    assert checksum_after(zlib.crc32(content), 1000, len(content), patches) == zlib.crc32(result)


def test_a_checksum_follows_a_patch_at_the_beginning_of_a_long_member() -> None:
    content = np.random.default_rng(0).bytes(1 << 22)
    result = b"new" + content[3:]
    assert checksum_after(zlib.crc32(content), 0, len(content), [Patch(0, content[:3], b"new")]) == zlib.crc32(result)


def sb3_bytes(model: BaseAlgorithm) -> bytes:
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def everything_a_little(checkpoint: Checkpoint) -> dict:
    """ChangeRecord every third entry of every second tensor and moment, and the learning rate."""
    moments = [tensor for each in checkpoint.optimizers for held in each.parameters for tensor in held.state.values()]
    changes = {}
    for tensor in [*checkpoint.tensors[::2], *moments[::2]]:
        values = tensor.array.astype(np.float64)
        values.reshape(-1)[::3] = 0.125
        changes[tensor] = values
    for optimizer in checkpoint.optimizers:
        changes[optimizer.groups[0].settings["lr"]] = np.float64(0.0)
    return changes


@pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "DQN", "TD3", "RecurrentPPO"])
def test_stable_baselines3_loads_what_was_patched_on_both_levels(name: str) -> None:
    content = sb3_bytes(MODELS[name]())
    result = patched(sb3_loader, content, everything_a_little)
    with zipfile.ZipFile(io.BytesIO(result)) as archive:
        assert archive.testzip() is None
        for member in archive.namelist():
            if member.endswith(".pth") and archive.getinfo(member).file_size:
                assert zipfile.ZipFile(io.BytesIO(archive.read(member))).testzip() is None
    kind = type(MODELS[name]())
    before, after = kind.load(io.BytesIO(content), device="cpu"), kind.load(io.BytesIO(result), device="cpu")
    checkpoint = sb3_loader.open(MemorySource("model", content))
    expected = {tensor.name: values for tensor, values in everything_a_little(checkpoint).items()}
    policy = {key: value for key, value in after.policy.state_dict().items() if key in expected}
    assert policy
    for key, tensor in after.policy.state_dict().items():
        wanted = expected.get(key, before.policy.state_dict()[key].numpy())
        assert np.array_equal(tensor.numpy(), wanted.astype(np.float32)), key
    for key, optimizer in live_optimizers(after).items():
        assert optimizer.param_groups[0]["lr"] == 0.0
        for index, held in enumerate(optimizer.state_dict()["state"].values()):
            for entry, tensor in held.items():
                wanted = expected.get(f"{key}/state/{index}/{entry}")
                if wanted is not None:
                    assert np.array_equal(tensor.numpy(), wanted.astype(np.float32))


def test_a_zip_that_was_packed_again_with_compression_is_refused_by_its_member() -> None:
    content = zipped(sb3_bytes(MODELS["A2C"]()), method=zipfile.ZIP_DEFLATED)
    error = refusal(sb3_loader, content, everything_a_little)
    assert "policy.pth" in error.message
    assert "is compressed" in error.message
