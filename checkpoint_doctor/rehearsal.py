"""A checkpoint as a plan would leave it, so that what one repair brings to light is repaired along with it.

A NaN in an optimizer's moments, for example, hides that most units of its layer are dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from checkpoint_doctor.model import Checkpoint, Moments, Optimizer, ParameterGroup, Tensor
from checkpoint_doctor.renewal import differs
from checkpoint_doctor.repair_plan import kept_by_optimizers, subject_of
from checkpoint_doctor.treatments import Plan, Treatment
from checkpoint_doctor.values import InMemory


def imagine(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """Return a checkpoint with the planned values, in memory; what does not change keeps the figures taken of it."""
    new = {name: each for each in plan.treatments for name in (each.tensor.name, *each.tied)}

    def treat(tensor: Tensor) -> Tensor:
        return replace(tensor, values=InMemory(new[tensor.name].new)) if tensor.name in new else tensor

    return replace(
        checkpoint,
        tensors=tuple(map(treat, checkpoint.tensors)),
        optimizers=tuple(_imagine_optimizer(each, new) for each in checkpoint.optimizers),
    )


def _imagine_optimizer(optimizer: Optimizer, new: Mapping[str, Treatment]) -> Optimizer:
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
    treatments = {each.tensor.name: each for each in plan.treatments}
    for each in further.treatments:
        name = each.tensor.name
        treatments[name] = _follow(originals[name], treatments.get(name), each)
    cured = {(each.code, subject_of(each)) for each in further.cured}
    left = [each for each in plan.untreated if (each.code, each.subject) not in cured]
    known = {(each.code, each.subject) for each in left} | {(each.code, subject_of(each)) for each in plan.cured}
    return Plan(
        tuple(treatments.values()),
        (*left, *(each for each in further.untreated if (each.code, each.subject) not in known)),
        tuple(dict.fromkeys(plan.upstream + further.upstream)),
        plan.cured + further.cured,
    )


def _follow(original: Tensor, first: Treatment | None, second: Treatment) -> Treatment:
    """Return the treatment of a tensor that takes it from its original values to those of the second one."""
    treatment = replace(second, tensor=original, changed=differs(original.array, second.new))
    if first is None:
        return treatment
    return replace(
        treatment,
        rules=tuple(dict.fromkeys(first.rules + second.rules)),
        treatment="; ".join(dict.fromkeys((first.treatment, second.treatment))),
        illness="; ".join(filter(None, dict.fromkeys((first.illness, second.illness)))),
        of=first.of or second.of,
    )
