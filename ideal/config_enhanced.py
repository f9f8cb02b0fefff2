"""The configuration of molecular dynamics that crosses barriers: replica exchange, PLUMED."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ideal.config_dynamics import DynamicsSection
from ideal.config_sampler import SamplerSection
from ideal.quantities import InverseTime, Temperature, Time


class ReplicaExchangeConfig(SamplerSection):
    """Replicas of one structure at several temperatures that exchange configurations; every replica is watched."""

    type: Literal["replica_exchange"] = Field("replica_exchange", description="Kind of sampler.")
    temperatures: list[Annotated[Temperature, Field(gt=0)]] = Field(
        min_length=2, description="Temperatures of the replicas in K, rising."
    )
    exchange_every: int = Field(
        50, ge=1, description="Steps between two attempts; even and odd pairs of neighbors take turns."
    )
    ensemble: Literal["nvt_langevin", "nvt_bussi"] = Field(
        "nvt_langevin", description="nvt_langevin or nvt_bussi (stochastic velocity rescaling)."
    )
    timestep: Time = Field(1.0, gt=0, le=20, description="Time step in fs; mind the hottest replica.")
    friction: InverseTime = Field(0.005, gt=0, description="Langevin friction in 1/fs.")
    thermostat_time: Time = Field(100.0, gt=0, description="Relaxation time of nvt_bussi in fs.")

    @field_validator("temperatures")
    @classmethod
    def _check_order(cls, temperatures: list[float]) -> list[float]:
        if any(upper <= lower for lower, upper in pairwise(temperatures)):
            raise ValueError(f"the temperatures {temperatures} K do not rise; sort them, each once")
        return temperatures

    @property
    def fs_per_step(self) -> float:
        """The time step in fs."""
        return self.timestep

    def thermostat(self) -> tuple[list[float], list[float]]:
        """The lowest temperature, that of the replica which is shown."""
        return [0.0], [self.temperatures[0]]

    def facts(self) -> list[tuple[str, str]]:
        """Temperatures, time step, attempts."""
        return [
            ("Temperatures", ", ".join(f"{value:g}" for value in self.temperatures) + " K"),
            ("Ensemble", self.ensemble),
            ("Time step", f"{self.timestep:g} fs"),
            ("Exchange attempts", f"every {self.exchange_every} steps"),
        ]


class PlumedConfig(DynamicsSection):
    """Molecular dynamics with PLUMED: metadynamics, restraints, walls and whatever else its input says."""

    type: Literal["plumed"] = Field("plumed", description="Kind of sampler.")
    input: list[str] = Field(
        min_length=1,
        description="Lines of PLUMED input in PLUMED's own units (kJ/mol, nm, ps) unless they hold UNITS; a list or "
        "one text. Files are written to `trajectories/NAME.plumed/` of the run.",
    )

    @field_validator("input", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.splitlines() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_ensemble(self) -> PlumedConfig:
        if self.ensemble.startswith("npt"):
            raise ValueError(
                f"{self.ensemble}: the bias acts on the atoms, not on the cell; choose nve, nvt_langevin or nvt_bussi"
            )
        return self

    def facts(self) -> list[tuple[str, str]]:
        """Those of the dynamics, and the input."""
        return [*super().facts(), ("PLUMED input", "; ".join(line.strip() for line in self.input if line.strip()))]
