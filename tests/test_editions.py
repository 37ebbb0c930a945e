"""Workers have the code that the program has, however its files change; and a journal keeps answers under that code."""

import importlib
import subprocess
import sys
import textwrap
from itertools import count

import pytest
from conftest import QUIET

import paramsurvey
from paramsurvey import editions

ADDS = "def worker(pset, system_kwargs, user_kwargs):\n    return {{'x': pset['n'] + {}}}\n"
EDITS_ITSELF = """
def worker(pset, system_kwargs, user_kwargs):
    with open(__file__, "w") as file:
        file.write("def worker(pset, system_kwargs, user_kwargs):\\n    return {'x': 'edited'}\\n")
    return {"x": pset["n"]}
"""
NAMES = (f"edited_module_{number}" for number in count())
PSETS = [{"n": n} for n in range(3)]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes modules, and forget them in the end; `.name` is of one that is new."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()

    write.name = next(NAMES)
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("edited_"):
            del sys.modules[name]


@pytest.fixture(params=["multiprocessing", "serial"])
def session(request):
    with paramsurvey.Session(backend=request.param, ncores=2, **QUIET) as session:
        yield session


def xs(results):
    return results.results["x"].tolist()


def test_a_module_that_was_loaded_again_is_new_in_the_workers_too(project, session):
    project({f"{project.name}.py": ADDS.format(1)})
    module = importlib.import_module(project.name)
    assert xs(session.map(module.worker, PSETS)) == [1, 2, 3]
    project({f"{project.name}.py": ADDS.format(1000)})
    importlib.reload(module)
    assert xs(session.map(module.worker, PSETS)) == [1000, 1001, 1002]


def test_after_a_reload_the_journal_keeps_what_the_new_code_answers(project, session, tmp_path):
    project({f"{project.name}.py": ADDS.format(1)})
    module = importlib.import_module(project.name)
    journal = tmp_path / "j"
    session.map(module.worker, PSETS, journal=journal)
    for number, known in ((1000, 0), (1000, 3), (1, 3)):
        project({f"{project.name}.py": ADDS.format(number)})
        importlib.reload(module)
        found = session.map(module.worker, PSETS, journal=journal)
        assert xs(found) == [number, number + 1, number + 2]
        assert found.progress.from_journal == known


@pytest.mark.parametrize("is_new_session", [False, True])
def test_what_was_edited_and_not_loaded_again_is_new_nowhere(project, session, tmp_path, is_new_session):
    """Not in new processes either, and nothing is computed again, because the code of the program is the same."""
    project({f"{project.name}.py": ADDS.format(1)})
    module = importlib.import_module(project.name)
    assert xs(session.map(module.worker, PSETS, journal=tmp_path / "j")) == [1, 2, 3]
    project({f"{project.name}.py": ADDS.format(1000)})
    if is_new_session:
        session.close()
        session = paramsurvey.Session(backend=session._options.backend, ncores=2, **QUIET)
    with session:
        found = session.map(module.worker, [*PSETS, {"n": 3}], journal=tmp_path / "j")
        assert (xs(found), found.progress.from_journal) == ([1, 2, 3, 4], 3)


def test_a_package_is_imported_as_the_program_has_it(project):
    name = project.name
    files = {
        f"{name}/__init__.py": "from .deep import K\n",
        f"{name}/deep.py": "K = 1\n",
        f"{name}/work.py": f"import {name}\n" + ADDS.format(f"{name}.K"),
    }
    project(files)
    module = importlib.import_module(f"{name}.work")
    editions.editions()  # as at the beginning of a survey
    project({file: text.replace("1", "10") for file, text in files.items()})
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        assert xs(session.map(module.worker, PSETS)) == [1, 2, 3]


def test_a_module_that_is_edited_while_a_survey_runs_is_the_old_one_to_its_end(project, tmp_path):
    project({f"{project.name}.py": EDITS_ITSELF})
    module = importlib.import_module(project.name)
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        found = session.map(module.worker, PSETS, journal=tmp_path / "j", max_tasks_per_child=1, group_size=1)
        assert xs(found) == [0, 1, 2]
        assert session.map(module.worker, PSETS, journal=tmp_path / "j").progress.from_journal == 3
        importlib.reload(module)
        again = session.map(module.worker, PSETS, journal=tmp_path / "j")
        assert (xs(again), again.progress.from_journal) == (["edited"] * 3, 0)


