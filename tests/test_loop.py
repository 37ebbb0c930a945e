"""The loop, with a backend whose futures the test completes by hand."""

from __future__ import annotations

import pickle
from concurrent.futures import Future

import attrs
import numpy as np
import pytest

from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.columns import psets_of
from paramsurvey.engine.dispatcher import LONGEST_TRAIN, Dispatcher, Lost, Taken
from paramsurvey.engine.loop import InterruptReceived, Lane, Loop, Over, thawed
from paramsurvey.engine.pickling import Frozen, freeze
from paramsurvey.engine.records import (
    ChunkRows,
    Died,
    Failure,
    GivenBack,
    Killed,
    Part,
    Retries,
    TaskOptions,
    TimedOut,
    Unloadable,
)
from paramsurvey.engine.worker import run_chunk
from paramsurvey.errors import BackendError


@attrs.define(eq=False)
class Submission:
    """What the backend was given, to be completed by the test."""

    fn: object
    handle: object
    rows: ChunkRows
    options: TaskOptions
    future: Future = attrs.field(factory=Future)

    @property
    def values(self):
        return [pset["row"] for pset in psets_of(self.rows.keys, self.rows.columns, self.rows.count)]

    def part(self, first, count, failures=(), seconds=1e-3):
        failed = {row for row, _ in failures}
        answers = [10 * self.values[row] for row in range(first, first + count) if row not in failed]
        return Part(first, count, ("answer",), [answers], sorted(failures), [seconds], [count], {})

    def send(self, first, count, failures=()):
        self.options.on_part(self.part(first, count, failures))

    def finish(self, first=0, failures=(), seconds=1e-3):
        self.future.set_result(self.part(first, self.rows.count - first, failures, seconds))


class FakeBackend:
    name, can_kill = "fake", True

    def __init__(self, slots=2):
        self.room = slots
        self.submissions, self.recalled, self.killed = [], [], []
        self.at_submit = lambda submission: None

    def slots(self):
        return self.room

    def submit(self, fn, /, *args, options):
        handle, rows = args
        submission = Submission(fn, handle, ChunkRows(*rows), options)
        self.submissions.append(submission)
        self.at_submit(submission)
        return submission.future

    def recall(self, future):
        self.recalled.append(future)

    def kill(self, future):
        self.killed.append(future)

    def take(self):
        """Return what was submitted since the last time."""
        taken, self.submissions = self.submissions, []
        return taken


class Rows:
    """A table whose rows are their own numbers."""

    def __init__(self):
        self.to_prepare = 0
        self.asked = []
        self.closed = True
        self.expected = 0

    def pull(self):
        return 0

    def rows(self, start, stop, attempt):
        self.asked.append((start, stop, attempt))
        return ChunkRows(("row",), [list(range(start, stop))], stop - start, attempt)

    def prepare(self):
        self.to_prepare -= 1
        return self.to_prepare >= 0


class Driven:
    """A loop in the hands of the test."""

    def __init__(self, total, size=None, *, slots=2, retries=0, backend=None, options=None, most_slots=None):
        self.backend = backend or FakeBackend(slots)
        self.source = Rows()
        self.dispatcher = Dispatcher(total, Chunker(most_slots or slots, fixed=size), retries=Retries(retries))
        options = options or TaskOptions()
        self.loop = Loop(self.backend, most_slots, prepare=self.source.prepare)
        self.loop.add(Lane(self.dispatcher, "the handle", self.source, options))
        self.news = self.loop.run()
        self.answers, self.lost = {}, {}

    def step(self):
        """Let the loop run to its next news, which something must have caused already."""
        item = next(self.news, "the end")
        if isinstance(item, tuple):
            _, item = item
        if isinstance(item, Over):
            return self.step()
        if isinstance(item, Taken):
            part = item.part
            failed = {row for row, _ in part.failures}
            rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
            psets = psets_of(part.keys, part.columns, len(rows))
            self.answers.update((item.start - part.first + row, pset) for row, pset in zip(rows, psets, strict=True))
            self.lost.update((one.row, one) for one in item.lost)
        elif isinstance(item, Lost):
            self.lost[item.row] = item
        return item

    def start(self):
        """Let the loop submit what there is room for; nothing has happened, so it says so."""
        self.source.to_prepare = 1  # so it does not wait
        assert self.step() is None
        return self.backend.take()

    def finish(self):
        """Complete whatever is submitted until the loop ends."""
        self.backend.at_submit = Submission.finish
        for submission in self.backend.take():
            if not submission.future.done():
                submission.finish()
        self.to_the_end()

    def to_the_end(self):
        """Let the loop run to its end, for which everything is there already."""
        for _ in range(1000):
            self.source.to_prepare = 1
            if self.step() == "the end":
                return
        raise AssertionError("the loop does not end")


