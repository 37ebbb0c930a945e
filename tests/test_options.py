"""The table of options: what each accepts, what each refuses and in which words, and who overrides whom."""

from __future__ import annotations

import fractions
import io
import math
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest

from paramsurvey.errors import OptionError, OptionTypeError, ParamsurveyError
from paramsurvey.options import TABLE, Options, check, describe, resolve, unknown_variables


@attrs.frozen
class TinyBackend:
    """The least that counts as a backend."""

    name: str = "tiny"

    def slots(self) -> int:
        return 1

    def submit(self, fn: Any, /, *args: Any) -> None:
        raise NotImplementedError


class NamesOnly:
    """Has what a backend has by name, but nothing that can be called."""

    submit = 1
    slots = 2


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def take(user_ret: Any, system_kwargs: Any, user_kwargs: Any) -> None:
    """Take an answer."""


def drop(user_ret: Any, system_kwargs: Any, user_kwargs: Any) -> None:
    """Take another."""


A_STREAM, ANOTHER_STREAM = io.StringIO(), io.StringIO()
A_MOMENT = datetime(2030, 1, 31, tzinfo=UTC)

# name: default, (given to init, becomes), (given to map, becomes), (text of the variable, becomes) or None
CASES: dict[str, tuple[Any, tuple[Any, Any], tuple[Any, Any], tuple[str, Any] | None]] = {
    "backend": ("multiprocessing", ("serial", "serial"), (TinyBackend(), TinyBackend()), ("ray", "ray")),
    "verbose": (1, (0, 0), (2, 2), ("3", 3)),
    "vstats": (1, (0, 0), (2, 2), ("3", 3)),
    "limit": (None, (10, 10), (20, 20), ("30", 30)),
    "ncores": (None, (2, 2), (-1, -1), ("-3", -3)),
    "max_tasks_per_child": (None, (1, 1), (2, 2), ("3", 3)),
    "group_size": (None, (1, 1), (2, 2), ("3", 3)),
    "user_kwargs": (None, ({"a": 1}, {"a": 1}), ({"b": 2}, {"b": 2}), None),
    "name": (None, ("first", "first"), ("second", "second"), ("third one", "third one")),
    "chdir": (None, ("one", "one"), (PurePosixPath("two/three"), "two/three"), ("/four", "/four")),
    "out_subdirs": (None, (1, 1), (2, 2), ("3", 3)),
    "out_func": (None, (take, take), (drop, drop), None),
    "keep_results": (True, (False, False), (True, True), ("off", False)),
    "progress_dt": (None, (1, 1.0), (0, 0.0), ("0.5", 0.5)),
    "pslogger_prefix": (".paramsurvey-", ("a-", "a-"), ("b-", "b-"), ("c-", "c-")),
    "pslogger_fd": (None, (A_STREAM, A_STREAM), (ANOTHER_STREAM, ANOTHER_STREAM), None),
    "timeout": (None, (1, 1.0), (2.5, 2.5), ("1e2", 100.0)),
    "retries": (0, (1, 1), (2, 2), ("3", 3)),
    "retry_exceptions": (None, ("OSError", ("OSError",)), ([OSError, "a.B"], ("OSError", "a.B")), ("A, B", ("A", "B"))),
    "retry_timeouts": (0, (1, 1), (2, 2), ("3", 3)),
    "retry_backoff": (0.0, (1, 1.0), (2.5, 2.5), ("0.5", 0.5)),
    "retry_alone": (False, (True, True), (1, True), ("yes", True)),
    "deadline": (None, (60, 60.0), (A_MOMENT, A_MOMENT), ("2030-01-31T06:00", datetime(2030, 1, 31, 6))),
    "on_failure": ("continue", ("stop", "stop"), ("continue", "continue"), ("stop", "stop")),
    "details": (False, (True, True), (1, True), ("on", True)),
    "capture": (None, ("tail", "tail"), ("files", "files"), ("Through", "through")),
    "seed": (0, (1, 1), (-2, -2), ("12345678901234567890123", 12345678901234567890123)),
    "seed_by": (None, ("a", ("a",)), (["b", 1], ("b", 1)), ("c, d", ("c", "d"))),
    "journal": (None, ("one", "one"), (PurePosixPath("two/three"), "two/three"), ("/four", "/four")),
    "version": (None, ("1", "1"), ("2", "2"), ("3", "3")),
    "depends": ((), ("one", ("one",)), (["one", PurePosixPath("two")], ("one", "two")), None),
    "retry_failed": (True, (False, False), (True, True), ("off", False)),
    "multiprocessing": ({}, ({"a": 1}, {"a": 1}), ({"a": 2}, {"a": 2}), None),
    "ray": ({}, ({"a": 1}, {"a": 1}), ({"a": 2}, {"a": 2}), None),
    "mpi": ({}, ({"a": 1}, {"a": 1}), ({"a": 2}, {"a": 2}), None),
}

