"""Pictures of boxes and arrows: SVG, PNG, Mermaid and text, without Graphviz.

It knows nothing of pipelines: whoever wants a picture says which boxes there are, what is written into them, and which
follows which. The layout has four steps, those of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981):

1. *Layers.* A box comes below everything that leads to it, and close to what it leads to.
2. *Lanes.* An arrow that passes a layer gets a place in it, so that it never crosses a box. The arrows that leave one
   box share their lane for as long as they go the same way: it is one table that flows there.
3. *Order.* Within the layers, boxes and lanes are sorted by the mean place of their neighbours, up and down in turn,
   then neighbours are swapped while that saves a crossing; the order with the fewest crossings is kept.
4. *Places.* Each box wants to stand below (and, on the way up, above) its neighbours. The places closest to the wanted
   ones that leave the boxes apart are an isotonic regression, which pooling adjacent violators solves exactly in one
   pass. Boxes outweigh lanes by so much that a lane is what gives way and a chain of boxes stays straight.

An arrow bends only between two layers, where there are no boxes. Every step is deterministic: the same boxes and arrows
give the same bytes. The text has a layout of its own, a line for each box, with the lanes to its left.
"""

from __future__ import annotations

import html
import math
import os
import re
import unicodedata
import warnings
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from paramsurvey.errors import BackendError, OptionError, StageError

Kind: TypeAlias = Literal["source", "map", "rows", "table"]
Arrow: TypeAlias = tuple[str, str]
Point: TypeAlias = tuple[float, float]
Links: TypeAlias = list[list[int]]
"""For each node its neighbours on one side, by number."""

SUFFIXES: Final = (".svg", ".png", ".mmd")


# What a picture is made of ------------------------------------------------------------------------------------------


def _share(box: Box, _: object, done: float | None) -> None:
    if done is not None and not 0 <= done <= 1:
        raise StageError(f"box {box.name!r} has done={done!r}: give the finished share, from 0 to 1, or None")


def _known_kind(box: Box, _: object, kind: str) -> None:
    if kind not in get_args(Kind):
        raise StageError(f"box {box.name!r} has the kind {kind!r}; there are: {', '.join(get_args(Kind))}")


@attrs.frozen
class Box:
    """One box of a picture.

    Parameters
    ----------
    name : str
        What arrows call it; no two boxes of a drawing have the same.
    kind : {"source", "map", "rows", "table"}
        Written small into its corner, and its colour.
    title : str
        What is written into it, large.
    notes : tuple of str
        What is written below the title, a line each.
    warning : bool
        Whether something failed there: it gets a warm colour and an exclamation mark.
    done : float or None
        The finished share, from 0 to 1, for a thin bar; None for no bar.

    Raises
    ------
    StageError
        If the kind is unknown, or the share is not between 0 and 1.

    Examples
    --------
    >>> Box("coverage", "map", "coverage", notes=("1,200 rows", "3 missing"), warning=True).notes
    ('1,200 rows', '3 missing')
    """

    name: str
    kind: Kind = attrs.field(validator=_known_kind)
    title: str
    notes: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    warning: bool = False
    done: float | None = attrs.field(default=None, validator=_share)


def _unique_arrows(arrows: Iterable[Arrow]) -> tuple[Arrow, ...]:
    return tuple(dict.fromkeys((start, end) for start, end in arrows))


