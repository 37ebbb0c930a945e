"""Parameter surveys of many stages: a function, a table of parameter sets, and the table back with the answers.

>>> import paramsurvey
>>> results = paramsurvey.map(lambda pset, system, user: {"square": pset["a"] ** 2}, [{"a": 3}, {"a": 4}], verbose=0)
>>> results.to_dict()
[{'a': 3, 'square': 9}, {'a': 4, 'square': 16}]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramsurvey import folders as _folders  # noqa: F401 - the first folder is the one at this import
from paramsurvey.lazy import load
from paramsurvey.version import __version__

if TYPE_CHECKING:
    from paramsurvey import errors, params, stages, stats, testing, utils, workers
    from paramsurvey.default_session import backend, current_core_count, current_resources, finalize, init
    from paramsurvey.errors import Interrupted, ParamsurveyError
    from paramsurvey.greedy_results import GreedyResults
    from paramsurvey.journal.explaining import explain
    from paramsurvey.journal.reading import open_journal
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.plans.plan import Plan
    from paramsurvey.progress import MapProgress
    from paramsurvey.results import MapResults, RunResults
    from paramsurvey.session import Session
    from paramsurvey.verbs import greedy, map, plan, run, stream

__all__ = [
    "GreedyResults",
    "Interrupted",
    "MapProgress",
    "MapResults",
    "ParamsurveyError",
    "Pipeline",
    "Plan",
    "RunResults",
    "Session",
    "__version__",
    "backend",
    "current_core_count",
    "current_resources",
    "errors",
    "explain",
    "finalize",
    "greedy",
    "init",
    "map",
    "open_journal",
    "params",
    "plan",
    "run",
    "stages",
    "stats",
    "stream",
    "testing",
    "utils",
    "workers",
]

_MODULES = frozenset({"errors", "params", "stages", "stats", "testing", "utils", "workers"})
_HOMES = {
    "explain": "journal.explaining",
    "open_journal": "journal.reading",
    "GreedyResults": "greedy_results",
    "Interrupted": "errors",
    "MapProgress": "progress",
    "MapResults": "results",
    "ParamsurveyError": "errors",
    "Pipeline": "pipeline",
    "Plan": "plans.plan",
    "RunResults": "results",
    "Session": "session",
    **dict.fromkeys(("backend", "current_core_count", "current_resources", "finalize", "init"), "default_session"),
    **dict.fromkeys(("greedy", "map", "plan", "run", "stream"), "verbs"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: worker processes need very little of it."""
    if name in _MODULES:
        return load(f"paramsurvey.{name}")
    if name in __all__:
        value = getattr(load(f"paramsurvey.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'paramsurvey' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
