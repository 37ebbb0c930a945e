"""What is worth knowing before a run, found in all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from paramsurvey.plans.plan import Calls, Finding, Plan, StagePlan
from paramsurvey.plans.words import readable_bytes, verb
from paramsurvey.stats import readable_time

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend
    from paramsurvey.runs.run import Run


MANY_BYTES: Final = 1_000_000
"""From here on a row is said to carry much."""


def findings_of(plan: Plan, run: Run, wanted_sample: bool) -> Iterator[Finding]:
    """Yield what is worth knowing, in the order in which it was found out."""
    yield from _findings_of_sample(plan, run, wanted_sample)
    for stage in plan.stages:
        if stage.psets is not None:
            yield from _findings_of_source(stage, run)
        if stage.calls is not None:
            yield from _findings_of_calls(stage, stage.calls, run.backend)
    yield from _findings_of_failures(plan, run)


def _findings_of_source(stage: StagePlan, run: Run) -> Iterator[Finding]:
    name, total, psets = stage.name, stage.rows.least, stage.psets
    assert psets is not None
    if not total:
        yield Finding(f"source {name!r} has no rows", name)
    limit = run.options_of({}).limit
    if limit is not None and total == limit:
        yield Finding(f"source {name!r}: limit={limit}: any psets beyond that are left out", name)
    if psets.duplicates:
        some = f"{psets.duplicates:,} of {total:,} psets {verb(psets.duplicates, 'equals an', 'equal')} earlier"
        yield Finding(
            f"source {name!r}: {some} {verb(psets.duplicates, 'one', 'ones')}, the first: {psets.example}; equal "
            "psets are computed again, and have the same seed",
            name,
            is_warning=True,
        )
    if psets.uncompared:
        yield Finding(
            f"source {name!r}: {psets.uncompared:,} of {total:,} psets cannot be compared with others, because "
            "something in them cannot be pickled",
            name,
        )
    if psets.why_not and run.backend.name != "serial":
        yield Finding(
            f"source {name!r}: {psets.why_not}; a worker of the backend {run.backend.name!r} cannot get such a pset, "
            "which would be missing as 'unpicklable'",
            name,
            is_warning=True,
        )


def _findings_of_calls(stage: StagePlan, calls: Calls, backend: Backend) -> Iterator[Finding]:
    name = stage.name
    if calls.why_not and backend.name != "serial":
        yield Finding(
            f"stage {name!r}: the worker or its user_kwargs cannot be pickled for the backend {backend.name!r}: "
            f"{calls.why_not}",
            name,
            is_warning=True,
        )
    elif calls.why_not:
        yield Finding(
            f"stage {name!r}: the worker or its user_kwargs cannot be pickled, which the backend 'serial' does not "
            f"need: {calls.why_not}",
            name,
        )
    each = calls.row or calls.task or 0
    if each >= MANY_BYTES:
        yield Finding(
            f"stage {name!r}: every row carries {readable_bytes(each)} to a worker; what rows have in common crosses "
            "only once if it is in user_kwargs",
            name,
            is_warning=True,
        )


def _findings_of_sample(plan: Plan, run: Run, wanted: bool) -> Iterator[Finding]:
    sample, eta = plan.sample, plan.eta
    if sample is None:
        if wanted:
            yield Finding("no sample was run, because there is no row, or a worker cannot be pickled", is_warning=True)
        return
    if sample.why_ended:
        yield Finding(f"the sample ended early: {sample.why_ended}", is_warning=True)
    if eta is not None:
        takes = (
            f"{readable_time(eta.seconds)} +- {readable_time(eta.spread)} on {plan.slots} slot{'s' * (plan.slots != 1)}"
        )
        yield Finding(f"a run takes about {takes}, if the sample is like the rest")
        if eta.without:
            names = ", ".join(map(repr, eta.without))
            yield Finding(
                f"the time is without {names}, of which the number or the time of calls is not known", is_warning=True
            )
    rest = [repr(name) for name in run.pipeline.sources if name != sample.source]
    others = f"; all of {', '.join(rest)}" if rest else ""
    some = f"{sample.rows:,} of {sample.of:,} rows of {sample.source!r}{others}"
    yield Finding(f"sampled {some}, which took {readable_time(sample.seconds)}")
    memory = sample.memory
    yield Finding(
        f"the sample had {readable_bytes(memory.total)} of memory at most: {readable_bytes(memory.driver)} in this "
        f"process, up to {readable_bytes(memory.largest)} in each of {memory.processes} below it; shared pages count "
        "in each"
    )


def _findings_of_failures(plan: Plan, run: Run) -> Iterator[Finding]:
    losers: dict[str, list[str]] = {}
    for stage in plan.stages:
        above = list(dict.fromkeys(name for each in stage.after for name in losers[each]))
        losers[stage.name] = [] if stage.kind == "table" else above
        if stage.seen is not None and stage.seen.failures:
            losers[stage.name] = [*losers[stage.name], stage.name]
            total = sum(stage.seen.rows_in) if stage.kind == "map" else None
            some = f"{stage.seen.failures:,} of {total:,} rows" if total else f"{stage.seen.failures:,} calls"
            yield Finding(
                f"stage {stage.name!r}: {some} of the sample failed, the first {stage.seen.failure}",
                stage.name,
                is_warning=True,
            )
        if stage.kind == "table" and above and not (run.allow_missing or run.pipeline.steps[stage.name].allow_missing):
            yield Finding(
                f"stage {stage.name!r} needs its whole table, and would refuse (StageFailed) with rows missing in "
                f"{', '.join(map(repr, above))}; with allow_missing=True it runs on what there is",
                stage.name,
                is_warning=True,
            )
