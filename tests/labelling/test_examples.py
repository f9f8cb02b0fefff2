"""The example configurations of the codes load, and there is one for every code."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from ideal.config import CODES, AseConfig, load_config
from ideal.errors import LabelError
from ideal.labelling.codes import make_code

FOLDER = Path(__file__).parents[2] / "examples" / "codes"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example_loads(path):
    config = load_config(path)
    assert config.trajectories[0].structure.is_file()
    if path.stem in CODES:
        assert config.labelling.code.type == path.stem


def test_every_code_has_an_example():
    assert set(CODES) <= {path.stem for path in FILES}


@pytest.mark.dft
def test_nwchem_through_ase(tmp_path, monkeypatch):
    """Forces are the derivative of the energy, and an SCF cut short raises."""
    library = Path("/usr/share/nwchem/libraries")
    if shutil.which("nwchem") is None or not library.is_dir():
        pytest.skip("nwchem is not installed")
    monkeypatch.setenv("NWCHEM_BASIS_LIBRARY", f"{library}{os.sep}")
    config = load_config(FOLDER / "nwchem.yaml").labelling.code
    atoms = molecule("H2")
    atoms.positions[0, 2] += 0.05

    code = make_code(config)

    def energy(shift):
        moved = atoms.copy()
        moved.positions[0, 2] += shift
        folder = tmp_path / f"{shift:+.4f}"
        folder.mkdir()
        return code.compute(moved, folder)

    result = energy(0.0)
    slope = (energy(0.005).energy - energy(-0.005).energy) / 0.01
    assert abs(result.forces[0, 2] + slope) < 0.01 and abs(result.forces.sum()) < 1e-3
    assert isinstance(config, AseConfig)
    hasty = config.model_copy(update={"arguments": {**config.arguments, "dft": {"iterations": 1}}})
    with pytest.raises(LabelError, match="NWChem failed"):
        make_code(hasty).compute(molecule("H2O"), tmp_path)
    assert np.isfinite(result.forces).all()
