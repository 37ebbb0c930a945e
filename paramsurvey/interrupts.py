"""Ctrl-C: a message to the loop, except where the user's own code runs.

Python raises `KeyboardInterrupt` between any two bytecodes of the main thread; in the middle of the engine it could
lose a finished pset. So while a survey runs, Ctrl-C puts a message into the loop's inbox. Only if the main thread is
inside code of the user's (``out_func``, a worker of the serial backend) is that interrupted at once; and the third
Ctrl-C interrupts whatever runs. Somebody else's handler of SIGINT is left alone.

SIGTERM ends a program at once, and the guard ends its workers; nothing has to be done for that. Only a run that keeps a
journal would rather bring in what is finished: then SIGTERM is such a message, too, and the second one ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from paramsurvey.engine.records import CTRL_C
from paramsurvey.engine.worker import ChunkRun
from paramsurvey.lazy import IMPATIENT

WORKERS = frozenset({ChunkRun._call.__code__, ChunkRun._run_again.__code__})
"""The code in which workers run, in this process if it is the serial backend's."""


@contextmanager
def sigterm_calls(notify: Callable[[], None], entrances: frozenset[CodeType]) -> Iterator[None]:
    """Within the context, have SIGTERM call `notify`; below the `entrances` it raises `KeyboardInterrupt`, too."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(_signal: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, end_at_once)
        notify()
        if _is_below(frame, entrances | WORKERS):
            raise KeyboardInterrupt(CTRL_C)

    def end_at_once(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def ctrl_c_calls(notify: Callable[[], None], entrances: frozenset[CodeType]) -> Iterator[bool]:
    """Within the context, have Ctrl-C call `notify`; below the `entrances` it raises `KeyboardInterrupt`, too.

    The context is whether no `KeyboardInterrupt` can strike this thread elsewhere.
    """
    if not _ours_to_handle():
        yield threading.current_thread() is not threading.main_thread()
        return
    user_code = entrances | WORKERS
    times = 0

    def handle(_signal: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        notify()
        if times >= IMPATIENT or _is_below(frame, user_code):
            raise KeyboardInterrupt(CTRL_C)

    signal.signal(signal.SIGINT, handle)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ours_to_handle() -> bool:
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _is_below(frame: FrameType | None, codes: frozenset[CodeType]) -> bool:
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False
