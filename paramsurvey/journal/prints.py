"""The print of a stage: what its answers depend on beside the psets. Rows of another print are another stage's.

It is made of the worker's code and that in ``user_kwargs`` (`paramsurvey.codeprint`), the values in the user's
``user_kwargs``, the survey's seed, ``seed_by=``, ``chdir=`` if it was given, ``version=``, the content of the files in
``depends=`` and the versions of the modules there. The name of the stage is not part of it, nor is anything that
decides only how and where it is computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import attrs
import numpy as np

from paramsurvey.callables import worker_name
from paramsurvey.codeprint.owners import version_of
from paramsurvey.codeprint.print import CodePrint
from paramsurvey.errors import OptionError
from paramsurvey.fingerprint import ordered_bytes, typed_bytes
from paramsurvey.options import Options


@attrs.frozen
class StagePrint:
    """What the answers of a stage depend on, part by part.

    Attributes
    ----------
    name : str
        What the stage is called; not part of the print.
    worker : str
        What its worker is called; neither.
    parts : mapping of str to str
        A digest, or the value itself where it is short, by what it is of.
    labels : mapping of str to str
        What the parts are called for people, by their names, where that is something else; not part of the print.
    libraries : mapping of str to str
        The versions of the libraries that the worker uses; told if they change, and not part of the print.
    not_covered : tuple of str
        What the worker uses that cannot be compared, so that nobody notices if it changes; told, and not part of it.
    """

    name: str
    worker: str
    parts: Mapping[str, str]
    libraries: Mapping[str, str]
    not_covered: tuple[str, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})

    @property
    def digest(self) -> bytes:
        """The print itself, 16 bytes."""
        return hashlib.blake2b(typed_bytes(dict(self.parts)), digest_size=16).digest()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "worker": self.worker,
            "parts": dict(self.parts),
            "libraries": dict(self.libraries),
            "not_covered": list(self.not_covered),
            "labels": dict(self.labels),
        }

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> StagePrint:
        """Return what `as_dict` was made of, also if that was a paramsurvey that noted less."""
        not_covered, labels = tuple(data.get("not_covered", ())), data.get("labels", {})
        return cls(data["name"], data["worker"], data["parts"], data["libraries"], not_covered, labels)


def stage_print(name: str, worker: Any, code: CodePrint, options: Options) -> StagePrint:
    """Return the print of a stage.

    Raises
    ------
    OptionError
        A file in ``depends=`` cannot be read.
    Exception
        Whatever `user_kwargs` raises when it is taken apart: then there is no print, and nothing to remember.
    """
    parts = dict(code.parts)
    parts |= _parts_of_kwargs(options.user_kwargs)
    parts["seed"] = str(options.seed)
    if options.seed_by is not None:
        parts["seed_by"] = repr(list(options.seed_by))
    if options.chdir is not None:
        parts["chdir"] = os.path.abspath(options.chdir)
    parts["version"] = repr(options.version)
    for each in options.depends:
        if isinstance(each, ModuleType):
            parts[f"module {each.__name__}"] = _version_or_content(each)
        else:
            parts[f"file {each}"] = _content(each)
    return StagePrint(name, worker_name(worker), parts, dict(code.libraries), code.not_covered, code.labels)


def changes(old: StagePrint, new: StagePrint) -> list[str]:
    """Name what differs between two prints: what was changed, what came and what went."""
    return list(_changes(old.parts, new.parts, {**old.labels, **new.labels}))


def changes_of_libraries(old: StagePrint, new: StagePrint) -> list[str]:
    """Name the libraries of which the one print has another version than the other."""
    both = sorted(old.libraries.keys() & new.libraries.keys())
    return [
        f"{name} {old.libraries[name]} is {new.libraries[name]} now"
        for name in both
        if old.libraries[name] != new.libraries[name]
    ]


def _changes(old: Mapping[str, str], new: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        label = labels.get(name, name)
        if name not in new:
            yield f"{label} is no longer used"
        elif name not in old:
            yield f"{label} is new"
        elif old[name] != new[name]:
            shown = f" from {old[name]} to {new[name]}" if _is_shown(name) else ""
            yield f"{label} changed{shown}"


def _is_shown(name: str) -> bool:
    """Tell whether a part is the value itself, and no digest."""
    return name in ("seed", "seed_by", "version", "chdir") or name.startswith("module ")


def _parts_of_kwargs(user_kwargs: Any) -> dict[str, str]:
    if type(user_kwargs) is dict and all(type(key) is str for key in user_kwargs):
        return {f"user_kwargs[{key!r}]": _digest(value) for key, value in user_kwargs.items()}
    return {"user_kwargs": _digest(user_kwargs)}


def _digest(value: Any) -> str:
    """Hash a value by its typed bytes; the bytes of a large array without a copy of them."""
    found = hashlib.blake2b(digest_size=16)
    if isinstance(value, np.ndarray) and value.size and value.flags.c_contiguous and value.dtype.kind in "biuf":
        found.update(typed_bytes((str(value.dtype), value.shape, "array")))
        found.update(value.reshape(-1).view(np.uint8).data)
    else:
        found.update(ordered_bytes(value))
    return found.hexdigest()


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as exc:
        raise OptionError(f"depends={path!r}: the file cannot be read: {exc.strerror}") from exc


def _version_or_content(module: ModuleType) -> str:
    version = version_of(module)
    if version is not None:
        return version
    if module.__file__ is None:
        raise OptionError(f"depends={module!r}: it is not installed and has no file of its own: name its files")
    return _content(module.__file__)
