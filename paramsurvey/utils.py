"""Names that programs written for earlier versions import; new ones find `paramsurvey.workers.command` handier."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from paramsurvey.errors import PsetError


def subprocess_run_worker(
    pset: Mapping[Any, Any],
    system_kwargs: Mapping[str, Any],  # noqa: ARG001  # every worker is given them
    user_kwargs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    r"""Run ``subprocess.run(pset["run_args"], **run_kwargs)``: a worker to be handed to `paramsurvey.map` as it is.

    Parameters
    ----------
    pset : mapping
        Has ``run_args``, and may have a dict ``run_kwargs`` for `subprocess.run`.
    system_kwargs : mapping
        Not used.
    user_kwargs : mapping or None
        May have a dict ``run_kwargs`` for those psets that have none of their own; the two are not merged.

    Returns
    -------
    dict
        The `subprocess.CompletedProcess` as ``cli``.

    Raises
    ------
    PsetError
        The pset has no ``run_args``.

    Examples
    --------
    >>> pset = {"run_args": "echo hello", "run_kwargs": {"shell": True, "stdout": -1, "encoding": "utf-8"}}
    >>> subprocess_run_worker(pset, {}, {})["cli"].stdout
    'hello\n'
    """
    run_args, run_kwargs = _run_args(pset), _run_kwargs(pset, user_kwargs)
    try:
        # Whether a return code is an error is for the caller's run_kwargs to say.
        return {"cli": subprocess.run(run_args, **run_kwargs)}
    except FileNotFoundError as err:
        if isinstance(run_args, str) and " " in run_args and not run_kwargs.get("shell"):
            err.add_note(
                f"run_args={run_args!r} was taken as the name of one program, spaces and all; make it a list with"
                ' shlex.split, or hand it to the shell with run_kwargs={"shell": True}'
            )
        raise


def _run_args(pset: Mapping[Any, Any]) -> Any:
    if "run_args" not in pset:
        keys = ", ".join(repr(key) for key in pset) or "none"
        raise PsetError(
            f"subprocess_run_worker needs 'run_args', the command to run, which the pset does not have;"
            f" its keys: {keys}"
        )
    return pset["run_args"]


def _run_kwargs(pset: Mapping[Any, Any], user_kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    for place in (pset, user_kwargs or {}):
        if place.get("run_kwargs") is not None:
            run_kwargs: Mapping[str, Any] = place["run_kwargs"]
            return run_kwargs
    return {}
