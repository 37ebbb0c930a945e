"""What a run would do, before it does anything expensive: a `Plan`.

Three kinds of numbers, never mixed up
--------------------------------------
*Exact ones and bounds* are arithmetic (`Count.least`, `Count.most`): they follow from the number of psets and from what
the stages are. They hold as long as no pset fails and, where the best rows are kept, every row has what is compared.
A number that nothing follows for is unknown, not guessed.

*Estimates* (`Count.about`, `Eta`) need a sample: some rows, evenly spread over the first source, that run through all
stages. What goes row by row is scaled by how many rows came of one; the rows of a join by those of the table that was
sampled; groups by the power of the number of rows with which they grew from the first half of the sample to the whole
(1: every row brings new groups; 0: all were there from the beginning). Of a function of whole tables nothing is known
from some of its rows. An estimate is as good as the sample: one row in a thousand that takes an hour is not in it.

*What was measured* (`Seen`, `Memory`) is told of the sample alone.

Nothing here starts a process but the run of a sample. Pictures of pipelines and of runs are made here, too.
"""

from __future__ import annotations

import html
import math
import numbers
import threading
import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from struct import pack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import numpy as np
import pandas as pd

from paramsurvey.drawing import Box, Drawing, Kind
from paramsurvey.engine.columns import Column, Hole, is_plain
from paramsurvey.engine.pickling import Buffers, dumps, dumps_by_value
from paramsurvey.errors import BackendError, OptionError, PsetError, StageError, SurveyError, WorkerError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.options import shown
from paramsurvey.pipeline import Pipeline, Step
from paramsurvey.results import MapResults, RunResults, first_line
from paramsurvey.stages.base import Columns
from paramsurvey.stages.map import Map
from paramsurvey.stages.reduce import Reduce
from paramsurvey.stages.rows import Derive, Drop, Keep, Rename
from paramsurvey.stages.tables import Best, Concat, Join, Top
from paramsurvey.survey import Survey

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend
    from paramsurvey.engine.records import Work
    from paramsurvey.options import Options
    from paramsurvey.runs import Run
    from paramsurvey.tables import Table

Start = Callable[[Pipeline, Mapping[str, Any]], "Run"]
"""Makes a run of a pipeline and its sources."""

MEASURED_ROWS: Final = 200
"""Of so many rows at most the bytes are measured; values that may not be picklable are tried."""
MEASURED_BYTES: Final = 20_000_000
MANY_BYTES: Final = 1_000_000
"""From here on a row is said to carry much."""
LOOK_SECONDS: Final = 0.1
LEFT_OUT: Final = ("out_func", "on_failure", "keep_results")
"""Options of a stage that a sample does without: what it computes is nobody's result."""


# --- what a plan consists of ----------------------------------------------------------------------


