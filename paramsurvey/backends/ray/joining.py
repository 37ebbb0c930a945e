"""Joining a cluster or starting a Ray of our own, and being quiet about it.

There is one Ray in a process, so several sessions share it (`CONNECTION`); the last one to leave ends it, but only if
it was one of us who began it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import ray
from ray._private import services
from ray._private import worker as insides  # nothing public keeps it from printing to standard output
from ray._raylet import GcsClient  # or says in less than 20 s that a token is wrong

from paramsurvey.errors import BackendError

HEAD_FILE = ".ray-head-details"
OLDEST = (2, 40)
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_process_group_cleanup_enabled": "1"}
"""What a Ray of our own is started with: it tells nobody of its use, and programs of a worker end with it."""
KNOCKING_SECONDS = 5.0
STANDARD_ERROR = 2
_TOKENS = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


@attrs.frozen
class Head:
    """Where to join, and who says so."""

    address: str
    password: str = attrs.field(default="", repr=False)
    source: str = "ray={'address': ...}"


def find_head(given: str | None, environ: Mapping[str, str], home: Path) -> Head | None:
    """Return the cluster to join; None to start a Ray of our own.

    What was given counts first, then the file that ``RAY_HEAD_FILE`` names, then ``~/.ray-head-details`` (both with
    "address password"), then ``RAY_ADDRESS``.

    Raises
    ------
    BackendError
        The file cannot be read, or is empty; or the address is one of Ray Client.
    """
    head = _find_head(given, environ, home)
    if head is not None and "://" in head.address:
        raise BackendError(
            f"{head.source}: the address {head.address!r} is one of Ray Client, which the backend 'ray' does not use; "
            "run the program on a node of the cluster, with the address 'auto'"
        )
    return head


def _find_head(given: str | None, environ: Mapping[str, str], home: Path) -> Head | None:
    if given:
        return Head(given)
    if named := environ.get("RAY_HEAD_FILE"):
        return _read_head(Path(named), f"RAY_HEAD_FILE={named}")
    if (home / HEAD_FILE).exists():
        return _read_head(home / HEAD_FILE, f"~/{HEAD_FILE}")
    if address := environ.get("RAY_ADDRESS"):
        return None if address == "local" else Head(address, source=f"RAY_ADDRESS={address}")
    return None


def _read_head(path: Path, source: str) -> Head:
    try:
        words = path.read_text().split()
    except OSError as exc:
        raise BackendError(f"{source}: the file with the address of the Ray head cannot be read: {exc}") from exc
    if not words:
        raise BackendError(f"{source}: the file should have the address of the Ray head and its password, but is empty")
    return Head(words[0], " ".join(words[1:2]), source)


def _do_nothing() -> None:
    pass


@attrs.define(eq=False)
class Connection:
    """The one connection to Ray that a process has: how many use it, and whether it was begun here."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    users: int = 0
    is_ours: bool = False
    head: Head | None = None
    restore: Callable[[], None] = _do_nothing

    def join(self, head: Head | None, cores: int | None, more: Mapping[str, Any], *, verbose: bool) -> None:
        """Join a cluster, start a Ray, or use what is there."""
        with self.lock:
            if not self.users:
                self.is_ours = not ray.is_initialized()
                if self.is_ours:
                    self.restore = _begin(head, cores, more, verbose=verbose)
                self.head = head
            elif head is not None and self.head != head:
                where = "a Ray of its own" if self.head is None else self.head.address
                raise BackendError(
                    f"this program has joined {where} already, and a process can be part of one Ray only: "
                    f"paramsurvey.finalize() leaves it, before {head.address!r} is joined"
                )
            self.users += 1

    def leave(self) -> None:
        """Somebody needs it no longer."""
        with self.lock:
            self.users -= 1
            if not self.users and self.is_ours:
                ray.shutdown()
                self.restore()


CONNECTION = Connection()
"""State in a module, because Ray's own is: a process has one connection."""


