"""Importing late, fast, and undisturbed: for the package itself, which imports this alone, and what needs pandas."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

IMPATIENT = 3
"""So many times has somebody pressed Ctrl-C who no longer cares what is lost."""


def load(name: str) -> ModuleType:
    """Import a module with the garbage collector paused, which takes an eighth off the time of importing pandas.

    An import makes many objects and no garbage to speak of. They are handed to the oldest generation as they are: else
    the collector would go through all of them as soon as it may, which takes a tenth of that time once more.

    Ctrl-C comes out when that is over (`interrupts_held`).
    """
    if name in sys.modules:
        return importlib.import_module(name)  # it waits if another thread is importing it
    with interrupts_held():
        return _imported(name)


def _imported(name: str) -> ModuleType:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # what somebody has frozen should stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Have Ctrl-C wait until the end of the context, or until somebody presses it a third time.

    In the middle of an import it need not come out as a `KeyboardInterrupt`. C extensions that find a module half
    imported make an `ImportError` of it ("Unable to import required dependency numpy"); in a callback of importlib's
    own it is printed, and ignored; and what was broken off leaves modules behind that cannot be imported again. Where
    somebody else handles SIGINT, or in another thread, nothing is held.
    """
    import signal  # here, because worker processes need neither
    import threading

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    times = 0

    def hold(_signal: int, _frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times >= IMPATIENT:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if times:
            raise KeyboardInterrupt