every_option = pytest.mark.parametrize("name", CASES)
every_variable = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3]])
WHOLE_NUMBERS = [name for name, option in TABLE.items() if option.kind.expects.startswith("a whole number")]
SECONDS = ["progress_dt", "timeout", "retry_backoff"]


def variable(name: str) -> str:
    return f"PARAMSURVEY_{name.upper()}"


def resolved(name: str, *, init: Any = None, call: Any = None, environ: str | None = None) -> Any:
    """Give one option here and there, and return what comes of it."""
    options = resolve(
        init={} if init is None else {name: init},
        call={} if call is None else {name: call},
        environ={} if environ is None else {variable(name): environ},
    )
    return getattr(options, name)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


# --- the table ------------------------------------------------------------------------------------


def test_the_cases_here_cover_the_whole_table_in_its_order() -> None:
    assert list(TABLE) == list(CASES)
    assert [field.name for field in attrs.fields(Options)] == list(CASES)


@every_option
def test_each_option_says_what_it_means_on_one_line(name: str) -> None:
    option = TABLE[name]
    assert option.name == name
    assert option.meaning
    assert "\n" not in option.meaning + option.kind.expects


@every_option
def test_each_option_has_a_variable_if_its_value_can_be_written_as_text(name: str) -> None:
    assert TABLE[name].variable == (variable(name) if CASES[name][3] else None)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE["verbose"] = TABLE["limit"]  # type: ignore[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Options().verbose = 3  # type: ignore[misc]


# --- precedence -----------------------------------------------------------------------------------


@every_option
def test_what_is_not_given_has_its_default(name: str) -> None:
    default = CASES[name][0]
    assert same(resolved(name), default)
    assert same(getattr(Options(), name), default)
    assert same(TABLE[name].default, default)


@every_option
def test_init_overrides_the_default(name: str) -> None:
    _, (given, becomes), _, _ = CASES[name]
    assert same(resolved(name, init=given), becomes)


@every_option
def test_map_overrides_init(name: str) -> None:
    _, (at_init, _), (given, becomes), _ = CASES[name]
    assert same(resolved(name, call=given), becomes)
    assert same(resolved(name, init=at_init, call=given), becomes)


@every_variable
def test_the_environment_overrides_map_and_init(name: str) -> None:
    _, (at_init, _), (at_call, _), text = CASES[name]
    assert text is not None
    assert same(resolved(name, environ=text[0]), text[1])
    assert same(resolved(name, init=at_init, environ=text[0]), text[1])
    assert same(resolved(name, init=at_init, call=at_call, environ=text[0]), text[1])


@every_option
def test_none_counts_as_not_given(name: str) -> None:
    default, (at_init, of_init), (at_call, of_call), _ = CASES[name]
    assert same(getattr(resolve(init={name: None}, call={name: None}, environ={}), name), default)
    assert same(getattr(resolve(init={name: at_init}, call={name: None}, environ={}), name), of_init)
    assert same(getattr(resolve(init={name: None}, call={name: at_call}, environ={}), name), of_call)
    nothing: dict[str, Any] = {name: None}
    assert same(getattr(Options(**nothing), name), default)


@every_variable
@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_variable_counts_as_not_set(name: str, blank: str) -> None:
    default, (at_init, of_init), _, _ = CASES[name]
    assert same(resolved(name, environ=blank), default)
    assert same(resolved(name, init=at_init, environ=blank), of_init)


@every_option
def test_an_option_without_a_variable_is_not_looked_for_in_the_environment(name: str) -> None:
    if CASES[name][3] is None:
        assert same(resolved(name, environ="anything"), CASES[name][0])


