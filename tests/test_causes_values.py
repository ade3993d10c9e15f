"""Causes in initial values and in values that were written: which of them a file shows, beside its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Content, Part
from checkpoint_doctor.results.diagnosis import Prognosis
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint
from tests.diagnosing import (
    Weights,
    claims_of,
    diagnose,
    drawn,
    explained,
    gradients,
    linear,
    network,
    normal,
    settings,
    symptom,
    trained,
    zeros,
)

NET = trained(network())
NAN, INF = np.nan, np.inf
ERROR = Severity.ERROR


def with_entries(value: float, *places: Any, dtype: Any = np.float32) -> Weights:
    """A network in which some entries of the second layer have this value."""
    weight = normal(12, 16, seed=2)
    for place in places:
        weight[place] = value
    weights = network(net__2__weight=weight)
    return {name: array.astype(dtype) for name, array in weights.items()}


def scaled(factor: float, *numbers: int) -> Weights:
    """A network whose weights, or those of some layers, are multiplied by a number."""
    layers = tuple(f"net.{number}.weight" for number in numbers or (0, 2, 4, 6))
    return {name: array * np.float32(factor if name in layers else 1) for name, array in network().items()}


def equal_rows(*, apart: bool, groups: tuple[tuple[int, ...], ...] = ((4, 5),)) -> Checkpoint:
    """A network with groups of equal rows, whose moments are equal or apart."""
    weights = network()
    state = {name: gradients(array.shape, seed=number) for number, (name, array) in enumerate(weights.items())}
    for first, *others in groups:
        for other in others:
            weights["net.2.weight"][other] = weights["net.2.weight"][first]
            for key in () if apart else ("exp_avg", "exp_avg_sq"):
                state["net.2.weight"][key][other] = state["net.2.weight"][key][first]
    return build_checkpoint(weights, optimizer=state, updates=1000)


def constant(second: NDArray | None) -> Checkpoint:
    """A network in which a matrix is one number, under such a second moment."""
    weights = network(net__2__weight=np.full((12, 16), 0.5, np.float32))
    state = {name: gradients(array.shape, seed=number) for number, (name, array) in enumerate(weights.items())}
    if second is None:
        del state["net.2.weight"]
    else:
        state["net.2.weight"] = {"step": 1000, "exp_avg": 0.3 * np.sqrt(second), "exp_avg_sq": second}
    return build_checkpoint(weights, optimizer=state, updates=1000)


def wide() -> Weights:
    return linear("net.0", 64, 64) | linear("net.2", 64, 64, seed=2) | linear("net.4", 64, 64, seed=4)


def torn(first: int, last: int, dtype: Any = np.float32) -> Checkpoint:
    """A network with a run of zeros in a layer of 64 times 64 entries."""
    weights = wide()
    weights["net.2.weight"].reshape(-1)[first:last] = 0
    return trained({name: array.astype(dtype) for name, array in weights.items()})


def blocks(**changes: NDArray) -> Weights:
    """Two blocks, each with a norm, and a head."""
    weights = linear("b.0.fc", 16, 16) | {"b.0.norm.weight": normal(16) + 1, "b.0.norm.bias": normal(16)}
    weights |= linear("b.1.fc", 16, 16, seed=1) | {
        "b.1.norm.weight": normal(16, seed=1) + 1,
        "b.1.norm.bias": normal(16),
    }
    return weights | linear("head", 4, 16) | {name.replace("__", "."): array for name, array in changes.items()}


CHAIN = {"b.0.fc": "net.0", "b.0.norm": "net.1", "b.1.fc": "net.3", "b.1.norm": "net.4", "head": "net.6"}
NUMBERED = {"b.0.fc": "b.0.0", "b.0.norm": "b.0.1", "b.1.fc": "b.1.0", "b.1.norm": "b.1.1", "head": "head"}


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The same tensors in layers with other names."""
    parts = {name: name.rpartition(".") for name in weights}
    return {f"{names[layer]}.{role}": weights[name] for name, (layer, _, role) in parts.items()}