def expected(total, without=()):
    return {row: {"answer": 10 * row} for row in range(total) if row not in without}


def test_a_survey_of_no_rows_submits_nothing():
    driven = Driven(0)
    assert driven.step() == "the end"
    assert driven.backend.submissions == []


def test_every_slot_gets_a_chunk_and_no_more():
    driven = Driven(10, 2, slots=3)
    assert [each.values for each in driven.start()] == [[0, 1], [2, 3], [4, 5]]


def test_a_chunk_goes_out_as_run_chunk_its_handle_and_its_rows():
    driven = Driven(4, 4, options=TaskOptions(timeout=3.0, max_tasks=7, backend_options={"x": 1}))
    (submission,) = driven.start()
    assert submission.fn is run_chunk
    assert submission.handle == "the handle"
    assert submission.rows == ChunkRows(("row",), [[0, 1, 2, 3]], 4, 1)
    assert submission.options._replace(on_part=None) == TaskOptions(
        rows=4, on_part=None, may_queue=False, owner=driven.loop, timeout=3.0, max_tasks=7, backend_options={"x": 1}
    )


def test_the_surveys_own_number_of_slots_goes_before_the_backends():
    assert len(Driven(10, 1, slots=5, most_slots=2).start()) == 2


def test_a_backend_that_grows_gets_more():
    driven = Driven(10, 1, slots=1)
    assert len(driven.start()) == 1
    driven.backend.room = 4
    assert len(driven.start()) == 3


def test_a_finished_chunk_makes_room_for_the_next():
    driven = Driven(6, 2, slots=2)
    first, _ = driven.start()
    first.finish()
    assert driven.step().start == 0
    assert [each.values for each in driven.start()] == [[4, 5]]
    assert driven.answers == expected(2)


def test_chunks_may_finish_in_any_order():
    driven = Driven(6, 2, slots=3)
    for submission in reversed(driven.start()):
        submission.finish()
        driven.step()
    assert driven.step() == "the end"
    assert driven.answers == expected(6)


def test_a_backend_that_completes_at_once_is_no_special_case():
    driven = Driven(100, 7, slots=1)
    driven.finish()
    assert driven.answers == expected(100)


def test_parts_are_shown_before_the_chunk_ends():
    driven = Driven(5, 5)
    (submission,) = driven.start()
    submission.send(0, 2)
    assert driven.step().part.count == 2
    assert driven.answers == expected(2)
    submission.send(2, 2, [(3, Failure("raised", "no"))])
    driven.step()
    submission.finish(4)
    driven.step()
    assert driven.step() == "the end"
    assert driven.answers == expected(5, {3})
    assert driven.lost[3].failure.text == "no"


def test_that_there_is_nothing_new_is_said_now_and_then():
    driven = Driven(2, 1)
    driven.start()
    assert driven.step() is None


def test_a_dead_chunk_is_sent_again_without_its_culprit():
    driven = Driven(4, 4, slots=4)
    (submission,) = driven.start()
    submission.future.set_exception(Died(2, "gone"))
    assert driven.step() is None
    again = driven.backend.take()
    assert sorted(row for each in again for row in each.values) == [0, 1, 2, 3]
    assert [each.values for each in again if 2 in each.values] == [[2]]
    assert {each.rows.attempt for each in again if 2 in each.values} == {2}


def test_a_row_that_always_dies_is_lost_alone():
    driven = Driven(5, 5, slots=1)

    def die_at_two(submission):
        if 2 in submission.values:
            submission.future.set_exception(Died(submission.values.index(2), "gone"))
        else:
            submission.finish()

    driven.backend.at_submit = die_at_two
    driven.to_the_end()
    assert driven.answers == expected(5, {2})
    died = Failure("died", "gone")
    assert driven.lost == {2: Lost(2, died, 3, (died, died))}


