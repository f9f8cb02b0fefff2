"""M3GNet: equality with matgl, loading, saving, reference energies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ideal.config import ModelConfig
from ideal.errors import TrainingError
from ideal.models import make_potential
from ideal.models.basis import radial_functions, radial_matrix, real_harmonics
from ideal.models.m3gnet import M3GNetPotential
from ideal.models.storage import MODEL_FILE

from .conftest import ELEMENTS, TINY, alcohol, crystal, slab, tiny_potential

REFERENCES = [-3.0, -150.0, -430.0, -60.0]


@pytest.fixture(scope="module")
def potential() -> M3GNetPotential:
    return tiny_potential(n_blocks=2, max_n=2, max_l=3)


def matgl_potential(potential: M3GNetPotential) -> torch.nn.Module:
    """matgl's own network, built by matgl alone, with the same weights."""
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    model = M3GNet(**potential._architecture)
    model.load_state_dict(potential._model.state_dict())
    return Potential(model, data_std=potential.energy_scale, element_refs=torch.tensor(REFERENCES), calc_stresses=True)


@pytest.mark.parametrize("make", [crystal, alcohol])
def test_equals_matgl_calculator(potential: M3GNetPotential, make: object) -> None:
    from matgl.ext.ase import PESCalculator

    atoms = make()  # type: ignore[operator]
    calculator = PESCalculator(matgl_potential(potential), stress_unit="eV/A3", use_voigt=True)
    calculator.calculate(atoms)
    ours = potential.evaluate(atoms)
    assert ours.energy == pytest.approx(calculator.results["energy"], abs=2e-4)  # matgl adds references in float32
    np.testing.assert_allclose(ours.forces, calculator.results["forces"], rtol=3e-6, atol=1e-5)
    if ours.stress is not None:
        np.testing.assert_allclose(ours.stress, calculator.results["stress"], rtol=3e-6, atol=1e-6)


def test_slab_equals_matgl_with_vacuum_made_periodic(potential: M3GNetPotential) -> None:
    """matgl's calculator drops all periodicity of a slab; over enough vacuum the fully periodic one is the same."""
    from matgl.ext.ase import PESCalculator

    periodic = slab()
    periodic.pbc = True
    calculator = PESCalculator(matgl_potential(potential), stress_unit="eV/A3", use_voigt=True)
    calculator.calculate(periodic)
    ours = potential.evaluate(slab())
    np.testing.assert_allclose(ours.forces, calculator.results["forces"], rtol=3e-6, atol=1e-5)
    np.testing.assert_allclose(ours.stress, calculator.results["stress"], rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize(("max_n", "max_l"), [(1, 1), (2, 2), (3, 3), (1, 4)])
def test_reorganized_pass_equals_matgl_pass(max_n: int, max_l: int) -> None:
    ours = tiny_potential(n_blocks=2, max_n=max_n, max_l=max_l).double()
    for atoms in (crystal(), slab(), alcohol(), Atoms("Al"), Atoms("Al2", positions=[[0, 0, 0], [0, 0, 3]])):
        fused = ours.evaluate(atoms)
        stock = tiny_potential(n_blocks=2, max_n=max_n, max_l=max_l).without_fused_pass().double().evaluate(atoms)
        assert fused.energy == pytest.approx(stock.energy, abs=1e-6)
        np.testing.assert_allclose(fused.forces, stock.forces, atol=1e-6)


def test_weight_gradients_equal_those_of_matgl_pass() -> None:
    """The reorganized pass serves training: derivatives of a loss of forces and stress agree parameter by parameter."""
    gradients = []
    for potential in (tiny_potential().double(), tiny_potential().without_fused_pass().double()):
        prediction = potential.predict([potential.graph(crystal()), potential.graph(alcohol())], differentiable=True)
        loss = prediction.energies.square().sum() + prediction.forces.square().sum()
        (loss + 100 * prediction.stresses.square().sum()).backward()
        gradients.append({name: p.grad for name, p in potential.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = gradients[1][name].abs().max().item()
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-6 * scale + 1e-9), name


def test_radial_matrix_equals_matgl_basis() -> None:
    from matgl.layers._basis import spherical_bessel_smooth

    r = torch.linspace(0.5, 5.0, 40, dtype=torch.float64)
    k = torch.arange(1, 8, dtype=torch.float64) * np.pi / 5.0
    ours = (torch.sin(r[:, None] * k) / r[:, None]) @ torch.from_numpy(radial_matrix(6, 5.0))
    np.testing.assert_allclose(ours, spherical_bessel_smooth(r, cutoff=5.0, max_n=6), atol=1e-12)


def test_radial_functions_equal_matgl_symbolic_ones() -> None:
    from matgl.utils.maths import _get_lambda_func

    r = torch.linspace(0.8, 5.0, 30, dtype=torch.float64)
    for ours, theirs in zip(radial_functions(4, 5.0), _get_lambda_func(4, 5.0), strict=True):
        np.testing.assert_allclose(ours(r), theirs(r), atol=1e-12)


def test_addition_theorem() -> None:
    from scipy.special import eval_legendre

    u = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator()), dim=1)
    a, b = real_harmonics(u, 4)
    cosine = float(u[0] @ u[1])
    for order in range(4):
        columns = slice(order**2, (order + 1) ** 2)
        assert float(a[columns] @ b[columns]) == pytest.approx(eval_legendre(order, cosine), abs=1e-12)


