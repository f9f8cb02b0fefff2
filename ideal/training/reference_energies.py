"""Reference energies: the part of the energy that the composition alone explains.

    minimize over e   sum_i (E_i / N_i - sum_Z x_iZ e_Z)^2 + ridge * sum_Z (e_Z - mean)^2

x_iZ is the fraction of element Z in structure i and ``mean`` the average energy per atom. The ridge decides only what
the data leave open: with one composition all elements share its energy per atom, and an element that never occurs gets
the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ideal.errors import TrainingError


def fit_reference_energies(
    structures: Sequence[Atoms], energies: Sequence[float], elements: Sequence[str], ridge: float = 1e-6
) -> dict[str, float]:
    """Energy per element by ridge least squares.

    Args:
        structures: the structures.
        energies: total energies, eV.
        elements: chemical symbols to fit; all that occur must be among them.
        ridge: weight of the prior, relative to one structure.

    Returns:
        eV by element.

    Raises:
        TrainingError: no structures, an energy that is not finite, an element not in ``elements``.

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
    n_atoms = counts.sum(axis=1)
    fractions, per_atom = counts / n_atoms[:, None], totals / n_atoms
    mean = per_atom.mean()
    normal = fractions.T @ fractions + ridge * np.eye(len(elements))
    deviation = np.linalg.solve(normal, fractions.T @ (per_atom - mean))
    return {symbol: float(mean + d) for symbol, d in zip(elements, deviation, strict=True)}
