"""Workers are called here as a backend calls them, with real programs."""

from __future__ import annotations

import functools
import math
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import attrs
import cloudpickle
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey import workers
from paramsurvey.errors import OptionError, OptionTypeError, ParamsurveyError, PsetError, WorkerError
from paramsurvey.utils import subprocess_run_worker

pytestmark = pytest.mark.timeout(60)

PYTHON = [sys.executable, "-I", "-S", "-c"]
GONE_SECONDS = 10  # how long the kernel may take to bury what was killed


@pytest.fixture(autouse=True)
def _no_process_is_left():
    before = set(psutil.Process().children(recursive=True))
    yield
    left = {child for child in psutil.Process().children(recursive=True) if is_running(child)} - before
    for process in left:
        process.kill()
    assert left == set()


@pytest.fixture(autouse=True, scope="module")
def _no_orphan_is_left():
    """Orphans are nobody's children: they are known by a variable that they inherited."""
    mark = f"ORPHAN_OF_TESTS_{os.urandom(8).hex()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(mark, "1")
        yield
    assert [process for process in psutil.process_iter() if process.pid != os.getpid() and has(process, mark)] == []


def has(process, variable):
    try:
        return variable in process.environ() and is_running(process)
    except psutil.Error:
        return False


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def call(worker, pset, system_kwargs=None, user_kwargs=None):
    return worker(pset, system_kwargs or {}, user_kwargs)


def is_gone(pid):
    """Wait until a process is gone; orphans may stay zombies for as long as the machine's first process likes."""
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            process.wait(0.01)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            pass
    return False


# Functions that are handed over


def area(width, height):
    return width * height


def area_with_unit(width, height=1, *, unit="m2"):
    return f"{width * height} {unit}"


def everything(**kwargs):
    return dict(kwargs)


def some_and_everything(a, b=2, **rest):
    return {"seen": (a, b, rest)}


def all_supplied(a, system_kwargs, user_kwargs, seed):
    return {"seen": (a, system_kwargs, user_kwargs, seed)}


def seed_by_default(seed=0):
    return {"used": seed}


def by_position(a, /, b):
    return a + b


def by_position_with_default(a=1, /, b=2):
    return a + b


def any_number(a, *others):
    return a


def three(anything, at, all_=None):
    return {"three": (anything, at, all_)}


def any_arguments(*args, **kwargs):
    return {"n": len(args)}


def one_more_by_name(pset, system_kwargs, user_kwargs, *, factor):
    return {}


async def coroutine(pset, system_kwargs, user_kwargs):
    return {}


def generator(pset, system_kwargs, user_kwargs):
    yield {}


async def async_generator(pset, system_kwargs, user_kwargs):
    yield {}


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, pset, system_kwargs, user_kwargs):
        return {"scaled": pset["a"] * self.factor}

    def by_name(self, a):
        return a * self.factor


class ScaleByName:
    def __call__(self, a):
        return a * 3


class AsyncScale:
    async def __call__(self, pset, system_kwargs, user_kwargs):
        return {}


class Nothing:
    def __repr__(self):
        raise RuntimeError("no repr")


def renamed(func):
    @functools.wraps(func)
    def takes_a_pset(pset, system_kwargs, user_kwargs):
        return {"wrapped": func(pset["width"], pset["height"])}

    return takes_a_pset


def logged(func):
    @functools.wraps(func)
    def passes_on(*args, **kwargs):
        return func(*args, **kwargs)

    return passes_on


# as_worker


@pytest.mark.parametrize(
    "obj",
    [
        three,
        any_arguments,
        lambda p, s, u: {},
        lambda p, s, u, more=1, *, still=2: {},
        Scale(2),
        Scale(2).__call__,
        functools.partial(one_more_by_name, factor=2),
        functools.partial(lambda first, p, s, u: {}, 1),
        renamed(area),
        max,
        math.hypot,
        workers.keywords(area, output="area"),
        workers.command(["true"]),
        subprocess_run_worker,
    ],
    ids=workers.worker_name,
)
def test_a_callable_that_takes_three_positional_arguments_is_returned_as_it_is(obj):
    assert workers.as_worker(obj) is obj


@pytest.mark.parametrize(
    ("obj", "takes"),
    [
        (area, "area takes (width, height), but"),
        (lambda pset: {}, "<lambda> takes (pset), but"),
        (lambda: {}, "<lambda> takes (), but"),
        (one_more_by_name, "one_more_by_name takes (pset, system_kwargs, user_kwargs, *, factor), but"),
        (functools.partial(three, 1, 2, 3), "three takes (), but"),
        (ScaleByName(), "ScaleByName takes (a), but"),
        (Scale(1).by_name, "by_name takes (a), but"),
        (everything, "everything takes (**kwargs), but"),
        (lambda pset, system_kwargs, user_kwargs, needed: {}, "needed), but"),
    ],
    ids=["named", "one", "none", "keyword-only", "partial", "instance", "method", "kwargs", "four"],
)
def test_a_callable_that_cannot_take_three_is_told_what_it_takes_what_is_needed_and_the_way_out(obj, takes):
    with pytest.raises(WorkerError) as refused:
        workers.as_worker(obj)
    assert takes in str(refused.value)
    assert str(refused.value).endswith(
        "it is called with three arguments, as worker(pset, system_kwargs, user_kwargs);"
        " workers.keywords makes a worker from a function of named parameters"
    )


