"""What every sampler must do: stop anywhere and go on bitwise by its state, take a new model, leave on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import TrajectoryConfig
from ideal.engine.state_files import read_state, write_state
from ideal.samplers import Sampler, make_sampler
from ideal.samplers.base import Reseedable, observables
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis

from .pair_potential import PairPotential

CASES: dict[str, dict[str, Any]] = {
    "molecular_dynamics": {"ensemble": "npt_mtk", "temperature": 30},
    "biased_dynamics": {"temperature": 30, "bias": {"strength": 0.3, "burn_in": 2, "window": 3}},
    "monte_carlo": {
        "temperature": 30,
        "moves": {"displacement": 2, "volume": 1},
        "dynamics": {"trials": 2, "steps": 2},
        "bias": {"burn_in": 2},
    },
    "relaxation": {"cell": "isotropic", "force_tolerance": 1e-6},
    "neb": {"final": "final.extxyz", "images": 3, "force_tolerance": 1e-6},
    "dimer": {"center": 0, "radius": 6.0, "force_tolerance": 1e-6},
    "replica_exchange": {"temperatures": [30, 50], "exchange_every": 3},
}


def cluster(vacancy: int = 3) -> Atoms:
    """Seven atoms of two fcc cells in a wide box, off their sites."""
    atoms = bulk("Ar", cubic=True, a=5.3).repeat((2, 1, 1))
    del atoms[vacancy]
    atoms.set_cell([18.0, 18.0, 18.0])
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module")
def known() -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(["Ar"], r_cut=4.0, n_max=2, l_max=2), ridge=1e-3)
    uncertainty.update([cluster(), cluster(5)])
    return uncertainty


def make(kind: str, known: SoapMahalanobis, seed: int = 7) -> Sampler:
    trajectory = TrajectoryConfig.model_validate(
        {"structure": "cluster.extxyz", "sampler": {"type": kind, "steps": 60, **CASES[kind]}}
    )
    return make_sampler(
        trajectory.sampler, cluster(), PairPotential(), seed, 1e5, 500.0, uncertainty=known, final=cluster(2)
    )


def assert_same(a: Sampler, b: Sampler) -> None:
    assert (a.step, a.time_fs, a.temperature, a.finished) == (b.step, b.time_fs, b.temperature, b.finished)
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.atoms.get_momenta(), b.atoms.get_momenta())
    assert np.array_equal(a.atoms.cell.array, b.atoms.cell.array)
    assert observables(a) == observables(b)


@pytest.mark.parametrize("kind", CASES)
def test_parts_and_restarts_are_bitwise_the_whole(kind: str, known: SoapMahalanobis, tmp_path: Path) -> None:
    whole, parts, again = make(kind, known), make(kind, known), make(kind, known, seed=99)
    whole.advance(9)
    for n in (4, 0, 1):
        parts.advance(n)
    assert parts.step == 5
    write_state(tmp_path / "state.safetensors", parts.state())
    parts.advance(4)
    assert_same(whole, parts)
    again.restore(read_state(tmp_path / "state.safetensors"))
    again.advance(4)
    assert_same(whole, again)
    assert not np.array_equal(whole.atoms.positions, cluster().positions)


@pytest.mark.parametrize("kind", CASES)
def test_a_new_model_goes_on_from_the_same_frame(kind: str, known: SoapMahalanobis) -> None:
    sampler = make(kind, known)
    sampler.advance(4)
    before = sampler.atoms.copy()
    sampler.set_calculator(PairPotential(epsilon=0.009))
    assert sampler.step == 4
    assert np.array_equal(sampler.atoms.positions, before.positions)
    plain = before.copy()
    plain.calc = PairPotential(epsilon=0.009)
    assert sampler.atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy(), rel=1e-12)
    sampler.advance(2)
    assert sampler.step == 6


@pytest.mark.parametrize("kind", CASES)
def test_it_leaves_a_state_on_another_way(kind: str, known: SoapMahalanobis) -> None:
    samplers = [make(kind, known), make(kind, known)]
    if not isinstance(samplers[0], Reseedable):
        pytest.skip(f"{kind} has no random numbers to change")
    for seed, sampler in enumerate(samplers):
        sampler.advance(2)
        sampler.reseed(seed)  # type: ignore[attr-defined]
        sampler.advance(4)
    assert not np.array_equal(samplers[0].atoms.positions, samplers[1].atoms.positions)


@pytest.mark.parametrize("kind", CASES)
def test_observables_are_plain_numbers(kind: str, known: SoapMahalanobis) -> None:
    sampler = make(kind, known)
    sampler.advance(5)
    for name, value in observables(sampler).items():
        assert name.isidentifier()
        assert type(value) is float
        assert np.isfinite(value)