def _begin(head: Head | None, cores: int | None, more: Mapping[str, Any], *, verbose: bool) -> Callable[[], None]:
    """Connect; return how to make undone what was done to be quiet."""
    restore = _do_nothing if verbose else _silence()
    keywords: dict[str, Any] = {"include_dashboard": False, "log_to_driver": verbose}
    if not verbose:
        keywords["logging_level"] = logging.CRITICAL
    if head is None:
        keywords |= {"address": "local", "num_cpus": cores, "_node_ip_address": "127.0.0.1"}
    else:
        keywords["address"] = head.address
        del keywords["include_dashboard"]
        if head.password:
            keywords["_redis_password"] = head.password
    try:
        if head is not None:
            _refuse_if_nobody_listens(head.address)
            with nullcontext() if verbose else _deaf_to_native_words():
                _refuse_if_not_let_in(head.address)
        with _own_signals(), _environment(_QUIET if head is None and not verbose else {}), warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            ray.init(**{**keywords, **more})
    except BaseException as exc:
        restore()
        if isinstance(exc, Exception):
            raise BackendError(why_not_joined(head, exc)) from exc
        raise
    return restore


def _refuse_if_nobody_listens(address: str) -> None:
    """Raise `ConnectionError` at once where Ray would try for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCKING_SECONDS).close()


def _refuse_if_not_let_in(address: str) -> None:
    """Raise at once that a token is missing or wrong; Ray would try for 20 s, and then not say so."""
    try:
        from ray._private.authentication import authentication_token_setup as tokens

        prepare, ensure = tokens.maybe_enable_token_auth_if_token_available, tokens.ensure_token_if_auth_enabled
    except (ImportError, AttributeError):  # this Ray knows no tokens, or keeps them elsewhere
        return
    if (where := services.canonicalize_bootstrap_address(address)) is None:
        return
    if address == "auto":  # as ray.init does
        prepare(warn_if_disabled=False)
    ensure(None, create_token_if_missing=False)  # without this, a missing token would end the process
    try:
        GcsClient(address=where)
    except Exception as exc:  # anything else is for joining to show, if it matters
        if isinstance(exc, ray.exceptions.AuthenticationError):
            raise


@contextmanager
def _deaf_to_native_words() -> Iterator[None]:
    """Have nothing written to standard error for some milliseconds: Ray's C++ asks no logger before it does."""
    sys.stderr.flush()
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)


def why_not_joined(head: Head | None, exc: Exception) -> str:
    """Say why Ray cannot be joined or started, and what to do about it."""
    where = "a Ray of our own cannot be started" if head is None else f"the Ray at {head.address!r} cannot be joined"
    where += "" if head is None else f" ({head.source})"
    text, name = str(exc), type(exc).__name__
    if "ersion mismatch" in text:
        remedy = "the driver needs the Python and the Ray of the cluster: make an environment with those"
    elif head is not None and type(exc).__name__ == "AuthenticationError":
        text = text.partition(". Ensure that the token")[0]
        remedy = (
            f"this program needs the same RAY_AUTH_MODE and the same token as head and nodes: set {_TOKENS}; it has "
            f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', '')}"
        )
    elif head is not None:
        remedy = (
            "see with `ray status` whether it runs, run this program on one of its nodes, and with the same "
            f"RAY_AUTH_MODE and the same token ({_TOKENS}) as head and nodes have"
        )
    else:
        remedy = "Ray's own logs, in /tmp/ray/session_latest/logs, say more"
    return f"{where}: {name}: {text.strip()}; {remedy}"


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's own handler of SIGTERM: Ray would install one that exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for as long as Ray's processes are being started."""
    unset = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in unset})
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _silence() -> Callable[[], None]:
    """Have Ray print nothing: even with ``log_to_driver=False`` it tells of each death on standard output."""
    printing = getattr(insides, "print_to_stdstream", None)
    if printing is None:
        return _do_nothing

    def say_nothing(*_args: Any, **_more: Any) -> None:
        pass

    insides.print_to_stdstream = say_nothing

    def restore() -> None:
        insides.print_to_stdstream = printing

    return restore


def version_is_enough() -> bool:
    """Tell whether this Ray is one that we know."""
    return tuple(int(part) for part in ray.__version__.split(".")[:2]) >= OLDEST
