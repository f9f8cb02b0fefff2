"""How like the frame the filler is: its uncertainty, energy, forces and density beside those of the frames.

    python benchmarks/embedding/likeness.py --output runs/embedding

Reads the cells of the ablation. Energies are per atom of the whole cell, minus those of the frames; forces are the mean
component on filler atoms, density and u likewise relative to the frames'.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from ablation import fitted_arms
from arms import ARMS
from ase import Atoms
from cells import labelled_cells, large_frames, setting
from parts import Result, file_name, finished, part, spread
from references import MATERIALS, Reference

SHOWN = tuple(arm for arm in ARMS if arm != "sphere in vacuum")


def measure(name: str, folder: Path, seed: int, n_cells: int) -> Result:
    """All arms of one material and seed whose cells are there."""
    material, given = MATERIALS[name], setting(name, folder)
    frames = large_frames(material, folder, seed)
    labels = [Reference(material).label(frame) for frame in frames]
    u = np.concatenate([given.known.atomic(frame) for frame in frames])
    usual = {
        "u": _rms(u),
        "energy": float(np.mean([x.energy / len(x.atoms) for x in labels])),
        "force": float(np.mean([np.abs(x.forces).mean() for x in labels])),
        "density": len(frames[0]) / frames[0].get_volume(),
    }
    arms = {}
    for arm in fitted_arms(folder, name, seed):
        if arm in SHOWN:
            cells = [a for a in labelled_cells(material, folder, arm, seed, n_cells) if a.info["learned"]]
            filler = [a.arrays["core"] == 0 for a in cells]
            arms[arm] = {
                "u": _rms(np.concatenate([given.known.atomic(a)[f] for a, f in zip(cells, filler, strict=True)])),
                "energy": float(np.mean([_energy(a) for a in cells])),
                "force": float(
                    np.concatenate([np.abs(a.get_forces()[f]) for a, f in zip(cells, filler, strict=True)]).mean()
                ),
                "density": float(np.mean([len(a) / a.get_volume() for a in cells])),
            }
    return {"material": name, "seed": seed, "usual": usual, "threshold": given.threshold, "arms": arms}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def _energy(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy() / len(atoms))


def table(folder: Path) -> str:
    """Markdown: mean over the seeds ± standard deviation."""
    results = finished(folder / "likeness")
    lines = [
        "| material | arm | rms u of the filler (frames: 1) | energy, meV/atom above the frames | force on filler "
        "(frames: 1) | density (frames: 1) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in MATERIALS:
        for arm in SHOWN:
            mine = [(r["arms"][arm], r["usual"]) for r in results if r["material"] == name and arm in r["arms"]]
            if not mine:
                continue
            lines.append(
                f"| {name} | {arm} | {spread([a['u'] / f['u'] for a, f in mine], 2)} | "
                f"{spread([1000 * (a['energy'] - f['energy']) for a, f in mine], 0)} | "
                f"{spread([a['force'] / f['force'] for a, f in mine], 2)} | "
                f"{spread([a['density'] / f['density'] for a, f in mine], 3)} |"
            )
    return "\n".join(lines)


def run(folder: Path, seeds: list[int], n_cells: int) -> None:
    """Everything that is missing."""
    for seed in seeds:
        for name in MATERIALS:
            if fitted_arms(folder, name, seed):
                part(folder / "likeness" / file_name(name, seed), partial(measure, name, folder, seed, n_cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=20, help="K")
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    run(options.output, options.seeds, options.cells)
    print(table(options.output))


if __name__ == "__main__":
    main()
