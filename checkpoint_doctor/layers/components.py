"""Which component of the model a layer belongs to, and which components are target networks or averaged copies."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from functools import lru_cache

from checkpoint_doctor.layers.names import WRAPPERS
from checkpoint_doctor.layers.outlines import Draft

POLICY, VALUE = "policy", "value"
_ON_POLICY_PARTS = {
    "action_net": POLICY,
    "log_std": POLICY,
    "pi_features_extractor": POLICY,
    "lstm_actor": POLICY,
    "policy_net": POLICY,
    "value_net": VALUE,
    "vf_features_extractor": VALUE,
    "lstm_critic": VALUE,
    "critic": VALUE,
    "features_extractor": "features_extractor",
    "shared_net": "features_extractor",
}
"""Modules of a Stable-Baselines3 actor-critic policy to their component (stable_baselines3/common/policies.py)."""

_CONTAINERS = frozenset({"model", "net", "network", "base", "base_model", "state_dict", "model_state_dict", "weights"})
"""Path elements that hold a whole model and name no component."""

_DEEPEST = 16
"""Path elements that are read. Components are named among the first ones; a limit bounds the time for long names."""
_STATE_DICT = re.compile(r"(_model|_net)?_(state_dict|state|params|weights)$|\.(pth|pt)$")
_SEPARATOR = re.compile(r"[./]")


def assign_components(drafts: Sequence[Draft]) -> None:
    """Set every draft's component: by the actor-critic part, or by the first path element that names one."""
    for draft in drafts:
        draft.component = ""
    roots = _policy_roots(drafts)
    general: list[tuple[Draft, list[str]]] = []
    for draft in drafts:
        part = _on_policy_part(draft.path, roots)
        if part is None:
            general.append((draft, [element for element in draft.path[:_DEEPEST] if element not in WRAPPERS]))
        else:
            draft.component = part
    # Path elements that all names share do not tell components apart; the element behind them may.
    shared = _common_prefix_length([path[:-1] for _, path in general])
    for draft, path in general:
        start = next((place for place, element in enumerate(path[:shared]) if is_target_part(element)), shared)
        while start < len(path) - 1 and path[start] in _CONTAINERS:
            start += 1
        if start < len(path) - 1 and (draft.is_wrapped or not path[start].isdigit()):
            draft.component = _STATE_DICT.sub("", path[start])


def _common_prefix_length(paths: list[list[str]]) -> int:
    if not paths:
        return 0
    # The prefix that the first and the last path in sorted order share is shared by all.
    first, last = min(paths), max(paths)
    return next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )


def _policy_roots(drafts: Sequence[Draft]) -> list[tuple[str, ...]]:
    """Return the paths of the modules that are actor-critic policies, the innermost first."""
    roots = {draft.path[: draft.path.index("mlp_extractor")] for draft in drafts if "mlp_extractor" in draft.path}
    if any(draft.path[:1] in (("action_net",), ("lstm_actor",)) for draft in drafts):
        roots.add(())
    return sorted(roots, key=len, reverse=True)


def _on_policy_part(path: tuple[str, ...], roots: Sequence[tuple[str, ...]]) -> str | None:
    for root in roots:
        if path[: len(root)] == root:
            rest = path[len(root) :]
            rest = rest[1:] if rest[:1] == ("mlp_extractor",) else rest
            if rest and rest[0] in _ON_POLICY_PARTS:
                return _ON_POLICY_PARTS[rest[0]]
    return None


