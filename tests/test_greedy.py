"""Plain greedy search: what it picks and how often it asks, on problems whose answers are known from elsewhere."""

from __future__ import annotations

import random

import greedy_arrays
import pytest
from asked_by_hand import Engine
from greedy_workers import FAMILIES, Metric, Scored, textbook

from paramsurvey.errors import StageError
from paramsurvey.stages.greedy import Greedy
from paramsurvey.testing import StageContract


def candidates(keys):
    return [{"candidate": key} for key in (range(keys) if isinstance(keys, int) else keys)]


def search(value, keys, *, slots=1, start=None, **options):
    """Search, and return the results and the engine that has counted the calls."""
    engine = Engine(slots)
    worker = value if isinstance(value, Metric | Scored) else Metric(value)
    tables = [candidates(keys)] + ([] if start is None else [start])
    return engine.run(Greedy(worker, **options), *tables).shown, engine


# --- the picks of others --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("floats", [False, True])
def test_plain_greedy_picks_what_the_textbook_picks_with_as_many_evaluations(family, floats):
    for seed in range(20):
        value = FAMILIES[family](random.Random(seed), 12, floats=floats)
        found, engine = search(value, 12, picks=5)
        assert (found.keys, len(engine.calls)) == textbook(value, 12, 5)
        assert found.evaluations == len(engine.calls) == found.progress.finished
        assert found.value == value(found.keys)


def test_plain_greedy_picks_the_stations_that_the_textbook_picks_from_nothing():
    """The metric of a single station is nothing, so the first is the first that was declared."""
    names = list(greedy_arrays.stations())
    found, engine = search(greedy_arrays.filling, names, picks=6)
    picked, evaluated = textbook(lambda places: greedy_arrays.filling([names[each] for each in places]), len(names), 6)
    assert found.keys == [names[each] for each in picked]
    assert len(engine.calls) == evaluated
    assert found.picks["ties"].tolist()[0] == len(names)


def test_with_a_start_one_more_evaluation_is_the_baseline():
    base, others = greedy_arrays.base(), greedy_arrays.others()
    found, engine = search(greedy_arrays.filling, others, picks=4, start=candidates(base))

    def value(places):
        return greedy_arrays.filling([*base, *(others[each] for each in places)])

    picked, evaluated = textbook(value, len(others), 4)
    assert found.keys == [others[each] for each in picked]
    assert len(engine.calls) == evaluated + 1
    assert engine.calls[0] == {"candidate": base[-1], "picked": base[:-1]}
    assert found.picks["gain"].iloc[0] == found.picks["value"].iloc[0] - greedy_arrays.filling(base)


def selection_by_sklearn(data, model, **options):
    """Return data with a model that is to describe them, and which features scikit-learn selects; slow to import."""
    from sklearn import datasets, feature_selection, linear_model, naive_bayes

    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    model = {"linear": linear_model.LinearRegression, "naive Bayes": naive_bayes.GaussianNB}[model]()
    selector = feature_selection.SequentialFeatureSelector(model, **options).fit(x, y)
    return x, y, model, selector.get_support(indices=True).tolist()


@pytest.mark.parametrize(
    ("data", "model", "picks", "folds"), [("diabetes", "linear", 5, 5), ("breast_cancer", "naive Bayes", 3, 3)]
)
def test_features_are_those_that_scikit_learn_selects(data, model, picks, folds):
    x, y, model, selected = selection_by_sklearn(data, model, n_features_to_select=picks, cv=folds)
    found, engine = search(Scored(model, x, y, folds), x.shape[1], picks=picks, metric="score")
    assert sorted(found.keys) == selected
    assert len(engine.calls) == sum(x.shape[1] - each for each in range(picks))


def test_backward_features_are_those_that_scikit_learn_selects():
    options = {"n_features_to_select": 4, "cv": 3, "direction": "backward"}
    x, y, model, selected = selection_by_sklearn("diabetes", "linear", **options)
    found, engine = search(Scored(model, x, y, 3), x.shape[1], picks=4, metric="score", direction="backward")
    assert found.keys == selected
    assert len(engine.calls) == 1 + sum(range(5, 11))