def test_annotations_do_not_fill_the_message():
    def annotated(width: float, height: np.ndarray) -> float:
        return 0.0

    with pytest.raises(WorkerError, match=r"^annotated takes \(width, height\), but"):
        workers.as_worker(annotated)


@pytest.mark.parametrize("make", [workers.as_worker, workers.keywords])
@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (coroutine, "coroutine is an async function: a call returns before it has run; hand over a plain function"),
        (async_generator, "async_generator is an async function: a call returns before it has run"),
        (AsyncScale(), "AsyncScale is an async function: a call returns before it has run"),
        (functools.partial(coroutine), "coroutine is an async function"),
        (generator, "generator is a generator function (it has a yield): a call returns before it has run; return one"),
        (functools.partial(generator), "generator is a generator function"),
    ],
    ids=["coroutine", "async-generator", "async-call", "partial-coroutine", "generator", "partial-generator"],
)
def test_what_returns_only_a_promise_is_refused_with_the_reason(make, obj, reason):
    with pytest.raises(WorkerError, match=re.escape(reason)):
        make(obj)


def test_a_class_is_not_a_worker():
    with pytest.raises(
        WorkerError, match=r"the worker is the class 'Scale'; hand over a function, or an instance: wor"
    ):
        workers.as_worker(Scale)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (None, "the worker is None (NoneType), which cannot be called: worker(pset, system_kwargs, user_kwargs)"),
        ({"c": 3}, "the worker is {'c': 3} (dict), which cannot be called"),
        (Nothing(), "the worker is <Nothing whose repr fails> (Nothing), which cannot be called"),
    ],
    ids=["none", "dict", "no-repr"],
)
def test_what_cannot_be_called_is_shown(obj, words):
    with pytest.raises(WorkerError, match=re.escape(words)):
        workers.as_worker(obj)


def test_a_huge_object_does_not_fill_the_message():
    with pytest.raises(WorkerError) as refused:
        workers.as_worker(list(range(100_000)))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("obj", "name"),
    [
        (area, "area"),
        (lambda: 0, "<lambda>"),
        (functools.partial(functools.partial(area, 1), 2), "area"),
        (functools.partial(Scale(1)), "Scale"),
        (Scale(1), "Scale"),
        (Scale(1).by_name, "by_name"),
        (math.hypot, "hypot"),
        (np.hypot, "hypot"),
        (Scale, "Scale"),
        (workers.keywords(area, output="area"), "area"),
        (workers.command(["/usr/bin/env", "true"]), "env"),
        (workers.command("  cat /etc/hosts | wc", shell=True), "cat"),
        (workers.command(["bin/"]), "bin/"),
        (3, "int"),
    ],
)
def test_every_callable_has_a_readable_name(obj, name):
    assert workers.worker_name(obj) == name


# keywords


def test_a_function_is_given_only_what_it_names():
    worker = workers.keywords(area, output="area")
    assert call(worker, {"width": 2, "colour": "red", "height": 3, 1: "one", "a b": 0}) == {"area": 6}


def test_the_values_are_the_very_objects_of_the_pset():
    value = np.arange(3)
    assert call(workers.keywords(lambda a: a, output="same"), {"a": value})["same"] is value


@pytest.mark.parametrize(
    ("pset", "answer"),
    [
        ({"width": 2}, "2 m2"),
        ({"width": 2, "height": 4}, "8 m2"),
        ({"width": 2, "unit": "ft2"}, "2 ft2"),
        ({"width": 2, "height": None, "unit": "x"}, TypeError),
    ],
)
def test_parameters_with_a_default_may_be_missing(pset, answer):
    worker = workers.keywords(area_with_unit, output="text")
    if answer is TypeError:  # the function's own error comes through as it is
        with pytest.raises(TypeError, match="unsupported operand"):
            call(worker, pset)
    else:
        assert call(worker, pset) == {"text": answer}


def test_double_star_takes_the_whole_pset():
    assert call(workers.keywords(everything), {"a": 1, "b c": 2}) == {"a": 1, "b c": 2}
    assert call(workers.keywords(some_and_everything), {"a": 1, "z": 3}) == {"seen": (1, 2, {"z": 3})}


def test_double_star_is_not_given_what_no_parameter_names():
    assert call(workers.keywords(everything), {"a": 1}, {"seed": 5}, {"k": 1}) == {"a": 1}


def test_double_star_cannot_take_a_key_that_is_not_a_text():
    with pytest.raises(PsetError, match=r"everything takes every key of the pset as a named parameter \(\*\*\), but 1"):
        call(workers.keywords(everything), {"a": 1, 1: 2})


def test_system_kwargs_user_kwargs_and_seed_are_supplied_when_named():
    system_kwargs, user_kwargs = {"name": "s", "seed": 17}, {"table": 1}
    answer = call(workers.keywords(all_supplied), {"a": 1}, system_kwargs, user_kwargs)
    assert answer == {"seen": (1, system_kwargs, user_kwargs, 17)}


def test_the_pset_goes_before_what_is_supplied():
    answer = call(
        workers.keywords(all_supplied), {"a": 1, "seed": 3, "user_kwargs": "mine"}, {"seed": 17}, {"table": 1}
    )
    assert answer == {"seen": (1, {"seed": 17}, "mine", 3)}


def test_a_seed_is_supplied_even_where_there_is_a_default():
    assert call(workers.keywords(seed_by_default), {}, {"seed": 17}) == {"used": 17}
    assert call(workers.keywords(seed_by_default), {}, {}) == {"used": 0}


