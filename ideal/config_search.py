"""The configuration of searches on the model's surface: relaxation, elastic bands, the dimer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ideal.config_sampler import SamplerSection
from ideal.quantities import Force, Length, Pressure


class SearchSection(SamplerSection):
    """What every search for a stationary point has; one step is one step of the optimizer."""

    steps: int = Field(500, ge=1, description="Largest number of steps.")
    force_tolerance: Force = Field(
        0.05, gt=0, description="Finished where the largest force is below this (eV/Å); constraints count."
    )
    max_move: Length = Field(0.2, gt=0, le=1, description="Largest move of one step (Å).")

    @property
    def ends_converged(self) -> bool:
        """True: the last frame is what the search is for."""
        return True

    def facts(self) -> list[tuple[str, str]]:
        """The tolerance."""
        return [("Force tolerance", f"{self.force_tolerance:g} eV/Å")]


class RelaxationConfig(SearchSection):
    """Relaxation of the geometry, on request of the cell too."""

    type: Literal["relaxation"] = Field("relaxation", description="Kind of sampler.")
    optimizer: Literal["fire", "bfgs"] = Field(
        "fire", description="fire (robust, any size) or bfgs (fewer steps; below about a thousand atoms)."
    )
    cell: Literal["fixed", "full", "isotropic"] = Field(
        "fixed", description="fixed, full (all strains, Frechet cell filter) or isotropic (volume alone)."
    )
    pressure: Pressure = Field(0.0, description="Pressure that a free cell relaxes to, in eV/Å³ (text: '1 GPa').")
    stress_tolerance: Pressure = Field(
        0.0006,
        gt=0,
        description="A free cell is finished where every component of the stress is nearer than this to the pressure "
        "(eV/Å³; 0.0006 is 0.1 GPa).",
    )

    def facts(self) -> list[tuple[str, str]]:
        """Optimizer, cell, tolerances."""
        facts = [("Optimizer", self.optimizer), ("Cell", self.cell), *super().facts()]
        if self.cell != "fixed":
            facts.append(("Target pressure", f"{self.pressure:g} eV/Å³"))
        return facts


class ElasticBandConfig(SearchSection):
    """Nudged elastic band between the trajectory's structure and another one; every image is watched."""

    files: ClassVar[tuple[str, ...]] = ("final",)

    type: Literal["neb"] = Field("neb", description="Kind of sampler.")
    final: Path = Field(
        description="Structure file of the other end (its last frame): same atoms in the same order, same cell."
    )
    images: int = Field(5, ge=1, le=100, description="Number of images between the two ends.")
    interpolation: Literal["idpp", "linear"] = Field(
        "idpp", description="First path: idpp (image dependent pair potential, no atoms collide) or linear."
    )
    spring: float = Field(0.1, gt=0, description="Spring constant between images in eV/Å².")
    climb: bool = Field(True, description="The highest image climbs to the saddle point.")
    climb_force: Force = Field(
        0.5, gt=0, description="It begins to climb when the largest force on the band is below this (eV/Å)."
    )
    optimizer: Literal["fire", "bfgs"] = Field("fire", description="fire, or bfgs for small systems.")

    def facts(self) -> list[tuple[str, str]]:
        """Images, springs, tolerances."""
        return [("Images", str(self.images)), ("Climbing", "yes" if self.climb else "no"), *super().facts()]


class DimerConfig(SearchSection):
    """Search for a saddle point from one structure: the dimer follows the softest mode uphill."""

    type: Literal["dimer"] = Field("dimer", description="Kind of sampler.")
    max_move: Length = Field(0.1, gt=0, le=1, description="Largest move of one step (Å).")
    displacement: Length = Field(
        0.1, gt=0, description="Standard deviation of the random displacement at the start (Å)."
    )
    center: int | None = Field(
        None, ge=0, description="Displace only atoms around this one (index); null: every atom that may move."
    )
    radius: Length = Field(4.0, gt=0, description="Those at most this far (Å) from `center`.")
    separation: Length = Field(0.01, gt=0, le=0.5, description="Distance of the dimer's ends from its middle (Å).")
    rotations: int = Field(4, ge=1, description="Largest number of rotations in one step.")

    def facts(self) -> list[tuple[str, str]]:
        """Where it starts, tolerances."""
        where = "everywhere" if self.center is None else f"{self.radius:g} Å around atom {self.center}"
        return [("Displaced at the start", f"{self.displacement:g} Å {where}"), *super().facts()]
