"""Importing late, and fast: for the package itself, which imports this alone, and for all that needs pandas late."""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType


def load(name: str) -> ModuleType:
    """Import a module with the garbage collector paused, which takes an eighth off the time of importing pandas.

    An import makes many objects and no garbage to speak of. They are handed to the oldest generation as they are: else
    the collector would go through all of them as soon as it may, which takes a tenth of that time once more.
    """
    if name in sys.modules:
        return importlib.import_module(name)  # it waits if another thread is importing it
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
