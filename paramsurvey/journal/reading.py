"""Journals for people: what is in one, whether it is sound, two made one.

Stages, counts and failures are read without unpickling anything. *Results, and the psets of what is missing, are
pickles: unpickling can run any code, so read those only from journals of people whom you trust.*
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from itertools import chain

import pandas as pd

from paramsurvey.closing import Closing
from paramsurvey.journal.contents import Contents
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import Damage, Kind, Record, Rows, head, record
from paramsurvey.journal.lookup import SHOWN_PRINT, Lookup
from paramsurvey.journal.repacking import compacted, failures, lacking, repacked, stage_records
from paramsurvey.results import missing_frame


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


class OpenJournal(Closing):
    """A journal that is being looked into; `open_journal` makes it.

    Whatever is asked of it, it first reads what has been added to the file since.

    Attributes
    ----------
    stages : DataFrame
        One row for each stage in each state of its code: ``name``, ``worker``, ``print`` (the beginning of what tells
        that state from others), ``finished`` and ``missing`` (how many psets), ``is_current`` (whether it is what the
        stage was when it last ran), ``written`` (when something was last written of it), ``not_covered`` (a tuple: what
        its worker uses of which a change is not noticed, and why).
    damages : list of Damage
        What could not be read of the file so far; `verify` looks at all of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lookup = Lookup(path)

    def close(self) -> None:
        """Close the file."""
        self._lookup.close()

    @property
    def damages(self) -> list[Damage]:
        """What could not be read of the file so far."""
        return self._lookup.damages

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(one.name for one in self._lookup.prints().values()))
        return f"<journal {self.path}: {names or 'no stages'}>"

    # What is in it

    @property
    def stages(self) -> pd.DataFrame:
        """One row for each stage in each state of its code."""
        lookup = self._now()
        contents, prints = lookup.contents, lookup.prints()
        current = {lookup.current(one.name) for one in prints.values()}
        last: dict[bytes, float] = {}
        for each in (*contents.history, *contents.records):
            last[each.stage] = max(each.written, last.get(each.stage, each.written))
        rows = [
            {
                "name": one.name,
                "worker": one.worker,
                "print": digest.hex()[:SHOWN_PRINT],
                "finished": len(lookup.finished(digest).first),
                "missing": len(lookup.lost(digest)),
                "is_current": digest in current,
                "written": pd.Timestamp(last[digest], unit="s", tz="UTC"),
                "not_covered": one.not_covered,
            }
            for digest, one in prints.items()
        ]
        columns = ("name", "worker", "print", "finished", "missing", "is_current", "written", "not_covered")
        return pd.DataFrame(rows, columns=list(columns))

    def _now(self) -> Lookup:
        """Return what is in the file as it is now."""
        self._lookup.read_on()
        return self._lookup

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
        lookup = self._now()
        return lookup.rows(lookup.digest(stage))[0].frame()

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
        lookup = self._now()
        return missing_frame(*lookup.missing(lookup.digest(stage)))

    # Looking after it

    def verify(self) -> list[Damage]:
        """Check every byte of the file; return what is damaged, nothing if it is sound. Nothing is unpickled.

        Rows in what is damaged will be computed again. A record at the very end that is not complete is no damage: it
        is being written, or was when something ended the program.
        """
        file = JournalFile(self.path)
        file.open(to_write=False)
        found: list[Damage] = []
        contents = Contents()
        try:
            for each in file.news():
                if isinstance(each, Damage):
                    found.append(each)
                    continue
                contents.add(each)
                if not isinstance(each, Rows):
                    found += _damage_in(file, each[0])
            shapeless = contents.shapes.lost()
        finally:
            file.close()
        return found + [Damage(rows.offsets[0], 1, "a row: what tells its columns is not there") for rows in shapeless]

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
            lookup = self._now()
            aside = f"{self.path}.compacting"
            try:
                with open(aside, "wb") as new:
                    new.write(head())
                    for data in compacted(lookup):
                        new.write(data)
                    new.flush()
                    os.fsync(new.fileno())
                os.chmod(aside, os.stat(self.path).st_mode & 0o777)
                os.replace(aside, self.path)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(aside)
            file.close()
        self._lookup.read_on()

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
        count = 0
        with lookup_in(other) as theirs, self._locked() as file:
            ours = self._now()
            current = {ours.current(one.name) for one in ours.prints().values()}
            for digest in theirs.contents.prints():
                rows, lost = lacking(ours, theirs, digest, Kind.ROWS), lacking(ours, theirs, digest, Kind.FAILURES)
                count += len(rows)
                stages = () if digest in ours.contents.stages else stage_records(theirs, digest)
                repacked_rows = repacked(theirs, digest, rows, ours.contents)
                for data in chain(stages, repacked_rows, failures(theirs, digest, lost)):
                    self._append(file, data)
                    ours.read_on()
            for digest in current:  # what they have added was not the last to run here
                self._append(file, record(Kind.STAGE, stage=digest, written=time.time()))
        return count

    @staticmethod
    def _append(file: JournalFile, data: bytes) -> None:
        if file.append(data) is None:
            raise OSError(file.trouble or f"the journal {file.path} cannot be written")

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


def _damage_in(file: JournalFile, one: Record) -> Iterator[Damage]:
    """Yield what is damaged in a record whose head is sound."""
    if one.text_bytes and file.raw_text(one) is None:
        yield Damage(one.offset, one.end - one.offset, "a text is damaged")
    elif file.data(one) is None:
        what = "the names of columns" if one.kind == Kind.SHAPE else f"{one.rows} rows"
        yield Damage(one.offset, one.end - one.offset, f"{what} are damaged")


@contextlib.contextmanager
def lookup_in(journal: str | os.PathLike[str] | OpenJournal) -> Iterator[Lookup]:
    """Yield what is in a journal now; it is closed again unless it was open."""
    if isinstance(journal, OpenJournal):
        yield journal._now()
        return
    with Lookup(os.fspath(journal)) as lookup:
        yield lookup
