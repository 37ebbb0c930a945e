"""Sessions, options and workers as a user meets them."""

import functools
import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import QUIET
from plain_workers import Multiplier, busy, closure, decorated, double, inverse, told, whereabouts, with_factor

import paramsurvey
from paramsurvey.errors import (
    BackendError,
    OptionError,
    PsetError,
    SessionError,
    SurveyStopped,
    WorkerError,
)

pytestmark = pytest.mark.usefixtures("own_folder")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def psets_of(count):
    return [{"a": a} for a in range(count)]


def pids(results):
    return {row["pid"] for row in results.iterdicts()}


# The default session


def test_map_works_without_init(capfd):
    results = paramsurvey.map(double, psets_of(3))
    assert results.to_dict() == [{"a": 0, "double": 0}, {"a": 1, "double": 2}, {"a": 2, "double": 4}]
    assert paramsurvey.backend() == "multiprocessing"
    assert capfd.readouterr().out == ""


def test_init_chooses_backend_and_cores():
    paramsurvey.init(backend="serial", **QUIET)
    assert (paramsurvey.backend(), paramsurvey.current_core_count()) == ("serial", 1)
    assert pids(paramsurvey.map(whereabouts, psets_of(3))) == {os.getpid()}
    paramsurvey.init(ncores=3, **QUIET)
    assert (paramsurvey.backend(), paramsurvey.current_core_count()) == ("multiprocessing", 3)
    resources = paramsurvey.current_resources()
    assert resources["num_cores"] == 3
    assert resources["memory"] > 2**20


def test_a_negative_number_of_cores_is_left_to_others():
    everything = len(os.sched_getaffinity(0))
    paramsurvey.init(ncores=-1, **QUIET)
    assert paramsurvey.current_core_count() == max(1, everything - 1)
    paramsurvey.init(ncores=-1000, **QUIET)
    assert paramsurvey.current_core_count() == 1
    paramsurvey.init(**QUIET)
    assert paramsurvey.current_core_count() == everything


def test_finalize_may_be_called_at_any_time_and_ends_the_workers():
    paramsurvey.finalize()
    paramsurvey.init(ncores=1, **QUIET)
    (pid,) = pids(paramsurvey.map(whereabouts, psets_of(1)))
    paramsurvey.finalize()
    paramsurvey.finalize()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(paramsurvey.map(double, psets_of(1), verbose=0)) == 1


def test_the_log_belongs_to_the_session():
    refusal = r"map\(\) cannot change pslogger_prefix=.* give it to init\(\)"
    with paramsurvey.Session(backend="serial", **QUIET) as session, pytest.raises(OptionError, match=refusal):
        session.map(double, psets_of(1), pslogger_prefix="mine-")


def test_init_again_replaces_the_session():
    paramsurvey.init(ncores=1, name="first", **QUIET)
    (first,) = pids(paramsurvey.map(whereabouts, psets_of(1)))
    paramsurvey.init(ncores=1, name="second", **QUIET)
    results = paramsurvey.map(whereabouts, psets_of(1))
    assert results.name == "second"
    assert pids(results) != {first}
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_refused_init_leaves_the_session_as_it_was():
    paramsurvey.init(ncores=1, **QUIET)
    with pytest.raises(OptionError):
        paramsurvey.init(ncores=0)
    with pytest.raises(BackendError):
        paramsurvey.init(backend="nonsense")
    assert paramsurvey.current_core_count() == 1


@pytest.mark.parametrize("verb", ["init", "finalize"])
def test_a_busy_session_is_not_replaced(verb):
    paramsurvey.init(ncores=1, **QUIET)
    stream = paramsurvey.stream(double, psets_of(1000), group_size=1)
    next(stream)
    with pytest.raises(SessionError, match=rf"{verb}\(\): a survey is running in the default session; call {verb}\(\)"):
        getattr(paramsurvey, verb)()
    assert "double" in next(stream)
    stream.close()
    getattr(paramsurvey, verb)()


def test_a_session_is_busy_inside_out_func():
    refusals = []

    def out_func(user_ret, system_kwargs, user_kwargs):
        with pytest.raises(SessionError) as caught:
            paramsurvey.init()
        refusals.append(str(caught.value))

    paramsurvey.init(backend="serial", **QUIET)
    paramsurvey.map(double, psets_of(2), out_func=out_func)
    assert len(refusals) == 2


def test_an_unknown_attribute_of_the_package_is_told_with_those_there_are():
    with pytest.raises(AttributeError, match=r"module 'paramsurvey' has no attribute 'mapp'; it has: .*map"):
        _ = paramsurvey.mapp
    assert "map" in dir(paramsurvey)
    assert paramsurvey.__version__[0].isdigit() if _is_installed() else True


def _is_installed():
    from importlib import metadata

    return bool(metadata.packages_distributions().get("paramsurvey"))


# Sessions


def test_a_session_is_a_context_manager_and_cannot_be_used_after_its_end():
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        (pid,) = pids(session.map(whereabouts, psets_of(1)))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    session.close()
    for use in (
        lambda: session.map(double, psets_of(1)),
        lambda: next(session.stream(double, psets_of(1))),
        session.current_core_count,
        lambda: session.backend,
    ):
        with pytest.raises(SessionError, match=r"this session is closed: open another with paramsurvey.Session"):
            use()


def test_two_sessions_live_side_by_side():
    with paramsurvey.Session(ncores=1, **QUIET) as one, paramsurvey.Session(ncores=1, **QUIET) as other:
        of_one, of_other = (pids(each.map(whereabouts, psets_of(5))) for each in (one, other))
        assert len(of_one) == len(of_other) == 1
        assert of_one != of_other
        one.close()
        assert pids(other.map(whereabouts, psets_of(5))) == of_other


