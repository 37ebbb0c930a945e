"""A plan tells the truth before a run: exact numbers are exact, bounds hold, estimates come from a sample."""

import json
import math
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_workers import busy, double

import paramsurvey
from paramsurvey import Pipeline, Plan, Session
from paramsurvey.errors import OptionError, PsetError, SessionError, StageError, WorkerError
from paramsurvey.pictures import drawing_of, drawing_of_run
from paramsurvey.plans.counts import rows_after
from paramsurvey.plans.memory import MemoryWatch
from paramsurvey.plans.plan import Count, Eta, Finding, StagePlan, Timing
from paramsurvey.stages.base import Columns, Rows
from paramsurvey.stages.reduce import Reduce
from paramsurvey.stages.rows import Explode, Product, Where
from paramsurvey.stages.tables import Apply, Best, Concat, Join, Top
from paramsurvey.workers import keywords


def numbers(count):
    return [{"a": n} for n in range(count)]


def picky(pset, system_kwargs, user_kwargs):
    if pset["a"] % 5 == 0:
        raise ValueError("no fives")
    return {"b": pset["a"]}


def energy(mass):
    return mass


def peaks(pset, system_kwargs, user_kwargs):
    return {"peaks": [1] * (pset["a"] % 3)}


class Lock:
    """What cannot be pickled, and says so."""

    def __init__(self):
        self.lock = threading.Lock()

    def __repr__(self):
        return "Lock()"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serial():
    with Session(backend="serial", verbose=0) as session:
        yield session


@pytest.fixture
def pool():
    with Session(ncores=2, verbose=0) as session:
        yield session


# --- how many rows --------------------------------------------------------------------------------


def bounds(stage, *inputs):
    count = rows_after(stage, [Count(*each) for each in inputs])
    return count.least, count.most


@pytest.mark.parametrize(
    ("stage", "inputs", "expected"),
    [
        (Product({"x": [1, 2, 3]}), [(4, 4)], (12, 12)),
        (Product({"x": [1, 2, 3]}), [(0, None)], (0, None)),
        (Where("a > 1"), [(4, 4)], (0, 4)),
        (Explode("a"), [(4, 4)], (0, None)),
        (Explode("a"), [(0, 0)], (0, 0)),
        (Top(3, "a"), [(10, 10)], (3, 3)),
        (Top(3, "a"), [(2, 2)], (2, 2)),
        (Top(3, "a"), [(0, None)], (0, 3)),
        (Top(3, "a", within="b"), [(10, 10)], (3, 10)),
        (Best("a"), [(10, 10)], (1, 1)),
        (Best("a", within="b"), [(10, 10)], (1, 10)),
        (Concat(), [(3, 3), (0, 4)], (3, 7)),
        (Concat(), [(3, 3), (0, None)], (3, None)),
        (Reduce(aggregate={"n": ("a", "count")}), [(0, None)], (1, 1)),
        (Reduce("b", aggregate={"n": ("a", "count")}), [(5, 5)], (1, 5)),
        (Reduce("b", aggregate={"n": ("a", "count")}), [(0, 0)], (0, 0)),
        (Apply(len), [(5, 5)], (0, None)),
        (Join("a"), [(3, 3), (4, 4)], (0, 12)),
        (Join("a", expect="1:1"), [(3, 3), (4, 4)], (0, 3)),
        (Join("a", expect="m:1"), [(3, 3), (0, None)], (0, 3)),
        (Join("a", expect="1:m"), [(3, 3), (4, 4)], (0, 4)),
        (Join("a", expect="m:1", how="left"), [(3, 3), (0, None)], (3, 3)),
        (Join("a", expect="1:m", how="left"), [(3, 3), (4, 4)], (3, 6)),
        (Join("a", how="left"), [(3, 3), (0, 0)], (3, 3)),
        (Join("a", expect="1:m", how="right"), [(3, 3), (4, 4)], (4, 4)),
        (Join("a", expect="m:1", how="right"), [(3, 3), (4, 4)], (4, 6)),
        (Join("a", expect="1:1", how="outer"), [(3, 3), (4, 4)], (4, 7)),
        (Join("a", how="outer"), [(3, 3), (4, 4)], (4, 12)),
    ],
)
def test_rows_are_counted_exactly_or_within_bounds(stage, inputs, expected):
    assert bounds(stage, *inputs) == expected


