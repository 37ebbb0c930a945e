"""Stages of whole tables: which rows come out, in what order, from where; that no value changes; what is refused."""

import datetime
import decimal
import math
import re
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st

import paramsurvey
from paramsurvey.errors import OptionError, StageError, WorkerError
from paramsurvey.stages.base import UNKNOWN, Ask, Columns, conversation, inputs_of, kind_of
from paramsurvey.stages.reduce import Reduce
from paramsurvey.stages.tables import Apply, Best, Concat, Join, Top
from paramsurvey.tables import Table, table_of

NAN = float("nan")
BIG = 2**53 + 1
EMPTY = table_of([])


def rows_of(made):
    return list(getattr(made, "table", made).dicts())


def table(**columns):
    """Make a table of columns of values; None for none."""
    names = list(columns)
    return table_of([dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def refused(message):
    return pytest.raises(StageError, match=f"^{re.escape(message)}")


def asks_nothing(pset, system_kwargs, user_kwargs):
    return None


def count_rows(pset, system_kwargs, user_kwargs):
    return {"rows": len(pset["group"]), "total": sum(row["n"] for row in pset["group"])}


def answered(stage, *tables):
    """Have a conversation with a stage, and survey what it asks for with real workers."""
    talk = conversation(stage, tables)
    told = None
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        try:
            while True:
                ask = talk.send(told)
                told = session.map(ask.worker, ask.psets, **ask.options)
        except StopIteration as stop:
            return stop.value


# What they are


@pytest.mark.parametrize(
    ("stage", "name", "inputs"),
    [
        (Join("a"), "join", (2, 2)),
        (Concat(), "concat", (2, None)),
        (Reduce(aggregate=len), "reduce", (1, 1)),
        (Top(1, "a"), "top", (1, 1)),
        (Best("a"), "best", (1, 1)),
        (Apply(pd.DataFrame.dropna), "dropna", (1, None)),
        (Apply(pd.DataFrame.dropna, name="clean"), "clean", (1, None)),
    ],
)
def test_each_is_a_whole_table_stage_with_a_name_and_says_what_it_takes(stage, name, inputs):
    assert kind_of(stage) == "table"
    assert stage.name == name
    assert inputs_of(stage) == inputs


@pytest.mark.parametrize(
    "make",
    [
        lambda name: Join("a", name=name),
        lambda name: Concat(name=name),
        lambda name: Reduce(aggregate=len, name=name),
        lambda name: Top(1, "a", name=name),
        lambda name: Best("a", name=name),
        lambda name: Apply(len, name=name),
    ],
)
@pytest.mark.parametrize("name", [3, ""])
def test_a_name_that_is_no_str_is_refused(make, name):
    with refused(f"name={name!r}: the name of a stage is a str with something in it"):
        make(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Join([]), "on=[]: it names no column; give the name of one, or a list of names"),
        (
            lambda: Join(None),
            "on=None: None cannot be the name of a column; a name is a text, a number, or anything else",
        ),
        (lambda: Join({"a"}), "on={'a'}: {'a'} cannot be the name of a column"),
        (lambda: Join(["a", "b", "a"]), "on=['a', 'b', 'a']: it names the column 'a' twice: name it once"),
        (lambda: Join("a", how="iner"), "how='iner' is unknown; did you mean 'inner'?"),
        (lambda: Join("a", how="x"), "how='x' is unknown; there are: 'inner', 'left', 'outer', 'right'"),
        (lambda: Join("a", how=None), "how=None is unknown; there are: 'inner', 'left', 'outer', 'right'"),
        (lambda: Join("a", expect="n:m"), "expect='n:m' is unknown; did you mean "),
        (lambda: Join("a", expect=11), "expect=11 is unknown; there are: '1:1', '1:m', 'm:1', 'm:m'"),
        (lambda: Join("a", suffixes="xy"), "suffixes='xy': they are two different strings, such as"),
        (lambda: Join("a", suffixes=("_x", "_x")), "suffixes=('_x', '_x'): they are two different strings"),
        (lambda: Reduce("a"), "stage 'reduce' needs an aggregate or a worker, and was given neither: give one of them"),
        (
            lambda: Reduce("a", aggregate=len, worker=asks_nothing),
            "stage 'reduce' needs an aggregate or a worker, and was given both: give one of them",
        ),
        (
            lambda: Reduce("a", aggregate=len, options={"retries": 1}),
            "stage 'reduce' has options, which are for a worker, but an aggregate: leave one out",
        ),
        (lambda: Reduce("a", worker=asks_nothing, options=3), "options=3: they are a dict of options of map()"),
        (lambda: Reduce([], aggregate=len), "by=[]: it names no column"),
        (lambda: Reduce(aggregate="sum"), "aggregate='sum': it is a function from a DataFrame to a dict, or a mapping"),
        (lambda: Reduce(aggregate={}), "aggregate={}: it is a function from a DataFrame to a dict, or a mapping"),
        (lambda: Reduce(aggregate={"n": "sum"}), "aggregate['n']='sum': it is the pair of a column and what to do"),
        (lambda: Reduce(aggregate={"n": ("a", "sun")}), "aggregate['n']='sun' is unknown; did you mean 'sum'?"),
        (lambda: Reduce(aggregate={"n": ([], "sum")}), "aggregate['n']=[[]]: [] cannot be the name of a column"),
        (
            lambda: Reduce(aggregate={"_kind": ("a", "sum")}),
            "aggregate['_kind']: '_kind' is the name of one of our own columns; give it another name",
        ),
        (
            lambda: Reduce("a", aggregate={"a": ("b", "sum")}),
            "stage 'reduce' makes the column 'a', by which it groups: give it another name",
        ),
        (
            lambda: Reduce("group", worker=asks_nothing),
            "stage 'reduce' groups by the column 'group', under which its worker finds the group's rows: rename it",
        ),
        (lambda: Reduce(worker=asks_nothing, allow_missing=1), "allow_missing=1: it is True or False"),
        (lambda: Top(0, "a"), "count=0: it is an int of at least 1"),
        (lambda: Top(True, "a"), "count=True: it is an int of at least 1"),
        (lambda: Top(1.5, "a"), "count=1.5: it is an int of at least 1"),
        (lambda: Top(1, "a", largest="no"), "largest='no': it is True or False"),
        (lambda: Best("a", within=[]), "within=[]: it names no column"),
        (lambda: Apply(3), "function=3 (int): it is called with a DataFrame, and returns one"),
        (lambda: Apply(talks), "function=talks is a generator or async function, whose calls return before it has run"),
    ],
)
def test_what_is_impossible_cannot_be_constructed(make, message):
    with refused(message):
        make()


