"""The objective's derivatives, and what the optimization may and may not move."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ideal.embedding.composition import Crop, build_crop
from ideal.embedding.crop import FrameView
from ideal.embedding.distances import ShortestDistances, minimum_distances
from ideal.embedding.filler import (
    FLOOR,
    MAX_STEP,
    MAX_STRAIN,
    STOP,
    TETHER,
    USUAL,
    FillerOptimization,
    Optimized,
    _Problem,
    usual_mean_square,
)
from ideal.records import FloatArray

from .radial import RadialUncertainty


def optimize_filler(
    crop: Crop,
    reference: FloatArray,
    uncertainty: RadialUncertainty,
    threshold: float,
    shortest: ShortestDistances,
    max_evaluations: int = 40,
    strain: bool = False,
) -> Optimized:
    return FillerOptimization(crop, reference, uncertainty, threshold, shortest, strain).run(max_evaluations)


@pytest.fixture(scope="module")
def crop(copper_frame: Atoms) -> Crop:
    view = FrameView(copper_frame, 40, vacuum=5.0).surroundings(3.0, 2.0, 200)
    made = build_crop(view, np.array([-3.6, -3.3, -3.7]), np.array([3.7, 3.9, 3.5]), ShortestDistances(), None)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def skewed_crop(crop: Crop) -> Crop:
    shear = np.array([[1.0, 0, 0], [0.3, 1.0, 0], [-0.2, 0.25, 1.0]])
    return Crop(
        crop.numbers,
        crop.vectors @ shear,
        crop.parents,
        crop.core,
        crop.added,
        crop.cell @ shear,
        np.array([True, False, True]),
        crop.pbc,
        crop.corner @ shear,
        crop.removed,
        crop.n_cut,
    )


def test_gradient_matches_finite_differences(skewed_crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    # a large "shortest distance" brings the guard into play
    problem = _Problem(
        skewed_crop,
        np.zeros(len(skewed_crop)),
        copper_uncertainty,
        1.0,
        ShortestDistances({(29, 29): 3.0}),
        strain=True,
    )
    rng = np.random.default_rng(0)
    start = problem.parameters(skewed_crop.vectors)
    start += rng.normal(0, 0.03, len(start))
    start[-2:] = (0.5, -0.4)
    point = problem.evaluate(start)
    assert point.result.closest < 0.85
    for k in [0, 7, 20, len(start) - 2, len(start) - 1]:
        step = np.zeros(len(start))
        step[k] = 1e-5
        numeric = (problem.evaluate(start + step).value - problem.evaluate(start - step).value) / 2e-5
        assert point.gradient[k] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("strain", [False, True])
def test_core_keeps_its_positions_and_uncut_axes_their_length(
    skewed_crop: Crop, copper_uncertainty: RadialUncertainty, strain: bool
) -> None:
    result = optimize_filler(
        skewed_crop, np.zeros(len(skewed_crop)), copper_uncertainty, 1.0, ShortestDistances(), 15, strain=strain
    )
    core = skewed_crop.core
    assert np.array_equal(result.vectors[core], skewed_crop.vectors[core])
    assert np.abs(result.vectors[~core] - skewed_crop.vectors[~core]).max() > 0.01
    assert np.allclose(result.cell[1], skewed_crop.cell[1], atol=1e-12)
    scale = np.linalg.norm(result.cell, axis=1) / np.linalg.norm(skewed_crop.cell, axis=1)
    assert np.allclose(np.cross(result.cell[0], skewed_crop.cell[0]), 0.0, atol=1e-9)
    assert (np.abs(scale - 1.0) <= MAX_STRAIN + 1e-9).all()
    assert (np.abs(scale[[0, 2]] - 1.0) > 1e-5).all() == strain


def test_stops_as_soon_as_the_filler_is_known(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    short = ShortestDistances()
    assert optimize_filler(crop, np.zeros(len(crop)), copper_uncertainty, 100.0, short).evaluations == 1
    own = np.where(crop.core, 10.0, 0.0)
    result = optimize_filler(crop, own, copper_uncertainty, 2.0, short, 80)
    assert result.max_u < STOP * 2.0 and result.excess(2.0) < STOP
    assert result.max_u == pytest.approx(copper_uncertainty.atomic(crop.atoms(result.vectors))[~crop.core].max())


def test_evaluations_are_bounded(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    assert optimize_filler(crop, np.zeros(len(crop)), copper_uncertainty, 0.05, ShortestDistances(), 5).evaluations <= 5


def test_a_step_is_at_most_the_trust_radius(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    result = optimize_filler(crop, np.zeros(len(crop)), copper_uncertainty, 0.5, ShortestDistances(), 2)
    assert np.linalg.norm(result.vectors - crop.vectors, axis=1).max() <= MAX_STEP + 1e-12


def test_guard_pushes_contacts_apart(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    filler = np.flatnonzero(~crop.core)
    vectors = crop.vectors.copy()
    vectors[filler[0]] = vectors[filler[1]] + np.array([1.2, 0.0, 0.0])
    squeezed = Crop(
        crop.numbers,
        vectors,
        crop.parents,
        crop.core,
        crop.added,
        crop.cell,
        crop.cut,
        crop.pbc,
        crop.corner,
        crop.removed,
        crop.n_cut,
    )
    short = ShortestDistances(minimum_distances(crop.atoms()))
    before = optimize_filler(squeezed, np.zeros(len(squeezed)), copper_uncertainty, 1e6, short, 1)
    after = optimize_filler(squeezed, np.zeros(len(squeezed)), copper_uncertainty, 1e6, short, 60)
    assert before.in_contact and not after.in_contact


def test_core_counts_beyond_what_the_frame_had(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    """The filler makes room for the core: its u falls towards the reference, and no further than asked."""
    u = copper_uncertainty.atomic(crop.atoms())
    ambitious = optimize_filler(crop, np.where(crop.core, 0.5, 0.0), copper_uncertainty, 1.0, ShortestDistances(), 40)
    modest = optimize_filler(crop, np.where(crop.core, u, 0.0), copper_uncertainty, 1.0, ShortestDistances(), 40)
    assert ambitious.u[crop.core].max() < u[crop.core].max()
    assert ambitious.u[crop.core].max() < modest.u[crop.core].max()
    assert modest.excess(1.0) == pytest.approx((modest.u / np.maximum(1.0, 1.5 * np.where(crop.core, u, 0.0))).max())


def test_a_stopped_optimization_goes_on(crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    known = np.zeros(len(crop)), copper_uncertainty, 0.5, ShortestDistances()
    at_once, in_parts = FillerOptimization(crop, *known), FillerOptimization(crop, *known)
    in_parts.run(7)
    assert in_parts.result.evaluations <= 7 and not in_parts.over
    assert at_once.run(20).excess(0.5) <= in_parts.run(20).excess(0.5) * 1.5
    assert in_parts.result.evaluations > 7


def test_straying_filler_is_drawn_back(skewed_crop: Crop, copper_uncertainty: RadialUncertainty) -> None:
    """The tether's part of the gradient agrees with finite differences, and pulls."""
    problem = _Problem(
        skewed_crop, np.zeros(len(skewed_crop)), copper_uncertainty, 50.0, ShortestDistances(), strain=False
    )
    start = problem.parameters(skewed_crop.vectors)
    start[:3] = (TETHER, 0.6, -0.4)
    point = problem.evaluate(start)
    for k in range(3):
        step = np.zeros(len(start))
        step[k] = 1e-5
        numeric = (problem.evaluate(start + step).value - problem.evaluate(start - step).value) / 2e-5
        assert point.gradient[k] == pytest.approx(numeric, rel=1e-5, abs=1e-6)
    tether = 50.0 * (np.linalg.norm(start[:3]) - TETHER)
    start[:3] = 0.0
    assert point.value > problem.evaluate(start).value
    assert np.linalg.norm(point.gradient[:3]) > 0.5 * tether


def test_mean_follows_the_frame_where_its_state_is_less_known() -> None:
    threshold = 3.0
    known = (USUAL * threshold) ** 2
    odd_center_in_a_known_state = np.array([9.0, 1.1, 0.9, 1.0, 1.2])
    assert usual_mean_square(odd_center_in_a_known_state, threshold) == known
    assert usual_mean_square(np.array([9.0, 2.0, 2.2, 1.9, 2.0]), threshold) == 2.0**2
    assert usual_mean_square(np.full(5, 9.0), threshold) == (FLOOR * threshold) ** 2
    assert usual_mean_square(np.zeros(0), 1.0) == 1.0
