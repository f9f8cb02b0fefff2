"""pair_style ideal against Python's float64 evaluation of the same weights, on one and several ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data

from ideal.config import ModelConfig
from ideal.models.m3gnet import M3GNetPotential

from .conftest import Run
from .test_fix_ideal import dumped, learned, lithium, structures

pytestmark = pytest.mark.lammps

EV_PER_CUBIC_ANGSTROM = 1602176.6208  # bar; LAMMPS' constant in metal units
KCAL = 23.060549
SETUP = """
clear
units {units}
atom_style atomic
atom_modify map yes
boundary {boundary}
read_data {name}.data
plugin load PLUGIN
pair_style ideal
pair_coeff * * {model}/model.safetensors {species}
"""
OUTPUT = """
compute e all pe/atom
compute w all stress/atom NULL virial
compute sum all reduce sum c_w[1] c_w[2] c_w[3] c_w[6] c_w[5] c_w[4]
dump d all custom 1 {name}.dump id fx fy fz c_e
dump_modify d format float %.17g sort id
thermo_style custom step pe pxx pyy pzz pyz pxz pxy c_sum[*]
thermo_modify format float %.17g norm no
run 0
"""


def setup(name: str, species: list[str], boundary: str = "p p p", units: str = "metal", model: str = "model") -> str:
    return SETUP.format(name=name, boundary=boundary, units=units, model=model, species=" ".join(species))


def network(species: list[str], path: Path, seed: int = 0, **sizes: int) -> M3GNetPotential:
    """A random model of some depth, saved; returned in float64."""
    config = ModelConfig(**{"n_blocks": 2, "units": 16, "max_n": 3, "max_l": 3, **sizes})  # type: ignore[arg-type]
    potential = M3GNetPotential.new(config, species, seed=seed)
    potential.set_normalization({s: -1.5 - k for k, s in enumerate(species)}, energy_scale=20.0)
    potential.save(path)
    return potential.double()


def thermo(output: str) -> list[np.ndarray]:
    """Values of step 0 of each run: energy, six pressures in Voigt order, six sums of stress * volume."""
    rows = [line.split() for line in output.splitlines() if line.split()[:1] == ["0"] and len(line.split()) == 14]
    return [np.array(row[1:], dtype=float) for row in rows]


def check(potential: M3GNetPotential, atoms: Atoms, values: np.ndarray, columns: np.ndarray, unit: float = 1.0) -> None:
    expected = potential.evaluate(atoms)
    largest = np.abs(expected.forces).max()
    assert values[0] / unit == pytest.approx(expected.energy, rel=1e-6)
    assert np.abs(columns[:, 1:4] / unit - expected.forces).max() < 2e-6 * largest
    network_energies = expected.energies - [potential.reference_energies[symbol] for symbol in atoms.symbols]
    assert np.abs(columns[:, 4] / unit - expected.energies).max() < 1e-6 * np.abs(network_energies).max()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi), pytest.param(4, marks=pytest.mark.mpi)])
def test_energy_forces_and_virial_are_those_of_python(ranks: int, lammps: Run, tmp_path: Path) -> None:
    script, cases = "", {}
    for name, (atoms, boundary) in structures().items():
        species = sorted(set(atoms.get_chemical_symbols()))
        pbc = [letter == "p" for letter in boundary.split()]
        atoms.set_pbc(pbc)
        xx, yy, zz, xy, xz, yz = Prism(atoms.cell.array).get_lammps_prism()
        atoms.set_cell([[xx, 0, 0], [xy, yy, 0], [xz, yz, zz]], scale_atoms=True)  # forces are not rotated then
        write_lammps_data(tmp_path / f"{name}.data", atoms, masses=True, specorder=species)
        cases[name] = (network(species, tmp_path / name), atoms)
        script += setup(name, species, boundary, model=name) + OUTPUT.format(name=name)
    rows = thermo(lammps(script, ranks))
    assert len(rows) == len(cases)
    for values, (name, (potential, atoms)) in zip(rows, cases.items(), strict=True):
        check(potential, atoms, values, dumped(tmp_path / f"{name}.dump", 0))
        if not atoms.pbc.all():
            continue
        expected = potential.evaluate(atoms).stress
        assert expected is not None
        tolerance = 2e-6 * np.abs(expected).max()
        pressures = values[1:7] / EV_PER_CUBIC_ANGSTROM
        sums = values[7:13] / EV_PER_CUBIC_ANGSTROM / atoms.get_volume()
        assert np.allclose(-pressures, expected, atol=tolerance, rtol=0), name
        assert np.allclose(sums, expected, atol=tolerance, rtol=0), name


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_blocks": 1, "units": 8, "max_n": 1, "max_l": 1},
        {"n_blocks": 3, "units": 20, "max_n": 2, "max_l": 2},
        {"n_blocks": 4, "units": 32, "max_n": 4, "max_l": 4},
    ],
)
@pytest.mark.parametrize("instruction_set", ["baseline", ""])
def test_every_size(
    sizes: dict[str, int], instruction_set: str, lammps: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDEAL_INSTRUCTION_SET", instruction_set)
    atoms = lithium(2, 0.15)
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    potential = network(["Li", "O"], tmp_path / "model", **sizes)
    (values,) = thermo(lammps(setup("li", ["Li"]) + OUTPUT.format(name="li")))
    check(potential, atoms, values, dumped(tmp_path / "li.dump", 0))


def test_units_real(lammps: Run, tmp_path: Path) -> None:
    atoms = lithium(2, 0.15)
    write_lammps_data(tmp_path / "li.data", atoms, masses=True, units="real")
    potential = network(["Li"], tmp_path / "model")
    (values,) = thermo(lammps(setup("li", ["Li"], units="real") + OUTPUT.format(name="li")))
    check(potential, atoms, values, dumped(tmp_path / "li.dump", 0), KCAL)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_hybrid_sees_its_own_atoms_only(ranks: int, lammps: Run, tmp_path: Path) -> None:
    """Sodium by the network, chlorine by nothing."""
    atoms = structures()["salt"][0]
    write_lammps_data(tmp_path / "salt.data", atoms, masses=True, specorder=["Cl", "Na"])
    potential = network(["Na"], tmp_path / "model")
    script = setup("salt", ["NULL", "Na"]).replace("pair_style ideal", "pair_style hybrid/overlay zero 6.0 ideal")
    script = script.replace("pair_coeff * * ", "pair_coeff * * zero\npair_coeff * * ideal ")
    (values,) = thermo(lammps(script + OUTPUT.format(name="salt"), ranks))
    sodium = atoms.numbers == 11
    columns = dumped(tmp_path / "salt.dump", 0)
    check(potential, atoms[sodium], values, columns[sodium])
    assert not columns[~sodium, 1:].any()


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_hybrid_exchanges_rows_of_any_width(ranks: int, lammps: Run, tmp_path: Path) -> None:
    """LAMMPS sizes its buffers by what the hybrid style announces."""
    write_lammps_data(tmp_path / "li.data", lithium(3, 0.1), masses=True)
    network(["Li"], tmp_path / "model", units=96)
    alone = setup("li", ["Li"])
    script = alone.replace("pair_style ideal", "pair_style hybrid/overlay zero 6.0 ideal")
    script = script.replace("pair_coeff * * ", "pair_coeff * * zero\npair_coeff * * ideal ")
    output = OUTPUT.format(name="li")
    expected, values = thermo(lammps(alone + output + script + output, ranks))
    assert values == pytest.approx(expected, rel=1e-9)


@pytest.mark.mpi
def test_trajectories_on_one_and_two_ranks_agree(lammps: Run, tmp_path: Path) -> None:
    """40 steps, atoms changing ranks; total energy is conserved."""
    write_lammps_data(tmp_path / "li.data", lithium(3, 0.1), masses=True)
    network(["Li"], tmp_path / "model")
    run = (
        "velocity all create 1500 7 loop geom\nfix move all nve\ndump d all custom 40 {}.dump id xu yu zu\n"
        "dump_modify d format float %.17g sort id\nthermo_style custom step etotal\nthermo 40\n"
        "thermo_modify format float %.17g norm no\nrun 40\n"
    )
    ends = []
    for ranks in (1, 2):
        output = lammps(setup("li", ["Li"]) + run.replace("{}", f"r{ranks}"), ranks)
        rows = [line.split() for line in output.splitlines() if line.split()[:1] in (["0"], ["40"])]
        energies = [float(row[1]) for row in rows if len(row) == 2]
        assert len(energies) == 2
        assert energies[1] == pytest.approx(energies[0], abs=2e-3)
        ends.append(dumped(tmp_path / f"r{ranks}.dump", 40)[:, 1:])
    assert np.abs(ends[0] - ends[1]).max() < 1e-6


def test_new_weights_in_place(lammps: Run, tmp_path: Path) -> None:
    atoms = lithium(2, 0.15)
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    potentials = [network(["Li"], tmp_path / name, seed=k) for k, name in enumerate(("model", "other"))]
    rest = OUTPUT.format(name="li") + "pair_coeff * * other/model.safetensors Li\nrun 0\n"
    rows = thermo(lammps(setup("li", ["Li"]) + rest))
    assert [row[0] for row in rows] == pytest.approx([p.evaluate(atoms).energy for p in potentials], rel=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model/model", "absent/model", "cannot read 'absent/model.safetensors'"),
        ("model/model.safetensors", "model", "cannot read 'model'; name a model.safetensors"),
        ("clear", "shell putenv IDEAL_INSTRUCTION_SET=other\nclear", "instruction set 'other' is not available here"),
        ("model/model.safetensors", "li.data", "li.data: this model cannot be used"),
        (
            "safetensors Li",
            "safetensors Na",
            "'Na' (atom type 1) is no element of 'model/model.safetensors', which knows Li",
        ),
        ("safetensors Li", "safetensors", "one element (or NULL) for each of the 1 atom types"),
        ("pair_style ideal", "pair_style ideal 5.0", "unknown word '5.0'"),
        ("units metal", "units lj", "not in units lj"),
        ("atom_style", "newton off\natom_style", "needs newton pair on"),
    ],
)
def test_errors_say_what_to_do(old: str, new: str, message: str, lammps: Run, tmp_path: Path) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(2), masses=True)
    network(["Li"], tmp_path / "model")
    output = lammps((setup("li", ["Li"]) + "run 0\n").replace(old, new), fails=True)
    assert message in " ".join(output.split())


def test_coincident_atoms_stop_the_run(lammps: Run, tmp_path: Path) -> None:
    atoms = lithium(2)
    atoms.positions[5] = atoms.positions[0]
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    network(["Li"], tmp_path / "model")
    output = lammps(setup("li", ["Li"]) + "run 0\n", fails=True)
    assert "are at the same place; separate them" in " ".join(output.split())


def test_new_weights_need_a_new_setup(lammps: Run, tmp_path: Path) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(2, 0.1), masses=True)
    network(["Li"], tmp_path / "model")
    network(["Li"], tmp_path / "other", units=40)
    rest = "fix move all nve\nrun 1\npair_coeff * * other/model.safetensors Li\nrun 1 pre no\n"
    output = lammps(setup("li", ["Li"]) + rest, fails=True)
    assert "use run without pre no" in " ".join(output.split())


def test_a_thousand_reloads_leak_nothing(lammps: Run, tmp_path: Path) -> None:
    """Of model and distribution; LAMMPS tells the largest memory so far."""
    write_lammps_data(tmp_path / "li.data", lithium(2, 0.1), masses=True)
    network(["Li"], tmp_path / "model")
    learned(["Li"], [lithium(3, 0.1)], tmp_path / "u.safetensors")
    reload = "pair_coeff * * model/model.safetensors Li\nfix_modify u state u.safetensors\n"
    script = setup("li", ["Li"]) + "comm_modify cutoff 9.5\nfix u all ideal 1 u.safetensors Li\n"
    output = lammps(script + "run 0\n" + 100 * reload + "run 0\ninfo memory\n" + 900 * reload + "run 0\ninfo memory\n")
    first, last = [float(line.split()[4]) for line in output.splitlines() if line.startswith("Maximum resident")]
    assert last < first + 0.5  # MB
