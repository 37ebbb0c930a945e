"""What a row can say of itself, on request: where, when and at what cost it was computed, and what was printed.

A `Witness` stands around the calls of a chunk; without one, nothing here is even imported. Output is caught at the file
descriptors, so that of C libraries and of programs that the worker starts is caught, too.

Imported in worker processes: no pandas, no numpy.
"""

from __future__ import annotations

import io
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paramsurvey.engine.columns import DETAILS, pack
from paramsurvey.engine.records import Part

if TYPE_CHECKING:
    from paramsurvey.engine.worker import ChunkRun

TAIL_BYTES = 4096
"""How much is kept of what was printed: the end of it."""

_STREAMS = ((1, "stdout"), (2, "stderr"))


class Witness:
    """Calls a worker, and notes for each row what there is to know about the call.

    Parameters
    ----------
    run : ChunkRun
        The chunk whose worker is called.
    """

    def __init__(self, run: ChunkRun) -> None:
        self._run = run
        self._facts: dict[int, dict[str, Any]] = {}
        self._files = _Files(run) if run.work.capture == "files" else _Tails() if run.work.capture == "tail" else None

    def call(self, pset: Any, system_kwargs: Any, user_kwargs: Any) -> Any:
        """Call the worker."""
        facts = self._facts[self._run.monitor.index[0]] = {}
        if self._files is None:
            with self._measured(facts):
                return self._run.work.worker(pset, system_kwargs, user_kwargs)
        with self._measured(facts), self._files.caught(facts):
            return self._run.work.worker(pset, system_kwargs, user_kwargs)

    def close(self) -> None:
        """Let go of the files in which output was caught."""
        if isinstance(self._files, _Tails):
            self._files.close()

    @contextmanager
    def _measured(self, facts: dict[str, Any]) -> Iterator[None]:
        if not self._run.work.details:
            yield
            return
        attempt = self._run.rows.attempt
        facts |= {"_status": "finished", "_attempts": attempt, "_ends": ("finished",)}
        facts |= {"_host": platform.node(), "_pid": os.getpid(), "_start": time.time()}
        facts["_seed"] = self._run.seed()  # before its worker can change the pset
        resident, cpu, began = _begin_peak(), _cpu_seconds(), time.perf_counter()
        try:
            yield
        finally:
            facts["_seconds"] = time.perf_counter() - began
            facts["_cpu_seconds"] = _cpu_seconds() - cpu
            facts["_memory"] = max(0, _peak() - resident)

    def added_to(self, part: Part) -> Part:
        """Return a part with the facts of its rows: as columns, and beside its failures."""
        facts = [self._facts.pop(row) for row in range(part.first, part.first + part.count)]
        failures = [
            (row, failure._replace(facts=_of_failure(facts[row - part.first]))) for row, failure in part.failures
        ]
        failed = {row for row, _ in failures}
        finished = [each for row, each in enumerate(facts, part.first) if row not in failed]
        keys = tuple(key for key in DETAILS if finished and key in finished[0])
        columns = [pack([each[key] for each in finished]) for key in keys]
        return part._replace(keys=part.keys + keys, columns=[*part.columns, *columns], failures=failures)


def _of_failure(facts: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return what `missing` does not say anyway."""
    return tuple((key, value) for key, value in facts.items() if key not in ("_status", "_attempts", "_ends"))


# Costs


def _cpu_seconds() -> float:
    """Return the processor time of this process, and of the programs that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _begin_peak() -> int:
    """Forget the peak of this process's memory, where that can be done (Linux); return it as it is now, in bytes."""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:
        pass
    return _peak()


def _peak() -> int:
    try:
        with open("/proc/self/status", "rb") as file:
            found = re.search(rb"VmHWM:\s*(\d+) kB", file.read())
        if found:
            return int(found[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# Output


class _Tails:
    """Catches what is printed in files without names, and keeps the end of it."""

    def __init__(self) -> None:
        self._files = [tempfile.TemporaryFile() for _ in _STREAMS]  # noqa: SIM115 - `close` closes them

    def close(self) -> None:
        """Close the files, and so forget them."""
        for file in self._files:
            file.close()

    @contextmanager
    def caught(self, facts: dict[str, Any]) -> Iterator[None]:
        """Catch what is printed within the context, and add its end to the facts."""
        for file in self._files:
            file.truncate(0)
            file.seek(0)
        try:
            with _redirected([file.fileno() for file in self._files]):
                yield
        finally:
            for file, (_, name) in zip(self._files, _STREAMS, strict=True):
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - TAIL_BYTES))
                facts[f"_{name}"] = file.read().decode(errors="replace")


class _Files:
    """Catches what is printed in two files for each pset, named after its number."""

    def __init__(self, run: ChunkRun) -> None:
        self._run = run

    @contextmanager
    def caught(self, facts: dict[str, Any]) -> Iterator[None]:
        """Have what is printed within the context go to files, and add their names to the facts."""
        folder = os.path.join(self._run.work.cwd or ".", re.sub(r"[^\w.-]", "_", self._run.work.name) + ".output")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{self._run.number():016x}")
        with open(f"{path}.out", "ab") as out, open(f"{path}.err", "ab") as err:
            facts |= {"_stdout": out.name, "_stderr": err.name}
            with _redirected([out.fileno(), err.fileno()]):
                yield


@contextmanager
def _redirected(files: list[int]) -> Iterator[None]:
    """Have the standard streams of this process, at the level of descriptors, go elsewhere.

    Python's lines come there one by one: what C libraries and other programs print stands where it was printed.
    """
    _flush()
    before = [os.dup(number) for number, _ in _STREAMS]
    streams = {name: getattr(sys, name) for _, name in _STREAMS}
    by_line = {name: getattr(stream, "line_buffering", None) for name, stream in streams.items()}
    for (number, name), file in zip(_STREAMS, files, strict=True):
        os.dup2(file, number)
        if _is_on(streams[name], number):
            _buffer_by_line(streams[name], True)
        else:  # of a notebook, a test, or closed
            setattr(sys, name, io.TextIOWrapper(open(number, "wb", 0, closefd=False), write_through=True))  # noqa: SIM115
    try:
        yield
    finally:
        _flush()
        for (number, name), old in zip(_STREAMS, before, strict=True):
            setattr(sys, name, streams[name])
            _buffer_by_line(streams[name], by_line[name])
            os.dup2(old, number)
            os.close(old)


def _buffer_by_line(stream: Any, by_line: bool | None) -> None:
    if isinstance(stream, io.TextIOWrapper):
        try:
            stream.reconfigure(line_buffering=by_line)
        except ValueError:  # closed
            pass


def _is_on(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False


def _flush() -> None:
    for _, name in _STREAMS:
        try:
            getattr(sys, name).flush()
        except (AttributeError, OSError, ValueError):  # closed or replaced by the user's function
            pass
