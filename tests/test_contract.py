"""The shipped contract: every backend of ours passes it, a stranger's passes it, and each way to be broken fails it."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from unittest import SkipTest

import attrs
import pytest

from paramsurvey.backends.multiprocessing.backend import MultiprocessingBackend
from paramsurvey.backends.serial import InProcess, SerialBackend
from paramsurvey.engine.columns import Remote
from paramsurvey.engine.records import GivenBack, Killed, Part, TaskOptions
from paramsurvey.errors import BackendError, OptionError
from paramsurvey.testing import BackendContract


class TestSerial(BackendContract):
    in_process = True

    def make_backend(self):
        return SerialBackend()


class TestMultiprocessing(BackendContract):
    can_kill = True

    def make_backend(self):
        return MultiprocessingBackend(3)


class TestMultiprocessingWithOneSlot(BackendContract):
    can_kill = True

    def make_backend(self):
        return MultiprocessingBackend(1)


class ThreadBackend:
    """A stranger's backend: the threads of the standard library."""

    name, can_kill = "threads", False

    def __init__(self, slots=3):
        self._slots = slots
        self._pool = ThreadPoolExecutor(slots)

    def slots(self):
        return self._slots

    def publish(self, obj):
        return InProcess(obj)

    def submit(self, fn, /, *args, options):
        try:
            return self._pool.submit(fn, *args)
        except RuntimeError as exc:
            raise BackendError("the threads have ended; open a new session") from exc

    def recall(self, future):
        pass

    def kill(self, future):
        pass

    def resources(self):
        return {"num_cores": self._slots}

    def close(self):
        self._pool.shutdown()


class TestThreads(BackendContract):
    in_process = True

    def make_backend(self):
        return ThreadBackend()


# Broken in one way each. Every one of them says in `fails` which claim it does not keep.


def completed(result):
    future = Future()
    future.set_result(result)
    return future


def chained(future, change):
    """Return a future that has the outcome of another, its result changed."""
    other = Future()

    def pass_on(done):
        if done.exception() is None:
            other.set_result(change(done.result()))
        else:
            other.set_exception(done.exception())

    future.add_done_callback(pass_on)
    return other


class Nameless(ThreadBackend):
    name = ""
    fails = ("test_it_is_a_backend",)


class WithoutRecall(ThreadBackend):
    recall = property()
    fails = ("test_it_is_a_backend",)


class Coreless(ThreadBackend):
    fails = ("test_resources_tell_the_number_of_cores",)

    def resources(self):
        return {"num_cores": 0}


class OfItsOwnFutures(ThreadBackend):
    fails = ("test_submit_returns_a_standard_future", "test_a_result_comes_back")

    def submit(self, fn, /, *args, options):
        return fn(*args)


class LosesResults(ThreadBackend):
    fails = ("test_a_result_comes_back", "test_every_submission_has_its_own_result")

    def submit(self, fn, /, *args, options):
        return chained(super().submit(fn, *args, options=options), lambda _: None)


class NeverCompletes(ThreadBackend):
    fails = ("test_a_result_comes_back", "test_an_exception_comes_back", "test_a_chunk_returns_every_row_once")

    def submit(self, fn, /, *args, options):
        return Future()


class SubmitHangs(ThreadBackend):
    fails = ("test_a_result_comes_back", "test_several_threads_may_submit")

    def submit(self, fn, /, *args, options):
        threading.Event().wait()


class SwallowsExceptions(ThreadBackend):
    fails = ("test_an_exception_comes_back", "test_no_exception_ends_the_backend")

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        error = future.exception(timeout=1)
        return future if error is None else completed(None)


class ChangesExceptions(ThreadBackend):
    fails = ("test_an_exception_comes_back",)

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        if future.exception(timeout=1) is None:
            return future
        other = Future()
        other.set_exception(RuntimeError(repr(future.exception())))
        return other


