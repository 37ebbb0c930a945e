"""Workers: what may be handed over as one, and two ways to get one without writing it.

A worker is ``worker(pset, system_kwargs, user_kwargs) -> dict | None``. `keywords` makes one from a function of named
parameters, `command` from a command line, and `as_worker` is the one place that asks whether a callable can be one.

How a command is ended
----------------------
A program started by `command` stays in the process group of its worker. A backend ends a worker by killing that group,
so the program, and what it started, never outlives a killed worker. For the same reason the group is of no use when
only the program is to end, at its time-out: the worker itself is in it. So every program carries a mark, a variable of
a unique name in its environment, that all its descendants inherit. At a time-out everything that descends from the
program or has the mark is killed, again and again until nothing is found: orphans, which have lost their parent, and
those that left the group for a session of their own are found as well.
"""

from __future__ import annotations

import errno
import inspect
import math
import numbers
import os
import re
import shlex
import signal
import string
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.callables import Worker as Worker  # public here, too
from paramsurvey.callables import as_worker as as_worker
from paramsurvey.callables import refuse_deferred, short, signature_of
from paramsurvey.callables import worker_name as worker_name
from paramsurvey.errors import OptionError, OptionTypeError, ParamsurveyError, PsetError, WorkerError

if TYPE_CHECKING:
    import psutil

_SUPPLIED = ("system_kwargs", "user_kwargs", "seed")
_WRAP_IT = "write a function of named parameters around it, and hand over that"


# Functions of named parameters


def keywords(func: Callable[..., Any], *, output: str | Iterable[str] | None = None) -> Keywords:
    """Make a worker from a plain function of named parameters.

    The function is given those keys of the pset that it names, or all of them if it has a ``**kwargs``. Parameters with
    a default may be missing. Parameters named ``system_kwargs``, ``user_kwargs`` or ``seed`` that are not in the pset
    are filled with what the worker is given under these names.

    Parameters
    ----------
    func : callable
        Its parameters have names: positional-only parameters and ``*args`` are refused.
    output : str or sequence of str, optional
        The column of the returned value, or one column for each element of a returned sequence. Without it the
        function returns the dict itself, or None.

    Raises
    ------
    WorkerError
        Now, if a pset cannot be handed to `func`; in the call, if what it returned does not fit `output`.
    PsetError
        In the call, if the pset has not got all that the function needs.

    Examples
    --------
    >>> def area(width, height):
    ...     return width * height
    >>> worker = keywords(area, output="area")
    >>> worker({"width": 2, "height": 3, "colour": "red"}, {}, {})
    {'area': 6}
    >>> worker.reads, worker.writes
    (('width', 'height'), ('area',))
    >>> keywords(divmod_of := lambda a, b: divmod(a, b), output=("q", "r"))({"a": 7, "b": 2}, {}, {})
    {'q': 3, 'r': 1}
    """
    return Keywords(func, output)


@attrs.frozen
class _Parameters:
    """What a function's signature says about how a pset is handed to it."""

    required: tuple[str, ...]
    named: tuple[str, ...]
    supplied: tuple[str, ...]
    takes_everything: bool


def _parameters_of(func: Callable[..., Any]) -> _Parameters:
    if not callable(func):
        raise WorkerError(f"workers.keywords needs a function, not {short(func)} ({type(func).__name__})")
    refuse_deferred(func)
    signature = signature_of(func, follow_wrapped=True)
    if signature is None:
        raise WorkerError(f"{worker_name(func)} does not tell the names of its parameters: {_WRAP_IT}")
    parameters = list(signature.parameters.values())
    _refuse_nameless(func, parameters)
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return _Parameters(
        required=tuple(p.name for p in named if p.default is p.empty and p.name not in _SUPPLIED),
        named=tuple(p.name for p in named),
        supplied=tuple(p.name for p in named if p.name in _SUPPLIED),
        takes_everything=len(named) < len(parameters),
    )