# --- the contract with the worker -----------------------------------------------------------------


def test_a_worker_gets_the_columns_of_the_candidate_and_the_keys_of_the_picks_in_order():
    told = []

    def worker(pset, system_kwargs, user_kwargs):
        told.append(pset)
        return {"sees": pset["height"] + len(pset["existing_stations"])}

    rows = [{"station": "a", "height": 1}, {"station": "b", "height": 3}, {"station": "c", "height": 2}]
    stage = Greedy(worker, picks=3, candidate="station", picked="existing_stations")
    found = Engine().run(stage, rows).shown
    assert told[-1] == {"station": "a", "height": 1, "existing_stations": ["b", "c"]}
    assert found.picks.columns.tolist() == [
        "round", "station", "height", "sees", "gain", "ties", "runner_up", "margin", "evaluations"
    ]  # fmt: skip
    assert found.picks["station"].tolist() == ["b", "c", "a"]


def test_a_set_is_evaluated_once_and_an_order_is_if_order_matters():
    value = FAMILIES["coverage"](random.Random(1), 6)
    _, engine = search(value, 6, beam=3, picks=3)
    assert len({frozenset([*call["picked"], call["candidate"]]) for call in engine.calls}) == len(engine.calls)
    ordered, engine = search(
        lambda keys: sum(key * place for place, key in enumerate(keys)), 4, beam=6, picks=2, ordered=True
    )
    assert len(engine.calls) == 4 + 12
    assert ordered.keys == [0, 3]


def test_what_the_metric_is_need_not_be_said_if_there_is_one_answer():
    found, _ = search(Metric(sum, "total"), 4, picks=1)
    assert found.picks["total"].tolist() == [3]
    with pytest.raises(StageError, match=r"the answers have the keys 'a', 'b': say which .* with metric="):
        Engine().run(Greedy(lambda pset, system, user: {"a": 1, "b": 2}, picks=1), candidates(2))


def test_less_is_better_if_that_is_wanted():
    found, _ = search(lambda keys: sum(keys) + 10, 5, picks=2, maximize=False)
    assert found.keys == [0, 1]
    assert found.value == 11
    assert found.picks["value"].tolist() == [10, 11]
    assert found.picks["gain"].tolist()[1] == -1  # what is better is positive
    known, _ = search(lambda keys: sum(keys) + 10, 5, picks=1, maximize=False, baseline=12)
    assert known.picks["gain"].tolist() == [2]


def test_where_metrics_are_equal_the_next_one_decides():
    def worker(pset, system_kwargs, user_kwargs):
        return {"seen": min(pset["candidate"], 2), "price": pset["candidate"]}

    stage = Greedy(worker, picks=1, metric=["seen", "price"], maximize=[True, False])
    found = Engine().run(stage, candidates(5)).shown
    assert found.keys == [2]
    assert found.value == (2, 2)


# --- ties -----------------------------------------------------------------------------------------


