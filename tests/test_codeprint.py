"""The print of a worker's code: it changes when an answer might, and only then."""

import contextlib
import functools
import importlib.util
import json
import linecache
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import code_project
import numpy as np
import pandas as pd
import pytest
from code_project import PROJECT, module_in

import paramsurvey
from paramsurvey import workers
from paramsurvey.codeprint.print import CodePrint, code_print
from paramsurvey.codeprint.walk import Walk
from paramsurvey.journal import prints as prints_of_stages
from paramsurvey.options import Options

CONTENT = Walk._content
KINDS = ("module", "main", "cell")

SAME = {
    "comment": ("survey.py", "G = 6.674  # of whatever", "G = 6.674  # the constant of gravity"),
    "comment in the body": ("survey.py", "    x = add(", "    # brighter\n    x = add("),
    "docstring": ("survey.py", '"""Compute."""', '"""Compute all that there is."""'),
    "docstring gone": ("survey.py", '    """Compute."""\n', ""),
    "docstring of a helper": ("tools.py", "    return below", '    """Say."""\n    return below'),
    "docstring of a class": ("tools.py", '    colour = "red"', '    """Say."""\n\n    colour = "red"'),
    "whitespace": ("survey.py", 'x = add(tools.brighter(pset["x"])) * G', 'x = add( tools.brighter(pset["x"]) )*G'),
    "broken lines": (
        "survey.py",
        'x = add(tools.brighter(pset["x"])) * G * scale',
        'x = (\n    add(tools.brighter(pset["x"]))\n    * G * scale)',
    ),
    "blank lines": ("survey.py", "    for step", "\n\n    for step"),
    "quotes": ("survey.py", 'pset["x"]', "pset['x']"),
    "moved lines": ("survey.py", "import functools\n", "\n\n\n\nimport functools\n"),
    "moved function": (
        "deeper.py",
        PROJECT["deeper.py"],
        "\n".join(
            ["class Body:" + PROJECT["deeper.py"].split("class Body:")[1], PROJECT["deeper.py"].split("class")[0]]
        ),
    ),
    "unrelated function": ("survey.py", "return x - 1", "return x - 2"),
    "unrelated function in a helper's module": (
        "tools.py",
        "def not_used(x):\n    return x",
        "def not_used(x):\n    return 1",
    ),
    "new function": ("tools.py", "def not_used", "def another():\n    pass\n\n\ndef not_used"),
    "library import": ("survey.py", "import math\n", "import json\nimport math\nimport pandas as pd\n"),
    "order of a set": ("survey.py", "{2, 3, 5}", "{5, 2, 3}"),
}
"""Edits that change no answer."""

DIFFERENT = {
    "worker body": ("survey.py", "* G * scale", "* G / scale", "worker survey.worker"),
    "helper body": ("tools.py", "below.lift(x) * 2", "below.lift(x) * 3", "function tools.brighter"),
    "helper's helper in another module": ("deeper.py", "else x + OFFSET", "else x - OFFSET", "function deeper.lift"),
    "helper in a list": ("tools.py", "return -x", "return 2 * x", "function tools.second"),
    "list of helpers": (
        "survey.py",
        "[tools.first, tools.second]",
        "[tools.second, tools.first]",
        "constant survey.STEPS",
    ),
    "global constant": ("survey.py", "G = 6.674", "G = 6.675", "constant survey.G"),
    "type of a constant": ("deeper.py", "OFFSET = 1", "OFFSET = 1.0", "constant deeper.OFFSET"),
    "value in a dict": ("survey.py", '"near": 1', '"near": 4', "constant survey.LIMITS"),
    "set in a dict": ("survey.py", "{2, 3, 5}", "{2, 3, 7}", "constant survey.LIMITS"),
    "array": ("survey.py", "np.arange(3.0)", "np.arange(4.0)", "constant survey.WEIGHTS"),
    "default argument": ("survey.py", "scale=2.0", "scale=3.0", "default scale of survey.worker"),
    "closure value": ("survey.py", "adder(3)", "adder(4)", "closure value k of survey.adder.<locals>.inner"),
    "closure body": ("survey.py", "return x + k", "return x - k", "function survey.adder.<locals>.inner"),
    "method of a class": ("tools.py", "self.mass ** 3.5", "self.mass ** 3", "function tools.Star.flux"),
    "attribute of a class": ("tools.py", '"red"', '"blue"', "class tools.Star"),
    "base class": ("deeper.py", "return 1", "return 2", "function deeper.Body.weight"),
    "decorator": (
        "survey.py",
        "        return answer",
        "        return answer | {}",
        "decorator survey.timed.<locals>.wrapper of worker",
    ),
    "no decorator": ("survey.py", "@timed\n", "", "decorator survey.timed.<locals>.wrapper of worker"),
}
"""Edits that may change answers, with what is named as the reason."""


