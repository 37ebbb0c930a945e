"""Bytes of code, of which digests are made: of its syntax tree, or, where there is no source, of its bytecode."""

from __future__ import annotations

import ast
import dis
import sys
from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from types import CodeType
from typing import Any

from paramsurvey.codeprint.source import Definition
from paramsurvey.fingerprint import typed_bytes


def digest(*contents: bytes) -> str:
    """Return one digest of several contents; where each of them ends makes a difference."""
    found = blake2b(digest_size=16)
    for content in contents:
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def definition_bytes(node: Definition) -> Iterator[bytes]:
    """Yield what a function is, but for its default arguments, of which the values count."""
    if isinstance(node, ast.Lambda):
        yield _tree_bytes([_without_defaults(node.args), node.body])
    else:
        body = node.body[_has_docstring(node) :]
        yield type(node).__name__.encode()
        yield _tree_bytes([_without_defaults(node.args), node.decorator_list, body])


def _without_defaults(arguments: ast.arguments) -> ast.arguments:
    return ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args,
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=[],
        kwarg=arguments.kwarg,
        defaults=[],
    )


_IGNORED = frozenset({"ctx", "kind", "type_comment"})


def _tree_bytes(node: Any) -> bytes:
    """Return bytes that two syntax trees share only if they differ in nothing but docstrings and positions.

    Fields that are empty are left out, so that those which a newer Python adds make no difference.
    """
    if isinstance(node, ast.Constant):
        return b"(" + typed_bytes(node.value) + b")"
    if isinstance(node, list):
        return b"[" + b",".join(map(_tree_bytes, node)) + b"]"
    if not isinstance(node, ast.AST):
        return repr(node).encode()
    pieces = [type(node).__name__.encode()]
    for name, value in ast.iter_fields(node):
        field = value[1:] if name == "body" and _has_docstring(node) else value
        if name not in _IGNORED and field is not None and field != []:
            pieces += [name.encode(), _tree_bytes(field)]
    return b"(" + b" ".join(pieces) + b")"


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def code_bytes(code: CodeType) -> Iterator[bytes]:
    """Yield what a code object does, without docstrings and positions, for one Python."""
    yield repr(sys.version_info[:2]).encode()
    yield repr(
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_HAS_DOCSTRING)
    ).encode()
    yield repr((code.co_varnames, code.co_cellvars, code.co_freevars)).encode()
    instructions = [each for each in dis.get_instructions(code) if each.opname not in ("NOP", "EXTENDED_ARG")]
    places = sorted(each.offset for each in instructions)
    for each in instructions:
        yield each.opname.encode()
        if each.opcode in dis.hasconst:
            constant = each.argval
            yield from code_bytes(constant) if isinstance(constant, CodeType) else (typed_bytes(constant),)
        elif each.opcode in dis.hasjrel or each.opcode in dis.hasjabs:
            yield str(bisect_left(places, each.argval)).encode()
        else:
            yield repr(each.argval).encode()
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined] # typeshed does not know them
        ends = [bisect_left(places, offset) for offset in (entry.start, entry.end, entry.target)]
        yield repr((*ends, entry.depth, entry.lasti)).encode()


_HAS_DOCSTRING = 0x4000000  # a flag of Python 3.13 and later
