"""A chart of a search that goes on in rounds: values above, dots for all that was tried, bars for what it took.

It is laid out once, as lines, circles, boxes and texts, and these are written as SVG, which needs nothing from outside
and follows the reader's light or dark scheme, or drawn as PNG with matplotlib.

It has axes, and `drawing`, which is of boxes and arrows, has none: they share nothing but how they are saved.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from paramsurvey.saving import file_for, png_axes

Point: TypeAlias = tuple[float, float]


@attrs.frozen
class Column:
    """One round.

    Parameters
    ----------
    label : str
        What was picked.
    value : float or None
        What the set is worth after it.
    dots : tuple of float
        What it would be worth with each of those that were tried.
    limits : tuple of float
        What it could be worth at most with each of those that were not.
    count : int
        How many evaluations the round needed.
    """

    label: str
    value: float | None
    dots: tuple[float, ...]
    limits: tuple[float, ...]
    count: int


@attrs.frozen
class Chart:
    """The chart; notebooks show it as a picture.

    Parameters
    ----------
    title : str
        What is written above it.
    value_name : str
        What the values are.
    columns : tuple of Column
        The rounds.
    before : float or None
        What the set is worth before the first.

    Examples
    --------
    >>> chart = Chart("areas", "area", (Column("north", 3.0, (1.0, 3.0), (), 2),), 0.0)
    >>> chart.svg()[:4]
    '<svg'
    """

    title: str
    value_name: str
    columns: tuple[Column, ...]
    before: float | None = None

    def svg(self) -> str:
        """Return it as SVG."""
        return _svg(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file.

        Parameters
        ----------
        path : path
            It ends in ``.svg`` or ``.png``. A PNG needs matplotlib.

        Raises
        ------
        OptionError
            If the suffix is another one, or the folder does not exist.
        BackendError
            If matplotlib is needed and is not installed.
        """
        file = file_for("a chart", path, (".svg", ".png"))
        if file.suffix.lower() == ".png":
            _save_png(self, file)
        else:
            file.write_text(self.svg(), encoding="utf-8", newline="\n")

    def _repr_svg_(self) -> str:
        return self.svg()


# --- what it is made of ---------------------------------------------------------------------------


@attrs.frozen
class _Line:
    points: tuple[Point, ...]
    ink: str
    width: float = 1.0


@attrs.frozen
class _Dot:
    at: Point
    radius: float
    ink: str
    spoken: str = ""


@attrs.frozen
class _Bar:
    at: Point
    width: float
    height: float
    ink: str
    spoken: str = ""


@attrs.frozen
class _Text:
    at: Point
    text: str
    size: float
    ink: str
    anchor: str = "start"
    turn: float = 0.0
    bold: bool = False


_Shape: TypeAlias = _Line | _Dot | _Bar | _Text

_LIGHT: Final = {"back": "#ffffff", "ink": "#1f2933", "dim": "#616e7c", "grid": "#e4e7eb", "dot": "#9fb3c8",
                 "limit": "#cbd2d9", "line": "#2b6cb0", "bar": "#7fb0dc"}  # fmt: skip
_DARK: Final = {"back": "#15191e", "ink": "#e4e7eb", "dim": "#9aa5b1", "grid": "#2c333b", "dot": "#52667a",
                "limit": "#3e4c59", "line": "#63b3ed", "bar": "#3f6f9c"}  # fmt: skip

_LEFT, _RIGHT, _TOP = 64.0, 20.0, 52.0
_VALUES, _COUNTS, _BOTTOM = 230.0, 64.0, 30.0
_LETTER = 6.2
"""How wide a letter of 11 points is, about."""


def _width(chart: Chart) -> float:
    return _LEFT + _RIGHT + min(max(44.0 * len(chart.columns), 320.0), 1200.0)


def _step(chart: Chart) -> float:
    return (_width(chart) - _LEFT - _RIGHT) / max(len(chart.columns), 1)


def _is_flat(chart: Chart) -> bool:
    """Tell whether all labels have room side by side."""
    return all(len(_cut(column.label, 12)) * _LETTER < _step(chart) for column in chart.columns)


