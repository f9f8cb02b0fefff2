"""Whether PLUMED can run here."""

from __future__ import annotations

import pytest


def require_plumed() -> None:
    """Skip where the package or the library behind it is missing."""
    plumed = pytest.importorskip("plumed")
    try:
        plumed.Plumed().finalize()
    except RuntimeError as error:
        pytest.skip(f"the plumed package finds no PLUMED: {error}")
