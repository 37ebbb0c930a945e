"""What the parts of a print are called: as they count, by what the code says, and for people, with their modules."""

from __future__ import annotations

import os
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from paramsurvey.codeprint.owners import is_users, is_users_function, is_users_module


class Name(NamedTuple):
    """What something is called: as it counts, and for people, with its module."""

    plain: str
    label: str

    def within(self, form: str) -> Name:
        """Return the name of something of it; `form` has two braces where the name stands."""
        return Name(form.format(self.plain), form.format(self.label))


def function_name(func: FunctionType) -> Name:
    """Return the name of a function."""
    module = func.__globals__.get("__name__") or func.__module__
    return _name_in(module, func.__code__.co_qualname, is_own=is_users_function(func))


def type_name(kind: type) -> Name:
    """Return the name of a class."""
    return _name_in(kind.__module__, kind.__qualname__, is_own=is_users(None, kind.__module__))


def _name_in(module: str, name: str, *, is_own: bool) -> Name:
    """Return the name of something: that of a library says which library."""
    label = f"{_label(module)}.{name}"
    return Name(name if is_own else label, label)


def in_module(module: str, name: str) -> Name:
    """Return the name of a global of the user's."""
    return _name_in(module, name, is_own=True)


def is_evident(value: Any, name: str) -> bool:
    """Tell whether nothing has to be said of what a global stands for: it is the user's and called so, or a module."""
    if isinstance(value, ModuleType):
        return value.__name__ == name or is_users_module(value)
    if isinstance(value, BuiltinFunctionType):
        return False
    is_own = is_users(None, value.__module__) if isinstance(value, type) else is_users_function(value)
    return is_own and value.__name__ == name


def _label(module: str) -> str:
    """Return the name of a module; that of a script is the one it has when it is imported."""
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return os.path.splitext(os.path.basename(file))[0] if file else module
