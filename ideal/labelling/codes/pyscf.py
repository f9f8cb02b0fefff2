"""pyscf (Sun et al. 2020, doi:10.1063/5.0006074): molecules with any functional up to CCSD(T), and periodic cells.

Molecules: (un)restricted Kohn-Sham or Hartree-Fock with density fitting; the gradient holds the response of the
integration grid, so that net forces vanish. MP2, CCSD and CCSD(T) correlate all electrons of a Hartree-Fock solution
without density fitting, with analytic gradients. Cells: restricted Kohn-Sham with GTH pseudopotentials, at Gamma with
multigrid density, at k-points without it (minutes even for two atoms). Stress only where it is asked for: it costs
several times the label. With smearing, the energy is the free energy. pyscf does not raise when it does not converge;
this adapter does.
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
from ideal.labelling.codes.base import CodeResult, NotConvergedError, first_line, installed_version
from ideal.labelling.codes.kpoints import kpoint_grid
from ideal.records import FloatArray

CORRELATED = ("MP2", "CCSD", "CCSD(T)")
"""Values of `xc` that start from Hartree-Fock."""
CONV_TOL = 1e-9
"""SCF convergence, Hartree."""
CONV_TOL_CELL = 1e-8
CONV_TOL_AMPLITUDES = 1e-7
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
        if config.xc.upper() not in ("HF", *CORRELATED):
            try:
                dft.libxc.parse_xc(config.xc)
            except (KeyError, ValueError) as error:
                raise LabelError(
                    f"pyscf does not know xc {config.xc!r} ({first_line(error)}); write a libxc name such as "
                    f"PBE, B3LYP, SCAN, or HF, {', '.join(CORRELATED)}"
                ) from error
        lines = [f"pyscf {self.settings['version']}: {config.xc}/{config.basis}"]
        for element in elements:
            self._check_element(element)
            lines.append(f"{element}: basis {config.basis}" + (f", {config.pseudo}" if config.pseudo else ""))
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; the log is ``folder/pyscf.log``."""
        try:
            if np.all(atoms.pbc):
                return self._compute_cell(atoms, folder)
            if not np.any(atoms.pbc):
                return self._compute_molecule(atoms, folder)
        except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, ValueError) as error:
            raise LabelError(f"pyscf failed: {first_line(error)}") from error
        raise LabelError(
            f"pyscf labels molecules and fully periodic cells, not pbc {atoms.pbc.tolist()}; use gpaw "
            "or espresso, or make the cell periodic along all axes"
        )

    def _compute_molecule(self, atoms: Atoms, folder: Path) -> CodeResult:
        from pyscf import dft, gto, scf

        config = self.config
        method = config.xc.upper()
        molecule = self._built(gto.Mole(), atoms, folder)
        unrestricted = config.spin > 0
        if method == "HF" or method in CORRELATED:
            solver = scf.UHF(molecule) if unrestricted else scf.RHF(molecule)
        else:
            solver = dft.UKS(molecule) if unrestricted else dft.RKS(molecule)
            solver.xc = config.xc
        if config.density_fit and method not in CORRELATED:
            solver = solver.density_fit()
        solver.conv_tol = CONV_TOL
        solver = self._solve(solver)
        if method in CORRELATED:
            energy, gradient = self._correlated(solver, method)
        else:
            method_gradient = solver.nuc_grad_method()
            if hasattr(method_gradient, "grid_response"):
                method_gradient.grid_response = True
            energy, gradient = self._energy(solver), method_gradient.kernel()
        return self._result(solver, energy, gradient, None)

    def _compute_cell(self, atoms: Atoms, folder: Path) -> CodeResult:
        from pyscf.pbc import dft, gto
        from pyscf.pbc.dft import multigrid

        config = self.config
        if config.pseudo is None or config.xc.upper() in ("HF", *CORRELATED) or config.spin or config.charge:
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
        cell = self._built(cell, atoms, folder)
        grid = kpoint_grid(atoms, config.kpoint_length)
        gamma = grid == (1, 1, 1)
        solver = dft.RKS(cell) if gamma else dft.KRKS(cell, cell.make_kpts(grid))
        solver.xc = config.xc
        if gamma:
            solver._numint = multigrid.MultiGridNumInt2(cell)
        solver.conv_tol = CONV_TOL_CELL
        solver = self._solve(solver, periodic=not gamma)
        gradient = solver.nuc_grad_method()
        forces = gradient.kernel()
        stress = None
        if config.stress:
            if gamma:  # the multigrid has no stress: the same orbitals on the plain grid have
                from pyscf.pbc.grad.rks import Gradients

                plain = dft.RKS(cell)
                plain.xc = config.xc
                plain.mo_coeff, plain.mo_occ, plain.mo_energy = solver.mo_coeff, solver.mo_occ, solver.mo_energy
                gradient = Gradients(plain)
            tensor = np.asarray(gradient.get_stress()) * (Hartree / Bohr**3)
            tensor = 0.5 * (tensor + tensor.T)
            stress = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return self._result(solver, self._energy(solver), forces, stress)

    def _solve(self, solver: Any, periodic: bool = False) -> Any:
        """Run an SCF; the solver of the smeared problem where there is smearing."""
        config = self.config
        solver.max_cycle = config.max_iterations
        if config.damping:
            solver.damp = config.damping
        if config.smearing > 0:
            if periodic:
                from pyscf.pbc.scf.addons import smearing
            else:
                from pyscf.scf.addons import smearing
            solver = smearing(solver, sigma=config.smearing / Hartree, method="fermi")
        solver.kernel()
        if not solver.converged:
            raise NotConvergedError(
                f"pyscf did not converge in {config.max_iterations} SCF iterations; raise "
                "labelling.code.max_iterations or smearing"
            )
        return solver

    def _correlated(self, solver: Any, method: str) -> tuple[float, Any]:
        """Energy (hartree) and gradient (hartree/bohr) of MP2 or coupled cluster on top of Hartree-Fock."""
        if self.config.smearing > 0:
            raise LabelError(f"{method} needs integer occupations: set labelling.code.smearing to 0")
        if method == "CCSD(T)" and self.config.spin > 0:
            raise LabelError("pyscf's gradient of open-shell CCSD(T) is wrong by up to 0.06 eV/Å; use CCSD, or spin 0")
        if method == "MP2":
            correlated = solver.MP2().run()
            return float(correlated.e_tot), correlated.nuc_grad_method().kernel()
        correlated = solver.CCSD()
        correlated.max_cycle = self.config.max_iterations
        correlated.conv_tol, correlated.conv_tol_normt = CONV_TOL, CONV_TOL_AMPLITUDES
        correlated.kernel()
        if not correlated.converged:
            raise NotConvergedError(
                f"pyscf's CCSD did not converge in {self.config.max_iterations} iterations; raise "
                "labelling.code.max_iterations; stretched bonds may need another method"
            )
        if method == "CCSD":
            return float(correlated.e_tot), correlated.nuc_grad_method().kernel()
        from pyscf.cc import ccsd_t_lambda
        from pyscf.grad.ccsd_t import Gradients

        integrals = correlated.ao2mo()
        triples = correlated.ccsd_t(eris=integrals)
        # Without the triples' own Lambda amplitudes, the gradient is silently wrong (by 0.002 eV/Å in water).
        converged, l1, l2 = ccsd_t_lambda.kernel(
            correlated, integrals, correlated.t1, correlated.t2, max_cycle=self.config.max_iterations, tol=CONV_TOL
        )
        if not converged:
            raise NotConvergedError(
                f"pyscf's Lambda equations did not converge in {self.config.max_iterations} iterations; raise "
                "labelling.code.max_iterations"
            )
        gradient = Gradients(correlated).kernel(correlated.t1, correlated.t2, l1, l2, integrals)
        return float(correlated.e_tot + triples), gradient

    def _energy(self, solver: Any) -> float:
        return float(solver.e_free if self.config.smearing > 0 else solver.e_tot)

    def _result(self, solver: Any, energy: float, gradient: Any, stress: FloatArray | None) -> CodeResult:
        smeared = self.config.smearing > 0
        return CodeResult(
            energy=energy * Hartree,
            forces=-np.asarray(gradient, dtype=np.float64).reshape(-1, 3) * (Hartree / Bohr),
            stress=stress,
            energy_kind=self.energy_kind,
            converged=True,
            entropy=float(solver.e_tot - solver.e_free) * Hartree if smeared else None,
        )

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
