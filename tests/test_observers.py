"""What surveys say while they run: on standard error and in the log file; and that saying it never costs a survey."""

import io
import os
import re
import sys

import pytest
from plain_workers import inverse

import paramsurvey
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.engine.records import Failure
from paramsurvey.errors import OptionError
from paramsurvey.observers.events import (
    OutFuncFailed,
    Progressed,
    RowsFinished,
    RowsLost,
    StatsRefused,
    SurveyEnded,
    SurveyStarted,
)
from paramsurvey.observers.logfile import LogFile
from paramsurvey.observers.terminal import Terminal
from paramsurvey.progress import MapProgress
from paramsurvey.stats import PerfStats

pytestmark = pytest.mark.usefixtures("own_folder")


def survey(count=4, **options):
    with paramsurvey.Session(**{"backend": "serial", **options}) as session:
        return session.map(inverse, [{"a": a} for a in range(count)])


def logs(tmp_path, pattern=".paramsurvey-*.log"):
    return sorted(tmp_path.glob(pattern))


class Hostile:
    def __repr__(self):
        raise RuntimeError("no repr today")


def rows_lost(failures, pset):
    return RowsLost("s", [Lost(row, failure, 1) for row, failure in failures.items()], lambda _row: pset)


EVENTS = [
    SurveyStarted("s", 3, "serial", 1, "seed=7"),
    RowsFinished("s", 0, 2),
    rows_lost({2: Failure("raised", "ValueError('x')", "Traceback:\n  here\n")}, {"a": Hostile()}),
    OutFuncFailed("s", "KeyError('y')", "Traceback:\n  there\n"),
    StatsRefused("s", "times of 'fit' are none"),
    Progressed("s", MapProgress(3, 0, 2, 1, 1), PerfStats({"s": [0.5, 0.5]})),
    SurveyEnded("s", MapProgress(3, 0, 2, 1, 1), PerfStats({"s": [0.5, 0.5]}), 1.5, ""),
]


