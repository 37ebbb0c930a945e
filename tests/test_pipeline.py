"""Pipelines before they run: what they are made of, and what is refused."""

from __future__ import annotations

import re

import attrs
import networkx as nx
import pandas as pd
import pytest
from conftest import QUIET, Nowhere
from pipeline_workers import half, negated, square

import paramsurvey
from paramsurvey import Pipeline
from paramsurvey.errors import OptionError, OptionTypeError, PsetError, StageError, WorkerError
from paramsurvey.pipeline import Step
from paramsurvey.stages.base import Columns, Made, Rows, Source
from paramsurvey.stages.map import Map
from paramsurvey.stages.rows import Where
from paramsurvey.stages.tables import Concat, Join, Top
from paramsurvey.tables import Table
from paramsurvey.workers import keywords


@pytest.fixture(scope="module")
def session():
    with paramsurvey.Session(backend="serial", **QUIET) as session:
        yield session


def refused(message, kind=StageError):
    return pytest.raises(kind, match=r"^" + re.escape(message) + "$")


def after(pipeline):
    """Tell which stages each stage comes after."""
    return {name: step.after for name, step in pipeline.steps.items()}


# Recipes never change

DIAMOND = (
    Pipeline("diamond").map(square).where("square > 1").map(half, after="square").join("n", after=("where", "half"))
)

