"""The two layouts of Keras's HDF5 files: variables by number (Keras 3), or by name (Keras 2, ``.h5`` of Keras 3)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import isfinite

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders.keras.hdf5 import Contents, DataSet
from checkpoint_doctor.builtin.loaders.keras.model_config import ModelConfig, read_config
from checkpoint_doctor.builtin.loaders.keras.optimizer import (
    KerasOptimizer,
    Slots,
    build_optimizer,
    is_known,
    name_slots,
    split_slots,
)
from checkpoint_doctor.builtin.loaders.keras.variable_order import LayerVariables, find_order
from checkpoint_doctor.builtin.loaders.keras.variables import NOT_TRAINED, describe_role, find_cell, name_variables
from checkpoint_doctor.checkpoint import Optimizer, Skipped, Tensor
from checkpoint_doctor.layers import KERAS_GATES

VARIABLES, OPTIMIZER, MODEL, OLD_OPTIMIZER = "vars", "optimizer", "model_weights", "optimizer_weights"
LOSS_SCALE = "loss_scale_optimizer"
"""The group of the optimizer that wraps another one for float16; what it has itself is no state of a variable."""
CONTAINER = "layers"
"""The group of the layers in a model of Keras; their keys below it are numbered classes, and not names."""


class Parameters(Struct):
    """What a file holds of a model."""

    tensors: list[Tensor] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    state: KerasOptimizer | None = None
    """What is known of the optimizer besides its moments."""
    optimizers: tuple[Optimizer, ...] = ()


def has_root_of_keras(names: set[str]) -> bool:
    """Tell whether the attributes, groups and data sets at the root of an HDF5 file may be those of Keras."""
    return bool(names & {"keras_version", "layer_names", "layers", VARIABLES, MODEL, OPTIMIZER, OLD_OPTIMIZER})


def is_keras(contents: Contents) -> bool:
    """Tell whether an HDF5 file was written by Keras."""
    root = contents.attributes.get((), {})
    if root.keys() & {"keras_version", "layer_names"} or (MODEL,) in contents.attributes:
        return True
    return any(len(each.path) > 1 and each.path[-2] == VARIABLES for each in contents.datasets)


def read_parameters(contents: Contents, config: str = "") -> Parameters:
    """Return the tensors of a model with the names that Keras gives them, and its optimizer.

    Args:
        contents: what the HDF5 file holds.
        config: the text of the model's configuration, where it is stored beside the file; a whole model in HDF5 holds
            its own.
    """
    found, root = Parameters(), contents.attributes.get((), {})
    if any(len(each.path) > 1 and each.path[-2] == VARIABLES for each in contents.datasets):
        described = read_config(config)
        layers, variables = _read_numbered(contents, described, found)
        if found.state is not None:
            _join_by_order(layers, variables, contents, described, found)
    else:
        names = _read_named(contents, found)
        if found.state is not None:
            _join_by_name(names, read_config(root.get("model_config", ""), root.get("training_config", "")), found)
    return found


def _read_numbered(
    contents: Contents, config: ModelConfig, found: Parameters
) -> tuple[list[LayerVariables], list[DataSet]]:
    """Add the model's variables, and return its layers with those that are trained, and the optimizer's variables.

    The variables come in the order of the layers in the configuration, where it is known.
    """
    layers, own = [], {}
    places: dict[str, tuple[int, ...]] = {}
    numbered = (each for each in contents.datasets if len(each.path) > 1 and each.path[-2] == VARIABLES)
    for path, group in groupby(numbered, key=lambda each: each.path[:-2]):
        variables = list(group)
        if path[:1] == (OPTIMIZER,):
            own[path] = variables
            continue
        key = path[-1] if path else ""
        if name := contents.attributes.get((*path, VARIABLES), {}).get("name"):
            key = f"{key}/{name}"
        names = name_variables(key, [each.shape for each in variables])
        module = ".".join(element for element in path if element != CONTAINER)
        shown = "/".join(_shown_path(path, contents))
        shapes = {name: each.shape for name, each in zip(names, variables, strict=True)}
        trained = []
        for each, name in zip(variables, names, strict=True):
            tensor = _add(found, each, f"{shown}/{name}" if shown else name, module, name, shapes)
            if tensor is not None:
                places[tensor.name] = config.place_of(path)
            if tensor is not None and tensor.is_floating and name not in NOT_TRAINED:
                trained.append(tensor)
        if trained:
            layers.append(
                LayerVariables(path, tuple(each.name for each in trained), tuple(each.shape for each in trained))
            )
    found.tensors.sort(key=lambda each: places[each.name])
    # A LossScaleOptimizer stores the optimizer inside of it a second time, in a group of its own.
    innermost = max(own, key=len, default=())
    variables = own.get(innermost, [])
    if variables:
        name = contents.attributes.get((*innermost, VARIABLES), {}).get("name", OPTIMIZER)
        found.state = KerasOptimizer(name, _count(variables[0]))
    return layers, variables


def _join_by_order(
    layers: list[LayerVariables], variables: list[DataSet], contents: Contents, config: ModelConfig, found: Parameters
) -> None:
    """Join the optimizer's numbered variables to those of the model."""
    assert found.state is not None
    rest = variables[1:]
    has_schedule = isinstance(config.options.get("learning_rate"), dict)
    if rest and not rest[0].shape and not has_schedule:
        found.state.learning_rate = _number(rest.pop(0))
    if not rest:
        return
    path = "/".join(rest[0].path[:-1])
    tensors = [Tensor(f"{path}/{each.path[-1]}", each.shape, each.dtype, each.values) for each in rest]
    groups = {path[:-1] for path in contents.attributes if path[-1:] == (VARIABLES,)}
    trained = [
        each for each in layers if not any(each.path[:depth] in config.frozen for depth in range(len(each.path) + 1))
    ]
    count = sum(len(each.names) for each in trained)
    why = f"its {len(rest):,} variables do not fit the {count:,} of the model that are trained"
    if not is_known(found.state, config):
        why = "it is not known which variables an optimizer of this name makes"
    elif any(each.problem for each in rest):
        why = "some of its variables cannot be read"
    else:
        for shapes, states in split_slots(found.state, config, tensors):
            names = find_order(trained, groups, config.ranks, shapes) if len(shapes) == count else None
            if names is not None:
                slots = [Slots(name, state) for name, state in zip(names, states, strict=True)]
                _add_optimizer(slots, config, found)
                return
    found.skipped.append(Skipped(f"the state of the optimizer ({found.state.name})", why))


