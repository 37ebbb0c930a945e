"""The ray backend: a task of Ray for every submission.

Ray places the tasks, starts and ends its processes, and carries bytes. All else is ours: nothing is retried by Ray
(``max_retries=0``), no value is pickled by it (`remote`), and how a task ended is said in our words (`how_it_ended`).

Who does what
-------------
A task's end comes in a thread of Ray's, which does nothing but put it into a queue. The *hand*, one thread of ours,
takes it from there, unpickles, completes the future, and looks at the clock: for deadlines, for tasks that should have
given way, and for those that Ray does not manage to end.

A running task cannot be talked to, so `recall` ends a task of several rows that has run for much longer than it was
meant to (`Overstayed`); the engine sends its rows one by one. Where there is a deadline, a task is a stream, which says
first where and when it has begun: that costs two milliseconds more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pickle
import queue
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paramsurvey.backends.multiprocessing.backend import available_cores, cores
from paramsurvey.backends.ray import remote
from paramsurvey.backends.ray.constants import PublishedObject, RemoteValue
from paramsurvey.backends.ray.demands import (
    OF_INIT,
    Demand,
    Node,
    demand_of,
    refuse_if_impossible,
    refuse_wrong_settings,
    room,
)
from paramsurvey.backends.ray.joining import CONNECTION, OLDEST, find_head, version_is_enough
from paramsurvey.engine.columns import has_remote
from paramsurvey.engine.pickling import Frozen, dumps_by_value, thaw
from paramsurvey.engine.records import (
    Died,
    DiedLoading,
    Displaced,
    Killed,
    Overstayed,
    Part,
    TaskLost,
    TaskOptions,
    TimedOut,
    Unloadable,
    Unreadable,
    Unsendable,
)
from paramsurvey.engine.worker import run_chunk, safe_repr
from paramsurvey.errors import BackendError, OptionError

log = logging.getLogger("paramsurvey")

LONGEST_SECONDS = 1.0
"""A task of several rows ends by itself after so long,"""
PATIENCE_SECONDS = 1.5
"""and if others are idle, after so long it is ended."""
LOADING_SECONDS = 60.0
FORCE_SECONDS = 3.0
"""After so long, a process that Ray does not manage to end is ended by its number."""
NODES_SECONDS = 1.0
TICK_SECONDS = 0.05
TASK_SECONDS = 0.001


@attrs.define(eq=False, repr=False)
class Task:
    """A submission under way."""

    future: Future[Any]
    options: TaskOptions
    body: bytes
    constants: list[PublishedObject]
    values: list[RemoteValue]  # one for each task whose large answers it needs
    ref: Any = None  # what ends it, for `ray.cancel`
    left: Any = None  # the ref of its large answers
    ending: TaskLost | None = None  # why we have ended it
    began: remote.Began | None = None
    deadline: float = math.inf  # of the clock, for this task as far as it has come
    is_wanted_back: bool = False
    submitted: float = 0.0
    forced: float = math.inf


class RayBackend:
    """Tasks on a Ray cluster.

    Parameters
    ----------
    settings : mapping
        What was given as ``ray={...}`` to `init`: ``address``, ``init`` (further keywords of ``ray.init``), and what
        every task asks for unless it is said otherwise.
    ncores : int, optional
        How many cores of this machine a Ray of our own has, or, if negative, how many it leaves unused.
    verbose : bool
        Whether Ray may say what it likes.

    Raises
    ------
    BackendError
        There is no such cluster, or it cannot be joined.
    OptionError
        A setting is unknown or impossible.
    """

    name = "ray"
    can_kill = True
    can_replace = True
    runs_alone = True
    task_seconds = TASK_SECONDS
    has_queue = True
    can_leave = True
    wishes = "ray"

    def __init__(
        self, settings: Mapping[str, Any] | None = None, ncores: int | None = None, *, verbose: bool = False
    ) -> None:
        if not version_is_enough():
            raise BackendError(
                f"Ray {ray.__version__} is too old for the backend 'ray': pip install 'ray>={OLDEST[0]}.{OLDEST[1]}'"
            )
        settings = settings or {}
        refuse_wrong_settings(settings)
        self._demand = demand_of(settings, "ray=")
        self._of_init = {name: settings.get(name) for name in OF_INIT}
        self._lock = threading.Lock()
        self._tasks: dict[Future[Any], Task] = {}
        self._functions: dict[Any, Any] = {}
        self._news: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._keys = f"{uuid.uuid4().hex}-"
        self._published = 0
        self._nodes: tuple[float, list[Node]] = (-math.inf, [])
        self._demands: dict[Any, Demand] = {}
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # in which streams are listened to
        self._listeners: set[asyncio.Task[None]] = set()
        head = find_head(self._of_init["address"], os.environ, Path.home())
        CONNECTION.join(head, None if ncores is None else cores(ncores), self._of_init["init"] or {}, verbose=verbose)
        try:
            self.demand(settings)
        except OptionError:
            CONNECTION.leave()
            raise
        self._hand = threading.Thread(target=self._work, name="paramsurvey-ray", daemon=True)
        self._hand.start()

    # What there is

    def nodes(self) -> list[Node]:
        """Return the machines of the cluster that are alive; asks it once a second at most."""
        asked, nodes = self._nodes
        if time.monotonic() - asked > NODES_SECONDS:
            nodes = [
                Node(address=each["NodeManagerAddress"], resources=each["Resources"])
                for each in ray.nodes()
                if each["Alive"]
            ]
            self._nodes = time.monotonic(), nodes
        return nodes

    def slots(self) -> int:
        """Return how many tasks can run at once, of those that ask for what `init` said."""
        return max(1, room(self.nodes(), self._demand))

    def room(self, settings: Mapping[str, Any]) -> int:
        """Return how many tasks with these settings can run at once; raises `OptionError` if none ever can."""
        return max(1, room(self.nodes(), self.demand(settings)))

    def demand(self, settings: Mapping[str, Any]) -> Demand:
        """Return what tasks with these settings ask for; raises `OptionError` if that is impossible."""
        key = repr(settings)
        if key not in self._demands:
            for name in OF_INIT:
                if settings.get(name) not in (None, self._of_init[name]):
                    raise OptionError(f"ray={{{name!r}: ...}} is for init(): there is one Ray for all surveys")
            demand = demand_of(settings, "ray=")
            refuse_if_impossible(demand, [] if _can_grow() else self.nodes(), f"ray={_of_task(settings)}")
            self._demands[key] = demand
        return self._demands[key]

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse what is unknown or impossible, what no node can give, and what is for `init` alone."""
        self.demand(settings)

    def at_most(self, ncores: int) -> int | None:
        """Return how many slots ``ncores=`` means; None for all of a Ray of our own."""
        slots, is_ours = self.slots(), CONNECTION.head is None
        there = max(slots, available_cores()) if is_ours else slots
        wanted = ncores if ncores > 0 else max(1, there + ncores)
        return None if is_ours and wanted >= slots else wanted

    def rows_per_task(self, max_tasks: int) -> int:
        """Return how many psets a task may have where a process may run `max_tasks`: few, lest it ends too soon."""
        return math.isqrt(max_tasks)

    def resources(self) -> dict[str, Any]:
        """Return what the cluster has, all together, and under ``nodes`` each of its machines."""
        nodes = [node.describe() for node in self.nodes()]
        totals = {name: sum(node[name] for node in nodes) for name in ("num_cores", "num_gpus", "memory")}
        return {**totals, "num_cores": max(1, totals["num_cores"]), "nodes": nodes}

    # Constants and tasks

    def publish(self, obj: Any) -> PublishedObject:
        """Put a constant into the object store; raises `Unsendable` if it cannot be pickled."""
        self._refuse_if_closed()
        with self._lock:
            self._published += 1
            key = f"{remote.CONSTANT}{self._keys}{self._published}"
        return PublishedObject(key, obj)

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:
        """Have a task call ``fn(*args, monitor=...)``."""
        self._refuse_if_closed()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            body = dumps_by_value((fn, args))
        except Exception as exc:  # noqa: BLE001 - a user's object may raise anything while it is pickled
            future.set_exception(Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()))
            return future
        constants = [each for each in args if isinstance(each, PublishedObject)]
        task = Task(future, options, body, constants, _remote_values(args) if fn is run_chunk else [])
        with self._lock:
            self._tasks[future] = task
        self._start(task)
        return future

    def _start(self, task: Task) -> None:
        options = task.options
        keys = (*(each.key for each in task.constants), *(each.key for each in task.values))
        objects = (*(each.ref for each in task.constants), *(each.ref for each in task.values))
        limits = remote.Limits(LONGEST_SECONDS, options.leave)
        task.submitted = time.monotonic()
        function = self._function(options)
        result = function.remote(task.body, keys, options.rows, limits, *objects)
        if options.timeout is None:
            task.ref, task.left = result
            task.ref.future().add_done_callback(lambda done: self._news.put(partial(self._ended, task, done)))
        else:
            task.ref = result
            self._listener().call_soon_threadsafe(self._listen_to, task)

    def _function(self, options: TaskOptions) -> Any:
        """Return the remote function for a submission, with all that is asked for; made once."""
        demand = self.demand(options.backend_options)
        # Ray counts tasks, not psets, and each function of its own.
        calls = 0 if options.max_tasks is None else options.max_tasks // self.rows_per_task(options.max_tasks)
        key = demand, calls, options.timeout is None
        if key not in self._functions:
            target, returns = (remote.call, 2) if options.timeout is None else (remote.announced, "streaming")
            plain = ray.remote(max_retries=0, max_calls=calls, num_returns=returns)(target)
            self._functions[key] = plain.options(**demand.options())
        return self._functions[key]

    def recall(self, future: Future[Any]) -> None:
        """End a task of several rows if it does not end by itself in time."""
        with self._lock:
            task = self._tasks.get(future)
            if task is not None and task.options.rows > 1:
                task.is_wanted_back = True

    def kill(self, future: Future[Any]) -> None:
        """End a task, with the process that runs it."""
        with self._lock:
            task = self._tasks.get(future)
        if task is not None:
            self._end(task, Killed("it was killed"))

    def _end(self, task: Task, why: TaskLost) -> None:
        if task.ending is None:
            task.ending, task.forced = why, time.monotonic() + FORCE_SECONDS
            task.deadline = math.inf
            with suppress(Exception):  # it is over already, or Ray is
                ray.cancel(task.ref, force=True)  # a soft one first would make it fail where the interpreter is held

    def close(self) -> None:
        """End all tasks, and Ray, if it is ours and nobody else uses it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            tasks = list(self._tasks.values())
        for task in tasks:
            self._end(task, Killed("the session was closed"))
        deadline = time.monotonic() + FORCE_SECONDS
        while self._tasks and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS / 5)
        self._news.put(None)
        self._hand.join()
        for task in list(self._tasks.values()):
            self._resolve(task, Killed("the session was closed"))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._listening.join()
            self._loop.close()
        self._functions.clear()
        CONNECTION.leave()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BackendError("the backend is closed; open a new session")

    # Streams: tasks that say when they begin

    def _listener(self) -> asyncio.AbstractEventLoop:
        """Return the loop in which streams are listened to; there is none before it is needed."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._listening = threading.Thread(
                    target=self._loop.run_forever, name="paramsurvey-ray-streams", daemon=True
                )
                self._listening.start()
            return self._loop

    def _listen_to(self, task: Task) -> None:
        assert self._loop is not None
        listener = self._loop.create_task(self._listen(task))
        self._listeners.add(listener)  # the loop itself does not keep it
        listener.add_done_callback(self._listeners.discard)

    async def _listen(self, task: Task) -> None:
        """Take what a stream has: when it began, when all was loaded, what came of it, and its large answers."""
        done: Future[Any] = Future()
        items: list[Any] = []
        try:
            async for ref in task.ref:
                items.append(ref if len(items) == _LEFT else await ref)
                self._news.put(partial(self._said, task, list(items)))
            task.left = items[_LEFT]
            done.set_result(items[_OUTCOME])
        except BaseException as exc:  # noqa: BLE001 - a future carries whatever was raised
            done.set_exception(exc)
        self._news.put(partial(self._ended, task, done))

    def _said(self, task: Task, items: list[Any]) -> None:
        assert task.options.timeout is not None
        if task.ending is not None:
            return
        now, timeout = time.monotonic(), task.options.timeout
        if len(items) == _BEGAN + 1:
            task.began, task.deadline = items[_BEGAN], now + LOADING_SECONDS + timeout
        elif len(items) == _BEGAN + 2:
            task.deadline = now + timeout + (LONGEST_SECONDS if task.options.rows > 1 else 0)
        else:
            task.deadline = math.inf

    # The hand

    def _work(self) -> None:
        """Do, in a thread of its own, what the news want done, and look at the clock."""
        look_at = 0.0
        while True:
            try:
                news = self._news.get(timeout=TICK_SECONDS)
            except queue.Empty:
                pass
            else:
                if news is None:
                    return
                try:
                    news()
                except Exception:  # a bug here must not end the thread that everybody waits for
                    log.exception("the ray backend could not deal with the end of a task")
            if (now := time.monotonic()) >= look_at:
                look_at = now + TICK_SECONDS
                self._look_at_the_clock(now)

    def _look_at_the_clock(self, now: float) -> None:
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            if now >= task.deadline:
                self._end(task, TimedOut(None, f"it took longer than timeout={task.options.timeout:g} s"))
            elif task.is_wanted_back and now >= task.submitted + PATIENCE_SECONDS:
                self._end(task, Overstayed("others were idle"))
            elif now >= task.forced:
                task.forced = math.inf
                self._end_by_number(task)

    def _end_by_number(self, task: Task) -> None:
        """Ray does not manage to end it: the process is stopped, perhaps."""
        assert task.ending is not None
        if task.began is not None:
            here = NodeAffinitySchedulingStrategy(task.began.node, soft=False)
            killing = ray.remote(num_cpus=0, max_retries=0)(remote.end_process).options(scheduling_strategy=here)
            killing.remote(task.began.pid)
        self._resolve(task, task.ending)

    def _ended(self, task: Task, done: Future[Any]) -> None:
        """A task is over: read what came of it."""
        error = done.exception()
        if task.ending is not None:
            self._resolve(task, task.ending)
        elif error is not None:
            self._lost(task, error)
        else:
            for each in task.constants:
                each.is_proven = True
            self._read(task, done.result())

    def _lost(self, task: Task, error: BaseException) -> None:
        unproven = [each for each in task.constants if not each.is_proven]
        if isinstance(error, ray.exceptions.WorkerCrashedError) and unproven and not self._closed:
            self._see_whether_it_loads(task, unproven[0], error)
        else:
            self._resolve(task, how_it_ended(error))

    def _see_whether_it_loads(self, task: Task, constant: PublishedObject, error: BaseException) -> None:
        """A process has died that may have been the first to load this constant: what was to blame?"""
        demand = self.demand(task.options.backend_options)
        function = ray.remote(max_retries=0)(remote.load_only).options(**demand.options())
        ref = function.remote(pickle.dumps(constant), (constant.key,), constant.ref)

        def tell(done: Future[Any]) -> None:
            if isinstance(done.exception(), ray.exceptions.WorkerCrashedError):
                self._resolve(task, DiedLoading(f"{_DIED} while it loaded the worker or its constants"))
            else:
                constant.is_proven = True
                self._resolve(task, how_it_ended(error))

        ref.future().add_done_callback(lambda done: self._news.put(partial(tell, done)))

    def _read(self, task: Task, view: Any) -> None:
        try:
            outcome = remote.Outcome(*pickle.loads(view))
            parts = [_part(data, task) for data in outcome.content] if outcome.kind == "parts" else []
            result = pickle.loads(outcome.content) if outcome.kind == "result" else None
        except Displaced as exc:
            self._resolve(task, exc)
        except BaseException as exc:  # noqa: BLE001 - a result's own class may raise anything
            self._resolve(task, Unreadable(safe_repr(exc), traceback.format_exc()))
        else:
            if outcome.kind == "missing":
                self._ship(task, *outcome.content)
                return
            for part in parts[:-1]:
                task.options.on_part(part)
            self._resolve(task, parts[-1] if parts else _value(outcome, result))

    def _ship(self, task: Task, module: str, text: str) -> None:
        """A node lacks a module: send its code along, and the task again."""
        why_not = [each.ship(module) for each in task.constants]
        if "" in why_not and not self._closed:
            self._start(task)
            return
        remedy = f"install it there, or name it in ray={{'init': {{'runtime_env': ...}}}}, since {why_not[0]}"
        self._resolve(task, Unloadable(f"{text}, which the worker needs; {remedy}"))

    def _resolve(self, task: Task, outcome: Any) -> None:
        with self._lock:
            if self._tasks.pop(task.future, None) is None:
                return
        if isinstance(outcome, BaseException):
            task.future.set_exception(outcome)
        else:
            task.future.set_result(outcome)