CALLS = [
    lambda pipeline: pipeline.add(Map(negated)),
    lambda pipeline: pipeline.map(negated),
    lambda pipeline: pipeline.product({"x": [1, 2]}),
    lambda pipeline: pipeline.derive(y="n + 1"),
    lambda pipeline: pipeline.where("n > 1"),
    lambda pipeline: pipeline.drop("n"),
    lambda pipeline: pipeline.keep("n"),
    lambda pipeline: pipeline.rename({"n": "m"}),
    lambda pipeline: pipeline.explode("n"),
    lambda pipeline: pipeline.join("n", after=("psets", "square")),
    lambda pipeline: pipeline.concat(after=("psets", "square")),
    lambda pipeline: pipeline.reduce("n", aggregate={"k": ("n", "count")}),
    lambda pipeline: pipeline.top(2, "n"),
    lambda pipeline: pipeline.best("n"),
    lambda pipeline: pipeline.apply(lambda frame: frame, name="applied"),
    lambda pipeline: pipeline.add(Pipeline("other").map(square)),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_returns_a_new_pipeline_and_leaves_the_old_one_as_it_was(call):
    before = Pipeline("p").map(square)
    steps, graph, sinks = dict(before.steps), before.graph, before.sinks
    longer = call(before)
    assert type(longer) is Pipeline
    assert len(longer) == len(before) + 1
    assert (dict(before.steps), before.graph, before.sinks) == (steps, graph, sinks)
    assert list(longer)[:2] == ["psets", "square"]
    assert longer.name == "p"


def test_a_beginning_can_be_shared():
    beginning = Pipeline().map(square)
    one, other = beginning.map(half), beginning.map(negated)
    assert (list(one), list(other)) == (["psets", "square", "half"], ["psets", "square", "negated"])


def test_steps_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        DIAMOND.steps["square"] = None
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        DIAMOND.steps["square"].after = ()


def test_a_list_that_was_handed_over_may_change_afterwards():
    places = ["where", "half"]
    pipeline = Pipeline().map(square).where("n > 1").map(half, after="square").add(Concat(), after=places)
    places.clear()
    assert pipeline.steps["concat"].after == ("where", "half")


# Names and places


def test_stages_are_in_order_and_each_is_after_the_one_added_before():
    pipeline = Pipeline("p").map(square).where("square > 1").map(half)
    assert list(pipeline) == ["psets", "square", "where", "half"]
    assert after(pipeline) == {"psets": (), "square": ("psets",), "where": ("square",), "half": ("where",)}
    assert len(pipeline) == 3
    assert ("half" in pipeline, "psets" in pipeline, "third" in pipeline) == (True, True, False)
    assert (pipeline.sources, pipeline.sinks) == (("psets",), ("half",))


def test_a_stage_has_its_functions_name_or_another():
    pipeline = Pipeline().map(square).map(square, name="again").map(lambda p, s, u: None).apply(len, name="length")
    assert list(pipeline) == ["psets", "square", "again", "<lambda>", "length"]
    assert list(Pipeline().apply(sorted)) == ["psets", "sorted"]
    assert list(Pipeline().add(Map(square), name="mine")) == ["psets", "mine"]


def test_stages_that_only_say_what_they_do_are_numbered():
    pipeline = (
        Pipeline().where("a > 1").where("a > 2").where("a > 3").top(1, "a").top(2, "a").derive(b="a").derive(c="a")
    )
    assert list(pipeline)[1:] == ["where", "where2", "where3", "top", "top2", "derive", "derive2"]


@pytest.mark.parametrize(
    ("again", "name"),
    [
        (lambda pipeline: pipeline.map(square), "square"),
        (lambda pipeline: pipeline.where("n > 1", name="square"), "square"),
        (lambda pipeline: pipeline.add(Where("n > 1"), name="psets"), "psets"),
        (lambda pipeline: pipeline.where("n > 1").add(Where("n > 2")), "where"),
        (lambda pipeline: pipeline.top(1, "n", name="square"), "square"),
        (lambda pipeline: pipeline.apply(square), "square"),
    ],
)
def test_a_name_that_is_taken_is_refused(again, name):
    with refused(f"pipeline 'p' has a stage of the name {name!r} already: give this one another name="):
        again(Pipeline("p").map(square))


def test_branches_and_joins_say_what_they_come_after():
    assert after(DIAMOND) == {
        "psets": (),
        "square": ("psets",),
        "where": ("square",),
        "half": ("square",),
        "join": ("where", "half"),
    }
    assert DIAMOND.sinks == ("join",)
    assert Pipeline().map(square).map(half, after="psets").sinks == ("square", "half")


def test_a_stage_may_come_twice_after_another():
    assert Pipeline().map(square).concat(after=("square", "square")).steps["concat"].after == ("square", "square")


def test_a_pipeline_says_what_it_is():
    assert repr(Pipeline("p").map(square).where("n > 1")) == "<Pipeline 'p': 'square', 'where'>"
    assert repr(Pipeline()) == "<Pipeline 'pipeline': none>"


def test_kinds_of_stages():
    assert {name: step.kind for name, step in DIAMOND.steps.items()} == {
        "psets": "source",
        "square": "map",
        "where": "rows",
        "half": "map",
        "join": "table",
    }


# Sources


def test_several_sources_have_names_and_stages_say_after_which_they_come():
    pipeline = Pipeline(sources=("sites", "costs")).map(square, after="sites").join("n", after=("square", "costs"))
    assert pipeline.sources == ("sites", "costs")
    assert pipeline.sinks == ("join",)
    assert len(pipeline) == 2


def test_the_first_stage_after_several_sources_has_to_say_which():
    message = "the first stage of 'p' comes after several sources: say which with after=; there are: 'sites', 'costs'"
    with refused(message):
        Pipeline("p", sources=("sites", "costs")).map(square)


@pytest.mark.parametrize("sources", ["sites", (), (1,), ("",), ("a", None)])
def test_sources_are_names(sources):
    with refused(f"sources={sources!r}: the sources of a pipeline are a sequence of names"):
        Pipeline(sources=sources)


def test_two_sources_of_one_name_are_refused():
    with refused("pipeline 'p' has two stages of the name 'a': give one another name="):
        Pipeline("p", sources=("a", "a"))


# The graph


def test_the_graph_has_the_stages_and_is_frozen():
    graph = DIAMOND.graph
    assert isinstance(graph, nx.DiGraph)
    assert nx.is_frozen(graph)
    assert list(graph) == ["psets", "square", "where", "half", "join"]
    assert set(graph.edges) == {
        ("psets", "square"),
        ("square", "where"),
        ("square", "half"),
        ("where", "join"),
        ("half", "join"),
    }
    assert isinstance(graph.nodes["join"]["stage"], Join)
    assert graph.nodes["psets"]["stage"] == Source("psets")
    assert all(graph.nodes[name]["stage"] is step.stage for name, step in DIAMOND.steps.items())
    assert graph.graph["name"] == "diamond"
    with pytest.raises(nx.NetworkXError, match="Frozen graph can't be modified"):
        graph.add_edge("half", "where")


def test_the_graph_is_usable_with_functions_of_networkx():
    graph = DIAMOND.graph
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.ancestors(graph, "where") == {"psets", "square"}
    assert nx.descendants(graph, "square") == {"where", "half", "join"}
    assert nx.dag_longest_path_length(graph) == 3
    assert [sorted(each) for each in nx.topological_generations(graph)] == [
        ["psets"],
        ["square"],
        ["half", "where"],
        ["join"],
    ]


# Pipelines as stages


def test_a_pipeline_is_a_stage_whose_names_get_its_own_in_front():
    clean = Pipeline("clean").where("n > 1").derive(m="n + 1")
    pipeline = Pipeline().map(square).add(clean).map(half)
    assert after(pipeline) == {
        "psets": (),
        "square": ("psets",),
        "clean.where": ("square",),
        "clean.derive": ("clean.where",),
        "half": ("clean.derive",),
    }
    assert pipeline.steps["clean.where"].stage is clean.steps["where"].stage


def test_a_pipeline_may_be_added_twice_under_two_names():
    clean = Pipeline("clean").where("n > 1")
    pipeline = (
        Pipeline().add(clean).add(clean, name="again", after="psets").concat(after=("clean.where", "again.where"))
    )
    assert list(pipeline) == ["psets", "clean.where", "again.where", "concat"]
    with refused("pipeline 'pipeline' has a stage of the name 'clean.where' already: give this one another name="):
        pipeline.add(clean)


def test_pipelines_nest():
    inner = Pipeline("inner").map(square)
    outer = Pipeline("outer").add(inner).where("square > 1")
    assert list(Pipeline().add(outer)) == ["psets", "outer.inner.square", "outer.where"]


def test_the_sources_of_an_added_pipeline_become_the_stages_it_comes_after():
    ranked = Pipeline("ranked", sources=("left", "right")).join("n", after=("left", "right")).top(1, "n")
    pipeline = Pipeline(sources=("a", "b")).add(ranked, after=("b", "a"))
    assert pipeline.steps["ranked.join"].after == ("b", "a")
    message = "the pipeline 'ranked' has 2 sources, 'left', 'right', and after= names 1: name one stage for each"
    with refused(message):
        Pipeline().add(ranked)


def test_that_rows_may_be_missing_goes_with_the_stage_into_a_larger_pipeline():
    inner = Pipeline("inner").top(1, "n", allow_missing=True)
    assert Pipeline().add(inner).steps["inner.top"].allow_missing is True


def test_that_rows_may_be_missing_can_be_said_of_all_stages_of_a_pipeline_that_is_added():
    inner = Pipeline("inner").map(square).top(1, "n").best("n", allow_missing=True)
    added = Pipeline().add(inner, allow_missing=True).steps
    assert {name: step.allow_missing for name, step in added.items()} == {
        "psets": False,
        "inner.square": False,
        "inner.top": True,
        "inner.best": True,
    }
    assert Pipeline().add(inner).steps["inner.top"].allow_missing is False


def test_an_added_pipelines_columns_are_checked_in_its_new_place():
    inner = Pipeline("inner").map(keywords(lambda width: width, output="w"), name="measure")
    with refused("stage 'measure' reads the column 'width', which the rows do not have there; they have: 'n'"):
        Pipeline().keep("n").add(inner)


# The constructor


def test_steps_can_be_given_in_any_order():
    steps = [
        Step("last", Top(1, "n"), ("join",)),
        Step("join", Join("n"), ("a", "b")),
        Step("b", Map(half), ("psets",)),
        Step("a", Map(square), ("psets",)),
    ]
    pipeline = Pipeline("p", steps=steps)
    assert after(pipeline) == {"psets": (), "a": ("psets",), "b": ("psets",), "join": ("a", "b"), "last": ("join",)}
    order = list(pipeline)
    assert all(order.index(name) > order.index(other) for name, step in pipeline.steps.items() for other in step.after)
    assert pipeline.sinks == ("last",)


def test_the_constructor_makes_the_same_of_the_steps_as_the_methods():
    again = Pipeline("diamond", steps=[step for step in DIAMOND.steps.values() if step.kind != "source"])
    assert dict(again.steps) == dict(DIAMOND.steps)
    assert nx.utils.graphs_equal(again.graph, DIAMOND.graph)
    assert again.columns() == DIAMOND.columns()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [Step("a", Map(square), ("a",))],
            "the stages of pipeline 'p' go round in a circle: 'a' -> 'a'",
        ),
        (
            [Step("a", Map(square), ("psets",)), Step("a", Map(half), ("psets",))],
            "pipeline 'p' has two stages of the name 'a': give one another name=",
        ),
        (
            [Step("psets", Map(square), ("psets",))],
            "pipeline 'p' has two stages of the name 'psets': give one another name=",
        ),
        (
            [Step("a", Map(square), ("load",))],
            "stage 'a' comes after 'load', which this pipeline does not have; it has: 'psets', 'a'",
        ),
        (
            [Step("a", Map(square), ())],
            "stage 'a' comes after 1 other, and was put after 0: none; there are: 'psets'",
        ),
        (
            [Step("a", Where("n > 1"), ("psets",), True)],
            "stage 'a' is no whole-table stage: allow_missing= says nothing there, because rows go through it one by "
            "one",
        ),
        (
            [Step("a", 42, ("psets",))],
            "42 is no stage: it has no name",
        ),
    ],
)
def test_what_the_constructor_can_know_is_refused_there(steps, message):
    with refused(message):
        Pipeline("p", steps=steps)


