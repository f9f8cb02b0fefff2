"""The configuration of a trajectory: where it starts, and which of all samplers moves it.

A new sampler is one more line in `SamplerConfig` and in `ideal.samplers.make_sampler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from ideal.config_biased import BiasedDynamicsConfig
from ideal.config_dynamics import MolecularDynamicsConfig
from ideal.config_enhanced import PlumedConfig, ReplicaExchangeConfig
from ideal.config_lammps_sampler import LammpsSamplerConfig
from ideal.config_monte_carlo import MonteCarloConfig
from ideal.config_sampler import SamplerSection
from ideal.config_search import DimerConfig, ElasticBandConfig, RelaxationConfig
from ideal.config_section import Section
from ideal.quantities import Force, Temperature


def _kind(value: Any) -> Any:
    """The ``type`` of a sampler; molecular dynamics where none is named."""
    if isinstance(value, Mapping):
        return value.get("type", "molecular_dynamics")
    return getattr(value, "type", "molecular_dynamics")


SamplerConfig = Annotated[
    Annotated[MolecularDynamicsConfig, Tag("molecular_dynamics")]
    | Annotated[BiasedDynamicsConfig, Tag("biased_dynamics")]
    | Annotated[MonteCarloConfig, Tag("monte_carlo")]
    | Annotated[LammpsSamplerConfig, Tag("lammps")]
    | Annotated[RelaxationConfig, Tag("relaxation")]
    | Annotated[ElasticBandConfig, Tag("neb")]
    | Annotated[DimerConfig, Tag("dimer")]
    | Annotated[ReplicaExchangeConfig, Tag("replica_exchange")]
    | Annotated[PlumedConfig, Tag("plumed")],
    Discriminator(_kind),
    Field(description="How the trajectory moves."),
]


class TrajectoryConfig(Section):
    """One trajectory: where it starts and how it moves."""

    name: str = Field("md", pattern=r"^[A-Za-z0-9_.-]+$", description="Name; letters, digits, '_', '.' and '-'.")
    structure: Path = Field(description="Structure file in any format that ASE reads; relative to the YAML file.")
    repeat: tuple[int, int, int] = Field((1, 1, 1), description="Repeat the structure this many times along each axis.")
    sampler: SamplerConfig = Field(default_factory=MolecularDynamicsConfig)
    copies: int = Field(
        1,
        ge=1,
        description="So many trajectories, each with random numbers of its own; a number is put behind the name.",
    )
    temperatures: list[Annotated[Temperature, Field(gt=0)]] = Field(
        default=[],
        description="One trajectory (or so many `copies`) at each of these temperatures (K) instead of the sampler's; "
        "the temperature is put behind the name.",
    )
    code: str | None = Field(
        None, description="Name in labelling.codes of the code that labels its cells; null: as labelling.rules say."
    )
    check_every: int = Field(10, ge=1, description="MD steps between two looks at the uncertainty of every atom.")
    max_temperature: Temperature = Field(
        10000.0, gt=0, description="The run stops the trajectory above this instantaneous temperature (K)."
    )
    max_force: Force = Field(50.0, gt=0, description="The run stops the trajectory above this force (eV/Å).")

    @model_validator(mode="after")
    def _check_repeat(self) -> TrajectoryConfig:
        if min(self.repeat) < 1:
            raise ValueError(f"repeat {self.repeat}: write three integers of at least 1")
        return self

    @model_validator(mode="after")
    def _check_temperatures(self) -> TrajectoryConfig:
        if self.temperatures and "temperature" not in type(self.sampler).model_fields:
            raise ValueError(
                f"temperatures {self.temperatures}: a sampler of type {self.sampler.type} has no one temperature that "
                "they could replace; leave them out"
            )
        names = [f"{value:g}" for value in self.temperatures]
        if len(set(names)) < len(names):
            raise ValueError(
                f"temperatures {self.temperatures}: some are equal, or too near for names of their own; write each "
                "once, and `copies` for several trajectories"
            )
        return self

    def each(self) -> list[TrajectoryConfig]:
        """The trajectories that `copies` and `temperatures` stand for, each with its name.

        Example:
            >>> template = TrajectoryConfig(name="ethanol", structure="ethanol.xyz", copies=2, temperatures=[300, 500])
            >>> [trajectory.name for trajectory in template.each()]
            ['ethanol-300K-1', 'ethanol-300K-2', 'ethanol-500K-1', 'ethanol-500K-2']
        """
        width = len(str(self.copies))
        numbers = [f"-{number:0{width}d}" for number in range(1, self.copies + 1)] if self.copies > 1 else [""]
        samplers = {f"-{value:g}K": self._at(value) for value in self.temperatures} or {"": self.sampler}
        return [
            self.model_copy(
                update={"name": f"{self.name}{at}{number}", "sampler": sampler, "copies": 1, "temperatures": []}
            )
            for at, sampler in samplers.items()
            for number in numbers
        ]

    def _at(self, temperature: float) -> SamplerSection:
        """The sampler at another temperature."""
        return type(self.sampler).model_validate({**dict(self.sampler), "temperature": temperature})
