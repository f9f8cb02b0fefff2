"""The plugin, compiled once and kept in pytest's cache folder, and a way to run LAMMPS on any number of ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ideal.errors import MissingPackageError
from ideal.lammps.plugin import build_plugin, installed_headers, mpi_library_folder

Run = Callable[..., str]


@pytest.fixture(scope="session")
def plugin(request: pytest.FixtureRequest) -> Path:
    try:
        headers = installed_headers()
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert request.config.cache is not None
    return build_plugin(headers, Path(request.config.cache.mkdir("idealplugin")))


@pytest.fixture
def lammps(plugin: Path, tmp_path: Path) -> Run:
    """Run an input script in ``tmp_path``; returns what LAMMPS printed."""
    binary = installed_headers().include.parents[1] / "lmp"
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(mpi_library_folder()), "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)

    def run(script: str, ranks: int = 1, fails: bool = False) -> str:
        (tmp_path / "in.lammps").write_text(script.replace("PLUGIN", str(plugin)))
        command = [str(binary), "-in", "in.lammps", "-log", "none"]
        if ranks > 1:
            command = [launcher, "-n", str(ranks), *command]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        return output

    return run
