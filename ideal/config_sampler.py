"""The common part of all samplers' configuration: number of steps, fixed atoms, schedules."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, StringConstraints, Tag

from ideal.config_section import Section
from ideal.quantities import Pressure, Temperature, Time, parse_quantity

Element = Annotated[str, StringConstraints(pattern=r"^[A-Z][a-z]?$")]


class SchedulePoint(Section):
    """One corner of a piecewise linear schedule."""

    time: Time = Field(ge=0, description="Simulated time (fs, or text such as '2 ps').")
    value: float | str = Field(description="Value at that time, in the unit of the quantity scheduled.")


def check_schedule(name: str, points: list[SchedulePoint]) -> None:
    """Refuse a schedule that is empty, out of order, or has a value that is no quantity.

    Raises:
        ValueError: with the name of the schedule and the remedy.
    """
    if not points:
        raise ValueError(f"{name}: an empty schedule; write a number or at least one {{time, value}} point")
    times = [point.time for point in points]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"{name}: the times {times} fs do not increase; sort the points by time")
    for position, point in enumerate(points):
        try:
            parse_quantity(point.value, name)
        except ValueError as error:
            raise ValueError(f"{name}.{position}.value: {error}") from None


def _is_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, list | dict) else "number"


TemperatureOrSchedule = Annotated[
    Annotated[Temperature, Tag("number")] | Annotated[list[SchedulePoint], Tag("schedule")],
    Discriminator(_is_schedule),
]
PressureOrSchedule = Annotated[
    Annotated[Pressure, Tag("number")] | Annotated[list[SchedulePoint], Tag("schedule")], Discriminator(_is_schedule)
]


class SamplerSection(Section):
    """What the configuration of every sampler has, and what engine, status and report ask of it.

    Attributes:
        files: keys whose values are files that must exist; relative to the YAML file.
    """

    files: ClassVar[tuple[str, ...]] = ()

    type: str = Field(description="Kind of sampler.")
    steps: int = Field(1000, ge=1, description="Number of steps.")
    fix_atoms: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="Indices of atoms that never move (added to constraints in the structure file).",
    )

    @property
    def ends_converged(self) -> bool:
        """Whether the last frame is what the sampler is for; then it may ask however recently it has learned."""
        return False

    @property
    def fs_per_step(self) -> float:
        """Simulated time of one step in fs; 0 where a step takes no time."""
        return 0.0

    def thermostat(self) -> tuple[list[float], list[float]] | None:
        """Times (fs) and targets (K) of the temperature that is kept; None where none is."""
        return None

    def facts(self) -> list[tuple[str, str]]:
        """What the report says about it, as names and values."""
        return []
