"""What a run asks its journal, and tells it: rows that are known already, rows that are finished, rows that are lost.

A `Journal` is open as long as its session, and locked while surveys run. A `Ledger` is one stage of one run. What the
run adds is for later runs: in the run itself a pset that comes again is another row (`index.Seen`).

Nothing here may end a survey. What cannot be read is computed again, what cannot be written is not remembered, and
each kind of trouble is said once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, Protocol, cast

import attrs
import numpy as np

from paramsurvey.codeprint.print import CodePrint, code_print
from paramsurvey.editions import editions
from paramsurvey.engine.columns import Column, Keys
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.pickling import dumps
from paramsurvey.engine.records import Failure
from paramsurvey.errors import JournalError, OptionError
from paramsurvey.journal.contents import Contents
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import KEY_BYTES, Damage, Kind, Record, as_text, parsed, record, records_in
from paramsurvey.journal.index import Known, Places, Seen
from paramsurvey.journal.keys import Words, row_keys, with_occurrences
from paramsurvey.journal.prints import StagePrint, changes_of_libraries, stage_print
from paramsurvey.journal.rows import FEW, NOTHING, Loaded, Shape, SmallRow, Stored, loaded, small_rows
from paramsurvey.options import Options
from paramsurvey.tables import Table, concatenated, with_columns_in_order

CACHED_BYTES: Final = 32 << 20
"""Of records that have been read in a run so many bytes are kept, for rows that come in another order."""

MOST_DAMAGES_TOLD: Final = 3


class Say(Protocol):
    """Tells the user something: in the log file, and on a terminal from a certain ``verbose`` on."""

    def __call__(self, text: str, verbose: int = 1, /) -> None:
        """Tell."""
        ...


class Recalled(NamedTuple):
    """What a journal knows of some rows.

    Attributes
    ----------
    keys : array of uint64
        The keys of all of them.
    rows : array of int64
        Those that are finished; ascending.
    answers : Table
        Their answers, in the same order.
    lost : list of Lost
        Those that are not to be tried again.
    nameless : list of int
        Those that have no key, because they cannot be pickled: they cannot be remembered.
    """

    keys: Words
    rows: Places
    answers: Table
    lost: list[Lost]
    nameless: list[int]


@attrs.define(eq=False, repr=False)
class Journal:
    """A journal that a session uses.

    Parameters
    ----------
    path : str
        Where it is.
    """

    path: str
    file: JournalFile = attrs.field(init=False)
    contents: Contents = attrs.field(factory=Contents, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)  # surveys may run in several threads
    _users: int = attrs.field(default=0, init=False)
    _is_usable: bool = attrs.field(default=False, init=False)
    _damages: int = attrs.field(default=0, init=False)
    _told: set[str] = attrs.field(factory=set, init=False)  # of its troubles, since it was opened

    def __attrs_post_init__(self) -> None:
        self.file = JournalFile(self.path)

    @contextmanager
    def held(self, say: Say) -> Iterator[bool]:
        """Read what is new in it and lock it; yield whether it can be used at all.

        Raises
        ------
        JournalError
            Another program is writing to it, or it is no journal, or one of a newer version.
        """
        with self._lock:
            if not self._users:
                self._is_usable = self._opened(say)
            self._users += 1
        try:
            yield self._is_usable
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self.file.unlock()

    def _opened(self, say: Say) -> bool:
        self._told.clear()
        try:
            if self.file.open(to_write=True):
                self.contents = Contents()
            is_safe = self.file.lock()
            if self.file.open(to_write=True):  # it was compacted between the two
                self.contents = Contents()
                is_safe = self.file.lock()
            if not is_safe:
                say(f"the file system of the journal {self.path} has no locks: see that only one program uses it")
            self.read_on(say)
            self.file.begin()
        except JournalError:
            raise
        except OSError as exc:
            say(f"the journal {self.path} cannot be opened, and the survey goes on without: {exc.strerror}")
            return False
        self.tell_trouble(say)
        return True

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def known(self, stage: bytes, kind: Kind) -> Known:
        """Return the index of a stage's rows as it is now."""
        with self._lock:
            return self.contents.known(stage, kind)

    def read_on(self, say: Say) -> None:
        """Take note of what is new in the file, and tell what is damaged."""
        for found in self.file.news():
            if isinstance(found, Damage):
                self.note_damage(str(found), say)
            else:
                self.contents.add(found)

    def note_damage(self, what: str, say: Say) -> None:
        """Tell of damage, but not endlessly."""
        self._damages += 1
        if self._damages <= MOST_DAMAGES_TOLD:
            say(f"the journal {self.path} is damaged, and what was there is computed again: {what}")
        elif self._damages == MOST_DAMAGES_TOLD + 1:
            say(f"further damages of the journal {self.path} are not told: see paramsurvey.open_journal().verify()")

    def tell_trouble(self, say: Say) -> None:
        """Tell why it cannot be written, once in a survey, also if a smaller record finds room meanwhile."""
        if self.file.trouble and self.file.trouble not in self._told:
            self._told.add(self.file.trouble)
            say(self.file.trouble)

    def write(
        self,
        say: Say,
        kind: Kind,
        stage: bytes,
        *,
        keys: bytes = b"",
        text: bytes = b"",
        data: bytes = b"",
    ) -> None:
        """Write a record, if that is possible, and take note of it."""
        now = time.time()
        written = record(kind, stage=stage, keys=keys, text=text, data=data, written=now)
        with self._lock:
            offset = self.file.append(written)
            self.tell_trouble(say)
            if offset is not None and (one := parsed(written, 0, offset)) is not None:
                self.contents.add((one, keys))

    def write_rows(self, say: Say, stage: bytes, rows: list[SmallRow]) -> None:
        """Write small records, all at once, if that is possible, and take note of them."""
        with self._lock:
            written = self.contents.small_records(stage, rows, time.time(), self.file)
            offset = self.file.append(written)
            self.tell_trouble(say)
            if offset is None:
                return
            for found in records_in(written, offset):
                self.contents.add(found)


