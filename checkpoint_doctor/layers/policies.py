"""Links between the parts of Stable-Baselines3's and sb3-contrib's policies.

Sources: ``stable_baselines3/common/policies.py``, ``torch_layers.py``, ``sac/policies.py``, ``dqn/policies.py`` and
``sb3_contrib/common/recurrent/policies.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from checkpoint_doctor.layers.links import link
from checkpoint_doctor.layers.outlines import Draft

_SB3_PARTS = frozenset({"cnn", "latent_pi", "mu", "q_net", "quantile_net", "action_net", "lstm_actor"})
_SB3_PART = re.compile(
    r"(pi_|vf_)?features_extractor|mlp_extractor|action_net|value_net|lstm_actor|lstm_critic|critic|latent_pi|mu|log_std"
    r"|qf\d+|q_net|quantile_net|cnn|linear"
)

Path = tuple[str, ...]


def connect_policies(flow: Sequence[Draft]) -> None:
    """Link the last layer of every part with the first layers of the parts that read it."""
    if _SB3_PARTS.isdisjoint(element for draft in flow for element in draft.path):
        return
    parts: dict[Path, list[Draft]] = {}
    for draft in flow:
        for length in range(1, min(len(draft.path), 6) + 1):
            parts.setdefault(draft.path[:length], []).append(draft)
    roots = dict.fromkeys(path[:-1] for path in parts if path[-1] in _SB3_PARTS)
    for root in roots:
        policy = _Policy(root, parts)
        if policy.has("action_net") or policy.has("lstm_actor"):
            policy.connect_on_policy()
        else:
            policy.connect_off_policy()


class _Policy:
    """The parts below one module, named as in a policy of Stable-Baselines3."""

    def __init__(self, root: Path, parts: dict[Path, list[Draft]]) -> None:
        self._root = root
        self._parts = parts
        depth = len(root)
        # A subclass may add parts of its own that read the output of the known parts.
        self._inputs_of_custom_parts = {
            draft.inputs
            for draft in (parts[root] if root else [draft for path in parts if len(path) == 1 for draft in parts[path]])
            if draft.previous is None and len(draft.path) > depth and not _SB3_PART.fullmatch(draft.path[depth])
        }

    def has(self, name: str) -> bool:
        """Tell whether the policy has a part with that dotted name."""
        return (*self._root, *name.split(".")) in self._parts

    def connect_off_policy(self) -> None:
        """Link features → latent layers → mean and deviation, and features → Q-network."""
        self._connect("cnn", "linear")
        self._connect("latent_pi", "mu")
        self._connect("latent_pi", "log_std")
        if self._root:
            latent = "latent_pi" if self.has("latent_pi") else "mu"
            for reader in (latent, "q_net", "quantile_net"):
                self._connect("features_extractor", reader)

    def connect_on_policy(self) -> None:
        """Link features → LSTM → shared layers → policy or value layers → head."""
        # Newer files name a shared extractor three times and separate extractors too; only storages tell them apart.
        extractors = (
            [] if self.has("pi_features_extractor") or self.has("vf_features_extractor") else ["features_extractor"]
        )
        actor_lstm = [name for name in ("lstm_actor",) if self.has(name)]
        critic_lstm = [name for name in ("lstm_critic", "critic") if actor_lstm and self.has(name)] or actor_lstm
        for lstm, latent, head in (
            (actor_lstm, "policy_net", "action_net"),
            (critic_lstm, "value_net", "value_net"),
        ):
            stages = [*extractors, *lstm[:1], "mlp_extractor.shared_net", f"mlp_extractor.{latent}", head]
            for first, second in pairwise([stage for stage in stages if self.has(stage)]):
                self._connect(first, second)

    def _connect(self, source: str, reader: str) -> None:
        """Link the last layer of one part with the first layer of another, unless a custom part may read it."""
        if self.has(source) and self.has(reader):
            last = self._parts[*self._root, *source.split(".")][-1]
            first = self._parts[*self._root, *reader.split(".")][0]
            if last is not first and last.outputs not in self._inputs_of_custom_parts:
                link(last, first)
