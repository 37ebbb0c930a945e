"""Surveys with a journal: what is known is not computed again, whatever the survey is like; nothing else is taken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET, Nowhere
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_workers import fails_at_odd, noted_half, noted_square, parity, square
from test_exactness import answer_of_row, assert_shown_exactly, identical_rows, tables

import paramsurvey
from paramsurvey import Pipeline, workers
from paramsurvey.codeprint.print import CodePrint
from paramsurvey.errors import OptionError, StageError, SurveyStopped
from paramsurvey.journal import ledger, prints
from paramsurvey.stages.base import Ask


@pytest.fixture(params=["serial", "multiprocessing"])
def session(request):
    with paramsurvey.Session(backend=request.param, ncores=2, **QUIET) as session:
        yield session


@pytest.fixture
def calls(tmp_path):
    """Return a function that tells how often workers were called since it was last asked, and its user_kwargs."""
    path = tmp_path / "calls"

    def called():
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(lines)

    called.kwargs = {"calls": str(path)}
    return called


GRID = [{"n": n, "k": k} for n in range(30) for k in (1, 2)]


# What comes again


def test_the_same_survey_again_computes_nothing(session, calls, tmp_path):
    first = session.map(noted_square, GRID, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert len(calls()) == 60
    again = session.map(noted_square, GRID, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert calls() == []
    assert again.results.equals(first.results)
    assert (first.progress.from_journal, again.progress.from_journal) == (0, 60)
    assert str(again.progress).endswith(", from the journal: 60")
    assert "journal" not in str(first.progress)


def test_only_what_is_new_in_a_grid_is_computed_in_whatever_order(session, calls, tmp_path):
    session.map(noted_square, GRID, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    calls()
    grid = [{"k": k, "n": n} for k in (3, 2, 1) for n in reversed(range(31))]
    results = session.map(noted_square, grid, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert len(calls()) == 31 + 2
    assert results.results.equals(session.map(noted_square, grid, user_kwargs=calls.kwargs).results)


def test_every_other_row_may_be_known(session, calls, tmp_path):
    psets = [{"n": n} for n in range(3000)]
    session.map(square, psets[::2], journal=tmp_path / "j")
    results = session.map(square, psets, journal=tmp_path / "j")
    assert results.progress.from_journal == 1500
    assert results.results.equals(session.map(square, psets).results)


def test_a_new_parameter_makes_other_psets(session, calls, tmp_path):
    session.map(noted_square, GRID, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    calls()
    wider = [{**pset, "more": 0} for pset in GRID]
    session.map(noted_square, wider, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert len(calls()) == 60


def test_values_of_other_types_are_other_psets(serial, tmp_path):
    serial.map(square, [{"n": 1}], journal=tmp_path / "j")
    for n, known in ((1, 1), (1.0, 0), (True, 0), (np.int64(1), 0), (np.float64(1), 0)):
        results = serial.map(square, [{"n": n}], journal=tmp_path / "j")
        assert results.progress.from_journal == known, n


def test_equal_psets_are_calls_of_their_own(session, calls, tmp_path):
    psets = [{"n": 7}] * 5
    session.map(noted_square, psets, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert len(calls()) == 5
    results = session.map(noted_square, psets * 2, user_kwargs=calls.kwargs, journal=tmp_path / "j")
    assert len(calls()) == 5
    assert (len(results), results.progress.from_journal) == (10, 5)


def test_psets_come_from_a_list_an_iterator_a_frame_and_other_results(session, calls, tmp_path):
    options = {"user_kwargs": calls.kwargs, "journal": tmp_path / "j"}
    session.map(noted_square, GRID, **options)
    calls()
    for psets in (iter(GRID), pd.DataFrame(GRID), session.map(lambda pset, system, user: None, GRID)):
        results = session.map(noted_square, psets, **options)
        assert results.progress.from_journal == 60
    frame = pd.DataFrame(GRID, index=[f"row {number}" for number in range(60)])
    results = session.map(noted_square, frame.iloc[::-1], **options)
    assert results.progress.from_journal == 60
    assert list(results.results.index[:2]) == ["row 59", "row 58"]
    assert calls() == []


def test_limit_counts_psets_whether_they_are_known_or_not(session, tmp_path):
    endless = ({"n": n} for n in count())
    first = session.map(square, endless, limit=20, journal=tmp_path / "j")
    more = session.map(square, ({"n": n} for n in count()), limit=30, journal=tmp_path / "j")
    assert (len(first), len(more), more.progress.from_journal, more.progress.total) == (20, 30, 20, 30)


def test_a_stream_yields_what_is_known_too(session, calls, tmp_path):
    options = {"user_kwargs": calls.kwargs, "journal": tmp_path / "j"}
    with session.stream(noted_square, GRID, **options, group_size=1) as stream:
        some = list(islice(stream, 20))
    calls()
    with session.stream(noted_square, GRID, **options) as stream:
        rows = list(stream)
    assert sorted((row["n"], row["k"], row["square"]) for row in rows) == [(p["n"], p["k"], p["n"] ** 2) for p in GRID]
    assert stream.progress.from_journal >= len(some)
    assert len(calls()) == 60 - stream.progress.from_journal


def test_out_func_is_called_with_what_is_known_too(session, tmp_path):
    session.map(square, GRID[:10], journal=tmp_path / "j")
    seen = []
    session.map(
        square,
        GRID,
        journal=tmp_path / "j",
        out_func=lambda ret, system, user: seen.append((ret["pset"], ret["result"])),
    )
    assert len(seen) == 60
    assert all(answer == {"square": pset["n"] ** 2} for pset, answer in seen)


def test_without_kept_results_what_is_known_is_counted(session, tmp_path):
    session.map(square, GRID, journal=tmp_path / "j")
    results = session.map(square, GRID, journal=tmp_path / "j", keep_results=False)
    assert (len(results), results.progress.finished, results.progress.from_journal) == (0, 60, 60)


def test_no_psets_are_no_trouble(session, tmp_path):
    for _ in range(2):
        assert len(session.map(square, [], journal=tmp_path / "j")) == 0


def test_answers_with_other_keys_in_every_other_row_come_back_as_they_were(session, tmp_path):
    psets = [{"n": n} for n in range(100)]
    first = session.map(parity, psets, journal=tmp_path / "j")
    session.map(parity, psets[::3], journal=tmp_path / "k")
    for path in ("j", "k"):
        again = session.map(parity, psets, journal=tmp_path / path)
        assert again.to_dict() == first.to_dict()
        assert again.results.equals(first.results)


def test_columns_that_none_of_the_rows_have_are_left_out(session, tmp_path):
    session.map(parity, [{"n": n} for n in range(100)], journal=tmp_path / "j")
    results = session.map(parity, [{"n": n} for n in range(0, 100, 2)], journal=tmp_path / "j")
    assert list(results.results.columns) == ["n", "even"]


def test_what_cannot_be_pickled_is_computed_and_not_remembered(serial, tmp_path):
    psets = [{"n": n, "odd": (None for _ in ()) if n % 2 else n} for n in range(40)]
    for known in (0, 20):
        results = serial.map(square, psets, journal=tmp_path / "j")
        assert (len(results), results.progress.from_journal) == (40, known)
    assert [row["square"] for row in results.iterdicts()] == [n * n for n in range(40)]


def test_user_kwargs_that_cannot_be_told_apart_are_said(tmp_path, capsys):
    with paramsurvey.Session(backend="serial", verbose=1, pslogger_fd=Nowhere()) as session:
        for _ in range(2):
            results = session.map(square, GRID, user_kwargs=(None for _ in ()), journal=tmp_path / "j")
            assert (len(results), results.progress.from_journal) == (60, 0)
    assert "square: nothing of it is remembered in the journal, because of its user_kwargs: " in capsys.readouterr().err


# What makes answers stale


def double(pset, system_kwargs, user_kwargs):
    return {"square": pset["n"] * 2}


def test_other_code_other_user_kwargs_other_seeds_and_other_versions_are_other_stages(serial, tmp_path):
    def taken(worker=square, **options):
        return serial.map(worker, GRID, journal=tmp_path / "j", **options).progress.from_journal

    assert taken() == 0
    assert [taken(double), taken(user_kwargs={"a": 1}), taken(seed=1), taken(version="2")] == [0] * 4
    assert [taken(seed_by="n"), taken(seed_by="n"), taken(seed_by=["n", "n"])] == [0, 60, 0]
    assert [taken(), taken(double), taken(user_kwargs={"a": 1}), taken(seed=1), taken(version="2")] == [60] * 5
    assert [taken(user_kwargs={"a": 1.0}), taken(user_kwargs={}), taken(version="3")] == [0] * 3
    assert [taken(name="other"), taken(group_size=1), taken(timeout=0), taken(retries=3)] == [60] * 4


def test_a_file_counts_by_its_content(serial, tmp_path):
    def taken():
        return serial.map(
            square, GRID, journal=tmp_path / "j", depends=[tmp_path / "data", tmp_path / "more"]
        ).progress.from_journal

    (tmp_path / "data").write_text("1")
    (tmp_path / "more").write_text("x")
    assert [taken(), taken()] == [0, 60]
    (tmp_path / "data").write_text("2")
    assert [taken(), taken()] == [0, 60]
    (tmp_path / "data").write_text("1")
    assert taken() == 60
    (tmp_path / "more").unlink()
    with pytest.raises(OptionError, match=r"depends='.*more': the file cannot be read: No such file"):
        taken()


def test_options_of_a_stage_are_its_own(serial, tmp_path):
    def run(version):
        pipeline = Pipeline("two").map(square, version=version).map(noted_free_half, name="half")
        return pipeline, serial.run(pipeline, [{"n": n, "k": 1} for n in range(10)], journal=tmp_path / "j")

    run("1")
    _, results = run("1")
    assert results.progress.from_journal == 20
    _, results = run("2")
    assert [results["square"].progress.from_journal, results["half"].progress.from_journal] == [0, 10]
    with pytest.raises(OptionError, match="journal is an option of the whole run"):
        Pipeline().map(square, journal="j")


def noted_free_half(pset, system_kwargs, user_kwargs):
    return {"half": pset["square"] / 2 + pset["k"]}


def test_another_version_of_a_library_is_told_once_and_not_acted_on(tmp_path, monkeypatch, capsys):
    found = []
    for version in ("1.0", "1.1", "1.1", "1.0"):
        code = CodePrint({"worker": "x"}, {"numpy": version})
        monkeypatch.setattr(ledger, "code_print", lambda worker, user_kwargs, code=code: code)
        with paramsurvey.Session(backend="serial", verbose=1, pslogger_fd=Nowhere()) as session:
            known = session.map(square, GRID, journal=tmp_path / "j").progress.from_journal
        told = [line for line in capsys.readouterr().err.splitlines() if "since rows in the journal" in line]
        found.append((known, *told))
    how = "paramsurvey: square: since rows in the journal were computed, numpy {} is {} now; they are used all the same"
    how += " (a module in depends= makes rows of other versions of it stale)"
    assert found == [(0,), (60, how.format("1.0", "1.1")), (60,), (60, how.format("1.1", "1.0"))]
    assert "numpy 1.0 is 1.1" not in paramsurvey.explain(tmp_path / "j", GRID[0]).text  # it is 1.0 again


def test_a_version_that_is_asked_for_makes_rows_stale(serial, tmp_path, monkeypatch):
    def taken(**options):
        return serial.map(square, GRID, journal=tmp_path / "j", **options).progress.from_journal

    assert [taken(depends=np), taken(depends=[np]), taken()] == [0, 60, 0]
    monkeypatch.setattr(prints, "version_of", lambda module: "0.1")
    assert [taken(depends=np), taken()] == [0, 60]
    monkeypatch.setattr(prints, "version_of", lambda module: "0.2")
    assert taken(depends=np) == 0
    assert paramsurvey.explain(tmp_path / "j", {"n": 1, "k": 1}).reasons == ("module numpy changed from 0.1 to 0.2",)


def test_a_module_of_the_users_own_counts_by_its_file(serial, tmp_path, monkeypatch):
    def taken():
        return serial.map(square, GRID, journal=tmp_path / "j", depends=[own]).progress.from_journal

    (tmp_path / "own_module.py").write_text("A = 1")
    (tmp_path / "own_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_module")
    assert [taken(), taken()] == [0, 60]
    (tmp_path / "own_module.py").write_text("A = 2")
    assert [taken(), taken()] == [0, 60]
    own = importlib.import_module("own_folder")
    with pytest.raises(OptionError, match=r"depends=<module 'own_folder'.*>: it is not installed and has no file"):
        taken()
    for name in ("own_module", "own_folder"):
        del sys.modules[name]


SCRIPT = """
import paramsurvey
from helpers import scaled

