"""The ray backend on a Ray of its own, on this machine: the contract, what tasks ask for, and how values travel."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import failing_workers as bad_workers
import numpy as np
import pandas as pd
import pytest
import ray_workers
from ray_here import CORES, RayContract, local_ray, ray_environment, ray_session

from paramsurvey import Pipeline
from paramsurvey.backends.ray.backend import how_it_ended
from paramsurvey.backends.ray.demands import Demand, Node, demand_of, refuse_if_impossible, room
from paramsurvey.backends.ray.joining import Head, find_head, why_not_joined
from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.dispatcher import Dispatcher
from paramsurvey.engine.records import Died, Displaced, Killed, Retries
from paramsurvey.errors import BackendError, OptionError, WorkerStartError

__all__ = ["local_ray", "ray_environment", "ray_session"]  # fixtures

pytestmark = [pytest.mark.timeout(90), pytest.mark.filterwarnings("default")]


@pytest.mark.usefixtures("local_ray")
class TestRay(RayContract):
    """All that is promised of a backend."""


# A whole program

PROGRAM = """
import os, sys
import paramsurvey, psutil

def worker(pset, system_kwargs, user_kwargs):
    if pset["n"] == 3:
        os.abort()
    print("a worker's own words")
    return {"square": pset["n"] ** 2, "pid": os.getpid()}

