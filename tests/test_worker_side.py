"""What happens to a chunk where it runs, with a monitor in the hands of the test."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import pytest

from paramsurvey.backends.serial import SerialBackend
from paramsurvey.engine import worker as worker_side
from paramsurvey.engine.columns import columns_of, psets_of
from paramsurvey.engine.loop import thawed
from paramsurvey.engine.records import BETWEEN, CTRL_C, LOADING, ChunkRows, Failure, TaskOptions, Unloadable, Work
from paramsurvey.engine.worker import SystemKwargs, run_chunk, safe_repr, same
from paramsurvey.fingerprint import pset_seed

SIZES = [1, 2, 7, 100]  # of chunks: one batch, several, many


class Constant:
    def __init__(self, obj):
        self.obj = obj

    def load(self):
        return self.obj


class Words(list):
    """A word of shared memory that remembers what was written to it."""

    def __init__(self, value):
        super().__init__([value])
        self.history = []

    def __setitem__(self, place, value):
        self.history.append(value)
        super().__setitem__(place, value)


class FakeMonitor:
    """Pickles a part when it is sent, as a pipe does; asks for attention before the rows it is told."""

    def __init__(self, *, can_flush=True, part_before=(), stop_before=None):
        self.can_flush = can_flush
        self.index = Words(None)
        self.attention = self
        self.parts = []
        self.part_before = set(part_before)
        self.stop_before = stop_before

    def __getitem__(self, _):  # attention[0]
        row = self.index[0]
        return row in self.part_before or (self.stop_before is not None and row >= self.stop_before)

    def attend(self):
        row = self.index[0]
        part_wanted = row in self.part_before
        self.part_before.discard(row)
        return part_wanted, self.stop_before is not None and row >= self.stop_before

    def flush(self, part):
        self.parts.append(pickled(part))


def pickled(part):
    """Return a part as it comes out of a pipe: what has changed since cannot be seen."""
    buffers = []
    data = pickle.dumps(part, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytearray(buffer.raw()) for buffer in buffers])


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    """Who is unwatched sends what there is after a quarter of a second: a loaded machine may have done less by then."""
    monkeypatch.setattr(worker_side, "UNWATCHED_SECONDS", 60.0)


class Ran:
    """A chunk that has been run, as the driver reads it."""

    def __init__(self, worker, psets, monitor=None, *, attempt=1, together=0, **work):
        keys, columns = columns_of(psets)
        defaults = {"user_kwargs": None, "name": "test", "seed": 0, "cwd": None, "out_subdirs": None}
        constant = Constant(Work(worker=worker, **{**defaults, **work}))
        self.monitor = monitor
        last = run_chunk(constant, tuple(ChunkRows(keys, columns, len(psets), attempt, together)), monitor=monitor)
        ahead = monitor.parts if monitor is not None else []
        self.raw_parts = [*ahead, pickled(last)]
        self.parts = [thawed(part) for part in self.raw_parts]
        self.failures = {row: failure for part in self.parts for row, failure in part.failures}
        self.answers = {}
        for part in self.parts:
            rows = [row for row in range(part.first, part.first + part.count) if row not in self.failures]
            self.answers.update(zip(rows, psets_of(part.keys, part.columns, len(rows)), strict=True))

    @property
    def rows(self):
        return [row for part in self.parts for row in range(part.first, part.first + part.count)]


def numbered(count):
    return [{"i": i} for i in range(count)]


def square(pset, system_kwargs, user_kwargs):
    return {"square": pset["i"] ** 2}


# Answers


@pytest.mark.parametrize("count", [0, *SIZES, 1000])
def test_every_row_is_answered_once_in_order(count):
    ran = Ran(square, numbered(count))
    assert ran.rows == list(range(count))
    assert ran.answers == {i: {"square": i * i} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_none_is_a_finished_row_without_answers(count):
    assert Ran(lambda *_: None, numbered(count)).answers == {i: {} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_rows_may_have_different_answers(count):
    def worker(pset, _system, _user):
        return {f"key{pset['i'] % 3}": pset["i"], **({"odd": True} if pset["i"] % 2 else {})}

    assert Ran(worker, numbered(count)).answers == {i: worker({"i": i}, None, None) for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_values_keep_their_types(count):
    values = [
        1,
        True,
        1.0,
        -0.0,
        2**70,
        "x",
        b"y",
        None,
        (1, [2]),
        {"a": 1},
        {1},
        np.int8(3),
        np.float32(0.5),
        range(3),
    ]

    def worker(pset, _system, _user):
        return {"value": values[pset["i"] % len(values)]}

    for i, answer in Ran(worker, numbered(count)).answers.items():
        assert repr(answer["value"]) == repr(values[i % len(values)])
        assert type(answer["value"]) is type(values[i % len(values)])


@pytest.mark.parametrize("answer", [3, "text", [1, 2], (("a", 1),), np.arange(3), object])
@pytest.mark.parametrize("count", [1, 30])
def test_what_is_no_dict_is_a_failure_that_says_what_to_return(answer, count):
    ran = Ran(lambda *_: answer, numbered(count))
    assert set(ran.failures) == set(range(count))
    text = ran.failures[0].text
    assert text.startswith(f"TypeError('the worker returned the {type(answer).__name__} ")
    assert "a worker returns a dict of answers, or None" in text


@pytest.mark.parametrize("count", SIZES)
def test_any_mapping_is_an_answer(count):
    answers = Ran(lambda pset, *_: OrderedDict(b=pset["i"], a=1), numbered(count)).answers
    assert answers == {i: {"b": i, "a": 1} for i in range(count)}


ONE_BY_ONE = [
    *[{"x": 1}, {"x": 2}, {"x": 2**70}, {"x": "text"}, {"x": [3]}, {"x": 4.0, "y": 5}, {"y": 6, "x": 7}],
    *[None, {}, {1: "int"}, {1: "again"}, {("a", 1): 8}, {"x": np.float32(9)}, {"x": True}, {"z": "text"}],
    *[{"i": "a parameter"}, {"x": 10}],
]


@pytest.mark.parametrize("together", [0, 1, 3])
def test_answers_of_psets_that_take_their_time_come_back_as_they_were(together, monkeypatch):
    monkeypatch.setattr(worker_side, "BATCH_SECONDS", 0.0)  # whatever they take
    ran = Ran(lambda pset, *_: ONE_BY_ONE[pset["i"]], numbered(len(ONE_BY_ONE)), FakeMonitor(), together=together)
    assert "which is a parameter" in ran.failures.pop(15).text
    assert ran.failures == {}
    given = {i: answer or {} for i, answer in enumerate(ONE_BY_ONE) if i != 15}
    assert ran.answers == given
    for i, answer in given.items():
        assert {key: type(value) for key, value in ran.answers[i].items()} == {k: type(v) for k, v in answer.items()}


def test_psets_that_take_their_time_and_one_that_changes_its_pset(monkeypatch):
    monkeypatch.setattr(worker_side, "BATCH_SECONDS", 0.0)

    def worker(pset, _system, _user):
        if pset["i"] == 3:
            pset["added"] = 1
        return {"ok": pset["i"]}

    ran = Ran(worker, numbered(6))
    assert ran.answers == {i: {"ok": i, **({"added": 1} if i == 3 else {})} for i in range(6)}


# Psets


@pytest.mark.parametrize("count", SIZES)
def test_keys_that_a_worker_adds_to_its_pset_are_answers(count):
    def worker(pset, _system, _user):
        pset["added"] = pset["i"] + 1

    assert Ran(worker, numbered(count)).answers == {i: {"added": i + 1} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_parameters_that_a_worker_changes_or_removes_do_not_change(count):
    def worker(pset, _system, _user):
        i = pset["i"]
        pset["i"] = -1
        if i % 2:
            del pset["i"]
        return {"was": i}

    assert Ran(worker, numbered(count)).answers == {i: {"was": i} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_an_answer_may_repeat_parameters(count):
    assert Ran(lambda pset, *_: {**pset, "c": 1}, numbered(count)).answers == {i: {"c": 1} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("value", [float("nan"), np.float64("nan"), np.array([1.0, np.nan]), (float("nan"),)])
def test_an_answer_may_repeat_a_parameter_that_is_not_a_number(count, value):
    ran = Ran(lambda pset, *_: {**pset, "c": 1}, [{"i": i, "nan": value} for i in range(count)])
    assert ran.failures == {}
    assert ran.answers == {i: {"c": 1} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_an_answer_that_contradicts_a_parameter_is_a_failure(count):
    ran = Ran(lambda pset, *_: {"i": pset["i"] + pset["i"] % 2}, numbered(count))
    assert set(ran.failures) == set(range(1, count, 2))
    for i, failure in ran.failures.items():
        assert failure.kind == "raised"
        assert f"the answer has the key 'i' = {i + 1}, which is a parameter with the value {i}" in failure.text
        assert "give it another name" in failure.text


@pytest.mark.parametrize("key", ["_exception", "_traceback", "_kind", "_attempts"])
@pytest.mark.parametrize("count", [1, 30])
def test_the_names_of_our_own_columns_are_refused(key, count):
    ran = Ran(lambda *_: {key: 1}, numbered(count))
    assert set(ran.failures) == set(range(count))
    assert (
        f"the answer has the key '{key}', the name of one of our own columns; give it another" in ran.failures[0].text
    )


@pytest.mark.parametrize("count", SIZES)
def test_each_row_is_called_with_its_own_pset_also_when_it_changes_a_list_in_it(count):
    def worker(pset, _system, _user):
        pset["values"].append(pset["i"])
        return {"sum": sum(pset["values"]), "array": np.zeros(2)}

    ran = Ran(worker, [{"i": i, "values": [1]} for i in range(count)])
    assert [answer["sum"] for answer in ran.answers.values()] == [1 + i for i in range(count)]


# Values that change behind our back


@pytest.mark.parametrize("count", SIZES)
def test_a_worker_may_return_the_same_dict_every_time(count):
    kept = {}

    def worker(pset, _system, _user):
        kept["i2"] = pset["i"] ** 2
        return kept

    assert Ran(worker, numbered(count), FakeMonitor()).answers == {i: {"i2": i * i} for i in range(count)}


@pytest.mark.parametrize("count", SIZES)
def test_a_worker_may_fill_the_same_list_every_time(count):
    kept = []

    def worker(pset, _system, _user):
        kept[:] = [pset["i"]] * 3
        return {"list": kept}

    assert Ran(worker, numbered(count), FakeMonitor()).answers == {i: {"list": [i] * 3} for i in range(count)}


@pytest.mark.parametrize("can_flush", [True, False])
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("size", [10, 9_000, 100_000])
def test_a_worker_may_fill_the_same_array_every_time(count, size, can_flush):
    kept = np.zeros(size, dtype="f8")

    def worker(pset, _system, _user):
        kept[:] = pset["i"]
        return {"array": kept}

    ran = Ran(worker, numbered(count), FakeMonitor(can_flush=can_flush))
    assert [set(answer["array"]) for answer in ran.answers.values()] == [{i} for i in range(count)]


@pytest.mark.parametrize("count", SIZES)
def test_a_worker_may_answer_numbers_first_and_the_same_large_array_later(count):
    kept = np.zeros(20_000, dtype="f8")

    def worker(pset, _system, _user):
        kept[:] = pset["i"]
        return {"value": kept if pset["i"] > 3 else pset["i"]}

    ran = Ran(worker, numbered(count), FakeMonitor())
    assert [float(np.max(answer["value"])) for answer in ran.answers.values()] == list(range(count))


@pytest.mark.parametrize("count", SIZES)
def test_a_worker_may_return_several_views_of_one_buffer(count):
    kept = np.zeros(30_000, dtype="f8")

    def worker(pset, _system, _user):
        kept[:] = pset["i"]
        return {"front": kept[:15_000], "back": kept[::-1], "rows": kept.reshape(3, -1).T}

    for i, answer in Ran(worker, numbered(count), FakeMonitor()).answers.items():
        for name, shape in (("front", (15_000,)), ("back", (30_000,)), ("rows", (10_000, 3))):
            assert answer[name].shape == shape
            assert set(answer[name].ravel()) == {i}


# Exceptions


@pytest.mark.parametrize("count", SIZES)
def test_an_exception_ends_only_its_own_pset(count):
    def worker(pset, _system, _user):
        if pset["i"] % 3 == 1:
            raise ValueError(f"pset {pset['i']}")
        return {"ok": pset["i"]}

    ran = Ran(worker, numbered(count))
    assert ran.answers == {i: {"ok": i} for i in range(count) if i % 3 != 1}
    assert {i: failure.text for i, failure in ran.failures.items()} == {
        i: f"ValueError('pset {i}')" for i in range(1, count, 3)
    }
    assert all(failure.kind == "raised" and failure.retryable for failure in ran.failures.values())


class Own(BaseException):
    pass


class WithBadRepr(Exception):
    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (SystemExit(3), "SystemExit(3)"),
        (KeyboardInterrupt(), "KeyboardInterrupt()"),
        (GeneratorExit(), "GeneratorExit()"),
        (StopIteration(4), "StopIteration(4)"),
        (Own("x"), "Own('x')"),
        (WithBadRepr(), "WithBadRepr(<its repr raises RuntimeError>)"),
        (ExceptionGroup("group", [ValueError(1)]), "ExceptionGroup('group', [ValueError(1)])"),
    ],
)
def test_no_exception_whatever_ends_the_chunk(exc, text):
    def worker(pset, _system, _user):
        if pset["i"] == 1:
            raise exc

    ran = Ran(worker, numbered(3))
    assert ran.rows == [0, 1, 2]
    assert list(ran.failures) == [1]
    assert ran.failures[1].text == text


def inner(i):
    raise LookupError(f"number {i}")


def raising(pset, _system, _user):
    inner(pset["i"])


def chained(pset, _system, _user):
    try:
        inner(pset["i"])
    except LookupError as exc:
        raise ValueError("outer") from exc


@pytest.mark.parametrize("worker", [raising, chained])
@pytest.mark.parametrize("count", [1, 40])
def test_a_traceback_has_the_workers_frames_and_none_of_ours(worker, count):
    ran = Ran(worker, numbered(count))
    for i, failure in ran.failures.items():
        assert failure.traceback.startswith("Traceback (most recent call last):\n")
        assert f"in {worker.__name__}" in failure.traceback
        assert "in inner" in failure.traceback
        assert f"LookupError: number {i}\n" in failure.traceback
        assert os.path.join("engine", "worker.py") not in failure.traceback


def made_in(file):
    """Return the same function as if it stood in that file: its code is equal to that in another."""
    names = {}
    exec(compile("def refuse(pset, _system, _user):\n    raise LookupError", file, "exec"), names)
    return names["refuse"]


def test_tracebacks_of_equal_code_in_two_files_have_each_its_own_file():
    one, other = (Ran(made_in(file), numbered(2)).failures[1].traceback for file in ("one.py", "other.py"))
    assert 'File "one.py", line 2' in one
    assert 'File "other.py", line 2' in other


def test_a_traceback_of_a_row_that_is_run_again_has_none_of_our_frames():
    calls = []

    def worker(pset, _system, _user):
        calls.append(pset["i"])
        if calls.count(5) == 2:
            inner(5)
        return {"list": [1]} if pset["i"] > 2 else None

    for failure in Ran(worker, numbered(30)).failures.values():
        assert os.path.join("engine", "worker.py") not in failure.traceback


def test_ctrl_c_in_the_drivers_process_ends_the_chunk_and_keeps_what_is_finished():
    def worker(pset, _system, _user):
        if pset["i"] == 20:
            raise KeyboardInterrupt(CTRL_C)
        return {"i2": pset["i"]}

    ran = Ran(worker, numbered(50))
    assert ran.rows == list(range(20))
    assert ran.failures == {}


def test_a_worker_that_cannot_be_loaded_is_no_psets_fault():
    class Broken:
        def load(self):
            raise Unloadable("ImportError: no such module")

    monitor = FakeMonitor()
    with pytest.raises(Unloadable, match="no such module"):
        run_chunk(Broken(), ((), [], 1, 1), monitor=monitor)
    assert monitor.index.history == [LOADING]


class CannotBePickled:
    def __reduce__(self):
        raise TypeError("not this one")


class CannotBeUnpickled:
    def __reduce__(self):
        return int, ("not a number",)


@pytest.mark.parametrize("count", [1, 30])
def test_an_answer_that_cannot_be_pickled_is_a_failure_of_its_own_pset(count):
    ran = Ran(lambda pset, *_: {"x": CannotBePickled() if pset["i"] == 0 else 1}, numbered(count))
    assert list(ran.failures) == [0]
    assert ran.failures[0].kind == "unpicklable"
    assert ran.failures[0].text == "the answer cannot be pickled: TypeError('not this one')"
    assert "in __reduce__" in ran.failures[0].traceback


@pytest.mark.parametrize("count", [1, 30])
def test_an_answer_that_cannot_be_unpickled_is_a_failure_of_its_own_pset(count):
    ran = Ran(lambda pset, *_: {"x": CannotBeUnpickled() if pset["i"] == 0 else 1, "y": [2]}, numbered(count))
    assert list(ran.failures) == [0]
    assert ran.failures[0].kind == "unpicklable"
    assert ran.failures[0].text.startswith("the answer cannot be unpickled: ValueError(")
    assert ran.answers == {i: {"x": 1, "y": [2]} for i in range(1, count)}


# The monitor


def test_the_index_tells_which_row_runs():
    monitor = FakeMonitor()
    seen = []
    Ran(lambda pset, *_: seen.append((pset["i"], monitor.index[0])), numbered(50), monitor)
    assert seen == [(i, i) for i in range(50)]
    assert monitor.index.history[:2] == [LOADING, BETWEEN]


def test_the_index_tells_which_row_runs_again():
    monitor = FakeMonitor()
    seen = []

    def worker(pset, _system, _user):
        seen.append((pset["i"], monitor.index[0]))
        return {"list": [pset["i"]]}

    Ran(worker, numbered(50), monitor)
    assert all(i == index for i, index in seen)


@pytest.mark.parametrize("places", [{1}, {3, 4, 5}, {7, 20, 21}, set(range(1, 30))])
def test_parts_are_sent_ahead_when_they_are_wanted(places):
    ran = Ran(square, numbered(30), FakeMonitor(part_before=places))
    assert len(ran.parts) == len(places) + 1
    assert [part.first for part in ran.parts] == [0, *sorted(places)]
    assert ran.rows == list(range(30))
    assert ran.answers == {i: {"square": i * i} for i in range(30)}


@pytest.mark.parametrize("stop", [0, 1, 5, 29])
def test_a_chunk_that_is_stopped_begins_no_other_row(stop):
    called = []

    def worker(pset, _system, _user):
        called.append(pset["i"])
        return {"i2": 2 * pset["i"]}

    ran = Ran(worker, numbered(30), FakeMonitor(stop_before=stop))
    assert called == list(range(stop))
    assert ran.rows == called
    assert ran.answers == {i: {"i2": 2 * i} for i in range(stop)}


@pytest.mark.parametrize(("together", "worker"), [(1, square), (4, square), (4, lambda pset, *_: {"square": [0]})])
def test_each_chunk_of_a_train_comes_back_by_itself_the_last_as_the_result(together, worker):
    ran = Ran(worker, numbered(10), FakeMonitor(), together=together)
    assert [part.first for part in ran.parts] == list(range(0, 10, together))
    assert ran.rows == list(range(10))


def test_a_train_is_one_chunk_where_nothing_can_be_sent_ahead():
    ran = Ran(square, numbered(10), FakeMonitor(can_flush=False), together=1)
    assert [part.count for part in ran.parts] == [10]


def test_the_answers_of_a_chunk_of_a_train_are_sent_before_the_next_is_run():
    monitor = FakeMonitor()
    sent = []
    Ran(lambda pset, *_: sent.append(len(monitor.parts)), numbered(6), monitor, together=2)
    assert sent == [0, 0, 1, 1, 2, 2]


def test_failures_travel_with_the_part_of_their_row():
    def worker(pset, _system, _user):
        if pset["i"] % 2:
            raise ValueError(pset["i"])
        return {"ok": 1}

    ran = Ran(worker, numbered(30), FakeMonitor(part_before={4, 9, 20}))
    for part in ran.parts:
        rows = range(part.first, part.first + part.count)
        assert [row for row, _ in part.failures] == [row for row in rows if row % 2]


def test_large_answers_are_sent_ahead_before_they_pile_up():
    ran = Ran(lambda pset, *_: {"array": np.full(200_000, pset["i"])}, numbered(20), FakeMonitor())
    assert len(ran.parts) == 21
    assert [set(answer["array"]) for answer in ran.answers.values()] == [{i} for i in range(20)]


def test_seconds_and_counts_cover_every_row_once():
    ran = Ran(square, numbered(200), FakeMonitor(part_before={50}))
    assert sum(count for part in ran.parts for count in part.counts) == 200
    assert all(second >= 0 for part in ran.parts for second in part.seconds)
    assert all(len(part.seconds) == len(part.counts) for part in ran.parts)


def test_raw_stats_are_sent_once():
    def worker(pset, system_kwargs, _user):
        system_kwargs["raw_stats"].setdefault("read", []).append(float(pset["i"]))

    ran = Ran(worker, numbered(60), FakeMonitor(part_before={10, 30}))
    assert [value for part in ran.parts for value in part.raw_stats.get("read", [])] == list(range(60))


def test_raw_stats_of_a_worker_with_changing_answers_are_sent_once():
    def worker(pset, system_kwargs, _user):
        system_kwargs["raw_stats"].setdefault("read", []).append(float(pset["i"]))
        return {"list": [1]}

    ran = Ran(worker, numbered(60))
    assert [value for part in ran.parts for value in part.raw_stats.get("read", [])] == list(range(60))


# System kwargs and user kwargs


def test_a_worker_is_told_its_name_attempt_and_user_kwargs():
    def worker(_pset, system_kwargs, user_kwargs):
        return {"name": system_kwargs["name"], "attempt": system_kwargs["attempt"], "user": user_kwargs["x"]}

    answers = Ran(worker, numbered(2), attempt=3, name="stage", user_kwargs={"x": 5}).answers
    assert answers == {i: {"name": "stage", "attempt": 3, "user": 5} for i in range(2)}


@pytest.mark.parametrize("count", SIZES)
def test_every_pset_has_its_own_seed_which_depends_on_nothing_else(count):
    ran = Ran(lambda _pset, system, _user: {"seed": system["seed"]}, numbered(count), seed=7)
    assert ran.answers == {i: {"seed": pset_seed(7, {"i": i})} for i in range(count)}


def test_a_worker_that_changes_its_pset_has_the_seed_of_the_pset_that_was_sent():
    def worker(pset, system, _user):
        pset["i"] = 100
        pset["new"] = 1
        return {"seed": system["seed"]}

    assert Ran(worker, numbered(1)).answers[0]["seed"] == pset_seed(0, {"i": 0})


class Counted:
    pickled = 0

    def __reduce__(self):
        Counted.pickled += 1
        return Counted, ()

    def __deepcopy__(self, memo):  # each pset has values of its own, which has nothing to do with its seed
        return self


def test_the_seed_is_made_only_when_it_is_asked_for():
    Counted.pickled = 0
    Ran(lambda pset, system, _user: {"name": system["name"]}, [{"x": Counted()}])
    assert Counted.pickled == 0
    Ran(lambda pset, system, _user: {"seed": system["seed"]}, [{"x": Counted()}])
    assert Counted.pickled == 1


def test_system_kwargs_are_a_read_only_mapping():
    seen = []

    def worker(pset, system, _user):
        assert isinstance(system, SystemKwargs)
        assert isinstance(system, Mapping)
        seen.append((list(system), len(system), "seed" in system, system.get("nothing", 3), dict(system)["name"]))
        assert eval(repr(system)) == dict(system)
        assert pickle.loads(pickle.dumps(system)) == dict(system)
        with pytest.raises(TypeError):
            system["name"] = "other"
        with pytest.raises(KeyError):
            system["nothing"]

    assert Ran(worker, numbered(1)).failures == {}
    assert seen == [(["name", "raw_stats", "attempt", "seed"], 4, True, 3, "test")]


def test_an_out_subdir_is_made_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = Ran(lambda _pset, system, _user: {"dir": system["out_subdir"]}, numbered(30), out_subdirs=11)
    names = {answer["dir"] for answer in ran.answers.values()}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert names <= {f"ps{i:02}" for i in range(11)}
    Ran(square, numbered(3), out_subdirs=1)
    assert len(list(tmp_path.iterdir())) == len(names)


# Folders


def serially(worker, count, cwd):
    """Run a chunk as the backend does that stays in this process."""
    work = Work(worker=worker, user_kwargs=None, name="test", seed=0, cwd=cwd, out_subdirs=None)
    backend = SerialBackend()
    rows = tuple(ChunkRows(*columns_of(numbered(count)), count, 1))
    return backend.submit(run_chunk, backend.publish(work), rows, options=TaskOptions()).result()


def test_a_worker_runs_in_the_surveys_folder_and_its_caller_stays_where_it_was(tmp_path):
    before = os.getcwd()
    part = serially(lambda *_: {"cwd": os.getcwd()}, 3, str(tmp_path))
    assert set(part.columns[0]) == {str(tmp_path)}
    assert os.getcwd() == before


def test_a_worker_that_changes_the_folder_does_not_change_it_for_its_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    serially(lambda *_: os.chdir(tmp_path / "inner"), 1, str(tmp_path))
    assert os.getcwd() == str(tmp_path)


def test_a_folder_that_is_not_there_is_no_psets_fault(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(Unloadable, match=re.escape(f"the workers cannot run in the folder {missing!r}: ")):
        Ran(square, numbered(1), cwd=missing)


def test_a_worker_that_removed_its_folder_does_not_take_the_next_chunk_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()

    def worker(pset, _system, _user):
        os.chdir(tmp_path / "inner")
        os.rmdir(tmp_path / "inner")

    Ran(worker, numbered(1), cwd=str(tmp_path))
    assert Ran(square, numbered(1), cwd=str(tmp_path)).answers == {0: {"square": 0}}


# Small things


class RaisesInEq:
    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1, True),
        (1, 2, False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(1, 4), False),
        (np.arange(3), np.arange(4), False),
        ([np.arange(2)], [np.arange(2)], False),
        (RaisesInEq(), RaisesInEq(), False),
    ],
)
def test_values_are_the_same_if_they_are_known_to_be(one, other, expected):
    assert same(one, other) is expected
    assert same(one, one)


def test_a_repr_that_raises_does_no_harm():
    assert safe_repr(WithBadRepr()) == "WithBadRepr(<its repr raises RuntimeError>)"
    assert safe_repr([1]) == "[1]"


def test_a_failure_is_a_tuple_that_sorts_by_row():
    assert sorted([(2, Failure("raised", "b")), (1, Failure("died", "a"))])[0][0] == 1
