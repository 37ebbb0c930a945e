#!/usr/bin/env python
"""An optimiser from outside as a stage: Optuna proposes, the cores of this machine evaluate, Optuna is told.

With 50 J in the arm, what ball flies farthest, and at which angle should it be thrown? A light one is fast, but the
air stops it. Needs ``pip install 'paramsurvey[examples]'``.
"""

import math
import sys

import paramsurvey
from paramsurvey import Pipeline
from paramsurvey.stages.base import Ask

try:
    import optuna
except ImportError:
    sys.exit("this example needs Optuna: pip install 'paramsurvey[examples]'")

GRAVITY, AIR, BALL, DRAG = 9.81, 1.2, 1000.0, 0.47  # m/s^2, kg/m^3, kg/m^3, of a sphere


def throw(pset, system_kwargs, user_kwargs):
    """Fly a ball of the density of water until it lands."""
    mass, angle = pset["mass"], math.radians(pset["angle"])
    area = math.pi * (3 * mass / (4 * math.pi * BALL)) ** (2 / 3)
    speed = math.sqrt(2 * 50 / mass)
    x, y, vx, vy, dt = 0.0, 0.0, speed * math.cos(angle), speed * math.sin(angle), 1e-3
    while y >= 0:
        slowing = DRAG * AIR * area / (2 * mass) * math.hypot(vx, vy)
        vx, vy = vx - slowing * vx * dt, vy - (slowing * vy + GRAVITY) * dt
        x, y = x + vx * dt, y + vy * dt
    return {"distance": x}


class Optimise:
    """Calls a worker in rounds of psets that Optuna proposes; the rows that come in are tried first.

    It never executes anything: it yields what it wants to know, and is sent what came of it.
    """

    def __init__(self, worker, space, goal, rounds, batch, name="optimise"):
        self.worker, self.space, self.goal, self.rounds, self.batch = worker, space, goal, rounds, batch
        self.name = name

    def table(self, starts):
        """Ask in rounds; return all that was found."""
        # constant_liar keeps the proposals of one round apart, before anything is known of them
        sampler = optuna.samplers.TPESampler(seed=1, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for pset in starts.dicts():
            study.enqueue_trial(pset)
        found = []
        for _ in range(self.rounds):
            trials = [study.ask(self.space) for _ in range(self.batch)]
            results = yield Ask(self.worker, [{"trial": trial.number, **trial.params} for trial in trials])
            for row in results.iterdicts():
                study.tell(row["trial"], row[self.goal])
            for pset in results.missing_psets():
                study.tell(pset["trial"], state=optuna.trial.TrialState.FAIL)
            found += results.iterdicts()
        return found


def main():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    paramsurvey.init(verbose=0, vstats=0)
    space = {
        "mass": optuna.distributions.FloatDistribution(0.001, 10.0, log=True),  # kg
        "angle": optuna.distributions.FloatDistribution(5.0, 85.0),  # degrees
    }
    stage = Optimise(throw, space, goal="distance", rounds=20, batch=8)
    run = Pipeline("farthest throw").add(stage).top(3, by="distance").run([{"mass": 0.1, "angle": 45.0}])
    print(f"the best of {len(run['optimise'])} throws:")
    for row in run.results.itertuples():
        print(f"  throw {row.trial:3}: {1000 * row.mass:4.0f} g at {row.angle:4.1f} degrees: {row.distance:.1f} m")


if __name__ == "__main__":
    main()
