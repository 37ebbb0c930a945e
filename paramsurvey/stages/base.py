"""What a stage is: anything with a name and one of three methods.

==============  =====================================================  ==========================================
kind            its method                                             examples
==============  =====================================================  ==========================================
map             ``work(...) -> Work``: what is called for every row     `Map`
row-wise        ``rows(table) -> iterator of Rows``: from any slice    `Product`, `Derive`, `Where`, `Explode`
                of the rows to other rows, in the driver
whole-table     ``table(*tables)``: from whole tables to one; it may   `Join`, `Reduce`, `Top`, strategies
                *ask* for surveys (`Ask`) and is *told* what came
==============  =====================================================  ==========================================

There is nothing to register and nothing to inherit. No stage executes anything itself: a map stage says what should be
called, a whole-table stage yields what it would like to know. So each of them is tested by calling its method, and by
`next` and `send`.

More things a stage may say, if it knows them:

- ``inputs``: how many stages it may come after, as (least, most), with None for any number; by default (1, 1).
- ``columns(*inputs) -> Columns``: which it gives, from those that it gets; it raises `StageError` if one that it
  needs is not among them, or one that it makes is. By default nothing is known of them.
- ``bounds(*inputs) -> Bounds``: how many rows a whole-table stage gives, at least and at most, from how many it gets.
- ``fan_out``: how many rows a row-wise stage makes of each, if it is the same number for all.
- ``keeps_labels``: whether a row-wise stage makes at most one row of each, which then keeps its label in the index of
  the results; by default its rows are numbered anew.
- ``wants``: the columns that a row-wise stage expects in some rows, though a row may lack them. If none of its rows has
  had one, the run says so when all have come: it may be misspelt.
- ``looks_around``: whether what comes of a row might depend on others after all, because a function of the user's says
  so. A run then tries that out on its first rows (`stages.trial`).
- ``is_blind``: whether a row-wise stage looks at no value, so large ones may stay where they were computed. By default
  all are brought to it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeAlias

import attrs

from paramsurvey.errors import StageError

if TYPE_CHECKING:  # this module is imported while the first workers start, and pandas only after that
    import numpy as np

    from paramsurvey.engine.columns import Pset
    from paramsurvey.engine.records import Failure
    from paramsurvey.tables import Table

Parents: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
"""For every row of a table, the position of the row that it comes from in another one; -1 where it comes from none."""

Kind: TypeAlias = Literal["map", "rows", "table"]

Inputs: TypeAlias = tuple[int, int | None]
"""After how many stages one may come: not fewer, and not more; None for any number."""


@attrs.frozen(eq=False, repr=False)
class Rows:
    """Some rows, and where each comes from.

    Parameters
    ----------
    table : Table
        The rows.
    parents : array of int64
        For each, the position of its parent in the slice that was handed over; ascending.
    """

    table: Table
    parents: Parents


@attrs.frozen(eq=False, repr=False)
class Made:
    """What a whole-table stage may return to tell where each row comes from; else it returns the table alone.

    Parameters
    ----------
    table : Table
        The rows.
    parents : tuple of arrays of int64
        For each of the tables that were handed over: the position in it of each row's parent, or -1. Nothing is known
        if it is empty.
    shown : object, optional
        What the results of the run have for this stage, instead of the table as a DataFrame.
    """

    table: Table
    parents: tuple[Parents, ...] = ()
    shown: Any = None


@attrs.frozen(eq=False, repr=False)
class Ask:
    """What a whole-table stage yields: please call this worker for each of these psets.

    All that a stage asks one worker, with one set of options, is one survey, which stays open until the stage is over:
    worker and ``user_kwargs`` are sent to where they are needed at the first ask, and what is changed in them later is
    not seen there. (Give other ones instead.)

    Parameters
    ----------
    worker : callable
        As for `paramsurvey.map`.
    psets : list of dicts, DataFrame, Table or MapResults
        As for `paramsurvey.map`. With ``until="first"`` there may be none: the stage only waits.
    options : dict
        Options of `paramsurvey.map` for this survey.
    until : {"all", "first"}
        When to go on. ``"all"``: when all of these psets are through; the stage is sent their `MapResults`.
        ``"first"``: as soon as anything has come of the psets that it has asked this worker so; it is sent `Answers`.
    so_far : str
        How far the stage has come, for those who watch.
    """

    worker: Any
    psets: Any
    options: Mapping[str, Any] = attrs.field(factory=dict)
    until: Literal["all", "first"] = attrs.field(default="all")
    so_far: str = attrs.field(default="", kw_only=True)

    @until.validator
    def _check_until(self, _attribute: object, value: object) -> None:
        if value not in ("all", "first"):
            raise StageError(f"Ask(until={value!r}): until must be 'all' or 'first'")

    @property
    def waits_only(self) -> bool:
        """Whether it asks for nothing, and just waits for what comes first: the most frequent ask of all."""
        return self.until == "first" and type(self.psets) is list and not self.psets

    def is_of_one_survey_with(self, other: Ask) -> bool:
        """Tell whether another ask is for the same worker with the same options.

        Parameters
        ----------
        other : Ask
            One that the same stage has yielded.
        """
        if not _are_alike(self.worker, other.worker):
            return False
        return self.options is other.options or _are_alike(dict(self.options), dict(other.options))


def _are_alike(one: Any, other: Any) -> bool:
    """Tell whether two values are one, or plain values that are the same; no object of the user's is asked."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_alike(value, other[key]) for key, value in one.items())
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    return type(one) in _PLAIN and bool(one == other)