@attrs.define(eq=False, repr=False)
class Ledger:
    """A stage of a run, as its journal knows it.

    Parameters
    ----------
    journal : Journal
        Which has to be held (`Journal.held`).
    print : StagePrint
        What the stage is.
    retry_failed : bool
        Whether rows are tried again that were lost.
    say : callable
        Tells the user something.
    """

    journal: Journal
    print: StagePrint
    retry_failed: bool
    say: Say
    _stage: bytes = attrs.field(init=False)
    _known: Known = attrs.field(init=False)
    _known_lost: Known = attrs.field(init=False)
    _records: list[Stored] = attrs.field(init=False)
    _seen: Seen = attrs.field(factory=Seen, init=False)
    _cache: OrderedDict[int, tuple[Loaded | None, int]] = attrs.field(factory=OrderedDict, init=False)
    _cached_bytes: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._stage = self.print.digest
        contents = self.journal.contents
        self._known = self.journal.known(self._stage, Kind.ROWS)
        self._known_lost = Known.nothing() if self.retry_failed else self.journal.known(self._stage, Kind.FAILURES)
        self._records = contents.records
        before = contents.stages.get(self._stage)
        data = None if before is None else self.journal.file.text(before)
        self._tell_of_libraries(data)
        self._tell_of_what_is_not_covered()
        is_known = data == self.print.as_dict()
        self.journal.write(self.say, Kind.STAGE, self._stage, text=b"" if is_known else as_text(self.print.as_dict()))

    def _tell_of_libraries(self, data: Mapping[str, Any] | None) -> None:
        if data is not None and (changed := changes_of_libraries(StagePrint.of_dict(data), self.print)):
            self.say(
                f"{self.print.name}: since rows in the journal were computed, {', '.join(changed)}; they are used all "
                "the same (a module in depends= makes rows of other versions of it stale)"
            )

    def _tell_of_what_is_not_covered(self) -> None:
        if self.print.not_covered:
            self.say(
                f"{self.print.name}: nobody notices if this changes, and rows of before are used: "
                f"{'; '.join(self.print.not_covered)} (version= and depends= are for that)",
                2,
            )

    # Reading

    def recall(self, psets: Table) -> Recalled:
        """Tell what is known of some rows that come into the survey."""
        keys, nameless = row_keys(psets.keys, psets.columns, psets.count)
        keys = with_occurrences(keys, self._seen.count(keys))
        rows, answers = self._finished(self._found(self._known, keys, nameless))
        lost = self._lost_among(keys, nameless, rows) if len(self._known_lost.first) else []
        return Recalled(keys, rows, answers, lost, nameless)

    @staticmethod
    def _found(known: Known, keys: Words, nameless: list[int]) -> Places:
        places = known.find(keys)
        places[nameless] = -1
        return places

    def _finished(self, places: Places) -> tuple[Places, Table]:
        """Return the rows that are finished, and their answers, given their places in the index."""
        rows = np.flatnonzero(places >= 0)
        if not len(rows):
            return rows, NOTHING
        records = self._known.records[places[rows]]
        order = np.argsort(records, kind="stable")
        cuts = np.flatnonzero(np.diff(records[order])) + 1
        found, tables = [], []
        for group in np.split(order, cuts):
            known = self._loaded(int(records[group[0]]))
            if known is None:
                continue
            places_there = known.find(self._known.rows[places[rows[group]]].astype(np.int64))
            if len(is_there := np.flatnonzero(places_there >= 0)):
                found.append(rows[group][is_there])
                tables.append(known.answers.take(places_there[is_there]))
        if not found:
            return np.empty(0, np.int64), NOTHING
        rows, table = np.concatenate(found), concatenated(tables)
        owners = np.repeat(np.arange(len(found)), [len(each) for each in found])
        if len(found) > 1:
            order = np.argsort(rows)
            rows, table, owners = rows[order], table.take(order), owners[order]
        return rows, with_columns_in_order(table, [each.keys for each in tables], owners)

    def _loaded(self, number: int) -> Loaded | None:
        """Return the answers in a record, None if they cannot be read."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number][0]
        one = self._records[number]
        found, size = loaded(one, self.journal.file, self._shape, self._note, psets=False), one.end - one.offset
        self._cache[number] = found, size
        self._cached_bytes += size
        while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
            _, (_, size) = self._cache.popitem(last=False)
            self._cached_bytes -= size
        return found

    def _shape(self, number: int) -> Shape | None:
        return self.journal.contents.shapes.shape(number, self.journal.file)

    def _note(self, damage: Damage) -> None:
        self.journal.note_damage(f"{self.print.name}: {damage}", self.say)

    def _lost_among(self, keys: Words, nameless: list[int], finished: Places) -> list[Lost]:
        places = self._found(self._known_lost, keys, nameless)
        places[finished] = -1
        lost = []
        texts: dict[int, Any] = {}
        for row in np.flatnonzero(places >= 0).tolist():
            number = int(self._known_lost.records[places[row]])
            if number not in texts:
                texts[number] = self.journal.file.text(cast("Record", self._records[number]))
            if texts[number] is not None:
                why = texts[number][int(self._known_lost.rows[places[row]])]
                lost.append(lost_of(row, why))
        return lost

    # Writing

    def record(self, keys: bytes, psets: tuple[Keys, list[Column]], answers: tuple[Keys, list[Column]]) -> None:
        """Remember rows that are finished."""
        try:
            rows = small_rows(keys, psets, answers) if len(keys) < FEW * KEY_BYTES else None
            data = b"" if rows else dumps(answers) + dumps(psets)
        except Exception as exc:  # noqa: BLE001 - what a worker in this very process returns need not be picklable
            self.journal.note_damage(f"answers of {self.print.name} cannot be pickled: {exc!r}", self.say)
            return
        if rows:
            self.journal.write_rows(self.say, self._stage, rows)
        else:
            self.journal.write(self.say, Kind.ROWS, self._stage, keys=keys, data=data)

    def record_lost(self, keys: bytes, psets: tuple[Keys, list[Column]], lost: Sequence[Lost]) -> None:
        """Remember rows that are lost, and why."""
        why = [
            {
                "kind": one.failure.kind,
                "text": one.failure.text,
                "traceback": one.failure.traceback,
                "attempts": one.attempts,
                "earlier": [[failure.kind, failure.text] for failure in one.earlier],
                **({"details": dict(one.failure.facts)} if one.failure.facts else {}),
            }
            for one in lost
        ]
        try:
            data = dumps(psets)
        except Exception:  # noqa: BLE001 - that may be why it is lost
            data = b""
        self.journal.write(self.say, Kind.FAILURES, self._stage, keys=keys, text=as_text(why), data=data)


@attrs.define(eq=False, repr=False)
class Ledgers:
    """The stages of a run, as its journal knows them: one ledger for each print, so that no row is taken twice.

    Parameters
    ----------
    journal : Journal
        Which has to be held.
    say : callable
        Tells the user something.
    """

    journal: Journal
    say: Say
    _ledgers: dict[bytes, Ledger] = attrs.field(factory=dict, init=False)
    _codes: dict[tuple[int, int], tuple[Any, CodePrint]] = attrs.field(factory=dict, init=False)
    """By worker and user_kwargs, which are kept alive."""
    _is_unknown_told: bool = attrs.field(default=False, init=False)

    def reach(self, worker: Any, options: Options) -> None:
        """Look at the code of a worker before it is published: what that imports when it runs is imported here, too."""
        with suppress(Exception):  # which `of` tells
            self._code(worker, options.user_kwargs)

    def of(self, name: str, worker: Any, options: Options) -> Ledger | None:
        """Return the ledger of a stage; None if it cannot be told what its answers depend on, which is said.

        That is so, too, if workers may have other code than the program: a module's file was edited after the program
        had imported it, and before its first survey.

        Raises
        ------
        OptionError
            A file in ``depends=`` cannot be read.
        """
        try:
            stage = stage_print(name, worker, self._code(worker, options.user_kwargs), options)
        except OptionError:
            raise
        except Exception as exc:  # noqa: BLE001 - values of the user's may refuse to be taken apart in any way
            self.say(f"{name}: nothing of it is remembered in the journal, because of its user_kwargs: {exc!r}")
            return None
        if (found := editions()) is not None and found.unknown:
            self._tell_of_unknown(found.unknown)
            return None
        if stage.digest not in self._ledgers:
            self._ledgers[stage.digest] = Ledger(self.journal, stage, options.retry_failed, self.say)
        return self._ledgers[stage.digest]

    def _tell_of_unknown(self, files: Sequence[str]) -> None:
        if not self._is_unknown_told:
            self._is_unknown_told = True
            self.say(
                f"nothing is remembered in the journal, nor taken from it: {', '.join(files)} was edited after this "
                "program had imported it, so that the workers, who import it now, have other code; importlib.reload() "
                "the module, or start the program anew"
            )

    def _code(self, worker: Any, user_kwargs: Any) -> CodePrint:
        place = id(worker), id(user_kwargs)
        if place not in self._codes:
            self._codes[place] = (worker, user_kwargs), code_print(worker, user_kwargs)
        return self._codes[place][1]


PRINTS = frozenset({Ledgers._code.__code__, stage_print.__code__})
"""The code below which values of the user's are taken apart, which may take long: Ctrl-C ends it at once."""


def lost_of(row: int, why: Mapping[str, Any]) -> Lost:
    """Return a lost row, given what the text of a record says of it."""
    earlier = tuple(Failure(kind, text) for kind, text in why["earlier"])
    facts = tuple(why.get("details", {}).items())
    return Lost(row, Failure(why["kind"], why["text"], why["traceback"], facts=facts), why["attempts"], earlier)
