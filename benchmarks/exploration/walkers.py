"""Many copies of one small molecule, moved together: one evaluation of the model per step for all of them.

Langevin dynamics (BAOAB; Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34) of E, or with bias forces towards
what the model does not know (Zaverkin et al. 2024, eqs. 6 and 8):

    F_i + tau_Zi du/dr_i,    tau = tau_0 sqrt(sum |F|^2) / sqrt(sum |du/dr|^2),    sums over the steps so far

u^2 is the mean over atoms of the posterior uncertainty u_i^2 (eq. 4), in units of its mean over the learned atoms of
the element, and tau_H is 0. The paper takes the posterior of the mean feature instead, which says little as long as
there are fewer structures than random projections. A walker stops when the largest u_i, in eV/Å by conformal
calibration, passes a limit.

Made for many steps on few cores: hydrogen weighs 4 amu, which leaves the distribution of positions as it is and bears
steps of 2 fs; uncertainty and bias are taken every second step, the bias then twice as strong (an impulse, r-RESPA).
The library's samplers move one structure each; this file exists for the sake of batches, and uses the library's metric.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from moments import MomentNetwork, MomentPotential, compiled, to_vectors
from torch import Tensor

from ideal.records import FloatArray, Label
from ideal.uncertainty.conformal import conformal_scale
from ideal.uncertainty.feature_metrics import PosteriorMetric

_TOTAL = "total"
_REGULARIZATION = 1e-4
"""lambda^2 over the mean squared length of learned features: larger than the library's, so that the few labels of the
first rounds leave no direction without any prior."""


@dataclass(frozen=True)
class Surface:
    """What one evaluation of all walkers gives.

    Attributes:
        energies: (n_walkers,), eV.
        forces: (n_walkers, n_atoms, 3), eV/Å.
        slopes: the same of du/dr, 1/Å; zeros where none were asked for.
        atomic: (n_walkers, n_atoms), uncertainty of forces, eV/Å.
        features: (n_walkers, size), mean gradient features.
    """

    energies: FloatArray
    forces: FloatArray
    slopes: FloatArray
    atomic: FloatArray
    features: FloatArray


@dataclass
class Uncertain:
    """A model with the posterior uncertainty of its gradient features, for batches of one molecule.

    Attributes:
        potential: the model.
        size: random projections.
        factor: eV/Å per unit of the atoms' uncertainty; `calibrate` sets it.
    """

    potential: MomentPotential
    size: int = 128
    factor: float = 1.0
    atoms: PosteriorMetric = field(init=False)
    whole: PosteriorMetric = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        network = self.potential.network
        sizes = [layer.weight.shape for layer in (network.first, network.second, network.last)]
        self._projections = [
            (
                self._tensor(rng.standard_normal((self.size, n_out)) / np.sqrt(self.size)),
                self._tensor(rng.standard_normal((self.size, n_in + 1))),
            )
            for n_out, n_in in sizes
        ]
        self._symbols = [self.potential.elements[kind] for kind in network.types.tolist()]

    def learn(self, labels: Sequence[Label]) -> None:
        """Forget everything and learn these structures with the model as it is."""
        positions = np.array([each.atoms.positions for each in labels])
        with torch.no_grad():
            features = _features(self.potential.network, self._lanes(positions), self._projections)
        rows = features.permute(2, 1, 0).double().numpy()  # (n_labels, n_atoms, size)
        empty = PosteriorMetric(self.size, _REGULARIZATION)
        self.atoms = empty.learn(rows.reshape(-1, self.size), np.array(self._symbols * len(labels)))
        self.whole = empty.learn(rows.mean(axis=1), np.array([_TOTAL] * len(labels)))
        # q = phi A phi = |root phi|^2
        group = np.array([self._symbols[0]] * self.size)
        values, axes = np.linalg.eigh(0.5 * self.atoms.slope(np.eye(self.size), group))
        self._root = torch.from_numpy(np.sqrt(np.maximum(values, 0))[:, None] * axes.T)
        self._weights = torch.from_numpy(1 / self.atoms.scale(np.array(self._symbols)))

    def calibrate(self, labels: Sequence[Label], alpha: float = 0.05) -> None:
        """Set ``factor`` by the conformal quantile of force error over uncertainty on labels that were not learned."""
        self.factor = 1.0
        positions = np.array([each.atoms.positions for each in labels])
        with torch.no_grad():
            found = _surface(
                self.potential.network, self._lanes(positions), self._projections, self._root, self._weights
            )
        forces = self.potential.energy_scale * found[1].permute(2, 1, 0).numpy()
        errors = np.sqrt(((forces - np.array([each.forces for each in labels])) ** 2).mean(axis=-1)).ravel()
        self.factor = conformal_scale(found[3].T.numpy().ravel(), errors, np.arange(errors.size), 1 - alpha)

    def evaluate(self, positions: FloatArray, biased: bool) -> Surface:
        """Energies, forces, uncertainties at (n_walkers, n_atoms, 3), and with ``biased`` the uncertainty's slope."""
        function = _BIASED if biased else _UNBIASED
        arguments = (self._projections, self._root, self._weights)
        with torch.no_grad():
            found = function(self.potential.network, self._lanes(positions), *arguments)
        energies, forces, slopes, atomic, features = (each.double().numpy() for each in found)
        scale = self.potential.energy_scale
        return Surface(
            scale * energies, scale * forces.T, slopes.T, self.factor * atomic.T, np.ascontiguousarray(features.T)
        )

    def _lanes(self, positions: FloatArray) -> Tensor:
        return _lanes(self.potential, positions)

    def _tensor(self, values: FloatArray) -> Tensor:
        return torch.from_numpy(values).to(self.potential.dtype)


