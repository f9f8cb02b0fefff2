"""LAMMPS at work for one trajectory: which commands it gets, and when; what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from ideal.errors import ConfigError, SamplerError
from ideal.lammps.ranks import LammpsError, Ranks
from ideal.lammps.template import Command
from ideal.models.base import Potential
from ideal.samplers.lammps_frames import boundary, by_id, frame, group_commands, write_structure
from ideal.samplers.lammps_input import LammpsInput
from ideal.uncertainty.mahalanobis import SoapMahalanobis

U, KINETIC, FIXED = "ideal_u", "ideal_ke", "ideal_fixed"
"""Ids of what is put between the script's own: computes with u and the kinetic energy, group and fix of fixed atoms."""
RANGE_REMEDY = "shorten the timestep, start from a relaxed structure or check that the model knows such environments"

_MODEL, _UNCERTAINTY = "model/model.safetensors", "uncertainty.safetensors"
_SKIN = "2.0"  # LAMMPS' default in metal and real
_REMEDIES = {
    "Lost atoms": RANGE_REMEDY,
    "Non-numeric": RANGE_REMEDY,
    "not finite": RANGE_REMEDY,
    "Unrecognized pair style 'ideal'": "build the plugin: ideal-run plugin build",
}


class Learned(NamedTuple):
    """What LAMMPS loads of what the run has learned.

    Attributes:
        potential: moves the atoms; None where the script's own pair style does.
        uncertainty: evaluated by the plugin; None where it is not.
    """

    potential: Potential | None
    uncertainty: SoapMahalanobis | None


