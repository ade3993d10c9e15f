"""Rules about policies at their borders: what exactly is said, and the nearest setting that is sound."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor.builtin.analyzers.settings.policy import (
    discount,
    entropy_coefficient,
    log_std_range,
    target_network,
    twin_critics,
)
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.test_rule_findings import draw, found

NET = {"net.weight": draw(4, 4)}


@pytest.mark.parametrize(
    ("values", "evidence"),
    [
        ([-10.0, 1.5], None),
        ([-10.5, -11.0, 0.0], {"below": 2, "smallest": -11.0, "count": 3}),
        ([1.75, 0.0, 2.0], {"above": 2, "largest": 2.0, "count": 3}),
        ([-12.0, 3.0], {"below": 1, "smallest": -12.0, "count": 2}),
        ([], None),
    ],
)
def test_actions_beyond_the_range_are_counted(values: list[float], evidence: dict[str, Any] | None) -> None:
    findings = found(log_std_range, {"log_std": np.array(values, np.float64)})
    assert [each.evidence for each in findings] == ([] if evidence is None else [evidence])
    assert all("actions have" in each.message for each in findings)
    assert found(log_std_range, {"log_std": np.array([-12, 3])}) == [], "integers"


def entropy(learned: Any = None, **settings: Any) -> list[tuple[float, str, float]]:
    tensors = NET if learned is None else NET | {"log_ent_coef": np.asarray(learned, np.float64)}
    findings = found(entropy_coefficient, build_checkpoint(tensors, hyperparameters=settings))
    assert all((each.tensor == "log_ent_coef") is (learned is not None) or settings for each in findings)
    return [
        (each.evidence["entropy_coefficient"], each.message.partition(": ")[2], each.evidence["distance"])
        for each in findings
    ]


VANISHED, LARGE, NEGATIVE = "vanished", "far too large", "negative: exploration is punished"


@pytest.mark.parametrize(
    ("learned", "setting", "expected"),
    [
        (None, 0, None),
        (None, 0.0, None),
        (None, 10.0, None),
        (None, 10.5, (10.5, LARGE)),
        (None, -0.5, (-0.5, NEGATIVE)),
        (None, 1e-9, None),
        (None, True, None),
        (None, "auto", None),
        (None, np.nan, (np.nan, "the loss of the policy is NaN")),
        ([log(1.01e-6)], None, None),
        ([log(0.99e-6)], None, (0.99e-6, VANISHED)),
        ([log(10.1)], None, (10.1, LARGE)),
        ([log(9.9)], None, None),
        ([800.0], None, (exp(700), LARGE)),
        ([-20.0, -20.0], 0.5, None),
        ([-20.0, -20.0], 11.0, (11.0, LARGE)),
        ([np.nan], 11.0, (11.0, LARGE)),
        ([0.0], 11.0, None),
    ],
)
def test_the_learned_coefficient_counts_before_the_setting(
    learned: list[float] | None, setting: Any, expected: tuple[float, str] | None
) -> None:
    settings = {} if setting is None else {"ent_coef": setting}
    findings = entropy(learned, **settings)
    if expected is None:
        assert findings == []
        return
    ((value, words, distance),) = findings
    assert value == pytest.approx(expected[0], nan_ok=True)
    assert words == expected[1]
    assert np.isnan(value) or distance == pytest.approx(abs(np.log10(abs(value))))


def agent(target: Any = None, *, trained: bool = True, step: int | None = 500, **settings: Any) -> Checkpoint:
    weights = {"q_net.q_net.0.weight": draw(4, 3), "q_net.q_net.0.bias": draw(4)}
    weights |= {"q_net_target.q_net.0.weight": draw(4, 3) if target is None else np.asarray(target, np.float64)}
    weights |= {"q_net_target.q_net.0.bias": -draw(4)}
    state = {"step": 9, "exp_avg": np.ones((4, 3)), "exp_avg_sq": np.ones((4, 3))}
    return build_checkpoint(
        weights, optimizer={"q_net.q_net.0.weight": state} if trained else None, hyperparameters=settings, step=step
    )


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, None),
        ({"tau": 0}, "tau is 0"),
        ({"tau": -0.5}, "tau is -0.5"),
        ({"tau": 1e-9}, None),
        ({"tau": False}, None),
        ({"tau": "soft"}, None),
        ({"target_update_interval": 500}, None),
        ({"target_update_interval": 501}, "target_update_interval is 501, beyond the 500 steps of the run"),
        ({"target_update_interval": 501.0}, None),
        ({"target_update_interval": 501, "step": None}, None),
        ({"target_update_interval": 1, "step": 0}, None),
        ({"target_update_interval": 2, "step": 0}, "target_update_interval is 2, beyond the 0 steps of the run"),
    ],
)
def test_settings_say_that_a_target_is_never_updated(fields: dict[str, Any], cause: str | None) -> None:
    findings = found(target_network, agent(**fields))
    assert [(each.severity, each.message.partition(": ")[2]) for each in findings] == (
        [] if cause is None else [(Severity.WARNING, cause)]
    )
    for each in findings:
        assert each.evidence == {"component": "q_net_target", "cause": "never synced"}


def at_cosine(cosine: float) -> Any:
    online = draw(4, 3).astype(np.float64)
    other = draw(4, 3, seed=1).astype(np.float64)
    other -= online * (other * online).sum() / (online**2).sum()
    other *= np.linalg.norm(online) / np.linalg.norm(other)
    return 3 * (cosine * online + (1 - cosine**2) ** 0.5 * other)


@pytest.mark.parametrize(
    ("target", "cosine"),
    [
        (at_cosine(0.21), None),
        (at_cosine(0.19), 0.19),
        (at_cosine(-1.0), -1.0),
        (np.zeros((4, 3)), None),
        (1e200 * at_cosine(0.0), None),
        (np.where(np.arange(12).reshape(4, 3) == 1, np.nan, at_cosine(0.0)), None),
    ],
)
def test_unrelated_networks_are_told_by_the_cosine_of_their_matrices(target: Any, cosine: float | None) -> None:
    findings = found(target_network, agent(target))
    assert [each.severity for each in findings] == ([] if cosine is None else [Severity.ERROR])
    for each in findings:
        assert each.evidence["cosine"] == pytest.approx(cosine, abs=1e-6)
        assert each.evidence["cause"] == "unrelated"


def critics(*seeds: int, prefix: str = "critic.qf", **others: Any) -> Checkpoint:
    weights = {"actor.0.weight": draw(4, 3), "actor.2.weight": draw(4, 3)} | {
        f"{prefix}{number}.0.{role}": draw(*shape, seed=seed)
        for number, seed in enumerate(seeds)
        for role, shape in (("weight", (4, 3)), ("bias", (4,)))
    }
    return build_checkpoint(weights | {name.replace("__", "."): value for name, value in others.items()})


@pytest.mark.parametrize(
    ("checkpoint", "pairs"),
    [
        (critics(1, 2), []),
        (critics(1, 1), [["critic.qf0", "critic.qf1"]]),
        (critics(1, 2, 1), [["critic.qf0", "critic.qf2"]]),
        (critics(1, 1, 1), [["critic.qf0", "critic.qf1"], ["critic.qf0", "critic.qf2"]]),
        (critics(1, 1, prefix="critic_"), [["critic_0", "critic_1"]]),
        (critics(1, 1, prefix="block"), []),
        (critics(1, 1, critic__qf1__2__weight=draw(4, 4)), []),
        (critics(1, 1, critic__qf1__0__weight=draw(4, 3, seed=1).astype(np.float64)), []),
        (critics(1, 1, critic__qf1__0__weight=draw(4, 3, seed=1).T.copy()), []),
        (critics(1, 1, critic__qf1__0__bias=-draw(4, seed=1)), []),
        (critics(1, 2, critic__qf0__0__weight=np.ones((4, 3)), critic__qf1__0__weight=np.ones((4, 3)),
                 critic__qf0__0__bias=np.ones(4), critic__qf1__0__bias=np.ones(4)), []),
    ],
    ids=["different", "equal", "the third", "three", "with a line", "no critics", "more layers", "another type",
         "another shape", "negative biases", "constant"],
)  # fmt: skip
def test_critics_are_compared_with_the_first(checkpoint: Checkpoint, pairs: list[list[str]]) -> None:
    findings = found(twin_critics, checkpoint)
    assert [each.evidence["critics"] for each in findings] == pairs
    for each, (_, other) in zip(findings, pairs, strict=True):
        assert each.evidence["tensors"] == [f"{other}.0.weight", f"{other}.0.bias"]


def test_target_critics_follow_theirs_and_are_not_compared() -> None:
    weights = {f"critic{suffix}.qf{n}.0.weight": draw(4, 3, seed=n) for suffix in ("", "_target") for n in (0, 1)}
    weights |= {f"critic_target.qf{n}.0.weight": draw(4, 3, seed=9) for n in (0, 1)}
    checkpoint = build_checkpoint(weights)
    assert len(checkpoint.online_tensors) == 2
    assert found(twin_critics, checkpoint) == []


@pytest.mark.parametrize(
    ("gamma", "words"),
    [
        (0.0, ""), (1.0, ""), (1, ""), (True, ""), ("high", ""), (1.01, "far away count more"),
        (3.0, "far away count more"), (-0.01, "change sign"), (np.nan, "all value targets are NaN"),
    ],
)  # fmt: skip
def test_what_a_discount_does_is_told(gamma: Any, words: str) -> None:
    findings = found(discount, build_checkpoint(NET, algorithm="DQN", hyperparameters={"gamma": gamma}))
    assert [words in each.message for each in findings] == ([True] if words else [])
    for each in findings:
        assert each.evidence["gamma"] == pytest.approx(gamma, nan_ok=True)


def test_a_gamma_belongs_to_an_agent() -> None:
    for settings, algorithm, count in (
        ({}, None, 0), ({"tau": 1}, None, 1), ({}, "DQN", 1), ({"alpha": 1}, None, 0), ({"n_envs": 1}, "DQN", 1)
    ):  # fmt: skip
        subject = build_checkpoint(NET, algorithm=algorithm, hyperparameters={"gamma": 2.0, **settings})
        assert len(found(discount, subject)) == count, (settings, algorithm)
