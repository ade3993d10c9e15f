"""A checkpoint as a plan would leave it, so that what one repair brings to light is repaired along with it.

A NaN in an optimizer's moments, for example, hides that most units of its layer are dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.repair.changes import Change, Plan
from checkpoint_doctor.repair.entries import differs
from checkpoint_doctor.repair.planning import kept_by_optimizers, subject_of
from checkpoint_doctor.statistics.values import InMemory


def simulate(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """Return a checkpoint with the planned values, in memory; what does not change keeps the figures taken of it."""
    new = {name: each for each in plan.changes for name in (each.tensor.name, *each.tied)}

    def treat(tensor: Tensor) -> Tensor:
        return replace(tensor, values=InMemory(new[tensor.name].new)) if tensor.name in new else tensor

    return replace(
        checkpoint,
        tensors=tuple(map(treat, checkpoint.tensors)),
        optimizers=tuple(_imagine_optimizer(each, new) for each in checkpoint.optimizers),
    )


def _imagine_optimizer(optimizer: Optimizer, new: Mapping[str, Change]) -> Optimizer:
    def treat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: replace(tensor, values=InMemory(new[tensor.name].new)) if tensor.name in new else tensor
            for key, tensor in tensors.items()
        }

    def treat_moments(moments: Moments) -> Moments:
        is_new = any(tensor.name in new for tensor in moments.state.values())
        return replace(moments, state=treat(moments.state)) if is_new else moments

    def treat_group(group: ParameterGroup) -> ParameterGroup:
        settings = treat(group.settings)
        options = {key: setting.array.item() for key, setting in settings.items() if setting.name in new}
        return replace(group, settings=settings, options={**group.options, **options})

    return replace(
        optimizer,
        parameters=tuple(map(treat_moments, optimizer.parameters)),
        groups=tuple(map(treat_group, optimizer.groups)),
    )


def combine(checkpoint: Checkpoint, plan: Plan, further: Plan) -> Plan:
    """Return the plan that does to a checkpoint what ``plan`` does and then ``further``, made for what that leaves."""
    originals = {**kept_by_optimizers(checkpoint), **checkpoint.by_name}
    changes = {each.tensor.name: each for each in plan.changes}
    for each in further.changes:
        name = each.tensor.name
        changes[name] = _follow(originals[name], changes.get(name), each)
    cured = {(each.code, subject_of(each)) for each in further.cured}
    left = [each for each in plan.unfixed if (each.code, each.subject) not in cured]
    known = {(each.code, each.subject) for each in left} | {(each.code, subject_of(each)) for each in plan.cured}
    return Plan(
        tuple(changes.values()),
        (*left, *(each for each in further.unfixed if (each.code, each.subject) not in known)),
        tuple(dict.fromkeys(plan.upstream + further.upstream)),
        plan.cured + further.cured,
    )


def _follow(original: Tensor, first: Change | None, second: Change) -> Change:
    """Return the init_rule of a tensor that takes it from its original values to those of the second one."""
    init_rule = replace(second, tensor=original, changed=differs(original.array, second.new))
    if first is None:
        return init_rule
    return replace(
        init_rule,
        rules=tuple(dict.fromkeys(first.rules + second.rules)),
        init_rule="; ".join(dict.fromkeys((first.init_rule, second.init_rule))),
        illness="; ".join(filter(None, dict.fromkeys((first.illness, second.illness)))),
        of=first.of or second.of,
    )
