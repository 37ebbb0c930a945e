"""Bytes on a pipe: a header, a pickle, and the large buffers that belong to it, read into place without a copy."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from paramsurvey.engine.pickling import Buffers, dumps, dumps_by_value

_HEADER = Struct("<IIQQ")  # kind, number of buffers, ticket, length of the pickle
_MARK = 0xF5C3_8E00
"""Beside the kind of each frame: what does not have it is no frame, but was written by somebody who took the pipe for a
file of theirs, as a C library does that goes on with a descriptor that was closed. Its lengths must not be believed."""
_KIND = 0xFF
_READ_AT_ONCE = 1 << 16  # a larger buffer costs more than the reading: it is mapped anew each time
_PIPE_BYTES = 1 << 20
_MOST_VECTORS = 64  # far below IOV_MAX everywhere


class Kind(IntEnum):
    """What a frame is."""

    TASK = 1  # to the worker: pickled (function, arguments), and more arguments
    PART = 2  # from the worker, ahead of the result: the fields of a part, but for its size
    LAST_PART = 6  # the function's value, if that is a part: likewise
    RESULT = 3  # any other value
    RAISED = 4  # the exception that the function raised, frozen, and its text
    UNLOADABLE = 7  # likewise, because the worker cannot be loaded in this process
    REFUSED = 5  # the task cannot be unpickled: text and traceback


class Frame(NamedTuple):
    """A frame as it was read."""

    kind: int
    ticket: int
    body: bytes | bytearray | memoryview
    buffers: list[Any]

    @property
    def size(self) -> int:
        """Its bytes, but for the header."""
        size = len(self.body)
        return size + sum(map(len, self.buffers)) if self.buffers else size

    def load(self) -> Any:
        """Unpickle it; raises whatever the content raises."""
        return pickle.loads(self.body, buffers=self.buffers)


def encode(kind: Kind, ticket: int, obj: Any, *, by_value: bool = False) -> list[Any]:
    """Return the buffers to write for an object; with `by_value`, what ``__main__`` defines travels as code."""
    buffers = Buffers()
    body = (dumps_by_value if by_value else dumps)(obj, buffers)
    raw = [buffer.raw() for buffer in buffers]
    return [head_of(kind, ticket, body, raw) + body, *raw]


def head_of(kind: int, ticket: int, body: Any, buffers: Sequence[Any]) -> bytes:
    """Return what goes before the body of a frame and its buffers."""
    header = _HEADER.pack(_MARK | kind, len(buffers), ticket, len(body))
    return header + b"".join(len(view).to_bytes(8, "little") for view in buffers) if buffers else header


def widen(fd: int) -> None:
    """Make a pipe's buffer large where the system allows it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # the user's share of such memory is used up: smaller buffers do as well
            pass


def write_all(fd: int, views: list[Any]) -> None:
    """Write everything to a blocking descriptor."""
    outbox = Outbox()
    outbox.add(views)
    while outbox:
        outbox.write(fd)


class Outbox:
    """Bytes that wait to be written."""

    def __init__(self) -> None:
        self._views: deque[bytes | memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._views)

    def add(self, views: list[Any]) -> None:
        """Append the buffers of a frame."""
        self._views.extend([view if type(view) is bytes else memoryview(view).cast("B") for view in views if len(view)])

    def write(self, fd: int) -> bool:
        """Write as much as the descriptor takes now; return whether all is written. Raises `BrokenPipeError`."""
        views = self._views
        while views:
            try:
                written = os.writev(fd, [views[i] for i in range(min(len(views), _MOST_VECTORS))])
            except BlockingIOError:
                return False
            while written:
                if written >= len(views[0]):
                    written -= len(views.popleft())
                else:
                    views[0] = memoryview(views[0])[written:]
                    written = 0
        return True


def read_frame(pipe: BinaryIO) -> Frame | None:
    """Read one frame from a blocking pipe; None at its end, and if there is something else in it."""
    head = pipe.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return None
    kind, count, ticket, length = _HEADER.unpack(head)
    if kind & ~_KIND != _MARK:
        return None
    kind &= _KIND
    lengths = [int.from_bytes(pipe.read(8), "little") for _ in range(count)]
    body = pipe.read(length)
    if len(body) < length:
        return None
    buffers = []
    for size in lengths:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            filled = pipe.readinto(view)  # type: ignore[attr-defined] # it is a buffered reader
            if not filled:
                return None
            view = view[filled:]
        buffers.append(buffer)
    return Frame(kind, ticket, body, buffers)


class FrameReader:
    """Takes frames out of a pipe that does not block, however they are cut into pieces."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.at_end = False
        self.is_garbled = False  # it has ended because there was something else in the pipe
        self._pending = b""  # the beginning of a frame, or of its lengths
        self._frame: Frame | None = None  # whose buffers are being filled
        self._missing: deque[memoryview] = deque()  # where the next bytes go

    def read(self) -> Iterator[Frame]:
        """Yield the frames that are complete by now."""
        while not self.at_end:
            try:
                if self._missing:
                    self._skip(os.readv(self.fd, [self._missing[i] for i in range(min(len(self._missing), 64))]))
                    yield from self._completed()
                    continue
                data = os.read(self.fd, _READ_AT_ONCE)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise
                data = b""
            if not data:
                self.at_end = True
                return
            yield from self._take(self._pending + data if self._pending else data)
            if len(data) < _READ_AT_ONCE and not self._missing:
                return  # the pipe is empty, most likely; the selector knows better than another read

    def _skip(self, count: int) -> None:
        if count == 0:
            self.at_end = True
        missing = self._missing
        while count:
            if count >= len(missing[0]):
                count -= len(missing.popleft())
            else:
                missing[0] = missing[0][count:]
                count = 0

    def _completed(self) -> Iterator[Frame]:
        if not self._missing and self._frame is not None:
            frame, self._frame = self._frame, None
            yield frame

    def _take(self, data: bytes) -> Iterator[Frame]:
        """Cut what was read into frames; the last one may have to wait for its rest."""
        at = 0
        while True:
            start = at + _HEADER.size
            if start > len(data):
                break
            kind, count, ticket, length = _HEADER.unpack_from(data, at)
            if kind & ~_KIND != _MARK:
                self.at_end = self.is_garbled = True
                break
            kind &= _KIND
            start += 8 * count
            if start > len(data):
                break
            lengths = [int.from_bytes(data[i : i + 8], "little") for i in range(start - 8 * count, start, 8)]
            if not lengths and start + length <= len(data):
                at = start + length
                yield Frame(kind, ticket, data[start:at], [])
                continue
            parts = [bytearray(length), *map(bytearray, lengths)]
            self._frame = Frame(kind, ticket, parts[0], parts[1:])
            self._missing = deque(memoryview(part) for part in parts if part)
            at = self._fill(memoryview(data), start)
            yield from self._completed()
            if self._missing:
                break
        self._pending = data[at:]

    def _fill(self, data: memoryview, at: int) -> int:
        """Copy what has come already into its place; return where it ends."""
        while self._missing and at < len(data):
            target = self._missing[0]
            count = min(len(target), len(data) - at)
            target[:count] = data[at : at + count]
            self._skip(count)
            at += count
        return at