def worker(pset, system_kwargs, user_kwargs):
    return {"scaled": scaled(pset["n"])}

results = paramsurvey.map(worker, [{"n": n} for n in range(5)], journal="JOURNAL", backend="serial", verbose=0)
print(results.progress.from_journal)
print(*paramsurvey.explain("JOURNAL", {"n": 3}).reasons)
"""


def test_a_script_that_was_renamed_or_moved_goes_on_where_it_was(tmp_path):
    def taken(script, helpers="def scaled(n):\n    return 10 * n\n"):
        (tmp_path / script).parent.mkdir(exist_ok=True)
        (tmp_path / script).write_text(SCRIPT.replace("JOURNAL", str(tmp_path / "j")))
        (tmp_path / script).with_name("helpers.py").write_text(helpers)
        done = subprocess.run(
            [sys.executable, tmp_path / script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.splitlines()

    assert taken("survey.py") == ["0", ""]
    assert [taken("survey2.py"), taken("archive/survey.py")] == [["5", ""]] * 2
    edited = "def scaled(n):\n    return 1000 * n\n"  # longer: bytecode knows a file by length and second
    assert taken("archive/survey3.py", edited) == [
        "0",
        "function helpers.scaled changed",
    ]


# What cannot be seen


def opaque(pset, system_kwargs, user_kwargs):
    return {"y": eval(str(pset["n"]))}


SEEN_ONLY_WHEN_IT_RUNS = "what eval() finds in test_journal.opaque: it is known only when it runs"


def test_what_cannot_be_seen_is_written_into_the_journal_and_shown(serial, tmp_path):
    for n in (3, 4):
        serial.map(opaque, [{"n": n}], journal=tmp_path / "j")
        serial.map(square, [{"n": n}], journal=tmp_path / "j")
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.stages["not_covered"].tolist() == [(SEEN_ONLY_WHEN_IT_RUNS,), ()]
        for what in ({"n": 3}, 0, "opaque"):
            why = paramsurvey.explain(journal, what, stage="opaque")
            assert why.not_covered == (SEEN_ONLY_WHEN_IT_RUNS,)
            assert f"a change of this is not noticed:\n  {SEEN_ONLY_WHEN_IT_RUNS}" in why.text
        assert paramsurvey.explain(journal, "square").not_covered == ()
    assert serial.map(opaque, [{"n": 3}], journal=tmp_path / "j").progress.from_journal == 1  # nobody acts on it


@pytest.mark.parametrize(("verbose", "on_terminal"), [(1, 0), (2, 1)])
def test_what_cannot_be_seen_is_told_once_in_the_log_and_to_who_wants_to_know(tmp_path, capsys, verbose, on_terminal):
    prefix = str(tmp_path / "log")
    pipeline = Pipeline().map(opaque).map(opaque, name="again", after="psets").map(square, after="psets")
    with paramsurvey.Session(backend="serial", verbose=verbose, pslogger_prefix=prefix) as session:
        session.run(pipeline, [{"n": 3}], journal=tmp_path / "j")
    (log,) = tmp_path.glob("log*")
    told = f"opaque: nobody notices if this changes, and rows of before are used: {SEEN_ONLY_WHEN_IT_RUNS} (version="
    assert log.read_text().count("nobody notices") == log.read_text().count(told) == 1
    assert capsys.readouterr().err.count(told) == on_terminal


# What failed


def test_what_failed_is_tried_again_unless_that_is_not_wanted(session, calls, tmp_path):
    options = {"user_kwargs": calls.kwargs, "journal": tmp_path / "j"}
    psets = [{"n": n} for n in range(10)]
    first = session.map(fails_at_odd, psets, **options)
    assert (len(first), len(first.missing)) == (5, 5)
    assert len(calls()) == 10
    again = session.map(fails_at_odd, psets, **options)
    assert calls() == [f"odd {n}" for n in (1, 3, 5, 7, 9)]
    assert again.progress.from_journal == 5
    kept = session.map(fails_at_odd, psets, retry_failed=False, **options)
    assert calls() == []
    assert kept.missing.equals(first.missing)
    assert kept.results.equals(first.results)
    assert (kept.progress.finished, kept.progress.failures) == (5, 5)
    with pytest.raises(paramsurvey.errors.SurveyStopped, match="pset 1 is missing"):
        session.map(fails_at_odd, psets, retry_failed=False, on_failure="stop", **options)


def test_what_failed_once_and_was_finished_later_is_finished(serial, tmp_path):
    def picky(pset, system_kwargs, user_kwargs):
        if not flag.exists():
            raise ValueError
        return {"square": 1}

    flag = tmp_path / "flag"
    serial.map(picky, GRID, journal=tmp_path / "j")
    flag.touch()
    serial.map(picky, GRID, journal=tmp_path / "j")
    results = serial.map(picky, GRID, journal=tmp_path / "j", retry_failed=False)
    assert (len(results), results.progress.from_journal) == (60, 60)


# Pipelines


def array_pipeline():
    return Pipeline("array").map(noted_square, name="square").product({"k": [1, 2]}).map(noted_half, name="half")


def test_a_pipeline_takes_up_every_stage_where_it_was(session, calls, tmp_path):
    psets = [{"n": n} for n in range(20)]
    options = {"user_kwargs": calls.kwargs, "journal": tmp_path / "j"}
    whole = session.run(array_pipeline(), psets, user_kwargs=calls.kwargs)
    assert len(calls()) == 60
    session.run(array_pipeline(), psets[5:15], **options)
    assert len(calls()) == 30
    results = session.run(array_pipeline(), psets, **options)
    assert len(calls()) == 30
    assert results.results.equals(whole.results)
    assert results["square"].results.equals(whole["square"].results)
    assert results.progress.from_journal == 30
    assert "from the journal: 60" in str(session.run(array_pipeline(), psets, **options).progress)
    assert results.lineage(7) == whole.lineage(7)


def test_a_longer_pipeline_runs_its_new_stages_only(session, calls, tmp_path):
    psets = [{"n": n} for n in range(20)]
    options = {"user_kwargs": calls.kwargs, "journal": tmp_path / "j"}
    session.run(Pipeline().map(noted_square), psets, **options)
    calls()
    wider = Pipeline().map(noted_square).product({"k": [0]}).map(noted_half).top(3, by="half")
    results = session.run(wider, psets, **options)
    assert calls() == sorted(f"half {n} 0" for n in range(20))
    assert [row["n"] for row in results.results.to_dict("records")] == [19, 18, 17]


def test_a_streamed_pipeline_with_more_known_rows_than_fit_on_an_edge(session, tmp_path):
    pipeline = Pipeline().map(square).product({"k": [1, 2]}).map(noted_free_half)
    psets = [{"n": n} for n in range(50_000)]
    session.run(Pipeline().map(square), psets, journal=tmp_path / "j", keep="none")
    for known in (50_000, 150_000):
        with session.stream_run(pipeline, iter(psets), journal=tmp_path / "j") as stream:
            total = sum(row["half"] for row in stream)
        assert total == sum(2 * (n * n / 2) + 3 for n in range(50_000))
        assert stream.progress.from_journal == known


def test_branches_that_call_one_worker_for_one_pset_are_calls_of_their_own(session, calls, tmp_path):
    pipeline = Pipeline().map(noted_square, name="one").map(noted_square, name="two", after="psets")
    both = pipeline.concat(after=["one", "two"])
    for expected in (20, 0):
        results = session.run(both, [{"n": n} for n in range(10)], user_kwargs=calls.kwargs, journal=tmp_path / "j")
        assert len(calls()) == expected
        assert len(results.results) == 20


class Rounds:
    """A whole-table stage that asks in rounds, some psets twice."""

    name = "rounds"

    def __init__(self, user_kwargs):
        self.user_kwargs = user_kwargs

    def table(self, table):
        found = []
        for round_ in range(4):
            results = yield Ask(
                noted_square, [{"n": n} for n in range(round_, round_ + 5)], {"user_kwargs": self.user_kwargs}
            )
            found += list(results.iterdicts())
        return found


def test_rows_that_a_stage_asks_for_are_known_too(session, calls, tmp_path):
    pipeline = Pipeline().add(Rounds(calls.kwargs))
    first = session.run(pipeline, [{"x": 1}], journal=tmp_path / "j")
    assert len(calls()) == 20
    again = session.run(pipeline, [{"x": 1}], journal=tmp_path / "j")
    assert calls() == []
    assert again.results.equals(first.results)
    assert again.progress.from_journal == 20


def test_a_stage_that_refuses_missing_rows_does_so_for_rows_known_to_have_failed(session, tmp_path):
    pipeline = Pipeline().map(fails_at_odd).top(1, by="even")
    for options in ({}, {"retry_failed": False}):
        with pytest.raises(StageError.__mro__[1], match="needs its whole table, and 5 rows are missing"):
            session.run(pipeline, [{"n": n} for n in range(10)], journal=tmp_path / "j", **options)


def letters(pset, system_kwargs, user_kwargs):
    return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}


def vowels(pset, system_kwargs, user_kwargs):
    return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])) & set("aeiou"))}


def test_a_greedy_search_takes_up_its_rounds_and_another_metric_is_another_search(session, tmp_path):
    names = ["tea", "eat", "ten", "cup", "idea"]
    first = session.greedy(letters, names, picks=3, journal=tmp_path / "j")
    again = session.greedy(letters, names, picks=3, journal=tmp_path / "j")
    assert (again.keys, again.value) == (first.keys, first.value)
    assert (first.progress.from_journal, again.progress.from_journal) == (0, again.progress.finished)
    assert again.progress.finished == first.progress.finished
    other = session.greedy(vowels, names, picks=3, journal=tmp_path / "j")
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        counts = journal.stages["finished"].tolist()
    assert len(counts) == 2
    assert counts[0] >= 5 + 4 + 3 - 2
    assert (other.keys, other.value) == (session.greedy(vowels, names, picks=3).keys, other.value)


def test_a_stage_that_asks_is_told_how_much_of_it_was_in_the_journal(session, tmp_path):
    def told():
        run = session.run(Pipeline().add(AskingTwice()), [{"n": 0}], journal=tmp_path / "j")
        return run["asking"].iloc[0].tolist()

    assert told() == [0, 4, 4, [1] * 4]
    assert told() == [4, 4, 4, [0] * 4]


class AskingTwice:
    name = "asking"

    def table(self, table):
        all_of = (yield Ask(square, [{"n": n} for n in range(4)])).progress
        first = yield Ask(double, [{"n": n} for n in range(4)], until="first")
        attempts = dict(first.attempts)
        finished = len(first.rows)
        while first.outstanding:
            first = yield Ask(double, [], until="first")
            attempts |= first.attempts
            finished += len(first.rows)
        row = {"known": all_of.from_journal, "finished": all_of.finished, "first": finished}
        return [{**row, "attempts": [attempts.get(number, 1) for number in range(4)]}]


def test_a_pipeline_as_a_worker_is_told_by_its_stages(session, tmp_path):
    def taken(worker):
        pipeline = Pipeline().add(AskingFor(Pipeline().map(worker)))
        return session.run(pipeline, [{"x": 1}], journal=tmp_path / "j").progress.from_journal

    assert [taken(square), taken(square), taken(double), taken(double)] == [0, 4, 0, 4]


class AskingFor:
    name = "asking"

    def __init__(self, worker):
        self.worker = worker

    def table(self, table):
        return list((yield Ask(self.worker, [{"n": n} for n in range(4)])).iterdicts())


def test_workers_of_functions_and_of_commands_are_told_apart(serial, tmp_path):
    def taken(worker):
        return serial.map(worker, [{"n": 1}, {"n": 2}], journal=tmp_path / "j").progress.from_journal

    def one(n):
        return n + 1

    def other(n):
        return n + 2

    for make in (
        lambda function: workers.keywords(function, output="m"),
        lambda function: workers.command(["echo", "{n}", function.__name__]),
    ):
        assert [taken(make(one)), taken(make(one)), taken(make(other)), taken(make(other))] == [0, 2, 0, 2]


# Runs that end before their time


def test_a_survey_that_is_stopped_has_what_is_finished_and_the_rest_is_missing(session, tmp_path):
    psets = [{"n": 2 * n} for n in range(500)] + [{"n": 1}] + [{"n": 2 * n} for n in range(500, 20_000)]
    session.map(fails_at_odd, psets[:100], journal=tmp_path / "j")
    with pytest.raises(SurveyStopped, match="pset 500 is missing") as caught:
        session.map(fails_at_odd, psets, journal=tmp_path / "j", on_failure="stop", group_size=50)
    results = caught.value.results
    assert len(results) + len(results.missing) == results.progress.total == 20_001
    assert results.results["n"].is_monotonic_increasing
    again = session.map(fails_at_odd, psets, journal=tmp_path / "j")
    assert again.progress.from_journal >= len(results)
    assert (len(again), len(again.missing)) == (20_000, 1)


def test_a_pipeline_that_is_stopped_has_what_is_finished_and_the_rest_is_missing(session, tmp_path):
    psets = [{"n": 2 * n} for n in range(500)] + [{"n": 1}] + [{"n": 2 * n} for n in range(500, 1000)]
    pipeline = Pipeline().map(fails_at_odd).product({"k": [1, 2]}).map(echo)
    session.run(pipeline, psets[:100], journal=tmp_path / "j")
    with pytest.raises(SurveyStopped) as caught:
        session.run(pipeline, psets, journal=tmp_path / "j", on_failure="stop", group_size=5)
    upper, lower = caught.value.results["fails_at_odd"], caught.value.results["echo"]
    assert len(upper) + len(upper.missing) == 1001
    assert len(lower) + sum(lower.missing["_kind"] != "upstream") <= 2 * len(upper)
    again = session.run(pipeline, psets, journal=tmp_path / "j")
    assert len(again["echo"]) == 2000
    assert again["echo"].progress.from_journal >= len(lower)


def test_surveys_of_several_threads_write_to_one_journal(tmp_path):
    psets = [{"n": n} for n in range(300)]
    with (
        paramsurvey.Session(backend="serial", **QUIET) as session,
        ThreadPoolExecutor(4) as pool,
    ):
        options = {"journal": tmp_path / "j", "group_size": 1}
        runs = [pool.submit(session.map, worker, psets, **options) for worker in (square, double, parity, fails_at_odd)]
        assert [len(run.result()) for run in runs] == [300, 300, 300, 150]
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.verify() == journal.damages == []
        assert sorted(journal.stages["finished"]) == [150, 300, 300, 300]


def test_the_environment_names_a_journal_and_the_last_line_says_what_came_from_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PARAMSURVEY_JOURNAL", str(tmp_path / "j"))
    for _ in range(2):
        with paramsurvey.Session(backend="serial", pslogger_prefix=str(tmp_path / "log")) as session:
            session.map(square, GRID)
    assert (
        "paramsurvey: square: total: 60, active: 0, finished: 60, failures: 0, exceptions: 0, from the journal: 60; "
        in (capsys.readouterr().err)
    )
    logs = [path.read_text() for path in tmp_path.glob("log*")]
    assert sorted("from the journal: 60" in log for log in logs) == [False, True]


# No value changes


exactly = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def echo(pset, system_kwargs, user_kwargs):
    return {"echo": pset}


@exactly
@given(
    psets=tables(["a", "b c", 1, ("x", 2), None]), known=st.integers(0, 240), group_size=st.sampled_from([None, 1, 3])
)
def test_psets_and_answers_are_exactly_the_same_through_the_journal(serial, tmp_path_factory, psets, known, group_size):
    journal = tmp_path_factory.mktemp("exact") / "j"
    serial.map(echo, psets[:known], journal=journal, group_size=group_size)
    results = serial.map(echo, psets, journal=journal, group_size=group_size)
    assert results.progress.from_journal == min(known, len(psets))
    rows = results.to_dict()
    assert identical_rows([{k: v for k, v in row.items() if k != "echo"} for row in rows], psets)
    assert identical_rows([row["echo"] for row in rows], psets)
    assert_shown_exactly(results.results.drop(columns="echo"), psets)


@exactly
@given(answers=tables(["y", "b c", 1, ("x", 2), None]), step=st.integers(1, 3))
def test_answers_with_holes_are_exactly_the_same_through_the_journal(serial, tmp_path_factory, answers, step):
    journal = tmp_path_factory.mktemp("exact") / "j"
    psets = [{"row": row} for row in range(len(answers))]
    options = {"user_kwargs": {"answers": answers}, "journal": journal}
    plain = serial.map(answer_of_row, psets, user_kwargs={"answers": answers})
    serial.map(answer_of_row, psets[::step], **options)
    results = serial.map(answer_of_row, psets, **options)
    assert results.progress.from_journal == len(psets[::step])
    expected = [pset | answer for pset, answer in zip(psets, answers, strict=True)]
    assert identical_rows(results.to_dict(), expected)
    assert list(results.results.columns) == list(plain.results.columns)
    assert results.results.dtypes.tolist() == plain.results.dtypes.tolist()


# What a worker can see beside its values


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: [each], lambda each: {"in": (each,)}])
def test_the_order_of_a_dict_in_a_pset_counts_and_that_of_its_keys_does_not(tmp_path, wrap):
    first, other = {"cool": 2, "heat": 1}, {"heat": 1, "cool": 2}
    with paramsurvey.Session(backend="serial", journal=tmp_path / "j", **QUIET) as session:
        for pset, known in (
            ({"a": wrap(first), "b": 1}, 0),
            ({"a": wrap(other), "b": 1}, 0),
            ({"b": 1, "a": wrap(first)}, 1),
            ({"b": 1, "a": wrap(other)}, 1),
        ):
            found = session.map(lambda pset, system, user: {"y": repr(pset["a"])}, [pset])
            assert (found.results["y"][0], found.progress.from_journal) == (repr(pset["a"]), known)


def test_a_folder_that_was_given_counts(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with paramsurvey.Session(backend="serial", journal=tmp_path / "j", **QUIET) as session:
        for folder, known in (("a", 0), ("b", 0), ("a", 1)):
            found = session.map(parity, [{"n": 1}], chdir=tmp_path / folder)
            assert found.progress.from_journal == known


def test_a_missing_file_is_refused_without_a_journal_too(session):
    with pytest.raises(OptionError, match="depends='not there': the file cannot be read: No such file"):
        session.map(parity, [{"n": 1}], depends=["not there"])
