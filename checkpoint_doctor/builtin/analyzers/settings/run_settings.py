"""Settings of a run: gradient clipping, batch and rollout, warm-up, what is frozen, what weight decay holds."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from checkpoint_doctor.checkpoint import Checkpoint, Optimizer
from checkpoint_doctor.checkpoint.reviewed_settings import (
    WITHOUT_CLIPPING,
    Verdict,
    count_trained,
    describe_share,
    frozen_tensors,
    review_settings,
    value_of,
)
from checkpoint_doctor.layers import NORMS
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity

_FROZEN = 0.1
"""Share of the parameters from which frozen ones are named: below it are biases and embeddings left out on purpose."""

_DECAY = 0.05
"""Weight decay from which it is named for gains: AdamW's default of 0.01 is in most files and does next to nothing."""


@rule("HYP002", "gradient-clipping", Severity.NOTE, on=Checkpoint, part=("setting",), worst=Severity.WARNING)
def gradient_clipping(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The limit of the gradient norm has no effect, stops all learning, or is far from tuned ones.

    Why it matters:
        SAC, TQC, TD3, DDPG and CrossQ of Stable-Baselines3 have no argument ``max_grad_norm`` and never clip: a value
        that stands in the settings was set by hand and nothing reads it. A limit of zero or below makes every gradient
        zero, or turns it round.

    When it is normal:
        0.5 is the default of PPO and A2C, the median of tuned values, and good agents are clipped at nearly every step.
        TRPO stores a 0 that it never uses.

    What to do:
        For SAC and its relatives, clip in a subclass or use a smaller learning rate or AdamW. Otherwise use 0.3 to 5.
        Clipping scales all gradients by one factor: it cannot make single ones zero, and Adam divides the scale out
        again, so a strict limit is seldom what is wrong.

    References:
        Stable-Baselines3, ``SAC.__init__`` and ``SAC.train``; RL Baselines3 Zoo, hyperparams/ppo.yml (0.3 to 5 in 15
        entries); Andrychowicz et al. 2006.05990 (0.5).
    """
    if checkpoint.format != "sb3":
        return
    value = value_of(checkpoint.hyperparameters, "max_grad_norm")
    if value is None or checkpoint.algorithm == "TRPO":
        return
    evidence = {"setting": "max_grad_norm", "value": value}
    if checkpoint.algorithm in WITHOUT_CLIPPING:
        yield gradient_clipping.finding(
            f"max_grad_norm is set to {value:g}, but {checkpoint.algorithm} of Stable-Baselines3 has no such argument: "
            "its gradients are not clipped",
            severity=Severity.WARNING,
            evidence=evidence,
            advice="Clip in a subclass of the algorithm, or lower the learning rate.",
        )
    elif value <= 0:
        what = "every gradient becomes zero" if value == 0 else "every gradient is turned round"
        yield gradient_clipping.finding(
            f"max_grad_norm is {value:g}: {what}",
            severity=Severity.WARNING,
            evidence=evidence,
            advice="Set it to 0.5, the default.",
        )
    else:
        for reviewed in review_settings(checkpoint):
            if reviewed.name != "max_grad_norm" or reviewed.range is None:
                continue
            if reviewed.verdict in (Verdict.UNTUNED, Verdict.LOW, Verdict.HIGH):
                yield gradient_clipping.finding(
                    f"max_grad_norm is {value:g}, {reviewed.verdict.value} ({reviewed.range.describe()})",
                    evidence={**evidence, "low": reviewed.range.low, "high": reviewed.range.high},
                )


@rule("HYP004", "batch-and-rollout", Severity.NOTE, on=Checkpoint, part=("setting",), worst=Severity.WARNING)
def batch_and_rollout(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The sizes of batch, rollout, buffer and run do not fit each other.

    Why it matters:
        Advantages are normalised over a batch, and the standard deviation of a single one is not a number. A batch that
        is larger than the rollout, or does not divide it, is cut short. A run that ends before ``learning_starts``
        never makes an update.

    When it is normal:
        The number of environments in the file is that of the last process that loaded the model, which may have been
        fewer than in training: batch against rollout is a note.

    What to do:
        Choose ``batch_size`` so that it divides ``n_steps`` times the number of environments, and ``learning_starts``
        well below the number of steps.

    References:
        Stable-Baselines3, ``PPO.__init__``, which asserts and warns of the same, and
        ``OffPolicyAlgorithm.learn``. That a learning rate should follow √(batch / trainable parameters in millions) has
        no source; linear in the batch is Goyal et al. 1706.02677, its root for Adam Malladi et al. 2205.10287.
    """
    if checkpoint.format != "sb3":
        return
    settings = checkpoint.hyperparameters
    batch, steps, environments = (value_of(settings, name) for name in ("batch_size", "n_steps", "n_envs"))
    if batch is not None and steps is not None and environments is not None and "clip_range" in settings:
        rollout = steps * environments
        evidence = {"setting": "batch_size", "value": batch, "rollout": rollout}
        if settings.get("normalize_advantage", True) is True and min(batch, rollout) == 1:
            yield batch_and_rollout.finding(
                f"advantages are normalised over {min(batch, rollout):.0f} step: their deviation is not a number",
                severity=Severity.WARNING,
                evidence=evidence,
                advice="Use a larger batch, or set normalize_advantage to False.",
            )
        elif batch > rollout or rollout % batch:
            what = "is larger than" if batch > rollout else "does not divide"
            yield batch_and_rollout.finding(
                f"the batch of {batch:,.0f} {what} a rollout of {rollout:,.0f} steps ({steps:,.0f} in "
                f"{environments:,.0f} environments)",
                evidence=evidence,
            )
    starts, total = value_of(settings, "learning_starts"), value_of(settings, "_total_timesteps")
    if starts is not None and total is not None and starts >= total > 0 and not checkpoint.updates:
        yield batch_and_rollout.finding(
            f"learning_starts is {starts:,.0f}, and the run ends at step {total:,.0f}: no update is ever made",
            severity=Severity.WARNING,
            evidence={"setting": "learning_starts", "value": starts, "total_timesteps": total},
            advice="Lower learning_starts.",
        )


@rule("HYP007", "warmup", Severity.NOTE, on=Checkpoint, part=("setting",))
def warmup(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The warm-up of the learning rate had not ended when the file was saved, or takes most of the run.

    Why it matters:
        During the warm-up the learning rate is below the one that was chosen. A run that is judged, or that ends, in it
        was not trained with these settings.

    When it is normal:
        In the first checkpoints of a run.

    What to do:
        Judge later checkpoints, or shorten the warm-up.

    References:
        Vaswani et al. 1706.03762 (4,000 of 100,000 steps), Goyal et al. 1706.02677 (5 epochs, for large batches), Liu
        et al. 1908.03265 (why Adam needs one). That three thousand steps or a tenth of the training are right has no
        source. Stable-Baselines3 has no warm-up: ``learning_starts`` is another thing.
    """
    settings = checkpoint.hyperparameters
    steps = value_of(settings, "warmup_steps")
    total = value_of(settings, "max_steps") or value_of(settings, "total_steps")
    ratio = value_of(settings, "warmup_ratio")
    if not steps and ratio and total and total > 0:
        steps = ratio * total
    if not steps or steps <= 0:
        return
    done = checkpoint.updates if checkpoint.updates is not None else checkpoint.step
    if done is not None and 0 < done < steps:
        yield warmup.finding(
            f"saved at step {done:,} of a warm-up of {steps:,.0f}: the learning rate is not yet the chosen one",
            evidence={"setting": "warmup_steps", "warmup": steps, "step": done},
        )
    elif total and total > 0 and steps > 0.5 * total:
        yield warmup.finding(
            f"the warm-up takes {steps:,.0f} of {total:,.0f} steps",
            evidence={"setting": "warmup_steps", "warmup": steps, "total": total},
        )


@rule("HYP008", "frozen-fraction", Severity.NOTE, on=Checkpoint, worse=("frozen_fraction",))
def frozen_fraction(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A good part of the model is held by no optimizer, and so is not trained.

    Why it matters:
        Whoever trains a head on a frozen backbone wants it so; whoever does not has lost part of the model. The
        learning rate is a matter of the trained part alone.

    When it is normal:
        Fine-tuning with a frozen backbone, adapters, fixed embeddings.

    What to do:
        Compare the names with what was meant. `ckdoc scan --settings` shows the parameters of each group with its rate
        and how far its weights move in an update.

    References:
        PyTorch, ``torch.optim.Optimizer``: only parameters that it was given are trained. What rate fits which share
        has no source: rates that are advised for frozen backbones (1e-4, 5e-5 for a value head) are opinion.
    """
    trained, frozen = count_trained(checkpoint)
    if not trained or frozen < _FROZEN * (trained + frozen):
        return
    parts: dict[str, int] = {}
    for name, size in frozen_tensors(checkpoint).items():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + size
    largest = max(parts, key=parts.__getitem__)
    yield frozen_fraction.finding(
        f"{describe_share(trained, frozen)}, most of them in {largest}",
        evidence={
            "trained": trained,
            "frozen": frozen,
            "frozen_fraction": frozen / (trained + frozen),
            "parts": parts,
        },
    )


@rule("HYP009", "weight-decay-on-norms", Severity.NOTE, on=Optimizer, part=("optimizer",))
def weight_decay_on_norms(optimizer: Optimizer, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weight decay pulls the gains of normalisation layers towards zero, together with the weights.

    Why it matters:
        A gain begins at 1 and scales a whole channel. Decay makes it smaller whatever the data say.

    When it is normal:
        Often: many programs hand all parameters to one group, and models train well with it. It never makes a gain
        exactly zero. Gains that are centred on zero are meant to be pulled there.

    What to do:
        Put gains and biases into a group of their own with ``weight_decay=0``.

    References:
        GPT-2, BERT and nanoGPT leave gains and biases out; that it matters has hardly been measured. Loshchilov and
        Hutter 1711.05101 (decay).
    """
    for number, group in enumerate(optimizer.groups):
        decay = group.number("weight_decay")
        names = [optimizer.parameters[index].tensor for index in group.indices if index < len(optimizer.parameters)]
        tensors = [each for each in map(checkpoint.find_tensor, names) if each is not None]
        gains = [each.name for each in tensors if checkpoint.layer_of[each.name].kind in NORMS]
        others = any(len(each.shape) > 1 and prod(each.shape) > 1 for each in tensors)
        if decay < _DECAY or not gains or not others or optimizer.kind != "AdamW":
            continue
        yield weight_decay_on_norms.finding(
            f"a weight decay of {decay:g} in {optimizer.name} holds {len(gains):,} tensors of normalisation layers",
            evidence={"optimizer": optimizer.name, "group": number, "weight_decay": decay, "tensors": gains},
        )
