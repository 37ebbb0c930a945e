"""The shipped contract of stages: all of ours pass it, and each way to be wrong fails one test."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
import threading
from unittest import SkipTest

import attrs
import numpy as np
import pandas as pd
import pytest

import paramsurvey.stages.map
import paramsurvey.stages.reduce
import paramsurvey.stages.rows
import paramsurvey.stages.tables
from paramsurvey import workers
from paramsurvey.engine.columns import HOLE
from paramsurvey.errors import StageError
from paramsurvey.stages.base import UNKNOWN, Ask, Columns, Made, Rows
from paramsurvey.stages.map import Map
from paramsurvey.stages.reduce import Reduce
from paramsurvey.stages.rows import Derive, Drop, Explode, Keep, Product, Rename, Where
from paramsurvey.stages.tables import Apply, Best, Concat, Join, Top
from paramsurvey.tables import Table, table_of
from paramsurvey.testing import StageContract

BIG = 2**53 + 1


def square(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2}


def fails_at_two(pset, system_kwargs, user_kwargs):
    if pset["n"] == 2:
        raise ValueError("two")
    return {"square": pset["n"] ** 2}


def total_of_group(pset, system_kwargs, user_kwargs):
    return {"total": sum(row["n"] for row in pset["group"])}


def numbers():
    """Return rows with a number, and whatever may be beside it."""
    return [
        {"n": 1, "kind": "a"},
        {"n": BIG, "kind": None},
        {"n": 0.5, "kind": "a", "extra": [1]},
        {"n": -3, "kind": 2, "extra": None},
    ]


def frame():
    return pd.DataFrame(
        {"n": [1, 2, BIG], "kind": pd.Categorical(["a", "b", "a"]), "when": pd.to_datetime(["2020-01-01"] * 3)},
        index=[7, 8, 9],
    )


# All of ours


class OfNumbers(StageContract):
    def examples(self):
        return [numbers(), frame(), [{"n": 2, "kind": 3}]]


class TestMap(OfNumbers):
    def make_stage(self):
        return Map(square, retries=2)


class MapOfKeywordsContract(OfNumbers):
    def make_stage(self):
        return Map(workers.keywords(lambda n, m=3: n * m, output="product"), name="product")


class MapThatFailsContract(OfNumbers):
    def make_stage(self):
        return Map(fails_at_two)


class ProductContract(OfNumbers):
    def make_stage(self):
        return Product({"source": ["M87", None], "seed": [1, 2.5, True]})


class ProductWithNothingContract(OfNumbers):
    def make_stage(self):
        return Product({"source": []})


class TestDerive(OfNumbers):
    def make_stage(self):
        return Derive({"twice": "n * 2", "more": lambda twice, extra=0: twice + 1})


class DeriveOfEachRowContract(OfNumbers):
    def make_stage(self):
        return Derive({"text": lambda n, **rest: f"{n} {sorted(rest, key=str)}"}, per_row=True)


class WhereContract(OfNumbers):
    def make_stage(self):
        return Where("n > 0.7")


class WhereOfValuesContract(OfNumbers):
    def make_stage(self):
        return Where({"kind": ["a", None]})


class WhereNothingIsContract(OfNumbers):
    def make_stage(self):
        return Where(lambda n: n > 2**80)


class DropContract(OfNumbers):
    def make_stage(self):
        return Drop("kind")


class KeepContract(OfNumbers):
    def make_stage(self):
        return Keep("n")


class RenameContract(OfNumbers):
    touches = ("n", "kind")

    def make_stage(self):
        return Rename({"n": "kind", "kind": "n"})

    def examples(self):
        return [numbers(), frame()]


class OfLists(StageContract):
    def examples(self):
        return [
            [{"n": 1, "found": [1, 2.5, None]}, {"n": BIG, "found": []}, {"found": (BIG,)}],
            [{"n": 1, "found": np.arange(3)}, {"n": 2, "found": range(2)}],
        ]


class ExplodeContract(OfLists):
    touches = ("found",)

    def make_stage(self):
        return Explode("found")


class ExplodeIntoContract(OfLists):
    def make_stage(self):
        return Explode("found", into="peak")


class ExplodeOfDictsContract(OfLists):
    def make_stage(self):
        return Explode("found")

    def examples(self):
        return [[{"n": 1, "found": [{"x": 1, "y": 2}, {"x": BIG}]}, {"n": 2, "found": [{}]}, {"n": 3, "found": []}]]


class OfTwoTables(StageContract):
    def examples(self):
        return [
            (numbers(), [{"kind": "a", "cost": 1}, {"kind": 2.0, "cost": BIG}, {"kind": "c", "cost": None}]),
            (frame(), pd.DataFrame({"kind": ["b"], "cost": [0.5]})),
        ]


class JoinContract(OfTwoTables):
    how = "inner"

    def make_stage(self):
        return Join("kind", how=self.how, expect="m:1")


class LeftJoinContract(JoinContract):
    how = "left"


class RightJoinContract(JoinContract):
    how = "right"


class OuterJoinContract(JoinContract):
    how = "outer"


class JoinOfTablesThatShareMoreContract(StageContract):
    def make_stage(self):
        return Join("site", suffixes=("_l", "_r"))

    def examples(self):
        return [([{"site": 1, "n": 1}, {"site": 2, "n": 2}], [{"site": 1, "n": 0.5}, {"site": 1}])]


class ConcatContract(OfTwoTables):
    def make_stage(self):
        return Concat()

    def examples(self):
        return [(numbers(), frame()), (numbers(), [{"other": BIG}], frame())]


class ReduceContract(OfNumbers):
    def make_stage(self):
        return Reduce("kind", aggregate={"total": ("n", "sum"), "rows": ("n", "count")})


class ReduceOfAllContract(OfNumbers):
    def make_stage(self):
        return Reduce(aggregate={"most": ("n", "max")})


class ReduceByAFunctionContract(OfNumbers):
    def make_stage(self):
        return Reduce("kind", aggregate=lambda rows: {"rows": len(rows), "most": rows["n"].max()})


class TestReduceByAWorker(OfNumbers):
    def make_stage(self):
        return Reduce("kind", worker=total_of_group, options={"retries": 1})


class TopContract(OfNumbers):
    def make_stage(self):
        return Top(2, "n", within="kind")


class BestContract(OfNumbers):
    def make_stage(self):
        return Best("n", largest=False)


class ApplyContract(OfNumbers):
    def make_stage(self):
        return Apply(lambda frame: frame.assign(rank=range(len(frame))))


class ApplyOfSeveralContract(OfTwoTables):
    def make_stage(self):
        return Apply(lambda one, other: one.assign(others=len(other)))


# Strangers


class Halving:
    """A strategy: looks for the n with the largest answer, asks in rounds, and is told the answers."""

    name = "halving"

    def table(self, table):
        best = {}
        for start in sorted({pset["n"] for pset in table.dicts() if pset["n"] > 0.5}):
            low, high = start - 8.0, start + 8.0
            while high - low > 1:
                results = yield Ask(square, ({"n": n} for n in (low, high)), {"retries": 1})
                below, above = (row["square"] for row in results.iterdicts())
                middle = (low + high) / 2
                low, high = (low, middle) if below < above else (middle, high)
            best[start] = low
        return [{"n": n, "least_at": low} for n, low in best.items()]


class TestAStrangersStrategy(OfNumbers):
    def make_stage(self):
        return Halving()


class AStrangersStrategyThatIsAnsweredByItsAuthorContract(OfNumbers):
    def make_stage(self):
        return Halving()

    def answer(self, ask):
        answered = [{**pset, "square": pset["n"] ** 2} for pset in ask.psets.dicts()]
        return StageContract.answer(self, attrs.evolve(ask, worker=lambda pset, system, user: None, psets=answered))


class Eager:
    """A strategy that keeps two psets under way, and does not mind which of them is through first."""

    name = "eager"

    def table(self, table):
        pending = [{"n": pset["n"]} for pset in table.dicts()]
        found, told = {}, None
        while pending or (told is not None and told.outstanding):
            room = 2 - (told.outstanding if told else 0)
            asked, pending = pending[:room], pending[room:]
            told = yield Ask(square, asked, until="first")
            found |= dict(told.rows)
            assert not told.lost
            assert told.slots == 2
            assert told.seconds.keys() == dict(told.rows).keys()
        return [found[number] for number in sorted(found)]


class EagerContract(OfNumbers):
    def make_stage(self):
        return Eager()


class Doubled:
    """Makes two rows of each, in two pieces."""

    name, fan_out = "doubled", 2

    def rows(self, table):
        for part in (slice(0, table.count // 2), slice(table.count // 2, None)):
            parents = np.repeat(np.arange(table.count), 2)[part.start * 2 : part.stop and part.stop * 2]
            yield Rows(attrs.evolve(table.take(parents), index=None), parents)


class AStrangersRowsContract(OfNumbers):
    def make_stage(self):
        return Doubled()


def every(base):
    return [each for sub in base.__subclasses__() for each in (sub, *every(sub))]


KEPT = [each for each in every(StageContract) if each.__module__ == __name__ and not each.__name__.startswith("Of")]


@pytest.mark.parametrize("contract", [each for each in KEPT if not each.__name__.startswith("Test")])
def test_a_right_stage_keeps_the_contract(contract):
    contract().run()


def test_no_stage_of_ours_is_left_out():
    ours = {
        each
        for module in (
            paramsurvey.stages.map,
            paramsurvey.stages.reduce,
            paramsurvey.stages.rows,
            paramsurvey.stages.tables,
        )
        for each in vars(module).values()
        if isinstance(each, type)
        and each.__module__ == module.__name__
        and any(method in vars(each) for method in ("work", "rows", "table"))
        and not each.__name__.startswith("_")
    }
    assert ours - {type(contract().make_stage()) for contract in KEPT} == set()


# Wrong in one way each. Every one of them says in `fails` which claim it does not keep, and in `says` how it is told.


class Wrong:
    name = "wrong"
    examples = staticmethod(lambda: [numbers(), frame()])


def each(table):
    return np.arange(table.count)


def beside(table, **columns):
    return table.beside(Table(tuple(columns), [list(values) for values in columns.values()], table.count))


class WrongRows(Wrong):
    """Passes rows on."""

    def rows(self, table):
        yield Rows(table, each(table))


class Nameless(WrongRows):
    name = ""
    fails, says = "test_it_is_a_stage_of_one_kind", "its name is '': there is nothing in it"


class WithoutAName(WrongRows):
    name = None
    fails, says = "test_it_is_a_stage_of_one_kind", "is no stage: it has no name"


class WithoutAMethod(Wrong):
    fails, says = "test_it_is_a_stage_of_one_kind", "has none of the methods work(), rows() and table()"


class OfTwoKinds(WrongRows):
    fails, says = "test_it_is_a_stage_of_one_kind", "it has ['rows', 'table'], not one"

    def table(self, table):
        return table


class TakesAMostBelowTheLeast(WrongRows):
    inputs = (1, 0)
    fails, says = "test_it_takes_as_many_tables_as_it_says", "inputs is (1, 0): there is no such number"


class TakesANumber(WrongRows):
    inputs = 1
    fails, says = "test_it_takes_as_many_tables_as_it_says", "inputs is 1, not (least, most)"


class TakesRowsOfTwo(WrongRows):
    inputs = (2, 2)
    fails, says = "test_it_takes_as_many_tables_as_it_says", "inputs is (2, 2), but it is no whole-table stage"


class TakesMoreTablesThanItSays(Wrong):
    examples = staticmethod(lambda: [(numbers(), numbers(), numbers())])
    inputs = (1, 2)
    fails, says = "test_it_takes_as_many_tables_as_it_says", "inputs is (1, 2), and an example has 3 tables"

    def table(self, *tables):
        return tables[0]


class NamesAColumnThatIsNotThere(WrongRows):
    fails, says = "test_it_tells_the_truth_about_columns", "names ['square'], and there are only ('n', 'kind'"

    def columns(self, given):
        return given.with_more(["square"])


class HidesAColumn(WrongRows):
    fails, says = "test_it_tells_the_truth_about_columns", "says that there are no others than ('n',), but there are"

    def columns(self, given):
        return Columns(("n",), open=False)


class NeedsToKnow(WrongRows):
    """Cannot be built into a pipeline before its psets are there."""

    fails, says = "test_it_tells_the_truth_about_columns", "refuses what it has made a table of: there is no n"

    def columns(self, given):
        if "n" not in given.names:
            raise StageError("there is no n")
        return given


class TellsColumnsAsAList(WrongRows):
    fails, says = "test_it_tells_the_truth_about_columns", "has returned ['n'], no Columns"

    def columns(self, given):
        return ["n"]


class MapThatHidesAColumn(Wrong):
    fails, says = "test_it_tells_the_truth_about_columns", "there are no others than"
    given = {}

    def work(self, name, options, cwd):
        return Map(square).work(name, options, cwd)

    def columns(self, given):
        return given


class YieldsTables(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "it yields Rows(table, parents)"

    def rows(self, table):
        yield table


class ReturnsRows(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "rows() gave None: it yields Rows(table, parents)"

    def rows(self, table):
        return None


class ListsParents(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "its parents are [0, 1, 2, 3], not an array of int64"

    def rows(self, table):
        yield Rows(table, list(range(table.count)))


class MarksParents(WrongRows):
    """Gives a mask, which is as long as it should be."""

    fails, says = "test_rows_come_with_their_parents", "not an array of int64"

    def rows(self, table):
        yield Rows(table, np.ones(table.count, bool))


class CountsParentsFromOne(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "the parent 4 is no position in a table of 4 rows"

    def rows(self, table):
        yield Rows(table, each(table) + 1)


class TurnsRowsRound(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "the parents do not ascend: after 0 there are [3, 2, 1, 0]"

    def rows(self, table):
        rows = each(table)[::-1]
        yield Rows(attrs.evolve(table.take(rows), index=None), rows)


class GoesBackInTheNextPiece(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "the parents do not ascend: after 3 there are [0, 1, 2, 3]"

    def rows(self, table):
        yield Rows(table, each(table))
        yield Rows(table, each(table))


class ForgetsParents(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "there are 1 parents of 2 rows"

    def rows(self, table):
        yield Rows(table.slice(0, min(2, table.count)), each(table)[:1])


class MakesColumnsOfOtherLengths(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "the column 'more' of its table of 4 rows has 5 values"

    def rows(self, table):
        yield Rows(table.beside(Table(("more",), [[0] * (table.count + 1)], table.count)), each(table))


class MakesAColumnTwice(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "columns with the names ('n', 'kind', 'extra', 'n')"

    def rows(self, table):
        yield Rows(beside(table, n=[0] * table.count), each(table))


class MakesAColumnOfOurs(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "has a column '_kind', which is a name of ours"

    def rows(self, table):
        yield Rows(beside(table, _kind=[0] * table.count), each(table))


class LeavesOldValuesInTheFrame(WrongRows):
    """Changes a column, and not what users see of it."""

    touches = ("kind",)

    fails, says = (
        "test_rows_come_with_their_parents",
        "its table has 'x' for the column 'kind' of row 0, and typed 'a'",
    )

    def rows(self, table):
        columns = [["x"] * table.count if key == "kind" else table.column(key) for key in table.keys]
        yield Rows(attrs.evolve(table, columns=columns), each(table))


class NeverEnds(WrongRows):
    fails, says = "test_rows_come_with_their_parents", "rows() has yielded 10000 pieces of 4 rows, and would go on"

    def rows(self, table):
        nothing = table.slice(0, 0)
        return (Rows(nothing, each(nothing)) for _ in itertools.count())


class TakesTheMeanOfTheSlice(WrongRows):
    fails, says = "test_slicing_changes_nothing", "in slices of 2 rows, row 2 makes"

    def rows(self, table):
        values = [pset["n"] for pset in table.dicts()]
        mean = sum(values) / len(values) if values else 0
        yield Rows(beside(table, above=[value > mean for value in values]), each(table))


class LeavesOutTheFirst(WrongRows):
    fails, says = "test_slicing_changes_nothing", "in slices of 1 rows there are 0 rows in the end, and of all 3"

    def rows(self, table):
        yield Rows(table.slice(min(1, table.count), table.count), each(table)[1:])


class KnowsOnlyLists(WrongRows):
    """Does something else where a column is a typed array, as that of many rows is."""

    examples = staticmethod(lambda: [[{"n": 1}, {"n": 2}]])
    fails, says = (
        "test_slicing_changes_nothing",
        "row 0 makes {'n': 1, 'is_list': True}, and among all {'n': 1, 'is_list': Fa",
    )

    def rows(self, table):
        is_list = bool(table.count) and isinstance(table.column("n"), list)
        yield Rows(beside(table, is_list=[is_list] * table.count), each(table))


class GrowsBesideLabels(WrongRows):
    keeps_labels = True
    fails, says = "test_it_makes_as_many_rows_of_each_as_it_says", "keeps_labels is True, but it has made 2 rows of one"

    def rows(self, table):
        yield from Doubled().rows(table)


class KeepsOneLabel(WrongRows):
    keeps_labels = 1
    fails, says = "test_it_makes_as_many_rows_of_each_as_it_says", "keeps_labels is 1, not True or False"


class FansOutLessThanItSays(WrongRows):
    fan_out = 3
    fails, says = "test_it_makes_as_many_rows_of_each_as_it_says", "fan_out is 3, but it has made 1 rows of one"


class ThinksThatAllNumbersAreFloats(WrongRows):
    fails, says = "test_untouched_values_are_unchanged", "row 0 has 1.0, where its parent has 1"

    def rows(self, table):
        columns = [[float(v) if type(v) is int else v for v in column] for column in table.columns]
        yield Rows(Table(table.keys, columns, table.count), each(table))


class FillsHoles(WrongRows):
    fails, says = "test_untouched_values_are_unchanged", "has None, where its parent has HOLE"

    def rows(self, table):
        columns = [[None if v is HOLE else v for v in column] for column in table.columns]
        yield Rows(Table(table.keys, columns, table.count), each(table))


class MakesMoreThanItSays(Wrong):
    fails, says = (
        "test_it_makes_no_more_rows_than_its_bounds_say",
        "it has made 4 rows, and its bounds are Bounds(least",
    )

    def bounds(self, rows):
        return rows.up_to(2)

    def table(self, table):
        return table


class NamesTheWrongOrigins(Wrong):
    fails, says = "test_untouched_values_are_unchanged", "row 1 has 9007199254740993, where its parent has 1"

    def table(self, table):
        return Made(table, (np.zeros(table.count, np.int64),)) if table.count else table


class RoundsInAFrame(Wrong):
    """Sorts as pandas does, with all that pandas does to values."""

    fails, says = "test_untouched_values_are_unchanged", "where its parent has"
    examples = staticmethod(lambda: [[{"n": 2}, {"n": 0.5}, {"n": 1, "m": 1}]])

    def table(self, table):
        frame = table.frame(index=pd.RangeIndex(table.count))
        frame = frame.sort_values("n") if "n" in frame else frame
        return Made(table_of(frame.reset_index(drop=True)), (frame.index.to_numpy().astype(np.int64),))


class LooksAtTheFirst(WrongRows):
    fails, says = "test_an_empty_table_flows_through", "a table of 0 rows of ('n', 'kind', 'extra') makes it raise Inde"

    def rows(self, table):
        assert table.column("n")[0] is not None
        yield Rows(table, each(table))


class WantsItsColumn(WrongRows):
    fails, says = "test_an_empty_table_flows_through", "a table of 0 rows makes it raise ValueError"

    def rows(self, table):
        yield Rows(beside(table, twice=[n * 2 for n in table.column("n")]), each(table))


class MakesARowOfNothing(WrongRows):
    fails, says = "test_an_empty_table_flows_through", "the parent 0 is no position in a table of 0 rows"

    def rows(self, table):
        yield Rows(table, each(table)) if table.count else Rows(table_of([{}]), np.array([0]))


class WantsBothTables(Wrong):
    fails, says = "test_an_empty_table_flows_through", "tables of 0 rows of ('n',) and 1 rows of ('m',) makes it raise"
    examples = staticmethod(lambda: [([{"n": 1}], [{"m": 1}])])
    inputs = (2, 2)

    def table(self, one, other):
        if one.count != other.count:
            raise ZeroDivisionError
        return one


class EmptiesWhatItWasGiven(WrongRows):
    fails, says = "test_its_tables_are_not_changed", "it has changed its table 0"

    def rows(self, table):
        yield Rows(attrs.evolve(table.take(each(table)), index=None), each(table))
        table.columns.clear()
        table.columns.extend([None] * table.count for _ in table.keys)


class AppendsToALog(WrongRows):
    """Changes a value inside of a row."""

    fails, says = "test_its_tables_are_not_changed", "it has changed its table 0"
    examples = staticmethod(lambda: [[{"log": []}]])

    def rows(self, table):
        for pset in table.dicts():
            if len(pset["log"]) < 1:
                pset["log"].append("seen")
        columns = [[[] for _ in table.columns[0]], *table.columns[1:]] if table.keys else []
        yield Rows(Table(table.keys, columns, table.count), each(table))


class SortsInPlace(Wrong):
    fails, says = "test_its_tables_are_not_changed", "it has changed its table 1"
    examples = staticmethod(lambda: [([{"n": 1}], [{"n": 2}, {"n": 1}])])
    inputs = (2, 2)

    def table(self, one, other):
        if other.keys:
            other.column("n").sort()
        return one


class ThrowsDice(WrongRows):
    fails, says = "test_the_same_tables_give_the_same_again", "the second time"

    def rows(self, table):
        yield Rows(beside(table, dice=[random.random() for _ in range(table.count)]), each(table))


class RemembersWhatItHasSeen(WrongRows):
    fails, says = "test_the_same_tables_give_the_same_again", "rows and questions, and then 0"

    def __init__(self):
        self.seen = set()

    def rows(self, table):
        new = [row for row, pset in enumerate(table.dicts()) if repr(pset) not in self.seen]
        self.seen.update(map(repr, table.dicts()))
        rows = np.array(new, np.int64)
        yield Rows(attrs.evolve(table.take(rows), index=None), rows)


class AsksSomethingElse(Wrong):
    fails, says = "test_the_same_tables_give_the_same_again", "the second time {'psets': [{'n': 1}]"

    def __init__(self):
        self.numbers = itertools.count(1)

    def table(self, table):
        yield Ask(square, [{"n": next(self.numbers)}])
        return table


class YieldsPsets(Wrong):
    fails, says = "test_it_yields_nothing_but_asks", "it has yielded [{'n': 1}]: a stage yields Ask(worker, psets)"

    def table(self, table):
        yield [{"n": 1}]
        return table


class TakesWhateverComesFirst(Wrong):
    fails, says = "test_it_makes_the_same_in_whatever_order_it_is_told", "it has made another table"

    def table(self, table):
        told = yield Ask(square, [{"n": 1}, {"n": 2}], until="first")
        while told.outstanding:
            told = yield Ask(square, [], until="first")
        return [row for _, row in told.rows]


class AsksNobody(Wrong):
    fails, says = (
        "test_it_yields_nothing_but_asks",
        "map() refuses: the worker is 'square' (str), which cannot be called",
    )

    def table(self, table):
        yield Ask("square", [{"n": 1}])
        return table


class AsksAboutOnePset(Wrong):
    fails, says = "test_it_yields_nothing_but_asks", "map() refuses: the psets are one dict with the keys 'n'"

    def table(self, table):
        yield Ask(square, {"n": 1})
        return table


class AsksWithUnknownOptions(Wrong):
    fails, says = "test_it_yields_nothing_but_asks", "map() refuses: "

    def table(self, table):
        yield Ask(square, [{"n": 1}], {"chunks": 3})
        return table


class AsksForEver(Wrong):
    fails, says = "test_it_yields_nothing_but_asks", "it has asked 1000 times, and would go on"

    def table(self, table):
        while True:
            yield Ask(square, [])


class ReturnsNothing(Wrong):
    fails, says = "test_it_returns_a_table", "it has returned None, which is no table"

    def table(self, table):
        pass


class ReturnsParentsOfOne(Wrong):
    fails, says = "test_it_returns_a_table", "not a tuple of one array for each of 2 tables"
    examples = staticmethod(lambda: [(numbers(), numbers())])
    inputs = (2, 2)

    def table(self, one, other):
        return Made(one, (each(one),))


class ReturnsParentsOutside(Wrong):
    fails, says = "test_it_returns_a_table", "the parent 4 is no position in a table of 4 rows"

    def table(self, table):
        return Made(table, (each(table) + 1,))


class MapThatCannotBeSent(Wrong):
    fails, says = (
        "test_what_it_calls_can_be_sent",
        "what work() has returned cannot be sent to a worker process: TypeError",
    )
    given = {}

    def work(self, name, options, cwd):
        return Map(square, user_kwargs=threading.Lock()).work(name, attrs.evolve(options, user_kwargs=LOCK), cwd)


class MapWithoutWork(Wrong):
    fails, says = "test_what_it_calls_can_be_sent", "what work() has returned is {'worker': 'square'}, no Work"
    given = {}

    def work(self, name, options, cwd):
        return {"worker": "square"}


class AsksWhatCannotBeSent(Wrong):
    fails, says = (
        "test_what_it_calls_can_be_sent",
        "what it has asked for, number 1, cannot be sent to a worker process",
    )

    def table(self, table):
        yield Ask(lambda pset, system, user: {"locked": LOCK.locked()}, [{"n": 1}], {"user_kwargs": LOCK})
        return table


LOCK = threading.Lock()


WRONG = [kind for kind in every(Wrong) if hasattr(kind, "fails")]


def contract_of(kind):
    contract = type("Contract", (StageContract,), {"touches": getattr(kind, "touches", ())})
    contract.make_stage = lambda self: kind()
    contract.examples = lambda self: kind.examples()
    return contract()


def failures(contract):
    """Run all tests of a contract; return what those say that fail."""
    failed = {}
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except SkipTest:
                pass
            except AssertionError as exc:
                failed[name] = str(exc)
    return failed


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_stage_fails_exactly_one_test(kind):
    failed = failures(contract_of(kind))
    assert list(failed) == [kind.fails], failed
    assert kind.says in failed[kind.fails]


def test_what_the_wrong_ones_are_made_of_is_right():
    assert failures(contract_of(WrongRows)) == {}


def test_every_claim_is_failed_by_some_wrong_stage():
    claims = {name for name in dir(StageContract) if name.startswith("test_")}
    assert claims == {kind.fails for kind in WRONG}


def test_run_names_every_claim_that_does_not_hold():
    class TwiceWrong(Nameless):
        inputs = (0, 0)

    with pytest.raises(AssertionError) as raised:
        contract_of(TwiceWrong).run()
    assert str(raised.value) == (
        "Contract: 2 of 15 claims do not hold\n"
        "test_it_is_a_stage_of_one_kind: its name is '': there is nothing in it\n"
        "test_it_takes_as_many_tables_as_it_says: inputs is (0, 0): there is no such number"
    )


def test_run_tells_what_a_stage_raises_whatever_it_is():
    class Raises(WrongRows):
        def rows(self, table):
            raise LookupError("nothing there")

    with pytest.raises(AssertionError, match=r"test_rows_come_with_their_parents: LookupError\('nothing there'\)"):
        contract_of(Raises).run()


def test_a_claim_that_is_none_for_a_stage_is_skipped_with_its_reason():
    with pytest.raises(SkipTest, match="it is a stage of the kind 'rows'"):
        contract_of(WrongRows).test_it_returns_a_table()
    with pytest.raises(SkipTest, match="it calls no worker"):
        TopContract().test_what_it_calls_can_be_sent()


def test_examples_without_rows_are_not_enough():
    class Contract(TopContract):
        def examples(self):
            return [[], []]

    with pytest.raises(AssertionError, match=r"examples\(\) of Contract has no table with rows"):
        Contract().test_it_tells_the_truth_about_columns()


def test_a_contract_without_a_stage_or_examples_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"StageContract must override make_stage\(\)"):
        StageContract().test_it_is_a_stage_of_one_kind()
    contract = StageContract()
    contract.make_stage = Concat
    with pytest.raises(NotImplementedError, match=r"StageContract must override examples\(\)"):
        contract.test_it_returns_a_table()


def test_an_answer_tells_what_is_missing_too():
    results = TestMap().answer(Ask(fails_at_two, [{"n": 1}, {"n": 2}, {"n": 3}]))
    assert results.to_dict() == [{"n": 1, "square": 1}, {"n": 3, "square": 9}]
    assert results.missing["n"].tolist() == [2]
    assert results.missing["_kind"].tolist() == ["raised"]
    assert (results.progress.total, results.progress.finished, results.progress.failures) == (3, 2, 1)


def test_a_column_that_a_stage_cannot_take_is_left_out():
    class SumsAll(WrongRows):
        def rows(self, table):
            yield Rows(beside(table, total=[math.fsum(pset.values()) for pset in table.dicts()]), each(table))

    contract = contract_of(SumsAll)
    contract.examples = lambda: [[{"n": 1, "m": 2}]]
    with pytest.raises(TypeError):
        contract.test_untouched_values_are_unchanged()
    contract.bystander = None
    contract.run()


def test_unknown_columns_are_the_default():
    assert not hasattr(WrongRows, "columns")
    assert Columns((), open=True) == UNKNOWN
    contract_of(WrongRows).test_it_tells_the_truth_about_columns()


def test_the_contract_can_be_imported_without_pytest_and_without_pandas():
    code = (
        "import sys; sys.modules['pytest'] = None; from paramsurvey.testing import StageContract;"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
