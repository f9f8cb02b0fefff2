"""A Gaussian-moment network: the model of Zaverkin et al. in small, as a custom potential of IDEAL.

    Psi_iLs = sum_j R_s(r_ij; Z_i, Z_j) r^(x)L,    R_s = f_cut sum_k beta_ZiZj,sk Gauss_k(r),    L = 0 ... 3
    G_i     = contractions of Psi_iL,s to invariants,    E_i = scale_Zi MLP(G_i) + shift_Zi

No messages and no triples: evaluating eight 22-atom molecules costs a fraction of what the smallest M3GNet costs, which
pays for the dynamics of this benchmark on one core.

Zaverkin et al., J. Chem. Theory Comput. 17, 6658 (2021), doi:10.1021/acs.jctc.1c00527.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor, nn
from torch.nn.functional import silu

from ideal.models.base import Factors
from ideal.models.edge_potential import EdgePotential, ordered_elements
from ideal.models.fused import twice_differentiable_silu
from ideal.models.graph import Graph, GraphBatch


class MomentNetwork(nn.Module):
    """Invariants of Gaussian moments and a network of two hidden layers on them."""

    def __init__(self, n_types: int, cutoff: float, n_gauss: int, n_basis: int, hidden: int) -> None:
        super().__init__()
        self.cutoff, self.n_types, self.n_basis = cutoff, n_types, n_basis
        self.radial = nn.Parameter(torch.randn(n_gauss, n_basis) / n_gauss**0.5)
        self.species = nn.Parameter(torch.randn(n_types * n_types, n_basis))
        self.register_buffer("centers", torch.linspace(0.5, cutoff, n_gauss))
        rows, columns = torch.triu_indices(n_basis, n_basis)
        self.register_buffer("upper", rows * n_basis + columns)
        n_features = n_basis + 3 * len(rows) + 2 * n_basis * n_basis
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.first = nn.Linear(n_features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)
        self.scale = nn.Parameter(torch.ones(n_types))
        self.shift = nn.Parameter(torch.zeros(n_types))

    def invariants(self, types: Tensor, source: Tensor, target: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms, n_features) before scaling; edges are sorted by source."""
        r = vectors.norm(dim=1, keepdim=True)
        width = self.cutoff / len(self.centers)
        gauss = torch.exp(-0.5 * ((r - self.centers) / width) ** 2)
        envelope = 0.5 + 0.5 * torch.cos(torch.pi / self.cutoff * r)
        pair = types[source] * self.n_types + types[target]
        radial = (gauss @ self.radial) * self.species.index_select(0, pair) * envelope
        unit = vectors / r
        second = (unit[:, :, None] * unit[:, None, :]).flatten(1)
        third = (second[:, :, None] * unit[:, None, :]).flatten(1)
        edges = torch.cat([radial, torch.ones_like(r), unit, second, third], dim=1)
        # Atoms by neighbors, padded with zeros: the sum over neighbors becomes one small matrix product per atom.
        n_atoms, counts = len(types), torch.bincount(source, minlength=len(types))
        most = int(counts.max())
        slot = torch.arange(len(source)) - (counts.cumsum(0) - counts)[source] + source * most
        padded = edges.new_zeros(n_atoms * most, edges.shape[1]).index_copy(0, slot, edges)
        padded = padded.view(n_atoms, most, edges.shape[1])
        moments = padded[:, :, self.n_basis :].transpose(1, 2) @ padded[:, :, : self.n_basis]
        return self._contract(moments)

    def _contract(self, moments: Tensor) -> Tensor:
        zeroth, first, second, third = moments.split([1, 3, 9, 27], dim=1)
        grams = [(m.transpose(1, 2) @ m).flatten(1).index_select(1, self.upper) for m in (first, second, third)]
        # v_b(s) M_bc(t) v_c(s), and M_ab(s) M_bc(s) M_ca(t)
        n, s = len(moments), self.n_basis
        matrix = second.transpose(1, 2).reshape(n * s, 3, 3)
        vector = first.transpose(1, 2).reshape(n * s, 3, 1)
        pairs = torch.cat([(vector * vector.transpose(1, 2)).view(n, s, 9), (matrix @ matrix).view(n, s, 9)], dim=1)
        return torch.cat([zeroth.flatten(1), *grams, (pairs @ second).flatten(1)], dim=1)


