"""A drawing as the text of a Mermaid flowchart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from paramsurvey.drawing.colours import LIGHT, paint_of
from paramsurvey.drawing.words import clean, notes_of, percent, title_of

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Box, Drawing


_SHAPES: Final = {"source": ('(["', '"])'), "map": ('["', '"]'), "rows": ('("', '")'), "table": ('[["', '"]]')}
_LIST_MARK: Final = re.compile(r"^(\d+)([.)])(?=\s|$)|^([-+])(?=\s|$)")
"""What would make a list of a label."""


def mermaid_of(drawing: Drawing) -> str:
    """Write a drawing as a flowchart."""
    numbers = {box.name: number for number, box in enumerate(drawing.boxes)}
    title = clean(drawing.title)
    lines = ["---", f"title: {_yaml(title)}", "---"] if title else []
    lines.append("flowchart TD")
    for number, box in enumerate(drawing.boxes):
        before, after = _SHAPES[box.kind]
        lines.append(f"    box{number}{before}{_mermaid_label(box)}{after}:::{paint_of(box)}")
    lines += [f"    box{numbers[start]} --> box{numbers[end]}" for start, end in drawing.arrows]
    for name in dict.fromkeys(paint_of(box) for box in drawing.boxes):
        paint = LIGHT.boxes[name]
        width = ",stroke-width:2px" if name == "warning" else ""
        lines.append(f"    classDef {name} fill:{paint.ground},stroke:{paint.line},color:{LIGHT.ink}{width}")
    return "\n".join(lines) + "\n"


def _mermaid_label(box: Box) -> str:
    done = [] if box.done is None else [f"{percent(box.done)} finished"]
    title = ("! " if box.warning else "") + title_of(box)
    return "<br/>".join(_mermaid_escaped(line) for line in [title, box.kind, *notes_of(box), *done])


def _mermaid_escaped(text: str) -> str:
    """Return a text with all that Mermaid, Markdown or HTML would read as a mark written by its number."""
    text = re.sub(r"[^\x80-\U0010ffff\w .,:()/%!?'=+-]", lambda found: f"#{ord(found[0])};", text)
    return _LIST_MARK.sub(lambda found: (found[1] or "") + f"#{ord(found[2] or found[3])};", text)


def _yaml(text: str) -> str:
    """Return a text as a string of YAML; without controls, only two characters need an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
