"""Everything a report shows, read from a run directory into one record.

The run may be going on, may have been interrupted, or may lack a file. What is missing or unreadable becomes a line in
`RunData.notes` and an empty field, never an error and never a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.units import GPa
from pydantic import ValidationError

from ideal.config import Config
from ideal.engine.run_directory import lock_holder
from ideal.errors import ConfigError
from ideal.records import FloatArray
from ideal.report.calibration import CalibrationData, parse_pairs
from ideal.report.frames import TrajectoryFrames, index_frames, read_sample, read_trajectory
from ideal.report.log import Errors, RunLog, number, read_json_lines, read_log

_MAX_STRUCTURES = 2000


@dataclass(frozen=True)
class HeldOut:
    """A model against the reference on structures that were never trained on.

    Attributes:
        reference_energies, energies: (n_structures,) eV/atom.
        reference_forces, forces: (n_components,) eV/Å, all components of all atoms.
        reference_stresses, stresses: (n_components,) GPa; empty where the reference gives none.
        errors: mean absolute errors, computed from the arrays.
    """

    reference_energies: FloatArray
    energies: FloatArray
    reference_forces: FloatArray
    forces: FloatArray
    reference_stresses: FloatArray
    stresses: FloatArray
    errors: Errors


@dataclass(frozen=True)
class TrainingCurve:
    """One entry per training epoch, in order; all (n_epochs,)."""

    phase: tuple[str, ...]
    loss: FloatArray
    energy_mae: FloatArray
    force_mae: FloatArray
    stress_mae: FloatArray


@dataclass(frozen=True)
class RunData:
    """A run directory.

    Attributes:
        path: the directory.
        title: the configuration's title, else the directory's name.
        state: "finished", "running" or "interrupted".
        config: None when missing or not valid.
        config_text: the YAML as it stands.
        provenance: content of ``provenance.json``.
        log: the events.
        stage_seconds: wall time by key of `ideal.report.log.STAGES`.
        wall_seconds: wall time that the run was active.
        frames: thinned frames by trajectory.
        n_initial: labels that the model was pretrained on.
        initial_labels, crops, cells: structures trained on at the start, raw crops, embedded cells (a sample of many).
        held_out_before, held_out_after: the pretrained and the final model on the held-out data.
        training: the training curve.
        calibration: u against true errors, and what was made of it; false where there is nothing.
        notes: what is missing or unreadable, one sentence each.
    """

    path: Path
    title: str
    state: str
    config: Config | None
    config_text: str
    provenance: Mapping[str, Any]
    log: RunLog
    stage_seconds: Mapping[str, float]
    wall_seconds: float
    frames: Mapping[str, TrajectoryFrames]
    n_initial: int
    initial_labels: tuple[Atoms, ...]
    crops: tuple[Atoms, ...]
    cells: tuple[Atoms, ...]
    held_out_before: HeldOut | None
    held_out_after: HeldOut | None
    training: TrainingCurve | None
    calibration: CalibrationData
    notes: tuple[str, ...]

    def target_temperature(self, trajectory: str) -> tuple[list[float], list[float]] | None:
        """Times (fs) and targets (K) of a trajectory's thermostat; None where there is none."""
        for candidate in self.config.trajectories if self.config else ():
            if candidate.name == trajectory:
                return candidate.sampler.thermostat()
        return None


def read_run(directory: str | Path) -> RunData:
    """Read a run directory.

    Args:
        directory: the directory; its run may be unfinished.

    Returns:
        All that is there.

    Raises:
        ConfigError: there is no such directory, or nothing in it comes from a run.

    Example:
        >>> read_run("runs/lithium").state
        'finished'
    """
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such directory; name the run directory (`ideal-run run` printed it)")
    if not any((path / name).exists() for name in ("config.yaml", "events.jsonl", "provenance.json")):
        raise ConfigError(
            f"{path}: holds no run (no config.yaml, events.jsonl or provenance.json); name a run directory"
        )
    return _Reader(path).read()


