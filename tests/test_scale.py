"""What the driver does for a row does not depend on how many slots there are: steps are counted, not seconds.

The survey is that of ``benchmarks/scale.py``, smaller: the real loop and dispatcher, a fake backend, simulated time.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from counting import lines_run_in

import paramsurvey.engine.dispatcher

ROOT = Path(__file__).resolve().parents[1]
ENGINE = Path(paramsurvey.engine.dispatcher.__file__).parent  # of the one that is installed


@pytest.fixture
def simulate(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.scale import simulate

    return simulate


@pytest.mark.parametrize("group_size", [None, 3])
def test_the_work_for_a_row_does_not_grow_with_the_slots(group_size, simulate):
    rows = 6_000
    few, many = (lines_run_in(ENGINE, simulate, rows, slots, group_size=group_size) for slots in (10, 1_000))
    assert few > 10 * rows / (group_size or 1)  # it counts something
    assert many < 1.5 * few  # at the end, rows are taken back once from every slot


def test_every_row_is_computed_once_and_no_slot_has_two_chunks(simulate):
    outcome = simulate(5_000, 700)
    assert (outcome.finished, outcome.chunks, outcome.most_flights) == (5_000, 5_000, 700)
    assert outcome.busy > 0.8


def peak_of(function, *args, **kwargs):
    tracemalloc.start()
    try:
        function(*args, **kwargs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_the_driver_holds_grows_with_the_slots_and_not_with_the_rows(simulate):
    simulate(100, 10)  # what is made once
    short, long = (peak_of(simulate, rows, 200) for rows in (1_000, 6_000))
    assert long < 1.1 * short
    assert peak_of(simulate, 1_000, 400) < 2.5 * short
