"""Whole-table stages that ask: one survey for all that they ask one worker, and answers as soon as there are any."""

from __future__ import annotations

import gc
import re
import signal
import tracemalloc

import numpy as np
import pytest
from conftest import QUIET
from pipeline_workers import (
    fails_at_odd,
    fails_at_three,
    half,
    hangs_at_two,
    is_killed_at_two,
    left_meets_right,
    negated,
    right_meets_left,
    square,
    stamp,
    succeeds_at_the_third_attempt,
)
from test_failures_driver import HEAD, program  # noqa: F401 - a fixture

import paramsurvey
from paramsurvey import MapResults, Pipeline
from paramsurvey.asking import Asked, seconds_of
from paramsurvey.engine.dispatcher import Lost, Taken, cut_out
from paramsurvey.engine.records import Failure, Part
from paramsurvey.errors import StageError, StageFailed, SurveyStopped, WorkerStartError
from paramsurvey.psets import psets_of_user
from paramsurvey.stages.base import Answers, Ask, Made, conversation, said_in_the_end
from paramsurvey.tables import table_of

pytestmark = pytest.mark.timeout(120, method="signal")


def numbers(*which):
    return [{"n": n} for n in which]


def stage(talk, name="strategy"):
    """Make a stage of a generator function of its table."""

    class Strategy:
        def __init__(self):
            self.name = name

        def table(self, table):
            return talk(table)

    return Strategy()


def ran(session, talk, psets=({"n": 0},), **options):
    return session.run(Pipeline().add(stage(talk)), list(psets), **options)


def all_told(ask, into):
    """Ask, and wait until nothing is outstanding."""
    told = yield ask
    into.append(told)
    while told.outstanding:
        told = yield Ask(ask.worker, [], ask.options, until="first")
        into.append(told)


# What a stage is told that does not wait for all


def test_answers_come_as_soon_as_there_are_any_and_each_once(session):
    told = []

    def talk(table):
        yield from all_told(Ask(square, numbers(*range(20)), until="first"), told)
        return table

    ran(session, talk)
    assert all(isinstance(each, Answers) and each.rows for each in told)
    assert sorted(row for each in told for row in each.rows) == [(n, {"n": n, "square": n * n}) for n in range(20)]
    came = np.cumsum([len(each.rows) for each in told])
    assert [each.outstanding for each in told] == (20 - came).tolist()


def test_rows_are_numbered_through_all_asks_of_one_worker(session):
    told, others = [], []

    def talk(table):
        told.append((yield Ask(square, numbers(5, 6), until="first")))
        results = yield Ask(square, numbers(100, 101))  # has no numbers, and the same survey
        assert results.results["square"].tolist() == [10000, 10201]
        yield from all_told(Ask(square, numbers(7), until="first"), told)
        yield from all_told(Ask(half, numbers(8), until="first"), others)
        return table

    ran(session, talk)
    assert sorted((number, row["n"]) for each in told for number, row in each.rows) == [(0, 5), (1, 6), (2, 7)]
    assert [(number, row["n"]) for each in others for number, row in each.rows] == [(0, 8)]


def test_a_stage_that_asks_nothing_while_nothing_is_outstanding_is_told_so_at_once(session):
    told = []

    def talk(table):
        for _ in range(3):
            told.append((yield Ask(square, [], until="first")))
        return table

    ran(session, talk)
    assert [(each.rows, each.lost, each.outstanding, each.seconds) for each in told] == [([], [], 0, {})] * 3
    assert {each.slots for each in told} == {1 if session.backend == "serial" else 2}


def test_answers_tell_how_long_each_took(session):
    told = []

    def talk(table):
        yield from all_told(Ask(square, numbers(*range(5)), until="first"), told)
        return table

    ran(session, talk)
    seconds = {number: took for each in told for number, took in each.seconds.items()}
    assert sorted(seconds) == list(range(5))
    assert all(0 <= took < 20 for took in seconds.values())


def right_or_left(pset, system_kwargs, user_kwargs):
    """Have two psets of one ask wait for one another."""
    worker = (left_meets_right, right_meets_left)[pset["n"]]
    return {"met": next(iter(worker(pset, system_kwargs, user_kwargs).values()))}