class Twice:
    name = "twice"
    fan_out = 2

    def rows(self, table):
        yield Rows(table.take(np.repeat(np.arange(table.count), 2)), np.repeat(np.arange(table.count), 2))


class Fewer:
    name = "fewer"
    keeps_labels = True

    def rows(self, table):
        yield Rows(table.slice(0, 0), np.empty(0, np.int64))


def test_a_stage_of_somebody_else_may_say_how_many_rows_it_makes():
    assert bounds(Twice(), (3, 3)) == (6, 6)
    assert bounds(Fewer(), (3, 3)) == (0, 3)


KEYS = st.lists(st.integers(0, 3), max_size=5)


@settings(max_examples=200, deadline=None)
@given(KEYS, KEYS, st.sampled_from(["inner", "left", "right", "outer"]))
def test_a_join_never_has_more_or_fewer_rows_than_planned(left, right, how):
    from paramsurvey.tables import table_of

    sides = [["1", "m"] if len(set(side)) == len(side) else ["m"] for side in (left, right)]
    tables = [table_of(pd.DataFrame({"k": np.array(side, np.int64)})) for side in (left, right)]
    for one in sides[0]:
        for other in sides[1]:
            join = Join("k", how=how, expect=f"{one}:{other}")
            least, most = bounds(join, *((len(side), len(side)) for side in (left, right)))
            assert least <= join.table(*tables).table.count <= most


def test_a_plan_counts_what_a_run_gives(serial):
    pipeline = (
        Pipeline("all kinds")
        .derive(even="a % 2 == 0")
        .rename({"a": "n"})
        .product({"x": [1, 2, 3]})
        .map(lambda pset, system, user: {"list": [pset["n"]] * pset["x"]}, name="call")
        .where("even")
        .explode("list")
        .reduce("x", aggregate={"total": ("n", "sum")})
        .top(2, by="total")
    )
    plan, run = serial.plan(pipeline, numbers(7)), serial.run(pipeline, numbers(7))
    for stage in plan.stages:
        count = run.table(stage.name).count
        assert stage.rows.least <= count <= (math.inf if stage.rows.most is None else stage.rows.most), stage.name
    exact = {stage.name for stage in plan.stages if stage.rows.is_exact}
    assert exact == {"psets", "derive", "rename", "product", "call"}


def test_a_count_says_what_it_knows():
    texts = [str(each) for each in (Count(1200, 1200), Count(3, 5), Count(0, 5), Count(3), Count(), Count(0, 9, 4.4))]
    assert texts == ["1,200", "3 to 5", "up to 5", "3 or more", "any number", "~4"]
    assert Count(3, 3).expected == 3
    assert Count(0, 3).expected is None


def test_only_so_many_psets_are_planned_as_the_limit_allows(serial):
    plan = serial.plan(double, numbers(10), limit=4)
    assert plan["double"].rows == Count(4, 4)
    assert "source 'psets': limit=4: any psets beyond that are left out" in str(plan)


# --- columns --------------------------------------------------------------------------------------


def test_columns_are_told_going_in_and_coming_out(serial):
    pipeline = Pipeline().map(double).derive(c="a + 1").drop("a")
    plan = serial.plan(pipeline, numbers(2))
    assert plan["psets"].columns == Columns(("a",), open=False)
    assert plan["double"].columns_in == (Columns(("a",), open=False),)
    assert plan["double"].columns == Columns(("a",), open=True)
    assert plan["drop"].columns == Columns(("c",), open=True)


