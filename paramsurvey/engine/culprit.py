"""What of a worker or its constants cannot be pickled: asked when it turned out that something cannot."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

from paramsurvey.callables import worker_name
from paramsurvey.engine.pickling import dumps_by_value
from paramsurvey.engine.records import Work


class Place(NamedTuple):
    """Where a value is: ``user_kwargs['deep'][0]``, or ``LOCK, which worker uses``."""

    path: str
    whose: str = ""

    def __str__(self) -> str:
        return self.path + self.whose


def culprit_of(work: Work) -> str:
    """Name what of a worker and its ``user_kwargs`` cannot be pickled, where it is known that something cannot."""
    if can_travel(work.worker):
        return culprit(work.user_kwargs, "user_kwargs")
    return culprit(work.worker, worker_name(work.worker))


def culprit(value: Any, path: str) -> str:
    """Name the smallest part of a value that cannot be pickled by value; a function's globals are parts of it."""
    found: tuple[Any, Place] | None = (value, Place(path))
    seen: set[int] = set()
    while found is not None:
        value, place = found
        seen.add(id(value))
        found = next(
            (each for each in _parts(value, place) if id(each[0]) not in seen and not can_travel(each[0])), None
        )
    return str(place)


def can_travel(value: Any) -> bool:
    """Tell whether a value can be pickled by value."""
    try:
        dumps_by_value(value)
    except Exception:  # noqa: BLE001 - whatever a user's class raises
        return False
    return True


def _parts(value: Any, place: Place) -> Iterator[tuple[Any, Place]]:
    if isinstance(value, FunctionType):
        used = inspect.getclosurevars(value)
        for name, part in {**used.globals, **used.nonlocals}.items():
            yield part, Place(name, f", which {value.__qualname__} uses")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield part, place._replace(path=f"{place.path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield part, place._replace(path=f"{place.path}[{number}]")
    elif not isinstance(value, type):
        for name, part in getattr(value, "__dict__", {}).items():
            yield part, place._replace(path=f"{place.path}.{name}")
