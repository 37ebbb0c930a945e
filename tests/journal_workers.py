"""Workers of the tests of journals, and what they leave behind when they are called."""

from __future__ import annotations

import os
import time


def note(user_kwargs, text):
    """Write down that a worker was called; one write, so that several may at once."""
    fd = os.open(user_kwargs["calls"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)
    time.sleep(user_kwargs.get("seconds", 0))


def square(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2}


def noted_square(pset, system_kwargs, user_kwargs):
    note(user_kwargs, f"square {pset['n']}")
    return {"square": pset["n"] ** 2}


def noted_half(pset, system_kwargs, user_kwargs):
    note(user_kwargs, f"half {pset['n']} {pset['k']}")
    return {"half": pset["square"] / 2 + pset["k"]}


def fails_at_odd(pset, system_kwargs, user_kwargs):
    if user_kwargs is not None:
        note(user_kwargs, f"odd {pset['n']}")
    if pset["n"] % 2:
        raise ValueError(f"{pset['n']} is odd")
    return {"even": pset["n"]}


def parity(pset, system_kwargs, user_kwargs):
    """Answers with other keys for every other pset."""
    return {"odd": pset["n"]} if pset["n"] % 2 else {"even": str(pset["n"])}


def noted_coverage(pset, system_kwargs, user_kwargs):
    chosen = [*pset["picked"], pset["candidate"]]
    note(user_kwargs, f"coverage {' '.join(chosen)}")
    return {"letters": len(set("".join(chosen)))}


def total(pset, system_kwargs, user_kwargs):
    return {"total": sum(pset.values())}


def described(pset, system_kwargs, user_kwargs):
    return {"flux": 2.5 * pset["x"], "name": f"{pset['source']} at {pset['x']:.1f}", "is_far": pset["x"] > 100}
