"""What training cells are worth: the paper's ablation (its Table 2) with empirical references and a linear model.

    python benchmarks/embedding/ablation.py --materials Li SiO2 --output runs/embedding

Per material and seed: a distribution that knows a few small frames of the target state; K atoms, drawn at random, of
large frames; one cell per arm around each; a linear potential (`linear`) fitted to each arm's cells alone; its errors
on whole large frames of another trajectory. "whole frames, equal K" trains on K small frames, "equal atoms" on as
many small frames as hold the atoms of our cells; "small cells" rattles and strains the crystal's own cells.

Every (material, seed, arm) is a JSON file of its own, so that an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, Cell, Setting, small_cells
from ase import Atoms
from linear import LinearPotential, errors, moments
from references import MATERIALS, Labelled, Material, Reference, cached_frames

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.embedding import minimum_distances

BASELINES = ("whole frames, equal K", "whole frames, equal atoms", "small cells")
NAMES = (*ARMS, *BASELINES)
KNOWN_FRAMES = 10
TEST_FRAMES = 2


def distribution(material: Material, frames: list[Atoms]) -> SoapMahalanobis:
    """The distance that knows ``frames``."""
    n_max, l_max = material.descriptor
    known = SoapMahalanobis(SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5))
    known.update(frames)
    return known


def setting(material: Material, folder: Path) -> Setting:
    """Distribution of the target state and its held-out threshold, from three folds."""
    frames = cached_frames(folder, material, material.training, KNOWN_FRAMES, seed=1)
    held_out = [
        distribution(material, [f for k, f in enumerate(frames) if k % 3 != fold]).atomic(frame)
        for fold in range(3)
        for frame in frames[fold::3]
    ]
    threshold = float(np.quantile(np.concatenate(held_out), 0.99))
    return Setting(material, distribution(material, frames), threshold, minimum_distances(frames))


def cells_of(name: str, given: Setting, folder: Path, seed: int, n_cells: int) -> tuple[list[Cell], float]:
    """The cells of one arm, and CPU seconds per cell."""
    material = given.material
    large = cached_frames(folder, material, material.frame, 4, seed=10 + seed)
    start = time.process_time()
    if name in ARMS:
        rng = np.random.default_rng(seed)
        made = []
        for k in range(n_cells):
            frame = large[k % len(large)]
            index = int(rng.integers(len(frame)))
            made.append(ARMS[name](given, frame, index, np.random.default_rng(1000 * seed + k)))
    elif name == "small cells":
        made = [_whole(a) for a in small_cells(material, 4 * n_cells, seed)]
    else:
        small = cached_frames(folder, material, material.training, 24, seed=20 + seed)
        count = n_cells
        if name == "whole frames, equal atoms":
            ours = json.loads(_path(folder, material, seed, "ours").read_text())
            count = max(1, round(ours["total_atoms"] / len(small[0])))
        made = [_whole(a) for a in small[:count]]
    return made, (time.process_time() - start) / len(made)


def run(name: str, material: Material, folder: Path, seed: int, n_cells: int) -> dict[str, Any]:
    """One arm: cells, labels, fit, errors."""
    given = setting(material, folder)
    cells, seconds = cells_of(name, given, folder, seed, n_cells)
    reference = Reference(material)
    # the loop never labels a cell that the embedding refused; the other arms label whatever they made
    labels = [reference.label(c.atoms) if c.accepted or name != "ours" else None for c in cells]
    soap = SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=6, l_max=4, sigma=0.5)
    model = LinearPotential(soap)
    model.fit(
        [label for label in labels if label],
        *moments(soap, cached_frames(folder, material, material.training, KNOWN_FRAMES, seed=1)),
    )
    test = [reference.label(a) for a in cached_frames(folder, material, material.frame, TEST_FRAMES, seed=30 + seed)]
    energy, force = errors(model, test)
    return {
        "material": material.name,
        "seed": seed,
        "arm": name,
        "energy_meV_per_atom": energy,
        "force_eV_per_A": force,
        "cells": len(cells),
        "accepted": float(np.mean([cell.accepted for cell in cells])),
        "atoms_median": float(np.median([len(cell.atoms) for cell in cells])),
        "total_atoms": int(sum(len(cell.atoms) for cell in cells)),
        "seconds_per_cell": seconds,
        "max_u_median": float(np.median([_max_filler(given, cell) for cell in cells])),
        "center_force_error": _center_force(given, cells, labels, folder, seed) if name in ARMS else None,
        "threshold": given.threshold,
    }


def _center_force(given: Setting, cells: list[Cell], labels: list[Labelled | None], folder: Path, seed: int) -> float:
    """Median norm of the difference between the center's reference force in its cell and in its frame, eV/Å."""
    material, reference = given.material, Reference(given.material)
    large = cached_frames(folder, material, material.frame, 4, seed=10 + seed)
    true = [reference.label(frame).forces for frame in large]
    rng = np.random.default_rng(seed)
    differences = []
    for k, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        index = int(rng.integers(len(large[k % len(large)])))
        if label is None:
            continue
        differences.append(np.linalg.norm(label.forces[cell.center] - true[k % len(large)][index]))
    return float(np.median(differences))


