"""Checks that a loader opens intact files and refuses all others with the exceptions of the protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.errors import RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.sources import FileSource, MemorySource, Source

LARGEST = 1 << 26
"""Bytes of the file, which is held in memory and truncated at many places."""

_OTHER_FILES = {
    "an empty file": b"",
    "one byte": b"\0",
    "text": b"just some text, " * 64,
    "an HTML page": b"<!doctype html><html><body>404</body></html>",
    "zeros": bytes(4096),
    "random bytes": np.random.default_rng(0).bytes(4096),
}


def check_loader(loader: Loader, path: str | os.PathLike[str]) -> Checkpoint:
    """Check a loader on one intact file of its format, of at most 64 MiB, and return the opened checkpoint.

    The loader must recognize the file and no file of another kind. The tensors must have unique names, and shapes and
    dtypes that agree with their values. Opening the file truncated anywhere must succeed or raise
    ``UnreadableCheckpoint``. Patching a tensor must give it the new values. It may raise ``RepairFailed`` where the
    checkpoint has ``is_patchable=False``, since findings promise repairs in all others.

    Raises:
        AssertionError: the loader breaks its protocol; the message lists everything that is wrong.
    """
    source = FileSource(os.fspath(path))
    assert source.size <= LARGEST, f"{path} has {source.size:,} bytes; a test file has at most {LARGEST:,}"
    problems = [*_judge_identity(loader), *_judge_recognition(loader, source)]
    assert not problems, f"{type(loader).__name__}: {'; '.join(problems)}"
    checkpoint = loader.open(source)
    problems += _judge_tensors(checkpoint, loader)
    problems += _judge_truncation(loader, source)
    problems += _judge_patches(loader, source, checkpoint)
    assert not problems, f"{type(loader).__name__} on {path}: {'; '.join(problems)}"
    return checkpoint


def _judge_identity(loader: Loader) -> Iterator[str]:
    if not isinstance(loader.name, str) or not loader.name:
        yield "it has no name"
    if not isinstance(loader.suffixes, tuple) or not all(isinstance(each, str) for each in loader.suffixes):
        yield "its suffixes are not a tuple of strings"
    elif odd := [each for each in loader.suffixes if not each.startswith(".")]:
        yield f"its suffix {odd[0]!r} does not begin with a dot"


def _judge_recognition(loader: Loader, source: Source) -> Iterator[str]:
    if not loader.recognizes(source):
        yield f"it does not recognize {source.name}"
    for what, content in _OTHER_FILES.items():
        try:
            if loader.recognizes(MemorySource(what, content)):
                yield f"it recognizes {what} as its own"
        except Exception as error:
            yield f"recognizing {what} raised {_name(error)}; it must never raise"


def _judge_tensors(checkpoint: Checkpoint, loader: Loader) -> Iterator[str]:
    if checkpoint.format != loader.name:
        yield f"the checkpoint's format is {checkpoint.format!r}, not the loader's name {loader.name!r}"
    names = [tensor.name for tensor in checkpoint.tensors]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        yield f"two tensors have the name {doubled[0]!r}"
    if not names:
        yield "it opened no tensor; check it on a file that has some"
    for tensor in checkpoint.tensors:
        if problem := _judge_values(tensor):
            yield f"tensor {tensor.name}: {problem}"


def _judge_values(tensor: Tensor) -> str | None:
    whole = tensor.values.read()
    if not tensor.shape == tensor.values.shape == whole.shape:
        return f"its shape is {tensor.shape}, but its values declare {tensor.values.shape} and have {whole.shape}"
    if whole.dtype != tensor.values.dtype:
        return f"its values declare the dtype {tensor.values.dtype} but have {whole.dtype}"
    pieces = [block.copy() for block in tensor.values.blocks(7)]
    if pieces and np.concatenate(pieces).tobytes() != whole.tobytes():
        return "its blocks joined together are not its values in row-major order"
    if sum(piece.size for piece in pieces) != tensor.size:
        return f"its blocks have {sum(piece.size for piece in pieces):,} of {tensor.size:,} values"
    return None


def _judge_truncation(loader: Loader, source: Source) -> Iterator[str]:
    content = source.read(0, source.size)
    for length in sorted({*range(min(64, source.size)), *np.linspace(0, source.size, 64, dtype=int)[:-1].tolist()}):
        truncated = MemorySource(source.name, content[:length])
        try:
            if loader.recognizes(truncated):
                for tensor in loader.open(truncated).tensors:
                    tensor.statistics  # noqa: B018
        except UnreadableCheckpoint as refusal:
            if not refusal.message:
                yield f"truncated to {length:,} bytes, the file is refused without a reason"
        except Exception as error:
            yield f"truncated to {length:,} bytes, opening raised {_name(error)} and not UnreadableCheckpoint"
            return


def _judge_patches(loader: Loader, source: Source, checkpoint: Checkpoint) -> Iterator[str]:
    tensor = next((each for each in checkpoint.tensors if each.size and each.is_floating), None)
    if tensor is None:
        return
    wanted = np.full_like(tensor.values.read(), 0.5)
    try:
        patches = loader.patch(checkpoint, {tensor: wanted})
    except RepairFailed as refusal:
        if checkpoint.is_patchable:
            yield (
                f"patching {tensor.name} is refused ({refusal.message}), though findings promise that `ckdoc fix` can "
                "repair it: open what cannot be changed with Checkpoint(…, is_patchable=False)"
            )
        return
    except Exception as error:
        yield f"patching {tensor.name} raised {_name(error)} and not RepairFailed"
        return
    if any(each is not source for each in patches):
        yield "patching changes another file; only single files can be checked"
        return
    content = bytearray(source.read(0, source.size))
    for patch in patches.get(source, ()):
        place = slice(patch.offset, patch.offset + len(patch.old))
        if content[place] != patch.old or len(patch.old) != len(patch.new):
            yield f"the patch at byte {patch.offset:,} does not have the old bytes, or changes the file's size"
            return
        content[place] = patch.new
    again = loader.open(MemorySource(source.name, bytes(content))).by_name.get(tensor.name)
    if again is None or again.values.read().tobytes() != wanted.tobytes():
        yield f"after its patches, {tensor.name} does not have the new values"


def _name(error: Exception) -> str:
    return f"{type(error).__name__} ({error})"
