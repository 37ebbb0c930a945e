"""A plugin for a pytest that is rank 0: wherever a test asks for the multiprocessing backend, it gets that of MPI.

So the failure list is run as it is (`test_mpi.py` starts it). The workers of these sessions are all at other ranks.
"""

from __future__ import annotations

import os

import psutil
import pytest

from paramsurvey import session
from paramsurvey.backends.mpi.backend import open_mpi

SETTINGS = {"slots": 1, "driver_slots": 0}


def guards_of_all_ranks():
    """Return the guards among the children of all ranks, which are children of the launcher as this process is."""
    found = []
    for rank in psutil.Process().parent().children():
        try:
            found += [child for child in rank.children() if "guard.main" in " ".join(child.cmdline())]
        except psutil.Error:  # it has ended meanwhile
            pass
    return found


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
    for module in {item.module for item in items}:
        if hasattr(module, "guards"):
            module.guards = guards_of_all_ranks
