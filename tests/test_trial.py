"""Functions of columns that look at more than a row are seen, and no others."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from pipeline_workers import square

from paramsurvey import Pipeline
from paramsurvey.errors import StageError, StageFailed
from paramsurvey.stages.rows import Derive, Product, Where
from paramsurvey.stages.trial import MOST_ROWS, REPEATS, Trial
from paramsurvey.tables import table_of

pytestmark = pytest.mark.usefixtures("own_folder")

LOOK_AROUND = {
    "mean": lambda n: n - n.mean(),
    "total": lambda n: n / np.sum(n.to_numpy() + 1),
    "cumulated": lambda n: n.cumsum(),
    "rank": lambda n: n.rank(),
    "neighbour": lambda n: n.shift(1),
    "number": lambda n: np.arange(len(n)),
    "index": lambda n: n.index,
    "bins": lambda n: pd.cut(n, 3, labels=False),
    "codes": lambda n: n.astype(str).astype("category").cat.codes,
    "one noise for every slice": lambda n: np.random.default_rng(0).normal(size=len(n)),
    "type of the first": lambda n: np.vectorize(lambda each: each if each == 0 else each + 0.5)(n),
    "in an expression": "n / np.linalg.norm(n + 1)",
    "first": "n - n.iloc[0]",
}
COUNTER = itertools.count()
NOISE = np.random.default_rng(1)
DO_NOT = {
    "arithmetic": lambda n: n**2 + 1,
    "expression": "np.sqrt(n)",
    "holes": lambda n: n.where(n > 3),
    "texts": lambda n: np.where(n > 3, "large", "small"),
    "constant": lambda n: [7] * len(n),
    "lists": lambda n: [[each] for each in n],
    "objects": lambda n: [object() for _ in n],
    "a number for each call": lambda n: [next(COUNTER) for _ in n],
    "noise": lambda n: n + NOISE.normal(size=len(n)),
    "coin": lambda n: NOISE.random(len(n)) < 0.5,
    "one bit of noise": lambda n: (n == 1) & (NOISE.random(len(n)) < 0.5),
    "rare noise": lambda n: NOISE.random(len(n)) < 0.02,
    "last bits": lambda n: n * (1 + len(n) * 1e-4),
    "not for one": lambda n: np.gradient(n.to_numpy(dtype=float)) if len(n) < 2 else n * 2,
}


def numbers(count, start=0):
    return table_of([{"n": n} for n in range(start, start + count)])


def tried(stage, *tables):
    trial = Trial(stage)
    return [trial.goes_on(table) for table in tables]


@pytest.mark.parametrize("function", LOOK_AROUND.values(), ids=LOOK_AROUND)
def test_what_looks_at_other_rows_is_refused_however_few_come_at_once(function):
    stage = Derive({"x": function})
    assert stage.looks_around
    with pytest.raises(StageError, match=r"^stage 'derive', column 'x': for the row .* depending on which others"):
        tried(stage, numbers(40))
    with pytest.raises(StageError):
        tried(stage, *(numbers(1, start) for start in range(MOST_ROWS)))


@pytest.mark.parametrize("function", DO_NOT.values(), ids=DO_NOT)
def test_what_looks_at_its_row_or_at_nothing_is_not_refused(function):
    for _ in range(20):
        assert tried(Derive({"x": function}), numbers(40)) == [False]
        tried(Derive({"x": function}), *(numbers(1, start) for start in range(MOST_ROWS)))


def test_a_condition_that_looks_at_other_rows_is_refused():
    message = (
        "stage 'where', the row {'n': 4} is kept or not, depending on which others are computed with it; rows come in "
        "slices that are cut as it happens: .apply(function) is for what needs the whole table, such as a mean, a rank "
        "or a number for each row"
    )
    with pytest.raises(StageError, match="^" + re.escape(message) + "$"):
        tried(Where(lambda n: n > n.mean()), numbers(16))
    assert tried(Where(lambda n: n > 3), numbers(16)) == [False]
    assert tried(Where(lambda n: NOISE.random(len(n)) < 0.5), numbers(16)) == [False]


def test_it_takes_few_rows_and_few_calls():
    calls = []

    def noted(n):
        calls.append(len(n))
        return n * 2

    assert tried(Derive({"x": noted}), numbers(1), numbers(1), numbers(100)) == [True, True, False]
    assert calls == [2, 1, 1, 16, 8, 8]


def test_what_is_not_the_same_again_at_last_is_put_down_to_chance():
    for changes_at in (REPEATS - 1, REPEATS + 5):
        calls = itertools.count()

        def late(n, calls=calls, changes_at=changes_at):
            return np.arange(len(n)) + 100 * (next(calls) // 3 >= changes_at)

        if changes_at < REPEATS:
            assert tried(Derive({"x": late}), numbers(16)) == [False]
        else:
            with pytest.raises(StageError):
                tried(Derive({"x": late}), numbers(16))


def test_only_functions_of_columns_are_tried_out():
    assert not Derive({"x": lambda n: n}, per_row=True).looks_around
    assert not Derive({"x": "n * 2 + 1"}).looks_around
    assert not Where({"n": [1]}).looks_around
    assert not hasattr(Product({"x": [1]}), "looks_around")
    assert Derive({"x": "n * 2", "y": lambda x: x}).looks_around


def test_a_run_refuses_it_with_what_is_finished(session):
    psets = [{"n": n} for n in range(20)]
    for group_size in (None, 1):
        pipeline = Pipeline().map(square, group_size=group_size).derive(x=lambda square: square - square.mean())
        with pytest.raises(StageFailed, match=r"^stage 'derive', column 'x': for the row ") as caught:
            session.run(pipeline, psets)
        assert len(caught.value.results["square"]) > 1
    assert len(session.run(Pipeline().map(square).derive(x=lambda square: square + 1), psets).results) == 20


def test_random_numbers_of_the_first_rows_are_what_they_would_be_without_a_trial(session):
    noise, same = np.random.default_rng(3), np.random.default_rng(3)
    run = session.run(Pipeline().derive(x=lambda n: noise.normal(size=len(n))), [{"n": n} for n in range(50)])
    assert run.results["x"].tolist() == same.normal(size=50).tolist()
