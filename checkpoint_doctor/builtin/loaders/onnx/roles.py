"""What the tensors of a graph are: the weight, bias or statistics of a layer, as the nodes that read them show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from checkpoint_doctor.builtin.loaders.onnx import cells
from checkpoint_doctor.builtin.loaders.onnx.cells import Piece
from checkpoint_doctor.builtin.loaders.onnx.model import Node

_INPUTS = {
    "Conv": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "LayerNormalization": ("weight", "bias"),
    "InstanceNormalization": ("weight", "bias"),
    "GroupNormalization": ("weight", "bias"),
    "SimplifiedLayerNormalization": ("weight",),
    "RMSNormalization": ("weight",),
    "PRelu": ("weight",),
}
"""Operators to the roles of their inputs after the first."""
_PRODUCTS = ("Gemm", "MatMul", "ConvTranspose")
"""Operators whose second input is a weight, stored inputs first unless ``Gemm`` says otherwise."""
_NAMES = {
    "BatchNormalization": "batch_norm",
    "LayerNormalization": "layer_norm",
    "InstanceNormalization": "instance_norm",
    "GroupNormalization": "group_norm",
    "SimplifiedLayerNormalization": "rms_norm",
    "RMSNormalization": "rms_norm",
    "ConvTranspose": "conv_transpose",
    "Gather": "embedding",
}
"""Operators to a name by which layer inference knows their kind."""
_OWN = ("weight", "kernel", "bias", "gamma", "beta", "embeddings", "running_mean", "running_var")


class Roles(Struct, frozen=True):
    """What the nodes of a graph show of its tensors. Tensors that no node reads as a parameter are left out."""

    names: dict[str, str]
    """Tensors to the names that their layers are inferred from: ``/fc1/Gemm``'s weight is ``fc1.weight``."""
    pieces: dict[str, list[Piece]]
    """The tensors of recurrent layers to their parts, which have names like those."""


def find_roles(nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]) -> Roles:
    """Return what each tensor is to the first node that reads it.

    Args:
        nodes: the nodes in the order of the graph, in which each comes after what it reads.
        shapes: the names and shapes of the tensors in the file.
    """
    roles = Roles({}, {})
    modules: dict[str, str] = {}
    """Outputs of matrix products to the names of their layers."""
    taken: set[str] = set()
    depths: dict[str, int] = {}
    """Modules to the number of their recurrent layers."""
    for node in nodes:
        found = dict(_read_roles(node, shapes, modules))
        # Exporters store equal tensors once, so that a layer may share its bias with one before it.
        if not found or next(iter(found)) in roles.names:
            continue
        found = {name: role for name, role in found.items() if name not in roles.names}
        module = _name_module(node, found, modules)
        if node.operator not in cells.OPERATORS and taken.intersection(f"{module}.{role}" for role in found.values()):
            module = f"{module}.{next(iter(found)).replace('::', '_').replace('/', '_').replace('.', '_')}"
        roles.names.update({name: f"{module}.{role}" for name, role in found.items()})
        taken.update(roles.names[name] for name in found)
        if node.operator == "MatMul" and node.outputs:
            modules[node.outputs[0]] = module
        elif node.operator in cells.OPERATORS:
            depth = depths.setdefault(module, 0)
            depths[module] += 1
            pieces = cells.take_apart(node, shapes, module, depth)
            roles.pieces.update({name: pieces[name] for name in pieces.keys() & found.keys()})
    return roles


def _read_roles(
    node: Node, shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, str]
) -> Iterable[tuple[str, str]]:
    inputs = node.inputs
    if node.operator in _INPUTS:
        for name, role in zip(inputs[1:], _INPUTS[node.operator], strict=False):
            if name in shapes:
                yield name, role
    elif node.operator in cells.OPERATORS:
        for name, role in zip(inputs[1:4], ("input_weights", "recurrent_weights", "biases"), strict=False):
            if name in shapes:
                yield name, role
    elif node.operator in _PRODUCTS and len(inputs) > 1 and len(shapes.get(inputs[1], ())) > 1:
        yield inputs[1], "weight" if node.is_second_transposed or node.operator == "ConvTranspose" else "kernel"
        if len(inputs) > 2 and inputs[2] in shapes:
            yield inputs[2], "bias"
    elif node.operator == "Gather" and inputs and len(shapes.get(inputs[0], ())) == 2:
        yield inputs[0], "weight"
    elif node.operator == "Add" and any(name in modules for name in inputs):
        for name in inputs:
            if len(shapes.get(name, ())) == 1:
                yield name, "bias"


def _name_module(node: Node, found: Mapping[str, str], modules: Mapping[str, str]) -> str:
    """Return the name of a layer: its tensors' own module, that of the product before it, or that of the node."""
    if node.operator == "Add":
        return next(modules[name] for name in node.inputs if name in modules)
    for name in found:
        module, dot, leaf = name.removesuffix(":0").replace("/", ".").rpartition(".")
        if dot and leaf in _OWN:
            return module
    module = node.name.strip("/").rpartition("/")[0].replace("/", ".") or next(iter(found)).replace("::", "_")
    kind = _NAMES.get(node.operator)
    return f"{module}.{kind}" if kind else module
