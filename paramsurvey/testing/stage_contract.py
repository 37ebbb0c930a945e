"""`StageContract`: every claim of `paramsurvey.stages.base`, as a test to inherit."""

from __future__ import annotations

import pickle
import unittest
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from paramsurvey.backends.serial import InProcess
from paramsurvey.engine.columns import unpack
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.loop import thawed
from paramsurvey.engine.pickling import dumps_by_value
from paramsurvey.engine.records import Failure, Work
from paramsurvey.engine.worker import run_chunk, safe_repr
from paramsurvey.errors import StageError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.options import Options
from paramsurvey.progress import MapProgress
from paramsurvey.stages.base import (
    Answers,
    Ask,
    Bounds,
    Columns,
    Made,
    Parents,
    Rows,
    bounds_after,
    columns_after,
    conversation,
    inputs_of,
    kind_of,
)
from paramsurvey.stages.map import Map
from paramsurvey.testing.claims import claim, short_repr, skip_unless
from paramsurvey.testing.examples import (
    bytes_of_value,
    columns_in,
    copied,
    described,
    in_lists,
    listed,
    opened,
    repeated,
    snapshot,
    table_given,
    unlabelled,
    with_odd_values,
    without_rows,
)
from paramsurvey.testing.faults import (
    MOST_PIECES,
    Line,
    lines,
    must_be_the_same_lines,
    wrong_with_origins,
    wrong_with_rows,
    wrong_with_table,
)

if TYPE_CHECKING:
    from paramsurvey.results import MapResults
    from paramsurvey.tables import Table


_SLICES: Final = (1, 2, 3, 7)


