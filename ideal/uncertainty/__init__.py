"""How far an atom's environment lies from what a model was trained on: scores, their statistics, thresholds."""

from ideal.uncertainty.base import AtomwiseUncertainty
from ideal.uncertainty.mahalanobis import SoapMahalanobis

__all__ = ["AtomwiseUncertainty", "SoapMahalanobis"]
