"""A run: a pipeline being executed, in one thread, that of whoever wants its rows.

`Run` owns the nodes: a `Survey` for every map stage, and what `flow` has for the others. The loop tells it what has
come back; it has the survey take note, moves rows on, and sees what that makes possible: a stage comes to its end, a
whole-table stage has its tables, a survey that such a stage asks for can begin.

A whole-table stage that must not run, because rows are missing above it, does not keep the others from going on;
`StageFailed` is raised when they have. A stage that raises ends the run at once, with what was finished.

It stands above the surveys, and below the session that opens backends and observers: it alone knows all stages at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from paramsurvey.asking import Asked
from paramsurvey.engine.dispatcher import Lost, Taken
from paramsurvey.engine.loop import InterruptReceived, Lane, Loop, Over, TimeIsUp
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import (
    BackendError,
    DeadlinePassed,
    Interrupted,
    ParamsurveyError,
    StageError,
    StageFailed,
    SurveyStopped,
    Terminated,
    WorkerStartError,
)
from paramsurvey.flow import (
    Arrivals,
    Cursor,
    Direct,
    DrawnNode,
    Edge,
    Feed,
    Node,
    RowNode,
    Settled,
    StepNode,
    WholeNode,
    edge_from,
    in_order,
    push,
    settled,
    work_off,
)
from paramsurvey.interrupts import ctrl_c_calls, sigterm_calls
from paramsurvey.lazy import load
from paramsurvey.observers.events import Event, JournalSpoke, Observer, StageToldSoFar
from paramsurvey.options import Options, shown
from paramsurvey.progress import MapProgress
from paramsurvey.psets import Drawn, PsetSource, WholeTable, psets_of_user
from paramsurvey.stages.base import Answers, Ask, Columns, Forgotten, Made, conversation, listed
from paramsurvey.survey import OUT_FUNC, Survey

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend
    from paramsurvey.journal.ledger import Journal, Ledgers
    from paramsurvey.pipeline import Pipeline, Step
    from paramsurvey.results import Losses, MapResults, Origins, RunResults
    from paramsurvey.stages.base import TableStage
    from paramsurvey.tables import Table

Keep: TypeAlias = Literal["all", "sinks", "none"]
"""Whether the rows of every stage are kept for the results, or those of the last ones, or none."""


MOST_IDLE = 8
"""So many surveys with nothing under way are kept open for a stage that asks one worker after the other."""


@attrs.define(eq=False, repr=False)
class TableNode(WholeNode):
    """A whole-table stage in a run: it waits for its tables, then it talks, and in the end it has one of its own.

    Attributes
    ----------
    origins : tuple of arrays or None
        For each of its producers, the place of every row's parent in that one's table.
    refused : str
        Why it did not run.
    shown : object
        What it wants to be shown instead of its table.
    talk : generator
        The conversation with the stage, as long as it lasts.
    asked : list of (Ask, Survey)
        The surveys that it has asked for and that are open, with an ask of each; the last used is the last.
    """

    stage: TableStage
    producers: tuple[Node, ...]
    allow_missing: bool
    rank: int
    origins: Any = attrs.field(default=None, init=False)
    refused: str = attrs.field(default="", init=False)
    shown: Any = attrs.field(default=None, init=False)
    talk: Generator[Ask, Any, Any] | None = attrs.field(default=None, init=False)
    asked: list[tuple[Ask, Survey]] = attrs.field(factory=list, init=False)
    so_far: str = attrs.field(default="", init=False)  # as it has said
    surveys: int = attrs.field(default=0, init=False)  # that it has asked for so far

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to what it has asked."""
        return bool(self.asked) and self.asked[-1][1].is_answered


