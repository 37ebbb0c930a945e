"""The worker process: takes a task from its pipe, runs it, writes what comes of it to another, until the pipe ends.

It is forked by the guard, in which these modules are loaded already, and it imports nothing of the user's until a task
needs it. One thread; whatever it must tell while it is busy is in its slot (`slot`).
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import MutableSequence
from functools import lru_cache
from typing import Any

from paramsurvey.backends.multiprocessing import slot as words
from paramsurvey.backends.multiprocessing.constants import LOADED
from paramsurvey.backends.multiprocessing.frames import Frame, Kind, encode, read_frame, write_all
from paramsurvey.engine.records import BETWEEN, Part, Unloadable
from paramsurvey.engine.worker import frozen_exception, safe_repr

DRIVER_IS_GONE = 3
IDLE_SECONDS, MOST_IDLE_SECONDS = 0.05, 2.0
"""When an idle worker looks whether its constants are still needed, and how seldom in the end."""


class SlotMonitor:
    """A worker's own view of its slot, as the monitor of a running chunk."""

    can_flush = True

    def __init__(self, slot: memoryview, pipe: int) -> None:
        self._slot = slot
        self._pipe = pipe
        self.index: MutableSequence[int] = slot[words.INDEX : words.INDEX + 1]  # type: ignore[assignment]
        self.attention: MutableSequence[int] = slot[words.ATTENTION : words.ATTENTION + 1]  # type: ignore[assignment]
        self.stage: MutableSequence[int] = slot[words.STAGE : words.STAGE + 1]  # type: ignore[assignment]

    def begin(self, ticket: int) -> None:
        """A task has been taken from the pipe."""
        self._slot[words.INDEX] = BETWEEN
        self._slot[words.TICKET] = ticket
        if self._slot[words.STOP] >= ticket:
            self._slot[words.ATTENTION] = 1

    def attend(self) -> tuple[bool, bool]:
        """Return whether a part is wanted, and whether to stop."""
        self._slot[words.ATTENTION] = 0
        part_wanted = bool(self._slot[words.FLUSH])
        self._slot[words.FLUSH] = 0
        return part_wanted, self._slot[words.STOP] >= self._slot[words.TICKET]

    def flush(self, part: Part) -> None:
        """Send a part ahead of the result."""
        self.send(Kind.PART, tuple(part)[:-1])

    def send(self, kind: Kind, obj: Any) -> None:
        """Write a frame; a driver that is gone is the end of this process. Raises what pickling the object raises."""
        frame = encode(kind, self._slot[words.TICKET], obj)
        self._slot[words.INDEX] = BETWEEN
        try:
            write_all(self._pipe, frame)
        except OSError:
            os._exit(DRIVER_IS_GONE)


class TaskPipe(io.FileIO):
    """The pipe from which tasks come; while none does, constants are let go whose survey is over."""

    def readinto(self, buffer: Any) -> int | None:
        """Wait for something to come, and read it."""
        if LOADED:
            self._wait()
        return super().readinto(buffer)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLIN)
        patience = IDLE_SECONDS
        while LOADED and not poll.poll(1000 * patience):
            LOADED.forget()
            patience = min(2 * patience, MOST_IDLE_SECONDS)


def serve(tasks: int, results: int, slot: memoryview) -> None:
    """Run tasks until the pipe ends."""
    monitor = SlotMonitor(slot, results)
    with io.BufferedReader(TaskPipe(tasks, "rb"), 1 << 16) as pipe:
        while (frame := read_frame(pipe)) is not None:
            monitor.begin(frame.ticket)
            _run(frame, monitor)
            _cancel_alarm()
            _flush_output()


def _run(frame: Frame, monitor: SlotMonitor) -> None:
    try:
        head, more = frame.load()
        fn, args = _loaded_head(head)
    except BaseException as exc:  # noqa: BLE001 - a user's class may raise anything while it is unpickled
        monitor.send(Kind.REFUSED, (safe_repr(exc), traceback.format_exc()))
        return
    try:
        result = fn(*args, *more, monitor=monitor)
        if type(result) is Part:
            monitor.send(Kind.LAST_PART, tuple(result)[:-1])
        else:
            monitor.send(Kind.RESULT, result)
    except BaseException as exc:  # noqa: BLE001 - the future carries whatever was raised
        monitor.send(Kind.UNLOADABLE if isinstance(exc, Unloadable) else Kind.RAISED, frozen_exception(exc))


@lru_cache(maxsize=8)
def _loaded_head(head: bytes) -> Any:
    """Return the function and the arguments that many tasks have in common."""
    return pickle.loads(head)


def _cancel_alarm() -> None:
    """Cancel the alarm that a worker has set for a pset and forgot when it raised: it would strike another pset.

    An alarm that rings again and again is somebody's clock, and goes on.
    """
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if left and not interval:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):  # closed or replaced by the user's function
            pass


def leave() -> None:
    """End this process as a program ends, except that no thread of the user's is waited for."""
    try:
        atexit._run_exitfuncs()  # the only way to run them without waiting for threads
    finally:
        _flush_output()
        os._exit(0)
