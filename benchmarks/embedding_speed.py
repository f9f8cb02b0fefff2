"""CPU seconds per embedded atom: by material, what part of it is Python, and against the size of the frame.

    python benchmarks/embedding_speed.py --output runs/embedding_speed          (5 minutes on one core, LAMMPS needed)
    python benchmarks/embedding_speed.py --parts sizes --largest 1000000

Lithium (SNAP) and silica (Vashishta) frames come from the references of `benchmarks/embedding`; corundum and
the copper slab are rattled. The distribution knows a few small frames of the same state, the
threshold is the 99 % quantile of u in another frame, strict (young_factor 1); the descriptor and the embedding have
their default settings. CPU time of this process, one thread. "Compiled" is the time inside `ideal._core`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.spacegroup import crystal

import ideal.embedding.distances as distances
from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig, SoapConfig
from ideal.embedding import embed, minimum_distances

sys.path.insert(0, str(Path(__file__).parent / "embedding"))

QUANTILE = 0.99


@dataclass
class Case:
    """Small frames that are known, one for the threshold, and a large one to embed atoms of."""

    known: list[Atoms]
    held_out: Atoms
    frame: Atoms


def lithium(folder: Path) -> Case:
    return _reference("Li", folder)


def silica(folder: Path) -> Case:
    return _reference("SiO2", folder)


def _reference(name: str, folder: Path) -> Case:
    from references import MATERIALS, cached_frames

    material = MATERIALS[name]
    known = cached_frames(folder, material, material.training, 10, seed=1)
    large = cached_frames(folder, material, material.frame, 2, seed=10)
    return Case(known, large[0], large[1])


def corundum(folder: Path) -> Case:
    basis = [(0, 0, 0.352), (0.306, 0, 0.25)]
    unit = crystal(["Al", "O"], basis, spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120])

    def rattled(repeat: tuple[int, int, int], seed: int) -> Atoms:
        atoms: Atoms = unit.repeat(repeat)
        atoms.rattle(0.06, seed=seed)
        return atoms

    known = [rattled((2, 2, 1), seed) for seed in range(8)]
    return Case(known, rattled((4, 4, 2), 20), rattled((4, 4, 2), 21))


def slab(folder: Path) -> Case:
    def rattled(size: int, seed: int) -> Atoms:
        atoms = fcc111("Cu", (size, size, 4), vacuum=8.0, orthogonal=True, periodic=True)
        atoms.rattle(0.1, seed=seed)
        return atoms

    return Case([rattled(4, seed) for seed in range(8)], rattled(10, 20), rattled(10, 21))


CASES: dict[str, Callable[[Path], Case]] = {
    "lithium, 450 K": lithium,
    "liquid silica, 3500 K": silica,
    "corundum": corundum,
    "copper slab": slab,
}


class Compiled:
    """Counts the CPU time spent in functions of `ideal._core`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: Any, names: list[str]) -> Any:
        """A stand-in for ``owner`` whose functions ``names`` are timed."""
        outer = self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                own = getattr(owner, name)
                return outer.timed(own) if name in names else own

        return Watched()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            result = function(*arguments, **options)
            self.seconds += time.process_time() - start
            return result

        return call


def distribution(case: Case) -> tuple[SoapMahalanobis, float]:
    """The known environments, and the threshold."""
    soap = SoapConfig()
    species = sorted(set(case.frame.get_chemical_symbols()))
    known = SoapMahalanobis(SoapPowerSpectrum(species, soap.r_cut, soap.n_max, soap.l_max, soap.sigma))
    known.update(case.known)
    return known, float(np.quantile(known.atomic(case.held_out), QUANTILE))


def by_material(folder: Path, n_centers: int) -> None:
    """One row per material."""
    config = EmbeddingConfig(young_factor=1.0)
    print("| frame | atoms | cell, atoms (median) | accepted | CPU s median | 90 % | largest | compiled |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, make in CASES.items():
        case = make(folder)
        known, threshold = distribution(case)
        shortest = minimum_distances(case.known)
        seconds, sizes, accepted, compiled = [], [], 0, Compiled()
        known._core = compiled.watch(known._core, ["atomic", "hinge"])
        plain, distances._core = distances._core, compiled.watch(distances._core, ["list_pairs", "edges_within"])
        for index in np.random.default_rng(0).choice(len(case.frame), n_centers, replace=False):
            start = time.process_time()
            cell = embed(case.frame, int(index), known, int(index), config, threshold, min_distances=shortest)
            seconds.append(time.process_time() - start)
            sizes.append(len(cell.atoms))
            accepted += cell.accepted and not cell.whole_frame
        distances._core = plain
        share = compiled.seconds / sum(seconds)
        print(
            f"| {name} | {len(case.frame)} | {np.median(sizes):.0f} | {accepted}/{n_centers} "
            f"| {np.median(seconds):.3f} | {np.quantile(seconds, 0.9):.3f} | {max(seconds):.3f} | {share:.0%} |",
            flush=True,
        )


def by_size(folder: Path, largest: int) -> None:
    """One row per size of the frame: copper, so that nothing but this project is needed."""
    unit = bulk("Cu", cubic=True)
    small = [unit.repeat(3) for _ in range(4)]
    for seed, atoms in enumerate(small):
        atoms.rattle(0.08, seed=seed)
    frames: list[Atoms] = []
    for n_atoms in (1_000, 10_000, 100_000, 1_000_000):
        if n_atoms <= largest:
            frames.append(unit.repeat(round((n_atoms / 4) ** (1 / 3))))
            frames[-1].positions += np.random.default_rng(0).normal(0.0, 0.08, (len(frames[-1]), 3))
    known, threshold = distribution(Case(small[:3], small[3], frames[0]))
    shortest = minimum_distances(small)
    config = EmbeddingConfig(young_factor=1.0)
    print("\n| atoms of the frame | CPU s per embedded atom, median | least | of it growing with the frame |")
    print("| --- | --- | --- | --- |")
    for frame in frames:
        seconds, gathering = [], []
        for repetition in range(7):
            index = len(frame) // 2 + repetition
            start = time.process_time()
            embed(frame, index, known, repetition, config, threshold, min_distances=shortest)
            seconds.append(time.process_time() - start)
            gathering.append(_gathering(frame, index, known.soap.support, config))
        print(
            f"| {len(frame)} | {np.median(seconds):.3f} | {min(seconds):.3f} | {np.median(gathering):.4f} |", flush=True
        )


def _gathering(frame: Atoms, index: int, support: float, config: EmbeddingConfig) -> float:
    """CPU seconds of what passes over the whole frame."""
    from ideal.embedding.crop import FrameView

    start = time.process_time()
    FrameView(frame, index, vacuum=support).surroundings(config.r_core, config.margin, config.max_atoms)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("materials", "sizes"), default=["materials", "sizes"])
    parser.add_argument("--centers", type=int, default=20)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding_speed"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if "materials" in options.parts:
        by_material(options.output, options.centers)
    if "sizes" in options.parts:
        by_size(options.output, options.largest)


if __name__ == "__main__":
    main()