def test_two_threads_can_map_in_one_session(pool):
    answers = {}

    def survey(number):
        answers[number] = pool.map(double, psets_of(200), name=f"thread {number}").to_dict()

    threads = [threading.Thread(target=survey, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [{"a": a, "double": 2 * a} for a in range(200)]
    assert answers == {0: expected, 1: expected, 2: expected}


def test_a_survey_inside_out_func_works(session):
    inner = []

    def out_func(user_ret, system_kwargs, user_kwargs):
        inner.extend(session.map(double, [user_ret["pset"]]).to_dict())

    results = session.map(double, psets_of(5), out_func=out_func)
    assert sorted(row["a"] for row in inner) == [0, 1, 2, 3, 4]
    assert len(results) == 5
    assert results.progress.exceptions == 0


def test_a_survey_inside_a_loop_over_a_stream_works(session):
    rows = [session.map(double, [{"a": row["double"]}]).to_dict() for row in session.stream(double, psets_of(5))]
    assert sorted(row["double"] for (row,) in rows) == [0, 4, 8, 12, 16]


def test_a_survey_inside_a_worker_works(pool):
    def outer(pset, system_kwargs, user_kwargs):
        import paramsurvey

        inner = paramsurvey.map(lambda p, s, u: {"b": p["a"] + 1}, [{"a": pset["a"]}], verbose=0, backend="serial")
        return {"inner": inner.to_dict()}

    results = pool.map(outer, psets_of(2), chdir=os.getcwd())
    assert [row["inner"] for row in results.iterdicts()] == [[{"a": 0, "b": 1}], [{"a": 1, "b": 2}]]


def test_leaving_a_session_ends_an_open_stream():
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        stream = session.stream(double, psets_of(1000), group_size=1)
        first = next(stream)
    with pytest.raises(SessionError, match=r"this stream ended with its session, when \d+ of 1000 psets were finished"):
        list(stream)
    assert first in stream.results.to_dict()
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        stream = session.stream(double, psets_of(3))
        assert len(list(stream)) == 3
    assert list(stream) == []


# Backends


class FindsNot:
    """An importer that fails with one module."""

    def __init__(self, name):
        self.name = name
        self.error = ModuleNotFoundError(f"No module named {name!r}", name=name)

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.error


def test_a_backend_that_is_not_installed_or_broken_says_so(monkeypatch):
    for name in [*sys.modules]:
        if name == "ray" or name.startswith(("ray.", "paramsurvey.backends.ray.")):
            monkeypatch.delitem(sys.modules, name)
    finder = FindsNot("ray")
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(BackendError, match=r"the backend 'ray' is not installed: pip install 'paramsurvey\[ray\]'"):
        paramsurvey.Session(backend="ray")
    finder.error = ImportError("libfoo.so: cannot open shared object file", name="ray._raylet")
    with pytest.raises(BackendError, match=r"the backend 'ray' is installed, but cannot be imported: libfoo\.so"):
        paramsurvey.Session(backend="ray")


def test_an_unknown_backend_is_refused_with_those_there_are():
    expected = "there is no backend 'sloth'; there are: 'multiprocessing', 'serial', 'ray', 'mpi'"
    with pytest.raises(BackendError, match=expected):
        paramsurvey.Session(backend="sloth")


def test_one_survey_can_run_on_another_backend():
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        assert os.getpid() not in pids(session.map(whereabouts, psets_of(2)))
        assert pids(session.map(whereabouts, psets_of(2), backend="serial")) == {os.getpid()}
        assert session.backend == "multiprocessing"
        assert os.getpid() not in pids(session.map(whereabouts, psets_of(2)))


def test_a_backend_can_be_an_instance():
    from paramsurvey.backends.serial import SerialBackend

    with paramsurvey.Session(backend=SerialBackend(name="mine"), **QUIET) as session:
        assert session.backend == "mine"
        assert len(session.map(double, psets_of(3))) == 3


def test_what_is_no_backend_is_refused_with_what_it_lacks():
    class Half:
        name = "half"

        def submit(self):
            """Do nothing."""

        def slots(self):
            """Do nothing."""

    with pytest.raises(
        BackendError, match="is no backend: it has no can_kill, publish, recall, kill, resources, close"
    ):
        paramsurvey.Session(backend=Half())


# Options: keyword and variable


def test_limit(session, monkeypatch):
    assert len(session.map(double, psets_of(10), limit=3)) == 3
    assert len(session.map(double, psets_of(10), limit=0)) == 10
    assert len(session.map(double, psets_of(10), limit=10**30)) == 10
    monkeypatch.setenv("PARAMSURVEY_LIMIT", "4")
    assert session.map(double, psets_of(10), limit=3).progress.total == 4
    monkeypatch.setenv("PARAMSURVEY_LIMIT", "0")
    assert len(session.map(double, psets_of(10), limit=3)) == 10


def test_ncores_is_how_many_processes_work(monkeypatch):
    def meet(pset, system_kwargs, user_kwargs):
        path = f"arrived-{pset['a']}"
        open(path, "w").close()
        deadline = time.monotonic() + 20
        while len([name for name in os.listdir() if name.startswith("arrived")]) < user_kwargs:
            assert time.monotonic() < deadline, "the others did not come"
        return {"pid": os.getpid()}

    def lonely(pset, system_kwargs, user_kwargs):
        open("one at a time", "x").close()
        os.remove("one at a time")

    with paramsurvey.Session(ncores=3, **QUIET) as session:
        assert len(pids(session.map(meet, psets_of(3), user_kwargs=3))) == 3
        assert session.map(lonely, psets_of(50), ncores=1, group_size=1).missing.empty
        monkeypatch.setenv("PARAMSURVEY_NCORES", "1")
        assert session.map(lonely, psets_of(50), ncores=3, group_size=1).missing.empty
    with paramsurvey.Session(ncores=3, **QUIET) as session:
        assert session.current_core_count() == 1


@pytest.mark.parametrize("group_size", [None, 1, 2, 100])
def test_max_tasks_per_child_replaces_processes(pool, group_size, monkeypatch):
    def counted(most, **options):
        rows = pool.map(whereabouts, psets_of(12), group_size=group_size, **options).to_dict()
        each = [sum(row["pid"] == pid for row in rows) for pid in {row["pid"] for row in rows}]
        assert sum(each) == 12
        assert max(each) <= most

    counted(3, max_tasks_per_child=3)
    counted(1, max_tasks_per_child=1)
    monkeypatch.setenv("PARAMSURVEY_MAX_TASKS_PER_CHILD", "2")
    counted(2)


def test_group_size_is_how_many_psets_travel_together(session, monkeypatch, capsys):
    def come_in(size, **options):
        session.map(double, psets_of(20), verbose=3, **options)
        ranges = re.findall(r"psets (\d+) to (\d+) have come back", capsys.readouterr().err)
        sizes = [int(last) - int(first) + 1 for first, last in ranges]
        assert sum(sizes) == 20
        # if they take their time, elsewhere than in this process, those that are finished come ahead of the others
        return set(sizes) == {size} if session.backend == "serial" else max(sizes) <= size

    assert come_in(5, group_size=5)
    assert come_in(20, group_size=100)
    assert come_in(1, group_size=1)
    monkeypatch.setenv("PARAMSURVEY_GROUP_SIZE", "10")
    assert come_in(10, group_size=1)


def test_user_kwargs_reach_every_call_and_out_func(session):
    seen = []
    given = {"array": np.arange(3), "f": lambda x: x + 1}
    results = session.map(
        lambda pset, system, user: {"b": user["f"](int(user["array"][2]))},
        psets_of(3),
        user_kwargs=given,
        out_func=lambda ret, system, user: seen.append(user),
    )
    assert [row["b"] for row in results.iterdicts()] == [3, 3, 3]
    assert all(user is given for user in seen)
    assert len(seen) == 3
    assert session.map(told, psets_of(1)).to_dict()[0]["user_kwargs"] is None


def test_name_is_what_everything_is_called(session, monkeypatch):
    results = session.map(told, psets_of(1), name="first light")
    assert results.name == "first light"
    assert results.to_dict()[0]["told"]["name"] == "first light"
    assert results.stats.all_stat_names() == ["first light"]
    assert session.map(double, []).name == "double"
    monkeypatch.setenv("PARAMSURVEY_NAME", "from outside")
    assert session.map(double, [], name="x").name == "from outside"


def test_a_folder_that_is_not_there_is_refused_before_anything_runs(session, tmp_path):
    (tmp_path / "file").write_text("")
    gone, file = tmp_path / "gone", tmp_path / "file"
    pipeline = paramsurvey.Pipeline().map(touches, name="first").map(double, chdir=str(gone))
    for call, folder, why in (
        (lambda: session.map(double, psets_of(1), chdir=gone), gone, "No such file or directory"),
        (lambda: session.map(double, psets_of(1), chdir=file), file, "Not a directory"),
        (lambda: session.run(pipeline, [{"a": tmp_path / "touched"}]), gone, "No such file or directory"),
    ):
        remedy = "make that folder before, or name another one"
        message = f"chdir={str(folder)!r}: the workers cannot run in {str(folder)!r}: {why}; {remedy}"
        with pytest.raises(OptionError, match="^" + re.escape(message) + "$"):
            call()
    assert not (tmp_path / "touched").exists()


def touches(pset, system_kwargs, user_kwargs):
    pset["a"].touch()


def test_workers_run_in_the_current_folder_or_in_chdir(session, tmp_path, monkeypatch):
    def cwd(**options):
        (row,) = session.map(whereabouts, psets_of(1), **options).to_dict()
        return row["cwd"]

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert cwd() == str(tmp_path)
    assert cwd(chdir=tmp_path / "a") == str(tmp_path / "a")
    assert cwd(chdir="b") == str(tmp_path / "b")
    monkeypatch.setenv("PARAMSURVEY_CHDIR", str(tmp_path / "a"))
    assert cwd(chdir="b") == str(tmp_path / "a")
    monkeypatch.delenv("PARAMSURVEY_CHDIR")
    monkeypatch.chdir(tmp_path / "b")
    assert cwd() == str(tmp_path / "b")
    assert os.getcwd() == str(tmp_path / "b")


def test_out_subdirs_spread_the_output(session, tmp_path, monkeypatch):
    def write(pset, system_kwargs, user_kwargs):
        path = os.path.join(system_kwargs["out_subdir"], f"{pset['a']}.txt")
        with open(path, "w") as file:
            file.write("x")
        return {"path": path}

    results = session.map(write, psets_of(40), out_subdirs=3)
    assert results.missing.empty
    folders = {os.path.dirname(row["path"]) for row in results.iterdicts()}
    assert folders == {"ps0", "ps1", "ps2"}
    assert all((tmp_path / row["path"]).exists() for row in results.iterdicts())
    monkeypatch.setenv("PARAMSURVEY_OUT_SUBDIRS", "1")
    assert {os.path.dirname(row["path"]) for row in session.map(write, psets_of(4)).iterdicts()} == {"ps0"}
    monkeypatch.delenv("PARAMSURVEY_OUT_SUBDIRS")
    assert "out_subdir" not in session.map(told, psets_of(1)).to_dict()[0]["told"]


def test_out_func_gets_every_result_and_every_failure(session):
    seen = []
    results = session.map(inverse, psets_of(3), out_func=lambda ret, system, user: seen.append((ret, dict(system))))
    returned = sorted((ret for ret, _ in seen), key=lambda ret: ret["pset"]["a"])
    assert returned[0].keys() == {"pset", "exception", "traceback"}
    assert returned[0]["pset"] == {"a": 0}
    assert "ZeroDivisionError" in returned[0]["exception"]
    assert "in inverse" in returned[0]["traceback"]
    assert returned[1:] == [{"pset": {"a": a}, "result": {"inverse": 1 / a}} for a in (1, 2)]
    assert {system["name"] for _, system in seen} == {"inverse"}
    assert len(results) == 2


def test_out_func_runs_in_this_thread(session):
    seen = set()
    session.map(double, psets_of(5), out_func=lambda *_: seen.add((os.getpid(), threading.get_ident())))
    assert seen == {(os.getpid(), threading.get_ident())}


def test_an_out_func_that_raises_costs_nobody_their_results(session):
    def out_func(user_ret, system_kwargs, user_kwargs):
        raise ValueError("the disk is on fire")

    results = session.map(double, psets_of(5), out_func=out_func)
    assert len(results) == 5
    assert results.progress.exceptions == 5
    assert results.progress.failures == 0


def test_results_need_not_be_kept(session, monkeypatch):
    seen = []
    results = session.map(
        inverse, psets_of(5), keep_results=False, out_func=lambda ret, system, user: seen.append(ret.get("result"))
    )
    assert (len(results), len(results.results), results.to_dict()) == (0, 0, [])
    assert (results.progress.finished, results.progress.failures) == (4, 1)
    assert len(results.missing) == 1
    assert len(seen) == 5
    monkeypatch.setenv("PARAMSURVEY_KEEP_RESULTS", "no")
    assert len(session.map(double, psets_of(5))) == 0


def test_progress_dt_is_the_time_between_two_lines(session, capsys, monkeypatch):
    session.map(busy, psets_of(20), verbose=1, progress_dt=0, group_size=1)
    assert capsys.readouterr().err.count("busy: total: 20") >= 2
    monkeypatch.setenv("PARAMSURVEY_PROGRESS_DT", "100")
    session.map(busy, psets_of(20), verbose=1, progress_dt=0, group_size=1)
    assert capsys.readouterr().err.count("busy: total: 20") == 1  # at the end


def test_settings_for_one_backend_are_ignored_by_the_others(session):
    results = session.map(double, psets_of(2), ray={"num_gpus": 1}, mpi={"slots": 2}, multiprocessing={})
    assert len(results) == 2
    with pytest.raises(OptionError, match="ray"):
        session.map(double, psets_of(2), ray=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mpi": {"slotz": 1}}, r"mpi={'slotz': ...}: the backend 'mpi' has no such setting; did you mean 'slots'\?"),
        ({"mpi": {"slots": -4}}, r"mpi={'slots': -4}: slots must be a whole number, 1 or more"),
        (
            {"mpi": {"driver_slots": None}},
            r"mpi={'driver_slots': None}: driver_slots must be a whole number, 0 or more",
        ),
        (
            {"ray": {"num_gpu": 1}},
            r"ray={'num_gpu': 1}: the backend 'ray' has no setting 'num_gpu'; did you mean 'num_gp",
        ),
        ({"ray": {"num_gpus": -1}}, r"ray={'num_gpus': -1}: num_gpus must be a number, 0 or more"),
        ({"ray": {"address": 7}}, r"ray={'address': 7}: address must be a text"),
        ({"ray": {"init": []}}, r"ray={'init': \[\]}: init must be a dict of keywords of ray.init"),
    ],
)
def test_wrong_settings_are_refused_also_where_another_backend_is_in_use(session, settings, says):
    with pytest.raises(OptionError, match=says):
        paramsurvey.Session(backend=session.backend, **settings, **QUIET)
    with pytest.raises(OptionError, match=says):
        session.map(double, psets_of(2), **settings)
    with pytest.raises(OptionError, match=says):
        session.run(paramsurvey.Pipeline().map(double, **settings), psets_of(2))


OF_A_POOL = {
    "anything": "it has none: options such as ncores= and max_tasks_per_child= stand by themselves",
    "maxtasksperchild": "give max_tasks_per_child=",
    "initializer": "have the worker do that",
}


@pytest.mark.parametrize("name", OF_A_POOL)
def test_settings_that_the_pool_does_not_have_are_refused_by_name_wherever_they_are_given(pool, name):
    says = rf"multiprocessing={{'{name}': ...}}: the backend 'multiprocessing' has no such setting; {OF_A_POOL[name]}"
    given = {"multiprocessing": {name: 1}}
    with pytest.raises(OptionError, match=says):
        paramsurvey.Session(**given, **QUIET)
    with pytest.raises(OptionError, match=says):
        pool.map(double, psets_of(2), **given)
    with pytest.raises(OptionError, match=says):
        pool.run(paramsurvey.Pipeline().map(double, **given), psets_of(2))


def test_settings_of_old_programs_that_never_had_an_effect_are_taken():
    with paramsurvey.Session(ncores=1, multiprocessing={"processes": 7, "context": None}, **QUIET) as session:
        assert session.current_core_count() == 1
        assert len(session.map(double, psets_of(2))) == 2


def test_settings_for_ray_inside_a_pset_are_handed_to_the_worker(session):
    psets = [{"a": 1, "ray": {"num_gpus": 1}}, {"a": 2, "ray": {"num_cpus": 2}}]
    results = session.map(lambda pset, system, user: {"seen": pset["ray"]}, psets)
    assert results.to_dict() == [pset | {"seen": pset["ray"]} for pset in psets]


def test_timeout_is_refused_where_no_worker_can_be_ended(monkeypatch):
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        with pytest.raises(
            OptionError, match="timeout=5: the backend 'serial' cannot end a running worker; leave timeout"
        ):
            session.map(double, psets_of(1), timeout=5)
        assert len(session.map(double, psets_of(1), timeout=0)) == 1
        monkeypatch.setenv("PARAMSURVEY_TIMEOUT", "5")
        with pytest.raises(OptionError, match="PARAMSURVEY_TIMEOUT=0 switches it off"):
            session.map(double, psets_of(1))


def test_timeout_ends_what_takes_too_long(pool, monkeypatch):
    def slow(pset, system_kwargs, user_kwargs):
        time.sleep(60 if pset["a"] == 1 else 0)
        return {}

    results = pool.map(slow, psets_of(4), timeout=0.2)
    assert list(results.missing["_kind"]) == ["timeout"]
    assert results.missing.loc[1, "_exception"] == "it took longer than timeout=0.2 s"
    monkeypatch.setenv("PARAMSURVEY_TIMEOUT", "0.1")
    assert "timeout=0.1" in pool.map(slow, psets_of(4), timeout=50).missing.loc[1, "_exception"]


def test_retries_are_for_what_raised(session, tmp_path, monkeypatch):
    def third_time_lucky(pset, system_kwargs, user_kwargs):
        if system_kwargs["attempt"] < 3:
            raise RuntimeError(f"attempt {system_kwargs['attempt']}")
        return {"attempt": system_kwargs["attempt"]}

    for group_size in (None, 1, 10):
        results = session.map(third_time_lucky, psets_of(5), retries=2, group_size=group_size)
        assert [row["attempt"] for row in results.iterdicts()] == [3] * 5
    missing = session.map(third_time_lucky, psets_of(5), retries=1).missing
    assert list(missing["_attempts"]) == [2] * 5
    assert list(missing["_exception"]) == ["RuntimeError('attempt 2')"] * 5
    assert len(session.map(third_time_lucky, psets_of(5)).missing) == 5
    monkeypatch.setenv("PARAMSURVEY_RETRIES", "2")
    assert len(session.map(third_time_lucky, psets_of(5)).missing) == 0


def test_on_failure_stop_ends_the_survey_and_carries_what_is_finished(session, monkeypatch):
    with pytest.raises(SurveyStopped, match=r"inverse: pset 3 is missing .raised., and on_failure='stop'") as caught:
        session.map(
            inverse, [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 0}, {"a": 4}], on_failure="stop", group_size=1, ncores=1
        )
    results = caught.value.results
    assert [row["a"] for row in results.iterdicts()][:3] == [1, 2, 3]
    assert results.missing.loc[3, "_kind"] == "raised"
    assert set(results.missing["_kind"]) <= {"raised", "cancelled"}
    assert len(results) + len(results.missing) == 5
    monkeypatch.setenv("PARAMSURVEY_ON_FAILURE", "stop")
    with pytest.raises(SurveyStopped):
        session.map(inverse, psets_of(2))
    assert len(session.map(double, psets_of(2))) == 2