class StageContract:
    """Everything that a run relies on in a stage; inherit it, say how to make one and what it may get, and run pytest.

    It is for stages of all three kinds; claims about other kinds are skipped. So is a claim whose ground is missing,
    because another one does not hold: one fault fails one test.

    A row-wise stage is called with each example, with its rows repeated until there are many, and with slices of these.
    A whole-table stage is talked to. Both get tables without rows, too. Workers are called in this process.

    Attributes
    ----------
    touches : tuple
        Columns to which the stage gives other values under the same name.
    bystander : hashable or None
        The name of a column of odd values that is added to the rows that a row-wise stage gets, to see whether it
        passes them on unchanged; None for a stage that cannot have any columns but those of the examples.
    most_asks : int
        How many times a whole-table stage may ask before it is said to ask for ever.

    Examples
    --------
    >>> from paramsurvey.tables import Table
    >>> class Squared:
    ...     name = "squared"
    ...     keeps_labels = True
    ...
    ...     def columns(self, given):
    ...         given.need(["n"], self.name)
    ...         return given.with_more(["square"])
    ...
    ...     def rows(self, table):
    ...         squares = [n**2 for n in table.column("n")] if table.count else []
    ...         yield Rows(table.beside(Table(("square",), [squares], table.count)), np.arange(table.count))
    >>> class TestSquared(StageContract):
    ...     def make_stage(self):
    ...         return Squared()
    ...
    ...     def examples(self):
    ...         return [[{"n": 1}, {"n": 0.5, "site": None}]]

    pytest finds the tests of such a class; without it:

    >>> TestSquared().run()

    What comes of a row may not depend on the slice in which it came:

    >>> class Numbered:
    ...     name = "numbered"
    ...
    ...     def rows(self, table):
    ...         numbers = Table(("number",), [list(range(table.count))], table.count)
    ...         yield Rows(table.beside(numbers), np.arange(table.count))
    >>> class TestNumbered(TestSquared):
    ...     def make_stage(self):
    ...         return Numbered()
    >>> TestNumbered().run()
    Traceback (most recent call last):
    ...
    AssertionError: TestNumbered: 1 of 15 claims does not hold
    test_slicing_changes_nothing: in slices of 1 rows, row 1 makes {'n': 0.5, 'site': None, 'number': 0},
    and among all {'n': 0.5, 'site': None, 'number': 1}
    """

    touches: tuple[Hashable, ...] = ()
    bystander: Hashable | None = "bystander"
    most_asks: int = 1000

    # What is to be tested, and with what

    def make_stage(self) -> Any:
        """Return a new stage. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} must override make_stage()")

    def examples(self) -> Iterable[Any]:
        """Return examples of what the stage may get, made anew at every call. To be overridden.

        Each is a table: a list of dicts, a DataFrame, a Table or MapResults. For a stage that takes several, it is a
        tuple of tables.
        """
        raise NotImplementedError(f"{type(self).__name__} must override examples()")

    def answer(self, ask: Ask) -> MapResults:
        """Return what comes of what a whole-table stage asks; by default its worker is called in this process.

        A stage that asks ``until="first"`` is told of these rows one by one, the first first or the last first.

        Parameters
        ----------
        ask : Ask
            What it has asked for.
        """
        return _survey_here(_stage_of(ask), table_given(ask.psets))

    def run(self) -> None:
        """Run all tests, where there is no pytest.

        Raises
        ------
        AssertionError
            With every claim that does not hold.
        """
        names = [name for name in dir(self) if name.startswith("test_")]
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                getattr(self, name)()
            except unittest.SkipTest:
                pass
            except Exception as exc:  # noqa: BLE001 - a stage's own code may raise anything
                failed[name] = exc
        if failed:
            told = [
                f"{name}: {exc if isinstance(exc, AssertionError) else safe_repr(exc)}" for name, exc in failed.items()
            ]
            verb = "does" if len(failed) == 1 else "do"
            head = f"{type(self).__name__}: {len(failed)} of {len(names)} claims {verb} not hold"
            raise AssertionError("\n".join([head, *told])) from next(iter(failed.values()))

    # What it says of itself

    def test_it_is_a_stage_of_one_kind(self) -> None:
        """It has a name, and one of the methods ``work``, ``rows`` and ``table``."""
        stage = self.make_stage()
        try:
            kind_of(stage)
        except StageError as exc:
            raise AssertionError(str(exc)) from exc
        claim(bool(stage.name), f"its name is {stage.name!r}: there is nothing in it")
        methods = [method for method in ("work", "rows", "table") if callable(getattr(stage, method, None))]
        claim(len(methods) == 1, f"of the methods work(), rows() and table() it has {methods or 'none'}, not one")

    def test_it_takes_as_many_tables_as_it_says(self) -> None:
        """`inputs` are the least and the most tables; with None there is no most. The examples are within them."""
        stage = self._stage()
        inputs: Any = inputs_of(stage)
        claim(
            isinstance(inputs, tuple)
            and len(inputs) == 2
            and type(inputs[0]) is int
            and (inputs[1] is None or type(inputs[1]) is int),
            f"inputs is {inputs!r}, not (least, most)",
        )
        least, most = inputs
        claim(least >= 0 and (most is None or most >= max(least, 1)), f"inputs is {inputs!r}: there is no such number")
        claim(
            kind_of(stage) == "table" or inputs == (1, 1),
            f"inputs is {inputs!r}, but it is no whole-table stage: it gets the rows of one",
        )
        for tables in self._given():
            fits = least <= len(tables) and (most is None or len(tables) <= most)
            claim(fits, f"inputs is {inputs!r}, and an example has {len(tables)} tables")

    def test_it_tells_the_truth_about_columns(self) -> None:
        """The columns that `columns` names are there; and no others, unless it says that there may be.

        Also if all that is known of the inputs is that nothing is known: a pipeline is built before there are psets.
        """
        for tables in self._given():
            stage = self._stage()
            made = self._made(stage, tables)
            for known in (columns_in(tables), tuple(map(opened, columns_in(tables))), (Columns(),) * len(tables)):
                try:
                    told: Any = columns_after(stage, *known)
                except StageError as exc:
                    raise AssertionError(
                        f"columns({listed(known)}) refuses what it has made a table of: {exc}"
                    ) from exc
                claim(
                    isinstance(told, Columns), f"columns({listed(known)}) has returned {short_repr(told)}, no Columns"
                )
                lacking = [name for name in told.names if name not in made.keys] if made.count else []
                claim(not lacking, f"columns({listed(known)}) names {lacking!r}, and there are only {made.keys!r}")
                others = [key for key in made.keys if key not in told.names]
                claim(
                    told.open or not others,
                    f"columns({listed(known)}) says that there are no others than {told.names!r}, but there are "
                    f"{others!r}: with open=True there may be",
                )

    # Row-wise stages

    def test_rows_come_with_their_parents(self) -> None:
        """`rows` yields `Rows`: tables, and for each row the position of its parent in the slice, ascending."""
        for table in self._slices_to_be():
            wrong = wrong_with_rows(_yielded(self._stage(), table), table)
            claim(not wrong, wrong)

    def test_slicing_changes_nothing(self) -> None:
        """What comes of a row is the same, in whichever slice it comes, and whether columns are lists or arrays."""
        for table in self._slices_to_be():
            stage = self._stage()
            whole, again = (list(lines(self._sound_rows(stage, copied(table)))) for _ in range(2))
            skip_unless(typed_bytes(whole) == typed_bytes(again), "it makes other rows the second time")
            for size in _SLICES:
                own, pieces = copied(table), list[Line]()
                for start in range(0, table.count, size):
                    part = in_lists(own.slice(start, min(start + size, table.count)))
                    made = self._sound_rows(stage, part)
                    pieces += [(start + parent, pset) for parent, pset in lines(made)]
                must_be_the_same_lines(pieces, whole, size)

    def test_it_makes_as_many_rows_of_each_as_it_says(self) -> None:
        """With `keeps_labels` at most one; with a number as `fan_out`, so many."""
        stage = self._stage("rows")
        keeps_labels, fan_out = getattr(stage, "keeps_labels", False), getattr(stage, "fan_out", None)
        claim(isinstance(keeps_labels, bool), f"keeps_labels is {keeps_labels!r}, not True or False")
        for table in self._slices_to_be():
            parents = [rows.parents for rows in self._sound_rows(stage, table)]
            counts = np.bincount(np.concatenate([np.empty(0, np.int64), *parents]), minlength=table.count)
            most = int(counts.max(initial=0))
            claim(not keeps_labels or most <= 1, f"keeps_labels is True, but it has made {most} rows of one")
            claim(
                not isinstance(fan_out, int) or set(counts.tolist()) <= {fan_out},
                f"fan_out is {fan_out!r}, but it has made {most} rows of one",
            )

    # Whole-table stages

    def test_it_yields_nothing_but_asks(self) -> None:
        """Each `Ask` has a worker, psets and options as `paramsurvey.map` takes them; and they end."""
        for tables in self._given():
            wrong = self._talk(self._stage("table"), tables).wrong_ask
            claim(not wrong, wrong)

    def test_it_returns_a_table(self) -> None:
        """It returns whatever may be psets, or `Made`, which says for each of its tables where rows come from."""
        for tables in self._given():
            talk = self._talk(self._stage("table"), tables)
            skip_unless(not talk.wrong_ask, talk.wrong_ask)
            claim(not talk.wrong_outcome, talk.wrong_outcome)

    def test_it_makes_no_more_rows_than_its_bounds_say(self) -> None:
        """What `bounds` says follows from how many rows its tables have; fewer there may be, where rows are missing."""
        stage = self._stage("table")
        skip_unless(callable(getattr(stage, "bounds", None)), "it does not say how many rows it makes")
        for tables in self._given():
            made = self._sound_talk(stage, tuple(map(copied, tables))).made.table.count
            bounds = bounds_after(stage, *(Bounds(table.count, table.count) for table in tables))
            claim(made <= bounds.most, f"of {described(tables)} it has made {made} rows, and its bounds are {bounds}")

    def test_it_makes_the_same_in_whatever_order_it_is_told(self) -> None:
        """The table of a stage that asks ``until="first"`` does not depend on which of its psets comes first."""
        stage, told = self._stage("table"), False
        for tables in self._given():
            first = self._sound_talk(stage, tuple(map(copied, tables)))
            told |= any(ask.until == "first" for ask in first.asks)
            second = self._sound_talk(stage, tuple(map(copied, tables)), last_first=True)
            one, other = ([typed_bytes(row) for row in talk.made.table.dicts()] for talk in (first, second))
            claim(one == other, "with the answers in the opposite order it has made another table")
        skip_unless(told, "it never asks until the first has come")

    # What both have in common

    def test_untouched_values_are_unchanged(self) -> None:
        """Where it is told which row a row comes from, what they both have a column for is the same, its type too."""
        stage = self._stage("rows", "table")
        if kind_of(stage) == "rows":
            for table in self._slices_to_be():
                for rows in self._sound_rows(stage, copied(table)):
                    self._must_be_untouched(rows.table, (table,), (rows.parents,))
            return
        for tables in self._given():
            made = self._sound_talk(stage, tuple(map(copied, tables))).made
            self._must_be_untouched(made.table, tables, made.parents)

    def test_an_empty_table_flows_through(self) -> None:
        """Tables without rows are no error, with their columns and, since nobody may know these, without any."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            self._made(stage, tables)  # or it is not for this test to fail
            for emptied in without_rows(tables):
                try:
                    wrong = self._wrong_with(stage, emptied)
                except Exception as exc:
                    raise AssertionError(f"{described(emptied)} makes it raise {safe_repr(exc)}") from exc
                claim(not wrong, f"of {described(emptied)}: {wrong}")

    def test_its_tables_are_not_changed(self) -> None:
        """Whoever else reads the same rows finds them as they were."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            before = list(map(snapshot, tables))
            self._made(stage, tables)
            for place, (table, was) in enumerate(zip(tables, before, strict=True)):
                claim(snapshot(table) == was, f"it has changed its table {place}")

    def test_the_same_tables_give_the_same_again(self) -> None:
        """It has no memory, and throws no dice: the second time, the same questions lead to the same table."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            first, second = (self._seen(stage, tables) for _ in range(2))
            for one, other in zip(first, second, strict=False):
                claim(
                    bytes_of_value(one) == bytes_of_value(other),
                    f"the second time {short_repr(one)} was {short_repr(other)}",
                )
            claim(len(first) == len(second), f"there were {len(first)} rows and questions, and then {len(second)}")

    # Map stages, and what whole-table stages ask for

    def test_what_it_calls_can_be_sent(self) -> None:
        """The `Work` of a map stage can be pickled, and so can that of every survey that is asked for."""
        sent = 0
        for name, work in self._works():
            sent += 1
            claim(isinstance(work, Work), f"{name} is {short_repr(work)}, no Work")
            try:
                pickle.loads(dumps_by_value(work))
            except Exception as exc:
                raise AssertionError(f"{name} cannot be sent to a worker process: {safe_repr(exc)}") from exc
        skip_unless(sent > 0, "it calls no worker")

    # How to call it

    def _stage(self, *kinds: str) -> Any:
        """Make a stage; skip the test if it is of another kind."""
        stage = self.make_stage()
        try:
            kind = kind_of(stage)
        except StageError as exc:
            raise unittest.SkipTest(f"it is no stage: {exc}") from exc
        skip_unless(not kinds or kind in kinds, f"it is a stage of the kind {kind!r}")
        return stage

    def _given(self) -> list[tuple[Table, ...]]:
        """Return the examples, each as a tuple of tables."""
        examples = [tuple(map(table_given, each if isinstance(each, tuple) else (each,))) for each in self.examples()]
        claim(
            any(table.count for tables in examples for table in tables),
            f"examples() of {type(self).__name__} has no table with rows",
        )
        return examples

    def _slices_to_be(self) -> Iterator[Table]:
        """Yield what a row-wise stage is tried with: few rows, many, and some with one more column."""
        self._stage("rows")
        for tables in self._given():
            table = tables[0]
            yield copied(unlabelled(table))
            many = repeated(table)
            yield copied(many)
            if self.bystander is not None and self.bystander not in table.keys:
                yield with_odd_values(many, self.bystander)

    def _sound_rows(self, stage: Any, table: Table) -> list[Rows]:
        """Return what a row-wise stage yields; skip the test if another one fails by it."""
        made = _yielded(stage, table)
        wrong = wrong_with_rows(made, table)
        skip_unless(not wrong, wrong)
        return made

    def _talk(self, stage: Any, tables: tuple[Table, ...], *, last_first: bool = False) -> _Talk:
        """Have a conversation with a whole-table stage."""
        asks: list[Ask] = []
        under_way: list[_UnderWay] = []
        told: MapResults | Answers | None = None
        talk = conversation(stage, tables)
        try:
            while len(asks) < self.most_asks:
                ask, wrong = _asked(talk.send(told))
                if wrong:
                    return _Talk(asks, wrong_ask=wrong)
                asks.append(ask)
                told = self.answer(ask) if ask.until == "all" else self._first_answers(ask, under_way, last_first)
        except StopIteration as stop:
            return _ended(asks, stop.value, tables)
        finally:
            talk.close()
        return _Talk(asks, wrong_ask=f"it has asked {self.most_asks} times, and would go on")

    def _first_answers(self, ask: Ask, under_way: list[_UnderWay], last_first: bool) -> Answers:
        """Return what is told to a stage that waits for the first of the psets that it has asked this worker for."""
        its = next((each for each in under_way if each.ask.is_of_one_survey_with(ask)), None)
        if its is None:
            its = _UnderWay(ask)
            under_way.append(its)
        its.add(table_given(ask.psets).count, self.answer(ask))
        return its.told(last_first)

    def _sound_talk(self, stage: Any, tables: tuple[Table, ...], *, last_first: bool = False) -> _Talk:
        """Have a conversation; skip the test if another one fails by it."""
        talk = self._talk(stage, tables, last_first=last_first)
        wrong = talk.wrong_ask or talk.wrong_outcome
        skip_unless(not wrong, wrong)
        return talk

    def _made(self, stage: Any, tables: tuple[Table, ...]) -> Table:
        """Return the table that a stage of any kind makes of an example."""
        kind = kind_of(stage)
        if kind == "table":
            table: Table = self._sound_talk(stage, tables).made.table
            return table
        if kind == "map":
            return _survey_here(stage, tables[0]).table
        from paramsurvey.tables import Table, concatenated

        pieces = [rows.table for rows in self._sound_rows(stage, unlabelled(tables[0]))]
        return concatenated(pieces) if pieces else Table((), [], 0)

    def _wrong_with(self, stage: Any, tables: tuple[Table, ...]) -> str:
        """Say what is wrong with what a row-wise or a whole-table stage makes of tables."""
        if kind_of(stage) == "rows":
            return wrong_with_rows(_yielded(stage, tables[0]), tables[0])
        talk = self._talk(stage, tables)
        return talk.wrong_ask or talk.wrong_outcome

    def _seen(self, stage: Any, tables: tuple[Table, ...]) -> list[Any]:
        """Return all that can be seen of a stage at work: what it asks, and the rows that it makes."""
        if kind_of(stage) == "rows":
            return list(lines(self._sound_rows(stage, copied(repeated(tables[0])))))
        talk = self._sound_talk(stage, tuple(map(copied, tables)))
        asked = [
            {"psets": list(table_given(ask.psets).dicts()), "options": dict(ask.options), "until": ask.until}
            for ask in talk.asks
        ]
        return [*asked, *talk.made.table.dicts(), *(parents.tolist() for parents in talk.made.parents)]

    def _works(self) -> Iterator[tuple[str, Any]]:
        """Yield the works of a stage, with the names of what they come from."""
        stage = self._stage("map", "table")
        if kind_of(stage) == "map":
            yield "what work() has returned", _work_of(stage)
            return
        for tables in self._given():
            for number, ask in enumerate(self._sound_talk(stage, tables).asks, 1):
                yield f"what it has asked for, number {number},", _work_of(_stage_of(ask))

    def _must_be_untouched(self, made: Table, tables: Sequence[Table], parents: Sequence[Parents]) -> None:
        """Compare rows with their parents; a column of several tables has the value of one of these."""
        for key in made.keys:
            sources = [
                (unpack(table.column(key)), numbers)
                for table, numbers in zip(tables, parents, strict=bool(parents))
                if key in table.keys and key not in self.touches
            ]
            for row, value in enumerate(unpack(made.column(key)) if sources else ()):
                were = [values[numbers[row]] for values, numbers in sources if numbers[row] >= 0]
                claim(
                    not were or typed_bytes(value) in set(map(typed_bytes, were)),
                    f"in the column {key!r}, row {row} has {short_repr(value)}, where its parent has "
                    f"{' and '.join(map(short_repr, were))}",
                )


