"""A journal's file while it is open: read on, locked, written to.

Who may write
-------------
One driver at a time: the one that holds the lock (`flock`), which the system releases when a process ends, in whatever
way; so there are no stale locks. It is on the file itself, so there is no second file to be left lying about. Over NFS
Linux turns it into a lock of the whole file by `fcntl`, which holds between machines. Whoever has the lock has written
into the file who they are, for others to be told.

Why not a database: those lock parts of their file many times a second and map it into memory, which breaks on network
file systems. Here nothing is written but at the end, by one process, with one `pwrite` per record, at an offset that it
knows; nothing is mapped; `fsync` is called once a second by a thread of its own.

What goes wrong with the disk
-----------------------------
A record that could not be written in full is cut off again, and the next one is written in its place; if the disk has
no room, every record tries anew. Whoever writes is told of the first trouble, and of no other until it has been well.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final, TypeGuard

import attrs

from paramsurvey.errors import JournalError
from paramsurvey.journal.format import (
    HEAD_BYTES,
    Damage,
    Kind,
    Record,
    Rows,
    Torn,
    as_text,
    check_head,
    head,
    part,
    record,
)
from paramsurvey.journal.format import records as records_of

SYNC_SECONDS: Final = 1.0
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@attrs.define(eq=False, repr=False)
class JournalFile:
    """The file of a journal.

    Parameters
    ----------
    path : str
        Where it is. It is made when somebody locks it.
    """

    path: str
    end: int = attrs.field(default=0, init=False)  # of the last good record that was read or written
    trouble: str = attrs.field(default="", init=False)  # why it cannot be written now
    is_locked: bool = attrs.field(default=False, init=False)
    _fd: int = attrs.field(default=-1, init=False)
    _can_write: bool = attrs.field(default=False, init=False)
    _has_head: bool = attrs.field(default=False, init=False)
    _was_last: bool = attrs.field(default=False, init=False)  # who wrote to it
    _identity: tuple[int, int] | None = attrs.field(default=None, init=False)
    _syncing: _Syncing | None = attrs.field(default=None, init=False)

    # Reading

    def open(self, *, to_write: bool) -> bool:
        """Open the file, if it is not open; return whether it is another one than before.

        Raises
        ------
        OSError
            There is none, or it must not be read.
        """
        was = self._identity
        if self._fd >= 0 and self._identity != _identity_at(self.path):  # compacted, or deleted
            self.close()
        if self._fd < 0:
            self._fd, self._can_write = _opened(self.path, to_write=to_write)
            found = os.fstat(self._fd)
            self._identity = (found.st_dev, found.st_ino)
            os.register_at_fork(after_in_child=_Forgetting(self))
        return self._identity != was

    def close(self) -> None:
        """Close it, and so release the lock."""
        self.unlock()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self.end, self._was_last = 0, False

    def read(self, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on, fewer at the end of the file."""
        found = os.pread(self._fd, size, offset)
        while found and len(found) < size and (more := os.pread(self._fd, size - len(found), offset + len(found))):
            found += more
        return found

    def text(self, one: Record) -> Any:
        """Return the text of a record, None if it is damaged."""
        found = self.raw_text(one)
        return None if found is None else json.loads(found or b"null")

    def raw_text(self, one: Record) -> bytes | None:
        """Return the bytes of the text of a record, None if it is damaged."""
        return part(self.read, one.text_at, one.text_bytes, one.text_crc)

    def data(self, one: Record) -> bytes | None:
        """Return the data of a record, None if they are damaged."""
        return part(self.read, one.data_at, one.data_bytes, one.data_crc)

    def news(self) -> Iterator[tuple[Record, bytes] | Rows | Damage]:
        """Go through what has been added to the file since the last time; yield records with their keys, and damages.

        Raises
        ------
        JournalError
            It is no journal, or one of a newer version.
        """
        size = os.fstat(self._fd).st_size
        if not self.end:
            damage = check_head(self.read, size, self.path)
            if damage is not None:
                yield damage
            self.end = HEAD_BYTES
        for found in records_of(self.read, self.end, size):
            if isinstance(found, Torn):
                return
            self.end = _end_of(found)
            if _is_opened(found):
                self._was_last = False
            yield found

    # Writing

    def lock(self) -> bool:
        """Become the one who writes; return whether the file system makes sure of that.

        Raises
        ------
        JournalError
            Somebody else does; it says who.
        """
        if not self._can_write:
            return True
        self.is_locked = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_locked = False
            raise JournalError(
                f"the journal {self.path} is being written by {self._holder()}: wait until that is over, or name "
                "another file with journal="
            ) from None
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def begin(self) -> None:
        """Make the file fit to be written to: with a head, and without a torn end. Say in it who we are."""
        if not self._can_write:
            self.trouble = f"the journal {self.path} must not be written; what is in it is used"
            return
        self._has_head = self.read(0, HEAD_BYTES) == head()
        self.end = max(self.end, HEAD_BYTES)
        self._cut()
        if (
            not self._was_last
            and self.append(record(Kind.OPENED, text=as_text(_who()), written=time.time())) is not None
        ):
            self._was_last = True

    def unlock(self) -> None:
        """Have what was written reach the disk, and let others write."""
        if self._syncing is not None:
            self._syncing.stop()
            self._syncing = None
        if self.is_locked:
            self.is_locked = False
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:  # where there are no locks
                pass

    def append(self, data: bytes) -> int | None:
        """Write a record; return where it is, None if that was not possible (`trouble` says why)."""
        if not (self._can_write and self.is_locked):
            return None
        offset = self.end
        self._has_head = self._has_head or self._put(head(), 0)
        if not (self._has_head and self._put(data, offset)):
            return None
        self.end = offset + len(data)
        self.trouble = ""
        if self._syncing is None:
            self._syncing = _Syncing(self._fd)
        self._syncing.is_due.set()
        return offset

    def _put(self, data: bytes, offset: int) -> bool:
        try:
            done = os.pwrite(self._fd, data, offset)
            while done < len(data):  # a short write: that of the rest may tell why
                more = os.pwrite(self._fd, data[done:], offset + done)
                done += more
        except OSError as exc:
            self.trouble = f"the journal {self.path} cannot be written, and the survey goes on without: {exc.strerror}"
            self._cut()
            return False
        return True

    def _cut(self) -> None:
        """Cut off what stands after the last good record."""
        try:
            if os.fstat(self._fd).st_size > self.end:
                os.ftruncate(self._fd, self.end)
        except OSError:  # the next record is written over it, and readers see a torn end until then
            pass

    def _holder(self) -> str:
        """Tell who has the lock."""
        who = None
        for found in self.news():
            if _is_opened(found):
                who = self.text(found[0]) or who
        self.end = 0
        if who is None:
            return "another program"
        is_own = (who["host"], who["pid"]) == (socket.gethostname(), os.getpid())
        return f"process {who['pid']} on {who['host']} ({'another session in it' if is_own else who['program']})"


