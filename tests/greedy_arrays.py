"""The (u, v) filling of the real stations as a metric: baselines make gains rise, because each needs two stations."""

from __future__ import annotations

import csv
import sys
from functools import cache
from itertools import combinations
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import numpy as np  # noqa: E402
import uv_plane  # noqa: E402

M87 = uv_plane.SOURCES[0]


@cache
def stations():
    with (EXAMPLES / "data" / "stations.csv").open() as file:
        rows = list(csv.DictReader(file))
    numbers = ("latitude_deg", "longitude_deg", "elevation_m")
    return {row["station"]: row | {name: float(row[name]) for name in numbers} for row in rows}


@cache
def baselines():
    """Return for each pair of stations the cells that it fills for M87, as the bits of an int."""
    names, inside = list(stations()), uv_plane.distance_from_origin() <= uv_plane.EARTH_DIAMETER
    u, v = uv_plane.uv_tracks(
        list(stations().values()), M87["ra_deg"], M87["dec_deg"], "2017-04-11", step_minutes=30, min_elevation_deg=10
    )
    cells = {}
    for place, pair in enumerate(combinations(names, 2)):
        mask = uv_plane.filled_cells(u[:, place], v[:, place]) & inside
        cells[pair] = cells[pair[::-1]] = int.from_bytes(np.packbits(mask).tobytes(), "big")
    return cells


@cache
def cells_in_all():
    return int((uv_plane.distance_from_origin() <= uv_plane.EARTH_DIAMETER).sum())


def filled_by(names):
    filled = 0
    for pair in combinations(names, 2):
        filled |= baselines()[pair]
    return filled


def filling(names):
    """Return the share of the (u, v) plane that an array fills."""
    return filled_by(names).bit_count() / cells_in_all()


def one_baseline(pick, candidate, picked):
    """By how much a pick can raise the gain of another station: by what the two fill together, and nobody else does."""
    return (baselines()[pick, candidate] & ~filled_by([*picked, pick])).bit_count() / cells_in_all()


def base():
    return [name for name, row in stations().items() if row["status"] == "EHT2017"]


def others():
    return [name for name, row in stations().items() if row["status"] != "EHT2017"]