@attrs.frozen
class Drawing:
    """Boxes and arrows, to be shown in several ways.

    Notebooks show it as a picture; printed, it is text.

    Parameters
    ----------
    title : str
        Of the whole; may be empty.
    boxes : tuple of Box
        In the order in which equals are shown, from left to right.
    arrows : tuple of (str, str)
        From which box to which, by name. They must not go round in a circle; one that is given twice is drawn once.

    Raises
    ------
    StageError
        If two boxes have one name, an arrow has an unknown end, or the arrows go round in a circle.

    Examples
    --------
    >>> boxes = [Box("s", "source", "stations"), Box("q", "map", "quality", notes=("40 rows",))]
    >>> drawing = Drawing("array", boxes, [("s", "q")])
    >>> print(drawing)
    array
    ○ stations  source
    ◆ quality   map     40 rows
    >>> drawing.svg()[:4]
    '<svg'
    """

    title: str
    boxes: tuple[Box, ...] = attrs.field(converter=tuple)
    arrows: tuple[Arrow, ...] = attrs.field(converter=_unique_arrows)

    def __attrs_post_init__(self) -> None:
        names = {box.name for box in self.boxes}
        if len(names) < len(self.boxes):
            listed = [box.name for box in self.boxes]
            twice = next(name for name in listed if listed.count(name) > 1)
            raise StageError(f"two boxes of the drawing {self.title!r} are called {twice!r}: rename one of them")
        for arrow in self.arrows:
            for end in arrow:
                if end not in names:
                    raise StageError(
                        f"an arrow of the drawing {self.title!r} goes {arrow[0]!r} → {arrow[1]!r}, but it has no box "
                        f"{end!r}; it has: {', '.join(repr(box.name) for box in self.boxes)}"
                    )
        _sorted_by_arrows(self)

    def svg(self) -> str:
        """Return the picture as SVG, which needs nothing from outside and follows the reader's light or dark scheme.

        Examples
        --------
        >>> "<title>fish &amp; chips</title>" in Drawing("fish & chips", [Box("a", "map", "a")], []).svg()
        True
        """
        return _svg(self, _laid_out(self))

    def mermaid(self) -> str:
        """Return the picture as the text of a Mermaid flowchart, which wikis and code hosts draw themselves.

        Mermaid refuses more than 500 arrows unless it is configured otherwise.

        Examples
        --------
        >>> print(Drawing("", [Box("a", "source", "a"), Box("b", "map", "b")], [("a", "b")]).mermaid())
        flowchart TD
            box0(["a<br/>source"]):::source
            box1["b<br/>map"]:::map
            box0 --> box1
            ...
        """
        return _mermaid(self)

    def text(self, *, width: int = 80, unicode: bool = True) -> str:
        """Return the picture as text, a line for each box.

        Lines go down from each box, which is marked ○ if nothing leads to it, to those that need what it gives; ◆ is
        one that nothing follows. With too many lines side by side, a box names those before it instead.

        Parameters
        ----------
        width : int
            No line has more columns than this, and none fewer than 20.
        unicode : bool
            Whether the terminal can show more than ASCII.

        Examples
        --------
        >>> boxes = [Box(name, "map", name) for name in ("load", "left", "right", "both")]
        >>> arrows = [("load", "left"), ("load", "right"), ("left", "both"), ("right", "both")]
        >>> print(Drawing("", boxes, arrows).text())
        ○ load     map
        ├─● left   map
        ● │ right  map
        ◆─╯ both   map
        >>> print(Drawing("", boxes, arrows).text(unicode=False))
        o load     map
        |-* left   map
        * | right  map
        #-' both   map
        """
        return _text(self, max(width, 20), _UNICODE if unicode else _ASCII)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file, as its suffix says.

        Parameters
        ----------
        path : path
            It ends in ``.svg``, ``.png`` or ``.mmd``. A PNG needs matplotlib.

        Raises
        ------
        OptionError
            If the suffix is another one, or the folder does not exist.
        BackendError
            If matplotlib is needed and is not installed.

        Examples
        --------
        >>> Drawing("", [Box("a", "map", "a")], []).save("picture.pdf")
        Traceback (most recent call last):
            ...
        paramsurvey.errors.OptionError: a drawing cannot be saved as 'picture.pdf': end the name in .svg, .png or .mmd
        """
        file = Path(path)
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES:
            raise OptionError(f"a drawing cannot be saved as {str(file)!r}: end the name in .svg, .png or .mmd")
        if not file.parent.is_dir():
            raise OptionError(
                f"a drawing cannot be saved as {str(file)!r}: there is no folder {str(file.parent)!r}; make it first"
            )
        if suffix == ".png":
            _save_png(self, _laid_out(self), file)
        else:
            file.write_text(self.svg() if suffix == ".svg" else self.mermaid(), encoding="utf-8", newline="\n")

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - IPython's signature
        printer.text(self.text())

    def __str__(self) -> str:
        return self.text()


@attrs.frozen
class _Graph:
    """The arrows as numbers of boxes, both ways, and an order in which they all go forward."""

    ups: Links
    downs: Links
    order: list[int]


def _sorted_by_arrows(drawing: Drawing) -> _Graph:
    numbers = {box.name: number for number, box in enumerate(drawing.boxes)}
    ups: Links = [[] for _ in numbers]
    downs: Links = [[] for _ in numbers]
    for start, end in drawing.arrows:
        downs[numbers[start]].append(numbers[end])
        ups[numbers[end]].append(numbers[start])
    waits = [len(each) for each in ups]
    order = [node for node, count in enumerate(waits) if not count]
    for node in order:  # it grows meanwhile
        for below in downs[node]:
            waits[below] -= 1
            if not waits[below]:
                order.append(below)
    if len(order) < len(numbers):
        # what is left may also lie behind the circle, so go upwards until a box comes again
        names, left = [box.name for box in drawing.boxes], [node for node, count in enumerate(waits) if count]
        path = [left[0]]
        while path[-1] not in path[:-1]:
            path.append(next(above for above in ups[path[-1]] if waits[above]))
        circle = path[path.index(path[-1]) :]
        raise StageError(
            f"the arrows of the drawing {drawing.title!r} go round in a circle: "
            f"{' → '.join(repr(names[node]) for node in reversed(circle))}; take one of them away"
        )
    return _Graph(ups, downs, order)


# Text that is safe everywhere ---------------------------------------------------------------------------------------

_LONGEST_TITLE: Final = 32
_LONGEST_NOTE: Final = 40
_SPELT: Final = {
    "×": "x",  # noqa: RUF001 - what is replaced
    "–": "-",  # noqa: RUF001 - the same
    "’": "'",  # noqa: RUF001 - the same
    "—": "-",
    "“": '"',
    "”": '"',
    "·": ".",
    "…": "...",
    "→": "->",
    "µ": "u",
    "μ": "u",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "∞": "inf",
}


def _clean(text: str) -> str:
    """Return a text on one line without what has no place in a picture: controls, formats, halves of characters."""
    kept = (
        " " if char.isspace() else "" if unicodedata.category(char) == "Cf" else char if char.isprintable() else "�"
        for char in str(text)
    )
    return " ".join("".join(kept).split())


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut(text: str, columns: int, dots: str) -> str:
    """Return a text with its end cut off, if it is longer than so many columns."""
    if _columns(text) <= columns:
        return text
    while text and _columns(text) + len(dots) > columns:
        text = text[:-1]
    return text.rstrip() + dots


def _shortened(text: str, columns: int, dots: str = "…") -> str:
    """Return a text with its middle cut out, if it is too long: both its ends may be what tells it from others."""
    if _columns(text) <= columns:
        return text
    tail = text[len(text) - max(1, (columns - len(dots)) // 3) :].lstrip()
    return _cut(text, columns - _columns(tail), dots) + tail


def _in_ascii(text: str) -> str:
    plain = "".join(_SPELT.get(char, char) for char in text)
    plain = unicodedata.normalize("NFKD", plain)
    return "".join(char for char in plain if not unicodedata.combining(char)).encode("ascii", "replace").decode()


def _title_of(box: Box) -> str:
    return _shortened(_clean(box.title), _LONGEST_TITLE)


def _notes_of(box: Box) -> list[str]:
    return [_shortened(_clean(note), _LONGEST_NOTE) for note in box.notes]


def _spoken(box: Box) -> str:
    """Return all that is known of a box, at full length: what is shown when a reader points at it."""
    done = [] if box.done is None else [f"{_percent(box.done)} finished"]
    return ", ".join([f"{_clean(box.title)} ({box.kind})", *map(_clean, box.notes), *done])


def _percent(done: float) -> str:
    """Return a share in percent; only all of it is 100 %."""
    return f"{min(99, round(100 * done)) if done < 1 else 100} %"


# The layout ---------------------------------------------------------------------------------------------------------

_TITLE_SIZE: Final = 13.0
_NOTE_SIZE: Final = 11.5
_KIND_SIZE: Final = 10.0
_HEADING_SIZE: Final = 15.0
_PAD: Final = 12.0  # from the border of a box to its text, to the left and right
_TITLE_LINE: Final = 36.0  # the height of a box without notes
_NOTE_LINE: Final = 16.0
_BAR_LINE: Final = 11.0
_LEAST_WIDTH: Final = 116.0
_USUAL_WIDTH: Final = 180.0
_BADGE: Final = 18.0  # the width of the exclamation mark and the space after it
_MARGIN: Final = 20.0
_HEADING: Final = 30.0
_BETWEEN_BOXES: Final = 26.0
_BESIDE_LANE: Final = 18.0
_HEAD: Final = 8.0  # the length of an arrow's head
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
    first = (_BADGE if box.warning else 0) + _text_width(_title_of(box), _TITLE_SIZE, bold=True)
    widest = max(
        first + 18 + _text_width(box.kind, _KIND_SIZE), *(_text_width(note, _NOTE_SIZE) for note in _notes_of(box)), 0
    )
    return widest + 2 * _PAD


def _box_widths(boxes: Sequence[Box]) -> list[float]:
    """Return the widths of the boxes: one width for all but those that need much more, which makes a calm picture."""
    needed = [round(_box_width(box)) for box in boxes]
    usual = max((width for width in needed if width <= _USUAL_WIDTH), default=0)
    return [float(max(width, usual, _LEAST_WIDTH)) for width in needed]


def _box_height(box: Box) -> float:
    notes = _NOTE_LINE * len(box.notes)
    return _TITLE_LINE + (notes and notes - 1) + (0 if box.done is None else _BAR_LINE)


@attrs.frozen
class _Placed:
    """A box and where its upper left corner is."""

    box: Box
    x: float
    y: float
    width: float
    height: float


@attrs.frozen
class _Band:
    """The upper and the lower edge of a layer; all boxes of the layer are between them, and no curve is."""

    top: float
    bottom: float


@attrs.frozen
class _Route:
    """The way of an arrow, downwards: straight where two points are one above the other, else a curve between them."""

    start: int
    end: int
    points: tuple[Point, ...]
    """The last one is where the arrow's head begins."""

    @property
    def tip(self) -> Point:
        """Where the arrow's head ends: at the upper border of a box."""
        x, y = self.points[-1]
        return x, y + _HEAD