options = {"verbose": 0, "pslogger_fd": open(os.devnull, "w"), "ncores": 2}
paramsurvey.init(backend="ray", **options)
paramsurvey.init(backend="ray", **options)  # which closes the first session
results = paramsurvey.map(worker, [{"n": n} for n in range(6)])
assert results.missing["_kind"].tolist() == ["died"], results.missing
started = psutil.Process().children(recursive=True)
assert len(started) > 3, started
paramsurvey.finalize()
assert "ray" in sys.modules
print("left:", [each for each in psutil.wait_procs(started, timeout=10)[1]])
"""


def test_a_program_on_a_ray_of_its_own_prints_nothing_and_leaves_nothing(ray_environment):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=80)
    assert (done.stdout, done.stderr, done.returncode) == ("left: []\n", "", 0)


def test_ray_is_imported_only_when_it_is_chosen():
    code = (
        "import sys, os, paramsurvey\n"
        "paramsurvey.init(verbose=0, ncores=1, pslogger_fd=open(os.devnull, 'w'))\n"
        "rows = paramsurvey.map(lambda pset, system, user: {'ray': 'ray' in sys.modules}, [{'n': 1}]).to_dict()\n"
        "print(rows[0]['ray'], 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False False\n"


# What it has, and what tasks ask for


def test_resources_are_told_for_each_node(ray_session):
    resources = ray_session().current_resources()
    [node] = resources["nodes"]
    assert (resources["num_cores"], node["num_cores"], node["num_gpus"]) == (CORES, CORES, 0)
    assert node["resources"] == {"odd": 1}
    assert resources["memory"] == node["memory"] > 0
    assert ray_session().current_core_count() == CORES


def test_a_stage_may_ask_for_more_and_fewer_run_at_once(ray_session, tmp_path):
    session = ray_session()
    psets = [{"n": n} for n in range(6)]
    for settings, most in (({"num_cores": 3}, 1), ({"resources": {"odd": 0.5}}, 2), ({"num_cpus": 1}, 3)):
        results = session.map(ray_workers.counts_who_runs, psets, ray=settings, user_kwargs=str(tmp_path))
        assert max(results.results["running"]) <= most
        assert results.missing.empty


def test_half_cores_run_twice_as_many(ray_session, tmp_path):
    psets = [{"n": n, "party": [0, 1, 2, 3, 4, 5]} for n in range(6)]
    results = ray_session().map(
        bad_workers.waits_for_all, psets, ray={"num_cpus": 0.5}, user_kwargs={"folder": str(tmp_path)}
    )
    assert results.missing["_exception"].tolist() == []


def test_psets_may_ask_for_resources_and_workers_see_their_dicts_unchanged(ray_session):
    wishes = [{"num_cores": 1}, {"num_cpus": 2, "name": "large"}, {"resources": {"odd": 1}}, "no wish"]
    psets = [{"n": n, "ray": wishes[n // 3 % 4]} for n in range(24)]
    results = ray_session().map(ray_workers.tells_its_resources, psets, group_size=24)
    assert results.missing["_exception"].tolist() == []
    rows = results.to_dict()
    assert [row["ray"] for row in rows] == [pset["ray"] for pset in psets] == [row["seen"] for row in rows]
    assert [row["cpus"] for row in rows] == [2 if n // 3 % 4 == 1 else 1 for n in range(24)]
    assert [row["odd"] for row in rows] == [1 if n // 3 % 4 == 2 else 0 for n in range(24)]


def test_what_no_node_can_ever_give_is_refused_at_once_with_what_there_is(ray_session):
    session = ray_session()
    has = rf"no node of the Ray cluster can ever run a task with .*GPU=1; it has .*: {CORES} cores, 0 GPUs, .* 1 'odd'"
    with pytest.raises(OptionError, match=has):
        session.map(bad_workers.healthy, [{"n": 1, "bad": False}], ray={"num_gpus": 1})
    with pytest.raises(OptionError, match=has) as info:
        session.map(bad_workers.healthy, [{"n": 1, "bad": False}, {"n": 2, "bad": False, "ray": {"num_gpus": 1}}])
    assert info.value.results.progress.finished == 0
    with pytest.raises(OptionError, match="no node"):
        ray_session(ray={"num_cpus": CORES + 1})


def test_settings_that_are_none_are_refused_by_name(ray_session):
    session = ray_session()
    psets = [{"n": 1, "bad": False}]
    with pytest.raises(
        OptionError, match=r"ray=\{'num_gpu': 1\}: .* has no setting 'num_gpu'; did you mean 'num_gpus'\?"
    ):
        session.map(bad_workers.healthy, psets, ray={"num_gpu": 1})
    with pytest.raises(OptionError, match=r"has no setting 'x'; there are: 'name', 'num_cpus', .*'address', 'init'"):
        session.map(bad_workers.healthy, psets, ray={"x": 1})
    with pytest.raises(OptionError, match="num_cores is another name for num_cpus; give one of them"):
        session.map(bad_workers.healthy, psets, ray={"num_cpus": 1, "num_cores": 1})
    with pytest.raises(OptionError, match="num_cpus must be a number, 0 or more"):
        session.map(bad_workers.healthy, psets, ray={"num_cpus": "all"})
    with pytest.raises(OptionError, match="resources must be a dict of names and amounts"):
        session.map(bad_workers.healthy, psets, ray={"resources": ["odd"]})
    with pytest.raises(OptionError, match=r"ray=\{'address': ...\} is for init\(\): there is one Ray for all surveys"):
        session.map(bad_workers.healthy, psets, ray={"address": "auto"})


def test_ncores_bounds_what_runs_at_once(ray_session, tmp_path):
    session = ray_session()
    for ncores in (1, 1 - CORES):
        results = session.map(
            ray_workers.counts_who_runs, [{"n": n} for n in range(4)], ncores=ncores, user_kwargs=str(tmp_path)
        )
        if ncores > 0:
            assert max(results.results["running"]) == 1
        assert results.missing.empty


def test_room_is_counted_by_node():
    nodes = [
        Node(address="a", resources={"CPU": 4, "memory": 100, "GPU": 1}),
        Node(address="b", resources={"CPU": 3, "memory": 30}),
    ]
    cases = [
        ({}, 7),
        ({"num_cpus": 2}, 3),
        ({"num_cpus": 0.5}, 14),
        ({"num_cpus": 0.1}, 70),
        ({"memory": 20}, 5),
        ({"num_gpus": 0.25}, 4),
        ({"num_gpus": 2}, 0),
        ({"num_cpus": 0}, 7),
        ({"resources": {"licence": 1}}, 0),
    ]
    for settings, expected in cases:
        assert room(nodes, demand_of(settings, "ray=")) == expected, settings
    refuse_if_impossible(Demand(num_cpus=9), [], "nothing is known of the nodes: ")


# Where to join


def test_an_address_is_looked_for_in_the_order_that_is_promised(tmp_path):
    head, home = tmp_path / "head", tmp_path / "home"
    home.mkdir()
    head.write_text("10.0.0.1:6379 secret\n")
    everything = {"RAY_HEAD_FILE": str(head), "RAY_ADDRESS": "10.0.0.3:6379"}
    assert find_head("auto", everything, home) == Head("auto")
    assert find_head(None, everything, home) == Head("10.0.0.1:6379", "secret", f"RAY_HEAD_FILE={head}")
    del everything["RAY_HEAD_FILE"]
    assert find_head(None, everything, home) == Head("10.0.0.3:6379", source="RAY_ADDRESS=10.0.0.3:6379")
    (home / ".ray-head-details").write_text("10.0.0.2:6379 secret")
    assert find_head(None, everything, home) == Head("10.0.0.2:6379", "secret", "~/.ray-head-details")
    assert find_head(None, {"RAY_ADDRESS": "local"}, tmp_path) is None
    assert find_head(None, {}, tmp_path) is None
    assert "secret" not in repr(Head("10.0.0.1:6379", "secret"))


def test_a_head_file_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(BackendError, match=r"RAY_HEAD_FILE=/no/file: the file .* cannot be read"):
        find_head(None, {"RAY_HEAD_FILE": "/no/file"}, tmp_path)
    (tmp_path / ".ray-head-details").write_text("\n")
    with pytest.raises(BackendError, match=r"~/.ray-head-details: the file should have the address .* but is empty"):
        find_head(None, {}, tmp_path)
    with pytest.raises(BackendError, match=r"Ray Client.*run the program on a node of the cluster"):
        find_head("ray://10.0.0.1:10001", {}, tmp_path)


def test_a_second_address_is_refused_while_there_is_another_ray(ray_session):
    with pytest.raises(BackendError, match=r"joined a Ray of its own already.*paramsurvey.finalize\(\) leaves it"):
        ray_session(ray={"address": "10.0.0.1:6379"})


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Version mismatch: The cluster was started with: Ray: 2.41"), "the Ray of the cluster"),
        (ConnectionError("InvalidAuthToken: Authentication token is missing"), "the same RAY_AUTH_MODE and the same"),
        (ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"), "the same RAY_AUTH_MODE and the same"),
        (ConnectionError("Could not find any running Ray instance."), "see with `ray status` whether it runs"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named_with_the_remedy(error, says):
    text = why_not_joined(Head("10.0.0.1:6379", "secret", "RAY_ADDRESS=10.0.0.1:6379"), error)
    assert text.startswith("the Ray at '10.0.0.1:6379' cannot be joined (RAY_ADDRESS=10.0.0.1:6379): ")
    assert says in text
    assert "secret" not in text
    assert "a Ray of our own cannot be started" in why_not_joined(None, error)


def test_a_ray_that_is_not_there_is_said_at_once_in_one_message(ray_environment):
    """In a process of its own, because a process has one Ray."""
    code = (
        "import paramsurvey\n"
        "try:\n    paramsurvey.init(backend='ray', verbose=0, ray={'address': '127.0.0.1:1'})\n"
        "except paramsurvey.errors.BackendError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    expected = "the Ray at '127.0.0.1:1' cannot be joined (ray={'address': ...}): ConnectionRefusedError"
    assert expected in done.stdout
    assert done.stderr == ""


# How values travel


def test_the_table_is_that_of_the_serial_backend(ray_session):
    psets = [{"n": n, "x": value} for n, value in enumerate([1, True, 2**53 + 1, 2**70, 0.1, None, "a", (1, 2)] * 40)]
    results = [ray_session(backend).map(ray_workers.echoes, psets) for backend in ("serial", "ray")]
    assert results[0].to_dict() == results[1].to_dict()
    assert results[0].results.dtypes.tolist() == results[1].results.dtypes.tolist()


def test_workers_of_main_and_of_closures_travel_with_their_code(ray_session):
    factor = 3
    results = ray_session().map(lambda pset, system, user: {"x": pset["n"] * factor * user}, [{"n": 2}], user_kwargs=5)
    assert results.to_dict() == [{"n": 2, "x": 30}]


def test_a_module_that_the_cluster_does_not_have_is_sent_along(ray_session, tmp_path, monkeypatch):
    (tmp_path / "at_home.py").write_text(
        "FACTOR = 7\n"
        "def helper(n):\n    return n * FACTOR\n"
        "def worker(pset, system_kwargs, user_kwargs):\n    return {'x': helper(pset['n'])}\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        import at_home
    (tmp_path / "at_home.py").unlink()
    results = ray_session().map(at_home.worker, [{"n": n} for n in range(5)])
    assert [row["x"] for row in results.to_dict()] == [0, 7, 14, 21, 28]
    del sys.modules["at_home"]


def test_a_module_that_cannot_be_sent_along_is_named_with_the_node(ray_session, tmp_path, monkeypatch):
    (tmp_path / "locked.py").write_text(
        "import threading\n"
        "LOCK = threading.Lock()\n"
        "def worker(pset, system_kwargs, user_kwargs):\n    with LOCK:\n        return {}\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        import locked
    (tmp_path / "locked.py").unlink()
    with pytest.raises(
        WorkerStartError, match=r"the node \S+ has no module 'locked', which the worker needs; install it there.*lock"
    ):
        ray_session().map(locked.worker, [{"n": n} for n in range(5)])
    del sys.modules["locked"]


def test_frames_in_user_kwargs_can_be_written_to_and_large_arrays_are_shared(ray_session):
    given = {"frame": pd.DataFrame({"x": np.zeros(100_000)}), "array": np.zeros(1_000_000)}
    results = ray_session().map(ray_workers.writes_to_its_frame, [{"n": n} for n in range(6)], user_kwargs=given)
    assert results.missing["_exception"].tolist() == []
    assert not any(row["array_is_ours"] for row in results.to_dict())
    assert given["frame"]["x"].sum() == 0


def test_large_answers_reach_the_next_stage_without_the_driver(ray_session):
    session = ray_session()
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes).map(ray_workers.adds_up)
    psets = [{"n": n, "size": 2**18} for n in range(12)]
    expected = [n * 2**18 for n in range(12)]
    run = session.run(pipeline, psets, keep="sinks")
    assert [row["total"] for row in run["adds_up"].iterdicts()] == expected
    assert all(row["is_writable"] for row in run["adds_up"].iterdicts())
    brought = [row["array"] for row in run["adds_up"].iterdicts()]
    assert [array.sum() for array in brought] == expected
    assert brought[0].flags.writeable


def peak_of_this_process():
    """Return its greatest use of memory in bytes since `forget_peak`, memory that it shares included."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