def test_stages_that_go_round_in_a_circle_are_refused():
    steps = [
        Step("a", Map(square), ("psets",)),
        Step("b", Concat(), ("a", "d")),
        Step("c", Map(square), ("b",)),
        Step("d", Map(square), ("c",)),
    ]
    with pytest.raises(StageError) as caught:
        Pipeline("p", steps=steps)
    beginning, circle = str(caught.value).split("circle: ")
    assert beginning == "the stages of pipeline 'p' go round in a "
    names = circle.split(" -> ")  # it may begin anywhere
    assert names[0] == names[-1]
    assert sorted(names[1:]) == ["'b'", "'c'", "'d'"]


# What add() refuses


def test_a_stage_after_an_unknown_one_is_refused_with_the_choices():
    message = "stage 'half' comes after 'fit', which this pipeline does not have; it has: 'psets', 'square'"
    with refused(message):
        Pipeline().map(square).map(half, after="fit")
    with refused("stage 'half' comes after 'sqare', which this pipeline does not have; did you mean 'square'?"):
        Pipeline().map(square).map(half, after="sqare")
    with refused("stage 'join' comes after 'fit', which this pipeline does not have; it has: 'psets', 'square'"):
        Pipeline().map(square).join("n", after=("square", "fit"))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda pipeline: pipeline.map(half, after=("square", "psets")),
            "stage 'half' comes after 1 other, and was put after 2: 'square', 'psets'; there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.where("n > 1", after=()),
            "stage 'where' comes after 1 other, and was put after 0: none; there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.join("n", after="square"),
            "stage 'join' comes after 2 others, and was put after 1: 'square'; there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.join("n", after=("square", "psets", "square")),
            "stage 'join' comes after 2 others, and was put after 3: 'square', 'psets', 'square'; "
            "there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.concat(after=["square"]),
            "stage 'concat' comes after 2 or more others, and was put after 1: 'square'; there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.top(1, "n", after=("square", "psets")),
            "stage 'top' comes after 1 other, and was put after 2: 'square', 'psets'; there are: 'psets', 'square'",
        ),
        (
            lambda pipeline: pipeline.apply(len, after=()),
            "stage 'len' comes after 1 or more others, and was put after 0: none; there are: 'psets', 'square'",
        ),
    ],
)
def test_a_stage_after_too_many_or_too_few_others_is_refused(add, message):
    with refused(message):
        add(Pipeline().map(square))


