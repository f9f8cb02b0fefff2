"""PLUMED: its input, its files, a restart, and metadynamics that leaves a well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ideal.config import MolecularDynamicsConfig, PlumedConfig
from ideal.errors import ConfigError, SamplerError
from ideal.samplers import MolecularDynamics, PlumedDynamics
from ideal.samplers.plumed_bias import preview
from ideal.samplers.plumed_input import prepare_input

from .double_well import MIDDLE, DoubleWell, pair
from .plumed_library import require_plumed

HILLS = ["d: DISTANCE ATOMS=1,2", "m: METAD ARG=d PACE=5 HEIGHT=0.5 SIGMA=0.01", "PRINT ARG=d,m.bias FILE=COLVAR"]


# --- the input --------------------------------------------------------------------------------------------------------


def test_files_are_placed_and_blocks_joined() -> None:
    lines = [
        "# collective variable",
        "",
        "d: DISTANCE ATOMS=1,2  # nm",
        "METAD ...",
        "  LABEL=m ARG=d",
        "  PACE=50 SIGMA=0.01 HEIGHT=1",
        "... METAD",
        "PRINT ARG=d FILE=COLVAR,/elsewhere/OTHER",
        "ENDPLUMED",
        "what follows is no input",
    ]
    assert prepare_input(lines, Path("/run")) == [
        "d: DISTANCE ATOMS=1,2",
        "METAD LABEL=m ARG=d PACE=50 SIGMA=0.01 HEIGHT=1 FILE=/run/HILLS FMT=%25.17g",
        "PRINT ARG=d FILE=/run/COLVAR,/elsewhere/OTHER",
        "FLUSH STRIDE=1",
    ]


def test_a_block_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no end"):
        prepare_input(["METAD ...", "ARG=d"], Path("/run"))


def test_one_text_is_split_into_lines() -> None:
    assert PlumedConfig(input="a\nb").input == ["a", "b"]


def test_the_cell_must_stay() -> None:
    with pytest.raises(ValidationError, match="the bias acts on the atoms, not on the cell"):
        PlumedConfig(input=["a"], ensemble="npt_mtk", temperature=300)


# --- PLUMED itself ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> None:
    require_plumed()


def dynamics(folder: Path, lines: list[str], **changes: Any) -> PlumedDynamics:
    keys = {"temperature": 100.0, "timestep": 2.0, "friction": 0.02, "steps": 2000, **changes}
    return PlumedDynamics(pair(), DoubleWell(), PlumedConfig(input=lines, **keys), seed=1, folder=folder)


@pytest.mark.usefixtures("kernel")
def test_without_a_bias_it_is_molecular_dynamics(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"temperature": 100.0, "timestep": 2.0, "friction": 0.02, "steps": 2000}
    plain = MolecularDynamics(pair(), DoubleWell(), MolecularDynamicsConfig(**keys), seed=1)
    watched = dynamics(tmp_path, ["d: DISTANCE ATOMS=1,2", "PRINT ARG=d FILE=COLVAR"])
    plain.advance(20)
    watched.advance(20)
    np.testing.assert_array_equal(watched.atoms.positions, plain.atoms.positions)
    column = np.loadtxt(tmp_path / "COLVAR")
    assert len(column) == 21  # one line a step, none twice
    assert column[-1, 1] * 10 == pytest.approx(watched.atoms.get_distance(0, 1), abs=1e-5)


@pytest.mark.usefixtures("kernel")
def test_the_energy_that_is_shown_is_the_physical_one(tmp_path: Path) -> None:
    restrained = dynamics(tmp_path, ["d: DISTANCE ATOMS=1,2", "RESTRAINT ARG=d AT=0.3 KAPPA=1000"])
    restrained.advance(1)
    distance = restrained.atoms.get_distance(0, 1)
    physical = float(DoubleWell().profile(np.array(distance)))
    assert restrained.atoms.get_potential_energy() == pytest.approx(physical, abs=1e-12)
    bias = 0.5 * 1000 * (distance / 10 - 0.3) ** 2 / 96.48533
    assert restrained.observables()["bias_energy"] == pytest.approx(bias, rel=1e-4)


@pytest.mark.usefixtures("kernel")
def test_restart_is_bitwise_and_keeps_the_hills(tmp_path: Path) -> None:
    whole = dynamics(tmp_path / "whole", HILLS)
    whole.advance(60)
    folder = tmp_path / "two parts"  # PLUMED takes a name with a space only in braces
    parts = dynamics(folder, HILLS)
    parts.advance(23)
    kept = parts.state()
    parts.advance(9)  # goes on beyond the checkpoint, as a run does that is killed
    for n in (17, 20):
        parts = dynamics(folder, HILLS)
        parts.restore(kept)
        parts.advance(n)
        kept = parts.state()
    assert parts.step == whole.step == 60
    np.testing.assert_array_equal(parts.atoms.positions, whole.atoms.positions)
    assert parts.observables() == whole.observables()
    hills = [np.loadtxt(tmp_path / name / "HILLS") for name in ("whole", "two parts")]
    np.testing.assert_array_equal(*hills)
    assert len(hills[0]) == 12


@pytest.mark.usefixtures("kernel")
def test_a_new_model_deposits_no_hill_twice(tmp_path: Path) -> None:
    moving = dynamics(tmp_path, HILLS)
    moving.advance(5)
    moving.set_calculator(DoubleWell(barrier=0.1))
    moving.atoms.get_potential_energy()
    moving.advance(5)
    assert len(np.loadtxt(tmp_path / "HILLS")) == 2


@pytest.mark.usefixtures("kernel")
def test_a_step_that_fails_is_undone_in_the_files(tmp_path: Path) -> None:
    moving = dynamics(tmp_path, HILLS)
    moving.advance(9)
    before = (tmp_path / "HILLS").read_text(), moving.atoms.get_positions()
    moving.set_calculator(DoubleWell(barrier=1e6))
    with pytest.raises(SamplerError):
        moving.advance(1)
    assert moving.step == 9
    assert (tmp_path / "HILLS").read_text() == before[0]
    np.testing.assert_array_equal(moving.atoms.positions, before[1])


@pytest.mark.usefixtures("kernel")
def test_input_that_plumed_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PLUMED refuses it"):
        dynamics(tmp_path, ["d: DISTNACE ATOMS=1,2"]).advance(1)


def test_missing_plumed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plumed", None)
    with pytest.raises(ConfigError, match="pip install plumed"):
        dynamics(tmp_path, HILLS).advance(1)


@pytest.mark.usefixtures("kernel")
@pytest.mark.physics
def test_metadynamics_fills_a_double_well(tmp_path: Path) -> None:
    """At 100 K a barrier of 0.15 eV is 17 kT: plain dynamics stays, metadynamics comes and goes."""
    keys: dict[str, Any] = {"temperature": 100.0, "timestep": 4.0, "friction": 0.02, "steps": 6000}
    plain = MolecularDynamics(pair(), DoubleWell(), MolecularDynamicsConfig(**keys), seed=1)
    plain.advance(6000)
    assert plain.atoms.get_distance(0, 1) < MIDDLE
    lines = [
        "d: DISTANCE ATOMS=1,2",
        "m: METAD ARG=d PACE=25 HEIGHT=0.4 SIGMA=0.007",
        "w: UPPER_WALLS ARG=d AT=0.37 KAPPA=20000",
        "PRINT ARG=d STRIDE=10 FILE=COLVAR",
    ]
    biased = dynamics(tmp_path, lines, timestep=4.0, steps=6000)
    biased.advance(6000)
    distances = np.loadtxt(tmp_path / "COLVAR")[:, 1] * 10
    right = distances > MIDDLE
    assert 0.2 < right.mean() < 0.8
    assert np.count_nonzero(right[1:] != right[:-1]) > 4
    assert not Path("HILLS").exists()


@pytest.mark.usefixtures("kernel")
def test_a_preview_reads_the_input_and_leaves_nothing() -> None:
    preview(HILLS, pair())
    with pytest.raises(ConfigError, match="PLUMED refuses it"):
        preview(["m: METAD ARG=unknown PACE=1 HEIGHT=1 SIGMA=1"], pair())