def copied() -> Weights:
    weights: Weights = {}
    for number in range(3):
        weights |= linear(f"blocks.{number}.a", 16, 16, seed=number % 2)
        weights |= linear(f"blocks.{number}.b", 16, 16, seed=10 + number % 2)
    return weights


def as_drawn() -> Weights:
    return drawn("stem.0", 32, 16) | drawn("stem.2", 32, 32, seed=2) | drawn("head", 4, 32)


def recurrent(factor: float = 1.0) -> Weights:
    shapes = {"weight_ih": (32, 5), "weight_hh": (32, 8), "bias_ih": (32,), "bias_hh": (32,)}
    parts = {f"lstm.{role}_l0": normal(*shape, seed=1 + len(role)) for role, shape in shapes.items()}
    parts["lstm.weight_hh_l0"] *= np.float32(factor)
    return parts | linear("head", 4, 8)


def closed() -> Weights:
    """A recurrent network whose forget gates have a bias of -40."""
    weights = recurrent()
    weights["lstm.bias_ih_l0"][8:16] = -40
    return weights


def adapter(first: float) -> Checkpoint:
    """An adapter without a gradient beside a trained head; its first factors are multiplied by a number."""
    weights: Weights = linear("head", 4, 16)
    for number in range(3):
        weights[f"blocks.{number}.weight"] = normal(16, 16, seed=number)
        weights[f"blocks.{number}.lora_A.default.weight"] = np.float32(first) * normal(4, 16, seed=number)
        weights[f"blocks.{number}.lora_B.default.weight"] = zeros(16, 4)
    return trained(weights, {f"blocks.{n}": "absent" for n in range(3)} | {f"blocks.{n}.lora_": 0.0 for n in range(3)})


def pruned() -> Weights:
    weights = network()
    weights["net.2.weight"][np.abs(weights["net.2.weight"]) < 0.2] = 0
    return weights


FRESH_BLOCK = {"b__0__norm__weight": np.ones(16, np.float32), "b__0__fc__bias": zeros(16)}
EVEN = np.full((12, 16), 1e-4)
LARGE = {name: array * np.float32(1e3) for name, array in network().items()}
SHRUNK = {name: array * np.float32(1e-6) for name, array in network().items()}

DEADLOCK = trained(network(net__4__weight=zeros(10, 12)), {"net.4.weight": 0.0, "net.2": 0.0, "net.0": 0.0})

