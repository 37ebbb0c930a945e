"""Journals for people: what is in one, whether it is sound, two made one, and why a row was computed again.

Stages, counts and failures are read without unpickling anything. *Results, and the psets of what is missing, are
pickles: unpickling can run any code, so read those only from journals of people whom you trust.*
"""

from __future__ import annotations

import contextlib
import io
import operator
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

import attrs
import numpy as np
import pandas as pd

from paramsurvey.engine.columns import RESERVED, Keys
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.pickling import dumps
from paramsurvey.errors import JournalError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import KEY_BYTES, Damage, Kind, Record, as_text, head, record
from paramsurvey.journal.index import Known, Places
from paramsurvey.journal.keys import row_keys
from paramsurvey.journal.ledger import Contents, lost_of
from paramsurvey.journal.prints import StagePrint, changes, changes_of_libraries
from paramsurvey.options import shown
from paramsurvey.results import missing_frame
from paramsurvey.tables import Table, concatenated

ROWS_PER_RECORD: Final = 8192
SHOWN_PRINT: Final = 12
MOST_COMPARED: Final = 100_000
"""Rows that are looked at for the one that is most like a pset that is not there."""


def open_journal(path: str | os.PathLike[str]) -> OpenJournal:
    """Open a journal to look into it; nothing is run, and nothing is changed. That is safe while a run writes to it.

    Parameters
    ----------
    path : str or path
        The file that was given as ``journal=``.

    Raises
    ------
    JournalError
        It is no journal, or one of a newer version.
    OSError
        There is no such file, or it must not be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import paramsurvey
    >>> path = os.path.join(tempfile.mkdtemp(), "journal")
    >>> psets = [{"a": 3}, {"a": "x"}]
    >>> results = paramsurvey.map(lambda p, s, u: {"b": p["a"] ** 2}, psets, name="square", journal=path, verbose=0)
    >>> with paramsurvey.open_journal(path) as journal:
    ...     print(journal.stages[["name", "finished", "missing"]])
    ...     print(journal.results("square"))
         name  finished  missing
    0  square         1        1
       a  b
    0  3  9
    """
    return OpenJournal(os.fspath(path))


