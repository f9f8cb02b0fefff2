"""The labels of a run in memory: what the model learns from and what only validates it."""

from __future__ import annotations

from collections.abc import Iterable

from ideal.dataset.splits import split
from ideal.records import Label


class Dataset:
    """Labels by key, in the order in which they came.

    The labels given at the start are divided by `split`. Every label added later is for training: it was computed
    because the model needs it, and the validation part stays the one of the start.

    Args:
        labels: known at the start; of labels with equal keys the first counts.
        validation_fraction: part of them kept for validation.
        seed: of the division.

    Example:
        >>> dataset = Dataset([], validation_fraction=0.1, seed=0)
        >>> len(dataset)
        0
    """

    def __init__(self, labels: Iterable[Label] = (), validation_fraction: float = 0.0, seed: int = 0) -> None:
        self._labels: dict[str, Label] = {}
        for label in labels:
            self._labels.setdefault(label.key, label)
        _, validation = split(list(self._labels.values()), validation_fraction, seed)
        self._validation = {label.key for label in validation}

    def add(self, labels: Iterable[Label]) -> list[Label]:
        """Add training labels; returns those whose key was not known."""
        new = []
        for label in labels:
            if label.key not in self._labels:
                self._labels[label.key] = label
                new.append(label)
        return new

    @property
    def training(self) -> list[Label]:
        """Labels to learn from, in order of arrival."""
        return [label for key, label in self._labels.items() if key not in self._validation]

    @property
    def validation(self) -> list[Label]:
        """Labels kept for validation, in order of arrival."""
        return [label for key, label in self._labels.items() if key in self._validation]

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, key: str) -> bool:
        return key in self._labels

    def __getitem__(self, key: str) -> Label:
        return self._labels[key]
