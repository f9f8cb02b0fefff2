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
The library's samplers move one structure each; this file exists for the sake of batches, and uses the library's
features and metric.

Npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms, units
from moments import MomentPotential, factors_of

from ideal.models.differentiable import project_factors
from ideal.models.graph import collate
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
        graph = self.potential.graph(Atoms(self.potential.elements[0]))
        self._projections = [
            (
                rng.standard_normal((self.size, factor.output.shape[1])) / np.sqrt(self.size),
                rng.standard_normal((self.size, factor.input.shape[1])),
            )
            for factor in self.potential.readout_factors(graph, graph.vectors)
        ]

    def learn(self, labels: Sequence[Label]) -> None:
        """Forget everything and learn these structures with the model as it is."""
        features = [self._features(each.atoms) for each in labels]
        symbols = [symbol for each in labels for symbol in each.atoms.get_chemical_symbols()]
        empty = PosteriorMetric(self.size, _REGULARIZATION)
        self.atoms = empty.learn(np.concatenate(features), np.array(symbols))
        self.whole = empty.learn(np.array([f.mean(axis=0) for f in features]), np.array([_TOTAL] * len(features)))

    def calibrate(self, labels: Sequence[Label], alpha: float = 0.05) -> None:
        """Set ``factor`` by the conformal quantile of force error over uncertainty on labels that were not learned."""
        self.factor = 1.0
        found = self.evaluate([each.atoms for each in labels], biased=False)
        errors = np.sqrt(((found.forces - np.array([each.forces for each in labels])) ** 2).mean(axis=-1)).ravel()
        self.factor = conformal_scale(found.atomic.ravel(), errors, np.arange(errors.size), 1 - alpha)

    def forces(self, molecules: Sequence[Atoms]) -> FloatArray:
        """(n_walkers, n_atoms, 3), eV/Å: all that a step without bias needs."""
        batch = collate([self.potential.graph(atoms) for atoms in molecules])
        vectors = batch.vectors.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.potential.atomic_energies(batch, vectors, twice=False).sum(), vectors)
        return _to_atoms(batch.source, batch.target, slope, len(batch.types)).reshape(len(molecules), -1, 3)

    def evaluate(self, molecules: Sequence[Atoms], biased: bool) -> Surface:
        """Energies, forces, uncertainties of copies of one molecule, and with ``biased`` the uncertainty's slope."""
        potential, n, size = self.potential, len(molecules), len(molecules[0])
        batch = collate([potential.graph(atoms) for atoms in molecules])
        vectors = batch.vectors.detach().requires_grad_(True)
        features = potential.features(batch, vectors)
        energies = potential.energies_of(features, batch.types)
        (slope,) = torch.autograd.grad(energies.sum(), vectors, retain_graph=biased)
        forces = _to_atoms(batch.source, batch.target, slope, n * size).reshape(n, size, 3)
        with torch.set_grad_enabled(biased):
            known = features if biased else features.detach()
            factors = factors_of(potential.network, known, batch.types, potential.energy_scale)
            projected = project_factors(factors, self._projections)
        phi = projected.detach().double().numpy()
        symbols = np.array(molecules[0].get_chemical_symbols() * n)
        scale = self.atoms.scale(symbols)
        u = np.sqrt(self.atoms.squared(phi, symbols) / scale).reshape(n, size)
        slopes = np.zeros((n, size, 3))
        if biased:
            mean = np.sqrt((u**2).mean(axis=1)).repeat(size)
            towards = self.atoms.slope(phi, symbols) / (2 * size * mean * scale)[:, None]
            (uphill,) = torch.autograd.grad(projected, vectors, torch.from_numpy(towards).to(projected))
            slopes = -_to_atoms(batch.source, batch.target, uphill, n * size).reshape(n, size, 3)
        per_molecule = energies.detach().double().numpy().reshape(n, size).sum(axis=1)
        return Surface(per_molecule, forces, slopes, self.factor * u, phi.reshape(n, size, -1).mean(axis=1))

    def _features(self, atoms: Atoms) -> FloatArray:
        graph = self.potential.graph(atoms)
        factors = self.potential.readout_factors(graph, graph.vectors)
        rows: FloatArray = project_factors(factors, self._projections).double().numpy()
        return rows


