"""How far a survey has come: the counts that results, observers and the survey itself share.

They stand at the ground, because whoever counts knows nothing of those who look.
"""

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
    from_journal : int
        How many of those with a result were in the journal, and not computed.
    """

    total: int = 0
    active: int = 0
    finished: int = 0
    failures: int = 0
    exceptions: int = 0
    from_journal: int = 0

    def __str__(self) -> str:
        counts = attrs.asdict(self)
        from_journal = counts.pop("from_journal")
        text = ", ".join(f"{name}: {value}" for name, value in counts.items())
        return f"{text}, from the journal: {from_journal}" if from_journal else text


@attrs.define
class FromJournal:
    """How many rows of a survey were in its journal, finished and lost."""

    finished: int = 0
    lost: int = 0
