"""How often a cell is accepted, how large it is and what it costs, per system.

    python benchmarks/embedding/success.py --output runs/embedding

Centers are drawn at random from a large frame; the threshold is the held-out 99 % quantile, strict (young_factor 1);
everything else is the default configuration. A whole frame does not count as a success.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from parts import Result, file_name, part
from systems import SYSTEMS, System, known

from ideal.config import EmbeddingConfig
from ideal.embedding import embed

CONFIG = EmbeddingConfig(young_factor=1.0)


def measure(system: System, folder: Path, n_centers: int) -> Result:
    """Success rate, sizes and CPU seconds."""
    small, frame = system.frames(folder)
    given = known(system, small)
    seconds, sizes, accepted, refusals = [], [], [], {}
    for index in centers(system, frame, n_centers):
        start = time.process_time()
        cell = embed(frame, index, given.uncertainty, index, CONFIG, given.threshold, min_distances=given.distances)
        seconds.append(time.process_time() - start)
        sizes.append(len(cell.atoms))
        accepted.append(cell.accepted and not cell.whole_frame)
        if not accepted[-1]:
            refusals[index] = cell.reason or "the whole frame was returned"
    return {
        "system": system.name,
        "frame_atoms": len(frame),
        "accepted": int(sum(accepted)),
        "centers": n_centers,
        "atoms_median": float(np.median(sizes)),
        "atoms_max": max(sizes),
        "seconds_median": float(np.median(seconds)),
        "seconds_max": float(max(seconds)),
        "threshold": given.threshold,
        "u_of_frame": np.quantile(given.uncertainty.atomic(frame), [0.5, 0.9, 0.99]).tolist(),
        "refusals": refusals,
    }


def centers(system: System, frame: Atoms, n_centers: int) -> list[int]:
    """Random atoms; half of them of the chosen elements where the system names some."""
    rng = np.random.default_rng(0)
    if system.chosen is None:
        return [int(k) for k in rng.choice(len(frame), n_centers, replace=False)]
    is_chosen = np.isin(frame.numbers, system.chosen)
    half = n_centers // 2
    parts = [(np.flatnonzero(is_chosen), half), (np.flatnonzero(~is_chosen), n_centers - half)]
    return [int(k) for pool, count in parts for k in rng.choice(pool, count, replace=False)]


def table(folder: Path, n_centers: int) -> str:
    """Markdown of all systems; unfinished ones are measured."""
    lines = [
        "| system | frame | accepted | goal | cell, atoms (median, largest) | CPU s (median, largest) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, system in SYSTEMS.items():
        path = folder / "success" / file_name(name, n_centers)
        r = part(path, partial(measure, system, folder, n_centers))
        lines.append(
            f"| {name} | {r['frame_atoms']} | {r['accepted']}/{r['centers']} | {system.goal:.0%} | "
            f"{r['atoms_median']:.0f}, {r['atoms_max']} | {r['seconds_median']:.2f}, {r['seconds_max']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--centers", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    print(table(options.output, options.centers))


if __name__ == "__main__":
    main()