_PLAIN = frozenset({int, float, bool, str, bytes, MethodType})  # methods are equal if object and function are the same


@attrs.frozen(eq=False)
class Answers:
    """What a stage is sent that asks ``until="first"``: what has come since it was last told.

    Its psets are numbered 0, 1, 2 and so on in the order in which it has asked this worker for them so, over all asks.

    Parameters
    ----------
    rows : list of (int, dict)
        Number, and pset with its answer, in the order in which they came.
    lost : list of (int, Failure)
        Number, and why there will be no answer: its ``kind`` and ``text``.
    outstanding : int
        How many are still under way. If there are none, and nothing was asked, all of this is empty.
    slots : int
        How many psets can be computed at once; more under way than that wait.
    seconds : dict of int to float
        How long each took, by number; of psets that travelled together, the mean.
    attempts : dict of int to int
        How often each was tried, by number, where that is not once: 0 if the answer was in the journal.
    earlier : dict of int to tuple of Failure
        By number, how the attempts before the last one ended of those that are lost after several.
    details : dict of int to dict
        What each finished row says of itself, by number, if it was asked to (``details=``, ``capture=``); a failure
        has that in its ``facts``.
    """

    rows: list[tuple[int, Pset]]
    lost: list[tuple[int, Failure]]
    outstanding: int
    slots: int
    seconds: Mapping[int, float]
    attempts: Mapping[int, int] = attrs.field(factory=dict)
    earlier: Mapping[int, tuple[Failure, ...]] = attrs.field(factory=dict)
    details: Mapping[int, dict[str, Any]] = attrs.field(factory=dict)


