import array
import copy
import io
import math
import pickle
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from counting import lines_run_in
from hdrh.histogram import HdrHistogram
from hypothesis import example, given, settings
from hypothesis import strategies as st

import paramsurvey.stats
from paramsurvey.errors import OptionError
from paramsurvey.stats import PerfStats, record_iowait, record_wallclock

WEEK = 7 * 86_400.0


def content(stats):
    """Everything that a PerfStats answers."""
    return {
        name: (stats.read_stats(name)[:2], stats.total(name), stats.percentile(name, 100), bins(stats, name))
        for name in stats.all_stat_names()
    }


def bins(stats, name):
    histogram = stats.read_stats(name)[2]
    return [(i, n) for i, n in enumerate(histogram.counts) if n]


def printed(method, *args):
    file = io.StringIO()
    method(*args, file=file)
    return file.getvalue()


# Timers


def test_importing_stats_imports_none_of_the_slow_modules():
    slow = "{'numpy', 'pandas', 'hdrh', 'attr', 'attrs'}"
    code = f"import sys; import paramsurvey.stats; print(sorted({slow} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_timers_append_seconds_under_their_name():
    raw_stats = {}
    for _ in range(2):
        with record_wallclock("whole", raw_stats), record_iowait("waiting", raw_stats=raw_stats):
            subprocess.run([sys.executable, "-S", "-c", ""], check=True, timeout=60)
    assert list(raw_stats) == ["waiting", "whole"]
    for waiting, whole in zip(raw_stats["waiting"], raw_stats["whole"], strict=True):
        assert 0 < waiting <= whole < 60


def test_computing_is_no_waiting():
    raw_stats = {}
    with record_wallclock("whole", raw_stats), record_iowait("waiting", raw_stats):
        start = time.process_time()
        while time.process_time() < start + 0.02:
            pass
    (whole,), (waiting,) = raw_stats["whole"], raw_stats["waiting"]
    assert 0 <= waiting <= whole - 0.02


@pytest.mark.parametrize("timer", [record_wallclock, record_iowait])
def test_timers_record_blocks_that_raise_and_let_the_error_through(timer):
    raw_stats = {"x": [1.0]}
    with pytest.raises(ZeroDivisionError), timer("x", raw_stats):
        1 / 0  # noqa: B018 - raising is the point
    assert len(raw_stats["x"]) == 2
    assert raw_stats["x"][1] >= 0


# What is kept


durations = st.floats(0, 2 * WEEK) | st.floats(0, 1e-3) | st.floats(1e-3, 100)


@settings(deadline=None)
@given(values=st.lists(st.floats(1e-3, WEEK), min_size=1, max_size=60), p=st.floats(0, 100))
def test_percentiles_are_right_within_two_in_a_thousand(values, p):
    stats = PerfStats({"x": values})
    rank = max(int(p / 100 * len(values) + 0.5), 1)
    assert stats.percentile("x", p) == pytest.approx(sorted(values)[rank - 1], rel=0.002)
    assert stats.percentile("x", 100) == max(values)


@settings(deadline=None)
@given(values=st.lists(durations, max_size=60), data=st.data())
def test_counts_and_totals_are_exact_and_parts_add_up_to_the_whole(values, data):
    at_once, in_parts, merged = PerfStats({"x": values}), PerfStats(), PerfStats()
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        in_parts.add("x", shuffled[start:end])
        merged.merge(PerfStats({"x": np.array(shuffled[start:end])}))
    assert content(at_once) == content(in_parts) == content(merged)
    if values:
        count, mean, histogram = at_once.read_stats("x")
        exact = sum(map(Fraction, values))
        assert count == histogram.get_total_count() == len(values)
        assert at_once.total("x") == pytest.approx(float(exact), rel=1e-15, abs=len(values) * 2.0**-60)
        assert mean == pytest.approx(float(exact / len(values)), rel=1e-15, abs=2.0**-60)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(durations, st.integers(0, 50)), max_size=30))
def test_a_count_is_as_good_as_repeating_the_time(pairs):
    counted, repeated = PerfStats(), PerfStats()
    counted.add("x", [x for x, _ in pairs], counts=[n for _, n in pairs])
    repeated.add("x", [x for x, n in pairs for _ in range(n)])
    assert content(counted) == content(repeated)


@pytest.mark.unmeasured
@settings(deadline=None)
@given(values=st.lists(durations, min_size=1, max_size=60))
def test_the_histogram_is_what_it_is_when_fed_value_by_value(values):
    expected = HdrHistogram(1, int(WEEK) * 1_000_000, 3)
    for value in values:
        assert expected.record_value(min(max(round(value * 1e6), 1), int(WEEK) * 1_000_000))
    stats = PerfStats({"x": values})
    assert bins(stats, "x") == [(i, n) for i, n in enumerate(expected.counts) if n]
    for p in (0.1, 50, 90, 99):
        hdr = expected.get_value_at_percentile(p) / 1e6
        assert stats.percentile("x", p) == min(hdr, max(values)) or stats.percentile("x", p) == max(values)


