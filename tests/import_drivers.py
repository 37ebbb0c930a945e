"""Programs whose first import inside paramsurvey is interrupted: `python import_drivers.py WHAT MOMENTS OFFSET`.

This process has imported nothing of it; every program is a fork. Ctrl-C strikes when a certain module is looked for,
whoever imports it: at so many moments, evenly spread, and when numpy's C extension looks for ``datetime``. It prints,
as JSON, how each of those programs has ended, and how it has ended when it was begun again in the same process.
"""

import json
import os
import signal
import sys
from pathlib import Path

STORED = str(Path(__file__).parent / "stored" / "journal-1")


def worker(pset, system_kwargs, user_kwargs):
    return {"b": pset["a"]}


def survey(paramsurvey):
    paramsurvey.map(worker, [{"a": 1}], backend="serial", verbose=0)


def journalled(paramsurvey):
    paramsurvey.map(worker, [{"a": 1}], backend="serial", verbose=0, journal="journal")


def pipeline(paramsurvey):
    rows = paramsurvey.Pipeline().map(worker).product({"k": [1, 2]}).top(1, by="b")
    paramsurvey.run(rows, [{"a": 1}], backend="serial", verbose=0)


def opened(paramsurvey):
    with paramsurvey.open_journal(STORED) as journal:
        journal.results("fails_at_odd")


PROGRAMS = {"survey": survey, "journal": journalled, "pipeline": pipeline, "open_journal": opened}


class Striking:
    """Is asked for every module, finds none, and strikes at one of them: at the n-th, or at that of a name."""

    def __init__(self, moment):
        self.moment = moment
        self.count = 0

    def find_spec(self, name, path=None, target=None):
        self.count += 1
        if self.moment in (self.count, name):
            self.moment = None
            signal.raise_signal(signal.SIGINT)


def ended(call, *arguments):
    """Call a function; return how that has ended."""
    try:
        call(*arguments)
    except BaseException as exc:
        return type(exc).__name__
    return "well"


def program(what, moment):
    """Run a program in a process of its own; return how it has ended both times, and how many modules it looked for."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        import paramsurvey

        signal.signal(signal.SIGINT, signal.default_int_handler)
        striking = Striking(moment)
        sys.meta_path.insert(0, striking)
        found = [ended(PROGRAMS[what], paramsurvey) for _ in range(2)]
        os.write(theirs, json.dumps([*found, striking.count]).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        first, second, count = json.load(file)
    os.waitpid(pid, 0)
    return first, second, count


def main():
    what, wanted, offset = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    *found, count = program(what, None)
    assert found == ["well", "well"], found
    step = count // wanted
    moments = ["datetime", *range(1 + offset % step, count + 1, step)]
    json.dump({moment: program(what, moment)[:2] for moment in moments}, sys.stdout)


if __name__ == "__main__":
    main()