@attrs.frozen
class Count:
    """How many: exactly, or within bounds; and about how many, if a sample was run.

    Parameters
    ----------
    least : int
        Not fewer.
    most : int or None
        Not more; None if that is not known.
    about : float or None
        What the sample lets expect, if the number is not exact.
    spread : float
        The standard error of that.

    Examples
    --------
    >>> print(Count(1200, 1200), Count(0, 1200), Count(3), Count(), Count(0, 1200, about=310.2), sep="; ")
    1,200; up to 1,200; 3 or more; any number; ~310
    """

    least: int = 0
    most: int | None = None
    about: float | None = None
    spread: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether it is one number."""
        return self.least == self.most

    @property
    def expected(self) -> float | None:
        """The number, or the estimate; None if there is neither."""
        return self.least if self.is_exact else self.about

    def __str__(self) -> str:
        if self.is_exact:
            return f"{self.least:,}"
        if self.about is not None:
            return f"~{self.about:,.0f}"
        if self.most is None:
            return f"{self.least:,} or more" if self.least else "any number"
        return f"{self.least:,} to {self.most:,}" if self.least else f"up to {self.most:,}"


@attrs.frozen
class Psets:
    """What was found among the psets of a source.

    Parameters
    ----------
    duplicates : int
        How many equal an earlier one, in types and values.
    example : str
        The first of them.
    uncompared : int
        How many hold something that cannot be compared, because it cannot be pickled.
    why_not : str
        Why a pset cannot be sent to another process; empty if all that were tried can.
    """

    duplicates: int = 0
    example: str = ""
    uncompared: int = 0
    why_not: str = ""


@attrs.frozen
class Calls:
    """What calling a worker takes.

    Parameters
    ----------
    count : Count
        How often.
    published : int or None
        The bytes of the worker and its ``user_kwargs``, which cross once; None if they cannot be pickled.
    why_not : str
        Why they cannot.
    task : int or None
        The bytes of a task of one row; None if its rows are not known without a sample.
    row : float or None
        The bytes of each further row of a task.
    """

    count: Count
    published: int | None
    why_not: str = ""
    task: int | None = None
    row: float | None = None


@attrs.frozen
class Timing:
    """How long the calls of a worker took in a sample, in seconds.

    Parameters
    ----------
    count : int
        How many were measured.
    mean : float
        Of one call.
    deviation : float
        How much they differ: their standard deviation.
    """

    count: int
    mean: float
    deviation: float

    @property
    def error(self) -> float:
        """The standard error of the mean; of a single call, the mean itself."""
        return self.deviation / math.sqrt(self.count) if self.count > 1 else self.mean


@attrs.frozen
class Seen:
    """What a sample has shown of a stage.

    Parameters
    ----------
    rows_in : tuple of int
        The rows that came in from each stage above; of a map stage, those that it dealt with.
    rows_out : int
        The rows that came out.
    growth : float or None
        The power of the rows that came in with which those that come out grow; None if nobody can say.
    failures : int
        How many rows have failed.
    failure : str
        Why, the first of them.
    timing : Timing or None
        The times of its worker.
    """

    rows_in: tuple[int, ...]
    rows_out: int
    growth: float | None
    failures: int = 0
    failure: str = ""
    timing: Timing | None = None


@attrs.frozen
class StagePlan:
    """What is known of a stage ahead.

    Parameters
    ----------
    name : str
        Its name in the pipeline.
    kind : {"source", "map", "rows", "table"}
        What kind of stage it is.
    after : tuple of str
        The stages whose rows it gets.
    rows : Count
        How many rows come out of it.
    columns_in : tuple of Columns
        The columns that come in from each stage above.
    columns : Columns
        Those that come out.
    psets : Psets or None
        What was found among its psets, if it is a source.
    calls : Calls or None
        What calling its worker takes, if it has one.
    seen : Seen or None
        What the sample has shown of it.
    """

    name: str
    kind: str
    after: tuple[str, ...]
    rows: Count
    columns_in: tuple[Columns, ...]
    columns: Columns
    psets: Psets | None = None
    calls: Calls | None = None
    seen: Seen | None = None


@attrs.frozen
class Eta:
    """How long a run would take, from the times of a sample.

    It is the time of all calls, shared by the slots; not less than the longest way of a single row through all stages.
    What the driver does is not in it.

    Parameters
    ----------
    seconds : float
        The estimate.
    spread : float
        Its standard error.
    without : tuple of str
        The stages that are left out, because the number or the time of their calls is not known.
    """

    seconds: float
    spread: float
    without: tuple[str, ...] = ()


@attrs.frozen
class Memory:
    """The most memory that processes had while a sample ran, in bytes, as seen ten times a second.

    It is resident memory; pages that processes share are counted in each.

    Parameters
    ----------
    driver : int
        This process.
    largest : int
        The largest of those below it: its workers, and whatever they have started.
    total : int
        All together, at one time.
    processes : int
        How many there were below this one at most.
    """

    driver: int
    largest: int
    total: int
    processes: int


@attrs.frozen
class Sample:
    """What was run to see.

    Parameters
    ----------
    source : str
        Of which source some rows were taken; others were taken whole.
    rows : int
        How many.
    of : int
        Out of how many.
    seconds : float
        How long it took, with the start of the workers.
    memory : Memory
        How much it took.
    why_ended : str
        Why it ended before its end; empty if it did not.
    """

    source: str
    rows: int
    of: int
    seconds: float
    memory: Memory
    why_ended: str = ""


@attrs.frozen
class Finding:
    """Something that is worth knowing before a run.

    Parameters
    ----------
    text : str
        What.
    stage : str
        The stage or source that it is about; may be empty.
    is_warning : bool
        Whether the run will lose something by it.
    """

    text: str
    stage: str = ""
    is_warning: bool = False


@attrs.frozen
class Plan:
    """What a run would do; `paramsurvey.plan` makes it.

    Printed, it is a table of the stages and what was found, warnings first; notebooks show it as a picture.

    Attributes
    ----------
    name : str
        The name of the pipeline.
    stages : tuple of StagePlan
        The stages, sources among them, each after those that it comes after.
    backend : str
        Who would compute.
    slots : int
        How many workers at once.
    sample : Sample or None
        What was run to see.
    eta : Eta or None
        How long a run would take, if there was a sample that told.
    findings : tuple of Finding
        What is worth knowing, warnings first.
    """

    name: str
    stages: tuple[StagePlan, ...]
    backend: str
    slots: int
    sample: Sample | None = None
    eta: Eta | None = None
    findings: tuple[Finding, ...] = ()

    def __getitem__(self, name: str) -> StagePlan:
        """Return what is known of a stage."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"there is no stage {name!r}; there are: {', '.join(repr(each.name) for each in self.stages)}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those findings by which the run would lose something."""
        return tuple(each.text for each in self.findings if each.is_warning)

    def drawing(self) -> Drawing:
        """Return a picture of it."""
        return self._drawn(self.name, lambda stage: [note for note in _notes(stage) if note])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts, lists, numbers and text, ready for JSON."""
        return attrs.asdict(self, value_serializer=_serialised)

    def __str__(self) -> str:
        table = self._drawn("", _cells).text(width=120)
        return "\n".join([self._heading(), table, *(f"{_mark(each)} {each.text}" for each in self.findings)])

    def __repr__(self) -> str:
        return f"<Plan of {self._heading()}>"

    def _repr_html_(self) -> str:
        listed = "".join(f"<li>{_mark(each)} {html.escape(each.text)}</li>" for each in self.findings)
        found = f'<ul style="list-style:none;padding-left:0">{listed}</ul>' if listed else ""
        return f"<p>{html.escape(self._heading())}</p>{self.drawing().svg()}{found}"

    def _heading(self) -> str:
        count = sum(each.kind != "source" for each in self.stages)
        slots = f"{self.slots} slot{'s' * (self.slots != 1)}"
        return f"{self.name}: {count} stage{'s' * (count != 1)} on {slots} of {self.backend}"

    def _drawn(self, title: str, notes: Callable[[StagePlan], Iterable[str]]) -> Drawing:
        warned = {each.stage for each in self.findings if each.is_warning}
        boxes = [_box(each, notes(each), warning=each.name in warned) for each in self.stages]
        return _drawing(title, boxes, self.stages)


