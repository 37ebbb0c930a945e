"""The worker's side: what a Ray task does. The cluster's nodes import this, so they need paramsurvey, too.

A task is one call of `call`. It returns two objects: what came of it, pickled here, so that no user's class is ever
pickled or unpickled by Ray; and the large answers that may stay where they are (`Left`), which are brought to the
driver only if somebody wants them. Both belong to the driver, so they outlive this process.

A task of several psets ends after `Limits.seconds`, whatever is left of it: so a death costs no more than that, and
nobody has to talk to a running task, which Ray has no way for.
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator, MutableSequence
from typing import Any, Literal, NamedTuple, TypeAlias

from paramsurvey.engine.columns import Column
from paramsurvey.engine.pickling import PROTOCOL, Frozen, dumps, loaded_constant
from paramsurvey.engine.records import BETWEEN, Part, Unloadable
from paramsurvey.engine.worker import frozen_exception, safe_repr

LARGE = 2**20
"""Answers from this size on may be left where they are."""
MOST_HELD = 32 * 2**20
"""A chunk whose answers have grown to so many bytes ends."""
CONSTANT, VALUES = "constant-", "values-"
"""How the keys begin of what comes with a task."""
MOST_LOADED = 16
"""So many constants are kept in a worker process."""

Pieces: TypeAlias = "list[Any]"
"""A pickle and its large buffers, each a view of Ray's shared memory."""


class Limits(NamedTuple):
    """How long a chunk may go on, and whether its large answers may be left here."""

    seconds: float
    leave: bool


class Left(NamedTuple):
    """Stands for a large answer in a part: its place among those that stay here."""

    place: int
    size: int


class Outcome(NamedTuple):
    """What came of a task."""

    kind: Literal["parts", "result", "raised", "refused", "missing"]
    content: Any


class Began(NamedTuple):
    """A task has begun, in this process of this node."""

    pid: int
    node: str


class Desk:
    """What a worker process has at hand.

    Attributes
    ----------
    given : dict
        What came with the task that is running: constants and values, by their keys.
    loaded : OrderedDict
        The constants that were unpickled here, the latest last.
    """

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.loaded: OrderedDict[str, Any] = OrderedDict()

    def constant(self, key: str) -> Any:
        """Return a constant, unpickled once; raises `Unloadable`."""
        if key not in self.loaded:
            self.loaded[key] = _unpickled_constant(self.given[key])
            while len(self.loaded) > MOST_LOADED:
                self.loaded.popitem(last=False)
        self.loaded.move_to_end(key)
        return self.loaded[key]


DESK = Desk()
"""Of this process, which is a worker."""


class NoModule(Unloadable):
    """A module that the constant needs is not on this node."""

    def __init__(self, module: str, text: str) -> None:
        super().__init__(text)
        self.module = module


def _unpickled_constant(pieces: Pieces) -> Any:
    try:
        places, data = pickle.loads(pieces[0])
        return loaded_constant(places, data, pieces[1:])
    except ModuleNotFoundError as exc:
        raise NoModule(str(exc.name), f"the node {_node_address()} has no module {str(exc.name)!r}") from None
    except BaseException as exc:  # noqa: BLE001 - importing a user's module may raise anything
        raise Unloadable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from None


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


class Stub(NamedTuple):
    """A constant as it travels: the worker's handle."""

    key: str

    def load(self) -> Any:
        """Return the constant."""
        return DESK.constant(self.key)


def left_value(key: str, place: int) -> Any:
    """Return a large answer of an earlier stage: a copy, for its reader to change."""
    return thawed_copy(DESK.given[key][place])


def thawed_copy(pieces: tuple[Any, list[Any]]) -> Any:
    """Unpickle with the large buffers copied: those in Ray's memory are read-only."""
    data, buffers = pieces
    return pickle.loads(data, buffers=[bytearray(memoryview(buffer)) for buffer in buffers])


