"""A pipeline as a worker: all its stages in one call."""

from __future__ import annotations

import re

import pytest
from greedy_run_workers import different, fails_in_every_way, seed, word
from pipeline_workers import fails_at_three, half, square

from paramsurvey import Pipeline
from paramsurvey.callables import as_worker, worker_name
from paramsurvey.errors import StageError
from paramsurvey.stages.base import Ask

pytestmark = pytest.mark.timeout(120, method="signal")


ROWS = [{"n": n} for n in range(5)]


def test_a_pipeline_as_worker_gives_what_it_gives_as_a_pipeline(session):
    pipeline = Pipeline("chain").map(square).derive(sum="n + square").rename({"sum": "total"}).map(half)
    fused, run = session.map(pipeline, ROWS), session.run(pipeline, ROWS)
    assert fused.to_dict() == run["half"].to_dict()
    assert fused.name == "chain"


def test_expressions_are_exact_where_the_workers_run_too(session):
    fused = Pipeline("powers").map(square).derive(power="(square + n - abs(-n)) ** 20 // (n + 1) * 1").as_worker()
    assert [row["power"] for row in session.map(fused, ROWS).iterdicts()] == [n**40 // (n + 1) for n in range(5)]


def test_columns_that_the_stages_leave_out_are_no_part_of_the_answer(session):
    results = session.map(Pipeline().map(square).map(half).drop("square"), ROWS)
    assert results.to_dict() == [{"n": n, "half": n / 2} for n in range(5)]


def test_an_evaluation_of_a_greedy_search_may_be_several_stages(session):
    words = ["tea", "eat", "ten", "cup", "zoo"]
    evaluation = Pipeline("evaluation").map(word).map(different).derive(score="different * 2")
    best = session.greedy(evaluation, words, picks=2, metric="score", user_kwargs=["zoo"])
    assert (best.keys, best.value) == (["tea", "cup"], 12)
    assert set(best.missing["_exception"]) == {"""StageError("stage 'different': LookupError('zoo is not allowed')")"""}


@pytest.mark.parametrize(
    "evaluation",
    [Pipeline("e").map(word).map(fails_in_every_way), Pipeline("e").map(fails_in_every_way).map(word)],
    ids=["second", "first"],
)
def test_an_evaluation_that_raises_dies_or_hangs_says_in_which_stage(evaluation, session):
    where = "stage 'fails_in_every_way': "
    texts, options = {"raises": f"""StageError("{where}ValueError('not this one')")"""}, {}
    if session.backend == "multiprocessing":  # nobody can end the driver's own process
        texts["dies"] = where + "its worker process died: it was ended by signal 9 (SIGKILL)"
        texts["hangs"], options["timeout"] = where + "it took longer than timeout=0.3 s", 0.3
    best = session.greedy(evaluation, ["ab", *texts], picks=1, metric="covered", **options)
    missing = dict(zip(best.missing["candidate"], best.missing["_exception"], strict=True))
    assert best.keys == ["ab"]
    assert {key: text.split(";")[0] for key, text in missing.items()} == texts


def test_a_death_is_put_down_to_no_stage_if_the_worker_has_none(session):
    if session.backend == "serial":
        pytest.skip("nobody can end the driver's own process")
    session.map(Pipeline().map(square).map(half), ROWS)
    [row] = session.map(fails_in_every_way, [{"candidate": "dies", "picked": []}]).missing.to_dict("records")
    assert row["_exception"].startswith("its worker process died")


def test_a_stage_that_asks_may_ask_a_pipeline(session):
    class Strategy:
        name = "strategy"

        def table(self, table):
            pipeline = Pipeline("both").map(square).map(half)
            one = yield Ask(pipeline, ROWS[:2])
            two = yield Ask(pipeline, ROWS[2:], until="first")
            return [*one.iterdicts(), *(row for _, row in two.rows)]

    found = session.run(Pipeline().add(Strategy()), ROWS).results
    assert found["half"].tolist()[:2] == [0, 0.5]
    assert len(found) > 2


def test_what_raises_is_named_with_its_stage_and_its_traceback(session):
    missing = session.map(Pipeline("p").map(square).map(fails_at_three, name="check"), ROWS).missing
    assert missing["_exception"].tolist() == ["""StageError("stage 'check': ValueError('three is too many')")"""]
    assert "three is too many" in missing["_traceback"].iloc[0]
    assert "fails_at_three" in missing["_traceback"].iloc[0]


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda p: p.where("n < 0"), "stage 'where': it has left it out, and an evaluation is one row"),
        (lambda p: p.product({"x": [1, 2]}), "stage 'product': it has made 2 rows of it, and an evaluation is one row"),
        (lambda p: p.map(lambda *_: 5, name="five"), "stage 'five': TypeError('the worker returned the int 5; "),
        (lambda p: p.map(lambda *_: {"n": -1}, name="other"), "stage 'other': ValueError(\"the answer has the key 'n'"),
        (lambda p: p.derive(m="missing + 1"), "stage 'derive', column 'm' reads the column 'missing'"),
    ],
)
def test_a_stage_that_does_not_make_one_row_fails_by_name(add, message):
    with pytest.raises(StageError, match=re.escape(message)):
        add(Pipeline().map(square)).as_worker()({"n": 1}, {}, None)


