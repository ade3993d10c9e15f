"""The closed table: which names in a pickle describe data, and what stands in for each.

Entries are either functions of ours, called where the pickle calls the name, or constants. Every signature follows the
function of that name in PyTorch (``torch/_utils.py``, ``torch/_tensor.py``), NumPy or Python. A ``TypeError`` or
``ValueError`` from a stand-in tells the pickle machine that the arguments do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from checkpoint_doctor.loaders._dtypes import ALIASES, NAMES, STORAGES, numpy_type
from checkpoint_doctor.loaders._pickled_arrays import PickledArray, array_type, from_buffer, reconstruct, scalar
from checkpoint_doctor.loaders._pickled_objects import Global, StoredBytes, as_key
from checkpoint_doctor.loaders._pickled_tensors import (
    Memory,
    PickledStorage,
    PickledTensor,
    dimensions,
    view,
)
from checkpoint_doctor.source import MemorySource


@dataclass(frozen=True)
class ElementType:
    """A ``torch.dtype``."""

    name: str


@dataclass(frozen=True)
class StorageType:
    """A storage class. Pickles of PyTorch before 0.4 call it with a list of all the numbers."""

    dtype: str

    def __call__(self, numbers: Any = ()) -> PickledStorage:
        """Return a storage of the numbers, in memory."""
        if not isinstance(numbers, list | tuple):
            raise TypeError("a storage without numbers")
        content = np.asarray(numbers, numpy_type(self.dtype)).tobytes()
        source = MemorySource("", content)
        return PickledStorage(Memory("", len(content), lambda: source), self.dtype, 0, len(content))


def storage_type(value: Any) -> StorageType:
    """Return the storage class that a pickle refers to.

    Raises:
        TypeError: it refers to something else.
    """
    if isinstance(value, Global) and isinstance(value.known, StorageType):
        return value.known
    raise TypeError("a storage without a type")


@dataclass(frozen=True)
class Word:
    """A constant that only has a name: a layout, a quantization scheme, a memory format."""

    name: str


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_tensor``."""
    return view(storage, offset, shape, strides)


def rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False, hooks: Any = None, bits: Any = None
) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_tensor_v2``."""
    return _marked(view(storage, offset, shape, strides), requires_grad, bits)


def rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    bits: Any = None,
) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_tensor_v3``: an untyped storage and the element type beside it."""
    return _marked(view(storage, offset, shape, strides, _name_of(dtype)), requires_grad, bits)


def rebuild_quantized(
    storage: Any, offset: Any, shape: Any, strides: Any, quantizer: Any, requires_grad: Any = False, hooks: Any = None
) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_qtensor``: the stored integers are the values."""
    return view(storage, offset, shape, strides)


def rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> PickledTensor:
    """Stand in for ``_rebuild_parameter``, ``_rebuild_parameter_with_state`` and the class itself."""
    if data is None:
        return PickledTensor(is_parameter=True, requires_grad=requires_grad is True)
    if not isinstance(data, PickledTensor):
        raise TypeError("a parameter without a tensor")
    return replace(data, is_parameter=True, requires_grad=requires_grad is True)


def rebuild_variable(data: Any = None, *_: Any) -> PickledTensor:
    """Stand in for ``torch.autograd.Variable`` and the tensor classes, which old pickles call and then fill."""
    return replace(data) if isinstance(data, PickledTensor) else PickledTensor()


def rebuild_sparse(layout: Any, data: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_sparse_tensor``."""
    parts = [part for part in data if isinstance(part, PickledTensor)]
    shape = next((dimensions(part) for part in data if isinstance(part, tuple)), ())
    dtype = parts[-1].dtype if parts else "float32"
    return PickledTensor(dtype=dtype, shape=shape, trouble="it is a sparse tensor, which is not examined")


