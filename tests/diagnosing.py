"""Small trained networks in memory, and what the rules and causes together say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.acts.scan import run_rules
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.settings import Settings
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.cause import Cause, Claim, Symptoms
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.testing import build_checkpoint

CATALOGUE = discover()
CAUSES: Mapping[str, Cause] = {cause.name: cause for cause in CATALOGUE.causes}
Weights = dict[str, NDArray]


def normal(*shape: int, seed: int = 0, scale: float = 0.4) -> NDArray:
    """Weights that have left PyTorch's initial interval."""
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def zeros(*shape: int) -> NDArray:
    return np.zeros(shape, np.float32)


def linear(name: str, units: int, inputs: int, seed: int = 0) -> Weights:
    """A dense layer that was trained."""
    return {f"{name}.weight": normal(units, inputs, seed=seed), f"{name}.bias": normal(units, seed=seed)}


def drawn(name: str, units: int, inputs: int, seed: int = 0) -> Weights:
    """A dense layer as PyTorch draws it, uniform in ±1/√fan-in."""
    random, limit = np.random.default_rng([seed, units]), inputs**-0.5
    shapes = {"weight": (units, inputs), "bias": (units,)}
    return {f"{name}.{role}": random.uniform(-limit, limit, shape).astype(np.float32) for role, shape in shapes.items()}


SIZES = ((0, 16, 6), (2, 12, 16), (4, 10, 12), (6, 4, 10))
"""Number, units and inputs of the layers of a network."""


def fresh(*numbers: int) -> Weights:
    """The network with these layers as drawn, without numbers with all of them."""
    weights: Weights = {}
    for number, units, inputs in SIZES:
        layer = drawn if number in numbers or not numbers else linear
        weights |= layer(f"net.{number}", units, inputs, seed=number)
    return weights


def network(**changes: NDArray | None) -> Weights:
    """Four layers with 6 inputs, 16, 12 and 10 units, and 4 outputs; ``None`` leaves a tensor out."""
    weights: dict[str, NDArray | None] = {}
    for number, units, inputs in SIZES:
        weights |= linear(f"net.{number}", units, inputs, seed=number)
    weights |= {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in weights.items() if array is not None}


def gradients(shape: tuple[int, ...], size: float | NDArray = 1e-2, *, step: int = 1000, seed: int = 0) -> dict:
    """Adam's state after gradients of about this size, which differ between rows and entries."""
    random = np.random.default_rng([seed, 7, *shape])
    second = np.square(np.exp(random.normal(0, 0.4, shape)) * size)
    return {"step": step, "exp_avg": 0.3 * random.normal(size=shape) * np.sqrt(second), "exp_avg_sq": second}


def trained(
    weights: Weights, sizes: Mapping[str, Any] | None = None, *, steps: int = 1000, **fields: Any
) -> Checkpoint:
    """A checkpoint after a thousand updates.

    ``sizes`` are those of the gradients by the beginning of the tensors' names: ``None`` for no state, and ``"absent"``
    for no optimizer.
    """
    state: dict[str, dict] = {}
    for number, (name, array) in enumerate(weights.items()):
        matching = [key for key in sizes or {} if name.startswith(key)]
        size = (sizes or {})[max(matching, key=len)] if matching else 1e-2
        if isinstance(size, str) or name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue
        state[name] = {} if size is None else gradients(array.shape, size, step=steps, seed=number)
    return build_checkpoint(weights, optimizer=state, **{"updates": steps, **fields})


def without(shape: tuple[int, ...], *, rows: Any = (), columns: Any = (), size: float = 1e-2) -> NDArray:
    """Sizes of gradients of which those of some rows or columns are zero."""
    sizes = np.full(shape, size)
    if len(rows):
        sizes[list(rows)] = 0
    if len(columns):
        sizes[:, list(columns)] = 0
    return sizes


def settings(**options: Any) -> dict[str, Any]:
    """The options of Adam with some changed."""
    return {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8} | options


def diagnose(checkpoint: Checkpoint) -> list[str]:
    """The diagnoses of a checkpoint, the worst first, each as its cause, its certainty and the codes it explains."""
    examination = run_rules(checkpoint, CATALOGUE, Settings())
    return [
        " ".join((each.cause, each.certainty.label, *sorted({examination.findings[at].code for at in each.explains})))
        for each in examination.diagnoses
    ]


def claims_of(cause: str, checkpoint: Checkpoint, findings: Iterable[Finding] | None = None) -> list[Claim]:
    """What a single cause claims, without competitors."""
    found = run_rules(checkpoint, CATALOGUE, Settings()).findings if findings is None else findings
    return list(CAUSES[cause].claims(checkpoint, Symptoms(found)))


def explained(claim: Claim) -> tuple[str, str, str]:
    """A claim's certainty, the codes of its proof and those of what follows."""
    proof, following = ({each.code for each in found} for found in (claim.proof, claim.consequences))
    return claim.certainty.label, " ".join(sorted(proof)), " ".join(sorted(following))


def symptom(code: str, tensor: str | None = None, severity: Severity = Severity.WARNING, **evidence: Any) -> Finding:
    """A finding of a rule about a tensor and its layer, or about the whole checkpoint."""
    layer = tensor.rpartition(".")[0] if tensor else None
    return Finding(code, code.lower(), severity, f"{code} was found", tensor=tensor, layer=layer, evidence=evidence)
