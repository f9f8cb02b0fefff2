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


def odd_cells(seed: int, silicon: float, oxygen: float) -> tuple[list[Atoms], list[float]]:
    """Twelve cells of SiO2 and one with an atom of silicon instead of oxygen, with thermal energies."""
    rng = np.random.default_rng(seed)
    structures = [Atoms("Si16O32") for _ in range(12)] + [Atoms("Si17O31")]
    counts = [(int((a.numbers == 14).sum()), int((a.numbers == 8).sum())) for a in structures]
    return structures, [n * silicon + m * oxygen + (n + m) * rng.normal(0, 0.1) for n, m in counts]


def test_an_odd_cell_hardly_decides_between_elements() -> None:
    loose, fitted = [], []
    for seed in range(40):
        cells, energies = odd_cells(seed, -9.0, -9.0)
        for found, ridge in ((loose, 1e-9), (fitted, None)):
            references = fit_reference_energies(cells, energies, ["O", "Si"], ridge=ridge)
            found.append(references["Si"] - references["O"])
    assert np.std(fitted) < 0.75 * np.std(loose)


def test_an_odd_cell_tells_a_large_difference() -> None:
    """Codes with absolute energies: hundreds of eV between elements show through any thermal energy."""
    fitted = fit_reference_energies(*odd_cells(0, -110.0, -430.0), ["O", "Si"])
    assert fitted["Si"] - fitted["O"] == pytest.approx(320.0, abs=12.0)


def test_isolated_atoms_say_how_elements_differ() -> None:
    fitted = fit_reference_energies(
        [Atoms("SiO2"), Atoms("Si2O4")], [-30.0, -60.0], ["O", "Si"], isolated={"O": -2.0, "Si": -1.0}
    )
    assert fitted["Si"] - fitted["O"] == pytest.approx(1.0)
    assert fitted["Si"] + 2 * fitted["O"] == pytest.approx(-30.0)
    with pytest.raises(TrainingError, match="isolated_atoms lacks Si"):
        fit_reference_energies([Atoms("SiO2")], [-30.0], ["O", "Si"], isolated={"O": -2.0})
