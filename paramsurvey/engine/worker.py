"""The worker's side: dicts in, answers out, and nothing that a worker does gets past here.

`run_chunk` is what every backend executes. It makes the psets of a chunk, calls the user's function on each, and
returns a `Part`. Whatever the function raises, also `SystemExit` and `KeyboardInterrupt`, becomes text in that part;
whatever it returns is checked here, where the pset still is.

Beside it stands a `Monitor`, through which a backend that can look into a running process learns which pset is running,
asks for what is finished so far, and asks to stop after the current pset. What it costs per pset is the reason for its
form: a store and a load in shared memory (about 40 ns), no clock, no call. The clock is read once a *batch*: as many
psets as fill about 100 us.

This module is imported in every worker process, so nothing here may import pandas, numpy or networkx.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableSequence, Sequence
from functools import lru_cache, partial
from itertools import chain
from sys import getrefcount
from time import perf_counter
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from paramsurvey.engine.columns import (
    RESERVED,
    SHORT,
    Column,
    Keys,
    Pset,
    all_have_exactly,
    columns_if_uniform,
    is_plain,
    maker_of_psets,
    pset_at,
    spread,
    stacked,
    typed_as,
)
from paramsurvey.engine.pickling import LARGE, Frozen, freeze, is_atomic, own_copies, thaw
from paramsurvey.engine.records import BETWEEN, LOADING, ChunkRows, Failure, Part, Unloadable, Work, is_ctrl_c
from paramsurvey.fingerprint import pset_seed

if TYPE_CHECKING:
    from paramsurvey.engine.details import Witness

BATCH_SECONDS = 100e-6
LARGEST_BATCH = 320
"""So many psets and as many answers are fewer objects than the garbage collector waits for."""
UNWATCHED_SECONDS = 0.25
"""A chunk of which nothing can be seen before its end comes back after so long with what it has, if need be early: else
neither a deadline nor Ctrl-C could be heeded while psets take longer than was thought. The rest is sent again."""
WHAT_TO_RETURN = "a worker returns a dict of answers, or None"


class Handle(Protocol):
    """A published constant: where it is needed, `load` returns it."""

    def load(self) -> Any:
        """Return the constant; the second call in a process costs nothing."""
        ...


class Monitor(Protocol):
    """How a backend watches a running chunk."""

    @property
    def index(self) -> MutableSequence[int]:
        """One int, written before each pset: its row in the chunk."""
        ...

    @property
    def attention(self) -> MutableSequence[int]:
        """One int, read before each pset: not zero if `attend` should be called."""
        ...

    @property
    def stage(self) -> MutableSequence[int]:
        """One int: in which stage a worker is that has several, counted from 1; else 0."""
        ...

    @property
    def can_flush(self) -> bool:
        """Whether parts can be sent ahead."""
        ...

    def attend(self) -> tuple[bool, bool]:
        """Return whether a part is wanted now, and whether to stop after it."""
        ...

    def flush(self, part: Part) -> None:
        """Send a part ahead; when this returns, the values in it may change."""
        ...


class Unwatched:
    """The monitor of a backend that does not look into its processes."""

    can_flush = False

    def __init__(self) -> None:
        self.index: MutableSequence[int] = [0]
        self.attention: MutableSequence[int] = [0]
        self.stage: MutableSequence[int] = [0]

    def attend(self) -> tuple[bool, bool]:
        """Nobody wants anything."""
        return False, False

    def flush(self, part: Part) -> None:
        """Nobody listens: never called, because nobody asked."""
        raise NotImplementedError


class SystemKwargs(Mapping[str, Any]):
    """What a worker is told beside its pset: `name`, `raw_stats`, `attempt`, `seed`, and `out_subdir` when asked for.

    Read-only. The seed and the sub-directory are made when they are asked for, so a worker that does not need them does
    not pay for them.
    """

    __slots__ = ("_known", "_lazy", "_run")

    def __init__(self, run: ChunkRun) -> None:
        self._run = run
        self._known = {"name": run.work.name, "raw_stats": run.raw_stats, "attempt": run.rows.attempt}
        self._lazy = {"seed": run.seed}
        if run.work.out_subdirs:
            self._lazy["out_subdir"] = run.out_subdir  # type: ignore[assignment]

    def __getitem__(self, key: str) -> Any:
        if key in self._known:
            return self._known[key]
        return self._lazy[key]()

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from self._lazy

    def __len__(self) -> int:
        return len(self._known) + len(self._lazy)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)

    def note_stage(self, number: int) -> None:
        """Say in which of its stages the worker is now, from 1 on, so that a death is put down to it; 0: in none."""
        self._run.monitor.stage[0] = number


def run_chunk(handle: Handle, rows: tuple[Any, ...], monitor: Monitor | None = None) -> Part:
    """Call the worker on every row of a chunk, and return what has not been flushed through the monitor by then.

    `rows` is the content of a `ChunkRows`; a plain tuple costs less on the wire.
    The returned part may end before the chunk does: then `monitor` asked for that, or there is none and it took long.
    """
    monitor = monitor or Unwatched()
    monitor.index[0] = LOADING
    work = handle.load()
    monitor.index[0] = BETWEEN
    run = ChunkRun(work, ChunkRows(*rows), monitor)
    _go_to(work.cwd)
    part = run.to_the_end()
    if run.witness is not None:
        run.witness.close()
    return part


def _go_to(folder: str | None) -> None:
    """Make a folder the current one; a worker may have left it, or removed where it was."""
    if folder is None:
        return
    try:
        if os.getcwd() == folder:
            return
    except OSError:
        pass
    try:
        os.chdir(folder)
    except OSError as exc:
        raise Unloadable(f"the workers cannot run in the folder {folder!r}: {exc}") from exc


class ChunkRun:
    """A chunk being run: what has been answered since the last flush, one block per batch.

    A worker may change what it has returned as soon as it is called again (a preallocated array, a dict it keeps). So a
    value that can change is frozen before the next call: there is one pset a batch from the first such value on. Only
    atomic values (`is_atomic`) can be looked at later, many at a time. If a batch of many turns out to hold others,
    those psets are run again, one by one; that happens once a chunk, to psets that took microseconds.
    """

    def __init__(self, work: Work, rows: ChunkRows, monitor: Monitor) -> None:
        self.work = work
        self.rows = rows
        self.monitor = monitor
        self.together = rows.together if monitor.can_flush else 0
        self.raw_stats: dict[str, list[float]] = {}
        self.spent = 0.0  # seconds
        self.row = 0  # of the first pset of the batch
        self.answers: list[Any] = []  # of the batch
        self.failed: list[int] = []  # which of them are failures
        self.interrupted = False  # by Ctrl-C, in the driver's process
        # One pset a batch, because its values can change, or those that this worker returns.
        self.changing = [key for key, column in zip(rows.keys, rows.columns, strict=True) if not is_plain(column)]
        self.careful = bool(self.changing)
        self.given: Pset = {}  # of those, what the worker was given
        self.marks: dict[str, int] = {}  # how many times were recorded before the batch
        self.pid = os.getpid()
        self.param_keys = frozenset(rows.keys)
        self.first = 0  # the first row not flushed
        self.blocks: list[Block] = []
        self.last_keys: Keys | None = None  # of an answer alone, in which nothing needed care
        self.last_kinds: list[type] = []  # the types of these keys
        self.failures: list[tuple[int, Failure]] = []
        self.held = 0  # bytes of frozen values
        self.seconds: list[float] = []
        self.counts: list[int] = []
        self.worker = work.worker
        self.witness: Witness | None = None
        if work.details or work.capture != "through":
            from paramsurvey.engine.details import Witness

            self.witness, self.careful = Witness(self), True
            self.worker = self.witness.call

    def to_the_end(self) -> Part:
        """Run every row, or those before the monitor wanted to stop; return what is not flushed."""
        system_kwargs = SystemKwargs(self)
        make = maker_of_psets(*self.rows[:3])
        if self.changing:
            make = partial(self._own_psets, make)
        size, together = 1, self.together
        batch: list[Pset] = []
        while batch := batch or make(self.row, self.row + size):
            mean, done = self._run_batch(batch, system_kwargs)
            if done == 1 == len(batch) and self._takes_plain_row(batch[0]):
                batch = []
            else:
                self._digest(batch[:done], system_kwargs)
                batch = batch[done:]
            if self._must_stop():
                break
            size = (
                1 if self.careful or mean >= BATCH_SECONDS else min(LARGEST_BATCH, int(BATCH_SECONDS / (mean + 1e-9)))
            )
            if together:
                size = min(size, self.first + together - self.row)
        return self._part()

    def _own_psets(self, make: Callable[[int, int], list[Pset]], first: int, stop: int) -> list[Pset]:
        """Make the next pset, with values of its own.

        Psets may share a list or an array, and in the driver's process it is the user's. What a worker does to it is
        seen by no other pset, as if each were alone: else answers would depend on which of them travel together.
        """
        psets = make(first, stop)
        for pset in psets:
            shared = {key: value for key in self.changing if not is_atomic(type(value := pset.get(key)))}
            self.given = dict(zip(shared, own_copies(list(shared.values())), strict=True)) if shared else {}
            pset.update(self.given)
        return psets

    def _run_batch(self, batch: list[Pset], system_kwargs: SystemKwargs) -> tuple[float, int]:
        """Run psets until the end or until there is attention to be given; return mean seconds and how many."""
        began = perf_counter()
        answers: list[Any] = []
        self.answers = answers
        if self.raw_stats:
            self.marks = {name: len(times) for name, times in self.raw_stats.items()}
        self._call(batch, system_kwargs)
        if os.getpid() != self.pid:
            os._exit(0)  # the worker has forked, and this is the child: the parent goes on
        del answers[len(batch) :]  # an interrupt after the last answer belongs to nobody
        done = len(answers)
        if self.failed and self.failed[-1] >= done:
            self.failed.pop()
        mean = (perf_counter() - began) / max(1, done)
        self.spent += mean * done
        self.seconds.append(mean)
        self.counts.append(done)
        return mean, done

    def _call(self, batch: list[Pset], system_kwargs: SystemKwargs) -> None:
        worker, user_kwargs = self.worker, self.work.user_kwargs
        index, attention = self.monitor.index, self.monitor.attention
        append, rest = self.answers.append, iter(batch)
        while True:
            try:
                # The hot loop. Everything else that a pset costs is done for many at a time.
                for index[0], pset in enumerate(rest, self.row + len(self.answers)):
                    if attention[0]:
                        return
                    append(worker(pset, system_kwargs, user_kwargs))
            except BaseException as exc:  # noqa: BLE001 - no exception of a worker may end anything but its own pset
                if is_ctrl_c(exc):
                    self.interrupted = True
                    return
                self.failed.append(len(self.answers))
                append(self._raised(exc))
            else:
                return

    def _raised(self, exc: BaseException) -> Failure:
        """Say that the worker has raised, and whether that is worth another try."""
        names = self.work.retry_exceptions
        retryable = names is None or not _names_of(type(exc)).isdisjoint(names)
        return Failure("raised", *self._describe(exc), retryable=retryable, for_memory=isinstance(exc, MemoryError))

    def _must_stop(self) -> bool:
        if self.together and self.row - self.first >= self.together:
            if self.row < self.rows.count:  # the last chunk of a train is what is returned
                self.monitor.flush(self._part())
        elif self.held >= LARGE and self.monitor.can_flush:
            self.monitor.flush(self._part())
        if not self.monitor.can_flush and self.spent >= UNWATCHED_SECONDS:
            return True
        if self.interrupted or not self.monitor.attention[0]:
            return self.interrupted
        part_wanted, stop = self.monitor.attend()
        if part_wanted and not stop and self.row > self.first:
            self.monitor.flush(self._part())
        return stop

    def _digest(self, psets: list[Pset], system_kwargs: SystemKwargs) -> None:
        """Turn the batch's answers into a block of columns."""
        answers, self.answers = self.answers, []
        failed, self.failed = self.failed, []
        rows = range(self.row, self.row + len(answers))
        self.row += len(answers)
        for i in reversed(failed):
            self.failures.append((rows[i], answers.pop(i)))
            del psets[i]
        block = self._plain_block(psets, answers)
        if block is not None:
            self.blocks.append(block)
            return
        others = [row for i, row in enumerate(rows) if i not in failed] if failed else rows
        if len(psets) == 1:
            self.careful |= any_is_held(answers) or can_change(answers[0]) or can_change(psets[0])
            self._digest_row(others[0], psets[0], answers[0], alone=True)
        else:
            self._digest_rows(others, psets, answers, system_kwargs)

    def _plain_block(self, psets: list[Pset], answers: list[Any]) -> Block | None:
        """Return the block of a batch in which nothing needs care, else None."""
        if not all_have_exactly(psets, self.rows.keys):
            return None
        kinds = set(map(type, answers))
        if kinds <= {type(None)}:
            return Block((), [], len(answers))
        if kinds != {dict} or any_is_held(answers):
            return None
        keys = tuple(answers[0])
        columns = columns_if_uniform(answers, keys)
        if columns is None or not self._are_plain_keys(keys):
            return None
        types = [set(map(type, column)) for column in columns]
        if not all(map(is_atomic, chain.from_iterable(types))):
            return None
        if len(answers) >= SHORT:  # typed now, while the values are in the processor's cache
            return Block(keys, [typed_as(*each) for each in zip(types, columns, strict=True)], len(answers))
        return Block(keys, columns, len(answers))

    def _takes_plain_row(self, pset: Pset) -> bool:
        """Add the answer of one pset alone to the last block, if nothing in it needs care; else leave it to `_digest`.

        It does the same in a third of the time. Psets of milliseconds come in batches of one, and after a worker has
        slept, whatever runs next takes three times as long as it otherwise would.
        """
        answers = self.answers
        if self.failed or pset.keys() != self.param_keys:
            return False
        if answers[0] is None:
            keys: Keys = ()
            values: list[Any] = []
        elif type(answers[0]) is dict and not any_is_held(answers):
            keys, values = tuple(answers[0]), list(answers[0].values())
        else:
            return False
        if keys != self.last_keys or list(map(type, keys)) != self.last_kinds:  # 1 and True are equal keys
            if not self._are_plain_keys(keys):
                return False
            self.last_keys, self.last_kinds = keys, list(map(type, keys))
        for value in values:
            if not is_atomic(type(value)):
                return False
        if self.blocks and (block := self.blocks[-1]).keys is self.last_keys:
            for column, value in zip(block.columns, values):  # noqa: B905 - it takes longer, and they are as many as keys
                column.append(value)  # type: ignore[union-attr] # a list, as that of every row alone
            block.count += 1
        else:
            self.blocks.append(Block(self.last_keys, [[value] for value in values], 1))
        self.row += 1
        return True

    def _are_plain_keys(self, keys: Keys) -> bool:
        plain = self.param_keys.isdisjoint(keys) and RESERVED.isdisjoint(keys)
        return plain and all(map(is_atomic, map(type, keys)))

    def _digest_rows(
        self, rows: Sequence[int], psets: list[Pset], answers: list[Any], system_kwargs: SystemKwargs
    ) -> None:
        """Digest a batch one by one; an answer that may have changed since it was returned is asked for again."""
        for name, times in self.raw_stats.items():
            del times[self.marks.get(name, 0) :]  # they are measured again
        for row, pset, answer, held in zip(rows, psets, answers, are_held(answers), strict=True):
            if held or can_change(answer) or can_change(pset):
                self.careful = True
                self._run_again(row, system_kwargs)
            else:
                self._digest_row(row, pset, answer)

    def _run_again(self, row: int, system_kwargs: SystemKwargs) -> None:
        self.monitor.index[0] = row
        pset = self.pset(row)
        try:
            answer = self.work.worker(pset, system_kwargs, self.work.user_kwargs)
        except BaseException as exc:  # noqa: BLE001 - as in _call
            self.interrupted = is_ctrl_c(exc)
            self.failures.append((row, self._raised(exc)))
        else:
            self._digest_row(row, pset, answer)

    def _digest_row(self, row: int, pset: Pset, answer: Any, *, alone: bool = False) -> None:
        checked = self._checked(row, pset, answer, alone)
        if isinstance(checked, Failure):
            self.failures.append((row, checked))
        else:
            self.blocks.append(Block(tuple(checked), [[value] for value in checked.values()], 1))

    def _checked(self, row: int, pset: Pset, answer: Any, alone: bool) -> Pset | Failure:
        """Return one answer, its values frozen where they could change; or why it cannot be one."""
        if answer is not None and not isinstance(answer, Mapping):
            return Failure("raised", _wrong_return(answer))
        original = self.pset(row)
        merged = {key: value for key, value in pset.items() if key not in original} | dict(answer or {})
        for key in original.keys() & merged.keys():
            value = merged.pop(key)
            if not (same(value, original[key]) or (key in self.given and value is self.given[key])):
                return Failure("raised", _collision(key, answer, original))
        if not RESERVED.isdisjoint(merged):
            return Failure("raised", _reserved(RESERVED.intersection(merged)))
        doing = "pickled"
        try:
            frozen_keys = [freeze(key, beside=False) for key in merged if not is_atomic(type(key))]
            values = {key: self._frozen(value, alone) for key, value in merged.items()}
            doing = "unpickled"
            for key in frozen_keys:  # values are unpickled one by one in the driver, keys all at once
                thaw(key)
        except BaseException as exc:  # noqa: BLE001 - an object's own pickling may raise anything
            text, stack = self._describe(exc)
            return Failure("unpicklable", f"the answer cannot be {doing}: {text}", stack)
        return values

    def _frozen(self, value: Any, alone: bool) -> Any:
        """Freeze a value; its large buffers are not copied if the part is sent before the next call."""
        if is_atomic(type(value)):
            return value
        frozen = freeze(value, beside=alone and self.monitor.can_flush)
        self.held += len(frozen.data) + sum(buffer.raw().nbytes for buffer in frozen.buffers)
        return frozen

    def _part(self) -> Part:
        """Return what has been finished since the last part, and begin the next."""
        keys, columns = joined(self.blocks)
        part = Part(
            first=self.first,
            count=self.row - self.first,
            keys=keys,
            columns=columns,
            failures=sorted(self.failures),
            seconds=self.seconds,
            counts=self.counts,
            raw_stats=dict(self.raw_stats),
        )
        if self.witness is not None:
            part = self.witness.added_to(part)
        self.first, self.held = self.row, 0
        self.blocks, self.failures = [], []
        self.seconds, self.counts = [], []
        self.raw_stats.clear()
        return part

    def pset(self, row: int) -> Pset:
        """Return a row's pset as it was sent."""
        return pset_at(self.rows.keys, self.rows.columns, row)

    def seed(self) -> int:
        """Return the seed of the pset that is running.

        Raises
        ------
        OptionError
            It has no such parameter as seeds are to depend on.
        """
        if self.work.seed_by is None:
            return self.number()
        pset = self.pset(self.monitor.index[0])
        if lacking := [name for name in self.work.seed_by if name not in pset]:
            from paramsurvey.errors import OptionError  # who never errs need not wait for it

            there = ", ".join(map(safe_repr, pset)) or "none"
            raise OptionError(
                f"seed_by={list(self.work.seed_by)!r}: the pset has no {lacking[0]!r}; its parameters are: {there}"
            )
        return pset_seed(self.work.seed, {name: pset[name] for name in self.work.seed_by})

    def number(self) -> int:
        """Return a number for the pset that is running: the seed that it has if that depends on all of it."""
        return pset_seed(self.work.seed, self.pset(self.monitor.index[0]))

    def out_subdir(self) -> str:
        """Return the sub-directory for the output of the pset that is running, and make it."""
        assert self.work.out_subdirs
        number = self.number() % self.work.out_subdirs
        name = f"ps{number:0{len(str(self.work.out_subdirs - 1))}}"
        os.makedirs(name, exist_ok=True)
        return name

    def _describe(self, exc: BaseException) -> tuple[str, str]:
        """Return an exception as text, with its traceback; never raises."""
        stack = exc.__traceback__.tb_next if exc.__traceback__ else None  # the first frame is ours
        if self.witness is not None and stack is not None:
            stack = stack.tb_next  # and so is the second
        text = safe_repr(exc)
        if exc.__cause__ or exc.__context__ or isinstance(exc, _OF_MORE_LINES):
            return text, _whole_traceback(exc, stack)
        return text, _lines_of(stack) + _last_lines(exc)


