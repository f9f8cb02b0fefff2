"""Structure, motion, order and maps against cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.geometry.rdf import get_rdf

from ideal.analysis import (
    map_features,
    mean_squared_displacement,
    radial_distribution,
    steinhardt,
    unwrap,
)
from ideal.errors import IdealError


def gas(n_atoms: int = 400, length: float = 12.0, seed: int = 0, symbols: str = "Li") -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(
        symbols * n_atoms if len(symbols) == 2 else symbols,
        positions=rng.uniform(0, length, (n_atoms, 3)),
        cell=[length] * 3,
        pbc=True,
    )


class TestRadialDistribution:
    def test_an_ideal_gas_has_g_of_one_everywhere(self) -> None:
        result = radial_distribution([gas(seed=s) for s in range(8)], r_max=6.0, bins=20)
        assert result.normalized
        # Poisson error of a bin: 1 / sqrt(number of pairs)
        pairs = 8 * 400 * 400 / 12.0**3 * 4 * np.pi * result.r**2 * 0.3 / 2
        assert (np.abs(result.values - 1) < 4.5 / np.sqrt(pairs)).all()

    def test_crystal_peaks_stand_at_the_shells_and_integrate_to_their_coordination(self) -> None:
        a = 3.44
        result = radial_distribution([bulk("Li", a=a, cubic=True)], r_max=6.0, bins=600)
        density = 2 / a**3
        width = 6.0 / 600
        inner, outer = result.r - width / 2, result.r + width / 2
        neighbors = result.values * density * 4 / 3 * np.pi * (outer**3 - inner**3)
        for shell, coordination in ((np.sqrt(3) / 2, 8), (1.0, 6), (np.sqrt(2), 12), (np.sqrt(11) / 2, 24)):
            near = np.abs(result.r - shell * a) < 0.02
            assert neighbors[near].sum() == pytest.approx(coordination, rel=1e-9)
        assert neighbors.sum() == pytest.approx(8 + 6 + 12 + 24 + 8, rel=1e-9)

    def test_pairs_equal_ase(self) -> None:
        salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat(3)
        salt.rattle(0.1, seed=1)
        ours = radial_distribution([salt], r_max=7.0, bins=70, pair=("Na", "Cl"))
        expected, r = get_rdf(salt, 7.0, 70, elements=[11, 17])
        assert ours.values == pytest.approx(expected, rel=1e-9)
        assert np.allclose(ours.r, r)
        whole, _ = get_rdf(salt, 7.0, 70)
        assert radial_distribution([salt], r_max=7.0, bins=70).values == pytest.approx(whole, rel=1e-9)

    def test_an_open_axis_gives_neighbors_per_length(self) -> None:
        dimer = Atoms("Li2", positions=[[0, 0, 0], [0, 0, 2.5]])
        result = radial_distribution([dimer], r_max=5.0, bins=100)
        assert not result.normalized
        assert (result.values * 0.05).sum() == pytest.approx(1.0)

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(IdealError, match="no frames"):
            radial_distribution([], 5.0)
        with pytest.raises(IdealError, match=r"r_max -1"):
            radial_distribution([gas(5)], -1.0)
        with pytest.raises(IdealError, match="no atom 'Na'"):
            radial_distribution([gas(5)], 5.0, pair=("Na", "Li"))


class TestMeanSquaredDisplacement:
    @pytest.mark.parametrize("triclinic", [False, True])
    def test_ballistic_motion_grows_as_the_square_of_time_through_the_walls(self, triclinic: bool) -> None:
        rng = np.random.default_rng(3)
        atoms = gas(30, 8.0, seed=2)
        if triclinic:
            atoms.set_cell([[8, 0, 0], [2, 7, 0], [-1, 2, 6]], scale_atoms=True)
        velocities = rng.normal(0, 0.3, (30, 3))
        positions = []
        for step in range(60):
            moved = atoms.copy()
            moved.positions += step * velocities
            moved.wrap()
            positions.append(moved.positions)
        msd = mean_squared_displacement(positions, atoms.cell.array)
        expected = (velocities**2).sum(axis=1).mean() * np.arange(60) ** 2
        assert msd == pytest.approx(expected, rel=1e-10, abs=1e-10)
        origins = mean_squared_displacement(positions, atoms.cell.array, average_origins=True)
        assert origins == pytest.approx(expected, rel=1e-10, abs=1e-10)
        drift = mean_squared_displacement(positions, atoms.cell.array, remove_drift=True)
        relative = velocities - velocities.mean(axis=0)
        assert drift == pytest.approx((relative**2).sum(axis=1).mean() * np.arange(60) ** 2, abs=1e-9)

    def test_a_random_walk_grows_linearly(self) -> None:
        rng = np.random.default_rng(0)
        steps = rng.normal(0, 0.2, (400, 200, 3))
        positions = np.concatenate([np.zeros((1, 200, 3)), np.cumsum(steps, axis=0)]) % 5.0
        msd = mean_squared_displacement(positions, np.eye(3) * 5.0, average_origins=True)
        lags = np.arange(1, 100)
        assert msd[1:100] == pytest.approx(3 * 0.04 * lags, rel=0.08)

    def test_a_growing_cell_alone_moves_nothing(self) -> None:
        atoms = gas(10, 5.0)
        scaled = atoms.get_scaled_positions()
        cells = np.array([np.eye(3) * (5.0 + 0.1 * k) for k in range(5)])
        assert np.abs(unwrap(scaled @ cells, cells)).max() < 1e-12

    def test_open_axes_are_not_wrapped(self) -> None:
        positions = np.zeros((3, 1, 3))
        positions[:, 0, 2] = [0.0, 4.0, 8.0]
        slab = mean_squared_displacement(positions, [[5.0, 0, 0], [0, 5.0, 0], [0, 0, 0]], pbc=[True, True, False])
        assert slab.tolist() == [0.0, 16.0, 64.0]
        assert mean_squared_displacement(positions, np.zeros((3, 3)), pbc=False).tolist() == [0.0, 16.0, 64.0]

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(IdealError, match=r"shape \(3, 3\)"):
            unwrap(np.zeros((3, 3)), np.eye(3))
        with pytest.raises(IdealError, match="cells have the shape"):
            unwrap(np.zeros((2, 1, 3)), np.zeros((5, 3, 3)))
        with pytest.raises(IdealError, match="axis z has no cell vector"):
            unwrap(np.zeros((2, 1, 3)), np.diag([5.0, 5.0, 0.0]))


class TestSteinhardt:
    @pytest.mark.parametrize(
        ("crystal", "neighbors", "q4", "q6"),
        [
            (bulk("Li", "bcc", a=3.5, cubic=True), 14, 0.0364, 0.5107),
            (bulk("Al", "fcc", a=4.05, cubic=True), 12, 0.1909, 0.5745),
            (bulk("Mg", "hcp", a=3.2, c=3.2 * np.sqrt(8 / 3)), 12, 0.0972, 0.4848),
        ],
    )
    def test_perfect_crystals_have_the_published_values(
        self, crystal: Atoms, neighbors: int, q4: float, q6: float
    ) -> None:
        order = steinhardt(crystal)
        assert (order.n_neighbors == neighbors).all()
        assert order.local == pytest.approx(q6, abs=2e-4)
        assert steinhardt(crystal, l=4).local == pytest.approx(q4, abs=2e-4)

    def test_rotation_changes_nothing_and_disorder_lowers_it(self) -> None:
        crystal = bulk("Li", cubic=True).repeat(5)
        crystal.rattle(0.15, seed=0)
        order = steinhardt(crystal)
        turned = crystal.copy()
        turned.rotate(33, (1, 2, 3), rotate_cell=True)
        assert steinhardt(turned).averaged == pytest.approx(order.averaged, abs=1e-10)
        liquid = crystal.copy()
        liquid.rattle(1.2, seed=1)
        assert order.averaged.mean() > 0.4
        assert steinhardt(liquid).averaged.mean() < 0.25
        assert steinhardt(liquid).overall < 0.05 < 0.4 < order.overall

    def test_clusters_work_and_too_few_atoms_are_named(self) -> None:
        cluster = bulk("Li", cubic=True).repeat(3)
        cluster.pbc = False
        assert np.isfinite(steinhardt(cluster).averaged).all()
        with pytest.raises(IdealError, match="3 atoms"):
            steinhardt(molecule("H2O"))


class TestFeatureMap:
    def test_pca_separates_what_is_separate_and_repeats_itself(self) -> None:
        rng = np.random.default_rng(0)
        groups = {"a": rng.normal(0, 1, (50, 9)), "b": rng.normal(12, 1, (40, 9)), "none": np.zeros((0, 9))}
        result = map_features(groups)
        assert result.points["a"][:, 0].max() < result.points["b"][:, 0].min() or (
            result.points["b"][:, 0].max() < result.points["a"][:, 0].min()
        )
        assert result.explained is not None
        assert 0.9 < result.explained.sum() <= 1
        assert result.points["none"].shape == (0, 2)
        assert np.array_equal(map_features(groups).points["a"], result.points["a"])

    def test_tsne_and_thinning(self) -> None:
        rng = np.random.default_rng(0)
        groups = {"a": rng.normal(0, 1, (60, 4)), "b": rng.normal(9, 1, (30, 4))}
        result = map_features(groups, "tsne", max_points=40)
        assert {name: points.shape for name, points in result.points.items()} == {"a": (40, 2), "b": (30, 2)}

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(IdealError, match="did you mean 'tsne'"):
            map_features({"a": np.zeros((5, 3))}, "tsnee")  # type: ignore[arg-type]
        with pytest.raises(IdealError, match="not finite"):
            map_features({"a": np.full((5, 3), np.nan)})
        with pytest.raises(IdealError, match="fewer than three"):
            map_features({"a": np.zeros((2, 3))})
        with pytest.raises(IdealError, match="features"):
            map_features({"a": np.zeros((5, 3)), "b": np.zeros((5, 4))})
