"""Derivatives of functions of forces and of readout gradients with respect to positions and strain.

A structure enters a potential through its edge vectors d_e = r_target - r_source (periodic images included). For any
function L of them, with g_e = dL/dd_e,

    dL/dr_i = sum_{e into i} g_e - sum_{e out of i} g_e,    dL/dstrain = sum_e d_e g_e^T    (symmetrized),

for r -> (1 + strain) r. Both are summed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ideal.models.base import Factors
from ideal.models.fused import twice_differentiable_silu

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.models.base import DifferentiablePotential
    from ideal.models.graph import Graph
    from ideal.records import FloatArray


def pull_back(graph: Graph, gradient: Tensor) -> tuple[FloatArray, FloatArray]:
    """From edge vectors to the structure.

    Args:
        graph: the structure's graph.
        gradient: (n_edges, 3), dL/d(edge vectors).

    Returns:
        dL/d(positions) (n_atoms, 3) and dL/d(strain) (3, 3), symmetric; units of L per Å and of L.
    """
    gradient = gradient.detach().double()
    positions = gradient.new_zeros(graph.n_atoms, 3)
    positions.index_add_(0, graph.target, gradient).index_add_(0, graph.source, -gradient)
    strain = graph.vectors.detach().double().T @ gradient
    return positions.cpu().numpy(), (0.5 * (strain + strain.T)).cpu().numpy()


def force_product_gradient(
    potential: DifferentiablePotential, atoms: Atoms, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Derivative of sum_i weights_i . F_i with constant weights: minus the Hessian times weights, without the Hessian.

    Args:
        potential: a potential.
        atoms: the structure.
        weights: (n_atoms, 3).

    Returns:
        Its derivative by positions (n_atoms, 3) and strain (3, 3), eV/Å² and eV/Å times the weights' unit.

    Raises:
        TrainingError: as for `Potential.evaluate`.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> from ideal.models.m3gnet import M3GNetPotential
        >>> potential = M3GNetPotential.new(ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2), ["Li"], seed=0)
        >>> atoms = bulk("Li", cubic=True)
        >>> gradient, strain = force_product_gradient(potential, atoms, np.ones((2, 3)))
        >>> bool(abs(gradient).max() < 1e-3)  # the net force is zero whatever the positions
        True
    """
    graph = potential.graph(atoms)
    vectors = graph.vectors.detach().requires_grad_(True)
    if not vectors.shape[0]:
        return np.zeros((graph.n_atoms, 3)), np.zeros((3, 3))
    cotangents = torch.from_numpy(np.ascontiguousarray(weights)).to(vectors)
    energy = potential.atomic_energies(graph, vectors).sum()
    (slope,) = torch.autograd.grad(energy, vectors, create_graph=True)
    # F_i = sum_{e out of i} slope_e - sum_{e into i} slope_e
    product = ((cotangents[graph.source] - cotangents[graph.target]) * slope).sum()
    (gradient,) = torch.autograd.grad(product, vectors)
    return pull_back(graph, gradient)


def gated_factors(network: Any, nodes: Tensor, scale: float, differentiable: bool) -> list[Factors]:
    """`Factors` of every linear layer of a gated network, layers(x) * gates(x), that maps atoms' features to energies.

    Args:
        network: matgl's ``GatedMLP`` of linear layers, SiLU and Sigmoid with one output.
        nodes: (n_atoms, n_features).
        scale: eV per unit of the network's output.
        differentiable: keep what the factors' derivative by ``nodes`` needs.
    """
    activation = twice_differentiable_silu if differentiable else silu
    if not nodes.requires_grad:
        nodes = nodes.detach().requires_grad_(True)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    with torch.enable_grad():
        branches = []
        for branch in (network.layers, network.gates):
            x = nodes
            for layer in branch:
                if isinstance(layer, nn.Linear):
                    inputs.append(torch.cat([x, x.new_ones(x.shape[0], 1)], dim=1))
                    x = layer(x)
                    outputs.append(x)
                else:
                    x = activation(x) if isinstance(layer, nn.SiLU) else layer(x)
            branches.append(x)
        energy = scale * (branches[0] * branches[1]).sum()
        slopes = torch.autograd.grad(energy, outputs, create_graph=differentiable)
    if not differentiable:
        inputs = [x.detach() for x in inputs]
    return [Factors(slope, x) for slope, x in zip(slopes, inputs, strict=True)]


def project_factors(factors: Sequence[Factors], projections: Sequence[tuple[FloatArray, FloatArray]]) -> Tensor:
    """Random projection of outer products without forming them (Zaverkin et al. 2024, eq. 20).

    Args:
        factors: gradient by every layer.
        projections: per layer U_out (size, n_out) and U_in (size, n_in + 1).

    Returns:
        (n_atoms, size), sum over layers of (U_out output) * (U_in input), eV.
    """
    result = torch.zeros(())
    for factor, (out, into) in zip(factors, projections, strict=True):
        u_out, u_in = (torch.from_numpy(array).to(factor.input) for array in (out, into))
        result = result.to(factor.input) + (factor.output @ u_out.T) * (factor.input @ u_in.T)
    return result