_BEGAN, _LOADED, _OUTCOME, _LEFT = range(4)
_DIED = "its worker process died"


def how_it_ended(error: BaseException) -> TaskLost:
    """Say in our words how a task was lost."""
    kinds = ray.exceptions
    text = " ".join(str(error).split("\n")[0].split())
    if isinstance(error, kinds.OutOfMemoryError):
        text = f"{_DIED}: Ray ended it, because its node was short of memory; {_SHORT_OF_MEMORY}"
        return Died(None, text, was_killed=True)
    if isinstance(error, kinds.NodeDiedError | kinds.LocalRayletDiedError | kinds.ObjectLostError):
        return Displaced(f"{_DIED}, and the node that it ran on: {text}")
    if isinstance(error, kinds.WorkerCrashedError):
        return Died(None, f"{_DIED}: it crashed, exited or was killed; {_HOW_IS_UNKNOWN}")
    if isinstance(error, kinds.TaskCancelledError):
        return Killed("somebody has cancelled it")
    if isinstance(error, kinds.RuntimeEnvSetupError):
        return Unloadable(f"the runtime_env cannot be set up on a node: {error}")
    if isinstance(error, kinds.RayTaskError):
        lost = isinstance(getattr(error, "cause", None), kinds.ObjectLostError)
        return Died(None, f"{_DIED}: {_VALUE_LOST}") if lost else Unloadable(_without_paramsurvey(error))
    return Died(None, f"{_DIED}: Ray says {type(error).__name__}: {text}")


