"""One arm of the alanine dipeptide experiment: explore, label, learn, until the labels are spent.

A round: calibrate; eight trajectories from labels chosen at random, each until an atom's force uncertainty passes its
limit or its steps are taken; of all frames of all of them a batch, chosen for its joint uncertainty, is labelled; the
model learns it. A round in which little was walked earns few labels. After every round the whole state is written,
and a killed arm goes on from there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from dipeptide import Amber, dihedrals, label, molecule
from measures import autocorrelation_time, coverage
from moments import SYMBOLS, MomentPotential
from walkers import Dynamics, Uncertain, Walk, choose, walk

from ideal.config import LossConfig, OnlineConfig, PretrainConfig, TrainingConfig
from ideal.models.base import TrainablePotential
from ideal.records import FloatArray, Label
from ideal.training.trainer import Trainer

WALKERS, START, MOST = 8, 8, 512
STEPS_PER_LABEL = 128
ENERGY_WEIGHT = 10.0


@dataclass(frozen=True)
class Effort:
    """What an arm may spend.

    Attributes:
        batch: labels per round, at most.
        epochs: of the final training.
    """

    batch: int = 36
    epochs: int = 60


class Run:
    """One arm with one seed.

    Args:
        arm: its name.
        dynamics: how its walkers move.
        seed: of weights, velocities, noise.
        effort: what it may spend.
        test: labels that judge.
        folder: where its state is kept until it is done.
    """

    def __init__(
        self, arm: str, dynamics: Dynamics, seed: int, effort: Effort, test: Sequence[Label], folder: Path
    ) -> None:
        self._arm, self._dynamics, self._effort, self._test, self._folder = arm, dynamics, effort, test, folder
        self._seed = seed
        self._rng = np.random.default_rng([seed, 17])
        self._calculator = Amber()
        self._labels: list[Label] = []
        self._held: list[Label] = []
        self._rounds: list[list[Walk]] = []
        self._curve: list[dict[str, Any]] = []
        self._refused = 0
        self._seconds = 0.0
        self._began = time.process_time()

    def run(self) -> dict[str, Any]:
        """The finished row."""
        if (self._folder / "state.npz").is_file():
            trainer = self._resume()
        else:
            self._take([_shaken(molecule(), self._rng) for _ in range(START)], held=1)
            potential = MomentPotential.new(SYMBOLS, self._seed, examples=[each.atoms for each in self._labels])
            trainer = Trainer(potential, training(300), self._seed)
            trainer.pretrain(self._labels, self._held)
        while (room := MOST - len(self._labels) - len(self._held)) > 0:
            self._round(trainer, min(room, self._effort.batch))
            self._save(trainer)
        potential = trainer.potential
        Trainer(potential, training(self._effort.epochs), self._seed).pretrain(self._labels, self._held)
        row = self._row(potential)
        shutil.rmtree(self._folder, ignore_errors=True)
        return row

    def _round(self, trainer: Trainer, count: int) -> None:
        model = Uncertain(trainer.potential)
        model.learn(self._labels)
        model.calibrate(self._held)
        pool = [*self._labels, *self._held]
        starts = [pool[i].atoms for i in self._rng.integers(len(pool), size=WALKERS)]
        walks = walk(model, starts, self._dynamics, self._rng)
        self._rounds.append(walks)
        frames = np.concatenate([each.positions for each in walks])
        count = min(count, max(WALKERS, sum(each.steps for each in walks) // STEPS_PER_LABEL))
        chosen = choose(model, np.concatenate([each.features for each in walks]), count)
        known = list(self._labels)
        new = self._take([_with(molecule(), frames[index]) for index in chosen], held=max(1, len(chosen) // 10))
        if new:
            trainer.update(new, known)
        energy, force = errors(trainer.potential, self._test[::20])
        entry = {
            "labels": len(self._labels) + len(self._held),
            "steps": sum(each.steps for each in walks),
            "stopped": sum(each.stopped for each in walks),
            "coverage": self._coverage(),
            "energy": energy,
            "force": force,
            "factor": model.factor,
            "seconds": self._spent(),
        }
        self._curve.append(entry)
        trainer.potential.save(models_folder(self._folder) / str(entry["labels"]))
        print(self._arm, self._seed, {k: round(v, 4) for k, v in entry.items()}, flush=True)

    def _take(self, structures: Sequence[Atoms], held: int) -> list[Label]:
        """Label structures, hold ``held`` of them back for calibration, return those to learn."""
        found = [label(atoms, self._calculator) for atoms in structures]
        labels = [each for each in found if each is not None]
        self._refused += len(found) - len(labels)
        held = min(held, max(len(labels) - 1, 0))
        order = self._rng.permutation(len(labels))
        new = [labels[i] for i in order[held:]]
        self._held += [labels[i] for i in order[:held]]
        self._labels += new
        return new

    # --- what is told ---

    def _coverage(self) -> float:
        return coverage(np.concatenate([dihedrals(each.positions) for walks in self._rounds for each in walks]))

    def _spent(self) -> float:
        return self._seconds + time.process_time() - self._began

    def _row(self, potential: TrainablePotential) -> dict[str, Any]:
        energy, force = errors(potential, self._test)
        interval = 1e-3 * self._dynamics.record * self._dynamics.every * self._dynamics.timestep
        chains = [[walks[k] for walks in self._rounds] for k in range(WALKERS)]
        positions = [np.concatenate([each.positions for each in chain]) for chain in chains]
        atomic = [np.concatenate([each.atomic for each in chain]) for chain in chains]
        labelled = np.array([each.atoms.positions for each in [*self._labels, *self._held]])
        return {
            "arm": self._arm,
            "seed": self._seed,
            **asdict(self._effort),
            **asdict(self._dynamics),
            "labels": len(labelled),
            "refused": self._refused,
            "rounds": len(self._rounds),
            "structure_steps": sum(each.steps for walks in self._rounds for each in walks),
            "coverage": self._coverage(),
            "coverage_of_labels": coverage(dihedrals(labelled)),
            "energy": energy,
            "force": force,
            "position_act": _mean_time([x.reshape(len(x), -1) for x in positions], interval),
            "uncertainty_act": _mean_time(atomic, interval),
            "seconds": self._spent(),
            "curve": self._curve,
        }

    # --- what is kept ---

    def _save(self, trainer: Trainer) -> None:
        """Write everything that decides what comes next, the small file last."""
        self._folder.mkdir(parents=True, exist_ok=True)
        trainer.potential.save(self._folder / "model")
        walks = [each for walks in self._rounds for each in walks]
        arrays = {
            "labels": _positions(self._labels),
            "held": _positions(self._held),
            "frames": np.array([len(each.positions) for each in walks]),
            "steps": np.array([each.steps for each in walks]),
            "stopped": np.array([each.stopped for each in walks]),
            "positions": np.concatenate([each.positions for each in walks]).astype(np.float32),
            "atomic": np.concatenate([each.atomic for each in walks]).astype(np.float32),
            "notes": np.array(json.dumps([self._rng.bit_generator.state, self._curve, self._refused, self._spent()])),
            **{f"trainer/{key}": np.asarray(value) for key, value in trainer.state().items()},
        }
        temporary = self._folder / "state.part.npz"
        np.savez(temporary, **arrays)
        temporary.replace(self._folder / "state.npz")

    def _resume(self) -> Trainer:
        with np.load(self._folder / "state.npz") as state:
            self._labels, self._held = (self._again(state[key]) for key in ("labels", "held"))
            rng, self._curve, self._refused, self._seconds = json.loads(str(state["notes"]))
            self._rng.bit_generator.state = rng
            ends = state["frames"].cumsum()[:-1]
            parts = zip(
                np.split(state["positions"], ends),
                np.split(state["atomic"], ends),
                state["steps"].tolist(),
                state["stopped"].tolist(),
                strict=True,
            )
            walks = [Walk(positions, np.zeros((0, 0)), atomic, n, end) for positions, atomic, n, end in parts]
            self._rounds = [walks[first : first + WALKERS] for first in range(0, len(walks), WALKERS)]
            trainer = Trainer(MomentPotential.load(self._folder / "model", "cpu"), training(300), self._seed)
            prefix = "trainer/"
            trainer.restore({k.removeprefix(prefix): state[k] for k in state.files if k.startswith(prefix)})
        return trainer

    def _again(self, positions: FloatArray) -> list[Label]:
        found = [label(_with(molecule(), each), self._calculator) for each in positions]
        return [each for each in found if each is not None]


def models_folder(folder: Path) -> Path:
    """Where the model of every round of an arm is kept, by its number of labels."""
    return folder.with_name(f"{folder.name}_models")


def training(epochs: int) -> TrainingConfig:
    """How the network learns; AdamW as the library has it."""
    return TrainingConfig(
        loss=LossConfig(energy=ENERGY_WEIGHT, force=1.0, stress=0.0),
        pretrain=PretrainConfig(epochs=epochs, learning_rate=5e-3, batch_size=8),
        online=OnlineConfig(epochs=16, learning_rate=3e-3, batch_size=8, replay=43, rescore=24),
        max_atoms=1024,
    )


def errors(potential: TrainablePotential, labels: Sequence[Label]) -> tuple[float, float]:
    """Root mean square errors: energy in meV/atom and force components in eV/Å."""
    found = potential.evaluate_batch([each.atoms for each in labels])
    energies = [(a.energy - b.energy) / len(b.atoms) for a, b in zip(found, labels, strict=True)]
    forces = [a.forces - b.forces for a, b in zip(found, labels, strict=True)]
    return 1000 * _rms(np.array(energies)), _rms(np.array(forces))


def _rms(values: FloatArray) -> float:
    return float(np.sqrt((values**2).mean()))


def _mean_time(series: Sequence[FloatArray], interval: float) -> float:
    return float(np.mean([autocorrelation_time(each, interval) for each in series]))


def _positions(labels: Sequence[Label]) -> FloatArray:
    return np.array([each.atoms.positions for each in labels]).reshape(len(labels), -1, 3)


def _shaken(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Shifted by -0.02 to 0.02 Å (eq. 32)."""
    return _with(atoms, atoms.positions + rng.uniform(-0.02, 0.02, atoms.positions.shape))


def _with(atoms: Atoms, positions: FloatArray) -> Atoms:
    moved = atoms.copy()
    moved.positions = positions
    return moved
