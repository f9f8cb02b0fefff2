"""The configuration of molecular dynamics, and of the samplers that are molecular dynamics with something added."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ideal.config_sampler import PressureOrSchedule, SamplerSection, TemperatureOrSchedule, check_schedule
from ideal.quantities import InverseTime, Temperature, Time, parse_quantity

_FOLLOW_TEMPERATURE = ("nvt_langevin", "nvt_bussi", "npt_berendsen", "npt_proportional")
_FOLLOW_PRESSURE = ("npt_berendsen", "npt_proportional")


class DynamicsSection(SamplerSection):
    """What every sampler that integrates equations of motion has."""

    ensemble: Literal["nve", "nvt_langevin", "nvt_bussi", "npt_berendsen", "npt_mtk", "npt_proportional"] = Field(
        "nvt_langevin",
        description="nve (velocity Verlet), nvt_langevin, nvt_bussi (stochastic velocity rescaling), npt_mtk "
        "(isotropic Martyna-Tobias-Klein, constant target), npt_berendsen (weak coupling, follows any schedule), "
        "npt_proportional (Langevin with a proportional barostat: HAL's, for exploring).",
    )
    timestep: Time = Field(1.0, gt=0, le=20, description="Time step in fs; 0.5 with hydrogen, 1-2 for most solids.")
    steps: int = Field(1000, ge=1, description="Number of time steps.")
    temperature: TemperatureOrSchedule = Field(
        300.0,
        description="Target temperature in K, or a list of {time, value} points joined by straight lines.",
    )
    initial_temperature: Temperature | None = Field(
        None,
        ge=0,
        description="Temperature of the Maxwell-Boltzmann velocities at the start; null: the first target. "
        "Velocities that the structure file carries are kept instead when this is null.",
    )
    friction: InverseTime = Field(
        0.005, gt=0, description="Langevin friction in 1/fs (nvt_langevin, npt_proportional)."
    )
    thermostat_time: Time = Field(100.0, gt=0, description="Relaxation time of the other thermostats in fs.")
    pressure: PressureOrSchedule = Field(
        0.0, description="Target pressure in eV/Å³ (text: '1 GPa'), or a list of {time, value} points."
    )
    barostat_time: Time = Field(1000.0, gt=0, description="Relaxation time of the barostat in fs.")
    compressibility: float = Field(
        14.5,
        gt=0,
        description="Isothermal compressibility for npt_berendsen and npt_proportional in Å³/eV (water: 74; lithium: "
        "14.5; Si: 1.6).",
    )

    @model_validator(mode="after")
    def _check_schedules(self) -> DynamicsSection:
        for name in ("temperature", "pressure"):
            points = getattr(self, name)
            if isinstance(points, list):
                check_schedule(name, points)
        temperatures = self.schedule("temperature")[1]
        if min(temperatures) < 0:
            raise ValueError(f"temperature {min(temperatures):g} K is negative: write values of at least 0")
        if isinstance(self.temperature, list) and self.ensemble not in _FOLLOW_TEMPERATURE:
            raise ValueError(
                f"{self.ensemble} cannot follow a temperature schedule; write one number, or choose an ensemble of "
                f"{', '.join(_FOLLOW_TEMPERATURE)}"
            )
        if isinstance(self.pressure, list) and self.ensemble not in _FOLLOW_PRESSURE:
            raise ValueError(
                f"{self.ensemble} cannot follow a pressure schedule; write one number, or choose the ensemble "
                f"{', '.join(_FOLLOW_PRESSURE)}"
            )
        if self.pressure != 0 and not self.ensemble.startswith("npt"):
            raise ValueError(
                f"{self.ensemble} keeps the volume and cannot hold pressure {self.pressure:g} eV/Å³; remove "
                "`pressure` or "
                "choose npt_berendsen or npt_mtk"
            )
        return self

    @property
    def fs_per_step(self) -> float:
        """The time step in fs."""
        return self.timestep

    def thermostat(self) -> tuple[list[float], list[float]] | None:
        """Times (fs) and targets (K); None in nve."""
        return None if self.ensemble == "nve" else self.schedule("temperature")

    def facts(self) -> list[tuple[str, str]]:
        """Ensemble, time step, targets."""
        facts = [("Ensemble", self.ensemble), ("Time step", f"{self.timestep:g} fs")]
        if thermostat := self.thermostat():
            facts.append(("Target temperature", " → ".join(f"{value:g}" for value in thermostat[1]) + " K"))
        if self.ensemble.startswith("npt"):
            targets = self.schedule("pressure")[1]
            facts.append(("Target pressure", " → ".join(f"{value:g}" for value in targets) + " eV/Å³"))
        return facts

    def schedule(self, name: Literal["temperature", "pressure"]) -> tuple[list[float], list[float]]:
        """Times (fs) and values (K or eV/Å³) of a schedule; one point when it is constant."""
        points = getattr(self, name)
        if not isinstance(points, list):
            return [0.0], [float(points)]
        return [p.time for p in points], [parse_quantity(p.value, name) for p in points]


class MolecularDynamicsConfig(DynamicsSection):
    """ASE molecular dynamics at constant energy, temperature, or temperature and pressure."""

    type: Literal["molecular_dynamics"] = Field("molecular_dynamics", description="Kind of sampler.")
