"""In which order a Keras model hands its trained variables to its optimizer.

A layer's own variables come first, then those of the layers inside of it in the order in which these were created. The
file stores them sorted by name. The model's configuration tells the order of a Sequential or functional model; the
numbers that Keras gives to layers of one class tell theirs. Where an order remains open, the shapes of the optimizer's
variables decide, if only one order fits them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

Path = tuple[str, ...]
Shape = tuple[int, ...]

_CREATED = {
    name: place
    for names in (
        ("forward_layer", "backward_layer"),
        ("query_dense", "key_dense", "value_dense", "output_dense"),
    )
    for place, name in enumerate(names)
}
"""The layers inside Keras's own that have several, in the order in which they are created."""
_MOST_STEPS = 1_000_000
"""Steps that are looked at until the order remains open. A known order of 1,000 layers takes 1,000."""


class LayerVariables(Struct, frozen=True):
    """The trained variables of a layer, in the order in which it creates them."""

    path: Path
    """The layer's group in the file."""
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]


def find_order(
    layers: Sequence[LayerVariables], groups: Collection[Path], ranks: Mapping[Path, int], shapes: Sequence[Shape]
) -> list[str | None]:
    """Return the name of the variable at each place of the optimizer's list, ``None`` where it is not certain.

    Args:
        layers: the layers with trained variables.
        groups: the groups in the file that have variables of their own, or could have; others only contain layers.
        ranks: the places of layers among those beside them, as the configuration has them.
        shapes: the shapes of the variables that the optimizer was given, in its order.
    """
    found: list[str | None] = [None] * len(shapes)
    for at, layer in _walk(_chain(layers, groups, ranks), shapes):
        found[at : at + len(layer.names)] = layer.names
    return found


def _chain(
    layers: Sequence[LayerVariables], groups: Collection[Path], ranks: Mapping[Path, int]
) -> list[list[LayerVariables]]:
    """Return the layers in lists, of each of which the order is known."""
    children: dict[Path, set[str]] = {}
    for each in layers:
        for depth, name in enumerate(each.path):
            children.setdefault(each.path[:depth], set()).add(name)
    chains: dict[Path, list[tuple[tuple[int, ...], LayerVariables]]] = {}
    for each in layers:
        unordered, places = [], []
        for depth, name in enumerate(each.path):
            beside = children[each.path[:depth]]
            kind, place = _place(name, beside, each.path[:depth] not in groups, ranks.get(each.path[: depth + 1]))
            places.append(place)
            if kind:
                unordered.append(kind)
        chains.setdefault(tuple(unordered), []).append((tuple(places), each))
    return [[each for _, each in sorted(chain, key=lambda pair: pair[0])] for chain in chains.values()]


def _place(name: str, beside: Collection[str], is_container: bool, rank: int | None) -> tuple[str, int]:
    """Return what a group must share with those beside it for their order to be known, and its place among them."""
    if rank is not None or len(beside) == 1:
        return "", rank or 0
    if all(each in _CREATED for each in beside):
        return "", _CREATED[name]
    if is_container:
        # ``dense``, ``dense_1``: Keras counts the layers of a class in a list.
        stem, _, number = name.rpartition("_")
        if stem in beside and number.isascii() and number.isdigit() and len(number) < 9:
            return stem, int(number)
    return name, 0


def _walk(chains: Sequence[Sequence[LayerVariables]], shapes: Sequence[Shape]) -> list[tuple[int, LayerVariables]]:
    """Return the layers whose place is the same in all orders that fit the shapes, each with its first place."""
    levels = _walk_forward(chains, shapes)
    if levels is None:
        return []
    places: dict[tuple[int, int], set[int]] = {}
    """Chain and place in it to the places in the optimizer's list."""
    on_way = {state for state, at in levels[-1].items() if at == len(shapes)}
    for before in reversed(levels[:-1]):
        reached = set()
        for state, at in before.items():
            for chain, following in _next_states(state, chains, shapes, at):
                if following in on_way:
                    places.setdefault((chain, state[chain]), set()).add(at)
                    reached.add(state)
        on_way = reached
    return [(at, chains[chain][place]) for (chain, place), found in places.items() if len(found) == 1 for at in found]


_State = tuple[int, ...]
"""How many layers of each chain have been placed."""


def _walk_forward(
    chains: Sequence[Sequence[LayerVariables]], shapes: Sequence[Shape]
) -> list[dict[_State, int]] | None:
    """Return the states after each layer, with the variables placed by then; ``None`` if there are too many."""
    levels: list[dict[_State, int]] = [{(0,) * len(chains): 0}]
    steps = 0
    for _ in range(sum(map(len, chains))):
        following: dict[_State, int] = {}
        for state, at in levels[-1].items():
            for chain, after in _next_states(state, chains, shapes, at):
                steps += len(state)
                if steps > _MOST_STEPS:
                    return None
                following[after] = at + len(chains[chain][state[chain]].shapes)
            steps += len(state)
        levels.append(following)
    return levels


def _next_states(
    state: _State, chains: Sequence[Sequence[LayerVariables]], shapes: Sequence[Shape], at: int
) -> Iterator[tuple[int, _State]]:
    """Yield the chains whose next layer fits the shapes from a place on, and the state after it."""
    for chain, place in enumerate(state):
        if place < len(chains[chain]):
            wanted = chains[chain][place].shapes
            if tuple(shapes[at : at + len(wanted)]) == wanted:
                yield chain, (*state[:chain], place + 1, *state[chain + 1 :])
