"""Requests: what a call of `map`, `run`, `greedy` and their kin asks for, checked before anything is opened for it.

What the user gives is sorted here: into a pipeline, its sources, and options, which also those of the session and the
environment decide about. Who computes it, where it is remembered and who is told, the session adds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.backends.opening import refuse_wrong_settings
from paramsurvey.errors import OptionError, StageError
from paramsurvey.lazy import load
from paramsurvey.options import TABLE, Options, nearest_or_all, refuse_idle, resolve
from paramsurvey.pipeline import SOURCE, Pipeline
from paramsurvey.psets import Drawn, PsetSource, psets_of_user
from paramsurvey.runs.sources import sources_of_user
from paramsurvey.stages.map import Map

if TYPE_CHECKING:
    from paramsurvey.callables import Worker
    from paramsurvey.runs.wiring import Keep


@attrs.frozen(eq=False, repr=False)
class Request:
    """What is to be run, on what, and how.

    Parameters
    ----------
    pipeline : Pipeline
        What.
    sources : mapping
        The psets by the names of the sources.
    options : Options
        Of the whole run.
    options_of : callable
        Returns the options of a map stage, given those that it has of its own.
    keep : {"all", "sinks", "none"}
        Whose rows are kept for the results.
    allow_missing : bool
        Whether all whole-table stages work on what there is if rows are missing above them.
    only : str, optional
        The stage whose results are those of the run, if not all.
    """

    pipeline: Pipeline
    sources: Mapping[str, PsetSource | Drawn]
    options: Options
    options_of: Callable[[Mapping[str, Any]], Options]
    keep: Keep = "all"
    allow_missing: bool = False
    only: str | None = None


def survey_request(
    worker: Worker, psets: Any, given: Mapping[str, Any], *, init: Mapping[str, Any], where: str
) -> Request:
    """Return the request for one map stage.

    Parameters
    ----------
    worker, psets, given
        What the user gives, the options by name.
    init : mapping
        The options with which the session was opened.
    where : str
        What the call is named in messages.
    """
    options = _resolved(given, {}, init, where)
    refuse_idle(given, [init], os.environ, where)
    pipeline = Pipeline().add(Map(worker, name=options.name))
    sources: dict[str, PsetSource | Drawn] = {SOURCE: psets_of_user(psets, options.limit)}
    return Request(pipeline, sources, options, lambda _: options, only=pipeline.sinks[0])


def greedy_request(
    worker: Worker | Pipeline, candidates: Any, given: Mapping[str, Any], *, init: Mapping[str, Any]
) -> Request:
    """Return the request for one greedy stage, which asks for what it needs to know.

    Parameters
    ----------
    worker, candidates, given
        What the user gives: keywords of the stage, and options of the surveys that it asks for, by name.
    init : mapping
        The options with which the session was opened.
    """
    load("paramsurvey.stages.greedy")
    from paramsurvey.stages.greedy import told_apart

    own, others = told_apart(given, "greedy")
    options = _resolved(others, {}, init, "greedy")
    pipeline = Pipeline("greedy").greedy(worker, **own)
    [name] = pipeline.sinks
    _refuse_idle(others, pipeline, init, "greedy")
    psets = pipeline.steps[name].stage.psets_of(candidates)
    sources = sources_of_user(pipeline, psets, {}, options.limit, drawn=False, where="greedy")
    return Request(pipeline, sources, options, lambda own: _resolved(others, own, init, "greedy"), only=name)


def pipeline_request(
    pipeline: Pipeline, psets: Any, given: Mapping[str, Any], *, init: Mapping[str, Any], where: str
) -> Request:
    """Return the request for a pipeline.

    Parameters
    ----------
    pipeline, psets, given
        What the user gives: the psets of the only source, or those of several by name, among the options.
    init : mapping
        The options with which the session was opened.
    where : str
        What the call is named in messages.
    """
    if not isinstance(pipeline, Pipeline):
        raise StageError(f"{where}() runs a Pipeline, not {pipeline!r}; for one function there is map()")
    if not len(pipeline):
        raise StageError(f"{where}(): the pipeline {pipeline.name!r} has no stage: add one with .map() or .add()")
    given = dict(given)
    by_name = {name: given.pop(name) for name in pipeline.sources if name in given}
    keep, allow_missing = given.pop("keep", "all"), given.pop("allow_missing", False)
    if keep not in ("all", "sinks", "none"):
        raise OptionError(f"{where}(keep={keep!r}): keep must be 'all', 'sinks' or 'none'")
    for name in given:
        if name not in TABLE:  # also a source may be meant
            hint = nearest_or_all(name, (*pipeline.sources, "keep", "allow_missing", *TABLE))
            raise OptionError(f"{where}() has no option {name!r}; {hint}")
    options = _resolved(given, {}, init, where)
    if options.name is not None:
        raise OptionError(f"{where}() has no option 'name': a pipeline has its own, and so has each of its stages")
    _refuse_idle(given, pipeline, init, where)
    sources = sources_of_user(pipeline, psets, by_name, options.limit, drawn=keep == "none", where=where)
    return Request(
        pipeline,
        sources,
        options,
        lambda own: _resolved(given, own, init, where),
        keep=keep,
        allow_missing=allow_missing,
    )


def _resolved(given: Mapping[str, Any], own: Mapping[str, Any], init: Mapping[str, Any], where: str) -> Options:
    """Decide about options: those of a call, and those that a stage has of its own."""
    for name in ("pslogger_prefix", "pslogger_fd"):
        if given.get(name) is not None:
            raise OptionError(
                f"{where}() cannot change {name}=, because the log belongs to the session: give it to init()"
            )
    options = resolve(init=init, call={**given, **own}, environ=os.environ, where=where)
    refuse_idle(own, [given, init], os.environ, "Map")
    refuse_wrong_settings(options)
    return options


def _refuse_idle(given: Mapping[str, Any], pipeline: Pipeline, init: Mapping[str, Any], where: str) -> None:
    """Refuse what a call says of trying again, or one of the stages that call or ask, if neither says how often."""
    found = (getattr(step.stage, name, None) for step in pipeline.steps.values() for name in ("given", "options"))
    of_stages = [own for own in found if isinstance(own, Mapping)]
    refuse_idle(given, [init, *of_stages], os.environ, where)
    for own in of_stages:
        refuse_idle(own, [init, given], os.environ, "Map")
