"""Alanine dipeptide (ACE-ALA-NME) in vacuum with AMBER ff19SB, through OpenMM.

The molecule is the one of ``alanine_dipeptide.pdb``: built from standard bond lengths and angles, hydrogens by
``openmm.app.Modeller``, minimized in ff19SB; it lies in the C7eq basin (phi -84, psi 69 degrees), where the experiments
of Zaverkin et al. begin.

Tian et al., J. Chem. Theory Comput. 16, 528 (2020), doi:10.1021/acs.jctc.9b00591.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read, write

from ideal.labelling.codes.base import installed_version
from ideal.records import BoolArray, FloatArray, Label, structure_key

PDB = Path(__file__).with_name("alanine_dipeptide.pdb")
FORCE_FIELD = "amber19/protein.ff19SB.xml"
PHI = (4, 6, 8, 14)
"""C of ACE, N, CA, C of ALA."""
PSI = (6, 8, 14, 16)
"""N, CA, C of ALA, N of NME."""
OMEGA = ((0, 4, 6, 8), (8, 14, 16, 18))
"""Both amide bonds: CH3, C of ACE, N, CA; CA, C of ALA, N, CH3 of NME."""
MAX_FORCE = 20.0
"""Structures of larger reference forces (eV/Å) are no labels, as in the paper."""

_KJ_PER_MOL = 0.010364269656262174  # eV
_INTERVAL, _EQUILIBRATION = 1000, 20000
"""Steps of 0.5 fs: 2,000 frames are 1 ns. Amide bonds turn to cis now and then: a shorter test may miss that."""


class Amber(Calculator):
    """ff19SB without cutoffs or constraints as an ASE calculator; for this molecule alone."""

    implemented_properties = ("energy", "forces")

    def __init__(self) -> None:
        super().__init__()
        self._context = make_context(300.0)

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """See `ase.calculators.calculator.Calculator`."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.evaluate(self.atoms.positions)
        self.results = {"energy": energy, "forces": forces}

    def evaluate(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (eV) and forces (n_atoms, 3) in eV/Å of positions (n_atoms, 3) in Å."""
        self._context.setPositions(0.1 * positions)
        state = self._context.getState(getEnergy=True, getForces=True)
        return (
            _value(state.getPotentialEnergy()) * _KJ_PER_MOL,
            np.array(_value(state.getForces(asNumpy=True))) * (0.1 * _KJ_PER_MOL),
        )


def molecule() -> Atoms:
    """The molecule in the C7eq basin, without a cell."""
    atoms: Atoms = read(PDB)
    return Atoms(atoms.get_chemical_symbols(), positions=atoms.positions)


def make_context(temperature: float, seed: int = 1) -> Any:
    """An OpenMM context with a Langevin integrator of 0.5 fs and 1/ps, on the reference platform (double precision)."""
    import openmm
    from openmm import app

    pdb = app.PDBFile(str(PDB))
    system = app.ForceField(FORCE_FIELD).createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, 0.0005)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    return context


def label(atoms: Atoms, calculator: Amber) -> Label | None:
    """The reference's answer; None where a force exceeds `MAX_FORCE`."""
    energy, forces = calculator.evaluate(atoms.positions)
    if np.linalg.norm(forces, axis=1).max() > MAX_FORCE:
        return None
    bare = Atoms(atoms.numbers, positions=atoms.positions)
    return Label(structure_key(bare, _settings()), bare, energy, forces, None, "openmm ff19SB", "total_energy")


def dihedrals(positions: FloatArray) -> FloatArray:
    """phi and psi of positions (..., n_atoms, 3): (..., 2) in radians, -pi to pi.

    Example:
        >>> bool(np.allclose(np.rad2deg(dihedrals(molecule().positions)), [-84.0, 69.5], atol=0.1))
        True
    """
    return np.stack([_dihedral(*(positions[..., index, :] for index in four)) for four in (PHI, PSI)], axis=-1)


def is_cis(positions: FloatArray) -> BoolArray:
    """Whether an amide bond of positions (..., n_atoms, 3) is cis, its torsion below 90 degrees: (...,)."""
    torsions = [_dihedral(*(positions[..., index, :] for index in four)) for four in OMEGA]
    return (np.abs(torsions) < np.pi / 2).any(axis=0)


def labels_at(positions: FloatArray) -> list[Label]:
    """The reference's labels at positions (n, n_atoms, 3); without those that `label` refuses."""
    calculator, bare = Amber(), molecule()
    found = []
    for each in positions:
        bare.positions = each
        found.append(label(bare, calculator))
    return [each for each in found if each is not None]


def reference_trajectory(folder: Path, frames: int, seed: int) -> list[Label]:
    """Labels of a 1200 K trajectory of the reference itself, one every 500 fs; made once and kept in ``folder``."""
    path = folder / f"alanine_1200K_{seed}.xyz"
    if not path.is_file():
        context = make_context(1200.0, seed)
        context.setVelocitiesToTemperature(1200.0, seed)
        context.getIntegrator().step(_EQUILIBRATION)
        images = []
        for _ in range(frames):
            context.getIntegrator().step(_INTERVAL)
            positions = 10 * np.array(_value(context.getState(getPositions=True).getPositions(asNumpy=True)))
            images.append(Atoms(molecule().numbers, positions=positions - positions.mean(axis=0)))
        temporary = path.with_suffix(".part.xyz")
        folder.mkdir(parents=True, exist_ok=True)
        write(temporary, images)
        temporary.replace(path)
    return labels_at(np.array([atoms.positions for atoms in read(path, f":{frames}")]))


@cache
def _settings() -> dict[str, Any]:
    return {"force_field": FORCE_FIELD, "openmm": installed_version("openmm", "the reference")}


def _value(quantity: Any) -> Any:
    """The number in OpenMM's own units (nm, kJ/mol)."""
    return quantity._value


def _dihedral(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    """IUPAC sign."""
    axis = c - b
    first, second = np.cross(b - a, axis), np.cross(axis, d - c)
    cosine = (first * second).sum(axis=-1)
    sine = (np.cross(first, second) * axis).sum(axis=-1) / np.linalg.norm(axis, axis=-1)
    return np.arctan2(sine, cosine)
