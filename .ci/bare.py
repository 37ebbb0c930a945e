"""A tiny survey with an installed paramsurvey that has no extras: nothing that is optional may be needed."""

from pathlib import Path

import paramsurvey

root = Path(paramsurvey.__file__).parent
assert "site-packages" in root.parts, f"this is not the installed package: {root}"
assert (root / "py.typed").exists(), "the package does not say that it is typed"

for backend in ("multiprocessing", "serial"):
    with paramsurvey.Session(backend=backend, verbose=0) as session:
        results = session.map(lambda pset, system, user: {"square": pset["a"] ** 2}, [{"a": 3}, {"a": 4}])
        run = session.run(paramsurvey.Pipeline("bare").product({"b": [1, 2]}).best("b"), [{"a": 3}])
    assert results.to_dict() == [{"a": 3, "square": 9}, {"a": 4, "square": 16}]
    assert run.results.to_dict("records") == [{"a": 3, "b": 2}]
    assert set(paramsurvey.Pipeline().map(lambda pset, system, user: None, name="one").graph) == {"psets", "one"}
    print(f"paramsurvey {paramsurvey.__version__}, {results!r}, {run!r}")
