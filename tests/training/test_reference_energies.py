"""Reference energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ideal.errors import TrainingError
from ideal.training.reference_energies import fit_reference_energies


def test_recovers_a_sum_over_elements() -> None:
    truth = {"H": -13.6, "C": -1030.0, "O": -2041.5}
    structures = [Atoms(formula) for formula in ("H2O", "CO2", "CH4", "C2H6O", "O2")]
    energies = [sum(truth[s] for s in atoms.get_chemical_symbols()) for atoms in structures]
    fitted = fit_reference_energies(structures, energies, ["H", "C", "O"], ridge=1e-12)
    assert fitted == pytest.approx(truth, rel=1e-6)


def test_one_composition_shares_its_energy() -> None:
    fitted = fit_reference_energies([Atoms("SiO2"), Atoms("Si2O4")], [-30.0, -60.0], ["O", "Si"])
    assert fitted == pytest.approx({"O": -10.0, "Si": -10.0}, abs=1e-6)


def test_absent_element_gets_the_mean() -> None:
    fitted = fit_reference_energies([Atoms("Li4"), Atoms("Li2")], [-8.0, -4.2], ["Li", "Na"])
    assert fitted["Na"] == pytest.approx(-2.05)


def test_least_squares_in_the_presence_of_noise() -> None:
    rng = np.random.default_rng(0)
    structures = [Atoms(f"Li{rng.integers(1, 9)}O{rng.integers(1, 9)}") for _ in range(400)]
    per_atom = rng.normal(0, 0.05, 400)
    energies = [
        -2.0 * (a.numbers == 3).sum() - 5.0 * (a.numbers == 8).sum() + len(a) * noise
        for a, noise in zip(structures, per_atom, strict=True)
    ]
    fitted = fit_reference_energies(structures, energies, ["Li", "O"])
    assert fitted == pytest.approx({"Li": -2.0, "O": -5.0}, abs=0.03)


def test_errors() -> None:
    with pytest.raises(TrainingError, match="0 labels"):
        fit_reference_energies([], [], ["Li"])
    with pytest.raises(TrainingError, match="label 1 has an energy that is not finite"):
        fit_reference_energies([Atoms("Li"), Atoms("Li")], [-1.0, np.nan], ["Li"])
    with pytest.raises(TrainingError, match="Na occurs in the labels but the model knows Li only"):
        fit_reference_energies([Atoms("Na")], [-1.0], ["Li"])
