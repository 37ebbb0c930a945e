"""Psets on their way in, and what becomes of columns: no value changes, and what cannot be used is refused by name."""

import collections
import pickle
import types

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import paramsurvey
from paramsurvey.engine.records import Part
from paramsurvey.errors import ParamsurveyError, PsetError
from paramsurvey.tables import Table, joined, table_of


def nothing(pset, system_kwargs, user_kwargs):
    return None


def length(pset, system_kwargs, user_kwargs):
    return {"length": len(pset)}


# What can be psets


class Reversed(collections.abc.Mapping):
    """A mapping that is no dict."""

    def __getitem__(self, key):
        return {"b": 2, "a": 1}[key]

    def __iter__(self):
        return iter(("b", "a"))

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    "psets",
    [
        pytest.param([{"b": 2, "a": 1}], id="list"),
        pytest.param(({"b": 2, "a": 1},), id="tuple"),
        pytest.param(iter([{"b": 2, "a": 1}]), id="iterator"),
        pytest.param(({"b": b, "a": 1} for b in [2]), id="generator"),
        pytest.param(collections.deque([{"b": 2, "a": 1}]), id="deque"),
        pytest.param({"one": {"b": 2, "a": 1}}.values(), id="dict values"),
        pytest.param([collections.OrderedDict(b=2, a=1)], id="ordered dicts"),
        pytest.param([collections.defaultdict(int, b=2, a=1)], id="default dicts"),
        pytest.param([collections.Counter(b=2, a=1)], id="counters"),
        pytest.param([types.MappingProxyType({"b": 2, "a": 1})], id="mapping proxies"),
        pytest.param([Reversed()], id="own mappings"),
        pytest.param(pd.DataFrame({"b": [2], "a": [1]}), id="frame"),
        pytest.param(table_of([{"b": 2, "a": 1}]), id="table"),
    ],
)
def test_psets_may_be_any_table_of_mappings(psets, serial):
    psets = types.SimpleNamespace(table=psets) if isinstance(psets, Table) else psets
    (row,) = serial.map(lambda pset, system, user: {"is": type(pset).__name__}, psets).to_dict()
    assert row == {"b": 2, "a": 1, "is": "dict"}
    assert list(row) == ["b", "a", "is"]


@pytest.mark.parametrize(
    ("psets", "message"),
    [
        ({"a": [1, 2], "b": [3]}, "one dict with the keys 'a', 'b': wrap a single pset in a list.*params.product"),
        (collections.OrderedDict(a=1), "one OrderedDict with the keys 'a': wrap"),
        (dict.fromkeys("abcdefgh"), "'a', 'b', 'c', 'd', 'e', ...: wrap"),
        ("a=1", "the psets are 'a=1', a str: psets are a list or iterator of dicts, a DataFrame, or the results"),
        (b"a", "a bytes: psets are"),
        (None, "the psets are None, a NoneType: psets are"),
        (7, "the psets are 7, a int: psets are"),
        ([{"a": 1}, 7], "pset 1 is 7, a int, not a dict: psets are"),
        ([None], "pset 0 is None, a NoneType, not a dict"),
        ([[("a", 1)]], r"pset 0 is \[\('a', 1\)\], a list, not a dict"),
        (["x" * 100], r"pset 0 is 'xxx.*xxx\.\.\., a str, not a dict"),
        (pd.Series([1, 2]), "pset 0 is 1, a int, not a dict"),
    ],
)
def test_what_is_no_table_is_refused(psets, message, serial):
    with pytest.raises(PsetError, match=message) as caught:
        serial.map(nothing, psets)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ParamsurveyError)


def test_a_column_that_appears_twice_is_refused(serial):
    psets = pd.DataFrame([[1, 2, 3, 4, 5]], columns=["a", "b", "a", "b", "c"])
    with pytest.raises(PsetError, match="more than one column 'a', 'b': rename them"):
        serial.map(nothing, psets)


@pytest.mark.parametrize("name", ["_exception", "_traceback", "_kind", "_attempts"])
def test_the_names_of_our_own_columns_are_refused(name, serial):
    message = f"column '{name}', which is the name of one of our own columns: rename it; or, .* use its missing_psets"
    for psets in [[{"a": 1}, {name: 2}], pd.DataFrame({name: [1]}), iter([{name: 0}])]:
        with pytest.raises(PsetError, match=message):
            serial.map(nothing, psets)


