"""The picture of `array_coverage.py`: tracks of the best arrays, gain by station, filling by declination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from uv_plane import (
    BASE,
    EARTH_DIAMETER,
    OBSERVATION,
    SOURCES,
    added_to,
    distance_from_origin,
    filled_cells,
    grid_axis,
    members,
    uv_tracks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes
    from uv_plane import Stations

# Okabe and Ito's colours, which the colour-blind can tell apart: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "array_coverage",
}


def draw(table: pd.DataFrame, ranked: pd.DataFrame, stations: Stations) -> Figure:
    """Draw the tracks of the best pair for both sources, the gain by candidate, and the filling by declination.

    Raises LookupError if there is no row of what it shows.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 9.4), layout="constrained")
        panels = figure.subplot_mosaic([["M87", "Sgr A*"], ["gain", "gain"], ["dec", "dec"]], height_ratios=[2.5, 1, 1])
        for source in SOURCES:
            base, pair = (first(rows, source["source"], added) for rows, added in ((table, 0), (ranked, 2)))
            draw_tracks(panels[source["source"]], base, pair, stations)
        draw_gains(panels["gain"], table)
        draw_declinations(panels["dec"], table)
        for panel, letter in zip(panels.values(), "abcd", strict=True):
            panel.set_title(f"({letter})  {panel.get_title('left')}")
            panel.grid(True)
    return figure


def first(table: pd.DataFrame, source: str, added: int) -> Mapping[str, Any]:
    """Return the first row of a source with so many added stations."""
    return table[(table["source"] == source) & (table["added"] == added)].iloc[0]


def draw_tracks(panel: Axes, base: Mapping[str, Any], pair: Mapping[str, Any], stations: Stations) -> None:
    """Draw the base array's tracks, and those that a pair of stations adds, over the cells that they fill."""
    added = added_to(pair["array"])
    array = members(pair["array"], stations)
    u, v = uv_tracks(array, pair["ra_deg"], pair["dec_deg"], **OBSERVATION)
    # The added stations come last, so the later of a baseline's two stations tells who brought it.
    brought_by = np.maximum(0, np.triu_indices(len(array), 1)[1] - (len(array) - len(added)) + 1)

    axis = grid_axis()
    for columns, colour in ((brought_by >= 0, "#fbe3d3"), (brought_by == 0, "#dbe9f4")):
        filled = filled_cells(u[:, columns], v[:, columns]) & (distance_from_origin() <= EARTH_DIAMETER)
        panel.contourf(axis, axis, filled.astype(float), levels=[0.5, 1.5], colors=[colour], zorder=0)
    labels = [BASE, *(f"+ {name}" for name in added)]
    for which, (label, colour) in enumerate(zip(labels, (BLUE, ORANGE, GREEN), strict=True)):
        some_u, some_v = u[:, brought_by == which], v[:, brought_by == which]
        panel.plot(some_u, some_v, color=colour, linewidth=1.3)
        panel.plot(-some_u, -some_v, color=colour, linewidth=1.3)
        panel.plot([], [], color=colour, linewidth=2.5, label=label)
    angle = np.linspace(0, 2 * np.pi, 361)
    panel.plot(
        EARTH_DIAMETER * np.cos(angle), EARTH_DIAMETER * np.sin(angle), color=GREY, linewidth=0.8, linestyle=(0, (4, 3))
    )
    panel.text(0, -EARTH_DIAMETER - 0.35, "the Earth's diameter", color=GREY, fontsize=8, ha="center", va="top")

    panel.set(xlim=(11.2, -11.2), ylim=(-11.2, 11.2), xticks=range(-10, 11, 5), yticks=range(-10, 11, 5))
    panel.set(xlabel="u (Gλ), east to the left", ylabel="v (Gλ), north up", aspect="equal")
    panel.set_title(f"{pair['source']}: {base['filling']:.0%} filled, {pair['filling']:.0%} with {' and '.join(added)}")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, handlelength=1.5)


def draw_gains(panel: Axes, table: pd.DataFrame) -> None:
    """Draw the gain by each single candidate, the best for both sources together first."""
    single = table[table["added"] == 1].assign(station=lambda rows: rows["array"].str.removeprefix(BASE + "+"))
    gains = single.pivot_table(index="station", columns="source", values="gain")[[s["source"] for s in SOURCES]] * 100
    gains = gains.loc[gains.mean(axis=1).sort_values(ascending=False).index]
    places = np.arange(len(gains))
    panel.vlines(places, gains.min(axis=1), gains.max(axis=1), color="#bbbbbb", linewidth=1.5, zorder=1)
    for source, colour, marker in zip(gains, (BLUE, ORANGE), "os", strict=True):
        panel.plot(places, gains[source], marker, color=colour, markersize=5, label=source)
    panel.set_xticks(places, gains.index, rotation=90 if len(gains) > 12 else 0)
    panel.set_title(f"One station added to {BASE}")
    panel.set(ylabel="gain in filling (%)", xlim=(-0.7, len(gains) - 0.3))
    panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    panel.legend(loc="upper right", ncols=2)


def draw_declinations(panel: Axes, table: pd.DataFrame) -> None:
    """Draw the filling from pole to pole, for the base array and for the best additions at each declination."""
    labels = (BASE, "+ the best station", "+ the best two")
    for added, (label, colour, marker) in enumerate(zip(labels, (BLUE, ORANGE, GREEN), "os^", strict=True)):
        highest = table[table["added"] == added].groupby("dec_deg")["filling"].max() * 100
        panel.plot(highest.index, highest, marker + "-", color=colour, markersize=4, linewidth=1.3, label=label)
    for source in SOURCES:
        panel.axvline(source["dec_deg"], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        panel.annotate(
            source["source"],
            (source["dec_deg"], 0.04),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color=GREY,
        )
    panel.set_title("The best additions for each declination")
    panel.set(xlabel="declination (degrees)", ylabel="filled (%)", xlim=(-93, 93), xticks=range(-90, 91, 30))
    panel.set_ylim(bottom=0)
    panel.legend(loc="lower right", reverse=True)
