"""Every exception that paramsurvey raises on purpose.

Each derives from `ParamsurveyError` and from the builtin that a careful user would have caught without knowing us.
One that ends a survey carries what was finished until then in ``results``, because somebody paid for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramsurvey.results import MapResults, RunResults


class ParamsurveyError(BaseException):
    """The root of all exceptions that paramsurvey raises on purpose.

    It derives from `BaseException`, so that `Interrupted` can be one of them without being caught by an
    ``except Exception``; all the others are `Exception` by their second parent.

    Attributes
    ----------
    results : MapResults, RunResults or None
        What was finished, if a survey had begun when it was raised.
    """

    results: MapResults | RunResults | None = None


class OptionError(ParamsurveyError, ValueError):
    """An option has an unknown name, a wrong type or an impossible value."""


class OptionTypeError(OptionError, TypeError):
    """An option has a value of the wrong type."""


class PsetError(ParamsurveyError, ValueError):
    """The psets cannot be used: not a table, not dicts, or a reserved column name."""


class WorkerError(ParamsurveyError, TypeError):
    """What was handed over as the worker cannot be used as one."""


class StageError(ParamsurveyError, ValueError):
    """A pipeline cannot be built so, or a stage cannot do its work on the rows that it got."""


class BackendError(ParamsurveyError, RuntimeError):
    """A backend is unknown, not installed, broken, or was asked for what it cannot do."""


class SessionError(ParamsurveyError, RuntimeError):
    """A session is closed, or busy with a survey while it should be replaced."""


class JournalError(ParamsurveyError, OSError):
    """A journal is another program's for now, of a newer version, or no journal at all."""


class _Ended(ParamsurveyError):
    """What ends a survey, and carries what was finished by then."""

    def __init__(self, message: str, results: MapResults | RunResults | None = None) -> None:
        super().__init__(message)
        self.results = results


class SurveyError(_Ended, RuntimeError):
    """A survey ended early; what was finished is in `results`."""


class WorkerStartError(SurveyError):
    """No worker could be started: the function or its arguments cannot be loaded there, three times running."""


class SurveyStopped(SurveyError):
    """A pset failed and ``on_failure="stop"`` was given."""


class DeadlinePassed(SurveyError):
    """The ``deadline=`` of a run has come before its end; what was finished is in `results`."""


class StageFailed(SurveyError):
    """A stage that needs its whole table cannot run, or has raised; what was finished by then is in `results`."""


class MissingPsets(SurveyError):
    """`MapResults.raise_if_missing` found missing psets."""


class Interrupted(_Ended, KeyboardInterrupt):
    """Ctrl-C ended a survey; what was finished is in `results`."""


class Terminated(_Ended, SystemExit):
    """SIGTERM ended a survey that keeps a journal; what was finished is in it, and in `results`.

    It is a `SystemExit`: a program that does not catch it ends without a word, with exit code 143.
    """

    def __init__(self, message: str, results: MapResults | RunResults | None = None) -> None:
        super().__init__(message, results)
        self.code = 128 + 15
