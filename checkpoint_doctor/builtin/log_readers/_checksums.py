"""CRC-32C (Castagnoli) of many records of one length at once, as TensorBoard's event files carry it.

A CRC is linear: that of a message is the exclusive or of what each byte contributes at its distance from the end. So a
column of bytes is looked up in one table for all records.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78
WIDTH = 256
"""Bytes of a record that are taken at once; a table of 1 KB stands for each distance."""
FEW = 16
"""Records below which one look-up of all bytes is faster than one for each column."""


def compute_crc32c(records: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the CRC-32C of each record; the records are of shape (records, bytes)."""
    state = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for start in range(0, records.shape[1], WIDTH):
        state = _advance(state, records[:, start : start + WIDTH])
    return ~state


def mask_crc(checksums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return checksums as TFRecord files store them: rotated, so that a checksum of checksums means something."""
    return ((checksums >> np.uint32(15)) | (checksums << np.uint32(17))) + np.uint32(0xA282EAD8)


def _advance(state: NDArray[np.uint32], records: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the checksums after further bytes. Earlier bytes act on the next four as if they were part of them."""
    size = records.shape[1]
    carried = state.astype("<u4")[:, None].view(np.uint8)
    tables = _make_tables()
    beyond: NDArray[np.uint32] = state >> np.uint32(8 * size) if size < 4 else np.zeros_like(state)
    if len(records) < FEW:
        mixed = records.copy()
        mixed[:, :4] ^= carried[:, :size]
        beyond ^= np.bitwise_xor.reduce(tables[np.arange(size - 1, -1, -1), mixed], axis=1)
        return beyond
    columns = np.ascontiguousarray(records.T)
    for position, column in enumerate(columns):
        column = column ^ carried[:, position] if position < 4 else column
        beyond ^= tables[size - 1 - position].take(column)
    return beyond


@cache
def _make_tables() -> NDArray[np.uint32]:
    """Return what a byte contributes, by the number of bytes after it and by its value."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    tables = [table]
    for _ in range(WIDTH - 1):
        tables.append(table[tables[-1] & 0xFF] ^ (tables[-1] >> np.uint32(8)))
    return np.array(tables)
