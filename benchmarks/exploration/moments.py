"""A Gaussian-moment network for copies of one molecule: the model of Zaverkin et al. in small, a custom potential.

    Psi_iLs = sum_j R_s(r_ij; Z_i, Z_j) r^(x)L,    R_s = f_cut sum_k beta_ZiZj,sk Gauss_k(r),    L = 0 ... 3
    G_i     = contractions of Psi_iL,s to invariants,    E_i = scale_Zi MLP(G_i) + shift_Zi

All graphs are complete (every atom sees every other one, those beyond ``radius`` with weight 0), so that a batch is a
dense array whose last axis runs over the copies: plain arithmetic on long rows, which `torch.compile` fuses.

Zaverkin et al., J. Chem. Theory Comput. 17, 6658 (2021), doi:10.1021/acs.jctc.1c00527.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from ase import Atoms
from ase.data import atomic_numbers
from dipeptide import molecule
from torch import Tensor, nn

from ideal.models.base import Factors, Prediction
from ideal.models.edge_potential import EdgePotential, ordered_elements
from ideal.models.graph import Graph, GraphBatch

REACH = 100.0
"""Å: no molecule is longer, every graph is complete."""
LANES = (8, 16, 32)
"""Structures that a compiled function takes at once; other numbers are filled up."""

_AGREEMENT = 1e-3
_ROOT2, _ROOT3, _ROOT6 = 2**0.5, 3**0.5, 6**0.5


class MomentNetwork(nn.Module):
    """Invariants of Gaussian moments and a network of two hidden layers on them.

    Args:
        types: (n_atoms,) index of each atom's element.
        radius: of an atom's environment, Å.
        n_gauss, n_basis, hidden: Gaussians, radial functions, width.
    """

    def __init__(self, types: Sequence[int], radius: float, n_gauss: int, n_basis: int, hidden: int) -> None:
        super().__init__()
        n, n_types = len(types), max(types) + 1
        self.radius, self.n_basis, self.width = radius, n_basis, radius / n_gauss
        self.beta = nn.Parameter(torch.randn(n_types * n_types, n_basis, n_gauss) / n_gauss**0.5)
        kinds = torch.tensor(types)
        self.register_buffer("types", kinds)
        self.register_buffer("pairs", (kinds[None, :] * n_types + kinds[:, None]).reshape(-1))
        self.register_buffer("eye", torch.eye(n)[..., None])
        self.register_buffer("centers", torch.linspace(0.5, radius, n_gauss)[:, None])
        self.register_buffer("rows", torch.triu_indices(n_basis, n_basis)[0])
        self.register_buffer("columns", torch.triu_indices(n_basis, n_basis)[1])
        n_features = n_basis + 3 * len(self.rows) + 2 * n_basis * n_basis
        self.register_buffer("feature_shift", torch.zeros(n_features, n_types))
        self.register_buffer("feature_scale", torch.ones(n_features, 1))
        self.first = nn.Linear(n_features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)
        self.scale = nn.Parameter(torch.ones(n_types))
        self.shift = nn.Parameter(torch.zeros(n_types))

    def invariants(self, vectors: Tensor) -> Tensor:
        """(n_features, n_atoms, n_copies) before scaling, of vectors (3, n_atoms, n_atoms, n_copies) in Å.

        ``vectors[:, j, i]`` leads from atom i to atom j.
        """
        r = ((vectors * vectors).sum(0) + self.eye).sqrt()  # of an atom to itself: not 0, and without weight
        envelope = torch.where(r < self.radius, 0.5 + 0.5 * torch.cos(torch.pi / self.radius * r), 0.0) * (1 - self.eye)
        gauss = torch.exp(-0.5 * ((r[:, :, None] - self.centers) / self.width) ** 2) * envelope[:, :, None]
        radial = torch.bmm(self.beta[self.pairs], gauss.flatten(0, 1)).view(*r.shape[:2], -1, r.shape[2])
        harmonics = _powers(vectors / r)  # (20, n, n, copies)
        moments = (harmonics[:, :, None] * radial.transpose(1, 2)[None]).sum(1)  # (20, n_basis, n, copies)
        zeroth, first, second, third = moments.split([1, 3, 6, 10])
        grams = [(m[:, self.rows] * m[:, self.columns]).sum(0) for m in (first, second, third)]
        # v_b(s) M_bc(t) v_c(s), and M_ab(s) M_bc(s) M_ca(t)
        squares = torch.cat([_outer(first), _squared(second)], dim=1)
        cubes = (squares[:, :, None] * second[:, None]).sum(0).flatten(0, 1)
        return torch.cat([zeroth[0], *grams, cubes])

    def features(self, vectors: Tensor) -> Tensor:
        """(n_features, n_atoms * n_copies): invariants, shifted and scaled."""
        scaled = (self.invariants(vectors) - self.feature_shift[:, self.types, None]) * self.feature_scale[:, :, None]
        return scaled.flatten(1)

    def atomic(self, vectors: Tensor) -> Tensor:
        """(n_atoms, n_copies) energies in units of the energy scale."""
        return self.atomic_of(self.features(vectors)).view(len(self.types), -1)

    def atomic_of(self, features: Tensor) -> Tensor:
        """(n_atoms * n_copies,) energies from what `features` gives."""
        kinds = self.types.repeat_interleave(features.shape[1] // len(self.types))
        for layer in (self.first, self.second):
            z = layer.weight @ features + layer.bias[:, None]
            features = z * torch.sigmoid(z)
        output = self.last.weight @ features + self.last.bias[:, None]
        return output[0] * self.scale[kinds] + self.shift[kinds]

    def slopes(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """dE_i/d(W, b) of the three linear layers as outer products: (n_out, n), (n_in + 1, n) each.

        The chain rule is written out, so that a derivative of them is a plain backward pass.
        """
        kinds = self.types.repeat_interleave(features.shape[1] // len(self.types))
        one = torch.ones_like(features[:1])
        z1 = self.first.weight @ features + self.first.bias[:, None]
        s1 = torch.sigmoid(z1)
        x1 = z1 * s1
        z2 = self.second.weight @ x1 + self.second.bias[:, None]
        s2 = torch.sigmoid(z2)
        x2 = z2 * s2
        top = self.scale[kinds][None]
        d2 = top * self.last.weight.T * (s2 + x2 * (1 - s2))
        d1 = (self.second.weight.T @ d2) * (s1 + x1 * (1 - s1))
        return [(d1, torch.cat([features, one])), (d2, torch.cat([x1, one])), (top, torch.cat([x2, one]))]


def to_vectors(positions: Tensor) -> Tensor:
    """(3, n, n, n_copies) vectors as `MomentNetwork.invariants` takes them, of positions (3, n, n_copies)."""
    return positions[:, :, None] - positions[:, None]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled for every shape that it meets where `MomentPotential.is_compiled` says so.

    Args:
        function: of a `MomentNetwork` and tensors, the first of which decides the shape.

    Raises:
        RuntimeError: compiled, it gives something else. torch 2.13 was seen to compile a slice that is divided and then
            unbound into wrong derivatives, so that every shape is compared once, with the weights' gradients.
    """
    fast = torch.compile(function, dynamic=False)
    agreed: set[tuple[Any, ...]] = set()

    def call(network: MomentNetwork, first: Tensor, *others: Any) -> Any:
        if not MomentPotential.is_compiled:
            return function(network, first, *others)
        case = (tuple(first.shape), torch.is_grad_enabled())
        if case not in agreed:
            found, wanted = (_probe(each, network, first, *others) for each in (fast, function))
            for one, other in zip(found, wanted, strict=True):
                if float((one - other).abs().max()) > _AGREEMENT * float(other.abs().max()):
                    raise RuntimeError(f"{function.__name__} of {tuple(first.shape)} is compiled wrongly; use --eager")
            agreed.add(case)
        return fast(network, first, *others)

    return call


