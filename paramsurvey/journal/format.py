r"""The journal's file, to the byte.

A journal is one file that only grows: a head, then records, one behind the other. All numbers are little-endian. A
crc32 is that of zlib and of gzip (ISO 3309).

The head, 16 bytes:

======  =====  ==========================================================================================
offset  bytes  content
======  =====  ==========================================================================================
0       8      ``8f 70 73 6a 0d 0a 1a 0a``: a byte that is no text, ``psj``, and line ends that a transfer as
               text would change
8       2      the version of this format, 2; a higher one is refused by name, lower ones stay readable
10      2      0
12      4      crc32 of the 12 bytes before
======  =====  ==========================================================================================

A record has a head of 64 bytes, and three parts behind it, each of which may be empty:

======  =====  ==========================================================================================
offset  bytes  content
======  =====  ==========================================================================================
0       4      ``f5 70 73 72``: a byte that is no text, ``psr``
4       1      its kind: 1 stage, 2 rows, 3 failures, 4 opened, 5 shape
5       3      the number of the shape; 0 for the other kinds
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
shape     ``{"answers", "psets"}``: for each of them the    one pickle: the names of the columns of the answers,
          types of the columns, a letter each               and those of the psets, two tuples
========  ================================================  ====================================================

Answers and psets are tuples ``(keys, columns)``: the names of the columns, and for each of them its values, in an
``array``, a numpy array or a list (`paramsurvey.engine.columns`). The rows of a table that lack a column have ``HOLE``
there. The answers come first, so that ``pickle.loads`` finds them without reading the psets.

Rows that come alone or in small company are small records, one for each row, in which there are neither names nor a
time of day:

======  =====  ==========================================================================================
offset  bytes  content
======  =====  ==========================================================================================
0       1      ``f6``
1       1...   a varint: the number of the shape, which tells the stage, the names and the types
...     1...   a varint: the seconds since the stage was begun (the last *stage* record before this one)
...     1...   a varint: the bytes of the values, less than 16384
...     4      crc32 of all other bytes of the record: those before it, and those behind it
...     16     the row key
...     ...    the values: those of the answers, then those of the psets
======  =====  ==========================================================================================

A varint is a number in groups of 7 bits, the lowest first; all bytes but the last have the eighth bit set. Values, in
the order of their columns: ``i`` an int, as the varint of 2n if it is not negative, else of -2n-1; ``d`` a float64;
``s`` a text, the varint of its bytes and they, in UTF-8. Those of type ``o``, anything else, come last, as one pickle
of their list. The number of a shape is used for one shape only. Rows are nothing without theirs, so a shape is written
before its first row and behind it, and again when it has 64 rows, and 64 times as many, and so on: damage has to hit
all of them to cost more than what it has hit.

Version 1 had neither shapes nor small records. A file of that version becomes one of version 2 when it is written to.

What this is good for: stages, counts and failures are read without unpickling anything, so that is safe with a file of
anybody's. *Reading rows runs pickle, which can run any code: do that only with journals of people whom you trust.*
Nothing is unpickled before its crc32 has matched.

A record that was cut off at the end of the file was being written when something ended the program, or the machine; it
is as if it had never been. Anywhere else a crc32 that does not match is damage: a record whose own head is good is
skipped, else the next good head, or small record, is looked for. Of two records of one row the later one counts.

This reads what can be read without unpickling:

.. code-block:: python

    import json, struct, sys, zlib

    def varint(data, at):
        number = shift = 0
        while data[at] & 128:
            number, shift, at = number | (data[at] & 127) << shift, shift + 7, at + 1
        return number | data[at] << shift, at + 1

    data, at = open(sys.argv[1], "rb").read(), 16
    magic, version, _, crc = struct.unpack("<8sHHI", data[:16])
    assert magic == b"\x8fpsj\r\n\x1a\n" and version <= 2, "no journal of version 1 or 2"
    stages = {}
    while len(data) - at > 16:
        start = at
        if data[at] == 0xF6:
            number, at = varint(data, at + 1)
            seconds, at = varint(data, at)
            size, at = varint(data, at)
            stop = at + 4 + 16 + size
            if zlib.crc32(data[start:at] + data[at + 4 : stop]) != int.from_bytes(data[at : at + 4], "little"):
                sys.exit(f"damaged or cut off at byte {start}")
            print("row", stages[number].hex(), 1)
            at = stop
            continue
        head, at = data[at : at + 64], at + 64
        magic, kind, number, stage, rows, *sizes, written = struct.unpack("<4sB3s16sIIQd", head[:48])
        crcs = struct.unpack("<IIII", head[48:])
        if magic != b"\xf5psr" or zlib.crc32(head[:60]) != crcs[3]:
            sys.exit(f"damaged or cut off at byte {start}")
        parts = []
        for size in (16 * rows, *sizes):
            parts.append(data[at : at + size])
            at += size
        if [zlib.crc32(part) for part in parts] != list(crcs[:3]):
            print("damaged:", end=" ")
        elif kind == 1 and parts[1]:
            print(json.loads(parts[1])["name"], end=" ")
        elif kind == 3:
            print(*(failure["text"] for failure in json.loads(parts[1])), end=" ")
        elif kind == 5:
            stages[int.from_bytes(number, "little")] = stage
        print(["", "stage", "rows", "failures", "opened", "shape"][kind], stage.hex(), rows)
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from paramsurvey.errors import JournalError

VERSION: Final = 2
MAGIC: Final = b"\x8fpsj\r\n\x1a\n"
RECORD_MAGIC: Final = b"\xf5psr"
ROW_MARK: Final = 0xF6
KEY_BYTES: Final = 16
NO_STAGE: Final = bytes(16)
WINDOW: Final = 1 << 20
"""So many bytes are read at once when the file is gone through: many records if they are small."""

MOST_VALUES: Final = (1 << 14) - 1
"""Bytes of the values in a small record: of anything larger a head is a small part."""

MOST_ROWS: Final = 4096
"""Small records up to which they are told together."""

_HEAD: Final = struct.Struct("<8sHHI")
_RECORD: Final = struct.Struct("<4sB3s16sIIQdIIII")
HEAD_BYTES: Final = _HEAD.size
RECORD_BYTES: Final = _RECORD.size

MOST_AT_ONCE: Final = MOST_VALUES + 64
"""A head or a small record has fewer bytes."""

_BEGINNINGS: Final = re.compile(re.escape(RECORD_MAGIC) + b"|" + re.escape(bytes((ROW_MARK,))))

Read: TypeAlias = Callable[[int, int], bytes]
"""Returns so many bytes of a file from an offset on, or fewer at its end: ``read(offset, size)``."""


class Kind(IntEnum):
    """What a record has."""

    STAGE = 1
    ROWS = 2
    FAILURES = 3
    OPENED = 4
    SHAPE = 5


class Record(NamedTuple):
    """The head of a record, and where it is in the file."""

    offset: int
    kind: int
    number: int  # of the shape
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


class Row(NamedTuple):
    """Where the parts of a small record are, in bytes of which it is a part."""

    number: int  # of its shape
    seconds: int  # since its stage was begun
    key_at: int
    values_at: int
    end: int


class Rows(NamedTuple):
    """Small records that follow one another: of each its shape, its seconds, where it is, and its row key."""

    numbers: list[int]
    seconds: list[int]
    offsets: list[int]
    keys: bytes
    end: int


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
    kind: Kind,
    *,
    stage: bytes = NO_STAGE,
    keys: bytes = b"",
    text: bytes = b"",
    data: bytes = b"",
    written: float,
    number: int = 0,
) -> bytes:
    """Return a record as it stands in the file."""
    start = struct.pack(
        "<4sB3s16sIIQdIII",
        RECORD_MAGIC,
        kind,
        number.to_bytes(3, "little"),
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


def row_record(number: int, seconds: int, key: bytes, values: bytes) -> bytes:
    """Return a small record as it stands in the file."""
    start = b"".join((bytes((ROW_MARK,)), varint(number), varint(seconds), varint(len(values))))
    rest = key + values
    return start + struct.pack("<I", zlib.crc32(rest, zlib.crc32(start))) + rest


def varint(number: int) -> bytes:
    """Return a number from 0 on in groups of 7 bits.

    Examples
    --------
    >>> varint(300).hex(), varint_at(varint(300), 0)
    ('ac02', (300, 2))
    """
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins there, and where it ends; raises `IndexError` if it is cut off."""
    number = data[at]
    if number < 128:
        return number, at + 1
    number, shift = number & 127, 7
    while (group := data[at := at + 1]) > 127:
        number |= (group & 127) << shift
        shift += 7
    return number | group << shift, at + 1


