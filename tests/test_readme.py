"""The README is true: its programs print what it says they print, and its tables and commands are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import paramsurvey
from paramsurvey.options import TABLE, Option

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Program(NamedTuple):
    """A ```python block of the README, and the ```text block that follows it."""

    heading: str
    code: str
    output: str | None


def programs(readme: str) -> list[Program]:
    blocks = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
    return [
        Program(re.findall(r"^##? (.*)$", readme[: block.start()], re.MULTILINE)[-1], block[1], block[2])
        for block in blocks.finditer(readme)
    ]


def between(marker: str) -> str:
    """Return what the README has between two markers."""
    found = re.findall(f"^<!-- {marker} -->\n(.*?)^<!-- /{marker} -->$", README, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"the README must have one pair of <!-- {marker} --> and <!-- /{marker} -->"
    return str(found[0])


def command(marker: str) -> str:
    """Return the command between two markers; it must be a single line."""
    lines = between(marker).splitlines()
    assert (lines[0], lines[2:]) == ("```sh", ["```"])
    return lines[1]


def environment() -> dict[str, str]:
    """Return the tester's environment without the options of paramsurvey, with the package under test."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PARAMSURVEY_")}
    assert paramsurvey.__file__ is not None
    return ours | {"PYTHONPATH": str(Path(paramsurvey.__file__).parents[1])}


@pytest.mark.unmeasured
@pytest.mark.parametrize("program", programs(README), ids=lambda program: program.heading)
def test_a_program_of_the_readme_prints_what_the_readme_says(program, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(file)],
        cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (program.output or "")


def test_every_python_block_of_the_readme_is_one_of_these_programs():
    assert README.count("```python") == len(programs(README)) > 0


def test_every_output_of_the_readme_follows_its_program():
    assert README.count("```text") == sum(program.output is not None for program in programs(README)) > 0


def test_the_first_program_of_the_readme_is_twelve_lines():
    first = programs(README)[0]
    assert sum(line.strip() != "" for line in first.code.splitlines()) <= 12


@pytest.mark.parametrize("marker", ["main command", "test command"])
def test_a_command_of_the_readme_does_all_its_own_set_up_on_one_line_near_the_top(marker):
    assert command(marker).startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert README.index(command(marker)) < 2000


def test_the_main_command_runs_the_array_example_with_the_plot_extra():
    assert "'.[plot]'" in command("main command")
    assert command("main command").endswith(" examples/array_coverage.py")


@pytest.mark.skipif(not (ROOT / ".ci" / "run").exists(), reason="this is not a checkout")
def test_the_readmes_test_command_is_the_one_that_ci_runs():
    shown = subprocess.run(
        ["bash", ".ci/run", "--show"], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=100, check=True
    )
    assert shown.stdout.splitlines()[0] == command("test command")


def options_table() -> str:
    def row(option: Option) -> str:
        variable = f"`{option.variable}`" if option.variable else ""
        return f"| `{option.name}` | {variable} | `{option.default!r}` | {option.meaning} |\n"

    return "| option | environment variable | default | meaning |\n|---|---|---|---|\n" + "".join(
        map(row, TABLE.values())
    )


def test_the_options_table_of_the_readme_is_that_of_the_code():
    assert between("options") == options_table()


def test_every_line_of_the_benchmarks_is_in_the_readmes_table():
    lines = set(re.findall(r"^\| (\d+) \|", (ROOT / "benchmarks" / "README.md").read_text(), re.MULTILINE))
    assert len(lines) == 15
    assert set(re.findall(r"^\| (\d+) \|", between("benchmarks"), re.MULTILINE)) == lines


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_a_link_of_the_readme_leads_to_a_file(target):
    assert (ROOT / target).exists()


def test_the_oldest_dependencies_that_are_tested_are_the_oldest_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    allowed = [*project["dependencies"], *extras["test"], *extras["plot"]]
    floors = {re.sub(r"\[.*\]", "", floor).replace(">=", " ") for floor in allowed if ">=" in floor}
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    tested = {line.replace("==", " ") for line in lines if line and not line.startswith("#")}
    assert {same_length(floor) for floor in floors} == {same_length(pin) for pin in tested}


def same_length(requirement: str) -> tuple[str, tuple[int, ...]]:
    """Read "attrs 23.1" as "attrs 23.1.0"."""
    name, version = requirement.split()
    numbers = [int(number) for number in version.split(".")]
    return name, tuple(numbers + [0] * (3 - len(numbers)))
