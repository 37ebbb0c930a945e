"""The few words that a worker process shares with the driver.

One page-sized file without a name, mapped by everybody; a worker's slot is eight 64-bit words in it. Each word has one
writer, but for ATTENTION, which the driver raises and the worker lowers:

==========  ==========  ======================================================================
word        written by  what it says
==========  ==========  ======================================================================
TICKET      worker      the task that is running, or ran last
INDEX       worker      the row of its chunk that is running, or `LOADING` or `BETWEEN`
ATTENTION   both        not 0: look at STOP and FLUSH
STOP        driver      no task with a ticket up to this one begins another row
FLUSH       both        not 0: send what is finished
STAGE       worker      in which stage of a worker that has several the row is, counted from 1; else 0
==========  ==========  ======================================================================

The worker lowers ATTENTION *before* it reads STOP and FLUSH, and the driver raises it *after* it wrote them: so no wish
is lost; at the worst one is seen twice.

To take rows back, the driver writes STOP and ATTENTION, waits `SETTLE_SECONDS`, and then reads INDEX. The worker writes
INDEX and then reads ATTENTION before each row. If it did not see the wish, its INDEX is by then what the driver reads
(a store is visible to other processors within microseconds); if it did, it begins no other row. Either way the rows
after INDEX have not begun and will not begin. The row at INDEX is run, or is where the worker saw the wish: then the
chunk ends without it, and the dispatcher sends it again.
"""

from __future__ import annotations

import mmap
import os

SLOT_WORDS = 8
SLOT_BYTES = 8 * SLOT_WORDS
TICKET, INDEX, ATTENTION, STOP, FLUSH, STAGE = range(6)
SETTLE_SECONDS = 0.002


def create(slots: int) -> int:
    """Return the descriptor of a new shared file for so many slots."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("paramsurvey-slots")
    else:
        import tempfile  # here, because the workers import this module, too

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, slots * SLOT_BYTES)
    return fd


def attach(fd: int, slots: int) -> memoryview:
    """Map the shared file; the words of slot k begin at ``k * SLOT_WORDS``."""
    return memoryview(mmap.mmap(fd, slots * SLOT_BYTES)).cast("q")


def words_of(shared: memoryview, slot: int) -> memoryview:
    """Return the words of one slot."""
    return shared[slot * SLOT_WORDS : (slot + 1) * SLOT_WORDS]
