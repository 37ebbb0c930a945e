"""Where the boxes and arrows of a drawing are.

The four steps are those of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981):

1. *Layers.* A box comes below everything that leads to it, and close to what it leads to.
2. *Lanes.* An arrow that passes a layer gets a place in it, so that it never crosses a box. The arrows that leave one
   box share their lane for as long as they go the same way: it is one table that flows there.
3. *Order.* Within the layers, boxes and lanes are sorted by the mean place of their neighbours, up and down in turn,
   then neighbours are swapped while that saves a crossing; the order with the fewest crossings is kept.
4. *Places.* Each box wants to stand below (and, on the way up, above) its neighbours. The places closest to the wanted
   ones that leave the boxes apart are an isotonic regression, which pooling adjacent violators solves exactly in one
   pass. Boxes outweigh lanes by so much that a lane is what gives way and a chain of boxes stays straight.

An arrow bends only between two layers, where there are no boxes. Every step is deterministic.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from paramsurvey.drawing.graph import Graph, Links, sorted_by_arrows
from paramsurvey.drawing.words import clean, notes_of, title_of

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Box, Drawing


Point: TypeAlias = tuple[float, float]


TITLE_SIZE: Final = 13.0
NOTE_SIZE: Final = 11.5
KIND_SIZE: Final = 10.0
HEADING_SIZE: Final = 15.0
PAD: Final = 12.0  # from the border of a box to its text, to the left and right
TITLE_LINE: Final = 36.0  # the height of a box without notes
NOTE_LINE: Final = 16.0
_BAR_LINE: Final = 11.0
_LEAST_WIDTH: Final = 116.0
_USUAL_WIDTH: Final = 180.0
BADGE: Final = 18.0  # the width of the exclamation mark and the space after it
MARGIN: Final = 20.0
_HEADING: Final = 30.0
_BETWEEN_BOXES: Final = 26.0
_BESIDE_LANE: Final = 18.0
HEAD: Final = 8.0  # the length of an arrow's head
_STRAIGHT: Final = 0.75  # below this, a step to the side is a rounding error
_BOX_WEIGHT: Final = 1.0
_LOOSE_WEIGHT: Final = 1e-4  # of a box that has no neighbours on the side that is being looked at
_LANE_WEIGHT: Final = 1e-8
_MANY_NODES: Final = 400  # from here on a picture is too large for anyone to count its crossings

_NARROW: Final = frozenset("fijlrtI.,:;!|'`()[]{}/\\- ")
_WIDE: Final = frozenset("mwMWGOQ@%&#+=<>~→…—")


def _text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a text will be, in a font with proportional letters that nobody knows beforehand."""
    total = 0.0
    for char in text:
        if char in _NARROW:
            total += 0.36
        elif char in _WIDE:
            total += 0.88
        elif unicodedata.east_asian_width(char) in "WF":
            total += 1.05
        elif not unicodedata.combining(char):
            total += 0.72 if char.isupper() else 0.61
    return total * size * (1.1 if bold else 1.0)


def _box_width(box: Box) -> float:
    first = (BADGE if box.warning else 0) + _text_width(title_of(box), TITLE_SIZE, bold=True)
    widest = max(
        first + 18 + _text_width(box.kind, KIND_SIZE), *(_text_width(note, NOTE_SIZE) for note in notes_of(box)), 0
    )
    return widest + 2 * PAD


def _box_widths(boxes: Sequence[Box]) -> list[float]:
    """Return the widths of the boxes: one width for all but those that need much more, which makes a calm picture."""
    needed = [round(_box_width(box)) for box in boxes]
    usual = max((width for width in needed if width <= _USUAL_WIDTH), default=0)
    return [float(max(width, usual, _LEAST_WIDTH)) for width in needed]


def _box_height(box: Box) -> float:
    notes = NOTE_LINE * len(box.notes)
    return TITLE_LINE + (notes and notes - 1) + (0 if box.done is None else _BAR_LINE)


@attrs.frozen
class Placed:
    """A box and where its upper left corner is."""

    box: Box
    x: float
    y: float
    width: float
    height: float


@attrs.frozen
class Band:
    """The upper and the lower edge of a layer; all boxes of the layer are between them, and no curve is."""

    top: float
    bottom: float


@attrs.frozen
class Route:
    """The way of an arrow, downwards: straight where two points are one above the other, else a curve between them."""

    start: int
    end: int
    points: tuple[Point, ...]
    """The last one is where the arrow's head begins."""

    @property
    def tip(self) -> Point:
        """Where the arrow's head ends: at the upper border of a box."""
        x, y = self.points[-1]
        return x, y + HEAD


