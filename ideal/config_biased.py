"""The configuration of a bias towards what the model does not know, and of molecular dynamics with one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ideal.config_dynamics import DynamicsSection
from ideal.config_sampler import Element
from ideal.config_section import Section
from ideal.quantities import Force, Temperature


class BiasConfig(Section):
    """The surface E - tau u that drives a sampler to uncertain configurations."""

    strength: float = Field(
        0.1,
        ge=0,
        description="tau_r: size of the bias forces relative to the model's (HAL: 0.05 to 0.25); tau follows from the "
        "norms of the last `window` steps. 0: no bias.",
    )
    tau: float | None = Field(
        None, ge=0, description="A fixed tau in eV per unit of u, instead of `strength`; null: tau follows `strength`."
    )
    stress_strength: float | None = Field(
        None,
        ge=0,
        description="The same for the bias stress, from the norms of stresses, in npt ensembles; null: the tau of the "
        "forces, so that both derive from one energy.",
    )
    u: Literal["p_norm", "mean", "max", "total"] = Field(
        "p_norm",
        description="u of the structure: power mean of the atoms' u with exponent `p`, their mean, the largest, or the "
        "uncertainty's own of the whole structure (committee, gradient features).",
    )
    p: float = Field(2.0, ge=1, description="Exponent of p_norm; 2 is the fastest, more follows the largest.")
    average: Literal["mean", "rms"] = Field(
        "mean", description="How norms are averaged: mean (HAL, eq. 12) or rms (Zaverkin 2024, eq. 8)."
    )
    window: int | None = Field(100, ge=1, description="Steps whose norms count; null: all since the start.")
    burn_in: int = Field(
        100, ge=1, description="Steps without bias at the start, in which the norms of both forces are recorded."
    )
    species: dict[Element, Annotated[float, Field(ge=0)]] = Field(
        default={"H": 0.25},
        description="Factors on the bias forces of these elements; 1 for the others. Other factors than one for all "
        "make the bias forces no gradient of an energy.",
    )
    max_force: Force = Field(
        5.0, gt=0, description="Largest bias force on an atom (eV/Å); where it would be larger, tau is smaller."
    )
    max_temperature: Temperature | None = Field(
        None, gt=0, description="No bias while the instantaneous temperature (K) is above this; null: no limit."
    )

    def facts(self) -> list[tuple[str, str]]:
        """What the report says about it."""
        strength = f"tau_r {self.strength:g}" if self.tau is None else f"tau {self.tau:g} eV"
        return [("Bias", f"{strength}, {self.u} of u")]


class BiasedDynamicsConfig(DynamicsSection):
    """Molecular dynamics in any ensemble that is drawn to what the model does not know (HAL; Zaverkin 2024)."""

    type: Literal["biased_dynamics"] = Field("biased_dynamics", description="Kind of sampler.")
    bias: BiasConfig = Field(default_factory=BiasConfig, description="The bias.")

    def facts(self) -> list[tuple[str, str]]:
        """Ensemble, time step, targets, bias."""
        return super().facts() + self.bias.facts()