# Standard error


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def said(capsys, **options):
    for event in EVENTS:
        Terminal(**{"verbose": 0, "vstats": 0, **options}).see(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_verbose_0_prints_nothing(capsys):
    assert said(capsys, verbose=0, vstats=0) == said(capsys, verbose=0, vstats=1) == ""
    survey(verbose=0)
    assert capsys.readouterr() == ("", "")


def test_verbose_1_prints_failures_and_the_end(capsys):
    assert said(capsys, verbose=1).splitlines() == [
        "paramsurvey: s: pset 2 is missing (raised): ValueError('x')",
        "paramsurvey: s: out_func raised KeyError('y')",
        "paramsurvey: s: times of 'fit' are none",
        "paramsurvey: s: total: 3, active: 0, finished: 2, failures: 1, exceptions: 1; 1.5 s",
    ]


def test_verbose_2_prints_the_beginning_psets_and_tracebacks_too(capsys):
    lines = said(capsys, verbose=2).splitlines()
    assert lines[0] == "paramsurvey: s: 3 psets on 1 x serial; seed=7"
    assert lines[2].startswith("paramsurvey:   dict(<its repr raises RuntimeError>)")
    assert "paramsurvey: Traceback:" in lines


def test_verbose_3_prints_every_action(capsys):
    text = said(capsys, verbose=3)
    assert "paramsurvey: s: psets 0 to 1 have come back" in text
    assert text.count("total: 3") == 2  # progress, and the end


def test_progress_comes_by_the_clock(capsys):
    for options, pause in [({"verbose": 1}, 30), ({"verbose": 2}, 1), ({"verbose": 1, "progress_dt": 5.0}, 5)]:
        terminal = Terminal(vstats=0, clock=(clock := Clock(1000.0)), **options)
        counts = []
        for seconds in (0.5, 0.99, 1.0, 4.9, 5, 29.9, 30):
            clock.now = 1000.0 + seconds
            terminal.see(EVENTS[5])
            counts.append((seconds, bool(capsys.readouterr().err)))
        assert next(seconds for seconds, printed in counts if printed) == pause


def test_progress_says_how_long_it_may_take(capsys):
    clock = Clock()
    terminal = Terminal(verbose=1, vstats=0, clock=clock)
    clock.now = 60.0
    terminal.see(Progressed("s", MapProgress(total=300, active=2, finished=99, failures=1), PerfStats()))
    assert capsys.readouterr().err.endswith("exceptions: 0; 60 s, about 120 s to go\n")


def test_failures_beyond_the_third_are_left_to_the_log(capsys):
    survey(verbose=1)
    events = [rows_lost({row: Failure("raised", f"E({row})") for row in rows}, {}) for rows in ([0], range(1, 10))]
    capsys.readouterr()
    for verbose, lines in ((1, 4), (2, 7), (3, 20)):
        terminal = Terminal(verbose, 0, log_name="the.log")
        for event in events:
            terminal.see(event)
        printed = capsys.readouterr().err
        assert printed.count("\n") == lines
        assert ("further failures are not shown here (see the.log)" in printed) == (verbose < 3)


def test_a_failure_names_the_log_file(capsys, tmp_path):
    survey(verbose=1)
    (log,) = logs(tmp_path)
    assert f"inverse: pset 0 is missing (raised): ZeroDivisionError('division by zero') (see {log.name})" in (
        capsys.readouterr().err
    )


def test_long_texts_are_cut_on_the_terminal(capsys):
    Terminal(2, 0).see(rows_lost({0: Failure("raised", "x" * 5000)}, {"a": "y" * 5000}))
    assert len(capsys.readouterr().err) < 1000


@pytest.mark.parametrize(
    ("vstats", "expected"), [(0, ""), (1, ""), (2, "count     mean      50%"), (3, "2 times, 1 s in all")]
)
def test_vstats_is_what_is_said_of_the_times_at_the_end(vstats, expected, capsys):
    text = said(capsys, vstats=vstats)
    assert expected in text
    assert bool(text) == bool(expected)


def test_statistics_come_by_the_clock(capsys):
    for verbose, vstats, due in [(1, 0, None), (1, 1, 30), (0, 1, None), (1, 2, 1), (1, 3, 1)]:
        clock = Clock()
        terminal = Terminal(verbose, vstats, progress_dt=1e9, clock=clock)
        printed = []
        for clock.now in (0.5, 1.0, 29.0, 30.0):
            terminal.see(EVENTS[5])
            printed += [clock.now] if capsys.readouterr().err else []
        assert (printed[0] if printed else None) == due


def test_percentiles_of_a_survey_are_printed(capsys):
    survey(verbose=0, vstats=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["count", "mean", "50%", "90%", "95%", "99%", "max"]
    assert lines[1].split()[:2] == ["inverse", "4"]


@pytest.mark.parametrize("stream", ["closed", "none", "full", "raising"])
def test_a_standard_error_that_cannot_be_written_costs_nothing(stream, monkeypatch):
    class Raising:
        def write(self, text):
            raise RuntimeError

    closed = io.StringIO()
    closed.close()
    with open("/dev/full", "w") as full:
        streams = {"closed": closed, "none": None, "full": full, "raising": Raising()}
        monkeypatch.setattr(sys, "stderr", streams[stream])
        monkeypatch.setenv("PARAMSURVEY_NONSENSE", "1")
        results = survey(verbose=3, vstats=3)
        monkeypatch.undo()
        assert len(results) == 3
        _close_full(full)


def _close_full(file):
    try:
        file.close()
    except OSError:
        pass


def test_an_unknown_variable_is_told_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PARAMSURVEY_VERBOS", "3")
    survey(verbose=1)
    line = "the environment variable PARAMSURVEY_VERBOS is not read; did you mean PARAMSURVEY_VERBOSE?"
    assert capsys.readouterr().err.count(f"paramsurvey: {line}\n") == 1
    assert logs(tmp_path)[0].read_text().count(line) == 1
    survey(verbose=0)
    assert capsys.readouterr().err == ""


# The log file


def test_the_log_file_has_what_a_later_reader_needs(tmp_path):
    survey(verbose=0, seed=7)
    (log,) = logs(tmp_path)
    assert re.fullmatch(r"\.paramsurvey-\d{8}-\d{6}\.log", log.name)
    text = log.read_text()
    import pandas as pd

    for part in (
        f"pandas {pd.__version__}",
        f"Python {sys.version.split()[0]}",
        f"process {os.getpid()} in {tmp_path}",
        "inverse: 4 psets on 1 x serial",
        "seed=7",
        "inverse: pset 0 is missing (raised, attempts: 1): ZeroDivisionError('division by zero')",
        "{'a': 0}",
        "traceback 1:\nTraceback (most recent call last):",
        "in inverse",
        "inverse: total: 4, active: 0, finished: 3, failures: 1, exceptions: 1",
    ):
        assert part in text
    starts = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", text, re.MULTILINE)
    assert len(starts) >= 5


def test_one_session_writes_one_log_file(tmp_path):
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        assert logs(tmp_path) == []
        session.map(inverse, [{"a": 1}], name="first")
        session.map(inverse, [{"a": 1}], name="second")
    (log,) = logs(tmp_path)
    assert "first: 1 psets" in log.read_text()
    assert "second: 1 psets" in log.read_text()


def test_the_same_traceback_is_written_once(tmp_path):
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        session.map(inverse, [{"a": 0}] * 5)
    text = logs(tmp_path)[0].read_text()
    assert text.count("Traceback (most recent call last)") == 1
    assert text.count("  traceback 1\n") == 4


def test_out_func_and_stats_are_in_the_log(tmp_path):
    def out_func(user_ret, system_kwargs, user_kwargs):
        raise KeyError("on fire")

    def nonsense(pset, system_kwargs, user_kwargs):
        system_kwargs["raw_stats"]["fit"] = ["long"]

    with paramsurvey.Session(backend="serial", verbose=0) as session:
        session.map(inverse, [{"a": 1}], out_func=out_func)
        session.map(nonsense, [{"a": 1}])
    text = logs(tmp_path)[0].read_text()
    assert "inverse: out_func raised KeyError('on fire')" in text
    assert "in out_func" in text
    assert re.search(r"nonsense: .*'fit'.*no time in seconds", text)
    assert "nonsense: out_func" not in text


def test_log_files_of_the_same_second_have_different_names(tmp_path):
    for _ in range(3):
        survey(verbose=0)
    assert len(logs(tmp_path)) == 3


def test_the_prefix_says_where_the_log_goes(tmp_path):
    (tmp_path / "logs").mkdir()
    survey(verbose=0, pslogger_prefix="logs/mine-")
    assert len(logs(tmp_path, "logs/mine-*.log")) == 1
    assert logs(tmp_path) == []


def test_the_prefix_can_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PARAMSURVEY_PSLOGGER_PREFIX", "outside-")
    survey(verbose=0, pslogger_prefix="inside-")
    assert len(logs(tmp_path, "outside-*.log")) == 1


def test_a_stream_takes_the_log_and_is_left_open(tmp_path):
    stream = io.StringIO()
    survey(verbose=0, pslogger_fd=stream)
    assert "inverse: 4 psets on 1 x serial" in stream.getvalue()
    assert not stream.closed
    assert logs(tmp_path) == []


CANNOT = "paramsurvey: the log file cannot be written, and the survey goes on without it: "


@pytest.mark.parametrize("prefix", ["no/such/folder/x-", "nul\0byte-"])
def test_a_folder_without_room_for_a_log_is_told_once(prefix, capsys):
    with paramsurvey.Session(backend="serial", verbose=1, pslogger_prefix=prefix) as session:
        for _ in range(3):
            assert len(session.map(inverse, [{"a": 0}, {"a": 1}])) == 1
    text = capsys.readouterr().err
    assert text.count(CANNOT) == 1
    assert "(see " not in text


def test_a_read_only_folder_is_told_once(tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert len(survey(verbose=1)) == 3
    finally:
        tmp_path.chmod(0o700)
    assert capsys.readouterr().err.count(CANNOT) == 1


def test_a_removed_folder_costs_nothing(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert len(survey(verbose=1)) == 3
    assert capsys.readouterr().err.count(CANNOT) == 1
    stream = io.StringIO()
    assert len(survey(verbose=1, pslogger_fd=stream)) == 3
    assert "in a folder that was removed" in stream.getvalue()
    monkeypatch.chdir(tmp_path)


def test_a_full_device_is_told_once_and_the_survey_goes_on(capsys):
    full = open("/dev/full", "w")  # noqa: SIM115 - closing it raises
    with paramsurvey.Session(backend="serial", verbose=1, pslogger_fd=full) as session:
        for _ in range(3):
            assert len(session.map(inverse, [{"a": 0}, {"a": 1}])) == 1
    assert capsys.readouterr().err.count(f"{CANNOT}[Errno 28] No space left on device\n") == 1
    _close_full(full)


def test_verbose_0_does_not_even_tell_that(capsys):
    full = open("/dev/full", "w")  # noqa: SIM115 - as above
    assert len(survey(verbose=0, pslogger_fd=full)) == 3
    assert capsys.readouterr().err == ""
    _close_full(full)


def test_nor_does_a_call_with_verbose_0_in_a_session_that_tells_more(capsys, monkeypatch):
    """The default session, for example, which is opened before the call is looked at."""
    monkeypatch.setenv("PARAMSURVEY_VERBOS", "3")
    with paramsurvey.Session(backend="serial", pslogger_prefix="no/such/folder/x-") as session:
        assert len(session.map(inverse, [{"a": 0}, {"a": 1}], verbose=0)) == 1
        assert capsys.readouterr().err == ""


class OnlyWrites:
    """The least that can be given as a stream."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Raises:
    def write(self, text):
        raise RuntimeError("not today")


def test_any_object_that_can_write_may_take_the_log(capsys):
    stream = OnlyWrites()
    survey(verbose=0, pslogger_fd=stream)
    assert "inverse: 4 psets" in stream.text
    assert len(survey(verbose=1, pslogger_fd=Raises())) == 3
    assert capsys.readouterr().err.count(f"{CANNOT}not today\n") == 1
    with pytest.raises(OptionError, match="an open text stream"):
        survey(pslogger_fd=1)


def test_a_closed_stream_is_told_once(capsys):
    stream = io.StringIO()
    stream.close()
    assert len(survey(verbose=1, pslogger_fd=stream)) == 3
    assert capsys.readouterr().err.count(CANNOT) == 1


def test_hostile_psets_are_logged_all_the_same():
    stream = io.StringIO()
    log = LogFile("x", stream)
    for event in EVENTS:
        log.see(event)
    text = stream.getvalue()
    assert "dict(<its repr raises RuntimeError>)" in text
    assert "s: out_func raised KeyError('y')\n  traceback 2:\nTraceback:\n  there" in text
    assert "have come back" not in text


def test_texts_that_are_no_unicode_are_logged_escaped(tmp_path):
    with paramsurvey.Session(backend="serial", verbose=0) as session:
        session.map(inverse, [{"a": "\ud800"}], name="sur\udcffrogate")
    assert "sur\\udcffrogate: 1 psets" in logs(tmp_path)[0].read_text()


def test_progress_is_logged_by_the_clock_and_flushed():
    class Flushed(io.StringIO):
        flushes = 0

        def flush(self):
            self.flushes += 1

    clock = Clock()
    stream = Flushed()
    log = LogFile("x", stream, clock=clock)
    log.see(EVENTS[5])
    log.see(EVENTS[2])
    assert stream.flushes == 0
    clock.now = 1.5
    log.see(EVENTS[5])
    assert stream.flushes == 1
    assert "s: total: 3" not in stream.getvalue()
    clock.now = 30.0
    log.see(EVENTS[5])
    assert stream.getvalue().count("s: total: 3") == 1
    assert stream.flushes == 2
