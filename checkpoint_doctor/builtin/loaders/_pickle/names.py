"""The closed table of globals that describe data, and the stand-in for each.

A stand-in is either a function, called where the pickle calls the global, or a constant. It raises ``TypeError`` or
``ValueError`` where the arguments do not fit, and the pickle machine reports the pickle as damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle import collections as plain
from checkpoint_doctor.builtin.loaders._pickle import sharding
from checkpoint_doctor.builtin.loaders._pickle import torch_rebuilders as rebuilders
from checkpoint_doctor.builtin.loaders._pickle.arrays import PickledArray, array_type, from_buffer, reconstruct, scalar
from checkpoint_doctor.builtin.loaders._storage.dtypes import ALIASES, NAMES, STORAGES

Table = dict[tuple[str, str], Any]
"""``(module, name)`` of a global to its stand-in."""

TORCH_UTILS = {
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
"""Functions of ``torch._utils``."""

TORCH_CONSTANTS = (
    "strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn", "jagged",
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams", "contiguous_format", "channels_last", "preserve_format",
)  # fmt: skip
"""Layouts, quantization schemes and memory formats of ``torch``."""

TORCHSCRIPT_TAGS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
"""Functions of ``torch.jit._pickle``."""

BUILTINS = {
    "dict": plain.Spending(plain.make_dictionary),
    "list": plain.make_list,
    "tuple": plain.make_tuple,
    "set": plain.Spending(plain.make_set),
    "frozenset": plain.Spending(plain.make_set),
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
    "object": rebuilders.Constant("object"),
}


def _list_torch_functions() -> Table:
    table: Table = {("torch._utils", name): rebuild for name, rebuild in TORCH_UTILS.items()}
    for module in ("torch._tensor", "torch.tensor"):
        table[module, "_rebuild_from_type_v2"] = rebuilders.rebuild_from_type
        table[module, "_rebuild_from_type"] = rebuilders.rebuild_from_type
    for name in TORCHSCRIPT_TAGS:
        table["torch.jit._pickle", name] = rebuilders.unwrap
    table["torch", "Size"] = plain.make_tuple
    table["torch", "device"] = rebuilders.make_device
    table["torch.serialization", "_get_layout"] = rebuilders.make_device
    return table


def _list_torch_types() -> Table:
    table: Table = {("torch", name): rebuilders.Constant(name) for name in TORCH_CONSTANTS}
    for name in (*NAMES, *ALIASES):
        table["torch", name] = rebuilders.ElementType(ALIASES.get(name, name))
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            table[module, name] = rebuilders.StorageType(dtype)
            table[module, name.replace("Storage", "Tensor")] = rebuilders.rebuild_variable
    for module in ("torch.nn.parameter", "torch.nn"):
        table[module, "Parameter"] = rebuilders.rebuild_parameter
        table[module, "Buffer"] = rebuilders.rebuild_variable
    table["torch.autograd.variable", "Variable"] = rebuilders.rebuild_variable
    table["torch.autograd", "Variable"] = rebuilders.rebuild_variable
    table["torch", "Tensor"] = rebuilders.rebuild_variable
    table["torch._tensor", "Tensor"] = rebuilders.rebuild_variable
    return table


def _list_numpy() -> Table:
    table: Table = {("numpy", "ndarray"): lambda *_: PickledArray(), ("numpy", "dtype"): array_type}
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = reconstruct
        table[f"{core}.multiarray", "scalar"] = scalar
        table[f"{core}.numeric", "_frombuffer"] = from_buffer
    return table


def _list_python() -> Table:
    return {
        ("collections", "OrderedDict"): plain.Spending(plain.make_dictionary),
        ("collections", "Counter"): plain.Spending(plain.make_dictionary),
        ("collections", "defaultdict"): plain.Spending(plain.make_default_dictionary),
        ("collections", "deque"): lambda items=(), *_: plain.make_list(items),
        ("_codecs", "encode"): plain.make_bytes,
        ("copyreg", "__newobj__"): plain.make_object,
        ("copyreg", "_reconstructor"): plain.reconstruct_object,
        **{("builtins", name): make for name, make in BUILTINS.items()},
    }


TABLE: Mapping[tuple[str, str], Any] = {
    **_list_torch_functions(),
    **_list_torch_types(),
    **_list_numpy(),
    **_list_python(),
    **sharding.STAND_INS,
}
"""``(module, name)`` to a stand-in. Python 2's module names are translated before a global is looked up."""
