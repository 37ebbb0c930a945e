"""The identity of a pset: typed bytes, the same in every process, on every machine and in every run.

``1``, ``1.0`` and ``True`` are different parameters, so their bytes differ; the order of a pset's keys is not part of
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from struct import pack
from types import BuiltinFunctionType, FunctionType
from typing import Any

from paramsurvey.engine.pickling import dumps_by_value


def pset_seed(survey_seed: int, pset: Mapping[Hashable, Any]) -> int:
    """Return the seed of a pset: 63 bits that depend on the survey's seed and on the pset, and on nothing else.

    Equal psets have equal seeds; give them a parameter that tells them apart (say ``replicate``) for different ones.
    The 63 bits are those of a BLAKE2b hash (RFC 7693) of the typed bytes.

    Examples
    --------
    >>> pset_seed(0, {"a": 1}) == pset_seed(0, {"a": 1})
    True
    >>> pset_seed(0, {"a": 1}) == pset_seed(0, {"a": 1.0})
    False
    """
    digest = hashlib.blake2b(typed_bytes(dict(pset)), digest_size=8, key=str(survey_seed).encode()[:64])
    return int.from_bytes(digest.digest(), "big") >> 1


def typed_bytes(value: Any) -> bytes:
    """Return bytes that two values share only if they have the same type and the same content.

    Containers are followed; a mapping's and a set's elements are sorted by their bytes. A numpy array gives its dtype,
    shape and content; any other object what it is made of.
    """
    kind = type(value)
    if kind is str:
        return _framed(b"s", value.encode("utf-8", "surrogatepass"))
    if kind is int:
        return _framed(b"i", str(value).encode() if value.bit_length() < 4000 else hex(value).encode())
    if kind is float:
        return _framed(b"f", pack("<d", value))
    if value is None or kind is bool:
        return _framed(b"c", repr(value).encode())
    if kind is bytes:
        return _framed(b"b", value)
    if kind in (list, tuple):
        return _framed(kind.__name__.encode(), *map(typed_bytes, value))
    if kind in (set, frozenset):
        return _framed(kind.__name__.encode(), *sorted(map(typed_bytes, value)))
    if kind is dict:
        return _framed(b"d", *sorted(typed_bytes(key) + typed_bytes(item) for key, item in value.items()))
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _framed(b"n", *_code(value))
    return _framed(_type_name(kind), *_content(value))


def ordered_bytes(value: Any) -> bytes:
    """Return bytes that two values share only if the dicts in them, and in their lists, have the same order, too.

    A value whose dicts are sorted by the bytes of their keys, or that has none, has its typed bytes.

    Examples
    --------
    >>> ordered_bytes([{"a": 1, "b": 2}]) == ordered_bytes([{"b": 2, "a": 1}])
    False
    """
    orders = list(_orders(value, ()))
    return _framed(b"o", typed_bytes(value), *orders) if orders else typed_bytes(value)


def _orders(value: Any, place: tuple[int, ...]) -> Iterator[bytes]:
    """Yield the order of each dict in a value that is not sorted, with its place in it."""
    kind = type(value)
    if kind is dict:
        names = {key: typed_bytes(key) for key in value}
        in_order = sorted(value, key=names.__getitem__)
        if in_order != list(value):
            yield _framed(repr(place).encode(), *names.values())
        for at, key in enumerate(in_order):
            yield from _orders(value[key], (*place, at))
    elif kind in (list, tuple):
        for at, each in enumerate(value):
            if type(each) in (dict, list, tuple):
                yield from _orders(each, (*place, at))


def _content(value: Any) -> Iterable[bytes]:
    if hasattr(value, "dtype") and hasattr(value, "tobytes") and hasattr(value, "tolist"):
        return _numbers(value)
    try:
        reduced = value.__reduce_ex__(4)  # what pickle would write, without how it writes it
        parts = (
            [reduced] if isinstance(reduced, str) else [list(part) if _is_iterator(part) else part for part in reduced]
        )
        return [typed_bytes(part) for part in parts]
    except Exception:  # noqa: BLE001 - what cannot be taken apart, or contains itself, has to be pickled
        return (dumps_by_value(value),)


def _numbers(value: Any) -> Iterable[bytes]:
    """Return the content of a numpy array or scalar, without the bytes that only fill up."""
    dtype = value.dtype
    head = (str(dtype).encode(), str(value.shape).encode())
    if dtype.hasobject or dtype.fields:
        return *head, typed_bytes(value.tolist())
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        return *head, *(repr(number).encode() for number in value.ravel())
    return *head, value.tobytes()


def _code(value: Any) -> Iterable[bytes]:
    """Return what identifies a class or a function: its name, or, if it has none of its own, what it consists of."""
    name = f"{value.__module__}.{value.__qualname__}".encode()
    return (name, dumps_by_value(value)) if "<lambda>" in value.__qualname__ else (name,)


def _is_iterator(value: Any) -> bool:
    return hasattr(value, "__next__")


def _type_name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _framed(tag: bytes, *contents: bytes) -> bytes:
    """Join so that no two different lists of contents give the same bytes."""
    return b"".join((tag, b"(", *(pack("<q", len(content)) + content for content in contents), b")"))