def test_a_stage_has_its_own_user_kwargs_or_those_of_the_whole(session):
    def tell(pset, system_kwargs, user_kwargs):
        return {f"told{pset['n']}": user_kwargs}

    def again(pset, system_kwargs, user_kwargs):
        return {"again": user_kwargs}

    pipeline = Pipeline().map(tell, user_kwargs="mine").map(again)
    assert session.map(pipeline, [{"n": 1}], user_kwargs="whole").to_dict() == [
        {"n": 1, "told1": "mine", "again": "whole"}
    ]


def test_the_stages_of_an_evaluation_have_its_seed_and_their_own_names(session):
    pipeline = Pipeline("evaluation").map(seed, name="inner")
    [row] = session.map(pipeline, [{"n": 1}]).to_dict()
    [alone] = session.map(seed, [{"n": 1}]).to_dict()
    assert (row["seed"], row["stage"]) == (alone["seed"], "inner")


def test_what_a_worker_adds_to_its_pset_is_in_the_row_and_nothing_else_that_it_does():
    def mutates(pset, system_kwargs, user_kwargs):
        pset["added"], pset["n"] = 1, "gone"

    fused = Pipeline().map(mutates).as_worker()
    pset = {"n": 1}
    assert fused(pset, {}, None) == {"added": 1}
    assert pset == {"n": 1}


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            lambda: Pipeline("p"),
            "cannot be a worker, which makes one row of one: it has 1 sources and 0 last stages",
        ),
        (lambda: Pipeline("p", sources=("a", "b")).map(square, after="a"), "it has 2 sources and 1 last stages"),
        (lambda: Pipeline("p").map(square).map(half, after="psets"), "it has 1 sources and 2 last stages"),
        (
            lambda: Pipeline("p").map(square).best("square"),
            "pipeline 'p' cannot be a worker, because its stage 'best' needs a whole table, and a worker has one row",
        ),
        (
            lambda: Pipeline("p").map(square, timeout=3, retries=1),
            "its stage 'square' has timeout=, retries=: it runs in one call with the others; give options to the whole",
        ),
    ],
)
def test_a_pipeline_that_makes_no_row_of_one_is_refused_with_the_reason(pipeline, message, session):
    with pytest.raises(StageError, match=re.escape(message)):
        session.greedy(pipeline(), ["a"], picks=1)


def test_a_worker_has_its_pipelines_name():
    assert worker_name(as_worker(Pipeline("image").map(square))) == "image"