@attrs.frozen
class _Layout:
    width: float
    height: float
    boxes: tuple[_Placed, ...]
    routes: tuple[_Route, ...]


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


def _laid_out(drawing: Drawing) -> _Layout:
    """Return where everything is."""
    top = _MARGIN + (_HEADING if _clean(drawing.title) else 0)
    heading = _text_width(_clean(drawing.title), _HEADING_SIZE, bold=True)
    graph = _sorted_by_arrows(drawing)
    nodes = _with_lanes(graph, _layered(graph))
    rows = _in_order(nodes)
    widths = _box_widths(drawing.boxes) + [0.0] * (len(nodes.ups) - nodes.boxes)
    xs = _placed_across(nodes, rows, widths)
    left = min((x - width / 2 for x, width in zip(xs, widths, strict=True)), default=0)
    xs = [round(x - left + _MARGIN, 1) for x in xs]
    bands = _placed_down(nodes, rows, [_box_height(box) for box in drawing.boxes], xs, top)
    boxes = []
    for box, x, width, band in zip(drawing.boxes, xs, widths, bands, strict=False):
        height = _box_height(box)
        boxes.append(_Placed(box, x - width / 2, (band.top + band.bottom - height) / 2, width, height))
    right = max([heading + _MARGIN, *(x + width / 2 for x, width in zip(xs, widths, strict=True))])
    return _Layout(
        width=right + _MARGIN,
        height=max([top, *(band.bottom for band in bands)]) + _MARGIN,
        boxes=tuple(boxes),
        routes=_routes(nodes, boxes, xs, bands),
    )


