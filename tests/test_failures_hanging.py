"""A worker that hangs is ended within half a second of its deadline, with all that it has started; the others go on."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import attrs
import failing_workers as bad_workers
import psutil
import pytest
from conftest import is_running, wait_until
from stopwatch import Stopwatch
from test_failures import (
    GROUP_SIZES,
    Case,
    assert_healthy,
    assert_missing,
    assert_still_works,
    log_prefix,
    psets_of,
    session_on,
)

import paramsurvey
from paramsurvey.errors import OptionError

__all__ = ["log_prefix", "session_on"]  # fixtures

pytestmark = pytest.mark.timeout(120, method="signal")

TIMEOUT = 0.3
GRACE = 0.5
COUNT = 60
BAD = (0, 41)

HANGS = [
    bad_workers.sleeps,
    bad_workers.computes_for_ever,
    bad_workers.ignores_sigterm,
    bad_workers.swallows_every_exception,
    bad_workers.holds_the_interpreter,
    bad_workers.waits_for_a_program,
    bad_workers.waits_for_a_shell,
    bad_workers.stops_itself,
    bad_workers.waits_for_a_lock,
    bad_workers.hangs_in_its_answer,
]


@attrs.define
class Witness:
    """An ``out_func`` that notes when each missing pset was given up, and how long it had hung then."""

    ended: dict[int, float] = attrs.field(factory=dict)
    lasted: dict[int, float] = attrs.field(factory=dict)
    stopwatch: Stopwatch = attrs.field(factory=Stopwatch)

    def __call__(self, user_ret: dict[str, Any], system_kwargs: Any, user_kwargs: dict[str, str]) -> None:
        if "exception" not in user_ret:
            self.stopwatch.look()
            return
        n = user_ret["pset"]["n"]
        self.ended[n] = time.monotonic()
        self.lasted[n] = self.stopwatch.seconds_since(began(Path(user_kwargs["folder"]), n)[0])


def began(folder: Path, n: int) -> tuple[float, int]:
    """Return when a pset began to hang, and in which process."""
    when, pid = (folder / f"{n}.began").read_text().split()
    return float(when), int(pid)


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
@pytest.mark.parametrize("worker", HANGS, ids=lambda worker: worker.__name__)
def test_a_pset_that_hangs_is_ended_at_its_deadline(worker, group_size, session_on, tmp_path):
    session, witness, before = session_on(), Witness(), time.monotonic()
    case = Case(name=worker.__name__, worker=worker, kind="timeout", text=r"longer than timeout=0\.3 s", bad=BAD)
    psets = psets_of(case, COUNT)
    results = session.map(
        worker,
        psets,
        group_size=group_size,
        timeout=TIMEOUT,
        out_func=witness,
        user_kwargs={"folder": str(tmp_path)},
    )
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], COUNT)
    assert_missing(results, [pset for pset in psets if pset["bad"]], case)
    assert sorted(witness.lasted) == list(BAD)
    assert min(witness.ended.values()) - before > TIMEOUT
    assert max(witness.lasted.values()) <= TIMEOUT + GRACE
    pids = [began(tmp_path, n)[1] for n in BAD] + [int(path.read_text()) for path in tmp_path.glob("*.program")]
    wait_until(lambda: not any(psutil.pid_exists(pid) and is_running(psutil.Process(pid)) for pid in pids))
    assert_still_works(session)


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_pset_that_hangs_its_worker_while_it_is_unpickled_is_ended(group_size, session_on):
    session = session_on()
    case = Case(name="slow", value=bad_workers.Slow, kind="timeout", text=r"longer than timeout=0\.3 s", bad=(5,))
    psets = psets_of(case, 20)
    results = session.map(bad_workers.takes_anything, psets, group_size=group_size, timeout=TIMEOUT)
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], 20)
    assert_missing(results, [pset for pset in psets if pset["bad"]], case)
    assert_still_works(session)


def test_the_deadline_is_for_each_pset_and_not_for_its_group(session_on):
    psets = [{"n": n, "bad": False} for n in range(200)]
    results = session_on().map(bad_workers.takes_a_while, psets, group_size=100, timeout=0.5)
    assert_healthy(results, psets, 200)


def test_every_pset_may_hang(session_on, tmp_path):
    session = session_on(ncores=4)
    psets = [{"n": n, "bad": True} for n in range(8)]
    results = session.map(bad_workers.sleeps, psets, timeout=0.1, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_kind"].tolist() == ["timeout"] * 8
    assert_still_works(session)


def test_leaving_a_stream_ends_what_is_running(session_on, tmp_path):
    session = session_on()
    psets = [{"n": n, "bad": n > 10} for n in range(COUNT)]
    stopwatch = Stopwatch()
    with session.stream(bad_workers.sleeps, psets, user_kwargs={"folder": str(tmp_path)}, group_size=1) as rows:
        taken = [next(rows)["n"] for _ in range(5)]
    assert stopwatch.seconds_since() < 5
    assert set(taken) <= set(range(11))
    assert_still_works(session)


def test_a_backend_that_cannot_end_a_worker_refuses_a_deadline(session_on):
    session = session_on("serial")
    expected = "timeout=2: the backend 'serial' cannot end a running worker; leave timeout= out"
    with pytest.raises(OptionError, match=expected):
        session.map(bad_workers.healthy, [{"n": 1, "bad": False}], timeout=2)


def test_a_backend_without_processes_refuses_to_replace_them(session_on):
    expected = "max_tasks_per_child=2: the backend 'serial' does not replace processes; leave max_tasks_per_child= out"
    with pytest.raises(OptionError, match=expected):
        session_on("serial").map(bad_workers.healthy, [{"n": 1, "bad": False}], max_tasks_per_child=2)


def test_a_session_closed_in_the_middle_ends_its_workers(tmp_path, log_prefix):
    """Another thread closes it: the survey ends with an error, and does not wait for what hangs."""
    session = paramsurvey.Session(ncores=2, verbose=0, pslogger_prefix=log_prefix)
    psets = [{"n": n, "bad": True} for n in range(4)]
    outcome: list[BaseException] = []

    def survey() -> None:
        try:
            session.map(bad_workers.sleeps, psets, user_kwargs={"folder": str(tmp_path)})
        except paramsurvey.errors.ParamsurveyError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=survey)
    thread.start()
    wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2)
    session.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "closed" in str(outcome[0])
