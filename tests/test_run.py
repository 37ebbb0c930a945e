"""Pipelines that run: rows flow from stage to stage, and what is lost in one removes only its descendants."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from failing_workers import UnpicklableValue
from pipeline_workers import (
    counts_its_calls,
    ends_when_a_second_stage_has_answered,
    exact,
    exits_at_two,
    fails_always,
    fails_at_odd,
    fails_at_three,
    fails_for_group_b,
    half,
    hangs_at_two,
    is_killed_at_two,
    left_meets_right,
    mixture,
    negated,
    nothing,
    pid,
    right_meets_left,
    says_that_it_has_answered,
    sometimes,
    square,
    stamp,
    succeeds_at_the_third_attempt,
    total_of_group,
    up_to,
)
from stopwatch import Stopwatch
from test_failures_driver import HEAD, has_hung, program  # noqa: F401 - a fixture

import paramsurvey
from paramsurvey import MapResults, Pipeline, RunResults, flow, psets
from paramsurvey.errors import (
    MissingPsets,
    OptionError,
    PsetError,
    SessionError,
    StageError,
    StageFailed,
    SurveyStopped,
    WorkerError,
    WorkerStartError,
)
from paramsurvey.stages import rows as row_stages
from paramsurvey.stages.base import Ask, Rows
from paramsurvey.stages.reduce import Reduce

pytestmark = [pytest.mark.timeout(120, method="signal"), pytest.mark.usefixtures("own_folder")]


@pytest.fixture
def small_pieces(monkeypatch):
    """Rows are cut, and stages held back, as if there were ten thousand times as many."""
    monkeypatch.setattr(flow, "SLAB", 4)
    monkeypatch.setattr(psets, "SLAB", 4)
    monkeypatch.setattr(row_stages, "SLAB", 4)
    monkeypatch.setattr(flow, "FULL", 8)


def numbers(count):
    return [{"n": n} for n in range(count)]


def dicts(found):
    """Return the rows of a stage's results as dicts."""
    return found.to_dict() if isinstance(found, MapResults) else found.to_dict("records")


def refused(message, kind=StageError):
    return pytest.raises(kind, match=r"^" + re.escape(message) + "$")


# What flows


def test_rows_go_through_map_after_map(session):
    run = session.run(Pipeline().map(square).map(half).map(negated), numbers(5))
    assert dicts(run.results) == [{"n": n, "square": n**2, "half": n / 2, "negated": -n} for n in range(5)]
    assert [list(dicts(run[name])[2]) for name in run] == [
        ["n", "square"],
        ["n", "square", "half"],
        ["n", "square", "half", "negated"],
    ]


def test_a_product_makes_rows_of_each_row(session):
    run = session.run(Pipeline().map(square).product({"by": [10, 20]}).map(half), numbers(3))
    assert dicts(run["product"]) == [{"n": n, "square": n**2, "by": by} for n in range(3) for by in (10, 20)]
    assert run.results["half"].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert run.results.index.tolist() == list(range(6))


def test_where_leaves_out_rows_whose_others_keep_their_labels(session):
    run = session.run(Pipeline().map(square).where("square % 2 == 0").map(half), numbers(5))
    assert run.results["n"].tolist() == [0, 2, 4]
    assert run["where"].index.tolist() == [0, 2, 4]
    assert run.results.index.tolist() == [0, 2, 4]


def test_a_list_in_an_answer_becomes_rows(session):
    run = session.run(Pipeline().map(up_to).explode("found").map(half), numbers(4))
    assert dicts(run["explode"]) == [{"n": n, "found": k} for n in range(4) for k in range(n)]
    assert run.results["half"].tolist() == [0.5, 1.0, 1.0, 1.5, 1.5, 1.5]
    assert run.results.index.tolist() == list(range(6))


def test_rows_that_become_none_are_no_error(session):
    run = session.run(Pipeline().map(up_to).explode("found").map(half).top(1, "half"), [{"n": 0}, {"n": 0}])
    assert [len(run[name]) for name in run] == [2, 0, 0, 0]
    assert len(run.missing) == 0


def test_columns_are_dropped_kept_and_renamed(session):
    pipeline = Pipeline().map(square).rename({"square": "m"}).derive(s="m + 1").drop("m").map(half).keep("half", "s")
    assert dicts(session.run(pipeline, numbers(3)).results) == [
        {"half": 0.0, "s": 1},
        {"half": 0.5, "s": 2},
        {"half": 1.0, "s": 5},
    ]


def test_a_diamond_joins_right(session):
    pipeline = Pipeline().map(square)
    pipeline = pipeline.where("n > 0").map(half).map(negated, after="square")
    pipeline = pipeline.drop("square").join("n", after=("half", "drop"), expect="1:1")
    run = session.run(pipeline, numbers(4))
    assert dicts(run.results) == [{"n": n, "square": n**2, "half": n / 2, "negated": -n} for n in (1, 2, 3)]


def test_a_join_is_in_the_order_of_its_left_table_whenever_the_rows_came(session):
    psets = [{"n": n, "bad": False} for n in (5, 3, 4, 1)]
    pipeline = Pipeline().map(square).keep("n", "square").map(half, after="psets", group_size=1)
    pipeline = pipeline.join("n", after=("half", "keep"))
    assert session.run(pipeline, psets).results["n"].tolist() == [5, 3, 4, 1]


def test_two_sources_go_by_name(session):
    pipeline = Pipeline(sources=("sites", "costs")).map(square, after="sites").join("n", after=("square", "costs"))
    costs = pd.DataFrame({"n": [2, 1], "cost": [20, 10]})
    run = session.run(pipeline, sites=numbers(3), costs=costs)
    assert dicts(run.results) == [{"n": 1, "square": 1, "cost": 10}, {"n": 2, "square": 4, "cost": 20}]
    assert run.lineage(1) == {"sites": [{"n": 2}], "costs": [{"n": 2, "cost": 20}]}


def test_a_single_source_may_go_by_its_name_too(session):
    assert len(session.run(Pipeline(sources=("sites",)).map(square), sites=numbers(3)).results) == 3


def test_a_source_that_nobody_reads_is_allowed(session):
    pipeline = Pipeline(sources=("sites", "others")).map(square, after="sites")
    assert len(session.run(pipeline, sites=numbers(3), others=[]).results) == 3


def test_cardinality_is_checked_before_anything_downstream_runs(session, tmp_path):
    pipeline = Pipeline(sources=("a", "b")).join("n", after=("a", "b"), expect="1:1").map(counts_its_calls)
    with pytest.raises(StageFailed, match="stage 'join' expects '1:1', but the key n=1 is 2 times in the right table"):
        session.run(pipeline, a=numbers(3), b=[{"n": 1}, {"n": 1}], user_kwargs={"folder": str(tmp_path)})
    assert list(tmp_path.glob("called*")) == []


def test_tables_are_put_under_one_another(session):
    pipeline = Pipeline().map(square).map(half, after="psets").concat(after=("half", "square", "half"))
    run = session.run(pipeline, numbers(2))
    assert run.results["n"].tolist() == [0, 1, 0, 1, 0, 1]
    assert run.results["square"].isna().tolist() == [True, True, False, False, True, True]
    assert run.results["square"].dropna().tolist() == [0, 1]


def test_groups_and_the_best(session):
    psets = [{"n": n, "kind": "ab"[n % 2]} for n in range(6)]
    pipeline = Pipeline().map(square).reduce("kind", aggregate={"total": ("square", "sum")}).best("total")
    run = session.run(pipeline, psets)
    assert dicts(run["reduce"]) == [{"kind": "a", "total": 20}, {"kind": "b", "total": 35}]
    assert dicts(run.results) == [{"kind": "b", "total": 35}]


def test_a_stage_after_a_whole_table_stage_reads_its_table(session):
    run = session.run(Pipeline().map(square).top(3, "square").map(half).where("half > 0.5").map(negated), numbers(5))
    assert run.results["negated"].tolist() == [-4, -3, -2]


def test_apply_gets_a_frame_and_its_frame_flows_on(session):
    def ranked(frame):
        return frame.assign(rank=frame["square"].rank(ascending=False).astype(int)).sort_values("rank")

    run = session.run(Pipeline().map(square).apply(ranked).map(half), numbers(3))
    assert run.results[["n", "rank", "half"]].to_numpy().tolist() == [[2, 1, 1.0], [1, 2, 0.5], [0, 3, 0.0]]


def test_apply_takes_several_tables(session):
    def counted(one, other):
        return pd.DataFrame({"one": [len(one)], "other": [len(other)]})

    pipeline = Pipeline().map(square).where("n > 1").apply(counted, after=("square", "where"))
    assert dicts(session.run(pipeline, numbers(5)).results) == [{"one": 5, "other": 3}]


def test_row_wise_stages_alone_need_no_worker(session):
    run = session.run(Pipeline().product({"k": [1, 2]}).derive(m="n * k").where("m > 1"), numbers(3))
    assert run.results["m"].tolist() == [2, 2, 4]
    assert run.progress.total == 0


def test_a_pipeline_within_a_pipeline_runs(session):
    inner = Pipeline("inner").map(square).where("square > 1")
    run = session.run(Pipeline().add(inner).map(half), numbers(4))
    assert list(run) == ["inner.square", "inner.where", "half"]
    assert run.results["half"].tolist() == [1.0, 1.5]


def test_map_is_a_pipeline_of_one_stage(session):
    assert (
        session.run(Pipeline().map(stamp), numbers(3), seed=5)["stamp"].to_dict()
        == session.map(stamp, numbers(3), seed=5).to_dict()
    )


def test_the_modules_verbs_run_in_the_default_session():
    paramsurvey.init(backend="serial", **QUIET)
    pipeline = Pipeline().map(square)
    assert paramsurvey.run(pipeline, numbers(3)).results["square"].tolist() == [0, 1, 4]
    assert pipeline.run(numbers(3)).results["square"].tolist() == [0, 1, 4]
    assert [row["square"] for row in pipeline.stream(numbers(3))] == [0, 1, 4]


def test_a_pipeline_can_be_run_again(session):
    pipeline = Pipeline().map(square).where("n > 0").top(1, "n")
    assert dicts(session.run(pipeline, numbers(3)).results) == dicts(session.run(pipeline, numbers(3)).results)


