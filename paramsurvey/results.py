"""What a survey gives back: the results, what is missing and why, how far it came, and where the time went."""

from __future__ import annotations

import contextlib
import copy
from collections import namedtuple
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
import numpy as np
import pandas as pd

from paramsurvey.engine.columns import DETAILS, HOLE, has_holes, unpack
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.records import ChunkRows, Failure, Work
from paramsurvey.engine.worker import ChunkRun, SystemKwargs, Unwatched
from paramsurvey.errors import MissingPsets, PsetError, SessionError, StageError
from paramsurvey.lazy import load
from paramsurvey.options import nearest_or_all
from paramsurvey.progress import MapProgress
from paramsurvey.stats import PerfStats
from paramsurvey.tables import Table, concatenated, frame_of, typed_column

if TYPE_CHECKING:
    import os

    from paramsurvey.drawing.boxes import Drawing
    from paramsurvey.pipeline import Pipeline

Pset: TypeAlias = dict[Hashable, Any]


class MapResults:
    """What came of a survey.

    Parameters
    ----------
    table : Table
        The finished rows.
    psets : Table
        The psets without a result.
    lost : list of Lost
        Why each of them has none, in the same order.
    progress : MapProgress
        The counts.
    stats : PerfStats
        The times.
    name : str
        The survey's name.
    details : Table, optional
        What the finished rows say of themselves, in the same order, if they were asked to.
    call : Call, optional
        How the worker was called, to do it again.

    Attributes
    ----------
    results : DataFrame
        The finished rows in the order of the psets: the parameters, then the answers; then the details, if they were
        asked for.
    missing : DataFrame
        The psets without a result, and why: ``_exception``, ``_traceback``, ``_kind`` and ``_attempts``; if one was
        tried several times, also ``_ends``, the end of each attempt.
    progress : MapProgress
        The counts.
    stats : PerfStats
        The times of the workers, and of whatever they recorded.

    Examples
    --------
    >>> import paramsurvey
    >>> results = paramsurvey.map(lambda pset, system, user: {"square": pset["a"] ** 2}, [{"a": 3}, {"a": "x"}])
    >>> results.results
       a  square
    0  3       9
    >>> results.missing[["a", "_kind"]]
       a   _kind
    1  x  raised
    """

    def __init__(
        self,
        table: Table,
        psets: Table,
        lost: list[Lost],
        progress: MapProgress,
        stats: PerfStats,
        name: str,
        details: Table | None = None,
        call: Call | None = None,
    ) -> None:
        self.table = table
        self.details = details
        self._call = call
        self.progress = progress
        self.stats = stats
        self.name = name
        self._missing_psets = psets
        self._lost = lost

    @cached_property
    def results(self) -> pd.DataFrame:
        """The finished rows in the order of the psets: the parameters, then the answers, then any details."""
        frame = self.table.frame()
        if self.details is not None:
            details = _shown(self.details).frame(frame.index)
            for name in details:
                frame[name] = details[name]
        return frame

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_call": None}  # a worker may be what cannot be pickled

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The psets without a result, and why."""
        return missing_frame(self._missing_psets, self._lost)

    def with_upstream(self, above: list[Losses]) -> MapResults:
        """Return the same results with what is missing because its ancestors are.

        Parameters
        ----------
        above : list of Losses
            What each stage above has lost.
        """
        inherited = [one for losses in above for one in losses.lost]
        if not inherited:
            return self
        psets = concatenated([self._missing_psets, *(losses.psets for losses in above)])
        lost = [*self._lost, *inherited]
        return MapResults(self.table, psets, lost, self.progress, self.stats, self.name, self.details, self._call)

    def reproduce(self, row: Any, *, debug: bool = False) -> Any:
        """Call the worker for the pset of a row again, in this process and with the same seed; return its answer.

        Whatever it raises is raised here, where debuggers and profilers can see it.

        Parameters
        ----------
        row : label or Series
            The label of a row of `results` or `missing`, or the row itself, as ``missing.iloc[0]``.
        debug : bool, default False
            Whether an exception is looked at with pdb, where it was raised, before it goes on.

        Raises
        ------
        PsetError
            There is no such row, or more than one.
        SessionError
            Nobody knows any more how the worker was called, because the results come from elsewhere.

        Examples
        --------
        >>> import paramsurvey
        >>> results = paramsurvey.map(lambda pset, system, user: {"inverse": 1 / pset["a"]}, [{"a": 0}, {"a": 4}])
        >>> results.reproduce(1)
        {'inverse': 0.25}
        >>> results.reproduce(results.missing.iloc[0])
        Traceback (most recent call last):
        ...
        ZeroDivisionError: division by zero
        """
        if self._call is None:
            raise SessionError(f"{self.name}: these results do not know their worker any more: they were pickled")
        label = row.name if isinstance(row, pd.Series) else row
        tables = [self.table, self._missing_psets]  # in a pipeline, both may have that label
        if isinstance(row, pd.Series):
            tables = tables[1:] if "_kind" in row.index else tables[:1]
        for table in tables:
            places = [place for place, each in enumerate(table.labels()) if each == label]
            if len(places) > 1:
                raise PsetError(f"{self.name}: {len(places)} rows have the label {label!r}: only one can be reproduced")
            if places:
                return self._call.again(table.pset(places[0]), debug=debug)
        raise PsetError(f"{self.name}: no row has the label {label!r}")

    def missing_psets(self) -> pd.DataFrame | list[Pset]:
        """Return the missing psets as they were given, to run them again: a DataFrame if they came in one, else dicts.

        Examples
        --------
        >>> import paramsurvey
        >>> results = paramsurvey.map(lambda pset, system, user: {"inverse": 1 / pset["a"]}, [{"a": 0}, {"a": 4}])
        >>> results.missing_psets()
        [{'a': 0}]
        """
        if self._missing_psets.header is not None:
            return self._missing_psets.frame()
        return list(self._missing_psets.dicts())

    def raise_if_missing(self) -> None:
        """Raise `MissingPsets`, which says what is missing and carries these results, if any pset has no result."""
        if self._lost:
            raise MissingPsets(f"{self.name}: {self._what_is_missing()}", self)

    def itertuples(self) -> Iterator[Any]:
        """Iterate over the finished rows as named tuples; a name that is no identifier becomes ``_0``, ``_1``, ...

        They have the very values that went in and came back, as in `iterdicts`. Where a row lacks a key, it has what
        stands for that in `results`: pandas' NA or NaN.
        """
        table = self.table if self.details is None else self.table.beside(_shown(self.details))
        row = namedtuple("Row", map(str, table.keys), rename=True)  # type: ignore[misc] # mypy wants literal names
        columns = [_without_holes(table, key) for key in table.keys]
        return map(row._make, zip(*columns, strict=True) if columns else repeat((), table.count))

    def iterdicts(self) -> Iterator[Pset]:
        """Iterate over the finished rows as dicts, with the very values that went in and came back.

        A row that lacks a key lacks it here, too.
        """
        return self.table.dicts()

    def to_df(self) -> pd.DataFrame:
        """Return `results`."""
        return self.results

    def to_dict(self, orient: Literal["records"] = "records") -> list[Pset]:
        """Return the finished rows as a list of dicts.

        Parameters
        ----------
        orient : {"records", "index", "dict", "list", ...}
            As for `pandas.DataFrame.to_dict`.
        """
        if orient != "records":
            raise ValueError(f"orient={orient!r}: only 'records' is supported; for others use to_df().to_dict()")
        return list(self.iterdicts())

    def __len__(self) -> int:
        return self.table.count

    def __repr__(self) -> str:
        parts = [f"{self.name}: {self.progress.finished} of {self.progress.total} psets finished"]
        if self._lost:
            parts.append(self._what_is_missing())
        elsewhere = self.progress.exceptions - sum(lost.failure.kind == "raised" for lost in self._lost)
        if elsewhere:
            parts.append(f"out_func raised {elsewhere} times")
        names = [str(key) for key in self.table.keys]
        parts.append("columns " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no columns")
        return f"<MapResults {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        from html import escape  # here, because its table of entities takes longer to import than this module

        shown = self.results.head(10)._repr_html_() or ""  # type: ignore[operator]
        title = f"<b>{escape(self.name)}</b>: {self.progress.finished} of {self.progress.total} psets finished"
        if self._lost:
            title += f"; <b>{escape(self._what_is_missing())}</b>"
        return f"<p>{title}</p>{shown}"

    def _what_is_missing(self) -> str:
        kinds: dict[str, int] = {}
        for lost in self._lost:
            kinds[lost.failure.kind] = kinds.get(lost.failure.kind, 0) + 1
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(self._lost)} missing ({listed}), the first: {first_line(self._lost[0].failure.text)}"


@attrs.frozen(eq=False)
class Call:
    """How a worker was called.

    Parameters
    ----------
    work : Work
        The worker, and what it is given beside its pset.
    parameters : tuple
        Which columns are those of the psets.
    """

    work: Work
    parameters: tuple[Hashable, ...]

    def again(self, row: Pset, *, debug: bool) -> Any:
        """Call the worker in this process; `row` may have the answers in it, too."""
        pset = copy.deepcopy({key: row[key] for key in self.parameters if key in row})
        work = self.work._replace(details=False, capture="through")
        run = ChunkRun(work, ChunkRows(tuple(pset), [[value] for value in pset.values()], 1, 1), Unwatched())
        folder = contextlib.nullcontext() if self.work.cwd is None else contextlib.chdir(self.work.cwd)
        with folder:
            try:
                return self.work.worker(copy.deepcopy(pset), SystemKwargs(run), self.work.user_kwargs)
            except BaseException as exc:
                if debug:
                    import pdb

                    pdb.post_mortem(exc.__traceback__)
                raise


@attrs.frozen(eq=False)
class Losses:
    """What will be missing below a stage: the rows that were lost there or above, each as it was where it was lost.

    Parameters
    ----------
    psets : Table
        The rows.
    lost : list of Lost
        Why, with the stage that lost them.
    """

    psets: Table
    lost: list[Lost]

    @classmethod
    def of(cls, results: MapResults | None, above: Sequence[Losses]) -> Losses:
        """Make them of what is missing in a stage, and of the losses above it."""
        tables, lost = [each.psets for each in above], [one for each in above for one in each.lost]
        if results is not None:
            tables.append(results._missing_psets)
            labels = results._missing_psets.labels()
            for label, one in zip(labels, results._lost, strict=True):
                why = f"its ancestor, row {label!r} of stage {results.name!r}, is missing: {one.failure.text}"
                lost.append(Lost(one.row, Failure("upstream", why, one.failure.traceback), 0))
        return cls(concatenated(tables), lost)


@attrs.frozen(eq=False)
class Origins:
    """Where the rows of a stage come from.

    Parameters
    ----------
    table : Table or None
        The rows, if they were kept.
    numbers : array of int64 or None
        The number of each, in the order in which they came.
    parents : tuple
        For each stage above, the number there of the parent of every row; None if it is the same number.
    after : tuple of str
        The stages above.
    """

    table: Table | None
    numbers: Any
    parents: tuple[Any, ...]
    after: tuple[str, ...]


class RunResults(Mapping[str, Any]):
    """What came of a run: a mapping from the names of its stages to their results.

    Those of a map stage are `MapResults`, those of any other a DataFrame, if the stage does not show something else
    (`stages.base.Made`). Stages whose rows were not kept (``keep=``) are not in it, but for the map stages, whose
    counts and missing psets are there.

    Parameters
    ----------
    pipeline : Pipeline
        What was run.
    found : dict
        What came of each stage: `MapResults` or a Table.
    origins : dict of str to Origins
        Where the rows of each stage come from.
    asked : sequence of MapProgress
        The counts of the surveys that whole-table stages have asked for.
    shown : mapping of str to object
        What whole-table stages have to show instead of a DataFrame.

    Attributes
    ----------
    results : DataFrame
        The rows of the last stage.
    missing : DataFrame
        The psets without a result in all stages; ``_stage`` says where each was lost.
    progress : MapProgress
        The counts of all stages together.
    stats : dict
        The times by map stage.

    Examples
    --------
    >>> from paramsurvey import Pipeline
    >>> pipeline = Pipeline("halves").map(lambda pset, system, user: {"half": pset["n"] / 2}, name="half").best("half")
    >>> run = pipeline.run([{"n": 1}, {"n": "x"}, {"n": 3}], allow_missing=True, verbose=0)
    >>> run.results
       n  half
    0  3   1.5
    >>> run.missing[["_stage", "n", "_kind"]]
      _stage  n   _kind
    0   half  x  raised
    >>> run.lineage(0)
    {'psets': [{'n': 3}]}
    """

    def __init__(
        self,
        pipeline: Pipeline,
        found: dict[str, MapResults | Table],
        origins: dict[str, Origins],
        asked: Sequence[MapProgress] = (),
        shown: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.pipeline = pipeline
        self._shown = dict(shown)
        self._asked = tuple(asked)
        self._found = found
        self._origins = origins
        self._frames: dict[str, pd.DataFrame] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "pipeline": self.pipeline.outline()}  # a stage may be what cannot be pickled

    def __getitem__(self, name: str) -> Any:
        if name not in self._found:
            raise KeyError(self._why_not(name))
        found = self._found[name]
        if isinstance(found, MapResults):
            return found
        return self._shown[name] if name in self._shown else self._frame(name, found)

    def _frame(self, name: str, found: Table) -> pd.DataFrame:
        if name not in self._frames:
            self._frames[name] = found.frame()
        return self._frames[name]

    def _why_not(self, name: str) -> str:
        if name in self.pipeline.sources:
            return f"{name!r} is a source, and its rows are no results; there are: {', '.join(map(repr, self._found))}"
        if name in self.pipeline:
            return f"the rows of stage {name!r} were not kept: run with keep='all'"
        return f"there is no stage {name!r}; {nearest_or_all(str(name), self._found)}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _sink(self) -> str:
        sinks = self.pipeline.sinks
        if len(sinks) != 1:
            raise StageError(
                f"the pipeline {self.pipeline.name!r} ends in {len(sinks)} stages: ask for the results of one by name, "
                f"of {', '.join(map(repr, sinks))}"
            )
        return sinks[0]

    @property
    def results(self) -> pd.DataFrame:
        """The rows of the last stage; raises `StageError` if there are several."""
        name = self._sink()
        if name not in self._found:
            raise KeyError(self._why_not(name))
        found = self._found[name]
        if isinstance(found, MapResults):
            return found.results
        shown = self._shown.get(name)
        return shown if isinstance(shown, pd.DataFrame) else self._frame(name, found)

    @cached_property
    def _surveys(self) -> dict[str, MapResults]:
        return {name: found for name, found in self._found.items() if isinstance(found, MapResults)}

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The psets without a result in all stages, each where it was lost."""
        tables, lost, stages = [], [], []
        for name, found in self._surveys.items():
            own = [place for place, one in enumerate(found._lost) if one.failure.kind != "upstream"]
            tables.append(found._missing_psets.take(np.array(own, np.int64)))
            lost += [found._lost[place] for place in own]
            stages += [name] * len(own)
        frame = missing_frame(concatenated(tables), lost)
        frame.insert(0, "_stage", pd.Series(stages, dtype=object, index=frame.index))
        return frame

    @property
    def progress(self) -> MapProgress:
        """The counts of all stages together, with those of surveys that stages have asked for."""
        each = [*(found.progress for found in self._surveys.values()), *self._asked]
        return MapProgress(
            total=sum(one.total for one in each),
            active=sum(one.active for one in each),
            finished=sum(one.finished for one in each),
            failures=sum(one.failures for one in each),
            exceptions=sum(one.exceptions for one in each),
            from_journal=sum(one.from_journal for one in each),
        )

    @property
    def stats(self) -> dict[str, PerfStats]:
        """The times by map stage."""
        return {name: found.stats for name, found in self._surveys.items()}

    def table(self, name: str) -> Table | None:
        """Return the rows of a stage or a source as they are, before they are a DataFrame; None if they were not kept.

        Parameters
        ----------
        name : str
            Its name.
        """
        if name not in self._origins:
            raise KeyError(self._why_not(name))
        return self._origins[name].table

    def drawing(self) -> Drawing:
        """Return a picture of the pipeline, with counts, failures and times."""
        pictures = load("paramsurvey.pictures")  # it stands above this module
        drawing: Drawing = pictures.drawing_of_run(self)
        return drawing

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the pipeline into a file, with counts, failures and times.

        Parameters
        ----------
        path : str or path
            Where; its suffix decides: ``.svg``, ``.png`` (needs ``paramsurvey[plot]``) or ``.mmd`` (Mermaid).
        """
        self.drawing().save(path)

    def raise_if_missing(self) -> None:
        """Raise `MissingPsets`, which says what is missing and carries these results, if any pset has no result."""
        if len(self.missing):
            first = self.missing.iloc[0]
            text = f"{len(self.missing)} missing, the first in stage {first['_stage']!r}"
            raise MissingPsets(f"{self.pipeline.name}: {text}: {first_line(first['_exception'])}", self)

    def reproduce(self, row: Any, stage: str | None = None, *, debug: bool = False) -> Any:
        """Call the worker of a stage again for one row, in this process; see `MapResults.reproduce`.

        Parameters
        ----------
        row : label or Series
            The label of a row of the stage's results or missing psets, or the row itself; or a row of `missing` here.
        stage : str, optional
            The map stage; by default that in the row's ``_stage``, or else the last stage.
        debug : bool, default False
            Whether an exception is looked at with pdb.

        Raises
        ------
        StageError
            The stage calls no worker.
        """
        if stage is None and isinstance(row, pd.Series) and "_stage" in row.index:
            stage = row["_stage"]
            before = self.missing.loc[: row.name, "_stage"]
            found = self._surveys[stage]
            place = [at for at, one in enumerate(found._lost) if one.failure.kind != "upstream"][
                sum(before == stage) - 1
            ]
            row = found.missing.iloc[place]
        name = self._sink() if stage is None else stage
        if name not in self._surveys:
            raise StageError(f"reproduce(): stage {name!r} calls no worker; there are: {', '.join(self._surveys)}")
        return self._surveys[name].reproduce(row, debug=debug)

    def lineage(self, row: int, stage: str | None = None) -> dict[str, list[Pset]]:
        """Tell from which rows of the sources a row comes.

        Parameters
        ----------
        row : int
            Its place in the results of the stage: 0 is the first.
        stage : str, optional
            The stage; by default the last.

        Returns
        -------
        dict
            Psets by the name of the source; sources of which none is known are left out, as behind a stage that does
            not tell where its rows come from (`stages.tables.Apply`).

        Raises
        ------
        StageError
            The rows of the stage were not kept, or there is no such row.
        """
        name = self._sink() if stage is None else stage
        origins = self._origins.get(name)
        if origins is None or origins.table is None:
            raise StageError(f"lineage(): {self._why_not(name)}")
        if not 0 <= row < origins.table.count:
            raise StageError(f"lineage(): stage {name!r} has {origins.table.count} rows, and none at {row}")
        found: dict[str, dict[int, None]] = {}
        pending = [(name, int(origins.numbers[row]))]
        seen = set(pending)
        while pending:
            name, number = pending.pop()
            here = self._origins[name]
            if self.pipeline.steps[name].kind == "source":
                found.setdefault(name, {})[number] = None
            for above, parents in zip(here.after, here.parents, strict=False):
                parent = self._parent(above, parents, number, is_table=self.pipeline.steps[name].kind == "table")
                if parent >= 0 and (above, parent) not in seen:
                    seen.add((above, parent))
                    pending.append((above, parent))
        tables = {source: self._origins[source].table for source in found}
        return {
            source: [table.pset(number) for number in sorted(found[source])]
            for source, table in tables.items()
            if table is not None
        }

    def _parent(self, above: str, parents: Any, number: int, *, is_table: bool) -> int:
        if parents is None:
            return number
        parent = int(parents[number])
        if is_table and parent >= 0:  # a whole-table stage tells places in the tables that it was given
            return int(self._origins[above].numbers[parent])
        return parent

    def __repr__(self) -> str:
        lines = [f"<RunResults of {self.pipeline.name!r}"]
        for name, found in self._found.items():
            what = (
                repr(found)[len("<MapResults ") : -1]
                if isinstance(found, MapResults)
                else f"{found.count} row{'s' * (found.count != 1)}"
            )
            lines.append(f"  {what}" if isinstance(found, MapResults) else f"  {name}: {what}")
        return "\n".join(lines) + ">"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<p>{escape(repr(found)[1:-1])}</p>" for found in self._surveys.values())
        sinks = self.pipeline.sinks
        last = self._found.get(sinks[0]) if len(sinks) == 1 else None
        shown = self._frame(sinks[0], last).head(10) if isinstance(last, Table) else None
        return f"<b>{escape(self.pipeline.name)}</b>{rows}{shown._repr_html_() if shown is not None else ''}"  # type: ignore[operator]


def _shown(details: Table) -> Table:
    """Return those details that have a column in `MapResults.results`."""
    return details.only([key for key in details.keys if key in DETAILS])


def _without_holes(table: Table, key: Hashable) -> list[Any]:
    """Return the values of a column, and for its holes what stands for them in a frame."""
    column = table.column(key)
    values = unpack(column)
    if not has_holes(column):
        return values
    series = table.typed[key] if key in table.typed else typed_column(column)
    missing = series.iloc[next(place for place, value in enumerate(values) if value is HOLE)]
    missing = missing.item() if isinstance(missing, np.float64) else missing
    return [missing if value is HOLE else value for value in values]


def missing_frame(psets: Table, lost: Sequence[Lost]) -> pd.DataFrame:
    """Put psets that have no result beside the reasons."""
    frame = psets.frame()
    failures = [one.failure for one in lost]
    why = {
        "_kind": [failure.kind for failure in failures],
        "_exception": [failure.text for failure in failures],
        "_traceback": [failure.traceback for failure in failures],
    }
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
    columns += [pd.Series(np.array(values, dtype=object), dtype=object) for values in why.values()]
    columns.append(pd.Series([one.attempts for one in lost], dtype=np.int64))
    names = (*frame.columns, *why, "_attempts")
    if any(one.attempts > 1 for one in lost):
        columns.append(pd.Series([one.ends for one in lost], dtype=object))
        names = (*names, "_ends")
    if any(failure.facts for failure in failures):
        facts = [dict(failure.facts) for failure in failures]
        found = tuple(key for key in DETAILS if any(key in each for each in facts))
        columns += [typed_column([each.get(key, HOLE) for each in facts]) for key in found]
        names = (*names, *found)
    missing = frame_of(names, columns, frame.index)
    missing.columns.name = frame.columns.name if frame.columns.nlevels == 1 else None
    return missing


def first_line(text: str, width: int = 120) -> str:
    """Return the beginning of a text, on one line."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= width else line[: width - 3] + "..."
