"""How many rows travel together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey.engine.chunking import (
    LEAST_EVIDENCE,
    LEAST_SECONDS,
    TARGET_BYTES,
    TARGET_SECONDS,
    TRIFLING_SECONDS,
    Chunker,
)

remaining = st.integers(1, 10**7)
slots = st.integers(1, 1000)
lessons = st.lists(st.tuples(st.integers(1, 10**4), st.floats(0, 1e4), st.integers(0, 2**40)), max_size=5)


def taught(lessons, **attributes):
    chunker = Chunker(**attributes)
    for rows, seconds, size in lessons:
        chunker.learn(rows, seconds, size)
    return chunker


@given(remaining, slots, lessons)
def test_a_chunk_has_at_least_one_row_and_never_more_than_there_are(remaining, slots, lessons):
    assert 1 <= taught(lessons, slots=slots).size(remaining) <= remaining


@given(remaining, slots)
def test_the_first_chunk_is_one_row(remaining, slots):
    assert Chunker(slots).size(remaining) == 1


@given(slots, st.data())
def test_a_survey_of_no_more_psets_than_slots_runs_them_all_at_once(slots, data):
    few = data.draw(st.integers(1, slots))
    chunker = Chunker(slots)
    assert [chunker.size(few - sent) for sent in range(few)] == [1] * few


@given(slots, st.lists(st.tuples(st.integers(1, 10**4), st.floats(1e-3, 1e4)), min_size=1, max_size=5), st.data())
def test_as_many_psets_as_slots_run_at_once_unless_they_are_over_in_no_time(slots, lessons, data):
    few = data.draw(st.integers(1, slots))
    lessons = [(rows, rows * seconds, 100) for rows, seconds in lessons]
    assert taught(lessons, slots=slots).size(few) == 1


@given(remaining, slots, st.integers(1, 10**4), st.floats(1e-8, 10))
def test_no_chunk_is_more_than_half_of_a_slots_share_unless_it_is_over_in_no_time(remaining, slots, rows, seconds):
    size = taught([(rows, rows * seconds, 0)], slots=slots).size(remaining)
    assert size <= max(-(-remaining // (2 * slots)), LEAST_SECONDS / seconds)


def test_the_last_chunks_are_of_one_size_and_no_small_one_is_left_over():
    chunker = taught([(1000, 1000 * LEAST_SECONDS / 500, 0)], slots=2)  # 500 rows are worth sending
    sizes, left = [], 2300
    while left:
        sizes.append(chunker.size(left))
        left -= sizes[-1]
    assert sizes == [575, 432, 431, 431, 431]


def test_a_chunk_fills_the_target_time():
    chunker = taught([(100, 0.1, 0)], slots=2)
    assert chunker.size(10**6) == pytest.approx(TARGET_SECONDS / 0.001, abs=1)


def test_a_slow_pset_travels_alone():
    assert taught([(1, 3.0, 100)], slots=2).size(10**6) == 1


def test_large_answers_make_small_chunks():
    chunker = taught([(10, 1e-5, 10 * 2**20)], slots=2)
    assert chunker.size(10**6) in {TARGET_BYTES // 2**20 - 1, TARGET_BYTES // 2**20}


def test_psets_that_cost_nothing_make_finite_chunks():
    assert 1 <= taught([(1, 0.0, 0)], slots=1).size(10**12) <= 10**12


@given(remaining, slots, lessons, st.integers(1, 1000))
def test_a_group_size_that_was_asked_for_is_obeyed(remaining, slots, lessons, fixed):
    assert taught(lessons, slots=slots, fixed=fixed).size(remaining) == min(fixed, remaining)


@given(remaining, slots, lessons, st.integers(1, 50), st.one_of(st.none(), st.integers(1, 100)))
def test_no_chunk_is_larger_than_the_most(remaining, slots, lessons, most, fixed):
    assert taught(lessons, slots=slots, most=most, fixed=fixed).size(remaining) <= most


def test_older_knowledge_fades():
    chunker = taught([(100, 100.0, 0)], slots=1)
    for _ in range(60):
        chunker.learn(100, 0.01, 0)
    assert chunker.size(10**7) > 400


def test_nothing_is_trifling_before_anything_is_known():
    assert not Chunker(1).is_trifling(1)


def test_what_takes_less_than_the_driver_needs_is_trifling():
    chunker = taught([(1000, 0.001, 0)], slots=1)
    just = int(TRIFLING_SECONDS / 1e-6)
    assert chunker.is_trifling(just - 1)
    assert not chunker.is_trifling(just + 1)


# Shares


def timed(seconds, **attributes):
    """Return a chunker that has seen rows of these times, all in one chunk."""
    chunker = taught([(len(seconds), sum(seconds), 100)], **attributes)
    assert chunker.learn_times(seconds, [1] * len(seconds)) == pytest.approx(sum(seconds))
    return chunker


def test_shares_of_even_psets_are_fair():
    assert timed([1e-4] * LEAST_EVIDENCE, slots=2).can_share(30)


def test_no_share_is_known_to_be_fair_before_some_times_are_known():
    assert not Chunker(2).can_share(30)
    assert not timed([2e-3] * (LEAST_EVIDENCE - 1), slots=2).can_share(30)


def test_shares_of_uneven_psets_are_not_fair():
    assert timed([2e-3, 2.5e-3] * 8, slots=2).can_share(30)
    assert not timed([1e-3, 9e-3] * 8, slots=2).can_share(30)
    assert not timed([2e-3] * 29 + [0.1], slots=2).can_share(30)


def test_means_of_many_psets_vary_less_than_the_psets():
    chunker = taught([(1600, 1.6, 100)], slots=2)
    chunker.learn_times([0.8e-3, 1.2e-3] * 8, [100] * 16)
    assert not chunker.can_share(30)  # the psets vary ten times as much
    assert timed([0.8e-3, 1.2e-3] * 8, slots=2).can_share(30)


def test_a_slow_pset_is_remembered_for_some_chunks_and_forgotten():
    chunker = timed([2e-3] * 14 + [0.1], slots=2)
    shares = []
    for _ in range(100):
        chunker.learn(15, 0.03, 100)
        chunker.learn_times([2e-3] * 15, [1] * 15)
        shares.append(chunker.can_share(30))
    assert not any(shares[:5])
    assert shares[-1]


def test_no_share_is_longer_than_a_chunk_may_be_nor_of_another_size_than_was_asked_for():
    even = [2e-3] * 16
    assert not timed(even, slots=2).can_share(2 * int(TARGET_SECONDS / 2e-3) + 2)
    assert not timed(even, slots=2, most=14).can_share(30)
    assert not timed(even, slots=2, fixed=3).can_share(30)
    assert not taught([(1, 2e-3, TARGET_BYTES)], slots=2).can_share(30)


settings.register_profile("here", deadline=None, max_examples=60)
settings.load_profile("here")
