"""The hidden log file: for the day on which a survey went wrong and ``verbose`` was too small."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import attrs

from paramsurvey.engine.worker import safe_repr
from paramsurvey.observers.events import (
    ColumnAbsent,
    Event,
    JournalSpoke,
    OutFuncFailed,
    Progressed,
    RowsFinished,
    RowsLost,
    StageToldSoFar,
    StatsRefused,
    SurveyEnded,
    SurveyStarted,
)
from paramsurvey.observers.terminal import say, shortened

if TYPE_CHECKING:
    from paramsurvey.engine.columns import Pset
    from paramsurvey.engine.dispatcher import Lost

PROGRESS_SECONDS = 30.0
FLUSH_SECONDS = 1.0
LONGEST_PSET = 2000
_LIBRARIES = ("paramsurvey", "pandas", "numpy", "cloudpickle")
_MOST_TRACEBACKS = 1000


@attrs.define(eq=False, repr=False)
class LogFile:
    """Writes what happens to a file; a file that cannot be written is said once, and the survey goes on.

    Parameters
    ----------
    prefix : str
        How the file's name begins; date, time and ``.log`` follow.
    stream : text stream, optional
        Written to instead of a file.
    quiet : bool
        Whether even that is not said; as the survey wishes that is running.
    clock : callable, optional
        Tells the time in seconds; what is written has the date.
    """

    prefix: str
    stream: TextIO | None = None
    quiet: bool = False
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    name: str | None = attrs.field(default=None, init=False)
    _file: Any = attrs.field(default=None, init=False)
    _opened: bool = attrs.field(default=False, init=False)
    _progress_at: float = attrs.field(init=False)
    _flushed_at: float = attrs.field(init=False)
    _second: int = attrs.field(default=-1, init=False)
    _stamp_text: str = attrs.field(default="", init=False)
    _tracebacks: dict[str, int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._progress_at = self._flushed_at = self.clock()

    def see(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, RowsFinished):
            return
        if isinstance(event, Progressed):
            self._progress(event)
            return
        if isinstance(event, RowsLost):
            self.write(*(self._lost(event.name, lost, event.pset(lost.row)) for lost in event.lost))
            return
        self.write(self._text(event))
        if isinstance(event, SurveyStarted | SurveyEnded):
            self.flush()

    def _lost(self, name: str, lost: Lost, pset: Pset) -> str:
        failure = lost.failure
        where = f"{name}: pset {lost.row} is missing ({failure.kind}, attempts: {lost.attempts}): "
        shown = shortened(safe_repr(pset), LONGEST_PSET)
        return f"{where}{failure.text}\n  {shown}{self._traceback(failure.traceback)}"

    def _text(self, event: Event) -> str:
        if isinstance(event, SurveyStarted):
            return f"{event.name}: {event.total} psets on {event.slots} x {event.backend}; {event.options}"
        if isinstance(event, OutFuncFailed):
            return f"{event.name}: out_func raised {event.text}" + self._traceback(event.traceback)
        if isinstance(event, StatsRefused | StageToldSoFar | ColumnAbsent):
            return f"{event.name}: {event.text}"
        if isinstance(event, JournalSpoke):
            return event.text
        assert isinstance(event, SurveyEnded)
        reason = f" ({event.reason})" if event.reason else ""
        return f"{event.name}: {event.progress}; {event.seconds:.3f} s{reason}; {event.stats!r}"

    def _traceback(self, text: str) -> str:
        """Write a traceback out once; later ones of the same lines refer to it."""
        if not text:
            return ""
        known = self._tracebacks.get(text)
        if known is not None:
            return f"\n  traceback {known}"
        if len(self._tracebacks) == _MOST_TRACEBACKS:
            return "\n" + text.rstrip()
        self._tracebacks[text] = number = len(self._tracebacks) + 1
        return f"\n  traceback {number}:\n" + text.rstrip()

    def _progress(self, event: Progressed) -> None:
        now = self.clock()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self.write(f"{event.name}: {event.progress}")
        if now - self._flushed_at >= FLUSH_SECONDS:  # a driver that is killed should leave its last words here
            self.flush()

    def open(self) -> None:
        """Open the file and write what a later reader needs to know; only the first call does anything."""
        if self._opened:
            return
        self._opened = True
        try:
            self._file = self._new_file() if self.stream is None else self.stream
        except (OSError, ValueError) as exc:
            self._give_up(exc)
            return
        versions = ", ".join(f"{library} {_version(library)}" for library in _LIBRARIES)
        system = " ".join(os.uname())
        self.write(f"{versions}; Python {sys.version.split()[0]} on {system}")
        self.write(f"process {os.getpid()} in {_folder()}: {' '.join(sys.argv)}")

    def _new_file(self) -> TextIO:
        stamp = dt.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        for number in range(1000):
            more = f"-{number}" if number else ""
            name = f"{self.prefix}{stamp}{more}.log"
            try:
                file = Path(name).open("x", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - close() does
            except FileExistsError:  # somebody else's, of this very second
                continue
            self.name = name
            return file
        raise FileExistsError(f"there are too many log files of this second: {self.prefix}{stamp}")

    def write(self, *texts: str) -> None:
        """Write lines with the time in front of each."""
        self.open()
        if self._file is None:
            return
        try:
            stamp = self._stamp()
            self._file.write("".join([f"{stamp} {text}\n" for text in texts]))
        except Exception as exc:  # noqa: BLE001 - the stream may be somebody else's, and raise anything
            self._give_up(exc)

    def _stamp(self) -> str:
        """Return the local time; made once a second, because thousands of failures may be written in one."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._stamp_text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return self._stamp_text

    def flush(self) -> None:
        """Bring what was written to the file."""
        self._flushed_at = self.clock()
        try:
            if hasattr(self._file, "flush"):
                self._file.flush()
        except Exception as exc:  # noqa: BLE001 - as above
            self._give_up(exc)

    def close(self) -> None:
        """Close the file, unless it is the user's stream."""
        self.flush()
        file, self._file = self._file, None
        if file is not None and file is not self.stream:
            file.close()

    def _give_up(self, exc: Exception) -> None:
        file, self._file = self._file, None
        self.name = None
        if file is not None and file is not self.stream:
            try:
                file.close()
            except OSError:  # what it still held cannot be written either
                pass
        if not self.quiet:
            say(f"the log file cannot be written, and the survey goes on without it: {exc}")


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "a folder that was removed"


def _version(library: str) -> str:
    """Return the version of a library that has been imported; to ask the installation for it takes 2 ms."""
    return str(getattr(sys.modules.get(library), "__version__", "(not imported)"))