class OpenJournal:
    """A journal that is being looked into; see `open_journal`.

    Whatever is asked of it, it first reads what has been added to the file since.

    Attributes
    ----------
    stages : DataFrame
        One row for each stage in each state of its code: ``name``, ``worker``, ``print`` (the beginning of what tells
        that state from others), ``finished`` and ``missing`` (how many psets), ``is_current`` (whether it is what the
        stage was when it last ran), ``written`` (when something was last written of it).
    damages : list of Damage
        What could not be read of the file so far; `verify` looks at all of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.damages: list[Damage] = []
        self._file = JournalFile(path)
        self._contents = Contents()
        self._read_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(one.name for one in self._prints().values()))
        return f"<journal {self.path}: {names or 'no stages'}>"

    def _read_on(self) -> None:
        if self._file.open(to_write=False):
            self._contents, self.damages = Contents(), []
        for found in self._file.news():
            if isinstance(found, Damage):
                self.damages.append(found)
            else:
                self._contents.add(*found)

    # What is in it

    @property
    def stages(self) -> pd.DataFrame:
        """One row for each stage in each state of its code."""
        self._read_on()
        current = {self._current(one.name) for one in self._prints().values()}
        rows = []
        for digest, one in self._prints().items():
            finished, lost = self._finished(digest), self._lost(digest)
            written = [each.written for each in (*self._contents.history, *self._contents.records)]
            owners = [each.stage for each in (*self._contents.history, *self._contents.records)]
            last = max(when for when, stage in zip(written, owners, strict=True) if stage == digest)
            rows.append(
                {
                    "name": one.name,
                    "worker": one.worker,
                    "print": digest.hex()[:SHOWN_PRINT],
                    "finished": len(finished.first),
                    "missing": len(lost),
                    "is_current": digest in current,
                    "written": pd.Timestamp(last, unit="s", tz="UTC"),
                }
            )
        columns = ("name", "worker", "print", "finished", "missing", "is_current", "written")
        return pd.DataFrame(rows, columns=list(columns))

    def results(self, stage: str | None = None) -> pd.DataFrame:
        """Return the finished rows of a stage: parameters, then answers, in the order in which they were written.

        Parameters
        ----------
        stage : str, optional
            The name of the stage, as it was when it last ran; or the print of one of its states (`stages`). Not needed
            if there is only one.

        Raises
        ------
        JournalError
            There is no such stage, or there are several and none was named.
        """
        self._read_on()
        return self._rows(self._digest(stage)).frame()

    def missing(self, stage: str | None = None) -> pd.DataFrame:
        """Return the psets of a stage that have failed and were not finished since, and why; as `MapResults.missing`.

        Parameters
        ----------
        stage : str, optional
            As for `results`.

        Raises
        ------
        JournalError
            As for `results`.
        """
        self._read_on()
        digest = self._digest(stage)
        known = self._known_lost(digest)
        tables: list[Table] = []
        lost: list[Lost] = []
        for one, rows in self._by_record(known, self._lost(digest)):
            texts = self._file.text(one)
            if texts is None:
                self._note(one, "a text")
                continue
            data = self._data(one)
            psets = Table((), [], one.rows) if not data else self._loaded(one, data, 1)[0]
            tables.append(attrs.evolve(psets.take(rows), index=None))
            lost += [lost_of(len(lost) + place, texts[row]) for place, row in enumerate(rows.tolist())]
        return missing_frame(concatenated(tables), lost)

    # Looking it up

    def _prints(self) -> dict[bytes, StagePrint]:
        """Return what is known of each print."""
        return {digest: self._print(digest) for digest in self._contents.prints()}

    def _print(self, digest: bytes) -> StagePrint:
        one = self._contents.stages.get(digest)
        data = None if one is None else self._file.text(one)
        if data is None:  # only this record is damaged
            return StagePrint(digest.hex()[:SHOWN_PRINT], "?", {}, {})
        return StagePrint.of_dict(data)

    def _history(self) -> list[tuple[float, bytes, str]]:
        """Return when which print of which stage began to run."""
        names = {digest: one.name for digest, one in self._prints().items()}
        return [(one.written, one.stage, names[one.stage]) for one in self._contents.history]

    def _current(self, name: str) -> bytes:
        """Return the print of a stage when it last ran."""
        runs = [digest for _, digest, other in self._history() if other == name]
        return runs[-1] if runs else next(digest for digest, one in self._prints().items() if one.name == name)

    def _digest(self, stage: str | None) -> bytes:
        prints = self._prints()
        names = list(dict.fromkeys(one.name for one in prints.values()))
        if stage is None and len(names) != 1:
            raise JournalError(
                f"the journal {self.path} has {len(names)} stages: name one of {_listed(names)}"
                if names
                else f"there is nothing in the journal {self.path} yet"
            )
        name = names[0] if stage is None else stage
        if name in names:
            return self._current(name)
        by_print = [digest for digest in prints if len(name) >= 4 and digest.hex().startswith(name)]
        if len(by_print) != 1:
            raise JournalError(f"the journal {self.path} has no stage {name!r}; it has: {_listed(names)}")
        return by_print[0]

    def _finished(self, digest: bytes) -> Known:
        return self._contents.known(digest, Kind.ROWS)

    def _known_lost(self, digest: bytes) -> Known:
        return self._contents.known(digest, Kind.FAILURES)

    def _lost(self, digest: bytes) -> Places:
        """Return the places, in the index, of rows that have failed and were not finished since."""
        lost = self._known_lost(digest)
        return np.flatnonzero(self._finished(digest).find(np.stack([lost.first, lost.second], axis=1)) < 0)

    def _by_record(self, known: Known, places: Places | None = None) -> Iterator[tuple[Record, Places]]:
        """Yield the records in which rows are, given by their places in the index, and which rows of each."""
        places = np.arange(len(known.first)) if places is None else places
        places = places[np.lexsort((known.rows[places], known.records[places]))]
        cuts = np.flatnonzero(np.diff(known.records[places])) + 1
        for group in np.split(places, cuts):
            if len(group):
                yield self._contents.records[int(known.records[group[0]])], known.rows[group].astype(np.int64)

    def _rows(self, digest: bytes) -> Table:
        """Return psets and answers of all finished rows."""
        tables = []
        for one, rows in self._by_record(self._finished(digest)):
            data = self._data(one)
            if data is not None and (loaded := self._loaded(one, data, 2)):
                answers, psets = loaded
                tables.append(attrs.evolve(psets.beside(answers).take(rows), index=None))
        return concatenated(tables)

    def _data(self, one: Record) -> bytes | None:
        data = self._file.data(one)
        if data is None:
            self._note(one, f"{one.rows} rows")
        return data

    def _loaded(self, one: Record, data: bytes, count: int) -> list[Table]:
        """Unpickle so many tables; none if that is not possible."""
        file = io.BytesIO(data)
        try:
            loaded = [pickle.load(file) for _ in range(count)]
            return [Table(keys, columns, one.rows) for keys, columns in loaded]
        except Exception as exc:  # noqa: BLE001 - a class of the user's may have gone, or raise anything
            self._note(one, f"{one.rows} rows cannot be unpickled: {exc!r}")
            return []

    def _note(self, one: Record, what: str) -> None:
        damage = Damage(one.offset, one.end - one.offset, what)
        if damage not in self.damages:
            self.damages.append(damage)

    # Looking after it

    def verify(self) -> list[Damage]:
        """Check every byte of the file; return what is damaged, nothing if it is sound. Nothing is unpickled.

        Rows in what is damaged will be computed again. A record at the very end that is not complete is no damage: it
        is being written, or was when something ended the program.
        """
        file = JournalFile(self.path)
        file.open(to_write=False)
        found: list[Damage] = []
        try:
            for each in file.news():
                if isinstance(each, Damage):
                    found.append(each)
                    continue
                one = each[0]
                if one.text_bytes and file.text(one) is None:
                    found.append(Damage(one.offset, one.end - one.offset, "a text is damaged"))
                elif file.data(one) is None:
                    found.append(Damage(one.offset, one.end - one.offset, f"{one.rows} rows are damaged"))
        finally:
            file.close()
        return found

    def compact(self) -> None:
        """Write the file anew, with fewer and larger records, without what is damaged, and without failures of psets
        that were finished later. Rows of earlier states of the code stay: somebody may go back to them.

        Raises
        ------
        JournalError
            A run is writing to it.
        OSError
            The new file cannot be written; the old one is as it was.
        """
        with self._locked() as file:
            self._read_on()
            aside = f"{self.path}.compacting"
            try:
                with open(aside, "wb") as new:
                    new.write(head())
                    for data in self._compacted():
                        new.write(data)
                    new.flush()
                    os.fsync(new.fileno())
                os.chmod(aside, os.stat(self.path).st_mode & 0o777)
                os.replace(aside, self.path)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(aside)
            file.close()
        self._read_on()

    def merge(self, other: str | os.PathLike[str] | OpenJournal) -> int:
        """Take over what another journal has and this one has not; return how many finished rows that were.

        Parameters
        ----------
        other : path or OpenJournal
            Which is not changed.

        Raises
        ------
        JournalError
            A run is writing to this one, or the other is no journal.
        OSError
            This one cannot be written.
        """
        theirs = other if isinstance(other, OpenJournal) else OpenJournal(os.fspath(other))
        count = 0
        with self._locked() as file:
            self._read_on()
            theirs._read_on()
            current = {self._current(one.name) for one in self._prints().values()}
            for digest in theirs._contents.prints():
                lacking = self._lacking(theirs, digest, Kind.ROWS)
                count += len(lacking)
                lost = self._lacking(theirs, digest, Kind.FAILURES)
                stages = () if digest in self._contents.stages else theirs._stage_records(digest)
                for data in (*stages, *theirs._repacked(digest, lacking), *theirs._failures(digest, lost)):
                    self._append(file, data)
            for digest in current:  # what they have added was not the last to run here
                self._append(file, record(Kind.STAGE, stage=digest, written=time.time()))
        if theirs is not other:
            theirs.close()
        return count

    @staticmethod
    def _append(file: JournalFile, data: bytes) -> None:
        if file.append(data) is None:
            raise OSError(file.trouble or f"the journal {file.path} cannot be written")

    def _lacking(self, theirs: OpenJournal, digest: bytes, kind: Kind) -> Places:
        """Return the places, in the other's index, of rows that this one has not."""
        known = theirs._contents.known(digest, kind)
        keys = np.stack([known.first, known.second], axis=1)
        is_new = self._finished(digest).find(keys) < 0
        if kind == Kind.FAILURES:
            is_new &= (self._known_lost(digest).find(keys) < 0) & (theirs._finished(digest).find(keys) < 0)
        return np.flatnonzero(is_new)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[JournalFile]:
        """Yield the file as somebody who may write to it."""
        file = JournalFile(self.path)
        file.open(to_write=True)
        try:
            file.lock()
            for _ in file.news():
                pass
            file.begin()
            yield file
        finally:
            file.close()

    def _compacted(self) -> Iterator[bytes]:
        runs = {one.stage: number for number, one in enumerate(self._contents.history)}
        for digest in sorted(self._contents.prints(), key=lambda digest: runs.get(digest, -1)):
            yield from self._stage_records(digest)
            yield from self._repacked(digest, None)
            yield from self._failures(digest, self._lost(digest))

    def _stage_records(self, digest: bytes) -> Iterator[bytes]:
        """Return what is said of a stage, as a record."""
        one = self._contents.stages.get(digest)
        data = None if one is None else self._file.text(one)
        if one is not None and data is not None:
            yield record(Kind.STAGE, stage=digest, text=as_text(data), written=one.written)

    def _repacked(self, digest: bytes, places: Places | None) -> Iterator[bytes]:
        """Return finished rows in large records; those that cannot be unpickled as they are."""
        known = self._finished(digest)
        batch: list[tuple[bytes, Table, Table]] = []
        size, written = 0, 0.0
        for one, rows in self._by_record(known, places):
            data = self._file.data(one)
            if data is None:
                continue
            keys = self._file.read(one.offset + 64, KEY_BYTES * one.rows)
            loaded = self._loaded(one, data, 2)
            if not loaded:
                yield record(Kind.ROWS, stage=digest, keys=keys, data=data, written=one.written)
                continue
            answers, psets = (attrs.evolve(each.take(rows), index=None) for each in loaded)
            batch.append(
                (b"".join(keys[KEY_BYTES * row : KEY_BYTES * (row + 1)] for row in rows.tolist()), answers, psets)
            )
            size, written = size + len(rows), one.written
            if size >= ROWS_PER_RECORD:
                yield _packed(digest, batch, written)
                batch, size = [], 0
        if batch:
            yield _packed(digest, batch, written)

    def _failures(self, digest: bytes, places: Places) -> Iterator[bytes]:
        for one, rows in self._by_record(self._known_lost(digest), places):
            texts, data = self._file.text(one), self._file.data(one)
            if texts is None or data is None:
                continue
            keys = self._file.read(one.offset + 64, KEY_BYTES * one.rows)
            if len(rows) == one.rows:
                yield record(
                    Kind.FAILURES, stage=digest, keys=keys, text=as_text(texts), data=data, written=one.written
                )
                continue
            loaded = self._loaded(one, data, 1) if data else []
            psets = b"" if not loaded else dumps(_portable(loaded[0].take(rows)))
            chosen = b"".join(keys[KEY_BYTES * row : KEY_BYTES * (row + 1)] for row in rows.tolist())
            text = as_text([texts[row] for row in rows.tolist()])
            yield record(Kind.FAILURES, stage=digest, keys=chosen, text=text, data=psets, written=one.written)

    # Why a row is as it is

    def _where(self, pset: Mapping[Any, Any], digest: bytes) -> tuple[Record | None, Lost | None]:
        """Return the record in which a pset was finished under a print, or how it failed."""
        keys, nameless = row_keys(tuple(pset), [[value] for value in pset.values()], 1)
        if nameless:
            return None, None
        known = self._finished(digest)
        (place,) = known.find(keys).tolist()
        if place >= 0:
            return self._contents.records[int(known.records[place])], None
        lost = self._known_lost(digest)
        (place,) = lost.find(keys).tolist()
        if place < 0:
            return None, None
        texts = self._file.text(self._contents.records[int(lost.records[place])])
        return None, None if texts is None else lost_of(0, texts[int(lost.rows[place])])

    def _shapes(self, digest: bytes) -> list[Keys]:
        """Return the columns that psets of a stage have had."""
        shapes: dict[Keys, None] = {}
        for one, _ in self._by_record(self._finished(digest)):
            data = self._file.data(one)
            if data is not None and (loaded := self._loaded(one, data, 2)):
                shapes[loaded[1].keys] = None
        return list(shapes)

    def _nearest(self, pset: Mapping[Any, Any], digest: bytes) -> Mapping[Any, Any] | None:
        """Return the finished pset that has most values in common with another one; 3 and 3.0 are half a value."""
        contents = {key: typed_bytes(value) for key, value in pset.items()}
        best, most, seen = None, 0, 0
        for one, _ in self._by_record(self._finished(digest)):
            data = self._file.data(one)
            loaded = self._loaded(one, data, 2) if data is not None else []
            for other in loaded[1].dicts() if loaded else ():
                agree = sum(
                    2 * (typed_bytes(value) == contents[key]) or _look_alike(value, pset[key])
                    for key, value in other.items()
                    if key in contents
                )
                if agree > most:
                    best, most = other, agree
            seen += one.rows
            if seen > MOST_COMPARED:
                break
        return best