@pytest.mark.parametrize("name", ["limit", "max_tasks_per_child", "timeout"])
def test_zero_switches_off_what_was_set_further_down(name: str) -> None:
    assert resolved(name, init=5) == 5
    assert resolved(name, init=5, call=0) is None
    assert resolved(name, init=5, call=5, environ="0") is None
    assert resolved(name, init=0, call=5) == 5


@pytest.mark.parametrize("name", ["multiprocessing", "ray", "mpi"])
def test_settings_of_a_backend_are_merged_and_those_of_map_win(name: str) -> None:
    assert resolved(name, init={"a": 1, "b": 2}, call={"b": 3, "c": 4}) == {"a": 1, "b": 3, "c": 4}
    assert resolved(name, init={"a": 1}, call={}) == {"a": 1}


def test_user_kwargs_are_replaced_not_merged() -> None:
    assert resolved("user_kwargs", init={"a": 1}, call={"b": 2}) == {"b": 2}
    assert resolved("user_kwargs", init={"a": 1}, call={}) == {}


def test_settings_belong_to_the_options_alone() -> None:
    given = {"num_gpus": 1}
    options = resolve(init={"ray": given}, environ={})
    given["num_gpus"] = 2
    assert options.ray == {"num_gpus": 1}
    Options().ray["num_gpus"] = 3
    assert Options().ray == {}
    assert Options(ray=None).ray is not Options(ray=None).ray  # type: ignore[arg-type]


def test_the_arguments_are_left_as_they_were() -> None:
    init, call, environ = {"ray": {"a": 1}}, {"ray": {"b": 1}, "limit": 0}, {"PARAMSURVEY_LIMIT": "3"}
    resolve(init=init, call=call, environ=environ)
    assert (init, call, environ) == ({"ray": {"a": 1}}, {"ray": {"b": 1}, "limit": 0}, {"PARAMSURVEY_LIMIT": "3"})


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize(
    "one",
    [1, 1.0, np.int8(1), np.uint64(1), np.float32(1), np.float64(1), np.array(1), fractions.Fraction(1)],
    ids=repr,
)
def test_any_whole_number_becomes_an_int(name: str, one: Any) -> None:
    assert same(resolved(name, init=one), 1)


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
@pytest.mark.parametrize("text", ["1", " 1\n", "1.0", "+1", "1e0"])
def test_any_whole_number_is_read_from_the_environment(name: str, text: str) -> None:
    assert same(resolved(name, environ=text), 1)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), fractions.Fraction(2)], ids=repr)
def test_any_number_of_seconds_becomes_a_float(name: str, value: Any) -> None:
    assert same(resolved(name, init=value), 2.0)


@pytest.mark.parametrize("name", ["verbose", "vstats"])
@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_true_is_the_first_level_of_verbosity_and_false_is_silence(name: str, kind: type) -> None:
    assert same(resolved(name, init=kind(True)), 1)
    assert same(resolved(name, init=kind(False)), 0)


@pytest.mark.parametrize("value", [False, np.False_, 0, 0.0, np.int64(0)], ids=repr)
def test_keep_results_takes_what_can_only_mean_false(value: Any) -> None:
    assert resolved("keep_results", init=value) is False


@pytest.mark.parametrize("value", [True, np.True_, 1, 1.0], ids=repr)
def test_keep_results_takes_what_can_only_mean_true(value: Any) -> None:
    assert resolved("keep_results", init=False, call=value) is True


@pytest.mark.parametrize("text", ["1", "true", "yes", "on", "TRUE", "Yes", "oN", " true "])
def test_words_for_true_in_the_environment(text: str) -> None:
    assert resolved("keep_results", init=False, environ=text) is True


@pytest.mark.parametrize("text", ["0", "false", "no", "off", "FALSE", "No", "oFF", " false "])
def test_words_for_false_in_the_environment(text: str) -> None:
    assert resolved("keep_results", environ=text) is False


def test_whole_numbers_are_exact_at_any_size() -> None:
    assert resolved("seed", init=2**200 + 1) == 2**200 + 1
    assert resolved("seed", environ=str(2**200 + 1)) == 2**200 + 1


def test_a_backend_may_be_an_instance() -> None:
    backend = TinyBackend()
    assert Options(backend=backend).backend is backend


def test_a_folder_may_be_any_kind_of_path(tmp_path: Path) -> None:
    assert Options(chdir=tmp_path).chdir == str(tmp_path)  # type: ignore[arg-type]
    assert Options(chdir=b"a/b").chdir == "a/b"  # type: ignore[arg-type]


