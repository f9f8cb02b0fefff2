"""Mahalanobis distance of SOAP descriptors to the training environments of the same element.

Per central element, with mean and covariance Sigma of the training descriptors v:

    Unc_i = (v_i - mean)^T (Sigma + lambda I)^-1 (v_i - mean)       lambda = ridge trace(Sigma)
    u_i   = sqrt(Unc_i / d_eff)                                     d_eff = trace[Sigma (Sigma + lambda I)^-1]

The ridge matters: SOAP covariances are rank deficient, and without it the null directions diverge. u^2 averages to 1
over the training set ((n - 1)/n, exactly) whatever n_max, l_max and ridge are; its tails are heavier than chi-squared,
so thresholds come from held-out quantiles. Unc is the paper's quantity (Kong et al. 2023), which has one distribution
over all elements (``per_species=False``).

Many features: the inverse is applied as low rank + residual, whose relative error is bounded for every environment
(equations: ``csrc/include/ideal/metric.hpp``; measured errors: ``docs/decisions/0007-metric.md``).

Means and scatter matrices merge by the rule of Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983),
doi:10.1080/00031305.1983.10483115.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from ideal import _core
from ideal.errors import ConfigError, UncertaintyError
from ideal.soap import SoapPowerSpectrum, center_indices
from ideal.uncertainty.arguments import atom_weights, per_atom, structures_with_masks
from ideal.uncertainty.storage import write_file

Array = np.ndarray[Any, np.dtype[np.float64]]

_FORMAT = "ideal.SoapMahalanobis"
_VERSION = 1
_ALL = "all"


class SoapMahalanobis:
    """u and Unc of every atom, their gradients, and the statistics behind them.

    An element with fewer than two training environments, or whose environments are all equal to 12 digits (a perfect
    crystal), has u = infinity.

    Evaluations may run in several threads while another one learns.

    Args:
        soap: the descriptor; its ``threads`` holds here too.
        ridge: lambda as a multiple of trace(Sigma), positive.
        per_species: True: one distribution per element. False: one over all elements, the paper's definition, for
            comparison; an element never seen is then judged by the others' environments.
        metric: ``"full"``: exact. ``"low_rank"``: leading directions and one residual; u is within 10 % of the full
            one for any environment, and 0.1 % off as a rule. ``"auto"``: low rank above 500 features where that is
            cheaper, else full.
        rank: directions that ``"low_rank"`` keeps; None: as many as its error bound takes.

    Raises:
        ConfigError: the ridge is not positive, the metric has another name, or the rank is not in 1 ... n_features.

    Example:
        >>> from ase.build import bulk
        >>> hot = bulk("Li", cubic=True) * (3, 3, 3)
        >>> hot.rattle(0.1, seed=0)
        >>> uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"], n_max=4, l_max=3))
        >>> uncertainty.update(hot)
        >>> round(float((uncertainty.atomic(hot) ** 2).mean()), 2)
        0.98
    """

    def __init__(
        self,
        soap: SoapPowerSpectrum,
        ridge: float = 1e-8,
        per_species: bool = True,
        metric: str = "auto",
        rank: int | None = None,
    ) -> None:
        if rank is not None and not 1 <= rank <= soap.n_features:
            raise ConfigError(f"rank = {rank} is not valid; use 1 ... {soap.n_features} (n_features), or None")
        if rank is not None and metric == "full":
            raise ConfigError(f"rank = {rank} has no meaning for metric='full'; use metric='low_rank', or rank=None")
        self.soap = soap
        self.ridge = float(ridge)
        self.per_species = bool(per_species)
        self.metric = str(metric)
        self.rank = None if rank is None else int(rank)
        self._core = _core.SoapMahalanobis(
            soap=soap._core,
            ridge=self.ridge,
            per_species=self.per_species,
            metric=self.metric,
            rank=self.rank or 0,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Environments learned, per element of the descriptor."""
        return {symbol: int(self._core.count(index)) for index, symbol in enumerate(self.soap.species)}

    @property
    def effective_dimensions(self) -> dict[str, float]:
        """d_eff per element; 0 where u is infinite."""
        return {symbol: float(self._core.metric(index)[0]) for index, symbol in enumerate(self.soap.species)}

    @property
    def ranks(self) -> dict[str, int]:
        """Directions that the metric of each element keeps; n_features for a full one, 0 where u is infinite."""
        return {symbol: int(self._core.metric(index)[1]) for index, symbol in enumerate(self.soap.species)}

    @property
    def error_bounds(self) -> dict[str, tuple[float, float]]:
        """Per element, the least and the largest u / u_full that any environment can have; (1, 1) for a full metric."""
        bounds = {}
        for index, symbol in enumerate(self.soap.species):
            _, _, lower, upper = self._core.metric(index)
            bounds[symbol] = (float(np.sqrt(lower)), float(np.sqrt(upper)))
        return bounds

    def update(
        self, structures: Atoms | Iterable[Atoms], masks: Iterable[np.ndarray | None] | np.ndarray | None = None
    ) -> None:
        """Learn the environments of structures.

        Args:
            structures: one structure or several.
            masks: which atoms to learn, (n_atoms,) bool per structure; None: all. For one structure, its mask alone
                will do.

        Raises:
            UncertaintyError: as :meth:`SoapPowerSpectrum.create`: structures before the broken one have been learned,
                nothing of it has. Or a mask of the wrong shape: nothing has been learned.
        """
        pending: list[tuple[Any, ...]] = []
        try:
            for atoms, mask in structures_with_masks(structures, masks):
                pending.append((*self.soap.arrays(atoms), np.flatnonzero(mask).astype(np.int64)))
        finally:  # also what came before a structure that is refused
            self._core.update(pending, threads=self.soap.threads)

    def condition(self, atoms: Atoms, mask: np.ndarray, noise: float) -> None:
        """Learn environments so firmly that their repeats are known, however much has been learned before.

        u is relative to the distribution: among n environments one more of a rare kind hardly lowers the u of its
        repeats. Here each of the mask counts n / (d_eff noise²) times (n of its element; at least once). With
        k_ij = (v_i - mean)^T (Sigma + lambda I)^-1 (v_j - mean) / d_eff that is

            u_j² -> u_j² - k_ij² / (u_i² + noise²)

        for each, up to a shift of mean and ridge: the posterior variance of a Gaussian process of covariance k that
        has been observed at i with noise. A repeat (j = i) ends below ``noise``.

        Args:
            atoms: the structure.
            mask: (n_atoms,) bool, the environments to learn.
            noise: u that a repeat may not exceed afterwards, positive.

        Raises:
            UncertaintyError: as :meth:`update`, or the noise is not positive.
        """
        if not noise > 0:
            raise UncertaintyError(f"noise {noise} is not positive; give the threshold")
        counts, dimensions = self.counts, self.effective_dimensions
        symbols = np.array(atoms.get_chemical_symbols())
        for symbol in sorted(set(symbols[np.asarray(mask, dtype=bool)])):
            dimension = dimensions.get(symbol, 0.0)
            weight = max(1, round(counts[symbol] / (dimension * noise**2))) if dimension else 1
            part = self._empty()
            part.update(atoms, masks=np.asarray(mask, dtype=bool) & (symbols == symbol))
            while weight:  # weight times, by doubling
                if weight & 1:
                    self.merge(part)
                weight >>= 1
                if weight:
                    part.merge(part.copy())

    def atomic(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """u of the centers.

        Args:
            atoms: the structure.
            centers: indices of the atoms wanted; all by default. The cost goes with their number.

        Returns:
            (n_centers,), dimensionless; infinite for elements without statistics.

        Raises:
            UncertaintyError: as :meth:`SoapPowerSpectrum.create`.
        """
        result: Array = self._core.atomic(
            *self.soap.arrays(atoms), centers=center_indices(centers, len(atoms)), threads=self.soap.threads
        )
        return result

    def screen(self, atoms: Atoms, threshold: float, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """u of the centers, exact near a threshold and cheaper elsewhere.

        ``screen(atoms, t) > t`` is ``atomic(atoms) > t``, atom by atom. With more than 500 features the values away
        from the threshold come from float32 products (a low-rank metric; relative error 1e-6) or from a low-rank metric
        in place of the full one (0.1 %, at most 10 %); whatever an error bound cannot tell from the threshold is
        evaluated again. With fewer features nothing would be gained, and all values are exact.

        Args:
            atoms: the structure.
            threshold: on u; not NaN.
            centers: as for :meth:`atomic`.

        Returns:
            (n_centers,), dimensionless; infinite for elements without statistics.

        Raises:
            UncertaintyError: as :meth:`SoapPowerSpectrum.create`; the threshold is NaN.
        """
        if np.isnan(threshold):
            raise UncertaintyError("the threshold must not be NaN")
        result: Array = self._core.screen(
            *self.soap.arrays(atoms),
            threshold=float(threshold),
            centers=center_indices(centers, len(atoms)),
            threads=self.soap.threads,
        )
        return result

    def squared_mahalanobis(self, atoms: Atoms, centers: Sequence[int] | np.ndarray | None = None) -> Array:
        """Unc of the centers, d_eff u^2; arguments, returns and errors as :meth:`atomic`."""
        result: Array = self._core.squared_mahalanobis(
            *self.soap.arrays(atoms), centers=center_indices(centers, len(atoms)), threads=self.soap.threads
        )
        return result

    def gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[Array, Array]:
        """Derivative of L = sum_i weights_i Unc_i.

        Args:
            atoms: the structure.
            weights: (n_atoms,); 1 by default. Atoms of weight 0 cost nothing.

        Returns:
            dL/d(positions) (n_atoms, 3), 1/Å, and dL/d(strain) (3, 3), symmetric, for r -> (1 + strain) r.

        Raises:
            UncertaintyError: as :meth:`SoapPowerSpectrum.create`; an atom of non-zero weight has infinite Unc; weights
                of the wrong shape or not finite.
        """
        arrays = self.soap.arrays(atoms)
        w = atom_weights(weights, len(atoms))
        self._refuse_infinite(atoms, w != 0)
        gradient, strain = self._core.gradient(*arrays, weights=w, threads=self.soap.threads)
        return gradient, strain

    def squared_gradient(self, atoms: Atoms, weights: np.ndarray | None = None) -> tuple[Array, Array]:
        """Derivative of sum_i weights_i u_i^2; arguments, returns and errors as :meth:`gradient`."""
        dimensions = self.effective_dimensions
        scale = np.array([dimensions.get(symbol) or 1.0 for symbol in atoms.symbols])
        return self.gradient(atoms, atom_weights(weights, len(atoms)) / scale)

    def hinge(
        self,
        atoms: Atoms,
        floor: float | np.ndarray,
        mask: np.ndarray | None = None,
        width: float | np.ndarray = 0.0,
    ) -> tuple[float, Array, Array, Array]:
        """What exceeds a threshold, and its derivative, in one pass.

            L = sum_i mask_i phi(u_i^2 - floor_i),    phi(x) = x^2 / (2 width_i) for 0 < x < width_i,
                                                      phi(x) = x - width_i / 2   beyond,   0 below

        With width 0 this is max(0, x), whose derivative at x = 0 is taken as 0. Only atoms above their floor cost a
        backward pass.

        Args:
            atoms: the structure.
            floor: threshold on u^2 (not u), one number or (n_atoms,).
            mask: (n_atoms,) bool, or weights not below 0; None: all atoms count.
            width: over how much of u^2 the corner is rounded, one number or (n_atoms,), not below 0.

        Returns:
            L, dL/d(positions) (n_atoms, 3) in 1/Å, dL/d(strain) (3, 3), and u (n_atoms,) of all atoms, masked or not.

        Raises:
            UncertaintyError: as :meth:`SoapPowerSpectrum.create`; an atom that counts has infinite u.
        """
        arrays = self.soap.arrays(atoms)
        floors = per_atom(floor, len(atoms), "floor")
        if np.isnan(floors).any():
            raise UncertaintyError("floor must not be NaN")
        weights = per_atom(1.0 if mask is None else mask, len(atoms), "mask")
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise UncertaintyError("mask must hold booleans or finite weights that are not negative")
        widths = per_atom(width, len(atoms), "width")
        if not (np.isfinite(widths) & (widths >= 0)).all():
            raise UncertaintyError("width must hold finite numbers that are not negative")
        self._refuse_infinite(atoms, (weights != 0) & (floors < np.inf))
        value, gradient, strain, u = self._core.hinge(
            *arrays, floor=floors, weights=weights, width=widths, threads=self.soap.threads
        )
        return value, gradient, strain, u

    def merge(self, other: SoapMahalanobis) -> None:
        """Learn everything the other one has learned.

        Raises:
            UncertaintyError: the other one uses a different descriptor, or another ``per_species``.
        """
        if other.soap != self.soap:
            raise UncertaintyError(
                f"cannot merge statistics of {other.soap!r} into those of {self.soap!r}; "
                "make both with the same descriptor"
            )
        self._core.merge(other._core)

    def copy(self) -> SoapMahalanobis:
        """An independent copy."""
        new = self._empty()
        new._core = self._core.copy()
        return new

    def _empty(self) -> SoapMahalanobis:
        return SoapMahalanobis(self.soap, self.ridge, self.per_species, self.metric, self.rank)

    @property
    def _names(self) -> list[str]:
        """Of the distributions."""
        return self.soap.species if self.per_species else [_ALL]

    def statistics(self, symbol: str) -> tuple[int, Array, Array]:
        """What has been learned of one element; of all elements together where ``per_species`` is False.

        Returns:
            The number of environments, their mean (n_features,), and their scatter matrix
            sum (v - mean)(v - mean)^T (n_features, n_features).

        Raises:
            UncertaintyError: the descriptor does not know the element.
        """
        if symbol not in self.soap.species:
            raise UncertaintyError(f"no statistics of {symbol!r}; the descriptor knows {', '.join(self.soap.species)}")
        count, mean, scatter = self._core.state(self.soap.species.index(symbol) if self.per_species else 0)
        return int(count), mean, scatter

    def save(self, path: str | Path) -> None:
        """Write descriptor, metric and statistics to one safetensors file, which replaces an old one in a single step.

        Per element X seen: ``X.count`` (1,) int64, ``X.mean`` (n_features,) and ``X.scatter``
        (n_features, n_features) float64; the parameters stand in the metadata as JSON. Where ``per_species`` is False,
        mean and scatter are those of ``all``. C++ reads it too: ``csrc/include/ideal/state_file.hpp``.
        """
        path = Path(path)
        tensors: dict[str, np.ndarray] = {}
        for index, name in enumerate(self._names):
            count, mean, scatter = self._core.state(index)
            if count:
                tensors[f"{name}.count"] = np.array([count], dtype=np.int64)
                tensors[f"{name}.mean"] = mean
                tensors[f"{name}.scatter"] = scatter
        if not self.per_species:
            tensors |= {f"{x}.count": np.array([count], dtype=np.int64) for x, count in self.counts.items() if count}
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "soap": json.dumps(self.soap.parameters),
            "ridge": json.dumps(self.ridge),
            "per_species": json.dumps(self.per_species),
            "metric": json.dumps(self.metric),
            "rank": json.dumps(self.rank),
        }
        write_file(path, to_safetensors(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path, threads: int = 1) -> SoapMahalanobis:
        """Read what :meth:`save` wrote.

        Raises:
            UncertaintyError: the file is missing, damaged or not one of these.
        """
        path = Path(path)
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise UncertaintyError(f"{path} is not a file written by SoapMahalanobis.save")
                if metadata.get("version") != str(_VERSION):
                    raise UncertaintyError(
                        f"{path} has version {metadata.get('version')}; this program reads version {_VERSION}"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            soap = SoapPowerSpectrum(**json.loads(metadata["soap"]), threads=threads)
            new = cls(
                soap,
                json.loads(metadata["ridge"]),
                json.loads(metadata.get("per_species", "true")),
                json.loads(metadata.get("metric", '"auto"')),
                json.loads(metadata.get("rank", "null")),
            )
        except FileNotFoundError:
            raise UncertaintyError(f"{path} does not exist; write it with SoapMahalanobis.save") from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise UncertaintyError(f"{path} cannot be read as a file of SoapMahalanobis.save: {error}") from error
        expected = {f"{name}.{kind}" for name in new._names for kind in ("count", "mean", "scatter")}
        if not new.per_species:
            expected |= {f"{symbol}.count" for symbol in soap.species}
        if foreign := sorted(set(tensors) - expected):
            raise UncertaintyError(f"{path} holds arrays of no element of its descriptor: {', '.join(foreign)}")
        for index, name in enumerate(new._names):
            if any(f"{name}.{kind}" in tensors for kind in ("count", "mean", "scatter")):
                new._core.set_state(index, *_checked_statistics(tensors, name, soap.n_features, path))
        if not new.per_species:
            counts = [_checked_count(tensors, x, path) if f"{x}.count" in tensors else 0 for x in soap.species]
            try:
                new._core.set_counts(counts)
            except UncertaintyError as error:
                raise UncertaintyError(f"{path} is damaged: {error}") from error
        return new

    def _refuse_infinite(self, atoms: Atoms, counted: np.ndarray) -> None:
        """A gradient is wanted of these atoms: name the first whose element has none."""
        undefined = [symbol for symbol, dimension in self.effective_dimensions.items() if dimension == 0]
        if not undefined:
            return
        for index in np.flatnonzero(counted):
            symbol = atoms.symbols[index]
            if symbol in undefined:
                raise UncertaintyError(
                    f"the uncertainty of atom {index} ({symbol}) is infinite and has no gradient: "
                    f"{self.counts[symbol]} environments of {symbol} have been learned, and at least two different "
                    f"ones are needed. Call update() with structures that contain {symbol}, or leave its atoms out "
                    "by weight or mask"
                )

    def __repr__(self) -> str:
        rank = "" if self.rank is None else f", rank={self.rank}"
        pooled = "" if self.per_species else ", per_species=False"
        return (
            f"SoapMahalanobis({self.soap!r}, ridge={self.ridge}{pooled}, metric={self.metric!r}{rank}, "
            f"counts={self.counts})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "arguments": (self.soap, self.ridge, self.per_species, self.metric, self.rank),
            "states": [self._core.state(index) for index in range(self._core.n_distributions)],
            "counts": list(self.counts.values()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"])  # type: ignore[misc]
        for index, statistics in enumerate(state["states"]):
            self._core.set_state(index, *statistics)
        self._core.set_counts(state["counts"])


def _checked_statistics(
    tensors: dict[str, np.ndarray], symbol: str, n: int, path: Path
) -> tuple[int, np.ndarray, np.ndarray]:
    count = _checked_count(tensors, symbol, path)
    for name, shape in {"mean": (n,), "scatter": (n, n)}.items():
        array = tensors.get(f"{symbol}.{name}")
        if array is None or array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UncertaintyError(f"{path} is damaged: {symbol}.{name} must be {shape} of finite numbers")
    mean, scatter = (
        np.ascontiguousarray(tensors[f"{symbol}.{name}"], dtype=np.float64) for name in ("mean", "scatter")
    )
    return count, mean, scatter


def _checked_count(tensors: dict[str, np.ndarray], symbol: str, path: Path) -> int:
    array = tensors.get(f"{symbol}.count")
    if array is None or array.shape != (1,) or array.dtype.kind != "i":
        raise UncertaintyError(f"{path} is damaged: {symbol}.count must be (1,) of finite numbers")
    count = int(array[0])
    if count < 1:
        raise UncertaintyError(f"{path} is damaged: {symbol}.count is {count}")
    return count
