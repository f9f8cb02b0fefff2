"""From two faces per axis to a periodic cell with sound distances and composition.

The atoms between the faces become a new periodic cell. Across its seams some atoms collide and some holes
open; compounds may lose formula units, and lost formula units caused nearly all refusals while this was
developed. In this order:

    1. filler in contact (`ideal.embedding.distances.CONTACT`) is removed, the atom with most contacts first;
    2. atoms of a thin skin outside the faces are added where their image is farther from everything than the training
       set's shortest distance: they fill holes;
    3. species that the formula misses are added from a thicker skin, at the roomiest places;
    4. what then still exceeds the formula is removed, the most crowded first.

Where the frame has no formula but ions, the nearest neutral composition takes the formula's place
(`ideal.embedding.charges`). Molecules (`ideal.embedding.molecules`) are taken, added and removed as a whole; formula
and charges speak of the other atoms only. Core atoms are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula

from ideal.config import EmbeddingConfig
from ideal.embedding.charges import COMMON, describe_charges, guess_charges, neutral_counts, parse_charges
from ideal.embedding.crop import Surroundings
from ideal.embedding.distances import CONTACT, Pairs, ShortestDistances, periodic_pairs
from ideal.embedding.molecules import same_group
from ideal.errors import EmbeddingError
from ideal.records import BoolArray, FloatArray, IntArray

SKIN = 0.8
"""Depth (Å) outside the faces from which holes are filled."""

REPAIR_SKIN = 1.5
"""Depth (Å) outside the faces from which missing species are taken."""

REPAIR_ROOM = 0.6
"""A missing species may be added down to this fraction of its shortest distance; the optimization makes room."""

LARGEST_FORMULA = 24
"""A reduced formula with more atoms than this is no stoichiometry but chance."""

LOCAL_TOLERANCE = 0.1
"""The frame's formula binds where every species' share near the center agrees with it to this difference."""


@dataclass(frozen=True)
class Crop:
    """A periodic cell around the center, before its filler is optimized.

    Attributes:
        numbers: (n,) atomic numbers.
        vectors: (n, 3) positions relative to the center, Å.
        parents: (n,) index in the frame.
        core: (n,) atoms that never move.
        added: (n,) atoms that came from outside the faces.
        cell: (3, 3) lattice vectors, Å.
        cut: (3,) axes along which the cell repeats by a seam; only these may be strained.
        pbc: (3,) periodic axes.
        corner: (3,) corner of the cell relative to the center, Å.
        removed: atoms removed to repair the composition.
        n_cut: atoms that lay between the faces.
    """

    numbers: IntArray
    vectors: FloatArray
    parents: IntArray
    core: BoolArray
    added: BoolArray
    cell: FloatArray
    cut: BoolArray
    pbc: BoolArray
    corner: FloatArray
    removed: int
    n_cut: int

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def center(self) -> int:
        """Index of the center."""
        return int(np.argmin((self.vectors**2).sum(axis=1)))

    def atoms(self, vectors: FloatArray | None = None, cell: FloatArray | None = None) -> Atoms:
        """The cell as ASE atoms, with other positions relative to the center or another cell where given."""
        return Atoms(
            numbers=self.numbers,
            positions=(self.vectors if vectors is None else vectors) - self.corner,
            cell=self.cell if cell is None else cell,
            pbc=self.pbc,
        )


@dataclass(frozen=True)
class Composition:
    """What a cell's composition is held to."""

    ratio: Mapping[int, int] | None = None
    charges: Mapping[int, float] | None = None
    text: str = "as cut"


def formula_ratio(numbers: IntArray) -> dict[int, int] | None:
    """Smallest integer ratio of the species, or None for one species or no small formula.

    Args:
        numbers: (n_atoms,) atomic numbers of the frame.

    Returns:
        {atomic number: count per formula unit}.

    Example:
        >>> formula_ratio(np.array([12, 8] * 32))
        {8: 1, 12: 1}
    """
    counts = np.bincount(numbers)
    species = np.flatnonzero(counts)
    counts = counts[species]
    if len(species) == 1:
        return None
    ratio = counts // math.gcd(*(int(n) for n in counts))
    if ratio.sum() > LARGEST_FORMULA:
        return None
    return {int(z): int(n) for z, n in zip(species, ratio, strict=True)}


def parse_ratio(ratio: str | Mapping[str, int]) -> dict[int, int]:
    """A formula unit as {atomic number: count}.

    Args:
        ratio: a formula such as "Al2O3", or {"Al": 2, "O": 3}.

    Raises:
        EmbeddingError: an unknown element or a count below 1.
    """
    try:
        counts = Formula(ratio).count() if isinstance(ratio, str) else dict(ratio)
        parsed = {atomic_numbers[symbol]: int(n) for symbol, n in counts.items()}
    except (KeyError, ValueError) as error:
        raise EmbeddingError(f"ratio {ratio!r}: {error} is no element; write 'Al2O3' or a mapping") from None
    if not parsed or min(parsed.values()) < 1:
        raise EmbeddingError(f"ratio {ratio!r}: every element needs a count of at least 1")
    return parsed


