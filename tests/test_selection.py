"""Which atoms of a frame earn a label."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import SelectionConfig
from ideal.errors import UncertaintyError
from ideal.records import Frame
from ideal.selection import Pending, select


def frame_of(atoms: Atoms) -> Frame:
    return Frame(atoms, "md", 40)


def line(*x: float, cell: float = 30.0, pbc: bool = True) -> Frame:
    return frame_of(Atoms(f"H{len(x)}", [(value, 0, 0) for value in x], cell=[cell] * 3, pbc=pbc))


def test_nothing_above_the_threshold() -> None:
    selection = select(line(0, 10), [1.0, 2.0], 2.0, SelectionConfig())
    assert selection.indices.shape == (0,)
    assert selection.indices.dtype == np.int64
    assert selection.threshold == 2.0
    assert selection.u.tolist() == [1.0, 2.0]
    assert selection.frame.step == 40


def test_most_uncertain_first_then_the_next_far_enough() -> None:
    frame = line(0, 3, 10, 20)
    selection = select(frame, [5, 6, 4, 3], 2.0, SelectionConfig(max_per_frame=3, min_distance=6.0))
    assert selection.indices.tolist() == [1, 2, 3]


def test_at_most_max_per_frame() -> None:
    assert select(line(0, 10, 20), [5, 6, 7], 2.0, SelectionConfig(max_per_frame=2)).indices.tolist() == [2, 1]


def test_infinite_comes_first_and_ties_go_by_index() -> None:
    config = SelectionConfig(max_per_frame=4)
    assert select(line(0, 7, 14, 21), [5, np.inf, 5, np.inf], 2.0, config).indices.tolist() == [1, 3, 0, 2]


def test_distance_goes_through_the_boundary() -> None:
    config = SelectionConfig(max_per_frame=2, min_distance=6.0)
    assert select(line(0.5, 28, pbc=True), [5, 6], 2.0, config).indices.tolist() == [1]
    assert select(line(0.5, 28, pbc=False), [5, 6], 2.0, config).indices.tolist() == [1, 0]
    open_cell = frame_of(Atoms("H2", [(0, 0, 0), (0, 0, 9)]))
    assert select(open_cell, [5, 6], 2.0, config).indices.tolist() == [1, 0]


def test_distance_in_a_strongly_sheared_cell() -> None:
    """The nearest image is not the one that rounding scaled coordinates finds."""
    cell = [[10, 0, 0], [14.9, 10, 0], [0, 0, 40]]
    atoms = Atoms("H2", positions=[[0, 0, 0], [9.9 + 14.9 - 20, 9.5, 0]], cell=cell, pbc=True)
    images = [
        np.linalg.norm(atoms.positions[1] + np.array([i, j, 0]) @ cell) for i in range(-4, 5) for j in range(-3, 4)
    ]
    assert min(images) < 3
    chosen = select(frame_of(atoms), [5, 4], 2.0, SelectionConfig(min_distance=3.0)).indices
    assert chosen.tolist() == [0]


def test_zero_distance_allows_neighbors() -> None:
    frame = frame_of(bulk("Li", cubic=True).repeat(2))
    config = SelectionConfig(max_per_frame=100, min_distance=0, merge=0)
    assert len(select(frame, np.full(16, 9.0), 2.0, config).indices) == 16


def test_wrong_input() -> None:
    with pytest.raises(UncertaintyError, match=r"shape \(3,\) for a frame of 2 atoms"):
        select(line(0, 10), [1, 2, 3], 2.0, SelectionConfig())
    with pytest.raises(UncertaintyError, match="step 40: the uncertainty of atom 1 is not a number"):
        select(line(0, 10), [1, np.nan], 2.0, SelectionConfig())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(1, 6), distance=st.floats(0, 5))
def test_greedy_rule_on_random_frames(seed: int, limit: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag([8.0, 9.0, 10.0]) + rng.uniform(-2, 2, (3, 3))
    atoms = Atoms("H20", scaled_positions=rng.uniform(size=(20, 3)), cell=cell, pbc=rng.integers(0, 2, 3))
    u = rng.uniform(0, 4, 20)
    chosen = select(
        frame_of(atoms), u, 2.0, SelectionConfig(max_per_frame=limit, min_distance=distance, merge=0)
    ).indices
    assert np.all(np.diff(u[chosen]) <= 0)
    distances = atoms.get_all_distances(mic=True)
    expected: list[int] = []
    for index in np.argsort(-u):
        if u[index] > 2.0 and len(expected) < limit and all(distances[index, e] >= distance for e in expected):
            expected.append(int(index))
    assert chosen.tolist() == expected


def test_a_frame_that_asks_is_filled_up_with_the_next_most_uncertain_atoms() -> None:
    frame = Frame(bulk("Li", cubic=True).repeat(4), "md", step=0)
    u = np.ones(128)
    u[[3, 70]] = 1.8, 9.0
    filled = SelectionConfig(fill=0.8)
    assert select(frame, u, threshold=2.0, config=filled).indices.tolist() == [70, 3]
    assert select(frame, u, threshold=2.0, config=SelectionConfig()).indices.tolist() == [70]
    assert select(frame, u, threshold=10.0, config=filled).indices.size == 0


class Learner:
    """Knows positions: u of an atom is its distance along x to the nearest learned atom, at most 9."""

    def __init__(self) -> None:
        self.learned: list[float] = []
        self.copies = 0

    def copy(self) -> Learner:
        self.copies += 1
        return Learner()

    def condition(self, atoms: Atoms, mask: np.ndarray, noise: float) -> None:
        assert noise == 3.0
        self.learned += atoms.positions[mask, 0].tolist()

    def atomic(self, atoms: Atoms, centers: object = None) -> np.ndarray:
        x = atoms.positions[np.asarray(centers), 0]
        return np.minimum(np.abs(x[:, None] - np.array(self.learned)[None]).min(axis=1), 9.0)


def test_variance_drops_what_the_first_label_teaches() -> None:
    frame = line(0, 3, 7.5, 20, cell=100.0)
    u, learner = [6, 5, 5.5, 4], Learner()
    config = SelectionConfig(max_per_frame=4, min_distance=1.0, merge=0)
    assert select(frame, u, 3.0, config, learner).indices.tolist() == [0, 3, 2]
    assert learner.learned == [] and learner.copies == 1
    plain = SelectionConfig(max_per_frame=4, min_distance=1.0, merge=0, strategy="uncertainty")
    assert select(frame, u, 3.0, plain, learner).indices.tolist() == [0, 2, 1, 3]
    assert select(frame, u, 3.0, config).indices.tolist() == [0, 2, 1, 3]


def test_farthest_and_random() -> None:
    frame = line(0, 3, 7, 20, cell=100.0)
    far = SelectionConfig(max_per_frame=3, min_distance=1.0, merge=0, strategy="farthest")
    assert select(frame, [6, 5, 5, 4], 3.0, far).indices.tolist() == [0, 3, 2]
    draw = SelectionConfig(max_per_frame=2, min_distance=1.0, merge=0, strategy="random")
    first, again = (select(frame, [6, 5, 5, 4], 3.0, draw).indices.tolist() for _ in range(2))
    assert first == again and len(set(first)) == 2
    steps = {tuple(select(Frame(frame.atoms, "md", s), [6, 5, 5, 4], 3.0, draw).indices.tolist()) for s in range(12)}
    assert len(steps) > 3


@pytest.mark.parametrize("repeat", [4, 6])
def test_variance_takes_one_of_many_alike_whatever_is_known_already(repeat: int) -> None:
    """Equal defects, more of them in the larger frame, many more environments in the larger distribution."""
    crystal = bulk("Cu", cubic=True).repeat(repeat)
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=4.0, n_max=3, l_max=2, sigma=0.5))
    for seed in range(3):
        training = crystal.copy()
        training.rattle(0.03, seed=seed)
        known.update(training)
    frame = crystal.copy()
    frame.rattle(0.01, seed=9)
    kept = np.ones(len(frame), dtype=bool)
    kept[::64] = False
    frame = frame[kept]
    u = known.atomic(frame)
    threshold = float(known.atomic(training).max()) * 1.5
    everything = {"max_per_frame": 1000, "min_distance": 0.0, "merge": 0.0}
    plain = select(frame_of(frame), u, threshold, SelectionConfig(strategy="uncertainty", **everything)).indices
    chosen = select(frame_of(frame), u, threshold, SelectionConfig(**everything), known).indices
    assert len(plain) > 6 * (repeat**3 * 4 // 64)
    assert 1 <= len(chosen) <= 8, "the ways to sit beside a vacancy"
    assert np.array_equal(known.atomic(frame), u)


def test_variance_with_the_soap_distance_takes_one_of_two_alike() -> None:
    """Two equal defects: once the first is learned, the second is known."""
    known = SoapMahalanobis(SoapPowerSpectrum(["Cu"], r_cut=4.0, n_max=3, l_max=2, sigma=0.5))
    crystal = bulk("Cu", cubic=True).repeat(5)
    training = crystal.copy()
    training.rattle(0.03, seed=1)
    known.update(training[:200])
    frame = crystal.copy()
    frame.rattle(0.01, seed=2)
    del frame[[0, 250]]
    u = known.atomic(frame)
    threshold = float(u.max()) * 0.5
    alike = SelectionConfig(max_per_frame=6, strategy="uncertainty")
    assert len(select(frame_of(frame), u, threshold, alike).indices) > len(
        select(frame_of(frame), u, threshold, SelectionConfig(max_per_frame=6), known).indices
    )
    assert np.array_equal(known.atomic(frame), u)


def test_atoms_that_fit_into_one_cell_share_it() -> None:
    frame = line(0, 2, 10, 12, 13.5, 20, cell=100.0)
    merged = select(frame, [5, 6, 9, 8, 7, 4], 3.0, SelectionConfig(max_per_frame=3, merge=1.5))
    assert merged.cells == ((2, 3), (1, 0), (5,)), "the third would be 1.67 Å from the middle of the three"
    assert merged.indices.tolist() == [2, 1, 5]
    wide = select(frame, [5, 6, 9, 8, 7, 4], 3.0, SelectionConfig(max_per_frame=3, merge=2.0))
    assert wide.cells[0] == (2, 3, 4)
    apart = select(frame, [5, 6, 9, 8, 7, 4], 3.0, SelectionConfig(max_per_frame=3, merge=0.0, min_distance=0.0))
    assert apart.cells == ((2,), (3,), (4,))


def test_atoms_share_a_cell_through_the_boundary() -> None:
    shared = select(line(0.5, 29.0, 10), [5, 6, 4], 3.0, SelectionConfig(max_per_frame=2, merge=1.6))
    assert shared.cells == ((1, 0), (2,))


def test_random_draws_follow_the_seed() -> None:
    frame = line(0, 3, 7, 20, 40, cell=100.0)
    draw = SelectionConfig(max_per_frame=3, min_distance=1.0, strategy="random", merge=0)
    drawn = {tuple(select(frame, [6, 5, 5, 4, 4], 3.0, draw, seed=s).indices.tolist()) for s in range(12)}
    assert len(drawn) > 3
    assert tuple(select(frame, [6, 5, 5, 4, 4], 3.0, draw, seed=5).indices.tolist()) in drawn


def test_what_others_wait_for_is_not_asked_for_again() -> None:
    """Two frames with the same defect: the second asks for nothing, unless it has an environment of its own."""
    crystal = bulk("Cu", cubic=True).repeat(3)
    soap = SoapPowerSpectrum(["Cu"], r_cut=3.5, n_max=3, l_max=3)
    known = SoapMahalanobis(soap)
    known.update([rattled_copy(crystal, 0.05, seed) for seed in range(4)])
    first = rattled_copy(crystal, 0.05, 10)
    first.positions[0] += [0.9, 0.0, 0.0]
    second = first.copy()
    second.positions += 0.3
    u = known.atomic(first)
    threshold = 0.2 * float(u.max())
    config = SelectionConfig(max_per_frame=4)
    chosen = select(Frame(first, "a", 0), u, threshold, config, known)
    assert chosen.indices.size
    pending = [Pending.around(first, cell, radius=6.0) for cell in chosen.cells]
    frame = Frame(second, "b", 0)
    assert select(frame, known.atomic(second), threshold, config, known).indices.size
    assert not select(frame, known.atomic(second), threshold, config, known, pending=pending).indices.size
    plain = SelectionConfig(max_per_frame=4, strategy="uncertainty")
    assert select(frame, known.atomic(second), threshold, plain, known, pending=pending).indices.size
    second.positions[60] += [0.0, 1.3, 0.0]
    own = select(frame, known.atomic(second), threshold, config, known, pending=pending)
    assert own.indices.size and second.get_distance(60, int(own.indices[0]), mic=True) < 4


def rattled_copy(atoms: Atoms, scale: float, seed: int) -> Atoms:
    copy = atoms.copy()
    copy.rattle(scale, seed=seed)
    return copy
