"""What a worker's code is: a print of it that changes when an answer might, and only then.

A journal serves an answer again if it was computed by the same code. That is the worker's own, and the helpers,
constants, classes, default arguments and closure values that it reaches inside the user's own code, across modules. A
library is code, too, but not the user's: only its version is noted. So is Python's.

How code is compared
--------------------
By its syntax tree, without docstrings and positions, where its source can be found. Bytecode will not do: where a line
is broken shows in it (the compiler keeps a NOP for a debugger to stop at, and does not thread jumps between lines), and
every Python has another.

The source in a file need not be what runs: somebody may have edited it since. So the source is compiled, and believed
only if one of the code objects that come out is equal to the one that runs, positions included. Otherwise, and for
scripts on standard input, where there is no source, the print is of the bytecode: without NOPs, docstrings and line
numbers, with Python's version, and as tolerant of formatting as that can be.

How it is found out what code reaches
-------------------------------------
The objects are asked, not the text: the names that the bytecode loads are looked up in the function's module as it is
now, so it makes no difference how a helper got there. A name of a module of the user's is followed along its
attributes, ``tools.optics.focus``; a module that is used otherwise is reached whole. A class is reached whole, with its
bases. A module that is imported inside a function is imported here, if it is the user's.

A global counts with the value that it has when the survey begins; that of a random number generator is its state. One
of numpy's that was not seeded, or whose seed has more than 96 bits, does not count: rows would be new in every program,
as they are if the standard library's, or an old ``RandomState``, was not seeded.

What things are called
----------------------
Only what the code says counts, and a script does not say how its file is called. So a part is known by its name inside
its module, ``function scale``; of several with one name, by the order in which they are reached. A script that was
renamed, a module that was moved, and a helper that has moved to another module have the print that they had. Where a
name stands for something that is called otherwise, ``from math import sin as f``, or that is a library's, what it
stands for is a part. Code that asks for ``__name__`` depends on it. So does what is known by the name of its module:
values of the user's own classes in psets and in ``user_kwargs``, if these are not classes of ``__main__``.

What cannot be seen
-------------------
- what a name built at run time stands for: ``getattr(thing, "sc" + "ale")``, ``importlib.import_module(name)``
- functions that arrive in psets, or in what a worker reads from files (``depends=``, ``version=`` are for those);
  those in ``user_kwargs`` are seen
- what libraries do, environment variables, other programs
- docstrings, also if the code asks for them (``__doc__``)

and, which is named in `CodePrint.not_covered`:

- C extensions of the user's own
- what ``eval``, ``exec`` and ``import_module`` find
- the state of what has none that can be compared: open files, locks, generators; random numbers without a seed
- functions whose source is not found, or is not what runs: their bytecode counts, which also changes if nothing does

Whose code it is, `paramsurvey.editions` tells, which sees to it that workers have the code that is printed here.
"""

from __future__ import annotations
import __future__

import ast
import copyreg
import dis
import functools
import linecache
import logging
import marshal
import operator
import os
import platform
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple, TypeAlias

import attrs

from paramsurvey.callables import worker_name
from paramsurvey.editions import is_users_file, text_of
from paramsurvey.engine.pickling import LARGE, is_atomic
from paramsurvey.fingerprint import typed_bytes


@attrs.frozen
class CodePrint:
    """What the code of a worker is, part by part.

    Attributes
    ----------
    parts : mapping of str to str
        A digest for each part that was reached, by its name: ``worker image``, ``function scale``, ``constant G``,
        ``class Star``, ``default x of image``, ``closure value k of ...``, ``name f`` (what a name stands for).
    libraries : mapping of str to str
        The versions of Python and of the installed distributions that it uses.
    not_covered : tuple of str
        What it uses that cannot be compared, or not well, with the reason.
    labels : mapping of str to str
        What the parts are called for people, by their names: with their modules.

    Examples
    --------
    >>> before = CodePrint({"worker image": "5b1c", "function scale": "0a4e"})
    >>> after = CodePrint({"worker image": "5b1c", "function scale": "77d0"})
    >>> before.digest == after.digest
    False
    """

    parts: Mapping[str, str]
    libraries: Mapping[str, str] = MappingProxyType({})
    not_covered: tuple[str, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})

    @property
    def digest(self) -> str:
        """One digest of all parts; the versions of libraries are not in it."""
        return _digest(*(f"{name}={digest}".encode() for name, digest in sorted(self.parts.items())))


