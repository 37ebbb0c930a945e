"""One Ray for all tests of a module: starting one takes four seconds, and a worker process most of one."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import paramsurvey
from paramsurvey.testing import BackendContract

CORES = 3
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",  # Ray would make a token in the home folder
    "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "500",  # 20 s until a node's death is noticed become 2
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
os.environ.update(ENVIRONMENT)  # Ray reads them when it is imported
pytest.importorskip("ray", reason="the backend 'ray' is not installed: pip install 'paramsurvey[ray]'")
STORE_BYTES = 300 * 2**20


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[Path]:
    """Have Ray know no cluster, and keep its files in a folder with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="psray", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("HOME", str(folder))
        for name in ("RAY_ADDRESS", "RAY_HEAD_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def local_ray(ray_environment: Path) -> Iterator[Any]:
    """Keep a Ray of our own alive, which the sessions of tests join."""
    from paramsurvey.backends.ray.backend import RayBackend

    backend = RayBackend({"init": {"object_store_memory": STORE_BYTES, "resources": {"odd": 1}}}, CORES)
    yield backend
    backend.close()


@pytest.fixture
def ray_session(local_ray: Any, tmp_path: Path) -> Iterator[Callable[..., paramsurvey.Session]]:
    """Open sessions on it that are closed at the end."""
    sessions = []

    def open_session(backend: str = "ray", **options: Any) -> paramsurvey.Session:
        options = {"verbose": 0, "pslogger_prefix": str(tmp_path / ".log-")} | options
        sessions.append(paramsurvey.Session(backend=backend, **options))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


class RayContract(BackendContract):
    """The contract, on a Ray that others use, too."""

    can_kill = True

    @pytest.fixture(autouse=True)
    def _no_hurry(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task returns what it has after a second, which is short for some, who import numpy on a loaded machine."""
        if (
            "of_a_chunk" in request.node.name
            or "every_row_once" in request.node.name
            or "left_where" in request.node.name
        ):
            monkeypatch.setattr("paramsurvey.backends.ray.backend.LONGEST_SECONDS", 30.0)

    def make_backend(self) -> Any:
        from paramsurvey.backends.ray.backend import RayBackend

        return RayBackend()

    def running(self) -> set[Any]:
        return set(threading.enumerate())

    def test_nothing_is_left_running_after_close(self) -> None:
        """The worker processes stay, because others use them, too: see the test of a whole program."""
