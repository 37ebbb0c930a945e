"""Workers of greedy searches that run in processes: importable, because worker processes import them."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path


def letters(pset, system_kwargs, user_kwargs):
    """Count the letters that some words have together."""
    return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}


def covered(pset, system_kwargs, user_kwargs):
    """Count what some sets of numbers have together; some take their time, and never the same."""
    chance = random.Random(f"{os.getpid()} {time.perf_counter_ns()}")
    time.sleep(chance.choice([0, 0, 0.001, 0.004]))
    sets = user_kwargs["sets"]
    union = set().union(*(sets[key] for key in [*pset["picked"], pset["candidate"]]))
    return {"covered": len(union), "size": len(pset["picked"]) + 1}


def fails_in_every_way(pset, system_kwargs, user_kwargs):
    """Answer like `covered`, but for some of the sets."""
    key = pset["candidate"]
    if key == "raises":
        raise ValueError("not this one")
    if key == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if key == "hangs":
        time.sleep(3600)
    return {"covered": len(set(key) | set("".join(pset["picked"])))}


def fails_while_alone(pset, system_kwargs, user_kwargs):
    if pset["candidate"] == "abcdef" and not pset["picked"]:
        raise ValueError("not alone")
    return letters(pset, system_kwargs, user_kwargs)


def prints_and_fails_while_alone(pset, system_kwargs, user_kwargs):
    print(pset["candidate"])
    return fails_while_alone(pset, system_kwargs, user_kwargs)


def tells_its_seed(pset, system_kwargs, user_kwargs):
    return {**letters(pset, system_kwargs, user_kwargs), "seed": system_kwargs["seed"]}


def fails_at_first(pset, system_kwargs, user_kwargs):
    if system_kwargs["attempt"] == 1:
        raise ValueError("not yet")
    return letters(pset, system_kwargs, user_kwargs)


def waits_at_the_third(pset, system_kwargs, user_kwargs):
    if len(pset["picked"]) == 2:
        Path(user_kwargs).touch()
        time.sleep(3600)
    return letters(pset, system_kwargs, user_kwargs)


def fails(pset, system_kwargs, user_kwargs):
    raise ValueError("never")


# Stages of an evaluation


def word(pset, system_kwargs, user_kwargs):
    return {"word": "".join([*pset["picked"], pset["candidate"]])}


def different(pset, system_kwargs, user_kwargs):
    if user_kwargs and pset["candidate"] in user_kwargs:
        raise LookupError(f"{pset['candidate']} is not allowed")
    return {"different": len(set(pset["word"]))}


def seed(pset, system_kwargs, user_kwargs):
    return {"seed": system_kwargs["seed"], "stage": system_kwargs["name"]}
