"""The stage as a whole: what is accepted, what is refused, what is an error."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.cluster import Octahedron
from ase.geometry import find_mic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig
from ideal.embedding import embed, minimum_distances
from ideal.embedding.distances import CONTACT, ShortestDistances, periodic_pairs
from ideal.embedding.filler import CORE_TOLERANCE
from ideal.errors import EmbeddingError
from ideal.records import Frame, Provenance, Substructure

from .radial import RadialUncertainty, rocksalt

THRESHOLD = 2.0
SMALL = EmbeddingConfig(r_core=3.0, margin=2.0, n_crops=8, growth_attempts=1)


def assert_sound(cell: Substructure, frame: Atoms) -> None:
    """What holds for every cell with filler."""
    n_atoms = len(cell.atoms)
    for array in (cell.core, cell.parent_indices, cell.provenance, cell.u_before, cell.u):
        assert len(array) == n_atoms
    assert (cell.atoms.numbers == frame.numbers[cell.parent_indices]).all()
    assert ((cell.provenance == Provenance.CORE) == cell.core).all() and cell.core[cell.center]
    assert cell.max_u == pytest.approx(cell.u[~cell.core].max(initial=0.0))
    assert cell.accepted == (not cell.reason)
    if cell.accepted:
        assert cell.max_u < cell.threshold
    mine = cell.atoms.positions[cell.core] - cell.atoms.positions[cell.center]
    theirs = frame.positions[cell.parent_indices[cell.core]] - frame.positions[cell.parent_indices[cell.center]]
    lattice = np.asarray(frame.cell.complete())
    shift = (mine - theirs) @ np.linalg.inv(lattice)
    assert np.abs((shift - np.rint(shift)) @ lattice).max() < 1e-9
    before = cell.atoms.arrays["crop_positions"]
    moved = np.linalg.norm(cell.atoms.positions - before, axis=1)
    assert (moved[cell.core] == 0).all()
    assert cell.atoms.calc is None


def closest(atoms: Atoms, known: dict[tuple[int, int], float]) -> float:
    pairs = periodic_pairs(atoms.positions, np.asarray(atoms.cell.complete()), atoms.pbc, 4.0)
    return float(
        (pairs.distances / ShortestDistances(known).of(atoms.numbers[pairs.first], atoms.numbers[pairs.second])).min()
    )


@pytest.mark.parametrize("index", [0, 123, 255])
def test_bulk_metal(
    copper_frame: Atoms, copper_training: list[Atoms], copper_uncertainty: RadialUncertainty, index: int
) -> None:
    known = minimum_distances(copper_training)
    cell = embed(copper_frame, index, copper_uncertainty, rng=index, threshold=THRESHOLD, min_distances=known)
    assert_sound(cell, copper_frame)
    assert cell.accepted and not cell.whole_frame and len(cell.atoms) <= 120
    assert cell.parent_indices[cell.center] == index
    distance = find_mic(copper_frame.positions - copper_frame.positions[index], copper_frame.cell, copper_frame.pbc)[1]
    assert set(cell.parent_indices[cell.core]) == set(np.flatnonzero(distance < 4.0))
    assert closest(cell.atoms, known) >= CONTACT
    assert np.allclose(cell.u, copper_uncertainty.atomic(cell.atoms))
    assert cell.u_before[~cell.core].max() > cell.max_u


def test_with_the_soap_uncertainty(copper_frame: Atoms, copper_training: list[Atoms]) -> None:
    """The interface of the compiled uncertainty, and the core's own u in the frame as its reference."""
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=5.0, n_max=4, l_max=3, sigma=0.5))
    known.update(copper_training)
    u = known.atomic(copper_frame)
    center = int(np.argmax(u))
    cell = embed(
        copper_frame, center, known, rng=1, threshold=THRESHOLD, min_distances=minimum_distances(copper_training)
    )
    assert_sound(cell, copper_frame)
    assert cell.accepted and not cell.whole_frame
    assert np.allclose(cell.u, known.atomic(cell.atoms))
    in_frame = u[cell.parent_indices[cell.core]]
    assert (cell.u[cell.core] <= np.maximum(cell.threshold, CORE_TOLERANCE * in_frame) * (1 + 1e-6)).all()