class RaisesItself(ThreadBackend):
    fails = ("test_an_exception_comes_back",)

    def submit(self, fn, /, *args, options):
        return completed(fn(*args))


class SerialDiesOfSystemExit(SerialBackend):
    fails = ("test_no_exception_ends_the_backend",)

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        if isinstance(future.exception(), SystemExit):
            raise future.exception()
        return future


class MixesUpResults(ThreadBackend):
    fails = ("test_every_submission_has_its_own_result", "test_several_threads_may_submit")

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        earlier, self._earlier = getattr(self, "_earlier", future), future
        return earlier


class RunsTwice(ThreadBackend):
    fails = ("test_a_submission_is_run_once",)

    def submit(self, fn, /, *args, options):
        super().submit(fn, *args, options=options)
        return super().submit(fn, *args, options=options)


class TurnsArgumentsRound(ThreadBackend):
    fails = ("test_arguments_and_results_are_unchanged", "test_arguments_arrive_as_they_were")

    def submit(self, fn, /, *args, options):
        return super().submit(fn, *reversed(args), options=options)


class MakesListsOfTuples(ThreadBackend):
    fails = ("test_arguments_and_results_are_unchanged",)

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        return chained(future, lambda result: list(result) if type(result) is tuple else result)


class RoundsNumbers(ThreadBackend):
    fails = ("test_arguments_arrive_as_they_were", "test_arguments_and_results_are_unchanged")

    def submit(self, fn, /, *args, options):
        return super().submit(fn, *(float(arg) if type(arg) is int else arg for arg in args), options=options)


class CutsLargeValues(ThreadBackend):
    fails = ("test_megabytes_cross_in_both_directions_at_once",)

    def submit(self, fn, /, *args, options):
        cut = (arg[: 2**20] if isinstance(arg, bytes) else arg for arg in args)
        return super().submit(fn, *cut, options=options)


class PublishesSomethingElse(ThreadBackend):
    fails = ("test_a_constant_can_be_loaded_where_calls_run", "test_a_large_constant_arrives_whole")

    def publish(self, obj):
        return InProcess([obj])


class PublishesTheLastOnly(ThreadBackend):
    fails = ("test_several_constants_are_told_apart",)

    def publish(self, obj):
        self.__class__.last = obj
        backend = self

        class Last:
            def load(self):
                return backend.last

            def close(self):
                pass

        return Last()


class LoadsAnew(ThreadBackend):
    fails = ("test_a_constant_can_be_loaded_where_calls_run", "test_a_constant_is_pickled_once_at_most")

    def publish(self, obj):
        import cloudpickle

        class Copying(InProcess):
            def load(self):
                return cloudpickle.loads(cloudpickle.dumps(self.obj))

        return Copying(obj)


class HasNoSlots(ThreadBackend):
    fails = ("test_there_is_a_slot",)

    def slots(self):
        return 0


class ClaimsTooManySlots(ThreadBackend):
    fails = ("test_as_many_calls_as_slots_run_at_once",)

    def slots(self):
        return super().slots() + 1


class LocksWhileItCompletes(ThreadBackend):
    fails = ("test_callbacks_are_called_once_and_may_submit_again",)

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()

    @contextmanager
    def _locked(self):
        """Give up in the end: the threads of an executor are waited for when the interpreter exits."""
        if not self._lock.acquire(timeout=5):
            raise RuntimeError("a deadlock")
        try:
            yield
        finally:
            self._lock.release()

    def submit(self, fn, /, *args, options):
        with self._locked():
            future = super().submit(fn, *args, options=options)
        other = Future()

        def pass_on(done):
            with self._locked():
                other.set_result(done.result())

        future.add_done_callback(pass_on)
        return other


