"""Pipelines: stages, and which comes after which; frozen before anything runs.

A `Pipeline` is a recipe. It is never changed: every method that adds a stage returns a new one, so the beginnings of
pipelines can be shared. What can be known before there are psets is refused by the method that would make it wrong.

Whether there are workers, and where, is none of its business: `Pipeline.run` hands it to a session.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import attrs

from paramsurvey.errors import StageError
from paramsurvey.lazy import load
from paramsurvey.options import nearest
from paramsurvey.stages.base import UNKNOWN, Columns, Forgotten, Source, columns_after, inputs_of, kind_of, listed

if TYPE_CHECKING:
    import os

    import networkx as nx

    from paramsurvey.drawing.boxes import Drawing
    from paramsurvey.fused import Call, Change, Fused
    from paramsurvey.plans.plan import Plan
    from paramsurvey.results import RunResults
    from paramsurvey.stages.base import Kind
    from paramsurvey.streams import RunStream

SOURCE = "psets"


@attrs.frozen
class Step:
    """A stage in its place.

    Parameters
    ----------
    name : str
        What it is called in this pipeline.
    stage : stage
        What it does (`paramsurvey.stages.base`).
    after : tuple of str
        The stages whose rows it gets, in this order.
    allow_missing : bool
        Whether a whole-table stage works on what there is if rows are missing above it.
    """

    name: str
    stage: Any
    after: tuple[str, ...] = ()
    allow_missing: bool = False

    @property
    def kind(self) -> str:
        """Its kind: source, map, rows or table."""
        return "source" if isinstance(self.stage, Source) else kind_of(self.stage)


class Pipeline:
    """Stages, and which comes after which.

    Parameters
    ----------
    name : str
        What it is called.
    sources : sequence of str
        The names of the tables that its runs begin with.
    steps : sequence of Step
        The stages, in any order. Usually they are added by the methods instead.

    Attributes
    ----------
    graph : networkx.DiGraph
        The stages as a frozen graph; the attribute ``stage`` of a node is what it does.

    Raises
    ------
    StageError
        A name is taken or unknown, the stages go round in a circle, one of them is no stage or comes after too many or
        too few others, or needs a column that cannot be there.

    Examples
    --------
    >>> from paramsurvey import Pipeline
    >>> def square(pset, system_kwargs, user_kwargs):
    ...     return {"square": pset["n"] ** 2}
    >>> pipeline = Pipeline("squares").map(square).where("square > 1").top(2, by="square")
    >>> run = pipeline.run([{"n": n} for n in range(5)], verbose=0)
    >>> run.results
       n  square
    0  4      16
    1  3       9
    >>> len(run["square"])
    5
    """

    def __init__(
        self, name: str = "pipeline", *, sources: Sequence[str] = (SOURCE,), steps: Iterable[Step] = ()
    ) -> None:
        if isinstance(sources, str) or not sources or not all(isinstance(each, str) and each for each in sources):
            raise StageError(f"sources={sources!r}: the sources of a pipeline are a sequence of names")
        steps = list(steps)
        named: dict[str, Step] = {}
        for step in (*(Step(source, Source(source)) for source in sources), *steps):
            if step.name in named:
                raise StageError(f"pipeline {name!r} has two stages of the name {step.name!r}: give one another name=")
            named[step.name] = step
        for step in steps:
            for other in step.after:
                if other not in named:
                    raise StageError(_unknown(step.name, other, named))
        self._set(name, {}, {}, "")
        for each in _in_order(name, named):
            self._put(each)
        self._last = steps[-1].name if steps else (sources[0] if len(sources) == 1 else "")

    def _set(self, name: str, steps: dict[str, Step], columns: dict[str, Columns], last: str) -> None:
        self.name = name
        self._steps, self._columns, self._last = steps, columns, last

    def _put(self, step: Step) -> None:
        """Add a step whose predecessors are there already."""
        if not isinstance(step.stage, Source):
            _check_place(step, self._steps)
        self._columns[step.name] = _columns_of(step, self._columns)
        self._steps[step.name] = step

    # What it is

    @property
    def steps(self) -> Mapping[str, Step]:
        """The stages by name, sources among them, each after those that it comes after."""
        return MappingProxyType(self._steps)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the tables that a run begins with."""
        return tuple(step.name for step in self._steps.values() if isinstance(step.stage, Source))

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the stages that no other comes after."""
        used = {other for step in self._steps.values() for other in step.after}
        return tuple(
            step.name for step in self._steps.values() if step.name not in used and not isinstance(step.stage, Source)
        )

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """The stages as a frozen graph; the attribute ``stage`` of a node is what it does."""
        import networkx as nx  # here, because importing it takes as long as a small survey

        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        graph.add_nodes_from((step.name, {"stage": step.stage}) for step in self._steps.values())
        graph.add_edges_from((other, step.name) for step in self._steps.values() for other in step.after)
        return nx.freeze(graph)  # type: ignore[no-any-return]

    def columns(self, given: Mapping[str, Columns] = MappingProxyType({})) -> dict[str, Columns]:
        """Tell which columns are known to come out of every stage, given those of the sources.

        Parameters
        ----------
        given : mapping of str to Columns
            The columns of sources; unknown where they are left out.

        Raises
        ------
        StageError
            A column that a stage needs cannot be there, or one that it makes is.
        """
        known: dict[str, Columns] = {}
        for step in self._steps.values():
            known[step.name] = given.get(step.name, UNKNOWN) if step.kind == "source" else _columns_of(step, known)
        return known

    def outline(self) -> Pipeline:
        """Return the same stages in the same places, without what they do: it can be pickled, and not be run."""
        outline = Pipeline.__new__(Pipeline)
        steps = {
            name: step if step.kind == "source" else attrs.evolve(step, stage=Forgotten(name, cast("Kind", step.kind)))
            for name, step in self._steps.items()
        }
        outline._set(self.name, steps, dict(self._columns), self._last)
        return outline

    def __len__(self) -> int:
        return len(self._steps) - len(self.sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}: {listed(name for name in self if name not in self.sources)}>"

    # What it is made by

    def add(
        self,
        stage: Any,
        *,
        after: str | Sequence[str] | None = None,
        name: str | None = None,
        allow_missing: bool = False,
    ) -> Pipeline:
        """Return a pipeline with one more stage, or with all those of another pipeline.

        Parameters
        ----------
        stage : stage or Pipeline
            What to add. The stages of a pipeline are added under their names with that of the pipeline and a dot in
            front; its sources become the stages of `after`.
        after : str or sequence of str, optional
            The stages, or sources, whose rows it gets; by default the one that was added last.
        name : str, optional
            What it is called here; by default its own name.
        allow_missing : bool
            Whether a whole-table stage, or those of a pipeline, work on what there is if rows are missing above. By
            default they refuse (`StageFailed`).

        Raises
        ------
        StageError
            It cannot stand there.
        """
        places = self._places(after)
        if isinstance(stage, Pipeline):
            return self._with_all_of(stage, places, name or stage.name, allow_missing)
        kind_of(stage)
        return self._with(Step(name or stage.name, stage, places, allow_missing))

    def _places(self, after: str | Sequence[str] | None) -> tuple[str, ...]:
        if after is None:
            if not self._last:
                raise StageError(
                    f"the first stage of {self.name!r} comes after several sources: say which with after=; "
                    f"there are: {listed(self.sources)}"
                )
            return (self._last,)
        places = (after,) if isinstance(after, str) else tuple(after) if isinstance(after, Iterable) else (after,)
        if not all(isinstance(each, str) for each in places):
            raise StageError(
                f"after={after!r}: it is the name of a stage, or several; there are: {listed(self._steps)}"
            )
        return places

    def _with(self, *steps: Step) -> Pipeline:
        more = Pipeline.__new__(Pipeline)
        more._set(self.name, dict(self._steps), dict(self._columns), self._last)
        for step in steps:
            if step.name in more._steps:
                raise StageError(
                    f"pipeline {self.name!r} has a stage of the name {step.name!r} already: give this one another name="
                )
            for other in step.after:
                if other not in more._steps:
                    raise StageError(_unknown(step.name, other, more._steps))
            more._put(step)
            more._last = step.name
        return more

    def _with_all_of(self, other: Pipeline, places: tuple[str, ...], prefix: str, allow_missing: bool) -> Pipeline:
        sources = other.sources
        if len(places) != len(sources):
            raise StageError(
                f"the pipeline {other.name!r} has {len(sources)} sources, {listed(sources)}, and after= names "
                f"{len(places)}: name one stage for each"
            )
        names = {name: f"{prefix}.{name}" for name in other} | dict(zip(sources, places, strict=True))
        return self._with(
            *(
                attrs.evolve(
                    step,
                    name=names[step.name],
                    after=tuple(names[each] for each in step.after),
                    allow_missing=step.allow_missing or (allow_missing and step.kind == "table"),
                )
                for step in other.steps.values()
                if step.kind != "source"
            )
        )

    def map(self, worker: Any, *, after: str | None = None, **options: Any) -> Pipeline:
        """Call a worker for every row; see `paramsurvey.map`.

        Parameters
        ----------
        worker : callable
            ``worker(pset, system_kwargs, user_kwargs)``; its answers become further columns.
        after : str, optional
            The stage whose rows it gets.
        **options
            Options of `paramsurvey.map` for this stage, with precedence over those of the run.
        """
        from paramsurvey.stages.map import Map

        return self.add(Map(worker, **options), after=after)

    def product(self, *grids: Any, infer_category: bool = False, **place: Any) -> Pipeline:
        """Make every combination of a row and the rows of a grid; see `paramsurvey.params.product`.

        Parameters
        ----------
        *grids, infer_category
            As for `paramsurvey.params.product`.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Product

        return self._add_named("product", lambda name: Product(*grids, infer_category=infer_category, name=name), place)

    def derive(
        self,
        columns: Mapping[Hashable, Any] = MappingProxyType({}),
        /,
        *,
        per_row: bool = False,
        after: str | None = None,
        **more: Any,
    ) -> Pipeline:
        """Add columns that follow from others; see `stages.rows.Derive`.

        Parameters
        ----------
        columns : mapping
            For each new column a function whose parameters are columns, or an expression such as ``"width * height"``.
        per_row : bool
            Whether the functions are called for single rows instead of whole columns.
        after : str, optional
            The stage whose rows it gets.
        **more
            Further columns, likewise.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Derive

        new = dict(columns) | cast("dict[Hashable, Any]", more)
        return self._add_named("derive", lambda name: Derive(new, per_row=per_row, name=name), {"after": after})

    def where(self, condition: Any, *, per_row: bool = False, **place: Any) -> Pipeline:
        """Keep the rows for which a condition is true; see `stages.rows.Where`.

        Parameters
        ----------
        condition : callable, str or mapping
            A function whose parameters are columns, an expression, or values by column.
        per_row : bool
            Whether a function is called for single rows instead of whole columns.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Where

        return self._add_named("where", lambda name: Where(condition, per_row=per_row, name=name), place)

    def drop(self, *names: Hashable, **place: Any) -> Pipeline:
        """Leave columns out.

        Parameters
        ----------
        *names
            Which.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Drop

        return self._add_named("drop", lambda name: Drop(*names, name=name), place)

    def keep(self, *names: Hashable, **place: Any) -> Pipeline:
        """Leave all columns out but these.

        Parameters
        ----------
        *names
            Which.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Keep

        return self._add_named("keep", lambda name: Keep(*names, name=name), place)

    def rename(self, names: Mapping[Hashable, Hashable], **place: Any) -> Pipeline:
        """Give columns other names.

        Parameters
        ----------
        names : mapping
            New names by old names.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Rename

        return self._add_named("rename", lambda name: Rename(names, name=name), place)

    def explode(self, column: Hashable, *, into: Hashable | None = None, **place: Any) -> Pipeline:
        """Make a row of every element of a list; see `stages.rows.Explode`.

        Parameters
        ----------
        column : hashable
            The column with the lists.
        into : hashable, optional
            The column of the elements; by default the same, or the keys of elements that are dicts.
        **place
            ``name`` and ``after``, as for `add`.
        """
        load("paramsurvey.stages.rows")
        from paramsurvey.stages.rows import Explode

        return self._add_named("explode", lambda name: Explode(column, into=into, name=name), place)

    def join(self, on: Any, *, after: Sequence[str], **options: Any) -> Pipeline:
        """Put the rows of two stages beside one another where columns agree; see `stages.tables.Join`.

        Parameters
        ----------
        on : column name or sequence of them
            The columns.
        after : sequence of str
            The two stages.
        **options
            ``how``, ``expect`` and ``suffixes`` of `stages.tables.Join`; ``name`` and ``allow_missing`` of `add`.
        """
        load("paramsurvey.stages.tables")
        from paramsurvey.stages.tables import Join

        place = _place_out_of(options)
        return self._add_named("join", lambda name: Join(on, **options, name=name), {"after": after, **place})

    def concat(self, *, after: Sequence[str], **place: Any) -> Pipeline:
        """Put the rows of stages under one another.

        Parameters
        ----------
        after : sequence of str
            The stages.
        **place
            ``name`` and ``allow_missing``, as for `add`.
        """
        load("paramsurvey.stages.tables")
        from paramsurvey.stages.tables import Concat

        return self._add_named("concat", lambda name: Concat(name=name), {"after": after, **place})

    def reduce(self, by: Any = None, **options: Any) -> Pipeline:
        """Make one row of every group of rows, or of all; see `stages.tables.Reduce`.

        Parameters
        ----------
        by : column name or sequence of them, optional
            What the rows of a group have in common.
        **options
            ``aggregate``, ``worker`` and ``options`` of `stages.tables.Reduce`; ``name``, ``after`` and
            ``allow_missing`` of `add`.
        """
        load("paramsurvey.stages.reduce")
        from paramsurvey.stages.reduce import Reduce

        place = _place_out_of(options)
        return self._add_named("reduce", lambda name: Reduce(by, **options, name=name), place)

    def top(self, count: int, by: Any, **options: Any) -> Pipeline:
        """Keep the best rows; see `stages.tables.Top`.

        Parameters
        ----------
        count : int
            How many.
        by : column name or sequence of them
            What makes them good.
        **options
            ``largest`` and ``within`` of `stages.tables.Top`; ``name``, ``after`` and ``allow_missing`` of `add`.
        """
        load("paramsurvey.stages.tables")
        from paramsurvey.stages.tables import Top

        place = _place_out_of(options)
        return self._add_named("top", lambda name: Top(count, by, **options, name=name), place)

    def best(self, by: Any, **options: Any) -> Pipeline:
        """Keep the best row; see `stages.tables.Best`.

        Parameters
        ----------
        by : column name or sequence of them
            What makes it good.
        **options
            As for `top`.
        """
        load("paramsurvey.stages.tables")
        from paramsurvey.stages.tables import Best

        place = _place_out_of(options)
        return self._add_named("best", lambda name: Best(by, **options, name=name), place)

    def greedy(self, worker: Any, **options: Any) -> Pipeline:
        """Pick the best of the rows, and the best one to go with it, and so on; see `paramsurvey.greedy`.

        Parameters
        ----------
        worker : callable or Pipeline
            Tells what a set is worth.
        **options
            As for `paramsurvey.greedy`; and ``name``, ``after`` and ``allow_missing`` of `add`. After two stages, the
            rows of the second are in from the start.

        Examples
        --------
        >>> def seen(pset, system_kwargs, user_kwargs):
        ...     return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}
        >>> pipeline = Pipeline(sources=("words", "read")).greedy(seen, picks=1, after=("words", "read"))
        >>> words = [{"candidate": word} for word in ("tea", "ten", "cup")]
        >>> run = pipeline.run(words=words, read=[{"candidate": "tee"}], verbose=0)
        >>> run["greedy"].keys
        ['cup']
        """
        load("paramsurvey.stages.greedy")
        from paramsurvey.stages.greedy import Greedy, told_apart
        from paramsurvey.stages.map import Map

        place = _place_out_of(options)
        own, others = told_apart(options, "greedy")
        others |= own.pop("options", {})
        Map(worker, **others)  # which refuses what no single stage can have
        return self._add_named(
            "greedy", lambda name: Greedy(worker, **own, name=name, options={"name": name, **others}), place
        )

    def apply(self, function: Callable[..., Any], **place: Any) -> Pipeline:
        """Make a table of the whole table, or of those of several stages; see `stages.tables.Apply`.

        Parameters
        ----------
        function : callable
            Of one DataFrame for each stage it comes after; returns a DataFrame.
        **place
            ``name``, ``after`` and ``allow_missing``, as for `add`.
        """
        load("paramsurvey.stages.tables")
        from paramsurvey.stages.tables import Apply

        return self.add(Apply(function, name=place.get("name")), **place)

    def _add_named(self, usual: str, make: Callable[[str], Any], place: Mapping[str, Any]) -> Pipeline:
        """Add a stage whose usual name says only what it does, and may be taken: then it is numbered."""
        name = place.get("name") or self._free_name(usual)
        return self.add(make(name), **{key: value for key, value in place.items() if key != "name"})

    def _free_name(self, name: str) -> str:
        number, free = 2, name
        while free in self._steps:
            free, number = f"{name}{number}", number + 1
        return free

    def as_worker(self) -> Fused:
        """Return it as a worker, which calls all stages for one row: wherever a worker can be given, so can a pipeline.

        Raises
        ------
        StageError
            It branches, or a stage needs a whole table, or has options that only a survey can have.
        """
        load("paramsurvey.fused")
        from paramsurvey.fused import Fused

        if len(self.sources) > 1 or len(self.sinks) != 1 or not len(self):
            raise StageError(
                f"the pipeline {self.name!r} cannot be a worker, which makes one row of one: it has "
                f"{len(self.sources)} sources and {len(self.sinks)} last stages"
            )
        steps = [step for step in self._steps.values() if not isinstance(step.stage, Source)]
        return Fused(self.name, tuple(map(self._part_of_worker, steps)))

    def _part_of_worker(self, step: Step) -> Call | Change:
        load("paramsurvey.fused")
        from paramsurvey.fused import Call, Change

        why = f"the pipeline {self.name!r} cannot be a worker, because its stage {step.name!r}"
        if step.kind == "rows":
            return Change(step.name, step.stage)
        if step.kind == "table":
            raise StageError(f"{why} needs a whole table, and a worker has one row")
        given = dict(getattr(step.stage, "given", {}))
        user_kwargs, _ = given.pop("user_kwargs", None), given.pop("name", None)
        if given or not hasattr(step.stage, "worker"):
            what = ", ".join(f"{name}=" for name in given) or "a work() of its own"
            raise StageError(f"{why} has {what}: it runs in one call with the others; give options to the whole")
        return Call(step.name, step.stage.worker, user_kwargs)

    # What can be done with it

    def run(self, psets: Any = None, /, **given: Any) -> RunResults:
        """Run it in the default session; see `paramsurvey.run`.

        Parameters
        ----------
        psets : list of dicts, iterator, DataFrame or MapResults, optional
            Of the only source; of several, each comes by its name.
        **given
            Sources by their names, and options of `paramsurvey.run`.
        """
        from paramsurvey.default_session import default_session

        return default_session().run(self, psets, **given)

    def stream(self, psets: Any = None, /, **given: Any) -> RunStream:
        """Run it in the default session and yield the rows of its last stage as they come; see `Session.stream_run`.

        Parameters
        ----------
        psets : list of dicts, iterator, DataFrame or MapResults, optional
            Of the only source; of several, each comes by its name.
        **given
            Sources by their names, and options of `paramsurvey.run`.
        """
        from paramsurvey.default_session import default_session

        return default_session().stream_run(self, psets, **given)

    def plan(self, psets: Any = None, /, **given: Any) -> Plan:
        """Tell what a run would do, before it does anything expensive; see `paramsurvey.plan`.

        Parameters
        ----------
        psets : list of dicts, iterator, DataFrame or MapResults, optional
            Of the only source; of several, each comes by its name.
        **given
            Sources by their names, and options of `paramsurvey.plan`.
        """
        from paramsurvey.default_session import default_session

        return default_session().plan(self, psets, **given)

    def drawing(self) -> Drawing:
        """Return a picture of it."""
        load("paramsurvey.pictures")
        from paramsurvey.pictures import drawing_of

        return drawing_of(self)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw it into a file.

        Parameters
        ----------
        path : str or path
            Where; its suffix decides: ``.svg``, ``.png`` (needs ``paramsurvey[plot]``) or ``.mmd`` (Mermaid).
        """
        self.drawing().save(path)

    def __str__(self) -> str:
        return self.drawing().text()

    def _repr_html_(self) -> str:
        return self.drawing().svg()


