#!/usr/bin/env python
"""Which stations, added to the Event Horizon Telescope of 2017, fill the (u, v) plane best?

Every pair of telescopes measures one point of the (u, v) plane at a time, and the turning Earth draws these points out
into tracks. The more of the plane is filled, the better the image. This survey computes the tracks of thousands of
arrays for M87, Sgr A* and a grid of other declinations, prints the best additions, and draws them::

    python examples/array_coverage.py --out /tmp/coverage

It writes ``array_coverage.csv`` (one row per array and source) and ``array_coverage.svg`` (with ``paramsurvey[plot]``).

The worker is `coverage`, the survey is `survey`; everything else is geometry, a table and a picture.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import paramsurvey
from paramsurvey import params

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Stations = dict[str, dict[str, Any]]

STATIONS = Path(__file__).resolve().parent / "data" / "stations.csv"
BASE = "EHT2017"
# J2000. Precession until the observation is left out: 0.2 degrees, a minute of time along the tracks.
SOURCES: list[dict[str, Any]] = [
    {"source": "M87", "ra_deg": 187.705917, "dec_deg": 12.391111},  # 12h30m49.42s +12d23m28.0s
    {"source": "Sgr A*", "ra_deg": 266.416833, "dec_deg": -29.007806},  # 17h45m40.04s -29d00m28.1s
]
OBSERVATION: dict[str, Any] = {"date": "2017-04-11", "step_minutes": 5.0, "min_elevation_deg": 10.0}
QUICK_CANDIDATES = ["CNI", "GAM", "GLT", "KP", "NOEMA"]

WAVELENGTH_M = 299_792_458.0 / 230e9
EARTH_RADIUS_M, EARTH_FLATTENING = 6_378_137.0, 1 / 298.257223563  # the WGS 84 ellipsoid
MICROARCSECOND = np.pi / 180 / 3600 / 1e6

# What "filled" means; see `filled_cells`.
CELL = 0.1  # Gλ
CELLS = 216  # on each side of the grid: the Earth's diameter, and a filled margin around it
EARTH_DIAMETER = 2 * EARTH_RADIUS_M / WAVELENGTH_M / 1e9  # Gλ; no baseline on the ground is longer
FIELD_OF_VIEW = 200 * MICROARCSECOND  # five times the rings of M87 and Sgr A*, which the EHT measured as 42 and 50 µas
REACH = 0.705 / FIELD_OF_VIEW / 1e9  # Gλ


# ---- the survey ------------------------------------------------------------------------------------------------------


def coverage(pset: dict[str, Any], system_kwargs: dict[str, Any], user_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Observe one source with one array for a day: the worker, called once for each pset."""
    stations = members(pset["array"], user_kwargs["stations"])
    u, v = uv_tracks(stations, pset["ra_deg"], pset["dec_deg"], **user_kwargs["observation"])
    measured = np.isfinite(u)
    longest = float(np.hypot(u, v)[measured].max(initial=0.0))
    return {
        "baselines": int(measured.any(axis=0).sum()),
        "visibilities": int(measured.sum()),
        "longest_glambda": longest,
        "resolution_uas": 1 / (longest * 1e9) / MICROARCSECOND if longest else np.nan,
        "filling": filling_fraction(u, v),
    }


def survey(stations: Stations, quick: bool, **options: Any) -> paramsurvey.MapResults:
    """Let every array observe every source."""
    psets = params.product(sources(quick), {"array": arrays(stations, quick)})
    observed_with = {"stations": stations, "observation": OBSERVATION}
    return paramsurvey.map(coverage, psets, user_kwargs=observed_with, name="array coverage", **options)


def sources(quick: bool) -> pd.DataFrame:
    """Return M87, Sgr A*, and imaginary sources from pole to pole."""
    grid = [
        {"source": f"dec {dec:+d}", "ra_deg": 180.0, "dec_deg": float(dec)}
        for dec in range(-90, 91, 30 if quick else 5)
    ]
    return pd.DataFrame(SOURCES + grid)


