"""Lazy search: the picks of plain greedy for fewer evaluations, whoever answers first; and what it says where not."""

from __future__ import annotations

import math
import random
import warnings

import asked_by_hand
import greedy_arrays
import pytest
from asked_by_hand import Engine
from greedy_workers import FAMILIES, Metric, anything
from test_greedy import candidates

from paramsurvey.errors import StageError
from paramsurvey.stages.greedy import Greedy

SLOTS = [1, 2, 3, 8, 32]
SUBMODULAR = [(family, floats) for family in FAMILIES for floats in (False, True)]


def run(value, keys, *, slots=1, seed=0, start=None, **options):
    engine = Engine(slots, random.Random(seed))
    tables = [candidates(keys)] + ([] if start is None else [candidates(start)])
    return engine.run(Greedy(Metric(value), **options), *tables).shown, engine


def instance(family, floats, seed):
    rng = random.Random(f"{family} {floats} {seed}")
    count = rng.randint(6, 24)
    return FAMILIES[family](rng, count, floats=floats), count, rng.randint(2, min(8, count - 1))


def lazy_reference(value, count, picks, width):
    """Count the evaluations of a reference: whoever has the largest bounds is evaluated again, `width` at a time."""
    picked, base = [], 0
    gains = {key: value([key]) for key in range(count)}
    calls = count
    for number in range(picks):
        fresh = dict(gains) if number == 0 else {}
        while stale := sorted((key for key in gains if key not in fresh), key=lambda key: (-gains[key], key)):
            best = max(fresh.values(), default=-math.inf)
            close = 1e-12 * max(abs(base), abs(best)) if isinstance(base, float) else 0
            top = stale[0]
            first = min((key for key in fresh if fresh[key] == best), default=count)
            if gains[top] < best - close or (gains[top] <= best + close and top > first):
                break
            fresh |= {key: value([*picked, key]) - base for key in stale[:width]}
            calls += len(stale[:width])
        gains |= fresh
        best = max(fresh.values())
        pick = min(key for key in fresh if fresh[key] == best)
        picked.append(pick)
        base = value(picked)
        del gains[pick]
    return calls


@pytest.mark.unmeasured
@pytest.mark.parametrize("slots", SLOTS)
def test_lazy_picks_what_plain_greedy_picks_with_as_many_evaluations_as_a_reference(slots):
    """For each number of slots 60 other instances, of six families, each with every tie rule; 2 seconds."""
    lazy_calls, reference_calls = 0, 0
    for family, floats in SUBMODULAR:
        for seed in range(10):
            value, count, picks = instance(family, floats, 100 * slots + seed)
            for ties in ("first", "random", "all"):
                plain, _ = run(value, count, picks=picks, ties=ties)
                lazy, engine = run(value, count, picks=picks, ties=ties, lazy=True, slots=slots, seed=seed)
                assert lazy.keys == plain.keys
                assert lazy.picks["value"].tolist() == plain.picks["value"].tolist()
                assert lazy.certificate.rose == ()
                assert lazy.certificate.standing in ("assumed", "exact")
                if ties == "first":
                    lazy_calls += len(engine.calls)
                    reference_calls += lazy_reference(value, count, picks, slots)
    assert lazy_calls <= 1.1 * reference_calls


@pytest.mark.parametrize(
    "options", [{}, {"gain_rise": 0.5}, {"min_gain": 1}, {"first": 2}, {"exclude": [0], "ties": "all"}]
)
@pytest.mark.parametrize("kind", ["coverage", "anything"])
def test_the_same_comes_out_for_any_number_of_slots_and_any_order_of_completion(options, kind):
    """Also where gains rise: what was evaluated ahead of need decides nothing."""
    rng = random.Random(5)
    value = anything(rng, 12) if kind == "anything" else FAMILIES["coverage"](rng, 12)
    first, _ = run(value, 12, picks=5, lazy=True, **options)
    for slots in SLOTS:
        for seed in range(2):
            found, _ = run(value, 12, picks=5, lazy=True, slots=slots, seed=seed, **options)
            assert found.keys == first.keys
            assert found.picks.equals(first.picks)
            assert found.trace.drop(columns="seconds").equals(first.trace.drop(columns="seconds"))
            assert found.certificate == first.certificate
            assert (found.stopped, found.evaluations) == (first.stopped, first.evaluations)


