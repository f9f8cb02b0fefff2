"""Alanine dipeptide: which dynamics finds the labels that make a model right everywhere.

    python benchmarks/exploration/alanine.py --output runs/exploration --arms biased300 plain300 --seeds 0

Table 1 of Zaverkin et al. (2024) with the same reference, AMBER ff19SB through OpenMM (`pip install openmm`). Every arm
begins with eight structures around C7eq and spends 512 labels, a tenth of them held back for calibration (see
`learning`); then a new model learns all of them and is judged (see `judging`). An arm goes on where it was killed;
finished ones are read, not made again, and another test trajectory needs no new exploration.

"ceiling" learns 512 frames of a 1200 K trajectory of the reference itself.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dipeptide import dihedrals, is_cis, labels_at, reference_trajectory
from judging import FINALS, judge
from learning import MOST, Run, models_folder
from measures import coverage
from moments import MomentPotential
from rows import cached, table
from walkers import Dynamics

from ideal.records import Label

ARMS = {
    "biased300": Dynamics(300.0, bias=0.25),
    "stronger300": Dynamics(300.0, bias=0.4),
    "plain300": Dynamics(300.0),
    "plain600": Dynamics(600.0),
    "plain1200": Dynamics(1200.0),
}
CEILING = "ceiling"
_TEST_FRAMES = 2000
_COLUMNS = (
    "coverage",
    "coverage_of_labels",
    "cis",
    "energy",
    "force",
    "energy_trans",
    "force_trans",
    "energy_cis",
    "force_cis",
    "position_act",
    "uncertainty_act",
    "structure_steps",
    "refused",
    "seconds",
    "final_seconds",
)


def main() -> None:
    """Make the arms that are missing, print all that are there after every seed."""
    arguments = _arguments()
    MomentPotential.is_compiled = not arguments.eager
    test = reference_trajectory(arguments.output, _TEST_FRAMES, arguments.test)
    rows = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            rows.append(_row(arm, seed, arguments, test))
        print(table(rows, _COLUMNS), flush=True)


def _row(arm: str, seed: int, arguments: argparse.Namespace, test: Sequence[Label]) -> dict[str, Any]:
    """What the arm explored and what its labels are worth."""
    folder = arguments.output / f"alanine_{arm}_{seed}"
    explored: dict[str, Any] = {"arm": arm, "seed": seed}
    if arm == CEILING:
        labels = reference_trajectory(arguments.output, MOST, seed=100 + seed)
        models_folder(folder).mkdir(parents=True, exist_ok=True)
    else:
        run = Run(arm, replace(ARMS[arm], steps=arguments.steps), seed, test, folder)
        explored = cached(folder.with_suffix(".json"), run.run)
        labels = labels_at(np.load(models_folder(folder) / "labels.npz")["positions"])
    positions = np.array([each.atoms.positions for each in labels])
    explored["cis"] = int(is_cis(positions).sum())
    explored["coverage_of_labels"] = coverage(dihedrals(positions))
    name, final = f"{folder.name}_judged_{arguments.test}", arguments.final
    path = folder.with_name(f"{name}.json" if final == "standard" else f"{name}_{final}.json")
    return explored | cached(path, judge, labels, seed, test, models_folder(folder) / f"final_{final}", final)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/exploration"))
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["biased300", "plain300", "plain600", "plain1200", CEILING],
        choices=[*ARMS, CEILING],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=Dynamics.steps, help="of a trajectory per round, at most")
    parser.add_argument("--test", type=int, default=3, help="seed of the test trajectory")
    parser.add_argument("--final", default="standard", choices=FINALS, help="network that learns all labels in the end")
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which needs a C++ compiler")
    return parser.parse_args()


if __name__ == "__main__":
    main()
