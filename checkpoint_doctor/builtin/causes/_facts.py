"""Facts that several causes look up: settings of the optimizers, what a finding names, what moments tell of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor, found_once
from checkpoint_doctor.layers import DENSE, NORMS
from checkpoint_doctor.plugins.cause import Symptoms
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.statistics.values import as_real

_TAKES_TURNS = re.compile(r"(?:expert|head|task|adapter|branch|member|domain)\w*?[._](\d+)(?=[._]|$)", re.IGNORECASE)
"""Names of parts of which not all are used for every input, with the number of the part."""

_PAGE = 4096
"""Bytes of a page of memory, and of a block of most file systems."""
_LARGEST_SEARCHED = 1 << 22
"""Entries of the largest tensor that is read again to look at where its zeros are."""

NEVER_TRAINED = "never trained"
OVERWRITTEN = "overwritten"


def settings_of(checkpoint: Checkpoint, option: str, optimizer: str | None = None) -> list[float]:
    """Return an option of the parameter groups of all optimizers, or of one, as far as it is a number."""
    values = (
        group.options.get(option)
        for each in checkpoint.optimizers
        if optimizer in (None, each.name)
        for group in each.groups
    )
    return [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def largest_rate(checkpoint: Checkpoint, optimizer: str | None = None) -> float:
    """Return the largest learning rate of the parameter groups, also of those before a schedule; 0.0 without any."""
    rates = [*settings_of(checkpoint, "lr", optimizer), *settings_of(checkpoint, "initial_lr", optimizer)]
    return max(rates, default=0.0)


def names_of(finding: Finding) -> set[str]:
    """Return the tensors that a finding is about, and the names of its layer and of the branch in its evidence."""
    listed = finding.evidence.get("tensors")
    named = {finding.tensor, finding.layer, finding.evidence.get("branch")}
    if isinstance(listed, (list, tuple)):
        named.update(each for each in listed if isinstance(each, str))
    return {name for name in named if isinstance(name, str)}


def number_of(finding: Finding, key: str) -> float:
    """Return a number of a finding's evidence; 0.0 where there is none."""
    value = finding.evidence.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def layers_of(finding: Finding, checkpoint: Checkpoint) -> list[Layer]:
    """Return the layers of the tensors that a finding is about, in the order of the file."""
    names = names_of(finding)
    found = {checkpoint.layer_by_name[name] for name in names & checkpoint.layer_by_name.keys()}
    found |= {checkpoint.layer_of[name] for name in names & checkpoint.layer_of.keys()}
    return sorted(found, key=_places(checkpoint).__getitem__)


@found_once
def _places(checkpoint: Checkpoint) -> dict[Layer, int]:
    return {layer: place for place, layer in enumerate(checkpoint.layers)}