def _refuse_nameless(func: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> None:
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise WorkerError(
                f"{worker_name(func)} takes {parameter.name!r} by position only, a pset gives it by name: {_WRAP_IT}"
            )
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise WorkerError(f"{worker_name(func)} takes *{parameter.name}, a pset has only names: {_WRAP_IT}")


def _output_names(output: Any) -> str | tuple[str, ...] | None:
    """Check the names of the answers, and freeze a list of them."""
    if output is None:
        return None
    if isinstance(output, Set | Mapping):
        raise WorkerError(f"output={short(output)} has no order; write a tuple of names")
    try:
        names = (output,) if isinstance(output, str) else tuple(output)
    except TypeError:
        raise WorkerError(f"output={short(output)} is neither a name nor a sequence of names") from None
    if not names or not all(isinstance(name, str) and name for name in names):
        raise WorkerError(f"output={short(output)}: a name, or a sequence of at least one name, each a text")
    if len(set(names)) < len(names):
        raise WorkerError(f"output={short(output)} has the same name twice")
    return output if isinstance(output, str) else names


@attrs.frozen
class Keywords:
    """A worker that hands a pset to a function by name; `keywords` makes it.

    Attributes
    ----------
    func : callable
        The function.
    output : str, tuple of str or None
        The columns of the answer.
    reads : tuple of str
        The keys that a pset must have.
    writes : tuple of str or None
        The keys of the answer; None if only the function knows them.

    Examples
    --------
    >>> Keywords(max_of := lambda a, b=0: max(a, b), "max").reads
    ('a',)
    """

    func: Callable[..., Any]
    output: str | tuple[str, ...] | None = attrs.field(default=None, converter=_output_names)
    _parameters: _Parameters = attrs.field(init=False, repr=False, eq=False)

    @_parameters.default
    def _asked_once(self) -> _Parameters:
        return _parameters_of(self.func)

    @property
    def __name__(self) -> str:
        return worker_name(self.func)

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that a pset must have."""
        return self._parameters.required

    @property
    def writes(self) -> tuple[str, ...] | None:
        """The keys of the answer; None if only the function knows them."""
        return (self.output,) if isinstance(self.output, str) else self.output

    def __call__(
        self, pset: Mapping[Any, Any], system_kwargs: Mapping[str, Any], user_kwargs: Any
    ) -> dict[Any, Any] | None:
        """Call the function with what it names, and give its value the names of the answers."""
        value = self.func(**self._arguments(pset, system_kwargs, user_kwargs))
        if isinstance(self.output, str):
            return {self.output: value}
        if self.output is None:
            return self._as_it_is(value)
        return dict(zip(self.output, self._elements(value), strict=True))

    def _arguments(self, pset: Mapping[Any, Any], system_kwargs: Mapping[str, Any], user_kwargs: Any) -> dict[str, Any]:
        known = self._parameters
        if known.takes_everything:
            arguments = self._everything(pset)
        else:
            arguments = {name: pset[name] for name in known.named if name in pset}
        if known.supplied:
            supply = {"system_kwargs": system_kwargs, "user_kwargs": user_kwargs}
            if "seed" in system_kwargs:
                supply["seed"] = system_kwargs["seed"]
            arguments = {name: supply[name] for name in known.supplied if name in supply} | arguments
        for name in known.required:
            if name not in arguments:
                raise PsetError(f"{self.__name__} needs {name!r}, which the pset does not have; {_it_has(pset)}")
        return arguments

    def _everything(self, pset: Mapping[Any, Any]) -> dict[str, Any]:
        for key in pset:
            if not isinstance(key, str):
                raise PsetError(
                    f"{self.__name__} takes every key of the pset as a named parameter (**), but {key!r} is not a text;"
                    " name the parameters that the function needs"
                )
        return dict(pset)

    def _as_it_is(self, value: Any) -> dict[Any, Any] | None:
        if value is None or isinstance(value, dict):
            return value
        raise WorkerError(
            f"{self.__name__} returned {short(value)} ({type(value).__name__}), not a dict;"
            f' workers.keywords({self.__name__}, output="...") gives the value a name'
        )

    def _elements(self, value: Any) -> Sequence[Any]:
        """Return the elements of a returned sequence: as many as there are names."""
        assert isinstance(self.output, tuple)
        wanted = f"output={self.output!r} needs a sequence of {len(self.output)}"
        got = f"{self.__name__} returned {short(value)} ({type(value).__name__})"
        # These have a length too, but their elements are not what was meant, or have no order.
        if isinstance(value, str | bytes | Mapping | Set):
            raise WorkerError(f"{got}; {wanted}")
        try:
            length = len(value)  # what has none may have no end either
        except TypeError:
            raise WorkerError(f"{got}; {wanted}") from None
        if length != len(self.output):
            raise WorkerError(f"{got} of length {length}; {wanted}")
        return tuple(value)


# Command lines


def command(
    args: Sequence[str | os.PathLike[str]] | str,
    *,
    shell: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    capture: bool = True,
    stdin: str | bytes | None = None,
) -> Command:
    r"""Make a worker from a command line.

    Every text, in `args`, `cwd`, `stdin` and the values of `env`, is a template that is filled in with the pset as
    `str.format_map` does it: ``"--mass={mass:.3f}"``; literal braces are doubled. Paths and bytes are taken as they
    are.

    Parameters
    ----------
    args : sequence of str or path, or str
        The program and its arguments; one string only together with ``shell=True``.
    shell : bool
        Hand the string to ``/bin/sh``. The values are quoted before they are put into it, so `args` has no quotes
        around a parameter.
    timeout : float, optional
        Seconds after which the program, and every program that it started, is killed.
    check : bool
        A return code other than 0 is an error.
    cwd : str or path, optional
        The folder to run in; the worker's own by default.
    env : mapping of str to str, optional
        Variables to add to the worker's environment.
    capture : bool
        Keep what the program prints; otherwise it goes where the worker's own prints go.
    stdin : str or bytes, optional
        What the program reads from standard input; by default there is nothing to read.

    Returns
    -------
    Command
        A worker that answers with ``returncode``, ``seconds`` and, if captured, ``stdout`` and ``stderr``. A program
        that was ended by a signal has the signal's negative number as its return code. Output that is not UTF-8 has
        replacement characters in it.

    Raises
    ------
    WorkerError
        The templates cannot be used.
    OptionError
        Another argument has an impossible value.
    PsetError
        In the call, if a template cannot be filled in.
    FileNotFoundError
        In the call, if there is no such program, or no such folder `cwd`.
    TimeoutError
        In the call, if the program took too long.
    CommandError
        In the call, if the program failed and ``check=True`` was given.

    Notes
    -----
    Programs that are left in the background by one that ended in time are not ended before their worker.

    Examples
    --------
    >>> worker = command(["echo", "mass is {mass:.2f}"])
    >>> worker({"mass": 1.989}, {}, {})["stdout"]
    'mass is 1.99\n'
    >>> count = command("echo {text} | wc -w", shell=True)
    >>> int(count({"text": "; ls 'three words'"}, {}, {})["stdout"])
    4
    """
    return Command(
        args=_templates(args, shell),
        shell=shell,
        timeout=_positive_seconds(timeout),
        check=check,
        cwd=None if cwd is None else _text_or_path("cwd", cwd),
        env=_variables(env),
        capture=capture,
        stdin=_text_or_bytes(stdin),
    )


class CommandError(ParamsurveyError, subprocess.CalledProcessError):
    """A command ended with a return code other than 0, and ``check=True`` was given.

    Examples
    --------
    >>> print(CommandError(3, "simulate --mass=1", "", "no such mass"))
    command 'simulate --mass=1' ended with return code 3; the end of its standard error:
    no such mass
    """

    def __str__(self) -> str:
        ended = f"ended with return code {self.returncode}"
        if self.returncode < 0:
            ended = f"was ended by signal {-self.returncode} ({signal.strsignal(-self.returncode)})"
        return f"command {short(self.cmd)} {ended}; {_tail(self.stderr)}"


_FIELD = re.compile(r"([^.\[\]]+)(?:\.[^.\[\]]+|\[[^\]]+\])*")
_FORMATTER = string.Formatter()
# Pieces of a shell's text in which every quote is closed again.
_CLOSED = re.compile(r"""\\. | '[^']*' | "(?:\\.|[^"\\])*" """, re.DOTALL | re.VERBOSE)


