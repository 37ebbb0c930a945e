"""What a picture is made of: boxes, arrows, and the `Drawing` that has them and shows itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from paramsurvey.drawing.graph import sorted_by_arrows
from paramsurvey.drawing.layout import laid_out
from paramsurvey.drawing.mermaid import mermaid_of
from paramsurvey.drawing.png import save_png
from paramsurvey.drawing.svg import svg_of
from paramsurvey.drawing.text import ASCII, UNICODE, text_of
from paramsurvey.errors import StageError
from paramsurvey.saving import file_for

Kind: TypeAlias = Literal["source", "map", "rows", "table"]
Arrow: TypeAlias = tuple[str, str]

SUFFIXES: Final = (".svg", ".png", ".mmd")


def _share(box: Box, _: object, done: float | None) -> None:
    if done is not None and not 0 <= done <= 1:
        raise StageError(f"box {box.name!r} has done={done!r}: give the finished share, from 0 to 1, or None")


def _known_kind(box: Box, _: object, kind: str) -> None:
    if kind not in get_args(Kind):
        raise StageError(f"box {box.name!r} has the kind {kind!r}; there are: {', '.join(get_args(Kind))}")


@attrs.frozen
class Box:
    """One box of a picture.

    Parameters
    ----------
    name : str
        What arrows call it; no two boxes of a drawing have the same.
    kind : {"source", "map", "rows", "table"}
        Written small into its corner, and its colour.
    title : str
        What is written into it, large.
    notes : tuple of str
        What is written below the title, a line each.
    warning : bool
        Whether something failed there: it gets a warm colour and an exclamation mark.
    done : float or None
        The finished share, from 0 to 1, for a thin bar; None for no bar.

    Raises
    ------
    StageError
        If the kind is unknown, or the share is not between 0 and 1.

    Examples
    --------
    >>> Box("coverage", "map", "coverage", notes=("1,200 rows", "3 missing"), warning=True).notes
    ('1,200 rows', '3 missing')
    """

    name: str
    kind: Kind = attrs.field(validator=_known_kind)
    title: str
    notes: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    warning: bool = False
    done: float | None = attrs.field(default=None, validator=_share)


def _unique_arrows(arrows: Iterable[Arrow]) -> tuple[Arrow, ...]:
    return tuple(dict.fromkeys((start, end) for start, end in arrows))


@attrs.frozen
class Drawing:
    """Boxes and arrows, to be shown in several ways.

    Notebooks show it as a picture; printed, it is text.

    Parameters
    ----------
    title : str
        Of the whole; may be empty.
    boxes : tuple of Box
        In the order in which equals are shown, from left to right.
    arrows : tuple of (str, str)
        From which box to which, by name. They must not go round in a circle; one that is given twice is drawn once.

    Raises
    ------
    StageError
        If two boxes have one name, an arrow has an unknown end, or the arrows go round in a circle.

    Examples
    --------
    >>> boxes = [Box("s", "source", "stations"), Box("q", "map", "quality", notes=("40 rows",))]
    >>> drawing = Drawing("array", boxes, [("s", "q")])
    >>> print(drawing)
    array
    ○ stations  source
    ◆ quality   map     40 rows
    >>> drawing.svg()[:4]
    '<svg'
    """

    title: str
    boxes: tuple[Box, ...] = attrs.field(converter=tuple)
    arrows: tuple[Arrow, ...] = attrs.field(converter=_unique_arrows)

    def __attrs_post_init__(self) -> None:
        names = {box.name for box in self.boxes}
        if len(names) < len(self.boxes):
            listed = [box.name for box in self.boxes]
            twice = next(name for name in listed if listed.count(name) > 1)
            raise StageError(f"two boxes of the drawing {self.title!r} are called {twice!r}: rename one of them")
        for arrow in self.arrows:
            for end in arrow:
                if end not in names:
                    raise StageError(
                        f"an arrow of the drawing {self.title!r} goes {arrow[0]!r} → {arrow[1]!r}, but it has no box "
                        f"{end!r}; it has: {', '.join(repr(box.name) for box in self.boxes)}"
                    )
        sorted_by_arrows(self)

    def svg(self) -> str:
        """Return the picture as SVG, which needs nothing from outside and follows the reader's light or dark scheme.

        Examples
        --------
        >>> "<title>fish &amp; chips</title>" in Drawing("fish & chips", [Box("a", "map", "a")], []).svg()
        True
        """
        return svg_of(self, laid_out(self))

    def mermaid(self) -> str:
        """Return the picture as the text of a Mermaid flowchart, which wikis and code hosts draw themselves.

        Mermaid refuses more than 500 arrows unless it is configured otherwise.

        Examples
        --------
        >>> print(Drawing("", [Box("a", "source", "a"), Box("b", "map", "b")], [("a", "b")]).mermaid())
        flowchart TD
            box0(["a<br/>source"]):::source
            box1["b<br/>map"]:::map
            box0 --> box1
            ...
        """
        return mermaid_of(self)

    def text(self, *, width: int = 80, unicode: bool = True) -> str:
        """Return the picture as text, a line for each box.

        Lines go down from each box, which is marked ○ if nothing leads to it, to those that need what it gives; ◆ is
        one that nothing follows. With too many lines side by side, a box names those before it instead.

        Parameters
        ----------
        width : int
            No line has more columns than this, and none fewer than 20.
        unicode : bool
            Whether the terminal can show more than ASCII.

        Examples
        --------
        >>> boxes = [Box(name, "map", name) for name in ("load", "left", "right", "both")]
        >>> arrows = [("load", "left"), ("load", "right"), ("left", "both"), ("right", "both")]
        >>> print(Drawing("", boxes, arrows).text())
        ○ load     map
        ├─● left   map
        ● │ right  map
        ◆─╯ both   map
        >>> print(Drawing("", boxes, arrows).text(unicode=False))
        o load     map
        |-* left   map
        * | right  map
        #-' both   map
        """
        return text_of(self, max(width, 20), UNICODE if unicode else ASCII)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file, as its suffix says.

        Parameters
        ----------
        path : path
            It ends in ``.svg``, ``.png`` or ``.mmd``. A PNG needs matplotlib.

        Raises
        ------
        OptionError
            If the suffix is another one, or the folder does not exist.
        BackendError
            If matplotlib is needed and is not installed.

        Examples
        --------
        >>> Drawing("", [Box("a", "map", "a")], []).save("picture.pdf")
        Traceback (most recent call last):
            ...
        paramsurvey.errors.OptionError: a drawing cannot be saved as 'picture.pdf': end the name in .svg, .png or .mmd
        """
        file = file_for("a drawing", path, SUFFIXES)
        suffix = file.suffix.lower()
        if suffix == ".png":
            save_png(self, laid_out(self), file)
        else:
            file.write_text(self.svg() if suffix == ".svg" else self.mermaid(), encoding="utf-8", newline="\n")

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - IPython's signature
        printer.text(self.text())

    def __str__(self) -> str:
        return self.text()
