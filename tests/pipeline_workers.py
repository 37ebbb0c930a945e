"""Workers of pipelines: importable, because worker processes import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

PATIENCE = 15.0
"""Seconds after which a worker that waits for another one gives up."""


def square(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2}


def half(pset, system_kwargs, user_kwargs):
    return {"half": pset["n"] / 2}


def negated(pset, system_kwargs, user_kwargs):
    return {"negated": -pset["n"]}


def stamp(pset, system_kwargs, user_kwargs):
    """Tell what the worker was told."""
    return {
        "name": system_kwargs["name"],
        "attempt": system_kwargs["attempt"],
        "seed": system_kwargs["seed"],
        "said": user_kwargs,
    }


def pid(pset, system_kwargs, user_kwargs):
    return {"pid": os.getpid()}


def nothing(pset, system_kwargs, user_kwargs):
    return None


def up_to(pset, system_kwargs, user_kwargs):
    """Answer with a list of as many numbers as the pset says."""
    return {"found": list(range(pset["n"]))}


def sometimes(pset, system_kwargs, user_kwargs):
    """Answer with a key that not every row has."""
    return {"extra": pset["n"]} if pset["n"] % 2 else {}


def mixture(pset, system_kwargs, user_kwargs):
    """Answer with values that no dtype but object can hold together."""
    return {"value": [2**53 + 1, 0.5, None, "text", 2**80, True][pset["n"] % 6]}


def exact(pset, system_kwargs, user_kwargs):
    """Answer with ints among floats that are no floats."""
    return {"value": 2**53 + 1 if pset["n"] % 2 else 0.5}


def fails_at_odd(pset, system_kwargs, user_kwargs):
    if pset["n"] % 2:
        raise ValueError(f"no answer for {pset['n']}")
    return {"even": pset["n"]}


def fails_at_three(pset, system_kwargs, user_kwargs):
    if pset["n"] == 3:
        raise ValueError("three is too many")
    return {"checked": True}


def fails_always(pset, system_kwargs, user_kwargs):
    raise ValueError(f"never {pset['n']}")


def succeeds_at_the_third_attempt(pset, system_kwargs, user_kwargs):
    if pset["n"] == 2 and system_kwargs["attempt"] < 3:
        raise ValueError("not yet")
    return {"attempts": system_kwargs["attempt"]}


def exits_at_two(pset, system_kwargs, user_kwargs):
    if pset["n"] == 2:
        os._exit(7)
    return {"survived": True}


def is_killed_at_two(pset, system_kwargs, user_kwargs):
    if pset["n"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"survived": True}


def hangs_at_two(pset, system_kwargs, user_kwargs):
    if pset["n"] == 2:
        time.sleep(3600)
    return {"survived": True}


def total_of_group(pset, system_kwargs, user_kwargs):
    """The worker of a `Reduce`."""
    return {"total": sum(row["n"] for row in pset["group"]), "rows": len(pset["group"])}


def fails_for_group_b(pset, system_kwargs, user_kwargs):
    if pset["kind"] == "b":
        raise ValueError("not b")
    return {"rows": len(pset["group"])}


def takes_a_while(pset, system_kwargs, user_kwargs):
    """Take as many microseconds as the pset says, of this process's time."""
    until = time.perf_counter() + pset.get("wait", 0) * 1e-6
    while time.perf_counter() < until:
        pass
    return {"waited": pset.get("wait", 0)}


# Workers that wait for one another: by files in the folder user_kwargs["folder"]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path.name} never came")
        time.sleep(0.002)


def ends_when_a_second_stage_has_answered(pset, system_kwargs, user_kwargs):
    """The straggler of a first stage; the others are done at once."""
    if pset["n"] == 0:
        _wait_for(Path(user_kwargs["folder"]) / "answered")
    return {"first": pset["n"]}


def says_that_it_has_answered(pset, system_kwargs, user_kwargs):
    (Path(user_kwargs["folder"]) / "answered").touch()
    return {"second": pset["first"]}


def left_meets_right(pset, system_kwargs, user_kwargs):
    """Begin, and end when the other branch has begun."""
    return {"left": _meet("left", "right", user_kwargs)}


def right_meets_left(pset, system_kwargs, user_kwargs):
    return {"right": _meet("right", "left", user_kwargs)}


def _meet(mine, theirs, user_kwargs):
    folder = Path(user_kwargs["folder"])
    (folder / mine).touch()
    _wait_for(folder / theirs)
    return True


def counts_its_calls(pset, system_kwargs, user_kwargs):
    """Leave a file for every call."""
    folder = Path(user_kwargs["folder"])
    (folder / f"called-{pset['n']}").touch()
    return {"counted": True}


# The worker of random pipelines

MIXTURE = [2**53 + 1, 0.5, None, "text", 2**80, True, -0.0, float("nan")]


def at_random(pset, system_kwargs, user_kwargs):
    """Answer in one of several ways with the column that `user_kwargs` names, after a while that depends on the row."""
    n, column, kind = pset["n"], user_kwargs["column"], user_kwargs["kind"]
    if waits := user_kwargs.get("waits"):
        _be_busy(waits[n % len(waits)])
    if kind == "fails" and n % 3 == 1:
        raise ValueError(f"no answer for {n}")
    if kind == "tried twice" and n % 3 == 1 and system_kwargs["attempt"] == 1:
        if user_kwargs["is_deadly"]:
            os._exit(7)
        raise ValueError("not yet")
    if kind == "sometimes" and n % 2:
        return {}
    if kind == "nothing":
        return None
    if kind == "list":
        return {column: [MIXTURE[place] for place in range(n % 4)]}
    if kind == "dicts":
        return {column: [{f"{column}x": place, **({f"{column}y": n} if place % 2 else {})} for place in range(n % 4)]}
    return {column: MIXTURE[n % len(MIXTURE)] if kind == "mixture" else 3 * n + 1}


def _be_busy(microseconds):
    until = time.perf_counter() + microseconds * 1e-6
    while time.perf_counter() < until:
        pass


def group_at_random(pset, system_kwargs, user_kwargs):
    """The same for a `Reduce`."""
    return {user_kwargs["column"]: sum(row["n"] for row in pset["group"])}
