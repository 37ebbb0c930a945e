"""Pictures: nothing overlaps, every arrow goes down and around the boxes, and any name is safe."""

from __future__ import annotations

import os
import re
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramsurvey.drawing.boxes import Box, Drawing
from paramsurvey.drawing.layout import laid_out
from paramsurvey.drawing.words import columns_of_text
from paramsurvey.errors import BackendError, OptionError, StageError

QUICK = settings(deadline=None, max_examples=60)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(arrows, *, title="", names=(), notes=()):
    """Return a drawing of arrows such as "a>b b>c", with each box called by its letter."""
    pairs = [tuple(arrow.split(">")) for arrow in arrows.split()]
    names = dict.fromkeys([*names, *(name for pair in pairs for name in pair)])
    return Drawing(title, [Box(name, "map", name, notes) for name in names], pairs)


ARRAY = Drawing(
    "array",
    [
        Box("stations", "source", "stations", ("40 rows",)),
        Box("quality", "map", "quality", ("40 rows", "0.52 s each"), done=1.0),
        Box("sources", "rows", "× sources", ("1,200 rows",)),  # noqa: RUF001
        Box("coverage", "map", "coverage", ("744 rows", "3 missing"), warning=True, done=0.62),
        Box("costs", "source", "costs", ("40 rows",)),
        Box("join", "table", "join"),
        Box("rank", "table", "rank"),
    ],
    [
        ("stations", "quality"),
        ("quality", "sources"),
        ("sources", "coverage"),
        ("coverage", "join"),
        ("costs", "join"),
        ("join", "rank"),
    ],
)
CHAIN = drawn("a>b b>c c>d")
DIAMOND = drawn("a>b a>c b>d c>d")
FAN = drawn(" ".join(f"a>{name} {name}>z" for name in "bcdefghi"))
SKIP = drawn("a>b b>c c>d d>e e>f a>f b>e")
CROSSED = drawn("a>c b>d c>e d>e e>f e>g a>g")
LONELY = drawn("a>b", names="xyz")
DRAWINGS = [ARRAY, CHAIN, DIAMOND, FAN, SKIP, CROSSED, LONELY]


@st.composite
def drawings(draw):
    """Any acyclic drawing of up to 14 boxes."""
    count = draw(st.integers(1, 14))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] < pair[1])
    arrows = draw(st.lists(pairs, max_size=25)) if count > 1 else []
    order = draw(st.permutations(range(count)))
    titles = st.one_of(st.just("stage"), st.text(max_size=40))
    boxes = [
        Box(
            str(number),
            draw(st.sampled_from(["source", "map", "rows", "table"])),
            draw(titles),
            draw(st.lists(titles, max_size=3)),
            draw(st.booleans()),
            draw(st.none() | st.floats(0, 1)),
        )
        for number in order
    ]
    return Drawing(draw(titles), boxes, [(str(start), str(end)) for start, end in arrows])


# The layout ---------------------------------------------------------------------------------------------------------


def assert_sound(drawing):
    """No two boxes overlap, each is inside the picture, and arrows go down, to the side only where no box is."""
    layout = laid_out(drawing)
    for box in layout.boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= layout.width
        assert box.y + box.height <= layout.height
    for one, other in combinations(layout.boxes, 2):
        assert (
            one.x + one.width < other.x
            or other.x + other.width < one.x
            or one.y + one.height < other.y
            or other.y + other.height < one.y
        )
    assert len(layout.routes) == len(drawing.arrows)
    for route in layout.routes:
        start, end = layout.boxes[route.start], layout.boxes[route.end]
        assert (start.box.name, end.box.name) in drawing.arrows
        assert route.points[0] == pytest.approx((start.x + start.width / 2, start.y + start.height), abs=0.1)
        assert route.tip == pytest.approx((end.x + end.width / 2, end.y), abs=1)
        for (x0, y0), (x1, y1) in pairwise(route.points):
            assert 0 <= x1 <= layout.width
            assert y0 < y1
            for box in layout.boxes:
                beside = x0 == x1 and not box.x <= x0 <= box.x + box.width
                assert beside or y1 <= box.y or y0 >= box.y + box.height


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_boxes_do_not_overlap_and_arrows_go_down_beside_them(drawing):
    assert_sound(drawing)


@QUICK
@given(drawings())
def test_boxes_do_not_overlap_and_arrows_go_down_beside_them_in_any_drawing(drawing):
    assert_sound(drawing)


