"""What a greedy search gives back: picks, trace, pareto, what is missing, and the chart."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pandas as pd
import pytest
from asked_by_hand import Engine
from greedy_workers import FAMILIES, Metric
from test_greedy import candidates, lame, search

from paramsurvey.charts import Chart, Column
from paramsurvey.errors import OptionError, StageError
from paramsurvey.stages.greedy import Greedy


def area(pset, system_kwargs, user_kwargs):
    keys = [*pset["picked"], pset["candidate"]]
    return {"area": sum(keys), "noise": -len(keys) * max(keys), "gain": "loud"}


def found(**options):
    return Engine().run(Greedy(area, **{"picks": 2, "metric": "area", **options}), candidates(4)).shown


def test_a_pick_tells_all_that_is_known_of_it():
    picks = found(budget=5, cost={0: 1, 1: 1, 2: 2, 3: 2}, rule="gain").picks
    assert picks.to_dict("records") == [
        {"round": 1, "candidate": 3, "area": 3, "gain": 3, "cost": 2, "total_cost": 2, "ties": 1, "runner_up": 2,
         "margin": 1, "evaluations": 4},
        {"round": 2, "candidate": 2, "area": 5, "gain": 2, "cost": 2, "total_cost": 4, "ties": 1, "runner_up": 1,
         "margin": 1, "evaluations": 7},
    ]  # fmt: skip


def test_picks_keep_the_columns_and_dtypes_of_the_candidates():
    rows = pd.DataFrame({"site": pd.Series(["a", "b"], dtype="category"), "height": pd.Series([1, 2], dtype="int16")})
    picks = Engine().run(Greedy(Metric(len), picks=1, key="site", candidate="site"), rows).shown.picks
    assert picks.dtypes[["site", "height"]].tolist() == rows.dtypes.tolist()


def test_a_run_tells_from_which_candidates_the_picks_come():
    made = Engine().run(Greedy(area, picks=2, metric="area"), candidates(4), candidates([7]))
    assert [parents.tolist() for parents in made.parents] == [[3, 2], [-1, -1]]
    assert made.table is made.shown.table


def test_the_trace_has_a_row_for_each_candidate_and_round():
    trace = found().trace
    assert trace.columns.tolist() == [
        "round", "move", "candidate", "status", "picked", "gain", "area", "seconds", "noise", "answer_gain"
    ]  # fmt: skip
    assert len(trace) == 4 + 3
    assert trace.query("picked")["candidate"].tolist() == [3, 2]
    assert trace.query("round == 2 and candidate == 1").drop(columns=["seconds"]).to_dict("records") == [
        {"round": 2, "move": "add", "candidate": 1, "status": "evaluated", "picked": False, "gain": 1, "area": 4,
         "noise": -6, "answer_gain": "loud"}
    ]  # fmt: skip


def test_the_trace_tells_who_was_spared_and_what_was_known_from_before():
    value = FAMILIES["coverage"](random.Random(3), 9)
    lazy = search(value, 9, picks=4, lazy=True)[0].trace
    pruned = lazy.query("status == 'pruned'")
    assert len(pruned) > 5
    assert pruned["value"].isna().all()
    assert pruned["bound"].notna().all()
    polished = search(value, 9, picks=3, polish="swap")[0].trace
    assert set(polished["move"]) == {"add", "swap"}
    floated = search(value, 9, picks=3, floating=True)[0].trace
    assert "memo" in floated["status"].tolist()


def test_pareto_has_the_sets_than_which_none_is_better():
    best = found(beam=4).pareto({"area": True, "noise": True})
    points = best[["area", "noise"]].to_numpy().tolist()
    assert points == [[5, -6], [3, -3], [2, -2], [1, -1], [0, 0]]
    assert best["members"].iloc[0] == [3, 2]
    assert found().pareto(["area", "size"])["size"].tolist() == [2, 1]
    assert found(budget=9, cost={0: 1, 1: 1, 2: 1, 3: 9}, rule="gain").pareto(["area", "cost"])["cost"].tolist() == [
        9,
        1,
    ]
    with pytest.raises(StageError, match=r"no set that was evaluated has a number 'aera'; did you mean 'area'\?"):
        found().pareto(["aera"])


def test_sizes_have_the_best_set_of_each_size_on_the_way():
    assert found().sizes.to_dict("records") == [
        {"size": 1, "members": [3], "area": 3},
        {"size": 2, "members": [3, 2], "area": 5},
    ]
    backward = found(direction="backward").sizes
    assert backward[["size", "area"]].to_numpy().tolist() == [[2, 5], [3, 6]]


def test_pareto_of_one_metric_needs_no_list_and_of_none_is_refused():
    assert found().pareto("area")["area"].tolist() == [5]
    with pytest.raises(OptionError, match=r"pareto\(\[\]\): name the metrics in which sets are to be compared"):
        found().pareto([])


def test_one_evaluation_is_no_evaluations():
    one = Engine().run(Greedy(Metric(len), picks=1), candidates(1)).shown
    assert repr(one) == "<GreedyResults greedy: 0; value 1; 1 evaluation; picks=1 reached>"
    assert one.plot().title == "greedy: 1 pick, 1 evaluation"


def test_results_are_told_in_a_line_and_shown_as_a_table():
    results = Engine().run(Greedy(lame, picks=2), candidates(4)).shown
    assert repr(results) == (
        "<GreedyResults greedy: 2, 3; value 5; 7 evaluations; 2 sets without a value; picks=2 reached>"
    )
    assert "<td>2</td>" in results._repr_html_()
    assert results.stats.read_stats("greedy")[0] == 5
    assert len(results) == 2


# --- chart ----------------------------------------------------------------------------------------


def test_the_chart_shows_values_gains_and_evaluations(tmp_path):
    results = search(FAMILIES["coverage"](random.Random(3), 9), 9, picks=4, lazy=True)[0]
    chart = results.plot(tmp_path / "chart.svg")
    assert [column.label for column in chart.columns] == [str(key) for key in results.keys]
    assert [column.value for column in chart.columns] == results.picks["value"].tolist()
    assert sum(column.count for column in chart.columns) == results.evaluations
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    tags = [each.tag.rpartition("}")[2] for each in root.iter()]
    dots = sum(len(column.dots) for column in chart.columns)
    assert tags.count("circle") == dots + 4
    assert len(tags) < 250
    results.plot(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes()[:4] == b"\x89PNG"
    assert chart._repr_svg_() == chart.svg() == results.plot().svg()


def test_a_chart_of_anything_can_be_drawn(tmp_path):
    odd = Column("<b> & a very long name", None, (math.inf, 1e300), (-math.inf,), 0)
    for chart in (
        Chart("", "", ()),
        Chart("one", "value", (Column("a", 1.0, (), (), 1),)),
        Chart("odd", "v", (odd, Column("b", -1e-9, (0.0,), (), 10**6)), math.nan),
        Chart("many", "v", tuple(Column(f"site{n}", float(n), (), (), n) for n in range(300))),
    ):
        ElementTree.fromstring(chart.svg())
        chart.save(tmp_path / "chart.png")


def test_a_search_without_picks_has_a_chart():
    ElementTree.fromstring(search(sum, 0, picks=3)[0].plot().svg())


def test_a_chart_is_saved_as_svg_or_png(tmp_path):
    chart = Chart("", "", ())
    with pytest.raises(OptionError, match=r"end the name in \.svg or \.png"):
        chart.save(tmp_path / "chart.pdf")
    with pytest.raises(OptionError, match="there is no folder"):
        chart.save(tmp_path / "no" / "chart.svg")
