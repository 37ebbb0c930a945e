"""The facts that travel between a survey's parts. Nothing here does anything.

`Work` and `Chunk` go out, `Part` comes back; `Died`, `TimedOut` and their kin are how a chunk may end otherwise.

They are tuples. Every pool's guard imports this module at its start, and would need a fifth more time for attrs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from paramsurvey.engine.columns import DETAILS

if TYPE_CHECKING:
    from paramsurvey.engine.columns import Column, Keys

FailureKind: TypeAlias = Literal["raised", "died", "timeout", "unpicklable", "upstream", "cancelled"]


LOADING = -2
"""What a monitor's index says while the worker and its constants are being loaded."""
BETWEEN = -1
"""What a monitor's index says while a chunk is read or its answers are sent: no single pset is to blame."""


class Failure(NamedTuple):
    """Why one pset has no result. A tuple, because thousands of them may cross the wire.

    `kind` is one of the five kinds of failure, or ``cancelled`` for a pset that never ran because the survey ended.
    """

    kind: FailureKind
    text: str
    traceback: str = ""
    retryable: bool = False
    for_memory: bool = False
    """Whether there was, or may have been, too little memory."""
    facts: tuple[tuple[str, Any], ...] = ()
    """What the row says of itself, if it was asked to (`engine.details`)."""

    @property
    def end(self) -> str:
        """How the attempt ended, in one line."""
        return f"{self.kind}: {self.text}"


class Retries(NamedTuple):
    """When a pset is tried again. One whose process died is, up to three times in all; what else is, is said here.

    Attributes
    ----------
    raised : int
        How many times after its worker raised, if the exception is one of those that are worth it.
    timeouts : int
        How many times after it took too long.
    wait : float
        Seconds before the first of these; twice as many before the second, and so on.
    alone : bool
        Whether what failed for lack of memory is run with nothing beside it: once more if it raised a `MemoryError`.
    """

    raised: int = 0
    timeouts: int = 0
    wait: float = 0.0
    alone: bool = False

    def pause(self, times: int) -> float:
        """Return how long to wait before a pset is tried again that has been so many times already."""
        return self.wait * 2.0 ** min(times, 30)


class Part(NamedTuple):
    """What a worker process has finished of a chunk since the last part: rows `first` to `first + count`.

    The columns hold the answers of the rows that are not in `failures`, in order. A tuple, because it crosses the wire.
    """

    first: int
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs here
    keys: Keys
    columns: list[Column]
    failures: list[tuple[int, Failure]]  # row number in the chunk, why
    seconds: Sequence[float]  # mean seconds a pset, for each of
    counts: Sequence[int]  # so many psets
    raw_stats: dict[str, list[float]]
    size: int = 0  # bytes on the wire; set by the backend that knows it


def of_keys(part: Part, wanted: bool) -> Part:
    """Return a part with its details alone, if they are `wanted`, or without them."""
    if not wanted and _DETAILS.isdisjoint(part.keys):
        return part
    places = [place for place, key in enumerate(part.keys) if (key in _DETAILS) is wanted]
    return part._replace(keys=tuple(part.keys[at] for at in places), columns=[part.columns[at] for at in places])


_DETAILS = frozenset(DETAILS)


class Work(NamedTuple):
    """What every chunk of a stage has in common; serialised once and published once."""

    worker: Callable[..., Any]
    user_kwargs: Any
    name: str
    seed: int
    cwd: str | None
    out_subdirs: int | None
    retry_exceptions: tuple[str, ...] | None = None
    """The names of the exceptions that are worth another try; None: of all."""
    details: bool = False
    capture: str = "through"
    """What becomes of what is printed: "through" as ever, "tail", or "files"."""
    seed_by: tuple[Hashable, ...] | None = None
    """The parameters on which seeds depend; None: on all."""
    editions: Any = None
    """What has to be unpickled before the others: the modules that the program has (`paramsurvey.editions`)."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _work_of, (self.editions, *self[:-1])

    @property
    def own_columns(self) -> frozenset[str]:
        """The details that its rows have."""
        printed = {"_stdout", "_stderr"}
        return frozenset(
            (_DETAILS - printed if self.details else set()) | (printed if self.capture != "through" else set())
        )


def _work_of(editions: Any, *others: Any) -> Work:
    return Work._make((*others, editions))


class ChunkRows(NamedTuple):
    """The rows of a chunk as they cross the wire."""

    keys: Keys
    columns: list[Column]
    count: int  # type: ignore[assignment] # as above
    attempt: int
    together: int = 0
    """If not 0, it is a train: after each so many rows their answers are sent, as if no others came behind."""


class Chunk(NamedTuple):
    """Rows `start` up to `stop` of a stage's table, travelling together, for the `attempt`-th time."""

    start: int
    stop: int
    attempt: int = 1
    moves: int = 0  # how many machines have gone while they ran it

    @property
    def count(self) -> int:  # type: ignore[override] # hides tuple.count, as below
        """How many rows it has."""
        return self.stop - self.start