def test_a_deadline_loses_its_row():
    driven = Driven(3, 3)
    (submission,) = driven.start()
    submission.future.set_exception(TimedOut(0, "too long"))
    assert driven.step() == Lost(0, Failure("timeout", "too long"), 1)
    driven.finish()
    assert driven.answers == expected(3, {0})


def test_an_exception_that_is_no_tasklost_is_a_death_that_tells_of_it():
    driven = Driven(1, 1)
    driven.backend.at_submit = lambda submission: submission.future.set_exception(RuntimeError("cable"))
    driven.to_the_end()
    assert driven.lost[0].failure == Failure("died", "the backend lost it: RuntimeError('cable')")


def test_nothing_is_sent_after_an_interrupt_that_is_yet_to_be_heard():
    """The serial backend would run it before the loop looks into its inbox: for hours, perhaps."""
    driven = Driven(5, 5, slots=1)
    driven.loop.interrupt()
    with pytest.raises(InterruptReceived):
        driven.to_the_end()
    assert driven.backend.submissions == []


def test_what_raised_is_tried_again_as_often_as_asked():
    driven = Driven(2, 2, retries=1)
    (submission,) = driven.start()
    raised = Failure("raised", "no", "", retryable=True)
    submission.finish(0, [(1, raised)])
    driven.step()
    assert driven.lost == {}
    ((again,)) = driven.start()
    assert (again.values, again.rows.attempt) == ([1], 2)
    again.finish(0, [(0, raised)])
    driven.step()
    assert driven.lost == {1: Lost(1, raised, 2, (raised,))}
    assert driven.step() == "the end"


def test_workers_that_never_start_end_the_loop():
    driven = Driven(5, 1, slots=1)
    driven.backend.at_submit = lambda submission: submission.future.set_exception(Unloadable("ImportError: x"))
    driven.to_the_end()
    assert driven.dispatcher.cannot_start
    assert driven.dispatcher.start_error == "ImportError: x"
    assert len(driven.backend.submissions) == 3


def test_an_idle_slot_takes_rows_back_once():
    driven = Driven(8, 8, slots=2)
    (submission,) = driven.start()
    assert driven.backend.recalled == []
    assert [driven.step(), driven.step()] == [None, None]
    assert driven.backend.recalled == [submission.future]
    submission.options.on_part(GivenBack(3))
    (rest,) = driven.start()
    assert rest.values == [3, 4, 5, 6, 7]
    submission.send(0, 3)
    driven.step()
    submission.future.set_exception(Killed("late"))
    rest.finish()
    driven.to_the_end()
    assert driven.answers == expected(8)
    assert driven.lost == {}


def test_rows_are_not_taken_back_while_every_slot_is_busy():
    driven = Driven(8, 4, slots=2)
    driven.start()
    driven.step()
    assert driven.backend.recalled == []


def test_the_source_prepares_while_there_is_nothing_else_to_do():
    driven = Driven(4, 4)
    driven.source.to_prepare = 3
    for left in (2, 1, 0):
        assert driven.step() is None
        assert driven.source.to_prepare == left
    assert driven.backend.recalled == []


def test_an_interrupt_takes_back_brings_in_what_comes_and_kills_the_rest():
    driven = Driven(9, 3, slots=3)
    first, second, third = driven.start()
    first.finish()
    driven.loop.interrupt()
    second.finish()
    third.send(0, 2)
    assert [driven.step().start for _ in range(3)] == [0, 3, 6]
    with pytest.raises(InterruptReceived):
        driven.step()
    assert third.future in driven.backend.recalled
    assert driven.backend.killed == [third.future]
    assert driven.backend.take() == []
    assert driven.answers == expected(8)
    assert driven.dispatcher.remaining() == [range(8, 9)]


def test_an_interrupt_with_nothing_under_way_waits_for_nothing():
    driven = Driven(4, 2, slots=2)
    for submission in driven.start():
        driven.loop.interrupt()
        submission.finish()
    assert [driven.step().start for _ in range(2)] == [0, 2]
    with pytest.raises(InterruptReceived):
        driven.step()
    assert driven.backend.killed == []


