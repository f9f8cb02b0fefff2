"""The same rattled silicon cells labelled by several codes with matched settings: do they agree?

    python benchmarks/codes_agreement.py --cells 8 --output docs/benchmarks/codes.md

PBE, Fermi smearing 0.1 eV, the same shifted 2x2x2 k-points; Quantum ESPRESSO, ABINIT and CP2K with the same GTH
pseudopotential (tests/labelling/data/Si.pbe.gth), GPAW with its PAW setup. Energies are compared after their mean over
the cells is taken off, since absolute energies differ between pseudopotentials. ABINIT is the reference of the table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from ideal.config import AbinitConfig, CodeSection, Cp2kConfig, EspressoConfig, GpawConfig
from ideal.errors import IdealError
from ideal.labelling.codes import make_code

DATA = Path(__file__).parents[1] / "tests" / "labelling" / "data"
GTH = {"pseudo_dir": DATA, "pseudopotentials": {"Si": "Si.pbe.gth"}}
KPOINTS = 6.0
CODES: dict[str, CodeSection] = {
    "ABINIT, GTH, 800 eV": AbinitConfig(**GTH, cutoff=800, kpoint_length=KPOINTS),
    "Quantum ESPRESSO, GTH, 800 eV": EspressoConfig(**GTH, ecutwfc=800, kpoint_length=KPOINTS, conv_thr=1e-10),
    "CP2K, GTH, DZVP-MOLOPT-SR, 300 Ry": Cp2kConfig(cutoff=4082, rel_cutoff=680, kpoint_length=KPOINTS),
    "GPAW, PAW, 500 eV": GpawConfig(cutoff=500, kpoint_length=KPOINTS, density_tolerance=1e-5),
}


def cells(count: int) -> list[Atoms]:
    """Two-atom silicon cells, displaced by 0.08 Å and strained by up to 3 %."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        atoms = bulk("Si")
        atoms.positions += rng.normal(0, 0.08, (2, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
        found.append(atoms)
    return found


def _rms_and_largest(change: np.ndarray) -> str:
    return "none" if np.isnan(change).all() else f"{np.sqrt((change**2).mean()):.2f} / {np.abs(change).max():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    structures = cells(arguments.cells)
    table, reference = [], None
    for name, config in CODES.items():
        start = time.process_time(), time.perf_counter()
        try:
            code = make_code(config)
            with tempfile.TemporaryDirectory() as folder:
                results = [code.compute(atoms, Path(folder)) for atoms in structures]
        except IdealError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        energies = np.array([result.energy / len(atoms) for result, atoms in zip(results, structures, strict=True)])
        energies -= energies.mean()
        forces = np.concatenate([result.forces for result in results])
        stress = np.array([[np.nan] * 6 if result.stress is None else result.stress for result in results])
        if reference is None:
            reference = energies, forces, stress
        changes = [1e3 * (energies - reference[0]), 1e3 * (forces - reference[1]), (stress - reference[2]) / GPa]
        numbers = [_rms_and_largest(change) for change in changes]
        seconds = (time.perf_counter() - start[1]) / len(structures)
        table.append(f"| {name} | {code.settings['version']} | {' | '.join(numbers)} | {seconds:.0f} |")
        print(table[-1], flush=True)
    text = "\n".join(
        [
            f"| code | version | E (meV/atom), {len(structures)} cells | F (meV/Å) | stress (GPa) | s per cell |",
            "| --- | --- | --- | --- | --- | --- |",
            *table,
        ]
    )
    if arguments.output:
        arguments.output.write_text(
            "# Codes against each other\n\n`python benchmarks/codes_agreement.py`: "
            + " ".join((__doc__ or "").split("\n\n")[2].split())
            + " Root mean square / largest difference from the first row.\n\n"
            + text
            + "\n"
        )


if __name__ == "__main__":
    main()
