"""Alanine dipeptide: which dynamics finds the labels that make a model right everywhere.

    python benchmarks/exploration/alanine.py --output runs/exploration --arms biased300 plain300 --seeds 0

Table 1 of Zaverkin et al. (2024) with the same reference, AMBER ff19SB through OpenMM (`pip install openmm`). Every arm
begins with eight structures around C7eq and spends 512 labels, a tenth of them held back for calibration and for
choosing the final weights; see `learning`. An arm goes on where it was killed; finished ones are read, not made again.

"ceiling" trains on 512 frames of a 1200 K trajectory of the reference itself.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dipeptide import dihedrals, reference_trajectory
from learning import FINAL_RATE, MOST, Effort, Run, errors, fresh
from measures import coverage
from moments import MomentPotential
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
    "energy",
    "force",
    "position_act",
    "uncertainty_act",
    "structure_steps",
    "seconds",
)


def main() -> None:
    """Make the arms that are missing, print all that are there after every seed."""
    arguments = _arguments()
    effort = Effort(arguments.batch, arguments.final)
    MomentPotential.is_compiled = not arguments.eager
    test = reference_trajectory(arguments.output, _TEST_FRAMES, arguments.test)
    rows = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            path = arguments.output / f"alanine_{arm}_{seed}.json"
            if not path.is_file():
                row = _made(arm, seed, effort, arguments.steps, test, path.with_suffix(""))
                temporary = path.with_suffix(".part")
                temporary.write_text(json.dumps(row))
                temporary.replace(path)
            rows.append(json.loads(path.read_text()))
        print(_table(rows), flush=True)


def _made(arm: str, seed: int, effort: Effort, steps: int, test: Sequence[Label], folder: Path) -> dict[str, Any]:
    if arm == CEILING:
        return ceiling(folder.parent, seed, effort.final, test)
    return Run(arm, replace(ARMS[arm], steps=steps), seed, effort, test, folder).run()


def ceiling(folder: Path, seed: int, final: int, test: Sequence[Label]) -> dict[str, Any]:
    """What the model reaches with 512 labels of the reference's own 1200 K trajectory."""
    began = time.process_time()
    labels = reference_trajectory(folder, MOST, seed=100 + seed)
    potential = fresh(labels, seed, final, FINAL_RATE)
    energy, force = errors(potential, test)
    seen = np.array([each.atoms.positions for each in labels])
    return {
        "arm": CEILING,
        "seed": seed,
        "final": final,
        "labels": len(labels),
        "energy": energy,
        "force": force,
        "coverage_of_labels": coverage(dihedrals(seen)),
        "seconds": time.process_time() - began,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: every row, then mean and standard deviation over seeds of every arm that has several."""
    lines = [f"| {' | '.join(('arm', 'seed', *_COLUMNS))} |", f"|{' --- |' * (2 + len(_COLUMNS))}"]
    for row in rows:
        cells = (f"{row[name]:.4g}" if name in row else "" for name in _COLUMNS)
        lines.append(f"| {row['arm']} | {row['seed']} | {' | '.join(cells)} |")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        if len(own) > 1:
            spreads = (_spread([row[name] for row in own if name in row]) for name in _COLUMNS)
            lines.append(f"| {arm} | {len(own)} seeds | {' | '.join(spreads)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""


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
    parser.add_argument("--batch", type=int, default=Effort.batch, help="labels per round")
    parser.add_argument("--steps", type=int, default=Dynamics.steps, help="of a trajectory per round, at most")
    parser.add_argument("--final", type=int, default=Effort.final, help="steps of the final training")
    parser.add_argument("--test", type=int, default=2, help="seed of the test trajectory")
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which needs a C++ compiler")
    return parser.parse_args()


if __name__ == "__main__":
    main()
