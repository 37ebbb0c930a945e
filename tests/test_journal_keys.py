"""Keys of rows: the same for the same psets in whatever form they come, others for others."""

from __future__ import annotations

from array import array

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exactness import numpy_scalars, tables

from paramsurvey.engine.columns import HOLE, columns_of, pack, typed
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.journal import keys as journal_keys
from paramsurvey.journal.index import Found, Known, Seen
from paramsurvey.journal.keys import row_keys, with_occurrences
from paramsurvey.tables import table_of

KEYS = ["a", "b c", 1, ("x", 2), None]


def keys_of(rows):
    keys, columns = columns_of(rows)
    found, nameless = row_keys(keys, columns, len(rows))
    assert not nameless
    return [row.tobytes() for row in found]


@settings(max_examples=300, deadline=None)
@given(rows=tables(KEYS))
def test_two_psets_have_the_same_key_if_and_only_if_they_have_the_same_typed_bytes(rows):
    by_key = {}
    for row, key in zip(rows, keys_of(rows), strict=True):
        by_key.setdefault(key, set()).add(typed_bytes(row))
    assert all(len(contents) == 1 for contents in by_key.values())
    assert len(by_key) == len(set(map(typed_bytes, rows)))


@settings(max_examples=300, deadline=None)
@given(rows=tables(KEYS), data=st.data())
def test_a_pset_has_the_key_that_it_has_alone_whatever_comes_beside_it(rows, data):
    together = keys_of(rows)
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    for place in places:
        (alone,) = keys_of([dict(reversed(rows[place].items()))])
        assert alone == together[place]
    assert keys_of([rows[place] for place in places]) == [together[place] for place in places]


@settings(max_examples=100, deadline=None)
@given(rows=tables(KEYS), few=st.sampled_from([0, 10_000]))
def test_few_rows_have_the_keys_that_they_have_among_many(rows, few):
    many = keys_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_keys, "FEW", few)
        assert keys_of(rows) == many


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60))
def test_ints_have_one_key_in_a_list_an_array_a_frame_and_a_mixed_column(values):
    expected = keys_of([{"a": value} for value in values])
    frame = table_of(pd.DataFrame({"a": np.array(values, np.int64)}))
    mixed = [*values, "x", HOLE, 0.5]
    for column in (array("q", values), values, frame.column("a"), mixed):
        assert [row.tobytes() for row in row_keys(("a",), [column], len(column))[0][: len(values)]] == expected


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(), min_size=1, max_size=60))
def test_floats_have_one_key_in_a_list_an_array_a_frame_and_a_mixed_column(values):
    expected = keys_of([{"a": value} for value in values])
    frame = table_of(pd.DataFrame({"a": np.array(values)}))
    for column in (array("d", values), values, frame.column("a"), [*values, None, 2**70]):
        assert [row.tobytes() for row in row_keys(("a",), [column], len(column))[0][: len(values)]] == expected


@settings(max_examples=100, deadline=None)
@given(value=numpy_scalars())
def test_numbers_of_numpy_have_one_key_in_a_numpy_column_and_in_a_list(value):
    packed = typed([value] * 40)
    mixed = [value] * 40 + ["x"]
    (key,) = keys_of([{"a": value}])
    for column in (packed, mixed, pack([value] * 3)):
        assert row_keys(("a",), [column], len(column))[0][0].tobytes() == key


def test_a_value_that_cannot_be_pickled_leaves_its_row_without_a_key():
    rows = [{"a": 1}, {"a": (value for value in ())}, {"a": "x"}]
    for count in (1, 20):
        keys, columns = columns_of(rows * count)
        found, nameless = row_keys(keys, columns, len(rows) * count)
        assert nameless == list(range(1, 3 * count, 3))
        assert len({row.tobytes() for row in found[[0, 2]]}) == 2


def test_no_two_of_a_million_psets_of_a_grid_have_the_same_half_of_a_key():
    one, other = np.meshgrid(np.arange(1000), np.arange(1000))
    columns = [array("q", one.ravel().tolist()), array("q", other.ravel().tolist())]
    found, _ = row_keys(("a", "b"), columns, 1_000_000)
    assert len(np.unique(found[:, 0])) == len(np.unique(found[:, 1])) == 1_000_000


def test_every_bit_of_a_key_depends_on_the_values():
    found, _ = row_keys(("a", "b"), [array("q", range(20_000)), array("d", map(float, range(20_000)))], 20_000)
    bits = np.unpackbits(found.view(np.uint8).reshape(20_000, 16), axis=1).mean(axis=0)
    assert (abs(bits - 0.5) < 0.02).all()


# How often a pset came before


@settings(max_examples=200, deadline=None)
@given(slabs=st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=8))
def test_psets_are_told_apart_by_how_often_they_came_before(slabs):
    seen, times, found = Seen(), {}, []
    for slab in slabs:
        keys, _ = row_keys(("a",), [slab], len(slab))
        counts = seen.count(keys)
        expected = []
        for value in slab:
            expected.append(times.get(value, 0))
            times[value] = expected[-1] + 1
        assert counts.tolist() == expected
        found += [row.tobytes() for row in with_occurrences(keys, counts)]
    assert len(set(found)) == len(found)


def test_a_million_equal_psets_are_counted():
    seen = Seen()
    keys, _ = row_keys(("a",), [array("q", [7]) * 8192], 8192)
    for slab in range(20):
        assert seen.count(keys).tolist() == list(range(8192 * slab, 8192 * (slab + 1)))


# Where rows are


@settings(max_examples=200, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=6), data=st.data())
def test_of_a_row_that_is_there_twice_the_later_is_found(batches, data):
    known, last = Known.nothing(), {}
    for number, batch in enumerate(batches):
        last |= {value: (number, row) for row, value in enumerate(batch)}
    place = data.draw(st.integers(0, len(batches)))
    for numbers in (range(place), range(place, len(batches))):
        more = [Found(n, 0, row_keys(("a",), [batches[n]], len(batches[n]))[0].tobytes()) for n in numbers]
        known = known.with_more(more) if more else known
    for value in range(22):
        (where,) = known.find(row_keys(("a",), [[value]], 1)[0])
        found = None if where < 0 else (int(known.records[where]), int(known.rows[where]))
        assert found == last.get(value)
