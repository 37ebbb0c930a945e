"""Workers of the tests of the ray backend."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


def counts_who_runs(pset, system_kwargs, folder):
    here = Path(folder) / f"running-{pset['n']}-{os.getpid()}"
    here.touch()
    time.sleep(0.05)
    running = len(list(Path(folder).glob("running-*")))
    here.unlink()
    return {"running": running}


def tells_its_resources(pset, system_kwargs, user_kwargs):
    import ray

    given = ray.get_runtime_context().get_assigned_resources()
    return {"cpus": given.get("CPU", 0), "odd": given.get("odd", 0), "seen": pset["ray"]}


def echoes(pset, system_kwargs, user_kwargs):
    return {"echo": pset["x"], "seed": system_kwargs["seed"]}


def writes_to_its_frame(pset, system_kwargs, user_kwargs):
    user_kwargs["frame"].loc[pset["n"], "x"] = 1.0
    return {"array_is_ours": bool(user_kwargs["array"].flags.writeable)}


def makes_megabytes(pset, system_kwargs, user_kwargs):
    return {"array": np.full(pset["size"], pset["n"], dtype="i8")}


def prints(pset, system_kwargs, user_kwargs):
    print("n", pset["n"])
    return {"pid": os.getpid()}


def adds_up(pset, system_kwargs, user_kwargs):
    return {"total": int(pset["array"].sum()), "is_writable": bool(pset["array"].flags.writeable)}


def refuses(pset, system_kwargs, user_kwargs):
    raise ValueError("not with me")


def _leave_a_mark(pset, folder):
    import ray

    where = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "nowhere"
    (Path(folder) / f"here-{where}-{os.urandom(4).hex()}").touch()
    time.sleep(0.25)


def says_where(pset, system_kwargs, folder):
    _leave_a_mark(pset, folder)
    return {"square": pset["n"] ** 2}


def adds_one(pset, system_kwargs, folder):
    _leave_a_mark(pset, folder)
    return {"more": pset["square"] + 1}


def value_of(pset, system_kwargs, folder):
    _leave_a_mark(pset, folder)
    return {"value": sum((item + 1) ** 2 % 5 for item in (pset["candidate"], *pset["picked"]))}
