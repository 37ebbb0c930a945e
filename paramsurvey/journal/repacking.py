"""Rows of a journal as records for another file: in few and large ones, or only those that another has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import numpy as np

from paramsurvey.engine.columns import Keys
from paramsurvey.engine.pickling import dumps
from paramsurvey.journal.format import KEY_BYTES, Kind, as_text, record
from paramsurvey.journal.index import Places
from paramsurvey.journal.lookup import Lookup
from paramsurvey.tables import Table, concatenated

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
    runs = {one.stage: number for number, one in enumerate(lookup.contents.history)}
    for digest in sorted(lookup.contents.prints(), key=lambda digest: runs.get(digest, -1)):
        yield from stage_records(lookup, digest)
        yield from repacked(lookup, digest, None)
        yield from failures(lookup, digest, lookup.lost(digest))


def stage_records(lookup: Lookup, digest: bytes) -> Iterator[bytes]:
    """Yield what is said of a stage, as a record."""
    one = lookup.contents.stages.get(digest)
    data = None if one is None else lookup.file.text(one)
    if one is not None and data is not None:
        yield record(Kind.STAGE, stage=digest, text=as_text(data), written=one.written)


def repacked(lookup: Lookup, digest: bytes, places: Places | None) -> Iterator[bytes]:
    """Yield finished rows in large records; those that cannot be unpickled as they are."""
    known = lookup.finished(digest)
    batch: list[tuple[bytes, Table, Table]] = []
    size, written = 0, 0.0
    for one, rows, _ in lookup.by_record(known, places):
        data = lookup.file.data(one)
        if data is None:
            continue
        keys = lookup.file.read(one.offset + 64, KEY_BYTES * one.rows)
        loaded = lookup.loaded(one, data, 2)
        if not loaded:
            yield record(Kind.ROWS, stage=digest, keys=keys, data=data, written=one.written)
            continue
        answers, psets = (attrs.evolve(each.take(rows), index=None) for each in loaded)
        batch.append((b"".join(keys[KEY_BYTES * row : KEY_BYTES * (row + 1)] for row in rows.tolist()), answers, psets))
        size, written = size + len(rows), one.written
        if size >= ROWS_PER_RECORD:
            yield _packed(digest, batch, written)
            batch, size = [], 0
    if batch:
        yield _packed(digest, batch, written)


def failures(lookup: Lookup, digest: bytes, places: Places) -> Iterator[bytes]:
    """Yield records of rows that have failed."""
    for one, rows, _ in lookup.by_record(lookup.known_lost(digest), places):
        texts, data = lookup.file.text(one), lookup.file.data(one)
        if texts is None or data is None:
            continue
        keys = lookup.file.read(one.offset + 64, KEY_BYTES * one.rows)
        if len(rows) == one.rows:
            yield record(Kind.FAILURES, stage=digest, keys=keys, text=as_text(texts), data=data, written=one.written)
            continue
        loaded = lookup.loaded(one, data, 1) if data else []
        psets = b"" if not loaded else dumps(_portable(loaded[0].take(rows)))
        chosen = b"".join(keys[KEY_BYTES * row : KEY_BYTES * (row + 1)] for row in rows.tolist())
        text = as_text([texts[row] for row in rows.tolist()])
        yield record(Kind.FAILURES, stage=digest, keys=chosen, text=text, data=psets, written=one.written)


def _packed(digest: bytes, batch: Sequence[tuple[bytes, Table, Table]], written: float) -> bytes:
    keys, answers, psets = zip(*batch, strict=True)
    data = dumps(_portable(concatenated(answers))) + dumps(_portable(concatenated(psets)))
    return record(Kind.ROWS, stage=digest, keys=b"".join(keys), data=data, written=written)


def _portable(table: Table) -> tuple[Keys, list[Any]]:
    return table.keys, table.rows(0, table.count, 1).columns
