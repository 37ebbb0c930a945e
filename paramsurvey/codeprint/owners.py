"""Whose code it is: the user's own, or a library's, of which the version is known."""

from __future__ import annotations

import functools
import platform
import sys
from importlib import import_module
from types import FunctionType, ModuleType

from paramsurvey.editions import is_users_file


def is_users(file: str | None, module: str | None) -> bool:
    """Tell whether code is the user's own: by its file, or by that of its module."""
    if file is None or file.startswith("<"):
        name = module or ""
        if not isinstance(name, str) or name == "builtins" or name.startswith("_cython_"):
            return False  # what compiled libraries make up has a module that is nowhere
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:  # built in, a namespace, or what was typed in
            return name.partition(".")[0] not in sys.stdlib_module_names
    return is_users_file(file)


def is_users_module(module: ModuleType) -> bool:
    """Tell whether a module is the user's own."""
    return is_users(getattr(module, "__file__", None), module.__name__)


def is_users_function(func: FunctionType) -> bool:
    """Tell whether a function is the user's own: by where its code is, whoever has it now."""
    return is_users(func.__code__.co_filename, func.__module__)


def import_if_users(name: str) -> ModuleType | None:
    """Import a module if it is the user's own, and return it; None if it is a library's, which is left alone.

    Raises
    ------
    ModuleNotFoundError
        There is no such module.
    Exception
        Whatever a module of the user's raises while it is imported.
    """
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
    return None if is_users_module(module) else _distribution(top)[1]


def versions_of(packages: set[str]) -> dict[str, str]:
    """Return the versions of what packages were installed with, by its names, and of Python."""
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
