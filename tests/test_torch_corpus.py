"""Every torch file of the corpus, tensor by tensor against what PyTorch itself reads."""

from __future__ import annotations

import io
import pickle
import types
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource
from tests.corpus import read_manifest

torch = pytest.importorskip("torch")

TORCH_FILES = [file.name for file in read_manifest() if file.format == "torch"]

# What leads to the model in each file that is not a bare state dict, a module, or a list of tensors.
MODELS = {
    "model.checkpoint": lambda loaded: loaded["weights"],
    "resnet20-12fca82f.th": lambda loaded: loaded["state_dict"],
    "poc@6cbb8b1.nn": lambda loaded: loaded[0],
    "Hopper-v1_ppo@1b13fc9.p": lambda loaded: {
        f"{number}/{name}": tensor for number in (0, 1) for name, tensor in state_dict_of(loaded[number]).items()
    },
    "final@c99ae99.th": lambda loaded: state_dict_of(loaded),
    "discrim@2b15e0d.pt": lambda loaded: state_dict_of(loaded),
    # Two bare storages: there is no tensor in the file.
    "storage_view.legacy.pt": lambda loaded: {},
}
NOT_FOR_TORCH = {
    "vec_normalize@2e62247.pkl",  # NumPy arrays in a class of Stable-Baselines3
    "cifar_torchvision@67ab6ea.pt",  # bytes lost in a copy as text
}


def state_dict_of(module: object) -> dict[str, object]:
    """Do what ``Module.state_dict`` does, for modules of any version and class."""
    passing = getattr(module, "_non_persistent_buffers_set", ())
    own = [*module._parameters.items(), *module._buffers.items()]
    entries = {key: value for key, value in own if value is not None and key not in passing}
    for key, child in module._modules.items():
        entries.update({f"{key}.{name}": value for name, value in state_dict_of(child).items()})
    return entries


class _Stub:
    """Stands for a class that is not installed."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if module.startswith(("torch._utils", "torch.storage", "torch.serialization", "torch._tensor", "numpy.core")):
            return super().find_class(module, name)
        if module in ("torch", "torch.cuda", "collections", "_codecs", "builtins", "__builtin__", "numpy"):
            return super().find_class(module, name)
        if module == "torch.nn.parameter":
            return super().find_class(module, name)
        return type(name, (_Stub,), {"__module__": module})


class _StubPickle(types.ModuleType):
    Unpickler = _Unpickler
    dumps = staticmethod(pickle.dumps)

    @staticmethod
    def load(file: io.IOBase, **keywords: object) -> object:
        return _Unpickler(file, **keywords).load()


def load_with_torch(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            pass
        try:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_StubPickle("stub"))
        except Exception:
            with path.open("rb") as file:
                return _Unpickler(file).load()


def expected_tensors(path: Path) -> dict[str, object]:
    loaded = load_with_torch(path)
    if path.name in MODELS:
        return MODELS[path.name](loaded)
    if isinstance(loaded, Mapping):
        return dict(loaded)
    if isinstance(loaded, list):
        return {str(number): value for number, value in enumerate(loaded)}
    return {"tensor": loaded}


@pytest.mark.parametrize("name", TORCH_FILES, ids=lambda name: Path(name).name)
def test_every_tensor_equals_what_torch_reads(name: str, corpus: Path) -> None:
    path = corpus / name
    if path.name in NOT_FOR_TORCH:
        pytest.skip("torch cannot read it either")
    expected = expected_tensors(path)
    found = loader.open(FileSource(path))
    assert [tensor.name for tensor in found.tensors] == list(expected)
    assert not found.flaws
    for tensor in found.tensors:
        wanted = expected[tensor.name]
        if isinstance(wanted, np.ndarray):
            wanted = torch.from_numpy(wanted)
        wanted = getattr(wanted, "data", wanted)
        assert f"torch.{tensor.dtype}" == str(wanted.dtype), tensor.name
        assert tensor.shape == tuple(wanted.shape), tensor.name
        array = tensor.array
        if wanted.dtype == torch.bfloat16:
            array, wanted = array.astype(np.float32), wanted.float()
        np.testing.assert_array_equal(array, wanted.detach().numpy(), tensor.name)
        assert tensor.statistics.zeros == int((wanted == 0).sum())
        if wanted.numel() and not wanted.dtype.is_complex:
            values = wanted.detach().numpy()
            finite = values[np.isfinite(values)]
            assert tensor.statistics.nonfinite == values.size - finite.size
            assert tensor.statistics.minimum == finite.min().item()
            assert tensor.statistics.maximum == finite.max().item()


def test_a_file_that_was_copied_as_text_is_said_to_be_one(corpus: Path) -> None:
    path = next(corpus.rglob("cifar_torchvision@67ab6ea.pt"))
    with pytest.raises(UnreadableCheckpoint, match="as text"):
        loader.open(FileSource(path))
