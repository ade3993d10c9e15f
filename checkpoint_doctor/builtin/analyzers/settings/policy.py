"""A reinforcement learning policy: exploration, entropy coefficient, target networks, twin critics, discount."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import exp, inf, isnan, log10
from statistics import median

import numpy as np

from checkpoint_doctor.builtin.analyzers._evidence.initial_copies import is_still_initial, name_of_average
from checkpoint_doctor.checkpoint import Checkpoint, Tensor
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.statistics.values import as_real

_AGENT_SETTINGS = frozenset(
    ("ent_coef", "entropy_coef", "gae_lambda", "lam", "tau", "buffer_size", "learning_starts", "target_update_interval")
) | {"n_steps", "num_steps", "n_envs", "num_envs", "total_timesteps", "env_id"}
"""Settings that an agent has beside its discount. Schedules and the focal loss have a ``gamma`` too."""

_LOG_STD = re.compile(r"(^|[._/])(actor_)?log_?std$")
_TWIN = re.compile(r"(?P<before>.*?\b(?:qf|q|critic|q_net|critics\.|qs\.)_?)(?P<number>\d+)(?P<after>\..*)")


@rule("POL001", "log-std-range", Severity.WARNING, on=Tensor, worse=("largest", "below", "above"))
def log_std_range(tensor: Tensor, *, smallest: float = -10.0, largest: float = 1.5) -> Iterator[Finding]:
    """The logarithm of a policy's standard deviation is far from that of any published agent.

    Why it matters:
        A policy with a standard deviation next to zero no longer explores: all its samples are the same action, and the
        gradient of its log-probability explodes. One with a large standard deviation acts at random.

    When it is normal:
        Policies whose exploration was switched off by hand before they were saved for use.

    What to do:
        Collapsed: give the entropy bonus more weight, or bound the parameter from below. Exploded: lower the learning
        rate or the entropy bonus, and look at the scale of the actions.

    Options:
        smallest: The log standard deviation below which it is reported; published on-policy agents have −5.4 or more.
        largest: The log standard deviation above which it is reported, a standard deviation of 4.5; published on-policy
            agents have 0.43 or less.

    References:
        Stable-Baselines3 starts at 0.
    """
    statistics = tensor.statistics
    if not _LOG_STD.search(tensor.name) or not tensor.is_floating or statistics.nonfinite or not tensor.size:
        return
    values = as_real(tensor.array).reshape(-1)
    below, above = int((values < smallest).sum()), int((values > largest).sum())
    if below:
        yield log_std_range.finding(
            f"{below:,} of {values.size:,} actions have a log standard deviation below {smallest:g} "
            f"(down to {values.min():.3g}): the policy no longer explores",
            tensor,
            evidence={"below": below, "smallest": float(values.min()), "count": values.size},
        )
    elif above:
        yield log_std_range.finding(
            f"{above:,} of {values.size:,} actions have a log standard deviation above {largest:g} "
            f"(up to {values.max():.3g}): the policy acts at random",
            tensor,
            evidence={"above": above, "largest": float(values.max()), "count": values.size},
        )


@rule("POL002", "entropy-coefficient", Severity.WARNING, on=Checkpoint, worse=("distance",))
def entropy_coefficient(checkpoint: Checkpoint, *, smallest: float = 1e-6, largest: float = 10.0) -> Iterator[Finding]:
    """The coefficient of the entropy bonus is negative, vanished or exploded.

    Why it matters:
        The coefficient weighs exploration against reward. Above ten the policy is trained to act at random; next to
        zero it is trained on reward alone; a negative one punishes exploration.

    When it is normal:
        A fixed coefficient of 0 is the default of PPO and A2C, and tuning often finds one next to zero; only a learned
        one is judged by ``smallest``.

    What to do:
        A learned coefficient grows while the policy's entropy stays below its target: look at ``target_entropy`` and at
        the scale of the rewards. Set a fixed one to a positive value.

    Options:
        smallest: The learned coefficient below which it has vanished; published SAC and TQC agents end at 1.5e-4 to
            0.33.
        largest: The coefficient, learned or fixed, above which it is too large; learned ones start at 1.

    References:
        The coefficient is exp(log_ent_coef). Haarnoja et al. 1812.05905.
    """
    learned = next((tensor for tensor in checkpoint.tensors if tensor.name.endswith("log_ent_coef")), None)
    if learned is not None and learned.size == 1 and not learned.statistics.nonfinite:
        value, subject, least = exp(min(float(as_real(learned.array).reshape(-1)[0]), 700.0)), learned, smallest
    else:
        setting = checkpoint.hyperparameters.get("ent_coef")
        if not isinstance(setting, (int, float)) or isinstance(setting, bool):
            return
        value, subject, least = float(setting), None, 0.0
    if least <= value <= largest:
        return
    if isnan(value):
        what = "the loss of the policy is NaN"
    else:
        what = "negative: exploration is punished" if value < 0 else "vanished" if value < least else "far too large"
    yield entropy_coefficient.finding(
        f"the entropy coefficient is {value:.3g}: {what}",
        subject,
        evidence={"entropy_coefficient": value, "distance": abs(log10(max(abs(value), 1e-300)))},
    )


@rule("POL003", "target-network", Severity.WARNING, worst=Severity.ERROR, on=Checkpoint, part=("component",))
def target_network(checkpoint: Checkpoint, *, unrelated: float = 0.2, least_updates: int = 100) -> Iterator[Finding]:
    """A target network does not follow its online network.

    Why it matters:
        The target network gives the values that the critic is trained towards. One that is never updated keeps those of
        the random network at the start, and nothing that is learned goes beyond one step.

    When it is normal:
        Before the first hard update of a DQN, where the settings show that it comes later in the run.

    What to do:
        Check ``tau`` (0.005 for soft updates, 1.0 for hard ones) and ``target_update_interval``; in code of your own,
        check that the update of the target network is called, on the right pair of networks.

    Options:
        unrelated: The median cosine between the matrices of both networks below which they are unrelated, an error: two
            random networks have 0, and 11 target networks of published agents 0.9995 and more.
        least_updates: The number of the online network's updates from which a target network that still is the initial
            one is reported; it is far beyond the delay of any soft update.

    References:
        Mnih et al. 2015; Lillicrap et al. 1509.02971. Still initial: every entry within PyTorch's initial interval,
        where the online network's have left it.
    """
    pairs = _pairs_by_component(checkpoint)
    if not pairs or checkpoint.is_untrained or _is_first_update_ahead(checkpoint):
        return
    never = _describe_never_synced(checkpoint)
    for component, names in pairs.items():
        if never:
            yield target_network.finding(
                f"{component} is never updated: {never}",
                evidence={"component": component, "cause": "never synced"},
            )
            continue
        cosine = _cosine(checkpoint, names)
        if cosine is not None and cosine < unrelated:
            yield target_network.finding(
                f"the weights of {component} have a cosine of {cosine:.2f} with those of the online network: "
                "they are unrelated",
                severity=Severity.ERROR,
                evidence={"component": component, "cosine": cosine, "cause": "unrelated"},
            )
            continue
        copies = [(checkpoint.by_name[target], checkpoint.by_name[online]) for target, online in names.items()]
        updates = max(checkpoint.updates_of(online) or 0 for online in names.values())
        if (
            updates >= least_updates
            and not any(map(name_of_average, names))
            and is_still_initial(copies, checkpoint, updates)
        ):
            yield target_network.finding(
                f"{component} is still the initial network after {updates:,} updates of the network that it follows",
                evidence={"component": component, "tensors": list(names), "updates": updates, "cause": "still initial"},
            )


def _pairs_by_component(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """Return target tensor to online tensor, for each component that is a target network."""
    pairs: dict[str, dict[str, str]] = {}
    for target, online in checkpoint.online_tensors.items():
        component = checkpoint.layer_of[target].component or target.partition(".")[0]
        pairs.setdefault(component, {})[target] = online
    return pairs


def _is_first_update_ahead(checkpoint: Checkpoint) -> bool:
    """True where the first hard update is due in a part of the run that is still to come."""
    settings = checkpoint.hyperparameters
    interval, total = settings.get("target_update_interval"), settings.get("_total_timesteps")
    if not isinstance(interval, int) or not isinstance(total, (int, float)) or checkpoint.step is None:
        return False
    return checkpoint.step <= interval <= total


def _describe_never_synced(checkpoint: Checkpoint) -> str:
    settings = checkpoint.hyperparameters
    tau, interval = settings.get("tau"), settings.get("target_update_interval")
    if isinstance(tau, (int, float)) and not isinstance(tau, bool) and tau <= 0:
        return f"tau is {tau:g}"
    if isinstance(interval, int) and checkpoint.step is not None and interval > max(checkpoint.step, 1):
        return f"target_update_interval is {interval:,}, beyond the {checkpoint.step:,} steps of the run"
    return ""


def _cosine(checkpoint: Checkpoint, names: Mapping[str, str]) -> float | None:
    """Return the median of the cosines between a target network's matrices and those of its online network.

    The median, since some matrices may be noise that each network draws for itself (NoisyNet).
    """
    cosines = []
    for target_name, online_name in names.items():
        target, online = checkpoint.by_name[target_name], checkpoint.by_name[online_name]
        if len(target.shape) < 2 or target.statistics.nonfinite or online.statistics.nonfinite:
            continue
        left, right = (as_real(each.array).reshape(-1) for each in (target, online))
        with np.errstate(over="ignore", invalid="ignore"):
            length = (float(left @ left) * float(right @ right)) ** 0.5
            if 0 < length < inf:
                cosines.append(float(left @ right) / length)
    return median(cosines) if cosines else None


@rule("POL004", "twin-critics", Severity.WARNING, on=Checkpoint, part=("critics",))
def twin_critics(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Two critics of an ensemble are identical to the last bit.

    Why it matters:
        Twin critics keep each other from overestimating because they differ. Two that started equal receive equal
        gradients and stay equal: their minimum is one critic's estimate.

    When it is normal:
        Never in a trained agent. Where both names show the same bytes the network is shared on purpose. Modules without
        a matrix, or whose matrices are constant, are not compared: they are equal without being copies.

    What to do:
        Initialise each critic by itself instead of copying the first, and give them different seeds.

    References:
        Fujimoto et al. 1802.09477 (clipped double Q-learning).
    """
    critics: dict[str, dict[str, list[Tensor]]] = {}
    for tensor in checkpoint.distinct_tensors:
        match = _TWIN.fullmatch(tensor.name)
        if match and tensor.name not in checkpoint.online_tensors:
            numbered = critics.setdefault(match["before"], {})
            numbered.setdefault(match["number"], []).append(tensor)
    for before, numbered in critics.items():
        (first, *others) = numbered.items()
        for number, tensors in others:
            if not any(len(each.shape) > 1 and each.statistics.minimum != each.statistics.maximum for each in tensors):
                continue
            if len(tensors) == len(first[1]) and all(map(_is_equal, first[1], tensors)):
                pair = [f"{before}{first[0]}", f"{before}{number}"]
                yield twin_critics.finding(
                    f"{pair[0]} and {pair[1]} are identical to the last bit: they estimate the same",
                    evidence={"critics": pair, "tensors": [each.name for each in tensors]},
                )


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype) or one.statistics.norm != other.statistics.norm:
        return False
    return bool(np.array_equal(one.array, other.array))


