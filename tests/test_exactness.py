"""No value changes on its way: from a pset to a worker, from a worker to the results, from there into the DataFrame."""

import math
import struct
import threading
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_workers import keeps_its_hands_off, makes_itself_at_home

import paramsurvey

pytestmark = pytest.mark.unmeasured

# What is identical


def identical(one, other):
    """Tell whether two values are the same in every bit that a program could ask for: types, signs, dtypes, order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and type(one) is float:
        return struct.pack("<d", one) == struct.pack("<d", other)
    if type(one) is complex:
        return identical(one.real, other.real) and identical(one.imag, other.imag)
    if isinstance(one, np.ndarray):
        return _identical_arrays(one, other)
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and _identical_scalars(one, other)
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if type(one) is dict:
        return (
            list(map(type, one)) == list(map(type, other))
            and list(one) == list(other)
            and all(identical(one[key], other[key]) for key in one)
        )
    if type(one) in (set, frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    return bool(one == other)


def _identical_arrays(one, other):
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.hasobject:
        return all(map(identical, one.ravel().tolist(), other.ravel().tolist()))
    return one.tobytes() == other.tobytes()


def _identical_scalars(one, other):
    if one.dtype.kind in "fc":  # not their bytes: long doubles have bytes that mean nothing
        return repr(one) == repr(other) and (one == other or one != one)
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (1, np.int64(1)),
        (np.int8(1), np.int64(1)),
        (1.0, np.float64(1)),
        (2**53, 2**53 + 1),
        ("", b""),
        ([1], (1,)),
        ([1], [1.0]),
        ({"a": 1}, {"a": True}),
        ({1: 0}, {True: 0}),
        ({1}, {True}),
        (None, float("nan")),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (np.zeros(1), -np.zeros(1)),
        (np.array([1], dtype=object), np.array([True], dtype=object)),
        (np.timedelta64(1, "s"), np.timedelta64(1000, "ms")),
        (complex(-0.0, 1), complex(0.0, 1)),
    ],
)
def test_identical_is_stricter_than_equal(one, other):
    assert not identical(one, other)
    assert identical(one, one)
    assert identical(other, other)


def identical_rows(rows, others):
    """Tell whether two tables have the same rows with the same keys; keys come in the order of the columns."""
    if len(rows) != len(others):
        return False
    return all(
        set(row) == set(other) and all(identical(row[key], other[key]) for key in row)
        for row, other in zip(rows, others, strict=True)
    )


def assert_shown_exactly(frame, rows):
    """Every cell of the frame equals the value of its row; where a row has none, the cell is missing."""
    assert len(frame) == len(rows)
    for key in frame.columns:
        for cell, row in zip(frame[key], rows, strict=True):
            if key not in row:
                assert cell is pd.NA or cell is pd.NaT or cell != cell, (key, cell)
            else:
                assert _equals(cell, row[key]), (key, cell, row[key], frame[key].dtype)


def _equals(cell, value):
    if isinstance(value, float | np.floating) and math.isnan(value):
        return isinstance(cell, float | np.floating) and math.isnan(cell)
    if isinstance(value, bool | np.bool_) or isinstance(cell, bool | np.bool_):
        return isinstance(value, bool | np.bool_) and isinstance(cell, bool | np.bool_) and bool(cell) == bool(value)
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(
        value, np.timedelta64 | np.longdouble
    ):
        if isinstance(value, float | np.floating) and math.isinf(value):
            return float(cell) == float(value)
        return _exact_number(cell) == _exact_number(value)  # numpy and pandas compare after rounding
    if isinstance(value, complex | np.complexfloating):
        return cell == value or value != value
    if isinstance(value, np.timedelta64 | np.datetime64):
        return bool(cell == value) or bool(np.isnat(value) and pd.isna(cell))
    return identical(cell, value)


def _exact_number(value):
    return Fraction(int(value)) if isinstance(value, int | np.integer) else Fraction(float(value))


# What values there are


integers = st.one_of(
    st.integers(),
    st.integers(-3, 3),
    st.sampled_from(
        [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400]
    ),
)
floats = st.floats() | st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0**53, 1e308, 5e-324])
NUMPY_TYPES = [np.dtype(code).type for code in "?bhilBHILefdgFDG"]  # not q, Q: numpy's own pickles make l, L of them


@st.composite
def numpy_scalars(draw, kind=None):
    kind = kind or draw(st.sampled_from(NUMPY_TYPES))
    if kind is np.bool_:
        return kind(draw(st.booleans()))
    if issubclass(kind, np.integer):
        limits = np.iinfo(kind)
        return kind(draw(st.integers(int(limits.min), int(limits.max))))
    with np.errstate(over="ignore"):
        return kind(draw(floats))


times = st.builds(np.timedelta64, st.integers(-(2**62), 2**62), st.sampled_from(["D", "s", "ms", "ns"]))
arrays = st.one_of(
    st.lists(floats, max_size=4).map(lambda values: np.array(values, dtype=np.float64)),
    st.lists(st.integers(0, 255), max_size=4).map(lambda values: np.array(values, dtype=np.uint8)),
    st.lists(st.integers(), max_size=3).map(lambda values: np.fromiter(values, dtype=object, count=len(values))),
    st.sampled_from(
        [np.zeros((2, 3)), np.zeros((0, 2), dtype="f4"), np.array(7), np.array(["a", ""]), np.zeros(2, "M8[s]")]
    ),
    st.sampled_from([np.zeros(20_000), np.arange(10, dtype=">i4"), np.asfortranarray(np.eye(3)), np.arange(6)[::2]]),
)
texts = st.text(max_size=5) | st.sampled_from(["", "\0", "nan", "None", "\ud800", "é"])
atoms = st.one_of(integers, floats, st.booleans(), st.none(), texts, st.binary(max_size=5), st.complex_numbers())
containers = st.recursive(
    atoms | numpy_scalars(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers(2, 9), inner, max_size=3),
        st.frozensets(st.integers() | st.text(max_size=3), max_size=3),
        st.sets(st.text(max_size=3), max_size=3),
    ),
    max_leaves=5,
)
values = st.one_of(atoms, numpy_scalars(), times, arrays, containers)

# Columns are often of one kind, and it is where one value is not that something goes wrong.
kinds_of_columns = [
    integers,
    floats,
    integers | floats,
    st.booleans(),
    st.booleans() | integers,
    texts,
    texts | st.none(),
    integers | st.none(),
    numpy_scalars(),
    times,
    *(numpy_scalars(kind) for kind in NUMPY_TYPES),
    values,
]


@st.composite
def tables(draw, names):
    """Draw rows whose columns mostly have a kind, and of which some lack some keys."""
    count = draw(st.integers(1, 12))
    lacking = draw(st.sampled_from([0, 0, 1, 5]))
    columns = {
        name: draw(st.sampled_from(kinds_of_columns)) for name in draw(st.sets(st.sampled_from(names), max_size=3))
    }
    rows = [
        {name: draw(column) for name, column in columns.items() if draw(st.integers(0, 9)) >= lacking}
        for _ in range(count)
    ]
    return rows * draw(st.sampled_from([1, 1, 20]))  # long columns travel otherwise


def answer_of_row(pset, system_kwargs, user_kwargs):
    return user_kwargs["answers"][pset["row"]]


def echo(pset, system_kwargs, user_kwargs):
    return {"echo": pset}


GROUP_SIZES = st.sampled_from([None, 1, 3, 100])
exactly = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@exactly
@given(psets=tables(["a", "b c", 1, ("x", 2), None]), group_size=GROUP_SIZES)
def test_psets_come_back_exactly_as_they_went_in(session, psets, group_size):
    results = session.map(echo, psets, group_size=group_size)
    assert results.missing.empty, results.missing["_traceback"].iloc[0]
    rows = results.to_dict()
    assert identical_rows([{k: v for k, v in row.items() if k != "echo"} for row in rows], psets)
    assert identical_rows([row["echo"] for row in rows], psets), "a worker was given something else"
    assert_shown_exactly(results.results.drop(columns="echo"), psets)


@exactly
@given(answers=tables(["y", "b c", 1, ("x", 2), None]), group_size=GROUP_SIZES)
def test_answers_come_back_exactly_as_they_were_returned(session, answers, group_size):
    psets = [{"row": row} for row in range(len(answers))]
    results = session.map(answer_of_row, psets, group_size=group_size, user_kwargs={"answers": answers})
    assert results.missing.empty, results.missing["_traceback"].iloc[0]
    expected = [pset | answer for pset, answer in zip(psets, answers, strict=True)]
    assert identical_rows(results.to_dict(), expected)
    assert_shown_exactly(results.results, expected)


@exactly
@given(psets=tables(["a", "b c", 1]))
def test_results_as_psets_are_exactly_what_they_were(session, psets):
    first = session.map(echo, psets)
    again = session.map(lambda pset, system, user: {"second": pset}, first)
    assert identical_rows([row["second"] for row in again.iterdicts()], first.to_dict())


@exactly
@given(psets=tables(["a", "b c", 1]))
def test_missing_psets_are_exactly_what_they_were(session, psets):
    results = session.map(lambda pset, system, user: [], psets)
    assert identical_rows(results.missing_psets(), psets)
    assert_shown_exactly(results.missing.iloc[:, :-4], psets)


# The cases of old, in tables long enough for several chunks


LONG = [
    pytest.param([*range(6000), 0.5], id="6000 ints and then a float"),
    pytest.param([*range(6000), 2**53 + 1, 0.5], id="an int that no float can be"),
    pytest.param([0.5] * 6000 + [7], id="6000 floats and then an int"),
    pytest.param([*range(6000), None], id="6000 ints and then None"),
    pytest.param([*range(6000), True], id="6000 ints and then a bool"),
    pytest.param([*range(6000), 2**64], id="6000 ints and then one beyond 64 bits"),
    pytest.param([*range(6000), "x"], id="6000 ints and then a text"),
    pytest.param([*map(np.float32, np.linspace(0, 1, 6000)), 0.1], id="6000 float32 and then a float"),
    pytest.param(list(map(np.uint8, np.arange(250))) * 24 + [-1], id="6000 uint8 and then an int"),
    pytest.param([np.float32(0.1), np.float64(0.1)] * 3000, id="float32 and float64"),
    pytest.param(["x"] * 6000 + [float("nan")], id="6000 texts and then NaN"),
]


@pytest.mark.parametrize("column", LONG)
def test_the_last_value_of_a_long_column_changes_none_before_it(session, column):
    psets = [{"a": value} for value in column]
    for results in (
        session.map(lambda pset, system, user: None, psets),
        session.map(answer_of_row, [{"row": row} for row in range(len(psets))], user_kwargs={"answers": psets}),
    ):
        rows = [{"a": row["a"]} for row in results.iterdicts()]
        assert identical_rows(rows, psets)
        assert_shown_exactly(results.results[["a"]], psets)


def test_dtypes_of_long_columns_are_the_narrowest_that_are_exact(session):
    def dtype(column):
        return str(session.map(lambda pset, system, user: None, [{"a": value} for value in column]).results["a"].dtype)

    assert dtype(range(6000)) == "int64"
    assert dtype([*range(6000), 0.5]) == "float64"
    assert dtype([*range(6000), 2**53 + 1, 0.5]) == "object"
    assert dtype([np.float32(1)] * 6000) == "float32"
    assert dtype([True] * 6000) == "bool"
    assert dtype([2**64 - 1] * 10) == "object"
    assert dtype([np.uint64(2**64 - 1)] * 6000) == "uint64"


def test_large_arrays_come_back_in_every_bit(session):
    def image(pset, system_kwargs, user_kwargs):
        return {"image": np.full((300, 300), pset["a"], dtype=np.float32), "text": "x" * 100_000}

    results = session.map(image, [{"a": a} for a in range(20)])
    for row in results.iterdicts():
        assert identical(row["image"], np.full((300, 300), row["a"], dtype=np.float32))
        row["image"][0, 0] = -1  # it is an ordinary, writable array
    assert len(results) == 20


@pytest.mark.parametrize("group_size", [None, 1, 40])
def test_what_a_worker_changes_in_its_pset_reaches_nobody(session, group_size):
    """Not psets that have the same objects and travel in one chunk, or are in this process; not results, not seeds."""

    def psets():
        items, inner, samples = [0], [1], np.zeros(3)
        settings = {"inner": inner}
        return [{"n": n, "items": items, "settings": settings, "samples": samples, "alias": inner} for n in range(40)]

    ours = psets()
    results = session.map(makes_itself_at_home, ours, group_size=group_size)
    assert identical_rows(ours, psets())
    rows = results.to_dict()
    assert identical_rows([{key: row[key] for key in ours[0]} for row in rows], psets())
    assert [row["came"] for row in rows] == [repr(pset) for pset in psets()]
    assert {row["same"] for row in rows} == {True}  # what two values of a pset share, they still do
    seeds = session.map(keeps_its_hands_off, psets(), group_size=group_size).to_dict()
    assert [row["seed"] for row in rows] == [row["seed"] for row in seeds]


def test_a_value_that_cannot_be_copied_reaches_the_worker_as_it_is():
    lock = threading.Lock()
    psets = [{"n": [0], "lock": lock}]
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        assert session.map(lambda pset, system, user: {"same": pset["lock"] is lock}, psets).to_dict()[0]["same"]
