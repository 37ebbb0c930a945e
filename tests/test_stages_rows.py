"""Row-wise stages: no value changes, and what comes of a row depends on nothing but the row."""

import collections
import decimal
import itertools
import math
import re

import attrs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey.engine.columns import HOLE
from paramsurvey.errors import StageError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.psets import SLAB
from paramsurvey.stages.base import UNKNOWN, Columns, columns_after, kind_of
from paramsurvey.stages.rows import Derive, Drop, Explode, Keep, Product, Rename, Where
from paramsurvey.tables import Table, concatenated, table_of

KNOWN = Columns(("a", "b"), open=False)
NO_NAME = "cannot be the name of a column; a name is a text, a number, or anything else that can be the key of a dict"


def dicts_after(stage, rows):
    """Return the rows that a stage makes, as dicts."""
    return [pset for made in stage.rows(table_of(rows)) for pset in made.table.dicts()]


def only_column(stage, rows, name):
    return [pset.get(name) for pset in dicts_after(stage, rows)]


def same(left, right):
    """Tell whether rows are equal to the last bit and in all types."""
    return list(map(typed_bytes, left)) == list(map(typed_bytes, right))


def refused(message):
    return pytest.raises(StageError, match="^" + re.escape(message) + "$")


# What holds for all

EVERY = [
    Product({"seed": [1, 2]}),
    Derive({"z": "a * 2"}),
    Where("a == a"),
    Drop("a"),
    Keep("a"),
    Rename({"a": "z"}),
    Explode("a"),
]


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_they_are_row_wise_stages_with_names_of_their_own(stage):
    assert kind_of(stage) == "rows"
    assert stage.name == type(stage).__name__.lower()
    assert stage.keeps_labels is not isinstance(stage, Product | Explode)


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
@pytest.mark.parametrize("empty", [[], pd.DataFrame({"a": []}), pd.DataFrame()], ids=["list", "columns", "frame"])
def test_no_rows_are_never_an_error(stage, empty):
    for made in stage.rows(table_of(empty)):
        assert made.table.count == len(made.parents) == 0
        assert len(made.table.frame()) == 0


def test_the_columns_of_no_rows_are_told():
    [made] = Product({"seed": []}).rows(table_of([{"a": 1}]))
    assert (made.table.count, made.table.keys) == (0, ("a", "seed"))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda name: Product({"x": [1]}, name=name), "product"),
        (lambda name: Derive({"x": "a"}, name=name), "derive"),
        (lambda name: Where("a", name=name), "where"),
        (lambda name: Drop("a", name=name), "drop"),
        (lambda name: Keep("a", name=name), "keep"),
        (lambda name: Rename({"a": "b"}, name=name), "rename"),
        (lambda name: Explode("a", name=name), "explode"),
    ],
)
def test_a_stage_may_have_any_other_name_that_is_text(make, name):
    assert make(f"my {name}").name == f"my {name}"
    with refused("name=3: the name of a stage is a str with something in it"):
        make(3)
    with refused("name='': the name of a stage is a str with something in it"):
        make("")


# Integers without limit

EXACT = [
    *("a + b", "a - b", "a * b", "-a", "abs(a)", "a // (b * b + 1)", "a * b + a - b", "a * b // 3", "a ** 2 - b ** 2"),
    *("2 ** 70 * a", "a - 2 ** 63", "(a - b) * (a + b) % 7", "(a * a) / 3", "(a + a) * 1.5"),
]
INTS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**31, -(2**31), 3037000500, 2**62, 2**63 - 1, -(2**63), 2**63, -(2**70)]),
)


@settings(max_examples=60)
@given(st.sampled_from(EXACT), st.lists(st.fixed_dictionaries({"a": INTS, "b": INTS}), min_size=1, max_size=6))
def test_integers_of_an_expression_are_those_that_python_has(expression, rows):
    made = only_column(Derive({"x": expression}), rows, "x")
    alone = [only_column(Derive({"x": expression}), [row], "x")[0] for row in rows]
    assert same(made, alone)
    if "/ 3" not in expression.replace("//", "") and "1.5" not in expression:
        assert same(made, only_column(Derive({"x": expression}, per_row=True), rows, "x"))


def test_a_column_of_expressions_is_of_64_bits_unless_it_needs_more():
    rows = [{"a": 2**32, "b": n} for n in (1, 2**31)]
    [small] = Derive({"x": "a * b - 1"}).rows(table_of(rows[:1] * 100))
    assert small.table.frame()["x"].dtype == np.int64
    [large] = Derive({"x": "a * b"}).rows(table_of(rows))
    assert large.table.frame()["x"].tolist() == [2**32, 2**63]
    assert dicts_after(Where("a * b > 2**62"), rows) == rows[1:]


def test_powers_without_end_are_refused_and_those_of_one_are_not():
    base = [{"a": 1, "b": 10**12}, {"a": -1, "b": 10**12 + 1}, {"a": 0, "b": 10**12}, {"a": 2, "b": 64}]
    assert only_column(Derive({"x": "a ** b"}), base, "x") == [1, -1, 0, 2**64]
    with pytest.raises(
        StageError, match=re.escape("OverflowError: 3 ** 1000000000000 would have more than 65536 bits")
    ):
        dicts_after(Derive({"x": "a ** b"}), [*base, {"a": 3, "b": 10**12}])