def _probe(function: Callable[..., Any], network: MomentNetwork, *arguments: Any) -> list[Tensor]:
    """What a function gives and, where gradients are on, the weights' gradients of the sum of its squares."""
    found = function(network, *arguments)
    outputs = [found] if isinstance(found, Tensor) else list(found)
    if not torch.is_grad_enabled():
        return outputs
    total = sum((each.square().sum() for each in outputs), torch.zeros(()))
    slopes = torch.autograd.grad(total, list(network.parameters()))
    return [*(each.detach() for each in outputs), *slopes]


class MomentPotential(EdgePotential):
    """A `MomentNetwork` with everything that IDEAL needs; make one with `new`.

    Attributes:
        is_compiled: whether `torch.compile` makes its functions fast; it takes a minute and a C++ compiler.
    """

    FORMAT = "exploration-moments-2"
    is_compiled: ClassVar[bool] = False

    @classmethod
    def new(
        cls,
        elements: Sequence[str],
        seed: int,
        device: Any = "cpu",
        threads: int = 1,
        *,
        examples: Sequence[Atoms] = (),
        radius: float = 5.0,
        n_gauss: int = 10,
        n_basis: int = 8,
        hidden: int = 64,
    ) -> MomentPotential:
        """Random weights that depend on ``seed`` alone; ``examples``: see `scale_features`."""
        known = ordered_elements(elements)
        architecture = {
            "element_types": known,
            "cutoff": REACH,
            "types": [known.index(symbol) for symbol in molecule().get_chemical_symbols()],
            "radius": radius,
            "n_gauss": n_gauss,
            "n_basis": n_basis,
            "hidden": hidden,
        }
        network = cls.construct(architecture, seed)
        potential = cls(network, architecture, {}, is_fitted=False, device=device, threads=threads)
        if examples:
            potential.scale_features(examples)
        return potential

    @staticmethod
    def construct(architecture: Mapping[str, Any], seed: int = 0) -> MomentNetwork:
        """See `EdgePotential.construct`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return MomentNetwork(*(architecture[name] for name in ("types", "radius", "n_gauss", "n_basis", "hidden")))

    def scale_features(self, examples: Sequence[Atoms], center: bool = False) -> None:
        """Divide every invariant by its root mean square over the atoms of examples.

        Args:
            examples: structures like those to come.
            center: subtract the mean of the element first.
        """
        network = self.network
        with torch.no_grad():
            rows = network.invariants(_dense([self.graph(atoms).vectors for atoms in examples], len(network.types)))
            network.feature_shift.zero_()
            if center:
                for kind in network.types.unique():
                    network.feature_shift[:, kind] = rows[:, network.types == kind].mean(dim=(1, 2))
            rows = rows - network.feature_shift[:, network.types, None]
            network.feature_scale.copy_(1 / rows.square().mean(dim=(1, 2))[:, None].sqrt().clamp_min(1e-6))
        self.changed()

    @property
    def network(self) -> MomentNetwork:
        """The network."""
        network: MomentNetwork = self._model
        return network

    def network_energies(self, graph: Graph | GraphBatch, vectors: Tensor, twice: bool) -> Tensor:
        """See `EdgePotential.network_energies`; graphs of other molecules than the one known have no meaning."""
        n = len(self.network.types)
        return self.network.atomic(_dense(list(vectors.split(n * (n - 1))), n)).T.flatten()

    def predict(self, graphs: Sequence[Graph], differentiable: bool = False) -> Prediction:
        """See `EdgePotential.predict`; filled up to one of `LANES` copies where functions are compiled."""
        n, most = len(self.network.types), LANES[-1]
        rows = [graph.vectors for graph in graphs]
        energies, forces = [], []
        with torch.set_grad_enabled(differentiable):
            for part in (rows[first : first + most] for first in range(0, len(rows), most)):
                lanes = min(size for size in LANES if size >= len(part)) if self.is_compiled else len(part)
                positions = _positions([*part, *part[:1] * (lanes - len(part))], n)
                energy, force = _ENERGIES_AND_FORCES(self.network, positions)
                energies.append(self.energy_scale * energy[: len(part)])
                forces.append(self.energy_scale * force[: len(part)])
        count = len(graphs)
        energy, force = torch.cat(energies), torch.cat(forces)
        return Prediction(energy + self._energy_offset, force.flatten(0, 1), energy.new_zeros(count, 6))

    def readout_factors(
        self, graph: Graph | GraphBatch, vectors: Tensor, differentiable: bool = False
    ) -> list[Factors]:
        """Of the network's three linear layers (see `ideal.models.base.DifferentiablePotential`)."""
        n = len(self.network.types)
        with torch.set_grad_enabled(differentiable):
            slopes = self.network.slopes(self.network.features(_dense(list(vectors.split(n * (n - 1))), n)))
            return [Factors(self.energy_scale * _rows(d, n), _rows(x, n)) for d, x in slopes]


