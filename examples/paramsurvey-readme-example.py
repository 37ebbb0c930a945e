#!/usr/bin/env python
"""The README's example, with a few notes."""

import time

import paramsurvey


# A worker is an ordinary function. It gets one parameter set (pset) as a dict, and returns a dict of results.
# It runs in another process, perhaps on another machine, so what it needs comes in by its arguments:
# pset is one of the psets below, user_kwargs is what was given to map(..., user_kwargs=...).
def sleep_worker(pset, system_kwargs, user_kwargs):
    time.sleep(pset["duration"])
    return {"slept": pset["duration"]}


# Optional: without it, the first map() does the same. The backend 'multiprocessing' uses the cores of this machine.
# The environment has the last word: PARAMSURVEY_BACKEND=serial paramsurvey-readme-example.py
paramsurvey.init(backend="multiprocessing")

# Five parameter sets that happen to be the same. A list of dicts, a DataFrame and paramsurvey.params.product() all do.
psets = [{"duration": 0.3}] * 5

# verbose=2 tells every second on standard error how far it has got; verbose=0 tells nothing.
results = paramsurvey.map(sleep_worker, psets, verbose=2)

# A row of the results has the parameters and what the worker returned, in the order of the psets:
# as named tuples, as dicts, or all together as a pandas DataFrame, results.results.
for r in results.itertuples():
    print(r.duration, r.slept)
for r in results.iterdicts():
    print(r["duration"], r["slept"])

# A worker that raises an exception ends nothing: its pset is then in results.missing, with the exception.
print(len(results.results), "finished,", len(results.missing), "missing")
