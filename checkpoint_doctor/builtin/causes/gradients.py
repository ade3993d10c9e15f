"""Causes in the path of the gradient: none came, none was applied, or a part was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    NEVER_TRAINED,
    Named,
    about,
    has_gradient,
    has_left_initial_interval,
    has_trained_twin,
    is_reinforcement_learning,
    layers_of,
    names_of,
    never_trained,
    reads_zeros,
    received_zero_gradients,
)
from checkpoint_doctor.builtin.causes._remedies import HOLD_ALL, STEP_WITH_GRADIENT, UNFREEZE
from checkpoint_doctor.checkpoint import Checkpoint, Layer, found_once
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding


@cause("no-gradient", Prognosis.POINTLESS)
def no_gradient(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """An optimizer made steps, and nothing that it holds ever received a gradient.

    How we know:
        The optimizer counts its steps, and all its moments are exactly zero, or hold weight decay alone. A second
        moment decays by a factor and does not reach zero again, so that every gradient was exactly zero. An adapter
        whose second factors all stayed zero is a case of it.

    What else it could be:
        A saturated output in front of the loss, or units that are all dead, also pass gradients of exactly zero.

    What to do:
        Look for ``zero_grad`` between ``backward`` and ``step``, a loss that is detached, constant or multiplied by
        zero, and a loss scaler that skips every step. Check that the optimizer was built over the network that the
        loss depends on.

    References:
        Rule OPT006, NET008 for adapters, and GRD002 in a running training loop. PyTorch's ``Optimizer.zero_grad`` and
        ``GradScaler``.
    """
    for finding in symptoms.of("OPT006") if symptoms.of("RES005") else ():
        yield no_gradient.claim(
            [*symptoms.of("RES005"), finding],
            "the loss scaler skipped every step, because gradients overflowed at every scale",
            consequences=[*never_trained(symptoms), *symptoms.of("RES002")],
        )
    for finding in symptoms.of("OPT006", cause="no gradient"):
        held = [checkpoint.by_name[name] for name in names_of(finding) & checkpoint.by_name.keys()]
        is_half = bool(held) and all(tensor.dtype == "float16" for tensor in held)
        yield no_gradient.claim(
            [finding],
            certainty=Certainty.POSSIBLE if is_half else Certainty.PROVEN,
            consequences=[
                *about(never_trained(symptoms), names_of(finding)),
                *symptoms.of("NET001", "NET008", "RES002", "RES005"),
            ],
            remedy=STEP_WITH_GRADIENT.line(checkpoint),
        )
    for finding in symptoms.of("GRD002"):
        yield no_gradient.claim(
            [finding],
            consequences=[
                *symptoms.of("OPT006", optimizer=finding.evidence["optimizer"]),
                *symptoms.of("NET001", "OPT008", "NET008"),
            ],
            subject=str(finding.evidence["optimizer"]),
            remedy=STEP_WITH_GRADIENT.line(checkpoint),
        )
    for finding in symptoms.of("OPT006", cause="stopped"):
        yield no_gradient.claim(
            [finding],
            "gradients came and stopped in all parameters at once: the output is dead or saturated, or the loss is 0",
            certainty=Certainty.POSSIBLE,
            consequences=symptoms.of("NET001", "OPT008"),
        )
    adapters = symptoms.of("NET008")
    untouched = [name for each in symptoms.of("OPT001") for name in each.evidence.get("without_state", ())]
    if adapters and not any("lora_B" in str(name) for name in untouched):
        yield no_gradient.claim(
            adapters,
            consequences=[*never_trained(symptoms), *symptoms.of("OPT001", "OPT009")],
            certainty=Certainty.LIKELY if checkpoint.optimizers else Certainty.POSSIBLE,
            remedy=STEP_WITH_GRADIENT.line(checkpoint),
        )


@cause("never-started", Prognosis.POINTLESS)
def never_started(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Steps were counted, and an optimizer made no update.

    How we know:
        The optimizer has no state, although the file counts steps, or another optimizer beside it was updated. PyTorch
        creates the state at the first update.

    What else it could be:
        Updates whose gradients were all missing (``None``) leave no state either: a detached loss, a loss scaler that
        skips every step. An optimizer's state may also have been removed from the file to make it smaller.

    What to do:
        Compare ``learning_starts``, ``n_steps``, ``train_freq`` and ``policy_delay`` with the length of the training.
        Check that ``step`` is called, and that a guard against NaN does not skip every batch.

    References:
        Rule OPT006. Of 208 public repositories with checkpoints, 8 publish agents without a single update.
    """
    too_short = symptoms.of("HYP004", setting="learning_starts")
    for finding in symptoms.of("OPT006", cause="never started"):
        yield never_started.claim(
            [finding, *too_short],
            "; ".join(each.message for each in (finding, *too_short)),
            consequences=never_trained(symptoms),
            advice=too_short[0].advice if too_short else "",
        )
    for finding in () if has_left_initial_interval(checkpoint) else symptoms.of("OPT006", cause="empty state"):
        yield never_started.claim(
            [finding], consequences=about(never_trained(symptoms), names_of(finding)), certainty=Certainty.LIKELY
        )