class Watch:
    """The monitor of a chunk: ends it when it has taken long enough, or holds enough."""

    can_flush = True

    def __init__(self, limits: Limits, rows: int) -> None:
        self.index: MutableSequence[int] = [BETWEEN]
        self.attention: MutableSequence[int] = [0]
        self.stage: MutableSequence[int] = [0]
        self.parts: list[bytes] = []
        self.left: list[tuple[bytes, list[Any]]] = []
        self._leave = limits.leave
        self._held = 0
        self._timer = threading.Timer(limits.seconds, self._ring) if rows > 1 else None

    def __enter__(self) -> Watch:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self.attention[0] = 1

    def attend(self) -> tuple[bool, bool]:
        """It is time to stop."""
        return False, True

    def flush(self, part: Part) -> None:
        """Pickle a part now, before its values may change."""
        size = 0
        if self._leave:
            columns = [self._without_large(column) for column in part.columns]
            size = sum(value.size for column in columns for value in column if type(value) is Left)
            part = part._replace(columns=columns)
        data = dumps((*tuple(part)[:-1], size))
        self.parts.append(data)
        self._held += len(data) + size
        if self._held >= MOST_HELD:
            self._ring()

    def _without_large(self, column: Column) -> Column:
        return [self._left(value) for value in column] if type(column) is list else column

    def _left(self, value: Any) -> Any:
        if type(value) is not Frozen:
            return value
        buffers = [buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else buffer for buffer in value.buffers]
        size = len(value.data) + sum(map(len, buffers))
        if size < LARGE:
            return value
        self.left.append((value.data, [pickle.PickleBuffer(bytes(buffer)) for buffer in buffers]))
        return Left(len(self.left) - 1, size)


def call(body: bytes, keys: tuple[str, ...], rows: int, limits: Limits, *objects: Any) -> tuple[Any, Any]:
    """Do what a task is for: call the function that is pickled in `body`."""
    DESK.given.update(zip(keys, objects, strict=True))
    try:
        with Watch(limits, rows) as watch:
            outcome = _outcome(body, watch)
        return pickle.PickleBuffer(pickle.dumps(outcome, PROTOCOL)), watch.left or None
    finally:
        DESK.given.clear()


def announced(body: bytes, keys: tuple[str, ...], rows: int, limits: Limits, *objects: Any) -> Iterator[Any]:
    """Do the same, but tell the driver first where and when: for those who have a deadline."""
    import ray

    yield Began(os.getpid(), ray.get_runtime_context().get_node_id())
    DESK.given.update(zip(keys, objects, strict=True))
    for key in keys:
        if key.startswith(CONSTANT):
            try:
                DESK.constant(key)
            except Unloadable:  # the call will say so
                pass
    yield None  # all is loaded
    yield from call(body, keys, rows, limits, *objects)


def _outcome(body: bytes, watch: Watch) -> Outcome:
    try:
        fn, args = pickle.loads(body)
    except BaseException as exc:  # noqa: BLE001 - a user's class may raise anything while it is unpickled
        return Outcome("refused", (safe_repr(exc), traceback.format_exc()))
    try:
        result = fn(*args, monitor=watch)
        if type(result) is Part:
            watch.flush(result)
            return Outcome("parts", watch.parts)
        return Outcome("result", dumps(result))
    except NoModule as exc:
        return Outcome("missing", (exc.module, str(exc)))
    except BaseException as exc:  # noqa: BLE001 - the future carries whatever was raised
        return Outcome("raised", frozen_exception(exc))


def load_only(body: bytes, keys: tuple[str, ...], *objects: Any) -> None:
    """Load constants and do nothing with them: to see whether that is what ends processes."""
    DESK.given.update(zip(keys, objects, strict=True))
    try:
        pickle.loads(body).load()
    except Unloadable:
        pass
    finally:
        DESK.given.clear()


def end_process(pid: int) -> None:
    """Kill a process of this node that does not answer Ray any more."""
    import signal

    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