EVERY_KIND = {
    "map": lambda p: p.map(square),
    "product": lambda p: p.product({"x": [1, 2]}),
    "derive": lambda p: p.derive(m="n + 1"),
    "where": lambda p: p.where("n > 1"),
    "drop": lambda p: p.drop("n"),
    "keep": lambda p: p.keep("n"),
    "rename": lambda p: p.rename({"n": "m"}),
    "explode": lambda p: p.explode("n"),
    "join": lambda p: p.map(half).keep("n", after=p.sources[0]).join("n", after=("half", "keep")),
    "concat": lambda p: p.map(half).concat(after=("half", "half")),
    "reduce": lambda p: p.reduce("n", aggregate={"k": ("n", "count")}),
    "reduce with a worker": lambda p: p.reduce("n", worker=total_of_group),
    "top": lambda p: p.top(2, "n"),
    "best": lambda p: p.best("n"),
    "apply": lambda p: p.apply(lambda frame: frame, name="same"),
}


@pytest.mark.parametrize("empty", [[], pd.DataFrame(), pd.DataFrame({"n": []})], ids=["list", "frame", "columns"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_empty_table_flows_through_every_kind_of_stage(kind, empty, session):
    run = session.run(EVERY_KIND[kind](Pipeline()), empty)
    assert all(len(run[name]) == 0 for name in run)
    assert len(run.results) == len(run.missing) == 0
    run = session.run(EVERY_KIND[kind](Pipeline().where("n > 100")).map(negated, name="last"), numbers(3))
    assert len(run.results) == 0
    assert list(session.stream_run(EVERY_KIND[kind](Pipeline()), empty)) == []


def test_a_whole_table_without_rows_is_still_one_group(session):
    run = session.run(Pipeline().map(square).reduce(aggregate={"k": ("n", "count")}).map(nothing), [])
    assert dicts(run.results) == [{"k": 0}]


# Slots, and what goes when


def test_rows_go_on_before_the_slowest_of_their_stage_is_done(pool, tmp_path):
    """The straggler ends when the second stage has answered: with a barrier between them it never would."""
    pipeline = Pipeline().map(ends_when_a_second_stage_has_answered, name="first")
    pipeline = pipeline.product({"k": [1, 2]}).map(says_that_it_has_answered, name="second")
    run = pool.run(pipeline, numbers(20), user_kwargs={"folder": str(tmp_path)})
    assert len(run.missing) == 0
    assert run.results["second"].tolist() == [n for n in range(20) for _ in range(2)]


def test_two_branches_share_the_slots(pool, tmp_path):
    """Each of the two ends when the other has begun: one after the other they never would."""
    pipeline = Pipeline().map(left_meets_right).map(right_meets_left, after="psets")
    run = pool.run(pipeline, numbers(1), user_kwargs={"folder": str(tmp_path)})
    assert len(run.missing) == 0
    assert (len(run["left_meets_right"]), len(run["right_meets_left"])) == (1, 1)


@pytest.mark.parametrize("sizes", [(50, 1), (1, 50), (1, 1)])
def test_a_fast_branch_waits_for_a_slow_one_and_neither_for_ever(sizes, small_pieces, session):
    """They share a row-wise stage, which makes no more for the one as long as the other is behind."""
    pipeline = Pipeline().product({"k": list(range(300))})
    pipeline = pipeline.map(square, group_size=sizes[0], after="product").map(
        half, group_size=sizes[1], after="product"
    )
    run = session.run(pipeline, numbers(1))
    assert (len(run["square"]), len(run["half"])) == (300, 300)


def test_a_fast_branch_may_have_row_wise_stages_of_its_own(small_pieces, session):
    pipeline = Pipeline().product({"k": list(range(100))})
    pipeline = pipeline.derive(m="k + 1", after="product").where("m > 3").map(square, group_size=20)
    pipeline = pipeline.drop("k", after="product").map(half, group_size=1).where("n == 0", after="product")
    pipeline = pipeline.derive(z="n", after="derive").concat(after=("square", "half", "where2", "derive2"))
    run = session.run(pipeline, numbers(1))
    assert [len(run[name]) for name in ("square", "half", "where2", "derive2", "concat")] == [97, 100, 100, 100, 397]


@pytest.mark.parametrize("condition", ["k < 0", "k == 299", "k % 100 == 0", "k >= 0"])
@pytest.mark.parametrize("first", [lambda p: p, lambda p: p.map(square)], ids=["at the source", "behind a map"])
@pytest.mark.parametrize(
    "beside",
    [
        lambda p: p.derive(m="k + 1", after="product"),
        lambda p: p.derive(m="k + 1", after="product").where("k >= 0").drop("k"),
        lambda p: p.drop("k", after="product").top(1, "n"),
        lambda p: p.derive(m="k + 1", after="product").concat(after=("half", "derive")),
    ],
    ids=["a sink", "several", "a table", "a table of both"],
)
def test_a_stage_that_nobody_pulls_holds_nobody_up(beside, first, condition, small_pieces, session):
    pipeline = beside(first(Pipeline()).product({"k": list(range(300))}).where(condition).map(half, group_size=7))
    run = session.run(pipeline, numbers(1))
    assert len(run["product"]) == 300
    assert all(len(run[name]) == 300 for name in run if name in ("derive", "where2", "drop"))
    assert len(run["half"]) == len(run["where"])


def test_stages_further_down_go_first(serial):
    """So what was begun is finished before more is begun."""
    ahead, most = [0], [0]

    def one(pset, system_kwargs, user_kwargs):
        ahead[0] += 1
        most[0] = max(most[0], ahead[0])

    def two(pset, system_kwargs, user_kwargs):
        ahead[0] -= 1

    serial.run(Pipeline().map(one, group_size=1).map(two, group_size=1), numbers(50))
    assert ahead == [0]
    assert most[0] <= 2


@pytest.mark.usefixtures("small_pieces")
def test_rows_under_way_stay_few_however_many_a_stage_makes_of_one(serial):
    made, most = [0], [0]

    class Counted:
        name = "counted"

        def rows(self, table):
            made[0] += table.count
            yield Rows(table, np.arange(table.count))

    def done(pset, system_kwargs, user_kwargs):
        made[0] -= 1
        most[0] = max(most[0], made[0])

    pipeline = Pipeline().product({"k": list(range(500))}).add(Counted()).map(done, group_size=1)
    serial.run(pipeline, numbers(4), keep="none")
    assert made == [0]
    assert most[0] <= 16


def test_a_long_chain_and_a_wide_fan_run(session):
    pipeline = Pipeline().map(fails_at_three, name="first")
    for number in range(100):
        pipeline = pipeline.map(nothing, name=f"map {number}").where("n >= 0", name=f"where {number}")
    last = [f"map {number}" for number in range(100)]
    pipeline = pipeline.concat(after=last, name="all", allow_missing=True)
    run = session.run(pipeline, numbers(4))
    assert run["all"]["n"].tolist() == [0, 1, 2] * 100
    assert all(run[name].missing["_kind"].tolist() == ["upstream"] for name in last)
    assert run.lineage(298, "all") == {"psets": [{"n": 1}]}
    fan = Pipeline()
    for name in last:
        fan = fan.map(nothing, name=name, after="psets")
    run = session.run(fan.concat(after=last), numbers(3))
    assert run.results["n"].tolist() == [0, 1, 2] * 100


def test_two_runs_at_the_same_time_do_not_mix(pool):
    found = {}

    def work(which):
        pipeline = Pipeline().map(square, group_size=1).product({"k": [which]}).map(half, group_size=1).top(99, "n")
        found[which] = pool.run(pipeline, [{"n": n + 100 * which} for n in range(30)]).results

    threads = [threading.Thread(target=work, args=(which,)) for which in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (1, 2):
        assert found[which]["k"].tolist() == [which] * 30
        assert found[which]["n"].tolist() == [100 * which + n for n in reversed(range(30))]


def test_the_results_of_a_run_are_psets_of_the_next(session):
    rows = [{"n": n, "v": value} for n, value in enumerate(VALUES)]
    first = session.run(Pipeline().map(square), rows)["square"]
    second = session.run(Pipeline().where("square > 1").map(half), first)
    found = list(second["half"].iterdicts())
    assert same_values([row["v"] for row in found], VALUES[2:])
    assert [row["half"] for row in found] == [n / 2 for n in range(2, 10)]


# keep=


def test_all_stages_are_kept_or_the_last_ones_or_none(session):
    pipeline = Pipeline().map(square).where("n > 0").map(half).top(1, "n", after="square").where("n >= 0", after="half")
    whole = session.run(pipeline, numbers(3), keep="all")
    assert list(whole) == ["square", "where", "half", "top", "where2"]
    assert [len(whole[name]) for name in whole] == [3, 2, 2, 1, 2]
    assert dicts(session.run(pipeline, numbers(3))["where"]) == dicts(whole["where"])
    last = session.run(pipeline, numbers(3), keep="sinks")
    assert dicts(last["top"]) == dicts(whole["top"])
    assert last["where2"].equals(whole["where2"])
    assert len(last["half"]) == 0
    assert last["half"].progress.finished == 2
    with refused("\"the rows of stage 'where' were not kept: run with keep='all'\"", KeyError):
        last["where"]
    none = session.run(pipeline, numbers(3), keep="none")
    assert [len(none[name]) for name in ("square", "half")] == [3, 0]  # the first is read by a whole-table stage
    assert none.progress == whole.progress


@pytest.mark.parametrize("keep", ["all", "sinks", "none"])
def test_what_is_missing_is_told_whatever_is_kept(keep, session):
    run = session.run(Pipeline().map(square).map(fails_at_odd).map(half), numbers(4), keep=keep)
    order = sorted if keep == "none" else list  # nobody keeps the order of what nobody keeps
    assert order(run.missing["n"]) == [1, 3]
    assert order(run["fails_at_odd"].missing["square"]) == [1, 9]
    assert run["half"].missing["_kind"].tolist() == ["upstream", "upstream"]


@pytest.mark.parametrize("where", ["run", "stage"])
def test_results_that_are_not_kept_still_flow_on(where, session):
    options = {"keep_results": False}
    pipeline = Pipeline().map(square, **(options if where == "stage" else {})).top(1, "square").map(half)
    run = session.run(pipeline, numbers(3), **(options if where == "run" else {}))
    assert dicts(run["top"]) == [{"n": 2, "square": 4}]
    assert run["half"].progress.finished == 1


# Streams


def test_a_stream_yields_the_rows_of_the_last_stage(session):
    stream = session.stream_run(Pipeline().map(square).product({"k": [1, 2]}).map(half), numbers(5))
    rows = sorted(stream, key=lambda row: (row["n"], row["k"]))
    assert rows == [{"n": n, "square": n**2, "k": k, "half": n / 2} for n in range(5) for k in (1, 2)]
    assert stream.progress.finished == stream.progress.total == 15
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda p: p.where("n > 1"), [2, 3]),
        (lambda p: p.top(2, "n"), [3, 2]),
        (lambda p: p.map(half), [0, 1, 2, 3]),
        (lambda p: p.top(2, "n").where("n < 3"), [2]),
    ],
)
def test_a_stream_may_end_in_any_kind_of_stage(end, expected, session):
    rows = [row["n"] for row in session.stream_run(end(Pipeline().map(square)), numbers(4))]
    assert (rows if expected == [3, 2] else sorted(rows)) == expected