class Block:
    """Answers of some psets in a row: values by key. Made for every batch, so it is a plain class."""

    __slots__ = ("columns", "count", "keys")

    def __init__(self, keys: Keys, columns: Sequence[Column], count: int) -> None:
        self.keys = keys
        self.columns = columns
        self.count = count


def joined(blocks: list[Block]) -> tuple[Keys, list[Column]]:
    """Put blocks under one another; a key that one lacks is a hole there."""
    keys = tuple(dict.fromkeys(chain.from_iterable(block.keys for block in blocks)))
    are_few = sum(block.count for block in blocks) < SHORT
    pieces = zip(*(spread(keys, block.keys, block.columns, block.count) for block in blocks), strict=True)
    return keys, [list(chain.from_iterable(each)) if are_few else stacked(each) for each in pieces]


def _names_of(kind: type) -> set[str]:
    """Return the names by which an exception, or what it derives from, may be meant."""
    return {name for each in kind.__mro__ for name in (each.__name__, f"{each.__module__}.{each.__qualname__}")}


def are_held(answers: list[Any]) -> list[bool]:
    """Tell of each answer whether anybody but this list refers to it, so that it may be changed behind our back.

    That is what a worker does that fills and returns one and the same dict at every call.
    """
    # Not zip(): it would hold each answer itself while it counts.
    counts = list(_holders(answers))
    return [answer is not None and counts[i] > _HELD_BY_A_LIST for i, answer in enumerate(answers)]


