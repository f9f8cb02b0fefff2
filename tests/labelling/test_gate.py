import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import LabelGateConfig
from ideal.labelling.gate import refuse_result, refuse_structure

GATE = LabelGateConfig()


def li(**changes):
    atoms = bulk("Li", cubic=True)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def nan_position():
    atoms = li()
    atoms.positions[1, 2] = np.nan
    return atoms


def across_the_boundary():
    return Atoms("LiH", positions=[[0, 0, 0.1], [0, 0, 4.8]], cell=[5, 5, 5], pbc=True)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms(), "no atoms"),
        (nan_position(), "position of atom 1 (Li)"),
        (across_the_boundary(), "atoms 0 (Li) and 1 (H) are 0.300 Å apart"),
        (li(cell=np.diag([3.5, 3.5, np.inf])), "cell is not finite"),
        (Atoms("Li", pbc=True), "no extent"),
        (Atoms("Li", cell=[[5, 0, 0], [0, 5, 0], [5, 5, 0]], pbc=True), "no extent"),
        (Atoms("Li", cell=[5, 5, 0.4], pbc=True), "only 0.400 Å high"),
    ],
)
def test_refused_structures(atoms, words):
    assert words in refuse_structure(atoms, GATE)


@pytest.mark.parametrize("atoms", [li(), Atoms("Li"), Atoms("H2", [[0, 0, 0], [0, 0, 0.51]])])
def test_sound_structures_pass(atoms):
    assert refuse_structure(atoms, GATE) is None


def result(**changes):
    forces = np.array([[0.1, 0, 0], [-0.1, 0, 0]])
    values = {"energy": -1.0, "forces": forces, "stress": np.zeros(6)} | changes
    return refuse_result(li(), values["energy"], values["forces"], values["stress"], GATE)


def test_sound_result_passes():
    assert result() is None
    assert result(stress=None) is None
    assert result(forces=np.array([[0.1, 0, 0], [-0.0801, 0, 0]])) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energy": float("nan")}, "energy is nan"),
        ({"energy": float("inf")}, "energy is inf"),
        ({"forces": np.zeros((3, 3))}, "shape (3, 3) came back for 2 atoms"),
        ({"forces": np.array([[0, 0, 0], [0, np.nan, 0]])}, "force on atom 1 is not finite"),
        ({"forces": np.array([[31.0, 0, 0], [-31, 0, 0]])}, "largest force is 31"),
        ({"forces": np.array([[0.1, 0, 0], [-0.0799, 0, 0]])}, "net force is 0.020"),
        ({"stress": np.zeros(3)}, "stress of shape (3,)"),
        ({"stress": np.full(6, np.nan)}, "stress is not finite"),
        ({"stress": np.full(6, 11.0)}, "stress component is 11"),
    ],
)
def test_refused_results(changes, words):
    assert words in result(**changes)
