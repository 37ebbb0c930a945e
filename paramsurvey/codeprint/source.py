"""The source of a function: its syntax tree, if it can be found and is what runs."""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
import operator
from collections.abc import Iterator
from itertools import chain
from types import CodeType
from typing import Any, TypeAlias

from paramsurvey.editions import text_of

Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda"


def source_of(code: CodeType, module: dict[str, Any]) -> Definition | None:
    """Return the syntax tree of a function, if it can be found and is what runs."""
    flags = code.co_flags & _FUTURE
    for attempt in range(3):
        text = "".join(linecache.getlines(code.co_filename, module)) if attempt < 2 else text_of(code.co_filename) or ""
        for one_by_one in (False, True) if text else ():
            if (node := _definitions(text, flags, one_by_one).get(code)) is not None:
                return node
        linecache.checkcache(code.co_filename)  # it may be of before the module was loaded again
    return None


_FUTURE = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
"""What ``from __future__ import`` sets; in a notebook it holds for the cells that follow, too."""


@functools.lru_cache(maxsize=256)
def _definitions(text: str, flags: int, one_by_one: bool) -> dict[CodeType, Definition]:
    """Return the syntax trees of all functions in a source, by what they compile to.

    Notebooks compile a cell's statements one by one, which differs: a compiler that sees an import calls ``np.sum``
    otherwise than a method.
    """
    try:
        tree = ast.parse(text)
        bodies = [[statement] for statement in tree.body] if one_by_one else [tree.body]
        modules = [ast.Module(body, []) for body in bodies]
        compiled = [compile(each, "<source>", "exec", flags=flags, dont_inherit=True) for each in modules]
    except (SyntaxError, ValueError, RecursionError):  # a cell with magic commands, for instance
        return {}
    nodes = _by_place(tree)
    found: dict[CodeType, Definition] = {}
    for code in chain.from_iterable(map(_codes, compiled)):
        around = [node for node in nodes.get((code.co_firstlineno, code.co_name), ()) if _is_around(node, code)]
        if around:
            found[code] = max(around, key=lambda node: (node.lineno, node.col_offset))  # the innermost
    return found


def _by_place(tree: ast.Module) -> dict[tuple[int, str], list[Definition]]:
    """Return all definitions by the line in which their code begins, and their name."""
    nodes: dict[tuple[int, str], list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            nodes.setdefault((line, node.name), []).append(node)
        elif isinstance(node, ast.Lambda):
            nodes.setdefault((node.lineno, "<lambda>"), []).append(node)
    return nodes


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def _is_around(node: Definition, code: CodeType) -> bool:
    """Tell whether what a code object does stands inside a definition."""
    begin = (node.lineno, node.col_offset)
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and column is not None and end_column:
            if not isinstance(node, ast.Lambda):
                return True  # there is one of that name in that line
            return begin <= (line, column) and (end_line or line, end_column) <= end
    return not isinstance(node, ast.Lambda)


def decorators(source: Definition | None) -> Iterator[tuple[str, ...]]:
    """Yield the names that stand in the decorators of a function."""
    for decorator in getattr(source, "decorator_list", ()):
        for node in ast.walk(decorator):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            if isinstance(node, ast.Name):
                yield (node.id, *names)