def test_predict_agrees_with_evaluate(potential: M3GNetPotential) -> None:
    atoms = crystal()
    prediction = potential.predict([potential.graph(atoms), potential.graph(alcohol())])
    expected = potential.evaluate(atoms)
    energy = prediction.energies[0].item() + potential.reference_energy(atoms)
    assert energy == pytest.approx(expected.energy, abs=1e-4)
    np.testing.assert_allclose(prediction.forces[:4].detach(), expected.forces, atol=1e-5)
    np.testing.assert_allclose(prediction.stresses[0].detach(), expected.stress, atol=1e-6)


def test_edge_vectors_survive_large_coordinates(potential: M3GNetPotential) -> None:
    """Float32 coordinates of 280 Å would cost 1e-4 of these forces of several eV/Å."""
    far = crystal()
    far.positions += 280.0
    np.testing.assert_allclose(potential.evaluate(far).forces, potential.evaluate(crystal()).forces, atol=1e-5)


def test_new_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = tiny_potential(seed=5).fingerprint()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert tiny_potential(seed=5).fingerprint() == first
    assert tiny_potential(seed=6).fingerprint() != first


def test_save_and_load(potential: M3GNetPotential, tmp_path: Path) -> None:
    potential.save(tmp_path / "model")
    potential.save(tmp_path / "model")
    loaded = M3GNetPotential.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint() == potential.fingerprint()
    assert loaded.reference_energies == potential.reference_energies
    assert loaded.is_fitted == potential.is_fitted
    ours, theirs = potential.evaluate(crystal()), loaded.evaluate(crystal())
    assert ours.energy == theirs.energy
    assert (ours.forces == theirs.forces).all()
    assert [p.name for p in (tmp_path / "model").iterdir()] == [MODEL_FILE]


def test_load_matgl_folder(potential: M3GNetPotential, tmp_path: Path) -> None:
    matgl_potential(potential).save(tmp_path)
    (tmp_path / "model.pt").unlink()  # pickled arguments are not read
    loaded = M3GNetPotential.load(tmp_path, device="cpu")
    assert loaded.is_fitted
    assert loaded.reference_energies == dict(zip(ELEMENTS, REFERENCES, strict=True))
    np.testing.assert_allclose(loaded.evaluate(slab()).forces, potential.evaluate(slab()).forces, atol=1e-5)


def test_load_matgl_model_without_wrapper(potential: M3GNetPotential, tmp_path: Path) -> None:
    potential._model.save(tmp_path)
    loaded = M3GNetPotential.load(tmp_path, device="cpu")
    assert set(loaded.reference_energies.values()) == {0.0}
    assert loaded.energy_scale == 1.0