@attrs.frozen
class Columns:
    """The columns that rows are known to have.

    Parameters
    ----------
    names : tuple
        Those that are known, in order.
    open : bool
        Whether there may be others.
    """

    names: tuple[Hashable, ...] = ()
    open: bool = True

    def lacks(self, name: Hashable) -> bool:
        """Whether it is certain that there is no such column.

        Parameters
        ----------
        name : column name
            The column.
        """
        return not self.open and name not in self.names

    def with_more(self, names: Iterable[Hashable], *, open: bool = False) -> Columns:  # noqa: A002 - the field's name
        """Return these columns, and others after them.

        Parameters
        ----------
        names : list of column names
            Those that are added, if they are not there already.
        open : bool
            Whether others may be added with them.
        """
        return Columns(tuple(dict.fromkeys((*self.names, *names))), self.open or open)

    def need(self, names: Iterable[Hashable], stage: str) -> None:
        """Refuse columns that cannot be there.

        Parameters
        ----------
        names : list of column names
            Those that are read.
        stage : str
            Who reads them, in the message.

        Raises
        ------
        StageError
            With the columns that are there.
        """
        for name in names:
            if self.lacks(name):
                raise StageError(f"stage {stage!r} {absent(name, self.names)}")

    def refuse(self, names: Iterable[Hashable], stage: str) -> None:
        """Refuse columns that are there already.

        Parameters
        ----------
        names : list of column names
            Those that are made.
        stage : str
            Who makes them, in the message.

        Raises
        ------
        StageError
            With the column, and what to do.
        """
        for name in names:
            if name in self.names:
                raise StageError(
                    f"stage {stage!r} makes the column {name!r}, which the rows have already: give it another name, "
                    "or drop or rename the other one before"
                )


def absent(name: Hashable, names: Iterable[Hashable]) -> str:
    """Say in a message that rows do not have a column which is read.

    Parameters
    ----------
    name : column name
        The column.
    names : list of column names
        Those that they have.
    """
    from paramsurvey.options import nearest  # only those who erred need it

    there = list(names)
    hint = nearest(str(name), [each for each in there if isinstance(each, str)])
    text = f"reads the column {name!r}, which the rows do not have there; they have: {listed(there)}"
    return f"{text}; {hint}" if hint else text


UNKNOWN = Columns()


@attrs.frozen
class Bounds:
    """How many rows there are, as long as none is lost.

    Parameters
    ----------
    least : int
        Not fewer.
    most : int or inf
        Not more.
    """

    least: int = 0
    most: float = math.inf

    def times(self, other: Bounds) -> Bounds:
        """Return how many pairs there are of so many with so many others.

        Parameters
        ----------
        other : Bounds
            How many others each is paired with.
        """
        most = self.most * other.most if self.most and other.most else 0  # also 0 times any number
        return Bounds(self.least * other.least, most)

    def up_to(self, count: int) -> Bounds:
        """Return how many are left if only so many are kept.

        Parameters
        ----------
        count : int
            How many are kept at most.
        """
        return Bounds(min(count, self.least), min(count, self.most))


@attrs.frozen
class Source:
    """Where a table comes in that a run begins with.

    Parameters
    ----------
    name : str
        What it is called.
    """

    name: str


@attrs.frozen
class Forgotten:
    """A stage in results that were pickled: what it was, without what it did, which may be what cannot be pickled.

    Parameters
    ----------
    name : str
        What it is called.
    kind : {"map", "rows", "table"}
        Its kind.
    """

    name: str
    kind: Kind

    def refuse(self) -> NoReturn:
        """Refuse to be run.

        Raises
        ------
        StageError
            With the remedy.
        """
        raise StageError(
            f"stage {self.name!r} does not know any more what it did, because it comes from results that were pickled: "
            "run the pipeline that the program makes"
        )


class RowStage(Protocol):
    """Makes rows of any slice of the rows, in the driver."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield rows, in the order of those they come from; in several pieces if they are many.

        What comes of a row may not depend on which others are in the slice.

        Parameters
        ----------
        table : Table
            Some rows that follow one another.
        """
        ...