def _end_of(found: tuple[Record, bytes] | Rows | Damage) -> int:
    if isinstance(found, Damage):
        return found.offset + found.size
    return found.end if isinstance(found, Rows) else found[0].end


def _is_opened(found: tuple[Record, bytes] | Rows | Damage) -> TypeGuard[tuple[Record, bytes]]:
    return not isinstance(found, Damage | Rows) and found[0].kind == Kind.OPENED


class _Syncing:
    """Has what was written reach the disk, once a second, in a thread of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_due = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paramsurvey-journal", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self) -> None:
        if self.is_due.is_set():
            self.is_due.clear()
            try:
                os.fsync(self._fd)
            except OSError:  # what cannot be written, the writing says
                pass

    def stop(self) -> None:
        """Sync for the last time."""
        self._is_over.set()
        self._thread.join()
        self._sync()


class _Forgetting:
    """Closes a journal's file in forks of this process, which would else hold its lock when this one has ended."""

    def __init__(self, file: JournalFile) -> None:
        self._file = weakref.ref(file)
        self._fd = file._fd

    def __call__(self) -> None:
        file = self._file()
        if file is not None and file._fd == self._fd:
            os.close(self._fd)
            file._fd, file.is_locked, file._can_write, file._syncing = -1, False, False, None


def _opened(path: str, *, to_write: bool) -> tuple[int, bool]:
    """Open a file; tell whether it can be written."""
    if os.path.isdir(path):
        raise JournalError(f"the journal {path} is a folder: name a file with journal=")
    if not to_write:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), True
    except OSError as exc:
        if exc.errno not in _READ_ONLY or not os.path.exists(path):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def _identity_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _who() -> dict[str, Any]:
    user = str(os.environ.get("USER", ""))
    return {"host": socket.gethostname(), "pid": os.getpid(), "user": user, "program": " ".join(sys.argv)[:200]}
