"""`BackendContract`: every claim of `paramsurvey.backends.base`, as a test to inherit."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import psutil

from paramsurvey.backends.base import Backend, Configurable, Elastic, Placing, what_it_lacks
from paramsurvey.engine.columns import brought
from paramsurvey.engine.loop import Drivable
from paramsurvey.engine.records import Died, Killed, TaskLost, TaskOptions, TimedOut, Unsendable
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import BackendError, OptionError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.testing.calls import (
    CannotBePickled,
    CannotBeUnpickled,
    Counted,
    TwoArguments,
    add,
    busy_for,
    describe,
    die,
    die_at_three,
    echo,
    large_answer,
    load_twice,
    make,
    odd_rows_fail,
    process_number,
    raise_a,
    refuse,
    size_and_sum,
    stay,
    stay_and_tell,
    stay_at_some,
    sum_of,
    tell_process,
    tell_pset,
)
from paramsurvey.testing.claims import claim, must_be_same, short_repr, skip_unless
from paramsurvey.testing.gate import Gate, rows_with_gate
from paramsurvey.testing.submitted import Submitted

Contract = TypeVar("Contract", bound="BackendContract")

MEGABYTE = 2**20
WAITS_IN_A_TEST = 4
NO_SETTING = "no_such_setting"


def bounded(test: Callable[[Contract], None]) -> Callable[[Contract], None]:
    """Let a test fail that takes longer than all its waits together: a call into the backend does not return."""

    @wraps(test)
    def in_a_thread(contract: Contract) -> None:
        raised: list[BaseException] = []

        def run() -> None:
            try:
                test(contract)
            except BaseException as exc:  # noqa: BLE001 - it is raised below
                raised.append(exc)

        thread = threading.Thread(target=run, name="paramsurvey-contract", daemon=True)
        thread.start()
        thread.join(WAITS_IN_A_TEST * contract.patience)
        claim(not thread.is_alive(), f"{test.__name__}: a call into the backend has not returned")
        if raised:
            raise raised[0]

    return in_a_thread


class BackendContract:
    """Everything that the engine relies on in a backend; inherit it, say how to make one, and run pytest.

    Attributes
    ----------
    can_kill : bool
        Whether the backend ends calls by `kill`, by deadline and by closing, and survives the death of what runs them;
        must be what the backend itself says.
    in_process : bool
        Whether calls run in the process that submits them, so that nothing is pickled.
    patience : float
        Seconds that anything may take before it is said to hang.

    Examples
    --------
    >>> from paramsurvey.backends.serial import SerialBackend
    >>> class TestSerial(BackendContract):
    ...     in_process = True
    ...
    ...     def make_backend(self):
    ...         return SerialBackend()

    pytest finds the tests of such a class. One of them, by hand:

    >>> TestSerial().test_an_exception_comes_back()
    """

    can_kill: bool = False
    in_process: bool = False
    patience: float = 30.0

    def make_backend(self) -> Backend:
        """Return a new backend, with at least two slots if it can; the test closes it. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} must override make_backend()")

    def running(self) -> set[Any]:
        """Return what there must be no more of after `close` than before: threads, and processes of ours."""
        return set(threading.enumerate()) | set(psutil.Process().children(recursive=True))

    @contextmanager
    def opened(self) -> Iterator[Backend]:
        """Make a backend, and close it."""
        backend = self.make_backend()
        try:
            yield backend
        finally:
            backend.close()

    # What it says of itself

    @bounded
    def test_it_is_a_backend(self) -> None:
        """It has every method of the protocol, a name, and says truly whether it can kill."""
        with self.opened() as backend:
            claim(not what_it_lacks(backend), f"{backend!r} lacks {', '.join(what_it_lacks(backend))}")
            claim(isinstance(backend.name, str) and bool(backend.name), f"its name is {backend.name!r}, not a text")
            claim(
                backend.can_kill is self.can_kill,
                f"can_kill is {backend.can_kill!r}, the test class says {self.can_kill}",
            )

    @bounded
    def test_resources_tell_the_number_of_cores(self) -> None:
        """`resources` is a dict with at least ``num_cores``."""
        with self.opened() as backend:
            cores = backend.resources().get("num_cores")
            claim(isinstance(cores, int) and cores >= 1, f"resources()['num_cores'] is {cores!r}, not 1 or more")

    # Results and exceptions

    @bounded
    def test_submit_returns_a_standard_future(self) -> None:
        """What `submit` returns is a `concurrent.futures.Future`, and `wait` works with it."""
        with self.opened() as backend:
            future = backend.submit(echo, 1, options=TaskOptions())
            claim(isinstance(future, Future), f"submit returned {future!r}, not a concurrent.futures.Future")
            self.outcome(future)

    @bounded
    def test_a_result_comes_back(self) -> None:
        """The future's result is what the function returned."""
        with self.opened() as backend:
            result = self.result(backend.submit(add, 3, 4, options=TaskOptions()))
            claim(result == 7, f"add(3, 4) came back as {result!r}")

    @bounded
    def test_an_exception_comes_back(self) -> None:
        """The future's exception is what the function raised, with its type and arguments."""
        with self.opened() as backend:
            error = self.error(backend.submit(refuse, "no", 3, options=TaskOptions()))
            claim(
                type(error) is LookupError and error.args == ("no", 3), f"LookupError('no', 3) came back as {error!r}"
            )

    @bounded
    def test_no_exception_ends_the_backend(self) -> None:
        """`SystemExit` and `KeyboardInterrupt` are exceptions like others, and the next call works."""
        with self.opened() as backend:
            for kind in (SystemExit, KeyboardInterrupt):
                error = self.error(backend.submit(raise_a, kind, options=TaskOptions()))
                claim(isinstance(error, kind), f"{kind.__name__} came back as {error!r}")
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")

    @bounded
    def test_every_submission_has_its_own_result(self) -> None:
        """More submissions than slots all finish, each with its own result."""
        with self.opened() as backend:
            count = 2 * backend.slots() + 1
            futures = [backend.submit(echo, i, options=TaskOptions()) for i in range(count)]
            for i, future in enumerate(futures):
                result = self.result(future)
                claim(result == (i,), f"submission {i} has the result {result!r}")

    @bounded
    def test_a_submission_is_run_once(self) -> None:
        """What was submitted is called once, not twice."""
        with Gate(self.patience) as gate:
            gate.open()
            with self.opened() as backend:
                futures = [
                    backend.submit(stay, gate.address, 2 * self.patience, options=TaskOptions()) for _ in range(3)
                ]
                for future in futures:
                    self.result(future)
            claim(gate.arrived == 3, f"3 submissions were called {gate.arrived} times")

    # Values

    @bounded
    def test_arguments_and_results_are_unchanged(self) -> None:
        """Values keep type, content and order on both ways."""
        values = _values()
        with self.opened() as backend:
            result = self.result(backend.submit(echo, *values, options=TaskOptions()))
            must_be_same(result, values)

    @bounded
    def test_arguments_arrive_as_they_were(self) -> None:
        """What the function itself sees has the types, the content and the order of what was submitted."""
        values = _values()
        with self.opened() as backend:
            seen = self.result(backend.submit(describe, *values, options=TaskOptions()))
            claim(seen == describe(*values), "the function saw other arguments, or in another order")

    @bounded
    def test_megabytes_cross_in_both_directions_at_once(self) -> None:
        """Several submissions with large arguments and large results do not block one another."""
        with self.opened() as backend:
            count = 2 * backend.slots() + 1
            sent = [(bytes([i]) * (3 * MEGABYTE + i), np.full(MEGABYTE // 8, i, dtype="f8")) for i in range(count)]
            futures = [backend.submit(echo, *payload, options=TaskOptions()) for payload in sent]
            for payload, future in zip(sent, futures, strict=True):
                must_be_same(self.result(future), payload)

    @bounded
    def test_an_argument_that_cannot_be_pickled_is_unsendable(self) -> None:
        """The future, or nothing, knows: `submit` does not raise, nothing hangs, the next call works."""
        skip_unless(not self.in_process, "nothing is pickled")
        with self.opened() as backend:
            for argument in (CannotBePickled(), CannotBeUnpickled()):
                error = self.error(backend.submit(echo, argument, options=TaskOptions()))
                claim(isinstance(error, Unsendable), f"{argument!r} gave {error!r}, not Unsendable")
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")

    @bounded
    def test_a_result_that_cannot_be_pickled_is_an_exception(self) -> None:
        """Nor one that cannot be unpickled, nor an exception of such a kind; nothing hangs, and the next call works."""
        skip_unless(not self.in_process, "nothing is pickled")
        with self.opened() as backend:
            for kind in (CannotBePickled, CannotBeUnpickled):
                self.error(backend.submit(make, kind, options=TaskOptions()))
            error = self.error(backend.submit(raise_a, TwoArguments, 1, 2, options=TaskOptions()))
            claim("TwoArguments" in repr(error), f"TwoArguments came back as {error!r}, without its name")
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")

    # Constants

    @bounded
    def test_a_constant_can_be_loaded_where_calls_run(self) -> None:
        """`load` returns an equal object, the same one at the second call."""
        values = _values()
        with self.opened() as backend:
            handle = backend.publish(values)
            loaded, is_cached = self.result(backend.submit(load_twice, handle, options=TaskOptions()))
            must_be_same(loaded, values)
            claim(is_cached, "the second load() returned another object")
            handle.close()

    @bounded
    def test_several_constants_are_told_apart(self) -> None:
        """Each handle loads its own constant, also after another was closed."""
        with self.opened() as backend:
            handles = [backend.publish([i]) for i in range(3)]
            handles[0].close()
            for i in (2, 1):
                loaded, _ = self.result(backend.submit(load_twice, handles[i], options=TaskOptions()))
                claim(loaded == [i], f"the handle of [{i}] loaded {loaded!r}")

    @bounded
    def test_a_constant_is_pickled_once_at_most(self) -> None:
        """A constant is serialised when it is published, not with every submission."""
        with self.opened() as backend:
            constant = Counted()
            handle = backend.publish(constant)
            futures = [backend.submit(load_twice, handle, options=TaskOptions()) for _ in range(3)]
            for future in futures:
                claim(isinstance(self.result(future)[0], Counted), "the constant is another object")
            claim(constant.pickled <= 1 + 3 * self.in_process, f"the constant was pickled {constant.pickled} times")

    @bounded
    def test_a_large_constant_arrives_whole(self) -> None:
        """An array of many megabytes arrives with every value."""
        array = np.arange(2 * MEGABYTE, dtype="i8").reshape(2, -1)
        with self.opened() as backend:
            handle = backend.publish({"array": array, "name": "large"})
            total = self.result(backend.submit(sum_of, handle, options=TaskOptions()))
            expected = (array.shape, str(array.dtype), int(array.sum()), "large")
            claim(total == expected, f"the array arrived as {total!r}, expected {expected!r}")

    @bounded
    def test_a_constant_that_cannot_be_pickled_is_unsendable(self) -> None:
        """`publish` itself raises `Unsendable`."""
        skip_unless(not self.in_process, "nothing is pickled")
        with self.opened() as backend:
            try:
                backend.publish(CannotBePickled())
            except Unsendable:
                return
            claim(False, "publish took a constant that cannot be pickled, without raising Unsendable")

    # Slots and threads

    @bounded
    def test_there_is_a_slot(self) -> None:
        """`slots` is a whole number, 1 or more."""
        with self.opened() as backend:
            slots = backend.slots()
            claim(type(slots) is int and slots >= 1, f"slots() is {slots!r}, not 1 or more")

    @bounded
    def test_as_many_calls_as_slots_run_at_once(self) -> None:
        """So many calls that each wait for all the others finish."""
        with self.opened() as backend, Gate(self.patience) as gate:
            slots = backend.slots()
            opener = threading.Thread(target=gate.open_when, args=(slots,), daemon=True)
            opener.start()  # a backend may run its one call inside submit
            futures = [
                backend.submit(stay, gate.address, 2 * self.patience, options=TaskOptions()) for _ in range(slots)
            ]
            opener.join(2 * self.patience)
            claim(gate.met == slots, f"slots() is {slots}, but {gate.met} calls ran at once")
            for future in futures:
                self.result(future)

    @bounded
    def test_callbacks_are_called_once_and_may_submit_again(self) -> None:
        """A future is done once; what its callback submits is run like anything else."""
        with self.opened() as backend:
            depth, called, end = 5, [], threading.Event()

            def submit_next(future: Future[Any]) -> None:
                called.append(future.result())
                if len(called) == depth:
                    end.set()
                else:
                    backend.submit(echo, len(called), options=TaskOptions()).add_done_callback(submit_next)

            backend.submit(echo, 0, options=TaskOptions()).add_done_callback(submit_next)
            claim(end.wait(self.patience), f"of {depth} submissions from callbacks, {len(called)} have finished")
            claim(called == [(i,) for i in range(depth)], f"the callbacks were called with {called!r}")

    @bounded
    def test_several_threads_may_submit(self) -> None:
        """Submissions of several threads do not get into each other's way."""
        with self.opened() as backend:
            futures: dict[tuple[int, int], Future[Any]] = {}

            def submit_five(thread: int) -> None:
                for i in range(5):
                    futures[thread, i] = backend.submit(echo, thread, i, options=TaskOptions())

            threads = [threading.Thread(target=submit_five, args=(i,), daemon=True) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(self.patience)
            claim(len(futures) == 20, f"of 20 submissions, {len(futures)} were made")
            for place, future in futures.items():
                claim(self.result(future) == place, f"submission {place} has the result {future.result()!r}")

    # Chunks

    @bounded
    def test_a_chunk_returns_every_row_once(self) -> None:
        """Parts and result of a chunk hold each row once, in order, with the right answers and failures."""
        with self.opened() as backend:
            chunk = Submitted(backend, odd_rows_fail, [{"i": i} for i in range(301)])
            self.outcome(chunk.future)
            claim(chunk.rows() == list(range(301)), f"301 rows came back as {short_repr(chunk.rows())}")
            must_be_same(chunk.answers(), {i: {"square": i * i} for i in range(0, 301, 2)})
            kinds = {row: failure.kind for part in chunk.parts for row, failure in part.failures}
            claim(kinds == dict.fromkeys(range(1, 301, 2), "raised"), "other rows have failed than should")

    @bounded
    def test_a_chunk_with_large_answers_returns_every_row_once(self) -> None:
        """Answers of megabytes, which may come as parts ahead, are all there, unchanged."""
        with self.opened() as backend:
            chunk = Submitted(backend, large_answer, [{"i": i, "size": MEGABYTE // 4} for i in range(24)])
            self.outcome(chunk.future)
            claim(chunk.rows() == list(range(24)), f"24 rows came back as {short_repr(chunk.rows())}")
            expected = {i: {"array": np.full(MEGABYTE // 4, i, dtype="u1"), "text": str(i)} for i in range(24)}
            must_be_same(chunk.answers(), expected)

    @bounded
    def test_nothing_of_a_chunk_comes_after_its_end(self) -> None:
        """`on_part` is called before the future is done, never after."""
        with self.opened() as backend:
            chunk = Submitted(backend, large_answer, [{"i": i, "size": MEGABYTE // 4} for i in range(24)])
            self.outcome(chunk.future)
        claim(chunk.events[-1] == "done" and chunk.events.count("done") == 1, f"it came in this order: {chunk.events}")

    @bounded
    def test_psets_of_a_chunk_are_unchanged(self) -> None:
        """A worker sees the psets that were sent: types, holes, odd keys, values beyond 64 bits."""
        psets: list[dict[Any, Any]] = [{"v": value, 1: i, (2, "a b"): None} for i, value in enumerate(_values())]
        psets += [{}, {"v": 2**70}, {"class": True}]
        with self.opened() as backend:
            chunk = Submitted(backend, tell_pset, psets)
            self.outcome(chunk.future)
            seen = [chunk.answers()[row]["seen"] for row in range(len(psets))]
            claim(seen == [typed_bytes(pset) for pset in psets], "a worker has seen another pset than was sent")

    @bounded
    def test_recalled_rows_are_given_back_or_run(self) -> None:
        """After `recall`, every row is either returned or, from some row on, given back; nothing is lost between."""
        with self.opened() as backend, Gate(self.patience) as gate:
            chunk = Submitted(backend, stay_at_some, rows_with_gate(gate, 40, {2}, 2 * self.patience), start=False)
            thread = threading.Thread(target=chunk.start, daemon=True)
            thread.start()  # a backend may run it inside submit
            gate.wait_for(1)
            if chunk.future is not None:
                backend.recall(chunk.future)
            gate.open()
            thread.join(self.patience)
            claim(chunk.future is not None, "submit has not returned")
            error = self.outcome(chunk.future)[1]
            rows, back = chunk.rows(), chunk.given_back
            claim(error is None, f"a recall ended the submission with {error!r}")
            claim(rows == list(range(len(rows))), f"the rows that came back have gaps or repeat: {short_repr(rows)}")
            first = min(back, default=len(rows))
            # the one before may be where it noticed: what has ended without a row that it kept, has not begun it
            claim(len(rows) + 1 >= first, f"rows from {first} on were given back, and {len(rows)} came: some are lost")
            claim(back or self.can_kill or len(rows) == 40, f"nothing was given back, but {len(rows)} of 40 rows came")

    @bounded
    def test_recall_and_kill_of_what_is_over_do_nothing(self) -> None:
        """Also not to others; a future of somebody else's is none of their business."""
        with self.opened() as backend:
            future = backend.submit(echo, 1, options=TaskOptions())
            self.result(future)
            for other in (future, Future()):
                backend.recall(other)
                backend.kill(other)
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")
            claim(future.result() == (1,), "the result of a future that was done has changed")

    # Ends

    @bounded
    def test_kill_ends_a_running_call(self) -> None:
        """`kill` ends the call at once, its future raises `Killed`, and other submissions are unharmed."""
        skip_unless(self.can_kill, "it cannot kill")
        with self.opened() as backend, Gate(self.patience) as victims, Gate(self.patience) as others:
            other = backend.submit(stay, others.address, 2 * self.patience, options=TaskOptions())
            others.wait_for(1)
            if backend.slots() == 1:
                others.open()
                self.result(other)
            victim = backend.submit(stay, victims.address, 2 * self.patience, options=TaskOptions())
            victims.wait_for(1)
            backend.kill(victim)
            error = self.error(victim)
            claim(type(error) is Killed, f"the future of a killed call has {error!r}, not Killed")
            victims.wait_for_the_end()
            claim(other.done() == (backend.slots() == 1), "another submission has ended with the killed one")
            others.open()
            self.result(other)
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")

    @bounded
    def test_a_death_loses_only_its_own_call(self) -> None:
        """A call whose process dies gives `Died`; other submissions, and the next, are unharmed."""
        skip_unless(self.can_kill, "it does not promise to survive a death")
        with self.opened() as backend:
            calls = [backend.submit(die if i == 2 else echo, i, options=TaskOptions()) for i in range(5)]
            error = self.error(calls[2])
            claim(isinstance(error, Died), f"a call that died gave {error!r}, not Died")
            for i in (0, 1, 3, 4):
                result = self.result(calls[i])
                claim(result == (i,), f"submission {i} has the result {result!r} after another's death")

    @bounded
    def test_a_death_in_a_chunk_tells_its_row_and_keeps_what_was_sent(self) -> None:
        """A death gives `Died` with the row that was running, or none; rows sent ahead before are still there."""
        skip_unless(self.can_kill, "it does not promise to survive a death")
        with self.opened() as backend:
            chunk = Submitted(backend, die_at_three, [{"i": i} for i in range(6)])
            error = self.outcome(chunk.future)[1]
            claim(isinstance(error, Died), f"a chunk whose process died gave {error!r}, not Died")
            assert isinstance(error, Died)
            claim(error.index in {None, 3}, f"row 3 died, but row {error.index} is accused")
            rows = chunk.rows()
            claim(
                rows == list(range(len(rows))) and len(rows) <= 3,
                f"rows came back that did not run: {short_repr(rows)}",
            )

    @bounded
    def test_a_deadline_ends_a_pset(self) -> None:
        """With ``TaskOptions(timeout=...)``, a pset that takes longer ends in `TimedOut`, promptly."""
        skip_unless(self.can_kill, "it cannot kill")
        with self.opened() as backend, Gate(self.patience) as gate:
            psets = rows_with_gate(gate, 5, {2}, 2 * self.patience)
            began = time.monotonic()
            chunk = Submitted(backend, stay_at_some, psets, timeout=0.2)
            error = self.outcome(chunk.future)[1]
            seconds = time.monotonic() - began
            claim(isinstance(error, TimedOut), f"a pset that takes too long gave {error!r}, not TimedOut")
            assert isinstance(error, TimedOut)
            claim(error.index in {None, 2}, f"row 2 took too long, but row {error.index} is accused")
            claim(seconds >= 0.2, f"a deadline of 0.2 s struck after {seconds:.3f} s")
            gate.wait_for_the_end()

    @bounded
    def test_a_deadline_is_each_psets_own(self) -> None:
        """Psets that together take longer than the deadline, but each of them less, finish.

        Not always all: a call may return what it has after some time, and be given the others once more.
        """
        skip_unless(self.can_kill, "it cannot kill")
        with self.opened() as backend:
            chunk = Submitted(backend, busy_for, [{"seconds": 0.1}] * 8, timeout=0.5)
            error = self.outcome(chunk.future)[1]
            claim(error is None, f"eight psets of 0.1 s with a deadline of 0.5 s each gave {error!r}")
            rows = chunk.rows()
            claim(len(rows) > 5 and rows == list(range(8))[: len(rows)], f"8 rows came back as {short_repr(rows)}")

    @bounded
    def test_close_may_be_called_twice(self) -> None:
        """Also without anything submitted between."""
        backend = self.make_backend()
        backend.close()
        backend.close()

    @bounded
    def test_nothing_is_left_running_after_close(self) -> None:
        """`close` waits until every thread and process of the backend's has ended."""
        before = self.running()
        with self.opened() as backend:
            count = 2 * backend.slots()
            futures = [backend.submit(process_number, options=TaskOptions()) for _ in range(count)]
            numbers = {self.result(future) for future in futures} - {os.getpid()}
        left = self.running() - before
        claim(not left, f"close has left {left!r}")
        alive = {number for number in numbers if _is_alive(number)}
        claim(not alive, f"close has left the processes {sorted(alive)!r}")

    @bounded
    def test_close_ends_what_is_running(self) -> None:
        """`close` does not wait for a call to return, and its future is done."""
        skip_unless(self.can_kill, "it cannot kill")
        with Gate(self.patience) as gate:
            backend = self.make_backend()
            future = backend.submit(stay, gate.address, 2 * self.patience, options=TaskOptions())
            gate.wait_for(1)
            began = time.monotonic()
            backend.close()
            seconds = time.monotonic() - began
            claim(seconds < self.patience / 2, f"close has waited {seconds:.1f} s for a running call")
            gate.wait_for_the_end()
            error = self.error(future)
            claim(isinstance(error, TaskLost), f"the future of a call that close ended has {error!r}, not a TaskLost")

    @bounded
    def test_submit_after_close_is_refused(self) -> None:
        """`submit` raises `BackendError` when the backend is closed, and calls nothing."""
        backend = self.make_backend()
        backend.close()
        try:
            backend.submit(echo, 1, options=TaskOptions())
        except BackendError:
            return
        claim(False, "submit after close has not raised BackendError")

    # What it says beyond that; where it does not, these tests are skipped

    @bounded
    def test_what_it_says_of_itself_can_be_understood(self) -> None:
        """Its flags are True or False, and ``task_seconds`` is a number of seconds."""
        with self.opened() as backend:
            for name in ("can_kill", "can_replace", "runs_alone", "has_queue", "can_leave"):
                says = getattr(backend, name, False)
                claim(isinstance(says, bool), f"{name} is {says!r}, neither True nor False")
            cost = getattr(backend, "task_seconds", 0.0)
            is_time = isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0
            claim(is_time, f"task_seconds is {cost!r}, no finite number of seconds")

    @bounded
    def test_a_process_is_replaced_after_so_many_psets(self) -> None:
        """With ``can_replace`` and ``TaskOptions(max_tasks=4)``, no process runs more than four psets."""
        with self.opened() as backend:
            skip_unless(getattr(backend, "can_replace", False), "it does not replace processes")
            rows = backend.rows_per_task(4) if isinstance(backend, Placing) else 2
            ran: Counter[Any] = Counter()
            for _ in range(3):
                chunk = Submitted(backend, tell_process, [{"i": i} for i in range(rows)], max_tasks=4)
                self.result(chunk.future)
                ran.update(answer["process"] for answer in chunk.answers().values())
            claim(ran.total() == 3 * rows, f"of {3 * rows} psets, {ran.total()} have an answer")
            most = max(ran.values())
            claim(most <= 4, f"one process has run {most} psets, with max_tasks=4")

    @bounded
    def test_a_call_has_its_process_to_itself(self) -> None:
        """With ``runs_alone``, calls that run at the same time are in different processes."""
        with self.opened() as backend, Gate(self.patience) as gate:
            skip_unless(getattr(backend, "runs_alone", False), "it does not say that calls run alone")
            slots = backend.slots()
            opener = threading.Thread(target=gate.open_when, args=(slots,), daemon=True)
            opener.start()  # a backend may run its one call inside submit
            options = TaskOptions()
            futures = [
                backend.submit(stay_and_tell, gate.address, 2 * self.patience, options=options) for _ in range(slots)
            ]
            opener.join(2 * self.patience)
            there = len({self.result(future) for future in futures})
            claim(there == slots, f"{slots} calls at the same time were in {there} processes")

    @bounded
    def test_what_is_submitted_beyond_the_slots_waits(self) -> None:
        """With ``has_queue``, more submissions than slots are taken, and no more run than there are slots."""
        with self.opened() as backend, Gate(self.patience) as gate:
            skip_unless(getattr(backend, "has_queue", False), "it has no queue")
            slots, options = backend.slots(), TaskOptions()
            futures = [backend.submit(stay, gate.address, 2 * self.patience, options=options) for _ in range(slots + 2)]
            gate.wait_for(slots)
            claim(not gate.gets_more_than(slots), f"slots() is {slots}, but {gate.arrived} calls run at once")
            gate.open()
            for future in futures:
                self.result(future)

    @bounded
    def test_large_answers_that_are_left_where_they_are_arrive(self) -> None:
        """With ``can_leave``, answers of megabytes reach the next worker, and this process, unchanged."""
        with self.opened() as backend:
            skip_unless(getattr(backend, "can_leave", False), "it leaves no answers")
            first = Submitted(backend, large_answer, [{"i": i, "size": 2 * MEGABYTE} for i in range(3)], leave=True)
            self.result(first.future)
            answers = [first.answers()[i] for i in range(3)]
            second = Submitted(backend, size_and_sum, answers)
            self.result(second.future)
            expected = {i: {"size": 2 * MEGABYTE, "sum": 2 * MEGABYTE * i} for i in range(3)}
            must_be_same(second.answers(), expected)
            arrays = brought([answer["array"] for answer in answers])
            must_be_same(tuple(arrays), tuple(np.full(2 * MEGABYTE, i, dtype="u1") for i in range(3)))

    @bounded
    def test_ncores_means_as_many_as_run_at_once(self) -> None:
        """With ``at_most``, one core is one slot, some are always left, and more than there were can be had."""
        with self.opened() as backend, Gate(self.patience) as gate:
            skip_unless(isinstance(backend, Elastic), "it does not say what ncores= means")
            assert isinstance(backend, Elastic)
            slots = backend.slots()
            for ncores in (1, -(10**6)):
                means = backend.at_most(ncores)
                claim(
                    means == 1 or (means is None and slots == 1),
                    f"at_most({ncores}) is {means!r}, with {slots} slots, not 1",
                )
            most = backend.at_most(slots + 1)
            if most is None or getattr(backend, "has_queue", False):
                return
            opener = threading.Thread(target=gate.open_when, args=(most,), daemon=True)
            opener.start()
            options = TaskOptions()
            futures = [backend.submit(stay, gate.address, 2 * self.patience, options=options) for _ in range(most)]
            opener.join(2 * self.patience)
            claim(gate.met == most, f"at_most({slots + 1}) is {most}, but {gate.met} calls ran at once")
            for future in futures:
                self.result(future)

    @bounded
    def test_an_unknown_setting_is_refused_by_name(self) -> None:
        """With ``check_settings``, no settings are right, and one that it does not have is an `OptionError`."""
        with self.opened() as backend:
            skip_unless(isinstance(backend, Configurable), "it has no settings")
            assert isinstance(backend, Configurable)
            backend.check_settings({})
            refusal = _refusal_of(backend.check_settings)
            claim(NO_SETTING in refusal, f"check_settings({{{NO_SETTING!r}: 1}}): {refusal or 'not refused'}")

    @bounded
    def test_tasks_are_placed_where_there_is_room(self) -> None:
        """With ``wishes``, `room` counts tasks and refuses what it does not know; tasks are no longer than allowed."""
        with self.opened() as backend:
            skip_unless(isinstance(backend, Placing), "it does not place tasks")
            assert isinstance(backend, Placing)
            claim(type(backend.wishes) is str and bool(backend.wishes), f"wishes is {backend.wishes!r}, not a column")
            room = backend.room({})
            claim(type(room) is int and room >= 1, f"room({{}}) is {room!r}, not 1 or more")
            refusal = _refusal_of(backend.room)
            claim(NO_SETTING in refusal, f"room({{{NO_SETTING!r}: 1}}): {refusal or 'not refused'}")
            for most in (1, 2, 7, 1000):
                rows = backend.rows_per_task(most)
                claim(type(rows) is int and 1 <= rows <= most, f"rows_per_task({most}) is {rows!r}")

    @bounded
    def test_whoever_waits_may_do_its_work(self) -> None:
        """With ``drive``, futures complete in the thread that drives, which stops as soon as it should."""
        with self.opened() as backend:
            skip_unless(isinstance(backend, Drivable), "nobody can do its work")
            assert isinstance(backend, Drivable)
            future = backend.submit(add, 3, 4, options=TaskOptions())
            self.drive(backend, future.done)
            claim(self.result(future) == 7, "a call that was driven has another result")
            said = threading.Event()

            def say_so() -> None:
                said.set()
                backend.wake()

            threading.Timer(0.05, say_so).start()
            self.drive(backend, said.is_set)
            backend.drive(lambda: False, 0.01)  # returns when its time is over

    @bounded
    def test_it_knows_whose_calls_are_at_work(self) -> None:
        """With ``at_work``, it tells how many processes run calls of somebody."""
        with self.opened() as backend, Gate(self.patience) as gate:
            skip_unless(isinstance(backend, Drivable), "nobody can do its work")
            assert isinstance(backend, Drivable)
            owner, slots = object(), backend.slots()
            options = TaskOptions(owner=owner)
            futures = [backend.submit(stay, gate.address, 2 * self.patience, options=options) for _ in range(slots)]
            gate.wait_for(slots)
            at_work, of_others = backend.at_work(owner), backend.at_work(object())
            claim(at_work == slots and not of_others, f"at_work tells {at_work} of {slots}, and {of_others} of others")
            gate.open()
            for future in futures:
                self.result(future)
            claim(not backend.at_work(owner), f"at_work tells {backend.at_work(owner)} when all is over")

    # How to wait

    def drive(self, backend: Drivable, until: Callable[[], bool]) -> None:
        """Do a backend's work until something is true; it has to stop in half of the patience.

        Parameters
        ----------
        backend : Drivable
            Whose work it is.
        until : callable
            Tells whether it is enough.
        """
        began = time.monotonic()
        while not until() and (left := self.patience - (time.monotonic() - began)) > 0:
            backend.drive(until, left)
        seconds = time.monotonic() - began
        claim(seconds < self.patience / 2, f"drive has gone on for {seconds:.1f} s")

    def outcome(self, future: Future[Any] | None) -> tuple[Any, BaseException | None]:
        """Return a future's result, or its exception, if it comes in time.

        Parameters
        ----------
        future : Future
            What `submit` has returned.
        """
        claim(isinstance(future, Future), f"{future!r} is not a concurrent.futures.Future")
        assert future is not None
        claim(bool(wait([future], self.patience).done), f"a future is not done after {self.patience:g} s")
        error = future.exception()
        return (None if error else future.result()), error

    def result(self, future: Future[Any] | None) -> Any:
        """Return a future's result; an exception instead of it is a failed claim.

        Parameters
        ----------
        future : Future
            What `submit` has returned.
        """
        result, error = self.outcome(future)
        if error is not None:
            raise AssertionError(f"instead of a result there is {safe_repr(error)}") from error
        return result

    def error(self, future: Future[Any]) -> BaseException:
        """Return a future's exception; a result instead of it is a failed claim.

        Parameters
        ----------
        future : Future
            What `submit` has returned.
        """
        result, error = self.outcome(future)
        if error is None:
            raise AssertionError(f"instead of an exception there is the result {safe_repr(result)}")
        return error


def _is_alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _values() -> tuple[Any, ...]:
    """Return values that are easily changed on a way."""
    return (
        *(0, True, 1.0, -0.0, 2**53 + 1, -(2**70), "a\x00\u00e9", b"\x00\xff", None, float("inf"), 3 + 4j),
        *((1, [2, {"a": (3,)}]), {"b": 1, 2: "c"}, {1, 2}, range(3), (), [], ""),
        *(np.float32(0.1), np.int8(-1), np.arange(6, dtype=">i2").reshape(2, 3), np.array([], dtype="U3")),
    )


# What is called at the backend. A backend may, or may not, pass ``monitor=``.


def _refusal_of(takes_settings: Callable[[Mapping[str, Any]], Any]) -> str:
    """Return how a setting is refused that nobody has; nothing if it is not."""
    try:
        takes_settings({NO_SETTING: 1})
    except OptionError as exc:
        return str(exc)
    return ""