def middles(drawing):
    return {placed.box.name: placed.x + placed.width / 2 for placed in laid_out(drawing).boxes}


def crossings(drawing):
    """Return how many pairs of arrows between the same two layers cross; those that share an end do not."""
    steps = {step for route in laid_out(drawing).routes for step in pairwise(route.points) if step[0][1] < step[1][1]}
    return sum(
        one[0][1] == other[0][1] and (one[0][0] - other[0][0]) * (one[1][0] - other[1][0]) < 0
        for one, other in combinations(steps, 2)
    )


@pytest.mark.parametrize("drawing", [CHAIN, SKIP])
def test_a_chain_is_straight_whatever_passes_it(drawing):
    xs = list(middles(drawing).values())
    assert xs == pytest.approx([xs[0]] * len(xs), abs=0.5)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_what_can_be_drawn_without_a_crossing_is(drawing):
    assert crossings(drawing) == 0


def test_a_diamond_is_symmetrical():
    xs = middles(DIAMOND)
    assert xs["a"] == pytest.approx(xs["d"], abs=0.5)
    assert xs["a"] - xs["b"] == pytest.approx(xs["c"] - xs["a"], abs=0.5)


def test_branches_stand_side_by_side_in_the_order_in_which_they_were_given():
    places = {placed.box.name: placed for placed in laid_out(FAN).boxes}
    assert len({places[name].y for name in "bcdefghi"}) == 1
    assert [places[name].x for name in "bcdefghi"] == sorted(places[name].x for name in "bcdefghi")


def test_a_source_stands_just_above_what_first_needs_it():
    places = {placed.box.name: placed for placed in laid_out(ARRAY).boxes}
    assert places["costs"].y > places["sources"].y + places["sources"].height
    assert places["costs"].y + places["costs"].height < places["join"].y


def test_arrows_from_one_box_share_their_way():
    layout = laid_out(drawn("a>b b>c c>d d>e a>d a>e"))
    ways = {(layout.boxes[each.start].box.name, layout.boxes[each.end].box.name): each.points for each in layout.routes}
    assert len(ways["a", "e"]) > len(ways["a", "d"]) > 5
    assert ways["a", "e"][:5] == ways["a", "d"][:5]


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_the_same_boxes_and_arrows_give_the_same_bytes(drawing):
    again = Drawing(drawing.title, list(drawing.boxes), list(drawing.arrows) * 2)
    assert again == drawing
    assert again.svg() == drawing.svg()
    assert again.mermaid() == drawing.mermaid()
    assert again.text() == drawing.text()


def test_a_chain_of_a_thousand_stages_with_long_arrows_can_be_drawn():
    names = [f"stage {number}" for number in range(1000)]
    arrows = [*pairwise(names), *((names[0], name) for name in names[100::100])]
    drawing = Drawing("", [Box(name, "map", name) for name in names], arrows)
    ys = [placed.y for placed in laid_out(drawing).boxes]
    assert ys == sorted(set(ys))
    assert len(ElementTree.fromstring(drawing.svg()).findall(f"{SVG}g")) == 1000
    assert len(drawing.text().splitlines()) == 1000
    assert drawing.mermaid().count(" --> ") == len(arrows)


def test_a_fan_of_two_hundred_branches_can_be_drawn():
    names = [f"branch {number}" for number in range(200)]
    arrows = [arrow for name in names for arrow in (("start", name), (name, "end"))]
    drawing = Drawing("", [Box(name, "map", name) for name in ("start", *names, "end")], arrows)
    assert_sound(drawing)
    assert drawing.text().splitlines()[-1] == "◆ end         ← branch 0, branch 1, 198 others  map"


# What cannot be drawn -----------------------------------------------------------------------------------------------


def test_two_boxes_of_one_name_are_refused():
    with pytest.raises(StageError, match=r"^two boxes of the drawing 'x' are called 'a': rename one of them$"):
        Drawing("x", [Box("a", "map", "a"), Box("b", "map", "b"), Box("a", "map", "c")], [])


def test_an_arrow_to_nowhere_is_refused():
    message = "an arrow of the drawing 'x' goes 'a' → 'c', but it has no box 'c'; it has: 'a', 'b'"
    with pytest.raises(StageError, match=f"^{message}$"):
        Drawing("x", [Box("a", "map", "a"), Box("b", "map", "b")], [("a", "c")])


