"""Looking into journals: what is in one, whether it is sound, two made one, and why a row was computed again."""

from __future__ import annotations

import json
import os
import re
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from journal_workers import fails_at_odd, parity, square

import paramsurvey
from paramsurvey import Pipeline
from paramsurvey.errors import JournalError, OptionError
from paramsurvey.journal import format as journal_format
from paramsurvey.journal.format import HEAD_BYTES, Kind, Rows, records


@pytest.fixture
def session():
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        yield session


PSETS = [{"n": n} for n in range(20)]


def kinds_in(path):
    data = path.read_bytes()
    found = records(lambda offset, size: data[offset : offset + size], HEAD_BYTES, len(data))
    names = [
        ["row"] * len(each.numbers) if isinstance(each, Rows) else [Kind(each[0].kind).name.lower()] for each in found
    ]
    return list(chain.from_iterable(names))


# What is in it


def test_stages_and_counts_are_a_frame(session, tmp_path):
    pipeline = Pipeline().map(square).map(fails_at_odd)
    session.run(pipeline, PSETS, journal=tmp_path / "j")
    session.run(Pipeline().map(square, version="2"), PSETS[:5], journal=tmp_path / "j")
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        stages = journal.stages
        assert repr(journal) == f"<journal {tmp_path / 'j'}: fails_at_odd, square>"
    assert stages[["name", "worker", "finished", "missing", "is_current"]].to_dict("split")["data"] == [
        ["fails_at_odd", "fails_at_odd", 10, 10, True],
        ["square", "square", 20, 0, False],
        ["square", "square", 5, 0, True],
    ]
    assert abs(stages["written"].max() - pd.Timestamp.now(tz="UTC")) < pd.Timedelta(minutes=5)


def test_results_are_those_of_the_survey(session, tmp_path):
    results = session.map(parity, PSETS, journal=tmp_path / "j", group_size=3)
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.results().equals(results.results)
        assert journal.results("parity").equals(results.results)
        assert journal.missing().empty


def test_what_is_missing_is_told_as_by_the_survey(session, tmp_path):
    results = session.map(fails_at_odd, PSETS, journal=tmp_path / "j", group_size=1)
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        missing = journal.missing()
    expected = results.missing.reset_index(drop=True)
    assert missing.equals(expected)


def test_a_name_is_needed_if_there_are_several_stages_and_it_has_to_be_right(session, tmp_path):
    session.map(square, PSETS, journal=tmp_path / "j")
    session.map(parity, PSETS[:3], journal=tmp_path / "j")
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        with pytest.raises(JournalError, match="has 2 stages: name one of 'square', 'parity'"):
            journal.results()
        with pytest.raises(JournalError, match="has no stage 'circle'; it has: 'square', 'parity'"):
            journal.results("circle")
        with pytest.raises(JournalError, match=re.escape("has no stage 'squar'; did you mean 'square'?")):
            journal.missing("squar")
        for number in (0, 1.5):
            message = (
                f"has no stage {number}: stages go by their names, or by the beginning of a print; it has: 'square',"
            )
            with pytest.raises(JournalError, match=re.escape(message)):
                journal.results(number)
        assert len(journal.results(journal.stages["print"][1])) == 3


def test_a_journal_can_be_looked_into_while_a_run_writes_to_it(session, tmp_path):
    with session.stream(square, PSETS, journal=tmp_path / "j", group_size=1) as stream:
        next(stream)
        with paramsurvey.open_journal(tmp_path / "j") as journal:
            before = len(journal.results())
            for _ in range(10):
                next(stream)
            assert before >= 1
            assert len(journal.results()) >= before + 10
            assert journal.verify() == []
    assert len(session.map(square, PSETS, journal=tmp_path / "j")) == 20


def test_stages_and_counts_are_read_without_unpickling(session, tmp_path, monkeypatch):
    session.map(fails_at_odd, PSETS, journal=tmp_path / "j")
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("pickle.load", None)
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.stages["missing"].tolist() == [10]
        assert journal.verify() == []


def test_there_has_to_be_a_journal(tmp_path):
    with pytest.raises(FileNotFoundError):
        paramsurvey.open_journal(tmp_path / "nothing")
    (tmp_path / "text").write_text("no journal, but a text of some length")
    with pytest.raises(JournalError, match="is no journal"):
        paramsurvey.open_journal(tmp_path / "text")
    assert not (tmp_path / "nothing").exists()


# Looking after it


