"""What lies in Ray's object store: constants, put there once and shared by a node's processes, and large answers."""

from __future__ import annotations

import io
import pickle
import sys
import traceback
from typing import Any

import attrs
import cloudpickle
import ray

from paramsurvey.backends.ray import remote
from paramsurvey.engine.columns import Remote
from paramsurvey.engine.pickling import PROTOCOL, Buffers, ByValuePickler, dumps_by_value
from paramsurvey.engine.records import Unsendable
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import BackendError
from paramsurvey.folders import search_path


class FramesInside(ByValuePickler):
    """Pickles frames whole, so that their readers have copies that can be written to.

    Buffers beside the pickle are read where they lie, in Ray's memory, which is read-only: that is right for a large
    array, which is there once on a node, and fatal for frames, because pandas writes to its own at unexpected times.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Pickle a frame into the pickle."""
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(obj, pandas.DataFrame | pandas.Series | pandas.Index):
            return pickle.loads, (dumps_by_value(obj),)
        return super().reducer_override(obj)


def _pickled(obj: Any) -> list[Any]:
    buffers = Buffers()
    with io.BytesIO() as file:
        FramesInside(file, PROTOCOL, buffer_callback=buffers.collect).dump(obj)
        data = file.getvalue()
    return [pickle.dumps((search_path(), data)), *buffers]


@attrs.define(eq=False, repr=False)
class PublishedObject:
    """A constant in the object store.

    Attributes
    ----------
    key : str
        Its name, by which worker processes know it.
    ref : ObjectRef or None
        Where it is; None when it is closed.
    is_proven : bool
        Whether some process has loaded it and lived to tell.
    """

    key: str
    obj: Any
    ref: Any = None
    is_proven: bool = False
    _by_value: dict[str, str] = attrs.field(factory=dict)  # modules sent along, and why they will not be again

    def __attrs_post_init__(self) -> None:
        self._put()

    def _put(self) -> None:
        try:
            pieces = _pickled(self.obj)
        except Exception as exc:
            raise Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()) from exc
        self.ref = ray.put([pickle.PickleBuffer(piece) if isinstance(piece, bytes) else piece for piece in pieces])

    def __reduce__(self) -> tuple[type[remote.Stub], tuple[str]]:
        return remote.Stub, (self.key,)

    def load(self) -> Any:
        """Return the constant."""
        return self.obj

    def ship(self, module: str) -> str:
        """Publish it again with the code of a module that a node lacks; return why that cannot be, or nothing."""
        if module in self._by_value:
            return self._by_value[module]
        if module not in sys.modules:
            return "the driver has none of that name either"
        self._by_value[module] = "its code, which was sent along, does not help"
        modules = [sys.modules[name] for name in self._by_value]
        for each in modules:
            cloudpickle.register_pickle_by_value(each)
        try:
            self._put()
        except Unsendable as exc:
            self._by_value[module] = f"its code cannot be sent along ({exc})"
            return self._by_value[module]
        finally:
            for each in modules:
                cloudpickle.unregister_pickle_by_value(each)
        return ""

    def close(self) -> None:
        """Forget it; the store does when no task needs it any more."""
        self.ref = None


class RemoteValue(Remote):
    """A large answer in the object store of the node where it was computed, or already here, too.

    Parameters
    ----------
    ref : ObjectRef
        The large answers of its task.
    place : int
        Which of them it is.
    """

    __slots__ = ("_fetched", "_value", "place", "ref")

    def __init__(self, ref: Any, place: int) -> None:
        self.ref = ref
        self.place = place
        self._fetched = False
        self._value: Any = None

    @property
    def key(self) -> str:
        """By what name worker processes know where it is."""
        return remote.VALUES + str(self.ref.hex())

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return remote.left_value, (self.key, self.place)

    def __repr__(self) -> str:
        return f"<an answer on another node, {self.ref.hex()[:8]}>"

    def bring(self) -> Any:
        """Return the value, fetched once."""
        if not self._fetched:
            try:
                pieces = ray.get(self.ref)[self.place]
            except ray.exceptions.RayError as exc:
                raise BackendError(f"an answer was lost with the node where it was: {safe_repr(exc)}") from exc
            self._value = remote.thawed_copy(pieces)
            self._fetched = True
        return self._value
