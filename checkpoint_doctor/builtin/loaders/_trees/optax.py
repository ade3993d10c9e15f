"""The state of optax's optimizers: trees of moments that mirror the parameters, and the counters beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._trees.leaves import Leaf, Path
from checkpoint_doctor.checkpoint import Moments, Optimizer, ParameterGroup, Skipped, Tensor

ROOTS = ("opt_state", "optimizer_state", "optimizer", "opt")
"""Keys under which training states keep the optimizer's state."""
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq", "trace": "momentum_buffer"}
"""Fields of optax's states (``ScaleByAdamState``, ``ScaleByAmsgradState``, ``TraceState``) to the keys of PyTorch's."""
COUNT, SETTINGS, LEARNING_RATE = "count", "hyperparams", "learning_rate"


class _State(Struct):
    """What stands below one root."""

    moments: dict[Path, dict[str, Leaf]] = field(default_factory=dict)
    """The path of a parameter to its moments."""
    count: int | None = None
    learning_rate: float | None = None
    others: int = 0
    """Arrays of states that are not read."""


def find_root(path: Path) -> int | None:
    """Return the position of the key of an optimizer's state among the first keys of a path."""
    return next((place for place, key in enumerate(path[:3]) if key in ROOTS), None)


def read_optimizers(
    leaves: Iterable[Leaf], parameters: Mapping[tuple[Path, Path], str]
) -> tuple[tuple[Optimizer, ...], list[Skipped]]:
    """Return the optimizers of a training state, their moments joined to the parameters by name.

    Args:
        leaves: what stands below the keys of optimizers.
        parameters: the keys before and after ``params`` of every parameter, to the name of its tensor.
    """
    states: dict[Path, _State] = {}
    for leaf in leaves:
        root = find_root(leaf.place)
        assert root is not None
        _add(leaf, leaf.place[root + 1 :], states.setdefault(leaf.place[: root + 1], _State()))
    optimizers, skipped = [], []
    for root_path, state in states.items():
        name = "/".join(root_path)
        if state.moments:
            optimizers.append(_build(name, root_path[:-1], state, parameters))
        if state.others:
            skipped.append(Skipped(f"{state.others:,} arrays of {name}", "states of this kind are not known"))
    return tuple(optimizers), skipped


def _add(leaf: Leaf, inside: Path, state: _State) -> None:
    at = next((place for place, key in enumerate(inside) if key in MOMENTS), None)
    if at is not None:
        state.moments.setdefault(inside[at + 1 :], {}).setdefault(MOMENTS[inside[at]], leaf)
    elif inside[-1:] == (COUNT,) and leaf.number is not None:
        state.count = max(state.count or 0, int(leaf.number))
    elif inside[-2:] == (SETTINGS, LEARNING_RATE) and leaf.number is not None:
        state.learning_rate = float(leaf.number)
    elif leaf.shape:
        state.others += 1


def _build(name: str, before: Path, state: _State, parameters: Mapping[tuple[Path, Path], str]) -> Optimizer:
    moments = []
    for index, (path, record) in enumerate(state.moments.items()):
        # Moments may mirror all variables of the model, with its parameters below a key of their own.
        bare = path[1:] if path[:1] == ("params",) else path
        known = parameters.get((before, bare)) or parameters.get((before, path))
        tensors = {
            key: Tensor(f"{name}/{leaf.name}", leaf.shape, leaf.dtype, leaf.values)
            for key, leaf in record.items()
            if leaf.values is not None
        }
        moments.append(Moments(index, known, state.count, tensors))
    keys = {key for record in state.moments.values() for key in record}
    kind = "Adam" if keys >= {"exp_avg", "exp_avg_sq"} else "SGD" if keys == {"momentum_buffer"} else None
    rate = state.learning_rate
    groups = () if rate is None else (ParameterGroup({"lr": rate}, tuple(range(len(moments)))),)
    lost = sum(each.tensor is None for each in moments)
    unmatched = f"{lost:,} of its {len(moments):,} trees of moments have no parameter of their name" if lost else ""
    return Optimizer(name, kind, groups, tuple(moments), unmatched)
