"""The driver's side of the local pool: who runs what, what came back, who has died.

Who owns what
-------------
`Pool._lock` guards everything that a submission touches: the processes, their tasks and outboxes, and the list of idle
ones. It is held for microseconds.

`Pool._reactor` is held by the one thread that reads pipes, uses the selector, closes descriptors and completes
futures. It completes them without `_lock`, because their callbacks are somebody else's code. That thread is the
pool's own, which is there so that deadlines are kept and pipes are read whatever the user's threads do; but as long
as a thread that waits for futures offers to do the work (`drive`), the pool's own only looks in every
`STANDBY_SECONDS`. To wake a thread that waits costs 30 us and more, several times what the work itself costs.

Whoever needs both takes `_reactor` first.

The life of a process
---------------------
::

    started ──► busy ◄──► idle ──► retired (its task pipe is closed; it leaves by itself)
                 │                    │
                 └──► ending ─────────┴──► ended (the guard has reaped it; its tasks are resolved)

*Ending* begins with a kill request: a deadline has passed, `kill` was called, or its pipe ended while it still lived.
A process has ended only when the guard says so, which may be later than the end of its pipe. Only then are its last
frames read and its tasks resolved, so a part that was written before a death is never lost.

A task's end is decided in one place, `_resolve`: a result frame, or the end of its process.

Who ends what
-------------
The guard owns the worker processes, and this pool owns the guard; each is ended by its owner, with SIGKILL in the end,
which a stopped process obeys as well. So a worker that was stopped (SIGSTOP) is killed by the guard like one that
hangs: at its deadline, or when the pool closes. And a guard that was stopped is for the pool to deal with. While it
owes an answer (a process to be started or killed), it is asked for a sign of life; if it gives none, it is continued,
and, if that does not help, killed. What follows is the same as if somebody else had killed it (`_guard_is_gone`): its
workers end with it, and rows go to others. A process that cannot be killed, because it waits for a disk, is no reason
for that: its guard answers.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from paramsurvey.backends.multiprocessing import slot as words
from paramsurvey.backends.multiprocessing.frames import Frame, FrameReader, Kind, Outbox, encode, widen
from paramsurvey.backends.multiprocessing.messages import MESSAGE, Verb
from paramsurvey.engine.columns import Column, Keys, is_plain
from paramsurvey.engine.pickling import dumps, dumps_by_value, thaw
from paramsurvey.engine.records import (
    LOADING,
    Died,
    DiedLoading,
    Displaced,
    GivenBack,
    Killed,
    Part,
    TaskLost,
    TaskOptions,
    TimedOut,
    Unreadable,
    Unsendable,
)
from paramsurvey.engine.worker import run_chunk, safe_repr
from paramsurvey.errors import BackendError

TICK_SECONDS = 0.05
STANDBY_SECONDS = 0.02
HANDOVER_SECONDS = 0.001
"""So long is the pool's own thread given to let go of the reactor, also by somebody who has no time to wait: else he
would hold the interpreter's lock that it needs for that, and nobody would read what has come."""
MOST_GUARDS = 3
PIPE_GRACE_SECONDS = 0.5
LEAVE_SECONDS = 1.0
GUARD_ASKED_SECONDS = 2.0
"""So long does the guard owe an answer before it is asked whether it is there,"""
GUARD_PATIENCE_SECONDS = 30.0
"""so long before it is killed,"""
GUARD_DISMISSED_SECONDS = 6.0
"""and so long if nobody wants anything of it any more but its end."""
MOST_SLOTS = 4096
MOST_SELECTED = 1024
"""`select`, which alone can wait for microseconds, knows no higher descriptors."""
_GRACE = {None: 2.0, LOADING: 60.0}
"""Seconds that a process has beyond the ``timeout`` to begin a task at all, and to import what the worker needs."""
_WITH_THE_GUARD = "the process that starts the worker processes was killed, and they with it"
_CLOSED_ITS_PIPE = "it closed its pipe to the driver, and was ended"
_WROTE_TO_ITS_PIPE = "something of its own was written to its pipe to the driver, and it was ended"

Completion: TypeAlias = Callable[[], None]
"""Something to be called without the lock: a future's end, a part's announcement."""