def _foot(chart: Chart) -> float:
    """Return where the bars stand."""
    return _TOP + _VALUES + (48.0 if _is_flat(chart) else 84.0) + _COUNTS


def _height(chart: Chart) -> float:
    return _foot(chart) + _BOTTOM


def _shapes(chart: Chart) -> Iterator[_Shape]:
    """Lay the chart out."""
    width, step = _width(chart), _step(chart)
    yield _Text((_LEFT - 48, 22), _cut(chart.title, int(width / 8)), 14, "ink", bold=True)
    told = "dots: with each candidate" + ("; dashes: at most" if any(each.limits for each in chart.columns) else "")
    yield _Text((width - _RIGHT, _TOP - 10), told, 10, "dim", "end")
    xs = [_LEFT + step * (place + 0.5) for place in range(len(chart.columns))]
    yield from _values(chart, xs, step)
    yield from _labels(chart, xs, step)
    yield from _counts(chart, xs, step)


def _values(chart: Chart, xs: Sequence[float], step: float) -> Iterator[_Shape]:
    shown = [each for column in chart.columns for each in (column.value, *column.dots, *column.limits)]
    ticks = _ticks([each for each in (*shown, chart.before) if each is not None and math.isfinite(each)])
    bottom, right = _TOP + _VALUES, _width(chart) - _RIGHT

    def y(value: float) -> float:
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * _VALUES

    for tick in ticks:
        yield _Line(((_LEFT, y(tick)), (right, y(tick))), "grid")
        yield _Text((_LEFT - 8, y(tick) + 3.5), f"{tick:.6g}", 11, "dim", "end")
    yield _Text((_LEFT - 48, _TOP - 10), _cut(chart.value_name, 24), 11, "dim")
    for x, column in zip(xs, chart.columns, strict=True):
        for limit in filter(math.isfinite, column.limits):
            yield _Line(((x - 4, y(limit)), (x + 4, y(limit))), "limit")
        for dot in filter(math.isfinite, column.dots):
            yield _Dot((x, y(dot)), 2.6, "dot")
    yield from _line_of_values(chart, xs, step, y)


def _line_of_values(chart: Chart, xs: Sequence[float], step: float, y: Any) -> Iterator[_Shape]:
    points = [(x, y(each.value), each) for x, each in zip(xs, chart.columns, strict=True) if _is_there(each.value)]
    line = [(x, height) for x, height, _ in points]
    if _is_there(chart.before) and line:
        line.insert(0, (xs[0] - step / 2, y(chart.before)))
    if len(line) > 1:
        yield _Line(tuple(line), "line", 2)
    for x, height, column in points:
        yield _Dot((x, height), 4.5, "line", f"{column.label}: {column.value:.6g}")


