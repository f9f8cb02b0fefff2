"""Formal charges: a cell of an ionic compound must be neutral even where the frame has no small formula.

A frame with a vacancy, an interface or an adsorbate has no formula unit that a cell could repeat. Its ions still have
charges that must add up to zero, or the reference code adds a background charge that the frame does not have. Charges
are the user's, or guessed from each element's most common oxidation state where that makes the frame (nearly) neutral.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from ideal.errors import EmbeddingError
from ideal.records import IntArray

COMMON: dict[str, int] = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs", "Ag"), 1),
    **dict.fromkeys(("Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Ni", "Co", "Mn", "Cu", "Pb"), 2),
    **dict.fromkeys(("B", "Al", "Ga", "In", "Sc", "Y", "La", "Cr", "Fe", "Bi"), 3),
    **dict.fromkeys(("Si", "Ge", "Sn", "Ti", "Zr", "Hf", "Ce"), 4),
    **dict.fromkeys(("V", "Nb", "Ta"), 5),
    **dict.fromkeys(("O", "S", "Se", "Te"), -2),
    **dict.fromkeys(("F", "Cl", "Br", "I"), -1),
    **dict.fromkeys(("N", "P"), -3),
}
"""Most common oxidation states in oxides, halides, sulfides, nitrides."""

NEARLY_NEUTRAL = 0.05
"""A guess stands where it leaves the frame with at most this charge per atom (e)."""

RANGE = 4
"""Atoms of one species that neutrality may add or remove."""


def parse_charges(charges: Mapping[str, float]) -> dict[int, float]:
    """{symbol: charge} as {atomic number: charge}.

    Raises:
        EmbeddingError: an unknown element.
    """
    unknown = [symbol for symbol in charges if symbol not in atomic_numbers]
    if unknown:
        raise EmbeddingError(f"embedding.charges names {unknown[0]!r}, which is no element; write {{'Al': 3, 'O': -2}}")
    return {atomic_numbers[symbol]: float(charge) for symbol, charge in charges.items()}


def guess_charges(numbers: IntArray) -> dict[int, float] | None:
    """Formal charges of the species, or None where the common ones do not make the frame neutral.

    Args:
        numbers: (n_atoms,) atomic numbers of the frame.

    Example:
        >>> guess_charges(np.array([13] * 40 + [8] * 59))  # alumina with an oxygen vacancy
        {8: -2.0, 13: 3.0}
    """
    species, counts = np.unique(numbers, return_counts=True)
    symbols = [chemical_symbols[z] for z in species]
    if any(symbol not in COMMON for symbol in symbols):
        return None
    charges = np.array([COMMON[symbol] for symbol in symbols], dtype=float)
    if charges.min() > 0 or charges.max() < 0 or abs(charges @ counts) > NEARLY_NEUTRAL * len(numbers):
        return None
    return {int(z): float(q) for z, q in zip(species, charges, strict=True)}


def neutral_counts(counts: Mapping[int, int], charges: Mapping[int, float], add: bool = True) -> dict[int, int] | None:
    """The neutral composition that is nearest to ``counts``; None where none is within reach.

    Args:
        counts: atoms of each species.
        charges: formal charge of each species; species without one do not matter.
        add: whether atoms may be added; removing costs more than adding.

    Returns:
        {atomic number: count} of the charged species.

    Example:
        >>> neutral_counts({13: 8, 8: 11}, {13: 3, 8: -2})
        {13: 8, 8: 12}
    """
    charged = [z for z in counts if charges.get(z, 0.0) != 0.0]
    best, least = None, np.inf
    for change in itertools.product(range(-RANGE, RANGE + 1 if add else 1), repeat=len(charged)):
        new = [counts[z] + d for z, d in zip(charged, change, strict=True)]
        if min(new, default=0) < 0 or abs(sum(charges[z] * n for z, n in zip(charged, new, strict=True))) > 1e-6:
            continue
        cost = sum(abs(d) for d in change) + 0.4 * sum(-d for d in change if d < 0)
        if cost < least:
            best, least = dict(zip(charged, new, strict=True)), cost
    return best


def describe_charges(charges: Mapping[int, float]) -> str:
    """Such as "Al +3, O -2"."""
    return ", ".join(f"{chemical_symbols[z]} {q:+g}" for z, q in sorted(charges.items(), key=lambda item: -item[1]))