def test_load_by_matgl_name(potential: M3GNetPotential, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matgl

    monkeypatch.setattr(matgl, "load_model", lambda name: matgl_potential(potential))
    loaded = M3GNetPotential.load("M3GNet-Some-Name", device="cpu")
    np.testing.assert_allclose(loaded.evaluate(slab()).forces, potential.evaluate(slab()).forces, atol=1e-5)
    loaded.save(tmp_path)
    again = M3GNetPotential.load(tmp_path, device="cpu")
    assert again.fingerprint() == loaded.fingerprint()


def test_load_refuses_unrestricted_pickle(potential: M3GNetPotential, tmp_path: Path) -> None:
    matgl_potential(potential).save(tmp_path)
    torch.save({"model": SimpleNamespace(harm=1)}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="not a readable matgl model"):
        M3GNetPotential.load(tmp_path)


def test_load_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matgl

    def offline(name: str) -> None:
        raise ValueError("no network")

    monkeypatch.setattr(matgl, "load_model", offline)
    with pytest.raises(TrainingError, match=r"'M3GNet-Nonsense' is neither a folder nor .*no network"):
        M3GNetPotential.load("M3GNet-Nonsense")
    with pytest.raises(TrainingError, match=f"no model there; name a folder with {MODEL_FILE}"):
        M3GNetPotential.load(tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="cannot be read"):
        M3GNetPotential.load(tmp_path)


def test_load_refuses_missing_weights(potential: M3GNetPotential, tmp_path: Path) -> None:
    matgl_potential(potential).save(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["model.embedding.layer_node_embedding.weight"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"layer_node_embedding.weight.* missing"):
        M3GNetPotential.load(tmp_path)


def test_load_refuses_weights_of_another_network(potential: M3GNetPotential, tmp_path: Path) -> None:
    """A layer that this network lacks would be dropped, and the numbers would be others."""
    matgl_potential(potential).save(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "model.graph_layers.9.weight": torch.ones(2)}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"the network has no .*graph_layers\.9\.weight"):
        M3GNetPotential.load(tmp_path)


def test_failed_write_keeps_the_old_model(
    potential: M3GNetPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    potential.save(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        tiny_potential().save(tmp_path)
    monkeypatch.undo()
    assert M3GNetPotential.load(tmp_path).fingerprint() == potential.fingerprint()
    assert [p.name for p in tmp_path.iterdir()] == [MODEL_FILE]


def test_references_keep_their_precision(tmp_path: Path) -> None:
    """Energies of all-electron codes (-1e4 eV per atom) must not drown the network's."""
    potential = tiny_potential()
    small = potential.evaluate(crystal()).energy - potential.reference_energy(crystal())
    potential.set_normalization({"Al": -6593.123456789, "O": -2041.987654321})
    large = potential.evaluate(crystal()).energy - potential.reference_energy(crystal())
    assert large == pytest.approx(small, abs=1e-8)
    potential.save(tmp_path)
    assert M3GNetPotential.load(tmp_path).reference_energies == potential.reference_energies


def test_bad_elements_and_device() -> None:
    with pytest.raises(TrainingError, match="at least one element"):
        M3GNetPotential.new(TINY, [], 0)
    with pytest.raises(TrainingError, match="'Xx' is not a chemical symbol"):
        M3GNetPotential.new(TINY, ["Xx"], 0)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="torch sees no GPU"):
            M3GNetPotential.new(TINY.model_copy(update={"device": "cuda"}), ["Al"], 0)


def test_make_potential(tmp_path: Path) -> None:
    potential = make_potential(TINY, ["O", "Al", "O"], seed=1)
    assert potential.elements == ("O", "Al")
    potential.save(tmp_path)
    config = ModelConfig(path=str(tmp_path), device="cpu")
    assert make_potential(config, ["Al"], seed=9).fingerprint() == potential.fingerprint()
    with pytest.raises(TrainingError, match="lacks Li"):
        make_potential(config, ["Al", "Li"], seed=0)


def test_revision_grows_with_every_change() -> None:
    potential = tiny_potential()
    seen = [potential.revision]
    potential.set_weights(potential.weights())
    seen.append(potential.revision)
    potential.set_normalization({"Al": 1.0})
    seen.append(potential.revision)
    assert seen == sorted(set(seen))


def test_stress_has_the_sign_of_ase() -> None:
    """Expanding a crystal of positive bulk modulus gives positive stress; checked through the energy's own slope."""
    potential = tiny_potential().double()
    atoms = bulk("Al", "fcc", a=4.0)
    larger, smaller = atoms.copy(), atoms.copy()
    larger.set_cell(atoms.cell.array * (1 + 1e-5), scale_atoms=True)
    smaller.set_cell(atoms.cell.array * (1 - 1e-5), scale_atoms=True)
    slope = (potential.evaluate(larger).energy - potential.evaluate(smaller).energy) / 2e-5
    stress = potential.evaluate(atoms).stress
    assert stress is not None
    assert stress[:3].sum() * atoms.get_volume() == pytest.approx(slope, rel=1e-5)