def talks(frame):
    yield frame


def test_the_worker_and_the_options_of_a_reduce_are_checked_as_those_of_map():
    with pytest.raises(WorkerError, match=r"^<lambda> takes \(group\), but it is called with three arguments"):
        Reduce("a", worker=lambda group: None)
    with pytest.raises(OptionError, match=r"^reduce\(\) has no option 'retrys'; did you mean 'retries'\?$"):
        Reduce("a", worker=asks_nothing, options={"retrys": 1})


@pytest.mark.parametrize("stage", [Reduce(aggregate=len), Top(1, "a"), Best("a")])
def test_a_second_table_is_refused_by_whoever_takes_one(stage):
    with refused(
        f"stage {stage.name!r} takes the rows of one stage, and was given those of 2: make one table of them before"
    ):
        stage.table(EMPTY, EMPTY)


def test_a_join_of_three_and_a_concat_of_none_are_refused():
    with refused("stage 'join' joins two tables, and was given 3: chain several joins"):
        Join("a").table(EMPTY, EMPTY, EMPTY)
    with refused("stage 'concat' was given no table: name the stages whose rows it takes, after=('a', 'b')"):
        Concat().table()


# Join

LEFT = table(k=["b", "a", "c", "a"], x=[1, 2, 3, 4])
RIGHT = table(k=["a", "d", "b", "a"], y=[10, 20, 30, 40])
INNER = [
    {"k": "b", "x": 1, "y": 30},
    {"k": "a", "x": 2, "y": 10},
    {"k": "a", "x": 2, "y": 40},
    {"k": "a", "x": 4, "y": 10},
    {"k": "a", "x": 4, "y": 40},
]
ONLY_LEFT, ONLY_RIGHT = {"k": "c", "x": 3}, {"k": "d", "y": 20}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("inner", INNER),
        ("left", [*INNER[:3], ONLY_LEFT, *INNER[3:]]),
        ("right", [*INNER, ONLY_RIGHT]),
        ("outer", [*INNER[:3], ONLY_LEFT, *INNER[3:], ONLY_RIGHT]),
    ],
)
def test_a_join_has_the_order_of_the_left_table_and_at_the_end_what_is_only_in_the_right_one(how, expected):
    assert rows_of(Join("k", how=how).table(LEFT, RIGHT)) == expected


def test_a_join_tells_from_which_rows_each_row_comes():
    lefts, rights = Join("k", how="outer").table(LEFT, RIGHT).parents
    assert lefts.tolist() == [0, 1, 1, 2, 3, 3, -1]
    assert rights.tolist() == [2, 0, 3, -1, 0, 3, 1]


@pytest.mark.parametrize("nothing", [None, NAN, pd.NA, pd.NaT, np.datetime64("NaT", "s"), decimal.Decimal("sNaN")])
def test_nothing_equals_nothing_in_a_join(nothing):
    sides = table(k=[nothing, 1], x=[1, 2]), table(k=[1, nothing], y=[3, 4])
    assert rows_of(Join("k").table(*sides)) == [{"k": 1, "x": 2, "y": 3}]
    outer = Join("k", how="outer").table(*sides).table
    assert [row["k"] is nothing for row in outer.dicts()] == [True, False, True]
    assert rows_of(Join(["k"], expect="1:1").table(sides[0], sides[1])) == [{"k": 1, "x": 2, "y": 3}]


def test_a_key_that_a_row_lacks_equals_nothing_either_and_stays_lacking():
    sides = table_of([{"x": 1}, {"k": 1, "x": 2}]), table_of([{"y": 3}, {"k": 1, "y": 4}])
    assert rows_of(Join("k", how="outer").table(*sides)) == [{"x": 1}, {"k": 1, "x": 2, "y": 4}, {"y": 3}]


def test_keys_of_several_columns_match_if_all_do_and_none_is_missing():
    left = table_of([{"a": 1, "b": "x"}, {"a": 1, "b": None}, {"a": 2, "b": "x"}])
    right = table_of([{"b": "x", "a": 1.0, "y": 5}, {"b": None, "a": 1, "y": 6}])
    assert rows_of(Join(["a", "b"], expect="1:1").table(left, right)) == [{"a": 1, "b": "x", "y": 5}]