def forces_at(potential: MomentPotential, positions: FloatArray) -> FloatArray:
    """(n_copies, n_atoms, 3), eV/Å, at positions of the same shape, Å: all that a step without bias needs."""
    with torch.no_grad():
        forces = _FORCES(potential.network, _lanes(potential, positions))
    result: FloatArray = potential.energy_scale * forces.permute(2, 1, 0).double().numpy()
    return result


def _lanes(potential: MomentPotential, positions: FloatArray) -> Tensor:
    """(3, n_atoms, n_copies)"""
    return torch.from_numpy(np.ascontiguousarray(positions.transpose(2, 1, 0))).to(potential.dtype)


Projections = list[tuple[Tensor, Tensor]]


def _features(network: MomentNetwork, positions: Tensor, projections: Projections) -> Tensor:
    """(size, n_atoms, n_walkers) sketched gradient features at positions (3, n_atoms, n_walkers)."""
    slopes = network.slopes(network.features(to_vectors(positions)))
    sketch = sum((a @ d) * (b @ x) for (a, b), (d, x) in zip(projections, slopes, strict=True))
    return sketch.view(len(sketch), *positions.shape[1:])


def _forces(network: MomentNetwork, positions: Tensor) -> Tensor:
    """(3, n_atoms, n_walkers) in units of the energy scale."""
    return -torch.func.grad(lambda x: network.atomic(to_vectors(x)).sum())(positions)


