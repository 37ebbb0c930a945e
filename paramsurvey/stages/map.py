"""The map stage: a worker called for every row, on the backend."""

from __future__ import annotations

import attrs

from paramsurvey.callables import Worker, as_worker, worker_name
from paramsurvey.engine.records import Work
from paramsurvey.options import Options


@attrs.frozen
class Map:
    """Calls a worker for every row of a table.

    Parameters
    ----------
    worker : callable
        ``worker(pset, system_kwargs, user_kwargs)``, which returns a dict or None. Raises `WorkerError` if it cannot
        be called so.
    options : Options
        What was decided about this stage. Without a ``name``, the stage has the worker's own.
    """

    worker: Worker = attrs.field(converter=as_worker)
    options: Options = attrs.field(factory=Options)

    @property
    def name(self) -> str:
        """What the stage is called."""
        return self.options.name or worker_name(self.worker)

    def work(self, cwd: str | None) -> Work:
        """Return what all its chunks have in common; the workers run in the folder `cwd`."""
        return Work(
            worker=self.worker,
            user_kwargs=self.options.user_kwargs,
            name=self.name,
            seed=self.options.seed,
            cwd=cwd,
            out_subdirs=self.options.out_subdirs,
        )
