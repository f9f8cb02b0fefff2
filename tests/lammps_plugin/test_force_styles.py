"""The force-style tests in LAMMPS' YAML form (``csrc/lammps/unittest``), checked as LAMMPS' ``test_pair_style`` checks
them: energy, virial and forces at the start and behind four steps, number by number, relative to the smaller of two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from .conftest import Run
from .test_fix_ideal import dumped

FOLDER = Path(__file__).parents[2] / "csrc" / "lammps" / "unittest"
FILES = sorted(FOLDER.glob("*.yaml"))
PRESSURE = {"metal": 1.6021765e6, "real": 68568.415}  # LAMMPS' pressure of an energy per Å^3
REQUIRED = {
    "lammps_version",
    "date_generated",
    "epsilon",
    "prerequisites",
    "pre_commands",
    "post_commands",
    "input_file",
}
REQUIRED |= {"pair_style", "pair_coeff", "extract", "natoms"}
REQUIRED |= {f"{when}_{what}" for when in ("init", "run") for what in ("vdwl", "coul", "stress", "forces")}
OUTPUT = """
thermo_style custom step vol evdwl c_virial[1] c_virial[2] c_virial[3] c_virial[4] c_virial[5] c_virial[6]
thermo_modify format float %.17g norm no
"""


def lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def script(case: dict[str, Any]) -> str:
    """What the tester does, and output of what it compares."""
    commands = ["clear", "plugin load PLUGIN", "variable newton_pair index on", f"variable input_dir index {FOLDER}"]
    commands += [*lines(case["pre_commands"]), f"include {FOLDER / case['input_file']}"]
    commands += [f"pair_style {case['pair_style']}"] + [f"pair_coeff {line}" for line in lines(case["pair_coeff"])]
    commands += lines(case["post_commands"])
    commands += ["compute virial all pressure NULL pair", "thermo 4", *lines(OUTPUT)]
    commands += ["dump d all custom 4 forces.dump id fx fy fz", "dump_modify d sort id format float %.17g"]
    return "\n".join([*commands, "run 0 post no", "fix 1 all nve", "run 4 post no"]) + "\n"


def values(output: str, step: int, units: str) -> tuple[float, np.ndarray]:
    """Energy and virial (xx yy zz xy xz yz), energy units, of the last line of a step."""
    rows = [line.split() for line in output.splitlines() if line.split()[:1] == [str(step)] and len(line.split()) == 9]
    row = np.array(rows[-1], dtype=float)
    return row[2], row[3:] * row[1] / PRESSURE[units]


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    """The tester's error: relative to the smaller one, absolute where that is zero."""
    smaller = np.minimum(abs(found), abs(expected))
    difference = abs(found - expected)
    return float(np.max(np.where(smaller == 0, difference, difference / np.where(smaller == 0, 1, smaller))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_have_what_the_tester_reads(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    assert case.keys() >= REQUIRED
    for name in ("init", "run"):
        assert len(lines(case[f"{name}_forces"])) == case["natoms"]
        assert len(case[f"{name}_stress"].split()) == 6


def test_there_are_cases_of_both_units_and_hybrid() -> None:
    assert {"pair-ideal", "pair-ideal-real", "pair-ideal-hybrid"} <= {path.stem for path in FILES}


@pytest.mark.lammps
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_style_gives_the_reference(path: Path, lammps: Run, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    output = lammps(script(case))
    units = "real" if "real" in case["pre_commands"] else "metal"
    for name, step in (("init", 0), ("run", 4)):
        energy, virial = values(output, step, units)
        forces = dumped(tmp_path / "forces.dump", step)[:, 1:]
        expected = np.array([line.split()[1:] for line in lines(case[f"{name}_forces"])], dtype=float)
        assert worst(np.array([energy]), np.array([case[f"{name}_vdwl"]])) < float(case["epsilon"])
        assert worst(virial, np.array(case[f"{name}_stress"].split(), dtype=float)) < float(case["epsilon"])
        assert worst(forces, expected) < float(case["epsilon"])
        assert abs(forces - expected).max() < 2e-6 * abs(expected).max()  # all of them together: float32's rounding
