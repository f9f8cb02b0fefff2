"""ASE's integrators behind one small interface: targets that follow a schedule, internal variables as arrays.

| ensemble | integrator | source |
| --- | --- | --- |
| nve | velocity Verlet | Swope et al., 10.1063/1.442716 |
| nvt_langevin | Langevin, Eq. 23 of Vanden-Eijnden and Ciccotti | 10.1016/j.cplett.2006.07.086 |
| nvt_bussi | stochastic velocity rescaling | 10.1063/1.2408420 |
| npt_berendsen | weak coupling; two force evaluations per step | 10.1063/1.448118 |
| npt_mtk | isotropic Martyna-Tobias-Klein with Nose-Hoover chains | 10.1063/1.467468 |
| npt_proportional | Langevin with a proportional barostat, for exploring | 10.1038/s41524-023-01104-6 |

A system without constraints keeps its center of mass at rest: the Langevin noise is projected onto the
internal degrees of freedom (exact, see `InternalNoise`), and the other thermostats count n_dof = 3N - 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from ideal.config import DynamicsSection
from ideal.errors import SamplerError
from ideal.records import FloatArray
from ideal.samplers.velocities import is_free


class InternalNoise:
    """Normal random numbers that leave the center of mass alone.

    In mass-weighted coordinates Langevin noise is isotropic. Its component along the translations s_i =
    sqrt(m_i / M) is projected out, xi_i -= s_i (sum_j s_j xi_j); the rest is exactly the noise of the 3N - 3
    internal degrees of freedom.

    Example:
        >>> noise = InternalNoise(np.random.default_rng(0), np.array([1.0, 16.0]))
        >>> xi = noise.standard_normal(size=(2, 3))
        >>> bool(abs(xi[0] + 4 * xi[1]).max() < 1e-12)
        True
    """

    def __init__(self, rng: np.random.Generator, masses: FloatArray) -> None:
        self._rng = rng
        self._translation = np.sqrt(masses / masses.sum())

    def standard_normal(self, size: tuple[int, int]) -> FloatArray:
        """(n_atoms, 3) numbers; called by ASE's integrator."""
        noise = self._rng.standard_normal(size=size)
        return noise - self._translation[:, None] * (self._translation @ noise)


class Integrator:
    """Velocity Verlet at constant energy, and the interface of the other ensembles."""

    def __init__(
        self, atoms: Atoms, config: DynamicsSection, rng: np.random.Generator, degrees_of_freedom: int
    ) -> None:
        self.atoms = atoms
        self.degrees_of_freedom = degrees_of_freedom
        self.timestep = config.timestep * units.fs
        self._build(config, rng)

    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        self._verlet = VelocityVerlet(self.atoms, self.timestep)

    def step(self) -> None:
        """Take one step."""
        self._verlet.step()

    def set_targets(self, temperature: float, pressure: float) -> None:
        """Follow a schedule: K and eV/Å³; ignored by ensembles without such a target."""

    def variables(self) -> dict[str, FloatArray]:
        """Internal variables of thermostat and barostat, copied."""
        return {}

    def set_variables(self, variables: Mapping[str, FloatArray]) -> None:
        """Set what `variables` returned; positions, momenta and cell of the atoms are already set."""


class _Langevin(Integrator):
    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        noise = InternalNoise(rng, self.atoms.get_masses()) if is_free(self.atoms) else rng
        self._langevin = Langevin(
            self.atoms,
            self.timestep,
            temperature_K=config.schedule("temperature")[1][0],
            friction=config.friction / units.fs,
            fixcm=False,
            rng=noise,
        )

    def step(self) -> None:
        self._langevin.step()

    def set_targets(self, temperature: float, pressure: float) -> None:
        if self._langevin.temp != units.kB * temperature:
            self._langevin.set_temperature(temperature_K=temperature)


class _Proportional(_Langevin):
    """Langevin dynamics in a cell that yields to the pressure: before each step all lengths are scaled by

        1 + dt kappa (P - P_target) / (3 tau),    at most 0.1 % of change.

    The mean pressure reaches the target; the fluctuations of the volume are not those of an ensemble. The step takes
    the forces from before the scaling, of which it is a small part, and so costs one evaluation.
    """

    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        _require_periodic(self.atoms, config.ensemble)
        super()._build(config, rng)
        self._pressure = config.schedule("pressure")[1][0]
        self._response = config.timestep / config.barostat_time * config.compressibility / 3

    def step(self) -> None:
        forces = self.atoms.get_forces(md=True)
        pressure = -float(self.atoms.get_stress(include_ideal_gas=True)[:3].mean())
        strain = np.clip(self._response * (pressure - self._pressure), -1e-3, 1e-3)
        self.atoms.set_cell(self.atoms.cell.array * (1 + strain), scale_atoms=True)
        self._langevin.step(forces)

    def set_targets(self, temperature: float, pressure: float) -> None:
        super().set_targets(temperature, pressure)
        self._pressure = pressure