def test_a_missing_parameter_is_named_with_the_function_and_what_the_pset_has():
    with pytest.raises(PsetError) as missing:
        call(workers.keywords(area, output="area"), {"width": 2, "hight": 3, 1: 0})
    assert str(missing.value) == "area needs 'height', which the pset does not have; it has: 'width', 'hight', 1"
    assert isinstance(missing.value, ValueError)


@pytest.mark.parametrize(
    ("pset", "ending"),
    [({}, "it has no keys"), ({f"k{i}": i for i in range(1000)}, "'k28', 'k29' and 970 more")],
)
def test_the_list_of_keys_is_never_too_long_nor_empty(pset, ending):
    with pytest.raises(PsetError, match=f"{ending}$"):
        call(workers.keywords(area, output="area"), pset)


def test_a_supplied_parameter_can_still_be_missing():
    with pytest.raises(TypeError, match="seed"):
        call(workers.keywords(all_supplied), {"a": 1}, {"name": "no seed here"})


@pytest.mark.parametrize(
    ("value", "answer"),
    [(6, {"x": 6}), (None, {"x": None}), ({"a": 1}, {"x": {"a": 1}}), ((1, 2), {"x": (1, 2)})],
)
def test_one_output_name_takes_the_value_as_it_is(value, answer):
    assert call(workers.keywords(lambda: value, output="x"), {}) == answer


@pytest.mark.parametrize("value", [{"a": 1}, {}, None, OrderedDict(a=1)])
def test_without_output_the_function_returns_the_dict_itself(value):
    assert call(workers.keywords(lambda: value), {}) is value


def test_without_output_anything_but_a_dict_is_refused_with_the_remedy():
    with pytest.raises(WorkerError) as refused:
        call(workers.keywords(area), {"width": 2, "height": 3})
    assert str(refused.value) == (
        'area returned 6 (int), not a dict; workers.keywords(area, output="...") gives the value a name'
    )


@pytest.mark.parametrize("names", [("q", "r"), ["q", "r"]])
@pytest.mark.parametrize("value", [(3, 1), [3, 1], np.array([3, 1]), range(3, 0, -2)], ids=lambda v: type(v).__name__)
def test_several_output_names_unpack_a_sequence(names, value):
    assert call(workers.keywords(lambda: value, output=names), {}) == {"q": 3, "r": 1}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((1, 2, 3), "<lambda> returned (1, 2, 3) (tuple) of length 3; output=('q', 'r') needs a sequence of 2"),
        ((), "<lambda> returned () (tuple) of length 0; output=('q', 'r') needs a sequence of 2"),
        (None, "<lambda> returned None (NoneType); output=('q', 'r') needs a sequence of 2"),
        (5, "<lambda> returned 5 (int); output=('q', 'r') needs a sequence of 2"),
        ("ab", "<lambda> returned 'ab' (str); output=('q', 'r') needs a sequence of 2"),
        (b"ab", "<lambda> returned b'ab' (bytes); output=('q', 'r') needs a sequence of 2"),
        ({"q": 1, "r": 2}, "<lambda> returned {'q': 1, 'r': 2} (dict); output=('q', 'r') needs a sequence of 2"),
        ({1, 2}, "<lambda> returned {1, 2} (set); output=('q', 'r') needs a sequence of 2"),
        (np.float64(5), "output=('q', 'r') needs a sequence of 2"),
        (iter([1, 2]), "(list_iterator); output=('q', 'r') needs a sequence of 2"),
    ],
    ids=["long", "empty", "none", "int", "str", "bytes", "dict", "set", "scalar", "iterator"],
)
def test_a_value_that_is_no_sequence_of_as_many_is_refused(value, words):
    with pytest.raises(WorkerError, match=re.escape(words)):
        call(workers.keywords(lambda: value, output=("q", "r")), {})


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ((), "output=(): a name, or a sequence of at least one name, each a text"),
        ("", "output='': a name, or a sequence of at least one name, each a text"),
        (("a", 1), "output=('a', 1): a name, or a sequence of at least one name, each a text"),
        (("a", "a"), "output=('a', 'a') has the same name twice"),
        (3, "output=3 is neither a name nor a sequence of names"),
        ({"a"}, "output={'a'} has no order; write a tuple of names"),
        ({"a": 1}, "output={'a': 1} has no order; write a tuple of names"),
    ],
)
def test_impossible_output_names_are_refused_at_once(output, words):
    with pytest.raises(WorkerError, match=re.escape(words)):
        workers.keywords(area, output=output)


REMEDY = "write a function of named parameters around it, and hand over that"


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (by_position, "by_position takes 'a' by position only, a pset gives it by name: "),
        (by_position_with_default, "by_position_with_default takes 'a' by position only, a pset gives it by name: "),
        (any_number, "any_number takes *others, a pset has only names: "),
    ],
)
def test_parameters_without_names_are_refused_at_once_with_the_remedy(func, words):
    with pytest.raises(WorkerError) as refused:
        workers.keywords(func)
    assert str(refused.value) == words + REMEDY


@pytest.mark.parametrize("func", [math.hypot, np.hypot, max], ids=lambda f: f"{type(f).__name__}-{f.__name__}")
def test_builtins_and_ufuncs_are_refused_at_once_with_the_remedy(func):
    # Newer releases tell a signature, though one without names: other words, the same remedy.
    with pytest.raises(WorkerError, match=f"^{func.__name__} .*{REMEDY}$"):
        workers.keywords(func, output="x")


