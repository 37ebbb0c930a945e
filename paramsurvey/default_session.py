"""The one default session, in which the functions of the package run.

How it is opened, by `init` or when it is first needed, and closed; and what it has to compute with.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from paramsurvey.errors import SessionError
from paramsurvey.session import Session


class _Default:
    """The one default session of the module's functions: the only state that this library keeps in a module."""

    session: Session | None = None
    lock = threading.Lock()


def _replace_the_lock() -> None:
    """Forget who held the lock when this process was forked: a thread that is not here."""
    _Default.lock = threading.Lock()


os.register_at_fork(after_in_child=_replace_the_lock)


def default_session() -> Session:
    """Return the default session; open it if nobody has called `init`, or if this is a fork of who has."""
    with _Default.lock:
        _Default.session = Session() if _Default.session is None else _Default.session.of_this_process()
        return _Default.session


def init(**options: Any) -> None:
    """Open the default session, with options for every survey in it.

    Calling it is not needed: `map` opens a session with the defaults. Calling it again replaces the session.

    Parameters
    ----------
    backend : str or Backend, default "multiprocessing"
        Who computes: ``"multiprocessing"`` (this machine's cores), ``"serial"`` (this process, for debuggers),
        ``"ray"`` or ``"mpi"`` (those of a cluster), the name of a backend that an installed package offers, or an
        instance.
    verbose : int, default 1
        Progress on standard error. 0: nothing; 1: every 30 seconds; 2: every second; 3: every action.
    vstats : int, default 1
        Performance statistics on standard error. 0: none; 1: every 30 seconds, unless ``verbose=0``; 2: every second
        and at the end; 3: the same, as histograms.
    limit : int, optional
        Compute only so many psets. By default, as with 0, all of them.
    ncores : int, optional
        How many cores to use, or, if negative, how many to leave unused. By default all of them. On any backend, no
        more psets run at once than that.
    max_tasks_per_child : int, optional
        After how many psets a worker process is replaced, against memory that leaks. By default never.
    **options
        All other options of `map`; also ``pslogger_prefix`` (how the name of the log file begins, by default
        ``.paramsurvey-``) and ``pslogger_fd`` (an open text stream to write to instead).

    Raises
    ------
    OptionError
        An option is unknown or impossible, or an environment variable (``PARAMSURVEY_VERBOSE`` and so on, which have
        precedence over everything) cannot be read.
    BackendError
        There is no such backend.
    SessionError
        A survey is running in the session that should be replaced.

    Examples
    --------
    >>> import paramsurvey
    >>> paramsurvey.init(backend="multiprocessing", ncores=2, verbose=0)
    >>> paramsurvey.backend()
    'multiprocessing'
    """
    with _Default.lock:
        session = Session(**options)
        try:
            if _Default.session is not None:
                _Default.session.close_if_idle("init()")
        except SessionError:
            session.close()
            raise
        _Default.session = session


def finalize() -> None:
    """Close the default session and end its processes; happens by itself when the program ends.

    Raises
    ------
    SessionError
        A survey is running in it.
    """
    with _Default.lock:
        if _Default.session is not None:
            _Default.session.close_if_idle("finalize()")
        _Default.session = None


def backend() -> str:
    """Return the name of the default session's backend."""
    return default_session().backend


def current_core_count() -> int:
    """Return how many cores the default session's backend uses."""
    return default_session().current_core_count()


def current_resources() -> dict[str, Any]:
    """Return what the default session's backend has to compute with, e.g. ``num_cores`` and ``memory`` in bytes."""
    return default_session().current_resources()