def test_unknown_and_impossible_options_are_refused_before_anything_runs(session):
    ran = []
    for options, message in [
        ({"ncore": 2}, r"map\(\) has no option 'ncore'; did you mean 'ncores'\?"),
        ({"retries": -1}, "retries must be a whole number, 0 or more"),
        ({"verbose": "loud"}, "verbose must be a whole number from 0 to 3, not str"),
    ]:
        with pytest.raises(OptionError, match=message):
            session.map(lambda *_: ran.append(1), psets_of(1), **options)
    with pytest.raises(OptionError, match=r"stream\(\) has no option"):
        session.stream(double, psets_of(1), nme="x")
    with pytest.raises(OptionError, match=r"init\(\) has no option 'worker'"):
        paramsurvey.init(worker=1)
    assert ran == []


def test_an_unreadable_variable_is_refused_by_name(session, monkeypatch):
    monkeypatch.setenv("PARAMSURVEY_RETRIES", "many")
    with pytest.raises(OptionError, match="the environment variable PARAMSURVEY_RETRIES='many' cannot be used"):
        session.map(double, psets_of(1))


def test_backend_and_verbose_can_come_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("PARAMSURVEY_BACKEND", "serial")
    monkeypatch.setenv("PARAMSURVEY_VERBOSE", "2")
    paramsurvey.init(backend="multiprocessing", verbose=0)
    assert paramsurvey.backend() == "serial"
    paramsurvey.map(double, psets_of(2), backend="multiprocessing")
    assert "double: 2 psets on 1 x serial" in capsys.readouterr().err


