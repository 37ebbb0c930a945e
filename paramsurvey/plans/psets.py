"""What is to be said of psets before they are computed: equal ones, and those that cannot be sent."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from hashlib import blake2b
from struct import pack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from paramsurvey.engine.columns import Column, Hole, is_plain
from paramsurvey.engine.pickling import dumps_by_value
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.options import shown
from paramsurvey.plans.plan import Psets

if TYPE_CHECKING:
    from paramsurvey.tables import Table


MEASURED_ROWS: Final = 200
"""Of so many rows at most the bytes are measured; values that may not be picklable are tried."""


def looked_through(table: Table) -> Psets:
    """See what is to be said of psets."""
    codes, uncompared = codes_of_rows(table)
    repeated = pd.Series(codes).duplicated().to_numpy()
    duplicates = int(repeated.sum())
    example = shown(table.pset(int(repeated.argmax()))) if duplicates else ""
    return Psets(duplicates, example, uncompared, _why_unsendable(table))


def codes_of_rows(table: Table) -> tuple[np.ndarray[Any, Any], int]:
    """Number the rows so that equal ones have the same number; and count those that cannot be compared.

    Columns are taken one after the other, until all rows differ.
    """
    codes = np.zeros(table.count, np.int64)
    odd: set[int] = set()
    for column in table.columns:
        more, strange = _codes(column)
        odd.update(strange)
        if table.count:
            codes = pd.factorize(codes * (int(more.max()) + 1) + more)[0].astype(np.int64)
        if len(codes) and int(codes.max()) + 1 == table.count:
            break
    return codes, len(odd)


def _codes(column: Column) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Number the values of a column so that those of one type and content have the same number.

    Also returns the rows whose values cannot be compared; they have numbers of their own.
    """
    if isinstance(column, array | memoryview):  # of 64-bit numbers, whose bits say what they are
        bits = np.ascontiguousarray(np.asarray(column)).view(np.int64)
        return pd.factorize(bits)[0].astype(np.int64), []
    numbered: dict[Hashable, int] = {}
    known: dict[int, Hashable] = {}  # by identity: one large object is often in many rows
    strange: list[int] = []
    codes = np.empty(len(column), np.int64)
    for row, value in enumerate(column):
        key: Hashable = known.get(id(value)) if isinstance(column, list) else None
        if key is None:
            try:
                key = known[id(value)] = _key(value)
            except Exception:  # noqa: BLE001 - an object's own pickling may raise anything
                key = object()
                strange.append(row)
        codes[row] = numbered.setdefault(key, len(numbered))
    return codes, strange


def _key(value: Any) -> Hashable:
    """Return what two values have in common only if they have the same type and content."""
    kind = type(value)
    if kind in (str, int, bool, bytes, Hole) or value is None:
        return kind, value
    if kind is float:
        return kind, pack("<d", value)
    if isinstance(value, pd.Timestamp | pd.Timedelta):  # as typed_bytes would tell, at a tenth of the time
        zone = getattr(value, "tz", None)
        return kind, value.unit, type(zone), str(zone), value.asm8.tobytes()
    return kind, blake2b(typed_bytes(value)).digest()


def _why_unsendable(table: Table) -> str:
    """Try whether psets can be pickled, those that are not only numbers and text."""
    rows = evenly_spread(table.count, MEASURED_ROWS).tolist()
    for name, column in zip(table.keys, table.columns, strict=True):
        if not len(column) or is_plain(column):
            continue
        for row in rows:
            why = _why_not_pickled(column[row])
            if why:
                return f"the value {shown(column[row])} in the column {name!r} of pset {row} cannot be pickled: {why}"
    return ""


def _why_not_pickled(value: Any) -> str:
    try:
        dumps_by_value(value)
    except Exception as exc:  # noqa: BLE001 - as above
        return f"{type(exc).__name__}: {exc}"
    return ""


def evenly_spread(total: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return so many places, evenly spread over all of them; the first and the last among them."""
    if count >= total:
        return np.arange(total, dtype=np.int64)
    if count == 1:
        return np.array([total // 2], dtype=np.int64)
    return np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))