@attrs.frozen
class Template:
    """A text with parameters in braces, as `str.format_map` takes it, whose syntax has been checked.

    Parameters
    ----------
    text : str
        The text.
    quoted : bool
        Quote every value for the shell.

    Examples
    --------
    >>> Template("--mass={mass:.2f}").filled({"mass": 1.989})
    '--mass=1.99'
    >>> Template("cat {name}", quoted=True).filled({"name": "my file"})
    "cat 'my file'"
    """

    text: str
    quoted: bool = False
    names: tuple[str, ...] = attrs.field(init=False, repr=False, eq=False)

    @names.default
    def _checked_names(self) -> tuple[str, ...]:
        try:
            names = tuple(dict.fromkeys(_names_in(self.text)))
        except ValueError as err:
            raise WorkerError(
                f"template {short(self.text)} cannot be read: {err}; write {{name}} for a parameter,"
                " and double literal braces: {{ }}"
            ) from None
        if self.quoted:
            self._refuse_quoted_twice()
        return names

    def _refuse_quoted_twice(self) -> None:
        # 'a {name}' would become 'a 'my file'': the value would stand outside the quotes, open to the shell.
        before = ""
        for literal, field, _spec, _conversion in _FORMATTER.parse(self.text):
            before += literal
            if field is not None and set(_CLOSED.sub("", before)) & set("'\"\\"):
                raise WorkerError(
                    f"template {short(self.text)} has {{{field}}} inside quotes or after a backslash;"
                    " values are quoted already: leave them out"
                )

    @classmethod
    def literal(cls, text: str) -> Template:
        """Return the template of a text in which braces mean nothing.

        Parameters
        ----------
        text : str
            What is to stand in the command as it is.
        """
        return cls(text.replace("{", "{{").replace("}", "}}"))

    def filled(self, pset: Mapping[Any, Any]) -> str:
        """Return the text with the pset's values in it.

        Parameters
        ----------
        pset : dict
            The values for its fields.
        """
        for name in self.names:
            if name not in pset:
                raise PsetError(
                    f"template {short(self.text)} needs {name!r}, which the pset does not have; {_it_has(pset)}"
                )
        try:
            return "".join(self._pieces(pset))
        except (ValueError, TypeError, LookupError, AttributeError) as err:
            raise PsetError(
                f"template {short(self.text)} cannot be filled in: {err}; {_values(pset, self.names)}"
            ) from err

    def _pieces(self, pset: Mapping[Any, Any]) -> Iterator[str]:
        for literal, field, spec, conversion in _FORMATTER.parse(self.text):
            yield literal
            if field is not None:
                value, _ = _FORMATTER.get_field(field, (), pset)
                value = _FORMATTER.convert_field(value, conversion)
                text = format(value, _FORMATTER.vformat(spec or "", (), pset))
                yield shlex.quote(text) if self.quoted else text


