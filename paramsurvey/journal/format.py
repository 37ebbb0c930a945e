r"""The journal's file, to the byte.

A journal is one file that only grows: a head, then records, one behind the other. All numbers are little-endian. A
crc32 is that of zlib and of gzip (ISO 3309).

The head, 16 bytes:

======  =====  ==========================================================================================
offset  bytes  content
======  =====  ==========================================================================================
0       8      ``8f 70 73 6a 0d 0a 1a 0a``: a byte that is no text, ``psj``, and line ends that a transfer as
               text would change
8       2      the version of this format, 1; a higher one is refused by name, lower ones stay readable
10      2      0
12      4      crc32 of the 12 bytes before
======  =====  ==========================================================================================

A record has a head of 64 bytes, and three parts behind it, each of which may be empty:

======  =====  ==========================================================================================
offset  bytes  content
======  =====  ==========================================================================================
0       4      ``f5 70 73 72``: a byte that is no text, ``psr``
4       1      its kind: 1 stage, 2 rows, 3 failures, 4 opened
5       3      0
8       16     the print of the stage that it belongs to (`prints`); 0 for *opened*
24      4      the number of rows
28      4      bytes of the text
32      8      bytes of the data
40      8      when it was written, in seconds since 1970, a float64
48      4      crc32 of the row keys
52      4      crc32 of the text
56      4      crc32 of the data
60      4      crc32 of the 60 bytes before
64      ...    the row keys, 16 bytes each (`keys`); then the text, JSON in UTF-8; then the data, pickles
======  =====  ==========================================================================================

========  ================================================  ====================================================
kind      its text                                          its data
========  ================================================  ====================================================
stage     what the print was made of; none if the file has  none
          that already. Written by every run that begins
          the stage
rows      none                                              two pickles: the answers, and the psets
failures  a list of ``{"kind", "text", "traceback",         one pickle: the psets
          "attempts", "earlier"}``, one for each row; the
          last is ``[kind, text]`` of each attempt before.
          Also ``"details"``, if there were any
opened    who opened the file to write: ``{"host", "pid",   none
          "user", "program"}``
========  ================================================  ====================================================

Answers and psets are tuples ``(keys, columns)``: the names of the columns, and for each of them its values, in an
``array``, a numpy array or a list (`paramsurvey.engine.columns`). The rows of a table that lack a column have ``HOLE``
there. The answers come first, so that ``pickle.loads`` finds them without reading the psets.

What this is good for: stages, counts and failures are read without unpickling anything, so that is safe with a file of
anybody's. *Reading rows runs pickle, which can run any code: do that only with journals of people whom you trust.*
Nothing is unpickled before its crc32 has matched.

A record that was cut off at the end of the file was being written when something ended the program, or the machine; it
is as if it had never been. Anywhere else a crc32 that does not match is damage: a record whose own head is good is
skipped, else the next good head is looked for. Of two records of one row the later one counts.

This reads what can be read without unpickling:

.. code-block:: python

    import json, struct, sys, zlib

    with open(sys.argv[1], "rb") as file:
        magic, version, _, crc = struct.unpack("<8sHHI", file.read(16))
        assert magic == b"\x8fpsj\r\n\x1a\n" and version == 1, "no journal of version 1"
        while len(head := file.read(64)) == 64:
            magic, kind, stage, rows, text, data, written, *crcs = struct.unpack("<4sB3x16sIIQdIIII", head)
            if magic != b"\xf5psr" or zlib.crc32(head[:60]) != crcs[3]:
                sys.exit(f"damaged at byte {file.tell() - 64}")
            parts = [file.read(size) for size in (16 * rows, text, data)]
            if [zlib.crc32(part) for part in parts] != crcs[:3]:
                print("damaged:", end=" ")
            elif kind == 1 and text:
                print(json.loads(parts[1])["name"], end=" ")
            elif kind == 3:
                print(*(failure["text"] for failure in json.loads(parts[1])), end=" ")
            print(["", "stage", "rows", "failures", "opened"][kind], stage.hex(), rows)
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from paramsurvey.errors import JournalError

VERSION: Final = 1
MAGIC: Final = b"\x8fpsj\r\n\x1a\n"
RECORD_MAGIC: Final = b"\xf5psr"
KEY_BYTES: Final = 16
NO_STAGE: Final = bytes(16)
WINDOW: Final = 1 << 20
"""So many bytes are read at once when the file is gone through: many records if they are small."""

_HEAD: Final = struct.Struct("<8sHHI")
_RECORD: Final = struct.Struct("<4sB3x16sIIQdIIII")
HEAD_BYTES: Final = _HEAD.size
RECORD_BYTES: Final = _RECORD.size

Read: TypeAlias = Callable[[int, int], bytes]
"""Returns so many bytes of a file from an offset on, or fewer at its end: ``read(offset, size)``."""


class Kind(IntEnum):
    """What a record has."""

    STAGE = 1
    ROWS = 2
    FAILURES = 3
    OPENED = 4


class Record(NamedTuple):
    """The head of a record, and where it is in the file."""

    offset: int
    kind: int
    stage: bytes
    rows: int
    text_bytes: int
    data_bytes: int
    written: float
    keys_crc: int
    text_crc: int
    data_crc: int

    @property
    def text_at(self) -> int:
        """Where its text begins."""
        return self.offset + RECORD_BYTES + KEY_BYTES * self.rows

    @property
    def data_at(self) -> int:
        """Where its data begin."""
        return self.text_at + self.text_bytes

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.data_at + self.data_bytes


class Damage(NamedTuple):
    """Bytes that should be a record and are none."""

    offset: int
    size: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.size} bytes at {self.offset})"


class Torn(NamedTuple):
    """The end of the file from `offset` on: a record that was being written when something ended the program."""

    offset: int


def head(version: int = VERSION) -> bytes:
    """Return the head of a file."""
    start = struct.pack("<8sHH", MAGIC, version, 0)
    return start + struct.pack("<I", zlib.crc32(start))


def record(
    kind: Kind, *, stage: bytes = NO_STAGE, keys: bytes = b"", text: bytes = b"", data: bytes = b"", written: float
) -> bytes:
    """Return a record as it stands in the file."""
    start = struct.pack(
        "<4sB3x16sIIQdIII",
        RECORD_MAGIC,
        kind,
        stage,
        len(keys) // KEY_BYTES,
        len(text),
        len(data),
        written,
        zlib.crc32(keys),
        zlib.crc32(text),
        zlib.crc32(data),
    )
    return b"".join((start, struct.pack("<I", zlib.crc32(start)), keys, text, data))


def as_text(value: Any) -> bytes:
    """Return plain data as the text of a record."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def check_head(read: Read, size: int, name: str) -> Damage | None:
    """Look at the head of a file; return what is wrong with it, if it is a journal nevertheless.

    Raises
    ------
    JournalError
        It is no journal, or one of a version that this one cannot read.
    """
    found = read(0, HEAD_BYTES)
    good = head()
    if found == good or (size < HEAD_BYTES and good.startswith(found)):
        return None
    if len(found) == HEAD_BYTES:
        magic, version, _, crc = _HEAD.unpack(found)
        if magic == MAGIC and crc == zlib.crc32(found[:-4]):
            raise JournalError(
                f"the journal {name} has version {version} of its format, and this paramsurvey reads up to version "
                f"{VERSION}: read it with the paramsurvey that wrote it, or a newer one"
            )
    if _next_good(read, 0, size) is None:
        raise JournalError(f"{name} is no journal, and nothing was changed in it: name another file with journal=")
    return Damage(0, HEAD_BYTES, "the head of the file is damaged")


