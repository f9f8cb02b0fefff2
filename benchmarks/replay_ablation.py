"""What replay is worth: new labels only, importance-sampled replay, uniform replay, or all data in every update.

A small model learns one label after another while the system drifts through states (cold copper, hot copper, compressed
copper, an alloy, aluminum); EMT is the reference. Each arm sees the same labels in the same order from the same
pretrained weights. Reported are the errors on test structures of all states after the last update, the worst growth of
a state's error since it was learned (forgetting), and the CPU time of an update.

    python benchmarks/replay_ablation.py --updates 200 --seeds 0 1 2

Finished runs are kept in ``runs/replay_ablation.json``; ``--again`` repeats them.

Kong et al., npj Comput. Mater. (2023), use the importance-sampled kind.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from ideal.config import LossConfig, ModelConfig, OnlineConfig, PretrainConfig, TrainingConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import FloatArray, IntArray, Label, structure_key
from ideal.training.batches import new_optimizer
from ideal.training.replay import Replay, draw
from ideal.training.trainer import Trainer

MODEL = ModelConfig(n_blocks=1, units=16, max_n=2, max_l=2, cutoff=4.0, threebody_cutoff=3.2, device="cpu")
_RESULTS = Path("runs/replay_ablation.json")
ARMS = ("new only", "importance", "uniform", "all data")


@dataclass(frozen=True)
class State:
    """A kind of structures: fractions of aluminum, lattice constant (Å), displacements (Å, standard deviation)."""

    name: str
    aluminum: float
    lattice: float
    rattle: float


STATES = (
    State("cold copper", 0.0, 3.61, 0.05),
    State("hot copper", 0.0, 3.68, 0.15),
    State("compressed copper", 0.0, 3.45, 0.10),
    State("alloy", 0.5, 3.80, 0.12),
    State("hot aluminum", 1.0, 4.08, 0.18),
)


class UniformReplay(Replay):
    """All old labels are alike."""

    def probabilities(self, keys: Sequence[str]) -> FloatArray:
        """(n,) 1/n each."""
        return np.full(len(keys), 1.0 / max(len(keys), 1))


class CompleteReplay(Replay):
    """Every pass shows every old label once."""

    def draw(self, keys: Sequence[str], count: int, rng: np.random.Generator) -> IntArray:
        """(n,) all indices in random order."""
        return rng.permutation(len(keys)) if keys else draw(np.ones(1), 0, rng)


def main() -> None:
    """Run every arm for every seed, print one table."""
    arguments = _arguments()
    if arguments.profile:
        _profile()
        return
    settings = f"{arguments.epochs} passes, replay {arguments.replay}, {arguments.batch} structures per step"
    print(f"{arguments.updates} updates with one label, {settings}")
    results: dict[str, list[tuple[float, float, float, float, float]]] = {arm: [] for arm in arguments.arms}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            results[arm].append(_once(arm, seed, arguments))
            print(f"  seed {seed}, {arm}: " + _words(results[arm][-1]), flush=True)
    print("F: meV/Å, E: meV/atom, forgets: largest growth of a state's error, ms: CPU per update")
    print(f"{'':<12} {'F all':>8} {'F old':>8} {'E all':>8} {'forgets':>8} {'ms':>8}")
    for arm in arguments.arms:
        mean = np.mean(results[arm], axis=0)
        print(f"{arm:<12} {mean[0]:>8.1f} {mean[1]:>8.1f} {mean[2]:>8.2f} {mean[3]:>8.2f} {mean[4]:>8.0f}", flush=True)


def _once(arm: str, seed: int, arguments: argparse.Namespace) -> tuple[float, float, float, float, float]:
    """`_run`; a finished one is not repeated."""
    a = arguments
    settings = (a.updates, a.epochs, a.replay, a.batch, a.rescore, a.rate)
    key = json.dumps([arm, seed, *settings])
    known = json.loads(_RESULTS.read_text()) if _RESULTS.is_file() else {}
    if arguments.again or key not in known:
        known[key] = _run(arm, seed, arguments)
        _RESULTS.parent.mkdir(exist_ok=True)
        temporary = _RESULTS.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(_RESULTS)
    force, old, energy, growth, cost = known[key]
    return force, old, energy, growth, cost


def _run(arm: str, seed: int, arguments: argparse.Namespace) -> tuple[float, float, float, float, float]:
    rng = np.random.default_rng(seed)
    initial = [_label(STATES[0], rng) for _ in range(24)]
    validation = [_label(STATES[0], rng) for _ in range(4)]
    tests = [[_label(state, rng) for _ in range(16)] for state in STATES]
    per_state = -(-arguments.updates // len(STATES))
    stream = [_label(STATES[k // per_state], rng) for k in range(arguments.updates)]

    replay = 0 if arm == "new only" else arguments.replay
    config = TrainingConfig(
        loss=LossConfig(energy=3.0, force=1.0, stress=0.0),
        pretrain=PretrainConfig(epochs=60, learning_rate=5e-3, batch_size=8),
        online=OnlineConfig(
            epochs=arguments.epochs,
            learning_rate=arguments.rate,
            batch_size=arguments.batch,
            replay=replay,
            rescore=arguments.rescore,
        ),
    )
    trainer = Trainer(M3GNetPotential.new(MODEL, ["Al", "Cu"], seed), config, seed)
    trainer.pretrain(initial, validation)
    if arm == "uniform":
        trainer.replay = UniformReplay()
    elif arm == "all data":
        trainer.replay = CompleteReplay()
    known = list(initial)
    learned: list[float] = []  # error of each state when it was over
    seconds = 0.0
    for index, label in enumerate(stream):
        start = time.process_time()
        trainer.update([label], known)
        seconds += time.process_time() - start
        known.append(label)
        if (index + 1) % per_state == 0 or index + 1 == len(stream):
            learned.append(trainer.errors(tests[len(learned)]).force_mae)
    errors = [trainer.errors(test) for test in tests[: len(learned)]]
    forces = np.array([error.force_mae for error in errors])
    growth = forces[:-1] / np.array(learned)[:-1]
    energy = float(np.mean([error.energy_mae for error in errors]))
    return (
        1000 * float(forces.mean()),
        1000 * float(forces[:-1].mean()),
        1000 * energy,
        float(growth.max()),
        1000 * seconds / len(stream),
    )


def _profile() -> None:
    """CPU time of an optimizer step and of a look, by the number of cells: the least of five."""
    rng = np.random.default_rng(0)
    labels = [_label(STATES[k % len(STATES)], rng) for k in range(32)]
    trainer = Trainer(M3GNetPotential.new(MODEL, ["Al", "Cu"], 0), TrainingConfig(pretrain=PretrainConfig(epochs=0)), 0)
    trainer.pretrain(labels)
    samples = trainer.batches.prepare(labels)
    optimizer = new_optimizer(dict(trainer.potential.named_parameters()), 1e-4)
    for size in (1, 2, 4, 8, 16, 32):
        steps, looks = [], []
        for _ in range(5):
            start = time.process_time()
            trainer.batches.step(optimizer, samples[:size])
            middle = time.process_time()
            trainer.batches.evaluate(samples[:size])
            steps.append(1000 * (middle - start))
            looks.append(1000 * (time.process_time() - middle))
        print(f"{size:>3} cells: a step {min(steps):.1f} ms, a look {min(looks):.1f} ms")


def _label(state: State, rng: np.random.Generator) -> Label:
    """A displaced, slightly strained cell of 16 atoms with EMT's energy and forces."""
    atoms: Atoms = bulk("Cu", "fcc", a=state.lattice, cubic=True) * (2, 2, 1)
    atoms.symbols[rng.permutation(len(atoms))[: round(state.aluminum * len(atoms))]] = "Al"
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, state.rattle, (len(atoms), 3))
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    return Label(structure_key(atoms, {"code": "emt"}), atoms, energy, forces, None, "emt")


def _words(result: tuple[float, float, float, float, float]) -> str:
    force, old, energy, growth, cost = result
    return f"F {force:.1f} meV/Å (old states {old:.1f}), E {energy:.2f} meV/atom, forgets {growth:.2f} x, {cost:.0f} ms"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--epochs", type=int, default=4, help="passes per update")
    parser.add_argument("--replay", type=int, default=12, help="old labels per pass")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of an update")
    parser.add_argument("--batch", type=int, default=8, help="structures per step")
    parser.add_argument("--rescore", type=int, default=8, help="scores refreshed per update")
    parser.add_argument("--profile", action="store_true", help="tell what a step costs by its size, and end")
    parser.add_argument("--again", action="store_true", help="repeat finished runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
