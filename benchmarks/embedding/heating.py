"""Cells of a state hotter than all that is known: what the bound on the filler's mean u² does there.

    python benchmarks/embedding/heating.py --output runs/embedding

A distribution knows ten small frames of a cold crystal. K atoms of four large hot frames, by turns the most uncertain
one and a random one, are embedded in the default configuration; every accepted cell is learned before the next. The
linear potential is fitted to the known frames and the cells, and tested on large hot frames of another trajectory.
The known state's held-out 99 % quantile, times 1.5, is the threshold.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from ablation import errors
from ase import Atoms
from cells import KNOWN_FRAMES, SMALL_FRAMES, distribution, large_frames, test_labels
from linear import LinearPotential, moments
from parts import Result, file_name, finished, part, spread
from references import MATERIALS, Labelled, Material, Reference, cached_frames

from ideal import SoapPowerSpectrum
from ideal.embedding import embed, filler, minimum_distances

COLD = {"Al": 400.0, "Li": 250.0}
"""Temperature (K) of the known frames; that of the hot ones is the material's."""

K = 16
YOUNG = 1.5
"""The threshold, in held-out quantiles of the known state."""

Bound = Callable[[np.ndarray, float], float]


def of_known_state(core: np.ndarray, threshold: float) -> float:
    """The floor of the filler's mean u² that knows nothing of the frame."""
    return max(1.0, (filler.USUAL * threshold) ** 2)


def no_bound(core: np.ndarray, threshold: float) -> float:
    """The hinge on single atoms is all that moves the filler."""
    return float("inf")


BOUNDS: dict[str, Bound] = {
    "ours": filler.usual_mean_square,
    "bound of a known state": of_known_state,
    "hinge alone": no_bound,
}
KNOWN = "known frames alone"
WHOLE = "whole frames, equal atoms"
ARMS = (*BOUNDS, WHOLE, KNOWN)


def known_frames(name: str, folder: Path) -> list[Atoms]:
    """The cold frames; the crystal has the lattice constant of the hot ones."""
    material = MATERIALS[name]
    temperature = COLD[name]
    cold = replace(material, name=f"{name}-{temperature:.0f}K", stages=((temperature, 2.0),))
    return cached_frames(folder, cold, cold.training, KNOWN_FRAMES, seed=1)


@cache
def threshold(name: str, folder: Path) -> float:
    """From three folds of the known frames."""
    frames = known_frames(name, folder)
    held_out = [
        distribution(MATERIALS[name], [f for k, f in enumerate(frames) if k % 3 != fold]).atomic(frame)
        for fold in range(3)
        for frame in frames[fold::3]
    ]
    return YOUNG * float(np.quantile(np.concatenate(held_out), 0.99))


def make_cells(name: str, folder: Path, bound: Bound, seed: int) -> tuple[list[Labelled], Result]:
    """The accepted cells of one arm, one learned after the other, with labels; what they are like."""
    material, limit = MATERIALS[name], threshold(name, folder)
    frames, reference = large_frames(material, folder, seed), Reference(material)
    usual = float(np.mean([np.abs(reference.label(frame).forces).mean() for frame in frames]))
    small = known_frames(name, folder)
    known, distances = distribution(material, small), minimum_distances(small)
    other = test_labels(material, folder)[0].atoms
    before = known.atomic(other)
    rng = np.random.default_rng(seed)
    labels, on_filler, start = [], [], time.process_time()
    with patch.object(filler, "usual_mean_square", bound):
        for k in range(K):
            frame = frames[k % len(frames)]
            index = int(np.argmax(known.atomic(frame))) if k % 2 == 0 else int(rng.integers(len(frame)))
            cell = embed(frame, index, known, 1000 * seed + k, threshold=limit, min_distances=distances)
            if cell.accepted:
                known.update(cell.atoms)
                labels.append(reference.label(cell.atoms))
                on_filler.append(np.abs(labels[-1].forces[~cell.core]).ravel())
    described = {
        "accepted": len(labels) / K,
        "force_on_filler": float(np.concatenate(on_filler).mean()) / usual,
        "u_before": float(np.median(before) / limit),
        "u_after": float(np.median(known.atomic(other)) / limit),
        "seconds": time.process_time() - start,
    }
    return labels, described


