"""Files that are no checkpoints are named for what they are."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_doctor.builtin.loaders.foreign.loader import loader
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, MemorySource


def name(content: bytes) -> UnreadableCheckpoint:
    source = MemorySource("file.pt", content)
    assert loader.recognizes(source)
    with pytest.raises(UnreadableCheckpoint) as caught:
        loader.open(source)
    assert "\n" not in caught.value.message
    return caught.value


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each in names:
            archive.writestr(each, "content")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return buffer.getvalue()


def torch_file(*, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.randn(60, 60)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 1234567\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (POINTER, "git-LFS pointer to the checkpoint (sha256:abab"),
        (POINTER, "1,234,567 bytes"),
        (b"../../.git/annex/objects/Kx/SHA256E-s5--0.pt", "git-annex pointer"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in\n - Hub</title>", "HTML page titled 'Sign in - Hub'"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "with the error AccessDenied"),
        (bytes(5000), "zero bytes: its content was never written"),
        (torch_file(legacy=True).decode("ascii", "replace").replace("\ufffd", "?").encode(), "opened as text"),
        (torch_file(legacy=False).decode("utf-8", "replace").encode(), "opened as text"),
        (b"\xde\xad\xbe\xef" + bytes(range(256)), "begins with the bytes de ad be ef"),
    ],
)
def test_what_stands_where_a_checkpoint_should_be(content: bytes, says: str) -> None:
    error = name(content)
    assert says in error.message
    assert error.hint
    assert not isinstance(error, NotACheckpoint)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Cada lição está aqui".encode("latin-1") * 9 + b"x" * 99, "text file that begins with 'Cada lição está aqui"),
        (b"404: Not Found", "text file that begins with '404: Not Found'"),
        (json.dumps({"hidden_size": 768}).encode(), "JSON file"),
        (zipped("data", "parameter_list", "parameters"), "Stable-Baselines 2 (TensorFlow)"),
        (zipped("notes.txt", "b.csv"), "zip archive of 2 files, none of them a checkpoint"),
        (zipped("run/model.pt", "run/notes.txt"), "zip archive that contains run/model.pt"),
        (zipped("best/policy.pth", "best/data"), "Stable-Baselines3 model is in best/"),
        (zipped("model/saved_model.pb"), "TensorFlow SavedModel"),
        (zipped(), "empty zip archive"),
        (zlib.compress(pickle.dumps(list(range(99)))), "a pickle compressed with zlib, as joblib writes it"),
        (zlib.compress(b"text" * 99), "compressed with zlib"),
        (lzma.compress(pickle.dumps(list(range(99))), lzma.FORMAT_ALONE), "a pickle compressed with LZMA"),
        (b"\x08\x01\x12\x80\x01" + bytes(50), "TensorFlow SavedModel"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        (tar(), "tar archive"),
        (gzip.compress(b"text", mtime=0), "compressed with gzip"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(30), "7-Zip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG image"),
        (pickle.dumps({"a": 1}), "pickle without tensors"),
    ],
)
def test_sound_files_of_other_kinds(content: bytes, says: str) -> None:
    error = name(content)
    assert says in error.message
    assert isinstance(error, NotACheckpoint)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x0e" + bytes(30),
        b"\x08\x0e\x12\x03abc" + b"\xde\xad",
        b"\x81\xa6params\x81\xa1w\xff\xff",
        b"\x78\x9c" + b"\xff" * 50,
        b"\x5d\0\0\xff\xff\xff\xff" + b"\xff" * 50,
    ],
)
def test_what_only_begins_like_another_format_is_not_named_after_it(content: bytes) -> None:
    error = name(content)
    assert "unknown format" in error.message
    assert not isinstance(error, NotACheckpoint)


def test_a_truncated_zip_is_told_from_a_plain_one() -> None:
    error = name(zipped("a.txt", "b.txt")[:60])
    assert "truncated at byte 60" in error.message
    assert not isinstance(error, NotACheckpoint)


def test_whole_checkpoints_are_not_taken_for_text() -> None:
    for content in (torch_file(legacy=True), torch_file(legacy=False)):
        assert "opened as text" not in name(content).message


def test_the_odd_files_of_the_corpus(corpus: Path) -> None:
    expected = {
        "captum/captum/insights/attr_vis/models/cifar_torchvision@67ab6ea.pt": "opened as text and saved again",
        "models/minigrid.nn": "git-LFS pointer",
        "generation/simple/serialization/best.th": "is empty",
        "policies/final/model@df419c7.pkl": "Stable-Baselines 2",
    }
    found = 0
    for path in corpus.rglob("*"):
        for ending, says in expected.items():
            if path.as_posix().endswith(ending):
                found += 1
                with pytest.raises(UnreadableCheckpoint, match=says):
                    loader.open(FileSource(path))
    assert found >= len(expected) - 1


@given(content=st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_get_one_sentence(content: bytes) -> None:
    assert name(content).message.startswith("file.pt ")
