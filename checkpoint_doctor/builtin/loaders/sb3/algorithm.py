"""Infers which algorithm saved a Stable-Baselines3 zip from its settings, classes and tensors."""

from __future__ import annotations

from collections.abc import Collection

from checkpoint_doctor.builtin.loaders.sb3.data import Settings


def infer_algorithm(settings: Settings, tensors: Collection[str]) -> str | None:
    """Return the name of the algorithm's class, ``None`` where the settings fit none.

    Each algorithm has a setting that no other has (the constructors of SB3 0.8 to 2.9 and sb3-contrib); variants with
    the same settings differ in their policies' tensors and classes.
    """
    if "n_delta" in settings:
        return "ARS"
    if "cg_max_steps" in settings:
        return "TRPO"
    if "clip_range" in settings:
        return _infer_ppo(settings, tensors)
    if "gae_lambda" in settings:
        return "A2C"
    if "exploration_fraction" in settings:
        is_quantile = "n_quantiles" in settings or any(name.startswith("quantile_net.") for name in tensors)
        return "QRDQN" if is_quantile else "DQN"
    if "target_entropy" in settings:
        if "top_quantiles_to_drop_per_net" in settings:
            return "TQC"
        is_crossq = "policy_delay" in settings or any(name.endswith(".ra_mean") for name in tensors)
        return "CrossQ" if is_crossq else "SAC"
    if "target_policy_noise" in settings:
        # DDPG is TD3 with one critic and without a policy delay.
        has_two_critics = any(name.startswith("critic.qf1.") for name in tensors)
        return "TD3" if has_two_critics or settings.plain.get("policy_delay") != 1 else "DDPG"
    return _infer_from_class(settings)


def _infer_ppo(settings: Settings, tensors: Collection[str]) -> str:
    if any(name.startswith("lstm_actor.") for name in tensors):
        return "RecurrentPPO"
    modules = {name.module for name in settings.names}
    if any(module.startswith("sb3_contrib.common.maskable") for module in modules):
        return "MaskablePPO"
    if any(module.startswith("sb3_contrib.common.recurrent") for module in modules):
        return "RecurrentPPO"
    return "PPO"


def _infer_from_class(settings: Settings) -> str | None:
    """Infer the algorithm from the class that the HER wrapper (SB3 up to 1.0) wraps, or from the policy's module."""
    wrapped = settings.described.get("model_class")
    if isinstance(wrapped, str):
        return wrapped.rpartition(".")[2]
    policy = settings.described.get("policy_class")
    family = policy.split(".")[1] if isinstance(policy, str) and policy.count(".") > 2 else ""
    return {
        "sac": "SAC",
        "td3": "TD3",
        "dqn": "DQN",
        "tqc": "TQC",
        "qrdqn": "QRDQN",
        "crossq": "CrossQ",
        "ars": "ARS",
    }.get(family)


def is_standard_policy(settings: Settings) -> bool:
    """Return whether policy and features extractor are SB3's own classes, whose buffers are all known."""
    policy = settings.described.get("policy_class")
    extras = settings.described.get("policy_kwargs") or settings.plain.get("policy_kwargs") or {}
    extractor = str(extras.get("features_extractor_class", "")) if isinstance(extras, dict) else ""
    packages = ("stable_baselines3.", "sb3_contrib.")
    if not isinstance(policy, str) or not policy.startswith(packages):
        return False
    return not extractor or any(package in extractor for package in packages)
