"""What is missing, and what is equal, when stages compare the values of columns.

Values are compared as Python compares them: 1, 1.0 and True are one key; 2**53 + 1 and 2.0**53 are two. What is missing
(None, NaN, NaT, NA, or a hole where a row lacks the key) is `HOLE` here, one and the same: whoever compares says what
becomes of it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from paramsurvey.engine.columns import HOLE, Column, unpack
from paramsurvey.errors import StageError
from paramsurvey.options import shown
from paramsurvey.stages.accepting import Names, is_hashable
from paramsurvey.tables import Table

_PRESENT: Final = frozenset({int, bool, str, bytes})
"""Types of which no value is missing."""


def is_missing(value: Any) -> bool:
    """Tell whether this is no value."""
    return value is None or value is HOLE or equals_nothing(value)


def equals_nothing(value: Any) -> bool:
    """Tell whether a value is not even equal to itself. Types are looked at: no user's object is asked for equality."""
    if value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float | complex | np.inexact):
        return bool(value != value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, Decimal) and value.is_nan()


def or_holes(column: Column) -> list[Any]:
    """Return the values of a column, with `HOLE` for whatever is missing."""
    values = unpack(column)
    if isinstance(column, array) and column.typecode == "q":
        return values
    if _PRESENT.issuperset(map(type, values)):
        return values
    return [HOLE if is_missing(value) else value for value in values]


def keys_of_rows(table: Table, names: Names, stage: str) -> list[Hashable]:
    """Return what rows are told apart by: the value of one column, or the tuple of those of several."""
    if not table.count:
        return []
    columns = [or_holes(table.column(name)) for name in names]
    for name, values in zip(names, columns, strict=True):
        _refuse_unhashable(values, name, stage)
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _refuse_unhashable(values: list[Any], name: Hashable, stage: str) -> None:
    try:
        deque(map(hash, values), maxlen=0)
    except TypeError:
        culprit = next(value for value in values if not is_hashable(value))
        raise StageError(
            f"stage {stage!r} looks for equal values in the column {name!r}, but {shown(culprit)}, of type "
            f"{type(culprit).__name__}, cannot be looked up (it has no hash): make a column of text or numbers of it"
        ) from None


def described(names: Names, values: Sequence[Any]) -> str:
    """Name a key in a message."""
    told = zip(names, values, strict=True)
    return ", ".join(f"{name}={'nothing' if value is HOLE else shown(value)}" for name, value in told)


def rows_by_key(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Return the rows of each key, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups


def plain_number(value: Any) -> Any:
    """Return a number as Python's own, which does not overflow."""
    return value.item() if isinstance(value, np.generic) else value
