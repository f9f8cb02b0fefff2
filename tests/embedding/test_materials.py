"""One cell of every kind of material: accepted, sound, and with what makes the kind special kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig
from ideal.embedding import embed, minimum_distances
from ideal.embedding.crop import FrameView
from ideal.embedding.molecules import groups
from ideal.records import Provenance, Substructure

from .radial import hot
from .structures import (
    alumina,
    ammonia_on_iridium,
    disordered,
    particle_in_gas,
    polycrystal,
    quartz,
    rattled,
    screw_dislocation,
    solution,
    stepped_surface,
    twist_boundary,
    water,
)
from .test_embed import assert_sound


def embedded(
    frame: Atoms, training: list[Atoms], index: int, threshold: float = 3.0, **options: object
) -> Substructure:
    species = sorted(set(frame.get_chemical_symbols()))
    known = SoapMahalanobis(SoapPowerSpectrum(species, r_cut=4.5, n_max=3, l_max=3, sigma=0.5), ridge=1e-6)
    known.update(training)
    config = EmbeddingConfig(young_factor=1.0, **options)  # type: ignore[arg-type]
    return embed(
        frame, index, known, rng=1, config=config, threshold=threshold, min_distances=minimum_distances(training)
    )


@dataclass
class Case:
    frame: Atoms
    training: list[Atoms]
    index: int = 11
    composition: str = "as cut"
    threshold: float = 3.0
    options: dict[str, object] = field(default_factory=dict)


def cases() -> dict[str, Case]:
    iron, magnesium, silicon = bulk("Fe", cubic=True), bulk("Mg"), bulk("Si", cubic=True)
    boundary, stepped, dislocation = twist_boundary(), stepped_surface(), screw_dislocation()
    corundum = alumina((4, 4, 2))
    oxide = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(4)
    vacancy = rattled(oxide, 0.05, 1)
    hole = int(np.flatnonzero(vacancy.numbers == 8)[40])
    del vacancy[hole]
    tail = int(np.argmin(np.linalg.norm(dislocation.positions - dislocation.positions.mean(axis=0), axis=1)))
    edge = int(np.argmin(np.abs(boundary.positions[:, 2] - boundary.cell[2, 2] / 2)))
    gap = rattled(bulk("Al", cubic=True).repeat(5), 0.1, 1)
    del gap[200]
    grains = polycrystal()
    amorphous_silicon, amorphous_carbon, liquid_silica = map(disordered, ("Si", "C", "SiO2"))
    silica = "formula SiO2 (the frame's)"
    return {
        "amorphous silicon": Case(amorphous_silicon[1], amorphous_silicon[0], threshold=5.0),
        "amorphous carbon": Case(amorphous_carbon[1], amorphous_carbon[0], threshold=5.0),
        "liquid SiO2": Case(liquid_silica[1], liquid_silica[0], composition=silica),
        "quartz": Case(rattled(quartz((5, 5, 4)), 0.05, 1), [rattled(quartz((3, 3, 3)), 0.06, 2)], composition=silica),
        "MgO": Case(rattled(oxide, 0.06, 1), [rattled(oxide, 0.07, 2)], composition="formula MgO (the frame's)"),
        "fcc": Case(
            rattled(bulk("Al", cubic=True).repeat(5), 0.1, 1), [rattled(bulk("Al", cubic=True).repeat(4), 0.1, 2)]
        ),
        "polycrystal": Case(rattled(grains, 0.06, 1), [rattled(grains, 0.07, 2)], most_disordered(grains)),
        "vacancy in aluminum": Case(gap, [rattled(gap, 0.05, 2)], next_to(gap, 200)),
        "bcc": Case(rattled(iron.repeat(6), 0.1, 1), [rattled(iron.repeat(4), 0.11, 2)]),
        "hcp": Case(rattled(magnesium.repeat((8, 8, 5)), 0.1, 1), [rattled(magnesium.repeat((6, 6, 4)), 0.11, 2)]),
        "diamond": Case(rattled(silicon.repeat(4), 0.08, 1), [rattled(silicon.repeat(3), 0.09, 2)]),
        "liquid": Case(
            hot(bulk("Cu", cubic=True).repeat(4), 4000.0, 40, 1), [hot(bulk("Cu", cubic=True).repeat(4), 4000.0, 40, 2)]
        ),
        "grain boundary": Case(rattled(boundary, 0.08, 1), [rattled(boundary, 0.09, 2)], edge),
        "stepped surface": Case(rattled(stepped, 0.06, 1), [rattled(stepped, 0.07, 2)], 20),
        "dislocation": Case(rattled(dislocation, 0.06, 1), [rattled(dislocation, 0.07, 2)], tail),
        "Al2O3": Case(
            rattled(corundum, 0.05, 1), [rattled(alumina((3, 3, 1)), 0.06, 2)], 50, "formula Al2O3 (the frame's)"
        ),
        "vacancy in MgO": Case(vacancy, [vacancy, rattled(oxide, 0.06, 2)], 3, "charges Mg +2, O -2 (guessed)"),
    }


NAMES = [
    "amorphous silicon",
    "amorphous carbon",
    "liquid SiO2",
    "quartz",
    "MgO",
    "fcc",
    "polycrystal",
    "vacancy in aluminum",
    "bcc",
    "hcp",
    "diamond",
    "liquid",
    "grain boundary",
    "stepped surface",
    "dislocation",
    "Al2O3",
    "vacancy in MgO",
]


def most_disordered(atoms: Atoms) -> int:
    """The atom with the fewest neighbors within 3.2 Å: at a boundary."""
    return int(np.argmin(np.bincount(neighbor_list("i", atoms, 3.2), minlength=len(atoms))))


def next_to(atoms: Atoms, index: int) -> int:
    """The atom nearest to the one that had this index before it was taken out of an fcc crystal."""
    removed = bulk("Al", cubic=True).repeat(5).positions[index]
    return int(np.argmin(np.linalg.norm(atoms.positions - removed, axis=1)))


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    return cases()


@pytest.mark.parametrize("name", NAMES)
def test_material(made: dict[str, Case], name: str) -> None:
    case = made[name]
    cell = embedded(case.frame, case.training, case.index, case.threshold, **case.options)
    assert cell.accepted, cell.reason
    assert not cell.whole_frame and len(cell.atoms) <= 200
    assert_sound(cell, case.frame)
    assert cell.composition == case.composition


def test_vacancy_cell_is_neutral(made: dict[str, Case]) -> None:
    case = made["vacancy in MgO"]
    cell = embedded(case.frame, case.training, case.index)
    assert (cell.atoms.numbers == 8).sum() == (cell.atoms.numbers == 12).sum()


def assert_molecules_are_whole(cell: Substructure, frame: Atoms) -> None:
    """Every molecule of the cell has all the atoms that it has in the frame."""
    gas = np.flatnonzero(frame.numbers != 77)
    repeated = frame[gas]
    lattice = np.asarray(frame.cell.complete())
    shifts = [np.array(s) @ lattice for s in np.ndindex(3, 3, 3)] if frame.pbc.all() else [np.zeros(3)]
    positions = np.concatenate([repeated.positions + s for s in shifts])
    label = groups(np.tile(repeated.numbers, len(shifts)), positions)
    sizes = np.bincount(label)[label].reshape(len(shifts), len(gas)).max(axis=0)
    size = dict(zip(gas.tolist(), sizes.tolist(), strict=True))
    members = [k for k in range(len(cell.atoms)) if cell.atoms.numbers[k] != 77]
    own = groups(cell.atoms.numbers[members], cell.atoms.arrays["crop_positions"][members])
    for k, group in zip(members, own, strict=True):
        assert (own == group).sum() == size[int(cell.parent_indices[k])]


def test_adsorbates_and_gas_on_a_slab() -> None:
    frame = ammonia_on_iridium()
    training = [ammonia_on_iridium(5, seed) for seed in range(2, 5)]
    nitrogen = int(np.flatnonzero(frame.numbers == 7)[0])
    cell = embedded(frame, training, nitrogen, threshold=8.0)
    assert_sound(cell, frame)
    assert cell.accepted, cell.reason
    assert np.allclose(cell.atoms.cell[2], frame.cell[2])
    assert_molecules_are_whole(cell, frame)
    near = np.flatnonzero(np.linalg.norm(frame.positions - frame.positions[nitrogen], axis=1) < 1.3)
    assert set(near) <= set(cell.parent_indices.tolist()) and len(near) == 4


def coordination(atoms: Atoms) -> np.ndarray:
    return np.bincount(neighbor_list("i", atoms, 3.1), minlength=len(atoms))


@pytest.fixture(scope="module")
def particle() -> tuple[Atoms, list[Atoms]]:
    return particle_in_gas(), [particle_in_gas(seed) for seed in (2, 3)]


@pytest.mark.parametrize("place", ["edge", "facet", "square facet", "top", "inside", "gas"])
def test_particle_in_gas(particle: tuple[Atoms, list[Atoms]], place: str) -> None:
    """Accepted everywhere, molecules whole; no planar vacuum separates the particle from its images."""
    frame, training = particle
    metal = frame[frame.numbers == 77]
    neighbors = coordination(metal)
    index = {
        "edge": int(np.argmin(neighbors)),
        "facet": int(np.flatnonzero(neighbors == 9)[0]),
        "square facet": int(np.flatnonzero(neighbors == 8)[0]),
        "top": int(np.argmax(metal.positions[:, 2])),
        "inside": int(np.argmin(np.linalg.norm(metal.positions - metal.positions.mean(axis=0), axis=1))),
        "gas": int(np.flatnonzero(frame.numbers == 7)[0]),
    }[place]
    cell = embedded(frame, training, index, threshold=10.0)
    assert cell.accepted, cell.reason
    assert not cell.whole_frame
    assert_sound(cell, frame)
    assert_molecules_are_whole(cell, frame)


def test_many_features_and_few_environments(particle: tuple[Atoms, list[Atoms]]) -> None:
    """The default descriptor has 855 features here; the covariance is of low rank."""
    frame, training = particle
    known = SoapMahalanobis(SoapPowerSpectrum(["H", "N", "Ir"], r_cut=5.0, n_max=6, l_max=4, sigma=0.5))
    known.update(training)
    nitrogen = int(np.flatnonzero(frame.numbers == 7)[0])
    cell = embed(frame, nitrogen, known, threshold=8.0)
    assert cell.accepted, cell.reason
    assert np.isfinite(cell.u).all()


def test_molecular_liquid() -> None:
    frame = water(6, 1)
    cell = embedded(frame, [water(5, 2), water(5, 3)], 30, threshold=4.0)
    assert_sound(cell, frame)
    assert cell.accepted, cell.reason
    assert (cell.atoms.numbers == 1).sum() == 2 * (cell.atoms.numbers == 8).sum()
    assert_molecules_are_whole(cell, frame)


def test_solute() -> None:
    """The molecules of solute and solvent stay whole."""
    frame = solution(6, 1)
    carbon = int(np.flatnonzero(frame.numbers == 6)[0])
    cell = embedded(frame, [solution(6, 2), solution(6, 3)], carbon, threshold=6.0)
    assert_sound(cell, frame)
    assert cell.accepted, cell.reason
    assert_molecules_are_whole(cell, frame)
    symbols = cell.atoms.symbols
    assert sum(symbols == "H") == 2 * sum(symbols == "O") + 2 * sum(symbols == "C")


@pytest.mark.slow
def test_million_atom_frame() -> None:
    """What is gathered and evaluated is what a small frame needs."""
    unit = bulk("Cu", cubic=True)
    small = rattled(unit.repeat(5), 0.08, 1)
    large = unit.repeat(63)
    large.positions += np.random.default_rng(0).normal(0.0, 0.08, (len(large), 3))
    assert len(large) > 1_000_000
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=4.5, n_max=3, l_max=3, sigma=0.5), ridge=1e-6)
    known.update([small])
    view = FrameView(large, len(large) // 2, vacuum=known.soap.support).surroundings(4.0, 2.5, 200)
    assert len(view.numbers) < 2000
    cell = embed(large, len(large) // 2, known, threshold=3.0)
    assert cell.accepted and not cell.whole_frame, cell.reason
    assert_sound(cell, large)


def test_cluster_of_a_molecular_liquid() -> None:
    frame = water(6, 1)
    cell = embedded(frame, [water(5, 2)], 30, output="cluster")
    assert cell.accepted, cell.reason
    assert not cell.atoms.pbc.any() and not (cell.provenance == Provenance.CAP).any()
    assert (cell.atoms.numbers == 1).sum() == 2 * (cell.atoms.numbers == 8).sum()
    assert cell.composition == "whole molecules, 0 hydrogen caps"


def test_cut_bonds_of_a_cluster_are_capped() -> None:
    silicon = bulk("Si", cubic=True)
    frame = rattled(silicon.repeat(4), 0.05, 1)
    cell = embedded(frame, [rattled(silicon.repeat(3), 0.06, 2)], 100, output="cluster")
    assert cell.accepted, cell.reason
    caps = cell.provenance == Provenance.CAP
    assert caps.any() and (cell.atoms.numbers[caps] == 1).all() and (cell.atoms.numbers[~caps] == 14).all()
    distances = cell.atoms.get_all_distances()
    np.fill_diagonal(distances, np.inf)
    assert ((distances[caps] < 1.6).sum(axis=1) == 1).all()  # one bond per hydrogen
    bonded = (distances < 2.8) & ~caps[None] | (distances < 1.6) & caps[None]
    assert (bonded[~caps].sum(axis=1) == 4).all()  # every silicon keeps four bonds