# Seeds


def seeds(session, psets, **options):
    results = session.map(lambda pset, system, user: {"seed": system["seed"]}, psets, **options)
    return [row["seed"] for row in results.iterdicts()]


def test_seeds_depend_on_seed_and_pset_and_nothing_else():
    psets = [{"a": a, "b": str(a)} for a in range(50)]
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        expected = seeds(session, psets, seed=5)
    for backend, ncores in (("serial", 1), ("multiprocessing", 1), ("multiprocessing", 3)):
        with paramsurvey.Session(backend=backend, ncores=ncores, **QUIET) as session:
            for group_size in (None, 1, 7, 100):
                assert seeds(session, psets, seed=5, group_size=group_size) == expected
            assert seeds(session, psets[::-1], seed=5) == expected[::-1]
            assert seeds(session, psets[3:5], seed=5) == expected[3:5]
            assert set(seeds(session, psets, seed=6)).isdisjoint(expected)
    assert len(set(expected)) == 50
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in expected)


def test_seeds_may_depend_on_some_parameters_alone(session):
    psets = [{"a": a, "repeat": repeat, 7: a} for repeat in range(3) for a in range(4)]
    of = seeds(session, psets, seed_by="repeat")
    assert of == [seed for seed in of[::4] for _ in range(4)]
    assert len(set(of)) == 3
    assert of == seeds(session, [{"repeat": pset["repeat"]} for pset in psets])
    assert set(of).isdisjoint(seeds(session, psets, seed_by="repeat", seed=1))
    assert len(set(seeds(session, psets, seed_by=["repeat", 7]))) == 12


