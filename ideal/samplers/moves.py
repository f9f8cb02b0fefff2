"""Trial moves of Monte Carlo, each with what its acceptance needs beside the energy.

A move from state a to b is accepted with probability min(1, exp(-(E_b - E_a) / kT + w)), where w collects what makes
detailed balance hold (Frenkel and Smit, Understanding Molecular Simulation, chapters 3 and 5):

| move | proposal | w |
| --- | --- | --- |
| displacement | uniform in a cube around the atom | 0 |
| volume | ln V uniform around the old one, atoms follow | (N + 1) ln(V_b / V_a) - P (V_b - V_a) / kT |
| shape | cell times exp(S), S symmetric without trace, uniform | 0 |
| swap | two atoms of different elements exchange positions | 0 |
| hop | a random vacancy, then a random atom near it | ln(number of choices in a / number of choices back) |

A proposal that cannot be undone by the same move is refused, and so is one that puts atoms into each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list
from scipy.linalg import expm

from ideal.config import MonteCarloConfig
from ideal.errors import ConfigError, SamplerError
from ideal.records import FloatArray, IntArray
from ideal.samplers.velocities import free_atoms


@dataclass(frozen=True)
class Trial:
    """A proposed state.

    Attributes:
        atoms: the configuration.
        log_weight: w above.
    """

    atoms: Atoms
    log_weight: float = 0.0


class Move(Protocol):
    """A kind of trial move."""

    @property
    def largest(self) -> float:
        """Largest size that adapting may reach; 0 for a move without size."""

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial | None:
        """A new state, ``atoms`` untouched; None: refused, the old state counts once more."""
        ...


@dataclass(frozen=True)
class Displacement:
    """Some atoms move, each within a cube."""

    free: IntArray
    count: int
    largest: float = 2.0

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial:
        """See `Move`; size: half the cube's edge, Å."""
        chosen = rng.choice(self.free, self.count, replace=False)
        trial = atoms.copy()
        trial.positions[chosen] += rng.uniform(-size, size, (self.count, 3))
        return Trial(trial)


@dataclass(frozen=True)
class VolumeChange:
    """All lengths scale; ``pressure`` in eV/Å³, ``kt`` in eV."""

    pressure: float
    kt: float
    largest: float = 0.3

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial:
        """See `Move`; size: largest change of ln V."""
        change = rng.uniform(-size, size)
        trial = atoms.copy()
        trial.set_cell(atoms.cell.array * np.exp(change / 3), scale_atoms=True)
        work = self.pressure * (trial.get_volume() - atoms.get_volume())
        return Trial(trial, (len(atoms) + 1) * change - work / self.kt)


@dataclass(frozen=True)
class ShapeChange:
    """The cell is stretched and sheared at constant volume, without rotation."""

    largest: float = 0.1

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial:
        """See `Move`; size: largest component of the strain before its trace is taken out."""
        strain = rng.uniform(-size, size, (3, 3))
        strain = (strain + strain.T) / 2
        strain -= np.eye(3) * np.trace(strain) / 3
        trial = atoms.copy()
        trial.set_cell(atoms.cell.array @ expm(strain), scale_atoms=True)
        return Trial(trial)


@dataclass(frozen=True)
class Swap:
    """Two atoms of different elements exchange positions."""

    free: IntArray
    largest: float = 0.0

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial:
        """See `Move`."""
        numbers = atoms.numbers
        first = rng.choice(self.free)
        second = rng.choice(self.free[numbers[self.free] != numbers[first]])
        trial = atoms.copy()
        trial.positions[[first, second]] = atoms.positions[[second, first]]
        return Trial(trial)


