"""How many rows travel together: as many as fill a target time, never so many that a worker could starve at the end.

The first chunk of every slot is one row. From what the workers measured follows how many rows fill `TARGET_SECONDS`;
that many are sent, but never more than half of what each slot has yet to expect (guided self-scheduling:
Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987), unless they are over within `LEAST_SECONDS`, or
`WORTH` times what it costs the backend to send them, nor more than `TARGET_BYTES` of answers. So a survey with no more
psets than slots always runs them all at once.

Guided chunks are right for psets of which nobody knows how long they take. But between two chunks a slot waits 0.3 to
0.5 ms for the driver, four or five times in a round of some dozens of psets. If shares of equal size are known to take
nearly the same time, each slot that is free has its whole share at once of what is left: so it is, from the middle of
the first round on, for stages that ask in rounds. What was wrongly taken for even is taken back from the slot that has
too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

import attrs

TARGET_SECONDS = 0.1
LEAST_SECONDS = 0.5e-3
"""To send a chunk and to take what comes back costs a fifth of it, in which somebody else could have computed."""
WORTH = 50
TARGET_BYTES = 4 * 2**20
TRIFLING_SECONDS = 0.5e-3
"""A chunk that takes less than this is over before the driver could send the next."""

EVEN_SECONDS = 4e-3
"""The most that shares may spread (standard deviation) which are sent at once. The later of two ends 0.56 of that after
their mean; guided chunks would cost as much."""
LEAST_EVIDENCE = 8
"""So many times must be known to say how far they spread."""

FORGETTING = 0.5
SLOW_FORGETTING = 0.9
"""For the spread: the rows of one chunk are too few, and a rare slow row should be remembered for a while."""


@attrs.define(eq=False, repr=False)
class _Times:
    """Sums over measured times: how many, of how many rows, their sum, and that of squares; older ones fade."""

    known: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0

    def add(self, known: int, rows: int, seconds: float, squares: float) -> float:
        """Add to them; return the seconds that were added."""
        self.known = self.known * SLOW_FORGETTING + known
        self.rows = self.rows * SLOW_FORGETTING + rows
        self.seconds = self.seconds * SLOW_FORGETTING + seconds
        self.squares = self.squares * SLOW_FORGETTING + squares
        return seconds

    def spread_of(self, rows: int) -> float:
        """Return the standard deviation of the time that so many rows take; infinite if too little is known.

        The mean time of a number of rows varies by the variance of one divided by that number; so the squares are
        weighted by it.
        """
        if self.known < LEAST_EVIDENCE or not self.rows:
            return math.inf
        variance = max(0.0, self.squares - self.seconds**2 / self.rows) / self.known
        return math.sqrt(variance * rows)


@attrs.define(eq=False, repr=False)
class Chunker:
    """What is known of a stage's psets, and the chunk size that follows.

    Parameters
    ----------
    slots : int
        How many chunks can run at once.
    fixed : int, optional
        The size the user asked for with ``group_size=``.
    most : int, optional
        The most rows a chunk may have, whatever else is known (``max_tasks_per_child=``).
    cost : float
        Seconds that a submission costs the backend, however few rows it has.
    """

    slots: int
    fixed: int | None = None
    most: int | None = None
    cost: float = 0.0
    _seconds: float = attrs.field(default=0.0, init=False)
    _bytes: float = attrs.field(default=0.0, init=False)
    _rows: float = attrs.field(default=0.0, init=False)
    _times: _Times = attrs.field(factory=_Times, init=False)

    def learn(self, rows: int, seconds: float, size: int) -> None:
        """Take note of what some rows have cost; older knowledge fades."""
        self._rows = self._rows * FORGETTING + rows
        self._seconds = self._seconds * FORGETTING + seconds
        self._bytes = self._bytes * FORGETTING + size

    def learn_times(self, seconds: Sequence[float], counts: Sequence[int]) -> float:
        """Take note of how far times spread: `seconds` are means, each of so many rows; return their sum."""
        sums = list(map(mul, seconds, counts))
        return self._times.add(len(sums), sum(counts), sum(sums), sum(map(mul, sums, seconds)))

    def size(self, remaining: int) -> int:
        """Return how many of the remaining rows the next chunk should have."""
        if self.fixed is not None:
            wanted = self.fixed
        elif self._rows == 0:
            wanted = 1
        else:
            fair_share = -(-remaining // (2 * self.slots))
            least = max(LEAST_SECONDS, WORTH * self.cost)
            wanted = min(self._rows_in(max(TARGET_SECONDS, least)), max(fair_share, self._even_part(remaining, least)))
        return max(1, min(wanted, remaining, self.most or wanted))

    def can_share(self, remaining: int) -> bool:
        """Tell whether each slot can have its share of the remaining rows at once, because that is known to be fair."""
        share = -(-remaining // self.slots)
        if self.fixed is not None or share > (self.most or share) or not self._rows:
            return False
        return self._times.spread_of(share) <= EVEN_SECONDS and share <= self._rows_in(TARGET_SECONDS)

    def _even_part(self, remaining: int, seconds: float) -> int:
        """Return how many rows each has of equal chunks that take no longer than this: no small one is left over."""
        chunks = max(1, -(-remaining // max(1, self._rows_in(seconds))))
        return -(-remaining // chunks)

    def rows_done_in(self, seconds: float) -> float:
        """Tell how many rows a slot can run in such a time."""
        return seconds * self._rows / (self._seconds + 1e-9)

    def _rows_in(self, seconds: float) -> int:
        by_size = TARGET_BYTES * self._rows / (self._bytes + 1.0)
        return int(min(self.rows_done_in(seconds), by_size))

    @property
    def knows(self) -> bool:
        """Whether anything has come back yet."""
        return self._rows > 0

    def is_trifling(self, rows: int) -> bool:
        """Tell whether so many rows are over before the driver could send the next chunk."""
        return self._rows > 0 and rows * self._seconds / self._rows < TRIFLING_SECONDS

    def trifles(self, rows: int) -> int:
        """Tell how many chunks of so many rows are over in such a time."""
        return int(TRIFLING_SECONDS * self._rows / (rows * self._seconds + 1e-9)) if self._rows else 0