def test_keys_are_equal_as_in_python_and_large_ones_are_not_rounded():
    left = table(k=[1, BIG, "1"], x=[1, 2, 3])
    right = table(k=[True, 2.0**53, np.int64(BIG), "1"], y=[4, 5, 6, 7])
    made = rows_of(Join("k").table(left, right))
    assert [(row["x"], row["y"]) for row in made] == [(1, 4), (2, 6), (3, 7)]
    assert [type(row["k"]) for row in made] == [int, int, str]


@pytest.mark.parametrize(
    ("expect", "left", "right", "message"),
    [
        ("1:1", [1, 2, 2, 2], [1], "the key k=2 is 3 times in the left table"),
        ("1:m", ["a", "a"], [], "the key k='a' is 2 times in the left table"),
        ("m:1", [1, 1], [5, 3, 3, 5], "the key k=5 is 2 times in the right table"),
        ("1:1", [1], [1, 1.0], "the key k=1 is 2 times in the right table"),
    ],
)
def test_a_key_that_is_there_more_often_than_expected_is_named_with_its_count_and_side(expect, left, right, message):
    with refused(
        f"stage 'costs' expects {expect!r}, but {message}: keep one of these rows before, or expect otherwise"
    ):
        Join("k", expect=expect, name="costs").table(table(k=left), table(k=right))


@pytest.mark.parametrize(
    ("expect", "left", "right"), [("1:m", [1], [1, 1]), ("m:1", [1, 1], [1]), ("m:m", [1] * 2, [1] * 2)]
)
def test_what_is_expected_is_accepted(expect, left, right):
    assert len(rows_of(Join("k", expect=expect).table(table(k=left), table(k=right)))) == len(left) * len(right)


def test_a_key_of_several_columns_is_named_by_all_of_them():
    left = table(a=[1, 1], b=["x", "x"])
    with refused("stage 'join' expects '1:1', but the key a=1, b='x' is 2 times in the left table"):
        Join(["a", "b"], expect="1:1").table(left, left)


def test_a_key_that_cannot_be_looked_up_is_named():
    with refused(
        "stage 'join' looks for equal values in the column 'k', but [1], of type list, cannot be looked up (it has no "
        "hash): make a column of text or numbers of it"
    ):
        Join("k").table(table(k=[1, [1]]), table(k=[1]))


def test_a_table_without_the_key_is_refused():
    with refused("stage 'join' joins on the column 'k', which the right table does not have; it has: 'y'"):
        Join("k").table(table(k=[1]), table(y=[1]))


def test_a_column_that_both_have_is_refused_unless_it_gets_suffixes():
    sides = table(k=[1], v=[2], z=[3]), table(k=[1], w=[4], v=[5])
    with refused(
        "stage 'join': both tables have the column 'v', on which they are not joined: rename or drop it in one of them "
        "before, or give suffixes=('_left', '_right')"
    ):
        Join("k").table(*sides)
    stage = Join("k", suffixes=("_x", "_y"))
    assert rows_of(stage.table(*sides)) == [{"k": 1, "v_x": 2, "z": 3, "w": 4, "v_y": 5}]
    assert list(stage.table(*sides).table.keys) == ["k", "v_x", "z", "w", "v_y"]
    with refused("stage 'join': with suffixes=('', '_y') there are two columns 'v_y'"):
        Join("k", suffixes=("", "_y")).table(table(k=[1], v=[2], v_y=[3]), sides[1])


@pytest.mark.parametrize(
    ("how", "of_left", "of_right"), [("inner", 0, 0), ("left", 4, 0), ("right", 0, 4), ("outer", 4, 4)]
)
def test_an_empty_table_without_columns_can_be_joined(how, of_left, of_right):
    stage = Join("k", how=how, expect="m:m")
    assert len(rows_of(stage.table(LEFT, EMPTY))) == of_left
    assert len(rows_of(stage.table(EMPTY, RIGHT))) == of_right
    assert rows_of(stage.table(EMPTY, EMPTY)) == []
    assert stage.table(LEFT, EMPTY).table.frame().shape[0] == of_left
    if of_left:
        assert rows_of(stage.table(LEFT, EMPTY)) == rows_of(LEFT)


def test_an_empty_table_keeps_the_columns_that_are_known():
    made = Join("k").table(table_of(pd.DataFrame({"k": [], "x": []})), RIGHT).table
    assert (made.keys, made.count, list(made.frame().columns)) == (("k", "x", "y"), 0, ["k", "x", "y"])


def test_a_join_changes_no_value_where_rows_find_no_partner():
    left = table(k=[1, 2], n=[BIG, 7], f=[None, NAN])
    right = table(k=[2, 3], m=[BIG, 8])
    made = Join("k", how="outer").table(left, right).table
    assert list(map(repr, made.dicts())) == [
        f"{{'k': 1, 'n': {BIG}, 'f': None}}",
        f"{{'k': 2, 'n': 7, 'f': nan, 'm': {BIG}}}",
        "{'k': 3, 'm': 8}",
    ]
    frame = made.frame()
    assert frame["n"].to_list() == [BIG, 7, pd.NA]
    assert str(frame["m"].dtype) == "Int64"


def frame_of_many_dtypes(keys):
    return pd.DataFrame(
        {
            "k": pd.Series(keys, dtype="uint8"),
            "category": pd.Categorical(["a", "b"], categories=["b", "a", "z"]),
            "when": pd.to_datetime(["2020-01-01", "2021-01-01"]).as_unit("s"),
            "whole": pd.Series([BIG, 2], dtype="int64"),
            "nullable": pd.Series([BIG, None], dtype="Int64"),
            "small": pd.Series([0.5, 1], dtype="float32"),
            "sure": [True, False],
        }
    ).set_axis([7, 7])