def damaged(path, kind):
    """Flip a bit in the data, or else the text, of the first record of a kind."""
    data = bytearray(path.read_bytes())
    found = records(lambda offset, size: bytes(data[offset : offset + size]), HEAD_BYTES, len(data))
    one = next(each[0] for each in found if not isinstance(each, Rows) and each[0].kind == kind)
    data[one.end - 1] ^= 1
    path.write_bytes(data)
    return one


@pytest.mark.parametrize(
    ("kind", "what"), [(Kind.ROWS, "20 rows are damaged"), (Kind.STAGE, "a text is damaged"), (Kind.OPENED, "a text")]
)
def test_verify_names_what_is_damaged(session, tmp_path, kind, what):
    path = tmp_path / "j"
    session.map(square, PSETS, journal=path, group_size=20)
    with paramsurvey.open_journal(path) as journal:
        assert journal.verify() == []
        one = damaged(path, kind)
        (damage,) = journal.verify()
        assert what in str(damage)
        assert damage.offset == one.offset
        assert len(journal.results(journal.stages["print"][0])) == 20 * (kind != Kind.ROWS)
        assert len(journal.damages) == (kind == Kind.ROWS)


def test_compacting_leaves_what_counts_in_few_records(session, tmp_path):
    path = tmp_path / "j"
    flag = tmp_path / "flag"

    def picky(pset, system_kwargs, user_kwargs):
        if pset["n"] == 3 or (pset["n"] < 9 and not flag.exists()):
            raise ValueError(pset["n"])
        return {"n2": pset["n"] ** 2} if pset["n"] % 3 else {"third": str(pset["n"])}

    for _ in range(2):
        session.map(picky, PSETS, journal=path, group_size=1)
        flag.touch()
    session.map(square, PSETS, journal=path, group_size=1)
    damaged(path, Kind.OPENED)
    with paramsurvey.open_journal(path) as journal:
        before = {name: (journal.results(name), journal.missing(name)) for name in ("picky", "square")}
        assert kinds_in(path).count("row") == 11 + 8 + 20
        size = path.stat().st_size
        journal.compact()
        assert path.stat().st_size < size / 2
        assert kinds_in(path) == ["stage", "rows", "failures", "stage", "rows"]
        assert journal.stages["is_current"].all()
        assert journal.verify() == []
        for name, (results, missing) in before.items():
            assert journal.results(name).equals(results)
            assert journal.missing(name).equals(missing.tail(1).reset_index(drop=True) if len(missing) else missing)
    assert session.map(square, PSETS, journal=path).progress.from_journal == 20
    assert session.map(picky, PSETS, journal=path, retry_failed=False).progress.from_journal == 19
    assert [each.name for each in tmp_path.iterdir() if "compact" in each.name] == []


def test_a_journal_that_is_written_to_is_neither_compacted_nor_merged_into(session, tmp_path):
    with session.stream(square, PSETS, journal=tmp_path / "j") as stream:
        next(stream)
        with paramsurvey.open_journal(tmp_path / "j") as journal:
            for change in (journal.compact, lambda: journal.merge(tmp_path / "j")):
                with pytest.raises(JournalError, match="is being written by process"):
                    change()


def opaque(pset, system_kwargs, user_kwargs):
    return {"value": Opaque(pset["n"])}


@pytest.fixture
def gone(monkeypatch):
    """Return a function that has the class of some values go away, or come back."""

    def go(is_gone):
        if is_gone:
            monkeypatch.setenv("OPAQUE_IS_GONE", "1")
        else:
            monkeypatch.delenv("OPAQUE_IS_GONE")

    return go


@pytest.mark.parametrize("group_size", [1, 20])
def test_rows_that_cannot_be_unpickled_are_kept_by_compacting_and_merging(session, tmp_path, gone, group_size):
    one, other = tmp_path / "one", tmp_path / "other"
    session.map(opaque, PSETS, journal=one, group_size=group_size)
    session.map(square, PSETS[:5], journal=other, group_size=group_size)
    session.map(opaque, [{"n": -1}], journal=other, version="2")
    gone(True)
    with paramsurvey.open_journal(one) as journal, paramsurvey.open_journal(other) as merged:
        journal.compact()
        assert len(journal.results()) == 0
        assert "cannot be unpickled" in str(journal.damages[0])
        assert journal.verify() == []
        assert merged.merge(journal) == 20
        assert merged.verify() == []
    gone(False)
    for path in (one, other):
        results = session.map(opaque, PSETS, journal=path)
        assert results.progress.from_journal == 20
        assert [row["value"].value for row in results.iterdicts()] == [pset["n"] for pset in PSETS]
    assert session.map(square, PSETS, journal=other).progress.from_journal == 5
    assert session.map(opaque, [{"n": -1}], journal=other, version="2").progress.from_journal == 1


