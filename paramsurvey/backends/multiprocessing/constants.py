"""Constants: serialised once, written once into shared memory, read by every worker process that needs them.

A constant is a file: the pickle first, its large buffers behind it, each at a page's boundary. A worker process maps
the file copy-on-write, so a 200 MB array exists once on the machine, and a worker that writes to it changes only its
own pages. The file lies in the session's own folder in ``/dev/shm`` where there is one with room, else in the folder
for temporary files.
"""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from paramsurvey.engine.pickling import Buffers, dumps_by_value
from paramsurvey.engine.records import Unloadable, Unsendable

_ALIGNMENT = 4096
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - memory that processes share; our folder in it is private


def make_folder(root: Path | None = None) -> Path:
    """Make a private folder for a session's constants."""
    if root is None:
        usable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
        root = _SHARED_MEMORY if usable else Path(tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="paramsurvey-", dir=root))


class Loaded(dict[str, Any]):
    """The constants that a worker process has loaded, by file; forgets those whose file is gone."""

    def __missing__(self, path: str) -> None:
        for known in [known for known in self if not os.path.exists(known)]:
            del self[known]  # its survey is over


class PublishedFile(NamedTuple):
    """A constant in a file; travels as its name, with every chunk, so it is a tuple."""

    path: str
    layout: tuple[tuple[int, int], ...]  # offset and length of the pickle, then of each buffer

    def load(self) -> Any:
        """Return the constant; reads the file once per process. Raises `Unloadable`."""
        if (constant := LOADED[self.path]) is None:
            constant = LOADED[self.path] = self._read()
        return constant

    def _read(self) -> Any:
        try:
            with Path(self.path).open("rb") as file:
                memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            pieces = [memory[offset : offset + length] for offset, length in self.layout]
            search_path, data = pickle.loads(pieces[0])
            sys.path += [place for place in search_path if place not in sys.path]
            return pickle.loads(data, buffers=pieces[1:])
        except BaseException as exc:  # noqa: BLE001 - importing a user's module may raise anything
            raise Unloadable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from None

    def close(self) -> None:
        """Remove the file; who has mapped it keeps it until it loads another constant."""
        Path(self.path).unlink(missing_ok=True)


LOADED = Loaded()
"""Of this process, which is a worker: the driver never loads what it has published."""


@attrs.define(eq=False, repr=False)
class ConstantStore:
    """Writes constants into the session's folder."""

    folder: Path
    _count: int = 0
    _spill: Path | None = None

    def publish(self, obj: Any) -> PublishedFile:
        """Write a constant; raises `Unsendable` if it cannot be pickled."""
        buffers = Buffers()
        try:
            data = dumps_by_value(obj, buffers)
        except Exception as exc:
            raise Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from exc
        pieces = [memoryview(pickle.dumps((list(sys.path), data))), *(buffer.raw() for buffer in buffers)]
        layout, end = [], 0
        for piece in pieces:
            layout.append((end, len(piece)))
            end = -(-(end + len(piece)) // _ALIGNMENT) * _ALIGNMENT
        self._count += 1
        return PublishedFile(self._write(pieces, layout), tuple(layout))

    def _write(self, pieces: list[memoryview], layout: list[tuple[int, int]]) -> str:
        path = self.folder / f"constant-{self._count}"
        try:
            write_pieces(path, pieces, layout)
        except OSError:  # shared memory is full, or small as in many containers
            path.unlink(missing_ok=True)
            if self._spill is None:
                self._spill = make_folder(Path(tempfile.gettempdir()))
            path = self._spill / path.name
            write_pieces(path, pieces, layout)
        return str(path)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._spill is not None:
            shutil.rmtree(self._spill, ignore_errors=True)


def write_pieces(path: Path, pieces: list[memoryview], layout: list[tuple[int, int]]) -> None:
    """Write each piece at its offset. (Two threads are no faster: the time goes into making the pages.)"""
    with path.open("xb", buffering=0) as file:
        for piece, (offset, _) in zip(pieces, layout, strict=True):
            _write_at(file.fileno(), piece, offset)


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