def test_the_users_own_dtypes_are_kept_if_every_row_has_a_value():
    frame = frame_of_many_dtypes([1, 2])
    made = Join("k").table(table_of(frame), table(k=[2, 1], y=[BIG, 0.5])).table.frame()
    assert made.dtypes.to_dict() == {**frame.dtypes, "y": np.dtype(object)}
    assert made["y"].to_list() == [0.5, BIG]
    assert list(made.index) == [0, 1]


def test_where_a_row_has_no_value_the_users_own_dtypes_are_kept_if_they_have_a_missing_value():
    frame = frame_of_many_dtypes([1, 2])
    made = Join("k", how="left").table(table(k=[2, 5, 1]), table_of(frame)).table.frame()
    kept = ["category", "when", "nullable", "small"]
    assert made.dtypes[kept].to_dict() == frame.dtypes[kept].to_dict()
    assert made["category"].to_list() == ["b", NAN, "a"] or math.isnan(made["category"].to_list()[1])
    assert made["whole"].to_list() == [2, pd.NA, BIG]
    assert (str(made["whole"].dtype), str(made["sure"].dtype)) == ("Int64", "boolean")


def test_a_joined_frame_belongs_to_nobody_else():
    frame = frame_of_many_dtypes([1, 2])
    own = Join("k").table(table_of(frame), table(k=[1, 2])).table.frame()
    own.loc[0, "whole"] = 0
    assert frame["whole"].to_list() == [BIG, 2]


KEYS = st.sampled_from([0, 1, 1.0, True, "a", None, NAN, BIG, float(2**53), (1, 2)])


def is_missing(value):
    return value is None or value != value


def naive_join(left, right, how):
    """The definition: two loops."""
    made, found = [], set()
    for row in left:
        partners = [i for i, other in enumerate(right) if not is_missing(row["k"]) and other["k"] == row["k"]]
        found |= set(partners)
        made += [{"k": row["k"], "x": row["x"], "y": right[i]["y"]} for i in partners]
        if not partners and how in ("left", "outer"):
            made.append(row)
    if how in ("right", "outer"):
        made += [other for i, other in enumerate(right) if i not in found]
    return made


@settings(max_examples=80, deadline=None)
@given(
    left=st.lists(KEYS, max_size=20),
    right=st.lists(KEYS, max_size=20),
    how=st.sampled_from(["inner", "left", "right", "outer"]),
)
def test_a_join_is_what_two_loops_would_make(left, right, how):
    lefts = [{"k": key, "x": row} for row, key in enumerate(left)]
    rights = [{"k": key, "y": row} for row, key in enumerate(right)]
    made = Join("k", how=how).table(table_of(lefts), table_of(rights))
    assert list(map(repr, rows_of(made))) == list(map(repr, naive_join(lefts, rights, how)))
    for row, one, other in zip(rows_of(made), *made.parents, strict=True):
        assert (row.get("x", -1), row.get("y", -1)) == (one, other)
    assert len(made.table.frame()) == made.table.count


@settings(max_examples=50, deadline=None)
@given(
    left=st.lists(st.integers(0, 5), max_size=20),
    right=st.lists(st.integers(0, 5), max_size=20),
    how=st.sampled_from(["inner", "left", "right", "outer"]),
    typed=st.booleans(),
)
def test_a_join_of_ints_has_the_rows_of_pandas(left, right, how, typed):
    one = pd.DataFrame({"k": pd.Series(left, dtype="int64"), "x": range(len(left))})
    two = pd.DataFrame({"k": pd.Series(right, dtype="int64"), "y": range(len(right))})
    merged = one.merge(two, on="k", how=how).fillna(-1).astype("int64")
    tables = map(table_of, (one, two) if typed else (one.to_dict("records"), two.to_dict("records")))
    made = [(row["k"], row.get("x", -1), row.get("y", -1)) for row in rows_of(Join("k", how=how).table(*tables))]
    assert sorted(made) == sorted(merged.itertuples(index=False, name=None))  # their order is not that of all releases


# Concat


def test_a_concat_is_one_table_under_the_other_with_holes():
    made = Concat().table(table(a=[1, 2]), EMPTY, table_of([{"b": None, "a": BIG}]))
    assert rows_of(made) == [{"a": 1}, {"a": 2}, {"b": None, "a": BIG}]
    assert [each.tolist() for each in made.parents] == [[0, 1, -1], [-1, -1, -1], [-1, -1, 0]]


def test_frames_whose_dtypes_agree_keep_them_and_others_do_not_round_each_other():
    one, two = frame_of_many_dtypes([1, 2]), frame_of_many_dtypes([3, 4])
    assert Concat().table(table_of(one), table_of(two)).table.frame().dtypes.to_dict() == one.dtypes.to_dict()
    mixed = Concat().table(table_of(one), table_of(two.astype({"whole": float}))).table
    assert mixed.frame()["whole"].to_list() == [BIG, 2, float(2**53), 2.0]
    assert mixed.frame()["category"].dtype == one["category"].dtype


def test_a_column_that_one_frame_lacks_keeps_its_dtype_if_that_has_a_missing_value():
    one = frame_of_many_dtypes([1, 2])
    made = Concat().table(table_of(one[["k"]]), table_of(one)).table.frame()
    assert made["category"].dtype == one["category"].dtype
    assert made["whole"].to_list() == [pd.NA, pd.NA, BIG, 2]
    assert made["when"].isna().to_list() == [True, True, False, False]


