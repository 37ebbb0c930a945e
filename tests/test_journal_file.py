"""The journal's file, on disks good and bad: never a wrong value, nothing lost but what was hit, never an exception."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Nowhere
from journal_workers import described, fails_at_odd, square, total

import paramsurvey
from paramsurvey.errors import JournalError
from paramsurvey.journal import format as journal_format
from paramsurvey.journal import ledger
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import Damage, Kind, Rows, Torn, head, record, records, row_record
from paramsurvey.journal.rows import decoded, encoded, kinds_of

PSETS = [{"n": n} for n in range(8)]
FEW_PSETS = PSETS[:5]


def new_session():
    return paramsurvey.Session(backend="serial", verbose=1, vstats=0, pslogger_fd=Nowhere())


@pytest.fixture
def session():
    with new_session() as session:
        yield session


@pytest.fixture(params=["large", "small"])
def kind(request, monkeypatch):
    """Say of which kind the records are: chunks of two rows are one each, or two small ones."""
    if request.param == "large":
        monkeypatch.setattr(ledger, "FEW", 0)
    return request.param


@pytest.fixture
def small(tmp_path, session, kind):
    """Return the bytes of a small journal: of 8 rows, in records of 2 or of 1."""
    path = tmp_path / "journal of its own"
    session.map(square, PSETS, journal=path, group_size=2)
    return path.read_bytes()


@pytest.fixture
def tiny(tmp_path, session, kind):
    """Return the bytes of the smallest one with a record at the beginning, in the middle and at the end: of 5 rows."""
    path = tmp_path / "tiny journal of its own"
    session.map(square, FEW_PSETS, journal=path, group_size=2)
    return path.read_bytes()


@pytest.fixture
def unsynced(monkeypatch):
    """Have nothing wait for the disk: of thousands of runs that is most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def resumed(path, psets=PSETS):
    """Run the survey in a session of its own, with the journal; return how many rows were taken from it."""
    with new_session() as session:
        results = session.map(square, psets, journal=path, group_size=2)
    assert results.to_dict() == [{"n": pset["n"], "square": pset["n"] ** 2} for pset in psets]
    return results.progress.from_journal


def found_in(data):
    """Return what is in a journal, but for small records."""
    return [found for found in all_in(data) if not isinstance(found, Rows)]


def all_in(data):
    def read(offset, size):
        return data[offset : offset + size]

    return list(records(read, journal_format.HEAD_BYTES, len(data)))


class Stretch(NamedTuple):
    """A record with rows, large or small."""

    start: int
    stop: int
    rows: int
    data_at: int


def rows_in(data):
    """Return the records with rows in a journal."""
    found = []
    for each in all_in(data):
        if isinstance(each, Rows):
            ends = [*each.offsets[1:], each.end]
            found += [Stretch(*place, 1, place[1] - 1) for place in zip(each.offsets, ends, strict=True)]
        elif not isinstance(each, Damage | Torn) and each[0].kind == Kind.ROWS:
            found.append(Stretch(each[0].offset, each[0].end, each[0].rows, each[0].data_at))
    return found


# The bytes


def test_the_reader_in_the_documentation_reads_a_journal(tmp_path, session):
    path = tmp_path / "journal"
    session.map(square, PSETS, journal=path, name="squares")
    session.map(fails_at_odd, PSETS, journal=path, verbose=0)
    session.map(square, [{"n": n} for n in range(100)], journal=path, version="2", group_size=100)
    text = re.search(r"\.\. code-block:: python\n\n(.*)", journal_format.__doc__, re.DOTALL).group(1)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "squares stage" in done.stdout
    assert len(re.findall(r"^row [0-9a-f]{32} 1$", done.stdout, re.MULTILINE)) == 8 + 4
    assert re.search(r"^rows [0-9a-f]{32} 100$", done.stdout, re.MULTILINE)
    assert re.search(r"^shape [0-9a-f]{32} 0$", done.stdout, re.MULTILINE)
    assert "ValueError('3 is odd') failures" in done.stdout
    assert "damaged" not in done.stdout


def test_a_record_is_what_the_table_says():
    data = record(Kind.ROWS, stage=bytes(range(16)), keys=b"k" * 32, text=b"tt", data=b"ddd", written=1.5)
    assert len(data) == 64 + 32 + 2 + 3
    assert data[:4] == b"\xf5psr"
    assert data[4] == 2
    assert data[8:24] == bytes(range(16))
    assert [int.from_bytes(data[place : place + 4], "little") for place in (24, 28, 32)] == [2, 2, 3]
    (one,) = found_in(head() + data)
    assert one[0].rows == 2
    assert one[1] == b"k" * 32


