"""Greedy searches that run: in sessions, in pipelines, on any number of workers, and when evaluations fail."""

from __future__ import annotations

import copy
import pickle
import random
import re
import signal

import pytest
from conftest import QUIET, wait_until
from greedy_run_workers import (
    covered,
    fails,
    fails_at_first,
    fails_in_every_way,
    fails_while_alone,
    letters,
    prints_and_fails_while_alone,
    tells_its_seed,
)
from test_failures_driver import HEAD, program  # noqa: F401 - a fixture

import paramsurvey
from paramsurvey import GreedyResults, Pipeline
from paramsurvey.engine.columns import DETAILS
from paramsurvey.errors import OptionError, StageFailed, WorkerError
from paramsurvey.stages.greedy import Greedy
from paramsurvey.testing import StageContract

pytestmark = pytest.mark.timeout(120, method="signal")


WORDS = ["tea", "eat", "ten", "cup", "zoo"]


def table(results):
    """Return a trace without what takes time."""
    return results.trace.drop(columns="seconds", errors="ignore")


# What a user gets


@pytest.mark.parametrize(
    "candidates",
    [list, tuple, iter, lambda words: [{"candidate": word} for word in words]],
    ids=["list", "tuple", "iterator", "dicts"],
)
def test_one_call_picks_the_best(candidates, session):
    best = session.greedy(letters, candidates(WORDS), picks=3)
    assert isinstance(best, GreedyResults)
    assert best.keys == ["tea", "cup", "zoo"]
    assert (best.value, best.evaluations, best.stopped) == (8, 12, "picks=3 reached")
    assert best.progress.finished == 12


def test_the_default_session_has_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paramsurvey.greedy(letters, WORDS, picks=1, backend="serial", verbose=0).keys == ["tea"]


def test_options_of_the_evaluations_stand_beside_those_of_the_search(session):
    sets = {"a": {1}, "b": {1, 2, 3}, "c": {3, 4}}
    seen = []
    best = session.greedy(
        covered,
        list(sets),
        picks=2,
        metric="covered",
        user_kwargs={"sets": sets},
        group_size=1,
        out_func=lambda ret, system, user: seen.append(ret["result"]["covered"]),
        options={"seed": 5},
    )
    assert best.keys == ["b", "c"]
    assert sorted(seen) == [1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pick": 3}, "greedy() has no option 'pick'; did you mean 'picks'?"),
        ({"time_out": 3}, "greedy() has no option 'time_out'; did you mean 'timeout'?"),
        ({"picks": 0}, "Greedy(picks=0): picks must be a whole number, 1 or more"),
        ({"retries": -1}, "greedy(retries=-1): retries must be a whole number, 0 or more"),
        ({"pslogger_prefix": "x"}, "greedy() cannot change pslogger_prefix="),
    ],
)
def test_keywords_that_are_none_are_refused_before_anything_is_computed(given, message, session):
    with pytest.raises(OptionError, match="^" + re.escape(message)):
        session.greedy(fails, WORDS, **given)


def test_a_worker_that_cannot_be_called_is_refused(session):
    with pytest.raises(WorkerError, match="which cannot be called"):
        session.greedy("fill", WORDS, picks=1)


def test_a_limit_is_one_of_the_candidates(session):
    assert session.greedy(letters, WORDS, picks=5, limit=2).keys == ["tea", "eat"]


# In a pipeline


def test_the_picks_flow_on(session):
    pipeline = Pipeline("words").where("candidate != 'cup'").greedy(letters, picks=2).derive(longer="letters + 1")
    run = session.run(pipeline, [{"candidate": word, "place": place} for place, word in enumerate(WORDS)])
    assert isinstance(run["greedy"], GreedyResults)
    assert run["greedy"].keys == ["tea", "zoo"]
    assert run.results[["candidate", "place", "longer"]].to_dict("records") == [
        {"candidate": "tea", "place": 0, "longer": 4},
        {"candidate": "zoo", "place": 4, "longer": 6},
    ]
    assert run.lineage(1) == {"psets": [{"candidate": "zoo", "place": 4}]}
    assert "greedy: 2 rows" in repr(run)
    assert run.progress.finished == run["greedy"].progress.finished == 7