def _packed(digest: bytes, batch: Sequence[tuple[bytes, Table, Table]], written: float) -> bytes:
    keys, answers, psets = zip(*batch, strict=True)
    data = dumps(_portable(concatenated(answers))) + dumps(_portable(concatenated(psets)))
    return record(Kind.ROWS, stage=digest, keys=b"".join(keys), data=data, written=written)


def _portable(table: Table) -> tuple[Keys, list[Any]]:
    return table.keys, table.rows(0, table.count, 1).columns


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


# Explaining


@attrs.frozen
class Explanation:
    """Why a pset was computed, or taken from a journal; or what became of a stage. As a text it is prose.

    Attributes
    ----------
    verdict : str
        Of a pset: ``"taken"`` (the last run took it from the journal), ``"computed"`` (the last run computed it, for
        the first time), ``"computed again"`` (it was finished before, in another state of the stage), ``"stale"`` (it
        is finished in another state only: the next run computes it again), ``"failed"``, or ``"unknown"``. Of a stage:
        ``"stage"``.
    reasons : tuple of str
        What differs between the two states, or between the pset and the one most like it: each names one thing.
    text : str
        All of it.
    """

    verdict: Literal["taken", "computed", "computed again", "stale", "failed", "unknown", "stage"]
    reasons: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def explain(
    journal: str | os.PathLike[str] | OpenJournal, what: Mapping[Any, Any] | int | str, *, stage: str | None = None
) -> Explanation:
    """Tell why a pset was computed, computed again or taken from the journal; or how a stage has changed.

    Parameters
    ----------
    journal : path or OpenJournal
        The journal; it is not changed.
    what : dict, int or str
        A pset, or a row, with its answers; or the number of a row in `OpenJournal.results`; or the name of a stage.
    stage : str, optional
        The name of the stage that the pset is of. Needed only if several have had it.

    Returns
    -------
    Explanation
        Print it.

    Raises
    ------
    JournalError
        There is no such stage or row, or it may be of several stages and none was named.
    TypeError
        It is neither a dict nor the number of a row nor the name of a stage.

    Examples
    --------
    >>> import os, tempfile
    >>> import paramsurvey
    >>> path = os.path.join(tempfile.mkdtemp(), "journal")
    >>> for power in (2, 3):
    ...     worker = lambda pset, system, user: {"b": pset["a"] ** user["power"]}
    ...     options = {"user_kwargs": {"power": power}, "name": "power", "journal": path, "verbose": 0}
    ...     results = paramsurvey.map(worker, [{"a": 3}], **options)
    >>> why = paramsurvey.explain(path, {"a": 3})
    >>> why.verdict, why.reasons
    ('computed again', ("user_kwargs['power'] changed",))
    """
    opened = journal if isinstance(journal, OpenJournal) else OpenJournal(os.fspath(journal))
    try:
        opened._read_on()
        if isinstance(what, str):
            return _of_stage(opened, what)
        if isinstance(what, Mapping):
            row = _plain(what)
            return _of_pset(opened, row, _stage_of(opened, row, stage))
        try:
            place = operator.index(what)
        except TypeError:
            raise TypeError(
                f"explain(): what must be a pset, the number of a row or the name of a stage, not {type(what).__name__}"
            ) from None
        digest = opened._digest(stage)
        table = opened._rows(digest)
        if not 0 <= place < table.count:
            raise JournalError(
                f"explain(): the stage has {table.count} finished rows in the journal, and none at {place}"
            )
        return _of_pset(opened, table.pset(place), digest)
    finally:
        if opened is not journal:
            opened.close()