def test_a_small_record_is_what_the_table_says():
    data = row_record(300, 5, b"k" * 16, b"values")
    assert data[:5] == b"\xf6\xac\x02\x05\x06"
    assert int.from_bytes(data[5:9], "little") == zlib.crc32(data[:5] + data[9:])
    assert data[9:] == b"k" * 16 + b"values"
    (found,) = all_in(head() + data)
    assert found == Rows([300], [5], [16], b"k" * 16, 16 + len(data))


def test_many_small_records_are_told_in_pieces_and_none_is_torn_by_a_window(monkeypatch):
    monkeypatch.setattr(journal_format, "WINDOW", 20_000)
    one = [row_record(0, n, n.to_bytes(16, "little"), bytes(n % 100)) for n in range(10_000)]
    found = all_in(head() + b"".join(one))
    assert [second for each in found for second in each.seconds] == list(range(10_000))
    assert b"".join(each.keys for each in found) == b"".join(n.to_bytes(16, "little") for n in range(10_000))
    assert max(len(each.numbers) for each in found) <= journal_format.MOST_ROWS


def test_a_large_record_begins_at_the_cost_of_a_hundred_bytes(tmp_path, session):
    session.map(square, [{"n": n} for n in range(64)], journal=tmp_path / "journal", group_size=32)
    sizes = [each.stop - each.start for each in rows_in((tmp_path / "journal").read_bytes())]
    assert len(sizes) == 2
    assert max(sizes) < 64 + 32 * (16 + 8 + 8) + 300


VALUES = [0, -1, 63, 64, -64, 2**63, -(2**64) - 1, 1.5, float("nan"), -0.0, "", "é\ud800", None, True, (1, 2), b"x"]


def test_values_of_small_records_are_exactly_the_same():
    assert kinds_of(VALUES) == "iiiiiiidddssoooo"
    for row in ([], VALUES, VALUES[::-1], *map(list, itertools.product(VALUES, repeat=2))):
        kinds = kinds_of(row)
        data = encoded(kinds, row)
        found, end = decoded(b"xx" + data + b"yy", 2, kinds)
        assert repr(found) == repr(row)
        assert [*map(type, found)] == [*map(type, row)]
        assert end == 2 + len(data)


@pytest.mark.parametrize(
    ("worker", "psets"),
    [
        (total, [{"a": n, "b": 2 * n} for n in range(2000)]),
        (total, [{"a": 0.1 * n, "b": 1.7 * n, "c": -0.3 * n} for n in range(2000)]),
        (described, [{"x": 0.3 * n, "source": f"M{n % 100}"} for n in range(2000)]),
    ],
    ids=["ints", "floats", "mixed"],
)
def test_rows_that_come_one_by_one_take_at_most_twice_the_bytes_of_their_columns(tmp_path, worker, psets):
    path = tmp_path / "journal"
    with new_session() as session:
        frame = session.map(worker, psets, journal=path, group_size=1, verbose=0).results
    arrays = [frame[key].to_numpy() if frame[key].dtype.kind in "if" else frame[key].tolist() for key in frame]
    assert path.stat().st_size < 2 * sum(len(pickle.dumps(each, 5)) for each in arrays)


# Damage


@pytest.mark.unmeasured
@pytest.mark.usefixtures("unsynced")
def test_a_journal_cut_at_any_byte_loses_the_last_record_at_most(tmp_path, tiny):
    path, stretches = tmp_path / "cut", rows_in(tiny)
    for size in range(len(tiny)):
        path.write_bytes(tiny[:size])
        whole = sum(each.rows for each in stretches if each.stop <= size)
        assert resumed(path, FEW_PSETS) == whole
        if size % 16 == 0:
            assert resumed(path, FEW_PSETS) == len(FEW_PSETS)
        path.unlink()


@pytest.mark.unmeasured
@pytest.mark.usefixtures("unsynced")
def test_any_flipped_bit_costs_the_record_that_it_is_in_and_nothing_else(tmp_path, tiny):
    path, stretches = tmp_path / "flipped", rows_in(tiny)
    for place in range(len(tiny)):
        bit = (1, 128, 16, 4)[place % 4] if place % 7 else 1 << place % 8
        data = bytearray(tiny)
        data[place] ^= bit
        path.write_bytes(data)
        hit = sum(each.rows for each in stretches if each.start <= place < each.stop)
        assert resumed(path, FEW_PSETS) == len(FEW_PSETS) - hit, (place, bit)
        path.unlink()


