"""One arm of the alanine dipeptide experiment: explore, label, learn, until the labels are spent. `judging` takes them.

A round: calibrate; eight trajectories from labels chosen at random, each until an atom's force uncertainty passes its
limit or its steps are taken; of all frames of all of them a batch, chosen for its joint uncertainty, is labelled; the
model learns on with all labels, or anew where their number has doubled since it last did. A round in which little was
walked earns few labels. After every round the whole state is written, and a killed arm goes on from there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from dipeptide import Amber, dihedrals, is_cis, label, labels_at, molecule
from fitting import Plan, fit, normalize
from measures import autocorrelation_time, coverage, rms
from moments import SYMBOLS, MomentPotential
from walkers import Dynamics, Uncertain, Walk, choose, walk

from ideal.models.base import TrainablePotential
from ideal.records import FloatArray, Label

WALKERS, START, MOST = 8, 8, 512
STEPS_PER_LABEL = 128
BATCH = 24
"""Labels per round, at most."""
ANEW, ONLINE = Plan(600), Plan(300, rate=5e-3)
"""Training from random weights, and of a round."""


class Run:
    """One arm with one seed.

    Args:
        arm: its name.
        dynamics: how its walkers move.
        seed: of weights, velocities, noise.
        test: labels that tell how it goes; nothing follows from them.
        folder: where its state is kept until it is done.
    """

    def __init__(self, arm: str, dynamics: Dynamics, seed: int, test: Sequence[Label], folder: Path) -> None:
        self._arm, self._dynamics, self._seed, self._test, self._folder = arm, dynamics, seed, test, folder
        self._rng = np.random.default_rng([seed, 17])
        self._calculator = Amber()
        self._labels: list[Label] = []
        self._held: list[Label] = []
        self._rounds: list[list[Walk]] = []
        self._curve: list[dict[str, Any]] = []
        self._refused = 0
        self._anew = START
        self._seconds = 0.0
        self._began = time.process_time()

    def run(self) -> dict[str, Any]:
        """The finished row; the labels lie in ``labels.npz`` of `models_folder`."""
        if (self._folder / "state.npz").is_file():
            potential = self._resume()
        else:
            self._take([_shaken(molecule(), self._rng) for _ in range(START)], held=1)
            potential = fresh(self._labels, self._seed, ANEW)
        while (room := MOST - len(self._labels) - len(self._held)) > 0:
            potential = self._round(potential, min(room, BATCH))
            self._save(potential)
        np.savez(models_folder(self._folder) / "labels.npz", positions=_positions([*self._labels, *self._held]))
        row = self._row()
        shutil.rmtree(self._folder, ignore_errors=True)
        return row

    def _round(self, potential: MomentPotential, count: int) -> MomentPotential:
        model = Uncertain(potential)
        model.learn(self._labels)
        model.calibrate(self._held)
        pool = [*self._labels, *self._held]
        starts = [pool[i].atoms for i in self._rng.integers(len(pool), size=WALKERS)]
        walks = walk(model, starts, self._dynamics, self._rng)
        self._rounds.append(walks)
        frames = np.concatenate([each.positions for each in walks])
        count = min(count, max(WALKERS, sum(each.steps for each in walks) // STEPS_PER_LABEL))
        chosen = choose(model, np.concatenate([each.features for each in walks]), count)
        self._take([_with(molecule(), frames[index]) for index in chosen], held=max(1, len(chosen) // 10))
        if len(self._labels) >= 2 * self._anew:
            potential, self._anew = fresh(self._labels, self._seed, ANEW), len(self._labels)
        else:
            fit(potential, self._labels, ONLINE, len(self._labels))
        energy, force = errors(potential, self._test[::20])
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
        potential.save(models_folder(self._folder) / str(entry["labels"]))
        print(self._arm, self._seed, {k: round(v, 4) for k, v in entry.items()}, flush=True)
        return potential

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

    def _row(self) -> dict[str, Any]:
        interval = 1e-3 * self._dynamics.record * self._dynamics.every * self._dynamics.timestep
        chains = [[walks[k] for walks in self._rounds] for k in range(WALKERS)]
        positions = [np.concatenate([each.positions for each in chain]) for chain in chains]
        atomic = [np.concatenate([each.atomic for each in chain]) for chain in chains]
        labelled = np.array([each.atoms.positions for each in [*self._labels, *self._held]])
        return {
            "arm": self._arm,
            "seed": self._seed,
            **asdict(self._dynamics),
            "labels": len(labelled),
            "refused": self._refused,
            "rounds": len(self._rounds),
            "structure_steps": sum(each.steps for walks in self._rounds for each in walks),
            "coverage": self._coverage(),
            "coverage_of_labels": coverage(dihedrals(labelled)),
            "cis": int(is_cis(labelled).sum()),
            "position_act": _mean_time([x.reshape(len(x), -1) for x in positions], interval),
            "uncertainty_act": _mean_time(atomic, interval),
            "seconds": self._spent(),
            "curve": self._curve,
        }

    # --- what is kept ---

    def _save(self, potential: MomentPotential) -> None:
        """Write everything that decides what comes next, the small file last."""
        self._folder.mkdir(parents=True, exist_ok=True)
        potential.save(self._folder / "model")
        walks = [each for walks in self._rounds for each in walks]
        notes = [self._rng.bit_generator.state, self._curve, self._refused, self._anew, self._spent()]
        arrays = {
            "labels": _positions(self._labels),
            "held": _positions(self._held),
            "frames": np.array([len(each.positions) for each in walks]),
            "steps": np.array([each.steps for each in walks]),
            "stopped": np.array([each.stopped for each in walks]),
            "positions": np.concatenate([each.positions for each in walks]).astype(np.float32),
            "atomic": np.concatenate([each.atomic for each in walks]).astype(np.float32),
            "notes": np.array(json.dumps(notes)),
        }
        temporary = self._folder / "state.part.npz"
        np.savez(temporary, **arrays)
        temporary.replace(self._folder / "state.npz")

    def _resume(self) -> MomentPotential:
        with np.load(self._folder / "state.npz") as state:
            self._labels, self._held = (labels_at(state[key]) for key in ("labels", "held"))
            rng, self._curve, self._refused, self._anew, self._seconds = json.loads(str(state["notes"]))
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
        return MomentPotential.load(self._folder / "model", "cpu")


def models_folder(folder: Path) -> Path:
    """Where the model of every round of an arm is kept, by its number of labels."""
    return folder.with_name(f"{folder.name}_models")


def fresh(labels: Sequence[Label], seed: int, plan: Plan, **architecture: Any) -> MomentPotential:
    """A new model (see `MomentPotential.new`) that has learned these labels."""
    potential = MomentPotential.new(SYMBOLS, seed, **architecture)
    normalize(potential, labels)
    fit(potential, labels, plan, seed)
    return potential


def errors(potential: TrainablePotential, labels: Sequence[Label]) -> tuple[float, float]:
    """Root mean square errors: energy in meV/atom and force components in eV/Å."""
    found = potential.predict([potential.graph(each.atoms) for each in labels])
    wanted = [each.energy - potential.reference_energy(each.atoms) for each in labels]
    energies = (found.energies.double().numpy() - wanted) / len(labels[0].atoms)
    forces = found.forces.double().numpy() - np.concatenate([each.forces for each in labels])
    return 1000 * rms(energies), rms(forces)


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
