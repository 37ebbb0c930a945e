"""Rows of a journal as records for another file: in few and large ones, or only those that another has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from paramsurvey.engine.pickling import dumps
from paramsurvey.journal.contents import Contents
from paramsurvey.journal.format import HEAD_BYTES, KEY_BYTES, RECORD_BYTES, Kind, Record, as_text, record, records_in
from paramsurvey.journal.index import Places
from paramsurvey.journal.lookup import Lookup, RowsRead
from paramsurvey.journal.rows import SmallRow, found_rows
from paramsurvey.tables import concatenated

ROWS_PER_RECORD: Final = 8192


def lacking(ours: Lookup, theirs: Lookup, digest: bytes, kind: Kind) -> Places:
    """Return the places, in the other's index, of rows that ours has not."""
    known = theirs.contents.known(digest, kind)
    keys = np.stack([known.first, known.second], axis=1)
    is_new = ours.finished(digest).find(keys) < 0
    if kind == Kind.FAILURES:
        is_new &= (ours.known_lost(digest).find(keys) < 0) & (theirs.finished(digest).find(keys) < 0)
    return np.flatnonzero(is_new)


def compacted(lookup: Lookup) -> Iterator[bytes]:
    """Yield the records of a whole journal, without what nobody will ask for."""
    contents, offset = Contents(), HEAD_BYTES
    for data in _all(lookup, contents):
        for found in records_in(data, offset):
            contents.add(found)
        offset += len(data)
        yield data


def _all(lookup: Lookup, target: Contents) -> Iterator[bytes]:
    runs = {one.stage: number for number, one in enumerate(lookup.contents.history)}
    for digest in sorted(lookup.contents.prints(), key=lambda digest: runs.get(digest, -1)):
        yield from stage_records(lookup, digest)
        yield from repacked(lookup, digest, None, target)
        yield from failures(lookup, digest, lookup.lost(digest))


def stage_records(lookup: Lookup, digest: bytes) -> Iterator[bytes]:
    """Yield what is said of a stage, as a record."""
    one = lookup.contents.stages.get(digest)
    data = None if one is None else lookup.file.text(one)
    if one is not None and data is not None:
        yield record(Kind.STAGE, stage=digest, text=as_text(data), written=one.written)


def repacked(lookup: Lookup, digest: bytes, places: Places | None, target: Contents) -> Iterator[bytes]:
    """Yield finished rows in large records, and those that cannot be unpickled as they are.

    They are for a file in which `target` is.
    """
    batch: list[RowsRead] = []
    size = 0
    for each in lookup.tables(digest, places):
        if each.unread:
            yield from _as_they_are(lookup, each, target)
        if len(each.keys):
            batch.append(each)
            size += len(each.keys)
        if size >= ROWS_PER_RECORD:
            yield _packed(digest, batch)
            batch, size = [], 0
    if batch:
        yield _packed(digest, batch)


def _as_they_are(lookup: Lookup, rows: RowsRead, target: Contents) -> Iterator[bytes]:
    """Yield what is sound, but cannot be unpickled."""
    one, file = rows.source, lookup.file
    if isinstance(one, Record):
        data = file.data(one)
        if data is not None:
            keys = file.read(one.offset + RECORD_BYTES, KEY_BYTES * one.rows)
            yield record(Kind.ROWS, stage=one.stage, keys=keys, data=data, written=one.written)
        return
    for row, (found, data) in enumerate(found_rows(one, file, one.rows)):
        shape = lookup.contents.shapes.description(one.numbers[row], file)
        if row in rows.unread and found is not None and shape is not None:
            small = SmallRow(shape, data[found.key_at : found.values_at], data[found.values_at : found.end])
            yield target.small_records(one.stage, [small], one.times[row], file)


def failures(lookup: Lookup, digest: bytes, places: Places) -> Iterator[bytes]:
    """Yield records of rows that have failed."""
    known = lookup.known_lost(digest)
    for one, rows, there in lookup.by_record(known, places):
        assert isinstance(one, Record)
        texts, data = lookup.file.text(one), lookup.file.data(one)
        if texts is None or data is None:
            continue
        if len(rows) < one.rows:
            texts = [texts[row] for row in rows.tolist()]
            psets = lookup.lost_psets(one)
            data = dumps(psets.take(rows).portable()) if psets.keys else b""
        keys = np.stack([known.first[there], known.second[there]], axis=1).tobytes()
        yield record(Kind.FAILURES, stage=digest, keys=keys, text=as_text(texts), data=data, written=one.written)


def _packed(digest: bytes, batch: Sequence[RowsRead]) -> bytes:
    answers, psets = concatenated([each.answers for each in batch]), concatenated([each.psets for each in batch])
    keys = b"".join(each.keys.tobytes() for each in batch)
    data = dumps(answers.portable()) + dumps(psets.portable())
    return record(Kind.ROWS, stage=digest, keys=keys, data=data, written=batch[-1].source.written)