def choose_composition(
    atoms: Atoms, surroundings: Surroundings, ratio: str | Mapping[str, int] | None, config: EmbeddingConfig
) -> Composition:
    """The user's formula, the frame's own where it holds near the center, charges, or nothing."""
    wanted = ratio if ratio is not None else config.formula
    if wanted is not None:
        return Composition(parse_ratio(wanted), None, f"formula {formula_text(parse_ratio(wanted))}")
    own = formula_ratio(atoms.numbers)
    if own is not None and holds_near(surroundings, own):
        return Composition(own, None, f"formula {formula_text(own)} (the frame's)")
    if config.charges:
        given = parse_charges(config.charges)
        return Composition(None, given, f"charges {describe_charges(given)}")
    if config.guess_charges:
        single = np.bincount(surroundings.group)[surroundings.group] == 1
        guessed = guess_charges(surroundings.numbers[single])
        if guessed is not None:
            return Composition(None, guessed, f"charges {describe_charges(guessed)} (guessed)")
    return Composition()


def formula_text(ratio: Mapping[int, int]) -> str:
    """Such as "SiO2": the most positive element first."""
    symbols = sorted((chemical_symbols[z] for z in ratio), key=lambda symbol: (-COMMON.get(symbol, 0), symbol))
    return "".join(f"{s}{n if n > 1 else ''}" for s in symbols for n in [ratio[atomic_numbers[s]]])


def holds_near(surroundings: Surroundings, ratio: Mapping[int, int]) -> bool:
    """Whether the atoms near the center have the composition ``ratio`` to within `LOCAL_TOLERANCE`.

    An interface or an adsorbate makes the frame's formula meaningless near the center.
    """
    weights, _ = surroundings.weights()
    if not set(np.unique(surroundings.numbers[weights > 0.0])) <= set(ratio):
        return False
    total = sum(ratio.values())
    shares = [abs(np.average(surroundings.numbers == z, weights=weights) - n / total) for z, n in ratio.items()]
    return bool(max(shares) < LOCAL_TOLERANCE)


