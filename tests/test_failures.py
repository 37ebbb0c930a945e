"""One to three bad psets among many healthy ones: the healthy ones finish, and the bad ones are missing, with a reason.

The table `CASES` says how the psets are bad and what must be said of them; one test checks all of it, on every backend
that the case makes sense on: one by one, grouped automatically and all in one group, one after another in one session.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import failing_workers as bad_workers
import pytest

import paramsurvey
from paramsurvey.errors import MissingPsets, SurveyStopped

pytestmark = pytest.mark.timeout(120, method="signal")

BOTH = ("serial", "multiprocessing")
POOL = ("multiprocessing",)
GROUP_SIZES = {"one": 1, "automatic": None, "large": 1000}
COUNT = 120
BAD = (0, 57, 119)
TRACED = "Traceback (most recent call last)"


@attrs.frozen(kw_only=True)
class Case:
    """How some psets of a survey are bad, and what must be said of them; `kind` None: nothing, they finish."""

    name: str
    worker: Callable[..., Any] = bad_workers.takes_anything
    value: Callable[[], Any] = lambda: None  # what the bad psets have in addition
    kind: str | None = None
    text: str = ""  # a regular expression
    traceback: str = ""  # is in the traceback; if empty, there is none
    attempts: int = 1
    backends: tuple[str, ...] = BOTH
    bad: tuple[int, ...] = BAD


def raised(worker: Callable[..., Any], text: str, **more: Any) -> Case:
    return Case(name=worker.__name__, worker=worker, kind="raised", text=text, traceback=worker.__name__, **more)


def returned(worker: Callable[..., Any], text: str, **more: Any) -> Case:
    return Case(name=worker.__name__, worker=worker, kind="raised", text=text, **more)


def died(worker: Callable[..., Any], text: str, **more: Any) -> Case:
    text = f"its worker process died.*{text}"
    return Case(name=worker.__name__, worker=worker, kind="died", text=text, attempts=3, backends=POOL, **more)


def unpicklable(worker: Callable[..., Any], text: str, **more: Any) -> Case:
    more = {"traceback": TRACED, "backends": POOL} | more
    return Case(name=worker.__name__, worker=worker, kind="unpicklable", text=text, **more)


def fine(worker: Callable[..., Any], **more: Any) -> Case:
    return Case(name=worker.__name__, worker=worker, **more)


CASES = [
    raised(bad_workers.raises_value_error, r"ValueError\('no answer for (0|57|119)'\)"),
    raised(bad_workers.raises_from_another, r"RuntimeError\('the second'\)"),
    raised(bad_workers.raises_a_group, r"ExceptionGroup\('several'"),
    raised(bad_workers.raises_unpicklable, r"Unpicklable\('of some kind'\)"),
    raised(bad_workers.raises_un_unpicklable, r"OfTwoArguments\('salt and pepper'\)"),
    raised(bad_workers.raises_with_bad_repr, "WithBadRepr.*its repr raises RuntimeError"),
    raised(bad_workers.raises_with_deadly_repr, "WithDeadlyRepr.*its repr raises SystemExit"),
    raised(bad_workers.raises_class_of_a_function, r"OfAFunction\('made in here'\)"),
    raised(bad_workers.raises_system_exit, r"SystemExit\('enough'\)"),
    raised(bad_workers.raises_keyboard_interrupt, r"KeyboardInterrupt\(\)"),
    raised(bad_workers.raises_own_base_exception, r"OwnBase\('not an Exception'\)"),
    raised(bad_workers.raises_stop_iteration, r"StopIteration\('it is over'\)"),
    raised(bad_workers.raises_generator_exit, r"GeneratorExit\('it is closed'\)"),
    raised(bad_workers.recurses_for_ever, "RecursionError"),
    raised(bad_workers.raises_after_a_signal, "KeyboardInterrupt", backends=POOL),  # in the driver, that is Ctrl-C
    raised(bad_workers.runs_out_of_allowed_memory, "MemoryError", backends=POOL),
    died(bad_workers.exits, "exit code 7"),
    died(bad_workers.exits_with_success, "exit code 0"),
    died(bad_workers.kills_itself, "SIGKILL"),
    died(bad_workers.terminates_its_group, "SIGTERM"),
    died(bad_workers.reads_address_zero, "SIGSEGV"),
    died(bad_workers.aborts, "SIGABRT"),
    died(bad_workers.closes_all_files_and_returns, "(closed its pipe|exit code)"),
    died(bad_workers.closes_all_files_and_hangs, "closed its pipe"),
    died(bad_workers.writes_a_byte_to_all_files, "something of its own was written to its pipe"),
    died(bad_workers.writes_a_kilobyte_to_all_files, "something of its own was written to its pipe"),
    died(bad_workers.dies_in_a_thread, "exit code 9"),
    died(bad_workers.leaves_children_and_dies, "exit code 7"),
    died(bad_workers.returns_what_kills_when_pickled, "exit code 7"),
    died(bad_workers.takes_anything, "exit code 7", value=bad_workers.Deadly),
    fine(bad_workers.dies_at_the_first_two_attempts, backends=POOL),
    fine(bad_workers.dies_once, backends=POOL),
    returned(bad_workers.returns_an_int, "returned the int 42; a worker returns a dict of answers, or None"),
    returned(bad_workers.returns_a_list, r"returned the list \[1, 2\]; a worker returns a dict of answers, or None"),
    returned(bad_workers.returns_a_frame, "returned the DataFrame.*; a worker returns a dict of answers, or None"),
    returned(bad_workers.returns_false, "returned the bool False; a worker returns a dict"),
    returned(bad_workers.returns_a_thing_with_bad_repr, "returned the WithBadRepr .*; a worker returns a dict"),
    returned(bad_workers.returns_a_generator, "returned the generator .*; a worker returns a dict"),
    returned(bad_workers.returns_a_parameter, r"the key 'n' = -1, which is a parameter with the value (0|57|119);"),
    returned(bad_workers.returns_our_column, "the key '_kind', the name of one of our own columns"),
    unpicklable(bad_workers.returns_a_lock, "the answer cannot be pickled: .*lock"),
    unpicklable(bad_workers.returns_unpicklable, "the answer cannot be pickled: .*this value stays here"),
    unpicklable(bad_workers.returns_un_unpicklable, "the answer cannot be unpickled: .*not in this process"),
    unpicklable(bad_workers.returns_exit_at_unpickling, "the answer cannot be unpickled: SystemExit"),
    unpicklable(bad_workers.returns_interrupt_at_unpickling, "the answer cannot be unpickled: KeyboardInterrupt"),
    unpicklable(bad_workers.returns_an_unpicklable_key, "the answer cannot be pickled: .*lock"),
    unpicklable(bad_workers.returns_an_un_unpicklable_key, "the answer cannot be unpickled: .*not in this process"),
    unpicklable(bad_workers.takes_anything, "the pset cannot be pickled: .*lock", value=threading.Lock),
    unpicklable(
        bad_workers.takes_anything, "the pset cannot be pickled: .*stays here", value=bad_workers.UnpicklableValue
    ),
    unpicklable(
        bad_workers.takes_anything, "cannot be unpickled in the worker: .*elsewhere", value=bad_workers.Homesick
    ),
    fine(bad_workers.takes_anything, value=lambda: lambda x: x + 1),
    fine(bad_workers.takes_anything, value=bad_workers.Shy),
    fine(bad_workers.takes_anything, value=bad_workers.Incomparable),
    raised(bad_workers.raises_beside_a_shy_value, r"ValueError\('the value is shy'\)", value=bad_workers.Shy),
]


def names(case: Case) -> str:
    value = "" if case.value() is None else f"-{type(case.value()).__name__}"
    return case.name + value


RUNS = [pytest.param(case, backend, id=f"{names(case)}-{backend}") for case in CASES for backend in case.backends]


@pytest.fixture
def log_prefix(tmp_path) -> str:
    return str(tmp_path / ".log-")


@pytest.fixture
def session_on(log_prefix) -> Iterator[Callable[..., paramsurvey.Session]]:
    """Open sessions that are closed at the end."""
    sessions = []

    def open_session(backend: str = "multiprocessing", **options: Any) -> paramsurvey.Session:
        options = {"ncores": 2, "verbose": 0, "pslogger_prefix": log_prefix} | options
        sessions.append(paramsurvey.Session(backend=backend, **options))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


def psets_of(case: Case, count: int = COUNT) -> list[dict[str, Any]]:
    psets: list[dict[str, Any]] = [{"n": n, "bad": n in case.bad} for n in range(count)]
    for n in case.bad:
        if (value := case.value()) is not None:
            psets[n]["value"] = value
    return psets


def identical(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Tell whether rows have the same keys and the very same or equal values; asks no value that refuses to answer."""

    def same(one: Any, other: Any) -> bool:
        return one is other or (type(one) in (int, bool, str, bytes, bytearray) and one == other)

    return len(rows) == len(others) and all(
        row.keys() == other.keys() and all(same(row[key], other[key]) for key in row)
        for row, other in zip(rows, others, strict=True)
    )