def test_rows_whose_shapes_are_all_damaged_are_computed_again_and_no_other_shape_has_their_number(tmp_path, session):
    path = tmp_path / "journal"
    session.map(square, PSETS[:4], journal=path, group_size=2)
    data = bytearray(path.read_bytes())
    for one in [each[0] for each in found_in(data) if each[0].kind == Kind.SHAPE]:
        data[one.offset + 60] ^= 1
    path.write_bytes(data)
    with paramsurvey.open_journal(path) as journal:
        told = [str(each) for each in journal.verify()]
        assert sum("a row: what tells its columns is not there" in each for each in told) == 4
        assert len(told) == 6
    for known in (0, len(PSETS)):
        assert resumed(path) == known
    numbers = [number for each in all_in(path.read_bytes()) if isinstance(each, Rows) for number in each.numbers]
    assert numbers == [0] * 4 + [1] * len(PSETS)


def test_shapes_come_back_as_rows_become_many(tmp_path, session):
    session.map(square, [{"n": n} for n in range(70)], journal=tmp_path / "journal", group_size=1)
    kinds = "".join(
        "s" if not isinstance(each, Rows) else "r" * len(each.numbers)
        for each in all_in((tmp_path / "journal").read_bytes())
        if isinstance(each, Rows) or each[0].kind == Kind.SHAPE
    )
    assert kinds == "sr" + "s" + "r" * 63 + "s" + "r" * 6


def test_every_flipped_bit_is_seen():
    """All bits, not only one of every byte; without a survey, so it takes no time."""
    one = record(Kind.ROWS, keys=b"k" * 32, text=b"text", data=b"data", written=1e9)
    other = record(Kind.OPENED, text=b"{}", written=1e9)
    data = head() + one + other
    for bit in range(8 * (len(head()) + len(one))):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        place = bit // 8 - len(head())
        if place < 0:
            assert journal_format.check_head(lambda at, size, b=damaged: bytes(b[at : at + size]), len(data), "x")
            continue
        found = found_in(bytes(damaged))
        if place < 64 + 32:
            assert isinstance(found[0], Damage), bit
            assert found[1][0].kind == Kind.OPENED
        else:
            (first, _), _ = found
            read = damaged[first.text_at : first.end]
            assert (read[:4], read[4:]) != (b"text", b"data")
            parts = [
                journal_format.part(lambda at, size, b=damaged: bytes(b[at : at + size]), *where)
                for where in (
                    (first.text_at, first.text_bytes, first.text_crc),
                    (first.data_at, first.data_bytes, first.data_crc),
                )
            ]
            assert parts.count(None) == 1, bit


def test_damage_is_told_and_what_was_there_is_computed_again(tmp_path, small, capsys):
    path = tmp_path / "journal"
    third = rows_in(small)[2]
    for place in (third.start, third.start + 8, third.data_at):
        data = bytearray(small)
        data[place] ^= 1
        path.write_bytes(data)
        capsys.readouterr()
        assert resumed(path) == len(PSETS) - third.rows
        assert f"the journal {path} is damaged, and what was there is computed again: " in capsys.readouterr().err


def test_of_much_damage_little_is_told(tmp_path, small, capsys, kind):
    path, data = tmp_path / "journal", bytearray(small)
    for one in rows_in(small)[:7:2] if kind == "small" else rows_in(small):
        data[one.data_at] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert resumed(path) == (4 if kind == "small" else 0)
    err = capsys.readouterr().err
    assert err.count("is damaged") == 3
    assert err.count("further damages") == 1


def test_a_torn_end_is_cut_off(tmp_path, small):
    path = tmp_path / "journal"
    path.write_bytes(small[:-1])
    last = rows_in(small)[-1]
    assert isinstance(found_in(small[:-1])[-1], Torn)
    assert resumed(path) == len(PSETS) - last.rows
    assert not any(isinstance(each, Damage | Torn) for each in found_in(path.read_bytes()))


# What older versions have written

STORED = Path(__file__).parent / "stored" / "journal-1"
"""Of version 1: squares of 0 to 39, of 0 to 4 again with version="2", and what `fails_at_odd` says of 0 to 3."""