@pytest.mark.parametrize(
    "values",
    [[1, 2.5, 3], (1, 2.5, 3), array.array("d", [1, 2.5, 3]), np.array([1, 2.5, 3]), [np.float32(1), 2.5, np.int8(3)]],
    ids=lambda values: type(values).__name__,
)
def test_all_kinds_of_sequences_are_times(values):
    stats = PerfStats()
    stats.add("x", values, counts=array.array("q", [1, 1, 2]))
    stats.add("x", values, counts=[1, 1, 2])
    stats.add("x", values, counts=np.array([1, 1, 2], dtype="uint8"))
    stats.add("x", values)
    assert stats.read_stats("x")[:2] == (15, 35 / 15)
    assert stats.total("x") == 35


def test_times_beyond_the_histogram_are_clamped_and_the_longest_is_exact():
    stats = PerfStats({"x": [-1e-3, 0.0, 1e-9, 1e-6, WEEK, 3 * WEEK, 4 * WEEK]})
    assert stats.percentile("x", 0) == 1e-6
    assert stats.percentile("x", 50) == 1e-6
    assert stats.percentile("x", 70) == pytest.approx(WEEK, rel=0.002)
    assert stats.percentile("x", 85) == pytest.approx(WEEK, rel=0.002)
    assert stats.percentile("x", 100) == 4 * WEEK
    assert stats.total("x") == pytest.approx(8 * WEEK - 1e-3)


def test_names_without_times_stay_unknown():
    stats = PerfStats({"x": []})
    stats.add("y", np.zeros(0), counts=[])
    stats.add("z", [1.0], counts=[0])
    stats.add("z", [1.0] * 20, counts=[0] * 20)
    assert stats.all_stat_names() == []
    assert stats.read_stats("x") is None


def test_names_are_listed_in_the_order_they_came():
    stats = PerfStats({"b": [1.0], "a": [1.0]})
    stats.combine_stats({"c": [1.0], "a": [2.0]})
    assert stats.all_stat_names() == ["b", "a", "c"]
    assert stats.read_stats("a")[0] == 2


def test_merging_leaves_the_other_alone_and_works_with_oneself():
    one, two = PerfStats({"x": [1.0], "y": [5.0]}), PerfStats({"x": [3.0]})
    before = content(one)
    two.merge(one)
    two.add("x", [1.0])
    assert content(one) == before
    assert two.read_stats("x")[:2] == (3, 5 / 3)
    one.merge(one)
    assert (one.read_stats("x")[0], one.total("y")) == (2, 10.0)


def test_a_histogram_belongs_to_the_asker():
    stats = PerfStats({"x": [1.0]})
    stats.read_stats("x")[2].record_value(5)
    assert stats.read_stats("x")[2].get_total_count() == 1


def test_statistics_survive_pickling_and_copying():
    stats = PerfStats({"x": [0.1, 0.2, 3 * WEEK], "y": [1.0]})
    for twin in (pickle.loads(pickle.dumps(stats)), copy.deepcopy(stats)):
        assert content(twin) == content(stats)
        twin.add("x", [1.0])
        assert stats.read_stats("x")[0] == 3


def test_the_size_does_not_depend_on_the_number_of_times():
    stats = PerfStats({"x": np.geomspace(1e-7, 1e7, 1000)})
    size = len(pickle.dumps(stats)), stats._timings["x"].counts.nbytes
    stats.add("x", np.repeat(np.geomspace(1e-7, 1e7, 1000), 100))
    assert stats._timings["x"].counts.nbytes == size[1] < 300_000
    assert len(pickle.dumps(stats)) < size[0] + 100


def test_a_million_times_take_a_moment():
    """None is dealt with by a line of ours."""
    values = np.random.default_rng(1).lognormal(-6, 1.5, 1_000_000)
    stats = PerfStats({"warm": values[:100]})
    assert lines_run_in(Path(paramsurvey.stats.__file__), stats.add, "x", values) < 10_000
    assert stats.read_stats("x")[0] == 1_000_000


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ([1.0, math.nan], "nan"),
        ([math.inf], "inf"),
        ([2.0**32], "4294967296.0"),
        ([10**400], r"\d+\.\.\.\d+"),
        (["1.5"], r"\['1.5'\]"),
        ([None, 1.0], r"\[None, 1.0\]"),
        ([True, False], r"\[True, False\]"),
        ([[1.0], [2.0]], r"\[\[1.0\], \[2.0\]\]"),
        ([[1.0], [2.0, 3.0]], r"\[\[1.0\], \[2.0, 3.0\]\]"),
        (5, "5"),
        ("abc", "'abc'"),
    ],
)
def test_what_is_no_time_is_refused_by_name_and_nothing_is_added(seconds, shown):
    stats = PerfStats()
    message = rf"times of 'load' have {shown} among them, which is no time in seconds: give a sequence of numbers"
    for bad in (seconds, seconds * 20 if isinstance(seconds, list) else seconds):
        with pytest.raises(OptionError, match=r"times of 'load' have .* among them, which is no time"):
            stats.combine_stats({"fit": [1.0], "load": bad})
    with pytest.raises(OptionError, match=message):
        stats.add("load", seconds)
    assert stats.all_stat_names() == []


