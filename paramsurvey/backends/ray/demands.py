"""What a task asks of a node, and how many such tasks a cluster has room for. Plain arithmetic: Ray is not imported."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import attrs

from paramsurvey.errors import OptionError
from paramsurvey.options import nearest_or_all, shown

OF_INIT = ("address", "init")
"""Settings that are for `init` alone: where to join, and further keywords of ``ray.init``."""
OF_A_TASK = ("name", "num_cpus", "num_cores", "num_gpus", "memory", "resources")
GIGABYTE = 1e9
_SLACK = 1e-6
"""Ray counts in units of 1/10,000."""


@attrs.frozen(kw_only=True)
class Demand:
    """What one task asks for.

    Attributes
    ----------
    num_cpus, num_gpus : float
        So many of each; parts of one are allowed.
    memory : float
        Bytes.
    resources : tuple
        Custom resources: names and amounts, sorted.
    name : str
        What Ray calls the task; empty for what it does anyway.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    memory: float = 0
    resources: tuple[tuple[str, float], ...] = ()
    name: str = ""

    def wanted(self) -> dict[str, float]:
        """Return what it asks for, by Ray's names for resources."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory, **dict(self.resources)}
        return {name: amount for name, amount in wanted.items() if amount}

    def options(self) -> dict[str, Any]:
        """Return it as options of a remote function."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus}
        if self.num_gpus:
            options["num_gpus"] = self.num_gpus
        if self.memory:
            options["memory"] = self.memory
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.name:
            options["name"] = self.name
        return options


@attrs.frozen(kw_only=True)
class Node:
    """A machine of the cluster and all that it has, in use or not."""

    address: str
    resources: Mapping[str, float]

    @property
    def num_cores(self) -> int:
        """How many cores it lends."""
        return int(self.resources.get("CPU", 0))

    def room(self, demand: Demand) -> int:
        """Return how many such tasks it can run at once; where a task asks for nothing, as many as it has cores."""
        wanted = demand.wanted()
        if not wanted:
            return self.num_cores
        return min(math.floor(self.resources.get(name, 0) / amount + _SLACK) for name, amount in wanted.items())

    def describe(self) -> dict[str, Any]:
        """Return what it has, as `current_resources` tells it."""
        own = {
            name: amount
            for name, amount in self.resources.items()
            if name not in {"CPU", "GPU", "memory", "object_store_memory"} and not name.startswith("node:")
        }
        return {
            "address": self.address,
            "num_cores": self.num_cores,
            "num_gpus": self.resources.get("GPU", 0),
            "memory": int(self.resources.get("memory", 0)),
            "resources": own,
        }

    def __str__(self) -> str:
        has = self.describe()
        more = "".join(f", {amount:g} {name!r}" for name, amount in has["resources"].items())
        return (
            f"{self.address}: {self.num_cores} cores, {has['num_gpus']:g} GPUs, {has['memory'] / GIGABYTE:.1f} GB of "
            f"memory{more}"
        )


def room(nodes: Iterable[Node], demand: Demand) -> int:
    """Return how many such tasks these nodes can run at once."""
    return sum(node.room(demand) for node in nodes)


def demand_of(settings: Mapping[str, Any], where: str) -> Demand:
    """Return what a dict of settings asks for.

    Parameters
    ----------
    settings : mapping
        ``name``, ``num_cpus`` (or ``num_cores``), ``num_gpus``, ``memory`` in bytes, and ``resources``, a dict; those
        of `OF_INIT` are passed over.
    where : str
        What the dict is called in messages.

    Raises
    ------
    OptionError
        There is no such setting, or it cannot have this value.

    Examples
    --------
    >>> demand_of({"num_cores": 2, "resources": {"licence": 1}}, "ray=").options()
    {'num_cpus': 2, 'resources': {'licence': 1}}
    >>> demand_of({"num_gpu": 1}, "ray=")
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: ray={'num_gpu': 1}: the backend 'ray' has no setting 'num_gpu'; did you mean \
'num_gpus'?
    """
    for name in settings:
        if name not in OF_A_TASK and name not in OF_INIT:
            raise OptionError(
                f"{where}{shown(dict(settings))}: the backend 'ray' has no setting {name!r}; "
                f"{nearest_or_all(name, (*OF_A_TASK, *OF_INIT))}"
            )
    if settings.get("num_cpus") is not None and settings.get("num_cores") is not None:
        raise OptionError(f"{where}{shown(dict(settings))}: num_cores is another name for num_cpus; give one of them")
    cpus = settings.get("num_cpus") if settings.get("num_cores") is None else settings.get("num_cores")
    return Demand(
        num_cpus=1 if cpus is None else _amount(cpus, "num_cpus", where),
        num_gpus=_amount(settings.get("num_gpus") or 0, "num_gpus", where),
        memory=_amount(settings.get("memory") or 0, "memory", where),
        resources=_resources(settings.get("resources") or {}, where),
        name=str(settings.get("name") or ""),
    )


def refuse_wrong_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what is unknown or impossible on any cluster.

    Raises
    ------
    OptionError
        There is a setting that is.

    Examples
    --------
    >>> refuse_wrong_settings({"address": "auto", "num_cpus": 2})
    >>> refuse_wrong_settings({"init": "runtime_env"})
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: ray={'init': 'runtime_env'}: init must be a dict of keywords of ray.init
    """
    demand_of(settings, "ray=")
    for name, kind, expects in (("address", str, "a text"), ("init", Mapping, "a dict of keywords of ray.init")):
        if not isinstance(settings.get(name), kind | None):
            raise OptionError(f"ray={{{name!r}: {shown(settings[name])}}}: {name} must be {expects}")


def _resources(given: Any, where: str) -> tuple[tuple[str, float], ...]:
    if not isinstance(given, Mapping):
        raise OptionError(f"{where}{shown({'resources': given})}: resources must be a dict of names and amounts")
    return tuple(sorted((str(name), _amount(amount, str(name), where)) for name, amount in given.items()))


def _amount(value: Any, name: Hashable, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise OptionError(f"{where}{shown({name: value})}: {name} must be a number, 0 or more")
    return value


def refuse_if_impossible(demand: Demand, nodes: Iterable[Node], where: str) -> None:
    """Raise `OptionError` if no node can ever run such a task: Ray would wait for one without a word."""
    nodes = list(nodes)
    if nodes and not room(nodes, demand):
        asked = ", ".join(f"{name}={amount:g}" for name, amount in demand.wanted().items())
        has = "; ".join(map(str, nodes))
        raise OptionError(f"{where}: no node of the Ray cluster can ever run a task with {asked}; it has {has}")
