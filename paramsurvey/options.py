"""Every option of a survey: its name, its default, what it takes and what it means, in one table.

The table is the body of `Options`. Each line names a *kind*, and the kinds stand above it: a kind says in words what it
expects, reads a keyword's value, and, where the value can be written as text, reads that of an environment variable.
A new option is one new line of the table; its keyword, its variable ``PARAMSURVEY_<NAME>``, its checks and their
messages follow from it.

A value is looked for in the environment, then in the call, then in ``init()``, then in the table. `resolve` is the only
place that knows this order. A keyword given as ``None`` counts as not given, and so does an empty variable; an option
that a reader may want to switch off again takes 0 for that (``limit``, ``max_tasks_per_child``, ``timeout``).
"""

# ruff: noqa: RUF009 - `option` returns an attrs.field, which the rule would let pass if it saw it

from __future__ import annotations

import io
import math
import numbers
import operator
import os
import reprlib
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType, ModuleType
from typing import Any, Final, Literal

import attrs

from paramsurvey.errors import OptionError, OptionTypeError

__all__ = ["TABLE", "Option", "Options", "check", "describe", "resolve", "unknown_variables"]

PREFIX: Final = "PARAMSURVEY_"
SHOWN: Final = 60  # characters of a value in a message or in the log


# --- kinds: what an option takes ------------------------------------------------------------------


@attrs.frozen
class Kind:
    """What an option takes: in words, as the value of a keyword, and as the text of an environment variable."""

    expects: str  # completes "must be ..."
    read: Callable[[Any], Any]  # from a keyword; refuses with a TypeError or a ValueError, whose text is not used
    parse: Callable[[str], Any] | None  # from a text to what `read` takes; None: there is no environment variable
    expects_text: str  # as `expects`, of the environment variable


def kind(
    expects: str, *, parse: Callable[[str], Any] | None = None, expects_text: str = ""
) -> Callable[[Callable[[Any], Any]], Kind]:
    """Make a `Kind` of the function below it, which reads the value of a keyword."""

    def decorate(read: Callable[[Any], Any]) -> Kind:
        return Kind(expects=expects, read=read, parse=parse, expects_text=expects_text or expects)

    return decorate