@attrs.frozen
class Layout:
    """Where everything is, in points from the upper left corner."""

    width: float
    height: float
    boxes: tuple[Placed, ...]
    routes: tuple[Route, ...]


@attrs.frozen
class _Nodes:
    """The boxes, numbered as in the drawing, and after them the lanes: a node for each layer that they pass."""

    layer: list[int]
    """Of each node."""

    ups: Links
    downs: Links
    boxes: int
    """How many of the nodes are boxes."""

    ways: dict[tuple[int, int], list[int]]
    """For each arrow the nodes that it goes through, its ends included."""


def laid_out(drawing: Drawing) -> Layout:
    """Return where everything is."""
    top = MARGIN + (_HEADING if clean(drawing.title) else 0)
    heading = _text_width(clean(drawing.title), HEADING_SIZE, bold=True)
    graph = sorted_by_arrows(drawing)
    nodes = _with_lanes(graph, _layered(graph))
    rows = _in_order(nodes)
    widths = _box_widths(drawing.boxes) + [0.0] * (len(nodes.ups) - nodes.boxes)
    xs = _placed_across(nodes, rows, widths)
    left = min((x - width / 2 for x, width in zip(xs, widths, strict=True)), default=0)
    xs = [round(x - left + MARGIN, 1) for x in xs]
    bands = _placed_down(nodes, rows, [_box_height(box) for box in drawing.boxes], xs, top)
    boxes = []
    for box, x, width, band in zip(drawing.boxes, xs, widths, bands, strict=False):
        height = _box_height(box)
        boxes.append(Placed(box, x - width / 2, (band.top + band.bottom - height) / 2, width, height))
    right = max([heading + MARGIN, *(x + width / 2 for x, width in zip(xs, widths, strict=True))])
    return Layout(
        width=right + MARGIN,
        height=max([top, *(band.bottom for band in bands)]) + MARGIN,
        boxes=tuple(boxes),
        routes=_routes(nodes, boxes, xs, bands),
    )


def _layered(graph: Graph) -> list[int]:
    """Return the layer of each box: below all that leads to it, and then where its arrows are short.

    Moving a box down makes the arrows to it longer and those from it shorter, so one with no more of the first than of
    the second goes as far down as it can, from the last to the first; where nothing was won, it goes back up again.
    """
    layer = [0] * len(graph.order)
    for node in graph.order:
        layer[node] = max((layer[above] + 1 for above in graph.ups[node]), default=0)
    for node in reversed(graph.order):
        if graph.downs[node] and len(graph.ups[node]) <= len(graph.downs[node]):
            layer[node] = min(layer[below] for below in graph.downs[node]) - 1
    for node in graph.order:
        if graph.ups[node] and len(graph.ups[node]) >= len(graph.downs[node]):
            layer[node] = max(layer[above] for above in graph.ups[node]) + 1
    return layer


def _with_lanes(graph: Graph, layer: list[int]) -> _Nodes:
    """Return the boxes, and the lanes of the arrows that pass a layer."""
    boxes = len(layer)
    layer = list(layer)
    ups: Links = [[] for _ in layer]
    downs: Links = [[] for _ in layer]
    ways = {}
    for start in range(boxes):
        lane = [start]  # of all arrows from here, as far as the longest goes
        for end in sorted(graph.downs[start], key=lambda node: layer[node]):
            while layer[lane[-1]] < layer[end] - 1:
                node = len(layer)
                layer.append(layer[lane[-1]] + 1)
                ups.append([lane[-1]])
                downs.append([])
                downs[lane[-1]].append(node)
                lane.append(node)
            ups[end].append(lane[-1])
            downs[lane[-1]].append(end)
            ways[start, end] = [*lane, end]
    return _Nodes(layer, ups, downs, boxes, ways)


def _in_order(nodes: _Nodes) -> Links:
    """Return the nodes of each layer from left to right, so that few arrows cross."""
    first = _with_fewer_crossings(nodes, _walked(nodes, lanes_first=False))
    if not first[0] or len(nodes.layer) > _MANY_NODES:
        return first[1]
    return min(first, _with_fewer_crossings(nodes, _walked(nodes, lanes_first=True)), key=lambda found: found[0])[1]


def _walked(nodes: _Nodes, *, lanes_first: bool) -> Links:
    """Return the layers in the order in which a walk into the depth meets their nodes: no branches of a tree cross."""
    rows: Links = [[] for _ in range(max(nodes.layer, default=-1) + 1)]
    seen = [False] * len(nodes.layer)
    for source in range(nodes.boxes):
        pending = [] if nodes.ups[source] else [source]
        while pending:
            node = pending.pop()
            if not seen[node]:
                seen[node] = True
                rows[nodes.layer[node]].append(node)
                pending += sorted(nodes.downs[node], key=lambda each: ((each < nodes.boxes) != lanes_first, -each))
    return rows


