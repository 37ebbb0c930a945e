"""The memory of this process and those below it, looked at while something runs."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Final

from paramsurvey.plans.plan import Memory

LOOK_SECONDS: Final = 0.1


class MemoryWatch:
    """Looks at the memory of this process and those below it while a block runs."""

    def __init__(self) -> None:
        self.most = Memory(0, 0, 0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="paramsurvey memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil  # here, because only a sample needs it

        this = psutil.Process()
        while True:
            is_last = self._over.is_set()  # one look comes after the end of the block
            driver = this.memory_info().rss
            below = [_resident(each) for each in this.children(recursive=True)]
            self._note(driver, below)
            if is_last:
                return
            self._over.wait(LOOK_SECONDS)

    def _note(self, driver: int, below: list[int]) -> None:
        most = self.most
        self.most = Memory(
            max(most.driver, driver),
            max(most.largest, max(below, default=0)),
            max(most.total, driver + sum(below)),
            max(most.processes, len(below)),
        )


def _resident(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended meanwhile
        return 0
