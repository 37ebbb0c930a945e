"""A layout as SVG, which needs nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from paramsurvey.drawing.colours import DARK, LIGHT, paint_of
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
from paramsurvey.drawing.words import clean, notes_of, spoken, title_of

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Drawing


_SHRINKING: Final = "@media screen{.paramsurvey{max-width:100%;height:auto}}"
"""A picture too wide for its page. Converters know no screen, and some would take "auto" for a number."""

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"


def svg_of(drawing: Drawing, layout: Layout) -> str:
    """Write a layout as SVG.

    The light colours are attributes, which every program understands; where the reader's scheme is dark, a style
    sheet overrides them. Its names begin with ``ps-``, since it applies to the whole page that the picture is part of.
    """
    width, height = _number_of(layout.width), _number_of(layout.height)
    title = clean(drawing.title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="paramsurvey" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONT}">',
        f"<title>{_escaped(title or 'pipeline')}</title>",
        f"<style>{_SHRINKING}@media (prefers-color-scheme:dark){{{_dark_rules()}}}</style>",
        f'<rect class="ps-back" width="{width}" height="{height}" rx="8" fill="{LIGHT.back}"/>',
    ]
    if title:
        lines.append(_svg_text(MARGIN, MARGIN + 13, title, HEADING_SIZE, "ps-ink", LIGHT.ink, 'font-weight="600"'))
    lines += _svg_arrows(layout.routes)
    for placed in layout.boxes:
        lines += _svg_box(placed)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _dark_rules() -> str:
    rules = {
        "ps-back": f"fill:{DARK.back}",
        "ps-ink": f"fill:{DARK.ink}",
        "ps-dim": f"fill:{DARK.dim}",
        "ps-arrow": f"stroke:{DARK.arrow}",
        "ps-head": f"fill:{DARK.arrow}",
        "ps-track": f"fill:{DARK.track}",
        "ps-badge": f"fill:{DARK.badge}",
    }
    for name, paint in DARK.boxes.items():
        rules[f"ps-{name}"] = f"fill:{paint.ground};stroke:{paint.line}"
        rules[f"ps-{name}-line"] = f"fill:{paint.line}"
        rules[f"ps-{name}-word"] = f"fill:{paint.word}"
    return "".join(f".paramsurvey .{name}{{{rule}}}" for name, rule in rules.items())


def _svg_arrows(routes: Sequence[Route]) -> Iterator[str]:
    for group in by_start(routes).values():
        path = " ".join(_svg_path(stroke) for stroke in strokes(group))
        yield f'<path class="ps-arrow" d="{path}" fill="none" stroke="{LIGHT.arrow}" stroke-width="1.5"/>'
    for x, y in dict.fromkeys(route.tip for route in routes):
        x0, x1, x2, y0, y1 = (_number_of(each) for each in (x - 4.5, x + 4.5, x, y - HEAD - 0.5, y - 0.5))
        yield f'<path class="ps-head" d="M{x0} {y0}L{x1} {y0}L{x2} {y1}Z" fill="{LIGHT.arrow}"/>'


def _svg_path(stroke: Sequence[Point]) -> str:
    parts = (("L" if len(bend) == 1 else "C") + " ".join(map(_point, bend)) for bend in bends(stroke))
    return f"M{_point(stroke[0])}{''.join(parts)}"


def _svg_box(placed: Placed) -> Iterator[str]:
    box, paint = placed.box, LIGHT.boxes[paint_of(placed.box)]
    name = f"ps-{paint_of(box)}"
    x, y, baseline = placed.x + PAD, placed.y, placed.y + TITLE_LINE / 2 + 4.5
    yield f"<g><title>{_escaped(spoken(box))}</title>"
    yield (
        f'<rect class="{name}" x="{_number_of(placed.x)}" y="{_number_of(y)}" width="{_number_of(placed.width)}" '
        f'height="{_number_of(placed.height)}" rx="7" fill="{paint.ground}" stroke="{paint.line}" '
        f'stroke-width="{2 if box.warning else 1.25}"/>'
    )
    if box.warning:
        at = f'cx="{_number_of(x + 6)}" cy="{_number_of(baseline - 4.5)}"'
        yield f'<circle class="{name}-line" {at} r="6.5" fill="{paint.line}"/>'
        centred = 'font-weight="700" text-anchor="middle"'
        yield _svg_text(x + 6, baseline - 0.9, "!", KIND_SIZE, "ps-badge", LIGHT.badge, centred)
        x += BADGE
    yield _svg_text(x, baseline, title_of(box), TITLE_SIZE, "ps-ink", LIGHT.ink, 'font-weight="600"')
    right = placed.x + placed.width - PAD
    yield _svg_text(right, baseline, box.kind, KIND_SIZE, f"{name}-word", paint.word, 'text-anchor="end"')
    for number, note in enumerate(notes_of(box)):
        colours = (f"{name}-word", paint.word) if box.warning else ("ps-dim", LIGHT.dim)
        yield _svg_text(placed.x + PAD, baseline + 17 + NOTE_LINE * number, note, NOTE_SIZE, *colours)
    if box.done is not None:
        bar, top = placed.width - 2 * PAD, _number_of(y + placed.height - 13)
        for part, css, colour in ((1.0, "ps-track", LIGHT.track), (box.done, f"{name}-line", paint.line)):
            yield (
                f'<rect class="{css}" x="{_number_of(placed.x + PAD)}" y="{top}" width="{_number_of(bar * part)}" '
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