def test_seeds_that_should_depend_on_what_is_no_parameter_are_refused_by_name(session):
    results = session.map(lambda pset, system, user: {"seed": system["seed"]}, psets_of(1), seed_by=["a", "repat"])
    [missing] = results.missing.to_dict("records")
    assert "seed_by=['a', 'repat']: the pset has no 'repat'; its parameters are: 'a'" in missing["_exception"]


def test_psets_with_one_seed_have_files_and_folders_of_their_own(session, tmp_path):
    psets = [{"a": a, "repeat": 0} for a in range(50)]
    frame = session.map(told, psets, seed_by="repeat", out_subdirs=8, capture="files", chdir=tmp_path).results
    assert frame["_stdout"].nunique() == 50
    assert len({each["out_subdir"] for each in frame["told"]}) > 1


def test_equal_psets_have_equal_seeds_and_1_is_not_true(session):
    of = seeds(session, [{"a": 1}, {"a": 1}, {"a": 1.0}, {"a": True}])
    assert of[0] == of[1]
    assert len(set(of)) == 3


def test_the_seed_can_come_from_the_environment(session, monkeypatch):
    with_seed = seeds(session, psets_of(2), seed=9)
    monkeypatch.setenv("PARAMSURVEY_SEED", "9")
    assert seeds(session, psets_of(2)) == with_seed


