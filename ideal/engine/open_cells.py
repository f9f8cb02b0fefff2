"""Cells that a frame has asked for and that are still to be made.

They are part of what a trajectory waits for and of every checkpoint: a run that was killed while a cell was being made
has it made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms

from ideal.engine.seeds import derive_seed

Purpose = Literal["selected", "audit"]


@dataclass(frozen=True, eq=False)
class OpenCell:
    """One of them.

    Attributes:
        atoms: the frame.
        trajectory: whose frame it is.
        step: its MD step.
        centers: atoms that the core shall take in; the first leads and stands for all in events and files.
        purpose: "selected": uncertain; "audit": drawn from those held for certain.
        threshold: u above which an atom counted as uncertain when the frame asked.
        limit: u that the filler may reach.
        weight: environments that an audited atom stands for; None otherwise.
        name: number of the first center where the frame is a part of a larger one; None: its index.
    """

    atoms: Atoms
    trajectory: str
    step: int
    centers: tuple[int, ...]
    purpose: Purpose
    threshold: float
    limit: float
    weight: float | None = None
    name: int | None = None

    @property
    def atom(self) -> int:
        """The atom that the cell is named after."""
        return self.centers[0] if self.name is None else self.name

    def seed(self, seed: int) -> int:
        """Of its crops; one stream per trajectory, step, atom and purpose."""
        stream = "embedding" if self.purpose == "selected" else "audit embedding"
        return derive_seed(seed, stream, self.trajectory, self.step, self.atom)


def cells_state(cells: Sequence[OpenCell]) -> dict[str, Any]:
    """The cells as arrays, numbers and text; exact. A frame that several come from is kept once."""
    frames: dict[int, Atoms] = {id(cell.atoms): cell.atoms for cell in cells}
    places = {name: place for place, name in enumerate(frames)}
    return {
        "frames": [atoms_state(atoms) for atoms in frames.values()],
        "cells": [
            {
                "frame": places[id(cell.atoms)],
                "trajectory": cell.trajectory,
                "step": cell.step,
                "centers": list(cell.centers),
                "purpose": cell.purpose,
                "threshold": cell.threshold,
                "limit": cell.limit,
                "weight": cell.weight,
                "name": cell.name,
            }
            for cell in cells
        ],
    }


def cells_from_state(state: Mapping[str, Any]) -> list[OpenCell]:
    """The cells that `cells_state` described."""
    frames = [atoms_from_state(frame) for frame in state["frames"]]
    return [
        OpenCell(
            atoms=frames[cell["frame"]],
            trajectory=cell["trajectory"],
            step=cell["step"],
            centers=tuple(cell["centers"]),
            purpose=cell["purpose"],
            threshold=cell["threshold"],
            limit=cell["limit"],
            weight=cell["weight"],
            name=cell.get("name"),
        )
        for cell in state["cells"]
    ]


def atoms_state(atoms: Atoms) -> dict[str, np.ndarray]:
    """What a reference code sees of a structure, as arrays; exact."""
    return {
        "numbers": np.asarray(atoms.numbers, dtype=np.int64),
        "positions": np.asarray(atoms.positions, dtype=np.float64),
        "cell": np.asarray(atoms.cell.array, dtype=np.float64),
        "pbc": np.asarray(atoms.pbc, dtype=np.bool_),
        "magnetic_moments": atoms.get_initial_magnetic_moments(),
        "charges": atoms.get_initial_charges(),
    }


def atoms_from_state(state: Mapping[str, Any]) -> Atoms:
    """The structure that `atoms_state` described."""
    atoms = Atoms(state["numbers"], positions=state["positions"], cell=state["cell"], pbc=state["pbc"])
    if np.any(state["magnetic_moments"]):
        atoms.set_initial_magnetic_moments(state["magnetic_moments"])
    if np.any(state["charges"]):
        atoms.set_initial_charges(state["charges"])
    return atoms