def test_a_sample_tells_the_columns_of_answers(serial):
    plan = serial.plan(Pipeline().map(double).derive(c="a + 1"), numbers(4), sample=2)
    assert plan["double"].columns == Columns(("a", "double"), open=True)
    assert plan["derive"].columns_in == (Columns(("a", "double"), open=True),)


def test_a_column_that_no_pset_has_is_refused(serial):
    worker = keywords(energy, output="energy")
    with pytest.raises(StageError, match="reads the column 'mass', which the rows do not have there; they have: 'a'"):
        serial.plan(Pipeline().map(worker, name="einstein"), numbers(3))


# --- the psets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "duplicates"),
    [
        ([1, 2, 3], 0),
        ([1, 2, 1, 1], 2),
        ([1, 1.0, True, "1", None], 0),
        ([0.0, -0.0], 0),
        ([float("nan"), float("nan"), 1.5], 1),
        ([None, None], 1),
        ([2**70, 2**70, 2**70 + 1], 1),
        ([[1, 2], [1, 2], (1, 2)], 1),
        ([{"x": 1}, {"x": 1.0}], 0),
        ([np.float32(1), np.float32(1), np.float64(1)], 1),
        ([np.arange(3), np.arange(3), np.arange(3.0)], 1),
        (["a"] * 20 + ["b"], 19),
        ([0.5] * 20, 19),
        ([*range(20), 7], 1),
        ([pd.Timestamp("2020"), pd.Timestamp("2020"), pd.Timestamp("2020", tz="UTC"), pd.NaT, pd.NaT], 2),
        ([pd.Timestamp("2020").as_unit("s"), pd.Timestamp("2020").as_unit("ns"), pd.Timedelta(1), pd.Timedelta(1)], 1),
        ([], 0),
    ],
)
def test_psets_are_duplicates_if_types_and_values_are_the_same(serial, values, duplicates):
    plan = serial.plan(double, [{"a": value, "same": 1} for value in values])
    assert plan["psets"].psets.duplicates == duplicates


def test_a_missing_key_is_not_the_same_as_a_missing_value(serial):
    assert serial.plan(double, [{"a": 1}, {"a": 1, "b": None}, {"a": 1}])["psets"].psets.duplicates == 1


@pytest.mark.parametrize(
    "frame", [pd.DataFrame({"a": [1, 2, 1], "b": [0.5, 0.5, 0.5]}), pd.DataFrame({"a": list("xyx")})]
)
def test_duplicates_are_found_in_frames(serial, frame):
    assert serial.plan(double, frame)["psets"].psets.duplicates == 1
    assert serial.plan(double, frame.iloc[::2])["psets"].psets.duplicates == 1


def test_psets_without_keys_are_all_the_same(serial):
    assert serial.plan(double, [{}, {}, {}])["psets"].psets.duplicates == 2


def test_duplicates_are_a_warning_that_shows_the_first(serial):
    plan = serial.plan(double, [{"a": 1}, {"a": 2}, {"a": 2}])
    assert plan.warnings == (
        "source 'psets': 1 of 3 psets equals an earlier one, the first: {'a': 2}; equal psets are computed again, and "
        "have the same seed",
    )


def test_psets_that_cannot_be_compared_are_told(serial):
    plan = serial.plan(double, [{"a": Lock()}, {"a": Lock()}, {"a": 1}])
    assert plan["psets"].psets.duplicates == 0
    assert plan["psets"].psets.uncompared == 2
    assert (
        "source 'psets': 2 of 3 psets cannot be compared with others, because something in them cannot be pickled"
        in str(plan)
    )
    assert plan.warnings == ()  # the serial backend needs no pickling


def test_an_iterator_is_not_used_up(serial):
    psets = iter(numbers(3))
    with pytest.raises(PsetError, match=r"plan\(\) would use up psets, a list_iterator, and leave nothing for the run"):
        serial.plan(double, psets)
    assert len(list(psets)) == 3


def test_a_source_by_name_is_not_used_up_either(serial):
    with pytest.raises(PsetError, match="would use up sites, a generator"):
        serial.plan(Pipeline(sources=["sites"]).map(double), sites=(each for each in numbers(2)))


