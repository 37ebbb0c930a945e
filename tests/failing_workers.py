"""Workers that misbehave, and values that do: importable, because worker processes import them.

A worker made with `on_bad_psets` squares ``pset["n"]``, and misbehaves where ``pset["bad"]`` is true. What it needs to
know beside that (a folder, a deadline) comes in `user_kwargs`.

Every process that replaces one which died imports this module, so it imports nothing large.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOREVER = 3600
PROGRAM_THAT_HANGS = ["sleep", str(FOREVER)]

Misbehaviour = Callable[[dict[str, Any], dict[str, Any]], Any]


def on_bad_psets(misbehave: Misbehaviour) -> Callable[..., Any]:
    @functools.wraps(misbehave)
    def worker(pset, system_kwargs, user_kwargs):
        if pset["bad"]:
            return misbehave(pset, {"system": system_kwargs, **(user_kwargs or {})})
        return {"square": pset["n"] ** 2}

    return worker


def healthy(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2}


# 1. Raises


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("this exception stays here")


class OfTwoArguments(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class WithBadRepr(Exception):
    def __repr__(self):
        raise RuntimeError("no repr for you")

    __str__ = __repr__


class WithDeadlyRepr(Exception):
    def __repr__(self):
        sys.exit(3)

    __str__ = __repr__


class OwnBase(BaseException):
    pass


@on_bad_psets
def raises_value_error(pset, context):
    raise ValueError(f"no answer for {pset['n']}")


@on_bad_psets
def raises_from_another(pset, context):
    try:
        {}["key"]
    except KeyError as exc:
        raise RuntimeError("the second") from exc


@on_bad_psets
def raises_a_group(pset, context):
    raise ExceptionGroup("several", [ValueError("one of them"), TypeError("another")])


@on_bad_psets
def raises_unpicklable(pset, context):
    raise Unpicklable("of some kind")


@on_bad_psets
def raises_un_unpicklable(pset, context):
    raise OfTwoArguments("salt", "pepper")


@on_bad_psets
def raises_with_bad_repr(pset, context):
    raise WithBadRepr


@on_bad_psets
def raises_with_deadly_repr(pset, context):
    raise WithDeadlyRepr


@on_bad_psets
def raises_class_of_a_function(pset, context):
    class OfAFunction(Exception):
        pass

    raise OfAFunction("made in here")


@on_bad_psets
def raises_system_exit(pset, context):
    sys.exit("enough")


@on_bad_psets
def raises_keyboard_interrupt(pset, context):
    raise KeyboardInterrupt


@on_bad_psets
def raises_own_base_exception(pset, context):
    raise OwnBase("not an Exception")


@on_bad_psets
def raises_stop_iteration(pset, context):
    raise StopIteration("it is over")


@on_bad_psets
def raises_generator_exit(pset, context):
    raise GeneratorExit("it is closed")


@on_bad_psets
def recurses_for_ever(pset, context):
    def down():
        return down()

    return down()


@on_bad_psets
def raises_after_a_signal(pset, context):
    signal.raise_signal(signal.SIGINT)
    return {"square": 0}


@on_bad_psets
def runs_out_of_allowed_memory(pset, context):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 64 * 2**20, before[1]))
    try:
        bytearray(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# 2. Dies


@on_bad_psets
def exits(pset, context):
    os._exit(7)


@on_bad_psets
def exits_with_success(pset, context):
    os._exit(0)


@on_bad_psets
def kills_itself(pset, context):
    os.kill(os.getpid(), signal.SIGKILL)


@on_bad_psets
def terminates_its_group(pset, context):
    os.kill(0, signal.SIGTERM)
    time.sleep(FOREVER)


@on_bad_psets
def reads_address_zero(pset, context):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


@on_bad_psets
def aborts(pset, context):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


@on_bad_psets
def closes_all_files_and_returns(pset, context):
    os.closerange(0, 4096)
    return {"square": -1}


@on_bad_psets
def closes_all_files_and_hangs(pset, context):
    os.closerange(0, 4096)
    time.sleep(FOREVER)


@on_bad_psets
def closes_all_files_and_opens_its_own(pset, context):
    os.closerange(0, 4096)
    for number in range(16):
        os.open(Path(context["folder"]) / f"{pset['n']}-{number}", os.O_RDWR | os.O_CREAT)
    return {"square": -1}


@on_bad_psets
def writes_a_byte_to_all_files(pset, context):
    """They are those of this process: not the user's, which are the first three."""
    for fd in range(3, 64):
        try:
            os.write(fd, b"!")
        except OSError:
            pass
    return {"square": -1}


