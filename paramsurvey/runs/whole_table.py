"""A whole-table stage in a run: when it may begin, what it asks, and the table that it has in the end.

It is one side of a conversation and knows no loop: the `Run` says when, has what it asks for computed, and tells it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import StageError
from paramsurvey.flow import Node, WholeNode
from paramsurvey.psets import WholeTable
from paramsurvey.stages.base import Ask, Made

if TYPE_CHECKING:
    from paramsurvey.stages.base import TableStage
    from paramsurvey.survey import Survey

MOST_IDLE = 8
"""So many surveys with nothing under way are kept open for a stage that asks one worker after the other."""


@attrs.define(eq=False, repr=False)
class TableNode(WholeNode):
    """A whole-table stage in a run: it waits for its tables, then it talks, and in the end it has one of its own.

    Attributes
    ----------
    allow_missing : bool
        Whether it works on what there is if rows are missing above it.
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
    def may_begin(self) -> bool:
        """Whether its tables are complete and it has not begun."""
        return self.talk is None and all(each.is_over for each in self.producers)

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to what it has asked."""
        return bool(self.asked) and self.asked[-1][1].is_answered

    def why_refused(self, above: Iterable[Survey]) -> str:
        """Tell why it must not run, given the surveys whose losses its tables show; an empty text if it may."""
        if stopped := [each for each in self.producers if isinstance(each, TableNode) and each.psets is None]:
            return f"stage {self.name!r} has not run, because {stopped[0].name!r} has not"
        if self.allow_missing:
            return ""
        for survey in above:
            if missing := survey.missing():
                first = missing[0].failure
                rows = "1 row is" if len(missing) == 1 else f"{len(missing)} rows are"
                return (
                    f"stage {self.name!r} needs its whole table, and {rows} missing in "
                    f"{survey.name!r} above it, the first: {first.text}; with allow_missing=True it runs on what "
                    "there is"
                )
        return ""

    def survey_for(self, ask: Ask) -> Survey | None:
        """Return the open survey to which an ask belongs, now the last used one; None if it needs another."""
        pair = next((pair for pair in reversed(self.asked) if pair[0].is_of_one_survey_with(ask)), None)
        if pair is None:
            return None
        self.asked.remove(pair)
        self.asked.append(pair)
        return pair[1]

    def part_with_idle(self) -> list[Survey]:
        """Return surveys that it has not used for long, of which it has no more then, if it always asks for others."""
        idle = [pair for pair in self.asked if pair[1].is_idle]
        idle = idle[: max(0, len(idle) - MOST_IDLE)]
        for pair in idle:
            self.asked.remove(pair)
        return [survey for _, survey in idle]

    def take_outcome(self, outcome: Any) -> None:
        """Have the table that the stage has returned.

        Raises
        ------
        StageError
            It is no table; its cause says why.
        """
        from paramsurvey.tables import table_of

        try:
            if isinstance(outcome, Made):
                table, self.origins, self.shown = outcome.table, outcome.parents, outcome.shown
            else:
                table = table_of(outcome)
        except Exception as exc:
            what = f"it returned the {type(outcome).__name__} {safe_repr(outcome)[:80]}, which is no table"
            raise StageError(f"{what}: {exc}") from exc
        self.psets = WholeTable(table)

    def end_early(self) -> None:
        """End a conversation in the middle of asking; take what the stage has by then, if it cares to say."""
        if self.talk is None or not self.asked:
            return
        try:
            self.talk.throw(GeneratorExit())
        except StopIteration as stop:
            self.take_outcome(stop.value)
        except (Exception, GeneratorExit):  # noqa: BLE001, S110 - the run ends for another reason, which is told
            pass