class CallsBackTwice(ThreadBackend):
    fails = ("test_callbacks_are_called_once_and_may_submit_again",)

    def submit(self, fn, /, *args, options):
        class Twice(Future):
            def add_done_callback(self, fn):
                super().add_done_callback(lambda future: (fn(future), fn(future)))

        other = Twice()
        super().submit(fn, *args, options=options).add_done_callback(lambda done: other.set_result(done.result()))
        return other


class EveryThirdTime:
    """Attention that is wanted now and then."""

    def __init__(self):
        self.looked = 0

    def __getitem__(self, _):
        self.looked += 1
        return self.looked % 3 == 0


@attrs.define
class InParts:
    """A monitor that sends a part ahead whenever it can."""

    send: object
    index: list = attrs.field(factory=lambda: [0])
    attention: EveryThirdTime = attrs.field(factory=EveryThirdTime)
    can_flush: bool = True
    stop: bool = False

    def attend(self):
        return True, self.stop

    def flush(self, part):
        self.send(part)


class ThreadsInParts(ThreadBackend):
    """Not broken: the base of those that are broken in parts."""

    fails = ()

    def submit(self, fn, /, *args, options):
        if fn.__name__ != "run_chunk":
            return super().submit(fn, *args, options=options)
        return super().submit(lambda: fn(*args, monitor=InParts(options.on_part)), options=options)


class LosesParts(ThreadsInParts):
    fails = ("test_a_chunk_returns_every_row_once", "test_a_chunk_with_large_answers_returns_every_row_once")

    def submit(self, fn, /, *args, options):
        return super().submit(fn, *args, options=TaskOptions(rows=options.rows))


class RepeatsParts(ThreadsInParts):
    fails = ("test_a_chunk_returns_every_row_once",)

    def submit(self, fn, /, *args, options):
        def twice(part):
            options.on_part(part)
            options.on_part(part)

        return super().submit(fn, *args, options=options._replace(on_part=twice))


class SendsPartsLate(ThreadsInParts):
    fails = ("test_nothing_of_a_chunk_comes_after_its_end",)

    def submit(self, fn, /, *args, options):
        late = []
        future = super().submit(fn, *args, options=options._replace(on_part=late.append))
        other = Future()

        def pass_on(done):
            other.set_result(done.result())
            for part in late:
                options.on_part(part)

        self._pool.submit(lambda: (future.exception(), wait_for_callbacks(other), pass_on(future)))
        return other


def wait_for_callbacks(future):
    """Wait until the test has said what is to happen at the future's end."""
    while not future._done_callbacks:
        threading.Event().wait(0.001)


class ReturnsHalfAChunk(ThreadBackend):
    fails = ("test_a_chunk_returns_every_row_once", "test_a_chunk_with_large_answers_returns_every_row_once")

    def submit(self, fn, /, *args, options):
        return chained(super().submit(fn, *args, options=options), half)


def half(part):
    if not isinstance(part, Part):
        return part
    count = part.count // 2
    failures = [(row, failure) for row, failure in part.failures if row < count]
    columns = [column[: count - len(failures)] for column in part.columns]
    return part._replace(count=count, columns=columns, failures=failures)


class ForgetsHoles(ThreadBackend):
    fails = ("test_psets_of_a_chunk_are_unchanged",)

    def submit(self, fn, /, *args, options):
        if fn.__name__ == "run_chunk":
            handle, (keys, columns, *rest) = args
            columns = [[None if repr(value) == "HOLE" else value for value in column] for column in columns]
            args = handle, (keys, columns, *rest)
        return super().submit(fn, *args, options=options)


class GivesBackTooLate(ThreadBackend):
    fails = ("test_recalled_rows_are_given_back_or_run",)

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        if fn.__name__ != "run_chunk":
            return future
        self._options = options
        return chained(future, half)

    def recall(self, future):
        if hasattr(self, "_options"):
            self._options.on_part(GivenBack(39))


class StopsWithoutSayingSo(ThreadBackend):
    fails = ("test_recalled_rows_are_given_back_or_run",)

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        return chained(future, half) if fn.__name__ == "run_chunk" else future