def test_what_is_asked_for_later_runs_beside_what_was_asked_before(pool, tmp_path):
    """The first pset waits for the second, which the stage asks for when it was told of a third."""
    options = {"user_kwargs": {"folder": str(tmp_path)}}
    told = []

    def talk(table):
        told.append((yield Ask(one_of_three, numbers(0, 2), options, until="first")))
        yield from all_told(Ask(one_of_three, numbers(1), options, until="first"), told)
        return table

    ran(pool, talk)
    assert told[0].rows == [(1, {"n": 2, "met": None})]
    assert told[0].outstanding == 1
    assert sorted(row for each in told[1:] for row in each.rows) == [
        (0, {"n": 0, "met": True}),
        (2, {"n": 1, "met": True}),
    ]


def one_of_three(pset, system_kwargs, user_kwargs):
    return {"met": None} if pset["n"] == 2 else right_or_left(pset, system_kwargs, user_kwargs)


@pytest.mark.parametrize("until", ["frist", None, 1])
def test_any_other_until_is_refused(until):
    with pytest.raises(StageError, match=re.escape(f"Ask(until={until!r}): until must be 'all' or 'first'")):
        Ask(square, [], until=until)


# One survey for all that is asked of one worker


def test_a_worker_is_sent_once_however_often_it_is_asked(session, monkeypatch):
    published = []
    backend = session._backend_for(session._options)
    publish = type(backend).publish
    monkeypatch.setattr(type(backend), "publish", lambda self, obj: published.append(obj) or publish(self, obj))

    def talk(table):
        for n in range(5):
            yield Ask(stamp, numbers(n), {"user_kwargs": {"list": [1, "a"]}})  # made anew, and the same
            yield Ask(stamp, numbers(n), {"user_kwargs": {"list": [1, "a"]}}, until="first")
        yield Ask(stamp, numbers(0), {"user_kwargs": {"list": [1, "b"]}})
        yield Ask(square, numbers(0))
        return table

    run = ran(session, talk)
    assert [work.name for work in published] == ["strategy 1", "strategy 2", "strategy 3"]
    assert run.progress.finished == run.progress.total == 12


def test_the_methods_of_one_object_are_one_worker_and_those_of_two_are_not():
    class Model:
        def worker(self, pset, system_kwargs, user_kwargs):
            return {}

    one, other = Model(), Model()
    assert Ask(one.worker, []).is_of_one_survey_with(Ask(one.worker, []))
    assert not Ask(one.worker, []).is_of_one_survey_with(Ask(other.worker, []))
    assert not Ask(square, []).is_of_one_survey_with(Ask(half, []))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, {}, True),
        ({"retries": 1}, {"retries": 1}, True),
        ({"retries": 1}, {"retries": True}, False),
        ({"retries": 1}, {}, False),
        ({"user_kwargs": (1, {"a": [2.0]})}, {"user_kwargs": (1, {"a": [2.0]})}, True),
        ({"user_kwargs": (1, {"a": [2.0]})}, {"user_kwargs": (1, {"a": [2]})}, False),
        ({"user_kwargs": np.zeros(3)}, {"user_kwargs": np.zeros(3)}, False),
    ],
)
def test_options_are_the_same_if_they_are_plain_values_that_are(one, other, alike):
    assert Ask(square, [], one).is_of_one_survey_with(Ask(square, [], other)) is alike


def test_a_stage_that_asks_ever_new_workers_keeps_few_of_them_open(session):
    def talk(table):
        for n in range(30):
            results = yield Ask(lambda pset, system, user, n=n: {"sum": pset["n"] + n}, numbers(1))
            assert results.results["sum"].tolist() == [1 + n]
        return table

    log = session._log.stream
    log.lines.clear()
    assert ran(session, talk).progress.finished == 30
    begun = [1 if "psets on" in line else -1 for line in log.lines if " strategy " in line]
    assert (sum(begun), max(np.cumsum(begun))) == (0, 10)


def test_rows_of_several_asks_come_back_in_one_part_and_are_told_apart(session):
    """The worker is fast, so rows of one ask travel with those of the next."""
    told, sums = [], []

    def talk(table):
        for start in range(0, 300, 100):
            told.append((yield Ask(square, numbers(*range(start, start + 100)), until="first")))
            results = yield Ask(square, numbers(*range(start, start + 7)))
            sums.append(results.results["n"].tolist())
        yield from all_told(Ask(square, [], until="first"), told)
        return table

    ran(session, talk)
    rows = sorted(row for each in told for row in each.rows)
    assert rows == [(n, {"n": n, "square": n * n}) for n in range(300)]
    assert sums == [list(range(start, start + 7)) for start in (0, 100, 200)]


