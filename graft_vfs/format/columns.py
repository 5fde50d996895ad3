"""Columns: arrays of unsigned integers as little-endian bytes."""

from __future__ import annotations

import sys
from array import array

_IS_BIG_ENDIAN = sys.byteorder == "big"

assert [array(each).itemsize for each in "HIQ"] == [2, 4, 8]


def decode_column(data: bytes | memoryview, typecode: str = "I") -> array[int]:
    """Return the integers of a column; raises ValueError if their bytes are incomplete."""
    column = array(typecode)
    column.frombytes(data)
    if _IS_BIG_ENDIAN:
        column.byteswap()
    return column


def encode_column(column: array[int]) -> bytes:
    """Return the bytes of a column."""
    if _IS_BIG_ENDIAN:
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()
