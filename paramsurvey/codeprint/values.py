"""What values are made of that do not say it by themselves: generators, arrays, wrappers of code, fields of classes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import attrs

from paramsurvey.engine.pickling import LARGE
from paramsurvey.fingerprint import typed_bytes

_FACTS = (
    *("name", "default", "default_factory", "factory", "validator", "converter", "init", "eq", "order", "hash"),
    *("compare", "kw_only", "alias", "on_setattr", "takes_self"),
)
"""What there is to know about a field of an attrs class or a dataclass."""

LONGEST_SEED = 96
"""Bits; of 128 bits that the system has chosen, so few are enough once in four thousand million times."""


def is_unseeded(value: Any) -> bool:
    """Tell whether a numpy generator was made without a seed: then it has 128 bits from the system for one."""
    seed = getattr(getattr(value, "bit_generator", value), "seed_seq", None)
    entropy = getattr(seed, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > LONGEST_SEED


def bytes_of_numbers(value: Any) -> bytes:
    """Return the typed bytes of an array, or, if it is large, a digest that is made without a copy."""
    if value.nbytes < LARGE or value.dtype.kind not in "biuf" or not value.flags.c_contiguous:
        return typed_bytes(value)
    found = blake2b(typed_bytes((str(value.dtype), value.shape)), digest_size=16)
    found.update(value.reshape(-1).view("u1").data)
    return found.hexdigest().encode()


def is_numbers(value: Any) -> bool:
    """Tell whether it is an array or a table, without any code in it."""
    if type(value).__module__.partition(".")[0] == "pandas":
        return True
    return hasattr(value, "dtype") and hasattr(value, "tobytes") and not getattr(value.dtype, "hasobject", False)


def functions_inside(func: FunctionType) -> Iterator[Any]:
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


def is_generated(value: Any) -> bool:
    """Tell whether a method was made by attrs or dataclasses: then the fields say all, and without random names."""
    return isinstance(value, FunctionType) and (
        value.__code__.co_filename.startswith("<attrs generated")
        or (value.__code__.co_filename == "<string>" and value.__code__.co_name.startswith("__"))
    )


def fields_of(kind: type) -> Iterator[Any]:
    """Yield what is known of the fields of an attrs class or a dataclass."""
    fields = [*vars(kind).get("__attrs_attrs__", ()), *vars(kind).get("__dataclass_fields__", {}).values()]
    for field in fields:
        yield [(fact, getattr(field, fact)) for fact in _FACTS if hasattr(field, fact)]
    if "__dataclass_params__" in vars(kind):
        yield repr(vars(kind)["__dataclass_params__"])


def known_parts(value: Any) -> Sequence[Any] | None:
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


def order(value: Any) -> tuple[str, str]:
    """Return where to look at an element of a set: names of parts depend on the order in which they are reached."""
    return type(value).__qualname__, getattr(value, "__qualname__", "") if callable(value) else ""
