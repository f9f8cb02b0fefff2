"""How many steps and labels a model needs until long dynamics with it survives: plain against biased exploration.

    python benchmarks/exploration/survival.py --output runs/exploration --arms biased300 plain300 --seeds 1 2 3

van der Oord et al. (2023), Fig. 6, on alanine dipeptide: the models that `alanine.py` kept after its rounds are taken
one after the other; ``--runs`` trajectories of plain dynamics start from C7eq, and the model's number is the step at
which the first of them breaks: a bond shorter than 0.7 or longer than 1.4 times its length in ff19SB's minimum, or a
position that is not finite. The first model that survives all steps ends the arm. Finished models are read, not run
again.

Npj Comput. Mater. 9, 168 (2023), doi:10.1038/s41524-023-01104-6.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.neighborlist import natural_cutoffs, neighbor_list
from dipeptide import molecule
from learning import MOST, models_folder
from moments import MomentPotential
from walkers import forces_at

from ideal.records import FloatArray, IntArray

SHORTEST, LONGEST = 0.7, 1.4


def main() -> None:
    """Run the models that were not run yet, print how long each one lasts and a table of the first that survive."""
    arguments = _arguments()
    MomentPotential.is_compiled = not arguments.eager
    rows = [_first_survivor(arm, seed, arguments) for seed in arguments.seeds for arm in arguments.arms]
    print("| arm | seed | labels | steps of exploration | steps survived by the model before |")
    print(f"|{' --- |' * 5}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def _first_survivor(arm: str, seed: int, arguments: argparse.Namespace) -> tuple[Any, ...]:
    """Arm, seed, labels and steps of exploration of its first model that survives, and what the model before did."""
    folder = models_folder(arguments.output / f"alanine_{arm}_{seed}")
    walked = _steps_of_exploration(arguments.output / f"alanine_{arm}_{seed}")
    before: int | None = None
    for path in sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name)):
        if int(path.name) > arguments.most_labels:
            break
        name = f"survival_{arm}_{seed}_{path.name}_{arguments.runs}_{arguments.temperature:g}.json"
        row = _row(arguments.output / name, path, arguments)
        steps = walked.get(int(path.name))
        print(f"{arm} {seed} labels {path.name} steps of exploration {steps} survived {row['survived']}", flush=True)
        if not row["broke"]:
            return arm, seed, path.name, steps, before
        before = row["survived"]
    return arm, seed, f"more than {arguments.most_labels}", None, before


def _row(cached: Path, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The finished row; an older one that survived fewer steps than are asked for now is made anew."""
    if cached.is_file():
        row: dict[str, Any] = json.loads(cached.read_text())
        if row["broke"] or row["survived"] >= arguments.steps:
            return row
    potential = MomentPotential.load(model, "cpu")
    survived = steps_survived(potential, arguments.runs, arguments.steps, arguments.temperature)
    row = {"survived": survived, "broke": survived < arguments.steps, "runs": arguments.runs}
    temporary = cached.with_suffix(".part")
    temporary.write_text(json.dumps(row))
    temporary.replace(cached)
    return row


def steps_survived(potential: MomentPotential, runs: int, steps: int, temperature: float) -> int:
    """Steps of 0.5 fs until the first of ``runs`` trajectories breaks, at most ``steps``."""
    start = molecule()
    pairs, lengths = bonds(start)
    for step, positions in enumerate(_trajectories(potential, start, runs, temperature)):
        if step >= steps:
            return steps
        if not is_whole(positions, pairs, lengths):
            return step
    raise AssertionError("the trajectories have no end")


def bonds(atoms: Atoms) -> tuple[IntArray, FloatArray]:
    """Pairs (n_bonds, 2) of bonded atoms and their distances (n_bonds,), Å."""
    first, second, distances = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=1.1))
    once = first < second
    return np.stack([first[once], second[once]], axis=1), distances[once]


def is_whole(positions: FloatArray, pairs: IntArray, lengths: FloatArray) -> bool:
    """Whether all bonds of all walkers (n_walkers, n_atoms, 3) are as long as `SHORTEST` and `LONGEST` allow."""
    if not np.isfinite(positions).all():
        return False
    ratios = np.linalg.norm(positions[:, pairs[:, 0]] - positions[:, pairs[:, 1]], axis=-1) / lengths
    return bool((ratios > SHORTEST).all() and (ratios < LONGEST).all())


def _trajectories(potential: MomentPotential, start: Atoms, runs: int, temperature: float) -> Iterator[FloatArray]:
    """Positions (runs, n_atoms, 3) after 0, 1, ... steps of Langevin dynamics (BAOAB, 0.5 fs, 1/ps)."""
    rng = np.random.default_rng(11)
    masses, kt, dt = start.get_masses()[None, :, None], units.kB * temperature, 0.5 * units.fs
    keep = np.exp(-0.001 * 0.5)
    x = np.repeat(start.positions[None], runs, axis=0)
    v = rng.standard_normal(x.shape) * np.sqrt(kt / masses)
    while True:
        yield x
        v += dt * forces_at(potential, x) / masses
        x = x + 0.5 * dt * v
        v = keep * v + np.sqrt((1 - keep**2) * kt / masses) * rng.standard_normal(v.shape)
        x += 0.5 * dt * v


def _steps_of_exploration(folder: Path) -> dict[int, int]:
    """Structure-steps that an arm had walked when it had so many labels."""
    finished = folder.with_suffix(".json")
    if finished.is_file():
        curve = json.loads(finished.read_text())["curve"]
    elif (folder / "state.npz").is_file():
        with np.load(folder / "state.npz") as state:
            curve = json.loads(str(state["notes"]))[1]
    else:
        return {}
    walked = np.cumsum([entry["steps"] for entry in curve]).tolist()
    return {int(entry["labels"]): int(n) for entry, n in zip(curve, walked, strict=True)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/exploration"))
    parser.add_argument("--arms", nargs="+", default=["biased300", "plain300"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10000, help="that a model has to survive, at most")
    parser.add_argument("--most-labels", type=int, default=MOST, help="models of more are left out")
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which needs a C++ compiler")
    parser.add_argument("--temperature", type=float, default=500.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