def _layered(graph: _Graph) -> list[int]:
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


def _with_lanes(graph: _Graph, layer: list[int]) -> _Nodes:
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


def _placed_down(nodes: _Nodes, rows: Links, heights: list[float], xs: list[float], top: float) -> list[_Band]:
    """Return for each node where its layer is; the layers are further apart where arrows go far to the side."""
    bands = [_Band(top, top)] * len(xs)
    for row in rows:
        band = _Band(top, top + max((heights[node] for node in row if node < nodes.boxes), default=0.0))
        far = max((abs(xs[node] - xs[each]) for node in row for each in nodes.downs[node]), default=0.0)
        for node in row:
            bands[node] = band
        top = band.bottom + 34 + min(60, round(far / 8))
    return bands


def _routes(nodes: _Nodes, boxes: list[_Placed], xs: list[float], bands: list[_Band]) -> tuple[_Route, ...]:
    """Return the ways of all arrows: upright through the layers, and to the side only between them."""
    routes = []
    for (start, end), way in nodes.ways.items():
        x = xs[start]
        points = [(x, boxes[start].y + boxes[start].height), (x, bands[start].bottom)]
        for node in way[1:]:
            x = xs[node] if abs(xs[node] - x) > _STRAIGHT else x
            if node == end:
                points += [(x, bands[end].top - _HEAD), (x, boxes[end].y - _HEAD)]
            else:
                points += [(x, bands[node].top), (x, bands[node].bottom)]
        routes.append(_Route(start, end, tuple(dict.fromkeys(points))))
    return tuple(routes)


def _strokes(routes: Sequence[_Route]) -> list[list[Point]]:
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


def _bends(stroke: Sequence[Point]) -> Iterator[tuple[Point, ...]]:
    """Yield the points of a line (1) or of a cubic curve (3) for each step; the curves begin and end upright."""
    for (x0, y0), (x1, y1) in pairwise(stroke):
        middle = (y0 + y1) / 2
        yield ((x1, y1),) if x0 == x1 else ((x0, middle), (x1, middle), (x1, y1))


def _by_start(routes: Iterable[_Route]) -> dict[int, list[_Route]]:
    groups: dict[int, list[_Route]] = {}
    for route in routes:
        groups.setdefault(route.start, []).append(route)
    return groups


# Colours ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Paint:
    """The colours of a box: its ground, its border and bar, and the small words in it."""

    ground: str
    line: str
    word: str


@attrs.frozen
class _Scheme:
    """All colours of a picture; words on their ground have a contrast of at least 4.5 (WCAG 2.1, AA)."""

    back: str
    ink: str
    dim: str
    arrow: str
    track: str
    badge: str
    boxes: dict[str, _Paint]
    """By kind, and one for "warning"."""


_LIGHT: Final = _Scheme(
    back="#ffffff",
    ink="#1f2328",
    dim="#4f5965",
    arrow="#7d8793",
    track="#d4d9df",
    badge="#ffffff",
    boxes={
        "source": _Paint("#f2f0e9", "#9a937c", "#696247"),
        "map": _Paint("#e5effb", "#5b8fcb", "#2b5f9e"),
        "rows": _Paint("#e6f4ea", "#5fa67c", "#2a6b45"),
        "table": _Paint("#f0eafa", "#9678c8", "#68459f"),
        "warning": _Paint("#fdebdc", "#d9641e", "#a03f0b"),
    },
)
_DARK: Final = _Scheme(
    back="#15191f",
    ink="#e8edf3",
    dim="#a9b3bf",
    arrow="#7f8a97",
    track="#3d454f",
    badge="#15191f",
    boxes={
        "source": _Paint("#2a2a27", "#8d8870", "#c4bea4"),
        "map": _Paint("#1a2a40", "#5189cb", "#8fbcf0"),
        "rows": _Paint("#182e22", "#4f9b6d", "#87cfa4"),
        "table": _Paint("#2a2240", "#8d6fc6", "#c3aaf2"),
        "warning": _Paint("#3d2414", "#e27a35", "#f6b184"),
    },
)