class Session:
    """LAMMPS in processes of its own, from their start to their end.

    Args:
        source: script and structure.
        folder: where LAMMPS works; made when missing.
        seed: ``${seed}`` of the script.
        learned: model and distribution.

    Raises:
        SamplerError: LAMMPS does not start, or the plugin does not fit it.

    Example:
        >>> session = Session(source, Path("lammps"), 1, learned)          # doctest: +SKIP
        >>> session.begin()                                               # doctest: +SKIP
        >>> session.enter(0)                                              # doctest: +SKIP
        >>> session.run("100")                                            # doctest: +SKIP
    """

    def __init__(self, source: LammpsInput, folder: Path, seed: int, learned: Learned) -> None:
        self._source = source
        self._config = source.config
        self._template = source.template
        self._folder = folder
        self._seed = seed
        self._stage = 0
        self._support = learned.uncertainty.soap.support if learned.uncertainty else 0.0
        config = source.config
        self._ranks = Ranks(folder, config.ranks, config.launcher, config.threads, config.address, config.input.parent)
        self._load_plugin()
        self._save(learned)

    def end(self) -> None:
        """End the processes."""
        self._ranks.end()

    # --- the script ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Get ready for the first stage."""
        if self._source.reads_structure:
            style = self._template.setting("atom_style", "atomic").split()[0]
            write_structure(
                self._folder / "start.data", self._source.atoms, self._source.elements, self._source.units, style
            )
        commands = self._first()
        if not self._template.setting("boundary"):
            commands.append(f"boundary {boundary(self._source.atoms)}")
        self._texts(commands)

    def resume(self, stage: int, restart: bytes) -> None:
        """Stand amid a stage's run, where a restart file was written."""
        self._stage = stage
        path = self._folder / "resumed.restart"
        path.write_bytes(restart)
        keep = self._source.keeps_pair_style
        self._commands(self._template.resumed(stage, path.name, self._first(), self._boxed(), keep))
        self._texts(self._behind(stage))

    def enter(self, stage: int) -> tuple[int | None, int]:
        """Carry out what stands in front of a stage's run.

        Returns:
            The run's number of steps, None where the script has no run, and LAMMPS' number of its first step.
        """
        self._stage = stage
        self._commands(self._template.started(stage, self._boxed(), self._source.keeps_pair_style))
        halted = [f"velocity {FIXED} set 0 0 0"] if stage == 0 and self._source.fixed else []
        self._texts(halted + self._behind(stage))
        run = self._template.stages[stage]
        return (None if run.steps is None else self._whole(run.steps, run.where)), int(
            self._first_answer("where")["step"]
        )

    def leave(self) -> None:
        """Carry out what stands behind the last run."""
        self._commands(self._template.after)

    def reload(self, learned: Learned) -> None:
        """Load new weights and a new distribution where LAMMPS is; a run without setup must not follow."""
        self._save(learned)
        commands = self._model() if learned.potential is not None else []
        if learned.uncertainty is not None:
            commands += [f"uncompute {U}", self._score()]
        self._texts(commands)

    def run(self, words: str, where: str = "") -> None:
        """Take steps: ``100 pre no``, for example."""
        self._commands([Command(f"run {words}", where)])

    # --- questions ----------------------------------------------------------------------------------------------------

    def measure(self) -> dict[str, Any]:
        """Numbers of the present step; see `ideal.lammps.worker.Rank.do_measure`."""
        answers = [header for header, _ in self._call("measure", temperature=self._thermometer())]
        return {**answers[0], "largest_force": max(header["largest_force"] for header in answers)}

    def uncertainty(self) -> np.ndarray:
        """(n_atoms,) u in the order of ids."""
        return by_id([arrays for _, arrays in self._call("uncertainty")], "u")

    def frame(self, measured: dict[str, Any]) -> Atoms:
        """The present configuration, gathered."""
        arrays = [arrays for _, arrays in self._call("frame")]
        return frame(arrays, measured, self._source.elements, self._source.units, self._source.fixed)

    def restart(self) -> bytes:
        """A restart file; a run without setup must not follow."""
        path = self._folder / "state.restart"
        self._texts([f"write_restart {path.name}"])
        return path.read_bytes()

    # --- commands -----------------------------------------------------------------------------------------------------

    def _first(self) -> list[str]:
        """In front of everything: log and variables. LAMMPS works in the folder; a name without it has no spaces."""
        values: dict[str, object] = {
            "data": "start.data",
            "seed": self._seed,
            "model": _MODEL,
            "uncertainty": _UNCERTAINTY,
            "elements": " ".join(self._source.elements),
            "boundary": boundary(self._source.atoms),
            "here": self._config.input.parent,
            "steps": self._config.steps,
            **self._config.variables,
        }
        variables = [f'variable {name} index "{value}"' for name, value in values.items()]
        return ["log log.lammps append", "box tilt large", *variables]

    def _boxed(self) -> list[str]:
        """As soon as there is a box: the model, what is measured, the fixed atoms."""
        commands = [f"compute {KINETIC} all ke"]
        if not self._source.keeps_pair_style:
            commands += ["pair_style ideal", *self._model()]
        if self._source.scores:
            commands.append(self._score())
        if self._source.fixed:
            commands += group_commands(FIXED, self._source.fixed)
        return commands

    def _behind(self, stage: int) -> list[str]:
        """Behind a stage's commands: what they must not undo."""
        commands = []
        if self._source.scores:
            commands.append(f"comm_modify cutoff {self._ghost_cutoff(stage):.6g}")
        if self._source.fixed:
            commands.append(f"fix {FIXED} {FIXED} setforce 0 0 0")
        return commands

    def _ghost_cutoff(self, stage: int) -> float:
        """How far ghost atoms must reach for u, Å: the descriptor's support and the skin, or what the script says."""
        skin, cutoff = _SKIN, "0"
        for command in self._template.commands_to(stage):
            words = command.words
            if command.name == "neighbor":
                skin = words[1]
            if command.name == "comm_modify" and "cutoff" in words[:-1]:
                cutoff = words[words.index("cutoff") + 1]
        return max(self._support + self._number(skin) + 0.01, self._number(cutoff))

    def _model(self) -> list[str]:
        """What makes the pair style follow the model."""
        if self._source.keeps_pair_style:
            return self._template.reload()
        return [f"pair_coeff * * {_MODEL} {' '.join(self._source.elements)}"]

    def _score(self) -> str:
        return f"compute {U} all ideal/uncertainty/atom {_UNCERTAINTY} {' '.join(self._source.elements)}"

    def _thermometer(self) -> str:
        """The compute whose temperature the script prints."""
        words = [command.words for command in self._template.commands_to(self._stage)]
        named = [line[line.index("temp") + 1] for line in words if line[0] == "thermo_modify" and "temp" in line[:-1]]
        return named[-1] if named else "thermo_temp"

    # --- files --------------------------------------------------------------------------------------------------------

    def _save(self, learned: Learned) -> None:
        """Write model and distribution to where LAMMPS reads them."""
        if learned.potential is not None:
            learned.potential.save((self._folder / _MODEL).parent)
        if learned.uncertainty is not None:
            learned.uncertainty.save(self._folder / _UNCERTAINTY)

    def _load_plugin(self) -> None:
        hello = self._first_answer("hello")
        plugin = self._source.plugin
        if plugin is None or hello["plugin"]:
            return
        if not self._first_answer("plugin", path=str(plugin))["plugin"]:
            self.end()
            raise SamplerError(
                f"{plugin} does not fit LAMMPS {hello['version']} ({self._folder / 'worker.log'} says why); build it "
                "again: ideal-run plugin build"
            )

    # --- talking ------------------------------------------------------------------------------------------------------

    def _whole(self, text: str, where: str) -> int:
        value = self._first_answer("expand", text=text)["text"].strip()
        if not value.isdigit():
            self.end()
            raise ConfigError(f"{where}: `run {value}`: write a whole number of steps")
        return int(value)

    def _number(self, text: str) -> float:
        return float(self._first_answer("expand", text=text)["text"])

    def _first_answer(self, do: str, **request: Any) -> dict[str, Any]:
        return self._call(do, **request)[0][0]

    def _texts(self, commands: Sequence[str]) -> None:
        self._commands([Command(text) for text in commands])

    def _commands(self, commands: Sequence[Command]) -> None:
        if not commands:
            return
        try:
            self._ranks.call("commands", commands=[command.text for command in commands])
        except LammpsError as error:
            command = commands[min(error.at, len(commands) - 1)]
            place = f"{command.where}: " if command.where else ""
            raise self._failure(error, f" at {place}`{command.text}`") from None

    def _call(self, do: str, **request: Any) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        try:
            return self._ranks.call(do, **request)
        except LammpsError as error:
            raise self._failure(error, "") from None

    def _failure(self, error: LammpsError, place: str) -> SamplerError:
        """LAMMPS' own text with a remedy."""
        text = " ".join(str(error).split("Last input line:")[0].split()).removeprefix("ERROR: ")
        known = [remedy for word, remedy in _REMEDIES.items() if word in text]
        remedy = known[0] if known else f"correct {self._config.input.name}"
        return SamplerError(f"LAMMPS stopped{place}: {text}; {remedy} (log: {self._folder / 'log.lammps'})")
