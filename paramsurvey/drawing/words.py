"""Titles and notes as they can stand in a picture: on one line, short enough, and without what has no place there."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Box


LONGEST_TITLE: Final = 32
LONGEST_NOTE: Final = 40
_SPELT: Final = {
    "×": "x",  # noqa: RUF001 - what is replaced
    "–": "-",  # noqa: RUF001 - the same
    "’": "'",  # noqa: RUF001 - the same
    "—": "-",
    "“": '"',
    "”": '"',
    "·": ".",
    "…": "...",
    "→": "->",
    "µ": "u",
    "μ": "u",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "∞": "inf",
}


def clean(text: str) -> str:
    """Return a text on one line without what has no place in a picture: controls, formats, halves of characters."""
    kept = (
        " " if char.isspace() else "" if unicodedata.category(char) == "Cf" else char if char.isprintable() else "�"
        for char in str(text)
    )
    return " ".join("".join(kept).split())


def columns_of_text(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut_off(text: str, columns: int, dots: str) -> str:
    """Return a text with its end cut off, if it is longer than so many columns."""
    if columns_of_text(text) <= columns:
        return text
    while text and columns_of_text(text) + len(dots) > columns:
        text = text[:-1]
    return text.rstrip() + dots


def shortened(text: str, columns: int, dots: str = "…") -> str:
    """Return a text with its middle cut out, if it is too long: both its ends may be what tells it from others."""
    if columns_of_text(text) <= columns:
        return text
    tail = text[len(text) - max(1, (columns - len(dots)) // 3) :].lstrip()
    return cut_off(text, columns - columns_of_text(tail), dots) + tail


def in_ascii(text: str) -> str:
    """Return a text in ASCII, spelt as alike as can be."""
    plain = "".join(_SPELT.get(char, char) for char in text)
    plain = unicodedata.normalize("NFKD", plain)
    return "".join(char for char in plain if not unicodedata.combining(char)).encode("ascii", "replace").decode()


def title_of(box: Box) -> str:
    """Return the title of a box as it is shown."""
    return shortened(clean(box.title), LONGEST_TITLE)


def notes_of(box: Box) -> list[str]:
    """Return the notes of a box as they are shown."""
    return [shortened(clean(note), LONGEST_NOTE) for note in box.notes]


def spoken(box: Box) -> str:
    """Return all that is known of a box, at full length: what is shown when a reader points at it."""
    done = [] if box.done is None else [f"{percent(box.done)} finished"]
    return ", ".join([f"{clean(box.title)} ({box.kind})", *map(clean, box.notes), *done])


def percent(done: float) -> str:
    """Return a share in percent; only all of it is 100 %."""
    return f"{min(99, round(100 * done)) if done < 1 else 100} %"
