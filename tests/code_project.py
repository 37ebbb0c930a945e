"""A small project of three modules whose worker's code is printed, and edits of it: run as a program, prints them all.

``python code_project.py KIND`` reads ``{name: {file: text}}`` from standard input and writes ``{name: print}``. KIND
says where the worker lives, which is in the first file: in a ``module``, in ``main`` (a script), or in a notebook
``cell``.
"""

import ast
import importlib
import json
import linecache
import runpy
import sys
import tempfile
from pathlib import Path

from paramsurvey.codeprint.print import code_print

SURVEY = '''
import functools
import math

import numpy as np

import tools
from tools import Star

G = 6.674  # of whatever
LIMITS = {"near": 1, "far": {2, 3, 5}}
WEIGHTS = np.arange(3.0)


def timed(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        answer = func(*args, **kwargs)
        return answer
    return wrapper


def adder(k):
    """Make a closure."""
    def inner(x):
        return x + k
    return inner


add = adder(3)
STEPS = [tools.first, tools.second]


def unrelated(x):
    return x - 1


@timed
def worker(pset, system_kwargs, user_kwargs, scale=2.0):
    """Compute."""
    x = add(tools.brighter(pset["x"])) * G * scale
    x += LIMITS["near"] + WEIGHTS.sum() + math.pi
    for step in STEPS:
        x = step(x)
    return {"x": x, "flux": Star(x).flux()}
'''

TOOLS = """
import deeper as below
from deeper import Body


def brighter(x):
    return below.lift(x) * 2


def first(x):
    return x


def second(x):
    return -x


def not_used(x):
    return x


class Star(Body):
    colour = "red"

    def __init__(self, mass):
        self.mass = mass

    def flux(self):
        return self.mass ** 3.5
"""

DEEPER = """
OFFSET = 1


def lift(x):
    return lift(x - 1) if x > 100 else x + OFFSET


class Body:
    def weight(self):
        return 1
"""

PROJECT = {"survey.py": SURVEY, "tools.py": TOOLS, "deeper.py": DEEPER}


def worker_of(kind, folder, file):
    """Run the project as somebody would, and return its worker."""
    path = folder / file
    if kind == "module":
        return importlib.import_module(module_in(file)).worker
    if kind == "main":
        return runpy.run_path(str(path), run_name="__main__")["worker"]
    text, name = path.read_text(), f"/tmp/ipykernel_{id(folder)}/1.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # as IPython does
    namespace = {"__name__": "__main__"}
    for statement in ast.parse(text).body:
        exec(compile(ast.Module([statement], []), name, "exec"), namespace)
    return namespace["worker"]


def module_in(file):
    return file.removesuffix(".py").replace("/", ".")


def printed(kind, files):
    """Return the print of the worker of a version of the project."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            found = code_print(worker_of(kind, folder, next(iter(files))))
        finally:
            sys.path.remove(str(folder))
            for file in files:
                sys.modules.pop(module_in(file), None)
                sys.modules.pop(module_in(file).partition(".")[0], None)
    return {
        "digest": found.digest,
        "parts": dict(found.parts),
        "labels": dict(found.labels),
        "libraries": dict(found.libraries),
        "not_covered": list(found.not_covered),
    }


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    versions = json.load(sys.stdin)
    json.dump({name: printed(sys.argv[1], files) for name, files in versions.items()}, sys.stdout)
