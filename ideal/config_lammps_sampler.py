"""The configuration of LAMMPS as a sampler: the user's input moves the atoms, the engine watches and learns."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from ideal.config_sampler import Element, SamplerSection

GIVEN = ("data", "seed", "model", "uncertainty", "elements", "boundary", "here", "steps")
"""LAMMPS variables that the sampler sets; a template may use them, `variables` may not."""


class LammpsSamplerConfig(SamplerSection):
    """LAMMPS, driven by an input script of the user's own: its fixes, computes, regions and ramps move the atoms."""

    files: ClassVar[tuple[str, ...]] = ("input", "plugin")

    type: Literal["lammps"] = Field("lammps", description="Kind of sampler.")
    input: Path = Field(
        description="LAMMPS input script. It reads the structure by `read_data ${data}`; its `run` commands say how "
        "many steps are taken with which fixes, and without any `run` it is `steps`. Further variables: "
        "${seed}, ${steps}, ${boundary}, ${here} (its folder), ${model}, ${uncertainty}, ${elements}.",
    )
    steps: int = Field(1000, ge=1, description="Number of steps at most; `run` commands of the input may give fewer.")
    elements: list[Element] | None = Field(
        None, description="Element of each atom type, in order; null: the structure's elements in alphabetic order."
    )
    pair: Literal["ideal", "template"] = Field(
        "ideal",
        description="ideal: the model that is learned moves the atoms, in the place of the input's pair style (a "
        "hybrid with `ideal` and ${model} in it stays); template: the input's own pair style does, and the engine only "
        "watches, labels and learns.",
    )
    score: Literal["lammps", "python"] = Field(
        "lammps",
        description="Where u is evaluated: lammps (by the plugin, on all ranks, before any frame is gathered) or "
        "python (on gathered frames; with `pair: template` it needs no plugin).",
    )
    variables: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], str | float] = Field(
        default={}, description="More LAMMPS variables, as -var on its command line."
    )
    ranks: int = Field(1, ge=1, description="MPI ranks that LAMMPS runs on.")
    launcher: str = Field(
        "mpiexec -n {ranks}", description="What starts more than one rank; split like a shell would, never run by one."
    )
    threads: int = Field(1, ge=1, description="OMP_NUM_THREADS of each rank.")
    address: str | None = Field(
        None, description="Address of this machine as the ranks see it; null: loopback, all ranks are on this machine."
    )
    plugin: Path | None = Field(None, description="idealplugin.so; null: where `ideal-run plugin build` puts it.")

    @model_validator(mode="after")
    def _check(self) -> LammpsSamplerConfig:
        taken = sorted(set(self.variables) & set(GIVEN))
        if taken:
            raise ValueError(f"variables: {taken[0]!r} is set by the sampler ({', '.join(GIVEN)}); choose another name")
        if self.elements is not None and len(set(self.elements)) < len(self.elements):
            # Two atom types of one element would need a rule which atom of the structure has which.
            raise ValueError(f"elements: {self.elements} names an element twice; name each once")
        try:
            words = shlex.split(self.launcher)
        except ValueError as error:
            raise ValueError(f"launcher {self.launcher!r}: {error}; correct the quotes") from None
        if not words or re.search(r"\{(?!ranks\})", self.launcher):
            raise ValueError(f"launcher {self.launcher!r}: write a program, with {{ranks}} for their number")
        return self

    @property
    def needs_plugin(self) -> bool:
        """Whether anything of it is done by the plugin."""
        return self.pair == "ideal" or self.score == "lammps"

    def facts(self) -> list[tuple[str, str]]:
        """The input, who moves the atoms, ranks."""
        moved = "the learned model" if self.pair == "ideal" else "the input's pair style"
        return [("LAMMPS input", self.input.name), ("Forces", moved), ("MPI ranks", str(self.ranks))]