def any_is_held(answers: list[Any]) -> bool:
    """Tell whether anybody refers to one of these answers (`are_held`), in 15 ns each."""
    return sum(_holders(answers)) > _HELD_BY_A_LIST * len(answers)


def _holders(answers: list[Any]) -> Iterator[int]:
    return map(getrefcount, answers)


_HELD_BY_A_LIST = max(_holders([{}]))


def can_change(answer: Any) -> bool:
    """Tell whether an answer, or a value in it, might have been changed after it was returned."""
    if answer is None:
        return False
    return type(answer) is not dict or not all(is_atomic(type(value)) for value in answer.values())


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, also where ``==`` has no plain answer, as with arrays."""
    if one is other:
        return True
    try:
        equal = (one == other) | ((one != one) & (other != other))  # what is not equal to itself is not a number
        return bool(equal.all()) if hasattr(equal, "all") else bool(equal)
    except Exception:  # noqa: BLE001 - a comparison may raise anything; what cannot be compared is not the same
        return False


def frozen_exception(exc: BaseException) -> tuple[Frozen | None, str]:
    """Return the exception that is being handled as it crosses to the driver, if it can, and its text."""
    text = f"{safe_repr(exc)}\n{traceback.format_exc()}"
    try:
        return freeze(exc, beside=False), text
    except BaseException:  # noqa: BLE001 - then its text has to do
        return None, text


def safe_repr(obj: Any) -> str:
    """Return ``repr(obj)``, or as much as can be said where that raises."""
    try:
        return repr(obj)
    except BaseException as exc:  # noqa: BLE001 - a user's repr may raise anything
        return f"{type(obj).__name__}(<its repr raises {type(exc).__name__}>)"


_OF_MORE_LINES = (BaseExceptionGroup, SyntaxError)


def _lines_of(stack: TracebackType | None) -> str:
    """Return a traceback up to the exception itself.

    To format one takes 50 us and more, and thousands of psets may raise at one place: it is made once in a process.
    """
    place, each = [], stack
    while each is not None:
        code = each.tb_frame.f_code
        place.append((code, code.co_filename, each.tb_lasti))  # code is equal to that of a copy in another file
        each = each.tb_next
    lines = _lines_at(tuple(place))
    if not lines.text:
        lines.text = "Traceback (most recent call last):\n" + "".join(traceback.format_tb(stack))
    return lines.text


class _Lines:
    """The lines of a traceback, as soon as somebody has made them."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""


