"""Gradient features against plain autograd and NumPy, their metrics, the model they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ideal.errors import ConfigError, UncertaintyError
from ideal.uncertainty.feature_metrics import NearestMetric, PosteriorMetric
from ideal.uncertainty.gradient_features import GradientFeatures

from .examples import potential, salt, training_set


def explicit_features(uncertainty: GradientFeatures, atoms: Any) -> np.ndarray:
    """(n_atoms, size): one backward pass per atom, the outer product of each layer projected row by row."""
    model = uncertainty.potential
    graph = model.graph(atoms)
    energies = model.atomic_energies(graph, graph.vectors)
    parameters = dict(model.named_parameters())
    names = [name.removesuffix(".weight") for name in parameters if name.startswith("final_layer") and "weight" in name]
    result = np.zeros((len(atoms), uncertainty.size))
    for i in range(len(atoms)):
        for name, (out, into) in zip(names, uncertainty._projections, strict=True):
            layer = [parameters[f"{name}.weight"], parameters[f"{name}.bias"]]
            weight, bias = torch.autograd.grad(energies[i], layer, retain_graph=True)
            gradient = torch.cat([weight, bias[:, None]], dim=1).numpy()
            result[i] += np.einsum("po,oi,pi->p", out, gradient, into)
    return result


@pytest.mark.parametrize("fused", [True, False])
def test_features_against_autograd_per_atom(fused: bool) -> None:
    model = potential() if fused else potential().without_fused_pass()
    uncertainty = GradientFeatures(model, size=20)
    atoms = salt(2)
    np.testing.assert_allclose(uncertainty.features(atoms), explicit_features(uncertainty, atoms), rtol=1e-9)


def test_projection_keeps_lengths_and_distances() -> None:
    uncertainty = GradientFeatures(potential(), size=4000)
    model, atoms = uncertainty.potential, salt(2)
    graph = model.graph(atoms)
    factors = model.readout_factors(graph, graph.vectors)
    outer = [torch.einsum("no,ni->noi", factor.output, factor.input).flatten(1) for factor in factors]
    full = torch.cat(outer, dim=1).numpy()
    projected = uncertainty.features(atoms)
    np.testing.assert_allclose((projected**2).sum(axis=1), (full**2).sum(axis=1), rtol=0.2)
    np.testing.assert_allclose(
        ((projected[0] - projected[2:]) ** 2).sum(axis=1), ((full[0] - full[2:]) ** 2).sum(axis=1), rtol=0.3
    )


def test_seed_decides() -> None:
    atoms = salt(2)
    one, again, other = (GradientFeatures(potential(), size=16, seed=seed).features(atoms) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_posterior_is_equation_4() -> None:
    uncertainty = GradientFeatures(potential(), size=40, regularization=1e-4)
    uncertainty.update(training_set())
    phi = np.concatenate([uncertainty.features(atoms) for atoms in training_set()])
    square = 1e-4 * (phi**2).sum(axis=1).mean()
    inverse = np.linalg.inv(phi.T @ phi + square * np.eye(40))
    atoms = salt(5)
    new = uncertainty.features(atoms)
    np.testing.assert_allclose(
        uncertainty.squared(atoms), square * np.einsum("np,pq,nq->n", new, inverse, new), rtol=1e-7
    )
    mean = np.array([uncertainty.features(a).mean(axis=0) for a in training_set()])
    square = 1e-4 * (mean**2).sum(axis=1).mean()
    inverse = square * np.linalg.inv(mean.T @ mean + square * np.eye(40))
    usual = np.einsum("np,pq,nq->n", mean, inverse, mean).mean()
    wanted = np.sqrt(new.mean(axis=0) @ inverse @ new.mean(axis=0) / usual)
    assert uncertainty.total(atoms) == pytest.approx(wanted, rel=1e-6)


def test_distance_is_equation_3() -> None:
    uncertainty = GradientFeatures(potential(), "distance", size=40)
    uncertainty.update(training_set())
    atoms = salt(5)
    known = [(uncertainty.features(a), a.symbols) for a in training_set()]
    for i, phi in enumerate(uncertainty.features(atoms)):
        same = np.concatenate([f[symbols == atoms.symbols[i]] for f, symbols in known])
        nearest = ((same - phi) ** 2).sum(axis=1).min()
        assert uncertainty.squared(atoms, [i])[0] == pytest.approx(nearest, rel=1e-10)
    assert not uncertainty.atomic(training_set()[0]).any()


def test_float32_model() -> None:
    """The usual precision: features good to six digits, u of order one."""
    model = potential()
    single = potential()
    single._model.float()
    atoms = salt(5)
    exact, found = GradientFeatures(model, size=32), GradientFeatures(single, size=32)
    wanted = exact.features(atoms)
    np.testing.assert_allclose(found.features(atoms), wanted, rtol=0, atol=1e-5 * abs(wanted).max())
    for uncertainty in (exact, found):
        uncertainty.update(training_set())
    np.testing.assert_allclose(found.atomic(atoms), exact.atomic(atoms), rtol=0.05)


@pytest.mark.parametrize("measure", ["posterior", "distance"])
def test_features_belong_to_the_weights(measure: Any) -> None:
    model = potential()
    uncertainty = GradientFeatures(model, measure, size=16)
    model.changed()  # nothing learned yet, and nothing really changed
    uncertainty.update(training_set(2))
    before, weights = uncertainty.atomic(salt()), model.weights()
    model.set_weights({name: 1.1 * value for name, value in weights.items()})
    for call in (uncertainty.atomic, uncertainty.update, uncertainty.squared_gradient, uncertainty.total):
        with pytest.raises(UncertaintyError, match=r"model has changed.*rebuild"):
            call(salt())
    model.set_weights(weights)
    np.testing.assert_array_equal(uncertainty.atomic(salt()), before)
    uncertainty.rebuild(training_set(3), potential=potential(4))
    assert uncertainty.counts["Na"] == 12
    assert np.isfinite(uncertainty.atomic(salt())).all()


def test_another_architecture_needs_new_projections() -> None:
    from ideal.models.m3gnet import M3GNetPotential

    from .examples import ELEMENTS, SIZE

    uncertainty = GradientFeatures(potential(), size=16)
    wide = M3GNetPotential.new(SIZE.model_copy(update={"units": 12}), ELEMENTS, 0)
    with pytest.raises(UncertaintyError, match="make a new GradientFeatures"):
        uncertainty.rebuild(training_set(1), potential=wide)
    assert uncertainty.potential is not wide


def test_parameters_outside_their_set() -> None:
    with pytest.raises(ConfigError, match="did you mean 'distance'"):
        GradientFeatures(potential(), "distanc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size 0"):
        GradientFeatures(potential(), size=0)
    with pytest.raises(ConfigError, match="regularization -1"):
        GradientFeatures(potential(), regularization=-1)
    with pytest.raises(UncertaintyError, match="no readout gradients"):
        GradientFeatures(object())  # type: ignore[arg-type]


def labels(n: int, name: str = "X") -> np.ndarray:
    return np.array([name] * n)


def test_many_updates_lose_no_accuracy() -> None:
    rng = np.random.default_rng(0)
    # Directions that differ by six orders of magnitude: a sum of squares would lose the small ones.
    phi = rng.normal(size=(3000, 12)) * np.logspace(0, -6, 12) + 3.0
    batch = PosteriorMetric(12, 1e-12).learn(phi, labels(3000))
    single = PosteriorMetric(12, 1e-12)
    for row in phi:
        single = single.learn(row[None], labels(1))
    new = rng.normal(size=(5, 12)) * np.logspace(0, -6, 12) + 3.0
    np.testing.assert_allclose(single.squared(new, labels(5)), batch.squared(new, labels(5)), rtol=1e-8)
    assert (batch.squared(phi, labels(3000)) / batch.scale(labels(3000))).mean() == pytest.approx(1, rel=1e-8)


def test_the_posterior_falls_where_it_has_learned() -> None:
    rng = np.random.default_rng(1)
    metric = PosteriorMetric(6, 1e-3).learn(rng.normal(size=(40, 6)), labels(40))
    new = 3 * rng.normal(size=(1, 6))
    after = metric.learn(new, labels(1))
    assert (after.squared(new, labels(1)) / after.scale(labels(1)))[0] < metric.squared(new, labels(1))[0] / (
        metric.scale(labels(1))[0]
    )


def test_nearest_keeps_each_vector_once() -> None:
    rng = np.random.default_rng(2)
    phi = rng.normal(size=(30, 5))
    once = NearestMetric(5, 100).learn(phi, labels(30))
    twice = once.learn(np.concatenate([phi, phi[:3]]), labels(33))
    assert twice.counts == {"X": 63}
    np.testing.assert_array_equal(twice.points["X"], once.points["X"])
    same = NearestMetric(5, 100).learn(np.ones((4, 5)), labels(4))
    assert np.isinf(same.squared(phi, labels(30))).all()
    assert not same.slope(phi, labels(30)).any()


def test_nearest_keeps_the_widest_subset() -> None:
    """Three clouds and room for three points: one of each is kept, and nothing is farther than a cloud is wide."""
    rng = np.random.default_rng(3)
    phi = np.concatenate([center + 0.01 * rng.normal(size=(20, 2)) for center in ([0, 0], [10, 0], [0, 10])])
    metric = NearestMetric(2, 3).learn(phi, labels(60))
    assert sorted(metric.points["X"].round().tolist()) == [[0, 0], [0, 10], [10, 0]]
    assert metric.squared(phi, labels(60)).max() < 0.1**2


def test_groups_are_apart() -> None:
    rng = np.random.default_rng(4)
    phi = rng.normal(size=(20, 3))
    groups = np.array(["A", "B"] * 10)
    metric = NearestMetric(3, 100).learn(phi, groups)
    assert metric.counts == {"A": 10, "B": 10}
    assert not metric.squared(phi, groups).any()
    assert metric.squared(phi, groups[::-1]).min() > 0
    assert np.isinf(metric.squared(phi[:1], labels(1, "C"))).all()
    posterior = PosteriorMetric(3, 1e-6).learn(phi, groups)
    assert np.isinf(posterior.squared(phi[:1], labels(1, "C"))).all()
    assert not posterior.slope(phi[:1], labels(1, "C")).any()