def test_a_row_that_cannot_be_unpickled_costs_no_other(session, tmp_path, gone):
    def some(pset, system_kwargs, user_kwargs):
        return {"value": Opaque(pset["n"]) if pset["n"] == 7 else pset["n"]}

    session.map(some, PSETS, journal=tmp_path / "j", group_size=1)
    gone(True)
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.results()["value"].tolist() == [n for n in range(20) if n != 7]
        assert "a row cannot be unpickled: RuntimeError('it has gone')" in str(*journal.damages)
    results = session.map(some, PSETS, journal=tmp_path / "j")
    assert (len(results), results.progress.from_journal) == (19, 19)


class Opaque:
    """A value whose class may go away."""

    def __init__(self, value):
        if "OPAQUE_IS_GONE" in os.environ:
            raise RuntimeError("it has gone")
        self.value = value

    def __reduce__(self):
        return Opaque, (self.value,)


def test_merging_takes_what_is_new(session, tmp_path):
    session.map(square, PSETS[:8], journal=tmp_path / "one")
    session.map(square, PSETS[4:], journal=tmp_path / "other")
    session.map(fails_at_odd, PSETS, journal=tmp_path / "other")
    with paramsurvey.open_journal(tmp_path / "one") as journal:
        assert journal.merge(tmp_path / "other") == 12 + 10
        assert journal.merge(tmp_path / "other") == 0
        assert journal.stages[["finished", "missing"]].to_numpy().tolist() == [[20, 0], [10, 10]]
        assert journal.missing("fails_at_odd")["n"].tolist() == list(range(1, 20, 2))
    assert session.map(square, PSETS, journal=tmp_path / "one").progress.from_journal == 20
    results = session.map(fails_at_odd, PSETS, journal=tmp_path / "one", retry_failed=False)
    assert (len(results), len(results.missing)) == (10, 10)


def test_what_a_stage_was_when_it_last_ran_stays_so(session, tmp_path):
    for version in ("1", "2", "1"):
        session.map(square, PSETS[: 5 * int(version)], journal=tmp_path / "one", version=version)
    session.map(square, PSETS, journal=tmp_path / "other", version="3")
    with paramsurvey.open_journal(tmp_path / "one") as journal:
        assert len(journal.results()) == 5
        journal.compact()
        assert len(journal.results()) == 5
        assert journal.merge(tmp_path / "other") == 20
        assert len(journal.results()) == 5
        assert journal.stages["is_current"].tolist().count(True) == 1


def test_a_loop_of_surveys_makes_the_file_hardly_longer(session, tmp_path):
    session.map(square, PSETS, journal=tmp_path / "j")
    before = (tmp_path / "j").stat().st_size
    for _ in range(10):
        session.map(square, PSETS, journal=tmp_path / "j")
    assert (tmp_path / "j").stat().st_size == before + 10 * 64


def test_what_failed_in_one_and_was_finished_in_the_other_is_finished(session, tmp_path):
    flag = tmp_path / "flag"

    def picky(pset, system_kwargs, user_kwargs):
        if not flag.exists():
            raise ValueError
        return {}

    session.map(picky, PSETS, journal=tmp_path / "one")
    flag.touch()
    session.map(picky, PSETS, journal=tmp_path / "other")
    for one, other, taken in (("one", "other", 20), ("other", "one", 0)):
        with paramsurvey.open_journal(tmp_path / one) as journal:
            assert journal.merge(tmp_path / other) == taken
            assert len(journal.missing()) == 0


# Why a row is as it is


def worker_with(**user_kwargs):
    return {"user_kwargs": user_kwargs, "name": "stage"}


