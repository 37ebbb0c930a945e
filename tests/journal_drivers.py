"""Runs surveys with a journal in processes that are killed: `python journal_drivers.py FOLDER BACKEND WHAT KILLS SEED`.

This process has imported everything; every driver is a fork of it, so that one more costs milliseconds. It prints, as
JSON, what became of each survey, and stays away from threads, which would not survive the forks.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from journal_workers import noted_coverage, noted_half, noted_square

import paramsurvey
import paramsurvey.journal.ledger
import paramsurvey.runs.run
import paramsurvey.sieve
from paramsurvey import Pipeline
from paramsurvey.journal.format import HEAD_BYTES, Damage, Kind, Rows, Torn, records

INTERRUPTED = 3
"""How a driver ends that Ctrl-C or SIGTERM has ended."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class Nowhere:
    def write(self, text):
        pass


def two_stages(session, user_kwargs, journal):
    pipeline = Pipeline().map(noted_square).product({"k": [1, 2]}).map(noted_half)
    options = {"user_kwargs": user_kwargs, "journal": journal, "group_size": 1}
    return session.run(pipeline, [{"n": n} for n in range(10)], **options).results.to_dict("records")


def greedy(session, user_kwargs, journal):
    names = ["abc", "cde", "efg", "ghi", "axy", "bcd"]
    options = {"user_kwargs": user_kwargs, "journal": journal, "group_size": 1}
    best = session.greedy(noted_coverage, names, picks=4, **options)
    return {"keys": best.keys, "value": best.value}


LATER = (
    "pandas.core.methods.to_dict",
    "paramsurvey.backends.serial",
    "paramsurvey.greedy_results",
    "paramsurvey.params",
)
LATER += (
    "paramsurvey.observers.logfile",
    "paramsurvey.observers.terminal",
    "paramsurvey.requests",
    "paramsurvey.results",
    "paramsurvey.runs.outcome",
    "paramsurvey.session",
)
LATER += tuple(f"paramsurvey.stages.{name}" for name in ("map", "rows", "greedy", "greedy_beyond", "greedy_noise"))
for _name in LATER:  # a survey imports them when it needs them, and an interrupt may break an import off
    importlib.import_module(_name)

SURVEYS = {"two_stages": two_stages, "greedy": greedy}


def drive(what, backend, journal, calls, answer, begun):
    """Run a survey to its end in a process of its own, unless something ends it."""
    with paramsurvey.Session(backend=backend, ncores=2, verbose=0, pslogger_fd=Nowhere()) as session:
        os.write(begun, b"x")
        found = SURVEYS[what](session, {"calls": str(calls), "seconds": 0.001}, str(journal))
    aside = answer.with_suffix(".part")
    aside.write_text(json.dumps(found))
    aside.rename(answer)


def fork(what, backend, journal, calls, answer):
    """Start a driver; return its process id when it has begun."""
    begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(begun[0])
            signal.signal(signal.SIGINT, signal.default_int_handler)
            drive(what, backend, journal, calls, answer, begun[1])
            status = 0
        except (KeyboardInterrupt, paramsurvey.errors.Terminated):
            status = INTERRUPTED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(begun[1])
    os.read(begun[0], 1)
    os.close(begun[0])
    return pid


def rows_in(journal):
    """Return the rows in a journal, each as often as it is there."""
    data = journal.read_bytes() if journal.exists() else b""
    found, stages = [], {}
    for each in records(lambda offset, size: data[offset : offset + size], HEAD_BYTES, len(data)):
        assert not isinstance(each, Damage), each
        if isinstance(each, Rows):
            found += [(stages[number], each.keys[16 * row : 16 * row + 16]) for row, number in enumerate(each.numbers)]
        elif not isinstance(each, Torn) and each[0].kind == Kind.SHAPE:
            stages[each[0].number] = each[0].stage
        elif not isinstance(each, Torn) and each[0].kind == Kind.ROWS:
            found += [(each[0].stage, each[1][16 * row : 16 * row + 16]) for row in range(each[0].rows)]
    return found


def adopt_orphans():
    """Become the parent of what a driver that is killed leaves behind, so that its end can be waited for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def wait_for_orphans():
    """Return when no process of a driver is left: until then a worker may say that it was called."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def survey_with_kills(folder, what, backend, rng, seconds):
    """Run a survey again and again until nothing ends it before its time; return what became of it, kill by kill.

    Of each kill: how many calls were ``open`` before it, begun and not recorded; how many more are ``lost`` since; and
    how many were made ``again`` by the driver that it has ended.
    """
    folder.mkdir()
    journal, calls, answer = folder / "journal", folder / "calls", folder / "answer"
    kills, known, called = [], set(), []
    while not answer.exists():
        open_calls = len(set(called)) - len(known)
        pid = fork(what, backend, journal, calls, answer)
        time.sleep(rng.uniform(0, seconds))
        how = SIGNALS[len(kills) % len(SIGNALS)]
        os.kill(pid, how)  # which does nothing to one that has ended and was not waited for
        _, status = os.waitpid(pid, 0)
        ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        assert ended in (0, -how, INTERRUPTED), f"{how} ended it with {ended}"
        wait_for_orphans()
        rows = rows_in(journal)
        assert len(rows) == len(set(rows)), "a row was recorded twice"
        assert known <= set(rows), "a row was lost"
        lines = calls.read_text().splitlines() if calls.exists() else []
        fresh = lines[len(called) :]
        kills.append(
            {
                "again": len(set(fresh) & set(called)) + len(fresh) - len(set(fresh)),
                "open": open_calls,
                "lost": len(set(lines)) - len(set(rows)) - open_calls,
            }
        )
        known, called = set(rows), lines
    return {
        "kills": kills,
        "answer": json.loads(answer.read_text()),
        "recorded": len(known),
        "calls": len(set(called)),
    }


def main():
    folder, backend, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    adopt_orphans()
    wanted, rng = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    for name in ("first", "whole"):  # the first takes longer
        began = time.monotonic()
        os.waitpid(fork(what, backend, folder / name, folder / "calls", folder / "answer"), 0)
    seconds = time.monotonic() - began
    whole = json.loads((folder / "answer").read_text())
    surveys, kills = [], 0
    while kills < wanted:
        surveys.append(survey_with_kills(folder / str(len(surveys)), what, backend, rng, seconds))
        kills += len(surveys[-1]["kills"])
    print(json.dumps({"whole": whole, "surveys": surveys, "seconds": seconds}))


if __name__ == "__main__":
    main()
