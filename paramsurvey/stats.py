"""Where the time went: timers for use inside workers, and `PerfStats`, which sums up what they measured.

Timers append seconds to a dict of lists, ``raw_stats``, in the process of the worker. `PerfStats` lives in the driver
and keeps, for each name, a histogram, a count, a sum and the longest time: its size does not depend on how much it has
seen, and its content does not depend on the order or the portions in which that came.

Worker processes import this module at their start, where every millisecond counts. That is why numpy and hdrh are
imported inside the functions that need them, and why nothing here is made with attrs.
"""

from __future__ import annotations

import math
import reprlib
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from paramsurvey.errors import OptionError

if TYPE_CHECKING:
    import array
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TextIO

    import numpy as np

    RawStats = dict[str, list[float]]
    Seconds = Sequence[float] | array.array[float] | np.ndarray[Any, Any]
    Counts = Sequence[int] | array.array[int] | np.ndarray[Any, Any]

_LONGEST_US = 7 * 86_400 * 1_000_000  # a histogram ends at seven days
_FIGURES = 3
_FIGURES_BITS = 11  # what HdrHistogram makes of three figures: values of up to 11 bits have bins of their own
_HALF = 1 << (_FIGURES_BITS - 1)  # bins of one width, after the first
_TOO_LONG = 2.0**32  # seconds, 136 years: sums of longer times would not fit 64 bits
_TOO_MANY = 2**30  # psets in one addition: the same
_TICKS = 2**60  # sums are counted in such parts of a second
_HALF_TICKS = 2.0**30  # its square root
FEW = 16  # times; from here on numpy pays
_BLOCK = 16_384  # times that numpy takes at once: what it makes of them stays in the processor's cache
_PERCENTILES = (50, 90, 95, 99)
_ROWS = 12
_BAR = 44
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "us"))


class record_wallclock:  # noqa: N801 - it reads as a verb: with record_wallclock(...)
    """Measure how long a block takes, also when it raises.

    Parameters
    ----------
    name : str
        What is measured.
    raw_stats : dict
        Where to append the seconds, as ``raw_stats[name]``; in a worker ``system_kwargs["raw_stats"]``.

    Examples
    --------
    >>> def worker(pset, system_kwargs, user_kwargs):
    ...     with record_wallclock("sum", system_kwargs["raw_stats"]):
    ...         return {"sum": sum(range(pset["n"]))}
    >>> raw_stats = {}
    >>> worker({"n": 5}, {"raw_stats": raw_stats}, {})
    {'sum': 10}
    >>> len(raw_stats["sum"])
    1
    """

    __slots__ = ("_name", "_raw_stats", "_start")

    def __init__(self, name: str, raw_stats: RawStats) -> None:
        self._name = name
        self._raw_stats = raw_stats

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self._raw_stats.setdefault(self._name, []).append(time.perf_counter() - self._start)


class record_iowait:  # noqa: N801 - as above
    """Measure how long a block waits: its time less the processor time of this process, at least 0.

    Parameters
    ----------
    name : str
        What is measured.
    raw_stats : dict
        Where to append the seconds, as ``raw_stats[name]``; in a worker ``system_kwargs["raw_stats"]``.

    Examples
    --------
    >>> import os
    >>> raw_stats = {}
    >>> with record_iowait("list", raw_stats):
    ...     names = os.listdir()
    >>> len(raw_stats["list"])
    1
    """

    __slots__ = ("_cpu", "_name", "_raw_stats", "_start")

    def __init__(self, name: str, raw_stats: RawStats) -> None:
        self._name = name
        self._raw_stats = raw_stats

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._cpu = time.process_time()

    def __exit__(self, *exc_info: object) -> None:
        cpu = time.process_time() - self._cpu
        waited = time.perf_counter() - self._start - cpu
        # Threads of this process, and clocks of different steps, can make it less than nothing.
        self._raw_stats.setdefault(self._name, []).append(max(waited, 0.0))