def test_what_is_no_function_is_refused():
    with pytest.raises(WorkerError, match=r"workers.keywords needs a function, not 3 \(int\)"):
        workers.keywords(3)


@pytest.mark.parametrize(
    ("func", "pset", "answer"),
    [
        (functools.partial(area, height=3), {"width": 2}, 6),
        (functools.partial(area, height=3), {"width": 2, "height": 5}, 10),
        (functools.partial(area, 7), {"height": 2}, 14),
        (functools.partial(area, 7), {"width": 100, "height": 2}, 14),
        (Scale(2).by_name, {"a": 4}, 8),
        (ScaleByName(), {"a": 4}, 12),
        (lambda a, b=1: a + b, {"a": 4}, 5),
        (logged(area), {"width": 2, "height": 3, "other": 1}, 6),
    ],
    ids=["partial", "partial-overridden", "bound-first", "bound-beats-pset", "method", "instance", "lambda", "wraps"],
)
def test_partials_methods_callables_lambdas_and_decorated_functions_work(func, pset, answer):
    assert call(workers.keywords(func, output="x"), pset) == {"x": answer}


@pytest.mark.parametrize(
    ("worker", "reads", "writes"),
    [
        (workers.keywords(area, output="area"), ("width", "height"), ("area",)),
        (workers.keywords(area), ("width", "height"), None),
        (workers.keywords(area_with_unit, output=["a", "b"]), ("width",), ("a", "b")),
        (workers.keywords(all_supplied), ("a",), None),
        (workers.keywords(some_and_everything), ("a",), None),
        (workers.keywords(functools.partial(area, height=1)), ("width",), None),
        (workers.keywords(seed_by_default), (), None),
    ],
)
def test_keywords_tell_what_they_read_and_write(worker, reads, writes):
    assert (worker.reads, worker.writes) == (reads, writes)


def test_keywords_are_frozen_and_equal_when_they_do_the_same():
    worker = workers.keywords(area, output=["area"])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        worker.output = "other"
    assert worker == workers.keywords(area, output=("area",))
    assert len({worker, workers.keywords(area, output=("area",)), workers.keywords(area, output="area")}) == 2


def test_keywords_can_be_pickled_when_the_function_can():
    worker = workers.keywords(area, output="area")
    again = pickle.loads(pickle.dumps(worker))
    assert again == worker
    assert again.reads == ("width", "height")
    assert call(again, {"width": 2, "height": 3}) == {"area": 6}
    by_value = pickle.loads(cloudpickle.dumps(workers.keywords(lambda a: a + 1, output="b")))
    assert call(by_value, {"a": 1}) == {"b": 2}
    assert by_value.__name__ == "<lambda>"


def test_the_signature_is_asked_for_once():
    class Counting:
        asked = 0

        @property
        def __signature__(self):
            Counting.asked += 1
            return __import__("inspect").signature(lambda a: 0)

        def __call__(self, a):
            return a

    worker = workers.keywords(Counting(), output="x")
    once = Counting.asked
    for a in range(5):
        call(worker, {"a": a})
    _ = worker.reads, worker.writes, worker.__name__
    assert Counting.asked == once > 0


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.integers(), max_size=6),
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6),
)
@settings(max_examples=50, deadline=None)
def test_the_function_sees_exactly_its_own_part_of_the_pset(pset, names):
    func = eval(f"lambda {', '.join(f'{name}=None' for name in names)}: dict({', '.join(f'{n}={n}' for n in names)})")
    assert call(workers.keywords(func), pset) == {name: pset.get(name) for name in names}


