"""The journal's file, on disks good and bad: never a wrong value, nothing lost but what was hit, never an exception."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import Nowhere
from journal_workers import fails_at_odd, square

import paramsurvey
from paramsurvey.errors import JournalError
from paramsurvey.journal import format as journal_format
from paramsurvey.journal.file import JournalFile
from paramsurvey.journal.format import Damage, Kind, Torn, head, record, records
from paramsurvey.journal.ledger import Journal

PSETS = [{"n": n} for n in range(8)]


def new_session():
    return paramsurvey.Session(backend="serial", verbose=1, vstats=0, pslogger_fd=Nowhere())


@pytest.fixture
def session():
    with new_session() as session:
        yield session


@pytest.fixture
def small(tmp_path, session):
    """Return the bytes of a small journal: 4 records with 2 rows each."""
    path = tmp_path / "small"
    session.map(square, PSETS, journal=path, group_size=2)
    return path.read_bytes()


def resumed(path, psets=PSETS):
    """Run the survey in a session of its own, with the journal; return how many rows were taken from it."""
    with new_session() as session:
        results = session.map(square, psets, journal=path, group_size=2)
    assert results.to_dict() == [{"n": pset["n"], "square": pset["n"] ** 2} for pset in psets]
    return results.progress.from_journal


def found_in(data):
    def read(offset, size):
        return data[offset : offset + size]

    return list(records(read, journal_format.HEAD_BYTES, len(data)))


# The bytes


def test_the_reader_in_the_documentation_reads_a_journal(tmp_path, session):
    path = tmp_path / "journal"
    session.map(square, PSETS, journal=path, name="squares")
    session.map(fails_at_odd, PSETS, journal=path, verbose=0)
    text = re.search(r"\.\. code-block:: python\n\n(.*)", journal_format.__doc__, re.DOTALL).group(1)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "squares stage" in done.stdout
    assert re.search(r"^rows [0-9a-f]{32} 1$", done.stdout, re.MULTILINE)
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


def test_a_record_begins_a_chunk_at_the_cost_of_a_hundred_bytes(small):
    sizes = [each[0].end - each[0].offset for each in found_in(small) if each[0].kind == Kind.ROWS]
    assert len(sizes) == 4
    assert max(sizes) < 64 + 2 * 16 + 100


# Damage


def test_a_journal_cut_at_any_byte_loses_the_last_record_at_most(tmp_path, small):
    for size in range(len(small)):
        path = tmp_path / "cut"
        path.write_bytes(small[:size])
        whole = sum(each[0].rows for each in found_in(small) if each[0].kind == Kind.ROWS and each[0].end <= size)
        assert resumed(path) == whole
        if size % 16 == 0:
            assert resumed(path) == len(PSETS)
        path.unlink()


def test_any_flipped_bit_costs_the_record_that_it_is_in_and_nothing_else(tmp_path, small):
    rows = [(each[0].offset, each[0].end) for each in found_in(small) if each[0].kind == Kind.ROWS]
    path = tmp_path / "flipped"
    for place in range(len(small)):
        bit = (1, 128, 16, 4)[place % 4] if place % 7 else 1 << place % 8
        data = bytearray(small)
        data[place] ^= bit
        path.write_bytes(data)
        hit = any(start <= place < stop for start, stop in rows)
        assert resumed(path) == len(PSETS) - 2 * hit, (place, bit)
        path.unlink()


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
    third = [each[0] for each in found_in(small) if each[0].kind == Kind.ROWS][2]
    for place in (third.offset, third.offset + 64, third.data_at):
        data = bytearray(small)
        data[place] ^= 1
        path.write_bytes(data)
        capsys.readouterr()
        assert resumed(path) == len(PSETS) - 2
        assert f"the journal {path} is damaged, and what was there is computed again: " in capsys.readouterr().err


def test_of_much_damage_little_is_told(tmp_path, small, capsys):
    path, data = tmp_path / "journal", bytearray(small)
    for one in [each[0] for each in found_in(small) if each[0].kind == Kind.ROWS]:
        data[one.data_at] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert resumed(path) == 0
    err = capsys.readouterr().err
    assert err.count("is damaged") == 3
    assert err.count("further damages") == 1


def test_a_torn_end_is_cut_off(tmp_path, small):
    path = tmp_path / "journal"
    path.write_bytes(small[:-1])
    last = [each[0] for each in found_in(small)][-1]
    assert isinstance(found_in(small[:-1])[-1], Torn)
    assert resumed(path) == len(PSETS) - last.rows
    assert not any(isinstance(each, Damage | Torn) for each in found_in(path.read_bytes()))


# What is no journal of ours


def test_a_newer_version_is_refused_by_name(tmp_path, session):
    path = tmp_path / "journal"
    path.write_bytes(head(2))
    with pytest.raises(
        JournalError, match=r"journal has version 2 of its format, and this paramsurvey reads up to .*1"
    ):
        session.map(square, PSETS, journal=path)
    assert path.read_bytes() == head(2)


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


class BadDisk:
    """Writes as `os.pwrite` does, but for the n-th time."""

    def __init__(self, fail_at, how):
        self.calls = 0
        self.fail_at = fail_at
        self.how = how

    def __call__(self, fd, data, offset):
        self.calls += 1
        if self.fail_at is None or self.calls != self.fail_at:
            return os.pwrite(fd, data, offset)
        if self.how == "short":
            return os.pwrite(fd, data[: len(data) // 2], offset)
        if self.how == "half":  # the disk is full in the middle of a record
            os.pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(self.how, os.strerror(self.how))


@pytest.mark.parametrize("how", ["short", "half", errno.ENOSPC, errno.EIO])
def test_a_failed_write_costs_its_own_record_whichever_it_is(tmp_path, monkeypatch, capsys, how):
    path = tmp_path / "journal"
    psets = PSETS[:6]
    counting = BadDisk(None, how)
    monkeypatch.setattr(Journal, "write_with", counting)
    assert resumed(path, psets) == 0
    assert counting.calls == 1 + 1 + 1 + 3  # the head, who opened it, the stage, three chunks
    for fail_at in range(1, counting.calls + 1):
        path.unlink()
        capsys.readouterr()
        monkeypatch.setattr(Journal, "write_with", BadDisk(fail_at, how))
        assert resumed(path, psets) == 0
        err = capsys.readouterr().err
        assert err.count("cannot be written, and the survey goes on without: ") == (how != "short"), fail_at
        monkeypatch.setattr(Journal, "write_with", os.pwrite)
        lost = 2 if how != "short" and fail_at > 3 else 0
        assert resumed(path, psets) == len(psets) - lost
        assert not [each for each in found_in(path.read_bytes()) if isinstance(each, Damage)]


def test_a_full_disk_is_said_once_and_the_survey_goes_on(tmp_path, monkeypatch, capsys):
    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "write_with", full)
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
