"""Shared by the labelling tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from ideal.config import AseConfig
from ideal.labelling.codes import ReferenceCode, make_code
from ideal.labelling.store import LabelStore


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def fake(marks: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ReferenceCode]:
    """fake("Hangs") is the code of that calculator in fake_calculators.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def make(name: str, **arguments: Any) -> ReferenceCode:
        return make_code(AseConfig(calculator=f"fake_calculators:{name}", arguments={"marks": str(marks), **arguments}))

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.sqlite") as store:
        yield store


def cluster(seed: int = 0, symbols: str = "Li4") -> Atoms:
    """Four atoms in the open, none closer than 1 Å."""
    rng = np.random.default_rng(seed)
    corners = 2.5 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    return Atoms(symbols, positions=corners + rng.uniform(-0.3, 0.3, (4, 3)))
