"""What `Reduce` knows to make of the values of a group, by name. All are given those that are not missing."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any, Final

from paramsurvey.engine.columns import HOLE
from paramsurvey.stages.comparing import plain_number


def _sum(values: list[Any]) -> Any:
    """Add values up: ints exactly, floats with one rounding at the end, whatever else one after the other."""
    plain = [plain_number(value) for value in values]
    ints = [value for value in plain if isinstance(value, int)]
    floats = [value for value in plain if isinstance(value, float)]
    if len(ints) + len(floats) < len(plain):
        return reduce(operator.add, plain)
    if not floats:
        return sum(ints)
    try:
        return math.fsum([*floats, sum(ints)])
    except (OverflowError, ValueError):  # what is infinite, or on its way there
        return sum([*floats, sum(ints)])


def _count(values: list[Any]) -> int:
    return len(values)


def _distinct(values: list[Any]) -> int:
    return len(set(values))


def _mean(values: list[Any]) -> Any:
    return _sum(values) / len(values) if values else HOLE


def _least(values: list[Any]) -> Any:
    return min(values, key=plain_number, default=HOLE)


def _greatest(values: list[Any]) -> Any:
    return max(values, key=plain_number, default=HOLE)


def _median(values: list[Any]) -> Any:
    return statistics.median(map(plain_number, values)) if values else HOLE


def _deviation(values: list[Any]) -> Any:
    """Return the standard deviation of a sample, with n - 1."""
    if len(values) < 2:
        return HOLE
    first = plain_number(values[0])
    apart = [float(plain_number(value) - first) for value in values]  # large ints keep their differences
    mean = math.fsum(apart) / len(apart)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in apart) / (len(apart) - 1))


def _first(values: list[Any]) -> Any:
    return values[0] if values else HOLE


def _last(values: list[Any]) -> Any:
    return values[-1] if values else HOLE


AGGREGATIONS: Final[Mapping[str, Callable[[list[Any]], Any]]] = MappingProxyType(
    {
        "sum": _sum,
        "mean": _mean,
        "min": _least,
        "max": _greatest,
        "count": _count,
        "median": _median,
        "std": _deviation,
        "first": _first,
        "last": _last,
        "nunique": _distinct,
    }
)
