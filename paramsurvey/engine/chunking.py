"""How many rows travel together: as many as fill a target time, never so many that a worker could starve at the end.

The first chunk of every slot is one row. From what the workers measured follows how many rows fill `TARGET_SECONDS`;
that many are sent, but never more than half of what each slot has yet to expect (guided self-scheduling:
Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987), unless they are over within `LEAST_SECONDS`, or
`WORTH` times what it costs the backend to send them, nor more than `TARGET_BYTES` of answers. So a survey with no more
psets than slots always runs them all at once.
"""

from __future__ import annotations

import attrs

TARGET_SECONDS = 0.1
LEAST_SECONDS = 0.00025
WORTH = 50
TARGET_BYTES = 4 * 2**20
TRIFLING_SECONDS = 0.5e-3
"""A chunk that takes less than this is over before the driver could send the next."""

FORGETTING = 0.5


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

    def learn(self, rows: int, seconds: float, size: int) -> None:
        """Take note of what some rows have cost; older knowledge fades."""
        self._rows = self._rows * FORGETTING + rows
        self._seconds = self._seconds * FORGETTING + seconds
        self._bytes = self._bytes * FORGETTING + size

    def size(self, remaining: int) -> int:
        """Return how many of the remaining rows the next chunk should have."""
        if self.fixed is not None:
            wanted = self.fixed
        elif self._rows == 0:
            wanted = 1
        else:
            fair_share = -(-remaining // (2 * self.slots))
            least = max(LEAST_SECONDS, WORTH * self.cost)
            wanted = min(self._rows_in(max(TARGET_SECONDS, least)), max(fair_share, self._rows_in(least)))
        return max(1, min(wanted, remaining, self.most or wanted))

    def _rows_in(self, seconds: float) -> int:
        by_time = seconds * self._rows / (self._seconds + 1e-9)
        by_size = TARGET_BYTES * self._rows / (self._bytes + 1.0)
        return int(min(by_time, by_size))

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
