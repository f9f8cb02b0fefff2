"""The same metal in cells of different sizes, at the same k-point length: how far apart are the energies per atom?

    python benchmarks/kpoint_scatter.py --lengths 12 24

Body-centered aluminium, ABINIT, GTH, 130 eV, Fermi smearing 0.2 eV. ``--gamma`` centers every grid on Gamma instead of
shifting the even ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase.build import bulk

import ideal.labelling.codes.abinit as adapter
from ideal.config import AbinitConfig
from ideal.labelling.convergence import cell_sizes

DATA = Path(__file__).parents[1] / "tests" / "labelling" / "data"
REPEATS = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 1, 3), (1, 1, 4), (1, 2, 3), (1, 1, 5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=float, nargs="+", default=[12.0, 24.0])
    parser.add_argument("--cells", type=int, default=len(REPEATS))
    parser.add_argument("--gamma", action="store_true")
    arguments = parser.parse_args()
    if arguments.gamma:
        adapter.kpoint_shift = lambda grid: (0, 0, 0)
    atoms = bulk("Al", "bcc", a=3.24, cubic=True)
    for length in arguments.lengths:
        config = AbinitConfig(
            pseudo_dir=DATA,
            pseudopotentials={"Al": "Al.pbe.gth"},
            cutoff=130,
            smearing=0.2,
            tolerance=1e-6,
            kpoint_length=length,
        )
        energies = []
        for point in cell_sizes(config, atoms, REPEATS[: arguments.cells]):
            print(
                f"{length:g} Å: {point.value:.0f} atoms, {point.detail}: {point.energy} eV/atom {point.cause}",
                flush=True,
            )
            if point.energy is not None:
                energies.append(1e3 * point.energy)
        print(
            f"{length:g} Å: range {np.ptp(energies):.2f}, standard deviation {np.std(energies):.2f} meV/atom",
            flush=True,
        )


if __name__ == "__main__":
    main()
