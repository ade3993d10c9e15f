"""Dormant units against the truth: do the units that NET001 names ever fire in real episodes?

The truth is a JSON file: for published agents, the units that never fired in 4 to 10 real episodes (``never_active``)
and those that fired in less than 0.1 % of the steps (``rarely_active``). Run as
``python -m benchmarks.truth [--corpus FOLDER] [--truth FILE]``; prints one table, and which flagged units do fire.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_doctor.acts.scan import open_checkpoint
from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units
from tests.corpus import HOW_TO_GET_IT, find_corpus

TRUTH = "truth/units_in_rollouts.json"
"""Where the truth lies, beside the folder of the corpus."""

SATURATED = {
    ("ddpg/Pendulum-v1_1/Pendulum-v1.zip", "actor.mu.2"): (
        "they fire only in states where tanh holds the action at its limit (input beyond ±8), and it passes no gradient"
    ),
}
"""Where flagged units fire and still receive no gradient, and why (checked on 20,000 states drawn at random)."""


@dataclass(frozen=True)
class Outcome:
    """What became of the flagged units of one layer in real episodes."""

    agent: str
    layer: str
    units: int
    """Units of the layer."""
    flagged: frozenset[int]
    never: frozenset[int]
    """Units that never fired, flagged or not."""
    rarely: frozenset[int]
    """Units that fired in less than 0.1 % of the steps, flagged or not; holds ``never``."""

    @property
    def awake(self) -> list[int]:
        """Flagged units that do fire."""
        return sorted(self.flagged - self.rarely)


def compare(corpus: Path, truth: Mapping[str, Any]) -> Iterator[Outcome]:
    """Yield what is true of every layer with flagged units, agent by agent."""
    for agent, episodes in truth.items():
        checkpoint = open_checkpoint(corpus / agent)
        for finding in dormant_units.examine(checkpoint):
            known = episodes["layers"].get(f"{finding.layer}.weight")
            if known is not None:
                yield Outcome(
                    agent=agent,
                    layer=finding.layer or "",
                    units=known["units"],
                    flagged=frozenset(finding.evidence["units"]),
                    never=frozenset(known["never_active"]),
                    rarely=frozenset(known["rarely_active"]) | frozenset(known["never_active"]),
                )


def share(outcomes: Sequence[Outcome], kind: str) -> float:
    """Return which share of the flagged units is among the units of a kind (``never``, ``rarely``)."""
    flagged = sum(len(each.flagged) for each in outcomes)
    return sum(len(each.flagged & getattr(each, kind)) for each in outcomes) / flagged if flagged else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 where the flagged units never fire."""
    parser = argparse.ArgumentParser(description="Compare NET001's units with real episodes.")
    parser.add_argument("--corpus", type=Path, default=find_corpus())
    parser.add_argument("--truth", type=Path, help=f"default: {TRUTH} beside the corpus")
    options = parser.parse_args(arguments)
    if options.corpus is None:
        print(HOW_TO_GET_IT, file=sys.stderr)
        return 2
    truth = options.truth or options.corpus.parent / TRUTH
    if not truth.is_file():
        print(f"the truth ({truth}) is not on this machine", file=sys.stderr)
        return 2
    outcomes = list(compare(options.corpus / "rl-trained-agents", json.loads(truth.read_text())))
    line = "{:<58} {:<28} {:>6} {:>8} {:>7} {:>7}"
    print(line.format("agent", "layer", "units", "flagged", "never", "rarely"))
    for each in outcomes:
        print(line.format(each.agent, each.layer, each.units, len(each.flagged), *_shares([each])))
    total = sum(len(each.flagged) for each in outcomes)
    print(line.format("all", "", sum(each.units for each in outcomes), total, *_shares(outcomes)))
    for each in outcomes:
        if each.awake:
            why = SATURATED.get((each.agent, each.layer), "unexplained")
            print(f"flagged but firing: {each.agent} {each.layer} {each.awake}: {why}")
    return 0 if total >= 1500 and share(outcomes, "never") >= 0.98 and share(outcomes, "rarely") >= 0.99 else 1


def _shares(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    return f"{share(outcomes, 'never'):.1%}", f"{share(outcomes, 'rarely'):.1%}"


if __name__ == "__main__":
    sys.exit(main())