def edited(file, old, new):
    assert old in PROJECT[file]
    return {**PROJECT, file: PROJECT[file].replace(old, new)}


SURVEY, TOOLS, DEEPER = PROJECT["survey.py"], PROJECT["tools.py"], PROJECT["deeper.py"]
FIRST = "def first(x):\n    return x\n"
assert FIRST in TOOLS

MOVED = {
    "script renamed": {"analysis.py": SURVEY, "tools.py": TOOLS, "deeper.py": DEEPER},
    "script in another folder": {"work/of/today.py": SURVEY, "tools.py": TOOLS, "deeper.py": DEEPER},
    "helper module renamed": {
        "survey.py": SURVEY.replace("import tools", "import instruments as tools").replace(
            "from tools", "from instruments"
        ),
        "instruments.py": TOOLS,
        "deeper.py": DEEPER,
    },
    "modules made a package": {
        "survey.py": SURVEY.replace("import tools", "from project import tools").replace(
            "from tools", "from project.tools"
        ),
        "project/tools.py": TOOLS.replace("import deeper as", "from project import deeper as").replace(
            "from deeper", "from project.deeper"
        ),
        "project/deeper.py": DEEPER,
    },
    "helper moved to another module": {
        "survey.py": SURVEY.replace("tools.first, tools", "deeper.first, tools").replace(
            "import tools", "import deeper, tools"
        ),
        "tools.py": TOOLS.replace(FIRST, ""),
        "deeper.py": DEEPER + FIRST,
    },
    "everything renamed": {
        "a.py": SURVEY.replace("import tools", "import b as tools").replace("from tools", "from b"),
        "b.py": TOOLS.replace("import deeper", "import c").replace("from deeper", "from c"),
        "c.py": DEEPER,
    },
}
"""Where the code is, and how its files are called, is nothing that it says."""

USES = "def worker(pset, system_kwargs, user_kwargs):\n    return {"
TWO = "def f(x):\n    return x + G\nG = 1\ndef g(x):\n    return x * 2\n"

