"""Sessions: a backend, options and observers that surveys share; and the one default session of the module's verbs.

Opening a session must be quick, and while pandas is being imported the guard of the local pool can start: so this
module imports nothing that imports pandas, and the methods that run surveys import what they need.
"""

from __future__ import annotations

import atexit
import inspect
import os
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakSet

from paramsurvey.backends.base import Backend, limit_of
from paramsurvey.backends.opening import checked_backend, open_backend, refuse_wrong_settings
from paramsurvey.closing import Closing
from paramsurvey.engine.pickling import IS_LOADING
from paramsurvey.errors import OptionError, SessionError, StageError
from paramsurvey.lazy import load
from paramsurvey.observers.logfile import LogFile
from paramsurvey.observers.terminal import Terminal, say
from paramsurvey.options import Options, check, resolve, unknown_variables

if TYPE_CHECKING:
    from paramsurvey.callables import Worker
    from paramsurvey.engine.dispatcher import Taken
    from paramsurvey.greedy_results import GreedyResults
    from paramsurvey.journal.ledger import Journal
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.plans.plan import Plan
    from paramsurvey.progress import MapProgress
    from paramsurvey.results import MapResults, RunResults
    from paramsurvey.runs import Run
    from paramsurvey.survey import Survey


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
        self._streams: WeakSet[_Rows] = WeakSet()
        self._log = LogFile(self._options.pslogger_prefix, self._options.pslogger_fd, quiet=self._options.verbose == 0)
        self._backend_for(self._options)
        for text in unknown_variables(os.environ):
            self._log.write(text)
            if self._options.verbose:
                say(text)
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
            return cast("MapResults", self._survey(worker, psets, options, "map").run())

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
            return cast("RunResults", self._pipeline_run(pipeline, psets, given, "run").run())

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
            return cast("GreedyResults", self._greedy_run(worker, candidates, given).run())

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
        stream = RunStream(self, self._pipeline_run(pipeline, psets, given, "stream"))
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
        stream = Stream(self, self._survey(worker, psets, options, "stream"))
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
        """Make a run of one stage."""
        options = self._resolved(given, {}, where)
        load("paramsurvey.runs")
        from paramsurvey.pipeline import SOURCE, Pipeline
        from paramsurvey.psets import psets_of_user
        from paramsurvey.stages.map import Map

        pipeline = Pipeline().add(Map(worker, name=options.name))
        source = psets_of_user(psets, options.limit)
        return self._run(pipeline, {SOURCE: source}, options, lambda _: options, only=pipeline.sinks[0])

    def _greedy_run(self, worker: Worker | Pipeline, candidates: Any, given: Mapping[str, Any]) -> Run:
        """Make a run of one stage that asks for what it needs to know."""
        load("paramsurvey.stages.greedy")
        load("paramsurvey.runs")
        from paramsurvey.pipeline import SOURCE, Pipeline
        from paramsurvey.runs import sources_of_user
        from paramsurvey.stages.greedy import told_apart

        own, others = told_apart(given, "greedy")
        options = self._resolved(others, {}, "greedy")
        pipeline = Pipeline("greedy").greedy(worker, **own)
        [name] = pipeline.sinks
        psets = pipeline.steps[name].stage.psets_of(candidates)
        sources = sources_of_user(pipeline, psets, {}, options.limit, drawn=False, where="greedy")
        return self._run(
            pipeline, {SOURCE: sources[SOURCE]}, options, lambda own: self._resolved(others, own, "greedy"), only=name
        )

    def _pipeline_run(self, pipeline: Pipeline, psets: Any, given: dict[str, Any], where: str) -> Run:
        load("paramsurvey.runs")
        from paramsurvey.pipeline import Pipeline
        from paramsurvey.runs import sources_of_user

        if not isinstance(pipeline, Pipeline):
            raise StageError(f"{where}() runs a Pipeline, not {pipeline!r}; for one function there is map()")
        if not len(pipeline):
            raise StageError(f"{where}(): the pipeline {pipeline.name!r} has no stage: add one with .map() or .add()")
        by_name = {name: given.pop(name) for name in pipeline.sources if name in given}
        keep, allow_missing = given.pop("keep", "all"), given.pop("allow_missing", False)
        if keep not in ("all", "sinks", "none"):
            raise OptionError(f"{where}(keep={keep!r}): keep must be 'all', 'sinks' or 'none'")
        options = self._resolved(given, {}, where)
        if options.name is not None:
            raise OptionError(f"{where}() has no option 'name': a pipeline has its own, and so has each of its stages")
        sources = sources_of_user(pipeline, psets, by_name, options.limit, drawn=keep == "none", where=where)
        return self._run(
            pipeline,
            sources,
            options,
            lambda own: self._resolved(given, own, where),
            keep=keep,
            allow_missing=allow_missing,
        )

    def _resolved(self, given: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Options:
        """Decide about options: those of a call, and those that a stage has of its own."""
        for name in ("pslogger_prefix", "pslogger_fd"):
            if given.get(name) is not None:
                raise OptionError(
                    f"{where}() cannot change {name}=, because the log belongs to the session: give it to init()"
                )
        options = resolve(init=self._given, call={**given, **own}, environ=os.environ, where=where)
        refuse_wrong_settings(options)
        return options

    def _run(
        self,
        pipeline: Pipeline,
        sources: Mapping[str, Any],
        options: Options,
        options_of: Callable[[Mapping[str, Any]], Options],
        **more: Any,
    ) -> Run:
        from paramsurvey.runs import Run

        backend = self._backend_for(options)
        most = limit_of(backend, options.ncores)
        self._log.open()
        terminal = Terminal(options.verbose, options.vstats, options.progress_dt, self._log.name)
        journal = None if options.journal is None else self._journal_at(options.journal)
        more |= {"deadline": options.deadline, "journal": journal, "observers": (self._log, terminal)}
        return Run(pipeline, sources, backend, most, options_of, **more)

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


class _Rows(Closing):
    """An iterator over the rows of something that runs; leaving the loop, or closing it, ends what is still running."""

    def __init__(self, session: Session, run: Run) -> None:
        self._running = run
        self._taken = self._taken_in(session)
        self._rows: Iterator[dict[Hashable, Any]] = iter(())
        self._was_cut_off = False

    def _taken_in(self, session: Session) -> Generator[Iterator[dict[Hashable, Any]], None, None]:
        with session._counted():
            for survey, taken in self._running.taken():
                yield self._rows_of(survey, taken)
        yield self._last_rows()

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:
        raise NotImplementedError

    def _last_rows(self) -> Iterator[dict[Hashable, Any]]:
        return iter(())

    def __iter__(self) -> Iterator[dict[Hashable, Any]]:
        return self

    def __next__(self) -> dict[Hashable, Any]:
        if self._was_cut_off:
            raise SessionError(
                f"this stream ended with its session, when {self.progress.finished} of {self.progress.total} psets "
                "were finished, which are in its results"
            )
        while (row := next(self._rows, None)) is None:
            with self._running.interruptible():
                self._rows = next(self._taken)
        return row

    @property
    def progress(self) -> MapProgress:
        """How far it has come, all stages together."""
        return self._running.progress

    def close(self) -> None:
        """End what is still running."""
        self._taken.close()
        self._rows = iter(())

    def end_with_session(self) -> None:
        """End what is still running, because the session ends."""
        self._was_cut_off = inspect.getgeneratorstate(self._taken) != inspect.GEN_CLOSED
        try:
            self.close()
        except ValueError:  # another thread is waiting for the next row; it will hear of the end from the backend
            pass


class Stream(_Rows):
    """The finished rows of a running survey, as dicts; `stream` makes them.

    Leaving a loop over it, or closing it, ends what is still running.

    Attributes
    ----------
    progress : MapProgress
        How far the survey has come.
    results : MapResults
        What is finished and what is missing.
    """

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:
        return (pset | answer for pset, answer in survey.rows_of(taken))

    @property
    def results(self) -> MapResults:
        """What is finished and what is missing, as `paramsurvey.map` would return it at this point."""
        return cast("MapResults", self._running.results())


class RunStream(_Rows):
    """The rows of the last stage of a running pipeline, as dicts; `stream_run` makes them.

    Leaving a loop over it, or closing it, ends what is still running.

    Attributes
    ----------
    progress : MapProgress
        How far it has come, all stages together.
    results : RunResults
        What is finished and what is missing.
    """

    def __init__(self, session: Session, run: Run) -> None:
        super().__init__(session, run)
        self._sink = run.drain()

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:  # noqa: ARG002
        return self._last_rows()

    def _last_rows(self) -> Iterator[dict[Hashable, Any]]:
        from paramsurvey.flow import advance

        while (piece := self._sink.next()) is not None or advance(self._sink.producer):
            if piece is not None:
                yield from piece.table.dicts()
        self._running.raise_failure()

    @property
    def results(self) -> RunResults:
        """What is finished and what is missing, as `paramsurvey.run` would return it at this point."""
        return cast("RunResults", self._running.results())


class _Default:
    """The one default session of the module's functions: the only state that this library keeps in a module."""

    session: Session | None = None
    lock = threading.Lock()


def _refuse_inside_an_import() -> None:
    """Keep a worker process from running a survey because it imports the module that runs it."""
    if IS_LOADING.get():
        raise SessionError(
            "a worker process has imported a module that runs a survey as soon as it is imported; put the worker into "
            'a module of its own, or what runs the survey under `if __name__ == "__main__":` or into a function'
        )


def default_session() -> Session:
    """Return the default session; open it if nobody has called `init`."""
    with _Default.lock:
        if _Default.session is None:
            _Default.session = Session()
        return _Default.session


def init(**options: Any) -> None:
    """Open the default session, with options for every survey in it.

    Calling it is not needed: `map` opens a session with the defaults. Calling it again replaces the session.

    Parameters
    ----------
    backend : str or Backend, default "multiprocessing"
        Who computes: ``"multiprocessing"`` (this machine's cores), ``"serial"`` (this process, for debuggers),
        ``"ray"`` or ``"mpi"`` (those of a cluster), the name of a backend that an installed package offers, or an
        instance.
    verbose : int, default 1
        Progress on standard error. 0: nothing; 1: every 30 seconds; 2: every second; 3: every action.
    vstats : int, default 1
        Performance statistics on standard error. 0: none; 1: every 30 seconds, unless ``verbose=0``; 2: every second
        and at the end; 3: the same, as histograms.
    limit : int, optional
        Compute only so many psets. By default, as with 0, all of them.
    ncores : int, optional
        How many cores to use, or, if negative, how many to leave unused. By default all of them. On any backend, no
        more psets run at once than that.
    max_tasks_per_child : int, optional
        After how many psets a worker process is replaced, against memory that leaks. By default never.
    **options
        All other options of `map`; also ``pslogger_prefix`` (how the name of the log file begins, by default
        ``.paramsurvey-``) and ``pslogger_fd`` (an open text stream to write to instead).

    Raises
    ------
    OptionError
        An option is unknown or impossible, or an environment variable (``PARAMSURVEY_VERBOSE`` and so on, which have
        precedence over everything) cannot be read.
    BackendError
        There is no such backend.
    SessionError
        A survey is running in the session that should be replaced.

    Examples
    --------
    >>> import paramsurvey
    >>> paramsurvey.init(backend="multiprocessing", ncores=2, verbose=0)
    >>> paramsurvey.backend()
    'multiprocessing'
    """
    with _Default.lock:
        session = Session(**options)
        try:
            if _Default.session is not None:
                _Default.session.close_if_idle("init()")
        except SessionError:
            session.close()
            raise
        _Default.session = session


def finalize() -> None:
    """Close the default session and end its processes; happens by itself when the program ends.

    Raises
    ------
    SessionError
        A survey is running in it.
    """
    with _Default.lock:
        if _Default.session is not None:
            _Default.session.close_if_idle("finalize()")
        _Default.session = None


def map(worker: Worker, psets: Any, **options: Any) -> MapResults:
    """Call a worker for every pset, in parallel, and return the table with the answers.

    Parameters
    ----------
    worker : callable
        ``worker(pset, system_kwargs, user_kwargs)``, under any names; returns a dict of answers, or None. It may be a
        lambda, a closure, a callable object, a function of a notebook. `pset` is a dict; `system_kwargs` has ``name``,
        ``raw_stats`` (for `stats.record_wallclock`), ``seed`` (63 bits that depend on ``seed=`` and the pset alone, or
        on the parameters that ``seed_by=`` names),
        ``attempt`` (1, or more if it is tried again), and ``out_subdir`` if ``out_subdirs`` was given.
    psets : list or iterator of dicts, DataFrame, or MapResults
        The parameter sets. Those of a `MapResults` are its rows with the very values that went in and came back; what
        was changed in its DataFrame since is in that DataFrame only.
    user_kwargs : object, optional
        Handed to every call; sent to the workers once. Large arrays in it are shared, not copied.
    name : str, optional
        What the survey is called; by default the worker's name.
    timeout : float, optional
        Seconds that a pset may take; then its worker process is ended, with the programs it has started.
    retries : int, default 0
        How many times a pset is tried again after its worker raised.
    retry_exceptions : exception, str or several, optional
        After which exceptions; those that derive from them are meant, too. By default after all.
    retry_timeouts : int, default 0
        How many times a pset is tried again after a time-out.
    retry_backoff : float, default 0
        Seconds before a pset is tried again for the first time; twice as many before the second, and so on.
    retry_alone : bool, default False
        Whether a pset that was killed, or raised a `MemoryError`, is run again with nothing beside it.
    deadline : float or datetime, optional
        When the whole survey ends, finished or not: after so many seconds, or then. It ends within half a second of
        that, with `DeadlinePassed`; but what the serial backend has begun, and a stage that works in this
        process, are waited for.
    on_failure : {"continue", "stop"}, default "continue"
        What follows a pset without a result.
    details : bool, default False
        Whether rows say of themselves where, when and at what cost they were computed, in further columns: ``_status``,
        ``_attempts``, ``_ends``, ``_host``, ``_pid``, ``_start`` (seconds since 1970), ``_seconds``, ``_cpu_seconds``,
        ``_memory`` (by how many bytes the process grew at most), ``_seed``, ``_stdout`` and ``_stderr``.
    capture : {"through", "tail", "files"}, optional
        What becomes of what is printed, also by C libraries and other programs: it goes where it always goes; the last
        4 KiB of each pset are kept in ``_stdout`` and ``_stderr``; or it goes to two files for each pset, in the folder
        ``NAME.output``, and those columns have their names. By default ``"tail"`` with `details`, else ``"through"``.
    seed : int, default 0
        The survey's seed.
    seed_by : column name or list of them, optional
        The parameters on which the seeds of psets depend; by default all. Psets that have the same values there have
        the same seed: common random numbers.
    journal : str or path, optional
        The file that remembers finished psets. Those that are in it, with the same code, ``user_kwargs``, ``seed``,
        ``version`` and ``depends``, are taken from it (`paramsurvey.journal`).
    version : str, optional
        Your own mark of what the answers mean: those in the journal with another one are stale.
    depends : str, path, module or several, optional
        Files whose content the answers depend on; and modules: if one is installed, by its version, else by its file.
    retry_failed : bool, default True
        Whether psets that have failed, by the journal, are tried again.
    group_size : int, optional
        How many psets travel together; by default what suits their duration.
    out_func : callable, optional
        ``out_func(user_ret, system_kwargs, user_kwargs)``, called in this process with each result as it comes;
        ``user_ret`` has the keys ``pset`` and ``result``, or ``pset``, ``exception`` and ``traceback``.
    keep_results : bool, default True
        Whether the results are kept for the table.
    chdir : str, optional
        The folder in which the workers run; by default the current one.
    out_subdirs : int, optional
        Over how many sub-folders the output of the psets is spread: ``system_kwargs["out_subdir"]`` names and makes
        one.
    progress_dt : float, optional
        Seconds between two lines of progress.
    multiprocessing, ray, mpi : dict, optional
        Settings of that backend, which the others ignore. Those of Ray are in the README, of MPI ``slots`` and
        ``driver_slots``, for `init` alone; multiprocessing has none.
    **options
        All options of `init`, with precedence over what was given there.

    Returns
    -------
    MapResults
        Results in the order of the psets; and what is missing, and why. No psets give an empty one.

    Raises
    ------
    PsetError, WorkerError, OptionError
        Before anything is computed.
    JournalError
        Another program is writing to the journal, or the file is no journal, or one of a newer version.
    Interrupted
        On Ctrl-C. It is a `KeyboardInterrupt`; its ``results`` has what was finished.
    SurveyStopped
        A pset has failed, and ``on_failure="stop"``.
    DeadlinePassed
        The ``deadline`` came first; its ``results`` has what was finished, and in ``missing`` what was not, as
        ``cancelled``.
    WorkerStartError
        The worker cannot be loaded by the worker processes.

    Examples
    --------
    >>> import paramsurvey
    >>> def area(pset, system_kwargs, user_kwargs):
    ...     return {"area": pset["width"] * pset["height"]}
    >>> psets = paramsurvey.params.product({"width": [1, 2], "height": [10, 20]})
    >>> results = paramsurvey.map(area, psets, verbose=0)
    >>> results.results
       width  height  area
    0      1      10    10
    1      1      20    20
    2      2      10    20
    3      2      20    40
    """
    return default_session().map(worker, psets, **options)


def stream(worker: Worker, psets: Any, **options: Any) -> Stream:
    """Call a worker for every pset and yield each finished row, a dict of its parameters and answers, as it comes.

    Leaving the loop ends what is still running. What is missing is in ``.results.missing`` of the stream.

    Parameters
    ----------
    worker, psets, **options
        As for `map`.

    Returns
    -------
    Stream
        An iterator of dicts.

    Examples
    --------
    >>> import paramsurvey
    >>> for row in paramsurvey.stream(lambda pset, system, user: {"b": -pset["a"]}, [{"a": 1}], verbose=0):
    ...     print(row)
    {'a': 1, 'b': -1}
    """
    return default_session().stream(worker, psets, **options)


def run(
    pipeline: Pipeline,
    psets: Any = None,
    /,
    *,
    keep: Literal["all", "sinks", "none"] = "all",
    allow_missing: bool = False,
    **given: Any,
) -> RunResults:
    """Run a pipeline and return what came of each of its stages.

    Rows go from stage to stage as they are finished; only a stage that needs its whole table waits for it.

    Parameters
    ----------
    pipeline : Pipeline
        The stages.
    psets : list or iterator of dicts, DataFrame, or MapResults, optional
        The table it begins with, if it has one source; the tables of several are given by name, as keywords.
    keep : {"all", "sinks", "none"}, default "all"
        Whether the rows of every stage are kept for the results, those of the last stages only, or none.
    allow_missing : bool, default False
        Whether every whole-table stage works on what there is if rows are missing above it. By default it refuses.
    **given
        Sources by name; and options of `paramsurvey.map`, for every map stage that has none of its own.

    Returns
    -------
    RunResults
        A mapping of the names of the stages to their results.

    Raises
    ------
    StageError
        A column that a stage needs is not there, or one that it makes is; before anything is computed.
    StageFailed
        A stage has raised, or needs its whole table and rows are missing; its ``results`` have what was finished.
    PsetError, WorkerError, OptionError, Interrupted, SurveyStopped, WorkerStartError
        As for `paramsurvey.map`.

    Examples
    --------
    >>> import paramsurvey
    >>> from paramsurvey import Pipeline
    >>> def shift(pset, system_kwargs, user_kwargs):
    ...     return {"x": pset["n"] + pset["by"]}
    >>> pipeline = Pipeline("shifts").product({"by": [10, 20]}).map(shift)
    >>> paramsurvey.run(pipeline, [{"n": 1}, {"n": 2}], verbose=0).results
       n  by   x
    0  1  10  11
    1  1  20  21
    2  2  10  12
    3  2  20  22
    """
    return default_session().run(pipeline, psets, keep=keep, allow_missing=allow_missing, **given)


def greedy(worker: Worker | Pipeline, candidates: Any, **options: Any) -> GreedyResults:
    """Pick the best of the candidates, and the best one to go with it, and so on, on all cores.

    Parameters
    ----------
    worker : callable or Pipeline
        Tells what a set is worth. Its pset has the columns of one candidate, its key under ``candidate``, and under
        ``picked`` the list of the keys of all others in the set. A pipeline of map and row-wise stages may be several
        steps of that.
    candidates : list of names, list of dicts, DataFrame, or MapResults
        Those among which is picked.
    **options
        Keywords of `stages.greedy.Greedy`: ``picks``, ``metric``, ``target``, ``budget`` and ``cost``, ``start``,
        ``lazy``, and so on; and options of `paramsurvey.map` for the evaluations, such as ``user_kwargs``, ``timeout``
        and ``retries``. ``name``, ``seed`` and ``on_failure`` are Greedy's; for the evaluations they are given as
        ``options={"seed": 1}``.

    Returns
    -------
    GreedyResults
        The picks, what they are worth, why they are no more, and the evidence.

    Raises
    ------
    StageFailed
        What is known of the candidates contradicts what was asked for, or the answers have no such metric.
    PsetError, WorkerError, OptionError
        Before anything is computed.
    Interrupted
        On Ctrl-C; its ``results`` are the `GreedyResults` with the picks until then.

    Examples
    --------
    >>> import paramsurvey
    >>> def seen(pset, system_kwargs, user_kwargs):
    ...     return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}
    >>> best = paramsurvey.greedy(seen, ["tea", "eat", "ten", "cup"], picks=2, verbose=0)
    >>> best.keys, best.value
    (['tea', 'cup'], 6)
    """
    return default_session().greedy(worker, candidates, **options)


def plan(worker: Worker | Pipeline, psets: Any = None, /, *, sample: int | None = None, **given: Any) -> Plan:
    """Tell what a survey or a run would do, before it does anything expensive.

    How many rows come out of every stage, exactly or within bounds; which columns; whether psets are there twice;
    whether worker and psets can be sent to other processes, and how many bytes they are. No worker is started unless
    there is a sample.

    Parameters
    ----------
    worker : callable or Pipeline
        What would be given to `map` or `run`.
    psets : list of dicts, DataFrame, or MapResults, optional
        As for `map` and `run`; not an iterator, which would be used up.
    sample : int, optional
        Run so many rows of the first source, evenly spread, and all of the other sources, through all stages; then the
        plan has times, numbers of rows where only bounds are known, failures, the most memory, and how long a run would
        take.
    **given
        Sources by name, and options, as for `map` and `run`. A sample calls no ``out_func``.

    Returns
    -------
    Plan
        It prints as a table and shows as a picture in notebooks; `Plan.to_dict` gives plain data.

    Raises
    ------
    StageError
        A column that a stage needs is in none of the psets, or one that it makes is there.
    PsetError, WorkerError, OptionError
        As for `map`.

    Examples
    --------
    >>> import paramsurvey
    >>> from paramsurvey import Pipeline
    >>> pipeline = Pipeline("shifts").product({"by": [10, 20]}).where("n > by").top(3, by="n")
    >>> plan = paramsurvey.plan(pipeline, [{"n": n} for n in range(30)])
    >>> print(plan)
    shifts: 3 stages on ... slots of multiprocessing
    ○ psets    source        30  n
    ● product  rows          60  +by
    ● where    rows   up to  60
    ◆ top      table  up to   3
    >>> plan["product"].rows.is_exact
    True
    """
    return default_session().plan(worker, psets, sample=sample, **given)


def backend() -> str:
    """Return the name of the default session's backend."""
    return default_session().backend


def current_core_count() -> int:
    """Return how many cores the default session's backend uses."""
    return default_session().current_core_count()


def current_resources() -> dict[str, Any]:
    """Return what the default session's backend has to compute with, e.g. ``num_cores`` and ``memory`` in bytes."""
    return default_session().current_resources()
