"""A plugin for a pytest that is rank 0: wherever a test asks for the multiprocessing backend, it gets that of MPI.

So the failure list is run as it is (`test_mpi.py` starts it), with one worker at each of two other ranks. Tests that
kill *the* guard get two workers at one rank.
"""

from __future__ import annotations

import os

import psutil
import pytest

from paramsurvey import session
from paramsurvey.backends.mpi import backend
from paramsurvey.backends.mpi.backend import open_mpi

SETTINGS = {"slots": 1, "driver_slots": 0}


def rank_of(process):
    environ = process.environ()
    return int(environ.get("PMI_RANK", environ.get("OMPI_COMM_WORLD_RANK", -1)))


def guards_of_other_ranks():
    """Return the guards among the children of the other ranks, which are children of the launcher, as this one is."""
    return [guard for rank in psutil.Process().parent().children() if rank.pid != os.getpid() for guard in guards(rank)]


def the_guard_of_rank_1():
    return [guard for rank in psutil.Process().parent().children() if rank_of(rank) == 1 for guard in guards(rank)]


def guards(rank):
    try:
        return [child for child in rank.children() if "guard.main" in " ".join(child.cmdline())]
    except psutil.Error:  # one of them has ended meanwhile
        return []


def pytest_configure(config):
    os.environ.pop("PARAMSURVEY_BACKEND", None)
    open_backend = session.open_backend

    def open_on_mpi(name, options):
        if name == "multiprocessing":
            return open_mpi(SETTINGS, options.ncores)
        return open_backend(name, options)

    session.open_backend = open_on_mpi


def _is_grouped(item):
    return hasattr(item, "callspec") and item.callspec.params.get("group_size") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what differs only in how psets are grouped: that is decided in rank 0, as ever."""
    left_out = [item for item in items if _is_grouped(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _grouped_automatically(request, monkeypatch):
    """Leave the same out of tests that survey with one size after another."""
    if hasattr(request.module, "GROUP_SIZES"):
        monkeypatch.setattr(request.module, "GROUP_SIZES", {"automatic": None})


@pytest.fixture(autouse=True)
def _guards(request, monkeypatch):
    """Let tests find the guards; those that kill *the* guard find that of the only rank with workers."""
    if not hasattr(request.module, "guards"):
        return
    name = request.node.name
    among_our_own = "slow_to_start" in name or "used_up" in name  # they look into the pool of this very process
    if "guard" not in name and not among_our_own:
        monkeypatch.setattr(request.module, "guards", guards_of_other_ranks)
    elif among_our_own or "hang" in name or "as_soon_as" in name:  # or among its children
        monkeypatch.setattr(backend, "slots_of_ranks", lambda shares, settings: [2, *[0] * (len(shares) - 1)])
    else:
        monkeypatch.setattr(request.module, "guards", the_guard_of_rank_1)
        monkeypatch.setattr(backend, "slots_of_ranks", lambda shares, settings: [0, 2, *[0] * (len(shares) - 2)])
