"""Voronoi polycrystals: grains of one crystal, randomly turned, that fill a periodic cube.

Every point of the cube belongs to the nearest of ``n_grains`` random seeds, periodic images included; the grain around
a seed is the crystal turned by a random rotation, with one of its lattice points at the seed. Where two grains meet,
atoms nearer than a fraction of the crystal's shortest distance are thinned out.

H. Gleiter's construction as used for atomistic models: D. Chen, Comput. Mater. Sci. 3, 327 (1995),
doi:10.1016/0927-0256(94)00077-M.
"""

from __future__ import annotations

import itertools

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.spatial import Voronoi, cKDTree
from scipy.spatial.transform import Rotation

from ideal.errors import ConfigError
from ideal.records import FloatArray, IntArray


def polycrystal(crystal: Atoms, length: float, n_grains: int, seed: int = 0, contact: float = 0.8) -> Atoms:
    """A periodic cube of randomly placed and turned grains.

    Args:
        crystal: a periodic cell of the crystal.
        length: edge of the cube, Å.
        n_grains: number of grains, at least 1.
        seed: of positions and rotations; the same seed gives the same atoms.
        contact: atoms of different grains nearer than this multiple of the crystal's shortest distance lose one of
            them; 0 keeps all. In a compound this can change the composition a little.

    Returns:
        The atoms, grain by grain, with an integer array ``grain``.

    Raises:
        ConfigError: the crystal is not periodic along three independent vectors, has no atoms, or a number is out of
            range.

    Example:
        >>> from ase.build import bulk
        >>> atoms = polycrystal(bulk("Li", "bcc", a=3.51), length=40.0, n_grains=4, seed=1)
        >>> sorted(set(atoms.get_array("grain").tolist()))
        [0, 1, 2, 3]
    """
    if len(crystal) == 0 or not crystal.pbc.all() or crystal.cell.rank < 3:
        raise ConfigError("a polycrystal needs a crystal with atoms, periodic along three independent vectors")
    if n_grains < 1:
        raise ConfigError(f"n_grains = {n_grains} is not valid; use 1 or more")
    if not length > 0:
        raise ConfigError(f"length = {length} Å is not valid; use a positive one")
    if not 0 <= contact < 1:
        raise ConfigError(f"contact = {contact} is not valid; use 0 ... 1, 1 excluded")
    generator = np.random.default_rng(seed)
    seeds = generator.random((n_grains, 3)) * length
    rotations = Rotation.random(n_grains, random_state=generator)
    radii = _grain_radii(seeds, length)
    tree = cKDTree(seeds, boxsize=length)
    positions, numbers = [], []
    for grain in range(n_grains):
        vectors, species = _ball(crystal, radii[grain])
        points = seeds[grain] + rotations[grain].apply(vectors)
        wrapped = _wrapped(points, length)
        distances, nearest = tree.query(wrapped)
        own = (nearest == grain) & (np.linalg.norm(vectors, axis=1) <= distances + 1e-8)
        positions.append(wrapped[own])
        numbers.append(species[own])
    grains = np.repeat(np.arange(n_grains), [len(p) for p in positions])
    everywhere = np.concatenate(positions)
    kept = _without_contacts(everywhere, length, contact * _shortest_distance(crystal))
    atoms = Atoms(np.concatenate(numbers)[kept], everywhere[kept], cell=[length] * 3, pbc=True)
    atoms.set_array("grain", grains[kept])
    return atoms


def _grain_radii(seeds: FloatArray, length: float) -> FloatArray:
    """(n,) distance from each seed to the farthest corner of its Voronoi cell, Å."""
    shifts = np.array(sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda shift: shift != (0, 0, 0)))
    diagram = Voronoi(np.concatenate([seeds + shift * length for shift in shifts]))
    largest = length * np.sqrt(3)  # a cell open within the images cannot be larger than the cube's own
    radii = np.empty(len(seeds))
    for grain, seed in enumerate(seeds):
        corners = diagram.regions[diagram.point_region[grain]]
        closed = -1 not in corners
        radii[grain] = np.linalg.norm(diagram.vertices[corners] - seed, axis=1).max() if closed else largest
    return radii + 1e-6


def _ball(crystal: Atoms, radius: float) -> tuple[FloatArray, IntArray]:
    """Vectors (n, 3) and atomic numbers (n,) of the crystal's atoms within ``radius`` of a lattice point."""
    cell = crystal.cell.array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = [int(np.ceil(radius / height)) + 1 for height in heights]
    counts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = counts @ cell
    vectors, numbers = [], []
    for atom in crystal.get_positions(wrap=True) - crystal.get_positions(wrap=True)[0]:
        vectors.append(lattice + atom)
    for number in crystal.numbers:
        numbers.append(np.full(len(lattice), number))
    everywhere = np.concatenate(vectors)
    inside = (everywhere**2).sum(axis=1) <= radius**2
    return everywhere[inside], np.concatenate(numbers)[inside]


def _wrapped(points: FloatArray, length: float) -> FloatArray:
    """Points within [0, length); the modulus of a tiny negative number is ``length`` itself."""
    wrapped = np.mod(points, length)
    wrapped[wrapped >= length] = 0.0
    return wrapped


def _shortest_distance(crystal: Atoms) -> float:
    """Å; found within growing spheres."""
    cutoff = 2.0
    while True:
        distances = neighbor_list("d", crystal, cutoff)
        if distances.size:
            return float(distances.min())
        cutoff *= 1.5


def _without_contacts(positions: FloatArray, length: float, distance: float) -> IntArray:
    """Indices of the atoms that stay: of each pair nearer than ``distance`` (Å) the later one goes."""
    if distance == 0:
        return np.arange(len(positions))
    pairs = cKDTree(positions, boxsize=length).query_pairs(distance, output_type="ndarray")
    gone = np.zeros(len(positions), dtype=bool)
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if not gone[first]:
            gone[second] = True
    return np.flatnonzero(~gone)