def as_number(text: str) -> int | float:
    """Read a number; one without point and exponent stays exact at any length."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def as_truth(text: str) -> bool:
    """Read a truth value as people write them in shells."""
    word = text.strip().lower()
    if word not in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
        raise ValueError
    return word in {"1", "true", "yes", "on"}


def as_word(text: str) -> str:
    """Read a word of ours, however it is capitalised."""
    return text.strip().lower()


def is_truth(value: object) -> bool:
    """Tell whether this is a bool, Python's or numpy's (``numpy.bool_``, called ``numpy.bool`` since numpy 2)."""
    found = type(value)
    return found is bool or (found.__module__ == "numpy" and found.__name__ in {"bool", "bool_"})


def is_real(value: object) -> bool:
    """Tell whether this is a number on the real line, Python's or numpy's, and not a bool."""
    return isinstance(value, numbers.Real) and not is_truth(value)


def whole(value: Any) -> int:
    """Return an int for any whole number (4, 4.0, numpy's); a bool is none, since ``ncores=True`` says nothing."""
    if is_truth(value):
        raise TypeError
    try:
        return operator.index(value)
    except TypeError:
        pass  # not an integer, but perhaps a float without fraction
    if not is_real(value):
        raise TypeError
    if not math.isfinite(value) or value != int(value):
        raise ValueError
    return int(value)


def at_least(lowest: int, value: Any) -> int:
    """Return a whole number that is not below `lowest`."""
    number = whole(value)
    if number < lowest:
        raise ValueError
    return number


@kind("a whole number from 0 to 3", parse=as_number)
def level(value: Any) -> int:
    number = at_least(0, int(value) if is_truth(value) else value)  # True can only mean 1 here, and False 0
    if number > 3:
        raise ValueError
    return number


@kind("a whole number, 1 or more", parse=as_number)
def count(value: Any) -> int:
    return at_least(1, value)


@kind("a whole number, 1 or more, or 0 for all", parse=as_number)
def count_or_all(value: Any) -> int | None:
    return min(at_least(0, value), sys.maxsize) or None  # beyond that, nothing can be counted


@kind("a whole number, 1 or more, or 0 for no limit", parse=as_number)
def count_or_unlimited(value: Any) -> int | None:
    return at_least(0, value) or None


@kind("a whole number, 0 or more", parse=as_number)
def count_or_zero(value: Any) -> int:
    return at_least(0, value)


@kind("a whole number", parse=as_number)
def any_whole(value: Any) -> int:
    return whole(value)


@kind(
    "a whole number other than 0: a positive one is that many cores, a negative one that many fewer than there are",
    parse=as_number,
)
def cores(value: Any) -> int:
    number = whole(value)
    if number == 0:
        raise ValueError
    return number


def finite_seconds(value: Any) -> float:
    """Return seconds as a float, never negative, never endless."""
    if not is_real(value):
        raise TypeError
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


@kind("a finite number of seconds, 0 or more", parse=as_number)
def seconds(value: Any) -> float:
    return finite_seconds(value)


@kind("a finite number of seconds above 0, or 0 for no time-out", parse=as_number)
def seconds_or_endless(value: Any) -> float | None:
    return finite_seconds(value) or None


def as_seconds_or_moment(text: str) -> int | float | datetime:
    """Read a number of seconds, or a date and time as ISO 8601 writes them."""
    try:
        return as_number(text)
    except ValueError:
        return datetime.fromisoformat(text.strip())


@kind(
    "a finite number of seconds above 0, a datetime, or 0 for no deadline",
    parse=as_seconds_or_moment,
    expects_text="a finite number of seconds above 0, a date and time such as 2030-01-31T06:00, or 0 for no deadline",
)
def seconds_or_moment(value: Any) -> float | datetime | None:
    return value if isinstance(value, datetime) else finite_seconds(value) or None


@kind("True or False", parse=as_truth, expects_text="one of 1, 0, true, false, yes, no, on, off")
def truth(value: Any) -> bool:
    number = int(value) if is_truth(value) else whole(value)
    if number not in {0, 1}:
        raise ValueError
    return bool(number)


@kind("a text", parse=str)
def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)  # numpy's strings become Python's


def as_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name.strip() for name in text.split(","))


@kind("an exception or its name, or several", parse=as_names, expects_text="names of exceptions, with commas between")
def names_of_exceptions(value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    names = [each.__name__ if isinstance(each, type) else each for each in several]
    if not all(isinstance(name, str) for name in names):
        raise TypeError
    if not names or not all(name.replace(".", "").isidentifier() for name in names):
        raise ValueError
    return tuple(names)


@kind(
    "the name of a column, or a list of such names",
    parse=as_names,
    expects_text="names of columns, with commas between",
)
def names_of_columns(value: Any) -> tuple[Hashable, ...]:
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(name, Hashable) for name in names):
        raise TypeError
    if not names or "" in names:
        raise ValueError
    return names


@kind("the path of a folder", parse=str)
def path(value: Any) -> str:
    found = os.fsdecode(value)
    if not found:
        raise ValueError
    return found


@kind("the path of a file", parse=str)
def file_path(value: Any) -> str:
    return str(path.read(value))


