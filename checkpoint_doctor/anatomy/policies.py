"""How the parts of Stable-Baselines3's and sb3-contrib's policies read each other.

From ``stable_baselines3/common/policies.py``, ``torch_layers.py``, ``sac/policies.py``, ``dqn/policies.py`` and
``sb3_contrib/common/recurrent/policies.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from checkpoint_doctor.anatomy.outlines import Draft, Kind

_TELLING = frozenset({"cnn", "latent_pi", "mu", "q_net", "quantile_net", "action_net", "lstm_actor"})

Path = tuple[str, ...]
Link = Callable[[Draft, Draft], bool]


def connect_policies(flow: Sequence[Draft], link: Link) -> None:
    """Link the ends of one part with the beginnings of the parts that read it."""
    if _TELLING.isdisjoint(element for draft in flow for element in draft.path):
        return
    parts: dict[Path, list[Draft]] = {}
    for draft in flow:
        for length in range(1, min(len(draft.path), 6) + 1):
            parts.setdefault(draft.path[:length], []).append(draft)
    for root in {path[:-1] for path in parts if path[-1] in ("cnn", "latent_pi", "mu", "q_net", "quantile_net")}:
        _connect(parts, link, (*root, "cnn"), [(*root, "linear")])
        _connect(parts, link, (*root, "latent_pi"), [(*root, "mu"), (*root, "log_std")])
        extractor = (*root, "features_extractor")
        latent = (*root, "latent_pi") if (*root, "latent_pi") in parts else (*root, "mu")
        for reader in (latent, (*root, "q_net"), (*root, "quantile_net")):
            if root and reader in parts:
                _connect(parts, link, extractor, [reader])
    for root in {path[:-1] for path in parts if path[-1] in ("action_net", "lstm_actor")}:
        _connect_actor_critic(parts, link, root)


def _connect_actor_critic(parts: dict[Path, list[Draft]], link: Link, root: Path) -> None:
    """Follow features → (LSTM) → shared layers → policy or value layers → head."""
    # Newer files name the shared extractor three times, and separate ones too: who reads which, only the storage tells.
    extractor = (*root, "features_extractor")
    is_one = not any((*root, f"{part}_features_extractor") in parts for part in ("pi", "vf"))

    def chain(memories: Sequence[str], latent: str, head: str) -> None:
        stages = [
            extractor if is_one else None,
            next(((*root, name) for name in memories if (*root, name) in parts), None),
            (*root, "mlp_extractor", "shared_net"),
            (*root, "mlp_extractor", latent),
            (*root, head),
        ]
        present = [stage for stage in stages if stage is not None and stage in parts]
        for first, second in pairwise(present):
            _connect(parts, link, first, [second])

    chain(("lstm_actor",), "policy_net", "action_net")
    memories = ("lstm_critic", "critic") if (*root, "lstm_actor") in parts else ()
    is_shared = (*root, "lstm_actor") in parts and not any((*root, memory) in parts for memory in memories)
    chain(
        ("lstm_actor",) if is_shared else memories,
        "value_net",
        "value_net",
    )


def _connect(parts: dict[Path, list[Draft]], link: Link, first: Path, readers: Sequence[Path]) -> None:
    """Link the last layer of one part with the first layer of each of the others."""
    if first not in parts:
        return
    end = parts[first][-1]
    for reader in readers:
        if reader in parts and end not in parts[reader] and parts[reader][0].kind is not Kind.EMBEDDING:
            link(end, parts[reader][0])
