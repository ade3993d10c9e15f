"""Stand-ins for PyTorch's functions that rebuild tensors, and for its constants, in a pickle.

Every signature is that of the function of the same name in ``torch/_utils.py``, ``torch/_tensor.py`` or
``torch/jit/_pickle.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._pickle.objects import Global, RebuiltBytes
from checkpoint_doctor.builtin.loaders._pickle.sharding import rebuild_shared
from checkpoint_doctor.builtin.loaders._pickle.tensors import (
    Memory,
    PickledStorage,
    PickledTensor,
    dimensions,
    view,
)
from checkpoint_doctor.builtin.loaders._storage.dtypes import numpy_type


class ElementType(Struct, frozen=True):
    """A ``torch.dtype``."""

    name: str


class StorageType(Struct, frozen=True):
    """A storage class. Pickles of PyTorch before 0.4 call it with a list of all its numbers."""

    dtype: str

    def __call__(self, numbers: Any = ()) -> PickledStorage:
        """Return a storage in memory that contains the numbers."""
        if not isinstance(numbers, list | tuple):
            raise TypeError("a storage without a list of numbers")
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("a storage of something other than numbers")
        content = np.asarray(numbers, numpy_type(self.dtype)).tobytes()
        source = RebuiltBytes("", content)
        return PickledStorage(Memory("", len(content), lambda: source), self.dtype, 0, len(content))


def storage_type(value: Any) -> StorageType:
    """Return the storage class that a pickle refers to.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, Global) and isinstance(value.known, StorageType):
        return value.known
    raise TypeError("a storage without a type")


class Constant(Struct, frozen=True):
    """A constant of which only the name matters: a layout, a quantization scheme, a memory format."""

    name: str


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_tensor``."""
    return view(storage, offset, shape, strides)


def rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False, hooks: Any = None, bits: Any = None
) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_tensor_v2``."""
    return _with_bits(view(storage, offset, shape, strides), bits)


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
    """Stand in for ``torch._utils._rebuild_tensor_v3``: an untyped storage and an element type."""
    return _with_bits(view(storage, offset, shape, strides, _name_of(dtype)), bits)


def rebuild_quantized(
    storage: Any, offset: Any, shape: Any, strides: Any, quantizer: Any, requires_grad: Any = False, hooks: Any = None
) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_qtensor``: the stored integers are the values."""
    return view(storage, offset, shape, strides)


def rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> PickledTensor:
    """Stand in for ``_rebuild_parameter``, ``_rebuild_parameter_with_state`` and the class itself."""
    if data is None:
        return PickledTensor()
    if not isinstance(data, PickledTensor):
        raise TypeError("a parameter without a tensor")
    return replace(data)


def rebuild_variable(data: Any = None, *_: Any) -> PickledTensor:
    """Stand in for ``torch.autograd.Variable`` and tensor classes, which old pickles call before setting the state."""
    return replace(data) if isinstance(data, PickledTensor) else PickledTensor()


def rebuild_sparse(layout: Any, data: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_sparse_tensor``."""
    parts = [part for part in data if isinstance(part, PickledTensor)]
    shape = next((dimensions(part) for part in data if isinstance(part, tuple)), ())
    dtype = parts[-1].dtype if parts else "float32"
    return PickledTensor(dtype=dtype, shape=shape, problem="it is a sparse tensor, which is not examined")


def rebuild_nested(buffer: Any, *_: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_nested_tensor``."""
    return PickledTensor(dtype=_dtype_of(buffer), problem="it is a nested tensor, which is not examined")


def rebuild_meta(dtype: Any, shape: Any, strides: Any, requires_grad: Any = False) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_meta_tensor_no_storage``."""
    return PickledTensor(
        dtype=_name_of(dtype), shape=dimensions(shape), problem="it was saved from the meta device, without values"
    )


def rebuild_wrapper(kind: Any, dtype: Any, shape: Any, *_: Any) -> PickledTensor:
    """Stand in for ``torch._utils._rebuild_wrapper_subclass``."""
    name = kind.qualified if isinstance(kind, Global) else "another class"
    return PickledTensor(
        dtype=_name_of(dtype),
        shape=dimensions(shape),
        problem=f"its values are inside an object of {name}, which is not examined",
    )


def rebuild_on_device(data: Any, dtype: Any, device: Any = None, requires_grad: Any = False) -> PickledTensor:
    """Stand in for the rebuilders of tensors of other devices (XLA …), stored as a NumPy array or a CPU tensor."""
    if not isinstance(data, PickledTensor):
        raise TypeError("not a tensor")
    wanted = _name_of(dtype)
    if wanted == data.dtype:
        return _as_tensor(data)
    return replace(_as_tensor(data), dtype=wanted, stored_dtype=data.dtype)


def rebuild_from_type(build: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """Stand in for ``torch._tensor._rebuild_from_type_v2``: a tensor of a subclass, or one with attributes."""
    if not isinstance(build, Global) or not isinstance(arguments, tuple):
        raise TypeError("no function to rebuild with")
    built = build.call(arguments)
    if isinstance(built, PickledTensor) and isinstance(kind, Global) and kind.known is not None:
        return rebuild_shared(kind.name, built, state)
    return built


def make_device(kind: Any = "", index: Any = None) -> Constant:
    """Stand in for ``torch.device``."""
    return Constant(f"{kind}:{index}" if index is not None else str(kind)[:40])


def unwrap(value: Any, *_: Any) -> Any:
    """Stand in for TorchScript's type tags (``torch.jit._pickle.build_intlist`` …): the value itself."""
    return value


def _name_of(dtype: Any) -> str:
    if not isinstance(dtype, ElementType):
        raise TypeError("not an element type")
    return dtype.name


def _dtype_of(tensor: Any) -> str:
    return tensor.dtype if isinstance(tensor, PickledTensor) else "float32"


def _as_tensor(data: PickledTensor) -> PickledTensor:
    return PickledTensor(data.storage, data.dtype, data.shape, data.strides, data.offset, problem=data.problem)


def _with_bits(tensor: PickledTensor, bits: Any) -> PickledTensor:
    """Set the conjugate and negative bits, which PyTorch applies when it reads a tensor's values."""
    if isinstance(bits, dict):
        tensor.is_conjugated = bits.get("conj") is True
        tensor.is_negated = bits.get("neg") is True
    return tensor