def assert_healthy(results: paramsurvey.MapResults, psets: list[dict[str, Any]], count: int) -> None:
    """All of these psets have finished, right and in order."""
    rows = results.to_dict()
    assert identical(rows, [pset | {"square": pset["n"] ** 2} for pset in psets])
    assert results.results["n"].tolist() == [pset["n"] for pset in psets]
    assert results.results["square"].tolist() == [pset["n"] ** 2 for pset in psets]
    assert len(results) == results.progress.finished == len(psets)
    assert results.progress.total == count
    assert results.progress.failures == count - len(psets)
    assert results.progress.active == 0


def assert_missing(results: paramsurvey.MapResults, psets: list[dict[str, Any]], case: Case) -> None:
    """Exactly these psets are missing, and it is said why."""
    missing = results.missing
    assert missing["n"].tolist() == [pset["n"] for pset in psets]
    assert identical(results.missing_psets(), psets)
    for row in missing.to_dict("records"):
        assert row["_kind"] == case.kind
        assert re.search(case.text, row["_exception"], re.DOTALL)
        assert row["_attempts"] == case.attempts
        assert case.traceback in row["_traceback"]
        assert bool(row["_traceback"]) == bool(case.traceback)


def assert_still_works(session: paramsurvey.Session) -> None:
    psets = [{"n": n, "bad": False} for n in range(20)]
    results = session.map(bad_workers.healthy, psets)
    assert_healthy(results, psets, 20)
    assert len(results.missing) == 0


