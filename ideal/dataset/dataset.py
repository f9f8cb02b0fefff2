"""The labels of a run in memory: what the model learns from and what only validates it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ideal.dataset.splits import rank, split
from ideal.records import Label


class Dataset:
    """Labels by key, in the order in which they came.

    The labels given at the start are divided by `split`. Labels that come later are for training, but those that
    `hold_back` picks: a label is computed because the model needs it, so of every group at least one is learned.

    Args:
        labels: known at the start; of labels with equal keys the first counts.
        validation_fraction: part of them kept for validation.
        seed: of the division.
        later_fraction: part of the later labels that `hold_back` picks, 0 <= later_fraction < 1.

    Raises:
        ConfigError: ``validation_fraction`` is not at least 0 and below 1.

    Example:
        >>> dataset = Dataset([], validation_fraction=0.1, seed=0)
        >>> len(dataset)
        0
    """

    def __init__(
        self, labels: Iterable[Label] = (), validation_fraction: float = 0.0, seed: int = 0, later_fraction: float = 0.0
    ) -> None:
        self._seed, self._later_fraction = seed, later_fraction
        self._labels: dict[str, Label] = {}
        for label in labels:
            self._labels.setdefault(label.key, label)
        _, validation = split(list(self._labels.values()), validation_fraction, seed)
        self._validation = {label.key for label in validation}

    def hold_back(self, labels: Sequence[Label]) -> list[Label]:
        """Which of a group of later labels are for validation: never all of them.

        Drawn by key and seed alone, so that it does not matter what came before.
        """
        limit = int(self._later_fraction * 2**64)
        chosen = [label for label in labels if int.from_bytes(rank(label.key, self._seed)[:8], "big") < limit]
        return chosen[1:] if len(chosen) == len(labels) else chosen

    def add(self, labels: Iterable[Label], validation: bool = False) -> list[Label]:
        """Add labels for training, or for validation; returns those whose key was not known."""
        new = []
        for label in labels:
            if label.key not in self._labels:
                self._labels[label.key] = label
                new.append(label)
                if validation:
                    self._validation.add(label.key)
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