REBOUND = {
    "two names swapped": (
        {"survey.py": f"from two import f as one, g as other\n{USES}'y': one(1) - other(1)}}", "two.py": TWO},
        {"survey.py": f"from two import g as one, f as other\n{USES}'y': one(1) - other(1)}}", "two.py": TWO},
        "name survey.one changed",
    ),
    "another function of a library": (
        {"survey.py": f"from math import sin as f\n{USES}'y': f(1)}}"},
        {"survey.py": f"from math import cos as f\n{USES}'y': f(1)}}"},
        "name survey.f changed",
    ),
    "the function of that name of another library": (
        {"survey.py": f"from math import sin\n{USES}'y': sin(1)}}"},
        {"survey.py": f"from cmath import sin\n{USES}'y': sin(1)}}"},
        "name survey.sin changed",
    ),
    "another library": (
        {"survey.py": f"import math as m\n{USES}'y': m.sin(1)}}"},
        {"survey.py": f"import cmath as m\n{USES}'y': m.sin(1)}}"},
        "name survey.m changed",
    ),
    "a helper in the place of a library's": (
        {"survey.py": f"from math import sin\n{USES}'y': sin(1)}}", "own.py": "def sin(x):\n    return x\n"},
        {"survey.py": f"from own import sin\n{USES}'y': sin(1)}}", "own.py": "def sin(x):\n    return x\n"},
        "function own.sin is new",
    ),
    "helpers of one name swapped": (
        {"survey.py": f"import a, b\n{USES}'y': a.f(b.f(1))}}", "a.py": TWO, "b.py": TWO.replace("x + G", "x - G")},
        {"survey.py": f"import a, b\n{USES}'y': a.f(b.f(1))}}", "a.py": TWO.replace("x + G", "x - G"), "b.py": TWO},
        "function a.f changed",
    ),
    "modules swapped": (
        {"survey.py": f"import a, b\n{USES}'y': a.f(b.f(1))}}", "a.py": TWO, "b.py": TWO.replace("x + G", "x - G")},
        {
            "survey.py": f"import a as b, b as a\n{USES}'y': a.f(b.f(1))}}",
            "a.py": TWO,
            "b.py": TWO.replace("x + G", "x - G"),
        },
        "function b.f changed",
    ),
    "constants of one name swapped": (
        {"survey.py": f"import a, b\n{USES}'y': a.f(b.f(1))}}", "a.py": TWO, "b.py": TWO.replace("G = 1", "G = 2")},
        {"survey.py": f"import a, b\n{USES}'y': a.f(b.f(1))}}", "a.py": TWO.replace("G = 1", "G = 2"), "b.py": TWO},
        "constant a.G changed",
    ),
    "another base class of that name": (
        {
            "survey.py": f"from a import A\n{USES}'y': A().f()}}",
            "a.py": "from b import B\nclass A(B):\n    pass\n",
            "b.py": "class B:\n    def f(self):\n        return 1\n",
            "c.py": "class B:\n    def f(self):\n        return 2\n",
        },
        {
            "survey.py": f"from a import A\n{USES}'y': A().f()}}",
            "a.py": "from c import B\nclass A(B):\n    pass\n",
            "b.py": "class B:\n    def f(self):\n        return 1\n",
            "c.py": "class B:\n    def f(self):\n        return 2\n",
        },
        "function c.B.f changed",
    ),
}
for what, before, after, use in (
    ("function of numpy", "import numpy as np\nf = np.sin", "import numpy as np\nf = np.cos", "f(1)"),
    ("builtin", "f = min", "f = max", "f(1, 2)"),
    ("class", "f = int", "f = float", "f(1)"),
    ("name of a library's function", "import math\nf = math.sin", "import math\nf = math.cos", "f(1)"),
    ("pattern", "import re\nf = re.compile('a')", "import re\nf = re.compile('b')", "f.match('a')"),
    ("flags of a pattern", "import re\nf = re.compile('a')", "import re\nf = re.compile('a', re.I)", "f.match('a')"),
    ("seed", "import random\nf = random.Random(1)", "import random\nf = random.Random(2)", "f.random()"),
    (
        "seed of numpy",
        "import numpy as np\nf = np.random.default_rng(1)",
        "import numpy as np\nf = np.random.default_rng(2)",
        "f.random()",
    ),
    (
        "old seed of numpy",
        "import numpy as np\nf = np.random.RandomState(1)",
        "import numpy as np\nf = np.random.RandomState(2)",
        "f.rand()",
    ),
    ("bound method", "f = {'a': 1}.get", "f = {'a': 2}.get", "f('a')"),
    ("view of a dict", "f = {1: 0}.keys()", "f = {2: 0}.keys()", "list(f)"),
    ("values of a dict", "f = {1: 0}.values()", "f = {1: 1}.values()", "list(f)"),
    ("items of a dict", "f = {1: 0}.items()", "f = {1: 1}.items()", "list(f)"),
    ("many numbers", "f = list(range(5000))", "f = [*range(4999), 0]", "f[-1]"),
    ("type among many numbers", "f = list(range(5000))", "f = [*range(4999), 4999.0]", "f[-1]"),
    ("many items", "f = dict.fromkeys(range(5000))", "f = dict.fromkeys(range(5000), 1)", "f[0]"),
    ("large array", "import numpy as np\nf = np.zeros(99999)", "import numpy as np\nf = np.ones(99999)", "f[0]"),
):
    REBOUND[what] = (
        {"survey.py": f"{before}\n{USES}'y': {use}}}"},
        {"survey.py": f"{after}\n{USES}'y': {use}}}"},
        "survey.f changed",
    )
DISPATCHED = (
    "import functools\n@functools.singledispatch\ndef f(n):\n    return 0\n@f.register\ndef _(n: int):\n    return "
)
REBOUND["function registered for a type"] = (
    {"survey.py": f"from b import f\n{USES}'y': f(1)}}", "b.py": f"{DISPATCHED}1\n"},
    {"survey.py": f"from b import f\n{USES}'y': f(1)}}", "b.py": f"{DISPATCHED}2\n"},
    "function b._ changed",
)
"""What a name stands for has changed, and not one line of what it stood for, or will stand for."""

