"""What `SoapMahalanobis` promises beyond the contract of every uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.errors import UncertaintyError


def test_conditioning_is_the_posterior_variance_of_a_gaussian_process() -> None:
    """u_j² falls by k_ij² / (u_i² + noise²), in a large distribution as in a small one; a repeat becomes known."""
    noise = 1.5
    for copies in (4, 40):
        uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Li"], r_cut=4.0, n_max=3, l_max=2), ridge=1e-6)
        for seed in range(copies):
            crystal = bulk("Li", cubic=True) * (3, 3, 3)
            crystal.rattle(0.1, seed=seed)
            uncertainty.update(crystal)
        strange = bulk("Li", cubic=True) * (3, 3, 3)
        strange.rattle(0.13, seed=99)
        before = uncertainty.atomic(strange)
        taken = int(np.argmax(before))
        count, mean, scatter = uncertainty.statistics("Li")
        covariance = scatter / count
        inverse = np.linalg.inv(covariance + 1e-6 * np.trace(covariance) * np.eye(len(mean)))
        away = uncertainty.soap.create(strange) - mean
        kernel = away @ inverse @ away[taken] / uncertainty.effective_dimensions["Li"]
        expected = before**2 - kernel**2 / (before[taken] ** 2 + noise**2)
        mask = np.arange(len(strange)) == taken
        uncertainty.condition(strange, mask, noise)
        after = uncertainty.atomic(strange)
        np.testing.assert_allclose(after**2, expected, rtol=0.2)
        assert after[taken] < noise < before[taken]
    with pytest.raises(UncertaintyError, match="noise 0 is not positive"):
        uncertainty.condition(strange, mask, 0)
