"""The pass that can be derived twice, and the readout's gradient, of every potential that offers them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms

from ideal.models.base import DifferentiablePotential
from ideal.models.differentiable import force_product_gradient, pull_back
from ideal.models.m3gnet import M3GNetPotential

from .conftest import crystal, tiny_potential

POTENTIALS: dict[str, Callable[[], M3GNetPotential]] = {
    "m3gnet": lambda: tiny_potential(n_blocks=2).double(),
    "m3gnet matgl pass": lambda: tiny_potential().double().without_fused_pass(),
}


@pytest.fixture(scope="module", params=list(POTENTIALS))
def potential(request: pytest.FixtureRequest) -> M3GNetPotential:
    return POTENTIALS[request.param]()


def test_satisfies_the_protocol(potential: M3GNetPotential) -> None:
    assert isinstance(potential, DifferentiablePotential)


def test_equals_the_fast_pass(potential: M3GNetPotential, structure: Atoms) -> None:
    graph = potential.graph(structure)
    vectors = graph.vectors.requires_grad_(True)
    energies = potential.atomic_energies(graph, vectors)
    (slope,) = torch.autograd.grad(energies.sum(), vectors, create_graph=True)
    positions, strain = pull_back(graph, slope)
    expected = potential.evaluate(structure)
    assert energies.sum().item() + potential.reference_energy(structure) == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(-positions, expected.forces, atol=1e-12 * abs(expected.forces).max())
    if expected.stress is not None:
        voigt = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / structure.get_volume()
        np.testing.assert_allclose(voigt, expected.stress, atol=1e-12)


def test_force_product_gradient(potential: M3GNetPotential, structure: Atoms) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(len(structure), 3))
    gradient, strain = force_product_gradient(potential, structure, weights)

    def product(displacement: np.ndarray, deformation: np.ndarray) -> float:
        moved = structure.copy()
        moved.positions = (structure.positions + displacement) @ deformation.T
        moved.cell = structure.cell.array @ deformation.T
        return float((weights * potential.evaluate(moved).forces).sum())

    direction, step = rng.normal(size=gradient.shape), 2e-5
    sides = [product(sign * step * direction, np.eye(3)) for sign in (1, -1)]
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs((sides[0] - sides[1]) / (2 * step) - (gradient * direction).sum()) < 1e-6 * scale
    direction = rng.normal(size=(3, 3))
    direction += direction.T
    sides = [product(np.zeros_like(weights), np.eye(3) + sign * step * direction) for sign in (1, -1)]
    scale = np.linalg.norm(strain) * np.linalg.norm(direction)
    assert abs((sides[0] - sides[1]) / (2 * step) - (strain * direction).sum()) < 1e-6 * scale
    np.testing.assert_array_equal(strain, strain.T)


def test_an_isolated_atom_has_no_gradient(potential: M3GNetPotential) -> None:
    gradient, strain = force_product_gradient(potential, Atoms("Al"), np.ones((1, 3)))
    assert not gradient.any()
    assert not strain.any()


def test_readout_factors_are_the_energy_gradient(potential: M3GNetPotential) -> None:
    atoms = crystal()
    graph = potential.graph(atoms)
    factors = potential.readout_factors(graph, graph.vectors)
    parameters = [value for name, value in potential.named_parameters() if name.startswith("final_layer")]
    energies = potential.atomic_energies(graph, graph.vectors)
    for atom in range(len(atoms)):
        expected = torch.autograd.grad(energies[atom], parameters, retain_graph=True)
        for layer, factor in enumerate(factors):
            outer = torch.outer(factor.output[atom], factor.input[atom])
            torch.testing.assert_close(outer[:, :-1], expected[2 * layer], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(outer[:, -1], expected[2 * layer + 1], rtol=1e-10, atol=1e-10)
    assert sum(factor.output.shape[1] * factor.input.shape[1] for factor in factors) == sum(
        p.numel() for p in parameters
    )
    assert not any(factor.output.requires_grad or factor.input.requires_grad for factor in factors)


def test_readout_factors_can_be_derived(potential: M3GNetPotential) -> None:
    graph = potential.graph(crystal())
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(graph.vectors.shape)))

    def summed(vectors: torch.Tensor, differentiable: bool = False) -> torch.Tensor:
        factors = potential.readout_factors(graph, vectors, differentiable)
        return sum((f.output.sum(1) * f.input.sum(1)).sum() for f in factors)  # type: ignore[return-value]

    vectors = graph.vectors.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(summed(vectors, True), vectors)
    step = 1e-5
    numeric = (summed(graph.vectors + step * direction) - summed(graph.vectors - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-6)
