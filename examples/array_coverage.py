#!/usr/bin/env python
"""Which stations, added to the Event Horizon Telescope of 2017, are worth their money?

Every pair of telescopes measures one point of the (u, v) plane at a time, and the turning Earth draws these points out
into tracks. The more of the plane is filled, the better the image. This pipeline looks at the air above every choice
of one or two additional sites, computes the tracks of the good ones for M87, Sgr A* and a grid of other declinations,
puts what they gain beside what they would cost, and ranks them::

    python examples/array_coverage.py --out /tmp/coverage

It prints its plan, the best additions, and how the run went. It writes ``array_coverage.csv`` (one row per array and
source), ``array_coverage.svg`` (tracks and gains, with ``paramsurvey[plot]``) and ``array_coverage_pipeline.svg``. In
the end it searches for the best eight additions, as `array_design.py` does alone.

The pipeline is `pipeline`, its workers are `quality` and `coverage`. What an array measures is in `uv_plane.py`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from array_design import QUICK_CANDIDATES, cost, design
from uv_plane import BASE, MICROARCSECOND, OBSERVATION, SOURCES, added_to, filling_fraction, members, uv_tracks

from paramsurvey import Pipeline, RunResults, workers

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    Stations = dict[str, dict[str, Any]]

STATIONS = Path(__file__).resolve().parent / "data" / "stations.csv"
OBSERVED = ["baselines", "visibilities", "longest_glambda", "resolution_uas", "filling"]


# ---- the survey ------------------------------------------------------------------------------------------------------


def pipeline(stations: Stations, quick: bool) -> Pipeline:
    """Sites and costs come in, arrays that are ranked by what they gain for their cost come out."""
    with_stations: dict[str, Any] = {"user_kwargs": stations}
    return (
        Pipeline("array coverage", sources=("sites", "costs"))
        .map(workers.keywords(quality, output="transmission"), after="sites", **with_stations)
        .where("transmission > 0.4", name="good air")
        .product(pd.DataFrame(sources(quick)), name="x sources")
        .map(workers.keywords(coverage, output=OBSERVED), **with_stations)
        # What the base array fills is put beside what every array does that observes the same source.
        .where(lambda array, filling: (array == BASE) & (filling > 0), name="base array")
        .keep("source", "filling")
        .rename({"filling": "filling_before"})
        .join("source", after=("coverage", "rename"), how="left", expect="m:1", name="with base")
        .join("array", after=("with base", "costs"), expect="m:1", name="with costs")
        .derive(gain=gain, value="gain * transmission / cost")
        .top(5, by="value", within=["source", "added"], name="ranked")
    )


def quality(array: str, user_kwargs: Stations) -> float:
    """Return how much of a signal from the zenith comes through the air, at the worst of the added sites."""
    return min((transmission(**user_kwargs[name]) for name in added_to(array)), default=1.0)


def transmission(latitude_deg: float, elevation_m: float, **_: Any) -> float:
    """Return how much of a signal from the zenith reaches the ground at 230 GHz.

    The water vapour is a rough picture, made for this example: 53 mm at the equator and 3 mm at the poles, halved every
    1.4 km upwards. That a millimetre of it has an optical depth of 1/20 is what Gemini Observatory uses for Mauna Kea.
    """
    vapour_mm = (3 + 50 * math.cos(math.radians(latitude_deg)) ** 2) * math.exp(-elevation_m / 2000)
    return math.exp(-vapour_mm / 20)


def coverage(array: str, ra_deg: float, dec_deg: float, user_kwargs: Stations) -> tuple[Any, ...]:
    """Observe one source with one array for a day; what is returned has the names `OBSERVED`."""
    u, v = uv_tracks(members(array, user_kwargs), ra_deg, dec_deg, **OBSERVATION)
    measured = np.isfinite(u)
    longest = float(np.hypot(u, v)[measured].max(initial=0.0))
    resolution = 1 / (longest * 1e9) / MICROARCSECOND if longest else math.nan
    return int(measured.any(axis=0).sum()), int(measured.sum()), longest, resolution, filling_fraction(u, v)


def gain(filling: pd.Series[float], filling_before: Any = math.nan) -> pd.Series[float]:
    """Return what is filled more than by the base array; unknown where that measures nothing, or is missing."""
    return filling / filling_before - 1


def sites(stations: Stations, quick: bool) -> list[dict[str, Any]]:
    """Return every choice of up to two sites to add, and the array that makes: "EHT2017+GLT+KP"."""
    candidates = QUICK_CANDIDATES if quick else [name for name in stations if stations[name]["status"] != BASE]
    return [
        {"array": "+".join([BASE, *added]), "added": count}
        for count in (0, 1, 2)
        for added in itertools.combinations(candidates, count)
    ]


def costs(stations: Stations, quick: bool) -> list[dict[str, Any]]:
    """Return what the additions of every array cost, 1 being a telescope by a road at sea level.

    These are no estimates of anybody's, but an illustration (`array_design.cost`).
    """
    one = {name: cost(at) for name, at in stations.items()}
    arrays = [row["array"] for row in sites(stations, quick)]
    return [{"array": array, "cost": sum(one.get(name, math.nan) for name in added_to(array))} for array in arrays]


def sources(quick: bool) -> list[dict[str, Any]]:
    """Return M87, Sgr A*, and imaginary sources from pole to pole."""
    step = 30 if quick else 5
    return SOURCES + [
        {"source": f"dec {dec:+d}", "ra_deg": 180.0, "dec_deg": float(dec)} for dec in range(-90, 91, step)
    ]


# ---- what is shown of it ---------------------------------------------------------------------------------------------


def print_table(table: pd.DataFrame, ranked: pd.DataFrame) -> None:
    """Print the base array, and the best extensions by one and by two stations, for M87 and Sgr A*."""
    for name, dec in ((row["source"], row["dec_deg"]) for row in SOURCES):
        print(f"\n{name}, declination {dec:+.1f}°")
        print("  array                 baselines  resolution   filled    gain   air   cost  value")
        for rows in (table[table["added"] == 0], *(ranked[ranked["added"] == count] for count in (1, 2))):
            print("  " + "─" * 80)
            for row in rows[rows["source"] == name].to_dict("records"):
                print_row(row)


def print_row(row: Mapping[Hashable, Any]) -> None:
    """Print one array's line of the table."""
    label = "  + " + " + ".join(added_to(row["array"])) if row["added"] else row["array"]
    line = f"  {label:<24}{row['baselines']:>7}{row['resolution_uas']:>8.1f} µas{row['filling']:>9.1%}"
    if row["added"] and not math.isnan(row["gain"]):
        line += f"{row['gain']:>+8.0%}{row['transmission']:>6.0%}{row['cost']:>7.2f}{row['value']:>7.3f}"
    print(line)