VERSIONS = {"as it is": PROJECT} | {name: edited(*edit[:3]) for name, edit in (SAME | DIFFERENT).items()}
VERSIONS |= MOVED
VERSIONS |= {
    f"{name}, {when}": edit[at] for name, edit in REBOUND.items() for at, when in enumerate(("before", "after"))
}


@functools.cache
def prints(kind, hash_seed="0"):
    """Print all versions of the project in one fresh process."""
    done = subprocess.run(
        [sys.executable, code_project.__file__, kind],
        input=json.dumps(VERSIONS),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {
        name: (CodePrint(each["parts"], each["libraries"], tuple(each["not_covered"]), each["labels"]), each["digest"])
        for name, each in found.items()
    }


def stages(*codes):
    """Return the prints of a stage that has these codes, one after the other."""
    return [prints_of_stages.stage_print("stage", None, code, Options()) for code in codes]


def changes(before, after):
    """Say of what a user would read that it has changed."""
    return prints_of_stages.changes(*stages(before, after))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", SAME)
def test_what_changes_no_answer_does_not_change_the_print(kind, edit):
    before, after = prints(kind)["as it is"][0], prints(kind)[edit][0]
    assert changes(before, after) == []
    assert before.digest == after.digest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", DIFFERENT)
def test_what_may_change_an_answer_changes_the_print_and_is_named(kind, edit):
    before, after = prints(kind)["as it is"][0], prints(kind)[edit][0]
    assert before.digest != after.digest
    reason = DIFFERENT[edit][3].replace("survey.", "survey." if kind == "module" else "code_project.")
    assert any(reason in each for each in changes(before, after)), changes(before, after)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("move", MOVED)
def test_where_code_is_and_how_its_files_are_called_does_not_change_the_print(kind, move):
    before, after = prints(kind)["as it is"][0], prints(kind)[move][0]
    assert changes(before, after) == []
    assert before.digest == after.digest
    labels = {label.rpartition(".")[0].rpartition(" ")[2] for label in after.labels.values()}
    assert kind != "module" or {module_in(file) for file in MOVED[move]} <= labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", REBOUND)
def test_what_names_stand_for_changes_the_print_and_is_named(kind, edit):
    before, after = (prints(kind)[f"{edit}, {when}"][0] for when in ("before", "after"))
    assert before.digest != after.digest
    reason = REBOUND[edit][2].replace("survey.", "survey." if kind == "module" else "code_project.")
    assert any(each.endswith(reason) for each in changes(before, after)), changes(before, after)


def test_a_module_that_asks_for_its_name_depends_on_it_and_a_logger_that_has_it_does_not(tmp_path):
    text = "import logging\nLOG = logging.getLogger(__name__)\n"
    logs = text + f"{USES}'y': LOG.info('here')}}\n"
    asks = text + f"{USES}'y': __name__}}\n"
    found = {}
    for name in ("one", "other"):
        for what, code in (("logs", logs), ("asks", asks)):
            (tmp_path / f"{what}_{name}.py").write_text(code)
            show = f"from {what}_{name} import worker\nfrom paramsurvey.codeprint.print import code_print\n"
            found[what, name] = run("-c", f"{show}print(code_print(worker).digest)", folder=tmp_path)
    assert found["logs", "one"] == found["logs", "other"]
    assert found["asks", "one"] != found["asks", "other"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_print_is_the_same_in_another_process_with_other_hashes(kind):
    assert prints(kind, "0") == prints(kind, "12345")


def run(*command, folder, text=""):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOW = "\nfrom paramsurvey.codeprint.print import code_print\nprint(code_print(worker).digest)\n"


@pytest.fixture
def project(tmp_path):
    for file, text in PROJECT.items():
        (tmp_path / file).write_text(text)
    return tmp_path


def test_a_script_has_the_print_of_the_module_that_it_is(project):
    (project / "survey.py").write_text(
        PROJECT["survey.py"] + "\nif __name__ == '__main__':\n" + SHOW.replace("\n", "\n    ")
    )
    assert run("survey.py", folder=project) == run("-c", "from survey import worker\n" + SHOW, folder=project)


def test_a_script_on_standard_input_has_a_print_that_comments_do_not_change(project):
    def printed(text):
        return run("-", folder=project, text=text + SHOW)

    before = printed(PROJECT["survey.py"])
    for edit in (
        "comment",
        "comment in the body",
        "docstring",
        "docstring gone",
        "moved lines",
        "whitespace",
        "broken lines",
    ):
        assert printed(VERSIONS[edit]["survey.py"]) == before, edit
    assert printed(VERSIONS["worker body"]["survey.py"]) != before
    told = run("-", folder=project, text=PROJECT["survey.py"] + SHOW.replace("digest", "not_covered"))
    assert told.startswith("('the source in <stdin>: it was not found, or is not what runs; the bytecode counts")


# In this process


def helper(x):
    return x + 1


def worker(pset, system_kwargs, user_kwargs):
    return {"y": helper(pset["x"])}


def names(found):
    return list(found.labels.values())


@attrs.define
class Scaled:
    factor: float

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {"y": helper(pset["x"]) * self.factor}

    def method(self, pset, system_kwargs, user_kwargs):
        return {"y": self.factor}


def test_a_callable_object_is_its_class_and_its_state():
    one, other = code_print(Scaled(1.0)), code_print(Scaled(2.0))
    assert changes(one, other) == ["worker test_codeprint.Scaled changed"]
    assert "function test_codeprint.helper" in names(one)
    assert code_print(Scaled(1.0)) == one


def test_a_bound_method_is_its_function_and_its_object():
    assert changes(code_print(Scaled(1.0).method), code_print(Scaled(2.0).method)) == [
        "worker method of test_codeprint.Scaled changed"
    ]


def test_a_partial_is_its_function_and_each_of_its_arguments():
    def of(k, factor):
        return code_print(functools.partial(with_two, k, factor=factor))

    assert "function test_codeprint.helper" in names(of(1, 1))
    assert any(each.startswith("argument 1 of partial of with_two") for each in changes(of(1, 1), of(2, 1)))
    assert any(each.startswith("argument factor of partial of with_two") for each in changes(of(1, 1), of(1, 2)))


def with_two(k, pset, system_kwargs, user_kwargs, factor):
    return {"y": helper(k) * factor}


def test_adapters_are_what_they_adapt():
    one = code_print(workers.keywords(lambda x: helper(x), output="y"))
    assert "function test_codeprint.helper" in names(one)
    assert one.digest != code_print(workers.keywords(lambda x: helper(x), output="z")).digest
    assert one.digest != code_print(workers.keywords(lambda x: helper(x + 1), output="y")).digest
    lines = [code_print(workers.command(["echo", text])).digest for text in ("{a}", "{a}", "{b}")]
    assert lines[0] == lines[1] != lines[2]


def test_two_lambdas_in_one_line_are_told_apart():
    pair = [lambda pset, system, user: {"y": pset["x"] + 1}, lambda pset, system, user: {"y": pset["x"] + 2}]
    assert code_print(pair[0]).digest != code_print(pair[1]).digest


def test_what_a_function_imports_itself_is_reached(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    inside = (
        "def worker(pset, system, user):\n"
        "    import deeper\n    import deeper as d\n    from tools import first as f, Star\n    import json\n"
        "    return {'y': deeper.lift(1) + d.OFFSET + f(2)}\n"
    )
    (project / "late.py").write_text(inside)
    import late

    found = code_print(late.worker)
    assert set(names(found)) == {
        *("worker late.worker", "function deeper.lift", "constant deeper.OFFSET", "function tools.first"),
        *("class tools.Star", "class deeper.Body", "function deeper.Body.weight"),
        *("function tools.Star.__init__", "function tools.Star.flux"),
    }
    for name in ("late", "tools", "deeper"):
        del sys.modules[name]


def test_a_module_that_is_not_here_is_named():
    def worker(pset, system, user):
        import not_to_be_found

        return {"y": not_to_be_found.f()}

    assert [each for each in code_print(worker).not_covered if "module not_to_be_found, imported in" in each]


def test_a_module_that_is_passed_around_is_reached_whole(monkeypatch):
    monkeypatch.setitem(WHOLE, "module", code_project)
    assert "function code_project.printed" in names(code_print(looks_up))


WHOLE = {"module": None}


def looks_up(pset, system, user):
    return {"y": getattr(WHOLE["module"], pset["name"])}


def power_of(exponent):
    def power(x):
        return x**exponent

    return power


def calls_what_it_is_given(pset, system, user):
    return {"y": user["f"](pset["x"])}


def test_the_code_in_user_kwargs_is_the_workers():
    def print_of(**user_kwargs):
        return code_print(calls_what_it_is_given, user_kwargs)

    plain = code_print(calls_what_it_is_given)
    assert print_of(f=1, g=[np.arange(3), pd.Series([1]), "text"]) == plain  # values are not its affair
    for given in (ping, [{"a": ping}], functools.partial(ping), np.array([ping], object)):
        assert {"function test_codeprint.ping", "function test_codeprint.pong"} <= set(names(print_of(f=given)))
    for given in (Scaled(2.0), Scaled(2.0).method, Scaled):
        assert "class test_codeprint.Scaled" in names(print_of(f=given))
    square, cube = power_of(2), power_of(3)
    assert print_of(f=square) == print_of(f=power_of(2))
    assert print_of(f=square).digest != print_of(f=cube).digest
    assert print_of(f=square, g=cube).digest != print_of(f=cube, g=square).digest
    both = (code_print(lambda p, s, u: (square(1), cube(1)), {"f": each}) for each in (square, cube))
    assert len({each.parts["code in user_kwargs['f']"] for each in both}) == 2  # although both are reached anyway


LOCK = threading.Lock()
RANDOM = np.random.default_rng(1)


def unprintable(pset, system, user):
    with LOCK:
        return {"y": RANDOM.random()}


def test_what_cannot_be_compared_is_named_and_does_not_change_the_print():
    before = code_print(unprintable)
    assert before.not_covered == (
        "the lock in constant test_codeprint.LOCK: TypeError: cannot pickle '_thread.lock' object",
    )
    assert code_print(unprintable) == before
    RANDOM.random()
    assert changes(before, code_print(unprintable)) == ["constant test_codeprint.RANDOM changed"]


UNSEEDED = np.random.default_rng()


def uses_the_unseeded(pset, system, user):
    return {"y": UNSEEDED.random()}


def test_a_generator_without_a_seed_is_named_and_does_not_make_rows_new_in_every_program(monkeypatch):
    before = code_print(uses_the_unseeded)
    monkeypatch.setitem(uses_the_unseeded.__globals__, "UNSEEDED", np.random.default_rng())
    assert code_print(uses_the_unseeded) == before
    (text,) = before.not_covered
    assert text.endswith(
        "in constant test_codeprint.UNSEEDED: it was not seeded, and so is another one in every program"
    )


def test_an_open_file_is_named(tmp_path):
    with open(tmp_path / "log", "w") as file:
        found = code_print(lambda pset, system, user: file.write("x"))
    (text,) = found.not_covered
    assert text.startswith("the TextIOWrapper in closure value file of ")


def finds_by_eval(pset, system, user):
    return {"y": eval(pset["expression"])}


def finds_by_import(pset, system, user):
    return {"y": importlib.import_module(pset["module"])}


def names_an_eval(pset, system, user):
    return {"y": pd.DataFrame(pset).eval("a + b")}


def test_what_is_found_only_when_it_runs_is_named():
    assert code_print(finds_by_eval).not_covered == (
        "what eval() finds in test_codeprint.finds_by_eval: it is known only when it runs",
    )
    assert code_print(finds_by_import).not_covered == (
        "what import_module() finds in test_codeprint.finds_by_import: it is known only when it runs",
    )
    assert code_print(names_an_eval).not_covered == ()


@pytest.mark.parametrize(
    "text",
    [
        "from users import _json\ndef worker(p, s, u):\n    return {'y': _json.scanstring(p['x'], 1)}\n",
        "from users._json import scanstring\ndef worker(p, s, u):\n    return {'y': scanstring(p['x'], 1)}\n",
        "def worker(p, s, u):\n    from users._json import scanstring\n    return {'y': scanstring(p['x'], 1)}\n",
    ],
    ids=["by its module", "by its name", "inside"],
)
def test_a_c_extension_of_the_users_own_is_named(tmp_path, text):
    compiled = importlib.util.find_spec("_json").origin
    (tmp_path / "users").mkdir()
    shutil.copy(compiled, tmp_path / "users")
    (tmp_path / "late.py").write_text(text)
    show = "from late import worker\nfrom paramsurvey.codeprint.print import code_print\n"
    show += "print(*code_print(worker).not_covered)"
    told = run("-c", show, folder=tmp_path)
    assert told == "the C extension users._json: its code cannot be read (depends= takes the module)\n"


def test_the_library_of_a_compiled_function_is_noted():
    found = code_print(lambda pset, system, user: {"y": compiled_function(pset["x"])})
    assert "numpy" in found.libraries
    assert found.not_covered == ()


compiled_function = np.dot


def counting(data):
    return lambda pset, system, user: {"y": len(data)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (np.float32(1), np.float64(1)),
        (np.arange(3), np.arange(3.0)),
        (np.array(["a", 1], object), np.array(["a", 2], object)),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
        (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"b": ["x"]})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1], (1,)),
        (helper, worker),
        (range(3), range(4)),
        (Path("a"), Path("b")),
        (helper.__name__.upper, helper.__name__.lower),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],  # the same in every process
)
def test_constants_of_another_type_or_content_differ(one, other):
    assert code_print(counting(one)).digest == code_print(counting(one)).digest
    assert code_print(counting(one)).digest != code_print(counting(other)).digest


