"""SOAP power spectrum of atomic environments.

The density of neighbors of species s around an atom, Gaussians of width sigma, is expanded in radial functions
g_nl (GTOs) and real spherical harmonics; the power spectrum is its rotation invariant:

    p^{ss'}_{nn'l} = pi sqrt(8 / (2l + 1)) sum_m c^s_nlm c^{s'}_n'lm

Definition and order of features are DScribe's (species pairs s <= s' by atomic number, then l, n, n'; n' >= n where
s = s'). The kernels are in C++; the formulas of the basis stand in ``csrc/include/ideal/soap.hpp``.

Sources: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115;
Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), doi:10.1016/j.cpc.2019.106949 (DScribe);
Darby, Kermode, Csányi, npj Comput. Mater. 8, 166 (2022), doi:10.1038/s41524-022-00847-y (compression).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from ideal import _core
from ideal.errors import ConfigError, UncertaintyError, did_you_mean

Array = np.ndarray[Any, np.dtype[np.float64]]


class SoapPowerSpectrum:
    """The SOAP descriptor of every atom of a structure.

    An atom sees all atoms within ``support``, itself and periodic images included; any cell, any combination of
    periodic and open axes. Immutable and safe to share between threads.

    Args:
        species: chemical symbols of every element that may occur; order and repetitions do not matter.
        r_cut: radial cutoff of the basis, Å; above 1 for "gto".
        n_max: number of radial functions, 1 to 16.
        l_max: largest degree of the spherical harmonics, 0 to 12.
        sigma: width of an atom's Gaussian, Å.
        taper: True: radial functions vanish smoothly where an atom enters the support (a quintic smoothstep, half as
            wide as the padding below, two continuous derivatives). False: DScribe's hard cut, a relative jump of up to
            4e-4.
        radial_basis: "gto": Gaussian-type orbitals, which depend on l. "polynomial": (r_cut - r)^(n + 2), the same for
            every l and zero from r_cut on.
        compression: "off": all pairs of species, features grow as their number squared. With c = sum_s c^s over the
            species, "mu1nu1": c^s c for every s, linear in their number; "crossover": c^s c^s for every s, linear,
            blind to how the species sit to each other; "mu2": c c alone, blind to species but for
            ``species_weights``. A per-species metric tells central species apart in any case.
        outer_support: True: atoms count up to r_cut + padding, padding = sigma sqrt(-2 ln 1e-3), since their Gaussians
            reach inside r_cut (DScribe). False: atoms count up to r_cut, with the taper inside: for r_cut = 5 Å and
            sigma = 0.5 Å 2.6 times fewer neighbors.
        species_weights: factor on each species' density, a number above 0 for every species; None: 1.
        threads: threads per call; results do not depend on it.

    Raises:
        ConfigError: a parameter is outside its set.

    Example:
        >>> from ase.build import bulk
        >>> soap = SoapPowerSpectrum(species=["Li"], r_cut=5.0, n_max=8, l_max=6)
        >>> soap.create(bulk("Li", cubic=True)).shape
        (2, 252)
    """

    def __init__(
        self,
        species: Iterable[str],
        r_cut: float = 5.0,
        n_max: int = 8,
        l_max: int = 6,
        sigma: float = 0.5,
        taper: bool = True,
        threads: int = 1,
        *,
        radial_basis: Literal["gto", "polynomial"] = "gto",
        compression: Literal["off", "mu2", "mu1nu1", "crossover"] = "off",
        outer_support: bool = True,
        species_weights: Mapping[str, float] | None = None,
    ) -> None:
        symbols = [species] if isinstance(species, str) else list(species)
        for symbol in symbols:
            if symbol not in atomic_numbers or symbol == "X":
                remedy = did_you_mean(str(symbol).capitalize(), chemical_symbols[1:])
                raise ConfigError(f"species {symbol!r} is not a chemical symbol: {remedy}")
        if threads < 1:
            raise ConfigError(f"threads = {threads} is not valid; use 1 or more")
        self._numbers = np.array(sorted({atomic_numbers[symbol] for symbol in symbols}), dtype=np.int32)
        self.r_cut = float(r_cut)
        self.n_max = int(n_max)
        self.l_max = int(l_max)
        self.sigma = float(sigma)
        self.taper = bool(taper)
        self.threads = int(threads)
        self.radial_basis = str(radial_basis)
        self.compression = str(compression)
        self.outer_support = bool(outer_support)
        if species_weights is not None and set(species_weights) != set(self.species):
            raise ConfigError(
                f"species_weights are for {', '.join(sorted(species_weights))}; give one number for each of "
                f"{', '.join(self.species)}, or None"
            )
        self.species_weights = (
            None if species_weights is None else {symbol: float(species_weights[symbol]) for symbol in self.species}
        )
        self._core = _core.SoapPowerSpectrum(
            numbers=self._numbers.tolist(),
            r_cut=self.r_cut,
            n_max=self.n_max,
            l_max=self.l_max,
            sigma=self.sigma,
            taper=self.taper,
            radial_basis=self.radial_basis,
            compression=self.compression,
            outer_support=self.outer_support,
            species_weights=list((self.species_weights or {}).values()),
        )

    @property
    def species(self) -> list[str]:
        """Chemical symbols by atomic number."""
        return [chemical_symbols[number] for number in self._numbers]

    @property
    def n_features(self) -> int:
        """Length of one descriptor."""
        return int(self._core.n_features)

    @property
    def support(self) -> float:
        """Distance beyond which an atom has no influence, Å."""
        return float(self._core.support)

    @property
    def taper_width(self) -> float:
        """Width of the taper at the end of the support, Å; 0 without taper."""
        return float(self._core.taper_width)

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments that make an equal descriptor (``threads`` is not one of them)."""
        return {
            "species": self.species,
            "r_cut": self.r_cut,
            "n_max": self.n_max,
            "l_max": self.l_max,
            "sigma": self.sigma,
            "taper": self.taper,
            "radial_basis": self.radial_basis,
            "compression": self.compression,
            "outer_support": self.outer_support,
            "species_weights": self.species_weights,
        }

    def create(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """Descriptors.

        Args:
            atoms: the structure.
            centers: indices of the atoms wanted, each once; all by default. The cost goes with their number.

        Returns:
            (n_centers, n_features), dimensionless, rows in the order of ``centers``.

        Raises:
            UncertaintyError: an element outside ``species``, atoms that coincide, positions that are not finite, a
                degenerate cell, or a center that does not exist.
        """
        result: Array = self._core.create(
            *self.arrays(atoms), centers=center_indices(centers, len(atoms)), threads=self.threads
        )
        return result

    def pull_back(
        self, atoms: Atoms, adjoint: np.ndarray, centers: Sequence[int] | np.ndarray | None = None
    ) -> tuple[Array, Array]:
        """Derivative of L = sum(adjoint * create(atoms, centers)), in reverse mode.

        Args:
            atoms: the structure.
            adjoint: (n_centers, n_features) dL/d(descriptors).
            centers: as in :meth:`create`.

        Returns:
            dL/d(positions) (n_atoms, 3), 1/Å, and dL/d(strain) (3, 3), symmetric, for r -> (1 + strain) r.

        Raises:
            UncertaintyError: as :meth:`create`; also if ``adjoint`` has the wrong shape.
        """
        indices = center_indices(centers, len(atoms))
        adjoint = np.ascontiguousarray(adjoint, dtype=np.float64)
        expected = (len(atoms) if indices is None else len(indices), self.n_features)
        if adjoint.shape != expected:
            raise UncertaintyError(f"adjoint has shape {adjoint.shape}; it must be {expected}")
        gradient, strain = self._core.pull_back(
            *self.arrays(atoms), centers=indices, adjoint=adjoint, threads=self.threads
        )
        return gradient, strain

    def arrays(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positions, numbers, cell and periodicity as the C++ core takes them, after a look at the elements."""
        numbers = np.ascontiguousarray(atoms.numbers, dtype=np.int32)
        unknown = sorted(_distinct(numbers) - set(self._numbers.tolist()))
        if unknown:
            symbols = ", ".join(chemical_symbols[number] for number in unknown)
            raise UncertaintyError(
                f"the descriptor does not know the element {symbols}; it was made for {', '.join(self.species)}. "
                "Make SoapPowerSpectrum with every species that may occur"
            )
        return (
            np.ascontiguousarray(atoms.positions, dtype=np.float64),
            numbers,
            np.ascontiguousarray(atoms.cell.array, dtype=np.float64),
            np.ascontiguousarray(atoms.pbc, dtype=bool),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoapPowerSpectrum) and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash(repr(self.parameters))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"SoapPowerSpectrum({values}, threads={self.threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, ({**self.parameters, "threads": self.threads},)


def _distinct(numbers: np.ndarray) -> set[int]:
    """Distinct atomic numbers, without sorting a million of them."""
    if numbers.size and 0 <= numbers.min() <= numbers.max() < 1000:
        return set(np.flatnonzero(np.bincount(numbers)).tolist())
    return set(numbers.tolist())


def _make(arguments: dict[str, Any]) -> SoapPowerSpectrum:
    """For pickle and copy, which know positional arguments only."""
    return SoapPowerSpectrum(**arguments)


def center_indices(centers: Sequence[int] | np.ndarray | None, n_atoms: int) -> np.ndarray | None:
    """Centers as (n_centers,) int64 between 0 and n_atoms - 1; None stays None (all atoms).

    Raises:
        UncertaintyError: an index that is out of range, not an integer, or there twice (negative ones do not count from
            the end).
    """
    if centers is None:
        return None
    given = np.asarray(centers)
    if given.size == 0:
        return np.empty(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise UncertaintyError(
            f"centers of dtype {given.dtype} and shape {given.shape} are not valid; use a list of atom indices "
            "(numpy.flatnonzero turns a mask into one)"
        )
    indices = np.ascontiguousarray(given, dtype=np.int64)
    outside = indices[(indices < 0) | (indices >= n_atoms)]
    if outside.size:
        raise UncertaintyError(f"center {outside[0]} is not an atom of the structure; valid: 0 to {n_atoms - 1}")
    if np.unique(indices).size != indices.size:
        raise UncertaintyError("centers holds an atom twice; name each once")
    return indices
