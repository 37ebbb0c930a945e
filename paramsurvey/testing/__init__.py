"""For those who write a backend or a stage: everything that is relied on, as tests to inherit.

`BackendContract` is a class of tests in the style of pytest, which it does not import: each method whose name begins
with ``test_`` makes a backend, puts one claim of `paramsurvey.backends.base` to it, and raises `AssertionError` if the
claim does not hold. Every wait ends: a backend that hangs fails.

`StageContract` does the same with a stage and the claims of `paramsurvey.stages.base`, by plain calls, `next` and
`send`: neither a backend nor a session is opened.

>>> from paramsurvey.backends.serial import SerialBackend
>>> from paramsurvey.testing import BackendContract
>>> class TestSerial(BackendContract):
...     in_process = True
...
...     def make_backend(self):
...         return SerialBackend()
>>> TestSerial().test_a_result_comes_back()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramsurvey.lazy import load

if TYPE_CHECKING:
    from paramsurvey.testing.backend_contract import BackendContract
    from paramsurvey.testing.stage_contract import StageContract

__all__ = ["BackendContract", "StageContract"]


def __getattr__(name: str) -> Any:
    """Import a contract when it is asked for: worker processes need nothing but `calls`, and soon."""
    if name == "BackendContract":
        return load("paramsurvey.testing.backend_contract").BackendContract
    if name == "StageContract":
        return load("paramsurvey.testing.stage_contract").StageContract
    raise AttributeError(f"module 'paramsurvey.testing' has no attribute {name!r}; it has: {', '.join(__all__)}")
