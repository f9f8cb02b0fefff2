"""Checks of arguments that the implementations of `AtomwiseUncertainty` share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from ase import Atoms

from ideal.errors import TrainingError, UncertaintyError
from ideal.records import BoolArray, FloatArray


def structures_with_masks(
    structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None
) -> list[tuple[Atoms, BoolArray]]:
    """Every structure with the mask of its atoms to learn; no mask means all of them.

    Args:
        structures: one structure or several.
        masks: (n_atoms,) bool per structure, None: all. For one structure, its mask alone will do.

    Raises:
        UncertaintyError: as many masks as structures are needed, of the right shape and type.
    """
    if isinstance(structures, Atoms):
        structures = [structures]
        if isinstance(masks, np.ndarray) and masks.ndim == 1:
            masks = [masks]
    structures = list(structures)
    chosen = [None] * len(structures) if masks is None else list(masks)
    if len(chosen) != len(structures):
        raise UncertaintyError(f"{len(chosen)} masks for {len(structures)} structures; give one mask per structure")
    return [(atoms, _mask(mask, len(atoms))) for atoms, mask in zip(structures, chosen, strict=True)]


def _mask(mask: np.ndarray | None, n_atoms: int) -> BoolArray:
    if mask is None:
        return np.ones(n_atoms, dtype=np.bool_)
    array = np.asarray(mask)
    if array.shape != (n_atoms,) or array.dtype != np.bool_:
        raise UncertaintyError(
            f"a mask of shape {array.shape} and dtype {array.dtype} does not fit; it must be ({n_atoms},) of bool"
        )
    return array


def per_atom(value: np.ndarray | float, n_atoms: int, name: str) -> FloatArray:
    """One number, or one per atom, as (n_atoms,).

    Raises:
        UncertaintyError: it has another shape; ``name`` says what it is.
    """
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), (n_atoms,)):
        raise UncertaintyError(f"{name} has shape {array.shape}; it must be one number or ({n_atoms},)")
    return np.ascontiguousarray(np.broadcast_to(array, (n_atoms,)))


def atom_weights(weights: np.ndarray | float | None, n_atoms: int) -> FloatArray:
    """(n_atoms,) finite weights, 1 by default.

    Raises:
        UncertaintyError: they have another shape or are not finite.
    """
    array = per_atom(1.0 if weights is None else weights, n_atoms, "weights")
    if not np.isfinite(array).all():
        raise UncertaintyError("weights must be finite")
    return array


def refuse_infinite(atoms: Atoms, squared: FloatArray, weights: FloatArray, reason: str) -> None:
    """Name the first atom of non-zero weight whose uncertainty is infinite.

    Raises:
        UncertaintyError: there is one.
    """
    undefined = np.flatnonzero((weights != 0) & np.isinf(squared))
    if undefined.size:
        index = int(undefined[0])
        symbol = atoms.symbols[index]
        raise UncertaintyError(
            f"the uncertainty of atom {index} ({symbol}) is infinite and has no gradient: {reason}. Call update() with "
            f"structures that contain {symbol}, or leave its atoms out by weight"
        )


@contextlib.contextmanager
def model_errors() -> Iterator[None]:
    """Turn what a model says of a structure that it cannot evaluate into an UncertaintyError."""
    try:
        yield
    except TrainingError as error:
        raise UncertaintyError(str(error)) from error


class Watched(Protocol):
    """A model that can be seen to have changed."""

    revision: int

    def fingerprint(self) -> str:
        """Hash of all that decides its results."""
        ...


class ModelWatch:
    """Tells whether models are still what they were; weights that were changed and put back are the same.

    The fingerprint, a hash of all weights, is taken only when a revision counter has moved.
    """

    def __init__(self, models: Sequence[Watched]) -> None:
        self._models = models
        self._revisions = [model.revision for model in models]
        self._fingerprints = [model.fingerprint() for model in models]

    def changed(self) -> bool:
        """Whether a model differs from what it was when this watch began."""
        revisions = [model.revision for model in self._models]
        if revisions == self._revisions:
            return False
        if [model.fingerprint() for model in self._models] != self._fingerprints:
            return True
        self._revisions = revisions
        return False
