"""Arithmetic of columns in which no integer wraps around.

numpy's integers have 64 bits or fewer, and a sum or a product that needs more silently loses the rest. So the operators
of an expression ask, before they believe numpy: could the result have been too large? The smallest and the largest
value of each operand tell what the result can be at most (interval arithmetic), which costs two passes over them. Only
if that does not fit, it is computed again with Python's integers, which know no limit; and only if that makes a
difference, they are the result. A column of those is what it would be if the values had been given: integers beyond 64
bits are kept as they are everywhere in a table.

Which rows are together in a call makes no difference. Rows for which a result fits are computed apart from those for
which it does not (`Mixed`), because what comes next may have another last bit for numpy's integers than for Python's.
And columns of other integers than int64, which keep their type, cannot become Python's: there it is an error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np

Range: TypeAlias = tuple[int, int]
"""The smallest and the largest of some integers."""

MOST_BITS: Final = 1 << 16
"""No power in an expression is longer than this: there would be no end of computing it."""

_BEYOND: Final = 1 << 64
"""Stands for everything that has more than 64 bits."""


def _range_of(operand: Any) -> Range | None:
    """Return the range of what an operator is applied to; None if that is not made of integers."""
    if isinstance(operand, int):
        return operand, operand
    dtype = getattr(operand, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iub" or not operand.size:
        return None
    values = operand.to_numpy() if hasattr(operand, "to_numpy") else operand
    return int(values.min()), int(values.max())


# --- what the result of an operator can be --------------------------------------------------------


def _of_sum(one: Range, other: Range) -> Range:
    return one[0] + other[0], one[1] + other[1]


def _of_difference(one: Range, other: Range) -> Range:
    return one[0] - other[1], one[1] - other[0]


def _of_product(one: Range, other: Range) -> Range:
    corners = [a * b for a, b in product(one, other)]
    return min(corners), max(corners)


def _of_quotient(one: Range, other: Range) -> Range:
    if one[0] >= 0 and other[0] >= 0:
        return 0, one[1]
    largest = max(map(abs, one))  # -(2**63) // -1 is one too many
    return -largest, largest


def _of_power(base: Range, exponent: Range) -> Range:
    largest = max(map(abs, base))
    if largest > 1 and largest.bit_length() * max(exponent[1], 0) > 64:
        return -_BEYOND, _BEYOND
    limit = largest ** max(exponent[1], 0) if largest > 1 else 1
    return (-limit if base[0] < 0 else 0), limit


def _of_negative(one: Range) -> Range:
    return -one[1], -one[0]


def _of_absolute(one: Range) -> Range:
    return 0, max(map(abs, one))


# --- operators ------------------------------------------------------------------------------------


def _power(base: Any, exponent: Any) -> Any:
    if abs(base) > 1 and base.bit_length() * exponent > MOST_BITS:
        raise OverflowError(f"{base} ** {exponent} would have more than {MOST_BITS} bits")
    return base**exponent


class Mixed(OverflowError):
    """The result of an operator fits 64 bits in some rows only, which are to be computed by themselves.

    Parameters
    ----------
    fits : array of bool
        Whether it does, for each row.
    """

    def __init__(self, fits: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        super().__init__("a result fits 64 bits in some rows only")
        self.fits = fits


def _computed(
    apply: Callable[..., Any], bounds: Callable[..., Range], exactly: Callable[..., Any], *operands: Any
) -> Any:
    """Return what numpy would, if integers had no limit.

    Parameters
    ----------
    apply : callable
        The operator as numpy has it.
    bounds : callable
        The range of its results, given those of its operands.
    exactly : callable
        The operator for columns of Python's integers.
    *operands : object
        To what it is applied.

    Raises
    ------
    Mixed
        Only some results fit.
    OverflowError
        A power has more than `MOST_BITS` bits; or a result does not fit the columns' own type, which is not int64.
    """
    ranges = [_range_of(operand) for operand in operands]
    if None in ranges:
        return apply(*operands)
    if _is_beyond_columns(operands):
        return exactly(*map(_with_pythons, operands))
    result = apply(*operands)
    if _can_hold(result, bounds(*ranges)):
        return result
    exact = exactly(*map(_with_pythons, operands))
    fits = _equal(result, exact)
    if fits.all():
        return result
    if result.dtype != np.int64:
        raise OverflowError(
            f"a result does not fit {result.dtype}, the type of these columns: write .astype('object') behind one, "
            "and integers have no limit"
        )
    if fits.any():
        raise Mixed(fits)
    return exact


def _is_beyond_columns(operands: tuple[Any, ...]) -> bool:
    """Tell whether an integer that is written in an expression does not fit a column's own type.

    numpy 2 raises then, and numpy 1 makes floats, or another type.
    """
    types = [operand.dtype for operand in operands if hasattr(operand, "dtype")]
    limits = [np.iinfo(np.int64 if dtype.kind == "b" else dtype) for dtype in types]
    written = [operand for operand in operands if isinstance(operand, int)]
    return any(not limit.min <= number <= limit.max for limit in limits for number in written)


def _can_hold(result: Any, needed: Range) -> bool:
    kind = getattr(getattr(result, "dtype", None), "kind", "")
    if kind in ("i", "u"):
        limits = np.iinfo(result.dtype)
        return bool(limits.min <= needed[0] and needed[1] <= limits.max)
    if kind == "f":  # of uint64 and int64 together numpy makes floats
        return needed[0] >= -(2**53) and needed[1] <= 2**53
    return True


def _with_pythons(operand: Any) -> Any:
    """Return the same with Python's integers."""
    return operand.astype(object) if hasattr(operand, "astype") else operand


def _equal(result: Any, exact: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(np.asarray(_with_pythons(result), object) == np.asarray(exact, object), bool)


# Functions, and not partial ones, since they are pickled by their names with the workers that have expressions in them.


def _add(one: Any, other: Any) -> Any:
    return _computed(operator.add, _of_sum, operator.add, one, other)


def _subtract(one: Any, other: Any) -> Any:
    return _computed(operator.sub, _of_difference, operator.sub, one, other)


def _multiply(one: Any, other: Any) -> Any:
    return _computed(operator.mul, _of_product, operator.mul, one, other)


def _divide(one: Any, other: Any) -> Any:
    return _computed(operator.floordiv, _of_quotient, operator.floordiv, one, other)


def _raise(base: Any, exponent: Any) -> Any:
    return _computed(operator.pow, _of_power, np.frompyfunc(_power, 2, 1), base, exponent)


def _negate(one: Any) -> Any:
    return _computed(operator.neg, _of_negative, operator.neg, one)


def _absolute(one: Any) -> Any:
    return _computed(abs, _of_absolute, abs, one)


OPERATORS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "+": _add,
        "-": _subtract,
        "*": _multiply,
        "//": _divide,
        "**": _raise,
        "- ": _negate,
        "abs": _absolute,
    }
)
"""By their signs; the second minus is that in front of one operand."""