def test_a_third_partys_stage_may_say_after_how_many_others_it_comes():
    class Vote:
        name = "vote"
        inputs = (2, 3)

        def table(self, *tables):
            return tables[0]

    pipeline = Pipeline().map(square).map(half).map(negated)
    assert pipeline.add(Vote(), after=("square", "half")).steps["vote"].kind == "table"
    with refused(
        "stage 'vote' comes after 2 to 3 others, and was put after 4: 'square', 'half', 'negated', 'square'; "
        "there are: 'psets', 'square', 'half', 'negated'"
    ):
        pipeline.add(Vote(), after=("square", "half", "negated", "square"))


class WithName:
    name = "nothing to do"


class WithoutName:
    def rows(self, table):
        yield Rows(table, range(table.count))


WITHOUT_NAME = WithoutName()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (42, "42 is no stage: it has no name"),
        (None, "None is no stage: it has no name"),
        (square, f"{square!r} is no stage: it has no name"),
        (WITHOUT_NAME, f"{WITHOUT_NAME!r} is no stage: it has no name"),
    ],
    ids=["number", "none", "function", "object"],  # the same in every process: no addresses
)
def test_what_has_no_name_is_no_stage(stage, message):
    with refused(message):
        Pipeline().add(stage)


def test_what_has_a_name_and_none_of_the_three_methods_is_no_stage():
    stage = WithName()
    with refused(
        f"{stage!r} is no stage: it has none of the methods work(), rows() and table(); a plain function becomes one "
        "with .map(function) for every row, or .apply(function) for the whole table"
    ):
        Pipeline().add(stage)