def test_a_concat_of_frames_and_dicts_and_of_empty_tables():
    assert Concat().table(table_of(pd.DataFrame({"a": [1.5]})), table(a=[BIG])).table.frame()["a"].to_list() == [
        1.5,
        BIG,
    ]
    assert rows_of(Concat().table(EMPTY, EMPTY)) == []
    typed = Concat().table(EMPTY, table_of(pd.DataFrame({"a": pd.Categorical(["x"])}))).table
    assert str(typed.frame()["a"].dtype) == "category"


# Reduce by named aggregations

ALL = ["sum", "mean", "min", "max", "count", "median", "std", "first", "last", "nunique"]


def reduced(values, *hows):
    stage = Reduce(aggregate={how: ("v", how) for how in hows})
    [row] = rows_of(stage.table(table(v=values)))
    return row


def test_the_named_aggregations_are_those_of_pandas():
    values = [3.5, 1.25, NAN, 8.0, 1.25]
    expected = {how: pd.Series(values).agg(how) for how in ALL if how not in ("first", "last")}
    assert reduced(values, *ALL) == pytest.approx({**expected, "first": 3.5, "last": 1.25}, rel=1e-15)


def test_sums_of_ints_are_exact_and_never_overflow():
    assert reduced([2**62, 2**62, None, 1], "sum") == {"sum": 2**63 + 1}
    assert reduced([np.int64(2**62)] * 20, "sum", "mean") == {"sum": 20 * 2**62, "mean": 2.0**62}
    assert reduced([np.uint8(200)] * 2, "sum", "median") == {"sum": 400, "median": 200.0}
    assert type(reduced([True, True], "sum")["sum"]) is int


def test_no_aggregation_changes_an_int_beside_floats_and_holes():
    values = [BIG, None, 0.5, NAN]
    assert reduced(values, "max", "first", "nunique", "count") == {"max": BIG, "first": BIG, "nunique": 2, "count": 2}
    assert type(reduced(values, "max")["max"]) is int


def test_sums_of_floats_do_not_depend_on_their_order():
    values = [1e16, 1.0, -1e16, 0.1] * 5
    assert reduced(values, "sum") == reduced(values[::-1], "sum") == {"sum": 5.5}
    assert reduced([math.inf, 1], "sum") == {"sum": math.inf}
    assert reduced([1e308, 1e308], "sum") == {"sum": math.inf}
    assert math.isnan(reduced([math.inf, -math.inf], "sum")["sum"])


def test_the_deviation_of_large_ints_is_that_of_their_differences():
    assert reduced([2**60, 2**60 + 2], "std") == {"std": math.sqrt(2)}


def test_other_values_are_added_as_they_add_themselves():
    assert reduced([Fraction(1, 3)] * 3, "sum", "mean") == {"sum": 1, "mean": Fraction(1, 3)}
    day = datetime.timedelta(days=1)
    assert reduced([day, 2 * day], "sum", "max") == {"sum": 3 * day, "max": 2 * day}
    assert reduced(["a", "b"], "sum", "min") == {"sum": "ab", "min": "a"}


def test_what_cannot_be_known_of_nothing_is_a_hole():
    assert reduced([None, NAN], *ALL) == {"sum": 0, "count": 0, "nunique": 0}
    assert reduced([5], "std", "mean") == {"mean": 5.0}


def test_what_cannot_be_aggregated_is_named():
    with refused(
        "stage 'reduce' cannot take 'max' of the column 'v' in the group k='a', whose values begin with [1, 'x']: "
        "TypeError: "
    ):
        Reduce("k", aggregate={"m": ("v", "max")}).table(table(k=["b", "a", "a"], v=[1, 1, "x"]))
    with refused(
        "stage 'reduce' cannot take 'nunique' of the column 'v' in the whole table, whose values begin with [[]]"
    ):
        reduced([[]], "nunique")


def test_groups_come_in_the_order_of_first_appearance_with_the_values_of_their_first_rows():
    rows = table(k=["b", 1, "a", True, "b"], n=[1, 2, 3, 4, BIG])
    made = Reduce("k", aggregate={"n": ("n", "sum"), "rows": ("n", "count")}).table(rows)
    assert list(map(repr, rows_of(made))) == [
        f"{{'k': 'b', 'n': {BIG + 1}, 'rows': 2}}",
        "{'k': 1, 'n': 6, 'rows': 2}",
        "{'k': 'a', 'n': 3, 'rows': 1}",
    ]


def test_rows_of_which_the_group_is_missing_are_one_group_in_its_place():
    rows = table_of([{"k": 1, "n": 1}, {"n": 2}, {"k": None, "n": 4}, {"k": NAN, "n": 8}, {"k": 1, "n": 16}])
    made = Reduce("k", aggregate={"n": ("n", "sum")}).table(rows)
    assert rows_of(made) == [{"k": 1, "n": 17}, {"n": 14}]
    with refused("stage 'reduce' cannot take 'mean' of the column 'n' in the group k=nothing, whose"):
        Reduce("k", aggregate={"n": ("n", "mean")}).table(table_of([{"n": "x"}, {"k": 2, "n": 1}]))