def code_print(worker: Callable[..., Any], user_kwargs: Any = None) -> CodePrint:
    """Return the print of a worker's code, and of the user's own code that it reaches.

    It is the same in every process, also on another day, and changes with whatever of the user's own code the worker
    depends on. Comments, docstrings, formatting, the place in a file and the file are no part of it.

    Parameters
    ----------
    worker : callable
        A function of a module, of ``__main__`` or of a notebook; a lambda, closure, method, partial or callable object;
        what `workers.keywords` and `workers.command` make.
    user_kwargs : optional
        What it is given in each call. The functions and classes of the user's in it are the worker's, too; what else
        is in it is not part of the print.

    Examples
    --------
    >>> code_print(lambda pset, system, user: {"b": abs(pset["a"])}).not_covered
    ()
    """
    walk = _Walk()
    walk.start(worker)
    walk.go_on_with(user_kwargs)
    return CodePrint(walk.parts, _versions(walk.packages), tuple(walk.not_covered), walk.labels)


def _digest(*contents: bytes) -> str:
    found = blake2b(digest_size=16)
    for content in contents:
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


# --- the walk from a worker to what it reaches ----------------------------------------------------

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

_FACTS = (
    *("name", "default", "default_factory", "factory", "validator", "converter", "init", "eq", "order", "hash"),
    *("compare", "kw_only", "alias", "on_setattr", "takes_self"),
)
"""What there is to know about a field of an attrs class or a dataclass."""

LONGEST_SEED = 96
"""Bits; of 128 bits that the system has chosen, so few are enough once in four thousand million times."""

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


class Name(NamedTuple):
    """What something is called: as it counts, and for people, with its module."""

    plain: str
    label: str

    def within(self, form: str) -> Name:
        """Return the name of something of it; `form` has two braces where the name stands."""
        return Name(form.format(self.plain), form.format(self.label))


