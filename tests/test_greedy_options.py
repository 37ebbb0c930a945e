"""What a greedy search refuses when it is made, and what when it sees its candidates."""

from __future__ import annotations

import pandas as pd
import pytest
from asked_by_hand import Engine
from greedy_workers import Metric

from paramsurvey.errors import OptionError, StageError, WorkerError
from paramsurvey.stages.base import Columns
from paramsurvey.stages.greedy import CONTRADICTIONS, Greedy
from paramsurvey.tables import table_of

WORKER = Metric(sum)
LAZY = {"lazy": True, "picks": 2}
BUDGET = {"budget": 3, "cost": "cost"}

REFUSED = [
    ({"metric": ["a", "b"], "maximize": [True]}, "metric=('a', 'b'), maximize=(True,)): there must be one direction"),
    ({"candidate": "x", "picked": "x"}, "candidate='x', picked='x', replicate='replicate'): workers are told these in"),
    ({"metric": "gain"}, "metric=('gain',)): picks or trace have a column of that name"),
    (
        {**LAZY, "beam": 2},
        "lazy=True, beam=2): lazy search spares what cannot be the best",
    ),
    ({**LAZY, "direction": "backward"}, "the bounds of lazy search are for sets that grow"),
    ({**LAZY, "floating": True}, "floating search also makes sets smaller"),
    ({**LAZY, "ordered": True}, "that gains fall as a set grows is said of sets, not of orders"),
    ({"lazy": True}, "until nobody is left, everybody is evaluated, so there is nothing to spare: give picks="),
    ({**LAZY, "replicates": 3}, "lazy=True, replicates=3): noise makes gains rise by chance: say with slack="),
    ({"on_violation": "warn"}, "it says what happens when lazy search sees a gain rise: give lazy=True"),
    ({"gain_rise": 1}, "gain_rise=1): it is for the bounds of lazy search: give lazy=True"),
    ({"slack": 0.1}, "slack=0.1): it is for the bounds of lazy search: give lazy=True"),
    ({"cost": "price"}, "cost='price'): costs count only against a budget: give budget="),
    ({"budget": 3}, "budget=3): nothing costs anything: say what candidates cost with cost="),
    ({"rule": "gain"}, "rule='gain'): it says how a budget is spent"),
    ({**BUDGET, "beam": 2}, "a beam compares sets of one size"),
    ({**BUDGET, "floating": True}, "floating search compares sets of one size"),
    ({**BUDGET, "direction": "backward"}, "backward search begins with all candidates, which it could not pay for"),
    (
        {"ties": "all", "beam": 2},
        "a beam keeps sets of one size side by side, and all that tie make sets of many sizes",
    ),
    ({"ties": "all", "floating": True}, "floating search goes up one by one"),
    ({"ties": "all", "direction": "backward"}, "taking away all that tie could leave nothing"),
    ({"seed": 3}, "seed=3, ties='first'): only ties='random' needs a seed"),
    ({"floating": True, "beam": 2}, "floating search follows one set up and down, and a beam several upwards"),
    ({"direction": "backward", "beam": 2}, "a beam only goes forward"),
    ({"direction": "backward", "floating": True}, "floating search goes forward with steps back"),
    ({"direction": "backward", "first": 2}, "backward search begins with all candidates, not with a pair"),
    ({"direction": "backward", "conflicts": [(1, 2)]}, "also those in conflict"),
    ({"first": 3}, "first=3): the first pick is one candidate or a pair: give 1 or 2"),
    ({"first": 2, "picks": 1}, "first=2, picks=1): a pair is two picks"),
    ({"ordered": True, "polish": "swap"}, "only a search that adds one by one knows in which order"),
    ({"max_evaluations": 3, "replicates": 5}, "not one set could be evaluated"),
    ({"replicates": 2, "options": {"seed_by": "x"}}, "all sets of one replicate have one seed"),
    ({"start": [1], "exclude": [1]}, "somebody is in from the start and must not be picked"),
    ({"requires": {1: 2}, "exclude": [2]}, "somebody requires who must not be picked"),
    ({"requires": {1: 2}, "conflicts": [(2, 1)]}, "somebody requires whom it is in conflict with"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[" ".join(map(str, options)) for options, _ in REFUSED])
def test_what_cannot_be_wanted_together_is_refused_with_the_reason(options, message):
    with pytest.raises(OptionError) as caught:
        Greedy(WORKER, **options)
    assert message in str(caught.value)
    assert str(caught.value).startswith("Greedy(")


def test_every_contradiction_has_an_example_above():
    reasons = set()
    for options, _ in REFUSED:
        with pytest.raises(OptionError) as caught:
            Greedy(WORKER, **options)
        reasons.add(str(caught.value).partition("): ")[2])
    assert {reason for _, _, reason in CONTRADICTIONS} - reasons == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"picks": 0}, "picks must be a whole number, 1 or more"),
        ({"picks": True}, "picks must be a whole number"),
        ({"beam": 1.5}, "beam must be a whole number, 1 or more"),
        ({"direction": "backwards"}, "did you mean 'backward'?"),
        ({"ties": "last"}, "there are: 'first', 'random', 'all'"),
        ({"polish": "shine"}, "there are: 'swap'"),
        ({"target": "high"}, "target must be a number"),
        ({"target": float("nan")}, "target must be a number"),
        ({"budget": -1}, "budget must be a number, 0 or more"),
        ({"lazy": 1}, "lazy must be True or False"),
        ({"maximize": "yes"}, "maximize must be True or False, or one of them for each metric"),
        ({"metric": ["a", "a"]}, "metric must be a key of the answers, or a list of different ones"),
        ({"start": "abc"}, "start must be a list of keys of candidates"),
        ({"start": [[1]]}, "[1] is no key, which is hashable"),
        ({"conflicts": [(1, 1)]}, "the group (1, 1) needs two different keys"),
        ({"conflicts": 3}, "conflicts must be a list of pairs or groups"),
        ({"requires": [1]}, "requires must be a mapping"),
        ({"requires": {1: 2, 2: 3, 3: 1}}, "none of these could ever be the first"),
        ({"candidate": "_kind"}, "candidate must be the name of a column"),
        ({"gain_rise": -1}, "gain_rise must be a number, 0 or more"),
        ({"options": 3}, "options must be a dict"),
        ({"options": {"timeoot": 3}}, "has no option 'timeoot'; did you mean 'timeout'?"),
        ({"name": ""}, "name must be a str"),
    ],
)
def test_what_is_impossible_is_refused_with_what_is_wanted(options, message):
    with pytest.raises(OptionError) as caught:
        Greedy(WORKER, **options)
    assert message in str(caught.value)


