"""What a metric of a training log means, by its name: a loss, a norm, a reward, a rate and so on.

A name is split into words: at everything that is no letter and no digit, and where a capital follows a small letter, so
``train/policy_gradient_loss`` is *train policy gradient loss* and ``GradNorm`` is *grad norm*. The first of these that
fits decides:

1. **step**: the name ends in a word for progress, such as *step*, *timesteps*, *frame*, *epoch*, *iterations*;
2. **time**: *time*, *fps*, *seconds*, *runtime* and their like;
3. **learning rate**: *lr*, or *learning rate*;
4. **norm**: *norm*, or *grad* alone;
5. **objective**: a loss whose value alone says nothing, because it is relative to something that moves: that of a
   policy or an actor, of one of two adversaries, of an entropy or its coefficient, of a regulariser such as a KL
   divergence;
6. **loss**: *loss*, or an error that should fall, such as *mse*, *perplexity*, *wer*;
7. **entropy**: *entropy*;
8. **accuracy**: a score that should rise and has an end, such as *accuracy*, *f1*, *agreement*, *success*;
9. **reward**: *reward*, *return*, *score*, ``r`` of a monitor file;
10. **rate**: *rate*, *fraction*, *ratio*, *epsilon*;
11. **other**.

Spreads (*std*, *min*, *max* …) and settings (*coef*, *weight*, *scale* …) of losses, rewards and scores are **other**.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from fnmatch import fnmatchcase
from itertools import pairwise


class Meaning(str, Enum):
    """What a metric measures, and so what is normal for it."""

    STEP = "step"
    """Progress: steps, frames, epochs."""
    TIME = "time"
    """Seconds, and whatever is measured by them."""
    LEARNING_RATE = "learning rate"
    """The rate of an optimizer."""
    NORM = "norm"
    """The norm of gradients or weights."""
    OBJECTIVE = "objective"
    """A loss that is relative to something that moves."""
    LOSS = "loss"
    """What training makes smaller."""
    ENTROPY = "entropy"
    """How random a policy is."""
    ACCURACY = "accuracy"
    """A score that should rise and has an end."""
    REWARD = "reward"
    """What an agent is trained for."""
    RATE = "rate"
    """A share that is neither good nor bad."""
    OTHER = "other"
    """Anything else."""

    @property
    def should_fall(self) -> bool:
        """True where less is better."""
        return self is Meaning.LOSS

    @property
    def should_rise(self) -> bool:
        """True where more is better."""
        return self in (Meaning.ACCURACY, Meaning.REWARD)


_WORDS = """
step: step steps timestep timesteps frame frames iteration iterations iter epoch epochs update updates episode episodes
step: batches samples
time: time seconds second secs runtime fps duration elapsed timestamp eta wall throughput latency date hours
loss: loss losses mse rmse mae nll perplexity ppl wer cer bpc bpb cost error err crossentropy logloss mape smape crps
accuracy: accuracy acc acc1 top1 top5 f1 auc auroc precision recall map iou miou bleu rouge agree agreement success win
accuracy: winrate dice psnr ssim ndcg mrr correct hit r2
reward: reward rewards rew rwrd return returns score scores
rate: rate fraction frac ratio epsilon epsi eps pct percent percentage share
relative: policy actor pg surrogate entropy ent alpha temperature adversarial adv generator gen discriminator disc gan
relative: kl kld commit commitment vq reg regularization regularizer penalty l1 l2 aux auxiliary z balance balancing
relative: gate router prior consistency distill dpo
setting: coef coefficient weight scale scaling scaler lambda threshold target
spread: std stds var variance min max median count num n stddev sem stderr
held out: val valid validation eval evaluation test dev va holdout
training: train training tr rollout
"""


def _read_words(kind: str) -> frozenset[str]:
    lines = (line.partition(": ") for line in _WORDS.split("\n"))
    return frozenset(word for name, _, words in lines if name == kind for word in words.split())


_STEP, _TIME, _LOSS, _ACCURACY, _REWARD, _RATE = map(
    _read_words, ("step", "time", "loss", "accuracy", "reward", "rate")
)
_RELATIVE, _SETTING, _SPREAD = map(_read_words, ("relative", "setting", "spread"))
_HELD_OUT, _TRAIN = _read_words("held out"), _read_words("training")

_SPLIT = re.compile(r"[^\W_]+", re.UNICODE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_words(name: str) -> tuple[str, ...]:
    """Return the words of a metric's name in lower case."""
    return tuple(word.lower() for part in _SPLIT.findall(name) for word in _CAMEL.split(part) if word)


def is_held_out(name: str) -> bool:
    """Return whether a metric was measured on data that the model is not trained with, by its name."""
    return not _HELD_OUT.isdisjoint(split_words(name))


def without_split(name: str) -> tuple[str, ...]:
    """Return the words of a name without those that say which data it was measured on."""
    return tuple(word for word in split_words(name) if word not in _HELD_OUT | _TRAIN)


def find_meaning(name: str, chosen: Mapping[str, Meaning] | None = None) -> Meaning:
    """Return what a metric means: what was chosen for a pattern that fits its name, else by the words of its name."""
    for pattern, meaning in (chosen or {}).items():
        if fnmatchcase(name, pattern):
            return meaning
    words = split_words(name)
    known = frozenset(words)
    if not words:
        return Meaning.OTHER
    if words[-1] in ("step", "epoch") and words[:-1]:  # Lightning writes the mean of an epoch beside that of a step
        of_rest = find_meaning(" ".join(words[:-1]))
        if of_rest not in (Meaning.OTHER, Meaning.STEP, Meaning.TIME):
            return of_rest
    if words[-1] in _STEP and known.isdisjoint(("per", "ms")):
        return Meaning.STEP
    if known & _TIME or (len(words) > 1 and "per" in words and known & (_STEP | {"sec", "s"})) or name == "t":
        return Meaning.TIME
    if "lr" in known or ("learning", "rate") in pairwise(words) or "learningrate" in known:
        return Meaning.LEARNING_RATE
    is_norm = "norm" in known or bool(known & {"gradnorm", "gnorm"}) or words in (("grad",), ("gradient",))
    if is_norm and known.isdisjoint(("layer", "batch", "loss", "reward")):
        return Meaning.NORM
    is_loss = bool(known & _LOSS) or words[-1].endswith("loss") or ("cross", "entropy") in pairwise(words)
    is_setting = bool(known & _SETTING)
    if is_loss and not is_setting and not known & _SPREAD:
        return (
            Meaning.OBJECTIVE if known & (_RELATIVE - {"entropy"} if "cross" in known else _RELATIVE) else Meaning.LOSS
        )
    if is_loss and "ent" in known and words[-1] == "loss":
        return Meaning.OBJECTIVE
    if is_setting or known & _SPREAD:
        return Meaning.OTHER
    if "entropy" in known:
        return Meaning.ENTROPY
    if known & _ACCURACY or re.fullmatch(r"(\w*_)?acc\d?", name.lower()):
        return Meaning.ACCURACY
    if known & _REWARD or name == "r":
        return Meaning.REWARD
    if known & _RATE or name.endswith("%"):
        return Meaning.RATE
    return Meaning.OTHER
