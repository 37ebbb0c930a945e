"""The guard: a small process that starts the workers, tells of their deaths, and ends them when the driver is gone.

It owns the process numbers: it alone forks, kills and reaps, and it kills a dead worker's group *before* it reaps the
worker, so a number is never used after the system may have given it to somebody else. It has one thread, no locks and
no user code, so forking it is safe and takes a millisecond.

The driver talks to it over a pair of sockets, in fixed-size messages; new workers' pipes travel with the message. When
the driver's end closes, or the guard finds that its parent is another (a fork of the driver may hold the socket open),
it kills every group and ends. If the guard itself is killed, the system kills the workers (``PR_SET_PDEATHSIG``, where
there is one), and the driver kills their groups. A guard that is there and does nothing, because somebody has stopped
it, would keep the driver from ending: it is continued, and if that does not help, killed (`Pool._mind_the_guard`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator

from paramsurvey.backends.multiprocessing import child, slot
from paramsurvey.backends.multiprocessing.messages import MESSAGE, Verb

CHECK_PARENT_SECONDS = 1.0
GRACE_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "/proc/self/oom_score_adj"


def main(control_fd: int, slots_fd: int, slots: int) -> None:
    """Run the guard until the driver is gone. Started by `pool.start_guard`."""
    control = socket.socket(fileno=control_fd)
    for fd in (control_fd, slots_fd):
        os.set_inheritable(fd, False)
    length = int.from_bytes(_receive(control, 8), "little")
    setup = pickle.loads(_receive(control, length))
    sys.path[:] = setup["sys_path"]
    shared = slot.attach(slots_fd, slots)
    guard = Guard(control, shared, _descriptors_of(slots_fd), setup["folder"], setup["last_words"])
    gc.collect()
    gc.freeze()  # what is here now is shared with every worker; collecting would copy it
    guard.run()
    child.leave()  # the driver waits for this process to end, and taking an interpreter down takes longer than all else


def _descriptors_of(slots_fd: int) -> list[int]:
    """Return all descriptors of the shared file: a mapping keeps one of its own."""
    found, this = [], os.fstat(slots_fd)
    for fd in range(3, slots_fd + 16):  # this process has just begun, and numbers are given from below
        try:
            if os.path.samestat(os.fstat(fd), this):
                found.append(fd)
        except OSError:
            pass
    return found


def _point_nowhere(fds: list[int]) -> None:
    """Have nothing happen if a worker's function writes to descriptors that are not its own.

    They are not closed, because somebody still counts on each: the mapping of the shared file on that of its own.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _receive(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = control.recv(count - len(data))
        if not piece:
            sys.exit(child.DRIVER_IS_GONE)
        data += piece
    return data


class Guard:
    """Owns the worker processes."""

    def __init__(
        self, control: socket.socket, shared: memoryview, slots_fds: list[int], folder: str, last_words: str
    ) -> None:
        self.control = control
        self.shared = shared
        self.slots_fds = slots_fds
        self.folder = folder
        self.last_words = last_words
        self.parent = os.getppid()
        self.workers: dict[int, int] = {}  # process number: worker number
        self.wakeup, wake = socket.socketpair()
        for sock in (self.wakeup, wake):
            sock.setblocking(False)
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its arrival writes to the wake-up socket
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the driver is gone, then end everything."""
        try:
            self._tell(Verb.READY, 0, os.getpid())
            while os.getppid() == self.parent:
                readable, _, _ = select.select([self.control, self.wakeup], [], [], CHECK_PARENT_SECONDS)
                if self.wakeup in readable:
                    self.wakeup.recv(4096)
                self._reap()
                if self.control in readable and not self._serve():
                    break
        except OSError:  # the driver vanished in the middle of a message
            pass
        finally:
            self._end()

    def _serve(self) -> bool:
        """Deal with one message; return False at the end of the connection."""
        data, fds, _, _ = socket.recv_fds(self.control, MESSAGE.size, 2)
        for fd in fds:
            os.set_inheritable(fd, False)  # no program that a worker starts should find them
        if not data:
            return False
        data += _receive(self.control, MESSAGE.size - len(data))
        verb, number, word = MESSAGE.unpack(data)
        if verb == Verb.START:
            self._start(number, word, *fds)
        elif verb == Verb.KILL:
            for pid, worker in self.workers.items():
                if worker == number:
                    _kill_group(pid)
        elif verb == Verb.READY:
            self._tell(Verb.READY, 0, os.getpid())
        return True

    def _start(self, number: int, place: int, tasks: int, results: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_worker(place, tasks, results)
        os.close(tasks)
        os.close(results)
        _set_group(pid)
        self.workers[pid] = number
        self._tell(Verb.STARTED, number, pid)

    def _become_worker(self, place: int, tasks: int, results: int) -> None:
        """Never returns."""
        code = 1
        try:
            _set_group(0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            guard_pid = os.getppid()
            _die_with_parent()
            if os.getppid() != guard_pid:
                os._exit(child.DRIVER_IS_GONE)
            for sock in (self.control, self.wakeup, self._wake):
                sock.close()
            _point_nowhere(self.slots_fds)
            _prefer_for_memory_kill()
            child.serve(tasks, results, slot.words_of(self.shared, place))
            code = 0
        finally:
            if code == 0:
                child.leave()
            os._exit(code)

    def _reap(self) -> None:
        for pid in _dead_children():
            _kill_group(pid)  # what it started ends with it; the number is still ours
            _, status = os.waitpid(pid, 0)
            number = self.workers.pop(pid, None)
            if number is not None:
                self._tell(Verb.ENDED, number, os.waitstatus_to_exitcode(status))

    def _tell(self, verb: Verb, number: int, word: int) -> None:
        self.control.sendall(MESSAGE.pack(verb, number, word))

    def _end(self) -> None:
        """Let workers whose pipes have ended leave by themselves, then kill."""
        deadline = time.monotonic() + (GRACE_SECONDS if os.getppid() == self.parent else 0)
        while self.workers and time.monotonic() < deadline:
            for pid in _dead_children():
                _kill_group(pid)
                os.waitpid(pid, 0)
                self.workers.pop(pid, None)
            time.sleep(0.002)
        for pid in self.workers:
            _kill_group(pid)
        if self.last_words and os.getppid() != self.parent:
            sys.stderr.write(self.last_words)
        for pid in self.workers:
            os.waitpid(pid, 0)
        _remove_folder(self.folder)
        signal.set_wakeup_fd(-1)
        for sock in (self.control, self.wakeup, self._wake):
            sock.close()


def _remove_folder(folder: str) -> None:
    """Remove the session's folder, in which there are only files; the driver may be doing the same."""
    try:
        for name in os.listdir(folder):
            _unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:
        pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _dead_children() -> Iterator[int]:
    """Yield the children that have ended, one by one; each must be reaped before the next is asked for."""
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if info is None:
            return
        yield info.si_pid


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group may not be there yet
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _set_group(pid: int) -> None:
    """Make a process the leader of its own group; done on both sides of the fork, so nobody has to wait."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prefer_for_memory_kill() -> None:
    """If memory runs out, a worker should go before the driver, which holds everything that is finished."""
    try:
        with open(_OOM_SCORE, "w") as file:
            file.write("500")
    except OSError:
        pass
