"""How long something took on a machine that had time for it.

"Within half a second" is a promise of programs that get a core when they want one. Where others are at work, too, a
process may be ready to run and wait for a core, at each step of a chain of processes, longer than the whole chain
takes. Linux counts that wait for every thread (the second number in ``/proc/PID/task/TID/schedstat``, in nanoseconds:
https://docs.kernel.org/scheduler/sched-stats.html); so it can be taken off. Elsewhere nothing is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import attrs


def threads_below(pid: int) -> Iterator[Path]:
    """Yield the folders of the threads of a process and of all processes that it has started."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended, or this is no Linux
        return
    for thread in threads:
        yield thread
        for child in _words(thread / "children"):
            yield from threads_below(int(child))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def own_family() -> int:
    """Return the process below which all is that works for this one: itself, or what has started it as one of many."""
    is_a_rank = {"PMI_RANK", "OMPI_COMM_WORLD_RANK"} & os.environ.keys()
    return os.getppid() if is_a_rank else os.getpid()


@attrs.define
class Stopwatch:
    """Measures seconds, less those that a process, or any below it, or this one, has waited for a core."""

    pid: int = attrs.field(factory=own_family)
    _waited: dict[Path, int] = attrs.field(factory=dict, init=False)  # by each thread, at the last look
    _looks: list[tuple[float, int]] = attrs.field(factory=list, init=False)  # when, and what they had waited until then

    def __attrs_post_init__(self) -> None:
        self.look()

    def look(self) -> tuple[float, int]:
        """See how long the threads have waited, for times that will be asked for later."""
        total = self._looks[-1][1] if self._looks else 0
        for thread in {*threads_below(self.pid), *threads_below(os.getpid())}:
            if times := _words(thread / "schedstat"):
                waited = int(times[1])
                total += waited - self._waited.get(thread, 0)
                self._waited[thread] = waited
        self._looks.append((time.monotonic(), total))
        return self._looks[-1]

    def seconds_since(self, moment: float | None = None) -> float:
        """Return the seconds from a moment of `time.monotonic` until now; by default since the stopwatch was made.

        What was waited for is taken off from the last look before that moment on.
        """
        now, waited = self.look()
        moment = self._looks[0][0] if moment is None else moment
        before = [then for when, then in self._looks if when <= moment] or [self._looks[0][1]]
        return now - moment - (waited - before[-1]) * 1e-9