def test_what_cannot_be_called_as_a_worker_is_refused():
    with pytest.raises(WorkerError):
        Greedy(lambda pset: {}, picks=1)


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        (
            {},
            [{"a": 1, "b": 2}],
            "candidates have the columns 'a', 'b', and none is called 'candidate': .* key=",
        ),
        ({"key": "c"}, [{"a": 1}], "by the column 'c' \\(key=\\), which they do not have; they have: 'a'"),
        ({}, [{"candidate": 1}, {"candidate": 1}], "candidates 0 and 1 have the same key 1"),
        ({}, [{"candidate": 1}, {"candidate": None}], "candidate 1 has no key in the column 'candidate'"),
        ({}, [{"candidate": float("nan")}], "candidate 0 has no key"),
        ({}, [{"candidate": [1]}], "candidate 0 has \\[1\\] in its column of keys 'candidate', a list"),
        ({"exclude": ["on"]}, [{"candidate": "one"}], "exclude names 'on', which is no candidate; did you mean 'one'"),
        ({"requires": {"x": "one"}}, [{"candidate": "one"}], "requires names 'x', which is no candidate"),
        ({"conflicts": [("one", "x")]}, [{"candidate": "one"}], "conflicts names 'x', which is no candidate"),
        (
            {"start": [1, 2], "conflicts": [(1, 2)]},
            [{"candidate": 1}, {"candidate": 2}],
            "start has 1 and 2, which are in conflict",
        ),
        ({"start": [1, 1]}, [{"candidate": 1}], "start has 1 twice"),
        (
            {"start": ["one", "tow"]},
            [{"candidate": "one"}, {"candidate": "two"}],
            r"start names 'tow', which is no candidate \(did you mean 'two'\?\): have it among the candidates, too, or",
        ),
        (
            {"budget": 1, "cost": "prise"},
            [{"candidate": 1, "price": 2}],
            r"candidates cost in the column 'prise' \(cost=\), which they do not have; did you mean 'price'\?",
        ),
        (
            {"metric": ["seen", "height"]},
            [{"candidate": 1, "height": 2}],
            "its metric 'height' in the answers, and candidates have a column of that name: rename theirs, or have",
        ),
        ({}, [{"candidate": 1, "picked": 2}], "tells workers its choice in the column 'picked', which candidates have"),
        ({}, [{"candidate": 1, "margin": 2}], "makes the column 'margin', which candidates have already"),
        ({**BUDGET}, [{"candidate": 1, "cost": -1}], "the cost of 1 is -1 .* it is a number, at least 0"),
        ({"budget": 1, "cost": {}}, [{"candidate": 1}], "the cost of 1 is None"),
        ({**BUDGET, "maximize": False}, [{"candidate": 1, "cost": 1}], "the metric without any pick is not known"),
    ],
)
def test_candidates_that_cannot_be_searched_are_refused(options, rows, message):
    with pytest.raises(StageError, match=message):
        Engine().run(Greedy(WORKER, **options), rows)


