"""What flows between the stages of a run: pieces of tables, and the numbers of their rows.

Every stage numbers its rows as they come, so nobody waits for anybody; each row knows the number of its parent in the
stage before. From these the final order and the lineage of every row follow when all is over (`settled`), whenever the
rows came.

Who moves what
--------------
::

    Survey ── what comes back is delivered to its edges at once ──► Edge ──► pulled by whoever wants rows

A *lane* (a map stage in the loop) pulls rows when it has room for them; a row-wise stage between two map stages works
only then, one piece at a time. So what is under way stays bounded, however many rows a stage makes of one. A row-wise
stage that has no map stage below it works as soon as something comes (`push`).

A source and a whole-table stage have their whole table; whoever comes after them reads it from its own place on
(`Cursor`), or, a map stage, directly (`Direct`).

Nothing here recurses: pipelines may have thousands of stages. It stands beside the engine and not in it, because it
handles tables; what the engine sees of it are lanes and their sources.
"""

from __future__ import annotations

import bisect
from array import array
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import attrs

from paramsurvey.asking import Asked
from paramsurvey.engine.records import ChunkRows, of_keys
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import StageError
from paramsurvey.psets import SLAB, PsetSource, plain_dicts
from paramsurvey.stages.base import Rows, absent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from paramsurvey.engine.columns import Keys, Pset
    from paramsurvey.engine.dispatcher import Taken
    from paramsurvey.stages.base import RowStage
    from paramsurvey.stages.trial import Trial
    from paramsurvey.tables import Table

    Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

FULL = 4 * SLAB
"""So many rows on an edge that nobody has pulled, and no more are made for it."""


class Piece(NamedTuple):
    """Rows of a stage, and their numbers there."""

    table: Table
    numbers: Numbers


@attrs.define(eq=False, repr=False)
class Edge:
    """Rows between two stages: those that have come out of the one and were not pulled by the other."""

    producer: Node
    waiting: int = attrs.field(default=0, init=False)
    when_full: Callable[[], object] | None = attrs.field(default=None, init=False)  # what empties it, if nobody pulls
    _pieces: deque[Piece] = attrs.field(factory=deque, init=False)

    def put(self, piece: Piece) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self.waiting += piece.table.count
        if self.when_full is not None and self.is_full:
            self.when_full()

    def next(self) -> Piece | None:
        """Return the next piece that is there."""
        if not self._pieces:
            return None
        was_full = self.is_full
        piece = self._pieces.popleft()
        self.waiting -= piece.table.count
        if was_full and not self.is_full:
            self.producer.has_room()
        return piece

    @property
    def is_full(self) -> bool:
        """Whether no more should be put there now."""
        return self.waiting >= FULL

    @property
    def closed(self) -> bool:
        """Whether it is empty and will stay so."""
        return self.producer.is_over and not self._pieces


@attrs.define(eq=False, repr=False)
class Cursor:
    """A place in a whole table that is there, or will be."""

    producer: WholeNode
    _place: int = attrs.field(default=0, init=False)

    def next(self) -> Piece | None:
        """Return the rows that follow."""
        import numpy as np

        psets = self.producer.psets
        if psets is None or self._place >= psets.count:
            return None
        start, self._place = self._place, min(self._place + SLAB, psets.count)
        return Piece(psets.slice(start, self._place), np.arange(start, self._place, dtype=np.int64))

    @property
    def closed(self) -> bool:
        """Whether all its rows were returned."""
        psets = self.producer.psets
        return self.producer.is_over and (psets is None or self._place >= psets.count)


def _nobody_waits() -> None:
    pass


