"""Amounts and verbs in the words of a plan."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """Return a number of bytes with three digits."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.9995 * size:
            return f"{float(f'{count / size:.3g}'):g} {unit}"
    return f"{count:.0f} bytes"


def verb(count: int, one: str, many: str) -> str:
    """Return what so many do: one equals, two equal."""
    return one if count == 1 else many
