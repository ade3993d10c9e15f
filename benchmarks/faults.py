"""The fault bench: networks that are healthy but for one fault, and whether the doctor finds that one.

Every patient is written healthy once, then once for every fault and every place the fault can be at. A fault is found
where a finding of warning level or above, which the healthy twin does not have, is of one of the fault's codes and
names the faulty tensor. A healthy patient must be silent at these levels.

Run as ``python -m benchmarks.faults [--corpus FOLDER]``; prints one table and what was missed.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.models import NETWORKS, STEPS
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination
from tests.corpus import HOW_TO_GET_IT, find_corpus

State = dict[str, Tensor]
Place = tuple[str, ...]
"""The names of the tensors that one fault touches together."""


@dataclass(frozen=True)
class Agent:
    """A published agent."""

    outputs: tuple[str, ...]
    """The weights of its output layers."""
    truths: frozenset[str] = frozenset()
    """What a doctor rightly says about it as published."""


DORMANT = frozenset({"NET001"})
"""More than half of a layer's units never fire when the agent plays."""

OVERSHOT = frozenset({"OPT003"})
"""Its linear schedule went past its end to a negative learning rate."""

AGENTS = {
    "dqn/CartPole-v1_1/CartPole-v1.zip": Agent(("q_net.q_net.4.weight",), DORMANT),
    "qrdqn/MountainCar-v0_1/MountainCar-v0.zip": Agent(("quantile_net.quantile_net.4.weight",), DORMANT),
    "sac/Pendulum-v1_1/Pendulum-v1.zip": Agent(("actor.mu.0.weight", "critic.qf0.4.weight")),
    "tqc/Pendulum-v1_1/Pendulum-v1.zip": Agent(("actor.mu.0.weight", "critic.qf0.4.weight")),
    "ddpg/Pendulum-v1_1/Pendulum-v1.zip": Agent(("actor.mu.4.weight", "critic.qf0.4.weight"), DORMANT),
    "ppo/CartPole-v1_1/CartPole-v1.zip": Agent(("action_net.weight", "value_net.weight"), OVERSHOT),
    "a2c/Ant-v3_1/Ant-v3.zip": Agent(("action_net.weight", "value_net.weight")),
    "trpo/CartPole-v1_1/CartPole-v1.zip": Agent(("action_net.weight", "value_net.weight")),
}
"""Eight published agents, one for each algorithm."""

FEWEST_ROWS = 8
"""Rows below which a share of dead or identical rows is another fault: a missing output, a zero layer."""


@dataclass(frozen=True)
class Patient:
    """A healthy state dict, its output layers, and how it is written to a file."""

    name: str
    state: State
    outputs: tuple[str, ...]
    suffix: str
    write: Callable[[State, Path], None]
    truths: frozenset[str] = frozenset()
    """Codes of what is rightly said about it before any fault."""


@dataclass(frozen=True)
class Fault:
    """One way to be ill: where it can be, what it does to the tensors there, and the codes that name it."""

    name: str
    codes: frozenset[str]
    places: Callable[[Patient], Iterator[Place]]
    inflict: Callable[[Sequence[Tensor]], None]


# Patients


def networks(names: Sequence[str] = tuple(NETWORKS), steps: int = STEPS) -> Iterator[Patient]:
    """Yield every network fresh and trained, as bare .pt and .safetensors files, and trained beside its optimizer."""
    for name in names:
        network = NETWORKS[name]
        trained, optimizer = network.trained(steps=steps)
        for age, module in (("fresh", network.fresh()), ("trained", trained)):
            state = _copy(module.state_dict())
            for suffix, write in ((".pt", torch.save), (".safetensors", save_file)):
                yield Patient(f"{name}, {age}, {suffix}", state, (network.output,), suffix, write)
        yield Patient(
            f"{name}, trained, with optimizer",
            _copy(trained.state_dict()),
            (network.output,),
            ".pt",
            _beside(optimizer.state_dict(), steps),
        )