def test_compound_keeps_its_composition(magnesia_frame: Atoms, magnesia_uncertainty: RadialUncertainty) -> None:
    for index in (0, 77, 300):
        cell = embed(magnesia_frame, index, magnesia_uncertainty, rng=1, threshold=THRESHOLD, config=SMALL)
        assert_sound(cell, magnesia_frame)
        assert cell.accepted, cell.reason
        assert (cell.atoms.numbers == 8).sum() == (cell.atoms.numbers == 12).sum()


def test_slab_keeps_its_vacuum_axis(slab_frame: Atoms) -> None:
    uncertainty = RadialUncertainty(["Cu"])
    uncertainty.update([slab_frame])
    for periodic in (True, False):
        frame = slab_frame.copy()
        frame.pbc = (True, True, periodic)
        top = int(np.argmax(frame.positions[:, 2]))
        cell = embed(frame, top, uncertainty, rng=2, threshold=THRESHOLD, config=SMALL)
        assert_sound(cell, frame)
        assert cell.accepted, cell.reason
        assert not cell.whole_frame and cell.atoms.pbc.tolist() == [True, True, periodic]
        assert np.allclose(cell.atoms.cell[2], frame.cell[2], atol=1e-9)
        assert np.ptp(cell.atoms.positions[:, 2]) == pytest.approx(np.ptp(frame.positions[:, 2]), abs=1.5)


def test_triclinic_frame() -> None:
    frame = bulk("Cu").repeat((6, 7, 6))
    frame.rattle(0.08, seed=4)
    training = bulk("Cu").repeat((5, 5, 5))
    training.rattle(0.09, seed=5)
    uncertainty = RadialUncertainty(["Cu"])
    uncertainty.update([training])
    cell = embed(frame, 9, uncertainty, rng=0, threshold=THRESHOLD, config=SMALL)
    assert_sound(cell, frame)
    assert cell.accepted and not cell.whole_frame, cell.reason
    for ours, theirs in zip(cell.atoms.cell.array, frame.cell.array, strict=True):
        assert np.linalg.norm(np.cross(ours, theirs)) < 1e-8 * np.linalg.norm(ours) * np.linalg.norm(theirs)


def test_surface_atom_of_a_nanoparticle() -> None:
    particle = Octahedron("Cu", 15, cutoff=5)
    particle.rattle(0.05, seed=1)
    uncertainty = RadialUncertainty(["Cu"])
    small = Octahedron("Cu", 9, cutoff=3)
    small.rattle(0.06, seed=2)
    uncertainty.update([small])
    top = int(np.argmax(particle.positions[:, 2]))
    cell = embed(particle, top, uncertainty, rng=0, threshold=5.0, config=SMALL)
    assert_sound(cell, particle)
    assert not cell.whole_frame and not cell.atoms.pbc[2] and len(cell.atoms) <= 200
    # nothing above the surface: the vacuum stays
    above = cell.atoms.positions[:, 2] - cell.atoms.positions[cell.center, 2]
    assert above.max() < 1.0
    assert cell.atoms.cell.lengths()[2] > np.ptp(cell.atoms.positions[:, 2]) + 5.0


@pytest.mark.parametrize("pbc", [True, False])
def test_small_frame_is_returned_whole(copper_uncertainty: RadialUncertainty, pbc: bool) -> None:
    frame = bulk("Cu", cubic=True).repeat(2) if pbc else Octahedron("Cu", 4)
    frame.rattle(0.05, seed=0)
    frame.set_initial_magnetic_moments(np.arange(len(frame)) / 10)
    cell = embed(frame, -1, copper_uncertainty)
    assert cell.whole_frame and cell.accepted and cell.reason == ""
    assert np.array_equal(cell.atoms.positions, frame.positions)
    assert cell.atoms.pbc.tolist() == frame.pbc.tolist()
    assert cell.center == len(frame) - 1 and cell.core.all() and cell.max_u == 0.0
    assert np.array_equal(cell.atoms.get_initial_magnetic_moments(), frame.get_initial_magnetic_moments())


