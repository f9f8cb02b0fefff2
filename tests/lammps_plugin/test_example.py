"""The files of examples/lammps do what its README says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import read

from ideal.config import parse_config, read_yaml
from ideal.lammps.plugin import installed_headers
from ideal.lammps.serve.served_run import ServedRun, served
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .conftest import Run
from .learner import Learning

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


@pytest.mark.parametrize("script", ["in.learn", "in.learn_model"])
def test_example_learns(script: str, lammps: Run, tmp_path: Path) -> None:
    """As the README says, with a model that has hardly been trained and fewer steps."""
    potentials = installed_headers().include.parents[1] / "share" / "lammps" / "potentials"
    shutil.copy(potentials / "Cu_u3.eam", tmp_path)
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    subprocess.run([sys.executable, "make_copper.py"], cwd=tmp_path, check=True)
    data = read_yaml(tmp_path / "learn.yaml")
    data["training"]["pretrain"]["epochs"] = data["training"]["online"]["epochs"] = 1
    data["serve"]["port"] = 0
    config = served(parse_config(data, tmp_path))
    with Learning(tmp_path / "run", ServedRun.create(config, tmp_path / "run")) as learning:
        text = (tmp_path / script).read_text().replace(":7010", f":{learning.port}")
        text = text.replace("create 1200", "create 4000").replace("create 3000", "create 4000")
        output = lammps("plugin load PLUGIN\n" + text.replace("run 300", "run 40").replace("run 200", "run 20"))
        assert "fix ideal: learner at 127.0.0.1" in output
        assert "answered: " in output
