"""What is tried again, when, and beside what: decided by hand first, then as a user meets it."""

import os
import signal
import time

import pytest
from conftest import QUIET
from plain_workers import double
from test_dispatcher import RAISED, all_of, finish, part, rows
from test_loop import Driven
from test_session import psets_of

import paramsurvey
from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.dispatcher import MOST_DEATHS, Dispatcher
from paramsurvey.engine.loop import Over
from paramsurvey.engine.records import Died, Failure, Retries, TimedOut
from paramsurvey.errors import OptionError

pytestmark = pytest.mark.usefixtures("own_folder")

NO_MEMORY = Failure("raised", "MemoryError()", for_memory=True)


def dispatcher(total, size=1, **retries):
    return Dispatcher(total, Chunker(2, fixed=size), retries=Retries(**retries))


def fail(source, flight, failure):
    taken = source.returned(flight, part(0, 1, [(0, failure)]))
    return [*taken.lost, *source.ended(flight, None)]


# The dispatcher


def test_a_row_rests_twice_as_long_each_time_before_it_is_tried_again():
    source = dispatcher(1, raised=3, wait=10.0)
    for now, until in ((100.0, 110.0), (110.0, 130.0), (200.0, 240.0)):
        source.now = now
        assert fail(source, source.take(), RAISED) == []
        assert source.rests_until == until
        source.now = until - 0.01
        assert source.take() is None
        assert source.remaining() == [range(1)]
        source.now = until
    (lost,) = fail(source, source.take(), RAISED)
    assert lost.ends == ("raised: ValueError()",) * 4
    assert source.done


def test_other_rows_do_not_wait_for_one_that_rests():
    source = dispatcher(2, raised=1, wait=10.0)
    fail(source, source.take(), RAISED)
    assert rows(source.take()) == [1]


def test_time_outs_are_tried_again_as_often_as_asked_beside_what_raised():
    source = dispatcher(1, raised=1, timeouts=1)
    assert source.ended(source.take(), TimedOut(0, "slow")) == []
    assert fail(source, source.take(), RAISED) == []
    (lost,) = source.ended(source.take(), TimedOut(0, "slow again"))
    assert lost.ends == ("timeout: slow", "raised: ValueError()", "timeout: slow again")
    assert lost.attempts == 3


def test_deaths_are_tried_again_at_once_whatever_the_back_off():
    source = dispatcher(1, wait=60.0)
    for _ in range(MOST_DEATHS - 1):
        assert source.ended(source.take(), Died(0, "gone")) == []
    (lost,) = source.ended(source.take(), Died(0, "gone"))
    assert (lost.failure.kind, lost.attempts) == ("died", MOST_DEATHS)


@pytest.mark.parametrize("how", ["raised", "died"])
def test_what_failed_for_memory_is_given_out_only_for_itself(how):
    source = dispatcher(2, alone=True)
    first, second = all_of(source)
    lost = fail(source, first, NO_MEMORY) if how == "raised" else source.ended(first, Died(0, "-9", was_killed=True))
    assert lost == []
    finish(source, second)
    assert source.take() is None
    assert source.remaining() == [range(1)]
    flight = source.take_for_itself()
    assert (rows(flight), flight.chunk.attempt) == ([0], 2)
    assert source.take_for_itself() is None
    finish(source, flight)
    assert source.done


def test_what_raised_for_memory_alone_is_lost():
    source = dispatcher(1, alone=True)
    fail(source, source.take(), NO_MEMORY)
    (lost,) = fail(source, source.take_for_itself(), NO_MEMORY)
    assert lost.attempts == 2


def test_without_the_option_nothing_is_run_for_itself():
    source = dispatcher(1)
    (lost,) = fail(source, source.take(), NO_MEMORY)
    assert lost.attempts == 1
    assert source.take_for_itself() is None


# The loop


def test_a_row_for_itself_is_sent_when_nothing_is_under_way_and_nothing_is_sent_beside_it():
    driven = Driven(4, 1, slots=2)
    driven.dispatcher.retries = Retries(alone=True)
    one, two = driven.start()
    one.future.set_exception(Died(0, "killed", was_killed=True))
    two.finish()
    driven.step()
    third, fourth = driven.backend.take()
    third.finish()
    driven.step()
    assert driven.start() == []  # one slot is free, and one is busy
    fourth.finish()
    driven.step()
    (again,) = driven.backend.take()
    assert (again.values, again.rows.attempt) == ([0], 2)
    assert driven.start() == []
    again.finish()
    assert driven.step().part.count == 1
    assert isinstance(next(driven.news)[1], Over)


def test_the_loop_wakes_a_row_when_its_time_has_come():
    now = [100.0]
    driven = Driven(1, 1)
    driven.loop.clock = lambda: now[0]
    driven.dispatcher.retries = Retries(raised=1, wait=30.0)
    (submission,) = driven.start()
    submission.finish(failures=[(0, RAISED)])
    assert driven.step().lost == []
    assert driven.start() == []
    now[0] = 130.0
    (again,) = driven.start()
    assert again.rows.attempt == 2


# As a user meets it


def fails_twice(pset, system_kwargs, user_kwargs):
    if system_kwargs["attempt"] < 3:
        raise user_kwargs[system_kwargs["attempt"] - 1](f"attempt {system_kwargs['attempt']}")
    return {"attempt": system_kwargs["attempt"]}


