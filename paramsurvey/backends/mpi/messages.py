"""What the ranks say to each other: frames, as on the pipes of worker processes, of further kinds."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from paramsurvey.engine.records import (
    Died,
    DiedLoading,
    Displaced,
    Killed,
    TaskLost,
    TimedOut,
    Unloadable,
    Unreadable,
    Unsendable,
)


class Verb(IntEnum):
    """What a frame says; the answers of workers (`frames.Kind`) go to rank 0 as they are, with its own ticket."""

    TASK = 1  # to a node: what goes to a worker; it is the same as `Kind.TASK`
    ERRAND = 44  # to a node, just before a task: packed `Errand`
    OPEN = 32  # to a node: make the pool of a session (ticket); body: pickled number of slots, and rank 0's `sys.path`
    CLOSE = 33  # to a node: end it
    LEAVE = 34  # to a node: there will be no other
    PUBLISH = 35  # to a node: a constant (ticket); body: pickled number of the session; its pieces
    FORGET = 36  # to a node: that constant; body: likewise
    KILL = 37  # to a node: the ticket of a task
    RECALL = 38  # likewise
    HELLO = 39  # from a node: pickled `world.Introduction`
    GIVEN_BACK = 40  # from a node: the task's rows from one on; body: which
    LOST = 41  # from a node: the task has ended otherwise; body: pickled `Loss`
    CLOSED = 42  # from a node: the pool of a session has ended
    LEFT = 43  # from a node: its last words


ERRAND = Struct("<IIIId")


class Errand(NamedTuple):
    """What a node must know of a task beside the bytes for its worker."""

    session: int
    seat: int  # tasks of one seat go to the same process while it has others
    rows: int
    max_tasks: int  # 0: no limit
    timeout: float  # 0: none

    def packed(self) -> bytes:
        """Return it as bytes."""
        return ERRAND.pack(*self)

    @classmethod
    def of(cls, body: Any) -> Errand:
        """Read it from the beginning of a body."""
        return cls(*ERRAND.unpack_from(body))


class Loss(NamedTuple):
    """How a submission was lost, in plain values: an exception with a constructor of its own does not travel."""

    kind: str
    text: str
    row: int | None = None  # of the chunk
    traceback: str = ""
    was_killed: bool = False
    stage: int = 0  # in which it was, of a worker that has several

    @classmethod
    def of(cls, error: BaseException) -> Loss:
        """Describe a `TaskLost`, or whatever else a pool has to say for itself."""
        return cls(
            type(error).__name__ if isinstance(error, TaskLost) else "",
            str(error),
            getattr(error, "index", None),
            getattr(error, "traceback", ""),
            getattr(error, "was_killed", False),
            getattr(error, "stage", 0),
        )

    def error(self) -> TaskLost | None:
        """Return the `TaskLost` again; None if it was none."""
        if self.kind == "Died":
            return self._in_stage(Died(self.row, self.text, was_killed=self.was_killed))
        if self.kind == "TimedOut":
            return self._in_stage(TimedOut(self.row, self.text))
        if self.kind == "DiedLoading":
            return DiedLoading(self.text, was_killed=self.was_killed)
        for plain in (Killed, Displaced):
            if self.kind == plain.__name__:
                return plain(self.text)
        for kind in (Unsendable, Unreadable, Unloadable):
            if self.kind == kind.__name__:
                return kind(self.text, self.traceback)
        return None

    def _in_stage(self, error: Died | TimedOut) -> TaskLost:
        if self.stage:
            error.stage = self.stage
        return error