@attrs.define(eq=False, repr=False)
class Run:
    """A pipeline being executed.

    Parameters
    ----------
    pipeline : Pipeline
        What.
    psets : mapping
        The psets by the names of the sources.
    backend : Backend
        Who computes.
    most : int or None
        How many chunks may run at once, if the user has said so; None: as many as the backend has room for.
    options_of : callable
        Returns the options of a map stage, given those that it has of its own.
    keep : {"all", "sinks", "none"}
        Whose rows are kept for the results.
    allow_missing : bool
        Whether all whole-table stages work on what there is if rows are missing above them.
    journal : Journal, optional
        What remembers finished rows.
    only : str, optional
        The stage whose `MapResults`, or whatever it shows, are the results of the run; by default there is a
        `RunResults` of all.
    deadline : float, datetime or None
        When it ends, finished or not: so many seconds after its beginning, or then.
    observers : sequence of Observer
        Who is told.
    """

    pipeline: Pipeline
    psets: Mapping[str, Any]
    backend: Backend
    most: int | None
    options_of: Callable[[Mapping[str, Any]], Options]
    keep: Keep = "all"
    allow_missing: bool = False
    journal: Journal | None = None
    only: str | None = None
    deadline: float | datetime | None = None
    observers: Sequence[Observer] = ()
    nodes: dict[str, Node] = attrs.field(factory=dict, init=False)
    _loop: Loop = attrs.field(init=False)
    _sheltered: bool = attrs.field(default=False, init=False)  # no KeyboardInterrupt can strike the loop
    _surveys: dict[Lane, Survey] = attrs.field(factory=dict, init=False)  # that have begun and are not over
    _tables: list[TableNode] = attrs.field(factory=list, init=False)  # that have not made theirs
    _below: dict[int, list[Survey]] = attrs.field(factory=dict, init=False)  # surveys that pull what a node gives
    _pushed: dict[int, list[RowNode]] = attrs.field(factory=dict, init=False)  # row-wise stages that nobody pulls
    _waiting: dict[int, list[Survey]] = attrs.field(factory=dict, init=False)  # for a table to read directly
    _asked: list[Survey] = attrs.field(factory=list, init=False)
    _stopped: Survey | None = attrs.field(default=None, init=False)  # whose failure ends the run
    _has_room: list[Node] = attrs.field(factory=list, init=False)
    _to_prepare: list[PsetSource] = attrs.field(factory=list, init=False)
    _is_pulled_by_a_stream: bool = attrs.field(default=False, init=False)  # it has no map stage
    _was_terminated: bool = attrs.field(default=False, init=False)  # by SIGTERM
    _failure: tuple[str, BaseException] | None = attrs.field(default=None, init=False)  # the stage that raised
    _ledgers: Ledgers | None = attrs.field(default=None, init=False)  # while the journal is held

    def __attrs_post_init__(self) -> None:
        self._loop = Loop(
            self.backend, self.most, lambda: self._sheltered, self._prepare, self._deliver, time.monotonic
        )
        _Assembly(self).assemble()

    @property
    def slots(self) -> int:
        """How many chunks may run at once, as things are."""
        return self._loop.room

    # What it is asked for

    def run(self) -> Any:
        """Run to the end and return what came of it."""
        with self.interruptible():
            for _ in self.taken():
                pass
        return self.results()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While rows are waited for, have Ctrl-C end the run and not strike in the middle of something."""
        users = OUT_FUNC | STAGES
        if self.journal is not None:
            from paramsurvey.journal.ledger import PRINTS

            users |= PRINTS
        with ctrl_c_calls(self._loop.interrupt, users) as sheltered, self._sigterm_heeded(users):
            self._sheltered = sheltered
            try:
                yield
            finally:
                self._sheltered = False

    def _sigterm_heeded(self, users: frozenset[CodeType]) -> AbstractContextManager[None]:
        """With a journal, have SIGTERM end the run like Ctrl-C, with what is finished, and not at once."""
        return nullcontext() if self.journal is None else sigterm_calls(self._terminate, users)

    def _terminate(self) -> None:
        self._was_terminated = True
        self._loop.interrupt()

    def _when_it_ends(self) -> float | None:
        """Return its deadline by the loop's clock."""
        if self.deadline is None:
            return None
        seconds = self.deadline.timestamp() - time.time() if isinstance(self.deadline, datetime) else self.deadline
        return time.monotonic() + seconds

    def taken(self) -> Iterator[tuple[Survey, Taken]]:
        """Yield what has come back, as it comes; it is kept as far as it should be.

        Raises
        ------
        Interrupted, Terminated, DeadlinePassed, SurveyStopped, StageFailed, WorkerStartError
            With what was finished until then in `results`.
        """
        reason = "left"
        self._loop.deadline = self._when_it_ends()
        try:
            with self._journal_held():
                for survey in self.surveys:
                    self._publish(survey)
                yield from self._drive()
            reason = ""
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, ParamsurveyError) and exc.results is None:  # the backend has broken, for instance
                exc.results = self.results()
            raise
        except (KeyboardInterrupt, Terminated) as exc:
            reason = "terminated" if isinstance(exc, Terminated) else "interrupted"
            raise
        finally:
            for survey in self.surveys:
                survey.end(reason)

    @contextmanager
    def _journal_held(self) -> Iterator[None]:
        """Hold the journal, if there is one, and if it can be used."""
        if self.journal is None:
            yield
            return
        load("paramsurvey.journal.ledger")
        from paramsurvey.journal.ledger import Ledgers

        say = self._say_of_journal
        with self.journal.held(say) as is_usable:
            self._ledgers = Ledgers(self.journal, say) if is_usable else None
            yield

    def _say_of_journal(self, text: str, verbose: int = 1) -> None:
        self.tell(JournalSpoke(text, verbose))

    @property
    def surveys(self) -> list[Survey]:
        """The map stages, and what whole-table stages have asked for."""
        return [*(node for node in self.nodes.values() if isinstance(node, Survey)), *self._asked]

    # Its course

    def _drive(self) -> Iterator[tuple[Survey, Taken]]:
        news = self._loop.run()
        try:
            self._begin()
            for item in news:
                if self._has_room:
                    self._use_room()
                if item is None:
                    self._nothing_has_come()
                    continue
                lane, what = item
                survey = self._surveys[lane]
                if isinstance(what, Over):
                    self._over(survey, what)
                    continue
                self._take_note(survey, what)
                if isinstance(what, Taken):
                    yield survey, what
            self._loop.raise_if_interrupted()  # too late to strike
            self._check_that_all_is_over()
        except (InterruptReceived, KeyboardInterrupt) as exc:
            news.close()
            self._bring_in()
            if (stop := self._stop()) is not None:
                raise stop from None
            if self._failure is not None:
                raise self._failed(*self._failure) from self._failure[1]
            if isinstance(exc, TimeIsUp):
                raise self._too_late() from None
            raise self._interrupted() from (exc if isinstance(exc, KeyboardInterrupt) else None)
        finally:
            news.close()
            self._bring_in()
        if refused := [node for node in self.nodes.values() if isinstance(node, TableNode) and node.refused]:
            raise StageFailed(refused[0].refused, self.results())

    def _begin(self) -> None:
        for survey in self.surveys:
            if survey.arrivals is not None:
                self._open(survey, survey.arrivals)
        for node in list(self.nodes.values()):
            if isinstance(node, WholeNode) and not isinstance(node, TableNode):
                self._has_table(node)
            elif isinstance(node, DrawnNode):
                self._moved(node)
        self._work_on_tables()

    def _publish(self, survey: Survey) -> None:
        if self._ledgers is not None:
            self._ledgers.reach(survey.stage.worker, survey.options)
        survey.publish()

    def _open(self, survey: Survey, feed: Feed) -> None:
        ledger = None if self._ledgers is None else self._ledgers.of(survey.name, survey.stage.worker, survey.options)
        lane = survey.begin(feed, ledger, partial(self._come_back, survey))
        self._surveys[lane] = survey
        self._pushed.setdefault(id(survey), [])
        self._loop.add(lane)

    def _check_that_all_is_over(self) -> None:
        """Rows that were left lying somewhere must not be lost in silence, whatever has gone wrong here."""
        if self._is_pulled_by_a_stream:
            return
        left = [node.name for node in self.nodes.values() if not (node.is_over or isinstance(node, DrawnNode))]
        if left:
            raise BackendError(f"the run has stopped before stage {left[0]!r} was over; this is a bug in paramsurvey")

    def _nothing_has_come(self) -> None:
        for survey in self._surveys.values():
            survey.tell_progress()

    def _take_note(self, survey: Survey, what: Taken | Lost) -> None:
        survey.note(what if isinstance(what, Taken) else survey.remembered_lost(what))
        if survey.sieve is not None and survey.lane is not None:
            self._loop.stir(survey.lane)  # more may be known
        if survey.stop is not None:
            self._stopped = survey
            self._loop.interrupt()
        if self._pushed[id(survey)]:
            push(self._pushed[id(survey)])
        survey.tell_progress()
        if survey.is_answered:
            self._work_on_tables()

    def _over(self, survey: Survey, news: Over) -> None:
        assert survey.lane is not None
        del self._surveys[survey.lane]
        if news.is_stuck:
            raise WorkerStartError(
                f"{survey.name}: the worker cannot be started ({survey.start_error}); "
                "what it needs must be importable by the worker processes",
                self._last_results(),
            )
        survey.end("")
        if survey.is_asked:
            survey.forget()
        self._moved(survey)
        self._work_on_tables()

    def _moved(self, node: Node) -> None:
        """Something has come out of a node, or it is over: have those below look."""
        push(self._pushed.get(id(node), ()))
        self.stir_below(node)

    def _deliver(self, lane: Lane, taken: Taken) -> list[Taken]:
        """Have finished rows remembered before they are shown to anybody, and send them on."""
        survey = self._surveys[lane]
        pieces = list(survey.remembered(taken))
        if survey.outputs:
            for piece in pieces:
                survey.deliver(piece)
            self.stir_below(survey)
        return pieces

    def _come_back(self, survey: Survey, taken: Taken) -> None:
        """Rows are in the journal."""
        assert survey.lane is not None
        if survey.outputs:
            survey.deliver(taken)
            self.stir_below(survey)
        self._loop.announce(survey.lane, taken)

    def _note_room(self, node: Node) -> None:
        """An edge from a node is no longer full: those below may go on.

        This is called in the middle of somebody's step, so row-wise stages have to wait until that is done.
        """
        self.stir_below(node)
        if isinstance(node, Survey) and node.sieve is not None and node.lane is not None:
            self._loop.stir(node.lane)
        if self._pushed[id(node)]:
            self._has_room.append(node)

    def _use_room(self) -> None:
        nodes, self._has_room = dict.fromkeys(map(id, self._has_room)), []
        for node in nodes:
            push(self._pushed[node])

    def stir_below(self, node: Node) -> None:
        """Have the surveys look that pull what a node gives."""
        for survey in self._below.get(id(node), ()):
            if survey.lane is not None:
                self._loop.stir(survey.lane)

    def fail(self, name: str, exc: BaseException) -> None:
        """A row-wise stage has raised: have the loop bring in what is finished, and end."""
        if self._failure is None:
            self._failure = name, exc
        self._loop.interrupt()

    def _has_table(self, node: WholeNode) -> None:
        """A source or a whole-table stage has its table, or will never have one."""
        node.is_over = True
        for survey in self._waiting.get(id(node), ()):
            if node.psets is not None:
                self._open(survey, Direct(node.psets))
            else:
                survey.end("")
                self._moved(survey)
        self._moved(node)

    def _work_on_tables(self) -> None:
        """Have the whole-table stages begin whose tables are complete, and tell those that asked what has come."""
        progress = True
        while progress and not self._loop.is_interrupted:
            progress = False
            for node in list(self._tables):
                if node.talk is None and all(each.is_over for each in node.producers):
                    self._begin_table(node)
                    progress = True
                elif node.is_answered:
                    self._continue(node, node.asked[-1][1].answer())
                    progress = True

    def _begin_table(self, node: TableNode) -> None:
        node.refused = self._why_refused(node)
        if node.refused:
            self._tables.remove(node)
            self._has_table(node)
            return
        order = self._settled()
        tables = [self._table_of(producer, order)[0] for producer in node.producers]
        node.talk = conversation(node.stage, tables)
        self._continue(node, None)

    def _continue(self, node: TableNode, told: MapResults | Answers | None) -> None:
        """Tell a whole-table stage what it wanted to know; see what it wants next, or what it has made."""
        assert node.talk is not None
        try:
            ask = node.talk.send(told)
        except StopIteration as stop:
            self._tables.remove(node)
            for _, survey in node.asked:
                self._close(survey)
            self._take_outcome(node, stop.value)
            self._has_table(node)
        except Exception as exc:
            raise self._failed(node.name, exc) from exc
        else:
            self._ask(node, ask)

    def _ask(self, node: TableNode, ask: Ask) -> None:
        if not isinstance(ask, Ask):
            raise self._failed(
                node.name, StageError(f"it yielded {safe_repr(ask)[:80]}: a stage yields Ask(worker, psets)")
            )
        if ask.so_far and ask.so_far != node.so_far:
            node.so_far = ask.so_far
            self.tell(StageToldSoFar(node.name, ask.so_far))
        known = next((pair for pair in reversed(node.asked) if pair[0].is_of_one_survey_with(ask)), None)
        if known is not None and ask.waits_only:
            node.asked.remove(known)
            node.asked.append(known)
            known[1].wait_for_first()
            return
        try:
            psets = psets_of_user(ask.psets, None)
            survey = self._asked_for(node, ask) if known is None else known[1]
        except Exception as exc:
            raise self._failed(node.name, exc) from exc
        if known is None:
            self._asked.append(survey)
            self._open(survey, Asked.of(psets, ask.until))
            self._close_what_is_idle(node)
        else:
            node.asked.remove(known)
            survey.ask(psets, ask.until)
            assert survey.lane is not None
            self._loop.stir(survey.lane)
        node.asked.append((ask if known is None else known[0], survey))

    def _asked_for(self, node: TableNode, ask: Ask) -> Survey:
        """Return a new survey for what a stage asks, whose worker is where it will be needed."""
        from paramsurvey.stages.map import Map

        node.surveys += 1
        stage = Map(ask.worker, **{"name": f"{node.name} {node.surveys}", **ask.options})
        options = self.options_of(stage.given)
        survey = Survey(stage.name, stage, options, self.backend, self.slots, self.tell, node.rank, self.most)
        self._publish(survey)
        return survey

    def _close_what_is_idle(self, node: TableNode) -> None:
        """Close the surveys that a stage has not used for long, if it always asks for others."""
        idle = [pair for pair in node.asked if pair[1].is_idle]
        for pair in idle[: max(0, len(idle) - MOST_IDLE)]:
            node.asked.remove(pair)
            self._close(pair[1])

    def _close(self, survey: Survey) -> None:
        """Have a survey that was asked for end; nobody wants to know what has not come of it yet."""
        if survey.lane is not None:
            self._loop.drop(survey.lane)

    def _take_outcome(self, node: TableNode, outcome: Any) -> None:
        from paramsurvey.tables import table_of

        try:
            if isinstance(outcome, Made):
                table, node.origins, node.shown = outcome.table, outcome.parents, outcome.shown
            else:
                table = table_of(outcome)
        except Exception as exc:
            what = f"it returned the {type(outcome).__name__} {safe_repr(outcome)[:80]}, which is no table"
            raise self._failed(node.name, StageError(f"{what}: {exc}")) from exc
        node.psets = WholeTable(table)

    def _let_stages_end(self) -> None:
        """Now that the run ends before its time, take what whole-table stages have that are in the middle of asking."""
        tables, self._tables = self._tables, []
        for node in tables:
            if node.talk is None or not node.asked:
                continue
            try:
                node.talk.throw(GeneratorExit())
            except StopIteration as stop:
                self._take_outcome(node, stop.value)
            except (Exception, GeneratorExit):  # noqa: BLE001, S110 - the run ends for another reason, which is told
                pass

    def _why_refused(self, node: TableNode) -> str:
        if above := [each for each in node.producers if isinstance(each, TableNode) and each.psets is None]:
            return f"stage {node.name!r} has not run, because {above[0].name!r} has not"
        if node.allow_missing or self.allow_missing:
            return ""
        for survey in self._above(node):
            if missing := survey.missing():
                first = missing[0].failure
                rows = "1 row is" if len(missing) == 1 else f"{len(missing)} rows are"
                return (
                    f"stage {node.name!r} needs its whole table, and {rows} missing in "
                    f"{survey.name!r} above it, the first: {first.text}; with allow_missing=True it runs on what "
                    "there is"
                )
        return ""

    def _above(self, node: TableNode) -> list[Survey]:
        """Return the surveys whose losses the tables of a node show: those up to other whole-table stages."""
        found: dict[str, Survey] = {}
        steps, pending = self.pipeline.steps, list(self.pipeline.steps[node.name].after)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or isinstance(above := self.nodes[name], TableNode):
                continue
            seen.add(name)
            if isinstance(above, Survey):
                found[name] = above
            pending += steps[name].after
        return [found[name] for name in steps if name in found]

    def _failed(self, name: str, exc: BaseException) -> StageFailed:
        text = str(exc) if isinstance(exc, ParamsurveyError) else f"it raised {type(exc).__name__}: {exc}"
        text = text if repr(name) in text else f"stage {name!r}: {text}"
        return StageFailed(text, self._last_results())

    def _last_results(self) -> Any:
        """Return what is finished and what is missing, now that the run ends before its time."""
        self._let_stages_end()
        return self.results()

    # What came of it

    def results(self) -> Any:
        """Return what is finished and what is missing, as far as it has come."""
        load("paramsurvey.results")
        node = None if self.only is None else self.nodes[self.only]
        if isinstance(node, Survey):
            return node.results()
        if isinstance(node, TableNode) and node.shown is not None:
            return node.shown
        return self._run_results()

    def _run_results(self) -> RunResults:
        from paramsurvey.results import Losses, Origins, RunResults

        order = self._settled()
        found: dict[str, Any] = {}
        origins: dict[str, Origins] = {}
        losses: dict[str, Losses] = {}
        shown: dict[str, Any] = {}
        for name, step in self.pipeline.steps.items():
            node = self.nodes[name]
            table, numbers = self._table_of(node, order) if node.holds or isinstance(node, WholeNode) else (None, None)
            origins[name] = Origins(table, numbers, self._ways_up(node), step.after)
            if isinstance(node, Survey):
                results = node.results(order[name])
                if table is not None and not table.count:
                    results.table = table
                above = [losses[other] for other in step.after if other in losses]
                found[name] = results.with_upstream(above)
                losses[name] = Losses.of(results, above)
            elif step.kind == "rows":
                losses[name] = Losses.of(None, [losses[other] for other in step.after if other in losses])
            if step.kind in ("rows", "table") and node.holds:
                found[name] = table
                if isinstance(node, TableNode) and node.shown is not None:
                    shown[name] = node.shown
        return RunResults(self.pipeline, found, origins, [survey.progress for survey in self._asked], shown)

    @staticmethod
    def _ways_up(node: Node) -> tuple[Any, ...]:
        """Return for each producer of a node the number there of every row's parent; None if it is the same."""
        if isinstance(node, TableNode):
            return node.origins or ()
        if isinstance(node, WholeNode | DrawnNode) or not node.tracks:
            return ()
        if isinstance(node, Survey) and node.arrivals is None:
            return (None,)
        return (node.parent_numbers(),)

    def _settled(self) -> dict[str, Settled]:
        """Settle the order of what every node has given so far."""
        order: dict[str, Settled] = {}
        for name, step in self.pipeline.steps.items():
            node = self.nodes[name]
            if isinstance(node, WholeNode):
                order[name] = self._labelled(node)
            elif isinstance(node, DrawnNode) or not node.tracks:
                order[name] = Settled()
            elif isinstance(node, Survey) and node.arrivals is None:
                order[name] = order[step.after[0]]
            else:
                keeps = isinstance(node, Survey) or bool(getattr(step.stage, "keeps_labels", False))
                order[name] = settled(node, order[step.after[0]], keeps_labels=keeps)
        return order

    @staticmethod
    def _labelled(node: WholeNode) -> Settled:
        """Return the order of a whole table: as it stands, with its labels."""
        return Settled(None, node.psets.table().index) if isinstance(node.psets, WholeTable) else Settled()

    def _table_of(self, node: Node, order: Mapping[str, Settled]) -> tuple[Table, Any]:
        """Return what has come out of a node, in its final order, and the numbers of the rows."""
        import numpy as np

        if isinstance(node, Survey):
            table, numbers = node.output(order.get(node.name))
            return (table if table.count or node.arrivals is None else self._without_rows(node.name)), numbers
        if isinstance(node, StepNode):
            made = getattr(node.stage, "makes", ()) if isinstance(node, RowNode) else ()
            numbers = np.arange(node.count, dtype=np.int64)
            if not node.count:
                return self._without_rows(node.name), numbers
            return in_order(node.rows(), numbers, order[node.name], [node.shapes()], made)
        assert isinstance(node, WholeNode)
        if node.psets is None:
            from paramsurvey.tables import Table

            return Table((), [], 0), np.empty(0, np.int64)
        table = node.psets.table()
        return table, np.arange(table.count, dtype=np.int64)

    def _without_rows(self, name: str) -> Table:
        """Return a table of no rows with the columns that a stage is known to have, however rows were cut above it."""
        from paramsurvey.tables import Table

        sources = (node for node in self.nodes.values() if type(node) is WholeNode and node.psets is not None)
        given = {node.name: Columns(node.psets.all_keys(), open=not node.psets.count) for node in sources if node.psets}
        names = self.pipeline.columns(given)[name].names
        return Table(names, [[] for _ in names], 0)

    def _bring_in(self) -> None:
        """After an interrupt, keep what has come back and was not yet taken note of."""
        for item in self._loop.drain():
            if item is None or item[0] not in self._surveys:
                continue
            survey, what = self._surveys[item[0]], item[1]
            if isinstance(what, Taken):
                survey.keep(what)
                survey.lost += what.lost
            elif isinstance(what, Lost):
                survey.lost.append(survey.remembered_lost(what))
        for survey in self._surveys.values():
            survey.pull_the_rest()
        self._let_stages_end()

    def _stop(self) -> SurveyStopped | None:
        survey = self._stopped
        if survey is None or survey.stop is None:
            return None
        lost = survey.stop
        assert survey.feed is not None
        # further down, rows are numbered as they come, which says nothing to a user
        pset = f"pset {lost.row}" if survey.arrivals is None else f"the pset {shown(survey.feed.pset(lost.row))}"
        which = f"{survey.name}: {pset} is missing ({lost.failure.kind}), and on_failure='stop'"
        return SurveyStopped(f"{which}: {lost.failure.text}", self.results())

    def _interrupted(self) -> Interrupted | Terminated:
        how, kind = ("SIGTERM", Terminated) if self._was_terminated else ("interrupted", Interrupted)
        return kind(self._how_far(how), self.results())

    def _too_late(self) -> DeadlinePassed:
        shown = f"{self.deadline:g} s" if isinstance(self.deadline, float) else str(self.deadline)
        text = self._how_far(f"the deadline has passed (deadline={shown})")
        return DeadlinePassed(f"{text}; `results.missing_psets()` are those to run again", self.results())

    def _how_far(self, why: str) -> str:
        for survey in self.surveys:
            survey.count()
        text = f"{self.progress.finished} of {self.progress.total} psets were finished"
        return f"{self.only or self.pipeline.name}: {why}; {text} and are in `results`"

    # What it does for others

    @property
    def progress(self) -> MapProgress:
        """The counts of all surveys together."""
        if self.only is not None and isinstance(node := self.nodes[self.only], Survey):
            return node.progress
        each = [survey.progress for survey in self.surveys]
        return MapProgress(*(sum(getattr(one, field.name) for one in each) for field in attrs.fields(MapProgress)))

    def drain(self) -> Edge | Cursor:
        """Return an edge from the last stage, for somebody who wants its rows as they come.

        Raises
        ------
        StageError
            There are several last stages.
        """
        sinks = self.pipeline.sinks
        if len(sinks) != 1:
            raise StageError(
                f"the pipeline {self.pipeline.name!r} ends in {len(sinks)} stages, {listed(sinks)}, and a stream has "
                "the rows of one: stream one that ends in one stage"
            )
        node: Node | None = self.nodes[sinks[0]]
        edge = edge_from(self.nodes[sinks[0]])
        while isinstance(node, RowNode):
            node = node.producer
        if isinstance(node, DrawnNode) or type(node) is WholeNode:  # row-wise stages only: whoever drains it pulls
            self._pushed[id(node)] = []
            self._is_pulled_by_a_stream = True
        return edge

    def raise_failure(self) -> None:
        """Raise `StageFailed` if a stage has raised that works while its rows are drained."""
        if self._failure is not None:
            raise self._failed(*self._failure) from self._failure[1]

    def tell(self, event: Event) -> None:
        """Tell the observers."""
        for observer in self.observers:
            observer.see(event)

    def _prepare(self) -> bool:
        """Do what can be done ahead while the workers are busy; return whether there is more to do.

        The first time in a process that is importing pandas, which takes as long as starting the first workers does.
        (Not in a thread: an interrupt while two threads import one module can leave its lock taken.)
        """
        load("paramsurvey.results")
        while self._to_prepare:
            if self._to_prepare[-1].prepare():
                return True
            self._to_prepare.pop()
        return False


