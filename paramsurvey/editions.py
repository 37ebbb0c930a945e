"""Editions: modules of the user's as this program has imported them, so that its workers have the same ones.

Workers import modules for themselves, and a file may have been edited since the program has imported it: then answers
of two versions would stand in one table, and a journal would keep those of the one as those of the other. So what a
survey publishes begins with the editions of all modules of the user's that its program has, the text of each included.
A worker process that takes it

- imports a module from its file if that is what it was, else from the text that came along;
- forgets what it has imported if any of it is of another edition, because the program has loaded it again
  (`importlib.reload`). A backend that can replace its processes does that before (`backends.base.Renewable`).

So workers have the code that the program has, however files change meanwhile. Which file that was, Python does not
remember; the program looks when its first survey begins, and notes it for each time that a module is loaded, which
gives it a spec of its own. What was edited between its import and that look is found out by the code of its functions
and by the file of its bytecode, and named in `Editions.unknown`: workers import the new file then.

A file counts as unchanged if its size and its time of change are the same, in nanoseconds. The program looks before
workers do, and they look before they import: so what they find unchanged is what the program had.

The user's own code is what is not in the standard library, not installed (in ``site-packages`` or ``dist-packages``;
what is installed as editable is the user's), and not paramsurvey.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@lru_cache(maxsize=1)
def _standard() -> tuple[str, ...]:
    import sysconfig  # here, because workers import this module, too; so it is below

    return tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))


@lru_cache(maxsize=4096)
def is_users_file(file: str) -> bool:
    """Tell whether a file is the user's own: not the standard library's, not installed, and not ours."""
    if _is_elsewhere(file, (_OURS, _LIBRARY)):
        return False
    path = os.path.realpath(file)  # takes 100 us, and a program has hundreds of modules
    return not _is_elsewhere(path, (_OURS, *_standard()))


def _is_elsewhere(path: str, folders: tuple[str, ...]) -> bool:
    return path.startswith(folders) or any(folder in path for folder in _INSTALLED)


class Edition(NamedTuple):
    """A module as it was imported.

    Attributes
    ----------
    name : str
        The module's.
    path : str
        Where its file is.
    stamp : tuple of int
        When the file was changed, in nanoseconds, and its size.
    text : bytes
        What was in it.
    is_package : bool
        Whether there are modules below it.
    """

    name: str
    path: str
    stamp: tuple[int, int]
    text: bytes
    is_package: bool


class Editions(NamedTuple):
    """The modules of the user's that a program has; whatever is unpickled after them is made of these.

    Attributes
    ----------
    known : tuple of Edition
        Those whose file is known as it was.
    unknown : tuple of str
        The files of others: they were edited after the program had imported them.
    reloads : int
        How many times the program has loaded one of them again, after it was edited.
    """

    known: tuple[Edition, ...]
    unknown: tuple[str, ...]
    reloads: int

    def __reduce__(self) -> tuple[Any, ...]:
        return taken_over, (os.getpid(), *_packed(self.known))


@lru_cache(maxsize=1)
def _packed(known: tuple[Edition, ...]) -> tuple[bytes, bytes]:
    """Return editions as bytes, and a digest by which a process knows that it has taken them over already.

    They are the same for nearly all surveys of a program, and to unpickle the texts of some dozens of modules takes
    longer than to run some hundreds of psets.
    """
    from hashlib import blake2b
    from zlib import compress  # to write it for every survey takes longer

    data = compress(pickle.dumps(known, pickle.HIGHEST_PROTOCOL))
    return blake2b(data, digest_size=16).digest(), data


class _Met(NamedTuple):
    """A module as it was met: the spec that it had then, which is another after it was loaded again."""

    spec: Any
    edition: Edition | None  # None if it is not known


class _Book:
    """The modules that this process has imported; as `sys.modules` is the process's, so is this."""

    def __init__(self) -> None:
        self.met: dict[str, _Met] = {}
        self.not_users: set[str] = set()
        self.reloads = 0
        self._seen: tuple[list[str], list[str]] = [], []  # all modules' names at the last look, and the user's

    def current(self) -> Editions:
        """Look at all modules; return the editions of the user's."""
        known, unknown = [], []
        for name in self._users():
            module: Any = sys.modules.get(name)
            spec: Any = getattr(module, "__spec__", None)
            if not _is_source_of_users(name, spec):
                self.not_users.add(name)
                self._seen = [], []  # the next time, without it
                continue
            met = self.met.get(name)
            if met is None or met.spec is not spec:
                met = self._meet(name, module, spec)
            if met.edition is None:
                unknown.append(str(spec.origin))
            else:
                known.append(met.edition)
        return Editions(tuple(known), tuple(unknown), self.reloads)

    def _users(self) -> list[str]:
        """Return the names of modules that may be the user's; those of all, a thousand, are nearly always the same."""
        names, users = list(sys.modules), self._seen
        if names != users[0]:
            self._seen = users = names, [name for name in names if name not in self.not_users]
        return users[1]

    def _meet(self, name: str, module: ModuleType, spec: Any) -> _Met:
        edition = _edition_on_disk(name, spec)
        if edition is not None and edition.stamp[0] >= _began() and _was_edited(module, edition):
            edition = None
        before = self.met.get(name)
        if before is not None and _text(before.edition) != _text(edition):
            self.reloads += 1
        met = self.met[name] = _Met(spec, edition)
        return met


_BOOK = _Book()


def editions() -> Editions | None:
    """Return the editions of the modules of the user's that this program has; None if it has none.

    Examples
    --------
    >>> all(is_users_file(each.path) for each in (editions() or Editions((), (), 0)).known)
    True
    """
    found = _BOOK.current()
    return found if found.known or found.unknown else None


