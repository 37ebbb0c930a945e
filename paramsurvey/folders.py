"""The current folder, which a program may leave and even remove, and where modules are found in spite of that."""

from __future__ import annotations

import os
import sys


def current_folder() -> str | None:
    """Return the current folder; None if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


FIRST_FOLDER = current_folder()
"""The folder in which this process imported paramsurvey."""


def search_path() -> list[str]:
    """Return where this process looks for modules, for processes that run in other folders.

    A relative place, as the empty one of notebooks and of scripts on standard input, is one in the folder in which the
    program was when it imported paramsurvey, and then one in the current folder.
    """
    folders = dict.fromkeys(folder for folder in (FIRST_FOLDER, current_folder()) if folder is not None)
    places: list[str] = []
    for place in sys.path:
        places += [place] if os.path.isabs(place) else [os.path.join(folder, place) for folder in folders]
    return places