def _surface(
    network: MomentNetwork,
    positions: Tensor,
    projections: Projections,
    root: Tensor,
    weights: Tensor,
    biased: bool = False,
) -> tuple[Tensor, ...]:
    """Energies (n_walkers,), forces (3, n_atoms, n_walkers), slopes of u, u_i (n_atoms, n_walkers), mean features."""

    def energy(x: Tensor) -> tuple[Tensor, Tensor]:
        energies = network.atomic(to_vectors(x)).sum(0)
        return energies.sum(), energies

    def uncertainty(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        features = _features(network, x, projections).to(root)
        squares = (root @ features.flatten(1)).square().sum(0).view(features.shape[1:]) * weights[:, None]
        return squares.mean(0).sqrt().sum(), (squares.detach().sqrt(), features.detach().mean(1))

    slope, energies = torch.func.grad(energy, has_aux=True)(positions)
    if not biased:
        _, (atomic, features) = uncertainty(positions)
        return energies, -slope, torch.zeros_like(slope), atomic, features
    uphill, (atomic, features) = torch.func.grad(uncertainty, has_aux=True)(positions)
    return energies, -slope, uphill, atomic, features


def _surface_biased(*arguments: Any) -> tuple[Tensor, ...]:
    return _surface(*arguments, biased=True)


_FORCES = compiled(_forces)
_UNBIASED = compiled(_surface)
_BIASED = compiled(_surface_biased)


@dataclass(frozen=True)
class Dynamics:
    """How walkers move.

    Attributes:
        temperature: K.
        bias: tau_0; 0: no bias.
        timestep, friction: fs, 1/fs.
        steps: at most, per call.
        limit: a walker stops when the uncertainty of an atom passes this, eV/Å.
        every: steps between looks at the uncertainty, and between impulses of the bias.
        record: looks between the frames that are kept.
        max_bias: largest norm of a bias force, eV/Å.
        hydrogen: mass, amu.
        bias_of_hydrogen: relative to that of the other elements.
    """

    temperature: float
    bias: float = 0.0
    timestep: float = 2.0
    friction: float = 0.002
    steps: int = 2000
    limit: float = 1.5
    every: int = 2
    record: int = 2
    max_bias: float = 5.0
    hydrogen: float = 4.0
    bias_of_hydrogen: float = 0.0


@dataclass(frozen=True)
class Walk:
    """What one walker saw.

    Attributes:
        positions: (n_frames, n_atoms, 3), Å; the last one is where it stopped.
        features: (n_frames, size), mean gradient features.
        atomic: (n_frames, n_atoms), eV/Å.
        steps: taken.
        stopped: by uncertainty, not by the number of steps.
    """

    positions: FloatArray
    features: FloatArray
    atomic: FloatArray
    steps: int
    stopped: bool


def walk(model: Uncertain, starts: Sequence[Atoms], dynamics: Dynamics, rng: np.random.Generator) -> list[Walk]:
    """Move copies of one molecule from ``starts``, with new Maxwell velocities, until all have stopped."""
    is_hydrogen = (starts[0].numbers == 1)[None, :, None]
    masses = np.where(is_hydrogen, dynamics.hydrogen, starts[0].get_masses()[None, :, None])
    strengths = np.where(is_hydrogen, dynamics.bias_of_hydrogen, 1.0)
    kt, dt = units.kB * dynamics.temperature, dynamics.timestep * units.fs
    keep = np.exp(-dynamics.friction * dynamics.timestep)
    spread = np.sqrt(kt / masses)
    x = np.array([atoms.positions for atoms in starts])
    v = rng.standard_normal(x.shape) * spread
    n = len(starts)
    frames: list[list[tuple[FloatArray, FloatArray, FloatArray]]] = [[] for _ in starts]
    alive, taken, stopped = np.ones(n, dtype=bool), np.zeros(n, dtype=int), np.zeros(n, dtype=bool)
    squares = np.zeros((n, 2))
    for step in range(dynamics.steps + 1):
        last = step == dynamics.steps
        if step % dynamics.every and not last:
            forces, over = forces_at(model.potential, x), ~alive
        else:
            found = model.evaluate(x, dynamics.bias > 0)
            forces = found.forces + dynamics.every * _push(found, strengths, dynamics, squares)
            over = found.atomic.max(axis=1) > dynamics.limit
            kept = last or step % (dynamics.every * dynamics.record) == 0
            for index in np.flatnonzero(alive & (over | kept)):
                frames[index].append((x[index].copy(), found.features[index], found.atomic[index]))
        taken[alive] = step
        stopped |= alive & over
        alive &= ~over
        if last or not alive.any():
            break
        # The stopped ones stay where they are: every step takes all copies.
        move = alive[:, None, None] * dt
        v += (0.5 + 0.5 * (step > 0)) * move * forces / masses
        x = x + 0.5 * move * v
        v = keep * v + np.sqrt(1 - keep**2) * spread * rng.standard_normal(v.shape)
        x = x + 0.5 * move * v
    return [
        Walk(*(np.array(column) for column in zip(*seen, strict=True)), int(count), bool(end))
        for seen, count, end in zip(frames, taken, stopped, strict=True)
    ]


def _push(found: Surface, strengths: FloatArray, dynamics: Dynamics, squares: FloatArray) -> FloatArray | float:
    """Bias forces (n_walkers, n_atoms, 3); ``squares`` collects the norms of the steps so far."""
    if not dynamics.bias:
        return 0.0
    slopes = found.slopes * strengths
    squares[:, 0] += (found.forces**2).sum(axis=(1, 2))
    squares[:, 1] += (slopes**2).sum(axis=(1, 2))
    tau = dynamics.bias * np.sqrt(squares[:, 0] / np.maximum(squares[:, 1], 1e-300))
    push = tau[:, None, None] * slopes
    largest = np.linalg.norm(push, axis=2).max(axis=1)
    return push * np.minimum(1, dynamics.max_bias / np.maximum(largest, 1e-300))[:, None, None]


def choose(model: Uncertain, features: FloatArray, count: int) -> list[int]:
    """Indices of frames that together are the most uncertain (eq. 26): greedy largest determinant of the posterior.

    Args:
        model: what is known.
        features: (n_frames, size), mean gradient features.
        count: how many; fewer where the rest is known exactly.
    """
    half_slopes = 0.5 * model.whole.slope(features, np.array([_TOTAL] * len(features)))
    covariance = half_slopes @ features.T  # eq. 25
    left = np.diag(covariance).copy()
    floor = 1e-10 * left.max()
    rows, found = np.zeros((0, len(features))), list[int]()
    while len(found) < count and left.max() > floor:
        index = int(left.argmax())
        row = (covariance[index] - rows[:, index] @ rows) / np.sqrt(left[index])
        rows = np.concatenate([rows, row[None]])
        left = left - row**2
        left[index] = -1.0
        found.append(index)
    return found