@pytest.mark.unmeasured
@pytest.mark.parametrize(("case", "backend"), RUNS)
def test_bad_psets_are_missing_with_a_reason_and_all_others_finish(case, backend, session_on, tmp_path):
    session = session_on(backend)
    for name, group_size in GROUP_SIZES.items():
        folder = tmp_path / name  # some are bad only as long as their folder is empty
        folder.mkdir()
        psets = psets_of(case)
        results = session.map(case.worker, psets, group_size=group_size, user_kwargs={"folder": str(folder)})
        finish = [pset for pset in psets if not (case.kind and pset["bad"])]
        assert_healthy(results, finish, COUNT)
        assert_missing(results, [pset for pset in psets if case.kind and pset["bad"]], case)
        assert_still_works(session)


def test_a_traceback_shows_the_line_that_raised_and_where_it_came_from(session_on):
    session = session_on()
    stack = session.map(bad_workers.raises_from_another, [{"n": 0, "bad": True}]).missing["_traceback"][0]
    assert 'raise RuntimeError("the second") from exc' in stack
    assert "KeyError: 'key'" in stack
    assert "The above exception was the direct cause of the following exception" in stack
    assert stack.rstrip().endswith("RuntimeError: the second")
    assert "paramsurvey/engine" not in stack


@pytest.mark.parametrize("backend", BOTH)
def test_every_pset_may_fail(backend, session_on):
    session = session_on(backend)
    psets = [{"n": n, "bad": True} for n in range(500)]
    results = session.map(bad_workers.raises_value_error, psets)
    assert len(results) == 0
    assert results.missing["_exception"].tolist() == [f"ValueError('no answer for {n}')" for n in range(500)]
    assert_still_works(session)


