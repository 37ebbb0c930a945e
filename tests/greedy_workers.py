"""Metrics for greedy searches, and textbook loops over them."""

from __future__ import annotations

import random

import attrs


def chosen_of(pset):
    return [*pset["picked"], pset["candidate"]]


@attrs.frozen
class Metric:
    """A worker of a function of a list of keys."""

    value: object
    name: str = "value"

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {self.name: self.value(chosen_of(pset))}


def coverage(rng, count, *, floats=False, items=20):
    """Weighted coverage: monotone and submodular, an int unless floats are wanted."""
    weights = [rng.random() if floats else rng.randint(1, 9) for _ in range(items)]
    sets = [frozenset(rng.sample(range(items), rng.randint(1, items // 3))) for _ in range(count)]

    def value(keys):
        covered = set().union(*(sets[key] for key in keys))
        return sum(weights[item] for item in sorted(covered))

    return value


def facilities(rng, count, *, floats=True, customers=25):
    """Facility location: every customer goes to the nearest facility; monotone and submodular."""
    use = [[rng.random() if floats else rng.randint(0, 30) for _ in range(count)] for _ in range(customers)]

    def value(keys):
        return sum(max((row[key] for key in keys), default=0) for row in use)

    return value


def cut(rng, count, *, floats=False):
    """Count what lies between a set and the rest of a graph: submodular, and not monotone."""
    edges = {
        (one, other): rng.random() if floats else rng.randint(1, 9)
        for one in range(count)
        for other in range(one)
        if rng.random() < 0.4
    }

    def value(keys):
        inside = set(keys)
        return sum(weight for (one, other), weight in edges.items() if (one in inside) != (other in inside))

    return value


def anything(rng, count):
    """Any values at all."""
    salt = rng.random()
    return lambda keys: random.Random(f"{salt} {sorted(keys)}").random()


FAMILIES = {"coverage": coverage, "facilities": facilities, "cut": cut}


def textbook(value, count, picks):
    """Return the picks of plain greedy, of equals the first, and how many sets it has evaluated."""
    picked, evaluated = [], 0
    while len(picked) < picks:
        others = [key for key in range(count) if key not in picked]
        evaluated += len(others)
        picked.append(max(others, key=lambda key: value([*picked, key])))
    return picked, evaluated


@attrs.frozen(eq=False)
class Scored:
    """The cross-validated score of a model on some of the features."""

    model: object
    x: object
    y: object
    folds: int

    def __call__(self, pset, system_kwargs, user_kwargs):
        from sklearn.model_selection import cross_val_score

        columns = sorted(chosen_of(pset))
        return {"score": cross_val_score(self.model, self.x[:, columns], self.y, cv=self.folds).mean()}


def interaction(rng, count):
    """Worth of single ones and of pairs, which may be good or bad together: gains rise and fall."""
    alone = [rng.uniform(0, 1) for _ in range(count)]
    together = {(one, other): rng.uniform(-1, 1) for one in range(count) for other in range(one)}

    def value(keys):
        ordered = sorted(keys, reverse=True)
        pairs = ((one, other) for place, one in enumerate(ordered) for other in ordered[place + 1 :])
        return 5 + sum(alone[key] for key in ordered) + sum(together[pair] for pair in pairs)

    return value
