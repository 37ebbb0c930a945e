"""Backends by their names: our own, each opened by a function here, and those that installed packages offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from paramsurvey.backends.base import Backend, installed, what_it_lacks
from paramsurvey.errors import BackendError
from paramsurvey.lazy import load

if TYPE_CHECKING:
    from paramsurvey.options import Options


def _multiprocessing(options: Options) -> Backend:
    load("paramsurvey.backends.multiprocessing.backend")
    from paramsurvey.backends.multiprocessing.backend import MultiprocessingBackend, cores

    return MultiprocessingBackend(cores(options.ncores))


def _serial(_options: Options) -> Backend:
    from paramsurvey.backends.serial import SerialBackend

    return SerialBackend()


def _ray(options: Options) -> Backend:
    with installed("ray", "ray"):
        load("paramsurvey.backends.ray.backend")
        from paramsurvey.backends.ray.backend import RayBackend
    return RayBackend(options.ray, options.ncores, verbose=options.verbose >= 3)


def _mpi(options: Options) -> Backend:
    load("paramsurvey.backends.mpi.backend")
    from paramsurvey.backends.mpi.backend import open_mpi

    return open_mpi(options.mpi, options.ncores)


BUILT_IN: Final[Mapping[str, Callable[[Options], Backend]]] = MappingProxyType(
    {"multiprocessing": _multiprocessing, "serial": _serial, "ray": _ray, "mpi": _mpi}
)
"""How our own backends are opened, by their names; each is imported when it is wanted."""


def open_backend(name: str, options: Options) -> Backend:
    """Open a backend by its name: a built-in one, or one that an installed package offers.

    Raises
    ------
    BackendError
        There is none of that name, or it is not installed, or what a package offers is no backend.
    OptionError
        A setting of its own (``ray={...}``) is unknown or impossible.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](options)
    from importlib import metadata  # here, because importing it takes longer than opening a session

    offered = {point.name: point for point in metadata.entry_points(group="paramsurvey.backends")}
    if name not in offered:
        known = ", ".join(repr(each) for each in (*BUILT_IN, *sorted(offered)))
        raise BackendError(f"there is no backend {name!r}; there are: {known}")
    try:
        return checked_backend(offered[name].load()())
    except ImportError as exc:
        raise BackendError(f"the backend {name!r} is installed, but cannot be imported: {exc}") from exc
    except BackendError:
        raise
    except Exception as exc:
        raise BackendError(
            f"the backend {name!r} of {offered[name].value} is broken: it raised {type(exc).__name__}: {exc}"
        ) from exc


def refuse_wrong_settings(options: Options) -> None:
    """Refuse settings that a backend does not have, or cannot have: also of those that are not in use.

    They are ignored there, but whoever tries a program at home would like to know before it runs on the cluster.

    Raises
    ------
    OptionError
        With the nearest that there is.
    """
    if options.multiprocessing:
        from paramsurvey.backends.multiprocessing import backend

        backend.refuse_wrong_settings(options.multiprocessing)
    if options.ray:
        from paramsurvey.backends.ray import demands

        demands.refuse_wrong_settings(options.ray)
    if options.mpi:
        from paramsurvey.backends.mpi import settings

        settings.refuse_wrong_settings(options.mpi)


def checked_backend(candidate: object) -> Backend:
    """Return a backend instance, if it is one.

    Raises
    ------
    BackendError
        It is none; with what it lacks.
    """
    if lacking := what_it_lacks(candidate):
        raise BackendError(
            f"{candidate!r} is no backend: it has no {', '.join(lacking)} (see paramsurvey.backends.base)"
        )
    return cast("Backend", candidate)
