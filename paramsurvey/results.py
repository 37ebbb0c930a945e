"""What a survey gives back: the results, what is missing and why, how far it came, and where the time went."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from paramsurvey.engine.dispatcher import Lost
from paramsurvey.errors import MissingPsets
from paramsurvey.progress import MapProgress
from paramsurvey.stats import PerfStats
from paramsurvey.tables import Table, frame_of

Pset: TypeAlias = dict[Hashable, Any]


class MapResults:
    """What came of a survey.

    Parameters
    ----------
    table : Table
        The finished rows.
    psets : Table
        The psets without a result.
    lost : list of Lost
        Why each of them has none, in the same order.
    progress : MapProgress
        The counts.
    stats : PerfStats
        The times.
    name : str
        The survey's name.

    Attributes
    ----------
    results : DataFrame
        The finished rows in the order of the psets: the parameters, then the answers.
    missing : DataFrame
        The psets without a result, and why: ``_exception``, ``_traceback``, ``_kind`` and ``_attempts``.
    progress : MapProgress
        The counts.
    stats : PerfStats
        The times of the workers, and of whatever they recorded.

    Examples
    --------
    >>> import paramsurvey
    >>> results = paramsurvey.map(lambda pset, system, user: {"square": pset["a"] ** 2}, [{"a": 3}, {"a": "x"}])
    >>> results.results
       a  square
    0  3       9
    >>> results.missing[["a", "_kind"]]
       a   _kind
    1  x  raised
    """

    def __init__(
        self, table: Table, psets: Table, lost: list[Lost], progress: MapProgress, stats: PerfStats, name: str
    ) -> None:
        self.table = table
        self.progress = progress
        self.stats = stats
        self.name = name
        self._missing_psets = psets
        self._lost = lost

    @cached_property
    def results(self) -> pd.DataFrame:
        """The finished rows in the order of the psets: the parameters, then the answers."""
        return self.table.frame()

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The psets without a result, and why."""
        frame = self._missing_psets.frame()
        failures = [lost.failure for lost in self._lost]
        why = {
            "_kind": [failure.kind for failure in failures],
            "_exception": [failure.text for failure in failures],
            "_traceback": [failure.traceback for failure in failures],
        }
        columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
        columns += [pd.Series(np.array(values, dtype=object), dtype=object) for values in why.values()]
        columns.append(pd.Series([lost.attempts for lost in self._lost], dtype=np.int64))
        missing = frame_of((*frame.columns, *why, "_attempts"), columns, frame.index)
        missing.columns.name = frame.columns.name if frame.columns.nlevels == 1 else None
        return missing

    def missing_psets(self) -> pd.DataFrame | list[Pset]:
        """Return the missing psets as they were given, to run them again: a DataFrame if they came in one, else dicts.

        Examples
        --------
        >>> import paramsurvey
        >>> results = paramsurvey.map(lambda pset, system, user: {"inverse": 1 / pset["a"]}, [{"a": 0}, {"a": 4}])
        >>> results.missing_psets()
        [{'a': 0}]
        """
        if self._missing_psets.typed is not None:
            return self._missing_psets.frame()
        return list(self._missing_psets.dicts())

    def raise_if_missing(self) -> None:
        """Raise `MissingPsets`, which says what is missing and carries these results, if any pset has no result."""
        if self._lost:
            raise MissingPsets(f"{self.name}: {self._what_is_missing()}", self)

    def itertuples(self) -> Iterator[Any]:
        """Iterate over the finished rows as named tuples; a name that is no identifier becomes ``_0``, ``_1``, ..."""
        return iter(self.results.itertuples(index=False, name="Row"))

    def iterdicts(self) -> Iterator[Pset]:
        """Iterate over the finished rows as dicts, with the very values that went in and came back.

        A row that lacks a key lacks it here, too.
        """
        return self.table.dicts()

    def to_df(self) -> pd.DataFrame:
        """Return `results`."""
        return self.results

    def to_dict(self, orient: Literal["records"] = "records") -> list[Pset]:
        """Return the finished rows as a list of dicts."""
        if orient != "records":
            raise ValueError(f"orient={orient!r}: only 'records' is supported; for others use to_df().to_dict()")
        return list(self.iterdicts())

    def __len__(self) -> int:
        return self.table.count

    def __repr__(self) -> str:
        parts = [f"{self.name}: {self.progress.finished} of {self.progress.total} psets finished"]
        if self._lost:
            parts.append(self._what_is_missing())
        elsewhere = self.progress.exceptions - sum(lost.failure.kind == "raised" for lost in self._lost)
        if elsewhere:
            parts.append(f"out_func raised {elsewhere} times")
        names = [str(key) for key in self.table.keys]
        parts.append("columns " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no columns")
        return f"<MapResults {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        from html import escape  # here, because its table of entities takes longer to import than this module

        shown = self.results.head(10)._repr_html_() or ""  # type: ignore[operator]
        title = f"<b>{escape(self.name)}</b>: {self.progress.finished} of {self.progress.total} psets finished"
        if self._lost:
            title += f"; <b>{escape(self._what_is_missing())}</b>"
        return f"<p>{title}</p>{shown}"

    def _what_is_missing(self) -> str:
        kinds: dict[str, int] = {}
        for lost in self._lost:
            kinds[lost.failure.kind] = kinds.get(lost.failure.kind, 0) + 1
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(self._lost)} missing ({listed}), the first: {first_line(self._lost[0].failure.text)}"


def first_line(text: str, width: int = 120) -> str:
    """Return the beginning of a text, on one line."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= width else line[: width - 3] + "..."
