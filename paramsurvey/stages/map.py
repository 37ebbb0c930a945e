"""The map stage: a worker called for every row, on the backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from paramsurvey.callables import Worker, as_worker, worker_name
from paramsurvey.engine.records import Work
from paramsurvey.errors import OptionError
from paramsurvey.options import Options, check
from paramsurvey.stages.base import Columns

OF_THE_SESSION = ("backend", "ncores", "pslogger_prefix", "pslogger_fd", "limit", "journal", "deadline")
"""Options that no single stage can have of its own."""


@attrs.frozen(init=False)
class Map:
    """Calls a worker for every row of a table.

    Parameters
    ----------
    worker : callable
        ``worker(pset, system_kwargs, user_kwargs)``, which returns a dict or None. Raises `WorkerError` if it cannot
        be called so.
    **options
        Options of `paramsurvey.map` for this stage, with precedence over those of the run. Without a ``name``, the
        stage has the worker's own.

    Raises
    ------
    OptionError
        There is no such option, its value is impossible, or it is one of the whole run.

    Examples
    --------
    >>> Map(lambda pset, system_kwargs, user_kwargs: {"b": 1}, name="one", retries=2).name
    'one'
    """

    worker: Worker = attrs.field(converter=as_worker)
    given: Mapping[str, Any]

    def __init__(self, worker: Any, **options: Any) -> None:
        for name in OF_THE_SESSION:
            if options.get(name) is not None:
                raise OptionError(f"Map({name}=...): {name} is an option of the whole run, not of one stage of it")
        self.__attrs_init__(worker, check(options, "Map"))

    @property
    def name(self) -> str:
        """What the stage is called."""
        return str(self.given.get("name") or worker_name(self.worker))

    def columns(self, rows: Columns) -> Columns:
        """Tell which columns it gives: those of its rows, and the answers, as far as the worker says what they are.

        Raises
        ------
        StageError
            One that the worker needs cannot be there, or it makes one that is.
        """
        needs, makes = getattr(self.worker, "reads", ()), getattr(self.worker, "writes", None)
        rows.need(needs, self.name)
        if makes is None:
            return rows.with_more((), open=True)
        rows.refuse(makes, self.name)
        return rows.with_more(makes)

    def work(self, name: str, options: Options, cwd: str | None) -> Work:
        """Return what all its chunks have in common, given all its options; the workers run in the folder `cwd`.

        Parameters
        ----------
        name : str
            What the stage is called in the run.
        options : Options
            All its options, those of the run among them.
        cwd : str or None
            Where the workers run; None: where they are.
        """
        return Work(
            worker=self.worker,
            user_kwargs=options.user_kwargs,
            name=name,
            seed=options.seed,
            seed_by=options.seed_by,
            cwd=cwd,
            out_subdirs=options.out_subdirs,
            retry_exceptions=options.retry_exceptions,
            details=options.details,
            capture=options.capture or ("tail" if options.details else "through"),
        )