# --- serialising ----------------------------------------------------------------------------------


def test_a_worker_that_cannot_be_pickled_is_told_as_the_run_would(pool):
    lock = threading.Lock()

    def worker(pset, system_kwargs, user_kwargs):
        with lock:
            return {}

    plan = pool.plan(worker, numbers(2))
    assert plan["worker"].calls.published is None
    with pytest.raises(WorkerError) as raised:
        pool.map(worker, numbers(2))
    assert plan.warnings == (f"stage {str(raised.value).replace('worker:', repr('worker') + ':', 1)}",)


def test_no_sample_is_run_with_a_worker_that_cannot_be_pickled(pool):
    plan = pool.plan(double, numbers(2), user_kwargs=threading.Lock(), sample=1)
    assert plan.sample is None
    assert "no sample was run, because there is no row, or a worker cannot be pickled" in plan.warnings


def test_psets_that_cannot_be_pickled_are_a_warning_that_names_the_value(pool):
    plan = pool.plan(double, [{"a": 1}, {"a": Lock()}])
    [warning] = plan.warnings
    assert warning.startswith(
        "source 'psets': the value Lock() in the column 'a' of pset 1 cannot be pickled: TypeError: cannot pickle"
    )
    assert warning.endswith(
        "a worker of the backend 'multiprocessing' cannot get such a pset, which would be missing as 'unpicklable'"
    )


def test_the_serial_backend_takes_what_cannot_be_pickled(serial):
    plan = serial.plan(double, numbers(2), user_kwargs=threading.Lock(), sample=2)
    assert plan.warnings == ()
    assert plan.sample.rows == 2
    assert "cannot be pickled, which the backend 'serial' does not need" in str(plan)


def test_bytes_are_told_of_what_crosses_once_and_of_tasks(serial):
    plan = serial.plan(double, numbers(100), user_kwargs=np.zeros(100_000))
    calls = plan["double"].calls
    assert 800_000 < calls.published < 802_000
    assert calls.count == Count(100, 100)
    assert 20 < calls.task < 200
    assert 1 < calls.row <= 10


def test_a_stage_whose_rows_are_not_known_has_tasks_only_with_a_sample(serial):
    pipeline = Pipeline().product({"x": [1, 2]}).map(double)
    assert serial.plan(pipeline, numbers(10))["double"].calls.task is None
    assert serial.plan(pipeline, numbers(10), sample=2)["double"].calls.task > 0


def test_rows_that_carry_much_are_a_warning(serial):
    plan = serial.plan(double, [{"a": np.full(200_000, n)} for n in range(3)])
    assert plan.warnings == (
        "stage 'double': every row carries 1.6 MB to a worker; what rows have in common crosses only once if it is in "
        "user_kwargs",
    )


def test_the_worker_of_a_reduce_is_looked_at_too(pool):
    lock = threading.Lock()
    pipeline = Pipeline().reduce("a", worker=lambda pset, system, user: {"lock": repr(lock)})
    plan = pool.plan(pipeline, numbers(3))
    assert plan["reduce"].calls.count == Count(1, 3)
    assert "stage 'reduce': the worker or its user_kwargs cannot be pickled" in plan.warnings[0]


# --- who would compute ----------------------------------------------------------------------------


def test_a_plan_names_the_backend_and_its_slots_and_starts_no_worker(pool):
    plan = pool.plan(double, numbers(4))
    assert (plan.backend, plan.slots) == ("multiprocessing", 2)
    assert pool._backends["multiprocessing"].pids() == []
    assert str(plan).startswith("pipeline: 1 stage on 2 slots of multiprocessing\n")


def test_a_closed_session_makes_no_plan():
    session = Session(backend="serial", verbose=0)
    session.close()
    with pytest.raises(SessionError, match="this session is closed"):
        session.plan(double, numbers(1))


