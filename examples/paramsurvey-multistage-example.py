#!/usr/bin/env python
"""Several surveys in a row, each on the results of the one before: which temperate planets could a telescope find?

Stage 1 puts a planet at many distances from stars of several masses, and asks how warm it is.
Stage 2 takes the temperate ones, gives each of them several sizes, and asks how well they show.
Stage 3 takes those whose transits a good space telescope can see, and asks how many there are to find.

It is done twice: with a `map` for each stage and plain Python between them, and as a `Pipeline`.
"""

import math

import paramsurvey
from paramsurvey import Pipeline, params

EARTH_RADIUS = 6.371e6  # m
SUN_RADIUS = 6.957e8  # m
ASTRONOMICAL_UNIT = 1.496e11  # m


def climate(pset, system_kwargs, user_kwargs):
    """Equilibrium temperature of a dark planet, 278 K at 1 au from the Sun; the star's light goes like mass**3.5."""
    luminosity = pset["star_mass"] ** 3.5
    return {"luminosity": luminosity, "temperature": 278.3 * luminosity**0.25 / pset["distance"] ** 0.5}


def transit(pset, system_kwargs, user_kwargs):
    """How much light a transiting planet takes away, how often (Kepler's third law), and how probable a transit is."""
    star_radius = SUN_RADIUS * pset["star_mass"] ** 0.8
    return {
        "depth_ppm": 1e6 * (pset["planet_radius"] * EARTH_RADIUS / star_radius) ** 2,
        "period_days": 365.25 * math.sqrt(pset["distance"] ** 3 / pset["star_mass"]),
        "probability": star_radius / (pset["distance"] * ASTRONOMICAL_UNIT),
    }


def yield_of_search(pset, system_kwargs, user_kwargs):
    """How many of a thousand such systems show at least three transits while they are watched."""
    transits = user_kwargs["days_watched"] / pset["period_days"]
    return {"transits": transits, "found": 1000 * pset["probability"] if transits >= 3 else 0.0}


def as_pipeline():
    """Declare the same stages; here a planet goes on to the next as soon as it is through one."""
    return (
        Pipeline("planets")
        .map(climate)
        .where("(200 < temperature) & (temperature < 300)")
        .product({"planet_radius": [0.5, 1.0, 2.0]})
        .map(transit)
        .where("depth_ppm > 50")
        .map(yield_of_search, user_kwargs={"days_watched": 1460})
    )


def main():
    paramsurvey.init(backend="multiprocessing", verbose=0, vstats=0)

    # Stage 1. product() makes every combination; the last parameter varies fastest.
    distances = [0.05 * 1.25**step for step in range(18)]
    planets = params.product({"star_mass": [0.2, 0.5, 0.8, 1.0, 1.2]}, {"distance": distances})
    climates = paramsurvey.map(climate, planets, name="climate")

    # Stage 2. A row of the results is a pset of the next stage, with everything that is known by now.
    psets = []
    for r in climates.iterdicts():
        if 200 < r["temperature"] < 300:
            psets += [{**r, "planet_radius": radius} for radius in (0.5, 1.0, 2.0)]
    print(f"stage 1: {len(climates.results)} planets, {len(psets) // 3} of them temperate")
    transits = paramsurvey.map(transit, psets, name="transit")

    # Stage 3. The same with a DataFrame, which is also a list of psets.
    visible = transits.results[transits.results["depth_ppm"] > 50]
    print(f"stage 2: {len(transits.results)} planets of three sizes, {len(visible)} of them visible")
    yields = paramsurvey.map(yield_of_search, visible, name="yield", user_kwargs={"days_watched": 1460})

    print(f"stage 3: {sum(r.found > 0 for r in yields.itertuples())} planets found; the easiest around each star:")
    easiest = {}
    for r in sorted(yields.itertuples(), key=lambda r: (-r.found, r.planet_radius)):
        if r.found > 0:
            easiest.setdefault(r.star_mass, r)
    print("\n  star mass  distance  radius  temperature      depth     period  found of 1000")
    for r in easiest.values():
        print(
            f"  {r.star_mass:4.1f} Sun {r.distance:6.2f} au {r.planet_radius:7.1f} {r.temperature:10.0f} K"
            f" {r.depth_ppm:7.0f} ppm {r.period_days:8.1f} d {r.found:14.1f}"
        )
    for stage in (climates, transits, yields):
        if len(stage.missing):
            print("missing:", stage.missing)

    # The same once more. Rows, order and values are those from above.
    run = as_pipeline().run(planets)
    same = run["yield_of_search"].to_dict() == yields.to_dict()
    print(f"\nas a pipeline: {len(run.results)} rows, {'the same' if same else 'but other ones'}")


if __name__ == "__main__":
    main()