class TableStage(Protocol):
    """Makes one table of whole tables; it may ask for surveys on its way."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def table(self, *tables: Table) -> Any:
        """Return a `Made`, or whatever may be psets: a Table, a DataFrame, a list of dicts.

        A generator may yield any number of `Ask` before it returns. If a run ends before its time, by Ctrl-C for
        instance, `GeneratorExit` is raised where it waits; what it then returns, if it catches that, is among the
        results that the run leaves.

        Parameters
        ----------
        *tables : Table
            The rows of each stage that it comes after.
        """
        ...


def kind_of(stage: object) -> Kind:
    """Tell what kind of stage this is.

    Parameters
    ----------
    stage : object
        What may be a stage.

    Raises
    ------
    StageError
        It has no name, or none of the three methods.
    """
    if not isinstance(getattr(stage, "name", None), str):
        raise StageError(f"{stage!r} is no stage: it has no name")
    if isinstance(stage, Forgotten):
        return stage.kind
    for kind, method in (("map", "work"), ("rows", "rows"), ("table", "table")):
        if callable(getattr(stage, method, None)) and not inspect.isclass(stage):
            return kind  # type: ignore[return-value]
    raise StageError(
        f"{stage!r} is no stage: it has none of the methods work(), rows() and table(); a plain function becomes one "
        "with .map(function) for every row, or .apply(function) for the whole table"
    )


def inputs_of(stage: object) -> Inputs:
    """Tell after how many stages a stage may come.

    Parameters
    ----------
    stage : object
        A stage of any kind.
    """
    least_most: Inputs = getattr(stage, "inputs", (1, 1))
    return least_most


def columns_after(stage: object, *inputs: Columns) -> Columns:
    """Tell which columns a stage gives.

    Parameters
    ----------
    stage : object
        A stage of any kind.
    *inputs : Columns
        What each stage above gives.

    Raises
    ------
    StageError
        A column that it needs cannot be there, or one that it makes is there already.
    """
    columns = getattr(stage, "columns", None)
    known: Columns = columns(*inputs) if callable(columns) else UNKNOWN
    return known


def fan_out_of(stage: object) -> Bounds:
    """Tell how many rows a row-wise stage makes of each.

    Parameters
    ----------
    stage : RowStage
        A row-wise stage.
    """
    fan_out = getattr(stage, "fan_out", None)
    if isinstance(fan_out, int):
        return Bounds(fan_out, fan_out)
    return Bounds(0, 1 if getattr(stage, "keeps_labels", False) else math.inf)


def bounds_after(stage: object, *inputs: Bounds) -> Bounds:
    """Tell how many rows a stage gives at least and at most, from how many it gets.

    Parameters
    ----------
    stage : object
        A stage of any kind.
    *inputs : Bounds
        How many rows each stage above gives.
    """
    bounds, kind = getattr(stage, "bounds", None), kind_of(stage)
    if callable(bounds):
        known: Bounds = bounds(*inputs)
        return known
    if kind == "map":
        return inputs[0]
    return inputs[0].times(fan_out_of(stage)) if kind == "rows" else Bounds()


def conversation(stage: TableStage, tables: Iterable[Table]) -> Generator[Ask, Any, Any]:
    """Return the conversation with a whole-table stage, also with one that never asks.

    Parameters
    ----------
    stage : TableStage
        Who is told.
    tables : list of Table
        The rows of each stage that it comes after.
    """
    outcome = stage.table(*tables)
    if not inspect.isgenerator(outcome):
        return outcome
    talk: Any = outcome
    told = None
    while True:  # not `yield from`, which would close the stage's generator, whatever that has to say in the end
        try:
            ask = talk.send(told)
        except StopIteration as stop:
            return stop.value
        try:
            told = yield ask
        except GeneratorExit:
            return said_in_the_end(talk)


def said_in_the_end(talk: Generator[Ask, Any, Any]) -> Any:
    """End a conversation before its time; return what the stage has by then.

    Parameters
    ----------
    talk : generator
        What the stage's ``table()`` has returned.

    Raises
    ------
    GeneratorExit
        Nothing: it does not care.
    """
    try:
        talk.throw(GeneratorExit())
    except StopIteration as stop:
        return stop.value
    raise GeneratorExit


def listed(names: Iterable[Hashable]) -> str:
    """Name some columns or stages in a message.

    Parameters
    ----------
    names : list of hashable
        At most twenty are named.
    """
    shown = [repr(name) for name in names]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20)) or "none"