def _plain(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a row of the user's without our own columns."""
    return {key: value for key, value in row.items() if key not in RESERVED}


def _stage_of(journal: OpenJournal, row: dict[Any, Any], stage: str | None) -> bytes:
    """Return the stage that is named, or else the only one that has had a row."""
    states: dict[str, list[bytes]] = {}
    for each, one in journal._prints().items():
        states.setdefault(one.name, []).append(each)
    if stage is None and len(states) > 1:
        having = [
            name for name, prints in states.items() if _is_known(journal, _found_pset(journal, row, prints), prints)
        ]
        if len(having) == 1:
            return journal._digest(having[0])
        if having:
            raise JournalError(f"explain(): {shown(row)} may be of {_listed(having)}: name one of them with stage=")
        raise JournalError(
            f"explain(): no stage of the journal {journal.path} has had {shown(row)}: name one with stage= to see what "
            f"differs; it has: {_listed(list(states))}"
        )
    return journal._digest(stage)


def _is_known(journal: OpenJournal, pset: dict[Any, Any], states: Sequence[bytes]) -> bool:
    return any(any(journal._where(pset, each)) for each in states)


def _of_stage(journal: OpenJournal, name: str) -> Explanation:
    digest = journal._digest(name)
    name = journal._print(digest).name
    lines, reasons, before = [f"stage {name!r}:"], [], None
    for when, each, other in journal._history():
        if other != name or each == before:
            continue
        now = journal._print(each)
        count = f"{len(journal._finished(each).first)} psets finished, print {each.hex()[:SHOWN_PRINT]}"
        lines.append(f"{_date(when)}: {'begun' if before is None else 'begun in another state'}; {count}")
        if before is not None:
            reasons = changes(journal._print(before), now)
            lines += [f"  {reason}" for reason in reasons]
        before = each
    return Explanation("stage", tuple(reasons), "\n".join(lines))


def _of_pset(journal: OpenJournal, row: dict[Any, Any], digest: bytes) -> Explanation:
    name = journal._print(digest).name
    states = [each for each, one in journal._prints().items() if one.name == name]
    pset = _found_pset(journal, row, states)
    where = {each: journal._where(pset, each) for each in states}
    done = {each: one for each, (one, _) in where.items() if one is not None}
    what = f"{shown(pset)} of stage {name!r}"
    finished, failed = where[digest]
    earlier = [each for each in done if each != digest and (finished is None or done[each].written < finished.written)]
    before = max(earlier, key=lambda each: done[each].written, default=None)
    reasons = () if before is None else tuple(changes(journal._print(before), journal._print(digest)))
    if finished is not None:
        began = max((when for when, each, _ in journal._history() if each == digest), default=0.0)
        if finished.written < began:
            text = (
                f"{what} was computed at {_date(finished.written)}; nothing that counts has changed since: it is taken"
            )
            return Explanation("taken", (), text + _libraries(journal, digest))
        if before is None:
            return Explanation("computed", (), f"{what} was computed at {_date(finished.written)}, for the first time")
        text = f"{what} was computed again at {_date(finished.written)}, after {_date(done[before].written)}, because"
        return Explanation("computed again", reasons, "\n".join((text, *(f"  {reason}" for reason in reasons))))
    if failed is not None:
        text = (
            f"{what} failed ({failed.failure.kind}): {failed.failure.text}; it is tried again unless retry_failed=False"
        )
        return Explanation("failed", reasons, text)
    if before is not None:
        text = f"{what} was computed at {_date(done[before].written)}; it will be computed again, because since then"
        return Explanation("stale", reasons, "\n".join((text, *(f"  {reason}" for reason in reasons))))
    return _unknown(journal, pset, digest, what)


def _found_pset(journal: OpenJournal, row: dict[Any, Any], states: Sequence[bytes]) -> dict[Any, Any]:
    """Return the pset of a row: all of it, or without the answers."""
    if _is_known(journal, row, states):
        return row
    for each in states:
        for keys in journal._shapes(each):
            if set(keys) < set(row):
                pset = {key: row[key] for key in keys}
                if _is_known(journal, pset, [each]):
                    return pset
    return row


def _unknown(journal: OpenJournal, pset: dict[Any, Any], digest: bytes, what: str) -> Explanation:
    nearest = journal._nearest(pset, digest)
    if nearest is None:
        return Explanation("unknown", (), f"{what} was never finished, and no other pset is like it")
    reasons = []
    for key in dict.fromkeys((*nearest, *pset)):
        if key not in pset:
            reasons.append(f"parameter {key!r} is not there any more")
        elif key not in nearest:
            reasons.append(f"parameter {key!r} is new")
        elif typed_bytes(pset[key]) != typed_bytes(nearest[key]):
            reasons.append(
                f"parameter {key!r} is {shown(pset[key])}, and was {shown(nearest[key])}{_types(pset, nearest, key)}"
            )
    text = f"{what} was never finished; of the one most like it, it differs so:"
    return Explanation("unknown", tuple(reasons), "\n".join((text, *(f"  {reason}" for reason in reasons))))


def _look_alike(one: Any, other: Any) -> bool:
    """Tell whether values are equal, if not in type."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays refuse to be true or false, and others may raise anything
        return False


def _types(one: Mapping[Any, Any], other: Mapping[Any, Any], key: Any) -> str:
    kinds = type(one[key]).__name__, type(other[key]).__name__
    return "" if kinds[0] == kinds[1] else f" ({kinds[0]}, and not {kinds[1]})"


def _libraries(journal: OpenJournal, digest: bytes) -> str:
    texts = [journal._file.text(one) for one in journal._contents.history if one.stage == digest and one.text_bytes]
    prints = [StagePrint.of_dict(text) for text in texts if text is not None]
    changed = changes_of_libraries(prints[0], prints[-1]) if prints else []
    return f" (although {', '.join(changed)})" if changed else ""


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