def test_groups_of_several_columns_keep_the_users_dtypes():
    frame = pd.DataFrame({"a": pd.Categorical(["x", "y", "x"]), "b": [1, 1, 1], "n": [1, 2, 3]})
    made = Reduce(["b", "a"], aggregate={"n": ("n", "sum")}).table(table_of(frame))
    assert rows_of(made) == [{"b": 1, "a": "x", "n": 4}, {"b": 1, "a": "y", "n": 2}]
    assert made.frame()["a"].dtype == frame["a"].dtype


def test_a_named_aggregation_may_be_a_function_of_the_groups_series():
    rows = table(k=["a", "b", "a"], v=[1, 2, 5])
    made = Reduce("k", aggregate={"spread": ("v", lambda series: int(series.max() - series.min()))}).table(rows)
    assert rows_of(made) == [{"k": "a", "spread": 4}, {"k": "b", "spread": 0}]


@pytest.mark.parametrize("how", ["sum", len])
def test_a_column_that_is_not_there_is_named_with_those_that_are(how):
    with refused("stage 'reduce' reads the column 'w', which the rows do not have there; they have: 'k', 'v'"):
        Reduce("k", aggregate={"n": ("w", how)}).table(table(k=[1], v=[2]))
    with refused("stage 'reduce' reads the column 'j', which the rows do not have there; they have: 'k', 'v'"):
        Reduce("j", aggregate={"n": ("v", how)}).table(table(k=[1], v=[2]))


def test_a_group_that_cannot_be_looked_up_is_named():
    with refused("stage 'reduce' looks for equal values in the column 'k', but {}, of type dict, cannot be looked up"):
        Reduce("k", aggregate=len).table(table(k=[1, {}]))


def test_an_empty_table_is_reduced_to_no_groups_or_to_one_row_of_nothing():
    named = {"n": ("v", "sum"), "m": ("v", "max"), "rows": ("v", len)}
    made = Reduce("k", aggregate=named).table(EMPTY)
    assert (made.keys, made.count) == (("k", "n", "m", "rows"), 0)
    assert rows_of(Reduce(aggregate=named).table(EMPTY)) == [{"n": 0, "rows": 0}]
    assert list(Reduce(aggregate=named).table(EMPTY).frame().columns) == ["n", "m", "rows"]


# Reduce by a function


def test_a_function_is_called_with_the_frame_of_each_group_and_returns_a_row():
    rows = table(k=["b", "a", "b"], v=[1, BIG, 3])
    made = Reduce("k", aggregate=lambda frame: {"n": len(frame), "last": frame["v"].tolist()[-1]}).table(rows)
    assert rows_of(made) == [{"k": "b", "n": 2, "last": 3}, {"k": "a", "n": 1, "last": BIG}]
    made = Reduce("k", aggregate=lambda frame: frame[["v"]].sum()).table(rows)
    assert rows_of(made) == [{"k": "b", "v": 4}, {"k": "a", "v": BIG}]


def test_a_function_may_return_the_group_it_was_given_but_no_other():
    rows = table(k=["b", "a"], v=[1, 2])
    assert rows_of(Reduce("k", aggregate=lambda frame: frame.iloc[0]).table(rows)) == rows_of(rows)
    with refused(
        "stage 'reduce': <lambda> returned another value of the column 'k', by which it groups, for the group k='b': "
        "give it another name"
    ):
        Reduce("k", aggregate=lambda frame: {"k": 3}).table(rows)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (3, "3 (int)"),
        (None, "None (NoneType)"),
        (pd.Series([1, 2], index=["a", "a"]), "a    1 a    2 dtype: int64 (Series)"),
    ],
)
def test_a_function_that_returns_no_row_is_refused(answer, shown):
    with refused(
        f"stage 'reduce': <lambda> returned {shown} for the whole table; it returns the row as a dict, or as a Series "
        "of named values"
    ):
        Reduce(aggregate=lambda frame: answer).table(table(v=[1]))


def test_a_function_may_not_return_a_column_of_ours():
    with refused(
        "stage 'reduce' makes the column '_kind', which is the name of one of our own columns; give it another"
    ):
        Reduce(aggregate=lambda frame: {"_kind": 1}).table(table(v=[1]))


def test_what_a_function_raises_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError):
        Reduce(aggregate=lambda frame: 1 / 0).table(table(v=[1]))


def test_a_function_is_called_with_an_empty_frame_for_the_whole_of_an_empty_table_only():
    count = Reduce("k", aggregate=lambda frame: {"n": len(frame)}), Reduce(aggregate=lambda frame: {"n": len(frame)})
    assert [rows_of(stage.table(EMPTY)) for stage in count] == [[], [{"n": 0}]]


def test_a_function_that_changes_its_frame_changes_nothing_else():
    frame = pd.DataFrame({"k": [1, 1], "v": [1, 2]})

    def spoil(group):
        group["v"] = 0
        return {"n": 1}

    for by in ("k", None):
        Reduce(by, aggregate=spoil).table(table_of(frame))
    assert frame["v"].to_list() == [1, 2]


# Reduce by a worker

ROWS = table_of([{"k": "b", "n": 1}, {"k": "a", "n": BIG}, {"k": "b", "n": None, "z": 3}])


def test_a_reduce_with_a_worker_asks_for_every_group():
    stage = Reduce("k", worker=count_rows, options={"retries": 2})
    ask = next(stage.table(ROWS))
    assert isinstance(ask, Ask)
    assert ask.worker is count_rows
    assert ask.options == {"retries": 2}
    assert ask.psets == [
        {"k": "b", "group": [{"k": "b", "n": 1}, {"k": "b", "n": None, "z": 3}]},
        {"k": "a", "group": [{"k": "a", "n": BIG}]},
    ]


