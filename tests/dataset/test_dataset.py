"""Splits and the in-memory data set."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ideal.dataset import Dataset, split
from ideal.errors import ConfigError
from ideal.records import Label, structure_key


def labels(n: int, start: int = 0) -> list[Label]:
    made = []
    for k in range(start, start + n):
        atoms = Atoms("H", positions=[[0, 0, 0.01 * k]])
        made.append(Label(structure_key(atoms, {}), atoms, float(k), np.zeros((1, 3)), None, "test"))
    return made


def keys(some: list[Label]) -> list[str]:
    return [label.key for label in some]


@pytest.mark.parametrize(
    ("n", "fraction", "held"), [(0, 0.5, 0), (1, 0.9, 0), (2, 0.9, 1), (10, 0.0, 0), (10, 0.1, 1), (25, 0.1, 3)]
)
def test_sizes(n: int, fraction: float, held: int) -> None:
    training, validation = split(labels(n), fraction, seed=0)
    assert len(validation) == held
    assert len(training) == n - held
    assert set(keys(training)) | set(keys(validation)) == set(keys(labels(n)))


def test_depends_on_keys_and_seed_alone() -> None:
    forward, backward = labels(30), labels(30)[::-1]
    one, other = split(forward, 0.3, seed=1), split(backward, 0.3, seed=1)
    assert set(keys(one[1])) == set(keys(other[1]))
    assert keys(one[0]) == [key for key in keys(forward) if key in set(keys(one[0]))]
    assert set(keys(split(forward, 0.3, seed=2)[1])) != set(keys(one[1]))


def test_twins_stay_together() -> None:
    twins = labels(10) + labels(10)
    training, validation = split(twins, 0.5, seed=0)
    assert not set(keys(training)) & set(keys(validation))


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_wrong_fraction(fraction: float) -> None:
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        split(labels(3), fraction, seed=0)


def test_dataset_keeps_validation_and_learns_what_comes() -> None:
    dataset = Dataset(labels(20) + labels(5), validation_fraction=0.2, seed=0)
    assert len(dataset) == 20
    validation = keys(dataset.validation)
    assert len(validation) == 4
    new = dataset.add(labels(8, start=16))
    assert keys(new) == keys(labels(4, start=20))
    assert keys(dataset.validation) == validation
    assert keys(dataset.training)[-4:] == keys(new)
    assert len(dataset) == 24
    assert validation[0] in dataset
    assert dataset[validation[0]].key == validation[0]


def test_some_later_labels_are_held_back() -> None:
    """By key and seed alone, in about the share asked for, and never a whole group."""
    dataset = Dataset(labels(10), validation_fraction=0.2, seed=3, later_fraction=0.25)
    later = labels(200, start=10)
    held = keys(dataset.hold_back(later))
    assert 30 < len(held) < 70
    assert held == [key for key in keys(later) if key in held]
    assert set(keys(dataset.hold_back(later[::-1]))) == set(held)
    assert set(keys(Dataset(seed=4, later_fraction=0.25).hold_back(later))) != set(held)
    chosen = [label for label in later if label.key in held]
    assert dataset.hold_back(chosen[:1]) == []
    assert keys(dataset.hold_back(chosen[:3])) == held[1:3]
    assert Dataset(seed=3).hold_back(later) == []
    before = len(dataset.validation)
    assert keys(dataset.add(chosen[:3], validation=True)) == held[:3]
    assert len(dataset.validation) == before + 3
    assert len(dataset.training) == 8