def test_columns_are_told_before_anything_runs():
    given = Columns(("station", "height"), open=False)
    stage = Greedy(WORKER, picks=1, metric="seen", key="station")
    assert stage.columns(given) == Columns(
        ("round", "station", "height", "seen", "gain", "ties", "runner_up", "margin", "evaluations"), open=False
    )
    with pytest.raises(StageError, match="say which tells them apart with key="):
        Greedy(WORKER, picks=1).columns(given)
    with pytest.raises(StageError, match="in the column 'price' \\(cost=\\), which they do not have"):
        Greedy(WORKER, budget=1, cost="price", key="station").columns(given)
    with pytest.raises(StageError, match="its metric 'height' in the answers, and candidates have a column"):
        Greedy(WORKER, picks=1, metric="height", key="station").columns(given)


def test_candidates_may_be_names_dicts_or_a_table():
    stage = Greedy(WORKER, picks=1)
    assert stage.psets_of(["a", "b"]) == [{"candidate": "a"}, {"candidate": "b"}]
    assert stage.psets_of(iter([{"candidate": 1}])) == [{"candidate": 1}]
    frame = pd.DataFrame({"candidate": [1]})
    assert stage.psets_of(frame) is frame
    assert table_of(Greedy(WORKER, picks=1, key="site").psets_of(["a"])).keys == ("site",)
    for wrong in ("abc", {"a": 1}, 3):
        with pytest.raises(OptionError, match="give a list of names, a list of dicts, or a DataFrame"):
            stage.psets_of(wrong)


def test_keys_of_candidates_may_be_in_the_index_of_their_frame():
    sites = pd.DataFrame({"height": [1, 2]}, index=pd.Index(["a", "b"], name="site"))
    by_site = Greedy(WORKER, key="site", picks=1).psets_of(sites)
    assert by_site.to_dict("list") == {"site": ["a", "b"], "height": [1, 2]}
    assert Greedy(WORKER, candidate="site", picks=1).psets_of(sites).equals(by_site)
    assert Greedy(WORKER, key="height", picks=1).psets_of(sites) is sites
    wanted = r"no column 'candidate', and an index 'site': say which tells them apart, key='site' or a column"
    with pytest.raises(OptionError, match=wanted):
        Greedy(WORKER, picks=1).psets_of(sites)


def test_the_only_key_of_the_answers_cannot_be_called_like_a_column_of_the_picks():
    with pytest.raises(OptionError, match="picks or trace have a column of that name, for something else"):
        Engine().run(Greedy(Metric(sum, "gain"), picks=1), [{"candidate": 1}])