def test_integers_of_other_types_are_never_wrapped_either():
    small = [{"a": np.int8(100), "b": np.int8(b)} for b in (1, 2)]
    assert same(only_column(Derive({"x": "a * b"}), small[:1], "x"), [np.int8(100)])
    message = "OverflowError: a result does not fit int8, the type of these columns: write .astype('object') behind one"
    with pytest.raises(StageError, match=re.escape(message)):
        dicts_after(Derive({"x": "a * b"}), small)
    assert only_column(Derive({"x": "a.astype('object') * b"}), small, "x") == [100, 200]
    assert only_column(Derive({"x": "a * 1000"}), small, "x") == [100_000] * 2
    for mixed, result in (
        ({"a": np.uint64(2**63), "b": 1}, "float64"),
        ({"a": np.uint64(1), "b": np.uint64(2)}, "uint64"),
    ):
        with pytest.raises(StageError, match=f"a result does not fit {result}"):
            dicts_after(Derive({"x": "a + b" if result == "float64" else "a - b"}), [mixed])


def test_a_stage_comes_after_one_other():
    with refused(
        "stage 'drop' takes the rows of one stage, and was given those of 2: make one table of them before, by "
        ".join() or .concat()"
    ):
        Drop("a").columns(KNOWN, KNOWN)


@pytest.mark.parametrize("name", ["_exception", "_kind"])
def test_names_of_our_own_columns_are_refused(name):
    for make in (
        lambda: Derive({name: "a"}, name="s"),
        lambda: Rename({"a": name}, name="s"),
        lambda: Explode("a", into=name, name="s"),
    ):
        with refused(f"stage 's': {name!r} is the name of one of our own columns: choose another one"):
            make()
    with refused(f"stage 'explode': {name!r} is the name of one of our own columns: choose another one"):
        dicts_after(Explode("a"), [{"a": [{name: 1}]}])
    with pytest.raises(StageError, match=f"^stage 'product': the psets have a column '{name}'"):
        Product({name: [1]})


# The rule above all others

VALUES = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**70)]),
    st.floats(allow_nan=True),
    st.booleans(),
    st.none(),
    st.sampled_from(["", "a", "\ud800", pd.NA, pd.NaT, decimal.Decimal("0.1")]),
    st.sampled_from([np.float32(0.1), np.int8(7), np.float64(2.5), np.bool_(True), np.complex128(1j)]),
    st.sampled_from([pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta("1s")]),
)
CELLS = st.dictionaries(st.sampled_from(["a", "b"]), VALUES)
ELEMENTS = st.one_of(
    st.lists(VALUES, max_size=3),
    st.lists(st.dictionaries(st.sampled_from(["x", "y"]), VALUES), max_size=3),
    st.sampled_from([(1, 2.5), np.array([1, 2]), np.array([0.5], np.float32), pd.Series(["a", None]), range(2)]),
)
TABLES = st.lists(st.builds(lambda cells, lists: {**cells, "lists": lists}, CELLS, ELEMENTS), max_size=25)


def doubled(a=0):
    """Compute with whatever can be computed with, and give the others back."""
    first = a if isinstance(a, int) else a.iloc[0]
    return a * 2 if isinstance(first, int | float | np.number) else a


def nothing_in(a=None, b=None):
    return True if a is None or b is None else a.isna() | b.isna()


SLICED = {
    "product": Product({"seed": [1, 2.5, 3]}, {"name": ["x", None]}),
    "derive": Derive({"c": doubled, "d": lambda c, b=None: c if b is None else b, "one": "1"}),
    "derive per row": Derive({"c": lambda a=7, **others: (a, len(others))}, per_row=True),
    "derive of all": Derive({"c": lambda lists, **rest: [(len(each), len(rest)) for each in lists]}),
    "where": Where(nothing_in),
    "where equal": Where(lambda b=None: False if b is None else b.map(lambda each: type(each) is int)),
    "drop": Drop("a"),
    "keep": Keep("b", "a"),
    "rename": Rename({"a": "z", "b": "a"}),
    "explode": Explode("lists"),
    "explode into": Explode("lists", into="element"),
}


@pytest.mark.parametrize("kind", SLICED)
@given(rows=TABLES, cuts=st.lists(st.integers(0, 25), max_size=6))
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_how_rows_are_cut_into_slices(kind, rows, cuts):
    stage, table = SLICED[kind], table_of(rows)
    whole = list(stage.rows(table))
    psets, parents = [], []
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, stop in itertools.pairwise(bounds):
        for made in stage.rows(table.slice(start, stop)):
            psets += made.table.dicts()
            parents += (made.parents + start).tolist()
    assert same([pset for made in whole for pset in made.table.dicts()], psets)
    assert np.concatenate([made.parents for made in whole]).tolist() == parents
    assert parents == sorted(parents)


@pytest.mark.parametrize("kind", SLICED)
@given(rows=TABLES)
@settings(max_examples=30, deadline=None)
def test_no_value_of_another_column_changes(kind, rows):
    stage, table = SLICED[kind], table_of(rows)
    kept = {Rename: {"lists"}, Explode: {"a", "b"}}.get(type(stage), {"a", "b", "lists"})
    for made in stage.rows(table):
        for pset, parent in zip(made.table.dicts(), made.parents, strict=True):
            for key in kept & pset.keys():
                assert same([pset[key]], [rows[parent][key]])


FRAME = pd.DataFrame(
    {
        "kind": pd.Categorical(["x", "y", "x"], categories=["y", "x", "z"]),
        "when": pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]),
        "n": pd.array([1, None, 3], dtype="Int64"),
        "a": np.array([1, 2, 3], dtype=np.int16),
    },
    index=["r", "s", "t"],
)