def test_frames_and_objects_have_the_same_print_in_every_process(project):
    (project / "data.py").write_text(
        "import pandas as pd, enum, dataclasses, attrs, fractions\n"
        "class Kind(enum.Enum):\n    A = 1\n    B = 2\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int = 0\n    tags: frozenset = frozenset({'a', 'b', 'c'})\n"
        "@attrs.frozen\nclass Circle:\n    r: float = 1.0\n"
        "FRAME = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y'], 'c': [1.5, None]}, index=['p', 'q'])\n"
        "SERIES = FRAME['a']\n"
        "THINGS = {Kind.A: Point(1), 'c': Circle(), 'f': fractions.Fraction(1, 3), 's': {Kind.A, Kind.B}}\n"
        "def worker(pset, system, user):\n    return {'y': len(FRAME), 'z': SERIES.sum(), 't': len(THINGS)}\n"
    )
    show = (
        "from data import worker\nfrom paramsurvey.codeprint.print import code_print\n"
        "p = code_print(worker)\nprint(sorted(p.parts.items()), p.not_covered, sorted(p.libraries))"
    )
    done = [run("-c", f"import random\n{show}", folder=project) for _ in range(2)]
    assert done[0] == done[1]
    assert "class Kind" in done[0]
    assert "class Point" in done[0]
    assert done[0].endswith("() ['Python', 'attrs', 'pandas']\n")


