"""Which part of the model a layer belongs to, and which parts are slowly following copies of others."""

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
"""Where the parts of a Stable-Baselines3 actor-critic policy belong (stable_baselines3/common/policies.py)."""

_TRUNKS = frozenset({"model", "net", "network", "base", "base_model", "state_dict", "model_state_dict", "weights"})
_DEEPEST = 16
"""Path elements that are looked at; nobody hides a component deeper."""
_STORED = re.compile(r"(_model|_net)?_(state_dict|state|params|weights)$|\.(pth|pt)$")
_SEPARATED = re.compile(r"[./]")


def component_of(drafts: Sequence[Draft]) -> None:
    """Set every draft's component: the actor-critic part, or the first telling element of its name."""
    for draft in drafts:
        draft.component = ""
    roots = {draft.path[: draft.path.index("mlp_extractor")] for draft in drafts if "mlp_extractor" in draft.path}
    roots |= {()} if any(draft.path[:1] in (("action_net",), ("lstm_actor",)) for draft in drafts) else set()
    general: list[tuple[Draft, list[str]]] = []
    for draft in drafts:
        part = _on_policy_part(draft.path, roots)
        if part is None:
            general.append((draft, [element for element in draft.path[:_DEEPEST] if element not in WRAPPERS]))
        else:
            draft.component = part
    # A trunk that everything shares says nothing; what comes after it may.
    shared = _length_of_common_beginning([path[:-1] for _, path in general])
    for draft, path in general:
        start = next((place for place, element in enumerate(path[:shared]) if is_target_part(element)), shared)
        while start < len(path) - 1 and path[start] in _TRUNKS:
            start += 1
        if start < len(path) - 1 and (draft.is_wrapped or not path[start].isdigit()):
            draft.component = _STORED.sub("", path[start])


def _length_of_common_beginning(paths: list[list[str]]) -> int:
    if not paths:
        return 0
    # What the first and the last in sorted order share, all of them share.
    first, last = min(paths), max(paths)
    return next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )


def _on_policy_part(path: tuple[str, ...], roots: set[tuple[str, ...]]) -> str | None:
    for root in roots:
        if path[: len(root)] == root:
            rest = path[len(root) :]
            rest = rest[1:] if rest[:1] == ("mlp_extractor",) else rest
            if rest and rest[0] in _ON_POLICY_PARTS:
                return _ON_POLICY_PARTS[rest[0]]
    return None


_PART_WORDS = frozenset(
    {
        *(
            "actor",
            "critic",
            "critics",
            "policy",
            "pi",
            "value",
            "v",
            "q",
            "qs",
            "qf",
            "vf",
            "qnet",
            "dqn",
            "ac",
            "agent",
        ),
        *("net", "nets", "network", "networks", "model", "nn", "encoder", "projector", "quantile", "advantage"),
        *("state", "dict"),
    }
)
"""Words beside ``target`` that make it a network; beside any other word it may be a language or a label."""
_TARGET = re.compile(
    r"(?P<private>_*)(?P<before>[a-z0-9_]*?)_?(?P<mark>target|targ|slow)(?P<number>\d*)_?(?P<after>[a-z0-9_]*)"
)
_AVERAGED = re.compile(
    r"(?:(?P<before>model|net|network|unet|\w+_model)_)?(?:ema|polyak|averaged)"
    r"(?:_(?P<after>model|net|network|unet|weights|state_dict))?"
)


_MARKED = re.compile(r"(?i)targ|slow|ema|polyak|averaged")


def is_target(name: str) -> bool:
    """Tell whether a tensor, layer or module belongs to a target network or an averaged copy.

    Those are in no optimizer: ``critic_target.qf0.0.weight``, ``target_net.fc1.bias``, ``ema_model.conv.weight``. A
    ``target_embedding`` is none: in translation the target is a language.
    """
    return next(_twins(name), None) is not None


@lru_cache(maxsize=8192)
def is_target_part(element: str) -> bool:
    """Answer ``is_target`` for one path element."""
    return is_target(element)


def online_name(name: str, names: Container[str] | None = None) -> str | None:
    """Name what a target network's tensor, layer or module follows: ``critic_target.qf0`` → ``critic.qf0``.

    Where the name leaves several possibilities (``target_net.0`` may follow ``policy_net.0`` or ``net.0``), the first
    one that is among ``names`` is taken; ``None`` where none is, or where the name is that of no target.
    """
    return next((twin for twin in _twins(name) if names is None or twin in names), None)


def _twins(name: str) -> Iterator[str]:
    if not _MARKED.search(name):
        return
    start = 0
    for element in _SEPARATED.split(name, maxsplit=_DEEPEST)[:_DEEPEST]:
        for replacement in _online_names(element.lower()):
            before, after = name[:start], name[start + len(element) :]
            yield before + replacement + after if replacement else before + after[1:]
        start += len(element) + 1


@lru_cache(maxsize=8192)
def _online_names(element: str) -> list[str]:
    """Return what the path element of a target may be called in the online network, the likeliest first."""
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
    names = ["online", "policy", "net", "main", "local", "model", "eval"]
    if before or after:
        part = "_".join(word for word in (before, after) if word) + number
        names = [part, f"online_{part}", f"{part}_local"]
        if part in ("net", "network", "model", "nn"):
            stems = ("policy", "online", "eval", "q", "main", "current", "local", "behavior")
            names = [f"policy_{part}", part, *(f"{stem}_{part}" for stem in stems[1:]), "online"]
    return [found["private"] + name for name in names]