@pytest.mark.parametrize(
    ("stage", "untouched", "rows"),
    [
        (Product({"seed": [1, 2]}), ["kind", "when", "n", "a"], [0, 0, 1, 1, 2, 2]),
        (Derive({"c": "a * 0.5"}), ["kind", "when", "n", "a"], [0, 1, 2]),
        (Where({"kind": "x"}), ["kind", "when", "n", "a"], [0, 2]),
        (Where("a > 0"), ["kind", "when", "n", "a"], [0, 1, 2]),
        (Drop("a"), ["kind", "when", "n"], [0, 1, 2]),
        (Keep("when", "kind"), ["when", "kind"], [0, 1, 2]),
        (Rename({"a": "z"}), ["kind", "when", "n"], [0, 1, 2]),
        (Derive({"c": lambda kind: [[1]] * len(kind)}), ["kind", "when", "n", "a"], [0, 1, 2]),
    ],
)
def test_columns_of_a_frame_keep_their_dtypes(stage, untouched, rows):
    [made] = stage.rows(table_of(FRAME))
    expected = FRAME[untouched].iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.table.frame()[untouched].reset_index(drop=True), expected)
    assert list(made.table.frame().index) == list(FRAME.index[rows]) or not stage.keeps_labels


def test_rows_out_of_lists_keep_the_dtypes_of_a_frame():
    [made] = Explode("lists").rows(table_of(FRAME.assign(lists=[[1, 2], [], [3]])))
    expected = FRAME.iloc[[0, 0, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.table.frame()[list(FRAME)], expected)


@pytest.mark.parametrize("stage", [Derive({"c": "a"}), Where("a > 1"), Drop("b"), Keep("a"), Rename({"a": "c"})])
def test_labels_are_kept_where_a_row_stays_a_row(stage):
    labelled = attrs.evolve(table_of([{"a": 1}, {"a": 2}]), index=pd.Index(["r", "s"]))
    [made] = stage.rows(labelled)
    assert list(made.table.index) == ["r", "s"][-made.table.count :]
    [made] = stage.rows(table_of([{"a": 1}, {"a": 2}]))
    assert made.table.index is None


def test_a_column_that_every_row_of_a_slice_lacks_is_no_column():
    table = Table(("a", "b"), [[1], [HOLE]], 1)
    for stage in (Product({"b": [5]}), Derive({"b": "a"}), Rename({"a": "b"}), Explode("lists", into="b")):
        rows = table.beside(Table(("lists",), [[[1]]], 1))
        [made] = stage.rows(rows)
        assert "b" in next(made.table.dicts())


# Product


def test_the_grid_varies_fastest_and_its_last_argument_most():
    rows = dicts_after(Product({"x": [1, 2]}, [{"y": 1, "z": 2}, {"y": 3, "z": 4}]), [{"a": 1}, {"a": 2}])
    assert [(row["a"], row["x"], row["y"], row["z"]) for row in rows] == [
        (1, 1, 1, 2), (1, 1, 3, 4), (1, 2, 1, 2), (1, 2, 3, 4), (2, 1, 1, 2), (2, 1, 3, 4), (2, 2, 1, 2), (2, 2, 3, 4),
    ]  # fmt: skip
    assert Product({"x": [1, 2]}, {"y": [1, 2, 3]}).fan_out == 6


def test_values_of_a_grid_are_exact():
    rows = dicts_after(Product({"x": [2**53 + 1, 0.5, None, 2**70]}), [{}])
    assert same(rows, [{"x": 2**53 + 1}, {"x": 0.5}, {"x": None}, {"x": 2**70}])


def test_a_huge_product_comes_in_pieces():
    made = list(Product({"x": range(SLAB + 5)}).rows(table_of([{"a": 1}, {"a": 2}])))
    assert [piece.table.count for piece in made] == [SLAB, SLAB, 10]
    assert same(concatenated([piece.table for piece in made]).dicts(),
                [{"a": a, "x": x} for a in (1, 2) for x in range(SLAB + 5)])  # fmt: skip
    assert np.concatenate([piece.parents for piece in made]).tolist() == [0] * (SLAB + 5) + [1] * (SLAB + 5)


def test_a_huge_product_is_not_made_before_it_is_asked_for():
    pieces = Product({"x": range(10**6)}).rows(table_of([{"a": each} for each in range(10**4)]))
    assert next(pieces).table.count == SLAB


def test_categories_of_a_grid_are_kept_beside_a_frame():
    [made] = Product({"s": ["p", "q"]}, infer_category=True).rows(table_of(FRAME))
    assert made.table.frame()["s"].dtype == "category"
    assert made.table.column("s") == ["p", "q"] * 3


def test_a_column_that_rows_and_grid_have_is_refused():
    message = (
        "stage 'product' makes the column 'a', which the rows have already: give it another name, "
        "or drop or rename the other one before"
    )
    with refused(message):
        Product({"a": [1]}).columns(KNOWN)
    with refused(message):
        dicts_after(Product({"a": [1]}), [{"b": 1}, {"a": 1}])


def test_a_product_tells_its_columns():
    assert Product({"x": [1]}, {"y": []}).columns(KNOWN) == Columns(("a", "b", "x", "y"), open=False)
    assert Product({"x": [1]}).columns(UNKNOWN) == Columns(("x",), open=True)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ((), "stage 'product': there is nothing to multiply with: give a dict of lists, {'seed': [1, 2]}"),
        (({},), "stage 'product': there is nothing to multiply with: give a dict of lists, {'seed': [1, 2]}"),
        (
            ({"x": 3},),
            "stage 'product': argument 1: the values of 'x' are 3, which is one value and not a sequence of values: "
            "wrap it in a list, {'x': [3]}",
        ),
        (
            ({"x": [1]}, {"x": [2]}),
            "stage 'product': column 'x' appears twice in the product, in argument 1 and in argument 2: rename it in "
            "one of them, or leave it out",
        ),
    ],
)
def test_grids_that_are_none_are_refused_at_once(grids, message):
    with refused(message):
        Product(*grids)


def test_infer_category_is_true_or_false():
    with refused("stage 'product': infer_category=1: it is True or False"):
        Product({"x": [1]}, infer_category=1)


