"""Codes that cannot be installed freely: their input files against reviewed references, their parsers on sample
outputs (tests/labelling/data/README.md names the sources), and whole calculations with programs that copy the samples.
"""

import stat
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, GPa, Hartree

from ideal.config import AimsConfig, DftbConfig, OrcaConfig, VaspConfig
from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.codes import NotConvergedError, make_code

DATA = Path(__file__).parent / "data"
PAIR = Atoms("SiO", [[0.5, 0, 0], [0, 0, 1.6]], cell=[4, 5, 6], pbc=True)


def program(path: Path, script: str) -> str:
    """An executable shell script that stands for a code."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# --- VASP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def potcars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "potentials"
    for name in ("Si", "O", "Li_sv"):
        (folder / "potpaw_PBE" / name).mkdir(parents=True)
        (folder / "potpaw_PBE" / name / "POTCAR").write_text(f"  PAW_PBE {name} 05Jan2001\n")
    monkeypatch.setenv("VASP_PP_PATH", str(folder))
    return folder


def vasp(command: str = "true", **changes) -> VaspConfig:
    return VaspConfig(**({"version": "6.4.3", "command": command, "kpoint_length": 12, "smearing": 0.2} | changes))


INCAR = """
ENCUT = 520.000000
SIGMA = 0.200000
EDIFF = 1.00e-06
ALGO = Normal
GGA = PE
PREC = Accurate
IBRION = -1
ISIF = 2
ISMEAR = -1
ISPIN = 1
ISYM = 0
NELM = 100
NSW = 0
ADDGRID = .FALSE.
LASPH = .TRUE.
LCHARG = .FALSE.
LWAVE = .FALSE.
LREAL = .FALSE.
"""


def words(text: str) -> list[str]:
    return sorted(" ".join(line.split()) for line in text.strip().splitlines() if line.strip())


def test_vasp_input(potcars, tmp_path):
    atoms = Atoms("SiOSi", [[0, 0, 0], [0, 0, 1.6], [2, 2, 2]], cell=[4, 5, 6], pbc=True)
    order = make_code(vasp()).write_input(atoms, tmp_path)
    assert words((tmp_path / "INCAR").read_text()) == words(INCAR)
    assert (tmp_path / "KPOINTS").read_text().splitlines()[1:4] == ["0", "Monkhorst-Pack", "3 3 2"]
    assert (tmp_path / "POTCAR").read_text().split() == ["PAW_PBE", "Si", "05Jan2001", "PAW_PBE", "O", "05Jan2001"]
    poscar = (tmp_path / "POSCAR").read_text().splitlines()
    assert poscar[5].split() == ["Si", "O"] and poscar[6].split() == ["2", "1"]
    assert order == [0, 2, 1]  # VASP's order is Si, Si, O


def test_vasp_presets_and_tags(potcars, tmp_path):
    code = make_code(vasp(preset="fast", xc="r2scan", mixing=0.1, algorithm="all", incar={"ncore": 4, "ivdw": 12}))
    code.write_input(PAIR, tmp_path)
    lines = words((tmp_path / "INCAR").read_text())
    for line in ("PREC = Normal", "LREAL = Auto", "METAGGA = R2SCAN", "AMIX = 0.100000", "ALGO = All", "NCORE = 4"):
        assert line in lines
    with pytest.raises(ValueError, match="'encut' is set by another key"):
        vasp(incar={"encut": 300})
    with pytest.raises(ValueError, match="write 'ncore'"):
        vasp(incar={"NCORE": 4})


def test_vasp_reads_its_result_in_the_order_of_the_atoms(potcars, tmp_path):
    atoms = Atoms("SiOSi", [[0, 0, 0], [0, 0, 1.6], [2, 2, 2]], cell=[4, 5, 6], pbc=True)
    script = f"cp {DATA}/vasprun.xml . ; echo ' total drift:   0.001  -0.003  0.002' > OUTCAR"
    result = make_code(vasp(program(tmp_path / "vasp", script))).compute(atoms, tmp_path)
    assert result.energy == -10.84274516  # the free energy, not the extrapolated one
    assert result.entropy == pytest.approx(0.003) and result.converged and result.removed_net_force == 0.003
    np.testing.assert_allclose(result.forces, [[0.1, 0.2, -0.3], [-0.5, -0.2, 0.3], [0.4, 0, 0]])
    np.testing.assert_allclose(result.stress, -0.1 * GPa * np.array([10, 20, 30, 3, 2, 1]))
    assert not (tmp_path / "POTCAR").exists()  # licensed: never left in a folder of a failed label


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("sed 's/>    60</>    2</' {data}/vasprun.xml > vasprun.xml", NotConvergedError, "in 2 SCF iterations"),
        ("head -n 30 {data}/vasprun.xml > vasprun.xml", LabelError, "vasprun.xml is not complete"),
        ("sed 's/6.4.3/5.4.4/' {data}/vasprun.xml > vasprun.xml", LabelError, "is of VASP 5.4.4"),
        ("echo '|  ERROR: POTCAR is corrupt   |'; exit 1", LabelError, "status 1: ERROR: POTCAR is corrupt"),
        ("grep -v '<v>' {data}/vasprun.xml > vasprun.xml", LabelError, "no energy and forces"),
    ],
)
def test_vasp_failures(potcars, tmp_path, script, error, text):
    code = make_code(vasp(program(tmp_path / "vasp", script.format(data=DATA))))
    with pytest.raises(error, match=text):
        code.compute(PAIR, tmp_path)


def test_vasp_check(potcars, monkeypatch):
    code = make_code(vasp())
    assert code.check(["Li"])[1] == "Li: PAW_PBE Li_sv 05Jan2001"
    with pytest.raises(LabelError, match="no POTCAR of 'Fe' for setups 'recommended'"):
        code.check(["Fe"])
    with pytest.raises(MissingPackageError, match="VASP is licensed"):
        make_code(vasp("no-such-vasp")).check(["Si"])
    (potcars / "potpaw_PBE" / "Si" / "POTCAR").write_text("  PAW_PBE Si 2024\n")
    assert make_code(vasp()).settings != code.settings
    monkeypatch.delenv("VASP_PP_PATH")
    with pytest.raises(LabelError, match="set VASP_PP_PATH"):
        make_code(vasp())


# --- FHI-aims ---------------------------------------------------------------------------------------------------------

AIMS_CONTROL = """xc pbe
relativistic atomic_zora scalar
spin none
charge 0
occupation_type fermi 0.1
sc_accuracy_rho 1e-05
sc_iter_limit 100
compute_forces .true.
compute_analytical_stress .true.
k_grid 3 3 2
k_offset 0 0 0.25
species O
species Si
"""
AIMS_GEOMETRY = """lattice_vector 4.000000000000 0.000000000000 0.000000000000
lattice_vector 0.000000000000 5.000000000000 0.000000000000
lattice_vector 0.000000000000 0.000000000000 6.000000000000
atom 0.500000000000 0.000000000000 0.000000000000 Si
atom 0.000000000000 0.000000000000 1.600000000000 O
"""
AIMS_BANNER = "if [ ! -f control.in ]; then echo '  FHI-aims version      : 240920_1'; exit 1; fi; "


@pytest.fixture
def aims(tmp_path):
    species = tmp_path / "light"
    species.mkdir()
    for name in ("14_Si", "08_O"):
        (species / f"{name}_default").write_text(f"species {name[3:]}\n")

    def make(script: str, **changes):
        command = program(tmp_path / "aims.x", AIMS_BANNER + script)
        return make_code(AimsConfig(**({"command": command, "species_dir": species, "kpoint_length": 12} | changes)))

    return make


def test_aims_input(aims, tmp_path):
    code = aims("")
    code.write_input(PAIR, tmp_path)
    assert "".join(line for line in (tmp_path / "geometry.in").read_text()) == AIMS_GEOMETRY
    control = [line for line in (tmp_path / "control.in").read_text().splitlines() if line]
    assert control == AIMS_CONTROL.splitlines()
    code.write_input(molecule("SiO"), tmp_path)
    assert "k_grid" not in (tmp_path / "control.in").read_text()
    assert "lattice_vector" not in (tmp_path / "geometry.in").read_text()


def test_aims_reads_its_result(aims, tmp_path):
    code = aims(f"cat {DATA}/aims.out")
    assert code.settings["version"] == "240920_1"
    assert code.check(["Si", "O"])[1:] == ["Si: 14_Si_default", "O: 08_O_default"]
    result = code.compute(PAIR, tmp_path)
    assert result.energy == -15784.672 and result.entropy == pytest.approx(0.02)
    assert result.forces[1, 1] == 0.533120755386862
    np.testing.assert_allclose(
        result.stress, [-0.00376356, -0.00385272, -0.00713608, -0.00026725, 0.00039926, -0.00055696]
    )
    assert result.removed_net_force == pytest.approx(0.00124837)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("sed /converged/d {data}/aims.out", NotConvergedError, "did not converge in 100 SCF"),
        ("head -n 40 {data}/aims.out", LabelError, "ended with status 0"),
        ("echo 'Species Si: error'; exit 3", LabelError, "status 3: Species Si: error"),
    ],
)
def test_aims_failures(aims, tmp_path, script, error, text):
    with pytest.raises(error, match=text):
        aims(script.format(data=DATA)).compute(PAIR, tmp_path)


def test_aims_names_what_is_missing(aims, tmp_path):
    with pytest.raises(LabelError, match="no species file 03_Li_default"):
        aims("").check(["Li"])
    with pytest.raises(LabelError, match="holds no species files"):
        aims("", species_dir=tmp_path)


# --- ORCA -------------------------------------------------------------------------------------------------------------

ORCA_INPUT = """! B3LYP def2-TZVP TightSCF SlowConv EnGrad
%scf MaxIter 200 end
%pal nprocs 4 end
* xyz -1 2
H     0.000000000000    0.000000000000    0.000000000000
H     0.000000000000    0.000000000000    0.700000000000
*
"""
ORCA_BANNER = "if [ $1 = no-such-input ]; then echo ' Program Version 6.0.0  -  RELEASE  -'; exit 1; fi; "
HYDROGEN = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])


@pytest.fixture
def orca(tmp_path):
    def make(script: str, **changes):
        command = program(tmp_path / "orca", ORCA_BANNER + script)
        return make_code(OrcaConfig(command=command, **changes))

    return make


def test_orca_input(orca):
    changes = {"method": "B3LYP", "basis": "def2-TZVP", "blocks": "%pal nprocs 4 end", "charge": -1, "spin": 1}
    code = orca("", convergence="slow", max_iterations=200, **changes)
    assert code.input_text(HYDROGEN) == ORCA_INPUT
    assert code.settings == orca("", **changes).settings  # how it converges is no part of the key


def test_orca_reads_its_gradient(orca, tmp_path):
    code = orca(f"cp {DATA}/orca.engrad . ; echo '   ****ORCA TERMINATED NORMALLY****'")
    assert code.check(["H"])[0] == "ORCA 6.0.0: PBE/def2-SVP TightSCF"
    result = code.compute(HYDROGEN, tmp_path)
    assert result.energy == pytest.approx(-1.162793254021 * Hartree) and result.energy_kind == "total_energy"
    assert result.forces[0, 2] == pytest.approx(0.024157120456 * Hartree / Bohr) and result.stress is None


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("echo 'SCF NOT CONVERGED AFTER 125 CYCLES'; exit 1", NotConvergedError, "in 125 SCF iterations"),
        ("echo 'FINAL SINGLE POINT ENERGY (Wavefunction not fully converged!) -1.1'", NotConvergedError, "SCF"),
        ("echo 'INPUT ERROR'; echo 'UNKNOWN METHOD'; exit 2", LabelError, "status 2: INPUT ERROR UNKNOWN METHOD"),
        ("echo '****ORCA TERMINATED NORMALLY****'", LabelError, "no energy and gradient of 2 atoms"),
    ],
)
def test_orca_failures(orca, tmp_path, script, error, text):
    with pytest.raises(error, match=text):
        orca(script).compute(HYDROGEN, tmp_path)


def test_orca_is_for_molecules(orca, tmp_path):
    with pytest.raises(LabelError, match="ORCA labels molecules"):
        orca("").compute(PAIR, tmp_path)


# --- DFTB+ ------------------------------------------------------------------------------------------------------------

DFTB_INPUT = """Geometry {
  TypeNames { "O" "Si" }
  TypesAndCoordinates [Angstrom] {
    2 0.500000000000 0.000000000000 0.000000000000
    1 0.000000000000 0.000000000000 1.600000000000
  }
  Periodic = Yes
  LatticeVectors [Angstrom] {
    4.000000000000 0.000000000000 0.000000000000
    0.000000000000 5.000000000000 0.000000000000
    0.000000000000 0.000000000000 6.000000000000
  }
}
Hamiltonian = DFTB {
  SCC = Yes
  SCCTolerance = 1e-06
  MaxSCCIterations = 200
  Charge = 0
  Mixer = Broyden {
    MixingParameter = 0.2
  }
  MaxAngularMomentum {
    O = "p"
    Si = "d"
  }
  SlaterKosterFiles = Type2FileNames {
    Prefix = "FOLDER/"
    Separator = "-"
    Suffix = ".skf"
  }
  Filling = Fermi {
    Temperature [Kelvin] = 300
  }
  KPointsAndWeights = SupercellFolding {
    3 0 0
    0 3 0
    0 0 2
    0 0 0.5
  }
}
Analysis {
  CalculateForces = Yes
}
Options {
  WriteResultsTag = Yes
}
ParserOptions {
  ParserVersion = 10
}
"""
DFTB_BANNER = "if [ ! -f dftb_in.hsd ]; then echo '|  DFTB+ release 24.1'; exit 1; fi; "


@pytest.fixture
def dftb(tmp_path):
    folder = tmp_path / "slako"
    folder.mkdir()
    for pair in ("Si-Si", "Si-O", "O-Si", "O-O"):
        (folder / f"{pair}.skf").write_text(pair)

    def make(script: str, **changes):
        command = program(tmp_path / "dftb", DFTB_BANNER + script)
        momenta = {"Si": "d", "O": "p"}
        values = {"command": command, "slako_dir": folder, "max_angular_momentum": momenta, "kpoint_length": 12}
        return make_code(DftbConfig(**(values | changes)))

    return make


def test_dftb_input(dftb, tmp_path):
    assert dftb("").input_text(PAIR) == DFTB_INPUT.replace("FOLDER", str(tmp_path / "slako"))
    third = dftb("", third_order={"Si": -0.11, "O": -0.1575}).input_text(molecule("SiO"))
    assert "ThirdOrderFull = Yes" in third and "O = -0.1575" in third and "Periodic" not in third


def test_dftb_reads_its_result(dftb, tmp_path):
    code = dftb(f"cp {DATA}/results.tag .")
    assert code.check(["Si", "O"]) == [
        "DFTB+ 24.1: slako, semi-empirical",
        "Si: up to d orbitals",
        "O: up to p orbitals",
    ]
    result = code.compute(PAIR, tmp_path)
    assert result.energy == pytest.approx(-2.500550865464 * Hartree)
    assert result.entropy == pytest.approx(0.000550865464 * Hartree)
    np.testing.assert_allclose(result.forces[0], np.array([0.012, 0.003, -0.005]) * Hartree / Bohr)
    np.testing.assert_allclose(result.stress, -np.array([10, 40, 60, 5, 3, 2]) * 1e-5 * Hartree / Bohr**3)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("echo '-> SCC is NOT converged, maximal SCC iterations exceeded'; exit 1", NotConvergedError, "in 200 SCC"),
        ("echo 'ERROR!'; echo '-> No such file'; exit 1", LabelError, "status 1: No such file"),
        ("grep -v E {data}/results.tag > results.tag; true", LabelError, "no energy and forces of 2 atoms"),
    ],
)
def test_dftb_failures(dftb, tmp_path, script, error, text):
    with pytest.raises(error, match=text):
        dftb(script.format(data=DATA)).compute(PAIR, tmp_path)


def test_dftb_names_what_is_missing(dftb, tmp_path):
    with pytest.raises(LabelError, match="max_angular_momentum has no entry for 'H'"):
        dftb("").check(["H"])
    (tmp_path / "slako" / "O-Si.skf").unlink()
    with pytest.raises(LabelError, match=r"holds no O-Si\.skf"):
        dftb("")


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", '"', "no-such-program"])
def test_commands_that_are_none(command, tmp_path):
    with pytest.raises((LabelError, MissingPackageError), match=r"labelling\.code\.command"):
        make_code(OrcaConfig(command=command))


def test_programs_run_in_their_folder_without_a_shell(orca, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(LabelError):
        orca("pwd; touch here").compute(HYDROGEN, work)
    assert (work / "here").exists() and (work / "orca.inp").exists()