def test_a_plan_refuses_what_the_run_would_refuse(serial):
    with pytest.raises(OptionError, match="timeout"):
        serial.plan(double, numbers(1), timeout=1)
    with pytest.raises(OptionError, match="colour"):
        serial.plan(double, numbers(1), colour="red")
    with pytest.raises(StageError, match=r"plan\(\): the source 'psets' of the pipeline 'pipeline' was not given"):
        serial.plan(Pipeline().map(double))
    with pytest.raises(StageError, match=r"plan\(\): the pipeline 'empty' has no stage"):
        serial.plan(Pipeline("empty"), numbers(1))


# --- a sample -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [0, -1, 2.5, True, "all"])
def test_a_sample_is_a_number_of_rows(serial, sample):
    with pytest.raises(OptionError, match=r"sample must be a number of rows, at least 1, or None"):
        serial.plan(double, numbers(3), sample=sample)


def test_a_sample_is_evenly_spread(serial):
    seen = []

    def worker(pset, system_kwargs, user_kwargs):
        seen.append(pset["a"])

    serial.plan(worker, numbers(101), sample=3)
    serial.plan(worker, numbers(101), sample=1)
    assert seen == [0, 50, 100, 50]
    assert serial.plan(worker, numbers(2), sample=5).sample.rows == 2


def test_a_sample_measures_times_and_estimates_the_whole(serial):
    plan = serial.plan(busy, numbers(100), sample=4)
    timing = plan["busy"].seen.timing
    assert timing.count == 4
    assert 0.03 <= timing.mean < 0.3
    assert plan.eta.seconds == pytest.approx(100 * timing.mean)
    assert plan.eta.spread == pytest.approx(100 * timing.error)
    assert plan.eta.without == ()
    assert plan.sample.seconds >= 4 * 0.03


def test_the_error_of_a_mean_shrinks_with_the_sample():
    assert Timing(4, 1.0, 0.5).error == 0.25
    assert Timing(1, 1.0, 0.0).error == 1.0


def test_slots_share_the_time(pool):
    plan = pool.plan(busy, numbers(100), sample=4)
    assert plan.eta.seconds == pytest.approx(50 * plan["busy"].seen.timing.mean)


def test_a_few_long_calls_take_whole_turns(pool):
    plan = pool.plan(busy, numbers(3), sample=2)
    assert plan.eta.seconds == pytest.approx(2 * plan["busy"].seen.timing.mean)


def test_a_row_takes_its_way_through_all_stages(pool):
    plan = pool.plan(
        Pipeline().map(busy, name="one").map(busy, name="two").map(busy, name="three"), numbers(1), sample=1
    )
    assert plan.eta.seconds == pytest.approx(sum(plan[name].seen.timing.mean for name in ("one", "two", "three")))


def test_bounds_become_estimates(serial):
    pipeline = Pipeline().map(peaks).explode("peaks").where("a % 2 == 0").map(double)
    plan = serial.plan(pipeline, numbers(300), sample=60)
    run = serial.run(pipeline, numbers(300))
    for name in ("explode", "where", "double"):
        count = plan[name].rows
        assert not count.is_exact
        assert abs(count.about - run.table(name).count) <= 3 * count.spread, name
    assert plan["double"].calls.count == plan["where"].rows


def test_a_sample_of_everything_is_what_it_is(serial):
    pipeline = Pipeline().map(peaks).explode("peaks")
    plan = serial.plan(pipeline, numbers(30), sample=30)
    assert plan["explode"].rows.about == 30


def test_groups_grow_as_they_did_in_the_sample(serial):
    pipeline = Pipeline().product({"x": [1, 2, 3]})
    by_grid = pipeline.reduce("x", aggregate={"n": ("a", "count")})
    by_row = pipeline.reduce("a", aggregate={"n": ("x", "count")})
    assert serial.plan(by_grid, numbers(100), sample=10)["reduce"].rows.about == pytest.approx(3)
    assert serial.plan(by_row, numbers(100), sample=10)["reduce"].rows.about == pytest.approx(100)


