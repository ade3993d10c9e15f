"""The two layouts of Keras's HDF5 files: variables by number (Keras 3), or by name (Keras 2, ``.h5`` of Keras 3)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from msgspec import Struct, field

from checkpoint_doctor.checkpoint import Skipped, Tensor
from checkpoint_doctor.loaders.keras.hdf5 import Contents, DataSet
from checkpoint_doctor.loaders.keras.variables import describe_role, name_variables

VARIABLES, OPTIMIZER, MODEL, OLD_OPTIMIZER = "vars", "optimizer", "model_weights", "optimizer_weights"
CONTAINER = "layers"
"""The group of the layers in a model of Keras; their keys below it are numbered classes, and not names."""


class Parameters(Struct):
    """What a file holds of a model."""

    tensors: list[Tensor] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    updates: int | None = None
    """The optimizer's count of updates."""
    learning_rate: float | None = None
    optimizer: str = ""
    """Keras's name of the optimizer."""


def has_root_of_keras(names: set[str]) -> bool:
    """Tell whether the attributes, groups and data sets at the root of an HDF5 file may be those of Keras."""
    return bool(names & {"keras_version", "layer_names", "layers", VARIABLES, MODEL, OPTIMIZER, OLD_OPTIMIZER})


def is_keras(contents: Contents) -> bool:
    """Tell whether an HDF5 file was written by Keras."""
    root = contents.attributes.get((), {})
    if root.keys() & {"keras_version", "layer_names"} or (MODEL,) in contents.attributes:
        return True
    return any(len(each.path) > 1 and each.path[-2] == VARIABLES for each in contents.datasets)


def read_parameters(contents: Contents) -> Parameters:
    """Return the tensors of a model, with the names that Keras gives them."""
    found = Parameters()
    numbered = [each for each in contents.datasets if len(each.path) > 1 and each.path[-2] == VARIABLES]
    if numbered:
        _read_numbered(numbered, contents, found)
    else:
        for each in contents.datasets:
            if each.path[0] == OLD_OPTIMIZER:
                _read_optimizer_variable(each, each.path[-1].removesuffix(":0"), found)
                found.optimizer = found.optimizer or (each.path[1] if len(each.path) > 2 else "")
            else:
                _add(found, each, *_name_by_path(each))
    if found.optimizer:
        found.skipped.append(
            Skipped(f"the state of the optimizer ({found.optimizer})", "moments in files of Keras are not read")
        )
    return found


def _read_numbered(datasets: list[DataSet], contents: Contents, found: Parameters) -> None:
    for path, group in groupby(datasets, key=lambda each: each.path[:-2]):
        variables = list(group)
        if path[:1] == (OPTIMIZER,):
            found.optimizer = contents.attributes.get((*path, VARIABLES), {}).get("name", OPTIMIZER)
            for each, name in zip(variables, ("iteration", "learning_rate"), strict=False):
                _read_optimizer_variable(each, name, found)
            continue
        key = path[-1] if path else ""
        names = name_variables(key, [each.shape for each in variables])
        module = ".".join(element for element in path if element != CONTAINER)
        shown = "/".join(_shown_path(path, contents))
        for each, name in zip(variables, names, strict=True):
            role = describe_role(module, name, "recurrent_kernel" in names)
            _add(found, each, f"{shown}/{name}" if shown else name, role)


def _shown_path(path: tuple[str, ...], contents: Contents) -> Iterator[str]:
    """Yield the names of the layers down to a group, as Keras shows them in the path of a variable."""
    for depth, element in enumerate(path, 1):
        if element != CONTAINER:
            yield contents.attributes.get((*path[:depth], VARIABLES), {}).get("name") or element


def _name_by_path(dataset: DataSet) -> tuple[str, str]:
    """Return the name and the role of a variable below ``model_weights/dense/sequential/dense/kernel:0``."""
    path = dataset.path[1:] if dataset.path[0] == MODEL else dataset.path
    # The first group is the layer, and its name comes again in that of the variable.
    inner = path[1:] if len(path) > 2 else path
    module, variable = ".".join(inner[:-1]), inner[-1].removesuffix(":0")
    is_recurrent = any(word in inner[-2] for word in ("lstm", "gru", "rnn", "cell")) if len(inner) > 1 else False
    return "/".join((*inner[:-1], variable)), describe_role(module, variable, is_recurrent)


def _read_optimizer_variable(dataset: DataSet, name: str, found: Parameters) -> None:
    if dataset.problem or dataset.shape != ():
        return
    if name in ("iteration", "iter"):
        found.updates = int(dataset.values.read())
    elif name == "learning_rate":
        found.learning_rate = float(dataset.values.read())


def _add(found: Parameters, dataset: DataSet, name: str, role: str) -> None:
    if dataset.problem:
        found.skipped.append(Skipped(f"tensor {name}", dataset.problem))
        return
    taken = {each.name for each in found.tensors[-2000:]}
    if name in taken:
        name = "/".join(dataset.path)
    found.tensors.append(Tensor(name, dataset.shape, dataset.dtype, dataset.values, known_as=role))
