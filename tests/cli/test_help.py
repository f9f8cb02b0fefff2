"""Every help page: at once, with an example that works, readable at 80 columns."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import Result

import ideal
from ideal import errors
from ideal.cli.app import app
from ideal.cli.failures import EXIT_CODES

GROUP = get_command(app)
COMMANDS = sorted(GROUP.commands)  # type: ignore[attr-defined]


def example_lines(output: str) -> list[str]:
    lines = output.partition("Examples:\n")[2].partition("Exit codes:")[0].replace("\\\n", "").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("ideal-run")]


def test_commands_are_the_documented_ones() -> None:
    wanted = (
        "init check run resume serve status report score embed label train calibrate converge plugin schema export "
        "import rescue"
    )
    assert sorted(wanted.split()) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_has_examples_and_fits(command: str, columns: int, ideal_run: Callable[..., Result]) -> None:
    result = ideal_run(command, "--help", columns=columns)
    assert result.exit_code == 0
    assert example_lines(result.stdout)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    assert "…" not in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse(command: str, ideal_run: Callable[..., Result]) -> None:
    """The words of every example are accepted by the command's own parser."""
    for line in example_lines(ideal_run(command, "--help").stdout):
        words = shlex.split(line, comments=True)
        assert words[:2] == ["ideal-run", command]
        parser = GROUP.commands[command]  # type: ignore[attr-defined]
        parser.make_context("ideal-run", words[2:], resilient_parsing=False)


def test_group_help_tells_exit_codes(ideal_run: Callable[..., Result]) -> None:
    output = ideal_run("--help").stdout
    assert all(f"{code:>3}  {meaning}" in output for code, meaning in EXIT_CODES.items())


def test_every_error_class_has_a_documented_exit_code() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.IdealError)]
    assert {c.exit_code for c in classes} <= set(EXIT_CODES)
    assert len({c.exit_code for c in classes}) == len(classes)


def test_version(ideal_run: Callable[..., Result]) -> None:
    assert ideal_run("--version").stdout.strip() == f"ideal-run {ideal.__version__}"


def test_unknown_command_and_option(ideal_run: Callable[..., Result]) -> None:
    assert ideal_run("chek").exit_code == 2
    assert ideal_run("check", "--sett", "a=b").exit_code == 2


def test_schema_is_json(ideal_run: Callable[..., Result], tmp_path: Path) -> None:
    schema = json.loads(ideal_run("schema").stdout)
    assert "trajectories" in schema["properties"]
    assert ideal_run("schema", "--output", tmp_path / "schema.json").exit_code == 0
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8")) == schema


def test_import_is_light() -> None:
    """Help and configuration errors come without torch, matgl, ASE or NumPy."""
    code = "import sys, ideal.cli.app; print([m for m in ('torch', 'matgl', 'ase', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "ideal.cli.app", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("ideal-run ")
