"""The decisions of a stage, told what happens and asked what comes next. No clock, no process, no waiting."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramsurvey.engine.chunking import TARGET_SECONDS, Chunker
from paramsurvey.engine.dispatcher import (
    LONGEST_TRAIN,
    MOST_DEATHS,
    MOST_QUEUED,
    MOST_STARTS,
    Dispatcher,
    Lost,
    cut_out,
)
from paramsurvey.engine.records import (
    Died,
    DiedLoading,
    Failure,
    GivenBack,
    Killed,
    Part,
    Retries,
    TimedOut,
    Unloadable,
    Unreadable,
    Unsendable,
)

RAISED = Failure("raised", "ValueError()", "", retryable=True)
WRONG = Failure("raised", "TypeError()", "", retryable=False)


def part(first, count, failures=(), answers=None):
    """Return a part whose answers are its row numbers."""
    failures = sorted(failures)
    failed = {row for row, _ in failures}
    rows = [row for row in range(first, first + count) if row not in failed]
    return Part(first, count, ("row",), [rows], failures, [1e-3], [count], {})


def dispatcher(total, size=None, *, slots=2, retries=0):
    return Dispatcher(total, Chunker(slots, fixed=size), retries=Retries(retries))


def all_of(source):
    flights = []
    while (flight := source.take()) is not None:
        flights.append(flight)
    return flights


def rows(flight):
    return list(range(flight.chunk.start, flight.chunk.stop))


def finish(source, flight):
    taken = source.returned(flight, part(flight.returned, flight.outstanding))
    assert source.ended(flight, None) == []
    return taken


# In order


def test_every_row_is_sent_once_in_order():
    source = dispatcher(10, 3)
    assert [rows(flight) for flight in all_of(source)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert source.take() is None
    assert (source.active, source.finished, source.failures) == (10, 0, 0)


def test_a_stage_of_no_rows_is_done():
    source = dispatcher(0)
    assert source.done
    assert source.take() is None
    assert source.remaining() == []


def test_a_stage_of_no_more_rows_than_slots_is_sent_row_by_row():
    assert [rows(flight) for flight in all_of(dispatcher(5, slots=5))] == [[0], [1], [2], [3], [4]]


def test_a_stage_is_done_when_every_row_is_finished():
    source = dispatcher(5, 3)
    one, other = all_of(source)
    finish(source, one)
    assert not source.done
    assert source.remaining() == [range(3, 5)]
    finish(source, other)
    assert source.done
    assert source.remaining() == []


def test_parts_of_a_flight_add_up():
    source = dispatcher(6, 6)
    (flight,) = all_of(source)
    first = source.returned(flight, part(0, 2))
    assert (first.start, first.part.count, source.finished, source.active) == (0, 2, 2, 4)
    second = source.returned(flight, part(2, 4))
    assert (second.start, second.part.count, source.done) == (2, 4, True)


def test_a_part_says_where_in_the_stage_it_begins():
    source = dispatcher(10, 5)
    _, other = all_of(source)
    source.returned(other, part(0, 2))
    assert source.returned(other, part(2, 1)).start == 7


def test_what_a_chunk_has_cost_teaches_the_chunker():
    source = Dispatcher(10**6, Chunker(1))
    flight = source.take()
    source.returned(flight, part(0, 1)._replace(seconds=[1e-4]))
    source.ended(flight, None)
    assert source.take().chunk.count == pytest.approx(TARGET_SECONDS / 1e-4, rel=0.01)


# Failures


def test_a_row_that_raised_is_lost_and_the_others_are_finished():
    source = dispatcher(4, 4)
    (flight,) = all_of(source)
    taken = source.returned(flight, part(0, 4, [(1, RAISED)]))
    assert [(lost.row, lost.failure, lost.attempts) for lost in taken.lost] == [(1, RAISED, 1)]
    assert (source.finished, source.failures, source.done) == (3, 1, True)


def test_a_row_that_raised_is_tried_again_alone_as_often_as_asked():
    source = dispatcher(3, 3, retries=2)
    (flight,) = all_of(source)
    assert source.returned(flight, part(0, 3, [(1, RAISED)])).lost == []
    source.ended(flight, None)
    for attempt in (2, 3):
        (again,) = all_of(source)
        assert (rows(again), again.chunk.attempt) == ([1], attempt)
        lost = source.returned(again, part(0, 1, [(0, RAISED)])).lost
        source.ended(again, None)
    assert [(one.row, one.attempts) for one in lost] == [(1, 3)]
    assert source.done


def test_a_row_that_cannot_do_better_is_not_tried_again():
    source = dispatcher(1, 1, retries=5)
    (flight,) = all_of(source)
    assert [one.attempts for one in source.returned(flight, part(0, 1, [(0, WRONG)])).lost] == [1]


def test_deaths_do_not_use_up_the_retries_of_exceptions():
    source = dispatcher(1, 1, retries=1)
    source.ended(source.take(), Died(0, "gone"))
    flight = source.take()
    assert source.returned(flight, part(0, 1, [(0, RAISED)])).lost == []
    source.ended(flight, None)
    (lost,) = source.returned(source.take(), part(0, 1, [(0, RAISED)])).lost
    assert lost.attempts == 3


# Deaths


def test_a_death_sends_the_innocent_again_and_the_culprit_alone():
    source = dispatcher(6, 6)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 1))
    assert source.ended(flight, Died(3, "gone")) == []
    flights = all_of(source)
    assert rows(flights[0]) == [3]
    assert flights[0].chunk.attempt == 2
    assert sorted(row for flight in flights for row in rows(flight)) == [1, 2, 3, 4, 5]


def test_a_row_is_lost_after_three_deaths():
    source = dispatcher(3, 3)
    source.ended(source.take(), Died(1, "gone"))
    for death in range(2, MOST_DEATHS + 1):
        flight = source.take()
        assert (rows(flight), flight.chunk.attempt) == ([1], death)
        lost = source.ended(flight, Died(0, "gone again"))
    assert [(one.row, one.failure, one.attempts) for one in lost] == [(1, Failure("died", "gone again"), 3)]
    for flight in all_of(source):
        finish(source, flight)
    assert (source.finished, source.failures, source.done) == (2, 1, True)


def test_a_death_that_nobody_saw_makes_all_its_rows_travel_alone_and_blames_none():
    source = dispatcher(4, 4)
    source.ended(source.take(), Died(None, "gone"))
    flights = all_of(source)
    assert [rows(flight) for flight in flights] == [[0], [1], [2], [3]]
    assert [source.attempts(row) for row in range(4)] == [0] * 4


def test_a_lonely_row_whose_death_nobody_saw_is_to_blame():
    source = dispatcher(1, 1)
    for _ in range(MOST_DEATHS):
        lost = source.ended(source.take(), Died(None, "gone"))
    assert [one.failure.kind for one in lost] == ["died"]


def test_a_death_after_the_last_row_loses_nothing():
    source = dispatcher(2, 2)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 2))
    assert source.ended(flight, Died(1, "gone")) == []
    assert (source.done, source.finished) == (True, 2)


def test_a_death_at_a_row_that_has_returned_blames_nobody():
    source = dispatcher(4, 4)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 2))
    assert source.ended(flight, Died(1, "gone while it sent")) == []
    assert [source.attempts(row) for row in range(4)] == [0] * 4
    assert sorted(row for flight in all_of(source) for row in rows(flight)) == [2, 3]


def test_a_deadline_loses_its_row_at_once_and_no_other():
    source = dispatcher(4, 4, retries=3)
    lost = source.ended(source.take(), TimedOut(2, "too long"))
    assert [(one.row, one.failure) for one in lost] == [(2, Failure("timeout", "too long"))]
    for flight in all_of(source):
        finish(source, flight)
    assert (source.finished, source.failures) == (3, 1)


def test_what_was_killed_is_sent_again_and_blames_nobody():
    source = dispatcher(3, 3)
    assert source.ended(source.take(), Killed("by us")) == []
    assert [rows(flight) for flight in all_of(source)] == [[0, 1, 2]]


@pytest.mark.parametrize("error", [Unloadable("ImportError: x", "stack"), DiedLoading("it ended with exit code 1")])
def test_workers_that_cannot_start_three_times_running_are_hopeless(error):
    source = dispatcher(3, 3)
    for _ in range(MOST_STARTS):
        assert not source.cannot_start
        source.ended(source.take(), error)
    assert source.cannot_start
    assert source.start_error == str(error)
    assert source.remaining() == [range(3)]


def test_a_success_between_failed_starts_is_hope():
    source = dispatcher(3, 1)
    for _ in range(2):
        source.ended(source.take(), Unloadable("no"))
    finish(source, source.take())
    source.ended(source.take(), Unloadable("no"))
    assert not source.cannot_start


def test_a_pset_that_cannot_be_sent_is_found_among_its_neighbours():
    source = dispatcher(3, 3)
    assert source.ended(source.take(), Unsendable("TypeError: file", "stack")) == []
    first, second, third = all_of(source)
    (lost,) = source.ended(second, Unsendable("TypeError: file", "stack"))
    assert lost.row == 1
    assert lost.failure == Failure("unpicklable", "the pset cannot be pickled: TypeError: file", "stack")
    finish(source, first)
    finish(source, third)
    assert source.done


def test_an_answer_that_cannot_be_read_is_found_among_its_neighbours():
    source = dispatcher(4, 4)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 2))
    assert source.ended(flight, Unreadable("boom", "stack")) == []
    one, other = all_of(source)
    assert [rows(one), rows(other)] == [[2], [3]]
    (lost,) = source.ended(one, Unreadable("boom", "stack"))
    assert (lost.row, lost.failure) == (2, Failure("unpicklable", "the answer cannot be unpickled: boom", "stack"))
    finish(source, other)
    assert (source.finished, source.failures, source.done) == (3, 1, True)


# Rows given back


def test_rows_that_were_given_back_are_sent_to_others():
    source = dispatcher(10, 10)
    (flight,) = all_of(source)
    assert source.to_recall() == [flight]
    source.gave_back(flight, GivenBack(4))
    assert sorted(row for other in all_of(source) for row in rows(other)) == [4, 5, 6, 7, 8, 9]
    taken = source.returned(flight, part(0, 4))
    source.ended(flight, None)
    assert (taken.part.count, source.finished) == (4, 4)


def test_what_returns_after_it_was_given_back_is_not_taken_twice():
    source = dispatcher(6, 6)
    (flight,) = all_of(source)
    source.gave_back(flight, GivenBack(2))
    taken = source.returned(flight, part(0, 5, [(1, RAISED), (4, RAISED)]))
    assert (taken.part.count, taken.part.columns, taken.part.failures) == (2, [[0]], [(1, RAISED)])
    assert [one.row for one in taken.lost] == [1]
    assert source.returned(flight, part(5, 1)) is None
    source.ended(flight, None)
    for other in all_of(source):
        finish(source, other)
    assert (source.finished, source.failures) == (5, 1)


def test_rows_are_not_given_back_below_what_has_returned():
    source = dispatcher(6, 6)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 5))
    source.gave_back(flight, GivenBack(2))
    assert [rows(other) for other in all_of(source)] == [[5]]


def test_a_flight_is_recalled_once():
    source = dispatcher(4, 2)
    flights = all_of(source)
    assert set(source.to_recall()) == set(flights)
    assert source.to_recall() == []


def test_a_chunk_that_ends_early_without_a_word_is_sent_again_from_there():
    source = dispatcher(5, 5)
    (flight,) = all_of(source)
    source.returned(flight, part(0, 2))
    assert source.ended(flight, None) == []
    assert sorted(row for other in all_of(source) for row in rows(other)) == [2, 3, 4]


def test_news_of_a_flight_that_is_over_is_no_news():
    source = dispatcher(2, 2)
    flight = source.take()
    finish(source, flight)
    assert source.returned(flight, part(0, 2)) is None
    assert source.ended(flight, Died(0, "late")) == []
    source.gave_back(flight, GivenBack(0))
    assert (source.finished, source.done, source.take()) == (2, True, None)


def test_one_chunk_may_wait_behind_another_and_many_behind_trifling_ones():
    source = Dispatcher(10**7, Chunker(2))
    assert source.depth == 1  # nothing is known
    flight = source.take()
    source.returned(flight, part(0, 1)._replace(seconds=[10.0]))
    assert source.depth == 2
    trifling = Dispatcher(10**7, Chunker(2, most=10))
    trifling.returned(trifling.take(), part(0, 1)._replace(seconds=[1e-6]))
    assert trifling.depth == MOST_QUEUED
    trifling.to_recall()  # nothing came for a while
    assert trifling.depth == 1


def test_none_waits_where_each_is_to_be_remembered_before_its_slot_has_the_next():
    source = Dispatcher(10**7, Chunker(2, most=10), one_at_a_time=True)
    source.returned(source.take(), part(0, 1)._replace(seconds=[1e-6]))
    assert source.depth == 1


def test_a_trifling_chunk_may_wait_as_long_as_every_slot_can_have_one():
    source = Dispatcher(101, Chunker(2, most=10))
    source.returned(source.take(), part(0, 1)._replace(seconds=[1e-6]))
    depths = [source.depth for _ in range(10) if source.take()]
    assert depths == [2] * 8 + [1] * 2  # with 90 rows left, 80 and so on


def trifling(total, size, seconds=1e-6):
    """Return a dispatcher that knows how long a row takes."""
    source = dispatcher(total, size)
    flight = source.take(in_trains=True)
    assert (rows(flight), flight.together) == (list(range(size)), 0)  # nothing is known yet
    source.returned(flight, part(0, size)._replace(seconds=[seconds], counts=[size]))
    assert source.ended(flight, None) == []
    return source


def test_chunks_that_are_over_in_no_time_go_one_behind_the_other_in_a_train():
    source = trifling(10_000, 3)
    flight = source.take(in_trains=True)
    assert (rows(flight), flight.together) == (list(range(3, 3 + 3 * LONGEST_TRAIN)), 3)
    assert source.depth == 2
    source.returned(flight, part(0, 3))
    assert (flight.outstanding, source.finished) == (3 * LONGEST_TRAIN - 3, 6)


def test_a_train_is_shorter_if_its_chunks_take_longer():
    flight = trifling(1000, 1, seconds=0.2e-3).take(in_trains=True)
    assert (rows(flight), flight.together) == ([1, 2], 1)
    flight = trifling(1000, 1, seconds=0.6e-3).take(in_trains=True)
    assert (rows(flight), flight.together) == ([1], 0)


def test_no_train_is_sent_towards_the_end_nor_after_a_surprise_nor_where_that_is_not_allowed():
    assert rows(trifling(33, 1).take(in_trains=True)) == [1, 2]
    assert rows(trifling(32, 1).take(in_trains=True)) == [1]
    source = trifling(1000, 1)
    assert rows(source.take()) == [1]
    source.to_recall()  # nothing came for a while
    assert rows(source.take(in_trains=True)) == [2]


def test_only_the_culprit_of_a_train_is_blamed_and_the_others_go_on():
    source = trifling(1000, 1)
    flight = source.take(in_trains=True)
    source.returned(flight, part(0, 1))
    assert source.ended(flight, TimedOut(3, "slow")) == [Lost(4, Failure("timeout", "slow"), 1)]
    assert [rows(source.take()) for _ in range(6)] == [[2], [3], [5], [6], [7], [8]]


def test_no_chunk_waits_behind_another_towards_the_end():
    source = Dispatcher(12, Chunker(2, fixed=1))
    source.returned(source.take(), part(0, 1)._replace(seconds=[10.0]))
    depths = [source.depth for _ in range(11) if source.take()]
    assert depths == [2] * 5 + [1] * 6


def steady(asked, slots=2):
    """Return a dispatcher that has finished some rows of 2 ms each, and is asked for so many more."""
    source = Dispatcher(20, Chunker(slots), open=True, in_rounds=True)
    for flight in all_of(source):
        source.returned(flight, part(0, 1)._replace(seconds=[2e-3], counts=[1]))
        assert source.ended(flight, None) == []
    assert source.active == 0
    source.extend(asked)
    return source


def test_a_round_of_even_rows_is_sent_in_one_chunk_for_each_slot():
    source = steady(29)
    assert [flight.chunk.count for flight in all_of(source)] == [15, 14]


def test_no_slot_goes_without_if_there_are_more_rows_than_slots():
    source = steady(4, slots=3)
    assert [flight.chunk.count for flight in all_of(source)] == [2, 1, 1]


def test_a_slot_that_is_free_while_others_are_busy_is_through_when_they_are():
    source = steady(14)
    assert source.take().chunk.count == 7
    source.extend(15)
    source.now = 12e-3  # 6 of the 7 are done
    assert source.take().chunk.count == 12  # 22 + 1 rows are left
    source.now = 14e-3
    assert source.take().chunk.count == 10
    assert source.take() is None


def test_a_slot_that_is_late_is_not_owed_more_than_it_has():
    source = steady(14)
    assert source.take().chunk.count == 7
    source.now = 1.0
    assert source.take().chunk.count == 4  # half of what is left


def test_a_first_round_is_sent_in_shares_as_soon_as_it_is_known_to_be_even():
    source, ends, sizes = Dispatcher(30, Chunker(2), open=True, in_rounds=True), {}, []
    while source.finished < 30:
        while len(ends) < 2 and (flight := source.take()) is not None:
            sizes.append(flight.chunk.count)
            ends[flight] = source.now + 2e-3 * sizes[-1]
        flight = min(ends, key=ends.get)
        source.now, count = ends.pop(flight), flight.chunk.count
        source.returned(flight, part(0, count)._replace(seconds=[2e-3] * count, counts=[1] * count))
        assert source.ended(flight, None) == []
    assert (sizes, source.now) == ([1, 1, 7, 6, 4, 7, 4], pytest.approx(30e-3))


def test_chunks_of_what_nobody_waits_for_as_a_whole_are_guided():
    source = steady(30)
    source.in_rounds = False
    assert [flight.chunk.count for flight in all_of(source)][:4] == [8, 6, 4, 3]


def test_what_is_too_much_of_an_even_share_is_taken_back():
    source = steady(30)
    slow, quick = all_of(source)
    finish(source, quick)
    assert slow in source.to_recall()
    source.gave_back(slow, GivenBack(1))
    assert source.take().chunk.count == 4


def test_rows_may_be_added_while_it_is_open():
    source = Dispatcher(0, Chunker(2, fixed=2), open=True)
    assert source.take() is None
    assert not source.done
    source.extend(3)
    assert [rows(flight) for flight in all_of(source)] == [[0, 1], [2]]
    source.open = False
    assert not source.done


def test_a_part_is_cut_with_its_failures():
    whole = part(3, 5, [(4, RAISED), (7, WRONG)])
    assert cut_out(whole, 0, 3) == part(3, 3, [(4, RAISED)])._replace(counts=whole.counts)


# Everything at random


class World:
    """A backend gone mad: it kills, loses, gives back, repeats, and cuts, but never tells a lie."""

    def __init__(self, seed, total, size, slots, retries, trouble):
        self.random = random.Random(seed)
        self.dispatcher = Dispatcher(total, Chunker(slots, fixed=size), retries=Retries(retries))
        self.total, self.slots, self.retries = total, slots, retries
        pick = lambda share: {row for row in range(total) if self.random.random() < share * trouble}  # noqa: E731
        self.raising, self.deadly, self.slow, self.unsendable, self.unreadable = (pick(0.05) for _ in range(5))
        self.flights = {}  # flight: rows of it that have run
        self.given_back = {}  # flight: the row from which on it was
        self.finished, self.lost = Counter(), Counter()
        self.failures = {}
        self.trouble = trouble
        self.steps = 0

    def run(self):
        while not self.dispatcher.done:
            self.steps += 1
            assert self.steps < 400 * (self.total + 10), "it does not come to an end"
            while len(self.flights) < self.slots and (flight := self.take()) is not None:
                self.flights[flight] = 0
            assert self.flights, "rows are left, none is under way, and none is sent"
            self.check()
            self.happen(self.random.choice(list(self.flights)))
        self.check()
        return self

    def take(self):
        return self.dispatcher.take(in_trains=self.random.random() < 0.5)

    def happen(self, flight):
        rows_of = rows(flight)
        if any(row in self.unsendable for row in rows_of):
            return self.end(flight, Unsendable("no"))
        ran = self.flights[flight]
        accident = self.random.random() / max(self.trouble, 1e-9)
        if accident < 0.03:
            return self.end(flight, Killed("by us"))
        if accident < 0.06:
            first = self.random.randint(ran, len(rows_of))
            self.given_back[flight] = min(first, self.given_back.get(flight, first))
            return self.dispatcher.gave_back(flight, GivenBack(first))
        stop = self.safe_stop(flight, self.random.randint(ran, len(rows_of)))
        if stop < len(rows_of) and stop == ran and flight in self.given_back:
            return self.end(flight, None)
        for place in range(ran, stop):
            if rows_of[place] in self.deadly:
                self.send(flight, self.random.randint(ran, place))
                seen = self.random.random() < 0.7
                return self.end(flight, Died(place if seen else None, "gone"))
            if rows_of[place] in self.slow:
                self.send(flight, self.random.randint(ran, place))
                return self.end(flight, TimedOut(place, "slow"))
        self.send(flight, stop)
        if flight not in self.flights:
            return None
        if stop == len(rows_of):
            self.end(flight, None)
        elif self.random.random() < 0.05 * self.trouble:
            self.end(flight, None)  # it was asked to stop
        return None

    def safe_stop(self, flight, stop):
        """What was given back may run on for a while, but not into an accident."""
        for place in range(self.given_back.get(flight, stop), stop):
            if rows(flight)[place] in self.deadly | self.slow | self.unreadable:
                return max(place, self.flights[flight])
        return stop

    def send(self, flight, stop):
        ran, rows_of = self.flights[flight], rows(flight)
        if stop <= ran:
            return
        self.flights[flight] = stop
        if any(row in self.unreadable for row in rows_of[ran:stop]):
            self.end(flight, Unreadable("no", ""))
            return
        failures = [(place, RAISED) for place in range(ran, stop) if rows_of[place] in self.raising]
        taken = self.dispatcher.returned(flight, part(ran, stop - ran, failures))
        if taken is None:
            return
        self.note(taken.lost)
        failed = {place for place, _ in taken.part.failures}
        places = range(taken.part.first, taken.part.first + taken.part.count)
        good = [place for place in places if place not in failed]
        assert taken.part.columns == [good]
        assert taken.start == flight.chunk.start + taken.part.first
        self.finished.update(flight.chunk.start + place for place in good)

    def end(self, flight, error):
        if self.flights.pop(flight, None) is None:
            return  # what it sent could not be read: that was its end
        self.note(self.dispatcher.ended(flight, error))

    def note(self, lost):
        for one in lost:
            self.lost[one.row] += 1
            self.failures[one.row] = one

    def check(self):
        source = self.dispatcher
        assert source.finished == self.finished.total()
        assert source.failures == self.lost.total()
        remaining = [row for rows in source.remaining() for row in rows]
        places = Counter(remaining) + self.finished + self.lost
        assert places == Counter(range(self.total)), "a row is in two places, or in none"
        assert source.total - source.finished - source.failures == len(remaining)


worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    total=st.integers(0, 60),
    size=st.one_of(st.none(), st.integers(1, 60)),
    slots=st.integers(1, 5),
    retries=st.integers(0, 2),
    trouble=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(worlds)
def test_whatever_happens_every_row_is_finished_or_lost_once_and_no_innocent_is_lost(world):
    world.run()
    guilty = world.raising | world.deadly | world.slow | world.unsendable | world.unreadable
    assert set(world.lost) == guilty
    assert all(times == 1 for times in (world.finished + world.lost).values())
    for row, one in world.failures.items():
        kinds = {
            "raised": world.raising,
            "died": world.deadly,
            "timeout": world.slow,
            "unpicklable": world.unsendable | world.unreadable,
        }
        assert row in kinds[one.failure.kind], f"row {row} is said to have {one.failure.kind}"
        if one.failure.kind == "died":
            assert one.attempts == MOST_DEATHS


def test_what_nobody_wants_any_more_is_forgotten():
    source = dispatcher(10, 2)
    source.open = True
    first, second = source.take(), source.take()
    finish(source, first)
    source.give_up()
    assert source.returned(second, part(0, 2)) is None
    assert source.ended(second, Killed("")) == []
    assert (source.finished, source.total, source.active, source.done) == (2, 2, 0, True)
    assert (source.remaining(), source.to_recall(), source.take()) == ([], [], None)
