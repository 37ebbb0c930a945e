"""A layout as PNG, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from paramsurvey.drawing.colours import LIGHT, paint_of
from paramsurvey.drawing.layout import (
    BADGE,
    HEAD,
    HEADING_SIZE,
    KIND_SIZE,
    MARGIN,
    NOTE_LINE,
    NOTE_SIZE,
    PAD,
    TITLE_LINE,
    TITLE_SIZE,
    Layout,
    Placed,
    Point,
    Route,
    bends,
    by_start,
    strokes,
)
from paramsurvey.drawing.words import clean, notes_of, title_of
from paramsurvey.saving import png_axes

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Drawing


_DPI: Final = 144
_MOST_PIXELS: Final = 12_000
"""Of the longer side: larger pictures get smaller letters; readers of images give up at 16,000 to 65,000."""

_LEAST_LETTERS: Final = 3.5
"""In pixels: smaller ones nobody can read, and they take seconds."""

_PNG_FONT: Final = {"family": "DejaVu Sans", "parse_math": False}  # it comes with matplotlib
_PNG_LETTERS: Final = 0.9
"""DejaVu is wider than what browsers take, so it is set smaller."""


def save_png(drawing: Drawing, layout: Layout, file: Path) -> None:
    """Write a layout as PNG."""
    dpi = min(_DPI, 72 * _MOST_PIXELS / max(layout.width, layout.height))
    readable = NOTE_SIZE * dpi / 72 >= _LEAST_LETTERS
    with png_axes("a drawing", file, (layout.width, layout.height), ground=LIGHT.back, dpi=dpi) as axes:
        title = clean(drawing.title)
        if title:
            _png_text(axes, MARGIN, MARGIN + 13, title, HEADING_SIZE, LIGHT.ink, weight="bold")
        _png_arrows(axes, layout.routes)
        for placed in layout.boxes:
            _png_box(axes, placed)
            if readable:
                _png_words(axes, placed)


def _png_arrows(axes: Any, routes: Sequence[Route]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    for group in by_start(routes).values():
        points: list[Point] = []
        codes: list[Any] = []
        for stroke in strokes(group):
            points.append(stroke[0])
            codes.append(Line.MOVETO)
            for bend in bends(stroke):
                points += bend
                codes += [Line.LINETO if len(bend) == 1 else Line.CURVE4] * len(bend)
        axes.add_patch(PathPatch(Line(points, codes), fill=False, edgecolor=LIGHT.arrow, linewidth=1.5))
    tips = dict.fromkeys(route.tip for route in routes)
    heads = [[(x - 4.5, y - HEAD - 0.5), (x + 4.5, y - HEAD - 0.5), (x, y - 0.5)] for x, y in tips]
    axes.add_collection(PolyCollection(heads, facecolor=LIGHT.arrow), autolim=False)


def _png_box(axes: Any, placed: Placed) -> None:
    box, paint = placed.box, LIGHT.boxes[paint_of(placed.box)]
    corner = (placed.x, placed.y, placed.width, placed.height)
    _png_round(axes, *corner, 7, facecolor=paint.ground, edgecolor=paint.line, linewidth=2 if box.warning else 1.25)
    if box.done is not None:
        bar, top = placed.width - 2 * PAD, placed.y + placed.height - 13
        _png_round(axes, placed.x + PAD, top, bar, 4, 2, facecolor=LIGHT.track, linewidth=0)
        if box.done:
            _png_round(axes, placed.x + PAD, top, bar * box.done, 4, 2, facecolor=paint.line, linewidth=0)


def _png_words(axes: Any, placed: Placed) -> None:
    from matplotlib.patches import Circle

    box, paint = placed.box, LIGHT.boxes[paint_of(placed.box)]
    x, baseline = placed.x + PAD, placed.y + TITLE_LINE / 2 + 4.5
    if box.warning:
        axes.add_patch(Circle((x + 6, baseline - 4.5), 6.5, facecolor=paint.line, linewidth=0))
        _png_text(axes, x + 6, baseline - 0.9, "!", KIND_SIZE, LIGHT.badge, weight="bold", ha="center")
        x += BADGE
    _png_text(axes, x, baseline, title_of(box), TITLE_SIZE, LIGHT.ink, weight="bold")
    _png_text(axes, placed.x + placed.width - PAD, baseline, box.kind, KIND_SIZE, paint.word, ha="right")
    for number, note in enumerate(notes_of(box)):
        colour = paint.word if box.warning else LIGHT.dim
        _png_text(axes, placed.x + PAD, baseline + 17 + NOTE_LINE * number, note, NOTE_SIZE, colour)


def _png_round(axes: Any, x: float, y: float, width: float, height: float, radius: float, **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    radius = min(radius, width / 2)
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **look))


def _png_text(axes: Any, x: float, y: float, text: str, size: float, colour: str, **look: Any) -> None:
    axes.text(x, y, text, fontsize=size * _PNG_LETTERS, color=colour, va="baseline", **_PNG_FONT, **look)
