"""ideal-run converge with a molecule-sized DFT code."""

import pytest
from ase import Atoms
from ase.io import write

CONFIG = """
trajectories: [{structure: h2.xyz}]
dataset: {rattled: {count: 2}}
labelling:
  code: {type: pyscf, basis: gth-szv, pseudo: gth-pbe, mesh_cutoff: 1500, smearing: 0.5}
"""


def test_converge_prints_table_and_recommendation(tmp_path, ideal_run):
    pytest.importorskip("pyscf")
    write(tmp_path / "h2.xyz", Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.8]], cell=[4, 4, 4], pbc=True))
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = ideal_run("converge", str(tmp_path), "--rattle", "0", "--energy", "1 eV", "--force", "1 eV/angstrom")
    assert done.exit_code == 0, done.output
    assert "mesh_cutoff (eV)" in done.stdout and "reference" in done.stdout
    assert "Recommended: labelling.code.mesh_cutoff: 1275" in done.stdout
    assert "is enough" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--force", "3 furlongs"), "a tolerance"),
        (("--max-atoms", "1"), "2 atoms are more than --max-atoms 1"),
        (("--set", "labelling.code={type: tblite}"), "has no cutoff and no k-points"),
    ],
)
def test_converge_refuses(tmp_path, ideal_run, arguments, words):
    write(tmp_path / "h2.xyz", Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.8]], cell=[4, 4, 4], pbc=True))
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = ideal_run("converge", str(tmp_path), *arguments)
    assert done.exit_code != 0 and words in done.output + str(done.exception)
