"""Causes that come in with the data, and outcomes: which of them a file shows, beside its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.checkpoint.gradients import Gradients
from checkpoint_doctor.results.diagnosis import Prognosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.diagnosing import (
    Weights,
    claims_of,
    diagnose,
    explained,
    gradients,
    linear,
    network,
    normal,
    settings,
    symptom,
    trained,
    without,
    zeros,
)
from tests.test_inputs import behind_silence, fed

NET = trained(network())
NOTE, ERROR = Severity.NOTE, Severity.ERROR


def normalised(**changes: NDArray) -> Weights:
    """A network with a batch norm whose statistics are those of data."""
    norm = {
        "net.1.weight": normal(16) + 1,
        "net.1.bias": normal(16),
        "net.1.running_mean": normal(16),
        "net.1.running_var": np.square(normal(16)) + np.float32(0.1),
        "net.1.num_batches_tracked": np.array(1000),
    }
    weights = linear("net.0", 16, 6) | norm | linear("net.3", 12, 16) | linear("net.5", 4, 12)
    return weights | {f"net.{name}".replace("__", "."): array for name, array in changes.items()}


def dormant(units: int, *, by: str, **options: Any) -> Checkpoint:
    """A network in which units of the second layer have stopped, and are read as zeros or as something else."""
    state = {name: gradients(array.shape, seed=number) for number, (name, array) in enumerate(network().items())}
    state["net.2.weight"]["exp_avg"][:units] = state["net.2.bias"]["exp_avg"][:units] = 0
    if by == "zeros":
        state["net.4.weight"]["exp_avg"][:, :units] = 0
    return build_checkpoint(network(), optimizer=state, updates=1000, optimizer_options=settings(**options))


NAN = np.full(16, np.nan, np.float32)
HIDDEN_SILENT = {"net.0.weight": 0.0, "net.1": 0.0, "net.3.weight": 0.0}

SHOWN: Mapping[str, tuple[Checkpoint, list[str]]] = {
    "inputs of an ordinary size": (fed(1.0, 0.2, 9.0), []),
    "inputs that began in the middle of a run": (
        replace(
            trained(network()), gradients=(Gradients("optimizer", steps=900, awakened_inputs={"net.0": (1, 4)}),)
        ),
        ["inputs-switched-on proven GRD004"],
    ),
    "large inputs that did no harm": (fed(0.5, 12.0, 4.0, 0.2), ["unscaled-inputs possible INP001"]),
    "large inputs that silenced units": (fed(500.0, 1.0, dormant=10), ["unscaled-inputs proven INP001 NET001"]),
    "inputs that saturated every unit": (behind_silence(np.ones(20)), ["unscaled-inputs proven INP001 OPT001"]),
    "inputs that were one constant each": (fed(0.7, 0.3, 0.2, constant=True), ["constant-inputs proven INP001"]),
    "an input that was always zero": (
        trained(network(), {"net.0.weight": without((16, 6), columns=[2])}), ["constant-inputs proven NET006"]
    ),
    "all inputs were always zero": (
        trained(network(), {"net.0.weight": 0.0}), ["constant-inputs proven NET006 OPT001"]
    ),
    "layers that read zeros behind a norm that saw no variance": (
        trained(normalised(**{"1__running_var": np.full(16, 9e-5, np.float32)}), HIDDEN_SILENT | {"net.0": 0.0}),
        ["constant-inputs likely OPT001"],
    ),
    "layers that read zeros behind a norm that saw some": (
        trained(normalised(**{"1__running_var": np.full(16, 2e-4, np.float32)}), HIDDEN_SILENT | {"net.0": 0.0}),
        ["dead-relu likely OPT001"],
    ),
    "statistics that are NaN": (
        trained(normalised(**{"1__running_mean": NAN, "1__running_var": NAN})), ["nonfinite-data proven VAL001"]
    ),
    "statistics and a weight that are NaN": (
        trained(normalised(**{"1__running_mean": NAN, "3__weight": np.full((12, 16), np.nan, np.float32)})),
        ["nonfinite-gradient likely VAL001"],
    ),
    "statistics that were never updated": (
        trained(normalised(**{"1__running_mean": zeros(16), "1__running_var": zeros(16) + 1})),
        ["norm-statistics proven NRM003"],
    ),
    "a negative variance": (
        trained(normalised(**{"1__running_var": -normalised()["net.1.running_var"]})),
        ["norm-statistics proven NRM003"],
    ),
    "gradients that are far too large": (trained(network(), {"": 1e5}), ["reward-scale proven OPT012"]),
    "units that are read as zeros": (dormant(10, by="zeros"), ["dead-relu likely NET001"]),
    "units that are read as something else": (dormant(10, by="others"), ["saturated likely NET001"]),
    "a fourth of the units is dead, as in agents that play well": (dormant(3, by="zeros"), []),
    "units that died at a learning rate of 0.08": (
        dormant(10, by="zeros", lr=0.08), ["learning-rate-too-high likely NET001"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_what_came_in_with_the_data(name: str) -> None:
    checkpoint, expected = SHOWN[name]
    assert diagnose(checkpoint) == expected


# --- what single causes claim -----------------------------------------------------------------------------------------

DEAD = symptom("NET001", "net.2.weight", dead=[1, 2, 3], saturated=[4], units=[1, 2, 3, 4])
SATURATED = symptom("NET001", "net.4.weight", dead=[1], saturated=[2], units=[1, 2])
MILD = symptom("NET001", "net.2.weight", NOTE, dead=[1], saturated=[], units=[1])
NEVER = symptom("OPT001", "net.0.weight", cause="never trained", tensors=["net.0.weight"])
ZERO = symptom("ZER003", "net.0.bias", cause="never trained")
GATE = symptom("RNN003", "lstm.bias_ih_l0")
MEAN = symptom("VAL001", "net.1.running_mean")
BATCH_NORM = trained(normalised())
READS_ZEROS = trained(network(), {"net.0": 0.0, "net.2.weight": 0.0})


def table(count: int, used: int) -> Finding:
    return symptom("NET007", "embedding.weight", count=count, rows=list(range(used, count)))


CLAIMS: Mapping[str, tuple[str, Checkpoint, list[Finding], list[tuple[str, str, str]]]] = {
    "inputs that were not scaled explain what fails": (
        "unscaled-inputs", NET, [symptom("INP001", cause="unscaled"), DEAD, ZERO,
        symptom("OPT006", cause="no gradient"), symptom("OPT006", cause="stopped"),
        symptom("OPT007"), symptom("VAL001")],
        [("proven", "INP001", "NET001 OPT006 OPT007 ZER003")],
    ),
    "inputs that were not scaled, as a note": (
        "unscaled-inputs", NET, [symptom("INP001", severity=NOTE, cause="unscaled")], [("possible", "INP001", "")]
    ),
    "constant inputs are no matter of scale": ("unscaled-inputs", NET, [symptom("INP001", cause="constant")], []),
    "one input of three was zero": (
        "constant-inputs", NET, [symptom("NET006", "net.0.weight", inputs=[1], layer_inputs=3), ZERO, DEAD,
        symptom("ZER003", "net.4.bias", cause="never trained"), symptom("OPT005")],
        [("proven", "NET006", "OPT005 ZER003")],
    ),
    "all inputs were zero": (
        "constant-inputs", NET, [symptom("NET006", "net.0.weight", inputs=[0, 1], layer_inputs=2), DEAD, NEVER],
        [("proven", "NET006", "NET001 OPT001")],
    ),
    "a table of which one row was used": (
        "constant-inputs", NET, [table(8, 1), DEAD], [("likely", "NET007", "NET001")]
    ),
    "a small table": ("constant-inputs", NET, [table(7, 1)], []),
    "a table of which two rows were used": ("constant-inputs", NET, [table(8, 2)], []),
    "no weight learned, and there is no norm": ("constant-inputs", READS_ZEROS, [NEVER], []),
    "targets out of scale explain a saturated clip": (
        "reward-scale", NET, [symptom("OPT012"), symptom("OPT004"), DEAD, symptom("OPT007")],
        [("proven", "OPT012", "NET001 OPT004 OPT007")],
    ),
    "one component takes the whole gradient": (
        "reward-scale", NET, [symptom("OPT005", component="policy"), symptom("OPT004")],
        [("likely", "OPT005", "OPT004")],
    ),
    "the whole optimizer is below its epsilon": ("reward-scale", NET, [symptom("OPT005", component=None)], []),
    "statistics that are not finite explain the other finding about them": (
        "nonfinite-data", BATCH_NORM, [MEAN, symptom("NRM003", "net.1.running_var")], [("proven", "VAL001", "NRM003")]
    ),
    "statistics and a weight": (
        "nonfinite-data", BATCH_NORM, [MEAN, symptom("VAL001", "net.3.weight")], []
    ),
    "statistics and a moment of a gain": (
        "nonfinite-data", BATCH_NORM, [MEAN, symptom("VAL001", "net.1.weight", moment="exp_avg")], []
    ),
    "a gain is no statistic": ("nonfinite-data", BATCH_NORM, [symptom("VAL001", "net.1.weight")], []),
    "statistics that are finite": ("nonfinite-data", BATCH_NORM, [symptom("NRM003", "net.1.running_var")], []),
    "statistics explain a gain that drifts": (
        "norm-statistics", NET, [symptom("NRM003", cause="momentum 0"), symptom("NRM002"), symptom("VAL001")],
        [("proven", "NRM003", "NRM002 VAL001")],
    ),
    "statistics that are not finite are no matter of training mode": (
        "norm-statistics", NET, [symptom("NRM003", cause="nonfinite")], []
    ),
    "most units are dead": ("dead-relu", NET, [DEAD], [("likely", "NET001", "")]),
    "as many are saturated": ("dead-relu", NET, [SATURATED], []),
    "few units are dead": ("dead-relu", NET, [MILD], []),
    "few units in one layer and many in another": ("dead-relu", NET, [MILD, DEAD], [("likely", "NET001", "")]),
    "everything in front of a layer is zero": (
        "dead-relu", READS_ZEROS, [NEVER, ZERO, symptom("NET006")], [("likely", "OPT001", "NET006 ZER003")]
    ),
    "nothing is zero": ("dead-relu", NET, [NEVER], []),
    "most are dead": ("saturated", NET, [DEAD], []),
    "half are saturated": (
        "saturated", NET, [SATURATED, symptom("VAL002"), symptom("OPT008")], [("likely", "NET001", "OPT008 VAL002")]
    ),
    "neither is known": ("saturated", NET, [symptom("NET001", dead=[], saturated=[], units=[1])], []),
    "nothing is known": ("saturated", NET, [symptom("NET001", units=[1])], []),
    "gates": ("saturated", NET, [GATE], [("likely", "RNN003", "")]),
    "gates, as a note": ("saturated", NET, [symptom("RNN003", severity=NOTE)], []),
    "weights that are certainly too large": (
        "exploded", NET, [symptom("VAL002", severity=ERROR), DEAD, symptom("OPT007"), symptom("VAL003")],
        [("proven", "VAL002", "NET001 OPT007 VAL003")],
    ),
    "weights that are large": ("exploded", NET, [symptom("VAL002")], [("likely", "VAL002", "")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_cause_claims(name: str) -> None:
    cause, checkpoint, findings, expected = CLAIMS[name]
    assert [explained(claim) for claim in claims_of(cause, checkpoint, findings)] == expected


@pytest.mark.parametrize(
    ("form", "words"),
    [("sb3", 'env = VecNormalize(env)  # and env.save("vecnormalize.pkl")'), ("torch", "x = (x - mean) / std")],
)
def test_inputs_are_scaled_in_the_terms_of_the_library(form: str, words: str) -> None:
    checkpoint = build_checkpoint(network(), format=form)
    [claim] = claims_of("unscaled-inputs", checkpoint, [symptom("INP001", cause="unscaled")])
    assert claim.remedy.startswith(words)


@pytest.mark.parametrize(
    ("form", "remedy"),
    [("sb3", "env = VecNormalize(env, norm_reward=True)"), ("torch", "target = (target - mean) / std")],
)
def test_targets_are_scaled_in_the_terms_of_the_library(form: str, remedy: str) -> None:
    [claim] = claims_of("reward-scale", build_checkpoint(network(), format=form), [symptom("OPT012")])
    assert claim.remedy == remedy


def test_the_diagnosis_names_where_the_inputs_stopped() -> None:
    weights = normalised(**{"1__running_var": zeros(16)})
    [claim] = claims_of("constant-inputs", trained(weights, HIDDEN_SILENT | {"net.0": 0.0}))
    assert claim.subject == "net.1"
    [claim] = claims_of("dead-relu", READS_ZEROS, [NEVER])
    assert claim.subject == "net.2"
    assert claim.message.startswith("net.2 learned its bias alone")


def test_dormant_units_are_counted_over_layers() -> None:
    four = [symptom("NET001", f"net.{n}.weight", dead=[1, 2], saturated=[], units=[1, 2]) for n in (0, 2, 4, 6)]
    [claim] = claims_of("dead-relu", NET, four)
    assert claim.message == (
        "8 units receive no gradient, most of them dead, in net.0.weight, net.2.weight, net.4.weight …"
    )
    [claim] = claims_of("dead-relu", NET, four[:3])
    assert claim.message.endswith("in net.0.weight, net.2.weight, net.4.weight")
    [claim] = claims_of("saturated", NET, [SATURATED, GATE])
    assert claim.message == "2 units receive no gradient, most of them saturated, in net.4.weight"


def test_statistics_are_restored_but_their_cause_is_not() -> None:
    found = [symptom("NRM003", f"net.{number}.running_var", cause="negative") for number in (1, 4)]
    [claim] = claims_of("norm-statistics", NET, found)
    assert claim.prognosis is Prognosis.RELIEVED
    assert claim.message == "net.1.running_var (and 1 more): NRM003 was found"
    [claim] = claims_of("norm-statistics", NET, found[:1])
    assert claim.message == "net.1.running_var: NRM003 was found"