def test_a_streams_first_row_comes_before_its_slowest(pool, tmp_path):
    pipeline = Pipeline().map(ends_when_a_second_stage_has_answered, name="first").where("n >= 0")
    stream = pool.stream_run(pipeline, numbers(10), user_kwargs={"folder": str(tmp_path)})
    assert next(stream)["n"] > 0
    (tmp_path / "answered").touch()
    assert len(list(stream)) == 9


class Counted:
    """An iterator that never ends, and knows how many were drawn."""

    def __init__(self):
        self.drawn = 0

    def __iter__(self):
        for n in itertools.count():
            self.drawn += 1
            yield {"n": n}


STREAMS = {
    "map": lambda p: p.map(square),
    "map, map": lambda p: p.map(square).map(half),
    "rows, map": lambda p: p.where("n % 2 == 0").product({"k": [1, 2, 3]}).map(square),
    "map, rows": lambda p: p.map(square).where("n % 2 == 0").product({"k": [1, 2, 3]}),
    "rows": lambda p: p.where("n % 2 == 0").product({"k": [1, 2, 3]}),
    "fan-out to nearly nothing": lambda p: p.where("n % 1000 == 0").map(square),
}


def test_the_results_of_a_stream_may_be_looked_at_while_it_runs(session):
    pipeline = Pipeline().map(square, group_size=5).map(half, group_size=5)
    looks = []
    for place, _ in enumerate(stream := session.stream_run(pipeline, numbers(100), keep="all")):
        if place in (10, 50):
            looks.append(stream.results)
    assert len(looks[0]["half"]) <= len(looks[1]["half"]) < len(stream.results["half"]) == 100
    assert all(look.lineage(0) == {"psets": [{"n": look.results["n"].iloc[0]}]} for look in looks)


@pytest.mark.parametrize(
    ("psets", "message"),
    [
        (lambda: {"n": [1]}, "the psets are one dict with the keys 'n': wrap a single pset in a list"),
        (lambda: "text", "the psets are 'text', a str"),
        (lambda: iter([*numbers(9000), 3]), "pset 9000 is 3, a int, not a dict"),
    ],
    ids=["one dict", "text", "far into an iterator"],
)
def test_a_stream_says_where_its_psets_are_none(psets, message, session):
    with pytest.raises(PsetError, match=re.escape(message)):
        list(session.stream_run(Pipeline().map(square).map(half), psets()))


def test_what_a_stream_yields_is_not_kept_unless_all_is_to_be(session):
    for keep, kept in (("sinks", 0), ("none", 0), ("all", 5)):
        stream = session.stream_run(Pipeline().map(square).map(half), numbers(5), keep=keep)
        assert len(list(stream)) == 5
        assert len(stream.results["half"]) == kept


@pytest.mark.parametrize("kind", STREAMS)
def test_an_endless_source_is_drawn_from_as_rows_are_wanted(kind, session):
    """Leaving the loop ends what is running, and draws no more."""
    source = Counted()
    with session.stream_run(STREAMS[kind](Pipeline()), source) as stream:
        rows = list(itertools.islice(stream, 10))
        assert len(rows) == 10
        assert rows[0]["n"] == 0 or session.backend != "serial"
        drawn = source.drawn
        assert drawn <= 20 * flow.SLAB
    assert source.drawn == drawn
    assert len(session.map(square, numbers(3))) == 3


DRAWING = {
    "map": lambda p, name: p.map(square, name=name, after="psets", group_size=3),
    "product": lambda p, name: p.product({"c": [1]}, after="psets", name=name),
    "where": lambda p, name: p.where("n >= 0", after="psets", name=name),
}


@pytest.mark.parametrize("count", [3, 7, 8, 9, 16, 40])
@pytest.mark.parametrize(
    "kinds",
    [("map", "product"), ("product", "map"), ("product", "where"), ("map", "map"), ("where", "map", "product", "map")],
    ids=", ".join,
)
def test_an_iterator_is_drawn_by_all_who_come_after_it(kinds, count, small_pieces, session):
    """To its end, whoever of them is ahead."""
    pipeline = Pipeline()
    for number, kind in enumerate(kinds):
        pipeline = DRAWING[kind](pipeline, f"{kind} {number}")
    pipeline = pipeline.concat(after=pipeline.sinks).map(half)
    rows = list(session.stream_run(pipeline, ({"n": n} for n in range(count))))
    assert sorted(row["n"] for row in rows) == sorted([*range(count)] * len(kinds))


def test_a_limit_holds_for_drawn_psets_too(session):
    assert len(list(session.stream_run(Pipeline().map(square), Counted(), limit=5))) == 5


def test_leaving_the_loop_over_a_stream_ends_what_is_running(pool, tmp_path):
    for row in pool.stream_run(
        Pipeline().map(square).map(hangs_at_two, group_size=1), numbers(5), user_kwargs={"folder": str(tmp_path)}
    ):
        assert row["survived"]
        break
    assert pool.map(square, numbers(3)).results["square"].tolist() == [0, 1, 4]


def test_a_stream_keeps_nothing_unless_asked(session):
    pipeline = Pipeline().map(square).map(half)
    bare = session.stream_run(pipeline, numbers(3))
    list(bare)
    assert isinstance(bare.results, RunResults)
    assert (len(bare.results["half"]), bare.results["half"].progress.finished) == (0, 3)
    kept = session.stream_run(pipeline, numbers(3), keep="all")
    list(kept)
    assert kept.results.results["half"].tolist() == [0.0, 0.5, 1.0]


def test_a_stream_tells_what_is_missing(session):
    stream = session.stream_run(Pipeline().map(fails_at_odd).map(half), numbers(4))
    assert sorted(row["n"] for row in stream) == [0, 2]
    assert stream.results.missing["n"].tolist() == [1, 3]


def test_a_stream_raises_at_its_end_if_a_whole_table_stage_refused(session):
    pipeline = Pipeline().map(fails_at_odd).top(1, "n").map(square, after="psets").concat(after=("top", "square"))
    with pytest.raises(StageFailed, match=r"^stage 'top' needs its whole table, and 2 rows are missing"):
        list(session.stream_run(pipeline, numbers(4)))
    rows = list(session.stream_run(pipeline, numbers(4), allow_missing=True))
    assert [row["n"] for row in rows] == [2, 0, 1, 2, 3]


