#!/usr/bin/env python
"""Greedy optimisation: choose the best station, keep it, choose the best one to go with it, and so on.

Where should rain radars stand, so that few of them see most of a country? To try all choices of 6 out of 60 sites
would take 50 million evaluations; the greedy way takes 6 surveys of at most 60 psets, and is never worse than 63 % of
the best choice (Nemhauser, Wolsey and Fisher, Mathematical Programming 14, 265, 1978).

`paramsurvey.greedy` does it in one call; ``--by-hand`` does it in a loop around `paramsurvey.map`, with the same worker
and the same picks.
"""

import math
import random
import sys

import paramsurvey

WIDTH, HEIGHT = 300, 200  # km
RADAR_RANGE = 45  # km
PICKS = 6


def covered_area(pset, system_kwargs, user_kwargs):
    """Count the square kilometres that one more station sees together with those that exist."""
    stations = [user_kwargs["sites"][name] for name in [*pset["existing_stations"], pset["station"]]]
    seen = 0
    for x in range(2, WIDTH, 4):
        for y in range(2, HEIGHT, 4):
            if any(math.hypot(x - at_x, y - at_y) <= RADAR_RANGE for at_x, at_y in stations):
                seen += 16  # the points are 4 km apart
    return {"area": seen}


def make_sites(count):
    """Return places for stations, the same in every run."""
    chance = random.Random(1)
    return {f"site{i:02d}": (chance.uniform(0, WIDTH), chance.uniform(0, HEIGHT)) for i in range(count)}


def in_one_call(sites):
    """Return the picks as rows of a table."""
    best = paramsurvey.greedy(
        covered_area,
        list(sites),
        candidate="station",
        picked="existing_stations",
        picks=PICKS,
        lazy=True,  # an area can only gain less by a station if others see part of it already
        user_kwargs={"sites": sites},
    )
    return best.picks.itertuples()


def by_hand(sites):
    """Return the same, by a survey for each pick."""
    picks = []
    for _ in range(PICKS):
        existing = [pick.station for pick in picks]
        psets = [{"station": name, "existing_stations": existing} for name in sites if name not in existing]
        results = paramsurvey.map(covered_area, psets, user_kwargs={"sites": sites})

        # Of equals max() takes the first, and results come in the order of the psets: every run picks the same.
        picks.append(max(results.itertuples(), key=lambda row: row.area))
    return picks


def main():
    paramsurvey.init(backend="multiprocessing", verbose=0, vstats=0)

    sites = make_sites(60)
    picks = list(by_hand(sites) if "--by-hand" in sys.argv[1:] else in_one_call(sites))
    print("pick  station   position      sees together")
    for number, pick in enumerate(picks, 1):
        x, y = sites[pick.station]
        share = pick.area / (WIDTH * HEIGHT)
        print(f"{number:4}  {pick.station}   {x:3.0f}, {y:3.0f} km  {pick.area:6} sq km, {share:.0%}")
    print("best stations:", " ".join(pick.station for pick in picks))


if __name__ == "__main__":
    main()
