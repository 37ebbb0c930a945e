"""Docstrings are true: their examples run, and their Parameters sections name the parameters that there are."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import paramsurvey
from paramsurvey.options import TABLE

NAMES = ["paramsurvey", *(found.name for found in pkgutil.walk_packages(paramsurvey.__path__, "paramsurvey."))]
OPTIONAL = {"ray", "mpi4py"}  # which a backend needs
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    """Examples that open a session write its log file into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARAMSURVEY_NCORES", "2")
    yield
    paramsurvey.finalize()


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module_print_what_they_say(name, capsys):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name not in OPTIONAL:
            raise
        pytest.skip(f"{exc.name} is not installed")
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.failed == 0, capsys.readouterr().out


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes that users meet, with their full names."""
    for name in paramsurvey.__all__:
        each = getattr(paramsurvey, name)
        if not inspect.ismodule(each):
            yield f"paramsurvey.{name}", each
        elif name == "testing":  # the rest of it must be importable for worker processes, not for users
            yield f"{each.__name__}.BackendContract", each.BackendContract
            yield f"{each.__name__}.StageContract", each.StageContract
        else:
            for inner in getattr(each, "__all__", None) or vars(each):
                if not inner.startswith("_") and getattr(getattr(each, inner), "__module__", "") == each.__name__:
                    yield f"{each.__name__}.{inner}", getattr(each, inner)
    yield from objects_behind()


BEHIND = {
    "backends.base": (),  # for those who write a backend
    "stages.base": (),  # for those who write a stage
    **{f"stages.{name}": () for name in ("map", "rows", "tables", "reduce")},
    "stages.greedy": ("Greedy",),
    "tables": ("Table",),
    "journal.reading": ("OpenJournal",),
    "journal.explaining": ("Explanation",),
    "streams": ("Stream", "RunStream"),
    "drawing.boxes": ("Box", "Drawing"),
    "charts": ("Chart",),
}
"""What users meet without importing it from the package: by module, and what of it if not all."""


def objects_behind() -> Iterator[tuple[str, Any]]:
    for where, names in BEHIND.items():
        module = importlib.import_module(f"paramsurvey.{where}")
        for name, each in vars(module).items():
            is_its_own = getattr(each, "__module__", "") == module.__name__ and not name.startswith("_")
            if name in names or (not names and is_its_own):
                yield f"{module.__name__}.{name}", each


def public_methods(where: str, cls: type) -> Iterator[tuple[str, Any]]:
    for name, each in vars(cls).items():
        if not name.startswith(("_", "test_")) and (
            inspect.isfunction(each) or isinstance(each, property | classmethod)
        ):
            yield f"{where}.{name}", each


OBJECTS = {name: each for name, each in public_objects() if inspect.isfunction(each) or inspect.isclass(each)}
METHODS = {
    name: method
    for where, each in OBJECTS.items()
    if inspect.isclass(each)
    for name, method in public_methods(where, each)
}


def section(docstring: str, title: str) -> list[str]:
    """Return the names in a section of a numpydoc docstring; ``a, b : int`` has two."""
    heading = rf"^{title}\n-{{{len(title)}}}\n"
    found = re.search(heading + r"(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if found is None:
        return []
    entries = [line for line in found[1].splitlines() if line and not line.startswith(" ")]
    return [name.strip() for entry in entries for name in entry.split(" : ")[0].split(",")]


def parameters_of(each: Any) -> list[str]:
    """Return the names of the parameters that a caller gives, with the stars of ``*args`` and ``**kwargs``."""
    if isinstance(each, property) or (inspect.isclass(each) and "__init__" not in vars(each)):
        return []
    if getattr(each, "_is_protocol", False):  # nobody makes one
        return []
    if inspect.isclass(each) and issubclass(each, BaseException):  # it is ours to make
        return []
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(getattr(each, "__func__", each)).parameters.values()
    return [stars.get(each.kind, "") + each.name for each in parameters if each.name not in ("self", "cls", "_")]


def documented(each: Any) -> list[str]:
    """Return the names in the Parameters section, or, for a class that is its attributes, in the Attributes section."""
    docstring = inspect.getdoc(each) or ""
    names = section(docstring, "Parameters")
    if not names and inspect.isclass(each):
        names = [name for name in section(docstring, "Attributes") if not is_computed(each, name)]
    if "**options" in names:  # the options that are named with it are among them
        names = [name for name in names if name not in TABLE]
    return names


def is_computed(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), property)


def has_a_maker(each: Any) -> bool:
    """Tell whether a docstring says who makes such an object; then that function's docstring has the parameters."""
    return re.search(r"`\w+` makes (it|them)\b", inspect.getdoc(each) or "") is not None


@pytest.mark.parametrize("name", OBJECTS | METHODS)
def test_whatever_is_public_has_a_docstring_that_begins_with_a_sentence(name):
    docstring = inspect.getdoc((OBJECTS | METHODS)[name]) or ""
    assert re.match(r"[A-Z`\"'].*?[.:;](\s|$)", docstring, re.DOTALL), docstring


@pytest.mark.parametrize(
    "name", [name for name, each in OBJECTS.items() if parameters_of(each) and not has_a_maker(each)]
)
def test_a_docstring_names_exactly_the_parameters(name):
    assert documented(OBJECTS[name]) == parameters_of(OBJECTS[name])


OF_EVERY_STAGE = {"columns", "bounds", "rows", "table"}
"""What the protocols of stages describe, for all of them."""


def is_described_elsewhere(name: str) -> bool:
    """Tell whether a method of a stage is one that `paramsurvey.stages.base` has the parameters of."""
    where, _, method = name.rpartition(".")
    return ".stages." in where and ".base." not in where and method in OF_EVERY_STAGE


@pytest.mark.parametrize(
    "name", [name for name, each in METHODS.items() if parameters_of(each) and not is_described_elsewhere(name)]
)
def test_a_methods_docstring_names_exactly_the_parameters(name):
    assert documented(METHODS[name]) == parameters_of(METHODS[name])


@pytest.mark.parametrize("name", ["init", "map"])
def test_an_option_that_a_docstring_names_is_an_option(name):
    function = getattr(paramsurvey, name)
    named = section(inspect.getdoc(function) or "", "Parameters")
    assert set(named) - set(parameters_of(function)) <= set(TABLE)


def test_every_name_that_the_package_promises_is_there():
    assert [name for name in paramsurvey.__all__ if not hasattr(paramsurvey, name)] == []


def test_a_section_is_read_to_its_end():
    docstring = "Do.\n\nParameters\n----------\na, b : int\n    Two.\n*c : str\n\nReturns\n-------\nd : int"
    assert section(docstring, "Parameters") == ["a", "b", "*c"]
    assert section(docstring, "Returns") == ["d"]
    assert section(docstring, "Raises") == []