def build_crop(
    surroundings: Surroundings,
    lo: FloatArray,
    hi: FloatArray,
    shortest: ShortestDistances,
    ratio: Mapping[int, int] | None,
    fill: bool = True,
    charges: Mapping[int, float] | None = None,
) -> Crop | None:
    """Cut the surroundings at the given faces and repair what the new periodicity breaks.

    Args:
        surroundings: the atoms near the center.
        lo: (3,) low faces, heights in Å.
        hi: (3,) high faces.
        shortest: shortest distances of the training set.
        ratio: formula unit to keep, or None.
        fill: whether holes are filled from the skin.
        charges: formal charges that must add up to zero where there is no formula unit, or None.

    Returns:
        The crop; None where core atoms touch across a seam or the core alone breaks the formula.
    """
    cut = np.array([axis.kind == "cut" for axis in surroundings.axes])
    pbc = np.array([axis.periodic for axis in surroundings.axes])
    period = hi - lo
    cell = surroundings.directions * period[:, None]
    group, stand_in = surroundings.group, surroundings.representative
    fixed = same_group(group, surroundings.core)
    # another image of a molecule that reaches out of the core is the same molecule
    images = same_group(group, np.isin(surroundings.parents, surroundings.parents[fixed])) & ~fixed & _grouped(group)
    inside = (surroundings.within(lo, hi)[stand_in] | fixed) & ~images
    depth = np.where(cut, REPAIR_SKIN, 0.0)
    skin = surroundings.within(lo - depth, hi + depth)[stand_in] & ~images
    chosen = np.concatenate([np.flatnonzero(inside), np.flatnonzero(skin & ~inside)])
    n_inside = int(inside.sum())

    height = surroundings.heights[stand_in[chosen]]
    steps = np.where(cut & ~fixed[chosen, None], np.floor((height - lo) / period), 0.0)
    vectors = surroundings.vectors[chosen] - steps @ cell
    outside = np.maximum(lo - height, height - hi).max(axis=1)
    numbers, core = surroundings.numbers[chosen], surroundings.core[chosen].copy()
    core[n_inside:] = False

    pairs = periodic_pairs(vectors, cell, pbc, shortest.longest(numbers))
    room = pairs.distances / shortest.of(numbers[pairs.first], numbers[pairs.second])
    radius = np.linalg.norm(vectors, axis=1)
    repair = _Repair(numbers, fixed[chosen], group[chosen], n_inside, outside, radius, pairs, room)
    if not repair.remove_contacts():
        return None
    if fill:
        repair.fill_holes()
    removed: int | None = 0
    if ratio is not None:
        units = round(repair.count() / sum(ratio.values()))
        repair.add_missing({z: units * n for z, n in ratio.items()})
        counts = repair.counts(ratio)
        units = min(counts[z] // ratio[z] for z in ratio)
        removed = repair.remove_excess({z: units * n for z, n in ratio.items()})
    elif charges is not None:
        wanted = neutral_counts(repair.counts(charges), charges)
        if wanted is not None:
            repair.add_missing(wanted)
        wanted = neutral_counts(repair.counts(charges), charges, add=False)
        removed = None if wanted is None else repair.remove_excess(wanted)
    if removed is None:
        return None
    keep = np.flatnonzero(repair.alive)
    return Crop(
        numbers=numbers[keep],
        vectors=vectors[keep],
        parents=surroundings.parents[chosen][keep],
        core=core[keep],
        added=keep >= n_inside,
        cell=cell,
        cut=cut,
        pbc=pbc,
        corner=lo @ surroundings.directions,
        removed=removed,
        n_cut=n_inside,
    )


def _grouped(group: IntArray) -> BoolArray:
    """Which atoms belong to a molecule of at least two atoms."""
    return np.asarray(np.bincount(group)[group] > 1)


class _Repair:
    """Which of the atoms between the faces and in the skin make up the cell.

    ``room`` holds the distance of every pair in units of the training set's shortest one; ``fixed`` are the core and
    the molecules that reach into it.
    """

    def __init__(
        self,
        numbers: IntArray,
        fixed: BoolArray,
        group: IntArray,
        n_inside: int,
        outside: FloatArray,
        radius: FloatArray,
        pairs: Pairs,
        room: FloatArray,
    ) -> None:
        self.numbers, self.outside, self.radius = numbers, outside, radius
        self.group = np.unique(group, return_inverse=True)[1]
        self.single = ~_grouped(self.group)
        self.fixed = fixed & (np.arange(len(numbers)) < n_inside)
        self.first, self.second, self.room = pairs.first, pairs.second, room
        self.begin = np.searchsorted(self.first, np.arange(len(numbers) + 1))
        self.bonded = (self.group[self.first] == self.group[self.second]) & (self.first != self.second)
        self.alive = np.arange(len(numbers)) < n_inside
        self.skin = np.flatnonzero(~self.alive)

    def count(self) -> int:
        """Atoms of the cell that are no molecules."""
        return int((self.alive & self.single).sum())

    def counts(self, species: Iterable[int]) -> dict[int, int]:
        """The same by species."""
        return {z: int((self.alive & self.single & (self.numbers == z)).sum()) for z in species}

    def remove_contacts(self) -> bool:
        """Remove filler until nothing touches; False where two fixed atoms do."""
        close = (self.room < CONTACT) & self.alive[self.first] & self.alive[self.second] & ~self.bonded
        first, second = self.first[close], self.second[close]
        if (self.fixed[first] & self.fixed[second] & (first != second)).any():
            return False
        while len(first):
            contacts = np.bincount(first, minlength=len(self.numbers)) * ~self.fixed
            if not contacts.any():
                break
            worst = np.flatnonzero(contacts == contacts.max())
            gone = self._molecule(worst[np.argmax(self.radius[worst])])
            self.alive[gone] = False
            keep = self.alive[first] & self.alive[second]
            first, second = first[keep], second[keep]
        return True

    def fill_holes(self) -> None:
        """Add molecules and atoms of the skin that come near nothing, the nearest to the faces first."""
        near = self.skin[self.outside[self.skin] < SKIN]
        for atom in near[np.argsort(self.outside[near], kind="stable")]:
            molecule = self._molecule(atom)
            if not self.alive[atom] and min(self._room_of(a) for a in molecule) > 1.0:
                self.alive[molecule] = True

    def add_missing(self, wanted: Mapping[int, int]) -> None:
        """Add atoms of species that are fewer than wanted, where there is most room."""
        for species, missing in self._differences(wanted):
            candidates = [
                int(a) for a in self.skin if self.numbers[a] == species and self.single[a] and not self.alive[a]
            ]
            for _ in range(missing):
                rooms = [self._room_of(a) for a in candidates]
                if not rooms or max(rooms) < REPAIR_ROOM:
                    break
                self.alive[candidates.pop(int(np.argmax(rooms)))] = True

    def remove_excess(self, wanted: Mapping[int, int]) -> int | None:
        """Remove filler beyond what is wanted, the most crowded first; None where the filler does not suffice."""
        total = 0
        for species, missing in self._differences(wanted):
            excess = max(0, -missing)
            filler = np.flatnonzero(self.alive & self.single & (self.numbers == species) & ~self.fixed)
            if len(filler) < excess:
                return None
            if excess:
                rooms = np.array([self._room_of(a) for a in filler])
                self.alive[filler[np.argsort(rooms, kind="stable")[:excess]]] = False
            total += excess
        return total

    def _differences(self, wanted: Mapping[int, int]) -> list[tuple[int, int]]:
        counts = self.counts(wanted)
        return [(z, n - counts[z]) for z, n in wanted.items()]

    def _molecule(self, atom: int | np.integer) -> IntArray:
        return np.asarray([atom]) if self.single[atom] else np.flatnonzero(self.group == self.group[atom])

    def _room_of(self, atom: int | np.integer) -> float:
        """Distance to the nearest atom of the cell, in units of the shortest known one (infinite where far)."""
        own = slice(self.begin[atom], self.begin[atom + 1])
        second = self.second[own]
        counts = (self.alive[second] | (second == atom)) & ~self.bonded[own]
        return float(self.room[own][counts].min(initial=np.inf))