def test_the_answers_are_the_rows_without_the_groups_they_were_made_of():
    rows = table(k=["b", "a", "b"], n=[1, BIG, 3])
    made = answered(Reduce("k", worker=count_rows), rows)
    assert rows_of(made) == [{"k": "b", "rows": 2, "total": 4}, {"k": "a", "rows": 1, "total": BIG}]
    assert rows_of(answered(Reduce(worker=count_rows), rows)) == [{"rows": 3, "total": BIG + 4}]


def test_a_group_for_which_the_worker_failed_is_named_and_the_others_are_carried_out():
    with refused("stage 'reduce': 1 of 2 groups have no answer; the first is k='b' (raised: TypeError") as caught:
        answered(Reduce("k", worker=count_rows), ROWS)
    assert str(caught.value).endswith("; allow_missing=True goes on without them")
    assert rows_of(caught.value.results.table.only(["k", "rows"])) == [{"k": "a", "rows": 1}]
    with refused("stage 'reduce': 1 of 1 groups have no answer; the first is the whole table (raised: TypeError"):
        answered(Reduce(worker=count_rows), ROWS)


def test_with_allow_missing_the_other_groups_go_on_numbered_anew():
    made = answered(Reduce("k", worker=count_rows, allow_missing=True), ROWS)
    assert rows_of(made) == [{"k": "a", "rows": 1, "total": BIG}]
    assert list(made.frame().index) == [0]
    assert rows_of(answered(Reduce(worker=count_rows, allow_missing=True), ROWS)) == []


def test_of_an_empty_table_nothing_is_asked_unless_it_is_reduced_as_a_whole():
    assert rows_of(answered(Reduce("k", worker=count_rows), EMPTY)) == []
    assert next(Reduce(worker=count_rows).table(EMPTY)).psets == [{"group": []}]
    with pytest.raises(StopIteration):
        next(Reduce("k", worker=count_rows).table(EMPTY))


# Top and Best


def test_the_top_rows_come_in_the_order_of_merit_and_ties_in_their_own():
    rows = table(i=[0, 1, 2, 3, 4], v=[1, 3, 2, 3.0, BIG])
    made = Top(4, "v").table(rows)
    assert [row["i"] for row in rows_of(made)] == [4, 1, 3, 2]
    assert made.parents[0].tolist() == [4, 1, 3, 2]
    assert list(made.table.frame().index) == [0, 1, 2, 3]
    assert [row["i"] for row in rows_of(Top(4, "v", largest=False).table(rows))] == [0, 2, 1, 3]


def test_the_next_column_decides_where_the_first_is_equal():
    rows = table(i=[0, 1, 2, 3], v=[1, 2, 2, 1], w=["a", "b", "c", "d"])
    assert [row["i"] for row in rows_of(Top(3, ["v", "w"]).table(rows))] == [2, 1, 3]


def test_what_is_missing_never_wins_even_if_there_are_too_few():
    rows = table_of([{"v": None}, {"v": NAN}, {}, {"v": pd.NaT}, {"v": 1}, {"v": -math.inf}, {"v": pd.NA}])
    assert rows_of(Top(9, "v").table(rows)) == [{"v": 1}, {"v": -math.inf}]
    assert rows_of(Best("v").table(table(v=[None]))) == []
    assert rows_of(Top(2, ["v", "w"]).table(table(v=[2, 1], w=[None, 0]))) == [{"v": 1, "w": 0}]


def test_large_ints_are_compared_with_floats_exactly():
    rows = table(i=[0, 1, 2], v=[2.0**53, np.int64(BIG), 1])
    assert rows_of(Best("v").table(rows))[0]["i"] == 1


def test_the_best_of_each_group_come_in_the_order_of_the_groups():
    rows = table(g=["y", "x", "y", None, "x", NAN], v=[1, 7, 3, 0, 9, 2])
    assert [row["v"] for row in rows_of(Top(2, "v", within="g").table(rows))] == [3, 1, 9, 7, 2, 0]
    assert [row["v"] for row in rows_of(Best("v", within="g", largest=False).table(rows))] == [1, 7, 0]


def test_the_top_keeps_values_holes_and_dtypes():
    frame = frame_of_many_dtypes([1, 2])
    made = Top(2, "k").table(table_of(frame)).table.frame()
    assert made.dtypes.to_dict() == frame.dtypes.to_dict()
    assert made["whole"].to_list() == [2, BIG]
    assert rows_of(Best("v").table(table_of([{"v": 1, "n": BIG}, {"v": 2}]))) == [{"v": 2}]


def test_values_that_cannot_be_compared_are_named():
    with refused("stage 'top' cannot compare 1 (int) and 'x' (str), which are in the column 'v': "):
        Top(1, "v").table(table(v=[None, 1, 2, "x"]))
    with refused("stage 'best' cannot compare 'a' (str) and 3 (int), which are in the column 'w': "):
        Best(["v", "w"]).table(table(v=[1, 1], w=["a", 3]))
    with refused("stage 'best' cannot compare array([1, 2]) (ndarray) and array([1, 3]) (ndarray), which are in"):
        Best("v").table(table(v=[np.array([1, 2]), np.array([1, 3])]))


class Joker:
    """Compares with everything."""

    def __lt__(self, other):
        return True

    __gt__ = __lt__


