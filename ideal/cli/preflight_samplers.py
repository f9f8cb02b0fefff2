"""What `ideal-run check` asks of samplers that have files or programs of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ideal.config import Config, ElasticBandConfig, LammpsSamplerConfig, PlumedConfig, TrajectoryConfig

if TYPE_CHECKING:
    from ase import Atoms


def sampler_findings(
    trajectory: TrajectoryConfig, atoms: Atoms, config: Config
) -> Iterator[tuple[Literal["ok", "warning", "problem"], str, str]]:
    """Level, topic and text of every finding about the sampler of a trajectory.

    Args:
        trajectory: its configuration.
        atoms: its structure, repeated.
        config: the run's configuration.

    Raises:
        ConfigError: the run would fail.
    """
    sampler, name = trajectory.sampler, trajectory.name
    if isinstance(sampler, ElasticBandConfig):
        from ideal.dataset.files import read_structures
        from ideal.samplers.structures import check_ends

        final = read_structures(sampler.final)[-1].repeat(trajectory.repeat)
        check_ends(atoms, final, name)
        yield "ok", f"path {name}", f"{sampler.final.name} is another arrangement of the same atoms"
    if isinstance(sampler, PlumedConfig):
        from ideal.samplers.plumed_bias import preview

        preview(sampler.input, atoms)
        yield "ok", f"PLUMED {name}", "takes the input"
    if isinstance(sampler, LammpsSamplerConfig):
        from ideal.samplers.lammps_input import preview as preview_lammps

        for level, text in preview_lammps(sampler, atoms, config.model):
            yield level, f"LAMMPS {name}", text
