"""The backend that stays in this process: for debuggers, profilers and very small surveys."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import attrs

from paramsurvey.engine.records import TaskOptions
from paramsurvey.errors import BackendError
from paramsurvey.folders import current_folder


@attrs.frozen
class InProcess:
    """A constant that is already where it is needed."""

    obj: Any

    def load(self) -> Any:
        """Return the constant."""
        return self.obj

    def close(self) -> None:
        """There is nothing to forget."""


@attrs.define(eq=False)
class SerialBackend:
    """Calls each submission at once, in the thread that submits it."""

    name: str = "serial"
    can_kill: bool = False
    runs_alone: bool = True
    is_here: bool = True
    _closed: bool = attrs.field(default=False, init=False)

    def slots(self) -> int:
        """Return 1: there is one of us."""
        return 1

    def publish(self, obj: Any) -> InProcess:
        """Return a handle to the very object."""
        return InProcess(obj)

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:  # noqa: ARG002
        """Call, and return a future that is done."""
        if self._closed:
            raise BackendError("the backend is closed; open a new session")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        folder = current_folder()
        try:
            result = fn(*args)
        except BaseException as exc:  # noqa: BLE001 - a future carries whatever was raised
            future.set_exception(exc)
        else:
            future.set_result(result)
        finally:
            if folder is not None and folder != current_folder():
                os.chdir(folder)  # where the caller was
        return future

    def recall(self, future: Future[Any]) -> None:
        """Everything submitted is over."""

    def kill(self, future: Future[Any]) -> None:
        """Everything submitted is over."""

    def resources(self) -> dict[str, Any]:
        """Return this one core."""
        return {"num_cores": 1}

    def close(self) -> None:
        """Take no more submissions."""
        self._closed = True