def test_values_that_compare_with_the_first_but_not_with_each_other_are_refused_too():
    with refused("stage 'top' cannot compare ") as caught:
        Top(2, "v").table(table(v=[Joker(), 1, "x"]))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("stage", [Top(1, "w"), Top(1, "v", within="w"), Best("w")])
def test_the_top_by_a_column_that_is_not_there_is_refused(stage):
    with refused(f"stage {stage.name!r} reads the column 'w', which the rows do not have there; they have: 'v'"):
        stage.table(table(v=[1]))


@pytest.mark.parametrize("stage", [Top(3, "w"), Top(1, "v", within="w"), Best(["w", "v"])])
def test_there_is_no_best_row_of_an_empty_table(stage):
    assert rows_of(stage.table(EMPTY)) == []
    assert stage.table(table_of(pd.DataFrame({"v": []}))).table.keys == ("v",)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([NAN, 0.5, 1.0])), max_size=40),
    count=st.integers(1, 10),
    largest=st.booleans(),
)
def test_the_top_is_the_beginning_of_a_stable_sort(values, count, largest):
    present = [row for row, value in enumerate(values) if not is_missing(value)]
    expected = sorted(present, key=lambda row: values[row], reverse=largest)[:count]
    made = Top(count, "v", largest=largest).table(table(v=values))
    assert made.parents[0].tolist() == expected


# Apply


def test_a_function_is_applied_to_whole_frames():
    def both(one, two):
        return one.merge(two, on="k")

    made = Apply(both).table(LEFT, RIGHT)
    assert rows_of(made)[0] == INNER[0]
    assert isinstance(made, Table)
    assert rows_of(Apply(lambda frame: frame).table(EMPTY)) == []


def test_a_function_that_returns_no_frame_is_refused():
    with refused("stage 'len' returned 1 (int): it has to return a DataFrame"):
        Apply(len).table(table(v=[1]))


def test_a_frame_that_cannot_be_psets_is_refused_with_the_stage():
    with refused("stage '<lambda>' returned a DataFrame that cannot be psets: the psets have more than one column 'a'"):
        Apply(lambda frame: pd.DataFrame([[1, 2]], columns=["a", "a"])).table(EMPTY)


def test_what_an_applied_function_raises_is_left_as_it_is():
    with pytest.raises(KeyError, match="nowhere"):
        Apply(lambda frame: frame["nowhere"]).table(table(v=[1]))


def test_an_applied_function_that_changes_its_frame_changes_nothing_else():
    frame = pd.DataFrame({"v": [1, 2]})

    def spoil(own):
        own.loc[0, "v"] = 7
        return own

    assert Apply(spoil).table(table_of(frame)).frame()["v"].to_list() == [7, 2]
    assert frame["v"].to_list() == [1, 2]


# Columns known ahead


def known(*names):
    return Columns(names, open=False)


@pytest.mark.parametrize(
    ("stage", "inputs", "expected"),
    [
        (Join("k"), [known("x", "k"), known("k", "y")], known("x", "k", "y")),
        (Join("k"), [known("x", "k"), Columns(("y",))], Columns(("x", "k", "y"))),
        (Join("k"), [UNKNOWN, known("k", "y")], Columns(("k", "y"))),
        (Join("k", suffixes=("_x", "")), [known("k", "v"), known("k", "v", "w")], known("k", "v_x", "v", "w")),
        (Join("k", suffixes=("_x", "_y")), [known("k", "v"), UNKNOWN], Columns(("k",))),
        (Join("k", suffixes=("_x", "_y")), [Columns(("v",)), known("k", "v", "w")], Columns(("k", "v_x", "v_y"))),
        (Concat(), [known("a", "b"), known("b", "c")], known("a", "b", "c")),
        (Concat(), [known("a"), UNKNOWN], Columns(("a",))),
        (Reduce("a", aggregate={"n": ("b", "sum")}), [known("a", "b")], known("a", "n")),
        (Reduce("a", aggregate={"n": ("b", "sum")}), [UNKNOWN], known("a", "n")),
        (Reduce(["a", "b"], aggregate=len), [known("a", "b")], Columns(("a", "b"))),
        (Reduce(worker=count_rows), [known("a", "b")], Columns(())),
        (Top(1, "a", within="b"), [known("a", "b")], known("a", "b")),
        (Best("a"), [UNKNOWN], UNKNOWN),
        (Apply(len), [known("a")], UNKNOWN),
    ],
)
def test_the_columns_are_known_ahead(stage, inputs, expected):
    assert stage.columns(*inputs) == expected


@pytest.mark.parametrize(
    ("stage", "inputs", "message"),
    [
        (
            Join("k"),
            [known("x"), known("k")],
            "stage 'join' joins on the column 'k', which the left table does not have",
        ),
        (Join("k"), [known("k", "v"), Columns(("v",))], "stage 'join': both tables have the column 'v', on which they"),
        (Reduce("a", aggregate=len), [known("b")], "stage 'reduce' reads the column 'a', which the rows do not have"),
        (
            Reduce("a", aggregate={"n": ("b", "sum")}),
            [known("a")],
            "stage 'reduce' reads the column 'b', which the rows do not have there; they have: 'a'",
        ),
        (Top(1, "a", within="b"), [known("a")], "stage 'top' reads the column 'b', which the rows do not have there"),
        (Best("a"), [known("b")], "stage 'best' reads the column 'a', which the rows do not have there"),
    ],
)
def test_a_column_that_cannot_be_there_is_refused_ahead(stage, inputs, message):
    with refused(message):
        stage.columns(*inputs)
