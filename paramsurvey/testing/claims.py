"""Claims: what a contract says of a backend or a stage, and how it is put to it."""

from __future__ import annotations

import unittest
from typing import Any

from paramsurvey.engine.worker import safe_repr
from paramsurvey.fingerprint import typed_bytes


def claim(condition: bool | list[Any], message: str) -> None:
    """Raise `AssertionError` with the message unless the condition holds; also where ``python -O`` drops ``assert``."""
    if not condition:
        raise AssertionError(message)


def must_be_same(came: Any, expected: Any) -> None:
    """Claim that values have come as they were, with their types."""
    if typed_bytes(came) == typed_bytes(expected):
        return
    if isinstance(came, tuple) and isinstance(expected, tuple) and len(came) == len(expected):
        for one, other in zip(came, expected, strict=True):
            claim(typed_bytes(one) == typed_bytes(other), f"{short_repr(other)} came as {short_repr(one)}")
    claim(False, f"{short_repr(expected)} came as {short_repr(came)}")


def short_repr(value: Any) -> str:
    """Return what a message says of a value."""
    text = safe_repr(value)
    return text if len(text) < 200 else f"{text[:100]} ... {text[-90:]}"


def skip_unless(condition: bool, reason: str) -> None:
    """Skip the rest of a test whose claim has no ground."""
    if not condition:
        raise unittest.SkipTest(reason)
