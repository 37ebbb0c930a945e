"""A Ray cluster of three nodes, on one machine: nodes die, with their workers, and come, while surveys run.

Killing a raylet alone is no node's death, because what runs there goes on: its workers are killed with it. What can run
on the doomed nodes alone asks for a resource that the head does not have, so something is lost for certain.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray_workers
from conftest import wait_until
from ray_here import STORE_BYTES, RayContract, ray_environment

import paramsurvey
from paramsurvey import Pipeline
from paramsurvey.backends.ray.backend import RayBackend

__all__ = ["ray_environment"]  # a fixture

pytestmark = [pytest.mark.timeout(90), pytest.mark.filterwarnings("default")]

OUTSIDE = {"resources": {"outside": 0.001}}


class Nodes:
    """The cluster, and what can happen to it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        store = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
        self.nodes = []
        self.ours = ""  # the node with which this program talks: since they share an address, old Rays take any
        self.add()
        self.add()

    @contextmanager
    def two(self):
        """Have two nodes beside the head; end those that came meanwhile, for they belong to the test."""
        before = list(self.nodes)
        while len(self.nodes) < 2:
            self.add()
        yield
        for node in [node for node in self.nodes if node not in before]:
            self.kill(node)

    def add(self):
        node = self.cluster.add_node(num_cpus=2, resources={"outside": 1}, object_store_memory=STORE_BYTES, wait=True)
        self.nodes.append(node)
        return node

    def kill(self, node):
        """End a node's raylet and all its workers, as a machine that loses its power does."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [*raylet.children(recursive=True), raylet]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self):
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(ray_environment):
    import ray

    nodes = Nodes()
    joined = RayBackend({"address": nodes.cluster.address})
    nodes.ours = ray.get_runtime_context().get_node_id()
    yield nodes
    joined.close()
    ray.shutdown()
    nodes.close()


@pytest.fixture
def session(nodes, tmp_path):
    options = {"verbose": 0, "pslogger_prefix": str(tmp_path / ".log-"), "ray": {"address": nodes.cluster.address}}
    with nodes.two(), paramsurvey.Session(backend="ray", **options) as session:
        yield session


@pytest.mark.usefixtures("nodes")
class TestRayCluster(RayContract):
    """All that is promised of a backend."""


JOINING = """
import os, sys, time
import paramsurvey
try:
    paramsurvey.init(backend="ray", verbose=0, pslogger_fd=open(os.devnull, "w"), ray={"address": sys.argv[1]})
except paramsurvey.errors.BackendError as error:
    print(error)
else:
    print("joined")
    paramsurvey.finalize()
"""
REFUSED = (
    "cannot be joined (ray={'address': ...}): AuthenticationError: ",
    "; this program needs the same RAY_AUTH_MODE and the same token as head and nodes: set RAY_AUTH_TOKEN, "
    "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; it has RAY_AUTH_MODE=",
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ["joined\n"]),
        ({"RAY_AUTH_TOKEN": "f" * 32}, ["Authentication token is missing or incorrect", "RAY_AUTH_MODE=token\n"]),
        ({"RAY_AUTH_TOKEN": None}, ["no authentication token was found", "RAY_AUTH_MODE=token\n"]),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": None}, ["token is missing or incorrect", "RAY_AUTH_MODE=\n"]),
    ],
    ids=["the right one", "a wrong one", "none", "no tokens at all"],
)
def test_the_token_of_the_cluster_is_needed_to_join_it_and_the_lack_of_it_is_said_at_once(change, says, nodes):
    """Ray itself tries for 20 s, and prints a line each second."""
    import ray

    if not hasattr(ray.exceptions, "AuthenticationError"):
        pytest.skip(f"Ray {ray.__version__} knows no tokens")
    environment = {name: value for name, value in {**os.environ, **change}.items() if value is not None}
    command = [sys.executable, "-c", JOINING, nodes.cluster.address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=15, check=True)
    assert done.stderr == ""
    for each in says if not change else (*REFUSED, *says):
        assert each in done.stdout


def killing_the_first(nodes, folder: Path):
    """Kill, in a thread, the node on which the first row runs that may be anywhere outside."""

    def doomed():
        named = {path.name.split("-")[1] for path in folder.glob("here-*")} - {nodes.ours}
        return next((node for node in nodes.nodes if node.node_id in named), None)

    def kill() -> None:
        wait_until(lambda: len(list(folder.glob("here-*"))) >= 4 and doomed() is not None, 30)
        nodes.kill(doomed())
        (folder / "killed").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_node_that_dies_in_a_pipeline_changes_nothing(session, nodes, tmp_path):
    psets = [{"n": n} for n in range(16)]
    pipeline = (
        Pipeline("two stages")
        .map(ray_workers.says_where, ray=OUTSIDE, user_kwargs=str(tmp_path))
        .map(ray_workers.adds_one, ray=OUTSIDE, user_kwargs=str(tmp_path))
    )
    thread = killing_the_first(nodes, tmp_path)
    run = session.run(pipeline, psets)
    thread.join()
    assert (tmp_path / "killed").exists()
    assert run.missing.empty
    assert run.results.to_dict("records") == [{"n": n, "square": n * n, "more": n * n + 1} for n in range(16)]


def test_a_node_that_dies_in_a_greedy_search_changes_nothing(session, nodes, tmp_path):
    items = [0, 1, 2, 3, 4, 5]
    options = {"picks": 2, "user_kwargs": str(tmp_path)}
    with paramsurvey.Session(backend="serial", verbose=0, pslogger_prefix=str(tmp_path / ".log-")) as serial:
        expected = serial.greedy(ray_workers.value_of, items, **options)
    for path in tmp_path.glob("here-*"):
        path.unlink()
    thread = killing_the_first(nodes, tmp_path)
    found = session.greedy(ray_workers.value_of, items, ray=OUTSIDE, **options)
    thread.join()
    assert (tmp_path / "killed").exists()
    assert (found.keys, found.value) == (expected.keys, expected.value)
    assert found.picks.to_dict("records") == expected.picks.to_dict("records")


def test_a_node_that_comes_during_a_run_gets_work(session, nodes, tmp_path):
    psets, rows, added = [{"n": n} for n in range(60)], [], []
    for row in session.stream(ray_workers.says_where, psets, ray=OUTSIDE, user_kwargs=str(tmp_path)):
        rows.append(row["n"])
        if len(rows) == 4:
            added.append(nodes.add())
    assert sorted(rows) == list(range(60))
    assert list(tmp_path.glob(f"here-{added[0].node_id}-*"))


def test_large_answers_cross_between_nodes(session):
    pipeline = Pipeline("large").map(ray_workers.makes_megabytes, ray=OUTSIDE).map(ray_workers.adds_up)
    run = session.run(pipeline, [{"n": n, "size": 2**18} for n in range(8)], keep="sinks")
    assert run["adds_up"].results["total"].tolist() == [n * 2**18 for n in range(8)]


def test_each_node_is_told_of(session):
    resources = session.current_resources()
    assert sorted(node["num_cores"] for node in resources["nodes"])[:3] == [1, 2, 2]