_SHORT_OF_MEMORY = "ask for more with ray={'memory': bytes}, so that fewer run beside it"
_HOW_IS_UNKNOWN = "Ray does not tell how"
_VALUE_LOST = "an answer that it needs was lost with its node"


def _without_paramsurvey(error: BaseException) -> str:
    """Say why our own function did not even begin."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[-1].strip() if lines else type(error).__name__
    if "paramsurvey" in text and "module" in text:
        text += "; the nodes of a Ray cluster need paramsurvey, in the driver's version"
    return text


def _remote_values(args: tuple[Any, ...]) -> list[RemoteValue]:
    """Return one of the large answers of each task that left some which these rows need."""
    _, (_, columns, *_) = args
    found = {
        value.key: value for column in columns if has_remote(column) for value in column if type(value) is RemoteValue
    }
    return list(found.values())


def _part(data: bytes, task: Task) -> Part:
    *content, left = pickle.loads(data)
    part = Part._make((*content, len(data) + left))
    if not left:
        return part
    return part._replace(columns=[_with_remote(column, task) for column in part.columns])


def _with_remote(column: Any, task: Task) -> Any:
    if type(column) is not list:
        return column
    return [_remote(value, task) if type(value) is remote.Left else value for value in column]


def _remote(value: remote.Left, task: Task) -> Any:
    answer = RemoteValue(task.left, value.place)
    if task.options.fetch:
        try:
            answer.bring()
        except BackendError as exc:
            raise Displaced(str(exc)) from exc
        except BaseException:  # noqa: BLE001 - its own class raises: the engine will find the same, and say so
            data, buffers = ray.get(task.left)[value.place]
            return Frozen(data, [bytearray(memoryview(buffer)) for buffer in buffers])
    return answer


def _value(outcome: remote.Outcome, result: Any) -> Any:
    if outcome.kind == "refused":
        text, stack = outcome.content
        return Unsendable(f"it cannot be unpickled in the worker: {text}", stack)
    if outcome.kind == "raised":
        frozen, text = outcome.content
        try:
            return thaw(frozen)
        except BaseException:  # noqa: BLE001 - an exception that cannot be unpickled comes as text
            return RuntimeError(text)
    return result


def _of_task(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in OF_INIT}


def _can_grow() -> bool:
    """Tell whether a cluster's autoscaler may bring nodes that are not there yet."""
    try:
        from ray._private import state  # nothing public tells

        return bool(state.state.get_max_resources_from_cluster_config())
    except Exception:  # noqa: BLE001 - another release has it elsewhere; then what is there counts
        return False