def _place_out_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take out what is meant for `Pipeline.add`."""
    return {key: options.pop(key) for key in ("name", "after", "allow_missing") if key in options}


def _columns_of(step: Step, known: Mapping[str, Columns]) -> Columns:
    if isinstance(step.stage, Source):
        return UNKNOWN
    return columns_after(step.stage, *(known[name] for name in step.after))


def _check_place(step: Step, steps: Mapping[str, Step]) -> None:
    if not isinstance(step.name, str) or not step.name:
        raise StageError(f"name={step.name!r}: the name of a stage is a text")
    kind_of(step.stage)
    least, most = inputs_of(step.stage)
    count = len(step.after)
    if count < least or (most is not None and count > most):
        wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        raise StageError(
            f"stage {step.name!r} comes after {wanted} other{'s' if wanted != '1' else ''}, and was put after {count}: "
            f"{listed(step.after)}; there are: {listed(steps)}"
        )
    if step.allow_missing and step.kind != "table":
        raise StageError(
            f"stage {step.name!r} is no whole-table stage: allow_missing= says nothing there, because rows go through "
            "it one by one"
        )


def _unknown(stage: str, other: str, steps: Iterable[str]) -> str:
    names = list(steps)
    hint = nearest(str(other), names) or f"it has: {listed(names)}"
    return f"stage {stage!r} comes after {other!r}, which this pipeline does not have; {hint}"


def _in_order(name: str, steps: Mapping[str, Step]) -> list[Step]:
    """Put every step after those that it comes after."""
    try:
        order = list(TopologicalSorter({step.name: step.after for step in steps.values()}).static_order())
    except CycleError as exc:
        circle = " -> ".join(map(repr, exc.args[1]))
        raise StageError(f"the stages of pipeline {name!r} go round in a circle: {circle}") from None
    return [steps[each] for each in order]