def test_a_class_is_no_stage():
    with pytest.raises(StageError, match="is no stage: it has no"):
        Pipeline().add(Where)


def test_anything_with_a_name_and_a_method_is_a_stage():
    class Twice:
        name = "twice"

        def rows(self, table):
            yield Rows(table, range(table.count))

    class Whole:
        name = "whole"

        def table(self, table: Table) -> Made:
            return Made(table, ())

    pipeline = Pipeline().add(Twice()).add(Whole(), allow_missing=True)
    assert [step.kind for step in pipeline.steps.values()] == ["source", "rows", "table"]


@pytest.mark.parametrize("name", [5, b"bytes", ("a", "b")])
def test_names_of_stages_are_text(name):
    with refused(f"name={name!r}: the name of a stage is a text"):
        Pipeline().add(Map(square), name=name)


@pytest.mark.parametrize("after", [5, (5,), ("psets", None), object])
def test_after_is_a_name_or_several(after):
    with refused(f"after={after!r}: it is the name of a stage, or several; there are: 'psets'"):
        Pipeline().add(Map(square), after=after)


def test_that_rows_may_be_missing_is_for_whole_table_stages():
    message = (
        "stage '{}' is no whole-table stage: allow_missing= says nothing there, because rows go through it one by one"
    )
    for stage in (Map(square), Where("n > 1")):
        with refused(message.format(stage.name)):
            Pipeline().add(stage, allow_missing=True)
    with refused(message.format("where")):
        Pipeline().where("n > 1", allow_missing=True)


# Options of stages


@pytest.mark.parametrize("name", ["backend", "ncores", "pslogger_prefix", "limit"])
def test_options_of_the_whole_run_are_refused_for_a_stage(name):
    value = {"backend": "serial", "ncores": 2, "pslogger_prefix": "x", "limit": 3}[name]
    with refused(f"Map({name}=...): {name} is an option of the whole run, not of one stage of it", OptionError):
        Pipeline().map(square, **{name: value})


def test_the_log_of_a_stage_is_refused():
    message = "Map(pslogger_fd=...): pslogger_fd is an option of the whole run, not of one stage of it"
    with refused(message, OptionError):
        Pipeline().map(square, pslogger_fd=Nowhere())


def test_unknown_and_impossible_options_of_a_stage_are_refused_when_it_is_made():
    with refused("Map() has no option 'timeuot'; did you mean 'timeout'?", OptionError):
        Pipeline().map(square, timeuot=3)
    with pytest.raises(OptionTypeError, match=re.escape("Map(retries='two')")):
        Pipeline().map(square, retries="two")
    with pytest.raises(OptionError, match=re.escape("Map() has no option 'allow_missing'")):
        Pipeline().map(square, allow_missing=True)


def test_what_cannot_be_a_worker_is_refused_when_the_stage_is_made():
    with pytest.raises(WorkerError, match="takes \\(n\\), but it is called with three arguments"):
        Pipeline().map(lambda n: n)
    with pytest.raises(WorkerError, match="which cannot be called"):
        Pipeline().map("square")


# Columns known ahead

AREA = keywords(lambda width, height: width * height, output="area")
PRICE = keywords(lambda area, price=2: area * price, output="cost")


def measured():
    return Pipeline("p").map(AREA, name="measure").map(PRICE, name="pay")


def test_columns_that_come_out_of_each_stage_are_told():
    known = measured().columns({"psets": Columns(("width", "height"), open=False)})
    assert known == {
        "psets": Columns(("width", "height"), open=False),
        "measure": Columns(("width", "height", "area"), open=False),
        "pay": Columns(("width", "height", "area", "cost"), open=False),
    }
    assert measured().columns()["pay"] == Columns(("area", "cost"), open=True)