def print_missing(missing: pd.DataFrame) -> None:
    """Say what has no result, and why."""
    print(f"\n{len(missing)} psets have no result, and what would come of them is left out:", file=sys.stderr)
    for row in missing.head(5).to_dict("records"):
        print(f"  {row['_stage']} of {row['array']}: {row['_exception']}", file=sys.stderr)


def save_picture(table: pd.DataFrame, ranked: pd.DataFrame, stations: Stations, path: Path) -> bool:
    """Draw into a file, or say why not and return False."""
    try:
        import uv_picture

        figure = uv_picture.draw(table, ranked, stations)
    except LookupError:
        print("\nNo picture, because results that it shows are missing.", file=sys.stderr)
        return False
    except ImportError:
        print("\nNo picture, because matplotlib is not installed: pip install 'paramsurvey[plot]'", file=sys.stderr)
        return False
    figure.savefig(path, metadata={"Date": None})
    return True


# ---- the program -----------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Survey the (u, v) coverage of radio-telescope arrays at 230 GHz.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for table and pictures (default: here)")
    parser.add_argument("--quick", action="store_true", help="five candidates and few declinations")
    parser.add_argument("--ncores", type=int, help="use so many cores (default: all)")
    parser.add_argument("--verbose", type=int, default=1, help="0 no progress, 1 now and then, 2 every second")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help="do not draw the tracks and gains")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Plan and run the survey; the exit status is 1 if psets are missing."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    stations = pd.read_csv(STATIONS).set_index("station").to_dict("index")
    survey = pipeline(stations, args.quick)
    given: dict[str, Any] = {"sites": sites(stations, args.quick), "costs": costs(stations, args.quick)}
    options: dict[str, Any] = {"ncores": args.ncores, "verbose": args.verbose, "vstats": args.verbose}
    given |= {**options, "allow_missing": True}

    print(survey.plan(sample=8, **given), end="\n\n", flush=True)
    start = time.perf_counter()
    run = survey.run(**given)
    seconds = time.perf_counter() - start
    missing = show(run, stations, seconds, args)
    print("\nAnd which eight should join, one after the other, if money counts?")
    return max(missing, design(stations, args.out, quick=args.quick, **options))


def show(run: RunResults, stations: Stations, seconds: float, args: argparse.Namespace) -> int:
    """Print and write what came of it."""
    print(run.drawing())
    drawing, csv, picture = (args.out / f"array_coverage{end}" for end in ("_pipeline.svg", ".csv", ".svg"))
    run.draw(drawing)
    written = [drawing]
    table, ranked = run["derive"], run["ranked"]
    if len(table):
        table.to_csv(csv, index=False)
        print_table(table, ranked)
        written += [csv, picture] if args.plot and save_picture(table, ranked, stations, picture) else [csv]
    if len(run.missing):
        print_missing(run.missing)
    print(f"\n{len(table):,} observations of arrays in {seconds:.1f} s, written to {', '.join(map(str, written))}")
    return 1 if len(run.missing) else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # for terminals that have no λ
    sys.exit(main())
