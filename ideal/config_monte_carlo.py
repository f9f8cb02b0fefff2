"""The configuration of Monte Carlo moves, alone or between blocks of molecular dynamics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ideal.config_biased import BiasConfig
from ideal.config_sampler import SamplerSection
from ideal.config_section import Section
from ideal.quantities import InverseTime, Length, Pressure, Temperature, Time

MOVES = ("displacement", "volume", "shape", "swap", "hop")


class MovesConfig(Section):
    """How often each trial move is made, relative to the others, and how large it is at first."""

    displacement: float = Field(1.0, ge=0, description="Weight of moving atoms.")
    volume: float = Field(0.0, ge=0, description="Weight of scaling the cell with its atoms, at constant `pressure`.")
    shape: float = Field(0.0, ge=0, description="Weight of stretching and shearing the cell at constant volume.")
    swap: float = Field(0.0, ge=0, description="Weight of exchanging two atoms of different elements.")
    hop: float = Field(0.0, ge=0, description="Weight of moving an atom into a vacancy.")
    displacement_step: Length = Field(0.1, gt=0, le=2, description="Largest displacement along each axis (Å).")
    displaced_atoms: int | None = Field(1, ge=1, description="Atoms that one displacement moves; null: all.")
    volume_step: float = Field(0.02, gt=0, le=0.3, description="Largest change of ln(volume).")
    shape_step: float = Field(0.01, gt=0, le=0.1, description="Largest strain of a shape move.")
    swap_elements: tuple[str, str] | None = Field(
        None, description="Exchange only atoms of these two elements, such as [Al, Ni]; null: any two."
    )
    vacancies: list[tuple[float, float, float]] = Field(
        default=[],
        description="Fractional coordinates of the empty sites of the starting structure (after `repeat`); its atoms "
        "mark the others.",
    )
    hop_radius: Length = Field(3.5, gt=0, description="Atoms at most so far (Å) from a vacancy may hop into it.")
    core: float = Field(
        0.6,
        ge=0,
        lt=1,
        description="Moves that bring two atoms nearer than this multiple of the sum of their covalent radii are "
        "refused; models know nothing of such places.",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> MovesConfig:
        if not any(getattr(self, move) for move in MOVES):
            raise ValueError(f"every weight is 0, nothing moves; give at least one of {', '.join(MOVES)}")
        if bool(self.hop) != bool(self.vacancies):
            raise ValueError("`hop` and `vacancies` go together; write both or none")
        return self


class BlocksConfig(Section):
    """Blocks of molecular dynamics (nvt_langevin) between blocks of trial moves; both count as steps."""

    trials: int = Field(10, ge=1, description="Trial moves in a row.")
    steps: int = Field(100, ge=1, description="Time steps in a row.")
    timestep: Time = Field(1.0, gt=0, le=20, description="Time step in fs.")
    friction: InverseTime = Field(0.005, gt=0, description="Langevin friction in 1/fs.")


class MonteCarloConfig(SamplerSection):
    """Metropolis Monte Carlo on the model's surface or a biased one; one step is one trial move."""

    type: Literal["monte_carlo"] = Field("monte_carlo", description="Kind of sampler.")
    temperature: Temperature = Field(300.0, gt=0, description="Temperature in K.")
    pressure: Pressure = Field(0.0, description="Pressure against volume moves in eV/Å³ (text: '1 GPa').")
    moves: MovesConfig = Field(default_factory=MovesConfig, description="The trial moves.")
    dynamics: BlocksConfig | None = Field(None, description="Molecular dynamics between the moves; null: moves alone.")
    burn_in: int = Field(
        1000, ge=0, description="Steps in which step sizes adapt to `acceptance`; afterwards they stay as they are."
    )
    acceptance: float = Field(0.4, gt=0, lt=1, description="Share of accepted moves that step sizes aim at.")
    bias: BiasConfig | None = Field(
        None, description="Bias to uncertain configurations; null: none. Without dynamics tau stays after its burn-in."
    )

    @property
    def fs_per_step(self) -> float:
        """Simulated time of one step in fs, on average."""
        blocks = self.dynamics
        return 0.0 if blocks is None else blocks.timestep * blocks.steps / (blocks.steps + blocks.trials)

    def thermostat(self) -> tuple[list[float], list[float]]:
        """The one temperature."""
        return [0.0], [self.temperature]

    def facts(self) -> list[tuple[str, str]]:
        """Moves, temperature, pressure."""
        moves = ", ".join(f"{name} {getattr(self.moves, name):g}" for name in MOVES if getattr(self.moves, name))
        facts = [("Monte Carlo moves", moves), ("Temperature", f"{self.temperature:g} K")]
        if self.moves.volume:
            facts.append(("Pressure", f"{self.pressure:g} eV/Å³"))
        if self.dynamics is not None:
            facts.append(("Dynamics", f"{self.dynamics.steps} steps after {self.dynamics.trials} moves"))
        return facts + (self.bias.facts() if self.bias is not None else [])
