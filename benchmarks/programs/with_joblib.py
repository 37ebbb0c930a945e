"""The same with joblib."""

import time

STARTED = time.perf_counter()

import joblib  # type: ignore[import-untyped]  # noqa: E402
import pandas as pd  # noqa: E402


def add(pset: dict[str, int]) -> dict[str, int]:
    """Add."""
    return {"c": pset["a"] + pset["b"]}


if __name__ == "__main__":
    psets = [{"a": 1, "b": 10}, {"a": 2, "b": 20}]
    rows = joblib.Parallel(n_jobs=2)(joblib.delayed(add)(pset) for pset in psets)
    table = pd.DataFrame([{**pset, **row} for pset, row in zip(psets, rows, strict=True)])
    answers = table["c"].tolist()
    print(time.perf_counter() - STARTED, *answers)
