"""Molecules and formal charges."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from ideal.embedding.charges import guess_charges, neutral_counts, parse_charges
from ideal.embedding.molecules import bonds, groups, representatives, same_group
from ideal.errors import EmbeddingError

from .structures import ammonia_on_iridium


def test_molecules_on_a_metal_are_molecules_and_the_metal_is_not() -> None:
    frame = ammonia_on_iridium(5)
    group = groups(frame.numbers, frame.positions)
    sizes = np.bincount(group)[group]
    assert (sizes[frame.numbers == 77] == 1).all()
    assert sorted(np.bincount(group)[np.bincount(group) > 1].tolist()) == [2, 2, 2, 2, 4]
    chosen = np.zeros(len(frame), dtype=bool)
    nitrogen = int(np.flatnonzero(frame.numbers == 7)[0])
    chosen[nitrogen + 1] = True
    assert same_group(group, chosen).sum() == 4
    assert len(set(representatives(group, frame.positions)[same_group(group, chosen)])) == 1


def test_networks_are_no_molecules() -> None:
    silicon = bulk("Si", cubic=True).repeat(3)
    assert len(bonds(silicon.numbers, silicon.positions)) > 300
    assert len(set(groups(silicon.numbers, silicon.positions))) == len(silicon)
    benzene = molecule("C6H6")
    assert len(set(groups(benzene.numbers, benzene.positions))) == 1


def test_guessed_charges() -> None:
    assert guess_charges(np.array([14] * 8 + [8] * 16)) == {8: -2.0, 14: 4.0}
    assert guess_charges(np.array([29] * 30)) is None  # one species
    assert guess_charges(np.array([13] * 30 + [8] * 10)) is None  # far from neutral
    assert guess_charges(np.array([77] * 30 + [7] * 10)) is None  # no usual state
    with pytest.raises(EmbeddingError, match="no element"):
        parse_charges({"Xx": 1})


def test_nearest_neutral_composition_adds_rather_than_removes() -> None:
    charges = {13: 3.0, 8: -2.0}
    assert neutral_counts({13: 8, 8: 11}, charges) == {13: 8, 8: 12}
    assert neutral_counts({13: 8, 8: 13}, charges, add=False) == {13: 8, 8: 12}
    assert neutral_counts({13: 20, 8: 2}, charges) is None