_PART_WORDS = frozenset(
    {
        *("actor", "critic", "critics", "policy", "pi", "value", "v", "q", "qs", "qf", "vf", "qnet", "dqn", "ac"),
        *("agent", "net", "nets", "network", "networks", "model", "nn", "encoder", "projector", "quantile"),
        *("advantage", "state", "dict", "params"),
    }
)
"""Words that may stand beside ``target`` in the name of a target network. Beside other words, ``target`` may mean a
target language or a label."""
_TARGET = re.compile(
    r"(?P<private>_*)(?P<before>[a-z0-9_]*?)_?(?P<mark>target|targ|slow)(?P<number>\d*)_?(?P<after>[a-z0-9_]*)"
)
_AVERAGED = re.compile(
    r"(?:(?P<before>model|net|network|unet|\w+_model)_)?(?:ema|polyak|averaged?|swa)"
    r"(?:_(?P<after>model|net|network|unet|weights|params|state_dict))?"
)


_MOMENTUM_ENCODERS = {
    "encoder_k": ("encoder_q",),
    "key_encoder": ("query_encoder",),
    "momentum_encoder": ("encoder", "base_encoder", "online_encoder"),
}
"""Encoders that follow another by a moving average (MoCo and its successors)."""

_MARKED = re.compile(r"(?i)targ|slow|ema|polyak|average|swa|encoder_k|key_encoder|momentum_encoder")


def is_target(name: str) -> bool:
    """Tell whether a tensor, layer or module belongs to a target network or an averaged copy.

    No optimizer holds those: ``critic_target.qf0.0.weight``, ``target_net.fc1.bias``, ``ema_model.conv.weight``. A
    ``target_embedding`` is not one: in translation, the target is a language.
    """
    return next(_possible_online_names(name), None) is not None


@lru_cache(maxsize=8192)
def is_target_part(element: str) -> bool:
    """Tell whether one path element names a target network or an averaged copy."""
    return is_target(element)


def online_name(name: str, names: Container[str] | None = None) -> str | None:
    """Return the online network's name for a target network's tensor, layer or module.

    ``critic_target.qf0`` → ``critic.qf0``. Several names may be possible (``target_net.0`` may be a copy of
    ``policy_net.0`` or of ``net.0``): the first one among ``names`` is returned, ``None`` where there is none, or where
    the given name is not that of a target.
    """
    return next((each for each in _possible_online_names(name) if names is None or each in names), None)


def _possible_online_names(name: str) -> Iterator[str]:
    if not _MARKED.search(name):
        return
    start = 0
    for element in _SEPARATOR.split(name, maxsplit=_DEEPEST)[:_DEEPEST]:
        for replacement in _online_elements(element.lower()):
            before, after = name[:start], name[start + len(element) :]
            yield before + replacement + after if replacement else before + after[1:]
            if after[1:8] == "module.":  # torch.optim.swa_utils.AveragedModel wraps the model
                yield before + replacement + after[0] + after[8:] if replacement else before + after[8:]
        start += len(element) + 1


@lru_cache(maxsize=8192)
def _online_elements(element: str) -> list[str]:
    """Return possible names of a target's path element in the online network, the most likely first."""
    if element in _MOMENTUM_ENCODERS:
        return list(_MOMENTUM_ENCODERS[element])
    averaged = _AVERAGED.fullmatch(element)
    if averaged is not None:
        named = averaged["before"] or averaged["after"]
        return list(dict.fromkeys([named or "model", "model", "net", "online_model", "", "student"]))
    found = _TARGET.fullmatch(element) if "targ" in element or "slow" in element else None
    if found is None:
        return []
    before, after, number = found["before"], found["after"], found["number"]
    parts = [word.rstrip("0123456789") for side in (before, after) if side for word in side.split("_")]
    if not _PART_WORDS.issuperset(parts) or (found["mark"] == "slow" and not parts):
        return []
    candidates = ["online", "policy", "net", "main", "local", "model", "eval"]
    if before or after:
        part = "_".join(word for word in (before, after) if word) + number
        candidates = [part, f"online_{part}", f"{part}_local"]
        if part in ("net", "network", "model", "nn"):
            stems = ("policy", "online", "eval", "q", "main", "current", "local", "behavior")
            candidates = [f"policy_{part}", part, *(f"{stem}_{part}" for stem in stems[1:]), "online"]
    return [found["private"] + name for name in candidates]