def test_a_thing_that_holds_itself_has_a_print():
    data = []
    data.append(data)
    assert code_print(counting(data)).digest == code_print(counting(data)).digest


def test_functions_that_call_each_other_have_a_print():
    assert names(code_print(ping)) == ["worker test_codeprint.ping", "function test_codeprint.pong"]


def ping(pset, system, user):
    return pong(pset, system, user)


def pong(pset, system, user):
    return ping(pset, system, user) if pset else {}


def compiled(text, name, *, lines):
    """Run a text, of which other lines are found than those that were run."""
    linecache.cache[name] = (len(lines), None, lines.splitlines(keepends=True), name)
    namespace = {"__name__": "somewhere"}
    exec(compile(text, name, "exec"), namespace)
    return namespace["worker"]


def test_a_source_that_was_edited_since_it_was_loaded_is_not_believed():
    text = "def worker(pset, system, user):\n    return {'y': 1}\n"
    runs_old = compiled(text, "<edited>", lines=text.replace("1", "2"))
    runs_new = compiled(text.replace("1", "2"), "<new>", lines=text.replace("1", "2"))
    assert code_print(runs_old).digest != code_print(runs_new).digest
    assert "the source in <edited>: it was not found, or is not what runs" in code_print(runs_old).not_covered[0]
    assert code_print(runs_new).not_covered == ()