def test_a_stream_yields_what_it_has_before_a_stage_raises(serial):
    pipeline = Pipeline().map(square, group_size=1).derive({"m": lambda n: 1 // (5 - n)}, per_row=True)
    stream = serial.stream_run(pipeline, numbers(50))
    assert [row["n"] for row in itertools.islice(stream, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StageFailed, match=r"^stage 'derive', column 'm': .* raised ZeroDivisionError"):
        next(stream)


def test_rows_of_a_stream_have_no_holes(session):
    rows = list(session.stream_run(Pipeline().map(sometimes).derive(m="n"), numbers(2)))
    assert sorted(rows, key=lambda row: row["n"]) == [{"n": 0, "m": 0}, {"n": 1, "extra": 1, "m": 1}]


def test_an_iterator_that_raises_ends_the_stream_with_its_own_exception(session):
    def source():
        yield {"n": 1}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(session.stream_run(Pipeline().map(square), source()))
    assert len(session.map(square, numbers(3))) == 3


def test_an_iterator_of_other_things_than_dicts_is_refused(session):
    with pytest.raises(PsetError, match=r"^pset 1 is 5, a int, not a dict"):
        list(session.stream_run(Pipeline().map(square), iter([{"n": 1}, 5])))


def test_a_stream_ends_with_its_session():
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        stream = session.stream_run(Pipeline().map(square).map(half), Counted())
        next(stream)
    with pytest.raises(SessionError, match=r"^this stream ended with its session, when "):
        list(itertools.islice(stream, 100_000))


# Results


def test_results_are_a_mapping_of_the_stages(session):
    pipeline = Pipeline("p").map(square).where("n > 0").top(1, "n").map(half)
    run = session.run(pipeline, numbers(3))
    assert isinstance(run, RunResults)
    assert list(run) == ["square", "where", "top", "half"]
    assert (len(run), "where" in run, "psets" in run, "nope" in run) == (4, True, False, False)
    assert isinstance(run["square"], MapResults)
    assert isinstance(run["where"], pd.DataFrame)
    assert isinstance(run["top"], pd.DataFrame)
    assert {name: type(found) for name, found in run.items()}["half"] is MapResults
    assert run["where"] is run["where"]
    assert run.get("nope") is None
    assert run.pipeline is pipeline
    with refused("\"there is no stage 'nope'; there are: 'square', 'where', 'top', 'half'\"", KeyError):
        run["nope"]
    with refused("\"there is no stage 'sqaure'; did you mean 'square'?\"", KeyError):
        run["sqaure"]


def test_a_source_is_not_said_to_need_more_keeping(session):
    run = session.run(Pipeline().map(square), numbers(3))
    with pytest.raises(KeyError, match="psets") as caught:
        run["psets"]
    assert "keep=" not in str(caught.value)


def test_results_are_those_of_the_only_last_stage(session):
    run = session.run(Pipeline("p").map(square).map(half, after="psets"), numbers(2))
    message = "the pipeline 'p' ends in 2 stages: ask for the results of one by name, of 'square', 'half'"
    with refused(message):
        run.results  # noqa: B018
    assert run["half"].results["half"].tolist() == [0.0, 0.5]


def test_results_say_what_came_of_each_stage(session):
    run = session.run(Pipeline("p").map(square).map(fails_at_odd).where("n > 0"), numbers(4))
    assert repr(run).splitlines() == [
        "<RunResults of 'p'",
        "  square: 4 of 4 psets finished; columns n, square",
        "  fails_at_odd: 2 of 4 psets finished; 2 missing (2 raised), the first: "
        "ValueError('no answer for 1'); columns n, square, even",
        "  where: 1 row>",
    ]
    html = run._repr_html_()
    assert "<b>p</b>" in html
    assert "2 missing (2 raised)" in html
    assert "<table" in html


@pytest.mark.parametrize("keep", ["all", "none"])
def test_results_show_themselves_whatever_is_kept(keep, session):
    for pipeline in (Pipeline("<p>").map(square), Pipeline("<p>").map(square).top(1, "n"), DIVERGING):
        run = session.run(pipeline, numbers(2), keep=keep)
        assert repr(run).startswith("<RunResults of ")
        assert "<p></b>" not in run._repr_html_()


DIVERGING = Pipeline("<p>").map(square).map(half, after="psets")


def test_progress_counts_each_stage_and_all_together(session):
    run = session.run(Pipeline().map(square).map(fails_at_odd).product({"k": [1, 2]}).map(half), numbers(4))
    each = [run[name].progress for name in ("square", "fails_at_odd", "half")]
    assert [(one.total, one.finished, one.failures, one.exceptions) for one in each] == [
        (4, 4, 0, 0),
        (4, 2, 2, 2),
        (4, 4, 0, 0),
    ]
    assert (run.progress.total, run.progress.finished, run.progress.failures, run.progress.active) == (12, 10, 2, 0)
    assert run.progress.exceptions == 2


def test_times_are_told_by_stage(session):
    run = session.run(Pipeline().map(square).map(half), numbers(4))
    assert list(run.stats) == ["square", "half"]
    assert run.stats["half"] is run["half"].stats
    run.stats["half"].print_percentile  # noqa: B018


def test_workers_are_told_their_stage(session):
    run = session.run(
        Pipeline().map(stamp, name="one", user_kwargs="mine").keep("n").map(stamp, name="two"),
        numbers(2),
        user_kwargs="all",
    )
    assert run["one"].results["name"].tolist() == ["one", "one"]
    assert run["two"].results["name"].tolist() == ["two", "two"]
    assert run["one"].results["said"].tolist() == ["mine", "mine"]
    assert run["two"].results["said"].tolist() == ["all", "all"]


def test_seeds_depend_on_the_row_and_not_on_when_it_came(serial, pool):
    pipeline = Pipeline().map(square, group_size=1).map(stamp, group_size=2)
    one, other = (session.run(pipeline, numbers(8), seed=3).results["seed"].tolist() for session in (serial, pool))
    assert one == other
    assert len(set(one)) == 8


def test_lineage_goes_back_to_the_sources(session):
    pipeline = Pipeline(sources=("sites", "tools")).map(square, after="sites").product({"k": [1, 2]}).where("n != 1")
    pipeline = pipeline.map(half).join("k", after=("half", "tools")).top(3, "n")
    run = session.run(pipeline, sites=numbers(4), tools=[{"k": 2, "t": "two"}, {"k": 1, "t": "one"}])
    for place, row in enumerate(dicts(run.results)):
        assert run.lineage(place) == {"sites": [{"n": row["n"]}], "tools": [{"k": row["k"], "t": row["t"]}]}
    for place, row in enumerate(dicts(run["half"])):
        assert run.lineage(place, "half") == {"sites": [{"n": row["n"]}]}
    assert run.lineage(0, "square") == {"sites": [{"n": 0}]}


def test_lineage_holds_where_rows_are_missing_and_came_in_any_order(session):
    psets = [{"n": n} for n in (7, 2, 5, 4, 6, 0)]
    run = session.run(Pipeline().map(fails_at_odd, group_size=1).product({"k": [1, 2]}).map(half, group_size=1), psets)
    assert run.results["n"].tolist() == [2, 2, 4, 4, 6, 6, 0, 0]
    assert [run.lineage(place)["psets"][0]["n"] for place in range(8)] == run.results["n"].tolist()
    assert run.lineage(3, "fails_at_odd") == {"psets": [{"n": 0}]}


def test_lineage_of_a_concatenation_is_that_of_each_part(session):
    pipeline = Pipeline(sources=("a", "b")).concat(after=("a", "b", "a"))
    run = session.run(pipeline, a=numbers(1), b=[{"n": 5}])
    assert [run.lineage(place) for place in range(3)] == [
        {"a": [{"n": 0}]},
        {"b": [{"n": 5}]},
        {"a": [{"n": 0}]},
    ]


def test_lineage_ends_where_a_stage_does_not_tell(session):
    pipeline = Pipeline().map(square).apply(lambda frame: frame, name="same").map(half)
    assert session.run(pipeline, numbers(2)).lineage(1) == {}


def test_lineage_of_what_is_not_there_is_refused(session):
    run = session.run(Pipeline().map(square).where("n > 0").map(half), numbers(3), keep="sinks")
    assert run.lineage(1) == {"psets": [{"n": 2}]}
    with refused("lineage(): stage 'half' has 2 rows, and none at 2"):
        run.lineage(2)
    with refused("lineage(): stage 'half' has 2 rows, and none at -1"):
        run.lineage(-1)
    with refused("lineage(): the rows of stage 'where' were not kept: run with keep='all'"):
        run.lineage(0, "where")
    with pytest.raises(StageError, match=re.escape("lineage(): there is no stage 'nope'")):
        run.lineage(0, "nope")


# What is missing


def test_a_missing_row_removes_only_its_descendants(session):
    run = session.run(Pipeline("p").map(square).map(fails_at_odd).product({"k": [1, 2]}).map(half), numbers(4))
    assert run.results["n"].tolist() == [0, 0, 2, 2]
    assert run.missing.columns.tolist() == ["_stage", "n", "square", "_kind", "_exception", "_traceback", "_attempts"]
    assert run.missing["_stage"].tolist() == ["fails_at_odd", "fails_at_odd"]
    assert run.missing["n"].tolist() == [1, 3]
    assert run.missing["_kind"].tolist() == ["raised", "raised"]
    assert run.missing["_exception"].tolist() == ["ValueError('no answer for 1')", "ValueError('no answer for 3')"]
    assert all("in fails_at_odd" in text for text in run.missing["_traceback"])


def test_below_it_the_ancestor_is_named(session):
    run = session.run(Pipeline().map(fails_at_odd).product({"k": [1, 2]}).map(half).map(square), numbers(2))
    for name in ("half", "square"):
        missing = run[name].missing
        assert missing["n"].tolist() == [1]
        assert missing["_kind"].tolist() == ["upstream"]
        assert missing["_exception"].tolist() == [
            "its ancestor, row 1 of stage 'fails_at_odd', is missing: ValueError('no answer for 1')"
        ]
        assert "in fails_at_odd" in missing["_traceback"].tolist()[0]
        assert missing["_attempts"].tolist() == [0]
    assert len(run.missing) == 1


def test_the_ancestor_is_named_by_its_label_whoever_came_first(pool, tmp_path):
    pipeline = Pipeline().map(ends_when_a_second_stage_has_answered, name="slow", group_size=1)
    pipeline = pipeline.map(says_that_it_has_answered, after="slow", group_size=1)
    pipeline = pipeline.map(fails_always, after="slow", group_size=1).map(half)
    for given, labels in ((numbers(4), range(4)), (pd.DataFrame({"n": range(4)}, index=list("wxyz")), "wxyz")):
        run = pool.run(pipeline, given, user_kwargs={"folder": str(tmp_path)})
        assert run["fails_always"].missing.index.tolist() == list(labels)
        assert run["half"].missing["_exception"].tolist() == [
            f"its ancestor, row {label!r} of stage 'fails_always', is missing: ValueError('never {n}')"
            for n, label in enumerate(labels)
        ]
        (tmp_path / "answered").unlink()


def test_each_stage_reports_its_own_losses_and_those_above(session):
    run = session.run(Pipeline().map(fails_at_odd).map(fails_at_three).map(fails_always), numbers(5))
    assert run["fails_at_odd"].missing["_kind"].tolist() == ["raised"] * 2
    assert run["fails_at_three"].missing["_kind"].tolist() == ["upstream"] * 2
    assert run["fails_always"].missing[["n", "_kind"]].to_numpy().tolist() == [
        [0, "raised"],
        [2, "raised"],
        [4, "raised"],
        [1, "upstream"],
        [3, "upstream"],
    ]
    assert run.missing[["_stage", "n"]].to_numpy().tolist() == [
        ["fails_at_odd", 1],
        ["fails_at_odd", 3],
        ["fails_always", 0],
        ["fails_always", 2],
        ["fails_always", 4],
    ]


def test_missing_psets_of_a_stage_are_those_it_lost(session):
    run = session.run(Pipeline().map(square).map(fails_at_odd), numbers(4))
    assert run["fails_at_odd"].missing_psets() == [{"n": 1, "square": 1}, {"n": 3, "square": 9}]


def test_a_run_without_losses_has_none_missing(session):
    run = session.run(Pipeline().map(square).map(half), numbers(2))
    assert len(run.missing) == 0
    assert run.missing.columns.tolist()[0] == "_stage"
    run.raise_if_missing()


def test_a_run_can_be_asked_to_raise_for_what_is_missing(session):
    run = session.run(Pipeline("p").map(square).map(fails_at_odd), numbers(4))
    message = "p: 2 missing, the first in stage 'fails_at_odd': ValueError('no answer for 1')"
    with refused(message, MissingPsets) as caught:
        run.raise_if_missing()
    assert caught.value.results is run


def test_losses_in_one_branch_leave_the_other_alone(session):
    run = session.run(Pipeline().map(fails_always).map(half).map(square, after="psets"), numbers(2))
    assert len(run["half"]) == 0
    assert run["half"].missing["_kind"].tolist() == ["upstream", "upstream"]
    assert run["square"].results["square"].tolist() == [0, 1]
    assert len(run["square"].missing) == 0


# Whole-table stages and missing rows

REFUSES = (
    "stage 'top' needs its whole table, and 2 rows are missing in 'fails_at_odd' above it, the first: "
    "ValueError('no answer for 1'); with allow_missing=True it runs on what there is"
)


def test_a_whole_table_stage_refuses_missing_rows_with_what_is_finished(session):
    pipeline = Pipeline().map(fails_at_odd).where("n >= 0").top(1, "n").map(half)
    with refused(REFUSES, StageFailed) as caught:
        session.run(pipeline, numbers(4))
    run = caught.value.results
    assert run["fails_at_odd"].results["n"].tolist() == [0, 2]
    assert run.missing["n"].tolist() == [1, 3]
    assert (len(run["top"]), len(run["half"])) == (0, 0)


def test_what_does_not_depend_on_the_refusing_stage_goes_on(session):
    pipeline = Pipeline().map(fails_at_odd).top(1, "n").map(square, after="psets").map(half).best("n")
    with refused(REFUSES, StageFailed) as caught:
        session.run(pipeline, numbers(4))
    assert caught.value.results["best"]["half"].tolist() == [1.5]


def test_stages_below_one_that_refuses_do_not_run_either(session):
    pipeline = Pipeline().map(fails_at_odd).top(1, "n").best("n").apply(lambda frame: 1 / 0, name="never")
    with refused(REFUSES, StageFailed) as caught:
        session.run(pipeline, numbers(4))
    assert [len(caught.value.results[name]) for name in ("top", "best", "never")] == [0, 0, 0]


def test_with_allow_missing_it_runs_on_what_there_is(session):
    pipeline = Pipeline().map(fails_at_odd).top(1, "n", allow_missing=True).map(half)
    assert session.run(pipeline, numbers(4)).results["n"].tolist() == [2]
    pipeline = Pipeline().map(fails_at_odd).top(1, "n").map(half).best("n")
    run = session.run(pipeline, numbers(4), allow_missing=True)
    assert run.results["n"].tolist() == [2]
    assert run.missing["n"].tolist() == [1, 3]


def test_allow_missing_of_one_stage_is_not_that_of_the_next(session):
    pipeline = Pipeline().map(fails_at_odd).top(9, "n", allow_missing=True).map(fails_always).best("n")
    with pytest.raises(
        StageFailed, match=r"^stage 'best' needs its whole table, and 2 rows are missing in 'fails_always'"
    ):
        session.run(pipeline, numbers(4))


def test_losses_before_a_stage_that_allowed_them_are_no_longer_missing_below_it(session):
    pipeline = Pipeline().map(fails_at_odd).top(9, "n", allow_missing=True).map(half).best("n")
    run = session.run(pipeline, numbers(4))
    assert run.results["n"].tolist() == [2]
    assert len(run["half"].missing) == 0


# Stages that raise


@pytest.mark.parametrize("where", ["at once", "in the middle", "last"])
def test_a_row_wise_stage_that_raises_ends_the_run_with_what_is_finished(where, session):
    def careful(n):
        if n == {"at once": 0, "in the middle": 3, "last": 5}[where]:
            raise ArithmeticError("no such number")
        return n

    pipeline = Pipeline().map(square, group_size=1)
    pipeline = pipeline.derive({"m": careful}, per_row=True).map(half, group_size=1)
    with pytest.raises(StageFailed, match=r"^stage 'derive', column 'm': ") as caught:
        session.run(pipeline, numbers(6))
    assert "raised ArithmeticError: no such number for the values {'n': " in str(caught.value)
    assert isinstance(caught.value.__cause__, StageError)
    assert isinstance(caught.value.__cause__.__cause__, ArithmeticError)
    run = caught.value.results
    finished = run["square"].results["n"].tolist()
    assert finished == sorted(finished)
    assert all(row == {"n": row["n"], "square": row["n"] ** 2} for row in run["square"].iterdicts())
    assert {row["n"] for row in run["half"].iterdicts()} <= set(finished)
    assert sorted(finished + run["square"].missing["n"].tolist()) == list(range(6))
    assert set(run["square"].missing["_kind"]) <= {"cancelled"}


def test_no_stage_below_one_that_raised_sees_a_part_of_its_rows(session):
    seen = []

    def careful(n):
        if n == 3:
            raise ArithmeticError("no such number")
        return n

    for pipeline in (Pipeline(), Pipeline().map(square, group_size=1)):
        longer = pipeline.derive({"m": careful}, per_row=True).apply(lambda frame: seen.append(frame), name="app")
        with pytest.raises(StageFailed, match=r"^stage 'derive', column 'm': "):
            session.run(longer, numbers(6))
        with pytest.raises(StageFailed, match=r"^stage 'derive', column 'm': "):
            session.run(longer.map(half), numbers(6), allow_missing=True)
    assert seen == []


def test_a_third_partys_row_wise_stage_that_raises_is_named(session):
    class Breaks:
        name = "breaks"

        def rows(self, table):
            raise LookupError("nothing here")

    with refused("stage 'breaks': it raised LookupError: nothing here", StageFailed) as caught:
        session.run(Pipeline().map(square).add(Breaks()).map(half), numbers(3))
    assert isinstance(caught.value.__cause__, LookupError)
    with refused("stage 'mine': it raised LookupError: nothing here", StageFailed):
        session.run(Pipeline().add(Breaks(), name="mine"), numbers(3))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (lambda table: [table], "Table"),
        (lambda table: None, "None"),
        (lambda table: 5, "5"),
    ],
)
def test_a_row_wise_stage_that_gives_something_else_than_rows_is_named_with_it(stage, message, session):
    class Odd:
        name = "odd"

        def rows(self, table):
            return stage(table)

    with pytest.raises(StageFailed, match=r"^stage 'odd'.*Rows") as caught:
        session.run(Pipeline().add(Odd()), numbers(3))
    assert message in str(caught.value)


def test_a_whole_table_stage_that_raises_ends_the_run_with_what_is_finished(session):
    def breaks(frame):
        raise LookupError("nothing here")

    pipeline = Pipeline().map(square).apply(breaks).map(half)
    with refused("stage 'breaks': it raised LookupError: nothing here", StageFailed) as caught:
        session.run(pipeline, numbers(3))
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.results["square"].results["square"].tolist() == [0, 1, 4]
    assert len(caught.value.results["half"]) == 0


def test_a_column_that_turns_out_to_be_missing_is_an_error_of_the_stage(session):
    with pytest.raises(StageFailed, match=r"^stage 'top' reads the column 'cost', which the rows do not have there"):
        session.run(Pipeline().map(square).top(1, "cost"), numbers(3))
    with pytest.raises(StageFailed, match=r"^stage 'where' reads the column 'cost', which the rows do not have there"):
        session.run(Pipeline().map(square).where("cost > 1"), numbers(3))


ABSENT = {
    "keep": lambda pipeline: pipeline.keep("n", "sqaure"),
    "drop": lambda pipeline: pipeline.drop("sqaure"),
    "rename": lambda pipeline: pipeline.rename({"sqaure": "m"}),
}


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize(
    "then", [lambda pipeline: pipeline, lambda pipeline: pipeline.map(negated)], ids=["end", "map"]
)
def test_a_column_that_no_row_has_had_is_told_when_all_have_come(session, name, then, small_pieces, capsys):
    """It is no error: answers that are given sometimes may not be given this time."""
    message = (
        f"{name}: reads the column 'sqaure', which the rows do not have there; they have: 'n', 'square'; "
        "did you mean 'square'?"
    )
    pipeline = then(ABSENT[name](Pipeline().map(square)))
    session.run(pipeline, numbers(20), verbose=1)
    assert capsys.readouterr().err.count(message) == 1
    assert len(list(session.stream_run(pipeline, numbers(20), verbose=1))) == 20
    assert capsys.readouterr().err.count(message) == 1


def test_nothing_is_told_of_a_column_that_some_row_has_or_that_might_have_come(session, small_pieces, capsys):
    extra = [{"n": n, "extra": n} if n % 2 else {"n": n} for n in range(20)]
    run = session.run(Pipeline().map(sometimes).keep("n", "extra"), numbers(20), verbose=1)
    assert list(run.table("keep").dicts()) == extra
    assert len(session.run(Pipeline().map(square).keep("other"), [], verbose=1).results) == 0
    with pytest.raises(SurveyStopped):
        session.run(
            Pipeline().map(fails_at_three).keep("other"), numbers(20), on_failure="stop", group_size=1, verbose=1
        )
    assert "reads the column" not in capsys.readouterr().err


def test_a_name_that_a_pipeline_gave_a_stage_is_the_one_in_its_errors(session):
    inner = Pipeline("inner").map(square).apply(lambda frame: 1 / 0, name="broken")
    with pytest.raises(StageFailed, match=r"^stage 'inner.broken'"):
        session.run(Pipeline().add(inner), numbers(3))
    with pytest.raises(StageFailed, match=r"^stage 'inner.top'"):
        session.run(Pipeline().add(Pipeline("inner").map(square).top(1, "cost")), numbers(3))


def test_a_named_apply_is_named_once(session):
    with refused("stage 'mine' returned 3 (int): it has to return a DataFrame", StageFailed):
        session.run(Pipeline().apply(len, name="mine"), numbers(3))


# Strategies: whole-table stages that ask


class Bisection:
    """Finds where 2 * n first reaches a goal, by asking for one survey after the other; it inherits nothing."""

    name = "bisection"

    def __init__(self, goal):
        self.goal = goal
        self.told = []

    def table(self, table):
        low, high = 0, table.count
        while low < high:
            middle = (low + high) // 2
            results = yield Ask(square, [{"n": middle}], {"retries": 1})
            self.told.append(results)
            [row] = results.iterdicts()
            low, high = (middle + 1, high) if row["square"] < self.goal else (low, middle)
        return table.take(np.array([low]))


def test_a_strategy_asks_as_often_as_it_likes_and_is_told_the_results(session):
    strategy = Bisection(goal=30)
    run = session.run(Pipeline().map(half).add(strategy).map(negated), numbers(20))
    assert run.results["negated"].tolist() == [-6]
    assert len(strategy.told) in (4, 5)
    assert all(isinstance(results, MapResults) for results in strategy.told)
    assert [results.progress.finished for results in strategy.told] == [1] * len(strategy.told)


def returns(value):
    class Strategy:
        name = "strategy"

        def table(self, table):
            results = yield Ask(square, table.frame())
            return value(results)

    return Strategy()


@pytest.mark.parametrize(
    "value",
    [
        lambda results: results.table,
        lambda results: results,
        lambda results: results.results,
        lambda results: results.to_dict(),
    ],
    ids=["table", "results", "frame", "dicts"],
)
def test_a_strategy_returns_whatever_may_be_psets(value, session):
    run = session.run(Pipeline().map(half).add(returns(value)).map(negated), numbers(3))
    assert dicts(run.results) == [{"n": n, "half": n / 2, "square": n**2, "negated": -n} for n in range(3)]


@pytest.mark.parametrize("value", [None, 5, "text", {"n": 1}, [5]])
def test_a_strategy_that_returns_something_else_is_named_with_it(value, session):
    with pytest.raises(StageFailed, match=r"^stage 'strategy'") as caught:
        session.run(Pipeline().add(returns(lambda results: value)), numbers(3))
    assert "_Holder" not in str(caught.value)
    assert type(value).__name__ in str(caught.value) or repr(value) in str(caught.value)


def test_a_strategy_that_yields_something_else_than_a_question_is_told_so(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            yield 5

    with pytest.raises(StageFailed, match=r"^stage 'strategy'.*Ask") as caught:
        session.run(Pipeline().add(Strategy()), numbers(3))
    assert "5" in str(caught.value)


def test_a_strategy_decides_itself_about_what_is_missing(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            results = yield Ask(fails_at_odd, list(table.dicts()))
            assert results.missing["n"].tolist() == [1, 3]
            return results.table

    run = session.run(Pipeline().map(square).add(Strategy()), numbers(4))
    assert run.results["n"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda: Ask("no worker", []), WorkerError, "which cannot be called"),
        (lambda: Ask(square, 5), PsetError, "the psets are 5"),
        (lambda: Ask(square, [], {"retires": 3}), OptionError, "has no option 'retires'; did you mean 'retries'?"),
        (lambda: Ask(square, [], {"backend": "serial"}), OptionError, "backend is an option of the whole run"),
    ],
)
def test_a_strategy_that_asks_for_the_impossible_fails_with_its_name(ask, kind, message, session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            yield ask()

    with pytest.raises(StageFailed, match=r"^stage 'strategy': ") as caught:
        session.run(Pipeline().map(square).add(Strategy()), numbers(4))
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)
    assert len(caught.value.results["square"]) == 4


def test_a_strategy_that_raises_in_the_middle_leaves_what_is_finished(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            yield Ask(square, numbers(3))
            raise LookupError("lost the way")

    with refused("stage 'strategy': it raised LookupError: lost the way", StageFailed) as caught:
        session.run(Pipeline().map(half).add(Strategy()), numbers(4))
    assert len(caught.value.results["half"]) == 4


def test_a_strategy_may_ask_for_nothing(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            results = yield Ask(square, [])
            assert len(results) == 0
            return table

    assert len(session.run(Pipeline().add(Strategy()), numbers(4)).results) == 4


def test_two_strategies_ask_at_the_same_time(pool, tmp_path):
    """Each answer comes when the other has been begun."""

    class Strategy:
        def __init__(self, name, worker):
            self.name, self.worker = name, worker

        def table(self, table):
            results = yield Ask(self.worker, numbers(1))
            return results.table

    pipeline = Pipeline().add(Strategy("one", left_meets_right)).add(Strategy("two", right_meets_left), after="psets")
    run = pool.run(pipeline, numbers(1), user_kwargs={"folder": str(tmp_path)})
    assert (run["one"]["left"].tolist(), run["two"]["right"].tolist()) == ([True], [True])


def test_the_surveys_of_a_strategy_have_its_name_and_a_number(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            one = yield Ask(stamp, numbers(1))
            two = yield Ask(stamp, numbers(1), {"name": "mine"})
            return [*one.iterdicts(), *two.iterdicts()]

    run = session.run(Pipeline().add(Strategy()), numbers(1))
    assert run.results["name"].tolist() == ["strategy 1", "mine"]


def test_a_stop_in_what_a_strategy_asked_for_ends_the_run(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            yield Ask(fails_always, table, {"on_failure": "stop"})

    message = "strategy 1: pset 0 is missing (raised), and on_failure='stop': ValueError('never 0')"
    with refused(message, SurveyStopped) as caught:
        session.run(Pipeline().map(square).add(Strategy()).map(half), numbers(1))
    assert len(caught.value.results["square"]) == 1


def test_groups_are_reduced_by_a_worker_on_the_backend(session):
    psets = [{"n": n, "kind": "abc"[n % 3]} for n in range(7)]
    run = session.run(Pipeline().map(square).reduce("kind", worker=total_of_group).map(nothing), psets)
    assert dicts(run.results) == [
        {"kind": "a", "total": 9, "rows": 3},
        {"kind": "b", "total": 5, "rows": 2},
        {"kind": "c", "total": 7, "rows": 2},
    ]
    whose = session.run(Pipeline().map(square).reduce("kind", worker=pid), psets).results["pid"].unique().tolist()
    assert (os.getpid() in whose) == (session.backend == "serial")


def test_a_group_without_an_answer_fails_the_stage_unless_it_is_allowed(session):
    psets = [{"n": n, "kind": "abc"[n % 3]} for n in range(7)]
    message = (
        "stage 'reduce': 1 of 3 groups have no answer; the first is kind='b' (raised: ValueError('not b')); "
        "allow_missing=True goes on without them"
    )
    with refused(message, StageFailed):
        session.run(Pipeline().reduce("kind", worker=fails_for_group_b), psets)
    stage = Reduce("kind", worker=fails_for_group_b, allow_missing=True)
    assert session.run(Pipeline().add(stage), psets).results["kind"].tolist() == ["a", "c"]


# The foundation's failures, in the middle of a pipeline


def test_on_failure_stop_in_a_second_stage_ends_the_run_with_what_is_finished(session):
    pipeline = Pipeline("p").map(square).map(fails_at_three, on_failure="stop", group_size=1).map(half)
    where = "fails_at_three: the pset {'n': 3, 'square': 9} is missing (raised)"
    message = f"{where}, and on_failure='stop': ValueError('three is too many')"
    with refused(message, SurveyStopped) as caught:
        session.run(pipeline, numbers(40))
    run = caught.value.results
    kinds = run["fails_at_three"].missing["_kind"].tolist()
    assert kinds.count("raised") == 1
    assert set(kinds) <= {"raised", "cancelled", "upstream"}  # the last if the first stage was not through by then
    finished = run["fails_at_three"].results["n"].tolist()
    assert sorted(finished + run["fails_at_three"].missing["n"].tolist()) == list(range(40))
    assert run.missing[run.missing["_kind"] == "raised"]["_stage"].tolist() == ["fails_at_three"]


def test_a_stop_in_one_branch_ends_the_others_too(pool):
    pipeline = Pipeline().map(fails_always, on_failure="stop").map(hangs_at_two, after="psets")
    with pytest.raises(SurveyStopped, match=r"^fails_always: pset \d is missing \(raised\)"):
        pool.run(pipeline, numbers(3))


def test_no_whole_table_stage_begins_once_the_run_was_stopped(session):
    seen = []
    pipeline = Pipeline().map(fails_always, on_failure="stop").apply(seen.append, name="never", allow_missing=True)
    with pytest.raises(SurveyStopped):
        session.run(pipeline, numbers(1))
    assert seen == []


def test_retries_in_a_second_stage(session):
    pipeline = Pipeline().map(square).map(succeeds_at_the_third_attempt, retries=2, group_size=2).map(half)
    run = session.run(pipeline, numbers(5))
    assert run["succeeds_at_the_third_attempt"].results["attempts"].tolist() == [1, 1, 3, 1, 1]
    assert run.results["n"].tolist() == list(range(5))
    run = session.run(Pipeline().map(square).map(succeeds_at_the_third_attempt, retries=1).map(half), numbers(5))
    assert run.missing[["n", "_attempts"]].to_numpy().tolist() == [[2, 2]]
    assert run.results["n"].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 5, None])
def test_a_row_that_is_tried_again_keeps_its_place(size, session):
    options = {"retries": 2, "group_size": size}
    results = session.map(succeeds_at_the_third_attempt, numbers(5), **options)
    assert results.to_dict() == [{"n": n, "attempts": 3 if n == 2 else 1} for n in range(5)]
    assert results.results.index.tolist() == list(range(5))
    run = session.run(Pipeline().map(square).map(succeeds_at_the_third_attempt, **options).map(half), numbers(5))
    assert run["succeeds_at_the_third_attempt"].results["n"].tolist() == list(range(5))
    assert run.results["n"].tolist() == list(range(5))
    assert run.results.index.tolist() == list(range(5))


@pytest.mark.parametrize("keep", ["all", "none"])
@pytest.mark.parametrize(
    ("worker", "kind", "attempts"),
    [(exits_at_two, "died", 3), (is_killed_at_two, "died", 3), (hangs_at_two, "timeout", 1)],
)
def test_a_death_or_a_deadline_in_a_second_stage_loses_only_its_row(worker, kind, attempts, keep, pool):
    pipeline = Pipeline().map(square).product({"k": [1, 2]}).map(worker, timeout=0.3, group_size=3).map(half)
    psets = [{"n": n} for n in (0, 1, 2, 3, 4)]
    run = pool.run(pipeline, psets, keep=keep)
    missing = run.missing.sort_values("k") if keep == "none" else run.missing  # nobody keeps that order either
    assert missing[["_stage", "n", "square", "k", "_kind", "_attempts"]].to_numpy().tolist() == [
        [worker.__name__, 2, 4, 1, kind, attempts],
        [worker.__name__, 2, 4, 2, kind, attempts],
    ]
    assert run["half"].progress.finished == 8
    assert run["half"].missing["_kind"].tolist() == ["upstream", "upstream"]
    if keep == "all":
        assert run.results["n"].tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
        assert run.results["k"].tolist() == [1, 2] * 4


def test_one_stage_has_a_deadline_and_the_next_has_none(pool):
    pipeline = Pipeline().map(hangs_at_two, timeout=0.3).map(square)
    run = pool.run(pipeline, numbers(4))
    assert run.missing["_kind"].tolist() == ["timeout"]
    assert run.results["n"].tolist() == [0, 1, 3]


class Unpicklable:
    def __reduce__(self):
        raise TypeError("this stays here")

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {}


@pytest.mark.parametrize("what", ["worker", "user_kwargs"])
def test_what_cannot_be_pickled_in_a_later_stage_is_refused_before_anything_runs(what, pool, tmp_path):
    last = {"worker": Unpicklable()} if what == "worker" else {"worker": square, "user_kwargs": UnpicklableValue()}
    pipeline = Pipeline().map(counts_its_calls, user_kwargs={"folder": str(tmp_path)}).map(name="last", **last)
    with pytest.raises(WorkerError, match=r"^last: the worker or its user_kwargs cannot be pickled for the backend"):
        pool.run(pipeline, numbers(3))
    assert list(tmp_path.glob("called*")) == []


def unloadable(pset, system_kwargs, user_kwargs):
    return {}


class DiesWhereItIsLoaded:
    def __reduce__(self):
        return os.abort, ()

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {}


def test_a_worker_that_cannot_be_loaded_in_a_later_stage_ends_the_run_with_what_is_finished(pool):
    with pytest.raises(WorkerStartError, match=r"^last: the worker cannot be started") as caught:
        pool.run(Pipeline().map(square).map(DiesWhereItIsLoaded(), name="last"), numbers(3))
    run = caught.value.results
    assert set(run["square"].results["n"]) | set(run["square"].missing["n"]) == {0, 1, 2}
    assert set(run["last"].missing["_kind"]) <= {"cancelled", "upstream"}
    assert len(pool.map(square, numbers(3))) == 3


def returns_what_cannot_be_pickled(pset, system_kwargs, user_kwargs):
    return {"value": UnpicklableValue() if pset["n"] == 2 else 0}


def test_an_answer_that_cannot_be_pickled_in_a_second_stage_is_missing_alone(pool):
    run = pool.run(Pipeline().map(square).map(returns_what_cannot_be_pickled).map(half), numbers(4))
    assert run.missing[["n", "_kind"]].to_numpy().tolist() == [[2, "unpicklable"]]
    assert run.results["n"].tolist() == [0, 1, 3]


def test_a_row_that_cannot_be_pickled_in_a_second_stage_is_missing_alone(pool):
    pipeline = Pipeline().map(square).derive({"m": lambda n: threading.Lock() if n == 2 else n}, per_row=True)
    run = pool.run(pipeline.map(half), numbers(4))
    assert run.missing[["n", "_kind"]].to_numpy().tolist() == [[2, "unpicklable"]]
    assert run.results["n"].tolist() == [0, 1, 3]


def test_out_func_of_a_second_stage_is_called_with_its_rows(session):
    seen = []

    def out_func(user_ret, system_kwargs, user_kwargs):
        seen.append((system_kwargs["name"], user_ret["pset"], user_ret.get("result"), user_ret.get("exception")))

    run = session.run(Pipeline().map(square).map(fails_at_odd, out_func=out_func).map(half), numbers(3))
    assert sorted(seen, key=lambda each: each[1]["n"]) == [
        ("fails_at_odd", {"n": 0, "square": 0}, {"even": 0}, None),
        ("fails_at_odd", {"n": 1, "square": 1}, None, "ValueError('no answer for 1')"),
        ("fails_at_odd", {"n": 2, "square": 4}, {"even": 2}, None),
    ]
    assert run.results["n"].tolist() == [0, 2]


def test_an_out_func_that_raises_harms_nobody(session):
    def out_func(user_ret, system_kwargs, user_kwargs):
        raise ValueError("not mine")

    run = session.run(Pipeline().map(square).map(half, out_func=out_func).map(negated), numbers(3))
    assert len(run.results) == 3
    assert run["half"].progress.exceptions == 3


def test_a_limit_is_one_of_the_sources(session):
    pipeline = Pipeline(sources=("a", "b")).map(square, after="a").product({"k": [1, 2, 3]})
    pipeline = pipeline.concat(after=("product", "b"))
    run = session.run(pipeline, a=numbers(5), b=pd.DataFrame({"n": range(5)}), limit=2)
    assert [len(run[name]) for name in run] == [2, 6, 8]


def test_ncores_and_group_size_of_a_run_hold_for_all_stages(pool):
    run = pool.run(Pipeline().map(pid).keep("n").map(pid, name="again"), numbers(6), ncores=1, group_size=1)
    assert len({*run["pid"].results["pid"], *run["again"].results["pid"]}) == 1


# Values, dtypes and labels

FRAME = pd.DataFrame(
    {
        "n": [3, 1, 2, 0],
        "category": pd.Categorical(["b", "a", "b", "c"], categories=["c", "b", "a"], ordered=True),
        "day": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"]).tz_localize("Europe/Paris"),
        "span": pd.to_timedelta([1, 2, 3, 4], unit="s"),
        "small": np.array([1, 2, 3, 4], dtype=np.uint8),
        "single": np.array([1.5, 2.5, 3.5, 4.5], dtype=np.float32),
        "nullable": pd.array([1, None, 3, 2**60], dtype="Int64"),
        "flag": pd.array([True, None, False, True], dtype="boolean"),
        "large": [2**53 + 1, 2**62, -(2**53) - 1, 0],
    },
    index=pd.Index(["w", "x", "y", "z"], name="label"),
)
KEEPING = {
    "map": lambda p: p.map(square, group_size=1),
    "sometimes": lambda p: p.map(sometimes, group_size=1).map(square),
    "mixture": lambda p: p.map(mixture, group_size=1).derive(m="n + 1"),
    "derive": lambda p: p.derive(m="n + 1"),
    "where": lambda p: p.where("n >= 0").map(exact, group_size=2).where("n < 100"),
    "rename": lambda p: p.rename({"large": "huge"}).rename({"huge": "large"}),
    "drop": lambda p: p.map(half, group_size=3).drop("half"),
    "product": lambda p: p.product({"k": ["one"]}).map(square, group_size=1),
    "explode": lambda p: p.map(lambda p, s, u: {"found": [1]}, name="lists", group_size=1).explode("found"),
    "top": lambda p: p.map(square, group_size=1).top(9, "n").where("n >= 0"),
    "join": lambda p: p.map(square).keep("n", "square").join("n", after=("psets", "keep")).map(half, group_size=1),
    "concat": lambda p: p.where("n < 2").where("n >= 2", after="psets").concat(after=("where", "where2")),
    "apply": lambda p: p.map(square, group_size=1).apply(lambda frame: frame, name="same").map(half, group_size=1),
}


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("kind", KEEPING)
def test_the_columns_of_a_frame_keep_their_dtypes_and_values_through_the_stages(kind, pieces, session, request):
    if pieces == "many":
        request.getfixturevalue("small_pieces")
    run = session.run(KEEPING[kind](Pipeline()), FRAME)
    assert len(run.missing) == 0
    found = run.results.sort_values("n", ascending=False)[FRAME.columns]
    expected = FRAME.sort_values("n", ascending=False)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))


@pytest.mark.parametrize("kind", ["map", "sometimes", "mixture", "derive", "where", "rename", "drop"])
def test_the_labels_of_a_frame_stay_with_its_rows(kind, session):
    run = session.run(KEEPING[kind](Pipeline()), FRAME)
    assert run.results.index.tolist() == ["w", "x", "y", "z"]
    assert run.results["n"].tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("kind", ["product", "explode", "top", "join", "concat"])
def test_stages_that_make_rows_of_their_own_number_them(kind, session):
    assert session.run(KEEPING[kind](Pipeline()), FRAME).results.index.tolist() == [0, 1, 2, 3]


def test_labels_stay_with_the_rows_that_are_left(session):
    pipeline = Pipeline().where("n != 1").map(square, group_size=1).where("square != 9").map(fails_at_odd).derive(m="n")
    run = session.run(pipeline, FRAME)
    assert run["where"].index.tolist() == ["w", "y", "z"]
    assert run["square"].results.index.tolist() == ["w", "y", "z"]
    assert run.results.index.tolist() == ["y", "z"]
    assert session.run(pipeline, FRAME.assign(n=[2, 3, 5, 7]))["fails_at_odd"].missing.index.tolist() == ["y", "z"]


def test_labels_are_numbers_where_there_was_no_frame(session):
    run = session.run(Pipeline().map(square).where("n > 0").product({"k": [1, 2]}).where("k > 1").map(half), numbers(3))
    assert run["where"].index.tolist() == [1, 2]
    assert run["product"].index.tolist() == [0, 1, 2, 3]
    assert run.results.index.tolist() == [1, 3]


VALUES = [2**53 + 1, 2.0**53, None, float("nan"), 2**80, True, 1, "text", -0.0, (1, 2)]


def same_values(found, expected):
    return all(
        type(one) is type(other) and (one == other or (one != one and other != other)) and repr(one) == repr(other)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("size", [1, 3, None])
def test_no_value_changes_on_its_way(size, pieces, session, request):
    if pieces == "many":
        request.getfixturevalue("small_pieces")
    rows = [{"n": n, "v": value} if n % 4 else {"n": n} for n, value in enumerate(VALUES)]
    pipeline = Pipeline().map(mixture, group_size=size)
    pipeline = pipeline.derive({"twice": lambda v=0: v, "again": lambda value: value}, per_row=True)
    pipeline = pipeline.where({"n": list(range(20))}).product({"k": [None, 2**53 + 1, 0.5]})
    run = session.run(pipeline.map(square, group_size=size), rows)
    assert len(run.missing) == 0
    for name in ("mixture", "derive", "where"):
        table = run[name].table if isinstance(run[name], MapResults) else None
        if table is not None:
            assert same_values(
                [row["value"] for row in table.dicts()],
                [[2**53 + 1, 0.5, None, "text", 2**80, True][n % 6] for n in range(10)],
            )
    found = list(run["square"].iterdicts())
    expected = [
        {
            **row,
            "value": mixture(row, {}, None)["value"],
            "twice": row.get("v", 0),
            "again": mixture(row, {}, None)["value"],
            "k": k,
            "square": row["n"] ** 2,
        }
        for row in rows
        for k in (None, 2**53 + 1, 0.5)
    ]
    assert [set(row) for row in found] == [set(row) for row in expected]
    for key in ("n", "value", "twice", "again", "k", "square"):
        assert same_values([row[key] for row in found], [row[key] for row in expected]), key
    assert same_values([row["v"] for row in found if "v" in row], [row["v"] for row in expected if "v" in row])


@pytest.mark.parametrize("size", [1, 4])
def test_large_ints_among_floats_are_not_rounded_in_the_frames_of_any_stage(size, session):
    pipeline = Pipeline().map(exact, group_size=size).derive(m="value").where("n >= 0").product({"k": [1]})
    run = session.run(pipeline.map(square), pd.DataFrame({"n": range(4)}))
    for name in run:
        frame = run[name].results if isinstance(run[name], MapResults) else run[name]
        assert frame["value"].tolist() == [0.5, 2**53 + 1, 0.5, 2**53 + 1]
        assert frame["value"].dtype == object
    assert run.results["m"].tolist() == [0.5, 2**53 + 1, 0.5, 2**53 + 1]


def test_what_was_missing_in_a_row_stays_a_hole_and_none_stays_none(session):
    pipeline = Pipeline().map(sometimes, group_size=1).derive(m="n").map(square, group_size=1)
    run = session.run(pipeline, [{"n": 0, "x": None}, {"n": 1}])
    assert list(run["square"].iterdicts()) == [
        {"n": 0, "x": None, "m": 0, "square": 0},
        {"n": 1, "extra": 1, "m": 1, "square": 1},
    ]
    assert run["derive"]["extra"].dtype == "Int64"
    assert run.results["extra"].dtype == "Int64"


def test_columns_of_any_name_flow(session):
    rows = [{"n": 1, ("a", 1): 2, 0: 3, "a b": 4, "class": 5}]
    pipeline = Pipeline().map(square).where({("a", 1): 2}).drop(0).product({"_x": [1]}).map(half).top(1, "a b")
    assert dicts(session.run(pipeline, rows).results) == [
        {"n": 1, ("a", 1): 2, "a b": 4, "class": 5, "square": 1, "_x": 1, "half": 0.5}
    ]


def one_or_other(pset, system_kwargs, user_kwargs):
    return {"a": 1} if pset["n"] % 2 else {"b": 2}


def slow(pipeline):
    return pipeline.map(ends_when_a_second_stage_has_answered, name="slow", group_size=1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: slow(Pipeline()).map(one_or_other, group_size=1),
        lambda: slow(Pipeline().map(one_or_other, group_size=1)).derive(m="n"),
        lambda: slow(Pipeline().map(one_or_other, group_size=1)).map(square),
        lambda: slow(Pipeline().map(one_or_other, group_size=1)).top(9, "n"),
        lambda: slow(Pipeline()).product({"k": [1, 2]}).map(one_or_other).map(square).drop("k"),
    ],
)
def test_the_order_of_columns_does_not_depend_on_who_was_finished_first(build, pool, tmp_path):
    """The first row is finished last, when a second stage has answered for another one; or like the others."""
    orders = []
    for _ in ("last", "like the others"):
        pipeline = build().map(says_that_it_has_answered, after="slow", group_size=1)
        run = pool.run(pipeline, numbers(4), user_kwargs={"folder": str(tmp_path)})
        assert len(run.missing) == 0
        frames = [found.results if isinstance(found, MapResults) else found for found in run.values()]
        orders.append([frame.columns.tolist() for frame in frames])
    assert orders[0] == orders[1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_whether_there_is_a_column_that_no_row_has_does_not_depend_on_how_rows_were_cut(size, session):
    whole = session.run(Pipeline().map(sometimes, group_size=4).where("n % 2 == 0").map(square), numbers(4))
    run = session.run(Pipeline().map(sometimes, group_size=size).where("n % 2 == 0").map(square), numbers(4))
    assert run["where"].columns.tolist() == whole["where"].columns.tolist()
    assert run.results.columns.tolist() == whole.results.columns.tolist()
    pipeline = Pipeline().map(sometimes, group_size=size).where("n % 2 == 0")
    pipeline = pipeline.derive(extra="n", after="psets").join("n", after=("where", "derive"), suffixes=("_l", "_r"))
    names = session.run(pipeline, numbers(4)).results.columns.tolist()
    assert names == (["n", "extra"] if "extra" not in whole["where"].columns else ["n", "extra_l", "extra_r"])


@pytest.mark.parametrize("how", ["concat", "left", "outer"])
def test_columns_of_a_table_without_rows_do_not_depend_on_how_rows_were_cut_either(how, session):
    found = []
    for size in (1, 4):
        pipeline = Pipeline().map(sometimes, group_size=size).where("n < 0").map(square, after="psets")
        after = ("square", "where")
        pipeline = pipeline.concat(after=after) if how == "concat" else pipeline.join("n", how=how, after=after)
        found.append(session.run(pipeline, numbers(4)).results.columns.tolist())
    assert found[0] == found[1]


def test_the_users_frame_is_not_changed(session):
    before = FRAME.copy(deep=True)
    session.run(Pipeline().derive(m="n").map(square).apply(lambda frame: frame.assign(n=0), name="zero"), FRAME)
    pd.testing.assert_frame_equal(FRAME, before)


# Ctrl-C

INTERRUPTED = (
    HEAD.replace("import os,", "import json, os,")
    + """
from paramsurvey import Pipeline
backend = sys.argv[1]
pipeline = Pipeline("p").map(failing_workers.healthy).top(40, "n", largest=False, name="in order")
pipeline = pipeline.derive(m="n + 1").drop("square")
pipeline = pipeline.map(worker[backend], out_func=out_func[backend], group_size=1, name="second").drop("square")
pipeline = pipeline.map(failing_workers.healthy, name="third").top(1, "n")
with paramsurvey.Session(backend=backend, **options) as session:
    try:
        session.run(pipeline, psets)
    except Interrupted as exc:
        run = exc.results
        say("interrupted", isinstance(exc, KeyboardInterrupt), exc)
        say(json.dumps(run["second"].results["n"].tolist()))
        say(json.dumps([*run["second"].missing["n"], *run["healthy"].missing["n"]]))
        say(sorted({*run["second"].missing["_kind"], *run["healthy"].missing["_kind"]}))
        say("third", set(run["third"].results["n"]) <= set(range(10)), len(run["top"]))
        say("next", len(session.map(failing_workers.healthy, psets)))
say("end")
"""
)


@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("multiprocessing", 2)])
def test_ctrl_c_in_a_second_stage_ends_the_run_with_what_is_finished(backend, workers, program, mark):  # noqa: F811
    started = program(INTERRUPTED, backend)
    has_hung(started, mark, workers)
    stopwatch = Stopwatch(started.process.pid)
    os.killpg(started.process.pid, signal.SIGINT)
    line = started.line()
    assert line.startswith("interrupted True p: interrupted; ")
    assert line.endswith(" psets were finished and are in `results`")
    assert stopwatch.seconds_since() < 1.0
    finished, missing = (json.loads(line) for line in started.lines(2))
    assert finished == list(range(10))
    assert sorted(missing) == list(range(10, 40))
    assert started.rest() == ["['cancelled']", "third True 0", "next 40", "end"]
    assert started.process.returncode == 0