def test_a_row_is_explained_from_its_first_computation_to_its_last(session, tmp_path):
    path, pset = tmp_path / "j", {"n": 3}
    session.map(square, PSETS, journal=path, **worker_with(a=1, b=2))
    why = paramsurvey.explain(path, pset)
    assert (why.verdict, why.reasons) == ("computed", ())
    assert "for the first time" in str(why)
    session.map(square, PSETS, journal=path, **worker_with(a=1, b=2))
    why = paramsurvey.explain(path, pset)
    assert (why.verdict, why.reasons) == ("taken", ())
    assert "nothing that counts has changed since: it is taken" in str(why)
    session.map(square, PSETS[:5], journal=path, **worker_with(a=2, b=2), version="2")
    why = paramsurvey.explain(path, pset)
    assert why.verdict == "computed again"
    assert why.reasons == ("user_kwargs['a'] changed", "version changed from None to '2'")
    assert "user_kwargs['a'] changed" in str(why)
    why = paramsurvey.explain(path, {"n": 9})
    assert (why.verdict, why.reasons) == ("stale", ("user_kwargs['a'] changed", "version changed from None to '2'"))
    why = paramsurvey.explain(path, "stage")
    assert why.verdict == "stage"
    assert why.reasons == ("user_kwargs['a'] changed", "version changed from None to '2'")
    assert "20 psets finished" in why.text
    assert "5 psets finished" in why.text


def test_the_worker_and_its_helpers_are_named(session, tmp_path):
    def make(factor):
        def helper(n):
            return n * factor

        def worker(pset, system_kwargs, user_kwargs):
            return {"y": helper(pset["n"])}

        return worker

    for factor in (1, 2):
        session.map(make(factor), PSETS, journal=tmp_path / "j")
    why = paramsurvey.explain(tmp_path / "j", {"n": 1})
    assert why.verdict == "computed again"
    assert len(why.reasons) == 1
    assert "factor" in why.reasons[0]
    assert "changed" in why.reasons[0]


def test_a_function_in_user_kwargs_that_has_changed_is_called_again(session, tmp_path):
    def given(factor):
        def scaled(n):
            return n * factor

        return {"f": scaled}

    def worker(pset, system_kwargs, user_kwargs):
        return {"y": user_kwargs["f"](pset["n"])}

    for factor, known in ((1, 0), (1, 20), (2, 0)):
        results = session.map(worker, PSETS, journal=tmp_path / "j", user_kwargs=given(factor))
        assert results.progress.from_journal == known
        assert [row["y"] for row in results.iterdicts()] == [factor * n for n in range(20)]
    (reason,) = paramsurvey.explain(tmp_path / "j", {"n": 3}).reasons
    assert "closure value factor" in reason


def test_a_row_may_be_given_with_its_answers_or_by_its_number(session, tmp_path):
    results = session.map(square, PSETS, journal=tmp_path / "j")
    session.map(fails_at_odd, PSETS, journal=tmp_path / "j")
    for row in (results.to_dict()[7], 7, {"n": 7}):
        assert paramsurvey.explain(tmp_path / "j", row, stage="square").verdict == "computed"
    with pytest.raises(JournalError, match="20 finished rows in the journal, and none at 20"):
        paramsurvey.explain(tmp_path / "j", 20, stage="square")
    with pytest.raises(
        JournalError, match=r"\{'n': 7\} may be of 'square', 'fails_at_odd': name one of them with stage="
    ):
        paramsurvey.explain(tmp_path / "j", {"n": 7})
    with pytest.raises(JournalError, match="has 2 stages"):
        paramsurvey.explain(tmp_path / "j", 7)
    for what in (None, [7], 7.0):
        with pytest.raises(TypeError, match=f"number of a row or the name of a stage, not {type(what).__name__}"):
            paramsurvey.explain(tmp_path / "j", what, stage="square")


def test_the_stage_need_not_be_named_if_only_one_has_had_the_pset(session, tmp_path):
    session.map(square, PSETS, journal=tmp_path / "j")
    session.map(fails_at_odd, [{"n": 100}, {"n": 101}], journal=tmp_path / "j")
    for pset, verdict in (({"n": 7}, "computed"), ({"n": 100}, "computed"), ({"n": 101}, "failed")):
        assert paramsurvey.explain(tmp_path / "j", pset).verdict == verdict
    with pytest.raises(JournalError, match=r"no stage of the journal .* has had \{'n': 7.0\}: name one with stage="):
        paramsurvey.explain(tmp_path / "j", {"n": 7.0})


def test_a_value_of_another_type_is_told_also_if_it_is_the_only_one(session, tmp_path):
    session.map(square, PSETS, journal=tmp_path / "j")
    why = paramsurvey.explain(tmp_path / "j", {"n": 7.0})
    assert (why.verdict, why.reasons) == ("unknown", ("parameter 'n' is 7.0, and was 7 (float, and not int)",))