# Templates


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("--mass={mass}", "--mass=1.5"),
        ("{mass:08.3f}|{mass!r:>6}", "0001.500|   1.5"),
        ("{mass:{width}.1f}|", "     1.5|"),
        ("{{literal}} {a b} {{{mass}}}", "{literal} spaced {1.5}"),
        ("{site[name]} {site[0]} {mass.real}", "Here zero 1.5"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_a_template_is_filled_in_as_format_map_does(text, filled):
    pset = {"mass": 1.5, "a b": "spaced", "width": 8, "site": {"name": "Here", 0: "zero"}}
    assert workers.Template(text).filled(pset) == filled == text.format_map(pset)


@pytest.mark.parametrize(
    ("text", "names"),
    [("{a} {b:{c}} {a}", ("a", "b", "c")), ("{{a}}", ()), ("{a.b[c]!r}", ("a",)), ("{a b}", ("a b",))],
)
def test_a_template_knows_its_names(text, names):
    assert workers.Template(text).names == names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", ""),  # the reason is in the interpreter's own words
        ("a } b", ""),
        ("{a", ""),
        ("{}", "{} does not name a parameter"),
        ("{0}", "{0} does not name a parameter"),
        ("{a:{}}", "{} does not name a parameter"),
        ("{a[b}", ""),
        ("{a[b]c}", "{a[b]c} does not name a parameter"),
        ("{a.}", "{a.} does not name a parameter"),
        ("{.a}", "{.a} does not name a parameter"),
        ("{a!x}", "{a!x} has an unknown conversion"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_when_it_is_written(text, reason):
    with pytest.raises(WorkerError) as refused:
        workers.command(["program", text])
    message = str(refused.value)
    assert message.startswith(f"template {text!r} cannot be read: ")
    assert message.endswith("; write {name} for a parameter, and double literal braces: {{ }}")
    assert reason in message


def test_a_key_that_a_template_misses_is_named_with_the_template_and_what_the_pset_has():
    worker = workers.command(["program", "--mass={mass}"])
    with pytest.raises(PsetError) as missing:
        call(worker, {"maas": 1, "b": 2})
    assert str(missing.value) == (
        "template '--mass={mass}' needs 'mass', which the pset does not have; it has: 'maas', 'b'"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{a:.2f}", "Unknown format code 'f'"), ("{a.missing}", "no attribute 'missing'"), ("{a[k]}", "indices must be")],
)
def test_a_value_that_does_not_fit_its_template_is_shown(text, reason):
    with pytest.raises(PsetError) as refused:
        workers.Template(text).filled({"a": "text", "b": 1})
    assert str(refused.value).startswith(f"template {text!r} cannot be filled in: ")
    assert reason in str(refused.value)
    assert str(refused.value).endswith("; a='text'")


def test_a_shell_template_quotes_every_value_after_it_was_formatted():
    filled = workers.Template("p {a} {b:.1f} {c!r} {d:{e}}", quoted=True).filled(
        {"a": "; rm x", "b": 1.25, "c": "o'k", "d": 1, "e": ">5"}
    )
    assert shlex.split(filled) == ["p", "; rm x", "1.2", repr("o'k"), "    1"]


@pytest.mark.parametrize(
    "text",
    ["echo '{a}'", 'echo "{a}"', "echo 'x' 'y {a}", 'echo "it\'s {a}"', 'echo "\\"{a}"', "echo \\{a}", "e {b} '{a}'"],
)
def test_a_value_inside_quotes_is_refused_because_it_would_be_quoted_twice(text):
    with pytest.raises(WorkerError) as refused:
        workers.command(text, shell=True)
    assert str(refused.value) == (
        f"template {text!r} has {{a}} inside quotes or after a backslash; values are quoted already: leave them out"
    )


@pytest.mark.parametrize(
    "text",
    ["echo 'x y' {a}", 'echo "a\\"b" {a}', "echo \\' {a}", "echo {a} 'after'", "echo 'it'\\''s' {a}", "echo \\\\{a}"],
)
def test_quotes_that_are_closed_do_not_matter(text):
    assert workers.command(text, shell=True).reads == ("a",)


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_whatever_the_value_the_shell_sees_one_word(value):
    filled = workers.Template("program {a} end", quoted=True).filled({"a": value})
    assert shlex.split(filled) == ["program", value, "end"]


# command: what comes back


def test_a_command_answers_with_code_output_and_seconds():
    program = "import sys; print('out', sys.argv[1]); print('err', file=sys.stderr); sys.exit(3)"
    answer = call(workers.command([*PYTHON, program, "--mass={mass:.2f}"]), {"mass": 1.989, "other": 0})
    seconds = answer.pop("seconds")
    assert answer == {"returncode": 3, "stdout": "out --mass=1.99\n", "stderr": "err\n"}
    assert 0 < seconds < 30


def test_an_argument_arrives_whole_whatever_is_in_it():
    worker = workers.command([*PYTHON, "import sys; print(ascii(sys.argv[1:]))", "{a}", "{b}", "{{c}}"])
    answer = call(worker, {"a": "two words; $HOME 'x' *", "b": ""})
    assert answer["stdout"].strip() == ascii(["two words; $HOME 'x' *", "", "{c}"])


def test_output_that_is_not_utf8_is_replaced_not_lost():
    worker = workers.command([*PYTHON, r"import os; os.write(1, b'a\xff\xc3\xa9b\r\n')"])
    assert call(worker, {})["stdout"] == "a\ufffd\u00e9b\r\n"


def test_megabytes_in_all_three_pipes_at_once_do_not_block():
    program = (
        "import sys; n = 3_000_000; sys.stderr.write('e' * n); sys.stdout.write('o' * n); print(len(sys.stdin.read()))"
    )
    answer = call(workers.command([*PYTHON, program], stdin=b"i" * 3_000_000, timeout=25), {})
    assert answer["stdout"] == "o" * 3_000_000 + "3000000\n"
    assert answer["stderr"] == "e" * 3_000_000


def test_a_program_that_does_not_read_its_input_is_no_failure():
    answer = call(workers.command([*PYTHON, "pass"], stdin="x" * 1_000_000), {})
    assert answer["returncode"] == 0


@pytest.mark.parametrize(
    ("stdin", "seen"),
    [(None, ""), ("mass {mass}, {{}} é\n", "mass 2, {} é\n"), (b"{mass}\x00", "{mass}\x00"), ("", "")],
)
def test_stdin_is_a_template_or_bytes_or_nothing(stdin, seen):
    program = "import sys; print(ascii(sys.stdin.buffer.read().decode('utf-8')))"
    assert call(workers.command([*PYTHON, program], stdin=stdin), {"mass": 2})["stdout"] == ascii(seen) + "\n"


def test_cwd_is_a_template_or_a_path(tmp_path):
    (tmp_path / "run7").mkdir()
    (tmp_path / "{x}").mkdir()
    where = [*PYTHON, "import os; print(os.getcwd())"]
    assert call(workers.command(where, cwd=str(tmp_path / "run{n}")), {"n": 7})["stdout"] == f"{tmp_path / 'run7'}\n"
    assert call(workers.command(where, cwd=tmp_path / "{x}"), {})["stdout"] == f"{tmp_path / '{x}'}\n"


def test_a_path_among_the_arguments_is_taken_as_it_is(tmp_path):
    script = tmp_path / "{script}.py"
    script.write_text("print('ran')")
    assert call(workers.command([sys.executable, script]), {})["stdout"] == "ran\n"


def test_env_is_added_to_the_workers_own(monkeypatch):
    monkeypatch.setenv("STAYS", "yes")
    monkeypatch.setenv("REPLACED", "no")
    program = "import os; print(os.environ['STAYS'], os.environ['REPLACED'], os.environ['NEW'])"
    worker = workers.command([*PYTHON, program], env={"REPLACED": "{n}", "NEW": "new"})
    assert call(worker, {"n": 8})["stdout"] == "yes 8 new\n"
    assert os.environ["REPLACED"] == "no"


def test_without_capture_the_output_goes_where_the_workers_own_goes(capfd):
    worker = workers.command([*PYTHON, "import sys; print('seen'); print('too', file=sys.stderr)"], capture=False)
    answer = call(worker, {})
    assert set(answer) == {"returncode", "seconds"} == set(worker.writes)
    assert capfd.readouterr() == ("seen\n", "too\n")


def test_a_shell_command_is_a_string_with_its_values_quoted(tmp_path):
    worker = workers.command("printf %s {text} > {file}; cat {file} | wc -c", shell=True)
    pset = {"text": "$(touch gone); 'q'", "file": tmp_path / "a file"}
    assert int(call(worker, pset)["stdout"]) == len(pset["text"])
    assert (tmp_path / "a file").read_text() == pset["text"]


def test_a_command_tells_what_it_reads_and_writes():
    worker = workers.command(["p", "{a}{b:{c}}", "{a}"], cwd="{d}", stdin="{e}", env={"X": "{f}"})
    assert worker.reads == ("a", "b", "c", "f", "d", "e")
    assert worker.writes == ("returncode", "stdout", "stderr", "seconds")
    assert set(call(workers.command([*PYTHON, "pass"]), {})) == set(worker.writes)


def test_a_command_is_frozen_and_can_be_pickled():
    worker = workers.command([*PYTHON, "print('{a}')"], timeout=20, env={"X": "1"}, cwd=Path(os.sep), stdin=b"1")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        worker.timeout = 3
    again = pickle.loads(pickle.dumps(worker))
    assert again == worker
    assert hash(again) == hash(worker)
    assert call(again, {"a": 5})["stdout"] == "5\n"


# command: what is refused


@pytest.mark.parametrize(
    ("args", "shell", "words"),
    [
        ("ls -l", False, "the command 'ls -l' is one string; make it a list with shlex.split, or hand it to the shell"),
        (b"ls", False, "the command b'ls' is one string; make it a list with shlex.split"),
        (["ls", "-l"], True, "a command with shell=True is one string, not ['ls', '-l']; leave shell=True out for a"),
        ([], False, "the command is empty"),
        ([""], False, "the command is empty"),
        (" ", True, "the command is empty"),
        (3, False, "a command is a list of texts, not 3"),
        (["ls", 3], False, "an argument of the command is 3 (int); write it as a text or a path"),
        (["ls", None], False, "an argument of the command is None (NoneType); write it as a text or a path"),
    ],
)
def test_a_command_line_of_the_wrong_kind_is_refused_with_the_remedy(args, shell, words):
    with pytest.raises(ParamsurveyError, match=re.escape(words)) as refused:
        workers.command(args, shell=shell)
    assert isinstance(refused.value, TypeError)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timeout": 0}, OptionError, "timeout=0 is not a positive number of seconds; None means no limit"),
        ({"timeout": -1.5}, OptionError, "timeout=-1.5 is not a positive number of seconds"),
        ({"timeout": math.nan}, OptionError, "timeout=nan is not a positive number of seconds"),
        ({"timeout": math.inf}, OptionError, "timeout=inf is not a positive number of seconds; None means no limit"),
        ({"timeout": "5"}, OptionTypeError, "timeout='5' is not a number of seconds, nor None for no limit"),
        ({"timeout": True}, OptionTypeError, "timeout=True is not a number of seconds"),
        ({"cwd": 3}, OptionTypeError, "cwd is 3 (int); write it as a text or a path"),
        ({"stdin": 3}, OptionTypeError, "stdin is 3 (int); write it as a text or bytes"),
        ({"env": ["A=1"]}, OptionTypeError, "env is ['A=1'] (list); write a dict of texts"),
        ({"env": {"A": 1}}, OptionTypeError, "env has 'A': 1; names and values are texts"),
        ({"env": {1: "A"}}, OptionTypeError, "env has 1: 'A'; names and values are texts"),
        ({"env": {"A=B": "1"}}, OptionError, "env has the name 'A=B', which no variable can have"),
        ({"env": {"": "1"}}, OptionError, "env has the name '', which no variable can have"),
        ({"env": {"A": "{"}}, WorkerError, "template '{' cannot be read: "),
        ({"cwd": "{}"}, WorkerError, "template '{}' cannot be read: "),
        ({"stdin": "}"}, WorkerError, "template '}' cannot be read: "),
    ],
)
def test_impossible_options_are_refused_when_the_command_is_made(options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        workers.command(["ls"], **options)


def test_numpy_seconds_are_seconds():
    assert workers.command(["ls"], timeout=np.int64(5)).timeout == 5.0


# command: what goes wrong


def test_a_failure_is_an_answer_unless_check_is_asked_for():
    failing = [*PYTHON, "import sys; print('no such mass', file=sys.stderr); sys.exit(3)"]
    assert call(workers.command(failing), {})["returncode"] == 3
    with pytest.raises(workers.CommandError) as failed:
        call(workers.command(failing, check=True), {})
    assert str(failed.value) == (
        f"command {shlex.join(failing)!r} ended with return code 3; the end of its standard error:\nno such mass"
    )
    assert isinstance(failed.value, ParamsurveyError)
    assert isinstance(failed.value, subprocess.CalledProcessError)
    assert (failed.value.returncode, failed.value.stderr) == (3, "no such mass\n")


def test_check_lets_a_success_pass():
    assert call(workers.command([*PYTHON, "pass"], check=True), {})["returncode"] == 0


def test_a_long_standard_error_is_shown_by_its_end():
    program = "import sys; [print('line', i, file=sys.stderr) for i in range(1000)]; sys.exit(1)"
    with pytest.raises(workers.CommandError) as failed:
        call(workers.command([*PYTHON, program], check=True), {})
    assert str(failed.value).endswith("\nline 998\nline 999")
    assert "line 979\n" not in str(failed.value)
    assert failed.value.stderr.startswith("line 0\n")


@pytest.mark.parametrize(
    ("capture", "words"), [(True, "it wrote nothing to standard error"), (False, "its standard error was not captured")]
)
def test_a_failure_without_standard_error_says_so(capture, words):
    with pytest.raises(workers.CommandError, match=f"ended with return code 1; {words}$"):
        call(workers.command(["false"], check=True, capture=capture), {})


def test_a_program_ended_by_a_signal_is_said_to_be():
    killed = [*PYTHON, "import os; os.kill(os.getpid(), 9)"]
    assert call(workers.command(killed), {})["returncode"] == -9
    with pytest.raises(workers.CommandError, match=r"was ended by signal 9 \(Killed"):
        call(workers.command(killed, check=True), {})


def test_a_command_error_survives_pickling():
    error = workers.CommandError(3, "p", "out", "err")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.returncode, again.stdout) == (str(error), 3, "out")