@attrs.frozen(eq=False)
class _Talk:
    """What a whole-table stage has asked for and what it made in the end; or what is wrong with either."""

    asks: list[Ask]
    made: Any = None
    wrong_ask: str = ""
    wrong_outcome: str = ""


@attrs.define(eq=False)
class _UnderWay:
    """What a whole-table stage has asked one worker for and was not told yet."""

    ask: Ask
    count: int = 0
    rows: list[tuple[int, Any]] = attrs.field(factory=list)  # with their answers, or why they have none

    def add(self, count: int, results: MapResults) -> None:
        """Add psets; results come in their order."""
        lost = {one.row: one.failure for one in results._lost}
        rows = iter(results.iterdicts())
        self.rows += [(self.count + row, lost[row] if row in lost else next(rows)) for row in range(count)]
        self.count += count

    def told(self, last_first: bool) -> Answers:
        """Return what comes next."""
        now = [self.rows.pop(-1 if last_first else 0)] if self.rows else []
        rows = [(number, row) for number, row in now if not isinstance(row, Failure)]
        lost = [(number, row) for number, row in now if isinstance(row, Failure)]
        return Answers(rows, lost, len(self.rows), slots=2, seconds={number: 0.001 for number, _ in rows})


# What a row-wise stage has yielded


def _yielded(stage: Any, table: Table) -> list[Any]:
    made = stage.rows(table)
    return list(islice(made, MOST_PIECES)) if isinstance(made, Iterable) else [made]


