"""Ctrl-C while pandas and its kin are being imported: a `KeyboardInterrupt`, and nothing is broken afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import import_drivers
import pytest
from conftest import unmeasured

from paramsurvey.lazy import IMPATIENT, interrupts_held

DRIVERS = Path(import_drivers.__file__)


@pytest.mark.parametrize("what", import_drivers.PROGRAMS)
def test_ctrl_c_at_any_moment_of_the_first_import_is_a_keyboard_interrupt(tmp_path, what):
    """Without care it may be an `ImportError`: "Unable to import required dependency numpy"."""
    done = subprocess.run(
        [sys.executable, DRIVERS, what, "3", "37"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
        cwd=tmp_path,
        env=unmeasured(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    ended = json.loads(done.stdout)
    assert len(ended) >= 4
    assert {first for first, _ in ended.values()} <= {"KeyboardInterrupt", "Interrupted"}, ended
    assert {second for _, second in ended.values()} == {"well"}, ended


@pytest.fixture
def default_handler():
    """Have SIGINT do here what it does in programs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def strike(times, error, seen):
    """Press Ctrl-C while imports hold it."""
    with interrupts_held():
        for _ in range(times):
            seen.append("held")
            signal.raise_signal(signal.SIGINT)
        if error is not None:
            raise error


@pytest.mark.usefixtures("default_handler")
@pytest.mark.parametrize("error", [None, ImportError("broken")])
def test_an_interrupt_that_was_held_comes_out_at_the_end_also_if_something_else_went_wrong(error):
    seen = []
    with pytest.raises(KeyboardInterrupt) as caught:
        strike(2, error, seen)
    assert seen == ["held"] * 2
    assert caught.value.__context__ is error
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_handler")
def test_the_third_ctrl_c_does_not_wait():
    seen = []
    with pytest.raises(KeyboardInterrupt):
        strike(10, None, seen)
    assert len(seen) == IMPATIENT


@pytest.mark.usefixtures("default_handler")
def test_handlers_of_others_and_other_threads_are_left_alone():
    seen = []

    def own(number, frame):
        seen.append(number)

    signal.signal(signal.SIGINT, own)
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
    assert seen == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def in_a_thread():
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen == [signal.SIGINT, signal.default_int_handler]
