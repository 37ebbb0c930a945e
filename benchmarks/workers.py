"""The functions that are surveyed.

Each can be called as paramsurvey calls it, with three arguments, and as all the others do, with the pset alone, so that
everybody runs the same code. numpy is imported where it is needed: workers that only add must not pay for it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Pset: TypeAlias = Mapping[str, Any]

TIMER_SLACK = 0.0003  # seconds; sleep() returns up to this much too late on an ordinary kernel
IMAGE_PIXELS = 125_000  # of 8 bytes: 1 MB
SKY_READS = 5


def add(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, int]:
    """Do as little as a worker can do."""
    return {"c": pset["a"] + pset["b"]}


def add_or_raise(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, int]:
    """Add, but refuse negative numbers."""
    if pset["a"] < 0:
        raise ValueError(f"a is {pset['a']}")
    return {"c": pset["a"] + pset["b"]}


def last_or_raise(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, float]:
    """Take as long as the pset says, but refuse negative numbers."""
    _refuse_negative(pset)
    return last(pset)


def make_image_or_raise(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, Any]:
    """Return an array of 1 MB, but refuse negative numbers."""
    _refuse_negative(pset)
    return make_image(pset)


def read_sky_or_raise(pset: Pset, system_kwargs: object, user_kwargs: Mapping[str, Any]) -> dict[str, float]:
    """Read a few elements of a large array, but refuse negative numbers."""
    _refuse_negative(pset)
    return read_sky(user_kwargs["sky"], pset)


def _refuse_negative(pset: Pset) -> None:
    if pset["a"] < 0:
        raise ValueError(f"a is {pset['a']}")


def last(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, float]:
    """Take as long as the pset says, nearly all of it asleep.

    Asleep, because two workers and the driver share two cores: a spinning worker would be slowed by the driver's work,
    and by other programs, instead of showing how well it is supplied.
    The end is waited for awake: `time.sleep` alone is 5 to 10 % late at 1 ms, and nobody could reach 97 %.
    """
    until = time.perf_counter() + pset["seconds"]
    if pset["seconds"] > TIMER_SLACK:
        time.sleep(pset["seconds"] - TIMER_SLACK)
    while time.perf_counter() < until:
        pass
    return {"lasted": pset["seconds"]}


def make_image(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, Any]:
    """Return an array of 1 MB."""
    import numpy as np

    return {"image": np.full(IMAGE_PIXELS, float(pset["a"]))}


def read_sky(sky: Any, pset: Pset) -> dict[str, float]:
    """Read a few elements of a large array."""
    return {"seen": float(sum(sky[pset["a"] + step] for step in range(SKY_READS)))}


def read_sky_of_kwargs(pset: Pset, system_kwargs: object, user_kwargs: Mapping[str, Any]) -> dict[str, float]:
    """Do the same, with the array where paramsurvey puts it."""
    return read_sky(user_kwargs["sky"], pset)


def read_whole_sky(sky: Any, pset: Pset) -> dict[str, float]:
    """Touch every page of a large array, slowly enough to be watched."""
    time.sleep(0.005)
    return {"seen": float(sky.sum())}


def read_whole_sky_of_kwargs(pset: Pset, system_kwargs: object, user_kwargs: Mapping[str, Any]) -> dict[str, float]:
    """Do the same, with the array where paramsurvey puts it."""
    return read_whole_sky(user_kwargs["sky"], pset)


def die_once(pset: Pset, system_kwargs: Mapping[str, Any], user_kwargs: Mapping[str, Any]) -> dict[str, float]:
    """Tell which process began at what time; the pset that is told to die leaves the time of its death in a file."""
    began = time.time()
    if pset["dies"] and system_kwargs["attempt"] == 1:
        Path(user_kwargs["obituary"]).write_text(repr(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.002)
    return {"process": os.getpid(), "began": began}
