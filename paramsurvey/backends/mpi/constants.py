"""The handle of a constant that every rank keeps in files of its own; worker processes import this module."""

from __future__ import annotations

import os
import pickle
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from paramsurvey.backends.multiprocessing.constants import PublishedFile
from paramsurvey.engine.records import Unloadable

FOLDER = "_PARAMSURVEY_CONSTANTS"
"""The environment variable that tells worker processes where their rank says in which files its constants are."""


class Everywhere(NamedTuple):
    """A constant by its number, which is the same at every rank."""

    number: int

    def load(self) -> Any:
        """Return the constant; reads the files once per process. Raises `Unloadable`."""
        return file_of(self.number).load()


def note_file(folder: Path, number: int, file: PublishedFile) -> None:
    """Say in which files a constant is."""
    place = folder / f"{number}.new"
    place.write_bytes(pickle.dumps(tuple(file)))
    place.rename(folder / f"{number}.where")


@lru_cache(maxsize=64)
def file_of(number: int) -> PublishedFile:
    """Return in which files a constant is."""
    try:
        return PublishedFile(*pickle.loads(Path(os.environ[FOLDER], f"{number}.where").read_bytes()))
    except Exception as exc:
        raise Unloadable(f"this rank does not have the constant: {exc}", traceback.format_exc()) from exc


def forget_file(folder: Path, number: int) -> None:
    """Remove a constant."""
    place = folder / f"{number}.where"
    if place.exists():
        PublishedFile(*pickle.loads(place.read_bytes())).close()
        place.unlink()
