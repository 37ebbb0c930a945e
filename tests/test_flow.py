"""What flows between stages: pieces, and the numbers of their rows. Without backend, loop or run."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey import flow
from paramsurvey.engine.dispatcher import Taken
from paramsurvey.engine.records import Failure, Part
from paramsurvey.errors import StageError
from paramsurvey.flow import (
    FULL,
    SLAB,
    Arrivals,
    Cursor,
    Direct,
    DrawnNode,
    Edge,
    Node,
    Piece,
    RowNode,
    Settled,
    WholeNode,
    edge_from,
    in_order,
    piece_of,
    push,
    settled,
)
from paramsurvey.psets import WholeTable
from paramsurvey.stages.base import Rows
from paramsurvey.stages.rows import Derive, Product, Where
from paramsurvey.tables import Table, table_of

pytestmark = pytest.mark.timeout(120, method="signal")


def numbered(count, start=0):
    return table_of([{"n": n} for n in range(start, start + count)])


def piece(count, start=0):
    return Piece(numbered(count, start), np.arange(start, start + count, dtype=np.int64))


def source(count):
    """Return a node that has its table."""
    node = WholeNode("psets", psets=WholeTable(numbered(count)))
    node.is_over = True
    return node


class Failed:
    """Remembers what has failed."""

    def __init__(self):
        self.calls = []

    def __call__(self, name, exc):
        self.calls.append((name, exc))


def never(name, what):
    raise AssertionError((name, what))


def after(producer, stage, fail=never):
    return RowNode(stage.name, stage, edge_from(producer), producer, fail, never)


def arrivals(producer, owner=None, unfinished=lambda: 0):
    return Arrivals(edge_from(producer), producer, owner or Node("survey"), unfinished)


def all_of(feed, column="n"):
    """Pull until nothing comes; return a column of all rows."""
    while feed.pull():
        pass
    return [row[column] for row in feed.slice(0, feed.count).dicts()] if feed.count else []


class Same:
    """A row-wise stage that changes nothing."""

    name = "same"

    def rows(self, table):
        yield Rows(table, np.arange(table.count))


class Fan:
    """Makes n % 3 rows of a row with n."""

    name = "fan"

    def rows(self, table):
        rows = [(place, child) for place, row in enumerate(table.dicts()) for child in range(row["n"] % 3)]
        parents = np.array([place for place, _ in rows], dtype=np.int64)
        made = table.take(parents)
        children = Table(("child",), [[child for _, child in rows]], len(rows))
        yield Rows(Table(made.keys, made.columns, made.count).beside(children), parents)


# Edges


def test_an_edge_gives_what_was_put_there_in_order():
    edge = Edge(Node("survey"))
    edge.put(piece(2))
    edge.put(piece(3, start=2))
    assert edge.waiting == 5
    assert [edge.next().table.count, edge.waiting] == [2, 3]
    assert [edge.next().table.count, edge.waiting] == [3, 0]
    assert edge.next() is None


def test_an_edge_is_closed_when_it_is_empty_and_nothing_will_come():
    node = Node("survey")
    edge = edge_from(node)
    assert not edge.closed
    node.put(piece(1))
    node.is_over = True
    assert not edge.closed
    edge.next()
    assert edge.closed


def test_an_edge_is_full_at_so_many_rows_and_says_when_it_has_room_again(monkeypatch):
    monkeypatch.setattr(flow, "FULL", 5)
    node, calls = Node("survey"), []
    node.has_room = lambda: calls.append(edge.waiting)
    edge = edge_from(node)
    fullness = []
    for _ in range(4):
        node.put(piece(2))
        fullness.append(edge.is_full)
    assert fullness == [False, False, True, True]
    while edge.next() is not None:
        pass
    assert calls == [4]


def test_every_edge_from_a_node_gets_every_piece():
    node = Node("survey")
    one, other = edge_from(node), edge_from(node)
    node.put(piece(2))
    assert one.next() is other.next()


# Whole tables


def test_whoever_reads_a_whole_table_has_a_place_of_its_own(monkeypatch):
    monkeypatch.setattr(flow, "SLAB", 4)
    node = source(10)
    one, other = edge_from(node), edge_from(node)
    assert isinstance(one, Cursor)
    pieces = []
    while (each := one.next()) is not None:
        pieces.append(each.numbers.tolist())
    assert pieces == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (one.closed, other.closed) == (True, False)
    assert other.next().numbers.tolist() == [0, 1, 2, 3]


def test_a_table_that_is_not_there_yet_gives_nothing_and_one_that_never_comes_is_closed():
    node = WholeNode("top")
    cursor = edge_from(node)
    assert (cursor.next(), cursor.closed) == (None, False)
    node.psets = WholeTable(numbered(1))
    assert not cursor.closed
    assert cursor.next().table.count == 1
    never_made = WholeNode("top")
    cursor = edge_from(never_made)
    never_made.is_over = True
    assert (cursor.next(), cursor.closed) == (None, True)


def test_a_table_without_rows_is_closed_at_once():
    cursor = edge_from(source(0))
    assert (cursor.next(), cursor.closed) == (None, True)


def test_a_map_stage_reads_a_whole_table_as_it_stands():
    table = table_of(pd.DataFrame({"n": [1, 2, 3]}, index=["x", "y", "z"]))
    feed = Direct(WholeTable(table))
    assert (feed.count, feed.pull(), feed.closed, feed.expected) == (3, 0, True, 0)
    assert feed.pset(1) == {"n": 2}
    assert feed.rows(1, 3, 2) == table.rows(1, 3, 2)
    feed.release(0, 3)
    assert feed.table() is table
    assert list(feed.slice(1, 3).dicts()) == [{"n": 2}, {"n": 3}]
    assert feed.lost(np.array([2, 0])).index.tolist() == ["z", "x"]


# Row-wise stages


def test_a_row_wise_stage_numbers_its_rows_and_knows_their_parents():
    node = after(source(6), Fan())
    node.tracks = node.holds = True
    edge = edge_from(node)
    assert node.step()
    made = edge.next()
    assert made.numbers.tolist() == list(range(6))
    assert [row["n"] for row in made.table.dicts()] == [1, 2, 2, 4, 5, 5]
    assert list(node.parents) == [1, 2, 2, 4, 5, 5]
    assert [row["child"] for row in node.rows().dicts()] == [0, 0, 1, 0, 0, 1]


def test_parents_are_those_of_the_producers_numbers_however_pieces_are_cut(monkeypatch):
    monkeypatch.setattr(flow, "SLAB", 2)
    node = after(source(7), Fan())
    node.tracks = True
    while node.step():
        pass
    assert list(node.parents) == [1, 2, 2, 4, 5, 5]
    assert node.count == 6


def test_parents_and_rows_are_not_kept_unless_wanted():
    node = after(source(6), Fan())
    while node.step():
        pass
    assert (len(node.parents), node.pieces) == (0, [])


def test_a_row_wise_stage_is_over_when_nothing_comes_in_and_nothing_is_being_made():
    producer = Node("survey")
    node = after(producer, Product({"k": list(range(SLAB + 1))}))
    producer.put(piece(1))
    producer.is_over = True
    assert node.step()
    node.note_end()
    assert not node.is_over
    assert node.step()  # the last row
    assert node.step()  # which it was
    assert not node.step()
    node.note_end()
    assert node.is_over
    assert node.count == SLAB + 1


def test_a_row_wise_stage_that_raises_says_so_and_is_over():
    failed = Failed()
    node = after(source(3), Where("missing > 1"), failed)
    assert not node.step()
    assert node.is_over
    [(name, exc)] = failed.calls
    assert name == "where"
    assert isinstance(exc, StageError)


@pytest.mark.parametrize("given", [None, 5, numbered(1), [numbered(1)], ["text"]])
def test_a_row_wise_stage_has_to_yield_rows(given):
    class Odd:
        name = "odd"

        def rows(self, table):
            return given

    failed = Failed()
    after(source(3), Odd(), failed).step()
    [(_, exc)] = failed.calls
    assert isinstance(exc, StageError)
    assert str(exc).endswith(": it should yield Rows(table, parents)")


# advance and push


def chain(length, producer, stage):
    nodes = []
    for _ in range(length):
        producer = after(producer, stage)
        nodes.append(producer)
    return nodes


def test_a_thousand_row_wise_stages_need_no_recursion():
    nodes = chain(1000, source(5), Same())
    feed = arrivals(nodes[-1])
    before, depth = sys.getrecursionlimit(), len(_frames())
    sys.setrecursionlimit(depth + 60)
    try:
        assert all_of(feed) == [0, 1, 2, 3, 4]
        assert feed.closed
        assert all(node.is_over for node in nodes)
        pushed = chain(1000, source(5), Same())
        push(pushed)
        assert [pushed[-1].count, pushed[-1].is_over] == [5, True]
    finally:
        sys.setrecursionlimit(before)


def _frames():
    frame, frames = sys._getframe(), []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def test_rows_are_made_only_as_they_are_pulled():
    node = after(source(10), Product({"k": list(range(100_000))}))
    feed = arrivals(node)
    assert node.count == 0
    assert feed.pull() == SLAB
    assert node.count == SLAB
    assert feed.pull() == SLAB
    assert node.count == 2 * SLAB


def test_a_stage_makes_no_more_while_somebody_after_it_has_enough():
    node = after(source(1), Product({"k": list(range(20 * SLAB))}))
    fast, slow = arrivals(node), arrivals(node)
    while fast.pull():
        pass
    assert fast.count == FULL == slow.edge.waiting
    assert node.is_held()
    assert not fast.closed
    assert slow.pull() == SLAB
    assert not node.is_held()
    assert fast.pull() == SLAB
    assert fast.pull() == 0
    assert len(all_of(slow)) == fast.count + FULL
    while fast.pull() or slow.pull():
        pass
    assert node.count == fast.count == slow.count == 20 * SLAB
    assert fast.closed
    assert slow.closed


def test_that_there_is_room_again_is_said_to_those_who_wait_for_it(monkeypatch):
    monkeypatch.setattr(flow, "FULL", SLAB)
    node, calls = after(source(1), Product({"k": list(range(3 * SLAB))})), []
    node.has_room = lambda: calls.append(node.count)
    fast, slow = arrivals(node), arrivals(node)
    assert [fast.pull(), fast.pull()] == [SLAB, 0]
    assert calls == [SLAB]  # the fast one's own edge was full for a moment, too
    assert slow.pull() == SLAB
    assert calls == [SLAB, SLAB]


def test_there_is_no_hope_of_rows_from_a_survey_that_has_given_all_so_far():
    survey = Node("survey")
    feed = arrivals(after(survey, Same()))
    assert feed.pull() == 0
    assert not feed.closed
    survey.put(piece(3))
    assert [feed.pull(), feed.pull()] == [3, 0]
    survey.is_over = True
    assert feed.pull() == 0
    assert feed.closed


def test_pieces_of_which_nothing_is_left_are_passed_over(monkeypatch):
    monkeypatch.setattr(flow, "SLAB", 2)
    feed = arrivals(after(after(source(100), Where("n > 97")), Same()))
    assert feed.pull() == 2
    assert feed.pull() == 0
    assert feed.closed


def test_an_iterator_is_drawn_from_a_slab_at_a_time():
    drawn = [0]

    def endless():
        while True:
            drawn[0] += 1
            yield {"n": drawn[0]}

    feed = arrivals(after(DrawnNode("psets", endless()), Where("n % 2 == 0")))
    assert drawn == [0]
    feed.pull()
    assert drawn == [SLAB]
    assert feed.count == SLAB // 2


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16])
def test_an_iterator_that_ends_is_over(count, monkeypatch):
    monkeypatch.setattr(flow, "SLAB", 8)
    node = DrawnNode("psets", iter([{"n": n} for n in range(count)]))
    feed = arrivals(node)
    assert all_of(feed) == list(range(count))
    assert node.is_over
    assert feed.closed


def test_what_nobody_pulls_is_worked_up_at_once():
    survey = Node("survey")
    one = after(survey, Same())
    two = after(one, Where("n > 2"))
    two.holds = True
    survey.put(piece(3))
    survey.put(piece(3, start=3))
    push([one, two])
    assert [row["n"] for row in two.rows().dicts()] == [3, 4, 5]
    assert not two.is_over
    survey.is_over = True
    push([one, two])
    assert (one.is_over, two.is_over) == (True, True)


# Arrivals


def arrived(*sizes, holds=False):
    survey, owner = Node("one"), Node("two")
    owner.holds = holds
    feed = arrivals(survey, owner)
    start = 0
    for size in sizes:
        survey.put(piece(size, start))
        start += size
    while feed.pull():
        pass
    return feed


def test_rows_are_numbered_as_they_come_and_found_across_pieces():
    feed = arrived(3, 1, 4, 2)
    assert feed.count == 10
    for start in range(10):
        for stop in range(start + 1, 11):
            assert [row["n"] for row in feed.slice(start, stop).dicts()] == list(range(start, stop))
            rows = feed.rows(start, stop, 3)
            assert (rows.keys, rows.count, rows.attempt) == (("n",), stop - start, 3)
            assert list(rows.columns[0]) == list(range(start, stop))
    assert [feed.pset(row)["n"] for row in range(10)] == list(range(10))


def test_the_parents_of_arrivals_are_noted_in_the_order_in_which_they_come():
    survey, owner = Node("one"), Node("two")
    owner.tracks = True
    feed = arrivals(survey, owner)
    for numbers in ([5, 6], [0], [3, 2]):
        survey.put(Piece(numbered(len(numbers)), np.array(numbers)))
    while feed.pull():
        pass
    assert list(owner.parents) == [5, 6, 0, 3, 2]


def test_how_many_are_to_come_is_asked_of_the_survey_above():
    left = [7]
    feed = arrivals(Node("survey"), unfinished=lambda: left[0])
    assert feed.expected == 7
    left[0] = 0
    assert feed.expected == 0


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_rows_that_are_done_are_let_go_in_any_order_and_no_others(sizes, data):
    feed = arrived(*sizes)
    total = sum(sizes)
    cuts = sorted(data.draw(st.sets(st.integers(0, total))) | {0, total})
    ranges = data.draw(st.permutations(list(pairwise(cuts))))
    lost = data.draw(st.sets(st.integers(0, total - 1), max_size=3))
    left = set(range(total))
    for start, stop in ranges:
        for row in sorted(lost & set(range(start, stop))):
            feed.note_lost(row)
        feed.release(start, stop - start)
        left -= set(range(start, stop))
        assert [feed.slice(row, row + 1).pset(0)["n"] for row in sorted(left)] == sorted(left)
        held = Counter(row for first, table in feed._pieces.items() for row in range(first, first + table.count))
        assert set(held) >= left
    assert feed._pieces == {}
    assert feed._left == {}
    assert feed.table().count == 0
    assert [row["n"] for row in feed.lost(np.array(sorted(lost), dtype=np.int64)).dicts()] == sorted(lost)
    assert [feed.pset(row) for row in sorted(lost)] == [{"n": row} for row in sorted(lost)]


def test_rows_that_are_to_be_held_are_not_let_go():
    feed = arrived(3, 2, holds=True)
    feed.release(0, 5)
    assert [row["n"] for row in feed.table().dicts()] == [0, 1, 2, 3, 4]


# Answers beside their psets


def part(first, answers, failed=()):
    failures = [(row, Failure("raised", "no")) for row in failed]
    return Part(first, len(answers) + len(failures), ("x",), [list(answers)], failures, [0.0], [1], {})


def test_answers_are_put_beside_their_rows():
    feed = arrived(4, 4)
    made = piece_of(feed, Taken(2, part(0, [10, 11, 12, 13]), []))
    assert list(made.table.dicts()) == [{"n": n, "x": n + 8} for n in range(2, 6)]
    assert made.numbers.tolist() == [2, 3, 4, 5]


def test_rows_without_an_answer_are_left_out():
    feed = arrived(4, 4)
    made = piece_of(feed, Taken(3, part(1, [10, 12], failed=(2, 4)), []))
    assert list(made.table.dicts()) == [{"n": 3, "x": 10}, {"n": 5, "x": 12}]
    assert made.numbers.tolist() == [3, 5]
    assert made.table.index is None


# The final order


def test_rows_of_a_whole_table_are_in_order():
    node = after(source(4), Same())
    node.tracks = node.holds = True
    push([node])
    order = settled(node, Settled(), keeps_labels=True)
    table, numbers = in_order(node.rows(), np.arange(4), order)
    assert numbers.tolist() == [0, 1, 2, 3]
    assert table.index is None


def test_labels_go_with_rows_that_keep_them_and_others_are_numbered():
    node = Node("where")
    node.tracks = True
    node.note_parents(np.array([2, 0]))  # of three rows, two are left, and came the wrong way round
    above = Settled(None, pd.Index(["x", "y", "z"]))
    table, numbers = in_order(numbered(2), np.arange(2), settled(node, above, keeps_labels=True))
    assert [row["n"] for row in table.dicts()] == [1, 0]
    assert table.index.tolist() == ["x", "z"]
    assert numbers.tolist() == [1, 0]
    table, _ = in_order(numbered(2), np.arange(2), settled(node, above, keeps_labels=False))
    assert [row["n"] for row in table.dicts()] == [1, 0]
    assert table.index is None


def test_the_order_of_no_rows_is_settled():
    order = settled(Node("survey"), Settled(), keeps_labels=True)
    table, numbers = in_order(numbered(0), np.arange(0), order)
    assert (table.count, len(numbers)) == (0, 0)


class ShuffledSurvey:
    """A map stage whose rows come back in any order and in any pieces; it leaves out rows whose number is unlucky."""

    def __init__(self, producer, data, unlucky=()):
        self.node = Node("survey")
        self.node.tracks = True
        self.feed = arrivals(producer, self.node)
        self.data, self.unlucky = data, unlucky
        self.answered = []

    def work(self):
        """Pull some pieces and answer them, in pieces of any size and order."""
        while self.feed.pull():
            pass
        waiting = sorted(set(range(self.feed.count)) - set(self.answered))
        cuts = sorted(self.data.draw(st.sets(st.sampled_from(range(len(waiting) + 1)))) | {0, len(waiting)})
        for start, stop in self.data.draw(st.permutations(list(pairwise(cuts)))):
            rows = np.array(waiting[start:stop], dtype=np.int64)
            self.answered += rows.tolist()
            table = self.feed.slice(0, self.feed.count).take(rows)
            kept = [place for place, row in enumerate(table.dicts()) if row["n"] not in self.unlucky]
            table, rows = table.take(np.array(kept, dtype=np.int64)), rows[kept]
            if len(rows):
                self.node.put(Piece(Table(table.keys, table.columns, table.count), rows))

    def end(self):
        self.work()
        self.node.is_over = self.feed.closed
        assert self.node.is_over


@given(count=st.integers(0, 12), unlucky=st.sets(st.integers(0, 11)), data=st.data())
@settings(max_examples=60, deadline=None)
def test_rows_end_in_the_order_of_their_ancestors_however_they_came(count, unlucky, data):
    """Source, survey, a stage that fans out, survey, one that leaves rows out: in any order of completion."""
    top = Node("psets")
    top.is_over = True
    one = ShuffledSurvey(top, data, unlucky)
    order = data.draw(st.permutations(range(count)))
    for place in range(0, count, 3):  # even the first survey's rows came in pieces, in any order
        numbers = np.array(order[place : place + 3], dtype=np.int64)
        one.feed.edge.put(Piece(table_of([{"n": int(n)} for n in numbers]), numbers))
    fan = after(one.node, Fan())
    two = ShuffledSurvey(fan, data)
    last = after(two.node, Where("(n + child) % 2 == 0"))
    for node in (fan, last):
        node.tracks = node.holds = True
    for _ in range(data.draw(st.integers(0, 2))):
        one.work()
        two.work()
    one.end()
    two.end()
    push([last])
    above = settled(
        two.node, settled(fan, settled(one.node, Settled(), keeps_labels=True), keeps_labels=False), keeps_labels=True
    )
    table, _ = in_order(last.rows(), np.arange(last.count), settled(last, above, keeps_labels=True))
    fanned = [{"n": n, "child": child} for n in range(count) if n not in unlucky for child in range(n % 3)]
    expected = [(label, row) for label, row in enumerate(fanned) if (row["n"] + row["child"]) % 2 == 0]
    assert list(table.dicts()) == [row for _, row in expected]
    labels = range(table.count) if table.index is None else table.index
    assert list(labels) == [label for label, _ in expected]


@given(
    fans=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5),
    count=st.integers(0, 5),
    slab=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_what_comes_of_a_chain_does_not_depend_on_how_it_is_cut(fans, count, slab):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "SLAB", slab)
        node = source(count)
        expected = [{"n": n} for n in range(count)]
        for number, fan in enumerate(fans):
            node = after(node, Product({f"k{number}": fan}))
            expected = [{**row, f"k{number}": k} for row in expected for k in fan]
        node = after(node, Derive({"m": "n + k0"}))
        feed = arrivals(node)
        while feed.pull():
            pass
        rows = list(feed.slice(0, feed.count).dicts()) if feed.count else []
        assert rows == [{**row, "m": row["n"] + row["k0"]} for row in expected]
        assert feed.closed
