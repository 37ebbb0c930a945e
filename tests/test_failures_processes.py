"""Worker processes that are killed, cannot start, or start others; and psets that must run at the same time."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import failing_workers as bad_workers
import plain_workers
import psutil
import pytest
from conftest import descendants, is_running, wait_until
from stopwatch import Stopwatch
from test_failures import GROUP_SIZES, assert_healthy, assert_still_works, log_prefix, session_on

import paramsurvey
from paramsurvey.backends.multiprocessing import pool as pool_module
from paramsurvey.engine.records import Displaced, Killed, TaskOptions
from paramsurvey.errors import BackendError, WorkerError, WorkerStartError
from paramsurvey.testing.submitted import Submitted

__all__ = ["log_prefix", "session_on"]  # fixtures

pytestmark = pytest.mark.timeout(120, method="signal")


def healthy_psets(count: int) -> list[dict[str, Any]]:
    return [{"n": n, "bad": False} for n in range(count)]


def guards() -> list[psutil.Process]:
    """Return the guards among this process's children."""
    found = []
    for child in psutil.Process().children():
        try:
            if "guard.main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has ended meanwhile
            pass
    return found


def workers() -> list[psutil.Process]:
    """Return the worker processes of all sessions."""
    found: list[psutil.Process] = []
    for guard in guards():
        try:
            found += guard.children()
        except psutil.Error:
            pass
    return found


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass


def assert_healthy_but_for(results: Any, key: str, psets: list[dict[str, Any]]) -> None:
    """All of these psets have finished, right and in order, with one more answer."""
    rows = results.to_dict()
    for row in rows:
        del row[key]
    assert rows == [pset | {"square": pset["n"] ** 2} for pset in psets]


@contextmanager
def in_a_thread(target: Any) -> Iterator[threading.Event]:
    """Run a function of one event, which says when to stop, beside the block."""
    stop = threading.Event()
    thread = threading.Thread(target=target, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


# Killed from outside


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_workers_killed_at_random_lose_nothing_and_no_pset_is_blamed(group_size, session_on):
    """A kill follows when fifty have finished since the last: else a slow machine has the same three under way."""
    session, chance, kills = session_on(), random.Random(1), []
    finished: list[int] = []

    def kill_some(stop: threading.Event) -> None:
        seen = 0
        while not stop.wait(chance.uniform(0.02, 0.08)):
            victims = workers()
            if victims and len(finished) >= seen + 50:
                seen = len(finished)
                kills.append(chance.choice(victims))
                kill(kills[-1])

    psets = healthy_psets(1200)
    with in_a_thread(kill_some):
        while len(kills) < 5:
            results = session.map(
                bad_workers.takes_a_millisecond, psets, group_size=group_size, out_func=lambda *_: finished.append(1)
            )
            assert len(results.missing) == 0
            assert_healthy(results, psets, 1200)
    assert_still_works(session)


def test_workers_killed_while_they_are_idle_are_replaced(session_on):
    session = session_on()
    for _ in range(3):
        assert_still_works(session)
        idle = workers()
        for process in idle:
            kill(process)
        wait_until(lambda idle=idle: not any(map(is_running, idle)))
    assert_still_works(session)


def test_a_stopped_worker_with_a_deadline_is_replaced(session_on):
    """It is one that has begun: whoever is still loading the worker is given a minute for that."""
    session = session_on()
    psets = healthy_psets(300)
    stopped: list[int] = []

    def stop_the_first(user_ret: Any, system_kwargs: Any, user_kwargs: Any) -> None:
        if not stopped:
            stopped.append(user_ret["result"]["pid"])
            os.kill(stopped[0], signal.SIGSTOP)

    results = session.map(bad_workers.takes_a_while_and_says_where, psets, timeout=0.5, out_func=stop_the_first)
    finished = [pset for pset in psets if pset["n"] not in set(results.missing["n"])]
    assert_healthy_but_for(results, "pid", finished)
    assert results.missing["_kind"].tolist() in ([], ["timeout"])  # it may have been between two psets
    assert_still_works(session)


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_killed_guard_takes_all_workers_along_and_the_survey_goes_on(group_size, session_on):
    session = session_on()
    psets = healthy_psets(60)
    before: set[psutil.Process] = set()

    def kill_the_guard(stop: threading.Event) -> None:
        while not stop.wait(0.002):
            if len(workers()) == 2 and started.is_set():
                [guard] = guards()
                before.update(guard.children(recursive=True), [guard])
                kill(guard)
                return

    started = threading.Event()
    with in_a_thread(kill_the_guard):
        results = session.map(
            bad_workers.takes_a_while, psets, group_size=group_size, out_func=lambda *_: started.set(), timeout=5
        )
    assert results.missing["_exception"].tolist() == []
    assert_healthy(results, psets, 60)
    wait_until(lambda: not any(map(is_running, before)))
    assert_still_works(session)


def test_a_pset_that_kills_what_starts_the_workers_is_given_up(session_on):
    session = session_on()
    psets = healthy_psets(20)
    bad = {"n": -1, "bad": True}
    results = session.map(bad_workers.kills_what_starts_the_workers, [*psets[:10], bad, *psets[10:]], timeout=60)
    assert results.missing[["n", "_kind", "_attempts"]].values.tolist() == [[-1, "died", 3]]
    assert "the process that starts the worker processes was killed" in results.missing["_exception"].iloc[0]
    assert_healthy(results, psets, 21)
    assert_still_works(session)


def test_a_guard_killed_while_workers_hang_leaves_none_of_them(session_on, tmp_path):
    """Nor of the programs that they have started, whose only parents are dead."""
    session = session_on()
    psets = [{"n": n, "bad": True} for n in range(2)]
    before: set[psutil.Process] = set()

    def kill_the_guard(_stop: threading.Event) -> None:
        wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2)
        before.update(descendants())
        kill(guards()[0])

    with in_a_thread(kill_the_guard):
        results = session.map(
            bad_workers.waits_for_a_program, psets, group_size=1, user_kwargs={"folder": str(tmp_path)}, timeout=1.5
        )
    assert len(before) == 5
    assert results.missing["_kind"].tolist() == ["timeout"] * 2
    wait_until(lambda: not any(map(is_running, before)))


