"""The same with paramsurvey."""

import time

STARTED = time.perf_counter()

import paramsurvey  # noqa: E402


def add(pset: dict[str, int], system_kwargs: object, user_kwargs: object) -> dict[str, int]:
    """Add."""
    return {"c": pset["a"] + pset["b"]}


psets = [{"a": 1, "b": 10}, {"a": 2, "b": 20}]
answers = paramsurvey.map(add, psets, ncores=2, verbose=0, vstats=0).results["c"].tolist()
print(time.perf_counter() - STARTED, *answers)