def _with_fewer_crossings(nodes: _Nodes, rows: Links) -> tuple[int, Links]:
    """Return how many arrows cross at least, and the layers then."""
    place = [0] * len(nodes.layer)
    for row in rows:
        _number(row, place)
    best, fewest = [list(row) for row in rows], _crossings(nodes, rows, place)
    small = len(place) <= _MANY_NODES
    patience = 4
    for downwards in [True, False] * (8 if small else 3):
        if not fewest or not patience:
            break
        _sweep(nodes, rows, place, downwards=downwards)
        if small:
            _swap(nodes, rows, place)
        count = _crossings(nodes, rows, place)
        patience -= 1
        if count < fewest:
            best, fewest, patience = [list(row) for row in rows], count, 4
    return fewest, best


def _number(row: list[int], place: list[int]) -> None:
    for number, node in enumerate(row):
        place[node] = number


def _sweep(nodes: _Nodes, rows: Links, place: list[int], *, downwards: bool) -> None:
    """Sort each layer by the mean place of the neighbours in the layer before."""
    links = nodes.ups if downwards else nodes.downs
    for row in rows if downwards else reversed(rows):
        wanted = {
            node: sum(place[each] for each in links[node]) / len(links[node]) if links[node] else place[node]
            for node in row
        }
        row.sort(key=wanted.__getitem__)
        _number(row, place)


def _crossings(nodes: _Nodes, rows: Links, place: list[int]) -> int:
    """Return how many pairs of arrows cross, between all pairs of layers."""
    total = 0
    for row in rows:
        ends: list[int] = []  # sorted; of the arrows that begin further left
        for node in row:
            below = [place[each] for each in nodes.downs[node]]
            total += sum(len(ends) - bisect_right(ends, end) for end in below)
            for end in below:
                insort(ends, end)
    return total


def _swap(nodes: _Nodes, rows: Links, place: list[int]) -> None:
    """Swap neighbours in a layer while that saves crossings."""
    for _ in range(4):
        saved = False
        for row in rows:
            for at in range(len(row) - 1):
                left, right = row[at], row[at + 1]
                if _crossed(nodes, place, left, right) > _crossed(nodes, place, right, left):
                    row[at], row[at + 1] = right, left
                    place[left], place[right] = at + 1, at
                    saved = True
        if not saved:
            return


def _crossed(nodes: _Nodes, place: list[int], left: int, right: int) -> int:
    """Return how many arrows of two nodes cross if they stand in this order."""
    return sum(
        place[here] > place[there]
        for links in (nodes.ups, nodes.downs)
        for here in links[left]
        for there in links[right]
    )


def _placed_across(nodes: _Nodes, rows: Links, widths: list[float]) -> list[float]:
    """Return the middle of each node, from left to right."""
    layers = [(row, _offsets(row, nodes.boxes, widths)) for row in rows]
    xs = [0.0] * len(nodes.ups)
    for row, offset in layers:
        for node, x in zip(row, offset, strict=True):
            xs[node] = x - offset[-1] / 2
    best, least = xs, math.inf
    for turn in range(14):
        xs = list(xs)
        downwards = turn % 2 == 0
        links, others = (nodes.ups, nodes.downs) if downwards else (nodes.downs, nodes.ups)
        if turn < 6:  # first, a lane goes to where it leads; later it straightens itself
            others = links
        for row, offset in layers if downwards else reversed(layers):
            wanted = [_wanted(node, links, others, nodes.boxes, xs) for node in row]
            weights = [
                _LANE_WEIGHT if node >= nodes.boxes else _BOX_WEIGHT if links[node] else _LOOSE_WEIGHT for node in row
            ]
            for node, x in zip(row, _apart(wanted, weights, offset), strict=True):
                xs[node] = x
        bent = _bentness(nodes, xs)
        if bent < least * 0.999:  # not for the last digit
            best, least = xs, bent
    return best


def _offsets(row: list[int], boxes: int, widths: list[float]) -> list[float]:
    """Return the middles of the nodes of a layer when they stand as close as they may, from the first at 0."""
    offsets = [0.0] * len(row)
    for at in range(1, len(row)):
        left, right = row[at - 1], row[at]
        gap = _BETWEEN_BOXES if left < boxes and right < boxes else _BESIDE_LANE
        half = sum(widths[node] / 2 for node in (left, right) if node < boxes)
        offsets[at] = offsets[at - 1] + half + gap
    return offsets


