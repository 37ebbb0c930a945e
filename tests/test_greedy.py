"""Plain greedy search: what it picks, why it stops, and what it says of that."""

from __future__ import annotations

import random

import pytest
from asked_by_hand import Engine
from greedy_workers import FAMILIES, Metric, textbook

from paramsurvey.stages.greedy import Greedy


def candidates(count):
    return [{"candidate": key} for key in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("floats", [False, True])
def test_plain_greedy_picks_what_the_textbook_picks_with_as_many_evaluations(family, floats):
    for seed in range(20):
        value = FAMILIES[family](random.Random(seed), 12, floats=floats)
        engine = Engine()
        made = engine.run(Greedy(Metric(value), picks=5), candidates(12))
        picked, evaluated = textbook(value, 12, 5)
        assert list(made.table.column("candidate")) == picked
        assert len(engine.calls) == evaluated
