"""Rows that come alone: small records without names, and the shapes that tell what they are (`format`).

A pset that takes ten seconds is remembered when it is finished, by itself. With a head, and the names of its columns
twice, such a row would take ten times as many bytes as its values.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import attrs
import numpy as np

from paramsurvey.engine.columns import Column, Keys, columns_of, psets_of
from paramsurvey.engine.pickling import dumps
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import (
    KEY_BYTES,
    MOST_VALUES,
    Damage,
    Kind,
    Record,
    Row,
    as_text,
    record,
    row_at,
    varint,
    varint_at,
)
from paramsurvey.journal.index import Places
from paramsurvey.tables import Table

FEW: Final = 16
"""Rows that come together, up to which each is a small record."""

_KINDS: Final = {int: "i", float: "d", str: "s"}
_FLOAT: Final = struct.Struct("<d")

Columns: TypeAlias = "tuple[Keys, Sequence[Column]]"
Values: TypeAlias = "dict[Hashable, Any]"
Note: TypeAlias = "Callable[[Damage], None]"


class Shape(NamedTuple):
    """What rows have in common: the names of the columns of answers and psets, and the types of both."""

    answers: Keys
    psets: Keys
    answer_kinds: str
    pset_kinds: str

    def described(self) -> Description:
        """Return it as text and data of a record."""
        return Description(_text_of(self.answer_kinds, self.pset_kinds), dumps((self.answers, self.psets)))


@lru_cache(maxsize=256)
def _text_of(answer_kinds: str, pset_kinds: str) -> bytes:
    return as_text({"answers": answer_kinds, "psets": pset_kinds})


class Description(NamedTuple):
    """A shape as it stands in the file."""

    text: bytes
    data: bytes

    def shape(self) -> Shape:
        """Return the shape; raises whatever the unpickling of the names raises."""
        kinds, (answers, psets) = json.loads(self.text), pickle.loads(self.data)
        return Shape(answers, psets, kinds["answers"], kinds["psets"])

    def record(self, stage: bytes, number: int, written: float) -> bytes:
        """Return its record."""
        return record(Kind.SHAPE, stage=stage, number=number, text=self.text, data=self.data, written=written)


class SmallRow(NamedTuple):
    """A row that is a small record, or is to be one."""

    shape: Description
    key: bytes
    values: bytes


@attrs.define(eq=False, repr=False)
class RowsOfStage:
    """Small records of one stage that are near each other in the file: to those who look for rows, one record.

    It grows at its end.

    Attributes
    ----------
    stage : bytes
        The print of the stage.
    numbers, offsets : list of int
        The shape of each row, and where it is.
    times : list of float
        When each was written.
    end : int
        Where the last of them has ended.
    """

    stage: bytes
    numbers: list[int] = attrs.field(factory=list, init=False)
    offsets: list[int] = attrs.field(factory=list, init=False)
    times: list[float] = attrs.field(factory=list, init=False)
    end: int = attrs.field(default=0, init=False)

    @property
    def rows(self) -> int:
        """How many they are."""
        return len(self.offsets)

    @property
    def offset(self) -> int:
        """Where the first is."""
        return self.offsets[0]

    @property
    def written(self) -> float:
        """When the last was written."""
        return self.times[-1]


Stored: TypeAlias = "Record | RowsOfStage"
"""Where rows are."""


def written_at(one: Stored, row: int) -> float:
    """Return when a row was written."""
    return one.times[row] if isinstance(one, RowsOfStage) else one.written


# Writing


def small_rows(keys: bytes, psets: Columns, answers: Columns) -> list[SmallRow] | None:
    """Return rows as they are written one by one; None if one of them is too large for that.

    Raises whatever the pickling of a value raises.
    """
    count = len(keys) // KEY_BYTES
    rows = []
    for row, (pset, answer) in enumerate(zip(psets_of(*psets, count), psets_of(*answers, count), strict=True)):
        shape = Shape(tuple(answer), tuple(pset), kinds_of(answer.values()), kinds_of(pset.values()))
        values = encoded(shape.answer_kinds, answer.values()) + encoded(shape.pset_kinds, pset.values())
        if len(values) > MOST_VALUES:
            return None
        rows.append(SmallRow(shape.described(), keys[KEY_BYTES * row : KEY_BYTES * (row + 1)], values))
    return rows


def kinds_of(values: Iterable[Any]) -> str:
    """Return the types of values, a letter each."""
    return "".join([_KINDS.get(type(value), "o") for value in values])


def encoded(kinds: str, values: Iterable[Any]) -> bytes:
    """Return values of these types as bytes."""
    pieces, others = [], []
    for kind, value in zip(kinds, values, strict=True):
        if kind == "i":
            pieces.append(varint(2 * value if value >= 0 else -2 * value - 1))
        elif kind == "d":
            pieces.append(_FLOAT.pack(value))
        elif kind == "s":
            text = value.encode("utf-8", "surrogatepass")
            pieces += (varint(len(text)), text)
        else:
            others.append(value)
    if others:
        pieces.append(dumps(others))
    return b"".join(pieces)


def decoded(data: bytes, at: int, kinds: str) -> tuple[list[Any], int]:
    """Return the values of these types that begin there, and where they end; unpickles those of other types."""
    values: list[Any] = []
    for kind in kinds:
        if kind == "i":
            number, at = varint_at(data, at)
            values.append(-(number + 1 >> 1) if number & 1 else number >> 1)
        elif kind == "d":
            values.append(_FLOAT.unpack_from(data, at)[0])
            at += 8
        elif kind == "s":
            size, at = varint_at(data, at)
            values.append(data[at : at + size].decode("utf-8", "surrogatepass"))
            at += size
        else:
            values.append(None)
    if "o" in kinds:
        file = io.BytesIO(data)
        file.seek(at)
        others, at = iter(pickle.load(file)), file.tell()
        values = [next(others) if kind == "o" else value for kind, value in zip(kinds, values, strict=True)]
    return values, at


# Reading


class Loaded(NamedTuple):
    """The rows of a record.

    Attributes
    ----------
    answers, psets : Table
        Of those that can be read; `psets` has no rows if they were not asked for.
    places : array of int64 or None
        The place of each row in them, -1 if it cannot be read; None if they all are where they were.
    """

    answers: Table
    psets: Table
    places: Places | None

    def find(self, rows: Places) -> Places:
        """Return the places of some rows of the record, -1 for those that cannot be read."""
        return rows if self.places is None else self.places[rows]


def loaded(
    one: Stored, file: JournalFile, shape_of: Callable[[int], Shape | None], note: Note, *, psets: bool
) -> Loaded | None:
    """Read the rows of a record, and unpickle them; None if that is not possible. What is damaged is noted."""
    if isinstance(one, RowsOfStage):
        return _loaded_small(one, file, shape_of, note, psets=psets)
    data = file.data(one)
    if data is None:
        note(Damage(one.offset, one.end - one.offset, f"{one.rows} rows"))
        return None
    try:
        stream = io.BytesIO(data)
        tables = [table_of(pickle.load(stream), one.rows) for _ in range(2 if psets else 1)]
    except Exception as exc:  # noqa: BLE001 - a class of the user's may have gone, or raise anything
        note(Damage(one.offset, one.end - one.offset, f"{one.rows} rows cannot be unpickled: {exc!r}"))
        return None
    return Loaded(tables[0], tables[1] if psets else NOTHING, None)


NOTHING: Final = Table((), [], 0)


def table_of(columns: tuple[Keys, list[Column]], count: int) -> Table:
    """Return a table, given what was pickled of it."""
    keys, values = columns
    return Table(keys, values, count)


def _loaded_small(
    one: RowsOfStage, file: JournalFile, shape_of: Callable[[int], Shape | None], note: Note, *, psets: bool
) -> Loaded:
    answers: list[Values] = []
    given: list[Values] = []
    count = one.rows
    places = np.full(count, -1, np.int64)
    shapes = {number: shape_of(number) for number in set(one.numbers[:count])}
    for row, (found, data) in enumerate(found_rows(one, file, count)):
        shape = shapes[one.numbers[row]]
        if found is None or shape is None:
            note(Damage(one.offsets[row], 1, "a row, or what tells its columns"))
            continue
        try:
            values, at = decoded(data, found.values_at, shape.answer_kinds)
            pset = decoded(data, at, shape.pset_kinds)[0] if psets else ()
        except Exception as exc:  # noqa: BLE001 - as above
            note(Damage(one.offsets[row], found.end - found.key_at, f"a row cannot be unpickled: {exc!r}"))
            continue
        places[row] = len(answers)
        answers.append(dict(zip(shape.answers, values, strict=True)))
        if psets:
            given.append(dict(zip(shape.psets, pset, strict=True)))
    all_there = None if len(answers) == count else places
    return Loaded(table_of(columns_of(answers), len(answers)), table_of(columns_of(given), len(given)), all_there)


def found_rows(one: RowsOfStage, file: JournalFile, count: int) -> Iterator[tuple[Row | None, bytes]]:
    """Yield where each of the first small records is in some bytes, and these; None if it is damaged."""
    data = file.read(one.offset, one.end - one.offset)
    for offset in one.offsets[:count]:
        yield row_at(data, offset - one.offset) if offset - one.offset < len(data) else None, data