def _whole(atoms: Atoms) -> Cell:
    return Cell(atoms, np.ones(len(atoms), dtype=bool), 0, True)


def _max_filler(given: Setting, cell: Cell) -> float:
    return float(given.known.atomic(cell.atoms)[~cell.core].max(initial=0.0))


def _path(folder: Path, material: Material, seed: int, name: str) -> Path:
    return folder / "ablation" / f"{material.name}_{seed}_{name.replace(' ', '-').replace(',', '')}.json"


def table(folder: Path) -> str:
    """Markdown of all finished parts: mean over the seeds ± standard deviation."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "ablation").glob("*.json"))]
    lines = []
    for material in MATERIALS:
        mine = [r for r in results if r["material"] == material]
        if not mine:
            continue
        lines += [
            f"### {material}",
            "",
            "| arm | seeds | cells | atoms (median) | max filler u | accepted | E meV/atom | F eV/Å | "
            "center force eV/Å | s/cell |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name in NAMES:
            rows = [r for r in mine if r["arm"] == name]
            if rows:
                lines.append(_row(name, rows))
        lines.append("")
    return "\n".join(lines)


def _row(name: str, rows: list[dict[str, Any]]) -> str:
    def spread(key: str, digits: int) -> str:
        values = [r[key] for r in rows]
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    cropped = name in ARMS
    center = spread("center_force_error", 3) if cropped else "-"
    return (
        f"| {name} | {len(rows)} | {np.mean([r['cells'] for r in rows]):.0f} | "
        f"{np.mean([r['atoms_median'] for r in rows]):.0f} | "
        + (f"{np.mean([r['max_u_median'] for r in rows]):.1f}" if cropped else "-")
        + " | "
        + (f"{np.mean([r['accepted'] for r in rows]):.2f}" if cropped else "-")
        + f" | {spread('energy_meV_per_atom', 2)} | {spread('force_eV_per_A', 4)} | {center} | "
        f"{np.mean([r['seconds_per_cell'] for r in rows]):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", nargs="+", choices=sorted(MATERIALS), default=list(MATERIALS))
    parser.add_argument("--arms", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=20, help="K")
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    folder: Path = options.output
    (folder / "ablation").mkdir(parents=True, exist_ok=True)
    if not options.table:
        for seed in options.seeds:
            for name_of_material in options.materials:
                # "ours" first: the number of atoms of a baseline comes from it
                for name in sorted(options.arms, key=lambda arm: arm != "ours"):
                    path = _path(folder, MATERIALS[name_of_material], seed, name)
                    if path.exists():
                        continue
                    result = run(name, MATERIALS[name_of_material], folder, seed, options.cells)
                    temporary = path.with_suffix(".partial")
                    temporary.write_text(json.dumps(result, indent=1))
                    temporary.replace(path)
                    print(_row(name, [result]), flush=True)
    print(table(folder))


if __name__ == "__main__":
    main()
