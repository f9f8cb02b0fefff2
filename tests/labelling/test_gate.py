import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import LabelGateConfig
from ideal.labelling.codes.base import CodeResult
from ideal.labelling.gate import is_for_force, refuse_result, refuse_structure
from ideal.records import FailedLabel

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
def test_refused_structures_name_a_remedy(atoms, words):
    reason = refuse_structure(atoms, GATE)
    assert words in reason and "; " in reason


@pytest.mark.parametrize("atoms", [li(), Atoms("Li"), Atoms("H2", [[0, 0, 0], [0, 0, 0.51]])])
def test_sound_structures_pass(atoms):
    assert refuse_structure(atoms, GATE) is None


def result(**changes):
    forces = np.array([[0.1, 0, 0], [-0.1, 0, 0]])
    values = {"energy": -1.0, "forces": forces, "stress": np.zeros(6), "converged": True, "entropy": 0.01} | changes
    return refuse_result(li(), CodeResult(**values), GATE)


def test_sound_result_passes():
    assert result() is None
    assert result(stress=None) is None
    assert result(forces=np.array([[0.1, 0, 0], [-0.0801, 0, 0]])) is None


def test_results_that_say_less_pass():
    assert result(converged=None, entropy=None) is None
    assert result(entropy=0.39) is None  # two atoms: 0.195 eV each
    hot = CodeResult(-1.0, np.zeros((2, 3)), None, entropy=5.0)
    assert refuse_result(li(), hot, LabelGateConfig(max_entropy=None)) is None


@pytest.mark.parametrize(
    ("changes", "value", "remedy"),
    [
        ({"energy": float("nan")}, "energy is nan", "read the log"),
        ({"energy": float("inf")}, "energy is inf", "read the log"),
        ({"converged": False}, "SCF did not converge", "raise labelling.code.max_iterations"),
        ({"forces": np.zeros((3, 3))}, "shape (3, 3) came back for 2 atoms", "check the version"),
        ({"forces": np.array([[0, 0, 0], [0, np.nan, 0]])}, "force on atom 1 is not finite", "read the log"),
        (
            {"forces": np.array([[31.0, 0, 0], [-31, 0, 0]])},
            "largest force is 31 eV/Å (atom 0, Li), above labelling.gate.max_force 30",
            "check the frame",
        ),
        ({"forces": np.array([[0.1, 0, 0], [-0.0799, 0, 0]])}, "net force is 0.020", "raise it"),
        ({"stress": np.zeros(3)}, "stress of shape (3,)", "check the version"),
        ({"stress": np.full(6, np.nan)}, "stress is not finite", "read the log"),
        ({"stress": np.full(6, 6.0)}, "6 eV/Å³ (961 GPa), above labelling.gate.max_stress 5", "raise the cutoff"),
        ({"entropy": 0.41}, "0.205 eV/atom, above labelling.gate.max_entropy 0.2", "lower labelling.code.smearing"),
    ],
)
def test_refused_results_name_value_and_remedy(changes, value, remedy):
    reason = result(**changes)
    assert value in reason and remedy in reason.partition(value)[2]


def test_a_refusal_for_a_force_is_told_from_other_failures():
    reason = result(forces=np.array([[31.0, 0, 0], [-31, 0, 0]]))

    def failure(cause, **circumstances):
        return FailedLabel("", li(), cause, circumstances=circumstances)

    assert is_for_force(failure(f"refused: {reason}", kind="refused"))
    assert is_for_force(failure(reason)), "what is not learned has no circumstances"
    assert not is_for_force(failure(f"it said that {reason}", kind="code"))
    assert not is_for_force(failure("refused: the net force is 0.1 eV/Å", kind="refused"))