def _nobody_listens(_part: Part | GivenBack) -> None:
    """Take a part that nobody asked for."""


class TaskOptions(NamedTuple):
    """What a backend is told about one submission. A tuple, because one is made for every chunk.

    Attributes
    ----------
    rows : int
        How many psets the submission holds.
    on_part : callable
        Called, from any thread, with each `Part` or `GivenBack` that comes before the end.
    may_queue : bool
        Whether the submission may wait behind another of the same owner.
    owner : object
        Whose submission it is: of those of one owner, as many processes are at work as slots are used.
    timeout : float or None
        Seconds that one pset may take.
    max_tasks : int or None
        After how many psets a worker process is replaced by a fresh one.
    backend_options : dict
        The user's own words for this backend, e.g. of ``ray={...}``.
    leave : bool
        Whether large answers may stay where they were computed, as `columns.Remote`, because the next to see them is a
        worker.
    fetch : bool
        Whether they are wanted here, too, for a table that is kept.
    """

    rows: int = 1
    on_part: Callable[[Part | GivenBack], None] = _nobody_listens
    may_queue: bool = False
    owner: object = None
    timeout: float | None = None
    max_tasks: int | None = None
    backend_options: Mapping[str, Any] = MappingProxyType({})
    leave: bool = False
    fetch: bool = False

    def of_chunk(
        self, rows: int, on_part: Callable[[Part | GivenBack], None], may_queue: bool, owner: object
    ) -> TaskOptions:
        """Return these options for one chunk, with what differs between chunks: a fifth of what `_replace` takes."""
        return TaskOptions(rows, on_part, may_queue, owner, *self[4:])


class GivenBack(NamedTuple):
    """A chunk's rows from `first` on will not be run by whoever has it."""

    first: int


class TaskLost(Exception):
    """A submission ended without its result; the subclasses say how."""


class Died(TaskLost):
    """The process that ran it died, at row `index` of the chunk if that is known.

    If it was killed by a signal that no process can catch, the system may have been out of memory. `stage` says in
    which one it was, counted from 1, of a worker that has several; 0 if that is not known.
    """

    stage = 0

    def __init__(self, index: int | None, text: str, *, was_killed: bool = False) -> None:
        super().__init__(text)
        self.index = index
        self.was_killed = was_killed


class DiedLoading(TaskLost):
    """The process died before it had loaded the worker: that says nothing about any pset."""

    def __init__(self, text: str, *, was_killed: bool = False) -> None:
        super().__init__(text)
        self.was_killed = was_killed


class TimedOut(TaskLost):
    """A deadline passed while row `index` of the chunk was running; `stage` as in `Died`."""

    stage = 0

    def __init__(self, index: int | None, text: str) -> None:
        super().__init__(text)
        self.index = index


class Displaced(TaskLost):
    """Its process ended with its machine, or with what had started it, which says little about its rows."""


class Overstayed(TaskLost):
    """It was ended because others were idle while one of its rows kept the others waiting; nobody knows which."""


class Killed(TaskLost):
    """`Backend.kill` ended it."""


class Unpicklable(TaskLost):
    """Something of it cannot be pickled or unpickled; the subclasses say what."""

    def __init__(self, text: str, traceback: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback


class Unsendable(Unpicklable):
    """The arguments could not be pickled here, or not unpickled there."""


class Unreadable(Unpicklable):
    """What came back cannot be unpickled here."""


class Unloadable(Unpicklable):
    """The worker or its constants cannot be loaded where it should run."""


CTRL_C = "Ctrl-C, while code of the user's ran in the driver's process"
"""The argument of a `KeyboardInterrupt` that ends a survey. Not a subclass, because the standard library asks whether
an exception's type *is* `KeyboardInterrupt`."""


def is_ctrl_c(exc: BaseException) -> bool:
    """Tell whether this is the user's Ctrl-C, and not a `KeyboardInterrupt` that a worker raises by itself."""
    return type(exc) is KeyboardInterrupt and exc.args == (CTRL_C,)
