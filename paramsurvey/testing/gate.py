"""A place where calls wait for the test, so that the test need not wait for them."""

from __future__ import annotations

import socket
import threading
from typing import Any

from paramsurvey.testing.calls import Address
from paramsurvey.testing.claims import claim

MOMENT = 0.2
"""Seconds in which what must not happen would have happened."""


class Gate:
    """A place where calls stay until the test lets them go on, wherever on this machine they run.

    Each call is a connection to a socket of the test's: so the test knows how many have arrived, and, by the end of the
    connection, that a process is gone; and nobody has to look again and again.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._is_open = False
        self._is_removed = False
        self.met = 0  # how many calls had come when `open_when` opened
        self.address: Address = self._listener.getsockname()

    def __enter__(self) -> Gate:
        threading.Thread(target=self._accept, name="paramsurvey-gate", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # or accept() does not notice
        except OSError:
            pass
        self._listener.close()
        with self._changed:
            self._is_removed = True
            for connection in self._connections:
                connection.close()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with self._changed:
                    if self._is_removed:
                        connection.close()
                        return
                    self._connections.append(connection)
                    if self._is_open:
                        _let_through(connection)
                    self._changed.notify_all()
        except OSError:  # the gate was removed
            pass

    @property
    def arrived(self) -> int:
        """How many calls have come so far."""
        return len(self._connections)

    def open(self) -> None:
        """Let all calls through, also those that come later."""
        with self._changed:
            self._is_open = True
            for connection in self._connections:
                _let_through(connection)

    def wait_for(self, count: int) -> None:
        """Wait until so many calls have come."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.arrived >= count, self._patience)
        claim(arrived, f"of {count} calls that should run now, {self.arrived} do")

    def gets_more_than(self, count: int) -> bool:
        """Tell whether more calls come than these; they have a moment for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self.arrived > count, MOMENT)

    def open_when(self, count: int) -> None:
        """Open as soon as so many calls have come, or after the patience."""
        with self._changed:
            self._changed.wait_for(lambda: self.arrived >= count, self._patience)
            self.met = self.arrived
        self.open()

    def wait_for_the_end(self) -> None:
        """Wait until whoever has come is gone without being let through."""
        for connection in self._connections:
            connection.settimeout(self._patience)
            try:
                claim(not connection.recv(1), "a call has said something")
            except TimeoutError:
                claim(False, f"a call that was ended still runs after {self._patience:g} s")
            except ConnectionError:
                pass


def _let_through(connection: socket.socket) -> None:
    try:
        connection.send(b"!")
    except OSError:  # whoever waited is gone
        pass


def rows_with_gate(gate: Gate, count: int, at: set[int], patience: float) -> list[dict[Any, Any]]:
    """Return psets of which some make `stay_at_some` stay at a gate."""
    host, port = gate.address
    return [{"i": i, "host": host, "port": port if i in at else 0, "patience": patience} for i in range(count)]