def _wanted(node: int, links: Links, others: Links, boxes: int, xs: list[float]) -> float:
    """Return where a node would like to be: at the weighted median of its neighbours.

    For a box, the boxes among them count for more; for a lane, the lane that it continues, also on the other side.
    """
    if node >= boxes and max(links[node]) < boxes <= others[node][-1]:
        return xs[others[node][-1]]
    if not links[node]:
        return xs[node]
    sides = sorted((xs[each], 8 if (each < boxes) == (node < boxes) else 1) for each in links[node])
    half, total = sum(weight for _, weight in sides) / 2, 0
    for at, (x, weight) in enumerate(sides):
        total += weight
        if total > half:
            return x
        if total == half:
            return (x + sides[at + 1][0]) / 2
    raise AssertionError("the weights are more than half of their sum")


def _apart(wanted: list[float], weights: list[float], offsets: list[float]) -> list[float]:
    """Return the places closest to the wanted ones (by weighted squares) that are at least as far apart as the offsets.

    Without the offsets, the places only have to ascend: neighbours that do not are pooled at their mean.
    """
    blocks: list[list[float]] = []  # each: sum of weight * place, sum of weights, how many
    for place, weight, offset in zip(wanted, weights, offsets, strict=True):
        blocks.append([weight * (place - offset), weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [mine + its for mine, its in zip(blocks[-1], last, strict=True)]
    places = [total / weight for total, weight, count in blocks for _ in range(int(count))]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]


def _bentness(nodes: _Nodes, xs: list[float]) -> float:
    """Return how far all arrows go to the side; between boxes it counts for more, along lanes for most."""
    total = 0.0
    for node, below in enumerate(nodes.downs):
        for each in below:
            lanes = (node >= nodes.boxes) + (each >= nodes.boxes)
            total += abs(xs[node] - xs[each]) * (4, 1, 8)[lanes]
    return total


def _placed_down(nodes: _Nodes, rows: Links, heights: list[float], xs: list[float], top: float) -> list[Band]:
    """Return for each node where its layer is; the layers are further apart where arrows go far to the side."""
    bands = [Band(top, top)] * len(xs)
    for row in rows:
        band = Band(top, top + max((heights[node] for node in row if node < nodes.boxes), default=0.0))
        far = max((abs(xs[node] - xs[each]) for node in row for each in nodes.downs[node]), default=0.0)
        for node in row:
            bands[node] = band
        top = band.bottom + 34 + min(60, round(far / 8))
    return bands


def _routes(nodes: _Nodes, boxes: list[Placed], xs: list[float], bands: list[Band]) -> tuple[Route, ...]:
    """Return the ways of all arrows: upright through the layers, and to the side only between them."""
    routes = []
    for (start, end), way in nodes.ways.items():
        x = xs[start]
        points = [(x, boxes[start].y + boxes[start].height), (x, bands[start].bottom)]
        for node in way[1:]:
            x = xs[node] if abs(xs[node] - x) > _STRAIGHT else x
            if node == end:
                points += [(x, bands[end].top - HEAD), (x, boxes[end].y - HEAD)]
            else:
                points += [(x, bands[node].top), (x, bands[node].bottom)]
        routes.append(Route(start, end, tuple(dict.fromkeys(points))))
    return tuple(routes)


def strokes(routes: Sequence[Route]) -> list[list[Point]]:
    """Return what is to be drawn of some routes, where none is drawn twice that several go together."""
    steps = dict.fromkeys(step for route in routes for step in pairwise(route.points))
    strokes: list[list[Point]] = []
    for start, end in steps:
        if not strokes or strokes[-1][-1] != start:
            strokes.append([start, end])
        elif len(strokes[-1]) > 1 and strokes[-1][-2][0] == start[0] == end[0]:
            strokes[-1][-1] = end  # straight on
        else:
            strokes[-1].append(end)
    return strokes


def bends(stroke: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Yield the points of a line (1) or of a cubic curve (3) for each step; the curves begin and end upright."""
    for (x0, y0), (x1, y1) in pairwise(stroke):
        middle = (y0 + y1) / 2
        yield ((x1, y1),) if x0 == x1 else ((x0, middle), (x1, middle), (x1, y1))


def by_start(routes: Iterable[Route]) -> dict[int, list[Route]]:
    """Put the arrows that leave one box together."""
    groups: dict[int, list[Route]] = {}
    for route in routes:
        groups.setdefault(route.start, []).append(route)
    return groups
