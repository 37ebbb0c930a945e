"""Drivers that are ended by INT, TERM and KILL at random moments: what was finished stays, and comes out right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import unmeasured

DRIVERS = Path(__file__).parent / "journal_drivers.py"
SLOTS = {"serial": 1, "multiprocessing": 2}


@pytest.mark.parametrize("what", ["two_stages", "greedy"])
@pytest.mark.parametrize(("backend", "kills"), [("serial", 220), ("multiprocessing", 80)])
def test_a_driver_may_be_killed_at_any_moment(tmp_path, what, backend, kills):
    """At 300 moments of each: the table is that of an uninterrupted run, every row is recorded once, a kill costs no
    more than each slot was at, which is one row here, and nothing else is computed again. No process is left: else the
    drivers' parent would wait for ever.
    """
    done = subprocess.run(
        [sys.executable, DRIVERS, tmp_path, backend, what, str(kills), "1"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
        env=unmeasured(PYTHONPATH=os.pathsep.join([str(DRIVERS.parent), *filter(None, sys.path)])),
    )
    found = json.loads(done.stdout)
    assert sum(len(survey["kills"]) for survey in found["surveys"]) >= kills
    for survey in found["surveys"]:
        assert survey["answer"] == found["whole"]
        assert survey["recorded"] == survey["calls"]
        for kill in survey["kills"]:
            assert kill["lost"] <= SLOTS[backend]
            assert kill["again"] <= kill["open"]
