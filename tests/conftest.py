"""What holds for every test: it leaves no process behind, neither a child nor an orphan of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

import paramsurvey

# A busy machine makes no example wrong; and CI finds the same twice, whatever the release of hypothesis.
settings.register_profile(
    "steady", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# What tests start is to see what a user's programs see, who has set neither: lines that wait, and bytecode.
for variable in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(variable, None)

# What is started in the background ignores Ctrl-C, and so does whatever it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

MARK = "STARTED_BY_A_TEST"
"""A variable that everything which a test starts inherits; its value is the test's own."""

BURIAL_SECONDS = 20.0
"""How long the system may take to bury what was killed; a busy one takes its time."""


def wait_until(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Return when the condition is true; fail if it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.005)


def unmeasured(**more: str) -> dict[str, str]:
    """Return all of the environment but what measures coverage, for programs that are ended at any moment.

    Its lock stays locked if an interrupt strikes while it is held.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | more


@contextmanager
def _nothing_measured() -> Iterator[None]:
    """Measure no coverage meanwhile, neither here nor in what is started."""
    coverage = sys.modules.get("coverage")
    measuring = coverage and coverage.Coverage.current()
    if not measuring:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - unmeasured().keys():
            patch.delenv(name)
        measuring.stop()
        try:
            yield
        finally:
            measuring.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure no coverage of tests that say so: it takes as long again as to run them, and tells next to nothing."""
    if item.get_closest_marker("unmeasured") is None:
        return (yield)
    with _nothing_measured():
        return (yield)


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process has neither ended nor is a mere entry in the process table."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def inherits(process: psutil.Process, value: str) -> bool:
    """Tell whether a process was started, by whatever detour, by something that had this value of `MARK`."""
    try:
        return process.environ().get(MARK) == value
    except (psutil.Error, OSError):
        return False


def marked(value: str) -> set[psutil.Process]:
    """Return all running processes that have this value of `MARK`, but for this one."""
    return {
        each for each in psutil.process_iter() if each.pid != os.getpid() and inherits(each, value) and is_running(each)
    }


def descendants() -> set[psutil.Process]:
    """Return all processes below this one, also those that nobody has buried."""
    return set(psutil.Process().children(recursive=True))


def _is_below_this_one(process: psutil.Process, elders: set[int]) -> bool:
    above = [each.pid for each in process.parents()]
    here = os.getpid()
    return here in above and elders.isdisjoint(above[: above.index(here)])


def _left_behind(value: str, elders: set[int]) -> set[psutil.Process]:
    """Return which processes that are not elders have a test's mark, or are below this process and below no elder.

    Every test asks: only what is new is looked at, because to look at all takes longer than most tests.
    """
    left = set()
    for pid in set(psutil.pids()) - elders:
        try:
            process = psutil.Process(pid)
            if (inherits(process, value) and is_running(process)) or _is_below_this_one(process, elders):
                left.add(process)
        except psutil.Error:  # it has ended meanwhile
            pass
    return left


def _close_the_default_session() -> None:
    default = sys.modules.get("paramsurvey.default_session")
    if default is not None:
        default.finalize()


def _assert_gone(remaining: Callable[[], set[psutil.Process]]) -> None:
    """Fail if processes remain after a moment, but not without ending them, for the sake of the next test."""
    subprocess._cleanup()  # type: ignore[attr-defined] # an interrupt inside Popen() leaves a body to the next Popen()
    deadline = time.monotonic() + BURIAL_SECONDS
    while (left := remaining()) and time.monotonic() < deadline:
        time.sleep(0.005)
    shown = [repr(each) for each in left]
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            pass
    assert shown == [], "the test has left processes behind"


@pytest.fixture(autouse=True)
def mark() -> Iterator[str]:
    """Fail if a test leaves a process; the fixture is the value of `MARK` that the test's processes have.

    Workers of a session that several tests share belong to that session, not to the test that was running.
    """
    elders = set(psutil.pids())
    value = os.urandom(8).hex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, value)
        yield value
    _close_the_default_session()
    _assert_gone(lambda: _left_behind(value, elders))


@pytest.fixture(autouse=True, scope="session")
def _no_process_outlives_the_tests() -> Iterator[None]:
    before = descendants()
    yield
    _close_the_default_session()
    _assert_gone(lambda: descendants() - before)


# Sessions that say nothing


class Nowhere:
    """A stream for logs that nobody reads."""

    def write(self, text: str) -> None:
        pass


class Log:
    """A stream for logs, in memory: its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text.rstrip())


QUIET = {"verbose": 0, "pslogger_fd": Nowhere()}


@pytest.fixture(scope="module", params=["serial", "multiprocessing"])
def session(request: pytest.FixtureRequest) -> Iterator[paramsurvey.Session]:
    with paramsurvey.Session(backend=request.param, ncores=2, **QUIET | {"pslogger_fd": Log()}) as session:
        yield session


@pytest.fixture(scope="module")
def pool() -> Iterator[paramsurvey.Session]:
    with paramsurvey.Session(backend="multiprocessing", ncores=2, **QUIET) as session:
        yield session


@pytest.fixture(scope="module")
def serial() -> Iterator[paramsurvey.Session]:
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        yield session


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log files go where nobody minds, and no variable of the machine's has a say."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("PARAMSURVEY_"):
            monkeypatch.delenv(name)
