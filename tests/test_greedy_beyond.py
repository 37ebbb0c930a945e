"""Searches that look further, against all sets there are; and metrics with noise.

The figures that stand in the docstrings of `greedy_beyond` and `greedy_search` are measured here:
``python tests/test_greedy_beyond.py`` prints them.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from asked_by_hand import Engine
from greedy_workers import FAMILIES, Metric, anything, interaction
from test_greedy import candidates, search

from paramsurvey.errors import StageError
from paramsurvey.stages import greedy_beyond, greedy_search
from paramsurvey.stages.greedy import Greedy

COUNT, PICKS, INSTANCES = 10, 4, 40
KINDS = {**FAMILIES, "interaction": interaction, "anything": anything}
WAYS = {
    "plain": {},
    "beam=3": {"beam": 3},
    "backward": {"direction": "backward"},
    "floating": {"floating": True},
    "polish='swap'": {"polish": "swap"},
}


def shares_of_the_optimum(kind):
    """Return for each way how often it finds the best set of 4 out of 10, and its mean share of that one's value."""
    found = {way: [] for way in WAYS}
    for seed in range(INSTANCES):
        value = KINDS[kind](random.Random(f"{kind} {seed}"), COUNT)
        best = max(map(value, combinations(range(COUNT), PICKS)))
        for way, options in WAYS.items():
            found[way].append(search(value, COUNT, picks=PICKS, **options)[0].value / best)
    return {way: (sum(share >= 1 - 1e-12 for share in each), sum(each) / len(each)) for way, each in found.items()}


def line_of(kind):
    """Return a line of the table in the documentation."""
    cells = (f"{hits:2} {100 * share:5.1f} %" for hits, share in shares_of_the_optimum(kind).values())
    return f"{kind:12} " + "  ".join(f"{cell:13}" for cell in cells).rstrip()


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_the_optimum_are_those_of_the_documentation(kind):
    assert line_of(kind) in greedy_beyond.__doc__


@pytest.mark.parametrize("seed", range(25))
def test_swapping_is_never_worse_than_its_start_and_ends_where_no_swap_helps(seed):
    value = anything(random.Random(seed), 9)
    plain, polished = search(value, 9, picks=3)[0], search(value, 9, picks=3, polish="swap")[0]
    assert polished.value >= plain.value
    keys = set(polished.keys)
    assert all(value([*(keys - {out}), each]) <= polished.value for out in keys for each in set(range(9)) - keys)


@pytest.mark.parametrize("seed", range(25))
def test_floating_is_never_worse_than_plain_greedy_at_any_size(seed):
    value = anything(random.Random(seed), 9)
    plain, floated = search(value, 9, picks=5)[0], search(value, 9, picks=5, floating=True)[0]
    assert floated.sizes["size"].tolist() == plain.sizes["size"].tolist() == [1, 2, 3, 4, 5]
    assert (floated.sizes["value"] >= plain.sizes["value"]).all()
    assert floated.value == floated.sizes["value"].iloc[-1] == value(floated.keys)


def test_a_beam_that_keeps_everything_finds_the_optimum():
    for seed in range(5):
        value = anything(random.Random(seed), 7)
        best = max(map(value, combinations(range(7), 3)))
        assert search(value, 7, picks=3, beam=1000)[0].value == best


def test_the_best_pair_comes_first_where_one_alone_is_worth_nothing():
    for seed in range(5):
        table = {pair: random.Random(f"{seed} {pair}").random() for pair in combinations(range(8), 2)}

        def value(keys, table=table):
            return sum(table[pair] for pair in combinations(sorted(keys), 2))

        found, engine = search(value, 8, picks=2, first=2)
        assert found.value == max(table.values())
        assert len(engine.calls) == 28
        assert found.picks["round"].tolist() == [1, 1]
        assert search(value, 8, picks=5, first=2)[0].keys[:2] == found.keys


# --- budget ---------------------------------------------------------------------------------------


RULES = ["gain", "ratio", "both"]


def line_of_budget(rule):
    """Return a line of the table in the documentation: how often the best is found, and its least and mean share."""
    shares = []
    for seed in range(60):
        rng = random.Random(seed)
        value, cost = FAMILIES["coverage"](rng, 9), {key: rng.randint(1, 6) for key in range(9)}
        found, _ = search(value, 9, budget=8, cost=cost, rule=rule)
        assert sum(cost[key] for key in found.keys) <= 8
        sets = (keys for size in range(1, 9) for keys in combinations(range(9), size))
        shares.append(found.value / max(value(keys) for keys in sets if sum(cost[key] for key in keys) <= 8))
    return f"{rule:8} {shares.count(1.0)} of 60   {100 * min(shares):.1f} %  {100 * sum(shares) / 60:.1f} %"


@pytest.mark.parametrize("rule", RULES)
def test_what_a_budget_is_worth_is_what_the_documentation_says(rule):
    assert line_of_budget(rule) in greedy_search.__doc__


def test_one_dear_candidate_that_is_worth_all_is_not_missed():
    """Gain per cost alone would buy the trinket, after which the treasure no longer fits."""
    worth, cost = {0: 2, 1: 10}, {0: 1, 1: 10}
    found, engine = search(lambda keys: sum(worth[key] for key in keys), 2, budget=10, cost=cost)
    assert found.keys == [1]
    assert len(engine.calls) == 2
    assert search(lambda keys: sum(worth[key] for key in keys), 2, budget=10, cost=cost, rule="both")[0].keys == [1]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("rule", ["ratio", "both"])