def test_same_seed_same_cell(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    first, second, other = (
        embed(copper_frame, 5, copper_uncertainty, rng=seed, config=SMALL) for seed in (3, np.random.default_rng(3), 4)
    )
    assert np.array_equal(first.atoms.positions, second.atoms.positions)
    assert np.array_equal(first.atoms.cell.array, second.atoms.cell.array)
    assert not np.array_equal(first.atoms.cell.array, other.atoms.cell.array)


def test_raw_crop_is_kept(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    cell = embed(copper_frame, 5, copper_uncertainty, config=SMALL)
    raw = cell.atoms.copy()
    raw.positions = raw.arrays["crop_positions"]
    raw.set_cell(cell.atoms.info.get("crop_cell", cell.atoms.cell))
    assert np.allclose(copper_uncertainty.atomic(raw), cell.u_before)
    moved = np.linalg.norm(raw.positions - cell.atoms.positions, axis=1) > 0.01
    assert (moved[cell.provenance == Provenance.MOVED]).all()


def test_small_cell_first_then_larger(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    """At this margin no crop comes near a period of the crystal; the next larger one does."""
    tight = EmbeddingConfig(r_core=4.0, margin=0.5, n_crops=6, growth_attempts=0)
    assert not embed(copper_frame, 8, copper_uncertainty, config=tight, threshold=1.2).accepted
    grown = tight.model_copy(update={"growth_attempts": 1})
    cell = embed(copper_frame, 8, copper_uncertainty, config=grown, threshold=1.9)
    assert cell.accepted and cell.atoms.cell.lengths().max() > 9.0


def test_refusal_names_numbers(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    config = SMALL.model_copy(update={"growth_attempts": 0, "optimize_cell": False, "max_evaluations": 2})
    cell = embed(copper_frame, 5, copper_uncertainty, config=config, threshold=0.2)
    assert not cell.accepted and not cell.whole_frame
    assert_sound(cell, copper_frame)
    assert f"u = {cell.max_u:.2f}" in cell.reason and f"{cell.threshold:.2f}" in cell.reason


def test_refused_small_frame_is_labelled_whole(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    config = SMALL.model_copy(
        update={"growth_attempts": 0, "optimize_cell": False, "max_evaluations": 2, "max_atoms": len(copper_frame)}
    )
    cell = embed(copper_frame, 5, copper_uncertainty, config=config, threshold=0.2)
    assert cell.accepted and cell.whole_frame and len(cell.atoms) == len(copper_frame)
    assert "the filler reaches u = " in cell.reason  # why no smaller cell would do


def test_a_cell_names_its_frame_and_atom(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    cell = embed(Frame(copper_frame, "md", 120), 5, copper_uncertainty, config=SMALL)
    assert (cell.trajectory, cell.step, cell.parent_atom) == ("md", 120, 5)
    untold = embed(copper_frame, 5, copper_uncertainty, config=SMALL)
    assert (untold.trajectory, untold.step, untold.parent_atom) == ("", None, 5)
    assert np.array_equal(cell.atoms.positions, untold.atoms.positions)


def test_cells_beyond_max_atoms_are_refused(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    config = SMALL.model_copy(update={"max_atoms": 10})
    cell = embed(copper_frame, 5, copper_uncertainty, config=config)
    assert not cell.accepted and "max_atoms = 10" in cell.reason
    thin = copper_frame[copper_frame.positions[:, 0] < 4.0]
    thin.set_cell(np.diag([5.4, 7.2, 7.2]))
    wire = Atoms("Cu40", positions=np.arange(40)[:, None] * [2.6, 0, 0], pbc=False)
    refused = embed(wire, 3, copper_uncertainty, config=EmbeddingConfig(max_atoms=4))
    assert not refused.accepted and "4" in refused.reason


def test_overlap_in_the_core_is_refused_with_its_distance(
    copper_frame: Atoms, copper_uncertainty: RadialUncertainty
) -> None:
    frame = copper_frame.copy()
    frame.positions[6] = frame.positions[5] + np.array([0.5, 0.0, 0.0])
    cell = embed(frame, 5, copper_uncertainty)
    assert not cell.accepted and not cell.physical
    assert "0.500 Å" in cell.reason and "atoms 5 and 6" in cell.reason
    assert cell.parent_indices[cell.center] == 5


def test_whole_frame_with_an_overlap_outside_of_the_core_is_refused(copper_uncertainty: RadialUncertainty) -> None:
    wire = Atoms("Cu8", positions=np.arange(8)[:, None] * [2.5, 0, 0], pbc=False)
    config = EmbeddingConfig(r_core=3.0, margin=20.0)
    assert embed(wire, 0, copper_uncertainty, config=config).whole_frame
    wire.positions[7] = wire.positions[6] + [0.5, 0, 0]
    cell = embed(wire, 0, copper_uncertainty, config=config)
    assert not cell.accepted and not cell.physical and "atoms 6 and 7 (Cu-Cu) are 0.500 Å apart" in cell.reason


@pytest.mark.parametrize("index", [256, -257, 1.0, True])
def test_wrong_index(copper_frame: Atoms, copper_uncertainty: RadialUncertainty, index: object) -> None:
    with pytest.raises(EmbeddingError, match="valid: 0 to 255"):
        embed(copper_frame, index, copper_uncertainty)  # type: ignore[arg-type]


def test_wrong_input(copper_frame: Atoms, copper_uncertainty: RadialUncertainty) -> None:
    with pytest.raises(EmbeddingError, match="threshold"):
        embed(copper_frame, 0, copper_uncertainty, threshold=0.0)
    broken = copper_frame.copy()
    broken.positions[17, 1] = np.nan
    with pytest.raises(EmbeddingError, match="atom 17"):
        embed(broken, 0, copper_uncertainty)
    broken = copper_frame.copy()
    broken.cell[0, 0] = np.inf
    with pytest.raises(EmbeddingError, match="cell"):
        embed(broken, 0, copper_uncertainty)
    foreign = copper_frame.copy()
    foreign.numbers[200] = 28
    with pytest.raises(EmbeddingError, match="no environment of Ni"):
        embed(foreign, 0, copper_uncertainty)
    with pytest.raises(EmbeddingError, match="ratio"):
        embed(copper_frame, 0, copper_uncertainty, ratio="Qq2")


def test_effort_does_not_grow_with_the_frame() -> None:
    """The number of atoms whose uncertainty is evaluated is the same for 864 and 2916 atoms."""
    uncertainty = RadialUncertainty(["Cu"])
    training = bulk("Cu", cubic=True).repeat(3)
    training.rattle(0.05, seed=0)
    uncertainty.update([training])
    effort = []
    for repeat in (6, 9):
        frame = bulk("Cu", cubic=True).repeat(6)
        frame.rattle(0.05, seed=1)
        if repeat == 9:
            frame = frame.repeat((2, 1, 1)).repeat((1, 2, 1))
        uncertainty.evaluated_atoms = 0
        embed(frame, 3, uncertainty, config=SMALL)
        effort.append(uncertainty.evaluated_atoms)
    assert effort[0] == effort[1]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    translation=st.tuples(*[st.floats(-30, 30)] * 3),
    seed=st.integers(0, 2**16),
    wrap=st.booleans(),
)
def test_core_ignores_origin_and_order(
    magnesia_uncertainty: RadialUncertainty, translation: tuple[float, float, float], seed: int, wrap: bool
) -> None:
    frame = rocksalt(seed=5, repeat=4)
    order = np.random.default_rng(seed).permutation(len(frame))
    other = frame[order]
    other.positions += translation
    if wrap:
        other.wrap()
    config = EmbeddingConfig(r_core=3.1, margin=1.5, n_crops=1, growth_attempts=0, max_evaluations=1)
    first = embed(frame, 30, magnesia_uncertainty, config=config)
    second = embed(other, int(np.flatnonzero(order == 30)[0]), magnesia_uncertainty, config=config)
    assert sorted(order[second.parent_indices[second.core]]) == sorted(first.parent_indices[first.core])
    assert np.array_equal(np.sort(second.atoms.numbers[second.core]), np.sort(first.atoms.numbers[first.core]))


def test_atoms_that_share_a_cell_all_lie_in_its_core(
    copper_frame: Atoms, copper_uncertainty: RadialUncertainty
) -> None:
    """Two neighbors, one of them across the boundary; far ones make the core grow, and the first leads."""
    distances = copper_frame.get_all_distances(mic=True)[0]
    near = int(np.argsort(distances)[1])
    for others, r_core in (([near], 3.0), ([int(np.argmin(np.abs(distances - 7.2)))], 3.0)):
        config = EmbeddingConfig(r_core=r_core, margin=2.0)
        cell = embed(copper_frame, [0, *others], copper_uncertainty, config=config, threshold=50.0)
        assert not cell.whole_frame or len(cell.atoms) == len(copper_frame)
        assert {0, *others} <= set(cell.parent_indices[cell.core].tolist())
        assert cell.parent_indices[cell.center] == 0 and cell.core[cell.center]
        if not cell.whole_frame:
            assert_sound(cell, copper_frame)
    alone = embed(copper_frame, [0], copper_uncertainty, threshold=50.0)
    same = embed(copper_frame, 0, copper_uncertainty, threshold=50.0)
    assert np.array_equal(alone.atoms.positions, same.atoms.positions)
    with pytest.raises(EmbeddingError, match="no atom was named"):
        embed(copper_frame, [], copper_uncertainty)
