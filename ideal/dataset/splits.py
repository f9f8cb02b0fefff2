"""Training and validation parts that depend on the labels' keys alone, never on their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ideal.errors import ConfigError
from ideal.records import Label


def rank(key: str, seed: int) -> bytes:
    """32 bytes that order keys at random; another seed, another order."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def split(labels: Sequence[Label], fraction: float, seed: int) -> tuple[list[Label], list[Label]]:
    """Divide labels into a training and a validation part.

    The labels are ranked by a hash of seed and key; the first ``round(fraction * n)`` go to validation (at least one
    label stays for training). The same set gives the same parts in whatever order it comes, and both keep that order.
    Labels with equal keys stay together.

    Args:
        labels: any number.
        fraction: part of the labels kept for validation, 0 <= fraction < 1.
        seed: another seed, another division.

    Returns:
        (training, validation).

    Raises:
        ConfigError: the fraction is outside its range.

    Example:
        >>> split([], 0.1, seed=0)
        ([], [])
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation fraction {fraction}: write a number of at least 0 and below 1")
    ranked = sorted({label.key for label in labels}, key=lambda key: rank(key, seed))
    count = min(int(fraction * len(ranked) + 0.5), max(len(ranked) - 1, 0))
    chosen = set(ranked[:count])
    training = [label for label in labels if label.key not in chosen]
    validation = [label for label in labels if label.key in chosen]
    return training, validation