class KillsEverything(ThreadBackend):
    fails = ("test_recall_and_kill_of_what_is_over_do_nothing",)

    def kill(self, future):
        self._pool.shutdown()


class ClosesOnce(ThreadBackend):
    fails = ("test_close_may_be_called_twice",)

    def close(self):
        if self._pool._shutdown:
            raise BackendError("it is closed")
        super().close()


class CloseHangs(ThreadBackend):
    fails = ("test_close_may_be_called_twice", "test_a_result_comes_back")

    def close(self):
        threading.Event().wait()


class LeavesAThread(ThreadBackend):
    fails = ("test_nothing_is_left_running_after_close",)

    def __init__(self):
        super().__init__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavesAProcess(ThreadBackend):
    fails = ("test_nothing_is_left_running_after_close",)

    def submit(self, fn, /, *args, options):
        code = "import os, sys; os.close(1); sys.stdin.read()"
        self.program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        left_behind.append(self.program)
        return super().submit(fn, *args, options=options)


class SubmitsAfterClose(ThreadBackend):
    fails = ("test_submit_after_close_is_refused",)

    def submit(self, fn, /, *args, options):
        try:
            return super().submit(fn, *args, options=options)
        except BackendError:
            return Future()


# Wrong about what they need not say


class SpeaksUnclearly(ThreadBackend):
    can_leave = "perhaps"
    fails = ("test_what_it_says_of_itself_can_be_understood",)


class CostsTime(ThreadBackend):
    task_seconds = float("nan")
    fails = ("test_what_it_says_of_itself_can_be_understood",)


class NeverReplaces(ThreadBackend):
    can_replace = True
    fails = ("test_a_process_is_replaced_after_so_many_psets",)


class RunsManyInOneProcess(ThreadBackend):
    runs_alone = True
    fails = ("test_a_call_has_its_process_to_itself",)


class RunsWhatShouldWait(ThreadBackend):
    has_queue = True
    fails = ("test_what_is_submitted_beyond_the_slots_waits",)

    def slots(self):
        return super().slots() - 1


class TakesNoMoreThanItsSlots(ThreadBackend):
    has_queue = True
    fails = ("test_what_is_submitted_beyond_the_slots_waits",)

    def submit(self, fn, /, *args, options):
        if self._pool._work_queue.qsize():
            raise BackendError("it is full")
        return super().submit(fn, *args, options=options)


class Gone(Remote):
    def bring(self):
        raise LookupError("it is not there any more")


class LeavesWhatNobodyFinds(ThreadBackend):
    can_leave = True
    fails = ("test_large_answers_that_are_left_where_they_are_arrive",)

    def submit(self, fn, /, *args, options):
        def left(part):
            return part._replace(columns=[[Gone()] * len(part.columns[0]) for _ in part.columns])

        future = super().submit(fn, *args, options=options)
        return chained(future, left) if options.leave else future


class CountsBelowOne(ThreadBackend):
    fails = ("test_ncores_means_as_many_as_run_at_once",)

    def at_most(self, ncores):
        return ncores


class PromisesMoreThanItHas(ThreadBackend):
    fails = ("test_ncores_means_as_many_as_run_at_once",)

    def at_most(self, ncores):
        return max(1, ncores)


class TakesAnySetting(ThreadBackend):
    fails = ("test_an_unknown_setting_is_refused_by_name",)

    def check_settings(self, settings):
        pass


class RefusesWithoutAName(ThreadBackend):
    fails = ("test_an_unknown_setting_is_refused_by_name",)

    def check_settings(self, settings):
        if settings:
            raise OptionError("one of these settings is wrong")


class PlacesAnything(ThreadBackend):
    wishes = "where"
    fails = ("test_tasks_are_placed_where_there_is_room",)

    def room(self, settings):
        return 1

    def rows_per_task(self, max_tasks):
        return max_tasks


