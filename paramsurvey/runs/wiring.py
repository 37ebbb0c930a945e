"""The nodes of a run, and who has to do something when rows come out of one: all that is known before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from paramsurvey.flow import Arrivals, DrawnNode, Edge, Node, RowNode, WholeNode, edge_from, work_off
from paramsurvey.psets import Drawn
from paramsurvey.runs.whole_table import TableNode
from paramsurvey.stages.base import Forgotten
from paramsurvey.survey import Survey

if TYPE_CHECKING:
    from paramsurvey.pipeline import Pipeline, Step
    from paramsurvey.stages.map import Map

Keep: TypeAlias = Literal["all", "sinks", "none"]
"""Whether the rows of every stage are kept for the results, or those of the last ones, or none."""


@attrs.frozen(eq=False, repr=False)
class Wiring:
    """The nodes of a run and what is between them.

    Attributes
    ----------
    steps : mapping
        The steps of the pipeline.
    nodes : dict
        Their nodes, by the same names.
    pulling : dict
        By nodes: the surveys that pull what one gives, also through row-wise stages.
    pushed : dict
        By nodes: the row-wise stages that nobody pulls, and that work by themselves when one gives something.
    waiting : dict
        By nodes: the surveys that read the table of one directly, when it is there.
    """

    steps: Mapping[str, Step]
    nodes: dict[str, Node] = attrs.field(factory=dict, init=False)
    pulling: dict[Node, list[Survey]] = attrs.field(factory=dict, init=False)
    pushed: dict[Node, list[RowNode]] = attrs.field(factory=dict, init=False)
    waiting: dict[Node, list[Survey]] = attrs.field(factory=dict, init=False)

    def surveys_above(self, node: Node) -> Iterator[Survey]:
        """Yield the surveys whose losses the tables of a node show: those up to other whole-table stages."""
        found: dict[str, Survey] = {}
        pending = list(self.steps[node.name].after)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or isinstance(above := self.nodes[name], TableNode):
                continue
            seen.add(name)
            if isinstance(above, Survey):
                found[name] = above
            pending += self.steps[name].after
        yield from (found[name] for name in self.steps if name in found)


def wired(
    pipeline: Pipeline,
    psets: Mapping[str, Any],
    *,
    keep: Keep,
    allow_missing: bool,
    survey_of: Callable[[str, Map, int], Survey],
    fail: Callable[[str, BaseException], None],
    say: Callable[[str, str], None],
    note_room: Callable[[Node], None],
) -> Wiring:
    """Make the nodes of a run, and what is between them.

    Parameters
    ----------
    pipeline : Pipeline
        What is run.
    psets : mapping
        The psets by the names of the sources.
    keep : {"all", "sinks", "none"}
        Whose rows are kept for the results.
    allow_missing : bool
        Whether all whole-table stages work on what there is if rows are missing above them.
    survey_of : callable
        Makes the survey of a map stage, given its name, the stage, and its rank: those with a lower one go first.
    fail : callable
        Called if a row-wise stage raises, with its name and the exception.
    say : callable
        Called if there is something to be told of one, with its name and a text.
    note_room : callable
        Called with a node when an edge from it is no longer full.
    """
    wiring = Wiring(pipeline.steps)
    assembly = _Assembly(wiring, psets, allow_missing, survey_of, fail, say, note_room)
    assembly.make_nodes(keep, set(pipeline.sinks))
    assembly.find_who_tracks()
    assembly.find_who_hands_on()
    assembly.find_who_pulls()
    return wiring


@attrs.define(eq=False, repr=False)
class _Assembly:
    """Makes the nodes of a run, and the edges between them."""

    wiring: Wiring
    psets: Mapping[str, Any]
    allow_missing: bool
    survey_of: Callable[[str, Map, int], Survey]
    fail: Callable[[str, BaseException], None]
    say: Callable[[str, str], None]
    note_room: Callable[[Node], None]
    steps: Mapping[str, Step] = attrs.field(init=False)
    nodes: dict[str, Node] = attrs.field(init=False)
    consumers: dict[str, list[Step]] = attrs.field(init=False)
    ranks: dict[str, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.steps, self.nodes = self.wiring.steps, self.wiring.nodes
        self.consumers = {name: [] for name in self.steps}
        for step in self.steps.values():
            for other in step.after:
                self.consumers[other].append(step)
        self.ranks = self._ranks()

    def _ranks(self) -> dict[str, int]:
        """Number the stages by how many others are below them at most: those with the fewest go first."""
        ranks: dict[str, int] = {}
        for name in reversed(list(self.steps)):
            ranks[name] = max((ranks[each.name] + (each.kind == "map") for each in self.consumers[name]), default=0)
        return ranks

    def make_nodes(self, keep: Keep, sinks: set[str]) -> None:
        """Make all nodes, from the sources on."""
        for name, step in self.steps.items():
            if isinstance(step.stage, Forgotten):
                step.stage.refuse()
            self.nodes[name] = node = self._node(step)
            if keep == "all" or (keep == "sinks" and name in sinks):
                node.holds = not isinstance(node, Survey) or node.options.keep_results
            if any(each.kind == "table" for each in self.consumers[name]):
                node.holds = True

    def _node(self, step: Step) -> Node:
        if step.kind == "source":
            psets = self.psets[step.name]
            return DrawnNode(step.name, psets.rows) if isinstance(psets, Drawn) else WholeNode(step.name, psets=psets)
        if step.kind == "map":
            return self._survey(step)
        producers = tuple(self.nodes[name] for name in step.after)
        if step.kind == "rows":
            return RowNode(step.name, step.stage, edge_from(producers[0]), producers[0], self.fail, self.say)
        allow_missing = step.allow_missing or self.allow_missing
        return TableNode(step.name, step.stage, producers, allow_missing, self.ranks[step.name])

    def _survey(self, step: Step) -> Survey:
        survey = self.survey_of(step.name, step.stage, self.ranks[step.name])
        producer = self.nodes[step.after[0]]
        if isinstance(producer, WholeNode):
            self.wiring.waiting.setdefault(producer, []).append(survey)
            survey.progress.total = 0 if producer.psets is None else producer.psets.count
        else:
            survey.arrivals = Arrivals(edge_from(producer), producer, survey, self._unfinished_above(step))
        return survey

    def _unfinished_above(self, step: Step) -> Callable[[], int]:
        """Return a function that tells how many rows are yet to be answered in the survey above a stage."""
        name = step.after[0]
        while self.steps[name].kind == "rows":
            name = self.steps[name].after[0]
        above = self.nodes[name]
        return (lambda: above.unfinished) if isinstance(above, Survey) else (lambda: 0)

    def find_who_hands_on(self) -> None:
        """See which map stages hand all they answer on to other map stages, or keep it."""
        for name, node in self.nodes.items():
            if isinstance(node, Survey) and getattr(node.backend, "can_leave", False):
                kinds = set(self._kinds_that_look(name, is_kept=node.holds))
                node.is_handed_on = "map" in kinds and kinds <= {"map", "table"}

    def _kinds_that_look(self, name: str, *, is_kept: bool) -> Iterator[str]:
        """Yield the kinds of the stages below one that see its values; those that look at none are passed by.

        But one whose rows are kept, or at which they end, needs the values, unless they are kept further up.
        """
        for each in self.consumers[name]:
            passes = each.kind == "rows" and getattr(each.stage, "is_blind", False) and bool(self.consumers[each.name])
            if passes and (is_kept or not self.nodes[each.name].holds):
                yield from self._kinds_that_look(each.name, is_kept=is_kept)
            else:
                yield each.kind

    def find_who_tracks(self) -> None:
        """See whose order must be known: of what is held, and of what that comes from."""
        for name in reversed(list(self.steps)):
            node = self.nodes[name]
            below = (self.nodes[each.name] for each in self.consumers[name] if each.kind != "table")
            node.tracks = node.holds or any(each.tracks for each in below)

    def find_who_pulls(self) -> None:
        """See for every node who is to be stirred, and which row-wise stages work by themselves, when it gives rows."""
        for name in reversed(list(self.steps)):
            pulling: list[Survey] = []
            pushed: list[RowNode] = []
            for each in self.consumers[name]:
                node = self.nodes[each.name]
                if isinstance(node, Survey):
                    pulling.append(node)
                elif isinstance(node, RowNode) and (further := self.wiring.pulling[node]):
                    pulling += further
                    for survey in further:  # what comes out beside what is pulled is worked up then
                        self.wiring.pushed[survey] += self.wiring.pushed[node]
                elif isinstance(node, RowNode):
                    pushed += [node, *self.wiring.pushed[node]]
            if pulling:
                self._keep_flowing(pushed)
            node = self.nodes[name]
            node.has_room = partial(self.note_room, node)
            self.wiring.pulling[node], self.wiring.pushed[node] = pulling, pushed

    @staticmethod
    def _keep_flowing(nodes: list[RowNode]) -> None:
        """Have row-wise stages that nobody pulls, beside one that is pulled, work when enough has come to them."""
        for place, node in enumerate(nodes):
            if isinstance(node.edge, Edge):
                node.edge.when_full = partial(work_off, nodes[place:])
