"""Line 6: how soon the first answer is there, and how soon a dead worker is replaced."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks import peers, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, Timings, interleave, show

PROGRAMS = Path(__file__).resolve().parent / "programs"
REFERENCE = "serial loop"
PROGRAM_FILES = {
    REFERENCE: "serial_loop.py",
    "Pool.map": "with_pool.py",
    "joblib": "with_joblib.py",
    OURS: "with_paramsurvey.py",
}


def startup(effort: Effort) -> list[Figure]:
    """Line 6, first half: fresh interpreters that survey two psets with two workers."""
    wanted = {name: file for name, file in PROGRAM_FILES.items() if peers.is_installed(name)}
    if peers.why_not_ours():
        del wanted[OURS]
    inside: dict[str, list[float]] = {name: [] for name in wanted}
    contenders: dict[str, Callable[[None], bool]] = {
        name: partial(_run, file, inside[name]) for name, file in wanted.items()
    }
    rounds = effort.choose(full=11, quick=3)
    for contender in contenders.values():  # so that no round has to write bytecode or read from a cold disk
        contender(None)
    for seconds in inside.values():
        seconds.clear()
    whole = interleave(contenders, rounds=rounds, given=lambda: None, check=bool)
    to_answer = Timings(inside)
    show("from the start of the interpreter to its end", whole)
    show("from the first import to the answers of two workers", to_answer)
    return [
        timings.figure(line=6, name=name, reference=REFERENCE, bound=1.3, others=list(PROGRAM_FILES))
        for name, timings in {
            "from `import` to the answers of two workers": to_answer,
            "the whole program, from its start to its end": whole,
        }.items()
    ]


def replacement(effort: Effort) -> list[Figure]:
    """Line 6, second half: from the death of a worker to the first pset in the process that replaces it."""
    rounds = effort.choose(full=9, quick=3)
    gaps = [] if peers.why_not_ours() else _replacement_gaps(rounds)
    if gaps:
        print(f"\n  a killed worker was replaced within {', '.join(f'{gap * 1e3:.1f}' for gap in gaps)} ms")
    return [
        Figure(
            line=6,
            name=f"a replaced worker runs a pset (median of {rounds})",
            value=statistics.median(gaps) * 1e3 if gaps else None,
            unit="ms",
            bound=Bound(limit=50),
            others={"slowest": max(gaps) * 1e3} if gaps else {},
        )
    ]


def _run(file: str, inside: list[float], _given: None) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAMS.parent.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has bytecode; a checkout has it after a round
    command = [sys.executable, str(PROGRAMS / file)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds, *answers = done.stdout.split()
    inside.append(float(seconds))
    return answers == ["11", "22"]


def _replacement_gaps(rounds: int) -> list[float]:
    with peers.ours() as our_map:
        return [_replacement_gap(our_map) for _ in range(rounds)]


def _replacement_gap(our_map: peers.Ours) -> float:
    psets = [{"number": number, "dies": number == 100} for number in range(400)]
    with tempfile.TemporaryDirectory() as folder:
        obituary = Path(folder, "obituary")
        table = our_map(workers.die_once, psets, user_kwargs={"obituary": str(obituary)})
        died = float(obituary.read_text())
    return _first_seen_after(table, died) - died


def _first_seen_after(table: pd.DataFrame, died: float) -> float:
    """Return when a process that had not answered before the death began its first pset."""
    first = table.groupby("process")["began"].min()
    return float(first[first > died].min())