def _serialised(_: object, field: attrs.Attribute[Any] | None, value: Any) -> Any:
    if field is not None and field.name == "names":  # those of columns may be anything
        return [name if isinstance(name, str | int | bool) else str(name) for name in value]
    return list(value) if isinstance(value, tuple) else value


# --- words ----------------------------------------------------------------------------------------


def _mark(finding: Finding) -> str:
    return "!" if finding.is_warning else "-"


def _notes(stage: StagePlan) -> list[str]:
    """Return what is written into the box of a stage, a line each; some may be empty."""
    rows, *others = _cells(stage)
    known = stage.rows.is_exact or stage.rows.about is not None or rows != "any number"
    return [f"{rows} row{'s' * (stage.rows.expected != 1)}" if known else f"{rows} of rows", *others]


def _cells(stage: StagePlan) -> list[str]:
    """Return what is told of a stage in its line of a table, in columns."""
    calls, seen = stage.calls or Calls(Count(), None), stage.seen
    timing = None if seen is None else seen.timing
    return [
        str(stage.rows),
        "" if timing is None else f"{_time(timing.mean)} each",
        f"{seen.failures:,} failed" if seen is not None and seen.failures else "",
        "" if calls.published is None else f"{_bytes(calls.published)} once",
        "" if calls.task is None else f"{_bytes(calls.task)} a task",
        _changes(stage),
    ]


def _changes(stage: StagePlan) -> str:
    """Say which columns a stage adds and leaves out."""
    if stage.kind == "source":
        return ", ".join(map(str, stage.columns.names)) or "no columns"
    before = dict.fromkeys(name for columns in stage.columns_in for name in columns.names)
    names, is_open = stage.columns.names, stage.columns.open
    new = [str(name) for name in names if name not in before]
    if is_open and not any(columns.open for columns in stage.columns_in):
        new.append("...")
    gone = [str(name) for name in before if name not in names]
    if is_open and gone:  # nothing is known of them
        gone = []
    return " ".join(sign + ", ".join(some) for sign, some in (("+", new), ("-", gone)) if some)


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * size:
            return f"{float(f'{seconds / size:.3g}'):g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _bytes(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.9995 * size:
            return f"{float(f'{count / size:.3g}'):g} {unit}"
    return f"{count:.0f} bytes"


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


# --- making one -----------------------------------------------------------------------------------


def check_arguments(psets: Mapping[str, Any], sample: Any) -> None:
    """Refuse what a plan cannot be made of, before anything is read.

    Parameters
    ----------
    psets : mapping
        What was given as psets, by name.
    sample : object
        What was given as the number of rows to run.

    Raises
    ------
    PsetError
        Psets come in an iterator, of which nothing would be left for the run.
    OptionError
        The sample is no number of rows.
    """
    for name, each in psets.items():
        if isinstance(each, Iterator):
            raise PsetError(
                f"plan() would use up {name}, a {type(each).__name__}, and leave nothing for the run: "
                "make a list of it first"
            )
    if sample is not None and not _is_number_of_rows(sample):
        raise OptionError(f"plan(sample={shown(sample)}): sample must be a number of rows, at least 1, or None")


def _is_number_of_rows(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) > 0


