"""What is in a journal, as far as that is known without unpickling anything: which rows, where, and of which stages."""

from __future__ import annotations

from collections import Counter

import attrs

from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import KEY_BYTES, MOST_ROWS, WINDOW, Kind, Record, Rows, row_record
from paramsurvey.journal.index import Found, Known
from paramsurvey.journal.rows import Description, RowsOfStage, Shape, SmallRow, Stored


@attrs.define(eq=False, repr=False)
class Contents:
    """Which records are in a journal, of which stages, and which rows are in them.

    Attributes
    ----------
    records : list of Record and RowsOfStage
        Those with rows, finished or lost.
    stages : dict of bytes to Record
        The last that tells what a print was made of.
    history : list of Record
        All that say when a run has begun a stage.
    shapes : Shapes
        What small records refer to.
    """

    records: list[Stored] = attrs.field(factory=list, init=False)
    stages: dict[bytes, Record] = attrs.field(factory=dict, init=False)
    history: list[Record] = attrs.field(factory=list, init=False)
    shapes: Shapes = attrs.field(factory=lambda: Shapes(), init=False)
    _begun: dict[bytes, float] = attrs.field(factory=dict, init=False)  # when each stage was last begun
    _known: dict[tuple[bytes, int], Known] = attrs.field(factory=dict, init=False)
    _more: dict[tuple[bytes, int], list[Found]] = attrs.field(factory=dict, init=False)
    _last: dict[bytes, int] = attrs.field(factory=dict, init=False)  # where the last small records of a stage are

    def add(self, found: tuple[Record, bytes] | Rows) -> None:
        """Take note of a record and its keys, or of small ones."""
        if isinstance(found, Rows):
            self._add_rows(found)
            return
        one, keys = found
        if one.kind == Kind.STAGE:
            self.history.append(one)
            self._begun[one.stage] = one.written
            if one.text_bytes:
                self.stages[one.stage] = one
        elif one.kind == Kind.SHAPE:
            for rows in self.shapes.add(one):
                self._add_rows(rows)
        elif one.kind in (Kind.ROWS, Kind.FAILURES):
            self._more.setdefault((one.stage, one.kind), []).append(Found(len(self.records), 0, keys))
            self.records.append(one)

    def _add_rows(self, rows: Rows) -> None:
        """Take note of small records, stage by stage; those whose shape is not known yet have to wait."""
        places: dict[bytes, list[int]] = {}
        for place in self.shapes.known_among(rows):
            places.setdefault(self.shapes.stage(rows.numbers[place]), []).append(place)
        for stage, of_stage in places.items():
            picked = _picked(rows, of_stage)
            begun = self._begun.get(stage)
            if begun is None:
                begun = self.shapes.written(picked.numbers[0])
            number, one = self._to_go_on_with(stage, picked)
            self._more.setdefault((stage, Kind.ROWS), []).append(Found(number, one.rows, picked.keys))
            one.end = picked.end
            one.numbers += picked.numbers
            one.times += [begun + seconds for seconds in picked.seconds]
            one.offsets += picked.offsets  # last, for those who read it in another thread

    def _to_go_on_with(self, stage: bytes, rows: Rows) -> tuple[int, RowsOfStage]:
        """Return the small records to which more are added, and their place among the records."""
        number = self._last.get(stage)
        if number is not None:
            one = self.records[number]
            assert isinstance(one, RowsOfStage)
            if one.rows < MOST_ROWS and one.offset < rows.end <= one.offset + WINDOW:
                return number, one
        number = self._last[stage] = len(self.records)
        one = RowsOfStage(stage)
        self.records.append(one)
        return number, one

    def known(self, stage: bytes, kind: Kind) -> Known:
        """Return the index of a stage's rows, finished or lost."""
        place = stage, int(kind)
        more = self._more.pop(place, None)
        if more is not None:
            self._known[place] = self._known.get(place, Known.nothing()).with_more(more)
        return self._known.get(place, Known.nothing())

    def prints(self) -> list[bytes]:
        """Return the prints of all stages of which there is anything."""
        return list(dict.fromkeys((*self.stages, *(stage for stage, _ in (*self._known, *self._more)))))

    def small_records(self, stage: bytes, rows: list[SmallRow], now: float, file: JournalFile) -> bytes:
        """Return rows as they are to be written next, with the shapes that have to be there for them."""
        seconds = max(0, int(now - self._begun.get(stage, now)))
        return self.shapes.with_shapes(stage, rows, now, seconds, file)