@pytest.mark.parametrize("mapping", [OrderedDict(a=1), MappingProxyType({"a": 1})], ids=repr)
def test_settings_may_be_any_mapping(mapping: Any) -> None:
    assert same(resolved("ray", init=mapping), {"a": 1})


def test_numpys_texts_become_pythons() -> None:
    assert same(resolved("name", init=np.str_("x")), "x")


def test_texts_of_the_environment_are_kept_as_they_are_where_blanks_may_matter() -> None:
    assert resolved("chdir", environ=" a b ") == " a b "
    assert resolved("name", environ=" a b ") == " a b "
    assert resolved("backend", environ=" serial ") == "serial"
    assert resolved("on_failure", environ=" STOP ") == "stop"


def test_a_closed_stream_does_not_stop_a_survey() -> None:
    stream = io.StringIO()
    stream.close()
    assert Options(pslogger_fd=stream).pslogger_fd is stream


def test_user_kwargs_are_handed_on_untouched() -> None:
    values: list[Any] = [0, False, "", [], np.arange(3), pd.DataFrame({"a": [1]}), Unprintable()]
    for value in values:
        assert resolved("user_kwargs", init=value) is value


# --- what is refused ------------------------------------------------------------------------------

CORES = "a whole number other than 0: a positive one is that many cores, a negative one that many fewer than there are"
BACKEND = "the name of a backend, or a backend itself (an instance, with submit() and slots())"
STREAM = "an open text stream (something with write())"
TIMEOUT = "a finite number of seconds above 0, or 0 for no time-out"

IMPOSSIBLE = [
    ("backend", "", BACKEND),
    ("verbose", 4, "a whole number from 0 to 3"),
    ("verbose", -1, "a whole number from 0 to 3"),
    ("verbose", 1.5, "a whole number from 0 to 3"),
    ("vstats", 4, "a whole number from 0 to 3"),
    ("limit", -1, "a whole number, 1 or more, or 0 for all"),
    ("ncores", 0, CORES),
    ("ncores", 0.0, CORES),
    ("max_tasks_per_child", -1, "a whole number, 1 or more, or 0 for no limit"),
    ("group_size", 0, "a whole number, 1 or more"),
    ("group_size", -5, "a whole number, 1 or more"),
    ("out_subdirs", 0, "a whole number, 1 or more"),
    ("chdir", "", "the path of a folder"),
    ("keep_results", 2, "True or False"),
    ("progress_dt", -0.1, "a finite number of seconds, 0 or more"),
    ("progress_dt", math.inf, "a finite number of seconds, 0 or more"),
    ("timeout", -1, TIMEOUT),
    ("timeout", math.nan, TIMEOUT),
    ("timeout", math.inf, TIMEOUT),
    ("timeout", 10**400, TIMEOUT),
    ("retries", -1, "a whole number, 0 or more"),
    ("on_failure", "halt", "'continue' or 'stop'"),
    ("on_failure", "Stop", "'continue' or 'stop'"),
    ("seed", math.nan, "a whole number"),
    ("seed", math.inf, "a whole number"),
    ("seed", np.float32("inf"), "a whole number"),
    ("seed_by", [], "the name of a column, or a list of such names"),
    ("seed_by", "", "the name of a column, or a list of such names"),
    ("multiprocessing", {1: 2}, "a dict with strings as keys"),
    ("ray", {1: 2}, "a dict with strings as keys"),
    ("mpi", {None: 2}, "a dict with strings as keys"),
]

WRONG_TYPES = [
    ("backend", 7, BACKEND, "int"),
    ("backend", TinyBackend, BACKEND, "type"),
    ("backend", NamesOnly(), BACKEND, "NamesOnly"),
    ("name", 7, "a text", "int"),
    ("name", b"x", "a text", "bytes"),
    ("chdir", 7, "the path of a folder", "int"),
    ("out_func", "print", "a function", "str"),
    ("keep_results", "yes", "True or False", "str"),
    ("pslogger_prefix", 7, "a text", "int"),
    ("pslogger_fd", 2, STREAM, "int"),
    ("pslogger_fd", "log.txt", STREAM, "str"),
    ("pslogger_fd", io.BytesIO(), STREAM, "BytesIO"),
    ("on_failure", True, "'continue' or 'stop'", "bool"),
    ("seed_by", {}, "the name of a column, or a list of such names", "dict"),
    ("ray", 1, "a dict with strings as keys", "int"),
    ("ray", [("a", 1)], "a dict with strings as keys", "list"),
    ("multiprocessing", "a=1", "a dict with strings as keys", "str"),
    ("mpi", True, "a dict with strings as keys", "bool"),
]