@attrs.define(eq=False, repr=False)
class Task:
    """A submission: what was sent, and who waits for it."""

    ticket: int
    future: Future[Any]
    options: TaskOptions
    began: float
    seen_index: int | None = None  # the row that was running at the last look,
    seen_since: float = 0.0  # and when it was first seen
    last_part: float = 0.0
    settle_at: float | None = None  # when to look how far it has come, after rows were taken back


@attrs.define(eq=False, repr=False)
class Process:
    """A worker process as the driver sees it."""

    number: int
    slot: memoryview
    place: int
    task_pipe: int
    result_pipe: int
    reader: FrameReader
    pid: int | None = None
    tasks: deque[Task] = attrs.field(factory=deque)
    outbox: Outbox = attrs.field(factory=Outbox)
    rows_done: int = 0
    pipe_ended_at: float | None = None  # it is dead, or has closed its descriptors
    is_outdated: bool = False  # it leaves when it has done what it has
    retired_at: float | None = None  # its task pipe is closed; it should leave by itself
    ending: Callable[[int | None], TaskLost] | None = None  # why it was killed, told the row that was running

    @property
    def retired(self) -> bool:
        """Whether it has been told to leave."""
        return self.retired_at is not None

    @property
    def is_usable(self) -> bool:
        """Whether it may be given a task."""
        return not self.retired and self.ending is None and self.pipe_ended_at is None

    def current_index(self) -> int | None:
        """Return the row its first task is running; None if it has not begun that task."""
        if not self.tasks or self.slot[words.TICKET] != self.tasks[0].ticket:
            return None
        return self.slot[words.INDEX]


def _is_plain(rows: tuple[Any, ...]) -> bool:
    """Whether plain pickle can carry a chunk: if there are only numbers and text in it, or lists of them."""
    return _are_plain(rows[0]) and all(is_plain(column) or _is_of_plain_lists(column) for column in rows[1])


def _is_of_plain_lists(column: Column) -> bool:
    """Whether it is like the column in which a greedy search tells its picks."""
    return set(map(type, column)) == {list} and all(map(is_plain, column))


@lru_cache(maxsize=64)
def _are_plain(keys: Keys) -> bool:
    return is_plain(list(keys))


