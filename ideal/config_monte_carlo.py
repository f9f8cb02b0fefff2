"""The configuration of Monte Carlo moves, alone or between blocks of molecular dynamics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ideal.config_biased import BiasConfig
from ideal.config_sampler import SamplerSection
from ideal.config_section import Section
from ideal.quantities import Length, Pressure, Temperature


class MovesConfig(Section):
    """How often each move is tried, relative to the others, and how large it is at first."""

    displacement: float = Field(1.0, ge=0, description="Weight of moving one atom.")
    volume: float = Field(0.0, ge=0, description="Weight of scaling the cell with its atoms, at constant `pressure`.")
    shape: float = Field(0.0, ge=0, description="Weight of shearing or stretching the cell at constant volume.")
    swap: float = Field(0.0, ge=0, description="Weight of exchanging two atoms of different elements.")
    hop: float = Field(0.0, ge=0, description="Weight of moving an atom into a vacancy.")
    displacement_step: Length = Field(0.1, gt=0, description="Largest displacement along each axis (Å).")
    volume_step: float = Field(0.02, gt=0, lt=1, description="Largest change of ln(volume).")
    shape_step: float = Field(0.01, gt=0, lt=0.5, description="Largest strain of a shape move.")
    hop_radius: Length = Field(3.5, gt=0, description="Atoms at most so far (Å) from a vacancy may hop into it.")
    swap_elements: tuple[str, str] | None = Field(
        None, description="Only exchange atoms of these two elements, such as [Al, Ni]; null: any two."
    )

    @model_validator(mode="after")
    def _check_weights(self) -> MovesConfig:
        if not any((self.displacement, self.volume, self.shape, self.swap, self.hop)):
            raise ValueError("all weights are 0; give at least one of displacement, volume, shape, swap and hop")
        return self


class MonteCarloConfig(SamplerSection):
    """Metropolis Monte Carlo on the model's surface or a biased one; one step is one trial move."""

    type: Literal["monte_carlo"] = Field("monte_carlo", description="Kind of sampler.")
    temperature: Temperature = Field(300.0, gt=0, description="Temperature in K.")
    pressure: Pressure = Field(0.0, description="Pressure of volume and shape moves in eV/Å³ (text: '1 GPa').")
    moves: MovesConfig = Field(default_factory=MovesConfig, description="The trial moves.")
    burn_in: int = Field(
        1000,
        ge=0,
        description="Steps in which step sizes adapt to `acceptance`; afterwards they stay (detailed balance).",
    )
    acceptance: float = Field(0.4, gt=0, lt=1, description="Share of accepted moves that step sizes aim at.")
    bias: BiasConfig | None = Field(None, description="Bias to uncertain configurations; null: none.")

    def thermostat(self) -> tuple[list[float], list[float]]:
        """The one temperature."""
        return [0.0], [self.temperature]