def test_a_plain_worker_may_add_any_column():
    known = measured().map(square).columns({"psets": Columns(("width", "height"), open=False)})
    assert known["square"] == Columns(("width", "height", "area", "cost"), open=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Pipeline().keep("width").map(AREA, name="measure"),
            "stage 'measure' reads the column 'height', which the rows do not have there; they have: 'width'",
        ),
        (
            lambda: Pipeline().keep("width", "height").map(AREA, name="measure").map(AREA, name="again"),
            "stage 'again' makes the column 'area', which the rows have already: give it another name, or drop or "
            "rename the other one before",
        ),
        (
            lambda: Pipeline().product({"x": [1]}).product({"x": [2]}),
            "stage 'product2' makes the column 'x', which the rows have already: give it another name, or drop or "
            "rename the other one before",
        ),
        (
            lambda: Pipeline().keep("a").where("b > 1"),
            "stage 'where' reads the column 'b', which the rows do not have there; they have: 'a'",
        ),
        (
            lambda: Pipeline().keep("a").derive(a="1 + a"),
            "stage 'derive' makes the column 'a', which the rows have already: give it another name, or drop or "
            "rename the other one before",
        ),
        (
            lambda: Pipeline().keep("a").rename({"b": "c"}),
            "stage 'rename' reads the column 'b', which the rows do not have there; they have: 'a'",
        ),
        (
            lambda: Pipeline().reduce("kind", aggregate={"total": ("cost", "sum")}).top(1, "cost"),
            "stage 'top' reads the column 'cost', which the rows do not have there; they have: 'kind', 'total'",
        ),
        (
            lambda: Pipeline().keep("a").keep("b", after="psets").join("a", after=("keep", "keep2")),
            "stage 'join' joins on the column 'a', which the right table does not have; it has: 'b'",
        ),
        (
            lambda: Pipeline().keep("a", "x").keep("a", "x", after="psets").join("a", after=("keep", "keep2")),
            "stage 'join': both tables have the column 'x', on which they are not joined: rename or drop it in one of "
            "them before, or give suffixes=('_left', '_right')",
        ),
        (
            lambda: Pipeline().keep("a").keep("b", after="psets").concat(after=("keep", "keep2")).drop("c"),
            "stage 'drop' reads the column 'c', which the rows do not have there; they have: 'a', 'b'",
        ),
        (
            lambda: Pipeline().keep("a").explode("a", into="e").where("a > 1"),
            "stage 'where' reads the column 'a', which the rows do not have there; they have: 'e'",
        ),
    ],
)
def test_columns_that_cannot_fit_are_refused_when_the_stage_is_added(build, message):
    with refused(message):
        build()


def test_a_column_may_come_from_anywhere_as_long_as_nobody_has_said_which_there_are():
    pipeline = Pipeline().map(AREA, name="measure").drop("area").keep("area")
    assert pipeline.columns()["keep"] == Columns(("area",), open=False)


def test_the_constructor_refuses_columns_that_cannot_fit_whatever_the_order_of_the_steps():
    keep = Pipeline().keep("width").steps["keep"]
    with refused("stage 'measure' reads the column 'height', which the rows do not have there; they have: 'width'"):
        Pipeline(steps=[Step("measure", Map(AREA, name="measure"), ("keep",)), keep])