def test_trace_and_plot_tell_of_the_picks_and_not_of_what_was_given_up_for_them(rule, lazy):
    """A single candidate that fits can be better than those that gain per cost has chosen."""
    given_up = 0
    for seed in range(40):
        rng = random.Random(seed)
        value, cost = FAMILIES["coverage"](rng, 9), {key: rng.randint(1, 9) for key in range(9)}
        found, _ = search(value, 9, budget=14, cost=cost, rule=rule, lazy=lazy)
        trace, points = found.trace, [each for each in found.plot().columns if each.value is not None]
        assert trace.query("picked")["candidate"].tolist() == found.keys
        assert [each.label for each in points] == [str(key) for key in found.keys]
        assert trace.query("picked")["value"].iloc[-1] == points[-1].value == found.picks["value"].iloc[-1]
        assert points[-1].value == found.value
        if "given_up" in trace:
            given_up += 1
            assert not trace.query("given_up")["picked"].any()
    assert given_up > 5


@pytest.mark.parametrize("rule", ["ratio", "both"])
def test_gain_per_cost_without_a_baseline_is_refused_before_anything_is_evaluated(rule):
    engine = Engine()
    stage = Greedy(Metric(sum), maximize=False, budget=2, cost={0: 1, 1: 1}, rule=rule)
    with pytest.raises(StageError, match=r"picks by gain per cost, and .* is not known: give it as baseline=, or rule"):
        engine.run(stage, candidates(2))
    assert engine.calls == []


def test_a_search_says_when_a_single_candidate_was_better_than_the_choice_of_the_rule():
    worth, cost = {0: 2, 1: 10}, {0: 1, 1: 10}
    found, _ = search(lambda keys: sum(worth[key] for key in keys), 2, budget=10, cost=cost)
    assert found.stopped == "no candidate fits what is left of budget=10, 9; 1 instead of 0 is better"
    assert found.trace[["candidate", "picked", "given_up"]].to_numpy().tolist() == [[0, False, True], [1, True, False]]


def test_what_costs_nothing_is_taken_first_by_ratio():
    assert search(sum, 4, budget=1, cost={0: 0, 1: 0, 2: 1, 3: 1})[0].keys == [1, 3, 0]


def test_three_tenths_are_three_times_one_tenth():
    assert len(search(sum, 4, budget=0.3, cost=dict.fromkeys(range(4), 0.1))[0].keys) == 3


# --- backward, beam and floating: their stops -----------------------------------------------------


def test_backward_takes_away_until_so_many_are_left_or_the_target_would_be_missed():
    assert search(sum, 5, picks=2, direction="backward")[0].keys == [3, 4]
    few = search(sum, 5, target=8, direction="backward")[0]
    assert (few.keys, few.value, few.stopped) == ([2, 3, 4], 9, "with fewer, target=8 is missed")
    assert search(sum, 5, min_gain=-1, direction="backward")[0].keys == [2, 3, 4]
    assert search(sum, 5, direction="backward", requires={4: 0}, picks=2)[0].keys == [0, 4]


def test_a_beam_and_floating_stop_at_the_target():
    assert search(sum, 6, target=9, beam=2)[0].keys == [5, 4]
    assert len(search(sum, 6, target=9, floating=True)[0].keys) == 2


# --- noise ----------------------------------------------------------------------------------------


def noisy(pset, system_kwargs, user_kwargs):
    keys = [*pset["picked"], pset["candidate"]]
    return {"sum": sum(keys) + random.Random(pset["replicate"]).gauss(0, 3) + random.Random(str(pset)).gauss(0, 0.1)}


def test_of_a_noisy_metric_the_better_half_goes_on_and_the_picks_are_evaluated_afresh():
    engine = Engine()
    found = engine.run(Greedy(noisy, picks=2, replicates=8), candidates(8)).shown
    assert found.keys == [7, 6]  # common random numbers: the weather is the same for all
    first_round = [call for call in engine.calls if not call["picked"] and call["replicate"] < 8]
    assert len(first_round) == 8 * 1 + 4 * 1 + 2 * 2 + 1 * 4  # of 8 x 8
    assert {call["replicate"] for call in engine.calls[-16:]} == set(range(8, 16))
    assert found.value == found.picks["sum_afresh"].iloc[-1] != found.picks["sum"].iloc[-1]
    assert sorted(found.trace.query("round == 1")["replicates"]) == [1, 1, 1, 1, 2, 2, 4, 8]
    assert (
        Engine(8, random.Random(3))
        .run(Greedy(noisy, picks=2, replicates=8), candidates(8))
        .shown.picks.equals(found.picks)
    )


def test_a_replicate_that_fails_makes_its_set_lose_or_ends_the_search():
    def lame(pset, system_kwargs, user_kwargs):
        return {"sum": pset["candidate"] / (pset["candidate"] != 3 or pset["replicate"] != 1)}

    found = Engine().run(Greedy(lame, picks=1, replicates=4), candidates(4)).shown
    assert found.keys == [2]
    assert found.missing[["candidate", "replicate", "_kind"]].to_numpy().tolist() == [[3, 1, "raised"]]
    strict = Engine().run(Greedy(lame, picks=1, replicates=4, on_failure="stop"), candidates(4)).shown
    assert (strict.keys, strict.stopped.partition(";")[0]) == ([], "1 of 4 sets have no value, and on_failure='stop'")


def test_lazy_on_a_noisy_metric_needs_to_be_told_the_noise():
    found = Engine().run(Greedy(noisy, picks=3, replicates=4, lazy=True, slack=1), candidates(8)).shown
    assert found.keys == [7, 6, 5]
    assert found.certificate.standing in ("assumed", "exact")


if __name__ == "__main__":
    print("\n".join([*map(line_of, KINDS), *map(line_of_budget, RULES)]))
