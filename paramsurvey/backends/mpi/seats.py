"""Which slot of which rank the next submission goes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import NamedTuple

import attrs


class Seat(NamedTuple):
    """A slot at a rank; its number tells it from all others there."""

    rank: int
    number: int


def seats_in_turns(slots: Sequence[int], numbers: Iterator[int]) -> Iterator[Seat]:
    """Yield the seats of ranks with so many slots, one of each in turns; then more than there are, likewise.

    Examples
    --------
    >>> from itertools import count, islice
    >>> [seat.rank for seat in islice(seats_in_turns([1, 3, 0], count()), 6)]
    [0, 1, 1, 1, 0, 1]
    """
    most = max(slots)
    for turn in cycle(range(most)):
        yield from (Seat(rank, next(numbers)) for rank, those in enumerate(slots) if turn < those)


@attrs.define(eq=False, repr=False)
class Seats:
    """The seats of one owner's submissions, and how many each has; no answer takes longer if there are more seats.

    Parameters
    ----------
    slots : sequence of int
        How many slots each rank has.
    numbers : iterator of int
        Numbers that no other seat has.
    """

    slots: Sequence[int]
    numbers: Iterator[int] = attrs.field(factory=count)
    _new: Iterator[Seat] = attrs.field(init=False)
    _load: dict[Seat, int] = attrs.field(factory=dict, init=False)
    _by_load: list[dict[Seat, None]] = attrs.field(factory=lambda: [{}], init=False)
    _made: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._new = seats_in_turns(self.slots, self.numbers)

    def take(self, *, may_queue: bool) -> Seat:
        """Return the seat for a submission: a free one; of those in use the one with the fewest, if it may wait there.

        What may wait shall not run beside the others: perhaps no more of them are wanted at once (``ncores=``).
        """
        if may_queue and self.occupied:
            seat = next(iter(next(level for level in self._by_load[1:] if level)))
        elif self._by_load[0]:
            seat = self._by_load[0].popitem()[0]
        else:
            self._made += 1
            seat = next(self._new)
        self._move(seat, self._load.get(seat, 0) + 1)
        return seat

    def leave(self, seat: Seat) -> None:
        """A submission at a seat has ended."""
        self._move(seat, self._load[seat] - 1)

    def _move(self, seat: Seat, load: int) -> None:
        before = self._load.get(seat)
        if before is not None:
            self._by_load[before].pop(seat, None)
        while len(self._by_load) <= load:
            self._by_load.append({})
        self._by_load[load][seat] = None
        self._load[seat] = load

    @property
    def occupied(self) -> int:
        """How many seats have submissions."""
        return self._made - len(self._by_load[0])
