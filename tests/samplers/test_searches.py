"""Relaxation, elastic band and dimer: the results are ASE's, and a search that was stopped goes on bitwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from pydantic import ValidationError

from ideal.config import DimerConfig, ElasticBandConfig, RelaxationConfig
from ideal.errors import ConfigError, SamplerError
from ideal.samplers import Dimer, ElasticBand, Relaxation, make_sampler
from ideal.samplers.search import Search

from .pair_potential import PairPotential, argon

ANYWHERE = Path("final.extxyz")


def hop() -> tuple[Atoms, Atoms]:
    """Both ends of the hop of a gold atom on Al(100): ASE's example of an elastic band."""
    slab = fcc100("Al", size=(2, 2, 2))
    add_adsorbate(slab, "Au", 1.7, "hollow")
    slab.center(axis=2, vacuum=4.0)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    ends = []
    for shift in (0.0, slab.cell[0, 0] / 2):
        end = slab.copy()
        end[-1].x += shift
        end.calc = EMT()
        BFGS(end, logfile=None).run(fmax=0.02)
        ends.append(end.copy())
    return ends[0], ends[1]


def vacancy() -> tuple[Atoms, Atoms]:
    """A vacancy in argon and where it is after a neighbor has hopped."""
    crystal = bulk("Ar", cubic=True, a=5.3).repeat(2)
    initial = crystal.copy()
    del initial[0]
    final = initial.copy()
    final.positions[0] -= crystal.get_distance(0, 1, vector=True, mic=True)
    return initial, final


# --- relaxation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "optimizer"), [("fire", FIRE), ("bfgs", BFGS)])
@pytest.mark.parametrize("cell", ["fixed", "full"])
def test_relaxation_takes_the_steps_of_ase(kind: Any, optimizer: Any, cell: Any) -> None:
    start = bulk("Cu", cubic=True, a=3.7).repeat((2, 1, 1))
    start.rattle(0.1, seed=1)
    relaxation = Relaxation(start, EMT(), RelaxationConfig(optimizer=kind, cell=cell, force_tolerance=1e-3))
    relaxation.advance(12)
    expected = start.copy()
    expected.calc = EMT()
    optimizer(FrechetCellFilter(expected) if cell == "full" else expected, logfile=None).run(fmax=1e-8, steps=12)
    np.testing.assert_array_equal(relaxation.atoms.positions, expected.positions)
    np.testing.assert_array_equal(relaxation.atoms.cell.array, expected.cell.array)


def test_relaxation_ends_where_ase_ends() -> None:
    start = argon()
    relaxation = Relaxation(start, PairPotential(), RelaxationConfig(force_tolerance=1e-3))
    relaxation.advance(500)
    expected = start.copy()
    expected.calc = PairPotential()
    reference = FIRE(expected, logfile=None)
    reference.run(fmax=1e-3)
    assert relaxation.converged and relaxation.step == reference.nsteps
    np.testing.assert_array_equal(relaxation.atoms.positions, expected.positions)


@pytest.mark.parametrize("cell", ["full", "isotropic"])
def test_cell_relaxes_to_the_pressure(cell: Any) -> None:
    pressure = 0.02
    relaxation = Relaxation(bulk("Cu", a=3.7), EMT(), RelaxationConfig(cell=cell, pressure=pressure))
    relaxation.advance(500)
    assert relaxation.converged
    np.testing.assert_allclose(relaxation.atoms.get_stress()[:3], -pressure, atol=6e-4)


def test_fixed_atoms_stay() -> None:
    start = argon()
    relaxation = Relaxation(start, PairPotential(), RelaxationConfig(fix_atoms=[0, 5], steps=5, force_tolerance=1e-6))
    relaxation.advance(5)
    np.testing.assert_array_equal(relaxation.atoms.positions[[0, 5]], start.positions[[0, 5]])
    assert "not converged in 5 steps" in relaxation.conclusion


def test_nothing_moves_at_the_minimum_and_the_next_model_is_looked_at() -> None:
    crystal = bulk("Ar", cubic=True, a=5.3).repeat(2)
    relaxation = Relaxation(crystal, PairPotential(), RelaxationConfig())
    relaxation.advance(10)
    assert relaxation.step == 1 and relaxation.finished
    np.testing.assert_array_equal(relaxation.atoms.positions, crystal.positions)
    relaxation.set_calculator(PairPotential(epsilon=0.02))
    assert not relaxation.finished
    relaxation.advance(10)
    assert relaxation.step == 2 and relaxation.finished


def test_a_free_cell_needs_periodicity_and_stress() -> None:
    with pytest.raises(SamplerError, match="write cell: fixed"):
        Relaxation(molecule("H2O"), EMT(), RelaxationConfig(cell="full"))
    calculator = EMT()
    calculator.implemented_properties = ["energy", "forces"]
    with pytest.raises(SamplerError, match="needs stress, which EMT does not give"):
        Relaxation(bulk("Cu"), calculator, RelaxationConfig(cell="full"))


def test_a_large_force_stops_the_search_where_it_was() -> None:
    start = argon()
    relaxation = Relaxation(start, PairPotential(), RelaxationConfig(), max_force=1e-3)
    with pytest.raises(SamplerError, match=r"above max_force 0\.001 eV/Å"):
        relaxation.advance(1)
    assert relaxation.step == 0
    np.testing.assert_array_equal(relaxation.atoms.positions, start.positions)


# --- elastic band -----------------------------------------------------------------------------------------------------


