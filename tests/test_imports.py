"""The floors of the house: imports go downhill, the heavy ones only where they are needed; no module keeps state."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import paramsurvey

pytestmark = pytest.mark.unmeasured

PACKAGE = Path(paramsurvey.__file__).parent

# From the ground up. A module may import from its own floor and from those below it.
FLOORS = [
    {"closing", "editions", "errors", "folders", "lazy", "version", "saving", "drawing", "charts"},
    {"fingerprint", "callables", "progress", "engine.columns", "engine.records", "engine.pickling", "engine.chunking"},
    {
        "engine.culprit",
        "engine.worker",
        "engine.details",
        "engine.dispatcher",
        "engine.loop",
        "stats",
        "options",
        "dtypes",
        "workers",
        "utils",
        "interrupts",
        "codeprint",
    },
    {"backends", "observers", "params", "tables", "psets"},  # psets makes a table when a survey is over
    {"stages", "results", "greedy_results", "fused", "journal"},
    {"flow", "asking"},
    {"sieve"},
    {"survey"},
    {"runs"},
    {"streams"},
    {"requests", "session", "default_session", "pipeline", "pictures", "plans"},  # a pipeline can run itself
    {"verbs"},
    {"testing", "mpi"},
]
PANDAS = {
    "dtypes",
    "params",
    "tables",
    "results",
    "greedy_results",
    "journal",
    "sieve",
    "flow",
    "asking",
    "survey",
    "runs",
    "pipeline",
    "plans",
    "stages",
    "testing",
}
NUMPY = PANDAS | {"psets", "stats"}
NETWORKX = {"pipeline"}
ONE_PLACE = {
    "ray": {"backends.ray"},
    "mpi4py": {"backends.mpi"},
    "pandas": PANDAS,
    "numpy": NUMPY,
    "networkx": NETWORKX,
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())
NAMED = [name for name in MODULES if name]


@functools.cache
def parsed(name):
    return ast.parse(MODULES[name].read_text())


@functools.cache
def imports(name, *, inside_functions=True):
    """Return the modules that a module imports when it runs, not only for type checkers."""
    return {*_imports(parsed(name).body, inside_functions)}


def _imports(body, inside_functions):
    pending = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("paramsurvey.")
                yield f"paramsurvey.{inner}" if inner in MODULES else str(node.module)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


def is_in(name, places):
    return any(name == place or name.startswith(place + ".") for place in places)


def floor_of(name):
    (number,) = (number for number, floor in enumerate(FLOORS) if is_in(name, floor))
    return number


@pytest.mark.parametrize("name", [name for name in NAMED if name != "engine"])
def test_every_module_has_a_floor_and_imports_nothing_from_above(name):
    for imported in imports(name):
        if imported.startswith("paramsurvey.") and imported != "paramsurvey.engine":
            below = imported.removeprefix("paramsurvey.")
            assert floor_of(below) <= floor_of(name), f"{name} imports {below}, which stands above it"


def test_the_engine_knows_no_backend_no_stage_and_no_observer():
    for name in NAMED:
        if is_in(name, {"engine"}):
            for imported in imports(name):
                assert not is_in(imported.removeprefix("paramsurvey."), {"backends", "stages", "observers", "session"})


def test_backends_know_nothing_of_surveys():
    for name in NAMED:
        if is_in(name, {"backends"}):
            for imported in imports(name):
                assert not is_in(imported, {"paramsurvey.engine.loop", "paramsurvey.engine.dispatcher"}), name
                assert not is_in(imported.removeprefix("paramsurvey."), {"stages", "observers", "survey", "session"})


def test_stages_know_the_records_of_the_engine_and_not_its_loop():
    for name in NAMED:
        if is_in(name, {"stages"}):
            for imported in imports(name):
                assert not is_in(imported, {"paramsurvey.engine.loop", "paramsurvey.engine.dispatcher"}), name


@pytest.mark.parametrize("library", ONE_PLACE)
def test_heavy_libraries_are_imported_where_they_are_needed_and_nowhere_else(library):
    for name in MODULES:
        if any(each.split(".")[0] == library for each in imports(name)):
            assert is_in(name, ONE_PLACE[library]), f"{name} imports {library}"


def test_no_module_imports_itself_in_a_circle():
    below = {
        name: {each.removeprefix("paramsurvey.") for each in imports(name, inside_functions=False)}
        & set(NAMED) - {name}
        for name in MODULES
    }
    while leaves := [name for name, imported in below.items() if not imported & below.keys()]:
        for name in leaves:
            del below[name]
    assert below == {}


def loaded_by(statements, folder=None):
    """Return the modules that a fresh interpreter has after some statements."""
    code = f"{statements}\nimport sys\nprint(*sorted(sys.modules))"
    environ = {"PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environ, cwd=folder
    )
    return set(done.stdout.split())


HEAVY = {"pandas", "numpy", "networkx", "hdrh", "psutil", "matplotlib", "asyncio", "unittest", "ray", "mpi4py"}


@pytest.mark.parametrize(
    "module",
    [
        "paramsurvey.backends.multiprocessing.guard",
        "paramsurvey.backends.multiprocessing.child",
        "paramsurvey.backends.mpi.constants",
        "paramsurvey.engine.worker",
        "paramsurvey.workers",
        "paramsurvey.stats",
        "paramsurvey.testing.calls",
    ],
)
def test_a_worker_process_loads_nothing_heavy(module):
    assert not loaded_by(f"import {module}") & HEAVY


def test_the_guard_of_the_workers_is_there_soon():
    """Opening a session, and replacing a guard, take as long as this process needs for its imports."""
    loaded = loaded_by("import paramsurvey.backends.multiprocessing.guard") - loaded_by("import cloudpickle")
    assert not loaded & {"attr", "attrs", "pathlib", "shutil", "subprocess", "tempfile"}


OF_A_MAP = {
    *(
        "asking",
        "callables",
        "closing",
        "dtypes",
        "editions",
        "errors",
        "fingerprint",
        "flow",
        "folders",
        "interrupts",
        "lazy",
        "options",
        "pipeline",
    ),
    *("progress", "psets", "results", "session", "stats", "survey", "tables", "version", "default_session", "verbs"),
    *("requests", "runs", "runs.run", "runs.sources", "runs.whole_table", "runs.wiring"),
    *("backends", "backends.base", "backends.opening", "backends.multiprocessing"),
    *(f"backends.multiprocessing.{name}" for name in ("backend", "constants", "frames", "messages", "pool", "slot")),
    *("engine", "engine.chunking", "engine.columns", "engine.dispatcher", "engine.loop", "engine.pickling"),
    *("engine.records", "engine.worker"),
    *("observers", "observers.events", "observers.logfile", "observers.terminal"),
    *("stages", "stages.base", "stages.map"),
}


def test_a_plain_map_loads_what_it_needs_and_nothing_else(tmp_path):
    """No journal, no greedy search, no plan and no picture: who does not ask for them does not wait for them."""
    worker = "lambda pset, system_kwargs, user_kwargs: {'b': -pset['a']}"
    survey = f"paramsurvey.map({worker}, [{{'a': 1}}, {{'a': 2}}], ncores=2, verbose=0).results"
    loaded = loaded_by(f"import paramsurvey\n{survey}", tmp_path)
    ours = {name.removeprefix("paramsurvey.") for name in loaded if name.startswith("paramsurvey.")}
    assert ours - OF_A_MAP == set()
    assert not (loaded - loaded_by("import pandas")) & HEAVY


def test_the_package_alone_loads_none_of_its_modules():
    loaded = loaded_by("import paramsurvey")
    assert {name for name in loaded if name.startswith("paramsurvey.")} <= {
        "paramsurvey.folders",
        "paramsurvey.lazy",
        "paramsurvey.version",
    }
    assert not loaded & (HEAVY | {"attrs", "cloudpickle", "multiprocessing"})


def test_a_session_loads_no_pandas_before_its_workers_start():
    assert "pandas" not in loaded_by("import paramsurvey.verbs")
    assert "pandas" not in loaded_by("import paramsurvey\nparamsurvey.init(ncores=1, verbose=0)")


def test_every_public_name_can_be_imported():
    for name in paramsurvey.__all__:
        if name != "__version__":
            assert getattr(paramsurvey, name) is not None


MUTABLE = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
MAKERS = {"list", "dict", "set", "deque", "defaultdict", "Counter", "OrderedDict", "WeakSet", "Lock", "RLock", "local"}


def is_mutable(value):
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).split(".")[-1] in MAKERS
    return isinstance(value, MUTABLE)


def assigned(body):
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((ast.unparse(target), node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield ast.unparse(node.target), node.value


@pytest.mark.parametrize("name", MODULES)
def test_no_function_declares_a_global(name):
    assert not [node.names for node in ast.walk(parsed(name)) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("name", MODULES)
def test_no_module_keeps_state(name):
    """Tables that nobody changes are written in capitals; nothing may write into them."""
    tree = parsed(name)
    lower = [target for target, value in assigned(tree.body) if is_mutable(value) and not target.isupper()]
    assert [target for target in lower if target != "__all__"] == []
    tables = {target for target, value in assigned(tree.body) if is_mutable(value)}
    changed = [ast.unparse(node) for node in ast.walk(tree) if _changes(node, tables)]
    assert changed == []


def _changes(node, tables):
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return ast.unparse(node.value) in tables
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        changing = {"append", "add", "update", "pop", "clear", "extend", "setdefault", "insert", "remove", "discard"}
        return ast.unparse(node.func.value) in tables and node.func.attr in changing
    return False


def test_the_one_default_session_is_the_only_state_of_a_class():
    found = {
        f"{name}.{node.name}.{target}"
        for name in MODULES
        for node in parsed(name).body
        if isinstance(node, ast.ClassDef)
        for target, value in assigned(node.body)
        if is_mutable(value)
    }
    constants = {"backends.multiprocessing.constants.PublishedFile._loaded"}  # what a worker process has loaded
    the_one_mpi = {"backends.mpi.cluster._TheOne.lock"}  # a process has one MPI, which nobody can start twice
    assert found - constants - the_one_mpi == {"default_session._Default.lock"}