def _names_in(text: str) -> Iterator[str]:
    """Yield the names of the parameters in a template, also those inside format specifications."""
    for _literal, field, spec, conversion in _FORMATTER.parse(text):
        if field is None:
            continue
        match = _FIELD.fullmatch(field)
        if match is None or match[1].isdigit():
            raise ValueError(f"{{{field}}} does not name a parameter")
        if conversion not in (None, "r", "s", "a"):
            raise ValueError(f"{{{field}!{conversion}}} has an unknown conversion")
        yield match[1]
        yield from _names_in(spec or "")


def _templates(args: Any, shell: bool) -> tuple[Template, ...]:
    if shell:
        if not isinstance(args, str):
            raise WorkerError(
                f"a command with shell=True is one string, not {short(args)}; leave shell=True out for a list"
            )
        if not args.strip():
            raise WorkerError("the command is empty")
        return (Template(args, quoted=True),)
    if isinstance(args, str | bytes):
        raise WorkerError(
            f"the command {short(args)} is one string; make it a list with shlex.split, or hand it to"
            " the shell with shell=True"
        )
    try:
        templates = tuple(_text_or_path("an argument of the command", arg) for arg in args)
    except TypeError as err:
        if isinstance(err, ParamsurveyError):
            raise
        raise WorkerError(f"a command is a list of texts, not {short(args)}") from None
    if not templates or not templates[0].text:
        raise WorkerError("the command is empty")
    return templates


