"""The training cells of every arm, made and labelled once; fits and figures read them from disk."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from arms import ARMS, Cell, Setting, small_cells
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from references import MATERIALS, Labelled, Material, Reference, cached_frames, stored

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.embedding import minimum_distances

BASELINES = ("whole frames, equal K", "whole frames, equal atoms", "small cells")
NAMES = (*ARMS, *BASELINES)
KNOWN_FRAMES = 10
LARGE_FRAMES = 4
SMALL_FRAMES = 24
TEST_FRAMES = 4
TEST_SEED = 30
Size = tuple[float, float]
OURS = ("ours", "hinge alone")
SMALL_CELLS = 4
"""Small cells per K: they hold a quarter of the atoms or less."""


def distribution(material: Material, frames: list[Atoms]) -> SoapMahalanobis:
    """The distance that knows ``frames``."""
    n_max, l_max = material.descriptor
    known = SoapMahalanobis(SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5))
    known.update(frames)
    return known


def known_frames(material: Material, folder: Path) -> list[Atoms]:
    """The frames of the target state that the distribution knows."""
    return cached_frames(folder, material, material.training, KNOWN_FRAMES, seed=1)


def large_frames(material: Material, folder: Path, seed: int) -> list[Atoms]:
    """The frames whose atoms are embedded."""
    return cached_frames(folder, material, material.frame, LARGE_FRAMES, seed=10 + seed)


@cache
def setting(name: str, folder: Path) -> Setting:
    """Distribution of the target state and its held-out threshold, from three folds."""
    material = MATERIALS[name]
    frames = known_frames(material, folder)
    held_out = [
        distribution(material, [f for k, f in enumerate(frames) if k % 3 != fold]).atomic(frame)
        for fold in range(3)
        for frame in frames[fold::3]
    ]
    threshold = float(np.quantile(np.concatenate(held_out), 0.99))
    return Setting(material, distribution(material, frames), threshold, minimum_distances(frames))


def test_labels(material: Material, folder: Path) -> list[Labelled]:
    """Whole large frames of a trajectory that no arm has seen, the same for every seed."""
    reference = Reference(material)
    frames = cached_frames(folder, material, material.frame, TEST_FRAMES, seed=TEST_SEED)
    return [reference.label(frame) for frame in frames]


def labelled_cells(
    material: Material, folder: Path, arm: str, seed: int, n_cells: int, size: Size | None = None
) -> list[Atoms]:
    """The cells of one arm, read from disk where they have been made before.

    ``size``: radius of the core and margin (Å); None: those of the ablation, 4 and 3.

    Each carries the reference's energy, forces and stress, the array ``core``, and in ``info``: ``center``,
    ``accepted`` (filler below the threshold, formula kept, no contact), ``learned`` (false: our arms refused it),
    ``max_u`` of the filler, ``center_force_error`` (norm of the difference to the frame, eV/Å; -1 where there is no
    frame or no cell) and ``seconds`` (CPU, of making it).
    """
    sized = "" if size is None else f"_{size[0]:g}_{size[1]:g}"
    path = folder / "cells" / f"{material.name}_{seed}_{arm.replace(' ', '-').replace(',', '')}_{n_cells}{sized}.extxyz"
    return stored(path, lambda: _make(material, folder, arm, seed, n_cells, size))


def learned(cells: list[Atoms]) -> list[Labelled]:
    """The labels that a model is fitted to."""
    return [as_label(atoms) for atoms in cells if atoms.info["learned"]]


def as_label(atoms: Atoms) -> Labelled:
    """The label that a stored cell carries."""
    return Labelled(atoms, atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())


def _make(material: Material, folder: Path, arm: str, seed: int, n_cells: int, size: Size | None) -> list[Atoms]:
    given = setting(material.name, folder)
    if size is not None:
        given = replace(given, r_core=size[0], margin=size[1], growth=0)
    if arm in ARMS:
        return _around_atoms(given, folder, arm, seed, n_cells)
    if arm == "small cells":
        whole = small_cells(material, SMALL_CELLS * n_cells, seed)
    else:
        count = n_cells
        frames = cached_frames(folder, material, material.training, SMALL_FRAMES, seed=20 + seed)
        if arm == "whole frames, equal atoms":
            ours = labelled_cells(material, folder, "ours", seed, n_cells)
            count = max(1, round(sum(len(a) for a in ours if a.info["learned"]) / len(frames[0])))
        # spread over the whole trajectory, so that fewer frames are not more alike
        whole = [frames[k] for k in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    everything = [Cell(atoms, np.ones(len(atoms), dtype=bool), 0, True) for atoms in whole]
    return [_labelled(given, cell, None, 0.0) for cell in everything]


def _around_atoms(given: Setting, folder: Path, arm: str, seed: int, n_cells: int) -> list[Atoms]:
    frames = large_frames(given.material, folder, seed)
    reference = Reference(given.material)
    forces = [reference.label(frame).forces for frame in frames]
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n_cells):
        frame, index = k % len(frames), int(rng.integers(len(frames[0])))
        start = time.process_time()
        cell = ARMS[arm](given, frames[frame], index, np.random.default_rng(1000 * seed + k))
        seconds = time.process_time() - start
        made.append(_labelled(given, cell, forces[frame][index], seconds, is_learned=cell.accepted or arm not in OURS))
    return made


def _labelled(
    given: Setting, cell: Cell, center_force: np.ndarray | None, seconds: float, is_learned: bool = True
) -> Atoms:
    atoms = Atoms(cell.atoms.numbers, positions=cell.atoms.positions, cell=cell.atoms.cell, pbc=cell.atoms.pbc)
    atoms.set_array("core", cell.core.astype(int))
    atoms.info.update(
        center=int(cell.center),
        accepted=bool(cell.accepted),
        learned=bool(is_learned) and bool(atoms.pbc.all()),
        max_u=float(given.known.atomic(cell.atoms)[~cell.core].max(initial=0.0)),
        threshold=given.threshold,
        center_force_error=-1.0,
        seconds=seconds,
    )
    if not atoms.pbc.all():  # no crop was found at all; what came back is the bare core
        return atoms
    label = Reference(given.material).label(atoms)
    if center_force is not None:
        atoms.info["center_force_error"] = float(np.linalg.norm(label.forces[cell.center] - center_force))
    atoms.calc = SinglePointCalculator(atoms, energy=label.energy, forces=label.forces, stress=label.stress)
    return atoms
