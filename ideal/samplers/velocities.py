"""Initial velocities, and the temperature of the degrees of freedom that a thermostat can reach.

A system without constraints conserves its total momentum P, so its center of mass is no thermal degree of
freedom:

    T = 2 (E_kin - P^2 / 2M) / (k_B n_dof),   n_dof = 3N - 3

(and n_dof = 3N - 6 for a cluster whose angular momentum is conserved and zero). With constraints, such as a
slab with fixed bottom layers, momentum is exchanged with the constraint and n_dof = 3N - (constrained degrees
of freedom).
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms

from ideal.errors import SamplerError
from ideal.records import IntArray


def is_free(atoms: Atoms) -> bool:
    """Whether nothing holds the center of mass: no constraint at all."""
    return not atoms.constraints


def free_atoms(atoms: Atoms) -> IntArray:
    """Indices of the atoms that no `FixAtoms` holds."""
    held = [constraint.get_indices() for constraint in atoms.constraints if isinstance(constraint, FixAtoms)]
    return np.setdiff1d(np.arange(len(atoms)), np.concatenate(held) if held else [])


def rotational_degrees_of_freedom(atoms: Atoms) -> int:
    """3 for an unconstrained cluster, 2 when it is linear, 0 for an atom or anything periodic or constrained."""
    if atoms.pbc.any() or not is_free(atoms) or len(atoms) < 2:
        return 0
    moments = atoms.get_moments_of_inertia()
    return int(np.sum(moments > 1e-6 * moments.max()))


def count_degrees_of_freedom(atoms: Atoms, without_rotation: bool) -> int:
    """Thermal degrees of freedom of ``atoms``.

    Args:
        atoms: structure with its constraints.
        without_rotation: the angular momentum of a cluster is conserved and zero.

    Raises:
        SamplerError: nothing is left to move.
    """
    count = atoms.get_number_of_degrees_of_freedom()
    if is_free(atoms):
        count -= 3
        if without_rotation:
            count -= rotational_degrees_of_freedom(atoms)
    if count <= 0:
        raise SamplerError(
            f"{len(atoms)} atoms with {count} thermal degrees of freedom cannot move: "
            "give more atoms or fix fewer of them"
        )
    return int(count)


def internal_kinetic_energy(atoms: Atoms) -> float:
    """Kinetic energy in eV, without that of the center of mass where nothing holds it."""
    energy = float(atoms.get_kinetic_energy())
    if is_free(atoms):
        momentum = atoms.get_momenta().sum(axis=0)
        energy -= float(momentum @ momentum) / (2 * float(atoms.get_masses().sum()))
    return energy


def temperature(atoms: Atoms, degrees_of_freedom: int) -> float:
    """Instantaneous temperature in K of the thermal degrees of freedom."""
    return 2 * internal_kinetic_energy(atoms) / (units.kB * degrees_of_freedom)


def remove_net_momentum(atoms: Atoms) -> None:
    """Set the velocity of the center of mass to zero."""
    masses = atoms.get_masses()
    momenta = atoms.get_momenta()
    velocity = momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta - masses[:, None] * velocity)


def remove_rotation(atoms: Atoms) -> None:
    """Set the angular momentum of a cluster about its center of mass to zero."""
    positions = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    inertia = np.einsum("i,ij,ij->", masses, positions, positions) * np.eye(3) - np.einsum(
        "i,ij,ik->jk", masses, positions, positions
    )
    angular_momentum = np.cross(positions, atoms.get_momenta()).sum(axis=0)
    omega = np.linalg.pinv(inertia, rcond=1e-6, hermitian=True) @ angular_momentum
    atoms.set_momenta(atoms.get_momenta() - masses[:, None] * np.cross(omega, positions))


def draw_velocities(
    atoms: Atoms, target: float, degrees_of_freedom: int, rng: np.random.Generator, without_rotation: bool
) -> None:
    """Give ``atoms`` Maxwell-Boltzmann velocities, at rest as a whole, of exactly the target temperature.

    Args:
        atoms: changed in place; constraints are kept.
        target: temperature in K.
        degrees_of_freedom: from `count_degrees_of_freedom`.
        rng: source of the random numbers.
        without_rotation: also stop the rotation of a cluster.
    """
    masses = atoms.get_masses()
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * target)[:, None])
    if is_free(atoms):
        remove_net_momentum(atoms)
        if without_rotation and rotational_degrees_of_freedom(atoms):
            remove_rotation(atoms)
    drawn = temperature(atoms, degrees_of_freedom)
    if drawn > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(target / drawn))