def test_a_module_that_workers_import_in_a_call_is_the_programs_too(project, tmp_path):
    name = project.name
    lazy = (
        f"def worker(pset, system_kwargs, user_kwargs):\n    import {name}_b\n    return {name}_b.worker(pset, 0, 0)\n"
    )
    project({f"{name}_a.py": lazy, f"{name}_b.py": ADDS.format(1)})
    module = importlib.import_module(f"{name}_a")
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        assert xs(session.map(module.worker, PSETS, journal=tmp_path / "j")) == [1, 2, 3]
    project({f"{name}_b.py": ADDS.format(1000)})
    with paramsurvey.Session(ncores=1, **QUIET) as session:
        found = session.map(module.worker, [*PSETS, {"n": 3}], journal=tmp_path / "j")
        assert (xs(found), found.progress.from_journal) == ([1, 2, 3, 4], 3)


@pytest.mark.parametrize(
    "after",
    [
        ADDS.format(1000),
        "def another():\n    pass\n\n\n" + ADDS.format(1),
        ADDS.format("K") + "K = 1\n",
        "(",
    ],
    ids=["other code", "a new function", "a constant", "no Python"],
)
def test_nothing_is_remembered_if_workers_may_have_other_code_than_the_program(project, tmp_path, capfd, after):
    """If a file was edited before anybody looked, it cannot be told what the program has."""
    project({f"{project.name}.py": ADDS.format(1)})
    module = importlib.import_module(project.name)
    project({f"{project.name}.py": after})
    with paramsurvey.Session(backend="serial", verbose=1, vstats=0) as session:
        for _ in range(2):
            found = session.map(module.worker, PSETS, journal=tmp_path / "j")
            assert (xs(found), found.progress.from_journal) == ([1, 2, 3], 0)
        told = capfd.readouterr().err
        assert (
            f"nothing is remembered in the journal, nor taken from it: {tmp_path}/{project.name}.py was edited after "
            "this program had imported it, so that the workers, who import it now, have other code; importlib.reload() "
            "the module, or start the program anew"
        ) in " ".join(told.split())
        assert told.count("was edited after") == 2  # once in each survey
        project({f"{project.name}.py": ADDS.format(1)})
        importlib.reload(module)
        session.map(module.worker, PSETS, journal=tmp_path / "j")
        assert session.map(module.worker, PSETS, journal=tmp_path / "j").progress.from_journal == 3


def test_a_module_that_is_loaded_again_as_it_was_changes_nothing(project):
    project({f"{project.name}.py": ADDS.format(1)})
    module = importlib.import_module(project.name)
    before = editions.editions()
    importlib.reload(module)
    assert editions.editions() == before


def test_a_process_that_cannot_be_replaced_forgets_modules_of_another_edition(project, tmp_path):
    """Those of Ray and of MPI ranks, for instance."""
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from paramsurvey.editions import Edition, take_over
        import edited_other  # which imports the module below it
        assert edited_other.edited_below.K == 1
        path = sys.argv[1] + "/edited_below.py"
        for number in (2, 3):
            edition = Edition("edited_below", path, (0, number), b"K = %d" % number, False)
            take_over([edition])
            import edited_other
            assert edited_other.edited_below.K == number
            take_over([edition])
            assert sys.modules["edited_other"] is edited_other  # nothing new, nothing forgotten
    """
    project({"edited_other.py": "import edited_below\n", "edited_below.py": "K = 1\n"})
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=True, timeout=60)


def test_libraries_and_what_is_installed_have_no_editions():
    names = {each.name.partition(".")[0] for each in (editions.editions() or editions.Editions((), (), 0)).known}
    assert not names & {"pytest", "numpy", "pandas", "json", "paramsurvey", "__main__"}
