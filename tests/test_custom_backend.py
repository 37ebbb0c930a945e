"""Backends of third parties: any executor in a few lines, by instance or entry point; and what is said of bad ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

import paramsurvey
from paramsurvey.errors import BackendError, OptionError
from paramsurvey.testing import BackendContract

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_backend.py"
QUIET = {"verbose": 0}

pytestmark = pytest.mark.timeout(90)


def load_example():
    spec = importlib.util.spec_from_file_location("custom_backend", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_backend"] = module
    spec.loader.exec_module(module)
    return module


custom_backend = load_example()


class TestThreads(BackendContract):
    in_process = True

    def make_backend(self):
        return custom_backend.ExecutorBackend(ThreadPoolExecutor(3), 3)

    def test_a_constant_is_pickled_once_at_most(self):
        """It is, by `publish`, though nothing else is."""


def square(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2 * user_kwargs}


def expected(count):
    return [{"n": n, "square": 3 * n * n} for n in range(count)]


def check_a_survey(backend):
    with paramsurvey.Session(backend=backend, **QUIET) as session:
        results = session.map(square, [{"n": n} for n in range(200)], user_kwargs=3)
        pipeline = paramsurvey.Pipeline("both").map(square).derive(more="square + 1")
        run = session.run(pipeline, [{"n": n} for n in range(20)], user_kwargs=3)
    assert results.to_dict() == expected(200)
    assert run.results["more"].tolist() == [3 * n * n + 1 for n in range(20)]
    backend.close()


def test_a_thread_pool_runs_surveys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_a_survey(custom_backend.open_threads())


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"timeout": 2}, "timeout=2: the backend 'threads' cannot end a running worker; leave timeout= out"),
        ({"max_tasks_per_child": 3}, "max_tasks_per_child=3: the backend 'threads' does not replace processes; leave"),
        ({"details": True}, "details=True: the backend 'threads' does not say that psets run alone in their processes"),
        ({"capture": "tail"}, "capture='tail': the backend 'threads' does not say .*PARAMSURVEY_CAPTURE=through swi"),
    ],
)
def test_what_threads_cannot_do_is_refused_by_name(option, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        closing(custom_backend.open_threads()) as backend,
        paramsurvey.Session(backend=backend, **QUIET) as session,
    ):
        with pytest.raises(OptionError, match=says):
            session.map(square, [{"n": 1}], user_kwargs=3, **option)
        with pytest.raises(OptionError, match=says):
            session.run(paramsurvey.Pipeline("one").map(square, user_kwargs=3), [{"n": 1}], **option)
        assert session.map(square, [{"n": 1}], user_kwargs=3, capture="through").to_dict() == [{"n": 1, "square": 3}]


class Meeting:
    """Psets wait for one another: how many have been there at once at most, and whether so many have met.

    Used in the threads of this process.
    """

    def __init__(self, count):
        self.count, self.there, self.most = count, 0, 0
        self.change = threading.Condition()

    def __call__(self, pset, system_kwargs, user_kwargs):
        with self.change:
            self.there += 1
            self.most = max(self.most, self.there)
            self.change.notify_all()
            met = self.change.wait_for(lambda: self.most >= self.count, timeout=20)
            self.change.wait_for(lambda: self.most > self.count, timeout=0.05)  # time for one too many to come
            self.there -= 1
        return {"met": met}

    def __reduce__(self):
        return the_meeting, (self.count,)


MEETINGS = {}


def the_meeting(count):
    return MEETINGS[count]


@pytest.mark.parametrize(("ncores", "most"), [(1, 1), (2, 2), (-1, 3), (-100, 1), (100, 4)])
@pytest.mark.parametrize("by", ["instance", "entry point"])
def test_no_more_psets_run_at_once_than_ncores_says(by, ncores, most, offer, tmp_path):
    offer(GOOD)  # four threads
    meeting = MEETINGS[most] = Meeting(most)
    opened = closing(custom_backend.open_threads()) if by == "instance" else nullcontext("offered")
    with opened as backend:
        for options in ({"ncores": ncores}, {}):
            with paramsurvey.Session(backend=backend, **options, **QUIET) as session:
                more = {} if options else {"ncores": ncores}
                results = session.map(meeting, [{"n": n} for n in range(6)], **more, group_size=1)
                assert results.results["met"].all()
                assert meeting.most == most
                assert session.current_core_count() == (most if options else 4)


PROGRAM = """
import paramsurvey
from custom_backend import ExecutorBackend
if __name__ == "__main__":
    {opening}
    with paramsurvey.Session(backend=ExecutorBackend(executor, 2, runs_alone={alone}), verbose=0) as session:
        results = session.map(lambda pset, system, user: {{"square": pset["n"] ** 2}}, [{{"n": n}} for n in range(200)])
        print(sum(row["square"] for row in results.to_dict()), results.missing.empty)
        if {alone}:
            told = session.map(lambda pset, system, user: print(pset["n"]), [{{"n": 0}}, {{"n": 1}}], details=True)
            assert [row["_stdout"] for row in told.results.to_dict("records")] == ["0\\n", "1\\n"]
    {ending}
"""
OTHERS = {
    "loky": ("import loky; executor = loky.ProcessPoolExecutor(2)", "executor.shutdown(kill_workers=True)", True),
    "distributed": (
        "import distributed; client = distributed.Client(processes=False, n_workers=1, threads_per_worker=2, "
        "dashboard_address=None); executor = client.get_executor()",
        "client.close()",
        False,
    ),
}


@pytest.mark.parametrize("library", OTHERS)
def test_executors_of_other_libraries_run_surveys(library, tmp_path):
    """In a program of its own: they have processes of theirs, which see what the program sees."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    opening, ending, alone = OTHERS[library]
    (tmp_path / "program.py").write_text(PROGRAM.format(opening=opening, ending=ending, alone=alone))
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "2646700 True\n", done.stderr


# By entry point

GOOD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("custom_backend", {str(EXAMPLE)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
open_backend = module.open_threads
"""


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Install a package that offers a backend."""

    def install(code):
        (tmp_path / "offered_backend.py").write_text(code)
        folder = tmp_path / "offered-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[paramsurvey.backends]\noffered = offered_backend:open_backend\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "offered_backend", raising=False)

    yield install
    sys.modules.pop("offered_backend", None)


def test_an_installed_package_offers_a_backend_by_name(offer):
    offer(GOOD)
    with paramsurvey.Session(backend="offered", **QUIET) as session:
        assert session.backend == "threads"
        assert session.map(square, [{"n": n} for n in range(5)], user_kwargs=3).to_dict() == expected(5)


def test_one_that_is_unknown_is_told_from_one_that_is_offered(offer):
    offer(GOOD)
    known = "there are: 'multiprocessing', 'serial', 'ray', 'mpi', 'offered'"
    with pytest.raises(BackendError, match=f"there is no backend 'offred'; {known}"):
        paramsurvey.Session(backend="offred")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import not_there_at_all", "'offered' is installed, but cannot be imported: No module named 'not_there_at"),
        (
            "open_backend = None",
            "'offered' of offered_backend:open_backend is broken: it raised TypeError",
        ),
        ("def open_backend():\n    raise OSError('no licence')", "is broken: it raised OSError: no licence"),
        ("open_backend = object", "is no backend: it has no name, can_kill, slots, publish, submit"),
    ],
)
def test_one_that_is_broken_says_how(offer, code, says):
    offer(code)
    with pytest.raises(BackendError, match=says):
        paramsurvey.Session(backend="offered")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    custom_backend.main()
    assert "4  4      16" in capsys.readouterr().out