def _to_atoms(source: torch.Tensor, target: torch.Tensor, slope: torch.Tensor, n_atoms: int) -> FloatArray:
    """Minus the gradient by positions (n_atoms, 3) from that by edge vectors."""
    slope = slope.double()
    forces = slope.new_zeros(n_atoms, 3).index_add_(0, source, slope).index_add_(0, target, slope, alpha=-1)
    result: FloatArray = forces.numpy()
    return result


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
    """

    temperature: float
    bias: float = 0.0
    timestep: float = 2.0
    friction: float = 0.002
    steps: int = 1000
    limit: float = 2.0
    every: int = 2
    record: int = 2
    max_bias: float = 5.0
    hydrogen: float = 4.0


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
    molecules = [atoms.copy() for atoms in starts]
    heavy = (molecules[0].numbers > 1)[None, :, None]
    masses = np.where(heavy, molecules[0].get_masses()[None, :, None], dynamics.hydrogen)
    kt, dt = units.kB * dynamics.temperature, dynamics.timestep * units.fs
    keep = np.exp(-dynamics.friction * dynamics.timestep)
    x = np.array([atoms.positions for atoms in molecules])
    v = rng.standard_normal(x.shape) * np.sqrt(kt / masses)
    alive = np.arange(len(molecules))
    frames: list[list[tuple[FloatArray, FloatArray, FloatArray]]] = [[] for _ in molecules]
    taken, stopped = np.zeros(len(molecules), dtype=int), np.zeros(len(molecules), dtype=bool)
    squares = np.zeros((len(molecules), 2))
    for step in range(dynamics.steps + 1):
        for index in alive:
            molecules[index].positions = x[index]
        moving = [molecules[index] for index in alive]
        last = np.full(len(alive), step == dynamics.steps)
        if step % dynamics.every and not last.any():
            forces = model.forces(moving)
        else:
            found = model.evaluate(moving, dynamics.bias > 0)
            forces = found.forces + dynamics.every * _push(found, heavy, dynamics, squares, alive)
            over = found.atomic.max(axis=1) > dynamics.limit
            last |= over
            for row, index in enumerate(alive):
                if step % (dynamics.every * dynamics.record) == 0 or last[row]:
                    frames[index].append((x[index].copy(), found.features[row], found.atomic[row]))
            stopped[alive] = over
        if step:
            v[alive] += 0.5 * dt * forces / masses
        taken[alive] = step
        alive, forces = alive[~last], forces[~last]
        if not alive.size:
            break
        v[alive] += 0.5 * dt * forces / masses
        x[alive] += 0.5 * dt * v[alive]
        noise = rng.standard_normal(v[alive].shape) * np.sqrt(kt / masses)
        v[alive] = keep * v[alive] + np.sqrt(1 - keep**2) * noise
        x[alive] += 0.5 * dt * v[alive]
    return [
        Walk(*(np.array(column) for column in zip(*seen, strict=True)), int(n), bool(end))
        for seen, n, end in zip(frames, taken, stopped, strict=True)
    ]


def _push(
    found: Surface, heavy: FloatArray, dynamics: Dynamics, squares: FloatArray, alive: FloatArray
) -> FloatArray | float:
    """Bias forces (n_alive, n_atoms, 3); ``squares`` collects the norms of the steps so far."""
    if not dynamics.bias:
        return 0.0
    slopes = found.slopes * heavy
    squares[alive, 0] += (found.forces**2).sum(axis=(1, 2))
    squares[alive, 1] += (slopes**2).sum(axis=(1, 2))
    tau = dynamics.bias * np.sqrt(squares[alive, 0] / np.maximum(squares[alive, 1], 1e-300))
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