def test_a_worker_is_told_what_the_readme_says(session):
    (row,) = session.map(told, [{"a": 1}]).to_dict()
    assert row["told"].keys() == {"name", "raw_stats", "seed", "attempt"}
    assert row["told"]["attempt"] == 1


# Statistics


def test_what_workers_measure_is_in_the_stats(session):
    def measure(pset, system_kwargs, user_kwargs):
        from paramsurvey.stats import record_iowait, record_wallclock

        with record_wallclock("compute", system_kwargs["raw_stats"]):
            pass
        with record_iowait("wait", raw_stats=system_kwargs["raw_stats"]):
            pass

    for group_size in (None, 1, 100):
        stats = session.map(measure, psets_of(30), group_size=group_size).stats
        assert sorted(stats.all_stat_names()) == ["compute", "measure", "wait"]
        assert "compute 30 x" in repr(stats)


def test_nonsense_in_raw_stats_costs_nobody_their_results(session):
    def nonsense(pset, system_kwargs, user_kwargs):
        system_kwargs["raw_stats"]["compute"] = "long"

    assert len(session.map(nonsense, psets_of(3))) == 3


# Streams


def test_a_stream_yields_rows_as_they_finish(session):
    rows = list(session.stream(double, psets_of(20)))
    assert sorted(row["a"] for row in rows) == list(range(20))
    assert all(row["double"] == 2 * row["a"] for row in rows)


def test_a_stream_knows_its_progress_and_what_is_missing(session):
    with session.stream(inverse, psets_of(3)) as stream:
        assert stream.progress.total == 3
        assert len(list(stream)) == 2
    assert (stream.progress.finished, stream.progress.failures) == (2, 1)
    assert list(stream.results.missing.index) == [0]
    assert len(stream.results) == 2


def test_leaving_a_stream_cancels_the_rest(session, tmp_path):
    def mark(pset, system_kwargs, user_kwargs):
        open(f"ran-{pset['a']}", "w").close()
        return {}

    stream = session.stream(mark, psets_of(300), group_size=1)
    for _ in stream:
        break
    stream.close()
    ran = len(list(tmp_path.glob("ran-*")))
    assert ran < 300
    assert list(stream) == []
    results = stream.results
    assert set(results.missing["_kind"]) == {"cancelled"}
    assert len(results) + len(results.missing) == 300
    assert len(session.map(double, psets_of(5))) == 5


def test_a_stream_that_nobody_reads_computes_nothing(tmp_path):
    paramsurvey.init(backend="serial", **QUIET)
    stream = paramsurvey.stream(lambda *_: open("ran", "w").close(), psets_of(1))
    paramsurvey.finalize()  # which is refused while a survey is running
    stream.close()
    assert not (tmp_path / "ran").exists()


def test_a_stream_of_no_psets_is_over_at_once(session):
    assert list(session.stream(double, [])) == []


def test_a_stream_without_keep_results_holds_nothing(session):
    stream = session.stream(double, psets_of(3), keep_results=False)
    assert len(list(stream)) == 3
    assert len(stream.results) == 0


def test_stream_checks_its_arguments_before_it_is_read(session):
    with pytest.raises(PsetError):
        session.stream(double, {"a": 1})
    with pytest.raises(WorkerError):
        session.stream(7, psets_of(1))


# Workers


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param(lambda p, s, u: {"b": 3 * p["a"]}, id="lambda"),
        pytest.param(closure(), id="closure"),
        pytest.param(Multiplier(3), id="callable object"),
        pytest.param(Multiplier(3).method, id="method"),
        pytest.param(Multiplier.by_class, id="class method"),
        pytest.param(Multiplier.static, id="static method"),
        pytest.param(functools.partial(with_factor, 3), id="partial"),
        pytest.param(decorated(closure()), id="decorated"),
        pytest.param(lambda *args: {"b": 3 * args[0]["a"]}, id="any arguments"),
        pytest.param(paramsurvey.workers.keywords(lambda a: 3 * a, output="b"), id="keywords"),
    ],
)
def test_any_callable_can_be_a_worker(session, worker):
    assert session.map(worker, psets_of(3)).to_dict() == [{"a": 0, "b": 0}, {"a": 1, "b": 3}, {"a": 2, "b": 6}]