class _Bussi(Integrator):
    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        if self.atoms.get_kinetic_energy() <= 1e-12:
            raise SamplerError(
                "nvt_bussi rescales velocities and cannot start from 0 K: set initial_temperature above 0, "
                "or use nvt_langevin"
            )
        self._bussi = Bussi(
            self.atoms,
            self.timestep,
            temperature_K=config.schedule("temperature")[1][0],
            taut=config.thermostat_time * units.fs,
            rng=rng,
        )
        self._bussi.ndof = self.degrees_of_freedom

    def step(self) -> None:
        self._bussi.step()

    def set_targets(self, temperature: float, pressure: float) -> None:
        self._bussi.temp = units.kB * temperature
        self._bussi.target_kinetic_energy = 0.5 * self._bussi.temp * self.degrees_of_freedom

    def variables(self) -> dict[str, FloatArray]:
        return {"transferred_energy": np.array([self._bussi.transferred_energy])}

    def set_variables(self, variables: Mapping[str, FloatArray]) -> None:
        self._bussi.transferred_energy = float(variables["transferred_energy"][0])


class _Berendsen(Integrator):
    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        _require_periodic(self.atoms, config.ensemble)
        if self.atoms.get_kinetic_energy() <= 1e-12:
            raise SamplerError(
                "npt_berendsen rescales velocities and cannot start from 0 K: set initial_temperature above 0"
            )
        # ASE holds the temperature counted with all degrees of freedom.
        self._scale = self.degrees_of_freedom / self.atoms.get_number_of_degrees_of_freedom()
        self._berendsen = NPTBerendsen(
            self.atoms,
            self.timestep,
            temperature_K=config.schedule("temperature")[1][0] * self._scale,
            pressure_au=config.schedule("pressure")[1][0],
            taut=config.thermostat_time * units.fs,
            taup=config.barostat_time * units.fs,
            compressibility_au=config.compressibility,
            fixcm=is_free(self.atoms),
        )

    def step(self) -> None:
        self._berendsen.step()

    def set_targets(self, temperature: float, pressure: float) -> None:
        self._berendsen.temperature = temperature * self._scale
        self._berendsen.pressure = pressure


class _MartynaTobiasKlein(Integrator):
    def _build(self, config: DynamicsSection, rng: np.random.Generator) -> None:
        _require_periodic(self.atoms, config.ensemble)
        if self.atoms.constraints:
            kinds = ", ".join(sorted({type(constraint).__name__ for constraint in self.atoms.constraints}))
            raise SamplerError(
                f"npt_mtk cannot keep constraints ({kinds}): remove them or use npt_berendsen, nvt_langevin "
                "or nvt_bussi"
            )
        target = config.schedule("temperature")[1][0]
        if target <= 0:
            raise SamplerError(f"npt_mtk needs a temperature above 0 K, got {target}: raise sampler.temperature")
        # ASE's chains hold 3N kT / 2 in all; the center of mass is at rest, so that n_dof share it.
        scale = self.degrees_of_freedom / (3 * len(self.atoms))
        self._mtk = IsotropicMTKNPT(
            self.atoms,
            self.timestep,
            temperature_K=target * scale,
            pressure_au=config.schedule("pressure")[1][0],
            tdamp=config.thermostat_time * units.fs,
            pdamp=config.barostat_time * units.fs,
        )

    def step(self) -> None:
        self._mtk.step()

    def variables(self) -> dict[str, FloatArray]:
        mtk = self._mtk
        return {
            "eta": mtk._thermostat._eta.copy(),
            "p_eta": mtk._thermostat._p_eta.copy(),
            "xi": mtk._barostat._xi.copy(),
            "p_xi": mtk._barostat._p_xi.copy(),
            "volume": np.array([mtk._eps, mtk._p_eps, mtk._volume0], dtype=np.float64),
            "cell0": mtk._cell0.copy(),
        }

    def set_variables(self, variables: Mapping[str, FloatArray]) -> None:
        mtk = self._mtk
        mtk._thermostat._eta = np.array(variables["eta"])
        mtk._thermostat._p_eta = np.array(variables["p_eta"])
        mtk._barostat._xi = np.array(variables["xi"])
        mtk._barostat._p_xi = np.array(variables["p_xi"])
        mtk._eps, mtk._p_eps, mtk._volume0 = (float(value) for value in variables["volume"])
        mtk._cell0 = np.array(variables["cell0"])
        mtk._q = self.atoms.get_positions()
        mtk._p = self.atoms.get_momenta()


INTEGRATORS: dict[str, type[Integrator]] = {
    "nve": Integrator,
    "nvt_langevin": _Langevin,
    "nvt_bussi": _Bussi,
    "npt_berendsen": _Berendsen,
    "npt_mtk": _MartynaTobiasKlein,
    "npt_proportional": _Proportional,
}


def _require_periodic(atoms: Atoms, ensemble: str) -> None:
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise SamplerError(
            f"{ensemble} changes the volume and needs a cell periodic along all three axes, got pbc "
            f"{atoms.pbc.tolist()}: use nve, nvt_langevin or nvt_bussi"
        )
