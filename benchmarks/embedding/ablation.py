"""What training cells are worth: the paper's ablation (its Table 2) with empirical references.

    python benchmarks/embedding/ablation.py --materials Li SiO2 --output runs/embedding
    python benchmarks/embedding/ablation.py --model m3gnet --materials Li --arms paper ours "whole frames, equal atoms"

Per material and seed: a distribution that knows a few small frames of the target state; K atoms, drawn at random, of
large frames; one cell per arm around each; a model fitted to each arm's cells alone; its errors on whole large frames
of another trajectory. "whole frames, equal K" trains on K small frames, "equal atoms" on as many small frames as hold
the atoms of our cells; "small cells" rattles and strains the crystal's own cells.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from arms import ARMS
from ase import Atoms
from cells import NAMES, known_frames, labelled_cells, learned, test_labels
from linear import LinearPotential, moments
from network import Network
from parts import Result, file_name, finished, part, spread
from references import MATERIALS, Labelled, Material

from ideal import SoapPowerSpectrum

MODELS = ("linear", "m3gnet")
WHOLE = "whole frames, equal atoms"


def run(model: str, material: Material, folder: Path, arm: str, seed: int, n_cells: int) -> Result:
    """One arm: cells, labels, fit, errors."""
    cells = labelled_cells(material, folder, arm, seed, n_cells)
    fitted = fit(model, material, folder, learned(cells), seed)
    energy, forces = errors(fitted, test_labels(material, folder))
    cropped = arm in ARMS
    centers = [a.info["center_force_error"] for a in cells if a.info["center_force_error"] >= 0]
    return {
        "material": material.name,
        "model": model,
        "arm": arm,
        "seed": seed,
        "cells": len(cells),
        "energy_meV_per_atom": energy,
        "force_eV_per_A": forces,
        "atoms_median": float(np.median([len(a) for a in cells])),
        "total_atoms": sum(len(a) for a in cells if a.info["learned"]),
        "accepted": float(np.mean([a.info["accepted"] for a in cells])) if cropped else None,
        "max_u": float(np.median([a.info["max_u"] for a in cells])) if cropped else None,
        "threshold": cells[0].info["threshold"],
        "center_force_error": float(np.median(centers)) if centers else None,
        "seconds_per_cell": float(np.mean([a.info["seconds"] for a in cells])) if cropped else None,
    }


def fit(model: str, material: Material, folder: Path, labels: list[Labelled], seed: int) -> LinearPotential | Network:
    """A model that knows ``labels`` alone."""
    if model == "m3gnet":
        return Network(material.species, labels, seed)
    soap = SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=6, l_max=4, sigma=0.5)
    linear = LinearPotential(soap)
    linear.fit(labels, *moments(soap, known_frames(material, folder)))
    return linear


def errors(model: LinearPotential | Network, labels: list[Labelled]) -> tuple[float, float]:
    """Mean absolute errors: energy (meV/atom), force components (eV/Å)."""
    energy, forces = [], []
    for label in labels:
        e, f = model.predict(Atoms(label.atoms))
        energy.append(abs(e - label.energy) / len(label.atoms) * 1000)
        forces.append(np.abs(f - label.forces).ravel())
    return float(np.mean(energy)), float(np.concatenate(forces).mean())


def fitted_arms(folder: Path, name: str, seed: int) -> list[str]:
    """The arms of one material and seed that a linear model has been fitted to."""
    return [arm for arm in NAMES if (folder / "ablation" / file_name("linear", name, seed, arm)).exists()]


def table(folder: Path) -> str:
    """Markdown of all finished parts: mean over the seeds ± standard deviation."""
    results = finished(folder / "ablation")
    lines = []
    for model in MODELS:
        for material in MATERIALS:
            mine = [r for r in results if r["material"] == material and r["model"] == model]
            if not mine:
                continue
            whole = {r["seed"]: r["force_eV_per_A"] for r in mine if r["arm"] == WHOLE}
            lines += [
                f"#### {material}, {'linear model' if model == 'linear' else 'M3GNet'}",
                "",
                "| arm | seeds | atoms (median) | max filler u / threshold | accepted | E meV/atom | F eV/Å | "
                "F / whole frames with equal atoms | center force eV/Å | CPU s/cell |",
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            ]
            for arm in NAMES:
                rows = [r for r in mine if r["arm"] == arm]
                if rows:
                    lines.append(_row(arm, rows, whole))
            lines.append("")
    return "\n".join(lines)


def _row(arm: str, rows: list[Result], whole: dict[int, float]) -> str:
    def column(key: str, digits: int) -> str:
        return spread([r[key] for r in rows], digits)

    cropped = arm in ARMS
    ratios = [r["force_eV_per_A"] / whole[r["seed"]] for r in rows if r["seed"] in whole]
    largest = np.mean([r["max_u"] / r["threshold"] for r in rows]) if cropped else 0.0
    cells = [
        f"**{arm}**" if arm == "ours" else arm,
        str(len(rows)),
        f"{np.mean([r['atoms_median'] for r in rows]):.0f}",
        f"{largest:.2f}" if cropped and largest else "-",
        f"{np.mean([r['accepted'] for r in rows]):.2f}" if cropped else "-",
        column("energy_meV_per_atom", 2),
        column("force_eV_per_A", 4),
        spread(ratios, 2) if ratios else "-",
        column("center_force_error", 3) if cropped else "-",
        f"{np.mean([r['seconds_per_cell'] for r in rows]):.2f}" if cropped else "-",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="linear")
    parser.add_argument("--materials", nargs="+", choices=sorted(MATERIALS), default=list(MATERIALS))
    parser.add_argument("--arms", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=20, help="K")
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for seed in options.seeds:
            for name in options.materials:
                for arm in options.arms:
                    path = folder / "ablation" / file_name(options.model, name, seed, arm)
                    arguments = (options.model, MATERIALS[name], folder, arm, seed, options.cells)
                    part(path, partial(run, *arguments))
    print(table(folder))


if __name__ == "__main__":
    main()