def options_of_sample(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for the run of a sample, from those that were given for the plan.

    It is silent and does not stop; its rows are kept, and no function of the user's hears of them.
    """
    kept = {name: value for name, value in given.items() if name not in ("name", "limit", *LEFT_OUT)}
    quiet = {"verbose": 0, "vstats": 0, "out_func": _unheard, "on_failure": "continue", "keep_results": True}
    return {**kept, **quiet, "keep": "all", "allow_missing": True}


def _unheard(user_ret: object, system_kwargs: object, user_kwargs: object) -> None:
    """Take an answer of a sample, instead of an ``out_func`` that the session may have."""


def planned(run: Run, sample: int | None, start: Start) -> Plan:
    """Make the plan of a run that has not begun.

    Parameters
    ----------
    run : Run
        What would be done.
    sample : int or None
        How many rows of the first source to run, to see.
    start : callable
        Makes the run of the sample.

    Raises
    ------
    StageError
        A column that a stage needs is in none of the psets.
    """
    pipeline = run.pipeline
    tables = {name: psets.table() for name, psets in run.psets.items()}
    columns = pipeline.columns({name: Columns(each.keys, open=not each.count) for name, each in tables.items()})
    works = {name: _published(work) for name, work in _works(run).items()}
    sends = run.backend.name != "serial"
    trial = None
    if sample is not None and not (sends and any(why for _, why in works.values())):
        trial = _tried(run, tables, sample, start)
    counts = _counted(pipeline, tables, trial)
    stages = []
    for name, step in pipeline.steps.items():
        ins = tuple(_seen_columns(columns[above], above, trial) for above in step.after)
        stages.append(
            StagePlan(
                name=name,
                kind=step.kind,
                after=step.after,
                rows=counts[name],
                columns_in=ins,
                columns=_seen_columns(columns[name], name, trial),
                psets=_looked_through(tables[name]) if name in tables else None,
                calls=_calls(step, counts, works, _rows_for(step, tables, trial)) if name in works else None,
                seen=trial.seen.get(name) if trial is not None else None,
            )
        )
    plan = Plan(pipeline.name, tuple(stages), run.backend.name, run.slots, None if trial is None else trial.sample)
    plan = attrs.evolve(plan, eta=_eta(plan))
    findings = sorted(_findings(plan, run, sample is not None), key=lambda each: not each.is_warning)
    return attrs.evolve(plan, findings=tuple(findings))


def _seen_columns(known: Columns, name: str, trial: _Trial | None) -> Columns:
    """Return the columns that are known ahead; if there may be others, with those that the sample had."""
    if trial is None or not known.open or name not in trial.seen:
        return known
    table = trial.results.table(name)
    return known if table is None else known.with_more(table.keys)


def _rows_for(step: Step, tables: Mapping[str, Table], trial: _Trial | None) -> Table | None:
    """Return rows that a map stage gets, if some are known."""
    if step.kind != "map":
        return None
    [above] = step.after
    if above in tables:
        return tables[above]
    return None if trial is None else trial.results.table(above)


# --- how many -------------------------------------------------------------------------------------


def _counted(pipeline: Pipeline, tables: Mapping[str, Table], trial: _Trial | None) -> dict[str, Count]:
    """Count the rows that come out of every stage."""
    counts: dict[str, Count] = {}
    for name, step in pipeline.steps.items():
        if step.kind == "source":
            counts[name] = Count(tables[name].count, tables[name].count)
            continue
        inputs = [counts[above] for above in step.after]
        seen = trial.seen.get(name) if trial is not None else None
        counts[name] = _estimated(rows_after(step.stage, step.kind, inputs), step.stage, step.kind, inputs, seen)
    return counts


def rows_after(stage: Any, kind: str, inputs: Sequence[Count]) -> Count:
    """Return the bounds of how many rows come out of a stage, from those of what goes in.

    A stage of somebody else's may have the attribute ``fan_out``: how many rows it makes of each; or ``keeps_labels``,
    which says that these are none or one.

    Examples
    --------
    >>> rows_after(Concat(), "table", [Count(3, 3), Count(0, 5)])
    Count(least=3, most=8, about=None, spread=0.0)
    """
    least = [each.least for each in inputs]
    most = [math.inf if each.most is None else each.most for each in inputs]
    if kind == "map":
        return _within(least[0], most[0])
    if kind == "rows":
        fewest, highest = _fan_out(stage)
        return _within(least[0] * fewest, _times(most[0], highest))
    if isinstance(stage, Join):
        return _within(*_joined(stage, least, most))
    if isinstance(stage, Concat):
        return _within(sum(least), sum(most))
    if isinstance(stage, Top | Best):
        count = stage.count if isinstance(stage, Top) else 1
        return _within(min(count, least[0]), min(count, most[0]) if stage.within is None else most[0])
    if isinstance(stage, Reduce):
        return _within(min(1, least[0]), most[0]) if stage.by is not None else Count(1, 1)
    return Count()


def _within(least: int, most: float) -> Count:
    return Count(least, None if most == math.inf else int(most))


def _times(one: float, other: float) -> float:
    return one * other if one and other else 0  # also 0 times any number


def _fan_out(stage: Any) -> tuple[int, float]:
    """Return how many rows a row-wise stage makes of each, at least and at most."""
    if isinstance(stage, Derive | Drop | Keep | Rename):
        return 1, 1
    fan_out = getattr(stage, "fan_out", None)
    if isinstance(fan_out, int):
        return fan_out, fan_out
    return 0, 1 if getattr(stage, "keeps_labels", False) else math.inf


def _joined(join: Join, least: Sequence[int], most: Sequence[float]) -> tuple[int, float]:
    """Return how many rows a join has: its pairs, and what is kept without a partner."""
    left, right = most
    one_left, one_right = (side == "1" for side in (join.expect or "m:m").split(":"))
    pairs = _times(left, right)  # of which a key that is unique on one side allows fewer
    if one_left:
        pairs = min(pairs, right)
    if one_right:
        pairs = min(pairs, left)
    if join.how == "inner":
        return 0, pairs
    if join.how == "left":
        return least[0], left if one_right else max(pairs, _pairs_and_rest(left, right, one_left))
    if join.how == "right":
        return least[1], right if one_left else max(pairs, _pairs_and_rest(right, left, one_right))
    return max(least), max(pairs, left + right)


def _pairs_and_rest(kept: float, other: float, kept_is_unique: bool) -> float:
    """Return how many rows there are at most if every row of one side is kept: at best one of them has all partners."""
    if kept_is_unique:
        return kept + max(other - 1, 0) if kept else 0
    return kept


def _estimated(count: Count, stage: Any, kind: str, inputs: Sequence[Count], seen: Seen | None) -> Count:
    """Add what the sample lets expect."""
    if seen is None:
        return count
    if seen.failures:
        count = Count(0, count.most)
    if count.is_exact:
        return count
    guess = _guess(stage, kind, inputs, seen)
    if guess is None:
        return count
    about, spread = guess
    about = max(about, count.least)
    return attrs.evolve(count, about=about if count.most is None else min(about, count.most), spread=spread)


def _guess(stage: Any, kind: str, inputs: Sequence[Count], seen: Seen) -> tuple[float, float] | None:
    """Return how many rows the sample lets expect, and the standard error of that."""
    expected = [each.expected for each in inputs if each.expected is not None]
    if len(expected) < len(inputs):
        return None
    if isinstance(stage, Concat):
        return sum(expected), math.hypot(*(each.spread for each in inputs))
    if isinstance(stage, Top | Best) and stage.within is None:
        return min(stage.count if isinstance(stage, Top) else 1, expected[0]), 0.0
    scales = [
        (rows / given, each.spread / rows if rows else 0.0)
        for rows, each, given in zip(expected, inputs, seen.rows_in, strict=True)
        if given
    ]
    if seen.growth is None or not scales:
        return None
    scale, error = max(scales)
    about = seen.rows_out * scale**seen.growth
    if not about:
        return 0.0, scale  # as if it had been one
    fewest, highest = _fan_out(stage) if kind == "rows" else (0, math.inf)
    own = 0.0 if fewest == highest else _ratio_error(seen.rows_out / max(seen.rows_in)) / math.sqrt(seen.rows_out)
    return about, about * math.hypot(error, own)


def _ratio_error(ratio: float) -> float:
    """Return what the relative error of a number of rows that came of others is, times its root: binomial or Poisson.

    That is: each row came or did not; or, if there are more than went in, they came independently of one another.
    """
    return math.sqrt(1 - ratio) if ratio <= 1 else 1.0


# --- the psets ------------------------------------------------------------------------------------


def _looked_through(table: Table) -> Psets:
    """See what is to be said of psets."""
    codes, uncompared = _codes_of_rows(table)
    repeated = pd.Series(codes).duplicated().to_numpy()
    duplicates = int(repeated.sum())
    example = shown(table.pset(int(repeated.argmax()))) if duplicates else ""
    return Psets(duplicates, example, uncompared, _why_unsendable(table))


def _codes_of_rows(table: Table) -> tuple[np.ndarray[Any, Any], int]:
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
    rows = _spread(table.count, MEASURED_ROWS).tolist()
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


def _spread(total: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return so many places, evenly spread over all of them; the first and the last among them."""
    if count >= total:
        return np.arange(total, dtype=np.int64)
    if count == 1:
        return np.array([total // 2], dtype=np.int64)
    return np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))


# --- bytes ----------------------------------------------------------------------------------------


def _works(run: Run) -> dict[str, Work]:
    """Return what would be published for every stage that has a worker."""
    works: dict[str, Work] = {}
    for name, step in run.pipeline.steps.items():
        node = run.nodes[name]
        if isinstance(node, Survey):
            works[name] = _work(node.stage, name, node.options)
        elif isinstance(step.stage, Reduce) and step.stage.worker is not None:
            stage = Map(step.stage.worker, **step.stage.options)
            works[name] = _work(stage, name, run.options_of(stage.given))
    return works


def _work(stage: Map, name: str, options: Options) -> Work:
    return stage.work(name, options, options.chdir)


def _published(work: Work) -> tuple[int | None, str]:
    """Return the bytes that would be published; or why there would be none."""
    buffers = Buffers()
    try:
        data = dumps_by_value(work, buffers)
    except Exception as exc:  # noqa: BLE001 - as above
        return None, f"{type(exc).__name__}: {exc}"
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers), ""


