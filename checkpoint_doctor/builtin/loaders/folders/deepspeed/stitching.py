"""Puts the model and the optimizer of one model-parallel rank together from what its data-parallel ranks saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.flattened import cut, join
from checkpoint_doctor.builtin.loaders._pickle.modules import attributes_of
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor, dimensions
from checkpoint_doctor.builtin.loaders.folders.deepspeed.partitions import Parameter, Unfit, locate, read_shapes
from checkpoint_doctor.text import shown

_WEIGHTS = ("single_partition_of_fp32_groups", "fp32_flat_groups")
"""Keys of a rank's partitions of the weights in float32: those of ZeRO 1 and 2, and those of ZeRO 3."""
_STATE = ("base_optimizer_state", "optimizer_state_dict")
"""Keys of the state of the optimizer around which ZeRO is: those of ZeRO 1 and 2, and that of ZeRO 3."""


class Stitched(Struct, frozen=True):
    """What the ranks have together."""

    module: Mapping[str, Any]
    """Name to the whole tensor, in the order of the model."""
    optimizer: Mapping[str, Any] | None = None
    """Its state dict, with the names of its parameters."""
    problem: str = ""
    """Why it is not all put together; empty where it is."""


def read_stage(partition: Mapping[str, Any]) -> int:
    """Return the stage of ZeRO that a rank's optimizer records; 0 where it records none."""
    stage = partition.get("zero_stage")
    for given in (stage, attributes_of(stage).get("_value_"), *getattr(stage, "arguments", ())):
        if isinstance(given, int) and not isinstance(given, bool):
            return int(given)
    return 0


def count_partitions(partition: Mapping[str, Any]) -> int:
    """Return among how many ranks a rank's optimizer is divided; 0 where it does not tell."""
    count = partition.get("partition_count")
    counts = count if isinstance(count, list | tuple) else [count]
    return max((each for each in counts if isinstance(each, int) and 0 < each < 1 << 20), default=0)


def stitch(models: Sequence[Mapping[str, Any]], partitions: Sequence[Mapping[str, Any]]) -> Stitched:
    """Put the model and the optimizer together.

    Args:
        models: what the files of model states contain, of every data-parallel rank in ZeRO 3, of one otherwise.
        partitions: the ``optimizer_state_dict`` of every rank, in their order.
    """
    module = _module_of(models[0])
    stage = read_stage(partitions[0])
    try:
        if stage not in (1, 2, 3):
            raise Unfit("the stage of ZeRO is not recorded")
        flat = [_flat_tensors(each) for each in partitions]
        sizes = [[prod(tensor.shape) for tensor in rank] for rank in flat]
        mappings = [each.get("param_slice_mappings") for each in partitions]
        parameters = locate(read_shapes(models[0].get("param_shapes")), sizes, stage, mappings)
        frozen = dict(_join_frozen(models))
    except Unfit as error:
        return Stitched(module, problem=str(error))
    weights = {each.name: _gather(each, flat) for each in parameters}
    shared = models[0].get("shared_params")
    shared = shared if isinstance(shared, Mapping) else {}
    whole = {**frozen, **weights}
    whole |= {str(name): whole[source] for name, source in shared.items() if source in whole}
    ordered = {name: whole.get(name, tensor) for name, tensor in module.items()}
    return Stitched({**ordered, **whole}, _stitch_optimizer(parameters, partitions, flat))


def without_partitions(model: Mapping[str, Any], is_divided: bool, why: str) -> Stitched:
    """Return what one file of model states has of the model: no weights where they are divided, as in ZeRO 3."""
    module = _module_of(model)
    if not is_divided:
        return Stitched(module)
    placeholders = {
        name: PickledTensor(problem=why)
        for name, each in module.items()
        if isinstance(each, PickledTensor) and each.shape == (0,)
    }
    return Stitched({**module, **placeholders})


