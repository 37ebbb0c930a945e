import copy
import enum
import math
import pickle
import re
from collections import OrderedDict
from itertools import product as itertools_product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from counting import lines_run_in
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_index_equal

import paramsurvey.params
from paramsurvey.dtypes import exact_column
from paramsurvey.errors import PsetError
from paramsurvey.params import add_column, product

STRINGS = pd.Series(["a"]).dtype  # pandas' own: object in pandas 2, str in pandas 3
BIG = 2**53 + 1


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    pass


class WithUnit(np.ndarray):
    """Stands for arrays that know more than their numbers."""


class Results:
    """Stands for a MapResults: something with a to_df()."""

    def __init__(self, frame):
        self._frame = frame

    def to_df(self):
        return self._frame


def same(a, b):
    """Compare values and types, down to the items of containers; NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


# What a column becomes


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, False], "bool"),
        ([1, 2], "int64"),
        ([-(2**63), 2**63 - 1], "int64"),
        ([1, 2**63], "object"),
        ([1, 2**100], "object"),
        ([0.5, math.nan, math.inf], "float64"),
        ([1, 2.5], "float64"),
        ([2**70, 2.5], "float64"),
        ([BIG, 0.5], "object"),
        ([10**400, 0.5], "object"),
        ([1] * 6000 + [0.5], "float64"),
        ([BIG] * 6000 + [0.5], "object"),
        (["a", "b"], STRINGS),
        (["a", "\ud800"], "object"),
        (["a", 1], "object"),
        (["a", None], "object"),
        ([1, None], "object"),
        ([0.5, None], "object"),
        ([None, None], "object"),
        ([True, 2], "object"),
        ([True, 0.5], "object"),
        ([1j, 2j], "object"),
        ([b"a", b"b"], "object"),
        ([[1, 2], [3, 4]], "object"),
        ([(1, 2), (3, 4)], "object"),
        ([{"a": 1}, {}], "object"),
        ([Color.RED, Color.RED], "object"),
        ([Name("a"), Name("b")], "object"),
        ([pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")], "object"),
        ([], "object"),
        ([np.True_, False], "bool"),
        ([np.int8(1), np.int8(2)], "int8"),
        ([np.int64(1), 2], "int64"),
        ([np.uint64(2**64 - 1)] * 2, "uint64"),
        ([np.uint64(2**64 - 1), 1], "object"),
        ([np.float32(0.1), np.float32(2)], "float32"),
        ([np.float64(0.1), 0.5, 3], "float64"),
        ([np.int64(BIG), 0.5], "object"),
        ([np.timedelta64(1, "s"), np.timedelta64(2, "s")], "object"),
    ],
)
def test_a_dtype_is_decided_from_all_values_and_none_changes(values, dtype):
    column = product({"x": values})["x"]
    assert column.dtype == dtype
    for got, given_ in zip(column, values, strict=True):
        assert got is given_ or got == given_ or (got != got and given_ != given_)
        if dtype == "object":
            assert got is given_


scalars = (
    st.booleans()
    | st.integers()
    | st.integers(-4, 4)
    | st.integers(2**53 - 3, 2**53 + 3)
    | st.floats()
    | st.text()
    | st.text(alphabet="a\ud800")
    | st.none()
    | st.binary()
)
anything = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(), scalars, max_size=3)
of_one_kind = st.one_of(
    *(
        st.lists(s, max_size=6)
        for s in (st.booleans(), st.integers(), st.floats(), st.text(), st.integers() | st.floats())
    )
)


@settings(deadline=None)
@given(values=of_one_kind | st.lists(anything, max_size=6))
def test_values_come_back_exactly_as_they_went_in(values):
    column = exact_column(values)
    assert len(column) == len(values)
    for got, value in zip(column, values, strict=True):
        if column.dtype == "float64" and type(value) is int:
            assert int(got) == value
        else:
            assert same(got, value)


def test_objects_in_a_table_are_the_very_ones_that_were_given():
    parts = [[1, 2], {"a": 1}, np.zeros(3), lambda: 0]
    table = product({"x": [1, 2]}, {"y": parts})
    assert [id(y) for y in table["y"]] == [id(y) for y in parts] * 2


def test_a_two_dimensional_array_is_a_sequence_of_its_rows():
    table = product({"x": np.arange(6).reshape(3, 2)})
    assert [x.tolist() for x in table["x"]] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1.5, 2.5], dtype="float32"), "float32"),
        (np.array([1, 2], dtype="uint8"), "uint8"),
        (np.array([1.5, 2.5], dtype=">f8"), "float64"),
        (np.array([True, False]), "bool"),
        (np.array(["a", "b"]), STRINGS),
        (np.array([b"a", b"b"]), "object"),
        (np.array(["a", None], dtype=object), "object"),
        (np.array([1, 2], dtype=object), "int64"),
        (np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[s]"), "datetime64[s]"),
        (np.array([1, 2], dtype="datetime64[ps]"), "object"),
        (np.array([1, 2], dtype=np.longdouble), "object"),
    ],
)
def test_arrays_keep_their_dtype_where_pandas_has_it(array, dtype):
    column = product({"x": array})["x"]
    assert column.dtype == dtype
    assert column.tolist() == array.tolist() or list(column) == list(array)


def test_what_is_masked_in_an_array_becomes_none():
    masked = np.ma.MaskedArray([1, 2], mask=[False, True])
    assert list(product({"x": masked})["x"]) == [1, None]


def test_items_of_an_array_with_units_keep_their_type():
    column = product({"x": np.zeros((2, 2)).view(WithUnit)})["x"]
    assert [type(x) for x in column] == [WithUnit, WithUnit]


@pytest.mark.parametrize(
    "series",
    [
        pd.Series(["b", "a"], dtype="category"),
        pd.Series(pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True)),
        pd.Series(pd.to_datetime(["2024-01-01", None]).tz_localize("Europe/Paris")),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([1.5, 2.5], dtype="float32"),
        pd.Series([1, 2], dtype="object"),
        pd.Series(["a", None], dtype="object"),
        pd.Series(["a", "b"], dtype="string"),
        pd.Series([1.0, 0.0], dtype="Sparse[float64]"),
        pd.Series(pd.period_range("2024-01", periods=2, freq="M")),
    ],
    ids=lambda series: str(series.dtype),
)
def test_dtypes_of_pandas_columns_are_kept(series):
    series = series.rename("x").set_axis([7, 9])
    other = {"y": [1, 2]}
    expected = series.iloc[[0, 0, 1, 1]].reset_index(drop=True)
    index = pd.Index(series.array, name="x")
    for argument in (series, series.to_frame(), {"x": series}, {"x": series.array}):
        pd.testing.assert_series_equal(product(argument, other)["x"], expected)
    if index.dtype == series.dtype:
        pd.testing.assert_series_equal(product({"x": index}, other)["x"], expected)


# The product


def test_the_last_argument_and_the_last_key_vary_fastest():
    assert product({"a": [1, 2], "b": ["x", "y"]}, {"c": range(2)}).to_dict("split")["data"] == [
        list(row) for row in itertools_product([1, 2], ["x", "y"], [0, 1])
    ]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 4), max_size=4))
def test_a_product_has_the_rows_of_itertools_product(sizes):
    table = product(*({f"p{i}": range(size)} for i, size in enumerate(sizes)))
    assert list(table.columns) == [f"p{i}" for i in range(len(sizes))]
    rows = list(table.itertuples(index=False, name=None)) if sizes else [()] * len(table)
    assert rows == list(itertools_product(*map(range, sizes)))
    assert_index_equal(table.index, pd.RangeIndex(len(rows)), exact=True)


A, B = {"a": [1, 2]}, {"b": [3, 4]}


@pytest.mark.parametrize(
    "args",
    [
        ({**A, **B},),
        (OrderedDict([("a", (1, 2)), ("b", range(3, 5))]),),
        (A, {"b": np.array([3, 4])}),
        (A, {"b": (x for x in (3, 4))}),
        (A, {"b": {3: "x", 4: "y"}.keys()}),
        (pd.Series([1, 2], name="a"), pd.Series([3, 4], name="b", index=["x", "y"])),
        (pd.DataFrame(A), pd.DataFrame(B, index=[5, 5])),
        ([{"a": 1}, {"a": 2}], [{"b": 3}, {"b": 4}]),
        (iter([{"a": 1}, {"a": 2}]), B),
        (Results(pd.DataFrame(A)), B),
        (product(A), product(B)),
        (product(A, B),),
        ({}, A, {}, B),
    ],
)
def test_all_kinds_of_arguments_say_the_same(args):
    assert_frame_equal(product(*args), pd.DataFrame({"a": [1, 1, 2, 2], "b": [3, 4, 3, 4]}))


def test_rows_of_one_argument_stay_together():
    rows = [{"x": 0, "y": 1}, {"x": 2, "y": 3}]
    assert product({"s": [7, 8]}, rows).to_dict("records") == [{"s": s, **row} for s in (7, 8) for row in rows]


def test_the_product_of_nothing_is_one_pset_without_parameters():
    assert_frame_equal(product(), pd.DataFrame(index=pd.RangeIndex(1)))
    assert_frame_equal(product({}), product())
    assert product([{}, {}]).shape == (2, 0)


@pytest.mark.parametrize(
    "empty", [{"b": []}, {"b": np.zeros(0)}, pd.DataFrame({"b": []}), pd.Series([], name="b", dtype="category")]
)
def test_an_argument_without_values_leaves_all_columns_and_no_rows(empty):
    for args in ((A, empty, {"c": ["x"]}), (empty, A, {"c": [1]})):
        table = product(*args)
        assert len(table) == 0
        assert sorted(table.columns) == ["a", "b", "c"]
        assert table["a"].dtype == "int64"
    assert product([]).shape == (0, 0)


@pytest.mark.parametrize("names", [["a b", "class"], [1, 2.5], [("u", 1), ("v", 2)], [None, "_x"], [True, "a"]])
def test_any_hashable_name_is_a_column(names):
    table = product({name: [0, 1] for name in names})
    assert list(table.columns) == names
    assert [type(name) for name in table.columns] == [type(name) for name in names] or names == [1, 2.5]
    assert not isinstance(table.columns, pd.MultiIndex)
    wider = add_column(table, ("n", 1), lambda row: row[names[0]])
    assert list(wider.columns) == [*names, ("n", 1)]


def test_a_product_is_an_ordinary_writable_frame():
    array, frame = np.array([1, 2]), pd.DataFrame({"b": [1.5, 2.5]})
    for args in (({"a": array}, frame), ({"a": array},), (frame,)):
        table = product(*args)
        table.loc[0, table.columns[0]] = 7
        table[table.columns[0]] *= 2
        table["new"] = range(len(table))
        assert table.iloc[0, 0] == 14
    assert array.tolist() == [1, 2]
    assert frame["b"].tolist() == [1.5, 2.5]


def test_categories_are_made_of_strings_and_only_when_asked_for():
    args = {"s": ["b", "a"], "n": [1, 2], "m": ["x", None], "bad": ["\ud800", "a"]}, pd.DataFrame({"t": ["u", "v"]})
    plain, inferred = product(*args), product(*args, infer_category=True)
    assert [c for c in plain if plain[c].dtype == "category"] == []
    assert [c for c in "snmt" if inferred[c].dtype == "category"] == ["s", "t"]
    assert inferred.astype(object).to_dict("records") == plain.astype(object).to_dict("records")


def test_a_million_rows_take_a_moment():
    """None is dealt with by a line of ours."""
    parameters = {"a": range(100), "b": list(map(str, range(100))), "c": [0.5] * 50, "d": [None, [1]]}
    assert product(parameters).shape == (1_000_000, 4)
    assert lines_run_in(Path(paramsurvey.params.__file__).parent, product, parameters) < 10_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (({"a": {1, 2}},), r"argument 1: the values of 'a' are the set \{1, 2\}, which has no order: make it a list"),
        (
            (A, {"b": "xyz"}),
            r"argument 2: the values of 'b' are 'xyz', which is one value and not a sequence of values: "
            r"wrap it in a list, \{'b': \['xyz'\]\}",
        ),
        (({"a": 3},), r"argument 1: the values of 'a' are 3, .* wrap it in a list, \{'a': \[3\]\}"),
        (({"a": None},), r"values of 'a' are None, .* wrap it in a list"),
        (({"a": b"x"},), r"values of 'a' are b'x', .* wrap it in a list"),
        (({"a": np.array(3)},), r"values of 'a' are array\(3\), .* wrap it in a list"),
        (({"a": {"x": 1}},), r"values of 'a' are a dict: if that is one value, wrap it in a list"),
        (({"a": pd.DataFrame()},), r"values of 'a' are a DataFrame: .* make it an argument of its own"),
        ((A, B, {"a": [3]}), r"column 'a' appears twice in the product, in argument 1 and in argument 3: rename it"),
        (
            (pd.DataFrame([[1, 2]], columns=["x", "x"]),),
            r"column 'x' appears twice in the product, in argument 1 and in argument 1",
        ),
        ((A, pd.Series([1])), r"argument 2 is a Series without a name: give it one, as in series.rename\('mass'\)"),
        ((3,), r"argument 1 is 3, of type int, which is no table: give a DataFrame, a list of dicts or a MapResults"),
        (("abc",), r"argument 1 is 'abc', of type str, which is no table"),
        (({1, 2},), r"argument 1 is \{1, 2\}, of type set, which is no table"),
        (([1, 2],), r"argument 1 has 1 as item 0, which is no dict: .* give them its name, \{'mass': \[\.\.\.\]\}"),
        (([{"a": 1}, {"b": 1}],), r"argument 1: items 0 and 1 do not have the same keys, they differ in '.*': give"),
    ],
)
def test_what_cannot_be_multiplied_is_refused_with_a_remedy(args, message):
    with pytest.raises(PsetError, match=message):
        product(*args)


# Adding a column


def test_a_column_is_computed_from_each_row_and_the_table_stays_as_it_is():
    table = product({"a": [1, 2], "b": [10, 20]})
    before = table.copy()
    wider = add_column(table, "c", lambda row: row.a + row["b"])
    assert_frame_equal(table, before)
    assert_frame_equal(wider, before.assign(c=[11, 21, 12, 22]))


def test_rows_give_every_column_by_item_and_by_attribute():
    table = pd.DataFrame([[1, 2, 3, 4]], columns=["values", "a b", 5, "get"])
    seen = []
    add_column(table, "x", lambda row: seen.append(row))
    (row,) = seen
    assert (row.values, row["a b"], row[5], row.get) == (1, 2, 3, 4)
    assert list(row) == ["values", "a b", 5, "get"]
    assert len(row) == 4
    assert "a b" in row
    assert repr(row).startswith("Row({")
    assert copy.copy(row)["a b"] == pickle.loads(pickle.dumps(row)).get - 2
    with pytest.raises(KeyError, match="no column 'c' in this row; it has: 'values', 'a b', 5, 'get'"):
        row["c"]
    with pytest.raises(AttributeError, match="no column 'c' in this row; it has: 'values', 'a b', 5, 'get'"):
        row.c  # noqa: B018 - asking is the point


def test_rows_can_be_used_like_dicts():
    wider = add_column([{"a": 1, "b": 2}], "d", lambda row: [dict(**row), row.get("z", 9), list(row.items())])
    assert wider["d"][0] == [{"a": 1, "b": 2}, 9, [("a", 1), ("b", 2)]]


def test_rows_hold_plain_python_values():
    seen = []
    add_column(
        product({"a": [1], "b": [1.5], "c": [True], "d": ["x"]}), "e", lambda row: seen.extend(dict(row).values())
    )
    assert [type(value) for value in seen] == [int, float, bool, str]


@pytest.mark.parametrize("kind", [Results, lambda frame: frame.to_dict("records"), lambda frame: frame])
def test_a_column_can_be_added_to_every_kind_of_table(kind):
    frame = pd.DataFrame({"a": [1, 2]})
    assert_frame_equal(add_column(kind(frame), "b", lambda row: row.a / 2), frame.assign(b=[0.5, 1.0]))


def test_a_table_keeps_its_index_its_dtypes_and_its_names():
    table = pd.DataFrame({1: pd.Categorical(["x", "y"]), "d": pd.array([1, None], dtype="Int64")}, index=[4, 4])
    table.columns.name = "parameter"
    wider = add_column(table, 0.5, lambda row: row[1])
    assert_frame_equal(wider[[1, "d"]], table)
    assert wider.columns.name == "parameter"
    assert wider[0.5].tolist() == ["x", "y"]
    assert wider.index.tolist() == [4, 4]


def test_tables_without_rows_or_columns_get_a_column():
    assert add_column(pd.DataFrame({"a": []}), "b", lambda row: 1 / 0).shape == (0, 2)
    assert add_column([], "b", lambda row: 1 / 0).shape == (0, 1)
    assert add_column(product(), "b", lambda row: 1).to_dict("records") == [{"b": 1}]


def test_columns_of_tables_with_levels_get_a_column():
    table = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("u", 1), ("v", 2)]))
    wider = add_column(table, ("w", 3), lambda row: row["u", 1] + row["v", 2])
    assert wider["w", 3].tolist() == [3]


def test_computed_values_follow_the_rule_of_all_columns():
    values = [BIG, 0.5]
    assert add_column(product({"i": [0, 1]}), "x", lambda row: values[row.i])["x"].tolist() == values
    names = add_column(product({"i": [0, 1]}), "x", lambda row: "ab"[row.i], infer_category=True)["x"]
    assert names.dtype == "category"
    assert names.tolist() == ["a", "b"]


def test_an_error_of_the_function_names_the_row_and_the_column():
    with pytest.raises(ZeroDivisionError) as caught:
        add_column(product({"a": [1, 0]}), "inverse", lambda row: 1 / row.a)
    assert caught.value.__notes__ == ["while computing column 'inverse' of row 1: Row({'a': 0})"]
    with pytest.raises(ZeroDivisionError) as caught:
        add_column(pd.DataFrame({"a": [0]}, index=["x"]), "inverse", lambda row: 1 / row.a)
    assert caught.value.__notes__ == ["while computing column 'inverse' of row 0 (label 'x'): Row({'a': 0})"]


async def later(row):
    return 1


@pytest.mark.parametrize(
    ("func", "message"),
    [
        ("a + 1", "add_column('b'): 'a + 1', of type str, cannot be called: give a function of a row, such as lambda"),
        (later, "is async or has a yield: a call returns before it has run; give a function that returns a value"),
        (lambda row: (yield row), "is async or has a yield"),
    ],
)
def test_what_is_no_function_of_a_row_is_refused_before_any_row(func, message):
    with pytest.raises(PsetError, match=re.escape(message)):
        add_column([], "b", func)


def test_what_rows_of_results_say_of_themselves_are_no_parameters():
    frame = pd.DataFrame({"a": [1, 2], "_status": ["finished"] * 2, "_seconds": [0.5, 0.5]})
    assert list(product(Results(frame), {"b": [1]})) == ["a", "b"]
    assert list(add_column(Results(frame), "b", lambda row: row.a)) == ["a", "b"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pd.DataFrame({"a": [1], "b": [2]}),
            r"a column 'b' already, with columns \['a', 'b'\]: choose another name, .* table.drop\(columns=\['b'\]\)",
        ),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "has more than one column 'x': rename them"),
        ({"a": [1]}, "the table given to add_column.. is .*, of type dict, which is no table"),
        ([1], "the table given to add_column.. has 1 as item 0, which is no dict"),
    ],
)
def test_tables_that_cannot_have_the_column_are_refused_with_a_remedy(table, message):
    with pytest.raises(PsetError, match=message):
        add_column(table, "b", lambda row: 1)