# What a whole-table stage has asked for and returned


def _stage_of(ask: Ask) -> Map:
    return Map(ask.worker, **{"name": "asked", **ask.options})


def _work_of(stage: Any) -> Any:
    return stage.work(stage.name, Options(**getattr(stage, "given", {})), None)


def _survey_here(stage: Any, table: Table) -> MapResults:
    """Call the worker of a map stage for every row, in this process."""
    from paramsurvey.results import MapResults
    from paramsurvey.stats import PerfStats
    from paramsurvey.tables import joined

    work = _work_of(stage)
    skip_unless(isinstance(work, Work), f"work() has returned {short_repr(work)}, no Work")
    part = thawed(run_chunk(InProcess(work), tuple(table.rows(0, table.count, 1))))
    finished, _ = joined(table, [(0, part)])
    missing = np.array([row for row, _ in part.failures], dtype=np.int64)
    lost = [Lost(row, failure, 1) for row, failure in part.failures]
    progress = MapProgress(table.count, finished=finished.count, failures=len(lost), exceptions=len(lost))
    return MapResults(finished, table.take(missing), lost, progress, PerfStats(), stage.name)


def _asked(ask: Any) -> tuple[Any, str]:
    """Return an ask, with psets that can be read more than once; or what is wrong with it."""
    if not isinstance(ask, Ask):
        return ask, f"it has yielded {short_repr(ask)}: a stage yields Ask(worker, psets)"
    try:
        _stage_of(ask)
        table = table_given(ask.psets)
    except Exception as exc:  # noqa: BLE001 - whatever map() would say
        return ask, f"it has asked for what map() refuses: {exc}"
    return (attrs.evolve(ask, psets=table) if isinstance(ask.psets, Iterator) else ask), ""


def _ended(asks: list[Ask], outcome: Any, tables: tuple[Table, ...]) -> _Talk:
    """Take what a whole-table stage has returned."""
    try:
        made = outcome if isinstance(outcome, Made) else Made(table_given(outcome), ())
    except Exception as exc:  # noqa: BLE001 - the user's own object may raise anything
        return _Talk(asks, wrong_outcome=f"it has returned {short_repr(outcome)}, which is no table: {exc}")
    wrong = wrong_with_table(made.table)
    if not wrong and made.parents != ():
        wrong = wrong_with_origins(made.parents, made.table.count, tables)
    return _Talk(asks, made, wrong_outcome=wrong)
