"""Disagreement of several models that were trained on the same data.

With M members, F_i^k the force of member k on atom i, F_i = (1/M) sum_k F_i^k and E likewise:

    sigma_i = sqrt( 1/(3M) sum_k |F_i^k - F_i|^2 )                eV/Å, per Cartesian component
    f_i     = (1/M) sum_k |F_i^k - F_i| / (|F_i| + epsilon)       relative, epsilon in eV/Å
    s(f)_i  = exp f_i / sum_j exp f_j                             criterion: max_i s(f)_i > 0.5
    sigma_E = sqrt( 1/M sum_k (E^k - E)^2 )                       eV, of the whole structure

sigma_i: aims-PAX (Henkes et al. 2025, eq. 1, before the maximum over atoms), Zaverkin et al. (2024, eq. 23), and
TrainsPot (Bidoggia et al. 2025, eq. 1, per atom); all divide by M, not M - 1. f_i and s: hyperactive learning (van der
Oord et al., npj Comput. Mater. 9, 168 (2023), doi:10.1038/s41524-023-01104-6, eqs. 6 and 8). sigma_E: its eq. 5 without
the noise term 1/lambda, TrainsPot eq. 1, Zaverkin eq. 22.

u_i is sigma_i (or f_i) divided by its root mean square over the learned environments of the same element, so that
the mean of u^2 over them is 1.

The gradient needs no Hessian: sum_i w_i u_i^2 depends on positions through the members' forces only, and with
G^k_i = dL/dF_i^k, its derivative is that of sum_k sum_i G^k_i . F_i^k at constant G: one double backward pass per
member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from ase import Atoms

from ideal.errors import ConfigError, UncertaintyError, did_you_mean
from ideal.records import FloatArray
from ideal.soap import center_indices
from ideal.uncertainty.arguments import (
    ModelWatch,
    atom_weights,
    model_errors,
    refuse_infinite,
    structures_with_masks,
)
from ideal.uncertainty.storage import read_folder, write_folder

if TYPE_CHECKING:
    from ideal.models.base import Evaluation, Potential

Measure = Literal["force_std", "relative_force"]

ROUNDING = 1e-6
"""Spreads (eV/Å, or relative) whose root mean square is below this are float32 rounding: nothing is known from them."""

_KIND = "ideal.ModelCommittee"


@dataclass(frozen=True)
class Spread:
    """What the members say of one structure.

    Attributes:
        energy: mean energy, eV.
        energy_std: sigma_E, eV.
        forces: (n_atoms, 3) mean forces, eV/Å.
        force_std: (n_atoms,) sigma_i, eV/Å.
        relative_force: (n_atoms,) f_i.
        stress: (6,) mean stress, eV/Å³, or None.
        stress_std: (6,) standard deviation of the stress, eV/Å³, or None.
    """

    energy: float
    energy_std: float
    forces: FloatArray
    force_std: FloatArray
    relative_force: FloatArray
    stress: FloatArray | None
    stress_std: FloatArray | None


class ModelCommittee:
    """u of every atom from the spread of several models; satisfies `AtomwiseUncertainty` and `TotalUncertainty`.

    An element is unknown (u infinite) until environments with a spread above rounding have been learned: in a perfect
    crystal all forces vanish by symmetry, and the members agree on that whatever they are worth. When a member changes,
    the scale learned with the old one is void: use :meth:`set_members` or :meth:`rebuild`.

    Args:
        members: at least two potentials of the same elements (`ideal.models.base.Potential`; gradients need
            `DifferentiablePotential`).
        measure: what u is made of: "force_std" (sigma_i) or "relative_force" (f_i).
        epsilon: of f_i, eV/Å.

    Raises:
        ConfigError: an unknown measure, epsilon not positive.
        UncertaintyError: fewer than two members, or members of different elements.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> from ideal.models.m3gnet import M3GNetPotential
        >>> size = ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2)
        >>> hot = bulk("Li", cubic=True) * (2, 2, 2)
        >>> hot.rattle(0.1, seed=0)
        >>> committee = ModelCommittee([M3GNetPotential.new(size, ["Li"], seed=seed) for seed in range(3)])
        >>> committee.update(hot)
        >>> round(float((committee.atomic(hot) ** 2).mean()), 6)
        1.0
    """

    def __init__(self, members: Sequence[Potential], measure: Measure = "force_std", epsilon: float = 0.2) -> None:
        if measure not in get_args(Measure):
            raise ConfigError(f"measure {measure!r}: {did_you_mean(measure, get_args(Measure))}")
        if not epsilon > 0:
            raise ConfigError(f"epsilon {epsilon} eV/Å; give a positive one (0.2 is usual)")
        self.measure: Measure = measure
        self.epsilon = float(epsilon)
        self._sums: dict[str, tuple[int, float]] = {}
        self.set_members(members)

    @property
    def members(self) -> tuple[Potential, ...]:
        """The models."""
        return self._members

    @property
    def counts(self) -> dict[str, int]:
        """Environments learned, per element of the members."""
        return {symbol: count for symbol, (count, _) in self._sums.items()}

    @property
    def scales(self) -> dict[str, float]:
        """Root mean square of the measure over the learned environments, per element; 0 where u is infinite."""
        rms = {symbol: (total / count) ** 0.5 if count else 0.0 for symbol, (count, total) in self._sums.items()}
        return {symbol: value if value > ROUNDING else 0.0 for symbol, value in rms.items()}

    def set_members(self, members: Sequence[Potential]) -> None:
        """Replace the models. Counts and scales, which belong to the old ones, start anew.

        Raises:
            UncertaintyError: fewer than two members, or members of different elements.
        """
        members = tuple(members)
        if len(members) < 2:
            raise UncertaintyError(f"a committee of {len(members)} has no spread; give at least two members")
        for index, member in enumerate(members):
            if set(member.elements) != set(members[0].elements):
                raise UncertaintyError(
                    f"member {index} knows {', '.join(sorted(member.elements))}, member 0 knows "
                    f"{', '.join(sorted(members[0].elements))}; all members need the same elements"
                )
        self._members = members
        self._forget()

    def update(
        self, structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None = None
    ) -> None:
        """Count the environments of structures and let the scale follow their spread.

        Args:
            structures: one structure or several.
            masks: which atoms to learn, (n_atoms,) bool per structure; None: all.

        Raises:
            UncertaintyError: a structure that the members cannot evaluate, a mask of the wrong shape, or members that
                changed since the last update. Nothing has been learned then.
        """
        chosen = [(atoms, mask) for atoms, mask in structures_with_masks(structures, masks) if len(atoms)]
        self._check_current()
        sums = dict(self._sums)
        for (atoms, mask), spread in zip(chosen, self._spreads([atoms for atoms, _ in chosen]), strict=True):
            squared = self._measured(spread) ** 2
            for symbol in set(atoms.symbols):
                here = mask & (atoms.symbols == symbol)
                count, total = sums[symbol]
                sums[symbol] = (count + int(here.sum()), total + float(squared[here].sum()))
        self._sums = sums

    def rebuild(
        self, structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None = None
    ) -> None:
        """Forget what was learned and learn structures with the members as they are now; arguments as for `update`."""
        self._forget()
        self.update(structures, masks)

    def atomic(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> FloatArray:
        """u of the centers.

        Args:
            atoms: the structure.
            centers: indices of the atoms wanted; all by default. The cost does not depend on their number.

        Returns:
            (n_centers,), dimensionless; infinite for elements without a scale.

        Raises:
            UncertaintyError: an unknown element, positions that are not finite, coincident atoms; members that changed
                since the scale was learned.
        """
        indices = center_indices(centers, len(atoms))
        self._check_current()
        if not len(atoms):
            return np.zeros(0)
        u = self._scaled(atoms, self._measured(self.spread(atoms)))
        return u if indices is None else u[indices]

    def spread(self, atoms: Atoms) -> Spread:
        """Means and standard deviations of energy, forces and stress over the members, in their units.

        Raises:
            UncertaintyError: as for `atomic`; no atoms.
        """
        return self._spreads([atoms])[0]

    def squared_gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[FloatArray, FloatArray]:
        """Derivative of sum_i weights_i u_i^2 (see `AtomwiseUncertainty.squared_gradient`).

        Raises:
            UncertaintyError: as for `atomic`; an atom of non-zero weight has infinite u; weights that do not fit; a
                member that is no `DifferentiablePotential`.
        """
        from ideal.models.base import DifferentiablePotential
        from ideal.models.differentiable import force_product_gradient

        w = atom_weights(weights, len(atoms))
        gradient, strain = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        self._check_current()
        if not len(atoms):
            return gradient, strain
        with model_errors():
            forces = np.array([member.evaluate(atoms).forces for member in self._members])
        scale = self._scale_of(atoms)
        refuse_infinite(atoms, np.where(scale > 0, 0, np.inf), w, "no spread of its element has been learned")
        active = w != 0
        coefficient = np.zeros(len(atoms))
        coefficient[active] = w[active] / scale[active] ** 2
        for member, slope in zip(self._members, coefficient[:, None] * self._squared_slope(forces), strict=True):
            if not isinstance(member, DifferentiablePotential):
                raise UncertaintyError(
                    f"a {type(member).__name__} cannot be derived twice; gradients of a committee need members that "
                    "satisfy ideal.models.base.DifferentiablePotential, such as M3GNetPotential"
                )
            of_positions, of_strain = force_product_gradient(member, atoms, slope)
            gradient += of_positions
            strain += of_strain
        return gradient, strain

    def total(self, atoms: Atoms) -> float:
        """sigma_E of the structure, eV; errors as for `spread`."""
        return self.spread(atoms).energy_std

    def total_gradient(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """sigma_E (eV), its derivative by positions (eV/Å) and strain (eV): no more than the members' forces.

        d(sigma_E)/dx = 1/(M sigma_E) sum_k (E^k - E) dE^k/dx. See `TotalUncertainty.total_gradient`.
        """
        complete = atoms
        if any(atoms.pbc) and atoms.cell.rank < 3:
            complete = atoms.copy()
            complete.cell = atoms.cell.complete()
        with model_errors():
            evaluations = [member.evaluate(complete) for member in self._members]
        deviation = np.array([evaluation.energy for evaluation in evaluations])
        deviation -= deviation.mean()
        sigma = float(np.sqrt((deviation**2).mean()))
        if sigma == 0:
            return 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
        factors = deviation / (len(deviation) * sigma)
        gradient = -np.einsum("k,kia->ia", factors, np.array([evaluation.forces for evaluation in evaluations]))
        strains = [_strain_derivative(complete, evaluation) for evaluation in evaluations]
        return sigma, gradient, np.einsum("k,kab->ab", factors, np.array(strains))

    def save(self, path: str | Path) -> None:
        """Write members and scales into the folder ``path`` (see `ideal.uncertainty.storage`).

        Raises:
            UncertaintyError: members that changed since the scale was learned; the folder cannot be written.
        """
        self._check_current()
        symbols = sorted(self._sums)
        arrays = {
            "counts": np.array([self._sums[symbol][0] for symbol in symbols], dtype=np.int64),
            "sums": np.array([self._sums[symbol][1] for symbol in symbols], dtype=np.float64),
        }
        header = {"elements": symbols, "measure": self.measure, "epsilon": self.epsilon}
        write_folder(path, _KIND, self._members, arrays, header)

    @classmethod
    def load(cls, path: str | Path, load_member: Callable[[Path], Potential] | None = None) -> ModelCommittee:
        """Read what `save` wrote.

        Args:
            path: the folder.
            load_member: reads a member's folder; `M3GNetPotential.load` by default.

        Raises:
            UncertaintyError: the folder is missing, damaged or not one of these.
        """
        if load_member is None:
            from ideal.models.m3gnet import M3GNetPotential

            load_member = M3GNetPotential.load
        members, arrays, header = read_folder(path, _KIND, load_member)
        try:
            new = cls(members, header["measure"], header["epsilon"])
            counts, sums = arrays["counts"].tolist(), arrays["sums"].tolist()
            new._sums = {s: (n, total) for s, n, total in zip(header["elements"], counts, sums, strict=True)}
        except (KeyError, ValueError, TypeError, ConfigError) as error:
            raise UncertaintyError(f"{path} is damaged ({error}); restore it") from error
        return new

    def __repr__(self) -> str:
        return f"ModelCommittee({len(self._members)} members, measure={self.measure!r}, counts={self.counts})"

    def _forget(self) -> None:
        self._sums = dict.fromkeys(sorted(self._members[0].elements), (0, 0.0))
        self._watch = ModelWatch(self._members)

    def _check_current(self) -> None:
        """The scales belong to the members as they are."""
        if self._watch.changed():
            if any(self.counts.values()):
                raise UncertaintyError(
                    "the members have changed since their spread was learned; call rebuild() with the training "
                    "structures, or set_members()"
                )
            self._watch = ModelWatch(self._members)

    def _spreads(self, structures: Sequence[Atoms]) -> list[Spread]:
        if not structures:
            return []
        with model_errors():
            results = [member.evaluate_batch(structures) for member in self._members]
        return [_spread(evaluations, self.epsilon) for evaluations in zip(*results, strict=True)]

    def _measured(self, spread: Spread) -> FloatArray:
        return spread.force_std if self.measure == "force_std" else spread.relative_force

    def _scale_of(self, atoms: Atoms) -> FloatArray:
        scales = self.scales
        return np.array([scales[symbol] for symbol in atoms.symbols])

    def _scaled(self, atoms: Atoms, measured: FloatArray) -> FloatArray:
        scale = self._scale_of(atoms)
        u = np.full(len(atoms), np.inf)
        np.divide(measured, scale, out=u, where=scale > 0)
        return u

    def _squared_slope(self, forces: FloatArray) -> FloatArray:
        """(M, n_atoms, 3): derivative of the measure's square by every member's force on that atom."""
        n = len(forces)
        mean = forces.mean(axis=0)
        deviation = forces - mean
        if self.measure == "force_std":
            return np.asarray(2 / (3 * n) * deviation)
        size = np.linalg.norm(mean, axis=1)[:, None]
        denominator = size + self.epsilon
        directions = _unit(deviation)
        relative = np.linalg.norm(deviation, axis=2).mean(axis=0)[:, None] / denominator
        slope = (directions - directions.mean(axis=0) - relative * _unit(mean)) / (n * denominator)
        return np.asarray(2 * relative * slope)


def softmax_criterion(relative_force: FloatArray) -> FloatArray:
    """s(f) of hyperactive learning, eq. 8: (n_atoms,) shares that sum to 1; its criterion is max(s) > 0.5.

    The sum runs over all atoms: where one of N atoms has f and the others f0, s = 1 / (1 + (N - 1) exp(f0 - f)), and
    0.5 is reached at f - f0 = ln(N - 1). It is a criterion for cells of tens of atoms; for large frames use f itself.

    Example:
        >>> softmax_criterion(np.array([3.0, 0.1, 0.1])).round(3).tolist()
        [0.901, 0.05, 0.05]
    """
    if not len(relative_force):
        return np.zeros(0)
    exponentials = np.exp(relative_force - np.max(relative_force))
    result: FloatArray = exponentials / exponentials.sum()
    return result


def _spread(evaluations: Sequence[Evaluation], epsilon: float) -> Spread:
    energies = np.array([evaluation.energy for evaluation in evaluations])
    forces = np.array([evaluation.forces for evaluation in evaluations])
    stresses = [evaluation.stress for evaluation in evaluations if evaluation.stress is not None]
    stress: Any = np.array(stresses) if len(stresses) == len(evaluations) else None
    mean = forces.mean(axis=0)
    lengths = np.linalg.norm(forces - mean, axis=2)
    return Spread(
        energy=float(energies.mean()),
        energy_std=float(energies.std()),
        forces=mean,
        force_std=np.sqrt((lengths**2).mean(axis=0) / 3),
        relative_force=lengths.mean(axis=0) / (np.linalg.norm(mean, axis=1) + epsilon),
        stress=None if stress is None else stress.mean(axis=0),
        stress_std=None if stress is None else stress.std(axis=0),
    )


def _unit(vectors: FloatArray) -> FloatArray:
    """Vectors of length 1 along the last axis; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _strain_derivative(atoms: Atoms, evaluation: Evaluation) -> FloatArray:
    """dE/dstrain (3, 3), eV; without periodic axes from positions and forces alone."""
    if evaluation.stress is not None:
        xx, yy, zz, yz, xz, xy = evaluation.stress * atoms.get_volume()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    product = -atoms.positions.T @ evaluation.forces
    result: FloatArray = 0.5 * (product + product.T)
    return result