def test_a_missing_program_is_named():
    with pytest.raises(FileNotFoundError) as missing:
        call(workers.command(["no-such-{a}", "x"]), {"a": "program"})
    assert missing.value.filename == "no-such-program"
    assert str(missing.value).endswith(
        "there is no such program, or the interpreter that its first line names is missing: 'no-such-program'"
    )


def test_a_missing_folder_is_not_taken_for_a_missing_program(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        call(workers.command([*PYTHON, "pass"], cwd=str(tmp_path / "run{n}")), {"n": 1})
    assert str(missing.value).endswith(f"the command's folder cwd= does not exist: '{tmp_path / 'run1'}'")


def test_a_file_that_cannot_be_executed_is_named(tmp_path):
    file = tmp_path / "plain"
    file.write_text("not a program")
    with pytest.raises(PermissionError) as refused:
        call(workers.command([file]), {})
    assert refused.value.filename == str(file)


# command: time-outs


def test_a_time_out_names_the_command_and_the_seconds():
    worker = workers.command(["sh", "-c", "echo going {n} >&2; exec sleep 60"], timeout=0.5)
    with pytest.raises(TimeoutError) as late:
        call(worker, {"n": 7})
    assert str(late.value) == (
        "command \"sh -c 'echo going 7 >&2; exec sleep 60'\" took longer than timeout=0.5 seconds and was killed,"
        " with all that it had started; the end of its standard error:\ngoing 7"
    )


def test_a_time_out_without_capture_says_that_nothing_was_captured():
    with pytest.raises(TimeoutError, match=r"that it had started; its standard error was not captured$"):
        call(workers.command(["sleep", "60"], timeout=0.2, capture=False), {})


def test_a_program_that_ends_in_time_is_not_disturbed():
    assert call(workers.command([*PYTHON, "print(1)"], timeout=25), {})["stdout"] == "1\n"


TREES = {
    "one": "echo $$ > {f}; exec sleep 60",
    "children": "sleep 60 & echo $! $$ > {f}; wait",
    "grandchildren": "sh -c 'sleep 60 & echo $! $$ > pids; wait' & wait",
    "deaf": "trap '' TERM INT HUP; sleep 60 & echo $! $$ > {f}; wait; sleep 60",
    # The shell is gone at once; only the open pipe keeps the command waiting.
    "orphan": "sleep 60 & echo $! > {f}",
}


@pytest.mark.parametrize("tree", TREES)
def test_a_time_out_ends_the_program_and_all_that_it_started(tree, tmp_path):
    file = tmp_path / "pids"
    with pytest.raises(TimeoutError):
        call(workers.command(TREES[tree], shell=True, timeout=1, cwd=tmp_path), {"f": file})
    pids = [int(pid) for pid in file.read_text().split()]
    assert pids
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_a_time_out_ends_even_a_daemon_in_a_session_of_its_own(tmp_path):
    program = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    file = tmp_path / "pid"
    with pytest.raises(TimeoutError):  # the daemon still holds the pipes
        call(workers.command([*PYTHON, program, "{f}"], timeout=2), {"f": file})
    assert is_gone(int(file.read_text()))


def test_a_time_out_ends_what_keeps_starting_others():
    mark = f"HERE_{os.urandom(8).hex()}"
    worker = workers.command("while true; do sleep 60 & sleep 0.01; done", shell=True, timeout=0.5, env={mark: "1"})
    with pytest.raises(TimeoutError):
        call(worker, {})
    assert [process for process in psutil.process_iter() if has(process, mark)] == []


def test_a_time_out_leaves_other_programs_alone():
    other = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(TimeoutError):
            call(workers.command(["sleep", "60"], timeout=0.2), {})
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.fixture
def _buried():
    """Bury the program of a `Popen` that was interrupted while it was made: nobody has an object to wait with."""
    yield
    for child in psutil.Process().children():
        if child.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(child.pid, os.WNOHANG)


# When the signal comes before the program's object is there, nobody can wait for it, and Python says so.
@pytest.mark.usefixtures("_buried")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:subprocess:ResourceWarning")
@pytest.mark.parametrize("moment", ["", "sleep 0.3;"], ids=["at-the-start", "while-waiting"])
def test_an_interrupt_ends_the_program_at_any_moment(moment, tmp_path):
    """Ctrl-C in the serial backend, or an alarm of the user's own."""
    file = tmp_path / "pid"

    class Alarm(BaseException):
        pass

    def ring(signum, frame):
        raise Alarm

    usual = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Alarm):
            call(workers.command(f"echo $$ > {{f}}; {moment} kill -USR1 $PPID; exec sleep 60", shell=True), {"f": file})
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert is_gone(int(file.read_text()))