@dataclass
class _Reader:
    path: Path
    notes: list[str] = field(default_factory=list)

    def read(self) -> RunData:
        config, text = self._config()
        log = self._log()
        summary = self._json("summary.json", required=False)
        wall = number(summary.get("wall_seconds"))
        wall = wall if math.isfinite(wall) else log.wall_seconds
        stages = _stages(summary, wall) or log.stage_seconds
        return RunData(
            path=self.path,
            title=(config.title if config else "") or self.path.absolute().name,
            state="finished" if log.finished else "running" if self._running() else "interrupted",
            config=config,
            config_text=text,
            provenance=self._json("provenance.json"),
            log=log,
            stage_seconds=stages,
            wall_seconds=wall,
            frames=self._frames(config),
            n_initial=self._count("initial_labels.extxyz"),
            initial_labels=self._structures("initial_labels.extxyz"),
            crops=self._structures("crops.extxyz", required=bool(log.cells)),
            cells=self._structures("substructures.extxyz", required=bool(log.cells)),
            held_out_before=self._held_out("held_out_before.json", config),
            held_out_after=self._held_out("held_out_after.json", config),
            training=self._training(),
            calibration=self._calibration(log),
            notes=tuple(self.notes),
        )

    def _config(self) -> tuple[Config | None, str]:
        file = self.path / "config.yaml"
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.notes.append(f"config.yaml cannot be read ({error.strerror}): settings are not shown.")
            return None, ""
        try:
            return Config.model_validate(yaml.safe_load(text)), text
        except (yaml.YAMLError, ValidationError) as error:
            self.notes.append(
                f"config.yaml is not a valid configuration of this version of IDEAL ({type(error).__name__}): "
                "targets and settings are not shown."
            )
            return None, text

    def _log(self) -> RunLog:
        try:
            log = read_log(self.path / "events.jsonl")
        except OSError as error:
            self.notes.append(f"events.jsonl cannot be read ({error.strerror}): no course of the run is shown.")
            return RunLog()
        if log.n_unreadable:
            self.notes.append(f"{log.n_unreadable} line(s) of events.jsonl are not complete and were left out.")
        return log

    def _running(self) -> bool:
        return lock_holder(self.path) is not None

    def _json(self, name: str, required: bool = True) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if required:
                self.notes.append(f"{name} is missing.")
            return {}
        except (OSError, ValueError) as error:
            self.notes.append(f"{name} cannot be read ({type(error).__name__}).")
            return {}
        if not isinstance(content, dict):
            self.notes.append(f"{name} holds no mapping and was left out.")
            return {}
        return content

    def _frames(self, config: Config | None) -> dict[str, TrajectoryFrames]:
        timesteps = {t.name: t.sampler.fs_per_step for t in config.trajectories} if config else {}
        frames = {}
        for file in sorted((self.path / "trajectories").glob("*.extxyz")):
            trajectory = read_trajectory(file, timesteps.get(file.stem, 1.0))
            if not trajectory.complete:
                self.notes.append(f"The last frame of trajectories/{file.name} is not complete and was left out.")
            if trajectory.n_unreadable:
                self.notes.append(f"{trajectory.n_unreadable} frame(s) of trajectories/{file.name} cannot be read.")
            if trajectory.atoms:
                frames[file.stem] = trajectory
        if not frames:
            self.notes.append("There are no trajectory frames yet: structure and motion are not shown.")
        return frames

    def _count(self, name: str) -> int:
        try:
            return len(index_frames(self.path / name).n_atoms)
        except OSError:
            return 0

    def _structures(self, name: str, required: bool = True) -> tuple[Atoms, ...]:
        try:
            return tuple(read_sample(self.path / name, _MAX_STRUCTURES))
        except FileNotFoundError:
            if required:
                self.notes.append(f"{name} is missing.")
        except OSError as error:
            self.notes.append(f"{name} cannot be read ({error.strerror}).")
        return ()

    def _held_out(self, name: str, config: Config | None) -> HeldOut | None:
        content = self._json(name, required=config is not None and config.dataset.held_out is not None)
        if not content:
            return None
        try:
            return parse_held_out(content)
        except (KeyError, TypeError, ValueError) as error:
            self.notes.append(f"{name} does not hold what is expected ({type(error).__name__}: {error}).")
            return None

    def _calibration(self, log: RunLog) -> CalibrationData:
        pairs = None
        try:
            rows, unreadable = read_json_lines(self.path / "pairs.jsonl")
        except FileNotFoundError:
            pass
        except OSError as error:
            self.notes.append(f"pairs.jsonl cannot be read ({error.strerror}).")
        else:
            pairs, strange = parse_pairs(rows)
            if unreadable or strange:
                self.notes.append(f"{unreadable + strange} line(s) of pairs.jsonl are not complete and were left out.")
        latest = self._json("calibration.json", required=bool(pairs or log.calibrated))
        return CalibrationData(latest, pairs, log.calibrated, log.budget_spent)

    def _training(self) -> TrainingCurve | None:
        try:
            rows, unreadable = read_json_lines(self.path / "training.jsonl")
        except OSError:
            return None
        if unreadable:
            self.notes.append(f"{unreadable} line(s) of training.jsonl are not complete and were left out.")
        rows = [row for row in rows if row.get("event", "training_epoch") == "training_epoch"]
        if not rows:
            return None
        columns = {
            name: np.array([number(row.get(name)) for row in rows])
            for name in ("loss", "energy_mae", "force_mae", "stress_mae")
        }
        return TrainingCurve(phase=tuple(str(row.get("phase", "")) for row in rows), **columns)


