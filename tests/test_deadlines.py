"""A run that must be over in time, or that is told to end, ends with what is finished."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from conftest import marked, unmeasured, wait_until
from test_loop import Driven
from test_session import psets_of

import paramsurvey
from paramsurvey.engine.loop import TimeIsUp
from paramsurvey.errors import DeadlinePassed, OptionError, StageFailed, SurveyError, Terminated

pytestmark = pytest.mark.usefixtures("own_folder")


def test_the_loop_ends_at_its_deadline_with_what_is_finished():
    now = [0.0]
    driven = Driven(4, 1, slots=2)
    driven.loop.clock, driven.loop.deadline = (lambda: now[0]), 5.0
    one, _two = driven.start()
    now[0] = 4.9
    one.finish()
    assert driven.step().part.count == 1
    now[0] = 5.0
    assert [len(driven.backend.take()), driven.loop.clock()] == [1, 5.0]
    with pytest.raises(TimeIsUp):
        list(driven.news)
    assert len(driven.backend.killed) == 2


def slow(pset, system_kwargs, user_kwargs):
    time.sleep(0.03)
    return {"b": pset["a"]}


def test_a_survey_ends_at_its_deadline_with_what_is_finished(session):
    assert len(session.map(slow, psets_of(2))) == 2  # the workers have started
    with pytest.raises(DeadlinePassed, match=r"the deadline has passed \(deadline=0.5 s\); \d+ of 200 psets") as caught:
        session.map(slow, psets_of(200), deadline=0.5)
    results = caught.value.results
    assert isinstance(caught.value, SurveyError)
    assert results.results["b"].tolist() == results.results["a"].tolist() != []
    assert set(results.missing["_kind"]) == {"cancelled"}
    assert len(results) + len(results.missing) == 200
    assert results.progress.active == 0


def test_a_deadline_may_be_a_moment_and_be_over(session):
    for moment in (datetime.now(UTC) - timedelta(hours=1), datetime.now() - timedelta(hours=1)):
        with pytest.raises(DeadlinePassed, match=str(moment)[:16]) as caught:
            session.map(slow, psets_of(200), deadline=moment)
        assert len(caught.value.results.missing) > 0


def test_a_deadline_that_is_far_away_changes_nothing(session):
    assert len(session.map(slow, psets_of(3), deadline=datetime.now() + timedelta(days=1))) == 3
    assert len(session.map(slow, psets_of(3), deadline=3600)) == 3


def test_a_deadline_ends_a_pipeline_and_a_stream(session):
    pipeline = paramsurvey.Pipeline("late").map(slow).best("b")
    with pytest.raises(DeadlinePassed, match=r"^late: the deadline has passed"):
        session.run(pipeline, psets_of(200), deadline=0.5)
    rows = []
    with pytest.raises(DeadlinePassed):
        rows.extend(iter(session.stream(slow, psets_of(200), deadline=0.5)))


def test_a_deadline_is_one_of_the_whole_run():
    with pytest.raises(OptionError, match="deadline is an option of the whole run"):
        paramsurvey.Pipeline().map(slow, deadline=3)


def test_a_failure_is_told_before_the_deadline(session):
    def apply(table):
        raise ValueError("first")

    with pytest.raises(StageFailed, match="first"):
        session.run(paramsurvey.Pipeline().apply(apply), psets_of(2), deadline=60)


# SIGTERM

PROGRAM = """
import sys, time
import paramsurvey


def worker(pset, system_kwargs, user_kwargs):
    time.sleep(0.02)
    return {"b": pset["a"]}


told = []


def tell(user_ret, system_kwargs, user_kwargs):
    if system_kwargs["progress"].finished >= 4 and not told:  # several may have come together
        told.append(True)
        print("running", flush=True)


journal, backend = sys.argv[1:]
psets = [{"a": a} for a in range(10_000)]
paramsurvey.init(backend=backend, ncores=2, verbose=0, group_size=1, out_func=tell)
try:
    paramsurvey.map(worker, psets, journal=journal or None)
except paramsurvey.errors.Terminated as exc:
    print(exc, flush=True)
    print(len(exc.results), set(exc.results.missing["_kind"]), flush=True)
    raise
"""


@pytest.fixture
def program(tmp_path):
    started = []

    def start(*arguments):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=tmp_path,
            env=unmeasured(),
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        assert program.stdout.readline() == "running\n"
        return program

    yield start
    for each in started:
        each.kill()
        each.wait()
        each.stdout.close()


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
def test_sigterm_ends_a_run_that_keeps_a_journal_with_what_is_finished(program, backend, mark, tmp_path):
    running = program("journal", backend)
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=30)
    told, found = out.splitlines()
    assert told.startswith("worker: SIGTERM; ")
    assert told.endswith(" of 10000 psets were finished and are in `results`")
    assert found.endswith(" {'cancelled'}")
    assert int(found.split()[0]) >= 4
    assert (tmp_path / "journal").stat().st_size > 0
    assert running.returncode == 143
    wait_until(lambda: not marked(mark), what="the workers have ended")


def test_without_a_journal_sigterm_ends_a_program_at_once_and_its_workers_with_it(program, mark):
    running = program("", "multiprocessing")
    wait_until(lambda: len(psutil.Process(running.pid).children(recursive=True)) >= 3, what="guard and workers run")
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=30)[0] == ""
    assert running.returncode == -signal.SIGTERM
    wait_until(lambda: not marked(mark), what="the workers have ended")


def test_somebody_elses_handler_of_sigterm_is_left_alone(session):
    def handler(*_):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert len(session.map(slow, psets_of(2), journal="journal")) == 2
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_termination_is_an_exit_with_its_code():
    assert Terminated("x").code == 143
    assert issubclass(Terminated, SystemExit)
