"""Structures to start from when no data set is at hand: the starting structures, strained and rattled.

Each structure r_i, with cell h, becomes (1 + e) (r_i + x_i): a random symmetric strain e with components uniform in
[-strain, strain] along the periodic axes, and normal displacements x_i. A structure that is too large for the reference
code is first reduced to its smallest repeat unit along the cell axes, which is then repeated up to ``max_atoms``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.spatial import cKDTree

from ideal.config import RattleConfig
from ideal.errors import ConfigError
from ideal.records import FloatArray

_TOLERANCE = 1e-3
"""Å; atoms of a perfect crystal repeat within this."""

_CLOSEST = 0.7
"""A rattled structure whose shortest distance falls below this part of the original's is drawn again."""

_DRAWS = 50


def rattled_structures(atoms_list: Sequence[Atoms], config: RattleConfig, seed: int) -> list[Atoms]:
    """Make ``config.count`` strained and rattled structures, taking turns through ``atoms_list``.

    Args:
        atoms_list: starting structures.
        config: how many, how much, how large.
        seed: structure k depends on (seed, k) only.

    Returns:
        Structures without constraints, momenta or calculators; ``info`` says where each comes from.

    Raises:
        ConfigError: a structure is larger than ``config.max_atoms`` and repeats nothing smaller, or the displacements
            bring atoms into contact every time.

    Example:
        >>> from ase.build import bulk
        >>> made = rattled_structures([bulk("Li", cubic=True).repeat(4)], RattleConfig(count=3, max_atoms=64), seed=0)
        >>> [len(atoms) for atoms in made]
        [54, 54, 54]
    """
    if config.count == 0:
        return []
    if not atoms_list:
        raise ConfigError("dataset.rattled: no starting structure to rattle; give at least one")
    bases = [small_enough(atoms, config.max_atoms, "dataset.rattled") for atoms in atoms_list]
    shortest = [shortest_distance(base) for base in bases]
    made = []
    for k in range(config.count):
        which = k % len(bases)
        atoms = _rattle(bases[which], shortest[which], config, np.random.default_rng([seed, k]))
        atoms.info = {"origin": "rattled", "structure": which, "index": k}
        made.append(atoms)
    return made


def repeat_unit(atoms: Atoms, tolerance: float = _TOLERANCE) -> Atoms:
    """The smallest cell that gives ``atoms`` back when repeated along its periodic axes.

    Works for bulk, slabs and wires, whatever the shape of the cell; ``atoms`` itself when nothing repeats. A thermally
    disordered structure repeats nothing.

    Args:
        atoms: structure.
        tolerance: how far an atom may lie from its image, Å.

    Example:
        >>> from ase.build import bulk
        >>> len(repeat_unit(bulk("Li", cubic=True).repeat((3, 4, 5))))
        2
    """
    unit = atoms.copy()
    unit.calc = None
    for axis in range(3):
        if not unit.pbc[axis]:
            continue
        counts = np.unique(unit.numbers, return_counts=True)[1]
        common = int(np.gcd.reduce(counts))
        for parts in range(common, 1, -1):
            if common % parts == 0 and _repeats(unit, axis, parts, tolerance):
                unit = _first_part(unit, axis, parts)
                break
    return unit


def shortest_distance(atoms: Atoms) -> float:
    """Shortest interatomic distance in Å, periodic images included; infinite when there is none below 10 Å."""
    for cutoff in (3.0, 5.0, 10.0):
        distances = neighbor_list("d", atoms, cutoff)
        if len(distances):
            return float(distances.min())
    return float("inf")


def _repeats(atoms: Atoms, axis: int, parts: int, tolerance: float) -> bool:
    """Whether a shift by 1/parts of the cell vector maps every atom onto one of its own kind."""
    cell = atoms.cell.complete().array
    periodic = np.asarray(atoms.pbc)
    box = np.where(periodic, 1.0, 0.0)  # 0: the tree does not wrap this axis

    def wrapped(scaled: FloatArray) -> FloatArray:
        folded = np.where(periodic, scaled % 1.0, scaled)
        return np.where(periodic & (folded >= 1.0), 0.0, folded)

    scaled = atoms.cell.scaled_positions(atoms.positions)
    shift = np.zeros(3)
    shift[axis] = 1.0 / parts
    for number in np.unique(atoms.numbers):
        own = wrapped(scaled[atoms.numbers == number])
        moved = wrapped(own + shift)
        _, nearest = cKDTree(own, boxsize=box).query(moved)
        difference = own[nearest] - moved
        difference -= np.where(periodic, np.rint(difference), 0.0)
        if np.linalg.norm(difference @ cell, axis=1).max() > tolerance:
            return False
    return True


