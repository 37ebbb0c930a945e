"""The walk from a worker to what it reaches: functions, classes, and the values that they use."""

from __future__ import annotations

import copyreg
import functools
import logging
import marshal
import os
import sys
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from paramsurvey.callables import worker_name
from paramsurvey.codeprint.digests import code_bytes, definition_bytes, digest
from paramsurvey.codeprint.loads import Path, reached
from paramsurvey.codeprint.names import Name, function_name, in_module, is_evident, type_name
from paramsurvey.codeprint.owners import import_if_users, is_users, is_users_function, is_users_module
from paramsurvey.codeprint.source import decorators, source_of
from paramsurvey.codeprint.values import (
    bytes_of_numbers,
    fields_of,
    functions_inside,
    is_generated,
    is_numbers,
    is_unseeded,
    known_parts,
    order,
)
from paramsurvey.editions import is_users_file
from paramsurvey.engine.pickling import is_atomic
from paramsurvey.fingerprint import typed_bytes

_GENERATED = frozenset(
    {
        "__annotations_cache__",
        "__attrs_attrs__",
        "__attrs_props__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__parameters__",
        "__qualname__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
"""What is in a class and says nothing that its other attributes do not say."""

_OF_MODULES = frozenset(
    {
        "__builtins__",
        "__cached__",
        "__dict__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__path__",
    }
    | {"__spec__"}
)
"""What every module has, and says only where it is."""

_COMPILED = tuple(EXTENSION_SUFFIXES)
_FINDERS = frozenset({"__import__", "eval", "exec"})
_NO_SOURCE = "it was not found, or is not what runs; the bytecode counts, which also changes if nothing else does"

MANY = 1000
"""So many values in a list or dict are not looked at one by one, if they are numbers and texts."""

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
_MARSHAL = 2
"""The format of `marshal` in which equal values have equal bytes, wherever they came from: without references and
without telling which texts are interned."""

_VIEWS = frozenset({type({}.keys()), type({}.values()), type({}.items())})

_DESCRIPTORS = (MemberDescriptorType, GetSetDescriptorType)

_SAYS_ITS_MODULE = frozenset({"__name__", "__package__"})
"""What every module has, and says something if somebody asks for it."""


class Walk:
    """What has been reached so far, and what is yet to be looked at.

    Functions and classes are looked at one after another, not one inside another, so they may refer to themselves.
    """

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.packages: set[str] = set()  # of the libraries
        self.not_covered: dict[str, None] = {}
        self._names: dict[int, str] = {}  # of what was reached, by its id
        self._kept: list[Any] = []  # so that no id is used twice
        self._globals: set[str] = set()  # the labels of constants and of names that were met
        self._pending: deque[Callable[[], None]] = deque()
        self._looked_at: dict[int, tuple[Any, bytes]] = {}  # what the value in hand has in it, and its bytes
        self._worker: Any = None  # without its decorators
        self._place = ""  # of the value, for what is not covered
        self._met: list[str] | None = None  # the code in the value, if only that is asked for

    def start(self, worker: Any) -> None:
        """Reach a worker and all that it needs."""
        self._worker = worker
        while isinstance(wrapped := getattr(self._worker, "__wrapped__", None), FunctionType):
            self._worker = wrapped
        if isinstance(worker, FunctionType) and is_users_function(worker):
            self._function(worker)
        else:
            self._other_worker(worker)
        self._look_into_what_is_pending()

    def go_on_with(self, user_kwargs: Any) -> None:
        """Reach the code in what the worker is given."""
        by_name = isinstance(user_kwargs, dict) and all(type(key) is str for key in user_kwargs)
        values = (
            {f"user_kwargs[{key!r}]": value for key, value in user_kwargs.items()}
            if by_name
            else {"user_kwargs": user_kwargs}
        )
        for place, value in values.items():
            self._begin_with(place)
            self._met = []
            self._bytes(value)
            met, self._met = self._met, None
            if met:
                self.parts[f"code in {place}"] = digest(*(name.encode() for name in met))
        self._look_into_what_is_pending()

    def _look_into_what_is_pending(self) -> None:
        while self._pending:
            self._pending.popleft()()

    def _other_worker(self, worker: Any) -> None:
        name = type_name(type(worker)).within("worker {}")
        if isinstance(worker, functools.partial):
            partial = f"partial of {worker_name(worker)}"
            name = Name(f"worker {partial}", f"worker {partial}")
            for key, value in (*enumerate(worker.args, 1), *worker.keywords.items()):
                argument = f"argument {key} of {partial}"
                self._value(Name(argument, argument), value)
            worker = worker.func
        elif worker is not self._worker:
            name = type_name(type(worker)).within(f"decorator {{}} of {worker_name(self._worker)}")
        elif isinstance(worker, FunctionType):
            name = function_name(worker).within("worker {}")
        elif isinstance(worker, MethodType):
            name = type_name(type(worker.__self__)).within(f"worker {worker_name(worker)} of {{}}")
        self._value(name, worker)

    # Functions

    def _function(self, func: FunctionType) -> str:
        """Reach a function of the user's; return the name of its part."""
        if id(func) in self._names:
            return self._names[id(func)]
        name = function_name(func)
        role = "worker" if func is self._worker else "function"
        if (wrapped := getattr(func, "__wrapped__", None)) is not None:
            role, name = "decorator", name.within(f"{{}} of {worker_name(wrapped)}")
        part = self._new_part(name.within(f"{role} {{}}"))
        self._remember(func, part)
        where = Name(part.removeprefix(f"{role} "), self.labels[part].removeprefix(f"{role} "))
        self._pending.append(lambda: self._look_into(func, part, where))
        return part

    def _look_into(self, func: FunctionType, part: str, where: Name) -> None:
        code, module = func.__code__, func.__globals__
        source = source_of(code, module)
        if source is None and code.co_filename != "<string>":  # what was generated has none
            self.not_covered[f"the source in {os.path.basename(code.co_filename)}: {_NO_SOURCE}"] = None
        self.parts[part] = digest(*(definition_bytes(source) if source else code_bytes(code)))
        for name, value in self._defaults(func):
            self._value(where.within(f"default {name} of {{}}"), value)
        for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
            try:
                self._value(where.within(f"closure value {name} of {{}}"), cell.cell_contents)
            except ValueError:  # not yet filled
                pass
        for path in reached(code):
            if path.module is None:
                self._global(module, path.names)
                self._note_finder(path.names, module, where.label)
            else:
                self._imported(path, module.get("__package__") or "", where.label)
        for names in decorators(source):
            self._global(module, names)
        if (wrapped := getattr(func, "__wrapped__", None)) is not None:
            self._bytes(wrapped)

    @staticmethod
    def _defaults(func: FunctionType) -> Iterator[tuple[str, Any]]:
        code = func.__code__
        if defaults := func.__defaults__:
            yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
        yield from (func.__kwdefaults__ or {}).items()

    def _global(self, module: Mapping[str, Any], names: tuple[str, ...]) -> None:
        """Reach what a name of a module stands for, or an attribute of that."""
        if names[0] in module and names[0] not in _OF_MODULES - _SAYS_ITS_MODULE:  # else a builtin, or there is none
            self._attribute(module[names[0]], in_module(module.get("__name__") or "__main__", names[0]), names[1:])

    def _imported(self, path: Path, package: str, where: str) -> None:
        """Reach what is imported inside a function: if it is the user's, it is imported here."""
        assert path.module is not None
        name = path.module.lstrip(".")
        if level := len(path.module) - len(name):
            parents = package.rsplit(".", level - 1)[0]
            name = f"{parents}.{name}" if name else parents
        if (top := name.partition(".")[0]) in sys.stdlib_module_names:
            return
        try:
            found = sys.modules.get(name) if name in sys.modules else import_if_users(name)
        except Exception as exc:  # noqa: BLE001 - a module may raise anything while it is imported
            self.not_covered[f"module {name}, imported in {where}: {type(exc).__name__}: {exc}"] = None
            return
        if found is None:
            self._note_library(top)
        else:
            self._attribute(found, Name(name, name), path.names)

    def _attribute(self, value: Any, name: Name, names: tuple[str, ...]) -> None:
        """Follow attributes as long as they are those of modules; reach what they lead to."""
        while isinstance(value, ModuleType) and names and is_users_module(value):
            if names[0] in _OF_MODULES or not hasattr(value, names[0]):
                return
            name = in_module(value.__name__, names[0])
            value, names = getattr(value, names[0]), names[1:]
        if isinstance(value, FunctionType) and names and names[0] in vars(value):
            attribute = name.within(f"{{}}.{names[0]}")
            self._value(attribute.within("constant {}"), vars(value)[names[0]])
        if isinstance(value, ModuleType | FunctionType | type | BuiltinFunctionType):
            found = self._bytes(value)
            if not is_evident(value, name.plain):
                self._once(name.within("name {}"), found)
        else:
            self._once(name.within("constant {}"), value)

    def _once(self, name: Name, value: Any) -> None:
        """Add a part for what a global stands for, once."""
        if name.label not in self._globals:
            self._globals.add(name.label)
            self._value(name, value)

    def _note_finder(self, names: tuple[str, ...], module: Mapping[str, Any], where: str) -> None:
        is_builtin = names[0] in _FINDERS and names[0] not in module
        if is_builtin or names[-1] == import_module.__name__:
            self.not_covered[f"what {names[-1]}() finds in {where}: it is known only when it runs"] = None

    # Classes

    def _class(self, kind: type) -> str:
        """Reach a class of the user's; return the name of its part."""
        if id(kind) in self._names:
            return self._names[id(kind)]
        part = self._new_part(type_name(kind).within("class {}"))
        self._remember(kind, part)
        self._pending.append(lambda: self._look_into_class(kind, part))
        return part

    def _look_into_class(self, kind: type, part: str) -> None:
        self._begin_with(self.labels[part])
        contents = [self._bytes(base) for base in (*kind.__bases__, type(kind))]
        for name, value in sorted(vars(kind).items()):
            if name not in _GENERATED and not isinstance(value, _DESCRIPTORS) and not is_generated(value):
                contents += [name.encode(), self._bytes(value)]
        contents += [self._bytes(fact) for fact in fields_of(kind)]
        self.parts[part] = digest(*contents)

    # Values

    def _value(self, name: Name, value: Any) -> None:
        """Add a part for a value."""
        part = self._new_part(name)
        self._begin_with(self.labels[part])
        self.parts[part] = digest(self._bytes(value))

    def _begin_with(self, place: str) -> None:
        """Look at another value: what has been looked at before is nothing of it."""
        self._place = place
        self._looked_at.clear()

    def _bytes(self, value: Any) -> bytes:
        """Return bytes that are the same only for the same value; reach the code in it."""
        kind = type(value)
        if is_atomic(kind):
            return typed_bytes(value)
        if callable(value) or isinstance(value, ModuleType):
            self._note_if_compiled(value)
        if isinstance(value, FunctionType) and is_users_function(value):
            return self._code_met(self._function(value))
        if isinstance(value, type):
            if is_users(None, value.__module__):
                return self._code_met(self._class(value))
            self._note_library(str(value.__module__))
            return type_name(value).plain.encode()
        if isinstance(value, ModuleType):
            return self._module(value)
        return self._bytes_looked_at_once(value)

    def _bytes_looked_at_once(self, value: Any) -> bytes:
        """Return the bytes of something that has others in it; of what is around itself, how many came before it."""
        if id(value) in self._looked_at:
            return self._looked_at[id(value)][1]
        self._looked_at[id(value)] = value, f"itself {len(self._looked_at)}".encode()  # kept: no id is used twice
        try:
            found = digest(type_name(type(value)).plain.encode(), *self._content(value)).encode()
        except RecursionError:
            found = self._refused(value, "it is nested too deeply")
        self._looked_at[id(value)] = value, found
        return found

    def _code_met(self, part: str) -> bytes:
        if self._met is not None:
            self._met.append(part)
        return part.encode()

    def _content(self, value: Any) -> Iterator[bytes]:
        kind = type(value)
        if self._met is not None and is_numbers(value):
            return  # they may be many, and there is no code in them
        if kind in (list, tuple):
            yield from self._elements(value)
        elif kind in (set, frozenset):
            yield from sorted(map(self._bytes, sorted(value, key=order)))
        elif kind in (dict, MappingProxyType):
            yield from self._elements([each for item in value.items() for each in item])
        elif kind in _VIEWS:
            yield from self._elements(list(value))
        elif is_unseeded(value):
            yield self._refused(value, "it was not seeded, and so is another one in every program")
        elif isinstance(value, FunctionType):
            self._note_library(value.__globals__.get("__name__"))
            yield function_name(value).plain.encode()
            yield from map(self._bytes, functions_inside(value))
        elif (parts := known_parts(value)) is not None:
            yield from map(self._bytes, parts)
        elif hasattr(value, "dtype") and hasattr(value, "tobytes"):
            self._note_library(kind.__module__)
            yield self._bytes(value.tolist()) if value.dtype.hasobject else bytes_of_numbers(value)
        elif kind.__module__.partition(".")[0] == "pandas":
            self._note_library("pandas")
            yield typed_bytes(value)
        else:
            yield self._bytes(kind)
            yield from self._state(value)

    def _elements(self, values: Sequence[Any]) -> Iterator[bytes]:
        """Yield the bytes of values one by one; of many that are numbers and texts, at the speed of C."""
        if len(values) >= MANY and set(map(type, values)) <= _PLAIN:
            yield digest(marshal.dumps(list(values), _MARSHAL)).encode()
        else:
            yield from map(self._bytes, values)

    def _state(self, value: Any) -> Iterator[bytes]:
        """Yield what an object is made of: what pickle would write, without how it writes it."""
        if isinstance(value, logging.Logger):
            return  # what it is called, and what it does, are no answer's affair
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
            parts = [reduced] if isinstance(reduced, str) else [*reduced]
        except Exception as exc:  # noqa: BLE001 - an object's own pickling may raise anything
            yield self._refused(value, f"{type(exc).__name__}: {exc}")
            return
        for part in parts:
            yield from self._piece(part)

    def _piece(self, part: Any) -> Iterator[bytes]:
        if hasattr(part, "__next__"):  # the elements of a list or dict
            yield from map(self._bytes, list(part))
        elif isinstance(part, dict) and all(type(key) is str for key in part):  # attributes
            for key in sorted(part):
                yield from (key.encode(), self._bytes(part[key]))
        else:
            yield self._bytes(part)

    def _module(self, module: ModuleType) -> bytes:
        """Reach a module that is used as a whole."""
        if not is_users_module(module):
            self._note_library(module.__name__)
            return f"module {module.__name__}".encode()
        if id(module) not in self._names:
            self._remember(module, f"module {sum(isinstance(each, ModuleType) for each in self._kept) + 1}")
            for name in sorted(vars(module)):
                if name not in _OF_MODULES:
                    value = vars(module)[name]
                    self._pending.append(
                        functools.partial(self._attribute, value, in_module(module.__name__, name), ())
                    )
        return self._names[id(module)].encode()

    def _refused(self, value: Any, why: str) -> bytes:
        self.not_covered[f"the {type(value).__name__} in {self._place}: {why}"] = None
        return b"not covered"

    def _note_if_compiled(self, value: Any) -> None:
        """Take note of a C extension that is the user's, and of the library of a compiled function."""
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        module = sys.modules.get(name) if isinstance(name, str) else None
        file = getattr(module, "__file__", None) or ""
        if not file.endswith(_COMPILED):
            return
        if is_users_file(file):
            self.not_covered[f"the C extension {name}: its code cannot be read (depends= takes the module)"] = None
        else:
            self._note_library(name)

    # Books

    def _note_library(self, module: str | None) -> None:
        top = (module or "").partition(".")[0]
        if top and top not in sys.stdlib_module_names and top != "__main__":
            self.packages.add(top)

    def _remember(self, value: Any, name: str) -> None:
        self._names[id(value)] = name
        self._kept.append(value)

    def _new_part(self, name: Name) -> str:
        """Make room for a part; return its name, which no other has: several closures may come from one function."""
        part = _unused(name.plain, self.parts)
        self.parts[part] = ""  # takes its place in the order
        self.labels[part] = _unused(name.label, self.labels.values())
        return part


def _unused(name: str, names: Container[str]) -> str:
    found, count = name, 1
    while found in names:
        count += 1
        found = f"{name} ({count})"
    return found
