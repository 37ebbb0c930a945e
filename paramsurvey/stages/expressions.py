"""Expressions such as ``'width * height'``: functions of columns that are written as text.

They are Python's own, with the names of columns in them, numpy as ``np`` and a few functions. What would not work with
whole columns (``and``, ``if``, a chain of comparisons), or would see a slice of the rows where the user means all of
them (a mean), is refused before anything runs, with what to write instead. The operators of integers are ours
(`integers`), so that none wraps around.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from paramsurvey.errors import StageError
from paramsurvey.options import nearest_or_all
from paramsurvey.stages.integers import OPERATORS

_FUNCTIONS: Final = {each.__name__: each for each in (abs, min, max, round, len, int, float, str, bool)}
_COLUMN_FUNCTIONS: Final = frozenset({"abs", "round"})  # which know what to do with a column
_KNOWN: Final = {"np": np, **_FUNCTIONS}
_BY_ROW: Final = "or give per_row=True"
_ONLY_BY_ROW: Final = (
    (ast.BoolOp, f"'and' and 'or' do not work with columns: write (a) & (b) or (a) | (b), {_BY_ROW}"),
    (ast.Not, f"'not' does not work with columns: write ~(a), {_BY_ROW}"),
    (ast.IfExp, f"'if' does not work with columns: write np.where(condition, a, b), {_BY_ROW}"),
    (ast.In | ast.NotIn, f"'in' does not work with columns: write a.isin([...]), {_BY_ROW}"),
    (ast.Is | ast.IsNot, f"'is' does not work with columns: write a.isna(), {_BY_ROW}"),
    (ast.JoinedStr, "an f-string does not work with columns: give per_row=True"),
)
_NEVER: Final = (
    (ast.Lambda, "a lambda"),
    (ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, "a comprehension"),
    (ast.NamedExpr, "an assignment"),
    (ast.Await | ast.Yield | ast.YieldFrom, "an await or yield"),
)
_OF_ALL_ROWS: Final = frozenset(
    {
        "all",
        "any",
        "argmax",
        "argmin",
        "argsort",
        "average",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "diff",
        "ewm",
        "expanding",
        "idxmax",
        "idxmin",
        "max",
        "mean",
        "median",
        "min",
        "mode",
        "nanmax",
        "nanmean",
        "nanmedian",
        "nanmin",
        "nanstd",
        "nansum",
        "nanvar",
        "nunique",
        "pct_change",
        "percentile",
        "prod",
        "ptp",
        "quantile",
        "rank",
        "rolling",
        "shift",
        "sort",
        "std",
        "sum",
        "unique",
        "var",
    }
)
"""What looks at several rows of a column: in a slice, at those that happen to be there."""


class Compiled(NamedTuple):
    """An expression as a function.

    Attributes
    ----------
    function : callable
        The function of which it is the body.
    columns : tuple of str
        Its parameters: the columns that it names.
    looks_around : bool
        Whether there is anything in it, beside operators, that might look at several rows.
    """

    function: Callable[..., Any]
    columns: tuple[str, ...]
    looks_around: bool


def compiled(text: str, *, per_row: bool, where: str) -> Compiled:
    """Return an expression as a function.

    Parameters
    ----------
    text : str
        The expression.
    per_row : bool
        Whether it is to be called with the values of a row; else what works with values alone is refused.
    where : str
        What it is for, in messages.

    Raises
    ------
    StageError
        It is no expression, or something in it cannot be, with what to write instead.

    Examples
    --------
    >>> area, columns, looks_around = compiled("width * height", per_row=True, where="stage 'derive'")
    >>> columns, area(width=2, height=3), looks_around
    (('width', 'height'), 6, False)
    """
    shape = _parsed(text, where)
    names = _columns_in(shape)
    _refuse_unknown(shape, text, where)
    known, looks_around = _KNOWN, False
    if not per_row:
        looks_around = any(isinstance(node, ast.Call | ast.Attribute | ast.Subscript) for node in ast.walk(shape))
        _refuse_row_by_row(shape, text, where)
        shape, known = _Exact().visit(shape), {**_KNOWN, **OPERATORS}
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in names], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    function = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, shape)))
    code = compile(function, f"<{text}>", "eval")
    # What is evaluated is a part of the user's own program; the names are fenced in against slips, not against malice.
    return Compiled(eval(code, {"__builtins__": {}, **known}), names, looks_around)  # noqa: S307


class _Exact(ast.NodeTransformer):
    """Has operators called that do not wrap integers around; their names, their signs, cannot be those of columns."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Replace an operator between two operands."""
        self.generic_visit(node)
        return self._called(node, _SIGNS.get(type(node.op)), node.left, node.right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Replace a minus in front of one, if that is no number."""
        self.generic_visit(node)
        is_number = isinstance(node.operand, ast.Constant)
        return self._called(node, None if is_number else _SIGNS.get(type(node.op)), node.operand)

    @staticmethod
    def _called(node: ast.expr, sign: str | None, *operands: ast.expr) -> ast.expr:
        if sign is None:
            return node
        return ast.Call(func=ast.Name(id=sign, ctx=ast.Load()), args=list(operands), keywords=[])


_SIGNS: Final[Mapping[type, str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Pow: "**",
    ast.USub: "- ",
}


def _parsed(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise StageError(f"{where}: {text!r} is no expression: {reason}") from error


def _columns_in(shape: ast.expr) -> tuple[str, ...]:
    """Return the names of columns in an expression, in the order in which they are written."""
    found = [node for node in ast.walk(shape) if isinstance(node, ast.Name) and node.id not in _KNOWN]
    return tuple(dict.fromkeys(node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))))


def _refuse_unknown(shape: ast.expr, text: str, where: str) -> None:
    for node in ast.walk(shape):
        for kinds, what in _NEVER:
            if isinstance(node, kinds):
                raise StageError(f"{where}: the expression {text!r} has {what} in it: write a function instead")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in _FUNCTIONS:
            raise StageError(
                f"{where}: the expression {text!r} calls {node.func.id}(), which it does not know; it knows np and "
                f"{', '.join(_FUNCTIONS)}: write a function for anything else"
            )
        if isinstance(node, ast.Attribute) and _is_name(node.value, "np") and not hasattr(np, node.attr):
            raise StageError(
                f"{where}: the expression {text!r} has np.{node.attr}, which numpy does not have; "
                f"{_nearest_in_numpy(node.attr)}"
            )


def _nearest_in_numpy(name: str) -> str:
    said = nearest_or_all(name, np.__all__, lambda each: f"np.{each}")
    return said if said.startswith("did") else "see its documentation"


def _refuse_row_by_row(shape: ast.expr, text: str, where: str) -> None:
    """Refuse what works with values, and not with columns."""
    for node in ast.walk(shape):
        reason = _row_by_row_reason(node)
        if reason is not None:
            raise StageError(f"{where}: in the expression {text!r}, {reason}")


def _row_by_row_reason(node: ast.AST) -> str | None:
    for kinds, reason in _ONLY_BY_ROW:
        if isinstance(node, kinds):
            return reason
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        return f"a chain of comparisons does not work with columns: write (a < b) & (b < c), {_BY_ROW}"
    if not isinstance(node, ast.Call) or not _columns_in(node):
        return None
    if isinstance(node.func, ast.Name) and node.func.id not in _COLUMN_FUNCTIONS:
        return (
            f"{node.func.id}() does not work with columns: {_INSTEAD.get(node.func.id, 'write a function')}, {_BY_ROW}"
        )
    if isinstance(node.func, ast.Attribute) and _looks_at_all_rows(node, node.func):
        return (
            f"{node.func.attr}() looks at all rows, and of them there is only a part here: "
            f".apply(function) is for what needs the whole table; for a list in each row, give per_row=True"
        )
    return None


_INSTEAD: Final = {
    "min": "write np.minimum(a, b)",
    "max": "write np.maximum(a, b)",
    "len": "write a.str.len()",
    "int": "write a.astype(int)",
    "float": "write a.astype(float)",
    "str": "write a.astype(str)",
    "bool": "write a.astype(bool)",
}


def _looks_at_all_rows(call: ast.Call, method: ast.Attribute) -> bool:
    if method.attr not in _OF_ALL_ROWS or any(keyword.arg == "axis" for keyword in call.keywords):
        return False
    return not isinstance(method.value, ast.Attribute)  # those of a.str and a.dt are other ones


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