def _paint_of(box: Box) -> str:
    return "warning" if box.warning else box.kind


# SVG ----------------------------------------------------------------------------------------------------------------

_SHRINKING: Final = "@media screen{.paramsurvey{max-width:100%;height:auto}}"
"""A picture too wide for its page. Converters know no screen, and some would take "auto" for a number."""

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"


def _svg(drawing: Drawing, layout: _Layout) -> str:
    """Write a layout as SVG.

    The light colours are attributes, which every program understands; where the reader's scheme is dark, a style
    sheet overrides them. Its names begin with ``ps-``, since it applies to the whole page that the picture is part of.
    """
    width, height = _number_of(layout.width), _number_of(layout.height)
    title = _clean(drawing.title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="paramsurvey" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONT}">',
        f"<title>{_escaped(title or 'pipeline')}</title>",
        f"<style>{_SHRINKING}@media (prefers-color-scheme:dark){{{_dark_rules()}}}</style>",
        f'<rect class="ps-back" width="{width}" height="{height}" rx="8" fill="{_LIGHT.back}"/>',
    ]
    if title:
        lines.append(_svg_text(_MARGIN, _MARGIN + 13, title, _HEADING_SIZE, "ps-ink", _LIGHT.ink, 'font-weight="600"'))
    lines += _svg_arrows(layout.routes)
    for placed in layout.boxes:
        lines += _svg_box(placed)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _dark_rules() -> str:
    rules = {
        "ps-back": f"fill:{_DARK.back}",
        "ps-ink": f"fill:{_DARK.ink}",
        "ps-dim": f"fill:{_DARK.dim}",
        "ps-arrow": f"stroke:{_DARK.arrow}",
        "ps-head": f"fill:{_DARK.arrow}",
        "ps-track": f"fill:{_DARK.track}",
        "ps-badge": f"fill:{_DARK.badge}",
    }
    for name, paint in _DARK.boxes.items():
        rules[f"ps-{name}"] = f"fill:{paint.ground};stroke:{paint.line}"
        rules[f"ps-{name}-line"] = f"fill:{paint.line}"
        rules[f"ps-{name}-word"] = f"fill:{paint.word}"
    return "".join(f".paramsurvey .{name}{{{rule}}}" for name, rule in rules.items())


def _svg_arrows(routes: Sequence[_Route]) -> Iterator[str]:
    for group in _by_start(routes).values():
        path = " ".join(_svg_path(stroke) for stroke in _strokes(group))
        yield f'<path class="ps-arrow" d="{path}" fill="none" stroke="{_LIGHT.arrow}" stroke-width="1.5"/>'
    for x, y in dict.fromkeys(route.tip for route in routes):
        x0, x1, x2, y0, y1 = (_number_of(each) for each in (x - 4.5, x + 4.5, x, y - _HEAD - 0.5, y - 0.5))
        yield f'<path class="ps-head" d="M{x0} {y0}L{x1} {y0}L{x2} {y1}Z" fill="{_LIGHT.arrow}"/>'


def _svg_path(stroke: Sequence[Point]) -> str:
    bends = (("L" if len(bend) == 1 else "C") + " ".join(map(_point, bend)) for bend in _bends(stroke))
    return f"M{_point(stroke[0])}{''.join(bends)}"


def _svg_box(placed: _Placed) -> Iterator[str]:
    box, paint = placed.box, _LIGHT.boxes[_paint_of(placed.box)]
    name = f"ps-{_paint_of(box)}"
    x, y, baseline = placed.x + _PAD, placed.y, placed.y + _TITLE_LINE / 2 + 4.5
    yield f"<g><title>{_escaped(_spoken(box))}</title>"
    yield (
        f'<rect class="{name}" x="{_number_of(placed.x)}" y="{_number_of(y)}" width="{_number_of(placed.width)}" '
        f'height="{_number_of(placed.height)}" rx="7" fill="{paint.ground}" stroke="{paint.line}" '
        f'stroke-width="{2 if box.warning else 1.25}"/>'
    )
    if box.warning:
        at = f'cx="{_number_of(x + 6)}" cy="{_number_of(baseline - 4.5)}"'
        yield f'<circle class="{name}-line" {at} r="6.5" fill="{paint.line}"/>'
        centred = 'font-weight="700" text-anchor="middle"'
        yield _svg_text(x + 6, baseline - 0.9, "!", _KIND_SIZE, "ps-badge", _LIGHT.badge, centred)
        x += _BADGE
    yield _svg_text(x, baseline, _title_of(box), _TITLE_SIZE, "ps-ink", _LIGHT.ink, 'font-weight="600"')
    right = placed.x + placed.width - _PAD
    yield _svg_text(right, baseline, box.kind, _KIND_SIZE, f"{name}-word", paint.word, 'text-anchor="end"')
    for number, note in enumerate(_notes_of(box)):
        colours = (f"{name}-word", paint.word) if box.warning else ("ps-dim", _LIGHT.dim)
        yield _svg_text(placed.x + _PAD, baseline + 17 + _NOTE_LINE * number, note, _NOTE_SIZE, *colours)
    if box.done is not None:
        bar, top = placed.width - 2 * _PAD, _number_of(y + placed.height - 13)
        for part, css, colour in ((1.0, "ps-track", _LIGHT.track), (box.done, f"{name}-line", paint.line)):
            yield (
                f'<rect class="{css}" x="{_number_of(placed.x + _PAD)}" y="{top}" width="{_number_of(bar * part)}" '
                f'height="4" rx="2" fill="{colour}"/>'
            )
    yield "</g>"


