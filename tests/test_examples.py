"""The examples run as they are, and the array example's geometry agrees with facts from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest

import paramsurvey

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = ["paramsurvey-readme-example.py", "paramsurvey-multistage-example.py", "paramsurvey-greedy-example.py"]


def run(script: Path, *args: str, cwd: Path, first: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the paramsurvey under test, whatever options the tester's environment has.

    Modules in the folder `first` go before those that are installed.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PARAMSURVEY_")}
    assert paramsurvey.__file__ is not None
    under_test = str(Path(paramsurvey.__file__).parents[1])
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, [first, under_test]))
    ours["PYTHONIOENCODING"] = "utf-8"
    command = [sys.executable, str(script), *args]
    return subprocess.run(
        command, cwd=cwd, env=ours | environ, capture_output=True, encoding="utf-8", timeout=100, check=False
    )


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(EXAMPLES))  # as for a script that is run there
example, design, uv_plane = (load_example(name) for name in ("array_coverage", "array_design", "uv_plane"))
sys.path.remove(str(EXAMPLES))
STATIONS: dict[str, dict[str, Any]] = pd.read_csv(example.STATIONS).set_index("station").to_dict("index")
M87, SGR_A = uv_plane.SOURCES


def station(latitude: float, longitude: float = 0.0) -> dict[str, Any]:
    return {"latitude_deg": latitude, "longitude_deg": longitude, "elevation_m": 0.0, "status": "EHT2017"}


def tracks(stations: list[dict[str, Any]], dec: float, above: float = -90.0, ra: float = 0.0) -> tuple[Any, Any]:
    return uv_plane.uv_tracks(stations, ra, dec, "2017-04-11", step_minutes=5.0, min_elevation_deg=above)


def observed(array: str, source: dict[str, Any], stations: dict[str, dict[str, Any]] = STATIONS) -> dict[str, Any]:
    seen = example.coverage(array, source["ra_deg"], source["dec_deg"], stations)
    return dict(zip(example.OBSERVED, seen, strict=True))


# ---- where the stations are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "itrf"),
    [
        ("ALMA", (2225061.2, -5440057.4, -2481681.2)),
        ("APEX", (2225039.5, -5441197.6, -2479303.4)),
        ("JCMT", (-5464584.7, -2493001.2, 2150654.0)),
        ("LMT", (-768714.0, -5988541.8, 2063276.0)),
        ("SMT", (-1828796.2, -5054406.8, 3427865.2)),
        ("IRAM", (5088967.7, -301681.2, 3825012.2)),
        ("SPT", (0.0, 0.0, -6359609.7)),
    ],
)
def test_stations_are_where_programs_for_eht_data_have_them(name: str, itrf: tuple[float, float, float]) -> None:
    """To within a kilometre, which 0.01 degrees are; geocentric coordinates (ITRF, m) as public programs use them."""
    assert np.linalg.norm(uv_plane.positions([STATIONS[name]])[0] - itrf) < 1000


def test_alma_and_the_south_pole_are_as_far_apart_as_on_a_globe() -> None:
    alma, spt = uv_plane.positions([STATIONS["ALMA"], STATIONS["SPT"]])
    chord = 2 * 6371e3 * np.sin(np.radians(90 - 23.03) / 2)
    assert np.linalg.norm(alma - spt) == pytest.approx(chord, rel=0.005)


def test_there_are_eight_stations_of_2017_and_thirty_candidates() -> None:
    assert len(uv_plane.members("EHT2017", STATIONS)) == 8
    assert len(example.sites(STATIONS, quick=False)) == 1 + 30 + 30 * 29 // 2
    assert uv_plane.members("EHT2017+KP+GLT", STATIONS)[-2:] == [STATIONS["KP"], STATIONS["GLT"]]


# ---- how the Earth turns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "hours"),
    [
        (0.0, 13 + 10 / 60 + 46.3668 / 3600),  # Meeus, Astronomical Algorithms, example 12.a
        (19 * 60 + 21.0, 8 + 34 / 60 + 57.0896 / 3600),  # example 12.b
    ],
)
def test_sidereal_time_is_that_of_the_textbook(minutes: float, hours: float) -> None:
    assert uv_plane.gmst_deg("1987-04-10", minutes) / 15 == pytest.approx(hours, abs=1e-4 / 3600)


def test_a_source_culminates_when_the_local_sidereal_time_is_its_right_ascension() -> None:
    here = station(30, longitude=-70)
    u, _ = tracks([here, here], dec=30, above=89, ra=200)
    minutes = np.arange(0, 1440, 5.0)[np.isfinite(u[:, 0])]
    late = (uv_plane.gmst_deg("2017-04-11", minutes) - 70 - 200 + 180) % 360 - 180
    assert 0 < len(minutes) < 4
    assert np.abs(late).max() < 1 / np.cos(np.radians(30)) + 0.01


@pytest.mark.parametrize(("above", "seen"), [(82.4, True), (82.8, False)])
def test_m87_culminates_over_hawaii_at_90_degrees_minus_latitude_plus_declination(above: float, seen: bool) -> None:
    u, _ = tracks([STATIONS["JCMT"], STATIONS["SMA"]], M87["dec_deg"], above, M87["ra_deg"])
    assert np.isfinite(u).any() == seen


def test_a_source_stays_at_its_declination_above_the_poles_horizon() -> None:
    pole = station(90)
    for dec in (10.0, 45.0, 80.0):
        assert np.isfinite(tracks([pole, pole], dec, above=dec - 0.01)[0]).all()
        assert np.isnan(tracks([pole, pole], dec, above=dec + 0.01)[0]).all()


def test_from_the_equator_a_source_on_the_equator_is_up_for_half_a_day() -> None:
    here = station(0)
    u, _ = tracks([here, here], dec=0, above=0.0)
    assert abs(int(np.isfinite(u).sum()) - 144) <= 1


def test_the_south_pole_sees_sgr_a_all_day_and_m87_never() -> None:
    spt = STATIONS["SPT"]
    assert np.isfinite(tracks([spt, spt], SGR_A["dec_deg"], above=10)[0]).all()
    assert np.isnan(tracks([spt, spt], M87["dec_deg"], above=0)[0]).all()
    assert observed("EHT2017", M87)["baselines"] == 7 * 6 // 2


def test_greenland_adds_nothing_for_sgr_a() -> None:
    assert observed("EHT2017+GLT", SGR_A) == observed("EHT2017", SGR_A)


# ---- tracks ----------------------------------------------------------------------------------------------------------


def test_the_track_of_a_source_at_the_pole_is_a_circle() -> None:
    alma, iram = STATIONS["ALMA"], STATIONS["IRAM"]
    u, v = tracks([alma, iram], dec=90)
    east_west = np.linalg.norm(np.diff(uv_plane.positions([alma, iram]), axis=0)[0, :2]) / uv_plane.WAVELENGTH_M / 1e9
    assert np.hypot(u, v) == pytest.approx(np.full(u.shape, east_west))
    assert np.ptp(np.arctan2(v, u)) > 6.2


def test_the_tracks_of_a_source_on_the_equator_are_straight_lines() -> None:
    _, v = tracks([STATIONS["ALMA"], STATIONS["IRAM"]], dec=0)
    assert np.ptp(v) == pytest.approx(0, abs=1e-12)
    assert v[0] > 0  # IRAM is in the north of ALMA


def test_u_is_positive_when_the_second_station_is_in_the_east() -> None:
    u, v = tracks([station(0, 0.0), station(0, 0.1)], dec=0, above=80)
    length = np.radians(0.1) * 6378137 / uv_plane.WAVELENGTH_M / 1e9
    assert np.nanmax(u) == pytest.approx(length, rel=1e-4)
    assert np.nanmax(np.abs(v)) == pytest.approx(0, abs=1e-12)


def test_no_projected_baseline_is_longer_than_the_baseline() -> None:
    array = list(STATIONS.values())
    first, second = np.triu_indices(len(array), 1)
    place = uv_plane.positions(array) / uv_plane.WAVELENGTH_M / 1e9
    u, v = tracks(array, dec=-29)
    assert (np.hypot(u, v) <= np.linalg.norm(place[second] - place[first], axis=1) + 1e-9).all()


def test_the_eht_resolves_m87_as_published() -> None:
    """About 25 µas (EHT Collaboration 2019, ApJL 875, L2), with baselines beyond the null at 8.3 Gλ (L3)."""
    m87 = observed("EHT2017", M87)
    assert 8.3 < m87["longest_glambda"] < 8.5
    assert m87["resolution_uas"] == pytest.approx(25, abs=0.7)


def test_for_sgr_a_the_longest_baseline_is_nearly_all_of_that_from_spain_to_the_south_pole() -> None:
    iram, spt = uv_plane.positions([STATIONS["IRAM"], STATIONS["SPT"]]) / uv_plane.WAVELENGTH_M / 1e9
    chord = np.linalg.norm(iram - spt)
    assert chord * 0.99 < observed("EHT2017", SGR_A)["longest_glambda"] < chord


# ---- filling ---------------------------------------------------------------------------------------------------------


def test_the_reach_of_a_visibility_is_where_a_disc_of_the_images_size_is_half_resolved() -> None:
    x = (np.arange(20_000) + 0.5) / 20_000 - 0.5  # across a disc of diameter 1
    chord = np.sqrt(0.25 - x**2)
    half = (chord * np.cos(2 * np.pi * 0.705 * x)).sum() / chord.sum()
    assert half == pytest.approx(0.5, abs=0.001)
    reach = uv_plane.REACH * 1e9 * uv_plane.FIELD_OF_VIEW
    assert reach == pytest.approx(0.705)


def test_one_visibility_and_its_mirror_image_fill_two_discs() -> None:
    filling = uv_plane.filling_fraction(np.array([5.0, np.nan]), np.array([1.0, np.nan]))
    assert filling == pytest.approx(2 * (uv_plane.REACH / uv_plane.EARTH_DIAMETER) ** 2, rel=0.05)
    assert uv_plane.filling_fraction(np.zeros(1), np.zeros(1)) == pytest.approx(filling / 2)


def test_nothing_fills_nothing_and_everything_fills_everything() -> None:
    everywhere = np.meshgrid(np.arange(-9.7, 9.8, 0.5), np.arange(-9.7, 9.8, 0.5))
    within = np.hypot(*everywhere) < uv_plane.EARTH_DIAMETER
    assert uv_plane.filling_fraction(np.full(5, np.nan), np.full(5, np.nan)) == 0
    assert uv_plane.filling_fraction(everywhere[0][within], everywhere[1][within]) == 1


def test_an_additional_station_never_empties_a_cell() -> None:
    for source in (M87, SGR_A):
        before = observed("EHT2017", source)["filling"]
        assert 0.2 < before < 0.6
        for row in example.sites(STATIONS, quick=False)[1:31]:
            assert observed(row["array"], source)["filling"] >= before


def test_an_array_that_sees_nothing_has_no_resolution() -> None:
    alone = observed("EHT2017", {"ra_deg": 0.0, "dec_deg": -80.0}, {"north": station(80), "too": station(81)})
    assert (alone["baselines"], alone["visibilities"], alone["longest_glambda"], alone["filling"]) == (0, 0, 0, 0)
    assert np.isnan(alone["resolution_uas"])


# ---- the pipeline ----------------------------------------------------------------------------------------------------


def made_of(sites: list[dict[str, Any]], stations: dict[str, dict[str, Any]] = STATIONS) -> paramsurvey.RunResults:
    """Run the quick pipeline for some choices of sites, in this process."""
    given = {"sites": sites, "costs": example.costs(stations, quick=True), "allow_missing": True}
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        return session.run(example.pipeline(stations, quick=True), **given)


def test_the_pipeline_goes_from_sites_over_quality_and_coverage_to_a_ranking() -> None:
    graph = example.pipeline(STATIONS, quick=True).graph
    for above, below in (
        ("sites", "quality"), ("quality", "good air"), ("good air", "x sources"), ("x sources", "coverage"),
        ("coverage", "base array"), ("coverage", "with base"), ("rename", "with base"), ("with base", "with costs"),
        ("costs", "with costs"), ("with costs", "derive"), ("derive", "ranked"),
    ):  # fmt: skip
        assert graph.has_edge(above, below)


def test_sites_where_little_comes_through_the_air_are_left_out() -> None:
    air = {name: example.quality(f"EHT2017+{name}", STATIONS) for name in STATIONS}
    assert sorted(name for name in air if air[name] <= 0.4) == ["HAY", "KVNYS"]
    assert max(air, key=air.__getitem__) == "DomeA"
    assert example.quality("EHT2017+DomeA+GLT", STATIONS) == air["GLT"]
    assert example.quality("EHT2017", STATIONS) == 1


def test_a_millimetre_of_water_has_an_optical_depth_of_a_twentieth() -> None:
    assert example.transmission(90, 0) == pytest.approx(np.exp(-3 / 20))
    assert example.transmission(0, 0) == pytest.approx(np.exp(-53 / 20))
    assert example.transmission(0, 2000 * np.log(2)) == pytest.approx(np.exp(-53 / 2 / 20))


def test_the_costs_of_an_array_are_those_of_what_is_added() -> None:
    costs = {row["array"]: row["cost"] for row in example.costs(STATIONS, quick=True)}
    assert costs["EHT2017"] == 0
    assert costs["EHT2017+GLT"] == pytest.approx(1 + 0.2 * 0.07 + 1.5)
    assert costs["EHT2017+CNI+GLT"] == pytest.approx(costs["EHT2017+CNI"] + costs["EHT2017+GLT"])


def test_the_gain_is_relative_to_the_base_array_and_unknown_without_it() -> None:
    base, glt = {"array": "EHT2017", "added": 0}, {"array": "EHT2017+GLT", "added": 1}
    rows = {row["source"]: row for row in made_of([base, glt])["derive"].iloc[9:].to_dict("records")}
    assert rows["M87"]["gain"] == pytest.approx(
        observed("EHT2017+GLT", M87)["filling"] / observed("EHT2017", M87)["filling"] - 1
    )
    assert rows["M87"]["value"] == pytest.approx(
        rows["M87"]["gain"] * rows["M87"]["transmission"] / rows["M87"]["cost"]
    )
    alone = made_of([glt])
    assert alone["derive"]["gain"].isna().all()
    assert len(alone["derive"]) == 9
    assert len(alone["ranked"]) == 0


def test_the_best_additions_come_first() -> None:
    ranked = made_of(example.sites(STATIONS, quick=True))["ranked"]
    for _, rows in ranked.groupby(["source", "added"]):
        assert rows["value"].is_monotonic_decreasing
        assert len(rows) <= 5
    assert ranked[ranked["source"] == "M87"].iloc[0]["array"] == "EHT2017+GLT"


def test_a_ranked_row_knows_its_sites_and_its_costs() -> None:
    run = made_of(example.sites(STATIONS, quick=True))
    lineage = run.lineage(0)
    assert [row["array"] for row in lineage["costs"]] == [run["ranked"].iloc[0]["array"]]
    assert {row["array"] for row in lineage["sites"]} == {"EHT2017", run["ranked"].iloc[0]["array"]}


# ---- the program -----------------------------------------------------------------------------------------------------


def survey_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return what is printed before the search for the best additions."""
    survey, search = done.stdout.split("\n\nAnd which eight should join, one after the other, if money counts?\n")
    assert "M87: EHT2017" in search
    return survey