@pytest.mark.parametrize("backend", BOTH)
def test_missing_psets_can_be_run_again(backend, session_on):
    session = session_on(backend)
    psets = [{"n": n, "bad": n % 3 == 0} for n in range(30)]
    results = session.map(bad_workers.raises_value_error, psets)
    again = session.map(bad_workers.healthy, results.missing_psets())
    assert_healthy(again, psets[::3], 10)
    with pytest.raises(MissingPsets, match=r"10 missing .10 raised., the first: ValueError.'no answer for 0'."):
        results.raise_if_missing()


@pytest.mark.parametrize("backend", BOTH)
def test_stopping_at_the_first_failure_carries_what_was_finished(backend, session_on):
    session = session_on(backend)
    psets = [{"n": n, "bad": n == 50} for n in range(COUNT)]
    with pytest.raises(SurveyStopped, match=r"pset 50 is missing \(raised\), and on_failure='stop'") as info:
        session.map(bad_workers.raises_value_error, psets, on_failure="stop", group_size=10)
    results = info.value.results
    finished = results.results["n"].tolist()
    assert finished == sorted(finished)
    assert len(finished) >= 30  # of 50: a chunk of ten may be at the other slot, and another behind it
    assert sorted(finished + results.missing["n"].tolist()) == list(range(COUNT))
    assert set(results.missing["_kind"]) <= {"raised", "cancelled"}
    assert_still_works(session)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_worker_that_returns_none_has_finished_without_answers(backend, group_size, session_on):
    session = session_on(backend)
    psets = [{"n": n, "bad": n in BAD} for n in range(COUNT)]
    results = session.map(bad_workers.returns_nothing, psets, group_size=group_size)
    assert len(results.missing) == 0
    expected = [pset if pset["bad"] else pset | {"square": pset["n"] ** 2} for pset in psets]
    assert results.to_dict() == expected
    assert results.results["square"].isna().tolist() == [pset["bad"] for pset in psets]
    assert str(results.results["square"].dtype) == "Int64"


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_each_row_may_have_keys_of_its_own(backend, group_size, session_on):
    session = session_on(backend)
    psets = [{"n": n} for n in range(COUNT)]
    results = session.map(bad_workers.returns_key_of_its_own, psets, group_size=group_size)
    assert len(results.missing) == 0
    assert results.to_dict() == [{"n": n, "square": n**2, f"only_{n % 7}": n} for n in range(COUNT)]
    assert results.results["only_3"].dropna().tolist() == list(range(3, COUNT, 7))


@pytest.mark.parametrize("backend", BOTH)
def test_an_answer_may_repeat_a_parameter_with_its_value(backend, session_on):
    psets = [{"n": n} for n in range(COUNT)]
    results = session_on(backend).map(bad_workers.returns_equal_parameter, psets)
    assert_healthy(results, psets, COUNT)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
@pytest.mark.parametrize("worker", [bad_workers.returns_megabytes, bad_workers.returns_mutable_megabytes])
def test_an_answer_may_have_64_mib(worker, backend, group_size, session_on):
    session = session_on(backend)
    size = 64 * 2**20
    psets = [{"n": n, "bad": n in (3, 57)} for n in range(COUNT)]
    results = session.map(worker, psets, group_size=group_size, user_kwargs={"size": size})
    assert len(results.missing) == 0
    rows = results.to_dict()
    blobs = {row["n"]: row.pop("blob") for row in rows if row["bad"]}
    assert rows == [pset | {"square": pset["n"] ** 2} for pset in psets]
    assert all(len(blob) == size and blob.count(n) == size for n, blob in blobs.items())
    assert list(blobs) == [3, 57]
    assert_still_works(session)


