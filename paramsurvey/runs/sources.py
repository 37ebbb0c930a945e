"""The sources of a run, made of whatever the user has given as psets, with and without names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from paramsurvey.errors import StageError
from paramsurvey.psets import Drawn, PsetSource, is_table, psets_of_user, refuse_no_rows
from paramsurvey.stages.base import Columns

if TYPE_CHECKING:
    from paramsurvey.pipeline import Pipeline


def sources_of_user(
    pipeline: Pipeline, psets: Any, by_name: Mapping[str, Any], limit: int | None, *, drawn: bool, where: str
) -> dict[str, PsetSource | Drawn]:
    """Make the sources of a run of whatever the user has as psets.

    Parameters
    ----------
    pipeline : Pipeline
        Whose sources.
    psets : object
        What was given without a name; None if nothing was.
    by_name : mapping
        What was given by name.
    limit : int or None
        The most rows of each.
    drawn : bool
        Whether iterators are drawn from as rows are wanted, if nobody needs the whole table.
    where : str
        What the call is named in messages.

    Raises
    ------
    StageError
        One is not given, or given twice, or the columns do not fit the stages.
    PsetError
        They are no psets.
    """
    names, given = pipeline.sources, dict(by_name)
    if psets is not None:
        if len(names) > 1:
            raise StageError(
                f"{where}(): the pipeline {pipeline.name!r} has several sources: give each by name, as in "
                f"{where}({', '.join(f'{name}=...' for name in names)})"
            )
        if names[0] in given:
            raise StageError(f"{where}() was given the source {names[0]!r} twice, with and without its name")
        given[names[0]] = psets
    for name in names:
        if name not in given:
            raise StageError(f"{where}(): the source {name!r} of the pipeline {pipeline.name!r} was not given")
    whole = {other for step in pipeline.steps.values() if step.kind == "table" for other in step.after}
    sources: dict[str, PsetSource | Drawn] = {}
    columns: dict[str, Columns] = {}
    for name in names:
        if drawn and name not in whole and not is_table(given[name]):
            refuse_no_rows(given[name])
            sources[name] = Drawn(islice(iter(given[name]), limit))
        else:
            sources[name] = source = psets_of_user(given[name], limit)
            columns[name] = Columns(source.all_keys(), open=not source.count)
    pipeline.columns(columns)
    return sources
