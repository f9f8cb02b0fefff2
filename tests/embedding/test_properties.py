"""What holds for any cell, whatever the frame, the center, the seed and the sizes."""

from __future__ import annotations

from functools import cache

import numpy as np
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig
from ideal.embedding import embed, minimum_distances
from ideal.embedding.distances import CONTACT
from ideal.records import Provenance, Substructure

from .radial import rocksalt
from .structures import disordered
from .test_embed import assert_sound, closest

THRESHOLD = 3.0


@cache
def material(name: str) -> tuple[SoapMahalanobis, Atoms, dict[tuple[int, int], float]]:
    """Distribution, frame and shortest distances of liquid silica, amorphous silicon or hot MgO."""
    known, frame = ([rocksalt(k, 3) for k in range(2)], rocksalt(9, 4)) if name == "MgO" else disordered(name)
    species = sorted(set(frame.get_chemical_symbols()))
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(species, r_cut=4.5, n_max=3, l_max=3, sigma=0.5), ridge=1e-6)
    uncertainty.update(known)
    return uncertainty, frame, minimum_distances(known)


def made(name: str, frame: Atoms, index: int, seed: int, **sizes: float) -> Substructure:
    uncertainty, _, shortest = material(name)
    config = EmbeddingConfig(n_crops=8, max_evaluations=40, growth_attempts=0, young_factor=1.0, **sizes)
    return embed(frame, index, uncertainty, seed, config, THRESHOLD, min_distances=shortest)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["MgO", "SiO2", "Si"]),
    place=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
    r_core=st.floats(3.0, 4.5),
    margin=st.floats(1.0, 3.0),
)
def test_what_holds_for_every_cell(name: str, place: float, seed: int, r_core: float, margin: float) -> None:
    _, frame, shortest = material(name)
    index = int(place * len(frame))
    cell = made(name, frame, index, seed, r_core=r_core, margin=margin)
    if cell.whole_frame or cell.core.all():
        return
    assert_sound(cell, frame)  # the core's positions among it
    assert cell.parent_indices[cell.center] == index
    assert (cell.provenance == Provenance.CORE).sum() == cell.core.sum()
    if not cell.accepted:
        assert cell.reason
        return
    assert closest(cell.atoms, shortest) >= CONTACT * (1 - 1e-9)
    if name == "MgO":
        assert (cell.atoms.numbers == 12).sum() == (cell.atoms.numbers == 8).sum()
    if name == "SiO2":
        assert 2 * (cell.atoms.numbers == 14).sum() == (cell.atoms.numbers == 8).sum()
    again = made(name, frame, index, seed, r_core=r_core, margin=margin)
    assert np.array_equal(again.atoms.positions, cell.atoms.positions)
    assert np.array_equal(again.atoms.cell.array, cell.atoms.cell.array)


def test_acceptance_knows_no_orientation_origin_or_order() -> None:
    """Other draws, the same odds: a turned, shifted and shuffled frame is embedded about as often and as small."""
    _, frame, _ = material("SiO2")
    centers = np.random.default_rng(0).choice(len(frame), 8, replace=False)
    order = np.random.default_rng(1).permutation(len(frame))
    other = frame[order]
    other.positions += (3.3, -20.0, 7.1)
    other.rotate(37.0, (1, 2, 3), rotate_cell=True)
    plain = [made("SiO2", frame, int(k), int(k), r_core=4.0, margin=2.5) for k in centers]
    turned = [made("SiO2", other, int(np.flatnonzero(order == k)[0]), int(k), r_core=4.0, margin=2.5) for k in centers]
    accepted = [sum(cell.accepted for cell in cells) for cells in (plain, turned)]
    assert min(accepted) >= 6
    sizes = [np.mean([len(cell.atoms) for cell in cells]) for cells in (plain, turned)]
    assert abs(sizes[0] - sizes[1]) < 0.2 * sizes[0]
    for a, b in zip(plain, turned, strict=True):
        assert sorted(a.parent_indices[a.core]) == sorted(order[b.parent_indices[b.core]])