# Derive


@pytest.mark.parametrize(
    ("function", "column", "expected"),
    [
        pytest.param(lambda a: a + 1, [1, 2], [2, 3], id="ints"),
        pytest.param(lambda a: a / 2, [1, 2], [0.5, 1.0], id="floats"),
        pytest.param(lambda a: a * 2, [1, 0.5, 2**53 + 1], [2, 1.0, 2**54 + 2], id="ints beside floats"),
        pytest.param(lambda a: a * 2, [1, 2**63], [2, 2**64], id="more than 64 bits"),
        pytest.param(lambda a: a.isna(), [1, None, math.nan], [False, True, True], id="None and NaN"),
        pytest.param(lambda a: a + "!", ["x", "y"], ["x!", "y!"], id="text"),
        pytest.param(lambda a: a.str.len(), ["x", "\ud800y"], [1, 2], id="bad text"),
        pytest.param(lambda a: ~a, [True, False], [False, True], id="bools"),
        pytest.param(lambda a: a.to_numpy(np.float32), [0.1], [np.float32(0.1)], id="float32"),
        pytest.param(lambda a: a.to_numpy(">i4"), [7], [np.int32(7)], id="other byte order"),
        pytest.param(lambda a: list(a), [1, 0.5, None, "x"], [1, 0.5, None, "x"], id="lists"),
        pytest.param(lambda a: tuple(a), [1, 2], [1, 2], id="tuples"),
        pytest.param(lambda a: range(len(a)), [5, 6], [0, 1], id="ranges"),
        pytest.param(lambda a: pd.Index(a), [5, 6], [5, 6], id="indexes"),
        pytest.param(lambda a: pd.array(a, dtype="Int8"), [5, 6], [5, 6], id="extension arrays"),
        pytest.param(lambda a: pd.array([1, None], dtype="Int64"), [5, 6], [1, pd.NA], id="NA"),
        pytest.param(lambda a: pd.Categorical(a), ["x", "y"], ["x", "y"], id="categories"),
        pytest.param(lambda a: np.ma.masked_less(a.to_numpy(), 6), [5, 6], [None, 6], id="masked"),
        pytest.param(lambda a: np.array(["x", "yy"]), [5, 6], ["x", "yy"], id="numpy text"),
        pytest.param(lambda a: a.sort_values(), [2, 1], [2, 1], id="sorted"),
        pytest.param(lambda a: pd.Series([8, 9], index=["p", "q"]), [2, 1], [8, 9], id="labels"),
        pytest.param(lambda a: a.dt.year, [pd.Timestamp("2020-02-01")], [np.int32(2020)], id="dates"),
        pytest.param(lambda a: a.dt.total_seconds(), [pd.Timedelta("2s")], [2.0], id="durations"),
        pytest.param(lambda a: a.isna(), [pd.NaT], [True], id="no date"),
        pytest.param(lambda: 2**70, [1, 2], [2**70, 2**70], id="constant"),
        pytest.param(lambda: [1, 2], [1, 2], [[1, 2], [1, 2]], id="constant list"),
    ],
)
def test_values_of_a_new_column(function, column, expected):
    assert same(only_column(Derive({"c": function}), [{"a": value} for value in column], "c"), expected)