def test_what_arrives_after_the_loop_has_ended_is_drained():
    driven = Driven(4, 2)
    one, other = driven.start()
    driven.news.close()
    one.finish()
    other.send(0, 1)
    assert [(taken.start, taken.part.count) for _, taken in driven.loop.drain()] == [(0, 2), (2, 1)]
    assert driven.dispatcher.finished == 3


def test_draining_ignores_what_has_failed_and_other_interrupts():
    driven = Driven(4, 2)
    one, other = driven.start()
    one.future.set_exception(Killed("now"))
    other.send(0, 1)
    driven.loop.interrupt()
    taken = [item for _, item in driven.loop.drain()]
    assert [(item.start, item.part.count) for item in taken] == [(2, 1)]


def test_leaving_the_loop_kills_what_is_under_way():
    driven = Driven(6, 2, slots=2)
    submissions = driven.start()
    driven.news.close()
    assert driven.backend.killed == [each.future for each in submissions]


def test_a_lane_that_is_dropped_ends_after_what_has_come_and_what_is_under_way_is_killed():
    driven = Driven(6, 1, slots=2)
    first, second = driven.start()
    first.finish()
    assert driven.step().start == 0
    [third] = driven.backend.take()
    driven.loop.drop(*driven.loop._lanes)
    assert driven.backend.killed == [second.future, third.future]
    second.finish()  # too late
    driven.to_the_end()
    assert (driven.answers, driven.lost, driven.dispatcher.total) == ({0: {"answer": 0}}, {}, 1)
    assert driven.backend.take() == []


def test_dropping_a_lane_leaves_the_others_alone():
    driven = Driven(2, 1, slots=2)
    one = next(iter(driven.loop._lanes))
    other = Lane(Dispatcher(1, Chunker(2)), "another handle", Rows(), TaskOptions())
    driven.loop.add(other)
    driven.loop.drop(one)
    driven.loop.drop(one)
    [submission] = driven.start()
    submission.finish()
    driven.to_the_end()
    assert submission.handle == "another handle"
    assert other.dispatcher.finished == 1


def test_a_backend_that_refuses_ends_the_loop_and_kills_the_others():
    driven = Driven(6, 2, slots=2)

    def refuse_the_second(submission):
        if submission.values == [2, 3]:
            raise BackendError("no room")

    driven.backend.at_submit = refuse_the_second
    with pytest.raises(BackendError, match="no room"):
        driven.step()
    first, _ = driven.backend.take()
    assert driven.backend.killed == [first.future]


class DrivableBackend(FakeBackend):
    """Completes a future only when the loop's own thread does the work."""

    def __init__(self, slots=2):
        super().__init__(slots)
        self.waiting, self.woken, self.driven, self.patience = [], 0, 0, None
        self.at_submit = self.waiting.append

    def drive(self, until, timeout):
        self.driven, self.patience = self.driven + 1, timeout
        while self.waiting and not until():
            self.waiting.pop(0).finish()

    def wake(self):
        self.woken += 1

    def at_work(self, owner):
        return min(self.room, sum(not each.future.done() for each in self.waiting if each.options.owner is owner))


def test_no_more_are_submitted_than_there_are_slots_however_many_may_be():
    driven = Driven(20, 1, slots=2, most_slots=3)
    driven.loop._fill()
    assert len(driven.backend.take()) == 2
    driven.backend.room = 5
    driven.loop._fill()
    assert len(driven.backend.take()) == 1


def test_a_backend_that_says_itself_how_many_may_be_gets_so_many():
    driven = Driven(20, 1, backend=ElasticBackend(slots=2), most_slots=3)
    driven.loop._fill()
    assert len(driven.backend.take()) == 3


class ElasticBackend(FakeBackend):
    def at_most(self, ncores):
        return ncores


def test_a_drivable_backend_is_driven_by_the_thread_that_waits():
    driven = Driven(20, 3, backend=DrivableBackend())
    driven.loop.may_drive = lambda: True
    driven.to_the_end()
    assert driven.answers == expected(20)
    assert driven.backend.driven > 0
    driven.loop.interrupt()
    assert driven.backend.woken == 1


