"""Alanine dipeptide through the engine of `ideal-run`: its samplers, uncertainty, model and training.

    python benchmarks/exploration/through_run.py --seeds 1 2 3

`alanine.py` asks whether a bias finds better labels with a loop and a network of its own; this asks it of the product.
The arms have the same configuration but for the sampler's bias: eight trajectories at 300 K in lockstep from C7eq, a
small M3GNet, u from SOAP, labels of the whole molecule from ff19SB, until labels or steps are spent. The test set is
every tenth frame of a 1200 K trajectory of the reference; "before" are the errors of the model that led the run, before
the final training. A run that is killed goes on from its last checkpoint, finished arms are read, and the table is
printed after every seed.

Others train a new model with equal numbers of steps: "anew" on an arm's labels, "spaced" on those of the start and
frames of the plain arm's walk at equal distances, "ceiling" on frames of another 1200 K trajectory of the reference.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write
from dipeptide import MAX_FORCE, dihedrals, is_cis, labels_at, molecule, reference_trajectory
from measures import coverage, rms
from rows import cached, table
from survival import bonds, is_whole

from ideal.config import Config, parse_config
from ideal.dataset import read_labels
from ideal.engine.engine import Engine
from ideal.labelling.store import LabelStore
from ideal.models import load_potential, make_potential
from ideal.models.base import Potential
from ideal.records import FloatArray, Label
from ideal.report.frames import read_trajectory
from ideal.training.trainer import Trainer

ARMS: dict[str, dict[str, Any]] = {
    "biased": {
        "type": "biased_dynamics",
        "bias": {"strength": 0.25, "average": "rms", "species": {"H": 0.0}, "max_temperature": 600.0},
    },
    "plain": {"type": "molecular_dynamics"},
}
ANEW, SPACED, CEILING = {f"{arm} anew": arm for arm in ARMS}, "spaced", "ceiling"
EVERY = (*ARMS, *ANEW, SPACED, CEILING)
WALKERS, INITIAL = 8, 16
HYDROGEN = 4.0  # amu, as in `alanine.py`: positions are distributed as before, and 2 fs are a short enough step
TEST_FRAMES, TEST_EVERY = 2000, 10
_RESULTS = ("coverage", "coverage_of_labels", "energy", "force", "cis")
_BEFORE = ("energy_before", "force_before")
_COURSE = ("labels", "refused", "threshold_first", "threshold_last", "steps", "temperature", "restarts", "seconds")
_COLUMNS = (*_RESULTS, *_BEFORE, *_COURSE)


def main() -> None:
    """Make the arms that are missing, print all that are there after every seed."""
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    test = reference_trajectory(arguments.output, TEST_FRAMES, arguments.test)[::TEST_EVERY]
    rows = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            path = arguments.output / f"{arm}_{seed}.json"
            rows.append({"arm": arm, "seed": seed, **cached(path, _row, arm, seed, arguments, test)})
        print(table(rows, _COLUMNS), flush=True)


def _row(arm: str, seed: int, arguments: argparse.Namespace, test: Sequence[Label]) -> dict[str, Any]:
    if arm in ARMS:
        return _made(configuration(arm, seed, arguments), arguments.output / f"{arm}_{seed}", test)
    return _learned(configuration("plain", seed, arguments), _given(arm, seed, arguments), test)


def configuration(arm: str, seed: int, arguments: argparse.Namespace) -> Config:
    """What a user would write as YAML; the structure is written beside the runs."""
    start = molecule()
    start.set_masses(np.where(start.numbers == 1, HYDROGEN, start.get_masses()))
    write(arguments.output / "c7eq.xyz", start, format="extxyz", columns=["symbols", "positions", "masses"])
    sampler = {"temperature": 300.0, "timestep": 2.0, "friction": 0.002, "steps": arguments.steps, **ARMS[arm]}
    code = {"type": "ase", "calculator": "dipeptide:Amber"}
    data: dict[str, Any] = {
        "seed": seed,
        "trajectories": [
            {"name": "walker", "structure": "c7eq.xyz", "copies": WALKERS, "check_every": 5, "sampler": sampler}
        ],
        "uncertainty": {
            "soap": {"r_cut": 4.5, "n_max": 4, "l_max": 3},
            "ridge": 1e-4,
            "threshold": {"quantile": arguments.quantile, "factor": 1.0, "force_error": 0.15},
        },
        "embedding": {"workers": 0},
        "labelling": {"code": code, "workers": 1, "gate": {"max_learned_force": MAX_FORCE}},
        "dataset": {
            "generated": {
                "count": INITIAL,
                "calculator": code["calculator"],
                "temperature": 500.0,
                "timestep": 0.5,
                "steps_between": 50,
            },
            "validation_fraction": 0.0,
        },
        "model": {"n_blocks": 1, "units": 32},
        "training": {
            "loss": {"energy_end": 100.0},
            "pretrain": {"epochs": 300, "learning_rate": 5e-3, "rescale_layers": True},
            "final": {"epochs": arguments.final, "learning_rate": 5e-3, "max_seconds": None, "start": "scratch"},
        },
        "engine": {"mode": "lockstep", "restarts": 10, "write_every": 10, "checkpoint_every": 1000},
        "stop": {"labels": arguments.labels},
    }
    return parse_config(data, arguments.output)


def _made(config: Config, folder: Path, test: Sequence[Label]) -> dict[str, Any]:
    resumed = (folder / "config.yaml").is_file()
    spent = _cpu_seconds()
    summary = (Engine.resume(folder) if resumed else Engine.create(config, folder)).run()
    if summary.status == "interrupted":
        raise SystemExit(f"interrupted; the same command goes on with {folder}")
    labels = asked(folder)
    energy, force = errors(load_potential(folder / "model"), test)
    before = errors(load_potential(folder / "model_run"), test)
    events = told(folder)
    thresholds = [event["threshold"] for event in events if event["event"] == "check"]
    return {
        "coverage": coverage(dihedrals(walked(folder))),
        "coverage_of_labels": coverage(dihedrals(np.array([each.atoms.positions for each in labels]))),
        "energy": energy,
        "force": force,
        "cis": _count_cis(labels),
        **dict(zip(_BEFORE, before, strict=True)),
        "labels": len(labels),
        "refused": sum(event["event"] == "label_failed" for event in events),
        "threshold_first": thresholds[0],
        "threshold_last": thresholds[-1],
        "steps": summary.steps,
        "temperature": float(np.mean([event["temperature"] for event in events if event["event"] == "check"])),
        "restarts": sum(trajectory.restarts for trajectory in summary.trajectories),
        "seconds": None if resumed else _cpu_seconds() - spent,
    }


def _given(arm: str, seed: int, arguments: argparse.Namespace) -> list[Label]:
    """Labels that nothing has asked for."""
    if arm == CEILING:
        return _spaced(reference_trajectory(arguments.output, TEST_FRAMES, seed=8), INITIAL + arguments.labels)
    run = arguments.output / f"{ANEW.get(arm, 'plain')}_{seed}"
    start = read_labels(run / "initial_labels.extxyz")
    if arm in ANEW:
        return [*start, *asked(run)]
    return [*start, *labels_at(np.array(_spaced(walked(run), arguments.labels)))]


def _spaced(values: Sequence[Any] | FloatArray, count: int) -> list[Any]:
    return [values[index] for index in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _learned(config: Config, labels: Sequence[Label], test: Sequence[Label]) -> dict[str, Any]:
    """A new model after as many steps, whatever the number of labels, as the final training takes with all of them."""
    before = _cpu_seconds()
    epochs = config.training.final.epochs * (INITIAL + (config.stop.labels or 0)) // len(labels)
    potential = make_potential(config.model, sorted(set(molecule().symbols)), config.seed)
    pretrain = config.training.pretrain.model_copy(update={"epochs": epochs})
    Trainer(potential, config.training.model_copy(update={"pretrain": pretrain}), config.seed).pretrain(labels)
    energy, force = errors(potential, test)
    return {
        "energy": energy,
        "force": force,
        "cis": _count_cis(labels),
        "labels": len(labels),
        "seconds": _cpu_seconds() - before,
    }


def walked(folder: Path) -> FloatArray:
    """Positions (n, n_atoms, 3) of a run's frames: those of the way it kept, and of molecules that are whole."""
    start = molecule()
    pairs, lengths = bonds(start)
    files = sorted((folder / "trajectories").glob("*.extxyz"))
    frames = [atoms.positions for file in files for atoms in read_trajectory(file, 1.0, max_frames=10**9).atoms]
    whole = [positions for positions in frames if is_whole(positions[None], pairs, lengths)]
    return np.array(whole).reshape(-1, len(start), 3)


