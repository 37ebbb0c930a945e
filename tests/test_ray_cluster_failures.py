"""The failure list on a Ray cluster of three nodes: what holds on a Ray of our own holds there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_here import ray_environment
from test_failures_hanging import HANGS
from test_ray_cluster import Nodes, nodes
from test_ray_failures import NOT_ON_RAY, test_bad_psets_are_missing_with_a_reason_and_all_others_finish
from test_ray_failures import test_a_pset_that_hangs_is_ended as one_that_hangs_is_ended

import paramsurvey

__all__ = ["nodes", "ray_environment", "test_bad_psets_are_missing_with_a_reason_and_all_others_finish"]

pytestmark = [pytest.mark.timeout(90), pytest.mark.filterwarnings("default")]

NOT_ON_A_CLUSTER = ("waits_for_a_program", "waits_for_a_shell")
"""Programs that a worker has started end with it as the cluster was set up."""


@pytest.fixture
def ray_session(nodes: Nodes, tmp_path: Path) -> Iterator[Callable[..., paramsurvey.Session]]:
    """Open sessions on the cluster that are closed at the end."""
    sessions = []

    def open_session(backend: str = "ray", **options: Any) -> paramsurvey.Session:
        given = {"verbose": 0, "pslogger_prefix": str(tmp_path / ".log-"), "ray": {"address": nodes.cluster.address}}
        sessions.append(paramsurvey.Session(backend=backend, **(given | options)))
        return sessions[-1]

    with nodes.two():
        yield open_session
    for session in sessions:
        session.close()


@pytest.mark.parametrize(
    "worker",
    [each for each in HANGS if each.__name__ not in (*NOT_ON_RAY, *NOT_ON_A_CLUSTER)],
    ids=lambda each: each.__name__,
)
def test_a_pset_that_hangs_is_ended(worker, ray_session, tmp_path):
    one_that_hangs_is_ended(worker, ray_session, tmp_path)