def refusal(name: str, value: Any, where: str) -> OptionError:
    """Give an option a value everywhere, and return the refusal, which must be the same each time."""
    with pytest.raises(OptionError) as at_check:
        check({name: value}, where)
    with pytest.raises(OptionError) as at_resolve:
        resolve(init={}, call={name: value}, environ={}, where=where)
    with pytest.raises(OptionError) as at_options:
        Options(**{name: value})
    assert type(at_check.value) is type(at_resolve.value) is type(at_options.value)
    assert str(at_check.value) == str(at_resolve.value)
    assert str(at_options.value) == str(at_check.value).replace(f"{where}(", "Options(", 1)
    return at_check.value


@pytest.mark.parametrize(("name", "value", "expects"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_with_what_is_possible(name: str, value: Any, expects: str) -> None:
    error = refusal(name, value, "map")
    assert type(error) is OptionError
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    assert str(error) == f"map({name}={shown}): {name} must be {expects}"


@pytest.mark.parametrize(("name", "value", "expects", "found"), WRONG_TYPES)
def test_a_wrong_type_is_refused_with_the_type_found(name: str, value: Any, expects: str, found: str) -> None:
    error = refusal(name, value, "stream")
    assert type(error) is OptionTypeError
    assert str(error).startswith(f"stream({name}=")
    assert str(error).endswith(f"): {name} must be {expects}, not {found}")


@pytest.mark.parametrize("name", WHOLE_NUMBERS + SECONDS)
@pytest.mark.parametrize(
    "value",
    ["1", b"1", 1j, [1], np.array([1, 2]), pd.NA, pd.NaT, object()],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_a_keyword_that_is_no_number_is_refused_as_a_number(name: str, value: Any) -> None:
    error = refusal(name, value, "map")
    assert type(error) is OptionTypeError
    expected = f": {name} must be {TABLE[name].kind.expects}, not {type(value).__qualname__}"
    assert str(error).endswith(expected)


@pytest.mark.parametrize("name", sorted({*WHOLE_NUMBERS, *SECONDS} - {"verbose", "vstats"}))
@pytest.mark.parametrize("value", [True, False, np.True_], ids=repr)
def test_a_bool_is_refused_where_it_would_be_a_riddle(name: str, value: Any) -> None:
    error = refusal(name, value, "map")
    assert type(error) is OptionTypeError
    assert str(error).startswith(f"map({name}={value!r}): {name} must be a")
    assert re.search(r", not bool_?$", str(error))


def test_the_message_names_the_call_that_the_option_was_given_to() -> None:
    message = r"^init\(verbose=7\): verbose must be a whole number from 0 to 3$"
    with pytest.raises(OptionError, match=message):
        resolve(init={"verbose": 7}, environ={}, where="stream")
    with pytest.raises(OptionError, match=message.replace("init", "stream")):
        resolve(init={}, call={"verbose": 7}, environ={}, where="stream")


def test_what_is_overridden_is_checked_all_the_same() -> None:
    with pytest.raises(OptionError, match=r"^init\(verbose=7\)"):
        resolve(init={"verbose": 7}, call={"verbose": 1}, environ={"PARAMSURVEY_VERBOSE": "1"})
    with pytest.raises(OptionError, match=r"^map\(verbose=8\)"):
        resolve(init={"verbose": 1}, call={"verbose": 8}, environ={"PARAMSURVEY_VERBOSE": "1"})


def test_refusals_are_what_a_careful_user_would_have_caught() -> None:
    with pytest.raises(ValueError, match="limit"):
        check({"limit": -1}, "map")
    with pytest.raises(TypeError, match="limit"):
        check({"limit": "1"}, "map")
    with pytest.raises(ParamsurveyError, match="limit"):
        check({"limit": "1"}, "map")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(Unprintable(), "<Unprintable"), (10**5000, "<int>"), ("x" * 1000, "'" + "x" * 56 + "..."), ("a\nb", r"'a\nb'")],
    ids=["raising repr", "endless int", "long text", "two lines"],
)
def test_a_value_that_is_hard_to_show_does_not_spoil_the_message(value: Any, shown: str) -> None:
    message = str(refusal("on_failure", value, "map"))
    assert message.startswith(f"map(on_failure={shown}")
    assert "): on_failure must be 'continue' or 'stop'" in message


# --- names that do not exist ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("verbos", "verbose"),
        ("VERBOSE", "verbose"),
        ("n_cores", "ncores"),
        ("cores", "ncores"),
        ("time_out", "timeout"),
        ("retry", "retries"),
        ("groupsize", "group_size"),
        ("max_tasks", "max_tasks_per_child"),
        ("onfailure", "on_failure"),
        ("system_kwargs", "user_kwargs"),
    ],
)
@pytest.mark.parametrize("where", ["init", "map", "stream"])
def test_an_unknown_option_is_refused_with_the_nearest_one(wrong: str, right: str, where: str) -> None:
    with pytest.raises(OptionError) as caught:
        check({wrong: 1}, where)
    assert type(caught.value) is OptionError
    assert str(caught.value) == f"{where}() has no option {wrong!r}; did you mean {right!r}?"


