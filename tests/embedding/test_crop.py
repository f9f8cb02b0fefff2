"""Which axes are cut, and which atoms are gathered."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.cluster import Octahedron
from ase.neighborlist import neighbor_list

from ideal import _core
from ideal.embedding.crop import FrameView, Surroundings
from ideal.errors import EmbeddingError

from .radial import RadialUncertainty
from .structures import disordered, particle_in_gas


def surroundings(
    atoms: Atoms, index: int, r_core: float = 4.0, margin: float = 2.5, max_atoms: int = 200
) -> Surroundings:
    return FrameView(atoms, index, vacuum=5.0).surroundings(r_core, margin, max_atoms)


def kinds(atoms: Atoms, index: int, **options: float) -> list[str]:
    return [axis.kind for axis in surroundings(atoms, index, **options).axes]


def core_parents(atoms: Atoms, index: int, r_core: float) -> set[int]:
    first, second = neighbor_list("ij", atoms, r_core)
    return {index, *second[first == index].tolist()}


def test_bulk_is_cut_along_every_axis() -> None:
    assert kinds(bulk("Cu", cubic=True).repeat(5), 7) == ["cut"] * 3


def test_short_axes_stay_whole() -> None:
    assert kinds(bulk("Cu", cubic=True).repeat((2, 5, 5)), 7) == ["whole", "cut", "cut"]


@pytest.mark.parametrize("periodic", [True, False])
def test_vacuum_axis_of_a_slab_stays_whole(periodic: bool) -> None:
    slab = fcc111("Cu", (6, 6, 4), vacuum=6.0, orthogonal=True)
    slab.pbc = (True, True, periodic)
    view = surroundings(slab, 5)
    assert [axis.kind for axis in view.axes] == ["cut", "cut", "whole"]
    assert view.axes[2].periodic is periodic
    assert view.axes[2].hi - view.axes[2].lo == pytest.approx(slab.cell[2, 2])


def test_slab_that_the_cell_boundary_splits_is_put_together() -> None:
    slab = fcc111("Cu", (6, 6, 4), vacuum=6.0, orthogonal=True, periodic=True)
    slab.positions[:, 2] += 9.0
    slab.wrap()
    view = surroundings(slab, 0)
    primary = view.within(*view.largest_box())
    assert np.ptp(view.heights[primary, 2]) == pytest.approx(3 * 3.61 / np.sqrt(3), abs=0.1)


def test_thick_slab_keeps_one_surface_or_none() -> None:
    slab = fcc111("Cu", (6, 6, 30), vacuum=6.0, orthogonal=True, periodic=True)
    top, middle = int(np.argmax(slab.positions[:, 2])), int(np.argsort(slab.positions[:, 2])[len(slab) // 2])
    at_top = surroundings(slab, top).axes[2]
    assert at_top.kind == "surface" and not at_top.open_low and at_top.hi > 9.0
    assert surroundings(slab, middle).axes[2].kind == "cut"
    assert kinds(slab, top, max_atoms=2000)[2] == "whole"


def test_small_cluster_is_whole_and_deep_atom_of_a_large_one_is_bulk() -> None:
    assert kinds(Octahedron("Cu", 5), 0) == ["whole"] * 3
    large = Octahedron("Cu", 19, cutoff=6)
    center = int(np.argmin(np.linalg.norm(large.positions - large.positions.mean(axis=0), axis=1)))
    view = surroundings(large, center)
    assert [axis.kind for axis in view.axes] == ["cut"] * 3
    assert all(axis.periodic for axis in view.axes)


@pytest.mark.parametrize("index", [0, 100, 255])
@pytest.mark.parametrize("shape", ["cubic", "triclinic", "thin"])
def test_core_is_the_sphere_around_the_center(shape: str, index: int) -> None:
    atoms = {
        "cubic": bulk("Cu", cubic=True).repeat(4),
        "triclinic": bulk("Cu").repeat((8, 8, 4)),
        "thin": bulk("Cu", cubic=True).repeat((1, 8, 8)),
    }[shape]
    atoms.rattle(0.1, seed=2)
    view = surroundings(atoms, index, r_core=3.9)
    assert set(view.parents[view.core].tolist()) == core_parents(atoms, index, 3.9)
    assert view.parents[view.center] == index


def test_badly_skewed_cell_is_reduced() -> None:
    cubic = bulk("Cu", cubic=True).repeat(5)
    skewed = cubic.copy()
    skewed.set_cell(cubic.cell.array + np.array([[0, 0, 0], [3, 0, 0], [2, -3, 0]]) @ cubic.cell.array)
    view, reference = surroundings(skewed, 11), surroundings(cubic, 11)
    assert abs(np.linalg.det(view.directions)) == pytest.approx(1.0)
    assert np.sort(view.parents[view.core]).tolist() == np.sort(reference.parents[reference.core]).tolist()


def test_gathered_atoms_do_not_grow_with_the_frame() -> None:
    counts = [len(surroundings(bulk("Cu", cubic=True).repeat(n), 0).numbers) for n in (8, 12, 20)]
    assert counts[0] == counts[1] == counts[2]


def test_missing_and_flat_cells_are_errors() -> None:
    atoms = bulk("Cu", cubic=True).repeat(3)
    atoms.set_cell(np.diag([10.8, 10.8, 0.0]))
    with pytest.raises(EmbeddingError, match="axis 2"):
        surroundings(atoms, 0)
    atoms.set_cell(np.array([[10.8, 0, 0], [0, 10.8, 0], [10.8, 10.8, 0]]))
    with pytest.raises(EmbeddingError, match="linearly dependent"):
        surroundings(atoms, 0)


@pytest.mark.parametrize("repeat", [(4, 4, 4), (2, 4, 4)])
def test_core_sees_in_the_open_structure_what_it_sees_in_the_frame(repeat: tuple[int, int, int]) -> None:
    frame = bulk("Cu", cubic=True).repeat(repeat)
    frame.rattle(0.1, seed=3)
    uncertainty = RadialUncertainty(["Cu"])
    uncertainty.update([frame])
    structure, core, parents = surroundings(frame, 5).open_structure()
    assert np.allclose(uncertainty.atomic(structure, core), uncertainty.atomic(frame)[parents])
    assert len(set(parents.tolist())) == len(parents)


def test_open_space_beside_a_particle_but_not_in_a_liquid() -> None:
    _, liquid = disordered("SiO2")
    assert not surroundings(liquid, 5).hold_open_space()
    frame = particle_in_gas()
    outermost = int(np.argmax(frame.positions[:405, 0]))
    assert surroundings(frame, outermost).hold_open_space()


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_gathering_agrees_with_all_images(pbc: tuple[bool, bool, bool]) -> None:
    """The compiled passes over a skewed frame, against fractional coordinates of every atom and image."""
    rng = np.random.default_rng(2)
    lattice = np.array([[9.0, 0, 0], [2.5, 8.0, 0], [-1.5, 2.0, 10.0]])
    positions, origin = rng.uniform(-15, 25, (60, 3)), rng.uniform(0, 9, 3)
    periodic, starts = np.array(pbc), np.array([-0.5, -0.3, -0.8])
    frame = (positions, origin, lattice, np.linalg.inv(lattice), periodic, starts)
    fractional = (positions - origin) @ np.linalg.inv(lattice)
    fractional -= np.where(periodic, np.floor(fractional - starts), 0.0)

    occupied, low, high = _core.occupancy(*frame, [20, 0, 7])
    assert np.allclose(low, fractional.min(axis=0)) and np.allclose(high, fractional.max(axis=0))
    assert [len(marks) for marks in occupied] == [20, 0, 7]
    if pbc[0]:
        bins = np.floor((fractional[:, 0] - starts[0]) * 20).astype(int)
        assert set(np.flatnonzero(occupied[0])) == set(bins)

    box = np.array([-0.2, -0.9, -0.4]), np.array([0.3, 0.8, 0.1])
    for images in (np.zeros(3, dtype=bool), periodic):
        atoms, chosen, vectors = _core.within(*frame, *box, images)
        expected = []
        for k, f in enumerate(fractional):
            shifts = itertools.product(*[range(-3, 4) if imaged else (0,) for imaged in images])
            if any(((f + s >= box[0]) & (f + s <= box[1])).all() for s in shifts):
                expected.append(k)
        assert atoms.tolist() == expected
        assert np.allclose(chosen, fractional[expected])
        assert np.allclose(vectors, fractional[expected] @ lattice)
