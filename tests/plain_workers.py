"""Workers that behave, for the tests of everything around them. A module of its own: each process imports it anew."""

import functools
import os
import time


def double(pset, system_kwargs, user_kwargs):
    return {"double": 2 * pset["a"]}


def inverse(pset, system_kwargs, user_kwargs):
    return {"inverse": 1 / pset["a"]}


def whereabouts(pset, system_kwargs, user_kwargs):
    return {"pid": os.getpid(), "cwd": os.getcwd()}


def told(pset, system_kwargs, user_kwargs):
    return {"told": dict(system_kwargs), "user_kwargs": user_kwargs}


def busy(pset, system_kwargs, user_kwargs):
    until = time.monotonic() + 0.03
    while time.monotonic() < until:
        pass


def with_factor(factor, pset, system_kwargs, user_kwargs):
    return {"b": factor * pset["a"]}


class Multiplier:
    """A worker that is an object, with workers among its methods."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {"b": self.factor * pset["a"]}

    def method(self, pset, system_kwargs, user_kwargs):
        return self(pset, system_kwargs, user_kwargs)

    @classmethod
    def by_class(cls, pset, system_kwargs, user_kwargs):
        return cls(3)(pset, system_kwargs, user_kwargs)

    @staticmethod
    def static(p, s, u):
        return {"b": 3 * p["a"]}


def closure():
    """Return a worker that knows what is nowhere in its arguments."""
    factor = 3

    def worker(pset, system_kwargs, user_kwargs):
        return {"b": factor * pset["a"]}

    return worker


def decorated(func):
    """Wrap a worker."""

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


def waits_for(path, monitor=None):
    path.with_suffix(".awaited").touch()
    while not path.exists():
        time.sleep(0.001)


def makes_itself_at_home(pset, system_kwargs, user_kwargs):
    """Change whatever can be changed in a pset; tell what it was like, and its seed after that."""
    came = repr(pset)
    pset["items"].append(pset["n"])
    pset["settings"]["inner"].append("x")
    pset["samples"] += 1
    return {**pset, "came": came, "same": pset["alias"] is pset["settings"]["inner"], "seed": system_kwargs["seed"]}


def keeps_its_hands_off(pset, system_kwargs, user_kwargs):
    return {"seed": system_kwargs["seed"]}