class PerfStats:
    """How often each thing was measured and how long it took: counts, means, totals, percentiles.

    Percentiles are right within 0.2 % from a millisecond upwards, and to a microsecond below; those of more than seven
    days count as seven days, except for the longest, which is kept exactly.

    Parameters
    ----------
    raw_stats : dict, optional
        Lists of seconds by name, to begin with.

    Examples
    --------
    >>> stats = PerfStats({"load": [0.010, 0.020, 0.030]})
    >>> stats.add("fit", [2.5])
    >>> stats
    <PerfStats: load 3 x 20 ms, fit 1 x 2.5 s>
    >>> stats.total("load")
    0.06
    """

    def __init__(self, raw_stats: Mapping[str, Seconds] | None = None) -> None:
        self._timings: dict[str, _Timing] = {}
        self.combine_stats(raw_stats or {})

    def add(self, name: str, seconds: Seconds, counts: Counts | None = None) -> None:
        """Add measured times.

        Parameters
        ----------
        name : str
            What was measured.
        seconds : sequence of float
            The times; with none of them the name stays unknown.
        counts : sequence of int, optional
            ``seconds[i]`` stands for ``counts[i]`` psets; each for one if not given.

        Raises
        ------
        OptionError
            Something among `seconds` is no time in seconds, or among `counts` no count; nothing was added then.

        Examples
        --------
        >>> stats = PerfStats()
        >>> stats.add("pset", [0.001, 0.5], counts=[99, 1])
        >>> stats
        <PerfStats: pset 100 x 5.99 ms>
        """
        self._add_times(name, _times(name, seconds, counts))

    def combine_stats(self, raw_stats: Mapping[str, Seconds]) -> None:
        """Add the lists of seconds that the timers of one worker collected; all of them, or none if one is wrong.

        Parameters
        ----------
        raw_stats : dict
            Lists of seconds by name.

        Raises
        ------
        OptionError
            One of the lists holds something that is no time in seconds.

        Examples
        --------
        >>> stats = PerfStats()
        >>> stats.combine_stats({"load": [0.25, 0.75], "fit": [2.0]})
        >>> stats.all_stat_names()
        ['load', 'fit']
        """
        times = {name: _times(name, seconds, None) for name, seconds in raw_stats.items()}
        for name, of_name in times.items():
            self._add_times(name, of_name)

    def merge(self, other: PerfStats) -> None:
        """Add everything that another `PerfStats` has seen; the other stays as it is.

        Parameters
        ----------
        other : PerfStats
            What to add.

        Examples
        --------
        >>> stats = PerfStats({"load": [1.0]})
        >>> stats.merge(PerfStats({"load": [3.0], "fit": [5.0]}))
        >>> stats
        <PerfStats: load 2 x 2 s, fit 1 x 5 s>
        """
        for name, timing in list(other._timings.items()):
            self._timing(name).add(timing.times())

    def all_stat_names(self) -> list[str]:
        """List the names that have times, in the order in which they came.

        Returns
        -------
        list of str

        Examples
        --------
        >>> PerfStats({"load": [1.0], "never": []}).all_stat_names()
        ['load']
        """
        return list(self._timings)

    def read_stats(self, name: str) -> tuple[int, float, Any] | None:
        """Read how often, how long on average, and the histogram.

        Parameters
        ----------
        name : str
            What was measured.

        Returns
        -------
        (int, float, HdrHistogram) or None
            Count, mean in seconds, and a histogram of microseconds, made for the asker. None if there are no times
            of that name.

        Examples
        --------
        >>> count, mean, histogram = PerfStats({"load": [1.0, 3.0]}).read_stats("load")
        >>> count, mean, histogram.get_total_count()
        (2, 2.0, 2)
        """
        timing = self._timings.get(name)
        return None if timing is None else (timing.count, timing.mean(), timing.histogram())

    def total(self, name: str) -> float:
        """Sum up all times of a name.

        Parameters
        ----------
        name : str
            What was measured.

        Returns
        -------
        float
            Seconds.

        Raises
        ------
        OptionError
            There are no times of that name.

        Examples
        --------
        >>> PerfStats({"load": [0.1] * 10}).total("load")
        1.0
        """
        return self._known(name).total()

    def percentile(self, name: str, p: float) -> float:
        """Find the time that `p` percent of the measured ones do not exceed.

        Parameters
        ----------
        name : str
            What was measured.
        p : float
            From 0 to 100, which is the longest time.

        Returns
        -------
        float
            Seconds.

        Raises
        ------
        OptionError
            There are no times of that name, or `p` is not from 0 to 100.

        Examples
        --------
        >>> stats = PerfStats({"load": [0.01] * 90 + [7.0] * 10})
        >>> round(stats.percentile("load", 50), 3), stats.percentile("load", 100)
        (0.01, 7.0)
        """
        if not 0 <= p <= 100:
            raise OptionError(f"percentile {p!r} is impossible: give a number from 0 to 100")
        return self._known(name).percentiles([p])[0]

    def print_percentiles(self, name: str | None = None, file: TextIO | None = None) -> None:
        """Print a table: count, mean, percentiles and the longest time of each name.

        Parameters
        ----------
        name : str, optional
            Only this one.
        file : file, optional
            Where to; standard error if not given.

        Examples
        --------
        >>> stats = PerfStats({"load": [0.010, 0.020, 0.030], "fit": [2.5]})
        >>> stats.print_percentiles(file=sys.stdout)
                            count     mean      50%      90%      95%      99%      max
        load                    3    20 ms    20 ms    30 ms    30 ms    30 ms    30 ms
        fit                     1    2.5 s    2.5 s    2.5 s    2.5 s    2.5 s    2.5 s
        """
        if names := self._printed(name, file):
            _write(_percentile_table({n: self._timings[n] for n in names}), file)

    def print_percentile(self, name: str, file: TextIO | None = None) -> None:
        """Print the percentiles of one name: see `print_percentiles`.

        Parameters
        ----------
        name : str
            What was measured.
        file : file, optional
            Where to; standard error if not given.

        Examples
        --------
        >>> PerfStats().print_percentile("load", file=sys.stdout)
        load: no times recorded
        """
        self.print_percentiles(name, file)

    def print_histograms(self, name: str | None = None, file: TextIO | None = None) -> None:
        """Print how the times of each name are distributed; each line stands for the same factor in time.

        Parameters
        ----------
        name : str, optional
            Only this one.
        file : file, optional
            Where to; standard error if not given.

        Examples
        --------
        >>> PerfStats({"load": [1.0] * 5, "fit": [2.5]}).print_histograms(file=sys.stdout)
        load: 5 times, 5 s in all, mean 1 s
               1 s -      1 s |############################################ 5
        fit: 1 time, 2.5 s in all, mean 2.5 s
             2.5 s -    2.5 s |############################################ 1
        """
        for n in self._printed(name, file):
            _write(_histogram_lines(n, self._timings[n]), file)

    def print_histogram(self, name: str, file: TextIO | None = None) -> None:
        """Print how the times of one name are distributed: see `print_histograms`.

        Parameters
        ----------
        name : str
            What was measured.
        file : file, optional
            Where to; standard error if not given.

        Examples
        --------
        >>> PerfStats().print_histogram("load", file=sys.stdout)
        load: no times recorded
        """
        self.print_histograms(name, file)

    def __repr__(self) -> str:
        parts = [f"{name} {t.count:,} x {readable_time(t.mean())}" for name, t in self._timings.items()]
        return f"<PerfStats: {', '.join(parts) or 'no times recorded'}>"

    def _add_times(self, name: str, times: _Times) -> None:
        if times.number:
            self._timing(name).add(times)

    def _timing(self, name: str) -> _Timing:
        if name not in self._timings:
            self._timings[name] = _Timing()
        return self._timings[name]

    def _known(self, name: str) -> _Timing:
        try:
            return self._timings[name]
        except KeyError:
            names = ", ".join(map(repr, self._timings)) or "none"
            raise OptionError(f"no times were recorded as {name!r}; recorded: {names}") from None

    def _printed(self, name: str | None, file: TextIO | None) -> list[str]:
        if name is None:
            return self.all_stat_names()
        if name in self._timings:
            return [name]
        # No error: a script that prints its statistics at the end should not fail because no pset came that far.
        _write([f"{name}: no times recorded"], file)
        return []