A_WORKER = """
import os
from paramsurvey import workers
worker = workers.command("echo $$; exec sleep 60", shell=True, capture=False, timeout={timeout})
worker({{}}, {{}}, {{}})
"""


@pytest.mark.parametrize("timeout", [None, 50])
def test_a_program_does_not_outlive_the_process_group_of_its_worker(timeout):
    with subprocess.Popen(
        [sys.executable, "-c", A_WORKER.format(timeout=timeout)],
        stdout=subprocess.PIPE,
        process_group=0,
        cwd=Path(workers.__file__).parents[1],
    ) as worker:
        pid = int(worker.stdout.readline())
        assert os.getpgid(pid) == worker.pid
        os.killpg(worker.pid, signal.SIGKILL)
    assert is_gone(pid)


def test_workers_are_imported_without_pandas_and_numpy():
    """Worker processes import this module: it must cost milliseconds."""
    program = (
        "import sys, paramsurvey.workers, paramsurvey.utils;"
        "print(sorted({'pandas', 'numpy', 'networkx', 'psutil', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(workers.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=25,
        check=True,
    )
    assert done.stdout == "[]\n"


# utils.subprocess_run_worker


CAPTURED = {"stdout": subprocess.PIPE, "encoding": "utf-8"}


def test_run_args_are_run_and_come_back_as_cli():
    done = call(subprocess_run_worker, {"run_args": [*PYTHON, "print(5)"], "run_kwargs": CAPTURED}, {}, {})["cli"]
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout) == (0, "5\n")


