"""How long a run would take, from the times of a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping

from paramsurvey.plans.plan import Eta, Plan, StagePlan, Timing


def eta_of(plan: Plan) -> Eta | None:
    """Estimate how long it takes; None if nothing was measured."""
    timed = {each.name: (each.calls.count, each.seen.timing) for each in plan.stages if each.calls and each.seen}
    known = {
        name: (count.expected, count.spread, timing)
        for name, (count, timing) in timed.items()
        if timing is not None and count.expected is not None
    }
    if plan.sample is None or not known:
        return None
    work = sum(calls * timing.mean for calls, _, timing in known.values())
    error = math.hypot(
        *(x for calls, spread, timing in known.values() for x in (calls * timing.error, spread * timing.mean))
    )
    turns = (math.ceil(calls / plan.slots) * timing.mean for calls, _, timing in known.values())
    seconds = max(work / plan.slots, *turns, _longest_way(plan, known))
    without = tuple(each.name for each in plan.stages if _asks(each) and each.name not in known)
    return Eta(seconds, seconds * error / work if work else 0.0, without)


def _asks(stage: StagePlan) -> bool:
    """Tell whether a stage has workers called: also one that has asked for it in the sample."""
    return (stage.calls is not None and stage.calls.count.most != 0) or (
        stage.seen is not None and stage.seen.timing is not None
    )


def _longest_way(plan: Plan, known: Mapping[str, tuple[float, float, Timing]]) -> float:
    """Return how long a row needs through all stages, one after the other."""
    until: dict[str, float] = {}
    for stage in plan.stages:
        calls, _, timing = known.get(stage.name, (0.0, 0.0, None))
        own = timing.mean if timing is not None and calls > 0 else 0.0
        until[stage.name] = own + max((until[above] for above in stage.after), default=0.0)
    return max(until.values())
