"""The arrows of a drawing as numbers of boxes, in an order in which they all go forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from paramsurvey.errors import StageError

if TYPE_CHECKING:
    from paramsurvey.drawing.boxes import Drawing


Links: TypeAlias = list[list[int]]
"""For each node its neighbours on one side, by number."""


@attrs.frozen
class Graph:
    """The arrows as numbers of boxes, both ways, and an order in which they all go forward."""

    ups: Links
    downs: Links
    order: list[int]


def sorted_by_arrows(drawing: Drawing) -> Graph:
    """Sort the boxes so that each comes after those before it; refuse arrows that go round in a circle."""
    numbers = {box.name: number for number, box in enumerate(drawing.boxes)}
    ups: Links = [[] for _ in numbers]
    downs: Links = [[] for _ in numbers]
    for start, end in drawing.arrows:
        downs[numbers[start]].append(numbers[end])
        ups[numbers[end]].append(numbers[start])
    waits = [len(each) for each in ups]
    order = [node for node, count in enumerate(waits) if not count]
    for node in order:  # it grows meanwhile
        for below in downs[node]:
            waits[below] -= 1
            if not waits[below]:
                order.append(below)
    if len(order) < len(numbers):
        # what is left may also lie behind the circle, so go upwards until a box comes again
        names, left = [box.name for box in drawing.boxes], [node for node, count in enumerate(waits) if count]
        path = [left[0]]
        while path[-1] not in path[:-1]:
            path.append(next(above for above in ups[path[-1]] if waits[above]))
        circle = path[path.index(path[-1]) :]
        raise StageError(
            f"the arrows of the drawing {drawing.title!r} go round in a circle: "
            f"{' → '.join(repr(names[node]) for node in reversed(circle))}; take one of them away"
        )
    return Graph(ups, downs, order)