def test_the_last_stages_results_are_a_table(session):
    run = session.run(Pipeline().greedy(letters, picks=2), [{"candidate": word} for word in WORDS])
    assert run.results["candidate"].tolist() == ["tea", "cup"]
    assert run.results.equals(run["greedy"].picks)
    assert "tea" in run._repr_html_()


def test_what_is_in_from_the_start_may_be_a_second_table(session):
    pipeline = Pipeline(sources=("words", "read")).greedy(letters, picks=1, after=("words", "read"))
    run = session.run(pipeline, words=[{"candidate": word} for word in WORDS], read=[{"candidate": "cup"}])
    assert (run["greedy"].keys, run["greedy"].value) == (["tea"], 6)
    assert run.lineage(0) == {"words": [{"candidate": "tea"}]}


def test_options_in_a_pipeline_are_those_of_one_stage(session):
    pipeline = Pipeline().greedy(fails_at_first, picks=1, retries=1, name="best word")
    run = session.run(pipeline, [{"candidate": word} for word in WORDS])
    assert run["best word"].keys == ["tea"]
    with pytest.raises(OptionError, match="ncores is an option of the whole run"):
        Pipeline().greedy(letters, picks=1, ncores=2)


def test_two_greedy_stages_stand_in_one_pipeline(session):
    pipeline = Pipeline().greedy(letters, picks=3).keep("candidate").greedy(letters, picks=1, name="second")
    run = session.run(pipeline, [{"candidate": word} for word in WORDS])
    assert [len(run["greedy"].keys), run["second"].keys] == [3, ["tea"]]


def test_a_stage_that_fails_leaves_no_results_of_the_search(session):
    with pytest.raises(
        StageFailed, match=r"^stage 'greedy': no answer has the metric 'leters'; did you mean 'letters'"
    ):
        session.greedy(letters, WORDS, picks=1, metric="leters")


def test_those_who_watch_are_told_of_every_round(session):
    session._log.stream.lines.clear()
    session.greedy(letters, WORDS, picks=3, name="words")
    told = [line.split(" ", 2)[2] for line in session._log.stream.lines]
    rounds = [line for line in told if line.startswith("words: round ")]
    assert rounds[1:] == ["words: round 2: 1 picked, 3 so far", "words: round 3: 2 picked, 6 so far"]
    assert len([line for line in told if "psets on" in line]) == 1
    assert [line for line in told if line.startswith("words: total: 12, active: 0, finished: 12")]