@pytest.mark.parametrize("times", [2, 40])
@pytest.mark.parametrize("bad", [-1, 2**30 + 1, 1.5, True, "1"])
def test_what_is_no_count_is_refused_by_name_and_nothing_is_added(bad, times):
    stats = PerfStats()
    with pytest.raises(OptionError, match=r"times of 'x': their counts have .* give whole numbers, not negative"):
        stats.add("x", [1.0] * times, counts=[bad] * times)
    assert stats.all_stat_names() == []


def test_counts_that_do_not_belong_to_the_times_are_refused():
    with pytest.raises(
        OptionError, match=r"times of 'x': 2 times came with counts of shape \(3,\): give each its count"
    ):
        PerfStats().add("x", [1.0, 2.0], counts=[1, 2, 3])
    with pytest.raises(OptionError, match=r"their counts have 2147483648 among them or as their sum"):
        PerfStats().add("x", np.ones(2), counts=np.array([2**30, 2**30]))


def test_unknown_names_and_impossible_percentiles_are_refused():
    stats = PerfStats({"a": [1.0], "b": [1.0]})
    with pytest.raises(OptionError, match="no times were recorded as 'c'; recorded: 'a', 'b'"):
        stats.percentile("c", 50)
    with pytest.raises(OptionError, match="no times were recorded as 'c'; recorded: none"):
        PerfStats().total("c")
    for p in (-1, 101, math.nan):
        with pytest.raises(OptionError, match=f"percentile {p} is impossible: give a number from 0 to 100"):
            stats.percentile("a", p)


# What is shown


def test_the_repr_says_at_a_glance():
    assert repr(PerfStats()) == "<PerfStats: no times recorded>"
    assert repr(PerfStats({"load": [0.01] * 2000, "fit": [90.0]})) == "<PerfStats: load 2,000 x 10 ms, fit 1 x 1.5 min>"


def test_percentiles_are_a_table_in_readable_units():
    stats = PerfStats({"wallclock": np.arange(1, 1001) / 1000, "a name of many letters": [7200.0, 3e-6]})
    assert printed(stats.print_percentiles).splitlines() == [
        "                    count     mean      50%      90%      95%      99%      max",
        "wallclock           1,000   500 ms   500 ms   900 ms   950 ms   990 ms      1 s",
        "a name of many letters",
        "                        2      1 h     3 us      2 h      2 h      2 h      2 h",
    ]
    only = printed(stats.print_percentiles, "wallclock")
    assert only == printed(stats.print_percentile, "wallclock")
    assert len(only.splitlines()) == 2


def test_a_histogram_has_rows_of_one_factor_and_bars():
    stats = PerfStats({"load": [0.001] * 10 + [0.1] * 40 + [4.096], "fit": [2.0, 2.001]})
    load = printed(stats.print_histogram, "load").splitlines()
    assert load[0] == "load: 51 times, 8.11 s in all, mean 159 ms"
    assert len(load) == 13
    assert load[1] == "      1 ms -     2 ms |########### 10"
    assert load[2] == "      2 ms -     4 ms | 0"
    assert load[7] == "     64 ms -   128 ms |" + "#" * 44 + " 40"
    assert load[12] == "    2.05 s -    4.1 s |# 1"
    assert printed(stats.print_histograms).splitlines()[13:] == [
        "fit: 2 times, 4 s in all, mean 2 s",
        "       2 s -      2 s |" + "#" * 44 + " 2",
    ]


@settings(deadline=None)
@example(values=[3e-186, -3e-10, 1e-9])
@given(values=st.lists(durations | st.floats(-1, 1e9), min_size=1, max_size=40))
def test_everything_printed_fits_80_columns_and_histograms_lose_nothing(values):
    stats = PerfStats()
    stats.add("x", values, [10_000] * len(values))
    histogram = printed(stats.print_histograms).splitlines()
    assert max(map(len, histogram + printed(stats.print_percentiles).splitlines())) < 80
    assert sum(int(line.split()[-1].replace(",", "")) for line in histogram[1:]) == 10_000 * len(values)


def test_names_without_times_are_said_and_nothing_is_nothing():
    for method in (PerfStats().print_percentiles, PerfStats().print_histograms):
        assert printed(method, "x") == "x: no times recorded\n"
        assert printed(method) == ""


def test_printing_goes_to_the_standard_error_of_the_moment(capsys):
    stats = PerfStats({"x": [1.0]})
    stats.print_percentiles()
    stats.print_histograms()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == printed(stats.print_percentiles) + printed(stats.print_histograms)