GIVEN = {
    "dicts": lambda rows: rows,
    "iterator": iter,
    "frame": pd.DataFrame,
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_column_that_psets_lack_is_refused_before_any_worker_runs(given, session):
    calls = []
    pipeline = Pipeline().map(keywords(lambda width: calls.append(width), output="x"), name="first")
    pipeline = pipeline.map(AREA, name="measure")
    message = "stage 'measure' reads the column 'height', which the rows do not have there; they have: 'width', 'x'"
    with refused(message):
        session.run(pipeline, given([{"width": 1}, {"width": 2}]))
    message = "stage 'first' reads the column 'width', which the rows do not have there; they have: 'radius'"
    with refused(message):
        session.run(pipeline, given([{"radius": 1}, {"radius": 2}]))
    assert calls == []


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_column_that_psets_have_already_is_refused_before_any_worker_runs(given, session):
    calls = []
    pipeline = Pipeline().map(lambda p, s, u: calls.append(p), name="first").product({"seed": [1, 2]})
    message = (
        "stage 'product' makes the column 'seed', which the rows have already: give it another name, or drop or rename "
        "the other one before"
    )
    with refused(message):
        session.run(pipeline, given([{"seed": 1}]))
    assert calls == []


def test_a_column_that_only_some_psets_have_is_no_reason_to_refuse(session):
    pipeline = Pipeline().map(keywords(lambda a: a, output="x"), name="first")
    run = session.run(pipeline, [{"a": 1}, {"b": 2}])
    assert run["first"].to_dict() == [{"a": 1, "x": 1}]
    assert run.missing["_kind"].tolist() == ["raised"]


def test_no_psets_lack_no_column(session):
    assert len(session.run(measured(), [])["pay"]) == 0
    with refused("stage 'measure' reads the column 'width', which the rows do not have there; they have: 'radius'"):
        session.run(measured(), pd.DataFrame({"radius": [1]}))


# What run() refuses before it begins


def test_psets_that_are_none_are_refused(session):
    with pytest.raises(PsetError, match=r"^the psets are one dict with the keys 'n': wrap a single pset in a list"):
        session.run(Pipeline().map(square), {"n": 1})


@pytest.mark.parametrize("verb", ["run", "stream"])
def test_every_source_is_given_once(verb, session):
    def start(*psets, **given):
        getattr(session, {"run": "run", "stream": "stream_run"}[verb])(*psets, **given)

    one = Pipeline("p").map(square)
    two = Pipeline("p", sources=("a", "b")).join("n", after=("a", "b"))
    with refused(f"{verb}(): the source 'psets' of the pipeline 'p' was not given"):
        start(one)
    with refused(f"{verb}() was given the source 'psets' twice, with and without its name"):
        start(one, [], psets=[])
    with refused(f"{verb}(): the pipeline 'p' has several sources: give each by name, as in {verb}(a=..., b=...)"):
        start(two, [])
    with refused(f"{verb}(): the source 'b' of the pipeline 'p' was not given"):
        start(two, a=[])
    with pytest.raises(OptionError, match=re.escape(f"{verb}() has no option 'c'")):
        start(two, a=[], b=[], c=[])


def test_what_is_no_pipeline_or_has_no_stage_is_not_run(session):
    with refused(f"run() runs a Pipeline, not {square!r}; for one function there is map()"):
        session.run(square, [])
    with refused("run(): the pipeline 'p' has no stage: add one with .map() or .add()"):
        session.run(Pipeline("p"), [])


def test_options_of_a_run_are_checked(session):
    pipeline = Pipeline().map(square)
    with refused("run(keep='some'): keep must be 'all', 'sinks' or 'none'", OptionError):
        session.run(pipeline, [], keep="some")
    with refused("run() has no option 'name': a pipeline has its own, and so has each of its stages", OptionError):
        session.run(pipeline, [], name="mine")
    for wrong, right in (("timeuot", "timeout"), ("sotres", "stores"), ("allow_missin", "allow_missing")):
        with refused(f"run() has no option '{wrong}'; did you mean '{right}'?", OptionError):
            Pipeline(sources=("stores", "prices")).map(square, after="stores").run(**{wrong: []})
    with pytest.raises(OptionError, match=re.escape("run() has no option 'timeuot'; did you mean 'timeout'?")):
        session.run(pipeline, [], timeuot=1)
    with pytest.raises(OptionError, match="the backend 'serial' cannot end a running worker"):
        session.run(Pipeline().map(square).map(half, timeout=1), [])


def test_a_stream_has_one_sink(session):
    with refused(
        "the pipeline 'p' ends in 2 stages, 'square', 'half', and a stream has the rows of one: stream one that ends "
        "in one stage"
    ):
        session.stream_run(Pipeline("p").map(square).map(half, after="psets"), [])


# Many stages


def test_a_thousand_stages_are_a_pipeline():
    pipeline = Pipeline()
    for number in range(500):
        pipeline = pipeline.derive({f"c{number}": "n + 1"}).map(square, name=f"m{number}")
    assert len(pipeline) == 1000
    assert len(pipeline.graph) == 1001
    again = Pipeline(steps=[step for step in pipeline.steps.values() if step.kind != "source"])
    assert list(again) == list(pipeline)