def test_dates_that_are_computed_are_timestamps():
    rows = [{"a": pd.Timestamp("2020-01-01")}, {"a": pd.Timestamp("2020-01-01", tz="UTC")}]
    later = only_column(Derive({"c": lambda a: a + pd.Timedelta("1D")}), rows, "c")
    assert later == [pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-02", tz="UTC")]


def test_an_array_for_each_row_is_a_value():
    first, second = only_column(Derive({"c": lambda a: np.array([[1, 2], [3, 4]])}), [{"a": 1}, {"a": 2}], "c")
    assert (first.tolist(), second.tolist()) == ([1, 2], [3, 4])


@pytest.mark.parametrize("values", [[1, 2] * 20, [0.5, 1.5] * 20, [np.float32(1)] * 40, ["x"] * 40])
def test_a_function_that_writes_into_its_columns_changes_no_row(values):
    def writes(a):
        a.iloc[:] = a.iloc[1]
        return a

    for rows in ([{"a": value} for value in values], pd.DataFrame({"a": values})):
        table = table_of(rows)
        [made] = Derive({"b": writes, "c": "a"}).rows(table)
        assert list(made.table.column("a")) == values
        assert list(made.table.column("c")) == values


def test_an_array_that_is_returned_twice_is_no_longer_the_users():
    kept = np.zeros(20, np.float32)
    [made] = Derive({"c": lambda a: kept}).rows(table_of([{"a": 1}] * 20))
    kept += 1
    assert list(made.table.column("c")) == [0] * 20


def test_later_columns_read_earlier_ones():
    stage = Derive({"c": "a + 1", "d": lambda c, a: c * a, ("e", 1): "d"})
    assert dicts_after(stage, [{"a": 2}]) == [{"a": 2, "c": 3, "d": 6, ("e", 1): 6}]
    assert (stage.reads, stage.makes) == (("a",), ("c", "d", ("e", 1)))
    assert stage.columns(KNOWN) == Columns(("a", "b", "c", "d", ("e", 1)), open=False)
    assert stage.columns(UNKNOWN) == Columns(("c", "d", ("e", 1)), open=True)


def test_a_parameter_with_a_default_may_be_missing():
    rows = [{"a": 1}, {"a": 2, "b": 3}]
    assert only_column(Derive({"c": lambda a, b=10: a + b}), rows, "c") == [11, 5]
    assert only_column(Derive({"c": lambda a, b=10: a + b}, per_row=True), rows, "c") == [11, 5]


def test_a_function_may_answer_with_one_value_where_it_has_its_defaults():
    rows = [{"a": 1}, {"a": 2, "b": 3}, {"a": 4}]
    assert only_column(Derive({"c": lambda a, b=None: 0 if b is None else a + b}), rows, "c") == [0, 5, 0]
    assert dicts_after(Where(lambda a, b=None: b is not None and b > 2), rows) == [{"a": 2, "b": 3}]


def test_all_other_columns_go_to_two_stars():
    rows = [{"a": 1, "b": 2, "d": 3}]
    assert only_column(Derive({"c": lambda a, **rest: rest["b"] + rest["d"]}), rows, "c") == [5]
    assert only_column(Derive({"c": lambda a, **rest: rest}, per_row=True), rows, "c") == [{"b": 2, "d": 3}]
    with refused(
        "stage 'derive', column 'c': the function <lambda> takes every column as a named parameter (**), but 1 is not "
        "a text; name the parameters that it needs, or drop or rename the column before"
    ):
        dicts_after(Derive({"c": lambda **rest: 0}), [{1: 2}])


def test_values_of_a_row_are_its_own_and_so_are_those_that_are_returned():
    value = object()
    [row] = dicts_after(Derive({"c": lambda a: (type(a), value)}, per_row=True), [{"a": 2**70}])
    assert row["c"] == (int, value)
    assert same(only_column(Derive({"c": lambda a: a}, per_row=True), [{"a": None}, {"a": 1}], "c"), [None, 1])


def test_workers_of_every_kind_are_functions():
    Point = collections.namedtuple("Point", ["a", "b"])
    assert only_column(Derive({"c": Point}, per_row=True), [{"a": 1, "b": 2}], "c") == [Point(1, 2)]


@pytest.mark.parametrize(
    ("stage", "rows", "message"),
    [
        (
            Derive({"c": lambda x: x}),
            [{"a": 1}],
            "stage 'derive', column 'c' reads the column 'x', which the rows do not have there; they have: 'a'",
        ),
        (
            Derive({"c": lambda b: b}),
            [{"a": 1, "b": 1}, {"a": 2}],
            "stage 'derive', column 'c' reads the column 'b', which the row {'a': 2} does not have: give the parameter "
            "a default, or leave out such rows before",
        ),
        (
            Derive({"a": lambda b: b}),
            [{"a": 1, "b": 1}],
            "stage 'derive' makes the column 'a', which the rows have already: give it another name, or drop or "
            "rename the other one before",
        ),
        (
            Derive({"c": "a + b"}, name="sum"),
            [{"a": 1, "b": "x"}],
            "stage 'sum', column 'c': the expression 'a + b' raised",
        ),
        (
            Derive({"c": lambda a: 1 / a}, per_row=True),
            [{"a": 1}, {"a": 0}],
            "stage 'derive', column 'c': the function <lambda> raised ZeroDivisionError: division by zero for the "
            "values {'a': 0}",
        ),
        (
            Derive({"c": lambda a: a[a > 1]}),
            [{"a": 1}, {"a": 2}],
            "stage 'derive', column 'c': the function <lambda> returned 1 values for 2 rows: it returns one for each; "
            ".where(condition) leaves out rows",
        ),
        (
            Derive({"c": lambda a: a.mean()}),
            [{"a": 1}, {"a": 2}],
            "stage 'derive', column 'c': the function <lambda> returned",
        ),
        (
            Derive({"c": lambda a: None}),
            [{"a": 1}],
            "stage 'derive', column 'c': the function <lambda> returned None, of type NoneType, for 1 rows: it returns "
            "a Series, an array or a list with a value for each; with per_row=True it is called for each row, and "
            ".apply(function) is for what needs the whole table, such as a mean",
        ),
    ],
)
def test_what_goes_wrong_in_derive_names_stage_column_and_value(stage, rows, message):
    with pytest.raises(StageError, match="^" + re.escape(message)):
        dicts_after(stage, rows)


def test_what_a_function_raised_is_the_cause():
    with pytest.raises(StageError) as caught:
        dicts_after(Derive({"c": lambda a: a.nowhere}), [{"a": 1}])
    assert isinstance(caught.value.__cause__, AttributeError)
    assert str(caught.value).endswith(
        "it was called with whole columns, while with per_row=True it is called with the values of each row"
    )


def yields(a):
    yield a


async def waits(a):
    return a


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            [("c", "a")],
            "stage 'derive': [('c', 'a')], of type list: it takes a dict, such as {'area': 'width * height'}",
        ),
        ({}, "stage 'derive': it names no column; it takes a dict, such as {'area': 'width * height'}"),
        ({None: "a"}, f"stage 'derive': None {NO_NAME}"),
        (
            {"c": 3},
            "stage 'derive', column 'c': 3, of type int, is neither a function of columns, such as lambda width, "
            "height: width * height, nor an expression, such as 'width * height'",
        ),
        (
            {"c": math.sqrt},
            "stage 'derive', column 'c': the function sqrt takes 'x' by its position only, and columns have names; "
            "write a function around it, such as lambda x: function(x), whose parameters are names of columns",
        ),
        (
            {"c": lambda *a: a},
            "stage 'derive', column 'c': the function <lambda> takes 'a' by its position only, and columns have names; "
            "write a function around it, such as lambda x: function(x), whose parameters are names of columns",
        ),
        (
            {"c": max},
            "stage 'derive', column 'c': the function max does not tell the names of its parameters; "
            "write a function around it, such as lambda x: function(x), whose parameters are names of columns",
        ),
        (
            {"c": yields},
            "stage 'derive', column 'c': the function yields is async or has a yield: a call returns before it has run",
        ),
        (
            {"c": waits},
            "stage 'derive', column 'c': the function waits is async or has a yield: a call returns before it has run",
        ),
    ],
)
def test_what_cannot_be_derived_is_refused_at_once(columns, message):
    with refused(message):
        Derive(columns)


