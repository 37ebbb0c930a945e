"""The (u, v) plane of a radio array: which points its telescopes measure in a day, and how much of it they fill.

Every pair of telescopes measures one point at a time, and the turning Earth draws these points out into tracks.
Nothing here knows of surveys; `array_coverage.py` is one. Arrays are named after what is added to the base array:
"EHT2017+GLT+KP".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Stations = dict[str, dict[str, Any]]

BASE = "EHT2017"
# J2000. Precession until the observation is left out: 0.2 degrees, a minute of time along the tracks.
SOURCES: list[dict[str, Any]] = [
    {"source": "M87", "ra_deg": 187.705917, "dec_deg": 12.391111},  # 12h30m49.42s +12d23m28.0s
    {"source": "Sgr A*", "ra_deg": 266.416833, "dec_deg": -29.007806},  # 17h45m40.04s -29d00m28.1s
]
OBSERVATION: dict[str, Any] = {"date": "2017-04-11", "step_minutes": 5.0, "min_elevation_deg": 10.0}

WAVELENGTH_M = 299_792_458.0 / 230e9
EARTH_RADIUS_M, EARTH_FLATTENING = 6_378_137.0, 1 / 298.257223563  # the WGS 84 ellipsoid
MICROARCSECOND = np.pi / 180 / 3600 / 1e6

# What "filled" means; see `filled_cells`.
CELL = 0.1  # Gλ
CELLS = 216  # on each side of the grid: the Earth's diameter, and a filled margin around it
EARTH_DIAMETER = 2 * EARTH_RADIUS_M / WAVELENGTH_M / 1e9  # Gλ; no baseline on the ground is longer
FIELD_OF_VIEW = 200 * MICROARCSECOND  # five times the rings of M87 and Sgr A*, which the EHT measured as 42 and 50 µas
REACH = 0.705 / FIELD_OF_VIEW / 1e9  # Gλ


def added_to(array: str) -> list[str]:
    """Return the stations that an array has beside those of the base array."""
    return array.split("+")[1:]


def members(array: str, stations: Stations) -> list[dict[str, Any]]:
    """Return the stations of an array: first the base array's, then the added ones."""
    return [at for at in stations.values() if at["status"] == BASE] + [stations[name] for name in added_to(array)]


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