@attrs.define(eq=False, repr=False)
class Shapes:
    """The shapes in a journal, by their numbers; each is there several times (`wanted`)."""

    next_number: int = attrs.field(default=0, init=False)
    _records: dict[int, list[Record]] = attrs.field(factory=dict, init=False)
    _rows: Counter[int] = attrs.field(factory=Counter, init=False)  # how many have each
    _waiting: dict[int, list[Rows]] = attrs.field(factory=dict, init=False)  # rows of shapes that are not known
    _numbers: dict[tuple[bytes, Description], int] = attrs.field(factory=dict, init=False)  # by stage and shape
    _unread: list[Record] = attrs.field(factory=list, init=False)  # those that are not yet among them
    _shapes: dict[int, Shape | None] = attrs.field(factory=dict, init=False)

    def add(self, one: Record) -> list[Rows]:
        """Take note of a shape; return the rows that have waited for it."""
        if one.number not in self._records and one.number not in self._numbers.values():
            self._unread.append(one)
        self._records.setdefault(one.number, []).append(one)
        self.next_number = max(self.next_number, one.number + 1)
        return self._waiting.pop(one.number, [])

    def known_among(self, rows: Rows) -> list[int]:
        """Return the places of those rows whose shapes are known; the others will be returned by `add`."""
        known = []
        for place, number in enumerate(rows.numbers):
            if number in self._records:
                self._rows[number] += 1
                known.append(place)
            else:
                self._waiting.setdefault(number, []).append(_picked(rows, [place]))
                self.next_number = max(self.next_number, number + 1)
        return known

    def lost(self) -> list[Rows]:
        """Return the rows whose shapes are not in the file."""
        return [rows for waiting in self._waiting.values() for rows in waiting]

    def stage(self, number: int) -> bytes:
        """Return the print of the stage that a shape belongs to."""
        return self._records[number][0].stage

    def written(self, number: int) -> float:
        """Return when a shape was first written."""
        return self._records[number][0].written

    def description(self, number: int, file: JournalFile) -> Description | None:
        """Return a shape as it is in the file, from wherever it is not damaged."""
        return next(filter(None, (_description(one, file) for one in self._records[number])), None)

    def shape(self, number: int, file: JournalFile) -> Shape | None:
        """Return a shape; None if it cannot be read, or its names cannot be unpickled."""
        if self._shapes.get(number) is None:
            described = self.description(number, file)
            try:
                self._shapes[number] = None if described is None else described.shape()
            except Exception:  # noqa: BLE001 - a class of the user's may have gone, or raise anything
                self._shapes[number] = None
        return self._shapes[number]

    def with_shapes(self, stage: bytes, rows: list[SmallRow], now: float, seconds: int, file: JournalFile) -> bytes:
        """Return rows as they are to be written next, and their shapes where those have to be."""
        pieces: list[bytes] = []
        there: dict[int, int] = {}  # shapes, and
        have: dict[int, int] = {}  # rows, those that are in the file included
        for row in rows:
            number = self._number(stage, row.shape, file)
            there.setdefault(number, len(self._records.get(number, ())))
            have.setdefault(number, self._rows[number])
            for piece in (None, row_record(number, seconds, row.key, row.values)):
                if piece is not None:
                    pieces.append(piece)
                    have[number] += 1
                if there[number] < wanted(have[number]):
                    pieces.append(row.shape.record(stage, number, now))
                    there[number] += 1
        return b"".join(pieces)

    def _number(self, stage: bytes, described: Description, file: JournalFile) -> int:
        """Return the number of a shape, one that no other has if it is not in the file."""
        for one in self._unread:
            if (found := _description(one, file)) is not None:
                self._numbers.setdefault((one.stage, found), one.number)
        self._unread.clear()
        number = self._numbers.setdefault((stage, described), self.next_number)
        self.next_number = max(self.next_number, number + 1)
        return number


def wanted(rows: int) -> int:
    """Return how often a shape should be in the file that so many rows have: once before the first row, once behind it,
    and again for 64 rows, 64 * 64, and so on.

    Examples
    --------
    >>> [wanted(rows) for rows in (0, 1, 63, 64, 4095, 4096)]
    [1, 2, 2, 3, 3, 4]
    """
    return 2 + (rows.bit_length() - 1) // 6 if rows else 1


def _picked(rows: Rows, places: list[int]) -> Rows:
    if len(places) == len(rows.numbers):
        return rows
    keys = b"".join(rows.keys[KEY_BYTES * place : KEY_BYTES * (place + 1)] for place in places)
    numbers, seconds, offsets = (
        [column[place] for place in places] for column in (rows.numbers, rows.seconds, rows.offsets)
    )
    return Rows(numbers, seconds, offsets, keys, rows.end)


def _description(one: Record, file: JournalFile) -> Description | None:
    text, data = file.raw_text(one), file.data(one)
    return None if text is None or data is None else Description(text, data)
