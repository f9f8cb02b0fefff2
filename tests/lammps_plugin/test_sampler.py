"""LAMMPS as a sampler: against ASE's dynamics, its own uninterrupted run, and what can go wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import BaseCalculator
from ase.calculators.lammps import Prism
from ase.io import read

from ideal.config import LammpsSamplerConfig, MolecularDynamicsConfig, load_config
from ideal.errors import ConfigError, SamplerError
from ideal.models.calculator import IdealCalculator
from ideal.models.m3gnet import M3GNetPotential
from ideal.samplers import MolecularDynamics
from ideal.samplers.lammps import LammpsSampler
from ideal.samplers.velocities import draw_velocities
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .test_fix_ideal import learned, lithium, structures
from .test_pair_ideal import network

pytestmark = pytest.mark.lammps
several_ranks = pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])

EXAMPLE = Path(__file__).parents[2] / "examples" / "lammps_sampler"
NVE = "units metal\nread_data ${data}\nfix move all nve\ntimestep 0.002\nthermo 10\n"
HOT = NVE.replace("fix", "velocity all create 900 ${seed}\nfix")
LJ = "pair_style lj/cut 6.0\npair_coeff * * 0.05 2.6\n"

Make = Callable[..., LammpsSampler]


def calculator_of(species: list[str], path: Path, **options: int) -> IdealCalculator:
    """A random model in float32, as runs have it."""
    network(species, path, **options)
    return IdealCalculator(M3GNetPotential.load(path, device="cpu"))


@pytest.fixture
def model(tmp_path: Path) -> IdealCalculator:
    return calculator_of(["Li"], tmp_path / "model")


@pytest.fixture
def uncertainty(tmp_path: Path) -> SoapMahalanobis:
    return learned(["Li"], [lithium(3, 0.1, seed=2)], tmp_path / "u.safetensors")


@pytest.fixture
def make(plugin: Path, tmp_path: Path, model: IdealCalculator, uncertainty: SoapMahalanobis) -> Iterator[Make]:
    """Make a sampler of a script; ended with the test."""
    made: list[LammpsSampler] = []

    def make(
        script: str,
        atoms: Atoms | None = None,
        calculator: BaseCalculator | None = None,
        known: SoapMahalanobis | None = None,
        max_force: float = 1e3,
        **options: Any,
    ) -> LammpsSampler:
        (tmp_path / "in.lammps").write_text(script)
        config = LammpsSamplerConfig(input=tmp_path / "in.lammps", plugin=plugin, **{"steps": 60, **options})
        sampler = LammpsSampler(
            lithium(3, 0.1) if atoms is None else atoms,
            calculator or model,
            config,
            seed=5,
            max_force=max_force,
            uncertainty=known or uncertainty,
            folder=tmp_path / f"work {len(made)}",
        )
        made.append(sampler)
        return sampler

    yield make
    for sampler in made:
        sampler.close()


def same(first: LammpsSampler, second: LammpsSampler) -> bool:
    """Bit by bit."""
    a, b = first.atoms, second.atoms
    return np.array_equal(a.positions, b.positions) and np.array_equal(a.get_momenta(), b.get_momenta())


# --- physics ----------------------------------------------------------------------------------------------------------


def test_constant_energy_is_that_of_ase(make: Make, model: IdealCalculator) -> None:
    """40 steps of velocity Verlet; positions stay unwrapped while atoms cross the faces of the box."""
    atoms = lithium(2, 0.1)
    atoms.positions -= 0.3  # some atoms are outside at once
    draw_velocities(atoms, 3000.0, 3 * len(atoms) - 3, np.random.default_rng(1), without_rotation=False)
    sampler = make(NVE, atoms, steps=40)
    reference = MolecularDynamics(
        atoms, model, MolecularDynamicsConfig(ensemble="nve", timestep=2.0, steps=40), seed=0, max_force=1e3
    )
    assert sampler.temperature == pytest.approx(3000.0)
    sampler.advance(40)
    reference.advance(40)
    assert sampler.finished
    assert sampler.time_fs == pytest.approx(reference.time_fs)
    assert np.abs(sampler.atoms.positions - reference.atoms.positions).max() < 1e-4
    assert sampler.atoms.get_potential_energy() == pytest.approx(reference.atoms.get_potential_energy(), abs=2e-4)
    assert np.abs(sampler.atoms.get_forces() - reference.atoms.get_forces()).max() < 1e-3
    kinetic = sampler.atoms.get_kinetic_energy()
    assert kinetic == pytest.approx(reference.atoms.get_kinetic_energy(), rel=1e-5)
    assert sampler.temperature == pytest.approx(reference.temperature, rel=1e-5)


@several_ranks
@pytest.mark.parametrize("units", ["metal", "real"])
def test_what_a_check_sees(ranks: int, units: str, make: Make, uncertainty: SoapMahalanobis) -> None:
    """u, energies and volume are those of Python, without a frame; the frame has them, too."""
    sampler = make(
        HOT.replace("metal", units).replace("0.002", "0.002" if units == "metal" else "2.0"),
        lithium(3, 0.1),
        ranks=ranks,
    )
    for _ in range(2):
        seen = sampler.observe(uncertainty)
        assert sampler._frame is None or sampler._frame[0] != sampler.step
        atoms = sampler.atoms
        assert np.abs(seen.u / uncertainty.atomic(atoms) - 1).max() < 1e-10
        assert seen.kinetic_energy == pytest.approx(atoms.get_kinetic_energy(), rel=1e-6)
        assert seen.volume == pytest.approx(atoms.get_volume())
        assert atoms.get_potential_energy() == seen.potential_energy
        expected = IdealCalculator(sampler._calculator.potential)
        assert seen.potential_energy == pytest.approx(expected.get_potential_energy(atoms), rel=1e-6)
        assert np.abs(atoms.get_forces() - expected.get_forces(atoms)).max() < 1e-5
        sampler.advance(20)
    assert sampler.time_fs == pytest.approx(40.0 + 0.0 if sampler.step == 20 else 80.0)


def test_any_cell_and_open_axes(make: Make, tmp_path: Path) -> None:
    """A turned triclinic cell and a slab: distances, u, energy are those of the structure."""
    triclinic = bulk("Al", "fcc", a=4.05) * (4, 4, 4)
    triclinic.rotate(40, (1, 2, 3), rotate_cell=True)
    triclinic.rattle(0.1, seed=4)
    slab = structures()["slab"][0]
    slab.set_pbc([True, True, False])
    calculator = calculator_of(["Al"], tmp_path / "aluminum")
    known = learned(["Al"], [fcc111("Al", (4, 4, 4), vacuum=8.0)], tmp_path / "al.safetensors")
    for atoms in (triclinic, slab):
        sampler = make(NVE, atoms, calculator, known)
        seen = sampler.observe(known)
        assert np.allclose(seen.u, known.atomic(atoms), rtol=1e-8)
        assert seen.potential_energy == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-6)
        assert np.array_equal(sampler.atoms.pbc, atoms.pbc)
        assert np.allclose(
            sampler.atoms.get_distances(0, range(9), mic=True), atoms.get_distances(0, range(9), mic=True)
        )
        turned = Prism(atoms.cell.array).vector_to_lammps(calculator.get_forces(atoms))
        assert np.abs(sampler.atoms.get_forces() - turned).max() < 1e-5


def test_atom_types_follow_the_list(make: Make, tmp_path: Path) -> None:
    salt = structures()["salt"][0]
    calculator = calculator_of(["Cl", "Na"], tmp_path / "salt")
    known = learned(["Cl", "Na"], [salt], tmp_path / "salt.safetensors")
    sampler = make(NVE, salt, calculator, known, elements=["Na", "Cl"])
    assert np.allclose(sampler.observe(known).u, known.atomic(salt), rtol=1e-8)
    assert np.array_equal(sampler.atoms.numbers, salt.numbers)
    assert sampler.atoms.get_potential_energy() == pytest.approx(calculator.get_potential_energy(salt), rel=1e-6)


def test_fixed_atoms_stay(make: Make) -> None:
    sampler = make(HOT, steps=20, fix_atoms=[0, 1, 2, 7])
    start = sampler.atoms.positions.copy()
    sampler.advance(20)
    moved = np.abs(sampler.atoms.positions - start).max(axis=1)
    assert not moved[[0, 1, 2, 7]].any()
    assert moved[3:7].all()
    assert sampler.atoms.constraints[0].get_indices().tolist() == [0, 1, 2, 7]


@pytest.mark.mpi
def test_a_rank_without_atoms(make: Make, uncertainty: SoapMahalanobis) -> None:
    atoms = lithium(2, 0.1)
    atoms.cell[2, 2] = 60.0
    sampler = make(
        "processors 1 1 2\n" + HOT.replace("all nve", "all nve\nfix stay all setforce 0 0 0"), atoms, ranks=2
    )
    sampler.advance(5)
    assert np.allclose(sampler.observe(uncertainty).u, uncertainty.atomic(sampler.atoms), rtol=1e-8)
    assert len(sampler.atoms) == len(atoms)


# --- scripts ----------------------------------------------------------------------------------------------------------

STAGES = """
units metal
variable hot index 500
read_data ${data}
region bottom block INF INF INF INF INF 2.0 units box
group cold region bottom      # as they lie at the start
group warm subtract all cold
velocity warm create ${hot} ${seed}
timestep 0.002
thermo 10
fix move warm nvt temp 500 1500 0.05
compute mobile warm temp
thermo_modify temp mobile
run 30
fix slow warm &
    nve/limit 0.05
