"""Reference energies: the part of the energy that the composition alone explains.

    minimize over e   sum_i (E_i / N_i - sum_Z x_iZ e_Z)^2 + ridge * sum_Z (e_Z - e0_Z - c)^2

x_iZ is the fraction of element Z in structure i, e0_Z the energy of an isolated atom where it is known (else 0), and c
the mean of what the isolated atoms leave of the energy per atom. The ridge decides what the data leave open: with one
composition all elements share its energy per atom, and an element that never occurs gets the mean. It grows with the
scatter of the energies about the fit, relative to the differences between elements (3 eV, or what the fit gives if that
is more): a few cells that are off by one atom from a common composition say little about the difference between two
elements, and their thermal energies must not decide it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from ideal.errors import TrainingError
from ideal.records import FloatArray

LEAST_RIDGE = 1e-6
DIFFERENCE = 3.0
"""By how much the energies of elements differ before any label is seen, eV."""


def fit_reference_energies(
    structures: Sequence[Atoms],
    energies: Sequence[float],
    elements: Sequence[str],
    ridge: float | None = None,
    isolated: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Energy per element by ridge least squares.

    Args:
        structures: the structures.
        energies: total energies, eV.
        elements: chemical symbols to fit; all that occur must be among them.
        ridge: weight of the prior, relative to one structure; None: from the scatter of the energies.
        isolated: energies of isolated atoms, eV, of all elements or of none.

    Returns:
        eV by element.

    Raises:
        TrainingError: no structures, an energy that is not finite, an element not in ``elements`` or without an
            isolated atom.

    Example:
        >>> from ase import Atoms
        >>> fit_reference_energies([Atoms("Li2"), Atoms("Li3")], [-4.0, -6.0], ["Li"])
        {'Li': -2.0}
    """
    if not structures:
        raise TrainingError("0 labels: reference energies need at least one labelled structure")
    totals = np.asarray(energies, dtype=np.float64)
    if not np.isfinite(totals).all():
        raise TrainingError(f"label {int(np.flatnonzero(~np.isfinite(totals))[0])} has an energy that is not finite")
    counts = np.zeros((len(structures), len(elements)))
    for row, atoms in enumerate(structures):
        for symbol in atoms.get_chemical_symbols():
            if symbol not in elements:
                raise TrainingError(f"{symbol} occurs in the labels but the model knows {', '.join(elements)} only")
            counts[row, list(elements).index(symbol)] += 1
    prior = np.zeros(len(elements))
    if isolated is not None:
        missing = [symbol for symbol in elements if symbol not in isolated]
        if missing:
            raise TrainingError(
                f"training.isolated_atoms lacks {', '.join(missing)}; give the energy of every element, or of none"
            )
        prior = np.array([isolated[symbol] for symbol in elements], dtype=np.float64)
    n_atoms = counts.sum(axis=1)
    fractions = counts / n_atoms[:, None]
    excess = totals / n_atoms - fractions @ prior
    mean = excess.mean()
    deviation = _ridge(fractions, excess - mean, LEAST_RIDGE if ridge is None else ridge)
    if ridge is None:
        scatter = np.mean((excess - mean - fractions @ deviation) ** 2)
        spread = max(DIFFERENCE, float(np.abs(deviation).max()))
        deviation = _ridge(fractions, excess - mean, LEAST_RIDGE + scatter / spread**2)
    return {s: float(e0 + mean + d) for s, e0, d in zip(elements, prior, deviation, strict=True)}


def _ridge(fractions: FloatArray, energies: FloatArray, ridge: float) -> FloatArray:
    normal = fractions.T @ fractions + ridge * np.eye(fractions.shape[1])
    return np.asarray(np.linalg.solve(normal, fractions.T @ energies), dtype=np.float64)