def test_a_worker_that_cannot_be_called_is_refused(session):
    for worker in (7, None, "double", Multiplier, lambda: {}):
        with pytest.raises(WorkerError):
            session.map(worker, psets_of(1))


def test_a_worker_that_cannot_be_pickled_is_refused_by_the_pool(pool):
    lock = threading.Lock()
    with pytest.raises(WorkerError, match=r"cannot be pickled for the backend 'multiprocessing'.*lock"):
        pool.map(lambda *_: lock, psets_of(1), name="locked")
    with pytest.raises(WorkerError, match="user_kwargs cannot be pickled"):
        pool.map(double, psets_of(1), user_kwargs=lock)


class Locked:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {}


def test_what_of_a_worker_cannot_be_pickled_is_named(pool):
    deep = {"shallow": 1, "deep": [1, (threading.Lock(),)]}
    for worker, user_kwargs, place in (
        (lambda *_: deep, None, r"deep\['deep'\]\[1\]\[0\], which .*<lambda> uses"),
        (Locked(Locked(threading.Lock())), None, r"Locked\.inner\.inner"),
        (double, {"model": Locked(deep)}, r"user_kwargs\['model'\]\.inner\['deep'\]\[1\]\[0\]"),
    ):
        with pytest.raises(WorkerError, match=f"; what cannot is {place}$"):
            pool.map(worker, psets_of(1), user_kwargs=user_kwargs)
    assert len(pool.map(double, psets_of(1))) == 1


def test_a_worker_made_by_exec_as_in_a_notebook_works(session):
    cell = """
    import math
    OFFSET = 10
    def helper(x):
        return math.floor(x) + OFFSET
    def worker(pset, system_kwargs, user_kwargs):
        return {"b": helper(pset["a"])}
    """
    notebook = {"__name__": "__main__"}
    exec(textwrap.dedent(cell), notebook)
    assert [row["b"] for row in session.map(notebook["worker"], psets_of(2)).iterdicts()] == [10, 11]


# Scripts


SCRIPT = """
import paramsurvey
print("imported")

class Point:
    def __init__(self, x):
        self.x = x

SCALE = 10

def scaled(x):
    return SCALE * x

def worker(pset, system_kwargs, user_kwargs):
    return {"point": Point(scaled(pset["a"])), "b": scaled(pset["a"])}

results = paramsurvey.map(worker, [{"a": a} for a in range(4)], ncores=2, verbose=0)
print([row.b for row in results.itertuples()], [type(row.point) is Point for row in results.itertuples()])
"""
EXPECTED = "imported\n[0, 10, 20, 30] [True, True, True, True]\n"


