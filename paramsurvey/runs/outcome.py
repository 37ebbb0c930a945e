"""What has come of a run so far: the table of every stage in its final order, and the results that are made of them.

Rows are numbered as they come, stage by stage; in which order they stand in the end follows from that alone, so it can
be told at any time, of what there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from paramsurvey.flow import DrawnNode, Node, RowNode, Settled, StepNode, WholeNode, in_order, settled
from paramsurvey.psets import WholeTable
from paramsurvey.results import Losses, Origins, RunResults
from paramsurvey.runs.whole_table import TableNode
from paramsurvey.stages.base import Columns
from paramsurvey.survey import Survey
from paramsurvey.tables import Table

if TYPE_CHECKING:
    from paramsurvey.pipeline import Pipeline
    from paramsurvey.progress import MapProgress


@attrs.frozen(eq=False, repr=False)
class Outcome:
    """What had come of the nodes of a run when this was made.

    Parameters
    ----------
    pipeline : Pipeline
        What is run.
    nodes : mapping
        Its nodes, by the names of the stages.
    """

    pipeline: Pipeline
    nodes: Mapping[str, Node]
    _order: dict[str, Settled] = attrs.field(init=False)

    @_order.default
    def _settle(self) -> dict[str, Settled]:
        order: dict[str, Settled] = {}
        for name, step in self.pipeline.steps.items():
            node = self.nodes[name]
            if isinstance(node, WholeNode):
                order[name] = _labelled(node)
            elif isinstance(node, DrawnNode) or not node.tracks:
                order[name] = Settled()
            elif isinstance(node, Survey) and node.arrivals is None:
                order[name] = order[step.after[0]]
            else:
                keeps = isinstance(node, Survey) or bool(getattr(step.stage, "keeps_labels", False))
                order[name] = settled(node, order[step.after[0]], keeps_labels=keeps)
        return order

    def table_of(self, node: Node) -> tuple[Table, Any]:
        """Return what has come out of a node, in its final order, and the numbers of the rows."""
        if isinstance(node, Survey):
            table, numbers = node.output(self._order.get(node.name))
            return (table if table.count or node.arrivals is None else self._without_rows(node.name)), numbers
        if isinstance(node, StepNode):
            made = getattr(node.stage, "makes", ()) if isinstance(node, RowNode) else ()
            numbers = np.arange(node.count, dtype=np.int64)
            if not node.count:
                return self._without_rows(node.name), numbers
            return in_order(node.rows(), numbers, self._order[node.name], [node.shapes()], made)
        assert isinstance(node, WholeNode)
        if node.psets is None:
            return Table((), [], 0), np.empty(0, np.int64)
        table = node.psets.table()
        return table, np.arange(table.count, dtype=np.int64)

    def _without_rows(self, name: str) -> Table:
        """Return a table of no rows with the columns that a stage is known to have, however rows were cut above it."""
        sources = (node for node in self.nodes.values() if type(node) is WholeNode and node.psets is not None)
        given = {node.name: Columns(node.psets.all_keys(), open=not node.psets.count) for node in sources if node.psets}
        names = self.pipeline.columns(given)[name].names
        return Table(names, [[] for _ in names], 0)

    def results(self, asked: Sequence[MapProgress]) -> RunResults:
        """Return the results of all stages.

        Parameters
        ----------
        asked : sequence of MapProgress
            The counts of the surveys that whole-table stages have asked for.
        """
        found: dict[str, Any] = {}
        origins: dict[str, Origins] = {}
        losses: dict[str, Losses] = {}
        shown: dict[str, Any] = {}
        for name, step in self.pipeline.steps.items():
            node = self.nodes[name]
            table, numbers = self.table_of(node) if node.holds or isinstance(node, WholeNode) else (None, None)
            origins[name] = Origins(table, numbers, _ways_up(node), step.after)
            if isinstance(node, Survey):
                results = node.results(self._order[name])
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
        return RunResults(self.pipeline, found, origins, asked, shown)


def _labelled(node: WholeNode) -> Settled:
    """Return the order of a whole table: as it stands, with its labels."""
    return Settled(None, node.psets.table().index) if isinstance(node.psets, WholeTable) else Settled()


def _ways_up(node: Node) -> tuple[Any, ...]:
    """Return for each producer of a node the number there of every row's parent; None if it is the same."""
    if isinstance(node, TableNode):
        return node.origins or ()
    if isinstance(node, WholeNode | DrawnNode) or not node.tracks:
        return ()
    if isinstance(node, Survey) and node.arrivals is None:
        return (None,)
    return (node.parent_numbers(),)