def test_one_source_is_sampled_and_the_others_are_taken_whole(serial):
    pipeline = Pipeline(sources=("left", "right")).map(double, after="left").join("a", after=("double", "right"))
    right = [{"a": n, "cost": n} for n in range(40)]
    plan = serial.plan(pipeline, left=numbers(40), right=right, sample=4)
    assert plan["join"].seen.rows_in == (4, 40)
    assert plan["join"].rows.about == pytest.approx(40)
    assert "sampled 4 of 40 rows of 'left'; all of 'right', which took" in str(plan)


def test_a_diamond_is_scaled_once(serial):
    pipeline = Pipeline().map(double).map(peaks, after="psets").join("a", after=("double", "peaks"))
    plan = serial.plan(pipeline, numbers(40), sample=10)
    assert plan["join"].rows.about == pytest.approx(40)


def test_what_nobody_can_say_is_not_guessed(serial):
    pipeline = Pipeline().apply(lambda frame: frame.head(3), name="head").map(double)
    plan = serial.plan(pipeline, numbers(100), sample=10)
    assert plan["head"].rows == Count(0, None)
    assert plan["double"].calls.count.expected is None
    assert plan.eta is None


def test_a_time_says_what_it_is_without(serial):
    pipeline = Pipeline().map(busy).apply(lambda frame: frame.head(3), name="head").map(double)
    plan = serial.plan(pipeline, numbers(10), sample=2)
    assert plan.eta.without == ("double",)
    assert "the time is without 'double', of which the number or the time of calls is not known" in plan.warnings


def test_failures_in_a_sample_are_told_and_expected(serial):
    plan = serial.plan(Pipeline().map(picky).top(3, by="b"), numbers(100), sample=100)
    assert plan["picky"].seen.failures == 20
    assert plan["picky"].rows == Count(0, 100, 80.0, plan["picky"].rows.spread)
    assert plan.warnings == (
        "stage 'picky': 20 of 100 rows of the sample failed, the first raised: ValueError('no fives')",
        "stage 'top' needs its whole table, and would refuse (StageFailed) with rows missing in 'picky'; with "
        "allow_missing=True it runs on what there is",
    )
    assert (
        len(serial.plan(Pipeline().map(picky).top(3, by="b"), numbers(9), sample=9, allow_missing=True).warnings) == 1
    )


def test_a_sample_that_a_stage_ends_is_told_with_what_it_has_shown(serial):
    pipeline = Pipeline(sources=("left", "right")).map(double, after="left")
    pipeline = pipeline.join("a", after=("double", "right"), expect="1:1").top(1, by="double")
    plan = serial.plan(pipeline, left=numbers(4), right=[{"a": 1, "b": 1}, {"a": 1, "b": 2}], sample=4)
    assert plan.sample.why_ended.startswith("stage 'join' expects '1:1', but the key a=1 is 2 times")
    assert plan.warnings[0] == f"the sample ended early: {plan.sample.why_ended}"
    assert plan["double"].seen.rows_out == 4
    assert plan["join"].seen is None
    assert plan["top"].seen is None


def test_a_sample_has_no_effects_of_its_own(serial):
    heard = []
    stage = Pipeline().map(double, out_func=lambda *args: heard.append(args), keep_results=False, on_failure="stop")
    with Session(backend="serial", verbose=0, out_func=lambda *args: heard.append(args), on_failure="stop") as session:
        plan = session.plan(stage.map(picky), numbers(20), sample=20, out_func=lambda *args: heard.append(args))
    assert heard == []
    assert plan["picky"].seen.failures == 4
    assert plan["double"].seen.rows_out == 20


def test_the_worker_of_a_reduce_is_timed(serial):
    pipeline = Pipeline().reduce("a", worker=busy)
    plan = serial.plan(pipeline, numbers(20), sample=4)
    assert plan["reduce"].seen.timing.count == 4
    assert plan.eta.seconds == pytest.approx(20 * plan["reduce"].seen.timing.mean)