def text_of(path: str) -> str | None:
    """Return what was in the file of a module when this program has imported it, if that is known."""
    for met in _BOOK.met.values():
        if met.edition is not None and met.edition.path == path:
            return _decoded(met.edition)
    return None


def _text(edition: Edition | None) -> bytes | None:
    return None if edition is None else edition.text


def _decoded(edition: Edition) -> str:
    from importlib.util import decode_source

    return decode_source(edition.text)


def _is_source_of_users(name: str, spec: Any) -> bool:
    if name == "__main__" or type(getattr(spec, "loader", None)) not in (SourceFileLoader, _AsItWas):
        return False
    return isinstance(spec.origin, str) and is_users_file(spec.origin)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _edition_on_disk(name: str, spec: Any) -> Edition | None:
    stamp = _stamp(spec.origin)
    try:
        with open(spec.origin, "rb") as file:
            text = file.read()
    except OSError:
        return None
    if stamp is None or _stamp(spec.origin) != stamp:  # it is being written
        return None
    return Edition(name, spec.origin, stamp, text, spec.submodule_search_locations is not None)


# --- what was edited before anybody looked --------------------------------------------------------


@lru_cache(maxsize=1)
def _began() -> int:
    """Return when this process began, in nanoseconds since 1970; 0 where that cannot be told."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        ago = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0
    return time.time_ns() - ago


def _was_edited(module: ModuleType, edition: Edition) -> bool:
    """Tell whether a file is not what a module was imported from, as far as the module shows it."""
    import ast

    try:
        tree = ast.parse(edition.text)
        code = compile(edition.text, edition.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return True
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if not all(name in vars(module) for name in defined):
        return True
    codes = list(_codes_in(code))
    there, names = set(codes), {each.co_qualname for each in codes}
    for each in _codes_of(module, edition.path):
        if each.co_qualname in names and each not in there:  # others were left over by an earlier edition
            return True
    return _is_compiled_from_another(module, edition)


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes_in(each)


def _codes_of(module: ModuleType, path: str) -> Iterator[CodeType]:
    """Yield the code of a module's functions, and of its classes' methods."""
    values = list(vars(module).values())
    for value in [*values, *(each for kind in values if isinstance(kind, type) for each in vars(kind).values())]:
        code = getattr(value, "__code__", None)
        if isinstance(code, CodeType) and code.co_filename == path:
            yield code


def _is_compiled_from_another(module: ModuleType, edition: Edition) -> bool:
    """Tell whether the bytecode that Python wrote when it imported a module is of another file: see PEP 552."""
    cached = getattr(module.__spec__, "cached", None)
    if sys.dont_write_bytecode or not cached:
        return False
    try:
        with open(cached, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    flags, seconds, size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12))
    wanted = edition.stamp[0] // 10**9 & 0xFFFFFFFF, edition.stamp[1] & 0xFFFFFFFF
    return len(head) == 16 and not flags and (seconds, size) != wanted


# --- in worker processes --------------------------------------------------------------------------


def taken_over(program: int, digest: bytes, packed: bytes) -> None:
    """Have this process import these editions from now on, unless it is the program itself, or does so already."""
    if program != os.getpid() and digest != _FINDER.digest:
        from zlib import decompress

        take_over(pickle.loads(decompress(packed)))
        _FINDER.digest = digest


def take_over(known: Sequence[Edition]) -> None:
    """Have this process import these editions from now on.

    What it has imported of the user's is forgotten, if any of it is of another edition.
    """
    _FINDER.editions = {each.name: each for each in known}
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if any(map(_is_here_otherwise, known)):
        _forget_users_modules()


def _is_here_otherwise(edition: Edition) -> bool:
    """Tell whether this process has another edition of a module."""
    if (module := sys.modules.get(edition.name)) is None:
        return False
    spec, met = getattr(module, "__spec__", None), _BOOK.met.get(edition.name)
    if met is not None and met.spec is spec:
        return met.edition is None or met.edition.text != edition.text
    if getattr(spec, "origin", None) != edition.path or _stamp(edition.path) is None:
        return False  # this machine has it elsewhere
    if _stamp(edition.path) != edition.stamp:
        return True
    _BOOK.met[edition.name] = _Met(spec, edition)
    return False


def _forget_users_modules() -> None:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and isinstance(file, str) and is_users_file(file):
            del sys.modules[name]


class _Finder:
    """Finds modules in the editions that came with a survey."""

    def __init__(self) -> None:
        self.editions: dict[str, Edition] = {}
        self.digest = b""  # by which they are known

    def find_spec(self, name: str, path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """Return where to load a module from; None if that is for others to say."""
        if (edition := self.editions.get(name)) is None:
            return None
        stamp = _stamp(edition.path)
        if stamp is None:
            return None
        spec = PathFinder.find_spec(name, path) if stamp == edition.stamp else _spec_as_it_was(edition)
        if spec is not None and spec.origin == edition.path:
            _BOOK.met[name] = _Met(spec, edition)
        return spec


_FINDER = _Finder()


class _AsItWas(SourceFileLoader):
    """Loads a module from the text that its file had."""

    def __init__(self, edition: Edition) -> None:
        super().__init__(edition.name, edition.path)
        self._edition = edition

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compile the text; there is no bytecode of it."""
        code: CodeType = self.source_to_code(self._edition.text, self.path)
        return code

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        """Return the text, for tracebacks."""
        return _decoded(self._edition)


def _spec_as_it_was(edition: Edition) -> ModuleSpec:
    spec = ModuleSpec(edition.name, _AsItWas(edition), origin=edition.path, is_package=edition.is_package)
    spec.has_location = True
    if edition.is_package:
        spec.submodule_search_locations = [os.path.dirname(edition.path)]
    return spec