def _first_part(atoms: Atoms, axis: int, parts: int) -> Atoms:
    """The atoms of the first of ``parts`` equal slices along ``axis``, one of each translational orbit."""
    scaled = atoms.cell.scaled_positions(atoms.positions)[:, axis]
    # The cut goes through the widest gap of the folded coordinates, so that no atom lies on it within the tolerance.
    folded = np.sort((scaled * parts) % 1.0)
    gaps = np.diff(np.append(folded, folded[0] + 1.0))
    widest = int(gaps.argmax())
    cut = (folded[widest] + gaps[widest] / 2) / parts
    inside = ((scaled - cut) % 1.0) < 1.0 / parts
    unit = atoms[inside]
    cell = atoms.cell.array.copy()
    cell[axis] /= parts
    unit.set_cell(cell)
    unit.wrap(eps=1e-6)
    return unit


def small_enough(atoms: Atoms, max_atoms: int, section: str) -> Atoms:
    """A structure of at most ``max_atoms``: the given one, else its smallest repeat unit, repeated as far as that goes.

    Args:
        atoms: structure; constraints, momenta and calculator are left behind.
        max_atoms: largest number of atoms.
        section: of the configuration, for the message.

    Raises:
        ConfigError: it is larger and repeats nothing as small as that.
    """
    base = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if len(base) <= max_atoms:
        return base
    unit = repeat_unit(base)
    if len(unit) > max_atoms:
        raise ConfigError(
            f"{section}: a starting structure of {len(atoms)} atoms ({atoms.get_chemical_formula()}) is larger "
            f"than max_atoms {max_atoms} and repeats nothing smaller than {len(unit)} atoms: raise "
            f"{section}.max_atoms, "
            "name small structures in dataset.initial, or start from a perfect crystal"
        )
    repeats = [1, 1, 1]
    while True:
        # Lengthen the shortest periodic axis as long as that fits.
        lengths = np.where(unit.pbc, unit.cell.lengths() * repeats, np.inf)
        longer = list(repeats)
        longer[int(lengths.argmin())] += 1
        if len(unit) * int(np.prod(longer)) > max_atoms:
            return unit.repeat(repeats)
        repeats = longer


def _rattle(base: Atoms, shortest: float, config: RattleConfig, rng: np.random.Generator) -> Atoms:
    for _ in range(_DRAWS):
        atoms = base.copy()
        atoms.set_positions(atoms.positions + rng.normal(scale=config.rattle, size=(len(atoms), 3)))
        deformation = np.eye(3) + _strain(base, config.strain, rng)
        if base.cell.rank:
            atoms.set_cell(base.cell.array @ deformation.T)
        atoms.set_positions(atoms.positions @ deformation.T)
        if shortest_distance(atoms) >= _CLOSEST * shortest or not np.isfinite(shortest):
            return atoms
    raise ConfigError(
        f"dataset.rattled: displacements of {config.rattle} Å and a strain of {config.strain} bring atoms of "
        f"{base.get_chemical_formula()} below {_CLOSEST * shortest:.2f} Å every time; lower dataset.rattled.rattle"
    )


def _strain(atoms: Atoms, largest: float, rng: np.random.Generator) -> FloatArray:
    """(3, 3) symmetric strain in the space that the periodic axes span."""
    upper = np.triu(rng.uniform(-largest, largest, size=(3, 3)))
    strain = upper + upper.T - np.diag(np.diag(upper))
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) == 0:
        return np.zeros((3, 3))
    # Projector onto the span of the periodic cell vectors.
    projector = np.linalg.pinv(periodic) @ periodic
    return projector @ strain @ projector
