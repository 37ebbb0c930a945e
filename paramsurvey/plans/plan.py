"""What a plan consists of: frozen facts, the `Plan` that has them all, and how it is shown."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from paramsurvey.drawing.boxes import Drawing
from paramsurvey.pictures import box_of, drawn
from paramsurvey.plans.words import readable_bytes
from paramsurvey.stages.base import Columns
from paramsurvey.stats import readable_time


@attrs.frozen
class Count:
    """How many: exactly, or within bounds; and about how many, if a sample was run.

    Parameters
    ----------
    least : int
        Not fewer.
    most : int or None
        Not more; None if that is not known.
    about : float or None
        What the sample lets expect, if the number is not exact.
    spread : float
        The standard error of that.

    Examples
    --------
    >>> print(Count(1200, 1200), Count(0, 1200), Count(3), Count(), Count(0, 1200, about=310.2), sep="; ")
    1,200; up to 1,200; 3 or more; any number; ~310
    """

    least: int = 0
    most: int | None = None
    about: float | None = None
    spread: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether it is one number."""
        return self.least == self.most

    @property
    def expected(self) -> float | None:
        """The number, or the estimate; None if there is neither."""
        return self.least if self.is_exact else self.about

    def __str__(self) -> str:
        if self.is_exact:
            return f"{self.least:,}"
        if self.about is not None:
            return f"~{self.about:,.0f}"
        if self.most is None:
            return f"{self.least:,} or more" if self.least else "any number"
        return f"{self.least:,} to {self.most:,}" if self.least else f"up to {self.most:,}"


@attrs.frozen
class Psets:
    """What was found among the psets of a source.

    Parameters
    ----------
    duplicates : int
        How many equal an earlier one, in types and values.
    example : str
        The first of them.
    uncompared : int
        How many hold something that cannot be compared, because it cannot be pickled.
    why_not : str
        Why a pset cannot be sent to another process; empty if all that were tried can.
    """

    duplicates: int = 0
    example: str = ""
    uncompared: int = 0
    why_not: str = ""


@attrs.frozen
class Calls:
    """What calling a worker takes.

    Parameters
    ----------
    count : Count
        How often.
    published : int or None
        The bytes of the worker and its ``user_kwargs``, which cross once; None if they cannot be pickled.
    why_not : str
        Why they cannot.
    task : int or None
        The bytes of a task of one row; None if its rows are not known without a sample.
    row : float or None
        The bytes of each further row of a task.
    """

    count: Count
    published: int | None
    why_not: str = ""
    task: int | None = None
    row: float | None = None


@attrs.frozen
class Timing:
    """How long the calls of a worker took in a sample, in seconds.

    Parameters
    ----------
    count : int
        How many were measured.
    mean : float
        Of one call.
    deviation : float
        How much they differ: their standard deviation.
    """

    count: int
    mean: float
    deviation: float

    @property
    def error(self) -> float:
        """The standard error of the mean; of a single call, the mean itself."""
        return self.deviation / math.sqrt(self.count) if self.count > 1 else self.mean


@attrs.frozen
class Seen:
    """What a sample has shown of a stage.

    Parameters
    ----------
    rows_in : tuple of int
        The rows that came in from each stage above; of a map stage, those that it dealt with.
    rows_out : int
        The rows that came out.
    growth : float or None
        The power of the rows that came in with which those that come out grow; None if nobody can say.
    failures : int
        How many rows have failed.
    failure : str
        Why, the first of them.
    timing : Timing or None
        The times of its worker.
    """

    rows_in: tuple[int, ...]
    rows_out: int
    growth: float | None
    failures: int = 0
    failure: str = ""
    timing: Timing | None = None


@attrs.frozen
class StagePlan:
    """What is known of a stage ahead.

    Parameters
    ----------
    name : str
        Its name in the pipeline.
    kind : {"source", "map", "rows", "table"}
        What kind of stage it is.
    after : tuple of str
        The stages whose rows it gets.
    rows : Count
        How many rows come out of it.
    columns_in : tuple of Columns
        The columns that come in from each stage above.
    columns : Columns
        Those that come out.
    psets : Psets or None
        What was found among its psets, if it is a source.
    calls : Calls or None
        What calling its worker takes, if it has one.
    seen : Seen or None
        What the sample has shown of it.
    """

    name: str
    kind: str
    after: tuple[str, ...]
    rows: Count
    columns_in: tuple[Columns, ...]
    columns: Columns
    psets: Psets | None = None
    calls: Calls | None = None
    seen: Seen | None = None


@attrs.frozen
class Eta:
    """How long a run would take, from the times of a sample.

    It is the time of all calls, shared by the slots; not less than the longest way of a single row through all stages.
    What the driver does is not in it.

    Parameters
    ----------
    seconds : float
        The estimate.
    spread : float
        Its standard error.
    without : tuple of str
        The stages that are left out, because the number or the time of their calls is not known.
    """

    seconds: float
    spread: float
    without: tuple[str, ...] = ()


@attrs.frozen
class Memory:
    """The most memory that processes had while a sample ran, in bytes, as seen ten times a second.

    It is resident memory; pages that processes share are counted in each.

    Parameters
    ----------
    driver : int
        This process.
    largest : int
        The largest of those below it: its workers, and whatever they have started.
    total : int
        All together, at one time.
    processes : int
        How many there were below this one at most.
    """

    driver: int
    largest: int
    total: int
    processes: int