def test_barrier_is_that_of_ase() -> None:
    initial, final = hop()
    band = ElasticBand(initial, final, EMT(), ElasticBandConfig(final=ANYWHERE, images=3))
    band.advance(300)
    assert band.converged

    images = [initial.copy(), *(initial.copy() for _ in range(3)), final.copy()]
    for image in images:
        image.calc = EMT()
    reference = NEB(images, climb=True, method="improvedtangent")
    reference.interpolate("idpp", mic=True)
    FIRE(reference, logfile=None).run(fmax=0.05)
    barrier = max(image.get_potential_energy() for image in images) - images[0].get_potential_energy()

    assert barrier == pytest.approx(0.375, abs=0.005)
    assert band.energies.max() - band.energies[0] == pytest.approx(barrier, abs=0.002)


def test_every_image_can_be_shown_and_by_itself_the_highest_is() -> None:
    band = ElasticBand(*hop(), EMT(), ElasticBandConfig(final=ANYWHERE, images=3))
    band.advance(2)
    assert band.atoms is band.configurations[2]
    band.show(4)
    assert band.atoms is band.configurations[4]
    band.show(None)
    assert band.atoms is band.configurations[int(band.energies.argmax())]


def test_ends_must_belong_together() -> None:
    initial, final = hop()
    config = ElasticBandConfig(final=ANYWHERE)
    with pytest.raises(ConfigError, match="same atoms in the same order"):
        ElasticBand(initial, final[::-1], EMT(), config)
    final.set_cell(final.cell * 1.01)
    with pytest.raises(ConfigError, match="both ends need the same"):
        ElasticBand(initial, final, EMT(), config)
    with pytest.raises(ConfigError, match="other end"):
        make_sampler(config, initial, EMT(), seed=0)


# --- dimer ------------------------------------------------------------------------------------------------------------


def test_dimer_finds_the_saddle_point_of_the_band() -> None:
    initial, final = hop()
    band = ElasticBand(initial, final, EMT(), ElasticBandConfig(final=ANYWHERE, images=3))
    band.advance(300)
    dimer = Dimer(initial, EMT(), DimerConfig(center=len(initial) - 1, radius=1.0, force_tolerance=0.02), seed=0)
    dimer.advance(300)
    assert dimer.converged and dimer.curvature < 0
    assert dimer.atoms.get_potential_energy() == pytest.approx(band.energies.max(), abs=0.005)


def test_dimer_refuses_a_center_that_is_not_there_or_fixed() -> None:
    initial, _ = hop()
    with pytest.raises(ConfigError, match=r"sampler\.center is 99"):
        Dimer(initial, EMT(), DimerConfig(center=99), seed=0)
    with pytest.raises(ConfigError, match="is fixed"):
        Dimer(initial, EMT(), DimerConfig(center=0, radius=0.5), seed=0)


# --- all --------------------------------------------------------------------------------------------------------------

FINE = {"force_tolerance": 1e-4}
SEARCHES: dict[str, Callable[[], Search]] = {
    "fire": lambda: Relaxation(argon(), PairPotential(), RelaxationConfig(**FINE)),
    "bfgs": lambda: Relaxation(argon(), PairPotential(), RelaxationConfig(optimizer="bfgs", **FINE)),
    "fire with cell": lambda: Relaxation(argon(), PairPotential(), RelaxationConfig(cell="full", **FINE)),
    "bfgs with cell": lambda: Relaxation(
        argon(), PairPotential(), RelaxationConfig(cell="full", optimizer="bfgs", **FINE)
    ),
    "band": lambda: ElasticBand(
        *vacancy(), PairPotential(), ElasticBandConfig(final=ANYWHERE, images=3, climb_force=0.1, **FINE)
    ),
    "band with bfgs": lambda: ElasticBand(
        *vacancy(), PairPotential(), ElasticBandConfig(final=ANYWHERE, images=3, optimizer="bfgs", **FINE)
    ),
    "dimer": lambda: Dimer(vacancy()[0], PairPotential(), DimerConfig(center=0, radius=4.0, **FINE), seed=1),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_restart_is_bitwise(name: str) -> None:
    whole, first = SEARCHES[name](), SEARCHES[name]()
    for search in (whole, first):
        search.advance(0)
    fresh = SEARCHES[name]()
    fresh.restore(first.state())
    first = fresh
    for n in (1, 3, 2):
        first.advance(n)
        state = first.state()
        first = SEARCHES[name]()
        first.restore(state)
    first.advance(2)
    whole.advance(8)
    assert first.step == whole.step == 8
    for a, b in zip(_arrays(first.state()), _arrays(whole.state()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_new_model_is_taken_up(name: str) -> None:
    search = SEARCHES[name]()
    search.advance(3)
    search.set_calculator(PairPotential(epsilon=0.02))
    search.advance(400)
    assert search.converged, search.conclusion
    again = SEARCHES[name]()
    again.set_calculator(PairPotential(epsilon=0.02))
    again.restore(search.state())
    assert again.finished and again.conclusion == search.conclusion


def test_a_state_of_another_search_is_refused() -> None:
    state = SEARCHES["fire"]().state()
    with pytest.raises(SamplerError, match="saved by 'relaxation', the configuration says 'dimer'"):
        SEARCHES["dimer"]().restore(state)
    with pytest.raises(SamplerError, match="has 32 atoms"):
        Relaxation(bulk("Cu"), EMT(), RelaxationConfig()).restore(state)


def test_configuration_refuses_nonsense() -> None:
    with pytest.raises(ValidationError):
        RelaxationConfig(force_tolerance=0)
    with pytest.raises(ValidationError):
        ElasticBandConfig(final=ANYWHERE, images=0)


def _arrays(state: Any) -> list[np.ndarray]:
    """Every value of a nested state as an array, in a fixed order."""
    if isinstance(state, dict):
        return [array for key in sorted(state) for array in _arrays(state[key])]
    return [np.asarray(state)]