def _text_or_path(what: str, value: Any) -> Template:
    if isinstance(value, str):
        return Template(value)
    if isinstance(value, os.PathLike):
        return Template.literal(os.fsdecode(value))
    raise OptionTypeError(f"{what} is {short(value)} ({type(value).__name__}); write it as a text or a path")


def _text_or_bytes(stdin: Any) -> Template | bytes | None:
    if stdin is None or isinstance(stdin, bytes):
        return stdin
    if isinstance(stdin, str):
        return Template(stdin)
    raise OptionTypeError(f"stdin is {short(stdin)} ({type(stdin).__name__}); write it as a text or bytes")


def _variables(env: Any) -> tuple[tuple[str, Template], ...]:
    if env is None:
        return ()
    if not isinstance(env, Mapping):
        raise OptionTypeError(f"env is {short(env)} ({type(env).__name__}); write a dict of texts")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise OptionTypeError(f"env has {short(name)}: {short(value)}; names and values are texts")
        if not name or set(name) & set("=\0"):
            raise OptionError(f"env has the name {short(name)}, which no variable can have")
    return tuple((name, Template(value)) for name, value in env.items())


def _positive_seconds(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
        raise OptionTypeError(f"timeout={short(timeout)} is not a number of seconds, nor None for no limit")
    seconds = float(timeout)
    if not 0 < seconds < math.inf:
        raise OptionError(f"timeout={timeout} is not a positive number of seconds; None means no limit")
    return seconds


@attrs.frozen
class Command:
    """A worker that runs a program; `command` makes it and says what the fields mean.

    Attributes
    ----------
    reads : tuple of str
        The keys that a pset must have.
    writes : tuple of str
        The keys of the answer.

    Examples
    --------
    >>> command(["simulate", "--mass={mass}"]).reads
    ('mass',)
    """

    args: tuple[Template, ...]
    shell: bool
    timeout: float | None
    check: bool
    cwd: Template | None
    env: tuple[tuple[str, Template], ...]
    capture: bool
    stdin: Template | bytes | None

    @property
    def __name__(self) -> str:
        program = self.args[0].text
        return os.path.basename(program.split()[0] if self.shell else program) or program

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that a pset must have."""
        templates = [*self.args, *(value for _name, value in self.env)]
        templates += [text for text in (self.cwd, self.stdin) if isinstance(text, Template)]
        return tuple(dict.fromkeys(name for template in templates for name in template.names))

    @property
    def writes(self) -> tuple[str, ...]:
        """The keys of the answer."""
        return ("returncode", "stdout", "stderr", "seconds") if self.capture else ("returncode", "seconds")

    def __call__(
        self,
        pset: Mapping[Any, Any],
        system_kwargs: Mapping[str, Any],  # noqa: ARG002  # every worker is given them
        user_kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Run the program, and answer with what came of it."""
        line = self._filled(pset)
        started = time.perf_counter()
        returncode, stdout, stderr = self._run(line)
        seconds = time.perf_counter() - started
        if self.check and returncode != 0:
            raise CommandError(returncode, line.shown, stdout, stderr)
        if not self.capture:
            return {"returncode": returncode, "seconds": seconds}
        return {"returncode": returncode, "stdout": stdout, "stderr": stderr, "seconds": seconds}

    def _filled(self, pset: Mapping[Any, Any]) -> _Line:
        words = [template.filled(pset) for template in self.args]
        return _Line(
            args=words[0] if self.shell else words,
            cwd=None if self.cwd is None else self.cwd.filled(pset),
            variables={name: value.filled(pset) for name, value in self.env},
            stdin=self.stdin.filled(pset).encode() if isinstance(self.stdin, Template) else self.stdin,
        )

    def _run(self, line: _Line) -> tuple[int, str | None, str | None]:
        """Run a program to its end; neither it nor what it started outlives an exception here."""
        mark = f"COMMAND_OF_PARAMSURVEY_{os.urandom(8).hex()}"
        program = None
        try:
            program = self._start(line, mark)
            stdout, stderr = program.communicate(line.stdin, timeout=self.timeout)
        except subprocess.TimeoutExpired as late:
            _end(program, mark)
            raise TimeoutError(
                f"command {short(line.shown)} took longer than timeout={self.timeout:g} seconds and was killed, with"
                f" all that it had started; {_tail(_decoded(late.stderr or b'') if self.capture else None)}"
            ) from None
        except FileNotFoundError as err:  # nothing was started
            raise _not_found(line) from err
        except BaseException:  # a signal's handler may raise at any place, even before there is a `program`
            _end(program, mark)
            raise
        return program.returncode, _decoded(stdout), _decoded(stderr)

    def _start(self, line: _Line, mark: str) -> subprocess.Popen[bytes]:
        printed = subprocess.PIPE if self.capture else None
        return subprocess.Popen(
            line.args,
            shell=self.shell,
            stdin=subprocess.DEVNULL if line.stdin is None else subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            cwd=line.cwd,
            env={**os.environ, **line.variables, mark: "1"},
        )


@attrs.frozen
class _Line:
    """A command line whose templates have been filled in."""

    args: str | list[str]
    cwd: str | None
    variables: dict[str, str]
    stdin: bytes | None

    @property
    def shown(self) -> str:
        return self.args if isinstance(self.args, str) else shlex.join(self.args)


def _not_found(line: _Line) -> FileNotFoundError:
    if line.cwd is not None and not os.path.isdir(line.cwd):
        return FileNotFoundError(errno.ENOENT, "the command's folder cwd= does not exist", line.cwd)
    program = "/bin/sh" if isinstance(line.args, str) else line.args[0]
    return FileNotFoundError(
        errno.ENOENT, "there is no such program, or the interpreter that its first line names is missing", program
    )


def _decoded(printed: bytes | None) -> str | None:
    return None if printed is None else printed.decode("utf-8", errors="replace")


# Ending a program and all that it started

_ROUNDS = 20
_REAPING_SECONDS = 5.0


def _end(program: subprocess.Popen[bytes] | None, mark: str) -> None:
    """Kill the program and all that it started; never wait for what cannot be killed."""
    import psutil

    # What is killed may have started another one a moment before: look again until there is nothing.
    for _ in range(_ROUNDS):
        found = _family(program, mark)
        if not found:
            break
        for process in found:
            try:
                process.kill()
            except psutil.Error:  # gone, or another user's
                pass
    if program is not None:
        _let_go(program)


def _let_go(program: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a killed program and take note of its end."""
    for pipe in (program.stdin, program.stdout, program.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # a pipe for input whose reader is gone
                pass
    try:
        program.wait(_REAPING_SECONDS)
    except subprocess.TimeoutExpired:  # a set-user-id program, or one stuck in the kernel
        pass


def _family(program: subprocess.Popen[bytes] | None, mark: str) -> set[psutil.Process]:
    """Return what is alive of the program, its descendants, and all processes that have the mark."""
    import psutil

    marked = {process for process in psutil.process_iter() if _has_mark(process, mark)}
    return marked | {process for process in _descendants(program) if _is_alive(process)}


def _descendants(program: subprocess.Popen[bytes] | None) -> list[psutil.Process]:
    import psutil

    if program is None or program.poll() is not None:  # its number may belong to somebody else by now
        return []
    try:
        root = psutil.Process(program.pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _has_mark(process: psutil.Process, mark: str) -> bool:
    import psutil

    try:
        return mark in process.environ()
    except (psutil.Error, OSError):  # gone, or not ours to read
        return False


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# Words for messages

_TAIL_LINES = 20
_TAIL_CHARACTERS = 2000
_KEYS = 30


def _it_has(pset: Mapping[Any, Any]) -> str:
    if not pset:
        return "it has no keys"
    keys = [short(key) for key in pset]
    more = f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else ""
    return f"it has: {', '.join(keys[:_KEYS])}{more}"


def _values(pset: Mapping[Any, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={short(pset[name])}" for name in names)


def _tail(stderr: str | None) -> str:
    if stderr is None:
        return "its standard error was not captured"
    text = stderr.strip()
    if not text:
        return "it wrote nothing to standard error"
    return "the end of its standard error:\n" + "\n".join(text.splitlines()[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]