def test_an_unknown_option_like_no_other_is_refused_with_the_list() -> None:
    with pytest.raises(OptionError) as caught:
        resolve(init={"zzz": None}, environ={})
    assert str(caught.value) == f"init() has no option 'zzz'; there are: {', '.join(repr(name) for name in TABLE)}"


def test_an_unknown_option_is_refused_before_wrong_values() -> None:
    with pytest.raises(OptionError, match="no option 'verbos'"):
        check({"limit": -1, "verbos": 1}, "map")


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expects"),
    [
        ("verbose", "loud", "a whole number from 0 to 3"),
        ("verbose", "4", "a whole number from 0 to 3"),
        ("verbose", "true", "a whole number from 0 to 3"),
        ("vstats", "-1", "a whole number from 0 to 3"),
        ("limit", "all", "a whole number, 1 or more, or 0 for all"),
        ("limit", "-1", "a whole number, 1 or more, or 0 for all"),
        ("limit", "1.5", "a whole number, 1 or more, or 0 for all"),
        ("ncores", "0", CORES),
        ("ncores", "nan", CORES),
        ("max_tasks_per_child", "-1", "a whole number, 1 or more, or 0 for no limit"),
        ("group_size", "0", "a whole number, 1 or more"),
        ("out_subdirs", "0", "a whole number, 1 or more"),
        ("keep_results", "maybe", "one of 1, 0, true, false, yes, no, on, off"),
        ("keep_results", "2", "one of 1, 0, true, false, yes, no, on, off"),
        ("progress_dt", "-1", "a finite number of seconds, 0 or more"),
        ("timeout", "5s", TIMEOUT),
        ("timeout", "inf", TIMEOUT),
        ("retries", "-1", "a whole number, 0 or more"),
        ("on_failure", "halt", "'continue' or 'stop'"),
        ("seed", "1e999", "a whole number"),
        ("seed", "9" * 5000, "a whole number"),
        ("seed", "\udcff", "a whole number"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named_with_its_text(name: str, text: str, expects: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolved(name, init=CASES[name][1][0], environ=text)
    assert type(caught.value) is OptionError
    shown = repr(text) if len(text) < 59 else repr(text)[:57] + "..."
    assert (
        str(caught.value) == f"the environment variable {variable(name)}={shown} cannot be used: it must be {expects}"
    )


@pytest.mark.parametrize(
    ("environ", "remedies"),
    [
        ({"PARAMSURVEY_VERBOS": "3"}, ["PARAMSURVEY_VERBOS is not read; did you mean PARAMSURVEY_VERBOSE?"]),
        ({"PARAMSURVEY_verbose": "3"}, ["PARAMSURVEY_verbose is not read; did you mean PARAMSURVEY_VERBOSE?"]),
        (
            {"PARAMSURVEY_USER_KWARGS": "{}"},
            ["PARAMSURVEY_USER_KWARGS is not read; user_kwargs cannot be written as text: give it to init() or map()"],
        ),
        (
            {"PARAMSURVEY_TIME_OUT": "1", "PARAMSURVEY_NCORE": "2", "PARAMSURVEY_LIMIT": "3"},
            [
                "PARAMSURVEY_NCORE is not read; did you mean PARAMSURVEY_NCORES?",
                "PARAMSURVEY_TIME_OUT is not read; did you mean PARAMSURVEY_TIMEOUT?",
            ],
        ),
        ({"PARAMSURVEY_VERBOS": ""}, []),
        ({"PARAMSURVEYOR": "x", "HOME": "/", "paramsurvey_verbose": "3"}, []),
        ({variable(name): "1" for name, case in CASES.items() if case[3]}, []),
    ],
)
def test_variables_that_nobody_reads_are_reported(environ: dict[str, str], remedies: list[str]) -> None:
    assert unknown_variables(environ) == [f"the environment variable {remedy}" for remedy in remedies]


@pytest.mark.parametrize("strange", ["PARAMSURVEY_", "PARAMSURVEY_ZZZ"])
def test_a_variable_like_no_other_is_reported_with_the_list(strange: str) -> None:
    variables = ", ".join(variable(name) for name, case in CASES.items() if case[3])
    assert unknown_variables({strange: "1"}) == [
        f"the environment variable {strange} is not read; there are: {variables}"
    ]


def test_an_unknown_variable_does_not_fail() -> None:
    assert resolve(init={}, environ={"PARAMSURVEY_VERBOS": "loud"}) == Options()


# --- check and describe ---------------------------------------------------------------------------


def test_check_returns_what_was_given_converted() -> None:
    assert check({"limit": 0, "ncores": 2.0, "name": None}, "init") == {"limit": None, "ncores": 2}
    assert check({}, "init") == {}


def test_what_check_returned_can_be_given_to_resolve() -> None:
    given = {"limit": 0, "chdir": PurePosixPath("a"), "timeout": 3, "ray": {"a": 1}}
    assert resolve(init=check(given, "init"), environ={}) == resolve(init=given, environ={})


def test_options_can_be_copied_with_changes_and_pickled() -> None:
    options = Options(limit=0, timeout=0, ray={"a": 1}, verbose=2)
    assert attrs.evolve(options) == options
    assert attrs.evolve(options, limit=3).limit == 3
    assert pickle.loads(pickle.dumps(options)) == options


def test_describe_lists_what_differs_in_the_tables_order() -> None:
    options = Options(seed=3, ray={"num_gpus": 1}, verbose=2, backend="serial", keep_results=False)
    assert describe(options) == "backend='serial', verbose=2, keep_results=False, seed=3, ray={'num_gpus': 1}"


def test_describe_says_so_when_nothing_differs() -> None:
    assert describe(Options()) == "all options have their defaults"
    assert describe(Options(limit=0, verbose=True, ray={})) == "all options have their defaults"


@every_option
def test_describe_knows_every_option(name: str) -> None:
    default, (at_init, of_init), _, _ = CASES[name]
    assert not same(of_init, default)
    assert describe(Options(**{name: at_init})).startswith(f"{name}=")


@pytest.mark.parametrize(
    "value",
    [
        {"array": np.zeros((100, 100))},
        np.zeros((2, 2)),
        pd.DataFrame({"a": range(100), "b": "x"}),
        list(range(1_000_000)),
        [[[[list(range(100))] * 100] * 100] * 100] * 100,
        "line\nline\rline\x0b" * 1000,
        Unprintable(),
        [Unprintable()],
        10**5000,
    ],
    ids=["dict of array", "array", "frame", "long list", "deep list", "text", "unprintable", "list of it", "int"],
)
def test_describe_stays_on_one_short_line_whatever_the_value(value: Any) -> None:
    line = describe(Options(user_kwargs=value))
    assert line.startswith("user_kwargs=")
    assert len(line.splitlines()) == 1
    assert len(line) <= len("user_kwargs=") + 60


def test_describe_cuts_a_long_value_at_60_characters() -> None:
    assert describe(Options(name="n" * 100)) == f"name='{'n' * 56}..."
    assert describe(Options(name="n" * 58)) == f"name='{'n' * 58}'"


# --- the import graph -----------------------------------------------------------------------------


def test_importing_the_options_imports_no_tables() -> None:
    heavy = "{'pandas', 'numpy', 'networkx', 'rich', 'hdrh', 'difflib'}"
    code = f"import sys, paramsurvey.options; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
