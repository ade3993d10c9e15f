"""Keys of dictionaries and members of sets in a pickle: that they can be hashed, and were not chosen to collide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.objects import StoredBytes
from checkpoint_doctor.sources.budget import COPIED, Budget

DEEPEST_KEY = 8
WIDEST_KEY = 256
"""Nesting and entries of a tuple used as a dictionary key; hashing it visits all of them."""
VISIT_COST = 4
"""Bytes of the budget that each of these counts as, since it is hashed several times."""
MOST_EQUAL_HASHES = 256
"""Keys of one dictionary with the same hash, each of which is compared with those before it. Of all tuples of six
small numbers, 64 have the same one, since −1 and −2 have."""
COMPARED_BITS = (1 << 52) - 1
"""The part of a hash that counts: dictionaries look at the highest bits last."""


class Hashes:
    """How many keys of each hash the dictionaries and sets of a pickle have.

    The hashes of texts and bytes are salted by Python, and those of small integers are the integers themselves. Other
    keys can be chosen so that all have the same hash, and then the time for a dictionary grows with its square.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

    def admit(self, collection: object, key: Any) -> None:
        """Count a key that is put into a collection.

        Raises:
            TypeError: too many keys of the collection have its hash.
        """
        place = id(collection), hash(key) & COMPARED_BITS
        count = self._counts[place] = self._counts.get(place, 0) + 1
        if count > MOST_EQUAL_HASHES:
            raise TypeError("its keys were chosen to have the same hash")


def read_key(value: Any, budget: Budget) -> Any:
    """Return the dictionary key for an unpickled value.

    Raises:
        TypeError: the value cannot be hashed, or hashing it takes longer than any checkpoint needs.
        UnreadableCheckpoint: the keys together take more than the file may ask for.
    """
    if isinstance(value, StoredBytes):
        budget.spend(COPIED, value.size)
        return value.read()
    left = [WIDEST_KEY]
    _check_key(value, DEEPEST_KEY, left)
    if left[0] < WIDEST_KEY - 1:
        budget.spend(COPIED, VISIT_COST * (WIDEST_KEY - left[0]))
    return value


def is_salted(key: Any) -> bool:
    """Return whether nobody can choose keys like this one that collide."""
    kind = type(key)
    return kind is str or kind is bytes or (kind is int and -(1 << 60) < key < 1 << 60)


def read_keys(values: Iterable[Any], budget: Budget) -> Iterator[Any]:
    """Yield the keys for values that are put into one new collection. Raises as ``read_key`` and ``Hashes.admit``."""
    hashes = Hashes()
    for value in values:
        key = value if type(value) is str else read_key(value, budget)
        if not is_salted(key):
            hashes.admit(values, key)
        yield key


def _check_key(value: Any, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise TypeError("a key is nested too deeply")
    if isinstance(value, int) and value.bit_length() > 64:
        # Hashing takes as long as the integer is.
        raise TypeError("a key is an integer of more than 64 bits")
    if isinstance(value, tuple | frozenset):
        for item in value:
            _check_key(item, depth - 1, left)
