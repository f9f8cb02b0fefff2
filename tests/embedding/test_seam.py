"""Seams find the periods of a crystal."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from ideal.embedding.crop import FrameView
from ideal.embedding.seam import seam_table


def test_best_seam_of_a_crystal_is_a_period_of_the_lattice() -> None:
    atoms = bulk("Cu", cubic=True).repeat(6)
    atoms.rattle(0.03, seed=0)
    view = FrameView(atoms, 3, vacuum=5.0).surroundings(4.0, 2.5, 200)
    seams = seam_table(view, 1, 6 * 3.61, np.random.default_rng(0))
    best = seams.hi[:8] - seams.lo[:8]
    assert np.allclose(best, 3 * 3.61, atol=0.15)
    assert seams.mismatch[0] < 0.15 < seams.mismatch[-1]
    assert (np.diff(seams.mismatch) >= 0).all()


def test_faces_hold_the_core_and_respect_the_margin() -> None:
    atoms = bulk("Cu").repeat(9)
    view = FrameView(atoms, 3, vacuum=5.0).surroundings(4.0, 2.0, 200)
    seams = seam_table(view, 0, 1e3, np.random.default_rng(1))
    assert (seams.lo <= -4.0).all() and (seams.hi >= 4.0).all()
    assert (seams.lo >= -6.0 - 1e-9).all() and (seams.hi <= 6.0 + 1e-9).all()


def test_period_stays_below_the_frames_own() -> None:
    atoms = bulk("Cu", cubic=True).repeat(3)
    view = FrameView(atoms, 3, vacuum=5.0).surroundings(4.0, 2.5, 200)
    seams = seam_table(view, 0, 3 * 3.61, np.random.default_rng(1))
    assert (seams.hi - seams.lo).max() <= 3 * 3.61 - 0.3 + 1e-9


def test_species_matter() -> None:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(5)
    view = FrameView(atoms, 0, vacuum=5.0).surroundings(4.0, 2.5, 200)
    seams = seam_table(view, 2, 5 * 4.21, np.random.default_rng(0))
    period = seams.hi[0] - seams.lo[0]
    # half a lattice constant (10.5 Å = 2.5 a) would put Mg next to Mg
    assert min(abs(period - 2 * 4.21), abs(period - 3 * 4.21)) == pytest.approx(0.0, abs=0.15)