@pytest.mark.parametrize(
    ("names", "finished", "attempts"),
    [
        (None, 1, 0),
        ("OSError", 1, 0),  # what derives from it is meant, too
        ((ConnectionError, TimeoutError), 1, 0),
        (["builtins.ConnectionError", "TimeoutError"], 1, 0),
        ("ConnectionError", 0, 2),
        ("ValueError", 0, 1),
    ],
)
def test_only_exceptions_that_are_named_are_worth_a_retry(session, names, finished, attempts):
    errors = (ConnectionResetError, TimeoutError)
    results = session.map(fails_twice, psets_of(1), retries=2, retry_exceptions=names, user_kwargs=errors)
    assert len(results) == finished
    assert results.missing["_attempts"].tolist() == ([attempts] if attempts else [])


def test_missing_rows_tell_the_end_of_each_attempt(session):
    missing = session.map(fails_twice, psets_of(2), retries=1, user_kwargs=(KeyError, ValueError)).missing
    assert missing["_ends"].tolist() == [("raised: KeyError('attempt 1')", "raised: ValueError('attempt 2')")] * 2
    assert "_ends" not in session.map(fails_twice, psets_of(2), user_kwargs=(KeyError, ValueError)).missing


def test_the_back_off_is_kept(session):
    began = time.monotonic()
    results = session.map(fails_twice, psets_of(2), retries=2, retry_backoff=0.1, user_kwargs=(KeyError, KeyError))
    assert len(results) == 2
    assert time.monotonic() - began >= 0.3


@pytest.fixture(scope="module")
def pool():
    with paramsurvey.Session(backend="multiprocessing", ncores=2, **QUIET) as session:
        yield session


def hangs_once(pset, system_kwargs, user_kwargs):
    if system_kwargs["attempt"] == 1 and pset["a"] == 1:
        time.sleep(60)
    return {"attempt": system_kwargs["attempt"]}


def test_a_time_out_may_be_tried_again(pool):
    results = pool.map(hangs_once, psets_of(3), timeout=0.2, retry_timeouts=1)
    assert results.results["attempt"].tolist() == [1, 2, 1]


def notes_who_runs(pset, system_kwargs, user_kwargs):
    """Note beside whom it runs; be killed at the first attempt, as the system does that has no memory left."""
    mine = os.path.join(user_kwargs, f"{os.getpid()}.runs")
    beside = len([name for name in os.listdir(user_kwargs) if name.endswith(".runs")])
    open(mine, "w").close()
    try:
        if pset["a"] % 3 == 1 and system_kwargs["attempt"] == 1:
            os.remove(mine)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
    finally:
        if os.path.exists(mine):
            os.remove(mine)
    return {"beside": beside, "attempt": system_kwargs["attempt"]}


def test_what_was_killed_is_run_again_with_nothing_beside_it(pool, tmp_path):
    results = pool.map(notes_who_runs, psets_of(8), retry_alone=True, group_size=2, user_kwargs=str(tmp_path)).results
    again = results[results["attempt"] > 1]
    assert again["a"].tolist() == [1, 4, 7]
    assert again["beside"].tolist() == [0, 0, 0]


def needs_all_memory(pset, system_kwargs, user_kwargs):
    if system_kwargs["attempt"] == 1:
        raise MemoryError("too little")
    return {"attempt": system_kwargs["attempt"]}


def test_a_memory_error_is_tried_again_alone_without_any_retries(session):
    assert session.map(needs_all_memory, psets_of(3), retry_alone=True).results["attempt"].tolist() == [2, 2, 2]
    assert len(session.map(needs_all_memory, psets_of(3)).missing) == 3


def test_retries_of_a_stage_in_a_pipeline(session):
    pipeline = paramsurvey.Pipeline().map(fails_twice, retries=2, retry_backoff=0.01).where("attempt == 3")
    assert len(session.run(pipeline, psets_of(3), user_kwargs=(KeyError, KeyError)).results) == 3


OF_RETRIES = (
    ("retry_exceptions", OSError, "retries=", "retries=1"),
    ("retry_backoff", 2, "retries= or retry_timeouts=", "retries=1 or retry_timeouts=1"),
)
PIPELINE = paramsurvey.Pipeline().map(fails_twice)


@pytest.mark.parametrize(("name", "value", "needed", "remedy"), OF_RETRIES)
def test_how_to_try_again_is_refused_where_nobody_says_how_often(session, name, value, needed, remedy):
    given, psets = {name: value}, psets_of(1)
    for where, call in (
        ("map", lambda: session.map(fails_twice, psets, **given)),
        ("stream", lambda: session.stream(fails_twice, psets, **given)),
        ("run", lambda: session.run(PIPELINE, psets, **given)),
        ("Map", lambda: session.run(paramsurvey.Pipeline().map(fails_twice, **given), psets)),
        ("Map", lambda: session.run(PIPELINE.greedy(fails_twice, picks=1, **given), psets)),
        ("greedy", lambda: session.greedy(fails_twice, ["a"], picks=1, **given)),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert str(caught.value).startswith(f"{where}({name}=")
        wanted = f") says nothing without {needed}, because nothing is tried again: give {remedy} or more, or leave it"
        assert wanted in str(caught.value)


def test_how_to_try_again_may_be_said_ahead_of_those_who_do(session, monkeypatch):
    with paramsurvey.Session(backend="serial", retry_exceptions=OSError, retry_backoff=2, **QUIET) as ahead:
        assert len(ahead.map(double, psets_of(1)))
    once = paramsurvey.Pipeline().map(double, retries=1)
    assert len(session.run(once, psets_of(1), retry_backoff=1).results)
    assert len(session.run(paramsurvey.Pipeline().map(double, retry_backoff=1), psets_of(1), retries=1).results)
    assert len(session.map(double, psets_of(1), retry_backoff=1, retry_timeouts=1))
    assert len(session.map(double, psets_of(1), retry_backoff=1, retries=0)), "0 is an answer"
    monkeypatch.setenv("PARAMSURVEY_RETRIES", "0")
    assert len(session.map(double, psets_of(1), retry_backoff=1))
