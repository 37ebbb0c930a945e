"""A run: a pipeline being executed, in one thread, that of whoever wants its rows.

`Run` owns the nodes: a `Survey` for every map stage, and others for the others (`wiring`). The loop tells it what has
come back; it has the survey take note, moves rows on, and sees what that makes possible: a stage comes to its end, a
whole-table stage has its tables, a survey that such a stage asks for can begin.

A whole-table stage that must not run, because rows are missing above it, does not keep the others from going on;
`StageFailed` is raised when they have. A stage that raises ends the run at once, with what was finished.

It stands above the surveys, and below the session that opens backends and observers: it alone knows all stages at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any

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
from paramsurvey.flow import Cursor, Direct, DrawnNode, Edge, Feed, Node, RowNode, WholeNode, edge_from, push
from paramsurvey.interrupts import ctrl_c_calls, sigterm_calls
from paramsurvey.lazy import load
from paramsurvey.observers.events import ColumnAbsent, Event, JournalSpoke, Observer, StageToldSoFar
from paramsurvey.options import Options, shown
from paramsurvey.progress import MapProgress
from paramsurvey.psets import Drawn, PsetSource, psets_of_user
from paramsurvey.runs.whole_table import TableNode
from paramsurvey.runs.wiring import Keep, Wiring, wired
from paramsurvey.stages.base import Answers, Ask, conversation, listed
from paramsurvey.survey import OUT_FUNC, Survey

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend
    from paramsurvey.journal.ledger import Journal, Ledgers
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.results import MapResults
    from paramsurvey.runs.outcome import Outcome
    from paramsurvey.stages.map import Map


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
    _owner: int = attrs.field(factory=os.getpid, init=False)  # the process that runs it
    _wiring: Wiring = attrs.field(init=False)
    _loop: Loop = attrs.field(init=False)
    _sheltered: bool = attrs.field(default=False, init=False)  # no KeyboardInterrupt can strike the loop
    _surveys: dict[Lane, Survey] = attrs.field(factory=dict, init=False)  # that have begun and are not over
    _tables: list[TableNode] = attrs.field(init=False)  # that have not made theirs
    _asked: list[Survey] = attrs.field(factory=list, init=False)
    _stopped: Survey | None = attrs.field(default=None, init=False)  # whose failure ends the run
    _has_room: list[Node] = attrs.field(factory=list, init=False)
    _to_prepare: list[PsetSource] = attrs.field(init=False)
    _is_pulled_by_a_stream: bool = attrs.field(default=False, init=False)  # it has no map stage
    _was_terminated: bool = attrs.field(default=False, init=False)  # by SIGTERM
    _failure: tuple[str, BaseException] | None = attrs.field(default=None, init=False)  # the stage that raised
    _ledgers: Ledgers | None = attrs.field(default=None, init=False)  # while the journal is held

    def __attrs_post_init__(self) -> None:
        self._loop = Loop(
            self.backend, self.most, lambda: self._sheltered, self._prepare, self._deliver, time.monotonic
        )
        self._wiring = wired(
            self.pipeline,
            self.psets,
            keep=self.keep,
            allow_missing=self.allow_missing,
            survey_of=self._survey_of,
            fail=self._fail,
            say=self._say_of_columns,
            note_room=self._note_room,
        )
        self._tables = [node for node in self.nodes.values() if isinstance(node, TableNode)]
        self._to_prepare = [psets for psets in self.psets.values() if not isinstance(psets, Drawn)]

    def _survey_of(self, name: str, stage: Map, rank: int) -> Survey:
        options = self.options_of(getattr(stage, "given", {}))
        return Survey(name, stage, options, self.backend, self.slots, self.tell, rank, self.most)

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes, by the names of the stages."""
        return self._wiring.nodes

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

    def unlink(self) -> None:
        """Undo the circles of references when it is over and nobody needs it any more; nothing can be asked of it then.

        Python looks for such circles when there are many new objects. The large answers of some surveys are few, and
        would fill the memory before.
        """
        for node in (*self.nodes.values(), *self._asked):
            node.unlink()
        self._asked.clear()
        self._tables.clear()
        self._ledgers = None
        del self._wiring, self._loop

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
            if os.getpid() == self._owner:  # not in a fork, at whose end a stream of the program's is left
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
        if pushed := self._wiring.pushed.get(survey):
            push(pushed)
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
        push(self._wiring.pushed.get(node, ()))
        self._stir_below(node)

    def _deliver(self, lane: Lane, taken: Taken) -> list[Taken]:
        """Have finished rows remembered before they are shown to anybody, and send them on."""
        survey = self._surveys[lane]
        pieces = list(survey.remembered(taken))
        if survey.outputs:
            for piece in pieces:
                survey.deliver(piece)
            self._stir_below(survey)
        return pieces

    def _come_back(self, survey: Survey, taken: Taken) -> None:
        """Rows are in the journal."""
        assert survey.lane is not None
        if survey.outputs:
            survey.deliver(taken)
            self._stir_below(survey)
        self._loop.announce(survey.lane, taken)

    def _note_room(self, node: Node) -> None:
        """An edge from a node is no longer full: those below may go on.

        This is called in the middle of somebody's step, so row-wise stages have to wait until that is done.
        """
        self._stir_below(node)
        if isinstance(node, Survey) and node.sieve is not None and node.lane is not None:
            self._loop.stir(node.lane)
        if self._wiring.pushed[node]:
            self._has_room.append(node)

    def _use_room(self) -> None:
        nodes, self._has_room = dict.fromkeys(self._has_room), []
        for node in nodes:
            push(self._wiring.pushed[node])

    def _stir_below(self, node: Node) -> None:
        """Have the surveys look that pull what a node gives."""
        for survey in self._wiring.pulling.get(node, ()):
            if survey.lane is not None:
                self._loop.stir(survey.lane)

    def _fail(self, name: str, exc: BaseException) -> None:
        """A row-wise stage has raised: have the loop bring in what is finished."""
        if self._failure is None:
            self._failure = name, exc
        self._loop.interrupt()

    def _say_of_columns(self, name: str, text: str) -> None:
        if not self._loop.is_interrupted:  # else these are only the rows that came before the end
            self.tell(ColumnAbsent(name, text))

    def _has_table(self, node: WholeNode) -> None:
        """A source or a whole-table stage has its table, or will never have one."""
        node.is_over = True
        for survey in self._wiring.waiting.get(node, ()):
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
                if node.may_begin:
                    self._begin_table(node)
                    progress = True
                elif node.is_answered:
                    self._continue(node, node.asked[-1][1].answer())
                    progress = True

    def _begin_table(self, node: TableNode) -> None:
        node.refused = node.why_refused(self._wiring.surveys_above(node))
        if node.refused:
            self._tables.remove(node)
            self._has_table(node)
            return
        outcome = self._outcome()
        node.talk = conversation(node.stage, [outcome.table_of(producer)[0] for producer in node.producers])
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
        known = node.survey_for(ask)
        if known is not None and ask.waits_only:
            known.wait_for_first()
            return
        try:
            psets = psets_of_user(ask.psets, None)
            survey = self._asked_for(node, ask) if known is None else known
        except Exception as exc:
            raise self._failed(node.name, exc) from exc
        if known is None:
            self._asked.append(survey)
            self._open(survey, Asked.of(psets, ask.until))
            for idle in node.part_with_idle():
                self._close(idle)
            node.asked.append((ask, survey))
        else:
            survey.ask(psets, ask.until)
            assert survey.lane is not None
            self._loop.stir(survey.lane)

    def _asked_for(self, node: TableNode, ask: Ask) -> Survey:
        """Return a new survey for what a stage asks, whose worker is where it will be needed."""
        from paramsurvey.stages.map import Map

        node.surveys += 1
        stage = Map(ask.worker, **{"name": f"{node.name} {node.surveys}", **ask.options})
        survey = self._survey_of(stage.name, stage, node.rank)
        self._publish(survey)
        return survey

    def _close(self, survey: Survey) -> None:
        """Have a survey that was asked for end; nobody wants to know what has not come of it yet."""
        if survey.lane is not None:
            self._loop.drop(survey.lane)

    def _take_outcome(self, node: TableNode, outcome: Any) -> None:
        try:
            node.take_outcome(outcome)
        except StageError as exc:
            raise self._failed(node.name, exc) from exc.__cause__

    def _let_stages_end(self) -> None:
        """Now that the run ends before its time, take what whole-table stages have that are in the middle of asking."""
        tables, self._tables = self._tables, []
        for node in tables:
            try:
                node.end_early()
            except StageError as exc:
                raise self._failed(node.name, exc) from exc.__cause__

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
        return self._outcome().results([survey.progress for survey in self._asked])

    def _outcome(self) -> Outcome:
        load("paramsurvey.runs.outcome")
        from paramsurvey.runs.outcome import Outcome

        return Outcome(self.pipeline, self.nodes)

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
            self._wiring.pushed[node] = []
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


STAGES = frozenset({RowNode._step.__code__, Run._continue.__code__})
"""The code in which stages run in the driver, and with them functions of the user's."""
