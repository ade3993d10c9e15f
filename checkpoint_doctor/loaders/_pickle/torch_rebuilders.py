"""What stands in for PyTorch's functions that rebuild tensors, and for its constants, while a pickle is read.

Every signature follows the function of that name in ``torch/_utils.py``, ``torch/_tensor.py`` or
``torch/jit/_pickle.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from checkpoint_doctor.loaders._pickle.objects import Global, SpelledOut
from checkpoint_doctor.loaders._pickle.tensors import (
    Memory,
    PickledStorage,
    PickledTensor,
    dimensions,
    view,
)
from checkpoint_doctor.loaders._storage.dtypes import numpy_type


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
        source = SpelledOut("", content)
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


def make_device(kind: Any = "", index: Any = None) -> Word:
    """Stand in for ``torch.device``."""
    return Word(f"{kind}:{index}" if index is not None else str(kind)[:40])


def unwrap(value: Any, *_: Any) -> Any:
    """Stand in for TorchScript's tags (``torch.jit._pickle.build_intlist`` …): the value itself."""
    return value


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
