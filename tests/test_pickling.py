"""Values as bytes."""

from __future__ import annotations

import io
import pickle
import threading

import numpy as np
import pandas as pd
import pytest

from paramsurvey.engine.pickling import LARGE, Buffers, Frozen, dumps, dumps_by_value, freeze, is_atomic, thaw
from paramsurvey.fingerprint import typed_bytes


class Text(str):
    __slots__ = ()


class Number(float):
    pass


@pytest.mark.parametrize(
    "value", [1, 1.5, True, "x", b"x", 1j, None, np.int8(1), np.float32(1), np.bool_(1), np.uint64(1)]
)
def test_numbers_and_text_are_atomic(value):
    assert is_atomic(type(value))


@pytest.mark.parametrize(
    "value",
    [[], (), {}, set(), Text("x"), Number(1), np.zeros(1), np.void(b"x"), pd.Timestamp(0), bytearray(), object(), int],
)
def test_whatever_can_change_or_has_a_class_of_somebodys_is_not_atomic(value):
    assert not is_atomic(type(value))


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        3,
        [1, {"a": (2, "x")}],
        np.arange(10),
        np.arange(LARGE, dtype="i8"),
        np.arange(LARGE, dtype="i8")[::2],
        np.asfortranarray(np.arange(2.0 * LARGE).reshape(2, -1)),
        {"a": np.zeros(LARGE), "b": [np.ones(LARGE), bytes(LARGE), bytearray(LARGE)]},
        np.array([None, 1, "x"], dtype=object),
        np.zeros(0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frozen_value_thaws_to_the_same(value, beside):
    frozen = freeze(value, beside=beside)
    assert typed_bytes(thaw(frozen)) == typed_bytes(value)
    assert beside or frozen.buffers == []
    came = pickle.loads(pickle.dumps(Frozen(frozen.data, [bytearray(each.raw()) for each in frozen.buffers])))
    assert typed_bytes(thaw(came)) == typed_bytes(value)


def test_only_large_buffers_travel_beside():
    frozen = freeze([np.zeros(LARGE, "u1"), np.zeros(LARGE - 1, "u1")], beside=True)
    assert [each.raw().nbytes for each in frozen.buffers] == [LARGE]
    assert LARGE <= len(frozen.data) < LARGE + 1000


def test_a_value_frozen_without_buffers_beside_does_not_change_with_the_original():
    array, rows = np.zeros(LARGE), [1]
    frozen = freeze((array, rows), beside=False)
    array[:] = 1
    rows.append(2)
    kept, kept_rows = thaw(frozen)
    assert not kept.any()
    assert kept_rows == [1]


def of_main(code, name):
    namespace = {"__name__": "__main__"}
    exec(code, namespace)
    return namespace[name]


@pytest.mark.parametrize("value", [lambda x: 2 * x, of_main("def double(x): return 2 * x", "double")])
def test_functions_travel_as_code_where_they_cannot_by_name(value):
    assert pickle.loads(dumps(value))(4) == 8
    assert pickle.loads(dumps_by_value(value))(4) == 8


def test_what_can_be_imported_travels_by_name():
    assert dumps(np.linspace) == pickle.dumps(np.linspace, 5)
    assert len(dumps_by_value(np.linspace)) < 100


def test_a_class_of_main_travels_as_code():
    kind = of_main("class Box:\n    size = 3", "Box")
    assert pickle.loads(dumps_by_value(kind())).size == 3


@pytest.mark.parametrize("pickler", [dumps, dumps_by_value])
def test_an_open_file_is_refused_with_a_reason(pickler, tmp_path):
    (tmp_path / "file").write_text("x")
    for mode in ("r", "rb", "r+b"):
        with (tmp_path / "file").open(mode) as file:
            with pytest.raises(TypeError, match="an open file cannot go to another process"):
                dumps_by_value({"file": file})
            with pytest.raises(TypeError, match="cannot pickle"):
                pickler([file])


def test_a_file_in_memory_is_no_open_file():
    assert pickle.loads(dumps_by_value(io.BytesIO(b"abc"))).read() == b"abc"
    assert pickle.loads(dumps_by_value(io.StringIO("abc"))).read() == "abc"


def test_what_nobody_can_pickle_raises():
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
        freeze([threading.Lock()], beside=True)


class Refuses:
    def __reduce__(self):
        raise OSError("the disk is gone")


class RefusesToCome:
    def __reduce__(self):
        return int, ("x",)


def test_an_objects_own_exception_comes_through():
    with pytest.raises(OSError, match="the disk is gone"):
        freeze(Refuses(), beside=False)
    with pytest.raises(ValueError, match="invalid literal"):
        thaw(freeze(RefusesToCome(), beside=False))


def test_a_failed_attempt_leaves_no_buffers_behind():
    """Plain pickle collects the array, then fails at the lambda; cloudpickle collects it again."""
    array = np.arange(LARGE, dtype="i8")
    frozen = freeze([array, lambda: 1], beside=True)
    assert [each.raw().nbytes for each in frozen.buffers] == [array.nbytes]
    came, function = thaw(frozen)
    assert (came == array).all()
    assert function() == 1


def test_a_failed_attempt_does_not_mix_up_two_arrays():
    one, other = np.zeros(LARGE), np.ones(LARGE)
    buffers = Buffers()
    data = dumps([one, lambda: 1, other], buffers)
    first, _, second = pickle.loads(data, buffers=list(buffers))
    assert not first.any()
    assert second.all()


def test_text_that_is_no_unicode_survives():
    assert thaw(freeze({"\ud800": "\udfff"}, beside=True)) == {"\ud800": "\udfff"}