IN_THE_DRIVER = (
    HEAD
    + """
from paramsurvey import Pipeline
from paramsurvey.stages.base import Ask

def hangs(value, *more):
    say("hangs")
    time.sleep(3600)

class Strategy:
    name = "strategy"
    def table(self, table):
        yield Ask(failing_workers.healthy, psets)
        hangs(table)

first = Pipeline("p").map(failing_workers.healthy)
pipelines = {
    "apply": first.apply(hangs),
    "reduce": first.reduce("n", aggregate=hangs),
    "derive": first.derive({"m": lambda n: hangs(n)}),
    "where": first.where(lambda n: hangs(n), per_row=True).map(failing_workers.healthy, name="last"),
    "at the beginning": Pipeline("p").derive({"m": lambda n: hangs(n)}).map(failing_workers.healthy),
    "at the end": Pipeline("p").apply(hangs, allow_missing=True),
    "strategy": first.add(Strategy()),
    "stream": first.apply(hangs),
}
backend, *kinds = sys.argv[1:]
with paramsurvey.Session(backend=backend, **options) as session:
    for kind in kinds:
        try:
            if kind == "stream":
                list(session.stream_run(pipelines[kind], psets))
            else:
                session.run(pipelines[kind], psets)
        except Interrupted as exc:
            say("interrupted", isinstance(exc, KeyboardInterrupt))
            say(kind, len(session.map(failing_workers.healthy, psets)))
"""
)


