"""Eight cells of H, C, N, O and Si labelled by GPAW, Quantum ESPRESSO and CP2K with matched settings: do they agree?

    python benchmarks/codes_eight_cells.py --work FOLDER --output table.md

PBE, Fermi smearing 0.1 eV, the same k-points; every code near its basis-set limit. What is left are the
pseudopotentials (GPAW's PAW, the PAW and ultrasoft files of Debian's Quantum ESPRESSO, GTH) and CP2K's triple-zeta
basis.

The tolerances below were written before the first run. Positions are displaced by 0.08 Å, so that an error of the
equilibrium bond length by d changes forces by d / 0.08 Å of their size. Equilibrium lengths of one functional differ
among good pseudopotentials by up to 0.1 % (0.002 Å a bond: 3 % of these forces), and by up to 0.3 % with the valence
basis of CP2K (5 %). For the stress of a solid the same lengths mean 3 B times 0.1 % or 0.3 %, B the bulk modulus; the
molecules fill a fraction of their cells, where 0.3 GPa is what the same forces amount to in the virial.

Finished results are kept in --work and not calculated again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import GPa

from ideal.config import CodeSection, Cp2kConfig, EspressoConfig, GpawConfig
from ideal.errors import IdealError
from ideal.labelling.codes import make_code

RATTLE, STRAIN, KPOINTS, BOX = 0.08, 0.03, 6.0, 6.0
PSEUDO_DIR = Path("/usr/share/espresso/pseudo")
PSEUDOPOTENTIALS = {
    "H": "H.pbe-kjpaw.UPF",
    "C": "C.pbe-n-kjpaw_psl.0.1.UPF",
    "N": "N.pbe-n-kjpaw_psl.1.0.0.UPF",
    "O": "O.pbe-rrkjus.UPF",
    "Si": "Si.pbe-nl-rrkjus_psl.1.0.0.UPF",
}
CODES: dict[str, CodeSection] = {
    "GPAW": GpawConfig(cutoff=900, kpoint_length=KPOINTS, density_tolerance=1e-5),
    "Quantum ESPRESSO": EspressoConfig(
        pseudo_dir=PSEUDO_DIR,
        pseudopotentials=PSEUDOPOTENTIALS,
        ecutwfc="60 rydberg",
        ecutrho="600 rydberg",
        conv_thr=1e-9,
        kpoint_length=KPOINTS,
    ),
    "CP2K": Cp2kConfig(basis="TZV2P-MOLOPT-GTH", cutoff="500 rydberg", rel_cutoff="60 rydberg", kpoint_length=KPOINTS),
}
FORCE_TOLERANCE = {"Quantum ESPRESSO": 0.03, "CP2K": 0.05}
"""Largest root mean square of the force differences from GPAW, as a fraction of that of the forces."""
STRAIN_TOLERANCE = {"Quantum ESPRESSO": 0.001, "CP2K": 0.003}
"""Largest stress difference of a solid, over 3 B."""
MOLECULE_STRESS = 0.3
BULK_MODULUS = {"Si": 89.0, "SiC": 212.0, "C": 434.0}
"""GPa, PBE (doi:10.1103/PhysRevB.79.085104)."""


class Cell(NamedTuple):
    """A structure and the stress tolerance of each code in GPa."""

    name: str
    atoms: Atoms
    stress: dict[str, float]


def cells() -> list[Cell]:
    """Three solids of two atoms, strained by up to 3 %, and five molecules in boxes of 6 Å; all displaced."""
    rng = np.random.default_rng(2026)
    found = []
    solids = {
        "Si": bulk("Si"),
        "SiC": bulk("SiC", "zincblende", a=4.38),
        "C": bulk("C", "diamond", a=3.57),
    }
    for name, atoms in solids.items():
        atoms.positions += rng.normal(0, RATTLE, atoms.positions.shape)
        strain = np.eye(3) + rng.uniform(-STRAIN, STRAIN, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        found.append(Cell(name, atoms, {c: 3 * BULK_MODULUS[name] * s for c, s in STRAIN_TOLERANCE.items()}))
    for name in ("H2O", "NH3", "CH4", "CO2", "HCN"):
        atoms = molecule(name, cell=[BOX] * 3, pbc=True)
        atoms.positions += 0.5 * BOX + rng.normal(0, RATTLE, atoms.positions.shape)
        found.append(Cell(name, atoms, dict.fromkeys(STRAIN_TOLERANCE, MOLECULE_STRESS)))
    return found


def calculate(config: CodeSection, atoms: Atoms) -> dict[str, Any]:
    """Energy, forces, stress (eV, Å) and process seconds of one label."""
    start, spent = time.perf_counter(), os.times()
    code = make_code(config)
    with tempfile.TemporaryDirectory() as folder:
        result = code.compute(atoms, Path(folder))
    end = os.times()
    cpu = sum(getattr(end, name) - getattr(spent, name) for name in ("user", "system", "children_user"))
    return {
        "version": code.settings["version"],
        "energy": result.energy,
        "forces": result.forces.tolist(),
        "stress": None if result.stress is None else result.stress.tolist(),
        "cpu": cpu,
        "wall": time.perf_counter() - start,
    }


def row(cell: Cell, name: str, result: dict[str, Any], reference: dict[str, Any]) -> tuple[str, bool]:
    """One line of the table, and whether forces and stress are within their tolerances."""
    forces, expected = np.array(result["forces"]), np.array(reference["forces"])
    change = float(np.sqrt(((forces - expected) ** 2).mean()))
    size = float(np.sqrt((expected**2).mean()))
    largest = float(np.abs(forces - expected).max())
    stress = np.abs(np.array(result["stress"]) - np.array(reference["stress"])).max() / GPa
    good = change <= FORCE_TOLERANCE[name] * size and stress <= cell.stress[name]
    columns = [
        cell.name,
        name,
        f"{size:.2f}",
        f"{1e3 * change:.0f} ({100 * change / size:.1f} %)",
        f"{1e3 * largest:.0f}",
        f"{100 * FORCE_TOLERANCE[name]:.0f} %",
        f"{stress:.2f}",
        f"{cell.stress[name]:.2f}",
        "yes" if good else "**no**",
        f"{result['cpu']:.0f}",
    ]
    return f"| {' | '.join(columns)} |", good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of finished results")
    parser.add_argument("--output", type=Path, help="write the table here")
    parser.add_argument("--codes", nargs="*", default=list(CODES), help="calculate these; the table takes all")
    parser.add_argument("--cells", nargs="*", help="calculate these; none: all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    everything = cells()
    for name in arguments.codes:
        for cell in everything:
            file = arguments.work / f"{name.split()[-1]}-{cell.name}.json"
            if file.is_file() or (arguments.cells and cell.name not in arguments.cells):
                continue
            try:
                result = calculate(CODES[name], cell.atoms)
            except IdealError as error:
                print(f"{name}, {cell.name}: {error}", flush=True)
                continue
            file.write_text(json.dumps(result))
            print(f"{name}, {cell.name}: {result['cpu']:.0f} CPU s", flush=True)
    lines, verdicts, versions = [], [], {}
    for cell in everything:
        files = {name: arguments.work / f"{name.split()[-1]}-{cell.name}.json" for name in CODES}
        results = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
        versions |= {name: result["version"] for name, result in results.items()}
        for name, result in results.items():
            if name != "GPAW" and "GPAW" in results:
                line, good = row(cell, name, result, results["GPAW"])
                lines.append(line)
                verdicts.append(good)
    head = (
        "| cell | code | F (eV/Å, rms) | ΔF rms (meV/Å) | ΔF largest | tolerance | Δ stress, largest (GPa) | tolerance "
        "| within | CPU s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = "\n".join([head, *lines, "", f"{sum(verdicts)} of {len(verdicts)} rows within both tolerances ({found})."])
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
