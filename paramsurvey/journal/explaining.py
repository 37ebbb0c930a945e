"""Why a row was computed, computed again or taken from the journal; and how a stage has changed."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import numpy as np

from paramsurvey.engine.columns import RESERVED, Keys
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.errors import JournalError, OptionError
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.journal.keys import Words, row_keys, with_occurrences
from paramsurvey.journal.lookup import SHOWN_PRINT, Lookup, listed
from paramsurvey.journal.prints import StagePrint, changes, changes_of_libraries
from paramsurvey.journal.reading import OpenJournal, lookup_in
from paramsurvey.journal.rows import written_at
from paramsurvey.options import shown

MOST_COMPARED: Final = 100_000
"""Rows that are looked at for the one that is most like a pset that is not there."""

MOST_COUNTED: Final = 1000
"""Equal psets up to which they are counted."""


@attrs.frozen
class Explanation:
    """Why a pset was computed, or taken from a journal; or what became of a stage. As a text it is prose.

    Attributes
    ----------
    verdict : str
        Of a pset: ``"taken"`` (the last run took it from the journal), ``"computed"`` (the last run computed it, for
        the first time), ``"computed again"`` (it was finished before, in another state of the stage), ``"stale"`` (it
        is finished in another state only: the next run computes it again), ``"failed"``, or ``"unknown"``. Of a stage:
        ``"stage"``.
    reasons : tuple of str
        What differs between the two states, or between the pset and the one most like it: each names one thing.
    text : str
        All of it.
    not_covered : tuple of str
        What the worker uses of which a change is not noticed, with the reason: it may have changed.
    """

    verdict: Literal["taken", "computed", "computed again", "stale", "failed", "unknown", "stage"]
    reasons: tuple[str, ...]
    text: str
    not_covered: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


def explain(
    journal: str | os.PathLike[str] | OpenJournal,
    what: Mapping[Any, Any] | int | str,
    *,
    stage: str | None = None,
    occurrence: int = 1,
) -> Explanation:
    """Tell why a pset was computed, computed again or taken from the journal; or how a stage has changed.

    Parameters
    ----------
    journal : path or OpenJournal
        The journal; it is not changed.
    what : dict, int or str
        A pset, or a row, with its answers; or the number of a row in `OpenJournal.results`; or the name of a stage.
    stage : str, optional
        The name of the stage that the pset is of. Needed only if several have had it.
    occurrence : int, default 1
        Of equal psets, which are calls of their own, the first, the second, and so on. The text says if there are
        several. A row that is given by its number is that one.

    Returns
    -------
    Explanation
        Print it.

    Raises
    ------
    JournalError
        There is no such stage or row, or it may be of several stages and none was named.
    OptionError
        `occurrence` is no number from 1 on.
    TypeError
        It is neither a dict nor the number of a row nor the name of a stage.

    Examples
    --------
    >>> import os, tempfile
    >>> import paramsurvey
    >>> path = os.path.join(tempfile.mkdtemp(), "journal")
    >>> for power in (2, 3):
    ...     worker = lambda pset, system, user: {"b": pset["a"] ** user["power"]}
    ...     options = {"user_kwargs": {"power": power}, "name": "power", "journal": path, "verbose": 0}
    ...     results = paramsurvey.map(worker, [{"a": 3}], **options)
    >>> why = paramsurvey.explain(path, {"a": 3})
    >>> why.verdict, why.reasons
    ('computed again', ("user_kwargs['power'] changed",))
    """
    if type(occurrence) is not int or occurrence < 1:
        raise OptionError(f"explain(occurrence={shown(occurrence)}): it must be a whole number, 1 for the first")
    with lookup_in(journal) as found:
        if isinstance(what, str):
            return _of_stage(found, what)
        if isinstance(what, Mapping):
            row = {key: value for key, value in what.items() if key not in RESERVED}
            digest = _stage_of(found, row, stage)
            return _of_pset(found, digest, Asked.of(_pset_of(found, row, _states(found, digest)), occurrence))
        return _of_number(found, _number(what), found.digest(stage))


def _number(what: Any) -> int:
    try:
        return operator.index(what)
    except TypeError:
        raise TypeError(
            f"explain(): what must be a pset, the number of a row or the name of a stage, not {type(what).__name__}"
        ) from None


# Of which stage, and which of its rows


@attrs.frozen(eq=False)
class Asked:
    """The pset that is asked for, and the key of that among its equals; none if the pset cannot be pickled."""

    pset: Mapping[Any, Any]
    key: Words | None
    occurrence: int | None = None  # None: it was given by the number of its row

    @classmethod
    def of(cls, pset: Mapping[Any, Any], occurrence: int = 1) -> Asked:
        """Return one of equal psets."""
        key = _first_key(pset)
        return cls(pset, None if key is None else with_occurrences(key, np.array([occurrence - 1])), occurrence)

    def __str__(self) -> str:
        which = f" (occurrence {self.occurrence})" if self.occurrence not in (None, 1) else ""
        return f"{shown(self.pset)}{which}"


def _first_key(pset: Mapping[Any, Any]) -> Words | None:
    """Return the key of the first of equal psets."""
    keys, nameless = row_keys(tuple(pset), [[value] for value in pset.values()], 1)
    return None if nameless else keys


def _stage_of(journal: Lookup, row: dict[Any, Any], stage: str | None) -> bytes:
    """Return the stage that is named, or else the only one that has had a row."""
    states: dict[str, list[bytes]] = {}
    for each, one in journal.prints().items():
        states.setdefault(one.name, []).append(each)
    if stage is None and len(states) > 1:
        having = [name for name, prints in states.items() if _is_known(journal, _pset_of(journal, row, prints), prints)]
        if len(having) == 1:
            return journal.digest(having[0])
        if having:
            raise JournalError(f"explain(): {shown(row)} may be of {listed(having)}: name one of them with stage=")
        raise JournalError(
            f"explain(): no stage of the journal {journal.path} has had {shown(row)}: name one with stage= to see what "
            f"differs; it has: {listed(list(states))}"
        )
    return journal.digest(stage)


def _states(journal: Lookup, digest: bytes) -> list[bytes]:
    """Return all states of the stage that a print is of, that one included."""
    name = journal.print(digest).name
    return [each for each, one in journal.prints().items() if one.name == name]


def _pset_of(journal: Lookup, row: dict[Any, Any], states: Sequence[bytes]) -> dict[Any, Any]:
    """Return the pset of a row: all of it, or without the answers."""
    if _is_known(journal, row, states):
        return row
    for each in states:
        for keys in _shapes(journal, each):
            if set(keys) < set(row):
                pset = {key: row[key] for key in keys}
                if _is_known(journal, pset, [each]):
                    return pset
    return row


def _shapes(journal: Lookup, digest: bytes) -> list[Keys]:
    """Return the columns that psets of a stage have had."""
    return list(dict.fromkeys(each.psets.keys for each in journal.tables(digest)))


def _is_known(journal: Lookup, pset: dict[Any, Any], states: Sequence[bytes]) -> bool:
    asked = Asked.of(pset)
    return any(_finished_at(journal, asked, each) is not None or _failed(journal, asked, each) for each in states)


def _finished_at(journal: Lookup, asked: Asked, digest: bytes) -> float | None:
    """Return when a row was finished in a state of its stage, if it was."""
    known = journal.finished(digest)
    place = -1 if asked.key is None else int(known.find(asked.key)[0])
    if place < 0:
        return None
    return written_at(journal.contents.records[int(known.records[place])], int(known.rows[place]))


def _failed(journal: Lookup, asked: Asked, digest: bytes) -> Lost | None:
    """Return how a row has failed in a state of its stage, if it has."""
    known = journal.known_lost(digest)
    place = -1 if asked.key is None else int(known.find(asked.key)[0])
    return None if place < 0 else journal.why_lost(known, place)


def _equals(journal: Lookup, pset: Mapping[Any, Any], digest: bytes) -> int:
    """Return how many psets like this one are finished in a state of their stage."""
    key = _first_key(pset)
    if key is None:
        return 0
    keys = with_occurrences(np.repeat(key, MOST_COUNTED, axis=0), np.arange(MOST_COUNTED))
    return int((journal.finished(digest).find(keys) >= 0).sum())


# What became of it


def _of_stage(journal: Lookup, name: str) -> Explanation:
    digest = journal.digest(name)
    name = journal.print(digest).name
    lines, reasons, before = [f"stage {name!r}:"], [], None
    for when, each, other in journal.history():
        if other != name or each == before:
            continue
        now = journal.print(each)
        count = f"{len(journal.finished(each).first)} psets finished, print {each.hex()[:SHOWN_PRINT]}"
        lines.append(f"{_date(when)}: {'begun' if before is None else 'begun in another state'}; {count}")
        if before is not None:
            reasons = changes(journal.print(before), now)
            lines += [f"  {reason}" for reason in reasons]
        before = each
    return _explanation(journal, digest, "stage", tuple(reasons), *lines)


def _of_number(journal: Lookup, number: int, digest: bytes) -> Explanation:
    table, keys = journal.rows(digest)
    if not 0 <= number < table.count:
        raise JournalError(f"explain(): the stage has {table.count} finished rows in the journal, and none at {number}")
    return _of_pset(journal, digest, Asked(table.pset(number), keys[number : number + 1]))


def _of_pset(journal: Lookup, digest: bytes, asked: Asked) -> Explanation:
    what = f"{asked} of stage {journal.print(digest).name!r}"
    times = {each: _finished_at(journal, asked, each) for each in _states(journal, digest)}
    finished = times.pop(digest)
    earlier = {each: at for each, at in times.items() if at is not None and (finished is None or at < finished)}
    before = max(earlier, key=lambda each: earlier[each], default=None)
    reasons = () if before is None else tuple(changes(journal.print(before), journal.print(digest)))
    shown_reasons = [f"  {reason}" for reason in reasons]
    equals = _told_equals(journal, asked, digest)
    if finished is not None:
        began = max((when for when, each, _ in journal.history() if each == digest), default=0.0)
        if finished < began:
            unchanged = "nothing that counts has changed since: it is taken"
            text = f"{what} was computed at {_date(finished)}; {unchanged}{_libraries(journal, digest)}"
            return _explanation(journal, digest, "taken", (), text, *equals)
        if before is None:
            text = f"{what} was computed at {_date(finished)}, for the first time"
            return _explanation(journal, digest, "computed", (), text, *equals)
        text = f"{what} was computed again at {_date(finished)}, after {_date(earlier[before])}, because"
        return _explanation(journal, digest, "computed again", reasons, text, *shown_reasons, *equals)
    failed = _failed(journal, asked, digest)
    if failed is not None:
        how = f"failed ({failed.failure.kind}): {failed.failure.text}"
        text = f"{what} {how}; it is tried again unless retry_failed=False"
        return _explanation(journal, digest, "failed", reasons, text, *equals)
    if before is not None:
        text = f"{what} was computed at {_date(earlier[before])}; it will be computed again, because since then"
        return _explanation(journal, digest, "stale", reasons, text, *shown_reasons, *equals)
    return _explanation(journal, digest, "unknown", *_unknown(journal, asked.pset, digest, what), *equals)


def _explanation(journal: Lookup, digest: bytes, verdict: Any, reasons: tuple[str, ...], *lines: str) -> Explanation:
    not_covered = journal.print(digest).not_covered
    unseen = ("a change of this is not noticed:", *(f"  {each}" for each in not_covered)) if not_covered else ()
    return Explanation(verdict, reasons, "\n".join((*lines, *unseen)), not_covered)


def _told_equals(journal: Lookup, asked: Asked, digest: bytes) -> Iterator[str]:
    """Say that there are equal psets, if somebody may not know which of them this is about."""
    count = _equals(journal, asked.pset, digest) if asked.occurrence is not None else 0
    if count > 1:
        yield f"(there are {count} such psets; occurrence= says which one is meant)"


def _unknown(journal: Lookup, pset: Mapping[Any, Any], digest: bytes, what: str) -> tuple[tuple[str, ...], str]:
    """Return in what a pset differs from the one most like it, and a text that says so."""
    nearest = _nearest(journal, pset, digest)
    if nearest is None:
        return (), f"{what} was never finished, and no other pset is like it"
    reasons = []
    for key in dict.fromkeys((*nearest, *pset)):
        if key not in pset:
            reasons.append(f"parameter {key!r} is not there any more")
        elif key not in nearest:
            reasons.append(f"parameter {key!r} is new")
        elif typed_bytes(pset[key]) != typed_bytes(nearest[key]):
            reasons.append(
                f"parameter {key!r} is {shown(pset[key])}, and was {shown(nearest[key])}{_types(pset, nearest, key)}"
            )
    if not reasons:
        return (), f"{what} was never finished: there were not so many such psets"
    text = f"{what} was never finished; of the one most like it, it differs so:"
    return tuple(reasons), "\n".join((text, *(f"  {reason}" for reason in reasons)))


def _nearest(journal: Lookup, pset: Mapping[Any, Any], digest: bytes) -> Mapping[Any, Any] | None:
    """Return the finished pset that has most values in common with another one; 3 and 3.0 are half a value."""
    contents = {key: typed_bytes(value) for key, value in pset.items()}
    best, most, seen = None, 0, 0
    for each in journal.tables(digest):
        for other in each.psets.dicts():
            agree = sum(
                2 * (typed_bytes(value) == contents[key]) or _look_alike(value, pset[key])
                for key, value in other.items()
                if key in contents
            )
            if agree > most:
                best, most = other, agree
        seen += each.psets.count
        if seen > MOST_COMPARED:
            break
    return best


def _look_alike(one: Any, other: Any) -> bool:
    """Tell whether values are equal, if not in type."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays refuse to be true or false, and others may raise anything
        return False


def _types(one: Mapping[Any, Any], other: Mapping[Any, Any], key: Any) -> str:
    kinds = type(one[key]).__name__, type(other[key]).__name__
    return "" if kinds[0] == kinds[1] else f" ({kinds[0]}, and not {kinds[1]})"


def _libraries(journal: Lookup, digest: bytes) -> str:
    texts = [journal.file.text(one) for one in journal.contents.history if one.stage == digest and one.text_bytes]
    prints = [StagePrint.of_dict(text) for text in texts if text is not None]
    changed = changes_of_libraries(prints[0], prints[-1]) if prints else []
    return f" (although {', '.join(changed)})" if changed else ""


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