class _Assembly:
    """Makes the nodes of a run, and the edges between them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = run.pipeline.steps
        self.consumers: dict[str, list[Step]] = {name: [] for name in self.steps}
        for step in self.steps.values():
            for other in step.after:
                self.consumers[other].append(step)
        self.ranks = self._ranks()

    def assemble(self) -> None:
        """Make all nodes, from the sources on."""
        nodes, sinks = self.run.nodes, set(self.run.pipeline.sinks)
        for name, step in self.steps.items():
            if isinstance(step.stage, Forgotten):
                step.stage.refuse()
            nodes[name] = node = self._node(step)
            if self.run.keep == "all" or (self.run.keep == "sinks" and name in sinks):
                node.holds = not isinstance(node, Survey) or node.options.keep_results
            if any(each.kind == "table" for each in self.consumers[name]):
                node.holds = True
        self._find_who_tracks()
        self._find_who_hands_on()
        self._find_who_pulls()

    def _ranks(self) -> dict[str, int]:
        """Number the stages by how many others are below them at most: those with the fewest go first."""
        ranks: dict[str, int] = {}
        for name in reversed(list(self.steps)):
            ranks[name] = max((ranks[each.name] + (each.kind == "map") for each in self.consumers[name]), default=0)
        return ranks

    def _node(self, step: Step) -> Node:
        run = self.run
        if step.kind == "source":
            return self._source(step)
        if step.kind == "map":
            options = run.options_of(getattr(step.stage, "given", {}))
            survey = Survey(
                step.name, step.stage, options, run.backend, run.slots, run.tell, self.ranks[step.name], run.most
            )
            producer = run.nodes[step.after[0]]
            if isinstance(producer, WholeNode):
                run._waiting.setdefault(id(producer), []).append(survey)
                survey.progress.total = 0 if producer.psets is None else producer.psets.count
            else:
                survey.arrivals = Arrivals(edge_from(producer), producer, survey, self._unfinished_above(step))
            return survey
        if step.kind == "rows":
            producer = run.nodes[step.after[0]]
            return RowNode(step.name, step.stage, edge_from(producer), producer, run.fail)
        node = TableNode(
            step.name,
            step.stage,
            tuple(run.nodes[name] for name in step.after),
            step.allow_missing,
            self.ranks[step.name],
        )
        run._tables.append(node)
        return node

    def _source(self, step: Step) -> Node:
        psets = self.run.psets[step.name]
        if isinstance(psets, Drawn):
            return DrawnNode(step.name, psets.rows)
        self.run._to_prepare.append(psets)
        return WholeNode(step.name, psets=psets)

    def _unfinished_above(self, step: Step) -> Callable[[], int]:
        """Return a function that tells how many rows are yet to be answered in the survey above a stage."""
        name = step.after[0]
        while self.steps[name].kind == "rows":
            name = self.steps[name].after[0]
        above = self.run.nodes[name]
        return (lambda: above.unfinished) if isinstance(above, Survey) else (lambda: 0)

    def _find_who_hands_on(self) -> None:
        """See which map stages hand all they answer on to other map stages, or keep it."""
        for name, node in self.run.nodes.items():
            if isinstance(node, Survey) and getattr(self.run.backend, "can_leave", False):
                kinds = set(self._kinds_that_look(name, is_kept=node.holds))
                node.is_handed_on = "map" in kinds and kinds <= {"map", "table"}

    def _kinds_that_look(self, name: str, *, is_kept: bool) -> Iterator[str]:
        """Yield the kinds of the stages below one that see its values; those that look at none are passed by.

        But one whose rows are kept, or at which they end, needs the values, unless they are kept further up.
        """
        for each in self.consumers[name]:
            passes = each.kind == "rows" and getattr(each.stage, "is_blind", False) and bool(self.consumers[each.name])
            if passes and (is_kept or not self.run.nodes[each.name].holds):
                yield from self._kinds_that_look(each.name, is_kept=is_kept)
            else:
                yield each.kind

    def _find_who_tracks(self) -> None:
        """See whose order must be known: of what is held, and of what that comes from."""
        nodes = self.run.nodes
        for name in reversed(list(self.steps)):
            node = nodes[name]
            below = (nodes[each.name] for each in self.consumers[name] if each.kind != "table")
            node.tracks = node.holds or any(each.tracks for each in below)

    def _find_who_pulls(self) -> None:
        """See for every node who is to be stirred, and which row-wise stages work by themselves, when it gives rows."""
        run = self.run
        pulling: dict[str, list[Survey]] = {}
        pushed: dict[str, list[RowNode]] = {}
        for name in reversed(list(self.steps)):
            pulling[name], pushed[name] = [], []
            for each in self.consumers[name]:
                node = run.nodes[each.name]
                if isinstance(node, Survey):
                    pulling[name].append(node)
                elif isinstance(node, RowNode) and pulling[each.name]:
                    pulling[name] += pulling[each.name]
                    for survey in pulling[each.name]:  # what comes out beside what is pulled is worked up then
                        run._pushed[id(survey)] += pushed[each.name]
                elif isinstance(node, RowNode):
                    pushed[name] += [node, *pushed[each.name]]
            if pulling[name]:
                self._keep_flowing(pushed[name])
            run._below[id(run.nodes[name])] = pulling[name]
            run.nodes[name].has_room = partial(run._note_room, run.nodes[name])
            run._pushed[id(run.nodes[name])] = pushed[name]

    @staticmethod
    def _keep_flowing(nodes: list[RowNode]) -> None:
        """Have row-wise stages that nobody pulls, beside one that is pulled, work when enough has come to them."""
        for place, node in enumerate(nodes):
            if isinstance(node.edge, Edge):
                node.edge.when_full = partial(work_off, nodes[place:])


STAGES = frozenset({RowNode._step.__code__, Run._continue.__code__})
"""The code in which stages run in the driver, and with them functions of the user's."""