@rule("HYP003", "discount", Severity.WARNING, on=Checkpoint, part=("setting",), worse=("gamma",))
def discount(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The discount factor, or the factor of generalised advantages, is outside 0 to 1.

    Why it matters:
        With a factor above 1 rewards far away count more than near ones, the sum of rewards has no limit, and value
        targets grow without end. A negative one changes the sign of the reward with every step.

    When it is normal:
        Never for an agent. Exactly 1 is allowed for episodes that end. A ``gamma`` without another setting of an agent
        beside it belongs to a schedule or to a focal loss, and is not judged.

    What to do:
        Set ``gamma`` below 1: 0.99 is the default of Stable-Baselines3, and tuned agents use 0.9 to 0.9999.

    References:
        Sutton and Barto, Reinforcement Learning, 3.3; Schulman et al. 1506.02438 (``gae_lambda``). Range of tuned
        settings: RL Baselines3 Zoo.
    """
    gamma = checkpoint.hyperparameters.get("gamma")
    if checkpoint.algorithm is None and _AGENT_SETTINGS.isdisjoint(checkpoint.hyperparameters):
        return
    if isinstance(gamma, (int, float)) and not isinstance(gamma, bool) and not 0.0 <= gamma <= 1.0:
        harm = "rewards far away count more than near ones" if gamma > 1 else "rewards change sign with every step"
        if isnan(gamma):
            harm = "all value targets are NaN"
        yield discount.finding(
            f"gamma is {gamma:g}: {harm}",
            evidence={"setting": "gamma", "gamma": float(gamma)},
        )
    trace = checkpoint.hyperparameters.get("gae_lambda")
    if isinstance(trace, (int, float)) and not isinstance(trace, bool) and not 0.0 <= trace <= 1.0:
        harm = "errors far away count more than near ones" if trace > 1 else "errors change sign with every step"
        if isnan(trace):
            harm = "all advantages are NaN"
        yield discount.finding(
            f"gae_lambda is {trace:g}: {harm}",
            evidence={"setting": "gae_lambda", "gae_lambda": float(trace)},
        )
