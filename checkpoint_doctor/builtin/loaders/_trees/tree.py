"""From the leaves of a training state to a checkpoint: its tensors, its optimizers and its counters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from checkpoint_doctor.builtin.loaders._trees.leaves import Leaf, Path
from checkpoint_doctor.builtin.loaders._trees.optax import find_root, read_optimizers
from checkpoint_doctor.checkpoint import Checkpoint, Skipped, Tensor

PARAMETERS, STATISTICS = "params", "batch_stats"
LEAVES = frozenset({"kernel", "bias", "scale", "embedding", "weight", "w", "b"})
"""Names of parameters in Flax and Haiku."""
COUNTERS = frozenset({"step", "steps", "epoch", "global_step", "num_steps"})


def is_training_state(leaves: Iterable[Leaf]) -> bool:
    """Tell whether a nested dictionary of arrays holds the parameters of a model."""
    return any(PARAMETERS in each.path[:-1] or (each.shape and each.place[-1] in LEAVES) for each in leaves)


def build_checkpoint(path: str, format: str, leaves: Sequence[Leaf]) -> Checkpoint:
    """Build the checkpoint of a training state.

    Arrays below the key of an optimizer are its moments, whole numbers under the names of counters are counters, and
    all else are tensors of the model.
    """
    state = [leaf for leaf in leaves if find_root(leaf.place) is not None]
    model = [leaf for leaf in leaves if find_root(leaf.place) is None]
    counters = {}
    tensors: list[Tensor] = []
    skipped: list[Skipped] = []
    parameters: dict[tuple[Path, Path], str] = {}
    modules = {leaf.place for leaf in model}
    for leaf in model:
        if leaf.place[-1] in COUNTERS and isinstance(leaf.number, int):
            counters["/".join(leaf.place)] = int(leaf.number)
        elif leaf.values is None:
            skipped.append(Skipped(f"array {leaf.name}", leaf.problem))
        else:
            parameters[_split(leaf.place)] = leaf.name
            role = ".".join(_name_role(leaf, modules))
            tensors.append(Tensor(leaf.name, leaf.shape, leaf.dtype, leaf.values, known_as=role))
    optimizers, unread = read_optimizers(state, parameters)
    steps = [each.step for optimizer in optimizers for each in optimizer.parameters if each.step is not None]
    step = next((number for name, number in counters.items() if name.endswith("step")), None)
    return Checkpoint(
        path=path,
        format=format,
        tensors=tuple(tensors),
        optimizers=optimizers,
        step=step,
        updates=max(steps, default=step),
        counters=counters,
        skipped=(*skipped, *unread),
    )


def _split(place: Path) -> tuple[Path, Path]:
    """Return the keys before and after ``params``; of a tree of parameters alone, nothing and all of them."""
    if PARAMETERS in place[:-1]:
        at = place.index(PARAMETERS)
        return place[:at], place[at + 1 :]
    return (), place


def _name_role(leaf: Leaf, places: Collection[Path]) -> Path:
    """Return the keys by which a layer is inferred: without collections, so that a norm's statistics are beside it."""
    *module, name = leaf.place
    if name in ("mean", "var") and {(*module, "mean"), (*module, "var")} <= set(places):
        name = f"running_{name}"
    elif name == "scale" and len(leaf.shape) == 1:
        name = "weight"
    return (*(key for key in module if key not in (PARAMETERS, STATISTICS)), name)