def test_a_strategy_that_asks_is_named_as_what_the_time_is_without(serial):
    from paramsurvey.stages.base import Ask

    class Asks:
        name = "asks"

        def table(self, table):
            results = yield Ask(busy, list(table.dicts()))
            return results.table

    plan = serial.plan(Pipeline().map(busy).add(Asks()), numbers(4), sample=2)
    assert plan["asks"].seen.timing.count == 2
    assert plan.eta.without == ("asks",)


def test_no_rows_are_planned_and_no_sample_is_run(serial):
    plan = serial.plan(Pipeline().map(double).top(2, by="double"), [], sample=3)
    assert [stage.rows for stage in plan.stages] == [Count(0, 0)] * 3
    assert plan.sample is None
    assert plan.warnings == ("no sample was run, because there is no row, or a worker cannot be pickled",)
    assert "source 'psets' has no rows" in str(plan)


def test_memory_is_that_of_this_process_and_those_below_it(pool):
    memory = pool.plan(busy, numbers(10), sample=4).sample.memory
    assert memory.processes >= 2
    assert 0 < memory.largest < memory.total
    assert memory.driver < memory.total


def test_memory_is_looked_at_when_all_is_over():
    with MemoryWatch() as watch:
        block = np.ones(8_000_000)
    assert watch.most.driver > block.nbytes
    assert not watch._thread.is_alive()


def test_a_worker_alone_is_planned_as_a_pipeline_of_one_stage(serial):
    plan = serial.plan(double, numbers(3), name="twice", sample=1)
    assert [stage.name for stage in plan.stages] == ["psets", "twice"]
    assert plan["twice"].seen.rows_out == 1


# --- how it is shown ------------------------------------------------------------------------------


def test_a_plan_prints_its_stages_and_then_its_findings_warnings_first(serial):
    pipeline = Pipeline("array").map(double).where("double > 2").top(1, by="double")
    lines = str(serial.plan(pipeline, [*numbers(4), {"a": 1}], limit=5)).splitlines()
    assert lines[0] == "array: 3 stages on 1 slot of serial"
    assert [line.split()[1] for line in lines[1:5]] == ["psets", "double", "where", "top"]
    assert "up to 5" in lines[3]
    assert lines[5].startswith("! source 'psets': 1 of 5 psets")
    assert lines[6].startswith("- source 'psets': limit=5")


def test_a_plan_is_data(pool):
    plan = pool.plan(Pipeline().map(double).where("a > 1"), [{"a": 1, 2: "x", (1, 2): Lock()}, {"a": 2}])
    found = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert found["backend"] == "multiprocessing"
    assert found["stages"][0]["columns"] == {"names": ["a", 2, "(1, 2)"], "open": False}
    assert found["stages"][1]["rows"] == {"least": 2, "most": 2, "about": None, "spread": 0.0}
    assert found["findings"][0]["is_warning"] is True
    sampled = json.loads(json.dumps(pool.plan(double, numbers(9), sample=3).to_dict(), allow_nan=False))
    assert sampled["stages"][1]["seen"]["rows_in"] == [3]
    assert sampled["sample"]["memory"]["driver"] > 0


def test_a_notebook_shows_the_picture_and_the_findings(serial):
    page = serial.plan(Pipeline("a < b").map(double), [{"a": 1}, {"a": 1}])._repr_html_()
    assert "<svg" in page
    assert "a &lt; b: 1 stage on 1 slot of serial" in page
    assert "<li>! source &#x27;psets&#x27;: 1 of 2 psets" in page


def test_the_picture_of_a_plan_warns_where_something_is_wrong(serial):
    boxes = {box.name: box for box in serial.plan(double, [{"a": 1}, {"a": 1}]).drawing().boxes}
    assert boxes["psets"].warning
    assert boxes["psets"].notes == ("2 rows", "a")
    assert boxes["double"].notes[0] == "2 rows"


