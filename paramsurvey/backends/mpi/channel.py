"""Frames to and from one other rank. Nothing here waits; whoever calls it must be the only one in MPI.

The package's docstring says how that is seen to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

from paramsurvey.backends.multiprocessing.frames import Frame, FrameReader

TAG = 0x7073
"""Of all our messages: within what every MPI must allow, and unlikely to be a user's."""

SMALL = 1 << 16  # pieces up to this size travel together
_LARGEST = 1 << 28  # MPI counts with 32 bits
_MOST_REQUESTS = 4

Piece: TypeAlias = "bytes | bytearray | memoryview"


class Assembler(FrameReader):
    """Takes frames out of messages, however they are cut into pieces."""

    def __init__(self) -> None:
        super().__init__(-1)

    def room(self, count: int) -> memoryview | None:
        """Return where the next bytes belong, if so many belong to one place."""
        return self._missing[0][:count] if self._missing and count <= len(self._missing[0]) else None

    def filled(self, count: int) -> Iterator[Frame]:
        """So many bytes were put there; yield the frame if it is complete now."""
        self._skip(count)
        yield from self._completed()

    def feed(self, data: bytearray) -> Iterator[Frame]:
        """Yield the frames that are complete with these bytes."""
        at = self._fill(memoryview(data), 0) if self._missing else 0
        yield from self._completed()
        rest = bytes(data[at:])
        if rest:
            yield from self._take(self._pending + rest)


class Channel:
    """Both directions between this rank and another.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Through which.
    rank : int
        The other one.
    """

    def __init__(self, comm: Any, rank: int) -> None:
        self.rank = rank
        self._comm = comm
        self._outbox: deque[list[Piece]] = deque()  # any thread may append
        self._cut: deque[Piece] = deque()  # pieces that are next, not longer than `_LARGEST`
        self._sending: deque[tuple[Any, Any]] = deque()  # requests, with the memory that must stay until they are done
        self._receiving: deque[tuple[Any, Any, bool]] = deque()  # likewise; whether the bytes are in their place
        self._assembler = Assembler()

    def send(self, pieces: list[Piece]) -> None:
        """Send a frame, by and by. May be called by any thread."""
        self._outbox.append(pieces)

    @property
    def wants_to_send(self) -> bool:
        """Whether something has not left yet."""
        return bool(self._outbox or self._cut or self._sending)

    @property
    def has_news(self) -> bool:
        """Whether something was handed over since the last push."""
        return bool(self._outbox)

    def push(self) -> None:
        """Send what can leave now."""
        self._note_sent()
        while len(self._sending) < _MOST_REQUESTS and (message := self._next_message()):
            self._sending.append((self._comm.Isend(message, dest=self.rank, tag=TAG), message))
        self._note_sent()  # a small one has left already

    def _note_sent(self) -> None:
        while self._sending and self._sending[0][0].Test():
            self._sending.popleft()

    def _next_message(self) -> Piece | None:
        """Return small pieces as one, a large one as it is."""
        small: list[Piece] = []
        size = 0
        while self._cut or self._outbox:
            if not self._cut:
                self._cut_up(self._outbox.popleft())
                continue
            piece = self._cut[0]
            if len(piece) > SMALL:
                return self._cut.popleft() if not small else b"".join(small)
            if size + len(piece) > 4 * SMALL:
                break
            small.append(self._cut.popleft())
            size += len(piece)
        return b"".join(small)

    def _cut_up(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if type(piece) is bytes and len(piece) <= SMALL:
                self._cut.append(piece)
            else:
                view = memoryview(piece).cast("B")
                self._cut.extend(view[at : at + _LARGEST] for at in range(0, len(view), _LARGEST))

    def begin(self, message: Any, count: int) -> None:
        """A message has come: begin to receive its bytes, into their place if that is known."""
        place = None if self._receiving else self._assembler.room(count)
        buffer = bytearray(count) if place is None else place
        self._receiving.append((message.Irecv(buffer), buffer, place is not None))

    @property
    def is_receiving(self) -> bool:
        """Whether bytes are on their way."""
        return bool(self._receiving)

    @property
    def is_moving(self) -> bool:
        """Whether bytes are on their way in either direction: soon more can be done."""
        return bool(self._receiving or self._sending)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are complete by now."""
        while self._receiving and self._receiving[0][0].Test():
            _, buffer, is_in_place = self._receiving.popleft()
            yield from self._assembler.filled(len(buffer)) if is_in_place else self._assembler.feed(buffer)