def arrays(stations: Stations, quick: bool) -> list[str]:
    """Name the base array alone, with each candidate, and with each pair of candidates: "EHT2017+GLT+KP"."""
    candidates = QUICK_CANDIDATES if quick else [name for name in stations if stations[name]["status"] != BASE]
    return ["+".join([BASE, *added]) for count in (0, 1, 2) for added in itertools.combinations(candidates, count)]


def members(array: str, stations: Stations) -> list[dict[str, Any]]:
    """Return the stations of an array such as "EHT2017+GLT": first the base array's, then the added ones."""
    base, *added = array.split("+")
    return [at for at in stations.values() if at["status"] == base] + [stations[name] for name in added]


# ---- the geometry ----------------------------------------------------------------------------------------------------


def gmst_deg(date: str, minutes: Floats) -> Floats:
    """Greenwich mean sidereal time in degrees, `minutes` after 0h UT of a date.

    J. Meeus, Astronomical Algorithms, 2nd edition (1998), equation 12.4: the IAU's expression of 1982.
    """
    days = (np.datetime64(date) - np.datetime64("2000-01-01")).astype(float) - 0.5 + np.asarray(minutes) / 1440
    centuries = days / 36525
    return (280.46061837 + 360.98564736629 * days + 0.000387933 * centuries**2 - centuries**3 / 38_710_000) % 360


def zeniths(stations: Sequence[dict[str, Any]]) -> Floats:
    """Return unit vectors straight up at the stations; x points to longitude 0, y to 90 degrees east, z to the pole."""
    latitude = np.radians([at["latitude_deg"] for at in stations])
    longitude = np.radians([at["longitude_deg"] for at in stations])
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def positions(stations: Sequence[dict[str, Any]]) -> Floats:
    """Positions in metres from the Earth's centre, on the WGS 84 ellipsoid, in the axes of `zeniths`."""
    up = zeniths(stations)
    squash = (1 - EARTH_FLATTENING) ** 2
    curvature = EARTH_RADIUS_M / np.sqrt(1 - (1 - squash) * up[:, 2] ** 2)
    height = np.array([at["elevation_m"] for at in stations])
    return up * (np.outer(curvature, [1, 1, squash]) + height[:, None])


def uv_tracks(
    stations: Sequence[dict[str, Any]],
    ra_deg: float,
    dec_deg: float,
    date: str,
    step_minutes: float,
    min_elevation_deg: float,
) -> tuple[Floats, Floats]:
    """Return u and v in Gλ, each of shape (times of a day, baselines); NaN while one of the two sees no source.

    The baselines are the pairs of ``np.triu_indices(len(stations), 1)``, in that order. Earth rotation synthesis: the
    rows of the matrix are equation 4.1 of Thompson, Moran and Swenson, Interferometry and Synthesis in Radio
    Astronomy, 3rd edition (2017), with the hour angle at Greenwich because `positions` counts from there.
    """
    minutes = np.arange(0, 1440, step_minutes)
    hour_angle, dec = np.radians(gmst_deg(date, minutes) - ra_deg), np.radians(dec_deg)
    sin, cos, zero = np.sin(hour_angle), np.cos(hour_angle), np.zeros_like(hour_angle)
    to_u = np.stack([sin, cos, zero], axis=1)
    to_v = np.stack([-np.sin(dec) * cos, np.sin(dec) * sin, zero + np.cos(dec)], axis=1)
    to_source = np.stack([np.cos(dec) * cos, -np.cos(dec) * sin, zero + np.sin(dec)], axis=1)

    first, second = np.triu_indices(len(stations), 1)
    up, place = zeniths(stations), positions(stations)
    baselines = (place[second] - place[first]).T / WAVELENGTH_M / 1e9
    sees = to_source @ up.T >= np.sin(np.radians(min_elevation_deg))
    both = sees[:, first] & sees[:, second]
    return np.where(both, to_u @ baselines, np.nan), np.where(both, to_v @ baselines, np.nan)