@pytest.mark.parametrize(
    ("pset", "user_kwargs", "stdout"),
    [
        ({}, {"run_kwargs": CAPTURED}, "5\n"),
        ({"run_kwargs": {"stdout": subprocess.PIPE}}, {"run_kwargs": CAPTURED}, b"5\n"),
        ({"run_kwargs": {"stdout": subprocess.DEVNULL}}, {"run_kwargs": CAPTURED}, None),
        ({"run_kwargs": None}, {"run_kwargs": CAPTURED}, "5\n"),
        ({}, {}, None),
        ({}, None, None),
    ],
)
def test_run_kwargs_of_the_pset_go_before_those_of_user_kwargs(pset, user_kwargs, stdout):
    done = call(subprocess_run_worker, {"run_args": [*PYTHON, "print(5)"], **pset}, {}, user_kwargs)["cli"]
    assert done.stdout == stdout


def test_empty_run_kwargs_in_the_pset_are_its_own():
    done = call(subprocess_run_worker, {"run_args": ["true"], "run_kwargs": {}}, {}, {"run_kwargs": CAPTURED})["cli"]
    assert done.stdout is None


def test_a_return_code_is_no_error_unless_asked_for():
    assert call(subprocess_run_worker, {"run_args": ["false"]})["cli"].returncode == 1
    with pytest.raises(subprocess.CalledProcessError):
        call(subprocess_run_worker, {"run_args": ["false"], "run_kwargs": {"check": True}})


def test_a_pset_without_run_args_is_told_so():
    with pytest.raises(ValueError, match="needs 'run_args'") as missing:
        call(subprocess_run_worker, {"args": "ls", "n": 1})
    assert str(missing.value) == (
        "subprocess_run_worker needs 'run_args', the command to run, which the pset does not have;"
        " its keys: 'args', 'n'"
    )


def test_a_string_with_spaces_and_no_shell_has_a_note_with_the_remedy():
    with pytest.raises(FileNotFoundError) as missing:
        call(subprocess_run_worker, {"run_args": "echo hello"})
    assert missing.value.__notes__ == [
        "run_args='echo hello' was taken as the name of one program, spaces and all; make it a list with"
        ' shlex.split, or hand it to the shell with run_kwargs={"shell": True}'
    ]


@pytest.mark.parametrize("run_args", ["no-such-program", ["no-such-program", "a b"]])
def test_a_program_that_is_only_missing_has_no_note(run_args):
    with pytest.raises(FileNotFoundError) as missing:
        call(subprocess_run_worker, {"run_args": run_args})
    assert not hasattr(missing.value, "__notes__")


def test_a_string_with_spaces_is_run_by_a_shell_when_said():
    pset = {"run_args": "echo hello", "run_kwargs": {**CAPTURED, "shell": True}}
    assert call(subprocess_run_worker, pset)["cli"].stdout == "hello\n"