def test_a_file_of_version_1_is_read_and_becomes_one_of_version_2_when_it_is_written_to(tmp_path, session):
    path = tmp_path / "journal"
    path.write_bytes(STORED.read_bytes())
    squares = [{"n": n, "square": n * n} for n in range(42)]
    with paramsurvey.open_journal(path) as journal:
        assert journal.stages[["name", "finished", "missing"]].to_numpy().tolist() == [
            ["square", 40, 0],
            ["square", 5, 0],
            ["fails_at_odd", 2, 2],
        ]
        first = journal.stages["print"][0]
        assert journal.results(first).to_dict("records") == squares[:40]
        assert journal.missing("fails_at_odd")["_exception"].tolist() == [f"ValueError('{n} is odd')" for n in (1, 3)]
        assert paramsurvey.explain(journal, {"n": 3}, stage="square").reasons == ("version changed from None to '2'",)
        assert journal.verify() == []
        assert path.read_bytes() == STORED.read_bytes()
        assert session.map(square, [{"n": n} for n in range(42)], journal=path).progress.from_journal == 40
        assert path.read_bytes()[:16] == head()
        assert path.read_bytes()[16 : STORED.stat().st_size] == STORED.read_bytes()[16:]
        assert journal.results(first).to_dict("records") == squares
        journal.compact()
        assert journal.results(first).to_dict("records") == squares
    with paramsurvey.open_journal(tmp_path / "journal") as journal:
        assert journal.merge(STORED) == 0


@pytest.mark.parametrize("place", range(16))
def test_the_head_of_an_older_version_may_be_damaged(tmp_path, session, place):
    data = bytearray(STORED.read_bytes())
    data[place] ^= 4
    (tmp_path / "journal").write_bytes(data)
    assert session.map(square, [{"n": n} for n in range(42)], journal=tmp_path / "journal").progress.from_journal == 40
    assert (tmp_path / "journal").read_bytes()[:16] == head()


# What is no journal of ours


def test_a_newer_version_is_refused_by_name(tmp_path, session):
    path = tmp_path / "journal"
    path.write_bytes(head(3))
    with pytest.raises(
        JournalError, match=r"journal has version 3 of its format, and this paramsurvey reads up to .*2"
    ):
        session.map(square, PSETS, journal=path)
    assert path.read_bytes() == head(3)


@pytest.mark.parametrize("content", [b"n,square\n1,1\n", b"x" * 1000, b"x", head()[:8] + b"rubbish!" * 3])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, session, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"table.csv is no journal, and nothing was changed in it"):
        session.map(square, PSETS, journal=path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path, session):
    with pytest.raises(JournalError, match="is a folder: name a file with journal="):
        session.map(square, PSETS, journal=tmp_path)
    with pytest.raises(JournalError, match="is a folder: name a file with journal="):
        paramsurvey.open_journal(tmp_path)


# Disks that fail


PWRITE = os.pwrite  # with which nothing but the journal writes, on the serial backend


