"""Columns carry every value unchanged."""

from __future__ import annotations

import pickle
import struct
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey.engine.columns import (
    HOLE,
    all_have_exactly,
    columns_if_uniform,
    columns_of,
    cut,
    has_holes,
    is_plain,
    pack,
    psets_of,
    unpack,
)

settings.register_profile("here", deadline=None, max_examples=60)
settings.load_profile("here")

floats = st.one_of(
    st.floats(), st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
)
numpy_scalars = st.one_of(
    st.floats(width=32).map(np.float32),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.booleans().map(np.bool_),
    st.floats(allow_nan=False).map(np.float64),
    st.integers(-(2**40), 2**40).map(lambda n: np.datetime64(n, "s")),
    st.text(max_size=3).map(np.str_),
)
values = st.one_of(
    st.integers(),
    st.integers(-(2**63) - 2, 2**64),
    floats,
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.complex_numbers(),
    numpy_scalars,
    st.lists(st.integers(), max_size=3),
    st.tuples(st.booleans(), st.floats(allow_nan=False)),
)
keys = st.one_of(
    st.text(max_size=4),
    st.sampled_from(["class", "a b", "_x", "", '"', "\\", "\n", "{x}", "\ud800", "v0", "k0"]),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.none(),
    st.tuples(st.text(max_size=2), st.integers(0, 3)),
    st.frozensets(st.integers(0, 3), max_size=2),
)
columns_of_one_kind = st.sampled_from(
    [st.integers(), st.integers(-5, 5), floats, numpy_scalars, st.booleans(), values]
).flatmap(lambda kind: st.lists(kind, max_size=40))


def exactly(value):
    """Return something that is equal only for the same type and the same bits."""
    if isinstance(value, np.longdouble):  # some of its bytes are padding
        return type(value), repr(value)
    if isinstance(value, np.generic):
        return type(value), value.dtype.str, value.tobytes()
    if type(value) is float:
        return float, struct.pack("<d", value)
    if type(value) is complex:
        return complex, struct.pack("<dd", value.real, value.imag)
    if type(value) in (list, tuple):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, dict):
        return sorted(((repr(type(key)), repr(key), exactly(item)) for key, item in value.items()), key=repr)
    return type(value), value


@given(columns_of_one_kind)
def test_a_packed_column_unpacks_to_the_same_values_and_types(column):
    assert exactly(list(unpack(pack(list(column))))) == exactly(column)


@given(columns_of_one_kind)
def test_a_packed_column_survives_pickling(column):
    assert exactly(list(unpack(pickle.loads(pickle.dumps(pack(list(column)), 5))))) == exactly(column)


@pytest.mark.parametrize(
    "column",
    [
        [-0.0] * 20,
        [0, -1, 2**63 - 1, -(2**63)] * 5,
        [2**63] + [1] * 20,
        [-(2**63) - 1] + [1] * 20,
        [True, False] * 10,
        [True, 1] * 10,
        [1, 1.0] * 10,
        [2**53 + 1, 0.5] * 10,
        [1] * 6000 + [0.5],
        [np.float64(0.1), 0.1] * 10,
        [np.int64(3)] * 20,
        [np.bool_(True)] * 20,
        [np.longdouble("0.1")] * 20,
        [np.complex64(1 + 2j)] * 20,
        [np.datetime64("2020-01-01", "D"), np.datetime64("2020-01-01T00", "h")] * 10,
        [np.str_("ab"), np.str_("abcdef")] * 10,
        [np.bytes_(b"a\x00"), np.bytes_(b"abc")] * 10,
        [np.arange(3)[i % 3] for i in range(20)],
    ],
)
def test_no_value_changes_where_it_easily_might(column):
    assert exactly(list(unpack(pack(list(column))))) == exactly(column)


def test_every_bit_of_a_nan_is_kept():
    bits = [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001, 0x7FFFFFFFFFFFFFFF] * 5
    column = [struct.unpack("<d", struct.pack("<Q", one))[0] for one in bits]
    came = unpack(pack(list(column)))
    assert [struct.pack("<d", one) for one in came] == [struct.pack("<d", one) for one in column]


def test_numbers_travel_as_typed_arrays():
    assert type(pack(list(range(100)))) is array
    assert type(pack([0.5] * 100)) is array
    assert type(pack([np.float32(1)] * 100)) is np.ndarray
    assert type(pack([True] * 100)) is list


@given(st.lists(st.dictionaries(keys, values, max_size=5), max_size=25))
def test_psets_come_back_as_they_were(psets):
    names, columns = columns_of(psets)
    came = list(psets_of(names, columns, len(psets)))
    assert [exactly(pset) for pset in came] == [exactly(with_the_keys_of(names, pset)) for pset in psets]


