"""A journal that is only read: its stages, what they were made of, and where their rows are.

Nothing is unpickled but by `Lookup.tables`, `Lookup.missing` and what is built on them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import attrs
import numpy as np

from paramsurvey.closing import Closing
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.errors import JournalError
from paramsurvey.journal.contents import Contents
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import Damage, Kind, Record
from paramsurvey.journal.index import Known, Places
from paramsurvey.journal.keys import Words
from paramsurvey.journal.ledger import lost_of
from paramsurvey.journal.prints import StagePrint
from paramsurvey.journal.rows import NOTHING, Shape, Stored, loaded, table_of
from paramsurvey.options import nearest
from paramsurvey.tables import Table, concatenated

SHOWN_PRINT: Final = 12
"""So many digits of a print are shown."""


@attrs.define(eq=False, repr=False)
class Lookup(Closing):
    """A journal that is only read, also while a run writes to it.

    Parameters
    ----------
    path : str
        The file.

    Attributes
    ----------
    contents : Contents
        What was in it when it was last read (`read_on`).
    damages : list of Damage
        What could not be read so far.
    """

    path: str
    file: JournalFile = attrs.field(init=False)
    contents: Contents = attrs.field(factory=Contents, init=False)
    damages: list[Damage] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.file = JournalFile(self.path)
        self.read_on()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read_on(self) -> None:
        """Take note of what has been added to the file."""
        if self.file.open(to_write=False):
            self.contents, self.damages = Contents(), []
        for found in self.file.news():
            if isinstance(found, Damage):
                self.damages.append(found)
            else:
                self.contents.add(found)

    def prints(self) -> dict[bytes, StagePrint]:
        """Return what is known of each print."""
        return {digest: self.print(digest) for digest in self.contents.prints()}

    def print(self, digest: bytes) -> StagePrint:
        """Return what a print was made of, as far as that can be read."""
        one = self.contents.stages.get(digest)
        data = None if one is None else self.file.text(one)
        if data is None:  # only this record is damaged
            return StagePrint(digest.hex()[:SHOWN_PRINT], "?", {}, {})
        return StagePrint.of_dict(data)

    def history(self) -> list[tuple[float, bytes, str]]:
        """Return when which print of which stage began to run."""
        names = {digest: one.name for digest, one in self.prints().items()}
        return [(one.written, one.stage, names[one.stage]) for one in self.contents.history]

    def current(self, name: str) -> bytes:
        """Return the print of a stage when it last ran."""
        runs = [digest for _, digest, other in self.history() if other == name]
        return runs[-1] if runs else next(digest for digest, one in self.prints().items() if one.name == name)

    def digest(self, stage: str | None) -> bytes:
        """Return the print of a stage, given its name or the beginning of the print; or that of the only one.

        Raises
        ------
        JournalError
            There is no such stage, or there are several and none was named.
        """
        prints = self.prints()
        names = list(dict.fromkeys(one.name for one in prints.values()))
        if stage is None and len(names) != 1:
            raise JournalError(
                f"the journal {self.path} has {len(names)} stages: name one of {listed(names)}"
                if names
                else f"there is nothing in the journal {self.path} yet"
            )
        name = names[0] if stage is None else stage
        if not isinstance(name, str):
            raise JournalError(
                f"the journal {self.path} has no stage {name!r}: stages go by their names, or by the beginning of a "
                f"print; it has: {listed(names)}"
            )
        if name in names:
            return self.current(name)
        by_print = [digest for digest in prints if len(name) >= 4 and digest.hex().startswith(name)]
        if len(by_print) > 1:
            raise JournalError(
                f"the journal {self.path} has {len(by_print)} states whose prints begin with {name!r}: give more of one"
            )
        if not by_print:
            hint = nearest(name, names) or f"it has: {listed(names)}"
            raise JournalError(f"the journal {self.path} has no stage {name!r}; {hint}")
        return by_print[0]

    def finished(self, digest: bytes) -> Known:
        """Return the index of the rows that are finished."""
        return self.contents.known(digest, Kind.ROWS)

    def known_lost(self, digest: bytes) -> Known:
        """Return the index of the rows that have failed, also if they were finished since."""
        return self.contents.known(digest, Kind.FAILURES)

    def lost(self, digest: bytes) -> Places:
        """Return the places, in the index, of rows that have failed and were not finished since."""
        lost = self.known_lost(digest)
        return np.flatnonzero(self.finished(digest).find(np.stack([lost.first, lost.second], axis=1)) < 0)

    def by_record(self, known: Known, places: Places | None = None) -> Iterator[tuple[Stored, Places, Places]]:
        """Yield the records in which rows are, given by their places in the index; which rows of each; their places."""
        places = np.arange(len(known.first)) if places is None else places
        places = places[np.lexsort((known.rows[places], known.records[places]))]
        cuts = np.flatnonzero(np.diff(known.records[places])) + 1
        for group in np.split(places, cuts):
            if len(group):
                yield self.contents.records[int(known.records[group[0]])], known.rows[group].astype(np.int64), group

    def tables(self, digest: bytes, places: Places | None = None) -> Iterator[RowsRead]:
        """Yield the finished rows of a stage, or those at these places of its index, a record at a time."""
        known = self.finished(digest)
        for one, rows, there in self.by_record(known, places):
            keys = np.stack([known.first[there], known.second[there]], axis=1)
            found = loaded(one, self.file, self._shape, self.note, psets=True)
            which = np.full(len(rows), -1) if found is None else found.find(rows)
            good = np.flatnonzero(which >= 0)
            tables = (NOTHING, NOTHING) if found is None else (found.psets, found.answers)
            psets, answers = (attrs.evolve(each.take(which[good]), index=None) for each in tables)
            yield RowsRead(psets, answers, keys[good], one, set(rows[which < 0].tolist()))

    def _shape(self, number: int) -> Shape | None:
        return self.contents.shapes.shape(number, self.file)

    def rows(self, digest: bytes) -> tuple[Table, Words]:
        """Return psets and answers of all finished rows that can be read, and their keys."""
        found = [each for each in self.tables(digest) if each.psets.count]
        keys = [np.empty((0, 2), np.uint64), *(each.keys for each in found)]
        return concatenated([each.psets.beside(each.answers) for each in found]), np.concatenate(keys)

    def missing(self, digest: bytes) -> tuple[Table, list[Lost]]:
        """Return the psets that have failed and were not finished since, and why."""
        known = self.known_lost(digest)
        tables: list[Table] = []
        lost: list[Lost] = []
        for one, rows, _ in self.by_record(known, self.lost(digest)):
            assert isinstance(one, Record)
            texts = self.file.text(one)
            if texts is None:
                self.note(Damage(one.offset, one.end - one.offset, "a text"))
                continue
            tables.append(attrs.evolve(self.lost_psets(one).take(rows), index=None))
            lost += [lost_of(len(lost) + place, texts[row]) for place, row in enumerate(rows.tolist())]
        return concatenated(tables), lost

    def why_lost(self, known: Known, place: int) -> Lost | None:
        """Return why a row has failed, given its place in the index; None if that is damaged."""
        one = self.contents.records[int(known.records[place])]
        assert isinstance(one, Record)
        texts = self.file.text(one)
        return None if texts is None else lost_of(0, texts[int(known.rows[place])])

    def lost_psets(self, one: Record) -> Table:
        """Return the psets in a record of failures, without columns if they cannot be read."""
        data = self.file.data(one)
        if data is None:
            self.note(Damage(one.offset, one.end - one.offset, f"{one.rows} rows"))
        elif data:
            try:
                return table_of(pickle.loads(data), one.rows)
            except Exception as exc:  # noqa: BLE001 - a class of the user's may have gone, or raise anything
                self.note(Damage(one.offset, one.end - one.offset, f"{one.rows} rows cannot be unpickled: {exc!r}"))
        return Table((), [], one.rows)

    def note(self, damage: Damage) -> None:
        """Take note of damage."""
        if damage not in self.damages:
            self.damages.append(damage)


class RowsRead(NamedTuple):
    """Rows of a record.

    Attributes
    ----------
    psets, answers : Table
        Of those that could be read.
    keys : array of uint64
        Their keys.
    source : Record or RowsOfStage
        The record.
    unread : set of int
        The numbers of those that could not be read.
    """

    psets: Table
    answers: Table
    keys: Words
    source: Stored
    unread: set[int]


def listed(names: Sequence[str]) -> str:
    """Return names as they stand in a message."""
    return ", ".join(map(repr, names)) or "none"