class BadDisk:
    """Writes as `os.pwrite` does, but for the n-th time."""

    def __init__(self, fail_at, how):
        self.calls = 0
        self.fail_at = fail_at
        self.how = how

    def __call__(self, fd, data, offset):
        self.calls += 1
        if self.fail_at is None or self.calls != self.fail_at:
            return PWRITE(fd, data, offset)
        if self.how == "short":
            return PWRITE(fd, data[: len(data) // 2], offset)
        if self.how == "half":  # the disk is full in the middle of a record
            PWRITE(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(self.how, os.strerror(self.how))


@pytest.mark.parametrize("how", ["short", "half", errno.ENOSPC, errno.EIO])
@pytest.mark.usefixtures("kind")
def test_a_failed_write_costs_its_own_record_whichever_it_is(tmp_path, monkeypatch, capsys, how):
    path = tmp_path / "journal"
    psets = PSETS[:6]
    counting = BadDisk(None, how)
    monkeypatch.setattr(os, "pwrite", counting)
    assert resumed(path, psets) == 0
    assert counting.calls == 1 + 1 + 1 + 3  # the head, who opened it, the stage, three chunks
    for fail_at in range(1, counting.calls + 1):
        path.unlink()
        capsys.readouterr()
        monkeypatch.setattr(os, "pwrite", BadDisk(fail_at, how))
        assert resumed(path, psets) == 0
        err = capsys.readouterr().err
        assert err.count("cannot be written, and the survey goes on without: ") == (how != "short"), fail_at
        monkeypatch.setattr(os, "pwrite", PWRITE)
        lost = 2 if how != "short" and fail_at > 3 else 0
        assert resumed(path, psets) == len(psets) - lost
        assert not [each for each in found_in(path.read_bytes()) if isinstance(each, Damage)]


def test_a_disk_that_has_room_now_and_then_is_said_to_be_full_once(tmp_path, monkeypatch, capsys):
    """As one that is nearly full: small records still find room between large ones."""
    calls = itertools.count()

    def every_other(fd, data, offset):
        if next(calls) % 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return PWRITE(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", every_other)
    with paramsurvey.Session(backend="serial", verbose=1, vstats=0) as session:
        session.map(square, [{"n": n} for n in range(9)], journal=tmp_path / "j", group_size=1)
    assert next(calls) > 6
    assert capsys.readouterr().err.count("cannot be written, and the survey goes on without") == 1


def test_a_full_disk_is_said_once_and_the_survey_goes_on(tmp_path, monkeypatch, capsys):
    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert resumed(tmp_path / "journal") == 0
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_journal_that_must_not_be_written_is_read(tmp_path, monkeypatch, small, capsys):
    path = tmp_path / "journal"
    path.write_bytes(small)
    opened = os.open

    def read_only(name, flags, *more):
        if str(name) == str(path) and flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(name, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    assert resumed(path, [*PSETS, {"n": 99}]) == len(PSETS)
    assert capsys.readouterr().err.count("must not be written; what is in it is used") == 1
    assert path.read_bytes() == small


def test_a_journal_that_cannot_be_made_is_said_and_the_survey_goes_on(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with new_session() as session:
        results = session.map(square, PSETS, journal=tmp_path / "file" / "journal")
    assert len(results) == len(PSETS)
    assert capsys.readouterr().err.count("cannot be opened, and the survey goes on without: File exists") == 1


def test_folders_on_the_way_are_made(tmp_path):
    resumed(tmp_path / "runs" / "today" / "array")
    assert (tmp_path / "runs" / "today" / "array").exists()


# Who holds it

HOLDER = """
import sys, time
from journal_workers import square
import paramsurvey
stream = paramsurvey.stream(square, [{"n": n} for n in range(3)], journal=sys.argv[1], backend="serial", verbose=0)
next(stream)
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a journal."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "journal"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
    )
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.communicate(timeout=60)


def test_a_second_driver_is_told_who_holds_the_journal(tmp_path, session, holder):
    with pytest.raises(JournalError, match=rf"is being written by process {holder.pid} on .* \(-c .*\): wait until"):
        session.map(square, PSETS, journal=tmp_path / "journal")
    results = session.map(square, PSETS, journal=tmp_path / "another")
    assert len(results) == len(PSETS)


def test_the_lock_of_a_dead_process_does_not_block(tmp_path, session, holder):
    holder.kill()
    holder.wait(timeout=60)
    results = session.map(square, PSETS, journal=tmp_path / "journal")
    assert results.progress.from_journal >= 1


def test_a_fork_of_the_driver_does_not_hold_the_lock(tmp_path, session):
    with session.stream(square, PSETS, journal=tmp_path / "journal") as stream:
        next(stream)
        gate = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate[1])
            os.read(gate[0], 1)
            os._exit(0)
    other = JournalFile(str(tmp_path / "journal"))
    other.open(to_write=True)
    other.lock()
    other.close()
    os.close(gate[1])
    os.close(gate[0])
    os.waitpid(pid, 0)


def test_another_session_of_this_process_is_named_as_such(tmp_path, session):
    with session.stream(square, PSETS, journal=tmp_path / "journal") as stream, paramsurvey.Session(verbose=0) as other:
        next(stream)
        with pytest.raises(JournalError, match=rf"process {os.getpid()} on .* \(another session in it\)"):
            other.map(square, PSETS, journal=tmp_path / "journal")


def test_surveys_of_one_session_share_a_journal_and_two_journals_stand_side_by_side(tmp_path, session):
    with (
        session.stream(square, PSETS, journal=tmp_path / "journal") as stream,
        session.stream(square, PSETS, journal=tmp_path / "other") as other,
    ):
        assert next(stream) == next(other)
        assert len(session.map(square, PSETS, journal=tmp_path / "journal")) == len(PSETS)
        assert len(list(stream)) == len(list(other)) == len(PSETS) - 1


def test_a_journal_is_free_between_surveys(tmp_path, session):
    session.map(square, PSETS[:4], journal=tmp_path / "journal")
    assert resumed(tmp_path / "journal", PSETS[:6]) == 4
    assert session.map(square, PSETS, journal=tmp_path / "journal").progress.from_journal == 6


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, capsys):
    def no_locks(fd, how):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert resumed(tmp_path / "journal") == 0
    assert "has no locks: see that only one program uses it" in capsys.readouterr().err
