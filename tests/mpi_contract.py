"""The contract, for the MPI backend of the rank 0 that runs it (`test_mpi.py` starts it)."""

from __future__ import annotations

from contextlib import closing

import failing_workers
import pytest
from mpi_rank0 import the_guard_of_rank_1
from ray_workers import counts_who_runs, prints
from test_failures_processes import healthy_psets, in_a_thread, kill

import paramsurvey
from paramsurvey.backends.mpi.backend import open_mpi
from paramsurvey.errors import BackendError, OptionError
from paramsurvey.testing import BackendContract

pytestmark = pytest.mark.timeout(60)


class TestAllRanks(BackendContract):
    can_kill = True

    def make_backend(self):
        return open_mpi({}, None)


class TestOtherRanks(BackendContract):
    can_kill = True

    def make_backend(self):
        return open_mpi({"slots": 2, "driver_slots": 0}, None)


def test_a_rank_that_cannot_start_workers_any_more_ends_the_survey_with_what_is_finished(tmp_path):
    def kill_guards(stop):
        while not stop.wait(0.001):
            for guard in the_guard_of_rank_1():
                kill(guard)

    psets = healthy_psets(100_000)
    says = "rank 1: the guard process of the pool has died 3 times; open a new session"
    with (
        closing(open_mpi({}, None)) as backend,
        paramsurvey.Session(backend=backend, verbose=0, pslogger_prefix=str(tmp_path / ".log-")) as session,
        in_a_thread(kill_guards),
        pytest.raises(BackendError, match=says) as info,
    ):
        session.map(failing_workers.takes_a_millisecond, psets)
    results = info.value.results
    assert len(results.results) + len(results.missing) == 100_000
    assert set(results.missing["_kind"]) == {"cancelled"}


def test_rows_say_of_themselves_where_they_ran_and_what_they_printed(tmp_path):
    with (
        closing(open_mpi({}, None)) as backend,
        paramsurvey.Session(backend=backend, verbose=0, pslogger_prefix=str(tmp_path / ".log-")) as session,
    ):
        psets = [{"n": n} for n in range(6)]
        frame = session.map(prints, psets, details=True).results
    assert frame["_stdout"].tolist() == [f"n {n}\n" for n in range(6)]
    assert frame["_pid"].tolist() == frame["pid"].tolist()


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(OptionError, match=r"mpi={'slotz': ...}: .* no such setting; did you mean 'slots'\?"):
        open_mpi({"slotz": 2}, None)


def test_settings_of_the_ranks_are_for_init(tmp_path):
    with (
        closing(open_mpi({"slots": 2}, None)) as backend,
        paramsurvey.Session(backend=backend, verbose=0, pslogger_prefix=str(tmp_path / ".log-")) as session,
    ):
        for settings, says in (
            ({"slots": 3}, r"mpi={'slots': 3}: slots is for init\(\), because all surveys of a session have the same"),
            ({"driver_slots": 0}, r"mpi={'driver_slots': 0}: driver_slots is for init\(\)"),
            ({"slot": 2}, r"mpi={'slot': ...}: the backend 'mpi' has no such setting; did you mean 'slots'\?"),
        ):
            with pytest.raises(OptionError, match=says):
                session.map(prints, [{"n": 1}], mpi=settings)
        assert len(session.map(prints, [{"n": 1}], mpi={"slots": 2})) == 1


def test_ncores_holds_for_a_backend_that_was_given_as_an_instance(tmp_path):
    with (
        closing(open_mpi({"slots": 2}, None)) as backend,
        paramsurvey.Session(backend=backend, ncores=1, verbose=0, pslogger_prefix=str(tmp_path / ".log-")) as session,
    ):
        folder = tmp_path / "running"
        folder.mkdir()
        results = session.map(counts_who_runs, [{"n": n} for n in range(6)], user_kwargs=str(folder))
    assert results.results["running"].tolist() == [1] * 6


def test_slots_are_those_of_all_ranks_unless_ncores_says_otherwise():
    backends = [open_mpi({"slots": 2}, ncores) for ncores in (None, 4, -1, -100)]
    assert [backend.slots() for backend in backends] == [6, 4, 5, 1]
    for backend in backends:
        backend.close()
