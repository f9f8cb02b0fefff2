"""One point with density functional theory: lithium with GPAW, few labels.

    python benchmarks/embedding/dft.py --output runs/embedding

Centers are drawn from hot 432-atom frames (dynamics with the empirical reference). GPAW (PBE, plane waves to 200 eV,
k-points from 16 Å) labels K cells per arm, as many atoms in whole 54-atom frames, and whole 54-atom frames of another
trajectory to test on. The linear model is fitted to each arm. The error bar is the jackknife's: the fit is repeated
with each label left out. Every label is stored on its own; its CPU time is what `cost.py` plots.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ablation import errors
from arms import ARMS
from ase import Atoms
from cells import known_frames, large_frames, setting
from linear import LinearPotential, moments
from parts import Result, finished, part
from references import MATERIALS, Labelled, cached_frames

from ideal import SoapPowerSpectrum
from ideal.config import GpawConfig

LITHIUM = MATERIALS["Li"]
CODE = GpawConfig(cutoff=200.0, kpoint_length=16.0, density_tolerance=1e-3, eigenstates_tolerance=1e-5)
R_CORE, MARGIN = 4.0, 2.0
K = 3
TEST_FRAMES = 1
ARM_NAMES = ("ours", "paper")
WHOLE = "whole frames, equal atoms"
SEED = 1


def label(atoms: Atoms, arm: str, number: int) -> Result:
    """One GPAW label as a storable result."""
    from ideal.labelling.codes.gpaw import GpawCode

    start = os.times()
    with tempfile.TemporaryDirectory() as folder:
        result = GpawCode(CODE).compute(atoms, Path(folder))
    end = os.times()
    return {
        "arm": arm,
        "number": number,
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "energy": result.energy,
        "forces": result.forces.tolist(),
        "stress": None if result.stress is None else result.stress.tolist(),
        "cpu_seconds": end.user + end.system - start.user - start.system,
    }


def structures(folder: Path) -> dict[str, list[Atoms]]:
    """What is labelled, by arm; the whole frames hold at least the atoms of our accepted cells."""
    given = replace(setting("Li", folder), r_core=R_CORE, margin=MARGIN)
    frames = large_frames(LITHIUM, folder, SEED)
    made: dict[str, list[Atoms]] = {}
    for arm in ARM_NAMES:
        rng = np.random.default_rng(SEED)
        cells = []
        for k in range(K):
            frame, index = frames[k % len(frames)], int(rng.integers(len(frames[0])))
            cells.append(ARMS[arm](given, frame, index, np.random.default_rng(k)))
        made[arm] = [cell.atoms for cell in cells if cell.accepted or arm != "ours"]
    small = cached_frames(folder, LITHIUM, LITHIUM.training, 24, seed=20 + SEED)
    count = -(-sum(len(a) for a in made["ours"]) // len(small[0]))
    made[WHOLE] = [small[k] for k in np.linspace(0, len(small) - 1, count).round().astype(int)]
    other = cached_frames(folder, LITHIUM, LITHIUM.training, 24, seed=22)
    made["test"] = [other[k] for k in np.linspace(0, len(other) - 1, TEST_FRAMES).round().astype(int)]
    return made


def run(folder: Path) -> None:
    """Label what is missing; the arms take turns, so that an interrupted run can be read."""
    wanted = structures(folder)
    for k in range(max(len(cells) for cells in wanted.values())):
        for arm, cells in wanted.items():
            if k < len(cells):
                path = folder / "dft" / f"{arm.split()[0].rstrip(',')}_{k}.json"
                part(path, partial(label, cells[k], arm, k))


def stored_labels(folder: Path) -> dict[str, list[tuple[Labelled, float]]]:
    """Labels and their CPU seconds, by arm."""
    labels: dict[str, list[tuple[Labelled, float]]] = {}
    for r in finished(folder / "dft"):
        atoms = Atoms(r["numbers"], positions=r["positions"], cell=r["cell"], pbc=True)
        stress = np.array(r["stress"])
        one = Labelled(atoms, r["energy"], np.array(r["forces"]), stress)
        labels.setdefault(r["arm"], []).append((one, r["cpu_seconds"]))
    return labels


def table(folder: Path) -> str:
    """Markdown of the arms whose labels are there."""
    labels = stored_labels(folder)
    lines = [
        "| arm | labels | atoms in all | E meV/atom | F eV/Å | F / whole frames | CPU s per label |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    if "test" not in labels:
        return "\n".join(lines)
    soap = SoapPowerSpectrum(list(LITHIUM.species), r_cut=5.0, n_max=6, l_max=4, sigma=0.5)
    scaling = moments(soap, known_frames(LITHIUM, folder))
    test = [one for one, _ in labels["test"]]

    def tested(some: list[Labelled]) -> tuple[float, float]:
        model = LinearPotential(soap)
        model.fit(some, *scaling)
        return errors(model, test)

    whole = tested([one for one, _ in labels[WHOLE]])[1] if WHOLE in labels else float("nan")
    for arm in ("paper", "ours", WHOLE):
        if arm not in labels:
            continue
        mine = [one for one, _ in labels[arm]]
        energy, force = tested(mine)
        left_out = np.array([tested(mine[:k] + mine[k + 1 :]) for k in range(len(mine))])
        bars = np.sqrt((len(mine) - 1) * left_out.var(axis=0))
        lines.append(
            f"| {'**ours**' if arm == 'ours' else arm} | {len(mine)} | {sum(len(x.atoms) for x in mine)} | "
            f"{energy:.2f} ± {bars[0]:.2f} | {force:.4f} ± {bars[1]:.4f} | {force / whole:.2f} | "
            f"{np.mean([seconds for _, seconds in labels[arm]]):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    run(options.output)
    print(table(options.output))


if __name__ == "__main__":
    main()
