"""What the exploration benchmark through the engine counts, and that its arms differ in the bias alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ideal.dataset import read_structures
from ideal.engine.frame_files import trajectory_frame
from ideal.models.base import Evaluation
from ideal.records import Label

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "exploration"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's files import each other by name, as they do when they run."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


def test_frames_that_count_are_whole_and_on_the_way_that_was_kept(tmp_path: Path) -> None:
    from dipeptide import molecule
    from through_run import walked

    kept, void, torn = molecule(), molecule(), molecule()
    void.positions += 1.0
    torn.positions[1] += 2.0
    frames = [(kept, 0), (void, 10), (void, 20), (torn, 10), (kept, 20)]  # went back from 20 to 0
    (tmp_path / "trajectories").mkdir()
    text = "".join(trajectory_frame(atoms, step, 2.0 * step, None) for atoms, step in frames)
    (tmp_path / "trajectories" / "walker-1.extxyz").write_text(text)
    assert np.allclose(walked(tmp_path), [kept.positions] * 2)


def test_arms_differ_in_the_bias_alone(tmp_path: Path) -> None:
    from through_run import HYDROGEN, configuration

    arguments = argparse.Namespace(output=tmp_path, steps=50, labels=3, final=1, quantile=0.9)
    biased, plain = (configuration(arm, 1, arguments).model_dump() for arm in ("biased", "plain"))
    for one, other in zip(biased.pop("trajectories"), plain.pop("trajectories"), strict=True):
        assert one["sampler"].pop("bias")["strength"] > 0
        assert (one["sampler"].pop("type"), other["sampler"].pop("type")) == ("biased_dynamics", "molecular_dynamics")
        assert one == other
    assert biased == plain
    start = read_structures(tmp_path / "c7eq.xyz")[-1]
    assert set(start.get_masses()[start.numbers == 1]) == {HYDROGEN}


def test_errors_are_those_of_energies_per_atom_and_of_force_components() -> None:
    from dipeptide import molecule
    from through_run import errors

    atoms = molecule()
    shift = np.zeros((22, 3))
    shift[0, 0] = 0.3
    label = Label("a", atoms, -0.022, shift, None, "none")
    energy, force = errors(_Zero(), [label, label])
    assert energy == pytest.approx(1.0)  # 22 meV over 22 atoms
    assert force == pytest.approx(0.3 / np.sqrt(66))


class _Zero:
    """A potential of nothing."""

    def evaluate_batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        return [Evaluation(0.0, np.zeros((len(atoms), 3)), None, np.zeros(len(atoms))) for atoms in structures]
