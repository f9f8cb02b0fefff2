"""Several codes in one run: who labels what, and energies on one scale."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from ideal.config import AseConfig, CodeRule, GpawConfig, LabellingConfig, TbliteConfig, parse_config
from ideal.errors import ConfigError, LabelError
from ideal.labelling.choice import DEFAULT, choose_code
from ideal.labelling.codes import make_code
from ideal.labelling.codes.offsets import fit_offsets
from ideal.records import Label, structure_key


def config(**labelling):
    return {
        "trajectories": [{"structure": "cu.xyz", **labelling.pop("trajectory", {})}],
        "dataset": {"rattled": {"count": 1}},
        "labelling": {"code": {"type": "tblite"}, **labelling},
    }


def test_trajectory_then_rule_then_default():
    dense = GpawConfig(kpoint_length=30)
    rules = [
        CodeRule(code="b", periodic=False),
        CodeRule(code="c", elements=["Si", "O"], max_atoms=4),
    ]
    setup = LabellingConfig(code=GpawConfig(), codes={"a": dense, "b": dense, "c": dense}, rules=rules)
    assert choose_code(setup, bulk("Cu")) == DEFAULT
    assert choose_code(setup, molecule("H2O")) == "b"
    assert choose_code(setup, bulk("Si")) == "c"
    assert choose_code(setup, bulk("Si") * (1, 1, 3)) == DEFAULT
    assert choose_code(setup, molecule("H2O"), "a") == "a"


def test_energies_of_another_scale_are_refused(tmp_path):
    (tmp_path / "cu.xyz").write_text("1\n\nCu 0 0 0\n")
    other = {"type": "tblite", "method": "GFN2-xTB"}
    with pytest.raises(ConfigError, match=r"codes\.x: its energies are on another scale .*\(they differ in method\)"):
        parse_config(config(codes={"x": other}), tmp_path)
    parse_config(config(codes={"x": {**other, "energy_offsets": {"Cu": 1.5}}}), tmp_path)
    parse_config(config(codes={"x": {"type": "tblite", "max_iterations": 9}}), tmp_path)  # numerics do not count
    with pytest.raises(ConfigError, match=r"trajectories\.0\.code: no code 'y' in labelling\.codes"):
        parse_config(config(codes={"x": {"type": "tblite"}}, trajectory={"code": "y"}), tmp_path)
    with pytest.raises(ConfigError, match=r"rules\.0\.code: no code 'y'"):
        parse_config(config(rules=[{"code": "y"}]), tmp_path)
    with pytest.raises(ConfigError, match="'default' stands for"):
        parse_config(config(codes={"default": {"type": "tblite"}}), tmp_path)


def test_paths_of_further_codes_and_the_store_are_resolved(tmp_path):
    (tmp_path / "cu.xyz").write_text("1\n\nCu 0 0 0\n")
    (tmp_path / "pots").mkdir()
    lammps = {"type": "lammps", "elements": ["Cu"], "commands": ["pair_style zero 5"], "energy_offsets": {"Cu": 0.1}}
    found = parse_config(
        config(codes={"x": {**lammps, "folder": "pots"}}, store="shared/labels.db"), tmp_path
    ).labelling
    assert found.codes["x"].folder == tmp_path / "pots" and found.store == tmp_path / "shared" / "labels.db"
    with pytest.raises(ConfigError, match=r"labelling\.codes\.x\.folder: no such folder"):
        parse_config(config(codes={"x": {**lammps, "folder": "none"}}), tmp_path)


def test_offsets_shift_the_energy_and_enter_the_key(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    plain = AseConfig(calculator="ase.calculators.emt:EMT")
    one, other = make_code(plain), make_code(plain.model_copy(update={"energy_offsets": {"Cu": 2.5}}))
    before, after = one.compute(atoms, tmp_path), other.compute(atoms, tmp_path)
    assert after.energy == pytest.approx(before.energy - 4 * 2.5, abs=1e-12)
    assert np.array_equal(after.forces, before.forces) and np.array_equal(after.stress, before.stress)
    assert structure_key(atoms, one.settings) != structure_key(atoms, other.settings)
    assert other.check(["Cu"])[-1] == "energy offsets (eV): Cu 2.5"
    with pytest.raises(LabelError, match="energy_offsets for Cu but none for 'Ni'"):
        other.compute(bulk("Ni"), tmp_path)


def test_fit_offsets(tmp_path):
    truth, rng = {"H": -3.0, "O": 12.5}, np.random.default_rng(0)
    ours, theirs = [], []
    for name in ("H2O", "H2", "O2", "H2O2"):
        atoms = molecule(name)
        energy = float(rng.normal())
        label = Label("", atoms, energy, np.zeros((len(atoms), 3)), None, "a")
        theirs.append(label)
        ours.append(Label("", atoms, energy + sum(truth[s] for s in atoms.symbols), label.forces, None, "b"))
    assert fit_offsets(ours, theirs) == pytest.approx(truth)
    with pytest.raises(LabelError, match="do not tell H, O apart"):
        fit_offsets(ours[:1], theirs[:1])
    with pytest.raises(LabelError, match="not of the same structures"):
        fit_offsets(ours, theirs[:2])


def test_offsets_bring_two_methods_onto_one_scale(tmp_path):
    """GFN1 and GFN2 energies of water clusters differ by 19 eV a molecule before, by little after."""
    one, other = TbliteConfig(), TbliteConfig(method="GFN2-xTB")
    structures = [molecule(name) for name in ("H2O", "H2", "O2", "H2O2", "OH")][:4]
    labels = {}
    for config_ in (one, other):
        code = make_code(config_)
        results = [code.compute(atoms, tmp_path) for atoms in structures]
        labels[config_.method] = [
            Label("", atoms, result.energy, result.forces, None, "x")
            for atoms, result in zip(structures, results, strict=True)
        ]
    offsets = fit_offsets(labels["GFN2-xTB"], labels["GFN1-xTB"])
    shifted = make_code(other.model_copy(update={"energy_offsets": offsets}))
    before = [b.energy - a.energy for a, b in zip(labels["GFN1-xTB"], labels["GFN2-xTB"], strict=True)]
    after = [
        shifted.compute(s, tmp_path).energy - a.energy for s, a in zip(structures, labels["GFN1-xTB"], strict=True)
    ]
    assert max(map(abs, before)) > 10 and max(map(abs, after)) < 0.6
