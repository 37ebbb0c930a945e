"""The narrow waist between the engine and whatever executes.

A backend is handed one thing to call at a time and returns a standard `concurrent.futures.Future` for it. It never
loops over psets, never retries and never counts; it says how a submission was lost (`engine.records.TaskLost`) and the
engine decides what that means.

What it must have is in `Backend`. To the name and the five methods of the design (`slots`, `publish`, `submit`, `kill`
and `close`) come `Backend.recall`, which takes rows back from a chunk that turned out to be slow, so that no pset waits
behind a busy worker while another is idle; `Backend.resources`, for the user; and ``can_kill``.

It may have more to say, and need not. `paramsurvey.testing.BackendContract` tests what of that can be seen from
outside. These are single attributes:

``task_seconds``
    What a submission costs, however little there is to do. The engine makes chunks worth that (`engine.chunking`).
``has_queue``
    Whether more may be submitted than there are slots, to wait there for the first that is free.
``can_leave``
    Whether it can leave large answers where they are (`TaskOptions.leave`).
``can_replace``
    Whether it replaces a process after so many psets (`TaskOptions.max_tasks`); where not, ``max_tasks_per_child=`` is
    refused.
``is_here``
    Whether everything runs on this machine, so that ``chdir=`` can be refused before anything runs if it is no folder;
    where not, those say so who cannot go there.
``runs_alone``
    Whether nothing else runs in a submission's process meanwhile, so that what is printed and used there is its own;
    where not, ``details=`` and ``capture=`` are refused.

These are methods and attributes that come together:

`Elastic`
    What ``ncores=`` means on it. Where that is not said, it is so many of its `slots`, or so many fewer than it has,
    and never more than it has: the engine keeps to that, and the backend need not do anything for it.
`Renewable`
    That it can replace its processes.
`Configurable`
    Which settings it has of its own (``ray={...}``): the others are refused by name.
`Placing`
    What tasks ask of the machines that run them.
`engine.loop.Drivable`
    The thread that waits does the backend's own work. Only a backend in whose costs a change of threads counts needs
    it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from paramsurvey.engine.records import TaskOptions
from paramsurvey.engine.worker import Handle
from paramsurvey.errors import BackendError, OptionError
from paramsurvey.options import nearest_or_all

if TYPE_CHECKING:
    from paramsurvey.options import Options


class Published(Handle, Protocol):
    """A constant that was handed to a backend; `close` lets the backend forget it."""

    def close(self) -> None:
        """Forget the constant. Nobody calls `load` any more."""
        ...


class Backend(Protocol):
    """What executes chunks."""

    @property
    def name(self) -> str:
        """What ``paramsurvey.backend()`` says."""
        ...

    @property
    def can_kill(self) -> bool:
        """Whether `kill` and a ``timeout`` have an effect; where not, ``timeout=`` is refused."""
        ...

    def slots(self) -> int:
        """Return how many submissions can run at once; it may change while a survey runs."""
        ...

    def publish(self, obj: Any) -> Published:
        """Make a constant known wherever submissions run, once; raises `Unsendable` if it cannot be pickled.

        Parameters
        ----------
        obj : object
            The constant.
        """
        ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:
        """Have ``fn(*args)`` called at once; whoever submits keeps count of the slots.

        The future's result is what `fn` returned, or the exception that it raised; a `TaskLost` says that there is no
        such result. A backend that can look into its processes calls ``fn(*args, monitor=...)``
        (`engine.worker.Monitor`), and passes the parts that come ahead to ``options.on_part``, before the future is
        done. `submit` may return a future that is done.

        Parameters
        ----------
        fn : callable
            A function that can be imported where calls run.
        *args : object
            Its arguments.
        options : TaskOptions
            What the engine says of this call.
        """
        ...

    def recall(self, future: Future[Any]) -> None:
        """Ask for the rows that a submission has not begun; a `GivenBack` tells which. May do nothing.

        Parameters
        ----------
        future : Future
            What `submit` has returned.
        """
        ...

    def kill(self, future: Future[Any]) -> None:
        """End a submission now, with whatever it has started; its future raises `Killed`. May do nothing.

        Parameters
        ----------
        future : Future
            What `submit` has returned.
        """
        ...

    def resources(self) -> dict[str, Any]:
        """Return what there is to compute with, e.g. ``{"num_cores": 8, "memory": 17179869184}``."""
        ...

    def close(self) -> None:
        """End everything, and wait for its end. Closing twice is allowed."""
        ...


@runtime_checkable
class Placing(Protocol):
    """A backend whose tasks ask for more or less of the machines that run them."""

    @property
    def wishes(self) -> str:
        """The column of psets that asks for something for its own row: a dict. Rows of one chunk ask for the same."""
        ...

    def room(self, settings: Mapping[str, Any]) -> int:
        """Return how many tasks with these settings can run at once; raises `OptionError` if none ever can.

        Parameters
        ----------
        settings : dict
            The user's own words for this backend.
        """
        ...

    def rows_per_task(self, max_tasks: int) -> int:
        """Return how many psets a chunk may have, if a process is to be replaced after `max_tasks` of them.

        Parameters
        ----------
        max_tasks : int
            After how many psets a process is to be replaced.
        """
        ...


@runtime_checkable
class Elastic(Protocol):
    """A backend that says itself what ``ncores=`` means, which may be more than it has had slots for so far."""

    def at_most(self, ncores: int) -> int | None:
        """Return how many slots ``ncores=`` means; None for all that there are and will be.

        Parameters
        ----------
        ncores : int
            What the user has said; not more than 0 means so many fewer than there are.
        """
        ...


@runtime_checkable
class Renewable(Protocol):
    """A backend that can replace its processes, when they have modules that the program has loaded again since."""

    def renew(self, reloads: int) -> None:
        """Have what comes now run in processes that have begun since the program last loaded a module again.

        Where processes cannot be replaced, they forget such modules by themselves.

        Parameters
        ----------
        reloads : int
            How many times the program has (`paramsurvey.editions`).
        """
        ...


@runtime_checkable
class Configurable(Protocol):
    """A backend with settings of its own, which are given under its name: ``ray={...}``."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings of one survey: raise `OptionError` if one is unknown, impossible, or only for ``init``.

        Parameters
        ----------
        settings : dict
            The user's own words for this backend.
        """
        ...


# For every survey: `isinstance` would take 20 us each, and what a backend has of these it has whole (the contract).


def is_placing(backend: Backend) -> TypeGuard[Placing]:
    """Tell whether a backend places tasks.

    Parameters
    ----------
    backend : Backend
        Which.
    """
    return hasattr(backend, "rows_per_task")


def is_elastic(backend: Backend) -> TypeGuard[Elastic]:
    """Tell whether a backend says what ``ncores=`` means.

    Parameters
    ----------
    backend : Backend
        Which.
    """
    return hasattr(backend, "at_most")


def is_renewable(backend: Backend) -> TypeGuard[Renewable]:
    """Tell whether a backend can replace its processes.

    Parameters
    ----------
    backend : Backend
        Which.
    """
    return hasattr(backend, "renew")


def is_configurable(backend: Backend) -> TypeGuard[Configurable]:
    """Tell whether a backend has settings of its own.

    Parameters
    ----------
    backend : Backend
        Which.
    """
    return hasattr(backend, "check_settings")


def limit_of(backend: Backend, ncores: int | None) -> int | None:
    """Return how many submissions of a survey may run at once; None: as many as there are slots.

    Parameters
    ----------
    backend : Backend
        Who runs them. What ``ncores=`` means it says itself (`Elastic`); else it is so many slots, or so many fewer
        than there are now.
    ncores : int or None
        What the user has said.
    """
    if ncores is None:
        return None
    if is_elastic(backend):
        return backend.at_most(ncores)
    return ncores if ncores > 0 else max(1, backend.slots() + ncores)


@contextmanager
def installed(backend: str, library: str, more: str = "") -> Iterator[None]:
    """Say what to do where a backend of ours lacks the library that it stands on, or where that is broken.

    Parameters
    ----------
    backend, library : str
        Their names; that of the backend is that of the extra, too.
    more : str
        What else has to be installed.
    """
    try:
        yield
    except ImportError as exc:
        is_missing = isinstance(exc, ModuleNotFoundError) and exc.name == library
        raise BackendError(
            f"the backend {backend!r} is not installed: pip install 'paramsurvey[{backend}]'{more}"
            if is_missing
            else f"the backend {backend!r} is installed, but cannot be imported: {exc}"
        ) from exc


def refuse_unknown_settings(backend: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a setting that a backend does not have.

    Parameters
    ----------
    backend : str
        Whose settings they are.
    settings : dict
        What the user has given.
    known : set of str
        Those that there are.

    Raises
    ------
    OptionError
        With the nearest that it has.

    Examples
    --------
    >>> refuse_unknown_settings("mpi", {"slotz": 1}, ["slots", "driver_slots"])
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: mpi={'slotz': ...}: the backend 'mpi' has no such setting; did you mean 'slots'?
    """
    for name in settings:
        if name not in known:
            hint = nearest_or_all(name, known)
            raise OptionError(f"{backend}={{{name!r}: ...}}: the backend {backend!r} has no such setting; {hint}")