def test_per_row_is_true_or_false():
    for make in (Derive, Where):
        with pytest.raises(StageError, match=r"per_row='yes': it is True or False$"):
            make({"c": "a"}, per_row="yes")


def test_columns_that_cannot_be_there_are_refused_ahead():
    with refused("stage 'derive' reads the column 'x', which the rows do not have there; they have: 'a', 'b', 'c'"):
        columns_after(Derive({"c": "a", "d": "x * c"}), KNOWN)
    with refused(
        "stage 'derive' makes the column 'b', which the rows have already: give it another name, or drop or rename the "
        "other one before"
    ):
        columns_after(Derive({"b": "a"}), KNOWN)
    assert Derive({"c": lambda a, x=1: a}).columns(KNOWN).names == ("a", "b", "c")


# Expressions


@pytest.mark.parametrize(
    ("text", "per_row", "expected"),
    [
        ("b - a", False, [3, -1.5]),
        (" np.minimum(a, b) ", False, [1, 0.5]),
        ("np.max([a, b], axis=0)", False, [4, 2]),
        ("abs(a - b)", False, [3, 1.5]),
        ("round(b / a, 1)", False, [4.0, 0.2]),
        ("(a > 1) & (a < 3)", False, [False, True]),
        ("a.astype(float)", False, [1.0, 2.0]),
        ("a < float('inf')", False, [True, True]),
        ("a.astype(str).str.len()", False, [1, 1]),
        ("1 < a < 3", True, [False, True]),
        ("min(a, b) if a > 1 or not b else None", True, [None, 0.5]),
        ("a in (1, 7)", True, [True, False]),
        ("f'{a:03d}'", True, ["001", "002"]),
        ("np.mean([a, b])", True, [np.float64(2.5), np.float64(1.25)]),
        ("7", False, [7, 7]),
    ],
)
def test_expressions(text, per_row, expected):
    rows = [{"a": 1, "b": 4}, {"a": 2, "b": 0.5}]
    got = only_column(Derive({"c": text}, per_row=per_row), rows, "c")
    assert got == expected
    assert list(map(type, got)) == list(map(type, expected)) or "np." in text


def test_an_expression_reads_its_names_in_order():
    assert Derive({"c": "width * np.sqrt(height) + abs(width)"}).reads == ("width", "height")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a +", "'a +' is no expression: invalid syntax"),
        ("c = a", "'c = a' is no expression: "),
        ("", "'' is no expression: invalid syntax"),
        ("a\0", "'a\\x00' is no expression: "),
        (
            "sqrt(a)",
            "the expression 'sqrt(a)' calls sqrt(), which it does not know; it knows np and abs, min, max, round, len, "
            "int, float, str, bool: write a function for anything else",
        ),
        ("np.sqroot(a)", "the expression 'np.sqroot(a)' has np.sqroot, which numpy does not have; did you mean"),
        ("np.zzzzzz(a)", "has np.zzzzzz, which numpy does not have; see its documentation"),
        ("a.map(lambda v: v)", "the expression 'a.map(lambda v: v)' has a lambda in it: write a function instead"),
        ("[v for v in a]", "has a comprehension in it: write a function instead"),
        ("(c := a)", "has an assignment in it: write a function instead"),
        (
            "a > 1 and a < 3",
            "in the expression 'a > 1 and a < 3', 'and' and 'or' do not work with columns: write (a) & (b) or "
            "(a) | (b), or give per_row=True",
        ),
        ("not a", "'not' does not work with columns: write ~(a), or give per_row=True"),
        (
            "1 < a < 3",
            "a chain of comparisons does not work with columns: write (a < b) & (b < c), or give per_row=True",
        ),
        ("a if b else 1", "'if' does not work with columns: write np.where(condition, a, b), or give per_row=True"),
        ("a in (1, 2)", "'in' does not work with columns: write a.isin([...]), or give per_row=True"),
        ("a is None", "'is' does not work with columns: write a.isna(), or give per_row=True"),
        ("f'{a}'", "an f-string does not work with columns: give per_row=True"),
        ("max(a, b)", "max() does not work with columns: write np.maximum(a, b), or give per_row=True"),
        ("int(a)", "int() does not work with columns: write a.astype(int), or give per_row=True"),
        (
            "a - a.mean()",
            "mean() looks at all rows, and of them there is only a part here: .apply(function) is for what needs the "
            "whole table; for a list in each row, give per_row=True",
        ),
        ("np.cumsum(a)", "cumsum() looks at all rows"),
    ],
)
def test_expressions_that_cannot_work_are_refused_at_once(text, message):
    for make in (lambda: Derive({"c": text}), lambda: Where(text)):
        with pytest.raises(StageError, match=re.escape(message)):
            make()


# Where


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda a: a > 1, [1, 3]),
        (lambda a: (a > 1).to_numpy(), [1, 3]),
        (lambda a: [True] * len(a), [0, 1, 2, 3]),
        (lambda a: np.zeros(len(a), bool), []),
        (lambda: True, [0, 1, 2, 3]),
        ("a == 2", [1]),
        ({"a": 2}, [1]),
        ({"a": [1, 3]}, [0, 2, 3]),
        ({"a": {1, 3}}, [0, 2, 3]),
        ({"a": np.array([1.0])}, [0, 2]),
        ({"a": range(2, 4), "b": "y"}, [1]),
        ({"a": []}, []),
        ({"b": ("x", None)}, [0, 2]),
        ({"b": None}, [2]),
        ({"c": [[1, 2], 5]}, [0, 1]),
        ({"c": [np.array([1])]}, [3]),
    ],
)
@pytest.mark.parametrize("times", [1, 20])
def test_rows_for_which_it_is_true_are_kept(condition, expected, times):
    rows = [
        {"a": 1, "b": "x", "c": [1, 2]},
        {"a": 2, "b": "y", "c": 5},
        {"a": 1, "b": None, "c": {}},
        {"a": 3, "b": "z", "c": np.array([1])},
    ] * times
    [made] = Where(condition).rows(table_of(rows))
    places = [start + place for start in range(0, len(rows), 4) for place in expected]
    assert made.parents.tolist() == places
    assert made.parents.dtype == np.int64
    assert same(made.table.dicts(), [rows[place] for place in places])