def parse_held_out(content: Mapping[str, Any]) -> HeldOut:
    """Read the content of ``held_out_*.json``.

    Args:
        content: what `ideal.engine.held_out.evaluate_held_out` returned: ``reference`` and ``predicted``, each with
            ``energies_per_atom`` (eV), ``forces`` (eV/Å) and ``stresses`` (eV/Å³, null where there is none).

    Raises:
        KeyError, TypeError, ValueError: a part is missing or does not fit.
    """
    sides: dict[str, dict[str, FloatArray]] = {}
    for side in ("reference", "predicted"):
        values = content[side]
        sides[side] = {
            "energies": np.array(values["energies_per_atom"], dtype=float),
            "forces": _flat(values["forces"]),
            "stresses": _flat(values.get("stresses") or []) / GPa,
        }
    reference, predicted = sides["reference"], sides["predicted"]
    for name in ("energies", "forces"):
        if reference[name].shape != predicted[name].shape or not len(reference[name]):
            raise ValueError(f"{name}: {reference[name].shape} reference and {predicted[name].shape} predicted values")
    if reference["stresses"].shape != predicted["stresses"].shape:
        reference["stresses"] = predicted["stresses"] = np.zeros(0)
    known = np.isfinite(reference["stresses"])
    return HeldOut(
        reference_energies=reference["energies"],
        energies=predicted["energies"],
        reference_forces=reference["forces"],
        forces=predicted["forces"],
        reference_stresses=reference["stresses"][known],
        stresses=predicted["stresses"][known],
        errors=Errors(
            energy=_mae(reference["energies"], predicted["energies"]),
            force=_mae(reference["forces"], predicted["forces"]),
            stress=_mae(reference["stresses"][known], predicted["stresses"][known]),
        ),
    )


def _flat(nested: Any) -> FloatArray:
    """All numbers of a list of lists, missing structures (null) left out as NaN."""
    parts = [np.asarray(item, dtype=float).ravel() if item is not None else np.full(6, np.nan) for item in nested]
    return np.concatenate(parts) if parts else np.zeros(0)


def _mae(reference: FloatArray, predicted: FloatArray) -> float:
    return float(np.abs(predicted - reference).mean()) if len(reference) else math.nan


def _stages(summary: Mapping[str, Any], wall_seconds: float) -> dict[str, float]:
    """The engine's own times; what they leave of the wall time (start-up, imports) is "other"."""
    stages = summary.get("stage_seconds")
    if not isinstance(stages, Mapping):
        return {}
    times = {str(name): seconds for name, value in stages.items() if (seconds := number(value)) > 0}
    rest = wall_seconds - sum(times.values())
    return times | ({"other": rest} if times and rest > 0.005 * wall_seconds else {})
