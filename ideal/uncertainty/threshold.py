"""The value of u above which an atom counts as uncertain.

u is 1 on average over the training environments, but its tails are heavy: chi-squared quantiles do not hold. The
threshold is an empirical quantile over environments that the statistics did not see, times a factor: the structures are
divided into folds, and every environment is scored by the statistics of the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from ideal.config import ThresholdConfig
from ideal.errors import UncertaintyError
from ideal.records import FloatArray
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.mahalanobis import SoapMahalanobis


def held_out_u(soap: SoapPowerSpectrum, structures: Sequence[Atoms], ridge: float, folds: int, seed: int) -> FloatArray:
    """u of every environment under statistics that did not see its structure's fold.

    With fewer structures than folds each structure is left out in turn. A single structure cannot be held out: its own
    statistics score it, and its u comes out too small (a threshold from it asks for labels too often, never too
    seldom).

    Args:
        soap: descriptor.
        structures: training structures.
        ridge: of the covariance, as a fraction of its trace.
        folds: at least 2.
        seed: of the division into folds.

    Returns:
        (n_environments,) in the order of the structures and their atoms; infinite where an element occurs in one fold
        only.

    Raises:
        UncertaintyError: there is no structure, or fewer than two folds.

    Example:
        >>> u = held_out_u(soap, structures, ridge=1e-8, folds=5, seed=0)  # doctest: +SKIP
    """
    if not structures:
        raise UncertaintyError(
            "no structure to fit a threshold on: label at least one, or set threshold.type to 'fixed'"
        )
    if folds < 2:
        raise UncertaintyError(f"folds {folds}: write at least 2")
    if len(structures) == 1:
        return _statistics(soap, structures, ridge).atomic(structures[0])
    folds = min(folds, len(structures))
    order = np.random.default_rng(seed).permutation(len(structures))
    members = [np.sort(order[fold::folds]) for fold in range(folds)]
    parts = [_statistics(soap, [structures[i] for i in indices], ridge) for indices in members]
    u: list[FloatArray] = [np.empty(0)] * len(structures)
    for fold, indices in enumerate(members):
        others = SoapMahalanobis(soap, ridge)
        for other, part in enumerate(parts):
            if other != fold:
                others.merge(part)
        for index in indices:
            u[index] = others.atomic(structures[index])
    return np.concatenate(u)


def fit_threshold(
    config: ThresholdConfig, soap: SoapPowerSpectrum, structures: Sequence[Atoms], ridge: float, seed: int
) -> float:
    """The threshold that ``config`` asks for.

    Infinite values (an element that occurs in one fold only) say nothing about the others and are left out.

    Args:
        config: a fixed value, or quantile, factor and folds.
        soap: descriptor.
        structures: training structures.
        ridge: of the covariance, as a fraction of its trace.
        seed: of the division into folds.

    Returns:
        The threshold, above 0.

    Raises:
        UncertaintyError: no finite positive quantile comes out (nothing to fit on, or identical environments only).

    Example:
        >>> fit_threshold(ThresholdConfig(type="fixed", value=3.0), soap, [], ridge=1e-8, seed=0)  # doctest: +SKIP
        3.0
    """
    if config.type == "fixed":
        return config.value
    u = held_out_u(soap, structures, ridge, config.folds, seed)
    finite = u[np.isfinite(u)]
    remedy = "label more and more varied structures, or set uncertainty.threshold.type to 'fixed'"
    if finite.size == 0:
        raise UncertaintyError(
            f"none of the {u.size} held-out environments of {len(structures)} structures has a finite u; {remedy}"
        )
    quantile = float(np.quantile(finite, config.quantile))
    if quantile <= 0:
        raise UncertaintyError(
            f"the {config.quantile:g} quantile of u over {finite.size} held-out environments is {quantile:g}: they "
            "are all "
            f"alike; {remedy}"
        )
    return quantile * config.factor


def _statistics(soap: SoapPowerSpectrum, structures: Sequence[Atoms], ridge: float) -> SoapMahalanobis:
    statistics = SoapMahalanobis(soap, ridge)
    statistics.update(list(structures))
    return statistics