def test_results_of_an_ask_are_those_of_a_survey_of_its_own(session):
    frame = table_of([{"n": n} for n in (3, 1, 2)]).frame().set_axis(["c", "a", "b"])
    found = []

    def talk(table):
        found.append((yield Ask(fails_at_three, numbers(1, 2))))
        found.append((yield Ask(fails_at_three, frame)))
        return table

    ran(session, talk)
    alone = [session.map(fails_at_three, numbers(1, 2)), session.map(fails_at_three, frame)]
    for one, other in zip(found, alone, strict=True):
        assert isinstance(one, MapResults)
        assert one.results.equals(other.results)
        assert one.missing.drop(columns="_traceback").equals(other.missing.drop(columns="_traceback"))
        assert one.progress == other.progress
        assert repr(one)[12:].split(":", 1)[1] == repr(other)[12:].split(":", 1)[1]


# When things go wrong


def test_failures_are_told_with_their_numbers_and_reasons(session):
    told = []

    def talk(table):
        yield from all_told(Ask(fails_at_odd, numbers(*range(4)), until="first"), told)
        return table

    run = ran(session, talk)
    lost = sorted((number, failure.kind, failure.text) for each in told for number, failure in each.lost)
    assert lost == [(n, "raised", f"ValueError('no answer for {n}')") for n in (1, 3)]
    assert sorted(number for each in told for number, _ in each.rows) == [0, 2]
    assert (run.progress.failures, run.progress.finished, len(run.missing)) == (2, 2, 0)


@pytest.mark.parametrize(
    ("worker", "options", "kind"),
    [(is_killed_at_two, {}, "died"), (hangs_at_two, {"timeout": 0.2}, "timeout")],
)
@pytest.mark.parametrize("until", ["all", "first"])
def test_deaths_and_deadlines_lose_their_own_pset_alone(until, worker, options, kind, pool):
    rows, lost = [], []

    def talk(table):
        if until == "all":
            results = yield Ask(worker, numbers(*range(5)), options)
            rows.extend(results.results["n"])
            lost.extend((row["n"], row["_kind"]) for row in results.missing.to_dict("records"))
        else:
            told = []
            yield from all_told(Ask(worker, numbers(*range(5)), options, until="first"), told)
            rows.extend(row["n"] for each in told for _, row in each.rows)
            lost.extend((number, failure.kind) for each in told for number, failure in each.lost)
        return table

    ran(pool, talk)
    assert (sorted(rows), lost) == ([0, 1, 3, 4], [(2, kind)])


@pytest.mark.parametrize("until", ["all", "first"])
def test_retries_are_those_of_map(until, session):
    found = []

    def talk(table):
        ask = Ask(succeeds_at_the_third_attempt, numbers(1, 2, 3), {"retries": 2}, until=until)
        if until == "all":
            results = yield ask
            found.extend(results.iterdicts())
        else:
            told = []
            yield from all_told(ask, told)
            found.extend(row for each in told for _, row in each.rows)
        return table

    ran(session, talk)
    assert sorted(row["n"] for row in found) == [1, 2, 3]


def test_a_failure_that_is_to_stop_a_survey_stops_the_run(session):
    def talk(table):
        yield Ask(square, numbers(0, 1))
        yield Ask(fails_at_odd, numbers(1), {"on_failure": "stop"}, until="first")
        raise AssertionError("it should not be told")

    with pytest.raises(SurveyStopped, match=r"^strategy 2: pset 0 is missing \(raised\)"):
        ran(session, talk)


def test_a_worker_that_cannot_be_loaded_ends_the_run(pool):
    class Unloadable:
        def __call__(self, pset, system_kwargs, user_kwargs):
            return {}

        def __reduce__(self):
            return (int, ("no number",))

    def talk(table):
        yield Ask(square, numbers(1))
        try:
            yield Ask(Unloadable(), numbers(1), until="first")
        except GeneratorExit:
            return [{"came": "this far"}]

    with pytest.raises(WorkerStartError) as caught:
        ran(pool, talk)
    assert caught.value.results.results.to_dict("records") == [{"came": "this far"}]


def test_out_func_sees_every_answer(session):
    seen = []

    def out_func(user_ret, system_kwargs, user_kwargs):
        seen.append((user_ret["pset"]["n"], user_ret.get("result", {}).get("even")))

    def talk(table):
        yield Ask(fails_at_odd, numbers(0, 1), {"out_func": out_func})
        yield from all_told(Ask(fails_at_odd, numbers(2, 3), {"out_func": out_func}, until="first"), [])
        return table

    ran(session, talk)
    assert sorted(seen) == [(0, 0), (1, None), (2, 2), (3, None)]


