"""What stages accept: their names, the names of columns, and the rows of so many stages; anything else they refuse.

Constructors refuse at once, with the value and what to give instead, so that a pipeline that can be written down has
stages that can run. All stages say the same of the same mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import pandas as pd

from paramsurvey.engine.columns import RESERVED
from paramsurvey.errors import StageError
from paramsurvey.options import nearest_or_all, shown
from paramsurvey.stages.base import listed

Names: TypeAlias = tuple[Hashable, ...]
"""The names of columns."""

Given = TypeVar("Given")


def stage_name(given: Any) -> str:
    """Return what a stage is to be called."""
    if not isinstance(given, str) or not given:
        raise StageError(f"name={shown(given)}: the name of a stage is a str with something in it")
    return given


def truth(given: Any, where: str) -> bool:
    """Return True or False, and take nothing else for either."""
    if not isinstance(given, bool):
        raise StageError(f"{where}={shown(given)}: it is True or False")
    return given


def one_of(given: Any, choices: Sequence[str], where: str) -> str:
    """Return one of some words."""
    if not isinstance(given, str):
        raise StageError(f"{where}={shown(given)} is unknown; there are: {listed(choices)}")
    if given not in choices:
        raise StageError(f"{where}={shown(given)} is unknown; {nearest_or_all(given, choices)}")
    return given


def mapping(given: Any, where: str, example: str) -> Mapping[Any, Any]:
    """Return a dict with columns as its keys."""
    if not isinstance(given, Mapping):
        raise StageError(f"{where}: {shown(given)}, of type {type(given).__name__}: it takes a dict, such as {example}")
    if not given:
        raise StageError(f"{where}: it names no column; it takes a dict, such as {example}")
    return given


def the_only(given: tuple[Given, ...], stage: str) -> Given:
    """Return what comes of the one stage that a stage comes after."""
    if len(given) != 1:
        raise StageError(
            f"stage {stage!r} takes the rows of one stage, and was given those of {len(given)}: make one table of "
            "them before, by .join() or .concat()"
        )
    return given[0]


# --- names of columns -----------------------------------------------------------------------------


def is_hashable(value: object) -> bool:
    """Tell whether a value can be the key of a dict; a tuple with a list in it cannot."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def column_name(given: Any, where: str) -> Hashable:
    """Return the name of a column."""
    if given is None or not is_hashable(given):
        raise StageError(
            f"{where}: {shown(given)} cannot be the name of a column; a name is a text, a number, or anything else "
            "that can be the key of a dict"
        )
    name: Hashable = given
    return name


def new_column_name(given: Any, where: str) -> Hashable:
    """Return the name of a column that is to be made."""
    name = column_name(given, where)
    if name in RESERVED:
        raise StageError(f"{where}: {name!r} is the name of one of our own columns: choose another one")
    return name


def column_names(given: Any, parameter: str) -> Names:
    """Return the names of columns: a list or a tuple has several, anything else is one."""
    several = given if isinstance(given, list | tuple | pd.Index) else (given,)
    return _some_names(several, f"{parameter}={shown(given)}")


def by_names(given: Any) -> Names:
    """Return the names of the columns by which rows are compared or grouped."""
    return column_names(given, "by")


def names_one_by_one(given: tuple[Any, ...], where: str) -> Names:
    """Return the names of columns that are given one by one or as one list; so a tuple may be the name of one."""
    several = given[0] if len(given) == 1 and isinstance(given[0], list | pd.Index) else given
    return _some_names(several, where)


def _some_names(given: Iterable[Any], where: str) -> Names:
    names = tuple(column_name(each, where) for each in given)
    if not names:
        raise StageError(f"{where}: it names no column; give the name of one, or a list of names")
    refuse_twice(names, f"{where}: it names", "name it once")
    return names


def refuse_twice(names: Iterable[Hashable], what: str, remedy: str) -> None:
    """Refuse names of which one is there twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StageError(f"{what} the column {twice[0]!r} twice: {remedy}")
