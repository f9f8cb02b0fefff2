"""``mpiexec -n 3 ideal-run ...``: the first rank runs the command, the others calculate; its exit code counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from .executor_contract import alive, eventually
from .test_executors import HERE, mpiexec

pytestmark = pytest.mark.mpi

MPI = ("--set", "labelling.executor={type: mpi}")


def command(*arguments: object) -> list[str]:
    return [mpiexec(), "-n", "3", sys.executable, "-m", "ideal.cli.app", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1]), *sys.path[1:]])}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=280, check=False, env=environment()
    )


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    structures = [bulk("Cu", cubic=True) for _ in range(6)]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=number)
    write(tmp_path / "cells.extxyz", structures)
    return tmp_path / "cells.extxyz"


def test_structures_are_labelled_by_ranks(cells: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.extxyz"
    done = run("label", cells, "--code", "ase.calculators.emt:EMT", "--output", output, *MPI)
    assert done.returncode == 0, done.stdout + done.stderr
    labelled = read(output, ":")
    assert len(labelled) == 6 and all(abs(atoms.get_forces()).max() > 0.01 for atoms in labelled)


def test_exit_codes_pass_through_and_nothing_hangs(cells: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.extxyz"
    wrong = run("label", cells, "--code", "ase.calculators.emt:EMT", "--output", output)
    assert wrong.returncode == 5, wrong.stdout + wrong.stderr
    assert "3 MPI ranks were started, but labelling.executor.type is local" in wrong.stderr
    assert run("check", tmp_path / "no.yaml").returncode == 2
    assert "ideal-run" in run("--version").stdout


def test_a_launch_that_is_stopped_leaves_no_process(cells: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    output = tmp_path / "labelled.extxyz"
    arguments = ("label", cells, "--code", "fake_calculators:Hangs", "--output", output, *MPI)
    marked = ("--set", f"labelling.code.arguments={{marks: {marks}}}")
    process = subprocess.Popen(command(*arguments, *marked), env=environment(), stdout=subprocess.DEVNULL)
    eventually((marks / "child.pid").exists)
    process.send_signal(signal.SIGTERM)
    process.wait(200)
    for pid in (marks / "child.pid").read_text().split():
        eventually(lambda pid=int(pid): not alive(pid))