@on_bad_psets
def writes_a_kilobyte_to_all_files(pset, context):
    for fd in range(3, 64):
        try:
            os.write(fd, b"\x03\0\0\0" * 256)
        except OSError:
            pass
    return {"square": -1}


@on_bad_psets
def dies_in_a_thread(pset, context):
    thread = threading.Thread(target=os._exit, args=(9,))
    thread.start()
    thread.join()


@on_bad_psets
def leaves_children_and_dies(pset, context):
    subprocess.Popen(PROGRAM_THAT_HANGS)
    os._exit(7)


@on_bad_psets
def dies_once(pset, context):
    try:
        (Path(context["folder"]) / f"died-{pset['n']}").touch(exist_ok=False)
    except FileExistsError:
        return {"square": pset["n"] ** 2}
    os._exit(7)


@on_bad_psets
def dies_at_the_first_two_attempts(pset, context):
    if context["system"]["attempt"] < 3:
        os._exit(7)
    return {"square": pset["n"] ** 2}


@on_bad_psets
def takes_more_memory_than_there_is(pset, context):
    (Path(context["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(b"x" * 2**20)


def takes_a_millisecond(pset, system_kwargs, user_kwargs):
    time.sleep(0.001)
    return {"square": pset["n"] ** 2}


def takes_a_while_and_says_where(pset, system_kwargs, user_kwargs):
    time.sleep(0.01)
    return {"square": pset["n"] ** 2, "pid": os.getpid()}


def takes_a_while(pset, system_kwargs, user_kwargs):
    time.sleep(0.01)
    return {"square": pset["n"] ** 2}


def kills_what_starts_the_workers(pset, system_kwargs, user_kwargs):
    if pset["bad"]:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return {"square": pset["n"] ** 2}


# 3. Hangs


def _hangs_from_now(pset, context):
    """Say when, and who."""
    (Path(context["folder"]) / f"{pset['n']}.began").write_text(f"{time.monotonic()} {os.getpid()}")


@on_bad_psets
def sleeps(pset, context):
    _hangs_from_now(pset, context)
    time.sleep(FOREVER)


@on_bad_psets
def computes_for_ever(pset, context):
    _hangs_from_now(pset, context)
    while True:
        pass


@on_bad_psets
def ignores_sigterm(pset, context):
    _hangs_from_now(pset, context)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(FOREVER)


@on_bad_psets
def swallows_every_exception(pset, context):
    _hangs_from_now(pset, context)
    while True:
        try:
            time.sleep(FOREVER)
        except BaseException:
            pass


@on_bad_psets
def holds_the_interpreter(pset, context):
    _hangs_from_now(pset, context)
    ctypes.PyDLL(None).sleep(FOREVER)


@on_bad_psets
def waits_for_a_program(pset, context):
    with subprocess.Popen(PROGRAM_THAT_HANGS) as program:
        (Path(context["folder"]) / f"{pset['n']}.program").write_text(str(program.pid))
        _hangs_from_now(pset, context)


@on_bad_psets
def waits_for_a_shell(pset, context):
    shell = f"sleep {FOREVER} & echo $! > {context['folder']}/{pset['n']}.program; wait"
    _hangs_from_now(pset, context)
    subprocess.run(shell, shell=True, check=False)


@on_bad_psets
def stops_itself(pset, context):
    _hangs_from_now(pset, context)
    os.kill(os.getpid(), signal.SIGSTOP)


@on_bad_psets
def waits_for_a_lock(pset, context):
    _hangs_from_now(pset, context)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


class HangsWhenPickled:
    def __reduce__(self):
        time.sleep(FOREVER)


@on_bad_psets
def hangs_in_its_answer(pset, context):
    _hangs_from_now(pset, context)
    return {"square": HangsWhenPickled()}


# 4. Returns


class UnpicklableValue:
    def __reduce__(self):
        raise TypeError("this value stays here")


class WithDeadlyReduce:
    def __reduce__(self):
        os._exit(7)


def _refuses(kind, text):
    raise kind(text)


class UnUnpicklableValue:
    def __init__(self, kind: type[BaseException] = ValueError):
        self.kind = kind

    def __reduce__(self):
        return _refuses, (self.kind, "not in this process")


@on_bad_psets
def returns_an_int(pset, context):
    return 42


@on_bad_psets
def returns_a_list(pset, context):
    return [1, 2]


@on_bad_psets
def returns_a_frame(pset, context):
    import pandas as pd

    return pd.DataFrame({"square": [1, 2]})


@on_bad_psets
def returns_false(pset, context):
    return False


@on_bad_psets
def returns_a_thing_with_bad_repr(pset, context):
    return WithBadRepr()


@on_bad_psets
def returns_a_generator(pset, context):
    return (each for each in ())


@on_bad_psets
def returns_a_lock(pset, context):
    return {"square": threading.Lock()}


@on_bad_psets
def returns_unpicklable(pset, context):
    return {"square": UnpicklableValue()}


@on_bad_psets
def returns_un_unpicklable(pset, context):
    return {"square": UnUnpicklableValue()}


@on_bad_psets
def returns_exit_at_unpickling(pset, context):
    return {"square": UnUnpicklableValue(SystemExit)}


@on_bad_psets
def returns_interrupt_at_unpickling(pset, context):
    return {"square": [UnUnpicklableValue(KeyboardInterrupt)]}


@on_bad_psets
def returns_what_kills_when_pickled(pset, context):
    return {"square": WithDeadlyReduce()}


@on_bad_psets
def returns_a_parameter(pset, context):
    return {"n": -1, "square": 0}


@on_bad_psets
def returns_our_column(pset, context):
    return {"square": 0, "_kind": "mine"}


@on_bad_psets
def returns_an_unpicklable_key(pset, context):
    return {_thread.allocate_lock(): 0}


@on_bad_psets
def returns_an_un_unpicklable_key(pset, context):
    return {UnUnpicklableValue(): 0}


@on_bad_psets
def changes_its_pset(pset, context):
    pset["n"] = -1
    return {"square": 0}


def returns_nothing(pset, system_kwargs, user_kwargs):
    return None if pset["bad"] else {"square": pset["n"] ** 2}


def returns_megabytes(pset, system_kwargs, user_kwargs):
    n = pset["n"]
    if not pset["bad"]:
        return {"square": n**2}
    return {"square": n**2, "blob": bytes([n % 256]) * user_kwargs["size"]}


def returns_mutable_megabytes(pset, system_kwargs, user_kwargs):
    n = pset["n"]
    if not pset["bad"]:
        return {"square": n**2}
    return {"square": n**2, "blob": bytearray([n % 256]) * user_kwargs["size"]}


def returns_its_load(pset, system_kwargs, user_kwargs):
    return {"echo": pset["load"]}


def returns_key_of_its_own(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2, f"only_{pset['n'] % 7}": pset["n"]}


def returns_equal_parameter(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2, "n": pset["n"]}


# 5. Psets


class Deadly:
    """Kills every process that unpickles it, but for the one in which it was made."""

    def __init__(self):
        self.home = os.getpid()

    def __reduce__(self):
        return _die_abroad, (self.home,)


def _die_abroad(home):
    if os.getpid() != home:
        os._exit(7)
    return Deadly()


class Homesick(Deadly):
    def __reduce__(self):
        return _raise_abroad, (self.home,)


def _raise_abroad(home):
    if os.getpid() != home:
        raise RuntimeError("this pset lives elsewhere")
    return Homesick()


class Slow(Deadly):
    def __reduce__(self):
        return _hang_abroad, (self.home,)


def _hang_abroad(home):
    if os.getpid() != home:
        time.sleep(FOREVER)
    return Slow()


class Shy:
    """A pset's value without a repr."""

    def __repr__(self):
        raise RuntimeError("no repr for you")


class Incomparable:
    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    __hash__ = None


def takes_anything(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2}


@on_bad_psets
def raises_beside_a_shy_value(pset, context):
    raise ValueError("the value is shy")


# 6. What else a worker does


LOCK = threading.Lock()
GATE = threading.Event()


def takes_the_lock(pset, system_kwargs, user_kwargs):
    with LOCK:
        return {"square": pset["n"] ** 2}


def logs_something(pset, system_kwargs, user_kwargs):
    import logging

    logging.getLogger("of.a.worker").debug("pset %s", pset)
    return {"square": pset["n"] ** 2}


def imports_what_the_driver_is_importing(pset, system_kwargs, user_kwargs):
    import slow_to_import

    return {"square": slow_to_import.square(pset["n"])}


def tells_its_process(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] ** 2, "pid": os.getpid()}


def hangs_at_its_exit(pset, system_kwargs, user_kwargs):
    import atexit

    atexit.register(time.sleep, FOREVER)
    return {"square": pset["n"] ** 2}


def leaves_a_thread(pset, system_kwargs, user_kwargs):
    threading.Thread(target=time.sleep, args=(FOREVER,), daemon=False).start()
    return {"square": pset["n"] ** 2}


def leaves_a_program(pset, system_kwargs, user_kwargs):
    subprocess.Popen(PROGRAM_THAT_HANGS)
    return {"square": pset["n"] ** 2}


def _square(n: int) -> int:
    return n * n


def sets_an_alarm_and_raises(pset, system_kwargs, user_kwargs):
    signal.setitimer(signal.ITIMER_REAL, FOREVER, user_kwargs)
    raise ValueError("there is no time for that")


def tells_of_an_alarm(pset, system_kwargs, user_kwargs):
    return {"alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0}


def has_a_shell_list_its_files(pset, system_kwargs, user_kwargs):
    """Without `subprocess`, which closes what is above 2 by itself."""
    os.system(f"ls /proc/self/fd > {user_kwargs['file']}")
    return {"files": (Path(user_kwargs["file"])).read_text().split()}


def starts_a_pool(pset, system_kwargs, user_kwargs):
    import multiprocessing

    with multiprocessing.get_context(user_kwargs["method"]).Pool(2) as pool:
        return {"square": pool.map(_square, [pset["n"]])[0]}


def starts_an_executor(pset, system_kwargs, user_kwargs):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return {"square": executor.submit(_square, pset["n"]).result()}


def leaves_a_pool(pset, system_kwargs, user_kwargs):
    import multiprocessing

    pool = multiprocessing.get_context(user_kwargs["method"]).Pool(2)
    return {"square": pool.map(_square, [pset["n"]])[0]}


def starts_a_survey(pset, system_kwargs, user_kwargs):
    import paramsurvey

    with paramsurvey.Session(ncores=1, verbose=0, pslogger_prefix=user_kwargs["prefix"]) as session:
        return {"square": session.map(healthy, [{"n": pset["n"]}]).to_dict()[0]["square"]}


def forks_and_forgets(pset, system_kwargs, user_kwargs):
    """The child, too, returns from the worker."""
    os.fork()
    return {"square": pset["n"] ** 2}


def stops_after_ten(pset, system_kwargs, user_kwargs):
    """Hangs from pset 10 on, with a program started; those before take long enough not to be queued."""
    if pset["n"] >= 10:
        with subprocess.Popen(PROGRAM_THAT_HANGS):
            pass
    time.sleep(0.002)
    return {"square": pset["n"] ** 2}


def says_that_it_stops_after_ten(pset, system_kwargs, user_kwargs):
    """The same without a program, for a worker that runs in the driver's process."""
    if pset["n"] >= 10:
        print("hangs", flush=True)
        time.sleep(FOREVER)
    return {"square": pset["n"] ** 2}


# 7. Together


class NobodyCame(RuntimeError):
    pass


def _until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NobodyCame
        time.sleep(0.002)


def waits_for_all(pset, system_kwargs, user_kwargs):
    """Return when as many psets as there are in `party` are running at the same time."""
    folder = Path(user_kwargs["folder"])
    (folder / f"{pset['n']}.here").touch()
    _until(lambda: all((folder / f"{n}.here").exists() for n in pset["party"]), seconds=10)
    return {"pid": os.getpid()}


def last_of_all(pset, system_kwargs, user_kwargs):
    """The bad pset returns when every other has been run: one byte for each of them in a file."""
    crowd = Path(user_kwargs["folder"]) / "crowd"
    if pset["bad"]:
        _until(lambda: crowd.exists() and crowd.stat().st_size >= user_kwargs["others"], seconds=15)
    else:
        with crowd.open("ab", buffering=0) as file:
            file.write(b"x")
    return {"square": pset["n"] ** 2}
