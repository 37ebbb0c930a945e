"""What the package does, as functions: `map`, `stream`, `run`, `greedy` and `plan`, in the default session.

Each is the method of that name of a `Session`; here is what users read about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from paramsurvey.default_session import default_session

if TYPE_CHECKING:
    from paramsurvey.callables import Worker
    from paramsurvey.greedy_results import GreedyResults
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.plans.plan import Plan
    from paramsurvey.results import MapResults, RunResults
    from paramsurvey.streams import Stream


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
        ``user_ret`` has the keys ``pset`` and ``result``, or ``pset``, ``exception`` and ``traceback``. It is not
        called again after a Ctrl-C that has interrupted it.
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
