"""The files of examples/lammps do what its README says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read

from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .conftest import Run

pytestmark = pytest.mark.lammps
EXAMPLE = Path(__file__).parents[2] / "examples" / "lammps"


def test_example_stops_at_an_unknown_atom(lammps: Run, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    subprocess.run([sys.executable, "make_data.py"], cwd=tmp_path, check=True)
    output = lammps("plugin load PLUGIN\n" + (tmp_path / "in.watch").read_text())
    assert "neighborhoods appended to unknown.extxyz" in output
    frame = read(tmp_path / "unknown.extxyz", 0)
    u = SoapMahalanobis.load(tmp_path / "uncertainty.safetensors").atomic(frame)
    assert u[0] == pytest.approx(frame.info["center_u"], rel=1e-6)
    assert u[0] > 3