@kind("'continue' or 'stop'", parse=as_word)
def continue_or_stop(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if value not in {"continue", "stop"}:
        raise ValueError
    return str(value)


@kind("'through', 'tail' or 'files'", parse=as_word)
def captures(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if value not in {"through", "tail", "files"}:
        raise ValueError
    return str(value)


@kind("the name of a backend, or a backend itself (an instance, with submit() and slots())", parse=str.strip)
def backend_or_name(value: Any) -> object:
    if isinstance(value, str):
        if not value:
            raise ValueError
        return str(value)
    if isinstance(value, type) or not all(callable(getattr(value, verb, None)) for verb in ("submit", "slots")):
        raise TypeError
    return value


@kind("a dict with strings as keys")
def settings(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    if not all(isinstance(key, str) for key in value):
        raise ValueError
    return dict(value)  # ours: what the caller does to theirs later changes nothing


@kind("a function")
def function(value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError
    return value  # type: ignore[no-any-return]  # callable() says that it is one, but not of what


@kind("the path of a file, a module, or a list of such")
def files_and_modules(value: Any) -> tuple[str | ModuleType, ...]:
    several = value if isinstance(value, list | tuple | set | frozenset) else [value]
    found = tuple(each if isinstance(each, ModuleType) else os.fsdecode(each) for each in several)
    if not all(found):
        raise ValueError
    return found


@kind("an open text stream (something with write())")
def text_stream(value: Any) -> Any:
    if isinstance(value, io.RawIOBase | io.BufferedIOBase) or not callable(getattr(value, "write", None)):
        raise TypeError
    return value  # not asked whether it is closed: a log that cannot be written must not keep a survey from running


@kind("anything")
def anything(value: Any) -> Any:
    return value


# --- the table ------------------------------------------------------------------------------------


@attrs.frozen
class Option:
    """One line of the table.

    Examples
    --------
    >>> TABLE["retries"].default, TABLE["retries"].variable
    (0, 'PARAMSURVEY_RETRIES')
    >>> TABLE["retries"].kind.expects
    'a whole number, 0 or more'
    """

    name: str
    default: Any
    kind: Kind
    meaning: str

    @property
    def variable(self) -> str | None:
        """The environment variable that overrides the option, or None if its value cannot be written as text."""
        return PREFIX + self.name.upper() if self.kind.parse else None

    def accept(self, value: Any, where: str) -> Any:
        """Return the value of a keyword as the survey will use it; `where` names the call it was given to."""
        try:
            return self.kind.read(value)
        except TypeError:
            raise OptionTypeError(f"{self._refusal(value, where)}, not {type(value).__qualname__}") from None
        except (ValueError, OverflowError):
            raise OptionError(self._refusal(value, where)) from None

    def accept_text(self, text: str) -> Any:
        """Return the value that the text of the environment variable stands for."""
        assert self.kind.parse is not None
        try:
            return self.kind.read(self.kind.parse(text))
        except (ValueError, OverflowError):
            raise OptionError(
                f"the environment variable {self.variable}={shown(text)} cannot be used: "
                f"it must be {self.kind.expects_text}"
            ) from None

    def differs(self, value: Any) -> bool:
        """Tell whether a value is not the default; by type first, because arrays and frames refuse to be compared."""
        return value is not self.default and not (type(value) is type(self.default) and value == self.default)

    def _refusal(self, value: Any, where: str) -> str:
        return f"{where}({self.name}={shown(value)}): {self.name} must be {self.kind.expects}"


def option(default: Any, kind: Kind, meaning: str) -> Any:
    """Write one line of the table; its name and its type come from the annotation in front of it."""
    return attrs.field(default=default, metadata={"line": (default, kind, meaning)})


def checked(_: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Let the constructor of `Options` refuse what the calls refuse, with the names that only it knows."""

    def with_check(field: attrs.Attribute[Any]) -> attrs.Attribute[Any]:
        line = Option(field.name, *field.metadata["line"])

        def convert(value: Any) -> Any:
            given = line.default if value is None else value
            return None if given is None else line.accept(given, "Options")  # which copies a default of {}

        return field.evolve(metadata={"option": line}, converter=convert)

    return [with_check(field) for field in fields]


@attrs.frozen(kw_only=True, field_transformer=checked)
class Options:
    """The options of one survey, each with its final value; `resolve` makes them.

    The constructor takes, checks and converts what ``init()`` and ``map()`` do, but never looks at the environment.

    Raises
    ------
    OptionError
        A value is impossible. If its type is wrong, it is an `OptionTypeError`.

    Examples
    --------
    >>> options = Options(verbose=2, limit=0, timeout=5)
    >>> options.verbose, options.limit, options.timeout, options.retries
    (2, None, 5.0, 0)
    >>> Options(verbose=7)
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: Options(verbose=7): verbose must be a whole number from 0 to 3
    """

    backend: str | object = option("multiprocessing", backend_or_name, "who computes: a name or an instance")
    verbose: int = option(1, level, "progress: 0 nothing, 1 every 30 seconds, 2 every second, 3 every action")
    vstats: int = option(1, level, "performance statistics: 0 none, up to 3 everything")
    limit: int | None = option(None, count_or_all, "compute only this many psets; 0: all of them")
    ncores: int | None = option(None, cores, "use this many cores; -1: one fewer than there are; None: all")
    max_tasks_per_child: int | None = option(None, count_or_unlimited, "psets per worker process; 0: no limit")
    group_size: int | None = option(None, count, "psets that travel together; None: as many as suits their duration")
    user_kwargs: Any = option(None, anything, "handed to the worker as its third argument")
    name: str | None = option(None, text, "what the survey is called in progress, log and system_kwargs")
    chdir: str | None = option(None, path, "the folder in which the workers run")
    out_subdirs: int | None = option(None, count, "number of folders over which the psets' output is spread")
    out_func: Callable[..., Any] | None = option(None, function, "called in the driver with each answer")
    keep_results: bool = option(True, truth, "keep the results for the table; False saves their memory")
    progress_dt: float | None = option(None, seconds, "seconds between two lines of progress; None: what verbose says")
    pslogger_prefix: str = option(".paramsurvey-", text, "how the names of log files begin")
    pslogger_fd: Any = option(None, text_stream, "an open stream that gets the log instead of a file")
    timeout: float | None = option(None, seconds_or_endless, "seconds after which a pset is given up; 0: never")
    retries: int = option(0, count_or_zero, "how many times a pset is tried again after its worker raised")
    retry_exceptions: tuple[str, ...] | None = option(
        None, names_of_exceptions, "names of the exceptions for that; None: all"
    )
    retry_timeouts: int = option(0, count_or_zero, "how many times a pset is tried again after a time-out")
    retry_backoff: float = option(0.0, seconds, "seconds before the first retry, doubled before each other")
    retry_alone: bool = option(False, truth, "run what died for memory again with nothing beside it")
    deadline: float | datetime | None = option(
        None, seconds_or_moment, "when the whole run ends, finished or not; 0: never"
    )
    on_failure: Literal["continue", "stop"] = option("continue", continue_or_stop, "what follows a failed pset")
    details: bool = option(False, truth, "rows say of themselves where, when and at what cost they were computed")
    capture: Literal["through", "tail", "files"] | None = option(
        None, captures, "what becomes of what workers print: through, tail, files; None: tail with details"
    )
    seed: int = option(0, any_whole, "the survey's seed, from which each pset gets its own")
    seed_by: tuple[Hashable, ...] | None = option(
        None, names_of_columns, "the parameters on which the seeds of psets depend; None: on all"
    )
    journal: str | None = option(None, file_path, "the file that remembers finished psets")
    version: str | None = option(None, text, "your own mark of what answers mean; others in the journal are stale")
    depends: tuple[str | ModuleType, ...] = option(
        (), files_and_modules, "files whose content, and modules whose version, the answers depend on"
    )
    retry_failed: bool = option(True, truth, "whether psets are tried again that have failed by the journal")
    multiprocessing: dict[str, Any] = option(
        {}, settings, "settings of the multiprocessing backend, which has none of its own"
    )
    ray: dict[str, Any] = option({}, settings, "settings of the Ray backend: where it is, and what tasks ask for")
    mpi: dict[str, Any] = option({}, settings, "settings of the MPI backend, for init: slots, driver_slots")


TABLE: Final[Mapping[str, Option]] = MappingProxyType(
    {field.name: field.metadata["option"] for field in attrs.fields(Options)}
)
"""The lines of the table by the name of the option, in the table's order."""

VARIABLES: Final[Mapping[str, Option]] = MappingProxyType(
    {line.variable: line for line in TABLE.values() if line.variable}
)


# --- from keywords and variables to options -------------------------------------------------------


def resolve(
    *,
    init: Mapping[str, Any],
    call: Mapping[str, Any] = MappingProxyType({}),
    environ: Mapping[str, str],
    where: str = "map",
) -> Options:
    """Decide the value of every option: the environment over the call over ``init()`` over the default.

    What was given is checked even where something else overrides it. Settings of a backend (``ray={...}``) are merged:
    the call's keys over those of ``init()``.

    Parameters
    ----------
    init : mapping
        The keywords given to ``init()``.
    call : mapping
        The keywords given to ``map()`` or its like.
    environ : mapping
        The environment, such as `os.environ`.
    where : str
        What the call is named in messages.

    Raises
    ------
    OptionError
        An option does not exist, a value is impossible, or an environment variable cannot be read.
    OptionTypeError
        A value has the wrong type.

    Examples
    --------
    >>> options = resolve(init={"verbose": 2, "limit": 5}, call={"limit": 0}, environ={"PARAMSURVEY_VERBOSE": "3"})
    >>> options.verbose, options.limit
    (3, None)
    """
    of_init, of_call = check(init, "init"), check(call, where)
    chosen = of_init | of_call | given_in(environ)
    for name in of_init.keys() & of_call.keys():
        if TABLE[name].kind is settings:
            chosen[name] = of_init[name] | of_call[name]
    return Options(**chosen)


def check(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the keywords of one call, and return those that count as given, converted.

    Parameters
    ----------
    given : mapping
        Keywords and their values; those with the value None are left out of what is returned.
    where : str
        What the call is named in messages.

    Raises
    ------
    OptionError
        An option does not exist, or a value is impossible.
    OptionTypeError
        A value has the wrong type.

    Examples
    --------
    >>> check({"ncores": 4.0, "name": None}, "init")
    {'ncores': 4}
    >>> check({"ncore": 4}, "init")
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: init() has no option 'ncore'; did you mean 'ncores'?
    """
    for name in given:
        if name not in TABLE:
            raise OptionError(f"{where}() has no option {name!r}; {nearest_or_all(name, TABLE)}")
    return {name: TABLE[name].accept(value, where) for name, value in given.items() if value is not None}


HOW_OFTEN: Final = MappingProxyType({"retry_exceptions": ("retries",), "retry_backoff": ("retries", "retry_timeouts")})
"""Options that say how psets are tried again, and those of which one has to say how often."""


def refuse_idle(
    given: Mapping[str, Any], others: Iterable[Mapping[str, Any]], environ: Mapping[str, str], where: str
) -> None:
    """Refuse what one call says of trying again if nobody says how often; 0 times is an answer.

    In ``init()`` and in the environment it may be said ahead, for the calls that do try again.

    Parameters
    ----------
    given : mapping
        The keywords of the call.
    others : iterable of mappings
        Those of other calls that have a say.
    environ : mapping
        The environment.
    where : str
        What the call is named in messages.

    Raises
    ------
    OptionError
        With the remedy.

    Examples
    --------
    >>> refuse_idle({"retry_exceptions": "OSError"}, [{"retries": 2}], {}, "map")
    >>> refuse_idle({"retry_exceptions": "OSError"}, [], {}, "map")
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: map(retry_exceptions='OSError') says nothing without retries=, because nothing is \
tried again: give retries=1 or more, or leave it out
    """
    said = {name: how_often for name, how_often in HOW_OFTEN.items() if given.get(name)}
    if not said:
        return
    calls = (given, *others)
    for name, how_often in said.items():
        variables = (PREFIX + each.upper() for each in how_often)
        if any(call.get(each) is not None for call in calls for each in how_often) or any(map(environ.get, variables)):
            continue
        needed = " or ".join(f"{each}=" for each in how_often)
        remedy = " or ".join(f"{each}=1" for each in how_often)
        raise OptionError(
            f"{where}({name}={shown(given[name])}) says nothing without {needed}, because nothing is tried again: "
            f"give {remedy} or more, or leave it out"
        )


def given_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the options that the environment sets; an empty variable sets nothing."""
    return {
        line.name: line.accept_text(environ[variable])
        for variable, line in VARIABLES.items()
        if environ.get(variable, "").strip()
    }


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Say of each variable that looks like ours and is not read why that is; one sentence each, sorted by variable.

    Examples
    --------
    >>> unknown_variables({"PARAMSURVEY_VERBOS": "3", "HOME": "/"})
    ['the environment variable PARAMSURVEY_VERBOS is not read; did you mean PARAMSURVEY_VERBOSE?']
    >>> unknown_variables({"PARAMSURVEY_VERBOSE": "3"})
    []
    """
    strange = (name for name in environ if name.startswith(PREFIX) and name not in VARIABLES)
    return [
        f"the environment variable {name} is not read; {remedy_for_variable(name)}"
        for name in sorted(strange)
        if environ[name].strip()
    ]


def remedy_for_variable(variable: str) -> str:
    """Say what the user of an unknown variable can do."""
    name = variable.removeprefix(PREFIX).lower()
    if name in TABLE and TABLE[name].variable is None:
        return f"{name} cannot be written as text: give it to init() or map()"
    return nearest_or_all(name, (line.name for line in VARIABLES.values()), lambda valid: PREFIX + valid.upper())


def nearest_or_all(name: str, valid_names: Iterable[str], written: Callable[[str], str] = repr) -> str:
    """Suggest the valid name that was probably meant, or else list all of them."""
    names = list(valid_names)
    return nearest(name, names, written) or f"there are: {', '.join(map(written, names))}"


def nearest(name: str, valid_names: Iterable[str], written: Callable[[str], str] = repr) -> str:
    """Suggest the valid name that was probably meant; an empty text if there is none like it."""
    # imported here: it is only needed by those who erred, and everybody pays for the import of this module
    from difflib import get_close_matches

    matches = get_close_matches(name.casefold(), list(valid_names), n=1)
    return f"did you mean {written(matches[0])}?" if matches else ""


# --- in words -------------------------------------------------------------------------------------


def describe(options: Options) -> str:
    """Say on one line which options differ from their defaults, in the table's order.

    Examples
    --------
    >>> describe(Options(ncores=-1, verbose=2))
    'verbose=2, ncores=-1'
    >>> describe(Options())
    'all options have their defaults'
    """
    values = ((line, getattr(options, line.name)) for line in TABLE.values())
    told = [f"{line.name}={shown(value)}" for line, value in values if line.differs(value)]
    return ", ".join(told) or "all options have their defaults"


# What reprlib leaves out to save time lies beyond the 60th character, or deeper than four levels.
abbreviate: Final = reprlib.Repr()
abbreviate.maxlevel = 4
abbreviate.maxlist = abbreviate.maxtuple = abbreviate.maxset = abbreviate.maxfrozenset = abbreviate.maxdict = 20
abbreviate.maxarray = abbreviate.maxdeque = 20
abbreviate.maxstring = abbreviate.maxlong = abbreviate.maxother = 10 * SHOWN


def shown(value: Any) -> str:
    """Return the `repr` of a value on one line of at most 60 characters, in little time and without ever raising."""
    try:
        found = abbreviate.repr(value)
    except Exception:  # noqa: BLE001 - somebody else's repr, or an int of too many digits: no reason to lose a message
        found = f"<{type(value).__qualname__}>"
    line = " ".join(part.strip() for part in found.splitlines())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
