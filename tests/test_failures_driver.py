"""Programs that run a survey and are interrupted or killed: real ones, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import is_running, marked, unmeasured, wait_until
from stopwatch import Stopwatch

pytestmark = pytest.mark.timeout(120, method="signal")

HEAD = """
import os, signal, sys, threading, time
import failing_workers
import paramsurvey
from paramsurvey.errors import Interrupted

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this, too

def say(*words):
    print(*words, flush=True)

def say_row(user_ret, system_kwargs, user_kwargs):
    say("row", user_ret["pset"]["n"])

psets = [{"n": n, "bad": False} for n in range(40)]
options = {"ncores": 2, "verbose": 0, "pslogger_prefix": ".log-"}
worker = {
    "serial": failing_workers.says_that_it_stops_after_ten,
    "multiprocessing": failing_workers.stops_after_ten,
}
out_func = {"serial": None, "multiprocessing": say_row}
"""

HANGING = (
    HEAD
    + """
backend = sys.argv[1]
try:
    with paramsurvey.Session(backend=backend, **options) as session:
        try:
            session.map(worker[backend], psets, out_func=out_func[backend], group_size=1)
        except Interrupted as exc:
            say("interrupted", isinstance(exc, KeyboardInterrupt), exc)
            say("finished", exc.results.results["square"].tolist() == [n * n for n in range(10)])
            say("missing", exc.results.missing["n"].tolist() == list(range(10, 40)), *set(exc.results.missing["_kind"]))
            say("next", len(session.map(failing_workers.healthy, psets)))
finally:
    say("end")
"""
)


class Program:
    """A program that was started, and what it says."""

    def __init__(self, folder: Path, text: str, *arguments: str) -> None:
        script = folder / "program.py"
        script.write_text(textwrap.dedent(text))
        tests = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env=unmeasured(PYTHONPATH=os.pathsep.join([str(tests.parent), str(tests)])),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline().rstrip() for _ in range(count)]

    def line(self) -> str:
        return self.lines(1)[0]

    def rest(self) -> list[str]:
        """Wait for its end, and return what it has said until then."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out, err = self.process.stdout.read(), self.process.stderr.read()
        self.process.wait()
        assert err == ""
        return out.splitlines()


@pytest.fixture
def program(tmp_path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(text: str, *arguments: str) -> Program:
        programs.append(Program(tmp_path, text, *arguments))
        return programs[-1]

    yield start
    for each in programs:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        for pipe in (each.process.stdout, each.process.stderr):  # what inherited them may live on, and so hold them
            pipe.close()


def has_hung(program: Program, mark: str, workers: int) -> None:
    """Wait until ten psets have finished, and the next ones hang, each with a program of its own."""
    if workers == 1:  # it is the driver itself
        assert program.line() == "hangs"
        return
    assert sorted(program.lines(10)) == sorted(f"row {n}" for n in range(10))
    wait_until(lambda: [each.name() for each in marked(mark) if is_running(each)].count("sleep") == workers)
    driver, looks = psutil.Process(program.process.pid), [-1.0]

    def waits() -> bool:
        """It no longer prints: at several looks its main thread, back in the library, was asleep all the time."""
        looks.append(sum(driver.cpu_times()[:2]) if driver.status() == psutil.STATUS_SLEEPING else -1.0)
        return looks[-1] >= 0 and len(set(looks[-5:])) == 1 and len(looks) > 5

    wait_until(waits)


@pytest.mark.parametrize("to_the_group", [False, True], ids=["to_the_process", "to_the_group"])
@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("multiprocessing", 2)])
def test_ctrl_c_ends_a_survey_within_a_second_with_what_is_finished(to_the_group, backend, workers, program, mark):
    started = program(HANGING, backend)
    has_hung(started, mark, workers)
    stopwatch = Stopwatch(started.process.pid)
    (os.killpg if to_the_group else os.kill)(started.process.pid, signal.SIGINT)
    line = started.line()
    assert line.startswith("interrupted True")
    assert "interrupted; 10 of 40 psets" in line
    assert stopwatch.seconds_since() < 1.0
    assert started.lines(2) == ["finished True", "missing True cancelled"]
    assert started.rest() == ["next 40", "end"]
    assert started.process.returncode == 0


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
def test_ctrl_c_that_nobody_catches_ends_the_program_as_python_does(backend, program, mark):
    text = f"""
session = paramsurvey.Session(backend={backend!r}, **options)
session.map(worker[{backend!r}], psets, out_func=out_func[{backend!r}], group_size=1)
"""
    started = program(HEAD + text)
    has_hung(started, mark, 1 if backend == "serial" else 2)
    started.process.send_signal(signal.SIGINT)
    _, err = started.process.communicate(timeout=30)
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("paramsurvey.errors.Interrupted: ")
    assert "interrupted; 10 of 40 psets" in last
    assert started.process.returncode != 0


