"""What this machine's kernel says of memory; Linux only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import psutil

KIB = 1024


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Let the kernel begin anew with the peak of this process."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most bytes that this process had in memory since `forget_peak`."""
    return _status("VmHWM")


def can_be_measured() -> bool:
    """Say whether this is a kernel that tells."""
    return Path("/proc/self/smaps_rollup").exists() and Path("/proc/self/clear_refs").exists()


@attrs.frozen
class Holding:
    """What this process and all below it hold together, no page counted twice.

    `shared` is the shared memory of the whole machine: a segment that is written but mapped by nobody at the moment is
    a copy all the same. The others are sums of proportional set sizes (Pss).
    """

    anonymous: int
    files: int
    shared: int

    @classmethod
    def now(cls) -> Holding:
        """Ask the kernel."""
        me = psutil.Process()
        rollups = [_rollup(process.pid) for process in (me, *me.children(recursive=True))]
        return cls(
            anonymous=sum(rollup.get("Pss_Anon", 0) for rollup in rollups),
            files=sum(rollup.get("Pss_File", 0) for rollup in rollups),
            shared=_fields(Path("/proc/meminfo"))["Shmem"],
        )

    @property
    def total(self) -> int:
        """The bytes of all kinds."""
        return self.anonymous + self.files + self.shared


@contextmanager
def watched(seen: list[int], every: float = 0.02) -> Iterator[None]:
    """Look at the total again and again meanwhile, and append it to `seen`.

    Processes are asked one after another: a look that coincides with a fork counts its pages twice. Trust a median.
    """
    done = threading.Event()

    def look() -> None:
        while not done.wait(every):
            seen.append(Holding.now().total)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _status(field: str) -> int:
    return _fields(Path("/proc/self/status"))[field]


def _rollup(pid: int) -> dict[str, int]:
    try:
        return _fields(Path(f"/proc/{pid}/smaps_rollup"))
    except (FileNotFoundError, ProcessLookupError):
        return {}  # it ended while we looked


def _fields(path: Path) -> dict[str, int]:
    """Read lines such as ``VmRSS:   1234 kB``."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * KIB for words in lines if words[2:] == ["kB"]}