def rebuild_nested(buffer: Any, *_: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_nested_tensor``."""
    return PickledTensor(dtype=_dtype_of(buffer), trouble="it is a nested tensor, which is not examined")


def rebuild_meta(dtype: Any, shape: Any, strides: Any, requires_grad: Any = False) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_meta_tensor_no_storage``."""
    return PickledTensor(
        dtype=_name_of(dtype), shape=dimensions(shape), trouble="it was saved from the meta device, without values"
    )


def rebuild_wrapper(kind: Any, dtype: Any, shape: Any, *_: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_wrapper_subclass``."""
    name = kind.qualified if isinstance(kind, Global) else "another class"
    return PickledTensor(
        dtype=_name_of(dtype), shape=dimensions(shape), trouble=f"its values are inside {name}, which is not examined"
    )


def rebuild_on_device(data: Any, dtype: Any, device: Any = None, requires_grad: Any = False) -> PickledTensor:
    """Stand in for the rebuilders of tensors of other devices (XLA …), stored as an array or a CPU tensor."""
    if not isinstance(data, PickledTensor):
        raise TypeError("no tensor")
    wanted = _name_of(dtype)
    if wanted == data.dtype:
        return _marked(_as_tensor(data), requires_grad, None)
    return replace(_as_tensor(data), dtype=wanted, stored_dtype=data.dtype, requires_grad=requires_grad is True)


def rebuild_from_type(build: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """Stand in for ``torch._tensor._rebuild_from_type_v2``: a tensor of a subclass, or one with attributes."""
    if not isinstance(build, Global) or not isinstance(arguments, tuple):
        raise TypeError("nothing to rebuild with")
    built = build.call(arguments)
    if isinstance(built, PickledTensor) and isinstance(kind, Global) and kind.name == "Parameter":
        return replace(built, is_parameter=True)
    return built


def make_dictionary(*arguments: Any, **entries: Any) -> dict[Any, Any]:
    """Stand in for ``OrderedDict``, ``dict`` and ``Counter``."""
    if len(arguments) > 1:
        raise TypeError("too many arguments")
    given = arguments[0] if arguments else {}
    if isinstance(given, dict):
        return {**given, **entries}
    if not isinstance(given, list | tuple):
        raise TypeError("no entries")
    return {**{as_key(key): value for key, value in given}, **entries}


def make_default_dictionary(factory: Any = None, *arguments: Any) -> dict[Any, Any]:
    """Stand in for ``defaultdict``; the factory is never called."""
    return make_dictionary(*arguments)


def make_set(items: Any = ()) -> set[Any]:
    """Stand in for ``set`` and ``frozenset``."""
    return set(map(as_key, _items(items)))


def make_list(items: Any = ()) -> list[Any]:
    """Stand in for ``list`` and ``deque``."""
    return list(_items(items))


def make_tuple(items: Any = ()) -> tuple[Any, ...]:
    """Stand in for ``tuple`` and ``torch.Size``."""
    return tuple(_items(items))


def make_bytes(content: Any = b"", encoding: Any = "latin1", *_: Any) -> bytes:
    """Stand in for ``bytes``, ``bytearray`` and ``_codecs.encode``, by which Python 3 writes bytes in old protocols."""
    if isinstance(content, str) and encoding in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        return content.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "strict")
    if isinstance(content, StoredBytes):
        return content.read()
    if isinstance(content, list | tuple):
        return bytes(content)
    if isinstance(content, bytes):
        return content
    raise TypeError("no bytes")


def make_number(value: Any = 0) -> Any:
    """Stand in for ``int``, ``float`` and ``bool`` of numbers."""
    if not isinstance(value, int | float):
        raise TypeError("no number")
    return value


def make_complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    """Stand in for ``complex``."""
    return complex(real, imaginary)


def make_slice(*bounds: Any) -> tuple[Any, ...]:
    """Stand in for ``slice`` and ``range``, which never hold tensors."""
    return bounds


def make_device(kind: Any = "", index: Any = None) -> Word:
    """Stand in for ``torch.device``."""
    return Word(f"{kind}:{index}" if index is not None else str(kind)[:40])


def make_object(kind: Any, *arguments: Any) -> Any:
    """Stand in for ``copyreg.__newobj__`` and ``copyreg._reconstructor``, by which old protocols build instances."""
    if not isinstance(kind, Global):
        raise TypeError("no class")
    return kind.call(arguments)


def reconstruct_object(kind: Any, base: Any = None, state: Any = None) -> Any:
    """Stand in for ``copyreg._reconstructor``: an instance of a class, from the state of its built-in base."""
    if not isinstance(kind, Global):
        raise TypeError("no class")
    return kind.call(() if state is None else (state,))


def unwrap(value: Any, *_: Any) -> Any:
    """Stand in for TorchScript's tags (``torch.jit._pickle.build_intlist`` …): the value itself."""
    return value


def _items(items: Any) -> Any:
    if not isinstance(items, list | tuple | set | frozenset | dict):
        raise TypeError("no collection")
    return items


def _name_of(dtype: Any) -> str:
    if not isinstance(dtype, ElementType):
        raise TypeError("no element type")
    return dtype.name


def _dtype_of(tensor: Any) -> str:
    return tensor.dtype if isinstance(tensor, PickledTensor) else "float32"


def _as_tensor(data: PickledTensor) -> PickledTensor:
    return PickledTensor(data.storage, data.dtype, data.shape, data.strides, data.offset, trouble=data.trouble)


def _marked(tensor: PickledTensor, requires_grad: Any, bits: Any) -> PickledTensor:
    tensor.requires_grad = requires_grad is True
    if isinstance(bits, dict):
        tensor.is_conjugated = bits.get("conj") is True
        tensor.is_negated = bits.get("neg") is True
    return tensor


def _table() -> dict[tuple[str, str], Any]:
    rebuilders = {
        "_rebuild_tensor": rebuild_tensor,
        "_rebuild_tensor_v2": rebuild_tensor_v2,
        "_rebuild_tensor_v3": rebuild_tensor_v3,
        "_rebuild_qtensor": rebuild_quantized,
        "_rebuild_parameter": rebuild_parameter,
        "_rebuild_parameter_with_state": rebuild_parameter,
        "_rebuild_sparse_tensor": rebuild_sparse,
        "_rebuild_sparse_csr_tensor": rebuild_sparse,
        "_rebuild_nested_tensor": rebuild_nested,
        "_rebuild_meta_tensor_no_storage": rebuild_meta,
        "_rebuild_wrapper_subclass": rebuild_wrapper,
        "_rebuild_device_tensor_from_numpy": rebuild_on_device,
        "_rebuild_device_tensor_from_cpu_tensor": rebuild_on_device,
        "_rebuild_xla_tensor": rebuild_on_device,
        "_rebuild_mlc_tensor": rebuild_on_device,
    }
    table: dict[tuple[str, str], Any] = {("torch._utils", name): build for name, build in rebuilders.items()}
    for module in ("torch._tensor", "torch.tensor"):
        table[module, "_rebuild_from_type_v2"] = rebuild_from_type
        table[module, "_rebuild_from_type"] = rebuild_from_type
    for module in ("torch.nn.parameter", "torch.nn"):
        table[module, "Parameter"] = rebuild_parameter
        table[module, "Buffer"] = rebuild_variable
    table["torch.autograd.variable", "Variable"] = rebuild_variable
    table["torch.autograd", "Variable"] = rebuild_variable
    for name in (*NAMES, *ALIASES):
        table["torch", name] = ElementType(ALIASES.get(name, name))
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            table[module, name] = StorageType(dtype)
            table[module, name.replace("Storage", "Tensor")] = rebuild_variable
    table["torch", "Tensor"] = rebuild_variable
    table["torch._tensor", "Tensor"] = rebuild_variable
    for name in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn", "jagged"):
        table["torch", name] = Word(name)
    for name in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"):
        table["torch", name] = Word(name)
    for name in ("per_channel_affine_float_qparams", "contiguous_format", "channels_last", "preserve_format"):
        table["torch", name] = Word(name)
    table["torch", "Size"] = make_tuple
    table["torch", "device"] = make_device
    table["torch.serialization", "_get_layout"] = make_device
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"):
        table["torch.jit._pickle", name] = unwrap
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = reconstruct
        table[module, "scalar"] = scalar
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        table[module, "_frombuffer"] = from_buffer
    table["numpy", "ndarray"] = lambda *_: PickledArray()
    table["numpy", "dtype"] = array_type
    table["collections", "OrderedDict"] = make_dictionary
    table["collections", "Counter"] = make_dictionary
    table["collections", "defaultdict"] = make_default_dictionary
    table["collections", "deque"] = lambda items=(), *_: make_list(items)
    table["_codecs", "encode"] = make_bytes
    builtin = {
        "dict": make_dictionary,
        "list": make_list,
        "tuple": make_tuple,
        "set": make_set,
        "frozenset": make_set,
        "bytes": make_bytes,
        "bytearray": make_bytes,
        "int": make_number,
        "long": make_number,
        "float": make_number,
        "bool": make_number,
        "complex": make_complex,
        "slice": make_slice,
        "range": make_slice,
        "xrange": make_slice,
    }
    table.update({("builtins", name): build for name, build in builtin.items()})
    table["builtins", "object"] = Word("object")
    table["copyreg", "__newobj__"] = make_object
    table["copyreg", "_reconstructor"] = reconstruct_object
    return table


TABLE: Mapping[tuple[str, str], Any] = _table()
"""``(module, name)`` to a function of ours or a constant. Python 2's module names are translated before."""
