"""The keys of rows: 128 bits that two psets share only if they are the same, made for whole columns at once.

Two psets are the same if they have the same keys and values of the same types and content, in the sense of
`paramsurvey.fingerprint`: 1, 1.0 and True differ, the order of the keys does not count; that of dicts inside the
pset does, because a worker sees it. It does not count either in
which form the values come, in a list, an `array`, a numpy array or a user's frame.

Every cell gives two numbers of 64 bits, and a row has the sums of those of its cells; a cell that is a hole adds
nothing. What a cell gives depends on the name of its column, its type and its value:

- A number of at most 64 bits (Python's `int` and `float`, numpy's bool, integers and floats) is mixed by Stafford's
  variant 13 of the finaliser of MurmurHash3 (D. Stafford, "Better Bit Mixing", 2011; it is that of ``SplitMix64``),
  once for both and once more for each, with constants that a BLAKE2b hash of column and type gives. Each of the two is
  a one-to-one function of the number, so within a column no two numbers are ever mistaken for one another.
- Of anything else it is the BLAKE2b hash (RFC 7693) of the typed bytes.

Two given psets that differ have the same key with a probability of about 2**-128, and any two among n of them with
n**2 * 2**-129: for a thousand million psets that is 1.5e-21. That is so for psets that nobody has made to collide;
whoever could do that can write what they like into the journal anyhow.

A pset that comes once more has a key of its own, which also depends on how often it came before (`with_occurrences`).
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from struct import pack
from struct import unpack as unpack_words
from typing import Any, Final, TypeAlias

import numpy as np

from paramsurvey.engine.columns import Column, Hole, Keys, unpack
from paramsurvey.fingerprint import ordered_bytes, typed_bytes

Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"

MOST_BITS: Final = 8
"""Bytes of a number up to which it is mixed and not hashed."""

FEW: Final = 32
"""Rows up to which they are gone through one by one."""

_ONES: Final = 2**64 - 1
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, made odd


def row_keys(keys: Keys, columns: Sequence[Column], count: int) -> tuple[Words, list[int]]:
    """Return the keys of rows as they are the first time: two numbers for each row, in an array of shape (count, 2).

    Parameters
    ----------
    keys : tuple
        The names of the columns.
    columns : sequence
        Their values.
    count : int
        The number of rows.

    Returns
    -------
    array of uint64
        The keys.
    list of int
        Rows with a value that has no typed bytes, because it cannot be pickled: their keys mean nothing.
    """
    if count < FEW:
        return _small_keys(keys, columns, count)
    sums = np.zeros((2, count), np.uint64)
    lost: set[int] = set()
    for key, column in zip(keys, columns, strict=True):
        name = typed_bytes(key)
        if isinstance(column, list):
            _add_objects(sums, name, column, lost)
        else:
            _add_array(sums, name, column, lost)
    return np.ascontiguousarray(sums.T), sorted(lost)


def with_occurrences(keys: Words, times: np.ndarray[Any, Any]) -> Words:
    """Return the keys of rows whose psets came `times` times before."""
    if not times.any():
        return keys
    again = times.astype(np.uint64) * _GOLDEN
    first = np.where(times > 0, _mixed(keys[:, 0] + again), keys[:, 0])
    second = np.where(times > 0, _mixed(keys[:, 1] ^ again), keys[:, 1])
    return np.stack([first, second], axis=1)


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=1024)
def _constants(name: bytes, kind: str) -> tuple[np.uint64, np.uint64, np.uint64]:
    digest = hashlib.blake2b(name, digest_size=24, person=kind.encode()[:16])
    first, second, third = np.frombuffer(digest.digest(), "<u8")
    return first, second, third


def _add_numbers(sums: Words, name: bytes, kind: str, bits: Words, rows: Any = slice(None)) -> None:
    start, one, other = _constants(name, kind)
    inner = _mixed(bits + start)
    sums[0, rows] += _mixed(inner ^ one)
    sums[1, rows] += _mixed(inner + other)


def _add_array(sums: Words, name: bytes, column: Any, lost: set[int]) -> None:
    """Add a column in an array; those of Python's numbers stand for Python's numbers."""
    if isinstance(column, array | memoryview):
        values = np.asarray(column)
        _add_numbers(sums, name, "float" if values.dtype.kind == "f" else "int", _bits(values))
    elif _is_mixable(column.dtype):
        _add_numbers(sums, name, f"numpy {column.dtype.kind}{column.dtype.itemsize}", _bits(column))
    else:
        _add_objects(sums, name, list(column), lost)


def _is_mixable(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= MOST_BITS


def _bits(values: np.ndarray[Any, Any]) -> Words:
    """Return the bits of numbers, as numbers."""
    values = np.ascontiguousarray(values)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return values.view(f"u{values.dtype.itemsize}").astype(np.uint64)


def _add_objects(sums: Words, name: bytes, values: list[Any], lost: set[int]) -> None:
    kinds = set(map(type, values))
    if len(kinds) == 1:
        _add_objects_of(kinds.pop(), sums, name, values, None, lost)
        return
    places: dict[type, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(type(value), []).append(place)
    for kind, rows in places.items():
        _add_objects_of(kind, sums, name, [values[row] for row in rows], rows, lost)


def _add_objects_of(
    kind: type, sums: Words, name: bytes, values: list[Any], rows: list[int] | None, lost: set[int]
) -> None:
    """Add values of one type, which stand in these rows; None for all."""
    if kind is Hole:
        return
    where: Any = slice(None) if rows is None else np.array(rows)
    if kind is int or kind is float:
        try:
            numbers = np.array(values, np.int64 if kind is int else np.float64)
        except OverflowError:
            _add_large_ints(sums, name, values, range(len(values)) if rows is None else rows)
        else:
            _add_numbers(sums, name, kind.__name__, _bits(numbers), where)
        return
    if issubclass(kind, np.number | np.bool_) and _is_mixable(np.dtype(kind)):
        _add_array_of_scalars(sums, name, np.array(values, kind), where)
        return
    digests = list(_digests(kind, name, values))
    if None in digests:
        numbers_of_rows = range(len(values)) if rows is None else rows
        lost.update(numbers_of_rows[place] for place, digest in enumerate(digests) if digest is None)
    words = np.frombuffer(b"".join(digest or bytes(16) for digest in digests), "<u8")
    sums[:, where] += words.reshape(-1, 2).T


def _add_array_of_scalars(sums: Words, name: bytes, values: np.ndarray[Any, Any], where: Any) -> None:
    _add_numbers(sums, name, f"numpy {values.dtype.kind}{values.dtype.itemsize}", _bits(values), where)


def _add_large_ints(sums: Words, name: bytes, values: list[int], rows: Sequence[int]) -> None:
    """Add ints of which some have more than 64 bits."""
    small = [place for place, value in enumerate(values) if -(2**63) <= value < 2**63]
    if small:
        numbers = np.array([values[place] for place in small], np.int64)
        _add_numbers(sums, name, "int", _bits(numbers), np.array([rows[place] for place in small]))
    for place in set(range(len(values))) - set(small):
        sums[:, rows[place]] += np.frombuffer(_digest(name, typed_bytes(values[place])), "<u8")


def _digests(kind: type, name: bytes, values: list[Any]) -> Iterator[bytes | None]:
    """Make the digests of values of one type; texts come again and again, so each is hashed once."""
    if kind in (str, bytes, bool, type(None)):
        known = {value: _digest(name, typed_bytes(value)) for value in set(values)}
        yield from map(known.__getitem__, values)
        return
    for value in values:
        try:
            yield _digest(name, ordered_bytes(value))
        except Exception:  # noqa: BLE001 - a value of the user's may refuse to be pickled in any way
            yield None


def _digest(name: bytes, content: bytes) -> bytes:
    """Hash a value together with the name of its column, which is framed, so that none runs into the other."""
    return hashlib.blake2b(name + content, digest_size=16, person=b"cell").digest()


# The same for few rows: numpy takes 100 us before it has begun with the first


def _small_keys(keys: Keys, columns: Sequence[Column], count: int) -> tuple[Words, list[int]]:
    sums: list[list[int]] = [[0, 0] for _ in range(count)]
    lost: set[int] = set()
    for key, column in zip(keys, columns, strict=True):
        name = typed_bytes(key)
        for row, value in enumerate(unpack(column)):
            kind = type(value)
            if kind is Hole:
                continue
            if kind is float or (kind is int and -(2**63) <= value < 2**63):
                bits = value & _ONES if kind is int else int.from_bytes(pack("<d", value), "little")
                one, other = _numbers_of(name, kind.__name__, bits)
            elif issubclass(kind, np.number | np.bool_) and _is_mixable(value.dtype):
                bits = int.from_bytes(value.tobytes(), sys.byteorder)
                one, other = _numbers_of(name, f"numpy {value.dtype.kind}{value.dtype.itemsize}", bits)
            else:
                (digest,) = _digests(kind, name, [value])
                if digest is None:
                    lost.add(row)
                    continue
                one, other = unpack_words("<QQ", digest)
            sums[row][0] += one
            sums[row][1] += other
    words = np.array([[one & _ONES, other & _ONES] for one, other in sums], np.uint64).reshape(count, 2)
    return words, sorted(lost)


def _numbers_of(name: bytes, kind: str, bits: int) -> tuple[int, int]:
    start, one, other = _constants(name, kind)
    inner = _mixed_int(bits + int(start))
    return _mixed_int(inner ^ int(one)), _mixed_int(inner + int(other))


def _mixed_int(word: int) -> int:
    word &= _ONES
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _ONES
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _ONES
    return word ^ (word >> 31)