def test_equality_is_that_of_python():
    rows = [{"a": 2**53 + 1}, {"a": 2.0**53}, {"a": True}, {"a": 1.0}, {"a": "1"}]
    assert dicts_after(Where({"a": 2**53}), rows) == [{"a": 2.0**53}]
    assert dicts_after(Where({"a": 1}), rows) == [{"a": True}, {"a": 1.0}]


def test_a_condition_is_asked_row_by_row_if_wanted():
    assert dicts_after(Where("a and 1 < a < 3", per_row=True), [{"a": 2}, {"a": 5}]) == [{"a": 2}]


@pytest.mark.parametrize(
    ("stage", "rows", "message"),
    [
        (
            Where("a * 1"),
            [{"a": 7}],
            "stage 'where': the expression 'a * 1' gave 7, of type int, for the row {'a': 7}, not True or False: "
            "compare it with something, as in x > 0",
        ),
        (
            Where(lambda a: pd.array([True, None], dtype="boolean"), name="w"),
            [{"a": 1}, {"a": 2}],
            "stage 'w': the function <lambda> gave <NA>, of type NAType, for the row {'a': 2}, not True or False: say "
            "what becomes of it, as in (x > 0).fillna(False)",
        ),
        (
            Where(lambda a: None, per_row=True),
            [{"a": 1}],
            "stage 'where': the function <lambda> gave None, of type NoneType, for the row {'a': 1}, not True or "
            "False: say what becomes of it, as in (x > 0).fillna(False)",
        ),
        (
            Where("b > 1"),
            [{"a": 1}],
            "stage 'where' reads the column 'b', which the rows do not have there; they have: 'a'",
        ),
        (
            Where({"b": 1}),
            [{"b": 1}, {"a": 1}],
            "stage 'where' reads the column 'b', which the row {'a': 1} does not have: leave out such rows before, or "
            "write a function with a default",
        ),
    ],
)
def test_what_goes_wrong_in_where_names_the_row(stage, rows, message):
    with refused(message):
        dicts_after(stage, rows)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (3, "stage 'where': 3, of type int, is neither a function of columns"),
        ({}, "stage 'where': it names no column; it takes a dict, such as {'site': ['a', 'b']}"),
        (
            {"a": [1, math.nan]},
            "stage 'where': nan in the column 'a' equals nothing, not even itself: write a condition, such as "
            "lambda x: x.isna()",
        ),
    ],
)
def test_what_is_no_condition_is_refused_at_once(condition, message):
    with pytest.raises(StageError, match="^" + re.escape(message)):
        Where(condition)


def test_a_dict_is_not_asked_row_by_row():
    with refused("stage 'where': per_row=True is for functions and expressions, and the condition is a dict"):
        Where({"a": 1}, per_row=True)


def test_where_tells_what_it_reads():
    assert Where({"a": 1, "b": 2}).reads == ("a", "b")
    assert Where(lambda a, b=1: a > b).reads == ("a",)
    assert Where("a > b").columns(KNOWN) == KNOWN
    with refused("stage 'where' reads the column 'x', which the rows do not have there; they have: 'a', 'b'"):
        Where({"x": 1}).columns(KNOWN)


# Drop, Keep, Rename


def test_columns_are_dropped_kept_and_renamed():
    rows = [{"a": 1, "b": 2, "c": 3}]
    assert dicts_after(Drop("a", "c"), rows) == dicts_after(Drop(["a", "c"]), rows) == [{"b": 2}]
    assert list(dicts_after(Keep("c", "a"), rows)[0].items()) == [("c", 3), ("a", 1)]
    assert list(dicts_after(Rename({"a": "x", "b": "a"}), rows)[0].items()) == [("x", 1), ("a", 2), ("c", 3)]


def test_a_row_may_lack_what_is_dropped_kept_or_renamed():
    assert dicts_after(Drop("b"), [{"a": 1}]) == [{"a": 1}]
    assert dicts_after(Keep("b"), [{"a": 1}]) == [{}]
    assert dicts_after(Rename({"b": "c"}), [{"a": 1}]) == [{"a": 1}]


def test_dropping_every_column_leaves_the_rows():
    assert dicts_after(Drop("a"), [{"a": 1}, {"a": 2}]) == [{}, {}]


def test_their_columns_are_known_ahead():
    assert Drop("a").columns(KNOWN) == Columns(("b",), open=False)
    assert Drop("a").columns(UNKNOWN) == UNKNOWN
    assert Keep("b").columns(KNOWN) == Keep("b").columns(UNKNOWN) == Columns(("b",), open=False)
    assert Rename({"a": "z"}).columns(KNOWN) == Columns(("z", "b"), open=False)
    assert Rename({"a": "b", "b": "a"}).columns(KNOWN) == Columns(("b", "a"), open=False)
    assert Rename({"a": "z"}).columns(UNKNOWN) == Columns(("z",), open=True)


@pytest.mark.parametrize("stage", [Drop("x"), Keep("x"), Rename({"x": "y"})], ids=lambda stage: stage.name)
def test_columns_that_are_known_not_to_be_there_are_refused(stage):
    with refused(f"stage {stage.name!r} reads the column 'x', which the rows do not have there; they have: 'a', 'b'"):
        stage.columns(KNOWN)