@attrs.define(eq=False, repr=False)
class Node:
    """A stage in a run.

    Attributes
    ----------
    name : str
        Its name in the pipeline.
    holds : bool
        Whether what comes out of it is kept until the end.
    tracks : bool
        Whether it is known where each row comes from.
    outputs : list of Edge
        Where what comes out of it goes.
    is_over : bool
        Whether nothing more will come out of it.
    parents : array of int64
        The number of each row's parent.
    has_room : callable
        Called when an edge from it is no longer full: somebody else may have waited for that.
    """

    name: str
    holds: bool = attrs.field(default=False, init=False)
    tracks: bool = attrs.field(default=False, init=False)
    outputs: list[Edge] = attrs.field(factory=list, init=False)
    is_over: bool = attrs.field(default=False, init=False)
    parents: array[int] = attrs.field(factory=lambda: array("q"), init=False)
    has_room: Callable[[], None] = attrs.field(default=_nobody_waits, init=False)

    def unlink(self) -> None:
        """Let go of the other nodes, and of itself, when the run is over."""
        for edge in self.outputs:
            edge.when_full = None
        self.outputs = []
        self.has_room = _nobody_waits

    def put(self, piece: Piece) -> None:
        """Send a piece on."""
        for edge in self.outputs:
            edge.put(piece)

    def is_held(self) -> bool:
        """Tell whether somebody after it has enough for now."""
        return any(edge.is_full for edge in self.outputs)

    def parent_numbers(self) -> Numbers:
        """Return a copy of the parents so far: a view would keep more from being added while results are looked at."""
        import numpy as np

        return np.array(self.parents, dtype=np.int64)

    def note_parents(self, numbers: Numbers) -> None:
        """Take note of where rows come from that have just been numbered."""
        if self.tracks:
            self.parents.frombytes(numbers.astype("int64", copy=False).tobytes())


@attrs.define(eq=False, repr=False)
class WholeNode(Node):
    """A source, or a whole-table stage: its rows are all there at once, or not yet."""

    psets: PsetSource | None = attrs.field(default=None, kw_only=True)


@attrs.define(eq=False, repr=False)
class StepNode(Node):
    """A node out of which rows come when it is asked to do a step."""

    count: int = attrs.field(default=0, init=False)
    pieces: list[Table] = attrs.field(factory=list, init=False)  # if it holds them

    def step(self) -> bool:
        """Make one more piece; return whether there was anything to make it of."""
        raise NotImplementedError

    def note_end(self) -> None:
        """See whether nothing more will come."""

    def give(self, table: Table, parents: Numbers | None) -> None:
        """Number some rows, keep them if they are to be kept, and send them on."""
        import numpy as np

        numbers = np.arange(self.count, self.count + table.count, dtype=np.int64)
        self.count += table.count
        if parents is not None:
            self.note_parents(parents)
        if self.holds:
            self.pieces.append(table)
        self.put(Piece(table, numbers))

    def rows(self) -> Table:
        """Return all rows that it holds, by number."""
        from paramsurvey.tables import concatenated

        return concatenated(self.pieces).brought()

    def shapes(self) -> Shapes:
        """Return the columns of the pieces that it holds."""
        starts = accumulate((piece.count for piece in self.pieces), initial=0)
        return [(start, piece.keys) for start, piece in zip(starts, self.pieces, strict=False)]


@attrs.define(eq=False, repr=False)
class DrawnNode(StepNode):
    """A source whose psets are drawn from an iterator when they are wanted, and not kept."""

    psets: Iterator[Pset]

    def step(self) -> bool:
        """Draw some more."""
        from paramsurvey.tables import table_of

        rows = plain_dicts(list(islice(self.psets, SLAB)), self.count)
        if rows:
            self.give(table_of(rows), None)
        self.is_over = len(rows) < SLAB
        return bool(rows)


