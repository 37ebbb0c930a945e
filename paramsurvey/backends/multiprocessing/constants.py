"""Constants: serialised once, written once into shared memory, read by every worker process that needs them.

A constant is a file: the pickle first, its large buffers behind it, each at a page's boundary. A worker process maps
the file copy-on-write, so a 200 MB array exists once on the machine, and a worker that writes to it changes only its
own pages. The file lies in the session's own folder in ``/dev/shm`` where there is one with room, else in the folder
for temporary files.

A large constant is cut into several files, which are mapped one behind the other: its writing is nearly all that a
survey with a large array takes, and the system lets several threads write at once only if they write to different files
(*measured* with 200 MB on two cores: 63 ms as one file, also by two threads, 35 ms as two files).

The workers' guard imports this module at its start, so what only the driver needs is imported where it needs it.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from paramsurvey.engine.pickling import Buffers, dumps_by_value, loaded_constant
from paramsurvey.engine.records import Unloadable, Unsendable
from paramsurvey.folders import search_path

if TYPE_CHECKING:
    from pathlib import Path

_ALIGNMENT = 4096
_LEAST_OF_A_FILE = 16 * 2**20
"""Bytes; of a constant that would be cut into smaller files, nobody would notice how long it takes."""
_MOST_FILES = 4
_CAN_JOIN = sys.platform == "linux"  # files can be mapped one behind the other; the numbers below are Linux's
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x02, 0x10, 0x20
_MAP_FAILED = 2**64 - 1
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - memory that processes share; our folder in it is private


def make_folder(root: Path | None = None) -> Path:
    """Make a private folder for a session's constants."""
    import tempfile
    from pathlib import Path

    if root is None:
        usable = os.path.isdir(_SHARED_MEMORY) and os.access(_SHARED_MEMORY, os.W_OK)
        root = Path(_SHARED_MEMORY if usable else tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="paramsurvey-", dir=root))


def _folder_elsewhere() -> Path:
    import tempfile
    from pathlib import Path

    return make_folder(Path(tempfile.gettempdir()))


class Loaded(dict[str, Any]):
    """The constants that a worker process has loaded, by file; forgets those whose file is gone."""

    def __missing__(self, path: str) -> None:
        self.forget()

    def forget(self) -> None:
        """Let go of those whose survey is over. Giving back 200 MB takes 8 ms, so a worker does it while it is idle."""
        for known in [known for known in self if not os.path.exists(known)]:
            del self[known]


class PublishedFile(NamedTuple):
    """A constant in files; travels as their names, with every chunk, so it is a tuple."""

    path: str  # of the first
    layout: tuple[tuple[int, int], ...]  # offset and length of the pickle, then of each buffer
    files: int = 1

    def load(self) -> Any:
        """Return the constant; reads the file once per process. Raises `Unloadable`."""
        if (constant := LOADED[self.path]) is None:
            constant = LOADED[self.path] = self._read()
        return constant

    def pieces(self) -> list[memoryview]:
        """Return the bytes of the pickle and of each buffer, mapped."""
        memory = mapped(_names(self.path, self.files))
        return [memory[offset : offset + length] for offset, length in self.layout]

    def _read(self) -> Any:
        try:
            pieces = self.pieces()
            places, data = pickle.loads(pieces[0])
            return loaded_constant(places, data, pieces[1:])
        except BaseException as exc:  # noqa: BLE001 - importing a user's module may raise anything
            raise Unloadable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from None

    def close(self) -> None:
        """Remove the files; who has mapped them keeps them until it is idle, or loads another constant."""
        _remove(self.path, self.files)


LOADED = Loaded()
"""Of this process, which is a worker: the driver never loads what it has published."""


