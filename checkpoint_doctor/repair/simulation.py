"""A checkpoint as it will be after a plan, in memory, so that the plan can be checked before anything is written.

One repair can reveal that another is needed: NaN in an optimizer's moments hides that units are dormant.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.repair.changes import Change, Plan
from checkpoint_doctor.repair.entries import differs
from checkpoint_doctor.repair.planning import name_subject, tensors_of_optimizers
from checkpoint_doctor.results.identity import identify
from checkpoint_doctor.statistics.values import InMemory


def simulate(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """Return a checkpoint with the planned values, in memory. Unchanged tensors keep the statistics they have."""
    new = {name: each for each in plan.changes for name in (each.tensor.name, *each.tied)}
    return replace(
        checkpoint,
        tensors=tuple(_with_new_values(tensor, new) for tensor in checkpoint.tensors),
        optimizers=tuple(_simulate_optimizer(each, new) for each in checkpoint.optimizers),
    )


def _with_new_values(tensor: Tensor, new: Mapping[str, Change]) -> Tensor:
    change = new.get(tensor.name)
    return tensor if change is None else replace(tensor, values=InMemory(change.new), same_as=None)


def _simulate_optimizer(optimizer: Optimizer, new: Mapping[str, Change]) -> Optimizer:
    def change_moments(moments: Moments) -> Moments:
        if not any(tensor.name in new for tensor in moments.state.values()):
            return moments
        state = {key: _with_new_values(tensor, new) for key, tensor in moments.state.items()}
        return replace(moments, state=state, same_as=None)

    def change_group(group: ParameterGroup) -> ParameterGroup:
        settings = {key: _with_new_values(setting, new) for key, setting in group.settings.items()}
        options = {key: setting.array.item() for key, setting in settings.items() if setting.name in new}
        return replace(group, settings=settings, options={**group.options, **options})

    return replace(
        optimizer,
        parameters=tuple(map(change_moments, optimizer.parameters)),
        groups=tuple(map(change_group, optimizer.groups)),
    )


def combine(checkpoint: Checkpoint, plan: Plan, further: Plan) -> Plan:
    """Return the plan that does what ``plan`` does and then ``further``, which was made for the simulated result."""
    originals = {**tensors_of_optimizers(checkpoint), **checkpoint.by_name}
    changes = {each.tensor.name: each for each in plan.changes}
    for each in further.changes:
        name = each.tensor.name
        changes[name] = _follow(originals[name], changes.get(name), each)
    fixed = {(each.code, name_subject(each)) for each in further.fixed}
    left = [each for each in plan.unfixed if (each.code, each.subject) not in fixed]
    known = {(each.code, each.subject) for each in left} | {(each.code, name_subject(each)) for each in plan.fixed}
    keys = {identify(each) for each in plan.fixed}
    return Plan(
        tuple(changes.values()),
        (*left, *(each for each in further.unfixed if (each.code, each.subject) not in known)),
        tuple(dict.fromkeys(plan.upstream + further.upstream)),
        (*plan.fixed, *(each for each in further.fixed if identify(each) not in keys)),
    )


def _follow(original: Tensor, first: Change | None, second: Change) -> Change:
    """Return the change of a tensor from its original values to those of the second change."""
    change = replace(second, tensor=original, changed=differs(original.array, second.new))
    if first is None:
        return change
    return replace(
        change,
        rules=tuple(dict.fromkeys(first.rules + second.rules)),
        init_rule="; ".join(dict.fromkeys((first.init_rule, second.init_rule))),
        illness="; ".join(filter(None, dict.fromkeys((first.illness, second.illness)))),
        of=first.of or second.of,
    )