def test_no_psets_give_an_empty_result(serial):
    for psets in [
        [],
        (),
        iter([]),
        pd.DataFrame(),
        pd.DataFrame({"a": pd.Series(dtype="uint8")}),
        serial.map(length, []),
    ]:
        results = serial.map(length, psets)
        assert isinstance(results, paramsurvey.MapResults)
        assert (len(results), len(results.results), len(results.missing)) == (0, 0, 0)
        assert results.to_dict() == list(results.itertuples()) == []
        assert (results.progress.total, results.progress.finished) == (0, 0)
    empty = pd.DataFrame({"a": pd.Series(dtype="uint8")}, index=pd.Index([], name="n"))
    assert_frame_equal(serial.map(length, empty).results, empty)


def test_psets_without_keys_are_psets(serial):
    for psets in [[{}, {}], ({} for _ in range(2)), pd.DataFrame(index=[7, 9])]:
        results = serial.map(length, psets)
        assert results.to_dict() == [{"length": 0}] * 2
    assert list(results.results.index) == [7, 9]
    results = serial.map(nothing, [{}, {}])
    assert (results.to_dict(), len(results.results), results.progress.finished) == ([{}, {}], 2, 2)


def test_a_limit_takes_no_more_of_an_iterator_than_it_needs(serial):
    rows = ({"a": a} for a in range(10))
    results = serial.map(length, rows, limit=3)
    assert [row["a"] for row in results.iterdicts()] == [0, 1, 2]
    assert results.progress.total == 3
    assert next(rows) == {"a": 3}


def test_a_limit_holds_for_frames_and_results_too(serial):
    frame = pd.DataFrame({"a": [5, 6, 7]}, index=["x", "y", "z"])
    limited = serial.map(nothing, frame, limit=2)
    assert list(limited.results.index) == ["x", "y"]
    assert serial.map(nothing, limited, limit=1).to_dict() == [{"a": 5}]
    assert len(serial.map(nothing, limited, limit=9)) == len(serial.map(nothing, frame, limit=0)) - 1 == 2


# What comes back