class _Walk:
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
        if isinstance(worker, FunctionType) and _is_users_function(worker):
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
                self.parts[f"code in {place}"] = _digest(*(name.encode() for name in met))
        self._look_into_what_is_pending()

    def _look_into_what_is_pending(self) -> None:
        while self._pending:
            self._pending.popleft()()

    def _other_worker(self, worker: Any) -> None:
        name = _type_name(type(worker)).within("worker {}")
        if isinstance(worker, functools.partial):
            partial = f"partial of {worker_name(worker)}"
            name = Name(f"worker {partial}", f"worker {partial}")
            for key, value in (*enumerate(worker.args, 1), *worker.keywords.items()):
                argument = f"argument {key} of {partial}"
                self._value(Name(argument, argument), value)
            worker = worker.func
        elif worker is not self._worker:
            name = _type_name(type(worker)).within(f"decorator {{}} of {worker_name(self._worker)}")
        elif isinstance(worker, FunctionType):
            name = _function_name(worker).within("worker {}")
        elif isinstance(worker, MethodType):
            name = _type_name(type(worker.__self__)).within(f"worker {worker_name(worker)} of {{}}")
        self._value(name, worker)

    # Functions

    def _function(self, func: FunctionType) -> str:
        """Reach a function of the user's; return the name of its part."""
        if id(func) in self._names:
            return self._names[id(func)]
        name = _function_name(func)
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
        source = _source_of(code, module)
        if source is None and code.co_filename != "<string>":  # what was generated has none
            self.not_covered[f"the source in {os.path.basename(code.co_filename)}: {_NO_SOURCE}"] = None
        self.parts[part] = _digest(*(_definition_bytes(source) if source else _code_bytes(code)))
        for name, value in self._defaults(func):
            self._value(where.within(f"default {name} of {{}}"), value)
        for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
            try:
                self._value(where.within(f"closure value {name} of {{}}"), cell.cell_contents)
            except ValueError:  # not yet filled
                pass
        for path in _reached(code):
            if path.module is None:
                self._global(module, path.names)
                self._note_finder(path.names, module, where.label)
            else:
                self._imported(path, module.get("__package__") or "", where.label)
        for names in _decorators(source):
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
            self._attribute(module[names[0]], _in_module(module.get("__name__") or "__main__", names[0]), names[1:])

    def _imported(self, path: _Path, package: str, where: str) -> None:
        """Reach what is imported inside a function: if it is the user's, it is imported here."""
        assert path.module is not None
        name = path.module.lstrip(".")
        if level := len(path.module) - len(name):
            parents = package.rsplit(".", level - 1)[0]
            name = f"{parents}.{name}" if name else parents
        if (top := name.partition(".")[0]) in sys.stdlib_module_names:
            return
        try:
            found = sys.modules.get(name) if name in sys.modules else _import_if_users(name)
        except Exception as exc:  # noqa: BLE001 - a module may raise anything while it is imported
            self.not_covered[f"module {name}, imported in {where}: {type(exc).__name__}: {exc}"] = None
            return
        if found is None:
            self._note_library(top)
        else:
            self._attribute(found, Name(name, name), path.names)

    def _attribute(self, value: Any, name: Name, names: tuple[str, ...]) -> None:
        """Follow attributes as long as they are those of modules; reach what they lead to."""
        while isinstance(value, ModuleType) and names and _is_users_module(value):
            if names[0] in _OF_MODULES or not hasattr(value, names[0]):
                return
            name = _in_module(value.__name__, names[0])
            value, names = getattr(value, names[0]), names[1:]
        if isinstance(value, FunctionType) and names and names[0] in vars(value):
            attribute = name.within(f"{{}}.{names[0]}")
            self._value(attribute.within("constant {}"), vars(value)[names[0]])
        if isinstance(value, ModuleType | FunctionType | type | BuiltinFunctionType):
            found = self._bytes(value)
            if not _is_evident(value, name.plain):
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
        part = self._new_part(_type_name(kind).within("class {}"))
        self._remember(kind, part)
        self._pending.append(lambda: self._look_into_class(kind, part))
        return part

    def _look_into_class(self, kind: type, part: str) -> None:
        self._begin_with(self.labels[part])
        contents = [self._bytes(base) for base in (*kind.__bases__, type(kind))]
        for name, value in sorted(vars(kind).items()):
            if name not in _GENERATED and not isinstance(value, _DESCRIPTORS) and not _is_generated(value):
                contents += [name.encode(), self._bytes(value)]
        contents += [self._bytes(fact) for fact in _fields(kind)]
        self.parts[part] = _digest(*contents)

    # Values

    def _value(self, name: Name, value: Any) -> None:
        """Add a part for a value."""
        part = self._new_part(name)
        self._begin_with(self.labels[part])
        self.parts[part] = _digest(self._bytes(value))

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
        if isinstance(value, FunctionType) and _is_users_function(value):
            return self._code_met(self._function(value))
        if isinstance(value, type):
            if _is_users(None, value.__module__):
                return self._code_met(self._class(value))
            self._note_library(str(value.__module__))
            return _type_name(value).plain.encode()
        if isinstance(value, ModuleType):
            return self._module(value)
        return self._bytes_looked_at_once(value)

    def _bytes_looked_at_once(self, value: Any) -> bytes:
        """Return the bytes of something that has others in it; of what is around itself, how many came before it."""
        if id(value) in self._looked_at:
            return self._looked_at[id(value)][1]
        self._looked_at[id(value)] = value, f"itself {len(self._looked_at)}".encode()  # kept: no id is used twice
        try:
            found = _digest(_type_name(type(value)).plain.encode(), *self._content(value)).encode()
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
        if self._met is not None and _is_numbers(value):
            return  # they may be many, and there is no code in them
        if kind in (list, tuple):
            yield from self._elements(value)
        elif kind in (set, frozenset):
            yield from sorted(map(self._bytes, sorted(value, key=_order)))
        elif kind in (dict, MappingProxyType):
            yield from self._elements([each for item in value.items() for each in item])
        elif kind in _VIEWS:
            yield from self._elements(list(value))
        elif _is_unseeded(value):
            yield self._refused(value, "it was not seeded, and so is another one in every program")
        elif isinstance(value, FunctionType):
            self._note_library(value.__globals__.get("__name__"))
            yield _function_name(value).plain.encode()
            yield from map(self._bytes, _functions_inside(value))
        elif (parts := _known_parts(value)) is not None:
            yield from map(self._bytes, parts)
        elif hasattr(value, "dtype") and hasattr(value, "tobytes"):
            self._note_library(kind.__module__)
            yield self._bytes(value.tolist()) if value.dtype.hasobject else _bytes_of_numbers(value)
        elif kind.__module__.partition(".")[0] == "pandas":
            self._note_library("pandas")
            yield typed_bytes(value)
        else:
            yield self._bytes(kind)
            yield from self._state(value)

    def _elements(self, values: Sequence[Any]) -> Iterator[bytes]:
        """Yield the bytes of values one by one; of many that are numbers and texts, at the speed of C."""
        if len(values) >= MANY and set(map(type, values)) <= _PLAIN:
            yield _digest(marshal.dumps(list(values), _MARSHAL)).encode()
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
        if not _is_users_module(module):
            self._note_library(module.__name__)
            return f"module {module.__name__}".encode()
        if id(module) not in self._names:
            self._remember(module, f"module {sum(isinstance(each, ModuleType) for each in self._kept) + 1}")
            for name in sorted(vars(module)):
                if name not in _OF_MODULES:
                    value = vars(module)[name]
                    self._pending.append(
                        functools.partial(self._attribute, value, _in_module(module.__name__, name), ())
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


def _is_unseeded(value: Any) -> bool:
    """Tell whether a numpy generator was made without a seed: then it has 128 bits from the system for one."""
    seed = getattr(getattr(value, "bit_generator", value), "seed_seq", None)
    entropy = getattr(seed, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > LONGEST_SEED


def _bytes_of_numbers(value: Any) -> bytes:
    """Return the typed bytes of an array, or, if it is large, a digest that is made without a copy."""
    if value.nbytes < LARGE or value.dtype.kind not in "biuf" or not value.flags.c_contiguous:
        return typed_bytes(value)
    found = blake2b(typed_bytes((str(value.dtype), value.shape)), digest_size=16)
    found.update(value.reshape(-1).view("u1").data)
    return found.hexdigest().encode()


def _is_numbers(value: Any) -> bool:
    if type(value).__module__.partition(".")[0] == "pandas":
        return True
    return hasattr(value, "dtype") and hasattr(value, "tobytes") and not getattr(value.dtype, "hasobject", False)


def _functions_inside(func: FunctionType) -> Iterator[Any]:
    """Yield the functions that a library's function works for: it may be what a decorator has made of the user's."""
    if (wrapped := getattr(func, "__wrapped__", None)) is not None:
        yield wrapped
    if isinstance(registry := vars(func).get("registry"), MappingProxyType):  # of functools.singledispatch
        yield registry
    for cell in func.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled
            continue
        if isinstance(value, FunctionType | MethodType | functools.partial):
            yield value


def _is_generated(value: Any) -> bool:
    """Tell whether a method was made by attrs or dataclasses: then the fields say all, and without random names."""
    return isinstance(value, FunctionType) and (
        value.__code__.co_filename.startswith("<attrs generated")
        or (value.__code__.co_filename == "<string>" and value.__code__.co_name.startswith("__"))
    )


def _fields(kind: type) -> Iterator[Any]:
    """Yield what is known of the fields of an attrs class or a dataclass."""
    fields = [*vars(kind).get("__attrs_attrs__", ()), *vars(kind).get("__dataclass_fields__", {}).values()]
    for field in fields:
        yield [(fact, getattr(field, fact)) for fact in _FACTS if hasattr(field, fact)]
    if "__dataclass_params__" in vars(kind):
        yield repr(vars(kind)["__dataclass_params__"])


def _known_parts(value: Any) -> Sequence[Any] | None:
    """Return what some wrappers of code are made of: what they would pickle as does not show it."""
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, BuiltinFunctionType):
        owner = value.__self__
        return (value.__qualname__, owner.__name__ if isinstance(owner, ModuleType) else owner)
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if type(value).__module__.partition(".")[0] == "paramsurvey" and attrs.has(type(value)):
        return [(field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.init]
    if callable(value) and (wrapped := getattr(value, "__wrapped__", None)) is not None:
        return (wrapped,)
    return None


def _order(value: Any) -> tuple[str, str]:
    """Return where to look at an element of a set: names of parts depend on the order in which they are reached."""
    return type(value).__qualname__, getattr(value, "__qualname__", "") if callable(value) else ""


def _function_name(func: FunctionType) -> Name:
    module = func.__globals__.get("__name__") or func.__module__
    return _name_in(module, func.__code__.co_qualname, is_users=_is_users_function(func))


def _type_name(kind: type) -> Name:
    return _name_in(kind.__module__, kind.__qualname__, is_users=_is_users(None, kind.__module__))


def _name_in(module: str, name: str, *, is_users: bool) -> Name:
    """Return the name of something: that of a library says which library."""
    label = f"{_label(module)}.{name}"
    return Name(name if is_users else label, label)


def _in_module(module: str, name: str) -> Name:
    """Return the name of a global of the user's."""
    return _name_in(module, name, is_users=True)


def _is_evident(value: Any, name: str) -> bool:
    """Tell whether nothing has to be said of what a global stands for: it is the user's and called so, or a module."""
    if isinstance(value, ModuleType):
        return value.__name__ == name or _is_users_module(value)
    if isinstance(value, BuiltinFunctionType):
        return False
    is_users = _is_users(None, value.__module__) if isinstance(value, type) else _is_users_function(value)
    return is_users and value.__name__ == name


def _label(module: str) -> str:
    """Return the name of a module; that of a script is the one it has when it is imported."""
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return os.path.splitext(os.path.basename(file))[0] if file else module


# --- whose code it is -----------------------------------------------------------------------------


def _is_users(file: str | None, module: str | None) -> bool:
    """Tell whether code is the user's own: by its file, or by that of its module."""
    if file is None or file.startswith("<"):
        name = module or ""
        if not isinstance(name, str) or name == "builtins" or name.startswith("_cython_"):
            return False  # what compiled libraries make up has a module that is nowhere
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:  # built in, a namespace, or what was typed in
            return name.partition(".")[0] not in sys.stdlib_module_names
    return is_users_file(file)


def _is_users_module(module: ModuleType) -> bool:
    return _is_users(getattr(module, "__file__", None), module.__name__)


def _is_users_function(func: FunctionType) -> bool:
    return _is_users(func.__code__.co_filename, func.__module__)


def _import_if_users(name: str) -> ModuleType | None:
    from importlib.util import find_spec

    top = find_spec(name.partition(".")[0])
    if top is None:
        raise ModuleNotFoundError(f"there is no module {name!r} here")
    places = [top.origin] if top.origin else list(top.submodule_search_locations or ())
    return import_module(name) if any(map(is_users_file, places)) else None


def version_of(module: ModuleType) -> str | None:
    """Return the version of what a module was installed with, None if it is the user's own code.

    Examples
    --------
    >>> import sys
    >>> version_of(sys) == platform.python_version()
    True
    """
    top = module.__name__.partition(".")[0]
    if top in sys.stdlib_module_names:
        return platform.python_version()
    return None if _is_users_module(module) else _distribution(top)[1]


def _versions(packages: set[str]) -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in sorted(packages):
        name, version = _distribution(package)
        found[name] = version
    return found


@functools.lru_cache(maxsize=1024)
def _distribution(package: str) -> tuple[str, str]:
    """Return the name and the version of what a package was installed with."""
    from importlib import metadata  # here, because importing it takes longer than most prints

    try:
        return package, metadata.version(package)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(package, ())  # some 20 ms: only for those with another name
        return (names[0], metadata.version(names[0])) if names else (package, "unknown")


# --- what code loads ------------------------------------------------------------------------------


class _Path(NamedTuple):
    """A global name and attributes of it; or a module that is imported where it is used, and names in it."""

    names: tuple[str, ...]
    module: str | None = None


_Bindings: TypeAlias = "dict[str, _Path]"


@functools.lru_cache(maxsize=4096)
def _reached(code: CodeType) -> tuple[_Path, ...]:
    """Return what a function's code, and the code inside it, loads from elsewhere, in the order of the code."""
    return tuple(dict.fromkeys(_paths(code, {})))


def _paths(code: CodeType, bound: _Bindings) -> Iterator[_Path]:
    instructions = [each for each in dis.get_instructions(code) if each.opname not in _SKIPPED]
    bound = bound | dict(_local_imports(instructions))
    path: _Path | None = None
    for at, each in enumerate(instructions):
        if path is not None and each.opname in _ATTRIBUTES:
            path = path._replace(names=(*path.names, each.argval))
            continue
        if path is not None:
            yield path
        path = None
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            path = _Path((each.argval,))
        elif each.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")) and each.argval in bound:
            path = bound[each.argval] if each.opname != "LOAD_CLOSURE" else None
        elif each.opname == "IMPORT_NAME":
            module = _module_of(instructions, at)
            yield from (_Path((name,), module) for name in instructions[at - 1].argval or ("__name__",))
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


def _local_imports(instructions: list[dis.Instruction]) -> Iterator[tuple[str, _Path]]:
    """Yield the local names to which ``import a.b`` and ``import a.b as c`` bind modules."""
    for at, each in enumerate(instructions):
        if each.opname != "IMPORT_NAME" or instructions[at - 1].argval:
            continue
        module, after = _module_of(instructions, at), at + 1
        if instructions[after].opname.startswith("STORE"):
            yield instructions[after].argval, _Path((), module.partition(".")[0])
            continue
        while not instructions[after].opname.startswith("STORE"):  # IMPORT_FROM, and what tidies up the stack
            after += 1
        last = next(step for step in instructions[after:] if step.opname.startswith("STORE"))
        yield last.argval, _Path((), module)


# --- prints of code -------------------------------------------------------------------------------

_Definition: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda"


def _source_of(code: CodeType, module: dict[str, Any]) -> _Definition | None:
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
def _definitions(text: str, flags: int, one_by_one: bool) -> dict[CodeType, _Definition]:
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
    found: dict[CodeType, _Definition] = {}
    for code in chain.from_iterable(map(_codes, compiled)):
        around = [node for node in nodes.get((code.co_firstlineno, code.co_name), ()) if _is_around(node, code)]
        if around:
            found[code] = max(around, key=lambda node: (node.lineno, node.col_offset))  # the innermost
    return found


def _by_place(tree: ast.Module) -> dict[tuple[int, str], list[_Definition]]:
    """Return all definitions by the line in which their code begins, and their name."""
    nodes: dict[tuple[int, str], list[_Definition]] = {}
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


def _is_around(node: _Definition, code: CodeType) -> bool:
    """Tell whether what a code object does stands inside a definition."""
    begin = (node.lineno, node.col_offset)
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and column is not None and end_column:
            if not isinstance(node, ast.Lambda):
                return True  # there is one of that name in that line
            return begin <= (line, column) and (end_line or line, end_column) <= end
    return not isinstance(node, ast.Lambda)


def _decorators(source: _Definition | None) -> Iterator[tuple[str, ...]]:
    """Yield the names that stand in the decorators of a function."""
    for decorator in getattr(source, "decorator_list", ()):
        for node in ast.walk(decorator):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            if isinstance(node, ast.Name):
                yield (node.id, *names)


def _definition_bytes(node: _Definition) -> Iterator[bytes]:
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


def _code_bytes(code: CodeType) -> Iterator[bytes]:
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
            yield from _code_bytes(constant) if isinstance(constant, CodeType) else (typed_bytes(constant),)
        elif each.opcode in dis.hasjrel or each.opcode in dis.hasjabs:
            yield str(bisect_left(places, each.argval)).encode()
        else:
            yield repr(each.argval).encode()
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined] # typeshed does not know them
        ends = [bisect_left(places, offset) for offset in (entry.start, entry.end, entry.target)]
        yield repr((*ends, entry.depth, entry.lasti)).encode()


_HAS_DOCSTRING = 0x4000000  # a flag of Python 3.13 and later
