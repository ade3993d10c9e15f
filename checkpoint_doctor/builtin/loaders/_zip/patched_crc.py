"""Computes a CRC-32 after a patch without reading the bytes that do not change.

A CRC is linear over GF(2): the checksums of two byte strings of equal length differ by the checksum of their
difference, and appending zero bytes multiplies by a power of x. So the cost is that of the patch's own length.
Bit order and polynomial are those of zlib (``crc32.c``, ``multmodp`` and ``x2nmodp``).
"""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint_doctor.builtin.loaders._zip.crc import crc32
from checkpoint_doctor.checkpoint import Patch

POLYNOMIAL = 0xEDB88320
ONES = 0xFFFFFFFF
SHORT_GAP = 1 << 15
"""Number of zero bytes up to which zlib is faster than multiplying polynomials in Python."""


def checksum_after(checksum: int, start: int, size: int, patches: Iterable[Patch]) -> int:
    """Return the CRC-32 of bytes after patches, computed from their present CRC-32.

    Args:
        checksum: the present CRC-32.
        start: offset of the first byte, counted like the patches' offsets.
        size: number of bytes.
        patches: sorted, not overlapping, all within the bytes.
    """
    difference, position = 0, start
    for patch in patches:
        end = patch.offset + len(patch.new)
        difference = _append_zeros(difference, end - position)
        difference ^= crc32(patch.old) ^ crc32(patch.new)
        position = end
    return checksum ^ _append_zeros(difference, start + size - position)


def _append_zeros(remainder: int, count: int) -> int:
    if not remainder or not count:
        return remainder
    if count <= SHORT_GAP:
        # zlib inverts a checksum before and after, so the remainder is inverted to cancel that.
        return crc32(bytes(count), remainder ^ ONES) ^ ONES
    power = 3  # x^(8 · count), by squaring from x^(2^3)
    while count:
        if count & 1:
            remainder = _multiply(POWERS[power], remainder)
        count >>= 1
        power += 1
    return remainder


def _multiply(left: int, right: int) -> int:
    """Multiply two polynomials modulo the CRC's; the highest bit is x^0."""
    product, bit = 0, 1 << 31
    while left:
        if left & bit:
            product ^= right
            left ^= bit
        bit >>= 1
        right = (right >> 1) ^ POLYNOMIAL if right & 1 else right >> 1
    return product


def _squares(count: int) -> list[int]:
    powers = [1 << 30]  # x^1
    while len(powers) < count:
        powers.append(_multiply(powers[-1], powers[-1]))
    return powers


POWERS = _squares(3 + 64)
"""x^(2^n) modulo the polynomial, for every length that fits into 64 bits."""
