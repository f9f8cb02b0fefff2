"""Structures of the embedding's tests."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from .radial import RadialUncertainty, hot, rocksalt


@pytest.fixture(scope="session")
def copper_frame() -> Atoms:
    """256 hot copper atoms."""
    return hot(bulk("Cu", cubic=True).repeat(4), 900.0, seed=1)


@pytest.fixture(scope="session")
def copper_training() -> list[Atoms]:
    """Two frames of 108 copper atoms, as hot as the frame and hotter."""
    return [hot(bulk("Cu", cubic=True).repeat(3), t, seed=k) for k, t in enumerate((900.0, 1100.0))]


@pytest.fixture(scope="session")
def copper_uncertainty(copper_training: list[Atoms]) -> RadialUncertainty:
    uncertainty = RadialUncertainty(["Cu"])
    uncertainty.update(copper_training)
    return uncertainty


@pytest.fixture(scope="session")
def slab_frame() -> Atoms:
    """A rattled Cu(111) slab of 4 layers in an orthogonal cell with 8 Å of vacuum on both sides."""
    slab = fcc111("Cu", (6, 6, 4), vacuum=8.0, orthogonal=True, periodic=True)
    slab.rattle(0.08, seed=3)
    return slab


@pytest.fixture(scope="session")
def magnesia_frame() -> Atoms:
    """A rattled rocksalt frame of 512 atoms."""
    return rocksalt(seed=5, repeat=4)


@pytest.fixture(scope="session")
def magnesia_uncertainty() -> RadialUncertainty:
    uncertainty = RadialUncertainty(["O", "Mg"])
    uncertainty.update([rocksalt(seed=k, repeat=2) for k in range(3)])
    return uncertainty