def test_a_stage_that_ends_while_psets_are_under_way_has_them_cancelled(pool):
    """It does not wait for them, nobody calls them missing, and the workers are there for what follows."""

    def talk(table):
        told = yield Ask(hangs_at_two, numbers(1, 2, 2, 2), until="first")
        assert [row["n"] for _, row in told.rows] == [1]
        return [{"n": 4}]

    run = pool.run(Pipeline().add(stage(talk)).map(square).map(negated), [{"n": 0}])
    assert run.results.to_dict("records") == [{"n": 4, "square": 16, "negated": -4}]
    assert len(run.missing) == 0
    assert (run.progress.total, run.progress.finished, run.progress.active) == (3, 3, 0)


def test_what_came_before_a_stage_ended_is_counted(session):
    """Both answers are there before the stage hears of the first, and `out_func` gets both."""
    seen = []

    def talk(table):
        yield Ask(square, numbers(*range(40)), {"out_func": lambda ret, system, user: seen.append(ret)}, until="first")
        return table

    run = ran(session, talk)
    assert run.progress.finished == len(seen) == run.progress.total


# At the same time


def test_two_stages_ask_at_once_and_are_told_their_own(session):
    def asks(worker, key):
        def talk(table):
            told, found = [], []
            yield from all_told(Ask(worker, numbers(*range(10)), until="first"), told)
            for n in range(5):
                found += (yield Ask(worker, numbers(n))).iterdicts()
            rows = sorted(row for each in told for row in each.rows)
            assert [number for number, _ in rows] == list(range(10))
            return [row for _, row in rows] + found

        return stage(talk, name=key)

    pipeline = Pipeline().add(asks(square, "one")).add(asks(half, "two"), after="psets")
    run = session.run(pipeline, [{"n": 0}])
    expected = [*range(10), *range(5)]
    assert run["one"]["square"].tolist() == [n * n for n in expected]
    assert run["two"]["half"].tolist() == [n / 2 for n in expected]


def test_a_stage_may_ask_two_workers_whose_psets_run_beside_one_another(pool, tmp_path):
    """A pset of the first waits for that of the second, which is asked when another one of the first has come."""
    options = {"user_kwargs": {"folder": str(tmp_path)}}

    def talk(table):
        told = [(yield Ask(one_of_three, numbers(0, 2), options, until="first"))]
        results = yield Ask(right_meets_left, numbers(1), options)
        yield from all_told(Ask(one_of_three, [], options, until="first"), told)
        return [*results.iterdicts(), *(row for each in told for _, row in each.rows)]

    found = ran(pool, talk).results.to_dict("records")
    assert [row["n"] for row in found] == [1, 2, 0]
    assert (found[0]["right"], found[2]["met"]) == (True, True)


# Ends before the time


def test_what_a_stage_returns_when_the_run_ends_is_among_the_results(session):
    def talk(table):
        picks = []
        try:
            while True:
                picks += (yield Ask(square, numbers(len(picks)))).iterdicts()
                if len(picks) == 3:
                    yield Ask(fails_at_odd, numbers(1), {"on_failure": "stop"})
        except GeneratorExit:
            return Made(table_of(picks), shown="three picks")

    with pytest.raises(SurveyStopped) as caught:
        ran(session, talk)
    assert caught.value.results["strategy"] == "three picks"
    assert caught.value.results.results["square"].tolist() == [0, 1, 4]


def test_a_stage_that_does_not_care_leaves_nothing_when_the_run_ends(session):
    def talk(table):
        yield Ask(fails_at_odd, numbers(1), {"on_failure": "stop"})

    with pytest.raises(SurveyStopped) as caught:
        ran(session, talk)
    assert len(caught.value.results.results) == 0


def test_another_stage_that_fails_leaves_what_this_one_has(session):
    def asks(table):
        try:
            while True:
                yield Ask(square, numbers(1))
        except GeneratorExit:
            return [{"so": "far"}]

    def breaks(table):
        yield Ask(half, numbers(1))
        raise LookupError("lost")

    pipeline = Pipeline().add(stage(asks, "asks")).add(stage(breaks, "breaks"), after="psets")
    with pytest.raises(StageFailed, match=r"^stage 'breaks': it raised LookupError: lost$") as caught:
        session.run(pipeline, [{"n": 0}])
    assert caught.value.results["asks"].to_dict("records") == [{"so": "far"}]


