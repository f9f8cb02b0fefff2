"""Read a saved uncertainty of any kind."""

from __future__ import annotations

from pathlib import Path

from ideal.errors import UncertaintyError
from ideal.uncertainty.base import AtomwiseUncertainty
from ideal.uncertainty.mahalanobis import SoapMahalanobis
from ideal.uncertainty.storage import folder_kind


def load_uncertainty(path: str | Path, threads: int = 1) -> AtomwiseUncertainty:
    """Read what the `save` of any uncertainty wrote.

    Args:
        path: a file (`SoapMahalanobis`) or a folder (`ModelCommittee`, `GradientFeatures`, made of M3GNets).
        threads: of the C++ core; models have their own.

    Raises:
        UncertaintyError: it is missing, damaged or of an unknown kind.
    """
    if not Path(path).is_dir():
        return SoapMahalanobis.load(path, threads=threads)
    kind = folder_kind(path)
    if kind == "ideal.ModelCommittee":
        from ideal.uncertainty.committee import ModelCommittee

        return ModelCommittee.load(path)
    if kind == "ideal.GradientFeatures":
        from ideal.uncertainty.gradient_features import GradientFeatures

        return GradientFeatures.load(path)
    raise UncertaintyError(f"{path} holds {kind!r}; ideal.ModelCommittee and ideal.GradientFeatures can be read")
