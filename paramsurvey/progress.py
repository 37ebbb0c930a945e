"""How far a survey has come."""

from __future__ import annotations

import attrs


@attrs.define
class MapProgress:
    """How far a survey has come, in psets.

    Attributes
    ----------
    total : int
        All of them.
    active : int
        Under way now.
    finished : int
        With a result.
    failures : int
        Without a result, for good.
    exceptions : int
        How many exceptions were seen, in workers and in ``out_func``.
    """

    total: int = 0
    active: int = 0
    finished: int = 0
    failures: int = 0
    exceptions: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in attrs.asdict(self).items())
