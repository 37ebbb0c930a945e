"""Bytes on a pipe: frames arrive whole however the pipe cuts them."""

from __future__ import annotations

import io
import os
import pickle
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey.backends.multiprocessing.frames import (
    FrameReader,
    Kind,
    Outbox,
    encode,
    read_frame,
    widen,
    write_all,
)
from paramsurvey.engine.pickling import LARGE

settings.register_profile("here", deadline=None, max_examples=60)
settings.load_profile("here")


@pytest.fixture
def pipe():
    """A pipe of which neither end blocks, as the driver has them."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            pass


def data_of(frame):
    return b"".join(bytes(piece) for piece in frame)


def small_frames():
    return [encode(Kind.TASK, 7, ("fn", 1)), encode(Kind.RESULT, 2**40, None), encode(Kind.RAISED, 0, "x" * 300)]


def large_frames():
    array = np.arange(LARGE // 8, dtype="i8")
    return [
        encode(Kind.PART, 3, {"a": array, "b": array[::-1].copy()}),
        encode(Kind.RESULT, 4, 5),
        encode(Kind.TASK, 5, [array]),
    ]


def contents(frames):
    return [(frame.kind, frame.ticket, pickle.dumps(frame.load())) for frame in frames]


def expected(frames):
    with io.BufferedReader(io.BytesIO(b"".join(map(data_of, frames)))) as whole:
        return contents([read_frame(whole) for _ in frames])


def feed(pipe, pieces):
    """Write piece by piece; return the frames that the reader finds, and after how many pieces each was found."""
    reader, found = FrameReader(pipe[0]), []
    for number, piece in enumerate(pieces):
        outbox = Outbox()
        outbox.add([piece])
        while not outbox.write(pipe[1]):
            found += [(number, frame) for frame in reader.read()]
        found += [(number, frame) for frame in reader.read()]
    assert not reader.at_end
    return found


def test_frames_cut_at_any_one_byte_arrive_whole(pipe):
    data = b"".join(map(data_of, small_frames()))
    for cut in range(len(data) + 1):
        found = feed(pipe, [data[:cut], data[cut:]])
        assert contents([frame for _, frame in found]) == expected(small_frames())


def test_frames_that_come_byte_by_byte_arrive_as_soon_as_they_are_whole(pipe):
    frames = small_frames()
    data = b"".join(map(data_of, frames))
    found = feed(pipe, [data[i : i + 1] for i in range(len(data))])
    ends = np.cumsum([len(data_of(frame)) for frame in frames]) - 1
    assert [number for number, _ in found] == list(ends)


@pytest.mark.parametrize("around", ["header", "lengths", "body", "first buffer", "second buffer", "end"])
def test_frames_with_large_buffers_cut_around_their_borders_arrive_whole(pipe, around):
    frames = large_frames()
    data = b"".join(map(data_of, frames))
    head = len(frames[0][0])
    border = {
        "header": 24,
        "lengths": 24 + 16,
        "body": head,
        "first buffer": head + LARGE,
        "second buffer": head + 2 * LARGE,
        "end": len(data) - LARGE,
    }[around]
    for cut in range(max(0, border - 18), border + 18):
        found = feed(pipe, [data[:cut], data[cut : cut + 3], data[cut + 3 :]])
        assert contents([frame for _, frame in found]) == expected(large_frames())


@given(st.lists(st.integers(1, 40_000), max_size=12), st.lists(st.booleans(), min_size=1, max_size=4))
def test_frames_cut_anywhere_arrive_whole(cuts, which):
    frames = [frame for large in which for frame in (large_frames() if large else small_frames())]
    data = b"".join(map(data_of, frames))
    places = sorted({0, len(data), *(sum(cuts[: i + 1]) % len(data) for i in range(len(cuts)))})
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    try:
        pieces = [data[a:b] for a, b in pairwise(places)]
        found = feed((reading, writing), pieces)
        assert contents([frame for _, frame in found]) == expected(frames)
    finally:
        os.close(reading)
        os.close(writing)


def test_buffers_can_be_written_to_where_they_arrive(pipe):
    ((_, frame), *_) = feed(pipe, [data_of(large_frames()[0])])
    array = frame.load()["a"]
    array[0] = 99
    assert array[0] == 99
    assert frame.size > 2 * LARGE


def test_the_end_of_the_pipe_is_noticed_after_the_last_frame(pipe):
    reader = FrameReader(pipe[0])
    os.write(pipe[1], data_of(small_frames()[0]))
    os.close(pipe[1])
    assert len(list(reader.read())) == 1
    list(reader.read())
    assert reader.at_end
    assert list(reader.read()) == []


@pytest.mark.parametrize("frame", [small_frames()[2], large_frames()[0]])
def test_a_pipe_that_ends_within_a_frame_has_an_end_and_no_frame(pipe, frame):
    data = data_of(frame)
    for cut in (1, 23, 24, 30, len(data) // 2, len(data) - 1):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        reader = FrameReader(reading)
        outbox, found = Outbox(), []
        outbox.add([data[:cut]])
        while not outbox.write(writing):
            found += reader.read()
        os.close(writing)
        while not reader.at_end:
            found += reader.read()
        os.close(reading)
        assert found == []


def test_nothing_to_read_is_no_end(pipe):
    reader = FrameReader(pipe[0])
    assert list(reader.read()) == []
    assert not reader.at_end


# The worker's side


class Cut(io.RawIOBase):
    """A pipe that ends early; whoever goes on reading at its end is caught."""

    def __init__(self, data):
        self.data = io.BytesIO(data)
        self.ends = 0

    def readable(self):
        return True

    def readinto(self, target):
        count = self.data.readinto(target)
        self.ends += count == 0
        if self.ends > 20:
            raise AssertionError("it reads on and on at the end of the pipe")
        return count


@pytest.mark.parametrize("frame", [*small_frames(), *large_frames()])
def test_a_worker_reads_the_frames_that_the_driver_writes(frame):
    with io.BufferedReader(io.BytesIO(data_of(frame) * 2)) as whole:
        one, other = read_frame(whole), read_frame(whole)
        assert read_frame(whole) is None
    assert contents([one]) == contents([other]) == expected([frame])


@pytest.mark.parametrize("frame", [small_frames()[2], large_frames()[0]], ids=["small", "large"])
def test_for_a_worker_a_pipe_that_ends_within_a_frame_has_ended(frame):
    data = data_of(frame)
    for cut in (0, 1, 23, 24, 30, len(frame[0]) - 1, len(frame[0]), len(data) // 2, len(data) - 1):
        if cut < len(data):
            assert read_frame(io.BufferedReader(Cut(data[:cut]), 1 << 16)) is None


# What is written


def test_an_outbox_writes_everything_in_order_through_a_full_pipe(pipe):
    frames = [frame for _ in range(20) for frame in large_frames()]
    outbox, reader, found, partial = Outbox(), FrameReader(pipe[0]), [], 0
    for frame in frames:
        outbox.add(frame)
    while not outbox.write(pipe[1]):
        partial += 1
        found += reader.read()
    assert partial > 10
    assert not outbox
    found += reader.read()
    assert contents(found) == expected(frames)


def test_an_outbox_takes_more_vectors_than_the_system_does_at_once(pipe):
    outbox = Outbox()
    outbox.add([bytes([i % 256]) for i in range(3000)])
    assert outbox.write(pipe[1])
    assert os.read(pipe[0], 4000) == bytes(i % 256 for i in range(3000))


def test_an_outbox_writes_any_buffer_and_skips_empty_ones(pipe):
    outbox = Outbox()
    outbox.add([b"", np.arange(3, dtype="<u2").data, bytearray(b"xy"), b""])
    assert outbox.write(pipe[1])
    assert os.read(pipe[0], 100) == b"\x00\x00\x01\x00\x02\x00xy"
    assert not outbox
    outbox.add([b""])
    assert not outbox


def test_an_outbox_says_that_nobody_reads(pipe):
    os.close(pipe[0])
    outbox = Outbox()
    outbox.add([b"x"])
    with pytest.raises(BrokenPipeError):
        outbox.write(pipe[1])


def test_write_all_waits_for_the_reader(pipe):
    os.set_blocking(pipe[1], True)
    frame = large_frames()[0]
    thread = threading.Thread(target=write_all, args=(pipe[1], frame * 1))
    thread.start()
    reader, found = FrameReader(pipe[0]), []
    while not found:
        found += reader.read()
    thread.join()
    assert contents(found) == expected([frame])


def test_widening_a_pipe_never_fails(pipe):
    widen(pipe[1])
    with open(os.devnull, "rb") as file:
        widen(file.fileno())


def test_by_value_carries_what_main_defines(pipe):
    namespace = {"__name__": "__main__"}
    exec("def double(x): return 2 * x", namespace)
    frame = encode(Kind.TASK, 1, namespace["double"], by_value=True)
    ((_, came),) = feed(pipe, [data_of(frame)])
    assert came.load()(4) == 8


@pytest.mark.parametrize("stray", [b"!", b"\x03\0\0\0" * 6, bytes(24), b"a line of text\n" * 9])
def test_what_is_no_frame_ends_the_reading_after_the_frames_before_it(pipe, stray):
    """Nothing is read into a place of the size that it happens to say."""
    reader = FrameReader(pipe[0])
    first, *others = map(data_of, small_frames())
    os.write(pipe[1], first + stray + b"".join(others))
    assert contents(reader.read()) == expected(small_frames())[:1]
    assert (reader.at_end, reader.is_garbled) == (True, True)
    with io.BufferedReader(io.BytesIO(stray + first)) as whole:
        assert read_frame(whole) is None