def filled_cells(u: Floats, v: Floats) -> NDArray[np.bool_]:
    """Return which cells of the (u, v) grid are filled; rows are v, columns are u, both rising.

    The grid's cells are 0.1 Gλ wide and its middle is the origin. A cell counts as filled if a visibility, or its
    mirror image at (-u, -v), lies within 0.705 / (field of view): so far reaches what one visibility tells about an
    image of that size, because there the Fourier transform of a uniform disc as wide as the image has fallen to one
    half. For an image of 200 µas that is 0.73 Gλ. This follows the filling fraction of Palumbo et al. 2019,
    ApJ 881, 62.
    """
    measured = np.isfinite(u)
    points = np.rint(np.stack([v[measured], u[measured]]) / CELL).astype(int)
    visibilities, disc = np.zeros((CELLS, CELLS)), distance_from_origin() <= REACH
    for row, column in (points, -points):
        visibilities[row + CELLS // 2, column + CELLS // 2] = 1
    spread = np.fft.irfft2(np.fft.rfft2(visibilities) * np.fft.rfft2(np.fft.ifftshift(disc)), s=disc.shape)
    return spread > 0.5


def filling_fraction(u: Floats, v: Floats) -> float:
    """Return the filled fraction of the circle that an array as wide as the Earth could fill, of radius 9.8 Gλ."""
    return float(filled_cells(u, v)[distance_from_origin() <= EARTH_DIAMETER].mean())


def grid_axis() -> Floats:
    """Return u, or v, at the middles of the grid's cells, in Gλ."""
    return (np.arange(CELLS) - CELLS // 2) * CELL


def distance_from_origin() -> Floats:
    """Return the length of (u, v) for each cell, in Gλ."""
    axis = grid_axis()
    return np.asarray(np.hypot(axis[:, None], axis))


# ---- the table -------------------------------------------------------------------------------------------------------


def with_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Add the number of added stations and the relative gain in filling over the base array (NaN without one)."""
    base = table[table["array"] == BASE].set_index("source")["filling"]
    before = table["source"].map(base)
    # At a declination where the base array measures nothing, a gain means nothing either.
    return table.assign(added=table["array"].str.count(r"\+"), gain=table["filling"] / before.where(before > 0) - 1)


def best(table: pd.DataFrame, source: str, added: int, count: int = 1) -> pd.DataFrame:
    """Return the arrays with that many added stations which fill the plane best, the best first."""
    found = table[(table["source"] == source) & (table["added"] == added)]
    return found.sort_values(["filling", "array"], ascending=[False, True]).head(count)


def print_table(table: pd.DataFrame) -> None:
    """Print the base array and its best extensions by one and by two stations, for M87 and Sgr A*."""
    for name, dec in ((row["source"], row["dec_deg"]) for row in SOURCES):
        print(f"\n{name}, declination {dec:+.1f}°")
        print("  array                    baselines  visibilities    longest  resolution   filled    gain")
        for added, count in ((0, 1), (1, 5), (2, 5)):
            print("  " + "─" * 88)
            for row in best(table, name, added, count).to_dict("records"):
                print_row(row)


def print_row(row: Mapping[Hashable, Any]) -> None:
    """Print one array's line of the table."""
    label = row["array"] if row["added"] == 0 else "  + " + row["array"].removeprefix(BASE + "+").replace("+", " + ")
    gain = f"{row['gain']:+8.0%}" if row["added"] and row["gain"] == row["gain"] else f"{'':8}"
    print(
        f"  {label:<24}{row['baselines']:>10}{row['visibilities']:>14,}{row['longest_glambda']:>8.2f} Gλ"
        f"{row['resolution_uas']:>8.1f} µas{row['filling']:>9.1%}{gain}"
    )


def print_missing(missing: pd.DataFrame) -> None:
    """Say which psets have no result, and why."""
    print(f"\n{len(missing)} psets have no result and are left out above:", file=sys.stderr)
    for row in missing.head(5).to_dict("records"):
        print(f"  {row['array']}, {row['source']}: {row['_exception']}", file=sys.stderr)


# ---- the picture -----------------------------------------------------------------------------------------------------

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


def draw(table: pd.DataFrame, stations: Stations) -> Figure:
    """Draw the tracks of the best pair for both sources, the gain by candidate, and the filling by declination."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 9.4), layout="constrained")
        panels = figure.subplot_mosaic([["M87", "Sgr A*"], ["gain", "gain"], ["dec", "dec"]], height_ratios=[2.5, 1, 1])
        for source in SOURCES:
            draw_tracks(panels[source["source"]], table, stations, **source)
        draw_gains(panels["gain"], table)
        draw_declinations(panels["dec"], table)
        for panel, letter in zip(panels.values(), "abcd", strict=True):
            panel.set_title(f"({letter})  {panel.get_title('left')}")
            panel.grid(True)
    return figure


def draw_tracks(
    panel: Axes, table: pd.DataFrame, stations: Stations, source: str, ra_deg: float, dec_deg: float
) -> None:
    """Draw the base array's tracks, and those that the best pair adds, over the cells that they fill."""
    base, pair = best(table, source, added=0).iloc[0], best(table, source, added=2).iloc[0]
    added = pair["array"].split("+")[1:]
    array = members(pair["array"], stations)
    u, v = uv_tracks(array, ra_deg, dec_deg, **OBSERVATION)
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
    panel.set_title(f"{source}: {base['filling']:.0%} filled, {pair['filling']:.0%} with {' and '.join(added)}")
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


def save_picture(table: pd.DataFrame, stations: Stations, path: Path) -> bool:
    """Draw into a file, or say why not and return False."""
    if not all(len(best(table, source["source"], added)) for source in SOURCES for added in (0, 1, 2)):
        print("\nNo picture, because results that it shows are missing.", file=sys.stderr)
        return False
    try:
        figure = draw(table, stations)
    except ImportError:
        print("\nNo picture, because matplotlib is not installed: pip install 'paramsurvey[plot]'", file=sys.stderr)
        return False
    figure.savefig(path, metadata={"Date": None})
    return True


# ---- the program -----------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Survey the (u, v) coverage of radio-telescope arrays at 230 GHz.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the table and the picture (default: here)")
    parser.add_argument("--quick", action="store_true", help="five candidates and few declinations")
    parser.add_argument("--ncores", type=int, help="use so many cores (default: all)")
    parser.add_argument("--verbose", type=int, default=1, help="0 no progress, 1 now and then, 2 every second")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help="draw no picture")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the survey; the exit status is 1 if psets are missing."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    table_path, picture_path = (args.out / f"array_coverage.{kind}" for kind in ("csv", "svg"))
    stations = pd.read_csv(STATIONS).set_index("station").to_dict("index")

    start = time.perf_counter()
    results = survey(stations, args.quick, ncores=args.ncores, verbose=args.verbose, vstats=args.verbose)
    seconds = time.perf_counter() - start
    if len(results.results) == 0:
        print_missing(results.missing)
        return 1

    table = with_gain(results.results)
    table.to_csv(table_path, index=False)
    print_table(table)
    if len(results.missing):
        print_missing(results.missing)
    written = [table_path]
    if args.plot and save_picture(table, stations, picture_path):
        written.append(picture_path)
    print(f"\n{len(table):,} observations of arrays in {seconds:.1f} s, written to {' and '.join(map(str, written))}")
    return 1 if len(results.missing) else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # for terminals that have no λ
    sys.exit(main())
