"""The colours of pictures, for a light and for a dark ground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Box


@attrs.frozen
class Paint:
    """The colours of a box: its ground, its border and bar, and the small words in it."""

    ground: str
    line: str
    word: str


@attrs.frozen
class Scheme:
    """All colours of a picture; words on their ground have a contrast of at least 4.5 (WCAG 2.1, AA)."""

    back: str
    ink: str
    dim: str
    arrow: str
    track: str
    badge: str
    boxes: dict[str, Paint]
    """By kind, and one for "warning"."""


LIGHT: Final = Scheme(
    back="#ffffff",
    ink="#1f2328",
    dim="#4f5965",
    arrow="#7d8793",
    track="#d4d9df",
    badge="#ffffff",
    boxes={
        "source": Paint("#f2f0e9", "#9a937c", "#696247"),
        "map": Paint("#e5effb", "#5b8fcb", "#2b5f9e"),
        "rows": Paint("#e6f4ea", "#5fa67c", "#2a6b45"),
        "table": Paint("#f0eafa", "#9678c8", "#68459f"),
        "warning": Paint("#fdebdc", "#d9641e", "#a03f0b"),
    },
)
DARK: Final = Scheme(
    back="#15191f",
    ink="#e8edf3",
    dim="#a9b3bf",
    arrow="#7f8a97",
    track="#3d454f",
    badge="#15191f",
    boxes={
        "source": Paint("#2a2a27", "#8d8870", "#c4bea4"),
        "map": Paint("#1a2a40", "#5189cb", "#8fbcf0"),
        "rows": Paint("#182e22", "#4f9b6d", "#87cfa4"),
        "table": Paint("#2a2240", "#8d6fc6", "#c3aaf2"),
        "warning": Paint("#3d2414", "#e27a35", "#f6b184"),
    },
)


def paint_of(box: Box) -> str:
    """Return the name of a box's colours."""
    return "warning" if box.warning else box.kind