def _dense(edges: Sequence[Tensor], n: int) -> Tensor:
    """(3, n, n, n_copies) of the edge vectors (n * (n - 1), 3) of every copy, sorted by source."""
    others = torch.stack(list(edges)).view(-1, n, n - 1, 3)
    place = torch.arange(n) - (torch.arange(n) > torch.arange(n)[:, None]).long()
    full = others[:, torch.arange(n)[:, None], place.clamp(0, n - 2)]  # (copies, i, j, 3)
    return torch.where(torch.eye(n, dtype=torch.bool)[..., None], 0.0, full).permute(3, 2, 1, 0)


def _positions(edges: Sequence[Tensor], n: int) -> Tensor:
    """(3, n, n_copies) relative to the first atom, whose edges come first."""
    others = torch.stack([vectors[: n - 1] for vectors in edges], dim=-1).transpose(0, 1)
    return torch.cat([torch.zeros_like(others[:, :1]), others], dim=1)


def _rows(columns: Tensor, n: int) -> Tensor:
    """(n_copies * n, size) of (size, n * n_copies)."""
    return columns.view(len(columns), n, -1).permute(2, 1, 0).flatten(0, 1)


def _energies_and_forces(network: MomentNetwork, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(n_copies,) energies and (n_copies, n, 3) forces in units of the energy scale."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        energies = network.atomic(to_vectors(x)).sum(0)
        return energies.sum(), energies

    slope, energies = torch.func.grad(total, has_aux=True)(positions)
    return energies, -slope.permute(2, 1, 0)


_ENERGIES_AND_FORCES = compiled(_energies_and_forces)


def _powers(unit: Tensor) -> Tensor:
    """(20, ...): the distinct components of the outer powers 0 to 3 of (3, ...), each times the root of how often it
    occurs, so that products of tensors are scalar products."""
    x, y, z = unit.unbind(0)
    second = [x * x, y * y, z * z, _ROOT2 * x * y, _ROOT2 * x * z, _ROOT2 * y * z]
    third = [x * x * x, y * y * y, z * z * z, _ROOT3 * x * x * y, _ROOT3 * x * x * z, _ROOT3 * y * y * x]
    third += [_ROOT3 * y * y * z, _ROOT3 * z * z * x, _ROOT3 * z * z * y, _ROOT6 * x * y * z]
    return torch.stack([torch.ones_like(x), x, y, z, *second, *third])


def _outer(v: Tensor) -> Tensor:
    """(6, ...) second powers of vectors (3, ...)."""
    x, y, z = v.unbind(0)
    return torch.stack([x * x, y * y, z * z, _ROOT2 * x * y, _ROOT2 * x * z, _ROOT2 * y * z])


def _squared(m: Tensor) -> Tensor:
    """(6, ...) matrix squares of symmetric matrices (6, ...) with the weights of `_powers`."""
    xx, yy, zz, xy, xz, yz = m.unbind(0)
    xy, xz, yz = xy / _ROOT2, xz / _ROOT2, yz / _ROOT2
    diagonal = [xx * xx + xy * xy + xz * xz, xy * xy + yy * yy + yz * yz, xz * xz + yz * yz + zz * zz]
    others = [xx * xy + xy * yy + xz * yz, xx * xz + xy * yz + xz * zz, xy * xz + yy * yz + yz * zz]
    return torch.stack([*diagonal, *(_ROOT2 * each for each in others)])


SYMBOLS = tuple(sorted(("H", "C", "N", "O"), key=lambda symbol: atomic_numbers[symbol]))
"""Elements of the molecule."""
