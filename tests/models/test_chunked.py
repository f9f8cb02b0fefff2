"""Evaluation block by block over chunks: the same numbers whatever the chunks and whatever was kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from ideal.config import ModelConfig
from ideal.models import make_potential
from ideal.models.chunked import ChunkedEvaluator
from ideal.models.m3gnet import M3GNetPotential

from .conftest import ELEMENTS, TINY, alcohol, crystal, slab, tiny_potential


def autograd(potential: M3GNetPotential, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies and edge gradient by autograd through the fused pass."""
    graph = potential.graph(atoms)
    vectors = graph.vectors.requires_grad_(True)
    energies = potential.atomic_energies(graph, vectors, twice=False)
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    return energies.detach() / potential.energy_scale, gradient / potential.energy_scale


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize(("max_n", "max_l"), [(1, 1), (2, 3), (1, 4)])
def test_equals_autograd_whatever_is_kept(n_blocks: int, max_n: int, max_l: int) -> None:
    potential = tiny_potential(n_blocks=n_blocks, max_n=max_n, max_l=max_l).double()
    for atoms in (crystal(), slab(), alcohol()):
        energies, gradient = autograd(potential, atoms)
        graph = potential.graph(atoms)
        edge_features = 2 * 8 * 8 * len(graph.source)
        everything, some_chunks, edges_alone, atoms_alone = 1 << 40, edge_features + 200_000, edge_features + 8, 0
        for chunk_atoms in (None, 1, 3):
            for budget in (everything, some_chunks, edges_alone, atoms_alone):
                evaluate = ChunkedEvaluator(potential._model, potential._fused.basis, chunk_atoms, budget)
                found = evaluate(graph.types, graph.source, graph.target, graph.vectors.detach())
                torch.testing.assert_close(found[0], energies, rtol=1e-11, atol=1e-13)
                torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-13)


def test_float32_differs_by_rounding_alone() -> None:
    potential = tiny_potential(n_blocks=3, max_n=2, max_l=3)
    graph = potential.graph(crystal())
    exact = autograd(tiny_potential(n_blocks=3, max_n=2, max_l=3).double(), crystal())
    for chunk_atoms, budget in ((None, 1 << 40), (1, 0)):
        found = ChunkedEvaluator(potential._model, potential._fused.basis, chunk_atoms, budget)(
            graph.types, graph.source, graph.target, graph.vectors
        )
        for ours, theirs in zip(found, exact, strict=True):
            assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_leaves_no_gradients_behind() -> None:
    potential = tiny_potential(n_blocks=2)
    potential.evaluate(crystal())
    assert all(parameter.grad is None and parameter.requires_grad for _, parameter in potential.named_parameters())


def test_chunk_size_of_the_configuration() -> None:
    config = TINY.model_copy(update={"chunk_atoms": 2, "n_blocks": 2})
    small = make_potential(config, ELEMENTS, seed=1).evaluate(slab())
    usual = make_potential(config.model_copy(update={"chunk_atoms": "auto"}), ELEMENTS, seed=1).evaluate(slab())
    np.testing.assert_allclose(small.forces, usual.forces, atol=1e-6 * abs(usual.forces).max())
    assert ModelConfig().chunk_atoms == "auto"
    assert ModelConfig.model_validate({"chunk_atoms": 500}).chunk_atoms == 500


def test_separated_fragments_add_up() -> None:
    potential = tiny_potential(n_blocks=2).double()
    molecule = alcohol()
    moved = molecule.copy()
    moved.positions += [0, 0, 40.0]
    both = potential.evaluate(molecule + moved)
    one = potential.evaluate(molecule)
    assert both.energy == pytest.approx(2 * one.energy, rel=1e-12)
    np.testing.assert_allclose(both.forces, np.vstack([one.forces, one.forces]), atol=1e-10)


@pytest.mark.gpu
def test_gpu_gives_the_numbers_of_the_cpu() -> None:
    potential = tiny_potential(n_blocks=2, device="cuda")
    expected = tiny_potential(n_blocks=2).evaluate(crystal())
    found = potential.evaluate(crystal())
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-4 * abs(expected.forces).max())
    np.testing.assert_allclose(found.energies, expected.energies, atol=1e-4)
