import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ideal.labelling.codes.cells import fully_periodic
from ideal.labelling.codes.kpoints import kpoint_grid, kpoint_shift


@pytest.mark.parametrize(
    ("lengths", "kpoint_length", "expected"),
    [
        ((10, 10, 10), 20.0, (2, 2, 2)),
        ((10, 9.99, 10.01), 20.0, (2, 3, 2)),
        ((20, 40, 5), 20.0, (1, 1, 4)),
        ((3.45, 7, 10), 0.0, (1, 1, 1)),
    ],
)
def test_orthogonal_cells(lengths, kpoint_length, expected):
    assert kpoint_grid(Atoms("Li", cell=lengths, pbc=True), kpoint_length) == expected


def test_exact_division_does_not_round_up():
    # 3 x (20 / 3) is not exactly 20 in floating point
    assert kpoint_grid(Atoms("Li", cell=[20 / 3, 20 / 7, 20 / 9], pbc=True), 20.0) == (3, 7, 9)


def test_triclinic_cell_counts_by_plane_distance():
    primitive = bulk("Li", "bcc", a=3.5)
    # the planes of the primitive cell are a / sqrt(2) apart, its vectors a sqrt(3) / 2 long
    assert kpoint_grid(primitive, 20.0) == (9, 9, 9)
    slanted = Atoms("Li", cell=[[10, 0, 0], [9, 4, 0], [0, 0, 10]], pbc=True)
    assert kpoint_grid(slanted, 20.0) == (5, 5, 2)


def test_supercell_holds_the_same_density():
    assert kpoint_grid(bulk("Li", cubic=True), 20.94) == (6, 6, 6)
    assert kpoint_grid(bulk("Li", cubic=True) * (2, 3, 6), 20.94) == (3, 2, 1)


def test_open_axes_have_one_point():
    slab = fcc111("Al", (1, 1, 3), vacuum=5.0)
    grid = kpoint_grid(slab, 20.0)
    assert grid[2] == 1 and grid[0] > 5
    assert kpoint_grid(molecule("H2O"), 20.0) == (1, 1, 1)


def test_even_grids_are_shifted():
    assert kpoint_shift((1, 2, 3)) == (0, 1, 0)


def test_fully_periodic_leaves_periodic_axes_and_distances():
    slab = fcc111("Al", (2, 2, 3), vacuum=1.0)
    slab.pbc = (True, True, False)
    whole = fully_periodic(slab, vacuum=6.0)
    assert whole.pbc.all()
    np.testing.assert_allclose(whole.cell.array[:2], slab.cell.array[:2])
    assert whole.cell.lengths()[2] == pytest.approx(np.ptp(slab.positions[:, 2]) + 12)
    np.testing.assert_allclose(whole.get_all_distances(), slab.get_all_distances(), atol=1e-12)
    bulk_cell = bulk("Li")
    assert fully_periodic(bulk_cell) == bulk_cell
