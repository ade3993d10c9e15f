"""Which layers read the model's inputs, and which of them read the same."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers._evidence.model_inputs import (
    find_first_layers,
    group_by_inputs,
    measured_input_rms,
    possible_sources,
    reads_model_inputs,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.testing import build_checkpoint

Shapes = dict[str, tuple[int, ...]]


def built(shapes: Shapes, format: str = "torch") -> Checkpoint:
    random = np.random.default_rng(0)
    names = {name if "." in name else f"{name}.weight": shape for name, shape in shapes.items()}
    return build_checkpoint({name: random.normal(size=shape) for name, shape in names.items()}, format=format)


def weights(*layers: tuple[str, tuple[int, ...]]) -> Shapes:
    return {f"{name}.weight": shape for name, shape in layers}


@pytest.mark.parametrize(
    ("shapes", "first"),
    [
        (weights(("net.0", (8, 6)), ("net.2", (3, 8))), ["net.0"]),
        (weights(("a.0", (8, 6)), ("a.2", (4, 8)), ("b.0", (5, 7)), ("b.2", (9, 5))), ["a.0"]),  # 7 may hold the 4
        (weights(("a.0", (8, 6)), ("a.2", (4, 8)), ("b.0", (5, 3)), ("b.2", (9, 5))), ["a.0", "b.0"]),
        (weights(("a.0", (8, 6)), ("a.2", (2, 8)), ("b.0", (5, 3)), ("b.2", (9, 5))), ["a.0"]),
        (weights(("a.0", (8, 6)), ("a.2", (1, 8)), ("b.0", (5, 3)), ("b.2", (9, 5))), ["a.0", "b.0"]),
        (weights(("a.0", (8, 6)), ("a.2", (8, 8)), ("b.0", (5, 8)), ("b.2", (9, 5))), ["a.0"]),
        (weights(("net", (3, 6))), ["net"]),  # alone, a head reads the inputs
        (weights(("critic_target.0", (8, 6)), ("critic_target.2", (1, 8))), []),
    ],
)
def test_which_layers_are_first(shapes: Shapes, first: list[str]) -> None:
    assert [each.name for each in find_first_layers(built(shapes))] == first


def test_a_head_of_unknown_source_is_no_first_layer() -> None:
    checkpoint = built(weights(("net.0", (8, 6)), ("net.2", (3, 8))))
    head = checkpoint.layer_by_name["net.2"]
    assert head.is_output
    assert not reads_model_inputs(head, checkpoint)
    alone = built(weights(("net", (3, 6))))
    assert reads_model_inputs(alone.layers[0], alone)


@pytest.mark.parametrize(
    ("format", "groups"),
    [
        ("torch", [["critic.qf0.0"], ["actor.mu.0", "actor.other.0"]]),
        ("sb3", [["actor.mu.0", "actor.other.0", "critic.qf0.0"]]),
    ],
)
def test_the_critic_of_an_agent_reads_what_the_actor_reads(format: str, groups: list[list[str]]) -> None:
    layers = ("actor.mu.0", (8, 6)), ("actor.other.0", (8, 6)), ("critic.qf0.0", (8, 9))
    checkpoint = built(weights(*layers), format)
    first = [checkpoint.layer_by_name[name] for name, _ in layers]
    assert [[each.name for each in group] for group in group_by_inputs(first, checkpoint)] == groups


def test_layers_of_other_kinds_or_sizes_read_other_inputs() -> None:
    layers = ("actor.mu.0", (8, 6)), ("actor.cnn.0", (8, 6, 3, 3)), ("actor.other.0", (8, 7))
    checkpoint = built(weights(*layers), "sb3")
    first = [checkpoint.layer_by_name[name] for name, _ in layers]
    assert sorted(len(group) for group in group_by_inputs(first, checkpoint)) == [1, 1, 1]


def test_the_sources_of_a_layer_are_the_nearest_before_it() -> None:
    layers = [(f"part{number}", (4, 5)) for number in range(258)]
    checkpoint = built(weights(*layers, ("joined", (3, 8)), ("after", (4, 3)), ("head", (2, 4))))
    found = possible_sources(checkpoint.layer_by_name["joined"], 8, checkpoint)
    assert [each.name for each in found] == [f"part{number}" for number in range(2, 258)]


def signals(checkpoint: Checkpoint, sizes: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    known = {layer.name: SimpleNamespace(input_rms=sizes.get(layer.name)) for layer in checkpoint.layers}
    monkeypatch.setattr(Checkpoint, "signals", known)


def test_what_is_measured_at_one_layer_holds_for_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ("actor.mu.0", (8, 6)), ("actor.mu.2", (1, 8)), ("critic.qf0.0", (8, 9)), ("critic.qf0.2", (1, 8))
    checkpoint = built(weights(*layers), "sb3")
    signals(checkpoint, {"critic.qf0.0": 3.0}, monkeypatch)
    assert measured_input_rms(checkpoint.layer_by_name["actor.mu.0"], checkpoint) == 3.0
    signals(checkpoint, {"critic.qf0.0": 3.0, "actor.mu.0": 2.0}, monkeypatch)
    assert measured_input_rms(checkpoint.layer_by_name["actor.mu.0"], checkpoint) == 2.0
    signals(checkpoint, {}, monkeypatch)
    assert measured_input_rms(checkpoint.layer_by_name["actor.mu.2"], checkpoint) is None
