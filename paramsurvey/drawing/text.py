"""A drawing as text: a line for each box, with the lines of its arrows to its left. It has a layout of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from paramsurvey.drawing.graph import Graph, sorted_by_arrows
from paramsurvey.drawing.words import (
    LONGEST_NOTE,
    LONGEST_TITLE,
    clean,
    columns_of_text,
    cut_off,
    in_ascii,
    percent,
    shortened,
)

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Drawing


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


UNICODE: Final = _Glyphs("○", "●", "◆", "│", "─", "├", "┤", "┼", "╰", "╯", "┴", "█", "░", "…", "←")
ASCII: Final = _Glyphs("o", "*", "#", "|", "-", "|", "|", "+", "`", "'", "'", "#", ".", "...", "<-")


def text_of(drawing: Drawing, width: int, glyphs: _Glyphs) -> str:
    """Write a drawing as lines of at most so many columns."""
    graph = sorted_by_arrows(drawing)
    order = _told(graph)
    ascii_only = glyphs is ASCII

    def plain(text: str) -> str:
        return in_ascii(clean(text)) if ascii_only else clean(text)

    titles = [shortened(plain(box.title), LONGEST_TITLE, glyphs.dots) for box in drawing.boxes]
    stems = _stems(graph, order, glyphs)
    named = max((len(stem) for stem in stems), default=0) > width // 3
    rows = []
    for node, stem in zip(order, stems, strict=True):
        box = drawing.boxes[node]
        notes = [shortened(plain(note), LONGEST_NOTE, glyphs.dots) for note in box.notes]
        start = _mark(graph, node, glyphs) if named else stem
        cells = [f"{start} {titles[node]}"]
        if named:
            cells.append(_named([titles[above] for above in graph.ups[node]], glyphs))
        rows.append([*cells, "!" if box.warning else "", box.kind, _bar(box.done, glyphs), *notes])
    heading = plain(drawing.title)
    lines = [*([heading] if heading else []), *_aligned(rows)]
    return "\n".join(cut_off(line, width, glyphs.dots) for line in lines)


def _told(graph: Graph) -> list[int]:
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


def _stems(graph: Graph, order: list[int], glyphs: _Glyphs) -> list[str]:
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


def _column_for(graph: Graph, node: int, ends: list[int], joined: set[int], lines: dict[int, int]) -> int:
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


def _mark(graph: Graph, node: int, glyphs: _Glyphs) -> str:
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
    return glyphs.full * full + glyphs.empty * (_BAR - full) + f" {percent(done):>5}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines of cells in columns; those that begin with a digit end in the same place."""
    count = max((len(row) for row in rows), default=0)
    columns = [[row[at] if at < len(row) else "" for row in rows] for at in range(count)]
    padded = [_padded(column) for column in columns if any(column)]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _padded(cells: list[str]) -> list[str]:
    digits = max((columns_of_text(cell) for cell in cells if cell[:1].isdigit()), default=0)
    cells = [" " * (digits - columns_of_text(cell)) + cell if cell[:1].isdigit() else cell for cell in cells]
    width = max(columns_of_text(cell) for cell in cells)
    return [cell + " " * (width - columns_of_text(cell)) for cell in cells]
