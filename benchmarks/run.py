"""Run the benchmarks: ``python benchmarks/run.py [--quick|--rehearsal] [--only NAME]... [--markdown FILE] [--strict]``.

Each benchmark runs in an interpreter of its own, so that none finds the processes, threads or the heap of another; in a
rehearsal, which measures nothing, all run in one.
"""

# ruff: noqa: E402 - our own modules can be imported only when the folder above this one is on the path
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that workers, too, find these modules as `benchmarks.…`

from benchmarks import peers
from benchmarks.balance import balance
from benchmarks.figures import RATIO, Bound, Effort, Figure
from benchmarks.greedy import greedy
from benchmarks.journal import journal
from benchmarks.large import answers, constants
from benchmarks.memory import memory
from benchmarks.mpi import launcher, mpi
from benchmarks.on_ray import has_ray, on_ray
from benchmarks.pipelines import chained, graphs, straggler, stream
from benchmarks.safety import safety
from benchmarks.scale import scale
from benchmarks.startup import replacement, startup
from benchmarks.throughput import single, throughput

BENCHMARKS: dict[str, Callable[[Effort], list[Figure]]] = {
    "throughput": throughput,
    "memory": memory,
    "single": single,
    "balance": balance,
    "answers": answers,
    "constants": constants,
    "startup": startup,
    "replacement": replacement,
    "safety": safety,
    "straggler": straggler,
    "stream": stream,
    "chained": chained,
    "graphs": graphs,
    "scale": scale,
    **({"mpi": mpi} if launcher() else {}),
    **({"on_ray": on_ray} if has_ray() else {}),
    "greedy": greedy,
    "journal": journal,
}
LIBRARIES = ("paramsurvey", "pandas", "numpy", "joblib", "loky", "mpire")
HEADER = "| | measured | paramsurvey | bound | | beside it |\n|---|---|---|---|---|---|"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for.

    The exit code is 0, or 2 if a benchmark crashed, or 1 if ``--strict`` was given and a bound is not met.
    """
    options = _parser().parse_args(arguments)
    effort = Effort(options.effort)
    if options.figures:
        _run_here(options.only, effort, options.figures)
        return 0
    began = time.monotonic()
    print("\n".join(machine_facts()), flush=True)
    names = [name for name in BENCHMARKS if name in (options.only or BENCHMARKS)]
    together = [names] if effort is Effort.REHEARSAL else [[name] for name in names]
    outcomes = {", ".join(names): _run_apart(names, effort) for names in together}
    figures = [figure for outcome in outcomes.values() for figure in outcome or ()]
    crashed = [names for names, outcome in outcomes.items() if outcome is None]
    if effort is Effort.REHEARSAL:
        print(f"\nof {len(names)} benchmarks, {'not all' if crashed else 'all'} run; what they took says nothing")
    else:
        _report(figures, crashed, time.monotonic() - began)
    if options.markdown:
        options.markdown.write_text(markdown(figures))
    return 2 if crashed else int(options.strict and not all(figure.is_met for figure in figures))


def machine_facts() -> list[str]:
    """Say on what was measured."""
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"{platform.system()} on {platform.machine()}, {usable} cores, {peers.WORKERS} workers",
        f"Python {platform.python_version()}, {versions}",
        *filter(None, [peers.why_not_ours()]),
    ]


def markdown(figures: Iterable[Figure]) -> str:
    """Return the figures as a table for the README: ratios, and units only where the bounds are in units."""
    rows = [
        f"| {figure.line} | {_subject(figure)} | {_measured(figure)} | {_bound(figure)} | {figure.verdict} "
        f"| {_others(figure)} |"
        for figure in sorted(figures, key=lambda figure: figure.line)
    ]
    facts = "; ".join(machine_facts())
    return "\n".join([HEADER, *rows, "", f"Measured on: {facts}.", ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare paramsurvey with what else there is.")
    parser.set_defaults(effort=Effort.FULL.value)
    for effort, told in (
        (Effort.QUICK, "smaller surveys and fewer rounds: about a minute"),
        (Effort.REHEARSAL, "tiny surveys, one round, only to see whether all of it runs: a quarter of a minute"),
    ):
        parser.add_argument(f"--{effort.value}", action="store_const", dest="effort", const=effort.value, help=told)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for the README there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bound is not met")
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)  # where a benchmark that runs apart leaves them
    return parser


def _run_apart(names: Sequence[str], effort: Effort) -> list[Figure] | None:
    """Run benchmarks in a fresh interpreter and folder; None if one crashed."""
    for name in names:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        # Python 3.12 warns of every fork beside a thread, which peers do by default
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(ROOT / "benchmarks" / "run.py")]
        command += [f"--only={name}" for name in names] + ["--figures", str(file)]
        command += [] if effort is Effort.FULL else [f"--{effort.value}"]
        done = subprocess.run(command, cwd=folder, check=False)
        figures = None if done.returncode else [_figure_of(fields) for fields in json.loads(file.read_text())]
    for figure in figures or ():
        if effort is not Effort.REHEARSAL:
            print(f"  → {_line(figure)}")
    print(f"  ({time.monotonic() - began:.1f} s)", flush=True)
    return figures


def _run_here(names: Sequence[str], effort: Effort, file: Path) -> None:
    figures = [attrs.asdict(figure) for name in names for figure in BENCHMARKS[name](effort)]
    file.write_text(json.dumps(figures))


def _figure_of(fields: dict[str, object]) -> Figure:
    bound = fields.pop("bound")
    return Figure(**fields, bound=Bound(**bound) if isinstance(bound, dict) else None)  # type: ignore[arg-type]


def _report(figures: Sequence[Figure], crashed: Sequence[str], seconds: float) -> None:
    print("\nAll figures; ratios are paramsurvey / reference, the median of the ratios of single rounds")
    for figure in sorted(figures, key=lambda figure: figure.line):
        print(f"  {_line(figure)}")
    met = sum(figure.verdict == "met" for figure in figures)
    unmet = sum(figure.verdict == "NOT met" for figure in figures)
    print(f"{met} met, {unmet} not met, {len(figures) - met - unmet} without a bound or not measured; {seconds:.0f} s")
    for name in crashed:
        print(f"{name} CRASHED, see above")


def _line(figure: Figure) -> str:
    others = f"   [{_others(figure)}]" if figure.others else ""
    judged = f" ({_bound(figure)})" if figure.bound else ""
    return f"{figure.line}. {_subject(figure)}: {_measured(figure)}{judged} {figure.verdict}{others}".replace("`", "")


def _subject(figure: Figure) -> str:
    return f"{figure.name} / {figure.reference}" if figure.reference else figure.name


def _measured(figure: Figure) -> str:
    return "—" if figure.value is None else f"{_rounded(figure.value)} {figure.unit}"


def _bound(figure: Figure) -> str:
    return "" if figure.bound is None else f"{figure.bound} {figure.unit}"


def _others(figure: Figure) -> str:
    relation = "/ " if figure.unit == RATIO else ""
    return ", ".join(f"{relation}{name} {_rounded(value)}" for name, value in figure.others.items())


def _rounded(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "(this checkout)" if library == "paramsurvey" else "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
