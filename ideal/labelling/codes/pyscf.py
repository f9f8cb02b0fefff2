"""pyscf (Sun et al. 2020, doi:10.1063/5.0006074): molecules with any functional, and periodic cells at the Gamma
point.

Molecules: (un)restricted Kohn-Sham or Hartree-Fock with density fitting; the gradient holds the response of the
integration grid, so that net forces vanish. Cells: restricted Kohn-Sham with multigrid density and GTH
pseudopotentials; no stress, since pyscf's costs several times the label. With smearing, the energy is the free
energy. pyscf does not raise when it does not converge; this adapter does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree

from ideal.config import PyscfConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, first_line, installed_version

CONV_TOL = 1e-9
"""SCF convergence, Hartree."""
CONV_TOL_CELL = 1e-8
LAST_LIGHT_DEF2 = 36
"""def2 basis sets come with effective core potentials for the elements after this one."""


class PyscfCode:
    """pyscf through its own interface.

    Raises:
        MissingPackageError: pyscf is not installed.

    Example:
        >>> code = PyscfCode(PyscfConfig(xc="PBE", basis="def2-svp"))        # doctest: +SKIP
        >>> code.compute(molecule("H2O"), Path("work")).energy               # doctest: +SKIP
        -2076.1
    """

    name = "pyscf"

    def __init__(self, config: PyscfConfig) -> None:
        self.config = config
        self.energy_kind = "free_energy" if config.smearing > 0 else "total_energy"
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": installed_version("pyscf", "labelling with pyscf"),
            "conv_tol": CONV_TOL,
            "conv_tol_cell": CONV_TOL_CELL,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: reads functional, basis and pseudopotential of each element."""
        from pyscf import dft

        config = self.config
        if config.xc.upper() != "HF":
            try:
                dft.libxc.parse_xc(config.xc)
            except (KeyError, ValueError) as error:
                raise LabelError(
                    f"pyscf does not know xc {config.xc!r} ({first_line(error)}); write a libxc name such as "
                    "PBE, B3LYP, SCAN"
                ) from error
        lines = [f"pyscf {self.settings['version']}: {config.xc}/{config.basis}"]
        for element in elements:
            self._check_element(element)
            lines.append(f"{element}: basis {config.basis}" + (f", {config.pseudo}" if config.pseudo else ""))
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; the log is ``folder/pyscf.log``."""
        if np.all(atoms.pbc):
            solver = self._cell(atoms, folder)
        elif not np.any(atoms.pbc):
            solver = self._molecule(atoms, folder)
        else:
            raise LabelError(
                f"pyscf labels molecules and fully periodic cells, not pbc {atoms.pbc.tolist()}; use gpaw "
                "or espresso, or make the cell periodic along all axes"
            )
        solver.max_cycle = self.config.max_iterations
        if self.config.smearing > 0:
            from pyscf.scf.addons import smearing

            solver = smearing(solver, sigma=self.config.smearing / Hartree, method="fermi")
        try:
            solver.kernel()
            if not solver.converged:
                raise LabelError(
                    f"pyscf did not converge in {self.config.max_iterations} SCF iterations; raise "
                    "labelling.code.max_iterations or smearing"
                )
            gradient = solver.nuc_grad_method()
            if not np.any(atoms.pbc) and hasattr(gradient, "grid_response"):
                gradient.grid_response = True
            forces = -np.asarray(gradient.kernel()) * (Hartree / Bohr)
        except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, ValueError) as error:
            raise LabelError(f"pyscf failed: {first_line(error)}") from error
        energy = solver.e_free if self.config.smearing > 0 else solver.e_tot
        return CodeResult(
            energy=float(energy) * Hartree,
            forces=forces.astype(np.float64).reshape(-1, 3),
            stress=None,
            energy_kind=self.energy_kind,
        )

    def _molecule(self, atoms: Atoms, folder: Path) -> Any:
        from pyscf import dft, gto, scf

        config = self.config
        molecule = self._built(gto.Mole(), atoms, folder)
        unrestricted = config.spin > 0
        if config.xc.upper() == "HF":
            solver = scf.UHF(molecule) if unrestricted else scf.RHF(molecule)
        else:
            solver = dft.UKS(molecule) if unrestricted else dft.RKS(molecule)
            solver.xc = config.xc
        if config.density_fit:
            solver = solver.density_fit()
        solver.conv_tol = CONV_TOL
        return solver

    def _cell(self, atoms: Atoms, folder: Path) -> Any:
        from pyscf.pbc import dft, gto
        from pyscf.pbc.dft import multigrid

        config = self.config
        if config.pseudo is None or config.xc.upper() == "HF" or config.spin or config.charge:
            raise LabelError(
                "pyscf labels periodic cells with a density functional, a GTH basis and pseudopotential, charge and "
                "spin 0: set labelling.code.pseudo (such as gth-pbe) and basis (such as gth-dzvp), not xc "
                f"{config.xc!r}, basis {config.basis!r}, pseudo {config.pseudo!r}, charge {config.charge}, spin "
                f"{config.spin}"
            )
        cell = gto.Cell()
        cell.a = atoms.cell.array
        if config.mesh_cutoff is not None:
            cell.ke_cutoff = config.mesh_cutoff / Hartree
        solver = dft.RKS(self._built(cell, atoms, folder))
        solver.xc = config.xc
        solver._numint = multigrid.MultiGridNumInt2(solver.cell)
        solver.conv_tol = CONV_TOL_CELL
        return solver

    def _built(self, molecule: Any, atoms: Atoms, folder: Path) -> Any:
        config = self.config
        molecule.atom = list(zip(atoms.symbols, atoms.positions.tolist(), strict=True))
        molecule.unit = "Angstrom"
        molecule.basis = config.basis
        molecule.ecp = {element: config.basis for element in set(atoms.symbols) if self._has_core(element)}
        if config.pseudo is not None:
            molecule.pseudo = config.pseudo
        molecule.charge, molecule.spin = config.charge, config.spin
        molecule.verbose, molecule.output = 4, str(folder / "pyscf.log")
        try:
            molecule.build(dump_input=False, parse_arg=False)
        except (KeyError, RuntimeError, ValueError) as error:
            remedy = (
                "an odd number of electrons needs labelling.code.spin 1, 3 ..., an even one 0, 2 ..."
                if "spin" in str(error)
                else "see `ideal-run check`"
            )
            raise LabelError(
                f"pyscf cannot set up {atoms.get_chemical_formula()} with basis {config.basis!r}, charge "
                f"{config.charge}, spin {config.spin} ({first_line(error)}); {remedy}"
            ) from error
        return molecule

    def _has_core(self, element: str) -> bool:
        return self.config.basis.lower().startswith("def2") and atomic_numbers[element] > LAST_LIGHT_DEF2

    def _check_element(self, element: str) -> None:
        from pyscf import gto
        from pyscf.pbc import gto as periodic
        from pyscf.pbc.gto import pseudo

        config = self.config
        load = periodic.basis.load if config.pseudo else gto.basis.load
        try:
            load(config.basis, element)
        except (KeyError, RuntimeError, ValueError, OSError) as error:
            raise LabelError(
                f"pyscf has no basis {config.basis!r} for {element!r} ({first_line(error)}); choose another "
                "labelling.code.basis, such as def2-svp (molecules) or gth-dzvp (cells)"
            ) from error
        if config.pseudo is not None:
            try:
                pseudo.load(config.pseudo, element)
            except (KeyError, RuntimeError, ValueError, OSError) as error:
                raise LabelError(
                    f"pyscf has no pseudopotential {config.pseudo!r} for {element!r} ({first_line(error)}); choose "
                    "another labelling.code.pseudo, such as gth-pbe"
                ) from error