def test_answers_are_heard_also_if_slots_are_free_again_sooner_than_rows_are_made():
    backend = DrivableBackend()
    backend.at_submit = Submission.finish
    driven = Driven(10_000, 1, backend=backend)
    for row in range(5):
        assert driven.step().start == row
        assert len(backend.submissions) <= row + 4  # what has come, and what each slot has got since


def test_a_drivable_backend_is_left_alone_where_an_exception_may_strike():
    driven = Driven(2, 1, backend=DrivableBackend())
    assert driven.step() is None
    assert driven.backend.driven == 0


def test_who_can_work_ahead_does_not_wait_for_the_backend_that_he_drives():
    driven = Driven(2, 1, backend=DrivableBackend())
    driven.loop.may_drive = lambda: True
    driven.backend.at_submit = lambda submission: None
    driven.start()
    assert driven.backend.patience == 0.0
    driven.step()
    assert driven.backend.patience > 0.0


def after_a_first_chunk_of(seconds, backend):
    driven = Driven(10_000, 1, backend=backend)
    first, _ = driven.start()
    first.finish(seconds=seconds)
    driven.step()
    return driven.start()


def test_trifling_chunks_are_sent_to_busy_slots_too_in_trains():
    queued = after_a_first_chunk_of(1e-6, DrivableBackend())
    assert [each.options.may_queue for each in queued] == [False, True, True]
    trains = [
        (len(each.values), each.rows.together) for each in queued[1:]
    ]  # when the first was sent, nothing was known
    assert trains == [(LONGEST_TRAIN, 1)] * 2


def test_one_chunk_waits_behind_one_that_takes_its_time():
    queued = after_a_first_chunk_of(1.0, DrivableBackend())
    assert [each.options.may_queue for each in queued] == [False, True, True]


def test_no_chunk_waits_where_submit_itself_may_run_it():
    (only,) = after_a_first_chunk_of(1e-6, FakeBackend())
    assert not only.options.may_queue
    assert len(only.values) == 1  # no train


# Frozen values


class Bomb:
    def __reduce__(self):
        return int, ("boom",)


def frozen_part(*columns, failures=(), first=0):
    cold = [[freeze(v, beside=False) if isinstance(v, list | Bomb) else v for v in column] for column in columns]
    keys = tuple("abc"[: len(columns)])
    return Part(first, len(columns[0]) + len(failures), keys, cold, list(failures), [0.0], [1], {})


def test_frozen_values_are_thawed_and_others_left_alone():
    part = frozen_part([[1], 2, [3]], [4, 5, 6])
    assert thawed(part).columns == [[[1], 2, [3]], [4, 5, 6]]
    assert any(type(value) is Frozen for value in part.columns[0])
    whole = Part(0, 2, ("a",), [np.arange(2)], [], [0.0], [2], {})
    assert thawed(whole) is whole


def test_a_row_whose_value_cannot_be_unpickled_has_failed_and_no_other():
    no = Failure("raised", "no")
    part = frozen_part([[1], Bomb(), [3], 4], [5, Bomb(), 7, Bomb()], failures=[(11, no)], first=10)
    came = thawed(part)
    assert [row for row, _ in came.failures] == [11, 12, 14]
    assert came.failures[0] == (11, no)
    assert came.failures[1][1].kind == "unpicklable"
    assert came.failures[1][1].text.startswith("the answer cannot be unpickled: ValueError(")
    assert "Traceback" in came.failures[1][1].traceback
    assert list(psets_of(came.keys, came.columns, 2)) == [{"a": [1], "b": 5}, {"a": [3], "b": 7}]
    assert (came.first, came.count) == (10, 5)


def test_a_value_that_ends_programs_when_it_is_unpickled_ends_nothing():
    class Exits:
        def __reduce__(self):
            return exit, (3,)

    value = Frozen(pickle.dumps(Exits()), [])
    came = thawed(Part(0, 1, ("a",), [[value]], [], [0.0], [1], {}))
    assert came.failures[0][1].text == "the answer cannot be unpickled: SystemExit(3)"


def test_what_a_chunk_is_told_is_its_own_and_the_rest_is_that_of_its_lane():
    of_the_lane = TaskOptions(*range(len(TaskOptions._fields)))
    told = of_the_lane.of_chunk("rows", "on_part", "may_queue", "owner")
    assert told == of_the_lane._replace(rows="rows", on_part="on_part", may_queue="may_queue", owner="owner")