def _module_of(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model's state dict; empty in a pipeline, whose layers have files of their own."""
    module = model.get("module")
    return {str(name): each for name, each in module.items()} if isinstance(module, Mapping) else {}


def _flat_tensors(partition: Mapping[str, Any]) -> list[PickledTensor]:
    """Return a rank's weights in float32, group by group."""
    found = next((partition[key] for key in _WEIGHTS if key in partition), None)
    if not isinstance(found, list | tuple) or not all(isinstance(each, PickledTensor) for each in found):
        raise Unfit("a rank has no flat partition of the weights in float32")
    return list(found)


def _gather(parameter: Parameter, flat: Sequence[Sequence[PickledTensor]]) -> PickledTensor:
    return join(
        parameter.shape,
        [cut(flat[each.rank][each.group], each.start, each.length) for each in parameter.stretches],
    )


def _join_frozen(models: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, PickledTensor]]:
    """Yield the parameters that are not trained: each rank has a fragment of them in ZeRO 3, or else the whole."""
    shapes = models[0].get("frozen_param_shapes")
    for name, shape in shapes.items() if isinstance(shapes, Mapping) else ():
        fragments = [each.get("frozen_param_fragments") for each in models]
        parts = [each.get(name) if isinstance(each, Mapping) else None for each in fragments]
        try:
            whole = dimensions(shape)
        except (TypeError, ValueError):
            raise Unfit("the shapes of the frozen parameters are not recorded in a known form") from None
        if isinstance(parts[0], PickledTensor) and parts[0].shape == whole and len(parts) == 1:
            yield str(name), parts[0]
            continue
        stretches, left = [], prod(whole)
        for part in parts:
            if not isinstance(part, PickledTensor):
                raise Unfit(f"a rank lacks its fragment of the frozen parameter {shown(name)}")
            stretches.append(cut(part, 0, min(left, prod(part.shape))))
            left -= prod(stretches[-1].shape)
        yield str(name), join(whole, stretches)


def _stitch_optimizer(
    parameters: Sequence[Parameter], partitions: Sequence[Mapping[str, Any]], flat: Sequence[Sequence[PickledTensor]]
) -> dict[str, Any]:
    """Return the optimizer's state dict, with names in the place of positions."""
    given = next((partitions[0][key] for key in _STATE if key in partitions[0]), None)
    groups = given.get("param_groups") if isinstance(given, Mapping) else None
    groups = [group for group in groups if isinstance(group, Mapping)] if isinstance(groups, list | tuple) else []
    states = [_read_states(each) for each in partitions]
    members: dict[int, list[str]] = {number: [] for number in range(len(groups))}
    state: dict[str, Any] = {}
    for parameter in parameters:
        members.setdefault(parameter.group, []).append(parameter.name)
        first = next(((each, states[each.rank].get(each.group)) for each in parameter.stretches), None)
        if first is None or not first[1]:
            continue
        size = prod(flat[first[0].rank][first[0].group].shape)
        state[parameter.name] = {
            key: _gather_entry(key, parameter, states) if key != "step" and _is_partition(value, size) else value
            for key, value in first[1].items()
        }
    options = {number: groups[number] if number < len(groups) else {} for number in members}
    return {"state": state, "param_groups": [{**options[number], "params": names} for number, names in members.items()]}


def _is_partition(value: Any, size: int) -> bool:
    """Return whether an entry of the state has a number for each of the weights; padding may follow."""
    return isinstance(value, PickledTensor) and len(value.shape) == 1 and value.shape[0] >= size


def _read_states(partition: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Return the state of each of a rank's flat partitions; older versions have a list of them."""
    given = next((partition[key] for key in _STATE if key in partition), None)
    held = given.get("state") if isinstance(given, Mapping) else given
    items = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list) else ()
    return {key: each for key, each in items if isinstance(key, int) and isinstance(each, Mapping)}


def _gather_entry(key: str, parameter: Parameter, states: Sequence[Mapping[int, Mapping[str, Any]]]) -> PickledTensor:
    parts = []
    for each in parameter.stretches:
        held = states[each.rank].get(each.group, {}).get(key)
        lacking = PickledTensor(shape=(each.length,), problem=f"rank {each.rank} has no {key} of it")
        parts.append(cut(held, each.start, each.length) if isinstance(held, PickledTensor) else lacking)
    return join(parameter.shape, parts)