@lru_cache(maxsize=256)
def _lines_at(_place: tuple[tuple[CodeType, str, int], ...]) -> _Lines:
    return _Lines()


def _whole_traceback(exc: BaseException, stack: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(type(exc), exc, stack))
    except BaseException:  # noqa: BLE001 - a user's exception may raise while it is formatted
        return "".join(traceback.format_tb(stack)) + safe_repr(exc)


def _last_lines(exc: BaseException) -> str:
    try:
        if type(exc).__module__ == "builtins" and not hasattr(exc, "__notes__"):  # the same, at a tenth of the time
            text = str(exc)
            return f"{type(exc).__qualname__}: {text}\n" if text else f"{type(exc).__qualname__}\n"
        return "".join(traceback.format_exception_only(exc))
    except BaseException:  # noqa: BLE001 - as above
        return safe_repr(exc)


def _wrong_return(answer: Any) -> str:
    shown = safe_repr(answer)
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    return f"TypeError('the worker returned the {type(answer).__name__} {shown}; {WHAT_TO_RETURN}')"


def _collision(key: Hashable, answer: Any, original: Pset) -> str:
    value = safe_repr((answer or {}).get(key))
    return (
        f"ValueError('the answer has the key {key!r} = {value}, which is a parameter with the value "
        f"{safe_repr(original[key])}; an answer cannot change a parameter: give it another name')"
    )


def _reserved(keys: frozenset[Any]) -> str:
    return f"ValueError('the answer has the key {min(keys)!r}, the name of one of our own columns; give it another')"