def _read_named(contents: Contents, found: Parameters) -> dict[tuple[str, ...], Tensor]:
    """Add the model's variables, and return those of the optimizer by the names in their paths."""
    names: dict[tuple[str, ...], Tensor] = {}
    states: dict[str, KerasOptimizer] = {}
    places = _find_places(contents)
    shapes: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    for each in contents.datasets:
        module, variable = _name_by_path(each)
        shapes.setdefault(module, {})[variable] = each.shape
    for each in sorted(contents.datasets, key=lambda each: places.get(each.path, (0, 0))):
        if each.path[0] != OLD_OPTIMIZER:
            module, variable = _name_by_path(each)
            _add(found, each, "/".join((*module, variable)), ".".join(module), variable, shapes[module])
            continue
        state = states.setdefault(each.path[1], KerasOptimizer(each.path[1] if len(each.path) > 2 else OPTIMIZER))
        name = each.path[-1].removesuffix(":0")
        if name in ("iteration", "iter"):
            state.iteration = _count(each)
        elif name == "learning_rate":
            state.learning_rate = _number(each)
        elif not each.problem and each.path[1] != LOSS_SCALE:
            path = "/".join((*each.path[:-1], name))
            names[*each.path[1:-1], name] = Tensor(path, each.shape, each.dtype, each.values)
    if len(states) > 1:
        states.pop(LOSS_SCALE, None)
    found.state = next(iter(states.values()), None)
    return names


def _find_places(contents: Contents) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the data sets of variables to the places of their layers and of themselves in the lists of names."""
    places: dict[tuple[str, ...], tuple[int, int]] = {}
    for root in ((), (MODEL,)):
        layers = contents.attributes.get(root, {}).get("layer_names", "").split("\n")
        for layer_place, layer in enumerate(layers):
            variables = contents.attributes.get((*root, layer), {}).get("weight_names", "").split("\n")
            for place, variable in enumerate(variables):
                places[*root, layer, *variable.split("/")] = layer_place, place
    return places


def _join_by_name(names: dict[tuple[str, ...], Tensor], config: ModelConfig, found: Parameters) -> None:
    slots = name_slots(names, [each.name for each in found.tensors])
    if slots:
        _add_optimizer(slots, config, found)


def _add_optimizer(slots: list[Slots], config: ModelConfig, found: Parameters) -> None:
    assert found.state is not None
    shapes = {each.name: each.shape for each in found.tensors}
    found.optimizers = (build_optimizer(found.state, config, slots, shapes.get),)


def _shown_path(path: tuple[str, ...], contents: Contents) -> Iterator[str]:
    """Yield the names of the layers down to a group, as Keras shows them in the path of a variable."""
    for depth, element in enumerate(path, 1):
        if element != CONTAINER:
            yield contents.attributes.get((*path[:depth], VARIABLES), {}).get("name") or element


def _name_by_path(dataset: DataSet) -> tuple[tuple[str, ...], str]:
    """Return the layer and the name of a variable below ``model_weights/dense/sequential/dense/kernel:0``."""
    path = dataset.path[1:] if dataset.path[0] == MODEL else dataset.path
    # The first group is the layer, and its name comes again in that of the variable.
    inner = path[1:] if len(path) > 2 else path
    return inner[:-1], inner[-1].removesuffix(":0")


def _number(dataset: DataSet) -> float | None:
    """Return the value of a single number."""
    return None if dataset.problem or dataset.shape else float(dataset.values.read())


def _count(dataset: DataSet) -> int | None:
    number = _number(dataset)
    return None if number is None or not isfinite(number) else int(number)


def _add(
    found: Parameters,
    dataset: DataSet,
    name: str,
    module: str,
    variable: str,
    shapes: dict[str, tuple[int, ...]],
) -> Tensor | None:
    if dataset.problem:
        found.skipped.append(Skipped(f"tensor {name}", dataset.problem))
        return None
    taken = {each.name for each in found.tensors[-2000:]}
    if name in taken:
        name = "/".join(dataset.path)
    kind = find_cell(shapes)
    role = describe_role(module, variable, shapes)
    gates = KERAS_GATES.get(kind, ()) if kind is not None else ()
    found.tensors.append(Tensor(name, dataset.shape, dataset.dtype, dataset.values, known_as=role, gates=gates))
    return found.tensors[-1]
