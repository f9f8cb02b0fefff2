"""Molecular dynamics under the bias of a PLUMED input: metadynamics, restraints, walls.

The integrators of `MolecularDynamics` move the atoms by physical forces and bias forces. What the sampler shows as its
atoms has the calculator of the physical surface, so that energies that anyone reads there are the model's. PLUMED is
asked once for every step, however often the model changes meanwhile: a hill is deposited once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from ideal.config import PlumedConfig
from ideal.models.calculator import is_same_structure
from ideal.records import FloatArray
from ideal.samplers.molecular_dynamics import MolecularDynamics
from ideal.samplers.plumed_bias import PlumedBias, cut_back, read_files, sizes, write_files
from ideal.samplers.surface_dynamics import SurfaceDynamics


class PlumedSurface(Calculator):
    """Physical surface plus bias; the bias of the last positions is kept and not evaluated again.

    Args:
        physical: calculator of the surface below.
        lines: of the PLUMED input.
        folder: for PLUMED's files.
        structure: masses, charges and cell.
        timestep: ASE's unit of time.
        thermal_energy: kT in eV.

    Attributes:
        step: number of the step that the next new positions belong to.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]  # type: ignore[misc]

    def __init__(
        self,
        physical: BaseCalculator,
        lines: Sequence[str],
        folder: Path,
        structure: Atoms,
        timestep: float,
        thermal_energy: float,
    ) -> None:
        super().__init__()
        self.physical = physical
        self.folder = folder
        self.step = 0
        self._make = lambda restart: PlumedBias(lines, folder, structure, timestep, thermal_energy, restart)
        self._plumed: PlumedBias | None = None
        self._known: tuple[int, FloatArray, float, FloatArray] | None = None  # step, positions, energy, forces

    @property
    def bias_energy(self) -> float:
        """Of the last positions, eV."""
        return 0.0 if self._known is None else self._known[2]

    def set_physical(self, physical: BaseCalculator) -> None:
        """Take another surface below; the bias of the present positions stays."""
        self.physical = physical
        self.reset()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What differs from the structure last evaluated."""
        return [] if is_same_structure(self.atoms, atoms) else super().check_state(atoms, tol=tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate ``atoms`` (ASE calls this)."""
        super().calculate(atoms, list(properties), list(system_changes))
        structure: Atoms | None = self.atoms
        assert structure is not None
        energy = float(self.physical.get_property("energy", structure))
        forces = np.asarray(self.physical.get_property("forces", structure))
        bias_energy, bias_forces = self._bias(structure.positions, energy)
        total = energy + bias_energy
        self.results = {"energy": total, "free_energy": total, "forces": forces + bias_forces}

    def _bias(self, positions: FloatArray, energy: float) -> tuple[float, FloatArray]:
        if self._known is not None and np.array_equal(positions, self._known[1]):
            return self._known[2], self._known[3]
        if self._plumed is None:
            self._plumed = self._make(self._known is not None)
            if self._known is not None:  # PLUMED deposits nothing at the first step that it sees
                self._plumed.evaluate(self._known[1], self._known[0], 0.0)
        bias_energy, forces = self._plumed.evaluate(positions, self.step, energy)
        self._known = (self.step, positions.copy(), bias_energy, forces)
        return bias_energy, forces

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The bias of the last positions, and PLUMED's files."""
        if self._known is None:
            return {}
        step, positions, energy, forces = self._known
        return {
            "step": step,
            "positions": positions.copy(),
            "energy": energy,
            "forces": forces.copy(),
            "files": read_files(self.folder),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; an empty state is the start."""
        self._end()
        self._known = None
        if state:
            positions, forces = np.array(state["positions"]), np.array(state["forces"])
            self._known = (int(state["step"]), positions, float(state["energy"]), forces)
            write_files(self.folder, state["files"])

    def mark(self) -> tuple[Any, dict[str, int]]:
        """Where PLUMED stands, for `go_back`."""
        return self._known, sizes(self.folder)

    def go_back(self, mark: tuple[Any, dict[str, int]]) -> None:
        """Undo what PLUMED did since `mark`."""
        self._end()
        self._known = mark[0]
        cut_back(self.folder, mark[1])

    def _end(self) -> None:
        self.reset()
        if self._plumed is not None:
            self._plumed.close()
            self._plumed = None


class PlumedDynamics(SurfaceDynamics):
    """One trajectory of molecular dynamics with PLUMED.

    Args:
        atoms: the starting structure; copied with its constraints and momenta.
        calculator: of the physical surface.
        config: dynamics and PLUMED input.
        seed: decides initial velocities and thermostat noise.
        max_temperature: largest instantaneous temperature, K.
        max_force: largest force on a free atom, bias included, eV/Å.
        folder: for PLUMED's files; None: ``NAME.plumed`` in the working folder.
        name: of the trajectory, for messages.

    Raises:
        ConfigError, SamplerError: as `MolecularDynamics`.

    Example:
        >>> lines = ["d: DISTANCE ATOMS=1,2", "METAD ARG=d PACE=50 HEIGHT=1 SIGMA=0.02"]
        >>> dynamics = PlumedDynamics(atoms, calculator, PlumedConfig(input=lines, steps=1000), seed=0)
        >>> dynamics.advance(1000)
        >>> dynamics.observables()
        {'bias_energy': 0.21}
    """

    _surface: PlumedSurface

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: PlumedConfig,
        seed: int,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        folder: Path | None = None,
        name: str = "md",
    ) -> None:
        self.config = config
        place = Path.cwd() / f"{name}.plumed" if folder is None else folder.absolute()
        thermal_energy = units.kB * config.schedule("temperature")[1][0]
        surface = PlumedSurface(calculator, config.input, place, atoms, config.timestep * units.fs, thermal_energy)
        dynamics = MolecularDynamics(atoms, surface, config, seed, max_temperature, max_force, name=name)
        super().__init__(dynamics, surface)

    def observables(self) -> dict[str, float]:
        """The bias energy (eV) at the last step."""
        return {"bias_energy": self._surface.bias_energy}

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when ``config.steps`` is reached before.

        Raises:
            ConfigError: PLUMED is not installed, or refuses the input.
            SamplerError: as `MolecularDynamics.advance`; PLUMED's files are back at the last good step, too.
        """
        for _ in range(n):
            if self.finished:
                return
            self._dynamics.atoms.get_forces()  # of the present step, which PLUMED sees before the next
            mark = self._surface.mark()
            self._surface.step = self.step + 1
            try:
                self._dynamics.advance(1)
            except BaseException:
                self._surface.go_back(mark)
                raise

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future: what `MolecularDynamics.state` holds, the bias, PLUMED's files."""
        return {**self._dynamics.state(), "plumed": self._surface.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            SamplerError: the state belongs to another structure or ensemble.
        """
        self._dynamics.restore(state)
        self._surface.restore(state["plumed"])
