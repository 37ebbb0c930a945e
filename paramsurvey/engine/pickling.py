"""Values as bytes: what crosses between processes, and what must not change after a worker has returned it.

Plain pickle first, because it is fast; cloudpickle for what plain pickle cannot carry: lambdas, closures, and whatever
lives in ``__main__``, a notebook cell or a script on standard input.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cloudpickle

PROTOCOL = 5
LARGE = 64 * 1024
"""Buffers from this size on travel beside the pickle, without being copied into it."""

_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})


class Frozen(NamedTuple):
    """A value as it was when it was frozen, whatever happens to the original: its pickle and its large buffers."""

    data: bytes
    buffers: list[Any]


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle, except that an open file is refused: a copy of its text would not be what the user had."""

    def reducer_override(self, obj: Any) -> Any:
        """Refuse open files; leave the rest to cloudpickle."""
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
            raise TypeError(f"cannot pickle {type(obj).__name__!r} object: an open file cannot go to another process")
        return super().reducer_override(obj)


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
