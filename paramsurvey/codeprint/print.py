"""A print of code, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from paramsurvey.codeprint.digests import digest
from paramsurvey.codeprint.owners import versions_of
from paramsurvey.codeprint.walk import Walk


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
        return digest(*(f"{name}={digest}".encode() for name, digest in sorted(self.parts.items())))


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
    walk = Walk()
    walk.start(worker)
    walk.go_on_with(user_kwargs)
    return CodePrint(walk.parts, versions_of(walk.packages), tuple(walk.not_covered), walk.labels)
