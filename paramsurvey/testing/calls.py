"""What `BackendContract` has called at a backend; a backend may, or may not, pass ``monitor=``.

A module of its own, which imports nothing heavy: every new worker process imports it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from paramsurvey.fingerprint import typed_bytes

if TYPE_CHECKING:
    from paramsurvey.engine.worker import Handle

Address: TypeAlias = "tuple[str, int]"


def echo(*args: Any, monitor: Any = None) -> tuple[Any, ...]:  # noqa: ARG001
    """Return the arguments."""
    return args


def add(one: Any, other: Any, monitor: Any = None) -> Any:  # noqa: ARG001
    """Return a sum."""
    return one + other


def describe(*args: Any, monitor: Any = None) -> list[bytes]:  # noqa: ARG001
    """Return type and content of each argument as they are seen here."""
    return [typed_bytes(arg) for arg in args]


def refuse(*args: Any, monitor: Any = None) -> NoReturn:  # noqa: ARG001
    """Raise a `LookupError` with these arguments."""
    raise LookupError(*args)


def raise_a(kind: type[BaseException], *args: Any, monitor: Any = None) -> NoReturn:  # noqa: ARG001
    """Raise an exception of this kind."""
    raise kind(*args)


def make(kind: type, monitor: Any = None) -> Any:  # noqa: ARG001
    """Return a new object of this kind."""
    return kind()


def process_number(monitor: Any = None) -> int:  # noqa: ARG001
    """Return the number of the process that runs this."""
    return os.getpid()


def load_twice(handle: Handle, monitor: Any = None) -> tuple[Any, bool]:  # noqa: ARG001
    """Return a constant, and whether loading it again gives the same object."""
    constant = handle.load()
    return constant, handle.load() is constant


def sum_of(handle: Handle, monitor: Any = None) -> tuple[tuple[int, ...], str, int, str]:  # noqa: ARG001
    """Return what a constant array is like, without sending it back."""
    constant = handle.load()
    array = constant["array"]
    return array.shape, str(array.dtype), int(array.sum()), constant["name"]


def stay(address: Address, patience: float, monitor: Any = None) -> None:  # noqa: ARG001
    """Stay at a `Gate` until it opens."""
    with socket.create_connection((address[0], address[1]), timeout=patience) as connection:
        connection.recv(1)


def stay_and_tell(address: Address, patience: float, monitor: Any = None) -> tuple[str, int]:  # noqa: ARG001
    """Stay at a `Gate` until it opens, and return which process of which machine this is."""
    stay(address, patience)
    return socket.gethostname(), os.getpid()


def die(*_args: Any, monitor: Any = None) -> NoReturn:  # noqa: ARG001
    """End the process without a word."""
    os._exit(7)


# Workers of the chunks


def odd_rows_fail(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Answer even numbers, refuse odd ones."""
    if pset["i"] % 2:
        raise ValueError(pset["i"])
    return {"square": pset["i"] ** 2}


def large_answer(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Answer with an array."""
    import numpy as np  # here, because most processes do without

    return {"array": np.full(pset["size"], pset["i"], dtype="u1"), "text": str(pset["i"])}


def size_and_sum(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Answer with what an array is like."""
    return {"size": int(pset["array"].size), "sum": int(pset["array"].sum())}


def tell_process(_pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Answer with the process and the machine that run this."""
    return {"process": (socket.gethostname(), os.getpid())}


def tell_pset(pset: dict[Any, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Answer with type and content of the pset as it is seen here."""
    return {"seen": typed_bytes(pset)}


def stay_at_some(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """Stay at a `Gate` if the pset has its port."""
    if pset["port"]:
        stay((pset["host"], pset["port"]), pset["patience"])
    return {"square": pset["i"] ** 2}


def die_at_three(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> dict[str, Any]:
    """End the process at the pset 3."""
    if pset["i"] == 3:
        die()
    return {"square": pset["i"] ** 2}


def busy_for(pset: dict[str, Any], _system: Mapping[str, Any], _user: Any) -> None:
    """Compute for so many seconds."""
    end = time.monotonic() + pset["seconds"]
    while time.monotonic() < end:
        pass


# Objects that do not travel


class CannotBePickled:
    """Raises when it is pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this object cannot be pickled")


class CannotBeUnpickled:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return refuse, ("this object cannot be unpickled",)


class TwoArguments(Exception):
    """An exception that cannot be unpickled, because it needs two arguments and keeps one."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__(f"{one} and {other}")


class Counted:
    """Counts how many times it is pickled."""

    def __init__(self) -> None:
        self.pickled = 0

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self.pickled += 1
        return Counted, ()