def agents(folder: Path, names: Sequence[str] = tuple(AGENTS)) -> Iterator[Patient]:
    """Yield published agents; a fault is written into their ``policy.pth``, everything else stays as it is."""
    for name in names:
        original = folder / name
        with zipfile.ZipFile(original) as archive:
            state = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True, map_location="cpu")
        yield Patient(name, _copy(state), AGENTS[name].outputs, ".zip", _into(original), AGENTS[name].truths)


def _copy(state: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _beside(optimizer: dict[str, Any], steps: int) -> Callable[[State, Path], None]:
    def write(state: State, path: Path) -> None:
        torch.save({"epoch": steps, "model_state_dict": state, "optimizer_state_dict": optimizer}, path)

    return write


def _into(original: Path) -> Callable[[State, Path], None]:
    def write(state: State, path: Path) -> None:
        member = io.BytesIO()
        torch.save(state, member)
        with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
            for each in source.namelist():
                target.writestr(each, member.getvalue() if each == "policy.pth" else source.read(each))

    return write


# Places


def _is_norm(name: str, state: State) -> bool:
    gain = state.get(name.rpartition(".")[0] + ".weight")
    return gain is not None and gain.ndim == 1


def _own(patient: Patient) -> Iterator[str]:
    # A target network mirrors its online network: a fault there is another subject.
    return (name for name in patient.state if "_target." not in name)


def _each_bias(patient: Patient) -> Iterator[Place]:
    for name in _own(patient):
        # PyTorch starts attention biases at zero, so without evidence their zeros are normal.
        if name.endswith(".bias") and not name.endswith("out_proj.bias") and not _is_norm(name, patient.state):
            yield (name,)


def _recurrent_biases(patient: Patient, gates: int) -> Iterator[Place]:
    for name in _own(patient):
        stem, found, ending = name.rpartition("weight_hh")
        rows, columns = patient.state[name].shape if found else (0, 1)
        if found and rows == gates * columns:
            yield (f"{stem}bias_ih{ending}", f"{stem}bias_hh{ending}")


def _lstm_biases(patient: Patient) -> Iterator[Place]:
    return _recurrent_biases(patient, 4)


def _gru_biases(patient: Patient) -> Iterator[Place]:
    return _recurrent_biases(patient, 3)


def _all_biases(patient: Patient) -> Iterator[Place]:
    pairs = [*_lstm_biases(patient), *_gru_biases(patient)]
    together = (*(name for (name,) in _each_bias(patient)), *(name for pair in pairs for name in pair))
    if together:
        yield together


def _layer_norm_gains(patient: Patient) -> Iterator[Place]:
    for name in _own(patient):
        stem = name.rpartition(".")[0]
        if name == f"{stem}.weight" and _is_norm(name, patient.state) and f"{stem}.running_mean" not in patient.state:
            yield (name,)


def _outputs(patient: Patient) -> Iterator[Place]:
    for name in patient.outputs:
        yield _with_bias(name, patient.state)


def _matrices(patient: Patient) -> Iterator[Place]:
    for name in _own(patient):
        # A matrix of log standard deviations starts constant: only weights have a bulk that a fault stands out from.
        if patient.state[name].ndim >= 2 and "log_std" not in name:
            yield (name,)


def _layers(patient: Patient) -> Iterator[Place]:
    for (name,) in _matrices(patient):
        yield _with_bias(name, patient.state)


def _rows(patient: Patient) -> Iterator[Place]:
    for name, *bias in _layers(patient):
        rows, *columns = patient.state[name].shape
        # A zero row of an embedding is a padding token.
        if rows >= FEWEST_ROWS and max(columns) > 1 and not name.endswith("embedding.weight"):
            yield (name, *bias)


def _with_bias(name: str, state: State) -> Place:
    stem, _, role = name.rpartition(".")
    bias = f"{stem}.{role.replace('weight', 'bias')}"
    return (name, bias) if bias in state else (name,)


# Faults


def _zero(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.zero_()


def _zero_share(share: float) -> Callable[[Sequence[Tensor]], None]:
    def inflict(tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor[_some_rows(tensor, share)] = 0.0

    return inflict


def _some_rows(tensor: Tensor, share: float) -> Tensor:
    count = max(1, round(share * len(tensor)))
    return torch.randperm(len(tensor), generator=torch.Generator().manual_seed(1))[:count]


def _zero_forget_slice(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        hidden = len(tensor) // 4
        tensor[hidden : 2 * hidden] = 0.0


def _set_middle(value: Callable[[Tensor], Tensor | float]) -> Callable[[Sequence[Tensor]], None]:
    # The entry of median magnitude: an ordinary weight, neither the largest nor close to zero.
    def inflict(tensors: Sequence[Tensor]) -> None:
        flat = tensors[0].view(-1)
        middle = int(flat.abs().argsort()[len(flat) // 2])
        flat[middle] = value(flat[middle])

    return inflict


def _scale(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.mul_(1e3)


def _repeat_rows(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        chosen = _some_rows(tensor, 0.25)
        tensor[chosen] = tensor[chosen[0]].clone()


def _make_constant(tensors: Sequence[Tensor]) -> None:
    tensors[0].fill_(float(tensors[0].abs().mean()))


FAULTS = (
    Fault("all biases zero", frozenset({"ZER003", "ZER004", "RNN001", "RNN002"}), _all_biases, _zero),
    Fault("one bias zero", frozenset({"ZER003", "ZER004"}), _each_bias, _zero),
    Fault("LayerNorm gain 30.9 % zero", frozenset({"NRM001"}), _layer_norm_gains, _zero_share(0.309)),
    Fault("LayerNorm gain 100 % zero", frozenset({"NRM001"}), _layer_norm_gains, _zero),
    Fault("output layer zero", frozenset({"NET003", "ZER001"}), _outputs, _zero),
    Fault("LSTM forget slice zero", frozenset({"RNN001"}), _lstm_biases, _zero_forget_slice),
    Fault("GRU biases zero", frozenset({"RNN002"}), _gru_biases, _zero),
    Fault("5 % dead rows", frozenset({"NET002", "ZER002"}), _rows, _zero_share(0.05)),
    Fault("50 % dead rows", frozenset({"NET002", "ZER002"}), _rows, _zero_share(0.5)),
    Fault("one NaN", frozenset({"VAL001"}), _matrices, _set_middle(lambda _: float("nan"))),
    Fault("one Inf", frozenset({"VAL001"}), _matrices, _set_middle(lambda _: float("inf"))),
    Fault("one weight ×1e4", frozenset({"VAL002", "VAL003"}), _matrices, _set_middle(lambda weight: weight * 1e4)),
    Fault("one layer ×1e3", frozenset({"VAL002", "RNN005"}), _layers, _scale),
    Fault("identical rows", frozenset({"NET004"}), _rows, _repeat_rows),
    Fault("constant tensor", frozenset({"VAL005"}), _matrices, _make_constant),
)


# Diagnosis


@dataclass(frozen=True)
class Outcome:
    """What the doctor said about one twin."""

    fault: str
    patient: str
    place: Place
    missed: tuple[str, ...]
    """The faulty tensors that no finding names; all biases of a layer together count as that layer's."""
    said: tuple[str, ...]
    """The findings of warning level and above, as code and subject."""


def alarms(examination: Examination) -> list[Finding]:
    """Return the findings of warning level and above."""
    return [finding for finding in examination.counted if finding.severity >= Severity.WARNING]


def twins(patient: Patient, faults: Sequence[Fault] = FAULTS) -> Iterator[tuple[Fault, Place, State]]:
    """Yield, for every fault and every place it can be at, the patient's state with that fault alone."""
    for fault in faults:
        for place in fault.places(patient):
            state = _copy(patient.state)
            fault.inflict([state[name] for name in place])
            yield fault, place, state


def diagnose(patient: Patient, folder: Path, faults: Sequence[Fault] = FAULTS) -> Iterator[Outcome]:
    """Write a patient healthy and with every fault, and yield what the doctor says about each."""
    catalogue = discover()
    path = folder / f"twin{patient.suffix}"
    before = _findings(patient.write, patient.state, path, catalogue)
    yield Outcome(
        "healthy twin", patient.name, (), (), _subjects(each for each in before if each.code not in patient.truths)
    )
    known = set(_subjects(before))
    for fault, place, state in twins(patient, faults):
        said = _findings(patient.write, state, path, catalogue)
        named = [finding for finding in said if finding.code in fault.codes and _subject(finding) not in known]
        # The bias of a faulty layer goes with its weight; where only biases are faulty, each must be named.
        wanted = [name for name in place if "bias" in name] if "bias" in place[0] else [place[0]]
        missed = tuple(name for name in wanted if not any(names(finding, name) for finding in named))
        yield Outcome(fault.name, patient.name, place, missed, _subjects(said))


def _findings(write: Callable[[State, Path], None], state: State, path: Path, catalogue: Catalogue) -> list[Finding]:
    write(state, path)
    (examination,) = scan([path], catalogue=catalogue, jobs=1).checkpoints
    if examination.error is not None:
        raise RuntimeError(f"{path} could not be read: {examination.error}")
    return alarms(examination)


def names(finding: Finding, tensor: str) -> bool:
    """Say whether a finding names a tensor: by itself, by its layer, or in a list of its evidence."""
    if finding.tensor is not None and finding.tensor.rpartition("/")[2] == tensor:
        return True
    subjects = {finding.layer} if finding.tensor is None else set()
    for value in finding.evidence.values():
        if isinstance(value, list):
            subjects.update(each for each in value if isinstance(each, str))
    return any(tensor == subject or tensor.startswith(f"{subject}.") for subject in subjects if subject)


def _subjects(findings: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(_subject(finding) for finding in findings)


def _subject(finding: Finding) -> str:
    return f"{finding.code} {finding.tensor or finding.layer or ''}".strip()


def table(outcomes: Sequence[Outcome]) -> str:
    """Return fault by fault how many twins were made and in how many the fault was found."""
    made = Counter(outcome.fault for outcome in outcomes)
    found = Counter(outcome.fault for outcome in outcomes if not outcome.missed)
    lines = [f"{'fault':<28} {'twins':>6} {'found':>6}"]
    lines += [f"{fault.name:<28} {made[fault.name]:>6} {found[fault.name]:>6}" for fault in FAULTS if made[fault.name]]
    healthy = [outcome for outcome in outcomes if outcome.fault == "healthy twin"]
    alarmed = sum(bool(outcome.said) for outcome in healthy)
    return "\n".join([*lines, f"healthy twins: {len(healthy)}, with an alarm that is not true of them: {alarmed}"])


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Say of every twin that was misjudged what was missed, or what was said about a healthy one."""
    return [
        f"{each.patient}: {each.fault}, missed {_listed(each.missed)}, said {_listed(each.said)}"
        for each in outcomes
        if each.missed or (each.fault == "healthy twin" and each.said)
    ]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "nothing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 where everything is found and every healthy twin is silent."""
    parser = argparse.ArgumentParser(description="single-fault twins: what is found, what is missed")
    parser.add_argument("--corpus", type=Path, default=find_corpus())
    options = parser.parse_args(arguments)
    patients = list(networks())
    if options.corpus is not None:
        patients += agents(options.corpus / "rl-trained-agents")
    else:
        print(f"the networks alone are examined: {HOW_TO_GET_IT}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [outcome for patient in patients for outcome in diagnose(patient, Path(folder))]
    print(table(outcomes))
    wrong = failures(outcomes)
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
