"""Uncertainty from the sensitivity of a model's atomic energies to its weights: one model, no committee.

    phi_i = dE_i/dtheta,      theta: weights and biases of the readout, the linear layers from atom features to E_i

For a layer z = W x + b, with x~ = (x, 1), the gradient is the outer product of dE_i/dz and x~ (eq. 18), so that no
backward pass per atom is needed, and its random projection to p numbers is a product of projections (eqs. 19-20):

    phi_i -> p^(-1/2) sum_l (U_out^l dE_i/dz^l) * (U_in^l x~^l),    U: standard normal, from a seed, kept with the state

From these, per atom: posterior (eq. 4) or distance (eq. 3), see `ideal.uncertainty.feature_metrics`; u_i is the root
of the value over what is usual for the atom's element among the learned environments. For a whole structure the same
with phi(S) = mean of phi_i (eq. 21) and learned structures.

Departures from the paper: the readout's weights enter as the network has them (no factors 1/sqrt(d) and 0.1, eq. 17);
distances are taken to environments of the same element; the message-passing weights are left out (their gradient per
atom is no outer product); the scale is the training set's, while conversion to eV/Å is left to
`ideal.uncertainty.calibration`, whose quantile is the paper's own scheme (section "Conformal prediction").

Zaverkin et al., npj Comput. Mater. 10, 83 (2024), doi:10.1038/s41524-024-01254-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

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
from ideal.uncertainty.feature_metrics import FeatureMetric, NearestMetric, PosteriorMetric, StrArray
from ideal.uncertainty.storage import read_folder, write_folder

if TYPE_CHECKING:
    from ideal.models.base import DifferentiablePotential

Measure = Literal["posterior", "distance"]

_KIND = "ideal.GradientFeatures"
_TOTAL = np.array(["total"])


class GradientFeatures:
    """u of every atom from one model's gradient features; satisfies `AtomwiseUncertainty` and `TotalUncertainty`.

    The features belong to the model's weights: after training, :meth:`rebuild` learns the structures anew; until then
    every evaluation raises.

    Args:
        potential: the model (`ideal.models.base.DifferentiablePotential`).
        measure: "posterior" (eq. 4) or "distance" (eq. 3).
        size: p, number of random projections.
        regularization: lambda^2 of eq. 4 over the mean squared length of the learned features.
        max_environments: features kept per element by "distance"; posterior keeps one matrix, whatever was learned.
        seed: seed of the random projections.

    Raises:
        ConfigError: a parameter is outside its set.
        UncertaintyError: the potential gives no readout gradients.

    Example:
        >>> from ase.build import bulk
        >>> from ideal.config import ModelConfig
        >>> from ideal.models.m3gnet import M3GNetPotential
        >>> hot = bulk("Li", cubic=True) * (2, 2, 2)
        >>> hot.rattle(0.1, seed=0)
        >>> model = M3GNetPotential.new(ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2), ["Li"], seed=0)
        >>> uncertainty = GradientFeatures(model, size=32)
        >>> uncertainty.update(hot)
        >>> round(float((uncertainty.atomic(hot) ** 2).mean()), 6)
        1.0
    """

    def __init__(
        self,
        potential: DifferentiablePotential,
        measure: Measure = "posterior",
        size: int = 256,
        regularization: float = 1e-8,
        max_environments: int = 2000,
        seed: int = 0,
    ) -> None:
        if measure not in get_args(Measure):
            raise ConfigError(f"measure {measure!r}: {did_you_mean(measure, get_args(Measure))}")
        for name, value, least in (("size", size, 1), ("max_environments", max_environments, 2)):
            if value < least:
                raise ConfigError(f"{name} {value}; give at least {least}")
        if not regularization > 0:
            raise ConfigError(f"regularization {regularization}; give a positive one")
        self.measure: Measure = measure
        self.size = int(size)
        self.regularization = float(regularization)
        self.max_environments = int(max_environments)
        self._potential = potential
        self._projections = _draw(_layer_shapes(potential), self.size, seed)
        self._environments = self._structures = self._empty_metric()
        self._watch = ModelWatch([potential])

    @property
    def potential(self) -> DifferentiablePotential:
        """The model."""
        return self._potential

    @property
    def counts(self) -> dict[str, int]:
        """Environments learned, per element of the model."""
        return dict.fromkeys(sorted(self._potential.elements), 0) | self._environments.counts

    def update(
        self, structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None = None
    ) -> None:
        """Learn the environments of structures, and the structures as wholes.

        Args:
            structures: one structure or several.
            masks: which atoms to learn, (n_atoms,) bool per structure; None: all. The whole structure is learned for
                :meth:`total` whatever its mask.

        Raises:
            UncertaintyError: a structure that the model cannot evaluate, a mask of the wrong shape, or a model that
                changed since the last update. Nothing has been learned then.
        """
        chosen = [(atoms, mask) for atoms, mask in structures_with_masks(structures, masks) if len(atoms)]
        self._check_current()
        if not chosen:
            return
        features = [self.features(atoms) for atoms, _ in chosen]
        learned = np.concatenate([f[mask] for f, (_, mask) in zip(features, chosen, strict=True)])
        groups = np.concatenate([_groups(atoms)[mask] for atoms, mask in chosen])
        self._environments, self._structures = (
            self._environments.learn(learned, groups),
            self._structures.learn(np.array([f.mean(axis=0) for f in features]), _TOTAL.repeat(len(features))),
        )

    def rebuild(
        self,
        structures: Atoms | Iterable[Atoms],
        masks: Iterable[np.ndarray | None] | np.ndarray | None = None,
        potential: DifferentiablePotential | None = None,
    ) -> None:
        """Forget what was learned and learn structures with the model as it is now, or with another one.

        Args:
            structures, masks: as for `update`.
            potential: a model of the same architecture that replaces the present one.

        Raises:
            UncertaintyError: as for `update`; the readout of the other model has other sizes.
        """
        if potential is not None:
            drawn = [(out.shape[1], into.shape[1]) for out, into in self._projections]
            found = _layer_shapes(potential)
            if found != drawn:
                raise UncertaintyError(
                    f"the new model's readout has layers {found}, the projections were drawn for {drawn}; make a new "
                    "GradientFeatures for it"
                )
            self._potential = potential
        self._environments = self._structures = self._empty_metric()
        self._watch = ModelWatch([self._potential])
        self.update(structures, masks)

    def features(self, atoms: Atoms) -> FloatArray:
        """Projected gradient features phi_i, (n_atoms, size), eV.

        Raises:
            UncertaintyError: an unknown element, positions that are not finite, coincident atoms, no atoms.
        """
        from ideal.models.differentiable import project_factors

        with model_errors():
            graph = self._potential.graph(atoms)
        factors = self._potential.readout_factors(graph, graph.vectors)
        result: FloatArray = project_factors(factors, self._projections).double().cpu().numpy()
        return result

    def atomic(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> FloatArray:
        """u of the centers.

        Args:
            atoms: the structure.
            centers: indices of the atoms wanted; all by default. The model's pass does not depend on their number.

        Returns:
            (n_centers,), dimensionless; infinite for elements of which nothing (by "distance": fewer than two different
            environments) has been learned.

        Raises:
            UncertaintyError: as for `features`; the model changed since its features were learned.
        """
        indices = center_indices(centers, len(atoms))
        chosen = np.arange(len(atoms)) if indices is None else indices
        metric, groups = self._environments, _groups(atoms)[chosen]
        squared, scale = self._squared(metric, atoms, chosen), metric.scale(groups)
        return np.sqrt(np.divide(squared, scale, out=np.full(len(chosen), np.inf), where=scale > 0))

    def squared(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> FloatArray:
        """The paper's own u_i^2, eq. 4 or 3, before scaling, eV²; arguments, returns and errors as for `atomic`."""
        indices = center_indices(centers, len(atoms))
        return self._squared(self._environments, atoms, np.arange(len(atoms)) if indices is None else indices)

    def squared_gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[FloatArray, FloatArray]:
        """Derivative of sum_i weights_i u_i^2 (see `AtomwiseUncertainty.squared_gradient`).

        Raises:
            UncertaintyError: as for `atomic`; an atom of non-zero weight has infinite u; weights that do not fit.
        """
        w = atom_weights(weights, len(atoms))
        self._check_current()
        if not len(atoms):
            return np.zeros((0, 3)), np.zeros((3, 3))
        metric, groups = self._environments, _groups(atoms)
        scale = metric.scale(groups)
        reason = "too few different environments of its element have been learned"
        refuse_infinite(atoms, np.where(scale > 0, 0, np.inf), w, reason)
        coefficient = np.divide(w, scale, out=np.zeros(len(atoms)), where=scale > 0)
        return self._pull_back(atoms, lambda features: coefficient[:, None] * metric.slope(features, groups))

    def total(self, atoms: Atoms) -> float:
        """u of the structure from the mean of its features (eq. 21), infinite where no structure has been learned.

        Raises:
            UncertaintyError: as for `atomic`; no atoms.
        """
        self._check_current()
        return self._total_of(self.features(atoms).mean(axis=0))

    def total_gradient(self, atoms: Atoms) -> tuple[float, FloatArray, FloatArray]:
        """u of the structure and its derivatives (see `TotalUncertainty.total_gradient`)."""
        self._check_current()
        scale = float(self._structures.scale(_TOTAL)[0])
        if not scale:
            raise UncertaintyError(
                "the uncertainty of a structure is infinite and has no gradient before different structures have been "
                "learned; call update() with structures of the training set"
            )
        values = []

        def slope(features: FloatArray) -> FloatArray:
            mean = features.mean(axis=0)
            values.append(self._total_of(mean))
            if values[0] == 0:
                return np.zeros_like(features)
            of_mean = self._structures.slope(mean[None], _TOTAL)[0] / (2 * values[0] * scale)
            return np.broadcast_to(of_mean / len(features), features.shape)

        gradient, strain = self._pull_back(atoms, slope)
        return values[0], gradient, strain

    def save(self, path: str | Path) -> None:
        """Write model, projections and features into the folder ``path`` (see `ideal.uncertainty.storage`).

        Raises:
            UncertaintyError: the model changed since its features were learned; the folder cannot be written.
        """
        self._check_current()
        arrays = {f"environments/{name}": array for name, array in self._environments.arrays().items()}
        arrays |= {f"structures/{name}": array for name, array in self._structures.arrays().items()}
        for index, (out, into) in enumerate(self._projections):
            arrays |= {f"projections/{index}.out": out, f"projections/{index}.in": into}
        header = {
            "measure": self.measure,
            "size": self.size,
            "regularization": self.regularization,
            "max_environments": self.max_environments,
        }
        write_folder(path, _KIND, [self._potential], arrays, header)

    @classmethod
    def load(
        cls, path: str | Path, load_potential: Callable[[Path], DifferentiablePotential] | None = None
    ) -> GradientFeatures:
        """Read what `save` wrote.

        Args:
            path: the folder.
            load_potential: reads the model's folder; `M3GNetPotential.load` by default.

        Raises:
            UncertaintyError: the folder is missing, damaged or not one of these.
        """
        if load_potential is None:
            from ideal.models.m3gnet import M3GNetPotential

            load_potential = M3GNetPotential.load
        models, arrays, header = read_folder(path, _KIND, load_potential)
        try:
            new = cls(models[0], **header)
            for index, (out, into) in enumerate(new._projections):
                stored = (arrays[f"projections/{index}.out"], arrays[f"projections/{index}.in"])
                if (stored[0].shape, stored[1].shape) != (out.shape, into.shape):
                    raise ValueError(f"projection {index} has the wrong shape")
                new._projections[index] = stored
        except (KeyError, IndexError, ValueError, TypeError, ConfigError) as error:
            raise UncertaintyError(f"{path} is damaged ({error}); restore it") from error
        new._environments = new._environments.restored(_below(arrays, "environments/"))
        new._structures = new._structures.restored(_below(arrays, "structures/"))
        return new

    def __repr__(self) -> str:
        return f"GradientFeatures(measure={self.measure!r}, size={self.size}, counts={self.counts})"

    def _empty_metric(self) -> FeatureMetric:
        if self.measure == "posterior":
            return PosteriorMetric(self.size, self.regularization)
        return NearestMetric(self.size, self.max_environments)

    def _check_current(self) -> None:
        """The learned features belong to the model as it is."""
        if self._watch.changed():
            if any(self.counts.values()):
                raise UncertaintyError(
                    "the model has changed since its features were learned; call rebuild() with the training structures"
                )
            self._watch = ModelWatch([self._potential])

    def _squared(self, metric: FeatureMetric, atoms: Atoms, chosen: np.ndarray) -> FloatArray:
        self._check_current()
        if not len(chosen):
            return np.zeros(0)
        return metric.squared(self.features(atoms)[chosen], _groups(atoms)[chosen])

    def _total_of(self, mean: FloatArray) -> float:
        scale = self._structures.scale(_TOTAL)[0]
        return float(np.sqrt(self._structures.squared(mean[None], _TOTAL)[0] / scale)) if scale else float("inf")

    def _pull_back(self, atoms: Atoms, slope: Callable[[FloatArray], FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Derivative of a function of the features by positions and strain; ``slope`` gives it by features."""
        import torch

        from ideal.models.differentiable import project_factors, pull_back

        with model_errors():
            graph = self._potential.graph(atoms)
        vectors = graph.vectors.detach().requires_grad_(True)
        features = project_factors(self._potential.readout_factors(graph, vectors, True), self._projections)
        of_features = slope(features.detach().double().cpu().numpy())
        if not vectors.shape[0]:
            return np.zeros((len(atoms), 3)), np.zeros((3, 3))
        cotangent = torch.from_numpy(np.ascontiguousarray(of_features)).to(features)
        (gradient,) = torch.autograd.grad(features, vectors, cotangent)
        return pull_back(graph, gradient)


def _layer_shapes(potential: DifferentiablePotential) -> list[tuple[int, int]]:
    """(n_out, n_in + 1) of the readout's layers."""
    from ideal.models.base import DifferentiablePotential

    if not isinstance(potential, DifferentiablePotential):
        raise UncertaintyError(
            f"a {type(potential).__name__} gives no readout gradients; use a model that satisfies "
            "ideal.models.base.DifferentiablePotential, such as M3GNetPotential"
        )
    graph = potential.graph(Atoms(potential.elements[0]))
    factors = potential.readout_factors(graph, graph.vectors)
    return [(factor.output.shape[1], factor.input.shape[1]) for factor in factors]


def _groups(atoms: Atoms) -> StrArray:
    return np.array(atoms.get_chemical_symbols(), dtype=np.str_)


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _draw(shapes: Sequence[tuple[int, int]], size: int, seed: int) -> list[tuple[FloatArray, FloatArray]]:
    """U_out (size, n_out) and U_in (size, n_in + 1) of every layer, with 1/sqrt(size) in U_out."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((size, outputs)) / np.sqrt(size), rng.standard_normal((size, inputs)))
        for outputs, inputs in shapes
    ]
