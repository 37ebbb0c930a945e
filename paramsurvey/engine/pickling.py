"""Values as bytes: what crosses between processes, and what must not change after a worker has returned it.

Plain pickle first, because it is fast; cloudpickle for what plain pickle cannot carry: lambdas, closures, and whatever
lives in ``__main__``, a notebook cell or a script on standard input.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import cloudpickle

from paramsurvey.engine.records import is_ctrl_c

PROTOCOL = 5
LARGE = 64 * 1024
"""Buffers from this size on travel beside the pickle, without being copied into it."""

IS_LOADING: ContextVar[bool] = ContextVar("IS_LOADING", default=False)
"""Whether this is a worker process that is unpickling a constant, and so imports the user's modules."""

_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


class Frozen(NamedTuple):
    """A value as it was when it was frozen, whatever happens to the original: its pickle and its large buffers."""

    data: bytes
    buffers: list[Any]


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle, with what decorators of `functools` leave in a script, and without open files.

    A copy of an open file's text would not be what the user had. What is taken from ``__main__`` is known by its name
    in the ``__main__`` of a worker process, too, where a worker's own pool of processes will look for it.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Refuse open files, say how some kinds of objects are made again; leave the rest to cloudpickle."""
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
            raise TypeError(f"cannot pickle {type(obj).__name__!r} object: an open file cannot go to another process")
        if (reduce := _REDUCERS.get(type(obj))) is not None:
            return reduce(obj)
        reduced = super().reducer_override(obj)
        if isinstance(obj, FunctionType | type) and isinstance(reduced, tuple) and _is_global_of_main(obj):
            make, arguments, state, _, _, set_state = reduced
            return make, arguments, (set_state, state), None, None, _set_state_and_name
        return reduced


def _is_global_of_main(obj: FunctionType | type) -> bool:
    return obj.__module__ == "__main__" and obj.__qualname__.isidentifier()


def _set_state_and_name(obj: FunctionType | type, state: tuple[Callable[[Any, Any], None], Any]) -> None:
    """Complete a function or a class; one of a constant gets its name in the ``__main__`` of this worker process."""
    set_state, content = state
    set_state(obj, content)
    if IS_LOADING.get():
        setattr(sys.modules["__main__"], obj.__name__, obj)


def _reduced_cache(obj: Any) -> Any:
    """Reduce what `functools.lru_cache` returns: by its name where it has one, else without what it remembers."""
    found: Any = sys.modules.get(obj.__module__) if obj.__module__ != "__main__" else None
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return NotImplemented if found is obj else (_cached, (obj.__wrapped__, obj.cache_parameters()))


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(function)


def _reduced_property(obj: functools.cached_property[Any]) -> Any:
    """Reduce a property without the lock that it has before Python 3.12."""
    state = {name: value for name, value in vars(obj).items() if name != "lock"}
    return functools.cached_property, (obj.func,), state


def _reduced_registry(obj: WeakKeyDictionary[Any, Any]) -> Any:
    """Reduce what `functools.singledispatch` remembers; classes live as long as what refers to them."""
    return WeakKeyDictionary, (dict(obj),)


def _reduced_code(obj: CodeType) -> Any:
    """Reduce code with the name of its file, which tracebacks tell; cloudpickle 3.1 leaves that out."""
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](obj)
    return _code_of_file, (obj.co_filename, make, arguments)


def _code_of_file(name: str, make: Callable[..., CodeType], arguments: tuple[Any, ...]) -> CodeType:
    return make(*arguments).replace(co_filename=name)


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduced_code,
    type(lru_cache(len)): _reduced_cache,
    functools.cached_property: _reduced_property,
    WeakKeyDictionary: _reduced_registry,
}


def loaded_constant(places: list[str], data: Any, buffers: list[Any]) -> Any:
    """Return a constant that has come to this worker process, with whose search path it finds its modules.

    Raises whatever unpickling raises, and so whatever the import of a user's module does.
    """
    sys.path += [place for place in places if place not in sys.path]
    token = IS_LOADING.set(True)
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        IS_LOADING.reset(token)


def _is_atomic(kind: type) -> bool:
    """Tell whether values of exactly this type cannot change and need no care: numbers, text, None."""
    if kind in _ATOMS:
        return True
    if kind.__module__ != "numpy":
        return False
    return any(base.__name__ in {"number", "bool"} and base.__module__ == "numpy" for base in kind.__mro__) or (
        kind.__name__ == "bool_"  # its name before numpy 2
    )


is_atomic: Callable[[type], bool] = lru_cache(maxsize=1024)(_is_atomic)


class Buffers(list[Any]):
    """Collects the large buffers of a pickle; small ones stay inside it."""

    def collect(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer if it is large; what it returns is what pickle asks for: whether to keep it in band."""
        try:
            large = buffer.raw().nbytes >= LARGE
        except BufferError:  # not contiguous
            return True
        if large:
            self.append(buffer)
        return not large


def dumps(value: Any, buffers: Buffers | None = None) -> bytes:
    """Pickle by reference if that works, else by value; large buffers go into `buffers` if there are any.

    Plain pickle takes a class or function of ``__main__`` by its name, which another process does not know; so it is
    only for values whose types come from elsewhere, which the caller has made sure of (`is_atomic`, typed columns), or
    for a process whose ``__main__`` is not the user's, where plain pickle refuses them by itself.
    """
    try:
        return pickle.dumps(value, PROTOCOL, buffer_callback=None if buffers is None else buffers.collect)
    except Exception:  # noqa: BLE001 - whatever it does not like; cloudpickle has the last word
        if buffers is not None:
            buffers.clear()  # of the attempt that failed
        return dumps_by_value(value, buffers)


def dumps_by_value(value: Any, buffers: Buffers | None = None) -> bytes:
    """Pickle with cloudpickle: functions and classes of ``__main__`` and of notebooks travel with their code."""
    with io.BytesIO() as file:
        ByValuePickler(file, PROTOCOL, buffer_callback=None if buffers is None else buffers.collect).dump(value)
        return file.getvalue()


def own_copies(values: list[Any]) -> list[Any]:
    """Return copies of values that nobody else has; what two of them share, their copies share.

    A value that cannot be copied is returned itself.
    """
    try:
        for value in values:
            if not hasattr(type(value), "__deepcopy__"):
                copies: list[Any] = pickle.loads(pickle.dumps(values, PROTOCOL))
                return copies
        return copy.deepcopy(values)  # arrays, for example, which a pickle would copy twice
    except BaseException as exc:
        if is_ctrl_c(exc):
            raise
    return [_own_copy(value) for value in values]


def _own_copy(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except BaseException as exc:
        if is_ctrl_c(exc):
            raise
        return value


def freeze(value: Any, *, beside: bool) -> Frozen:
    """Pickle a value as it is now; with `beside`, large buffers are left out of the pickle, and are not yet copied.

    Raises whatever the value's own pickling raises.
    """
    buffers = Buffers()
    data = dumps(value, buffers if beside else None)
    return Frozen(data, list(buffers))


def thaw(frozen: Frozen) -> Any:
    """Return the value; raises whatever its own unpickling raises."""
    return pickle.loads(frozen.data, buffers=frozen.buffers)