@attrs.define(eq=False, repr=False)
class RowNode(StepNode):
    """A row-wise stage in a run."""

    stage: RowStage
    edge: Edge | Cursor
    producer: Node
    fail: Callable[[str, BaseException], None]  # what to do if the stage raises,
    say: Callable[[str, str], None]  # and if there is something to be told of it
    _unseen: set[Hashable] = attrs.field(init=False)  # what it wants and no row has had
    _there: dict[Hashable, None] = attrs.field(factory=dict, init=False)  # the columns that rows have had so far
    _making: Iterator[Rows] | None = attrs.field(default=None, init=False)
    _piece: Piece | None = attrs.field(default=None, init=False)  # of which it is making
    _trial: Trial | None = attrs.field(default=None, init=False)  # as long as the stage is tried out

    def __attrs_post_init__(self) -> None:
        self._unseen = set(getattr(self.stage, "wants", ()))
        if getattr(self.stage, "looks_around", False):
            from paramsurvey.stages.trial import Trial

            self._trial = Trial(self.stage)  # type: ignore[arg-type] # only those say so

    def step(self) -> bool:
        """Make one more piece of what has come; a piece without rows is a step, too."""
        try:
            return self._step()
        except Exception as exc:  # noqa: BLE001 - the stage's own code may raise anything
            self.is_over = True
            self.fail(self.name, exc)
            return False

    def _step(self) -> bool:
        if self._making is None:
            piece = self.edge.next()
            if piece is None:
                return False
            if self._unseen:
                self._look_for_what_it_wants(piece.table)
            made = self.stage.rows(piece.table)
            if not isinstance(made, Iterable):
                raise StageError(f"its rows() gave {safe_repr(made)[:80]}: it should yield Rows(table, parents)")
            self._making, self._piece = iter(made), piece
        rows = next(self._making, None)
        if rows is not None and not isinstance(rows, Rows):
            raise StageError(f"its rows() gave {safe_repr(rows)[:80]}: it should yield Rows(table, parents)")
        assert self._piece is not None
        if rows is not None:
            if rows.table.count:
                self.give(rows.table, self._piece.numbers[rows.parents])
            return True
        done, self._piece, self._making = self._piece, None, None
        if self._trial is not None and not self._trial.goes_on(done.table):
            self._trial = None
        return True

    def _look_for_what_it_wants(self, table: Table) -> None:
        from paramsurvey.tables import first_row

        columns = zip(table.keys, table.columns, strict=True)
        there = [key for key, column in columns if table.count and first_row(column) >= 0]
        self._unseen.difference_update(there)
        self._there.update(dict.fromkeys(there))

    def note_end(self) -> None:
        """It is over if nothing comes in and nothing is being made."""
        if self.is_over or self._making is not None or not self.edge.closed:
            return
        self.is_over = True
        if self._there:
            for name in sorted(self._unseen, key=str):  # misspelt, or given sometimes and not this time
                self.say(self.name, absent(name, self._there))


def edge_from(producer: Node) -> Edge | Cursor:
    """Return a new edge from a node."""
    if isinstance(producer, WholeNode):
        return Cursor(producer)
    edge = Edge(producer)
    producer.outputs.append(edge)
    return edge


def advance(node: Node) -> bool:
    """Have more rows come out of a node if it can; return whether there is any hope of more now.

    Goes up to the nearest node that can do a step, and down again with what it gave.
    """
    above: list[StepNode] = []
    while isinstance(node, StepNode) and not node.is_held() and not node.is_over:
        if node.step():
            for each in reversed(above):
                if not each.step():
                    break
            return True
        above.append(node)
        if not isinstance(node, RowNode):
            break
        node = node.producer
    for each in reversed(above):
        each.note_end()
    return False


def work_off(nodes: Sequence[RowNode]) -> None:
    """Have row-wise stages work up what has come to them; from upstream to downstream."""
    for node in nodes:
        while not node.is_over and node.step():
            pass
        node.note_end()


def push(nodes: Sequence[RowNode]) -> None:
    """Have row-wise stages that nobody pulls work up all there is, also what is yet to be drawn for them."""
    sources = {id(node.producer): node.producer for node in nodes if isinstance(node.producer, DrawnNode)}
    work_off(nodes)
    while sources and sum(advance(source) for source in sources.values()):
        work_off(nodes)
    work_off(nodes)  # now that nothing more will come, some may be over