unfix move
fix widen all deform 1 x scale 1.05 y scale 1.05
run 20
write_data last.data
"""


@several_ranks
def test_stages_ramps_regions(ranks: int, make: Make, tmp_path: Path) -> None:
    """Each run of a script is driven with its own fixes, and the whole can be taken up again amid each."""
    whole = make(STAGES, ranks=ranks, variables={"hot": 600})
    start = whole.atoms.positions.copy()
    cold = start[:, 2] % whole.atoms.cell[2, 2] < 2.0
    length = whole.atoms.cell[0, 0]
    assert whole.temperature == pytest.approx(600.0)
    states = []
    for _ in range(6):
        states.append(whole.state())
        whole.advance(10)
    assert (whole.step, whole.finished) == (50, True)
    assert np.isclose(whole.atoms.cell[0, 0], 1.05 * length)
    assert (tmp_path / "work 0" / "last.data").is_file()
    for state in (states[1], states[4]):
        again = make(STAGES, ranks=ranks, variables={"hot": 600})
        again.restore(state)
        again.advance(10)  # the same stops as above: taking a state has LAMMPS build its lists anew
        while not again.finished:
            again.state()
            again.advance(10)
        if ranks == 1:
            assert same(again, whole)
        else:  # atoms of a box that has changed may come in another order
            assert np.abs(again.atoms.positions - whole.atoms.positions).max() < 1e-6
    early = make(STAGES, ranks=ranks, steps=30, variables={"hot": 600})
    early.advance(30)
    assert early.finished
    relative = early.atoms.positions[cold] - start[cold]
    assert not relative.any()  # integrated by no fix until the box is widened


@pytest.mark.parametrize("run", ["", "run 60\n"])
def test_ramps_rise_over_the_whole_run(run: str, make: Make) -> None:
    """However few steps are taken at a time; without `run` it is as long as the configuration says."""
    ramp = HOT + "fix ramp all temp/rescale 1 300 900 0.0 1.0\n"
    sampler = make(ramp + run, steps=60)
    for taken, target in ((15, 450.0), (30, 600.0), (60, 900.0)):
        sampler.advance(taken - sampler.step)
        assert sampler.temperature == pytest.approx(target)


@pytest.mark.parametrize("move", ["nve", "nvt temp 900 300 0.1", "npt temp 900 900 0.1 iso 0 0 1", "langevin"])
def test_steps_may_be_taken_in_pieces(move: str, make: Make) -> None:
    if move == "langevin":
        move = "nve\nfix heat all langevin 900 900 0.1 ${seed}"
    script = HOT.replace("all nve", f"all {move}")
    whole, pieces = make(script, steps=40), make(script, steps=40)
    whole.advance(40)
    for n in (1, 6, 13, 50):
        pieces.advance(n)
    assert pieces.finished
    assert same(whole, pieces)


def test_a_script_with_a_pair_style_of_its_own(make: Make, uncertainty: SoapMahalanobis) -> None:
    """It gives way to the model, unless it is to stay; a hybrid with the model stays and follows it."""
    script = NVE.replace("fix", LJ + "fix")
    with_model = make(script).observe(uncertainty)
    assert with_model.potential_energy == make(NVE).observe(uncertainty).potential_energy
    own = make(script, pair="template").observe(uncertainty)
    assert own.potential_energy != pytest.approx(with_model.potential_energy)
    assert np.allclose(own.u, with_model.u)
    hybrid = LJ.replace("lj/cut 6.0", "hybrid/overlay ideal lj/cut 6.0").replace("* * 0.05", "* * lj/cut 0.05")
    hybrid += "pair_coeff * * ideal ${model} ${elements}\n"
    both = make(NVE.replace("fix", hybrid + "fix")).observe(uncertainty)
    assert both.potential_energy == pytest.approx(own.potential_energy + with_model.potential_energy, rel=1e-9)


def test_python_may_score_and_no_plugin_is_needed(make: Make, uncertainty: SoapMahalanobis) -> None:
    sampler = make(HOT.replace("fix", LJ + "fix", 1), pair="template", score="python")
    assert sampler._source.plugin is None
    sampler.advance(5)
    assert np.array_equal(sampler.observe(uncertainty).u, uncertainty.atomic(sampler.atoms))


def test_the_example(plugin: Path, tmp_path: Path, model: IdealCalculator, uncertainty: SoapMahalanobis) -> None:
    """Its walls stay cold, what is between them is heated, u is dumped."""
    config = load_config(EXAMPLE / "config.yaml").trajectories[0]
    atoms = read(config.structure).repeat(config.repeat)
    options = config.sampler.model_copy(update={"plugin": plugin})
    sampler = LammpsSampler(atoms, model, options, 0, max_force=1e3, uncertainty=uncertainty, folder=tmp_path)
    start = sampler.atoms.positions.copy()
    sampler.advance(50)
    moved = np.abs(sampler.atoms.positions - start).max(axis=1)
    assert np.array_equal(moved == 0, start[:, 2] <= 3.0)
    assert (tmp_path / "heating.dump").read_text().count("ITEM: TIMESTEP") == 2
    sampler.close()


# --- learning ---------------------------------------------------------------------------------------------------------


def test_new_weights_and_distribution_in_place(make: Make, uncertainty: SoapMahalanobis, tmp_path: Path) -> None:
    sampler = make(HOT)
    sampler.advance(10)
    before, atoms = sampler.observe(uncertainty), sampler.atoms.copy()
    process = sampler._session._ranks._process.pid  # type: ignore[union-attr]
    uncertainty.update(lithium(3, 0.3, seed=8))
    better = calculator_of(["Li"], tmp_path / "better", seed=4, units=24)
    sampler.set_calculator(better)
    after = sampler.observe(uncertainty)
    assert sampler.step == 10
    assert np.array_equal(sampler.atoms.positions, atoms.positions)
    assert np.allclose(after.u, uncertainty.atomic(atoms), rtol=1e-8)
    assert not np.allclose(after.u, before.u)
    assert after.potential_energy == pytest.approx(better.get_potential_energy(atoms), rel=1e-6)
    sampler.advance(10)
    assert sampler._session._ranks._process.pid == process  # type: ignore[union-attr]


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "nve",
            "nosuch",
            r"LAMMPS stopped at in.lammps, line 3: `fix move all nosuch`: Unrecognized fix style 'nosuch'",
        ),
        ("0.002", "${x}", r"line 4: `timestep \$\{x\}`: .*correct in.lammps \(log: .*log.lammps\)"),
        ("timestep", "run many\ntimestep", "line 4: `run many`: write a whole number of steps"),
    ],
)
def test_errors_name_the_line(old: str, new: str, message: str, make: Make) -> None:
    with pytest.raises((SamplerError, ConfigError), match=message):
        make(NVE.replace(old, new)).advance(1)


@several_ranks
def test_after_an_error_it_stands_at_its_last_state(ranks: int, make: Make) -> None:
    sampler = make(HOT, steps=1000, ranks=ranks)
    sampler.advance(10)
    state = sampler.state()
    positions = sampler.atoms.positions.copy()
    sampler.advance(10)
    os.killpg(sampler._session._ranks._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(SamplerError, match=r"trajectory 'md', behind step 20: LAMMPS stopped.*its process died"):
        sampler.advance(10)
    assert sampler.step == 10
    assert np.array_equal(sampler.atoms.positions, positions)
    sampler.advance(10)
    other = make(HOT, steps=1000, ranks=ranks)
    other.restore(state)
    other.advance(10)
    assert same(sampler, other)


def test_a_trajectory_that_explodes_is_refused(make: Make) -> None:
    script = NVE.replace("fix", LJ + "velocity all create 3000 1\nfix", 1).replace("0.002", "0.05")
    sampler = make(script, pair="template", steps=1000)
    with pytest.raises(SamplerError, match=r"(Lost atoms|not finite|above max_force|above max_temperature)"):
        sampler.advance(1000)
    assert sampler.step == 0


def test_limits(make: Make) -> None:
    with pytest.raises(SamplerError, match=r"behind step 5: a force is .* above max_force 1e-06 eV/Å"):
        make(HOT, max_force=1e-6).advance(5)


def test_a_state_of_other_atoms_is_refused(make: Make) -> None:
    state = make(NVE).state()
    with pytest.raises(SamplerError, match="the state is not that of these 16 atoms in LAMMPS"):
        make(NVE, lithium(2)).restore(state)