ROWS_BETWEEN = {
    "nothing": lambda pipeline: pipeline,
    "product": lambda pipeline: pipeline.product({"k": [0, 1]}),
    "rename and drop": lambda pipeline: pipeline.rename({"array": "it"}).drop("size").rename({"it": "array"}),
    "keep": lambda pipeline: pipeline.keep("n", "array"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("between", ROWS_BETWEEN.values(), ids=ROWS_BETWEEN)
def test_large_answers_never_come_to_the_driver_on_their_way_to_the_next_map_stage(between, ray_session, monkeypatch):
    import ray

    gets, get = [], ray.get
    monkeypatch.setattr(ray, "get", lambda refs, **more: gets.append(refs) or get(refs, **more))
    pipeline = between(Pipeline("large").map(ray_workers.makes_megabytes)).map(ray_workers.adds_up).keep("n", "total")
    session, size = ray_session(), 2**20
    session.run(pipeline, [{"n": 0, "size": 1}])  # what is loaded once
    forget_peak()
    before = peak_of_this_process()
    run = session.run(pipeline, [{"n": n, "size": size} for n in range(10)], keep="sinks")
    assert sorted(set(run.results["total"])) == [n * size for n in range(10)]
    assert gets == []
    assert peak_of_this_process() - before < 4 * 8 * size  # of 80 MB


@pytest.mark.parametrize("keep_results", [True, False])
def test_rows_between_are_kept_with_their_large_answers(keep_results, ray_session):
    """Also if those of the map stage above, which are the same, are not."""
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes, keep_results=keep_results).keep("n", "array")
    run = ray_session().run(pipeline.map(ray_workers.adds_up), [{"n": n, "size": 2**18} for n in range(3)])
    assert [array.sum() for array in run["keep"]["array"]] == [n * 2**18 for n in range(3)]
    assert run["adds_up"].results["total"].tolist() == [n * 2**18 for n in range(3)]


def test_large_answers_of_a_kept_stage_are_brought(ray_session):
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes).map(ray_workers.adds_up)
    run = ray_session().run(pipeline, [{"n": n, "size": 2**18} for n in range(6)])
    assert [row["array"].sum() for row in run["makes_megabytes"].iterdicts()] == [n * 2**18 for n in range(6)]
    assert run["adds_up"].results["total"].tolist() == [n * 2**18 for n in range(6)]