def test_the_terminal_tells_of_rounds_no_more_often_than_of_progress(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verbose, rounds in ((0, 0), (1, 0), (3, 3)):
        with paramsurvey.Session(backend="serial", verbose=verbose) as session:
            session.greedy(letters, WORDS, picks=3)
        assert capsys.readouterr().err.count("greedy: round") == rounds


# As a stage


class OfWords(StageContract):
    def examples(self):
        return [[{"candidate": word, "place": place} for place, word in enumerate(WORDS)], [{"candidate": "one"}]]


class TestGreedyIsAStage(OfWords):
    def make_stage(self):
        return Greedy(letters, picks=3)


class TestLazyGreedyIsAStage(OfWords):
    def make_stage(self):
        return Greedy(letters, picks=3, lazy=True)


# Any number of workers, any order


def instance(seed):
    chance = random.Random(seed)
    return {f"s{n}": {chance.randrange(40) for _ in range(chance.randrange(2, 9))} for n in range(14)}


SEARCHES = [{}, {"ties": "random", "seed": 3}, {"lazy": True}, {"beam": 2}, {"target": 25}]


@pytest.fixture(scope="module")
def several():
    sessions = {
        name: paramsurvey.Session(backend=backend, ncores=ncores, **QUIET)
        for name, backend, ncores in (
            ("serial", "serial", None),
            ("1", "multiprocessing", 1),
            ("2", "multiprocessing", 2),
            ("3", "multiprocessing", 3),
        )
    }
    yield sessions
    for session in sessions.values():
        session.close()


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_picks_and_trace_are_the_same_for_any_number_of_workers(search, several):
    """Some evaluations take longer than others, and other ones each time."""
    sets = instance(7)
    found = {
        name: session.greedy(covered, list(sets), picks=4, metric="covered", user_kwargs={"sets": sets}, **search)
        for name, session in several.items()
    }
    first = found["serial"]
    assert len(first) > 1
    for name, other in found.items():
        assert other.picks.equals(first.picks), name
        assert table(other).equals(table(first)), name
        assert (other.value, other.stopped, other.evaluations) == (first.value, first.stopped, first.evaluations)


# Noise


def seeds_of_replicates(session, **options):
    seen = {}

    def note(user_ret, system_kwargs, user_kwargs):
        seen.setdefault(user_ret["pset"]["run"], set()).add(user_ret["result"]["seed"])

    search = {"picks": 2, "replicates": 2, "replicate": "run"}
    session.greedy(tells_its_seed, WORDS, metric="letters", out_func=note, **search, **options)
    return seen


def test_all_sets_of_one_replicate_have_one_seed_and_no_two_replicates_have_the_same(several):
    seeds = seeds_of_replicates(several["serial"])
    assert seeds.keys() == {0, 1, 2, 3}  # the last two are those by which the picks are evaluated afresh
    assert [len(of) for of in seeds.values()] == [1] * 4
    assert len(set.union(*seeds.values())) == 4
    assert [seeds_of_replicates(session) for session in several.values()] == [seeds] * 4
    others = seeds_of_replicates(several["2"], options={"seed": 1})
    assert set.union(*others.values()).isdisjoint(set.union(*seeds.values()))


def test_without_replicates_every_set_has_its_own_seed(session):
    best = session.greedy(tells_its_seed, WORDS, metric="letters", picks=2)
    assert best.trace["seed"].nunique() == len(best.trace)


def test_another_seed_for_the_sets_of_a_replicate_is_refused(session):
    with pytest.raises(OptionError, match=r"greedy\(seed_by='candidate', replicates=...\): all sets of one replicate"):
        session.greedy(tells_its_seed, WORDS, picks=2, replicates=2, seed_by="candidate")
    with pytest.raises(OptionError, match=r"all sets of one replicate have one seed.*leave seed_by out"):
        Greedy(tells_its_seed, picks=2, replicates=2, options={"seed_by": "candidate"})


# Evaluations that fail


def test_evaluations_that_raise_die_or_hang_cannot_win_and_are_listed(pool):
    words = ["ab", "raises", "abc", "dies", "hangs", "a"]
    best = pool.greedy(fails_in_every_way, words, picks=2, timeout=0.3)
    assert best.keys[0] == "abc"
    assert len(best) == 2
    missing = {(row["candidate"], tuple(row["picked"]), row["_kind"]) for row in best.missing.to_dict("records")}
    assert missing == {
        (key, picked, kind)
        for key, kind in (("raises", "raised"), ("dies", "died"), ("hangs", "timeout"))
        for picked in ((), ("abc",))
    }
    statuses = best.trace[best.trace["candidate"].isin(["raises", "dies", "hangs"])]["status"]
    assert set(statuses) == {"failed"}


def test_what_is_missing_tells_as_much_as_in_the_results_of_a_map(session):
    best = session.greedy(fails_while_alone, ["abcdef", "xyz", "x"], picks=2, retries=1)
    mapped = session.map(fails_while_alone, [{"candidate": "abcdef", "picked": []}], retries=1)
    assert best.missing.equals(mapped.missing)
    assert "in fails_while_alone" in best.missing.loc[0, "_traceback"]
    assert best.missing.loc[0, "_attempts"] == 2
    assert best.missing.loc[0, "_ends"] == ("raised: ValueError('not alone')",) * 2


def test_what_has_no_value_is_missing_with_the_reason(session):
    best = session.greedy(lambda pset, system, user: {"n": float(pset["candidate"])}, ["nan", "1"], picks=1)
    assert best.missing[["candidate", "_kind", "_exception", "_traceback", "_attempts"]].values.tolist() == [
        ["nan", "no value", "its 'n' is nan, which is no number to compare", "", 1]
    ]


def test_trace_and_missing_have_the_details_that_were_asked_for(session):
    best = session.greedy(prints_and_fails_while_alone, ["abcdef", "xyz", "x"], picks=2, details=True)
    assert best.trace.columns.tolist()[-len(DETAILS) :] == list(DETAILS)
    assert best.trace["_stdout"].tolist() == [f"{key}\n" for key in best.trace["candidate"]]
    assert best.trace["_seed"].notna().all()
    assert best.trace["_status"].tolist()[1:] == ["finished"] * 4
    assert best.missing["_stdout"].tolist() == ["abcdef\n"]
    caught = session.greedy(prints_and_fails_while_alone, ["abcdef", "xyz", "x"], picks=2, capture="tail")
    assert set(caught.trace.columns) & set(DETAILS) == {"_stdout", "_stderr"}
    assert caught.missing["_stdout"].tolist() == ["abcdef\n"]


def test_what_has_no_value_has_details_too(session):
    best = session.greedy(lambda pset, system, user: print("!"), ["nan", "1"], picks=1, metric="n", capture="tail")
    assert best.missing["_stdout"].tolist() == ["!\n"] * 2


# Results that travel


SEARCHES_TO_PICKLE = [
    {},
    {"lazy": True, "gain_rise": lambda pick, candidate, before: 0},
    {"budget": 3, "cost": {"tea": 1, "eat": 1, "ten": 1, "cup": 2, "zoo": 1}},
    {"conflicts": [["tea", "eat"]], "requires": {"cup": ["tea"]}},
    {"replicates": 2},
]


@pytest.mark.parametrize("search", SEARCHES_TO_PICKLE, ids=lambda search: "-".join(search) or "plain")
def test_results_survive_pickling_whatever_the_worker_is(search, session):
    best = session.greedy(lambda *of: letters(*of), WORDS, picks=2, user_kwargs={"unused": lambda: 0}, **search)
    for twin in (pickle.loads(pickle.dumps(best)), copy.deepcopy(best), pickle.loads(pickle.dumps(copy.copy(best)))):
        assert repr(twin) == repr(best)
        assert (twin.keys, twin.value, twin.progress) == (best.keys, best.value, best.progress)
        for name in ("picks", "trace", "missing", "sizes"):
            assert getattr(twin, name).equals(getattr(best, name)), name
        assert twin.pareto("letters").equals(best.pareto("letters"))
        assert (twin.certificate, twin.diagnosis) == (best.certificate, best.diagnosis)
        assert twin.plot().svg() == best.plot().svg()


def test_a_set_whose_evaluation_failed_returns_in_the_next_round(session):
    best = session.greedy(fails_while_alone, ["abcdef", "xyz", "x"], picks=2)
    assert best.keys == ["xyz", "abcdef"]
    assert best.missing["_exception"].tolist() == ["ValueError('not alone')"]


def test_evaluations_are_tried_again_as_often_as_asked(session):
    best = session.greedy(fails_at_first, WORDS, picks=2, retries=1)
    assert best.keys == ["tea", "cup"]
    assert len(best.missing) == 0


def test_a_search_without_any_value_stops_and_says_why(session):
    best = session.greedy(fails, WORDS, picks=2)
    assert (best.keys, len(best.missing)) == ([], 5)
    assert "ValueError('never')" in best.stopped


def test_a_strict_search_stops_at_the_first_failure(session):
    best = session.greedy(fails_while_alone, ["abcdef", "xyz", "x"], picks=2, on_failure="stop")
    assert best.keys == []
    assert "on_failure='stop'" in best.stopped


INTERRUPTED = (
    HEAD
    + """
import greedy_run_workers
from paramsurvey import Pipeline

backend, call, mark = sys.argv[1:]
with paramsurvey.Session(backend=backend, **options) as session:
    words, more = ["tea", "cup", "zoo", "ten"], {"picks": 4, "user_kwargs": mark}
    worker = greedy_run_workers.waits_at_the_third
    try:
        if call == "greedy":
            session.greedy(worker, words, **more)
        else:
            session.run(Pipeline().greedy(worker, **more), [{"candidate": word} for word in words])
    except Interrupted as exc:
        best = exc.results if call == "greedy" else exc.results["greedy"]
        say("picked", best.keys, best.stopped)
        say("next", len(session.map(failing_workers.healthy, psets)))
"""
)


@pytest.mark.parametrize(
    ("backend", "call"), [("multiprocessing", "greedy"), ("multiprocessing", "run"), ("serial", "greedy")]
)
def test_ctrl_c_carries_out_the_picks_made_so_far(call, backend, program, tmp_path):  # noqa: F811
    mark = tmp_path / "third"
    started = program(INTERRUPTED, backend, call, str(mark))
    wait_until(mark.exists)
    started.process.send_signal(signal.SIGINT)
    assert started.line() == "picked ['tea', 'cup'] interrupted"
    assert started.rest() == ["next 40"]
