"""Sessions: a backend, options and observers that surveys share.

A session makes a `Run` of what the user asks for (`requests`) and of what its surveys share.

Opening one must be quick, and while pandas is being imported the guard of the local pool can start: so this module
imports nothing that imports pandas, and the methods that run surveys import what they need.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from paramsurvey.backends.base import Backend, limit_of
from paramsurvey.backends.opening import checked_backend, open_backend, refuse_wrong_settings
from paramsurvey.closing import Closing
from paramsurvey.engine.pickling import IS_LOADING
from paramsurvey.errors import SessionError
from paramsurvey.lazy import load
from paramsurvey.observers.logfile import LogFile
from paramsurvey.observers.terminal import Terminal, say
from paramsurvey.options import Options, check, resolve, unknown_variables

if TYPE_CHECKING:
    from paramsurvey.callables import Worker
    from paramsurvey.greedy_results import GreedyResults
    from paramsurvey.journal.ledger import Journal
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.plans.plan import Plan
    from paramsurvey.requests import Request
    from paramsurvey.results import MapResults, RunResults
    from paramsurvey.runs.run import Run
    from paramsurvey.streams import RowStream, RunStream, Stream


class Session(Closing):
    """A backend, options and observers that surveys share.

    Parameters
    ----------
    **options
        As for `init`.

    Examples
    --------
    >>> with Session(ncores=1, verbose=0) as session:
    ...     results = session.map(lambda pset, system, user: {"b": pset["a"] + 1}, [{"a": 1}])
    >>> results.to_dict()
    [{'a': 1, 'b': 2}]
    """

    def __init__(self, **options: Any) -> None:
        _refuse_inside_an_import()
        self._given = check(options, "init")
        self._options = resolve(init=self._given, environ=os.environ)
        refuse_wrong_settings(self._options)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._backends: dict[str, Backend] = {}
        self._journals: dict[str, Journal] = {}
        self._streams: WeakSet[RowStream] = WeakSet()
        self._log = LogFile(self._options.pslogger_prefix, self._options.pslogger_fd)
        self._backend_for(self._options)
        self._unknown = unknown_variables(os.environ)  # until the first survey tells of them
        atexit.register(self.close)

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend_for(self._options).name

    def map(self, worker: Worker, psets: Any, **options: Any) -> MapResults:
        """Call a worker for every pset; see `paramsurvey.map`.

        Parameters
        ----------
        worker : callable
            ``worker(pset, system_kwargs, user_kwargs)``, which returns a dict or None.
        psets : list of dicts, iterator, DataFrame or MapResults
            The parameter sets.
        **options
            Options of `paramsurvey.map`.
        """
        with self._counted():
            return cast("MapResults", _outcome_of(self._survey(worker, psets, options, "map")))

    def run(self, pipeline: Pipeline, psets: Any = None, /, **given: Any) -> RunResults:
        """Run a pipeline; see `paramsurvey.run`.

        Parameters
        ----------
        pipeline : Pipeline
            What to run.
        psets : list of dicts, iterator, DataFrame or MapResults, optional
            Of the only source; of several, each comes by its name.
        **given
            Sources by their names, and options of `paramsurvey.run`.
        """
        with self._counted():
            return cast("RunResults", _outcome_of(self._pipeline_run(pipeline, psets, given, "run")))

    def greedy(self, worker: Worker | Pipeline, candidates: Any, **given: Any) -> GreedyResults:
        """Pick the best candidate, and the best to go with it, and so on; see `paramsurvey.greedy`.

        Parameters
        ----------
        worker : callable or Pipeline
            What evaluates a candidate.
        candidates : list, DataFrame or MapResults
            What there is to choose from.
        **given
            Options of `paramsurvey.greedy`.
        """
        with self._counted():
            return cast("GreedyResults", _outcome_of(self._greedy_run(worker, candidates, given)))

    def stream_run(self, pipeline: Pipeline, psets: Any = None, /, **given: Any) -> RunStream:
        """Run a pipeline and yield the rows of its last stage, dicts, as they come.

        Parameters
        ----------
        pipeline, psets, **given
            As for `paramsurvey.run`, but that by default nothing is kept: ``keep="sinks"`` is what is yielded, so it is
            the same as ``"none"``. Psets in an iterator are then drawn from it as they are wanted.

        Raises
        ------
        StageError
            The pipeline ends in several stages.
        """
        if given.get("keep", "sinks") == "sinks":
            given["keep"] = "none"
        run = self._pipeline_run(pipeline, psets, given, "stream")
        load("paramsurvey.streams")
        from paramsurvey.streams import RunStream

        stream = RunStream(run, self._counted())
        self._streams.add(stream)
        return stream

    def plan(self, worker: Worker | Pipeline, psets: Any = None, /, *, sample: int | None = None, **given: Any) -> Plan:
        """Tell what a survey or a run would do, before it does anything expensive; see `paramsurvey.plan`.

        Parameters
        ----------
        worker : callable or Pipeline
            What would be run.
        psets : list of dicts, iterator, DataFrame or MapResults, optional
            Of the only source; of several, each comes by its name.
        sample : int, optional
            How many rows of the first source to run, to see.
        **given
            Sources by their names, and options, as for the run itself.
        """
        load("paramsurvey.plans.making")
        from paramsurvey.pipeline import Pipeline
        from paramsurvey.plans.making import check_arguments, planned
        from paramsurvey.plans.sample import options_of_sample

        names = worker.sources if isinstance(worker, Pipeline) else ()
        check_arguments({"psets": psets, **{name: given[name] for name in names if name in given}}, sample)
        if isinstance(worker, Pipeline):
            run = self._pipeline_run(worker, psets, {**given, "keep": "all"}, "plan")
        else:
            run = self._survey(worker, psets, given, "plan")
        options = options_of_sample(given)
        with self._counted():
            return planned(
                run, sample, lambda each, psets: self._pipeline_run(each, None, {**options, **psets}, "plan")
            )

    def stream(self, worker: Worker, psets: Any, **options: Any) -> Stream:
        """Call a worker for every pset and yield the rows as they finish; see `paramsurvey.stream`.

        Parameters
        ----------
        worker : callable
            ``worker(pset, system_kwargs, user_kwargs)``, which returns a dict or None.
        psets : list of dicts, iterator, DataFrame or MapResults
            The parameter sets.
        **options
            Options of `paramsurvey.map`.
        """
        run = self._survey(worker, psets, options, "stream")
        load("paramsurvey.streams")
        from paramsurvey.streams import Stream

        stream = Stream(run, self._counted())
        self._streams.add(stream)
        return stream

    def current_core_count(self) -> int:
        """Return how many cores of the backend are used."""
        there = int(self.current_resources()["num_cores"])
        limit = limit_of(self._backend_for(self._options), self._options.ncores)
        return there if limit is None else min(there, limit)

    def current_resources(self) -> dict[str, Any]:
        """Return what the backend has to compute with."""
        return self._backend_for(self._options).resources()

    def of_this_process(self) -> Session:
        """Return this session; in a fork of the process that opened it, another one with the same options."""
        return self if os.getpid() == self._owner else Session(**self._given)

    def close(self) -> None:
        """End what is running and the backends, and wait for their processes. Closing twice is allowed."""
        if os.getpid() != self._owner:  # a fork of the owner's process has no business with them
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._end()

    def close_if_idle(self, who: str) -> None:
        """Close; raises `SessionError`, which says `who` wanted it, if a survey is running.

        Parameters
        ----------
        who : str
            What asks for it, in the message.
        """
        if os.getpid() != self._owner:  # as in `close`
            return
        with self._lock:
            if self._running:
                raise SessionError(
                    f"{who}: a survey is running in the default session; call {who} when it is over (a stream is over "
                    "when its loop has ended, or after its close())"
                )
            if self._closed:
                return
            self._closed = True
        self._end()

    def _end(self) -> None:
        atexit.unregister(self.close)
        for stream in list(self._streams):
            stream.end_with_session()
        for backend in self._backends.values():
            backend.close()
        for journal in self._journals.values():
            journal.close()
        self._log.close()

    def _survey(self, worker: Worker, psets: Any, given: Mapping[str, Any], where: str) -> Run:
        load("paramsurvey.requests")
        from paramsurvey.requests import survey_request

        return self._run(survey_request(worker, psets, given, init=self._given, where=where))

    def _greedy_run(self, worker: Worker | Pipeline, candidates: Any, given: Mapping[str, Any]) -> Run:
        load("paramsurvey.requests")
        from paramsurvey.requests import greedy_request

        return self._run(greedy_request(worker, candidates, given, init=self._given))

    def _pipeline_run(self, pipeline: Pipeline, psets: Any, given: Mapping[str, Any], where: str) -> Run:
        load("paramsurvey.requests")
        from paramsurvey.requests import pipeline_request

        return self._run(pipeline_request(pipeline, psets, given, init=self._given, where=where))

    def _run(self, request: Request) -> Run:
        """Make a run of what is asked for, with a backend, a journal and observers."""
        load("paramsurvey.runs.run")
        from paramsurvey.runs.run import Run

        options = request.options
        backend = self._backend_for(options)
        self._log.quiet = options.verbose == 0
        self._log.open()
        self._tell_of_variables(options.verbose)
        return Run(
            request.pipeline,
            request.sources,
            backend,
            limit_of(backend, options.ncores),
            request.options_of,
            keep=request.keep,
            allow_missing=request.allow_missing,
            journal=None if options.journal is None else self._journal_at(options.journal),
            only=request.only,
            deadline=options.deadline,
            observers=(self._log, Terminal(options.verbose, options.vstats, options.progress_dt, self._log.name)),
        )

    def _tell_of_variables(self, verbose: int) -> None:
        """Tell of variables that nobody reads: not before a survey has said whether anything is to be printed."""
        unknown, self._unknown = self._unknown, []
        for text in unknown:
            self._log.write(text)
            if verbose:
                say(text)

    def _journal_at(self, path: str) -> Journal:
        """Return the journal in a file: one for all surveys of this session, which know of each other's rows by it."""
        load("paramsurvey.journal.ledger")
        from paramsurvey.journal.ledger import Journal

        place = os.path.realpath(path)
        with self._lock:
            return self._journals.setdefault(place, Journal(path))

    def _backend_for(self, options: Options) -> Backend:
        if not isinstance(options.backend, str):
            return checked_backend(options.backend)
        with self._lock:
            self._refuse_if_closed()
            if options.backend not in self._backends:
                self._backends[options.backend] = open_backend(options.backend, options)
            return self._backends[options.backend]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a survey as running, so that nobody closes this session under it."""
        with self._lock:
            self._refuse_if_closed()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise SessionError("this session is closed: open another with paramsurvey.Session() or paramsurvey.init()")


def _outcome_of(run: Run) -> Any:
    """Run to the end, return what came of it, and leave nothing behind that would hold its memory."""
    results = run.run()
    run.unlink()
    return results


def _refuse_inside_an_import() -> None:
    """Keep a worker process from running a survey because it imports the module that runs it."""
    if IS_LOADING.get():
        raise SessionError(
            "a worker process has imported a module that runs a survey as soon as it is imported; put the worker into "
            'a module of its own, or what runs the survey under `if __name__ == "__main__":` or into a function'
        )