def test_a_conversation_is_ended_through_generators_of_generators():
    def talk(table):
        try:
            yield from all_told(Ask(square, numbers(1), until="first"), [])
        except GeneratorExit:
            return "so far"

    conversing = conversation(stage(talk), [table_of([])])
    next(conversing)
    assert said_in_the_end(conversing) == "so far"
    with pytest.raises(GeneratorExit):
        said_in_the_end(conversation(stage(lambda table: (yield Ask(square, []))), [table_of([])]))


INTERRUPTED = (
    HEAD
    + """
from paramsurvey import Pipeline
from paramsurvey.stages.base import Ask

def waits(pset, system_kwargs, user_kwargs):
    if pset["n"] == 3:
        time.sleep(3600)
    return {"square": pset["n"] ** 2}

class Strategy:
    name = "strategy"
    def table(self, table):
        picks = []
        try:
            for n in range(10):
                if n == 3:
                    say("asks")
                told = yield Ask(waits, [{"n": n}], until=sys.argv[2])
                picks += told.iterdicts() if sys.argv[2] == "all" else [row for _, row in told.rows]
        except (GeneratorExit, KeyboardInterrupt):
            return picks

with paramsurvey.Session(backend=sys.argv[1], **options) as session:
    try:
        session.run(Pipeline("p").add(Strategy()), [{"n": 0}])
    except Interrupted as exc:
        say("picked", exc.results.results["square"].tolist())
        say("next", len(session.map(failing_workers.healthy, psets)))
"""
)


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
@pytest.mark.parametrize("until", ["all", "first"])
def test_ctrl_c_carries_out_what_a_stage_has_so_far(until, backend, program):  # noqa: F811
    started = program(INTERRUPTED, backend, until)
    assert started.line() == "asks"
    started.process.send_signal(signal.SIGINT)
    assert started.line() == "picked [0, 1, 4]"
    assert started.rest() == ["next 40"]


# What is kept


def test_a_thousand_asks_keep_nothing():
    """What is told is let go: the last hundreds of asks take no more memory than those before."""
    held = []

    def talk(table):
        for turn in range(900):
            yield Ask(fails_at_odd, numbers(turn), until="first")
            yield Ask(fails_at_odd, numbers(turn, turn + 1))
            if turn in (300, 600, 899):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        return table

    with paramsurvey.Session(backend="serial", vstats=0, **QUIET) as session:
        tracemalloc.start()
        try:
            ran(session, talk)
        finally:
            tracemalloc.stop()
    assert (held[2] - held[1]) / 300 < 400  # bytes per ask; of a failed row, the number of its attempts is kept


# The feed alone


def asked(first, *more, until="first"):
    feed = Asked.of(psets_of_user(first, None), until)
    for each in more:
        feed.put(psets_of_user(each, None), until)
    return feed


def part(values, failures=(), first=0):
    count = len(values) + len(failures)
    return Part(first, count, ("a",), [list(values)], list(failures), [0.5] * count, [1] * count, {})


def test_the_parts_of_a_survey_are_cut_at_the_borders_of_asks():
    feed = asked(numbers(0, 1), numbers(2), numbers(3, 4))
    feed.note(Taken(1, part([10, 20, 30]), []))
    told = feed.answer("", None, 1)
    assert told.rows == [(1, {"n": 1, "a": 10}), (2, {"n": 2, "a": 20}), (3, {"n": 3, "a": 30})]
    assert (told.outstanding, told.seconds) == (2, {1: 0.5, 2: 0.5, 3: 0.5})
    assert [list(feed.slice(0, 1).dicts()), list(feed.slice(4, 5).dicts())] == [numbers(0), numbers(4)]


def test_a_row_that_is_tried_again_is_outstanding_until_it_is_through():
    failure = Failure("raised", "no", retryable=True)
    feed = asked(numbers(0, 1, 2))
    feed.note(Taken(0, part([10, 30], [(1, failure)]), []))
    assert (feed.answer("", None, 1).outstanding, feed.pset(1)) == (1, {"n": 1})
    assert not feed.is_ready
    feed.note(Lost(1, failure, 2))
    told = feed.answer("", None, 1)
    assert (told.rows, told.lost, told.outstanding) == ([], [(1, failure)], 0)


def test_a_piece_of_a_part_has_its_own_answers_failures_and_times():
    failures = [(row, Failure("raised", "no")) for row in (3, 5)]
    whole = Part(2, 5, ("a",), [[10, 30, 50]], failures, [0.1, 0.2], [2, 3], {})
    piece = cut_out(whole, 2, 4)
    assert (piece.first, piece.count, piece.columns, piece.failures) == (4, 2, [[30]], failures[1:])
    assert list(seconds_of(whole, 1)) == [0.1, 0.2, 0.2, 0.2]
