"""What a survey gives back."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from plain_workers import double, inverse

import paramsurvey
from paramsurvey.errors import Interrupted, MissingPsets, ParamsurveyError, StageError
from paramsurvey.results import MapProgress, first_line


def fail(pset, system_kwargs, user_kwargs):
    raise RuntimeError("<no> luck & none")


def test_results_come_in_the_order_of_the_psets(session):
    for group_size in (None, 1, 7, 1000):
        psets = [{"a": a % 7} for a in range(100)]
        results = session.map(inverse, psets, group_size=group_size)
        assert [row["a"] for row in results.iterdicts()] == [a % 7 for a in range(100) if a % 7]
        assert list(results.results.index) == [a for a in range(100) if a % 7]
        assert list(results.missing.index) == [a for a in range(100) if not a % 7]


def some_answers(pset, system_kwargs, user_kwargs):
    return {"i": pset["a"], "f": 0.5, "b": True, "s": "x", "o": [1]} if pset["a"] % 2 else None


@pytest.mark.parametrize("details", [False, True])
def test_rows_have_the_same_values_as_tuples_and_as_dicts(serial, details):
    results = serial.map(some_answers, [{"a": a, "a b": None} for a in range(4)], details=details)
    for row, pset in zip(results.itertuples(), results.iterdicts(), strict=True):
        assert row._fields[:7] == ("a", "_1", "i", "f", "b", "s", "o")
        assert len(row) == results.results.shape[1] == (19 if details else 7)
        there = row[: len(pset)]
        assert [(type(value), value) for value in there] == [(type(value), value) for value in pset.values()]
        assert all(value is pd.NA or (type(value) is float and value != value) for value in row[len(pset) : 7])
    assert [tuple(row) for row in serial.map(some_answers, [{"a": 0}]).itertuples()] == [(0,)]
    assert [tuple(row) for row in serial.map(double, []).itertuples()] == []


def test_missing_says_why_beside_the_psets(session):
    missing = session.map(inverse, [{"a": 1, "b": "x"}, {"a": 0, "b": "y"}]).missing
    assert list(missing.columns) == ["a", "b", "_kind", "_exception", "_traceback", "_attempts"]
    row = missing.loc[1]
    assert (row["a"], row["b"], row["_kind"], row["_attempts"]) == (0, "y", "raised", 1)
    assert row["_exception"] == "ZeroDivisionError('division by zero')"
    assert "in inverse" in row["_traceback"]
    assert row["_traceback"].rstrip().endswith("ZeroDivisionError: division by zero")


def test_missing_has_its_columns_also_when_nothing_is_missing(serial):
    missing = serial.map(double, [{"a": 1}]).missing
    assert list(missing.columns) == ["a", "_kind", "_exception", "_traceback", "_attempts"]
    assert len(missing) == 0
    assert missing["_attempts"].dtype == np.int64
    assert list(serial.map(double, []).missing.columns) == ["_kind", "_exception", "_traceback", "_attempts"]


def test_missing_psets_can_be_run_again(session):
    results = session.map(inverse, [{"a": 1}, {"a": 0, "b": 2}, {"a": 0}])
    assert results.missing_psets() == [{"a": 0, "b": 2}, {"a": 0}]
    again = session.map(double, results.missing_psets())
    assert again.to_dict() == [{"a": 0, "b": 2, "double": 0}, {"a": 0, "double": 0}]
    assert again.missing_psets() == []


def test_missing_psets_of_a_frame_are_a_frame_with_its_labels(session):
    psets = pd.DataFrame({"a": np.array([0, 1, 0], dtype=np.uint8)}, index=["x", "y", "z"])
    missing = session.map(inverse, psets).missing_psets()
    pd.testing.assert_frame_equal(missing, psets.iloc[[0, 2]])
    assert list(session.map(double, missing).results.index) == ["x", "z"]


def test_the_missing_frame_itself_is_refused_as_psets_with_the_remedy(serial):
    missing = serial.map(inverse, [{"a": 0}]).missing
    with pytest.raises(paramsurvey.errors.PsetError, match="use its missing_psets"):
        serial.map(double, missing)


def test_raise_if_missing_carries_the_results(session):
    complete = session.map(double, [{"a": 1}])
    assert complete.raise_if_missing() is None
    results = session.map(inverse, [{"a": 1}, {"a": 0}, {"a": 0}], name="inverses")
    with pytest.raises(MissingPsets, match=r"inverses: 2 missing \(2 raised\), the first: ZeroDivisionError") as caught:
        results.raise_if_missing()
    assert caught.value.results is results
    assert isinstance(caught.value, RuntimeError)


def test_rows_can_be_iterated_as_tuples(serial):
    results = serial.map(double, [{"a": 1, "a b": 2, "class": 3, "_x": 4}])
    (row,) = results.itertuples()
    assert (row.a, row.double) == (1, 2)
    assert row._fields == ("a", "_1", "_2", "_3", "double")
    assert tuple(row) == (1, 2, 3, 4, 2)


def test_every_iteration_starts_anew(serial):
    results = serial.map(double, [{"a": 1}, {"a": 2}])
    assert list(results.iterdicts()) == list(results.iterdicts()) == results.to_dict() == results.to_dict("records")
    assert list(results.itertuples()) == list(results.itertuples())
    first = next(iter(results.iterdicts()))
    first["a"] = 99
    assert results.to_dict()[0]["a"] == 1


def test_to_df_is_the_frame_of_results(serial):
    results = serial.map(double, [{"a": 1}, {"a": 2}])
    assert results.to_df() is results.results
    pd.testing.assert_frame_equal(results.results, pd.DataFrame({"a": [1, 2], "double": [2, 4]}))


def test_only_records_can_be_asked_of_to_dict(serial):
    with pytest.raises(ValueError, match=r"orient='list': only 'records' is supported; .* to_df\(\).to_dict\(\)"):
        serial.map(double, []).to_dict("list")


def test_the_length_is_the_number_of_finished_rows(serial):
    assert len(serial.map(inverse, [{"a": 0}, {"a": 1}, {"a": 2}])) == 2


def test_progress_has_the_names_of_the_readme(serial):
    progress = serial.map(inverse, [{"a": 0}, {"a": 1}, {"a": 2}]).progress
    assert isinstance(progress, MapProgress)
    assert (progress.total, progress.active, progress.finished, progress.failures, progress.exceptions) == (
        3,
        0,
        2,
        1,
        1,
    )
    assert str(progress) == "total: 3, active: 0, finished: 2, failures: 1, exceptions: 1"


def test_stats_have_the_time_of_each_pset(session):
    stats = session.map(double, [{"a": a} for a in range(50)], name="doubles").stats
    assert stats.all_stat_names() == ["doubles"]
    assert "doubles 50 x" in repr(stats)


def test_the_repr_says_at_a_glance_what_came_out(serial):
    results = serial.map(inverse, [{"a": 0}, {"a": 1}], name="inverses")
    assert repr(results) == (
        "<MapResults inverses: 1 of 2 psets finished; 1 missing (1 raised), "
        "the first: ZeroDivisionError('division by zero'); columns a, inverse>"
    )
    assert repr(serial.map(double, [])) == "<MapResults double: 0 of 0 psets finished; no columns>"
    wide = serial.map(lambda pset, system, user: {i: i for i in range(20)}, [{"a": 1}])
    assert "columns a, 0, 1, 2, 3, 4, 5, 6, ...>" in repr(wide)


def test_the_notebook_table_is_escaped_html(serial):
    psets = [{"a": "<script>"}, {"a": "b"}]
    html = serial.map(lambda pset, system, user: {"<i>": "<b>&"}, psets, name="<u>")._repr_html_()
    assert html.startswith("<p><b>&lt;u&gt;</b>: 2 of 2 psets finished</p>")
    assert "&lt;script&gt;" in html
    assert "&lt;i&gt;" in html
    assert "&lt;b&gt;&amp;" in html
    failed = serial.map(fail, psets)._repr_html_()
    assert "2 missing (2 raised), the first: RuntimeError(&#x27;&lt;no&gt; luck &amp; none&#x27;)" in failed
    for text in ("<script>", "<i>", "<u>", "<no>"):
        assert text not in html + failed


def test_the_notebook_table_shows_the_beginning_of_a_long_one(serial):
    html = serial.map(double, [{"a": a} for a in range(1000, 2000)])._repr_html_()
    assert "1000 of 1000 psets finished" in html
    assert "1009" in html
    assert "1010" not in html


def test_a_notebook_without_html_tables_shows_only_the_title(serial):
    with pd.option_context("display.notebook_repr_html", False):
        assert serial.map(double, [{"a": 1}])._repr_html_() == "<p><b>double</b>: 1 of 1 psets finished</p>"


def test_results_survive_pickling_and_copying(session):
    psets = pd.DataFrame({"a": [0, 1, 2], "c": pd.Categorical(["x", "y", "x"])}, index=[7, 7, 9])
    results = session.map(inverse, psets)
    for twin in (pickle.loads(pickle.dumps(results)), copy.deepcopy(results), copy.copy(results)):
        assert repr(twin) == repr(results)
        assert twin.to_dict() == results.to_dict()
        pd.testing.assert_frame_equal(twin.results, results.results)
        pd.testing.assert_frame_equal(twin.missing, results.missing)
        pd.testing.assert_frame_equal(twin.missing_psets(), results.missing_psets())
        assert twin.progress == results.progress
        assert twin.stats.percentile("inverse", 50) == results.stats.percentile("inverse", 50)


def test_results_of_a_run_survive_pickling_whatever_its_stages_are(session):
    pipeline = (
        paramsurvey.Pipeline("halves")
        .map(lambda pset, system, user: {"half": 1 / pset["a"]}, name="half", user_kwargs=lambda: 0)
        .derive(double=lambda half: 2 * half)
        .greedy(lambda pset, system, user: {"worth": pset["candidate"]}, key="a", picks=1, allow_missing=True)
    )
    run = session.run(pipeline, [{"a": 0}, {"a": 1}, {"a": 2}])
    derived = session.run(paramsurvey.Pipeline().derive(b="a + 1"), [{"a": 1}])
    only_derives = pickle.loads(pickle.dumps(derived)).pipeline
    for twin in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert repr(twin) == repr(run)
        assert list(twin) == list(run)
        assert str(twin.drawing()) == str(run.drawing())
        pd.testing.assert_frame_equal(twin.results, run.results)
        pd.testing.assert_frame_equal(twin.missing, run.missing)
        assert twin.lineage(0) == run.lineage(0)
        assert twin["greedy"].keys == run["greedy"].keys
        assert twin.progress == run.progress
        with pytest.raises(StageError, match=r"stage 'half' does not know any more what it did.*were pickled"):
            session.run(twin.pipeline, [{"a": 1}])
        with pytest.raises(StageError, match=r"stage 'derive' does not know any more what it did"):
            session.run(only_derives, [{"a": 1}])


def test_holes_survive_pickling(serial):
    results = serial.map(lambda pset, system, user: {"b": 1} if pset["a"] else {}, [{"a": 0}, {"a": 1}])
    twin = pickle.loads(pickle.dumps(results))
    assert twin.to_dict() == [{"a": 0}, {"a": 1, "b": 1}]
    assert str(twin.results["b"].dtype) == "Int64"


@pytest.mark.parametrize("kind", [Interrupted, MissingPsets])
def test_exceptions_that_carry_results_survive_pickling(kind, serial):
    results = serial.map(inverse, [{"a": 0}, {"a": 1}])
    twin = pickle.loads(pickle.dumps(kind("what happened", results)))
    assert type(twin) is kind
    assert str(twin) == "what happened"
    assert twin.results.to_dict() == [{"a": 1, "inverse": 1.0}]
    assert kind("without").results is None


def test_interrupted_is_no_exception_that_an_except_clause_catches_by_mistake():
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert issubclass(Interrupted, ParamsurveyError)
    assert not issubclass(Interrupted, Exception)


def test_the_first_line_of_a_text_is_short():
    assert first_line("\n one\ntwo") == "one"
    assert first_line("x" * 200) == "x" * 117 + "..."
    assert first_line(" \n ") == first_line("") == ""
