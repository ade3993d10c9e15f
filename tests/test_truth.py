"""What NET001 flags on published agents, against real episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.truth import SATURATED, TRUTH, compare, share


def test_flagged_units_do_not_fire_in_real_episodes(corpus: Path):
    truth = corpus.parent / TRUTH
    if not truth.is_file():
        pytest.skip("the truth from real episodes is not on this machine")
    outcomes = list(compare(corpus / "rl-trained-agents", json.loads(truth.read_text())))
    assert sum(len(each.flagged) for each in outcomes) >= 1500
    assert share(outcomes, "never") >= 0.98
    assert share(outcomes, "rarely") >= 0.99
    assert {(each.agent, each.layer) for each in outcomes if each.awake} <= SATURATED.keys()