def about(findings: Iterable[Finding], names: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings that concern one of the tensors or layers, or a layer of one of the tensors."""
    yield from Named(findings).about(names)


class Named:
    """Findings by the names of what they concern, for causes that ask for many names."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._findings = list(findings)
        self._places: dict[str, list[int]] = {}
        for place, finding in enumerate(self._findings):
            for module in {module for name in names_of(finding) for module in _modules_of(name)}:
                self._places.setdefault(module, []).append(place)

    def about(self, names: Iterable[str]) -> list[Finding]:
        """Return those that concern one of the tensors or layers, or what is in it."""
        places = {place for name in names for place in self._places.get(name, ())}
        return [self._findings[place] for place in sorted(places)]


def _modules_of(name: str) -> Iterator[str]:
    """Yield the paths of the modules that a tensor or layer is in, and its own name."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def never_trained(symptoms: Symptoms) -> tuple[Finding, ...]:
    """Return the findings about what never received a gradient, whichever rule speaks of it."""
    codes = (
        "NET002",
        "NET003",
        "NRM001",
        "OPT001",
        "RNN001",
        "RNN002",
        "RNN004",
        "ZER001",
        "ZER002",
        "ZER003",
        "ZER004",
    )
    return symptoms.of(*codes, cause=NEVER_TRAINED)


def failing_training(symptoms: Symptoms) -> tuple[Finding, ...]:
    """Return the findings that any cause of failed training brings with it: units, gradients and step sizes."""
    return symptoms.of("NET001", "NET005", "NRM002", "OPT004", "OPT005", "OPT008", "RNN003", "RNN005", "VAL002")


def received_zero_gradients(finding: Finding) -> bool:
    """True for an OPT001 about tensors with a state whose gradients were all exactly zero, false where none came."""
    return finding.code == "OPT001" and not finding.evidence.get("without_state")


def rows_were_trained_apart(name: str, checkpoint: Checkpoint, finding: Finding | None = None) -> bool | None:
    """Return whether the second moments of a weight's equal rows differ; ``None`` where the file does not tell.

    Rows that were equal all along receive equal gradients, so that their moments are equal too. The finding says which
    rows are equal, as groups in its evidence; without it, all are.
    """
    moments = checkpoint.moments.get(name)
    second = moments.second if moments else None
    if second is None or len(second.shape) < 2 or second.shape[0] < 2 or second.statistics.nonfinite:
        return None
    totals = as_real(second.array).reshape(second.shape[0], -1).sum(axis=1)
    if not totals.any():
        return None
    groups = (finding.evidence.get("groups") if finding else None) or [range(len(totals))]
    return any(totals[list(group)].max() > 1.001 * totals[list(group)].min() for group in groups)


def reads_zeros(layer: Layer, checkpoint: Checkpoint) -> bool:
    """Return whether a layer's inputs were always zero: its bias received gradients, and its weight exactly none.

    The gradient of a weight is that of its bias times the input.
    """
    weight, bias = layer.weight, layer.bias
    if weight is None or bias is None or not has_gradient(bias.name, checkpoint):
        return False
    moments = checkpoint.moments.get(weight.name)
    second = (moments.second or moments.first) if moments else None
    return second is not None and second.statistics.absmax == 0


@found_once
def any_reads_zeros(checkpoint: Checkpoint) -> bool:
    """Return whether a layer's inputs were always zero."""
    return any(reads_zeros(layer, checkpoint) for layer in checkpoint.layers)


@found_once
def has_left_initial_interval(checkpoint: Checkpoint) -> bool:
    """Return whether most dense layers hold values beyond PyTorch's initial ±1/√fan-in, so that they were trained.

    Layers whose bias is zero, or without one, were initialised in some other way, and do not count.
    """
    counted = left = 0
    for layer in checkpoint.layers:
        weight, bias = layer.weight, layer.bias
        if layer.kind not in DENSE or weight is None or bias is None or not bias.statistics.absmax or not weight.size:
            continue
        counted += 1
        bound = 1.02 * max(weight.fan_in, 1) ** -0.5
        left += max(weight.statistics.absmax, bias.statistics.absmax) > bound
    return 2 * left > counted


def was_drawn_wide(tensor: Tensor, checkpoint: Checkpoint) -> bool:
    """Return whether a weight is larger than all of its updates together can have made it.

    Adam moves an entry by about the learning rate in an update, and not by more than a few times that.
    """
    optimizer, updates = checkpoint.optimizer_of.get(tensor.name), checkpoint.updates_of(tensor.name)
    if optimizer is None or not updates or not optimizer.takes_adam_steps or not tensor.statistics.norm:
        return False
    rate = largest_rate(checkpoint, optimizer.name)
    # A rate of zero is the end of a schedule, and tells nothing of the rates before.
    return rate > 0 and bool(tensor.statistics.norm / tensor.size**0.5 > 2.0 * rate * updates)


def is_fresh_part(finding: Finding, symptoms: Symptoms, checkpoint: Checkpoint) -> bool:
    """Return whether an OPT010 is about a part that is as drawn, and not about single vectors that were written.

    Fresh matrices are one. So are gains of 1 beside biases of 0 in the same block, which is how blocks begin. The
    layers of a plain chain are no block.
    """
    fresh = [checkpoint.by_name[name] for name in names_of(finding) & checkpoint.by_name.keys()]
    blocks = {block for tensor in fresh if (block := _block_of(checkpoint.layer_of[tensor.name].name))}
    zero = symptoms.of("ZER003", cause=OVERWRITTEN)
    return any(len(tensor.shape) > 1 for tensor in fresh) or any(about(zero, blocks))


def _block_of(layer: str) -> str:
    """Return the name of the block that a layer is a part of: of named parts, or a numbered one; empty without one."""
    block, _, part = layer.rpartition(".")
    is_chain = part.isdigit() and not block.rpartition(".")[2].isdigit()
    return "" if is_chain else block


def are_most_of_a_kind(findings: Iterable[Finding], checkpoint: Checkpoint) -> bool:
    """Return whether findings are about at least half of the layers of a kind, norms aside.

    Initialisations and explosions concern all layers of a kind, edits and damage single ones.
    """
    layers = [layer for finding in findings for layer in layers_of(finding, checkpoint) if layer.kind not in NORMS]
    kinds = {layer.kind for layer in layers}
    alike = [layer for layer in checkpoint.layers if layer.kind in kinds]
    return bool(layers) and 2 * len({layer.name for layer in layers}) >= len(alike)


def has_torn_page(tensor: Tensor) -> bool:
    """Return whether a tensor's zeros are whole pages of 4 KiB that end within a row, as a write that was torn leaves.

    Code that resets units or layers writes whole rows.
    """
    if not tensor.statistics.zeros or len(tensor.shape) < 2 or tensor.size > _LARGEST_SEARCHED:
        return False
    array = tensor.array
    size, row = array.dtype.itemsize, tensor.size // tensor.shape[0]
    places = np.flatnonzero(array.reshape(-1) == 0)
    first, last = int(places[0]), int(places[-1]) + 1
    is_one_run = last - first == len(places)
    is_whole_pages = len(places) * size % _PAGE == 0
    return is_one_run and is_whole_pages and (first % row != 0 or last % row != 0)


def has_overflowed(finding: Finding, checkpoint: Checkpoint) -> bool:
    """Return whether a VAL001 is about infinities in float16, whose largest number is 65,504."""
    tensor = checkpoint.find_tensor(finding.tensor)
    infinite = finding.evidence.get("infinite")
    return tensor is not None and tensor.dtype == "float16" and isinstance(infinite, int) and infinite > 0


def is_reinforcement_learning(checkpoint: Checkpoint) -> bool:
    """True where the file is an agent's: its loader or its settings say so."""
    return checkpoint.algorithm is not None or checkpoint.format == "sb3"


def has_trained_twin(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for an expert, a head or an adapter where another one, whose name differs in a number only, was trained."""
    names = [str(each) for each in finding.evidence.get("tensors", ())]
    if not names:
        return False
    own = set(names)
    for number in _TAKES_TURNS.finditer(names[0]):
        place = names[0][: number.start(1)], names[0][number.end() :], checkpoint.by_name[names[0]].shape
        if any(twin not in own for twin in _trained_twins(checkpoint).get(place, ())):
            return True
    return False


@found_once
def _trained_twins(checkpoint: Checkpoint) -> dict[tuple[str, str, tuple[int, ...]], list[str]]:
    """Return the trained tensors of parts that take turns, by their names around the part's number, and shapes."""
    found: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for tensor in checkpoint.tensors:
        if has_gradient(tensor.name, checkpoint):
            for number in _TAKES_TURNS.finditer(tensor.name):
                place = tensor.name[: number.start(1)], tensor.name[number.end() :], tensor.shape
                found.setdefault(place, []).append(tensor.name)
    return found


def has_gradient(name: str, checkpoint: Checkpoint) -> bool:
    """Return whether an optimizer recorded a gradient for a tensor."""
    moments = checkpoint.moments.get(name)
    second = (moments.second or moments.first) if moments else None
    return second is not None and second.statistics.absmax > 0
