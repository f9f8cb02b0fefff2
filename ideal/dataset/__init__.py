"""Labelled structures: files, splits, and structures made to start from."""

from __future__ import annotations

from ideal.dataset.dataset import Dataset
from ideal.dataset.files import read_labels, read_labels_and_structures, read_structures, write_labels
from ideal.dataset.rattled import rattled_structures
from ideal.dataset.splits import split

__all__ = [
    "Dataset",
    "rattled_structures",
    "read_labels",
    "read_labels_and_structures",
    "read_structures",
    "split",
    "write_labels",
]