def frames():
    tokyo = pd.date_range("2026-11-01", periods=3, tz="Asia/Tokyo")
    yield "gaps", pd.DataFrame({"a": [1, 2, 3]}, index=[3, 30, 300])
    yield "descending", pd.DataFrame({"a": [1, 2, 3]}, index=[2, 1, 0])
    yield "duplicates", pd.DataFrame({"a": [1, 2, 3]}, index=["x", "x", "y"])
    yield "named", pd.DataFrame({"a": [1, 2, 3]}, index=pd.Index(list("xyz"), name="station"))
    rows = pd.MultiIndex.from_tuples([("x", 1), ("x", 2), ("x", 2)], names=["station", None])
    yield "row levels", pd.DataFrame({"a": [1, 2, 3]}, index=rows)
    yield "dates as labels", pd.DataFrame({"a": [1, 2, 3]}, index=tokyo)
    yield "column name", pd.DataFrame({"a": [1, 2, 3]}).rename_axis(columns="parameter")
    columns = {
        "float32": np.array([0.1, np.nan, 3], dtype=np.float32),
        "uint8": np.array([1, 2, 255], dtype=np.uint8),
        "uint64": np.array([1, 2, 2**64 - 1], dtype=np.uint64),
        "int64": [2**53 + 1, -(2**63), 2**63 - 1],
        "float64": [0.1, -0.0, np.inf],
        "bool": [True, False, True],
        "complex": [1j, 2, 3],
        "category": pd.Categorical(["b", "a", None], categories=["b", "a", "unused"], ordered=True),
        "string": pd.array(["", None, "x"], dtype="string"),
        "text": ["", "a b", "\N{SNOWMAN}"],
        "Int64": pd.array([1, None, 2**53 + 1], dtype="Int64"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "Float32": pd.array([0.5, None, 1], dtype="Float32"),
        "zoned": tokyo,
        "mixed zones": [tokyo[0], pd.Timestamp("2026-01-01"), pd.NaT],
        "datetime": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
        "timedelta": pd.to_timedelta([1, 2, None], unit="s"),
        "period": pd.period_range("2026-01", periods=3, freq="M"),
        "interval": pd.interval_range(0, 3),
        "sparse": pd.arrays.SparseArray([0, 0, 1]),
        "objects": [None, [1, 2], {"a": 1}],
    }
    for name, values in columns.items():
        yield name, pd.DataFrame({"a": values})


@pytest.mark.parametrize(("name", "frame"), [pytest.param(*case, id=case[0]) for case in frames()])
def test_labels_and_dtypes_of_a_frame_are_kept(name, frame, serial):
    original = frame.copy(deep=True)
    results = serial.map(length, frame)
    assert results.missing.empty, results.missing["_exception"].iloc[0]
    assert_frame_equal(results.results[["a"]], original)
    assert results.results["length"].to_list() == [1, 1, 1]
    assert_frame_equal(frame, original)
    assert_frame_equal(serial.map(nothing, frame).results, original)


@pytest.mark.parametrize(("name", "frame"), [pytest.param(*case, id=case[0]) for case in frames()])
def test_missing_rows_of_a_frame_keep_their_labels_and_dtypes(name, frame, serial):
    seen = iter(range(3))

    def all_but_the_second(pset, system_kwargs, user_kwargs):
        if next(seen) == 1:
            raise ValueError
        return {"length": len(pset)}

    results = serial.map(all_but_the_second, frame, group_size=1)
    assert_frame_equal(results.results[["a"]], frame.iloc[[0, 2]])
    assert_frame_equal(results.missing[["a"]], frame.iloc[[1]])
    assert_frame_equal(results.missing_psets(), frame.iloc[[1]])


def test_columns_in_levels_become_tuples(serial):
    columns = pd.MultiIndex.from_tuples([("x", "a"), ("x", "b")])
    frame = pd.DataFrame([[1, 2], [3, 4]], columns=columns, index=[5, 5])
    results = serial.map(lambda pset, system, user: {"sum": pset["x", "a"] + pset["x", "b"]}, frame)
    assert list(results.results.columns) == [("x", "a"), ("x", "b"), "sum"]
    assert results.to_dict() == [{("x", "a"): 1, ("x", "b"): 2, "sum": 3}, {("x", "a"): 3, ("x", "b"): 4, "sum": 7}]
    assert list(results.results.index) == [5, 5]


HOLES = [
    ([1, None, 3], "Int64"),
    ([2**53 + 1, None, 2**63 - 1], "Int64"),
    ([2**64, None, 1], "object"),
    ([True, None, False], "boolean"),
    ([0.5, None, 1.5], "float64"),
    ([1, None, 0.5], "float64"),
    ([2**53 + 1, None, 0.5], "object"),
    ([np.float32(0.1), None, np.float32(2)], "float32"),
    ([np.uint8(1), None, np.uint8(2)], "UInt8"),
    ([True, None, 1], "object"),
    ([b"x", None, b"y"], "object"),
    ([1j, None, 2j], "object"),
]


@pytest.mark.parametrize(("values", "dtype"), HOLES)
def test_a_missing_key_is_a_hole_and_never_a_value(values, dtype, serial):
    rows = [{"n": n} if value is None else {"n": n, "a": value} for n, value in enumerate(values)]
    given = serial.map(nothing, rows)
    answered = serial.map(
        lambda pset, system, user: dict(list(rows[pset["n"]].items())[1:]), [{"n": n} for n in range(3)]
    )
    for results in (given, answered):
        column = results.results["a"]
        assert str(column.dtype) == dtype
        assert list(column.isna()) == [False, True, False]
        assert (column[0], column[2]) == (values[0], values[2])
        assert results.to_dict() == rows


def test_a_value_that_is_none_is_a_value(serial):
    rows = [{"a": 1}, {"a": None}, {"a": 2}]
    results = serial.map(nothing, rows)
    assert results.results["a"].to_list() == [1, None, 2]
    assert results.results["a"].dtype == object
    assert results.to_dict() == rows


def test_dtypes_are_decided_from_all_values_of_a_column(serial):
    rows = [{"a": a, "b": a, "c": a} for a in range(6000)]
    rows += [{"a": 0.5, "b": "text", "c": 2**64}]
    results = serial.map(nothing, rows)
    assert [str(dtype) for dtype in results.results.dtypes] == ["float64", "object", "object"]
    assert results.results["b"].iloc[-2:].to_list() == [5999, "text"]
    assert results.results["c"].iloc[-1] == 2**64
    assert type(results.results["c"].iloc[0]) is int
    assert results.to_dict() == rows
    assert {type(row["a"]) for row in results.iterdicts()} == {int, float}


def test_strings_have_the_dtype_that_pandas_gives_them(serial):
    results = serial.map(nothing, [{"a": "x"}, {"a": ""}])
    assert results.results["a"].dtype == pd.Series(["x"]).dtype


NAMES = ["a b", "class", "_x", "", "index", "count", "a", "A", 1, 1.5, (1, 2), None, b"x", pd.Timestamp("2026-01-01")]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_any_name_works_for_parameters_and_answers(name, serial):
    for results in (
        serial.map(lambda pset, system, user: {"twice": 2 * pset[name]}, [{name: 1, "z": 0}, {name: 2, "z": 0}]),
        serial.map(lambda pset, system, user: {"twice": 2 * pset[name]}, _frame_of(name)),
    ):
        assert list(results.results.columns) == [name, "z", "twice"]
        assert results.to_dict() == [{name: 1, "z": 0, "twice": 2}, {name: 2, "z": 0, "twice": 4}]
        assert [row[0] for row in results.itertuples()] == [1, 2]
        assert results.results[name].to_list() == [1, 2]
    answered = serial.map(lambda pset, system, user: {name: 7}, [{"z": 1}])
    assert answered.to_dict() == [{"z": 1, name: 7}]
    assert list(answered.results.columns) == ["z", name]
    assert serial.map(length, answered).to_dict() == [{"z": 1, name: 7, "length": 2}]


def _frame_of(name):
    frame = pd.DataFrame([[1, 0], [2, 0]])
    frame.columns = pd.Index([name, "z"], dtype=object, tupleize_cols=False)
    return frame


def test_all_names_at_once(serial):
    rows = [dict.fromkeys(NAMES, 0), {name: n for n, name in enumerate(NAMES)}]
    results = serial.map(nothing, rows)
    assert results.to_dict() == rows
    assert list(results.results.columns) == NAMES
    assert [type(name) for name in results.results.columns] == list(map(type, NAMES))
    assert list(next(iter(results.itertuples()))) == [0] * len(NAMES)


def test_columns_come_in_the_order_of_their_first_appearance(serial):
    results = serial.map(lambda pset, system, user: {"y": 1, "x": 2}, [{"b": 1}, {"a": 1, "b": 2}, {"c": 1}])
    assert list(results.results.columns) == ["b", "a", "c", "y", "x"]


def test_rows_of_dicts_are_labelled_by_their_numbers(serial):
    results = serial.map(lambda pset, system, user: {"b": 1 / pset["a"]}, [{"a": 0}, {"a": 1}, {"a": 0}, {"a": 2}])
    assert list(results.results.index) == [1, 3]
    assert list(results.missing.index) == [0, 2]


def test_results_share_no_memory_with_the_frame_made_of_them_or_given(serial):
    given = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    for psets in (given, given.to_dict("records")):
        results = serial.map(lambda pset, system, user: {"c": pset["a"]}, psets)
        for column in "abc":
            results.results.loc[0, column] = 99
        assert results.to_dict() == [{"a": 1, "b": 0.5, "c": 1}, {"a": 2, "b": 1.5, "c": 2}]
        assert given["a"].to_list() == [1, 2]
        assert results.results.iloc[0].to_list() == [99, 99, 99]


def test_a_frame_that_is_changed_during_the_survey_changes_nothing(serial):
    given = pd.DataFrame({"a": [1, 2]})

    def spoil(user_ret, system_kwargs, user_kwargs):
        given.loc[:, "a"] = 99

    results = serial.map(length, given, out_func=spoil, group_size=1)
    assert results.results["a"].to_list() == [1, 2]
    assert [row["a"] for row in results.iterdicts()] == [1, 2]


def test_a_worker_that_changes_its_pset_changes_no_parameter(serial):
    def meddle(pset, system_kwargs, user_kwargs):
        pset["a"] = pset["a"]
        pset["added"] = 1
        del pset["b"]

    results = serial.map(meddle, [{"a": 1, "b": 2}])
    assert results.to_dict() == [{"a": 1, "b": 2, "added": 1}]


def test_results_can_be_psets_with_every_value_as_it_was(serial):
    rows = [{"a": 2**53 + 1, "b": np.float32(0.1)}, {"a": 0.5}, {"b": [1]}]
    first = serial.map(lambda pset, system, user: {"answer": len(pset)} if "b" in pset else None, rows)
    second = serial.map(lambda pset, system, user: {"types": [type(v).__name__ for v in pset.values()]}, first)
    assert [row["types"] for row in second.iterdicts()] == [["int", "float32", "int"], ["float"], ["list", "int"]]
    assert [{k: v for k, v in row.items() if k != "types"} for row in second.iterdicts()] == first.to_dict()


def test_a_table_survives_pickling():
    table = table_of([{"a": 1, "b": "x"}, {"a": 2}])
    copy = pickle.loads(pickle.dumps(table))
    assert list(copy.dicts()) == [{"a": 1, "b": "x"}, {"a": 2}]


def test_a_reserved_name_in_the_last_pset_is_refused_before_anything_runs(serial):
    ran = []
    with pytest.raises(PsetError, match="column '_kind'"):
        serial.map(lambda *_: ran.append(1), [{"a": 1}] * 8_000 + [{"a": 1, "_kind": 2}])
    assert ran == []


@pytest.mark.parametrize("last", [{"a": 1, "_kind": 2}, {"_kind": 2}])
def test_a_reserved_name_far_into_the_psets_loses_nothing_that_is_finished(serial, last):
    with pytest.raises(PsetError, match="column '_kind'") as caught:
        serial.map(lambda pset, *_: {"b": pset["a"]}, [{"a": i} for i in range(20_000)] + [last])
    results = caught.value.results
    assert len(results) > 0
    assert all(row["a"] == row["b"] for row in results.iterdicts())
    assert len(results) + len(results.missing) == 20_001


@pytest.mark.parametrize("kind", [np.int_, np.longlong, np.int64, np.float64])
@pytest.mark.parametrize("count", [3, 40])
def test_numbers_of_a_frame_arrive_as_they_are_whatever_numpy_calls_their_type(kind, count):
    psets = pd.DataFrame({"n": np.arange(count).astype(kind), "m": np.arange(count).astype(kind)[::-1]})
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        results = session.map(
            lambda pset, system, user: {"same": pset["n"], "other": pset["m"]}, psets, group_size=count
        )
        again = session.map(lambda pset, system, user: {"more": pset["same"]}, results, group_size=count)
    expected = psets["n"].tolist()
    assert again.results["same"].tolist() == again.results["more"].tolist() == expected
    assert again.results["other"].tolist() == expected[::-1]
    assert {type(row["more"]) for row in again.iterdicts()} == {type(expected[0])}


class Key(str):
    """A name that counts how often any name is compared with another."""

    compared = 0

    def __eq__(self, other):
        Key.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("same", [True, False], ids=["the same keys", "keys of their own"])
def test_many_keys_are_not_looked_for_one_behind_the_other(same):
    """Forty parts of five hundred answers: looking for each from the first on would compare five million."""
    names = [[Key(f"{0 if same else part}.{key}") for key in range(500)] for part in range(40)]
    parts = [(row, Part(0, 1, tuple(keys), [[row]] * 500, [], [0.0], [1], {})) for row, keys in enumerate(names)]
    Key.compared = 0
    table, rows = joined(table_of([{"n": n} for n in range(40)]), parts)
    assert (len(table.keys), rows) == (1 + (500 if same else 40 * 500), None)
    assert list(table.column(names[3][7]))[3] == 3
    assert Key.compared < 100_000