class MomentPotential(EdgePotential):
    """A `MomentNetwork` with everything that IDEAL needs; make one with `new`."""

    FORMAT = "exploration-moments-1"

    @classmethod
    def new(
        cls,
        elements: Sequence[str],
        seed: int,
        device: Any = "cpu",
        threads: int = 1,
        *,
        examples: Sequence[Atoms] = (),
        cutoff: float = 5.0,
        n_gauss: int = 10,
        n_basis: int = 8,
        hidden: int = 64,
    ) -> MomentPotential:
        """Random weights that depend on ``seed`` alone; ``examples``: see `scale_features`."""
        sizes = {"cutoff": cutoff, "n_gauss": n_gauss, "n_basis": n_basis, "hidden": hidden}
        architecture = {"element_types": ordered_elements(elements), **sizes}
        potential = cls(
            cls.construct(architecture, seed), architecture, {}, is_fitted=False, device=device, threads=threads
        )
        if examples:
            potential.scale_features(examples)
        return potential

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> MomentNetwork:
        """See `EdgePotential.construct`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sizes = (architecture[name] for name in ("cutoff", "n_gauss", "n_basis", "hidden"))
            return MomentNetwork(len(architecture["element_types"]), *sizes)

    def scale_features(self, examples: Sequence[Atoms]) -> None:
        """Divide every invariant by its root mean square over the atoms of examples."""
        with torch.no_grad():
            rows = [self._model.invariants(g.types, g.source, g.target, g.vectors) for g in map(self.graph, examples)]
            self._model.feature_scale.copy_(1 / torch.cat(rows).square().mean(0).sqrt().clamp_min(1e-6))
        self.changed()

    def features(self, graph: Graph | GraphBatch, vectors: Tensor) -> Tensor:
        """(n_atoms, n_features) scaled invariants."""
        invariants = self._model.invariants(graph.types, graph.source, graph.target, vectors)
        return invariants * self._model.feature_scale

    def network_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """See `EdgePotential.network_energies`."""
        return self.energies_of(self.features(graph, vectors), graph.types, twice) / self.energy_scale

    @property
    def network(self) -> MomentNetwork:
        """The network."""
        network: MomentNetwork = self._model
        return network

    def energies_of(self, features: Tensor, types: Tensor, twice: bool = False) -> Tensor:
        """(n_atoms,) energies in eV, without reference energies, from what `features` gives."""
        activation = twice_differentiable_silu if twice else silu
        model = self._model
        output = model.last(activation(model.second(activation(model.first(features))))).view(-1)
        return self.energy_scale * (output * model.scale[types] + model.shift[types])

    def readout_factors(
        self, graph: Graph | GraphBatch, vectors: Tensor, differentiable: bool = False
    ) -> list[Factors]:
        """Of the network's three linear layers (see `ideal.models.base.DifferentiablePotential`).

        The chain rule is written out, so that the factors' own derivative by ``vectors`` is a plain backward pass.
        """
        with torch.set_grad_enabled(differentiable):
            return factors_of(self._model, self.features(graph, vectors), graph.types, self.energy_scale)


def factors_of(model: MomentNetwork, features: Tensor, types: Tensor, energy_scale: float) -> list[Factors]:
    """dE_i/d(W, b) of the three linear layers as outer products."""
    one = features.new_ones(len(features), 1)
    z1 = model.first(features)
    s1 = torch.sigmoid(z1)
    x1 = z1 * s1
    z2 = model.second(x1)
    s2 = torch.sigmoid(z2)
    x2 = z2 * s2
    top = energy_scale * model.scale[types][:, None]
    d2 = top * model.last.weight * (s2 + x2 * (1 - s2))
    d1 = (d2 @ model.second.weight) * (s1 + x1 * (1 - s1))
    return [
        Factors(d1, torch.cat([features, one], dim=1)),
        Factors(d2, torch.cat([x1, one], dim=1)),
        Factors(top, torch.cat([x2, one], dim=1)),
    ]


SYMBOLS = tuple(sorted(("H", "C", "N", "O"), key=lambda symbol: atomic_numbers[symbol]))
"""Elements of the molecule."""