def settings_of(backend: Backend, options: Options) -> dict[str, Any]:
    """Return what the user has to say to a backend alone.

    Parameters
    ----------
    backend : Backend
        Whose.
    options : Options
        Those of the survey.
    """
    settings: dict[str, Any] = getattr(options, backend.name, {})
    return settings


def refuse_what_it_cannot(backend: Backend, options: Options) -> None:
    """Refuse the options that ask for what a backend cannot do, and settings that it does not have.

    Parameters
    ----------
    backend : Backend
        Who would have to do it.
    options : Options
        Those of the survey.

    Raises
    ------
    OptionError
        There is one; the message names the first.
    """
    settings = settings_of(backend, options)
    if is_configurable(backend):
        backend.check_settings(settings)
    can_replace, runs_alone = getattr(backend, "can_replace", False), getattr(backend, "runs_alone", False)
    caught = None if options.capture == "through" else options.capture
    shared = "does not say that psets run alone in their processes"
    for name, asked, is_able, cannot, off in (
        ("timeout", options.timeout, backend.can_kill, "cannot end a running worker", 0),
        ("max_tasks_per_child", options.max_tasks_per_child, can_replace, "does not replace processes", 0),
        ("details", options.details, runs_alone, shared, 0),
        ("capture", caught, runs_alone, shared, "through"),
    ):
        if asked and not is_able:
            raise OptionError(
                f"{name}={f'{asked:g}' if isinstance(asked, float) else repr(asked)}: the backend {backend.name!r} "
                f"{cannot}; leave {name}= out (PARAMSURVEY_{name.upper()}={off} switches it off), or use "
                "backend='multiprocessing'"
            )


def what_it_lacks(candidate: object) -> list[str]:
    """Return the names of a backend's methods and attributes that an object does not have.

    Parameters
    ----------
    candidate : object
        What may be a backend.
    """
    wanted = ("name", "can_kill", "slots", "publish", "submit", "recall", "kill", "resources", "close")
    return [name for name in wanted if not hasattr(candidate, name)]
