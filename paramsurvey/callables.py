"""What may be handed over as a worker, and what it is called: asked once, when it is handed over.

Stages, pipelines and options ask the same of it, without `workers`, whose adapters few programs need.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeAlias

from paramsurvey.errors import WorkerError

Worker: TypeAlias = Callable[[dict[Any, Any], Mapping[str, Any], Any], dict[Any, Any] | None]

_SHORT = 200
_CALL = "worker(pset, system_kwargs, user_kwargs)"


def as_worker(obj: Any) -> Worker:
    """Return `obj` itself if it can be used as a worker, and refuse it with the reason if not.

    A worker is any callable that takes three positional arguments, whatever their names. A builtin that does not tell
    its parameters is taken at its word. What has a method ``as_worker``, as pipelines do, says itself what to call.

    Parameters
    ----------
    obj : callable
        What the user handed over.

    Raises
    ------
    WorkerError
        `obj` cannot be called, cannot be called with three arguments, is a class, or is a coroutine or generator
        function, whose calls return before anything is computed.

    Examples
    --------
    >>> as_worker(lambda pset, system_kwargs, user_kwargs: {"c": pset["a"] + 1})({"a": 1}, {}, {})
    {'c': 2}
    >>> as_worker(lambda width, height: width * height)
    Traceback (most recent call last):
    ...
    paramsurvey.errors.WorkerError: <lambda> takes (width, height), but it is called with three arguments, \
as worker(pset, system_kwargs, user_kwargs); workers.keywords makes a worker from a function of named parameters
    """
    if _is_plainly_one(obj):
        plain: Worker = obj
        return plain
    if callable(getattr(type(obj), "as_worker", None)):
        obj = obj.as_worker()
    if isinstance(obj, type):
        raise WorkerError(f"the worker is the class {obj.__name__!r}; hand over a function, or an instance: {_CALL}")
    if not callable(obj):
        raise WorkerError(f"the worker is {short(obj)} ({type(obj).__name__}), which cannot be called: {_CALL}")
    refuse_deferred(obj)
    # What counts is what this callable takes, not what a function that it decorates takes.
    signature = signature_of(obj, follow_wrapped=False)
    if signature is not None:
        _refuse_other_than_three(obj, signature)
    worker: Worker = obj
    return worker


def _is_plainly_one(obj: Any) -> bool:
    """Tell without `inspect`, which takes 50 times as long, that a plain function takes three arguments.

    A search asks that four times before its first evaluation.
    """
    if type(obj) is not FunctionType or obj.__dict__:  # where decorators leave another signature
        return False
    code = obj.__code__
    return code.co_argcount == 3 and not code.co_kwonlyargcount and not code.co_flags & _DEFERRED


_DEFERRED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def worker_name(obj: Any) -> str:
    """Return a readable name for a callable: the function's name, or the class's for an instance.

    Examples
    --------
    >>> worker_name(worker_name), worker_name(functools.partial(worker_name)), worker_name(lambda: 0)
    ('worker_name', 'worker_name', '<lambda>')
    """
    while isinstance(obj, functools.partial):
        obj = obj.func
    name = getattr(obj, "__name__", None)
    return name if isinstance(name, str) else type(obj).__name__


def _refuse_other_than_three(obj: Callable[..., Any], signature: inspect.Signature) -> None:
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise WorkerError(
            f"{worker_name(obj)} takes {_parameter_list(signature)}, but it is called with three arguments, as {_CALL};"
            " workers.keywords makes a worker from a function of named parameters"
        ) from None


def _parameter_list(signature: inspect.Signature) -> str:
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def refuse_deferred(obj: Callable[..., Any]) -> None:
    """Refuse what returns a promise of an answer when it is called."""
    for code in (obj, type(obj).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise WorkerError(
                f"{worker_name(obj)} is an async function: a call returns before it has run;"
                " hand over a plain function that calls asyncio.run"
            )
        if inspect.isgeneratorfunction(code):
            raise WorkerError(
                f"{worker_name(obj)} is a generator function (it has a yield): a call returns before it has run;"
                " return one dict instead"
            )


def signature_of(obj: Callable[..., Any], *, follow_wrapped: bool) -> inspect.Signature | None:
    """Return the signature, or None for a callable that does not tell it."""
    try:
        return inspect.signature(obj, follow_wrapped=follow_wrapped)
    except (ValueError, TypeError):
        return None


def short(value: Any) -> str:
    """Return the `repr` of a value for a message, shortened in its middle; never raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a message about an object must not fail for its repr
        text = f"<{type(value).__name__} whose repr fails>"
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 10]} ... {text[-5:]}"