class SendsLongTasks(PlacesAnything):
    fails = ("test_tasks_are_placed_where_there_is_room",)

    def room(self, settings):
        if settings:
            raise OptionError(f"where={settings!r}")
        return 1

    def rows_per_task(self, max_tasks):
        return 2


class DrivesOnAndOn(ThreadBackend):
    """Does not look whether there is anything left to wait for."""

    fails = ("test_whoever_waits_may_do_its_work",)

    def drive(self, until, timeout):
        threading.Event().wait(timeout)

    def wake(self):
        pass

    def at_work(self, owner):
        return 0


class SleepsOn(DrivesOnAndOn):
    """Completes futures, and cannot be woken."""

    fails = ("test_whoever_waits_may_do_its_work",)

    def submit(self, fn, /, *args, options):
        self._last = super().submit(fn, *args, options=options)
        return self._last

    def drive(self, until, timeout):
        wait([self._last])
        if not until():
            threading.Event().wait(timeout)


class KnowsNobody(SleepsOn):
    fails = ("test_it_knows_whose_calls_are_at_work",)


left_behind = []


@pytest.fixture
def _ended_programs():
    yield
    for program in left_behind:
        program.kill()
        program.wait()
        program.stdin.close()
    left_behind.clear()


def every(base):
    return [each for sub in base.__subclasses__() for each in (sub, *every(sub))]


BROKEN = [kind for kind in (*every(ThreadBackend), *every(SerialBackend)) if kind.fails]


def contract_of(kind, **attributes):
    contract = type("Contract", (BackendContract,), {"in_process": True, "patience": 0.4, **attributes})
    contract.make_backend = lambda self: kind()
    return contract()


@pytest.mark.usefixtures("_ended_programs")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("kind", "claim"), [(kind, claim) for kind in BROKEN for claim in kind.fails])
def test_a_broken_backend_fails(kind, claim):
    with pytest.raises((AssertionError, SystemExit, LookupError, BackendError)):
        getattr(contract_of(kind), claim)()


def test_a_backend_that_sends_parts_ahead_passes_the_claims_about_chunks():
    contract = contract_of(ThreadsInParts, patience=10)
    for name in dir(contract):
        if name.startswith("test_") and "chunk" in name:
            try:
                getattr(contract, name)()
            except SkipTest:
                pass


# Backends that say they run calls elsewhere, or can kill, and do not keep what they promise with that


class SaysItPickles(ThreadBackend):
    """Hands over what cannot be pickled."""

    fails = ()


class SaysItKills(ThreadBackend):
    can_kill = True
    fails = ()

    def __init__(self):
        super().__init__(slots=2)

    def close(self):
        self._pool.shutdown(wait=True, cancel_futures=True)


class KillsWithoutEnding(SaysItKills):
    """Says that a call was killed, and lets it run."""

    def submit(self, fn, /, *args, options):
        future = super().submit(fn, *args, options=options)
        other = Future()
        future.add_done_callback(lambda done: other.done() or other.set_result(done.result()))
        return other

    def kill(self, future):
        if not future.done():
            future.set_exception(Killed("it was killed"))


CALM = {"patience": 15}
CAN_KILL = {"can_kill": True, "patience": 1}  # all of it will pass, and everything else must happen in that time


