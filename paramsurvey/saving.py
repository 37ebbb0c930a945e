"""Saving pictures: the checks of their files' names, and matplotlib for those that are PNG."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paramsurvey.errors import BackendError, OptionError


def file_for(what: str, path: str | os.PathLike[str], suffixes: Sequence[str]) -> Path:
    """Return the file into which something is to be saved.

    Parameters
    ----------
    what : str
        What is to be saved, in messages.
    path : path
        Where.
    suffixes : list of str
        How its name may end.

    Raises
    ------
    OptionError
        The name ends otherwise, or the folder does not exist.

    Examples
    --------
    >>> file_for("a chart", "chart.pdf", (".svg", ".png"))
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: a chart cannot be saved as 'chart.pdf': end the name in .svg or .png
    """
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        *others, last = suffixes
        raise OptionError(f"{what} cannot be saved as {str(file)!r}: end the name in {', '.join(others)} or {last}")
    if not file.parent.is_dir():
        raise OptionError(
            f"{what} cannot be saved as {str(file)!r}: there is no folder {str(file.parent)!r}; make it first"
        )
    return file


@contextmanager
def png_axes(what: str, file: Path, size: tuple[float, float], *, ground: str, dpi: float) -> Iterator[Any]:
    """Yield matplotlib's axes for a picture, and write the file in the end; the user's pyplot is left alone.

    Parameters
    ----------
    what : str
        What is to be saved, in messages.
    file : Path
        Where.
    size : (float, float)
        Width and height in points, which are the units of the axes; (0, 0) is at the top left.
    ground : str
        The colour behind it.
    dpi : float
        How many pixels 72 points have.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise BackendError(
            f"{what} cannot be saved as {str(file)!r} without matplotlib: pip install 'paramsurvey[plot]', or save it "
            "as .svg"
        ) from exc
    width, height = size
    with mpl.rc_context({"text.usetex": False, "path.sketch": None, "path.effects": []}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # an empty rectangle says it, too
        figure = Figure(figsize=(width / 72, height / 72), dpi=dpi, facecolor=ground)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        yield axes
        canvas.print_png(str(file))  # type: ignore[no-untyped-call]
