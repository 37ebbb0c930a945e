"""What ``mpi={...}`` may say. MPI is not imported: settings are checked on machines without it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paramsurvey.backends.base import refuse_unknown_settings
from paramsurvey.errors import OptionError

SETTINGS = {
    "slots": "worker processes of each rank; by default its share of its node's cores",
    "driver_slots": "the same for rank 0, which runs the program too; 0: none",
}


def refuse_wrong_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what is unknown or impossible on any machine.

    Raises
    ------
    OptionError
        There is a setting that is.

    Examples
    --------
    >>> refuse_wrong_settings({"slots": 4, "driver_slots": 0})
    >>> refuse_wrong_settings({"slots": -4})
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: mpi={'slots': -4}: slots must be a whole number, 1 or more
    """
    refuse_unknown_settings("mpi", settings, SETTINGS)
    for name, value in settings.items():
        least = 1 if name == "slots" else 0
        if type(value) is not int or value < least:
            raise OptionError(f"mpi={{{name!r}: {value!r}}}: {name} must be a whole number, {least} or more")
