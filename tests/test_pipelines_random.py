"""Random pipelines give, on any backend, what a plain interpreter of the same stages gives: values, types and order."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest
from conftest import QUIET
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline_workers import MIXTURE, at_random, group_at_random

import paramsurvey
from paramsurvey import MapResults, Pipeline, flow, psets
from paramsurvey.engine.columns import unpack
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.stages import rows as row_stages
from paramsurvey.tables import table_of

pytestmark = pytest.mark.timeout(300, method="signal")

SETTINGS = {"suppress_health_check": list(HealthCheck)}
NAN = float("nan")


# A recipe: what a pipeline is made of, as plain data


@attrs.frozen
class Step:
    """A stage: its kind, its name, after which others it comes, and whatever else there is to say."""

    kind: str
    name: str
    after: tuple[str, ...]
    how: Any = None


@attrs.frozen
class Recipe:
    """Psets by the names of their sources, and stages."""

    sources: dict[str, list[dict[str, Any]]]
    steps: tuple[Step, ...]
    frames: frozenset[str] = frozenset()

    def given(self):
        """Return the psets as the user has them: some as frames, with labels of their own."""
        return {name: _frame_of(rows) if name in self.frames else rows for name, rows in self.sources.items()}


def _frame_of(rows):
    return pd.DataFrame(rows, index=pd.Index([label_in_frame(place) for place in range(len(rows))], dtype=object))


def label_in_frame(place):
    return f"row {place * 7 % 10}"


NUMBERS = st.one_of(st.integers(0, 6), st.sampled_from([2**53 + 1, 2**62]))
ODD_VALUES = st.sampled_from([*MIXTURE, 1, 1.0, "a", "b", np.float64(1.5), np.int8(3), (1, 2)])
GROUPING = st.sampled_from([None, 1, True, 1.0, "x", 2**53 + 1, 2.0**53, 0.5, NAN])
PSETS = st.lists(st.fixed_dictionaries({"n": NUMBERS}, optional={"v": ODD_VALUES}), max_size=9)
IN_A_FRAME = st.sampled_from([st.integers(-5, 5), st.sampled_from([0.5, NAN, -0.0]), st.sampled_from(["a", "b", ""])])
PSETS_OF_A_FRAME = IN_A_FRAME.flatmap(
    lambda values: st.lists(st.fixed_dictionaries({"n": NUMBERS, "v": values}), max_size=9)
)
KINDS = ["map", "map", "map", "product", "derive", "where", "rename", "drop", "keep", "explode", "join", "concat"]
KINDS += ["top", "reduce"]


@attrs.define
class Known:
    """What the rows of a stage may have beside "n": columns, and those by which rows can be grouped."""

    columns: list[str]
    groups: list[str]


@attrs.define
class Draft:
    """A recipe that is being drawn."""

    draw: Any
    sources: dict[str, list[dict[str, Any]]]
    steps: list[Step] = attrs.field(factory=list)
    known: dict[str, Known] = attrs.field(factory=dict)

    def one_of(self, *choices):
        return self.draw(st.sampled_from(choices))

    @property
    def names(self):
        return [*self.sources, *(step.name for step in self.steps)]

    def add(self, kind, after, how=None, *, columns=(), groups=(), without=(), only=None):
        """Add a stage, after which there are these columns beside those before, or these only."""
        name = f"{kind}{len(self.steps)}"
        self.steps.append(Step(kind, name, tuple(after), how))
        above = [self.known[each] for each in after]
        had = dict.fromkeys(column for each in above for column in each.columns)
        could = dict.fromkeys(group for each in above for group in each.groups)
        left = [column for column in had if column not in without and (only is None or column in only)]
        self.known[name] = Known([*left, *columns], [*(group for group in could if group in left), *groups])
        return name

    def more(self):
        """Add one stage of any kind, or some that belong together."""
        producer = self.one_of(*self.names[-3:], *self.names[-3:], *self.names)
        getattr(self, self.one_of(*KINDS))(producer, self.known[producer], f"c{len(self.steps)}")

    def map(self, producer, known, new):
        kind = self.one_of("number", "mixture", "sometimes", "nothing", "fails", "tried twice")
        self.add("map", [producer], (kind, new, self.one_of(None, 1, 2, 5), self.draw(WAITS)), columns=[new])

    def product(self, producer, known, new):
        grid = self.draw(st.lists(GROUPING, max_size=3))
        self.add("product", [producer], (new, grid), columns=[new], groups=[new])

    def derive(self, producer, known, new):
        self.add("derive", [producer], (new, self.one_of(*DERIVED)), columns=[new])

    def where(self, producer, known, new):
        self.add("where", [producer], self.one_of(*CONDITIONS))

    def rename(self, producer, known, new, column=None):
        if column is None:
            column = self.one_of("v", *known.columns)
        if column in known.columns:
            more = [new] if column in known.groups else []
            return self.add("rename", [producer], (column, new), columns=[new], groups=more, without=[column])
        return producer

    def drop(self, producer, known, new):
        if known.columns:
            column = self.one_of(*known.columns)
            self.add("drop", [producer], column, without=[column])

    def keep(self, producer, known, new, column=None):
        if known.columns:
            column = column or self.one_of(*known.columns)
            self.add("keep", [producer], column, only=[column])

    def explode(self, producer, known, new):
        kind, into = self.one_of("list", "dicts"), self.one_of(None, f"{new}e")
        lists = self.add("map", [producer], (kind, new, self.one_of(None, 1, 3), self.draw(WAITS)))
        made = [into] if into else [new] if kind == "list" else [f"{new}x", f"{new}y"]
        self.add("explode", [lists], (new, into), columns=made)

    def join(self, producer, known, new):
        """Join with one column of another stage, under a name that nobody else has."""
        right = self.one_of(*(name for name in self.names if self.known[name].columns), "")
        if right:
            column = self.one_of(*self.known[right].columns)
            self.keep(right, self.known[right], new, column)
            kept = self.steps[-1].name
            named = self.rename(kept, self.known[kept], new, column)
            self.add("join", [producer, named], self.one_of("inner", "left", "right", "outer"))

    def concat(self, producer, known, new):
        self.add("concat", [producer, *self.draw(st.lists(st.sampled_from(self.names), min_size=1, max_size=2))])

    def top(self, producer, known, new):
        within = self.one_of(None, *known.groups)
        self.add("top", [producer], (self.one_of(1, 2, 3), self.one_of(True, False), within))

    def reduce(self, producer, known, new):
        by = self.one_of((), ("n",), *((group,) for group in known.groups), *(("n", group) for group in known.groups))
        column, worker = self.one_of("n", *known.columns), by == ("n",) and self.one_of(True, False)
        made = [new] if worker else [new, f"{new}k", f"{new}f"]
        self.add("reduce", [producer], (by, column, new, worker), columns=made, only=by)


def _known_in(rows):
    return Known(["v"] if any("v" in row for row in rows) else [], [])


@st.composite
def drafts(draw, most):
    names = draw(st.sampled_from([("a",), ("a", "b")]))
    frames = draw(st.frozensets(st.sampled_from(names)))
    sources = {name: draw(PSETS_OF_A_FRAME if name in frames else PSETS) for name in names}
    draft = Draft(draw, sources, known={name: _known_in(rows) for name, rows in sources.items()})
    length = draw(st.integers(1, most))
    while len(draft.steps) < length:
        draft.more()
    return Recipe(sources, tuple(draft.steps), frames)


def recipes(most=8):
    return drafts(most).filter(lambda recipe: not reads_what_no_row_has(recipe))


WAITS = st.one_of(st.none(), st.lists(st.sampled_from([0, 0, 0, 100, 1000]), min_size=1, max_size=5))


def _plain(value):
    """Return what a value is in a Series and out of it: a float64 is a float."""
    return float(value) if type(value) is np.float64 else value


DERIVED: dict[str, tuple[Any, bool, Callable[[dict[str, Any]], Any]]] = {
    "expression": ("n % 5 * 2", False, lambda row: row["n"] % 5 * 2),
    "of columns": (lambda n: n // 3, False, lambda row: row["n"] // 3),
    "as it is": (lambda v="none": v, False, lambda row: _plain(row.get("v", "none"))),
    "by row": (lambda n, v=None: [n, v], True, lambda row: [row["n"], row.get("v")]),
    "of all": (lambda **row: len(row), True, lambda row: len(row)),
    "constant": (lambda: None, False, lambda row: None),
}

CONDITIONS: dict[str, tuple[Any, bool, Callable[[dict[str, Any]], bool]]] = {
    "even": ("n % 2 == 0", False, lambda row: row["n"] % 2 == 0),
    "small": (lambda n: n < 4, False, lambda row: row["n"] < 4),
    "some": ({"n": [1, 2.0, 5, 2**53 + 1]}, False, lambda row: row["n"] in (1, 2, 5, 2**53 + 1)),
    "ints": (lambda v=1: isinstance(v, int), True, lambda row: isinstance(row.get("v", 1), int)),
    "none": ("n < 0", False, lambda row: False),
    "all": ("n >= 0", False, lambda row: True),
}


# The recipe as a pipeline


def pipeline_of(recipe, *, is_deadly=False):
    """Return the pipeline; if it is deadly, rows that are tried again end their process at the first attempt."""
    pipeline = Pipeline("random", sources=tuple(recipe.sources))
    for step in recipe.steps:
        more = {"is_deadly": is_deadly} if step.kind == "map" else {}
        pipeline = BUILT[step.kind](pipeline, step, **more)
    return pipeline


def _map(pipeline, step, *, is_deadly):
    kind, column, size, waits = step.how
    told = {"kind": kind, "column": column, "waits": waits, "is_deadly": is_deadly}
    return pipeline.map(at_random, name=step.name, after=step.after[0], user_kwargs=told, group_size=size, retries=1)


def _derive(pipeline, step):
    column, what = step.how
    given, per_row, _ = DERIVED[what]
    stage = row_stages.Derive({column: given}, per_row=per_row, name=step.name)
    return pipeline.add(stage, after=step.after)


def _where(pipeline, step):
    condition, per_row, _ = CONDITIONS[step.how]
    return pipeline.where(condition, per_row=per_row, after=step.after, name=step.name)


def _top(pipeline, step):
    count, largest, within = step.how
    return pipeline.top(count, "n", largest=largest, within=within, after=step.after, name=step.name)


def _reduce(pipeline, step):
    by, column, new, worker = step.how
    place = {"after": step.after, "name": step.name}
    if worker:
        return pipeline.reduce(list(by), worker=group_at_random, options={"user_kwargs": {"column": new}}, **place)
    aggregate = {new: ("n", "sum"), f"{new}k": (column, "count"), f"{new}f": (column, "first")}
    if "n" not in by:
        aggregate["n"] = ("n", "max" if by else "count")
    return pipeline.reduce(list(by) or None, aggregate=aggregate, **place)


BUILT = {
    "map": _map,
    "product": lambda p, step: p.product({step.how[0]: step.how[1]}, after=step.after, name=step.name),
    "derive": _derive,
    "where": _where,
    "rename": lambda p, step: p.rename({step.how[0]: step.how[1]}, after=step.after, name=step.name),
    "drop": lambda p, step: p.drop(step.how, after=step.after, name=step.name),
    "keep": lambda p, step: p.keep("n", step.how, after=step.after, name=step.name),
    "explode": lambda p, step: p.explode(step.how[0], into=step.how[1], after=step.after, name=step.name),
    "join": lambda p, step: p.join("n", how=step.how, after=step.after, name=step.name),
    "concat": lambda p, step: p.concat(after=step.after, name=step.name),
    "top": _top,
    "reduce": _reduce,
}


# The plain interpreter


@attrs.frozen
class Row:
    """A row, its label, and the places in the sources that it comes from."""

    values: dict[str, Any]
    label: Any
    origins: frozenset[tuple[str, int]]


@attrs.frozen
class Expected:
    """What comes out of a stage, and what is lost there."""

    rows: list[Row]
    lost: list[Row] = attrs.field(factory=list)


MISSING = object()


def interpreted(recipe):
    found = {
        name: Expected(
            [
                Row(row, label_in_frame(place) if name in recipe.frames else place, frozenset({(name, place)}))
                for place, row in enumerate(rows)
            ]
        )
        for name, rows in recipe.sources.items()
    }
    for step in recipe.steps:
        found[step.name] = MEANING[step.kind](step.how, *(found[name].rows for name in step.after))
    return found


def renumbered(rows):
    return Expected([attrs.evolve(row, label=place) for place, row in enumerate(rows)])


def changed(rows, change):
    """Return rows whose values are what a function makes of them."""
    return Expected([attrs.evolve(row, values=change(row.values)) for row in rows])


def mean_map(how, rows):
    kind, column, _, _ = how
    finished, lost = [], []
    for row in rows:
        try:
            answer = at_random(row.values, {"attempt": 2}, {"kind": kind, "column": column})
        except ValueError:
            lost.append(row)
        else:
            finished.append(attrs.evolve(row, values=row.values | (answer or {})))
    return Expected(finished, lost)


def mean_product(how, rows):
    column, values = how
    grid = unpack(row_stages.Product({column: values}).grid.column(column))  # its dtype is that of a frame's column
    return renumbered([attrs.evolve(row, values=row.values | {column: value}) for row in rows for value in grid])


def mean_explode(how, rows):
    column, into = how
    made = []
    for row in rows:
        others = {name: value for name, value in row.values.items() if name != column}
        for element in row.values[column]:
            new = element if isinstance(element, dict) and into is None else {into or column: element}
            made.append(attrs.evolve(row, values=others | new))
    return renumbered(made)


def mean_join(how, lefts, rights):
    made, taken = [], set()
    for left in lefts:
        partners = [place for place, right in enumerate(rights) if right.values["n"] == left.values["n"]]
        taken |= set(partners)
        for right in (rights[place] for place in partners):
            made.append(Row(right.values | left.values, 0, left.origins | right.origins))
        if not partners and how in ("left", "outer"):
            made.append(left)
    if how in ("right", "outer"):
        made += [right for place, right in enumerate(rights) if place not in taken]
    return renumbered(made)


def key_of(row, names):
    values = [row.values.get(name) for name in names]
    return tuple(MISSING if value is None or value != value else value for value in values)


def grouped(rows, names):
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key_of(row, names), []).append(row)
    return list(groups.values())


def mean_top(how, rows):
    count, largest, within = how
    groups = [rows] if within is None else grouped(rows, [within])
    best = [sorted(group, key=lambda row: -row.values["n"] if largest else row.values["n"])[:count] for group in groups]
    return renumbered([row for group in best for row in group])


def mean_reduce(how, rows):
    by, column, new, worker = how
    made = []
    for group in grouped(rows, by) if by else [rows]:
        values = {name: group[0].values[name] for name in by if name in group[0].values}
        if worker:
            values |= group_at_random({"group": [row.values for row in group]}, {}, {"column": new})
        else:
            present = [row.values.get(column) for row in group]
            present = [value for value in present if value is not None and not is_nan(value)]
            numbers = [row.values["n"] for row in group]
            values |= {new: sum(numbers), f"{new}k": len(present)} | ({f"{new}f": present[0]} if present else {})
            if "n" not in by:
                values["n"] = max(numbers) if by else len(numbers)
        made.append(Row(values, 0, frozenset()))
    return renumbered(made)


def is_nan(value):
    return isinstance(value, float) and math.isnan(value)


def _derived(how, rows):
    column, what = how
    return changed(rows, lambda row: row | {column: DERIVED[what][2](row)})


MEANING = {
    "map": mean_map,
    "product": mean_product,
    "derive": _derived,
    "where": lambda how, rows: Expected([row for row in rows if CONDITIONS[how][2](row.values)]),
    "rename": lambda how, rows: changed(rows, lambda row: {how[1] if k == how[0] else k: v for k, v in row.items()}),
    "drop": lambda how, rows: changed(rows, lambda row: {k: v for k, v in row.items() if k != how}),
    "keep": lambda how, rows: changed(rows, lambda row: {k: row[k] for k in ("n", how) if k in row}),
    "explode": mean_explode,
    "join": mean_join,
    "concat": lambda how, *tables: renumbered([row for rows in tables for row in rows]),
    "top": mean_top,
    "reduce": mean_reduce,
}


def reads_what_no_row_has(recipe):
    """Tell whether a whole-table stage reads a column that might be there, and by chance none of its rows has it."""
    found = interpreted(recipe)
    for step in recipe.steps:
        reads = {"top": lambda how: [how[2]], "reduce": lambda how: [*how[0], how[1]]}.get(step.kind, lambda how: [])
        rows = [row for name in step.after for row in found[name].rows]
        if rows and any(column and all(column not in row.values for row in rows) for column in reads(step.how)):
            return True
    return False


# Both beside one another


def seen(values):
    """Return what is compared of a row: every value and its type, whatever the order of the columns."""
    return [(name, typed_bytes(values[name])) for name in sorted(values)]


def assert_as_expected(run, recipe):
    expected = interpreted(recipe)
    has_odd_grids = any(step.kind == "product" and len(set(map(type, step.how[1]))) > 1 for step in recipe.steps)
    for step in recipe.steps:
        rows = expected[step.name].rows
        table = run._found[step.name]
        table = table.table if isinstance(table, MapResults) else table
        assert [seen(row) for row in table.dicts()] == [seen(row.values) for row in rows], step
        frame = run[step.name].results if isinstance(run[step.name], MapResults) else run[step.name]
        assert_frame(frame, rows, step, has_odd_grids=has_odd_grids)
        assert_lineage(run, step.name, rows, recipe)
    lost = [(step.name, row.values["n"]) for step in recipe.steps for row in expected[step.name].lost]
    assert list(zip(run.missing["_stage"], run.missing.get("n", []), strict=False)) == lost
    assert set(run.missing["_kind"]) <= {"raised"}


def assert_frame(frame, rows, step, *, has_odd_grids):
    """Assert that dtypes and labels are those of a table that is made of the rows at once."""
    assert frame.index.tolist() == [row.label for row in rows], step
    made = table_of([row.values for row in rows]).frame().set_axis(frame.index)
    assert set(made.columns) <= set(frame.columns), step
    assert frame[[name for name in frame.columns if name not in made.columns]].isna().all(axis=None), step
    for name in made.columns:
        found, wanted = frame[name], made[name]
        if has_odd_grids and found.dtype == object:  # of a product whose grid has values of several types
            wanted = wanted.astype(object)
            assert found.isna().equals(wanted.isna()), step
            found, wanted = found.dropna(), wanted.dropna()
        pd.testing.assert_series_equal(found, wanted, obj=f"{step}: {name}")


def assert_same_frames(run, other):
    """Assert that two runs have the same frames: also the same columns in the same order."""
    assert list(run) == list(other)
    for name, found in run.items():
        pair = found, other[name]
        if isinstance(found, MapResults):
            assert_same_frame(found.missing, other[name].missing)
            pair = found.results, other[name].results
        assert_same_frame(*pair)
    assert_same_frame(run.missing, other.missing)


def assert_same_frame(frame, other):
    assert len(frame) == len(other)
    if len(frame):  # else nobody knows which columns rows would have had
        hidden = frame.columns.intersection(["_traceback"])  # whose lines are those of one backend or another
        pair = (each.drop(columns=hidden).dropna(axis="columns", how="all") for each in (frame, other))
        pd.testing.assert_frame_equal(*pair)


def assert_lineage(run, name, rows, recipe):
    for place, row in enumerate(rows):
        found = run.lineage(place, name)
        named = {
            source: [
                recipe.sources[source][number] for number in sorted(n for each, n in row.origins if each == source)
            ]
            for source in {each for each, _ in row.origins}
        }
        assert {source: list(map(seen, psets)) for source, psets in found.items()} == {
            source: list(map(seen, psets)) for source, psets in named.items()
        }, (name, place)


@pytest.fixture(scope="module")
def pool():
    with paramsurvey.Session(backend="multiprocessing", ncores=8, **QUIET) as session:
        yield session


@attrs.frozen
class Cut:
    """How many rows are in a piece at most, and how many may wait on an edge."""

    slab: int
    full: int


@contextmanager
def cutting(cut):
    with pytest.MonkeyPatch.context() as patch:
        for module in (flow, psets, row_stages):
            patch.setattr(module, "SLAB", cut.slab)
        patch.setattr(flow, "FULL", cut.full)
        yield


CUTS = st.builds(Cut, st.sampled_from([1, 2, 3, 5, 8192]), st.sampled_from([1, 4, 32768]))


@pytest.mark.unmeasured
@given(recipe=recipes(), cut=CUTS, size=st.sampled_from([None, 1, 3]))
@settings(max_examples=300, **SETTINGS)
def test_a_random_pipeline_gives_what_the_plain_interpreter_gives(recipe, cut, size, serial):
    with cutting(cut):
        run = serial.run(pipeline_of(recipe), **recipe.given(), allow_missing=True, group_size=size)
    assert_as_expected(run, recipe)
    assert_same_frames(run, serial.run(pipeline_of(recipe), **recipe.given(), allow_missing=True))


@given(recipe=recipes(), cut=CUTS, size=st.sampled_from([None, 1, 3]), workers=st.sampled_from([1, 2, 8]))
@settings(max_examples=40, **SETTINGS)
def test_it_does_so_on_any_number_of_workers(recipe, cut, size, workers, serial, pool):
    options = {"allow_missing": True, "group_size": size}
    with cutting(cut):
        run = pool.run(pipeline_of(recipe, is_deadly=True), **recipe.given(), **options, ncores=workers)
    assert_as_expected(run, recipe)
    assert_same_frames(run, serial.run(pipeline_of(recipe), **recipe.given(), allow_missing=True))


@given(recipe=recipes(most=5), cut=CUTS, end=st.sampled_from(["map", "where", "top"]), data=st.data())
@settings(max_examples=60, **SETTINGS)
def test_a_stream_of_it_yields_the_same_rows(recipe, cut, end, data, serial, pool):
    last = recipe.steps[-1].name
    every = [step.name for step in recipe.steps]
    ends = {"map": ("number", "end", 2, None), "where": "all", "top": (99, True, None)}
    used = {name for step in recipe.steps for name in step.after}
    sinks = tuple(name for name in every if name not in used)
    steps = recipe.steps
    if len(sinks) > 1:
        steps, last = (*steps, Step("concat", "all", sinks)), "all"
    recipe = attrs.evolve(recipe, steps=(*steps, Step(end, "end", (last,), ends[end])))
    session = data.draw(st.sampled_from([serial, serial, serial, pool]))
    with cutting(cut):
        sources = {name: rows if name in recipe.frames else iter(rows) for name, rows in recipe.given().items()}
        rows = list(session.stream_run(pipeline_of(recipe), **sources, allow_missing=True))
    assert sorted(map(seen, rows)) == sorted(seen(row.values) for row in interpreted(recipe)["end"].rows)