@pytest.mark.parametrize(
    ("arrows", "circle"),
    [("a>a", "'a' → 'a'"), ("a>b b>c c>b c>d", "'b' → 'c' → 'b'"), ("d>a a>b b>c c>a", "'a' → 'b' → 'c' → 'a'")],
)
def test_a_circle_is_refused_and_named(arrows, circle):
    with pytest.raises(StageError) as caught:
        drawn(arrows, title="x")
    assert str(caught.value) == f"the arrows of the drawing 'x' go round in a circle: {circle}; take one of them away"


@pytest.mark.parametrize("done", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(done):
    with pytest.raises(StageError) as caught:
        Box("a", "map", "a", done=done)
    assert str(caught.value) == f"box 'a' has done={done!r}: give the finished share, from 0 to 1, or None"


def test_an_unknown_kind_is_refused():
    with pytest.raises(StageError, match=r"^box 'a' has the kind 'reduce'; there are: source, map, rows, table$"):
        Box("a", "reduce", "a")


# SVG ----------------------------------------------------------------------------------------------------------------

NASTY = "<b>\"&'</b>\n\x00\x1b[31m\ud800\u202e$x^2$ `#quot;`" + "y" * 80


def words_of(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]


def test_an_svg_says_what_the_boxes_say():
    words = words_of(ARRAY.svg())
    assert words[:4] == ["array", "stations", "source", "40 rows"]
    assert words[words.index("coverage") - 1 :][:5] == ["!", "coverage", "map", "744 rows", "3 missing"]


def test_an_svg_has_a_title_for_those_who_hear_it_and_one_for_each_box():
    root = ElementTree.fromstring(ARRAY.svg())
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert titles[0] == "array"
    assert "coverage (map), 744 rows, 3 missing, 62 % finished" in titles
    assert len(titles) == 1 + len(ARRAY.boxes)


def test_an_svg_without_a_title_is_called_pipeline():
    assert ElementTree.fromstring(CHAIN.svg())[0].text == "pipeline"


def test_an_svg_needs_nothing_from_outside():
    svg = ARRAY.svg()
    assert set(re.findall(r"\w+://[^\"]*", svg)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<image|<use|@import|url\(|href", svg)


def test_an_svg_has_its_own_ground_in_both_schemes():
    root = ElementTree.fromstring(ARRAY.svg())
    ground = root.find(f"{SVG}rect")
    assert (ground.get("width"), ground.get("height")) == (root.get("width"), root.get("height"))
    assert ground.get("fill") == "#ffffff"
    style = root.find(f"{SVG}style").text
    assert "@media (prefers-color-scheme:dark){.paramsurvey .ps-back{fill:#15191f}" in style
    named = {name for each in root.iter() if (name := each.get("class")) and name.startswith("ps-")}
    assert {name for name in named if f".{name}{{" not in style} == set()


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_all_words_can_be_read_on_their_ground_in_both_schemes():
    from paramsurvey.drawing.colours import DARK, LIGHT

    for scheme in (LIGHT, DARK):
        assert contrast(scheme.ink, scheme.back) > 4.5
        for paint in scheme.boxes.values():
            for word in (scheme.ink, scheme.dim, paint.word):
                assert contrast(word, paint.ground) > 4.5


def test_each_kind_has_its_word_and_failures_have_a_colour_of_their_own():
    root = ElementTree.fromstring(ARRAY.svg())
    kinds = [group.find(f"{SVG}rect").get("class") for group in root.findall(f"{SVG}g")]
    assert kinds == ["ps-source", "ps-map", "ps-rows", "ps-warning", "ps-source", "ps-table", "ps-table"]


def test_the_bar_is_as_long_as_what_is_done():
    root = ElementTree.fromstring(ARRAY.svg())
    (coverage,) = (group for group in root.findall(f"{SVG}g") if group[0].text.startswith("coverage"))
    track, bar = (float(each.get("width")) for each in coverage.findall(f"{SVG}rect")[1:])
    assert bar == pytest.approx(0.62 * track, abs=0.1)


def test_any_characters_are_safe_in_an_svg():
    root = ElementTree.fromstring(Drawing(NASTY, [Box(NASTY, "map", NASTY, (NASTY,))], []).svg())
    assert root[0].text == "<b>\"&'</b> ��[31m�$x^2$ `#quot;`" + "y" * 80
    title = words_of(Drawing("", [Box("a", "map", NASTY)], []).svg())[0]
    assert title.startswith("<b>\"&'</b> ")
    assert len(title) == 32


def test_the_middle_of_a_long_title_is_left_out():
    words = words_of(Drawing("", [Box("a", "map", "prefix/" + "x" * 80 + "_7")], []).svg())
    assert words[0] == "prefix/xxxxxxxxxxxxxx…xxxxxxxx_7"


def test_a_box_is_wide_enough_for_its_words():
    (wide,) = laid_out(Drawing("", [Box("a", "table", "W" * 30)], [])).boxes
    (narrow,) = laid_out(Drawing("", [Box("a", "table", "i" * 30)], [])).boxes
    (east,) = laid_out(Drawing("", [Box("a", "table", "駅" * 15)], [])).boxes
    assert wide.width > 30 * 11
    assert narrow.width < wide.width / 2
    assert east.width > 15 * 13


@QUICK
@given(drawings())
def test_any_drawing_is_well_formed(drawing):
    assert len(ElementTree.fromstring(drawing.svg()).findall(f"{SVG}g")) == len(drawing.boxes)
    drawing.mermaid().encode()
    assert drawing.text(unicode=False).isascii()


def test_nothing_can_be_drawn():
    empty = Drawing("", [], [])
    assert empty.text() == ""
    assert empty.mermaid() == "flowchart TD\n"
    assert words_of(empty.svg()) == []


# Mermaid ------------------------------------------------------------------------------------------------------------


def test_a_flowchart_is_written_for_mermaid():
    boxes = [
        Box("end", "source", "sites"),
        Box("s", "map", "score", ("7 rows", "0.5 s each"), warning=True, done=0.5),
        Box("j", "table", "join"),
        Box("r", "rows", "where"),
    ]
    drawing = Drawing('my "survey"', boxes, [("end", "s"), ("s", "j"), ("r", "j"), ("end", "r")])
    assert drawing.mermaid() == (
        "---\n"
        'title: "my \\"survey\\""\n'
        "---\n"
        "flowchart TD\n"
        '    box0(["sites<br/>source"]):::source\n'
        '    box1["! score<br/>map<br/>7 rows<br/>0.5 s each<br/>50 % finished"]:::warning\n'
        '    box2[["join<br/>table"]]:::table\n'
        '    box3("where<br/>rows"):::rows\n'
        "    box0 --> box1\n"
        "    box1 --> box2\n"
        "    box3 --> box2\n"
        "    box0 --> box3\n"
        "    classDef source fill:#f2f0e9,stroke:#9a937c,color:#1f2328\n"
        "    classDef warning fill:#fdebdc,stroke:#d9641e,color:#1f2328,stroke-width:2px\n"
        "    classDef table fill:#f0eafa,stroke:#9678c8,color:#1f2328\n"
        "    classDef rows fill:#e6f4ea,stroke:#5fa67c,color:#1f2328\n"
    )


@pytest.mark.parametrize(
    ("title", "label"),
    [
        ('say "hi"', "say #34;hi#34;"),
        ("a<b>&c", "a#60;b#62;#38;c"),
        ("#quot;", "#35;quot#59;"),
        ("`*x*` [y] {z} |", "#96;#42;x#42;#96; #91;y#93; #123;z#125; #124;"),
        (r"C:\new", "C:#92;new"),
        ("1. fit", "1#46; fit"),
        ("- fit", "#45; fit"),
        ("1.5 km", "1.5 km"),
        ("two\nlines", "two lines"),
        ("Größe → 駅", "Größe → 駅"),
    ],
)
def test_what_mermaid_would_read_as_a_mark_is_written_as_a_number(title, label):
    assert f'["{label}<br/>map"]' in Drawing("", [Box("a", "map", title)], []).mermaid()


# Text ---------------------------------------------------------------------------------------------------------------

TEXTS = [
    (CHAIN, ["○ a  map", "● b  map", "● c  map", "◆ d  map"]),
    (DIAMOND, ["○ a    map", "├─● b  map", "● │ c  map", "◆─╯ d  map"]),
    (drawn("a>b a>c a>d"), ["○ a    map", "├─◆ b  map", "├─◆ c  map", "╰─◆ d  map"]),
    (drawn("a>b b>c c>d a>d"), ["○ a    map", "├─● b  map", "│ ● c  map", "◆─╯ d  map"]),
    (drawn("a>j b>j c>j"), ["○ a      map", "│ ○ b    map", "│ │ ○ c  map", "◆─┴─╯ j  map"]),
    (
        drawn("a>b a>c b>d c>d b>e c>e"),
        ["○ a    map", "├─● b  map", "● │ c  map", "├─┼─◆ d  map", "◆─╯ e  map"],
    ),
    (LONELY, ["◆ x  map", "◆ y  map", "◆ z  map", "○ a  map", "◆ b  map"]),
]


def squeezed(text):
    return [re.sub(r"  +map$", "  map", line) for line in text.splitlines()]


@pytest.mark.parametrize(("drawing", "lines"), TEXTS)
def test_the_text_has_a_line_for_each_box_and_lines_between_them(drawing, lines):
    assert squeezed(drawing.text()) == squeezed("\n".join(lines))


def test_the_text_of_the_array_has_its_notes_in_columns():
    assert ARRAY.text().splitlines() == [
        "array",
        "○ stations      source                     40 rows",
        "● quality       map     ████████ 100 %     40 rows  0.52 s each",
        "● × sources     rows                    1,200 rows",  # noqa: RUF001
        "● coverage   !  map     ████░░░░  62 %    744 rows    3 missing",
        "│ ○ costs       source                     40 rows",
        "●─╯ join        table",
        "◆ rank          table",
    ]


def test_the_text_can_do_without_unicode():
    assert ARRAY.text(unicode=False).splitlines() == [
        "array",
        "o stations      source                     40 rows",
        "* quality       map     ######## 100 %     40 rows  0.52 s each",
        "* x sources     rows                    1,200 rows",
        "* coverage   !  map     ####....  62 %    744 rows    3 missing",
        "| o costs       source                     40 rows",
        "*-' join        table",
        "# rank          table",
    ]


def test_letters_that_ascii_lacks_are_replaced():
    drawing = Drawing("Größe → 駅", [Box("a", "map", "é" * 40)], [])
    assert drawing.text(unicode=False) == f"Gro?e -> ?\n# {'e' * 20}...{'e' * 9}  map"


def test_str_is_the_text():
    assert str(ARRAY) == ARRAY.text()


def test_no_line_is_longer_than_the_terminal():
    text = ARRAY.text(width=40)
    assert max(columns_of_text(line) for line in text.splitlines()) <= 40
    assert text.splitlines()[2] == "● quality       map     ████████ 100 %…"


def test_wide_letters_take_two_columns():
    boxes = [Box("a", "map", "駅"), Box("b", "map", "ab")]
    assert Drawing("", boxes, []).text().splitlines() == ["◆ 駅  map", "◆ ab  map"]


def test_all_of_it_is_more_than_nearly_all_of_it():
    boxes = [Box(str(done), "map", "a", done=done) for done in (0.0, 0.004, 0.9999, 1.0)]
    assert [line[-14:] for line in Drawing("", boxes, []).text().splitlines()] == [
        "░░░░░░░░   0 %",
        "░░░░░░░░   0 %",
        "███████░  99 %",
        "████████ 100 %",
    ]


def test_with_too_many_lines_side_by_side_a_box_names_those_before_it():
    assert FAN.text(width=40).splitlines() == [
        "○ a                    map",
        *(f"● {name}  ← a               map" for name in "bcdefghi"),
        "◆ z  ← b, c, 6 others  map",
    ]


def arrows_in(text):
    """Read the arrows from the lines of a text alone, as an attentive reader would."""
    lines, arrows = {}, set()
    for row in text.splitlines():
        stem, title = re.match(r"([○●◆│─├┤┼╰╯┴ ]*) (\w+)  ", row).groups()
        cells = dict(enumerate(stem[::2]))
        (column,) = (at for at, glyph in cells.items() if glyph in "○●◆")
        before = {lines[column]} if column in lines else set()
        before |= {lines[at] for at, glyph in cells.items() if glyph in "├┤┼╰╯┴"}
        arrows |= {(each, title) for each in before}
        lines = {at: each for at, each in lines.items() if at != column and cells.get(at, " ") in "│├┤┼"}
        if cells[column] != "◆":
            lines[column] = title
    assert lines == {}
    return arrows


@QUICK
@given(drawings())
def test_the_lines_of_a_text_say_which_arrows_there_are(drawing):
    titled = Drawing("", [Box(box.name, box.kind, box.name) for box in drawing.boxes], drawing.arrows)
    assert arrows_in(titled.text(width=400)) == set(titled.arrows)


# Files and notebooks ------------------------------------------------------------------------------------------------


def test_a_drawing_is_saved_as_its_suffix_says(tmp_path):
    ARRAY.save(tmp_path / "a.svg")
    ARRAY.save(str(tmp_path / "a.mmd"))
    ARRAY.save(tmp_path / "a.PNG")
    assert (tmp_path / "a.svg").read_bytes() == ARRAY.svg().encode()
    assert (tmp_path / "a.mmd").read_bytes() == ARRAY.mermaid().encode()
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


def size_of(png):
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_a_png_has_twice_the_pixels_of_the_svg(tmp_path):
    ARRAY.save(tmp_path / "a.png")
    root = ElementTree.fromstring(ARRAY.svg())
    expected = [2 * float(root.get(side)) for side in ("width", "height")]
    assert size_of((tmp_path / "a.png").read_bytes()) == pytest.approx(expected, abs=1)


def test_a_png_has_the_colours_of_the_boxes(tmp_path):
    from matplotlib.image import imread

    ARRAY.save(tmp_path / "a.png")
    pixels = (imread(tmp_path / "a.png")[:, :, :3] * 255).round().astype(int)
    for placed in laid_out(ARRAY).boxes:
        colour = pixels[int(2 * placed.y) + 8, int(2 * (placed.x + placed.width / 2))]
        expected = (
            "fdebdc"
            if placed.box.warning
            else {"source": "f2f0e9", "map": "e5effb", "rows": "e6f4ea"}.get(placed.box.kind, "f0eafa")
        )
        assert tuple(colour) == tuple(bytes.fromhex(expected))


def test_the_users_own_settings_of_matplotlib_are_neither_heeded_nor_changed(tmp_path):
    import matplotlib as mpl

    ARRAY.save(tmp_path / "a.png")
    with mpl.rc_context({"text.usetex": True, "path.sketch": (1, 100, 2), "figure.dpi": 30}):
        before = dict(mpl.rcParams)
        ARRAY.save(tmp_path / "b.png")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_any_characters_are_safe_in_a_png(tmp_path):
    Drawing(NASTY, [Box("a", "map", "$\\frac", ("駅", NASTY), warning=True, done=0.0)], []).save(tmp_path / "a.png")
    Drawing("", [], []).save(tmp_path / "b.png")


def test_a_png_never_becomes_too_large_for_those_who_read_it(tmp_path):
    names = [str(number) for number in range(400)]
    Drawing("", [Box(name, "map", name) for name in names], list(pairwise(names))).save(tmp_path / "a.png")
    width, height = size_of((tmp_path / "a.png").read_bytes())
    assert 11_990 < height <= 12_000
    assert width > 50


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a", ".svg"])
def test_other_suffixes_are_refused_with_the_choices(tmp_path, name):
    with pytest.raises(OptionError) as caught:
        CHAIN.save(tmp_path / name)
    path = str(tmp_path / name)
    assert str(caught.value) == f"a drawing cannot be saved as {path!r}: end the name in .svg, .png or .mmd"
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "no" / "a.svg"
    with pytest.raises(OptionError) as caught:
        CHAIN.save(path)
    assert str(caught.value) == (
        f"a drawing cannot be saved as {str(path)!r}: there is no folder {str(path.parent)!r}; make it first"
    )


def test_without_matplotlib_a_png_is_refused_and_the_remedy_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = str(tmp_path / "a.png")
    with pytest.raises(BackendError) as caught:
        CHAIN.save(path)
    assert str(caught.value) == (
        f"a drawing cannot be saved as {path!r} without matplotlib: pip install 'paramsurvey[plot]', or save it as .svg"
    )
    assert isinstance(caught.value.__cause__, ImportError)
    assert os.listdir(tmp_path) == []


def test_a_notebook_shows_the_picture_and_ipython_the_text():
    class Printer:
        def text(self, text):
            self.shown = text

    printer = Printer()
    ARRAY._repr_pretty_(printer, False)
    assert printer.shown == ARRAY.text()
    assert ARRAY._repr_svg_() == ARRAY.svg()
