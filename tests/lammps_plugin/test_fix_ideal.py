"""fix ideal and compute ideal/uncertainty/atom against Python, on one and several ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.cluster import Octahedron
from ase.io import read
from ase.io.lammpsdata import write_lammps_data

from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .conftest import Run

pytestmark = pytest.mark.lammps
several_ranks = pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])

# Pairs repel softly in it; it is there for the ghost atoms and for something to integrate.
SETUP = """
clear
units metal
atom_style atomic
atom_modify map yes
boundary {boundary}
read_data {name}.data
pair_style {pair}
pair_coeff * * {coefficients}
comm_modify cutoff 9.5
plugin load PLUGIN
"""


def setup(name: str, boundary: str = "p p p", pair: str = "lj/cut 6.0", coefficients: str = "0.05 2.6") -> str:
    return SETUP.format(name=name, boundary=boundary, pair=pair, coefficients=coefficients)


def lithium(cells: int = 4, amplitude: float = 0.12, seed: int = 1) -> Atoms:
    atoms = bulk("Li", "bcc", a=3.45, cubic=True) * (cells, cells, cells)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def learned(species: list[str], structures: list[Atoms], path: Path) -> SoapMahalanobis:
    uncertainty = SoapMahalanobis(SoapPowerSpectrum(species, n_max=4, l_max=3))
    for atoms in structures:
        uncertainty.update(atoms)
    uncertainty.save(path)
    return uncertainty


@pytest.fixture
def uncertainty(tmp_path: Path) -> SoapMahalanobis:
    return learned(["Li"], [lithium(4, 0.1, seed=2)], tmp_path / "u.safetensors")


def dumped(path: Path, step: int) -> np.ndarray:
    """Columns of one step of a LAMMPS dump."""
    for frame in path.read_text().split("ITEM: TIMESTEP\n")[1:]:
        lines = frame.splitlines()
        if int(lines[0]) == step:
            return np.array([line.split() for line in lines[8:]], dtype=float)
    raise AssertionError(f"no step {step} in {path}")


def structures() -> dict[str, tuple[Atoms, str]]:
    """Name: structure, boundary of its box."""
    triclinic = bulk("Li", "bcc", a=3.45) * (5, 5, 5)
    triclinic.set_cell(triclinic.cell @ np.array([[1, 0.1, 0], [0, 1, 0.2], [0, 0, 1]]), scale_atoms=True)
    triclinic.rattle(0.1, seed=3)
    slab = fcc111("Al", (5, 5, 4), vacuum=8.0, orthogonal=False)
    slab.rattle(0.1, seed=4)
    particle = Octahedron("Al", 5, cutoff=1)
    particle.center(vacuum=6.0)
    particle.rattle(0.1, seed=5)
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (3, 3, 3)
    salt.rattle(0.1, seed=6)
    return {
        "bulk": (lithium(), "p p p"),
        "triclinic": (triclinic, "p p p"),
        "slab": (slab, "p p f"),
        "particle": (particle, "f f f"),
        "salt": (salt, "p p p"),
    }


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi), pytest.param(4, marks=pytest.mark.mpi)])
def test_u_is_that_of_python(ranks: int, lammps: Run, tmp_path: Path) -> None:
    script, expected = "", {}
    for name, (atoms, boundary) in structures().items():
        species = sorted(set(atoms.get_chemical_symbols()))
        training = atoms.copy()
        training.rattle(0.05, seed=9)
        state = learned(species, [training], tmp_path / f"{name}.safetensors")
        pbc = [letter == "p" for letter in boundary.split()]
        atoms.set_pbc(pbc)
        write_lammps_data(
            tmp_path / f"{name}.data", atoms, masses=True, specorder=species, reduce_cell=name == "triclinic"
        )
        expected[name] = state.atomic(atoms)
        words = f"{name}.safetensors {' '.join(species)}"
        script += setup(name, boundary, "zero 6.0", "") + (
            f"fix u all ideal 1 {words}\n"
            f"compute u all ideal/uncertainty/atom {words}\n"
            f"dump d all custom 1 {name}.dump id f_u c_u\n"
            "dump_modify d format float %.17g sort id\n"
            "thermo_style custom step f_u[1] f_u[2] f_u[3] f_u[4]\nthermo_modify format float %.17g\nrun 0\n"
        )
    output = lammps(script, ranks)
    rows = [line.split() for line in output.splitlines() if line.split()[:1] == ["0"] and len(line.split()) == 5]
    assert len(rows) == len(expected)
    for row, (name, u) in zip(rows, expected.items(), strict=True):
        columns = dumped(tmp_path / f"{name}.dump", 0)
        assert np.array_equal(columns[:, 0], np.arange(1, len(u) + 1))
        for k in (1, 2):
            assert np.abs(columns[:, k] / u - 1).max() < 1e-10, name
        assert float(row[1]) == pytest.approx(u.max(), rel=1e-10)
        assert float(row[2]) == pytest.approx(u.mean(), rel=1e-10)
        assert int(float(row[4])) == u.argmax() + 1


@several_ranks
def test_group_and_values_that_follow_their_atoms(
    ranks: int, lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis
) -> None:
    """Only the group is evaluated, its neighbors are all atoms; values migrate with the atoms of a hot run."""
    atoms = lithium()
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    lammps(
        setup("li") + "group odd id 1:128:2\nvelocity all create 2000 1\nfix move all nve\n"
        "fix u odd ideal 10 u.safetensors Li\ncompute u odd ideal/uncertainty/atom u.safetensors Li\n"
        "dump d all custom 10 li.dump id f_u c_u\ndump_modify d format float %.17g sort id\nrun 60\n",
        ranks,
    )
    first = dumped(tmp_path / "li.dump", 0)[:, 1]
    assert np.allclose(first[::2], uncertainty.atomic(atoms)[::2], rtol=1e-10)
    assert not first[1::2].any()
    last = dumped(tmp_path / "li.dump", 60)
    assert np.array_equal(last[:, 1], last[:, 2])
    assert not np.allclose(last[::2, 1], first[::2])


@several_ranks
def test_dump_holds_neighborhoods_that_can_be_embedded(
    ranks: int, lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis
) -> None:
    """Each frame has the atom first, its surroundings as they are, and Python's u for it."""
    atoms = lithium(8, 0.1, seed=7)
    atoms.positions[300] += [0.5, 0.2, 0]
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    output = lammps(
        setup("li", pair="zero 6.0", coefficients="")
        + "fix u all ideal 1 u.safetensors Li threshold 2.0 dump near.extxyz radius 10 most 3 apart 5\nrun 1\n",
        ranks,
    )
    u = uncertainty.atomic(atoms)
    frames = read(tmp_path / "near.extxyz", ":")
    assert "3 neighborhoods appended to near.extxyz" in output
    assert len(frames) == 3
    assert frames[0].info["center_id"] == u.argmax() + 1
    centers = [frame.info["center_id"] - 1 for frame in frames]
    distances = atoms.get_all_distances(mic=True)[np.ix_(centers, centers)]
    assert distances[np.triu_indices(3, 1)].min() > 5
    assert np.all(np.diff(u[centers]) <= 0)
    for frame, center in zip(frames, centers, strict=True):
        assert frame.arrays["id"][0] == center + 1
        assert uncertainty.atomic(frame)[0] == pytest.approx(u[center], rel=1e-7)
        assert frame.arrays["u"][0] == pytest.approx(u[center], rel=1e-7)
        assert np.allclose(frame.arrays["u"], u[frame.arrays["id"] - 1], rtol=1e-7)
        assert np.allclose(frame.cell.lengths(), 21)
        inside = np.abs(frame.positions - frame.positions[0]).max()
        assert 8 < inside <= 10