class Pool:
    """Runs calls in worker processes, one process per call at a time, whatever the calls do.

    Parameters
    ----------
    folder : Path
        The session's folder for constants, which the guard removes if the driver cannot.
    environment : dict
        The environment variables of the workers.
    last_words : str
        What the guard writes to standard error if this process ends without closing the pool.
    """

    def __init__(self, folder: Path, environment: dict[str, str], last_words: str = "") -> None:
        self._owner = os.getpid()
        self._folder = folder
        self._last_words = last_words
        self._environment = environment
        self._lock = threading.Lock()
        self._processes: dict[int, Process] = {}
        self._idle: list[Process] = []
        self._tasks: dict[Future[Any], Process] = {}
        self._at_work: Counter[object] = Counter()  # processes with tasks, by their owner
        self._new: list[Process] = []  # not yet known to the selector
        self._head_of: Any = None  # the constant of the last chunk
        self._head = b""
        self._corked: set[Process] = set()  # whose outbox is to be written at the next turn
        self._wanting: set[Process] = set()  # whose outbox waits for room in the pipe
        self._watched: set[Process] = set()  # known to the selector as wanting room
        self._places = list(range(MOST_SLOTS))[::-1]
        self._tickets = 0
        self._numbers = 0
        self._settling = 0
        self._closing = False
        self._broken: str | None = None
        self._guards_lost = 0  # in a row, before one was ready
        self._guard_is_ready = False
        self._guard_silent = 0.0  # for how many seconds it has owed an answer and not said anything
        self._guard_minded = 0.0  # when that was last looked at
        self._wakeup, self._wake = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._slots_fd = words.create(MOST_SLOTS)
        self._shared = words.attach(self._slots_fd, MOST_SLOTS)
        self._control, self._guard = start_guard(self._slots_fd, environment, folder, last_words)
        self._control_data = b""
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._woken)
        self._selector.register(self._control, selectors.EVENT_READ, self._hear_guard)
        self._reactor = threading.Lock()
        self._stand_by = threading.Event()  # set when there is no time for that
        self._driving = False
        self._driven_at = 0.0
        self._next_tick = 0.0
        self._thread = threading.Thread(target=self._run, name="paramsurvey-pool", daemon=True)
        self._thread.start()

    # What other threads call

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], options: TaskOptions) -> Future[Any]:
        """Send a call to a process; a new one is started if none is idle."""
        self.refuse_in_a_fork()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._tickets += 1
            task = Task(self._tickets, future, options, began := time.monotonic(), last_part=began)
        try:
            frame = self.frame_of(task.ticket, fn, args)
        except Exception as exc:  # noqa: BLE001 - a user's object may raise anything while it is pickled
            future.set_exception(Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()))
            return future
        with self._lock:
            if self._broken is not None or self._closing:
                raise BackendError(self._broken or "the pool is closed")
            process = self._process_for(task)
            if not process.tasks:
                self._at_work[options.owner] += 1
            process.tasks.append(task)
            process.rows_done += options.rows
            self._tasks[future] = process
            process.outbox.add(frame)
            if len(process.tasks) > 1 and task.began - self._driven_at < STANDBY_SECONDS:
                self._corked.add(process)  # it is busy; whoever drives writes for several tasks at once
            else:
                self._write(process)
        return future

    def frame_of(self, ticket: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Encode a call: what it has in common with others as one pickle inside another, which is made only once."""
        if fn is not run_chunk:
            return encode(Kind.TASK, ticket, (dumps_by_value((fn, args)), ()))
        handle, rows = args
        if handle is not self._head_of:
            self._head_of, self._head = handle, dumps((fn, (handle,)))
        return encode(Kind.TASK, ticket, (self._head, (rows,)), by_value=not _is_plain(rows))

    def kill(self, future: Future[Any]) -> None:
        """End the process that runs this call, and what it has started."""
        if self._is_in_a_fork():
            return
        with self._lock:
            process = self._tasks.get(future)
            if process is not None:
                self._kill(process, lambda _index: Killed("it was killed"))

    def recall(self, future: Future[Any]) -> None:
        """Ask for the rows that this call has not begun."""
        if self._is_in_a_fork():
            return
        with self._lock:
            process = self._tasks.get(future)
            if process is None:
                return
            task = next(task for task in process.tasks if task.future is future)
            if not self._is_in_good_hands(process, task):
                _ask_to_stop(process, task)
            if task.settle_at is None:
                self._settling += 1
            task.settle_at = time.monotonic() + words.SETTLE_SECONDS
        self._wake_up()

    def renew(self) -> None:
        """Have whatever is submitted by a new owner run in fresh processes."""
        with self._lock:
            for process in list(self._processes.values()):
                process.is_outdated = True
                if process in self._idle:
                    self._retire(process)

    def pids(self) -> list[int]:
        """Return the process numbers of the workers that have started."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.pid is not None]

    def close(self) -> None:
        """Kill what is busy, let the idle leave, and wait for all of them."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._stand_by.set()
            for process in list(self._processes.values()):
                if process.tasks:
                    self._kill(process, lambda _index: Killed("the pool was closed"))
                else:
                    self._retire(process)
        self._wake_up()
        self._thread.join()
        self._dismiss_guard()
        for sock in (self._wakeup, self._wake):
            sock.close()
        self._selector.close()
        os.close(self._slots_fd)

    def _dismiss_guard(self) -> None:
        """Tell the guard that there is nothing more to do, and wait for its end.

        Its end of the connection closes with it. That is waited for first, because `Popen.wait` with a time-out sleeps
        for ever longer between two looks. Nothing is lost if it has to be killed: there are no workers any more.
        """
        try:
            self._guard.send_signal(signal.SIGCONT)  # it may have been stopped
            self._control.shutdown(socket.SHUT_WR)
            self._control.settimeout(GUARD_DISMISSED_SECONDS)
            while self._control.recv(4096):
                pass
        except OSError:  # it takes too long, or is gone already
            pass
        self._control.close()
        try:
            self._guard.wait(timeout=PIPE_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def refuse_in_a_fork(self) -> None:
        """Raise `BackendError` in a fork of the program, where nothing of this can be used.

        What is done to the pipes and the guard there would reach the program's workers; the pool's thread is not there,
        and its locks may be held for ever.
        """
        if self._is_in_a_fork():
            raise BackendError(
                f"these worker processes belong to process {self._owner}, of which this one is a fork: open a session "
                "here, with paramsurvey.Session()"
            )

    def _is_in_a_fork(self) -> bool:
        return os.getpid() != self._owner

    # Below here: with the lock

    def _process_for(self, task: Task) -> Process:
        options = task.options
        if options.may_queue and (process := self._least_busy_of(options.owner)):
            return process
        while self._idle:
            process = self._idle.pop()
            if not process.is_usable:
                continue
            if _is_used_up(process, options):
                self._retire(process)
                continue
            return process
        return self._start()

    def _least_busy_of(self, owner: object) -> Process | None:
        least, fewest = None, 1 << 30
        for process in self._processes.values():
            tasks = process.tasks
            if tasks and len(tasks) < fewest and tasks[-1].options.owner is owner and process.is_usable:
                least, fewest = process, len(tasks)
        return least

    def _start(self) -> Process:
        if not self._places:
            raise BackendError(f"there are {MOST_SLOTS} worker processes already; give a smaller ncores=")
        child_reads, we_write, we_read, child_writes = self._pipes()
        for fd in (we_write, we_read):
            os.set_blocking(fd, False)
            widen(fd)
        place = self._places.pop()
        self._numbers += 1
        slot = words.words_of(self._shared, place)
        for word in range(words.SLOT_WORDS):
            slot[word] = 0
        process = Process(self._numbers, slot, place, we_write, we_read, FrameReader(we_read))
        self._processes[process.number] = process
        try:
            message = MESSAGE.pack(Verb.START, process.number, place)
            socket.send_fds(self._control, [message], [child_reads, child_writes])
        except OSError:  # the guard is gone, or has not read for long; the pool's thread then resolves all tasks
            self._guard.kill()
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self._new.append(process)
        self._wake_up()
        return process

    def _pipes(self) -> tuple[int, int, int, int]:
        """Make two pipes, for which there must be room among the files that this program may have open."""
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += os.pipe()
        except OSError as exc:
            for fd in pipes:
                os.close(fd)
            raise BackendError(
                f"worker process {len(self._processes) + 1} cannot be given pipes: {exc.strerror}; each takes two of "
                "the files that this program may have open: give a smaller ncores=, or raise that limit (ulimit -n)"
            ) from exc
        child_reads, we_write, we_read, child_writes = pipes
        return child_reads, we_write, we_read, child_writes

    def _write(self, process: Process) -> None:
        try:
            if not process.outbox.write(process.task_pipe):
                self._wanting.add(process)
                self._wake_up()
        except OSError:  # it is dead or has closed the pipe: its end is on its way
            process.outbox = Outbox()
            self._note_end_of_pipe(process)

    def _kill(self, process: Process, why: Callable[[int | None], TaskLost]) -> None:
        if process.ending is None:
            process.ending = why
            self._tell_guard(Verb.KILL, process.number)

    def _note_end_of_pipe(self, process: Process) -> None:
        """Give the guard time to tell how it ended; a process that lives on without its pipes is killed (`_tick`)."""
        if process.pipe_ended_at is None:
            process.pipe_ended_at = time.monotonic()
        if process in self._idle:
            self._idle.remove(process)

    def _retire(self, process: Process) -> None:
        """Let an idle process leave by itself."""
        if process in self._idle:
            self._idle.remove(process)
        if not process.retired:
            process.retired_at = time.monotonic()
            os.close(process.task_pipe)

    def _tell_guard(self, verb: Verb, number: int) -> None:
        try:
            self._control.sendall(MESSAGE.pack(verb, number, 0))
        except OSError:  # the guard is gone, or as good as gone; see _start
            self._guard.kill()

    def _wake_up(self) -> None:
        try:
            self._wake.send(b"!")
        except OSError:  # it is full, so the thread will wake up; or closed
            pass

    def drive(self, until: Callable[[], object], timeout: float) -> None:
        """Do the pool's work in this thread until `until` returns something true, or for so many seconds."""
        self.refuse_in_a_fork()
        if not self._take_reactor(timeout):
            return
        try:
            deadline = time.monotonic() + timeout
            while not until():
                left = deadline - time.monotonic()
                self._turn(max(left, 0.0))  # at least once, also if there is no time to wait
                if left <= 0:
                    break
        finally:
            self._driven_at = time.monotonic()
            self._driving = False
            self._reactor.release()

    def doze(self, seconds: float) -> None:
        """Wait until there is something to drive, but no longer than this; also for less than a millisecond."""
        fd = self._selector.fileno()
        if fd < MOST_SELECTED:
            select.select([fd], (), (), seconds)
        else:
            time.sleep(seconds)

    def _take_reactor(self, timeout: float) -> bool:
        if not self._reactor.acquire(blocking=False):
            self._driven_at = time.monotonic()  # the pool's own thread, if it has it, now stands by
            self._wake_up()
            if not self._reactor.acquire(timeout=max(timeout, HANDOVER_SECONDS)):
                return False
        self._driving = True
        return True

    def wake(self) -> None:
        """Have whoever drives look at its condition."""
        self._wake_up()

    # Below here: with the reactor

    def _run(self) -> None:
        """Run the pool's own thread."""
        while not (self._closing and not self._processes):
            standby = self._driven_at + STANDBY_SECONDS - time.monotonic()
            if (self._driving or standby > 0) and not self._closing:
                self._stand_by.wait(STANDBY_SECONDS)
                continue
            with self._reactor:
                try:
                    self._turn(None)
                except Exception as exc:  # a bug of ours must not leave anybody waiting for ever
                    logging.getLogger("paramsurvey").exception("the pool has failed")
                    self._fail(BackendError(f"the pool has failed: {exc!r}; this is a bug in paramsurvey"))
                    return

    def _fail(self, error: BackendError) -> None:
        with self._lock:
            self._broken = str(error)
            futures = list(self._tasks)
        for future in futures:
            if not future.done():
                future.set_exception(error)

    def _turn(self, timeout: float | None) -> None:
        """Wait for something to happen, at most so long, and deal with it."""
        if self._corked:
            with self._lock:
                corked, self._corked = self._corked, set()
                for process in corked:
                    if process.number in self._processes and not process.retired:
                        self._write(process)
        patience = self._patience()
        if patience is None or (timeout is not None and timeout < patience):
            patience = timeout
        for key, mask in self._selector.select(patience):
            key.data(mask)
        now = time.monotonic()
        if now >= self._next_tick or self._settling:
            self._next_tick = now + self._tick(now)
        if self._new or self._wanting or self._watched:
            self._look_after_pipes()

    def _patience(self) -> float | None:
        if self._settling:
            return words.SETTLE_SECONDS
        return TICK_SECONDS if self._tasks or self._closing or len(self._idle) < len(self._processes) else None

    def _woken(self, _mask: int) -> None:
        try:
            self._wakeup.recv(4096)
        except BlockingIOError:
            pass

    def _look_after_pipes(self) -> None:
        """Tell the selector about new processes and about outboxes that wait."""
        with self._lock:
            new, self._new = [process for process in self._new if process.number in self._processes], []
            wanting = {process for process in self._wanting if process.outbox and not process.retired}
            self._wanting = set(wanting)
        for process in new:
            self._selector.register(process.result_pipe, selectors.EVENT_READ, partial(self._read_more, process))
        for process in wanting - self._watched:
            self._selector.register(process.task_pipe, selectors.EVENT_WRITE, partial(self._write_more, process))
        for process in self._watched - wanting:
            if not process.retired:  # else its number may be somebody else's by now
                self._unwatch(process.task_pipe)
        self._watched = wanting

    def _unwatch(self, fd: int) -> None:
        try:
            self._selector.unregister(fd)
        except KeyError:
            pass

    def _write_more(self, process: Process, _mask: int) -> None:
        """The task pipe has room."""
        with self._lock:
            if process.number in self._processes and not process.retired:
                self._write(process)

    def _read_more(self, process: Process, _mask: int) -> None:
        """The result pipe has something, or has ended."""
        self._read(process)
        if process.reader.at_end:
            self._unwatch(process.result_pipe)
            with self._lock:
                if process.number in self._processes:
                    self._note_end_of_pipe(process)
                    if process.reader.is_garbled:
                        self._kill(process, lambda index: _died(index, _WROTE_TO_ITS_PIPE))

    def _read(self, process: Process) -> None:
        for frame in process.reader.read():
            if frame.kind == Kind.PART:
                self._part(process, frame)
            else:
                self._end_task(process, frame)

    def _outcome_of(self, frame: Frame) -> Any:
        """Read a task's last frame; a pool that works for another process passes the frame on instead."""
        return outcome_of(frame)

    def _end_task(self, process: Process, frame: Frame) -> None:
        """Deal with the last frame of a task."""
        outcome = self._outcome_of(frame)
        with self._lock:
            if not process.tasks or process.tasks[0].ticket != frame.ticket:
                return
            task = self._forget(process)
            if not process.tasks and process.is_usable:
                if frame.kind == Kind.UNLOADABLE or process.is_outdated:
                    self._retire(process)  # the next attempt gets a fresh process
                else:
                    self._idle.append(process)
        _resolve(task, outcome)

    def _part(self, process: Process, frame: Frame) -> None:
        """Pass on what has come ahead of a task's end."""
        with self._lock:
            if not process.tasks or process.tasks[0].ticket != frame.ticket:
                return
            task = process.tasks[0]
            task.last_part = time.monotonic()
        try:
            part = part_of(frame)
        except Exception as exc:  # noqa: BLE001 - a user's class may raise anything
            lost = unreadable(exc)
            with self._lock:
                self._kill(process, lambda _index: lost)
        else:
            task.options.on_part(part)

    def _forget(self, process: Process) -> Task:
        """Take a process's first task off the books."""
        task = process.tasks.popleft()
        del self._tasks[task.future]
        if not process.tasks:
            self._note_at_rest(task.options.owner)
        if task.settle_at is not None:
            self._settling -= 1
        return task

    def _note_at_rest(self, owner: object) -> None:
        self._at_work[owner] -= 1
        if not self._at_work[owner]:
            del self._at_work[owner]

    def at_work(self, owner: object) -> int:
        """Return how many processes have tasks of this owner."""
        return self._at_work.get(owner, 0)

    def _tick(self, now: float) -> float:
        """Look at every busy process; return after how many seconds to look again."""
        pause = TICK_SECONDS
        completions: list[Completion] = []
        with self._lock:
            for process in self._processes.values():
                if process.pipe_ended_at is not None and now - process.pipe_ended_at >= PIPE_GRACE_SECONDS:
                    self._kill(process, lambda index: _died(index, _CLOSED_ITS_PIPE))
                if process.retired_at is not None and now - process.retired_at >= LEAVE_SECONDS:
                    self._kill(process, lambda _index: Killed("it did not leave"))
                if process.tasks and process.ending is None:
                    pause = min(pause, self._look_at(process, now, completions))
            self._mind_the_guard(now)
        for completion in completions:
            completion()
        return pause

    def _mind_the_guard(self, now: float) -> None:
        """See whether the guard does what it was told; if it gives no sign of life, have it continued, or replaced.

        What counts is time in which this process was running, too: both may have been stopped, with the whole machine.
        A guard that is yet to start may take any time for that, and is never killed before all is over.
        """
        passed, self._guard_minded = min(now - self._guard_minded, 2 * TICK_SECONDS), now
        if not any(process.pid is None or process.ending is not None for process in self._processes.values()):
            self._guard_silent = 0.0
            return
        before, self._guard_silent = self._guard_silent, self._guard_silent + passed
        if before < GUARD_ASKED_SECONDS <= self._guard_silent:
            self._tell_guard(Verb.READY, 0)
            self._guard.send_signal(signal.SIGCONT)
        patience = GUARD_DISMISSED_SECONDS if self._closing else GUARD_PATIENCE_SECONDS
        if self._guard_silent >= patience and (self._guard_is_ready or self._closing):
            self._guard.kill()

    def _look_at(self, process: Process, now: float, completions: list[Completion]) -> float:
        index = process.current_index()
        for task in process.tasks:
            if task.settle_at is not None and now >= task.settle_at:
                self._settle(process, task, completions)
        task = process.tasks[0]
        if index != task.seen_index or task.seen_since == 0.0:
            task.seen_index, task.seen_since = index, now
        if now - task.last_part >= TICK_SECONDS and index is not None and index > 0:
            process.slot[words.FLUSH] = 1
            process.slot[words.ATTENTION] = 1
        timeout = task.options.timeout
        if timeout is None:
            return TICK_SECONDS
        if now - task.seen_since >= timeout + _GRACE.get(index, 0.0):
            self._kill(process, partial(_timed_out, index, timeout))
        return min(TICK_SECONDS, timeout / 4)

    def _is_in_good_hands(self, process: Process, task: Task) -> bool:
        """Tell whether a task's first row is best left to its process, though that has yet to begin it.

        So it is if another process would have to be started for the row, which is no quicker: on a busy machine, rows
        would go from one process that starts to the next.
        """
        if task is not process.tasks[0] or not all(_is_used_up(idle, task.options) for idle in self._idle):
            return False
        ticket = process.slot[words.TICKET]
        return ticket < task.ticket or (ticket == task.ticket and process.slot[words.INDEX] < 0)

    def _settle(self, process: Process, task: Task, completions: list[Completion]) -> None:
        """See how far a task has come that was asked to stop: the rows after that will not be run."""
        if process.slot[words.STOP] < task.ticket:
            if not self._is_in_good_hands(process, task):
                _ask_to_stop(process, task)
                task.settle_at = time.monotonic() + words.SETTLE_SECONDS
            return
        if process.slot[words.TICKET] == task.ticket:
            index = process.slot[words.INDEX]
            if index == LOADING:
                return  # look again
            first = index + 1 if index >= 0 else None
        else:
            first = 0 if task is not process.tasks[0] or process.slot[words.TICKET] < task.ticket else None
        task.settle_at = None
        self._settling -= 1
        if first is not None:
            notice = GivenBack(first)
            completions.append(lambda: task.options.on_part(notice))

    def _hear_guard(self, _mask: int) -> None:
        try:
            data = self._control.recv(MESSAGE.size * 256)
        except OSError:
            data = b""
        if not data:
            self._guard_is_gone()
            return
        self._guard_silent = 0.0
        data = self._control_data + data
        whole = len(data) // MESSAGE.size * MESSAGE.size
        self._control_data = data[whole:]
        for verb, number, word in MESSAGE.iter_unpack(data[:whole]):
            if verb == Verb.READY:
                self._guards_lost, self._guard_is_ready = 0, True
            elif verb == Verb.STARTED:
                with self._lock:
                    if number in self._processes:
                        self._processes[number].pid = word
            elif verb == Verb.ENDED:
                self._process_ended(number, word)

    def _process_ended(self, number: int, code: int | None) -> None:
        process = self._processes.get(number)
        if process is None:
            return
        self._read(process)  # what it wrote before its end
        with self._lock:
            lost = self._bury(process)
            endings = self._endings(process, lost, code)
        for task, error in endings:
            _resolve(task, error)

    def _bury(self, process: Process) -> list[Task]:
        """Take a dead process off the books; return the tasks it leaves."""
        del self._processes[process.number]
        self._wanting.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        self._unwatch(process.result_pipe)
        if not process.retired:
            self._unwatch(process.task_pipe)
        self._watched.discard(process)
        process.reader.at_end = True  # the selector may have one more event for it in hand
        os.close(process.result_pipe)
        if not process.retired:
            os.close(process.task_pipe)
        lost = list(process.tasks)
        for _ in lost:
            self._forget(process)
        process.tasks.extend(lost)
        return lost

    def _endings(self, process: Process, lost: list[Task], code: int | None) -> list[tuple[Task, TaskLost]]:
        """Say how each task of a dead process ended; its slot still tells what it was doing."""
        index = process.current_index()
        was_killed = code == -signal.SIGKILL
        why = process.ending or (lambda row: _died(row, how_it_ended(code), was_killed=was_killed))
        endings: list[tuple[Task, TaskLost]] = []
        for position, task in enumerate(lost):
            if position > 0:
                error: TaskLost = Killed("the process before it died")
            elif process.ending is None and (index is None or index == LOADING):
                from_outside = index is None or code in (-signal.SIGKILL, -signal.SIGTERM)
                error = DiedLoading(how_it_ended(code), was_killed=from_outside)
            else:
                error = why(index)
                if isinstance(error, Died | TimedOut):
                    error.stage = process.slot[words.STAGE]
            endings.append((task, error))
        process.tasks.clear()
        self._places.append(process.place)
        return endings

    def _guard_is_gone(self) -> None:
        """Nobody looks after the processes any more: end them all, and start another guard for those that follow."""
        self._unwatch(self._control.fileno())
        with self._lock:
            self._control.close()
            self._guard.wait()
            self._guard_is_ready, self._guard_silent = False, 0.0
            self._guards_lost += 1
            if self._guards_lost >= MOST_GUARDS:
                self._broken = f"the guard process of the pool has died {MOST_GUARDS} times; open a new session"
            processes = list(self._processes.values())
            for process in processes:
                process.ending = process.ending or (lambda _index: Displaced(_WITH_THE_GUARD))
            if not self._closing and not self._broken:
                self._control, self._guard = start_guard(
                    self._slots_fd, self._environment, self._folder, self._last_words
                )
                self._control_data = b""
                self._selector.register(self._control, selectors.EVENT_READ, self._hear_guard)
        for process in processes:
            if process.pid is not None:
                _kill_group(process.pid)
            self._process_ended(process.number, -signal.SIGKILL)


def _ask_to_stop(process: Process, task: Task) -> None:
    """Have a process begin no other row of a task."""
    process.slot[words.STOP] = max(task.ticket, process.slot[words.STOP])
    process.slot[words.ATTENTION] = 1


def _is_used_up(process: Process, options: TaskOptions) -> bool:
    """Tell whether a process has run too many psets to be given a task with these options."""
    return bool(options.max_tasks and process.rows_done and process.rows_done + options.rows > options.max_tasks)


def part_of(frame: Frame) -> Part:
    """Return the part in a frame; raises whatever its content raises."""
    return Part._make((*frame.load(), frame.size))


def outcome_of(frame: Frame) -> Any:
    """Return what a task's last frame says: its result, or an exception."""
    try:
        content = frame.load()
    except BaseException as exc:  # noqa: BLE001 - a result's own class may raise anything
        return unreadable(exc)
    if frame.kind == Kind.REFUSED:
        text, stack = content
        return Unsendable(f"it cannot be unpickled in the worker: {text}", stack)
    if frame.kind in (Kind.RAISED, Kind.UNLOADABLE):
        frozen, text = content
        try:
            return thaw(frozen)
        except BaseException:  # noqa: BLE001 - an exception that cannot be unpickled comes as text
            return RuntimeError(text)
    return Part._make((*content, frame.size)) if frame.kind == Kind.LAST_PART else content


def _resolve(task: Task, outcome: Any) -> None:
    """Complete a task's future; not with the lock held, because callbacks are somebody else's code."""
    if isinstance(outcome, BaseException):
        task.future.set_exception(outcome)
    else:
        task.future.set_result(outcome)


def _timed_out(late: int | None, timeout: float, index: int | None) -> TaskLost:
    """Say how a process ended that was killed for the row `late`, if it was still running that when it died."""
    if index != late or late is None:
        return Killed("it had just gone on to another row, or had not begun")
    if late == LOADING:
        return DiedLoading(f"loading the worker took longer than {timeout + _GRACE[LOADING]:g} s")
    return TimedOut(late if late >= 0 else None, f"it took longer than timeout={timeout:g} s")


def unreadable(exc: BaseException) -> Unreadable:
    """Say that what came back cannot be unpickled here."""
    return Unreadable(safe_repr(exc), traceback.format_exc())


def _died(index: int | None, text: str, *, was_killed: bool = False) -> Died:
    place = None if index is None or index < 0 else index
    return Died(place, f"its worker process died: {text}", was_killed=was_killed)


def how_it_ended(code: int | None) -> str:
    """Say how a process ended, from its exit code or minus its signal."""
    if code is None:
        return "nobody knows how"
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    hint = "; if nobody did that, the system was out of memory" if -code == signal.SIGKILL else ""
    return f"it was ended by signal {-code} ({name}){hint}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def start_guard(
    slots_fd: int, environment: dict[str, str], folder: Path, last_words: str
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the guard in a fresh interpreter; return its control socket and its process."""
    import pickle

    ours, theirs = socket.socketpair()
    package_root = str(Path(__file__).resolve().parents[3])
    code = (
        f"import sys; sys.path.insert(0, {package_root!r}); "
        "from paramsurvey.backends.multiprocessing import guard; "
        f"guard.main({theirs.fileno()}, {slots_fd}, {MOST_SLOTS})"
    )
    guard = subprocess.Popen(
        [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code],  # type: ignore[attr-defined]
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno(), slots_fd],
        env=environment,
        start_new_session=True,
    )
    theirs.close()
    ours.settimeout(GUARD_PATIENCE_SECONDS)  # for what is sent: nobody may wait for ever for a guard that does not read
    setup = pickle.dumps({"sys_path": list(sys.path), "folder": str(folder), "last_words": last_words})
    try:
        ours.sendall(len(setup).to_bytes(8, "little") + setup)
    except OSError:  # it could not even start; the pool's thread finds out
        pass
    return ours, guard
