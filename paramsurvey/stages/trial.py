"""Whether functions of columns keep the rule of row-wise stages: what comes of a row depends on nothing but the row.

Rows come in slices that are cut as it happens. A function that takes a mean, or numbers its rows, gives other values
for every way of cutting; without a word, and on a small table, which is one slice, even those that were meant. So a run
tries such stages out on their first rows: on all of these at once, and on each half by itself. What differs is refused.

Only what is certain is refused, because a program that works must go on working:

- *Chance.* A function with noise differs, too. So what differs is computed again and again, and as soon as the same
  rows do not give the same values, nothing more is said. That noise repeats itself `REPEATS` times has a probability
  below 4 ** -`REPEATS`: that of one bit of it, in the whole and in the halves.
- *Rounding.* A matrix product has other last bits in other company, and what solves equations for all rows at once
  stops when all are good enough. Numbers that differ by less than a hundredth of the largest are taken for equal.
- *Trouble.* A function that raises for few rows, or returns what cannot be compared, is not judged.

The rows that are tried out have been computed for the run itself before that, so that random numbers of theirs are the
same as without a trial. It costs three calls for 16 rows; where rows come one by one, for 2, 4, 8 and 16 of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import attrs
import numpy as np

from paramsurvey.errors import StageError
from paramsurvey.options import shown
from paramsurvey.stages.comparing import is_missing
from paramsurvey.tables import Table, concatenated

if TYPE_CHECKING:
    from paramsurvey.stages.rows import Derive, Where

MOST_ROWS: Final = 16
REPEATS: Final = 12
TOLERANCE: Final = 0.01

Outcome: TypeAlias = "list[tuple[int, dict[Hashable, Any]]]"
"""What came of some rows: for each that came out, the number of its parent, and its new values."""


class Difference(NamedTuple):
    """What came of one row in two ways.

    Attributes
    ----------
    row : int
        Its number.
    key : hashable
        The column that differs; None if the row came out in only one of them.
    one, other : object
        The values.
    """

    row: int
    key: Hashable
    one: Any
    other: Any


@attrs.define(eq=False, repr=False)
class Trial:
    """Tries a stage out, on the first rows that a run has for it.

    Parameters
    ----------
    stage : Derive or Where
        The stage.
    """

    stage: Derive | Where
    _rows: Table = attrs.field(factory=lambda: Table((), [], 0), init=False)

    def goes_on(self, table: Table) -> bool:
        """Look at some rows that the stage has worked on; return whether it would be good to see more.

        Parameters
        ----------
        table : Table
            The rows.

        Raises
        ------
        StageError
            What comes of a row depends on others.
        """
        before = self._rows.count
        more = table.slice(0, min(MOST_ROWS - before, table.count))
        self._rows = concatenated([self._rows, more]) if before else more
        count = self._rows.count
        if count > 1 and count.bit_length() > before.bit_length():
            self._try()
        return count < MOST_ROWS

    def _try(self) -> None:
        try:
            found = self._certain_difference()
        except Exception:  # noqa: BLE001 - it might be of no use for so few rows
            return
        if found is not None:
            raise StageError(self._refusal(found))

    def _certain_difference(self) -> Difference | None:
        at_once, halved = self._at_once(), self._halved()
        found = _difference(at_once, halved)
        if found is None:
            return None
        for _ in range(REPEATS):
            if _difference(at_once, self._at_once()) or _difference(halved, self._halved()):
                return None
        return found

    def _at_once(self) -> Outcome:
        return self._outcome(0, self._rows.count)

    def _halved(self) -> Outcome:
        half = self._rows.count // 2
        return [*self._outcome(0, half), *self._outcome(half, self._rows.count)]

    def _outcome(self, start: int, stop: int) -> Outcome:
        outcome: Outcome = []
        for rows in self.stage.rows(self._rows.slice(start, stop)):
            made = rows.table.only([key for key in self.stage.makes if key in rows.table.keys])
            outcome += zip((start + rows.parents).tolist(), map(_with_plain, made.dicts()), strict=True)
        return outcome

    def _refusal(self, found: Difference) -> str:
        pset = shown(self._rows.pset(found.row))
        how = "depending on which others are computed with it"
        if found.key is None:
            what = f"the row {pset} is kept or not, {how}"
        else:
            values = f"{shown(found.one)} or {shown(found.other)}"
            what = f"column {found.key!r}: for the row {pset} it is {values}, {how}"
        return (
            f"stage {self.stage.name!r}, {what}; rows come in slices that are cut as it happens: .apply(function) is "
            "for what needs the whole table, such as a mean, a rank or a number for each row"
        )


def _with_plain(values: dict[Hashable, Any]) -> dict[Hashable, Any]:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _difference(one: Outcome, other: Outcome) -> Difference | None:
    """Return the first difference between two outcomes."""
    rows, others = dict(one), dict(other)
    if rows.keys() != others.keys():
        return Difference(min(rows.keys() ^ others.keys()), None, None, None)
    largest: dict[Hashable, float] = {}
    for values in (*rows.values(), *others.values()):
        for key, value in values.items():
            if type(value) is float and abs(value) < math.inf:
                largest[key] = max(largest.get(key, 0.0), abs(value))
    for row, values in rows.items():
        for key, value in values.items():
            if key in others[row] and not _are_alike(value, others[row][key], TOLERANCE * largest.get(key, 0.0)):
                return Difference(row, key, value, others[row][key])
    return None


def _are_alike(one: Any, other: Any, tolerance: float) -> bool:
    """Tell whether two values are equal, or nearly so, or cannot be compared."""
    if is_missing(one) or is_missing(other):
        return is_missing(one) and is_missing(other)
    if float in (type(one), type(other)) and isinstance(one, float | int) and isinstance(other, float | int):
        return one == other or abs(one - other) <= tolerance
    if not isinstance(one, _COMPARED) or not isinstance(other, _COMPARED):
        return True
    return bool(one == other)


_COMPARED: Final = (int, float, str, bytes, bool)
