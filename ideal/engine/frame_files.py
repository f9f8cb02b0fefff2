"""What the engine writes as extended XYZ: frames of trajectories, embedded cells, raw crops."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms

from ideal.dataset.extxyz import format_frame
from ideal.records import FloatArray, Substructure


def bare(atoms: Atoms) -> Atoms:
    """Elements, positions, cell and periodicity alone."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def cell_to_label(atoms: Atoms) -> Atoms:
    """What the reference code sees of a structure: as `bare`, with magnetic moments and charges where given."""
    cell = bare(atoms)
    for name in ("initial_magmoms", "initial_charges"):
        if atoms.has(name):
            cell.set_array(name, atoms.get_array(name))
    return cell


def trajectory_frame(
    atoms: Atoms, step: int, time_fs: float, u: FloatArray | None, observables: Mapping[str, float] | None = None
) -> str:
    """One frame of ``trajectories/NAME.extxyz``.

    Args:
        atoms: the configuration with momenta.
        step: MD step.
        time_fs: simulated time, fs.
        u: (n_atoms,) uncertainty where it was checked.
        observables: the sampler's own numbers, where it was checked.
    """
    arrays = {"momenta": atoms.get_momenta()}
    if u is not None:
        arrays["u"] = np.asarray(u)
    return format_frame(bare(atoms), {"step": step, "time_fs": time_fs, **(observables or {})}, arrays)


def configuration_frame(atoms: Atoms, step: int, time_fs: float) -> str:
    """One frame of ``trajectories/NAME/NN.extxyz``: a configuration of several, with its energy and momenta."""
    info = {"step": step, "time_fs": time_fs, "energy": float(atoms.get_potential_energy())}
    return format_frame(bare(atoms), info, {"momenta": atoms.get_momenta()})


def substructure_frame(cell: Substructure, key: str, trajectory: str, step: int, atom: int) -> str:
    """One embedded cell of ``substructures.extxyz``; an empty ``key`` (refused) or reason (none) is left out."""
    info = _origin(cell, key, trajectory, step, atom)
    arrays = {
        "core": np.asarray(cell.core, dtype=bool),
        "provenance": np.asarray(cell.provenance, dtype=np.int64),
        "parent_index": np.asarray(cell.parent_indices, dtype=np.int64),
        "u": np.asarray(cell.u),
        "u_before": np.asarray(cell.u_before),
    }
    return format_frame(bare(cell.atoms), info, arrays)


def crop_frame(cell: Substructure, key: str, trajectory: str, step: int, atom: int) -> str:
    """The same cell before its filler was optimized, for ``crops.extxyz``."""
    crop = bare(cell.atoms)
    if "crop_positions" in cell.atoms.arrays:
        crop.set_positions(cell.atoms.arrays["crop_positions"])
    if "crop_cell" in cell.atoms.info:
        crop.set_cell(cell.atoms.info["crop_cell"])
    arrays = {"core": np.asarray(cell.core, dtype=bool), "u_before": np.asarray(cell.u_before)}
    return format_frame(crop, _origin(cell, key, trajectory, step, atom), arrays)


def _origin(cell: Substructure, key: str, trajectory: str, step: int, atom: int) -> dict[str, object]:
    info: dict[str, object] = {
        "key": key,
        "trajectory": trajectory,
        "step": step,
        "atom": atom,
        "center": int(cell.center),
        "accepted": bool(cell.accepted),
        "reason": cell.reason,
        "threshold": float(cell.threshold),
        "max_u": float(cell.max_u),
        "whole_frame": bool(cell.whole_frame),
    }
    # ASE's reader cannot take an empty text: most accepted cells have no reason, refused ones no key.
    return {name: value for name, value in info.items() if value != ""}
