"""For those who write a backend or a stage: everything that is relied on, as tests to inherit.

`BackendContract` is a class of tests in the style of pytest, which it does not import: each method whose name begins
with ``test_`` makes a backend, puts one claim of `paramsurvey.backends.base` to it, and raises `AssertionError` if the
claim does not hold. Every wait ends: a backend that hangs fails.

`StageContract` does the same with a stage and the claims of `paramsurvey.stages.base`, by plain calls, `next` and
`send`: neither a backend nor a session is opened.

>>> from paramsurvey.backends.serial import SerialBackend
>>> class TestSerial(BackendContract):
...     in_process = True
...
...     def make_backend(self):
...         return SerialBackend()
>>> TestSerial().test_a_result_comes_back()
"""

from __future__ import annotations

import math
import os
import pickle
import socket
import threading
import time
import unittest
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import attrs
import numpy as np
import psutil

from paramsurvey.backends.base import Backend, Configurable, Elastic, Placing, what_it_lacks
from paramsurvey.backends.serial import InProcess
from paramsurvey.engine.columns import HOLE, RESERVED, SHORT, brought, columns_of, psets_of, typed, unpack
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.loop import Drivable, thawed
from paramsurvey.engine.pickling import dumps_by_value
from paramsurvey.engine.records import (
    ChunkRows,
    Died,
    Failure,
    GivenBack,
    Killed,
    Part,
    TaskLost,
    TaskOptions,
    TimedOut,
    Unreadable,
    Unsendable,
    Work,
)
from paramsurvey.engine.worker import run_chunk, safe_repr
from paramsurvey.errors import BackendError, OptionError, StageError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.options import Options
from paramsurvey.progress import MapProgress
from paramsurvey.stages.base import (
    Answers,
    Ask,
    Columns,
    Made,
    Parents,
    Rows,
    columns_after,
    conversation,
    inputs_of,
    kind_of,
)
from paramsurvey.stages.map import Map
from paramsurvey.testing_calls import (
    Address,
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

# Tables and results, which import pandas, are imported where they are used.
if TYPE_CHECKING:
    from paramsurvey.results import MapResults
    from paramsurvey.tables import Table

Contract = TypeVar("Contract", bound="BackendContract")

WAITS_IN_A_TEST = 4
MOMENT = 0.2
"""Seconds in which what must not happen would have happened."""
NO_SETTING = "no_such_setting"
MEGABYTE = 2**20


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
            _must_be_same(result, values)

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
                _must_be_same(self.result(future), payload)

    @bounded
    def test_an_argument_that_cannot_be_pickled_is_unsendable(self) -> None:
        """The future, or nothing, knows: `submit` does not raise, nothing hangs, the next call works."""
        self.only_if(not self.in_process, "nothing is pickled")
        with self.opened() as backend:
            for argument in (CannotBePickled(), CannotBeUnpickled()):
                error = self.error(backend.submit(echo, argument, options=TaskOptions()))
                claim(isinstance(error, Unsendable), f"{argument!r} gave {error!r}, not Unsendable")
            claim(self.result(backend.submit(add, 1, 1, options=TaskOptions())) == 2, "the next call went wrong")

    @bounded
    def test_a_result_that_cannot_be_pickled_is_an_exception(self) -> None:
        """Nor one that cannot be unpickled, nor an exception of such a kind; nothing hangs, and the next call works."""
        self.only_if(not self.in_process, "nothing is pickled")
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
            _must_be_same(loaded, values)
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
        self.only_if(not self.in_process, "nothing is pickled")
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
            claim(chunk.rows() == list(range(301)), f"301 rows came back as {_shown(chunk.rows())}")
            _must_be_same(chunk.answers(), {i: {"square": i * i} for i in range(0, 301, 2)})
            kinds = {row: failure.kind for part in chunk.parts for row, failure in part.failures}
            claim(kinds == dict.fromkeys(range(1, 301, 2), "raised"), "other rows have failed than should")

    @bounded
    def test_a_chunk_with_large_answers_returns_every_row_once(self) -> None:
        """Answers of megabytes, which may come as parts ahead, are all there, unchanged."""
        with self.opened() as backend:
            chunk = Submitted(backend, large_answer, [{"i": i, "size": MEGABYTE // 4} for i in range(24)])
            self.outcome(chunk.future)
            claim(chunk.rows() == list(range(24)), f"24 rows came back as {_shown(chunk.rows())}")
            expected = {i: {"array": np.full(MEGABYTE // 4, i, dtype="u1"), "text": str(i)} for i in range(24)}
            _must_be_same(chunk.answers(), expected)

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
            chunk = Submitted(backend, stay_at_some, _rows_with_gate(gate, 40, {2}, 2 * self.patience), start=False)
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
            claim(rows == list(range(len(rows))), f"the rows that came back have gaps or repeat: {_shown(rows)}")
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
        self.only_if(self.can_kill, "it cannot kill")
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
        self.only_if(self.can_kill, "it does not promise to survive a death")
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
        self.only_if(self.can_kill, "it does not promise to survive a death")
        with self.opened() as backend:
            chunk = Submitted(backend, die_at_three, [{"i": i} for i in range(6)])
            error = self.outcome(chunk.future)[1]
            claim(isinstance(error, Died), f"a chunk whose process died gave {error!r}, not Died")
            assert isinstance(error, Died)
            claim(error.index in {None, 3}, f"row 3 died, but row {error.index} is accused")
            rows = chunk.rows()
            claim(rows == list(range(len(rows))) and len(rows) <= 3, f"rows came back that did not run: {_shown(rows)}")

    @bounded
    def test_a_deadline_ends_a_pset(self) -> None:
        """With ``TaskOptions(timeout=...)``, a pset that takes longer ends in `TimedOut`, promptly."""
        self.only_if(self.can_kill, "it cannot kill")
        with self.opened() as backend, Gate(self.patience) as gate:
            psets = _rows_with_gate(gate, 5, {2}, 2 * self.patience)
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
        """Psets that together take longer than the deadline, but each of them less, all finish."""
        self.only_if(self.can_kill, "it cannot kill")
        with self.opened() as backend:
            chunk = Submitted(backend, busy_for, [{"seconds": 0.1}] * 8, timeout=0.5)
            error = self.outcome(chunk.future)[1]
            claim(error is None, f"eight psets of 0.1 s with a deadline of 0.5 s each gave {error!r}")
            claim(chunk.rows() == list(range(8)), f"8 rows came back as {_shown(chunk.rows())}")

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
        self.only_if(self.can_kill, "it cannot kill")
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
            self.only_if(getattr(backend, "can_replace", False), "it does not replace processes")
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
            self.only_if(getattr(backend, "runs_alone", False), "it does not say that calls run alone")
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
            self.only_if(getattr(backend, "has_queue", False), "it has no queue")
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
            self.only_if(getattr(backend, "can_leave", False), "it leaves no answers")
            first = Submitted(backend, large_answer, [{"i": i, "size": 2 * MEGABYTE} for i in range(3)], leave=True)
            self.result(first.future)
            answers = [first.answers()[i] for i in range(3)]
            second = Submitted(backend, size_and_sum, answers)
            self.result(second.future)
            expected = {i: {"size": 2 * MEGABYTE, "sum": 2 * MEGABYTE * i} for i in range(3)}
            _must_be_same(second.answers(), expected)
            arrays = brought([answer["array"] for answer in answers])
            _must_be_same(tuple(arrays), tuple(np.full(2 * MEGABYTE, i, dtype="u1") for i in range(3)))

    @bounded
    def test_ncores_means_as_many_as_run_at_once(self) -> None:
        """With ``at_most``, one core is one slot, some are always left, and more than there were can be had."""
        with self.opened() as backend, Gate(self.patience) as gate:
            self.only_if(isinstance(backend, Elastic), "it does not say what ncores= means")
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
            self.only_if(isinstance(backend, Configurable), "it has no settings")
            assert isinstance(backend, Configurable)
            backend.check_settings({})
            refusal = _refusal_of(backend.check_settings)
            claim(NO_SETTING in refusal, f"check_settings({{{NO_SETTING!r}: 1}}): {refusal or 'not refused'}")

    @bounded
    def test_tasks_are_placed_where_there_is_room(self) -> None:
        """With ``wishes``, `room` counts tasks and refuses what it does not know; tasks are no longer than allowed."""
        with self.opened() as backend:
            self.only_if(isinstance(backend, Placing), "it does not place tasks")
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
            self.only_if(isinstance(backend, Drivable), "nobody can do its work")
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
            self.only_if(isinstance(backend, Drivable), "nobody can do its work")
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
        """Do a backend's work until something is true; it has to stop in half of the patience."""
        began = time.monotonic()
        while not until() and (left := self.patience - (time.monotonic() - began)) > 0:
            backend.drive(until, left)
        seconds = time.monotonic() - began
        claim(seconds < self.patience / 2, f"drive has gone on for {seconds:.1f} s")

    def outcome(self, future: Future[Any] | None) -> tuple[Any, BaseException | None]:
        """Return a future's result, or its exception, if it comes in time."""
        claim(isinstance(future, Future), f"{future!r} is not a concurrent.futures.Future")
        assert future is not None
        claim(bool(wait([future], self.patience).done), f"a future is not done after {self.patience:g} s")
        error = future.exception()
        return (None if error else future.result()), error

    def result(self, future: Future[Any] | None) -> Any:
        """Return a future's result; an exception instead of it is a failed claim."""
        result, error = self.outcome(future)
        if error is not None:
            raise AssertionError(f"instead of a result there is {safe_repr(error)}") from error
        return result

    def error(self, future: Future[Any]) -> BaseException:
        """Return a future's exception; a result instead of it is a failed claim."""
        result, error = self.outcome(future)
        if error is None:
            raise AssertionError(f"instead of an exception there is the result {safe_repr(result)}")
        return error

    def only_if(self, condition: bool, reason: str) -> None:
        """Skip the rest of the test if the claim is none for this backend."""
        if not condition:
            raise unittest.SkipTest(reason)


def claim(condition: bool | list[Any], message: str) -> None:
    """Raise `AssertionError` with the message unless the condition holds; also where ``python -O`` drops ``assert``."""
    if not condition:
        raise AssertionError(message)


def _refusal_of(takes_settings: Callable[[Mapping[str, Any]], Any]) -> str:
    """Return how a setting is refused that nobody has; nothing if it is not."""
    try:
        takes_settings({NO_SETTING: 1})
    except OptionError as exc:
        return str(exc)
    return ""


class Gate:
    """A place where calls stay until the test lets them go on, wherever on this machine they run.

    Each call is a connection to a socket of the test's: so the test knows how many have arrived, and, by the end of the
    connection, that a process is gone; and nobody has to look again and again.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._is_open = False
        self._is_removed = False
        self.met = 0  # how many calls had come when `open_when` opened
        self.address: Address = self._listener.getsockname()

    def __enter__(self) -> Gate:
        threading.Thread(target=self._accept, name="paramsurvey-gate", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # or accept() does not notice
        except OSError:
            pass
        self._listener.close()
        with self._changed:
            self._is_removed = True
            for connection in self._connections:
                connection.close()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with self._changed:
                    if self._is_removed:
                        connection.close()
                        return
                    self._connections.append(connection)
                    if self._is_open:
                        _let_through(connection)
                    self._changed.notify_all()
        except OSError:  # the gate was removed
            pass

    @property
    def arrived(self) -> int:
        """How many calls have come so far."""
        return len(self._connections)

    def open(self) -> None:
        """Let all calls through, also those that come later."""
        with self._changed:
            self._is_open = True
            for connection in self._connections:
                _let_through(connection)

    def wait_for(self, count: int) -> None:
        """Wait until so many calls have come."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.arrived >= count, self._patience)
        claim(arrived, f"of {count} calls that should run now, {self.arrived} do")

    def gets_more_than(self, count: int) -> bool:
        """Tell whether more calls come than these; they have a moment for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self.arrived > count, MOMENT)

    def open_when(self, count: int) -> None:
        """Open as soon as so many calls have come, or after the patience."""
        with self._changed:
            self._changed.wait_for(lambda: self.arrived >= count, self._patience)
            self.met = self.arrived
        self.open()

    def wait_for_the_end(self) -> None:
        """Wait until whoever has come is gone without being let through."""
        for connection in self._connections:
            connection.settimeout(self._patience)
            try:
                claim(not connection.recv(1), "a call has said something")
            except TimeoutError:
                claim(False, f"a call that was ended still runs after {self._patience:g} s")
            except ConnectionError:
                pass


def _let_through(connection: socket.socket) -> None:
    try:
        connection.send(b"!")
    except OSError:  # whoever waited is gone
        pass


class Submitted:
    """A chunk at a backend, and what has come back of it."""

    def __init__(
        self,
        backend: Backend,
        worker: Callable[..., Any],
        psets: list[dict[Any, Any]],
        *,
        timeout: float | None = None,
        max_tasks: int | None = None,
        leave: bool = False,
        start: bool = True,
    ) -> None:
        work = Work(worker=worker, user_kwargs=None, name="contract", seed=0, cwd=None, out_subdirs=None)
        keys, columns = columns_of(psets)
        self._backend = backend
        self._handle = backend.publish(work)
        self._rows = tuple(ChunkRows(keys, columns, len(psets), 1))
        self._options = TaskOptions(
            rows=len(psets),
            timeout=timeout,
            max_tasks=max_tasks,
            leave=leave,
            on_part=self._take,
        )
        self._ahead: list[Part | Unreadable | GivenBack] = []
        self.events: list[str] = []
        self.future: Future[Any] | None = None
        if start:
            self.start()

    def start(self) -> None:
        """Submit it."""
        future = self._backend.submit(run_chunk, self._handle, self._rows, options=self._options)
        future.add_done_callback(lambda _future: self.events.append("done"))
        self.future = future

    def _take(self, news: Part | Unreadable | GivenBack) -> None:
        self._ahead.append(news)
        self.events.append(type(news).__name__)

    @property
    def parts(self) -> list[Part]:
        """The parts that have come, the result among them, as the engine reads them."""
        parts = [thawed(news) for news in self._ahead if isinstance(news, Part)]
        if self.future is not None and self.future.done() and self.future.exception() is None:
            result = self.future.result()
            claim(isinstance(result, Part), f"run_chunk came back as {result!r}, not as a Part")
            parts.append(thawed(result))
        return parts

    @property
    def given_back(self) -> list[int]:
        """The rows from which on rows were given back."""
        return [news.first for news in self._ahead if isinstance(news, GivenBack)]

    def rows(self) -> list[int]:
        """Return the rows that have come back, in that order."""
        return [row for part in self.parts for row in range(part.first, part.first + part.count)]

    def answers(self) -> dict[int, dict[Any, Any]]:
        """Return the answers by row."""
        answers: dict[int, dict[Any, Any]] = {}
        for part in self.parts:
            failed = {row for row, _ in part.failures}
            rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
            answers.update(zip(rows, psets_of(part.keys, part.columns, len(rows)), strict=True))
        return answers


def _rows_with_gate(gate: Gate, count: int, at: set[int], patience: float) -> list[dict[Any, Any]]:
    """Return psets of which some make `stay_at_some` stay at a gate."""
    host, port = gate.address
    return [{"i": i, "host": host, "port": port if i in at else 0, "patience": patience} for i in range(count)]


def _values() -> tuple[Any, ...]:
    """Return values that are easily changed on a way."""
    return (
        *(0, True, 1.0, -0.0, 2**53 + 1, -(2**70), "a\x00\u00e9", b"\x00\xff", None, float("inf"), 3 + 4j),
        *((1, [2, {"a": (3,)}]), {"b": 1, 2: "c"}, {1, 2}, range(3), (), [], ""),
        *(np.float32(0.1), np.int8(-1), np.arange(6, dtype=">i2").reshape(2, 3), np.array([], dtype="U3")),
    )


def _must_be_same(came: Any, expected: Any) -> None:
    if typed_bytes(came) == typed_bytes(expected):
        return
    if isinstance(came, tuple) and isinstance(expected, tuple) and len(came) == len(expected):
        for one, other in zip(came, expected, strict=True):
            claim(typed_bytes(one) == typed_bytes(other), f"{_shown(other)} came as {_shown(one)}")
    claim(False, f"{_shown(expected)} came as {_shown(came)}")


def _shown(value: Any) -> str:
    text = safe_repr(value)
    return text if len(text) < 200 else f"{text[:100]} ... {text[-90:]}"


def _is_alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the contract of stages -----------------------------------------------------------------------

_LONG: Final = SHORT + 4
"""So many rows have columns of numbers as typed arrays, which a few rows have as lists."""

_SLICES: Final = (1, 2, 3, 7)
_MOST_PIECES: Final = 10_000

_ODD_VALUES: Final = (
    *(2**53 + 1, 0.5, None, True, 1, 1.0, "text", HOLE, math.nan, 2**80, -0.0, b"\x00", (1, [2]), HOLE, False, ""),
)

Line: TypeAlias = "tuple[int, dict[Hashable, Any]]"
"""A row that was made, behind the position of its parent."""


class StageContract:
    """Everything that a run relies on in a stage; inherit it, say how to make one and what it may get, and run pytest.

    It is for stages of all three kinds; claims about other kinds are skipped. So is a claim whose ground is missing,
    because another one does not hold: one fault fails one test.

    A row-wise stage is called with each example, with its rows repeated until there are many, and with slices of these.
    A whole-table stage is talked to. Both get tables without rows, too. Workers are called in this process.

    Attributes
    ----------
    touches : tuple
        Columns to which the stage gives other values under the same name.
    bystander : hashable or None
        The name of a column of odd values that is added to the rows that a row-wise stage gets, to see whether it
        passes them on unchanged; None for a stage that cannot have any columns but those of the examples.
    most_asks : int
        How many times a whole-table stage may ask before it is said to ask for ever.

    Examples
    --------
    >>> from paramsurvey.tables import Table
    >>> class Squared:
    ...     name = "squared"
    ...     keeps_labels = True
    ...
    ...     def columns(self, given):
    ...         given.need(["n"], self.name)
    ...         return given.with_more(["square"])
    ...
    ...     def rows(self, table):
    ...         squares = [n**2 for n in table.column("n")] if table.count else []
    ...         yield Rows(table.beside(Table(("square",), [squares], table.count)), np.arange(table.count))
    >>> class TestSquared(StageContract):
    ...     def make_stage(self):
    ...         return Squared()
    ...
    ...     def examples(self):
    ...         return [[{"n": 1}, {"n": 0.5, "site": None}]]

    pytest finds the tests of such a class; without it:

    >>> TestSquared().run()

    What comes of a row may not depend on the slice in which it came:

    >>> class Numbered:
    ...     name = "numbered"
    ...
    ...     def rows(self, table):
    ...         numbers = Table(("number",), [list(range(table.count))], table.count)
    ...         yield Rows(table.beside(numbers), np.arange(table.count))
    >>> class TestNumbered(TestSquared):
    ...     def make_stage(self):
    ...         return Numbered()
    >>> TestNumbered().run()
    Traceback (most recent call last):
    ...
    AssertionError: TestNumbered: 1 of 14 claims does not hold
    test_slicing_changes_nothing: in slices of 1 rows, row 1 makes {'n': 0.5, 'site': None, 'number': 0},
    and among all {'n': 0.5, 'site': None, 'number': 1}
    """

    touches: tuple[Hashable, ...] = ()
    bystander: Hashable | None = "bystander"
    most_asks: int = 1000

    # What is to be tested, and with what

    def make_stage(self) -> Any:
        """Return a new stage. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} must override make_stage()")

    def examples(self) -> Iterable[Any]:
        """Return examples of what the stage may get, made anew at every call. To be overridden.

        Each is a table: a list of dicts, a DataFrame, a Table or MapResults. For a stage that takes several, it is a
        tuple of tables.
        """
        raise NotImplementedError(f"{type(self).__name__} must override examples()")

    def answer(self, ask: Ask) -> MapResults:
        """Return what comes of what a whole-table stage asks; by default its worker is called in this process.

        A stage that asks ``until="first"`` is told of these rows one by one, the first first or the last first.

        Parameters
        ----------
        ask : Ask
            What it has asked for.
        """
        return _survey_here(_stage_of(ask), _table(ask.psets))

    def run(self) -> None:
        """Run all tests, where there is no pytest.

        Raises
        ------
        AssertionError
            With every claim that does not hold.
        """
        names = [name for name in dir(self) if name.startswith("test_")]
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                getattr(self, name)()
            except unittest.SkipTest:
                pass
            except Exception as exc:  # noqa: BLE001 - a stage's own code may raise anything
                failed[name] = exc
        if failed:
            told = [
                f"{name}: {exc if isinstance(exc, AssertionError) else safe_repr(exc)}" for name, exc in failed.items()
            ]
            verb = "does" if len(failed) == 1 else "do"
            head = f"{type(self).__name__}: {len(failed)} of {len(names)} claims {verb} not hold"
            raise AssertionError("\n".join([head, *told])) from next(iter(failed.values()))

    # What it says of itself

    def test_it_is_a_stage_of_one_kind(self) -> None:
        """It has a name, and one of the methods ``work``, ``rows`` and ``table``."""
        stage = self.make_stage()
        try:
            kind_of(stage)
        except StageError as exc:
            raise AssertionError(str(exc)) from exc
        claim(bool(stage.name), f"its name is {stage.name!r}: there is nothing in it")
        methods = [method for method in ("work", "rows", "table") if callable(getattr(stage, method, None))]
        claim(len(methods) == 1, f"of the methods work(), rows() and table() it has {methods or 'none'}, not one")

    def test_it_takes_as_many_tables_as_it_says(self) -> None:
        """`inputs` are the least and the most tables; with None there is no most. The examples are within them."""
        stage = self._stage()
        inputs: Any = inputs_of(stage)
        claim(
            isinstance(inputs, tuple)
            and len(inputs) == 2
            and type(inputs[0]) is int
            and (inputs[1] is None or type(inputs[1]) is int),
            f"inputs is {inputs!r}, not (least, most)",
        )
        least, most = inputs
        claim(least >= 0 and (most is None or most >= max(least, 1)), f"inputs is {inputs!r}: there is no such number")
        claim(
            kind_of(stage) == "table" or inputs == (1, 1),
            f"inputs is {inputs!r}, but it is no whole-table stage: it gets the rows of one",
        )
        for tables in self._given():
            fits = least <= len(tables) and (most is None or len(tables) <= most)
            claim(fits, f"inputs is {inputs!r}, and an example has {len(tables)} tables")

    def test_it_tells_the_truth_about_columns(self) -> None:
        """The columns that `columns` names are there; and no others, unless it says that there may be.

        Also if all that is known of the inputs is that nothing is known: a pipeline is built before there are psets.
        """
        for tables in self._given():
            stage = self._stage()
            made = self._made(stage, tables)
            for known in (_columns_in(tables), tuple(map(_opened, _columns_in(tables))), (Columns(),) * len(tables)):
                try:
                    told: Any = columns_after(stage, *known)
                except StageError as exc:
                    raise AssertionError(
                        f"columns({_listed(known)}) refuses what it has made a table of: {exc}"
                    ) from exc
                claim(isinstance(told, Columns), f"columns({_listed(known)}) has returned {_shown(told)}, no Columns")
                lacking = [name for name in told.names if name not in made.keys] if made.count else []
                claim(not lacking, f"columns({_listed(known)}) names {lacking!r}, and there are only {made.keys!r}")
                others = [key for key in made.keys if key not in told.names]
                claim(
                    told.open or not others,
                    f"columns({_listed(known)}) says that there are no others than {told.names!r}, but there are "
                    f"{others!r}: with open=True there may be",
                )

    # Row-wise stages

    def test_rows_come_with_their_parents(self) -> None:
        """`rows` yields `Rows`: tables, and for each row the position of its parent in the slice, ascending."""
        for table in self._slices_to_be():
            wrong = _wrong_with_rows(_yielded(self._stage(), table), table)
            claim(not wrong, wrong)

    def test_slicing_changes_nothing(self) -> None:
        """What comes of a row is the same, in whichever slice it comes, and whether columns are lists or arrays."""
        for table in self._slices_to_be():
            stage = self._stage()
            whole, again = (list(_lines(self._sound_rows(stage, _copied(table)))) for _ in range(2))
            _skip_unless(typed_bytes(whole) == typed_bytes(again), "it makes other rows the second time")
            for size in _SLICES:
                own, pieces = _copied(table), list[Line]()
                for start in range(0, table.count, size):
                    part = _in_lists(own.slice(start, min(start + size, table.count)))
                    made = self._sound_rows(stage, part)
                    pieces += [(start + parent, pset) for parent, pset in _lines(made)]
                _must_be_the_same_lines(pieces, whole, size)

    def test_it_makes_as_many_rows_of_each_as_it_says(self) -> None:
        """With `keeps_labels` at most one; with a number as `fan_out`, so many."""
        stage = self._stage("rows")
        keeps_labels, fan_out = getattr(stage, "keeps_labels", False), getattr(stage, "fan_out", None)
        claim(isinstance(keeps_labels, bool), f"keeps_labels is {keeps_labels!r}, not True or False")
        for table in self._slices_to_be():
            parents = [rows.parents for rows in self._sound_rows(stage, table)]
            counts = np.bincount(np.concatenate([np.empty(0, np.int64), *parents]), minlength=table.count)
            most = int(counts.max(initial=0))
            claim(not keeps_labels or most <= 1, f"keeps_labels is True, but it has made {most} rows of one")
            claim(
                not isinstance(fan_out, int) or set(counts.tolist()) <= {fan_out},
                f"fan_out is {fan_out!r}, but it has made {most} rows of one",
            )

    # Whole-table stages

    def test_it_yields_nothing_but_asks(self) -> None:
        """Each `Ask` has a worker, psets and options as `paramsurvey.map` takes them; and they end."""
        for tables in self._given():
            wrong = self._talk(self._stage("table"), tables).wrong_ask
            claim(not wrong, wrong)

    def test_it_returns_a_table(self) -> None:
        """It returns whatever may be psets, or `Made`, which says for each of its tables where rows come from."""
        for tables in self._given():
            talk = self._talk(self._stage("table"), tables)
            _skip_unless(not talk.wrong_ask, talk.wrong_ask)
            claim(not talk.wrong_outcome, talk.wrong_outcome)

    def test_it_makes_the_same_in_whatever_order_it_is_told(self) -> None:
        """The table of a stage that asks ``until="first"`` does not depend on which of its psets comes first."""
        stage, told = self._stage("table"), False
        for tables in self._given():
            first = self._sound_talk(stage, tuple(map(_copied, tables)))
            told |= any(ask.until == "first" for ask in first.asks)
            second = self._sound_talk(stage, tuple(map(_copied, tables)), last_first=True)
            one, other = ([typed_bytes(row) for row in talk.made.table.dicts()] for talk in (first, second))
            claim(one == other, "with the answers in the opposite order it has made another table")
        _skip_unless(told, "it never asks until the first has come")

    # What both have in common

    def test_untouched_values_are_unchanged(self) -> None:
        """Where it is told which row a row comes from, what they both have a column for is the same, its type too."""
        stage = self._stage("rows", "table")
        if kind_of(stage) == "rows":
            for table in self._slices_to_be():
                for rows in self._sound_rows(stage, _copied(table)):
                    self._must_be_untouched(rows.table, (table,), (rows.parents,))
            return
        for tables in self._given():
            made = self._sound_talk(stage, tuple(map(_copied, tables))).made
            self._must_be_untouched(made.table, tables, made.parents)

    def test_an_empty_table_flows_through(self) -> None:
        """Tables without rows are no error, with their columns and, since nobody may know these, without any."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            self._made(stage, tables)  # or it is not for this test to fail
            for emptied in _emptied(tables):
                try:
                    wrong = self._wrong_with(stage, emptied)
                except Exception as exc:
                    raise AssertionError(f"{_described(emptied)} makes it raise {safe_repr(exc)}") from exc
                claim(not wrong, f"of {_described(emptied)}: {wrong}")

    def test_its_tables_are_not_changed(self) -> None:
        """Whoever else reads the same rows finds them as they were."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            before = list(map(_snapshot, tables))
            self._made(stage, tables)
            for place, (table, was) in enumerate(zip(tables, before, strict=True)):
                claim(_snapshot(table) == was, f"it has changed its table {place}")

    def test_the_same_tables_give_the_same_again(self) -> None:
        """It has no memory, and throws no dice: the second time, the same questions lead to the same table."""
        stage = self._stage("rows", "table")
        for tables in self._given():
            first, second = (self._seen(stage, tables) for _ in range(2))
            for one, other in zip(first, second, strict=False):
                claim(_bytes_of(one) == _bytes_of(other), f"the second time {_shown(one)} was {_shown(other)}")
            claim(len(first) == len(second), f"there were {len(first)} rows and questions, and then {len(second)}")

    # Map stages, and what whole-table stages ask for

    def test_what_it_calls_can_be_sent(self) -> None:
        """The `Work` of a map stage can be pickled, and so can that of every survey that is asked for."""
        sent = 0
        for name, work in self._works():
            sent += 1
            claim(isinstance(work, Work), f"{name} is {_shown(work)}, no Work")
            try:
                pickle.loads(dumps_by_value(work))
            except Exception as exc:
                raise AssertionError(f"{name} cannot be sent to a worker process: {safe_repr(exc)}") from exc
        _skip_unless(sent > 0, "it calls no worker")

    # How to call it

    def _stage(self, *kinds: str) -> Any:
        """Make a stage; skip the test if it is of another kind."""
        stage = self.make_stage()
        try:
            kind = kind_of(stage)
        except StageError as exc:
            raise unittest.SkipTest(f"it is no stage: {exc}") from exc
        _skip_unless(not kinds or kind in kinds, f"it is a stage of the kind {kind!r}")
        return stage

    def _given(self) -> list[tuple[Table, ...]]:
        """Return the examples, each as a tuple of tables."""
        examples = [tuple(map(_table, each if isinstance(each, tuple) else (each,))) for each in self.examples()]
        claim(
            any(table.count for tables in examples for table in tables),
            f"examples() of {type(self).__name__} has no table with rows",
        )
        return examples

    def _slices_to_be(self) -> Iterator[Table]:
        """Yield what a row-wise stage is tried with: few rows, many, and some with one more column."""
        self._stage("rows")
        for tables in self._given():
            table = tables[0]
            yield _copied(_unlabelled(table))
            many = _repeated(table)
            yield _copied(many)
            if self.bystander is not None and self.bystander not in table.keys:
                yield _with_odd_values(many, self.bystander)

    def _sound_rows(self, stage: Any, table: Table) -> list[Rows]:
        """Return what a row-wise stage yields; skip the test if another one fails by it."""
        made = _yielded(stage, table)
        wrong = _wrong_with_rows(made, table)
        _skip_unless(not wrong, wrong)
        return made

    def _talk(self, stage: Any, tables: tuple[Table, ...], *, last_first: bool = False) -> _Talk:
        """Have a conversation with a whole-table stage."""
        asks: list[Ask] = []
        under_way: list[_UnderWay] = []
        told: MapResults | Answers | None = None
        talk = conversation(stage, tables)
        try:
            while len(asks) < self.most_asks:
                ask, wrong = _asked(talk.send(told))
                if wrong:
                    return _Talk(asks, wrong_ask=wrong)
                asks.append(ask)
                told = self.answer(ask) if ask.until == "all" else self._first_answers(ask, under_way, last_first)
        except StopIteration as stop:
            return _ended(asks, stop.value, tables)
        finally:
            talk.close()
        return _Talk(asks, wrong_ask=f"it has asked {self.most_asks} times, and would go on")

    def _first_answers(self, ask: Ask, under_way: list[_UnderWay], last_first: bool) -> Answers:
        """Return what is told to a stage that waits for the first of the psets that it has asked this worker for."""
        its = next((each for each in under_way if each.ask.is_of_one_survey_with(ask)), None)
        if its is None:
            its = _UnderWay(ask)
            under_way.append(its)
        its.add(_table(ask.psets).count, self.answer(ask))
        return its.told(last_first)

    def _sound_talk(self, stage: Any, tables: tuple[Table, ...], *, last_first: bool = False) -> _Talk:
        """Have a conversation; skip the test if another one fails by it."""
        talk = self._talk(stage, tables, last_first=last_first)
        wrong = talk.wrong_ask or talk.wrong_outcome
        _skip_unless(not wrong, wrong)
        return talk

    def _made(self, stage: Any, tables: tuple[Table, ...]) -> Table:
        """Return the table that a stage of any kind makes of an example."""
        kind = kind_of(stage)
        if kind == "table":
            table: Table = self._sound_talk(stage, tables).made.table
            return table
        if kind == "map":
            return _survey_here(stage, tables[0]).table
        from paramsurvey.tables import Table, concatenated

        pieces = [rows.table for rows in self._sound_rows(stage, _unlabelled(tables[0]))]
        return concatenated(pieces) if pieces else Table((), [], 0)

    def _wrong_with(self, stage: Any, tables: tuple[Table, ...]) -> str:
        """Say what is wrong with what a row-wise or a whole-table stage makes of tables."""
        if kind_of(stage) == "rows":
            return _wrong_with_rows(_yielded(stage, tables[0]), tables[0])
        talk = self._talk(stage, tables)
        return talk.wrong_ask or talk.wrong_outcome

    def _seen(self, stage: Any, tables: tuple[Table, ...]) -> list[Any]:
        """Return all that can be seen of a stage at work: what it asks, and the rows that it makes."""
        if kind_of(stage) == "rows":
            return list(_lines(self._sound_rows(stage, _copied(_repeated(tables[0])))))
        talk = self._sound_talk(stage, tuple(map(_copied, tables)))
        asked = [
            {"psets": list(_table(ask.psets).dicts()), "options": dict(ask.options), "until": ask.until}
            for ask in talk.asks
        ]
        return [*asked, *talk.made.table.dicts(), *(parents.tolist() for parents in talk.made.parents)]

    def _works(self) -> Iterator[tuple[str, Any]]:
        """Yield the works of a stage, with the names of what they come from."""
        stage = self._stage("map", "table")
        if kind_of(stage) == "map":
            yield "what work() has returned", _work_of(stage)
            return
        for tables in self._given():
            for number, ask in enumerate(self._sound_talk(stage, tables).asks, 1):
                yield f"what it has asked for, number {number},", _work_of(_stage_of(ask))

    def _must_be_untouched(self, made: Table, tables: Sequence[Table], parents: Sequence[Parents]) -> None:
        """Compare rows with their parents; a column of several tables has the value of one of these."""
        for key in made.keys:
            sources = [
                (unpack(table.column(key)), numbers)
                for table, numbers in zip(tables, parents, strict=bool(parents))
                if key in table.keys and key not in self.touches
            ]
            for row, value in enumerate(unpack(made.column(key)) if sources else ()):
                were = [values[numbers[row]] for values, numbers in sources if numbers[row] >= 0]
                claim(
                    not were or typed_bytes(value) in set(map(typed_bytes, were)),
                    f"in the column {key!r}, row {row} has {_shown(value)}, where its parent has "
                    f"{' and '.join(map(_shown, were))}",
                )


@attrs.frozen(eq=False)
class _Talk:
    """What a whole-table stage has asked for and what it made in the end; or what is wrong with either."""

    asks: list[Ask]
    made: Any = None
    wrong_ask: str = ""
    wrong_outcome: str = ""


@attrs.define(eq=False)
class _UnderWay:
    """What a whole-table stage has asked one worker for and was not told yet."""

    ask: Ask
    count: int = 0
    rows: list[tuple[int, Any]] = attrs.field(factory=list)  # with their answers, or why they have none

    def add(self, count: int, results: MapResults) -> None:
        """Add psets; results come in their order."""
        lost = {one.row: one.failure for one in results._lost}
        rows = iter(results.iterdicts())
        self.rows += [(self.count + row, lost[row] if row in lost else next(rows)) for row in range(count)]
        self.count += count

    def told(self, last_first: bool) -> Answers:
        """Return what comes next."""
        now = [self.rows.pop(-1 if last_first else 0)] if self.rows else []
        rows = [(number, row) for number, row in now if not isinstance(row, Failure)]
        lost = [(number, row) for number, row in now if isinstance(row, Failure)]
        return Answers(rows, lost, len(self.rows), slots=2, seconds={number: 0.001 for number, _ in rows})


def _skip_unless(condition: bool, reason: str) -> None:
    if not condition:
        raise unittest.SkipTest(reason)


def _table(psets: Any) -> Table:
    from paramsurvey.tables import Table, table_of

    return psets if isinstance(psets, Table) else table_of(psets)


def _columns_in(tables: Sequence[Table]) -> tuple[Columns, ...]:
    """Return what is known of tables; one without rows might have had other columns."""
    return tuple(Columns(table.keys, open=table.count == 0) for table in tables)


def _opened(columns: Columns) -> Columns:
    return Columns(columns.names, open=True)


def _listed(known: Sequence[Columns]) -> str:
    return ", ".join(map(repr, known))


def _unlabelled(table: Table) -> Table:
    """Return the same table as a row-wise stage gets it."""
    return attrs.evolve(table, index=None)


def _copied(table: Table) -> Table:
    """Return a table of its own, so that a stage which changes its tables fails by that alone."""
    copy: Table = pickle.loads(dumps_by_value(table))
    return copy


def _repeated(table: Table) -> Table:
    """Return the rows of a table again and again, until there are many."""
    if not table.count:
        return table.slice(0, 0)
    rows = np.tile(np.arange(table.count, dtype=np.int64), -(-_LONG // table.count))
    many = _unlabelled(table.take(rows))
    return attrs.evolve(
        many, columns=[typed(column) if isinstance(column, list) else column for column in many.columns]
    )


def _in_lists(table: Table) -> Table:
    """Return a table that has its columns as lists, as those of a few rows come."""
    return attrs.evolve(table, columns=[list(unpack(column)) for column in table.columns])


def _with_odd_values(table: Table, name: Hashable) -> Table:
    from paramsurvey.tables import Table

    values = [_ODD_VALUES[row % len(_ODD_VALUES)] for row in range(table.count)]
    return table.beside(Table((name,), [values], table.count))


def _emptied(tables: tuple[Table, ...]) -> Iterator[tuple[Table, ...]]:
    """Yield the tables without rows: all of them, and each alone; with their columns, and without."""
    from paramsurvey.tables import Table

    for empty in ([table.slice(0, 0) for table in tables], [Table((), [], 0)] * len(tables)):
        yield tuple(empty)
        for place in range(len(tables)) if len(tables) > 1 else ():
            yield (*tables[:place], empty[place], *tables[place + 1 :])


def _described(tables: Sequence[Table]) -> str:
    told = [f"{table.count} rows of {table.keys!r}" if table.keys else f"{table.count} rows" for table in tables]
    return f"a table of {told[0]}" if len(told) == 1 else f"tables of {' and '.join(told)}"


def _snapshot(table: Table) -> list[bytes]:
    """Return bytes that change when anything of a table does."""
    columns = [typed_bytes(list(unpack(column))) for column in table.columns]
    own = [typed_bytes((key, str(series.dtype), list(series))) for key, series in table.typed.items()]
    return [typed_bytes((table.keys, table.count)), *columns, *own]


def _bytes_of(value: Any) -> bytes:
    try:
        return typed_bytes(value)
    except Exception:  # noqa: BLE001 - what cannot be pickled, which is not for the test that compares to find out
        return safe_repr(value).encode()


# What a row-wise stage has yielded


def _yielded(stage: Any, table: Table) -> list[Any]:
    made = stage.rows(table)
    return list(islice(made, _MOST_PIECES)) if isinstance(made, Iterable) else [made]


def _lines(made: Sequence[Rows]) -> Iterator[Line]:
    """Yield the rows with their parents."""
    for rows in made:
        yield from zip(rows.parents.tolist(), rows.table.dicts(), strict=True)


def _must_be_the_same_lines(pieces: Sequence[Line], whole: Sequence[Line], size: int) -> None:
    where = f"in slices of {size} rows"
    for (parent, pset), (expected_parent, expected) in zip(pieces, whole, strict=False):
        if parent != expected_parent or typed_bytes(pset) != typed_bytes(expected):
            row = min(parent, expected_parent)
            one, other = (_of_row(row, lines) for lines in (pieces, whole))
            claim(False, f"{where}, row {row} makes {one}, and among all {other}")
    claim(len(pieces) == len(whole), f"{where} there are {len(pieces)} rows in the end, and of all {len(whole)}")


def _of_row(row: int, lines: Sequence[Line]) -> str:
    return ", ".join(_shown(pset) for parent, pset in lines if parent == row) or "nothing"


def _wrong_with_rows(made: Sequence[Any], given: Table) -> str:
    """Say what is wrong with what a row-wise stage has made of a table; nothing if nothing is."""
    if len(made) == _MOST_PIECES:
        return f"rows() has yielded {_MOST_PIECES} pieces of {given.count} rows, and would go on"
    last = 0
    for rows in made:
        if not isinstance(rows, Rows):
            return f"rows() gave {_shown(rows)}: it yields Rows(table, parents)"
        wrong = _wrong_with_table(rows.table) or _wrong_with_parents(rows.parents, rows.table.count, 0, given.count)
        if wrong:
            return f"rows() has yielded Rows, but {wrong}"
        if (np.diff(rows.parents, prepend=last) < 0).any():
            return f"the parents do not ascend: after {last} there are {rows.parents.tolist()!r}"
        last = int(rows.parents[-1]) if len(rows.parents) else last
    return ""


def _wrong_with_parents(parents: Any, count: int, least: int, total: int) -> str:
    if not isinstance(parents, np.ndarray) or parents.dtype != np.int64 or parents.ndim != 1:
        return f"its parents are {_shown(parents)}, not an array of int64"
    if len(parents) != count:
        return f"there are {len(parents)} parents of {count} rows"
    outside = parents[(parents < least) | (parents >= total)]
    return f"the parent {outside[0]} is no position in a table of {total} rows" if len(outside) else ""


def _wrong_with_table(table: Any) -> str:
    """Say what is wrong with a table that a stage has made itself; nothing if nothing is."""
    from paramsurvey.tables import Table

    if not isinstance(table, Table):
        return f"its table is {_shown(table)}, no Table"
    if len(set(table.keys)) < len(table.keys) or len(table.columns) != len(table.keys):
        return f"its table has {len(table.columns)} columns with the names {table.keys!r}"
    if not RESERVED.isdisjoint(table.keys):
        return f"its table has a column {min(RESERVED.intersection(table.keys))!r}, which is a name of ours"
    column: Any
    for key, column in zip(table.keys, table.columns, strict=True):
        if not isinstance(column, list | array | np.ndarray | memoryview):
            return f"the column {key!r} of its table is {_shown(column)}: it is a list or an array"
        if len(column) != table.count:
            return f"the column {key!r} of its table of {table.count} rows has {len(column)} values"
    return _wrong_with_typed(table)


def _wrong_with_typed(table: Table) -> str:
    """Say whether the columns as a frame has them are other ones: what users see would not be what workers get."""
    for key, series in table.typed.items():
        if key not in table.keys or len(series) != table.count:
            return f"its table has {len(series)} typed values for the column {key!r}"
        shown = unpack(_table(series.to_frame(name="values")).column("values"))
        for row, (value, own) in enumerate(zip(unpack(table.column(key)), shown, strict=True)):
            if value is not HOLE and typed_bytes(value) != typed_bytes(own):
                return f"its table has {_shown(value)} for the column {key!r} of row {row}, and typed {_shown(own)}"
    return ""


# What a whole-table stage has asked for and returned


def _stage_of(ask: Ask) -> Map:
    return Map(ask.worker, **{"name": "asked", **ask.options})


def _work_of(stage: Any) -> Any:
    return stage.work(stage.name, Options(**getattr(stage, "given", {})), None)


def _survey_here(stage: Any, table: Table) -> MapResults:
    """Call the worker of a map stage for every row, in this process."""
    from paramsurvey.results import MapResults
    from paramsurvey.stats import PerfStats
    from paramsurvey.tables import joined

    work = _work_of(stage)
    _skip_unless(isinstance(work, Work), f"work() has returned {_shown(work)}, no Work")
    part = thawed(run_chunk(InProcess(work), tuple(table.rows(0, table.count, 1))))
    finished, _ = joined(table, [(0, part)])
    missing = np.array([row for row, _ in part.failures], dtype=np.int64)
    lost = [Lost(row, failure, 1) for row, failure in part.failures]
    progress = MapProgress(table.count, finished=finished.count, failures=len(lost), exceptions=len(lost))
    return MapResults(finished, table.take(missing), lost, progress, PerfStats(), stage.name)


def _asked(ask: Any) -> tuple[Any, str]:
    """Return an ask, with psets that can be read more than once; or what is wrong with it."""
    if not isinstance(ask, Ask):
        return ask, f"it has yielded {_shown(ask)}: a stage yields Ask(worker, psets)"
    try:
        _stage_of(ask)
        table = _table(ask.psets)
    except Exception as exc:  # noqa: BLE001 - whatever map() would say
        return ask, f"it has asked for what map() refuses: {exc}"
    return (attrs.evolve(ask, psets=table) if isinstance(ask.psets, Iterator) else ask), ""


def _ended(asks: list[Ask], outcome: Any, tables: tuple[Table, ...]) -> _Talk:
    """Take what a whole-table stage has returned."""
    try:
        made = outcome if isinstance(outcome, Made) else Made(_table(outcome), ())
    except Exception as exc:  # noqa: BLE001 - the user's own object may raise anything
        return _Talk(asks, wrong_outcome=f"it has returned {_shown(outcome)}, which is no table: {exc}")
    wrong = _wrong_with_table(made.table)
    if not wrong and made.parents != ():
        wrong = _wrong_with_origins(made.parents, made.table.count, tables)
    return _Talk(asks, made, wrong_outcome=wrong)


def _wrong_with_origins(parents: Any, count: int, tables: tuple[Table, ...]) -> str:
    if not isinstance(parents, tuple) or len(parents) != len(tables):
        return f"the parents in Made are {_shown(parents)}, not a tuple of one array for each of {len(tables)} tables"
    wrong = (_wrong_with_parents(each, count, -1, table.count) for each, table in zip(parents, tables, strict=True))
    return next(filter(None, wrong), "")