@cause("detached", Prognosis.POINTLESS)
def detached(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A part is held by the optimizer and was never reached by a gradient while its neighbours were.

    How we know:
        The optimizer has no state for the part, or second moments of exactly zero, after updates of the others. What
        the part is connected to was trained, so that the path ends at this part.

    What else it could be:
        The part is frozen (``requires_grad=False``), or waits for its turn, such as a head of another task.

    What to do:
        Look for ``.detach()``, ``torch.no_grad()``, ``.data``, a loss term with a weight of zero, a loss that leaves
        the part out, and a module that ``forward`` does not call.

    References:
        Rule OPT001, and GRD005 in a running training loop. Stable-Baselines3 issues 570, 997, 1412 and 1860.
    """
    findings = [
        each
        for each in symptoms.of("OPT001", cause="never trained")
        if not any(tells(each, checkpoint) for tells in (_is_frozen, has_trained_twin, _is_only_head))
    ]
    for finding in symptoms.of("GRD005", cause="no path"):
        yield detached.claim([finding], consequences=about(symptoms.of("NET001"), names_of(finding)))
    known = set(map(id, findings))
    findings += [each for each in _biases_alone(symptoms, checkpoint) if id(each) not in known]
    if any(reads_zeros(layer, checkpoint) for finding in findings for layer in layers_of(finding, checkpoint)):
        return  # the path is whole, and carries zeros
    if findings:
        yield detached.claim(
            findings,
            _describe("received no gradient while the parts around were trained", findings),
            consequences=[*_in_the_part(findings, symptoms, checkpoint), *symptoms.of("NET008")],
            certainty=Certainty.LIKELY,
            evidence={"tensors": _tensors_of(findings, checkpoint)} if len(findings) > 1 else None,
        )


@cause("frozen", Prognosis.POINTLESS)
def frozen(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A part was held out of training by ``requires_grad`` or by a parameter group with a learning rate of zero.

    How we know:
        The group's learning rate is 0 and its values are the initial ones although gradients were recorded; or the
        part has no state, and layers in front of it were trained, so that the gradient passed through it.

    What else it could be:
        A block that a residual connection goes around, and that ``forward`` does not call.

    What to do:
        Set ``requires_grad=True``, or give the group a learning rate. If it is frozen on purpose, leave it out of the
        optimizer.

    References:
        Rules OPT001 and OPT009; GRD005 in a running training loop.
    """
    for finding in symptoms.of("OPT009", cause="learning rate"):
        optimizer = next((each for each in checkpoint.optimizers if each.name == finding.evidence["optimizer"]), None)
        if optimizer is not None and len(finding.evidence.get("groups", ())) < len(optimizer.groups):
            yield frozen.claim(
                [finding], consequences=[*symptoms.of("OPT003"), *about(never_trained(symptoms), names_of(finding))]
            )
    for finding in symptoms.of("GRD005", cause="requires_grad"):
        idle = (*never_trained(symptoms), *symptoms.of("NET001"))
        yield frozen.claim([finding], consequences=about(idle, names_of(finding)))
    findings = [each for each in symptoms.of("OPT001", cause="never trained") if _is_frozen(each, checkpoint)]
    if findings:
        yield frozen.claim(
            findings,
            _describe("was held out of training: the gradient passed through it and did not change it", findings),
            consequences=about(never_trained(symptoms), {name for each in findings for name in names_of(each)}),
            certainty=Certainty.LIKELY,
            remedy=UNFREEZE.line(checkpoint),
        )


@cause("not-in-optimizer", Prognosis.POINTLESS)
def not_in_optimizer(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """A part of the model that trained neighbours lean on is held by no optimizer.

    How we know:
        The optimizer's parameters were matched to tensors by shape and order, and none is left for this part. Where
        the only output head has no state, and the layers in front of it learned, the optimizer holds another head than
        the model.

    What else it could be:
        A head that is fixed on purpose, as in random feature models.

    What to do:
        Create the optimizer after the model is complete, or add what was made later.

    References:
        Rule OPT001. PyTorch's ``Optimizer.add_param_group``.
    """
    left_out = list(symptoms.of("OPT001", cause="not in an optimizer"))
    replaced = [each for each in symptoms.of("OPT001", cause="never trained") if _is_only_head(each, checkpoint)]
    untouched = Named(never_trained(symptoms))
    for finding in (*left_out, *replaced):
        yield not_in_optimizer.claim(
            [finding],
            consequences=[*untouched.about(names_of(finding)), *symptoms.of("NET001")],
            certainty=Certainty.PROVEN if finding in left_out else Certainty.LIKELY,
            remedy=HOLD_ALL.line(checkpoint),
        )


def _biases_alone(symptoms: Symptoms, checkpoint: Checkpoint) -> list[Finding]:
    """Return findings about biases without a gradient in layers whose weights had one.

    The gradient of a bias is what the weight's gradient is made of, so that code or a freeze keeps it from the bias.
    """
    found = []
    for finding in symptoms.of("RNN001", "RNN002", "ZER003", "ZER004", cause=NEVER_TRAINED):
        layers = layers_of(finding, checkpoint)
        if layers and all(_was_trained(layer, checkpoint) for layer in layers):
            found.append(finding)
    return found


def _tensors_of(findings: list[Finding], checkpoint: Checkpoint) -> list[str]:
    named = {name for finding in findings for name in names_of(finding)}
    return [tensor.name for tensor in checkpoint.tensors if tensor.name in named]


def _describe(what: str, findings: list[Finding]) -> str:
    names = list(dict.fromkeys(str(each.evidence.get("branch") or each.subject or _count(each)) for each in findings))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {what}"


def _count(finding: Finding) -> str:
    """Say how many parameters a finding is about whose names are not known."""
    unknown = finding.evidence.get("without_state")
    return f"{len(unknown):,} parameters" if isinstance(unknown, list) and len(unknown) > 1 else "a part"


def _is_frozen(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for a part without state that the gradient passed through: a layer that feeds it was trained."""
    if received_zero_gradients(finding):
        return False
    part = layers_of(finding, checkpoint)
    inside = {layer.name for layer in part}
    feeding = [layer.previous for layer in part if layer.previous and layer.previous not in inside]
    return (
        bool(feeding)
        and all(_was_trained(checkpoint.layer_by_name[name], checkpoint) for name in feeding)
        and not any(layer.is_output for layer in part)
    )


def _is_only_head(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for an output head without state, the only one of its component, behind layers that were trained."""
    part = layers_of(finding, checkpoint)
    if (
        received_zero_gradients(finding)
        or len(part) != 1
        or not part[0].is_output
        or is_reinforcement_learning(checkpoint)
    ):
        return False
    head = part[0]
    before = checkpoint.layer_by_name.get(head.previous or "")
    return _count_heads(checkpoint)[head.component] == 1 and before is not None and _was_trained(before, checkpoint)


@found_once
def _count_heads(checkpoint: Checkpoint) -> Counter[str]:
    """Return the number of output heads of each component."""
    return Counter(layer.component for layer in checkpoint.layers if layer.is_output)


def _was_trained(layer: Layer, checkpoint: Checkpoint) -> bool:
    """True where an optimizer recorded a gradient for one of the layer's tensors."""
    return any(has_gradient(tensor.name, checkpoint) for tensor in layer.tensors.values())


def _in_the_part(findings: list[Finding], symptoms: Symptoms, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yield what else is said of the layers of the part: zeros that were never trained, units without a gradient."""
    names = {layer.name for finding in findings for layer in layers_of(finding, checkpoint)}
    names.update(name for finding in findings for name in names_of(finding))
    names.update(target for target, online in checkpoint.online_tensors.items() if online in names)
    yield from about((*never_trained(symptoms), *symptoms.of("NET001")), names)