@pytest.mark.parametrize(
    "options", [{}, {"beam": 3}, {"floating": True}, {"direction": "backward"}, {"polish": "swap"}]
)
def test_the_order_of_completion_is_of_no_consequence_to_other_searches(options):
    value = anything(random.Random(2), 9)
    first, _ = run(value, 9, picks=4, **options)
    for slots in (2, 8):
        found, _ = run(value, 9, picks=4, slots=slots, seed=slots, **options)
        assert found.picks.equals(first.picks)
        assert found.trace.drop(columns="seconds").equals(first.trace.drop(columns="seconds"))


def test_several_slots_evaluate_some_ahead_of_need_and_need_the_same():
    value, count, picks = instance("facilities", True, 3)
    one, _ = run(value, count, picks=picks, lazy=True)
    eight, engine = run(value, count, picks=picks, lazy=True, slots=8)
    assert one.evaluations == eight.evaluations  # needed
    assert len(engine.calls) == eight.progress.total > eight.evaluations  # and some ahead of need


# --- metrics whose gains rise ---------------------------------------------------------------------


@pytest.mark.parametrize(("rise", "standing"), [(1e-13, "exact"), (1e-11, "replayed")])
def test_a_gain_has_risen_if_it_did_by_more_than_rounding_may(rise, standing):
    found, _ = run(lambda keys: len(keys) + rise * (len(keys) > 1), 4, picks=2, lazy=True)
    assert found.certificate.standing == standing
    rose = [f"the gain of 1 rose to {2 + rise - 1} in round 2, and was to be 1.0 at most"]
    assert list(found.certificate.rose) == rose[: standing == "replayed"]


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize(("start", "most"), [("base", 1.02), ("nothing", 1.0)])
def test_on_the_array_problem_lazy_sees_a_gain_rise_and_replays_plain_greedy(start, most, slots):
    base = greedy_arrays.base() if start == "base" else []
    keys = greedy_arrays.others() if base else list(greedy_arrays.stations())
    plain, _ = run(greedy_arrays.filling, keys, start=base, picks=8)
    lazy, _ = run(greedy_arrays.filling, keys, start=base, picks=8, lazy=True, slots=slots)
    assert lazy.keys == plain.keys
    assert lazy.certificate.standing == "replayed"
    assert lazy.evaluations <= most * plain.evaluations
    assert lazy.certificate.at_most is None


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("start", ["base", "nothing"])
def test_on_the_array_problem_gain_rise_is_exact_at_less_than_half_of_the_evaluations(start, slots):
    base = greedy_arrays.base() if start == "base" else []
    keys = greedy_arrays.others() if base else list(greedy_arrays.stations())
    plain, _ = run(greedy_arrays.filling, keys, start=base, picks=8)
    options = {"picks": 8, "lazy": True, "gain_rise": greedy_arrays.one_baseline}
    lazy, engine = run(greedy_arrays.filling, keys, start=base, slots=slots, **options)
    assert lazy.keys == plain.keys
    assert lazy.certificate.standing == "exact"
    assert lazy.evaluations < plain.evaluations / 2
    assert slots > 2 or len(engine.calls) < plain.evaluations / 2  # with all ahead of need


