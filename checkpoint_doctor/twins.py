"""Target networks: which tensor is a slowly following copy of which."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TARGET = re.compile(r"(?P<before>^|_)(?:target|targ|tgt|ema)(?P<after>_|$)|(?<=[a-z])Target", re.IGNORECASE)

_UNNAMED = ("online", "policy", "")
"""What the network beside one that is called ``target`` and nothing else goes by."""


def online_twin(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the name of the tensor that a target network's tensor is a copy of; ``None`` for all others.

    A twin has ``target`` (``targ``, ``tgt``, ``ema``) in one part of its dotted name and is otherwise called and shaped
    alike: ``critic_target.qf0.0.weight`` is a copy of ``critic.qf0.0.weight``. ``shapes`` maps every name to its shape.
    """
    parts = name.split(".")
    for position, part in enumerate(parts):
        member, slash, word = part.rpartition("/")
        bare = _TARGET.sub(lambda match: "_" if match["before"] and match["after"] else "", word)
        if bare == word:
            continue
        calls = (bare, f"{bare}_net", f"{bare}_online", f"online_{bare}", f"policy_{bare}") if bare else _UNNAMED
        for online in calls:
            middle = (member + slash + online,) if online else (member,) if member else ()
            twin = ".".join((*parts[:position], *middle, *parts[position + 1 :]))
            if not online and member:
                twin = twin.replace(f"{member}.", f"{member}/", 1)
            if twin in shapes and shapes[twin] == shapes[name]:
                return twin
    return None