@pytest.mark.parametrize("backend", ["serial", "multiprocessing"])
def test_ctrl_c_in_a_function_that_hangs_in_the_driver_ends_the_run(backend, program):  # noqa: F811
    """One after another in one session, which goes on after each."""
    kinds = ["apply", "reduce", "derive", "where", "at the beginning", "at the end", "strategy", "stream"]
    started = program(IN_THE_DRIVER, backend, *kinds)
    for kind in kinds:
        assert started.line() == "hangs"
        stopwatch = Stopwatch(started.process.pid)
        started.process.send_signal(signal.SIGINT)
        assert started.line() == "interrupted True"
        assert stopwatch.seconds_since() < 1.0
        assert started.line() == f"{kind} 40"
    assert started.rest() == []


def test_ctrl_c_at_any_moment_loses_and_doubles_no_row(program):  # noqa: F811
    text = """
import random
from paramsurvey import Pipeline
chance = random.Random(7)
count = 4000
many = [{"n": n, "bad": False} for n in range(count)]
pipeline = Pipeline().map(failing_workers.healthy, name="first").keep("n", "bad").product({"k": [0, 1]})
pipeline = pipeline.map(failing_workers.healthy, name="second").where("n >= 0")
session = paramsurvey.Session(backend=sys.argv[1], **options)
turns = interrupted = 0
while turns < 15 or interrupted < 3:  # on a busy machine, more of them come before the run
    turns += 1
    timer = threading.Timer(chance.uniform(0.0, 0.1), signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        run = session.run(pipeline, many)
        timer.join()
        time.sleep(0)
    except Interrupted as exc:
        interrupted += 1
        run = exc.results
    except KeyboardInterrupt:  # before or after the run
        run = None
    timer.join()
    if run is not None and "second" in run:
        first = [row["n"] for row in run["first"].iterdicts()]
        assert first == sorted(set(first))
        assert sorted(first + list(run["first"].missing.get("n", []))) == list(range(count))
        second = [(row["n"], row["k"], row["square"]) for row in run["second"].iterdicts()]
        assert second == sorted(set(second))
        assert all(square == n * n for n, _, square in second)
        assert {n for n, _, _ in second} <= set(first)
        assert len(second) == run["second"].progress.finished
        rows = [(row["n"], row["k"]) for row in run["where"].to_dict("records")]
        assert rows == sorted(set(rows))
        assert set(rows) <= {(n, k) for n, k, _ in second}
assert len(session.run(pipeline, many).results) == 2 * count
session.close()
say("end")
"""
    assert program(HEAD + text, "multiprocessing").rest() == ["end"]
