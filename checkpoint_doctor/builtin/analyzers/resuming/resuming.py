"""What a run needs to go on: moments of its own age, a loss scale that works, and the right object under every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from pathlib import PurePath

from checkpoint_doctor.builtin.analyzers._evidence.absent_gradients import count_updates
from checkpoint_doctor.builtin.analyzers._evidence.travel import find_travelled_farther
from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import shown

_COUNTERS_OF_UPDATES = ("global_step", "training_step", "step", "steps", "iteration", "iter", "it")
"""Counters that count updates, or batches where gradients are accumulated, the most specific first."""

_ACCUMULATED = frozenset((2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128))
"""Usual numbers of batches over which gradients are accumulated. A pretrained model has moved far before it counts."""
_YOUNG = 20
"""Updates up to which that is no explanation: few save so early."""

_COUNTING_UPDATES = frozenset(("transformers", "peft", "deepspeed"))
"""Layouts of folders whose ``global_step`` counts the optimizer's updates."""

_AGENT = re.compile(r"(?i)(^|[._/])(actor|critic|policy|value_net|q_net|qf\d*|q_network|log_?std|action_net)([._/]|$)")
_AGENT_SETTINGS = frozenset(
    ("gamma", "gae_lambda", "ent_coef", "env_id", "num_envs", "n_envs", "total_timesteps", "buffer_size")
)
"""Names in agents, whose files count environment steps under the same keys."""


@rule("RES002", "moments-out-of-step", Severity.WARNING, on=Checkpoint, part=("optimizer",))
def moments_out_of_step(checkpoint: Checkpoint, *, accumulated: int = 128) -> Iterator[Finding]:
    """The optimizer counts far fewer updates than the file: its state was begun anew.

    Why it matters:
        Adam's moments hold what it knows about the size of the gradients. A new optimizer in the middle of a run starts
        its bias correction again, its first steps have the full size of the learning rate, and the loss jumps. It is
        the sign of a resume that did not load the optimizer.

    When it is normal:
        Where the file counts batches and gradients are accumulated over several, or counts environment steps: agents,
        and ratios up to ``accumulated``, are only reported where the weights or a schedule prove the difference.

    What to do:
        Load the optimizer's state when resuming. Where it is lost, warm the learning rate up again.

    Options:
        accumulated: The most batches per update that gradient accumulation explains: twice the largest in published
            training code, 64.

    References:
        The file's counter is compared with the largest step among the moments. Proofs: a schedule that has made as
        many steps as the file counts, or weights that are farther from their initial interval than the counted
        updates can have moved them (an Adam step moves an entry by at most about the learning rate), unless the ratio
        is a usual number of accumulated batches. In the folders of transformers and DeepSpeed, whose ``global_step``
        counts the updates, an optimizer that counts more belongs to another run. gpt-neox issue 291, lightly-train
        issue 892 and schnetpack issue 785 are about such states.
    """
    counted = {each.name: count for each in checkpoint.optimizers if (count := count_updates(each))}
    key = next((key for key in _COUNTERS_OF_UPDATES if key in checkpoint.counters), None)
    if not counted or key is None:
        return
    name, updates = max(counted.items(), key=lambda pair: pair[1])
    counter = checkpoint.counters[key]
    if updates > counter + 1 and checkpoint.layout in _COUNTING_UPDATES:
        yield moments_out_of_step.finding(
            f"{name} counts {updates:,} updates where the run counts {counter:,} ({key}): it belongs to another run",
            evidence={"optimizer": name, "updates": updates, "counter": key, "counted": counter, "tensors": []},
            advice="Copy the optimizer and the weights from the same checkpoint.",
        )
    if counter < 2 * updates or counter - updates < 10:
        return
    positions = (part.values.get("last_epoch") for part in checkpoint.parts if part.content is Content.SCHEDULER)
    optimizer = next(each for each in checkpoint.optimizers if each.name == name)
    is_accumulation = updates > _YOUNG and counter // updates in _ACCUMULATED and counter % updates < counter // updates
    travelled = [] if is_accumulation else find_travelled_farther(optimizer, checkpoint, updates)
    if any(isinstance(each, int) and abs(each - counter) <= 1 for each in positions):
        why = "and a schedule as many steps as the file"
    elif travelled:
        why = f"and {travelled[0]} has moved farther than that many updates could have moved it"
    elif counter > accumulated * updates and not _is_agent(checkpoint):
        why = "more than gradient accumulation explains"
    else:
        return
    yield moments_out_of_step.finding(
        f"{name} counts {updates:,} updates where the file counts {counter:,} ({key}): its state was begun anew, {why}",
        evidence={
            "optimizer": name,
            "updates": updates,
            "counter": key,
            "counted": counter,
            "tensors": travelled,
        },
        advice="Load the optimizer's state when resuming.",
    )


def _is_agent(checkpoint: Checkpoint) -> bool:
    if not _AGENT_SETTINGS.isdisjoint(checkpoint.hyperparameters) or checkpoint.algorithm:
        return True
    return any(_AGENT.search(tensor.name) for tensor in checkpoint.tensors)


