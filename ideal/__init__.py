"""IDEAL: molecular dynamics of large systems with DFT accuracy, learned on the fly.

The public names are imported on first use, so that ``import ideal`` stays free of torch and matgl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ideal.embedding.embed import embed as embed
    from ideal.models.calculator import IdealCalculator as IdealCalculator
    from ideal.soap import SoapPowerSpectrum as SoapPowerSpectrum
    from ideal.uncertainty.mahalanobis import SoapMahalanobis as SoapMahalanobis

__version__ = "0.1.0"
__all__ = ["IdealCalculator", "SoapMahalanobis", "SoapPowerSpectrum", "__version__", "embed"]

_PUBLIC = {
    "SoapPowerSpectrum": "ideal.soap",
    "SoapMahalanobis": "ideal.uncertainty.mahalanobis",
    "embed": "ideal.embedding.embed",
    "IdealCalculator": "ideal.models.calculator",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
