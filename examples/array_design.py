#!/usr/bin/env python
"""Which eight stations should join the Event Horizon Telescope of 2017, if money counts?

To look at all choices of eight out of thirty sites would take six million observations for each source. A greedy search
takes the site that fills most of the (u, v) plane for its money, then the one that fills most beside it, and so on, as
long as the budget lasts; sites that have become too dear are skipped::

    python examples/array_design.py --out /tmp/design

One stage of the pipeline searches for M87 and one for Sgr A*, at the same time and on the same cores. What is printed
are the picks, and who else was close. Gains may rise here: a site that sees little of what the others see is worth more
when another one has come that sees it, too. So all that could be next are looked at in every round: ``lazy=True`` would
spare those whose gain was small before. It writes ``array_design.csv`` (every array that was looked at)
and ``array_design_M87.svg`` and ``array_design_SgrA.svg`` (value by round, with all candidates as dots).

`array_coverage.py` ends with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from uv_plane import BASE, OBSERVATION, SOURCES, filling_fraction, uv_tracks

from paramsurvey import GreedyResults, Pipeline, RunResults, workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    Stations = dict[str, dict[str, Any]]

STATIONS = Path(__file__).resolve().parent / "data" / "stations.csv"
PICKS, BUDGET = 8, 13.5
QUICK_CANDIDATES = ["CNI", "GAM", "GLT", "HAY", "NOEMA"]


def pipeline(stations: Stations, quick: bool = False) -> Pipeline:
    """Candidates and stations that exist come in; each greedy stage gives the picks for one source."""
    searches = Pipeline("array design", sources=("candidates", "existing"))
    for source in SOURCES:
        searches = searches.greedy(
            workers.keywords(observe, output=["filling", "baselines"]),
            name=source["source"],
            after=("candidates", "existing"),
            candidate="site",
            picked="array",
            metric="filling",
            picks=3 if quick else PICKS,
            budget=BUDGET,
            cost="cost",
            user_kwargs={"stations": stations, "source": source},
        )
    return searches


def observe(site: str, array: list[str], user_kwargs: dict[str, Any]) -> tuple[float, int]:
    """Observe a source for a day with an array and one more site; return the filled fraction, and who met whom."""
    at, source = user_kwargs["stations"], user_kwargs["source"]
    stations = [at[name] for name in [*array, site]]
    u, v = uv_tracks(stations, source["ra_deg"], source["dec_deg"], **OBSERVATION)
    return filling_fraction(u, v), int(np.isfinite(u).any(axis=0).sum())


def cost(at: dict[str, Any]) -> float:
    """Return what a station costs, 1 being one by a road at sea level.

    These are no estimates of anybody's, but an illustration: roads and thin air add 20 % per kilometre of height, and
    ships and aeroplanes 150 % beyond 60 degrees of latitude.
    """
    polar = 1.5 if abs(at["latitude_deg"]) > 60 else 0
    return float(1 + 0.2 * at["elevation_m"] / 1000 + polar)


def tables(stations: Stations, quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return the sites that may be added, with their costs, and those that observe already."""
    candidates = [
        name for name, at in stations.items() if at["status"] != BASE and (not quick or name in QUICK_CANDIDATES)
    ]
    return {
        "candidates": [{"site": name, "cost": cost(stations[name])} for name in candidates],
        "existing": [{"site": name} for name, at in stations.items() if at["status"] == BASE],
    }


# ---- what is shown of it ---------------------------------------------------------------------------------------------


def show(run: RunResults, out: Path) -> list[Path]:
    """Print the picks, and write what all of it rests on; return the files."""
    traces, files = [], [out / "array_design.csv"]
    for source in SOURCES:
        best: GreedyResults = run[source["source"]]
        print_picks(source["source"], best)
        traces.append(best.trace.assign(source=source["source"]))
        files.append(out / f"array_design_{source['source'].replace(' ', '').rstrip('*')}.svg")
        best.plot(files[-1])
    pd.concat(traces).to_csv(files[0], index=False)
    return files


def print_picks(source: str, best: GreedyResults) -> None:
    """Print what was picked for a source, and how close others were."""
    print(f"\n{source}: {BASE} + {' + '.join(map(str, best.keys))}")
    print("  pick      filled    gain   cost  total   runner-up, behind by")
    for row in best.picks.to_dict("records"):
        other = "" if pd.isna(row["runner_up"]) else f"   {row['runner_up']}, {row['margin']:.2g}"
        line = (
            f"  {row['site']:<8}{row['filling']:>8.1%}{row['gain']:>+8.1%}{row['cost']:>7.2f}{row['total_cost']:>7.2f}"
        )
        print(line + other)
    print(f"  {best.evaluations} arrays observed; {best.stopped}")


# ---- the program -----------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search for the stations that a radio-telescope array should add.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for table and pictures (default: here)")
    parser.add_argument("--quick", action="store_true", help="three picks among five sites")
    parser.add_argument("--ncores", type=int, help="use so many cores (default: all)")
    parser.add_argument("--verbose", type=int, default=1, help="0 no progress, 1 now and then, 2 every second")
    return parser.parse_args(argv)


def design(stations: Stations, out: Path, *, quick: bool, **options: Any) -> int:
    """Search, print and write; return 1 if arrays could not be observed, else 0."""
    run = pipeline(stations, quick).run(**tables(stations, quick), **options)
    files = show(run, out)
    print(f"\nBoth searches, written to {', '.join(map(str, files))}")
    return int(any(len(run[source["source"]].missing) for source in SOURCES))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    stations = pd.read_csv(STATIONS).set_index("station").to_dict("index")
    return design(stations, args.out, quick=args.quick, ncores=args.ncores, verbose=args.verbose, vstats=args.verbose)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
