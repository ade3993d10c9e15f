"""A reduced fault bench: one fault at a time is found where it is, and healthy networks are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import Patient, agents, diagnose, failures, networks
from benchmarks.models import NETWORKS

STEPS = 120
"""Fewer updates than the bench has: enough for moments, short enough for a test."""

WITH_OPTIMIZER = "trained, with optimizer"
SMALL = ("MLP", "LayerNorm MLP", "LSTM")
"""Networks that are also looked at without an optimizer, trained and fresh; the bench does so with all."""

PUBLISHED = (
    "ppo/CartPole-v1_1/CartPole-v1.zip",
    "sac/Pendulum-v1_1/Pendulum-v1.zip",
    "dqn/CartPole-v1_1/CartPole-v1.zip",
    "trpo/CartPole-v1_1/CartPole-v1.zip",
)


def assert_all_found(patient: Patient, folder: Path) -> None:
    outcomes = list(diagnose(patient, folder))
    assert len(outcomes) > 10
    assert not failures(outcomes), "\n".join(failures(outcomes))


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, tmp_path: Path) -> None:
    kinds = {"fresh, .safetensors", "trained, .pt", WITH_OPTIMIZER} if name in SMALL else {WITH_OPTIMIZER}
    patients = [each for each in networks([name], steps=STEPS) if each.name in {f"{name}, {kind}" for kind in kinds}]
    assert len(patients) == len(kinds)
    for patient in patients:
        assert_all_found(patient, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_agent(name: str, corpus: Path, tmp_path: Path) -> None:
    (patient,) = agents(corpus / "rl-trained-agents", [name])
    assert_all_found(patient, tmp_path)