def test_dump_keeps_short_and_open_axes_whole(lammps: Run, tmp_path: Path) -> None:
    slab = structures()["slab"][0]
    state = learned(["Al"], [slab], tmp_path / "u.safetensors")
    slab.rattle(0.2, seed=3)
    slab.set_pbc([True, True, False])
    write_lammps_data(tmp_path / "al.data", slab, masses=True, reduce_cell=False)
    lammps(
        setup("al", "p p f", "zero 6.0", "")
        + "fix u all ideal 1 u.safetensors Al threshold 1 dump near.extxyz most 1\nrun 1\n"
    )
    frame = read(tmp_path / "near.extxyz")
    assert len(frame) == len(slab)
    assert frame.pbc.tolist() == [True, True, False]
    assert np.allclose(frame.cell.cellpar(), slab.cell.cellpar())
    assert np.allclose(state.atomic(frame), state.atomic(slab)[frame.arrays["id"] - 1], rtol=1e-6)


HOT = "velocity all create 300 1\nfix move all nve\nthermo 1\n"
COUNTED = "thermo_style custom step f_u[5]\n"


@several_ranks
def test_halt_stops_the_run(ranks: int, lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(), masses=True)
    watch = "fix u all ideal 5 u.safetensors Li threshold 0.5 halt {}\n"
    script = setup("li") + HOT + watch + "run 50\nprint 'after $(step)'\nrun 50\nprint 'then $(step)'\n"
    output = lammps(script.replace("{}", "soft"), ranks)
    assert "fix ideal: step 5: u = " in output
    assert "after 5" in output
    assert "then 5" in output  # as with fix halt, later runs are skipped
    output = lammps(script.replace("{}", "continue"), ranks)
    assert "after 5" in output
    assert "then 10" in output
    assert "fix ideal: step 5: u = " in lammps(script.replace("{}", "hard"), ranks, fails=True)
    assert "after 50" in lammps(script.replace(" halt {}", ""), ranks)


