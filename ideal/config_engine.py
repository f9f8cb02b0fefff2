"""The engine part of the configuration: how the loop is run, and when it ends."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ideal.config_section import Section
from ideal.quantities import Duration, Force


class EngineConfig(Section):
    """How the loop is run."""

    mode: Literal["serial", "lockstep", "concurrent"] = Field(
        "serial",
        description="serial: trajectories take turns in a fixed order; lockstep: all move to their next check "
        "together, their forces evaluated in one batch, and what they ask for is labelled and learned at once; "
        "concurrent: trajectories move on while others wait for labels. In serial and lockstep the same seed gives the "
        "same run.",
    )
    max_labels: int | None = Field(None, ge=0, description="Ask for at most this many labels; null: no limit.")
    restarts: int = Field(
        3,
        ge=0,
        description="A trajectory that leaves the physical range, asks in a frame whose atoms are in contact or whose "
        "forces are too large to learn, or none of whose labels can be calculated, goes back to its last good state, "
        "farther each time, and on from there with other random numbers; so often in a row without getting past the "
        "place. 0: the first fails, and the others go on where they are.",
    )
    batch_atoms: int = Field(
        24,
        ge=0,
        description="Trajectories of at most so many atoms that move together (lockstep, concurrent) have their forces "
        "evaluated in one batch; larger ones gain nothing. 0: none.",
    )
    checkpoint_every: int = Field(
        200, ge=1, description="MD steps between two checkpoints of a trajectory that learns nothing."
    )
    write_every: int = Field(10, ge=1, description="MD steps between two frames in the trajectory file.")


class StopConfig(Section):
    """When the dynamics ends before all steps are taken: the first rule that holds ends it.

    Labels under way are waited for and learned; the last audit and the final training follow as always. Every rule may
    be changed before `ideal-run resume`: a run that was ended by one goes on.
    """

    labels: int | None = Field(None, ge=1, description="Labels of the dynamics that have arrived.")
    force_mae: Force | None = Field(
        None,
        gt=0,
        description="Mean absolute force error (eV/Å) on the validation labels (`dataset.validation_fraction`) after "
        "an update is at most this.",
    )
    steps: int | None = Field(None, ge=1, description="Steps of all trajectories together.")
    wall_time: Duration | None = Field(
        None, gt=0, description="Wall time of all sessions in s (text: '8 h'); makes runs depend on the clock."
    )
    certain_steps: int | None = Field(
        None,
        ge=1,
        description="No atom was uncertain for so many steps on every trajectory that still moves.",
    )
