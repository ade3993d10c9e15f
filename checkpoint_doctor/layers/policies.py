"""How the parts of Stable-Baselines3's and sb3-contrib's policies read each other.

From ``stable_baselines3/common/policies.py``, ``torch_layers.py``, ``sac/policies.py``, ``dqn/policies.py`` and
``sb3_contrib/common/recurrent/policies.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from checkpoint_doctor.layers.links import link
from checkpoint_doctor.layers.outlines import Draft

_TELLING = frozenset({"cnn", "latent_pi", "mu", "q_net", "quantile_net", "action_net", "lstm_actor"})
_KNOWN = re.compile(
    r"(pi_|vf_)?features_extractor|mlp_extractor|action_net|value_net|lstm_actor|lstm_critic|critic|latent_pi|mu|log_std"
    r"|qf\d+|q_net|quantile_net|cnn|linear"
)

Path = tuple[str, ...]


def connect_policies(flow: Sequence[Draft]) -> None:
    """Link the ends of one part with the beginnings of the parts that read it."""
    if _TELLING.isdisjoint(element for draft in flow for element in draft.path):
        return
    parts: dict[Path, list[Draft]] = {}
    for draft in flow:
        for length in range(1, min(len(draft.path), 6) + 1):
            parts.setdefault(draft.path[:length], []).append(draft)
    roots = dict.fromkeys(path[:-1] for path in parts if path[-1] in _TELLING)
    for root in roots:
        policy = _Policy(root, parts)
        if policy.has("action_net") or policy.has("lstm_actor"):
            policy.connect_on_policy()
        else:
            policy.connect_off_policy()


class _Policy:
    """The parts below one module that are called as in a policy of Stable-Baselines3."""

    def __init__(self, root: Path, parts: dict[Path, list[Draft]]) -> None:
        self._root = root
        self._parts = parts
        depth = len(root)
        # A subclass may have parts of its own that read what the known parts give.
        self._foreign_readers = {
            draft.inputs
            for draft in (parts[root] if root else [draft for path in parts if len(path) == 1 for draft in parts[path]])
            if draft.previous is None and len(draft.path) > depth and not _KNOWN.fullmatch(draft.path[depth])
        }

    def has(self, name: str) -> bool:
        """Tell whether the policy has a part of that dotted name."""
        return (*self._root, *name.split(".")) in self._parts

    def connect_off_policy(self) -> None:
        """Follow features → latent layers → mean and deviation, and features → Q-network."""
        self._connect("cnn", "linear")
        self._connect("latent_pi", "mu")
        self._connect("latent_pi", "log_std")
        if self._root:
            latent = "latent_pi" if self.has("latent_pi") else "mu"
            for reader in (latent, "q_net", "quantile_net"):
                self._connect("features_extractor", reader)

    def connect_on_policy(self) -> None:
        """Follow features → LSTM → shared layers → policy or value layers → head."""
        # Newer files name one shared extractor three times, and separate ones so too: only the storage tells which.
        extractors = (
            [] if self.has("pi_features_extractor") or self.has("vf_features_extractor") else ["features_extractor"]
        )
        actor_memory = [name for name in ("lstm_actor",) if self.has(name)]
        critic_memory = [name for name in ("lstm_critic", "critic") if actor_memory and self.has(name)] or actor_memory
        for memory, latent, head in (
            (actor_memory, "policy_net", "action_net"),
            (critic_memory, "value_net", "value_net"),
        ):
            stages = [*extractors, *memory[:1], "mlp_extractor.shared_net", f"mlp_extractor.{latent}", head]
            for first, second in pairwise([stage for stage in stages if self.has(stage)]):
                self._connect(first, second)

    def _connect(self, giver: str, reader: str) -> None:
        """Link the last layer of one part with the first layer of another, if nobody else seems to read it."""
        if self.has(giver) and self.has(reader):
            end = self._parts[*self._root, *giver.split(".")][-1]
            beginning = self._parts[*self._root, *reader.split(".")][0]
            if end is not beginning and end.outputs not in self._foreign_readers:
                link(end, beginning)