class _Times(NamedTuple):
    """Checked times, summed up: what is added to a `_Timing`. A bin may come more than once."""

    number: int
    ticks: int
    longest: float
    bins: Sequence[int] | np.ndarray[Any, Any]
    counts: Sequence[int] | np.ndarray[Any, Any]  # how many are in each of the bins


class _Timing:
    """Everything that is kept of one name.

    The bins are those of an `HdrHistogram` of microseconds, which is made of them when somebody asks for it: it takes
    1.8 us to record a value, a hundred times what it takes numpy.

    The sum is an integer of 2**-60 s: fine enough to be exact for doubles from 4 ms upwards, and, unlike a sum of
    floats, the same in whatever portions and order the times come.
    """

    __slots__ = ("count", "counts", "longest", "ticks")

    def __init__(self) -> None:
        import numpy as np  # here, not above: see the module's docstring

        self.count = 0
        self.ticks = 0
        self.longest = -math.inf
        self.counts = np.zeros(2 * _HALF, dtype=np.int64)

    def add(self, times: _Times) -> None:
        import numpy as np

        self.count += times.number
        self.ticks += times.ticks
        self.longest = max(self.longest, times.longest)
        self._make_room(_bin(self.longest) + 1)
        np.add.at(self.counts, times.bins, times.counts)  # unlike +=, right for a bin that comes twice

    def _make_room(self, bins: int) -> None:
        """Have that many bins, at least: for all that there can be, the system would have to clear 200 kB."""
        import numpy as np

        if bins > len(self.counts):
            before, self.counts = self.counts, np.zeros(max(bins, 2 * len(self.counts)), dtype=np.int64)
            self.counts[: len(before)] = before

    def times(self) -> _Times:
        bins = self.counts.nonzero()[0]
        return _Times(self.count, self.ticks, self.longest, bins, self.counts[bins])

    def histogram(self) -> Any:
        from hdrh.histogram import HdrHistogram  # here, not above: see the module's docstring

        histogram = HdrHistogram(1, _LONGEST_US, _FIGURES)
        _, _, _, bins, counts = self.times()
        for number, count in zip(bins, counts, strict=True):
            histogram.record_value(_limits(int(number))[0], int(count))
        return histogram

    def total(self) -> float:
        return self.ticks / _TICKS

    def mean(self) -> float:
        return self.ticks / (_TICKS * self.count)

    def percentiles(self, ps: Sequence[float]) -> list[float]:
        """Find percentiles as an HdrHistogram does: the upper end of the bin; but never more than the longest."""
        ranks = [max(int(p / 100 * self.count + 0.5), 1) for p in ps]
        bins = self.counts.cumsum().searchsorted(ranks).tolist()
        return [
            self.longest if rank == self.count else min(_limits(number)[1] / 1e6, self.longest)
            for rank, number in zip(ranks, bins, strict=True)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return _timing_of, (self.times(),)  # most bins are empty


def _timing_of(times: _Times) -> _Timing:
    timing = _Timing()
    timing.add(times)
    return timing


def _times(name: str, seconds: Seconds, counts: Counts | None) -> _Times:
    if _is_few(seconds) and (counts is None or (_is_few(counts) and len(counts) == len(seconds))):
        return _few_times(name, seconds, counts)
    return _many_times(name, seconds, counts)


def _is_few(values: Seconds | Counts) -> bool:
    """Whether a loop is faster than numpy, and these plain numbers need none of the checks of `_many_times`."""
    return isinstance(values, list | tuple) and len(values) < FEW and set(map(type, values)) <= {int, float}


def _few_times(name: str, seconds: Seconds, counts: Counts | None) -> _Times:
    pairs = [(x, 1) for x in seconds] if counts is None else list(zip(seconds, counts, strict=True))
    for x, n in pairs:
        if not -_TOO_LONG < x < _TOO_LONG:
            raise _no_times(name, x)
        if not (type(n) is int and 0 <= n <= _TOO_MANY):
            raise _no_counts(name, n)
    pairs = [(x, n) for x, n in pairs if n]
    return _Times(
        number=sum(n for _, n in pairs),
        ticks=sum(round(x * float(_TICKS)) * n for x, n in pairs),
        longest=float(max((x for x, _ in pairs), default=-math.inf)),
        bins=[_bin(x) for x, _ in pairs],
        counts=[n for _, n in pairs],
    )


def _bin(seconds: float) -> int:
    """Find the number of the bin, counted from the shortest.

    The first 2048 are a microsecond wide, and every further 1024 twice as wide as those before: so are the counters of
    an HdrHistogram arranged (https://hdrhistogram.github.io/HdrHistogram).
    """
    microseconds = min(max(round(seconds * 1e6), 1), _LONGEST_US)
    shift = max(microseconds.bit_length() - _FIGURES_BITS, 0)
    return (microseconds >> shift) + shift * _HALF


def _limits(number: int) -> tuple[int, int]:
    """Say which microseconds a bin is for, the first and the last."""
    shift = max(number // _HALF - 1, 0)
    lowest = (number - shift * _HALF) << shift
    return lowest, lowest + (1 << shift) - 1


def _many_times(name: str, seconds: Seconds, counts: Counts | None) -> _Times:
    import numpy as np  # here, not above: see the module's docstring

    x = _checked_seconds(name, seconds)
    n = None if counts is None else _checked_counts(name, counts, len(x))
    if n is not None:
        x, n = x[n > 0], n[n > 0]
    ticks = 0
    totals = np.zeros(0, dtype=np.int64)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        of_block = None if n is None else n[block]
        ticks += _sum_in_ticks(x[block], of_block)
        totals = _sum_of_bins(totals, x[block], of_block)
    bins = totals.nonzero()[0]
    return _Times(
        number=len(x) if n is None else int(n.sum()),
        ticks=ticks,
        longest=float(x.max(initial=-math.inf)),
        bins=bins,
        counts=totals[bins],
    )


def _checked_seconds(name: str, seconds: Seconds) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        x = np.asarray(seconds)
    except ValueError:  # lists of different lengths
        raise _no_times(name, seconds) from None
    if x.size == 0 and x.ndim == 1:
        return np.zeros(0)
    if x.dtype.kind not in "iuf" or x.ndim != 1:
        raise _no_times(name, seconds)
    x = x.astype(np.float64, copy=False)
    good = np.abs(x) < _TOO_LONG  # false for NaN
    if not good.all():
        raise _no_times(name, float(x[~good][0]))
    return x


def _checked_counts(name: str, counts: Counts, length: int) -> np.ndarray[Any, Any]:
    import numpy as np

    n = np.asarray(counts)
    if n.shape != (length,):
        raise OptionError(f"times of {name!r}: {length} times came with counts of shape {n.shape}: give each its count")
    if length == 0:
        return np.zeros(0, dtype=np.int64)
    if n.dtype.kind not in "iu":
        raise _no_counts(name, counts)
    good = (n >= 0) & (n <= _TOO_MANY)
    if not good.all():
        raise _no_counts(name, int(n[~good][0]))
    n = n.astype(np.int64, copy=False)
    if n.sum() > _TOO_MANY:
        raise _no_counts(name, int(n.sum()))
    return n


def _no_times(name: str, value: object) -> OptionError:
    return OptionError(
        f"times of {name!r} have {reprlib.repr(value)} among them, which is no time in seconds: "
        "give a sequence of numbers of seconds, finite and less than 136 years"
    )


def _no_counts(name: str, value: object) -> OptionError:
    return OptionError(
        f"times of {name!r}: their counts have {reprlib.repr(value)} among them or as their sum: "
        f"give whole numbers, not negative, that add up to {_TOO_MANY} at most"
    )


def _sum_in_ticks(x: np.ndarray[Any, Any], n: np.ndarray[Any, Any] | None) -> int:
    """Sum exactly, in integers: seconds, their 2**-30 parts, and the 2**-30 parts of these, each within 64 bits."""
    import numpy as np

    whole = np.trunc(x)
    parts = (x - whole) * _HALF_TICKS
    upper = np.trunc(parts)
    lower = np.rint((parts - upper) * _HALF_TICKS)
    integers = [part.astype(np.int64) for part in (whole, upper, lower)]
    sums = [int(part.sum() if n is None else part.dot(n)) for part in integers]
    return (sums[0] << 60) + (sums[1] << 30) + sums[2]


def _sum_of_bins(
    totals: np.ndarray[Any, Any], x: np.ndarray[Any, Any], n: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any]:
    """Count the times of each bin, as `_bin` numbers them, and add them to what was counted before."""
    import numpy as np

    microseconds = np.clip(np.rint(x * 1e6), 1, _LONGEST_US)
    shift = np.maximum(np.frexp(microseconds)[1] - _FIGURES_BITS, 0)
    numbers = (microseconds.astype(np.int64) >> shift) + shift * _HALF
    # Sums of weights are floats, exact up to 2**53: more than _TOO_MANY.
    sums = np.bincount(numbers, weights=n, minlength=len(totals)).astype(np.int64, copy=False)
    sums[: len(totals)] += totals
    return sums


def _percentile_table(timings: Mapping[str, _Timing]) -> Iterable[str]:
    heads = ["mean", *(f"{p}%" for p in _PERCENTILES), "max"]
    yield f"{'':15}{'count':>10}" + "".join(f"{head:>9}" for head in heads)
    for name, timing in timings.items():
        if len(str(name)) > 15:
            yield str(name)
        shown = name if len(str(name)) <= 15 else ""
        times = [timing.mean(), *timing.percentiles(_PERCENTILES), timing.longest]
        yield f"{shown:15}{timing.count:>10,}" + "".join(f"{readable_time(seconds):>9}" for seconds in times)


def _histogram_lines(name: str, timing: _Timing) -> Iterable[str]:
    times = "1 time" if timing.count == 1 else f"{timing.count:,} times"
    yield f"{name}: {times}, {readable_time(timing.total())} in all, mean {readable_time(timing.mean())}"
    rows = _log_spaced_rows(timing)
    most = max(count for _, _, count in rows)
    for shortest, longest, count in rows:
        bar = "#" * max(round(_BAR * count / most), min(count, 1))
        yield f"  {readable_time(shortest):>8} - {readable_time(longest):>8} |{bar} {count:,}"


def _log_spaced_rows(timing: _Timing) -> list[tuple[float, float, int]]:
    """Count the times in rows of (from, to, how many), each of the same factor; one row if they are all alike."""
    import numpy as np

    _, _, _, bins, counts = timing.times()
    lowest = np.array([_limits(int(number))[0] for number in bins]) / 1e6
    shortest = float(lowest[0])
    longest = max(min(timing.longest, _LONGEST_US / 1e6), shortest)
    rows = _ROWS if longest > 1.01 * shortest else 1
    edges = np.geomspace(shortest, longest, rows + 1)
    row_of_bin = np.clip(edges.searchsorted(lowest, side="right") - 1, 0, rows - 1)
    sums = np.bincount(row_of_bin, weights=counts, minlength=rows)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), sums.astype(int).tolist(), strict=True))


def readable_time(seconds: float) -> str:
    """Return a time with three figures and a unit.

    Parameters
    ----------
    seconds : float
        How long.

    Examples
    --------
    >>> readable_time(0.0123), readable_time(59.99), readable_time(5400), readable_time(4e-7)
    ('12.3 ms', '1 min', '1.5 h', '0.4 us')
    """
    for size, unit in _UNITS:
        value = float(f"{seconds / size:.3g}")
        if abs(value) >= 1:
            return f"{value:g} {unit}"
    nanoseconds = round(seconds * 1e9)  # no clock knows less
    return f"{nanoseconds / 1000:g} us" if nanoseconds else "0 s"


def _write(lines: Iterable[str], file: TextIO | None) -> None:
    # Standard error is looked up now: it may have been replaced since this module was imported.
    target = sys.stderr if file is None else file
    target.write("".join(f"{line}\n" for line in lines))
