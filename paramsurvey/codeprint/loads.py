"""What code loads from elsewhere: globals, attributes of them, and modules that it imports where it uses them."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple, TypeAlias


class Path(NamedTuple):
    """A global name and attributes of it; or a module that is imported where it is used, and names in it."""

    names: tuple[str, ...]
    module: str | None = None


_Bindings: TypeAlias = "dict[str, Path]"


@functools.lru_cache(maxsize=4096)
def reached(code: CodeType) -> tuple[Path, ...]:
    """Return what a function's code, and the code inside it, loads from elsewhere, in the order of the code."""
    return tuple(dict.fromkeys(_paths(code, {})))


def _paths(code: CodeType, bound: _Bindings) -> Iterator[Path]:
    instructions = [each for each in dis.get_instructions(code) if each.opname not in _SKIPPED]
    bound = bound | dict(_local_imports(instructions))
    path: Path | None = None
    for at, each in enumerate(instructions):
        if path is not None and each.opname in _ATTRIBUTES:
            path = path._replace(names=(*path.names, each.argval))
            continue
        if path is not None:
            yield path
        path = None
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            path = Path((each.argval,))
        elif each.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")) and each.argval in bound:
            path = bound[each.argval] if each.opname != "LOAD_CLOSURE" else None
        elif each.opname == "IMPORT_NAME":
            module = _module_of(instructions, at)
            yield from (Path((name,), module) for name in instructions[at - 1].argval or ("__name__",))
    if path is not None:
        yield path
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _paths(inner, bound)


_SKIPPED = frozenset({"EXTENDED_ARG", "NOP", "CACHE", "RESUME", "PRECALL", "PUSH_NULL"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


def _module_of(instructions: list[dis.Instruction], at: int) -> str:
    """Return the module that an IMPORT_NAME imports, with a dot for each level."""
    level = instructions[at - 2].argval
    return "." * (level if isinstance(level, int) else 0) + str(instructions[at].argval)


def _local_imports(instructions: list[dis.Instruction]) -> Iterator[tuple[str, Path]]:
    """Yield the local names to which ``import a.b`` and ``import a.b as c`` bind modules."""
    for at, each in enumerate(instructions):
        if each.opname != "IMPORT_NAME" or instructions[at - 1].argval:
            continue
        module, after = _module_of(instructions, at), at + 1
        if instructions[after].opname.startswith("STORE"):
            yield instructions[after].argval, Path((), module.partition(".")[0])
            continue
        while not instructions[after].opname.startswith("STORE"):  # IMPORT_FROM, and what tidies up the stack
            after += 1
        last = next(step for step in instructions[after:] if step.opname.startswith("STORE"))
        yield last.argval, Path((), module)