def told(folder: Path) -> list[dict[str, Any]]:
    """What a run has told."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def asked(folder: Path) -> list[Label]:
    """The labels that a run asked for and learned; those beyond the gate's limit stay in the store all the same."""
    with LabelStore(folder / "labels.db", read_only=True) as store:
        labels = [each for each in store.labels() if each.info.get("purpose") != "initial"]
    return [each for each in labels if np.linalg.norm(each.forces, axis=1).max() <= MAX_FORCE]


def _count_cis(labels: Sequence[Label]) -> int:
    return int(is_cis(np.array([each.atoms.positions for each in labels])).sum())


def errors(potential: Potential, labels: Sequence[Label]) -> tuple[float, float]:
    """Root mean square errors: energy in meV/atom and force components in eV/Å."""
    pairs = list(zip(potential.evaluate_batch([each.atoms for each in labels]), labels, strict=True))
    energies = [(one.energy - wanted.energy) / len(wanted.atoms) for one, wanted in pairs]
    forces = [one.forces - wanted.forces for one, wanted in pairs]
    return 1000 * rms(np.array(energies)), rms(np.concatenate(forces))


def _cpu_seconds() -> float:
    """Of this process and of the workers that it has ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/exploration_run"))
    parser.add_argument("--arms", nargs="+", default=EVERY, choices=EVERY)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--labels", type=int, default=64, help="of the dynamics; then it ends")
    parser.add_argument("--steps", type=int, default=5000, help="of a trajectory, at most")
    parser.add_argument("--quantile", type=float, default=0.99, help="of held-out u: the threshold, or its floor")
    parser.add_argument("--final", type=int, default=100, help="epochs of the final training")
    parser.add_argument("--test", type=int, default=3, help="seed of the test trajectory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