def row_at(window: bytes, place: int) -> Row | None:
    """Return the small record that begins at a place of some bytes; None if there is none, or not all of it."""
    try:
        number, at = varint_at(window, place + 1)
        seconds, at = varint_at(window, at)
        size, at = varint_at(window, at)
    except IndexError:
        return None
    end = at + 4 + KEY_BYTES + size
    if window[place] != ROW_MARK or size > MOST_VALUES or end > len(window):
        return None
    crc = zlib.crc32(window[at + 4 : end], zlib.crc32(window[place:at]))
    if crc != int.from_bytes(window[at : at + 4], "little"):
        return None
    return Row(number, seconds, at + 4, at + 4 + KEY_BYTES, end)


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
    heads = [head(version) for version in range(1, VERSION + 1)]
    if found in heads or (size < HEAD_BYTES and any(good.startswith(found) for good in heads)):
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


def records(read: Read, start: int, size: int) -> Iterator[tuple[Record, bytes] | Rows | Damage | Torn]:
    """Go through the records of a file from an offset on; yield each with its row keys, and what is damaged.

    The crc32 of heads and keys, and of small records, have matched; texts and data are not looked at (`part`).
    """
    offset = start
    window, first = b"", 0
    while offset < size:
        place = offset - first
        if not 0 <= place < len(window) - MOST_AT_ONCE:
            window, first, place = read(offset, WINDOW), offset, 0
        if (rows := _rows(window, place, first)) is not None:
            yield rows
            offset = rows.end
            continue
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