@pytest.mark.parametrize("group_size", [1, None, 4])
def test_megabytes_travel_both_ways_at_once(group_size, session_on):
    loads = [bytes([n]) * (2 * 2**20 + n) for n in range(24)]
    results = session_on().map(bad_workers.returns_its_load, [{"load": load} for load in loads], group_size=group_size)
    assert [row["echo"] for row in results.to_dict()] == loads


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_an_open_file_in_a_pset_stays_with_the_driver(group_size, session_on, tmp_path):
    psets = [{"n": n, "bad": n in BAD} for n in range(COUNT)]
    with (tmp_path / "file").open("w") as file:
        for n in BAD:
            psets[n]["file"] = file
        session = session_on()
        results = session.map(bad_workers.takes_anything, psets, group_size=group_size)
        assert_healthy(results, [pset for pset in psets if not pset["bad"]], COUNT)
        assert results.missing["_kind"].tolist() == ["unpicklable"] * len(BAD)
        assert results.missing["_exception"].str.contains("an open file cannot go to another process").all()
        assert identical(results.missing_psets(), [psets[n] for n in BAD])
        serial = session_on("serial").map(bad_workers.takes_anything, psets, group_size=group_size)
        assert_healthy(serial, psets, COUNT)
        file.write("still open")


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_worker_cannot_change_its_parameters(backend, group_size, session_on):
    psets = [{"n": n, "bad": n in BAD} for n in range(COUNT)]
    results = session_on(backend).map(bad_workers.changes_its_pset, psets, group_size=group_size)
    assert len(results.missing) == 0
    assert [row["n"] for row in results.iterdicts()] == list(range(COUNT))
    assert psets == [{"n": n, "bad": n in BAD} for n in range(COUNT)]


@pytest.mark.parametrize("backend", BOTH)
def test_equal_psets_are_psets_of_their_own(backend, session_on):
    psets = [{"n": 3, "bad": True}, {"n": 3, "bad": True}, {"n": 4, "bad": False}, {"n": 4, "bad": False}]
    results = session_on(backend).map(bad_workers.raises_value_error, psets)
    assert_healthy(results, psets[2:], 4)
    assert results.missing["n"].tolist() == [3, 3]


@pytest.mark.parametrize("backend", BOTH)
def test_a_retried_pset_has_its_last_exception_and_all_attempts(backend, session_on):
    psets = [{"n": n, "bad": n == 7} for n in range(20)]
    results = session_on(backend).map(bad_workers.raises_value_error, psets, retries=4)
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], 20)
    assert results.missing[["n", "_kind", "_attempts"]].values.tolist() == [[7, "raised", 5]]


def test_the_log_file_tells_of_every_missing_pset(session_on, tmp_path):
    session = session_on()
    psets = psets_of(Case(name="shy", value=bad_workers.Shy))
    session.map(bad_workers.raises_beside_a_shy_value, psets)
    session.close()
    [log] = [path.read_text() for path in tmp_path.iterdir() if path.name.startswith(".log-")]
    for n in BAD:
        assert f"pset {n} is missing (raised, attempts: 1): ValueError('the value is shy')" in log


def _a_cgroup() -> Path:
    """Make a memory cgroup below the one that this process is in, or below the root."""
    name = f"paramsurvey-test-{os.getpid()}-{os.urandom(4).hex()}"
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    version_1 = [path for _, controllers, path in groups if "memory" in controllers.split(",")]
    for base in [Path("/sys/fs/cgroup/memory" + path) for path in (*version_1, "/")]:
        if (base / "memory.limit_in_bytes").exists():
            return base / name
    for base in [Path("/sys/fs/cgroup" + path) for _, controllers, path in groups if not controllers]:
        if "memory" in (base / "cgroup.subtree_control").read_text():
            return base / name
    raise OSError("no memory controller")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup with 48 MiB; skips where none can be made."""
    try:
        folder = _a_cgroup()
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"no memory cgroup can be made here: {exc}")
    try:
        limit = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
        (folder / limit).write_text(str(48 * 2**20))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            if (folder / swap).exists():
                (folder / swap).write_text(str(48 * 2**20) if "memsw" in swap else "0")
        yield folder
    except OSError as exc:
        pytest.skip(f"a memory cgroup cannot be limited here: {exc}")
    finally:
        folder.rmdir()


@pytest.mark.parametrize("group_size", GROUP_SIZES.values(), ids=GROUP_SIZES)
def test_a_worker_killed_for_lack_of_memory_loses_only_its_own_pset(group_size, session_on, small_cgroup):
    session = session_on()
    worker = bad_workers.takes_more_memory_than_there_is
    case = died(worker, r"SIGKILL.*if nobody did that, the system was out of memory")
    psets = psets_of(case)
    results = session.map(worker, psets, group_size=group_size, user_kwargs={"cgroup": str(small_cgroup)})
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], COUNT)
    assert_missing(results, [pset for pset in psets if pset["bad"]], case)
    assert_still_works(session)