def test_the_library_of_a_constant_is_noted():
    assert "numpy" in code_print(counting(np.arange(3))).libraries
    assert "pandas" in code_print(counting(pd.Series([1]))).libraries


def test_libraries_are_noted_with_their_versions_and_not_followed():
    found = code_print(lambda pset, system, user: {"y": np.sum(pset["x"]), "f": pd.DataFrame, "w": workers.keywords})
    assert [name.partition(" ")[0] for name in found.parts] == ["worker", "name", "name", "name"]
    assert found.libraries["numpy"] == np.__version__
    assert found.libraries["pandas"] == pd.__version__
    assert found.libraries.keys() == {"Python", "numpy", "pandas", "paramsurvey"}
    older, newer = stages(found, attrs.evolve(found, libraries={**found.libraries, "numpy": "0.1"}))
    assert prints_of_stages.changes_of_libraries(older, newer) == [f"numpy {np.__version__} is 0.1 now"]


def test_a_worker_of_a_library_is_its_name_and_its_librarys_version():
    found = code_print(functools.partial(np.interp, xp=[1.0], fp=[2.0]))
    assert "numpy" in found.libraries
    assert len(found.parts) == 3


def test_the_digest_is_that_of_the_parts_in_any_order():
    assert CodePrint({"a": "1", "b": "2"}).digest == CodePrint({"b": "2", "a": "1"}).digest
    assert CodePrint({"a": "1"}).digest != CodePrint({"a": "2"}).digest


