"""The same with the standard library's pool."""

import time

STARTED = time.perf_counter()

import multiprocessing  # noqa: E402

import pandas as pd  # noqa: E402


def add(pset: dict[str, int]) -> dict[str, int]:
    """Add."""
    return {"c": pset["a"] + pset["b"]}


if __name__ == "__main__":
    psets = [{"a": 1, "b": 10}, {"a": 2, "b": 20}]
    with multiprocessing.Pool(2) as pool:
        table = pd.DataFrame([{**pset, **row} for pset, row in zip(psets, pool.map(add, psets), strict=True)])
        answers = table["c"].tolist()
        print(time.perf_counter() - STARTED, *answers)