def test_a_gain_that_rose_is_replayed_raised_or_warned_of():
    def value(keys):
        return len(keys) + 10 * ({0, 1} <= set(keys)) + (0 in keys)

    replayed, _ = run(value, 5, picks=3, lazy=True)
    assert replayed.certificate.standing == "replayed"
    assert replayed.certificate.rose == ("the gain of 1 rose to 11 in round 2, and was to be 1 at most",)
    assert replayed.keys == run(value, 5, picks=3)[0].keys
    with pytest.raises(StageError, match="the gain of 1 rose to 11 in round 2") as caught:
        run(value, 5, picks=3, lazy=True, on_violation="raise")
    assert caught.value.results.keys == [0]
    with pytest.warns(UserWarning, match="lazy search may have missed the best") as warnings:
        warned, _ = run(value, 5, picks=3, lazy=True, on_violation="warn")
    assert warned.certificate.standing == "assumed"
    assert warnings[0].filename == asked_by_hand.__file__  # the first line that is not ours


def test_assumed_is_never_called_exact():
    for seed in range(30):
        value = anything(random.Random(seed), 10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for options in ({}, {"on_violation": "warn"}, {"slack": 0.1}):
                plain, _ = run(value, 10, picks=4)
                lazy, _ = run(value, 10, picks=4, lazy=True, **options)
                if lazy.certificate.standing in ("exact", "replayed"):
                    assert lazy.keys == plain.keys
                if lazy.certificate.standing == "exact":
                    assert "pruned" not in lazy.trace["status"].tolist()


def test_lazy_picks_what_plain_greedy_picks_of_a_budget():
    for seed in range(30):
        value, count, _ = instance("coverage", seed % 2 == 1, seed)
        rng = random.Random(seed)
        cost = {key: rng.randint(1, 5) for key in range(count)}
        for rule in ("gain", "ratio", "both"):
            plain, _ = run(value, count, budget=9, cost=cost, rule=rule)
            lazy, _ = run(value, count, budget=9, cost=cost, rule=rule, lazy=True, slots=3)
            assert lazy.keys == plain.keys
            assert lazy.evaluations <= 1.06 * plain.evaluations


# --- certificate and diagnosis --------------------------------------------------------------------


def test_leskovecs_bound_is_never_below_the_optimum():
    from itertools import combinations

    for seed in range(20):
        value = FAMILIES["coverage"](random.Random(seed), 9)
        best = max(map(value, combinations(range(9), 3)))
        for lazy in (False, True):
            found, _ = run(value, 9, picks=3, lazy=lazy)
            assert found.value <= best <= found.certificate.at_most
        cost = {key: 1 + key % 3 for key in range(9)}
        sets = [keys for size in range(1, 10) for keys in combinations(range(9), size)]
        best = max(value(keys) for keys in sets if sum(cost[key] for key in keys) <= 5)
        found, _ = run(value, 9, budget=5, cost=cost)
        assert found.value <= best <= found.certificate.at_most + 1e-9


def test_a_plain_search_tells_how_many_evaluations_lazy_would_have_needed():
    for family, floats in SUBMODULAR:
        value, count, picks = instance(family, floats, 7)
        plain, _ = run(value, count, picks=picks)
        lazy, _ = run(value, count, picks=picks, lazy=True)
        assert plain.diagnosis.rose == 0
        assert plain.diagnosis.lazy_evaluations == lazy.evaluations
        assert plain.certificate.standing == "exact"
        assert lazy.diagnosis is None


def test_a_plain_search_of_baselines_tells_that_gains_rose():
    plain, engine = run(greedy_arrays.filling, list(greedy_arrays.stations()), picks=4)
    before = len(engine.calls)
    assert plain.diagnosis.share > 0.7
    assert "gains rose" in str(plain.diagnosis)
    assert plain.diagnosis.lazy_evaluations == plain.evaluations == before  # it replays


def test_max_evaluations_is_never_exceeded_whoever_answers_first():
    value, count, _ = instance("coverage", False, 2)
    for most in range(count, 4 * count):
        results = [run(value, count, max_evaluations=most, lazy=True, slots=slots) for slots in (1, 8)]
        assert all(len(engine.calls) <= most for _, engine in results)
        assert results[0][0].keys == results[1][0].keys