def with_the_keys_of(names, pset):
    """Return a pset whose keys are those that came first: 1 and True are one key of a table, as of a dict."""
    first = {name: name for name in names}
    return {first[key]: value for key, value in pset.items()}


@given(st.lists(keys, unique=True, max_size=8), st.integers(0, 30), st.data())
def test_psets_with_the_same_keys_come_back_in_the_order_of_the_first(names, count, data):
    psets = [{name: data.draw(values) for name in names} for _ in range(count)]
    shuffled = [dict(reversed(pset.items())) if i % 2 else pset for i, pset in enumerate(psets)]
    found, columns = columns_of(shuffled)
    came = list(psets_of(found, columns, count))
    assert [exactly(pset) for pset in came] == [exactly(pset) for pset in psets]
    assert [list(map(repr, pset)) for pset in came] == [list(map(repr, found))] * count


def test_equal_keys_of_different_types_do_not_share_a_maker():
    for key in (1, True, 1.0, np.int64(1), 1, True):
        (pset,) = psets_of((key,), [["x"]], 1)
        assert [type(one) for one in pset] == [type(key)]


def test_two_psets_never_share_a_dict():
    one, other = psets_of(("a",), [[1, 2]], 2)
    one["b"] = 1
    assert other == {"a": 2}


def test_psets_of_no_keys_are_psets():
    psets = list(psets_of(*columns_of([{}, {}, {}]), 3))
    assert psets == [{}, {}, {}]
    assert psets[0] is not psets[1]
    assert columns_of([]) == ((), [])
    assert list(psets_of((), [], 0)) == []


def test_a_missing_key_is_a_hole_and_not_none():
    names, columns = columns_of([{"a": None}, {"b": 1}, {}])
    assert columns == [[None, HOLE, HOLE], [HOLE, 1, HOLE]]
    assert list(psets_of(names, columns, 3)) == [{"a": None}, {"b": 1}, {}]


def test_there_is_one_hole_in_every_process():
    assert pickle.loads(pickle.dumps(HOLE)) is HOLE
    assert repr(HOLE) == "HOLE"


class RaisesWhenCompared:
    def __eq__(self, other):
        raise AssertionError("a user's object was asked for equality")

    __hash__ = None


def test_no_users_object_is_asked_for_equality():
    psets = [{"a": RaisesWhenCompared()}, {"b": 1}]
    names, columns = columns_of(psets)
    came = list(psets_of(names, columns, 2))
    assert came[0]["a"] is psets[0]["a"]
    assert has_holes(columns[0])


def test_only_a_list_has_holes():
    assert not has_holes(array("q", [1]))
    assert not has_holes([1, None])
    assert has_holes([1, HOLE])


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_cut_gives_those_rows_and_no_others(count):
    for column in (list("abc") * 40, array("q", range(120)), np.arange(120), [HOLE] * 120):
        for start in (0, 1, 120 - count):
            (part,) = cut([column], start, start + count)
            assert exactly(list(unpack(part))) == exactly(list(unpack(column))[start : start + count])


def test_only_numbers_and_text_are_plain():
    assert is_plain([1, 2.0, "x", b"", None, True, HOLE, 1j])
    assert is_plain(array("d", [1]))
    assert is_plain(np.arange(3))
    assert not is_plain([1, (1, 2)])
    assert not is_plain([print])
    assert not is_plain([type("Text", (str,), {})("x")])


def test_rows_of_other_keys_are_not_uniform():
    assert columns_if_uniform([{"a": 1, "b": 2}, {"b": 4, "a": 3}], ("a", "b")) == [[1, 3], [2, 4]]
    assert columns_if_uniform([{"a": 1}, {"b": 2}], ("a",)) is None
    assert columns_if_uniform([{"a": 1}, {"a": 1, "b": 2}], ("a",)) is None


@pytest.mark.parametrize(
    ("rows", "names", "expected"),
    [
        ([{"a": 1}, {"a": 2}], ("a",), True),
        ([{"a": 1, "b": 2}, {"b": 1, "a": 2}], ("a", "b"), True),
        ([{}, {}], (), True),
        ([], (), True),
        ([], ("a",), True),
        ([{"a": 1}], (), False),
        ([{"b": 1}], ("a",), False),
        ([{"a": 1, "c": 2}], ("a", "b"), False),
    ],
)
def test_rows_are_compared_by_their_keys_alone(rows, names, expected):
    assert all_have_exactly(rows, names) is expected
