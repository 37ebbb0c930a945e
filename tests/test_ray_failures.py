"""The failure list on Ray: what the multiprocessing backend survives, and what of that Ray cannot promise."""

from __future__ import annotations

import re
import threading

import failing_workers as bad_workers
import psutil
import pytest
from conftest import is_running, wait_until
from ray_here import local_ray, ray_environment, ray_session
from test_failures import CASES, COUNT, Case, assert_healthy, assert_missing, assert_still_works, names, psets_of
from test_failures_hanging import HANGS

import paramsurvey
from paramsurvey.errors import WorkerStartError

__all__ = ["local_ray", "ray_environment", "ray_session"]  # fixtures

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("default")]

BAD = (57,)
"""One bad pset: three deaths of a Ray worker take two seconds."""

NOT_ON_RAY = {
    "writes_a_byte_to_all_files": "what is written to Ray's own connections is for Ray to survive",
    "writes_a_kilobyte_to_all_files": "likewise",
    "closes_all_files_and_hangs": "a process that has closed its connections and goes on is not noticed",
    "terminates_its_group": "a worker process of Ray shares its group with others",
    "raises_after_a_signal": "worker processes of Ray do not listen to SIGINT",
    "stops_itself": "Ray asks a process to end, and one that is stopped does not listen: it keeps its core for a while",
}
"""What the failure list has and Ray does not promise; the README's table says so, too."""

ON_RAY = [case for case in CASES if "multiprocessing" in case.backends and case.name not in NOT_ON_RAY]


def on_ray(case: Case) -> Case:
    """Ray does not tell how a process has died."""
    text = "its worker process died: it crashed, exited or was killed" if case.kind == "died" else case.text
    return (
        case
        if case.kind != "died"
        else Case(name=case.name, worker=case.worker, value=case.value, kind="died", text=text, attempts=3, bad=BAD)
    )


@pytest.mark.parametrize("case", ON_RAY, ids=names)
def test_bad_psets_are_missing_with_a_reason_and_all_others_finish(case, ray_session, tmp_path):
    case, session = on_ray(case), ray_session()
    psets = psets_of(case)
    results = session.map(case.worker, psets, user_kwargs={"folder": str(tmp_path)})
    assert_healthy(results, [pset for pset in psets if not (case.kind and pset["bad"])], COUNT)
    assert_missing(results, [pset for pset in psets if case.kind and pset["bad"]], case)
    assert_still_works(session)


@pytest.mark.parametrize(
    "worker", [each for each in HANGS if each.__name__ not in NOT_ON_RAY], ids=lambda each: each.__name__
)
def test_a_pset_that_hangs_is_ended(worker, ray_session, tmp_path):
    session = ray_session()
    case = Case(name=worker.__name__, worker=worker, kind="timeout", text=r"longer than timeout=0\.3 s", bad=(7,))
    psets = psets_of(case, 20)
    results = session.map(worker, psets, timeout=0.3, user_kwargs={"folder": str(tmp_path)})
    assert_healthy(results, [pset for pset in psets if not pset["bad"]], 20)
    assert_missing(results, [pset for pset in psets if pset["bad"]], case)
    programs = [int(path.read_text()) for path in tmp_path.glob("*.program")]
    wait_until(lambda: not any(psutil.pid_exists(pid) and is_running(psutil.Process(pid)) for pid in programs), 5)


def test_psets_that_wait_for_each_other_in_one_group_are_parted(ray_session, tmp_path):
    psets = [{"n": n, "party": [10, 11] if n in (10, 11) else [n]} for n in range(40)]
    results = ray_session().map(bad_workers.waits_for_all, psets, group_size=40, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_exception"].tolist() == []


def test_as_many_psets_as_there_are_slots_run_at_once(ray_session, tmp_path):
    session = ray_session()
    session.map(bad_workers.healthy, [{"n": n, "bad": False} for n in range(5000)])
    psets = [{"n": n, "party": [0, 1, 2]} for n in range(3)]
    results = session.map(bad_workers.waits_for_all, psets, user_kwargs={"folder": str(tmp_path)})
    assert results.missing["_exception"].tolist() == []


def test_constants_that_end_the_process_that_loads_them_end_the_survey(ray_session):
    with pytest.raises(WorkerStartError, match="its worker process died while it loaded the worker or its constants"):
        ray_session().map(
            bad_workers.takes_anything,
            [{"n": n, "bad": False} for n in range(20)],
            user_kwargs={"deadly": bad_workers.Deadly()},
        )


def test_an_interrupt_brings_in_what_is_finished(ray_session):
    session = ray_session()
    stream = session.stream(bad_workers.takes_a_while, [{"n": n, "bad": False} for n in range(500)])
    with stream:
        taken = [next(stream)["n"] for _ in range(5)]
    assert len(set(taken)) == 5
    assert_still_works(session)


def test_a_session_closed_in_the_middle_ends_its_tasks(ray_session, tmp_path):
    session = ray_session()
    outcome: list[BaseException] = []

    def survey() -> None:
        try:
            psets = [{"n": n, "bad": True} for n in range(4)]
            session.map(bad_workers.sleeps, psets, user_kwargs={"folder": str(tmp_path)})
        except paramsurvey.errors.ParamsurveyError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=survey)
    thread.start()
    wait_until(lambda: len(list(tmp_path.glob("*.began"))) >= 2, 30)  # Ray starts processes at leisure
    session.close()
    thread.join(10)
    assert not thread.is_alive()
    assert re.search("closed", str(outcome[0]))