def test_rows_are_counted_in_words_in_a_picture():
    notes = [
        Plan("p", (StagePlan("s", "rows", (), count, (), Columns()),), "serial", 1).drawing().boxes[0].notes[0]
        for count in (Count(1, 1), Count(), Count(0, 5), Count(0, 5, 2.0))
    ]
    assert notes == ["1 row", "any number of rows", "up to 5 rows", "~2 rows"]


def test_a_stage_that_is_not_there_is_named_with_the_others(serial):
    with pytest.raises(KeyError, match="there is no stage 'x'; there are: 'psets', 'double'"):
        serial.plan(double, numbers(1))["x"]


def test_a_plan_is_a_value():
    assert Plan("p", (), "serial", 1, eta=Eta(1.0, 0.1)) == Plan("p", (), "serial", 1, eta=Eta(1.0, 0.1))
    assert Plan("p", (), "serial", 1, findings=(Finding("x", is_warning=True),)).warnings == ("x",)


def test_a_pipeline_is_drawn_from_its_sources_on(serial):
    pipeline = Pipeline("p", sources=("a", "b")).map(double, after="a").join("x", after=("double", "b"))
    drawing = drawing_of(pipeline, {"double": ["a note"]})
    assert [(box.name, box.kind, box.title, box.notes) for box in drawing.boxes] == [
        ("a", "source", "a", ()),
        ("b", "source", "b", ()),
        ("double", "map", "double", ("a note",)),
        ("join", "table", "join", ()),
    ]
    assert drawing.arrows == (("a", "double"), ("double", "join"), ("b", "join"))
    assert str(pipeline) == str(drawing_of(pipeline))
    assert pipeline._repr_html_() == drawing_of(pipeline).svg()


def test_a_run_is_drawn_with_counts_failures_and_times(serial, tmp_path):
    run = serial.run(Pipeline().map(picky).where("b > 2").map(double), numbers(10))
    boxes = {box.name: box for box in run.drawing().boxes}
    assert boxes["psets"].notes == ("10 rows",)
    assert boxes["picky"].notes[:2] == ("8 of 10 rows", "2 failed")
    assert boxes["picky"].notes[2].endswith(" each")
    assert (boxes["picky"].warning, boxes["picky"].done) == (True, 0.8)
    assert boxes["where"].notes == ("6 rows",)
    assert (boxes["double"].warning, boxes["double"].done) == (False, 1.0)
    run.draw(tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_text() == run.drawing().svg()


def test_a_run_is_drawn_while_it_is_going_on(serial):
    with serial.stream_run(Pipeline().map(double), numbers(50)) as stream:
        next(stream)
        [_, box] = stream.results.drawing().boxes
    assert "of 50 rows" in box.notes[0]
    assert 0 < box.done < 1


def test_a_run_that_kept_no_rows_is_drawn_all_the_same(serial):
    run = serial.run(Pipeline().derive(b="a + 1").map(double).drop("a"), numbers(3), keep="sinks")
    assert [box.notes[:1] for box in drawing_of_run(run).boxes] == [("3 rows",), (), ("3 rows",), ("3 rows",)]


def test_the_rows_of_a_stage_that_is_not_there_are_refused(serial):
    run = serial.run(Pipeline().map(double), numbers(3))
    assert run.table("double").count == 3
    with pytest.raises(KeyError, match="there is no stage 'x'"):
        run.table("x")


# --- how it is called -----------------------------------------------------------------------------


def test_a_module_of_the_same_name_does_not_take_the_place_of_the_function():
    paramsurvey.init(backend="serial", verbose=0)
    for _ in range(2):
        assert paramsurvey.plan(double, numbers(2))["double"].rows == Count(2, 2)
        assert Pipeline().map(double).plan(numbers(2))["double"].rows == Count(2, 2)
    assert paramsurvey.Plan is Plan


def test_a_long_chain_is_planned_in_no_time(serial):
    pipeline = Pipeline()
    for number in range(200):
        pipeline = pipeline.derive({f"c{number}": "a + 1"})
    plan = serial.plan(pipeline, numbers(3))
    assert len(plan.stages) == 201
    assert plan.stages[-1].rows == Count(3, 3)