def run_python(*args, **kwargs):
    environ = {**os.environ, "PYTHONPATH": ROOT}
    process = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=60, check=False, env=environ, **kwargs
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_a_script_needs_no_guard(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run_python("script.py") == EXPECTED


def test_a_script_can_have_a_guard(tmp_path):
    head, _, tail = SCRIPT.rpartition("results = ")
    guarded = head + "if __name__ == '__main__':\n" + textwrap.indent("results = " + tail, "    ")
    (tmp_path / "script.py").write_text(guarded)
    assert run_python("script.py") == EXPECTED


def test_a_script_can_come_on_standard_input():
    assert run_python("-", input=SCRIPT) == EXPECTED


def test_a_script_can_be_a_command_line_argument():
    assert run_python("-c", SCRIPT) == EXPECTED


def test_a_script_can_import_its_worker_from_beside_it(tmp_path):
    definitions, _, run = SCRIPT.replace('print("imported")', "").partition("results =")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text(definitions)
    main = f"import paramsurvey\nfrom mine import worker, Point\nprint('imported')\nresults ={run}"
    (tmp_path / "lib" / "main.py").write_text(main)
    assert run_python("lib/main.py") == EXPECTED


def test_a_script_may_begin_in_several_threads_at_once():
    script = """
import threading, paramsurvey
sizes = []
def survey():
    sizes.append(len(paramsurvey.map(lambda p, s, u: None, [{"a": a} for a in range(3)], ncores=1, verbose=0)))
threads = [threading.Thread(target=survey) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sizes)
"""
    assert run_python("-c", script) == "[3, 3, 3, 3]\n"


DECORATED = """
import functools, math, multiprocessing, paramsurvey

@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@functools.singledispatch
def doubled(value):
    return 2 * value

@doubled.register
def _(value: str):
    return 2 * len(value)

class Circle:
    radius = 3

    @functools.cached_property
    def area(self):
        return round(math.pi * self.radius**2)

def square(n):
    return n * n

def worker(pset, system_kwargs, user_kwargs):
    with multiprocessing.Pool(1) as pool:
        squares = pool.map(square, range(3))
    return {"b": [fibonacci(pset["a"]), doubled("xyz"), Circle().area, squares, fibonacci.cache_info().maxsize]}

print(paramsurvey.map(worker, [{"a": 30}], ncores=1, verbose=0).to_dict()[0]["b"])
"""


def test_helpers_of_a_script_may_be_decorated_and_used_by_a_pool_of_the_workers_own(tmp_path):
    (tmp_path / "script.py").write_text(DECORATED)
    assert run_python("script.py") == "[832040, 6, 28, [0, 1, 4], None]\n"


def test_a_traceback_names_the_file_and_the_lines_of_a_script(tmp_path):
    script = """
import paramsurvey
def worker(pset, system_kwargs, user_kwargs):
    return {"b": 1 / pset["a"]}
print(paramsurvey.map(worker, [{"a": 0}], ncores=1, verbose=0).missing["_traceback"].iloc[0])
"""
    (tmp_path / "script.py").write_text(script)
    told = run_python("script.py")
    assert f'File "{tmp_path / "script.py"}", line 4, in worker' in told
    assert 'return {"b": 1 / pset["a"]}' in told


def test_a_script_on_standard_input_may_leave_the_folder_of_its_modules(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").write_text("def helper(x):\n    return x + 1\n")
    script = """
import os, mine, paramsurvey
os.chdir("elsewhere")
print(paramsurvey.map(lambda p, s, u: {"b": mine.helper(p["a"])}, [{"a": 1}], ncores=1, verbose=0).to_dict())
"""
    assert run_python("-", input=script) == "[{'a': 1, 'b': 2}]\n"


def test_more_workers_than_there_may_be_open_files_are_refused_with_the_remedy():
    script = """
import resource, paramsurvey
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    paramsurvey.map(lambda p, s, u: {"b": p["a"]}, [{"a": a} for a in range(99)], ncores=40, verbose=0)
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    told = run_python("-c", script)
    assert told.startswith("BackendError worker process ")
    assert told.endswith("give a smaller ncores=, or raise that limit (ulimit -n)\n")


def test_a_module_that_runs_a_survey_when_it_is_imported_is_refused_by_the_workers(tmp_path):
    """Each worker would import it, and run the survey again."""
    (tmp_path / "surveyed.py").write_text("""
import paramsurvey
def worker(pset, system_kwargs, user_kwargs):
    return None
paramsurvey.map(worker, [{"a": 1}], ncores=1, verbose=0)
""")
    script = """
try:
    import surveyed
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    (tmp_path / "script.py").write_text(script)
    told = run_python("script.py")
    assert told.startswith("WorkerStartError worker: the worker cannot be started (SessionError: a worker process has")
    assert 'or what runs the survey under `if __name__ == "__main__":` or into a function' in told


def test_a_script_may_forget_to_finalize_and_leave_a_stream_open(tmp_path):
    script = """
import paramsurvey
paramsurvey.init(ncores=2, verbose=0)
stream = paramsurvey.stream(lambda p, s, u: {"b": 1}, [{"a": a} for a in range(1000)], group_size=1)
print(next(stream)["b"])
"""
    assert run_python("-c", script) == "1\n"


def test_a_session_in_a_forked_child_is_left_alone():
    script = """
import os, paramsurvey
paramsurvey.init(ncores=1, verbose=0)
paramsurvey.map(lambda p, s, u: None, [{}])
pid = os.fork()
if pid == 0:
    paramsurvey.finalize()
    os._exit(0)
os.waitpid(pid, 0)
print(len(paramsurvey.map(lambda p, s, u: None, [{}])))
"""
    assert run_python("-W", "ignore", "-c", script) == "1\n"


def test_a_forked_child_runs_surveys_in_a_default_session_of_its_own():
    """It has the options of its parent's; what either does, the other does not notice."""
    script = """
import os, sys, paramsurvey
paramsurvey.init(ncores=1, verbose=0)
worker = lambda p, s, u: {"pid": os.getpid()}
[before] = paramsurvey.map(worker, [{}]).to_dict()
pid = os.fork()
if pid == 0:
    [inside] = paramsurvey.map(worker, [{}]).to_dict()
    print(inside["pid"] != before["pid"], paramsurvey.current_core_count(), flush=True)
    sys.exit(0)  # with all exit functions
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), paramsurvey.map(worker, [{}]).to_dict() == [before])
"""
    assert run_python("-W", "ignore", "-c", script) == "True 1\n0 True\n"


def test_a_forked_child_cannot_use_the_workers_of_its_parent():
    """Neither a session nor a stream; and if it ends with a stream half read, the parent's goes on."""
    script = """
import os, sys, paramsurvey
from paramsurvey.errors import BackendError
session = paramsurvey.Session(ncores=1, verbose=0)
stream = session.stream(lambda p, s, u: {"b": -p["a"]}, [{"a": a} for a in range(100)], group_size=1)
rows = [next(stream)]
pid = os.fork()
if pid == 0:
    for use in (lambda: session.map(lambda p, s, u: None, [{}]), lambda: list(stream)):
        try:
            use()
        except BackendError as error:
            print(error, flush=True)
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len([*rows, *stream]), len(stream.results.missing), os.getpid())
"""
    *told, last = run_python("-W", "ignore", "-c", script).splitlines()
    status, rows, missing, pid = last.split()
    assert (status, rows, missing) == ("0", "100", "0")
    belong = f"these worker processes belong to process {pid}, of which this one is a fork: open a session here, with "
    assert told == [belong + "paramsurvey.Session()"] * 2


@pytest.mark.parametrize("way", ["map", "journal", "run", "greedy"])
def test_memory_is_given_back_as_soon_as_nobody_has_the_results(session, tmp_path, way):
    """Python's own search for circles would come late: a gigabyte of answers can be ten objects."""

    def worker(pset, system_kwargs, user_kwargs):
        return {"worth": 1, "answer": np.ones(3)}

    def results_of():
        if way == "greedy":
            return session.greedy(worker, [1, 2, 3], picks=2, metric="worth")
        if way == "run":
            below = paramsurvey.Pipeline().map(worker).derive(more="worth + 1").map(double, name="below")
            return session.run(below, [{"a": 1}])
        return session.map(worker, [{"n": 1}], journal=str(tmp_path / "journal") if way == "journal" else None)

    results_of()  # what is made once stays
    gc.collect()
    gc.disable()
    try:
        results = results_of()
        answers = [weakref.ref(row["answer"]) for row in (results.trace if way == "greedy" else results.results).iloc]
        assert answers
        del results
        assert [each() for each in answers if each() is not None] == []
    finally:
        gc.enable()
