"""The closed table: which names in a pickle describe data, and what stands in for each.

Entries are either functions of ours, called where the pickle calls the name, or constants. A ``TypeError`` or
``ValueError`` from a stand-in tells the pickle machine that the arguments do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoint_doctor.loaders._pickle import collections as plain
from checkpoint_doctor.loaders._pickle import torch_rebuilders as rebuilders
from checkpoint_doctor.loaders._pickle.arrays import PickledArray, array_type, from_buffer, reconstruct, scalar
from checkpoint_doctor.loaders._storage.dtypes import ALIASES, NAMES, STORAGES


def _table() -> dict[tuple[str, str], Any]:
    tensors = {
        "_rebuild_tensor": rebuilders.rebuild_tensor,
        "_rebuild_tensor_v2": rebuilders.rebuild_tensor_v2,
        "_rebuild_tensor_v3": rebuilders.rebuild_tensor_v3,
        "_rebuild_qtensor": rebuilders.rebuild_quantized,
        "_rebuild_parameter": rebuilders.rebuild_parameter,
        "_rebuild_parameter_with_state": rebuilders.rebuild_parameter,
        "_rebuild_sparse_tensor": rebuilders.rebuild_sparse,
        "_rebuild_sparse_csr_tensor": rebuilders.rebuild_sparse,
        "_rebuild_nested_tensor": rebuilders.rebuild_nested,
        "_rebuild_meta_tensor_no_storage": rebuilders.rebuild_meta,
        "_rebuild_wrapper_subclass": rebuilders.rebuild_wrapper,
        "_rebuild_device_tensor_from_numpy": rebuilders.rebuild_on_device,
        "_rebuild_device_tensor_from_cpu_tensor": rebuilders.rebuild_on_device,
        "_rebuild_xla_tensor": rebuilders.rebuild_on_device,
        "_rebuild_mlc_tensor": rebuilders.rebuild_on_device,
    }
    table: dict[tuple[str, str], Any] = {("torch._utils", name): build for name, build in tensors.items()}
    for module in ("torch._tensor", "torch.tensor"):
        table[module, "_rebuild_from_type_v2"] = rebuilders.rebuild_from_type
        table[module, "_rebuild_from_type"] = rebuilders.rebuild_from_type
    for module in ("torch.nn.parameter", "torch.nn"):
        table[module, "Parameter"] = rebuilders.rebuild_parameter
        table[module, "Buffer"] = rebuilders.rebuild_variable
    table["torch.autograd.variable", "Variable"] = rebuilders.rebuild_variable
    table["torch.autograd", "Variable"] = rebuilders.rebuild_variable
    for name in (*NAMES, *ALIASES):
        table["torch", name] = rebuilders.ElementType(ALIASES.get(name, name))
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            table[module, name] = rebuilders.StorageType(dtype)
            table[module, name.replace("Storage", "Tensor")] = rebuilders.rebuild_variable
    table["torch", "Tensor"] = rebuilders.rebuild_variable
    table["torch._tensor", "Tensor"] = rebuilders.rebuild_variable
    for name in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn", "jagged"):
        table["torch", name] = rebuilders.Word(name)
    for name in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"):
        table["torch", name] = rebuilders.Word(name)
    for name in ("per_channel_affine_float_qparams", "contiguous_format", "channels_last", "preserve_format"):
        table["torch", name] = rebuilders.Word(name)
    table["torch", "Size"] = plain.make_tuple
    table["torch", "device"] = rebuilders.make_device
    table["torch.serialization", "_get_layout"] = rebuilders.make_device
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"):
        table["torch.jit._pickle", name] = rebuilders.unwrap
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = reconstruct
        table[module, "scalar"] = scalar
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        table[module, "_frombuffer"] = from_buffer
    table["numpy", "ndarray"] = lambda *_: PickledArray()
    table["numpy", "dtype"] = array_type
    table["collections", "OrderedDict"] = plain.make_dictionary
    table["collections", "Counter"] = plain.make_dictionary
    table["collections", "defaultdict"] = plain.make_default_dictionary
    table["collections", "deque"] = lambda items=(), *_: plain.make_list(items)
    table["_codecs", "encode"] = plain.make_bytes
    builtin = {
        "dict": plain.make_dictionary,
        "list": plain.make_list,
        "tuple": plain.make_tuple,
        "set": plain.make_set,
        "frozenset": plain.make_set,
        "bytes": plain.make_bytes,
        "bytearray": plain.make_bytes,
        "int": plain.make_number,
        "long": plain.make_number,
        "float": plain.make_number,
        "bool": plain.make_number,
        "complex": plain.make_complex,
        "slice": plain.make_slice,
        "range": plain.make_slice,
        "xrange": plain.make_slice,
    }
    table.update({("builtins", name): build for name, build in builtin.items()})
    table["builtins", "object"] = rebuilders.Word("object")
    table["copyreg", "__newobj__"] = plain.make_object
    table["copyreg", "_reconstructor"] = plain.reconstruct_object
    return table


TABLE: Mapping[tuple[str, str], Any] = _table()
"""``(module, name)`` to a function of ours or a constant. Python 2's module names are translated before."""