def test_of_equals_the_first_wins_or_one_by_chance_or_all():
    def value(keys):
        return len({key // 3 for key in keys})

    assert search(value, 6, picks=2)[0].keys == [0, 3]
    assert (
        search(value, 6, picks=2, ties="random", seed=3)[0].keys
        == search(value, 6, picks=2, ties="random", seed=3)[0].keys
    )
    assert len({search(value, 6, picks=1, ties="random", seed=seed)[0].keys[0] for seed in range(20)}) > 2
    everybody, engine = search(value, 6, picks=2, ties="all")
    assert everybody.keys == [0, 1, 2, 3, 4, 5]
    assert everybody.picks["ties"].tolist() == [6] * 6
    assert len(engine.calls) == 6 + 1  # and what they are worth together
    assert everybody.value == 2


def test_an_empty_answer_is_a_set_without_a_value_also_if_it_comes_first():
    def heard(pset, system_kwargs, user_kwargs):
        return {"heard": pset["candidate"]} if pset["candidate"] else None

    found = Engine().run(Greedy(heard, picks=2), candidates(3)).shown
    assert (found.keys, found.missing["_exception"].tolist()) == ([2, 1], ["its answer is empty"] * 2)
    found = Engine().run(Greedy(heard, picks=1), candidates(1)).shown
    assert found.stopped == "the only set of the round has no value: no value: its answer is empty"


def test_of_pairs_that_tie_nobody_is_picked_twice():
    found, _ = search(len, 4, first=2, ties="all", picks=3)
    assert found.keys == [0, 1, 2, 3]
    assert found.value == 4
    assert found.picks["runner_up"].isna().all()


def test_of_those_that_tie_but_cannot_be_together_trace_and_plot_have_the_ones_that_were_picked():
    found, _ = search(len, 4, ties="all", picks=3, conflicts=[[0, 1]])
    assert found.keys == found.trace.query("picked")["candidate"].tolist() == [0, 2, 3]
    [column] = found.plot().columns
    assert (column.label, column.value) == ("0 (+2)", found.value)


def test_from_nothing_all_stations_tie_which_is_why_all_is_a_trap():
    names = list(greedy_arrays.stations())
    found, _ = search(greedy_arrays.filling, names, picks=8, ties="all")
    assert len(found.keys) == len(names)


# --- stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "picks", "stopped"),
    [
        ({"picks": 3}, 3, "picks=3 reached"),
        ({"target": 9}, 2, "target=9 reached"),
        ({"min_gain": 3.5}, 2, "the best gain, 3, is below min_gain=3.5"),
        ({"max_evaluations": 11}, 2, "the next round could need 4 evaluations, and max_evaluations=11 leaves 0"),
        ({"max_evaluations": 14}, 2, "the next round could need 4 evaluations, and max_evaluations=14 leaves 3"),
        ({}, 6, "no candidates are left"),
        ({"exclude": [5, 4]}, 4, "no candidates are left"),
        ({"budget": 7, "cost": {key: key for key in range(6)}, "rule": "gain"}, 3,
         "no candidate fits what is left of budget=7, 0"),
        ({"conflicts": [[1, 2, 3, 4, 5], [0, 5]]}, 1, "no candidate is left that conflicts= and requires= allow"),
    ],
)  # fmt: skip
def test_a_search_says_why_it_has_stopped(options, picks, stopped):
    found, _ = search(sum, 6, **options)
    assert (len(found.keys), found.stopped) == (picks, stopped)


def test_candidates_that_no_longer_fit_are_left_out_and_no_reason_to_stop():
    found, _ = search(sum, 6, budget=6, cost={0: 1, 1: 1, 2: 9, 3: 9, 4: 2, 5: 4}, rule="gain")
    assert found.keys == [5, 4]
    assert found.picks[["cost", "total_cost"]].to_numpy().tolist() == [[4, 4], [2, 6]]


def test_there_may_be_no_candidates_or_only_such_as_are_in_already():
    nobody, engine = search(sum, 0, picks=3)
    assert (nobody.keys, nobody.value, nobody.stopped) == ([], 0, "no candidates are left")
    assert nobody.picks.columns.tolist()[0] == "round"
    everybody, engine = search(sum, 3, picks=3, start=candidates(3))
    assert (everybody.keys, everybody.value, len(engine.calls)) == ([], 3, 1)
    assert len(everybody.trace) == 0


# --- constraints ----------------------------------------------------------------------------------


def test_who_is_excluded_in_conflict_or_lacks_what_it_requires_is_not_evaluated():
    found, engine = search(sum, 6, picks=3, exclude=[5], conflicts=[(4, 3)], requires={2: [0]})
    assert found.keys == [4, 1, 0]
    assert not any(5 in [*call["picked"], call["candidate"]] for call in engine.calls)
    assert search(sum, 6, picks=4, exclude=[5], conflicts=[(4, 3)], requires={2: [0]})[0].keys == [4, 1, 0, 2]


def test_what_is_in_from_the_start_counts_for_conflicts_and_requirements():
    assert search(sum, 4, picks=1, start=[{"candidate": 3}], conflicts=[(3, 2)])[0].keys == [1]
    assert search(sum, 4, picks=1, start=[{"candidate": 7}], requires={3: 7}, baseline=0)[0].keys == [3]


# --- failures -------------------------------------------------------------------------------------


def lame(pset, system_kwargs, user_kwargs):
    keys = [*pset["picked"], pset["candidate"]]
    if keys == [3] or keys == [2, 0]:
        raise ValueError(f"no {keys}")
    return {"total": sum(keys)}


def test_a_set_that_failed_cannot_win_and_its_candidate_returns_in_the_next_round():
    found = Engine().run(Greedy(lame, picks=3), candidates(4)).shown
    assert found.keys == [2, 3, 1]
    assert found.missing.drop(columns=["_traceback", "_attempts"]).to_dict("records") == [
        {"candidate": 3, "picked": [], "_kind": "raised", "_exception": "ValueError('no [3]')"},
        {"candidate": 0, "picked": [2], "_kind": "raised", "_exception": "ValueError('no [2, 0]')"},
    ]
    assert found.trace.query("status == 'failed'")[["round", "candidate"]].to_numpy().tolist() == [[1, 3], [2, 0]]
    assert (found.progress.failures, found.progress.exceptions) == (2, 2)


def test_a_search_stops_at_the_first_failure_if_that_is_wanted_and_when_all_have_failed():
    strict = Engine().run(Greedy(lame, picks=3, on_failure="stop"), candidates(4)).shown
    assert strict.keys == []
    assert strict.stopped == "1 of 4 sets have no value, and on_failure='stop'; the first: raised: ValueError('no [3]')"

    def broken(pset, system_kwargs, user_kwargs):
        raise OSError("down")

    found = Engine().run(Greedy(broken, picks=3), candidates(2)).shown
    assert (found.keys, found.stopped) == (
        [],
        "none of the 2 sets of the round has a value; the first: raised: OSError('down')",
    )


@pytest.mark.parametrize("bad", [float("nan"), None, "high", [1, 2], 1j])
def test_a_metric_that_is_no_number_cannot_win(bad):
    found, _ = search(Metric(lambda keys: bad if keys == [2] else sum(keys)), 3, picks=1)
    assert found.keys == [1]
    assert found.missing["_kind"].tolist() == ["no value"]
    assert "is no number to compare" in found.missing["_exception"].iloc[0]


def test_a_set_without_the_metric_cannot_win_but_if_none_has_it_it_is_misspelt():
    def worker(pset, system_kwargs, user_kwargs):
        return {"area": pset["candidate"]} if pset["candidate"] < 2 else {}

    found = Engine().run(Greedy(worker, picks=1, metric="area"), candidates(3)).shown
    assert found.keys == [1]
    assert found.missing["_exception"].tolist() == ["its answer has no 'area'; it has: none"]
    with pytest.raises(StageError, match=r"no answer has the metric 'aera'; did you mean 'area'\?"):
        Engine().run(Greedy(worker, picks=1, metric="aera"), candidates(2))


def test_a_set_without_the_metric_is_no_misspelling_once_another_had_it():
    def worker(pset, system_kwargs, user_kwargs):
        keys = [*pset["picked"], pset["candidate"]]
        return {"other": 1} if len(keys) == 2 and 2 in keys else {"total": len(set(keys))}

    for options in ({}, {"lazy": True}):
        found = Engine().run(Greedy(worker, picks=3, metric="total", **options), candidates(4)).shown
        assert found.keys == [0, 1, 2]


def test_infinite_metrics_are_numbers():
    found, _ = search(lambda keys: float("inf") if 1 in keys else -float("inf"), 3, picks=2)
    assert found.keys == [1, 0]
    assert found.picks["gain"].tolist() == [float("inf"), 0]


class TestGreedyAsAStage(StageContract):
    bystander = None

    def make_stage(self):
        return Greedy(Metric(sum), picks=2)

    def examples(self):
        return [candidates(4), (candidates(4), candidates([7]))]


class TestLazyAsAStage(TestGreedyAsAStage):
    def make_stage(self):
        return Greedy(Metric(FAMILIES["coverage"](random.Random(1), 9)), picks=4, lazy=True)

    def examples(self):
        return [candidates(8), (candidates(7), candidates([8]))]