def test_a_guard_killed_between_surveys_is_replaced(session_on):
    session = session_on()
    for _ in range(5):
        assert_still_works(session)
        [guard] = guards()
        kill(guard)
        wait_until(lambda guard=guard: not is_running(guard))
    assert_still_works(session)


def test_guards_that_are_killed_as_soon_as_they_start_end_the_survey_with_what_is_finished(session_on):
    session = session_on()
    psets = healthy_psets(100_000)

    def kill_guards(stop: threading.Event) -> None:
        while not stop.wait(0.001):
            for guard in psutil.Process().children():
                kill(guard)

    with in_a_thread(kill_guards), pytest.raises(BackendError, match=r"guard process.*open a new session") as info:
        session.map(bad_workers.takes_a_millisecond, psets)
    results = info.value.results
    assert results.results["n"].tolist() + results.missing["n"].tolist() == list(range(100_000))
    session.close()
    assert_still_works(session_on())


# That cannot start


@pytest.fixture
def module_of_the_driver(monkeypatch) -> types.ModuleType:
    """A module that no other process can import."""
    module = types.ModuleType("only_in_the_driver")
    exec(  # its functions travel by name, as those of any module
        "def square(pset, system_kwargs, user_kwargs):\n    return {'square': pset['n'] ** 2}\n", module.__dict__
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_worker_that_cannot_be_imported_ends_the_survey(group_size, session_on, module_of_the_driver):
    session = session_on()
    expected = r"square: the worker cannot be started \(ModuleNotFoundError: No module named 'only_in_the_driver'\)"
    with pytest.raises(WorkerStartError, match=expected) as info:
        session.map(module_of_the_driver.square, healthy_psets(50), group_size=group_size)
    assert info.value.results.progress.finished == 0
    assert set(info.value.results.missing["_kind"]) == {"cancelled"}
    assert len(info.value.results.missing) == 50
    assert_still_works(session)


def test_a_worker_whose_process_dies_while_it_is_loaded_ends_the_survey(session_on):
    session = session_on()
    expected = r"takes_anything: the worker cannot be started \(.*exit code 7\)"
    with pytest.raises(WorkerStartError, match=expected):
        session.map(bad_workers.takes_anything, healthy_psets(50), user_kwargs={"deadly": bad_workers.Deadly()})
    assert_still_works(session)


def test_a_module_that_raises_when_a_worker_imports_it_ends_the_survey(session_on, tmp_path, monkeypatch):
    (tmp_path / "picky.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}:\n    raise SystemExit('not in here')\n"
        "def square(pset, system_kwargs, user_kwargs):\n    return {'square': pset['n'] ** 2}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "picky", raising=False)
    import picky

    session = session_on()
    with pytest.raises(WorkerStartError, match=r"the worker cannot be started \(SystemExit: not in here\)"):
        session.map(picky.square, healthy_psets(20))
    assert_still_works(session)
    monkeypatch.delitem(sys.modules, "picky")


def test_user_kwargs_that_cannot_be_pickled_are_refused_before_anything_runs(session_on):
    session = session_on()
    with pytest.raises(WorkerError, match=r"healthy: the worker or its user_kwargs cannot be pickled.*lock"):
        session.map(bad_workers.healthy, healthy_psets(3), user_kwargs={"lock": threading.Lock()})
    assert_still_works(session)


# That start others


@pytest.mark.parametrize(("interval", "goes_on"), [(0, False), (60, True)])
def test_an_alarm_that_a_worker_forgets_strikes_no_other_pset(session_on, interval, goes_on):
    """It sets one for itself, and raises before it is cancelled; one that rings again and again is left alone."""
    session = session_on("multiprocessing", ncores=1)
    assert len(session.map(bad_workers.sets_an_alarm_and_raises, [{}], user_kwargs=interval).missing) == 1
    assert session.map(bad_workers.tells_of_an_alarm, [{}]).to_dict() == [{"alarm": goes_on}]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_programs_that_a_worker_starts_do_not_hold_its_pipes(session_on, tmp_path):
    results = session_on().map(bad_workers.has_a_shell_list_its_files, [{}], user_kwargs={"file": tmp_path / "files"})
    assert results.to_dict() == [{"files": ["0", "1", "2", "3"]}]  # the last is the folder that `ls` reads


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("worker", [bad_workers.starts_a_pool, bad_workers.leaves_a_pool])
def test_a_worker_may_start_a_pool_of_its_own(worker, method, session_on):
    session = session_on()
    psets = [{"n": n} for n in range(4)]
    results = session.map(worker, psets, user_kwargs={"method": method})
    assert results.missing["_exception"].tolist() == []
    assert_healthy(results, psets, 4)
    assert_still_works(session)


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
def test_a_worker_may_run_a_survey_of_its_own(backend, session_on, tmp_path):
    session = session_on(backend)
    psets = [{"n": n} for n in range(3)]
    results = session.map(bad_workers.starts_a_survey, psets, user_kwargs={"prefix": str(tmp_path / ".inner-")})
    assert results.missing["_exception"].tolist() == []
    assert_healthy(results, psets, 3)


def test_a_worker_may_start_an_executor_of_its_own(session_on):
    psets = [{"n": n} for n in range(2)]
    assert_healthy(session_on().map(bad_workers.starts_an_executor, psets), psets, 2)


@pytest.mark.parametrize("most", [1, 3])
def test_worker_processes_are_replaced_after_so_many_psets(most, session_on):
    session = session_on(max_tasks_per_child=most)
    psets = healthy_psets(12)
    pids: list[int] = []
    for _ in range(8):
        results = session.map(bad_workers.tells_its_process, psets)
        assert results.missing["_exception"].tolist() == []
        assert_healthy_but_for(results, "pid", psets)
        pids += results.results["pid"].tolist()
    assert max(map(pids.count, pids)) <= most


@pytest.mark.parametrize("worker", [bad_workers.leaves_a_thread, bad_workers.leaves_a_program])
@pytest.mark.parametrize("most", [None, 3])
def test_a_thread_or_program_left_in_a_worker_does_not_block_the_end(worker, most, session_on):
    session = session_on(max_tasks_per_child=most)
    psets = healthy_psets(12)
    assert_healthy(session.map(worker, psets), psets, 12)
    assert_still_works(session)
    stopwatch = Stopwatch()
    session.close()
    assert stopwatch.seconds_since() < 3


def test_a_worker_that_forks_and_lets_the_child_return_ends_nothing(session_on):
    session = session_on()
    psets = healthy_psets(20)
    results = session.map(bad_workers.forks_and_forgets, psets)
    finished = [pset for pset in psets if pset["n"] not in set(results.missing["n"])]
    assert_healthy(results, finished, 20)
    assert_still_works(session)


# Locks of the user's


def test_a_lock_that_a_thread_of_the_user_holds_is_free_in_the_workers(session_on):
    def hold(stop: threading.Event) -> None:
        with bad_workers.LOCK:
            held.set()
            stop.wait()

    held = threading.Event()
    session = session_on()
    with in_a_thread(hold):
        held.wait()
        psets = healthy_psets(100)
        assert_healthy(session.map(bad_workers.takes_the_lock, psets), psets, 100)


def test_a_survey_starts_while_a_thread_is_logging(session_on):
    def hold(stop: threading.Event) -> None:
        with logging._lock:
            held.set()
            stop.wait()

    held = threading.Event()
    with in_a_thread(hold):
        held.wait()
        session = session_on()
        psets = healthy_psets(100)
        assert_healthy(session.map(bad_workers.logs_something, psets), psets, 100)
        session.close()


def test_a_survey_starts_while_a_thread_is_importing(session_on, tmp_path, monkeypatch):
    """Workers import the very module whose import lock is held in the driver."""
    (tmp_path / "slow_to_import.py").write_text(
        "import os, failing_workers\n"
        f"if os.getpid() == {os.getpid()}:\n    failing_workers.GATE.wait()\n"
        "def square(n):\n    return n * n\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    bad_workers.GATE.clear()

    def import_slowly(_stop: threading.Event) -> None:
        import slow_to_import

        assert slow_to_import.square(2) == 4

    importer = threading.Thread(target=import_slowly, args=(threading.Event(),))
    importer.start()
    try:
        wait_until(lambda: "slow_to_import" in sys.modules)
        psets = healthy_psets(100)
        results = session_on().map(bad_workers.imports_what_the_driver_is_importing, psets)
        assert importer.is_alive()
        assert_healthy(results, psets, 100)
    finally:
        bad_workers.GATE.set()
        importer.join()
        sys.modules.pop("slow_to_import", None)


def test_two_surveys_of_one_session_run_at_once(session_on, tmp_path):
    """Psets of two surveys, in two threads, wait for one another."""
    session = session_on(ncores=2)
    results: dict[int, Any] = {}

    def survey(n: int) -> None:
        psets = [{"n": n, "party": [0, 1]}]
        results[n] = session.map(bad_workers.waits_for_all, psets, user_kwargs={"folder": str(tmp_path)})

    threads = [threading.Thread(target=survey, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(results[n].missing) for n in (0, 1)] == [0, 0]


# Together


@pytest.mark.parametrize("ncores", [2, 4, 9])
def test_as_many_psets_as_there_are_slots_run_at_once(ncores, session_on, tmp_path):
    session = session_on(ncores=ncores)
    everybody = list(range(ncores))
    psets = [{"n": n, "party": everybody} for n in everybody]
    results = session.map(bad_workers.waits_for_all, psets, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_exception"].tolist() == []
    assert results.results["pid"].nunique() == ncores


def test_psets_run_at_once_also_in_a_session_that_has_learned_to_group(session_on, tmp_path):
    session = session_on(ncores=4)
    session.map(bad_workers.healthy, healthy_psets(5000))
    psets = [{"n": n, "party": [0, 1, 2, 3]} for n in range(4)]
    results = session.map(bad_workers.waits_for_all, psets, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_exception"].tolist() == []


@pytest.mark.parametrize(
    ("count", "slow", "group_size"),
    [
        (100, 0, 100),
        (100, 30, 50),
        (100, 0, None),
        (3000, 1500, None),
        (3000, 2999, None),
        (3000, 700, 1000),
        (40, 10, 1),
        (3000, 700, 1),
    ],
)
def test_no_pset_waits_behind_a_busy_worker_while_another_is_idle(count, slow, group_size, session_on, tmp_path):
    """One pset returns when all others have been run, also those that were sent in its group or behind it."""
    session = session_on()
    psets = [{"n": n, "bad": n == slow} for n in range(count)]
    user_kwargs = {"folder": str(tmp_path), "others": count - 1}
    results = session.map(bad_workers.last_of_all, psets, group_size=group_size, user_kwargs=user_kwargs)
    assert results.missing["_exception"].tolist() == []
    assert_healthy(results, psets, count)


def test_two_slow_psets_in_one_group_do_not_wait_for_each_other(session_on, tmp_path):
    session = session_on(ncores=3)
    psets = [{"n": n, "party": [10, 11] if n in (10, 11) else [n]} for n in range(40)]
    results = session.map(bad_workers.waits_for_all, psets, group_size=40, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_exception"].tolist() == []


def test_idle_workers_that_do_not_leave_do_not_block_the_end(session_on):
    session = session_on()
    assert_still_works(session)
    for process in workers():
        process.send_signal(signal.SIGSTOP)
    session.close()
    assert workers() == []


def only_killed(guard: Any) -> None:
    """Have this process be stopped for good: nothing but SIGKILL reaches it."""
    send = guard.send_signal
    send(signal.SIGSTOP)
    guard.send_signal = lambda number: send(number) if number == signal.SIGKILL else None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GUARD_ASKED_SECONDS", "GUARD_DISMISSED_SECONDS", "GUARD_PATIENCE_SECONDS"):
        monkeypatch.setattr(pool_module, name, getattr(pool_module, name) / 20)


@pytest.mark.parametrize(
    "stop", [lambda guard: guard.send_signal(signal.SIGSTOP), only_killed], ids=["once", "for good"]
)
@pytest.mark.parametrize("at", ["idle", "busy"])
@pytest.mark.usefixtures("impatient")
def test_a_guard_that_was_stopped_does_not_block_the_end(session_on, stop, at, tmp_path):
    session = session_on()
    assert_still_works(session)
    backend = session._backend_for(session._options)
    if at == "busy":
        future = backend.submit(plain_workers.waits_for, tmp_path / "never", options=TaskOptions())
        wait_until(lambda: (tmp_path / "never.awaited").exists())
    there = [*workers(), *guards()]
    stop(backend._pool._guard)
    session.close()
    wait_until(lambda: not any(map(is_running, there)))  # orphans are reaped by others
    if at == "busy":
        assert isinstance(future.exception(0), Killed | Displaced)


@pytest.mark.parametrize(
    "stop", [lambda guard: guard.send_signal(signal.SIGSTOP), only_killed], ids=["once", "for good"]
)
@pytest.mark.usefixtures("impatient")
def test_a_guard_that_is_stopped_during_a_survey_is_continued_or_replaced(session_on, stop, tmp_path):
    """Else no deadline would be kept and no process started, without end."""
    session = session_on()
    assert_still_works(session)
    guard = session._backend_for(session._options)._pool._guard
    stop(guard)
    psets = [{"n": n, "bad": n == 3} for n in range(40)]
    results = session.map(bad_workers.sleeps, psets, timeout=0.2, user_kwargs={"folder": str(tmp_path)})
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], 40)
    assert results.missing["_kind"].tolist() == ["timeout"]
    assert (guard.poll() is None) == (guard is session._backend_for(session._options)._pool._guard)
    assert_still_works(session)


def test_a_worker_that_hangs_at_its_exit_does_not_block_the_end(session_on):
    session = session_on()
    psets = healthy_psets(10)
    assert_healthy(session.map(bad_workers.hangs_at_its_exit, psets), psets, 10)
    session.close()
    assert workers() == []


def test_workers_that_are_slow_to_start_are_waited_for_and_no_others_started_instead(session_on):
    assert paramsurvey.MapResults  # has been imported: the loop need not do that while it waits
    session = session_on()
    pool = session._backend_for(session._options)._pool
    pool._guard.send_signal(signal.SIGSTOP)
    wake = threading.Timer(0.7, lambda: pool._guard.send_signal(signal.SIGCONT))
    wake.start()
    assert len(session.map(plain_workers.double, [{"a": 1}])) == 1
    wake.join()
    assert pool._numbers == 1


def test_a_process_that_starts_is_waited_for_while_the_idle_are_used_up(session_on, tmp_path):
    """Else its rows would come back, to be given to another one that starts, and so on."""
    session = session_on()
    backend = session._backend_for(session._options)
    pool, news = backend._pool, []
    options = TaskOptions(on_part=news.append, max_tasks=1)
    first = backend.submit(plain_workers.waits_for, tmp_path / "told", options=options)
    wait_until(lambda: (tmp_path / "told.awaited").exists())
    pool._guard.send_signal(signal.SIGSTOP)
    try:
        second = backend.submit(plain_workers.waits_for, tmp_path / "told", options=options)
        (tmp_path / "told").touch()
        first.result(10)
        backend.recall(second)
        time.sleep(0.3)  # many times longer than it takes to give rows back
        assert news == []
    finally:
        pool._guard.send_signal(signal.SIGCONT)
    second.result(10)
    assert pool._numbers == 2


def test_a_process_that_starts_runs_its_first_row_though_it_was_asked_back_if_the_idle_are_used_up(session_on):
    """It would be sent to another process that starts, and be asked back again, on a busy machine hundreds of times."""
    session = session_on()
    backend = session._backend_for(session._options)
    backend._pool._guard.send_signal(signal.SIGSTOP)
    try:
        chunk = Submitted(backend, plain_workers.double, [{"a": 1}, {"a": 2}])
        backend.recall(chunk.future)
    finally:
        backend._pool._guard.send_signal(signal.SIGCONT)
    chunk.future.result(10)
    assert chunk.answers()[0] == {"double": 2}
    assert len(chunk.answers()) == min(chunk.given_back, default=2)