def test_min_steps_and_restart(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    """Steps between triggers are counted on through a restart."""
    write_lammps_data(tmp_path / "li.data", lithium(), masses=True)
    watch = "fix u all ideal 2 u.safetensors Li threshold 0.5 min_steps 6\n" + COUNTED

    def triggered(output: str) -> list[int]:
        return [int(line.split()[3][:-1]) for line in output.splitlines() if line.startswith("fix ideal: step")]

    assert triggered(lammps(setup("li") + HOT + watch + "run 10\nwrite_restart li.restart\n")) == [2, 8]
    again = setup("li").replace("read_data li.data", "read_restart li.restart").replace("atom_modify map yes\n", "")
    output = lammps(again + HOT.replace("velocity all create 300 1\n", "") + watch + "run 10\n")
    assert triggered(output) == [14, 20]
    assert output.split("Loop time")[0].split()[-1] == "4"  # triggers since the beginning


def test_a_clock_set_back_does_not_blind_the_fix(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(), masses=True)
    watch = "fix u all ideal 2 u.safetensors Li threshold 0.5 min_steps 20\n"
    output = lammps(setup("li") + HOT + watch + "reset_timestep 100\nrun 4\nreset_timestep 0\nrun 4\n")
    assert "fix ideal: step 102: u = " in output
    assert "fix ideal: step 2: u = " in output


@several_ranks
def test_of_equal_atoms_the_lowest_id_is_named(
    ranks: int, lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis
) -> None:
    """Two lone atoms, the first of them on the second rank."""
    atoms = Atoms("Li2", [[35, 5, 5], [5, 5, 5]], cell=[40, 10, 10], pbc=False)
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    output = lammps(
        setup("li", "f f f") + "fix u all ideal 1 u.safetensors Li\nthermo_style custom step f_u[4]\nrun 0\n", ranks
    )
    assert [line.split()[1] for line in output.splitlines() if line.split()[:1] == ["0"]][-1] == "1"


def test_another_state_in_place(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    atoms = lithium()
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    wider = learned(["Li"], [lithium(4, 0.3, seed=5)], tmp_path / "wider.safetensors")
    output = lammps(
        setup("li") + "fix u all ideal 1 u.safetensors Li\nthermo_style custom step f_u\n"
        "thermo_modify format float %.12g\nrun 0\nfix_modify u state wider.safetensors threshold 3\nrun 0\n"
    )
    values = [
        float(line.split()[1]) for line in output.splitlines() if line.split()[:1] == ["0"] and len(line.split()) == 2
    ]
    assert values == pytest.approx([uncertainty.atomic(atoms).max(), wider.atomic(atoms).max()], rel=1e-9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("10 u.safetensors", "one element for each of the 1 atom types"),
        ("0 u.safetensors Li", "N = 0; give the steps between two checks"),
        ("10 nothing.safetensors Li", "cannot read 'nothing.safetensors'"),
        ("10 . Li", "cannot read '.'"),
        ("10 li.data Li", "li.data"),
        ("10 u.safetensors lI", "'lI' (atom type 1) is not a chemical symbol"),
        ("10 u.safetensors Na", "Na (atom type 1) is unknown to 'u.safetensors', which knows Li"),
        ("10 u.safetensors Li teach localhost:1", "unknown keyword 'teach'; known: threshold, halt"),
        ("10 u.safetensors Li threshold -1", "threshold -1; give a positive number"),
        ("10 u.safetensors Li threshold", "keyword 'threshold' needs a value"),
        ("10 u.safetensors Li threshold 2 halt now", "halt 'now' is none of none, hard, soft, continue"),
        ("10 u.safetensors Li halt soft", "need a threshold"),
        ("10 u.safetensors Li\nfix_modify u halt soft", "need a threshold"),
        ("10 u.safetensors Li threshold 1 radius 9", "radius needs dump FILE or learn HOST:PORT before it"),
        ("1 u.safetensors Li threshold 0.1 dump missing/n.extxyz", "cannot write 'missing/n.extxyz'"),
    ],
)
def test_errors_say_what_to_do(
    words: str, message: str, lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis
) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(3), masses=True)
    output = lammps(setup("li") + f"fix u all ideal {words}\nrun 1\n", fails=True)
    assert message in " ".join(output.split())


def test_ghosts_that_reach_too_short_are_refused(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(3), masses=True)
    script = setup("li").replace("comm_modify cutoff 9.5\n", "") + "fix u all ideal 1 u.safetensors Li\nrun 1\n"
    output = " ".join(lammps(script, fails=True).split())
    remedy = output.partition("add: comm_modify cutoff ")[2].split()[0]
    assert remedy == f"{uncertainty.soap.support + 2.005:.4g}"
    lammps(script.replace("fix u", f"comm_modify cutoff {remedy}\nfix u"))


def test_units_without_angstrom_are_refused(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    write_lammps_data(tmp_path / "li.data", lithium(3), masses=True)
    script = setup("li").replace("units metal", "units lj") + "fix u all ideal 1 u.safetensors Li\n"
    assert "not in units lj" in lammps(script, fails=True)


def test_coincident_atoms_stop_the_run(lammps: Run, tmp_path: Path, uncertainty: SoapMahalanobis) -> None:
    atoms = lithium(3)
    atoms.positions[4] = atoms.positions[5]
    write_lammps_data(tmp_path / "li.data", atoms, masses=True)
    output = lammps(
        setup("li", pair="zero 6.0", coefficients="") + "fix u all ideal 1 u.safetensors Li\nrun 1\n", fails=True
    )
    assert "coincide" in output
