"""Rows that explain themselves: details, what was printed, and a pset that is run again here."""

import ctypes
import os
import pdb
import pickle
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import QUIET
from test_session import psets_of

import paramsurvey
from paramsurvey.engine.columns import DETAILS
from paramsurvey.engine.details import TAIL_BYTES
from paramsurvey.errors import PsetError, SessionError, StageError, StageFailed

pytestmark = pytest.mark.usefixtures("own_folder")

COSTS = [name for name in DETAILS if name not in ("_stdout", "_stderr")]


def talks(pset, system_kwargs, user_kwargs):
    print("python", pset["a"])
    print("warning", file=sys.stderr)
    os.write(1, b"descriptor\n")
    ctypes.CDLL(None).puts(b"C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["sh", "-c", "echo program; echo trouble >&2"], check=True)
    if pset["a"] == 1:
        raise ValueError("one")
    return {"b": 2 * pset["a"], "seed": system_kwargs["seed"]}


def test_rows_say_where_when_and_at_what_cost_they_were_computed(session):
    began = time.time()
    results = session.map(talks, psets_of(4), details=True)
    frame = results.results
    assert list(frame.columns) == ["a", "b", "seed", *DETAILS]
    assert frame["_status"].tolist() == ["finished"] * 3
    assert frame["_attempts"].tolist() == [1, 1, 1]
    assert set(frame["_host"]) == {socket.gethostname()}
    assert (os.getpid() in set(frame["_pid"])) is (session.backend == "serial")
    assert frame["_start"].between(began, time.time()).all()
    assert (frame["_seconds"] > 0).all()
    assert (frame["_cpu_seconds"] > 0).all()
    assert (frame["_memory"] >= 0).all()
    assert frame["_seed"].tolist() == frame["seed"].tolist()


def test_what_was_printed_is_kept_whoever_printed_it(session, capfd):
    results = session.map(talks, psets_of(3), details=True)
    for row in (*results.results.itertuples(), results.missing.rename(columns=str.strip).iloc[0]):
        out, err = (row._stdout, row._stderr) if hasattr(row, "_stdout") else (row[-2], row[-1])
        a = row.a
        assert sorted(out.split("\n")) == sorted(["", f"python {a}", "descriptor", "C", "program"])
        assert err == "warning\ntrouble\n"
    assert "program" not in capfd.readouterr().out


def test_missing_rows_have_details_too_if_their_worker_lived_to_tell(session):
    missing = session.map(talks, psets_of(3), details=True).missing
    assert missing["_exception"].tolist() == ["ValueError('one')"]
    assert missing.loc[1, "_traceback"].splitlines()[1].endswith("in talks")
    assert (missing["_seconds"] > 0).all()
    assert missing.loc[1, "_host"] == socket.gethostname()
    assert missing.loc[1, "_stdout"].startswith("python 1")


def fails_once(pset, system_kwargs, user_kwargs):
    if system_kwargs["attempt"] == 1 and pset["a"] == 2:
        raise KeyError("once")
    return {}


def test_a_finished_row_tells_the_end_of_each_attempt(session):
    frame = session.map(fails_once, psets_of(4), details=True, retries=1).results
    assert frame["_attempts"].tolist() == [1, 1, 2, 1]
    assert frame["_ends"].tolist()[1:3] == [("finished",), ("raised: KeyError('once')", "finished")]


def dies(pset, system_kwargs, user_kwargs):
    if pset["a"] == 1:
        os._exit(3)
    raise ValueError(pset["a"])


def test_who_died_cannot_tell(pool):
    missing = pool.map(dies, psets_of(3), details=True).missing
    assert missing["_kind"].tolist() == ["raised", "died", "raised"]
    assert missing["_pid"].isna().tolist() == [False, True, False]


def takes_memory(pset, system_kwargs, user_kwargs):
    np.ones(pset["a"] * 2**17).sum()
    return {}


def test_the_growth_of_memory_is_that_of_the_pset(pool):
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("only Linux forgets a peak")
    memory = pool.map(takes_memory, psets_of(32)[::31] * 2, details=True).results["_memory"].tolist()
    assert memory[1] > 25e6
    assert memory[3] > 25e6
    assert memory[2] < 25e6


def test_a_lot_of_output_leaves_its_end(session):
    def chatty(pset, system_kwargs, user_kwargs):
        print("x" * 100_000 + "end", end="")
        return {}

    [row] = session.map(chatty, psets_of(1), capture="tail").results.to_dict("records")
    assert row.keys() == {"a", "_stdout", "_stderr"}
    assert row["_stdout"] == "x" * (TAIL_BYTES - 3) + "end"


def test_output_may_go_to_files_of_its_own_for_each_pset(session, tmp_path):
    frame = session.map(talks, psets_of(3), capture="files", name="two words").results
    for row in frame.to_dict("records"):
        assert os.path.dirname(row["_stdout"]) == str(tmp_path / "two_words.output")
        with open(row["_stdout"]) as file:
            assert f"python {row['a']}\n" in file.read()
        with open(row["_stderr"]) as file:
            assert file.read() == "warning\ntrouble\n"
    assert len(os.listdir(tmp_path / "two_words.output")) == 6  # also of the pset that raised


def test_output_goes_through_if_nobody_asks(session, capfd):
    with paramsurvey.Session(backend=session.backend, ncores=1, **QUIET) as fresh:
        assert list(fresh.map(talks, psets_of(1)).results.columns) == ["a", "b", "seed"]
        frame = fresh.map(talks, psets_of(1), details=True, capture="through").results
    assert list(frame.columns) == ["a", "b", "seed", *COSTS]
    assert capfd.readouterr().out.count("program\n") == 2


def knows_nothing(pset, system_kwargs, user_kwargs):
    return {"keys": sorted(pset)}


def test_details_are_no_parameters_of_the_stages_below(session):
    pipeline = paramsurvey.Pipeline().map(fails_once).map(knows_nothing, name="second").top(3, by="a")
    run = session.run(pipeline, psets_of(3), details=True, retries=1)
    assert run["second"].results["keys"].tolist() == [["a"]] * 3
    assert run["second"].results.columns.tolist() == ["a", "keys", *DETAILS]
    assert run.results.columns.tolist() == ["a", "keys"]
    again = session.map(knows_nothing, run["second"])  # results as psets: what went in and came back
    assert again.missing.columns.tolist()[:2] == ["a", "keys"]


def counts(pset, system_kwargs, user_kwargs):
    print(pset["a"])
    if pset["a"] == 1:
        raise ValueError("one")
    return {"rows": len(pset["group"])}


def test_groups_have_details_if_a_worker_reduces_them(session):
    pipeline = paramsurvey.Pipeline().reduce("a", worker=counts, name="counts")
    run = session.run(pipeline, psets_of(4)[2:] * 2, details=True)
    for frame in (run["counts"], run.results):
        assert frame.columns.tolist() == ["a", "rows", *DETAILS]
        assert frame["_stdout"].tolist() == ["2\n", "3\n"]
    below = session.run(pipeline.map(knows_nothing), psets_of(4)[2:], details=True)
    assert below["knows_nothing"].results["keys"].tolist() == [["a", "rows"]] * 2
    with pytest.raises(StageFailed) as failed:
        session.run(pipeline, psets_of(3), details=True)
    assert failed.value.__cause__.results.missing["_stdout"].tolist() == ["1\n"]


def test_the_journal_remembers_the_details(session):
    first = session.map(talks, psets_of(3), details=True, journal="details")
    again = session.map(talks, psets_of(3), details=True, journal="details")
    assert first.results[["a", "_start", "_stdout"]].equals(again.results[["a", "_start", "_stdout"]])


def test_the_journal_remembers_the_details_of_what_failed(session):
    first = session.map(talks, psets_of(3), details=True, journal="details")
    again = session.map(talks, psets_of(3), details=True, journal="details", retry_failed=False)
    assert again.missing.equals(first.missing)
    with paramsurvey.open_journal("details") as journal:
        assert journal.missing()["_stdout"].tolist() == first.missing["_stdout"].tolist()


@pytest.mark.parametrize(
    ("options", "columns"),
    [({}, []), ({"capture": "tail"}, ["_stdout", "_stderr"]), ({"details": True, "capture": "through"}, COSTS)],
)
def test_rows_of_a_journal_have_the_details_that_this_run_asks_for(session, options, columns):
    session.map(talks, psets_of(3), details=True, journal="details")
    again = session.map(talks, psets_of(3), journal="details", retry_failed=False, **options)
    assert again.progress.from_journal == 2
    assert again.results.columns.tolist() == ["a", "b", "seed", *columns]
    assert set(again.missing.columns) & set(DETAILS) - {"_attempts"} == set(columns) - {"_status", "_attempts", "_ends"}


def test_a_survey_without_details_does_not_even_import_them():
    code = "import paramsurvey.engine.worker, sys; print('paramsurvey.engine.details' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "False\n"


# Again, here


def remembers(pset, system_kwargs, user_kwargs):
    seed = system_kwargs["seed"]
    if os.getpid() in user_kwargs["spoil"]:
        pset["list"].append(1)
    if pset["a"] == 1:
        raise ValueError("one")
    return {"b": user_kwargs["k"], "seed": seed, "pid": os.getpid(), "cwd": os.getcwd()}


def remembering(session, folder):
    psets = [{"a": a, "list": []} for a in range(3)]
    spoil = []
    results = session.map(remembers, psets, user_kwargs={"k": 7, "spoil": spoil}, seed=5, chdir=folder)
    spoil.append(os.getpid())
    return results


def test_a_row_can_be_computed_again_in_this_process(session, tmp_path):
    (tmp_path / "here").mkdir()
    results = remembering(session, tmp_path / "here")
    before = results.to_dict()
    for row in (2, results.results.loc[2]):
        answer = results.reproduce(row)
        assert (answer["b"], answer["seed"], answer["pid"]) == (7, results.results.loc[2, "seed"], os.getpid())
        assert answer["cwd"] == str(tmp_path / "here")
    assert os.getcwd() == str(tmp_path)
    assert results.to_dict() == before


def test_a_missing_row_raises_here_and_may_be_looked_at(session, tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(pdb, "post_mortem", looked_at.append)
    results = remembering(session, tmp_path)
    with pytest.raises(ValueError, match=r"^one$"):
        results.reproduce(results.missing.iloc[0])
    assert looked_at == []
    with pytest.raises(ValueError, match=r"^one$"):
        results.reproduce(1, debug=True)
    (trace,) = looked_at
    while trace.tb_next:
        trace = trace.tb_next
    assert trace.tb_frame.f_code.co_name == "remembers"


def test_a_row_that_is_not_there_is_refused(session, tmp_path):
    results = remembering(session, tmp_path)
    with pytest.raises(PsetError, match="remembers: no row has the label 9"):
        results.reproduce(9)
    copy = pickle.loads(pickle.dumps(results))
    with pytest.raises(SessionError, match="these results do not know their worker any more"):
        copy.reproduce(0)


def test_rows_of_a_run_can_be_computed_again(session):
    def second(pset, system_kwargs, user_kwargs):
        return {"c": 1 / (pset["a"] - 3)}

    pipeline = paramsurvey.Pipeline("two").map(talks, name="first").map(second, name="second").where("c < 0")
    run = session.run(pipeline, psets_of(5), capture="tail")
    assert run.reproduce(2, "second") == {"c": -1.0}
    assert run.missing["_stage"].tolist() == ["first", "second"]
    for number, error in enumerate((ValueError, ZeroDivisionError)):
        with pytest.raises(error):
            run.reproduce(run.missing.iloc[number])
    with pytest.raises(StageError, match=r"stage 'where' calls no worker; there are: first, second"):
        run.reproduce(0)
