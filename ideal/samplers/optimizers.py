"""ASE's optimizers one step at a time, with a state that can be saved: FIRE and BFGS.

| optimizer | source |
| --- | --- |
| fire | Bitzek et al., 10.1103/PhysRevLett.97.170201 |
| bfgs | quasi-Newton with the eigenvalues of the Hessian made positive, as ASE has it |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from ase.optimize import BFGS, FIRE

from ideal.records import FloatArray


class Fire:
    """FIRE on anything that ASE can optimize.

    Args:
        target: atoms, a cell filter, an elastic band.
        max_move: largest move of one step, Å.
    """

    def __init__(self, target: Any, max_move: float) -> None:
        self._fire = FIRE(target, logfile=None, maxstep=max_move)

    def step(self) -> None:
        """Move once."""
        self._fire.step()

    def forget_gradient(self) -> None:
        """The surface has changed: FIRE compares no gradients and keeps its velocity."""

    def state(self) -> dict[str, Any]:
        """Velocity and time step; the velocity is missing before the first step."""
        fire = self._fire
        state: dict[str, Any] = {"dt": float(fire.dt), "a": float(fire.a), "n": int(fire.Nsteps)}
        if fire.vel is not None:
            state["velocity"] = np.array(fire.vel)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        fire = self._fire
        fire.dt, fire.a, fire.Nsteps = float(state["dt"]), float(state["a"]), int(state["n"])
        fire.vel = np.array(state["velocity"]) if "velocity" in state else None


class Bfgs:
    """BFGS on anything that ASE can optimize; keeps a matrix of (3 n_atoms)^2 numbers.

    Args:
        target: atoms, a cell filter, an elastic band.
        max_move: largest move of one step, Å.
    """

    def __init__(self, target: Any, max_move: float) -> None:
        self._bfgs = BFGS(target, logfile=None, maxstep=max_move)

    def step(self) -> None:
        """Move once."""
        self._bfgs.step()

    def forget_gradient(self) -> None:
        """The surface has changed: the difference to the last gradient would say nothing about curvature."""
        if self._bfgs.pos0 is not None:
            self._bfgs.pos0 = np.array(self._bfgs.optimizable.get_x())

    def state(self) -> dict[str, Any]:
        """Hessian, and where it was updated last; empty before the first step."""
        bfgs = self._bfgs
        if bfgs.pos0 is None:
            return {}
        return {
            "hessian": np.array(bfgs.H),
            "positions": np.array(bfgs.pos0),
            "forces": np.array(bfgs.forces0),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        bfgs = self._bfgs
        bfgs.initialize()
        if not state:
            return
        # ASE makes its record of the Hessian in the first update.
        bfgs.update(None, None, None, None)
        bfgs.H[:] = state["hessian"]
        bfgs.pos0, bfgs.forces0 = np.array(state["positions"]), np.array(state["forces"])


Optimizer = Fire | Bfgs


def make_optimizer(kind: Literal["fire", "bfgs"], target: Any, max_move: float) -> Optimizer:
    """The optimizer of that name.

    Example:
        >>> optimizer = make_optimizer("fire", atoms, max_move=0.2)
        >>> optimizer.step()
    """
    return Fire(target, max_move) if kind == "fire" else Bfgs(target, max_move)


def largest_norm(vectors: FloatArray) -> float:
    """Largest norm of the rows of an (n, 3) array."""
    return float(np.linalg.norm(np.asarray(vectors).reshape(-1, 3), axis=1).max())