def test_equal_psets_are_explained_one_by_one(session, tmp_path):
    session.map(square, [{"n": 7}] * 2, journal=tmp_path / "j")
    session.map(square, [{"n": 7}] * 2, journal=tmp_path / "j", version="2")
    session.map(square, [{"n": 7}] * 3, journal=tmp_path / "j")
    first = paramsurvey.explain(tmp_path / "j", {"n": 7})
    assert first == paramsurvey.explain(tmp_path / "j", {"n": 7}, occurrence=1)
    verdicts = [paramsurvey.explain(tmp_path / "j", {"n": 7}, occurrence=each).verdict for each in (1, 2, 3, 4)]
    assert verdicts == ["taken", "taken", "computed", "unknown"]
    assert [paramsurvey.explain(tmp_path / "j", row).verdict for row in (0, 1, 2)] == ["taken", "taken", "computed"]
    assert first.text.endswith("\n(there are 3 such psets; occurrence= says which one is meant)")
    assert "such psets" not in paramsurvey.explain(tmp_path / "j", 1).text
    third = paramsurvey.explain(tmp_path / "j", {"n": 7, "square": 49}, occurrence=3).text
    assert third.startswith("{'n': 7} (occurrence 3) of stage 'square' was computed at ")
    fourth = paramsurvey.explain(tmp_path / "j", {"n": 7}, occurrence=4).text
    assert "(occurrence 4) of stage 'square' was never finished: there were not so many such psets" in fourth
    session.map(square, [{"n": 7}], journal=tmp_path / "j", version="2")
    verdicts = [paramsurvey.explain(tmp_path / "j", {"n": 7}, occurrence=each).verdict for each in (1, 2, 3)]
    assert verdicts == ["taken", "taken", "stale"]


@pytest.mark.parametrize("occurrence", [0, -1, 1.0, True, None, "2"])
def test_an_occurrence_has_to_be_a_number_from_one_on(session, tmp_path, occurrence):
    session.map(square, PSETS, journal=tmp_path / "j")
    with pytest.raises(OptionError, match=rf"explain\(occurrence={occurrence!r}\): it must be a whole number, 1 for"):
        paramsurvey.explain(tmp_path / "j", {"n": 7}, occurrence=occurrence)


def test_what_is_missing_is_told_also_if_its_psets_cannot_be_unpickled(session, tmp_path, gone):
    def fails(pset, system_kwargs, user_kwargs):
        raise ValueError

    session.map(fails, [{"value": Opaque(1)}], journal=tmp_path / "j")
    gone(True)
    with paramsurvey.open_journal(tmp_path / "j") as journal:
        assert journal.missing()["_exception"].tolist() == ["ValueError()"]


def test_a_failed_row_says_how_it_failed(session, tmp_path):
    results = session.map(fails_at_odd, PSETS, journal=tmp_path / "j")
    why = paramsurvey.explain(tmp_path / "j", results.missing.to_dict("records")[0])
    assert why.verdict == "failed"
    assert "ValueError('1 is odd')" in why.text


def test_a_pset_that_is_not_there_is_compared_with_the_one_most_like_it(session, tmp_path):
    session.map(square, [{"n": n, "m": 0} for n in range(5)], journal=tmp_path / "j")
    why = paramsurvey.explain(tmp_path / "j", {"n": 3.0, "m": 0, "k": 1})
    assert why.verdict == "unknown"
    assert why.reasons[0].startswith("parameter 'n' is 3.0, and was ")
    assert "(float, and not int)" in why.reasons[0]
    assert why.reasons[1] == "parameter 'k' is new"
    why = paramsurvey.explain(tmp_path / "j", {"n": 2})
    assert why.reasons == ("parameter 'm' is not there any more",) or "was" in why.reasons[0]
    assert paramsurvey.explain(tmp_path / "j", {"x": 2}).reasons == ()


def test_the_text_of_a_stage_is_plain_json(session, tmp_path):
    session.map(square, PSETS, journal=tmp_path / "j", user_kwargs={"big": np.arange(5)})
    data = (tmp_path / "j").read_bytes()
    found = records(lambda offset, size: data[offset : offset + size], HEAD_BYTES, len(data))
    one = next(each[0] for each in found if each[0].kind == Kind.STAGE)
    stage = json.loads(data[one.text_at : one.data_at])
    assert stage["name"] == stage["worker"] == "square"
    assert "user_kwargs['big']" in stage["parts"]
    assert journal_format.part(lambda o, s: data[o : o + s], one.text_at, one.text_bytes, one.text_crc)
    assert os.path.getsize(tmp_path / "j") == len(data)
