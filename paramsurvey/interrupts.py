"""Ctrl-C: a message to the loop, except where the user's own code runs.

Python raises `KeyboardInterrupt` between any two bytecodes of the main thread; in the middle of the engine it could
lose a finished pset. So while a survey runs, Ctrl-C puts a message into the loop's inbox. Only if the main thread is
inside code of the user's (``out_func``, a worker of the serial backend) is that interrupted at once; and the third
Ctrl-C interrupts whatever runs. Somebody else's handler of SIGINT is left alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from paramsurvey.engine.records import CTRL_C
from paramsurvey.engine.worker import ChunkRun

IMPATIENT = 3
"""So many times has somebody pressed Ctrl-C who no longer cares what is lost."""


@contextmanager
def ctrl_c_calls(notify: Callable[[], None], entrances: frozenset[CodeType]) -> Iterator[bool]:
    """Within the context, have Ctrl-C call `notify`; below the `entrances` it raises `KeyboardInterrupt`, too.

    The context is whether no `KeyboardInterrupt` can strike this thread elsewhere.
    """
    if not _ours_to_handle():
        yield threading.current_thread() is not threading.main_thread()
        return
    user_code = entrances | {ChunkRun._call.__code__, ChunkRun._run_again.__code__}
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