def test_ctrl_c_in_the_loop_over_a_stream_ends_what_is_running(program, mark):
    text = """
with paramsurvey.Session(**options) as session:
    try:
        for row in session.stream(failing_workers.stops_after_ten, psets, group_size=1):
            say("row", row["n"])
    except KeyboardInterrupt as exc:
        say(type(exc).__name__, len(exc.results))
    say("next", len(session.map(failing_workers.healthy, psets)))
"""
    started = program(HEAD + text)
    has_hung(started, mark, 2)
    stopwatch = Stopwatch(started.process.pid)
    started.process.send_signal(signal.SIGINT)
    assert started.line() == "Interrupted 10"
    assert stopwatch.seconds_since() < 1.0
    assert started.rest() == ["next 40"]


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
def test_ctrl_c_at_any_moment_loses_and_doubles_no_pset(backend, program):
    text = f"""
import random
chance = random.Random(5)
count = 20_000
many = [{{"n": n, "bad": False}} for n in range(count)]
session = paramsurvey.Session(backend={backend!r}, **options)
turns = interrupted = 0
while turns < 25 or interrupted < 4:  # on a busy machine, more of them come before the survey
    turns += 1
    timer = threading.Timer(chance.uniform(0.0, 0.06), signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        results = session.map(failing_workers.healthy, many, out_func=lambda *_: None)
        timer.join()
        time.sleep(0)
    except Interrupted as exc:
        interrupted += 1
        results = exc.results
    except KeyboardInterrupt:  # before or after the survey
        results = None
    timer.join()
    if results is not None:
        rows = results.results["n"].tolist()
        assert rows == sorted(set(rows)), rows
        assert [row["square"] for row in results.iterdicts()] == [n * n for n in rows]
        assert sorted(rows + results.missing["n"].tolist()) == list(range(count))
        assert len(rows) == results.progress.finished
assert len(session.map(failing_workers.healthy, many)) == count
session.close()
say("end")
"""
    started = program(HEAD + text)
    assert started.rest() == ["end"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_killed_driver_leaves_no_process(number, program, mark):
    """Neither worker nor guard, nor the programs that workers wait for, nor the folder of the session's constants."""
    text = """
session = paramsurvey.Session(**options)
say(session._backend_for(session._options)._store.folder)
session.map(failing_workers.stops_after_ten, psets, out_func=say_row, group_size=1)
"""
    started = program(HEAD + text)
    folder = Path(started.line())
    has_hung(started, mark, 2)
    assert folder.is_dir()
    assert len(marked(mark)) >= 6  # driver, guard, two workers, two programs
    started.process.send_signal(number)
    started.process.wait()
    wait_until(lambda: not marked(mark), what=f"{marked(mark)} are gone")
    wait_until(lambda: not folder.exists())


def test_a_driver_killed_while_idle_leaves_no_process(program, mark):
    text = """
session = paramsurvey.Session(**options)
session.map(failing_workers.healthy, psets)
say("idle")
threading.Event().wait()
"""
    started = program(HEAD + text)
    assert started.line() == "idle"
    started.process.kill()
    started.process.wait()
    wait_until(lambda: not marked(mark), what=f"{marked(mark)} are gone")


def test_a_killed_driver_whose_own_child_lives_on_leaves_no_worker(program, mark):
    """The child holds copies of the driver's end of everything."""
    text = """
session = paramsurvey.Session(**options)
session.map(failing_workers.healthy, psets)
pid = os.fork()
if pid == 0:
    time.sleep(3600)
say(pid)
session.map(failing_workers.stops_after_ten, psets, out_func=say_row, group_size=1)
"""
    started = program(HEAD + text)
    child = psutil.Process(int(started.line()))
    try:
        has_hung(started, mark, 2)
        started.process.kill()
        started.process.wait()
        wait_until(lambda: marked(mark) == {child}, what=f"all but the child of {marked(mark)} are gone")
    finally:
        child.kill()


def test_a_program_that_ends_without_closing_its_session_leaves_no_process(program, mark):
    started = program(HEAD + 'paramsurvey.map(failing_workers.healthy, psets, verbose=0)\nsay("end")\n')
    assert started.rest() == ["end"]
    wait_until(lambda: not marked(mark), what=f"{marked(mark)} are gone")


def test_ctrl_c_in_a_slow_out_func_is_its_last_call(program):
    """The rows that have come with this one are in the results, and nobody waits for a call for each of them."""
    text = """
def slow(user_ret, system_kwargs, user_kwargs):
    say("called")
    time.sleep(3600)
session = paramsurvey.Session(**options)
try:
    session.map(failing_workers.healthy, psets, out_func=slow, group_size=10)
except Interrupted as exc:
    say(len(exc.results.results) >= 10, len(exc.results.results) + len(exc.results.missing))
"""
    started = program(HEAD + text)
    assert started.line() == "called"
    started.process.send_signal(signal.SIGINT)
    assert started.rest() == ["True 40"]


def test_a_fork_of_the_driver_that_ends_does_not_end_its_session(program):
    text = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
session = paramsurvey.Session(**options)
say(len(session.map(failing_workers.healthy, psets)))
pid = os.fork()
if pid == 0:
    sys.exit(0)  # with all exit functions
os.waitpid(pid, 0)
say(len(session.map(failing_workers.healthy, psets)))
session.close()
"""
    assert program(HEAD + text).rest() == ["40", "40"]


def test_two_surveys_at_once_in_one_folder_do_not_disturb_each_other(program, tmp_path):
    """They even start in the same second; each has its own log file."""
    text = """
name = sys.argv[1]
def wait(pset, system_kwargs, user_kwargs):
    open(f"{name}.here", "w").close()
    while not all(os.path.exists(f"{other}.here") for other in ("one", "other")):
        time.sleep(0.002)
    return {"square": pset["n"] ** 2, "name": system_kwargs["name"]}
results = paramsurvey.map(wait, psets, name=name, verbose=0, ncores=2)
say(results.results["square"].tolist() == [n * n for n in range(40)], set(results.results["name"]))
"""
    started = [program(HEAD + text, name) for name in ("one", "other")]
    assert [each.rest() for each in started] == [["True {'one'}"], ["True {'other'}"]]
    logs = [path.read_text() for path in tmp_path.glob(".paramsurvey-*.log")]
    assert len(logs) == 2
    assert sorted(sum(f" {name}: 40 psets" in log for log in logs) for name in ("one", "other")) == [1, 1]


def test_a_user_with_an_interrupt_handler_of_their_own_keeps_it(program, mark):
    text = """
class Stop(BaseException):  # no Exception: it may strike in out_func, whose exceptions do not end a survey
    pass

def handler(number, frame):
    say("mine")
    raise Stop("from the handler")
signal.signal(signal.SIGINT, handler)
with paramsurvey.Session(**options) as session:
    try:
        session.map(failing_workers.stops_after_ten, psets, out_func=say_row, group_size=1)
    except Stop as exc:
        say(exc)
    say(signal.getsignal(signal.SIGINT) is handler)
    say("next", len(session.map(failing_workers.healthy, psets)))
"""
    started = program(HEAD + text)
    has_hung(started, mark, 2)
    started.process.send_signal(signal.SIGINT)
    assert started.rest() == ["mine", "from the handler", "True", "next 40"]