@rule("RES005", "loss-scale-collapsed", Severity.ERROR, on=Checkpoint, part=("scaler",))
def loss_scale_collapsed(checkpoint: Checkpoint, *, certain: float = 1e-3) -> Iterator[Finding]:
    """The scale of a mixed-precision loss has collapsed: gradients overflowed at every scale.

    Why it matters:
        A loss scaler halves its scale and skips the update whenever a gradient overflows. A scale below 1 means that
        gradients are not finite whatever the scale is, because the loss itself is not, so every update is skipped. A
        resumed run goes on like that, and with a scale of 1e-38 gradients underflow to zero as well.

    When it is normal:
        Never. Scales of healthy runs lie between 16 and 16 million.

    What to do:
        Go back to the last checkpoint with a scale above 1. Find what is not finite: the data, a division, a logarithm
        of zero, an activation that overflows in float16. bfloat16 needs no loss scale.

    Options:
        certain: The loss scale below which it is an error; below 1 it is a warning. Scales of healthy runs are 16 or
            more.

    References:
        ``torch.amp.GradScaler`` starts at 65,536, halves at each overflow and has no lower limit.
    """
    for part in checkpoint.parts:
        if part.content is not Content.LOSS_SCALER:
            continue
        scale = _scale_of(part)
        if scale is None or (isfinite(scale) and scale >= 1.0):
            continue
        is_certain = not isfinite(scale) or scale < certain
        yield loss_scale_collapsed.finding(
            f"the loss scale of {part.name} is {scale:.3g}: gradients overflowed again and again, and their updates "
            "were skipped",
            severity=Severity.ERROR if is_certain else Severity.WARNING,
            evidence={"scaler": part.name, "scale": scale if isfinite(scale) else str(scale)},
            advice="Look for what makes the loss or its gradients infinite, and resume from before.",
        )


def _scale_of(part: Part) -> float | None:
    values = [part.values.get(key) for key in ("scale", "cur_scale", "loss_scale")]
    return next((float(each) for each in values if isinstance(each, (int, float)) and not isinstance(each, bool)), None)


@rule("RES006", "missing-companion", Severity.NOTE, on=Checkpoint, part=("file",))
def missing_companion(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A file that the run needs to go on, or the agent to act, is not beside the weights.

    Why it matters:
        Libraries load what they find. Without the optimizer's file, training goes on with a new optimizer and its first
        steps have the full size of the learning rate; without the statistics of the observations, an agent acts on
        numbers that it has never seen. Neither fails.

    When it is normal:
        Where only the model was meant to be kept, as with ``save_only_model``, and for use without training.

    What to do:
        Copy the file from where the run was saved. Where it is lost, warm the learning rate up again when resuming.

    References:
        transformers' ``Trainer`` loads the optimizer's and the scheduler's state only where both files are there;
        Stable-Baselines3 saves ``VecNormalize`` in a file of its own (SB3 issues 1916 and 2113).
    """
    for each in checkpoint.missing:
        yield missing_companion.finding(
            f"{shown(each.file)} is not in the folder: {each.consequence}",
            evidence={"file": each.file},
            advice="Copy it from where the run was saved.",
        )


_EXPECTED: dict[Content, re.Pattern[str]] = {
    Content.OPTIMIZER: re.compile(r"(?i)(^|_)(opt|optims?|optimi[sz]ers?)(_|$)"),
    Content.SCHEDULER: re.compile(r"(?i)(^|_)(lr_)?sched(ulers?)?(_|$)"),
    Content.STATE_DICT: re.compile(
        r"(?i)(^|_)(model|net|network|weights|ema)(_state)?(_dict)?$|^(model_)?state_dict$|^model_state$"
    ),
}
"""Keys that say what stands under them."""


@rule("RES007", "wrong-object", Severity.ERROR, on=Checkpoint, part=("key",))
def wrong_object(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Something else stands where a state dict belongs: a bound method, a scheduler, another part's state.

    Why it matters:
        Saving does not complain, loading does: what should have been under this key is lost. ``torch.save`` writes a
        bound method (``optimizer.state_dict`` without parentheses) without its state being taken out of it.

    When it is normal:
        Never.

    What to do:
        Call ``state_dict()`` with parentheses, and look at which object each key is given. What is missing can only be
        taken from another checkpoint.

    References:
        ``torch.save`` pickles a method as its object and its name. Only keys that say what they hold are judged
        (``optimizer``, ``lr_scheduler``, ``model_state_dict``), and only contents that are certain.
    """
    models = {part.keys for part in checkpoint.parts if part.content is _expected(part) is Content.STATE_DICT}
    for part in checkpoint.parts:
        expected = _expected(part)
        if part.content is Content.METHOD:
            what = f"a bound method ({shown(part.type_name)}): the parentheses of the call are missing"
        elif expected in (None, part.content) or part.content not in _EXPECTED:
            continue
        elif part.content is Content.STATE_DICT and part.keys not in models:
            continue  # an optimizer's own way of storing tensors
        else:
            what = f"{part.content.value}, not {expected.value}"
        yield wrong_object.finding(
            f"under {shown(part.name)} is {what}",
            evidence={"key": part.name, "content": part.content.name.lower(), "type": part.type_name or None},
            advice="Look at what the code that saves gives to this key.",
        )


def _expected(part: Part) -> Content | None:
    """Return what a part's key says that it is; ``None`` where it says nothing, or several things."""
    key = PurePath(part.file).stem if part.file else part.name.partition("/")[0]
    said = [content for content, pattern in _EXPECTED.items() if pattern.search(key)]
    return said[0] if len(said) == 1 else None