def records_in(data: bytes, offset: int) -> Iterator[tuple[Record, bytes] | Rows]:
    """Go through records that have just been made, and are in the file from an offset on."""
    for found in records(lambda at, size: data[at - offset : at - offset + size], offset, offset + len(data)):
        assert not isinstance(found, Damage | Torn)
        yield found


def _rows(window: bytes, place: int, first: int) -> Rows | None:
    """Return the small records that follow one another in a window, which begins at `first` in the file."""
    numbers: list[int] = []
    seconds: list[int] = []
    offsets: list[int] = []
    keys: list[bytes] = []
    while len(numbers) < MOST_ROWS and place < len(window) and window[place] == ROW_MARK:
        row = row_at(window, place)
        if row is None:
            break
        numbers.append(row.number)
        seconds.append(row.seconds)
        offsets.append(first + place)
        keys.append(window[row.key_at : row.values_at])
        place = row.end
    return Rows(numbers, seconds, offsets, b"".join(keys), first + place) if numbers else None


def part(read: Read, offset: int, size: int, crc: int) -> bytes | None:
    """Return a part of a record, or None if it is damaged."""
    found = read(offset, size)
    return found if len(found) == size and zlib.crc32(found) == crc else None


def parsed(window: bytes, place: int, offset: int) -> Record | None:
    """Return the record whose head begins at a place of some bytes of a file; None if there is none."""
    if len(window) - place < RECORD_BYTES or window[place : place + 4] != RECORD_MAGIC:
        return None
    _, kind, number, *fields, crc = _RECORD.unpack_from(window, place)
    if crc != zlib.crc32(memoryview(window)[place : place + RECORD_BYTES - 4]):
        return None
    return Record(offset, kind, int.from_bytes(number, "little"), *fields)


def _next_good(read: Read, offset: int, size: int) -> int | None:
    """Return where the next record is whose head, or which as a whole if it is small, has its crc32."""
    while offset < size:
        window = read(offset, WINDOW)
        for match in _BEGINNINGS.finditer(window):
            place = offset + match.start()
            found = read(place, MOST_AT_ONCE)
            if (parsed(found, 0, place) or row_at(found, 0)) is not None:
                return place
        offset += max(1, len(window) - len(RECORD_MAGIC) + 1)
    return None