@attrs.frozen
class Ran:
    """A program that has run, and the folder that it ran in."""

    done: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The quick survey without its picture."""
    folder = tmp_path_factory.mktemp("quick")
    return Ran(run(EXAMPLES / "array_coverage.py", "--quick", "--no-plot", "--verbose", "0", cwd=folder), folder)


def test_the_quick_survey_prints_its_plan_its_course_and_a_table_and_writes_all_rows(quick: Ran) -> None:
    done = quick.done
    assert (done.returncode, done.stderr) == (0, "")
    plan, course, *tables = done.stdout.split("\n\n")
    assert plan.startswith("array coverage: 11 stages on ")
    assert "sampled 8 of 16 rows of 'sites'" in plan
    assert "a run takes about " in plan
    assert "● coverage      map     ████████ 100 %  99 rows" in course
    assert max(map(len, "\n".join([course, *tables]).splitlines())) <= 100
    assert tables[0].startswith("M87, declination +12.4°")
    assert tables[1].startswith("Sgr A*, declination -29.0°")
    assert survey_of(done).endswith("written to array_coverage_pipeline.svg, array_coverage.csv")
    assert not (quick.folder / "array_coverage.svg").exists()

    table = pd.read_csv(quick.folder / "array_coverage.csv")
    assert len(table) == 9 * (16 - 5)  # without HAY, the air of which is not good enough
    m87 = table[(table["source"] == "M87") & (table["added"] == 1)].set_index("array")["gain"]
    assert m87.idxmax() == "EHT2017+GLT"
    assert 0.4 < m87.max() < 0.6
    here = observed("EHT2017+GLT", M87)
    there = table[(table["source"] == "M87") & (table["array"] == "EHT2017+GLT")].iloc[0]
    assert {name: there[name] for name in here} == pytest.approx(here)


def svg(picture: Path) -> ET.Element:
    drawing = ET.parse(picture).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    return drawing


def test_the_run_is_drawn_with_its_counts(quick: Ran) -> None:
    assert quick.done.returncode == 0, quick.done.stderr
    words = set(svg(quick.folder / "array_coverage_pipeline.svg").itertext())
    assert {"sites", "quality", "coverage", "costs", "ranked", "99 rows"} <= words


def test_the_picture_is_a_drawing_with_tracks_in_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs paramsurvey[plot]")
    done = run(EXAMPLES / "array_coverage.py", "--quick", "--out", "deep/in", "--verbose", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert survey_of(done).endswith("deep/in/array_coverage.csv, deep/in/array_coverage.svg")
    picture = tmp_path / "deep" / "in" / "array_coverage.svg"
    assert len(list(svg(picture).iter("{http://www.w3.org/2000/svg}path"))) > 200
    for words in ("M87: 34% filled", "Sgr A*: 50% filled", "u (Gλ), east to the left", "+ GLT"):
        assert words in picture.read_text(encoding="utf-8")


def test_one_core_and_all_cores_write_the_same_table(quick: Ran, tmp_path: Path) -> None:
    options = ["--quick", "--no-plot", "--out", "one", "--ncores", "1"]
    done = run(EXAMPLES / "array_coverage.py", *options, cwd=tmp_path)
    assert quick.done.returncode == done.returncode == 0, quick.done.stderr + done.stderr
    one = tmp_path / "one" / "array_coverage.csv"
    assert one.read_bytes() == (quick.folder / "array_coverage.csv").read_bytes()


def test_without_matplotlib_it_says_which_extra_to_install_and_prints_the_table(tmp_path: Path) -> None:
    (tmp_path / "empty" / "matplotlib").mkdir(parents=True)
    (tmp_path / "empty" / "matplotlib" / "__init__.py").write_text("raise ImportError('not here')")
    done = run(EXAMPLES / "array_coverage.py", "--quick", cwd=tmp_path, first=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    assert "No picture, because matplotlib is not installed: pip install 'paramsurvey[plot]'" in done.stderr
    assert survey_of(done).endswith("array_coverage.csv")


def examples_with(tmp_path: Path, stations: pd.DataFrame) -> Path:
    """Copy the example with other stations."""
    (tmp_path / "data").mkdir()
    stations.to_csv(tmp_path / "data" / "stations.csv", index=False)
    for name in ("uv_plane.py", "array_design.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    return Path(shutil.copy(EXAMPLES / "array_coverage.py", tmp_path))


def test_missing_psets_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    stations = pd.read_csv(example.STATIONS)
    script = examples_with(tmp_path, stations[stations["station"] != "GAM"])
    done = run(script, "--quick", "--no-plot", "--verbose", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "5 psets have no result, and what would come of them is left out:" in done.stderr
    assert "quality of EHT2017+GAM: KeyError('GAM')" in done.stderr
    assert "+ GLT" in done.stdout
    assert len(pd.read_csv(tmp_path / "array_coverage.csv")) == 9 * 7


def test_when_all_psets_are_missing_there_is_no_table(tmp_path: Path) -> None:
    script = examples_with(tmp_path, pd.read_csv(example.STATIONS).drop(columns="longitude_deg"))
    done = run(script, "--quick", "--verbose", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "99 psets have no result" in done.stderr
    assert not (tmp_path / "array_coverage.csv").exists()


def test_a_survey_with_a_limit_shows_what_there_is(tmp_path: Path) -> None:
    done = run(EXAMPLES / "array_coverage.py", "--quick", cwd=tmp_path, PARAMSURVEY_LIMIT="3")
    assert "Traceback" not in done.stderr
    assert "No picture, because results that it shows are missing." in done.stderr
    assert len(pd.read_csv(tmp_path / "array_coverage.csv")) == 3 * 9


# ---- which stations should join --------------------------------------------------------------------------------------


def test_the_search_prints_its_picks_and_leaves_its_trace_and_pictures(tmp_path: Path) -> None:
    done = run(EXAMPLES / "array_design.py", "--quick", "--verbose", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "M87: EHT2017 + GLT + " in done.stdout
    trace = pd.read_csv(tmp_path / "array_design.csv")
    assert trace.groupby("source")["picked"].sum().to_dict() == {"M87": 3, "Sgr A*": 3}
    assert set(trace["site"]) == set(design.QUICK_CANDIDATES)
    for name in ("M87", "SgrA"):
        assert "filling" in set(svg(tmp_path / f"array_design_{name}.svg").itertext())
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_search_stays_below_its_budget_and_evaluates_what_the_survey_does() -> None:
    psets = design.tables(STATIONS)
    assert len(psets["candidates"]) == 30
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        found = session.run(design.pipeline(STATIONS, quick=True), **psets)["M87"]
    assert found.picks["total_cost"].iloc[-1] <= design.BUDGET
    assert found.trace.query("picked")["site"].tolist() == found.keys
    array = "+".join(["EHT2017", *found.keys])
    assert found.value == pytest.approx(observed(array, M87)["filling"])


# ---- the programs that the README names ------------------------------------------------------------------------------


def test_the_readmes_programs_are_installed_as_scripts() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"]
    assert installed == {f"examples/{name}": name for name in SCRIPTS}
    for name in SCRIPTS:
        assert (EXAMPLES / name).read_text(encoding="utf-8").startswith("#!/usr/bin/env python\n")


def test_the_readme_example_prints_each_result_twice(tmp_path: Path) -> None:
    done = run(EXAMPLES / SCRIPTS[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("0.3 0.3") == 10
    assert lines[-1] == "5 finished, 0 missing"


def test_the_multistage_example_hands_the_results_of_a_stage_to_the_next(tmp_path: Path) -> None:
    done = run(EXAMPLES / SCRIPTS[1], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "stage 1: 90 planets, 16 of them temperate",
        "stage 2: 48 planets of three sizes, 38 of them visible",
    ]
    assert lines[-1] == "as a pipeline: 38 rows, the same"
    stars = [line.split() for line in lines if line.startswith("  ") and " Sun " in line]
    assert [row[0] for row in stars] == ["0.2", "0.5", "0.8", "1.0"]
    assert all(200 < float(row[5]) < 300 for row in stars)
    assert "missing" not in done.stdout


@pytest.fixture(scope="module")
def greedy_example(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run(EXAMPLES / SCRIPTS[2], cwd=tmp_path_factory.mktemp("greedy"))


def test_the_greedy_example_picks_stations_that_see_more_and_more_but_each_adds_less(
    greedy_example: subprocess.CompletedProcess[str],
) -> None:
    done = greedy_example
    assert (done.returncode, done.stderr) == (0, "")
    picks = [line.split() for line in done.stdout.splitlines() if " site" in line and line.strip()[0].isdigit()]
    areas = [int(row[5]) for row in picks]
    gains = np.diff([0, *areas])
    assert len(areas) == 6
    assert (gains > 0).all()
    assert (np.diff(gains) <= 0).all()
    assert done.stdout.splitlines()[-1] == "best stations: " + " ".join(row[1] for row in picks)


def test_the_greedy_example_picks_the_same_on_one_core_and_by_hand(
    greedy_example: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    many, one, by_hand = (
        greedy_example,
        run(EXAMPLES / SCRIPTS[2], cwd=tmp_path, PARAMSURVEY_NCORES="1"),
        run(EXAMPLES / SCRIPTS[2], "--by-hand", cwd=tmp_path),
    )
    assert many.returncode == one.returncode == by_hand.returncode == 0
    assert many.stdout == one.stdout == by_hand.stdout


# ---- an optimiser from outside ---------------------------------------------------------------------------------------


def test_optuna_finds_the_ball_that_flies_farthest(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the optimiser needs paramsurvey[examples]")
    done = run(EXAMPLES / "optimise_with_optuna.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *throws = done.stdout.splitlines()
    assert first == "the best of 160 throws:"
    _, _, mass, _, _, angle, _, distance, _ = throws[0].split()
    assert 5 <= float(mass) <= 12
    assert 25 <= float(angle) <= 35
    assert 122 < float(distance) < 123


def test_without_optuna_the_optimiser_says_which_extra_to_install(tmp_path: Path) -> None:
    (tmp_path / "empty" / "optuna").mkdir(parents=True)
    (tmp_path / "empty" / "optuna" / "__init__.py").write_text("raise ImportError('not here')")
    done = run(EXAMPLES / "optimise_with_optuna.py", cwd=tmp_path, first=str(tmp_path / "empty"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "this example needs Optuna: pip install 'paramsurvey[examples]'\n"