def _svg_text(x: float, y: float, text: str, size: float, css: str, colour: str, more: str = "") -> str:
    return (
        f'<text class="{css}" x="{_number_of(x)}" y="{_number_of(y)}" font-size="{_number_of(size)}" '
        f'fill="{colour}"{more and " " + more}>{_escaped(text)}</text>'
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _number_of(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _point(point: Point) -> str:
    return f"{_number_of(point[0])} {_number_of(point[1])}"


# PNG ----------------------------------------------------------------------------------------------------------------

_DPI: Final = 144
_MOST_PIXELS: Final = 12_000
"""Of the longer side: larger pictures get smaller letters; readers of images give up at 16,000 to 65,000."""

_LEAST_LETTERS: Final = 3.5
"""In pixels: smaller ones nobody can read, and they take seconds."""

_PNG_FONT: Final = {"family": "DejaVu Sans", "parse_math": False}  # it comes with matplotlib
_PNG_LETTERS: Final = 0.9
"""DejaVu is wider than what browsers take, so it is set smaller."""


def _save_png(drawing: Drawing, layout: _Layout, file: Path) -> None:
    """Write a layout as PNG, without touching what the user does with matplotlib's pyplot."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise BackendError(
            f"a drawing cannot be saved as {str(file)!r} without matplotlib: pip install 'paramsurvey[plot]', "
            "or save it as .svg"
        ) from exc
    with mpl.rc_context({"text.usetex": False, "path.sketch": None, "path.effects": []}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # an empty rectangle says it, too
        dpi = min(_DPI, 72 * _MOST_PIXELS / max(layout.width, layout.height))
        readable = _NOTE_SIZE * dpi / 72 >= _LEAST_LETTERS
        figure = Figure(figsize=(layout.width / 72, layout.height / 72), dpi=dpi, facecolor=_LIGHT.back)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, layout.width), ylim=(layout.height, 0))
        axes.axis("off")
        title = _clean(drawing.title)
        if title:
            _png_text(axes, _MARGIN, _MARGIN + 13, title, _HEADING_SIZE, _LIGHT.ink, weight="bold")
        _png_arrows(axes, layout.routes)
        for placed in layout.boxes:
            _png_box(axes, placed)
            if readable:
                _png_words(axes, placed)
        canvas.print_png(str(file))  # type: ignore[no-untyped-call]


def _png_arrows(axes: Any, routes: Sequence[_Route]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    for group in _by_start(routes).values():
        points: list[Point] = []
        codes: list[Any] = []
        for stroke in _strokes(group):
            points.append(stroke[0])
            codes.append(Line.MOVETO)
            for bend in _bends(stroke):
                points += bend
                codes += [Line.LINETO if len(bend) == 1 else Line.CURVE4] * len(bend)
        axes.add_patch(PathPatch(Line(points, codes), fill=False, edgecolor=_LIGHT.arrow, linewidth=1.5))
    tips = dict.fromkeys(route.tip for route in routes)
    heads = [[(x - 4.5, y - _HEAD - 0.5), (x + 4.5, y - _HEAD - 0.5), (x, y - 0.5)] for x, y in tips]
    axes.add_collection(PolyCollection(heads, facecolor=_LIGHT.arrow), autolim=False)


def _png_box(axes: Any, placed: _Placed) -> None:
    box, paint = placed.box, _LIGHT.boxes[_paint_of(placed.box)]
    corner = (placed.x, placed.y, placed.width, placed.height)
    _png_round(axes, *corner, 7, facecolor=paint.ground, edgecolor=paint.line, linewidth=2 if box.warning else 1.25)
    if box.done is not None:
        bar, top = placed.width - 2 * _PAD, placed.y + placed.height - 13
        _png_round(axes, placed.x + _PAD, top, bar, 4, 2, facecolor=_LIGHT.track, linewidth=0)
        if box.done:
            _png_round(axes, placed.x + _PAD, top, bar * box.done, 4, 2, facecolor=paint.line, linewidth=0)


def _png_words(axes: Any, placed: _Placed) -> None:
    from matplotlib.patches import Circle

    box, paint = placed.box, _LIGHT.boxes[_paint_of(placed.box)]
    x, baseline = placed.x + _PAD, placed.y + _TITLE_LINE / 2 + 4.5
    if box.warning:
        axes.add_patch(Circle((x + 6, baseline - 4.5), 6.5, facecolor=paint.line, linewidth=0))
        _png_text(axes, x + 6, baseline - 0.9, "!", _KIND_SIZE, _LIGHT.badge, weight="bold", ha="center")
        x += _BADGE
    _png_text(axes, x, baseline, _title_of(box), _TITLE_SIZE, _LIGHT.ink, weight="bold")
    _png_text(axes, placed.x + placed.width - _PAD, baseline, box.kind, _KIND_SIZE, paint.word, ha="right")
    for number, note in enumerate(_notes_of(box)):
        colour = paint.word if box.warning else _LIGHT.dim
        _png_text(axes, placed.x + _PAD, baseline + 17 + _NOTE_LINE * number, note, _NOTE_SIZE, colour)


def _png_round(axes: Any, x: float, y: float, width: float, height: float, radius: float, **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    radius = min(radius, width / 2)
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **look))


def _png_text(axes: Any, x: float, y: float, text: str, size: float, colour: str, **look: Any) -> None:
    axes.text(x, y, text, fontsize=size * _PNG_LETTERS, color=colour, va="baseline", **_PNG_FONT, **look)


# Mermaid ------------------------------------------------------------------------------------------------------------

_SHAPES: Final = {"source": ('(["', '"])'), "map": ('["', '"]'), "rows": ('("', '")'), "table": ('[["', '"]]')}
_LIST_MARK: Final = re.compile(r"^(\d+)([.)])(?=\s|$)|^([-+])(?=\s|$)")
"""What would make a list of a label."""


def _mermaid(drawing: Drawing) -> str:
    numbers = {box.name: number for number, box in enumerate(drawing.boxes)}
    title = _clean(drawing.title)
    lines = ["---", f"title: {_yaml(title)}", "---"] if title else []
    lines.append("flowchart TD")
    for number, box in enumerate(drawing.boxes):
        before, after = _SHAPES[box.kind]
        lines.append(f"    box{number}{before}{_mermaid_label(box)}{after}:::{_paint_of(box)}")
    lines += [f"    box{numbers[start]} --> box{numbers[end]}" for start, end in drawing.arrows]
    for name in dict.fromkeys(_paint_of(box) for box in drawing.boxes):
        paint = _LIGHT.boxes[name]
        width = ",stroke-width:2px" if name == "warning" else ""
        lines.append(f"    classDef {name} fill:{paint.ground},stroke:{paint.line},color:{_LIGHT.ink}{width}")
    return "\n".join(lines) + "\n"


def _mermaid_label(box: Box) -> str:
    done = [] if box.done is None else [f"{_percent(box.done)} finished"]
    title = ("! " if box.warning else "") + _title_of(box)
    return "<br/>".join(_mermaid_escaped(line) for line in [title, box.kind, *_notes_of(box), *done])


def _mermaid_escaped(text: str) -> str:
    """Return a text with all that Mermaid, Markdown or HTML would read as a mark written by its number."""
    text = re.sub(r"[^\x80-\U0010ffff\w .,:()/%!?'=+-]", lambda found: f"#{ord(found[0])};", text)
    return _LIST_MARK.sub(lambda found: (found[1] or "") + f"#{ord(found[2] or found[3])};", text)


def _yaml(text: str) -> str:
    """Return a text as a string of YAML; without controls, only two characters need an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Text ---------------------------------------------------------------------------------------------------------------

_BAR: Final = 8  # columns


@attrs.frozen
class _Glyphs:
    """What lines and marks are made of; `corner` is where a line from above ends to the right, `end` to the left."""

    source: str
    box: str
    sink: str
    pipe: str
    dash: str
    right: str
    left: str
    both: str
    corner: str
    end: str
    joint: str
    full: str
    empty: str
    dots: str
    back: str


_UNICODE: Final = _Glyphs("○", "●", "◆", "│", "─", "├", "┤", "┼", "╰", "╯", "┴", "█", "░", "…", "←")
_ASCII: Final = _Glyphs("o", "*", "#", "|", "-", "|", "|", "+", "`", "'", "'", "#", ".", "...", "<-")


def _text(drawing: Drawing, width: int, glyphs: _Glyphs) -> str:
    graph = _sorted_by_arrows(drawing)
    order = _told(graph)
    ascii_only = glyphs is _ASCII

    def plain(text: str) -> str:
        return _in_ascii(_clean(text)) if ascii_only else _clean(text)

    titles = [_shortened(plain(box.title), _LONGEST_TITLE, glyphs.dots) for box in drawing.boxes]
    stems = _stems(graph, order, glyphs)
    named = max((len(stem) for stem in stems), default=0) > width // 3
    rows = []
    for node, stem in zip(order, stems, strict=True):
        box = drawing.boxes[node]
        notes = [_shortened(plain(note), _LONGEST_NOTE, glyphs.dots) for note in box.notes]
        start = _mark(graph, node, glyphs) if named else stem
        cells = [f"{start} {titles[node]}"]
        if named:
            cells.append(_named([titles[above] for above in graph.ups[node]], glyphs))
        rows.append([*cells, "!" if box.warning else "", box.kind, _bar(box.done, glyphs), *notes])
    heading = plain(drawing.title)
    lines = [*([heading] if heading else []), *_aligned(rows)]
    return "\n".join(_cut(line, width, glyphs.dots) for line in lines)


def _told(graph: _Graph) -> list[int]:
    """Return the boxes in the order in which they are told: each right after what it needs, the longest story first."""
    depth = [0] * len(graph.order)
    for node in graph.order:
        depth[node] = max((depth[above] + 1 for above in graph.ups[node]), default=0)
    told: dict[int, None] = {}
    for sink in (node for node, below in enumerate(graph.downs) if not below):
        pending = [sink]
        while pending:
            node = pending[-1]
            missing = [above for above in graph.ups[node] if above not in told]
            if missing:
                pending.append(max(missing, key=lambda above: depth[above]))
            else:
                told[pending.pop()] = None
    return list(told)


def _stems(graph: _Graph, order: list[int], glyphs: _Glyphs) -> list[str]:
    """Return for each box, in this order, its mark and the lines around it.

    A line stands below each box that is needed further down. The last box that needs it continues in its column.
    """
    lines: dict[int, int] = {}  # by column: the box that it comes from
    columns: dict[int, int] = {}  # by box, while its line is there
    waiting = [len(below) for below in graph.downs]
    stems = []
    for node in order:
        ends = []
        for above in graph.ups[node]:
            waiting[above] -= 1
            if not waiting[above]:
                ends.append(columns[above])
        joined = {columns[above] for above in graph.ups[node]}
        column = _column_for(graph, node, sorted(ends), joined, lines)
        stems.append(_stem(_mark(graph, node, glyphs), column, joined, set(ends), lines, glyphs))
        for end in ends:
            del columns[lines.pop(end)]
        if waiting[node]:
            lines[column], columns[node] = node, column
    return stems


def _column_for(graph: _Graph, node: int, ends: list[int], joined: set[int], lines: dict[int, int]) -> int:
    """Return the column of a box: that of a line that ends there, or one that is free to the right of its lines."""
    is_last_leaf = len(joined) == 1 and not graph.downs[node] and len(graph.downs[graph.ups[node][0]]) > 1
    if ends and not (is_last_leaf and ends[0] + 1 not in lines):
        return ends[0]
    column = max(joined, default=-1) + 1
    while column in lines:
        column += 1
    return column


def _stem(mark: str, column: int, joined: set[int], ends: set[int], lines: dict[int, int], glyphs: _Glyphs) -> str:
    first, last = min([column, *joined]), max([column, *joined])
    drawn = []
    for at in range(max([last, *lines]) + 1):
        inside = first <= at <= last
        if at == column:
            drawn.append(mark)
        elif at in joined:
            drawn.append(_joint(at == first, at == last, at in ends, glyphs))
        else:
            drawn.append(glyphs.pipe if at in lines else glyphs.dash if inside else " ")
        drawn.append(glyphs.dash if first <= at < last else " ")
    return "".join(drawn).rstrip()


def _joint(is_first: bool, is_last: bool, ends: bool, glyphs: _Glyphs) -> str:
    """Return how a line is met by the arrow to a box on its right, on its left, or on either side."""
    if is_first:
        return glyphs.corner if ends else glyphs.right
    if is_last:
        return glyphs.end if ends else glyphs.left
    return glyphs.joint if ends else glyphs.both


def _mark(graph: _Graph, node: int, glyphs: _Glyphs) -> str:
    """Return the mark of a box. Without a mark of its own, a last one would seem to lead to one further down."""
    if not graph.downs[node]:
        return glyphs.sink
    return glyphs.box if graph.ups[node] else glyphs.source


def _named(titles: list[str], glyphs: _Glyphs) -> str:
    """Return what comes before a box in words."""
    if not titles:
        return ""
    shown = titles if len(titles) <= 3 else [*titles[:2], f"{len(titles) - 2} others"]
    return f"{glyphs.back} {', '.join(shown)}"


def _bar(done: float | None, glyphs: _Glyphs) -> str:
    if done is None:
        return ""
    full = int(done * _BAR)
    return glyphs.full * full + glyphs.empty * (_BAR - full) + f" {_percent(done):>5}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of cells in columns; those that begin with a digit end in the same place."""
    count = max((len(row) for row in rows), default=0)
    columns = [[row[at] if at < len(row) else "" for row in rows] for at in range(count)]
    padded = [_padded(column) for column in columns if any(column)]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _padded(cells: list[str]) -> list[str]:
    digits = max((_columns(cell) for cell in cells if cell[:1].isdigit()), default=0)
    cells = [" " * (digits - _columns(cell)) + cell if cell[:1].isdigit() else cell for cell in cells]
    width = max(_columns(cell) for cell in cells)
    return [cell + " " * (width - _columns(cell)) for cell in cells]