def records(read: Read, start: int, size: int) -> Iterator[tuple[Record, bytes] | Damage | Torn]:
    """Go through the records of a file from an offset on; yield each with its row keys, and what is damaged.

    The crc32 of heads and keys have matched; texts and data are not looked at (`part`).
    """
    offset = start
    window, first = b"", 0
    while offset < size:
        place = offset - first
        if not 0 <= place <= len(window) - RECORD_BYTES:
            window, first, place = read(offset, WINDOW), offset, 0
        found = parsed(window, place, offset)
        if found is not None and found.end > size:
            yield Torn(offset)
            return
        if found is None:
            next_good = _next_good(read, offset + 1, size)
            if next_good is None:
                yield Torn(offset)
                return
            yield Damage(offset, next_good - offset, "what should be a record is none")
            offset = next_good
            continue
        at, length = place + RECORD_BYTES, KEY_BYTES * found.rows
        keys = window[at : at + length]
        if len(keys) < length:
            keys = read(offset + RECORD_BYTES, length)
        if zlib.crc32(keys) == found.keys_crc:
            yield found, keys
        else:
            yield Damage(offset, found.end - offset, f"the keys of {found.rows} rows are damaged")
        offset = found.end


def part(read: Read, offset: int, size: int, crc: int) -> bytes | None:
    """Return a part of a record, or None if it is damaged."""
    found = read(offset, size)
    return found if len(found) == size and zlib.crc32(found) == crc else None


def parsed(window: bytes, place: int, offset: int) -> Record | None:
    """Return the record whose head begins at a place of some bytes of a file; None if there is none."""
    if len(window) - place < RECORD_BYTES or window[place : place + 4] != RECORD_MAGIC:
        return None
    _, *fields, crc = _RECORD.unpack_from(window, place)
    if crc != zlib.crc32(memoryview(window)[place : place + RECORD_BYTES - 4]):
        return None
    return Record(offset, *fields)


def _next_good(read: Read, offset: int, size: int) -> int | None:
    """Return where the next head of a record is whose crc32 matches."""
    while offset < size:
        window = read(offset, WINDOW)
        place = -1
        while (place := window.find(RECORD_MAGIC, place + 1)) >= 0:
            head_of_it = read(offset + place, RECORD_BYTES)
            if parsed(head_of_it, 0, offset + place) is not None:
                return offset + place
        offset += max(1, len(window) - len(RECORD_MAGIC) + 1)
    return None
