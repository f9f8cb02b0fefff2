"""Size of the cells against what a model learns from them, and against what their labels cost.

    python benchmarks/embedding/sizes.py --output runs/embedding

For each radius of the core and margin, models are fitted to the first K cells, K = 5, 10, 20, and tested on whole
frames. The cost of a label is taken as the cube of its atoms. Growth is off, so that a size is a size.

`fidelity`: how far the reference's force on the center moves when everything beyond r_core (3 to 8 Å) becomes filler.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from ablation import errors, fit
from cells import Size, labelled_cells, large_frames, learned, setting, test_labels
from parts import Result, file_name, finished, part, spread
from references import MATERIALS, Reference

from ideal.config import EmbeddingConfig
from ideal.embedding import embed

SIZES: tuple[Size, ...] = ((3.0, 2.0), (4.0, 2.0), (4.0, 3.0), (5.0, 3.0), (6.0, 3.0))
COUNTS = (5, 10, 20)
CORES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
NAMES = ("Li", "SiO2")
FIDELITY_CENTERS = 12


def learning(name: str, folder: Path, size: Size, seed: int) -> Result:
    """Errors after the first K cells of one size."""
    material = MATERIALS[name]
    cells = labelled_cells(material, folder, "ours", seed, max(COUNTS), size)
    tests = test_labels(material, folder)
    rows = []
    for count in COUNTS:
        labels = learned(cells[:count])
        if not labels:
            continue
        energy, force = errors(fit("linear", material, folder, labels, seed), tests)
        atoms = [len(x.atoms) for x in labels]
        rows.append(
            {
                "K": count,
                "labels": len(labels),
                "atoms": sum(atoms),
                "cubes": float(sum(n**3 for n in atoms)),
                "energy_meV_per_atom": energy,
                "force_eV_per_A": force,
            }
        )
    return {
        "material": name,
        "r_core": size[0],
        "margin": size[1],
        "seed": seed,
        "accepted": float(np.mean([a.info["accepted"] for a in cells])),
        "atoms_median": float(np.median([len(a) for a in cells])),
        "rows": rows,
    }


def fidelity(name: str, folder: Path, r_core: float) -> Result:
    """Norm of the difference between the center's reference force in its cell and in its frame, eV/Å."""
    material, given = MATERIALS[name], setting(name, folder)
    reference = Reference(material)
    frame = large_frames(material, folder, 1)[-1]
    forces = reference.label(frame).forces
    config = EmbeddingConfig(r_core=r_core, margin=2.0, growth_attempts=0, max_atoms=600, young_factor=1.0)
    rng = np.random.default_rng(5)
    differences, accepted, atoms = [], 0, []
    for index in rng.choice(len(frame), FIDELITY_CENTERS, replace=False):
        cell = embed(frame, int(index), given.known, 0, config, given.threshold, min_distances=given.distances)
        if cell.whole_frame or len(cell.atoms) < cell.core.sum() + 1:
            continue
        label = reference.label(cell.atoms)
        differences.append(float(np.linalg.norm(label.forces[cell.center] - forces[index])))
        accepted += cell.accepted
        atoms.append(len(cell.atoms))
    return {
        "material": name,
        "r_core": r_core,
        "cells": len(differences),
        "accepted": accepted,
        "atoms_median": float(np.median(atoms)) if atoms else None,
        "difference_median": float(np.median(differences)) if differences else None,
        "difference_largest": max(differences) if differences else None,
        "force_rms": float(np.sqrt((forces**2).sum(axis=1).mean())),
    }