@functools.lru_cache(maxsize=3)
def cached(pset, system, user):
    return {"y": helper(1)}


@contextlib.contextmanager
def opened(x):
    yield helper(x)


def uses_decorated(pset, system, user):
    with opened(cached(1, 2, 3)) as y:
        return {"y": y}


def test_what_a_librarys_decorators_have_made_of_functions_is_reached():
    assert names(code_print(cached)) == [
        "decorator functools._lru_cache_wrapper of cached",
        "worker test_codeprint.cached",
        "function test_codeprint.helper",
    ]
    assert set(names(code_print(uses_decorated))) == {
        "worker test_codeprint.uses_decorated",
        "constant test_codeprint.cached",
        "function test_codeprint.cached",
        "name test_codeprint.opened",
        "function test_codeprint.opened",
        "function test_codeprint.helper",
    }


# Values whose parts are shared


class Node:
    def __init__(self, *others):
        self.others = others


def reaches(value):
    return lambda pset, system, user: {"y": value}


def chain(length):
    node = Node()
    for _ in range(length):
        node = Node(node, node)
    return node


def ring(length, last=None):
    nodes = [Node() for _ in range(length)]
    for at, node in enumerate(nodes):
        node.others = nodes[at - 1], nodes[(at + 1) % length]
    nodes[-1].more = last
    return nodes


def test_what_is_shared_is_looked_at_once(monkeypatch):
    """A chain of 60 nodes with two links each has 2**60 ways through it."""
    looks = []
    monkeypatch.setattr(Walk, "_content", lambda walk, value: looks.append(1) or CONTENT(walk, value))
    code_print(reaches(chain(60)))
    assert len(looks) < 1000


def test_equal_graphs_have_equal_prints_and_others_have_others():
    assert code_print(reaches(ring(9))).digest == code_print(reaches(ring(9))).digest
    assert code_print(reaches(ring(9))).digest != code_print(reaches(ring(10))).digest
    assert code_print(reaches(ring(9))).digest != code_print(reaches(ring(9, "x"))).digest
    inner = [1]
    assert code_print(reaches([inner, inner])).digest == code_print(reaches([[1], [1]])).digest
    ends = []
    for at in (0, 1):  # the same but for which of the two around it an element is
        outer, inner = [], []
        outer.append(inner)
        inner.append((outer, inner)[at])
        ends.append(code_print(reaches(outer)).digest)
    assert ends[0] != ends[1]


class Stuck:
    def __reduce_ex__(self, protocol):
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass


STUCK = Stuck()


def test_ctrl_c_ends_a_look_at_values_that_takes_for_ever(tmp_path):
    with paramsurvey.Session(backend="serial", verbose=0) as session, pytest.raises(KeyboardInterrupt):
        session.map(lambda pset, system, user: {"y": STUCK}, [{"n": 1}], journal=tmp_path / "j")