def test_a_missing_row_has_its_large_parameters(ray_session):
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes).map(ray_workers.refuses)
    run = ray_session().run(pipeline, [{"n": n, "size": 2**18} for n in range(3)], keep="sinks")
    assert [row["array"].sum() for row in run["refuses"].missing_psets()] == [n * 2**18 for n in range(3)]


# Its ends, in our words


def test_how_ray_lost_a_task_is_said_in_our_words():
    from ray import exceptions

    cases = [
        (exceptions.WorkerCrashedError(), Died, "its worker process died: it crashed, exited or was killed"),
        (exceptions.OutOfMemoryError("x"), Died, "its node was short of memory; ask for more with ray={'memory'"),
        (exceptions.NodeDiedError("gone\nand so on"), Displaced, "and the node that it ran on: gone"),
        (exceptions.TaskCancelledError(), Killed, "cancelled"),
        (exceptions.RaySystemError("odd"), Died, "Ray says RaySystemError"),
    ]
    for error, kind, text in cases:
        lost = how_it_ended(error)
        assert type(lost) is kind
        assert text in str(lost)
        for_memory = isinstance(error, exceptions.OutOfMemoryError)
        assert getattr(lost, "was_killed", False) is for_memory


def test_what_ray_ended_for_memory_is_run_again_with_nothing_beside_it():
    from ray import exceptions

    for error, is_for_itself in ((exceptions.OutOfMemoryError("x"), True), (exceptions.WorkerCrashedError(), False)):
        dispatcher = Dispatcher(1, Chunker(slots=2), retries=Retries(alone=True))
        assert dispatcher.ended(dispatcher.take(), how_it_ended(error)) == []
        assert (dispatcher.take() is None) is is_for_itself
        assert (dispatcher.take_for_itself() is not None) is is_for_itself


def test_a_process_is_replaced_after_so_many_psets(ray_session):
    for most in (1, 4):
        results = ray_session().map(
            bad_workers.tells_its_process, [{"n": n} for n in range(12)], max_tasks_per_child=most
        )
        assert results.results["pid"].value_counts().max() <= most


def test_rows_say_of_themselves_where_they_ran_and_what_they_printed(ray_session):
    frame = ray_session().map(ray_workers.prints, [{"n": n} for n in range(3)], details=True).results
    assert frame["_stdout"].tolist() == ["n 0\n", "n 1\n", "n 2\n"]
    assert frame["_pid"].tolist() == frame["pid"].tolist()


def test_a_journal_remembers_large_answers_and_what_came_of_them(ray_session, tmp_path):
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes).map(ray_workers.adds_up)
    psets = [{"n": n, "size": 200_000} for n in range(4)]
    for known in (0, 8):
        results = ray_session().run(pipeline, psets, journal=tmp_path / "journal")
        assert results.progress.from_journal == known
        assert results.results["total"].tolist() == [200_000 * n for n in range(4)]