class ConstantStore:
    """Writes constants into the session's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._spill: Path | None = None  # where they go if there is no room

    def publish(self, obj: Any) -> PublishedFile:
        """Write a constant; raises `Unsendable` if it cannot be pickled."""
        return self.write(in_pieces(obj))

    def write(self, pieces: list[memoryview]) -> PublishedFile:
        """Write the pieces of a constant."""
        layout, end = [], 0
        for piece in pieces:
            layout.append((end, len(piece)))
            end = -(-(end + len(piece)) // _ALIGNMENT) * _ALIGNMENT
        self._count += 1
        files = _files_for(end)
        return PublishedFile(self._write(pieces, layout, files), tuple(layout), files)

    def _write(self, pieces: list[memoryview], layout: list[tuple[int, int]], files: int) -> str:
        path = str(self.folder / f"constant-{self._count}")
        try:
            write_pieces(_names(path, files), pieces, layout)
        except OSError:  # shared memory is full, or small as in many containers
            _remove(path, files)
            if self._spill is None:
                self._spill = _folder_elsewhere()
            path = str(self._spill / os.path.basename(path))
            write_pieces(_names(path, files), pieces, layout)
        return path

    def close(self) -> None:
        """Remove everything."""
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)
        if self._spill is not None:
            shutil.rmtree(self._spill, ignore_errors=True)


def in_pieces(obj: Any) -> list[memoryview]:
    """Pickle a constant: the pickle, with where its modules are looked for, then each large buffer.

    Raises
    ------
    Unsendable
        It cannot be pickled.
    """
    buffers = Buffers()
    try:
        data = dumps_by_value(obj, buffers)
    except Exception as exc:
        raise Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from exc
    return [memoryview(pickle.dumps((search_path(), data))), *(buffer.raw() for buffer in buffers)]


def _files_for(size: int) -> int:
    """Into how many files a constant of so many bytes is cut."""
    if not _CAN_JOIN:
        return 1
    return max(1, min(_MOST_FILES, len(os.sched_getaffinity(0)), size // _LEAST_OF_A_FILE))


def _names(path: str, files: int) -> list[str]:
    return [path, *(f"{path}.{number}" for number in range(1, files))]


def _remove(path: str, files: int) -> None:
    for name in _names(path, files):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def write_pieces(names: Sequence[str], pieces: Sequence[memoryview], layout: Sequence[tuple[int, int]]) -> None:
    """Write pieces at their offsets into a sequence of bytes, which is cut into so many files; all at the same time."""
    end = layout[-1][0] + layout[-1][1]
    share = -(-end // (len(names) * _ALIGNMENT)) * _ALIGNMENT

    def write_file(number: int) -> None:
        first = number * share
        with open(names[number], "xb", buffering=0) as file:
            for place, view in _within(first, first + share, pieces, layout):
                _write_at(file.fileno(), view, place - first)

    if len(names) == 1:
        write_file(0)
    else:
        from concurrent.futures import ThreadPoolExecutor  # here, because the workers import this module, too

        with ThreadPoolExecutor(len(names)) as executor:
            list(executor.map(write_file, range(len(names))))


def _within(
    first: int, stop: int, pieces: Sequence[memoryview], layout: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, memoryview]]:
    """Yield what lies between two places, piece by piece, and where each begins."""
    for piece, (offset, length) in zip(pieces, layout, strict=True):
        begin, end = max(first, offset), min(stop, offset + length)
        if begin < end:
            yield begin, piece[begin - offset : end - offset]


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def mapped(names: Sequence[str]) -> memoryview:
    """Map files one behind the other, copy-on-write; all but the last end at a page's boundary.

    They stay mapped as long as anybody has a view of that memory. Raises `OSError`.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open(name, "rb")) for name in names]
        if len(files) == 1:
            return memoryview(mmap.mmap(files[0].fileno(), 0, access=mmap.ACCESS_COPY))
        return _joined([(file.fileno(), os.fstat(file.fileno()).st_size) for file in files])


def _joined(files: Sequence[tuple[int, int]]) -> memoryview:
    """Reserve a stretch of addresses, and map files of these descriptors and sizes into it."""
    import ctypes  # here, because most sessions need it only for numpy

    library = ctypes.CDLL(None, use_errno=True)
    map_at, unmap = library.mmap, library.munmap
    map_at.restype = ctypes.c_void_p
    map_at.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    total = sum(size for _, size in files)
    start = map_at(None, total, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    if start == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "the constant cannot be mapped")
    memory = (ctypes.c_char * total).from_address(start)
    weakref.finalize(memory, unmap, start, total).atexit = False  # arrays may be in use until the very end
    place = start
    for fd, size in files:
        if map_at(place, size, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_FIXED, fd, 0) == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "the constant cannot be mapped")
        place += size
    return memoryview(memory).cast("B")