@dataclass(frozen=True)
class Hop:
    """An atom moves into a vacancy and keeps its displacement from the site.

    Attributes:
        sites: (n_sites, 3) fractional coordinates of all lattice sites.
        free: atoms that may hop.
        radius: largest distance of two sites between which atoms hop, Å.
    """

    sites: FloatArray
    free: IntArray
    radius: float
    largest: float = 0.0

    def propose(self, atoms: Atoms, size: float, rng: np.random.Generator) -> Trial | None:
        """See `Move`."""
        sites = self.sites @ atoms.cell.array
        site_of = self._nearest(atoms, sites, atoms.positions)
        empty = np.setdiff1d(np.arange(len(sites)), site_of)
        if not empty.size:
            return None
        target = rng.choice(empty)
        vectors, near = self._near(atoms, sites, site_of, target)
        if not near.size:
            return None
        atom = rng.choice(near)
        source = site_of[atom]
        trial = atoms.copy()
        trial.positions[atom] -= vectors[source]
        back = site_of.copy()
        back[atom] = self._nearest(trial, sites, trial.positions[[atom]])[0]
        left = np.setdiff1d(np.arange(len(sites)), back)
        if back[atom] != target or source not in left:
            return None
        _, near_back = self._near(trial, sites, back, source)
        return Trial(trial, float(np.log(empty.size * near.size / (left.size * near_back.size))))

    def _nearest(self, atoms: Atoms, sites: FloatArray, positions: FloatArray) -> IntArray:
        """The site nearest to each position."""
        _, distances = find_mic((positions[:, None] - sites[None]).reshape(-1, 3), atoms.cell, atoms.pbc)
        nearest: IntArray = distances.reshape(len(positions), -1).argmin(axis=1)
        return nearest

    def _near(self, atoms: Atoms, sites: FloatArray, site_of: IntArray, target: int) -> tuple[FloatArray, IntArray]:
        """Vectors from a site to all sites, and the free atoms whose site is near it."""
        vectors, distances = find_mic(sites - sites[target], atoms.cell, atoms.pbc)
        return np.asarray(vectors), self.free[distances[site_of[self.free]] <= self.radius]


def overlaps(atoms: Atoms, core: float) -> bool:
    """Whether two atoms are nearer than ``core`` times the sum of their covalent radii."""
    return core > 0 and bool(len(neighbor_list("i", atoms, core * covalent_radii[atoms.numbers])))


def make_moves(config: MonteCarloConfig, atoms: Atoms, name: str) -> dict[str, Move]:
    """The moves that ``config`` gives a weight, by name.

    Raises:
        ConfigError: ``swap_elements`` or ``displaced_atoms`` do not fit the structure.
        SamplerError: the cell cannot change, nothing can be moved, or moves would break a constraint.
    """
    moves, free = config.moves, free_atoms(atoms)
    if not free.size:
        raise SamplerError(f"trajectory {name!r}: every atom is fixed and nothing can move; fix fewer atoms")
    kept = {type(constraint).__name__ for constraint in atoms.constraints if not isinstance(constraint, FixAtoms)}
    if kept:
        raise SamplerError(
            f"trajectory {name!r}: trial moves keep no constraints but fixed atoms, the structure has "
            f"{', '.join(sorted(kept))}; remove it, or fix whole atoms"
        )
    made: dict[str, Move] = {}
    if moves.displacement:
        count = free.size if moves.displaced_atoms is None else moves.displaced_atoms
        if count > free.size:
            raise ConfigError(
                f"trajectory {name!r}: sampler.moves.displaced_atoms is {count}, but {free.size} atoms are free; "
                "write less, or null for all"
            )
        made["displacement"] = Displacement(free, count)
    if moves.volume or moves.shape:
        _require_free_cell(atoms, name)
    if moves.volume:
        made["volume"] = VolumeChange(config.pressure, units.kB * config.temperature)
    if moves.shape:
        made["shape"] = ShapeChange()
    if moves.swap:
        made["swap"] = Swap(_exchangeable(atoms, free, moves.swap_elements, name))
    if moves.hop:
        if atoms.cell.rank < 3:
            raise SamplerError(f"trajectory {name!r}: hops need a cell, of which `vacancies` are fractions")
        sites = np.concatenate([atoms.get_scaled_positions(wrap=False), moves.vacancies])
        made["hop"] = Hop(sites, free, moves.hop_radius)
    return made


def _require_free_cell(atoms: Atoms, name: str) -> None:
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise SamplerError(
            f"trajectory {name!r}: volume and shape moves need a cell periodic along all three axes, got pbc "
            f"{atoms.pbc.tolist()}; set their weights to 0"
        )
    if atoms.constraints:
        raise SamplerError(
            f"trajectory {name!r}: volume and shape moves move all atoms, but some are fixed; set their weights to 0, "
            "or fix none"
        )


def _exchangeable(atoms: Atoms, free: IntArray, pair: tuple[str, str] | None, name: str) -> IntArray:
    """Free atoms that take part in swaps."""
    symbols = np.array(atoms.get_chemical_symbols())[free]
    chosen = free if pair is None else free[np.isin(symbols, pair)]
    if len(set(atoms.numbers[chosen])) < 2:
        found = ", ".join(sorted(set(symbols)))
        raise ConfigError(
            f"trajectory {name!r}: swaps need free atoms of two elements"
            f"{'' if pair is None else ', sampler.moves.swap_elements ' + ' and '.join(pair)}; there are {found}"
        )
    return chosen