SHOWN: Mapping[str, tuple[Checkpoint, list[str]]] = {
    # Equal units
    "rows that are equal, and their moments too": (equal_rows(apart=False), ["symmetric-units proven NET004"]),
    "rows that are equal under moments that differ": (equal_rows(apart=True), ["overwritten proven NET004"]),
    "two pairs of equal rows": (
        equal_rows(apart=False, groups=((1, 2), (7, 9))), ["symmetric-units proven NET004"]
    ),
    "rows that are equal in a file without an optimizer": (
        build_checkpoint({n: t.array for n, t in equal_rows(apart=True).by_name.items()}),
        ["symmetric-units likely NET004"],
    ),
    "a matrix of one number under even moments": (constant(EVEN), ["symmetric-units proven VAL005"]),
    "a matrix of one number under moments that differ": (
        constant(EVEN * np.linspace(1, 2, 12)[:, None]), ["overwritten proven VAL005"]
    ),
    "a matrix of one number under moments that differ by rounding": (
        constant(EVEN * np.linspace(1, 1.0005, 12)[:, None]), ["symmetric-units proven VAL005"]
    ),
    # Zeros under moments
    "a zero matrix that was trained": (
        trained(network(net__2__weight=zeros(12, 16))), ["overwritten proven ZER001"]
    ),
    "a zero bias that was trained": (trained(network(net__2__bias=zeros(12))), ["overwritten proven ZER003"]),
    "a zero head that was trained": (trained(network(net__6__weight=zeros(4, 10))), ["overwritten proven NET003"]),
    "zero rows that were trained": (trained(with_entries(0, 3, 4)), ["overwritten proven NET002"]),
    "a bias and a matrix": (
        trained(network(net__2__bias=zeros(12), net__4__weight=zeros(10, 12))), ["overwritten proven ZER001 ZER003"]
    ),
    "small weights are zero": (trained(pruned()), ["pruned likely ZER002"]),
    "a page of zeros that begins and ends within rows": (torn(1000, 2024), ["corrupted-values proven NET002"]),
    "a page of zeros that begins within a row": (torn(1000, 2025), ["overwritten proven NET002"]),
    "a page of zeros that is whole rows": (torn(1024, 2048), ["overwritten proven NET002"]),
    "a page of zeros in float16": (torn(100, 2148, np.float16), ["corrupted-values proven NET002"]),
    "half a page of zeros in float16": (torn(100, 1124, np.float16), ["overwritten proven NET002"]),
    # Layers that began at zero
    "a zero layer behind layers without a gradient": (DEADLOCK, ["zero-deadlock proven OPT001"]),
    "both factors of an adapter are zero": (adapter(0.0), ["zero-deadlock proven NET008 OPT001"]),
    "the second factor of an adapter is zero": (adapter(1.0), ["no-gradient likely NET008 OPT001"]),
    # Copies and initial values
    "a block that is a copy": (trained(copied()), ["overwritten proven NET009"]),
    "a fresh matrix under trained moments": (
        trained(wide() | {"net.4.weight": drawn("", 64, 64)[".weight"]}), ["partial-load proven OPT010"]
    ),
    "gains of 1 beside biases of 0 in the same block": (
        trained(blocks(**FRESH_BLOCK)), ["partial-load proven OPT010 ZER003"]
    ),
    "gains of 1 beside biases of 0 in another block": (
        trained(blocks(b__0__norm__weight=np.ones(16, np.float32), b__1__fc__bias=zeros(16))),
        ["overwritten proven OPT010 ZER003"],
    ),
    "gains of 1 beside trained biases": (
        trained(blocks(b__0__norm__weight=np.ones(16, np.float32))), ["overwritten proven OPT010"]
    ),
    "gains of 1 beside biases of 0 in the same chain": (
        trained(renamed(blocks(**FRESH_BLOCK), CHAIN)), ["overwritten proven OPT010 ZER003"]
    ),
    "gains of 1 beside biases of 0 in a numbered block without names": (
        trained(renamed(blocks(**FRESH_BLOCK), NUMBERED)), ["partial-load proven OPT010 ZER003"]
    ),
    "everything is as drawn": (trained(as_drawn()), ["saved-wrong-object proven OPT009"]),
    # Impossible values
    "one NaN": (trained(with_entries(NAN, (3, 4))), ["corrupted-values likely VAL001"]),
    "nothing but NaN": (trained(with_entries(NAN, ...)), ["nonfinite-gradient likely VAL001"]),
    "one infinity in float32": (trained(with_entries(INF, (3, 4))), ["corrupted-values likely VAL001"]),
    "one infinity in float16": (
        trained(with_entries(INF, (3, 4), dtype=np.float16)), ["low-precision proven VAL001"]
    ),
    "one NaN in float16": (trained(with_entries(NAN, (3, 4), dtype=np.float16)), ["corrupted-values likely VAL001"]),
    "one NaN in a weight and in its moments": (
        trained(with_entries(NAN, (3, 4)), {"net.2.weight": with_entries(NAN, (3, 4))["net.2.weight"] * 0 + 1e-2}),
        ["nonfinite-gradient proven VAL001"],
    ),
    "one number of 1e36": (trained(with_entries(1e36, (3, 4))), ["corrupted-values proven VAL002 VAL003"]),
    "values that shrank without weight decay": (trained(SHRUNK), ["corrupted-values likely VAL006"]),
    "values that shrank under weight decay": (
        trained(SHRUNK, optimizer_options=settings(weight_decay=2.0)), ["weight-decay-too-strong proven HYP006 VAL006"]
    ),
    "values on a grid": (
        trained({name: np.round(array * 100) / 100 for name, array in network().items()}), ["rounded proven VAL007"]
    ),
    # Large values
    "all layers are larger than updates can make them": (trained(scaled(200)), ["too-wide-init proven VAL002"]),
    "half of the layers are": (trained(scaled(200, 0, 2)), ["too-wide-init proven VAL002"]),
    "one layer of four is": (trained(scaled(200, 2)), ["corrupted-values likely VAL002"]),
    "updates can have made them as large": (
        trained(LARGE, steps=100_000, optimizer_options=settings(lr=0.02)), ["exploded likely VAL002"]
    ),
    "the learning rate has ended at zero": (
        trained(scaled(200), optimizer_options=settings(lr=0.0)), ["exploded likely VAL002"]
    ),
    "the learning rate is not known": (
        trained(scaled(1e4), optimizer_options={"betas": (0.9, 0.999)}), ["exploded likely VAL002"]
    ),
    "large values in a file without an optimizer": (build_checkpoint(LARGE), ["exploded likely VAL002"]),
    "larger than any initialisation": (trained(scaled(1e6)), ["exploded proven OPT008 VAL002"]),
    "larger than any initialisation, biases too": (
        trained({name: array * np.float32(1e6) for name, array in network().items()}),
        ["exploded proven OPT008 VAL002"],
    ),
    "larger than any initialisation, at a high learning rate": (
        trained(scaled(1e6), optimizer_options=settings(lr=0.08)), ["learning-rate-too-high likely VAL002"]
    ),
    "a recurrence that is too wide": (trained(recurrent(30)), ["too-wide-init proven RNN005"]),
    "gates that no update can have closed": (trained(closed()), ["overwritten proven RNN003"]),
    "gates that the learning rate can have closed": (
        trained(closed(), optimizer_options=settings(lr=0.08)), ["learning-rate-too-high likely RNN003"]
    ),
    "gates that many small steps can have closed": (
        trained(closed(), steps=100_000), ["saturated likely RNN003"]
    ),
    "a method in the place of a state": (
        trained(network(), parts=[Part("optimizer", Content.METHOD)]), ["saved-wrong-object proven RES007"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_how_values_came_about(name: str) -> None:
    checkpoint, expected = SHOWN[name]
    assert diagnose(checkpoint) == expected


# --- what single causes claim -----------------------------------------------------------------------------------------


def large(name: str, severity: Severity = Severity.WARNING, **evidence: Any) -> Finding:
    """A VAL002 about the weight of a layer."""
    return symptom("VAL002", f"net.{name}.weight", severity, **evidence)


OVERWRITTEN = symptom("ZER003", "net.2.bias", cause="overwritten")
NEVER = symptom("ZER003", "net.2.bias", cause="never trained")
EQUAL = symptom("NET004", "net.2.weight", groups=[[4, 5]])
FLAWS = [symptom("VAL001", "net.2.weight"), large("2"), symptom("VAL003", "net.2.weight"), symptom("VAL006")]
STUCK = symptom("OPT001", "net.0.weight", cause="never trained", tensors=["net.0.weight"])
ZERO = symptom("ZER001", "net.4.weight", cause="never trained")
HALF_NAN = {"nan": 96, "infinite": 0, "count": 192}
WIDE = trained(scaled(200))

CLAIMS: Mapping[str, tuple[str, Checkpoint, list[Finding], list[tuple[str, str, str]]]] = {
    "equal rows explain their rank": (
        "symmetric-units", equal_rows(apart=False), [EQUAL, symptom("NET005"), symptom("NET001"), symptom("NET002")],
        [("proven", "NET004", "NET001 NET002 NET005")],
    ),
    "equal rows of two layers, of which one has no moments": (
        "symmetric-units", equal_rows(apart=False), [EQUAL, symptom("NET004", "unknown.weight", groups=[[0, 1]])],
        [("likely", "NET004", "")],
    ),
    "a single row": (
        "symmetric-units", trained(network(net__6__weight=normal(1, 10), net__6__bias=normal(1))),
        [symptom("VAL005", "net.6.weight")], [("likely", "VAL005", "")],
    ),
    "rows under moments that are NaN": (
        "symmetric-units", constant(np.full((12, 16), NAN)), [symptom("VAL005", "net.2.weight")],
        [("likely", "VAL005", "")],
    ),
    "entries of a vector are no units": ("overwritten", NET, [symptom("VAL005", "net.2.bias")], []),
    "other rows than the finding's are apart": (
        "symmetric-units", equal_rows(apart=False), [symptom("NET004", "net.2.weight", groups=[[4, 6]])], []
    ),
    "a zero layer whose bias learned": (
        "zero-deadlock", DEADLOCK, [ZERO, STUCK, symptom("NET001"), NEVER, OVERWRITTEN],
        [("proven", "ZER001", "NET001 OPT001 ZER003")],
    ),
    "a zero layer whose bias learned nothing": (
        "zero-deadlock", trained(network(net__4__weight=zeros(10, 12)), {"net.4": 0.0}), [ZERO], []
    ),
    "a layer of which not all is zero": ("zero-deadlock", NET, [ZERO], []),
    "a zero layer that was trained": (
        "zero-deadlock", DEADLOCK, [symptom("ZER001", "net.4.weight", cause="overwritten")], []
    ),
    "all layers that are wide explain what saturates": (
        "too-wide-init", WIDE, [large("0"), large("2"), symptom("NET001"), symptom("RNN003"), symptom("OPT008")],
        [("proven", "VAL002", "NET001 OPT008 RNN003")],
    ),
    "one of four layers is wide": ("too-wide-init", WIDE, [large("0")], []),
    "one is beyond any initialisation": ("too-wide-init", WIDE, [large("0"), large("2"), large("4", ERROR)], []),
    "layers that training can have made as large": ("too-wide-init", NET, [large("0"), large("2")], []),
    "fresh matrices explain the fresh biases beside them": (
        "partial-load", NET, [symptom("OPT010", "net.2.weight"), OVERWRITTEN, NEVER], [("proven", "OPT010", "ZER003")]
    ),
    "a fresh norm outside of any block": (
        "partial-load", trained({"norm.weight": normal(4), "norm.bias": zeros(4)}),
        [symptom("OPT010", "norm.weight"), symptom("ZER003", "norm.bias", cause="overwritten")], [],
    ),
    "a single fresh vector": ("partial-load", NET, [symptom("OPT010", "net.2.bias")], []),
    "what was overwritten explains other zeros": (
        "overwritten", NET, [OVERWRITTEN, NEVER, symptom("NET005"), symptom("NET001", "net.2.weight"),
        symptom("NET001", "net.4.weight")], [("proven", "ZER003", "NET005 ZER003")],
    ),
    "zeros that were never trained": ("overwritten", NET, [NEVER], []),
    "rows that were copied explain dormant units": (
        "overwritten", equal_rows(apart=True), [EQUAL, symptom("NET001", "net.2.weight")],
        [("proven", "NET004", "NET001")],
    ),
    "a fresh matrix is not overwritten": ("overwritten", NET, [symptom("OPT010", "net.2.weight")], []),
    "pruning explains what it cut off": (
        "pruned", NET, [symptom("ZER002", "net.2.weight"), symptom("NET002"), symptom("NET005")],
        [("likely", "ZER002", "NET002 NET005")],
    ),
    "initial weights explain what looks overwritten": (
        "saved-wrong-object", NET, [symptom("OPT009", cause="initial weights saved"), OVERWRITTEN, NEVER,
        symptom("NRM003", cause="never updated"), symptom("NET009")], [("proven", "OPT009", "NET009 NRM003 ZER003")],
    ),
    "weights that never moved": ("saved-wrong-object", NET, [symptom("OPT009", cause="learning rate")], []),
    "a wrong object explains the missing state": (
        "saved-wrong-object", NET, [symptom("RES007"), symptom("FIL002"), symptom("OPT002")],
        [("proven", "RES007", "FIL002 OPT002")],
    ),
    "a grid explains zeros and sizes": (
        "rounded", NET, [symptom("VAL007"), large("2"), symptom("ZER002")], [("proven", "VAL007", "VAL002 ZER002")]
    ),
    "a damaged file explains all impossible values": (
        "corrupted-values", NET, [symptom("FIL001"), *FLAWS], [("proven", "FIL001", "VAL001 VAL002 VAL003 VAL006")]
    ),
    "half of a tensor is NaN": ("corrupted-values", NET, [symptom("VAL001", "net.2.weight", **HALF_NAN)], []),
    "less than half of a tensor is NaN": (
        "corrupted-values", NET, [symptom("VAL001", "net.2.weight", **HALF_NAN | {"nan": 95})],
        [("likely", "VAL001", "")],
    ),
    "nothing is NaN": ("corrupted-values", NET, [symptom("VAL001", "net.2.weight", **HALF_NAN | {"nan": 0})], []),
    "how much is NaN is not known": ("corrupted-values", NET, [symptom("VAL001", "net.2.weight", count=192)], []),
    "an overflow in float16": (
        "corrupted-values", trained(with_entries(INF, (3, 4), dtype=np.float16)),
        [symptom("VAL001", "net.2.weight", nan=0, infinite=1, count=192)], [],
    ),
    "NaN in moments too": (
        "corrupted-values", NET, [symptom("VAL001", "net.2.weight", nan=1, infinite=0, count=192),
        symptom("VAL001", "net.2.weight", moment="exp_avg")], [],
    ),
    "a number that squares to infinity": ("corrupted-values", NET, [large("2", largest=1.01e30)],
        [("proven", "VAL002", "")]),
    "a number that does not": ("corrupted-values", NET, [large("2", largest=1e30)], []),
    "one layer that was enlarged to a number that does not": (
        "corrupted-values", WIDE, [large("2", largest=1e30)], [("likely", "VAL002", "")]
    ),
    "one layer that was enlarged": (
        "corrupted-values", WIDE, [large("2"), symptom("NET005")], [("likely", "VAL002", "NET005")]
    ),
    "half of the layers": ("corrupted-values", WIDE, [large("0"), large("2")], []),
    "a spike": ("corrupted-values", NET, [symptom("VAL003", "net.2.weight"), large("4")],
        [("likely", "VAL003", "VAL002")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_cause_claims(name: str) -> None:
    cause, checkpoint, findings, expected = CLAIMS[name]
    assert [explained(claim) for claim in claims_of(cause, checkpoint, findings)] == expected


@pytest.mark.parametrize(("size", "is_wide"), [(1.9, False), (2.1, True)])
def test_weights_are_wide_beyond_twice_what_all_updates_can_add_up_to(size: float, is_wide: bool) -> None:
    weights = {name: size * array / np.sqrt(np.mean(np.square(array))) for name, array in network().items()}
    found = [large(number) for number in "0246"]
    assert bool(claims_of("too-wide-init", trained(weights), found)) is is_wide
    plain = trained(weights, optimizer_kind="SGD")
    assert claims_of("too-wide-init", plain, found) == []
    without_optimizer = build_checkpoint(weights, updates=1000)
    assert claims_of("too-wide-init", without_optimizer, found) == []
    without_updates = build_checkpoint(weights, optimizer={name: {} for name in weights}, updates=0)
    assert claims_of("too-wide-init", without_updates, found) == []


@pytest.mark.parametrize(("first", "is_torn"), [(64, True), (128, False), (32, True)])
def test_rows_of_a_matrix_that_is_not_square_are_its_first_dimension(first: int, is_torn: bool) -> None:
    weight = normal(32, 128)
    weight.reshape(-1)[first : first + 1024] = 0
    checkpoint = trained({"net.0.weight": weight})
    claims = claims_of("corrupted-values", checkpoint, [symptom("NET002", "net.0.weight")])
    assert bool(claims) is is_torn


def test_zeros_that_are_no_single_run_were_not_torn() -> None:
    weights = wide()
    weights["net.2.weight"].reshape(-1)[[*range(1000, 1512), *range(2000, 2512)]] = 0
    assert claims_of("corrupted-values", trained(weights), [symptom("NET002", "net.2.weight")]) == []


def test_several_overwritten_tensors_are_named_and_the_others_counted() -> None:
    zero = [symptom("ZER003", f"net.{number}.bias", cause="overwritten") for number in (0, 2, 4, 6)]
    [claim] = claims_of("overwritten", NET, [*zero, symptom("ZER001", "net.0.weight", cause="overwritten")])
    assert claim.message == ("net.0.bias, net.0.weight, net.2.bias and 2 more were trained, and then overwritten")
    assert len(claim.evidence["tensors"]) == 5
    [claim] = claims_of("overwritten", NET, zero[:3])
    assert claim.message == "net.0.bias, net.2.bias, net.4.bias were trained, and then overwritten"
    [claim] = claims_of("overwritten", NET, zero[:1])
    assert (claim.message, claim.subject) == (zero[0].message, "net.0.bias")
    assert claim.evidence == zero[0].evidence


def test_two_findings_about_one_tensor_name_it_once() -> None:
    found = [OVERWRITTEN, symptom("NRM001", "net.2.bias", cause="overwritten")]
    [claim] = claims_of("overwritten", NET, found)
    assert claim.message == "net.2.bias was trained, and then overwritten"


def test_pruned_weights_are_counted() -> None:
    [claim] = claims_of("pruned", NET, [symptom("ZER002", f"net.{number}.weight") for number in (2, 4)])
    assert claim.message == "zeros are scattered over 2 weights, as after pruning"
    [claim] = claims_of("pruned", NET, [symptom("ZER002", "net.2.weight")])
    assert claim.message == "ZER002 was found"


@pytest.mark.parametrize(
    ("cause", "code", "evidence", "remedy"),
    [
        (
            "saved-wrong-object",
            "OPT009",
            {"cause": "initial weights saved"},
            "best = copy.deepcopy(model.state_dict())",
        ),
        ("saved-wrong-object", "RES007", {}, "optimizer.state_dict()"),
        ("partial-load", "OPT010", {}, "missing, unexpected = model.load_state_dict(state, strict=True)"),
    ],
)
def test_the_remedy_is_the_line_to_write(cause: str, code: str, evidence: dict[str, str], remedy: str) -> None:
    [claim] = claims_of(cause, NET, [symptom(code, "net.2.weight", **evidence)])
    assert claim.remedy == remedy


@pytest.mark.parametrize(
    ("cause", "findings", "prognosis"),
    [
        ("overwritten", [OVERWRITTEN], Prognosis.CURED),
        ("pruned", [symptom("ZER002")], Prognosis.POINTLESS),
        ("partial-load", [symptom("OPT010", "net.2.weight")], Prognosis.POINTLESS),
    ],
)
def test_what_a_repair_can_do(cause: str, findings: list[Finding], prognosis: Prognosis) -> None:
    [claim] = claims_of(cause, NET, findings)
    assert claim.prognosis is prognosis