def _is_there(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _labels(chart: Chart, xs: Sequence[float], step: float) -> Iterator[_Shape]:
    top, every = _TOP + _VALUES + 16, max(1, math.ceil(14 / max(step, 1)))
    is_flat = _is_flat(chart)
    for place, (x, column) in enumerate(zip(xs, chart.columns, strict=True)):
        if place % every == 0:
            text = _cut(column.label, 12)
            yield (
                _Text((x, top), text, 11, "ink", "middle")
                if is_flat
                else _Text((x + 4, top), text, 11, "ink", "end", -38)
            )


def _counts(chart: Chart, xs: Sequence[float], step: float) -> Iterator[_Shape]:
    bottom, right = _foot(chart), _width(chart) - _RIGHT
    ticks = _ticks([0, *(column.count for column in chart.columns)], most=2, whole=True)
    yield _Text((_LEFT - 48, bottom - _COUNTS - 8), "evaluations", 11, "dim")
    for tick in ticks:
        height = bottom - tick / ticks[-1] * _COUNTS
        yield _Line(((_LEFT, height), (right, height)), "grid")
        yield _Text((_LEFT - 8, height + 3.5), f"{tick:g}", 11, "dim", "end")
    for place, (x, column) in enumerate(zip(xs, chart.columns, strict=True), 1):
        tall, wide = column.count / ticks[-1] * _COUNTS, min(step * 0.6, 26)
        yield _Bar((x - wide / 2, bottom - tall), wide, tall, "bar", f"round {place}: {column.count}")
    every = max(1, math.ceil(22 / max(step, 1)))
    for place, x in enumerate(xs):
        if place % every == 0:
            yield _Text((x, bottom + 16), str(place + 1), 11, "dim", "middle")


def _ticks(values: Sequence[float], most: int = 6, *, whole: bool = False) -> list[float]:
    """Return round numbers around all values: the first is at most the least, the last at least the largest."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if not whole else (0, max(high, 1))
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    step = max(step, 1) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def _cut(text: str, most: int) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


# --- SVG ------------------------------------------------------------------------------------------


def _svg(chart: Chart) -> str:
    width, height = _width(chart), _height(chart)
    rules = "".join(
        f".paramsurvey .pc-{name}{{fill:{colour}}}.paramsurvey .pc-{name}-line{{stroke:{colour}}}"
        for name, colour in _DARK.items()
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="paramsurvey" role="img" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif">',
        f"<title>{html.escape(_cut(chart.title, 200))}</title>",
        f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>",
        f'<rect class="pc-back" width="{width:g}" height="{height:g}" rx="8" fill="{_LIGHT["back"]}"/>',
        *map(_svg_shape, _shapes(chart)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _svg_shape(shape: _Shape) -> str:
    colour = _LIGHT[shape.ink]
    if isinstance(shape, _Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        look = f'fill="none" stroke="{colour}" stroke-width="{shape.width:g}" stroke-linejoin="round"'
        return f'<polyline class="pc-{shape.ink}-line" points="{points}" {look}/>'
    x, y = shape.at
    if isinstance(shape, _Dot):
        head = f'<circle class="pc-{shape.ink}" cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:g}" fill="{colour}"'
        return f"{head}/>" if not shape.spoken else f"{head}><title>{html.escape(shape.spoken)}</title></circle>"
    if isinstance(shape, _Bar):
        size = f'width="{shape.width:.1f}" height="{shape.height:.1f}"'
        head = f'<rect class="pc-{shape.ink}" x="{x:.1f}" y="{y:.1f}" {size} rx="1.5" fill="{colour}"'
        return f"{head}><title>{html.escape(shape.spoken)}</title></rect>"
    more = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
    more += f' transform="rotate({shape.turn:g} {x:.1f} {y:.1f})"' if shape.turn else ""
    more += ' font-weight="600"' if shape.bold else ""
    head = f'<text class="pc-{shape.ink}" x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" fill="{colour}"{more}>'
    return f"{head}{html.escape(shape.text)}</text>"


# --- PNG ------------------------------------------------------------------------------------------


def _save_png(chart: Chart, file: Path) -> None:
    size = (_width(chart), _height(chart))
    with png_axes("a chart", file, size, ground=_LIGHT["back"], dpi=144) as axes:
        for place, shape in enumerate(_shapes(chart)):
            _png_shape(axes, shape, place)


def _png_shape(axes: Any, shape: _Shape, order: int) -> None:
    from matplotlib.patches import Circle, Rectangle

    colour = _LIGHT[shape.ink]
    if isinstance(shape, _Line):
        xs, ys = zip(*shape.points, strict=True)
        axes.plot(xs, ys, color=colour, linewidth=shape.width, zorder=order, solid_joinstyle="round")
    elif isinstance(shape, _Dot):
        axes.add_patch(Circle(shape.at, shape.radius, facecolor=colour, linewidth=0, zorder=order))
    elif isinstance(shape, _Bar):
        axes.add_patch(Rectangle(shape.at, shape.width, shape.height, facecolor=colour, linewidth=0, zorder=order))
    else:
        sides = {"start": "left", "middle": "center", "end": "right"}
        axes.text(
            *shape.at,
            shape.text,
            color=colour,
            fontsize=shape.size * 0.9,  # the letters of matplotlib's own font are wide
            family="DejaVu Sans",
            ha=sides[shape.anchor],
            va="baseline",
            rotation=-shape.turn,
            rotation_mode="anchor",
            weight="bold" if shape.bold else "normal",
            parse_math=False,
            zorder=order,
        )
