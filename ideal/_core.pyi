"""Types of the C++ module; its arrays are C-contiguous (csrc/bindings)."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

def available_instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def select_instruction_set(name: str) -> None: ...
def occupancy(
    positions: np.ndarray,
    origin: np.ndarray,
    lattice: np.ndarray,
    inverse: np.ndarray,
    periodic: np.ndarray,
    starts: np.ndarray,
    bins: list[int],
) -> tuple[list[np.ndarray[Any, np.dtype[np.uint8]]], Array, Array]: ...
def within(
    positions: np.ndarray,
    origin: np.ndarray,
    lattice: np.ndarray,
    inverse: np.ndarray,
    periodic: np.ndarray,
    starts: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    images: np.ndarray,
) -> tuple[Indices, Array, Array]: ...
def list_pairs(
    positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def edges_within(
    positions: np.ndarray,
    cell: np.ndarray,
    periodic: np.ndarray,
    cutoff: float,
    first: np.ndarray,
    target: np.ndarray,
    images: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Array, int, int, float]: ...

class SoapPowerSpectrum:
    def __init__(
        self,
        numbers: list[int],
        r_cut: float,
        n_max: int,
        l_max: int,
        sigma: float,
        taper: bool,
        radial_basis: str,
        compression: str,
        outer_support: bool,
        species_weights: list[float],
    ) -> None: ...
    @property
    def n_features(self) -> int: ...
    @property
    def support(self) -> float: ...
    @property
    def taper_width(self) -> float: ...
    def create(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        centers: np.ndarray | None,
        threads: int,
    ) -> Array: ...
    def pull_back(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        centers: np.ndarray | None,
        adjoint: np.ndarray,
        threads: int,
    ) -> tuple[Array, Array]: ...

class SoapMahalanobis:
    def __init__(self, soap: SoapPowerSpectrum, ridge: float, per_species: bool, metric: str, rank: int) -> None: ...
    def update(self, structures: list[tuple[Any, ...]], threads: int) -> None: ...
    def screen(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        threshold: float,
        centers: np.ndarray | None,
        threads: int,
    ) -> Array: ...
    def atomic(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        centers: np.ndarray | None,
        threads: int,
    ) -> Array: ...
    def squared_mahalanobis(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        centers: np.ndarray | None,
        threads: int,
    ) -> Array: ...
    def gradient(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        weights: np.ndarray,
        threads: int,
    ) -> tuple[Array, Array]: ...
    def hinge(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        cell: np.ndarray,
        periodic: np.ndarray,
        floor: np.ndarray,
        weights: np.ndarray,
        threads: int,
        width: np.ndarray | None = None,
    ) -> tuple[float, Array, Array, Array]: ...
    def merge(self, other: SoapMahalanobis) -> None: ...
    def copy(self) -> SoapMahalanobis: ...
    def count(self, species: int) -> int: ...
    @staticmethod
    def read(path: str) -> SoapMahalanobis: ...
    def write(self, path: str) -> None: ...
    @property
    def n_distributions(self) -> int: ...
    def state(self, index: int) -> tuple[int, Array, Array]: ...
    def set_state(self, index: int, count: int, mean: np.ndarray, scatter: np.ndarray) -> None: ...
    def set_counts(self, counts: list[int]) -> None: ...
    def metric(self, species: int) -> tuple[float, int, float, float]: ...
