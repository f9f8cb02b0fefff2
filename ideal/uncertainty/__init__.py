"""How far an atom's environment lies from what a model was trained on: scores, their statistics, thresholds.

The two uncertainties that need a model, `ideal.uncertainty.committee` and `ideal.uncertainty.gradient_features`, are
imported from their own modules; nothing here imports torch.
"""

from ideal.uncertainty.base import AtomwiseUncertainty, DistributionUncertainty, TotalUncertainty
from ideal.uncertainty.mahalanobis import SoapMahalanobis

__all__ = ["AtomwiseUncertainty", "DistributionUncertainty", "SoapMahalanobis", "TotalUncertainty"]
