"""What the driver and the guard say to each other: three numbers at a time."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

MESSAGE = Struct("<qqq")  # verb, worker number, then the verb's own word


class Verb(IntEnum):
    """What a message says."""

    START = 1  # driver: start a worker (word: its slot); its two pipes come along
    KILL = 2  # driver: kill a worker's group
    STARTED = 3  # guard: word is the process number
    ENDED = 4  # guard: word is the exit code, or minus the signal
    READY = 5  # guard: it is there; driver: is it?
