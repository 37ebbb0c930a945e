"""A pipeline as one worker: all its stages in one call, for one row.

An evaluation of a greedy search, or of any stage that asks, may be several stages. They could be nodes of the run, and
rows would stream through them; or they can run one after the other where the worker runs. This is the second:

- An evaluation is one pset and one answer. That is what a stage that asks is told by number, what a search remembers,
  what a journal keeps, and what a time-out and a retry are for. A row on its way through nodes of its own would have to
  be all of these in several places.
- Its rows are few and its candidates are many: the cores are busy with different evaluations, so nothing is gained by
  having two of them work on the stages of one.
- What passes from stage to stage never leaves the process: an image that the next stage measures is not sent to the
  driver and back.

The price: a stage has no time-out, retries or seed of its own, which are refused; and it must make one row of one. What
raises, dies or hangs is the evaluation, and is said with the name of the stage that it was in. Row-wise stages need
pandas where they run, which each worker process imports once; map stages alone need nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import attrs

from paramsurvey.engine.records import is_ctrl_c
from paramsurvey.engine.worker import WHAT_TO_RETURN, safe_repr, same
from paramsurvey.errors import StageError


@attrs.frozen(eq=False)
class Call:
    """A map stage: a worker to be called.

    Parameters
    ----------
    name : str
        The stage's name, which the worker is told as that of its survey.
    worker : callable
        It.
    user_kwargs : object
        What it is handed; None for what the whole evaluation is.
    """

    name: str
    worker: Callable[..., Any]
    user_kwargs: Any

    def row(self, row: dict[Hashable, Any], system_kwargs: Mapping[str, Any], user_kwargs: Any) -> dict[Hashable, Any]:
        """Return the row with the answer in it."""
        pset = dict(row)
        told = {**system_kwargs, "name": self.name}
        answer = self.worker(pset, told, user_kwargs if self.user_kwargs is None else self.user_kwargs)
        if answer is not None and not isinstance(answer, Mapping):
            what = f"the {type(answer).__name__} {safe_repr(answer)[:80]}"
            raise TypeError(f"the worker returned {what}; {WHAT_TO_RETURN}")
        added = {key: value for key, value in pset.items() if key not in row} | dict(answer or {})
        for key in row.keys() & added.keys():
            if not same(added[key], row[key]):
                raise ValueError(
                    f"the answer has the key {key!r} = {safe_repr(added[key])}, which the row has already with the "
                    f"value {safe_repr(row[key])}: give it another name"
                )
        return row | added


@attrs.frozen(eq=False)
class Change:
    """A row-wise stage.

    Parameters
    ----------
    name : str
        Its name.
    stage : RowStage
        It.
    """

    name: str
    stage: Any

    def row(self, row: dict[Hashable, Any], _system_kwargs: object, _user_kwargs: object) -> dict[Hashable, Any]:
        """Return the one row that comes of a row."""
        from paramsurvey.tables import table_of  # imports pandas

        found: list[dict[Hashable, Any]] = [
            made for rows in self.stage.rows(table_of([row])) for made in rows.table.dicts()
        ]
        if len(found) != 1:
            what = "has left it out" if not found else f"has made {len(found)} rows of it"
            raise StageError(f"it {what}, and an evaluation is one row")
        return found[0]


@attrs.frozen(eq=False, repr=False)
class Fused:
    """The stages of a pipeline as a worker.

    Parameters
    ----------
    name : str
        The pipeline's name.
    stages : tuple of Call and Change
        What is done with a row, one after the other.

    Examples
    --------
    >>> from paramsurvey import Pipeline
    >>> def square(pset, system_kwargs, user_kwargs):
    ...     return {"square": pset["n"] ** 2}
    >>> worker = Pipeline("sums").map(square).derive(sum="n + square").as_worker()
    >>> worker({"n": 3}, {}, None)
    {'square': 9, 'sum': 12}
    """

    name: str
    stages: tuple[Call | Change, ...]

    @property
    def __name__(self) -> str:
        """What surveys are called that call it."""
        return self.name

    @property
    def stage_names(self) -> tuple[str, ...]:
        """What its stages are called: who is killed in the middle of one has only told its number."""
        return tuple(stage.name for stage in self.stages)

    def __call__(self, pset: dict[Hashable, Any], system_kwargs: Mapping[str, Any], user_kwargs: Any) -> dict[Any, Any]:
        """Return what the last stage has beside the pset.

        Raises
        ------
        StageError
            A stage has raised, and which.
        """
        row, note = pset, getattr(system_kwargs, "note_stage", _nobody_listens)
        try:
            for number, stage in enumerate(self.stages, 1):
                note(number)
                row = self._row(stage, row, system_kwargs, user_kwargs)
        finally:
            note(0)
        return dict(self._answer(pset, row))

    @staticmethod
    def _row(stage: Call | Change, row: dict[Hashable, Any], system_kwargs: Any, user_kwargs: Any) -> dict[Any, Any]:
        try:
            return stage.row(row, system_kwargs, user_kwargs)
        except BaseException as exc:
            if is_ctrl_c(exc):
                raise
            text = str(exc) if isinstance(exc, StageError) else safe_repr(exc)
            text = text if repr(stage.name) in text else f"stage {stage.name!r}: {text}"
            raise StageError(text) from exc

    @staticmethod
    def _answer(pset: dict[Hashable, Any], row: dict[Hashable, Any]) -> Iterator[tuple[Hashable, Any]]:
        for key, value in row.items():
            if key not in pset or not same(value, pset[key]):
                yield key, value


def _nobody_listens(_number: int) -> None:
    """Take note of a stage where no backend watches: somebody calls the worker by hand."""