@attrs.define(eq=False, repr=False)
class Direct:
    """Rows for a map stage out of a whole table: as it stands."""

    psets: PsetSource
    closed: bool = attrs.field(default=True, init=False)
    expected: int = attrs.field(default=0, init=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.psets.count

    def pull(self) -> int:
        """All are there."""
        return 0

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        return self.psets.rows(start, stop, attempt)

    def pset(self, row: int) -> Pset:
        """Make the dict of one row."""
        return self.psets.pset(row)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows."""
        return self.psets.slice(start, stop)

    def release(self, start: int, count: int) -> None:
        """No row is let go."""

    def table(self) -> Table:
        """Return all rows."""
        return self.psets.table()

    def lost(self, rows: Numbers) -> Table:
        """Return rows that have no answer, with their labels."""
        return self.psets.table().take(rows)


@attrs.define(eq=False, repr=False)
class Arrivals:
    """Rows for a map stage out of the stages before it, numbered as they come.

    Those that are finished are let go, piece by piece, unless they are to be held; those that are lost are kept.
    """

    edge: Edge | Cursor
    producer: Node
    owner: Node
    unfinished_above: Any  # a function: how many rows are yet to be answered above
    count: int = attrs.field(default=0, init=False)
    _starts: list[int] = attrs.field(factory=list, init=False)
    _pieces: dict[int, Table] = attrs.field(factory=dict, init=False)
    _left: dict[int, int] = attrs.field(factory=dict, init=False)
    _lost: dict[int, Table] = attrs.field(factory=dict, init=False)

    @property
    def closed(self) -> bool:
        """Whether all have come."""
        return self.edge.closed

    @property
    def expected(self) -> int:
        """How many are yet to be answered above."""
        return int(self.unfinished_above())

    def pull(self) -> int:
        """Bring in the next piece."""
        while (piece := self.edge.next()) is None:
            if not advance(self.producer):
                return 0
        return self._take_in(piece)

    def pull_the_rest(self) -> int:
        """Bring in what is on the edge, and have nothing more made: the run has ended before its time."""
        count = 0
        while (piece := self.edge.next()) is not None:
            count += self._take_in(piece)
        return count

    def _take_in(self, piece: Piece) -> int:
        start, count = self.count, piece.table.count
        self._starts.append(start)
        self._pieces[start], self._left[start] = piece.table, count
        self.count += count
        self.owner.note_parents(piece.numbers)
        return count

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        return self.slice(start, stop).rows(0, stop - start, attempt)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows; they may lie in several pieces."""
        place = bisect.bisect_right(self._starts, start) - 1
        first = self._starts[place]
        piece = self._pieces[first]
        if stop <= first + piece.count:
            return piece.slice(start - first, stop - first)
        from paramsurvey.tables import concatenated

        cuts = []
        for first in self._starts[place : bisect.bisect_left(self._starts, stop)]:
            piece = self._pieces[first]
            cuts.append(piece.slice(max(0, start - first), min(piece.count, stop - first)))
        return concatenated(cuts)

    def pset(self, row: int) -> Pset:
        """Make the dict of one row."""
        return (self._lost[row] if row in self._lost else self.slice(row, row + 1)).brought().pset(0)

    def note_lost(self, row: int) -> None:
        """Keep a row that has no answer."""
        self._lost[row] = self.slice(row, row + 1)

    def release(self, start: int, count: int) -> None:
        """Let rows go that have been dealt with."""
        if self.owner.holds:
            return
        stop = start + count
        place = bisect.bisect_right(self._starts, start) - 1
        while place < len(self._starts) and (first := self._starts[place]) < stop:
            end = first + self._pieces[first].count
            self._left[first] -= min(stop, end) - max(start, first)
            if self._left[first]:
                place += 1
            else:
                del self._starts[place], self._pieces[first], self._left[first]

    def table(self) -> Table:
        """Return all rows that are held, by number."""
        from paramsurvey.tables import concatenated

        return concatenated([self._pieces[start] for start in self._starts]).brought()

    def shapes(self) -> Shapes:
        """Return the columns of the pieces that are held."""
        return [(start, self._pieces[start].keys) for start in self._starts]

    def lost(self, rows: Numbers) -> Table:
        """Return rows that have no answer."""
        from paramsurvey.tables import concatenated

        found = (self._lost[row] if row in self._lost else self.slice(row, row + 1) for row in rows.tolist())
        return concatenated(list(found)).brought()


Feed: TypeAlias = Direct | Arrivals | Asked


def piece_of(feed: Feed, taken: Taken) -> Piece:
    """Put answers that have come beside their psets."""
    import numpy as np

    from paramsurvey.tables import Table

    part = of_keys(taken.part, wanted=False)
    numbers = np.arange(taken.start, taken.start + part.count, dtype=np.int64)
    psets = feed.slice(taken.start, taken.start + part.count)
    if part.failures:
        keep = np.delete(np.arange(part.count), [row - part.first for row, _ in part.failures])
        numbers, psets = numbers[keep], attrs.evolve(psets.take(keep), index=None)
    return Piece(psets.beside(Table(part.keys, part.columns, psets.count)), numbers)


# When all is over


@attrs.frozen(eq=False, repr=False)
class Settled:
    """The final order of a node's rows.

    Parameters
    ----------
    ranks : array of int64 or None
        For every number that the node gave, its place among them; None if that is the number itself.
    labels : Index or None
        For every number, the label of its row; None if that is the number itself.
    """

    ranks: Numbers | None = None
    labels: pd.Index[Any] | None = None


def settled(node: Node, above: Settled, *, keeps_labels: bool) -> Settled:
    """Settle the order of a node's rows, given that of those they come from: the order of their parents.

    Rows of one parent came in their order, so a stable sort does.
    """
    import numpy as np
    import pandas as pd

    parents = node.parent_numbers()
    order = np.argsort(parents if above.ranks is None else above.ranks[parents], kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    if not keeps_labels:
        return Settled(ranks, pd.Index(ranks))
    return Settled(ranks, pd.Index(parents) if above.labels is None else above.labels.take(parents))


Shapes: TypeAlias = "Sequence[tuple[int, Keys]]"
"""The columns of pieces, each with the number of its first row; ascending."""


def in_order(
    table: Table,
    numbers: Numbers,
    settled: Settled,
    shapes: Sequence[Shapes] = (),
    last: Collection[Hashable] = (),
) -> tuple[Table, Numbers]:
    """Put rows, which have these numbers, in their final order, with their labels; return their numbers, too.

    Columns come in the order in which they first appear in these rows, but those in `last` after the others; columns
    that no row has are left out. So what there is does not depend on when the rows came, nor in which company. Of those
    that appear in one row, the `shapes` tell the order.
    """
    import numpy as np
    import pandas as pd

    from paramsurvey.tables import first_row

    order = np.arange(len(numbers)) if settled.ranks is None else np.argsort(settled.ranks[numbers], kind="stable")
    numbers = numbers[order]
    labels = pd.Index(numbers) if settled.labels is None else settled.labels.take(numbers)
    table = table if settled.ranks is None else table.take(order)
    if table.count:
        first = {key: first_row(column) for key, column in zip(table.keys, table.columns, strict=True)}
        keys = sorted(
            (key for key in table.keys if first[key] >= 0),
            key=lambda key: (key in last, first[key], _place(key, numbers[first[key]], shapes)),
        )
        table = table if tuple(keys) == table.keys else table.only(keys)
    return attrs.evolve(table, index=_plain(labels)), numbers


def _place(key: Hashable, number: int, shapes: Sequence[Shapes]) -> int:
    """Return the place of a column in the piece in which the row of this number came; 0 if all pieces are alike."""
    for pieces in shapes:
        if len({keys for _, keys in pieces}) > 1:
            _, keys = pieces[bisect.bisect_right(pieces, number, key=lambda piece: piece[0]) - 1]
            if key in keys:
                return keys.index(key)
    return 0


def _plain(labels: pd.Index[Any]) -> pd.Index[Any] | None:
    """Return labels, or None if they are 0, 1, 2 and so on."""
    import numpy as np

    if labels.dtype == np.int64 and np.array_equal(labels.to_numpy(), np.arange(len(labels))):
        return None
    return labels