def test_a_new_name_that_is_taken_is_refused():
    message = (
        "stage 'rename' makes the column 'b', which the rows have already: give it another name, "
        "or drop or rename the other one before"
    )
    with refused(message):
        Rename({"a": "b"}).columns(KNOWN)
    with refused(message):
        dicts_after(Rename({"a": "b"}), [{"a": 1}, {"b": 1}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Drop(), "stage 'drop': it names no column; give the name of one, or a list of names"),
        (lambda: Keep([]), "stage 'keep': it names no column; give the name of one, or a list of names"),
        (lambda: Drop("a", "a"), "stage 'drop': it names the column 'a' twice: name it once"),
        (lambda: Keep("a", None), f"stage 'keep': None {NO_NAME}"),
        (lambda: Rename({"a": "z", "b": "z"}), "stage 'rename': it makes the column 'z' twice: give each another name"),
        (lambda: Rename({}), "stage 'rename': it names no column; it takes a dict, such as {'old': 'new'}"),
        (lambda: Rename("a"), "stage 'rename': 'a', of type str: it takes a dict, such as {'old': 'new'}"),
        (lambda: Explode(None), f"stage 'explode': None {NO_NAME}"),
    ],
)
def test_names_that_are_none_are_refused_at_once(make, message):
    with refused(message):
        make()


# Explode


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[1, "x", None], []], [1, "x", None]),
        ([(1, 2.5), [2**70]], [1, 2.5, 2**70]),
        ([np.array([1, 2]), np.array([0.5, 1]), np.array([1], np.int8)], [1, 2, 0.5, 1.0, np.int8(1)]),
        ([pd.Series([3, 4], index=[1, 0]), pd.Index(["x"])], [3, 4, "x"]),
        ([range(2), collections.deque([5])], [0, 1, 5]),
        ([[[1], [2]]], [[1], [2]]),
        ([[], []], []),
    ],
)
def test_elements_become_rows(lists, expected):
    rows = [{"n": n, "lists": each} for n, each in enumerate(lists)]
    assert same(only_column(Explode("lists"), rows, "lists"), expected)
    assert same(only_column(Explode("lists", into="one"), rows, "one"), expected)


def test_dicts_become_columns_and_those_of_one_row_may_be_others():
    rows = [{"n": 1, "got": [{"x": 1}, {"y": 2, "got": 3}]}, {"n": 2, "x": 7, "got": [{"y": 1}]}, {"n": 3, "got": [4]}]
    assert dicts_after(Explode("got"), rows) == [
        {"n": 1, "x": 1},
        {"n": 1, "y": 2, "got": 3},
        {"n": 2, "y": 1, "x": 7},
        {"n": 3, "got": 4},
    ]
    assert dicts_after(Explode("got", into="one"), rows[:1]) == [
        {"n": 1, "one": {"x": 1}},
        {"n": 1, "one": {"y": 2, "got": 3}},
    ]


def test_long_lists_come_in_pieces():
    rows = [{"n": n, "lists": range(length)} for n, length in enumerate([3, 0, 2 * SLAB, 5])]
    made = list(Explode("lists").rows(table_of(rows)))
    assert [piece.table.count for piece in made] == [SLAB, SLAB, 8]
    assert np.concatenate([piece.parents for piece in made]).tolist() == [0] * 3 + [2] * 2 * SLAB + [3] * 5
    assert list(concatenated([piece.table for piece in made]).column("lists")) == [
        element for row in rows for element in row["lists"]
    ]


@pytest.mark.parametrize("value", ["ab", b"ab", 3, None, {"x": 1}, {1}, math.nan, np.array(3)], ids=repr)
def test_what_is_no_list_is_refused_by_its_value(value):
    with pytest.raises(StageError) as caught:
        dicts_after(Explode("x", name="e"), [{"x": [1]}, {"x": value}])
    assert str(caught.value) == (
        f"stage 'e' makes rows of the lists in the column 'x', but the row {{'x': {value!r}}} has {value!r} there, of "
        f"type {type(value).__name__}: make it a list, an empty one if there is nothing, or leave out such rows before"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"n": 1, "x": [{"n": 2}]}],
            "stage 'explode' makes the column 'n', which the rows have already: give it another name, or drop or "
            "rename the other one before",
        ),
        (
            [{"x": [{"n": 2}, 3]}],
            "stage 'explode': of the elements of [{'n': 2}, 3], in the column 'x', some are dicts and others are not: "
            "give into= a name to have them all in one column",
        ),
        (
            [{"x": [1]}, {"n": 1}],
            "stage 'explode' reads the column 'x', which the row {'n': 1} does not have: leave out such rows before, "
            "or give them an empty list",
        ),
        (
            [{"n": 1}],
            "stage 'explode' reads the column 'x', which the rows do not have there; they have: 'n'",
        ),
    ],
)
def test_what_goes_wrong_in_explode(rows, message):
    with refused(message):
        dicts_after(Explode("x"), rows)


def test_the_columns_of_elements_are_known_if_they_are_named():
    assert Explode("a").columns(KNOWN) == Columns(("b",), open=True)
    assert Explode("a", into="z").columns(KNOWN) == Columns(("b", "z"), open=False)
    assert Explode("a", into="a").columns(KNOWN) == Columns(("b", "a"), open=False)
    with refused("stage 'explode' reads the column 'x', which the rows do not have there; they have: 'a', 'b'"):
        Explode("x").columns(KNOWN)
    with pytest.raises(StageError, match="makes the column 'b', which the rows have already"):
        Explode("a", into="b").columns(KNOWN)