def whole_frames(material: Material, folder: Path, seed: int, n_atoms: int) -> list[Labelled]:
    """Small hot frames with as many atoms, spread over a trajectory."""
    frames = cached_frames(folder, material, material.training, SMALL_FRAMES, seed=20 + seed)
    chosen = np.linspace(0, len(frames) - 1, max(1, round(n_atoms / len(frames[0])))).round().astype(int)
    reference = Reference(material)
    return [reference.label(frames[k]) for k in chosen]


def run(name: str, folder: Path, arm: str, seed: int) -> Result:
    """One arm: cells or frames, fit, errors."""
    material, described = MATERIALS[name], {}
    labels: list[Labelled] = []
    if arm in BOUNDS:
        labels, described = make_cells(name, folder, BOUNDS[arm], seed)
    elif arm == WHOLE:
        labels = whole_frames(material, folder, seed, stored(folder, name, "ours", seed)["atoms"])
    small, reference = known_frames(name, folder), Reference(material)
    soap = SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=6, l_max=4, sigma=0.5)
    model = LinearPotential(soap)
    model.fit([*(reference.label(atoms) for atoms in small), *labels], *moments(soap, small))
    energy, force = errors(model, test_labels(material, folder))
    return {
        "material": name,
        "arm": arm,
        "seed": seed,
        "labels": len(labels),
        "atoms": sum(len(label.atoms) for label in labels),
        "energy_meV_per_atom": energy,
        "force_eV_per_A": force,
        **described,
    }


def stored(folder: Path, name: str, arm: str, seed: int) -> Result:
    """One part, made where it is missing."""
    path = folder / "heating" / file_name(name, seed, arm)
    return part(path, partial(run, name, folder, arm, seed))


def table(folder: Path, seeds: list[int]) -> str:
    """Markdown: mean over the seeds ± standard deviation; unfinished parts are made."""
    for seed in seeds:
        for name in COLD:
            for arm in ARMS:
                if arm != KNOWN or seed == seeds[0]:  # the known frames are the same for every seed
                    stored(folder, name, arm, seed)
    results = finished(folder / "heating")
    lines = [
        "| material | arm | seeds | accepted | atoms learned | force on filler (frames: 1) | u / threshold in another "
        "hot frame before, after | E meV/atom | F eV/Å | F / whole frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in COLD:
        mine = [r for r in results if r["material"] == name]
        whole = _by_seed([r for r in mine if r["arm"] == WHOLE])
        lines += [_row(name, arm, [r for r in mine if r["arm"] == arm], whole) for arm in ARMS]
    return "\n".join(lines)


def _by_seed(rows: list[Result]) -> dict[int, float]:
    return {r["seed"]: r["force_eV_per_A"] for r in rows}


def _row(name: str, arm: str, rows: list[Result], whole: dict[int, float]) -> str:
    def mean(key: str, digits: int) -> str:
        return f"{np.mean([r[key] for r in rows]):.{digits}f}"

    cropped = arm in BOUNDS
    errors_by_seed = dict.fromkeys(whole, rows[0]["force_eV_per_A"]) if arm == KNOWN else _by_seed(rows)
    ratios = [errors_by_seed[seed] / force for seed, force in whole.items()]
    cells = [
        name,
        f"**{arm}**" if arm == "ours" else arm,
        str(len(rows)),
        mean("accepted", 2) if cropped else "-",
        mean("atoms", 0),
        spread([r["force_on_filler"] for r in rows], 2) if cropped else "-",
        f"{mean('u_before', 2)}, {mean('u_after', 2)}" if cropped else "-",
        spread([r["energy_meV_per_atom"] for r in rows], 2),
        spread([r["force_eV_per_A"] for r in rows], 4),
        spread(ratios, 2),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    print(table(options.output, options.seeds))


if __name__ == "__main__":
    main()