@attrs.frozen
class Sample:
    """What was run to see.

    Parameters
    ----------
    source : str
        Of which source some rows were taken; others were taken whole.
    rows : int
        How many.
    of : int
        Out of how many.
    seconds : float
        How long it took, with the start of the workers.
    memory : Memory
        How much it took.
    why_ended : str
        Why it ended before its end; empty if it did not.
    """

    source: str
    rows: int
    of: int
    seconds: float
    memory: Memory
    why_ended: str = ""


@attrs.frozen
class Finding:
    """Something that is worth knowing before a run.

    Parameters
    ----------
    text : str
        What.
    stage : str
        The stage or source that it is about; may be empty.
    is_warning : bool
        Whether the run will lose something by it.
    """

    text: str
    stage: str = ""
    is_warning: bool = False


@attrs.frozen
class Plan:
    """What a run would do; `paramsurvey.plan` makes it.

    Printed, it is a table of the stages and what was found, warnings first; notebooks show it as a picture.

    Attributes
    ----------
    name : str
        The name of the pipeline.
    stages : tuple of StagePlan
        The stages, sources among them, each after those that it comes after.
    backend : str
        Who would compute.
    slots : int
        How many workers at once.
    sample : Sample or None
        What was run to see.
    eta : Eta or None
        How long a run would take, if there was a sample that told.
    findings : tuple of Finding
        What is worth knowing, warnings first.
    """

    name: str
    stages: tuple[StagePlan, ...]
    backend: str
    slots: int
    sample: Sample | None = None
    eta: Eta | None = None
    findings: tuple[Finding, ...] = ()

    def __getitem__(self, name: str) -> StagePlan:
        """Return what is known of a stage."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"there is no stage {name!r}; there are: {', '.join(repr(each.name) for each in self.stages)}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those findings by which the run would lose something."""
        return tuple(each.text for each in self.findings if each.is_warning)

    def drawing(self) -> Drawing:
        """Return a picture of it."""
        return self._drawn(self.name, lambda stage: [note for note in _notes(stage) if note])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts, lists, numbers and text, ready for JSON."""
        return attrs.asdict(self, value_serializer=_serialised)

    def __str__(self) -> str:
        table = self._drawn("", _cells).text(width=120)
        return "\n".join([self._heading(), table, *(f"{_mark(each)} {each.text}" for each in self.findings)])

    def __repr__(self) -> str:
        return f"<Plan of {self._heading()}>"

    def _repr_html_(self) -> str:
        listed = "".join(f"<li>{_mark(each)} {html.escape(each.text)}</li>" for each in self.findings)
        found = f'<ul style="list-style:none;padding-left:0">{listed}</ul>' if listed else ""
        return f"<p>{html.escape(self._heading())}</p>{self.drawing().svg()}{found}"

    def _heading(self) -> str:
        count = sum(each.kind != "source" for each in self.stages)
        slots = f"{self.slots} slot{'s' * (self.slots != 1)}"
        return f"{self.name}: {count} stage{'s' * (count != 1)} on {slots} of {self.backend}"

    def _drawn(self, title: str, notes: Callable[[StagePlan], Iterable[str]]) -> Drawing:
        warned = {each.stage for each in self.findings if each.is_warning}
        boxes = [box_of(each, notes(each), warning=each.name in warned) for each in self.stages]
        return drawn(title, boxes, self.stages)


def _serialised(_: object, field: attrs.Attribute[Any] | None, value: Any) -> Any:
    if field is not None and field.name == "names":  # those of columns may be anything
        return [name if isinstance(name, str | int | bool) else str(name) for name in value]
    return list(value) if isinstance(value, tuple) else value


def _mark(finding: Finding) -> str:
    return "!" if finding.is_warning else "-"


def _notes(stage: StagePlan) -> list[str]:
    """Return what is written into the box of a stage, a line each; some may be empty."""
    rows, *others = _cells(stage)
    known = stage.rows.is_exact or stage.rows.about is not None or rows != "any number"
    return [f"{rows} row{'s' * (stage.rows.expected != 1)}" if known else f"{rows} of rows", *others]


def _cells(stage: StagePlan) -> list[str]:
    """Return what is told of a stage in its line of a table, in columns."""
    calls, seen = stage.calls or Calls(Count(), None), stage.seen
    timing = None if seen is None else seen.timing
    return [
        str(stage.rows),
        "" if timing is None else f"{readable_time(timing.mean)} each",
        f"{seen.failures:,} failed" if seen is not None and seen.failures else "",
        "" if calls.published is None else f"{readable_bytes(calls.published)} once",
        "" if calls.task is None else f"{readable_bytes(calls.task)} a task",
        _changes(stage),
    ]


def _changes(stage: StagePlan) -> str:
    """Say which columns a stage adds and leaves out."""
    if stage.kind == "source":
        return ", ".join(map(str, stage.columns.names)) or "no columns"
    before = dict.fromkeys(name for columns in stage.columns_in for name in columns.names)
    names, is_open = stage.columns.names, stage.columns.open
    new = [str(name) for name in names if name not in before]
    if is_open and not any(columns.open for columns in stage.columns_in):
        new.append("...")
    gone = [str(name) for name in before if name not in names]
    if is_open and gone:  # nothing is known of them
        gone = []
    return " ".join(sign + ", ".join(some) for sign, some in (("+", new), ("-", gone)) if some)