@pytest.mark.parametrize(
    ("kind", "attributes", "claim", "says"),
    [
        (SaysItPickles, CALM, "test_an_argument_that_cannot_be_pickled_is_unsendable", "instead of an exception"),
        (SaysItPickles, CALM, "test_a_result_that_cannot_be_pickled_is_an_exception", "instead of an exception"),
        (SaysItPickles, CALM, "test_a_constant_that_cannot_be_pickled_is_unsendable", "without raising Unsendable"),
        (SaysItPickles, {"can_kill": True}, "test_it_is_a_backend", "can_kill is False, the test class says True"),
        (SaysItKills, CAN_KILL, "test_kill_ends_a_running_call", "a future is not done after 1 s"),
        (SaysItKills, CAN_KILL, "test_a_deadline_ends_a_pset", "a future is not done after 1 s"),
        (SaysItKills, CAN_KILL, "test_close_ends_what_is_running", "close has waited"),
        (KillsWithoutEnding, CAN_KILL, "test_kill_ends_a_running_call", "a call that was ended still runs"),
    ],
)
def test_a_broken_promise_about_processes_fails(kind, attributes, claim, says):
    with pytest.raises(AssertionError, match=says):
        getattr(contract_of(kind, in_process=False, **attributes), claim)()


# Broken on the base of the pool, because they concern deaths and replacements


class PoolWithOtherEnds(MultiprocessingBackend):
    """Passes on what the pool says, but for some errors."""

    def __init__(self):
        super().__init__(2)

    def end(self, future, error):
        future.set_exception(error)

    def submit(self, fn, /, *args, options):
        other = Future()

        def pass_on(done):
            if done.exception() is None:
                other.set_result(done.result())
            else:
                self.end(other, done.exception())

        super().submit(fn, *args, options=options).add_done_callback(pass_on)
        return other


class HidesDeaths(PoolWithOtherEnds):
    def end(self, future, error):
        future.set_result(None)


class AccusesTheFirst(PoolWithOtherEnds):
    def end(self, future, error):
        error.index = 0
        future.set_exception(error)


class CountsChunksForPsets(PoolWithOtherEnds):
    def submit(self, fn, /, *args, options):
        return super().submit(fn, *args, options=options._replace(rows=1))


class GivesAllRowsOneDeadline(PoolWithOtherEnds):
    def submit(self, fn, /, *args, options):
        if options.timeout is None:
            return super().submit(fn, *args, options=options)
        future = MultiprocessingBackend.submit(self, fn, *args, options=options._replace(timeout=None))
        timer = threading.Timer(options.timeout, self.kill, [future])
        future.add_done_callback(lambda _: timer.cancel())
        timer.start()
        return future


@pytest.mark.parametrize(
    ("kind", "claim", "says"),
    [
        (HidesDeaths, "test_a_death_loses_only_its_own_call", "instead of an exception there is the result None"),
        (AccusesTheFirst, "test_a_death_in_a_chunk_tells_its_row_and_keeps_what_was_sent", "row 0 is accused"),
        (GivesAllRowsOneDeadline, "test_a_deadline_is_each_psets_own", "gave Killed"),
        (CountsChunksForPsets, "test_a_process_is_replaced_after_so_many_psets", "has run 6 psets, with max_tasks=4"),
    ],
)
def test_a_backend_that_is_wrong_about_its_processes_fails(kind, claim, says):
    with pytest.raises(AssertionError, match=says):
        getattr(contract_of(kind, in_process=False, can_kill=True, patience=15), claim)()


def test_a_claim_that_is_none_for_a_backend_is_skipped_with_its_reason():
    with pytest.raises(SkipTest, match="it cannot kill"):
        contract_of(ThreadBackend).test_kill_ends_a_running_call()


def test_every_claim_is_failed_by_some_broken_backend():
    claims = {name for name in dir(BackendContract) if name.startswith("test_")}
    failed = {claim for kind in BROKEN for claim in kind.fails}
    failed |= {case[2] for case in test_a_broken_promise_about_processes_fails.pytestmark[0].args[1]}
    failed |= {case[1] for case in test_a_backend_that_is_wrong_about_its_processes_fails.pytestmark[0].args[1]}
    assert claims == failed


def test_a_contract_without_a_backend_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"BackendContract must override make_backend\(\)"):
        BackendContract().test_a_result_comes_back()


def test_the_contract_can_be_imported_without_pytest():
    code = "import sys; sys.modules['pytest'] = None; from paramsurvey.testing import BackendContract"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
