"""Every container that PyTorch and pickle write tensors into."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import CONTAINERS, assert_equal, names, network, opened, refused, saved

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.sources import FileSource

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_state_dict_reads_as_torch_reads_it(container: str) -> None:
    model = network()
    checkpoint = opened(saved(model.state_dict(), _use_new_zipfile_serialization=CONTAINERS[container]))
    assert_equal(checkpoint, model.state_dict())
    assert checkpoint.metadata["container"] == container
    assert checkpoint.format == "torch"
    assert not checkpoint.flaws
    assert not checkpoint.skipped
    assert all(name.known for name in checkpoint.pickled_names)


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_tensors_reads_like_a_checkpoint(protocol: int) -> None:
    model = network()
    assert_equal(opened(pickle.dumps(dict(model.state_dict()), protocol)), model.state_dict())


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_pickle_protocol_is_read(container: str, protocol: int) -> None:
    model = network()
    content = saved(model.state_dict(), pickle_protocol=protocol, _use_new_zipfile_serialization=CONTAINERS[container])
    assert_equal(opened(content), model.state_dict())


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_count_as_tensors(protocol: int) -> None:
    arrays = {
        "weight": np.arange(600, dtype=np.float32).reshape(20, 30),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big_endian": np.arange(5, dtype=">f4"),
        "flags": np.array([True, False]),
        "empty": np.empty((0, 3), np.int16),
        "scalar": np.array(2.5),
        "strided": np.arange(10)[::2],
    }
    beside = {"step": np.float64(3.5), "words": np.array(["a"]), "anything": np.array([None])}
    checkpoint = opened(pickle.dumps({**arrays, **beside}, protocol))
    assert names(checkpoint) == list(arrays)
    for tensor in checkpoint.tensors:
        assert tensor.dtype == arrays[tensor.name].dtype.name
        np.testing.assert_array_equal(tensor.array, arrays[tensor.name])
        assert tensor.array.dtype.isnative
    assert {each.what for each in checkpoint.skipped} == {"words", "anything"}


def test_a_file_zipped_again_with_compression_is_read() -> None:
    model = network()
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(model.state_dict()))) as original,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as again,
    ):
        for member in original.namelist():
            again.writestr(member.replace("archive/", "another name/"), original.read(member))
    assert_equal(opened(buffer.getvalue()), model.state_dict())


def test_the_byte_order_member_is_obeyed() -> None:
    expected = {
        "float32": torch.tensor([1.5, -2.0]),
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "int64": torch.tensor([1, -2]),
        "int8": torch.tensor([1, -2], dtype=torch.int8),
        "complex64": torch.tensor([1.5 - 2j]),
    }
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(expected))) as original,
        zipfile.ZipFile(buffer, "w") as foreign,
    ):
        for number, tensor in enumerate(expected.values()):
            size = tensor.element_size() // (2 if tensor.dtype.is_complex else 1)
            content = np.frombuffer(original.read(f"archive/data/{number}"), f"u{size}").byteswap().tobytes()
            foreign.writestr(f"archive/data/{number}", content)
        foreign.writestr("archive/data.pkl", original.read("archive/data.pkl"))
        foreign.writestr("archive/byteorder", b"big")
    assert_equal(opened(buffer.getvalue()), expected)


def test_a_torchscript_archive_names_its_tensors_as_its_state_dict_does(tmp_path: Path) -> None:
    model = network().eval()
    path = tmp_path / "script.pt"
    torch.jit.script(model).save(str(path))
    checkpoint = loader.open(FileSource(path))
    expected = torch.jit.load(str(path)).state_dict()
    assert sorted(names(checkpoint)) == sorted(expected)
    for tensor in checkpoint.tensors:
        np.testing.assert_array_equal(tensor.array, expected[tensor.name].numpy())
    assert checkpoint.by_name["2.running_mean"].is_buffer
    assert not checkpoint.by_name["2.weight"].is_buffer


def test_the_tar_of_the_first_releases_is_named() -> None:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "before version 0.1.10" in refused(buffer.getvalue()).message


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "proof"

    class Command:
        def __reduce__(self) -> object:
            import os

            return os.system, (f"touch {target}",)

    for content in (
        saved({"weight": torch.ones(2), "extra": Command()}),
        saved({"weight": torch.ones(2), "extra": Command()}, _use_new_zipfile_serialization=False),
        pickle.dumps(Command()),
        pickle.dumps(Command(), 0),
    ):
        checkpoint = opened(content)
        commands = [name for name in checkpoint.pickled_names if name.name == "system"]
        assert commands
        assert all(name.called and not name.known for name in commands)
    assert not target.exists()


def test_objects_built_by_old_protocols_are_followed() -> None:
    class Holder:
        pass

    Holder.__qualname__ = "Holder"
    holder = Holder()
    holder.model = {"weight": np.ones(3, np.float32)}
    globals()["Holder"] = Holder
    try:
        content = pickle.dumps({"held": holder}, 0)
    finally:
        del globals()["Holder"]
    assert names(opened(content)) == ["weight"]


def test_names_and_arrays_of_python_2_are_read() -> None:
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + struct.pack("<2f", 1.5, -2.0) + b"tb"
    )
    content = b"\x80\x02ccollections\nOrderedDict\n](](U\x06weight" + array + b"ee\x85R."
    assert opened(content).by_name["weight"].array.tolist() == [1.5, -2.0]
