"""Constants in shared memory: what is published is read back, and let go when its survey is over."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import paramsurvey
from paramsurvey.backends.multiprocessing import constants
from paramsurvey.backends.multiprocessing.constants import ConstantStore, make_folder
from paramsurvey.engine.records import Unsendable

PATIENCE = 20.0
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has mapped")


@pytest.fixture
def store(tmp_path):
    store = ConstantStore(make_folder(tmp_path))
    yield store
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files(monkeypatch):
    """Constants are cut as if they were a thousand times as large, and there were four cores."""
    monkeypatch.setattr(constants, "_LEAST_OF_A_FILE", 16 * 2**10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


def mapped_of(pid="self"):
    """Return the files of constants that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "paramsurvey-" in line and "/constant-" in line]


@pytest.mark.parametrize("size", [0, 1, 60_000, 100_000, 8 * 4096, 1_000_003])
def test_a_constant_is_read_back_whatever_its_size(size, store, small_files):
    given = {"bytes": np.arange(size, dtype=np.uint8), "floats": np.arange(size / 7), "name": "x"}
    published = store.publish(given)
    loaded = published._read()
    assert loaded["name"] == "x"
    assert np.array_equal(loaded["bytes"], given["bytes"])
    assert np.array_equal(loaded["floats"], given["floats"])


@on_linux
def test_a_large_constant_lies_in_several_files_which_go_together(store, small_files):
    published = store.publish(np.arange(100_000))
    assert published.files == 4
    assert len(list(store.folder.iterdir())) == 4
    published.close()
    assert list(store.folder.iterdir()) == []
    published.close()  # once more does no harm


@pytest.mark.parametrize("size", [10, 100_000])
def test_who_writes_to_a_constant_changes_only_what_he_sees(size, store, small_files):
    published = store.publish({"array": np.zeros(size)})
    mine, other = published._read()["array"], published._read()["array"]
    mine[:] = 1
    assert (other == 0).all()
    assert (published._read()["array"] == 0).all()


@on_linux
def test_memory_goes_with_the_last_array_in_it(store, small_files):
    published = store.publish({"one": np.ones(50_000), "two": np.ones(50_000)})
    loaded = published._read()
    part = loaded["two"][10:20]
    del loaded
    assert len(mapped_of()) == 4
    assert part.sum() == 10
    del part
    assert mapped_of() == []


def test_where_shared_memory_is_full_files_lie_elsewhere(store, small_files, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pwrite = os.pwrite

    def full(fd, data, offset):
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(store.folder)) and offset:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data[: 8 * 4096], offset)

    monkeypatch.setattr(os, "pwrite", full)
    published = store.publish(np.arange(100_000))
    assert not published.path.startswith(str(store.folder))
    assert list(store.folder.iterdir()) == []
    assert np.array_equal(published._read(), np.arange(100_000))


def test_what_cannot_be_pickled_leaves_no_file(store):
    with Path(os.devnull).open() as file, pytest.raises(Unsendable, match="TypeError"):
        store.publish([file])
    assert list(store.folder.iterdir()) == []


def look(pset, _system_kwargs, user_kwargs):
    return {"pid": os.getpid(), "seen": float(user_kwargs["sky"][pset["n"]]), "mapped": len(mapped_of())}


@on_linux
def test_an_idle_worker_lets_go_of_the_constants_of_a_survey_that_is_over():
    with paramsurvey.Session(backend="multiprocessing", ncores=2, verbose=0) as session:
        psets = [{"n": n} for n in range(20)]
        table = session.map(look, psets, user_kwargs={"sky": np.arange(2_000_000.0)}, group_size=1).results
        assert table["seen"].tolist() == list(range(20))
        assert (table["mapped"] > 0).all()
        until = time.monotonic() + PATIENCE
        while any(mapped_of(pid) for pid in set(table["pid"])):
            assert time.monotonic() < until, "it still has the memory"
            time.sleep(0.01)
        again = session.map(look, psets, user_kwargs={"sky": np.arange(1_000.0)}).results
        assert again["seen"].tolist() == list(range(20))
