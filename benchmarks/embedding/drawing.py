"""Saving a figure as a small PNG."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

COLORS = 128


def save(figure: plt.Figure, picture: Path, dpi: int = 110) -> None:
    """Write ``figure`` with a palette of `COLORS` colors, which a drawing loses nothing by, and close it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(COLORS).save(picture, optimize=True)
    print(f"wrote {picture.name}, {picture.stat().st_size // 1024} KB", flush=True)