def _calls(
    step: Step, counts: Mapping[str, Count], works: Mapping[str, tuple[int | None, str]], rows: Table | None
) -> Calls:
    count = counts[step.after[0]] if step.kind == "map" else counts[step.name]  # a row for each call
    published, why_not = works[step.name]
    task, row = (None, None) if rows is None else _bytes_of_tasks(rows)
    return Calls(count, published, why_not, task, row)


def _bytes_of_tasks(table: Table) -> tuple[int | None, float | None]:
    """Return the bytes of one row on its way to a worker, and of each further one that travels with it."""
    one = _bytes_of_rows(table, 1)
    if not one:
        return None, None
    count = int(max(2, min(table.count, MEASURED_ROWS, MEASURED_BYTES // one)))
    several = _bytes_of_rows(table, count) if table.count > 1 else None
    return one, None if several is None else (several - one) / (count - 1)


def _bytes_of_rows(table: Table, count: int) -> int | None:
    if table.count < count:
        return None
    rows = table.take(_spread(table.count, count)).rows(0, count, 1)
    try:
        # as the pool does: what is not plain may be the user's own, and goes by value
        return len((dumps if all(map(is_plain, rows.columns)) else dumps_by_value)(tuple(rows)))
    except Exception:  # noqa: BLE001 - as above; it is told elsewhere
        return None


# --- the sample -----------------------------------------------------------------------------------


@attrs.frozen
class _Holder:
    """What has a table, as the results of a survey have: rows that are taken as they are."""

    table: Table


@attrs.frozen(eq=False)
class _Trial:
    """A sample, what came of it, and what it has shown of each stage."""

    sample: Sample
    results: RunResults
    seen: dict[str, Seen]


def _tried(run: Run, tables: Mapping[str, Table], count: int, start: Start) -> _Trial | None:
    """Run a sample; None if there is nothing to run."""
    source, table = next(iter(tables.items()))
    if not table.count:
        return None
    rows = _spread(table.count, int(count))
    sources = {name: _Holder(each.take(rows) if name == source else each) for name, each in tables.items()}
    trial = start(_without_side_effects(run.pipeline), sources)
    began = time.monotonic()
    why = ""
    with MemoryWatch() as watch:
        try:
            results = trial.run()
        except (SurveyError, BackendError, WorkerError, PsetError, StageError) as exc:
            results = exc.results if isinstance(exc.results, RunResults) else trial.results()
            why = first_line(str(exc), 300)
    sample = Sample(source, len(rows), table.count, time.monotonic() - began, watch.most, why)
    return _Trial(sample, results, _all_seen(trial, results))


def _without_side_effects(pipeline: Pipeline) -> Pipeline:
    """Return the same pipeline; its map stages keep their rows, call no function of the user's, and do not stop."""
    return Pipeline(
        pipeline.name,
        sources=pipeline.sources,
        steps=[
            attrs.evolve(step, stage=_bare(step.stage)) for step in pipeline.steps.values() if step.kind != "source"
        ],
    )


def _bare(stage: Any) -> Any:
    if type(stage) is not Map or not any(name in stage.given for name in LEFT_OUT):
        return stage
    return Map(stage.worker, **{name: value for name, value in stage.given.items() if name not in LEFT_OUT})


def _all_seen(trial: Run, results: RunResults) -> dict[str, Seen]:
    """Return what is seen of each stage; nothing of one that a whole-table stage has kept from running."""
    nodes = set(map(id, trial.nodes.values()))
    asked = [each for each in trial.surveys if id(each) not in nodes]
    seen: dict[str, Seen] = {}
    for name, step in trial.pipeline.steps.items():
        has_run = getattr(trial.nodes[name], "psets", True) is not None
        above = [trial.pipeline.steps[each] for each in step.after]
        if step.kind != "source" and has_run and all(each.kind == "source" or each.name in seen for each in above):
            seen[name] = _seen(step, results, [each for each in asked if _asked_by(each, step)])
    return seen


def _asked_by(survey: Survey, step: Step) -> bool:
    """Tell whether a survey is one that a whole-table stage has asked for: by its name, which no other stage has."""
    options = getattr(step.stage, "options", None)
    given = options.get("name") if isinstance(options, Mapping) else None
    return step.kind == "table" and (survey.name == given or survey.name.rpartition(" ")[0] == step.name)


def _seen(step: Step, results: RunResults, asked: Sequence[Survey]) -> Seen:
    rows_in = tuple(_count_of(results, above) for above in step.after)
    rows_out, growth = _count_of(results, step.name), _growth(step, results)
    found = results[step.name]
    if isinstance(found, MapResults):
        progress = found.progress
        rows_in, rows_out = (progress.finished + progress.failures,), progress.finished
        return Seen(rows_in, rows_out, growth, progress.failures, _first_failure(found), _timing_of(found))
    failures = sum(each.progress.failures for each in asked)
    told = [each.results() for each in asked]
    failure = next((_first_failure(each) for each in told if each.progress.failures), "")
    return Seen(rows_in, rows_out, growth, failures, failure, _timing_of(told[0]) if len(told) == 1 else None)


def _count_of(results: RunResults, name: str) -> int:
    table = results.table(name)
    return 0 if table is None else table.count


def _first_failure(found: MapResults) -> str:
    missing = found.missing[~found.missing["_kind"].isin(["upstream", "cancelled"])]
    if not len(missing):
        return ""
    first = missing.iloc[0]
    return f"{first['_kind']}: {first_line(str(first['_exception']))}"


def _timing_of(found: MapResults) -> Timing | None:
    read = found.stats.read_stats(found.name)
    if read is None:
        return None
    count, mean, histogram = read
    return Timing(count, mean, float(histogram.get_stddev()) / 1e6 if count > 1 else 0.0)


def _growth(step: Step, results: RunResults) -> float | None:
    """Return the power with which the rows of a stage grow with those that it gets."""
    stage = step.stage
    if step.kind != "table" or isinstance(stage, Join | Concat):
        return 1.0
    by = stage.by if isinstance(stage, Reduce) else stage.within if isinstance(stage, Top | Best) else None
    rows = results.table(step.after[0])
    if by is None or rows is None or rows.count < 2 or any(name not in rows.keys for name in by):
        return None
    groups = _codes_of_rows(rows.only(by))[0]
    half = len(groups) // 2
    first, whole = len(np.unique(groups[:half])), len(np.unique(groups))
    return max(0.0, min(1.0, math.log(whole / first) / math.log(len(groups) / half)))


class MemoryWatch:
    """Looks at the memory of this process and those below it while a block runs."""

    def __init__(self) -> None:
        self.most = Memory(0, 0, 0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="paramsurvey memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil  # here, because only a sample needs it

        this = psutil.Process()
        while True:
            is_last = self._over.is_set()  # one look comes after the end of the block
            driver = this.memory_info().rss
            below = [_resident(each) for each in this.children(recursive=True)]
            self._note(driver, below)
            if is_last:
                return
            self._over.wait(LOOK_SECONDS)

    def _note(self, driver: int, below: list[int]) -> None:
        most = self.most
        self.most = Memory(
            max(most.driver, driver),
            max(most.largest, max(below, default=0)),
            max(most.total, driver + sum(below)),
            max(most.processes, len(below)),
        )


def _resident(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended meanwhile
        return 0


# --- how long -------------------------------------------------------------------------------------


def _eta(plan: Plan) -> Eta | None:
    """Estimate how long it takes; None if nothing was measured."""
    timed = {each.name: (each.calls.count, each.seen.timing) for each in plan.stages if each.calls and each.seen}
    known = {
        name: (count.expected, count.spread, timing)
        for name, (count, timing) in timed.items()
        if timing is not None and count.expected is not None
    }
    if plan.sample is None or not known:
        return None
    work = sum(calls * timing.mean for calls, _, timing in known.values())
    error = math.hypot(
        *(x for calls, spread, timing in known.values() for x in (calls * timing.error, spread * timing.mean))
    )
    turns = (math.ceil(calls / plan.slots) * timing.mean for calls, _, timing in known.values())
    seconds = max(work / plan.slots, *turns, _longest_way(plan, known))
    without = tuple(each.name for each in plan.stages if _asks(each) and each.name not in known)
    return Eta(seconds, seconds * error / work if work else 0.0, without)


def _asks(stage: StagePlan) -> bool:
    """Tell whether a stage has workers called: also one that has asked for it in the sample."""
    return (stage.calls is not None and stage.calls.count.most != 0) or (
        stage.seen is not None and stage.seen.timing is not None
    )


def _longest_way(plan: Plan, known: Mapping[str, tuple[float, float, Timing]]) -> float:
    """Return how long a row needs through all stages, one after the other."""
    until: dict[str, float] = {}
    for stage in plan.stages:
        calls, _, timing = known.get(stage.name, (0.0, 0.0, None))
        own = timing.mean if timing is not None and calls > 0 else 0.0
        until[stage.name] = own + max((until[above] for above in stage.after), default=0.0)
    return max(until.values())


# --- what is worth knowing ------------------------------------------------------------------------


def _findings(plan: Plan, run: Run, wanted_sample: bool) -> Iterator[Finding]:
    yield from _findings_of_sample(plan, run, wanted_sample)
    for stage in plan.stages:
        if stage.psets is not None:
            yield from _findings_of_source(stage, run)
        if stage.calls is not None:
            yield from _findings_of_calls(stage, stage.calls, run.backend)
    yield from _findings_of_failures(plan, run)


def _findings_of_source(stage: StagePlan, run: Run) -> Iterator[Finding]:
    name, total, psets = stage.name, stage.rows.least, stage.psets
    assert psets is not None
    if not total:
        yield Finding(f"source {name!r} has no rows", name)
    limit = run.options_of({}).limit
    if limit is not None and total == limit:
        yield Finding(f"source {name!r}: limit={limit}: any psets beyond that are left out", name)
    if psets.duplicates:
        some = f"{psets.duplicates:,} of {total:,} psets {_verb(psets.duplicates, 'equals an', 'equal')} earlier"
        yield Finding(
            f"source {name!r}: {some} {_verb(psets.duplicates, 'one', 'ones')}, the first: {psets.example}; equal "
            "psets are computed again, and have the same seed",
            name,
            is_warning=True,
        )
    if psets.uncompared:
        yield Finding(
            f"source {name!r}: {psets.uncompared:,} of {total:,} psets cannot be compared with others, because "
            "something in them cannot be pickled",
            name,
        )
    if psets.why_not and run.backend.name != "serial":
        yield Finding(
            f"source {name!r}: {psets.why_not}; a worker of the backend {run.backend.name!r} cannot get such a pset, "
            "which would be missing as 'unpicklable'",
            name,
            is_warning=True,
        )


def _findings_of_calls(stage: StagePlan, calls: Calls, backend: Backend) -> Iterator[Finding]:
    name = stage.name
    if calls.why_not and backend.name != "serial":
        yield Finding(
            f"stage {name!r}: the worker or its user_kwargs cannot be pickled for the backend {backend.name!r}: "
            f"{calls.why_not}",
            name,
            is_warning=True,
        )
    elif calls.why_not:
        yield Finding(
            f"stage {name!r}: the worker or its user_kwargs cannot be pickled, which the backend 'serial' does not "
            f"need: {calls.why_not}",
            name,
        )
    each = calls.row or calls.task or 0
    if each >= MANY_BYTES:
        yield Finding(
            f"stage {name!r}: every row carries {_bytes(each)} to a worker; what rows have in common crosses only once "
            "if it is in user_kwargs",
            name,
            is_warning=True,
        )


def _findings_of_sample(plan: Plan, run: Run, wanted: bool) -> Iterator[Finding]:
    sample, eta = plan.sample, plan.eta
    if sample is None:
        if wanted:
            yield Finding("no sample was run, because there is no row, or a worker cannot be pickled", is_warning=True)
        return
    if sample.why_ended:
        yield Finding(f"the sample ended early: {sample.why_ended}", is_warning=True)
    if eta is not None:
        takes = f"{_time(eta.seconds)} +- {_time(eta.spread)} on {plan.slots} slot{'s' * (plan.slots != 1)}"
        yield Finding(f"a run takes about {takes}, if the sample is like the rest")
        if eta.without:
            names = ", ".join(map(repr, eta.without))
            yield Finding(
                f"the time is without {names}, of which the number or the time of calls is not known", is_warning=True
            )
    rest = [repr(name) for name in run.pipeline.sources if name != sample.source]
    others = f"; all of {', '.join(rest)}" if rest else ""
    some = f"{sample.rows:,} of {sample.of:,} rows of {sample.source!r}{others}"
    yield Finding(f"sampled {some}, which took {_time(sample.seconds)}")
    memory = sample.memory
    yield Finding(
        f"the sample had {_bytes(memory.total)} of memory at most: {_bytes(memory.driver)} in this process, up to "
        f"{_bytes(memory.largest)} in each of {memory.processes} below it; shared pages count in each"
    )


def _findings_of_failures(plan: Plan, run: Run) -> Iterator[Finding]:
    losers: dict[str, list[str]] = {}
    for stage in plan.stages:
        above = list(dict.fromkeys(name for each in stage.after for name in losers[each]))
        losers[stage.name] = [] if stage.kind == "table" else above
        if stage.seen is not None and stage.seen.failures:
            losers[stage.name] = [*losers[stage.name], stage.name]
            total = sum(stage.seen.rows_in) if stage.kind == "map" else None
            some = f"{stage.seen.failures:,} of {total:,} rows" if total else f"{stage.seen.failures:,} calls"
            yield Finding(
                f"stage {stage.name!r}: {some} of the sample failed, the first {stage.seen.failure}",
                stage.name,
                is_warning=True,
            )
        if stage.kind == "table" and above and not (run.allow_missing or run.pipeline.steps[stage.name].allow_missing):
            yield Finding(
                f"stage {stage.name!r} needs its whole table, and would refuse (StageFailed) with rows missing in "
                f"{', '.join(map(repr, above))}; with allow_missing=True it runs on what there is",
                stage.name,
                is_warning=True,
            )


# --- pictures -------------------------------------------------------------------------------------


def drawing_of(pipeline: Pipeline, notes: Mapping[str, Iterable[str]] | None = None) -> Drawing:
    """Draw a pipeline: a box for every stage, from the sources on.

    Parameters
    ----------
    pipeline : Pipeline
        What to draw.
    notes : mapping, optional
        By the names of stages: what to write into their boxes, a line each.

    Examples
    --------
    >>> print(drawing_of(Pipeline("ranks").top(3, by="n"), {"psets": ["40 rows"]}))
    ranks
    ○ psets  source  40 rows
    ◆ top    table
    """
    steps, said = list(pipeline.steps.values()), {} if notes is None else notes
    return _drawing(pipeline.name, [_box(step, said.get(step.name, ())) for step in steps], steps)


def _box(
    stage: Step | StagePlan, notes: Iterable[str] = (), *, warning: bool = False, done: float | None = None
) -> Box:
    lines: Any = tuple(notes)  # Any: mypy cannot tell what the converter of the field takes
    return Box(stage.name, cast("Kind", stage.kind), stage.name, lines, warning, done)


def _drawing(title: str, boxes: Any, stages: Iterable[Step | StagePlan]) -> Drawing:  # Any: as above
    return Drawing(title, boxes, [(above, stage.name) for stage in stages for above in stage.after])


def drawing_of_run(results: RunResults) -> Drawing:
    """Draw what came of a run: its pipeline with counts, failures and times.

    Parameters
    ----------
    results : RunResults
        Of a run that is over, or of one that is going on (`RunStream.results`).

    Examples
    --------
    >>> pipeline = Pipeline("halves").map(lambda pset, system, user: {"half": pset["n"] / 2}, name="half")
    >>> print(drawing_of_run(pipeline.run([{"n": 1}, {"n": "x"}], verbose=0)))
    halves
    ○ psets    source                  2 rows
    ◆ half   ! map     ████░░░░  50 %  1 of 2 rows  1 failed  ... each
    """
    steps = list(results.pipeline.steps.values())
    return _drawing(results.pipeline.name, [_box_with_results(step, results) for step in steps], steps)


def _box_with_results(step: Step, results: RunResults) -> Box:
    found = results[step.name] if step.kind == "map" else None
    if not isinstance(found, MapResults):
        table = results.table(step.name)
        return _box(step, () if table is None else (_rows(table.count),))
    progress = found.progress
    total, failures = progress.total, progress.failures
    notes = [_rows(total) if progress.finished == total else f"{progress.finished:,} of {_rows(total)}"]
    if failures:
        notes.append(f"{failures:,} failed")
    read = found.stats.read_stats(found.name)
    if read is not None:
        notes.append(f"{_time(read[1])} each")
    return _box(step, notes, warning=failures > 0, done=progress.finished / total if total else None)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