def learning_table(folder: Path) -> str:
    """Markdown of the finished sizes."""
    results = finished(folder / "sizes")
    lines = [
        "| material | r_core, margin Å | seeds | atoms (median) | accepted | F eV/Å at K = 5 | K = 10 | K = 20 | "
        "atoms labelled at K = 20 | their cost (sum of N³, 10⁶) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        for size in SIZES:
            mine = [r for r in results if (r["material"], r["r_core"], r["margin"]) == (name, *size) and r["rows"]]
            if not mine:
                continue

            def at(count: int, key: str, mine: list[Result] = mine) -> list[float]:
                return [row[key] for r in mine for row in r["rows"] if row["K"] == count]

            forces = [
                spread(at(count, "force_eV_per_A"), 4) if at(count, "force_eV_per_A") else "-" for count in COUNTS
            ]
            lines.append(
                f"| {name} | {size[0]:g}, {size[1]:g} | {len(mine)} | "
                f"{np.mean([r['atoms_median'] for r in mine]):.0f} | {np.mean([r['accepted'] for r in mine]):.2f} | "
                + " | ".join(forces)
                + f" | {np.mean(at(20, 'atoms')):.0f} | {np.mean(at(20, 'cubes')) / 1e6:.1f} |"
            )
    return "\n".join(lines)


def needed_table(folder: Path) -> str:
    """Markdown: atoms and cost that each size needs for one error, that of the worst size after all its cells."""
    results = finished(folder / "sizes")
    lines = [
        "| material | F eV/Å | " + " | ".join(f"{r:g}, {m:g} Å" for r, m in SIZES) + " |",
        "| --- | --- |" + " --- |" * len(SIZES),
    ]
    for name in NAMES:
        curves = {}
        for size in SIZES:
            mine = [r for r in results if (r["material"], r["r_core"], r["margin"]) == (name, *size)]
            means = [
                [np.mean([row[key] for row in rows]) for key in ("force_eV_per_A", "atoms", "cubes")]
                for count in COUNTS
                if (rows := [row for r in mine for row in r["rows"] if row["K"] == count])
            ]
            if means:
                curves[size] = np.array(means)
        if not curves:
            continue
        target = max(curve[:, 0].min() for curve in curves.values())
        lines.append(f"| {name} | {target:.4f} | " + " | ".join(_needed(curves.get(s), target) for s in SIZES) + " |")
    return "\n".join(lines)


def _needed(curve: np.ndarray | None, target: float) -> str:
    """Atoms (cost) at which a curve of (error, atoms, cost) reaches an error, between its points."""
    if curve is None:
        return "-"
    error, atoms, cubes = np.log(curve[np.argsort(curve[:, 0])]).T
    if np.log(target) > error[-1]:
        return f"< {np.exp(atoms[-1]):.0f} ({np.exp(cubes[-1]) / 1e6:.1f})"
    wanted = [np.exp(np.interp(np.log(target), error, column)) for column in (atoms, cubes)]
    return f"{wanted[0]:.0f} ({wanted[1] / 1e6:.1f})"


def fidelity_table(folder: Path) -> str:
    """Markdown of the finished cores."""
    results = finished(folder / "fidelity")
    lines = [
        "| material | r_core Å | cells (accepted) | atoms (median) | center force: median difference eV/Å | largest | "
        "median / rms force |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in NAMES:
        for r in sorted((r for r in results if r["material"] == name and r["cells"]), key=lambda r: r["r_core"]):
            lines.append(
                f"| {name} | {r['r_core']:g} | {r['cells']} ({r['accepted']}) | {r['atoms_median']:.0f} | "
                f"{r['difference_median']:.4f} | {r['difference_largest']:.3f} | "
                f"{r['difference_median'] / r['force_rms']:.1%} |"
            )
    return "\n".join(lines)


def run(folder: Path, seeds: list[int]) -> None:
    """Everything that is missing."""
    for name in NAMES:
        for r_core in CORES:
            part(folder / "fidelity" / file_name(name, r_core), partial(fidelity, name, folder, r_core))
    for seed in seeds:
        for name in NAMES:
            for size in SIZES:
                path = folder / "sizes" / file_name(name, *size, seed)
                part(path, partial(learning, name, folder, size, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    run(options.output, options.seeds)
    print(learning_table(options.output), needed_table(options.output), fidelity_table(options.output), sep="\n\n")


if __name__ == "__main__":
    main()
