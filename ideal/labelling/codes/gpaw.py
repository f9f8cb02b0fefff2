"""GPAW: plane waves and PAW (Mortensen et al. 2024, doi:10.1063/5.0182685).

The new implementation (`gpaw.new`) is used: with k-points it is twice as fast as the old one because of time
reversal. Point group symmetry is off: cells cut out of hot matter have none, and shifted grids may lack that of the
cell. The energy is the free energy (that of the smeared electrons), which the forces are the derivative of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import GpawConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError, first_line, installed_version
from ideal.labelling.codes.cells import VACUUM, fully_periodic, has_stress
from ideal.labelling.codes.kpoints import describe_sampling, kpoint_grid

INSTALL = "CC=g++ pip install gpaw"


class GpawCode:
    """GPAW in plane-wave mode.

    Raises:
        MissingPackageError: GPAW or its setups are not installed.

    Example:
        >>> code = GpawCode(GpawConfig(cutoff=200))          # doctest: +SKIP
        >>> code.compute(bulk("Li"), Path("work")).energy    # doctest: +SKIP
        -1.9
    """

    name = "gpaw"
    energy_kind = "free_energy"

    def __init__(self, config: GpawConfig) -> None:
        self.config = config
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": installed_version("gpaw", "labelling with GPAW", INSTALL),
            "setups_version": installed_version("gpaw-data", "labelling with GPAW", INSTALL),
            "vacuum": VACUUM,
            "point_group": False,
            **config.physics(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: reads the PAW setup of each element with the functional."""
        from gpaw.setup import create_setup

        config = self.config
        sampling = describe_sampling(config.kpoint_length)
        lines = [f"GPAW {self.settings['version']}: {config.xc}, plane waves to {config.cutoff:g} eV, {sampling}"]
        for element in elements:
            try:
                setup = create_setup(element, type=config.setups.get(element, "paw"), xc=config.xc)
            except FileNotFoundError as error:
                raise LabelError(
                    f"GPAW has no PAW setup for {element!r} ({first_line(error)}); choose one by "
                    "labelling.code.setups, or add the folder that holds it to GPAW_SETUP_PATH"
                ) from error
            except (NameError, KeyError, ValueError) as error:
                raise LabelError(
                    f"GPAW cannot use xc {config.xc!r} for {element!r} ({first_line(error)}); without libxc it knows "
                    "LDA, PBE, revPBE, RPBE and PW91"
                ) from error
            lines.append(f"{element}: PAW setup with {setup.Nv} valence electrons")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; the log is ``folder/gpaw.txt``."""
        from gpaw import ConvergenceError
        from gpaw.new.ase_interface import GPAW

        config = self.config
        cell = fully_periodic(atoms)
        occupations: dict[str, Any] = {"name": "fermi-dirac", "width": config.smearing}
        mixer = {} if config.mixing is None else {"mixer": {"backend": "pulay", "beta": config.mixing}}
        try:
            cell.calc = GPAW(
                mode={"name": "pw", "ecut": config.cutoff},
                xc=config.xc,
                kpts={"size": kpoint_grid(atoms, config.kpoint_length), "gamma": None},
                occupations=occupations,
                setups=config.setups,
                symmetry={"point_group": False},
                convergence={
                    "density": config.density_tolerance,
                    "eigenstates": config.eigenstates_tolerance,
                },
                # Not the criterion "maximum iterations": that one calls an unconverged density converged.
                maxiter=config.max_iterations,
                **mixer,
                txt=str(folder / "gpaw.txt"),
            )
            energy = cell.get_potential_energy(force_consistent=True)
            # ASE's other energy is extrapolated to no smearing, half the entropy above the free energy.
            entropy = 2 * (cell.get_potential_energy() - energy)
            forces = cell.get_forces(apply_constraint=False)
            stress = cell.get_stress(apply_constraint=False) if has_stress(atoms) else None
        except ConvergenceError as error:
            raise NotConvergedError(
                f"GPAW did not converge in {config.max_iterations} SCF iterations ({first_line(error)}); raise "
                "labelling.code.max_iterations or smearing"
            ) from error
        except FileNotFoundError as error:
            raise LabelError(f"GPAW misses a file: {first_line(error)}; see `ideal-run check`") from error
        return CodeResult(
            energy=float(energy),
            forces=np.array(forces, dtype=np.float64),
            stress=None if stress is None else np.array(stress, dtype=np.float64),
            energy_kind=self.energy_kind,
            converged=True,
            entropy=float(entropy),
        )
