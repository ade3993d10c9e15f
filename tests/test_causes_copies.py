"""Causes in copies of a network and in an agent's settings: which of them a file shows, beside its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.results.findings import Severity
from tests import test_causes_gradients, test_causes_inputs, test_causes_optimization, test_causes_values
from tests.diagnosing import (
    CATALOGUE,
    Weights,
    claims_of,
    diagnose,
    explained,
    linear,
    network,
    normal,
    symptom,
    trained,
    zeros,
)

NET = trained(network())
BATCH_NORM: Weights = {
    "net.1.weight": normal(16) + 1,
    "net.1.bias": normal(16),
    "net.1.running_mean": normal(16),
    "net.1.running_var": np.square(normal(16)) + np.float32(0.1),
    "net.1.num_batches_tracked": np.array(1000),
}
NORMALISED = linear("net.0", 16, 6) | BATCH_NORM | linear("net.3", 12, 16) | linear("net.5", 4, 12)
INITIAL = {
    "net.1.running_mean": zeros(16), "net.1.running_var": zeros(16) + 1, "net.1.num_batches_tracked": np.array(0)
}  # fmt: skip


def near(weights: Weights, distance: float = 0.01) -> Weights:
    """Weights close to others, as an average of them is."""
    return {
        name: array + normal(*array.shape, seed=9, scale=distance) if array.ndim else array
        for name, array in weights.items()
    }


def beside(copy: str, weights: Weights, model: Weights | None = None, online: str = "", **fields: Any) -> Checkpoint:
    """A trained model beside a copy of it that no optimizer holds."""
    model = network() if model is None else model
    copies = {f"{copy}.{name.removeprefix('net.')}": array for name, array in weights.items()}
    models = {f"{online or 'net'}.{name.removeprefix('net.')}": array for name, array in model.items()}
    return trained(copies | models, {f"{copy}.": "absent"}, **fields)


def averaged(copy: Weights) -> Checkpoint:
    """A model with a batch norm beside an average with these tensors."""
    return trained({f"ema.{name}": array for name, array in copy.items()} | NORMALISED, {"ema.": "absent"})


def critics(other: Weights) -> Checkpoint:
    parts = enumerate((network(), other))
    pair = {f"critic.qf{number}.{name[4:]}": array for number, part in parts for name, array in part.items()}
    return trained(pair, algorithm="SAC", format="sb3")


SHOWN: Mapping[str, tuple[Checkpoint, list[str]]] = {
    "an average that follows": (averaged(near(NORMALISED)), []),
    "an average that is the model": (averaged(NORMALISED), ["average-not-updated proven RES004"]),
    "an average without buffers": (averaged(near(NORMALISED) | INITIAL), ["average-not-updated proven NRM003"]),
    "neither the average nor the model has statistics": (
        trained({f"ema.{n}": a for n, a in (near(NORMALISED) | INITIAL).items()} | NORMALISED | INITIAL,
                {"ema.": "absent"}),
        ["norm-statistics proven NRM003"],
    ),
    "a momentum encoder that is the encoder": (
        beside("encoder_k", network(), online="encoder_q"), ["target-not-synced proven RES004"]
    ),
    "a target that follows": (
        beside("critic_target", near(network()), online="critic", algorithm="SAC", hyperparameters={"tau": 0.005}), []
    ),
    "a target that is never updated": (
        beside("critic_target", near(network()), online="critic", algorithm="SAC", hyperparameters={"tau": 0.0}),
        ["target-not-synced proven POL003"],
    ),
    "a target that has nothing in common": (
        beside("critic_target", {n: normal(*a.shape, seed=77) for n, a in network().items()}, online="critic",
               algorithm="SAC", hyperparameters={"tau": 0.005}),
        ["target-not-synced proven POL003"],
    ),
    "two critics that are one": (critics(network()), ["twin-critics-identical proven POL004"]),
    "two critics": (critics({n: normal(*a.shape, seed=50) for n, a in network().items()}), []),
    "a policy that no longer explores": (
        trained(network() | {"log_std": np.full(4, -30, np.float32)}, algorithm="PPO"),
        ["exploration-collapsed proven POL001"],
    ),
    "a policy that explores": (trained(network() | {"log_std": np.full(4, -1, np.float32)}, algorithm="PPO"), []),
    "a negative bonus for entropy": (
        trained(network(), algorithm="PPO", hyperparameters={"ent_coef": -0.1}), ["entropy-coefficient proven POL002"]
    ),
    "an ordinary bonus for entropy": (trained(network(), algorithm="PPO", hyperparameters={"ent_coef": 0.01}), []),
    "a discount above 1": (
        trained(network(), algorithm="PPO", hyperparameters={"gamma": 1.5}), ["settings-out-of-range proven HYP003"]
    ),
    "an ordinary discount": (trained(network(), algorithm="PPO", hyperparameters={"gamma": 0.99}), []),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_what_copies_and_settings_show(name: str) -> None:
    checkpoint, expected = SHOWN[name]
    assert diagnose(checkpoint) == expected


@pytest.mark.parametrize(
    ("average", "cause"),
    [
        ("ema", "average-not-updated"),
        ("swa_model", "average-not-updated"),
        ("teacher", "target-not-synced"),
        ("momentum_encoder", "target-not-synced"),
        ("encoder_k", "target-not-synced"),
        ("kernel_average", "average-not-updated"),
    ],
)
def test_what_training_follows_is_a_target_and_the_rest_an_average(average: str, cause: str) -> None:
    found = [symptom("RES004", average=average)]
    claims = {name: claims_of(name, NET, found) for name in ("average-not-updated", "target-not-synced")}
    assert [name for name, claimed in claims.items() if claimed] == [cause]


def test_statistics_of_the_model_are_no_matter_of_its_average() -> None:
    average, model = (symptom("NRM003", f"{name}.1.running_var") for name in ("ema.net", "net"))
    [claim] = claims_of("average-not-updated", NET, [average])
    assert claim.remedy == "AveragedModel(model, use_buffers=True)"
    assert claims_of("average-not-updated", NET, [average, model]) == []
    assert claims_of("average-not-updated", NET, [model]) == []


def test_the_remedy_of_an_average_is_the_line_to_write() -> None:
    [claim] = claims_of("average-not-updated", NET, [symptom("RES004", average="ema")])
    assert claim.remedy == "averaged_model.update_parameters(model)"


@pytest.mark.parametrize(
    ("cause", "code", "following"),
    [
        ("exploration-collapsed", "POL001", "OPT004 OPT005"),
        ("entropy-coefficient", "POL002", "NET001 OPT004 OPT005 OPT012"),
        ("settings-out-of-range", "HYP003", "NET001 OPT004 OPT005"),
        ("twin-critics-identical", "POL004", ""),
    ],
)
def test_settings_of_an_agent_explain_what_fails(cause: str, code: str, following: str) -> None:
    others = [symptom(each, "net.2.weight") for each in ("NET001", "OPT004", "OPT005", "OPT012", "ZER003")]
    [claim] = claims_of(cause, NET, [symptom(code, severity=Severity.WARNING), *others])
    assert explained(claim) == ("proven", code, following)


def test_every_cause_is_shown_by_a_checkpoint() -> None:
    tables = [
        SHOWN,
        test_causes_gradients.REACHED,
        test_causes_gradients.TURNS,
        test_causes_inputs.SHOWN,
        test_causes_optimization.SHOWN,
        test_causes_values.SHOWN,
    ]
    shown = {each.split()[0] for table in tables for _, diagnoses in table.values() for each in diagnoses}
    assert {cause.name for cause in CATALOGUE.causes if cause.package == "checkpoint_doctor"} <= shown
