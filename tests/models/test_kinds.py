"""Kinds of models: through the configuration, on disk, trained; dispersion on top of any of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from pydantic import ValidationError

from ideal import IdealCalculator
from ideal.config import DispersionConfig, ModelConfig, parse_config
from ideal.errors import ConfigError, TrainingError
from ideal.models import load_potential, make_potential
from ideal.models.base import DifferentiablePotential
from ideal.models.m3gnet import M3GNetPotential
from ideal.models.tensornet import TensorNetPotential

from .conftest import ELEMENTS, TINY, alcohol, crystal, slab, tiny_potential

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_model" / "pair_network.py"
TENSORNET = TINY.model_copy(update={"type": "tensornet", "n_radial": 8})
CUSTOM = ModelConfig(type="custom", module=f"{EXAMPLE}:PairPotential", arguments={"width": 8}, device="cpu")


@pytest.mark.parametrize("config", [TENSORNET, CUSTOM], ids=["tensornet", "custom"])
def test_made_saved_loaded_and_trained(config: ModelConfig, tmp_path: Path) -> None:
    potential = make_potential(config, ELEMENTS, seed=1)
    assert potential.fingerprint() == make_potential(config, ELEMENTS, seed=1).fingerprint()
    assert potential.fingerprint() != make_potential(config, ELEMENTS, seed=2).fingerprint()
    graphs = [potential.graph(crystal()), potential.graph(alcohol())]
    for _ in range(2):
        prediction = potential.predict(graphs, differentiable=True)
        prediction.forces.square().sum().backward()
    assert any(parameter.grad is not None for _, parameter in potential.named_parameters())
    potential.save(tmp_path)
    loaded = load_potential(tmp_path, config)
    assert loaded.fingerprint() == potential.fingerprint()
    np.testing.assert_array_equal(loaded.evaluate(slab()).forces, potential.evaluate(slab()).forces)


def test_a_folder_tells_its_kind(tmp_path: Path) -> None:
    TensorNetPotential.new(TENSORNET, ["Al"], seed=0).save(tmp_path / "t")
    tiny_potential().save(tmp_path / "m")
    assert isinstance(load_potential(tmp_path / "t"), TensorNetPotential)
    assert isinstance(load_potential(tmp_path / "m"), M3GNetPotential)
    assert isinstance(IdealCalculator(str(tmp_path / "t")).potential, TensorNetPotential)
    with pytest.raises(TrainingError, match="format 'tensornet-1' is not 'm3gnet-1'"):
        M3GNetPotential.load(tmp_path / "t")


def test_tensornet_equals_matgl_calculator() -> None:
    from matgl.apps.pes import Potential
    from matgl.ext.ase import PESCalculator

    ours = TensorNetPotential.new(TENSORNET, ["Al", "O"], seed=0)
    theirs = PESCalculator(Potential(ours._model, calc_stresses=True), stress_unit="eV/A3", use_voigt=True)
    theirs.calculate(crystal())
    found = ours.evaluate(crystal())
    assert found.energy == pytest.approx(theirs.results["energy"], abs=1e-5)
    np.testing.assert_allclose(found.forces, theirs.results["forces"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.stress, theirs.results["stress"], rtol=1e-4, atol=1e-7)
    assert isinstance(ours, DifferentiablePotential)


def test_a_custom_model_that_is_not_there(tmp_path: Path) -> None:
    def make(module: str, **arguments: object) -> None:
        make_potential(ModelConfig(type="custom", module=module, arguments=arguments), ["Al"], seed=0)

    with pytest.raises(TrainingError, match=r"no file .*missing\.py"):
        make(f"{tmp_path}/missing.py:Model")
    with pytest.raises(TrainingError, match="cannot be imported"):
        make("no_such_package:Model")
    with pytest.raises(TrainingError, match="did you mean 'PairPotential'"):
        make(f"{EXAMPLE}:PairPotental")
    with pytest.raises(TrainingError, match=r"write package\.module:Class"):
        make("PairPotential")
    with pytest.raises(TrainingError, match=r"model.arguments: .*depth"):
        make(f"{EXAMPLE}:PairPotential", depth=3)
    (tmp_path / "broken.py").write_text("import nonsense_that_is_not_there\n")
    with pytest.raises(TrainingError, match=r"broken\.py cannot be imported .ModuleNotFoundError"):
        make(f"{tmp_path}/broken.py:Model")
    with pytest.raises(ValidationError, match="needs `module`"):
        ModelConfig(type="custom")
    with pytest.raises(ValidationError, match="takes no `module`"):
        ModelConfig(module="a.py:B")


def test_dispersion_on_top_of_the_model() -> None:
    pytest.importorskip("dftd3")
    from ideal.labelling.codes.dispersion import Dispersion

    config = DispersionConfig(method="d3bj", functional="pbe")
    potential = tiny_potential()
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = IdealCalculator(potential, dispersion=config)
    energy, forces, stress = Dispersion(config, "pbe").evaluate(atoms)
    bare = potential.evaluate(atoms)
    assert atoms.get_potential_energy() == pytest.approx(bare.energy + energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), bare.forces + forces, atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), bare.stress + stress, atol=1e-14)
    assert abs(energy) > 0.1
    assert "energies" not in atoms.calc.results
    with pytest.raises(ConfigError, match="write `functional`"):
        IdealCalculator(potential, dispersion=DispersionConfig())
    with pytest.raises(ValidationError, match="write `functional`"):
        ModelConfig(dispersion={"method": "d4"})


def test_dispersion_of_a_slab_has_no_stress() -> None:
    pytest.importorskip("dftd3")
    atoms = bulk("Al", cubic=True)
    atoms.cell[2, 2] = 12.0
    atoms.pbc = [True, True, False]
    atoms.calc = IdealCalculator(tiny_potential(), dispersion=DispersionConfig(method="d3bj", functional="pbe"))
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def settings(folder: Path) -> dict[str, object]:
    """The least that a configuration needs."""
    (folder / "al.extxyz").write_text("1\n\nAl 0 0 0\n")
    return {
        "trajectories": [{"name": "a", "structure": "al.extxyz"}],
        "labelling": {"code": {"type": "pyscf", "dispersion": {"method": "d3bj"}}},
        "dataset": {"rattled": {"count": 3}},
    }


def test_a_file_of_a_model_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    model = {"type": "custom", "module": "mine.py:Model"}
    assert parse_config({**settings(tmp_path), "model": model}, tmp_path).model.module == f"{tmp_path}/mine.py:Model"
    model = {"type": "custom", "module": "elsewhere.mine:Model"}
    assert parse_config({**settings(tmp_path), "model": model}, tmp_path).model.module == "elsewhere.mine:Model"


def test_a_model_from_elsewhere_is_not_trained_from_scratch(tmp_path: Path) -> None:
    """Its sizes are not those of the section: that must be told before the run, not after it."""
    text = {**settings(tmp_path), "model": {"path": "other"}, "training": {"final": {"start": "scratch"}}}
    with pytest.raises(ConfigError, match=r"leave model\.path out"):
        parse_config(text, tmp_path)


def test_dispersion_is_counted_once(tmp_path: Path) -> None:
    text = settings(tmp_path)
    assert parse_config(text, tmp_path).model.dispersion is None
    with pytest.raises(ConfigError, match="the labels hold dispersion already"):
        parse_config({**text, "model": {"dispersion": {"functional": "pbe"}}}, tmp_path)
